/* Matrix products with adapters: against float64 on the same rounded inputs, exactly on integers, bit for bit whatever
 * the batch, and blind to what they must not read. Every table that the processor runs takes every test. */
#include "tests/kernels/problem.h"
#include "tests/kernels/shapes.h"
#include "tests/unit/thin.h"

#define TOLERANCE 1e-5 /* relative Frobenius (ENGINE.md, section 4) */

/* Batches: segments in order, rank 0 is base rows. */
static const struct {
    const char *name;
    struct seg_spec seg[12];
    int nseg;
} BATCHES[] = {
    {"one base row", {{1, 0}}, 1},
    {"one row of rank 4", {{1, 4}}, 1},
    {"all base", {{7, 0}}, 1},
    {"base first and last", {{2, 0}, {3, 8}, {1, 0}}, 3},
    {"first and last adapted", {{1, 1}, {3, 0}, {2, 12}}, 3},
    {"one segment of 70", {{70, 16}}, 1},
    {"every rank",
     {{1, 1}, {2, 4}, {3, 8}, {1, 12}, {5, 16}, {2, 24}, {9, 64}, {4, 100}, {1, 256}, {2, 0}, {3, 7}, {1, 512}},
     12},
    {"segments across a block's edge", {{60, 8}, {9, 0}, {70, 24}}, 3},
};

#define BATCHES_N ((int)(sizeof BATCHES / sizeof *BATCHES))

static int batch_rows(int b)
{
    int rows = 0;
    for (int i = 0; i < BATCHES[b].nseg; i++) rows += BATCHES[b].seg[i].rows;
    return rows;
}

static void check(const struct problem *p, const char *what, const char *table)
{
    int step = (double)p->n[0] * p->k * p->rows > 1e7 ? 5 : 1; /* the answer in float64 is what takes the time */
    for (int o = 0; o < p->nout; o++) {
        double diff = 0, norm = 1e-30;
        for (int row = 0; row < p->rows; row += step) {
            double row_diff = 0, row_norm = 1e-30;
            problem_distance(p, o, row, &row_diff, &row_norm);
            double error = p->n[o] > 16 ? sqrt(row_diff / row_norm) : 0; /* single outputs may cancel: together only */
            if (!(error < TOLERANCE)) fail_msg("%s, %s: output %d row %d is off by %g", what, table, o, row, error);
            diff += row_diff, norm += row_norm;
        }
        if (!(sqrt(diff / norm) < TOLERANCE))
            fail_msg("%s, %s: output %d is off by %g", what, table, o, sqrt(diff / norm));
    }
}

/* The shape against every type and precision: batches take turns, so that each shape meets several. */
static void check_shape(int shape, int turn)
{
    const struct shape *s = &SHAPES[shape];
    for (int type = T_F32; type < MATRIX_TYPES; type++)
        for (int v = 0; v < VARIANTS_N; v++) {
            const struct kernels *kn = variant_kernels(v);
            int b = (turn + type) % BATCHES_N;
            if (thin_skips(shape + turn + type + v) || !kn) continue;
            if ((double)s->n * s->k * batch_rows(b) > 6e7) continue;
            if (VARIANTS[v].table[0] == 'p' && (double)s->n * s->k * batch_rows(b) > 1e7) continue;
            struct problem p;
            seed((uint64_t)(shape * 100 + turn * 10 + type));
            problem_init(&p, &(struct problem_spec){.prec = VARIANTS[v].prec,
                                                    .type = type,
                                                    .k = s->k,
                                                    .nout = 1,
                                                    .n = {s->n},
                                                    .seg = BATCHES[b].seg,
                                                    .nseg = BATCHES[b].nseg,
                                                    .adapted = 1});
            problem_run(&p, kn, 2);
            check(&p, s->name, kn->name);
            problem_close(&p);
        }
}

static void every_shape_type_and_batch_agrees_with_float64(void **state)
{
    (void)state;
    for (int shape = 0; shape < SHAPES_N; shape++)
        for (int turn = 0; turn < BATCHES_N; turn += shape < 2 || shape > 6 ? 1 : 3) check_shape(shape, turn);
}

static void three_outputs_share_one_pass_with_bias_and_residual(void **state)
{
    (void)state;
    for (unsigned adapted = 0; adapted < 8; adapted++) /* 5: only q and v */
        for (int v = 0; v < VARIANTS_N; v++) {
            const struct kernels *kn = variant_kernels(v);
            if (!kn) continue;
            struct problem p;
            seed(adapted);
            problem_init(&p, &(struct problem_spec){.prec = VARIANTS[v].prec,
                                                    .type = adapted % 2 ? T_Q4_1 : T_Q8_0,
                                                    .k = 192,
                                                    .nout = 3,
                                                    .n = {96, 33, 70},
                                                    .seg = BATCHES[6].seg,
                                                    .nseg = BATCHES[6].nseg,
                                                    .adapted = adapted,
                                                    .add = adapted & 1,
                                                    .bias = adapted & 2});
            problem_run(&p, kn, 3);
            check(&p, "q, k, v", kn->name);
            problem_close(&p);
        }
}

/* Small integers in, so every product and sum is an integer that float32 holds: any order gives the same, and only a
 * wrong index, a lost or a doubled term can differ. */
static void integers_come_out_exactly(void **state)
{
    (void)state;
    for (int v = 0; v < VARIANTS_N; v++)
        for (int type = T_F32; type < MATRIX_TYPES; type++)
            for (int b = 0; b < BATCHES_N - 2; b++) {
                const struct kernels *kn = variant_kernels(v);
                if (!kn || type == M_NF4) continue;                           /* no table of integers */
                if (type == M_FP4 && VARIANTS[v].prec == PREC_FAST) continue; /* multiplied as thirds */
                struct problem p;
                seed((uint64_t)b);
                problem_init(&p, &(struct problem_spec){.prec = VARIANTS[v].prec,
                                                        .type = type,
                                                        .k = 160,
                                                        .nout = 2,
                                                        .n = {75, 64},
                                                        .seg = BATCHES[b].seg,
                                                        .nseg = BATCHES[b].nseg,
                                                        .adapted = 1,
                                                        .add = true,
                                                        .bias = true,
                                                        .integers = true});
                problem_run(&p, kn, 2);
                double want[75];
                for (int o = 0; o < 2; o++)
                    for (int row = 0; row < p.rows; row++) {
                        problem_answer(&p, o, row, want);
                        for (int i = 0; i < p.n[o]; i++) assert_true(p.y[o][row * p.ldy[o] + i] == want[i]);
                    }
                problem_close(&p);
            }
}

/* The same row alone: its own activations, its own adapter, nothing else. */
static void run_alone(const struct problem *p, const struct kernels *kn, int row, int threads, struct act *in, float *y)
{
    size_t k = (size_t)p->k, r = (size_t)row;
    memcpy(in->x, p->in.x + r * k, k * 4);
    memcpy(in->bf16, p->in.bf16 + r * k, k * 2);
    memcpy(in->q8, p->in.q8 + r * k, k);
    memcpy(in->q8_scale, p->in.q8_scale + r * k / 32, k / 32 * 4);
    memcpy(in->q8_sum, p->in.q8_sum + r * k / 32, k / 32 * 4);
    int s = p->seg_of[row];
    struct lora_seg seg = {0, 1, 1, {{s >= 0 ? &p->table[s] : NULL, 1}}};
    struct lora_batch batch = {.nseg = s >= 0, .seg = &seg, .modules = MM_OUTS};
    struct mm mm = p->mm;
    mm.in = in, mm.rows = 1, mm.lora = s >= 0 ? &batch : NULL;
    mm.out[0].y = y;
    memcpy(y, p->y0[0] + r * (size_t)p->ldy[0], (size_t)p->n[0] * 4);
    struct pool *pool = pool_of(threads);
    pool_run(pool, run_matmul, &(struct problem_run){kn, &mm});
    pool_free(pool);
}

static void check_alone(const struct problem *p, const struct kernels *kn)
{
    struct act in;
    float *y = xalloc((size_t)p->n[0] * 4);
    assert_int_equal(act_init(&in, 1, p->k, ACT_BF16 | ACT_Q8, NULL), 0);
    for (int row = 0; row < p->rows; row += row < 8 ? 1 : 5) {
        run_alone(p, kn, row, 1 + row % 3, &in, y);
        assert_memory_equal(y, p->y[0] + (size_t)row * (size_t)p->ldy[0], (size_t)p->n[0] * 4);
    }
    act_close(&in);
    free(y);
}

static void a_row_has_the_same_bits_alone_and_in_any_batch_on_any_threads(void **state)
{
    (void)state;
    for (int v = 0; v < VARIANTS_N; v++)
        for (int type = T_F32; type < MATRIX_TYPES; type++)
            for (int b = 0; b < BATCHES_N; b++) {
                const struct kernels *kn = variant_kernels(v);
                if (!kn || (VARIANTS[v].table[0] == 'p' && b > 4)) continue;
                struct problem p;
                seed((uint64_t)b);
                problem_init(&p, &(struct problem_spec){.prec = VARIANTS[v].prec,
                                                        .type = type,
                                                        .k = 576,
                                                        .nout = 1,
                                                        .n = {75},
                                                        .seg = BATCHES[b].seg,
                                                        .nseg = BATCHES[b].nseg,
                                                        .adapted = 1,
                                                        .add = true});
                problem_run(&p, kn, 1);
                check_alone(&p, kn);
                size_t bytes = (size_t)p.rows * (size_t)p.ldy[0] * 4;
                float *first = xalloc(bytes);
                memcpy(first, p.y[0], bytes);
                for (int threads = 2; threads <= 4; threads++) {
                    problem_run(&p, kn, threads);
                    assert_memory_equal(first, p.y[0], bytes);
                }
                free(first);
                problem_close(&p);
            }
}

/* Everything that a product of `keep` rows must not touch is NaN: rows behind, the scratch, other layers' and other
 * outputs' modules, the adapter of the neighbours. */
static void poison(struct problem *p, int keep)
{
    size_t from = (size_t)keep * (size_t)p->k, all = (size_t)p->in.rows_max * (size_t)p->in.k_max;
    for (size_t i = from; i < all; i++) p->in.x[i] = NAN, p->in.bf16[i] = 0x7fc0, p->in.q8_scale[i / 32] = NAN;
    for (size_t i = 0; i < MM_OUTS * (size_t)p->rows * RANK_MAX; i++) p->shrink[i] = NAN;
    static float nan_block[4096];
    for (int i = 0; i < 4096; i++) nan_block[i] = NAN;
    for (int s = 0; s < p->batch.nseg; s++)
        for (int m = 0; m < MM_OUTS; m++)
            p->mods[s][m] = (struct lora_mod){1, NAN, nan_block, nan_block, NULL}; /* the other layer */
}

static void nothing_is_read_that_does_not_belong_to_the_row(void **state)
{
    (void)state;
    static const struct seg_spec seg[] = {{2, 8}, {1, 0}, {2, 4}, {3, 16}};
    for (int v = 0; v < VARIANTS_N; v++)
        for (int type = T_F32; type < MATRIX_TYPES; type++) {
            const struct kernels *kn = variant_kernels(v);
            if (!kn) continue;
            struct problem p;
            seed((uint64_t)type);
            problem_init(&p, &(struct problem_spec){.prec = VARIANTS[v].prec,
                                                    .type = type,
                                                    .k = 96,
                                                    .nout = 2,
                                                    .n = {75, 40},
                                                    .seg = seg,
                                                    .nseg = 4,
                                                    .adapted = 1});
            poison(&p, 5);
            p.rows = p.mm.rows = 5; /* the last segment is not in the batch */
            p.batch.nseg = 2;
            p.mods[1][MM_OUTS].scale = NAN; /* rows 3 and 4 have a broken adapter */
            problem_run(&p, kn, 2);
            for (int row = 0; row < 5; row++) {
                if (row < 3)
                    assert_true(problem_error(&p, 0, row) < TOLERANCE);
                else
                    assert_true(isnan(p.y[0][row * p.ldy[0]]));
                assert_true(problem_error(&p, 1, row) < TOLERANCE);
                for (int o = 0; o < 2; o++) /* nothing is written behind a row's outputs either */
                    for (int i = p.n[o]; i < p.ldy[o]; i++) assert_true(isnan(p.y[o][row * p.ldy[o] + i]));
            }
            problem_close(&p);
        }
}

static void adapters_pack_from_every_float_format_in_the_order_asked_for(void **state)
{
    (void)state;
    enum { N = 40, K = 6, R = 3 };
    int order[N];
    for (int i = 0; i < N; i++) order[i] = i * 7 % N;
    for (enum tensor_type src = T_F32; src <= T_BF16; src++)
        for (enum lora_type type = LORA_BF16; type <= LORA_F32; type++) {
            struct matrix a = matrix_make(src, R, K, true), b = matrix_make(src, N, R, true);
            struct lora_mod m;
            size_t bytes = lora_mod_bytes(type, R, N, K);
            assert_int_equal(bytes % 64, 0);
            char *dst = xalloc(bytes);
            lora_mod_pack(&m, type, dst, R, N, K, 0.5f, src, a.src, b.src, order);
            assert_true(m.r == R && m.scale == 0.5f && (uintptr_t)m.b % 64 == 0);
            struct act in;
            assert_int_equal(act_init(&in, 1, 32, ACT_BF16, NULL), 0);
            for (int i = 0; i < K; i++) in.x[i] = (float)(i + 1), in.bf16[i] = bf16_bits(in.x[i]);
            struct weight w;
            float zero[N * K] = {0}, y[N], scratch[16];
            assert_int_equal(weight_pack(&w, T_F32, zero, N, K, NULL, type == LORA_BF16 ? PREC_FAST : PREC_EXACT, NULL),
                             0);
            struct lora_table table = {.mod = &m};
            struct lora_seg seg = {0, 1, 1, {{&table, 1}}};
            struct lora_batch batch = {.nseg = 1, .seg = &seg, .modules = 1};
            struct mm mm = {.in = &in,
                            .rows = 1,
                            .nout = 1,
                            .out = {{.w = &w, .y = y, .ldy = N}},
                            .lora = &batch,
                            .shrink = scratch,
                            .shrink_ld = lora_rank_pad(R)};
            struct pool *pool = pool_of(2);
            pool_run(pool, run_matmul,
                     &(struct problem_run){kernels_pick(NULL, type == LORA_BF16 ? PREC_FAST : PREC_EXACT), &mm});
            for (int i = 0; i < N; i++) {
                double want = 0;
                for (int j = 0; j < R; j++)
                    for (int c = 0; c < K; c++) want += b.value[order[i] * R + j] * 0.5 * a.value[j * K + c] * (c + 1);
                assert_true(y[i] == want);
            }
            pool_free(pool);
            weight_close(&w);
            act_close(&in);
            free(dst);
            matrix_free(&a);
            matrix_free(&b);
        }
}

/* --- gated products --- */

static double silu(double g)
{
    return g / (1 + exp(-g));
}

/* Both sums by the plain product first, then gated: within what exponential, division and products round, and in all
 * forms; whatever the rows, the threads, the adapters and the outputs of the last panel. */
static void check_gated(int v, int batch, int n, int threads)
{
    struct problem p;
    struct act out;
    seed((uint64_t)(batch * 10 + n));
    problem_init(&p, &(struct problem_spec){.prec = VARIANTS[v].prec,
                                            .type = batch % 2 ? T_Q8_0 : T_BF16,
                                            .k = 96,
                                            .nout = 2,
                                            .n = {n, n},
                                            .seg = BATCHES[batch].seg,
                                            .nseg = BATCHES[batch].nseg,
                                            .adapted = 3,
                                            .bias = batch % 3 == 0});
    problem_run(&p, variant_kernels(v), threads);
    assert_int_equal(act_init(&out, p.rows, (n + 31) / 32 * 32, ACT_BF16 | ACT_Q8, NULL), 0);
    struct mm mm = p.mm;
    mm.gated = &out;
    mm.out[0].y = mm.out[1].y = NULL;
    struct pool *pool = pool_of(threads);
    pool_run(pool, run_matmul, &(struct problem_run){variant_kernels(v), &mm});
    pool_free(pool);
    for (int i = 0; i < p.rows * n; i++) {
        int row = i / n, c = i % n;
        double want = silu(p.y[0][row * p.ldy[0] + c]) * p.y[1][row * p.ldy[1] + c];
        assert_true(fabs(out.x[i] - want) <= 6 * 0x1p-24 * fabs(want) + 1e-37);
        assert_int_equal(out.bf16[i], bf16_bits(bf16_near(out.x[i])));
        if (n % 32 == 0) assert_true(fabs(out.q8[i] * out.q8_scale[i / 32] - out.x[i]) <= 0.51 * out.q8_scale[i / 32]);
    }
    act_close(&out);
    problem_close(&p);
}

static void a_gated_product_is_what_its_two_products_make_together(void **state)
{
    (void)state;
    for (int v = 0; v < VARIANTS_N; v++)
        for (int b = 0; variant_kernels(v) && b < BATCHES_N; b++) {
            check_gated(v, b, 160, 1 + b % 3);
            check_gated(v, b, 100, 2);
        }
}

static void tables_are_found_by_name(void **state)
{
    (void)state;
    assert_string_equal(kernels_pick("plain", PREC_FAST)->name, "plain");
    assert_int_equal(kernels_pick("plain", PREC_EXACT)->prec, PREC_EXACT);
    assert_null(kernels_pick("avx1024", PREC_FAST));
    const struct kernels *best = NULL; /* names go from the slowest to the fastest */
    for (int i = 0; i < TABLES_N; i++) {
        const struct kernels *k = kernels_pick(TABLE_NAMES[i], PREC_FAST);
        if (!k) continue;
        assert_string_equal(k->name, TABLE_NAMES[i]);
        best = k;
    }
    assert_ptr_equal(kernels_pick("auto", PREC_FAST), best);
    assert_ptr_equal(kernels_pick(NULL, PREC_FAST), kernels_pick("auto", PREC_FAST));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_are_found_by_name),
        cmocka_unit_test(every_shape_type_and_batch_agrees_with_float64),
        cmocka_unit_test(three_outputs_share_one_pass_with_bias_and_residual),
        cmocka_unit_test(integers_come_out_exactly),
        cmocka_unit_test(a_row_has_the_same_bits_alone_and_in_any_batch_on_any_threads),
        cmocka_unit_test(nothing_is_read_that_does_not_belong_to_the_row),
        cmocka_unit_test(a_gated_product_is_what_its_two_products_make_together),
        cmocka_unit_test(adapters_pack_from_every_float_format_in_the_order_asked_for),
    };
    say_what_runs();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
