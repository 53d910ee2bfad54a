/* observe_trace: a request that is over, copied into a record for the collector's queue (gateway/observe/otlp.h).
 *
 * One allocation for each traced request, after its answer was given; where there is no memory for it there is no trace of
 * it. Stages that took less than NOISE_US and wait for nobody (the body, the last bytes) are left out. */
#include "gateway/observe/observe.h"
#include "gateway/proxy/upstream_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOISE_US 1000

static bool is_told(const struct span_note *s)
{
    bool own = strcmp(s->name, observe_stage_name[STAGE_RECEIVE]) != 0 && strcmp(s->name, observe_stage_name[STAGE_ANSWER]) != 0;
    return own || s->end_us - s->start_us >= NOISE_US;
}

static void take_exchange(struct trace_record *t, const struct exchange *x)
{
    const struct relay_counts *c = &x->relay.counts;
    t->served = true;
    t->endpoint = x->adm.endpoint;
    t->state = usage_state_name[x->out.state];
    t->stream = x->adm.stream;
    t->cold = x->cold;
    t->attempt = x->attempt;
    t->times = x->relay.times;
    t->counted = c->known;
    t->prompt = c->prompt;
    t->cached = c->cached;
    t->output = x->delivered;
    t->version = x->adm.what.version;
    snprintf(t->model, sizeof t->model, "%s", x->adm.model);
    snprintf(t->adapter, sizeof t->adapter, "%s", x->adm.what.adapter);
    snprintf(t->base, sizeof t->base, "%s", x->adm.what.base);
    snprintf(t->finish, sizeof t->finish, "%s", c->finish);
}

static void take_request(struct trace_record *t, const struct http_request *r, const struct observed *o)
{
    const struct principal *who = r->who;
    t->context = o->context;
    memcpy(t->parent, o->parent, SPAN_BYTES);
    t->start_us = o->wall_us + o->start_us;
    t->end_us = o->wall_us + o->entered_us;
    t->first_us = o->first_us ? o->wall_us + o->first_us : 0;
    t->status = o->answered ? o->status : 0;
    t->method = r->route ? r->route->method : "";
    t->route = r->route ? r->route->pattern : "";
    t->error = o->error ? o->error : r->error ? r->error : "";
    t->endpoint = t->state = "";
    snprintf(t->id, sizeof t->id, "%s", r->id);
    if (who) snprintf(t->tenant, sizeof t->tenant, "%s", who->tenant_name);
    if (o->tracestate) snprintf(t->tracestate, sizeof t->tracestate, "%s", o->tracestate);
}

void observe_trace(const struct http_request *r, const struct observed *o, const struct exchange *x)
{
    const struct gateway *g = r->server_user;
    struct trace_record *t = calloc(1, sizeof *t + (size_t)o->nspans * sizeof t->span[0]);
    if (!t) return;
    take_request(t, r, o);
    if (x) take_exchange(t, x);
    for (int i = 0; i < o->nspans; i++)
        if (is_told(&o->spans[i])) t->span[t->nspans++] = o->spans[i];
    otlp_put(g->otlp, t);
}
