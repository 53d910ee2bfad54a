/* The live view: what is in flight is counted per tenant and adapter, the busiest are shown first, and rows are few. */
#include "gateway/live/live.h"
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct admission of(const char *tenant, const char *adapter, int version)
{
    struct admission a = {.what = {.is_base = !*adapter, .version = version}};
    snprintf(a.who.tenant_name, sizeof a.who.tenant_name, "%s", tenant);
    snprintf(a.what.adapter, sizeof a.what.adapter, "%s", adapter);
    snprintf(a.what.digest, sizeof a.what.digest, "digest of %s %d", adapter, version);
    return a;
}

static void begin(struct live *l, const char *tenant, const char *adapter, int version, struct live_request *q)
{
    struct admission a = of(tenant, adapter, version);
    live_begin(l, &a, q);
}

static void requests_and_tokens_are_counted_for_the_tenant_and_the_adapter(void **state)
{
    struct live *l = live_new();
    struct live_request q[4];
    struct live_top top[4];
    (void)state;
    begin(l, "acme", "sql", 1, &q[0]);
    begin(l, "acme", "sql", 1, &q[1]);
    begin(l, "acme", "sql", 2, &q[2]);
    begin(l, "other", "", 0, &q[3]);
    for (int i = 0; i < 4; i++) live_tokens(&q[i], 100);
    assert_int_equal(live_tenants(l, top, 4), 2);
    assert_string_equal(top[0].tenant, "acme");
    assert_int_equal(top[0].in_flight, 3);
    assert_true(top[0].tokens_per_s == 300.0 / LIVE_WINDOW_S);
    assert_int_equal(live_adapters(l, top, 4), 2);
    assert_int_equal(top[0].version, 1);
    assert_int_equal(top[0].in_flight, 2);
    assert_string_equal(top[1].digest, "digest of sql 2");
    for (int i = 0; i < 4; i++) live_end(l, &q[i]);
    live_end(l, &q[0]);                           /* once more is harmless */
    assert_int_equal(live_tenants(l, top, 4), 2); /* their tokens are still in the window */
    assert_int_equal(top[0].in_flight, 0);
    live_free(l);
}

static void the_busiest_are_shown_when_there_are_more_than_asked_for(void **state)
{
    struct live *l = live_new();
    struct live_request q;
    struct live_top top[3];
    (void)state;
    for (int tenant = 0; tenant < 20; tenant++)
        for (int n = 0; n <= (tenant * 7) % 20; n++) {
            char name[16];
            snprintf(name, sizeof name, "t%d", tenant);
            begin(l, name, "", 0, &q);
        }
    assert_int_equal(live_tenants(l, top, 3), 3);
    for (int i = 0; i < 3; i++) assert_int_equal(top[i].in_flight, 20 - i);
    live_free(l);
}

static void more_names_than_rows_are_not_shown_and_disturb_nobody(void **state)
{
    struct live *l = live_new();
    struct live_request *q = calloc(2 * LIVE_ROWS, sizeof *q), again;
    struct live_top *top = calloc(2 * LIVE_ROWS, sizeof *top);
    char name[16];
    (void)state;
    for (int i = 0; i < 2 * LIVE_ROWS; i++) {
        snprintf(name, sizeof name, "t%d", i);
        begin(l, name, "", 0, &q[i]);
        live_tokens(&q[i], 0);
    }
    int shown = live_tenants(l, top, 2 * LIVE_ROWS);
    assert_true(shown > LIVE_ROWS / 2 && shown <= LIVE_ROWS);
    for (int i = 0; i < 2 * LIVE_ROWS; i++) live_end(l, &q[i]);
    assert_int_equal(live_tenants(l, top, 2 * LIVE_ROWS), 0);
    begin(l, "fresh", "", 0, &again); /* idle rows are given away */
    assert_non_null(again.tenant);
    assert_int_equal(live_tenants(l, top, 2 * LIVE_ROWS), 1);
    live_end(l, &again);
    free(q);
    free(top);
    live_free(l);
}

/* --- the minute of what ended --- */

static struct settlement ended(enum usage_state state, int64_t first_us, int64_t took_us, int64_t tokens)
{
    return (struct settlement){.state = state, .t_first = first_us, .t_end = took_us, .delivered = tokens};
}

static void ends_and_their_times_are_those_of_the_tenant_and_of_all(void **state)
{
    struct live *l = live_new();
    struct live_request q;
    struct live_now n;
    struct admission a = of("acme", "sql", 1);
    struct settlement s = ended(USAGE_COMPLETED, 100000, 1100000, 11);
    (void)state;
    for (int i = 0; i < 4; i++) {
        live_begin(l, &a, &q);
        live_first(&q, 50000); /* the first word counts, not the settlement's */
        live_done(&q, &a, &s);
        live_end(l, &q);
    }
    s = ended(USAGE_TIMEOUT, 0, 5000000, 0);
    live_begin(l, &a, &q);
    live_done(&q, &a, &s);
    live_end(l, &q);
    live_refused(l, "other");
    live_now(l, "acme", &n);
    assert_int_equal(n.ended, 5);
    assert_int_equal(n.minute.count[LIVE_REQUESTS], 5);
    assert_int_equal(n.minute.count[LIVE_ERRORS], 1);
    assert_int_equal(n.minute.count[LIVE_REFUSED], 0);
    assert_int_equal(latency_count(n.minute.times[LATENCY_TTFT]), 4);
    assert_int_equal(latency_count(n.minute.times[LATENCY_DURATION]), 5);
    assert_int_equal(latency_count(n.minute.times[LATENCY_TPOT]), 4);
    double ttft = latency_quantile(n.minute.times[LATENCY_TTFT], 0.5), tpot = latency_quantile(n.minute.times[LATENCY_TPOT], 0.5);
    assert_true(ttft > 50000 / 1.2 && ttft < 50000 * 1.2);
    assert_true(tpot > 100000 / 1.2 && tpot < 100000 * 1.2);
    live_now(l, NULL, &n);
    assert_int_equal(n.minute.count[LIVE_REQUESTS], 5);
    assert_int_equal(n.minute.count[LIVE_REFUSED], 1);
    live_now(l, "nobody", &n);
    assert_int_equal(n.of.in_flight + n.minute.count[LIVE_REQUESTS], 0);
    live_free(l);
}

static void what_no_engine_has_yet_waits(void **state)
{
    struct live *l = live_new();
    struct live_request q[2];
    struct live_now n;
    (void)state;
    begin(l, "acme", "sql", 1, &q[0]);
    begin(l, "acme", "", 0, &q[1]);
    live_now(l, NULL, &n);
    assert_int_equal(n.of.waiting, 2);
    live_sent(l, &q[0]);
    live_sent(l, &q[0]); /* another try */
    live_now(l, "acme", &n);
    assert_int_equal(n.of.in_flight, 2);
    assert_int_equal(n.of.waiting, 1);
    live_end(l, &q[0]);
    live_end(l, &q[1]); /* which was never sent */
    live_now(l, NULL, &n);
    assert_int_equal(n.of.in_flight, 0);
    assert_int_equal(n.of.waiting, 0);
    live_free(l);
}

static void a_window_forgets_a_part_at_a_time(void **state)
{
    const int64_t part = LIVE_PART_S * 1000000LL, t = 1000 * part;
    struct live_window w;
    struct live_sums s;
    (void)state;
    live_window_init(&w);
    assert_true(live_window_idle(&w, t));
    for (int i = 0; i < 3 * LIVE_PARTS; i++) {
        live_window_count(&w, t + i * part, LIVE_REQUESTS);
        live_window_time(&w, t + i * part, LATENCY_TTFT, i < LIVE_PARTS ? -5 : INT64_MAX);
        live_window_sum(&w, t + i * part + part / 2, &s);
        assert_int_equal(s.count[LIVE_REQUESTS], i < LIVE_PARTS ? i + 1 : LIVE_PARTS);
        assert_int_equal(latency_count(s.times[LATENCY_TTFT]), s.count[LIVE_REQUESTS]);
        assert_true(s.covered_s == LIVE_SPAN_S - LIVE_PART_S / 2.0);
    }
    live_window_sum(&w, t + (4 * LIVE_PARTS - 2) * part, &s); /* one part of all is left */
    assert_int_equal(s.count[LIVE_REQUESTS], 1);
    assert_false(live_window_idle(&w, t + (4 * LIVE_PARTS - 2) * part));
    assert_true(live_window_idle(&w, t + (4 * LIVE_PARTS - 1) * part));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_and_tokens_are_counted_for_the_tenant_and_the_adapter),
        cmocka_unit_test(the_busiest_are_shown_when_there_are_more_than_asked_for),
        cmocka_unit_test(more_names_than_rows_are_not_shown_and_disturb_nobody),
        cmocka_unit_test(ends_and_their_times_are_those_of_the_tenant_and_of_all),
        cmocka_unit_test(what_no_engine_has_yet_waits),
        cmocka_unit_test(a_window_forgets_a_part_at_a_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
