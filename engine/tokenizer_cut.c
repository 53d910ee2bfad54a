/* Added tokens (special and user-defined ones) are cut out of a text before anything else happens to it.
 *
 * Their texts are sorted. At a byte that begins one, the range of those that agree with the text is narrowed byte by byte, and
 * the last complete one on the way is the longest: as a trie, without its memory. What it costs is bounded by ADDED_BYTES_MAX per
 * byte of text, and in truth by how far a text agrees with a special token.
 *
 * lstrip, rstrip, single_word: as in Hugging Face's AddedToken; what a token takes of the white space before it never reaches into
 * the token before. */
#include "engine/tokenizer_impl.h"
#include "engine/tokenizer_utf8.h"
#include <stdlib.h>
#include <string.h>

#define NOT_A_WORD 0xfffffffe

int cut_add(struct cut *c, const struct added *a, const char *text, size_t n, struct err *e)
{
    if (n == 0) return 0;
    if (n > ADDED_BYTES_MAX)
        return err_set(e, ERR_MODEL, "the added token %d is %zu bytes long, at most %d are served", a->id, n,
                       ADDED_BYTES_MAX);
    if (c->n == c->cap) {
        int cap = c->cap ? c->cap * 2 : 64;
        struct added *all = realloc(c->a, (size_t)cap * sizeof *all);
        if (all) c->a = all;
        uint32_t *at = realloc(c->at, ((size_t)cap + 1) * sizeof *at);
        if (at) c->at = at;
        if (!all || !at) return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory for %d added tokens", cap);
        c->cap = cap;
        c->at[0] = 0;
    }
    if (text_append(&c->text, text, n, e)) return -1;
    c->a[c->n++] = *a;
    c->at[c->n] = (uint32_t)c->text.n;
    return 0;
}

static const char *text_of(const struct cut *c, int i, size_t *n)
{
    *n = c->at[i + 1] - c->at[i];
    return c->text.s + c->at[i];
}

static int compare(const void *a, const void *b, void *u)
{
    size_t na, nb;
    int i = *(const int *)a, k = *(const int *)b;
    const char *sa = text_of(u, i, &na), *sb = text_of(u, k, &nb);
    int r = memcmp(sa, sb, na < nb ? na : nb);
    if (r) return r;
    return na != nb ? (na > nb) - (na < nb) : (i > k) - (i < k);
}

int cut_sort(struct cut *c, struct err *e)
{
    if (c->n == 0) return 0;
    c->order = malloc((size_t)c->n * sizeof *c->order);
    if (!c->order) return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory for %d added tokens", c->n);
    for (int i = 0; i < c->n; i++) {
        c->order[i] = i;
        c->begins[(uint8_t)c->text.s[c->at[i]]] = true;
    }
    qsort_r(c->order, (size_t)c->n, sizeof *c->order, compare, c);
    return 0;
}

void cut_close(struct cut *c)
{
    free(c->a);
    free(c->at);
    free(c->order);
    text_close(&c->text);
    *c = (struct cut){0};
}

/* --- matching --- */

/* The first of order[lo..hi) whose byte k is at least `byte`; all of them agree before k and are longer than k. */
static int narrow(const struct cut *c, int lo, int hi, size_t k, unsigned byte)
{
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if ((uint8_t)c->text.s[c->at[c->order[mid]] + k] < byte)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The longest that s begins with, or -1. */
static int match(const struct cut *c, const char *s, size_t n, bool control, size_t *len)
{
    int lo = 0, hi = c->n, best = -1;
    size_t have;
    for (size_t k = 0; k < n && lo < hi; k++) {
        unsigned byte = (uint8_t)s[k];
        lo = narrow(c, lo, hi, k, byte);
        hi = narrow(c, lo, hi, k, byte + 1);
        for (; lo < hi; lo++) { /* complete ones sort first; equal texts are neighbours */
            text_of(c, c->order[lo], &have);
            if (have != k + 1) break;
            if ((*len == have && best >= 0) || (c->a[c->order[lo]].control && !control)) continue;
            best = c->order[lo];
            *len = have;
        }
    }
    return best;
}

/* The character before s + at, and how long it is. */
static uint32_t char_before(const char *s, size_t at, size_t *len)
{
    uint32_t cp;
    for (*len = 1; *len <= 4 && *len <= at; (*len)++)
        if (utf8_decode(s + at - *len, *len, &cp) == (int)*len) return cp;
    *len = 1;
    return NOT_A_WORD;
}

static uint32_t char_after(const char *s, size_t n, size_t *len)
{
    uint32_t cp;
    int r = utf8_decode(s, n, &cp);
    *len = r > 0 ? (size_t)r : 1;
    return r > 0 ? cp : NOT_A_WORD;
}

static bool stands_alone(const char *s, size_t len, size_t begin, size_t end)
{
    size_t k;
    return (begin == 0 || !utf8_is_word(char_before(s, begin, &k))) &&
           (end == len || !utf8_is_word(char_after(s + end, len - end, &k)));
}

static void take_space(const struct added *a, const char *s, size_t len, size_t from, size_t *begin, size_t *end)
{
    size_t k;
    while (a->lstrip && *begin > from && utf8_is_white(char_before(s, *begin, &k))) *begin -= k;
    while (a->rstrip && *end < len && utf8_is_white(char_after(s + *end, len - *end, &k))) *end += k;
}

const struct added *cut_next(const struct cut *c, const char *text, size_t len, size_t from, bool control,
                             size_t *begin, size_t *end)
{
    for (size_t at = from; c->n && at < len; at++) {
        size_t n = 0;
        int i = c->begins[(uint8_t)text[at]] ? match(c, text + at, len - at, control, &n) : -1;
        if (i < 0) continue;
        if (c->a[i].single_word && !stands_alone(text, len, at, at + n)) {
            at += n - 1;
            continue;
        }
        *begin = at;
        *end = at + n;
        take_space(&c->a[i], text, len, from, begin, end);
        return &c->a[i];
    }
    return NULL;
}
