/* OTLP: what is written is JSON that says what the record says, whatever the record holds; and the queue never grows, nor
 * keeps anybody, while nobody takes what is in it. tests/e2e/gateway/test_observe.py has a collector. */
#include "base/clock.h"
#include "base/json.h"
#include "gateway/observe/meters.h"
#include "gateway/observe/otlp.h"
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct trace_record *record(int nspans)
{
    struct trace_record *r = calloc(1, sizeof *r + (size_t)nspans * sizeof r->span[0]);
    memset(r->context.trace, 0x11, TRACE_BYTES);
    memset(r->context.span, 0x22, SPAN_BYTES);
    r->start_us = 1000000;
    r->end_us = 9000000;
    r->method = "POST";
    r->route = "/v1/chat/completions";
    r->endpoint = "/v1/chat/completions";
    r->state = "completed";
    r->error = "";
    r->status = 200;
    r->served = r->counted = true;
    snprintf(r->model, sizeof r->model, "sql");
    r->nspans = nspans;
    for (int i = 0; i < nspans; i++)
        r->span[i] = (struct span_note){.name = "pick", .start_us = 1000000 + i * 1000000, .end_us = 2000000 + i * 1000000};
    return r;
}

static json_t *written(struct trace_record *const *r, size_t n)
{
    struct buf b;
    json_t *v = NULL;
    struct err e = {0};
    buf_init(&b, 1u << 24);
    assert_int_equal(otlp_write(r, n, "me", &b), 0);
    if (json_parse(b.data, b.len, &v, &e)) fail_msg("%s: %s", e.msg, b.data);
    buf_close(&b);
    return v;
}

static json_t *spans_of(json_t *v)
{
    json_t *resource = json_array_get(json_object_get(v, "resourceSpans"), 0);
    return json_object_get(json_array_get(json_object_get(resource, "scopeSpans"), 0), "spans");
}

static json_t *named(json_t *spans, const char *name)
{
    size_t i;
    json_t *s;
    json_array_foreach(spans, i, s)
    {
        if (strcmp(json_string_value(json_object_get(s, "name")), name) == 0) return s;
    }
    return NULL;
}

static int64_t nanos(const json_t *span, const char *key)
{
    return strtoll(json_string_value(json_object_get(span, key)), NULL, 10);
}

static void a_record_of_a_refusal_is_one_span(void **state)
{
    (void)state;
    struct trace_record *r = record(0);
    r->served = false;
    r->status = 401;
    json_t *v = written(&r, 1), *spans = spans_of(v);
    assert_int_equal(json_array_size(spans), 1);
    json_t *s = json_array_get(spans, 0);
    assert_string_equal(json_string_value(json_object_get(s, "traceId")), "11111111111111111111111111111111");
    assert_null(json_object_get(s, "parentSpanId"));
    assert_int_equal(json_integer_value(json_object_get(s, "flags")), 0x101);
    assert_int_equal(nanos(s, "startTimeUnixNano"), 1000000000);
    json_decref(v);
    free(r);
}

static void steps_end_at_the_first_token_and_stay_within_their_try(void **state)
{
    (void)state;
    static const struct {
        int64_t queue, load, prefill, decode, first;
        int64_t prefill_at, prefill_end, decode_end; /* of a try from 2 s to 8 s */
    } row[] = {
        {100000, 200000, 700000, 1000000, 5000000, 4300000, 5000000, 6000000},
        {9000000, 0, 700000, 9000000, 5000000, 4300000, 5000000, 8000000}, /* they begin before it, and end after it */
        {0, 0, 90000000, 1, 5000000, 2000000, 5000000, 5000001},
        {100000, 200000, 700000, 1000000, 0, 2300000, 3000000, 4000000}, /* no token was seen: from the sending on */
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct trace_record *r = record(1);
        r->stream = true;
        r->span[0] = (struct span_note){.name = "upstream", .upstream = true, .start_us = 2000000, .end_us = 8000000};
        r->first_us = row[i].first;
        r->times = (struct relay_times){true, row[i].queue, row[i].load, row[i].prefill, row[i].decode, 0};
        json_t *v = written(&r, 1), *prefill = named(spans_of(v), "engine.prefill"), *decode = named(spans_of(v), "engine.decode");
        assert_int_equal(nanos(prefill, "startTimeUnixNano"), row[i].prefill_at * 1000);
        assert_int_equal(nanos(prefill, "endTimeUnixNano"), row[i].prefill_end * 1000);
        assert_int_equal(nanos(decode, "endTimeUnixNano"), row[i].decode_end * 1000);
        json_t *queue = named(spans_of(v), "engine.queue");
        assert_true(!queue || nanos(queue, "startTimeUnixNano") >= 2000000000);
        assert_string_equal(json_string_value(json_object_get(decode, "parentSpanId")),
                            json_string_value(json_object_get(named(spans_of(v), "chat sql"), "spanId")));
        json_decref(v);
        free(r);
    }
}

/* Names are checked before they get here; this holds whatever they are. */
static void any_bytes_make_json(void **state)
{
    (void)state;
    for (int byte = 1; byte < 256; byte++) {
        struct trace_record *r = record(2);
        memset(r->model, byte, sizeof r->model - 1);
        memset(r->tenant, byte, sizeof r->tenant - 1);
        memset(r->finish, byte, sizeof r->finish - 1);
        memset(r->span[1].engine, byte, sizeof r->span[1].engine - 1);
        memset(r->tracestate, byte, sizeof r->tracestate - 1);
        r->span[1].upstream = true;
        r->end_us = -1; /* a clock that was set */
        json_decref(written(&r, 1));
        free(r);
    }
}

static void a_whole_batch_fits_its_limit(void **state)
{
    (void)state;
    struct trace_record *r[OTLP_BATCH];
    struct buf b;
    for (int i = 0; i < OTLP_BATCH; i++) {
        r[i] = record(16);
        memset(r[i]->model, '"', sizeof r[i]->model - 1);
        memset(r[i]->tracestate, '"', sizeof r[i]->tracestate - 1);
        r[i]->times = (struct relay_times){true, 1, 1, 1, 1, 1};
        for (int k = 0; k < 16; k++) {
            r[i]->span[k].upstream = true;
            memset(r[i]->span[k].engine, '"', sizeof r[i]->span[k].engine - 1);
        }
    }
    buf_init(&b, 16u << 20);
    assert_int_equal(otlp_write(r, OTLP_BATCH, "me", &b), 0);
    print_message("a batch has %zu bytes at most\n", b.len);
    buf_close(&b);
    for (int i = 0; i < OTLP_BATCH; i++) free(r[i]);
}

static double counted(struct metrics *m, const char *outcome)
{
    return metric_get(m, GM_TRACES, (const char *[]){outcome});
}

static void what_the_queue_can_not_hold_is_dropped_and_counted_at_once(void **state)
{
    (void)state;
    enum { TOO_MANY = 3 * OTLP_QUEUE };
    struct metrics *m = metrics_new(gateway_meter_rows, GATEWAY_METERS);
    /* Nobody listens there: the first batch is tried again and again. */
    struct otlp_options o = {.url = "http://127.0.0.1:9/v1/traces", .token_file = "", .instance = "me", .metrics = m};
    struct otlp *t;
    assert_int_equal(otlp_open(&t, &o, NULL), 0);
    int64_t begin = clock_mono_us();
    for (int i = 0; i < TOO_MANY; i++) otlp_put(t, record(0));
    int64_t took = clock_mono_us() - begin;
    assert_true(otlp_waiting(t) <= OTLP_QUEUE);
    assert_true(counted(m, "dropped") >= TOO_MANY - OTLP_QUEUE - 2 * OTLP_BATCH);
    print_message("%.2f us for one that is handed in or dropped\n", (double)took / TOO_MANY);
    begin = clock_mono_us();
    otlp_close(t);
    assert_true(clock_mono_us() - begin < 2 * OTLP_LAST_MS * 1000);
    assert_true(counted(m, "dropped") + counted(m, "lost") == TOO_MANY);
    otlp_put(NULL, record(0));
    metrics_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_record_of_a_refusal_is_one_span),
        cmocka_unit_test(steps_end_at_the_first_token_and_stay_within_their_try),
        cmocka_unit_test(any_bytes_make_json),
        cmocka_unit_test(a_whole_batch_fits_its_limit),
        cmocka_unit_test(what_the_queue_can_not_hold_is_dropped_and_counted_at_once),
    };
    json_start();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
