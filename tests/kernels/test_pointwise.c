/* Norm, gate, embedding and the rounding of activations: against float64 and each other, for lengths that are no
 * multiple of anything. */
#include "tests/kernels/common.h"

#define ROWS 7

struct job {
    const struct kernels *kn;
    const float *x, *y;
    const int *row_of;
    int rows, k;
    struct act *out;
    const struct weight *w;
    const int32_t *token;
};

static const int LENGTHS[] = {2, 30, 32, 64, 100, 192, 576, 1536, 4864};
#define LENGTHS_N ((int)(sizeof LENGTHS / sizeof *LENGTHS))

static void do_rmsnorm(struct kthread *t, void *arg)
{
    struct job *j = arg;
    j->kn->rmsnorm(t, j->x, j->row_of, j->rows, j->k, j->y, 1e-5f, j->out);
}

static void do_swiglu(struct kthread *t, void *arg)
{
    struct job *j = arg;
    j->kn->swiglu(t, j->x, j->y, j->rows, j->k, j->out);
}

static void do_embed(struct kthread *t, void *arg)
{
    struct job *j = arg;
    j->kn->embed(t, j->w, j->token, j->rows, j->out->x);
}

static void run(void (*fn)(struct kthread *t, void *arg), struct job *j, int threads)
{
    struct pool *p = pool_of(threads);
    pool_run(p, fn, j);
    pool_free(p);
}

/* The rounded forms against their definition. */
static void check_forms(const struct act *a, int rows, int k)
{
    for (int i = 0; i < rows * k; i++) assert_int_equal(a->bf16[i], bf16_bits(bf16_near(a->x[i])));
    for (int g = 0; k % 32 == 0 && g < rows * k / 32; g++) {
        double most = 0;
        int sum = 0;
        for (int i = 0; i < 32; i++) most = fmax(most, fabs(a->x[g * 32 + i]));
        assert_true(a->q8_scale[g] == (float)most / 127);
        for (int i = 0; i < 32; i++) {
            double exact = most > 0 ? a->x[g * 32 + i] * 127 / most : 0;
            assert_true(fabs(a->q8[g * 32 + i] - exact) <= 0.50001);
            sum += a->q8[g * 32 + i];
        }
        assert_int_equal(a->q8_sum[g], sum);
    }
}

static void the_norm_agrees_with_float64_for_any_length(void **state)
{
    (void)state;
    static const int row_of[ROWS] = {3, 3, 0, 6, 5, 1, 2};
    for (int v = 0; v < VARIANTS_N; v++)
        for (int l = 0; l < LENGTHS_N; l++) {
            int k = LENGTHS[l];
            struct act out;
            float *x = xalloc(ROWS * (size_t)k * 4), *w = xalloc((size_t)k * 4);
            seed((uint64_t)l);
            fill(x, ROWS * (size_t)k);
            fill(w, (size_t)k);
            assert_int_equal(act_init(&out, ROWS, (k + 31) / 32 * 32, ACT_BF16 | ACT_Q8, NULL), 0);
            struct job j = {.kn = variant_kernels(v),
                            .x = x,
                            .y = w,
                            .row_of = l % 2 ? row_of : NULL,
                            .rows = ROWS,
                            .k = k,
                            .out = &out};
            if (j.kn) run(do_rmsnorm, &j, 1 + l % 3);
            for (int r = 0; j.kn && r < ROWS; r++) {
                const float *in = x + (l % 2 ? row_of[r] : r) * k;
                double sum = 0;
                for (int i = 0; i < k; i++) sum += (double)in[i] * in[i];
                for (int i = 0; i < k; i++) {
                    double want = in[i] / sqrt(sum / k + 1e-5) * w[i];
                    assert_true(fabs(out.x[r * k + i] - want) <= 4e-7 * fabs(want) + 1e-12);
                }
            }
            if (j.kn) check_forms(&out, ROWS, k);
            act_close(&out);
            free(x);
            free(w);
        }
}

/* Every size of argument, both tails included: within 4 ulp of float32 (two for the exponential, the rest for division
 * and products). */
static void the_gate_agrees_with_float64_from_tail_to_tail(void **state)
{
    (void)state;
    for (int v = 0; v < VARIANTS_N; v++)
        for (int l = 0; l < LENGTHS_N; l++) {
            int k = LENGTHS[l];
            struct act out;
            float *gate = xalloc(ROWS * (size_t)k * 4), *up = xalloc(ROWS * (size_t)k * 4);
            seed((uint64_t)l);
            fill(gate, ROWS * (size_t)k);
            fill(up, ROWS * (size_t)k);
            for (int i = 0; i < ROWS * k; i++) gate[i] *= (float)(i % 90);
            assert_int_equal(act_init(&out, ROWS, (k + 31) / 32 * 32, ACT_BF16 | ACT_Q8, NULL), 0);
            struct job j = {.kn = variant_kernels(v), .x = gate, .y = up, .rows = ROWS, .k = k, .out = &out};
            if (j.kn) run(do_swiglu, &j, 1 + l % 3);
            for (int i = 0; j.kn && i < ROWS * k; i++) {
                double want = gate[i] / (1 + exp(-(double)gate[i])) * up[i];
                assert_true(fabs(out.x[i] - want) <= 4 * 0x1p-24 * fabs(want) + 1e-37);
            }
            if (j.kn) check_forms(&out, ROWS, k);
            act_close(&out);
            free(gate);
            free(up);
        }
}

static void extreme_gates_give_the_limits(void **state)
{
    (void)state;
    static const float gate[32] = {-200, -104, -88, 200, 3e38f, -3e38f, INFINITY, NAN, 0, -0.0f};
    float up[32];
    for (int i = 0; i < 32; i++) up[i] = 1;
    for (int v = 0; v < VARIANTS_N; v++) {
        struct act out;
        assert_int_equal(act_init(&out, 1, 32, ACT_Q8, NULL), 0);
        struct job j = {.kn = variant_kernels(v), .x = gate, .y = up, .rows = 1, .k = 32, .out = &out};
        if (j.kn) {
            run(do_swiglu, &j, 1);
            assert_true(fabsf(out.x[0]) < 1e-30f && fabsf(out.x[1]) < 1e-30f && fabsf(out.x[2]) < 1e-30f &&
                        out.x[3] == 200);
            assert_true(out.x[4] == 3e38f && fabsf(out.x[5]) < 1e-30f && isinf(out.x[6]) && isnan(out.x[7]) &&
                        out.x[8] == 0);
            assert_true(!isfinite(out.q8_scale[0])); /* the row's product will show it */
        }
        act_close(&out);
    }
}

static void both_tables_round_activations_to_the_same_bits(void **state)
{
    (void)state;
    const struct kernels *plain = kernels_pick("plain", PREC_FAST), *fast = kernels_pick("avx512", PREC_FAST);
    if (!fast) return;
    enum { K = 64 * 32 };
    struct act a[2];
    static float gate[K], up[K];
    seed(5);
    for (int i = 0; i < K; i++) { /* each group of another size, down to subnormals; silu(100) is 100 in both */
        gate[i] = 100;
        up[i] = ldexpf(next_float(), i / 32 * 4 - 150);
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(act_init(&a[i], 1, K, ACT_BF16 | ACT_Q8, NULL), 0);
        struct job j = {.kn = i ? fast : plain, .x = gate, .y = up, .rows = 1, .k = K, .out = &a[i]};
        run(do_swiglu, &j, 1);
    }
    assert_memory_equal(a[0].x, a[1].x, K * 4);
    assert_memory_equal(a[0].bf16, a[1].bf16, K * 2);
    assert_memory_equal(a[0].q8, a[1].q8, K);
    assert_memory_equal(a[0].q8_scale, a[1].q8_scale, K / 32 * 4);
    assert_memory_equal(a[0].q8_sum, a[1].q8_sum, K / 32 * 4);
    act_close(&a[0]);
    act_close(&a[1]);
}

static void an_embedding_is_its_row(void **state)
{
    (void)state;
    static const int32_t token[ROWS] = {0, 74, 3, 3, 31, 32, 50};
    for (enum tensor_type type = T_F32; type <= T_Q4_1; type++)
        for (int v = 0; v < VARIANTS_N; v++) {
            const struct kernels *kn = variant_kernels(v);
            if (!kn) continue;
            struct matrix m = matrix_make(type, 75, 96, false);
            struct weight w;
            struct act out;
            assert_int_equal(weight_pack(&w, type, m.src, 75, 96, NULL, PREC_EXACT, NULL), 0);
            assert_int_equal(act_init(&out, ROWS, 96, 0, NULL), 0);
            run(do_embed, &(struct job){.kn = kn, .w = &w, .token = token, .rows = ROWS, .out = &out}, 2);
            for (int i = 0; i < ROWS * 96; i++) assert_true(out.x[i] == (float)m.value[token[i / 96] * 96 + i % 96]);
            act_close(&out);
            weight_close(&w);
            matrix_free(&m);
        }
}

static void activations_of_a_bad_shape_are_refused(void **state)
{
    (void)state;
    struct act a;
    struct err e = {0};
    assert_int_equal(act_init(&a, 0, 32, 0, &e), -1);
    assert_int_equal(e.code, ERR_USAGE);
    assert_int_equal(act_init(&a, 1, 33, 0, NULL), -1);
    assert_int_equal(act_init(&a, 1 << 30, 32, 0, NULL), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_norm_agrees_with_float64_for_any_length),
        cmocka_unit_test(the_gate_agrees_with_float64_from_tail_to_tail),
        cmocka_unit_test(extreme_gates_give_the_limits),
        cmocka_unit_test(both_tables_round_activations_to_the_same_bits),
        cmocka_unit_test(an_embedding_is_its_row),
        cmocka_unit_test(activations_of_a_bad_shape_are_refused),
    };
    say_what_runs();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
