/* Tests of who is served when: tenants, classes, deadlines and adapters that compete, in simulated time. */
#include "base/log.h"
#include "tests/unit/test_sched_sim.h"

static const struct sched_options busy = {.max_running = 8,
                                          .max_waiting = 2000,
                                          .step_tokens = 128,
                                          .prefix_cache = true,
                                          .adapter_wait_ms = 10000,
                                          .target = {{1000, 50}, {5000, 100}, {60000, 0}}};

/* --- shares --- */

static double served[3]; /* tokens of tenants "a", "b", "c" in all: prompt tokens once, generated ones twice */
static double snapshot[3];
static bool all_backlogged; /* at that time, or the shares mean nothing */
static int64_t snapshot_at;

static int tenant_number(const struct sim_request *q)
{
    return q->tenant[0] - 'a';
}

static void count_served(void)
{
    if (snapshot_at == 0 || sim_now(NULL) < SIM_START + snapshot_at || snapshot[0] > 0) return;
    memset(served, 0, sizeof served);
    for (int i = 0; i < sim.n; i++)
        if (sim.q[i].first_us) served[tenant_number(&sim.q[i])] += sim.q[i].prompt + 2 * sim.q[i].tokens;
    memcpy(snapshot, served, sizeof snapshot);
    all_backlogged = true;
    for (int i = 0; i < 3; i++) {
        int waits = 0, all = 0;
        for (int k = 0; k < sim.n; k++) {
            if (tenant_number(&sim.q[k]) != i) continue;
            all++;
            waits += sim.q[k].submitted && !sim.q[k].first_us;
        }
        all_backlogged &= all == 0 || waits > 0;
    }
}

static void backlog(const char *tenant, double weight, int n, int prompt, int output, int adapters)
{
    for (int i = 0; i < n; i++)
        sim_add(&(struct sim_request){.tenant = tenant,
                                      .weight = weight,
                                      .class = CLASS_NORMAL,
                                      .prompt = prompt + i * 7 % 20,
                                      .output = output + i * 11 % 20,
                                      .adapter = adapters ? 1 + i % adapters : 0,
                                      .seed = (uint64_t)(tenant[0] * 1000 + i)});
}

static void run_until(int64_t at_us, const struct sched_options *o)
{
    snapshot[0] = 0;
    snapshot_at = at_us;
    sim.each = count_served;
    sim_run(o);
    snapshot_at = 0;
    assert_true(snapshot[0] > 0 && all_backlogged);
}

static void test_equal_weights_are_served_equal_tokens_whoever_offers_more(void **state)
{
    (void)state;
    sim_open(1, 0);
    backlog("a", 1, 400, 20, 20, 0);
    backlog("b", 1, 120, 20, 20, 0);
    run_until(6000000, &busy);
    assert_true(fabs(snapshot[0] / snapshot[1] - 1) < 0.05);
    sim_close();
}

static void test_long_and_short_requests_are_served_equal_tokens(void **state)
{
    (void)state;
    sim_open(1, 0);
    backlog("a", 1, 400, 8, 8, 0);
    backlog("b", 1, 60, 150, 70, 0);
    run_until(6000000, &busy);
    assert_true(fabs(snapshot[0] / snapshot[1] - 1) < 0.05);
    sim_close();
}

static void test_a_weight_of_three_is_served_three_times_as_much(void **state)
{
    (void)state;
    sim_open(1, 0);
    backlog("a", 3, 400, 20, 20, 0);
    backlog("b", 1, 200, 20, 20, 0);
    run_until(6000000, &busy);
    assert_true(fabs(snapshot[0] / snapshot[1] / 3 - 1) < 0.05);
    sim_close();
}

static void test_a_tenant_with_many_adapters_gets_one_share(void **state)
{
    (void)state;
    for (int slots = 8; slots >= 2; slots -= 6) { /* room for all; room for two */
        sim_open(slots, 0);
        backlog("a", 1, 300, 20, 20, 7);
        backlog("b", 1, 120, 20, 20, 0);
        for (int i = 0; i < sim.n; i++)
            if (sim.q[i].tenant[0] == 'b') sim.q[i].adapter = 8;
        run_until(5000000, &busy);
        if (slots == 8) assert_true(fabs(snapshot[0] / snapshot[1] - 1) < 0.05);
        assert_true(snapshot[0] < 1.05 * snapshot[1] && snapshot[0] > 0.5 * snapshot[1]);
        sim_close();
    }
}

/* Times of arrival at random, the same in each run; a request every `mean_us`. */
static void arrivals(const char *tenant, int n, double mean_us, int prompt, int output)
{
    double at = 0;
    for (int i = 0; i < n; i++) {
        double u = (tiny_uniform((uint64_t)tenant[0], 3, 0, i) + 1) / 2;
        at -= mean_us * log(u < 1e-6 ? 1e-6 : u);
        sim_add(&(struct sim_request){.at_us = (int64_t)at,
                                      .tenant = tenant,
                                      .class = CLASS_NORMAL,
                                      .prompt = prompt,
                                      .output = output,
                                      .seed = (uint64_t)(tenant[0] * 10000 + i)});
    }
}

/* What b's first tokens take while a offers `times` what it should, us. */
static int64_t ttft_beside(int times, double quantile)
{
    sim_open(1, 0);
    arrivals("a", 60 * times, 200000.0 / times, 100, 40);
    arrivals("b", 60, 200000, 60, 20);
    sim_run(&busy);
    int64_t us = sim_ttft("b", quantile);
    sim_close();
    return us;
}

static void test_ten_times_the_load_of_one_tenant_hardly_moves_the_first_tokens_of_another(void **state)
{
    (void)state;
    int64_t alone = ttft_beside(1, 0.99), crowded = ttft_beside(10, 0.99);
    if (crowded > 2 * alone) fail_msg("%lld us, then %lld us", (long long)alone, (long long)crowded);
}

static void test_a_stream_that_runs_saves_up_no_turns(void **state)
{
    (void)state;
    sim_open(1, 0);
    struct sched_options o = busy;
    o.max_running = 4;
    /* c has one stream all the time and then much at once; a and b are busy all the time. */
    sim_add(&(struct sim_request){.tenant = "c", .class = CLASS_NORMAL, .prompt = 4, .output = 240, .seed = 1});
    backlog("a", 1, 200, 20, 20, 0);
    for (int i = 0; i < 60; i++)
        sim_add(&(struct sim_request){.at_us = 3000000,
                                      .tenant = "c",
                                      .class = CLASS_NORMAL,
                                      .prompt = 20,
                                      .output = 20,
                                      .seed = (uint64_t)(300 + i)});
    sim_run(&o);
    int a = 0, c = 0;
    for (int i = 0; i < sim.n; i++) {
        const struct sim_request *q = &sim.q[i];
        if (q->first_us < SIM_START + 3100000 || q->first_us > SIM_START + 7000000) continue;
        a += q->tenant[0] == 'a';
        c += q->tenant[0] == 'c';
    }
    assert_true(a > 5 && c > 5);
    assert_true(c < 2 * a);
    sim_close();
}

static void test_a_tenant_that_comes_late_is_not_served_for_the_past(void **state)
{
    (void)state;
    sim_open(1, 0);
    backlog("a", 1, 300, 20, 20, 0);
    int first = sim.n;
    backlog("b", 1, 100, 20, 20, 0);
    for (int i = first; i < sim.n; i++) sim.q[i].at_us = 4000000;
    sim_run(&busy);
    double a = 0, b = 0;
    for (int i = 0; i < sim.n; i++) {
        const struct sim_request *q = &sim.q[i];
        if (q->first_us < SIM_START + 4200000 || q->first_us > SIM_START + 6000000) continue;
        *(q->tenant[0] == 'a' ? &a : &b) += q->prompt + 2 * q->output;
    }
    assert_true(a > 1000 && fabs(a / b - 1) < 0.15);
    sim_close();
}

static void test_tenants_that_are_all_refused_are_not_remembered_for_ever(void **state)
{
    (void)state;
    static struct reply r, next, refused;
    struct sched_options o = busy;
    char tag[16];
    o.max_running = o.max_waiting = 1;
    sim_open(1, 0);
    tiny_start(&sim.t, &o);
    struct ask a = {.adapter = -1, .n = 5, .max = 250, .tenant = "first"};
    tiny_hold(&sim.t, &a, &r);
    enum err_code waits = tiny_submit(&sim.t, &a, &next);
    int full = 0;
    for (int i = 0; i < 3 * SCHED_IDLE_TENANTS; i++) {
        snprintf(tag, sizeof tag, "t%d", i);
        full += tiny_submit(&sim.t, &(struct ask){.adapter = -1, .n = 5, .max = 1, .tenant = tag}, &refused) != 0;
    }
    pthread_mutex_lock(&sim.t.s->lock);
    int known = sim.t.s->idle.n;
    pthread_mutex_unlock(&sim.t.s->lock);
    pthread_mutex_unlock(&tiny_lock);
    assert_int_equal(waits, ERR_NONE);
    assert_int_equal(full, 3 * SCHED_IDLE_TENANTS);
    tiny_finish(&r);
    tiny_finish(&next);
    assert_in_range(known, 0, SCHED_IDLE_TENANTS);
    sim_close();
}

/* --- classes --- */

static void test_batch_yields_its_places_to_interactive_and_loses_nothing(void **state)
{
    (void)state;
    static int32_t alone[8][REPLY_MAX];
    for (int round = 0; round < 2; round++) { /* alone, then beside interactive ones */
        sim_open(1, 0);
        for (int i = 0; i < 8; i++)
            sim_add(&(struct sim_request){
                .tenant = "a", .class = CLASS_BATCH, .prompt = 30 + i, .output = 150, .seed = (uint64_t)(i + 1)});
        for (int i = 0; round && i < 12; i++)
            sim_add(&(struct sim_request){.at_us = 400000 + i / 6 * 300000,
                                          .tenant = "a",
                                          .class = CLASS_INTERACTIVE,
                                          .prompt = 20,
                                          .output = 20,
                                          .seed = (uint64_t)(100 + i)});
        sim_run(&busy);
        for (int i = 0; i < sim.n; i++) {
            const struct sim_request *q = &sim.q[i];
            assert_int_equal(q->finish, FINISH_LENGTH);
            if (q->class == CLASS_INTERACTIVE) {
                assert_true(q->first_us - q->sent_us < 250000);
            } else if (round == 0) {
                memcpy(alone[q->seed - 1], q->ids, sizeof q->ids);
            } else {
                assert_memory_equal(alone[q->seed - 1], q->ids, 150 * sizeof q->ids[0]);
            }
        }
        struct sched_state st;
        sched_get_state(sim.t.s, &st);
        assert_int_equal(round, st.yields > 0);
        assert_int_equal(round, metric_get(sim.t.metrics, M_YIELDS, (const char *[]){"class"}) > 0);
        sim_close();
    }
}

/* Interactive requests that leave no place for 20 s, and one of batch. When it got its first token, s. */
static double batch_beside_interactive(int ttft_batch_ms)
{
    struct sched_options o = busy;
    o.max_running = 2;
    o.target[CLASS_BATCH].ttft_ms = ttft_batch_ms;
    sim_open(1, 0);
    for (int i = 0; i < 4; i++)
        sim_add(&(struct sim_request){.tenant = "a",
                                      .class = CLASS_INTERACTIVE,
                                      .prompt = 10,
                                      .output = 20,
                                      .then = 120,
                                      .seed = (uint64_t)(10 + i)});
    sim_add(&(struct sim_request){
        .at_us = 100000, .tenant = "b", .class = CLASS_BATCH, .prompt = 10, .output = 4, .seed = 1});
    sim_run(&o);
    double s = 0;
    for (int i = 0; i < sim.n; i++)
        if (sim.q[i].class == CLASS_BATCH) s = (double)(sim.q[i].first_us - sim.q[i].sent_us) / 1e6;
    sim_close();
    return s;
}

static void test_who_waits_longer_than_its_target_gets_a_turn(void **state)
{
    (void)state;
    double s = batch_beside_interactive(3000);
    if (!(s >= 3 && s < 5)) fail_msg("%g s", s);
    s = batch_beside_interactive(0);
    assert_true(s > 20); /* nobody is late: after all others */
}

/* One of batch that runs first, and loses its place or its adapter's slot to interactive ones that leave none for 20 s. When it was over, s. */
static double batch_that_was_put_off(int adapter, int beside, int64_t at_us, int output)
{
    struct sched_options o = busy;
    o.max_running = 2;
    o.target[CLASS_BATCH].ttft_ms = 3000;
    sim_open(1, 0);
    sim_add(&(struct sim_request){.at_us = at_us,
                                  .tenant = "b",
                                  .class = CLASS_BATCH,
                                  .adapter = adapter,
                                  .prompt = 10,
                                  .output = output,
                                  .seed = 1});
    for (int i = 0; i < 4; i++)
        sim_add(&(struct sim_request){.at_us = 100000,
                                      .tenant = "a",
                                      .class = CLASS_INTERACTIVE,
                                      .adapter = beside,
                                      .prompt = 10,
                                      .output = 20,
                                      .then = 120,
                                      .seed = (uint64_t)(10 + i)});
    sim_run(&o);
    double s = 0;
    for (int i = 0; i < sim.n; i++) {
        if (sim.q[i].err.code) fail_msg("%s", sim.q[i].err.msg);
        if (sim.q[i].class == CLASS_BATCH) s = (double)(sim.q[i].done_us - sim.q[i].sent_us) / 1e6;
    }
    sim_close();
    return s;
}

static void test_who_was_put_off_and_waits_longer_than_its_target_goes_on(void **state)
{
    (void)state;
    static const struct {
        int adapter, beside;
        int64_t at_us;
        int output;
    } cases[] = {
        {0, 0, 0, 40},     /* its place was taken */
        {1, 2, 0, 40},     /* its slot was */
        {1, 2, 150000, 4}, /* it never had one */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double s = batch_that_was_put_off(cases[i].adapter, cases[i].beside, cases[i].at_us, cases[i].output);
        if (!(s >= 3 && s < 10)) fail_msg("case %zu: %g s", i, s);
    }
}

/* --- deadlines --- */

static void test_a_deadline_that_can_not_be_met_is_refused_at_once(void **state)
{
    (void)state;
    struct sched_options o = busy;
    o.max_running = 2;
    sim_open(1, 0);
    backlog("a", 1, 60, 60, 60, 0);
    int first = sim.n;
    for (int i = 0; i < 3; i++) {
        static const int deadline_ms[] = {500, 600000, 0};
        sim_add(&(struct sim_request){.at_us = 3000000,
                                      .tenant = "a",
                                      .class = CLASS_NORMAL,
                                      .prompt = 60,
                                      .output = 4,
                                      .deadline_ms = deadline_ms[i],
                                      .seed = (uint64_t)(900000 + i)});
    }
    sim_run(&o);
    const struct sim_request *late = &sim.q[first];
    assert_int_equal(late->err.code, ERR_DEADLINE);
    assert_true(late->done_us == late->sent_us);
    assert_in_range(late->err.retry_after_s, 5, 120);
    assert_int_equal(late[1].finish, FINISH_LENGTH);
    assert_int_equal(late[2].finish, FINISH_LENGTH);
    double waited_s = (double)(late[2].first_us - late[2].sent_us) / 1e6; /* what the estimate is about */
    assert_true(late->err.retry_after_s > waited_s / 2 && late->err.retry_after_s < waited_s * 2);
    assert_true(metric_get(sim.t.metrics, M_REFUSED, (const char *[]){"deadline"}) == 1);
    sim_close();
}

static void test_a_deadline_that_can_be_met_is_not_refused(void **state)
{
    (void)state;
    sim_open(1, 0);
    for (int i = 0; i < 40; i++)
        sim_add(&(struct sim_request){.at_us = 300000LL * i,
                                      .tenant = i % 2 ? "a" : "b",
                                      .class = CLASS_NORMAL,
                                      .prompt = 60,
                                      .output = 20,
                                      .deadline_ms = 200,
                                      .seed = (uint64_t)i});
    sim_run(&busy);
    for (int i = 0; i < sim.n; i++) assert_int_equal(sim.q[i].finish, FINISH_LENGTH);
    sim_close();
}

static void test_a_full_queue_says_when_to_come_back(void **state)
{
    (void)state;
    struct sched_options o = busy;
    o.max_running = 1;
    o.max_waiting = 4;
    sim_open(1, 0);
    for (int i = 0; i < 8; i++)
        sim_add(&(struct sim_request){
            .tenant = "a", .class = CLASS_NORMAL, .prompt = 10, .output = 200, .seed = (uint64_t)i});
    for (int i = 0; i < 8; i++)
        sim_add(&(struct sim_request){.at_us = 3000000,
                                      .tenant = "a",
                                      .class = CLASS_NORMAL,
                                      .prompt = 10,
                                      .output = 20,
                                      .seed = (uint64_t)(50 + i)});
    sim_run(&o);
    int full = 0;
    for (int i = 8; i < sim.n; i++) {
        if (sim.q[i].err.code != ERR_QUEUE_FULL) continue;
        full++;
        assert_in_range(sim.q[i].err.retry_after_s, 1, 10);
    }
    assert_true(full > 0);
    sim_close();
}

/* A tenant that fills the queue leaves room for one that comes late and asks for little. */
static void test_a_full_queue_has_room_for_who_has_few_in_it(void **state)
{
    (void)state;
    struct sched_options o = busy;
    o.max_running = 1;
    o.max_waiting = 16;
    sim_open(1, 0);
    for (int i = 0; i < 40; i++)
        sim_add(&(struct sim_request){
            .tenant = "crowd", .class = CLASS_NORMAL, .prompt = 10, .output = 200, .seed = (uint64_t)i});
    for (int i = 0; i < 2; i++)
        sim_add(&(struct sim_request){
            .at_us = 1000, .tenant = "late", .class = CLASS_NORMAL, .prompt = 10, .output = 20, .seed = (uint64_t)(50 + i)});
    sim_run(&o);
    int full = 0;
    for (int i = 0; i < 40; i++) full += sim.q[i].err.code == ERR_QUEUE_FULL;
    assert_in_range(full, 40 - 16 - 1, 40 - 14);
    for (int i = 40; i < 42; i++) assert_int_equal(sim.q[i].err.code, ERR_NONE);
    sim_close();
}

/* --- adapters --- */

static int64_t lone_ttft(int slots, bool beside)
{
    sim_open(slots, 0);
    for (int i = 0; beside && i < 7; i++)
        sim_add(&(struct sim_request){.tenant = "a",
                                      .class = CLASS_NORMAL,
                                      .adapter = 1,
                                      .prompt = 60,
                                      .output = 60,
                                      .then = 6,
                                      .seed = (uint64_t)i});
    for (int i = 0; i < 10; i++)
        sim_add(&(struct sim_request){.at_us = 500000 + 700000LL * i,
                                      .tenant = "b",
                                      .class = CLASS_NORMAL,
                                      .adapter = 2,
                                      .prompt = 60,
                                      .output = 10,
                                      .seed = (uint64_t)(100 + i)});
    sim_run(&busy);
    int64_t us = sim_ttft("b", 0.99);
    sim_close();
    return us;
}

static void test_a_lone_request_of_another_adapter_waits_for_no_busy_streams(void **state)
{
    (void)state;
    int64_t solo = lone_ttft(8, false);
    assert_true(lone_ttft(8, true) <= 2 * solo + 100000); /* and a step */
    assert_true(lone_ttft(1, true) <= 2 * solo + 200000); /* the one slot is taken from those who run */
}

/* The longest wait for a first token of adapter 2, beside seven streams of adapter 1 of the same tenant, whose prompts come all at once. */
static int64_t longest_lone_ttft(const struct sched_options *o, bool beside)
{
    sim_open(8, 0);
    for (int i = 0; beside && i < 7; i++)
        sim_add(&(struct sim_request){
            .tenant = "a", .adapter = 1, .prompt = 60, .output = 60, .then = 6, .seed = (uint64_t)i});
    for (int i = 0; i < 60; i++)
        sim_add(&(struct sim_request){.at_us = 500000 + 83000LL * i,
                                      .tenant = "a",
                                      .adapter = 2,
                                      .prompt = 60,
                                      .output = 1,
                                      .seed = (uint64_t)(100 + i)});
    sim_run(o);
    int64_t most = 0;
    for (int i = 0; i < sim.n; i++) {
        int64_t wait = sim.q[i].adapter == 2 ? sim.q[i].first_us - sim.q[i].sent_us : 0;
        if (wait > most) most = wait;
    }
    sim_close();
    return most;
}

static void test_a_lone_request_does_not_wait_for_the_prompts_of_a_crowd(void **state)
{
    (void)state;
    struct sched_options o = busy;
    o.step_ms = 20;
    int64_t solo = longest_lone_ttft(&o, false);
    assert_true(longest_lone_ttft(&o, true) <= 2 * solo + 11000); /* and a step of the seven */
    o.step_ms = 0;
    assert_true(longest_lone_ttft(&o, true) > 2 * solo + 11000); /* what step_ms is for */
}

/* Steps with prompts that took longer than step_ms, and all with prompts. */
static void count_long_steps(bool beside_rare, int *longer, int *with_prompts)
{
    struct sched_options o = busy;
    o.step_ms = 30;
    sim_open(1, 0);
    for (int i = 0; i < 40; i++)
        sim_add(&(struct sim_request){.at_us = 40000LL * i,
                                      .tenant = "a",
                                      .class = CLASS_BATCH,
                                      .prompt = 200,
                                      .output = 20,
                                      .seed = (uint64_t)i});
    if (beside_rare)
        sim_add(&(struct sim_request){.at_us = 100000, .tenant = "b", .prompt = 20, .output = 2, .seed = 99});
    sim_run(&o);
    *longer = *with_prompts = 0;
    for (int i = 50; i < sim.steps; i++) { /* the first teach what steps cost, and estimates err */
        const struct sim_step *t = &sim.step[i];
        *with_prompts += t->shape.prefill_rows > 0;
        *longer += t->shape.prefill_rows > 0 && (double)t->took_us > 30000 * 1.35;
    }
    sim_close();
}

static void test_steps_with_prompts_are_short_while_somebody_is_rare(void **state)
{
    (void)state;
    int longer, all;
    count_long_steps(true, &longer, &all);
    assert_true(all > 50);
    assert_int_equal(longer, 0);
    count_long_steps(false, &longer, &all);
    assert_true(longer > all / 2);
}

/* Twenty streams of one tenant, whose decoding alone takes 30 ms a step, and short prompts of another, two at a time. Returns what most of these
 * wait for their first token, from a step's end on; *alone: steps that had their prompts only, *in_a_row: of them, those behind another. */
static int64_t wait_beside_long_decoding(int step_ms, int *alone, int *in_a_row)
{
    struct sched_options o = busy;
    o.step_ms = step_ms;
    o.max_running = 32;
    sim_open(1, 0);
    sim.us[COST_DECODE_ROW] = 1000;
    for (int i = 0; i < 20; i++)
        sim_add(&(struct sim_request){
            .tenant = "a", .class = CLASS_NORMAL, .prompt = 10, .output = 240, .seed = (uint64_t)i});
    for (int i = 0; i < 40; i++)
        sim_add(&(struct sim_request){.at_us = 1000000 + i / 2 * 170000,
                                      .tenant = "b",
                                      .class = CLASS_NORMAL,
                                      .prompt = 20,
                                      .output = 1,
                                      .seed = (uint64_t)(100 + i)});
    sim_run(&o);
    int64_t most = sim_ttft("b", 0.75);
    *alone = *in_a_row = 0;
    for (int i = 40; i < sim.steps; i++) {
        bool express = sim.step[i].shape.decode_rows == 0, before = sim.step[i - 1].shape.decode_rows == 0;
        if (i + 40 > sim.steps) break; /* the streams end one by one */
        *alone += express;
        *in_a_row += express && before;
    }
    sim_close();
    return most;
}

static void test_prompts_of_the_rare_do_not_wait_for_the_decoding_of_a_crowd(void **state)
{
    (void)state;
    int alone, in_a_row;
    assert_int_equal(wait_beside_long_decoding(16, &alone, &in_a_row), 10000 + 40 * 500); /* both prompts, alone */
    assert_in_range(alone, 15, 20);
    assert_int_equal(in_a_row, 0);
    assert_int_equal(wait_beside_long_decoding(0, &alone, &in_a_row), 10000 + 40 * 500 + 20 * 1000);
    assert_int_equal(alone, 0);
}

/* --- a flood of the rare --- */

#define FLOOD 400

/* Twenty streams of one tenant beside tenants with one request each, whose prompts keep the engine busy all the time. Returns the streams' mean time per
 * output token, ms; `decode_us`: a step that only decodes, of which fixed_us. */
static double tpot_in_a_flood(const struct sched_options *o, enum sched_class streams, double fixed_us,
                              double decode_us, int prompt)
{
    static char tag[FLOOD][16];
    sim_open(1, 8192);
    sim.us[COST_STEP] = fixed_us;
    sim.us[COST_DECODE_ROW] = (decode_us - fixed_us) / 20;
    sim.us[COST_PREFILL_ROW] = 300;
    sim.prior = 3;
    for (int i = 0; i < 20; i++)
        sim_add(&(struct sim_request){
            .tenant = "crowd", .class = streams, .prompt = 10, .output = 200, .seed = (uint64_t)i});
    for (int i = 0; i < FLOOD * 60 / prompt; i++) {
        snprintf(tag[i], sizeof tag[i], "t%d", i);
        sim_add(&(struct sim_request){.at_us = 300000 + i * 500LL * prompt,
                                      .tenant = tag[i],
                                      .class = CLASS_NORMAL,
                                      .prompt = prompt,
                                      .output = 1,
                                      .seed = (uint64_t)(100 + i)});
    }
    sim_run(o);
    double sum = 0;
    for (int i = 0; i < sim.n; i++) {
        const struct sim_request *q = &sim.q[i];
        assert_int_equal(q->finish, FINISH_LENGTH);
        if (strcmp(q->tenant, "crowd") == 0) sum += (double)(q->done_us - q->first_us) / (q->tokens - 1) / 1000;
    }
    sim_close();
    return sum / 20;
}

/* Where the target can't be held, as near to it as without steps for the rare. */
static void test_a_flood_of_the_rare_does_not_break_the_target_of_those_who_decode(void **state)
{
    (void)state;
    static const struct {
        enum sched_class streams;
        double fixed_us, decode_us;
    } row[] = {
        {CLASS_NORMAL, 10000, 30000}, {CLASS_NORMAL, 10000, 50000},      {CLASS_NORMAL, 10000, 80000},
        {CLASS_NORMAL, 40000, 45000}, {CLASS_INTERACTIVE, 10000, 30000},
    };
    struct sched_options o = busy;
    o.max_running = 64;
    o.step_tokens = 512;
    o.kv_bytes = 64 << 20;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        for (int prompt = 60; prompt <= 2000; prompt += 1940) {
            double target = o.target[row[i].streams].tpot_ms;
            o.step_ms = 0;
            double without = tpot_in_a_flood(&o, row[i].streams, row[i].fixed_us, row[i].decode_us, prompt);
            o.step_ms = 16;
            double ms = tpot_in_a_flood(&o, row[i].streams, row[i].fixed_us, row[i].decode_us, prompt);
            if (ms > fmax(target, 1.1 * without))
                fail_msg("row %zu, prompts of %d: %g ms, without step_ms %g ms", i, prompt, ms, without);
        }
}

/* Two slots and five adapters whose streams never end: equal tenants, so nobody has to yield to anybody. */
static void test_a_slot_is_got_within_its_wait_beside_streams_that_never_end(void **state)
{
    (void)state;
    struct sched_options o = busy;
    o.adapter_wait_ms = 4000;
    sim_open(2, 0);
    for (int i = 0; i < 5; i++)
        sim_add(&(struct sim_request){.tenant = (const char *[]){"a", "b", "c", "d", "e"}[i],
                                      .class = CLASS_NORMAL,
                                      .adapter = i + 1,
                                      .prompt = 10,
                                      .output = 240,
                                      .then = 3,
                                      .seed = (uint64_t)(10 * i)});
    sim_run(&o);
    for (int i = 0; i < sim.n; i++) {
        assert_int_equal(sim.q[i].finish, FINISH_LENGTH);
        assert_int_equal(sim.q[i].tokens, 240);
    }
    for (int i = 0; i < 5; i++) assert_true(sim.q[i].first_us - sim.q[i].sent_us < 4000000);
    struct sched_state st;
    sched_get_state(sim.t.s, &st);
    assert_true(st.drains > 0);
    assert_true(st.drains < 60); /* they take turns, but not with every step */
    sim_close();
}

static void test_more_adapters_than_slots_do_not_thrash(void **state)
{
    (void)state;
    enum { N = 400 }; /* the three most popular, held for ever, would miss a third */
    sim_open(3, 0);
    uint64_t x = 88172645463325252u;
    double before = metric_get(sim.t.metrics, M_LOADS, (const char *[]){"ok"});
    for (int i = 0; i < N; i++) { /* Zipf over eight adapters: 1, 1/2, 1/3, ... */
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        double u = (double)(x >> 11) / 9007199254740992.0 * 2.717857, sum = 0;
        int adapter = 0;
        while (adapter < ADAPTERS - 1 && (sum += 1.0 / (adapter + 1)) < u) adapter++;
        sim_add(&(struct sim_request){.at_us = 10000LL * i,
                                      .tenant = (const char *[]){"a", "b", "c"}[i % 3],
                                      .class = CLASS_NORMAL,
                                      .adapter = adapter + 1,
                                      .prompt = 20,
                                      .output = 20,
                                      .seed = (uint64_t)i});
    }
    sim_run(&busy);
    double loads = metric_get(sim.t.metrics, M_LOADS, (const char *[]){"ok"}) - before;
    for (int i = 0; i < N; i++) assert_int_equal(sim.q[i].finish, FINISH_LENGTH);
    if (loads > N / 3.0) fail_msg("%g loads for %d requests", loads, N);
    sim_close();
}

/* --- pages --- */

static void test_pages_in_use_are_full_but_for_the_last(void **state)
{
    (void)state;
    struct sched_state st;
    sim_open(1, 0);
    for (int i = 0; i < 8; i++)
        sim_add(&(struct sim_request){
            .tenant = "a", .class = CLASS_NORMAL, .prompt = 200, .output = 40, .seed = (uint64_t)i});
    sim_run(&busy);
    sched_get_state(sim.t.s, &st);
    double waste = metric_get(sim.t.metrics, M_KV_WASTE, NULL);
    assert_true(waste >= 0 && waste < 0.04);
    assert_in_range(st.tail_tokens, 0, 8 * 15);
    sim_close();
}

int main(void)
{
    log_init("test", LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_weights_are_served_equal_tokens_whoever_offers_more),
        cmocka_unit_test(test_long_and_short_requests_are_served_equal_tokens),
        cmocka_unit_test(test_a_weight_of_three_is_served_three_times_as_much),
        cmocka_unit_test(test_a_tenant_with_many_adapters_gets_one_share),
        cmocka_unit_test(test_ten_times_the_load_of_one_tenant_hardly_moves_the_first_tokens_of_another),
        cmocka_unit_test(test_a_stream_that_runs_saves_up_no_turns),
        cmocka_unit_test(test_a_tenant_that_comes_late_is_not_served_for_the_past),
        cmocka_unit_test(test_tenants_that_are_all_refused_are_not_remembered_for_ever),
        cmocka_unit_test(test_batch_yields_its_places_to_interactive_and_loses_nothing),
        cmocka_unit_test(test_who_waits_longer_than_its_target_gets_a_turn),
        cmocka_unit_test(test_who_was_put_off_and_waits_longer_than_its_target_goes_on),
        cmocka_unit_test(test_a_deadline_that_can_not_be_met_is_refused_at_once),
        cmocka_unit_test(test_a_deadline_that_can_be_met_is_not_refused),
        cmocka_unit_test(test_a_full_queue_says_when_to_come_back),
        cmocka_unit_test(test_a_full_queue_has_room_for_who_has_few_in_it),
        cmocka_unit_test(test_a_lone_request_of_another_adapter_waits_for_no_busy_streams),
        cmocka_unit_test(test_a_lone_request_does_not_wait_for_the_prompts_of_a_crowd),
        cmocka_unit_test(test_steps_with_prompts_are_short_while_somebody_is_rare),
        cmocka_unit_test(test_prompts_of_the_rare_do_not_wait_for_the_decoding_of_a_crowd),
        cmocka_unit_test(test_a_flood_of_the_rare_does_not_break_the_target_of_those_who_decode),
        cmocka_unit_test(test_a_slot_is_got_within_its_wait_beside_streams_that_never_end),
        cmocka_unit_test(test_more_adapters_than_slots_do_not_thrash),
        cmocka_unit_test(test_pages_in_use_are_full_but_for_the_last),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
