/* Inside the tokenizer: what its files share. The way of a text:
 *
 *     text --cut (added tokens)--> spans --norm--> normal text --cut (normalized ones)--> --split--> pieces --bpe--> ids
 *
 * tokenizer_gguf.c and tokenizer_hf.c fill a struct tokenizer, tokenizer.c runs a text through it. */
#pragma once
#include "base/err.h"
#include "engine/tokenizer.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VOCAB_MAX (1 << 22)
#define TOKEN_BYTES_MAX 65536
#define ADDED_BYTES_MAX 512 /* of a special or user-defined token: what looking for them costs per byte of text */
#define NORMS_MAX 16
#define STEPS_MAX 16
#define METASPACE "\xe2\x96\x81" /* U+2581, SentencePiece's space */

/* Ids on their way out, at most `max` of them. */
struct ids {
    int32_t *id;
    size_t n, cap, max;
};

int ids_push(struct ids *o, int32_t id, struct err *e); /* beyond max: ERR_CONTEXT_LENGTH */

/* Text that grows; zeroed is empty. -1 and ERR_NO_MEMORY from the two that grow it. */
struct text {
    char *s;
    size_t n, cap;
};

int text_room(struct text *t, size_t more, struct err *e);
int text_append(struct text *t, const char *s, size_t n, struct err *e);
void text_close(struct text *t);

/* --- GPT-2's byte alphabet: each byte as a printable character (tokenizer_vocab.c) --- */

int alphabet_encode(unsigned char byte, char out[2]);        /* the length, 1 or 2 */
int64_t alphabet_decode(const char *s, size_t n, char *out); /* the bytes, at most n; -1: a character is not of it */

/* --- the vocabulary (tokenizer_vocab.c) --- */

enum kind { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE }; /* as ggml numbers them */

struct strings {
    struct text text;
    uint32_t *at; /* [n + 1] */
};

struct vocab {
    int n;
    struct strings
        key; /* what pieces are looked up by: the bytes themselves (BPE over bytes), or the text as it stands */
    struct strings show; /* what is shown */
    uint8_t *skip;       /* [n] bytes of show that the first token of a text does not show */
    uint8_t *kind;       /* [n] */
    bool *end;           /* [n] ends an answer */
    int32_t *found;      /* tokens by their key: open addressing, -1 free */
    size_t mask;
};

int vocab_init(struct vocab *v, size_t n,
               struct err *e); /* all NORMAL; the strings are to be added in the order of ids */
void vocab_close(struct vocab *v);
int strings_add(struct strings *s, int id, const char *text, size_t n, struct err *e);
const char *strings_at(const struct strings *s, int32_t id, size_t *n);
int vocab_index(struct vocab *v, struct err *e); /* once all keys are there; CONTROL and UNKNOWN tokens are left out */
int32_t vocab_find(const struct vocab *v, const char *key, size_t n); /* -1: none */
int vocab_byte_of(const char *text, size_t n);                        /* the N of "<0xNN>", or -1 */
bool vocab_is_end_name(const char *text, size_t n);                   /* <|im_end|>, <end_of_turn>, ... */

/* --- added tokens, cut out of a text (tokenizer_cut.c) --- */

struct added {
    int32_t id;
    bool lstrip, rstrip, single_word; /* takes the white space before, after; stands alone only */
    bool control;                     /* cut out only where special tokens are asked for */
};

struct cut {
    struct added *a;
    struct text text;
    uint32_t *at; /* [n + 1] text of a[i] */
    int n, cap;
    int *order;       /* sorted by text */
    bool begins[256]; /* one of them begins with that byte */
};

int cut_add(struct cut *c, const struct added *a, const char *text, size_t n, struct err *e);
int cut_sort(struct cut *c, struct err *e); /* after the last cut_add(), before cut_next() */
void cut_close(struct cut *c);
/* The next added token of text[from..len): where it begins and ends. NULL: none follows. */
const struct added *cut_next(const struct cut *c, const char *text, size_t len, size_t from, bool control,
                             size_t *begin, size_t *end);

/* --- patterns (tokenizer_regex.c) --- */

struct pattern;

struct matcher { /* of one encode */
    struct pcre2_real_match_data_8 *match;
    struct pcre2_real_match_context_8 *limits;
    int64_t since_us;
    unsigned calls;
};

enum char_class { CHAR_NUMERIC, CHAR_PUNCT, CHAR_SPACE };

/* A regular expression in Oniguruma's syntax as far as PCRE2 has it, too; text as it stands; one character of a class. ERR_MODEL naming
 * what of it is not served. */
int pattern_regex(struct pattern **out, const char *regex, size_t n, struct err *e);
int pattern_text(struct pattern **out, const char *text, size_t n, struct err *e);
int pattern_class(struct pattern **out, enum char_class class, struct err *e);
void pattern_free(struct pattern *p);

int matcher_init(struct matcher *m, struct err *e);
void matcher_close(struct matcher *m);
/* Walks the matches in valid UTF-8 s[0..n), as Oniguruma's scan does: start with a zeroed finder. 1 and the next one's place, which may
 * be empty; 0: no more; -1: the limits of time were met. */
struct finder {
    size_t look, last; /* where to search on; the end of the last match */
    bool some;
};
int pattern_next(const struct pattern *p, struct matcher *m, struct finder *f, const char *s, size_t n, size_t *from,
                 size_t *to, struct err *e);

/* --- normalizers (tokenizer_norm.c) --- */

enum norm_kind {
    NORM_NFC,
    NORM_NFD,
    NORM_NFKC,
    NORM_NFKD,
    NORM_LOWER,
    NORM_STRIP,
    NORM_ACCENTS,
    NORM_PREPEND,
    NORM_REPLACE
};

struct norm {
    enum norm_kind kind;
    struct pattern *pattern; /* REPLACE */
    struct text text;        /* PREPEND, REPLACE */
    bool left, right;        /* STRIP */
};

void norm_close(struct norm *n);
/* In place of *in; `spare` is room. Nothing becomes of nothing. */
int norm_run(const struct norm *n, int count, struct matcher *m, struct text *in, struct text *spare, struct err *e);

/* --- splitting text into pieces (tokenizer_split.c) --- */

enum behaviour { ISOLATED, REMOVED, WITH_PREVIOUS, WITH_NEXT, CONTIGUOUS };
enum prefix { PREFIX_NEVER, PREFIX_FIRST, PREFIX_ALWAYS };

struct step {
    enum { STEP_SPLIT, STEP_PREFIX, STEP_ALPHABET } kind;
    struct pattern *pattern; /* SPLIT */
    enum behaviour behaviour;
    bool invert;
    enum prefix
        prefix; /* PREFIX: `text` goes before pieces that do not begin with it; spaces become it when it is no space */
    char text[8];
};

struct pre {
    struct step step[STEPS_MAX];
    int n;
    bool mapped; /* there is a STEP_ALPHABET: pieces come as characters of the alphabet and are turned back */
};

typedef int piece_fn(void *u, const char *s, size_t n, struct err *e);

void pre_close(struct pre *p);
int pre_add_split(struct pre *p, struct pattern *pattern, enum behaviour b, bool invert,
                  struct err *e);                                   /* takes the pattern */
int pre_add_regex(struct pre *p, const char *regex, struct err *e); /* isolated */
/* Calls `piece` for each piece in order. A run of bytes that is no UTF-8 is a piece of its own. `first`: the text's beginning is
 * here. Stops at the first -1. */
int pre_split(const struct pre *p, struct matcher *m, const char *text, size_t len, bool first, piece_fn *piece,
              void *u, struct err *e);

/* What a GGUF's vocabulary of that pre-tokenizer does besides splitting (tokenizer_pre.c). */
struct pre_traits {
    bool whole_first; /* a piece that is a token as a whole is that token, merges or not (HF: ignore_merges) */
    bool nfc;         /* text is composed first */
    bool adds_bos;    /* unless the file says otherwise */
    bool chars;       /* over characters with U+2581 for space, not over bytes */
};

extern const char pre_gpt2[]; /* the pattern of GPT-2 */
int pre_by_name(struct pre *p, const char *name, size_t len, struct pre_traits *traits,
                struct err *e); /* ERR_MODEL: not known */

/* --- merging the symbols of a piece (tokenizer_bpe.c) --- */

struct pair {
    uint64_t key; /* left << 32 | right; PAIR_NONE: free */
    int32_t rank, merged;
};

#define PAIR_NONE UINT64_MAX

struct bpe {
    bool bytes;           /* symbols are bytes at first; else characters */
    bool whole_first;     /* a piece that is a token as a whole is that token */
    bool fuse;            /* neighbouring unknown characters are one unknown token */
    int32_t unk;          /* -1: what is unknown is left out */
    int32_t of_byte[256]; /* the token of a byte, or -1 */
    struct pair *pair;    /* open addressing; size is a power of two */
    size_t mask;
    uint64_t *joins; /* characters: a filter of those that stand side by side inside a token; or NULL */
};

/* Scratch of one encode: grows with its longest piece. */
struct bpe_room {
    int32_t *id, *next, *prev, *rank; /* per symbol; one block */
    uint64_t *heap;
    size_t cap, nheap;
};

int bpe_init(struct bpe *b, size_t merges, struct err *e); /* of_byte all -1, no pair yet */
void bpe_close(struct bpe *b);
/* A pair that stands there already is replaced if `last` (as Hugging Face does), else kept (as llama.cpp does). */
void bpe_add(struct bpe *b, int32_t left, int32_t right, int32_t rank, int32_t merged, bool last);
/* Characters: notes which neighbours tokens have, so that long texts are merged in short pieces. */
int bpe_note_joins(struct bpe *b, const struct vocab *v, struct err *e);
int bpe_encode(const struct bpe *b, const struct vocab *v, struct bpe_room *r, const char *piece, size_t n,
               struct ids *out, struct err *e);
void bpe_room_close(struct bpe_room *r);

/* --- the whole --- */

struct tokenizer {
    struct vocab vocab;
    struct cut raw, normal; /* added tokens looked for before and after normalizing */
    struct norm norm[NORMS_MAX];
    int nnorm;
    struct pre pre;
    struct bpe bpe;
    int32_t bos, eos;
    bool adds_bos;
};

/* Loads the parts of tokenizer.json besides the model (tokenizer_parts.c); each may be NULL or JSON's null. */
int parts_normalizer(struct tokenizer *t, const json_t *j, struct err *e);
int parts_pre_tokenizer(struct tokenizer *t, const json_t *j, struct err *e); /* sets bpe.bytes */
int parts_post_processor(struct tokenizer *t, const json_t *j, struct err *e);

/* How tokens are shown (tokenizer_decode.c). Zeroed: no decoder, which joins them by spaces. */
struct decode {
    enum { DECODE_JOIN, DECODE_CHAIN } kind;
    struct {
        enum { SHOW_REPLACE, SHOW_BYTE, SHOW_ALPHABET, SHOW_STRIP } kind;
        struct text from, to; /* REPLACE */
        int start, stop;      /* STRIP: spaces */
    } op[8];
    int n;
    bool fused; /* what follows works on the whole text */
    int strip;  /* spaces that the beginning of a text does not show */
    bool drops; /* a first token shows no replacement of Metaspace */
};

int decode_parse(struct decode *d, const json_t *j, struct err *e);
void decode_close(struct decode *d);
/* The tokens' texts as the file has them -> v->show and v->skip. */
int decode_show(const struct decode *d, const struct strings *raw, struct vocab *v, struct err *e);
