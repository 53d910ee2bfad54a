/* Patterns: the regular expressions of tokenizer.json, written for Oniguruma (Ruby's syntax), run by PCRE2.
 *
 * The two agree on nearly all that pre-tokenizers say. Where they don't, the expression is rewritten on its way: \s is Unicode's
 * White_Space (PCRE2's own also takes U+180E), \w is letters, marks, digits and connectors, ^ and $ are those of lines. What PCRE2 has
 * not, or reads otherwise (sets inside of sets, && between them, \h as a hex digit, options other than i), is refused by name: wrong
 * pieces would look like a dull model.
 *
 * The published patterns consume with greedy classes that cannot overlap what follows by more than a step, so matching is
 * linear. A pattern that a stranger wrote may explode: the match limit bounds one match, the clock all matches of one text.
 *
 * Compiled patterns are shared by all threads; the matcher belongs to one encode. */
#include "base/clock.h"
#include "engine/tokenizer_impl.h"
#include "engine/tokenizer_utf8.h"
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define REGEX_BYTES_MAX 16384
#define MATCH_LIMIT 20000000u /* PCRE2's backtracking steps for one match */
#define HEAP_LIMIT_KIB 65536u
#define TEXT_MS_MAX 5000 /* of regular expressions in one encode */
#define CALLS_PER_LOOK 8 /* matches between two looks at the clock */

#define WS "\\t-\\r\\x{85}\\p{Z}"
#define WORD                                                                                                           \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{"    \
    "1f189}"

struct pattern {
    enum { REGEX, TEXT, CLASS } kind;
    pcre2_code *code;
    struct text text;
    enum char_class class;
};

/* --- from one syntax to the other --- */

struct rewrite {
    const char *s;
    size_t n, at;
    struct text out;
    struct err *e;
};

static int refuse(struct rewrite *w, const char *what)
{
    return err_set(w->e, ERR_MODEL, "the pattern \"%.*s\" has %s, which is not served", (int)(w->n < 120 ? w->n : 120),
                   w->s, what);
}

static int put(struct rewrite *w, const char *s)
{
    return text_append(&w->out, s, strlen(s), w->e);
}

static int copy(struct rewrite *w, size_t n)
{
    if (n > w->n - w->at) n = w->n - w->at;
    w->at += n;
    return text_append(&w->out, w->s + w->at - n, n, w->e);
}

/* \s and the like; `set`: inside of brackets, where a class cannot be turned round. */
static int rewrite_escape(struct rewrite *w, bool set)
{
    static const struct {
        char c;
        const char *alone, *in_set;
    } rows[] = {
        {'s', "[" WS "]", WS},      {'S', "[^" WS "]", "\\S"},   {'w', "[" WORD "]", WORD},
        {'W', "[^" WORD "]", NULL}, {'d', "\\p{Nd}", "\\p{Nd}"}, {'D', "\\P{Nd}", "\\P{Nd}"},
    };
    char c = w->at + 1 < w->n ? w->s[w->at + 1] : 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (rows[i].c != c) continue;
        if (set && !rows[i].in_set) return refuse(w, "\\W inside of brackets");
        w->at += 2;
        return put(w, set ? rows[i].in_set : rows[i].alone);
    }
    if (c && strchr("hHRXKGykgCMcoQENUuLl", c)) return refuse(w, "an escape");
    if (c >= '1' && c <= '9') return refuse(w, "a back reference");
    return copy(w, 2);
}

static int rewrite_set(struct rewrite *w)
{
    size_t first;
    if (copy(w, 1)) return -1;
    if (w->at < w->n && w->s[w->at] == '^' && copy(w, 1)) return -1;
    first = w->at;
    while (w->at < w->n) {
        char c = w->s[w->at], next = w->at + 1 < w->n ? w->s[w->at + 1] : 0;
        if (c == ']' && w->at > first) return copy(w, 1);
        if (c == ']') return refuse(w, "empty brackets");
        if (c == '[') return refuse(w, next == ':' ? "a POSIX class" : "brackets inside of brackets");
        if (c == '&' && next == '&') return refuse(w, "&& inside of brackets");
        if (c == '\\' ? rewrite_escape(w, true) : copy(w, 1)) return -1;
    }
    return refuse(w, "brackets that are not closed");
}

/* Behind "(?": what groups PCRE2 and Oniguruma read alike. */
static int rewrite_group(struct rewrite *w)
{
    static const char *const known[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?i)", "(?-i:"};
    if (w->at + 1 >= w->n || w->s[w->at + 1] != '?') return copy(w, 1);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        size_t n = strlen(known[i]);
        if (n <= w->n - w->at && !memcmp(known[i], w->s + w->at, n)) return copy(w, n);
    }
    return refuse(w, "a group of an unknown kind");
}

/* Tried at each space of a long run, \s+$ takes quadratic time. It can only match from a run's beginning: being greedy it
 * takes all up to the last line's end in the run, and behind that there is none. */
static int rewrite(struct rewrite *w)
{
    if (w->n == 4 && !memcmp(w->s, "\\s+$", 4) && put(w, "(?<![" WS "])")) return -1;
    while (w->at < w->n) {
        char c = w->s[w->at];
        int r = c == '\\'  ? rewrite_escape(w, false)
                : c == '[' ? rewrite_set(w)
                : c == '(' ? rewrite_group(w)
                           : copy(w, 1);
        if (r) return -1;
    }
    return 0;
}

static int compile(struct pattern *p, struct rewrite *w, struct err *e)
{
    int code;
    PCRE2_SIZE at;
    PCRE2_UCHAR why[120];
    p->code = pcre2_compile((PCRE2_SPTR)w->out.s, w->out.n, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &code, &at, NULL);
    if (!p->code) {
        pcre2_get_error_message(code, why, sizeof why);
        return err_set(e, ERR_MODEL, "the pattern \"%.*s\" cannot be compiled: %s", (int)(w->n < 120 ? w->n : 120),
                       w->s, (char *)why);
    }
    pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE); /* where the system forbids it, matching is slower and the same */
    return 0;
}

/* --- patterns --- */

static int new_pattern(struct pattern **out, int kind, struct err *e)
{
    *out = calloc(1, sizeof **out);
    if (!*out) return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory");
    (*out)->kind = kind;
    return 0;
}

int pattern_regex(struct pattern **out, const char *regex, size_t n, struct err *e)
{
    struct rewrite w = {.s = regex, .n = n, .e = e};
    struct pattern *p;
    if (n == 0 || n > REGEX_BYTES_MAX)
        return err_set(e, ERR_MODEL, "a pattern of %zu bytes, 1 to %d are served", n, REGEX_BYTES_MAX);
    if (utf8_valid(regex, n) != n) return err_set(e, ERR_MODEL, "a pattern that is no UTF-8");
    if (new_pattern(&p, REGEX, e)) return -1;
    int r = rewrite(&w) || compile(p, &w, e) ? -1 : 0;
    text_close(&w.out);
    if (r)
        pattern_free(p);
    else
        *out = p;
    return r;
}

int pattern_text(struct pattern **out, const char *text, size_t n, struct err *e)
{
    struct pattern *p;
    if (n == 0) return err_set(e, ERR_MODEL, "a pattern that is empty");
    if (new_pattern(&p, TEXT, e)) return -1;
    if (text_append(&p->text, text, n, e)) {
        pattern_free(p);
        return -1;
    }
    *out = p;
    return 0;
}

int pattern_class(struct pattern **out, enum char_class class, struct err *e)
{
    struct pattern *p;
    if (new_pattern(&p, CLASS, e)) return -1;
    p->class = class;
    *out = p;
    return 0;
}

void pattern_free(struct pattern *p)
{
    if (!p) return;
    pcre2_code_free(p->code);
    text_close(&p->text);
    free(p);
}

/* --- matching --- */

int matcher_init(struct matcher *m, struct err *e)
{
    *m = (struct matcher){pcre2_match_data_create(1, NULL), pcre2_match_context_create(NULL), clock_mono_us(), 0};
    if (!m->match || !m->limits) {
        matcher_close(m);
        return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory");
    }
    pcre2_set_match_limit(m->limits, MATCH_LIMIT);
    pcre2_set_heap_limit(m->limits, HEAP_LIMIT_KIB);
    return 0;
}

void matcher_close(struct matcher *m)
{
    pcre2_match_data_free(m->match);
    pcre2_match_context_free(m->limits);
    *m = (struct matcher){0};
}

static int find_regex(const struct pattern *p, struct matcher *m, const char *s, size_t n, size_t at, size_t *from,
                      size_t *to, struct err *e)
{
    if (++m->calls % CALLS_PER_LOOK == 0 && clock_mono_us() - m->since_us > TEXT_MS_MAX * 1000)
        return err_set(e, ERR_INVALID, "the text cannot be split into pieces within %d ms", TEXT_MS_MAX);
    int r = pcre2_match(p->code, (PCRE2_SPTR)s, n, at, PCRE2_NO_UTF_CHECK, m->match, m->limits);
    if (r == PCRE2_ERROR_NOMATCH) return 0;
    if (r < 0) return err_set(e, ERR_INVALID, "the text cannot be split into pieces within the limits (%d)", r);
    *from = pcre2_get_ovector_pointer(m->match)[0];
    *to = pcre2_get_ovector_pointer(m->match)[1];
    return 1;
}

static bool is_of(enum char_class class, uint32_t cp)
{
    if (class == CHAR_NUMERIC) return utf8_is_numeric(cp);
    if (class == CHAR_SPACE) return utf8_is_white(cp);
    return utf8_is_punct(cp) || (cp < 0x80 && cp > ' ' && cp != 0x7f && !utf8_is_alpha(cp) && !utf8_is_digit(cp));
}

static int find_class(const struct pattern *p, const char *s, size_t n, size_t at, size_t *from, size_t *to)
{
    uint32_t cp;
    for (int len; at < n; at += (size_t)len) {
        len = utf8_decode(s + at, n - at, &cp);
        if (!is_of(p->class, cp)) continue;
        *from = at;
        *to = at + (size_t)len;
        return 1;
    }
    return 0;
}

static int find(const struct pattern *p, struct matcher *m, const char *s, size_t n, size_t at, size_t *from,
                size_t *to, struct err *e)
{
    if (at >= n) return 0;
    if (p->kind == REGEX) return find_regex(p, m, s, n, at, from, to, e);
    if (p->kind == CLASS) return find_class(p, s, n, at, from, to);
    const char *hit = memmem(s + at, n - at, p->text.s, p->text.n);
    if (!hit) return 0;
    *from = (size_t)(hit - s);
    *to = *from + p->text.n;
    return 1;
}

/* After an empty match the search goes on at the next character, and a match is not followed by an empty one at its end. */
int pattern_next(const struct pattern *p, struct matcher *m, struct finder *f, const char *s, size_t n, size_t *from,
                 size_t *to, struct err *e)
{
    uint32_t cp;
    for (;;) {
        int r = f->look > n ? 0 : find(p, m, s, n, f->look, from, to, e);
        if (r <= 0) return r;
        f->look = *to;
        if (*from == *to) f->look += *to < n ? (size_t)utf8_decode(s + *to, n - *to, &cp) : 1;
        if (*from == *to && f->some && f->last == *to) continue;
        f->some = true;
        f->last = *to;
        return 1;
    }
}
