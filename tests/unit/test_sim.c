/* The simulator's parts beside theory and naive models: queues of which the mean wait is known, slots, popularity, and that
 * nothing is lost. And what it is for: the shipped placement beside others, so that a change of place.c that costs loads or
 * balance is seen here. */
#include "tests/sim/sim.h"
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct sim_settings defaults(void)
{
    struct sim_settings o = {0};
    struct err e = {0};
    char *argv[] = {(char[]){"simulate"}};
    assert_int_equal(conf_load(sim_rows, sim_nrows, &o, 1, argv, NULL, 0, NULL, &e), 0);
    return o;
}

static struct trace made(const struct sim_settings *o)
{
    struct trace t;
    struct err e = {0};
    assert_int_equal(trace_make(&t, o, &e), 0);
    return t;
}

static struct sim *run(const struct sim_settings *o, const struct trace *t, const char *policy, struct tally *out)
{
    struct sim *s;
    struct err e = {0};
    assert_non_null(policy_find(policy));
    assert_int_equal(sim_open(&s, o, t, policy_find(policy), &e), 0);
    sim_run(s);
    sim_tell(s, out);
    return s;
}

static void done(struct sim_settings *o)
{
    conf_free(sim_rows, sim_nrows, o);
}

/* --- conservation --- */

static void check_all_ended(const struct sim *s, const struct trace *t)
{
    int64_t loads = 0, loaded = 0;
    for (int i = 0; i < t->n; i++) {
        const struct way *w = &s->way[i];
        assert_int_equal(w->done, w->q->prompt + w->q->output - 1);
        assert_int_equal(w->made, w->q->output);
        assert_true(w->first_us > w->q->at_us && w->end_us >= w->first_us);
        loaded += w->loaded;
    }
    for (int i = 0; i < s->router.n; i++) {
        const struct engine *g = &s->engine[i];
        loads += g->loads;
        assert_int_equal(g->nrunning + g->waiting.n + g->nload, 0);
        assert_int_equal(s->router.v[i].in_flight, 0);
        for (int k = 0; k < g->slots.n; k++) assert_int_equal(g->slots.v[k].holds, 0);
    }
    assert_int_equal(loads, loaded);
    assert_int_equal(s->ended, t->n);
    for (int i = 0; i < t->adapters; i++) assert_int_equal(s->router.hot[i], 0);
}

/* Few slots, places and rows, so that every queue is used; all of them must come to an end. */
static void every_request_ends_once_and_nothing_is_held_after_it(void **state)
{
    struct sim_settings o = defaults();
    struct tally of;
    (void)state;
    o.engines = 5, o.capacity = 12, o.max_slots = 4, o.max_running = 7, o.step_tokens = 33, o.tpot_ms = 20;
    o.adapters = 90, o.tenants = 7, o.requests = 3000, o.rate_s = 60, o.warm_percent = 0;
    struct trace t = made(&o);
    for (int i = 0; i < npolicies; i++) {
        struct sim *s = run(&o, &t, policies[i].name, &of);
        check_all_ended(s, &t);
        assert_int_equal(of.ended, o.requests);
        assert_true(of.loads >= of.first_seen && of.pooled >= of.first_seen && of.cold >= of.loads);
        sim_close(s);
    }
    trace_close(&t);
    done(&o);
}

static void the_same_seed_gives_the_same_and_another_seed_does_not(void **state)
{
    struct sim_settings o = defaults();
    struct tally a, b, c;
    (void)state;
    o.requests = 4000, o.engines = 20;
    for (int i = 0; i < 3; i++) {
        o.seed = i < 2 ? 5 : 6;
        struct trace t = made(&o);
        sim_close(run(&o, &t, "random", i == 0 ? &a : i == 1 ? &b : &c));
        trace_close(&t);
    }
    assert_memory_equal(&a, &b, sizeof a);
    assert_true(a.loads != c.loads && a.ttft_ms[3] != c.ttft_ms[3]);
    done(&o);
}

/* --- queues of which the answer is known --- */

/* One engine, one sequence at a time, and a step a request: a server with these times. */
static void one_server(struct sim_settings *o)
{
    o->engines = 1, o->capacity = 100000, o->max_running = 1, o->adapters = 1, o->tenants = 1, o->bursts_minute = 0;
    o->prompt_sigma_percent = o->output_sigma_percent = 0, o->output_median = 1, o->step_tokens = 8192;
    o->decode_row_ns = o->decode_context_ns = o->prefill_context_ns = o->rank_ns = 0;
    o->requests = 400000, o->rate_s = 100;
}

/* Mean wait of M/D/1: rho D / (2 (1 - rho)). */
static void one_server_of_fixed_time_makes_wait_what_theory_says(void **state)
{
    struct sim_settings o = defaults();
    struct tally of;
    (void)state;
    one_server(&o);
    o.prompt_median = 1, o.prefill_row_ns = 1000;
    struct trace t = made(&o);
    for (int percent = 30; percent <= 90; percent += 30) {
        double took_ms = percent / 10.0, rho = percent / 100.0;
        o.step_ns = (int64_t)(took_ms * 1e6) - 1000;
        sim_close(run(&o, &t, "random", &of));
        double wait = rho * took_ms / (2 * (1 - rho));
        assert_true(fabs(of.ttft_ms[3] - took_ms - wait) < 0.05 * wait);
    }
    trace_close(&t);
    done(&o);
}

/* Any service times, Pollaczek and Khinchine: rate * E[S^2] / (2 (1 - rho)). */
static void one_server_of_lognormal_times_makes_wait_what_theory_says(void **state)
{
    struct sim_settings o = defaults();
    struct tally of;
    double sum = 0, squares = 0;
    (void)state;
    one_server(&o);
    o.prompt_median = 100, o.prompt_sigma_percent = 60, o.prefill_row_ns = 50000, o.step_ns = 0;
    struct trace t = made(&o);
    for (int i = 0; i < t.n; i++) {
        double ms = t.v[i].prompt * 0.05;
        sum += ms;
        squares += ms * ms;
    }
    double rate = t.n / (t.v[t.n - 1].at_us / 1e3), rho = rate * sum / t.n, wait = rate * squares / t.n / (2 * (1 - rho));
    sim_close(run(&o, &t, "random", &of));
    assert_true(fabs(of.ttft_ms[3] - sum / t.n - wait) < 0.07 * wait);
    trace_close(&t);
    done(&o);
}

/* A request alone takes what its steps cost: one of the prompt and one for each token after the first, which came with it. */
static void one_request_alone_takes_what_its_steps_cost(void **state)
{
    struct sim_settings o = defaults();
    struct tally of;
    struct request q = {1000, 0, 0, 100, 11};
    int rank = 16;
    uint64_t key = 77;
    struct trace t = {&q, 1, 1, 1, &rank, &key};
    (void)state;
    o.warm_percent = 0, o.rank_row_ns = 1500;
    sim_close(run(&o, &t, "shipped", &of));
    double ranks = 16 * o.rank_ns / 1e6, own = 16 * o.rank_row_ns / 1e6, step = o.step_ns / 1e6 + ranks;
    double load = o.load_fixed_us / 1e3 + 16.0 * o.rank_bytes / o.load_bytes_us / 1e3;
    double first = load + step + 100 * (o.prefill_row_ns / 1e6 + own) + 5050 * o.prefill_context_ns / 1e6;
    double token = step + o.decode_row_ns / 1e6 + own + 105.5 * o.decode_context_ns / 1e6; /* positions 101 to 110 */
    assert_true(fabs(of.ttft_ms[3] - first) < 1e-6);
    assert_true(fabs(of.tpot_ms[3] - token) < 1e-6);
    assert_int_equal(of.cold, 1);
    o.free_rows = 1;
    sim_close(run(&o, &t, "shipped", &of));
    assert_true(fabs(of.tpot_ms[3] - token + o.decode_row_ns / 1e6) < 1e-6);
    done(&o);
}

/* --- slots --- */

/* Naive: a list in the order of use. */
static void slots_keep_what_was_used_last_and_what_is_held(void **state)
{
    enum { CAP = 6, KEYS = 15 };
    struct slots s;
    struct err e = {0};
    int list[CAP], n = 0, holds[KEYS] = {0};
    uint64_t seed = 3;
    (void)state;
    assert_int_equal(slots_init(&s, CAP, &e), 0);
    for (int round = 0; round < 20000; round++) {
        int a = (int)(chance_next(&seed) % KEYS), at = 0;
        while (at < n && list[at] != a) at++;
        struct slot *slot = slots_find(&s, a);
        assert_int_equal(slot != NULL, at < n);
        if (at == n) {
            int out = 0; /* the oldest that is not held, where it is full */
            while (n == CAP && out < n && holds[list[out]]) out++;
            slot = slots_take(&s, a);
            assert_int_equal(slot != NULL, n < CAP || out < n);
            if (!slot) goto drop;
            if (n == CAP) memmove(list + out, list + out + 1, (size_t)(--n - out) * sizeof *list);
        } else {
            memmove(list + at, list + at + 1, (size_t)(--n - at) * sizeof *list);
        }
        list[n++] = a;
        assert_int_equal(slot->adapter, a);
        if (chance_next(&seed) % 3 == 0) slot->holds = holds[a] = 1;
    drop:
        for (int i = 0; i < s.n; i++)
            if (chance_next(&seed) % 8 == 0) s.v[i].holds = holds[s.v[i].adapter] = 0;
    }
    slots_close(&s);
}

/* --- traces --- */

static void a_made_trace_has_the_shares_the_rate_and_the_lengths_that_were_asked_for(void **state)
{
    struct sim_settings o = defaults();
    int count[100] = {0}, below = 0;
    (void)state;
    o.adapters = 100, o.requests = 200000, o.bursts_minute = 0, o.rate_s = 500;
    struct trace t = made(&o);
    double sum = 0, most = 0, second = 0;
    for (int k = 1; k <= 100; k++) sum += 1.0 / k;
    for (int i = 0; i < t.n; i++) {
        count[t.v[i].adapter]++;
        below += t.v[i].prompt <= o.prompt_median;
        assert_true(i == 0 || t.v[i].at_us >= t.v[i - 1].at_us);
        assert_int_equal(t.v[i].tenant, t.v[i].adapter % o.tenants);
    }
    for (int i = 0; i < 100; i++) {
        second = count[i] > most ? most : fmax(second, count[i]);
        most = fmax(most, count[i]);
    }
    assert_true(fabs(most / t.n - 1 / sum) < 0.01);
    assert_true(fabs(second / t.n - 0.5 / sum) < 0.01);
    assert_true(fabs(t.n / (t.v[t.n - 1].at_us / 1e6) / 500 - 1) < 0.02);
    assert_true(fabs((double)below / t.n - 0.5) < 0.01);
    trace_close(&t);

    o.bursts_minute = 60, o.burst_ms = 2000, o.burst_rate_s = 50; /* 2 at a time on the mean: 100 a second more */
    t = made(&o);
    assert_true(fabs(t.n / (t.v[t.n - 1].at_us / 1e6) / 600 - 1) < 0.05);
    trace_close(&t);
    done(&o);
}

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void a_trace_is_read_as_it_was_written_and_from_lines_of_json(void **state)
{
    struct sim_settings o = defaults();
    struct trace t, u;
    struct err e = {0};
    char path[64];
    (void)state;
    snprintf(path, sizeof path, "/tmp/weft-test-sim-%d", (int)getpid());
    o.requests = 500, o.adapters = 60;
    t = made(&o);
    assert_int_equal(trace_write(&t, path, &e), 0);
    assert_int_equal(trace_read(&u, path, &e), 0);
    assert_int_equal(u.n, t.n);
    for (int i = 0; i < t.n; i++) {
        const struct request *a = &t.v[i], *b = &u.v[i];
        assert_true(fabs(a->at_us - b->at_us) < 0.001 && a->prompt == b->prompt && a->output == b->output);
        assert_true(t.key[a->adapter] == u.key[b->adapter] && t.rank[a->adapter] == u.rank[b->adapter]);
    }
    trace_close(&t);
    trace_close(&u);
    put(path, "{\"at_us\":5,\"adapter\":\"x\",\"tenant\":7,\"prompt\":3,\"output\":4,\"rank\":64}\n\n"
              "{\"at_us\":6.5,\"adapter\":\"y\",\"tenant\":7,\"prompt\":1,\"output\":1}\n");
    assert_int_equal(trace_read(&u, path, &e), 0);
    assert_true(u.n == 2 && u.adapters == 2 && u.tenants == 1 && u.rank[0] == 64 && u.v[1].at_us == 6.5);
    trace_close(&u);
    unlink(path);
    done(&o);
}

static void a_trace_that_is_none_is_refused_by_its_line(void **state)
{
    static const char *const bad[][2] = {
        {"", "no request"},
        {"at_us,prompt,output\n1,2,3\n", "names no adapter"},
        {"at_us,adapter,prompt,output\n1,a,2,3\n0,a,2,3\n", "line 3"},
        {"at_us,adapter,prompt,output\n1,a,-2,3\n", "line 2"},
        {"at_us,adapter,prompt,output\n1,a,2,99999999\n", "line 2"},
        {"at_us,adapter,prompt,output\n1,,2,3\n", "line 2"},
        {"{\"at_us\":1}\n", "line 1"},
        {"{\"at_us\":\n", "line 1"},
    };
    char path[64];
    (void)state;
    snprintf(path, sizeof path, "/tmp/weft-test-sim-%d", (int)getpid());
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct trace t;
        struct err e = {0};
        put(path, bad[i][0]);
        assert_int_equal(trace_read(&t, path, &e), -1);
        assert_non_null(strstr(e.msg, bad[i][1]));
        trace_close(&t);
    }
    unlink(path);
}

/* --- what it is for --- */

/* A shorter trace than that of docs/PLACEMENT.md, at the same load: a fifth of the cold loads at no worse balance. */
static void the_shipped_placement_loads_a_fifth_of_others_at_equal_balance(void **state)
{
    struct sim_settings o = defaults();
    struct tally shipped, random, least, hash;
    (void)state;
    o.requests = 120000;
    struct trace t = made(&o);
    sim_close(run(&o, &t, "shipped", &shipped));
    sim_close(run(&o, &t, "random", &random));
    sim_close(run(&o, &t, "least-loaded", &least));
    sim_close(run(&o, &t, "hash", &hash));
    assert_true(5 * shipped.loads < random.loads && 5 * shipped.loads < least.loads);
    assert_true(shipped.work_most < random.work_most && shipped.work_cv < random.work_cv);
    assert_true(shipped.work_most < 1.05 * least.work_most);
    assert_true(shipped.ttft_ms[2] < random.ttft_ms[2] && shipped.ttft_ms[2] < 1.25 * least.ttft_ms[2]);
    assert_true(hash.work_most > 1.3 * shipped.work_most); /* whom loads alone would have chosen */
    trace_close(&t);
    done(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_request_ends_once_and_nothing_is_held_after_it),
        cmocka_unit_test(the_same_seed_gives_the_same_and_another_seed_does_not),
        cmocka_unit_test(one_server_of_fixed_time_makes_wait_what_theory_says),
        cmocka_unit_test(one_server_of_lognormal_times_makes_wait_what_theory_says),
        cmocka_unit_test(one_request_alone_takes_what_its_steps_cost),
        cmocka_unit_test(slots_keep_what_was_used_last_and_what_is_held),
        cmocka_unit_test(a_made_trace_has_the_shares_the_rate_and_the_lengths_that_were_asked_for),
        cmocka_unit_test(a_trace_is_read_as_it_was_written_and_from_lines_of_json),
        cmocka_unit_test(a_trace_that_is_none_is_refused_by_its_line),
        cmocka_unit_test(the_shipped_placement_loads_a_fifth_of_others_at_equal_balance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
