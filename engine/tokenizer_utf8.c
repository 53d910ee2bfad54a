/* Characters: strict UTF-8, and Unicode's tables as utf8proc has them (this file is its only home).
 *
 * Composition (NFC) is asked for by few vocabularies, and nearly all text is composed already: a text without any character from
 * U+0300 on cannot change, which is decided in one pass. utf8proc orders combining marks by exchanging neighbours, quadratic in the
 * length of a run; a stranger's megabyte of marks would take minutes. So a long run is cut, which changes only text that no
 * language writes.
 *
 * Any thread; no state. */
#include "engine/tokenizer_utf8.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define MARKS_MAX 128         /* combining marks ordered together */
#define FIRST_COMBINING 0x300 /* below it every character is a starter and composes with nothing before it */

int utf8_decode(const char *text, size_t n, uint32_t *cp)
{
    static const struct {
        uint8_t mask, lead, len;
        uint32_t least;
    } forms[] = {{0x80, 0x00, 1, 0}, {0xe0, 0xc0, 2, 0x80}, {0xf0, 0xe0, 3, 0x800}, {0xf8, 0xf0, 4, 0x10000}};
    const uint8_t *s = (const uint8_t *)text;
    if (n == 0) return UTF8_MORE;
    for (size_t f = 0; f < 4; f++) {
        if ((s[0] & forms[f].mask) != forms[f].lead) continue;
        int len = forms[f].len;
        uint32_t c = s[0] & (uint8_t)~forms[f].mask;
        if ((len == 2 && s[0] < 0xc2) || s[0] > 0xf4) return UTF8_BAD;
        for (int i = 1; i < len; i++) {
            if ((size_t)i >= n) return UTF8_MORE;
            if ((s[i] & 0xc0) != 0x80) return UTF8_BAD;
            c = c << 6 | (s[i] & 0x3f);
            /* What can't become valid any more is bad at once: it must not be waited for. */
            if (i == 1 && len > 2) {
                uint32_t low = c << (6 * (len - 2)), high = low | ((1u << (6 * (len - 2))) - 1);
                if (high < forms[f].least || low > 0x10ffff || (low >= 0xd800 && high <= 0xdfff)) return UTF8_BAD;
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

size_t utf8_count(const char *s, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++) k += ((uint8_t)s[i] & 0xc0) != 0x80;
    return k;
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

/* --- NFC --- */

static bool may_compose(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((uint8_t)s[i] >= 0xcc) return true; /* U+0300 is CC 80 */
    return false;
}

/* Where a piece that begins at s may end: n, or inside a run of too many marks. */
static size_t piece_end(const char *s, size_t n)
{
    size_t at = 0;
    int marks = 0;
    uint32_t cp;
    while (at < n) {
        int len = utf8_decode(s + at, n - at, &cp);
        marks = cp >= FIRST_COMBINING && utf8proc_get_property((utf8proc_int32_t)cp)->combining_class ? marks + 1 : 0;
        if (marks > MARKS_MAX) break;
        at += (size_t)len;
    }
    return at;
}

static int compose_piece(const char *s, size_t n, char *out, size_t room, size_t *outlen)
{
    utf8proc_uint8_t *p = NULL;
    utf8proc_ssize_t len =
        utf8proc_map((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &p, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    int r = len < 0 || (size_t)len > room ? -1 : 0;
    if (!r) {
        memcpy(out, p, (size_t)len);
        *outlen = (size_t)len;
    }
    free(p);
    return r;
}

int utf8_nfc(const char *s, size_t n, char **out, size_t *outlen)
{
    size_t room = 3 * n + 1, used = 0; /* UAX 15: NFC grows UTF-8 at most threefold */
    *out = NULL;
    if (!may_compose(s, n)) return 0;
    char *o = malloc(room);
    if (!o) return -1;
    for (size_t at = 0; at < n;) {
        size_t len = piece_end(s + at, n - at), got = 0;
        if (compose_piece(s + at, len, o + used, room - used, &got)) {
            free(o);
            return -1;
        }
        at += len;
        used += got;
    }
    *out = o;
    *outlen = used;
    return 0;
}
