/* Trials: who is accused is served alone, so that a crash meanwhile has one name and nobody else's.
 *
 *     accused, asks for an engine --others are there--> it waits, and nobody new is let in: BLAME_TRIAL_US at most
 *                    |                                     | the last of them left
 *                    `--nobody is----> on trial <----------'
 *                                         |  nobody else is let in for BLAME_TRIAL_US at most; it may go on after that, beside others
 *                                         v
 *                       completed, lost, gone: the others have the engine for as long as it was kept from them, then the next trial may begin
 *
 * "Others" are other tenants': a tenant's own requests go on beside its trial, for it can accuse nobody but itself. A tenant has one trial at a time, on
 * one engine. What left without its end counts as there for BLAME_LINGER_US more: an engine that computes does not notice at once that nobody waits.
 * Tenants take turns: who had the last trial lets another one go first that was turned away of late.
 *
 * Seats are in the caller's memory, linked here from blame_enter() to blame_leave(). All under blame.lock. */
#include "gateway/proxy/blame_impl.h"
#include <stdio.h>
#include <string.h>

#define TURN_US 1000000LL /* who was turned away and does not ask again within this gave up */

/* NULL: there are more than there can be. */
static struct blame_engine *engine_of(struct blame *b, const char *name)
{
    struct blame_engine *unused = NULL;
    for (int i = 0; i < b->nengines; i++) {
        struct blame_engine *g = &b->engine[i];
        if (strcmp(g->name, name) == 0) return g;
        if (!g->first && !g->trial) unused = g;
    }
    if (b->nengines < BLAME_ENGINES) unused = &b->engine[b->nengines++];
    if (!unused) return NULL;
    *unused = (struct blame_engine){.free_us = 0};
    snprintf(unused->name, sizeof unused->name, "%s", name);
    return unused;
}

static void end_trial(struct blame_engine *g, int64_t now)
{
    snprintf(g->last, sizeof g->last, "%s", g->trial->tenant);
    g->trial = NULL;
    g->free_us = now + (now - g->since_us);
}

static void settle(struct blame *b, int64_t now)
{
    for (int i = 0; i < b->nengines; i++) {
        struct blame_engine *g = &b->engine[i];
        if (g->trial && now - (g->began_us ? g->began_us : g->since_us) > BLAME_TRIAL_US) end_trial(g, now);
    }
}

static bool is_alone(const struct blame *b, const struct blame_engine *g, const char *tenant, int64_t now)
{
    for (const struct blame_seat *s = g->first; s; s = s->next)
        if (strcmp(s->tenant, tenant) != 0) return false;
    for (int i = 0; i < b->nlosses; i++) {
        const struct loss *l = &b->loss[i];
        if (l->left && strcmp(l->engine, g->name) == 0 && !loss_was_gone(b, l, now) && strcmp(l->who.tenant, tenant) != 0) return false;
    }
    return true;
}

static struct blame_engine *trial_of(struct blame *b, const char *tenant)
{
    for (int i = 0; i < b->nengines; i++)
        if (b->engine[i].trial && strcmp(b->engine[i].trial->tenant, tenant) == 0) return &b->engine[i];
    return NULL;
}

static bool is_its_turn(const struct blame_engine *g, const char *tenant, int64_t now)
{
    bool another = *g->wants && strcmp(g->wants, tenant) != 0 && now - g->wants_us <= TURN_US;
    return !g->trial && now >= g->free_us && !(another && strcmp(g->last, tenant) == 0);
}

static bool turn_away(struct blame_engine *g, const char *tenant, int64_t now)
{
    if (!*g->wants || now - g->wants_us > TURN_US || strcmp(g->wants, tenant) == 0) {
        snprintf(g->wants, sizeof g->wants, "%s", tenant);
        g->wants_us = now;
    }
    return false;
}

/* Of one that is accused. */
static bool try(struct blame *b, struct blame_engine *g, struct blame_seat *seat, int64_t now)
{
    struct blame_engine *own = trial_of(b, seat->tenant);
    if (own && own->trial != seat) return false;
    if (own != g) {
        if (own && !is_alone(b, g, seat->tenant, now)) return false; /* it waits for another engine already */
        if (!is_its_turn(g, seat->tenant, now)) return turn_away(g, seat->tenant, now);
        if (own) end_trial(own, now);
        g->trial = seat;
        g->since_us = now;
        g->began_us = 0;
        if (strcmp(g->wants, seat->tenant) == 0) *g->wants = 0;
    }
    if (!is_alone(b, g, seat->tenant, now)) return false;
    g->began_us = now;
    seat->tried = true;
    return true;
}

static void sit(struct blame_engine *g, struct blame_seat *seat)
{
    seat->at = g;
    seat->prev = NULL;
    seat->next = g->first;
    if (g->first) g->first->prev = seat;
    g->first = seat;
}

static void stand_up(struct blame_seat *seat)
{
    if (!seat->at) return;
    *(seat->prev ? &seat->prev->next : &seat->at->first) = seat->next;
    if (seat->next) seat->next->prev = seat->prev;
    seat->at = NULL;
}

static void note_company(struct blame *b, const char *tenant, int64_t now)
{
    if (strcmp(b->recent, tenant) == 0) return;
    if (*b->recent) b->company_us = now;
    snprintf(b->recent, sizeof b->recent, "%s", tenant);
}

static bool enter(struct blame *b, struct blame_seat *seat, const char *engine, const struct blame_who *who, int64_t now)
{
    struct blame_engine *g = engine_of(b, engine);
    if (!g || seat->at == g) return true;
    stand_up(seat);
    snprintf(seat->tenant, sizeof seat->tenant, "%s", who->tenant);
    note_company(b, who->tenant, now);
    names_forget(b, now);
    settle(b, now);
    if (name_is_accused(b, who) || suspect_is_accused(b, who->tenant, now)) {
        if (!try(b, g, seat, now)) return false;
    } else if (g->trial && strcmp(g->trial->tenant, who->tenant) != 0) {
        return false;
    }
    sit(g, seat);
    return true;
}

bool blame_enter(struct blame *b, struct blame_seat *seat, const char *engine, const struct blame_who *who, int64_t now)
{
    pthread_mutex_lock(&b->lock);
    bool may = enter(b, seat, engine, who, now);
    pthread_mutex_unlock(&b->lock);
    return may;
}

void seat_leave(struct blame *b, struct blame_seat *seat, int64_t now)
{
    stand_up(seat);
    for (int i = 0; i < b->nengines; i++)
        if (b->engine[i].trial == seat) end_trial(&b->engine[i], now);
    seat->tried = false;
}

void blame_leave(struct blame *b, struct blame_seat *seat, bool answered, int64_t now)
{
    pthread_mutex_lock(&b->lock);
    if (answered && seat->at) seat->at->answered_us = now;
    seat_leave(b, seat, now);
    pthread_mutex_unlock(&b->lock);
}

int64_t engine_answered(const struct blame *b, const char *engine)
{
    for (int i = 0; i < b->nengines; i++)
        if (strcmp(b->engine[i].name, engine) == 0) return b->engine[i].answered_us;
    return 0;
}

bool trial_runs(struct blame *b, const struct blame_seat *seat, const char *engine, int64_t now)
{
    settle(b, now);
    for (int i = 0; i < b->nengines; i++)
        if (b->engine[i].trial == seat && b->engine[i].began_us && strcmp(b->engine[i].name, engine) == 0) return true;
    return false;
}
