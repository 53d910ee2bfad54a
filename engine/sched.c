/* sched: the scheduler's doors: start, submit, cancel, stop.
 *
 * A submitted request is checked, copied and put into its tenant's queue; its adapters are asked for as soon as may be (sched_slots.c). From there on it belongs to the step thread (sched_step.c), which
 * tells its events.
 *
 * Lock order: the scheduler's lock is a leaf but for the metrics' own. */
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "engine/meters.h"
#include "engine/sched_impl.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEVICE_THREADS 8 /* beside a device, where nobody says how many */
#define HANG_S 60

/* --- start and stop --- */

static int init_sync(struct sched *s, struct err *e)
{
    pthread_condattr_t a;
    if (pthread_condattr_init(&a)) return err_set(e, ERR_NO_MEMORY, "no memory for a condition");
    int rc = pthread_condattr_setclock(&a, CLOCK_MONOTONIC) || pthread_cond_init(&s->wake, &a) ||
             pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_destroy(&a);
    s->sync_ready = rc == 0;
    return rc ? err_set(e, ERR_NO_MEMORY, "no memory for a lock") : 0;
}

static void find_ends(struct sched *s)
{
    for (int id = 0; id < s->m->vocab && s->nends < SCHED_ENDS_MAX; id++)
        if (tokenizer_is_end(s->m->tok, id)) s->ends[s->nends++] = id;
}

/* Each device of a group has a thread that serves it; the others have but the rows to sample that no device chooses, and are
 * woken in each step. */
static int threads_of(const struct sched_options *o)
{
    struct device_about about;
    if (!o->device) return o->threads;
    device_about(o->device, &about);
    int cores = (int)sysconf(_SC_NPROCESSORS_ONLN), threads = o->threads;
    if (!threads) threads = cores < DEVICE_THREADS ? cores : DEVICE_THREADS;
    return threads < about.ranks ? about.ranks : threads;
}

static int init_compute(struct sched *s, struct err *e)
{
    const struct sched_options *o = &s->o;
    s->kernels = o->device ? device_kernels(o->device) : kernels_pick(o->kernels, s->m->prec);
    if (!s->kernels) return err_set(e, ERR_USAGE, "the kernels \"%s\" can't run on this processor", o->kernels);
    if (pool_new(&s->pool, threads_of(o), e)) return -1;
    int tokens = s->m->tokens > 0 ? s->m->tokens : s->m->vocab; /* what pads the embedding is never sampled */
    for (int i = 0; i < pool_threads(s->pool); i++) {
        s->sampler[i] = sampler_new(tokens);
        s->mask[i] = malloc((size_t)grammar_mask_words(s->m->vocab) * sizeof *s->mask[i]);
        if (!s->sampler[i] || !s->mask[i]) return err_set(e, ERR_NO_MEMORY, "no memory for sampling");
        sampler_set_row(s->sampler[i], s->m->vocab);
    }
    enum kv_type type = s->m->prec == PREC_FAST ? o->kv_type : KV_F32;
    if (o->kv_evict && !o->device) s->keep = kv_keep_of(s->m);
    int64_t bytes = o->kv_bytes;
    if (bytes <= 0 && s->keep.window) bytes = kv_pool_bytes(s->m, type, evict_most(s, s->m->max_context) * KV_PAGE, o->max_running);
    if (o->device ? kv_pool_init_on(&s->kv, s->m, type, o->plan, device_room(o->device, ROOM_KV), e)
                  : kv_pool_init_as(&s->kv, s->m, type, bytes, o->max_running, e))
        return -1;
    int rank = s->loras ? lora_rank_pad(lora_max_rank(s->loras)) : 1, logits = sched_logits(o);
    if (forward_new(&s->forward, s->m, s->kernels, s->pool, &s->kv.cache, o->step_tokens, logits, rank, e)) return -1;
    if (o->speculate && pasts_new(&s->pasts, e)) return -1;
    if (o->draft && o->speculate && draft_new(&s->draft, s, e)) return -1;
    if (o->medusa && o->speculate && guesser_new(&s->guesser, s, e)) return -1;
    s->plan = &s->turn[0];
    if (plan_init(&s->turn[0], o, e) || plan_init(&s->turn[1], o, e)) return -1;
    return tree_rooms_init(s->plan, o, s->m->max_context, e);
}

static void free_all(struct sched *s)
{
    for (int i = 0; i < 2; i++) plan_close(&s->turn[i]);
    guesser_free(s->guesser);
    draft_free(s->draft);
    pasts_free(s->pasts);
    forward_free(s->forward);
    kv_pool_close(&s->kv);
    for (int i = 0; i < POOL_THREADS_MAX; i++) {
        sampler_free(s->sampler[i]);
        free(s->mask[i]);
    }
    if (s->pool) pool_free(s->pool);
    tenants_free(s);
    if (s->sync_ready) {
        pthread_mutex_destroy(&s->lock);
        pthread_cond_destroy(&s->wake);
    }
    free(s->lora_running);
    free(s->lora_waiting);
    free(s);
}

static int check_options(const struct sched_options *o, struct err *e)
{
    if (o->max_running < 1 || o->max_running > 1024 || o->max_waiting < 1 || o->step_tokens < 1 ||
        o->step_tokens > 8192)
        return err_set(e, ERR_USAGE, "scheduler limits out of range: %d running, %d waiting, %d rows a step",
                       o->max_running, o->max_waiting, o->step_tokens);
    if (o->speculate < 0 || o->speculate > SPECULATE_MAX)
        return err_set(e, ERR_USAGE, "speculate is %d: 0 to %d tokens", o->speculate, SPECULATE_MAX);
    if (o->medusa && (o->device || o->draft))
        return err_set(e, ERR_USAGE, "Medusa heads go with %s: %s", o->device ? "the CPU" : "no draft model",
                       o->device ? "give --device cpu" : "give one of the two");
    if (o->medusa && (o->medusa_nodes < 1 || o->medusa_nodes > MEDUSA_NODES_MAX))
        return err_set(e, ERR_USAGE, "medusa_nodes is %d: 1 to %d", o->medusa_nodes, MEDUSA_NODES_MAX);
    return 0;
}

/* A device was timed when it started. */
static struct cost_speed speed_of(const struct sched_options *o)
{
    if (!o->device || !o->plan) return (struct cost_speed){0};
    const struct device_measured *m = &o->plan->measured;
    return (struct cost_speed){m->bytes_us, m->flops_us, m->step_us};
}

static bool is_busy(void *sched)
{
    return sched_busy(sched);
}

int sched_new(struct sched **out, const struct model *m, struct lora_set *loras, const struct sched_options *o,
              struct metrics *metrics, struct err *e)
{
    if (check_options(o, e)) return -1;
    struct sched *s = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_NO_MEMORY, "no memory for the scheduler");
    s->m = m;
    s->loras = loras;
    s->o = *o;
    s->metrics = metrics;
    s->next_deadline_us = INT64_MAX;
    double prior[COST_TERMS];
    struct cost_speed speed = speed_of(o);
    cost_prior(m, &speed, prior);
    cost_init(&s->cost, prior);
    s->o.step_tokens = sched_rows(o);
    if (!s->o.hang_s) s->o.hang_s = HANG_S;
    find_ends(s);
    if (init_sync(s, e) || init_compute(s, e)) goto fail;
    if (pthread_create(&s->thread, NULL, sched_thread, s)) {
        err_set(e, ERR_NO_MEMORY, "no thread for the steps");
        goto fail;
    }
    s->started = true;
    if (!o->device && kv_touch_begin(&s->toucher, &s->kv, is_busy, s, memory_available, e)) {
        sched_free(s);
        return -1;
    }
    log_info("scheduler_started", LS("kernels", s->kernels->name), LI("threads", pool_threads(s->pool)),
             LI("max_running", s->o.max_running), LI("max_waiting", s->o.max_waiting),
             LI("step_tokens", s->o.step_tokens), LI("prefix_cache", s->o.prefix_cache),
             LI("speculate", s->o.speculate), LI("workspace_bytes", (int64_t)workspace_of(s)));
    *out = s;
    return 0;
fail:
    free_all(s);
    return -1;
}

void sched_free(struct sched *s)
{
    if (!s) return;
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_broadcast(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    kv_touch_end(s->toucher);
    free_all(s);
}

size_t workspace_of(const struct sched *s)
{
    return s->o.device ? s->o.plan->workspace : forward_bytes(s->forward);
}

bool sched_busy(const struct sched *s)
{
    return atomic_load(&s->busy_since_us) != 0;
}

void sched_fail(struct sched *s, const char *why)
{
    if (atomic_exchange(&s->device_failed, true)) return;
    log_error("device_failed", LS("why", why));
    pthread_mutex_lock(&s->lock);
    s->stop = true; /* nothing will be computed any more */
    pthread_cond_broadcast(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

bool sched_failed(const struct sched *s)
{
    return atomic_load(&s->device_failed);
}

bool sched_alive(struct sched *s)
{
    if (sched_failed(s)) return false;
    int64_t since = atomic_load(&s->busy_since_us);
    return since == 0 ||
           clock_mono_us() - since < s->o.hang_s * 1000000LL; /* real time, also where a test simulates it */
}

int sched_rows(const struct sched_options *o)
{
    return o->step_tokens < o->max_running ? o->max_running : o->step_tokens; /* every sequence decodes in every step */
}

int sched_logits(const struct sched_options *o)
{
    return o->max_running + SCHED_EXTRA;
}

int sched_segments(const struct sched_options *o)
{
    return o->max_running * GEN_ADAPTERS;
}

/* --- submit --- */

int sched_submit(struct sched *s, const struct gen_request *r, struct gen **out, struct err *e)
{
    struct gen *g;
    if (gen_new(&g, s, r, e)) return -1;
    struct gen *ask = NULL; /* while it waits for its pins it is there; g may be gone once the lock is given back */
    pthread_mutex_lock(&s->lock);
    int rc = queue_enter(s, g, r->tenant, r->weight, e);
    if (rc == 0) {
        *out = g; /* before the step thread can tell of it */
        ask = slots_reserve_next(s);
        pthread_cond_broadcast(&s->wake); /* also for one that waits for its adapter: its deadline may be the next */
    }
    pthread_mutex_unlock(&s->lock);
    if (rc) {
        gen_free(g);
        return -1;
    }
    if (ask) pins_ask(ask);
    return 0;
}

void sched_cancel(struct sched *s, struct gen *g)
{
    pthread_mutex_lock(&s->lock);
    if (!g->cancel_asked) {
        g->cancel_asked = true;
        g->next_cancelled = s->cancelled;
        s->cancelled = g;
        pthread_cond_broadcast(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
}
