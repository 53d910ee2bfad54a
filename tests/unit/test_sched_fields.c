/* Tests of what a request may ask for: sums of adapters, biases, log-probabilities of its prompt. */
#include "base/log.h"
#include "tests/unit/test_sched.h"

static struct tiny_engine t;

static const struct sched_options roomy = {.max_running = 16, .max_waiting = 256, .step_tokens = 64, .threads = 2};

/* --- sums of adapters --- */

static void test_one_adapter_of_weight_one_is_the_adapter(void **state)
{
    (void)state;
    static struct told a, both;
    static struct reply r;
    int32_t prompt[PROMPT_MAX];
    open_all(&t, TINY_F32, PREC_EXACT, &roomy);
    const struct want w = {.seed = 2, .own = 30, .max = 20, .adapter = {3}};
    want_ask(&t, &w, &a);
    struct gen_request q = {.prompt = prompt,
                            .nprompt = want_prompt(&w, prompt),
                            .digest = t.digest[2],
                            .tenant = "",
                            .weight = 1,
                            .p = {.max_tokens = 20, .ignore_eos = true, .sample = {.top_p = 1, .logprobs = -1}},
                            .on_event = tiny_on_event,
                            .user = &r};
    struct err e = {0};
    assert_int_equal(sched_submit(t.s, &q, &r.gen, &e), 0);
    tiny_finish(&r);
    assert_memory_equal(r.ids, a.r.ids, 20 * sizeof *r.ids);
    struct want s = w;
    s.adapter[1] = 5;
    want_ask(&t, &s, &both);
    assert_memory_not_equal(both.r.ids, a.r.ids, 20 * sizeof *r.ids);
    s.weight[0] = 1;
    s.weight[1] = 1e-30f; /* as good as not there */
    want_ask(&t, &s, &both);
    assert_memory_equal(both.r.ids, a.r.ids, 20 * sizeof *r.ids);
    tiny_assert_idle(&t);
    tiny_close(&t);
}

static void test_sums_that_can_not_be_served_are_refused(void **state)
{
    (void)state;
    static const struct {
        struct want w;
        enum err_code at_once, later;
    } row[] = {
        {{.adapter = {1, 1}}, ERR_INVALID, ERR_NONE},
        {{.adapter = {1, 2, 1}}, ERR_INVALID, ERR_NONE},
        {{.adapter = {1}, .weight = {NAN}}, ERR_INVALID, ERR_NONE},
        {{.adapter = {1}, .weight = {INFINITY}}, ERR_INVALID, ERR_NONE},
        {{.adapter = {1}, .weight = {-101}}, ERR_INVALID, ERR_NONE},
        {{.adapter = {1, 2}, .weight = {-100, 100}}, ERR_NONE, ERR_NONE},
        {{.adapter = {1, 2, 4, 7}}, ERR_NONE, ERR_NONE},    /* ranks 1, 4, 8, 4: four times 16 */
        {{.adapter = {1, 2, 4, 6}}, ERR_NONE, ERR_INVALID}, /* 24 takes 32: 80 of 64 */
        {{.adapter = {8}}, ERR_NONE, ERR_NONE},
        {{.adapter = {8, 1}}, ERR_NONE, ERR_INVALID}, /* made to have DoRA below */
        {{.adapter = {8}, .weight = {0.5f}}, ERR_NONE, ERR_INVALID},
    };
    static struct told a;
    open_all(&t, TINY_F32, PREC_EXACT, &roomy);
    struct outcome p = tiny_pin(&t, 7);
    p.slot->table.alone = true;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct want w = row[i].w;
        w.own = w.max = 5;
        enum err_code code = want_submit(&t, &w, &a);
        if (code != row[i].at_once) fail_msg("row %zu: %s", i, a.r.err.msg);
        if (code) continue;
        tiny_finish(&a.r);
        if (a.r.err.code != row[i].later) fail_msg("row %zu: %s", i, a.r.err.msg);
    }
    p.slot->table.alone = false;
    lora_unpin(t.loras, p.slot);
    struct gen_request q = {
        .prompt = (const int32_t[]){1}, .nprompt = 1, .nadapters = GEN_ADAPTERS + 1, .p.max_tokens = 1};
    struct err e = {0};
    struct gen *g;
    assert_int_equal(sched_submit(t.s, &q, &g, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    tiny_assert_idle(&t);
    tiny_close(&t);
}

static void test_an_unknown_adapter_in_a_sum_is_refused(void **state)
{
    (void)state;
    static struct told a;
    tiny_open(&t, TINY_F32, PREC_EXACT, &many_slots);
    tiny_start(&t, &roomy);
    assert_int_equal(tiny_load(&t, 0), ERR_NONE);
    const struct want w = {.own = 3, .max = 3, .adapter = {1, 2}};
    assert_int_equal(want_submit(&t, &w, &a), ERR_ADAPTER_NOT_LOADED);
    tiny_assert_idle(&t);
    tiny_close(&t);
}

/* Two that each held one of two slots would wait for each other. */
static void test_sums_that_need_all_slots_do_not_block_each_other(void **state)
{
    (void)state;
    static struct told a[60];
    tiny_open(&t, TINY_F32, PREC_EXACT,
              &(struct lora_options){.max_slots = 2, .max_known = 16, .wait_ms = 20000, .max_rank = 64});
    tiny_start(&t, &roomy);
    for (int i = 0; i < ADAPTERS; i++) assert_int_equal(tiny_load(&t, i), ERR_NONE);
    for (int i = 0; i < 60; i++) {
        struct want w = {.seed = (uint64_t)i, .own = 9, .max = 6, .adapter = {1 + i % 5}};
        if (i % 3) w.adapter[1] = 1 + (i + 1 + i % 2) % 5;
        assert_int_equal(want_submit(&t, &w, &a[i]), ERR_NONE);
    }
    for (int i = 0; i < 60; i++) {
        if (i % 7 != 6) continue;
        pthread_mutex_lock(&tiny_lock);
        if (!a[i].r.done) sched_cancel(t.s, a[i].r.gen);
        pthread_mutex_unlock(&tiny_lock);
    }
    for (int i = 0; i < 60; i++) {
        tiny_finish(&a[i].r);
        if (a[i].r.finish == FINISH_ERROR) fail_msg("%d: %s", i, a[i].r.err.msg);
    }
    tiny_assert_idle(&t);
    struct want w = {.own = 3, .max = 3, .adapter = {1, 2, 3}};
    assert_int_equal(want_submit(&t, &w, &a[0]), ERR_INVALID);
    tiny_close(&t);
}

static void test_stopping_tells_sums_that_wait_for_their_turn(void **state)
{
    (void)state;
    static struct told a[12];
    tiny_open(&t, TINY_F32, PREC_EXACT,
              &(struct lora_options){.max_slots = 2, .max_known = 16, .wait_ms = 300, .max_rank = 64});
    tiny_start(&t, &roomy);
    for (int i = 0; i < 4; i++) assert_int_equal(tiny_load(&t, i), ERR_NONE);
    for (int i = 0; i < 12; i++) {
        const struct want w = {.seed = (uint64_t)i, .own = 5, .max = 200, .adapter = {1 + i % 4, 1 + (i + 1) % 4}};
        assert_int_equal(want_submit(&t, &w, &a[i]), ERR_NONE);
    }
    tiny_await(&a[0].r.n, 1);
    tiny_stop(&t);
    for (int i = 0; i < 12; i++) {
        assert_int_equal(a[i].r.done, 1);
        assert_false(a[i].r.late);
    }
    assert_int_equal(tiny_pins(&t), 0);
    tiny_close(&t);
}

/* --- biases --- */

static void test_a_bias_makes_and_forbids_tokens(void **state)
{
    (void)state;
    static struct told a, b;
    open_all(&t, TINY_F32, PREC_EXACT, &roomy);
    struct want w = {.seed = 2, .own = 30, .max = 40};
    want_ask(&t, &w, &a);
    struct token_bias bias[4] = {{a.r.ids[0], -100}, {66, 60}, {66, 60}, {67, -100}};
    w.bias = bias;
    w.nbias = 1;
    want_ask(&t, &w, &b);
    for (int i = 0; i < b.r.n; i++) assert_int_not_equal(b.r.ids[i], a.r.ids[0]);
    w.nbias = 4;
    want_ask(&t, &w, &b);
    for (int i = 0; i < b.r.n; i++) assert_int_equal(b.r.ids[i], 66);
    bias[0].id = TINY_VOCAB;
    assert_int_equal(want_submit(&t, &w, &b), ERR_INVALID);
    bias[0] = (struct token_bias){5, NAN};
    assert_int_equal(want_submit(&t, &w, &b), ERR_INVALID);
    w.nbias = GEN_BIAS_MAX + 1;
    assert_int_equal(want_submit(&t, &w, &b), ERR_INVALID);
    tiny_close(&t);
}

/* --- prompts --- */

/* The prompt of the second request is the first's with its answer: what was chosen there is given here. */
static void test_log_probabilities_of_a_prompt_are_those_of_the_answer_it_was(void **state)
{
    (void)state;
    static struct told a, b;
    int32_t prompt[PROMPT_MAX];
    open_all(&t, TINY_F32, PREC_EXACT, &roomy);
    const struct want w = {.seed = 2, .own = 50, .max = 100, .adapter = {2}, .logprobs = 1};
    want_ask(&t, &w, &a);
    int n = want_prompt(&w, prompt);
    memcpy(prompt + n, a.r.ids, (size_t)a.r.n * sizeof *prompt);
    const struct want v = {
        .prompt = prompt, .nprompt = n + a.r.n, .max = 2, .adapter = {2}, .logprobs = 3, .prompt_logprobs = true};
    want_ask(&t, &v, &b);
    assert_int_equal(b.next, n + a.r.n);
    assert_true(b.parts >= (n + a.r.n) / 64);
    for (int i = 1; i < b.next; i++) assert_int_equal(b.prompt[i].id, prompt[i]);
    for (int i = 0; i < a.r.n; i++) {
        const struct sample *s = &b.prompt[n + i];
        assert_true(s->logprob == a.logprob[i]);
        assert_int_equal(s->ntop, 2);
        assert_int_equal(s->top[0].id, s->id); /* it was greedy */
    }
    tiny_close(&t);
}

static void test_prompts_are_told_once_in_order_however_they_are_cut(void **state)
{
    (void)state;
    static struct told alone[12], together[12];
    struct want w[12];
    static const struct {
        int rows, pages, speculate;
    } row[] = {{200, 0, 0}, {7, 0, 0}, {64, 20, 0}, {200, 20, 8}, {1, 0, 0}};
    open_all(&t, TINY_F32, PREC_EXACT,
             &(struct sched_options){.max_running = 1, .max_waiting = 64, .step_tokens = 256});
    for (int i = 0; i < 12; i++) {
        w[i] = (struct want){.seed = 20 + (uint64_t)i,
                             .own = 1 + i * 19,
                             .max = 20,
                             .adapter = {i % 3},
                             .logprobs = 1 + i % 3,
                             .prompt_logprobs = i != 7};
        want_ask(&t, &w[i], &alone[i]);
        assert_int_equal(alone[i].next, i == 7 || i == 0 ? 0 : w[i].own);
    }
    for (size_t r = 0; r < sizeof row / sizeof *row; r++) {
        tiny_stop(&t);
        tiny_start(&t, &(struct sched_options){.max_running = row[r].rows > 1 ? 6 : 1,
                                               .max_waiting = 64,
                                               .step_tokens = row[r].rows,
                                               .threads = 2,
                                               .prefix_cache = true,
                                               .speculate = row[r].speculate,
                                               .kv_bytes = row[r].pages ? pages_bytes(PREC_EXACT, row[r].pages) : 0});
        want_ask_all(&t, w, together, 12);
        for (int i = 0; i < 12; i++) assert_same_answer(&together[i], &alone[i]);
        tiny_assert_idle(&t);
    }
    tiny_close(&t);
}

int main(void)
{
    log_init("test", LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_adapter_of_weight_one_is_the_adapter),
        cmocka_unit_test(test_sums_that_can_not_be_served_are_refused),
        cmocka_unit_test(test_an_unknown_adapter_in_a_sum_is_refused),
        cmocka_unit_test(test_sums_that_need_all_slots_do_not_block_each_other),
        cmocka_unit_test(test_stopping_tells_sums_that_wait_for_their_turn),
        cmocka_unit_test(test_a_bias_makes_and_forbids_tokens),
        cmocka_unit_test(test_log_probabilities_of_a_prompt_are_those_of_the_answer_it_was),
        cmocka_unit_test(test_prompts_are_told_once_in_order_however_they_are_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
