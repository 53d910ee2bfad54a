/* Latency histograms beside exact percentiles, both tests beside known values, and the verdict on canaries: a difference that is
 * there is found, one that is not there is not invented, and too few requests are no verdict. */
#include "gateway/stats/canary.h"
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint64_t state_of_random = 88172645463325252u;

static double uniform(void)
{
    state_of_random ^= state_of_random << 13;
    state_of_random ^= state_of_random >> 7;
    state_of_random ^= state_of_random << 17;
    return (double)(state_of_random >> 11) / 9007199254740992.0;
}

/* A time like those of requests: log-normal about the median. */
static int64_t time_about(double median_us)
{
    double z = sqrt(-2 * log(1 - uniform())) * cos(6.283185307179586 * uniform());
    return (int64_t)(median_us * exp(0.5 * z));
}

static int ascending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void a_quantile_is_near_the_exact_one(void **state)
{
    enum { N = 5000 };
    static int64_t t[N], h[LATENCY_BUCKETS];
    (void)state;
    memset(h, 0, sizeof h);
    for (int i = 0; i < N; i++) h[ledger_latency_bucket(t[i] = time_about(30000))]++;
    qsort(t, N, sizeof *t, ascending);
    assert_int_equal(latency_count(h), N);
    for (double q = 0.05; q < 0.995; q += 0.05) {
        double exact = (double)t[(int)(q * N)], got = latency_quantile(h, q);
        assert_true(got > exact / 1.1 && got < exact * 1.1);
    }
}

static void every_bucket_holds_the_times_between_its_edges(void **state)
{
    (void)state;
    for (int b = 0; b < LATENCY_BUCKETS; b++) assert_true(latency_edge(b) <= latency_edge(b + 1));
    for (int64_t us = 0; us < 1 << 20; us = us * 17 / 16 + 1) {
        int b = ledger_latency_bucket(us);
        assert_true(latency_edge(b) <= (double)us && (double)us < latency_edge(b + 1));
    }
    assert_int_equal(ledger_latency_bucket(-7), 0);
    assert_true(ledger_latency_bucket(INT64_MAX) < LATENCY_BUCKETS);
    int64_t none[LATENCY_BUCKETS] = {0};
    assert_true(latency_quantile(none, 0.5) == 0);
    json_t *o = latency_json(none);
    assert_true(json_is_null(json_object_get(o, "p99")));
    json_decref(o);
}

/* Values of scipy 1.17: mannwhitneyu(method="asymptotic", use_continuity=False), chi2_contingency(correction=False). */
static void both_tests_agree_with_scipy(void **state)
{
    int64_t a[LATENCY_BUCKETS] = {[60] = 10, [61] = 20, [62] = 30, [63] = 20, [64] = 10};
    int64_t b[LATENCY_BUCKETS] = {[60] = 5, [61] = 10, [62] = 25, [63] = 30, [64] = 20};
    (void)state;
    assert_true(fabs(latency_differ(a, b) - 0.0011723554939122) < 1e-12);
    assert_true(fabs(latency_differ(a, a) - 1) < 1e-12);
    int64_t none[LATENCY_BUCKETS] = {0}, same[LATENCY_BUCKETS] = {[60] = 10};
    assert_true(latency_differ(a, none) == 1 && latency_differ(same, same) == 1);
    assert_true(fabs(share_differ(30, 1000, 10, 1000) - 0.0014013015809602) < 1e-12);
    assert_true(share_differ(0, 100, 0, 100) == 1 && share_differ(1, 0, 5, 9) == 1);
}

/* --- verdicts --- */

static struct canary_target target(int version, int weight, int n, double error_rate, double median_us)
{
    struct canary_target t = {.version = version, .weight = weight};
    snprintf(t.adapter, sizeof t.adapter, "sql");
    for (int i = 0; i < n; i++) {
        t.n[uniform() < error_rate ? USAGE_UPSTREAM_ERROR : USAGE_COMPLETED]++;
        t.times[LATENCY_TTFT][ledger_latency_bucket(time_about(median_us))]++;
        t.times[LATENCY_TPOT][ledger_latency_bucket(time_about(20000))]++;
        t.times[LATENCY_DURATION][ledger_latency_bucket(time_about(median_us * 10))]++;
    }
    return t;
}

static struct canary judge(struct canary_target a, struct canary_target b)
{
    static struct canary_target t[2];
    struct canary c;
    t[0] = a;
    t[1] = b;
    canary_judge(t, 2, &c);
    return c;
}

static void what_differs_is_found_and_named(void **state)
{
    (void)state;
    struct canary c = judge(target(2, 10, 500, 0.08, 1e5), target(1, 90, 4500, 0.01, 1e5));
    assert_int_equal(c.baseline, 1);
    assert_int_equal(c.verdict, CANARY_WORSE);
    assert_non_null(strstr(c.reason, "sql@2 has more errors than sql@1"));
    c = judge(target(2, 10, 500, 0.01, 0.7e5), target(1, 90, 4500, 0.01, 1e5));
    assert_int_equal(c.verdict, CANARY_BETTER);
    assert_non_null(strstr(c.reason, "a shorter time to the first token"));
    c = judge(target(2, 10, 500, 0.08, 0.7e5), target(1, 90, 4500, 0.01, 1e5)); /* faster, but it fails */
    assert_int_equal(c.verdict, CANARY_WORSE);
}

/* One of which nearly all failed has few times, and those say nothing about the other's. */
static void few_times_are_not_compared(void **state)
{
    (void)state;
    struct canary_target failing = target(1, 60, 60, 1, 1e5), mended = target(2, 40, 60, 0, 1e5);
    memset(failing.times, 0, sizeof failing.times);
    failing.times[LATENCY_TTFT][ledger_latency_bucket(1000)] = failing.times[LATENCY_TPOT][ledger_latency_bucket(20)] = CANARY_TIMES - 1;
    struct canary c = judge(failing, mended);
    assert_int_equal(c.verdict, CANARY_BETTER);
    assert_non_null(strstr(c.reason, "sql@2 has fewer errors"));
    failing.times[LATENCY_TTFT][ledger_latency_bucket(1000)]++;
    c = judge(failing, mended);
    assert_int_equal(c.verdict, CANARY_WORSE);
}

static void too_few_requests_are_no_verdict(void **state)
{
    (void)state;
    struct canary c = judge(target(2, 10, CANARY_ENOUGH - 1, 1, 1e6), target(1, 90, 4500, 0, 1e5));
    assert_int_equal(c.verdict, CANARY_TOO_FEW);
    assert_non_null(strstr(c.reason, "sql@2 has 49 requests so far"));
    for (int i = 0; i < c.n; i++) assert_false(c.difference[i].significant);
    struct canary_target one = target(1, 1, 1000, 0, 1e5);
    canary_judge(&one, 1, &c);
    assert_int_equal(c.verdict, CANARY_TOO_FEW);
    assert_int_equal(c.n, 0);
    canary_judge(&one, 0, &c);
    assert_int_equal(c.n, 0);
}

/* Two of the same are called different no more often than the threshold says: 5 % of the trials, over all comparisons. */
static void equals_are_seldom_told_apart(void **state)
{
    int told = 0;
    (void)state;
    for (int i = 0; i < 400; i++)
        told += judge(target(2, 50, 400, 0.02, 1e5), target(1, 50, 400, 0.02, 1e5)).verdict != CANARY_SAME;
    assert_true(told <= 32);
}

static void the_baseline_is_the_heaviest_and_of_equals_the_older_version(void **state)
{
    struct canary_target t[3] = {target(3, 50, 60, 0, 1e5), target(2, 50, 60, 0, 1e5), target(9, 0, 60, 1, 1e5)};
    struct canary c;
    (void)state;
    canary_judge(t, 3, &c);
    assert_int_equal(c.baseline, 1);
    assert_int_equal(c.n, CANARY_SCORE); /* a target without weight is no canary, and nobody scored answers */
}

static void score(struct canary_target *t, int n, double pass_rate)
{
    for (int i = 0; i < n; i++) {
        double s = uniform() < pass_rate;
        t->scored++;
        t->score_sum += s;
        t->score_squares += s * s;
    }
}

static void scores_of_answers_are_compared_where_both_have_enough(void **state)
{
    (void)state;
    struct canary_target a = target(1, 90, 4000, 0, 1e5), b = target(2, 10, 400, 0, 1e5);
    score(&a, 400, 0.9);
    struct canary c = judge(b, a);
    assert_int_equal(c.n, CANARY_SCORE);
    score(&b, CANARY_ENOUGH - 1, 0.2);
    c = judge(b, a);
    assert_int_equal(c.n, CANARY_METRICS);
    assert_int_equal(c.verdict, CANARY_SAME);
    score(&b, 100, 0.2);
    c = judge(b, a);
    assert_int_equal(c.verdict, CANARY_WORSE);
    assert_non_null(strstr(c.reason, "sql@2 has lower scores than sql@1: 0."));
    c = judge(a, b); /* the order of targets does not matter, their weights do */
    assert_int_equal(c.verdict, CANARY_WORSE);
    a.weight = 5;
    c = judge(a, b);
    assert_int_equal(c.verdict, CANARY_BETTER);
    assert_non_null(strstr(c.reason, "sql@1 has higher scores than sql@2: 0."));
}

/* All of one passed, none of the other's: no spread, and no chance. */
static void scores_without_spread_are_compared_all_the_same(void **state)
{
    (void)state;
    struct canary_target a = target(1, 90, 4000, 0, 1e5), b = target(2, 10, 400, 0, 1e5);
    score(&a, 60, 1);
    score(&b, 60, 0);
    assert_int_equal(judge(b, a).verdict, CANARY_WORSE);
    b.score_sum = b.score_squares = 60;
    assert_int_equal(judge(b, a).verdict, CANARY_SAME);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_quantile_is_near_the_exact_one),
        cmocka_unit_test(every_bucket_holds_the_times_between_its_edges),
        cmocka_unit_test(both_tests_agree_with_scipy),
        cmocka_unit_test(what_differs_is_found_and_named),
        cmocka_unit_test(scores_of_answers_are_compared_where_both_have_enough), cmocka_unit_test(scores_without_spread_are_compared_all_the_same),
        cmocka_unit_test(few_times_are_not_compared), cmocka_unit_test(too_few_requests_are_no_verdict),
        cmocka_unit_test(equals_are_seldom_told_apart),
        cmocka_unit_test(the_baseline_is_the_heaviest_and_of_equals_the_older_version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
