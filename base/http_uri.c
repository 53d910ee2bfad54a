/* http_uri: request targets, percent-decoded exactly once.
 *
 * libmicrohttpd would decode before we see anything, and what it makes of %00 or %2F could be read differently by
 * whoever stands in front of us; its decoder is replaced by one that does nothing, and the raw target is taken apart
 * here. In the path there are no empty or dot segments, no encoded slash or backslash, no control bytes, and it is
 * UTF-8. Query arguments are decoded when first asked for; "+" is a space there. Worker, later the handler's thread;
 * memory is the request's. */
#include "base/http_internal.h"
#include <string.h>

static int hex(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* n bytes of s into fresh arena memory. The escapes were checked before. */
static char *decode(struct arena *a, const char *s, size_t n, bool plus)
{
    char *out = arena_alloc(a, n + 1), *p = out;
    if (!out) return NULL;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '%') {
            *p++ = (char)(hex(s[i + 1]) << 4 | hex(s[i + 2]));
            i += 2;
        } else
            *p++ = plus && s[i] == '+' ? ' ' : s[i];
    }
    *p = 0;
    return out;
}

static int check_bytes(const char *uri, struct err *e)
{
    for (const char *p = uri; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (c <= 0x20 || c >= 0x7F || c == '\\' || c == '#')
            return err_set(e, ERR_BAD_HTTP, "a byte in the target that is not allowed");
        if (c != '%') continue;
        if (hex(p[1]) < 0 || hex(p[2]) < 0) return err_set(e, ERR_BAD_HTTP, "a %% in the target that starts no escape");
        if (p[1] == '0' && p[2] == '0') return err_set(e, ERR_BAD_HTTP, "an encoded NUL in the target");
    }
    return 0;
}

static int check_raw_path(const char *path, size_t n, struct err *e)
{
    if (n == 0 || path[0] != '/') return err_set(e, ERR_BAD_HTTP, "a target that does not start with a slash");
    for (size_t i = 0; i + 2 < n; i++) {
        int byte = path[i] == '%' ? hex(path[i + 1]) << 4 | hex(path[i + 2]) : -1;
        if (byte == '/' || byte == '\\') return err_set(e, ERR_BAD_HTTP, "an encoded slash or backslash in the path");
        if ((byte >= 0 && byte < 0x20) || byte == 0x7F)
            return err_set(e, ERR_BAD_HTTP, "an encoded control byte in the path");
    }
    return 0;
}

static int check_path(const char *path, struct err *e)
{
    for (const char *p = path; *p;) {
        size_t n = strcspn(++p, "/");
        if ((n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
            return err_set(e, ERR_BAD_HTTP, "a dot segment in the path");
        if (n == 0 && p[0] == '/') return err_set(e, ERR_BAD_HTTP, "an empty segment in the path");
        p += n;
    }
    for (size_t n = strlen(path), i = 0; i < n;) {
        bool valid;
        i += buf_utf8(path + i, n - i, &valid);
        if (!valid) return err_set(e, ERR_BAD_HTTP, "a path that is not UTF-8");
    }
    return 0;
}

int http_uri_parse(struct http_exchange *x, struct err *e)
{
    const char *uri = x->raw_uri;
    size_t n = strcspn(uri, "?");
    if (check_bytes(uri, e) || check_raw_path(uri, n, e)) return -1;
    const char *path = decode(x->r.arena, uri, n, false);
    if (!path) return err_set(e, ERR_NO_MEMORY, "no memory for a path");
    if (check_path(path, e)) return -1;
    x->r.path = path;
    x->query = uri[n] == '?' ? uri + n + 1 : NULL;
    return 0;
}

/* --- query arguments --- */

static void parse_args(struct http_exchange *x)
{
    if (x->args_parsed) return;
    x->args_parsed = true;
    struct http_pair **tail = &x->args;
    const char *p = x->query;
    for (int i = 0; p && *p && i < HTTP_QUERY_ARGS; i++) {
        size_t n = strcspn(p, "&"), name = strcspn(p, "=&");
        struct http_pair *a = arena_alloc(x->r.arena, sizeof *a);
        if (!a) return;
        a->name = decode(x->r.arena, p, name, true);
        a->value = name < n ? decode(x->r.arena, p + name + 1, n - name - 1, true) : "";
        if (!a->name || !a->value) return;
        if (n) {
            *tail = a;
            tail = &a->next;
        }
        p += n + (p[n] == '&');
    }
}

const char *http_query(const struct http_request *r, const char *name)
{
    struct http_exchange *x = (struct http_exchange *)r;
    parse_args(x);
    for (const struct http_pair *a = x->args; a; a = a->next)
        if (strcmp(a->name, name) == 0) return a->value;
    return NULL;
}

void http_query_each(const struct http_request *r, void (*fn)(void *u, const char *name, const char *value), void *u)
{
    struct http_exchange *x = (struct http_exchange *)r;
    parse_args(x);
    for (const struct http_pair *a = x->args; a; a = a->next) fn(u, a->name, a->value);
}
