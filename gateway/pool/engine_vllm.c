/* Kind vllm: a vLLM server, alone, under Ray Serve or on Kubernetes (docs/VLLM.md has what it was seen to say, and how it
 * has to be started).
 *
 *   adapters   /v1/load_lora_adapter with the digest as name and the blob's folder as path: that folder is in PEFT's layout.
 *              The path is the store's, or settings.store where the engine sees it under another one
 *   requests   the digest, or the engine's own name of the base, as `model`; fields that only weft-engine knows are said in
 *              vLLM's words, left out where they ask for nothing, or refused by name: none is half applied
 *   streams    usage with every chunk, so that what was delivered is known at each moment; taken out again
 *   the base   described by settings.base ({"name","digest","layers","modules",...} as weft-engine's state has it) where
 *              adapters are to be checked without a weft-engine of the same base
 *
 * It is trusted with what it is sent and with nothing else: no header of ours, no client's key, no name of a tenant. What
 * says ids of its adapters says ours, so an answer's are replaced. Any thread. */
#include "adapters/store.h"
#include "base/json.h"
#include "gateway/pool/engine_words.h"
#include "gateway/registry/prompt_policy.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- looking --- */

static int look(const struct engine_link *l, struct engine_view *out, struct err *e)
{
    if (words_models(l, l->model, out->model, &out->max_context, e)) return -1;
    const json_t *base = json_object_get(l->settings, "base");
    if (!base) return 0;
    if (base_desc_from_json(&out->base, base, e)) return err_prefix(e, "the engine's settings.base");
    if (l->base[0]) snprintf(out->base.name, sizeof out->base.name, "%s", l->base);
    out->described = true;
    return 0;
}

static int queue(const struct engine_link *l, struct engine_queue *out, struct err *e)
{
    char *page = NULL;
    size_t len = 0;
    int status = 0;
    if (kind_get(l, "/metrics", true, &status, &page, &len, e)) return -1;
    struct metric_sum running = {0}, waiting = {0}, kv = {0};
    if (status == 200 && page) {
        running = kind_metric(page, "vllm:num_requests_running");
        waiting = kind_metric(page, "vllm:num_requests_waiting");
        kv = kind_metric(page, "vllm:kv_cache_usage_perc");
    }
    free(page);
    if (!running.n || !waiting.n)
        return err_set(e, ERR_ENGINE, "%s/metrics (status %d) does not say how many requests run and wait", l->base_url,
                       status);
    if (running.sum > INT32_MAX || waiting.sum > INT32_MAX)
        return err_set(e, ERR_ENGINE, "%s/metrics counts more requests than there can be", l->base_url);
    double used = kv.n ? kv.sum / kv.n : 0; /* a share, also of one that says percent */
    *out = (struct engine_queue){.running = (int)running.sum, .waiting = (int)waiting.sum, .kv_used = used <= 1 ? used : 1};
    return 0;
}

/* --- adapters --- */

static int load(const struct engine_link *l, const char *digest, struct kind_call *out, struct err *e)
{
    char path[STORE_PATH_MAX];
    const char *theirs = json_string_value(json_object_get(l->settings, "store"));
    if (store_path(theirs && theirs[0] ? theirs : l->store, digest, path, e)) return -1;
    snprintf(out->path, sizeof out->path, "/v1/load_lora_adapter");
    buf_addf(&out->body, "{\"lora_name\":\"%s\",\"lora_path\":", digest);
    buf_add_json(&out->body, path, strlen(path));
    buf_adds(&out->body, "}");
    return out->body.failed ? err_set(e, ERR_NO_MEMORY, "no memory for the load call") : 0;
}

/* What vLLM means, by its own words; ERR_INTERNAL is what an operator has to mend. */
static const struct {
    int status;
    const char *words; /* within the body; "" any */
    enum err_code code;
    const char *say; /* NULL: its message */
} load_words[] = {
    {400, "has already been loaded", ERR_NONE, NULL},
    {404, "No adapter found for", ERR_INTERNAL,
     "the engine does not see the adapter's folder: it must be able to read the store, under settings.store if its "
     "path is another there"},
    {404, "", ERR_INTERNAL,
     "the engine takes no adapters while it runs: it must be started with --enable-lora and "
     "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"},
    {400, "", ERR_ADAPTER_INVALID, NULL},
    {401, "", ERR_INTERNAL, "the engine refuses our key"},
    {403, "", ERR_INTERNAL, "the engine refuses our key"},
    {503, "", ERR_UNAVAILABLE, NULL},
    {500, "max_lora_rank", ERR_ADAPTER_INVALID, NULL},
    {500, "add_lora", ERR_ADAPTER_INVALID, NULL},
};

static void load_refused(int status, const char *body, size_t n, struct err *e)
{
    struct kind_error said;
    kind_read_error(body, n, &said);
    const char *message = said.message[0] ? said.message : "the engine refused to load the adapter";
    for (size_t i = 0; i < sizeof load_words / sizeof *load_words; i++) {
        const char *w = load_words[i].words;
        if (load_words[i].status != status || (w[0] && !memmem(body, n, w, strlen(w)))) continue;
        if (load_words[i].code) err_set(e, load_words[i].code, "%s", load_words[i].say ? load_words[i].say : message);
        return;
    }
    err_set(e, ERR_INTERNAL, "status %d: %s", status, message);
}

static int unload(const struct engine_link *l, const char *digest, struct kind_call *out, struct err *e)
{
    (void)l;
    snprintf(out->path, sizeof out->path, "/v1/unload_lora_adapter");
    buf_addf(&out->body, "{\"lora_name\":\"%s\"}", digest);
    return out->body.failed ? err_set(e, ERR_NO_MEMORY, "no memory for the unload call") : 0;
}

/* --- requests --- */

/* The one adapter of `adapters`, as far as it is what vLLM can say: one, whole, in the base's place. */
static const char *only_adapter(json_t *list, char name[SHA256_HEX])
{
    const json_t *one = json_array_get(list, 0), *weight = json_object_get(one, "weight");
    const char *s = json_string_value(json_object_get(one, "name"));
    bool whole = !weight || json_is_null(weight) || (json_is_number(weight) && json_number_value(weight) == 1);
    if (json_array_size(list) != 1 || !s || !whole || strlen(s) >= SHA256_HEX) return NULL;
    snprintf(name, SHA256_HEX, "%s", s);
    return name;
}

static int read_adapters(const struct words_body *b, char name[SHA256_HEX])
{
    struct json_span v;
    char text[512];
    json_t *o = NULL;
    name[0] = 0;
    if (!json_walk_find(b->whole, "adapters", &v) || json_span_is(v, "null") || json_span_is(v, "[]")) return 0;
    int n = snprintf(text, sizeof text, "{\"a\":%.*s}", (int)(v.n < sizeof text ? v.n : sizeof text), v.s);
    if (b->ask->digest || n >= (int)sizeof text || json_parse(text, (size_t)n, &o, NULL)) return -1;
    int rc = only_adapter(json_object_get(o, "a"), name) ? 0 : -1;
    json_decref(o);
    return rc;
}

static int write_model(struct words_body *b, const struct json_member *m, struct err *e)
{
    char name[SHA256_HEX];
    if (read_adapters(b, name))
        return err_field(e, ERR_UNSUPPORTED, "adapters",
                         "the engine that this model runs on serves one adapter at a time, with the weight 1; sums of "
                         "adapters are weft-engine's");
    words_put_model(b, m->key, name[0] ? name : b->ask->digest ? b->ask->digest : b->link->model);
    return 0;
}

static int nothing(struct words_body *b, const struct json_member *m, struct err *e)
{
    (void)b, (void)m, (void)e;
    return 0;
}

/* OpenAI's best_of asks for no more than n does when they are equal, and vLLM has it no more. */
static int write_best_of(struct words_body *b, const struct json_member *m, struct err *e)
{
    int64_t n = 0;
    if (json_span_is(m->value, "null") || (json_span_count(m->value, &n) && n == b->ask->choices)) return 0;
    return words_refuse(b, m, e);
}

static int write_typical_p(struct words_body *b, const struct json_member *m, struct err *e)
{
    if (json_span_is(m->value, "null") || json_span_is(m->value, "1") || json_span_is(m->value, "1.0")) return 0;
    return words_refuse(b, m, e);
}

/* guided_X is now said as structured_outputs {X}. */
static int write_guided(struct words_body *b, const struct json_member *m, struct err *e)
{
    struct buf v;
    struct json_span also;
    static const char prefix[] = "\"guided_";
    if (json_span_is(m->value, "null")) return 0;
    if (json_walk_find(b->whole, "structured_outputs", &also) && !json_span_is(also, "null"))
        return words_refuse(b, m, e);
    buf_init(&v, m->value.n + 64);
    buf_adds(&v, "{\"");
    buf_add(&v, m->key.s + sizeof prefix - 1, m->key.n - (sizeof prefix - 1)); /* with the quote behind it */
    buf_addc(&v, ':');
    buf_add(&v, m->value.s, m->value.n);
    buf_addc(&v, '}');
    words_put(b, (struct json_span){"\"structured_outputs\"", 20}, v.data, v.len);
    int rc = v.failed ? err_set(e, ERR_NO_MEMORY, "no memory for the request") : 0;
    buf_close(&v);
    return rc;
}

static const struct words_field fields[] = {
    {"model", write_model},
    {PROMPT_FIELD, words_refuse_policy},
    {"adapters", nothing}, /* read with the model */
    {"stream_options", words_stream_options},
    {"best_of", write_best_of},
    {"typical_p", write_typical_p},
    {"guided_json", write_guided},
    {"guided_regex", write_guided},
    {"guided_choice", write_guided},
    {NULL, NULL},
};

static int write_body(const struct engine_link *l, struct kind_ask *a, struct buf *out, struct err *e)
{
    return words_write_body(l, a, fields, "{\"include_usage\":true,\"continuous_usage_stats\":true}", out, e);
}

/* --- refusals --- */

/* "... (parameter=max_tokens, value=5000)": the parameter has a member of its own. */
static void trim_parameter(char *message)
{
    char *at = strstr(message, " (parameter=");
    if (at) *at = 0;
}

static void read_param(const char *body, size_t n, char out[64])
{
    json_t *root = NULL;
    out[0] = 0;
    if (json_parse(body, n, &root, NULL)) return;
    const char *s = json_string_value(json_object_get(json_object_get(root, "error"), "param"));
    if (s) snprintf(out, 64, "%s", strncmp(s, "body.", 5) == 0 ? s + 5 : s);
    json_decref(root);
}

static bool names_model(const struct kind_ask *a, const char *message, const char *param)
{
    return strcmp(param, "model") == 0 || (a->sent[0] && strstr(message, a->sent));
}

static bool about_length(const char *message, const char *param)
{
    return strcmp(param, "input_tokens") == 0 || strstr(message, "maximum context length") ||
           strstr(message, "max_model_len");
}

static enum kind_verdict verdict(const struct kind_ask *a, int status, const char *body, size_t n, struct buf *out)
{
    struct kind_error said;
    char param[64];
    kind_read_error(body, n, &said);
    read_param(body, n, param);
    trim_parameter(said.message);
    if (status == 404 && sha256_is_hex(a->sent) && names_model(a, said.message, param)) return KIND_NOT_LOADED;
    if (status == 400 || status == 413 || status == 422) {
        bool length = about_length(said.message, param);
        words_error(a, length ? ERR_CONTEXT_LENGTH : ERR_INVALID, length ? "" : param,
                    said.message[0] ? said.message : "the engine refused the request", out);
        return KIND_REFUSED;
    }
    if (status == 503 || status == 429) {
        words_error(a, status == 429 ? ERR_RATE_LIMIT : ERR_QUEUE_FULL, "",
                    "the engine has too many requests; try again", out);
        return KIND_BUSY;
    }
    words_error(a, ERR_ENGINE, "", "the engine failed while it served the request", out);
    return KIND_FAILED;
}

const struct kind kind_vllm = {
    .name = "vllm",
    .adapters = true,
    .alive = "/health",
    .alive_open = true,
    .metrics = "/metrics",
    .look = look,
    .queue = queue,
    .counts = kind_counts,
    .residents = kind_residents,
    .load = load,
    .load_refused = load_refused,
    .unload = unload,
    .write_body = write_body,
    .event = words_event,
    .answer = words_answer,
    .verdict = verdict,
};
