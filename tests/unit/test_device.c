/* The engine on a device, whose kernels run on the CPU: answers beside the CPU's, replays of a bucket's graph with other
 * sequences and adapters, adapters that come and go meanwhile, sampling, failures. Groups: test_device_group.c. */
#include "tests/unit/device_world.h"
#include <signal.h>
#include <sys/wait.h>

#define ASKS 9
#define TOKENS 8
#define FEW (ASKS * TOKENS / 2) /* random weights make near ties, and a token that differs changes all behind it */

static struct device_world cpu, dev;

static struct ask ask_of(int i)
{
    return (struct ask){.adapter = i % (ADAPTERS + 1) - 1, .seed = 700 + (uint64_t)i, .n = 3 + 5 * i, .max = TOKENS};
}

static void load_all(struct device_world *w)
{
    for (int i = 0; i < ADAPTERS; i++) assert_int_equal(tiny_load(&w->t, i), ERR_NONE);
}

static void open_device(const struct sched_options *so, int ranks)
{
    world_open(&dev, TINY_F32, &world_loras, so, true, ranks);
    load_all(&dev);
}

static void finish(const struct reply *r)
{
    if (r->err.code) fail_msg("%s", r->err.msg);
    assert_int_equal(r->n, TOKENS);
}

static void ask_each(struct device_world *w, struct reply *r)
{
    for (int i = 0; i < ASKS; i++) {
        struct ask q = ask_of(i);
        tiny_ask(&w->t, &q, &r[i]);
        finish(&r[i]);
    }
}

static void ask_all(struct device_world *w, struct reply *r)
{
    for (int i = 0; i < ASKS; i++) {
        struct ask q = ask_of(i);
        assert_int_equal(tiny_submit(&w->t, &q, &r[i]), ERR_NONE);
    }
    for (int i = 0; i < ASKS; i++) {
        tiny_finish(&r[i]);
        finish(&r[i]);
    }
}

/* Tokens up to the first that differs, over all. */
static int equal_tokens(const struct reply *a, const struct reply *b)
{
    int same = 0;
    for (int i = 0; i < ASKS; i++)
        for (int n = 0; n < TOKENS && a[i].ids[n] == b[i].ids[n]; n++) same++;
    return same;
}

static struct reply here[ASKS], there[ASKS];

/* What one device answers to each alone; computed once, for the shim is slow. With clusters. */
static const struct reply *alone(void)
{
    static struct reply r[ASKS];
    static bool known;
    if (known) return r;
    setenv("WEFT_SIMT_CC", "90", 1);
    open_device(&world_sched, 1);
    ask_each(&dev, r);
    tiny_assert_idle(&dev.t);
    world_close(&dev);
    known = true;
    return r;
}

static void test_without_a_library_there_is_no_device(void **state)
{
    (void)state;
    struct device *d;
    struct err e = {0};
    setenv("WEFT_DEVICE_LIB", "/nowhere/weft-cuda.so", 1);
    assert_int_equal(device_open(&d, "cuda", 1, &e), -1);
    assert_int_equal(e.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(e.msg, "/nowhere/weft-cuda.so"));
    unsetenv("WEFT_DEVICE_LIB");
}

static void test_names_that_are_no_device_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"gpu", "cuda:", "cuda:-1", "cuda:1x", "cuda1", "cuda:99999999999", ""};
    struct device *d;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err e = {0};
        assert_false(device_is_name(bad[i]));
        assert_int_equal(device_open(&d, bad[i], 1, &e), -1);
        assert_int_equal(e.code, ERR_USAGE);
    }
    assert_true(device_is_name("cuda"));
    assert_true(device_is_name("cuda:3"));
}

static void test_a_device_that_is_not_there_is_refused(void **state)
{
    (void)state;
    struct device *d;
    struct err e = {0}, two = {0}, old = {0};
    device_library();
    assert_int_equal(device_open(&d, "cuda:7", 1, &e), -1);
    assert_int_equal(e.code, ERR_UNAVAILABLE);
    assert_int_equal(device_open(&d, "cuda", 2, &two), -1);
    assert_int_equal(two.code, ERR_UNAVAILABLE);
    setenv("WEFT_SIMT_CC", "75", 1); /* no kernel is made for it */
    assert_int_equal(device_open(&d, "cuda", 1, &old), -1);
    assert_int_equal(old.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(old.msg, "compute capability 7.5"));
    unsetenv("WEFT_SIMT_CC");
}

static void test_a_device_gives_the_answers_of_the_cpu(void **state)
{
    (void)state;
    static const enum tiny_type types[] = {TINY_F32, TINY_Q8_0, TINY_Q4_1};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct err e = {0};
        /* With clusters and without, for their kernels differ; so it goes on from test to test. */
        setenv("WEFT_SIMT_CC", i % 2 ? "80" : "90", 1);
        /* In EXACT: FAST rounds rows to int8 before quantized products, which no device does. */
        tiny_open(&cpu.t, types[i], PREC_EXACT, &world_loras);
        if (sched_new(&cpu.t.s, cpu.t.m, cpu.t.loras, &world_sched, cpu.t.metrics, &e)) fail_msg("%s", e.msg);
        load_all(&cpu);
        ask_each(&cpu, here);
        tiny_close(&cpu.t);
        if (types[i] == TINY_F32) {
            memcpy(there, alone(), sizeof there);
        } else {
            world_open(&dev, types[i], &world_loras, &world_sched, true, 1);
            load_all(&dev);
            ask_each(&dev, there);
            tiny_assert_idle(&dev.t);
            world_close(&dev);
        }
        int same = equal_tokens(here, there);
        printf("  %d of %d tokens are the same\n", same, ASKS * TOKENS);
        assert_true(same >= FEW);
    }
}

static void test_timing_products_at_start_changes_no_answer(void **state)
{
    (void)state;
    struct sched_options small = world_sched;
    small.max_running = 2;
    small.step_tokens = 4; /* few buckets, for the shim is slow */
    setenv("WEFT_SIMT_TIMED", "1", 1);
    open_device(&small, 1);
    unsetenv("WEFT_SIMT_TIMED");
    const struct device_measured *m = &dev.plan.measured;
    assert_true(m->s > 0 && m->bytes_us > 0 && m->flops_us > 0 && m->step_us > 0);
    assert_int_equal(m->timed, m->shapes * 3); /* 1, 2 and 4 rows */
    assert_non_null(strstr(m->ways, "128x64 bf16: "));
    ask_each(&dev, there);
    assert_true(equal_tokens(alone(), there) >= FEW); /* another way has another order of sums */
    world_close(&dev);
}

/* Prompts of `rows` and more are long enough for dense products. Ranks beyond 16 and the answer's tokens take the other way. */
static void ask_prompts(struct reply *r, int rows, bool together)
{
    struct ask q[ASKS];
    for (int i = 0; i < ASKS; i++) {
        q[i] = (struct ask){.adapter = i % (ADAPTERS + 1) - 1, .seed = 300 + (uint64_t)i, .n = rows + i, .max = TOKENS};
        assert_int_equal(tiny_submit(&dev.t, &q[i], &r[i]), ERR_NONE);
        if (!together) tiny_finish(&r[i]);
    }
    for (int i = 0; together && i < ASKS; i++) tiny_finish(&r[i]);
    for (int i = 0; i < ASKS; i++) finish(&r[i]);
}

static void test_adapters_as_columns_of_products_answer_as_beside_them(void **state)
{
    (void)state;
    static const struct {
        enum tiny_type type;
        int rows, step;
        const char *cc;
    } with[] = {{TINY_F32, 18, 64, "90"}, {TINY_Q8_0, 130, 192, "80"}}; /* codes go by own kernels up to 128 rows */
    for (int i = 0; i < 2; i++) {
        struct sched_options so = world_sched;
        so.step_tokens = with[i].step;
        setenv("WEFT_SIMT_CC", with[i].cc, 1);
        world_open(&dev, with[i].type, &world_loras, &so, true, 1);
        load_all(&dev);
        assert_int_equal(dev.plan.measured.augment_ranks, 0);
        ask_prompts(here, with[i].rows, true);
        world_close(&dev);
        world_augment = AUGMENT_ON;
        world_open(&dev, with[i].type, &world_loras, &so, true, 1);
        world_augment = AUGMENT_AUTO;
        load_all(&dev);
        assert_int_equal(dev.plan.measured.augment_ranks, 16);
        assert_true(dev.plan.measured.augment_taken > 0);
        ask_prompts(there, with[i].rows, true);
        int same = equal_tokens(here, there);
        printf("  %d of %d tokens are the same\n", same, ASKS * TOKENS);
        assert_true(same >= FEW);
        ask_prompts(here, with[i].rows, false);
        assert_true(equal_tokens(here, there) >= FEW);
        tiny_assert_idle(&dev.t);
        world_close(&dev);
    }
    unsetenv("WEFT_SIMT_CC");
}

/* The host's share of a launch would be measured otherwise: a start that times products launches graphs. */
static void test_products_are_timed_as_steps_run_them(void **state)
{
    (void)state;
    struct model_device_options o = {.kv_type = KV_BF16, .max_rows = 2, .max_seqs = 2, .max_logits = 2};
    struct err e = {0};
    o.max_segs = 2, o.max_rank = 16, o.slots = 1, o.adapter_bytes = 1 << 20, o.kv_bytes = 1 << 20;
    tiny_open(&dev.t, TINY_F32, PREC_FAST, &world_loras);
    device_library();
    setenv("WEFT_SIMT_TIMED", "1", 1);
    assert_int_equal(device_open(&dev.device, "cuda", 1, &e), 0);
    setenv("WEFT_SIMT_FAULT", "launch", 1);
    assert_int_equal(model_to_device(dev.t.m, dev.device, &o, &dev.plan, &e), -1);
    unsetenv("WEFT_SIMT_FAULT");
    unsetenv("WEFT_SIMT_TIMED");
    assert_string_equal(e.msg, "trying products on the device: a test asked for this fault");
    device_close(dev.device);
    tiny_close(&dev.t);
}

static void test_columns_are_timed_beside_kernels_of_their_own(void **state)
{
    (void)state;
    struct sched_options small = world_sched;
    small.max_running = 2;
    small.step_tokens = 24;
    setenv("WEFT_SIMT_TIMED", "1", 1);
    world_augment = AUGMENT_ON;
    open_device(&small, 1);
    world_augment = AUGMENT_AUTO;
    unsetenv("WEFT_SIMT_TIMED");
    const struct device_measured *m = &dev.plan.measured;
    assert_true(m->augment_tried > 0);
    assert_int_equal(m->augment_taken, m->augment_tried);
    assert_true(m->augment_with_us > 0 && m->augment_without_us > 0);
    ask_each(&dev, here);
    tiny_assert_idle(&dev.t);
    world_close(&dev);
}

static void test_products_whose_bits_show_the_columns_do_without(void **state)
{
    (void)state;
    world_augment = AUGMENT_ON;
    setenv("WEFT_SIMT_SPLIT", "1", 1);
    open_device(&world_sched, 1);
    world_augment = AUGMENT_AUTO;
    assert_true(dev.plan.measured.augment_ranks > 0);
    assert_int_equal(dev.plan.measured.augment_tried, 0);
    ask_prompts(here, 18, true);
    unsetenv("WEFT_SIMT_SPLIT");
    world_close(&dev);
}

static void test_answers_alone_and_together_are_the_same(void **state)
{
    (void)state;
    open_device(&world_sched, 1);
    ask_all(&dev, there);
    assert_true(equal_tokens(alone(), there) >= FEW);
    tiny_assert_idle(&dev.t);
    world_close(&dev);
}

/* The second time every bucket's graph is there: nothing is recorded, and what is replayed with other adapters and
 * sequences in between gives what it gave. */
static void test_a_graph_is_replayed_with_other_sequences_and_adapters(void **state)
{
    (void)state;
    struct device_counts first, second;
    enum { AGAIN = 5 };
    setenv("WEFT_SIMT_CC", "80", 1);
    open_device(&world_sched, 1);
    for (int i = 0; i < AGAIN; i++) {
        struct ask q = {.adapter = i % ADAPTERS, .seed = 40 + (uint64_t)i, .n = 20, .max = TOKENS};
        tiny_ask(&dev.t, &q, &here[i]);
        finish(&here[i]);
        if (i == 0) device_counts(dev.device, &first);
    }
    device_counts(dev.device, &second);
    assert_true(first.graphs > 0);
    assert_true(second.graphs <= first.graphs + 2); /* ranks beyond those of the first adapter: other graphs */
    assert_true(second.replays >= (AGAIN - 2) * TOKENS);
    for (int i = AGAIN - 1; i >= 0; i--) { /* the other way around: each among other neighbours in time */
        struct ask q = {.adapter = i % ADAPTERS, .seed = 40 + (uint64_t)i, .n = 20, .max = TOKENS};
        tiny_ask(&dev.t, &q, &there[i]);
        assert_memory_equal(here[i].ids, there[i].ids, TOKENS * sizeof *here[i].ids);
    }
    device_counts(dev.device, &first);
    assert_int_equal(first.graphs, second.graphs);
    world_close(&dev);
}

static void test_adapters_come_and_go_while_steps_run(void **state)
{
    (void)state;
    struct reply long_one, again;
    struct ask q = {.adapter = 1, .seed = 9, .n = 30, .max = 40};
    setenv("WEFT_SIMT_CC", "90", 1);
    const struct lora_options two = {.max_slots = 2, .max_known = 16, .wait_ms = 20000, .max_rank = WORLD_RANK};
    world_open(&dev, TINY_F32, &two, &world_sched, true, 1);
    load_all(&dev);
    tiny_ask(&dev.t, &q, &long_one);
    assert_int_equal(tiny_submit(&dev.t, &q, &again), ERR_NONE);
    for (int i = 0; i < 12; i++) { /* through the other slot, dropped and taken all the time */
        struct reply r;
        struct ask other = {.adapter = i % 2 ? 5 : 2 + i / 2 % 3, .seed = 9, .n = 5, .max = 4};
        tiny_ask(&dev.t, &other, &r);
        assert_int_equal(r.n, 4);
    }
    tiny_finish(&again);
    assert_int_equal(again.n, long_one.n);
    assert_memory_equal(again.ids, long_one.ids, (size_t)again.n * sizeof *again.ids);
    assert_true(metric_get(dev.t.metrics, M_EVICTIONS, NULL) > 8);
    assert_int_equal(tiny_unload(&dev.t, 5), ERR_NONE);
    tiny_assert_idle(&dev.t);
    world_close(&dev);
}

/* Answers of a device whose sampler chooses, and of the CPU's sampler on the device's logits (log-probabilities are
 * its): the same draws. */
static void test_the_device_draws_what_the_cpu_would(void **state)
{
    (void)state;
    static const struct sample_params how[] = {
        {.temperature = 0, .top_p = 1},
        {.temperature = 0.8f, .top_p = 1},
        {.temperature = 1.3f, .top_p = 1, .top_k = 20},
        {.temperature = 1, .top_p = 0.7f},
        {.temperature = 1, .top_p = 0.9f, .top_k = 50, .min_p = 0.02f},
        {.temperature = 1.5f, .top_p = 1, .min_p = 0.1f},
    };
    int same = 0, all = 0, distinct = 0;
    enum { DRAWS = 20 };
    open_device(&world_sched, 1);
    for (int i = 0; i < 6; i++) {
        struct reply a, b;
        struct ask q = {.adapter = i % 2 - 1, .seed = 60 + (uint64_t)i, .n = 9};
        q.p = (struct gen_params){.max_tokens = DRAWS, .ignore_eos = true, .sample = how[i % 6]};
        q.p.sample.seed = 1000 + (uint64_t)i;
        q.p.sample.logprobs = -1;
        tiny_ask(&dev.t, &q, &a);
        q.p.sample.logprobs = 0;
        tiny_ask(&dev.t, &q, &b);
        assert_int_equal(a.n, DRAWS);
        assert_int_equal(b.n, DRAWS);
        for (int n = 0; n < DRAWS; n++) same += a.ids[n] == b.ids[n];
        all += DRAWS;
        for (int n = 1; n < DRAWS; n++) distinct += a.ids[n] != a.ids[0];
    }
    printf("  %d of %d draws are the same\n", same, all);
    assert_true(same >= all * 97 / 100); /* sums of 300 weights in another order: a draw may lie between */
    assert_true(distinct > all / 2);
    world_close(&dev);
}

static void test_rows_that_the_device_does_not_choose_take_the_cpus_sampler(void **state)
{
    (void)state;
    static const struct token_bias bias[] = {{65, 100}};
    struct reply r;
    struct ask q = {.adapter = 0, .seed = 3, .n = 9};
    open_device(&world_sched, 1);
    q.p = (struct gen_params){.max_tokens = 8, .ignore_eos = true, .bias = bias, .nbias = 1};
    q.p.sample = (struct sample_params){.top_p = 1, .logprobs = 2};
    tiny_ask(&dev.t, &q, &r);
    assert_int_equal(r.n, 8);
    for (int i = 0; i < 8; i++) assert_int_equal(r.ids[i], 65);
    assert_int_equal(r.last.ntop, 2);
    assert_true(r.last.logprob < 0);
    world_close(&dev);
}

static void test_guesses_do_not_change_answers_on_a_device(void **state)
{
    (void)state;
    struct sched_options o = world_sched;
    o.max_running = 2;
    o.prefix_cache = true;
    o.speculate = 4;
    open_device(&o, 1);
    ask_each(&dev, there);
    assert_true(equal_tokens(alone(), there) >= FEW);
    world_close(&dev);
}

static void test_int8_pages_on_a_device(void **state)
{
    (void)state;
    struct sched_options o = world_sched;
    o.kv_type = KV_INT8;
    open_device(&o, 1);
    ask_each(&dev, there);
    assert_true(equal_tokens(alone(), there) >= FEW / 2);
    world_close(&dev);
}

static void test_a_handle_faults_where_the_host_follows_it(void **state)
{
    (void)state;
    open_device(&world_sched, 1);
    for (int room = 0; room < ROOMS; room++) {
        const volatile char *p = device_room(dev.device, (enum device_room)room);
        pid_t child = fork();
        if (child == 0) {
            signal(SIGSEGV, SIG_DFL);
            _exit(*p == 0 ? 0 : 1);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), SIGSEGV);
    }
    world_close(&dev);
}

static void test_what_does_not_fit_is_refused_with_the_sums(void **state)
{
    (void)state;
    struct model_device_options o = {.kv_type = KV_BF16, .max_rows = 64, .max_seqs = 8, .max_logits = 64};
    struct err e = {0};
    o.max_segs = 8, o.max_rank = 16, o.slots = 1, o.adapter_bytes = 1 << 20, o.kv_bytes = (int64_t)4 << 30;
    tiny_open(&dev.t, TINY_F32, PREC_FAST, &world_loras);
    device_library();
    assert_int_equal(device_open(&dev.device, "cuda", 1, &e), 0);
    assert_int_equal(model_to_device(dev.t.m, dev.device, &o, &dev.plan, &e), 0); /* no more than can be used */
    device_close(dev.device);
    setenv("WEFT_SIMT_MB", "34", 1);
    o.adapter_bytes = 32 << 20;
    assert_int_equal(device_open(&dev.device, "cuda", 1, &e), 0);
    assert_int_equal(model_to_device(dev.t.m, dev.device, &o, &dev.plan, &e), -1);
    assert_int_equal(e.code, ERR_USAGE);
    assert_non_null(strstr(e.msg, "the device has 34 MB: weights"));
    device_close(dev.device);
    unsetenv("WEFT_SIMT_MB");
    tiny_close(&dev.t);
}

static void test_a_device_that_fails_ends_every_request_with_an_error(void **state)
{
    (void)state;
    struct reply r[4];
    open_device(&world_sched, 1);
    setenv("WEFT_SIMT_FAULT", "op:150", 1);
    for (int i = 0; i < 4; i++) {
        struct ask q = {.adapter = i - 1, .seed = 5, .n = 9, .max = 200};
        assert_int_equal(tiny_submit(&dev.t, &q, &r[i]), ERR_NONE);
    }
    for (int i = 0; i < 4; i++) {
        tiny_finish(&r[i]);
        assert_int_equal(r[i].finish, FINISH_ERROR);
        assert_int_equal(r[i].err.code, ERR_UNAVAILABLE);
    }
    assert_true(sched_failed(dev.t.s));
    assert_false(sched_alive(dev.t.s));
    struct ask q = {.adapter = -1, .seed = 5, .n = 9, .max = 2};
    assert_int_not_equal(tiny_submit(&dev.t, &q, &r[0]), ERR_NONE);
    unsetenv("WEFT_SIMT_FAULT");
    world_close(&dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_a_library_there_is_no_device),
        cmocka_unit_test(test_names_that_are_no_device_are_refused),
        cmocka_unit_test(test_a_device_that_is_not_there_is_refused),
        cmocka_unit_test(test_a_device_gives_the_answers_of_the_cpu),
        cmocka_unit_test(test_timing_products_at_start_changes_no_answer),
        cmocka_unit_test(test_adapters_as_columns_of_products_answer_as_beside_them),
        cmocka_unit_test(test_products_are_timed_as_steps_run_them),
        cmocka_unit_test(test_columns_are_timed_beside_kernels_of_their_own),
        cmocka_unit_test(test_products_whose_bits_show_the_columns_do_without),
        cmocka_unit_test(test_answers_alone_and_together_are_the_same),
        cmocka_unit_test(test_a_graph_is_replayed_with_other_sequences_and_adapters),
        cmocka_unit_test(test_adapters_come_and_go_while_steps_run),
        cmocka_unit_test(test_the_device_draws_what_the_cpu_would),
        cmocka_unit_test(test_rows_that_the_device_does_not_choose_take_the_cpus_sampler),
        cmocka_unit_test(test_guesses_do_not_change_answers_on_a_device),
        cmocka_unit_test(test_int8_pages_on_a_device),
        cmocka_unit_test(test_a_handle_faults_where_the_host_follows_it),
        cmocka_unit_test(test_what_does_not_fit_is_refused_with_the_sums),
        cmocka_unit_test(test_a_device_that_fails_ends_every_request_with_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
