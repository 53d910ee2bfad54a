/* sched_step: the thread that computes.
 *
 *     settle: cancelled, failed and late requests are ended <-----------------+
 *     plan    (sched_plan.c)                                                  |
 *     step    forward pass, sampling on all threads, tokens told, ends told --+
 *
 * With nothing to compute it sleeps until it is woken or the next deadline. The lock is held while it plans, never
 * while it computes or calls back. A row of logits that isn't finite ends its own request only: the rows of a step
 * share no arithmetic.
 *
 * When it is told to stop, every request is ended with ERR_UNAVAILABLE and the answers to pins that are on their way
 * are awaited, for they refer to the scheduler. */
#include "base/clock.h"
#include "base/log.h"
#include "engine/meters.h"
#include "engine/sched_impl.h"
#include <stdio.h>
#include <string.h>

/* --- ends --- */

/* Called and returns with the lock held. */
static void settle(struct sched *s)
{
    for (;;) {
        queue_fail_late(s, clock_mono_us());
        struct gen *g = s->cancelled ? s->cancelled : s->failed.first;
        enum gen_finish finish = s->cancelled ? FINISH_CANCELLED : FINISH_ERROR;
        if (!g) return;
        pthread_mutex_unlock(&s->lock);
        gen_end(g, finish, &g->err);
        pthread_mutex_lock(&s->lock);
    }
}

static void fail_list(struct gen_list *l)
{
    while (l->first) queue_fail(l->first, ERR_UNAVAILABLE, "the engine is stopping");
}

static void fail_all(struct sched *s)
{
    for (struct tenant *t = s->active.first, *next; t; t = next) {
        next = t->next; /* an emptied tenant goes idle, and only the longest idle may be forgotten */
        fail_list(&t->pinning);
        fail_list(&t->ready);
    }
    fail_list(&s->preempted);
    fail_list(&s->running);
}

static void wind_up(struct sched *s)
{
    fail_all(s);
    settle(s);
    while (s->pins_pending > 0) pthread_cond_wait(&s->wake, &s->lock);
}

/* --- a step --- */

/* On every thread of the pool, after the logits. */
static void sample_rows(struct kthread *t, void *u, const float *logits)
{
    struct sched *s = u;
    struct plan *p = &s->plan;
    pool_claim_begin(t);
    for (int i; (i = pool_claim(t, p->nlogits, 1)) >= 0;) {
        const struct gen *g = p->logit_gen[i];
        int nbanned = g->nout < g->p.min_tokens ? g->nbanned : 0;
        struct sample_input in = {.p = &g->p.sample,
                                  .index = (uint64_t)g->nout,
                                  .ids = g->ids,
                                  .nprompt = g->nprompt,
                                  .nids = g->nids,
                                  .banned = g->banned,
                                  .nbanned = nbanned};
        p->sample_rc[i] = sample_token(s->sampler[t->id], logits + (size_t)i * (size_t)s->m->vocab, &in, &p->sample[i]);
    }
}

static void blame(struct gen *g)
{
    g->finish = FINISH_ERROR;
    if (g->slot)
        err_set(&g->err, ERR_ADAPTER_FAULT, "the adapter %s produced values that are not finite", g->slot->digest);
    else
        err_set(&g->err, ERR_INTERNAL, "the base model produced values that are not finite");
    log_warn("not_finite", LS("request", g->id), LS("adapter", g->slot ? g->slot->digest : ""),
             LI("position", g->nids));
}

static void take_results(struct sched *s)
{
    struct plan *p = &s->plan;
    for (int i = 0; i < p->nparts; i++) p->part[i].g->done += p->part[i].rows;
    for (int i = 0; i < p->nlogits; i++) {
        if (p->sample_rc[i])
            blame(p->logit_gen[i]);
        else
            gen_take_token(p->logit_gen[i], &p->sample[i]);
    }
}

static void step(struct sched *s)
{
    struct plan *p = &s->plan;
    int64_t t0 = clock_mono_us();
    p->batch.after = sample_rows;
    p->batch.u = s;
    forward_run(s->forward, &p->batch);
    take_results(s);
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < p->nlogits; i++) queue_charge(p->logit_gen[i], COST_OUTPUT);
    note_step(s, clock_mono_us() - t0);
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; i < p->nlogits; i++) {
        struct gen *g = p->logit_gen[i];
        if (g->finish) gen_end(g, g->finish, &g->err);
    }
    note_adapters(s, false);
}

static void sleep_until_woken(struct sched *s)
{
    atomic_store(&s->busy_since_us, 0);
    if (s->next_deadline_us == INT64_MAX) {
        pthread_cond_wait(&s->wake, &s->lock);
    } else {
        struct timespec ts = {.tv_sec = s->next_deadline_us / 1000000, .tv_nsec = s->next_deadline_us % 1000000 * 1000};
        pthread_cond_timedwait(&s->wake, &s->lock, &ts);
    }
}

void *sched_thread(void *sched)
{
    struct sched *s = sched;
    pthread_setname_np(pthread_self(), "step");
    pthread_mutex_lock(&s->lock);
    while (!s->stop) {
        atomic_store(&s->busy_since_us, clock_mono_us());
        settle(s);
        if (s->stop) break;
        bool work = plan_make(s);
        note_gauges(s);
        if (work) {
            pthread_mutex_unlock(&s->lock);
            step(s);
            pthread_mutex_lock(&s->lock);
            continue;
        }
        if (s->lora_noted != s->lora_changes) { /* before sleeping the label is brought up to date; then look again */
            pthread_mutex_unlock(&s->lock);
            note_adapters(s, true);
            pthread_mutex_lock(&s->lock);
            continue;
        }
        sleep_until_woken(s);
    }
    wind_up(s);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}
