/* Tests of engine/trace: the rings forget the oldest and nothing else, and what Chrome is given is a tree of spans on each track. */
#include "engine/trace.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct trace *trace_of(int steps)
{
    struct trace *t;
    struct err e = {0};
    if (trace_new(&t, steps, &e)) fail_msg("%s", e.msg);
    return t;
}

static json_t *field(const json_t *o, const char *name)
{
    return json_object_get(o, name);
}

static json_int_t number(const json_t *o, const char *name)
{
    json_t *v = field(o, name);
    if (!json_is_integer(v)) fail_msg("%s is no integer", name);
    return json_integer_value(v);
}

/* --- the rings --- */

static void test_the_last_steps_are_kept_oldest_first(void **state)
{
    (void)state;
    struct trace *t = trace_of(4);
    for (int i = 0; i < 11; i++) trace_add_step(t, &(struct trace_step){.start_us = i, .decode_rows = 10 * i});
    json_t *v = trace_json(t, 99), *steps = field(v, "steps");
    assert_int_equal(number(v, "now_us"), 99);
    assert_int_equal(json_array_size(steps), 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(number(json_array_get(steps, (size_t)i), "start_us"), 7 + i);
        assert_int_equal(number(json_array_get(steps, (size_t)i), "decode_rows"), 10 * (7 + i));
    }
    json_decref(v);
    trace_free(t);
}

static void test_a_span_is_open_until_it_is_ended(void **state)
{
    (void)state;
    struct trace *t = trace_of(4);
    uint64_t a = trace_begin(t, TRACE_PREFILL, "r1", 10), b = trace_begin(t, TRACE_LOAD, "digest", 11),
             c = trace_begin(t, TRACE_QUEUED, "r2", 12);
    trace_end(t, a, 20);
    trace_cancel(t, c);
    json_t *v = trace_json(t, 30), *spans = field(v, "spans");
    assert_int_equal(json_array_size(spans), 2);
    assert_int_equal(number(json_array_get(spans, 0), "end_us"), 20);
    assert_string_equal(json_string_value(field(json_array_get(spans, 0), "kind")), "prefill");
    assert_true(json_is_null(field(json_array_get(spans, 1), "end_us")));
    assert_string_equal(json_string_value(field(json_array_get(spans, 1), "id")), "digest");
    json_decref(v);
    trace_end(t, b, 31);
    trace_free(t);
}

static void test_ending_a_span_that_was_overwritten_ends_no_other(void **state)
{
    (void)state;
    struct trace *t = trace_of(1);
    uint64_t old = trace_begin(t, TRACE_PREFILL, "old", 1);
    for (int i = 0; i < TRACE_SPANS_PER_STEP; i++) trace_begin(t, TRACE_DECODE, "new", 10 + i);
    trace_end(t, old, 50);
    trace_cancel(t, old);
    trace_end(t, 0, 50);
    json_t *v = trace_json(t, 60), *spans = field(v, "spans");
    assert_int_equal(json_array_size(spans), TRACE_SPANS_PER_STEP);
    for (size_t i = 0; i < json_array_size(spans); i++) {
        assert_string_equal(json_string_value(field(json_array_get(spans, i), "id")), "new");
        assert_true(json_is_null(field(json_array_get(spans, i), "end_us")));
    }
    json_decref(v);
    trace_free(t);
}

static void test_without_a_trace_nothing_is_noted(void **state)
{
    (void)state;
    struct err e = {0};
    struct trace *t;
    assert_int_equal(trace_begin(NULL, TRACE_DECODE, "x", 1), 0);
    trace_end(NULL, 1, 2);
    trace_add_step(NULL, &(struct trace_step){0});
    assert_int_equal(trace_new(&t, 0, &e), -1);
    assert_int_equal(trace_new(&t, TRACE_STEPS_MAX + 1, &e), -1);
    trace_free(NULL);
}

/* --- Chrome --- */

struct event {
    json_int_t pid, tid, start, end;
};

static json_t *chrome_of(const json_t *trace)
{
    struct buf b;
    struct err e = {0};
    buf_init(&b, (size_t)64 << 20);
    if (trace_chrome(trace, &b, &e)) fail_msg("%s", e.msg);
    json_t *v = json_loads(b.data, 0, NULL);
    if (!v) fail_msg("this is no JSON: %.200s", b.data);
    buf_close(&b);
    return v;
}

/* Two spans of a track are apart or one is within the other. */
static int assert_nested(const json_t *events)
{
    int n = 0;
    struct event *v = calloc(json_array_size(events) + 1, sizeof *v);
    for (size_t i = 0; i < json_array_size(events); i++) {
        const json_t *o = json_array_get(events, i);
        if (strcmp(json_string_value(field(o, "ph")), "X") != 0) continue;
        assert_true(number(o, "dur") >= 0 && number(o, "ts") >= 0);
        v[n++] =
            (struct event){number(o, "pid"), number(o, "tid"), number(o, "ts"), number(o, "ts") + number(o, "dur")};
    }
    for (int i = 0; i < n; i++)
        for (int k = i + 1; k < n; k++) {
            const struct event *a = &v[i], *b = &v[k];
            if (a->pid != b->pid || a->tid != b->tid || a->end <= b->start || b->end <= a->start) continue;
            if (a->start <= b->start ? b->end > a->end : a->end > b->end)
                if (!(a->start == b->start))
                    fail_msg("%lld..%lld and %lld..%lld on track %lld of %lld", (long long)a->start, (long long)a->end,
                             (long long)b->start, (long long)b->end, (long long)a->tid, (long long)a->pid);
        }
    free(v);
    return n;
}

/* Forty requests that overlap: queued, prefill, decode, some preempted; every third still runs. */
static void fill(struct trace *t)
{
    for (int i = 0; i < 40; i++) {
        char id[TRACE_ID];
        int64_t at = 1000 + i * 70;
        snprintf(id, sizeof id, "request \"%d\"", i);
        uint64_t h = trace_begin(t, TRACE_QUEUED, id, at);
        trace_end(t, h, at + i % 5 * 10);
        at += i % 5 * 10;
        h = trace_begin(t, TRACE_PREFILL, id, at);
        trace_end(t, h, at += 100);
        if (i % 4 == 0) {
            h = trace_begin(t, TRACE_PREEMPTED, id, at);
            trace_end(t, h, at += 33);
        }
        h = trace_begin(t, TRACE_DECODE, id, at);
        if (i % 3) trace_end(t, h, at + 200 + i);
        h = trace_begin(t, TRACE_LOAD, i % 2 ? "aaaa" : "bbbb", at - 50);
        trace_end(t, h, at + 40);
    }
    for (int i = 0; i < 60; i++)
        trace_add_step(t, &(struct trace_step){.start_us = 1000 + i * 100,
                                               .plan_us = 3,
                                               .forward_us = 80,
                                               .sample_us = 5,
                                               .emit_us = i % 2 ? 0 : 4,
                                               .decode_rows = 3});
}

static void test_spans_nest_on_every_track(void **state)
{
    (void)state;
    struct trace *t = trace_of(128);
    fill(t);
    json_t *v = trace_json(t, 9000), *events = chrome_of(v);
    int n = assert_nested(events), tracks[4] = {0};
    assert_true(n > 60 * 4 + 40 * 4);
    for (size_t i = 0; i < json_array_size(events); i++) {
        const json_t *o = json_array_get(events, i);
        json_int_t pid = number(o, "pid"), tid = number(o, "tid");
        assert_in_range(pid, 1, 3);
        if (tid > tracks[pid]) tracks[pid] = (int)tid;
    }
    assert_int_equal(tracks[1], 1);
    assert_in_range(tracks[2], 2, 39); /* requests that don't overlap share a track */
    assert_in_range(tracks[3], 2, 39);
    json_decref(events);
    json_decref(v);
    trace_free(t);
}

static void test_the_phases_of_a_step_fill_it(void **state)
{
    (void)state;
    struct trace *t = trace_of(2);
    trace_add_step(t, &(struct trace_step){
                          .start_us = 500, .plan_us = 1, .forward_us = 20, .sample_us = 3, .emit_us = 6, .pages = 77});
    json_t *v = trace_json(t, 600), *events = chrome_of(v);
    json_int_t sum = 0, whole = 0;
    for (size_t i = 0; i < json_array_size(events); i++) {
        const json_t *o = json_array_get(events, i);
        if (strcmp(json_string_value(field(o, "ph")), "X") != 0) continue;
        if (strcmp(json_string_value(field(o, "name")), "step") == 0) {
            whole = number(o, "dur");
            assert_int_equal(number(field(o, "args"), "pages"), 77);
        } else {
            sum += number(o, "dur");
        }
    }
    assert_int_equal(whole, 30);
    assert_int_equal(sum, 30);
    json_decref(events);
    json_decref(v);
    trace_free(t);
}

static void test_the_largest_trace_is_read_back(void **state)
{
    (void)state;
    struct trace *t = trace_of(TRACE_STEPS_MAX);
    struct buf b;
    struct err e = {0};
    json_t *v, *back;
    for (int i = 0; i < TRACE_STEPS_MAX; i++) {
        trace_add_step(t, &(struct trace_step){.start_us = 1000000000000 + i});
        for (int k = 0; k < TRACE_SPANS_PER_STEP; k++) trace_begin(t, TRACE_DECODE, "some-request-id#1", i);
    }
    v = trace_json(t, 5);
    buf_init(&b, (size_t)64 << 20);
    assert_int_equal(json_dump(v, false, &b), 0);
    if (json_parse(b.data, b.len, &back, &e)) fail_msg("%s", e.msg);
    json_decref(back);
    json_decref(v);
    buf_close(&b);
    trace_free(t);
}

static void test_what_is_no_trace_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "{}",
        "{\"steps\":[],\"spans\":{}}",
        "{\"steps\":[{}],\"spans\":[]}",
        "{\"steps\":[{\"start_us\":1,\"plan_us\":-5}],\"spans\":[]}",
        "{\"steps\":[],\"spans\":[{}]}",
        "{\"steps\":[],\"spans\":[{\"kind\":\"decode\",\"id\":\"x\"}]}",
        "{\"steps\":[],\"spans\":[{\"kind\":7,\"id\":\"x\",\"start_us\":1}]}",
        "{\"steps\":[],\"spans\":[{\"kind\":\"decode\",\"id\":7,\"start_us\":1}]}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err e = {0};
        struct buf b;
        json_t *v = json_loads(bad[i], 0, NULL);
        buf_init(&b, 1 << 20);
        if (trace_chrome(v, &b, &e) == 0) fail_msg("row %zu was taken", i);
        assert_int_equal(e.code, ERR_INVALID);
        buf_close(&b);
        json_decref(v);
    }
    json_t *v = json_loads("{\"now_us\":5,\"steps\":[],\"spans\":[]}", 0, NULL), *events = chrome_of(v);
    assert_int_equal(assert_nested(events), 0);
    json_decref(events);
    json_decref(v);
}

int main(void)
{
    json_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_last_steps_are_kept_oldest_first),
        cmocka_unit_test(test_a_span_is_open_until_it_is_ended),
        cmocka_unit_test(test_ending_a_span_that_was_overwritten_ends_no_other),
        cmocka_unit_test(test_without_a_trace_nothing_is_noted),
        cmocka_unit_test(test_spans_nest_on_every_track),
        cmocka_unit_test(test_the_phases_of_a_step_fill_it),
        cmocka_unit_test(test_the_largest_trace_is_read_back),
        cmocka_unit_test(test_what_is_no_trace_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
