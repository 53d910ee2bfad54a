/* Tests of adapters that are unloaded while requests for them wait: for a slot, for a turn, or for the place that others took from them. What was
 * accepted before is answered in full, what comes after is refused, and the adapter goes when the last is over. In simulated time. */
#include "base/log.h"
#include "tests/unit/test_sched_sim.h"

static const struct sched_options options = {.max_running = 4,
                                             .max_waiting = 100,
                                             .step_tokens = 128,
                                             .prefix_cache = true,
                                             .adapter_wait_ms = 10000,
                                             .target = {{1000, 50}, {5000, 100}, {60000, 0}}};

static struct {
    int adapter;         /* to be unloaded; index */
    bool (*when)(void);  /* after this step? */
    bool asked;          /* it was */
    struct outcome gone; /* what became of it */
    int64_t gone_us;
    struct reply refused; /* of a request that came after */
    enum err_code refusal;
} unload;

static void on_gone(void *u, const struct err *e)
{
    unload.gone_us = sim_now(NULL);
    tiny_on_done(u, e);
}

static void unload_when_due(void)
{
    if (unload.asked || !unload.when()) return;
    unload.asked = true;
    lora_unload(sim.t.loras, sim.t.digest[unload.adapter], on_gone, &unload.gone);
    unload.refusal = tiny_submit(&sim.t, &(struct ask){.adapter = unload.adapter, .n = 5, .max = 2}, &unload.refused);
}

static void unload_in_run(int adapter, bool (*when)(void))
{
    memset(&unload, 0, sizeof unload);
    unload.adapter = adapter;
    unload.when = when;
    sim.each = unload_when_due;
    sim_run(&options);
    assert_true(unload.asked);
    tiny_await(&unload.gone.came, 1);
    assert_int_equal(unload.gone.err.code, ERR_NONE);
    assert_int_equal(unload.refusal, ERR_ADAPTER_NOT_LOADED);
    assert_false(lora_known(sim.t.loras, sim.t.digest[adapter]));
}

static void assert_whole(const struct sim_request *q)
{
    if (q->err.code) fail_msg("after %d tokens: %s", q->tokens, q->err.msg);
    assert_int_equal(q->finish, FINISH_LENGTH);
    assert_int_equal(q->tokens, q->output);
}

static const struct sim_request *of_adapter(int adapter)
{
    for (int i = 0; i < sim.n; i++)
        if (sim.q[i].adapter == adapter + 1) return &sim.q[i];
    return NULL;
}

/* --- one that ran --- */

static bool a_slot_was_taken_back(void)
{
    struct sched_state st;
    sched_get_state(sim.t.s, &st);
    return st.drains > 0;
}

static void run_and_be_put_off(bool beside)
{
    sim_open(1, 0);
    sim_add(&(struct sim_request){
        .tenant = "a", .class = CLASS_BATCH, .adapter = 1, .prompt = 30, .output = 60, .seed = 1});
    if (beside)
        sim_add(&(struct sim_request){.at_us = 300000,
                                      .tenant = "b",
                                      .class = CLASS_INTERACTIVE,
                                      .adapter = 2,
                                      .prompt = 20,
                                      .output = 40,
                                      .seed = 2});
}

static void test_a_request_that_waits_to_go_on_gets_its_whole_answer(void **state)
{
    (void)state;
    static int32_t alone[REPLY_MAX];
    run_and_be_put_off(false);
    sim_run(&options);
    memcpy(alone, sim.q[0].ids, sizeof alone);
    sim_close();
    run_and_be_put_off(true);
    unload_in_run(0, a_slot_was_taken_back);
    for (int i = 0; i < sim.n; i++) assert_whole(&sim.q[i]);
    assert_memory_equal(of_adapter(0)->ids, alone, 60 * sizeof *alone);
    assert_true(unload.gone_us >= of_adapter(0)->done_us);
    sim_close();
}

/* --- one that never ran --- */

static bool two_wait(void)
{
    struct sched_state st;
    sched_get_state(sim.t.s, &st);
    return st.waiting == 2;
}

static void test_requests_that_were_accepted_before_are_served_before_it_goes(void **state)
{
    (void)state;
    sim_open(1, 0);
    sim_add(&(struct sim_request){
        .tenant = "a", .class = CLASS_INTERACTIVE, .adapter = 2, .prompt = 20, .output = 100, .seed = 1});
    for (int i = 0; i < 2; i++)
        sim_add(&(struct sim_request){.at_us = 200000,
                                      .tenant = "b",
                                      .class = CLASS_NORMAL,
                                      .adapter = 1,
                                      .prompt = 20,
                                      .output = 20,
                                      .seed = (uint64_t)(10 + i)});
    unload_in_run(0, two_wait);
    for (int i = 0; i < sim.n; i++) {
        assert_whole(&sim.q[i]);
        if (sim.q[i].adapter == 1) assert_true(unload.gone_us >= sim.q[i].done_us);
    }
    sim_close();
}

int main(void)
{
    log_init("test", LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_request_that_waits_to_go_on_gets_its_whole_answer),
        cmocka_unit_test(test_requests_that_were_accepted_before_are_served_before_it_goes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
