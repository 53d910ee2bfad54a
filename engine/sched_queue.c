/* sched_queue: where each request is, whose turn is next.
 *
 *     sched_submit --adapters--> WAITING --asked (sched_slots.c)--> PINNING --all came--> READY --admitted--> RUNNING
 *            \--base only--------------------------------------------------------------------^                  |  ^
 *                                  ^                                                                   preempted|  |goes on
 *                                  +---its slot is given to others------------------------------------- PREEMPTED -+
 *
 *     any of them --pin failed, deadline, stop--> FAILED --gen_end--> (freed)
 *
 * Idea: turns go by level first: that of the class. Within a level the tenant with the smallest virtual counter is next (sched_tenant.c); of
 * a tenant's requests of a class the one that was submitted first, but one whose adapter is not there yet holds up no other.
 *
 * Ageing: a request that has waited longer than its class's target to the first token is late. Of AGE_TURNS turns one, at least, goes to the
 * late, also to those whose place or adapter slot was taken from them: the one whose tenant's counter is smallest is promoted to the first
 * level, for good. So no class starves; but a tenant that floods the queue, and so has many that are late, gets no more than that turn for
 * it, and whoever is promoted takes nobody's place.
 *
 * Every function here is called with the scheduler's lock held, by any thread. */
#include "engine/meters.h"
#include "engine/sched_impl.h"
#include <stdlib.h>

#define AGE_TURNS 8

const char *const sched_class_name[SCHED_CLASSES] = {"interactive", "normal", "batch"};

/* --- lists --- */

static void list_unlink(struct gen_list *l, struct gen *g)
{
    if (g->prev)
        g->prev->next = g->next;
    else
        l->first = g->next;
    if (g->next)
        g->next->prev = g->prev;
    else
        l->last = g->prev;
    g->prev = g->next = NULL;
    l->n--;
}

static void list_insert_after(struct gen_list *l, struct gen *at, struct gen *g)
{
    g->prev = at;
    g->next = at ? at->next : l->first;
    if (g->next)
        g->next->prev = g;
    else
        l->last = g;
    if (at)
        at->next = g;
    else
        l->first = g;
    l->n++;
}

/* The waiting by submission, the running by first admission: newcomers belong at the end, so the search starts there.
 */
static uint64_t rank_of(const struct gen *g, enum gen_place place)
{
    return place == PLACE_RUNNING || place == PLACE_PREEMPTED ? g->stamp : g->number;
}

static struct gen_list *list_of(const struct gen *g, enum gen_place place)
{
    switch (place) {
    case PLACE_WAITING:
        return &g->tenant->wanting[g->class];
    case PLACE_PINNING:
        return &g->tenant->pinning;
    case PLACE_READY:
        return &g->tenant->ready[g->class];
    case PLACE_PREEMPTED:
        return &g->s->preempted;
    case PLACE_RUNNING:
        return &g->s->running;
    case PLACE_FAILED:
        return &g->s->failed;
    case PLACE_NONE:
        break;
    }
    return NULL;
}

/* --- places --- */

static bool is_waiting(enum gen_place place)
{
    return place == PLACE_WAITING || place == PLACE_PINNING || place == PLACE_READY || place == PLACE_PREEMPTED;
}

/* Requests that ran before are none of those that max_waiting bounds. */
static void count_waiting(struct gen *g, int by)
{
    struct sched *s = g->s;
    struct tenant *t = g->tenant;
    if (g->stamp)
        s->put_off += by;
    else
        s->waiting += by;
    s->class_waiting[g->class] += by;
    t->waiting += by;
    if (t->waiting == 0) tenant_left_queue(s, t);
}

static void count(struct gen *g, enum gen_place place, int by)
{
    if (is_waiting(place)) count_waiting(g, by);
    if (g->npins == 0 && (is_waiting(place) || place == PLACE_RUNNING)) g->s->base_there += by;
    if (place != PLACE_RUNNING) return;
    g->tenant->running += by;
    if (g->npins == 0) g->s->base_running += by;
    for (int i = 0; i < g->npins; i++) g->pin[i].want->running += by;
}

/* How long it has waited in all, and for what. */
static void keep_time(struct gen *g, enum gen_place to, int64_t now_us)
{
    bool was = is_waiting(g->place), is = is_waiting(to);
    if (was && !is) g->waited_us += now_us - g->since_us;
    if (!was && is) g->since_us = now_us;
    if (was && g->stamp)
        g->paused_us += now_us - g->placed_us;
    else if (g->place == PLACE_WAITING || g->place == PLACE_PINNING)
        g->load_us += now_us - g->placed_us;
    g->placed_us = now_us;
}

static void trace_place(struct gen *g, enum gen_place to, int64_t now_us)
{
    struct trace *t = g->s->o.trace;
    bool was = is_waiting(g->place), is = is_waiting(to);
    if (!t || (was && is)) return;
    trace_end(t, g->span, now_us);
    g->span = 0;
    if (is) g->span = trace_begin(t, g->stamp ? TRACE_PREEMPTED : TRACE_QUEUED, g->trace_id, now_us);
    if (to == PLACE_RUNNING) g->span = trace_begin(t, g->first_us ? TRACE_DECODE : TRACE_PREFILL, g->trace_id, now_us);
}

/* Idle tenants may be forgotten, so a request that is over refers to none. */
static void leave_tenant(struct gen *g)
{
    if (g->tenant) tenant_rest(g->s, g->tenant);
    g->tenant = NULL;
}

static void insert(struct gen *g, enum gen_place to)
{
    struct gen_list *l = list_of(g, to);
    if (!l) return;
    struct gen *at = l->last;
    while (at && rank_of(at, to) > rank_of(g, to)) at = at->prev;
    list_insert_after(l, at, g);
}

void queue_move(struct gen *g, enum gen_place to)
{
    int64_t now = sched_now(g->s);
    struct gen_list *from = list_of(g, g->place);
    if (from) list_unlink(from, g);
    keep_time(g, to, now);
    trace_place(g, to, now);
    count(g, g->place, -1);
    if (to == PLACE_RUNNING && !g->stamp) {
        g->stamp = ++g->s->stamps;
        g->s->turns++;
    }
    count(g, to, 1);
    g->place = to;
    if (g->npins) g->s->lora_changes++;
    if (to == PLACE_FAILED || to == PLACE_NONE) leave_tenant(g);
    insert(g, to);
}

int queue_enter(struct sched *s, struct gen *g, const char *tag, double weight, struct err *e)
{
    if (s->stop) return err_set(e, ERR_UNAVAILABLE, "the engine is stopping");
    struct tenant *t = tenant_of(s, tag, weight, e);
    if (!t || wants_enter(s, g, e)) return -1;
    if (admit_check(s, g, t, e)) {
        if (e) note_add(s, M_REFUSED, err_info(e->code)->code, 1);
        wants_leave(g);
        return -1;
    }
    tenant_join(s, t);
    g->tenant = t;
    g->number = ++s->submitted;
    gen_name_trace(g);
    queue_move(g, g->npins ? PLACE_WAITING : PLACE_READY);
    if (g->deadline_us && g->deadline_us < s->next_deadline_us) s->next_deadline_us = g->deadline_us;
    return 0;
}

void queue_fail(struct gen *g, enum err_code code, const char *msg)
{
    if (g->place == PLACE_FAILED || g->place == PLACE_NONE) return;
    err_set(&g->err, code, "%s", msg);
    note_add(g->s, M_REFUSED, err_info(code)->code, 1);
    queue_move(g, PLACE_FAILED);
}

void queue_charge(struct gen *g, double tokens)
{
    tenant_charge(g->tenant, tokens);
}

/* --- turns --- */

int queue_level(const struct gen *g)
{
    return g->promoted ? 0 : (int)g->class;
}

static bool is_late(const struct gen *g, int64_t now_us)
{
    int64_t target = (int64_t)g->s->o.target[g->class].ttft_ms * 1000;
    int64_t waited = g->waited_us + (is_waiting(g->place) ? now_us - g->since_us : 0);
    return target > 0 && waited >= target;
}

static struct gen *later(struct gen *best, struct gen *g, int64_t now_us)
{
    if (g->promoted || g->class == 0 || !is_late(g, now_us)) return best;
    return !best || g->tenant->counter < best->tenant->counter ? g : best;
}

/* Of requests of one tenant and class: those behind the first that isn't promoted came later. */
static struct gen *latest_of(struct gen *best, const struct gen_list *l, int64_t now_us)
{
    struct gen *g = l->first;
    while (g && g->promoted) g = g->next;
    return g ? later(best, g, now_us) : best;
}

/* Going first for a slot costs a load, and is of use where others go first by their class. */
static bool urgent_wait(const struct sched *s, int class)
{
    int n = 0;
    for (int c = 0; c < class; c++) n += s->class_waiting[c];
    return n > 0;
}

static struct gen *latest_put_off(struct gen *best, const struct gen_list *l, int64_t now_us)
{
    for (struct gen *g = l->first; g; g = g->next)
        if (g->put_off) best = later(best, g, now_us);
    return best;
}

static void promote(struct sched *s, int64_t now_us)
{
    struct gen *best = NULL;
    for (const struct tenant *t = s->active.first; t; t = t->next)
        for (int c = 1; c < SCHED_CLASSES; c++) {
            best = latest_of(best, &t->ready[c], now_us);
            if (urgent_wait(s, c)) best = latest_put_off(best, &t->wanting[c], now_us);
        }
    best = latest_put_off(best, &s->preempted, now_us);
    if (!best) return;
    best->promoted = true;
    s->turns = 0;
    note_add(s, M_PROMOTED, sched_class_name[best->class], 1);
}

struct turn turn_of(const struct gen *g)
{
    return (struct turn){queue_level(g), g->tenant->counter, g->number};
}

int turn_compare(const struct turn *a, const struct turn *b)
{
    if (a->level != b->level) return a->level < b->level ? -1 : 1;
    if (a->counter != b->counter) return a->counter < b->counter ? -1 : 1;
    return a->number < b->number ? -1 : a->number > b->number;
}

struct gen *queue_next(struct sched *s)
{
    struct gen *best = NULL;
    struct turn first = {0};
    if (s->turns >= AGE_TURNS) promote(s, sched_now(s));
    for (const struct tenant *t = s->active.first; t; t = t->next)
        for (int c = 0; c < SCHED_CLASSES; c++) {
            struct gen *g = t->ready[c].first;
            if (!g) continue;
            struct turn turn = turn_of(g);
            if (best && turn_compare(&turn, &first) > 0) continue;
            best = g;
            first = turn;
        }
    return best;
}

/* --- deadlines --- */

static void fail_late_of(struct sched *s, struct gen_list *l, int64_t now_us)
{
    for (struct gen *g = l->first, *next; g; g = next) {
        next = g->next;
        if (g->first_us) continue;
        int64_t slot = slots_deadline(g), due = g->deadline_us ? g->deadline_us : INT64_MAX;
        if (due <= now_us)
            queue_fail(g, ERR_DEADLINE, "the request could not be served before its deadline");
        else if (slot <= now_us)
            queue_fail(g, ERR_NO_SLOT, "no adapter slot came free in time");
        else if ((slot < due ? slot : due) < s->next_deadline_us)
            s->next_deadline_us = slot < due ? slot : due;
    }
}

void queue_fail_late(struct sched *s, int64_t now_us)
{
    if (now_us < s->next_deadline_us) return;
    s->next_deadline_us = INT64_MAX;
    for (struct tenant *t = s->active.first, *next; t; t = next) {
        next = t->next; /* t may go idle, and only the longest idle may be forgotten */
        fail_late_of(s, &t->pinning, now_us);
        for (int c = 0; c < SCHED_CLASSES; c++) {
            fail_late_of(s, &t->wanting[c], now_us);
            fail_late_of(s, &t->ready[c], now_us);
        }
    }
    fail_late_of(s, &s->preempted, now_us);
    fail_late_of(s, &s->running, now_us);
}

static void fail_list(struct gen_list *l)
{
    while (l->first) queue_fail(l->first, ERR_UNAVAILABLE, "the engine is stopping");
}

void queue_fail_all(struct sched *s)
{
    for (struct tenant *t = s->active.first, *next; t; t = next) {
        next = t->next;
        fail_list(&t->pinning);
        for (int c = 0; c < SCHED_CLASSES; c++) {
            fail_list(&t->wanting[c]);
            fail_list(&t->ready[c]);
        }
    }
    fail_list(&s->preempted);
    fail_list(&s->running);
}
