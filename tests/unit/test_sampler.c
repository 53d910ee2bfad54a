/* Tests of engine/sampler: distributions against a reference in double by chi-square on fixed seeds, membership of
 * top-k and top-p sets against a full sort, ties, log-probabilities, and what must not depend on anything but seed and
 * index. */
#include "engine/sampler.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int pick(struct sampler *s, const float *logits, const struct sample_params *p, uint64_t index,
                const int32_t *banned, int nbanned, struct sample *out)
{
    struct sample_input in = {.p = p, .index = index, .banned = banned, .nbanned = nbanned};
    return sample_token(s, logits, &in, out);
}

#define BIG 49152
#define SMALL 37
#define DRAWS 20000

static const struct sample_params greedy = {.top_p = 1, .logprobs = -1};

static uint64_t state_of_noise = 1;
static double noise(void) /* about normal */
{
    double sum = 0;
    for (int i = 0; i < 12; i++) {
        state_of_noise = state_of_noise * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(state_of_noise >> 11) / (double)(1ull << 53);
    }
    return sum - 6;
}

static void fill(float *x, int n, double spread)
{
    for (int i = 0; i < n; i++) x[i] = (float)(noise() * spread);
}

/* --- the reference: probabilities in double after a full sort --- */

static const double *sort_key;
static int by_prob(const void *x, const void *y)
{
    int a = *(const int *)x, b = *(const int *)y;
    return sort_key[a] > sort_key[b] ? -1 : sort_key[a] < sort_key[b] ? 1 : a - b;
}

static void reference(const float *x, int n, const struct sample_params *p, double *prob)
{
    int *order = malloc((size_t)n * sizeof *order), keep = n;
    double max = -INFINITY, sum = 0, mass = 0;
    for (int i = 0; i < n; i++) max = fmax(max, (double)x[i]);
    for (int i = 0; i < n; i++) {
        prob[i] = exp(((double)x[i] - max) / (double)p->temperature);
        order[i] = i;
    }
    sort_key = prob;
    qsort(order, (size_t)n, sizeof *order, by_prob);
    while (keep > 1 && prob[order[keep - 1]] < (double)p->min_p) keep--;
    if (p->top_k > 0 && p->top_k < keep) keep = p->top_k;
    for (int i = 0; i < keep; i++) sum += prob[order[i]];
    int head = 0;
    while (head < keep && (head == 0 || mass < (double)p->top_p * sum)) mass += prob[order[head++]];
    for (int i = 0; i < n; i++) prob[order[i]] = i < head ? prob[order[i]] / mass : 0;
    free(order);
}

static const struct {
    const char *what;
    struct sample_params p;
} filters[] = {
    {"all", {.temperature = 1, .top_p = 1, .logprobs = -1}},
    {"cold", {.temperature = 0.5f, .top_p = 1, .logprobs = -1}},
    {"hot", {.temperature = 2, .top_p = 1, .logprobs = -1}},
    {"top_k 5", {.temperature = 1, .top_p = 1, .top_k = 5, .logprobs = -1}},
    {"top_p 0.7", {.temperature = 1, .top_p = 0.7f, .logprobs = -1}},
    {"top_k 10, top_p 0.8", {.temperature = 1.3f, .top_p = 0.8f, .top_k = 10, .logprobs = -1}},
    {"min_p 0.1", {.temperature = 1, .top_p = 1, .min_p = 0.1f, .logprobs = -1}},
    {"min_p 0.05, top_p 0.9", {.temperature = 1, .top_p = 0.9f, .min_p = 0.05f, .logprobs = -1}},
};

static void test_draws_follow_the_distribution(void **state)
{
    (void)state;
    float x[SMALL];
    double prob[SMALL];
    struct sampler *s = sampler_new(SMALL);
    fill(x, SMALL, 1.2);
    for (size_t f = 0; f < sizeof filters / sizeof *filters; f++) {
        int count[SMALL] = {0}, cells = 0;
        double chi = 0, rest = 0, rest_seen = 0;
        struct sample out;
        reference(x, SMALL, &filters[f].p, prob);
        for (int d = 0; d < DRAWS; d++) {
            struct sample_params p = filters[f].p;
            p.seed = 7 + (uint64_t)d / 100;
            assert_int_equal(pick(s, x, &p, (uint64_t)d % 100, NULL, 0, &out), 0);
            count[out.id]++;
        }
        for (int i = 0; i < SMALL; i++) {
            if (prob[i] == 0) assert_int_equal(count[i], 0);
            if (prob[i] * DRAWS < 5) {
                rest += prob[i] * DRAWS;
                rest_seen += count[i];
                continue;
            }
            chi += pow(count[i] - prob[i] * DRAWS, 2) / (prob[i] * DRAWS);
            cells++;
        }
        if (rest >= 1) chi += pow(rest_seen - rest, 2) / rest, cells++;
        double df = cells - 1, limit = df + 4 * sqrt(2 * df) + 4; /* four sigma */
        if (cells > 1 && !(chi < limit)) fail_msg("%s: chi-square %.1f with %d cells", filters[f].what, chi, cells);
    }
    sampler_free(s);
}

static void test_only_members_of_the_head_are_drawn_from_a_large_vocabulary(void **state)
{
    (void)state;
    float *x = malloc(BIG * sizeof *x);
    double *prob = malloc(BIG * sizeof *prob);
    struct sampler *s = sampler_new(BIG);
    struct sample out;
    fill(x, BIG, 2);
    for (size_t f = 0; f < sizeof filters / sizeof *filters; f++) {
        reference(x, BIG, &filters[f].p, prob);
        for (uint64_t d = 0; d < 200; d++) {
            struct sample_params p = filters[f].p;
            p.seed = d;
            assert_int_equal(pick(s, x, &p, 0, NULL, 0, &out), 0);
            assert_in_range(out.id, 0, BIG - 1);
            if (!(prob[out.id] > 0)) fail_msg("%s: drew %d, which is outside", filters[f].what, out.id);
        }
    }
    sampler_free(s);
    free(x);
    free(prob);
}

/* Beside the best token 5,000 that are each 8,000 times less likely, and 0.9 of the mass of all. */
static void test_a_head_that_goes_on_among_unlikely_tokens_is_drawn_as_a_whole(void **state)
{
    (void)state;
    enum { N = 6000, LIKE = 5000, DRAWN = 4000 };
    static float x[N];
    struct sampler *s = sampler_new(N);
    struct sample_params p = {.temperature = 1, .top_p = 0.9f, .typical_p = 1, .repetition_penalty = 1, .logprobs = -1};
    int best = 0;
    for (int i = 0; i < N; i++) x[i] = i == 7 ? 0 : i <= LIKE ? -9 : -30;
    for (int i = 0; i < DRAWN; i++) {
        struct sample out;
        p.seed = (uint64_t)i;
        assert_int_equal(sample_token(s, x, &(struct sample_input){.p = &p}, &out), 0);
        assert_in_range(out.id, 0, LIKE);
        best += out.id == 7;
    }
    double want = 1 / (0.9 * (1 + LIKE * exp(-9)));
    if (fabs((double)best / DRAWN - want) > 0.03) fail_msg("the best came %d times of %d, not %.3f", best, DRAWN, want);
    sampler_free(s);
}

static void test_greedy_takes_the_smallest_id_among_equals(void **state)
{
    (void)state;
    static const int at[][3] = {{0, 1, 2}, {5, 20, 36}, {16, 17, 31}, {35, 36, 36}, {33, 36, 35}};
    struct sampler *s = sampler_new(SMALL);
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        float x[SMALL];
        struct sample out;
        for (int j = 0; j < SMALL; j++) x[j] = -1;
        for (int j = 0; j < 3; j++) x[at[i][j]] = 2;
        assert_int_equal(pick(s, x, &greedy, 0, NULL, 0, &out), 0);
        assert_int_equal(out.id, at[i][0]);
    }
    sampler_free(s);
}

static void test_a_tiny_temperature_is_greedy_and_does_not_overflow(void **state)
{
    (void)state;
    float x[SMALL];
    struct sampler *s = sampler_new(SMALL);
    fill(x, SMALL, 10);
    x[11] = 90;
    for (float t = 1e-3f; t > 1e-30f; t /= 100) {
        struct sample out;
        const struct sample_params p = {.temperature = t, .top_p = 0.9f, .seed = 3, .logprobs = -1};
        assert_int_equal(pick(s, x, &p, 0, NULL, 0, &out), 0);
        assert_int_equal(out.id, 11);
    }
    sampler_free(s);
}

static void test_a_draw_depends_on_seed_and_index_alone(void **state)
{
    (void)state;
    float x[SMALL], other[SMALL];
    struct sampler *s = sampler_new(SMALL), *t = sampler_new(SMALL);
    int differ = 0;
    fill(x, SMALL, 1);
    fill(other, SMALL, 3);
    for (uint64_t i = 0; i < 100; i++) {
        struct sample a, b, c;
        const struct sample_params p = {.temperature = 1, .top_p = 0.95f, .seed = 42, .logprobs = -1};
        pick(s, x, &p, i, NULL, 0, &a);
        pick(t, other, &filters[5].p, i * 3, NULL, 0, &c);
        pick(t, x, &p, i, NULL, 0, &b);
        assert_int_equal(a.id, b.id);
        pick(s, x, &p, i + 1, NULL, 0, &c);
        differ += a.id != c.id;
    }
    assert_true(differ > 50);
    sampler_free(s);
    sampler_free(t);
}

static void test_banned_ids_are_never_chosen(void **state)
{
    (void)state;
    float x[SMALL];
    struct sampler *s = sampler_new(SMALL);
    fill(x, SMALL, 1);
    x[4] = 100; /* so far ahead that every other weight would underflow beside it */
    x[9] = 60;
    const int32_t banned[] = {4, -1, SMALL, 4};
    for (size_t f = 0; f < sizeof filters / sizeof *filters; f++) {
        struct sample out;
        assert_int_equal(pick(s, x, &filters[f].p, f, banned, 4, &out), 0);
        assert_int_equal(out.id, 9);
    }
    struct sample out;
    assert_int_equal(pick(s, x, &greedy, 0, banned, 4, &out), 0);
    assert_int_equal(out.id, 9);
    sampler_free(s);
}

static void test_logprobs_are_those_of_the_unmodified_logits(void **state)
{
    (void)state;
    float *x = malloc(BIG * sizeof *x);
    struct sampler *s = sampler_new(BIG);
    fill(x, BIG, 3);
    x[100] = x[200] = 30; /* equals: the smaller id first */
    double sum = 0;
    for (int i = 0; i < BIG; i++) sum += exp((double)x[i] - 30);
    double norm = 30 + log(sum);
    const int32_t banned[] = {100};
    struct sample_params p = {.temperature = 0.7f, .top_p = 0.5f, .top_k = 3, .seed = 1, .logprobs = TOP_LOGPROBS_MAX};
    struct sample out;
    assert_int_equal(pick(s, x, &p, 0, banned, 1, &out), 0);
    assert_int_equal(out.id, 200);
    assert_true(fabs((double)out.logprob - (30 - norm)) < 1e-5);
    assert_int_equal(out.ntop, TOP_LOGPROBS_MAX);
    assert_int_equal(out.top[0].id, 100);
    assert_int_equal(out.top[1].id, 200);
    for (int i = 0; i < out.ntop; i++) {
        int larger = 0;
        for (int j = 0; j < BIG; j++) larger += x[j] > x[out.top[i].id];
        assert_true(larger <= i && (i == 1 || larger == i));
        assert_true(fabs((double)out.top[i].logprob - ((double)x[out.top[i].id] - norm)) < 1e-5);
    }
    p.logprobs = 0;
    assert_int_equal(pick(s, x, &p, 0, banned, 1, &out), 0);
    assert_int_equal(out.ntop, 0);
    assert_true(fabs((double)out.logprob - (30 - norm)) < 1e-5);
    sampler_free(s);
    free(x);
}

static void test_a_value_that_is_not_finite_is_found_wherever_it_stands(void **state)
{
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    struct sampler *s = sampler_new(SMALL);
    struct sample out;
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < SMALL; i++) {
            float x[SMALL];
            fill(x, SMALL, 1);
            assert_int_equal(pick(s, x, &greedy, 0, NULL, 0, &out), 0);
            x[i] = bad[k];
            assert_int_equal(pick(s, x, &greedy, 0, NULL, 0, &out), -1);
            assert_int_equal(pick(s, x, &filters[0].p, 0, NULL, 0, &out), -1);
        }
    sampler_free(s);
}

/* Rows of an embedding that is padded: the best logits are behind the vocabulary. */
static void test_what_is_behind_the_vocabulary_is_never_chosen_and_counts_in_logprobs(void **state)
{
    (void)state;
    enum { ROW = SMALL + 5 };
    float x[ROW];
    double sum = 0;
    struct sampler *s = sampler_new(SMALL);
    struct sample_params p = {.top_p = 1, .logprobs = 3};
    struct sample out;
    sampler_set_row(s, ROW);
    fill(x, ROW, 1);
    for (int i = SMALL; i < ROW; i++) x[i] = 20 + (float)i;
    for (int i = 0; i < ROW; i++) sum += exp((double)x[i] - (double)x[ROW - 1]);
    for (uint64_t i = 0; i < 40; i++) {
        p.temperature = i ? 2 : 0;
        assert_int_equal(pick(s, x, &p, i, NULL, 0, &out), 0);
        assert_in_range(out.id, 0, SMALL - 1);
        assert_true(fabs((double)out.logprob - ((double)x[out.id] - (double)x[ROW - 1] - log(sum))) < 1e-4);
        assert_int_equal(out.top[0].id, ROW - 1);
    }
    x[ROW - 1] = NAN;
    assert_int_equal(pick(s, x, &p, 0, NULL, 0, &out), -1);
    sampler_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draws_follow_the_distribution),
        cmocka_unit_test(test_only_members_of_the_head_are_drawn_from_a_large_vocabulary),
        cmocka_unit_test(test_a_head_that_goes_on_among_unlikely_tokens_is_drawn_as_a_whole),
        cmocka_unit_test(test_greedy_takes_the_smallest_id_among_equals),
        cmocka_unit_test(test_a_tiny_temperature_is_greedy_and_does_not_overflow),
        cmocka_unit_test(test_a_draw_depends_on_seed_and_index_alone),
        cmocka_unit_test(test_banned_ids_are_never_chosen),
        cmocka_unit_test(test_logprobs_are_those_of_the_unmodified_logits),
        cmocka_unit_test(test_a_value_that_is_not_finite_is_found_wherever_it_stands),
        cmocka_unit_test(test_what_is_behind_the_vocabulary_is_never_chosen_and_counts_in_logprobs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
