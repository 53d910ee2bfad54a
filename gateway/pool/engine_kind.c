/* The table of kinds, and what their files share: short questions to an engine, each one exchange with its own small
 * limits, blocking on the caller's thread; and the reading of error objects. */
#include "gateway/pool/engine_kind.h"
#include "base/client.h"
#include "base/json.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GET_CONNECT_MS 500
#define GET_TOTAL_MS 2000
#define GET_BODY_MAX (4u << 20)
#define DIGESTS_MAX 65536 /* of a list of models that are looked at */

/* One row per kind. */
static const struct kind *const kinds[ENGINE_KINDS] = {
    [ENGINE_WEFT] = &kind_weft,
    [ENGINE_VLLM] = &kind_vllm,
    [ENGINE_OPENAI] = &kind_openai,
};

const struct kind *kind_of(enum engine_kind k)
{
    return kinds[k];
}

int kind_by_name(const char *name)
{
    for (int i = 0; i < ENGINE_KINDS; i++)
        if (kinds[i] && strcmp(kinds[i]->name, name) == 0) return i;
    return -1;
}

int kind_get(const struct engine_link *l, const char *path, bool with_auth, int *status, char **body, size_t *len,
             struct err *e)
{
    const char *headers[] = {with_auth ? l->auth : NULL, NULL};
    char url[1024];
    snprintf(url, sizeof url, "%s%s", l->base_url, path);
    struct client_request r = {.method = "GET",
                               .url = url,
                               .unix_socket = l->unix_socket,
                               .headers = headers,
                               .connect_ms = GET_CONNECT_MS,
                               .first_byte_ms = GET_TOTAL_MS,
                               .idle_ms = GET_TOTAL_MS,
                               .total_ms = GET_TOTAL_MS};
    return client_fetch(&r, GET_BODY_MAX, status, body, len, e);
}

int kind_get_json(const struct engine_link *l, const char *path, json_t **out, struct err *e)
{
    int status = 0, rc = -1;
    char *body = NULL;
    size_t len = 0;
    if (kind_get(l, path, true, &status, &body, &len, e)) return -1;
    if (status != 200)
        err_set(e, ERR_ENGINE, "the engine answered %s with status %d", path, status);
    else
        rc = json_parse(body, len, out, e);
    free(body);
    return rc;
}

int kind_residents(const struct engine_link *l, void (*one)(void *u, const char *digest), void *u, struct err *e)
{
    json_t *v = NULL, *m;
    size_t i;
    if (kind_get_json(l, "/v1/models", &v, e)) return -1;
    json_array_foreach(json_object_get(v, "data"), i, m)
    {
        const char *id = json_string_value(json_object_get(m, "id"));
        const json_t *state = json_object_get(m, "state");
        if (i > DIGESTS_MAX) break;
        if (!id || !sha256_is_hex(id)) continue; /* not loaded by a Weft */
        if (!state || (json_is_string(state) && strcmp(json_string_value(state), "resident") == 0)) one(u, id);
    }
    json_decref(v);
    return 0;
}

static void take_word(const json_t *o, const char *field, char *out, size_t n)
{
    const char *s = json_string_value(json_object_get(o, field));
    snprintf(out, n, "%s", s ? s : "");
}

int kind_refuse_policy(const struct engine_link *l, struct err *e)
{
    return err_field(e, ERR_UNSUPPORTED, "model",
                     "This alias has a prompt policy, which the engine '%.64s' does not know; only an up to date weft-engine does.", l->name);
}

void kind_read_error(const char *body, size_t n, struct kind_error *out)
{
    json_t *root = NULL;
    *out = (struct kind_error){0};
    if (json_parse(body, n, &root, NULL)) return;
    const json_t *o = json_object_get(root, "error");
    take_word(o, "code", out->code, sizeof out->code);
    take_word(o, "type", out->type, sizeof out->type);
    take_word(o, "message", out->message, sizeof out->message);
    json_decref(root);
}
