/* Tests of the whole numeric path against PEFT: tests/golden/demo.json holds what transformers and PEFT, in float32 on
 * the same dequantized weights, chose for 48 prompts with three adapters and without, and the five best
 * log-probabilities of each step.
 *
 * Teacher forcing: prompt and golden answer go through in one pass, and each row's best token is compared with the next
 * golden one. So one disagreement costs one token, and EXACT agreeing everywhere means that greedy answers are equal.
 * Then all prompts run at once through the scheduler, adapters mixed, and the answers themselves are compared.
 *
 * Needs the real model: run by ops/test, which fetches it and sets WEFT_MODEL. Under ASan every eighth case is taken.
 */
#include "base/log.h"
#include "engine/forward.h"
#include "engine/kv.h"
#include "engine/lora.h"
#include "engine/sched.h"
#include "tests/unit/pin_folder.h"
#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define CASES 48
#define ANSWER_MAX 40
#define ROWS_MAX 512
#define ADAPTERS 3
#if defined(__SANITIZE_ADDRESS__)
#define EVERY 8
#else
#define EVERY 1
#endif

static const char *const adapter_name[ADAPTERS] = {"triage", "sql", "pirate"};

struct golden {
    int adapter; /* -1: base */
    int nprompt, ntokens;
    int32_t ids[ROWS_MAX]; /* prompt, then answer */
    float gap;
    int32_t top[ANSWER_MAX][5];
    double lp[ANSWER_MAX][5];
};

static struct golden cases[CASES];
static int ncases;

/* --- the golden file --- */

static int read_ids(const json_t *a, int32_t *out)
{
    for (size_t i = 0; i < json_array_size(a); i++) out[i] = (int32_t)json_integer_value(json_array_get(a, i));
    return (int)json_array_size(a);
}

static void read_case(const json_t *j, struct golden *g)
{
    const char *name = json_string_value(json_object_get(j, "adapter"));
    g->adapter = -1;
    for (int i = 0; name && i < ADAPTERS; i++)
        if (strcmp(name, adapter_name[i]) == 0) g->adapter = i;
    assert_true(!name || g->adapter >= 0);
    assert_true(json_array_size(json_object_get(j, "prompt_ids")) + ANSWER_MAX < ROWS_MAX);
    g->nprompt = read_ids(json_object_get(j, "prompt_ids"), g->ids);
    g->ntokens = read_ids(json_object_get(j, "tokens"), g->ids + g->nprompt);
    g->gap = (float)json_number_value(json_object_get(j, "min_gap"));
    const json_t *top = json_object_get(j, "top5");
    assert_int_equal(json_array_size(top), g->ntokens);
    for (int t = 0; t < g->ntokens; t++)
        for (size_t i = 0; i < 5; i++) {
            const json_t *pair = json_array_get(json_array_get(top, (size_t)t), i);
            g->top[t][i] = (int32_t)json_integer_value(json_array_get(pair, 0));
            g->lp[t][i] = json_number_value(json_array_get(pair, 1));
        }
}

static int read_golden(void **state)
{
    (void)state;
    json_error_t why;
    json_t *j = json_load_file("tests/golden/demo.json", 0, &why);
    if (!j) {
        fprintf(stderr, "tests/golden/demo.json: %s\n", why.text);
        return -1;
    }
    const json_t *list = json_object_get(j, "cases");
    assert_int_equal(json_array_size(list), CASES);
    for (size_t i = 0; i < CASES; i += EVERY) read_case(json_array_get(list, i), &cases[ncases++]);
    json_decref(j);
    if (EVERY > 1) printf("under ASan: every %dth of %d cases\n", EVERY, CASES);
    return 0;
}

/* --- an engine without its HTTP face --- */

struct engine {
    struct model *m;
    struct lora_set *loras;
    char digest[ADAPTERS][SHA256_HEX];
    struct lora_slot *slot[ADAPTERS];
};

static void engine_close(struct engine *e)
{
    lora_set_free(e->loras);
    model_free(e->m);
}

static void load_adapter(struct engine *e, int i)
{
    char rel[64];
    struct err err = {0};
    snprintf(rel, sizeof rel, "ops/demo/%s", adapter_name[i]);
    char *dir = realpath(rel, NULL);
    assert_non_null(dir);
    if (pin_folder(e->loras, &e->m->desc, dir, e->digest[i], &e->slot[i], &err)) fail_msg("%s", err.msg);
    free(dir);
}

static void engine_open(struct engine *e, enum precision prec)
{
    const char *path = getenv("WEFT_MODEL");
    struct err err = {0};
    memset(e, 0, sizeof *e);
    if (!path) fail_msg("WEFT_MODEL is not set: run this through ops/test, which fetches the model");
    if (model_load(&e->m, path, NULL, prec, 2048, &err)) fail_msg("%s", err.msg);
    const struct lora_options o = {.max_slots = ADAPTERS, .max_known = 8, .wait_ms = 1000, .max_rank = 64};
    if (lora_set_new(&e->loras, e->m, &o, &err)) fail_msg("%s", err.msg);
    for (int i = 0; i < ADAPTERS; i++) load_adapter(e, i);
}

static void unpin_all(struct engine *e)
{
    for (int i = 0; i < ADAPTERS; i++) lora_unpin(e->loras, e->slot[i]);
}

/* --- teacher forcing --- */

struct score {
    int tokens, agree, close;
    double kl, worst; /* sum over steps; largest difference of a log-probability among the five */
};

static void score_row(const struct golden *g, int t, const float *logits, int vocab, struct score *s)
{
    int best = 0;
    double max, sum = 0, kl = 0;
    for (int i = 1; i < vocab; i++)
        if (logits[i] > logits[best]) best = i;
    max = (double)logits[best];
    for (int i = 0; i < vocab; i++) sum += exp((double)logits[i] - max);
    for (int i = 0; i < 5; i++) {
        double q = (double)logits[g->top[t][i]] - max - log(sum), d = g->lp[t][i] - q;
        kl += exp(g->lp[t][i]) * d;
        if (fabs(d) > s->worst) s->worst = fabs(d);
    }
    s->kl += kl;
    s->tokens++;
    s->agree += best == g->ids[g->nprompt + t];
}

struct runner {
    struct pool *pool;
    struct kv_pool kv;
    struct forward *f;
};

static void run_case(struct engine *e, struct runner *r, const struct golden *g, struct score *s)
{
    struct err err = {0};
    struct kv_seq seq;
    int rows = g->nprompt + g->ntokens - 1, wanted[ANSWER_MAX];
    assert_int_equal(kv_seq_init(&seq, rows, &err), 0);
    assert_true(kv_seq_reserve(&r->kv, &seq, rows));
    for (int t = 0; t < g->ntokens; t++) wanted[t] = g->nprompt - 1 + t;
    const struct attn_seq at = {.rows = rows, .page = seq.page};
    struct lora_seg seg = {.rows = rows};
    struct forward_batch b = {
        .rows = rows, .token = g->ids, .nseq = 1, .seq = &at, .nlogits = g->ntokens, .logit_row = wanted};
    if (g->adapter >= 0) {
        seg.nuse = 1;
        seg.use[0] = (struct lora_use){&e->slot[g->adapter]->table, 1};
        b.lora = (struct lora_batch){.nseg = 1, .seg = &seg, .modules = LORA_MODULES};
        b.max_rank = e->slot[g->adapter]->max_rank;
    }
    const float *logits = forward_run(r->f, &b);
    for (int t = 0; t < g->ntokens; t++) score_row(g, t, logits + (size_t)t * (size_t)e->m->vocab, e->m->vocab, s);
    kv_seq_release(&r->kv, &seq);
    kv_seq_close(&seq);
}

static struct score teacher_force(enum precision prec, enum kv_type type)
{
    struct engine e;
    struct runner r = {0};
    struct score s = {0};
    struct err err = {0};
    engine_open(&e, prec);
    if (pool_new(&r.pool, 0, &err) || kv_pool_init_as(&r.kv, e.m, type, 0, 1, &err)) fail_msg("%s", err.msg);
    const struct kernels *k = kernels_pick(getenv("WEFT_KERNELS"), prec);
    assert_non_null(k);
    if (forward_new(&r.f, e.m, k, r.pool, &r.kv.cache, ROWS_MAX, ANSWER_MAX, 64, &err)) fail_msg("%s", err.msg);
    for (int i = 0; i < ncases; i++) {
        struct score before = s;
        run_case(&e, &r, &cases[i], &s);
        if (s.agree - before.agree < s.tokens - before.tokens)
            printf("  case %d: %d of %d agree (smallest gap %.5f)\n", i * EVERY, s.agree - before.agree,
                   s.tokens - before.tokens, (double)cases[i].gap);
    }
    printf("%s%s, %s: %d of %d tokens agree (%.2f %%), KL over the five best %.2e, largest difference %.2e\n",
           prec == PREC_EXACT ? "exact" : "fast", type == KV_INT8 ? " with int8 keys and values" : "", k->name, s.agree, s.tokens, 100.0 * s.agree / s.tokens,
           s.kl / s.tokens, s.worst);
    forward_free(r.f);
    kv_pool_close(&r.kv);
    pool_free(r.pool);
    unpin_all(&e);
    engine_close(&e);
    return s;
}

static void test_exact_agrees_with_peft_on_every_token(void **state)
{
    (void)state;
    struct score s = teacher_force(PREC_EXACT, KV_F32);
    assert_int_equal(s.agree, s.tokens);
    assert_true(fabs(s.kl / s.tokens) < 1e-5);
}

static void test_fast_agrees_with_peft_on_97_percent_of_tokens(void **state)
{
    (void)state;
    struct score s = teacher_force(PREC_FAST, KV_BF16);
    assert_true(s.agree * 100 >= s.tokens * 97);
}

static void test_int8_keys_and_values_agree_with_peft_on_96_percent_of_tokens(void **state)
{
    (void)state;
    struct score s = teacher_force(PREC_FAST, KV_INT8);
    assert_true(s.agree * 100 >= s.tokens * 96);
}

/* --- all at once through the scheduler --- */

struct answer {
    pthread_mutex_t *lock;
    pthread_cond_t *cond;
    int *left;
    int32_t ids[ANSWER_MAX];
    int n;
    enum gen_finish finish;
};

static void on_event(void *u, const struct gen_event *ev)
{
    struct answer *a = u;
    if (ev->kind == GEN_TOKEN) {
        a->ids[a->n++] = ev->sample->id;
        return;
    }
    a->finish = ev->finish;
    pthread_mutex_lock(a->lock);
    if (--*a->left == 0) pthread_cond_signal(a->cond);
    pthread_mutex_unlock(a->lock);
}

static void submit_case(struct engine *e, struct sched *s, const struct golden *g, struct answer *a)
{
    struct err err = {0};
    struct gen *gen;
    const struct gen_request r = {.prompt = g->ids,
                                  .nprompt = g->nprompt,
                                  .weight = 1,
                                  .on_event = on_event,
                                  .user = a,
                                  .tenant = "golden",
                                  .digest = g->adapter >= 0 ? e->digest[g->adapter] : NULL,
                                  .p = {.max_tokens = ANSWER_MAX, .sample = {.top_p = 1, .logprobs = -1}}};
    if (sched_submit(s, &r, &gen, &err)) fail_msg("%s", err.msg);
}

/* Returns how many answers are equal. */
static int crowd(enum precision prec, struct sched_options o)
{
    static struct answer a[CASES];
    struct engine e;
    struct sched *s;
    struct err err = {0};
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
    int left = ncases, equal = 0, tokens = 0;
    struct timespec t0, t1;
    engine_open(&e, prec);
    unpin_all(&e);
    o.max_waiting = 64;
    o.step_tokens = 128;
    o.kernels = getenv("WEFT_KERNELS");
    if (sched_new(&s, e.m, e.loras, &o, NULL, &err)) fail_msg("%s", err.msg);
    clock_gettime(CLOCK_MONOTONIC, &t0);
    for (int i = 0; i < ncases; i++) {
        a[i] = (struct answer){.lock = &lock, .cond = &cond, .left = &left};
        submit_case(&e, s, &cases[i], &a[i]);
    }
    pthread_mutex_lock(&lock);
    while (left) pthread_cond_wait(&cond, &lock);
    pthread_mutex_unlock(&lock);
    clock_gettime(CLOCK_MONOTONIC, &t1);
    struct sched_state st;
    sched_get_state(s, &st);
    sched_free(s);
    for (int i = 0; i < ncases; i++) {
        const struct golden *g = &cases[i];
        bool same =
            a[i].n == g->ntokens && memcmp(a[i].ids, g->ids + g->nprompt, (size_t)a[i].n * sizeof *a[i].ids) == 0;
        equal += same;
        tokens += a[i].n;
    }
    double sec = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) / 1e9;
    printf("%s: %d of %d answers equal; %d tokens in %.2f s (%.0f/s with prompts); %llu of %llu guesses right, %llu "
           "prompt "
           "tokens cached\n",
           prec == PREC_EXACT ? "exact" : "fast", equal, ncases, tokens, sec, tokens / sec,
           (unsigned long long)st.accepted, (unsigned long long)st.drafted, (unsigned long long)st.prefix_hits);
    engine_close(&e);
    return equal;
}

static void test_exact_answers_in_a_mixed_crowd_equal_pefts(void **state)
{
    (void)state;
    assert_int_equal(crowd(PREC_EXACT, (struct sched_options){.max_running = 16}), ncases);
}

static void test_exact_answers_with_guesses_and_cached_prefixes_equal_pefts(void **state)
{
    (void)state;
    assert_int_equal(crowd(PREC_EXACT, (struct sched_options){.max_running = 2, .speculate = 8, .prefix_cache = true}),
                     ncases);
}

static void test_fast_answers_in_a_mixed_crowd_mostly_equal_pefts(void **state)
{
    (void)state;
    int equal = crowd(
        PREC_FAST,
        (struct sched_options){
            .max_running = 16}); /* one token that differs changes the rest of a greedy answer: no sharp bound here */
    assert_true(equal * 2 >= ncases);
}

int main(void)
{
    log_init("test", LOG_WARN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact_agrees_with_peft_on_every_token),
        cmocka_unit_test(test_fast_agrees_with_peft_on_97_percent_of_tokens),
        cmocka_unit_test(test_int8_keys_and_values_agree_with_peft_on_96_percent_of_tokens),
        cmocka_unit_test(test_exact_answers_in_a_mixed_crowd_equal_pefts),
        cmocka_unit_test(test_exact_answers_with_guesses_and_cached_prefixes_equal_pefts),
        cmocka_unit_test(test_fast_answers_in_a_mixed_crowd_mostly_equal_pefts),
    };
    return cmocka_run_group_tests(tests, read_golden, NULL);
}
