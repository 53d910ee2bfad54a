/* api_state: GET /weft/v1/state, what routing, `weft top` and a gateway that adopts this engine read; GET
 * /weft/v1/trace, the last steps; and GET /weft/v1/receipts/{id}.
 *
 * A snapshot, taken piece by piece: figures may be one step apart. */
#include "base/clock.h"
#include "engine/api_impl.h"
#include "engine/pull.h"
#include "engine/sched_cost.h"
#include "engine/trace.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static json_t *tenants_json(const struct sched_state *s)
{
    json_t *list = json_array();
    for (int i = 0; i < s->ntenant; i++)
        json_list_add(&list, json_pack("{s:s, s:i, s:i, s:f, s:f}", "tag", s->tenant[i].tag, "waiting",
                                              s->tenant[i].waiting, "running", s->tenant[i].running, "weight",
                                              s->tenant[i].weight, "counter", s->tenant[i].counter));
    return list;
}

/* Known adapters by what they are: {"lora": 3, "dora": 1}; one that was never resident is not known well enough. */
static json_t *kinds_json(const struct lora_info *list, int n)
{
    json_t *kinds = json_object();
    for (int i = 0; i < n; i++) {
        if (!list[i].kind[0]) continue;
        json_int_t so_far = json_integer_value(json_object_get(kinds, list[i].kind));
        json_object_put(&kinds, list[i].kind, json_integer(so_far + 1));
    }
    return kinds;
}

static json_t *slots_json(const struct api_engine *g)
{
    int n_state[LORA_DRAINING + 1] = {0}, pinned = 0, pins = 0;
    json_int_t bytes = 0;
    struct lora_info *list = calloc((size_t)g->max_known, sizeof *list);
    if (!list) return NULL;
    int n = lora_list(g->loras, list, g->max_known);
    for (int i = 0; i < n; i++) {
        n_state[list[i].state]++;
        pinned += list[i].pins > 0;
        pins += list[i].pins;
        if (list[i].state == LORA_RESIDENT) bytes += (json_int_t)list[i].bytes;
    }
    json_t *kinds = kinds_json(list, n);
    free(list);
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:I, s:o}", "max", g->max_slots, "known", n, "resident",
                     n_state[LORA_RESIDENT], "loading", n_state[LORA_LOADING], "draining", n_state[LORA_DRAINING],
                     "pinned", pinned, "pins", pins, "bytes", bytes, "kinds", kinds);
}

static json_t *waiting_json(const struct sched_state *s)
{
    json_t *v = json_object();
    for (int i = 0; i < SCHED_CLASSES; i++)
        json_object_put(&v, sched_class_name[i], json_integer(s->class_waiting[i]));
    return v;
}

static json_t *cost_json(const struct sched_state *s)
{
    json_t *v = json_pack("{s:f, s:i}", "error", s->estimate_error, "budget_rows", s->budget_rows);
    for (int i = 0; i < COST_TERMS; i++) json_object_put(&v, cost_term_name[i], json_real(s->cost_us[i]));
    return v;
}

static json_t *load_json(const struct sched_state *s)
{
    return json_pack("{s:i, s:i, s:o, s:i, s:{s:i, s:i, s:i, s:f}, s:{s:I, s:I}, s:{s:I, s:I}, "
                     "s:{s:I, s:I, s:I, s:I, s:i, s:i, s:I, s:I}, s:o, s:o}",
                     "running", s->running, "waiting", s->waiting, "waiting_class", waiting_json(s), "max_running",
                     s->max_running, "pages", "total", s->pages_total, "used", s->pages_used, "idle", s->pages_idle,
                     "waste", s->waste, "prefix", "queries", (json_int_t)s->prefix_queries, "hits",
                     (json_int_t)s->prefix_hits, "speculation", "drafted", (json_int_t)s->drafted, "accepted",
                     (json_int_t)s->accepted, "steps", "count", (json_int_t)s->steps, "preemptions",
                     (json_int_t)s->preemptions, "yields", (json_int_t)s->yields, "drains", (json_int_t)s->drains,
                     "last_rows", s->last_rows, "last_adapters", s->last_adapters, "us_p50", (json_int_t)s->step_us_p50,
                     "us_p99", (json_int_t)s->step_us_p99, "cost", cost_json(s), "tenants", tenants_json(s));
}

/* The plan of the memory, in bytes; where the weights lie changes in the seconds after a start. */
static json_t *memory_json(const struct api_engine *g, json_int_t resident)
{
    struct model_memory m;
    struct sched_memory c;
    model_memory(g->model, &m);
    sched_get_memory(g->sched, &c);
    return json_pack("{s:{s:s, s:I, s:I, s:I}, s:I, s:I, s:I, s:{s:I, s:I}}", "weights", "from", m.from, "bytes",
                     (json_int_t)m.weights, "huge", (json_int_t)m.huge, "mapped", (json_int_t)m.mapped, "kv",
                     (json_int_t)c.kv, "workspace", (json_int_t)c.workspace, "logits", (json_int_t)c.logits, "adapters",
                     "max", (json_int_t)lora_max_bytes(g->loras), "resident", resident);
}

/* What computes. A graph is made for the first step of a kind and replayed for those like it. */
static json_t *pull_json(struct pull *p)
{
    struct pull_state s;
    pull_get_state(p, &s);
    return json_pack("{s:I, s:I, s:i, s:i}", "bytes", (json_int_t)s.bytes, "max_bytes", (json_int_t)s.max_bytes, "adapters", s.blobs, "pulling",
                     s.pulling);
}

static json_t *device_json(const struct api_engine *g)
{
    struct device_about about;
    struct device_counts c;
    if (!g->device) return json_pack("{s:s}", "backend", "cpu");
    device_about(g->device, &about);
    device_counts(g->device, &c);
    const struct device_plan *p = g->plan;
    return json_pack("{s:s, s:s, s:i, s:I, s:I, s:I, s:{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i}}", "backend",
                     about.backend, "name", about.name, "ranks", about.ranks, "memory", (json_int_t)about.memory,
                     "graphs", (json_int_t)c.graphs, "replays", (json_int_t)c.replays, "plan", "weights",
                     (json_int_t)p->weights, "constants", (json_int_t)p->constants, "kv", (json_int_t)p->kv, "adapters",
                     (json_int_t)p->adapters, "workspace", (json_int_t)p->workspace, "staging", (json_int_t)p->staging,
                     "total", (json_int_t)p->total, "kv_pages", p->kv_pages);
}

void api_state(struct http_request *r)
{
    struct api *a = r->server_user;
    struct err e = {0};
    struct sched_state s = {0};
    const struct api_engine *g = api_hold(a, &e);
    if (!g) {
        api_refuse(r, &e);
        return;
    }
    sched_get_state(g->sched, &s);
    json_t *v = json_pack(
        "{s:o, s:s, s:s, s:s, s:i, s:i, s:I, s:i, s:i, s:I, s:o}", "base", base_desc_to_json(&g->model->desc),
        "precision", g->model->prec == PREC_EXACT ? "exact" : "fast", "kernels", g->kernels, "fingerprint",
        a->fingerprint, "max_context", g->max_context, "vocab", g->model->vocab, "weight_bytes",
        (json_int_t)g->model->weight_bytes, "pid", (int)getpid(), "http_in_flight", http_server_in_flight(a->http),
        "uptime_us", (json_int_t)(clock_mono_us() - a->started_us), "slots", slots_json(g));
    json_int_t resident = json_integer_value(json_object_get(json_object_get(v, "slots"), "bytes"));
    json_object_put(&v, "memory", memory_json(g, resident));
    json_object_put(&v, "device", device_json(g));
    if (g->pull) json_object_put(&v, "pull", pull_json(g->pull));
    json_object_put(&v, "prompt_policies", policy_names());
    if (json_object_update_new(v, load_json(&s))) {
        json_decref(v);
        v = NULL;
    }
    api_release(a);
    api_reply_json(r, v);
}

void api_trace(struct http_request *r)
{
    struct api *a = r->server_user;
    struct err e = {0};
    const struct api_engine *g = api_hold(a, &e);
    if (g && g->trace) {
        json_t *v = trace_json(g->trace, clock_mono_us());
        api_release(a);
        api_reply_json(r, v);
        return;
    }
    if (g) {
        api_release(a);
        err_set(&e, ERR_NOT_FOUND, "this engine keeps no trace (--trace-steps 0)");
    }
    api_refuse(r, &e);
}

static json_t *times_json(const struct gen_times *t)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I}", "queue_us", (json_int_t)t->queue_us, "load_us", (json_int_t)t->load_us, "prefill_us",
                     (json_int_t)t->prefill_us, "decode_us", (json_int_t)t->decode_us, "paused_us", (json_int_t)t->paused_us);
}

void api_receipt(struct http_request *r)
{
    struct api *a = r->server_user;
    struct err e = {0};
    struct receipt x;
    if (strlen(r->param[0]) >= RECEIPT_ID_LEN || receipts_get(a->receipts, r->param[0], clock_mono_us(), &x, &e)) {
        err_set(&e, ERR_NOT_FOUND, "no receipt of this request");
        api_refuse(r, &e);
        return;
    }
    json_t *finish = x.finish[0] ? json_string(x.finish) : json_null();
    json_t *v = json_pack("{s:s, s:s, s:I, s:I, s:I, s:o, s:o}", "id", x.id, "state", receipt_state_name[x.state],
                                "prompt_tokens", (json_int_t)x.prompt, "cached_tokens", (json_int_t)x.cached,
                                "output_tokens", (json_int_t)x.output, "finish_reason", finish,
                                "times", times_json(&x.times));
    if (x.before) json_object_put(&v, "policy_before_tokens", json_integer(x.before));
    if (x.before) json_object_put(&v, "policy_after_tokens", json_integer(x.after));
    api_reply_json(r, v);
}
