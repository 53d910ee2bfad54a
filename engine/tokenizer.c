/* The tokenizer: a vocabulary from a GGUF's metadata, and the way of a text through it.
 *
 *     text --special tokens cut out--> spans --composed?--> --pre-tokenizer--> pieces --whole token? or merges--> ids
 *
 * Tokens are kept as the bytes that they stand for, one behind the other in one block, so that decoding is a look-up. In the
 * file a normal token is written in GPT-2's byte alphabet (each byte as a printable character: space is U+0120); special ones stand
 * as they are. A normal token with a character outside of that alphabet can't come from merges and is taken as it stands too.
 *
 * Special tokens are a sorted array of texts. At a byte that begins one, the range of those that agree with the text is narrowed byte
 * by byte, and the last complete one on the way is the longest: as a trie, without its memory.
 *
 * Refused: a vocabulary of another model (SentencePiece's "llama", WordPiece's "bert"), of an unknown pre-tokenizer, merges of
 * tokens that aren't there, ids outside of the vocabulary: wrong tokens would look like a dull model.
 *
 * Immutable after tokenizer_from_gguf(): any thread. What an encode needs is its own. */
#include "engine/tokenizer.h"
#include "engine/tokenizer_impl.h"
#include "engine/tokenizer_utf8.h"
#include <stdlib.h>
#include <string.h>

#define VOCAB_MAX (1 << 22)
#define TOKEN_BYTES_MAX 65536
#define TEXT_BYTES_MAX (64u << 20) /* positions inside a piece are 32-bit */
#define ALPHABET 324               /* characters of GPT-2's alphabet are below this */

enum kind { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE }; /* as ggml numbers them */

struct tokenizer {
    int n;
    char *text;     /* the bytes of all tokens */
    uint32_t *at;   /* [n + 1] where each begins in text */
    uint8_t *kind;  /* [n] */
    bool *end;      /* [n] ends an answer */
    size_t longest; /* bytes */

    int32_t *found; /* token by its bytes: open addressing, -1 free */
    size_t mask;

    int32_t *special; /* sorted by text */
    int nspecial;
    bool begins[256]; /* a special token begins with that byte */

    struct pre *pre;
    struct bpe bpe;
    int32_t bos, eos;
    bool adds_bos;
};

/* --- tokens by their bytes --- */

const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *len)
{
    if (id < 0 || id >= t->n) {
        *len = 0;
        return "";
    }
    *len = t->at[id + 1] - t->at[id];
    return t->text + t->at[id];
}

static uint64_t hash_bytes(const char *s, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a; the vocabulary is the operator's, nobody chooses collisions */
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)s[i]) * 0x100000001b3u;
    return h ^ h >> 32;
}

static size_t token_slot(const struct tokenizer *t, const char *s, size_t n)
{
    size_t i = hash_bytes(s, n) & t->mask, len;
    for (; t->found[i] >= 0; i = (i + 1) & t->mask) {
        const char *have = tokenizer_bytes(t, t->found[i], &len);
        if (len == n && !memcmp(have, s, n)) break;
    }
    return i;
}

static int32_t find_token(const struct tokenizer *t, const char *s, size_t n)
{
    return n ? t->found[token_slot(t, s, n)] : -1;
}

/* Only what pieces may become: a special token's text in a piece is plain text. Of two equal tokens the first is found. */
static int index_tokens(struct tokenizer *t, struct err *e)
{
    size_t size = 16, len;
    while (size < 2 * (size_t)t->n + 2) size *= 2;
    t->found = malloc(size * sizeof *t->found);
    if (!t->found) return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory for %d tokens", t->n);
    for (size_t i = 0; i < size; i++) t->found[i] = -1;
    t->mask = size - 1;
    for (int32_t id = 0; id < t->n; id++) {
        if (t->kind[id] != NORMAL && t->kind[id] != BYTE) continue;
        const char *s = tokenizer_bytes(t, id, &len);
        size_t slot = token_slot(t, s, len);
        if (len && t->found[slot] < 0) t->found[slot] = id;
        if (len == 1 && t->bpe.of_byte[(uint8_t)*s] < 0) t->bpe.of_byte[(uint8_t)*s] = id;
    }
    return 0;
}

/* --- loading --- */

/* of[c]: the byte that character c stands for, or -1. The 188 printable Latin-1 characters stand for themselves, the other bytes, in
 * order, are U+0100 and on. */
static void make_alphabet(int16_t of[ALPHABET])
{
    int next = 256;
    for (int c = 0; c < ALPHABET; c++) of[c] = -1;
    for (int b = 0; b < 256; b++) {
        bool itself = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        of[itself ? b : next++] = (int16_t)b;
    }
}

/* A token's text as bytes to out (never longer than the text). The length, or -1: not all in the alphabet. */
static int64_t from_alphabet(const int16_t of[ALPHABET], struct gguf_str s, char *out)
{
    size_t at = 0;
    int64_t n = 0;
    uint32_t c;
    while (at < s.len) {
        int len = utf8_decode(s.s + at, s.len - at, &c);
        if (len <= 0 || c >= ALPHABET || of[c] < 0) return -1;
        out[n++] = (char)of[c];
        at += (size_t)len;
    }
    return n;
}

static int store_tokens(struct tokenizer *t, const struct gguf_str *tokens, struct err *e)
{
    int16_t of[ALPHABET];
    size_t total = 0;
    make_alphabet(of);
    for (int i = 0; i < t->n; i++) {
        if (tokens[i].len > TOKEN_BYTES_MAX)
            return err_set(e, ERR_MODEL, "the vocabulary's token %d is %zu bytes long, more than %d", i, tokens[i].len, TOKEN_BYTES_MAX);
        total += tokens[i].len;
    }
    if (total > UINT32_MAX) return err_set(e, ERR_MODEL, "the vocabulary's tokens take %zu bytes", total);
    t->text = malloc(total + 1);
    if (!t->text) return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory for %zu bytes of tokens", total);
    for (int i = 0; i < t->n; i++) {
        char *to = t->text + t->at[i];
        int64_t len = t->kind[i] == NORMAL ? from_alphabet(of, tokens[i], to) : -1;
        if (len < 0) {
            memcpy(to, tokens[i].s, tokens[i].len);
            len = (int64_t)tokens[i].len;
        }
        t->at[i + 1] = t->at[i] + (uint32_t)len;
        if ((size_t)len > t->longest) t->longest = (size_t)len;
    }
    return 0;
}

static int load_kinds(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    static const char key[] = "tokenizer.ggml.token_type";
    int32_t *kind;
    size_t n;
    int r = 0;
    memset(t->kind, NORMAL, (size_t)t->n);
    if (!gguf_has(g, key)) return 0;
    if (gguf_array_i32(g, key, &kind, &n, e)) return -1;
    if (n != (size_t)t->n) r = err_set(e, ERR_MODEL, "%s has %zu elements, the vocabulary %d", key, n, t->n);
    for (int i = 0; i < t->n && !r; i++) {
        if (kind[i] < NORMAL || kind[i] > BYTE) r = err_set(e, ERR_MODEL, "token %d is of the unknown type %d", i, kind[i]);
        else t->kind[i] = (uint8_t)kind[i];
    }
    free(kind);
    return r;
}

static int load_tokens(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    struct gguf_str *tokens = NULL;
    size_t n;
    int r = -1;
    if (gguf_array_str(g, "tokenizer.ggml.tokens", &tokens, &n, e)) return -1;
    if (n == 0 || n > VOCAB_MAX) {
        err_set(e, ERR_MODEL, "a vocabulary of %zu tokens, 1 to %d are served", n, VOCAB_MAX);
        goto out;
    }
    t->n = (int)n;
    t->at = calloc(n + 1, sizeof *t->at);
    t->kind = calloc(n, sizeof *t->kind);
    t->end = calloc(n, sizeof *t->end);
    if (!t->at || !t->kind || !t->end) {
        err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory for %zu tokens", n);
        goto out;
    }
    if (!load_kinds(t, g, e) && !store_tokens(t, tokens, e)) r = 0;
out:
    free(tokens);
    return r;
}

/* "LEFT RIGHT", in the alphabet, where no character is a space. */
static int load_merge(struct tokenizer *t, const int16_t of[ALPHABET], struct gguf_str m, int32_t rank, struct err *e)
{
    char s[TOKEN_BYTES_MAX];
    const char *gap = m.len && m.len <= sizeof s ? memchr(m.s, ' ', m.len) : NULL;
    if (!gap) return err_set(e, ERR_MODEL, "merge %d of the vocabulary is not two tokens", rank);
    int64_t left = from_alphabet(of, (struct gguf_str){m.s, (size_t)(gap - m.s)}, s);
    int64_t right = left < 0 ? -1 : from_alphabet(of, (struct gguf_str){gap + 1, (size_t)(m.s + m.len - gap - 1)}, s + left);
    int32_t a = left > 0 ? find_token(t, s, (size_t)left) : -1, b = right > 0 ? find_token(t, s + left, (size_t)right) : -1;
    int32_t both = a < 0 || b < 0 ? -1 : find_token(t, s, (size_t)(left + right));
    if (both < 0)
        return err_set(e, ERR_MODEL, "merge %d of the vocabulary, \"%.*s\", is of tokens that it lacks", rank,
                       (int)(m.len < 64 ? m.len : 64), m.s);
    bpe_add(&t->bpe, a, b, rank, both);
    return 0;
}

static int load_merges(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    int16_t of[ALPHABET];
    struct gguf_str *merges;
    size_t n;
    int r = 0;
    if (gguf_array_str(g, "tokenizer.ggml.merges", &merges, &n, e)) return -1;
    make_alphabet(of);
    if (n > VOCAB_MAX) r = err_set(e, ERR_MODEL, "a vocabulary of %zu merges, at most %d are served", n, VOCAB_MAX);
    if (!r) r = bpe_init(&t->bpe, n, e) || index_tokens(t, e) ? -1 : 0;
    for (size_t i = 0; i < n && !r; i++) r = load_merge(t, of, merges[i], (int32_t)i, e);
    free(merges);
    return r;
}

static int compare_special(const void *a, const void *b, void *u)
{
    size_t na, nb;
    const char *sa = tokenizer_bytes(u, *(const int32_t *)a, &na), *sb = tokenizer_bytes(u, *(const int32_t *)b, &nb);
    int c = memcmp(sa, sb, na < nb ? na : nb);
    return c ? c : (na > nb) - (na < nb);
}

static int sort_special(struct tokenizer *t, struct err *e)
{
    size_t len;
    t->special = malloc(((size_t)t->n + 1) * sizeof *t->special);
    if (!t->special) return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory for %d tokens", t->n);
    for (int32_t id = 0; id < t->n; id++) {
        const char *s = tokenizer_bytes(t, id, &len);
        if ((t->kind[id] != CONTROL && t->kind[id] != USER_DEFINED) || !len) continue;
        t->special[t->nspecial++] = id;
        t->begins[(uint8_t)*s] = true;
    }
    qsort_r(t->special, (size_t)t->nspecial, sizeof *t->special, compare_special, t);
    return 0;
}

/* An id from the metadata, or -1 where the key is absent. */
static int load_id(const struct tokenizer *t, const struct gguf *g, const char *key, int32_t *out, struct err *e)
{
    uint64_t id;
    *out = -1;
    if (!gguf_has(g, key)) return 0;
    if (gguf_u64(g, key, &id, e)) return -1;
    if (id >= (uint64_t)t->n)
        return err_set(e, ERR_MODEL, "%s is %llu, the vocabulary has %d tokens", key, (unsigned long long)id, t->n);
    *out = (int32_t)id;
    return 0;
}

static int load_ends(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    static const char *const texts[] = {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>",
                                        "<|end_of_text|>", "<|END_OF_TURN_TOKEN|>", "</s>"};
    int32_t id;
    size_t len;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (load_id(t, g, keys[i], &id, e)) return -1;
        if (id >= 0) t->end[id] = true;
        if (i == 0) t->eos = id;
    }
    for (int k = 0; k < t->nspecial; k++) {
        const char *s = tokenizer_bytes(t, t->special[k], &len);
        if (t->kind[t->special[k]] != CONTROL) continue;
        for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
            if (strlen(texts[i]) == len && !memcmp(texts[i], s, len)) t->end[t->special[k]] = true;
    }
    return 0;
}

static int load_bos(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    static const char key[] = "tokenizer.ggml.add_bos_token";
    if (load_id(t, g, "tokenizer.ggml.bos_token_id", &t->bos, e)) return -1;
    t->adds_bos = pre_traits(t->pre)->adds_bos;
    if (gguf_has(g, key) && gguf_bool(g, key, &t->adds_bos, e)) return -1;
    t->adds_bos = t->adds_bos && t->bos >= 0;
    return 0;
}

static int load_model(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    struct gguf_str model, pre;
    if (gguf_string(g, "tokenizer.ggml.model", &model, e)) return -1;
    if (model.len != 4 || memcmp(model.s, "gpt2", 4))
        return err_set(e, ERR_MODEL, "the vocabulary's model is \"%.*s\"; byte-level BPE (\"gpt2\") is served",
                       (int)(model.len < 64 ? model.len : 64), model.s);
    if (gguf_string(g, "tokenizer.ggml.pre", &pre, e)) return -1;
    return pre_new(&t->pre, pre.s, pre.len, e);
}

int tokenizer_from_gguf(struct tokenizer **out, const struct gguf *g, struct err *e)
{
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t) return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory");
    if (load_model(t, g, e) || load_tokens(t, g, e) || load_merges(t, g, e) || sort_special(t, e) || load_ends(t, g, e) ||
        load_bos(t, g, e)) {
        tokenizer_free(t);
        return -1;
    }
    *out = t;
    return 0;
}

void tokenizer_free(struct tokenizer *t)
{
    if (!t) return;
    pre_free(t->pre);
    bpe_close(&t->bpe);
    free(t->text);
    free(t->at);
    free(t->kind);
    free(t->end);
    free(t->found);
    free(t->special);
    free(t);
}

/* --- encoding --- */

int ids_push(struct ids *o, int32_t id, struct err *e)
{
    if (o->n == o->max) return err_set(e, ERR_CONTEXT_LENGTH, "the text has more than the %zu tokens that fit", o->max);
    if (o->n == o->cap) {
        size_t cap = o->cap ? o->cap * 2 : 256;
        int32_t *p = realloc(o->id, cap * sizeof *p);
        if (!p) return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory for %zu tokens", cap);
        o->id = p;
        o->cap = cap;
    }
    o->id[o->n++] = id;
    return 0;
}

struct encode {
    const struct tokenizer *t;
    bool control; /* cut out control tokens, too; user-defined ones always are */
    struct ids out;
    struct bpe_room room;
};

static int encode_piece(void *u, const char *s, size_t n, struct err *e)
{
    struct encode *x = u;
    int32_t id = n == 1 || pre_traits(x->t->pre)->whole_first ? find_token(x->t, s, n) : -1;
    return id >= 0 ? ids_push(&x->out, id, e) : bpe_encode(&x->t->bpe, &x->room, s, n, &x->out, e);
}

/* Composes the parts that are UTF-8, in place of the text. *out NULL: nothing to compose. */
static int compose(const char *s, size_t n, char **out, size_t *outlen)
{
    return utf8_valid(s, n) == n ? utf8_nfc(s, n, out, outlen) : 0; /* text with bad bytes is no text to compose */
}

static int encode_span(struct encode *x, const char *s, size_t n, struct err *e)
{
    char *nfc = NULL;
    size_t len = 0;
    if (n == 0) return 0;
    if (pre_traits(x->t->pre)->nfc && compose(s, n, &nfc, &len)) return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory");
    int r = pre_split(x->t->pre, nfc ? nfc : s, nfc ? len : n, encode_piece, x, e);
    free(nfc);
    return r;
}

/* The first of special[lo..hi) whose byte k is at least `byte`; all of them agree before k and are longer than k. */
static int narrow(const struct tokenizer *t, int lo, int hi, size_t k, unsigned byte)
{
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if ((uint8_t)t->text[t->at[t->special[mid]] + k] < byte) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

/* The longest special token that s begins with, or -1. */
static int32_t match_special(const struct encode *x, const char *s, size_t n, size_t *len)
{
    const struct tokenizer *t = x->t;
    int lo = 0, hi = t->nspecial;
    int32_t best = -1;
    size_t have;
    for (size_t k = 0; k < n && lo < hi; k++) {
        unsigned byte = (uint8_t)s[k];
        lo = narrow(t, lo, hi, k, byte);
        hi = narrow(t, lo, hi, k, byte + 1);
        if (lo == hi) break;
        for (; lo < hi; lo++) { /* complete ones sort first; equal texts are neighbours */
            tokenizer_bytes(t, t->special[lo], &have);
            if (have != k + 1) break;
            if (*len == have && best >= 0) continue;
            if (t->kind[t->special[lo]] != USER_DEFINED && !x->control) continue;
            best = t->special[lo];
            *len = have;
        }
    }
    return best;
}

static int encode_text(struct encode *x, const char *text, size_t len, struct err *e)
{
    size_t from = 0, at = 0, n = 0;
    while (at < len) {
        int32_t id = x->t->begins[(uint8_t)text[at]] ? match_special(x, text + at, len - at, &n) : -1;
        if (id < 0) {
            at++;
            continue;
        }
        if (encode_span(x, text + from, at - from, e) || ids_push(&x->out, id, e)) return -1;
        at += n;
        from = at;
    }
    return encode_span(x, text + from, len - from, e);
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, bool parse_special, size_t max_tokens,
                     struct tokens *out, struct err *e)
{
    struct encode x = {.t = t, .control = parse_special, .out = {.max = max_tokens}};
    if (len > TEXT_BYTES_MAX)
        return err_set(e, ERR_CONTEXT_LENGTH, "a text of %zu bytes, more than the %u that are taken", len, TEXT_BYTES_MAX);
    int r = encode_text(&x, text, len, e);
    bpe_room_close(&x.room);
    if (r) {
        free(x.out.id);
        return -1;
    }
    *out = (struct tokens){x.out.id, x.out.n};
    return 0;
}

/* --- what is known of tokens --- */

int tokenizer_vocab(const struct tokenizer *t) { return t->n; }

int tokenizer_bos(const struct tokenizer *t) { return t->bos; }

int tokenizer_eos(const struct tokenizer *t) { return t->eos; }

bool tokenizer_adds_bos(const struct tokenizer *t) { return t->adds_bos; }

bool tokenizer_is_end(const struct tokenizer *t, int32_t id) { return id >= 0 && id < t->n && t->end[id]; }

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->n && (t->kind[id] == CONTROL || t->kind[id] == UNKNOWN);
}
