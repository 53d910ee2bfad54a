/* What every command says to the gateway, and what it makes of the answer.
 *
 * One exchange is one client_fetch(): the key of the side that is asked, JSON out, JSON in. Whatever goes wrong is told
 * here, once, on stderr, and becomes the exit status; the commands only pass it on. Answers are at most ANSWER_MAX
 * bytes, waits are named below. One thread. */
#include "base/client.h"
#include "base/err.h"
#include "base/json.h"
#include "gateway/cli.h"
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
#define READY_MS 600000 /* an upload is checked before it is answered */
#define IDLE_MS 60000

/* --- failures --- */

int cli_broken(const struct err *e)
{
    bool ours = e->code == ERR_NO_MEMORY || e->code == ERR_IO;
    int status = ours ? CLI_REFUSED : e->code == ERR_INVALID ? CLI_USAGE : CLI_NO_CONNECTION;
    return cli_error(status, "%s", e->msg);
}

static void tell(const char *s, int status)
{
    fprintf(stderr, "weft: ");
    for (int i = 0; s[i] && i < ERROR_SHOWN; i++) fputc((unsigned char)s[i] < ' ' ? ' ' : s[i], stderr);
    fprintf(stderr, " (%d)\n", status);
}

int cli_refused(int status, const char *body, size_t len)
{
    json_t *o = NULL;
    const char *message = NULL;
    if (len && !json_parse(body, len, &o, NULL))
        message = json_string_value(json_object_get(json_object_get(o, "error"), "message"));
    tell(message ? message : "the server refused and gave no reason", status);
    json_decref(o);
    return CLI_REFUSED;
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

int cli_target(const struct cli *c, enum cli_side side, const char *path, struct cli_target *out)
{
    const char *base = side == CLI_ADMIN ? c->admin_url : c->url, *key = side == CLI_ADMIN ? c->admin_key : c->key;
    size_t n = strlen(base);
    if (!key) return cli_error(CLI_USAGE, "no key: set %s", side == CLI_ADMIN ? "WEFT_ADMIN_KEY" : "WEFT_API_KEY");
    if (strlen(key) > 256) return cli_error(CLI_USAGE, "the key is too long to be one");
    if (strncmp(base, "http://", 7) && strncmp(base, "https://", 8))
        return cli_error(CLI_USAGE, "%s is no http or https address", base);
    while (n && base[n - 1] == '/') n--;
    if (n > CLI_URL_MAX) return cli_error(CLI_USAGE, "the address is too long");
    snprintf(out->url, sizeof out->url, "%.*s%s", (int)n, base, path);
    snprintf(out->authorization, sizeof out->authorization, "Authorization: Bearer %s", key);
    return CLI_OK;
}

/* --- exchanges --- */

static int take_answer(const struct cli *c, int status, const char *body, size_t len, json_t **out)
{
    struct err e = {0};
    if (status < 200 || status > 299) return cli_refused(status, body, len);
    if (c->json) {
        cli_puts(body, len);
        if (len && body[len - 1] != '\n') putchar('\n');
        return CLI_OK;
    }
    if (!out || !len) return CLI_OK;
    if (json_parse(body, len, out, &e)) return cli_error(CLI_REFUSED, "the server's answer is no JSON: %s", e.msg);
    return CLI_OK;
}

static int exchange(const struct cli *c, const struct client_request *req, json_t **out)
{
    struct err e = {0};
    char *body = NULL;
    size_t len = 0;
    int status = 0;
    if (client_fetch(req, ANSWER_MAX, &status, &body, &len, &e)) return cli_broken(&e);
    int rc = take_answer(c, status, body, len, out);
    free(body);
    return rc;
}

int cli_call(const struct cli *c, enum cli_side side, const char *method, const char *path, const json_t *body,
             json_t **out)
{
    struct cli_target t;
    int rc = cli_target(c, side, path, &t);
    if (rc) return rc;
    const char *headers[] = {t.authorization, "Accept: application/json", NULL};
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    if (body && !text) return cli_error(CLI_USAGE, "an argument is not valid UTF-8");
    struct client_request req = {.method = method,
                                 .url = t.url,
                                 .headers = headers,
                                 .connect_ms = CONNECT_MS,
                                 .first_byte_ms = FIRST_BYTE_MS,
                                 .idle_ms = IDLE_MS};
    if (text) {
        req.body = text;
        req.body_len = strlen(text);
    }
    rc = exchange(c, &req, out);
    free(text);
    return rc;
}

static void show_progress(void *u, int64_t sent, int64_t total)
{
    int *last = u, percent = total > 0 ? (int)(sent * 100 / total) : 100;
    if (percent == *last) return;
    *last = percent;
    fprintf(stderr, "\r%3d %% of %.1f MB%s", percent, (double)total / 1e6, percent == 100 ? ", being checked" : "");
    fflush(stderr);
}

int cli_upload(const struct cli *c, const char *path, const char *file, const char *boundary, json_t **out)
{
    struct cli_target t;
    char type[160];
    int percent = -1, rc = cli_target(c, CLI_TENANT, path, &t);
    if (rc) return rc;
    snprintf(type, sizeof type, "Content-Type: multipart/form-data; boundary=%s", boundary);
    const char *headers[] = {t.authorization, type, "Accept: application/json", NULL};
    struct client_request req = {.method = "POST",
                                 .url = t.url,
                                 .headers = headers,
                                 .file = file,
                                 .connect_ms = CONNECT_MS,
                                 .first_byte_ms = READY_MS,
                                 .idle_ms = IDLE_MS,
                                 .user = &percent};
    if (isatty(STDERR_FILENO)) req.progress = show_progress;
    rc = exchange(c, &req, out);
    if (percent >= 0) fputs("\r\33[K", stderr);
    return rc;
}

/* --- lists --- */

static int page(const struct cli *c, enum cli_side side, const char *path, const char *after, json_t **out)
{
    char url[CLI_URL_MAX], tail[CLI_URL_MAX] = "";
    if (*after) cli_path(tail, "&after=%s", after, NULL);
    if (snprintf(url, sizeof url, "%s?limit=%d%s", path, CLI_PAGE, tail) >= (int)sizeof url)
        return cli_error(CLI_REFUSED, "the server's cursor is too long");
    struct cli quiet = *c;
    quiet.json = false; /* the cursor is in the answer: it must be read, and is printed below */
    return cli_call(&quiet, side, "GET", url, NULL, out);
}

int cli_print_raw(const json_t *o)
{
    char *text = json_dumps(o, JSON_COMPACT);
    if (!text) return cli_error(CLI_REFUSED, "out of memory");
    cli_puts(text, strlen(text));
    putchar('\n');
    free(text);
    return CLI_OK;
}

static int use_page(const struct cli *c, const json_t *o, void (*add)(void *u, json_t *item), void *u)
{
    size_t i;
    json_t *item, *data = json_object_get(o, "data");
    if (!json_is_array(data)) return cli_error(CLI_REFUSED, "the server's answer is no list");
    if (c->json) return cli_print_raw(o);
    json_array_foreach(data, i, item) add(u, item);
    return CLI_OK;
}

int cli_pages(const struct cli *c, enum cli_side side, const char *path, void (*add)(void *u, json_t *item), void *u)
{
    char after[1024] = "";
    for (int n = 0; n < CLI_PAGES_MAX; n++) {
        json_t *o = NULL;
        int rc = page(c, side, path, after, &o);
        if (!rc) rc = use_page(c, o, add, u);
        const char *last = json_string_value(json_object_get(o, "last_id"));
        bool more =
            json_is_true(json_object_get(o, "has_more")) && last && strcmp(last, after) && strlen(last) < sizeof after;
        if (more) snprintf(after, sizeof after, "%s", last);
        json_decref(o);
        if (rc || !more) return rc;
    }
    return cli_error(CLI_REFUSED, "the list has more than %d pages", CLI_PAGES_MAX);
}
