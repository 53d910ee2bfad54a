/* sched_tenant: tenants and their virtual counters.
 *
 * Idea (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024, algorithm 2): each tenant has a counter of the tokens that it
 * was served, prompt tokens at admission and generated ones as they come, divided by its weight; a generated token counts twice a prompt's, as in
 * the paper. The waiting request of the tenant with the smallest counter is next. A tenant that had nothing waiting is lifted to the smallest
 * counter of those that have, or where nobody waits to that of the last who did, so that nobody saves up turns by asking for little; its own
 * counter is remembered, so that nobody loses debt by leaving for a moment. Other than in the paper it is lifted to CREDIT below that: who asks for
 * little now and then has the next turn, with a few short requests, and need not wait until a crowd that fills all places got one more.
 *
 * Guarantees: two tenants that both have requests waiting all the time are served the same, weighed, but for a bound that does not grow with
 * time: what one admission and one step may add. A tenant has one counter, however many adapters, classes and connections it uses.
 *
 *     unknown --a request--> idle --joins--> active --its last request ends--> idle --too many idle--> forgotten
 *
 * With the scheduler's lock held, any thread. */
#include "engine/sched_impl.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CREDIT 256 /* tokens */
#define WEIGHT_MIN 0.001
#define WEIGHT_MAX 1000.0

static void list_unlink(struct tenant_list *l, struct tenant *t)
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

static void list_append(struct tenant_list *l, struct tenant *t)
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

static void forget(struct sched *s, struct tenant *t)
{
    struct tenant **at = &s->bucket[bucket_of(t->tag)];
    while (*at != t) at = &(*at)->chain;
    *at = t->chain;
    if (s->last_waiting == t) {
        s->last_waiting = NULL;
        s->last_counter = t->counter;
    }
    list_unlink(t->active ? &s->active : &s->idle, t);
    free(t);
}

struct tenant *tenant_of(struct sched *s, const char *tag, double weight, struct err *e)
{
    char cut[SCHED_TAG_MAX];
    snprintf(cut, sizeof cut, "%s", tag ? tag : "");
    struct tenant **at = &s->bucket[bucket_of(cut)], *t = *at;
    while (t && strcmp(t->tag, cut) != 0) t = t->chain;
    if (!t) {
        if (!(t = calloc(1, sizeof *t))) {
            err_set(e, ERR_NO_MEMORY, "no memory for a tenant's queue");
            return NULL;
        }
        memcpy(t->tag, cut, sizeof cut);
        if (s->idle.n >= SCHED_IDLE_TENANTS) forget(s, s->idle.first); /* those that are refused all go no other way */
        at = &s->bucket[bucket_of(cut)];
        t->chain = *at;
        *at = t;
        list_append(&s->idle, t);
    }
    t->weight = !(weight > 0) ? 1 : weight < WEIGHT_MIN ? WEIGHT_MIN : weight > WEIGHT_MAX ? WEIGHT_MAX : weight;
    return t;
}

/* What a tenant that had nothing waiting may not be below. */
static double floor_of(const struct sched *s)
{
    double least = INFINITY;
    for (const struct tenant *t = s->active.first; t; t = t->next)
        if (t->waiting && t->counter < least) least = t->counter;
    if (isfinite(least)) return least;
    return s->last_waiting ? s->last_waiting->counter : s->last_counter;
}

void tenant_join(struct sched *s, struct tenant *t)
{
    if (t->waiting == 0) t->counter = fmax(t->counter, floor_of(s) - CREDIT / t->weight);
    if (t->active) return;
    list_unlink(&s->idle, t);
    list_append(&s->active, t);
    t->active = true;
}

void tenant_left_queue(struct sched *s, struct tenant *t)
{
    s->last_waiting = t;
}

void tenant_rest(struct sched *s, struct tenant *t)
{
    if (!t->active || t->waiting || t->running) return;
    list_unlink(&s->active, t);
    list_append(&s->idle, t);
    t->active = false;
    if (s->idle.n > SCHED_IDLE_TENANTS) forget(s, s->idle.first);
}

void tenant_charge(struct tenant *t, double tokens)
{
    t->counter += tokens / t->weight;
}

void tenants_free(struct sched *s)
{
    while (s->active.first) forget(s, s->active.first);
    while (s->idle.first) forget(s, s->idle.first);
}
