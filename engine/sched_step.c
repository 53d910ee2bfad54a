/* sched_step: the thread that computes.
 *
 *     settle: cancelled, failed and late requests are ended <-----------------+
 *     slots   are taken back and asked for (sched_slots.c)                    |
 *     guess   (sched_spec.c), plan (sched_plan.c)                             |
 *     step    forward pass, sampling on all threads, tokens told, ends told --+
 *
 * On a device the pass that follows is begun before the tokens of the one that runs are there, where all else of it is
 * known (sched_follow.c): then one step passes into the next without the upper part of the circle.
 *
 * Steps follow each other without a gap: one takes from its planning, or from the end of the step that it followed, until
 * its tokens and ends are told. So the times of steps add up to the time that was worked, and what the model of costs
 * (sched_cost.c) learns is how long those who run wait for their next token.
 *
 * With nothing to compute it sleeps until it is woken or the next deadline. The lock is held while it plans, never
 * while it computes or calls back. A row of logits that isn't finite ends its own request only: the rows of a step
 * share no arithmetic.
 *
 * When it is told to stop, every request is ended with ERR_UNAVAILABLE and the answers to pins that are on their way
 * are awaited, for they refer to the scheduler. The same when a device failed: then sched_alive() is false, and the
 * process ends. */
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
        queue_fail_late(s, sched_now(s));
        struct gen *g = s->cancelled ? s->cancelled : s->failed.first;
        enum gen_finish finish = s->cancelled ? FINISH_CANCELLED : FINISH_ERROR;
        if (!g) return;
        pthread_mutex_unlock(&s->lock);
        gen_end(g, finish, &g->err);
        pthread_mutex_lock(&s->lock);
    }
}

/* Called and returns with the lock held. */
static void wind_up(struct sched *s)
{
    queue_fail_all(s);
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
    log_warn("not_finite", LS("request", g->id), LS("trace", g->trace), LS("adapter", who), LI("position", g->nids));
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

static void take_chosen(struct sched *s, const struct part *a, const struct job *j)
{
    struct plan *p = s->plan;
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
    g->spec.row = p->logit_row[j->logit + j->last];
    g->spec.pass = s->passes;
    if (a->tree) {
        tree_close(s, a->tree, j->last - 1);
        guesser_learn(g, n > 1 ? n - 1 : 0);
    } else {
        spec_learn(g, a->drafts, n > 1 ? n - 1 : 0);
    }
}

static void take_part(struct sched *s, const struct part *a)
{
    struct plan *p = s->plan;
    struct gen *g = a->g;
    const struct job *j = &p->job[a->job0];
    if (!g) return;
    g->done += a->rows;
    for (int i = 0; i < a->given && !g->finish; i++) end_early(g, j[i].rc);
    if (a->given && !g->finish) gen_tell_prompt(g, &p->sample[j->logit], a->given);
    if (a->chooses && !g->finish) take_chosen(s, a, j + a->given);
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
        if (!a->g || !a->chooses) continue;
        queue_charge(a->g, COST_OUTPUT * p->job[a->job0 + a->given].chosen);
        a->g->decodes = true;
    }
}

static int failed(struct sched *s)
{
    sched_fail(s, forward_error(s->forward)->msg);
    return -1;
}

static int begin(struct sched *s, struct plan *p)
{
    p->batch.after = sample_jobs;
    p->batch.u = s;
    s->passes++;
    if (s->kernels->device) sample_leave(p);
    return forward_begin(s->forward, &p->batch) ? failed(s) : 0;
}

/* The step behind s->plan, begun; *next NULL: there is none. */
static int follow(struct sched *s, struct plan **next)
{
    pthread_mutex_lock(&s->lock);
    *next = follow_make(s);
    if (*next) note_gauges(s);
    pthread_mutex_unlock(&s->lock);
    return *next ? begin(s, *next) : 0;
}

/* The results of s->plan. */
static int finish(struct sched *s)
{
    const struct sched_clock *c = s->o.clock;
    if (!forward_end(s->forward)) return failed(s);
    if (c && c->computed) c->computed(c->u, &s->plan->shape);
    return 0;
}

static void trace_step(struct sched *s, int64_t computed_us, int64_t now_us)
{
    const struct plan *p = s->plan;
    struct trace_step t = {.start_us = s->begun_us,
                           .plan_us = s->planned_us - s->begun_us,
                           .forward_us = s->computed_us - s->planned_us,
                           .sample_us = computed_us - s->computed_us,
                           .emit_us = now_us - computed_us,
                           .decode_rows = p->rows - p->prefill_rows - p->draft_rows - p->discarded,
                           .prefill_rows = p->prefill_rows,
                           .draft_rows = p->draft_rows,
                           .discarded_rows = p->discarded,
                           .sequences = p->nparts - p->discarded,
                           .adapters = p->adapters,
                           .pages = s->pages_used,
                           .running = s->running.n,
                           .waiting = s->waiting + s->put_off,
                           .budget_rows = p->budget_rows,
                           .estimate_us = (int64_t)p->estimate_us};
    trace_add_step(s->o.trace, &t);
}

/* Tokens and ends are told; `next` runs already, or is NULL. */
static void take(struct sched *s, struct plan *next)
{
    struct plan *p = s->plan;
    int64_t computed = sched_now(s);
    for (int i = 0; i < p->nparts; i++) take_part(s, &p->part[i]);
    int64_t now = sched_now(s);
    pthread_mutex_lock(&s->lock);
    charge(p);
    note_step(s, now - s->begun_us);
    trace_step(s, computed, now);
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; i < p->nparts; i++) {
        struct gen *g = p->part[i].g;
        if (!g || !g->finish) continue;
        if (next) follow_forget(next, g);
        gen_end(g, g->finish, &g->err);
    }
    note_adapters(s, false);
    s->begun_us = s->planned_us = now;
}

/* The step that is planned, and those that follow it. -1: the device failed; what was planned was not computed. */
static int step(struct sched *s)
{
    s->planned_us = sched_now(s);
    if (begin(s, s->plan)) return -1;
    for (struct plan *next;; s->plan = next) {
        atomic_store(&s->busy_since_us, clock_mono_us());
        if (follow(s, &next) || finish(s)) return -1;
        take(s, next);
        if (!next) return 0;
    }
}

/* Slots that others need more are given back, then pins are asked for, each without the lock. */
static void move_slots(struct sched *s)
{
    pthread_mutex_lock(&s->lock);
    struct gen *g = slots_drain(s);
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; i < s->nunpin; i++) lora_unpin(s->loras, s->unpin[i]);
    s->nunpin = 0;
    while (s->loras) {
        if (g) pins_ask(g);
        pthread_mutex_lock(&s->lock);
        g = slots_reserve_next(s);
        pthread_mutex_unlock(&s->lock);
        if (!g) break;
    }
    if (s->o.clock && s->o.clock->asked) s->o.clock->asked(s->o.clock->u);
}

/* The lock was given back since the last look, and who set these has called out already. */
static bool called_out(const struct sched *s)
{
    return s->stop || s->cancelled || s->failed.first;
}

/* A test's clock may have something to do instead; whatever came meanwhile must not be slept over. Called and returns with the lock held. */
static bool has_pastime(struct sched *s)
{
    const struct sched_clock *c = s->o.clock;
    uint64_t submitted = s->submitted, changes = s->lora_changes;
    if (!c || !c->idle) return false;
    pthread_mutex_unlock(&s->lock);
    bool again = c->idle(c->u);
    pthread_mutex_lock(&s->lock);
    return again || called_out(s) || s->submitted != submitted || s->lora_changes != changes;
}

static void sleep_until_woken(struct sched *s)
{
    if (called_out(s)) return;
    atomic_store(&s->busy_since_us, 0);
    if (has_pastime(s)) return;
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
        s->begun_us = sched_now(s);
        settle(s);
        if (s->stop) break;
        pthread_mutex_unlock(&s->lock);
        move_slots(s);
        spec_guess(s);
        pthread_mutex_lock(&s->lock);
        bool work = plan_make(s);
        note_gauges(s);
        if (work) {
            pthread_mutex_unlock(&s->lock);
            int rc = step(s);
            pthread_mutex_lock(&s->lock);
            if (rc) s->stop = true; /* nothing will be computed any more */
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
