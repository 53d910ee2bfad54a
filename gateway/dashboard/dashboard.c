/* dashboard: the pages under /dashboard of both listeners, as static files that are part of the program.
 *
 * Idea: the pages are an API client like any other. They hold no data, need no key and know nothing that a stranger may not know; the key is
 * typed into them, stays in the browser's memory, and goes to /v1 or /admin/v1 of the same listener as a bearer. There is no cookie, so there
 * is nothing that another site could make a browser send. One set of files serves operators and tenants: which of the two APIs answers here,
 * and what the key may do, decides what is shown.
 *
 * What keeps a hostile name from becoming code, were a page ever careless: the policy below allows scripts and styles from this listener's own
 * files only, none inline and no eval, and takes away the browser's ways to make markup out of text (Trusted Types without any policy), so
 * innerHTML would throw. The same policy stands on every file: one that is opened by itself is no weaker.
 *
 *     GET /dashboard         index.html
 *     GET /dashboard/        moved to the above: relative addresses in the page have one meaning
 *     GET /dashboard/{file}  one of the table; every file lies flat, so a name is compared and never a path opened
 *
 * ETag is the SHA-256 of the bytes; browsers ask each time and are told 304 (an update shows at once, a visit costs a header each). Setting
 * `dashboard` false: 404, as if there was none. Event threads; nothing blocks, nothing is allocated but the answer. */
#include "gateway/dashboard/dashboard.h"
#include "base/sha256.h"
#include "gateway/api/admin_api.h"
#include "gateway/settings.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define FILES_MAX 96
#define INDEX "index.html"

static const struct {
    const char *name, *value;
} headers[] = {
    {"Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; font-src 'self'; "
                                "form-action 'none'; frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'; trusted-types 'none'"},
    {"X-Content-Type-Options", "nosniff"},
    {"Referrer-Policy", "no-referrer"},
    {"Cross-Origin-Opener-Policy", "same-origin"},
    {"Cross-Origin-Resource-Policy", "same-origin"},
    {"Cache-Control", "no-cache"},
};

static const struct {
    const char *ending, *type;
} types[] = {
    {".html", "text/html; charset=utf-8"},
    {".js", "text/javascript; charset=utf-8"},
    {".css", "text/css; charset=utf-8"},
    {".svg", "image/svg+xml"},
};

static char tags[FILES_MAX][SHA256_HEX + 2]; /* in quotes; of the file at the same place of the table */
static pthread_once_t tagged = PTHREAD_ONCE_INIT;

static void make_tags(void)
{
    for (int i = 0; i < FILES_MAX && dashboard_files[i].name; i++) {
        const struct dashboard_file *f = &dashboard_files[i];
        uint8_t digest[SHA256_BYTES];
        char hex[SHA256_HEX];
        sha256_of(f->from, (size_t)(f->to - f->from), digest);
        sha256_hex(digest, hex);
        snprintf(tags[i], sizeof tags[i], "\"%s\"", hex);
    }
}

static const char *type_of(const char *name)
{
    const char *ending = strrchr(name, '.');
    for (size_t i = 0; ending && i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].ending, ending) == 0) return types[i].type;
    return "application/octet-stream";
}

static void send_file(struct http_request *r, int at)
{
    const struct dashboard_file *f = &dashboard_files[at];
    const char *have = http_header(r, "if-none-match");
    bool same = have && strstr(have, tags[at]);
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) http_set_header(r, headers[i].name, headers[i].value);
    http_set_header(r, "ETag", tags[at]);
    http_reply(r, same ? 304 : 200, type_of(f->name), f->from, same ? 0 : (size_t)(f->to - f->from));
}

static void refuse(struct http_request *r, const char *name)
{
    struct err e = {0};
    err_set(&e, ERR_NOT_FOUND, "there is no page /dashboard/%.64s here", name);
    http_reply_error(r, &e);
}

static void serve(struct http_request *r, const char *name)
{
    int at = 0;
    pthread_once(&tagged, make_tags);
    while (at < FILES_MAX && dashboard_files[at].name && strcmp(dashboard_files[at].name, name) != 0) at++;
    if (!admin_gateway(r)->set->dashboard || at == FILES_MAX || !dashboard_files[at].name)
        refuse(r, name);
    else
        send_file(r, at);
}

static void get_index(struct http_request *r) { serve(r, INDEX); }

static void get_file(struct http_request *r) { serve(r, r->param[0]); }

static void get_moved(struct http_request *r)
{
    http_set_header(r, "Location", "../dashboard");
    http_reply(r, 308, NULL, NULL, 0);
}

const struct http_route routes_dashboard[] = {
    {"GET", "/dashboard", HTTP_BODY_NONE, 0, NULL, NULL, get_index, NULL},
    {"GET", "/dashboard/", HTTP_BODY_NONE, 0, NULL, NULL, get_moved, NULL},
    {"GET", "/dashboard/{file}", HTTP_BODY_NONE, 0, NULL, NULL, get_file, NULL},
    {0},
};
