/* Requests with all that tests of the scheduler ask for, on the tiny engine of tiny_engine.h: several adapters, salts, prompts that begin as
 * others do, log-probabilities of prompts. */
#pragma once
#include "tests/unit/tiny_engine.h"

#define PROMPT_MAX 256

/* Prompt: `shared` tokens made from `family`, then `own` tokens made from `seed`. */
struct want {
    uint64_t family, seed;
    int shared, own, max;
    int adapter[GEN_ADAPTERS]; /* index + 1; 0: none */
    float weight[GEN_ADAPTERS];
    const char *salt;
    bool no_cache, prompt_logprobs, stop_ids;
    float temperature;
    int min_tokens, logprobs; /* logprobs + 1; 0: none */
    const struct token_bias *bias;
    int nbias;
    struct grammar *grammar;
    const int32_t *prompt; /* instead of what is made */
    int nprompt;
};

struct told {
    struct reply r; /* first */
    int next;       /* of the prompt's tokens that come with GEN_PROMPT */
    int parts;
    struct sample prompt[PROMPT_MAX];
    float logprob[REPLY_MAX];
};

static inline void told_on_event(void *u, const struct gen_event *ev)
{
    struct told *t = u;
    if (ev->kind == GEN_PROMPT) {
        pthread_mutex_lock(&tiny_lock);
        if (t->next == 0) t->next = 1;
        if (ev->first != t->next || t->r.n > 0) t->r.late = true;
        for (int i = 0; i < ev->nsamples; i++) t->prompt[t->next++] = ev->samples[i];
        t->parts++;
        pthread_mutex_unlock(&tiny_lock);
        return;
    }
    if (ev->kind == GEN_TOKEN) t->logprob[t->r.n] = ev->sample->logprob;
    tiny_on_event(&t->r, ev);
}

static inline int want_prompt(const struct want *w, int32_t *out)
{
    if (w->prompt) {
        memcpy(out, w->prompt, (size_t)w->nprompt * sizeof *out);
        return w->nprompt;
    }
    for (int i = 0; i < w->shared; i++) out[i] = (int32_t)((tiny_uniform(w->family, 91, 0, i) + 1) / 2 * 256);
    for (int i = 0; i < w->own; i++) out[w->shared + i] = (int32_t)((tiny_uniform(w->seed, 92, 0, i) + 1) / 2 * 256);
    return w->shared + w->own;
}

static inline enum err_code want_submit(struct tiny_engine *t, const struct want *w, struct told *out)
{
    int32_t prompt[PROMPT_MAX];
    struct err e = {0};
    struct gen_request q = {.prompt = prompt,
                            .nprompt = want_prompt(w, prompt),
                            .tenant = w->seed % 2 ? "odd" : "even",
                            .weight = 1,
                            .salt = w->salt,
                            .no_prefix_cache = w->no_cache,
                            .prompt_logprobs = w->prompt_logprobs,
                            .grammar = w->grammar,
                            .on_event = told_on_event,
                            .user = out};
    while (q.nadapters < GEN_ADAPTERS && w->adapter[q.nadapters]) {
        int i = q.nadapters++;
        q.adapter[i].digest = t->digest[w->adapter[i] - 1];
        q.adapter[i].weight = w->weight[i] != 0 ? w->weight[i] : 1;
    }
    q.p = (struct gen_params){.max_tokens = w->max,
                              .min_tokens = w->min_tokens,
                              .ignore_eos = !w->min_tokens && !w->grammar,
                              .bias = w->bias,
                              .nbias = w->nbias,
                              .sample = {.temperature = w->temperature,
                                         .top_p = w->temperature > 0 ? 0.95f : 1,
                                         .seed = w->seed,
                                         .logprobs = w->logprobs - 1}};
    for (int i = 0; w->stop_ids && i < 3; i++)
        q.p.stop_id[q.p.nstop_id++] = (int32_t)(w->seed * 7 + (uint64_t)i * 31) % 256;
    memset(out, 0, sizeof *out);
    if (sched_submit(t->s, &q, &out->r.gen, &e)) out->r.err = e; /* else it is its events', and they may have come */
    return e.code;
}

static inline void want_ask(struct tiny_engine *t, const struct want *w, struct told *out)
{
    if (want_submit(t, w, out)) fail_msg("%s", out->r.err.msg);
    tiny_finish(&out->r);
    if (out->r.finish == FINISH_ERROR) fail_msg("%s", out->r.err.msg);
}

/* All at once. */
static inline void want_ask_all(struct tiny_engine *t, const struct want *w, struct told *out, int n)
{
    for (int i = 0; i < n; i++)
        if (want_submit(t, &w[i], &out[i])) fail_msg("%s", out[i].r.err.msg);
    for (int i = 0; i < n; i++) {
        tiny_finish(&out[i].r);
        if (out[i].r.finish == FINISH_ERROR) fail_msg("%s", out[i].r.err.msg);
    }
}

/* Bit-equal, not just the same tokens. */
static inline void assert_same_answer(const struct told *a, const struct told *b)
{
    assert_int_equal(a->r.finish, b->r.finish);
    assert_int_equal(a->r.n, b->r.n);
    assert_memory_equal(a->r.ids, b->r.ids, (size_t)a->r.n * sizeof *a->r.ids);
    assert_memory_equal(a->logprob, b->logprob, (size_t)a->r.n * sizeof *a->logprob);
    assert_int_equal(a->r.len, b->r.len);
    assert_memory_equal(a->r.text, b->r.text, a->r.len);
    assert_int_equal(a->next, b->next);
    for (int i = 1; i < a->next; i++) {
        assert_int_equal(a->prompt[i].id, b->prompt[i].id);
        assert_true(a->prompt[i].logprob == b->prompt[i].logprob);
        assert_int_equal(a->prompt[i].ntop, b->prompt[i].ntop);
    }
}

/* --- forty requests: base and all adapters, sums, salts, shared beginnings, sampled or not --- */

#define MIX 40

static inline struct want mix_of(int i)
{
    static const char *const salt[] = {NULL, "", "one", "another"};
    struct want w = {.family = 7000 + (uint64_t)(i % 3),
                     .seed = 800 + (uint64_t)i,
                     .shared = i % 3 * 40,
                     .own = 1 + i * 13 % 40,
                     .max = 6 + i % 4 * 9,
                     .salt = salt[i % 4],
                     .logprobs = i % 3,
                     .temperature = i % 4 == 3 ? 1 : 0,
                     .no_cache = i % 13 == 12,
                     .prompt_logprobs = i % 10 == 9,
                     .stop_ids = i % 7 == 6};
    w.adapter[0] = i % 4 == 0 ? 0 : 1 + i % 12 % ADAPTERS;
    if (i % 6 == 5 && w.adapter[0] && (i + 3) % 12 % ADAPTERS != i % 12 % ADAPTERS) {
        w.adapter[1] = 1 + (i + 3) % 12 % ADAPTERS;
        w.weight[0] = 0.5f;
        w.weight[1] = -0.25f;
    }
    if (w.prompt_logprobs && !w.logprobs) w.logprobs = 1;
    return w;
}

static struct want mix[MIX];
static struct told mix_alone[MIX], mix_now[MIX];

static inline void mix_ask_alone(struct tiny_engine *t)
{
    int cut = 0;
    for (int i = 0; i < MIX; i++) {
        mix[i] = mix_of(i);
        want_ask(t, &mix[i], &mix_alone[i]);
        cut += mix_alone[i].r.finish == FINISH_STOP;
    }
    assert_true(cut < MIX / 4);
}

static inline void mix_assert_same(struct tiny_engine *t)
{
    want_ask_all(t, mix, mix_now, MIX);
    for (int i = 0; i < MIX; i++) assert_same_answer(&mix_now[i], &mix_alone[i]);
    tiny_assert_idle(t);
}

static const struct lora_options many_slots = {
    .max_slots = ADAPTERS, .max_known = 16, .wait_ms = 20000, .max_rank = 64};

/* The tiny model in float32 with all adapters loaded, and a scheduler. */
static inline void open_all(struct tiny_engine *t, enum tiny_type type, enum precision prec,
                            const struct sched_options *o)
{
    tiny_open(t, type, prec, &many_slots);
    tiny_start(t, o);
    for (int i = 0; i < ADAPTERS; i++) assert_int_equal(tiny_load(t, i), ERR_NONE);
}

static inline int64_t pages_bytes(enum precision prec, int pages)
{
    return (int64_t)kv_page_bytes(kv_type_of(prec), tiny_dim.kv_heads, tiny_dim.head_dim) * tiny_dim.layers * pages;
}
