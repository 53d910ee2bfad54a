/* docs_api: /openapi.json and /docs of each listener, which describe its own routes and need no key.
 *
 * Both are made once, at the start. The page is one HTML text that fetches openapi.json from beside it and draws it; it takes nothing from
 * elsewhere, and its Content-Security-Policy lets it do no more: its own style and script are named by their hashes, everything else is
 * refused. The document has an ETag, so a client that asks often is told 304. Event threads; nothing blocks. */
#include "base/json.h"
#include "base/sha256.h"
#include "gateway/api/admin_api.h"
#include "gateway/api/openapi.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DOCUMENT_MAX (16u << 20)
#define POLICY_MAX 512

struct docs {
    struct {
        char *json;
        size_t len;
        char tag[SHA256_HEX + 2]; /* in quotes */
    } of[DOCS_LISTENERS];
    char policy[POLICY_MAX];
};

/* The hash of what stands between the first <tag> and </tag> of the page, as a policy names it. */
static void hash_of(const char *tag, char out[SHA256_BASE64])
{
    char open[16], close[16];
    uint8_t digest[SHA256_BYTES];
    snprintf(open, sizeof open, "<%s>", tag);
    snprintf(close, sizeof close, "</%s>", tag);
    const char *from = strstr(docs_page, open), *to = from ? strstr(from, close) : NULL;
    from = to ? from + strlen(open) : docs_page;
    sha256_of(from, to ? (size_t)(to - from) : 0, digest);
    sha256_base64(digest, out);
}

static void make_policy(struct docs *d)
{
    char style[SHA256_BASE64], script[SHA256_BASE64];
    hash_of("style", style);
    hash_of("script", script);
    snprintf(d->policy, sizeof d->policy,
             "default-src 'none'; connect-src 'self'; img-src data:; style-src 'sha256-%s'; script-src 'sha256-%s'; "
             "base-uri 'none'; form-action 'none'; "
             "frame-ancestors 'none'",
             style, script);
}

static int print(struct docs *d, int at, json_t *doc, struct err *e)
{
    uint8_t digest[SHA256_BYTES];
    char hex[SHA256_HEX];
    struct buf b;
    buf_init(&b, DOCUMENT_MAX);
    int rc =
        doc && json_dump(doc, false, &b) == 0 ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for the API's description");
    if (rc == 0) {
        sha256_of(b.data, b.len, digest);
        sha256_hex(digest, hex);
        snprintf(d->of[at].tag, sizeof d->of[at].tag, "\"%s\"", hex);
        d->of[at].len = b.len;
        d->of[at].json = buf_take(&b);
        if (!d->of[at].json) rc = err_set(e, ERR_NO_MEMORY, "no memory for the API's description");
    }
    buf_close(&b);
    json_decref(doc);
    return rc;
}

int docs_open(struct docs **out, const struct http_route *const routes[DOCS_LISTENERS], struct err *e)
{
    struct docs *d = calloc(1, sizeof *d);
    json_t *whole = NULL;
    int rc =
        d ? openapi_load(openapi_text, &whole, e) : err_set(e, ERR_NO_MEMORY, "no memory for the API's description");
    for (int i = 0; i < DOCS_LISTENERS && rc == 0; i++) rc = print(d, i, openapi_of(whole, routes[i]), e);
    json_decref(whole);
    if (rc) {
        docs_close(d);
        return -1;
    }
    make_policy(d);
    *out = d;
    return 0;
}

void docs_close(struct docs *d)
{
    if (!d) return;
    for (int i = 0; i < DOCS_LISTENERS; i++) free(d->of[i].json);
    free(d);
}

static void get_document(struct http_request *r)
{
    const struct docs *d = admin_gateway(r)->docs;
    int at = *(const int *)r->route->data;
    const char *have = http_header(r, "if-none-match");
    bool same = have && strstr(have, d->of[at].tag);
    http_set_header(r, "ETag", d->of[at].tag);
    http_set_header(r, "Cache-Control", "no-cache");
    http_reply(r, same ? 304 : 200, NULL, d->of[at].json, d->of[at].len); /* of a 304 the body stays here */
}

static void get_page(struct http_request *r)
{
    http_set_header(r, "Content-Security-Policy", admin_gateway(r)->docs->policy);
    http_set_header(r, "X-Content-Type-Options", "nosniff");
    http_set_header(r, "Referrer-Policy", "no-referrer");
    http_set_header(r, "Cache-Control", "no-cache");
    http_reply(r, 200, "text/html; charset=utf-8", docs_page, strlen(docs_page));
}

static const int public = DOCS_PUBLIC, admin = DOCS_ADMIN;

#define DOCS(at)                                                                                                       \
    {                                                                                                                  \
        {"GET", "/openapi.json", HTTP_BODY_NONE, 0, NULL, NULL, get_document, at},                                     \
            {"GET", "/docs", HTTP_BODY_NONE, 0, NULL, NULL, get_page, at},                                             \
        {                                                                                                              \
            0                                                                                                          \
        }                                                                                                              \
    }

const struct http_route routes_docs_public[] = DOCS(&public), routes_docs[] = DOCS(&admin);
