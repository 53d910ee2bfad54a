/* otlp_json: records as spans, in the JSON of OTLP (protobuf's JSON mapping, with ids in hex and 64-bit numbers as strings).
 *
 *     POST /v1/chat/completions        server   http.*, gen_ai.*, weft.*
 *       receive, admission, pick, load internal
 *       chat MODEL                     client   gen_ai.*; event first_token
 *         engine.load, .queue, .prefill, .decode   internal, from the engine's own account of its time
 *       answer                         internal
 *
 * Names are those of OpenTelemetry's conventions for HTTP servers and for generative AI (gen_ai.*, in development in 2026);
 * what they have no word for is weft.*. An engine says how long its steps took, not when they began: they are laid end to
 * end up to the first token that we saw, or from the moment of sending where that is not known, and never reach beyond
 * their parent. The exporter's thread, no state. */
#include "base/clock.h"
#include "base/sha256.h"
#include "base/version.h"
#include "gateway/observe/otlp.h"
#include <stdio.h>
#include <string.h>

enum kind { KIND_INTERNAL = 1, KIND_SERVER = 2, KIND_CLIENT = 3 };
enum status { STATUS_UNSET = 0, STATUS_ERROR = 2 };

#define FLAGS_OWN 0x101u    /* sampled; the parent is not remote */
#define FLAGS_REMOTE 0x301u /* it is */

/* The parts of a list with commas between. */
struct list {
    struct buf *out;
    bool more;
};

static void next(struct list *l)
{
    if (l->more) buf_addc(l->out, ',');
    l->more = true;
}

/* --- attributes --- */

static void begin_attribute(struct list *l, const char *key)
{
    next(l);
    buf_addf(l->out, "{\"key\":\"%s\",\"value\":{", key);
}

static void add_text(struct list *l, const char *key, const char *text)
{
    if (!*text) return;
    begin_attribute(l, key);
    buf_adds(l->out, "\"stringValue\":");
    buf_add_json(l->out, text, strlen(text));
    buf_adds(l->out, "}}");
}

static void add_number(struct list *l, const char *key, int64_t v)
{
    begin_attribute(l, key);
    buf_addf(l->out, "\"intValue\":\"%lld\"}}", (long long)v);
}

static void add_bool(struct list *l, const char *key, bool v)
{
    begin_attribute(l, key);
    buf_addf(l->out, "\"boolValue\":%s}}", v ? "true" : "false");
}

static void add_one_of_list(struct list *l, const char *key, const char *text)
{
    if (!*text) return;
    begin_attribute(l, key);
    buf_adds(l->out, "\"arrayValue\":{\"values\":[{\"stringValue\":");
    buf_add_json(l->out, text, strlen(text));
    buf_adds(l->out, "}]}}}");
}

static void add_double(struct list *l, const char *key, double v)
{
    begin_attribute(l, key);
    buf_addf(l->out, "\"doubleValue\":%.6f}}", v);
}

/* --- a span --- */

struct span {
    const uint8_t *id, *parent; /* parent NULL: none */
    const char *name, *name_more; /* joined by a space where there is more */
    enum kind kind;
    int64_t start_us, end_us;
    unsigned flags;
};

static void add_id(struct buf *out, const char *key, const uint8_t *id, size_t n)
{
    char text[TRACE_HEX];
    trace_hex(id, n, text);
    buf_addf(out, "\"%s\":\"%s\",", key, text);
}

static void add_name(struct buf *out, const struct span *s)
{
    char name[OTLP_NAME + 256];
    snprintf(name, sizeof name, "%s%s%s", s->name, *s->name_more ? " " : "", s->name_more);
    buf_adds(out, "\"name\":");
    buf_add_json(out, name, strlen(name));
}

/* Open until end_span(), in its attributes. */
static struct list begin_span(struct list *spans, const struct trace_record *r, const struct span *s)
{
    struct buf *out = spans->out;
    int64_t end = s->end_us > s->start_us ? s->end_us : s->start_us;
    next(spans);
    buf_addc(out, '{');
    add_id(out, "traceId", r->context.trace, TRACE_BYTES);
    add_id(out, "spanId", s->id, SPAN_BYTES);
    if (s->parent) add_id(out, "parentSpanId", s->parent, SPAN_BYTES);
    add_name(out, s);
    if (*r->tracestate) {
        buf_adds(out, ",\"traceState\":");
        buf_add_json(out, r->tracestate, strlen(r->tracestate));
    }
    buf_addf(out, ",\"flags\":%u,\"kind\":%d,\"startTimeUnixNano\":\"%lld000\",\"endTimeUnixNano\":\"%lld000\",\"attributes\":[", s->flags,
             (int)s->kind, (long long)s->start_us, (long long)end);
    return (struct list){.out = out};
}

static void end_span(struct list *spans, enum status status)
{
    buf_addf(spans->out, ",\"status\":{%s}}", status == STATUS_ERROR ? "\"code\":2" : "");
}

static void end_attributes(struct list *l)
{
    buf_addc(l->out, ']');
}

/* --- what is said of a request --- */

static bool is_zero(const uint8_t id[SPAN_BYTES])
{
    static const uint8_t none[SPAN_BYTES];
    return memcmp(id, none, SPAN_BYTES) == 0;
}

static const char *operation(const struct trace_record *r)
{
    return strcmp(r->endpoint, "/v1/completions") == 0 ? "text_completion" : "chat";
}

/* A refusal by status alone is named by it, as the conventions have it. */
static void add_error(struct list *l, const struct trace_record *r)
{
    char status[16];
    bool bad = r->status >= 400;
    snprintf(status, sizeof status, "%d", r->status);
    bool ended_badly = *r->state && strcmp(r->state, "completed") != 0;
    if (bad || ended_badly) add_text(l, "error.type", *r->error ? r->error : bad ? status : r->state);
}

static bool is_ours(const struct trace_record *r)
{
    return r->status >= 500 || strcmp(r->state, "upstream_error") == 0 || strcmp(r->state, "timeout") == 0;
}

static void add_generation(struct list *l, const struct trace_record *r)
{
    char version[OTLP_NAME + 16] = "";
    add_text(l, "gen_ai.operation.name", operation(r));
    add_text(l, "gen_ai.provider.name", "weft");
    add_text(l, "gen_ai.request.model", r->model);
    if (*r->adapter) snprintf(version, sizeof version, "%s@%d", r->adapter, r->version);
    add_text(l, "gen_ai.response.model", *version ? version : r->base);
    add_bool(l, "gen_ai.request.stream", r->stream);
    if (!r->counted) return;
    add_number(l, "gen_ai.usage.input_tokens", r->prompt);
    add_number(l, "gen_ai.usage.cache_read.input_tokens", r->cached);
    add_number(l, "gen_ai.usage.output_tokens", r->output);
    add_one_of_list(l, "gen_ai.response.finish_reasons", r->finish);
    if (r->first_us) add_double(l, "gen_ai.response.time_to_first_chunk", (double)(r->first_us - r->start_us) / 1e6);
}

static void write_request(struct list *spans, const struct trace_record *r)
{
    bool child = !is_zero(r->parent);
    struct span s = {.id = r->context.span,
                     .parent = child ? r->parent : NULL,
                     .name = *r->method ? r->method : "HTTP",
                     .name_more = r->route,
                     .kind = KIND_SERVER,
                     .start_us = r->start_us,
                     .end_us = r->end_us,
                     .flags = child ? FLAGS_REMOTE : FLAGS_OWN};
    struct list l = begin_span(spans, r, &s);
    add_text(&l, "http.request.method", r->method);
    add_text(&l, "http.route", r->route);
    if (r->status) add_number(&l, "http.response.status_code", r->status);
    add_text(&l, "weft.request.id", r->id);
    add_text(&l, "weft.tenant", r->tenant);
    if (r->served) {
        add_generation(&l, r);
        add_text(&l, "weft.base", r->base);
        add_text(&l, "weft.state", r->state);
        add_bool(&l, "weft.cold", r->cold);
        add_number(&l, "weft.attempts", r->attempt);
    }
    add_error(&l, r);
    end_attributes(&l);
    end_span(spans, is_ours(r) ? STATUS_ERROR : STATUS_UNSET);
}

/* --- stages and steps --- */

static void write_event(struct buf *out, const char *name, int64_t us)
{
    buf_addf(out, ",\"events\":[{\"timeUnixNano\":\"%lld000\",\"name\":\"%s\"}]", (long long)us, name);
}

static void write_stage(struct list *spans, const struct trace_record *r, const struct span_note *n, const uint8_t *id, bool last)
{
    struct span s = {.id = id,
                     .parent = r->context.span,
                     .name = n->upstream ? operation(r) : n->name,
                     .name_more = n->upstream ? r->model : "",
                     .kind = n->upstream ? KIND_CLIENT : KIND_INTERNAL,
                     .start_us = n->start_us,
                     .end_us = n->end_us,
                     .flags = FLAGS_OWN};
    struct list l = begin_span(spans, r, &s);
    add_text(&l, "weft.engine", n->engine);
    if (n->upstream && last) add_generation(&l, r);
    if (n->upstream && last) add_error(&l, r);
    if (n->upstream && !last) add_text(&l, "error.type", "sent_again");
    end_attributes(&l);
    bool first = r->first_us >= n->start_us && r->first_us <= n->end_us;
    if (n->upstream && first) write_event(spans->out, "first_token", r->first_us);
    end_span(spans, n->upstream && (!last || is_ours(r)) ? STATUS_ERROR : STATUS_UNSET);
}

static int64_t within(int64_t us, const struct span_note *n)
{
    return us < n->start_us ? n->start_us : us > n->end_us ? n->end_us : us;
}

/* The engine's steps below its try. */
static void write_steps(struct list *spans, const struct trace_record *r, const struct span_note *n, const uint8_t *parent)
{
    const struct relay_times *t = &r->times;
    const struct {
        const char *name;
        int64_t us;
    } step[OTLP_STEPS] = {{"engine.load", t->load_us}, {"engine.queue", t->queue_us}, {"engine.prefill", t->prefill_us}, {"engine.decode", t->decode_us}};
    int64_t before = t->load_us + t->queue_us + t->prefill_us;
    int64_t at = r->stream && r->first_us ? r->first_us - before : n->start_us;
    uint8_t id[SPAN_BYTES];
    for (size_t i = 0; i < sizeof step / sizeof *step; i++) {
        int64_t from = within(at, n);
        at += step[i].us;
        if (step[i].us == 0 || random_bytes(id, sizeof id)) continue;
        struct span s = {.id = id, .parent = parent, .name = step[i].name, .name_more = "", .kind = KIND_INTERNAL, .start_us = from, .end_us = within(at, n), .flags = FLAGS_OWN};
        struct list l = begin_span(spans, r, &s);
        add_text(&l, "weft.engine", n->engine);
        add_number(&l, "weft.step_us", step[i].us);
        if (i + 1 == sizeof step / sizeof *step && t->paused_us) add_number(&l, "weft.paused_us", t->paused_us);
        end_attributes(&l);
        end_span(spans, STATUS_UNSET);
    }
}

static const struct span_note *last_upstream(const struct trace_record *r)
{
    const struct span_note *last = NULL;
    for (int i = 0; i < r->nspans; i++)
        if (r->span[i].upstream) last = &r->span[i];
    return last;
}

static void write_record(struct list *spans, const struct trace_record *r)
{
    const struct span_note *last = last_upstream(r);
    write_request(spans, r);
    for (int i = 0; i < r->nspans; i++) {
        const struct span_note *n = &r->span[i];
        uint8_t id[SPAN_BYTES];
        memcpy(id, n->id, SPAN_BYTES);
        if (is_zero(id) && random_bytes(id, SPAN_BYTES)) continue;
        write_stage(spans, r, n, id, n == last);
        if (n == last && r->times.known) write_steps(spans, r, n, id);
    }
}

int otlp_write(struct trace_record *const *records, size_t n, const char *instance, struct buf *out)
{
    struct list attributes = {.out = out}, spans = {.out = out};
    buf_adds(out, "{\"resourceSpans\":[{\"resource\":{\"attributes\":[");
    add_text(&attributes, "service.name", "weft-gateway");
    add_text(&attributes, "service.version", WEFT_VERSION);
    add_text(&attributes, "service.instance.id", instance);
    buf_adds(out, "]},\"scopeSpans\":[{\"scope\":{\"name\":\"weft\",\"version\":\"" WEFT_VERSION "\"},\"spans\":[");
    for (size_t i = 0; i < n; i++) write_record(&spans, records[i]);
    buf_adds(out, "]}]}]}");
    return out->failed ? -1 : 0;
}
