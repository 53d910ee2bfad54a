/* Tests of the model of steps and of what is done with it: chunks of prompts, in simulated time. */
#include "base/log.h"
#include "engine/sched_cost.h"
#include "tests/unit/test_sched_sim.h"

/* --- the model --- */

static const double prior[COST_TERMS] = {1000, 1000, 100, 10, 2, 10, 1};
static const double truth[COST_TERMS] = {9000, 150, 480, 2, 0.5, 30, 3};

static double true_us(const struct step_shape *w, double speed)
{
    return speed * (truth[COST_STEP] + truth[COST_DECODE_ROW] * w->decode_rows +
                    truth[COST_PREFILL_ROW] * w->prefill_rows + truth[COST_DECODE_CONTEXT] * w->decode_context +
                    truth[COST_PREFILL_CONTEXT] * w->prefill_context + truth[COST_RANK] * w->ranks +
                    truth[COST_RANK_ROW] * w->rank_rows);
}

/* Steps of all kinds: 1 to 16 streams of 0 to 2,000 positions, every third with a chunk of a prompt. */
static struct step_shape shape_of(int i)
{
    struct step_shape w = {.decode_rows = 1 + i * 7 % 16, .ranks = i * 5 % 4 * 16};
    w.decode_context = w.decode_rows * (i * 131 % 2000);
    if (i % 3 == 0) w.prefill_rows = 16 + i * 29 % 240;
    w.prefill_context = w.prefill_rows ? cost_context(i * 53 % 1500, w.prefill_rows) : 0;
    w.rank_rows = w.ranks ? (w.decode_rows + w.prefill_rows) * (i * 3 % 5 * 8.0) : 0;
    return w;
}

static double noise(int i) /* a factor of 0.9 to 1.1 */
{
    return 1 + 0.1 * tiny_uniform(5, 1, 0, i);
}

static void learn(struct cost_model *c, int from, int n, double speed)
{
    for (int i = from; i < from + n; i++) {
        struct step_shape w = shape_of(i);
        cost_learn(c, &w, true_us(&w, speed) * noise(i));
    }
}

static double worst_error(const struct cost_model *c, double speed)
{
    double worst = 0;
    for (int i = 5000; i < 5200; i++) {
        struct step_shape w = shape_of(i);
        worst = fmax(worst, fabs(cost_of(c, &w) / true_us(&w, speed) - 1));
    }
    return worst;
}

static void test_a_prior_is_of_the_machine(void **state)
{
    (void)state;
    const struct model m = {.layers = 2,
                            .hidden = 64,
                            .heads = 4,
                            .kv_heads = 2,
                            .head_dim = 16,
                            .mlp = 96,
                            .vocab = 300,
                            .weight_bytes = 1 << 20};
    const struct cost_speed unknown = {0}, fast = {4e6, 500e6, 700};
    double slow[COST_TERMS], quick[COST_TERMS];
    cost_prior(&m, &unknown, slow);
    cost_prior(&m, &fast, quick);
    assert_true(fabs(quick[COST_STEP] - (700 + (double)(1 << 20) / 4e6)) < 1e-6);
    for (int i = 0; i < COST_TERMS; i++) assert_true(slow[i] > 0 && quick[i] > 0);
    for (int i = COST_STEP + 1; i < COST_TERMS; i++) assert_true(quick[i] * 100 < slow[i]);
}

static void test_it_learns_what_steps_cost(void **state)
{
    (void)state;
    struct cost_model c;
    cost_init(&c, prior);
    assert_true(worst_error(&c, 1) > 0.5);
    learn(&c, 0, 200, 1);
    assert_true(worst_error(&c, 1) < 0.15);
    assert_true(c.error > 0.01 && c.error < 0.15);
    assert_int_equal(c.seen, 200);
}

static void test_it_follows_a_machine_that_becomes_slower(void **state)
{
    (void)state;
    struct cost_model c;
    cost_init(&c, prior);
    learn(&c, 0, 200, 1);
    learn(&c, 200, 200, 2);
    assert_true(worst_error(&c, 2) < 0.15);
    learn(&c, 400, 200, 1);
    assert_true(worst_error(&c, 1) < 0.15);
}

static void test_an_hour_of_decoding_does_not_forget_what_prompts_cost(void **state)
{
    (void)state;
    struct cost_model c;
    cost_init(&c, prior);
    learn(&c, 0, 200, 1);
    double before = cost_us(&c, COST_PREFILL_ROW);
    for (int i = 0; i < 20000; i++) {
        struct step_shape w = {.decode_rows = 8, .decode_context = 8.0 * (i % 1000)};
        cost_learn(&c, &w, true_us(&w, 1) * noise(i));
    }
    struct step_shape w = {.decode_rows = 8, .decode_context = 4000, .prefill_rows = 128, .prefill_context = 40000};
    assert_true(fabs(cost_us(&c, COST_PREFILL_ROW) / before - 1) < 0.05);
    assert_true(fabs(cost_of(&c, &w) / true_us(&w, 1) - 1) < 0.1);
}

static void test_one_slow_step_hardly_counts(void **state)
{
    (void)state;
    struct cost_model c;
    cost_init(&c, prior);
    learn(&c, 0, 200, 1);
    struct step_shape w = shape_of(3);
    double before = cost_of(&c, &w);
    cost_learn(&c, &w, 100 * before);
    assert_true(cost_of(&c, &w) < 1.3 * before);
    for (int i = 0; i < COST_TERMS; i++) assert_true(cost_us(&c, (enum cost_term)i) >= 0);
}

/* As real steps are: always eight rows, a context that grows with them, a product that costs nothing while weights are read, spikes. */
static void test_steps_that_are_all_alike_don_t_make_it_swing(void **state)
{
    (void)state;
    struct cost_model c;
    double worst = 0;
    cost_init(&c, prior);
    for (int i = 0; i < 5000; i++) {
        struct step_shape w = {.decode_rows = 8, .decode_context = 8.0 * (i % 3000)};
        if (i % 1000 > 600) {
            w.prefill_rows = 16 + i % 7 * 16;
            w.prefill_context = cost_context(i % 1000 * 16, w.prefill_rows);
        }
        double us = fmax(8000, 300.0 * (w.prefill_rows + 8)) + 0.3 * w.prefill_context + 0.1 * w.decode_context;
        us *= noise(i) * (i % 97 == 0 ? 5 : 1);
        double estimate = cost_of(&c, &w);
        if (i > 700 && i % 97) worst = fmax(worst, estimate / us);
        cost_learn(&c, &w, us);
    }
    assert_true(c.error < 0.5);
    assert_true(worst < 3);
}

static void test_rows_within_a_time_take_that_time(void **state)
{
    (void)state;
    struct cost_model c;
    cost_init(&c, truth);
    static const int at[] = {0, 100, 4000, 32000};
    for (int i = 0; i < 8; i++)
        for (double us = 100; us < 1e6; us *= 3) {
            int from = at[i / 2], ranks = i % 2 * 64, rows = cost_rows_within(&c, us, from, ranks, 100000);
            struct step_shape w = {.prefill_rows = rows, .prefill_context = cost_context(from, rows), .rank_rows = (double)rows * ranks},
                              more = {.prefill_rows = rows + 1, .prefill_context = cost_context(from, rows + 1), .rank_rows = (rows + 1.0) * ranks};
            assert_true(fabs(true_us(&w, 1) - truth[COST_STEP] - cost_of_prompt(&c, from, ranks, rows)) < 1e-6 * (1 + us));
            assert_true(true_us(&w, 1) - truth[COST_STEP] <= us + 1);
            assert_true(true_us(&more, 1) - truth[COST_STEP] > us - 1);
            assert_int_equal(cost_rows_within(&c, us, from, ranks, rows / 2), rows / 2);
        }
    assert_int_equal(cost_rows_within(&c, 0, 0, 0, 100), 0);
    assert_int_equal(cost_rows_within(&c, -5, 0, 0, 100), 0);
    assert_int_equal(cost_rows_within(&c, INFINITY, 0, 0, 100), 100);
}

/* --- chunks --- */

#define LONG_PROMPT 6000

static const struct sched_options eight = {
    .max_running = 16, .max_waiting = 64, .step_tokens = 256, .kv_bytes = 64 << 20, .kernels = "auto"};

/* Eight streams that decode, then a long prompt. */
static void run_beside(const struct sched_options *o)
{
    sim_open(1, 8192);
    sim.us[COST_PREFILL_CONTEXT] = 0.05;
    for (int i = 0; i < 8; i++)
        sim_add(&(struct sim_request){
            .tenant = "streams", .class = CLASS_NORMAL, .prompt = 20, .output = 700, .seed = (uint64_t)i});
    sim_add(&(struct sim_request){
        .at_us = 2000000, .tenant = "long", .class = CLASS_NORMAL, .prompt = LONG_PROMPT, .output = 4, .seed = 99});
    sim_run(o);
}

static const struct sim_request *long_one(void)
{
    for (int i = 0; i < sim.n; i++)
        if (sim.q[i].prompt == LONG_PROMPT) return &sim.q[i];
    return NULL;
}

/* Steps in which streams decode beside a prompt: how many, and how many took longer than `us`. */
static void count_mixed(double us, int *mixed, int *over, int *least_rows)
{
    *mixed = *over = 0;
    *least_rows = 1 << 30;
    for (int i = 0; i < sim.steps; i++) {
        const struct step_shape *w = &sim.step[i].shape;
        if (w->decode_rows < 8 || w->prefill_rows == 0) continue;
        ++*mixed;
        *over += sim.step[i].took_us > us;
        if (w->prefill_rows < *least_rows) *least_rows = w->prefill_rows;
    }
}

static void test_decoding_holds_its_target_while_a_long_prompt_streams_in(void **state)
{
    (void)state;
    struct sched_options o = eight;
    int mixed, over, rows;
    o.target[CLASS_NORMAL].tpot_ms = 60;
    run_beside(&o);
    count_mixed(60000, &mixed, &over, &rows);
    assert_int_equal(long_one()->tokens, 4);
    assert_true(mixed > 50);
    assert_in_range(over, 0, mixed / 20);
    assert_in_range(rows, 1, 255);
    double longest_us = 0; /* the chunks fill the time that the target leaves */
    for (int i = 0; i < sim.steps; i++) longest_us = fmax(longest_us, (double)sim.step[i].took_us);
    assert_true(longest_us > 48000);
    sim_close();
}

static void test_without_a_target_chunks_are_as_long_as_a_step_may_be(void **state)
{
    (void)state;
    int mixed, over, rows;
    run_beside(&eight);
    count_mixed(60000, &mixed, &over, &rows);
    assert_true(over > mixed / 2);
    sim_close();
}

static void test_a_target_that_can_not_be_held_starves_no_prompt(void **state)
{
    (void)state;
    struct sched_options o = eight;
    int mixed, over, rows;
    o.target[CLASS_NORMAL].tpot_ms = 5; /* less than a step without any prompt */
    run_beside(&o);
    count_mixed(5000, &mixed, &over, &rows);
    assert_int_equal(over, mixed);
    assert_true(rows >= 1);
    count_mixed(1.5 * 10800, &mixed, &over, &rows); /* a quarter more than decoding takes, and what estimates err */
    assert_in_range(over, 0, mixed / 10);           /* the first ones, until it is learnt */
    assert_int_equal(long_one()->tokens, 4);
    sim_close();
}

static void test_only_those_who_decode_have_a_say(void **state)
{
    (void)state;
    struct sched_options o = eight;
    o.target[CLASS_INTERACTIVE].tpot_ms = 20; /* nobody of this class is there */
    o.target[CLASS_NORMAL].tpot_ms = 60;
    int mixed, over, rows;
    run_beside(&o);
    count_mixed(40000, &mixed, &over, &rows);
    assert_true(over > mixed / 2);
    sim_close();
}

static void test_a_short_prompt_does_not_wait_behind_a_long_one(void **state)
{
    (void)state;
    struct sched_options o = eight;
    o.target[CLASS_NORMAL].tpot_ms = 60;
    sim_open(1, 8192);
    for (int i = 0; i < 4; i++)
        sim_add(&(struct sim_request){
            .tenant = "one", .class = CLASS_NORMAL, .prompt = 20, .output = 400, .seed = (uint64_t)i});
    sim_add(&(struct sim_request){
        .at_us = 1000000, .tenant = "one", .class = CLASS_NORMAL, .prompt = LONG_PROMPT, .output = 4, .seed = 50});
    sim_add(&(struct sim_request){
        .at_us = 1500000, .tenant = "one", .class = CLASS_NORMAL, .prompt = 60, .output = 4, .seed = 51});
    sim_run(&o);
    const struct sim_request *little = &sim.q[5];
    assert_int_equal(little->prompt, 60);
    assert_true(little->first_us - little->sent_us < 4 * 60000);
    assert_true(little->first_us < long_one()->first_us);
    sim_close();
}

/* --- adapters --- */

#define DEAR 6 /* the adapter, from 1, of the largest rank */

static double ranks_of_dear(void)
{
    return lora_rank_pad(tiny_adapters[DEAR - 1].rank);
}

/* A request of an adapter beside one of the base: each of its rows counts its ranks, and the base's none. */
static void test_each_row_counts_the_ranks_of_its_adapter(void **state)
{
    (void)state;
    sim_open(8, 8192);
    sim_add(&(struct sim_request){.tenant = "a", .class = CLASS_NORMAL, .adapter = DEAR, .prompt = 700, .output = 50, .seed = 1});
    sim_add(&(struct sim_request){.tenant = "b", .class = CLASS_NORMAL, .prompt = 300, .output = 90, .seed = 2});
    sim_run(&eight);
    double rank_rows = 0, rows = 0;
    for (int i = 0; i < sim.steps; i++) {
        const struct step_shape *w = &sim.step[i].shape;
        rank_rows += w->rank_rows;
        rows += w->decode_rows + w->prefill_rows;
        assert_true(w->ranks == 0 || w->ranks == (int)ranks_of_dear());
        assert_true((w->rank_rows > 0) == (w->ranks > 0));
    }
    assert_true(rows == 700 + 49 + 300 + 89);
    assert_true(rank_rows == (700 + 49) * ranks_of_dear());
    sim_close();
}

/* An adapter that a text calls, which never comes, is in none of its rows. */
static void test_an_adapter_that_is_not_called_counts_no_ranks(void **state)
{
    static const int32_t nowhere[4] = {255, 1, 254, 255};
    (void)state;
    sim_open(8, 8192);
    struct outcome p = tiny_pin(&sim.t, DEAR - 1);
    p.slot->invocation = nowhere;
    p.slot->ninvocation = 4;
    sim_add(&(struct sim_request){.tenant = "a", .class = CLASS_NORMAL, .adapter = DEAR, .prompt = 100, .output = 20, .seed = 1});
    sim_run(&eight);
    assert_true(sim.steps >= 20);
    for (int i = 0; i < sim.steps; i++) assert_true(sim.step[i].shape.rank_rows == 0 && sim.step[i].shape.ranks == 0);
    p.slot->ninvocation = 0;
    lora_unpin(sim.t.loras, p.slot);
    sim_close();
}

/* Prompts of the base and of an adapter whose rows take four times as long come in turn beside streams of both: the chunks of each are as long as the
 * target allows, so steps with either fill it and none is much longer. */
static void test_a_target_holds_beside_prompts_whose_rows_are_dear(void **state)
{
    (void)state;
    struct sched_options o = eight;
    int beside[2] = {0}, over = 0;
    double most[2] = {0};
    o.target[CLASS_NORMAL].tpot_ms = 60;
    sim_open(8, 8192);
    sim.prior = 0.5;
    sim.us[COST_RANK_ROW] = 1500 / ranks_of_dear();
    for (int i = 0; i < 8; i++)
        sim_add(&(struct sim_request){.tenant = "streams", .class = CLASS_NORMAL, .adapter = i % 2 ? DEAR : 0, .prompt = 20, .output = 700, .seed = (uint64_t)i});
    for (int i = 0; i < 12; i++)
        sim_add(&(struct sim_request){
            .at_us = 4000000 + 1500000 * i, .tenant = "streams", .class = CLASS_NORMAL, .adapter = i % 2 ? DEAR : 0, .prompt = 500, .output = 2, .seed = 50 + (uint64_t)i});
    sim_run(&o);
    for (int i = 0; i < sim.steps; i++) {
        const struct step_shape *w = &sim.step[i].shape;
        if (w->decode_rows < 8 || w->prefill_rows == 0) continue;
        bool dear = w->rank_rows > 5 * ranks_of_dear(); /* more than the streams' own four */
        beside[dear]++;
        most[dear] = fmax(most[dear], (double)sim.step[i].took_us);
        over += sim.step[i].took_us > 60000;
    }
    assert_true(beside[0] >= 20 && beside[1] >= 60);
    assert_in_range(over, 0, (beside[0] + beside[1]) / 20);
    assert_true(most[0] > 48000 && most[1] > 48000);
    sim_close();
}

int main(void)
{
    log_init("test", LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_prior_is_of_the_machine),
        cmocka_unit_test(test_it_learns_what_steps_cost),
        cmocka_unit_test(test_it_follows_a_machine_that_becomes_slower),
        cmocka_unit_test(test_an_hour_of_decoding_does_not_forget_what_prompts_cost),
        cmocka_unit_test(test_one_slow_step_hardly_counts),
        cmocka_unit_test(test_steps_that_are_all_alike_don_t_make_it_swing),
        cmocka_unit_test(test_rows_within_a_time_take_that_time),
        cmocka_unit_test(test_decoding_holds_its_target_while_a_long_prompt_streams_in),
        cmocka_unit_test(test_without_a_target_chunks_are_as_long_as_a_step_may_be),
        cmocka_unit_test(test_a_target_that_can_not_be_held_starves_no_prompt),
        cmocka_unit_test(test_only_those_who_decode_have_a_say),
        cmocka_unit_test(test_a_short_prompt_does_not_wait_behind_a_long_one),
        cmocka_unit_test(test_each_row_counts_the_ranks_of_its_adapter),
        cmocka_unit_test(test_an_adapter_that_is_not_called_counts_no_ranks),
        cmocka_unit_test(test_a_target_holds_beside_prompts_whose_rows_are_dear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
