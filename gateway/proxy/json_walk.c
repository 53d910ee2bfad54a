/* The walk: one look at each byte, strings and brackets are all it knows.
 *
 *   object   { key : value , key : value }      array   [ value , value ]
 *
 * A value ends where its string does, where its bracket is closed (brackets within strings don't count, and their depth is
 * only counted, so nothing nests here), or before the next comma, bracket or space. Any thread. */
#include "gateway/proxy/json_walk.h"
#include <string.h>

static const char *skip_space(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')) p++;
    return p;
}

/* Behind the string at p; NULL: it has no end. */
static const char *skip_string(const char *p, const char *end)
{
    for (p++; p < end; p++) {
        if (*p == '\\')
            p++;
        else if (*p == '"')
            return p + 1;
    }
    return NULL;
}

static const char *skip_nested(const char *p, const char *end)
{
    size_t depth = 0;
    while (p < end) {
        if (*p == '"') {
            if (!(p = skip_string(p, end))) return NULL;
            continue;
        }
        if (*p == '{' || *p == '[') depth++;
        if ((*p == '}' || *p == ']') && --depth == 0) return p + 1;
        p++;
    }
    return NULL;
}

static const char *skip_value(const char *p, const char *end)
{
    const char *from = p;
    if (p == end) return NULL;
    if (*p == '"') return skip_string(p, end);
    if (*p == '{' || *p == '[') return skip_nested(p, end);
    while (p < end && !memchr(" \t\r\n,:{}[]\"", *p, 11)) p++;
    return p > from ? p : NULL;
}

/* Stands at the next member or item: 1; at the closing bracket, passed: 0; -1: neither. */
static int step(struct json_walk *w, char open, char close)
{
    const char *p = skip_space(w->p, w->end);
    if (p == w->end || (!w->begun && *p != open)) return -1;
    if (w->begun && *p == close) {
        w->p = p + 1;
        return 0;
    }
    if (w->begun && *p != ',') return -1;
    bool first = !w->begun;
    w->begun = true;
    p = skip_space(p + 1, w->end);
    w->p = p;
    if (p == w->end) return -1;
    if (first && *p == close) {
        w->p = p + 1;
        return 0;
    }
    return 1;
}

static int take_value(struct json_walk *w, struct json_span *out)
{
    const char *from = w->p, *to = skip_value(from, w->end);
    if (!to) return -1;
    *out = (struct json_span){from, (size_t)(to - from)};
    w->p = to;
    return 1;
}

int json_walk_item(struct json_walk *w, struct json_span *out)
{
    int rc = step(w, '[', ']');
    return rc <= 0 ? rc : take_value(w, out);
}

int json_walk_member(struct json_walk *w, struct json_member *out)
{
    int rc = step(w, '{', '}');
    if (rc <= 0) return rc;
    if (*w->p != '"' || take_value(w, &out->key) < 0) return -1;
    w->p = skip_space(w->p, w->end);
    if (w->p == w->end || *w->p != ':') return -1;
    w->p = skip_space(w->p + 1, w->end);
    return take_value(w, &out->value);
}

bool json_walk_named(const struct json_member *m, const char *name)
{
    size_t n = strlen(name);
    return m->key.n == n + 2 && memcmp(m->key.s + 1, name, n) == 0;
}

bool json_walk_find(struct json_span object, const char *name, struct json_span *out)
{
    struct json_walk w = json_walk(object);
    struct json_member m;
    while (json_walk_member(&w, &m) > 0)
        if (json_walk_named(&m, name)) {
            *out = m.value;
            return true;
        }
    return false;
}

bool json_span_is(struct json_span v, const char *text)
{
    return v.n == strlen(text) && memcmp(v.s, text, v.n) == 0;
}

bool json_span_count(struct json_span v, int64_t *out)
{
    int64_t n = 0;
    if (v.n == 0 || v.n > 10) return false;
    for (size_t i = 0; i < v.n; i++) {
        if (v.s[i] < '0' || v.s[i] > '9') return false;
        n = n * 10 + (v.s[i] - '0');
    }
    if (n > INT32_MAX) return false;
    *out = n;
    return true;
}
