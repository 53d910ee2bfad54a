/* weft capture export, and compare: a tenant's captured conversations as a training set, and asked again of another version.
 *
 * compare sends each of them to the other version through the gateway, as anybody's requests and on the tenant's account, greedily, one after the other, and
 * has the answer kept beside the first; `capture export --disagreements` then tells where they differ. It stops at the first that fails: a budget that is
 * spent is not asked a hundred times. */
#include "base/buf.h"
#include "base/client.h"
#include "gateway/cli/cli_command.h"
#include "gateway/cli/cli_verbs.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COMPARED 100 /* unless --limit says otherwise */
#define COMPARED_MAX 20000
#define TOKENS 512
#define ERROR_MAX (64u << 10)
#define CONNECT_MS 5000
#define FIRST_BYTE_MS 120000
#define IDLE_MS 120000

/* --- export --- */

struct saving {
    const char *path; /* NULL: stdout */
    int fd, status, rc;
    int64_t rows;
    struct buf error;
    char request_id[64];
};

static void on_head(void *u, const struct client_reply *r)
{
    struct saving *x = u;
    x->status = r->status;
    snprintf(x->request_id, sizeof x->request_id, "%s", r->request_id ? r->request_id : "");
}

static int on_data(void *u, const char *bytes, size_t n)
{
    struct saving *x = u;
    if (x->status != 200) return buf_add(&x->error, bytes, n);
    for (size_t i = 0; i < n; i++) x->rows += bytes[i] == '\n';
    while (n) {
        ssize_t k = write(x->fd, bytes, n);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return x->rc = cli_error(CLI_FAILED, "%s: %s", x->path ? x->path : "stdout", strerror(errno)), -1;
        bytes += k;
        n -= (size_t)k;
    }
    return 0;
}

static int add_flags(const struct cli *c, char path[CLI_URL_MAX])
{
    for (int f = 0; f < CLI_FLAGS; f++) {
        char number[32];
        if (!(c->command->query & CLI_BIT(f)) || !c->flag[f]) continue;
        const char *text = cli_str(c, (enum cli_flag)f);
        if (json_is_true(c->flag[f])) snprintf(number, sizeof number, "true");
        else snprintf(number, sizeof number, "%g", json_number_value(c->flag[f]));
        int rc = cli_query_add(path, cli_flags[f].field, text ? text : number);
        if (rc) return rc;
    }
    return CLI_OK;
}

static int fetch(const struct cli *c, struct saving *x)
{
    char path[CLI_URL_MAX];
    struct cli_target t;
    struct err e = {0};
    char *none = NULL;
    size_t len = 0;
    int status = 0;
    snprintf(path, sizeof path, "%s", c->command->path);
    int rc = add_flags(c, path);
    if (!rc) rc = cli_target(c, CLI_TENANT_SIDE, path, &t);
    if (rc == CLI_UNAUTHORIZED) return cli_error(CLI_USAGE, "no key: set WEFT_KEY");
    if (rc) return rc;
    const char *headers[] = {t.authorization, NULL};
    struct client_request req = {.method = "GET", .url = t.url, .headers = headers, .connect_ms = CONNECT_MS, .first_byte_ms = FIRST_BYTE_MS, .idle_ms = IDLE_MS,
                                 .on_head = on_head, .on_data = on_data, .user = x};
    rc = client_fetch(&req, 0, &status, &none, &len, &e);
    free(none);
    if (x->status && x->status != 200) return cli_refused(x->status, x->error.data, x->error.len, x->request_id);
    if (x->rc) return x->rc;
    return rc ? cli_broken(&e) : CLI_OK;
}

int cli_capture_export(const struct cli *c)
{
    struct saving x = {.path = c->nargs && strcmp(c->arg[0], "-") ? c->arg[0] : NULL, .fd = STDOUT_FILENO};
    if (x.path && (x.fd = open(x.path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)) < 0) return cli_error(CLI_FAILED, "%s: %s", x.path, strerror(errno));
    buf_init(&x.error, ERROR_MAX);
    int rc = fetch(c, &x);
    if (x.path && close(x.fd) && !rc) rc = cli_error(CLI_FAILED, "%s: %s", x.path, strerror(errno));
    if (!rc && x.path) cli_note("%" PRId64 " conversations into %s", x.rows, x.path);
    buf_close(&x.error);
    return rc;
}

/* --- compare --- */

struct comparing {
    const struct cli *c;
    const char *with, *of;
    int64_t most, asked, same;
};

static int ask(const struct comparing *x, const json_t *row, json_t **answer)
{
    json_t *body = json_pack("{ss sO si sI}", "model", x->with, "messages", json_object_get(row, "messages"), "temperature", 0, "max_tokens",
                             (json_int_t)cli_int(x->c, CLI_MAX_TOKENS_FLAG, TOKENS));
    if (body && json_object_get(row, "tools")) json_object_set(body, "tools", json_object_get(row, "tools"));
    int rc = body ? cli_call(x->c, CLI_TENANT_SIDE, "POST", "/v1/chat/completions", body, answer) : cli_error(CLI_FAILED, "out of memory");
    json_decref(body);
    return rc;
}

/* The other version's words beside the first's; *kept is the capture with both. */
static int keep(const struct comparing *x, const char *id, const json_t *answer, json_t **kept)
{
    char path[CLI_URL_MAX];
    const json_t *message = json_object_get(json_array_get(json_object_get(answer, "choices"), 0), "message");
    const char *text = json_string_value(json_object_get(message, "content"));
    json_t *body = json_pack("{ss ss}", "version", x->with, "content", text ? text : "");
    cli_path(path, "/v1/captures/%s/answers", id, NULL);
    int rc = body ? cli_call(x->c, CLI_TENANT_SIDE, "POST", path, body, kept) : cli_error(CLI_FAILED, "out of memory");
    json_decref(body);
    return rc;
}

static bool is_same(const struct comparing *x, const json_t *row)
{
    const char *own = json_string_value(json_object_get(json_object_get(row, "answer"), "content"));
    const json_t *one;
    size_t i;
    json_array_foreach(json_object_get(row, "answers"), i, one)
    {
        const char *text = json_string_value(json_object_get(json_object_get(one, "answer"), "content"));
        if (strcmp(json_string_value(json_object_get(one, "version")), x->with) == 0) return own && text && strcmp(own, text) == 0;
    }
    return false;
}

static int compare_one(void *u, json_t *item)
{
    struct comparing *x = u;
    char path[CLI_URL_MAX];
    const char *id = json_string_value(json_object_get(item, "id")), *version;
    json_t *row = NULL, *answer = NULL, *kept = NULL;
    if (!id || x->asked == x->most) return CLI_OK;
    cli_path(path, "/v1/captures/%s", id, NULL);
    int rc = cli_call(x->c, CLI_TENANT_SIDE, "GET", path, NULL, &row);
    if (rc == CLI_NOT_FOUND) return CLI_OK; /* it expired meanwhile */
    version = json_string_value(json_object_get(row, "version"));
    if (!rc && version && strcmp(version, x->with) != 0 && (!x->of || strcmp(version, x->of) == 0)) {
        rc = ask(x, row, &answer);
        if (!rc) rc = keep(x, id, answer, &kept);
        if (!rc) x->asked++;
        if (!rc) x->same += is_same(x, kept);
    }
    json_decref(row);
    json_decref(answer);
    json_decref(kept);
    return rc;
}

int cli_capture_compare(const struct cli *c)
{
    struct comparing x = {.c = c, .with = cli_str(c, CLI_WITH_FLAG), .of = cli_str(c, CLI_OF_FLAG), .most = cli_int(c, CLI_LIMIT_FLAG, COMPARED)};
    const char *alias = cli_str(c, CLI_ALIAS_FLAG);
    char path[CLI_URL_MAX] = "/v1/captures";
    json_t *list = NULL, *item;
    size_t i;
    int rc = alias ? cli_query_add(path, "alias", alias) : CLI_OK;
    if (!rc) rc = cli_list(c, CLI_TENANT_SIDE, path, COMPARED_MAX, &list);
    json_array_foreach(list, i, item) if (!rc) rc = compare_one(&x, item);
    json_decref(list);
    if (rc && !x.asked) return rc;
    json_t *o = json_pack("{ss sI sI sI}", "version", x.with, "asked", (json_int_t)x.asked, "same", (json_int_t)x.same, "different", (json_int_t)(x.asked - x.same));
    if (c->json) cli_json(o);
    else printf("%s: %" PRId64 " asked, %" PRId64 " answered the same, %" PRId64 " otherwise\n", x.with, x.asked, x.same, x.asked - x.same);
    json_decref(o);
    return rc;
}
