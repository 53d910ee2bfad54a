/* Kind weft: a weft-engine, as schema/ENGINE_API.md says. Its protocol is the one that the rest of the gateway thinks in,
 * so requests and answers pass as they are; only a base that is served here under another name is renamed on the way.
 *
 * The greeting: over TCP both sides hold one token. We send a nonce, the engine answers with one of its own and
 * HMAC(token, "weft hello " ours " " theirs). So what listens there knows the token before it ever gets it, and an answer
 * that was overheard is of no use for another nonce. */
#include "adapters/store.h"
#include "base/json.h"
#include "gateway/pool/engine_answers.h"
#include "gateway/pool/engine_kind.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NONCE_BYTES 32

/* --- looking --- */

static int greet(const struct engine_link *l, struct err *e)
{
    uint8_t nonce[NONCE_BYTES], mac[SHA256_BYTES];
    char ours[2 * NONCE_BYTES + 1], proof[SHA256_HEX], path[128], text[256], *body = NULL;
    const char *theirs = "", *said = "";
    json_t *v = NULL;
    size_t len = 0;
    int status = 0;
    if (random_bytes(nonce, sizeof nonce)) return err_errno(e, "no random bytes for a greeting");
    sha256_hex(nonce, ours);
    snprintf(path, sizeof path, "/weft/v1/hello?nonce=%s", ours);
    if (kind_get(l, path, false, &status, &body, &len, e)) return -1;
    bool read = status == 200 && json_parse(body, len, &v, NULL) == 0 &&
                json_need_str(v, "nonce", 2 * NONCE_BYTES, &theirs, NULL) == 0 &&
                json_need_str(v, "proof", SHA256_HEX - 1, &said, NULL) == 0;
    int n = snprintf(text, sizeof text, "weft hello %s %s", ours, theirs);
    sha256_hmac(l->secret, strlen(l->secret), text, (size_t)n, mac);
    sha256_hex(mac, proof);
    bool good = read && sha256_is_hex(said) && bytes_equal_ct(said, proof, SHA256_HEX - 1);
    json_decref(v);
    free(body);
    if (good) return 0;
    return err_set(e, ERR_UNAUTHORIZED,
                   "what answers at %s does not know the engine's token (hello: status %d); it is not given to it",
                   l->base_url, status);
}

/* An optional field: what is missing or odd stays empty. */
static void read_device(const json_t *v, struct engine_device *out)
{
    const char *backend = "", *name = "";
    int64_t ranks = 0;
    if (!json_is_object(v)) return;
    if (json_get_str(v, "backend", sizeof out->backend - 1, &backend, NULL, NULL) ||
        json_get_str(v, "name", sizeof out->name - 1, &name, NULL, NULL) ||
        json_get_int(v, "ranks", 0, 1024, &ranks, NULL, NULL) ||
        json_get_int(v, "memory", 0, INT64_MAX, &out->memory, NULL, NULL))
        return;
    snprintf(out->backend, sizeof out->backend, "%s", backend);
    snprintf(out->name, sizeof out->name, "%s", name);
    out->ranks = (int)ranks;
}

/* Served under another name, its own is one more that adapters may give. */
static void rename_base(const struct engine_link *l, struct base_desc *b)
{
    int n = (int)(sizeof b->also / sizeof b->also[0]);
    if (!l->base[0] || strcmp(l->base, b->name) == 0) return;
    for (int i = 0; i < n; i++) {
        if (b->also[i][0] && i < n - 1) continue;
        memcpy(b->also[i], b->name, sizeof b->also[i]);
        break;
    }
    snprintf(b->name, sizeof b->name, "%s", l->base);
}

static int ask_ready(const struct engine_link *l, struct err *e)
{
    int status = 0;
    char *body = NULL;
    size_t len = 0;
    if (kind_get(l, "/ready", true, &status, &body, &len, e)) return -1;
    free(body);
    return status == 200 ? 0 : err_set(e, ERR_UNAVAILABLE, "it is not ready (status %d)", status);
}

static int look(const struct engine_link *l, struct engine_view *out, struct err *e)
{
    json_t *v = NULL;
    int64_t context = 0, id = 0;
    if (ask_ready(l, e) || kind_get_json(l, "/weft/v1/state", &v, e)) return -1;
    int rc = base_desc_from_json(&out->base, json_object_get(v, "base"), e);
    if (!rc) rc = json_get_int(v, "max_context", 1, INT32_MAX, &context, NULL, e);
    if (!rc) rc = json_get_int(v, "pid", 0, INT32_MAX, &id, NULL, e);
    read_device(json_object_get(v, "device"), &out->device);
    bool pulls = json_is_object(json_object_get(v, "pull")), policies = json_is_array(json_object_get(v, "prompt_policies"));
    json_decref(v);
    if (rc) return err_prefix(e, "the engine's state");
    memcpy(out->model, out->base.name, sizeof out->model);
    rename_base(l, &out->base);
    out->described = true;
    out->max_context = (int)context;
    out->pid = (pid_t)id;
    out->pulls = pulls;
    out->policies = policies;
    return 0;
}

static double used_pages(const json_t *v)
{
    double total = json_number_value(json_object_get(v, "total")), used = json_number_value(json_object_get(v, "used"));
    return total > 0 && used >= 0 && used <= total ? used / total : 0;
}

static int64_t number(const json_t *v, const char *field)
{
    const json_t *n = json_object_get(v, field);
    json_int_t i = json_is_integer(n) ? json_integer_value(n) : 0;
    return i >= 0 && i < INT32_MAX ? i : 0;
}

static void read_detail(const json_t *v, struct engine_queue *out)
{
    const json_t *slots = json_object_get(v, "slots"), *pages = json_object_get(v, "pages"),
                 *steps = json_object_get(v, "steps");
    out->slots = (int)number(slots, "max");
    out->slots_resident = (int)number(slots, "resident");
    out->slots_loading = (int)number(slots, "loading");
    out->pages = (int)number(pages, "total");
    out->pages_used = (int)number(pages, "used");
    json_int_t count = json_integer_value(json_object_get(steps, "count"));
    out->steps = count > 0 ? count : 0;
    out->step_us_p50 = number(steps, "us_p50");
    out->step_us_p99 = number(steps, "us_p99");
}

static int queue(const struct engine_link *l, struct engine_queue *out, struct err *e)
{
    json_t *v = NULL;
    int64_t running = 0, waiting = 0;
    if (kind_get_json(l, "/weft/v1/state", &v, e)) return -1;
    int rc = json_get_int(v, "running", 0, INT32_MAX, &running, NULL, e) |
             json_get_int(v, "waiting", 0, INT32_MAX, &waiting, NULL, e);
    *out = (struct engine_queue){
        .running = (int)running, .waiting = (int)waiting, .kv_used = used_pages(json_object_get(v, "pages"))};
    read_detail(v, out);
    json_decref(v);
    return rc ? -1 : 0;
}

static int receipt(const struct engine_link *l, const char *id, struct relay_counts *out)
{
    char path[128], *body = NULL;
    size_t len = 0;
    int status = 0;
    bool runs;
    snprintf(path, sizeof path, "/weft/v1/receipts/%.60s", id);
    if (kind_get(l, path, true, &status, &body, &len, NULL)) return -1;
    int rc = status == 200 ? engine_read_receipt(body, len, &runs, out) : -1;
    free(body);
    return rc;
}

/* --- adapters --- */

static int load(const struct engine_link *l, const char *digest, struct kind_call *out, struct err *e)
{
    char path[STORE_PATH_MAX];
    if (store_path(l->store, digest, path, e)) return -1;
    snprintf(out->path, sizeof out->path, "/v1/load_lora_adapter");
    buf_addf(&out->body, "{\"lora_name\":\"%s\"", digest);
    if (l->pulls) { /* a folder of ours says nothing there */
        buf_adds(&out->body, "}");
        return 0;
    }
    buf_adds(&out->body, ",\"lora_path\":");
    buf_add_json(&out->body, path, strlen(path));
    buf_adds(&out->body, "}");
    return 0;
}

static void load_refused(int status, const char *body, size_t n, struct err *e)
{
    struct kind_error said;
    kind_read_error(body, n, &said);
    enum err_code code = said.code[0] ? err_by_word(said.code) : ERR_NONE;
    if (code == ERR_NONE) code = status == 404 ? ERR_NOT_FOUND : status == 503 ? ERR_UNAVAILABLE : ERR_INTERNAL;
    err_set(e, code, "%s", said.message[0] ? said.message : "the engine refused to load the adapter");
}

static int unload(const struct engine_link *l, const char *digest, struct kind_call *out, struct err *e)
{
    (void)l, (void)e;
    snprintf(out->path, sizeof out->path, "/v1/unload_lora_adapter");
    buf_addf(&out->body, "{\"lora_name\":\"%s\"}", digest);
    return 0;
}

/* --- requests --- */

static int write_body(const struct engine_link *l, struct kind_ask *a, struct buf *out, struct err *e)
{
    json_t *o = NULL;
    if (a->policy && !l->policies) return kind_refuse_policy(l, e); /* an older one, which would not see it */
    if (a->digest || !l->base[0] || strcmp(l->base, l->model) == 0) return 0;
    if (json_parse(a->body, a->len, &o, e)) return -1;
    int rc = json_object_set_new(o, "model", json_string(l->model)) || json_dump(o, false, out);
    json_decref(o);
    return rc ? err_set(e, ERR_NO_MEMORY, "no memory for the request") : 0;
}

static enum kind_verdict verdict(const struct kind_ask *a, int status, const char *body, size_t n, struct buf *out)
{
    struct kind_error said;
    (void)a;
    kind_read_error(body, n, &said);
    buf_add(out, body, n);
    if (status == 404 && err_by_word(said.code) == ERR_ADAPTER_NOT_LOADED) return KIND_NOT_LOADED;
    if (status == 422) return KIND_FAULT;
    if (status == 503) return KIND_BUSY;
    return status == 400 || status == 413 || status == 429 ? KIND_REFUSED : KIND_FAILED;
}

const struct kind kind_weft = {
    .name = "weft",
    .adapters = true,
    .weft_headers = true,
    .spawns = true,
    .alive = "/health",
    .alive_open = true,
    .metrics = "/metrics",
    .greet = greet,
    .look = look,
    .queue = queue,
    .counts = kind_counts,
    .residents = kind_residents,
    .load = load,
    .load_refused = load_refused,
    .unload = unload,
    .write_body = write_body,
    .verdict = verdict,
    .receipt = receipt,
};
