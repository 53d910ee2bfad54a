/* sched_slots: which adapters hold a slot on behalf of requests, and who has to give one back.
 *
 * Idea: the set of adapters (lora.h) loads whatever is asked for and waits where all slots are pinned; in what order that is fair only the
 * scheduler knows. So it asks for no more distinct adapters than there are slots, in the order of turns (sched_queue.c): those that are held
 * already cost nothing and are asked for at once, which groups requests by adapter without anyone going first for it; others when a slot
 * is not held, at most SLOTS_LOADING at a time, so that whoever comes next with an earlier turn doesn't wait behind a queue of loads. A request
 * asks when it is submitted, if it may: its adapter is loaded while it waits for its turn.
 *
 *     wanted --reserved--> held, loading --answered--> held --last request gives it back--> wanted
 *
 * A request that lacks a slot because all are held is `blocked`. The one with the earliest turn takes one back:
 *
 *     at once            from an adapter that nobody runs just now and whose requests all have later turns
 *     at once            from one whose running sequences all have to yield to it (sched_room.c): of a lower class, or of tenants that run more
 *     after half of      from the one whose best turn is the latest, among those that had theirs for a while: their sequences are
 *     adapter_wait_ms    preempted and wait for a slot in their turn
 *
 * Guarantees: never more distinct adapters reserved than slots; a request that never ran waits at most adapter_wait_ms for a slot, then fails
 * with ERR_NO_SLOT; one that ran waits on. Its claim (lora.h) keeps its adapter from being unloaded meanwhile. Where nobody has to yield, a slot is kept
 * for a quarter of that time at least, so that adapters that take turns don't spend their time on loads.
 *
 * With the scheduler's lock held; slots_drain(): step thread. */
#include "engine/meters.h"
#include "engine/sched_impl.h"
#include <stdlib.h>
#include <string.h>

#define SLOTS_LOADING 4 /* distinct adapters that are asked for and not there yet */
#define SLOTS_SCAN 64   /* requests of a tenant and class that are looked at for one that fits */
#define WAIT_US 10000000

/* --- what is wanted --- */

static struct want **find(struct sched *s, const char *digest)
{
    unsigned h = 0;
    for (int i = 0; i < 8; i++) h = h * 31 + (unsigned char)digest[i];
    struct want **at = &s->wanted[h % SCHED_BUCKETS];
    while (*at && strcmp((*at)->digest, digest) != 0) at = &(*at)->chain;
    return at;
}

static void drop_if_unused(struct sched *s, struct want *w)
{
    if (w->refs || w->held) return;
    struct want **at = find(s, w->digest);
    *at = w->chain;
    free(w);
}

int wants_enter(struct sched *s, struct gen *g, struct err *e)
{
    for (int i = 0; i < g->npins; i++) {
        struct want **at = find(s, g->pin[i].digest);
        if (!*at && (*at = calloc(1, sizeof **at))) memcpy((*at)->digest, g->pin[i].digest, sizeof(*at)->digest);
        if (!*at) {
            wants_leave(g);
            return err_set(e, ERR_NO_MEMORY, "no memory for a request");
        }
        g->pin[i].want = *at;
        (*at)->refs++;
    }
    return 0;
}

void wants_leave(struct gen *g)
{
    for (int i = 0; i < g->npins; i++) {
        struct want *w = g->pin[i].want;
        if (!w || g->pin[i].left) continue;
        g->pin[i].left = true;
        w->refs--;
        drop_if_unused(g->s, w);
    }
}

/* --- held --- */

static bool waits_for_loads(struct sched *s, const struct want *w)
{
    return s->loading >= SLOTS_LOADING && !lora_resident(s->loras, w->digest);
}

static int max_slots(const struct sched *s)
{
    return s->loras ? lora_max_slots(s->loras) : 0;
}

/* Slots that it would take besides those that are held. */
static int fresh(const struct gen *g)
{
    int n = 0;
    for (int i = 0; i < g->npins; i++) n += g->pin[i].want->held == 0;
    return n;
}

static bool fits(struct sched *s, const struct gen *g)
{
    int n = fresh(g);
    if (s->held + n > max_slots(s)) return false;
    for (int i = 0; n && i < g->npins; i++)
        if (g->pin[i].want->held == 0 && waits_for_loads(s, g->pin[i].want)) return false;
    return true;
}

static void hold(struct sched *s, struct gen_pin *p, int64_t now_us)
{
    struct want *w = p->want;
    p->held = true;
    if (w->held++) return;
    s->held++;
    s->loading++;
    w->loading = true;
    w->since_us = now_us;
    w->span = trace_begin(s->o.trace, TRACE_LOAD, w->digest, now_us);
}

static void reserve(struct gen *g)
{
    struct sched *s = g->s;
    int64_t now = sched_now(s);
    for (int i = 0; i < g->npins; i++) hold(s, &g->pin[i], now);
    g->pins_left = g->npins;
    s->pins_pending += g->npins;
    g->blocked_us = 0;
    queue_move(g, PLACE_PINNING);
}

void slots_answered(struct gen_pin *p, bool cold)
{
    struct sched *s = p->g->s;
    struct want *w = p->want;
    if (!w->loading) return;
    w->loading = false;
    s->loading--;
    int64_t now = sched_now(s);
    if (cold) {
        trace_end(s->o.trace, w->span, now);
        admit_note_load(s, now - w->since_us);
    } else {
        trace_cancel(s->o.trace, w->span);
    }
    w->span = 0;
}

void slots_release(struct gen_pin *p)
{
    struct sched *s = p->g->s;
    struct want *w = p->want;
    if (!p->held) return;
    p->held = false;
    if (--w->held == 0) s->held--;
    drop_if_unused(s, w);
}

/* --- whose turn --- */

static struct gen *first_that_fits(struct sched *s, const struct gen_list *l)
{
    struct gen *g = l->first;
    for (int i = 0; g && i < SLOTS_SCAN; i++, g = g->next)
        if (fits(s, g)) return g;
    return NULL;
}

struct gen *slots_reserve_next(struct sched *s)
{
    struct gen *best = NULL;
    struct turn first = {0};
    for (const struct tenant *t = s->stop ? NULL : s->active.first; t; t = t->next)
        for (int c = 0; c < SCHED_CLASSES; c++) {
            struct gen *g = first_that_fits(s, &t->wanting[c]);
            if (!g) continue;
            struct turn turn = turn_of(g);
            if (best && turn_compare(&turn, &first) > 0) continue;
            best = g;
            first = turn;
        }
    if (best) reserve(best);
    return best;
}

/* --- giving back --- */

static int64_t wait_us(const struct sched *s)
{
    return s->o.adapter_wait_ms > 0 ? (int64_t)s->o.adapter_wait_ms * 1000 : WAIT_US;
}

int64_t slots_deadline(const struct gen *g)
{
    return g->place == PLACE_WAITING && g->blocked_us && !g->stamp ? g->blocked_us + wait_us(g->s) : INT64_MAX;
}

/* It waits for nothing but a slot: from now on its time runs. */
static void block(struct gen *g, int64_t now_us)
{
    if (!g->blocked_us) g->blocked_us = now_us;
    int64_t due = slots_deadline(g);
    if (due < g->s->next_deadline_us) g->s->next_deadline_us = due;
}

static struct gen *first_blocked(struct sched *s, int64_t now_us)
{
    struct gen *best = NULL;
    struct turn first = {0};
    for (const struct tenant *t = s->active.first; t; t = t->next)
        for (int c = 0; c < SCHED_CLASSES; c++) {
            struct gen *g = t->wanting[c].first;
            if (!g || s->held + fresh(g) <= max_slots(s)) continue;
            block(g, now_us);
            struct turn turn = turn_of(g);
            if (best && turn_compare(&turn, &first) > 0) continue;
            best = g;
            first = turn;
        }
    return best;
}

/* What giving an adapter's slot to `b` would mean. */
static void judge(struct gen *g, const void *b)
{
    struct turn turn = turn_of(g);
    bool runs = g->place == PLACE_RUNNING;
    for (int i = 0; i < g->npins; i++) {
        struct want *w = g->pin[i].want;
        if (!w->judged || turn_compare(&turn, &w->best) < 0) w->best = turn;
        if (!w->judged) w->yields = true;
        w->judged = true;
        if (runs && !room_yields(g, b)) w->yields = false;
    }
}

static void for_holders(struct sched *s, void (*fn)(struct gen *g, const void *u), const void *u)
{
    struct gen *next;
    for (struct tenant *t = s->active.first; t; t = t->next)
        for (int c = 0; c < SCHED_CLASSES; c++)
            for (struct gen *g = t->ready[c].first; g; g = next) {
                next = g->next;
                fn(g, u);
            }
    for (struct gen *g = s->preempted.first; g; g = next) {
        next = g->next;
        fn(g, u);
    }
    for (struct gen *g = s->running.first; g; g = next) {
        next = g->next;
        fn(g, u);
    }
}

static void forget_judgement(struct gen *g, const void *u)
{
    (void)u;
    for (int i = 0; i < g->npins; i++) g->pin[i].want->judged = false;
}

/* How soon `b` may have it: 0 not now, 1 after its wait, 2 by yielding, 3 it is not in use. */
static int ease(const struct sched *s, const struct want *w, const struct gen *b, const struct turn *turn,
                int64_t now_us)
{
    bool forced = now_us - b->blocked_us >= wait_us(s) / 2 && now_us - w->since_us >= wait_us(s) / 4;
    if (w->loading || !w->judged) return 0;
    for (int i = 0; i < b->npins; i++)
        if (b->pin[i].want == w) return 0;
    if (w->running == 0 && (forced || turn_compare(turn, &w->best) < 0)) return 3;
    if (w->running && w->yields) return 2;
    return forced ? 1 : 0;
}

static struct want *choose_victim(struct sched *s, const struct gen *b, int64_t now_us)
{
    struct want *worst = NULL;
    struct turn turn = turn_of(b);
    int easiest = 0;
    for_holders(s, forget_judgement, NULL);
    for_holders(s, judge, b);
    for (int i = 0; i < SCHED_BUCKETS; i++)
        for (struct want *w = s->wanted[i]; w; w = w->chain) {
            int how = w->held ? ease(s, w, b, &turn, now_us) : 0;
            if (how < easiest || how == 0) continue;
            if (how == easiest && worst && turn_compare(&w->best, &worst->best) < 0) continue;
            worst = w;
            easiest = how;
        }
    return worst;
}

/* Its pins go back and it waits for a slot in its turn. Beyond SLOTS_UNPIN the rest follows in the next step. */
static void give_back(struct gen *g, const void *victim)
{
    struct sched *s = g->s;
    bool uses = false;
    for (int i = 0; i < g->npins; i++) uses |= g->pin[i].want == victim;
    if (!uses || s->nunpin + GEN_ADAPTERS > SLOTS_UNPIN) return;
    if (g->place == PLACE_RUNNING) room_preempt(g, "slot");
    s->nunpin += pins_withdraw(g, s->unpin + s->nunpin);
    g->put_off = true;
    queue_move(g, PLACE_WAITING);
}

bool slots_wanted(struct sched *s)
{
    for (const struct tenant *t = s->loras ? s->active.first : NULL; t; t = t->next)
        for (int c = 0; c < SCHED_CLASSES; c++)
            if (first_that_fits(s, &t->wanting[c])) return true;
    int64_t now = sched_now(s);
    struct gen *b = s->loras ? first_blocked(s, now) : NULL;
    return b && choose_victim(s, b, now);
}

struct gen *slots_drain(struct sched *s)
{
    int64_t now = sched_now(s);
    struct gen *b = s->loras ? first_blocked(s, now) : NULL;
    while (b && s->held + fresh(b) > max_slots(s)) {
        struct want *w = s->nunpin + GEN_ADAPTERS <= SLOTS_UNPIN ? choose_victim(s, b, now) : NULL;
        if (!w) return NULL;
        s->drains++;
        note_add(s, M_DRAINS, NULL, 1);
        w->refs++; /* it may be nobody's in a moment */
        for_holders(s, give_back, w);
        w->refs--;
        bool freed = w->held == 0;
        drop_if_unused(s, w);
        if (!freed) return NULL;
    }
    if (b) reserve(b);
    return b;
}
