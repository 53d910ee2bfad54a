/* sched_queue: where each request is, whose turn is next.
 *
 *     sched_submit --> PINNING --pin came--> READY --admitted--> RUNNING <--resumed-- PREEMPTED
 *                         |                    |                  |  \---no pages-------^ |
 *                         +----------+---------+---------+--------+-----------------------+
 *                                    v pin failed, deadline, stop
 *                                  FAILED --gen_end--> (freed)
 *
 * Idea (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024): each tenant has a counter of the tokens
 * that it was served, prompt tokens at admission and generated ones as they come, divided by its weight. The ready
 * request of the tenant with the smallest counter is next. A tenant that comes back from having no requests is lifted
 * to the smallest counter of those that have some, so that nobody saves up turns by staying away; its own counter is
 * remembered, so that nobody loses debt by leaving for a moment.
 *
 * Within a tenant requests go in the order of submission, but one whose adapter is not resident yet holds up no other.
 *
 * Every function here is called with the scheduler's lock held, by any thread. */
#include "base/clock.h"
#include "engine/sched_impl.h"
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WEIGHT_MIN 0.001
#define WEIGHT_MAX 1000.0

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
    case PLACE_PINNING:
        return &g->tenant->pinning;
    case PLACE_READY:
        return &g->tenant->ready;
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

/* --- tenants --- */

static void tenants_unlink(struct tenant_list *l, struct tenant *t)
{
    if (t->prev)
        t->prev->next = t->next;
    else
        l->first = t->next;
    if (t->next)
        t->next->prev = t->prev;
    else
        l->last = t->prev;
    t->prev = t->next = NULL;
    l->n--;
}

static void tenants_append(struct tenant_list *l, struct tenant *t)
{
    t->prev = l->last;
    t->next = NULL;
    if (l->last)
        l->last->next = t;
    else
        l->first = t;
    l->last = t;
    l->n++;
}

static unsigned bucket_of(const char *tag)
{ /* FNV-1a */
    uint32_t h = 2166136261u;
    for (; *tag; tag++) h = (h ^ (unsigned char)*tag) * 16777619u;
    return h % SCHED_BUCKETS;
}

static void forget_tenant(struct sched *s, struct tenant *t)
{
    struct tenant **at = &s->bucket[bucket_of(t->tag)];
    while (*at != t) at = &(*at)->chain;
    *at = t->chain;
    tenants_unlink(t->active ? &s->active : &s->idle, t);
    free(t);
}

static struct tenant *tenant_of(struct sched *s, const char *tag, struct err *e)
{
    char cut[SCHED_TAG_MAX];
    snprintf(cut, sizeof cut, "%s", tag ? tag : "");
    struct tenant **at = &s->bucket[bucket_of(cut)];
    for (struct tenant *t = *at; t; t = t->chain)
        if (strcmp(t->tag, cut) == 0) return t;
    struct tenant *t = calloc(1, sizeof *t);
    if (!t) {
        err_set(e, ERR_NO_MEMORY, "no memory for a tenant's queue");
        return NULL;
    }
    memcpy(t->tag, cut, sizeof cut);
    t->chain = *at;
    *at = t;
    tenants_append(&s->idle, t);
    return t;
}

static void activate(struct sched *s, struct tenant *t)
{
    if (t->active) return;
    double floor = s->last_counter;
    if (s->active.first) {
        floor = INFINITY;
        for (struct tenant *o = s->active.first; o; o = o->next)
            if (o->counter < floor) floor = o->counter;
    }
    if (t->counter < floor) t->counter = floor;
    tenants_unlink(&s->idle, t);
    tenants_append(&s->active, t);
    t->active = true;
}

static void deactivate_if_empty(struct sched *s, struct tenant *t)
{
    if (!t->active || t->waiting || t->running) return;
    s->last_counter = t->counter;
    tenants_unlink(&s->active, t);
    tenants_append(&s->idle, t);
    t->active = false;
    if (s->idle.n > SCHED_IDLE_TENANTS) forget_tenant(s, s->idle.first);
}

/* --- places --- */

static void count(struct gen *g, enum gen_place place, int by)
{
    struct sched *s = g->s;
    switch (place) {
    case PLACE_PINNING:
    case PLACE_READY:
        s->waiting += by;
        g->tenant->waiting += by;
        break;
    case PLACE_PREEMPTED:
        g->tenant->waiting += by;
        break;
    case PLACE_RUNNING:
        g->tenant->running += by;
        break;
    case PLACE_FAILED:
    case PLACE_NONE:
        break;
    }
}

/* Idle tenants may be forgotten, so a request that is over refers to none. */
static void leave_tenant(struct gen *g)
{
    if (g->tenant) deactivate_if_empty(g->s, g->tenant);
    g->tenant = NULL;
}

void queue_move(struct gen *g, enum gen_place to)
{
    struct gen_list *from = list_of(g, g->place), *l = list_of(g, to);
    if (from) list_unlink(from, g);
    count(g, g->place, -1);
    count(g, to, 1);
    g->place = to;
    if (g->npins) g->s->lora_changes++;
    if (to == PLACE_FAILED || to == PLACE_NONE) leave_tenant(g);
    if (!l) return;
    struct gen *at = l->last;
    while (at && rank_of(at, to) > rank_of(g, to)) at = at->prev;
    list_insert_after(l, at, g);
}

int queue_enter(struct sched *s, struct gen *g, const char *tag, double weight, struct err *e)
{
    if (s->stop) return err_set(e, ERR_UNAVAILABLE, "the engine is stopping");
    if (s->waiting >= s->o.max_waiting)
        return err_set(e, ERR_QUEUE_FULL, "%d requests wait already: try again later", s->waiting);
    struct tenant *t = tenant_of(s, tag, e);
    if (!t) return -1;
    t->weight = !(weight > 0) ? 1 : weight < WEIGHT_MIN ? WEIGHT_MIN : weight > WEIGHT_MAX ? WEIGHT_MAX : weight;
    g->tenant = t;
    g->number = ++s->submitted;
    g->place = PLACE_NONE;
    activate(s, t);
    queue_move(g, g->npins ? PLACE_PINNING : PLACE_READY);
    if (g->deadline_us && g->deadline_us < s->next_deadline_us) s->next_deadline_us = g->deadline_us;
    return 0;
}

void queue_fail(struct gen *g, enum err_code code, const char *msg)
{
    if (g->place == PLACE_FAILED || g->place == PLACE_NONE) return;
    err_set(&g->err, code, "%s", msg);
    queue_move(g, PLACE_FAILED);
}

void queue_charge(struct gen *g, double tokens)
{
    g->tenant->counter += tokens / g->tenant->weight;
}

struct gen *queue_next(struct sched *s)
{
    struct tenant *best = NULL;
    for (struct tenant *t = s->active.first; t; t = t->next) {
        if (!t->ready.first) continue;
        if (!best || t->counter < best->counter ||
            (t->counter == best->counter && t->ready.first->number < best->ready.first->number))
            best = t;
    }
    return best ? best->ready.first : NULL;
}

/* --- deadlines --- */

static void fail_late_of(struct sched *s, struct gen_list *l, int64_t now_us)
{
    for (struct gen *g = l->first, *next; g; g = next) {
        next = g->next;
        if (!g->deadline_us || g->first_us) continue;
        if (g->deadline_us <= now_us)
            queue_fail(g, ERR_DEADLINE, "the request could not be served before its deadline");
        else if (g->deadline_us < s->next_deadline_us)
            s->next_deadline_us = g->deadline_us;
    }
}

void queue_fail_late(struct sched *s, int64_t now_us)
{
    if (now_us < s->next_deadline_us) return;
    s->next_deadline_us = INT64_MAX;
    for (struct tenant *t = s->active.first, *next; t; t = next) {
        next = t->next; /* t may go idle */
        struct gen_list *lists[] = {&t->pinning, &t->ready};
        for (int i = 0; i < 2 && t->active; i++) fail_late_of(s, lists[i], now_us);
    }
    fail_late_of(s, &s->preempted, now_us);
    fail_late_of(s, &s->running, now_us);
}

void queue_free(struct sched *s)
{
    while (s->active.first) forget_tenant(s, s->active.first);
    while (s->idle.first) forget_tenant(s, s->idle.first);
}
