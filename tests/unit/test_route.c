/* Routing: the bandit against a plain computation of its sums, decisions by what was learned, features within their bounds, rules by their fields. */
#include "base/json.h"
#include "gateway/quality/route.h"
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define D 5

static double uniform(unsigned *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (double)(*state >> 8) / (1 << 24);
}

/* Solves a z = y by Gauss with pivots: what the bandit never does. */
static void solve(double a[D][D], const double *y, double *z)
{
    double m[D][D + 1];
    for (int i = 0; i < D; i++) {
        memcpy(m[i], a[i], sizeof a[i]);
        m[i][D] = y[i];
    }
    for (int i = 0; i < D; i++) {
        int best = i;
        for (int k = i + 1; k < D; k++)
            if (fabs(m[k][i]) > fabs(m[best][i])) best = k;
        for (int j = 0; j <= D; j++) {
            double t = m[i][j];
            m[i][j] = m[best][j];
            m[best][j] = t;
        }
        for (int k = 0; k < D; k++) {
            double f = k == i ? 0 : m[k][i] / m[i][i];
            for (int j = 0; j <= D; j++) m[k][j] -= f * m[i][j];
        }
    }
    for (int i = 0; i < D; i++) z[i] = m[i][D] / m[i][i];
}

static void the_bandit_is_the_ridge_regression_of_all_that_it_saw(void **unused)
{
    (void)unused;
    struct bandit m;
    const double theta0[D] = {0.5, -0.25, 0, 1, 0}, ridge = 2;
    double a[D][D] = {{0}}, b[D], x[D], z[D], w[D], width;
    unsigned seed = 7;
    for (int i = 0; i < D; i++) a[i][i] = ridge, b[i] = ridge * theta0[i];
    bandit_init(&m, D, ridge, theta0);
    for (int n = 0; n < 500; n++) {
        for (int i = 0; i < D; i++) x[i] = uniform(&seed) * 2 - 1;
        double r = uniform(&seed), mean = 0, wide = 0;
        solve(a, b, z);
        solve(a, x, w);
        for (int i = 0; i < D; i++) mean += x[i] * z[i], wide += x[i] * w[i];
        assert_true(fabs(bandit_mean(&m, x, &width) - mean) < 1e-9 && fabs(width - sqrt(wide)) < 1e-9);
        if (n % 7 == 0) { /* said, and then said otherwise */
            bandit_learn(&m, x, 1 - r);
            bandit_correct(&m, x, r - (1 - r));
        } else {
            bandit_learn(&m, x, r);
        }
        for (int i = 0; i < D; i++) {
            b[i] += r * x[i];
            for (int k = 0; k < D; k++) a[i][k] += x[i] * x[k];
        }
    }
}

static struct route_rules rules(void)
{
    return (struct route_rules){.tokens = 24, .exploration = 0.1, .error_cost = 3, .learn = true};
}

static void features_of(const char *text, double x[ROUTE_SEEN])
{
    json_t *o = NULL;
    assert_int_equal(json_parse(text, strlen(text), &o, NULL), 0);
    memset(x, 0, ROUTE_SEEN * sizeof *x);
    route_features(o, json_object_get(o, "messages") != NULL, x);
    json_decref(o);
}

#define SAYS(text) "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\"" text "\"}]}"

/* Sure tokens, or unsure ones. */
static void probe_of(double logprob, double x[ROUTE_SEEN])
{
    struct route_probe p = {0};
    for (int i = 0; i < 24; i++) route_probe_add(&p, logprob);
    route_probe_features(&p, 24, x + ROUTE_ASK);
}

static void before_any_rating_the_small_one_is_tried_and_kept_where_it_is_sure(void **unused)
{
    (void)unused;
    static struct route_model m;
    struct route_rules r = rules();
    double x[ROUTE_SEEN];
    route_model_init(&m);
    features_of(SAYS("Where is my parcel?"), x);
    assert_false(route_ask(&m, &r, x).large);
    probe_of(-0.01, x);
    assert_false(route_seen(&m, &r, x).large);
    probe_of(-1.5, x);
    assert_true(route_seen(&m, &r, x).large);
    assert_true(route_seen(&m, &r, x).need > 0.5);
}

static void an_arm_that_is_fixed_is_taken_whatever_is_believed(void **unused)
{
    (void)unused;
    static struct route_model m;
    struct route_rules small = rules(), large = rules();
    double x[ROUTE_SEEN];
    small.arm = ROUTE_SMALL;
    large.arm = ROUTE_LARGE;
    route_model_init(&m);
    features_of(SAYS("Hello"), x);
    for (double p = -3; p < 0; p += 0.5) {
        probe_of(p, x);
        assert_true(route_ask(&m, &large, x).large && route_seen(&m, &large, x).large);
        assert_false(route_ask(&m, &small, x).large || route_seen(&m, &small, x).large);
    }
}

/* Of two kinds of questions the small model is right on one, though it is as sure of both. */
static void what_the_small_one_fails_at_goes_to_the_large_one_at_once_when_it_was_rated(void **unused)
{
    (void)unused;
    static struct route_model m;
    struct route_rules r = rules();
    double easy[ROUTE_SEEN], hard[ROUTE_SEEN];
    route_model_init(&m);
    features_of(SAYS("How many orders were there in Spain?"), easy);
    features_of(SAYS("Which customers have returned orders, and where do they live?"), hard);
    probe_of(-0.05, easy);
    probe_of(-0.05, hard);
    for (int i = 0; i < 60; i++)
        for (int k = 0; k < 2; k++) {
            const double *x = k ? hard : easy;
            enum route_way way = route_ask(&m, &r, x).large ? ROUTE_DIRECT : route_seen(&m, &r, x).large ? ROUTE_ESCALATED : ROUTE_KEPT;
            bool right = way == ROUTE_KEPT ? !k : true;
            route_learn(&m, way, x, right, route_cost(&r, 0.25, way));
        }
    assert_false(route_ask(&m, &r, easy).large || route_seen(&m, &r, easy).large);
    assert_true(route_ask(&m, &r, hard).large);
    assert_int_equal(m.n, 120);
}

static void a_rating_that_is_another_now_is_learned_as_if_it_had_been_the_first(void **unused)
{
    (void)unused;
    static struct route_model a, b;
    struct route_rules r = rules();
    double x[ROUTE_SEEN];
    features_of(SAYS("One?"), x);
    probe_of(-0.3, x);
    for (int way = 0; way < ROUTE_WAYS; way++) {
        route_model_init(&a);
        route_model_init(&b);
        double cost = route_cost(&r, 0.25, (enum route_way)way);
        route_learn(&a, (enum route_way)way, x, 1, cost);
        route_relearn(&a, (enum route_way)way, x, 1, 0.25);
        route_learn(&b, (enum route_way)way, x, 0.25, cost);
        for (int i = 0; i < BANDIT_MAX; i++)
            assert_true(fabs(a.ask.b[i] - b.ask.b[i]) < 1e-12 && fabs(a.seen.b[i] - b.seen.b[i]) < 1e-12 && fabs(a.large.b[i] - b.large.b[i]) < 1e-12);
    }
}

static void features_are_bounded_whatever_a_body_says(void **unused)
{
    (void)unused;
    static const char *const bodies[] = {
        "{}",
        "{\"messages\":[]}",
        "{\"messages\":[{\"role\":\"user\"}]}",
        "{\"messages\":[{\"role\":3,\"content\":{}}]}",
        "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"},{\"type\":\"text\",\"text\":\"what is this?\"}]}]}",
        "{\"messages\":{\"role\":\"user\"}}",
        "{\"prompt\":\"\"}",
        "{\"prompt\":[1,2,3]}",
        "{\"prompt\":[\"a\",\"b\"],\"max_tokens\":-5}",
        SAYS("`{}` 1234567890 ;;;;"),
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a\"}],\"tools\":[],\"max_tokens\":1048576}",
    };
    double x[ROUTE_SEEN];
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        features_of(bodies[i], x);
        assert_true(x[0] == 1);
        for (int k = 0; k < ROUTE_ASK; k++) assert_true(isfinite(x[k]) && fabs(x[k]) <= 1);
    }
}

static void log_probabilities_are_read_of_both_kinds_of_answers_and_no_more_than_asked(void **unused)
{
    (void)unused;
    static const struct {
        const char *text;
        int n;
    } rows[] = {
        {"{\"choices\":[{\"logprobs\":{\"content\":[{\"logprob\":-0.1},{\"logprob\":-0.9},{\"logprob\":null},{\"token\":\"x\"}]}}]}", 2},
        {"{\"choices\":[{\"logprobs\":{\"tokens\":[\"a\",\"b\"],\"token_logprobs\":[null,-0.5]}}]}", 1},
        {"{\"choices\":[{\"logprobs\":null}]}", 0},
        {"{\"choices\":[]}", 0},
        {"[]", 0},
        {"{\"choices\":[{\"logprobs\":{\"content\":[{\"logprob\":-1},{\"logprob\":-1},{\"logprob\":-1},{\"logprob\":-1}]}}]}", 3},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct route_probe p = {0};
        json_t *o = NULL;
        double x[ROUTE_PROBE];
        assert_non_null(o = json_loads(rows[i].text, 0, NULL));
        assert_int_equal(route_probe_read(&p, o, 3), rows[i].n);
        route_probe_features(&p, 3, x);
        for (int k = 0; k < ROUTE_PROBE; k++) assert_true(isfinite(x[k]) && fabs(x[k]) <= 1);
        json_decref(o);
    }
    struct route_probe p = {0};
    route_probe_add(&p, (double)-INFINITY);
    route_probe_add(&p, (double)NAN);
    route_probe_add(&p, 5);
    assert_true(isfinite(p.sum) && p.least <= 0 && p.n == 3 && p.doubtful == 2);
}

static void rules_have_defaults_and_are_refused_by_their_field(void **unused)
{
    (void)unused;
    static const struct {
        const char *text, *param;
    } rows[] = {{"[]", "routing"},
                {"{\"colour\":1}", "routing"},
                {"{\"probe_tokens\":257}", "routing.probe_tokens"},
                {"{\"error_cost\":0}", "routing.error_cost"},
                {"{\"cost_ratio\":1.5}", "routing.cost_ratio"},
                {"{\"arm\":\"middle\"}", "routing.arm"},
                {"{\"learn\":1}", "routing.learn"},
                {"{\"exploration\":-1}", "routing.exploration"}};
    json_t *o = NULL, *out = NULL;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err e = {0};
        assert_non_null(o = json_loads(rows[i].text, 0, NULL));
        assert_int_equal(route_rules_read(o, &out, &e), -1);
        assert_string_equal(e.param, rows[i].param);
        json_decref(o);
    }
    struct route_rules r;
    assert_non_null(o = json_loads("{\"arm\":\"large\",\"error_cost\":5}", 0, NULL));
    assert_int_equal(route_rules_read(o, &out, NULL), 0);
    route_rules_of(out, &r);
    assert_true(r.tokens == 24 && r.arm == ROUTE_LARGE && r.learn && r.error_cost > 4.9 && json_object_size(out) == 6);
    json_decref(o);
    json_decref(out);
    assert_int_equal(route_rules_read(NULL, &out, NULL), 0);
    assert_null(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bandit_is_the_ridge_regression_of_all_that_it_saw),
        cmocka_unit_test(before_any_rating_the_small_one_is_tried_and_kept_where_it_is_sure),
        cmocka_unit_test(an_arm_that_is_fixed_is_taken_whatever_is_believed),
        cmocka_unit_test(what_the_small_one_fails_at_goes_to_the_large_one_at_once_when_it_was_rated),
        cmocka_unit_test(a_rating_that_is_another_now_is_learned_as_if_it_had_been_the_first),
        cmocka_unit_test(features_are_bounded_whatever_a_body_says),
        cmocka_unit_test(log_probabilities_are_read_of_both_kinds_of_answers_and_no_more_than_asked),
        cmocka_unit_test(rules_have_defaults_and_are_refused_by_their_field),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
