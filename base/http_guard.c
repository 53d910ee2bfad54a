/* http_guard: the first look at a request, and the only one that is for safety.
 *
 * libmicrohttpd 0.9.75 accepts about half of the messages that two HTTP parsers could read differently, and such a
 * difference, between a proxy in front of us and ourselves, is how one client's bytes become another's request. So
 * whatever has two readings is answered 400 and the connection closed: nothing behind it is read. The headers are
 * copied into the request's arena on the way, for libmicrohttpd's own go with the connection. On a worker; no state.
 *
 * What it can't see is how a chunked body is framed: the library takes extensions, trailers and bare line feeds there and
 * shows none of them. So a chunked request is the last one of its connection (http_exchange.c): wherever two parsers
 * think that it ends, nothing behind it is read. */
#include "base/http_internal.h"
#include <string.h>
#include <strings.h>

static const char *const not_plain =
    "a line of the head that is not plain: CR LF at its end, one space between its parts";

/* Headers of which two are one too many. */
static const char *const single[] = {"content-length", "transfer-encoding", "host",
                                     "authorization",  "content-type",      "expect"};

bool http_is_token(const char *s, size_t n) /* RFC 9110, 5.6.2 */
{
    if (n == 0) return false;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        bool alnum = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
        if (!alnum && (c == 0 || !strchr("!#$%&'*+-.^_`|~", c))) return false;
    }
    return true;
}

bool http_is_text(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if ((c < 0x20 && c != '\t') || c == 0x7F) return false;
    }
    return true;
}

struct walk {
    struct http_exchange *x;
    struct err *e;
    int n;
    const char *next; /* where the next header's name must begin */
};

/* One header; MHD_NO ends the walk with w->e set. */
static enum MHD_Result take_header(void *cls, enum MHD_ValueKind kind, const char *name, size_t name_len,
                                   const char *value, size_t value_len)
{
    (void)kind;
    struct walk *w = cls;
    struct http_exchange *x = w->x;
    if (!value) value = "", value_len = 0;
    if (w->n >= HTTP_HEADERS)
        err_set(w->e, ERR_HEADERS, "more than %d headers", HTTP_HEADERS);
    else if (name != w->next || name[-1] || name[-2])
        err_set(w->e, ERR_BAD_HTTP, "%s", not_plain);
    else if (!http_is_token(name, name_len))
        err_set(w->e, ERR_BAD_HTTP, "a header's name has bytes that are not allowed");
    else if (!http_is_text(value, value_len))
        err_set(w->e, ERR_BAD_HTTP, "a header's value has control bytes");
    if (w->e->code) return MHD_NO;
    w->next = value + value_len + 2;
    struct http_pair *h = &x->header[w->n++];
    h->name = arena_strndup(x->r.arena, name, name_len);
    h->value = arena_strndup(x->r.arena, value, value_len);
    if (h->name && h->value) return MHD_YES;
    err_set(w->e, ERR_NO_MEMORY, "no memory for a request's headers");
    return MHD_NO;
}

/* Content_Length: servers behind a gateway of the old kind (CGI) can't tell it from Content-Length. */
static bool is_underscored(const char *name, const char *plain)
{
    if (!strchr(name, '_') || strlen(name) != strlen(plain)) return false;
    for (; *name; name++, plain++)
        if (strncasecmp(name, plain, 1) != 0 && !(*name == '_' && *plain == '-')) return false;
    return true;
}

static int check_single(const struct http_exchange *x, struct err *e)
{
    for (size_t k = 0; k < sizeof single / sizeof *single; k++) {
        int n = 0;
        for (int i = 0; i < x->nheaders; i++) {
            n += strcasecmp(x->header[i].name, single[k]) == 0;
            if (is_underscored(x->header[i].name, single[k]))
                return err_set(e, ERR_BAD_HTTP, "a header that is %s but for an underscore", single[k]);
        }
        if (n > 1) return err_set(e, ERR_BAD_HTTP, "more than one %s header", single[k]);
    }
    return 0;
}

/* Sets r.content_length and x->chunked. How the lines of a chunked body and its trailers end libmicrohttpd does not tell, and it takes a bare LF or CR: where the
 * body ends has two readings then, so no request may follow it. */
static int check_framing(struct http_exchange *x, struct err *e)
{
    const char *length = http_header(&x->r, "content-length"), *te = http_header(&x->r, "transfer-encoding");
    x->r.content_length = -1;
    if (te && length) return err_set(e, ERR_BAD_HTTP, "both Content-Length and Transfer-Encoding");
    if (te && strcasecmp(te, "chunked")) return err_set(e, ERR_BAD_HTTP, "a Transfer-Encoding other than chunked");
    x->chunked = te != NULL;
    if (!length) return 0;
    size_t n = strlen(length);
    if (n == 0 || n > 18 || strspn(length, "0123456789") != n)
        return err_set(e, ERR_BAD_HTTP, "a Content-Length that is not a number");
    int64_t v = 0;
    for (size_t i = 0; i < n; i++) v = v * 10 + (length[i] - '0');
    x->r.content_length = v;
    return 0;
}

static int check_host(const struct http_exchange *x, struct err *e)
{
    const char *host = http_header(&x->r, "host");
    if (!host || !*host) return err_set(e, ERR_BAD_HTTP, "no Host header");
    for (const char *p = host; *p;
         p++) /* a name, an address, a port: RFC 3986, 3.2.2 without the rarely used sub-delims */
        if (!strchr("-._~:[]%", *p) && !http_is_token(p, 1)) return err_set(e, ERR_BAD_HTTP, "a Host that is none");
    return 0;
}

static int check_line(const struct http_exchange *x, const char *version, struct err *e)
{
    bool v10 = strcmp(version, "HTTP/1.0") == 0;
    if (!v10 && strcmp(version, "HTTP/1.1"))
        return err_set(e, ERR_BAD_HTTP, "a version other than HTTP/1.0 or HTTP/1.1");
    size_t n = strlen(x->r.method); /* all methods of ours and of RFC 9110; "get" is another method, and to some the same */
    if (n == 0 || strspn(x->r.method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != n)
        return err_set(e, ERR_BAD_HTTP, "a method that is not in capital letters");
    return 0;
}

static int check_expect(const struct http_exchange *x, struct err *e)
{
    const char *v = http_header(&x->r, "expect");
    if (v && strcasecmp(v, "100-continue") != 0)
        return err_set(e, ERR_BAD_HTTP, "an Expect other than 100-continue");
    return 0;
}

/* libmicrohttpd makes NULs of the ends of lines. A bare LF and a short line that begins with a colon or NUL, which ends a head to it, are as long as CR LF CR LF: only the bytes tell. */
static int check_head_end(const struct http_exchange *x, const char *method, const char *end, struct err *e)
{
    static const char ends[4];
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    return info && end == method + info->header_size && memcmp(end - 4, ends, 4) == 0 ? 0 : err_set(e, ERR_BAD_HTTP, "%s", not_plain);
}

int http_guard(struct http_exchange *x, const char *method, const char *version, struct err *e)
{
    struct walk w = {.x = x, .e = e, .next = version + strlen(version) + 2};
    if (version != method + strlen(method) + 1 + strlen(x->raw_uri) + 1)
        return err_set(e, ERR_BAD_HTTP, "%s", not_plain);
    MHD_get_connection_values_n(x->mhd, MHD_HEADER_KIND, take_header, &w);
    if (e->code) return -1;
    x->nheaders = w.n;
    if (check_head_end(x, method, w.next + 2, e)) return -1;
    if (check_line(x, version, e) || check_single(x, e) || check_host(x, e) || check_expect(x, e) ||
        check_framing(x, e))
        return -1;
    if (x->chunked && strcmp(version, "HTTP/1.0") == 0)
        return err_set(e, ERR_BAD_HTTP, "Transfer-Encoding in HTTP/1.0");
    return http_uri_parse(x, e);
}
