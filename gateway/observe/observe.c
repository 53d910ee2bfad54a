/* observe: the stages of a request as it goes through the gateway (see observe.h).
 *
 *     observe_begin -> enter(admission) -> enter(pick) -> enter(load) -> enter(upstream) -> enter(answer) -> over
 *          |             ^ refused before: the server's `done` tells the end                     |  |
 *          `-------------'                                              another engine: pick <---'  `-> done, then over
 *
 * Each stage ends where the next is entered, so their times add up to the whole, whatever is tried again. The clock is the
 * monotonic one; spans get wall time by one offset that is taken at the beginning, so a clock that is set meanwhile tears
 * nothing.
 *
 * Which requests are traced is the caller's to say where it says anything (the flag `sampled` of its traceparent), as the
 * parent-based samplers of OpenTelemetry do; of the others otlp_percent are. A trace is passed on to the engine in any
 * case, with our span for a parent where we tell of one, else as it came.
 *
 * Memory is the request's arena. Which thread: that of the stage. */
#include "gateway/observe/observe.h"
#include "base/clock.h"
#include "base/sha256.h"
#include "gateway/proxy/upstream_impl.h"
#include "gateway/settings.h"
#include <stdio.h>
#include <string.h>

const char *const observe_stage_name[STAGES] = {"receive", "admission", "pick", "load", "upstream", "answer"};

/* --- the trace --- */

/* Of 2^64 ids, the first `percent` hundredths; ids are random. */
static bool draws(const uint8_t trace[TRACE_BYTES], int64_t percent)
{
    uint32_t v;
    memcpy(&v, trace + TRACE_BYTES - sizeof v, sizeof v);
    return (uint64_t)v * 100 < (uint64_t)percent << 32;
}

/* A trace of our own. */
static void start_trace(struct observed *o, int64_t percent)
{
    uint8_t fresh[TRACE_BYTES + SPAN_BYTES];
    if (random_bytes(fresh, sizeof fresh)) return;
    memcpy(o->context.trace, fresh, TRACE_BYTES);
    memcpy(o->context.span, fresh + TRACE_BYTES, SPAN_BYTES);
    o->context.sampled = draws(o->context.trace, percent);
    o->has_trace = true;
}

/* The client's, with a span of ours below its own where it is told of. */
static void join_trace(struct observed *o, bool told)
{
    o->has_trace = true;
    if (!told || !o->context.sampled) return;
    memcpy(o->parent, o->context.span, SPAN_BYTES);
    if (random_bytes(o->context.span, SPAN_BYTES)) o->context.sampled = false;
}

static void find_trace(struct http_request *r, struct observed *o)
{
    const struct gateway *g = r->server_user;
    const char *text = http_header(r, "traceparent");
    if (traceparent_parse(text, &o->context)) {
        char *state = arena_alloc(r->arena, TRACESTATE_MAX + 1);
        bool has = state && http_header_join(r, "tracestate", state, TRACESTATE_MAX + 1) > 0;
        if (has && tracestate_is(state)) o->tracestate = state;
        o->traceparent = text;
        join_trace(o, g->otlp != NULL);
    } else if (g->otlp) {
        start_trace(o, g->set->otlp_percent);
    }
    o->traced = g->otlp && o->has_trace && o->context.sampled;
    if (o->traced) o->spans = arena_alloc(r->arena, OBSERVE_SPANS * sizeof *o->spans);
    o->traced = o->spans != NULL;
}

void observe_begin(struct http_request *r)
{
    struct observed *o = arena_alloc(r->arena, sizeof *o);
    if (!o) return;
    o->start_us = o->entered_us = r->t_start_us;
    o->wall_us = clock_wall_us() - clock_mono_us();
    find_trace(r, o);
    r->seen = o;
}

void observe_trace_id(const struct observed *o, char out[TRACE_HEX])
{
    out[0] = 0;
    if (o && o->has_trace) trace_hex(o->context.trace, TRACE_BYTES, out);
}

/* The span of the try that is under way is what the engine's work hangs below. */
void observe_traceparent(const struct observed *o, char out[TRACEPARENT_LEN])
{
    out[0] = 0;
    if (!o || !o->has_trace) return;
    struct trace_context c = o->context;
    if (o->traced && o->nspans && o->spans[o->nspans - 1].upstream) memcpy(c.span, o->spans[o->nspans - 1].id, SPAN_BYTES);
    traceparent_print(&c, out);
}

/* --- stages --- */

/* The last place is for the last stage, so that what was told apart before stays so. */
static void begin_span(struct observed *o, enum observe_stage s, const char *engine)
{
    if (o->nspans < OBSERVE_SPANS) o->nspans++;
    struct span_note *n = &o->spans[o->nspans - 1];
    *n = (struct span_note){.name = observe_stage_name[s], .upstream = s == STAGE_UPSTREAM, .start_us = o->wall_us + o->entered_us};
    snprintf(n->engine, sizeof n->engine, "%s", engine);
    if (n->upstream) random_bytes(n->id, SPAN_BYTES); /* all zero where that fails: then it is made when it is told */
}

/* The stage that ends now. */
static void end_stage(struct observed *o, int64_t now_us)
{
    if (o->traced && o->nspans == 0) begin_span(o, o->stage, "");
    o->spent_us[o->stage] += now_us - o->entered_us;
    if (o->traced) o->spans[o->nspans - 1].end_us = o->wall_us + now_us;
    o->entered_us = now_us;
}

void observe_enter(struct observed *o, enum observe_stage s, const char *engine)
{
    if (!o || (s == o->stage && s != STAGE_UPSTREAM)) return;
    end_stage(o, clock_mono_us());
    o->stage = s;
    if (o->traced) begin_span(o, s, engine);
}

void observe_first(struct observed *o)
{
    if (o && !o->first_us) o->first_us = clock_mono_us();
}

/* --- the end --- */

static bool is_slow(const struct settings *set, int64_t took_us)
{
    return set->slow_ms > 0 && took_us > set->slow_ms * 1000;
}

/* A handler that has the request tells its end itself, when it is settled: this may come before. */
void observe_answered(const struct http_request *r, const char *listener, int status, uint64_t bytes, int64_t took_us)
{
    const struct gateway *g = r->server_user;
    struct observed *o = r->seen;
    if (o) {
        o->answered = true;
        o->status = status;
        o->bytes = bytes;
        o->took_us = took_us;
        if (o->has_exchange) return;
        end_stage(o, clock_mono_us());
    }
    if (g->set->access_log) observe_log_access(r, o, listener, status, bytes, took_us, NULL);
    if (o && is_slow(g->set, took_us)) observe_log_slow(o, took_us, NULL);
    if (o && o->traced) observe_trace(r, o, NULL);
}

void observe_over(struct exchange *x)
{
    struct observed *o = x->seen;
    const struct settings *set = x->g->set;
    if (!o) return;
    int64_t now = clock_mono_us();
    end_stage(o, now);
    int status = o->answered ? o->status : x->out.http_status;
    int64_t took = o->answered ? o->took_us : now - o->start_us;
    if (set->access_log) observe_log_access(x->req, o, "public", status, o->bytes, took, x);
    if (is_slow(set, took)) observe_log_slow(o, took, x);
    if (o->traced) observe_trace(x->req, o, x);
}
