/* sim: events in their order, and what came of it.
 *
 * The heap holds what engines have under way, a step and a load each at most, and the gateway's next look at their queues;
 * requests come from the trace, which is in order. Of events at the same time the one that was put in place first goes
 * first only by the heap's own order, which is the same in each run.
 *
 * Counted are requests after the first warm_percent; loads that requests of those had made; work and time of engines
 * from when the first of them came until the last of all came. */
#include "tests/sim/sim.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct conf_row sim_rows[] = {
#define X(...) CONF_ROW(struct sim_settings, __VA_ARGS__)
#include "tests/sim/settings.def"
#undef X
};
const size_t sim_nrows = CONF_ROWS(sim_rows);

/* --- queues --- */

void queue_init(struct queue *q)
{
    *q = (struct queue){-1, -1, 0};
}

void queue_push(struct sim *s, struct queue *q, int way)
{
    s->way[way].next = -1;
    if (q->last < 0)
        q->first = way;
    else
        s->way[q->last].next = way;
    q->last = way;
    q->n++;
}

static int queue_pop(struct sim *s, struct queue *q)
{
    int way = q->first;
    q->first = s->way[way].next;
    if (q->first < 0) q->last = -1;
    q->n--;
    return way;
}

/* --- events --- */

void sim_at(struct sim *s, double at_us, int kind, int engine)
{
    int i = s->nheap++;
    for (; i > 0 && s->heap[(i - 1) / 2].at_us > at_us; i = (i - 1) / 2) s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = (struct event){at_us, kind, engine};
}

static struct event next_event(struct sim *s)
{
    struct event out = s->heap[0], last = s->heap[--s->nheap];
    int i = 0;
    for (int k; (k = 2 * i + 1) < s->nheap; i = k) {
        if (k + 1 < s->nheap && s->heap[k + 1].at_us < s->heap[k].at_us) k++;
        if (s->heap[k].at_us >= last.at_us) break;
        s->heap[i] = s->heap[k];
    }
    s->heap[i] = last;
    return out;
}

/* --- the gateway --- */

void sim_ended(struct sim *s, int way)
{
    struct way *w = &s->way[way];
    s->ended++;
    router_end(&s->router, w->engine, w->q->adapter);
}

static void give_held(struct sim *s)
{
    while (s->held.n) {
        int engine = router_pick(&s->router, s->policy, s->way[s->held.first].q->adapter);
        if (engine == ENGINE_NONE) return;
        engine_give(s, engine, queue_pop(s, &s->held));
    }
}

static void watch(struct sim *s)
{
    double sum = 0, most = 0;
    for (int i = 0; i < s->router.n; i++) {
        struct place *p = &s->router.v[i];
        p->queue = s->engine[i].waiting.n;
        sum += p->in_flight;
        most = fmax(most, p->in_flight);
    }
    if (s->now_us >= s->way[s->first_counted].q->at_us && sum > 0) {
        s->flight_sum += most * s->router.n / sum;
        s->flight_looks++;
    }
}

static void begin_count(struct sim *s)
{
    for (int i = 0; i < s->router.n; i++) s->engine[i].busy_us = s->engine[i].load_us = 0;
}

static void come(struct sim *s, int way)
{
    if (way == s->first_counted) begin_count(s);
    queue_push(s, &s->held, way);
    give_held(s);
}

void sim_run(struct sim *s)
{
    int next = 0, n = s->trace->n;
    sim_at(s, 0, EVENT_WATCH, 0);
    while (s->ended < n) {
        if (next < n && s->trace->v[next].at_us <= s->heap[0].at_us) {
            s->now_us = s->trace->v[next].at_us;
            come(s, next++);
            continue;
        }
        struct event ev = next_event(s);
        s->now_us = ev.at_us;
        if (ev.kind == EVENT_STEP) engine_stepped(s, ev.engine);
        if (ev.kind == EVENT_LOAD) engine_loaded(s, ev.engine);
        if (ev.kind == EVENT_WATCH && next < n) watch(s);
        if (ev.kind == EVENT_WATCH) sim_at(s, s->now_us + 1e3 * (double)s->o->watch_ms, EVENT_WATCH, 0);
        if (s->held.n) give_held(s);
    }
}

/* --- what came of it --- */

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* p50, p90, p99 and the mean; v is sorted by it. */
static void quantiles(double *v, int n, double out[4])
{
    static const double part[3] = {0.5, 0.9, 0.99};
    double sum = 0;
    if (n == 0) return;
    qsort(v, (size_t)n, sizeof *v, by_size);
    for (int i = 0; i < n; i++) sum += v[i];
    for (int i = 0; i < 3; i++) out[i] = v[(int)(part[i] * (n - 1))];
    out[3] = sum / n;
}

static void tell_times(const struct sim *s, struct tally *t)
{
    double *v = calloc((size_t)s->trace->n, sizeof *v);
    int n = 0;
    if (!v) return;
    for (int i = s->first_counted; i < s->trace->n; i++)
        v[n++] = (s->way[i].first_us - s->way[i].q->at_us) / 1e3;
    quantiles(v, n, t->ttft_ms);
    n = 0;
    for (int i = s->first_counted; i < s->trace->n; i++) {
        const struct way *w = &s->way[i];
        if (w->made > 1) v[n++] = (w->end_us - w->first_us) / 1e3 / (w->made - 1);
    }
    quantiles(v, n, t->tpot_ms);
    free(v);
}

/* Of a request alone, what grows with it: its rows, however they are batched. */
static double work_of(const struct sim *s, const struct way *w)
{
    return w->q->prompt * cost_us(&s->cost, COST_PREFILL_ROW) +
           cost_context(0, w->q->prompt) * cost_us(&s->cost, COST_PREFILL_CONTEXT) +
           (w->q->output - 1) * cost_us(&s->cost, COST_DECODE_ROW) +
           cost_context(w->q->prompt, w->q->output - 1) * cost_us(&s->cost, COST_DECODE_CONTEXT);
}

static void tell_balance(const struct sim *s, struct tally *t)
{
    int n = s->router.n;
    double *work = calloc((size_t)n, sizeof *work), sum = 0, squares = 0, most = 0, busy = 0, busiest = 0;
    if (!work) return;
    for (int i = s->first_counted; i < s->trace->n; i++) work[s->way[i].engine] += work_of(s, &s->way[i]);
    for (int i = 0; i < n; i++) {
        sum += work[i];
        squares += work[i] * work[i];
        most = fmax(most, work[i]);
        busy += s->engine[i].busy_us;
        busiest = fmax(busiest, s->engine[i].busy_us);
    }
    t->work_most = most * n / sum;
    t->work_cv = sqrt(fmax(squares * n / (sum * sum) - 1, 0));
    t->flight_most = s->flight_looks ? s->flight_sum / s->flight_looks : 0;
    t->busy = busy / n / (t->seconds * 1e6);
    t->busy_most = busiest / (t->seconds * 1e6);
    free(work);
}

/* Engines that an adapter's requests went to, as seen by a request: the sum over adapters of requests x engines. */
static void tell_places(const struct sim *s, struct tally *t)
{
    int n = s->router.n, words = (n + 63) / 64;
    uint64_t *set = calloc((size_t)s->trace->adapters * (size_t)words, sizeof *set);
    double sum = 0;
    if (!set) return;
    for (int i = s->first_counted; i < s->trace->n; i++) {
        int e = s->way[i].engine;
        set[(size_t)s->way[i].q->adapter * (size_t)words + (size_t)(e / 64)] |= 1ull << (e % 64);
    }
    for (int i = s->first_counted; i < s->trace->n; i++)
        for (int k = 0; k < words; k++)
            sum += __builtin_popcountll(set[(size_t)s->way[i].q->adapter * (size_t)words + (size_t)k]);
    t->places = t->requests ? sum / (double)t->requests : 0;
    free(set);
}

static void tell_counts(const struct sim *s, struct tally *t)
{
    for (int i = s->first_counted; i < s->trace->n; i++) {
        const struct way *w = &s->way[i];
        t->requests++;
        t->cold += w->cold;
        t->loads += w->loaded;
        t->ended += w->end_us > 0 && w->made == w->q->output;
        t->prompt_tokens += w->q->prompt;
        t->output_tokens += w->made;
    }
}

/* Adapters in the order of use, in a ring through `adapters`, whose next is the one used last. */
struct ring {
    int *next, *before; /* [adapters + 1]; next of one that is not in it: -1 */
    int n;
};

static void ring_unlink(struct ring *r, int a)
{
    r->next[r->before[a]] = r->next[a];
    r->before[r->next[a]] = r->before[a];
    r->next[a] = -1;
    r->n--;
}

static void ring_use(struct ring *r, int head, int a)
{
    if (r->next[a] >= 0) ring_unlink(r, a);
    r->next[a] = r->next[head];
    r->before[a] = head;
    r->before[r->next[a]] = a;
    r->next[head] = a;
    r->n++;
}

/* What no placement is below. */
static void tell_floors(const struct sim *s, struct tally *t)
{
    int head = s->trace->adapters, slots = s->router.n * (int)s->o->max_slots;
    struct ring r = {calloc((size_t)head + 1, sizeof *r.next), calloc((size_t)head + 1, sizeof *r.before), 0};
    uint8_t *seen = calloc((size_t)head, 1);
    for (int a = 0; r.next && a < head; a++) r.next[a] = -1;
    if (r.next && r.before) r.next[head] = r.before[head] = head;
    for (int i = 0; r.next && r.before && seen && i < s->trace->n; i++) {
        int a = s->trace->v[i].adapter;
        bool counted = i >= s->first_counted;
        t->first_seen += counted && !seen[a];
        t->pooled += counted && r.next[a] < 0;
        seen[a] = 1;
        ring_use(&r, head, a);
        if (r.n > slots) ring_unlink(&r, r.before[head]);
    }
    free(r.next);
    free(r.before);
    free(seen);
}

void sim_tell(const struct sim *s, struct tally *t)
{
    *t = (struct tally){.seconds = (s->now_us - s->way[s->first_counted].q->at_us) / 1e6};
    tell_counts(s, t);
    tell_floors(s, t);
    tell_times(s, t);
    tell_balance(s, t);
    tell_places(s, t);
}

/* --- life --- */

static void cost_by(const struct sim_settings *o, struct cost_model *c)
{
    const int64_t ns[COST_TERMS] = {o->step_ns,           o->decode_row_ns,      o->prefill_row_ns,
                                    o->decode_context_ns, o->prefill_context_ns, o->rank_ns, o->rank_row_ns};
    double us[COST_TERMS];
    for (int i = 0; i < COST_TERMS; i++) us[i] = (double)ns[i] / 1e3;
    cost_init(c, us);
    c->free_rows = (int)o->free_rows;
}

static int open_parts(struct sim *s, struct err *e)
{
    int n = (int)s->o->engines, rc = 0;
    struct router *r = &s->router;
    *r = (struct router){.n = n, .trace = s->trace, .seed = (uint64_t)s->o->seed};
    s->engine = calloc((size_t)n, sizeof *s->engine);
    s->way = calloc((size_t)s->trace->n, sizeof *s->way);
    s->heap = calloc((size_t)(2 * n + 1), sizeof *s->heap);
    r->v = calloc((size_t)n, sizeof *r->v);
    r->hot = calloc((size_t)s->trace->adapters, sizeof *r->hot);
    if (!s->engine || !s->way || !s->heap || !r->v || !r->hot) return err_set(e, ERR_NO_MEMORY, "no memory for %d engines", n);
    for (int i = 0; i < n && !rc; i++) {
        char name[32];
        snprintf(name, sizeof name, "engine-%d", i);
        r->v[i] = (struct place){place_hash(name), 1, (int)s->o->capacity, 0, 0};
        rc = engine_init(&s->engine[i], s->o, e);
    }
    for (int i = 0; i < s->trace->n; i++) s->way[i] = (struct way){.q = &s->trace->v[i], .slot = -1, .next = -1};
    return rc;
}

int sim_open(struct sim **out, const struct sim_settings *o, const struct trace *t, const struct policy *p, struct err *e)
{
    struct sim *s = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_NO_MEMORY, "no memory for a simulation");
    s->o = o;
    s->trace = t;
    s->policy = p;
    s->first_counted = (int)((int64_t)t->n * o->warm_percent / 100);
    queue_init(&s->held);
    cost_by(o, &s->cost);
    if (open_parts(s, e)) {
        sim_close(s);
        return -1;
    }
    *out = s;
    return 0;
}

void sim_close(struct sim *s)
{
    if (!s) return;
    for (int i = 0; s->engine && i < s->router.n; i++) engine_close(&s->engine[i]);
    free(s->engine);
    free(s->way);
    free(s->heap);
    free(s->router.v);
    free(s->router.hot);
    free(s);
}
