/* Normalizers: what is done to a text (between its added tokens) before it is split. Each takes time linear in the text.
 *
 * Bytes that are no UTF-8 pass unchanged, and what Unicode has to say concerns the valid text between them. */
#include "engine/tokenizer_impl.h"
#include "engine/tokenizer_utf8.h"
#include <stdlib.h>
#include <string.h>

#define NORMAL_GROWTH 64 /* times the text's length, and NORMAL_FREE: more is an explosion, not a normalization */
#define NORMAL_FREE 4096

void norm_close(struct norm *n)
{
    pattern_free(n->pattern);
    text_close(&n->text);
    *n = (struct norm){0};
}

static int exploded(struct err *e)
{
    return err_set(e, ERR_INVALID, "the vocabulary's normalizer makes more than %d times as much of the text",
                   NORMAL_GROWTH);
}

/* Calls on: each maximal run of valid text, and copies what lies between. */
static int each_valid(const struct norm *n, struct matcher *m, const struct text *in, struct text *out, struct err *e,
                      int (*run)(const struct norm *n, struct matcher *m, const char *s, size_t len, struct text *out,
                                 struct err *e))
{
    for (size_t at = 0; at < in->n;) {
        size_t good = utf8_valid(in->s + at, in->n - at);
        if (good && run(n, m, in->s + at, good, out, e)) return -1;
        if (out->n > NORMAL_GROWTH * in->n + NORMAL_FREE) return exploded(e);
        at += good;
        if (at < in->n && text_append(out, in->s + at++, 1, e)) return -1;
    }
    return 0;
}

static int form(const struct norm *n, struct matcher *m, const char *s, size_t len, struct text *out, struct err *e)
{
    static const enum utf8_form forms[] = {
        [NORM_NFC] = UTF8_NFC, [NORM_NFD] = UTF8_NFD, [NORM_NFKC] = UTF8_NFKC, [NORM_NFKD] = UTF8_NFKD};
    char *p;
    size_t got = 0;
    (void)m;
    if (utf8_normal(forms[n->kind], s, len, &p, &got)) return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory");
    int r = text_append(out, p ? p : s, p ? got : len, e);
    free(p);
    return r;
}

static int each_char(const struct norm *n, struct matcher *m, const char *s, size_t len, struct text *out,
                     struct err *e)
{
    uint32_t cp;
    char c[4];
    (void)m;
    for (size_t at = 0; at < len;) {
        int k = utf8_decode(s + at, len - at, &cp), r = 0;
        if (n->kind == NORM_LOWER && cp == 0x130)
            r = text_append(out, "i\xcc\x87", 3, e); /* the one that has no simple mapping */
        else if (n->kind == NORM_LOWER)
            r = text_append(out, c, (size_t)utf8_encode(utf8_lower(cp), c), e);
        else if (!utf8_is_accent(cp))
            r = text_append(out, s + at, (size_t)k, e);
        if (r) return -1;
        at += (size_t)k;
    }
    return 0;
}

static int replace(const struct norm *n, struct matcher *m, const char *s, size_t len, struct text *out, struct err *e)
{
    struct finder f = {0};
    size_t at = 0, before = out->n, from, to;
    int r;
    while ((r = pattern_next(n->pattern, m, &f, s, len, &from, &to, e)) != 0) {
        if (r < 0 || text_append(out, s + at, from - at, e) || text_append(out, n->text.s, n->text.n, e)) return -1;
        if (out->n - before > NORMAL_GROWTH * len + NORMAL_FREE) return exploded(e);
        at = to;
    }
    return text_append(out, s + at, len - at, e);
}

static int strip(const struct norm *n, const struct text *in, struct text *out, struct err *e)
{
    size_t from = 0, to = in->n;
    uint32_t cp;
    for (int k; n->left && from < to && (k = utf8_decode(in->s + from, to - from, &cp)) > 0 && utf8_is_white(cp);)
        from += (size_t)k;
    while (n->right && from < to) {
        size_t k = 1;
        while (k < 4 && k < to - from && ((uint8_t)in->s[to - k] & 0xc0) == 0x80) k++;
        if (utf8_decode(in->s + to - k, k, &cp) != (int)k || !utf8_is_white(cp)) break;
        to -= k;
    }
    return text_append(out, in->s + from, to - from, e);
}

static int run_one(const struct norm *n, struct matcher *m, const struct text *in, struct text *out, struct err *e)
{
    if (n->kind <= NORM_NFKD) return each_valid(n, m, in, out, e, form);
    if (n->kind == NORM_LOWER || n->kind == NORM_ACCENTS) return each_valid(n, m, in, out, e, each_char);
    if (n->kind == NORM_REPLACE) return each_valid(n, m, in, out, e, replace);
    if (n->kind == NORM_STRIP) return strip(n, in, out, e);
    return text_append(out, n->text.s, n->text.n, e) || text_append(out, in->s, in->n, e) ? -1 : 0; /* PREPEND */
}

int norm_run(const struct norm *n, int count, struct matcher *m, struct text *in, struct text *spare, struct err *e)
{
    for (int i = 0; i < count && in->n; i++) {
        struct text t;
        spare->n = 0;
        if (run_one(&n[i], m, in, spare, e)) return -1;
        t = *in;
        *in = *spare;
        *spare = t;
    }
    return 0;
}
