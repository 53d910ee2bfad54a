/* trace_chrome: a trace as Chrome's viewer reads it (chrome://tracing, Perfetto): "Trace Event Format", JSON array form.
 *
 * Idea: three processes are three groups of tracks.
 *
 *     1 steps      one track: each step, in it its phases
 *     2 requests   as many tracks as requests overlapped: a request, in it queued, prefill, decode, preempted
 *     3 adapters   as many tracks as loads overlapped
 *
 * Every span is one complete event ("ph":"X"), so spans of a track are side by side or one within the other, and nothing is left open. A
 * request keeps its track; the track is free for another when its last span is over.
 *
 * What comes in was printed by an engine, but perhaps by another version: each field is checked. Any thread; no state. */
#include "engine/trace.h"
#include <stdlib.h>
#include <string.h>

#define ENTRIES_MAX (TRACE_STEPS_MAX * (TRACE_SPANS_PER_STEP + 1))

enum { PID_STEPS = 1, PID_REQUESTS, PID_ADAPTERS };

struct event {
    const char *name, *category;
    int pid, tid;
    int64_t start_us, end_us;
};

/* A request, or a load: its spans lie between. */
struct lane_user {
    const char *id;
    bool load;
    int64_t start_us, end_us;
    int lane;
};

struct printer {
    struct buf *out;
    bool any;
    int64_t zero_us, now_us;
};

/* --- events --- */

static void begin_event(struct printer *p)
{
    buf_adds(p->out, p->any ? ",\n" : "[\n");
    p->any = true;
}

/* Leaves the object open, for its arguments. */
static void add_event(struct printer *p, const struct event *v)
{
    begin_event(p);
    buf_adds(p->out, "{\"name\":");
    buf_add_json(p->out, v->name, strlen(v->name));
    buf_addf(p->out, ",\"cat\":\"%s\",\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"ts\":%lld,\"dur\":%lld", v->category, v->pid,
             v->tid, (long long)(v->start_us - p->zero_us), (long long)(v->end_us - v->start_us));
}

static void end_event(struct printer *p)
{
    buf_addc(p->out, '}');
}

static void name_process(struct printer *p, int pid, const char *name)
{
    begin_event(p);
    buf_addf(p->out, "{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":%d,\"tid\":0,\"args\":{\"name\":\"%s\"}}", pid,
             name);
}

/* --- steps --- */

static const char *const phases[] = {"plan", "forward", "sample", "emit"};
static const char *const phase_fields[] = {"plan_us", "forward_us", "sample_us", "emit_us"};
#define PHASES 4

static int64_t number_of(const json_t *o, const char *field)
{
    return json_integer_value(json_object_get(o, field));
}

static void add_arguments(struct printer *p, const json_t *step)
{
    const char *key;
    json_t *value;
    const char *sep = ",\"args\":{";
    json_object_foreach((json_t *)step, key, value)
    {
        if (!json_is_integer(value)) continue;
        buf_adds(p->out, sep);
        buf_add_json(p->out, key, strlen(key));
        buf_addf(p->out, ":%lld", (long long)json_integer_value(value));
        sep = ",";
    }
    if (sep[1] == 0) buf_addc(p->out, '}');
}

static int add_step(struct printer *p, const json_t *step, struct err *e)
{
    int64_t at = number_of(step, "start_us"), length[PHASES], sum = 0;
    for (int i = 0; i < PHASES; i++) {
        length[i] = number_of(step, phase_fields[i]);
        if (length[i] < 0) return err_set(e, ERR_INVALID, "a step of the trace has a phase of negative length");
        sum += length[i];
    }
    if (!json_is_integer(json_object_get(step, "start_us")))
        return err_set(e, ERR_INVALID, "a step of the trace has no start_us");
    add_event(p, &(struct event){"step", "step", PID_STEPS, 1, at, at + sum});
    add_arguments(p, step);
    end_event(p);
    for (int i = 0; i < PHASES; at += length[i++]) {
        if (length[i] == 0) continue;
        add_event(p, &(struct event){phases[i], "phase", PID_STEPS, 1, at, at + length[i]});
        end_event(p);
    }
    return 0;
}

/* --- spans --- */

static int64_t end_of(const struct printer *p, const json_t *span)
{
    const json_t *end = json_object_get(span, "end_us");
    int64_t start = number_of(span, "start_us"), v = json_is_integer(end) ? json_integer_value(end) : p->now_us;
    return v > start ? v : start;
}

static int check_span(const json_t *span, struct err *e)
{
    if (json_is_string(json_object_get(span, "kind")) && json_is_string(json_object_get(span, "id")) &&
        json_is_integer(json_object_get(span, "start_us")))
        return 0;
    return err_set(e, ERR_INVALID, "a span of the trace lacks kind, id or start_us");
}

static bool is_load(const json_t *span)
{
    return strcmp(json_string_value(json_object_get(span, "kind")), trace_kind_name[TRACE_LOAD]) == 0;
}

static int by_id(const void *x, const void *y)
{
    const struct lane_user *a = x, *b = y;
    if (a->load != b->load) return a->load ? 1 : -1;
    int order = strcmp(a->id, b->id);
    return order ? order : a->start_us < b->start_us ? -1 : a->start_us > b->start_us;
}

static int by_start(const void *x, const void *y)
{
    const struct lane_user *a = x, *b = y;
    if (a->load != b->load) return a->load ? 1 : -1;
    return a->start_us < b->start_us ? -1 : a->start_us > b->start_us;
}

/* One user per request; each load is its own. Returns how many are left of n. */
static int join_users(struct lane_user *u, int n)
{
    int m = 0;
    qsort(u, (size_t)n, sizeof *u, by_id);
    for (int i = 0; i < n; i++) {
        struct lane_user *last = m ? &u[m - 1] : NULL;
        if (last && !u[i].load && !last->load && strcmp(last->id, u[i].id) == 0) {
            if (u[i].end_us > last->end_us) last->end_us = u[i].end_us;
        } else {
            u[m++] = u[i];
        }
    }
    return m;
}

/* The first lane whose last user is over. */
static int assign_lanes(struct lane_user *u, int n, struct err *e)
{
    int64_t *until = malloc((size_t)(n ? n : 1) * sizeof *until);
    int lanes = 0;
    if (!until) return err_set(e, ERR_NO_MEMORY, "no memory for the tracks of a trace");
    qsort(u, (size_t)n, sizeof *u, by_start);
    for (int i = 0; i < n; i++) {
        if (i && u[i].load != u[i - 1].load) lanes = 0;
        int k = 0;
        while (k < lanes && until[k] > u[i].start_us) k++;
        if (k == lanes) lanes++;
        until[k] = u[i].end_us;
        u[i].lane = k + 1;
    }
    free(until);
    return 0;
}

static const struct lane_user *user_of(const struct lane_user *u, int n, const json_t *span)
{
    const char *id = json_string_value(json_object_get(span, "id"));
    int64_t start = number_of(span, "start_us");
    struct lane_user key = {.id = id, .load = is_load(span), .start_us = start};
    int low = 0, high = n; /* the last one that is not behind the span, in order of by_id */
    while (low < high) {
        int mid = (low + high) / 2;
        if (by_id(&u[mid], &key) <= 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low ? &u[low - 1] : NULL;
}

static void add_users(struct printer *p, const struct lane_user *u, int n)
{
    for (int i = 0; i < n; i++) {
        if (u[i].load) continue;
        add_event(p, &(struct event){u[i].id, "request", PID_REQUESTS, u[i].lane, u[i].start_us, u[i].end_us});
        end_event(p);
    }
}

static void add_span(struct printer *p, const json_t *span, const struct lane_user *u)
{
    bool load = is_load(span);
    const char *name = json_string_value(json_object_get(span, load ? "id" : "kind"));
    add_event(p, &(struct event){name, load ? "load" : "phase", load ? PID_ADAPTERS : PID_REQUESTS, u->lane,
                                 number_of(span, "start_us"), end_of(p, span)});
    end_event(p);
}

static int add_spans(struct printer *p, const json_t *spans, struct err *e)
{
    int n = (int)json_array_size(spans), rc = -1;
    struct lane_user *u = calloc((size_t)n + 1, sizeof *u);
    if (!u) return err_set(e, ERR_NO_MEMORY, "no memory for the tracks of a trace");
    for (int i = 0; i < n; i++) {
        const json_t *span = json_array_get(spans, (size_t)i);
        if (check_span(span, e)) goto out;
        u[i] = (struct lane_user){.id = json_string_value(json_object_get(span, "id")),
                                  .load = is_load(span),
                                  .start_us = number_of(span, "start_us"),
                                  .end_us = end_of(p, span)};
    }
    int m = join_users(u, n);
    if (assign_lanes(u, m, e)) goto out;
    add_users(p, u, m);
    qsort(u, (size_t)m, sizeof *u, by_id);
    for (int i = 0; i < n; i++) {
        const json_t *span = json_array_get(spans, (size_t)i);
        add_span(p, span, user_of(u, m, span));
    }
    rc = 0;
out:
    free(u);
    return rc;
}

/* --- all --- */

static int64_t earliest(const json_t *steps, const json_t *spans, int64_t now_us)
{
    const json_t *list[] = {steps, spans};
    int64_t first = now_us;
    for (int k = 0; k < 2; k++)
        for (size_t i = 0; i < json_array_size(list[k]); i++) {
            int64_t at = number_of(json_array_get(list[k], i), "start_us");
            if (at < first) first = at;
        }
    return first;
}

int trace_chrome(const json_t *trace, struct buf *out, struct err *e)
{
    const json_t *steps = json_object_get(trace, "steps"), *spans = json_object_get(trace, "spans");
    if (!json_is_array(steps) || !json_is_array(spans) || json_array_size(steps) > ENTRIES_MAX ||
        json_array_size(spans) > ENTRIES_MAX)
        return err_set(e, ERR_INVALID, "this is no trace of an engine: steps and spans are missing");
    struct printer p = {.out = out, .now_us = number_of(trace, "now_us")};
    p.zero_us = earliest(steps, spans, p.now_us);
    name_process(&p, PID_STEPS, "steps");
    name_process(&p, PID_REQUESTS, "requests");
    name_process(&p, PID_ADAPTERS, "adapter loads");
    for (size_t i = 0; i < json_array_size(steps); i++)
        if (add_step(&p, json_array_get(steps, i), e)) return -1;
    if (add_spans(&p, spans, e)) return -1;
    buf_adds(out, "\n]\n");
    return out->failed ? err_set(e, ERR_NO_MEMORY, "no memory for a trace") : 0;
}
