/* verb_trace: `weft-engine trace OUT.json`: asks a running engine for its last steps and writes them as a file that chrome://tracing
 * (or ui.perfetto.dev) shows.
 *
 * The file is written beside its place and renamed, so that there is a whole one or none; what stands there and is no plain file (a pipe, a
 * device, /dev/stdout) is written to as it is. Main thread of a process of its own. */
#include "base/client.h"
#include "base/conf.h"
#include "base/json.h"
#include "engine/trace.h"
#include "engine/verbs.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ANSWER_MAX ((size_t)64 << 20)
#define TOKEN_MAX 4096
#define CONNECT_MS 2000

enum { DONE = 0, BAD_USAGE = 2, FAILED = 4 };

struct trace_settings {
#define X CONF_FIELD
#include "schema/trace_settings.def"
#undef X
};
static const struct conf_row rows[] = {
#define X(...) CONF_ROW(struct trace_settings, __VA_ARGS__)
#include "schema/trace_settings.def"
#undef X
};

static int refuse(const struct err *e)
{
    fprintf(stderr, "weft-engine: %s\n", e->msg);
    return e->code == ERR_USAGE ? BAD_USAGE : FAILED;
}

/* "Authorization: Bearer TOKEN"; empty where no file is named. */
static int read_bearer(const char *path, char *out, size_t cap, struct err *e)
{
    char token[TOKEN_MAX];
    *out = 0;
    if (!path[0]) return 0;
    FILE *f = fopen(path, "re");
    if (!f) return err_errno(e, "cannot open the token file %s", path);
    bool any = fgets(token, sizeof token, f) != NULL;
    fclose(f);
    if (!any) return err_set(e, ERR_USAGE, "the token file %s is empty", path);
    token[strcspn(token, "\r\n")] = 0;
    snprintf(out, cap, "Authorization: Bearer %s", token);
    return 0;
}

/* The engine's answer; *out is the caller's. */
static int fetch(const struct trace_settings *s, json_t **out, struct err *e)
{
    char url[512], bearer[TOKEN_MAX + 32], *body = NULL;
    const char *headers[2] = {NULL};
    size_t len = 0;
    int status = 0;
    if (read_bearer(s->token_file, bearer, sizeof bearer, e)) return -1;
    if (bearer[0]) headers[0] = bearer;
    const char *at = s->socket[0] ? "http://engine" : s->url;
    int n = (int)strlen(at);
    while (n && at[n - 1] == '/') n--; /* http://host:port/ is the same place */
    snprintf(url, sizeof url, "%.*s/weft/v1/trace", n, at);
    struct client_request req = {.method = "GET",
                                 .url = url,
                                 .unix_socket = s->socket[0] ? s->socket : NULL,
                                 .headers = headers,
                                 .connect_ms = CONNECT_MS,
                                 .first_byte_ms = (int)s->timeout_ms,
                                 .idle_ms = (int)s->timeout_ms,
                                 .total_ms = (int)s->timeout_ms};
    if (client_fetch(&req, ANSWER_MAX, &status, &body, &len, e)) return -1;
    int rc = status == 200 ? json_parse(body, len, out, e)
                           : err_set(e, ERR_ENGINE, "the engine answered %d: %.300s", status, body ? body : "");
    free(body);
    return rc;
}

static int write_to(const char *path, const struct buf *b, struct err *e)
{
    FILE *f = fopen(path, "we");
    if (!f) return err_errno(e, "cannot write %s", path);
    bool good = fwrite(b->data, 1, b->len, f) == b->len;
    good = fclose(f) == 0 && good;
    return good ? 0 : err_errno(e, "cannot write %s", path);
}

static int write_all(const char *path, const struct buf *b, struct err *e)
{
    char beside[4096];
    struct stat st;
    if (lstat(path, &st) == 0 && !S_ISREG(st.st_mode)) return write_to(path, b, e);
    if (snprintf(beside, sizeof beside, "%s.part", path) >= (int)sizeof beside)
        return err_set(e, ERR_USAGE, "the path %.100s... is too long", path);
    if (write_to(beside, b, e) == 0) {
        if (rename(beside, path) == 0) return 0;
        err_errno(e, "cannot write %s", path);
    }
    unlink(beside);
    return -1;
}

int verb_trace(int argc, char **argv)
{
    static struct trace_settings s;
    struct err e = {0};
    struct buf out;
    json_t *trace = NULL;
    const char *word[2] = {NULL};
    int n = 0, rc = conf_load(rows, CONF_ROWS(rows), &s, argc, argv, word, 2, &n, &e);
    if (rc > 0) return DONE;
    if (rc == 0 && (n != 2 || !s.socket[0] == !s.url[0]))
        rc = err_set(&e, ERR_USAGE, "usage: weft-engine trace OUT.json (--socket PATH | --url URL [--token-file F])");
    json_start();
    buf_init(&out, ANSWER_MAX);
    if (rc == 0) rc = fetch(&s, &trace, &e);
    if (rc == 0) rc = trace_chrome(trace, &out, &e);
    if (rc == 0) rc = write_all(word[1], &out, &e);
    json_decref(trace);
    buf_close(&out);
    return rc ? refuse(&e) : DONE;
}
