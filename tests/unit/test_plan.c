/* The planner's formulas beside queues of which the answer is known, and beside the simulator over a grid of cases (docs/PLANNING.md has the
 * table). */
#include "gateway/cli/plan.h"
#include "tests/sim/sim.h"
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct plan_settings told(int argc, char **argv)
{
    struct plan_settings o = {0};
    struct err e = {0};
    assert_int_equal(conf_load(plan_rows, plan_nrows, &o, argc, argv, NULL, 0, NULL, &e), 0);
    return o;
}

static struct plan_settings defaults(void)
{
    char *argv[] = {(char[]){"plan"}};
    return told(1, argv);
}

static void done(struct plan_settings *o)
{
    conf_free(plan_rows, plan_nrows, o);
}

/* --- beside the simulator --- */

/* What the two are told alike. */
struct grid {
    const char *name;
    int engines, rate_s, slots, adapters, zipf_percent, prompt, prompt_sigma, output, output_sigma;
    bool bare; /* steps and rows only: no ranks, no contexts */
};

static struct tally simulated(const struct grid *g, const struct plan_settings *p, int requests)
{
    struct sim_settings o = {0};
    struct tally of;
    struct trace t;
    struct sim *s;
    struct err e = {0};
    char *argv[] = {(char[]){"simulate"}};
    assert_int_equal(conf_load(sim_rows, sim_nrows, &o, 1, argv, NULL, 0, NULL, &e), 0);
    o.engines = g->engines, o.rate_s = g->rate_s, o.max_slots = g->slots, o.adapters = g->adapters, o.zipf_percent = g->zipf_percent;
    o.prompt_median = g->prompt, o.prompt_sigma_percent = g->prompt_sigma, o.output_median = g->output, o.output_sigma_percent = g->output_sigma;
    o.bursts_minute = 0, o.requests = requests, o.tenants = 1, o.warm_percent = 30, o.capacity = 100000;
    o.rank_ns = p->rank_ns, o.rank_row_ns = p->rank_row_ns, o.free_rows = p->free_rows, o.decode_row_ns = p->decode_row_ns;
    assert_int_equal(trace_make(&t, &o, &e), 0);
    assert_int_equal(sim_open(&s, &o, &t, policy_find("shipped"), &e), 0);
    sim_run(s);
    sim_tell(s, &of);
    sim_close(s);
    trace_close(&t);
    conf_free(sim_rows, sim_nrows, &o);
    return of;
}

static struct plan_engine planned(const struct grid *g, struct plan_settings *p)
{
    struct plan_case c;
    struct plan_engine out;
    struct err e = {0};
    p->adapters = g->adapters, p->zipf_percent = g->zipf_percent;
    p->prompt_median = g->prompt, p->prompt_sigma_percent = g->prompt_sigma, p->output_median = g->output, p->output_sigma_percent = g->output_sigma;
    p->face_us = 0;
    assert_int_equal(plan_begin(&c, p, &e), 0);
    c.engines = g->engines, c.slots = g->slots, c.rate = g->rate_s;
    plan_engine(&c, &out);
    return out;
}

static const struct grid grid[] = {
    {"one engine, light", 1, 2, 64, 50, 100, 128, 80, 48, 70, false},
    {"one engine, half", 1, 6, 64, 50, 100, 128, 80, 48, 70, false},
    {"one engine, full", 1, 10, 64, 50, 100, 128, 80, 48, 70, false},
    {"short prompts", 1, 10, 64, 50, 100, 32, 50, 64, 50, false},
    {"long prompts", 1, 3, 64, 50, 100, 512, 50, 32, 50, false},
    {"equal lengths", 1, 8, 64, 50, 100, 128, 0, 48, 0, false},
    {"long answers", 1, 5, 64, 50, 100, 64, 80, 200, 50, false},
    {"eight engines", 8, 60, 64, 400, 100, 128, 80, 48, 70, false},
    {"eight, few slots", 8, 60, 32, 800, 100, 128, 80, 48, 70, false},
    {"32 engines", 32, 300, 64, 4000, 100, 128, 80, 48, 70, false},
    {"32, Zipf 0.8", 32, 300, 64, 4000, 80, 128, 80, 48, 70, false},
    {"32, light", 32, 100, 64, 4000, 100, 128, 80, 48, 70, false},
    {"one, many adapters", 1, 6, 64, 400, 60, 128, 80, 48, 70, false},
};

static void near(const char *name, const char *what, double formula, double simulated, double bound)
{
    double ratio = formula / simulated;
    if (ratio <= 1 + bound && ratio >= 1 / (1 + bound)) return;
    fail_msg("%s: %s is %.3g by formula, %.3g simulated", name, what, formula, simulated);
}

static const double bound_of[4] = {0.16, 0.22, 0.30, 0.10}; /* p50, p90, p99, mean */

static void near_times(const char *name, const char *what, const double f[4], const double s[4], const double bound[4])
{
    for (int i = 0; i < 4; i++) near(name, what, f[i], s[i], bound[i]);
}

static void tell(const struct grid *g, const struct plan_engine *f, const struct tally *s, double loads)
{
    printf("| %s |", g->name);
    for (int i = 0; i < 4; i++) printf(" %.0f / %.0f |", f->ttft_ms[i], s->ttft_ms[i]);
    for (int i = 0; i < 4; i++) printf(" %.1f / %.1f |", f->tpot_ms[i], s->tpot_ms[i]);
    printf(" %.1f / %.1f |\n", 100 * f->cold, 100 * loads);
}

/* WEFT_TELL=1 prints the table of docs/PLANNING.md. */
static void formulas_are_near_the_simulator(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof grid / sizeof *grid; i++) {
        struct plan_settings p = defaults();
        struct plan_engine f = planned(&grid[i], &p);
        struct tally s = simulated(&grid[i], &p, 20000 + 2000 * grid[i].engines);
        double loads = (double)s.loads / (double)s.requests;
        if (getenv("WEFT_TELL")) tell(&grid[i], &f, &s, loads);
        near_times(grid[i].name, "TTFT", f.ttft_ms, s.ttft_ms, bound_of);
        near_times(grid[i].name, "TPOT", f.tpot_ms, s.tpot_ms, bound_of);
        near(grid[i].name, "the part that is cold", f.cold + 0.02, loads + 0.02, 0.25);
        near(grid[i].name, "busy", f.busy, s.busy, 0.05);
        near(grid[i].name, "all shares together", f.share[0] + f.share[1] + f.share[2] + f.share[3], f.busy, 0.001);
        near(grid[i].name, "tokens a second", f.output_tokens_s, (double)s.output_tokens / s.seconds, 0.05);
        done(&p);
    }
}

/* The same of a machine as calibration finds it: rows that are free while weights are read, ranks that each row is multiplied with. A step's
 * time then grows later and steeper, and the number of sequences moves more: p99 of output tokens is up to 24 % short. */
static void formulas_are_near_the_simulator_where_rows_are_free_and_ranks_cost(void **state)
{
    static const double bound[4] = {0.18, 0.22, 0.40, 0.12};
    (void)state;
    for (size_t i = 0; i < sizeof grid / sizeof *grid; i++) {
        struct grid g = grid[i];
        if (g.engines > 8) continue;
        struct plan_settings p = defaults();
        g.rate_s = (g.rate_s * 9 + 4) / 10; /* requests take a tenth more, so that engines are as busy */
        p.free_rows = 6, p.decode_row_ns = 250000, p.rank_row_ns = 1700;
        struct plan_engine f = planned(&g, &p);
        struct tally s = simulated(&g, &p, 20000 + 2000 * g.engines);
        if (getenv("WEFT_TELL")) tell(&g, &f, &s, (double)s.loads / (double)s.requests);
        near_times(g.name, "TTFT", f.ttft_ms, s.ttft_ms, bound);
        near_times(g.name, "TPOT", f.tpot_ms, s.tpot_ms, bound);
        near(g.name, "busy", f.busy, s.busy, 0.05);
        near(g.name, "tokens a second", f.output_tokens_s, (double)s.output_tokens / s.seconds, 0.05);
        done(&p);
    }
}

/* --- known answers --- */

/* One sequence at a time and all requests alike: busy is rate times work, a first token alone is its step, and with M/D/1 beside it. */
static void one_at_a_time_is_as_busy_as_its_work_says(void **state)
{
    struct plan_settings o = defaults();
    struct plan_case c;
    struct plan_engine g;
    struct err e = {0};
    (void)state;
    o.adapters = 0, o.max_running = 1, o.prompt_sigma_percent = o.output_sigma_percent = 0, o.prompt_median = 100, o.output_median = 11, o.face_us = 0;
    assert_int_equal(plan_begin(&c, &o, &e), 0);
    c.rate = 4;
    plan_engine(&c, &g);
    double step = (double)o.step_ns / 1e3, prompt = 100 * (double)o.prefill_row_ns / 1e3 + 5050 * (double)o.prefill_context_ns / 1e3;
    double rows = 10 * (double)o.decode_row_ns / 1e3 + 1055 * (double)o.decode_context_ns / 1e3 + 10 * step; /* positions 101 to 110 */
    assert_true(fabs(plan_work_us(&c, 1) - step - prompt - rows) < 0.002 * rows);
    assert_true(fabs(g.busy - 4e-6 * plan_work_us(&c, 1)) < 1e-3);
    assert_true(fabs(g.output_tokens_s - 44) < 1e-6);
    c.rate = 1e-3;
    plan_engine(&c, &g);
    assert_true(fabs(g.ttft_ms[0] * 1e3 - step - prompt) < 1e-3 * prompt);
    done(&o);
}

/* One stream waits for nobody: what it takes is the sum of its steps. */
static void one_stream_takes_what_its_steps_cost(void **state)
{
    struct plan_settings o = defaults();
    struct plan_case c;
    struct plan_engine g, eight;
    struct err e = {0};
    (void)state;
    o.adapters = 0, o.prompt_sigma_percent = o.output_sigma_percent = 0, o.prompt_median = 100, o.output_median = 11, o.face_us = 0;
    assert_int_equal(plan_begin(&c, &o, &e), 0);
    c.streams = 1;
    plan_engine(&c, &g);
    assert_true(fabs(g.output_tokens_s / (11e6 / plan_work_us(&c, 1)) - 1) < 1e-6);
    assert_true(fabs(g.tpot_ms[3] * 1e3 - plan_step_us(&c, 1)) < 1);
    assert_true(fabs(g.ttft_ms[3] + 10 * g.tpot_ms[3] - 11e3 / g.output_tokens_s) < 0.01);
    c.streams = 8;
    plan_engine(&c, &eight);
    assert_true(eight.output_tokens_s > 1.5 * g.output_tokens_s && eight.tpot_ms[3] > g.tpot_ms[3]);
    double cycle = 8 * 11e3 / eight.output_tokens_s;
    assert_true(fabs((eight.ttft_ms[3] + 10 * eight.tpot_ms[3]) / cycle - 1) < 0.15);
    done(&o);
}

/* Up to so many sequences a step is the weights and their contexts; from there on each costs its row. */
static void rows_that_are_free_cost_nothing_until_there_are_more(void **state)
{
    struct plan_settings o = defaults();
    struct plan_case c;
    struct err e = {0};
    (void)state;
    o.adapters = 0, o.prompt_sigma_percent = o.output_sigma_percent = 0, o.prompt_median = 100, o.output_median = 11, o.decode_context_ns = 0, o.free_rows = 6;
    assert_int_equal(plan_begin(&c, &o, &e), 0);
    assert_true(fabs(plan_step_us(&c, 1) - (double)o.step_ns / 1e3) < 1e-6 && fabs(plan_step_us(&c, 6) - plan_step_us(&c, 1)) < 1e-6);
    assert_true(fabs(plan_step_us(&c, 10) - plan_step_us(&c, 6) - 4 * (double)o.decode_row_ns / 1e3) < 1e-6);
    double prompt = 100 * (double)o.prefill_row_ns / 1e3 + 5050 * (double)o.prefill_context_ns / 1e3, step = (double)o.step_ns / 1e3;
    assert_true(fabs(plan_work_us(&c, 1) - prompt - 11 * step) < 1e-6);
    double steps = 11.0 / 22, rows = 10 - 6 * steps; /* of 22 in flight each has a 22nd part of the steps, of whose 20 rows six are free */
    assert_true(fabs(plan_work_us(&c, 22) - prompt - steps * step - rows * (double)o.decode_row_ns / 1e3) < 1e-6);
    done(&o);
}

/* Each row of a prompt and of an answer is multiplied with its adapter's ranks; where there are no adapters, none is. */
static void ranks_cost_each_row_that_is_multiplied_with_them(void **state)
{
    struct plan_settings o = defaults();
    struct plan_case c;
    struct plan_engine g;
    struct err e = {0};
    const char *own = o.ranks;
    (void)state;
    o.prompt_sigma_percent = o.output_sigma_percent = 0, o.prompt_median = 100, o.output_median = 11, o.ranks = "16:50,32:50";
    for (int adapters = 0; adapters < 2; adapters++) {
        o.adapters = adapters, o.rank_row_ns = 0;
        assert_int_equal(plan_begin(&c, &o, &e), 0);
        double without = plan_work_us(&c, 1), step = plan_step_us(&c, 4);
        o.rank_row_ns = 2000;
        assert_true(fabs(plan_work_us(&c, 1) - without - adapters * 110 * 24 * 2.0) < 1e-6);
        assert_true(fabs(plan_step_us(&c, 4) - step - adapters * 4 * 24 * 2.0) < 1e-6);
        c.streams = 4;
        plan_engine(&c, &g);
        double sum = 0; /* of an engine that always works all its time is somewhere */
        for (int i = 0; i < 4; i++) sum += g.share[i];
        assert_true(fabs(sum - 1) < 1e-6);
    }
    o.ranks = own;
    done(&o);
}

/* All are resident where there are slots for all; with none of them popular, who is not resident is who has no slot. */
static void cold_loads_follow_slots(void **state)
{
    struct plan_settings o = defaults();
    (void)state;
    o.adapters = 64;
    assert_true(plan_cold(&o, 1, 64, 3) < 1e-6);
    o.adapters = 1000, o.zipf_percent = 0;
    assert_true(fabs(plan_cold(&o, 1, 250, 3) - 0.75) < 0.01);
    o.zipf_percent = 100;
    double last = 1;
    for (int slots = 8; slots <= 512; slots *= 2) {
        double cold = plan_cold(&o, 4, slots, 3);
        assert_true(cold < last);
        last = cold;
    }
    o.adapters = 0;
    assert_true(plan_cold(&o, 1, 1, 3) == 0);
    done(&o);
}

static void lengths_are_those_of_a_lognormal(void **state)
{
    struct plan_length l;
    (void)state;
    plan_length(&l, 100, 0.5, 1e9);
    assert_true(fabs(l.mean / (100 * exp(0.125)) - 1) < 0.01 && fabs(l.square / (1e4 * exp(0.5)) - 1) < 0.03);
    plan_length(&l, 64, 0, 1000);
    assert_true(fabs(l.mean - 64) < 1e-9 && fabs(l.at[0] - 64) < 1e-9 && fabs(l.triangle - 64 * 63 / 2) < 1e-6);
    plan_length(&l, 64, 2, 70);
    assert_true(l.at[PLAN_QUANTILES - 1] == 70);
}

/* --- the choice --- */

static void as_few_engines_are_chosen_as_hold_what_is_asked_for(void **state)
{
    struct plan_settings o = defaults();
    struct plan_choice p, fewer;
    struct err e = {0};
    (void)state;
    const char *own = o.price_hour;
    o.requests_minute = 3000, o.peak_minute = 6000, o.adapters = 500, o.price_hour = "0.5";
    assert_int_equal(plan_choose(&o, &p, &e), 0);
    assert_true(p.holds && p.engines > 5 && p.limit);
    assert_true(p.peak.ttft_ms[2] <= 1000 && p.peak.tpot_ms[2] <= 100 && p.peak.cold <= 0.05);
    assert_true(p.mean.rate * p.engines > 49.9 && p.mean.rate * p.engines < 50.1);
    double tokens = (p.mean.prompt_tokens_s + p.mean.output_tokens_s) * 3600 / 1e6;
    assert_true(fabs(p.cost_million * tokens / (0.5 * p.engines) - 1) < 1e-9);
    o.engines = p.engines - 1;
    assert_int_equal(plan_choose(&o, &fewer, &e), 0);
    assert_true(!fewer.holds && fewer.engines == o.engines);
    o.engines = 0, o.max_slots = 32;
    assert_int_equal(plan_choose(&o, &fewer, &e), 0);
    assert_int_equal(fewer.slots, 32);
    o.price_hour = own;
    done(&o);
}

static int64_t shipped_slots(void)
{
#define X(field, TYPE, deflt, ...) {#field, deflt},
    static const char *const row[][2] = {
#include "schema/engine_settings.def"
    };
#undef X
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        if (strcmp(row[i][0], "max_slots") == 0) return strtol(row[i][1], NULL, 10);
    return 0;
}

/* What docs/PLACEMENT.md claims is of the slots that an engine has where nobody says otherwise. */
static void simulator_and_planner_begin_with_the_slots_that_an_engine_has(void **state)
{
    struct plan_settings o = defaults();
    struct sim_settings sim = {0};
    struct plan_choice p;
    struct err e = {0};
    char *argv[] = {(char[]){"simulate"}};
    (void)state;
    assert_int_equal(conf_load(sim_rows, sim_nrows, &sim, 1, argv, NULL, 0, NULL, &e), 0);
    assert_int_equal(sim.max_slots, shipped_slots());
    o.requests_minute = 60, o.adapters = 5000, o.engines = 1, o.cold_percent = 100;
    assert_int_equal(plan_choose(&o, &p, &e), 0);
    assert_int_equal(p.slots, shipped_slots());
    conf_free(sim_rows, sim_nrows, &sim);
    done(&o);
}

static void slots_are_as_many_as_memory_has_room_for(void **state)
{
    struct plan_settings o = defaults();
    struct plan_choice p;
    struct err e = {0};
    (void)state;
    o.requests_minute = 60, o.adapters = 5000, o.engines = 1;
    assert_int_equal(plan_choose(&o, &p, &e), 0);
    assert_true(p.slots > shipped_slots());
    double each = p.slot_bytes / p.slots, rest = p.engine_bytes - p.slot_bytes;
    for (int room = 4; room <= 256; room *= 2) {
        o.memory_mb = (int64_t)((rest + 1.5 * room * each) / (1 << 20));
        assert_int_equal(plan_choose(&o, &p, &e), 0);
        assert_int_equal(p.slots, room);
    }
    o.adapters = 10, o.memory_mb = (int64_t)((rest + 11 * each) / (1 << 20));
    assert_int_equal(plan_choose(&o, &p, &e), 0);
    assert_int_equal(p.slots, shipped_slots());
    done(&o);
}

static void ranks_that_are_none_are_refused(void **state)
{
    static const char *const bad[] = {"", "8", "8:", ":5", "8:50;16:50", "0:50", "8:0", "8:-1", "x:5", "8:50,,"};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct plan_settings o = {.ranks = bad[i], .prompt_median = 10, .output_median = 10, .prompt_max = 10, .output_max = 10};
        struct plan_case c;
        struct err e = {0};
        assert_int_equal(plan_begin(&c, &o, &e), -1);
    }
}

static void another_base_takes_as_much_more_as_it_is_larger(void **state)
{
    struct plan_settings o = defaults();
    struct plan_profile to = {.weight_bytes = 10 * o.weight_bytes, .kv_token_bytes = 2 * o.kv_token_bytes, .rank_bytes = 3 * o.rank_bytes, .max_context = 77};
    (void)state;
    o.rank_row_ns = 1000;
    int64_t step = o.step_ns, look = o.decode_context_ns, rank = o.rank_ns, free_rows = o.free_rows = 5;
    plan_scale(&o, &to);
    assert_true(o.step_ns == 10 * step && o.decode_context_ns == 2 * look && o.rank_ns == 3 * rank && o.max_context == 77);
    assert_true(o.rank_row_ns == 3000 && o.free_rows == free_rows);
    done(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_at_a_time_is_as_busy_as_its_work_says),
        cmocka_unit_test(one_stream_takes_what_its_steps_cost),
        cmocka_unit_test(rows_that_are_free_cost_nothing_until_there_are_more),
        cmocka_unit_test(ranks_cost_each_row_that_is_multiplied_with_them),
        cmocka_unit_test(cold_loads_follow_slots),
        cmocka_unit_test(lengths_are_those_of_a_lognormal),
        cmocka_unit_test(as_few_engines_are_chosen_as_hold_what_is_asked_for),
        cmocka_unit_test(simulator_and_planner_begin_with_the_slots_that_an_engine_has),
        cmocka_unit_test(slots_are_as_many_as_memory_has_room_for),
        cmocka_unit_test(ranks_that_are_none_are_refused),
        cmocka_unit_test(another_base_takes_as_much_more_as_it_is_larger),
        cmocka_unit_test(formulas_are_near_the_simulator),
        cmocka_unit_test(formulas_are_near_the_simulator_where_rows_are_free_and_ranks_cost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
