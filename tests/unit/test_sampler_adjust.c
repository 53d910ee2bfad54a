/* Tests of engine/sampler_adjust and of what it does to a choice: transformers' logits processors are the oracle for the
 * repetition penalty and the typical set (tests/golden/sampler.json), OpenAI's formula for the other penalties. */
#include "engine/sampler_adjust.h"
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define VOCAB_MAX 64
#define DRAWS 3000

static const struct sample_params off = {.top_p = 1, .typical_p = 1, .repetition_penalty = 1, .logprobs = -1};
static json_t *golden;

static int floats(const json_t *a, float *out)
{
    for (size_t i = 0; i < json_array_size(a); i++) out[i] = (float)json_number_value(json_array_get(a, i));
    return (int)json_array_size(a);
}

static int ints(const json_t *a, int32_t *out)
{
    for (size_t i = 0; i < json_array_size(a); i++) out[i] = (int32_t)json_integer_value(json_array_get(a, i));
    return (int)json_array_size(a);
}

static int load(void **state)
{
    (void)state;
    golden = json_load_file("tests/golden/sampler.json", 0, NULL);
    return golden ? 0 : -1;
}

static int unload(void **state)
{
    (void)state;
    json_decref(golden);
    return 0;
}

static void test_repetition_penalty_as_transformers(void **state)
{
    (void)state;
    size_t i;
    json_t *c;
    uint32_t seen[VOCAB_MAX] = {0};
    json_array_foreach(json_object_get(golden, "repetition"), i, c)
    {
        float x[VOCAB_MAX], want[VOCAB_MAX];
        int32_t ids[VOCAB_MAX];
        struct sample_params p = off;
        int vocab = floats(json_object_get(c, "logits"), x), nids = ints(json_object_get(c, "ids"), ids);
        floats(json_object_get(c, "out"), want);
        p.repetition_penalty = (float)json_number_value(json_object_get(c, "penalty"));
        struct sample_input in = {.p = &p, .ids = ids, .nids = nids, .nprompt = 5};
        assert_true(adjust_needed(&in));
        assert_true(adjust_row(x, vocab, seen, &in));
        for (int t = 0; t < vocab; t++) assert_true(fabsf(x[t] - want[t]) <= 1e-6f * fabsf(want[t]));
        for (int t = 0; t < vocab; t++) assert_int_equal(seen[t], 0);
    }
}

static void test_typical_set_as_transformers(void **state)
{
    (void)state;
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(golden, "typical"), i, c)
    {
        float x[VOCAB_MAX];
        int32_t kept[VOCAB_MAX];
        bool may[VOCAB_MAX] = {0}, came[VOCAB_MAX] = {0};
        struct sample_params p = off;
        struct sample out;
        int vocab = floats(json_object_get(c, "logits"), x), nkept = ints(json_object_get(c, "kept"), kept);
        for (int k = 0; k < nkept; k++) may[kept[k]] = true;
        p.temperature = 1;
        p.typical_p = (float)json_number_value(json_object_get(c, "typical_p"));
        struct sampler *s = sampler_new(vocab);
        for (int d = 0; d < DRAWS; d++) {
            struct sample_input in = {.p = &p, .index = (uint64_t)d};
            assert_int_equal(sample_token(s, x, &in, &out), 0);
            assert_true(may[out.id]);
            came[out.id] = true;
        }
        double mass = 0;
        for (int t = 0; t < nkept; t++) mass += exp((double)x[kept[t]]);
        for (int t = 0; t < nkept; t++) /* whatever is due 20 times came */
            if (exp((double)x[kept[t]]) / mass * DRAWS > 20) assert_true(came[kept[t]]);
        sampler_free(s);
    }
}

static void test_presence_and_frequency_count_the_answer_only(void **state)
{
    (void)state;
    const int32_t ids[] = {1, 1, 2, /* prompt */ 2, 3, 3, 3};
    const float want[] = {1, 1, 1 - 0.5f - 0.25f, 1 - 0.5f - 3 * 0.25f, 1};
    float x[] = {1, 1, 1, 1, 1};
    uint32_t seen[5] = {0};
    struct sample_params p = off;
    p.presence_penalty = 0.5f;
    p.frequency_penalty = 0.25f;
    struct sample_input in = {.p = &p, .ids = ids, .nprompt = 3, .nids = 7};
    assert_true(adjust_row(x, 5, seen, &in));
    for (int t = 0; t < 5; t++) assert_float_equal(x[t], want[t], 1e-7);
}

static void test_bias_moves_forbids_and_forces(void **state)
{
    (void)state;
    const float x[] = {3, 2, 1, 0};
    static const struct {
        struct token_bias bias[2];
        int n;
        int32_t want;
    } cases[] = {
        {{{0, 0}}, 0, 0},    {{{1, 1.5f}}, 1, 1},
        {{{0, -100}}, 1, 1}, {{{0, -100}, {1, -100}}, 2, 2},
        {{{3, 100}}, 1, 3},  {{{99, 100}, {-5, 100}}, 2, 0}, /* no such tokens */
    };
    struct sampler *s = sampler_new(4);
    struct sample out;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sample_input in = {.p = &off, .bias = cases[i].bias, .nbias = cases[i].n};
        assert_int_equal(sample_token(s, x, &in, &out), 0);
        assert_int_equal(out.id, cases[i].want);
    }
    sampler_free(s);
}

static void test_a_masked_token_is_never_chosen(void **state)
{
    (void)state;
    float x[VOCAB_MAX];
    uint32_t mask[] = {0x0ff00f00u, 0x80000001u};
    for (int i = 0; i < VOCAB_MAX; i++) x[i] = (float)((i * 37) % 11);
    struct sample_params p = off;
    struct sample out;
    struct sampler *s = sampler_new(VOCAB_MAX);
    for (int d = 0; d < DRAWS; d++) {
        p.temperature = d % 2 ? 1.5f : 0;
        p.top_p = d % 3 ? 1 : 0.9f;
        p.typical_p = d % 5 ? 1 : 0.7f;
        struct sample_input in = {.p = &p, .index = (uint64_t)d, .mask = mask};
        assert_int_equal(sample_token(s, x, &in, &out), 0);
        assert_true(mask[out.id / 32] >> (out.id % 32) & 1);
    }
    sampler_free(s);
}

static void test_bans_give_way_before_the_mask(void **state)
{
    (void)state;
    const float x[] = {3, 2, 1, 0};
    const int32_t banned[] = {1, 2};
    const uint32_t two = 1u << 1 | 1u << 2, none = 0;
    struct sampler *s = sampler_new(4);
    struct sample out;
    struct sample_input in = {.p = &off, .banned = banned, .nbanned = 2, .mask = &two};
    assert_int_equal(sample_token(s, x, &in, &out), 0);
    assert_int_equal(out.id, 1);
    in.mask = &none;
    assert_int_equal(sample_token(s, x, &in, &out), 0);
    assert_int_equal(out.id, 0);
    sampler_free(s);
}

static void test_log_probabilities_are_of_the_unmodified_logits(void **state)
{
    (void)state;
    const float x[] = {3, 2, 1, 0};
    const struct token_bias bias = {0, -100};
    struct sample_params p = off;
    struct sample out, given;
    p.logprobs = 2;
    struct sampler *s = sampler_new(4);
    struct sample_input in = {.p = &p, .bias = &bias, .nbias = 1};
    assert_int_equal(sample_token(s, x, &in, &out), 0);
    assert_int_equal(out.id, 1);
    assert_float_equal(out.logprob, 2 - 3 - log(1 + exp(-1) + exp(-2) + exp(-3)), 1e-6);
    assert_int_equal(out.top[0].id, 0);
    assert_int_equal(sample_given(s, x, &p, 1, &given), 0);
    assert_float_equal(given.logprob, out.logprob, 0);
    assert_int_equal(given.ntop, 2);
    sampler_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_repetition_penalty_as_transformers),
        cmocka_unit_test(test_typical_set_as_transformers),
        cmocka_unit_test(test_presence_and_frequency_count_the_answer_only),
        cmocka_unit_test(test_bias_moves_forbids_and_forces),
        cmocka_unit_test(test_a_masked_token_is_never_chosen),
        cmocka_unit_test(test_bans_give_way_before_the_mask),
        cmocka_unit_test(test_log_probabilities_are_of_the_unmodified_logits),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
