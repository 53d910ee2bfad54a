/* Tests of engine/evaluate and engine/quantize on the tiny models of tests/golden/families: figures against their
 * definition, packed files against what they were made from, the measured plan against its limit. */
#include "base/json.h"
#include "base/log.h"
#include "engine/evaluate.h"
#include "engine/quantize.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define TOKENS 96
#define CONTEXT 32

static const char *const families[] = {
    "llama3", "gemma3", "phi3", "qwen2", "mixtral", "qwen3moe", "llama3-gguf-f16/llama3.gguf"};

static char room[] = "/tmp/weft-evaluate-XXXXXX";

static int make_room(void **state)
{
    (void)state;
    log_init("test", LOG_ERROR);
    json_start();
    return mkdtemp(room) ? 0 : -1;
}

static int drop_room(void **state)
{
    (void)state;
    return rmdir(room); /* fails where a test left something behind */
}

static void file_at(const char *name, char out[256])
{
    snprintf(out, 256, "%s/%s", room, name);
}

static void family_path(const char *name, char out[256])
{
    snprintf(out, 256, "tests/golden/families/%s", name);
}

static struct model *open_model(const char *path, enum precision prec)
{
    struct model *m = NULL;
    struct err e = {0};
    if (model_load(&m, path, NULL, prec, 0, &e)) fail_msg("%s: %s", path, e.msg);
    return m;
}

static struct evaluator *open_evaluator(const struct model *m)
{
    struct evaluator *v = NULL;
    struct err e = {0};
    if (evaluator_new(&v, m, kernels_pick("auto", m->prec), 2, CONTEXT, &e)) fail_msg("%s", e.msg);
    return v;
}

static void some_tokens(const struct model *m, int32_t token[TOKENS])
{
    for (int i = 0; i < TOKENS; i++) token[i] = (int32_t)((i * 37 + i * i * 11) % m->tokens);
}

/* --- figures --- */

struct sum {
    const struct model *m;
    const int32_t *token;
    double nll;
    int n;
};

static void add_up(void *u, int first, int count, const float *logits)
{
    struct sum *s = u;
    for (int i = 0; i < count; i++, s->n++) {
        const float *row = logits + (size_t)i * (size_t)s->m->vocab;
        double z = 0;
        for (int t = 0; t < s->m->tokens; t++) z += exp((double)row[t]);
        s->nll -= (double)row[s->token[first + i + 1]] - log(z);
    }
}

static void test_perplexity_is_what_its_definition_says(void **state)
{
    (void)state;
    char path[256];
    int32_t token[TOKENS];
    struct eval_result r;
    family_path("llama3", path);
    struct model *m = open_model(path, PREC_EXACT);
    struct evaluator *v = open_evaluator(m);
    some_tokens(m, token);
    evaluate(v, NULL, token, TOKENS, &r);
    struct sum s = {.m = m};
    for (int at = 0; at < TOKENS; at += CONTEXT) {
        s.token = token + at;
        evaluator_window(v, token + at, CONTEXT, add_up, &s);
    }
    assert_int_equal(r.tokens, TOKENS - TOKENS / CONTEXT);
    assert_int_equal(s.n, r.tokens);
    assert_float_equal(r.nll, s.nll, 1e-9 * fabs(s.nll));
    assert_float_equal(eval_perplexity(&r), exp(s.nll / s.n), 1e-6);
    evaluator_free(v);
    model_free(m);
}

static void test_divergence_is_what_its_definition_says(void **state)
{
    (void)state;
    const float p[] = {1, 2, 3}, q[] = {3, 2, 1};
    double zp = exp(1) + exp(2) + exp(3), want = 0;
    for (int i = 0; i < 3; i++) want += exp((double)p[i]) / zp * ((double)p[i] - (double)q[i]);
    assert_float_equal(eval_kl(p, q, 3), want, 1e-12);
    assert_float_equal(eval_kl(p, p, 3), 0, 0);
    assert_float_equal(eval_logprob(p, 3, 1), 2 - log(zp), 1e-12);
}

static double divergence(const struct model *m, const struct model *base, double *same)
{
    int32_t token[TOKENS];
    struct eval_result r;
    struct evaluator *v = open_evaluator(m), *ref = open_evaluator(base);
    some_tokens(base, token);
    evaluate(v, ref, token, TOKENS, &r);
    evaluator_free(v);
    evaluator_free(ref);
    if (same) *same = (double)r.same_top / (double)r.tokens;
    return r.kl / (double)r.tokens;
}

static void test_a_model_does_not_diverge_from_itself(void **state)
{
    (void)state;
    char path[256];
    double same;
    family_path("qwen3moe", path);
    struct model *m = open_model(path, PREC_FAST);
    assert_float_equal(divergence(m, m, &same), 0, 0);
    assert_float_equal(same, 1, 0);
    model_free(m);
}

/* --- packed files --- */

static void quantize_to(const char *in, const char *out, const char *type, double max_kl, const char *text,
                        enum err_code want)
{
    struct err e = {0};
    struct quantize_options o = {
        .in = in, .out = out, .type = type, .max_kl = max_kl, .text = text, .tokens = 64, .kernels = "auto"};
    int rc = quantize(&o, &e);
    if (e.code != want) fail_msg("%s to %s: %s", in, type, rc ? e.msg : "went through");
}

static void test_every_family_is_quantized_and_served_from_the_file(void **state)
{
    (void)state;
    char in[256], out[256];
    file_at("q.weft", out);
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        family_path(families[f], in);
        struct model *fast = open_model(in, PREC_FAST);
        quantize_to(in, out, "bf16", 0, NULL, ERR_NONE);
        struct model *m = open_model(out, PREC_FAST);
        assert_float_equal(divergence(m, fast, NULL), 0, 1e-4); /* gguf-f16 and embedding as loaded: the same values */
        model_free(m);
        double before = 0;
        for (int i = 0; i < 3; i++) {
            quantize_to(in, out, (const char *[]){"int8", "int4", "int2"}[i], 0, NULL, ERR_NONE);
            m = open_model(out, PREC_FAST);
            double kl = divergence(m, fast, NULL);
            if (!(kl > before && kl < 10)) fail_msg("%s type %d: KL %g after %g", families[f], i, kl, before);
            assert_true(m->weight_bytes < fast->weight_bytes);
            before = kl;
            model_free(m);
        }
        model_free(fast);
    }
    unlink(out);
}

static void test_a_measured_plan_keeps_to_its_limit(void **state)
{
    (void)state;
    char in[256], out[256], text[256];
    double before = INFINITY;
    size_t small = SIZE_MAX;
    file_at("q.weft", out);
    file_at("text", text);
    family_path("llama3", in);
    FILE *t = fopen(text, "w");
    for (int i = 0; i < 400; i++) fprintf(t, "word %d and %c, ", i * i, 'a' + i % 26);
    fclose(t);
    struct model *fast = open_model(in, PREC_FAST);
    for (int i = 0; i < 3; i++) {
        double limit = (double[]){0.002, 0.05, 0.5}[i];
        quantize_to(in, out, "auto", limit, text, ERR_NONE);
        struct model *m = open_model(out, PREC_FAST);
        assert_true(m->weight_bytes <= small);
        small = m->weight_bytes;
        before = divergence(m, fast, NULL);
        assert_true(before < 4 * limit); /* on another text than the one that was measured on */
        model_free(m);
    }
    quantize_to(in, out, "auto", 1e-12, text, ERR_USAGE);
    quantize_to(in, out, "auto", 0.1, NULL, ERR_USAGE);
    quantize_to(in, out, "int3", 0, NULL, ERR_USAGE);
    model_free(fast);
    unlink(out);
    unlink(text);
}

static void test_a_file_is_not_quantized_over_itself(void **state)
{
    (void)state;
    char in[256], out[256];
    family_path("llama3", in);
    file_at("q.weft", out);
    quantize_to(in, out, "int8", 0, NULL, ERR_NONE);
    quantize_to(out, out, "int4", 0, NULL, ERR_USAGE);
    struct err e = {0};
    struct quantize_options o = {.in = "/no/such/model", .out = out, .type = "int8", .kernels = "auto"};
    assert_int_equal(quantize(&o, &e), -1);
    assert_non_null(strstr(e.msg, "/no/such/model"));
    struct model *m = open_model(out, PREC_FAST); /* still what it was */
    model_free(m);
    unlink(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_perplexity_is_what_its_definition_says),
        cmocka_unit_test(test_divergence_is_what_its_definition_says),
        cmocka_unit_test(test_a_model_does_not_diverge_from_itself),
        cmocka_unit_test(test_every_family_is_quantized_and_served_from_the_file),
        cmocka_unit_test(test_a_measured_plan_keeps_to_its_limit),
        cmocka_unit_test(test_a_file_is_not_quantized_over_itself),
    };
    return cmocka_run_group_tests(tests, make_room, drop_room);
}
