/* trace: the last steps and the last spans, in two rings.
 *
 * Idea: a step is written once, when it is over. A span is written when it begins, with its end open, and closed later under its handle,
 * which is its number: so what still lasts can be seen as well, and a span that was overwritten meanwhile is told by its number.
 *
 * Guarantees: writing takes no memory and one lock for the time of a copy; entries come out oldest first and whole.
 *
 * Any thread. Leaf lock. */
#include "engine/trace.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

const char *const trace_kind_name[TRACE_KINDS] = {"queued", "prefill", "decode", "preempted", "load"};

struct span {
    uint64_t number; /* from 1; 0: never written */
    enum trace_kind kind;
    char id[TRACE_ID];
    int64_t start_us, end_us; /* end 0: it lasts */
};

struct trace {
    pthread_mutex_t lock;
    int steps, spans;        /* of the rings */
    uint64_t nsteps, nspans; /* ever written */
    struct trace_step *step;
    struct span *span;
};

int trace_new(struct trace **out, int steps, struct err *e)
{
    if (steps < 1 || steps > TRACE_STEPS_MAX)
        return err_set(e, ERR_USAGE, "a trace of %d steps: 1 to %d", steps, TRACE_STEPS_MAX);
    struct trace *t = calloc(1, sizeof *t);
    if (t) {
        t->steps = steps;
        t->spans = steps * TRACE_SPANS_PER_STEP;
        t->step = calloc((size_t)t->steps, sizeof *t->step);
        t->span = calloc((size_t)t->spans, sizeof *t->span);
    }
    if (!t || !t->step || !t->span || pthread_mutex_init(&t->lock, NULL)) {
        if (t) free(t->step), free(t->span);
        free(t);
        return err_set(e, ERR_NO_MEMORY, "no memory for a trace of %d steps", steps);
    }
    *out = t;
    return 0;
}

void trace_free(struct trace *t)
{
    if (!t) return;
    pthread_mutex_destroy(&t->lock);
    free(t->step);
    free(t->span);
    free(t);
}

/* --- writing --- */

void trace_add_step(struct trace *t, const struct trace_step *s)
{
    if (!t) return;
    pthread_mutex_lock(&t->lock);
    t->step[t->nsteps++ % (uint64_t)t->steps] = *s;
    pthread_mutex_unlock(&t->lock);
}

uint64_t trace_begin(struct trace *t, enum trace_kind kind, const char *id, int64_t now_us)
{
    if (!t) return 0;
    pthread_mutex_lock(&t->lock);
    struct span *s = &t->span[t->nspans++ % (uint64_t)t->spans];
    *s = (struct span){.number = t->nspans, .kind = kind, .start_us = now_us};
    memcpy(s->id, id, strnlen(id, TRACE_ID - 1));
    uint64_t number = s->number;
    pthread_mutex_unlock(&t->lock);
    return number;
}

void trace_end(struct trace *t, uint64_t handle, int64_t now_us)
{
    if (!t || handle == 0) return;
    pthread_mutex_lock(&t->lock);
    struct span *s = &t->span[(handle - 1) % (uint64_t)t->spans];
    if (s->number == handle) s->end_us = now_us > s->start_us ? now_us : s->start_us;
    pthread_mutex_unlock(&t->lock);
}

void trace_cancel(struct trace *t, uint64_t handle)
{
    if (!t || handle == 0) return;
    pthread_mutex_lock(&t->lock);
    struct span *s = &t->span[(handle - 1) % (uint64_t)t->spans];
    if (s->number == handle) s->kind = TRACE_KINDS;
    pthread_mutex_unlock(&t->lock);
}

/* --- reading --- */

static json_t *step_json(const struct trace_step *s)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:I}", "start_us",
                     (json_int_t)s->start_us, "plan_us", (json_int_t)s->plan_us, "forward_us",
                     (json_int_t)s->forward_us, "sample_us", (json_int_t)s->sample_us, "emit_us",
                     (json_int_t)s->emit_us, "decode_rows", s->decode_rows, "prefill_rows", s->prefill_rows,
                     "draft_rows", s->draft_rows, "discarded_rows", s->discarded_rows, "sequences", s->sequences,
                     "adapters", s->adapters, "pages", s->pages, "running", s->running, "waiting", s->waiting,
                     "budget_rows", s->budget_rows, "estimate_us", (json_int_t)s->estimate_us);
}

static json_t *span_json(const struct span *s)
{
    json_t *end = s->end_us ? json_integer(s->end_us) : json_null();
    return json_pack("{s:s, s:s, s:I, s:o}", "kind", trace_kind_name[s->kind], "id", s->id, "start_us",
                     (json_int_t)s->start_us, "end_us", end);
}

/* A copy of the rings, so that printing holds up nobody. */
static struct trace *copy(struct trace *t)
{
    struct err ignored = {0};
    struct trace *c;
    if (trace_new(&c, t->steps, &ignored)) return NULL;
    pthread_mutex_lock(&t->lock);
    c->nsteps = t->nsteps;
    c->nspans = t->nspans;
    memcpy(c->step, t->step, (size_t)t->steps * sizeof *t->step);
    memcpy(c->span, t->span, (size_t)t->spans * sizeof *t->span);
    pthread_mutex_unlock(&t->lock);
    return c;
}

static uint64_t first_of(uint64_t written, int places)
{
    return written > (uint64_t)places ? written - (uint64_t)places : 0;
}

json_t *trace_json(struct trace *t, int64_t now_us)
{
    struct trace *c = copy(t);
    json_t *steps = json_array(), *spans = json_array();
    for (uint64_t i = c ? first_of(c->nsteps, c->steps) : 0; c && i < c->nsteps; i++)
        json_list_add(&steps, step_json(&c->step[i % (uint64_t)c->steps]));
    for (uint64_t i = c ? first_of(c->nspans, c->spans) : 0; c && i < c->nspans; i++)
        if (c->span[i % (uint64_t)c->spans].kind != TRACE_KINDS)
            json_list_add(&spans, span_json(&c->span[i % (uint64_t)c->spans]));
    bool whole = c != NULL;
    trace_free(c);
    json_t *v = json_pack("{s:I, s:o, s:o}", "now_us", (json_int_t)now_us, "steps", steps, "spans", spans);
    if (whole) return v;
    json_decref(v);
    return NULL;
}
