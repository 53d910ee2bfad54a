/* Tests of speculation: answers are those without it, greedy and sampled, whoever guesses; what is guessed wrongly leaves nothing behind; and
 * guesses that are right save steps. */
#include "base/log.h"
#include "tests/unit/test_sched.h"

static struct tiny_engine t;

static const struct sched_options plain = {.max_running = 16, .max_waiting = 256, .step_tokens = 64, .threads = 2};

static struct sched_state now(void)
{
    struct sched_state s;
    sched_get_state(t.s, &s);
    return s;
}

static void test_forty_mixed_answers_are_the_same_with_guesses(void **state)
{
    (void)state;
    static const struct {
        enum tiny_type type;
        enum precision prec;
        int speculate, running, rows, pages;
        bool draft, cache;
    } row[] = {{TINY_F32, PREC_EXACT, 8, 2, 64, 0, false, false}, {TINY_F32, PREC_EXACT, 4, 2, 5, 0, false, true},
               {TINY_F32, PREC_EXACT, 8, 2, 64, 18, false, true}, {TINY_F32, PREC_EXACT, 8, 2, 64, 0, true, false},
               {TINY_F32, PREC_EXACT, 3, 2, 16, 18, true, true},  {TINY_Q4_1, PREC_FAST, 8, 2, 64, 0, true, true},
               {TINY_Q8_0, PREC_FAST, 8, 16, 64, 30, false, true}};
    for (size_t r = 0; r < sizeof row / sizeof *row; r++) {
        open_all(&t, row[r].type, row[r].prec, &plain);
        mix_ask_alone(&t);
        tiny_stop(&t);
        const struct sched_options o = {.max_running = row[r].running,
                                        .max_waiting = 256,
                                        .step_tokens = row[r].rows,
                                        .threads = 2,
                                        .prefix_cache = row[r].cache,
                                        .speculate = row[r].speculate,
                                        .draft = row[r].draft ? t.m : NULL,
                                        .kv_bytes = row[r].pages ? pages_bytes(row[r].prec, row[r].pages) : 0};
        tiny_start(&t, &o);
        for (int round = 0; round < 3; round++) mix_assert_same(&t);
        struct sched_state s = now();
        assert_true(s.drafted > 0 && s.accepted > 0 && s.accepted < s.drafted);
        assert_true(metric_get(t.metrics, M_SPEC_DRAFTED, NULL) == (double)s.drafted);
        assert_true(metric_get(t.metrics, M_VLLM_ACCEPTED, NULL) == (double)s.accepted);
        tiny_close(&t);
    }
}

static void test_a_draft_model_that_is_always_right_saves_most_steps(void **state)
{
    (void)state;
    static struct told a, b;
    const struct want w = {.seed = 4, .own = 30, .max = 100};
    open_all(&t, TINY_F32, PREC_EXACT, &plain);
    want_ask(&t, &w, &a);
    tiny_stop(&t);
    struct sched_options o = plain;
    o.speculate = 4;
    o.draft = t.m;
    tiny_start(&t, &o);
    want_ask(&t, &w, &b);
    assert_same_answer(&a, &b);
    struct sched_state s = now();
    assert_true(s.steps < 40);
    assert_true(s.accepted * 4 >= s.drafted * 3); /* the past is looked up first, and that is wrong at times */
    tiny_close(&t);
}

static void test_a_prompt_of_many_chunks_is_caught_up_by_the_draft_model(void **state)
{
    (void)state;
    static struct told a[2];
    struct want w[2];
    struct sched_options o = {
        .max_running = 2, .max_waiting = 16, .step_tokens = 8, .threads = 2, .speculate = 3, .draft = NULL};
    open_all(&t, TINY_F32, PREC_EXACT, &plain);
    tiny_stop(&t);
    o.draft = t.m;
    tiny_start(&t, &o);
    for (int i = 0; i < 2; i++) w[i] = (struct want){.seed = 60 + (uint64_t)i, .own = 180, .max = 70, .logprobs = 1};
    want_ask_all(&t, w, a, 2);
    for (int i = 0; i < 2; i++) assert_int_equal(a[i].r.n, 70);
    assert_true(now().accepted > 50);
    tiny_assert_idle(&t);
    tiny_close(&t);
}

/* A bias that only lets two tokens pass makes answers repeat, and guesses right. */
static void test_what_repeats_is_looked_up(void **state)
{
    (void)state;
    static struct told a, b;
    static const struct token_bias only[] = {{65, 100}};
    const struct want w = {.seed = 8, .own = 20, .max = 120, .bias = only, .nbias = 1};
    open_all(&t, TINY_F32, PREC_EXACT, &plain);
    want_ask(&t, &w, &a);
    uint64_t without = now().steps;
    assert_int_equal(a.r.ids[119], 65);
    tiny_stop(&t);
    struct sched_options o = plain;
    o.speculate = 8;
    tiny_start(&t, &o);
    want_ask(&t, &w, &b);
    assert_same_answer(&a, &b);
    assert_true(now().steps * 4 < without);
    tiny_close(&t);
}

/* An answer that was given before under the same salt and adapter is guessed nearly whole; under another salt it is not known. */
static void test_answers_before_are_guessed_from_under_the_same_salt_and_adapters_only(void **state)
{
    (void)state;
    static const struct {
        struct want then;
        bool known;
    } row[] = {{{.salt = "a", .adapter = {3}}, true},
               {{.salt = "b", .adapter = {3}}, false},
               {{.salt = NULL, .adapter = {3}}, false},
               {{.salt = "a", .adapter = {3}, .weight = {1.0001f}}, false},
               {{.salt = "a", .adapter = {3}, .no_cache = true}, false}};
    static struct told a, b;
    struct sched_options o = plain;
    o.speculate = 4;
    open_all(&t, TINY_F32, PREC_EXACT, &plain);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct want w = {.seed = 5, .own = 30, .max = 200, .temperature = 3, .salt = "a", .adapter = {3}};
        tiny_stop(&t);
        tiny_start(&t, &o);
        want_ask(&t, &w, &a);
        uint64_t steps = now().steps;
        w.salt = row[i].then.salt;
        w.weight[0] = row[i].then.weight[0];
        w.no_cache = row[i].then.no_cache;
        want_ask(&t, &w, &b);
        if (!w.weight[0]) assert_same_answer(&a, &b);
        steps = now().steps - steps;
        if (row[i].known ? steps > 80 : steps < 150) fail_msg("row %zu: %d steps", i, (int)steps);
    }
    tiny_close(&t);
}

static void test_what_is_kept_of_answers_is_bounded(void **state)
{
    (void)state;
    static struct told a;
    char salt[16];
    struct sched_options o = plain;
    o.speculate = 4;
    open_all(&t, TINY_F32, PREC_EXACT, &o);
    for (uint64_t i = 0; i < 200; i++) { /* more salts than are remembered, and more answers than one holds */
        snprintf(salt, sizeof salt, "%d", i < 100 ? (int)i : 1000);
        const struct want w = {.seed = i, .own = 5, .max = 150, .temperature = 2, .salt = salt};
        want_ask(&t, &w, &a);
        assert_int_equal(a.r.n, 150);
    }
    tiny_assert_idle(&t);
    tiny_close(&t);
}

static void test_an_answer_without_repetitions_is_hardly_guessed_at(void **state)
{
    (void)state;
    static struct told a;
    const struct want w = {.seed = 5, .own = 30, .max = 200, .temperature = 8};
    struct sched_options o = plain;
    o.speculate = 8;
    open_all(&t, TINY_F32, PREC_EXACT, &o);
    want_ask(&t, &w, &a);
    assert_true(now().drafted < 30);
    tiny_close(&t);
}

static void test_many_sequences_are_not_guessed_at(void **state)
{
    (void)state;
    static struct told a[16];
    struct want w[16];
    static const struct token_bias only[] = {{65, 100}};
    struct sched_options o = plain;
    o.speculate = 8;
    open_all(&t, TINY_F32, PREC_EXACT, &o);
    for (int i = 0; i < 16; i++) w[i] = (struct want){.own = 3, .max = 100, .bias = only, .nbias = 1};
    want_ask_all(&t, w, a, 16); /* the first may run alone for some steps */
    assert_true(now().steps > 80);
    tiny_close(&t);
}

static void test_cancelling_a_guessed_sequence_gives_all_pages_back(void **state)
{
    (void)state;
    static struct told a[4];
    struct sched_options o = plain;
    o.speculate = 8;
    open_all(&t, TINY_F32, PREC_EXACT, &plain);
    tiny_stop(&t);
    o.draft = t.m;
    tiny_start(&t, &o);
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 4; i++) {
            const struct want w = {.seed = (uint64_t)(i + round), .own = 50, .max = 200};
            assert_int_equal(want_submit(&t, &w, &a[i]), ERR_NONE);
        }
        tiny_await(&a[0].r.n, 1 + round);
        for (int i = 0; i < 4; i++) {
            pthread_mutex_lock(&tiny_lock);
            if (!a[i].r.done) sched_cancel(t.s, a[i].r.gen);
            pthread_mutex_unlock(&tiny_lock);
        }
        for (int i = 0; i < 4; i++) tiny_finish(&a[i].r);
        tiny_assert_idle(&t);
    }
    tiny_close(&t);
}

static void test_what_can_not_draft_is_refused(void **state)
{
    (void)state;
    struct err e = {0};
    struct sched *s;
    open_all(&t, TINY_F32, PREC_EXACT, &plain);
    struct sched_options o = plain;
    o.speculate = 9;
    assert_int_equal(sched_new(&s, t.m, t.loras, &o, NULL, &e), -1);
    assert_int_equal(e.code, ERR_USAGE);
    struct model other = *t.m;
    other.vocab--;
    o.speculate = 4;
    o.draft = &other;
    e = (struct err){0};
    assert_int_equal(sched_new(&s, t.m, t.loras, &o, NULL, &e), -1);
    assert_int_equal(e.code, ERR_USAGE);
    tiny_close(&t);
}

int main(void)
{
    log_init("test", LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forty_mixed_answers_are_the_same_with_guesses),
        cmocka_unit_test(test_a_draft_model_that_is_always_right_saves_most_steps),
        cmocka_unit_test(test_a_prompt_of_many_chunks_is_caught_up_by_the_draft_model),
        cmocka_unit_test(test_what_repeats_is_looked_up),
        cmocka_unit_test(test_answers_before_are_guessed_from_under_the_same_salt_and_adapters_only),
        cmocka_unit_test(test_what_is_kept_of_answers_is_bounded),
        cmocka_unit_test(test_an_answer_without_repetitions_is_hardly_guessed_at),
        cmocka_unit_test(test_many_sequences_are_not_guessed_at),
        cmocka_unit_test(test_cancelling_a_guessed_sequence_gives_all_pages_back),
        cmocka_unit_test(test_what_can_not_draft_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
