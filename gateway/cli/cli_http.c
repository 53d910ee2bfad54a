/* What every command says to the gateway, and what it makes of the answer.
 *
 * One exchange is one client_fetch(): the key of the side that is asked, JSON out, JSON in. Whatever goes wrong is told
 * here, once, on stderr, with the field at fault and the request's id, and becomes the exit status; the commands only
 * pass it on. Nothing is tried twice. Answers are at most ANSWER_MAX bytes, waits are named below. One thread. */
#include "base/client.h"
#include "base/err.h"
#include "base/json.h"
#include "gateway/cli/cli.h"
#include "gateway/cli/cli_print.h"
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ANSWER_MAX (32u << 20)
#define ERROR_SHOWN 600 /* of an answer that is no JSON */
#define CONNECT_MS 5000
#define FIRST_BYTE_MS 60000
#define IDLE_MS 60000
#define PAGE 100        /* rows asked for at once */
#define PAGES_MAX 20000 /* against a server that never ends a list */
#define HEADERS_MAX 8

/* --- failures --- */

int cli_exit_of(int status)
{
    static const struct {
        int status;
        enum cli_exit exit;
    } rows[] = {{401, CLI_UNAUTHORIZED}, {403, CLI_UNAUTHORIZED}, {404, CLI_NOT_FOUND}, {410, CLI_NOT_FOUND},
                {409, CLI_CONFLICT},     {412, CLI_CONFLICT},     {429, CLI_LIMITED},
                {502, CLI_NOT_READY},    {503, CLI_NOT_READY},    {504, CLI_NOT_READY}};
    if (status >= 200 && status <= 299) return CLI_OK;
    for (int i = 0; i < CLI_COUNT(rows); i++)
        if (rows[i].status == status) return rows[i].exit;
    return CLI_FAILED;
}

int cli_broken(const struct err *e)
{
    bool ours = e->code == ERR_NO_MEMORY || e->code == ERR_IO;
    int status = ours ? CLI_FAILED : e->code == ERR_INVALID ? CLI_USAGE : CLI_UNREACHABLE;
    return cli_error(status, "%s", e->msg);
}

static void tell(const char *s)
{
    for (int i = 0; s[i] && i < ERROR_SHOWN; i++) fputc((unsigned char)s[i] < ' ' || s[i] == 0x7f ? ' ' : s[i], stderr);
}

/* What else is known of a refusal, on a line of its own. */
static void tell_more(const json_t *error, const char *request_id)
{
    const char *param = json_string_value(json_object_get(error, "param")),
               *code = json_string_value(json_object_get(error, "code"));
    if (!param && !code && !*request_id) return;
    fputs("weft: ", stderr);
    if (param && *param) fputs("field ", stderr), tell(param), fputs("; ", stderr);
    if (code && *code) fputs("code ", stderr), tell(code), fputs("; ", stderr);
    fputs("request ", stderr);
    tell(*request_id ? request_id : "unknown");
    fputc('\n', stderr);
}

int cli_refused(int status, const char *body, size_t len, const char *request_id)
{
    json_t *o = NULL;
    if (len && json_parse(body, len, &o, NULL)) o = NULL;
    const json_t *error = json_object_get(o, "error");
    const char *message = json_string_value(json_object_get(error, "message"));
    fputs("weft: ", stderr);
    tell(message ? message : "the server refused and gave no reason");
    fprintf(stderr, " (%d)\n", status);
    tell_more(error, request_id);
    json_decref(o);
    int rc = cli_exit_of(status);
    return rc ? rc : CLI_FAILED;
}

/* --- addresses --- */

static size_t add_encoded(char *out, size_t used, const char *s)
{
    for (; *s && used + 4 < CLI_URL_MAX; s++) {
        unsigned char b = (unsigned char)*s;
        if (isalnum(b) || strchr("-._~@", b))
            out[used++] = (char)b;
        else
            used += (size_t)snprintf(out + used, 4, "%%%02X", b);
    }
    return used;
}

void cli_path(char out[CLI_URL_MAX], const char *format, ...)
{
    size_t used = 0;
    va_list v;
    va_start(v, format);
    for (const char *p = format; *p && used + 4 < CLI_URL_MAX; p++) {
        if (p[0] == '%' && p[1] == 's') {
            used = add_encoded(out, used, va_arg(v, const char *));
            p++;
        } else {
            out[used++] = *p;
        }
    }
    out[used] = 0;
    va_end(v);
}

int cli_query_add(char path[CLI_URL_MAX], const char *name, const char *value)
{
    size_t used = strlen(path);
    char tail[CLI_URL_MAX];
    cli_path(tail, strchr(path, '?') ? "&%s=%s" : "?%s=%s", name, value, NULL);
    if (used + strlen(tail) >= CLI_URL_MAX) return cli_error(CLI_USAGE, "%s %.40s...: too long", name, value);
    snprintf(path + used, CLI_URL_MAX - used, "%s", tail);
    return CLI_OK;
}

static int no_key(const struct cli *c, enum cli_side side)
{
    bool profile = cli_has(c, CLI_PROFILE_FLAG);
    return cli_error(CLI_USAGE, "no key: set %s%s, or weft config set %s KEY",
                     side == CLI_ADMIN_SIDE ? "WEFT_ADMIN_KEY" : "WEFT_KEY (or WEFT_API_KEY)",
                     profile ? " (without --profile)" : "", side == CLI_ADMIN_SIDE ? "admin_key" : "key");
}

int cli_target(const struct cli *c, enum cli_side side, const char *path, struct cli_target *out)
{
    const char *base = side == CLI_ADMIN_SIDE ? c->admin_url : c->url,
               *key = side == CLI_ADMIN_SIDE ? c->admin_key : c->key;
    size_t n = strlen(base), scheme = !strncmp(base, "https://", 8) ? 8 : !strncmp(base, "http://", 7) ? 7 : 0;
    if (key && strlen(key) > CLI_KEY_MAX) return cli_error(CLI_USAGE, "the key is too long to be one");
    if (key && key[strcspn(key, "\r\n")]) return cli_error(CLI_USAGE, "the key holds a line end");
    if (!scheme) return cli_error(CLI_USAGE, "%s is no http or https address", base);
    if (!base[scheme] || base[scheme] == '/') return cli_error(CLI_USAGE, "%s: an address without a host", base);
    while (n && base[n - 1] == '/') n--;
    if (n > CLI_URL_MAX) return cli_error(CLI_USAGE, "the address is too long");
    snprintf(out->url, sizeof out->url, "%.*s%s", (int)n, base, path);
    snprintf(out->authorization, sizeof out->authorization, "Authorization: Bearer %s", key ? key : "");
    return key ? CLI_OK : CLI_UNAUTHORIZED;
}

/* --- exchanges --- */

struct heard {
    struct cli_answer *answer;
    int percent; /* of an upload, -1: nothing shown */
};

static void on_head(void *u, const struct client_reply *r)
{
    struct cli_answer *a = ((struct heard *)u)->answer;
    snprintf(a->request_id, sizeof a->request_id, "%s", r->request_id ? r->request_id : "");
    snprintf(a->etag, sizeof a->etag, "%s", r->etag ? r->etag : "");
}

static void show_progress(void *u, int64_t sent, int64_t total)
{
    struct heard *h = u;
    int percent = total > 0 ? (int)(sent * 100 / total) : 100;
    if (percent == h->percent) return;
    h->percent = percent;
    cli_progress(sent, total);
}

static int fetch(const struct cli_ask *ask, const struct cli_target *t, const char *text, size_t n, size_t *len,
                 struct cli_answer *out)
{
    const char *headers[HEADERS_MAX] = {"Accept: application/json"};
    int k = 1;
    struct heard heard = {out, -1};
    if (!ask->keyless) headers[k++] = t->authorization;
    for (int i = 0; i < CLI_COUNT(ask->header) && ask->header[i]; i++) headers[k++] = ask->header[i];
    struct client_request req = {.method = ask->method,
                                 .url = t->url,
                                 .headers = headers,
                                 .body = text,
                                 .body_len = n,
                                 .file = ask->file,
                                 .connect_ms = ask->connect_ms ? ask->connect_ms : CONNECT_MS,
                                 .first_byte_ms = ask->first_byte_ms ? ask->first_byte_ms : FIRST_BYTE_MS,
                                 .idle_ms = IDLE_MS,
                                 .on_head = on_head,
                                 .user = &heard};
    if (ask->file && isatty(STDERR_FILENO)) req.progress = show_progress;
    int rc = client_fetch(&req, ANSWER_MAX, &out->status, &out->text, len, &out->broken);
    if (heard.percent >= 0) cli_progress_end();
    return rc;
}

static int judge(const struct cli_ask *ask, struct cli_answer *out, size_t len)
{
    struct err e = {0};
    int rc = cli_exit_of(out->status);
    if (rc)
        return ask->quiet || out->status == ask->expected ? rc
                                                          : cli_refused(out->status, out->text, len, out->request_id);
    if (!len || !json_parse(out->text, len, &out->json, &e)) return CLI_OK;
    return ask->quiet ? CLI_FAILED : cli_error(CLI_FAILED, "the server's answer is no JSON: %s", e.msg);
}

int cli_ask(const struct cli *c, const struct cli_ask *ask, struct cli_answer *out)
{
    struct cli_target t;
    *out = (struct cli_answer){0};
    int rc = cli_target(c, ask->side, ask->path, &t);
    if (rc == CLI_UNAUTHORIZED && !ask->keyless) return ask->quiet ? CLI_USAGE : no_key(c, ask->side);
    if (rc == CLI_USAGE) return rc;
    char *text = ask->body ? json_dumps(ask->body, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    if (ask->body && !text) return cli_error(CLI_USAGE, "an argument is not valid UTF-8");
    size_t len = 0;
    rc = fetch(ask, &t, text ? text : ask->bytes, text ? strlen(text) : ask->nbytes, &len, out);
    free(text);
    if (rc) return ask->quiet ? CLI_UNREACHABLE : cli_broken(&out->broken);
    return judge(ask, out, len);
}

void cli_answer_close(struct cli_answer *a)
{
    free(a->text);
    json_decref(a->json);
    a->text = NULL;
    a->json = NULL;
}

int cli_call(const struct cli *c, enum cli_side side, const char *method, const char *path, const json_t *body,
             json_t **out)
{
    struct cli_answer a;
    int rc = cli_ask(c, &(struct cli_ask){.side = side, .method = method, .path = path, .body = body}, &a);
    if (!rc && out) {
        *out = a.json ? a.json : json_object();
        a.json = NULL;
    }
    cli_answer_close(&a);
    return rc;
}

/* --- lists --- */

static int use_page(const json_t *o, int (*add)(void *u, json_t *item), void *u)
{
    size_t i;
    json_t *item, *data = json_object_get(o, "data");
    if (!json_is_array(data)) return cli_error(CLI_FAILED, "the server's answer is no list");
    json_array_foreach(data, i, item)
    {
        int rc = add(u, item);
        if (rc) return rc;
    }
    return CLI_OK;
}

/* The cursor of the next page, "" at the end. */
static void next_of(const json_t *o, char after[1024])
{
    char now[1024] = "";
    const json_t *last = json_object_get(o, "last_id");
    if (json_is_integer(last)) snprintf(now, sizeof now, "%" JSON_INTEGER_FORMAT, json_integer_value(last));
    if (json_is_string(last) && json_string_length(last) < sizeof now)
        snprintf(now, sizeof now, "%s", json_string_value(last));
    bool more = json_is_true(json_object_get(o, "has_more")) && strcmp(now, after);
    snprintf(after, 1024, "%s", more ? now : "");
}

int cli_pages(const struct cli *c, enum cli_side side, const char *path, int (*add)(void *u, json_t *item), void *u)
{
    char after[1024], url[CLI_URL_MAX], limit[16];
    const char *begin = cli_str(c, CLI_AFTER_FLAG);
    if (begin && strlen(begin) >= sizeof after) return cli_error(CLI_USAGE, "--after %.40s...: too long", begin);
    snprintf(after, sizeof after, "%s", begin ? begin : "");
    snprintf(limit, sizeof limit, "%d", PAGE);
    for (int n = 0; n < PAGES_MAX; n++) {
        json_t *o = NULL;
        snprintf(url, sizeof url, "%s", path);
        if (cli_query_add(url, "limit", limit) || (*after && cli_query_add(url, "after", after))) return CLI_USAGE;
        int rc = cli_call(c, side, "GET", url, NULL, &o);
        if (!rc) rc = use_page(o, add, u);
        next_of(o, after);
        json_decref(o);
        if (rc || !*after) return rc;
    }
    return cli_error(CLI_FAILED, "the list has more than %d pages", PAGES_MAX);
}

struct gather {
    json_t *rows;
    size_t most;
    bool full;
};

static int gather(void *u, json_t *item)
{
    struct gather *g = u;
    if (g->full) return CLI_EXITS;
    json_array_append(g->rows, item);
    g->full = json_array_size(g->rows) >= g->most;
    return CLI_OK;
}

int cli_list(const struct cli *c, enum cli_side side, const char *path, int64_t most, json_t **out)
{
    struct gather g = {json_array(), most > 0 ? (size_t)most : CLI_ROWS_MAX, false};
    int rc = cli_pages(c, side, path, gather, &g);
    if (rc == CLI_EXITS)
        rc = most > 0 ? CLI_OK : cli_error(CLI_FAILED, "more than %d rows; --limit gives the first", CLI_ROWS_MAX);
    if (rc)
        json_decref(g.rows);
    else
        *out = g.rows;
    return rc;
}
