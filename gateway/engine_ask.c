/* Short questions to the engine, each one exchange with its own small limits: is it alive, what does it serve, what
 * became of a request. Blocking, on the caller's thread: the watcher's, or the one that recovers the ledger at start.
 */
#include "base/json.h"
#include "gateway/engine_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ASK_CONNECT_MS 500
#define ASK_TOTAL_MS 2000
#define ASK_BODY_MAX (4u << 20)

static int ask(struct engine *g, const char *path, int *status, char **body, size_t *len, struct err *e)
{
    const char *base, *unix_socket, *auth, *headers[2] = {NULL, NULL};
    char url[1024];
    engine_address(g, &base, &unix_socket, &auth);
    snprintf(url, sizeof url, "%s%s", base, path);
    headers[0] = auth;
    struct client_request r = {.method = "GET",
                               .url = url,
                               .unix_socket = unix_socket,
                               .headers = headers,
                               .connect_ms = ASK_CONNECT_MS,
                               .first_byte_ms = ASK_TOTAL_MS,
                               .idle_ms = ASK_TOTAL_MS,
                               .total_ms = ASK_TOTAL_MS};
    return client_fetch(&r, ASK_BODY_MAX, status, body, len, e);
}

bool ask_ok(struct engine *g, const char *path)
{
    int status = 0;
    char *body = NULL;
    size_t len;
    if (ask(g, path, &status, &body, &len, NULL)) return false;
    free(body);
    return status == 200;
}

/* A JSON object by GET. */
static int ask_json(struct engine *g, const char *path, json_t **out, struct err *e)
{
    int status = 0, rc = -1;
    char *body = NULL;
    size_t len = 0;
    if (ask(g, path, &status, &body, &len, e)) return -1;
    if (status != 200)
        err_set(e, ERR_ENGINE, "the engine answered %s with status %d", path, status);
    else
        rc = json_parse(body, len, out, e);
    free(body);
    return rc;
}

int ask_state(struct engine *g, struct base_desc *base, int *max_context, pid_t *pid, struct err *e)
{
    json_t *v = NULL;
    int64_t context = 0, id = 0;
    struct base_desc b = {0};
    if (ask_json(g, "/weft/v1/state", &v, e)) return -1;
    int rc = base_desc_from_json(&b, json_object_get(v, "base"), e);
    if (!rc) rc = json_get_int(v, "max_context", 1, INT32_MAX, &context, NULL, e);
    if (!rc) rc = json_get_int(v, "pid", 0, INT32_MAX, &id, NULL, e);
    json_decref(v);
    if (rc) return err_prefix(e, "the engine's state");
    *base = b;
    *max_context = (int)context;
    *pid = (pid_t)id;
    return 0;
}

int engine_receipt(void *engine, const char *id, int64_t *prompt, int64_t *cached, int64_t *output, char finish[16])
{
    char path[128];
    json_t *v = NULL;
    int64_t p = 0, c = 0, o = 0;
    const char *word = "";
    snprintf(path, sizeof path, "/weft/v1/receipts/%.60s", id);
    if (ask_json(engine, path, &v, NULL)) return -1;
    int rc = json_get_int(v, "prompt_tokens", 0, INT32_MAX, &p, NULL, NULL) |
             json_get_int(v, "cached_tokens", 0, INT32_MAX, &c, NULL, NULL) |
             json_get_int(v, "output_tokens", 0, INT32_MAX, &o, NULL, NULL) |
             json_get_str(v, "finish_reason", 15, &word, NULL, NULL);
    if (rc == 0) {
        *prompt = p;
        *cached = c;
        *output = o;
        snprintf(finish, 16, "%s", word);
    }
    json_decref(v);
    return rc ? -1 : 0;
}
