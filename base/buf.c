/* buf: a byte string that grows by doubling up to its limit.
 *
 * An empty buffer points at one shared NUL and owns nothing, so buf_init() cannot fail; that byte is never written to.
 * One failure (limit or memory) makes the buffer refuse all that follows: a text with a hole in it is never mistaken
 * for a whole one. One owner at a time; no locks. */
#include "base/buf.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CAP 64

static char empty[1]; /* never written: cap 0 marks it */

void buf_init(struct buf *b, size_t limit_bytes)
{
    *b = (struct buf){.data = empty, .limit = limit_bytes < SIZE_MAX / 4 ? limit_bytes : SIZE_MAX / 4};
}

void buf_close(struct buf *b)
{
    if (b->cap) free(b->data);
    buf_init(b, b->limit);
}

void buf_reset(struct buf *b)
{
    b->len = 0;
    b->failed = b->full = false;
    if (b->cap) b->data[0] = 0;
}

char *buf_take(struct buf *b)
{
    char *p = b->cap ? b->data : calloc(1, 1);
    buf_init(b, b->limit);
    return p;
}

void buf_drop_front(struct buf *b, size_t n)
{
    if (!b->cap) return;
    if (n > b->len) n = b->len;
    memmove(b->data, b->data + n, b->len - n + 1);
    b->len -= n;
}

/* Room for n more bytes and the NUL. cap counts without the NUL. */
static int grow(struct buf *b, size_t n)
{
    if (!b->failed) b->full = n > b->limit - b->len;
    if (b->failed || b->full) goto fail;
    if (b->cap && n <= b->cap - b->len) return 0;
    size_t cap = b->cap ? b->cap : FIRST_CAP;
    while (cap - b->len < n) cap *= 2;
    if (cap > b->limit) cap = b->limit;
    char *p = realloc(b->cap ? b->data : NULL, cap + 1);
    if (!p) goto fail;
    b->data = p;
    b->cap = cap;
    b->data[b->len] = 0;
    return 0;
fail:
    b->failed = true;
    return -1;
}

int buf_add(struct buf *b, const void *bytes, size_t n)
{
    if (n == 0) return b->failed ? -1 : 0;
    if (grow(b, n)) return -1;
    memcpy(b->data + b->len, bytes, n);
    b->len += n;
    b->data[b->len] = 0;
    return 0;
}

int buf_adds(struct buf *b, const char *s)
{
    return buf_add(b, s, strlen(s));
}

int buf_addc(struct buf *b, char c)
{
    return buf_add(b, &c, 1);
}

int buf_addu(struct buf *b, uint64_t v)
{
    char digits[20], *p = digits + sizeof digits;
    do *--p = (char)('0' + v % 10);
    while (v /= 10);
    return buf_add(b, p, (size_t)(digits + sizeof digits - p));
}

int buf_addi(struct buf *b, int64_t v)
{
    if (v < 0) buf_addc(b, '-');
    return buf_addu(b, v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
}

int buf_addf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) b->failed = true;
    if (n <= 0) return b->failed ? -1 : 0;
    if (grow(b, (size_t)n)) return -1;
    va_start(ap, fmt);
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
    return 0;
}

/* The well-formed ranges of Unicode 15, table 3-7: by lead byte the length and the bounds of the second byte. */
static size_t lead_rule(unsigned char c, unsigned char *lo, unsigned char *hi)
{
    *lo = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    *hi = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    if (c < 0x80) return 1;
    if (c >= 0xC2 && c <= 0xDF) return 2;
    if (c >= 0xE0 && c <= 0xEF) return 3;
    return c >= 0xF0 && c <= 0xF4 ? 4 : 0;
}

size_t buf_characters(const char *utf8, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)utf8[i] & 0xc0) != 0x80;
    return count;
}

size_t buf_utf8(const char *s, size_t n, bool *valid)
{
    unsigned char lo, hi;
    size_t want = lead_rule((unsigned char)s[0], &lo, &hi), i = 1;
    for (; i < want && i < n; i++, lo = 0x80, hi = 0xBF)
        if ((unsigned char)s[i] < lo || (unsigned char)s[i] > hi) break;
    *valid = want > 0 && i == want;
    return i;
}

static int add_escaped(struct buf *b, unsigned char c)
{
    static const char hex[] = "0123456789abcdef";
    const char *named = "\"\"\\\\\bb\ff\nn\rr\tt"; /* pairs: the byte, the letter after the backslash */
    for (const char *p = named; *p; p += 2)
        if ((unsigned char)*p == c) return buf_add(b, (char[2]){'\\', p[1]}, 2);
    return buf_add(b, (char[6]){'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]}, 6);
}

int buf_add_json(struct buf *b, const char *utf8, size_t n)
{
    buf_addc(b, '"');
    size_t plain = 0, i = 0; /* bytes from plain to i need no change */
    while (i < n) {
        unsigned char c = (unsigned char)utf8[i];
        bool valid = true;
        size_t len = c < 0x80 ? 1 : buf_utf8(utf8 + i, n - i, &valid);
        if (valid && c >= 0x20 && c != '"' && c != '\\') {
            i += len;
            continue;
        }
        buf_add(b, utf8 + plain, i - plain);
        if (valid)
            add_escaped(b, c);
        else
            buf_adds(b, "\xEF\xBF\xBD");
        plain = i += len;
    }
    buf_add(b, utf8 + plain, n - plain);
    return buf_addc(b, '"');
}
