/* The reader of tokenizer.json: see the header. Strict about what it walks through: brackets, commas, strings (escapes, UTF-8) and depth;
 * values that are skipped are checked by whoever parses them. One thread, no allocation but the caller's text. */
#include "engine/tokenizer_json.h"
#include "engine/tokenizer_utf8.h"
#include <string.h>

int js_fail(struct js *j, const char *what)
{
    return err_set(j->e, ERR_MODEL, "tokenizer.json: %s", what);
}

char js_peek(struct js *j)
{
    while (j->at < j->end && (*j->at == ' ' || *j->at == '\n' || *j->at == '\t' || *j->at == '\r')) j->at++;
    return j->at < j->end ? *j->at : 0;
}

int js_next(struct js *j, char open, bool *first, struct text *key)
{
    char close = open == '{' ? '}' : ']', c = js_peek(j);
    if (*first) {
        if (c != open) return js_fail(j, open == '{' ? "an object was expected" : "an array was expected");
        j->at++;
        c = js_peek(j);
    } else if (c != close) {
        if (c != ',') return js_fail(j, "it is no JSON: a comma or a closing bracket was expected");
        j->at++;
        c = js_peek(j);
        if (c == close) return js_fail(j, "it is no JSON: a comma before a closing bracket");
    }
    *first = false;
    if (c == close) {
        j->at++;
        return 0;
    }
    if (open != '{') return 1;
    if (js_string(j, key)) return -1;
    if (js_peek(j) != ':') return js_fail(j, "it is no JSON: a colon was expected");
    j->at++;
    return 1;
}

static int hex4(struct js *j, uint32_t *out)
{
    uint32_t v = 0;
    if (j->end - j->at < 4) return js_fail(j, "it ends inside a string");
    for (int i = 0; i < 4; i++, j->at++) {
        char c = *j->at;
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0) return js_fail(j, "a \\u escape is not of four hex digits");
        v = v << 4 | (uint32_t)d;
    }
    *out = v;
    return 0;
}

static int unicode_escape(struct js *j, struct text *out)
{
    uint32_t cp, low;
    char s[4];
    if (hex4(j, &cp)) return -1;
    if (cp >= 0xd800 && cp < 0xdc00) {
        if (j->end - j->at < 6 || j->at[0] != '\\' || j->at[1] != 'u') return js_fail(j, "half of a surrogate pair");
        j->at += 2;
        if (hex4(j, &low)) return -1;
        if (low < 0xdc00 || low > 0xdfff) return js_fail(j, "half of a surrogate pair");
        cp = 0x10000 + ((cp - 0xd800) << 10) + (low - 0xdc00);
    } else if (cp >= 0xdc00 && cp <= 0xdfff) {
        return js_fail(j, "half of a surrogate pair");
    }
    return text_append(out, s, (size_t)utf8_encode(cp, s), j->e);
}

static int escape(struct js *j, struct text *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = j->at < j->end ? *j->at++ : 0;
    const char *p = c ? strchr(from, c) : NULL;
    if (c == 'u') return unicode_escape(j, out);
    return p ? text_append(out, &to[p - from], 1, j->e) : js_fail(j, "an escape that JSON does not have");
}

int js_string(struct js *j, struct text *out)
{
    if (js_peek(j) != '"') return js_fail(j, "a string was expected");
    j->at++;
    out->n = 0;
    for (;;) {
        const char *from = j->at;
        while (j->at < j->end && *j->at != '"' && *j->at != '\\' && (uint8_t)*j->at >= 0x20) j->at++;
        if (utf8_valid(from, (size_t)(j->at - from)) != (size_t)(j->at - from))
            return js_fail(j, "a string is no UTF-8");
        if (text_append(out, from, (size_t)(j->at - from), j->e)) return -1;
        if (j->at == j->end) return js_fail(j, "it ends inside a string");
        char c = *j->at++;
        if (c == '"') return 0;
        if (c != '\\') return js_fail(j, "a control character inside a string");
        if (escape(j, out)) return -1;
    }
}

int js_int(struct js *j, int64_t *out)
{
    int64_t v = 0;
    bool minus = js_peek(j) == '-';
    const char *from = j->at += minus;
    for (; j->at < j->end && *j->at >= '0' && *j->at <= '9' && j->at - from < 18; j->at++) v = v * 10 + (*j->at - '0');
    if (j->at == from || (j->at < j->end && strchr("0123456789.eE", *j->at)))
        return js_fail(j, "a whole number was expected");
    *out = minus ? -v : v;
    return 0;
}

int js_bool(struct js *j, bool *out)
{
    bool yes = js_peek(j) == 't';
    size_t n = yes ? 4 : 5;
    if ((size_t)(j->end - j->at) < n || memcmp(j->at, yes ? "true" : "false", n))
        return js_fail(j, "true or false was expected");
    j->at += n;
    *out = yes;
    return 0;
}

static int skip_string(struct js *j)
{
    for (j->at++; j->at < j->end && *j->at != '"'; j->at++)
        if (*j->at == '\\') j->at++;
    if (j->at >= j->end) {
        j->at = j->end;
        return js_fail(j, "it ends inside a string");
    }
    j->at++;
    return 0;
}

/* Brackets are counted, not matched: what lies between them is parsed by somebody else. */
int js_skip(struct js *j, const char **from, size_t *len)
{
    int depth = 0;
    if (!js_peek(j)) return js_fail(j, "it ends where a value was expected");
    *from = j->at;
    while (j->at < j->end) {
        char c = *j->at;
        if (c == '"') {
            if (skip_string(j)) return -1;
            if (depth == 0) break;
            continue;
        }
        if (depth == 0 && strchr(",:]} \t\r\n", c)) break;
        if (c == '{' || c == '[') depth++;
        if (depth > JS_DEPTH) return js_fail(j, "more than 64 levels of brackets");
        j->at++;
        if ((c == '}' || c == ']') && --depth == 0) break;
    }
    if (depth) return js_fail(j, "it ends inside brackets");
    *len = (size_t)(j->at - *from);
    return *len ? 0 : js_fail(j, "a value was expected");
}
