/* Tests of the prefix cache through the scheduler: an answer never depends on what is in it, it is never shared where it must not be, and
 * it saves what it should. */
#include "base/log.h"
#include "tests/unit/test_sched.h"

static struct tiny_engine t;

static const struct sched_options plain = {.max_running = 16, .max_waiting = 256, .step_tokens = 64, .threads = 2};
static const struct sched_options cached = {
    .max_running = 16, .max_waiting = 256, .step_tokens = 64, .threads = 2, .prefix_cache = true};

static double prefill_rows(void)
{
    return metric_get(t.metrics, M_STEP_ROWS, (const char *[]){"prefill"});
}

static struct sched_state now(void)
{
    struct sched_state s;
    sched_get_state(t.s, &s);
    return s;
}

/* --- bits --- */

static void test_forty_mixed_answers_are_the_same_with_and_without_the_cache(void **state)
{
    (void)state;
    static const struct {
        enum tiny_type type;
        enum precision prec;
        int pages, rows, running; /* pages 0: plenty */
    } row[] = {{TINY_F32, PREC_EXACT, 0, 64, 16},  {TINY_F32, PREC_EXACT, 0, 7, 5},
               {TINY_F32, PREC_EXACT, 20, 64, 16}, {TINY_F32, PREC_EXACT, 14, 33, 16},
               {TINY_Q4_1, PREC_FAST, 24, 64, 16}, {TINY_Q8_0, PREC_FAST, 0, 16, 16}};
    for (size_t r = 0; r < sizeof row / sizeof *row; r++) {
        open_all(&t, row[r].type, row[r].prec, &plain);
        mix_ask_alone(&t);
        tiny_stop(&t);
        struct sched_options o = cached;
        o.step_tokens = row[r].rows;
        o.max_running = row[r].running;
        o.kv_bytes = row[r].pages ? pages_bytes(row[r].prec, row[r].pages) : 0;
        tiny_start(&t, &o);
        for (int round = 0; round < 3; round++) mix_assert_same(&t);
        struct sched_state s = now();
        assert_true(s.prefix_hits < s.prefix_queries);
        if (row[r].pages != 14) assert_true(s.prefix_hits > 0); /* of 14 pages none may be left over */
        assert_true(s.pages_idle > 0 && s.pages_idle <= s.pages_total);
        if (row[r].pages) assert_true(metric_get(t.metrics, M_PREFIX_EVICTIONS, NULL) > 0 && s.preemptions > 0);
        tiny_close(&t);
    }
}

static void test_a_second_request_computes_only_what_is_new(void **state)
{
    (void)state;
    static struct told a, b;
    static const struct {
        int n, cached; /* of a prompt of n tokens asked again */
    } row[] = {{1, 0}, {15, 0}, {16, 0}, {17, 16}, {32, 16}, {33, 32}, {96, 80}, {100, 96}};
    open_all(&t, TINY_F32, PREC_EXACT, &cached);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        const struct want w = {.seed = 40 + i, .own = row[i].n, .max = 1};
        double before = prefill_rows();
        want_ask(&t, &w, &a);
        assert_int_equal(a.r.counts.cached, 0);
        assert_true(prefill_rows() - before == row[i].n);
        before = prefill_rows();
        want_ask(&t, &w, &b);
        assert_int_equal(b.r.counts.cached, row[i].cached);
        assert_int_equal(b.r.counts.prompt, row[i].n);
        assert_true(prefill_rows() - before == row[i].n - row[i].cached);
        assert_same_answer(&a, &b);
    }
    struct sched_state s = now();
    assert_int_equal(s.prefix_hits, 16 + 16 + 32 + 80 + 96);
    assert_true(metric_get(t.metrics, M_PREFIX_HITS, NULL) == (double)s.prefix_hits);
    assert_true(metric_get(t.metrics, M_PREFIX_QUERIES, NULL) == (double)s.prefix_queries);
    tiny_assert_idle(&t);
    tiny_close(&t);
}

static void test_the_next_turn_finds_the_answer_before(void **state)
{
    (void)state;
    static struct told a, b, c;
    int32_t turn[PROMPT_MAX];
    open_all(&t, TINY_F32, PREC_EXACT, &cached);
    const struct want w = {.seed = 3, .own = 37, .max = 50, .adapter = {2}};
    want_ask(&t, &w, &a);
    int n = want_prompt(&w, turn);
    memcpy(turn + n, a.r.ids, (size_t)a.r.n * sizeof *turn);
    n += a.r.n;
    for (int i = 0; i < 20; i++) turn[n++] = i + 60;
    const struct want next = {.prompt = turn, .nprompt = n, .max = 9, .adapter = {2}};
    want_ask(&t, &next, &b);
    assert_int_equal(b.r.counts.cached, (37 + 50 - 1) / 16 * 16); /* the last token was never computed */
    struct want anew = next;
    anew.no_cache = true;
    want_ask(&t, &anew, &c);
    assert_int_equal(c.r.counts.cached, 0);
    assert_same_answer(&b, &c);
    tiny_close(&t);
}

/* --- who shares --- */

static void test_only_requests_that_are_equal_in_everything_share(void **state)
{
    (void)state;
    static const struct {
        struct want first, then;
        int cached;
    } row[] = {
        {{.salt = "a"}, {.salt = "a"}, 96},
        {{.salt = "a"}, {.salt = "b"}, 0},
        {{.salt = "a"}, {.salt = NULL}, 0},
        {{.salt = NULL}, {.salt = "a"}, 0},
        {{.salt = NULL}, {.salt = ""}, 96},
        {{.salt = "a"}, {.salt = "a", .adapter = {1}}, 0},
        {{.salt = "a", .adapter = {1}}, {.salt = "a"}, 0},
        {{.adapter = {1}}, {.adapter = {1}}, 96},
        {{.adapter = {1}, .salt = "a"}, {.adapter = {1}, .salt = "b"}, 0},
        {{.adapter = {1}}, {.adapter = {2}}, 0},
        {{.adapter = {1}}, {.adapter = {1}, .weight = {0.5f}}, 0},
        {{.adapter = {1, 2}}, {.adapter = {1, 2}}, 96},
        {{.adapter = {1, 2}}, {.adapter = {2, 1}}, 0}, /* the order is that of a sum of floats */
        {{.adapter = {1, 2}}, {.adapter = {1}}, 0},
        {{.adapter = {1}}, {.adapter = {1, 2}}, 0},
        {{.adapter = {1, 2}, .weight = {1, 2}}, {.adapter = {1, 2}, .weight = {2, 1}}, 0},
        {{.salt = "a"}, {.salt = "a", .no_cache = true}, 0},
        {{.salt = "a"}, {.salt = "a", .prompt_logprobs = true, .logprobs = 1}, 0},
        {{.salt = "a", .no_cache = true}, {.salt = "a"}, 96},
    };
    static struct told a, b;
    open_all(&t, TINY_F32, PREC_EXACT, &cached);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct want w = row[i].first, v = row[i].then;
        w.seed = v.seed = 100 + i;
        w.own = v.own = 101;
        w.max = v.max = 1;
        want_ask(&t, &w, &a);
        want_ask(&t, &v, &b);
        if (b.r.counts.cached != row[i].cached) fail_msg("row %zu: %d cached", i, b.r.counts.cached);
    }
    tiny_assert_idle(&t);
    tiny_close(&t);
}

static void test_eight_answers_to_one_prompt_cost_one_prefill(void **state)
{
    (void)state;
    static struct told a[8];
    struct want w[8];
    for (int chunk = 24; chunk <= 250; chunk += 113) {
        struct sched_options o = cached;
        o.step_tokens = chunk;
        open_all(&t, TINY_F32, PREC_EXACT, &o);
        for (int i = 0; i < 8; i++)
            w[i] = (struct want){
                .family = 5, .shared = 200, .seed = (uint64_t)i, .max = 5, .temperature = 1, .adapter = {3}};
        want_ask_all(&t, w, a, 8);
        assert_true(prefill_rows() <= 200 + 7 * 16);
        int sum = 0;
        for (int i = 0; i < 8; i++) sum += a[i].r.counts.cached;
        assert_int_equal(sum, 7 * 192);
        assert_memory_not_equal(a[0].r.ids, a[1].r.ids, 5 * sizeof *a[0].r.ids);
        tiny_assert_idle(&t);
        assert_int_equal(now().pages_idle, 200 / 16); /* nothing is kept twice */
        tiny_close(&t);
    }
}

static void test_whoever_waits_for_a_page_goes_on_when_its_maker_leaves(void **state)
{
    (void)state;
    static struct told a[4];
    struct sched_options o = cached;
    o.step_tokens = 16;
    open_all(&t, TINY_F32, PREC_EXACT, &o);
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 4; i++) {
            const struct want w = {.family = (uint64_t)round, .shared = 220, .seed = (uint64_t)i, .own = 3, .max = 3};
            assert_int_equal(want_submit(&t, &w, &a[i]), ERR_NONE);
        }
        usleep((useconds_t)round * 200);
        pthread_mutex_lock(&tiny_lock);
        if (!a[0].r.done) sched_cancel(t.s, a[0].r.gen);
        pthread_mutex_unlock(&tiny_lock);
        for (int i = 0; i < 4; i++) tiny_finish(&a[i].r);
        for (int i = 1; i < 4; i++) assert_int_equal(a[i].r.n, 3);
        tiny_assert_idle(&t);
    }
    tiny_close(&t);
}

/* --- adapters that come and go --- */

static void test_an_adapter_that_is_loaded_again_finds_its_pages(void **state)
{
    (void)state;
    static struct told a, b;
    const struct want w = {.seed = 9, .own = 70, .max = 12, .adapter = {5}};
    open_all(&t, TINY_F32, PREC_EXACT, &cached);
    want_ask(&t, &w, &a);
    assert_int_equal(tiny_unload(&t, 4), ERR_NONE);
    assert_int_equal(tiny_load(&t, 4), ERR_NONE);
    want_ask(&t, &w, &b);
    assert_int_equal(b.r.counts.cached, 64);
    assert_same_answer(&a, &b);
    tiny_close(&t);
}

static void test_pages_of_values_that_are_not_finite_are_forgotten(void **state)
{
    (void)state;
    static struct told a, bad, b;
    const struct want w = {.seed = 9, .own = 70, .max = 12, .adapter = {2}};
    open_all(&t, TINY_F32, PREC_EXACT, &cached);
    want_ask(&t, &w, &a);
    tiny_stop(&t);
    tiny_start(&t, &cached);
    struct outcome p = tiny_pin(&t, 1);
    int n, in;
    tiny_shape(LM_V, &n, &in);
    size_t bytes = lora_mod_bytes(LORA_F32, tiny_adapters[1].rank, n, in);
    void *block = (void *)p.slot->mod[LM_V].a, *copy = malloc(bytes);
    memcpy(copy, block, bytes);
    memset(block, 0xFF, bytes);
    assert_int_equal(want_submit(&t, &w, &bad), ERR_NONE);
    tiny_finish(&bad.r);
    assert_int_equal(bad.r.err.code, ERR_ADAPTER_FAULT);
    memcpy(block, copy, bytes);
    want_ask(&t, &w, &b);
    assert_int_equal(b.r.counts.cached, 0);
    assert_same_answer(&a, &b);
    free(copy);
    lora_unpin(t.loras, p.slot);
    tiny_assert_idle(&t);
    tiny_close(&t);
}

static void test_rows_before_an_invocation_are_the_bases(void **state)
{
    (void)state;
    static struct told base, alone, whole, late, again, never;
    int32_t prompt[PROMPT_MAX];
    const struct want w = {.seed = 77, .own = 100, .max = 20};
    open_all(&t, TINY_F32, PREC_EXACT, &cached);
    want_prompt(&w, prompt);
    struct outcome p = tiny_pin(&t, 0);
    struct want a = w;
    a.adapter[0] = 1;
    want_ask(&t, &w, &base);
    want_ask(&t, &a, &alone);

    p.slot->invocation = prompt; /* its first three tokens: every row is adapted */
    p.slot->ninvocation = 3;
    want_ask(&t, &a, &whole);
    assert_same_answer(&whole, &alone);

    p.slot->invocation = prompt + 40;
    want_ask(&t, &a, &late);
    assert_int_equal(late.r.counts.cached, 32); /* pages 0 and 1 of the base's request */
    want_ask(&t, &a, &again);
    assert_int_equal(again.r.counts.cached, 96);
    assert_same_answer(&late, &again);
    struct want fresh = a;
    fresh.no_cache = true;
    want_ask(&t, &fresh, &again);
    assert_same_answer(&late, &again);
    assert_memory_not_equal(late.r.ids, base.r.ids, 20 * sizeof *base.r.ids);
    assert_memory_not_equal(late.r.ids, alone.r.ids, 20 * sizeof *base.r.ids);

    static const int32_t nowhere[3] = {255, 1, 254};
    p.slot->invocation = nowhere;
    want_ask(&t, &a, &never);
    assert_same_answer(&never, &base);
    assert_int_equal(never.r.counts.cached, 96);
    p.slot->ninvocation = 0;
    lora_unpin(t.loras, p.slot);
    tiny_assert_idle(&t);
    tiny_close(&t);
}

/* --- pressure --- */

static void test_cancelled_requests_leave_pages_free_or_idle(void **state)
{
    (void)state;
    struct sched_options o = cached;
    o.kv_bytes = pages_bytes(PREC_EXACT, 24);
    open_all(&t, TINY_F32, PREC_EXACT, &plain);
    mix_ask_alone(&t);
    tiny_stop(&t);
    tiny_start(&t, &o);
    for (int round = 0; round < 6; round++) {
        for (int i = 0; i < MIX; i++) assert_int_equal(want_submit(&t, &mix[i], &mix_now[i]), ERR_NONE);
        usleep((useconds_t)round * 1500);
        for (int i = round % 3; i < MIX; i += 3) {
            pthread_mutex_lock(&tiny_lock);
            if (!mix_now[i].r.done) sched_cancel(t.s, mix_now[i].r.gen);
            pthread_mutex_unlock(&tiny_lock);
        }
        for (int i = 0; i < MIX; i++) {
            tiny_finish(&mix_now[i].r);
            if (mix_now[i].r.finish != FINISH_CANCELLED) assert_same_answer(&mix_now[i], &mix_alone[i]);
        }
        tiny_assert_idle(&t);
        assert_true(now().pages_idle <= 24);
    }
    mix_assert_same(&t);
    tiny_close(&t);
}

static void test_idle_pages_go_before_anybody_is_preempted(void **state)
{
    (void)state;
    static struct told a;
    struct sched_options o = cached;
    o.kv_bytes = pages_bytes(PREC_EXACT, 16);
    open_all(&t, TINY_F32, PREC_EXACT, &o);
    for (int i = 0; i < 30; i++) {
        const struct want w = {.seed = (uint64_t)i, .own = 150, .max = 60};
        want_ask(&t, &w, &a);
    }
    struct sched_state s = now();
    assert_int_equal(s.preemptions, 0);
    assert_true(s.pages_idle >= 13);
    const struct want w = {.seed = 29, .own = 150, .max = 1}; /* the last one is still there */
    want_ask(&t, &w, &a);
    assert_int_equal(a.r.counts.cached, 144);
    tiny_close(&t);
}

int main(void)
{
    log_init("test", LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forty_mixed_answers_are_the_same_with_and_without_the_cache),
        cmocka_unit_test(test_a_second_request_computes_only_what_is_new),
        cmocka_unit_test(test_the_next_turn_finds_the_answer_before),
        cmocka_unit_test(test_only_requests_that_are_equal_in_everything_share),
        cmocka_unit_test(test_eight_answers_to_one_prompt_cost_one_prefill),
        cmocka_unit_test(test_whoever_waits_for_a_page_goes_on_when_its_maker_leaves),
        cmocka_unit_test(test_an_adapter_that_is_loaded_again_finds_its_pages),
        cmocka_unit_test(test_pages_of_values_that_are_not_finite_are_forgotten),
        cmocka_unit_test(test_rows_before_an_invocation_are_the_bases),
        cmocka_unit_test(test_cancelled_requests_leave_pages_free_or_idle),
        cmocka_unit_test(test_idle_pages_go_before_anybody_is_preempted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
