/* sched_step: the thread that computes.
 *
 *     settle: cancelled, failed and late requests are ended <-----------------+
 *     guess   (sched_spec.c), next pins are asked for (sched_pin.c)           |
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

static void blame(struct gen *g)
{
    char who[GEN_ADAPTERS * SHA256_HEX + 1] = "";
    size_t len = 0;
    for (int i = 0; i < g->npins; i++)
        len += (size_t)snprintf(who + len, sizeof who - len, "%s%s", i ? " " : "", g->pin[i].digest);
    g->finish = FINISH_ERROR;
    if (g->npins)
        err_set(&g->err, ERR_ADAPTER_FAULT, "the adapter %s produced values that are not finite", who);
    else
        err_set(&g->err, ERR_INTERNAL, "the base model produced values that are not finite");
    log_warn("not_finite", LS("request", g->id), LS("adapter", who), LI("position", g->nids));
}

static void end_early(struct gen *g, enum sample_rc rc)
{
    switch (rc) {
    case SAMPLE_OK:
        break;
    case SAMPLE_NOT_FINITE:
        blame(g);
        break;
    case SAMPLE_NOTHING: /* the grammar leaves no token */
        g->finish = FINISH_STOP;
        break;
    case SAMPLE_NO_MEMORY:
        g->finish = FINISH_ERROR;
        err_set(&g->err, ERR_NO_MEMORY, "no memory for the grammar's mask");
    }
}

static void take_chosen(struct plan *p, const struct part *a, const struct job *j)
{
    struct gen *g = a->g;
    int n = 0;
    while (n < j->chosen && !g->finish) {
        n++;
        gen_take_token(g, &p->sample[j->logit + n - 1], j->over && n == j->chosen);
    }
    if (n) g->done = g->nids - 1; /* guesses that were wrong are overwritten */
    if (!g->finish) end_early(g, j->rc);
    p->chosen += n;
    p->accepted += n > 1 ? n - 1 : 0;
    spec_learn(g, a->drafts, n > 1 ? n - 1 : 0);
}

static void take_part(struct sched *s, const struct part *a)
{
    struct plan *p = &s->plan;
    struct gen *g = a->g;
    const struct job *j = &p->job[a->job0];
    g->done += a->rows;
    for (int i = 0; i < a->given && !g->finish; i++) end_early(g, j[i].rc);
    if (a->given && !g->finish) gen_tell_prompt(g, &p->sample[j->logit], a->given);
    if (a->chooses && !g->finish) take_chosen(p, a, j + a->given);
    if (g->done > g->high) g->high = g->done;
    if (g->finish == FINISH_ERROR)
        prefix_forget(s, g);
    else
        prefix_publish(s, g);
}

/* What each was served is charged: with the lock held. */
static void charge(struct plan *p)
{
    for (int i = 0; i < p->nparts; i++) {
        const struct part *a = &p->part[i];
        if (a->chooses) queue_charge(a->g, COST_OUTPUT * p->job[a->job0 + a->given].chosen);
    }
}

static void step(struct sched *s)
{
    struct plan *p = &s->plan;
    int64_t t0 = clock_mono_us();
    p->batch.after = sample_jobs;
    p->batch.u = s;
    forward_run(s->forward, &p->batch);
    for (int i = 0; i < p->nparts; i++) take_part(s, &p->part[i]);
    pthread_mutex_lock(&s->lock);
    charge(p);
    note_step(s, clock_mono_us() - t0);
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; i < p->nparts; i++) {
        struct gen *g = p->part[i].g;
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
        pthread_mutex_unlock(&s->lock);
        pins_ask_next(s);
        spec_guess(s);
        pthread_mutex_lock(&s->lock);
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
