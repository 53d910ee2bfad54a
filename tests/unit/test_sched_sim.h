/* The scheduler in simulated time: the tiny model computes as ever, but what a step takes is what a formula says, and requests arrive by a
 * table. So who waits how long is the same in each run, on any machine. Loads of adapters take no simulated time. */
#pragma once
#include "engine/sched_impl.h"
#include "tests/unit/tiny_engine.h"
#include <stdatomic.h>

#define SIM_MAX 2048
#define SIM_START 1000000
#define SIM_STEPS 65536

/* A request of the table and what became of it. */
struct sim_request {
    /* asked */
    int64_t at_us; /* from the start */
    const char *tenant;
    double weight; /* 0: 1 */
    enum sched_class class;
    int adapter; /* index + 1; 0: the base */
    int prompt, output, deadline_ms;
    uint64_t seed;
    int then; /* > 0: so many more like it follow, each when the one before is over */
    /* came */
    bool submitted, done;
    struct err err;
    enum gen_finish finish;
    int64_t sent_us, first_us, done_us;
    int tokens, cached;
    int32_t ids[REPLY_MAX];
};

struct sim_step {
    int64_t took_us;
    struct step_shape shape;
};

static struct sim {
    struct tiny_engine t;
    struct sched_clock clock;
    _Atomic int64_t now;
    atomic_bool begun;     /* sim.t.s is known */
    double us[COST_TERMS]; /* what steps take, as the model of sched_cost.h says it */
    double prior; /* > 0: the scheduler believes so many times that at first, else what goes with a tiny model */
    struct sim_request q[SIM_MAX];
    int n, next, left;
    int over; /* flag: all is done */
    struct sim_step step[SIM_STEPS];
    int steps;
    void (*each)(void); /* after each step, or NULL */
} sim;

static int64_t sim_now(void *u)
{
    (void)u;
    return atomic_load(&sim.now);
}

static void sim_finish_one(struct sim_request *q);

static void sim_event(void *u, const struct gen_event *ev)
{
    struct sim_request *q = u;
    if (ev->kind == GEN_TOKEN) {
        if (!q->first_us) q->first_us = sim_now(NULL);
        if (q->tokens < REPLY_MAX) q->ids[q->tokens] = ev->sample->id;
        q->tokens++;
    }
    if (ev->kind != GEN_DONE) return;
    q->finish = ev->finish;
    q->cached = ev->counts.cached;
    if (ev->error) q->err = *ev->error;
    sim_finish_one(q);
}

static void sim_send(struct sim_request *q)
{
    static int32_t prompt[16384];
    struct gen *g;
    for (int i = 0; i < q->prompt; i++) prompt[i] = (int32_t)((tiny_uniform(q->seed, 91, 0, i) + 1) / 2 * 256);
    struct gen_request r = {.prompt = prompt,
                            .nprompt = q->prompt,
                            .digest = q->adapter ? sim.t.digest[q->adapter - 1] : NULL,
                            .tenant = q->tenant ? q->tenant : "",
                            .weight = q->weight > 0 ? q->weight : 1,
                            .class = q->class,
                            .deadline_ms = q->deadline_ms,
                            .p = {.max_tokens = q->output, .ignore_eos = true, .sample = {.top_p = 1, .logprobs = -1}},
                            .on_event = sim_event,
                            .user = q};
    snprintf(r.id, sizeof r.id, "q%d", (int)(q - sim.q));
    q->submitted = true;
    q->sent_us = sim_now(NULL);
    if (sched_submit(sim.t.s, &r, &g, &q->err)) sim_finish_one(q);
}

static void sim_finish_one(struct sim_request *q)
{
    q->done = true;
    q->done_us = sim_now(NULL);
    if (q->then > 0) {
        struct sim_request *after = &sim.q[sim.n++];
        *after = (struct sim_request){.tenant = q->tenant,
                                      .weight = q->weight,
                                      .class = q->class,
                                      .adapter = q->adapter,
                                      .prompt = q->prompt,
                                      .output = q->output,
                                      .seed = q->seed + 7919,
                                      .then = q->then - 1};
        sim.left++;
        sim_send(after);
    }
    if (--sim.left > 0) return;
    pthread_mutex_lock(&tiny_lock);
    sim.over = 1;
    pthread_cond_broadcast(&tiny_cond);
    pthread_mutex_unlock(&tiny_lock);
}

/* Loads take real time: what was asked for is there before the next thing happens. */
static void sim_await_loads(void)
{
    struct sched_state st;
    if (!atomic_load(&sim.begun)) return;
    for (int tries = 0; tries < WAIT_S * 10000; tries++) {
        sched_get_state(sim.t.s, &st);
        if (st.pinning == 0) return;
        usleep(100);
    }
}

static void sim_asked(void *u)
{
    (void)u;
    sim_await_loads();
}

/* The table's requests are in order of time. */
static bool sim_arrivals(int n)
{
    bool any = false;
    for (; sim.next < n && SIM_START + sim.q[sim.next].at_us <= sim_now(NULL); sim.next++, any = true) {
        sim_send(&sim.q[sim.next]);
        sim_await_loads();
    }
    return any;
}

static int sim_table; /* requests of the table; what follows them stands behind */

static double sim_cost(const struct step_shape *w)
{
    return sim.us[COST_STEP] + sim.us[COST_DECODE_ROW] * w->decode_rows + sim.us[COST_PREFILL_ROW] * w->prefill_rows +
           sim.us[COST_DECODE_CONTEXT] * w->decode_context + sim.us[COST_PREFILL_CONTEXT] * w->prefill_context +
           sim.us[COST_RANK] * w->ranks + sim.us[COST_RANK_ROW] * w->rank_rows;
}

static void sim_computed(void *u, const struct step_shape *w)
{
    (void)u;
    int64_t took = (int64_t)sim_cost(w);
    atomic_fetch_add(&sim.now, took);
    if (sim.steps < SIM_STEPS) sim.step[sim.steps++] = (struct sim_step){took, *w};
    sim_arrivals(sim_table);
    sim_await_loads();
    if (sim.each) sim.each();
}

/* An adapter may just have come: time stands still until those who wait have had a chance to go on. */
static bool sim_somebody_waits(void)
{
    static int tries;
    struct sched_state st;
    sched_get_state(sim.t.s, &st);
    if (st.waiting == 0 || tries > 5000) return tries = 0, false;
    tries++;
    usleep(100);
    return true;
}

static bool sim_idle(void *u)
{
    (void)u;
    if (!atomic_load(&sim.begun)) return false;
    if (sim_somebody_waits()) return true;
    if (sim.next >= sim_table) return false;
    int64_t at = SIM_START + sim.q[sim.next].at_us;
    if (at > sim_now(NULL)) atomic_store(&sim.now, at);
    bool any = sim_arrivals(sim_table);
    sim_await_loads();
    return any;
}

/* A fresh engine; its steps take 10 ms, 0.5 ms per row of a prompt, 0.1 ms per row that decodes. `context`: of the model. */
static inline void sim_open(int slots, int context)
{
    struct lora_options lo = {.max_slots = slots, .max_known = 16, .wait_ms = 20000, .max_rank = 64};
    char path[96];
    struct err e = {0};
    memset(&sim, 0, sizeof sim);
    tiny_open(&sim.t, TINY_F32, PREC_EXACT, &lo);
    if (context > tiny_dim.context) {
        lora_set_free(sim.t.loras);
        model_free(sim.t.m);
        snprintf(path, sizeof path, "%s/model.gguf", sim.t.folder);
        tiny_gguf(path, &(struct tiny){.seed = 77, .type = TINY_F32, .key = "context_length", .value = context});
        if (model_load(&sim.t.m, path, "tiny", PREC_EXACT, 0, &e)) fail_msg("%s", e.msg);
        for (int i = 0; i < ADAPTERS; i++) { /* their digests depend on the base */
            snprintf(path, sizeof path, "%s/b%d", sim.t.folder, i);
            memcpy(sim.t.dir[i], path, sizeof path);
            tiny_peft(sim.t.dir[i], &tiny_adapters[i], &sim.t.m->desc, sim.t.digest[i]);
        }
        if (lora_set_new(&sim.t.loras, sim.t.m, &lo, &e)) fail_msg("%s", e.msg);
    }
    sim.us[COST_STEP] = 10000;
    sim.us[COST_PREFILL_ROW] = 500;
    sim.us[COST_DECODE_ROW] = 100;
    atomic_store(&sim.now, SIM_START);
    sim.clock = (struct sched_clock){.now_us = sim_now, .computed = sim_computed, .asked = sim_asked, .idle = sim_idle};
    for (int i = 0; slots >= 1 && i < ADAPTERS; i++) assert_int_equal(tiny_load(&sim.t, i), ERR_NONE);
}

static inline struct sim_request *sim_add(const struct sim_request *q)
{
    assert_true(sim.n < SIM_MAX);
    sim.q[sim.n] = *q;
    return &sim.q[sim.n++];
}

static int sim_by_time(const void *x, const void *y)
{
    const struct sim_request *a = x, *b = y;
    return a->at_us < b->at_us ? -1 : a->at_us > b->at_us ? 1 : a->seed < b->seed ? -1 : a->seed > b->seed;
}

static inline void sim_believe(struct sched *s)
{
    double prior[COST_TERMS];
    for (int i = 0; i < COST_TERMS; i++) prior[i] = fmax(sim.prior * sim.us[i], 1e-3);
    pthread_mutex_lock(&s->lock);
    cost_init(&s->cost, prior);
    pthread_mutex_unlock(&s->lock);
}

/* Runs the table to its end. Pointers into it are void if it wasn't added in order of time. */
static inline void sim_run(const struct sched_options *o)
{
    struct sched_options with = *o;
    qsort(sim.q, (size_t)sim.n, sizeof *sim.q, sim_by_time);
    sim_table = sim.left = sim.n;
    with.clock = &sim.clock;
    struct err e = {0};
    struct sched *s;
    if (sched_new(&s, sim.t.m, sim.t.loras, &with, sim.t.metrics, &e)) fail_msg("%s", e.msg);
    sim.t.s = s; /* the step thread sleeps meanwhile */
    usleep(1000);
    if (sim.prior > 0) sim_believe(s);
    struct sim_request *first = &sim.q[sim.next++];
    if (SIM_START + first->at_us > sim_now(NULL)) atomic_store(&sim.now, SIM_START + first->at_us);
    atomic_store(&sim.begun, true);
    sim_send(first); /* wakes it */
    tiny_await(&sim.over, 1);
}

/* Again, with the table that was run; its outcome is lost. */
static inline void sim_close(void)
{
    tiny_assert_idle(&sim.t);
    tiny_close(&sim.t);
}

static int sim_by_value(const void *x, const void *y)
{
    int64_t a = *(const int64_t *)x, b = *(const int64_t *)y;
    return a < b ? -1 : a > b;
}

/* Of the first tokens of a tenant's requests, us. */
static inline int64_t sim_ttft(const char *tenant, double quantile)
{
    static int64_t wait[SIM_MAX];
    int n = 0;
    for (int i = 0; i < sim.n; i++)
        if (strcmp(sim.q[i].tenant, tenant) == 0 && sim.q[i].first_us) wait[n++] = sim.q[i].first_us - sim.q[i].sent_us;
    if (n == 0) fail_msg("no request of %s was answered", tenant);
    qsort(wait, (size_t)n, sizeof *wait, sim_by_value);
    int at = (int)(quantile * n);
    return wait[at < n ? at : n - 1];
}
