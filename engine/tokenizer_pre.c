/* Pre-tokenizers: what may never be merged across is cut first, by the patterns that the vocabulary was trained with.
 *
 * A row of the table is a name as it stands in a GGUF's `tokenizer.ggml.pre` and up to two patterns, applied one inside the other:
 * what the first matches and what lies between its matches are separate texts to the second (Hugging Face's Sequence of isolating
 * splits). So a look-ahead of the second pattern does not see over the first one's cut, which matters for "a  1". A vocabulary that
 * is split otherwise is one more row.
 *
 * White space is written out as Unicode's White_Space property: PCRE2's own \s also takes U+180E, the trainers' engines don't.
 *
 * Text that is no UTF-8 never reaches PCRE2: the runs of bad bytes are pieces of their own and the valid text between them is split
 * as if nothing stood around it. Every alternative consumes with greedy classes that cannot overlap what follows by more than a
 * step, so matching is linear; the match limit is there for a row that someone adds.
 *
 * The compiled patterns are shared by all threads; the match block is one per call. Sources: the published tokenizer.json of each
 * family; names as llama.cpp's converter writes them. */
#include "engine/tokenizer_impl.h"
#include "engine/tokenizer_utf8.h"
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define LEVELS 2
#define MATCH_LIMIT 20000000u /* PCRE2's backtracking steps for one match */
#define HEAP_LIMIT_KIB 65536u

#define WS "\\t-\\r\\x{85}\\p{Z}"
#define SPACES "[" WS "]+(?![^" WS "])|[" WS "]+"
#define LINES "[" WS "]*[\\r\\n]+|"
#define SUFFIX "(?i:'s|'t|'re|'ve|'m|'ll|'d)"

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|" SPACES
#define CL100K(digits) \
    SUFFIX "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*|" LINES SPACES
#define UP "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOW "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define O200K(suffix, digits)                                                                                               \
    "[^\\r\\n\\p{L}\\p{N}]?" UP "*" LOW "+" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UP "+" LOW "*" suffix "|" digits "| ?[^" WS \
    "\\p{L}\\p{N}]+[\\r\\n/]*|" LINES SPACES

static const struct row {
    const char *name;
    const char *pattern[LEVELS];
    struct pre_traits traits;
} rows[] = {
    {"gpt-2", {GPT2}, {0}},
    {"default", {GPT2}, {0}},
    {"phi-2", {GPT2}, {0}},
    {"olmo", {GPT2}, {0}},
    {"smollm", {"\\p{N}", GPT2}, {0}},
    {"starcoder", {"\\p{N}", GPT2}, {0}},
    {"refact", {"\\p{N}", GPT2}, {0}},
    {"command-r", {"\\p{N}", GPT2}, {0}},
    {"llama-bpe", {CL100K("\\p{N}{1,3}")}, {.whole_first = true, .adds_bos = true}},
    {"llama3", {CL100K("\\p{N}{1,3}")}, {.whole_first = true, .adds_bos = true}},
    {"llama-v3", {CL100K("\\p{N}{1,3}")}, {.whole_first = true, .adds_bos = true}},
    {"dbrx", {CL100K("\\p{N}{1,3}")}, {0}},
    {"qwen2", {CL100K("\\p{N}")}, {.nfc = true}},
    {"tekken", {O200K("", "\\p{N}")}, {.whole_first = true, .adds_bos = true}},
    {"gpt-4o", {O200K(SUFFIX "?", "\\p{N}{1,3}")}, {0}},
};

struct pre {
    const struct row *row;
    pcre2_code *code[LEVELS];
    int levels;
};

static const struct row *find_row(const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strlen(rows[i].name) == len && !memcmp(rows[i].name, name, len)) return &rows[i];
    return NULL;
}

static int compile(struct pre *p, const char *pattern, struct err *e)
{
    int code;
    PCRE2_SIZE at;
    PCRE2_UCHAR why[120];
    pcre2_code *c = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, NULL);
    if (!c) {
        pcre2_get_error_message(code, why, sizeof why);
        return err_set(e, ERR_INTERNAL, "the pattern of pre-tokenizer %s does not compile: %s", p->row->name, (char *)why);
    }
    pcre2_jit_compile(c, PCRE2_JIT_COMPLETE); /* where the system forbids it, matching is slower and the same */
    p->code[p->levels++] = c;
    return 0;
}

int pre_new(struct pre **out, const char *name, size_t len, struct err *e)
{
    const struct row *row = find_row(name, len);
    struct pre *p;
    if (!row)
        return err_set(e, ERR_MODEL, "the vocabulary's pre-tokenizer \"%.*s\" is not known", (int)(len < 64 ? len : 64), name);
    p = calloc(1, sizeof *p);
    if (!p) return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory");
    p->row = row;
    for (int i = 0; i < LEVELS && row->pattern[i]; i++)
        if (compile(p, row->pattern[i], e)) {
            pre_free(p);
            return -1;
        }
    *out = p;
    return 0;
}

void pre_free(struct pre *p)
{
    if (!p) return;
    for (int i = 0; i < p->levels; i++) pcre2_code_free(p->code[i]);
    free(p);
}

const struct pre_traits *pre_traits(const struct pre *p)
{
    return &p->row->traits;
}

/* --- splitting --- */

struct split {
    const struct pre *pre;
    pcre2_match_data *match;
    pcre2_match_context *limits;
    int (*piece)(void *u, const char *s, size_t n, struct err *e);
    void *u;
    struct err *e;
};

static int split_valid(struct split *s, int level, const char *text, size_t len)
{
    size_t at = 0;
    if (len == 0) return 0;
    if (level == s->pre->levels) return s->piece(s->u, text, len, s->e);
    while (at < len) {
        int r = pcre2_match(s->pre->code[level], (PCRE2_SPTR)text, len, at, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, s->match, s->limits);
        if (r == PCRE2_ERROR_NOMATCH) break;
        if (r < 0) return err_set(s->e, ERR_INVALID, "the text cannot be split into pieces within the limits (%d)", r);
        size_t from = pcre2_get_ovector_pointer(s->match)[0], to = pcre2_get_ovector_pointer(s->match)[1];
        if (split_valid(s, level + 1, text + at, from - at) || split_valid(s, level + 1, text + from, to - from)) return -1;
        at = to;
    }
    return split_valid(s, level + 1, text + at, len - at);
}

/* Bytes that begin no valid character. */
static size_t bad_run(const char *text, size_t len)
{
    size_t n = 0;
    uint32_t cp;
    while (n < len && utf8_decode(text + n, len - n, &cp) <= 0) n++;
    return n;
}

static int split_any(struct split *s, const char *text, size_t len)
{
    while (len) {
        size_t good = utf8_valid(text, len), bad;
        if (split_valid(s, 0, text, good)) return -1;
        bad = bad_run(text + good, len - good);
        if (bad && s->piece(s->u, text + good, bad, s->e)) return -1;
        text += good + bad;
        len -= good + bad;
    }
    return 0;
}

int pre_split(const struct pre *p, const char *text, size_t len,
              int (*piece)(void *u, const char *s, size_t n, struct err *e), void *u, struct err *e)
{
    struct split s = {p, pcre2_match_data_create(1, NULL), pcre2_match_context_create(NULL), piece, u, e};
    int r = -1;
    if (!s.match || !s.limits) {
        err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory");
    } else {
        pcre2_set_match_limit(s.limits, MATCH_LIMIT);
        pcre2_set_heap_limit(s.limits, HEAP_LIMIT_KIB);
        r = split_any(&s, text, len);
    }
    pcre2_match_data_free(s.match);
    pcre2_match_context_free(s.limits);
    return r;
}
