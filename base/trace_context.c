/* trace_context: reads and writes the two headers of W3C Trace Context (https://www.w3.org/TR/trace-context-1/).
 *
 *     traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
 *                  version, trace, the caller's span, flags (bit 0: sampled); lower-case digits, no id all zero
 *
 * The header comes from strangers, and what is read here goes into logs and on to other programs: so only digits leave,
 * never text. Version ff is invalid; of a later version the four first parts are read, and 00 is what we say on, as the
 * text asks of who does not know it. Any thread, no state. */
#include "base/trace_context.h"
#include <stdio.h>
#include <string.h>

#define MEMBERS_MAX 32
#define KEY_MAX 256
#define VALUE_MAX 256

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* n bytes from 2 n digits. */
static bool read_hex(const char *s, size_t n, uint8_t *out)
{
    for (size_t i = 0; i < n; i++) {
        int high = digit(s[2 * i]), low = high < 0 ? -1 : digit(s[2 * i + 1]);
        if (low < 0) return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static bool is_zero(const uint8_t *bytes, size_t n)
{
    uint8_t any = 0;
    for (size_t i = 0; i < n; i++) any |= bytes[i];
    return any == 0;
}

void trace_hex(const uint8_t *bytes, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        *out++ = digits[bytes[i] >> 4];
        *out++ = digits[bytes[i] & 15];
    }
    *out = 0;
}

bool traceparent_parse(const char *text, struct trace_context *out)
{
    struct trace_context c;
    uint8_t version, flags;
    size_t n = text ? strlen(text) : 0;
    if (n < TRACEPARENT_LEN - 1 || !read_hex(text, 1, &version) || version == 0xff) return false;
    if (n > TRACEPARENT_LEN - 1 && (version == 0 || text[TRACEPARENT_LEN - 1] != '-')) return false;
    if (text[2] != '-' || text[35] != '-' || text[52] != '-') return false;
    if (!read_hex(text + 3, TRACE_BYTES, c.trace) || !read_hex(text + 36, SPAN_BYTES, c.span) || !read_hex(text + 53, 1, &flags)) return false;
    if (is_zero(c.trace, TRACE_BYTES) || is_zero(c.span, SPAN_BYTES)) return false;
    c.sampled = flags & 1;
    *out = c;
    return true;
}

void traceparent_print(const struct trace_context *c, char out[TRACEPARENT_LEN])
{
    char trace[TRACE_HEX], span[SPAN_HEX];
    trace_hex(c->trace, TRACE_BYTES, trace);
    trace_hex(c->span, SPAN_BYTES, span);
    snprintf(out, TRACEPARENT_LEN, "00-%s-%s-%02x", trace, span, c->sampled ? 1u : 0u);
}

void traceparent_trace(const char *text, char out[TRACE_HEX])
{
    struct trace_context c;
    out[0] = 0;
    if (traceparent_parse(text, &c)) trace_hex(c.trace, TRACE_BYTES, out);
}

static bool is_key(const char *s, size_t n)
{
    if (n == 0 || n > KEY_MAX) return false;
    for (size_t i = 0; i < n; i++)
        if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= '0' && s[i] <= '9') || memchr("_-*/@", s[i], 5))) return false;
    return true;
}

static bool is_value(const char *s, size_t n)
{
    if (n == 0 || n > VALUE_MAX || s[n - 1] == ' ') return false;
    for (size_t i = 0; i < n; i++)
        if (s[i] < ' ' || s[i] > '~' || s[i] == ',' || s[i] == '=') return false;
    return true;
}

/* One member, without the white space around it; an empty one is allowed. */
static bool is_member(const char *s, size_t n)
{
    while (n && (*s == ' ' || *s == '\t')) s++, n--;
    while (n && (s[n - 1] == ' ' || s[n - 1] == '\t')) n--;
    const char *eq = n ? memchr(s, '=', n) : NULL;
    return n == 0 || (eq && is_key(s, (size_t)(eq - s)) && is_value(eq + 1, n - (size_t)(eq + 1 - s)));
}

bool tracestate_is(const char *text)
{
    int members = 0;
    if (strlen(text) > TRACESTATE_MAX) return false;
    for (const char *s = text;; s++) {
        size_t n = strcspn(s, ",");
        if (++members > MEMBERS_MAX || !is_member(s, n)) return false;
        s += n;
        if (!*s) return true;
    }
}
