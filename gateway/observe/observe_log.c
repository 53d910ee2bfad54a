/* observe_log: the two lines of the log that tell of a request (docs/OBSERVABILITY.md has their fields).
 *
 * `access` for each answer: the route's pattern and never the path, which is the client's text and may hold anything; the
 * key by its public id. `slow_request` adds where the time went, the engine's own account of it included, where it gave
 * one. What is unknown is left out, so a field that is there means what it says. */
#include "base/log.h"
#include "gateway/observe/observe.h"
#include "gateway/proxy/upstream_impl.h"
#include <string.h>

#define FIELDS 40

struct fields {
    struct log_field list[FIELDS + 1];
    int n;
};

static void add_word(struct fields *f, const char *key, const char *value)
{
    if (value && *value && f->n < FIELDS) f->list[f->n++] = LS(key, value);
}

static void add_number(struct fields *f, const char *key, int64_t v)
{
    if (f->n < FIELDS) f->list[f->n++] = LI(key, v);
}

static void add_ms(struct fields *f, const char *key, int64_t us)
{
    if (f->n < FIELDS) f->list[f->n++] = LD(key, (double)us / 1000);
}

static void add_who(struct fields *f, const struct principal *who)
{
    if (!who) return;
    add_word(f, "tenant", who->tenant_name);
    add_word(f, "key", who->key);
}

/* What was asked, what answered, how it ended. */
static void add_exchange(struct fields *f, const struct exchange *x)
{
    const struct relay_counts *c = &x->relay.counts;
    add_word(f, "endpoint", x->adm.endpoint);
    add_word(f, "model", x->adm.model);
    add_word(f, "base", x->adm.what.base);
    add_word(f, "adapter", x->adm.what.adapter);
    if (x->adm.what.version) add_number(f, "version", x->adm.what.version);
    add_word(f, "engine", x->engine);
    add_word(f, "state", usage_state_name[x->out.state]);
    add_number(f, "stream", x->adm.stream);
    if (x->attempt > 1) add_number(f, "attempt", x->attempt);
    if (x->cold) add_number(f, "cold", 1);
    if (!c->known) return;
    add_number(f, "prompt", c->prompt);
    add_number(f, "cached", c->cached);
    add_number(f, "output", x->delivered);
    if (c->output != x->delivered) add_number(f, "produced", c->output);
    add_word(f, "finish", c->finish);
}

static void add_trace(struct fields *f, const struct observed *o, char text[TRACE_HEX])
{
    observe_trace_id(o, text);
    add_word(f, "trace", text);
}

void observe_log_access(const struct http_request *r, const struct observed *o, const char *listener, int status, uint64_t bytes,
                        int64_t took_us, const struct exchange *x)
{
    struct fields f = {.n = 0};
    char trace[TRACE_HEX];
    add_word(&f, "id", r->id);
    add_word(&f, "listener", listener);
    add_word(&f, "method", r->route ? r->method : "none"); /* a method that no route has is the client's text */
    add_word(&f, "route", r->route ? r->route->pattern : "none");
    add_number(&f, "status", status);
    add_number(&f, "bytes", (int64_t)bytes);
    add_ms(&f, "ms", took_us);
    add_word(&f, "peer", r->peer);
    add_who(&f, r->who);
    if (x) add_exchange(&f, x);
    if (o && o->first_us) add_ms(&f, "first_ms", o->first_us - o->start_us);
    add_word(&f, "error", o && o->error ? o->error : r->error);
    add_trace(&f, o, trace);
    log_event(LOG_INFO, "access", f.list);
}

static void add_stages(struct fields *f, const struct observed *o)
{
    static const char *const key[STAGES] = {"receive_ms", "admission_ms", "pick_ms", "load_ms", "upstream_ms", "answer_ms"};
    for (int i = 0; i < STAGES; i++)
        if (o->spent_us[i] > 0) add_ms(f, key[i], o->spent_us[i]);
    if (o->first_us) add_ms(f, "first_ms", o->first_us - o->start_us);
}

static void add_times(struct fields *f, const struct relay_times *t)
{
    if (!t->known) return;
    add_ms(f, "engine_queue_ms", t->queue_us);
    add_ms(f, "engine_load_ms", t->load_us);
    add_ms(f, "engine_prefill_ms", t->prefill_us);
    add_ms(f, "engine_decode_ms", t->decode_us);
    if (t->paused_us) add_ms(f, "engine_paused_ms", t->paused_us);
}

void observe_log_slow(const struct observed *o, int64_t took_us, const struct exchange *x)
{
    struct fields f = {.n = 0};
    char trace[TRACE_HEX];
    if (x) add_word(&f, "id", x->adm.id);
    if (x) add_word(&f, "tenant", x->adm.who.tenant_name);
    add_ms(&f, "ms", took_us);
    if (o->status) add_number(&f, "status", o->status);
    add_stages(&f, o);
    if (x) add_times(&f, &x->relay.times);
    if (x) add_exchange(&f, x);
    add_word(&f, "error", o->error);
    add_trace(&f, o, trace);
    log_event(LOG_WARN, "slow_request", f.list);
}
