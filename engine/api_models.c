/* api_models: GET /v1/models and /v1/models/{model}: the base, and each adapter that the engine knows under its digest.
 *
 * OpenAI's fields, vLLM's `root`, `parent` and `max_model_len`, and of ours `rank`, `kind`, `bytes` and `state` for
 * adapters. No path is ever shown. */
#include "engine/api_impl.h"
#include <stdlib.h>
#include <string.h>

static json_t *base_json(const struct api_engine *g)
{
    const struct model *m = g->model;
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:n, s:i}", "id", m->name, "object", "model", "created",
                     (json_int_t)m->created, "owned_by", "weft", "root", m->name, "parent", "max_model_len",
                     g->max_context);
}

static json_t *adapter_json(const struct lora_info *l, const struct api_engine *g)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:s, s:i, s:i, s:s, s:I, s:s}", "id", l->digest, "object", "model",
                     "created", (json_int_t)l->loaded_at, "owned_by", "weft", "root", l->digest, "parent",
                     g->model->name, "max_model_len", g->max_context, "rank", l->rank, "kind", l->kind, "bytes",
                     (json_int_t)l->bytes, "state", lora_state_name[l->state]);
}

/* malloc'ed; NULL: no memory. */
static struct lora_info *known_adapters(const struct api_engine *g, int *n)
{
    struct lora_info *list = calloc((size_t)g->max_known, sizeof *list);
    if (list) *n = lora_list(g->loras, list, g->max_known);
    return list;
}

void api_models(struct http_request *r)
{
    struct api *a = r->server_user;
    struct err e = {0};
    int n = 0;
    const struct api_engine *g = api_hold(a, &e);
    if (!g) {
        api_refuse(r, &e);
        return;
    }
    struct lora_info *list = known_adapters(g, &n);
    json_t *data = list ? json_array() : NULL;
    json_list_add(&data, base_json(g));
    for (int i = 0; i < n; i++) json_list_add(&data, adapter_json(&list[i], g));
    api_release(a);
    free(list);
    api_reply_json(r, data ? json_pack("{s:s, s:o}", "object", "list", "data", data) : NULL);
}

/* NULL: no memory, or e says that there is none. */
static json_t *one_model(const struct api_engine *g, const char *digest, struct err *e)
{
    int n = 0, i = 0;
    json_t *found = NULL;
    struct lora_info *list = known_adapters(g, &n);
    while (list && i < n && strcmp(list[i].digest, digest) != 0) i++;
    if (list && i < n)
        found = adapter_json(&list[i], g);
    else if (list)
        err_set(e, ERR_ADAPTER_NOT_LOADED, "the adapter is not loaded");
    free(list);
    return found;
}

void api_model(struct http_request *r)
{
    struct api *a = r->server_user;
    struct err e = {0};
    const char *digest;
    json_t *found = NULL;
    const struct api_engine *g = api_hold(a, &e);
    if (g && api_resolve(g, r->param[0], &digest, &e) == 0) found = digest ? one_model(g, digest, &e) : base_json(g);
    if (g) api_release(a);
    if (e.code)
        api_refuse(r, &e);
    else
        api_reply_json(r, found);
}
