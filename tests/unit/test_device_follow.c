/* Steps that are begun on a device while the one before them runs: the answers, their ends and all that is counted are
 * those of steps that wait for each other. The device's streams have threads of their own here (tests/simt/rt_simt.c), so
 * that host and device do work beside each other. */
#include "tests/unit/device_world.h"

#define ASKS 8
#define TOKENS 10 /* the shim is slow */

static struct device_world dev;
static struct reply base[ASKS], got[ASKS];

/* One of sched_options, by `how`. */
static struct sched_options options(bool follow)
{
    struct sched_options o = world_sched;
    o.follow = follow;
    return o;
}

static void open_with(const struct sched_options *o, const struct lora_options *lo, int ranks)
{
    world_open(&dev, TINY_F32, lo, o, true, ranks);
    for (int i = 0; i < ADAPTERS; i++) assert_int_equal(tiny_load(&dev.t, i), ERR_NONE);
}

static void open_dev(bool follow)
{
    struct sched_options o = options(follow);
    open_with(&o, &world_loras, 1);
}

/* The last answer is told while the step behind it may still run. */
static void quiet(void)
{
    for (int tries = 0; sched_busy(dev.t.s) && tries < WAIT_S * 10000; tries++) usleep(100);
    assert_false(sched_busy(dev.t.s));
}

/* Of all steps, also the last. */
static double count(size_t row, const char *label)
{
    quiet();
    return metric_get(dev.t.metrics, row, label ? (const char *[]){label} : NULL);
}

static struct ask ask_of(int i)
{
    struct ask q = {.adapter = i % (ADAPTERS + 1) - 1, .seed = 300 + (uint64_t)i, .n = 3 + i % 5};
    q.p = (struct gen_params){.max_tokens = TOKENS, .ignore_eos = true};
    q.p.sample = (struct sample_params){.top_p = 1, .logprobs = -1, .seed = 90 + (uint64_t)i};
    if (i % 2) q.p.sample.temperature = 0.9f;
    if (i % 4 == 3) q.p.sample.top_k = 40;
    return q;
}

static void ask_each(struct reply *r)
{
    for (int i = 0; i < ASKS; i++) {
        struct ask q = ask_of(i);
        tiny_ask(&dev.t, &q, &r[i]);
    }
}

/* With an adapter whose sums overflow. */
static void submit_huge(struct reply *r)
{
    static const int32_t prompt[] = {5, 6, 7};
    struct err e = {0};
    struct gen_request q = {.prompt = prompt, .nprompt = 3, .nadapters = 1, .tenant = "", .weight = 1};
    q.adapter[0].digest = dev.t.digest[7];
    q.adapter[0].weight = GEN_WEIGHT_MAX;
    q.p = (struct gen_params){.max_tokens = TOKENS, .sample = {.top_p = 1, .logprobs = -1}};
    q.on_event = tiny_on_event;
    q.user = memset(r, 0, sizeof *r);
    if (sched_submit(dev.t.s, &q, &r->gen, &e)) fail_msg("%s", e.msg);
}

/* All come into the same step: they are submitted while one that runs alone can't tell its first token. `huge` may be NULL. */
static void ask_together(struct reply *r, const struct ask *q, struct reply *huge)
{
    struct reply first;
    tiny_hold(&dev.t, &(struct ask){.adapter = -1, .seed = 1, .n = 2, .max = 2}, &first);
    for (int i = 0; i < ASKS; i++) assert_int_equal(tiny_submit(&dev.t, &q[i], &r[i]), ERR_NONE);
    if (huge) submit_huge(huge);
    pthread_mutex_unlock(&tiny_lock);
    tiny_finish(&first);
    if (huge) tiny_finish(huge);
    for (int i = 0; i < ASKS; i++) tiny_finish(&r[i]);
}

static void ask_all(struct reply *r)
{
    struct ask q[ASKS];
    for (int i = 0; i < ASKS; i++) q[i] = ask_of(i);
    ask_together(r, q, NULL);
}

static void same_answer(const struct reply *a, const struct reply *b)
{
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->ids, b->ids, (size_t)a->n * sizeof *a->ids);
    assert_int_equal(a->finish, b->finish);
    assert_int_equal(a->counts.output, b->counts.output);
    assert_string_equal(a->text, b->text);
    assert_string_equal(a->stop_reason, b->stop_reason);
}

static void same_answers(void)
{
    for (int i = 0; i < ASKS; i++) same_answer(&base[i], &got[i]);
}

/* Whatever was counted of rows and tokens. */
struct counted {
    double prefill, decode, tokens, followed, discarded;
};

static struct counted counts(void)
{
    return (struct counted){count(M_STEP_ROWS, "prefill"), count(M_STEP_ROWS, "decode"), count(M_GEN_TOKENS, NULL),
                            count(M_STEPS_FOLLOWED, NULL), count(M_ROWS_DISCARDED, NULL)};
}

static struct counted close_dev(void)
{
    quiet();
    tiny_assert_idle(&dev.t);
    struct counted c = counts();
    world_close(&dev);
    return c;
}

/* --- answers --- */

static void test_answers_are_the_same_one_by_one(void **state)
{
    (void)state;
    open_dev(false);
    ask_each(base);
    struct counted strict = close_dev();
    open_dev(true);
    ask_each(got);
    struct counted c = close_dev();
    same_answers();
    assert_true(strict.followed == 0 && strict.discarded == 0);
    assert_true(c.followed == ASKS * (TOKENS - 1)); /* all but each one's first */
    assert_true(c.discarded == 0);                  /* that they end with their length was known */
    assert_true(c.tokens == ASKS * TOKENS && c.tokens == strict.tokens);
    assert_true(c.decode == strict.decode && c.prefill == strict.prefill);
}

static void test_answers_are_the_same_together(void **state)
{
    (void)state;
    open_dev(false);
    ask_all(base);
    struct counted strict = close_dev();
    open_dev(true);
    ask_all(got);
    struct counted c = close_dev();
    same_answers();
    assert_true(c.followed >= TOKENS - 2);
    assert_true(c.tokens == strict.tokens && c.decode == strict.decode && c.prefill == strict.prefill);
}

static void test_two_devices_follow_as_one_does(void **state)
{
    (void)state;
    setenv("WEFT_SIMT_DEVICES", "2", 1);
    for (int follow = 0; follow < 2; follow++) {
        struct sched_options o = options(follow);
        open_with(&o, &world_loras, 2);
        ask_all(follow ? got : base);
        struct counted c = close_dev();
        assert_true(follow ? c.followed >= TOKENS - 2 : c.followed == 0);
    }
    unsetenv("WEFT_SIMT_DEVICES");
    same_answers();
}

/* --- ends that nobody knew of --- */

/* The asks of before, most of which end with a token of their answers. */
static void ask_stopping(int i, struct ask *q)
{
    *q = ask_of(i);
    if (i % 4 == 0) return; /* this one goes on */
    q->p.stop_id[0] = base[i].ids[1 + i];
    q->p.nstop_id = 1;
}

static void test_a_stop_ends_an_answer_and_nothing_behind_it_counts(void **state)
{
    (void)state;
    open_dev(true);
    ask_each(base);
    int ended = 0, tokens = 0;
    struct counted before = counts();
    for (int i = 0; i < ASKS; i++) {
        struct ask q;
        ask_stopping(i, &q);
        tiny_ask(&dev.t, &q, &got[i]);
        ended += got[i].finish == FINISH_STOP && got[i].n < TOKENS;
        tokens += got[i].n;
        assert_int_equal(got[i].counts.output, got[i].n);
        assert_memory_equal(got[i].ids, base[i].ids, (size_t)got[i].n * sizeof *base[i].ids);
    }
    tiny_assert_idle(&dev.t);
    struct counted c = counts();
    assert_true(ended == ASKS * 3 / 4);
    assert_true(c.tokens - before.tokens == tokens);
    assert_true(c.discarded == ended); /* each alone: one row, of the step that ran when it ended */
    assert_true(c.decode - before.decode == tokens - ASKS);
    world_close(&dev);
}

static void test_those_beside_one_that_ends_go_on_as_they_would(void **state)
{
    (void)state;
    struct ask q[ASKS];
    open_dev(false);
    ask_all(base);
    close_dev();
    for (int i = 0; i < ASKS; i++) {
        q[i] = ask_of(i);
        if (i >= 3) continue; /* five remain: a bucket of eight rows to the end */
        q[i].p.stop_id[0] = base[i].ids[3 + 2 * i];
        q[i].p.nstop_id = 1;
    }
    open_dev(true);
    ask_together(got, q, NULL);
    struct counted c = close_dev();
    int tokens = 2; /* of the one that held them up */
    for (int i = 0; i < ASKS; i++) {
        tokens += got[i].n;
        assert_int_equal(got[i].finish, i < 3 ? FINISH_STOP : FINISH_LENGTH);
        assert_memory_equal(got[i].ids, base[i].ids, (size_t)got[i].n * sizeof *base[i].ids);
        assert_true(i < 3 || got[i].n == TOKENS);
    }
    assert_true(c.discarded == 3);
    assert_true(c.tokens == tokens);
}

static void test_a_stop_string_ends_an_answer(void **state)
{
    (void)state;
    struct reply whole, cut;
    struct ask q = {.adapter = 1, .seed = 21, .n = 6};
    char stop[3] = "";
    q.p = (struct gen_params){.max_tokens = 40, .ignore_eos = true};
    q.p.sample = (struct sample_params){.temperature = 1.2f, .top_p = 1, .logprobs = -1, .seed = 5};
    open_dev(true);
    tiny_ask(&dev.t, &q, &whole);
    assert_true(whole.len > 14);
    snprintf(stop, sizeof stop, "%.2s", whole.text + 10);
    q.p.stop[0] = stop;
    q.p.nstop = 1;
    tiny_ask(&dev.t, &q, &cut);
    assert_int_equal(cut.finish, FINISH_STOP);
    assert_string_equal(cut.stop_reason, stop);
    assert_true(cut.len <= 10 && cut.n < whole.n);
    assert_memory_equal(cut.text, whole.text, cut.len);
    assert_true(count(M_ROWS_DISCARDED, NULL) == 1);
    close_dev();
}

/* Its first token is not finite; by then the next step has its row, with token 0. */
static void test_an_adapter_that_makes_nan_harms_nobody_beside_it(void **state)
{
    (void)state;
    struct ask q[ASKS];
    struct reply huge;
    struct sched_options o = options(true);
    world_open(&dev, TINY_F32, &world_loras, &o, true, 1);
    snprintf(dev.t.dir[7], sizeof dev.t.dir[7], "%s/nan", dev.t.folder);
    tiny_peft(dev.t.dir[7], &(struct tiny_adapter){TINY_HUGE, 64, 4096, 0x7F}, &dev.t.m->desc, dev.t.digest[7]);
    for (int i = 0; i < ADAPTERS; i++) assert_int_equal(tiny_load(&dev.t, i), ERR_NONE);
    for (int i = 0; i < ASKS; i++) q[i] = ask_of(i);
    ask_together(base, q, NULL);
    double before = count(M_ROWS_DISCARDED, NULL);
    ask_together(got, q, &huge);
    assert_int_equal(huge.finish, FINISH_ERROR);
    assert_int_equal(huge.err.code, ERR_ADAPTER_FAULT);
    assert_int_equal(huge.n, 0);
    assert_true(count(M_ROWS_DISCARDED, NULL) == before + 1);
    same_answers();
    close_dev();
}

/* --- the planner keeps the say --- */

static void test_one_that_comes_later_is_let_in(void **state)
{
    (void)state;
    struct reply r, late;
    open_dev(true);
    assert_int_equal(tiny_submit(&dev.t, &(struct ask){.adapter = 0, .seed = 3, .n = 4, .max = 60}, &r), ERR_NONE);
    tiny_await(&r.n, 3);
    tiny_ask(&dev.t, &(struct ask){.adapter = 4, .seed = 4, .n = 9, .max = 3}, &late);
    tiny_finish(&r);
    assert_true(late.order < r.order);
    assert_int_equal(late.n, 3);
    assert_true(count(M_STEPS_FOLLOWED, NULL) > 40);
    close_dev();
}

static void test_a_cancel_ends_one_and_not_the_others(void **state)
{
    (void)state;
    struct reply gone, alone, stays;
    struct ask q = {.adapter = 2, .seed = 7, .n = 5, .max = 20};
    open_dev(true);
    tiny_ask(&dev.t, &q, &alone);
    assert_int_equal(tiny_submit(&dev.t, &(struct ask){.adapter = 5, .seed = 8, .n = 5, .max = 120}, &gone), ERR_NONE);
    assert_int_equal(tiny_submit(&dev.t, &q, &stays), ERR_NONE);
    tiny_await(&gone.n, 5);
    sched_cancel(dev.t.s, gone.gen);
    tiny_finish(&gone);
    tiny_finish(&stays);
    assert_int_equal(gone.finish, FINISH_CANCELLED);
    assert_true(gone.n < 120);
    assert_int_equal(stays.n, 20);
    close_dev();
}

static void test_rows_that_are_chosen_here_are_not_followed(void **state)
{
    (void)state;
    struct reply r;
    struct ask q = ask_of(0);
    q.p.sample.logprobs = 1;
    open_dev(true);
    tiny_ask(&dev.t, &q, &r);
    assert_int_equal(r.n, TOKENS);
    assert_true(count(M_STEPS_FOLLOWED, NULL) == 0);
    q.p.sample.logprobs = -1;
    q.p.min_tokens = 5; /* before them the end token is banned, here */
    q.p.ignore_eos = false;
    q.p.stop_id[0] = 299;
    q.p.nstop_id = 1;
    tiny_ask(&dev.t, &q, &r);
    double followed = count(M_STEPS_FOLLOWED, NULL);
    assert_true(r.n < 6 || (followed > 0 && followed <= r.n - 5));
    close_dev();
}

/* --- memory that moves --- */

static void test_adapters_take_each_others_slots_while_steps_follow(void **state)
{
    (void)state;
    const struct lora_options one = {.max_slots = 2, .max_known = 16, .wait_ms = 20000, .max_rank = WORLD_RANK};
    struct sched_options o = options(true);
    struct reply alone, beside, r;
    struct ask q = {.adapter = 1, .seed = 9, .n = 10, .max = 30};
    open_with(&o, &one, 1);
    tiny_ask(&dev.t, &q, &alone);
    assert_int_equal(tiny_submit(&dev.t, &q, &beside), ERR_NONE);
    for (int i = 0; i < 5; i++) { /* each ends by surprise, and its slot is the next one's */
        struct ask other = {.adapter = i % 2 ? 5 : 2 + i / 2 % 3, .seed = 9, .n = 5, .max = 5};
        tiny_ask(&dev.t, &other, &r);
        other.p = (struct gen_params){.max_tokens = 5, .ignore_eos = true, .stop_id = {r.ids[2]}, .nstop_id = 1};
        other.p.sample = (struct sample_params){.top_p = 1, .logprobs = -1};
        tiny_ask(&dev.t, &other, &r);
        assert_int_equal(r.finish, FINISH_STOP);
    }
    tiny_finish(&beside);
    assert_int_equal(beside.n, alone.n);
    assert_true(count(M_EVICTIONS, NULL) > 2);
    close_dev();
}

static void test_pages_that_are_short_end_nothing(void **state)
{
    (void)state;
    struct sched_options o = options(true);
    struct reply r[6];
    o.kv_bytes = 16 * 4096; /* pages */
    o.prefix_cache = true;
    open_with(&o, &world_loras, 1);
    for (int i = 0; i < 6; i++)
        assert_int_equal(
            tiny_submit(&dev.t, &(struct ask){.adapter = i - 1, .seed = 40 + (uint64_t)i, .n = 20, .max = 40}, &r[i]),
            ERR_NONE);
    for (int i = 0; i < 6; i++) {
        tiny_finish(&r[i]);
        assert_int_equal(r[i].n, 40);
    }
    assert_true(count(M_PREEMPTIONS, NULL) > 0);
    assert_true(count(M_STEPS_FOLLOWED, NULL) > 0);
    close_dev();
}

static void test_what_was_published_is_what_was_computed(void **state)
{
    (void)state;
    struct reply first, again;
    struct ask q = {.adapter = 3, .seed = 17, .n = 20, .max = 40};
    struct sched_options o = options(true);
    o.prefix_cache = true;
    open_with(&o, &world_loras, 1);
    tiny_ask(&dev.t, &q, &first);
    for (int stop = 5; stop < 36; stop += 10) { /* ends by surprise at several places of a page */
        struct ask cut = q;
        cut.p = (struct gen_params){.max_tokens = 40, .ignore_eos = true, .stop_id = {first.ids[stop]}, .nstop_id = 1};
        cut.p.sample = (struct sample_params){.top_p = 1, .logprobs = -1};
        tiny_ask(&dev.t, &cut, &again);
        assert_memory_equal(first.ids, again.ids, (size_t)again.n * sizeof *again.ids);
    }
    tiny_ask(&dev.t, &q, &again);
    same_answer(&first, &again);
    assert_true(again.counts.cached > 0);
    close_dev();
}

/* --- failures --- */

static void test_a_device_that_fails_with_a_step_behind_ends_all(void **state)
{
    (void)state;
    static const char *const at[] = {"op:90", "wait:3"};
    for (size_t k = 0; k < sizeof at / sizeof *at; k++) {
        struct reply r[3];
        open_dev(true);
        setenv("WEFT_SIMT_FAULT", at[k], 1);
        for (int i = 0; i < 3; i++) {
            struct ask q = {.adapter = i - 1, .seed = 5, .n = 9, .max = 100};
            assert_int_equal(tiny_submit(&dev.t, &q, &r[i]), ERR_NONE);
        }
        for (int i = 0; i < 3; i++) {
            tiny_finish(&r[i]);
            assert_int_equal(r[i].finish, FINISH_ERROR);
            assert_int_equal(r[i].err.code, ERR_UNAVAILABLE);
        }
        assert_true(sched_failed(dev.t.s));
        unsetenv("WEFT_SIMT_FAULT");
        world_close(&dev);
    }
}

static void test_stopping_with_a_step_behind_ends_all(void **state)
{
    (void)state;
    struct reply r[3];
    open_dev(true);
    for (int i = 0; i < 3; i++)
        assert_int_equal(tiny_submit(&dev.t, &(struct ask){.adapter = i - 1, .seed = 6, .n = 5, .max = 120}, &r[i]),
                         ERR_NONE);
    tiny_await(&r[0].n, 5);
    tiny_stop(&dev.t);
    for (int i = 0; i < 3; i++) assert_int_equal(r[i].finish, FINISH_ERROR);
    assert_int_equal(tiny_pins(&dev.t), 0);
    world_close(&dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers_are_the_same_one_by_one),
        cmocka_unit_test(test_answers_are_the_same_together),
        cmocka_unit_test(test_two_devices_follow_as_one_does),
        cmocka_unit_test(test_a_stop_ends_an_answer_and_nothing_behind_it_counts),
        cmocka_unit_test(test_those_beside_one_that_ends_go_on_as_they_would),
        cmocka_unit_test(test_a_stop_string_ends_an_answer),
        cmocka_unit_test(test_an_adapter_that_makes_nan_harms_nobody_beside_it),
        cmocka_unit_test(test_one_that_comes_later_is_let_in),
        cmocka_unit_test(test_a_cancel_ends_one_and_not_the_others),
        cmocka_unit_test(test_rows_that_are_chosen_here_are_not_followed),
        cmocka_unit_test(test_adapters_take_each_others_slots_while_steps_follow),
        cmocka_unit_test(test_pages_that_are_short_end_nothing),
        cmocka_unit_test(test_what_was_published_is_what_was_computed),
        cmocka_unit_test(test_a_device_that_fails_with_a_step_behind_ends_all),
        cmocka_unit_test(test_stopping_with_a_step_behind_ends_all),
    };
    setenv("WEFT_SIMT_STREAMS", "1", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
