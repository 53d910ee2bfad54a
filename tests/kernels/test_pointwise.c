/* Norms, gates, caps, embedding and the rounding of activations: against float64 and each other, for lengths that are
 * no multiple of anything. */
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
    const struct lora_batch *lora;
    float scale;
    const struct mm *mm;
    float *sum;
};

static const int LENGTHS[] = {2, 30, 32, 64, 100, 192, 576, 1536, 4864};
#define LENGTHS_N ((int)(sizeof LENGTHS / sizeof *LENGTHS))

static void do_rmsnorm(struct kthread *t, void *arg)
{
    struct job *j = arg;
    j->kn->rmsnorm(t, j->x, j->row_of, j->rows, j->k, j->y, 1e-5f, j->out);
}

static void do_rmsnorm_add(struct kthread *t, void *arg)
{
    struct job *j = arg;
    j->kn->rmsnorm_add(t, j->x, j->rows, j->k, j->y, 1e-5f, j->sum);
}

static void do_softcap(struct kthread *t, void *arg)
{
    struct job *j = arg;
    j->kn->softcap(t, j->sum, (size_t)(j->rows * j->k), j->scale);
}

static void do_matmul(struct kthread *t, void *arg)
{
    struct job *j = arg;
    j->kn->matmul(t, j->mm);
}

static void do_embed(struct kthread *t, void *arg)
{
    struct job *j = arg;
    j->kn->embed(
        t, &(struct embed){
               .w = j->w, .token = j->token, .rows = j->rows, .scale = j->scale, .lora = j->lora, .x = j->out->x});
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

static void the_added_norm_agrees_with_float64_for_any_length(void **state)
{
    (void)state;
    for (int v = 0; v < VARIANTS_N; v++)
        for (int l = 0; l < LENGTHS_N; l++) {
            int k = LENGTHS[l];
            size_t n = ROWS * (size_t)k;
            float *y = xalloc(n * 4), *x = xalloc(n * 4), *w = xalloc((size_t)k * 4), *got = xalloc(n * 4);
            seed((uint64_t)l);
            fill(y, n), fill(x, n), fill(w, (size_t)k);
            memcpy(got, x, n * 4);
            struct job j = {.kn = variant_kernels(v), .x = y, .y = w, .rows = ROWS, .k = k, .sum = got};
            if (j.kn) run(do_rmsnorm_add, &j, 1 + l % 3);
            for (int r = 0; j.kn && r < ROWS; r++) {
                double sum = 0;
                for (int i = 0; i < k; i++) sum += (double)y[r * k + i] * y[r * k + i];
                for (int i = r * k; i < (r + 1) * k; i++) {
                    double part = y[i] / sqrt(sum / k + 1e-5) * w[i - r * k], want = x[i] + part;
                    assert_true(fabs(got[i] - want) <= 4e-7 * (fabs(part) + fabs(want)) + 1e-12);
                }
            }
            free(y), free(x), free(w), free(got);
        }
}

/* Around zero, where 1 - e^-2x would cancel, as well as in the tails. */
static void a_cap_agrees_with_float64_from_tail_to_tail(void **state)
{
    (void)state;
    enum { N = 4001 };
    static float x[N], got[N];
    for (int v = 0; v < VARIANTS_N; v++)
        for (int c = 0; c < 3; c++) {
            struct job j = {
                .kn = variant_kernels(v), .rows = 1, .k = N, .sum = got, .scale = (float[]){30, 1, 0.01f}[c]};
            if (!j.kn) continue;
            seed(7);
            for (int i = 0; i < N; i++) x[i] = ldexpf(next_float(), i % 40 - 30) * j.scale;
            x[1] = INFINITY, x[2] = -INFINITY, x[3] = NAN;
            memcpy(got, x, sizeof x);
            run(do_softcap, &j, 1 + c);
            assert_true(got[1] == j.scale && got[2] == -j.scale && isnan(got[3]));
            for (int i = 4; i < N; i++) {
                double want = j.scale * tanh((double)x[i] / j.scale);
                if (!(fabs(got[i] - want) <= 6 * 0x1p-24 * fabs(want)))
                    fail_msg("%s: cap %g of %g is %.9g, not %.9g", j.kn->name, (double)j.scale, (double)x[i],
                             (double)got[i], want);
            }
        }
}

/* out = act(gate) * up [rows][n] by a product whose sums are those very values: row r of the input is 1 at r and 0
 * elsewhere. FAST tables read bf16, so values have to be such. */
static void run_gated(const struct kernels *kn, enum mlp_act act, const float *gate, const float *up, int rows, int n,
                      struct act *out, int threads)
{
    const float *value[] = {gate, up};
    struct weight w[2];
    struct act in;
    struct mm mm = {.in = &in, .rows = rows, .nout = 2, .expert = -1, .gated = out, .gate = act};
    assert_int_equal(act_init(&in, rows, 32, ACT_BF16, NULL), 0);
    for (int r = 0; r < rows; r++) in.x[r * 32 + r] = 1, in.bf16[r * 32 + r] = bf16_bits(1);
    for (int o = 0; o < 2; o++) {
        float *src = xalloc(32 * (size_t)n * 4);
        for (int i = 0; i < rows * n; i++) src[i % n * 32 + i / n] = value[o][i];
        assert_int_equal(weight_pack(&w[o], T_F32, src, n, 32, NULL, kn->prec, NULL), 0);
        mm.out[o] = (struct mm_out){.w = &w[o], .ldy = n, .module = MM_BASE};
        free(src);
    }
    run(do_matmul, &(struct job){.kn = kn, .mm = &mm}, threads);
    for (int o = 0; o < 2; o++) weight_close(&w[o]);
    act_close(&in);
}

static double gated(enum mlp_act act, double g)
{
    if (act == MLP_SILU) return g / (1 + exp(-g));
    return g / (1 + exp(-2 * sqrt(2 / M_PI) *
                        (g + 0.044715 * g * g * g))); /* = g/2 (1 + tanh(..)), without its cancellation */
}

/* Every size of argument, both tails included: within 4 ulp of float32 (two for the exponential, the rest for division
 * and products), and for gelu what the rounding of its exponent makes of it. */
static void every_gate_agrees_with_float64_from_tail_to_tail(void **state)
{
    (void)state;
    assert_true(fabs(gated(MLP_GELU_TANH, 1.5) - 0.75 * (1 + tanh(sqrt(2 / M_PI) * (1.5 + 0.044715 * 3.375)))) < 1e-15);
    for (int v = 0; v < VARIANTS_N; v++)
        for (int l = 0; l < 2 * LENGTHS_N; l++) {
            int k = LENGTHS[l / 2];
            struct act out;
            float *gate = xalloc(ROWS * (size_t)k * 4), *up = xalloc(ROWS * (size_t)k * 4);
            seed((uint64_t)l);
            fill(gate, ROWS * (size_t)k);
            fill(up, ROWS * (size_t)k);
            enum mlp_act act = l % 2 ? MLP_GELU_TANH : MLP_SILU;
            for (int i = 0; i < ROWS * k; i++) {
                gate[i] = bf16_near(gate[i] * (float)(act == MLP_SILU ? i % 80 : i % 8));
                up[i] = bf16_near(up[i]);
            }
            assert_int_equal(act_init(&out, ROWS, (k + 31) / 32 * 32, ACT_BF16 | ACT_Q8, NULL), 0);
            const struct kernels *kn = variant_kernels(v);
            if (kn) run_gated(kn, act, gate, up, ROWS, k, &out, 1 + l % 3);
            for (int i = 0; kn && i < ROWS * k; i++) {
                double want = gated(act, gate[i]) * up[i], g = fabs(gate[i]);
                double ulps = act == MLP_SILU ? 4 : 4 + 3 * (1.6 * g + 0.072 * g * g * g);
                assert_true(fabs(out.x[i] - want) <= ulps * 0x1p-24 * fabs(want) + 1e-37);
            }
            if (kn) check_forms(&out, ROWS, k);
            act_close(&out);
            free(gate);
            free(up);
        }
}

static void extreme_gates_give_the_limits(void **state)
{
    (void)state;
    static const float huge = 0x1.c2p127f; /* a bf16 */
    static const float gate[32] = {-200, -104, -88, 200, huge, -huge, INFINITY, NAN, 0, -0.0f};
    float up[32];
    for (int i = 0; i < 32; i++) up[i] = 1;
    for (int v = 0; v < VARIANTS_N; v++) {
        struct act out;
        assert_int_equal(act_init(&out, 1, 32, ACT_Q8, NULL), 0);
        const struct kernels *kn = variant_kernels(v);
        for (enum mlp_act act = MLP_SILU; kn && act <= MLP_GELU_TANH; act++) {
            run_gated(kn, act, gate, up, 1, 32, &out, 1);
            assert_true(fabsf(out.x[0]) < 1e-30f && fabsf(out.x[1]) < 1e-30f && fabsf(out.x[2]) < 1e-30f &&
                        out.x[3] == 200);
            assert_true(out.x[4] == huge && fabsf(out.x[5]) < 1e-30f && isinf(out.x[6]) && isnan(out.x[7]) &&
                        out.x[8] == 0);
            assert_true(!isfinite(out.q8_scale[0])); /* the row's product will show it */
        }
        act_close(&out);
    }
}

static void round_on(const struct kernels *kn, const float *gate, const float *up, int k, struct act *out)
{
    assert_int_equal(act_init(out, 1, k, ACT_BF16 | ACT_Q8, NULL), 0);
    run_gated(kn, MLP_SILU, gate, up, 1, k, out, 1);
}

static void all_tables_round_activations_to_the_same_bits(void **state)
{
    (void)state;
    enum { K = 64 * 32 };
    struct act want, got;
    static float gate[K], up[K];
    seed(5);
    for (int i = 0; i < K; i++) { /* each group of another size, down to subnormals; silu(100) is 100 in all */
        gate[i] = 100;
        up[i] = ldexpf(next_float(), i / 32 * 4 - 150);
    }
    round_on(kernels_pick("plain", PREC_EXACT), gate, up, K, &want);
    for (int v = 0; v < VARIANTS_N; v++) {
        if (!variant_kernels(v) || VARIANTS[v].prec == PREC_FAST) continue; /* its bf16 products flush subnormals */
        round_on(variant_kernels(v), gate, up, K, &got);
        assert_memory_equal(want.x, got.x, K * 4);
        assert_memory_equal(want.bf16, got.bf16, K * 2);
        assert_memory_equal(want.q8, got.q8, K);
        assert_memory_equal(want.q8_scale, got.q8_scale, K / 32 * 4);
        assert_memory_equal(want.q8_sum, got.q8_sum, K / 32 * 4);
        act_close(&got);
    }
    act_close(&want);
}

/* What products read is the same with and without the float32 form beside it. */
static void activations_need_no_float32_beside_their_rounded_forms(void **state)
{
    (void)state;
    enum { K = 576, SHORT = 100 };
    static float x[ROWS * K], w[K];
    fill(x, ROWS * K), fill(w, K);
    for (int v = 0; v < VARIANTS_N; v++)
        for (int k = K; variant_kernels(v) && k >= SHORT; k -= K - SHORT) {
            struct act with, without;
            assert_int_equal(act_init(&with, ROWS, K, ACT_BF16 | ACT_Q8, NULL), 0);
            assert_int_equal(act_init(&without, ROWS, K, ACT_BF16 | ACT_Q8 | ACT_NO_F32, NULL), 0);
            assert_null(without.x);
            struct job j = {.kn = variant_kernels(v), .x = x, .y = w, .rows = ROWS, .k = k, .out = &with};
            run(do_rmsnorm, &j, 2);
            j.out = &without;
            run(do_rmsnorm, &j, 2);
            assert_memory_equal(with.bf16, without.bf16, ROWS * (size_t)k * 2);
            assert_memory_equal(with.q8, without.q8, ROWS * K);
            assert_memory_equal(with.q8_scale, without.q8_scale, ROWS * K / 32 * 4);
            assert_memory_equal(with.q8_sum, without.q8_sum, ROWS * K / 32 * 4);
            act_close(&with), act_close(&without);
        }
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

/* Rows 1..2 use one adapter's rank 3, rows 3..4 two at half weight, row 5 a whole table; rows 0 and 6 the base. */
static void an_embedding_takes_what_its_rows_adapters_add_and_the_models_scale(void **state)
{
    (void)state;
    enum { VOCAB = 75, K = 96, R = 3 };
    static const int32_t token[ROWS] = {0, 74, 3, 3, 31, 32, 50};
    static float a[2][VOCAB * R], b[2][R * K];
    struct matrix m = matrix_make(T_Q8_0, VOCAB, K, false), other = matrix_make(T_BF16, VOCAB, K, false);
    struct weight w, full;
    struct act out;
    assert_int_equal(weight_pack(&w, T_Q8_0, m.src, VOCAB, K, NULL, PREC_FAST, NULL), 0);
    assert_int_equal(weight_pack(&full, T_BF16, other.src, VOCAB, K, NULL, PREC_FAST, NULL), 0);
    assert_int_equal(act_init(&out, ROWS, K, 0, NULL), 0);
    struct lora_embed e[2];
    for (int i = 0; i < 2; i++) {
        fill(a[i], VOCAB * R), fill(b[i], R * K);
        e[i] = (struct lora_embed){.r = R, .scale = 2, .a = a[i], .b = b[i]};
    }
    struct lora_table t[3] = {{.embed = &e[0]}, {.embed = &e[1]}, {.embed_full = &full}};
    struct lora_seg seg[3] = {
        {1, 2, 1, {{&t[0], 1}}}, {3, 2, 2, {{&t[0], 0.5f}, {&t[1], 0.5f}}}, {5, 1, 1, {{&t[2], 1}}}};
    struct lora_batch batch = {.nseg = 3, .seg = seg, .modules = 7};
    for (int v = 0; v < VARIANTS_N; v++) {
        struct job j = {variant_kernels(v), .w = &w,        .token = token, .rows = ROWS,
                        .out = &out,        .lora = &batch, .scale = 8};
        if (!j.kn) continue;
        run(do_embed, &j, 2);
        for (int i = 0; i < ROWS * K; i++) {
            int row = i / K, c = i % K;
            double want = (row == 5 ? other : m).value[token[row] * K + c], part = row == 3 || row == 4 ? 0.5 : 1;
            for (int u = 0; u < 2; u++)
                for (int r = 0; r < R && row >= 1 + 2 * u && row <= 4; r++)
                    want += part * 2 * a[u][token[row] * R + r] * b[u][r * K + c];
            assert_true(fabs(out.x[i] - 8 * want) <= 1e-5);
        }
    }
    act_close(&out);
    weight_close(&w), weight_close(&full);
    matrix_free(&m), matrix_free(&other);
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
        cmocka_unit_test(the_added_norm_agrees_with_float64_for_any_length),
        cmocka_unit_test(a_cap_agrees_with_float64_from_tail_to_tail),
        cmocka_unit_test(every_gate_agrees_with_float64_from_tail_to_tail),
        cmocka_unit_test(extreme_gates_give_the_limits),
        cmocka_unit_test(all_tables_round_activations_to_the_same_bits),
        cmocka_unit_test(activations_need_no_float32_beside_their_rounded_forms),
        cmocka_unit_test(an_embedding_is_its_row),
        cmocka_unit_test(an_embedding_takes_what_its_rows_adapters_add_and_the_models_scale),
        cmocka_unit_test(activations_of_a_bad_shape_are_refused),
    };
    say_what_runs();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
