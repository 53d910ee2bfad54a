/* sched_room: who may run, and who has to make room.
 *
 * Idea: a sequence that was preempted keeps its tokens and is computed again, mostly from the prefix cache, so taking a place away costs
 * little and changes no answer. So places and pages need no reserve for those who may come:
 *
 *   1. pages for the next token: when none is free, the running sequence of the lowest level goes, of those the youngest
 *   2. preempted sequences and ready ones go on by turn while there are places and pages; each takes over what the prefix cache has of it
 *   3. for one that finds none, others yield: of a lower class (a batch to an interactive request), unless they were promoted; or of its
 *      own, where their tenant was served more and runs more, each by its weight, even when it has one less
 *
 * Guarantees: the first by level and age is never preempted for pages, and who waits is promoted, so each gets through; sched_submit() refuses what
 * the whole pool can't hold. Yielding (3) goes one way: afterwards the one who took has no more than the one who gave. A sequence in
 * prefill holds the pages of all its tokens, so two prompts can't block each other halfway.
 *
 * Step thread, with the lock held. */
#include "engine/meters.h"
#include "engine/sched_impl.h"

/* --- preemption --- */

static void give_up_pages(struct sched *s, struct gen *g)
{
    kv_seq_release(&s->kv, &g->kv);
    if (s->draft) draft_release(s->draft, g);
    g->done = g->npublic = g->spec.n = 0;
}

void room_preempt(struct gen *g, const char *why)
{
    struct sched *s = g->s;
    give_up_pages(s, g);
    g->put_off = true;
    queue_move(g, PLACE_PREEMPTED);
    s->preemptions++;
    s->yields += why != NULL;
    note_add(s, M_PREEMPTIONS, NULL, 1);
    note_add(s, M_YIELDS, why ? why : "pages", 1);
}

/* The last by level and age; pages are its price. */
static struct gen *last_of(struct sched *s)
{
    struct gen *last = NULL;
    int level = -1;
    for (struct gen *g = s->running.first; g; g = g->next) {
        int l = queue_level(g);
        if (l < level) continue;
        last = g;
        level = l;
    }
    return last;
}

void room_grow(struct sched *s)
{
    for (struct gen *g = s->running.first, *next; g; g = next) {
        struct gen *goes = NULL;
        next = g->next;
        evict_behind(s, g);
        while (goes != g && !kv_seq_reserve(&s->kv, &g->kv, evict_target(s, g, g->done))) {
            goes = last_of(s);
            if (goes == next) next = next->next;
            room_preempt(goes, NULL);
        }
    }
}

/* --- yielding --- */

static double share(const struct tenant *t, int more)
{
    return (t->running + more) / t->weight;
}

bool room_yields(const struct gen *v, const struct gen *g)
{
    const struct tenant *from = v->tenant, *to = g->tenant;
    if (!v->promoted && v->class > g->class) return true;
    if (v->class < g->class) return false;
    return from != to && from->running > 1 && from->counter > to->counter && share(from, 0) > share(to, 1);
}

/* Of those that yield to g the one of the lowest level, then of the tenant that runs most, then the youngest. */
static struct gen *choose_yielding(struct sched *s, const struct gen *g)
{
    struct gen *best = NULL;
    for (struct gen *v = s->running.last; v; v = v->prev) {
        if (!room_yields(v, g)) continue;
        int order = best ? queue_level(v) - queue_level(best) : 1;
        if (order > 0 || (order == 0 && share(v->tenant, 0) > share(best->tenant, 0))) best = v;
    }
    return best;
}

/* Newcomers leave some pages to those who run, or they would be preempted at the next page's edge. */
static int pages_wanted(const struct sched *s, const struct gen *g)
{
    int spare = s->running.n ? 1 + s->running.n / 8 : 0;
    return evict_most(s, g->nids) - kv_seq_held(&g->kv) + spare;
}

/* Can those who yield make room at all? Shared pages don't come free, so this may promise too much; then a few are preempted in vain. */
static bool can_make_room(struct sched *s, const struct gen *g)
{
    int pages = kv_available(&s->kv), places = s->o.max_running - s->running.n;
    for (const struct gen *v = s->running.first; v; v = v->next) {
        if (!room_yields(v, g)) continue;
        pages += kv_seq_held(&v->kv);
        places++;
    }
    return places > 0 && pages >= pages_wanted(s, g);
}

/* --- admission --- */

static bool start(struct sched *s, struct gen *g)
{
    if (s->running.n >= s->o.max_running) return false;
    prefix_take(s, g);
    int taken = g->kv.npages;
    if (kv_available(&s->kv) < pages_wanted(s, g) || !kv_seq_reserve(&s->kv, &g->kv, evict_target(s, g, taken * KV_PAGE))) {
        kv_seq_release(&s->kv, &g->kv);
        return false;
    }
    prefix_begin(s, g, taken);
    bool first = !g->stamp;
    queue_move(g, PLACE_RUNNING);
    if (!first) return true;
    g->admitted_us = sched_now(s);
    note_wait(s, g);
    queue_charge(g, COST_PROMPT * (g->nprompt - g->cached));
    return true;
}

/* Others yield one by one until it starts. */
static bool start_in_place(struct sched *s, struct gen *g)
{
    if (!can_make_room(s, g)) return false;
    while (!start(s, g)) {
        struct gen *v = choose_yielding(s, g);
        if (!v) return false;
        room_preempt(v, v->class > g->class ? "class" : "share");
    }
    return true;
}

/* Of those who ran before: the first by level and age. */
static struct gen *next_preempted(struct sched *s)
{
    struct gen *best = NULL;
    for (struct gen *g = s->preempted.first; g; g = g->next)
        if (!best || queue_level(g) < queue_level(best)) best = g;
    return best;
}

/* There is a place, and pages beside those that it would share. */
static bool could_start(struct sched *s, struct gen *g)
{
    if (s->running.n >= s->o.max_running) return false;
    prefix_take(s, g);
    bool there = kv_available(&s->kv) >= pages_wanted(s, g);
    kv_seq_release(&s->kv, &g->kv);
    return there;
}

bool room_wanted(struct sched *s)
{
    struct gen *g[] = {next_preempted(s), queue_next(s)};
    for (int i = 0; i < 2; i++)
        if (g[i] && (could_start(s, g[i]) || can_make_room(s, g[i]))) return true;
    return false;
}

void room_admit(struct sched *s)
{
    for (;;) {
        struct gen *back = next_preempted(s), *fresh = queue_next(s), *g = back;
        if (!back || (fresh && queue_level(fresh) < queue_level(back))) g = fresh;
        if (!g) return;
        if (start(s, g) || start_in_place(s, g)) continue;
        if (g == fresh || !fresh || !start_in_place(s, fresh)) return;
    }
}
