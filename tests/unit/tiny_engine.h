/* An engine without its HTTP face, for tests: the tiny model, adapters on disk, the set of adapters, the scheduler; and
 * replies that collect what the scheduler tells. All waits end after WAIT_S seconds with a failure. */
#pragma once
#include "base/clock.h"
#include "engine/lora.h"
#include "engine/lora_impl.h"
#include "engine/meters.h"
#include "engine/sched.h"
#include "tests/unit/tiny_gguf.h"
#include <pthread.h>
#include <time.h>

#define ADAPTERS 8
#define REPLY_MAX 256
#define WAIT_S 180 /* of a slow machine under ASan, too */

struct tiny_engine {
    char folder[64];
    struct model *m;
    struct metrics *metrics;
    struct lora_set *loras;
    struct sched *s;
    char digest[ADAPTERS][SHA256_HEX], dir[ADAPTERS][96];
};

/* Ranks and modules of the adapters a0 .. a7 that every folder holds. */
static const struct tiny_adapter tiny_adapters[ADAPTERS] = {
    {101, 1, 2, 0x7F}, {102, 4, 8, 0x7F},   {103, 16, 32, 0x05}, {104, 8, 8, 0x70},
    {105, 3, 6, 0x0F}, {106, 24, 24, 0x7F}, {107, 4, 4, 0x08},   {108, 12, 24, 0x05},
};

static pthread_mutex_t tiny_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t tiny_cond = PTHREAD_COND_INITIALIZER;

/* Wait for *flag to reach `want`; tiny_lock guards it. */
static inline void tiny_await(const int *flag, int want)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_S;
    pthread_mutex_lock(&tiny_lock);
    int rc = 0;
    while (*flag < want && rc == 0) rc = pthread_cond_timedwait(&tiny_cond, &tiny_lock, &until);
    pthread_mutex_unlock(&tiny_lock);
    if (rc) fail_msg("waited %d s for nothing", WAIT_S);
}

/* --- adapters --- */

struct outcome {
    int came;
    struct err err;
    struct lora_slot *slot;
    bool cold;
};

static inline void tiny_came(struct outcome *o, struct lora_slot *slot, bool cold, const struct err *e)
{
    pthread_mutex_lock(&tiny_lock);
    o->slot = slot;
    o->cold = cold;
    if (e) o->err = *e;
    o->came++;
    pthread_cond_broadcast(&tiny_cond);
    pthread_mutex_unlock(&tiny_lock);
}
static inline void tiny_on_done(void *u, const struct err *e)
{
    tiny_came(u, NULL, false, e);
}
static inline void tiny_on_pin(void *u, struct lora_slot *slot, bool cold, const struct err *e)
{
    tiny_came(u, slot, cold, e);
}

static inline enum err_code tiny_load(struct tiny_engine *t, int i)
{
    struct outcome o = {0};
    lora_load(t->loras, t->digest[i], t->dir[i], tiny_on_done, &o);
    tiny_await(&o.came, 1);
    return o.err.code;
}

static inline enum err_code tiny_unload(struct tiny_engine *t, int i)
{
    struct outcome o = {0};
    lora_unload(t->loras, t->digest[i], tiny_on_done, &o);
    tiny_await(&o.came, 1);
    return o.err.code;
}

static inline struct outcome tiny_pin(struct tiny_engine *t, int i)
{
    struct outcome o = {0};
    lora_pin(t->loras, t->digest[i], tiny_on_pin, &o);
    tiny_await(&o.came, 1);
    return o;
}

static inline int tiny_pins(struct tiny_engine *t)
{
    struct lora_info info[64];
    int sum = 0, n = lora_list(t->loras, info, 64);
    for (int i = 0; i < n; i++) sum += info[i].pins;
    return sum;
}

/* --- the engine --- */

/* Model file and adapters in a fresh folder, loaded; `lo` for the adapters' set; no scheduler yet. */
static inline void tiny_open(struct tiny_engine *t, enum tiny_type type, enum precision prec,
                             const struct lora_options *lo)
{
    char path[96], folder[64];
    struct err e = {0};
    struct lora_options o = *lo;
    memset(t, 0, sizeof *t);
    tiny_folder(folder);
    memcpy(t->folder, folder, sizeof folder);
    snprintf(path, sizeof path, "%s/model.gguf", folder);
    tiny_gguf(path, &(struct tiny){.seed = 77, .type = type});
    if (model_load(&t->m, path, "tiny", prec, 0, &e)) fail_msg("%s", e.msg);
    for (int i = 0; i < ADAPTERS; i++) {
        snprintf(t->dir[i], sizeof t->dir[i], "%s/a%d", folder, i);
        tiny_peft(t->dir[i], &tiny_adapters[i], &t->m->desc, t->digest[i]);
    }
    t->metrics = o.metrics = metrics_new(meter_rows, METERS);
    if (lora_set_new(&t->loras, t->m, &o, &e)) fail_msg("%s", e.msg);
}

static inline void tiny_start(struct tiny_engine *t, const struct sched_options *o)
{
    struct err e = {0};
    if (sched_new(&t->s, t->m, t->loras, o, t->metrics, &e)) fail_msg("%s", e.msg);
}

static inline void tiny_stop(struct tiny_engine *t)
{
    sched_free(t->s);
    t->s = NULL;
}

static inline void tiny_close(struct tiny_engine *t)
{
    sched_free(t->s);
    lora_set_free(t->loras);
    metrics_free(t->metrics);
    model_free(t->m);
    tiny_remove(t->folder);
}

/* --- requests --- */

struct reply {
    int done, n;
    int32_t ids[REPLY_MAX];
    struct sample last;
    char text[4096];
    size_t len;
    enum gen_finish finish;
    struct err err;
    char stop_reason[64];
    struct gen_counts counts;
    bool cold;
    struct gen_times times;
    struct gen *gen;
    int order; /* how many replies were done before */
    bool late; /* an event came after GEN_DONE, or a count was off */
};

static int tiny_done_count;

static inline void tiny_on_event(void *u, const struct gen_event *ev)
{
    struct reply *r = u;
    pthread_mutex_lock(&tiny_lock);
    if (r->done) r->late = true;
    if (ev->text_len && r->len + ev->text_len < sizeof r->text) {
        memcpy(r->text + r->len, ev->text, ev->text_len);
        r->len += ev->text_len;
    }
    if (ev->kind == GEN_TOKEN) {
        r->ids[r->n++] = ev->sample->id;
        r->last = *ev->sample;
        if (ev->counts.output != r->n) r->late = true;
    } else {
        r->finish = ev->finish;
        r->counts = ev->counts;
        r->cold = ev->cold;
        r->times = ev->times;
        if (ev->error) r->err = *ev->error;
        if (ev->stop_reason) snprintf(r->stop_reason, sizeof r->stop_reason, "%s", ev->stop_reason);
        r->order = tiny_done_count++;
        r->done = 1;
    }
    pthread_cond_broadcast(&tiny_cond);
    pthread_mutex_unlock(&tiny_lock);
}

/* A request for the adapter i (-1: the base) with a prompt of n tokens made from `seed`, greedy, to the length. */
struct ask {
    int adapter;
    uint64_t seed;
    int n, max;
    const char *tenant;
    double weight;
    int deadline_ms;
    struct gen_params p; /* max_tokens 0: `max`, greedy and ignore_eos */
};

static inline enum err_code tiny_submit(struct tiny_engine *t, const struct ask *a, struct reply *r)
{
    int32_t prompt[512];
    struct err e = {0};
    for (int i = 0; i < a->n; i++) prompt[i] = (int32_t)((tiny_uniform(a->seed, 90, 0, i) + 1) / 2 * 256);
    struct gen_request q = {.prompt = prompt,
                            .nprompt = a->n,
                            .digest = a->adapter >= 0 ? t->digest[a->adapter] : NULL,
                            .tenant = a->tenant ? a->tenant : "",
                            .weight = a->weight > 0 ? a->weight : 1,
                            .deadline_ms = a->deadline_ms,
                            .p = a->p,
                            .on_event = tiny_on_event,
                            .user = r};
    if (!q.p.max_tokens) {
        q.p.max_tokens = a->max;
        q.p.ignore_eos = true;
        q.p.sample = (struct sample_params){.top_p = 1, .logprobs = -1};
    }
    memset(r, 0, sizeof *r);
    sched_submit(t->s, &q, &r->gen, &e);
    return e.code;
}

static inline void tiny_finish(struct reply *r)
{
    tiny_await(&r->done, 1);
    assert_false(r->late);
}

static inline void tiny_ask(struct tiny_engine *t, const struct ask *a, struct reply *r)
{
    assert_int_equal(tiny_submit(t, a, r), ERR_NONE);
    tiny_finish(r);
}

/* Submits a request that has its place, and no token told, when this returns: with tiny_lock held no event gets through, so it runs until that
 * is given back, however late this thread is. */
static inline void tiny_hold(struct tiny_engine *t, const struct ask *a, struct reply *r)
{
    struct sched_state st = {0};
    pthread_mutex_lock(&tiny_lock);
    assert_int_equal(tiny_submit(t, a, r), ERR_NONE);
    for (int tries = 0; st.running == 0 && tries < WAIT_S * 10000; tries++) {
        usleep(100);
        sched_get_state(t->s, &st);
    }
    assert_int_equal(st.running, 1);
}

/* After everything: no pages, no pins, no rows. */
static inline void tiny_assert_idle(struct tiny_engine *t)
{
    struct sched_state st;
    sched_get_state(t->s, &st);
    assert_int_equal(st.pages_used, 0);
    assert_int_equal(st.running, 0);
    assert_int_equal(st.waiting, 0);
    assert_int_equal(st.ntenant, 0);
    assert_int_equal(tiny_pins(t), 0);
}
