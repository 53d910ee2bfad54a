/* sim_engine: one engine's steps, slots and loader, as engine/sched has them.
 *
 * A request that comes asks for a slot of its adapter. Where it is there, the request holds it; where it is not, the slot
 * used least recently and not held is taken, and the loader fetches the adapter: one after the other, ENGINE_LOADING asked
 * for at most, while steps go on. Where all slots are held, it waits for one. A request whose adapter is ready runs from the
 * next step on, if fewer than max_running do. A step has a row of every sequence that decodes, and of prompts as many rows
 * as the rest of the target's time has room for (sched_cost.c says how many those are), a quarter of the time at least; of
 * that the oldest prompt is sure of a quarter, and the others go by what is left of them (sched_budget.c).
 *
 * Left out of engine/sched: turns of tenants (requests go in the order in which they come), classes and deadlines,
 * steps for those who are rare, preemption and draining of slots that are held, prefix cache, speculation, a limit of KV
 * pages. They decide who waits, not where a request goes or what is resident. */
#include "engine/kv.h"
#include "tests/sim/sim.h"
#include <math.h>
#include <stdlib.h>

#define AIM 0.9    /* sched_budget.c */
#define LEAST 0.25 /* sched_budget.c */

int engine_init(struct engine *g, const struct sim_settings *o, struct err *e)
{
    *g = (struct engine){0};
    queue_init(&g->waiting);
    g->running = calloc((size_t)o->max_running, sizeof *g->running);
    if (!g->running) return err_set(e, ERR_NO_MEMORY, "no memory for an engine");
    return slots_init(&g->slots, (int)o->max_slots, e);
}

void engine_close(struct engine *g)
{
    free(g->running);
    slots_close(&g->slots);
}

/* --- slots and loads --- */

static void start_load(struct sim *s, struct engine *g, int engine)
{
    if (g->nload == 0 || g->load_end > 0) return;
    double bytes = (double)s->trace->rank[g->slots.v[g->load[0]].adapter] * (double)s->o->rank_bytes;
    double us = (double)s->o->load_fixed_us + bytes / (double)s->o->load_bytes_us;
    if (g->nrunning) us *= (double)s->o->load_busy_percent / 100;
    g->load_us += us;
    g->load_end = s->now_us + us;
    sim_at(s, g->load_end, EVENT_LOAD, engine);
}

static void ask_slot(struct engine *g, struct way *w)
{
    struct slot *slot = slots_find(&g->slots, w->q->adapter);
    if (!slot) {
        if (g->nload == ENGINE_LOADING || !(slot = slots_take(&g->slots, w->q->adapter))) return;
        g->load[g->nload++] = (int)(slot - g->slots.v);
        g->loads++;
        w->loaded = true;
    }
    slot->holds++;
    w->slot = (int)(slot - g->slots.v);
}

static bool is_ready(const struct engine *g, const struct way *w)
{
    return w->slot >= 0 && g->slots.v[w->slot].ready;
}

/* --- a step --- */

/* Those that may run do: in the order in which they came, past those that wait for an adapter. */
static void admit(struct sim *s, struct engine *g)
{
    int before = -1, looked = 0;
    for (int i = g->waiting.first; i >= 0 && g->nrunning < s->o->max_running && looked < ENGINE_SCAN; looked++) {
        struct way *w = &s->way[i];
        int next = w->next;
        if (w->slot < 0) ask_slot(g, w);
        if (is_ready(g, w)) {
            if (before < 0)
                g->waiting.first = next;
            else
                s->way[before].next = next;
            if (g->waiting.last == i) g->waiting.last = before;
            g->waiting.n--;
            g->running[g->nrunning++] = i;
        } else {
            before = i;
        }
        i = next;
    }
}

static int least_of(int a, int b)
{
    return a < b ? a : b;
}

struct budget {
    int rows;       /* of the step, left */
    double left_us; /* of the time */
};

static int left_of(const struct way *w)
{
    return w->q->prompt - w->done - w->rows;
}

static int rank_of(const struct sim *s, const struct way *w)
{
    return s->trace->rank[w->q->adapter];
}

static int rows_in_time(const struct sim *s, const struct way *w, const struct budget *b)
{
    int left = left_of(w), at = w->done + w->rows;
    int rows = cost_rows_within(&s->cost, b->left_us, at, rank_of(s, w), least_of(left, b->rows));
    if (rows < KV_PAGE || rows == left) return rows;
    return (at + rows) / KV_PAGE * KV_PAGE - at;
}

static void add_rows(const struct sim *s, struct way *w, int rows, struct budget *b, struct step_shape *shape)
{
    int at = w->done + w->rows;
    w->rows += rows;
    b->rows -= rows;
    b->left_us -= cost_of_prompt(&s->cost, at, rank_of(s, w), rows);
    shape->prefill_rows += rows;
    shape->prefill_context += cost_context(at, rows);
    shape->rank_rows += rows * (double)rank_of(s, w);
}

/* The one with the least left that has no rows yet. */
static struct way *next_prompt(struct sim *s, const struct engine *g)
{
    struct way *best = NULL;
    for (int i = 0; i < g->nrunning; i++) {
        struct way *w = &s->way[g->running[i]];
        if (w->rows || left_of(w) <= 0) continue;
        if (!best || left_of(w) < left_of(best)) best = w;
    }
    return best;
}

static void add_prompts(struct sim *s, struct engine *g, struct way *oldest, struct step_shape *shape)
{
    double target = s->o->tpot_ms && shape->decode_rows ? AIM * 1e3 * (double)s->o->tpot_ms : INFINITY;
    double decode = cost_of(&s->cost, shape), aside = 0;
    struct budget b = {(int)s->o->step_tokens - shape->decode_rows, INFINITY};
    if (isfinite(target)) {
        b.left_us = fmax(target - decode, LEAST * fmax(target, decode));
        aside = LEAST * b.left_us;
        b.left_us -= aside;
    }
    for (struct way *w; b.rows > 0 && (w = next_prompt(s, g));) {
        if (w == oldest) b.left_us += aside, aside = 0;
        int rows = rows_in_time(s, w, &b);
        if (rows <= 0 && w != oldest) break;
        add_rows(s, w, rows > 0 ? rows : 1, &b, shape);
    }
    b.left_us += aside;
    if (b.rows <= 0 || left_of(oldest) <= 0 || oldest->rows) return;
    int rows = rows_in_time(s, oldest, &b);
    add_rows(s, oldest, rows > 0 ? rows : 1, &b, shape);
}

static void add_ranks(struct sim *s, struct engine *g, struct step_shape *shape)
{
    g->marks++;
    for (int i = 0; i < g->nrunning; i++) {
        struct slot *slot = &g->slots.v[s->way[g->running[i]].slot];
        if (slot->mark == g->marks) continue;
        slot->mark = g->marks;
        shape->ranks += s->trace->rank[slot->adapter];
    }
}

static void start_step(struct sim *s, struct engine *g, int engine)
{
    struct step_shape shape = {0};
    struct way *oldest = NULL;
    if (g->step_end > 0) return;
    admit(s, g);
    start_load(s, g, engine);
    if (g->nrunning == 0) return;
    for (int i = 0; i < g->nrunning; i++) {
        struct way *w = &s->way[g->running[i]];
        w->rows = w->done >= w->q->prompt;
        if (w->rows) {
            shape.decode_rows++;
            shape.decode_context += cost_context(w->done, 1);
            shape.rank_rows += rank_of(s, w);
        } else if (!oldest) {
            oldest = w;
        }
    }
    add_ranks(s, g, &shape);
    if (oldest && shape.decode_rows < s->o->step_tokens) add_prompts(s, g, oldest, &shape);
    double us = cost_of(&s->cost, &shape);
    g->steps++;
    g->busy_us += us;
    g->step_end = s->now_us + us;
    sim_at(s, g->step_end, EVENT_STEP, engine);
}

/* --- what happens to it --- */

void engine_give(struct sim *s, int engine, int way)
{
    struct engine *g = &s->engine[engine];
    struct way *w = &s->way[way];
    w->engine = engine;
    w->slot = -1;
    ask_slot(g, w);
    w->cold = !is_ready(g, w);
    queue_push(s, &g->waiting, way);
    start_load(s, g, engine);
    start_step(s, g, engine);
}

void engine_loaded(struct sim *s, int engine)
{
    struct engine *g = &s->engine[engine];
    g->slots.v[g->load[0]].ready = true;
    g->nload--;
    for (int i = 0; i < g->nload; i++) g->load[i] = g->load[i + 1];
    g->load_end = 0;
    start_load(s, g, engine);
    start_step(s, g, engine);
}

/* True: it goes on. */
static bool advance(struct sim *s, struct engine *g, int way)
{
    struct way *w = &s->way[way];
    int rows = w->rows;
    w->rows = 0;
    if (rows == 0) return true;
    w->done += rows;
    if (w->done < w->q->prompt) return true;
    if (w->made++ == 0) w->first_us = s->now_us;
    if (w->made < w->q->output) return true;
    w->end_us = s->now_us;
    g->slots.v[w->slot].holds--;
    return false;
}

void engine_stepped(struct sim *s, int engine)
{
    struct engine *g = &s->engine[engine];
    int n = 0;
    g->step_end = 0;
    for (int i = 0; i < g->nrunning; i++) {
        int way = g->running[i];
        if (advance(s, g, way))
            g->running[n++] = way;
        else
            sim_ended(s, way);
    }
    g->nrunning = n;
    start_step(s, g, engine);
}
