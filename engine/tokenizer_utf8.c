/* Characters: strict UTF-8, and Unicode's tables as utf8proc has them (this file is its only home).
 *
 * Normal forms (UAX 15) are asked for by few vocabularies, and nearly all text is composed already: a text without any byte from
 * CC on (U+0300) is in NFC, which is decided in one pass. utf8proc orders combining marks by exchanging neighbours, quadratic in the
 * length of a run; a stranger's megabyte of marks would take minutes, so characters are taken apart and put together by utf8proc,
 * and ordered here.
 *
 * Any thread; no state. */
#include "engine/tokenizer_utf8.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define FIRST_COMBINING 0x300 /* below it every character is a starter and composes with nothing before it */
#define DECOMPOSED_MAX 32     /* characters that one becomes: 18 at most (U+FDFA) */
#define PART_BYTES 65536      /* normalized at a time, at least */

int utf8_decode(const char *text, size_t n, uint32_t *cp)
{
    static const struct {
        uint8_t mask, lead, len;
        uint32_t least;
    } shapes[] = {{0x80, 0x00, 1, 0}, {0xe0, 0xc0, 2, 0x80}, {0xf0, 0xe0, 3, 0x800}, {0xf8, 0xf0, 4, 0x10000}};
    const uint8_t *s = (const uint8_t *)text;
    if (n == 0) return UTF8_MORE;
    for (size_t f = 0; f < 4; f++) {
        if ((s[0] & shapes[f].mask) != shapes[f].lead) continue;
        int len = shapes[f].len;
        uint32_t c = s[0] & (uint8_t)~shapes[f].mask;
        if ((len == 2 && s[0] < 0xc2) || s[0] > 0xf4) return UTF8_BAD;
        for (int i = 1; i < len; i++) {
            if ((size_t)i >= n) return UTF8_MORE;
            if ((s[i] & 0xc0) != 0x80) return UTF8_BAD;
            c = c << 6 | (s[i] & 0x3f);
            /* What can't become valid any more is bad at once: it must not be waited for. */
            if (i == 1 && len > 2) {
                uint32_t low = c << (6 * (len - 2)), high = low | ((1u << (6 * (len - 2))) - 1);
                if (high < shapes[f].least || low > 0x10ffff || (low >= 0xd800 && high <= 0xdfff)) return UTF8_BAD;
            }
        }
        *cp = c;
        return len;
    }
    return UTF8_BAD;
}

size_t utf8_valid(const char *s, size_t n)
{
    size_t at = 0;
    uint32_t cp;
    while (at < n) {
        int len = utf8_decode(s + at, n - at, &cp);
        if (len <= 0) break;
        at += (size_t)len;
    }
    return at;
}

int utf8_encode(uint32_t cp, char out[4])
{
    return (int)utf8proc_encode_char((utf8proc_int32_t)cp, (utf8proc_uint8_t *)out);
}

uint32_t utf8_upper(uint32_t cp)
{
    return (uint32_t)utf8proc_toupper((utf8proc_int32_t)cp);
}

uint32_t utf8_lower(uint32_t cp)
{
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
}

bool utf8_is_alpha(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

bool utf8_is_digit(uint32_t cp)
{
    return utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_ND;
}

bool utf8_is_space(uint32_t cp)
{
    if ((cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x20) || cp == 0x85) return true;
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_ZS || c == UTF8PROC_CATEGORY_ZL || c == UTF8PROC_CATEGORY_ZP;
}

bool utf8_is_printable(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    if (cp == ' ') return true;
    return c != UTF8PROC_CATEGORY_CN && !(c >= UTF8PROC_CATEGORY_ZS && c <= UTF8PROC_CATEGORY_CO);
}

bool utf8_is_white(uint32_t cp)
{
    return utf8_is_space(cp) && !(cp >= 0x1c && cp <= 0x1f);
}

bool utf8_is_numeric(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO;
}

bool utf8_is_punct(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO;
}

bool utf8_is_accent(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_MN && c <= UTF8PROC_CATEGORY_ME;
}

/* Other_Alphabetic beyond marks are the circled and squared letters. */
bool utf8_is_word(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_NL) || c == UTF8PROC_CATEGORY_PC ||
           (cp >= 0x24b6 && cp <= 0x24e9) || (cp >= 0x1f130 && cp <= 0x1f149) || (cp >= 0x1f150 && cp <= 0x1f169) ||
           (cp >= 0x1f170 && cp <= 0x1f189);
}

/* --- normal forms --- */

static const struct {
    uint8_t least; /* text whose bytes are all below is in the form already */
    bool compose;
    utf8proc_option_t options;
} forms[] = {
    [UTF8_NFC] = {0xcc, true, UTF8PROC_DECOMPOSE}, /* U+0300 is CC 80 */
    [UTF8_NFD] = {0xc3, false, UTF8PROC_DECOMPOSE},
    [UTF8_NFKC] = {0xc2, true, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT},
    [UTF8_NFKD] = {0xc2, false, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT},
};

struct normal {
    utf8proc_int32_t *cp, *spare; /* characters of one part of the text; one block */
    size_t n, cap;
    char *out;
    size_t used, room;
};

static int class_of(utf8proc_int32_t cp)
{
    return cp < FIRST_COMBINING ? 0 : utf8proc_get_property(cp)->combining_class;
}

static int grow_part(struct normal *w)
{
    size_t cap = w->cap * 2 + 256;
    utf8proc_int32_t *p = realloc(w->cp, 2 * cap * sizeof *p);
    if (!p) return -1;
    w->cp = p;
    w->spare = p + cap;
    w->cap = cap;
    return 0;
}

static int decompose(struct normal *w, enum utf8_form f, const char *s, size_t n)
{
    uint32_t cp;
    int bound = 0;
    w->n = 0;
    for (size_t at = 0; at < n;) {
        at += (size_t)utf8_decode(s + at, n - at, &cp);
        if (w->cap - w->n < DECOMPOSED_MAX && grow_part(w)) return -1;
        w->n += (size_t)utf8proc_decompose_char((utf8proc_int32_t)cp, w->cp + w->n, DECOMPOSED_MAX,
                                                forms[f].options | UTF8PROC_STABLE, &bound);
    }
    return 0;
}

/* Orders a run of marks by their combining class, equal ones as they stand: by counting, so a megabyte of marks takes no longer than
 * a megabyte of letters. (Short runs, nearly all there are, by insertion.) */
static void order_run(struct normal *w, size_t from, size_t to)
{
    size_t at[257] = {0};
    utf8proc_int32_t *p = w->cp;
    if (to - from < 32) {
        for (size_t i = from + 1; i < to; i++)
            for (size_t k = i; k > from && class_of(p[k - 1]) > class_of(p[k]); k--) {
                utf8proc_int32_t c = p[k];
                p[k] = p[k - 1];
                p[k - 1] = c;
            }
        return;
    }
    for (size_t i = from; i < to; i++) at[class_of(p[i]) + 1]++;
    for (int c = 0; c < 256; c++) at[c + 1] += at[c];
    for (size_t i = from; i < to; i++) w->spare[at[class_of(p[i])]++] = p[i];
    memcpy(p + from, w->spare, (to - from) * sizeof *p);
}

static void order_marks(struct normal *w)
{
    for (size_t i = 0; i < w->n; i++) {
        size_t from = i;
        while (i < w->n && class_of(w->cp[i])) i++;
        if (i - from > 1) order_run(w, from, i);
    }
}

static int write_part(struct normal *w)
{
    size_t want = w->used + 4 * w->n;
    if (want > w->room) {
        char *p = realloc(w->out, want + want / 2);
        if (!p) return -1;
        w->out = p;
        w->room = want + want / 2;
    }
    for (size_t i = 0; i < w->n; i++) w->used += (size_t)utf8_encode((uint32_t)w->cp[i], w->out + w->used);
    return 0;
}

/* Parts end before an ASCII character, which combines with nothing before it. */
static size_t part_end(const char *s, size_t n)
{
    size_t at = PART_BYTES;
    while (at < n && (uint8_t)s[at] >= 0x80) at++;
    return at < n ? at : n;
}

static int normalize(struct normal *w, enum utf8_form f, const char *s, size_t n)
{
    for (size_t at = 0; at < n;) {
        size_t len = part_end(s + at, n - at);
        if (decompose(w, f, s + at, len)) return -1;
        order_marks(w);
        if (forms[f].compose)
            w->n = (size_t)utf8proc_normalize_utf32(w->cp, (utf8proc_ssize_t)w->n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
        if (write_part(w)) return -1;
        at += len;
    }
    return 0;
}

int utf8_normal(enum utf8_form f, const char *s, size_t n, char **out, size_t *outlen)
{
    struct normal w = {.room = n + 16};
    size_t i = 0;
    *out = NULL;
    while (i < n && (uint8_t)s[i] < forms[f].least) i++;
    if (i == n) return 0;
    w.out = malloc(w.room);
    int r = w.out ? normalize(&w, f, s, n) : -1;
    free(w.cp);
    if (r) {
        free(w.out);
        return -1;
    }
    *out = w.out;
    *outlen = w.used;
    return 0;
}
