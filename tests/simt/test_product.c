/* Which way products go, and the ways beside the own kernels: expansion to bf16, rows as e4m3, dense products; groups of
 * experts. Against float64 on the host's weights. */
#include "kernels/convert.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/ops.h"
#include "tests/simt/weights.h"
#include <stdio.h>

static uint16_t *make_x(int rows, int k)
{
    uint16_t *x = simt_buffer("x", (size_t)rows * (size_t)k * 2);
    simt_fill_bf16(x, (size_t)rows * (size_t)k, 9, 1);
    simt_seal(x);
    return x;
}

/* What a row of bf16 is after it went through e4m3. */
static void through_e4m3(const uint16_t *x, size_t k, double *out)
{
    float most = 0;
    for (size_t i = 0; i < k; i++) most = fmaxf(most, fabsf(f32_of_bf16(x[i])));
    for (size_t i = 0; i < k; i++)
        out[i] = (double)f32_of_e4m3(e4m3_of_f32(f32_of_bf16(x[i]) * (448 / most))) * (double)(most / 448);
}

static double *sums(const struct weight *w, const uint16_t *x, int rows, bool e4m3)
{
    size_t k = (size_t)w->k;
    float *row = malloc(k * sizeof *row);
    double *value = malloc((size_t)rows * k * sizeof *value);
    double *out = calloc((size_t)rows * (size_t)w->n, sizeof *out);
    for (size_t i = 0; i < (size_t)rows * k; i++) value[i] = (double)f32_of_bf16(x[i]);
    for (size_t r = 0; e4m3 && r < (size_t)rows; r++) through_e4m3(x + r * k, k, value + r * k);
    for (int n = 0; n < w->n; n++) {
        weight_row(w, n, row);
        for (size_t r = 0; r < (size_t)rows; r++)
            for (size_t i = 0; i < k; i++) out[r * (size_t)w->n + (size_t)n] += (double)row[i] * value[r * k + i];
    }
    free(value);
    free(row);
    return out;
}

static void check(const char *what, const float *got, const double *want, size_t rows, size_t n, double part)
{
    for (size_t r = 0; r < rows; r++) {
        double most = 0;
        for (size_t i = 0; i < n; i++) most = fmax(most, fabs(want[r * n + i]));
        for (size_t i = 0; i < n; i++)
            SIMT_CHECK(fabs(got[r * n + i] - want[r * n + i]) <= part * most, "%s row %zu output %zu: %g, not %g", what,
                       r, i, (double)got[r * n + i], want[r * n + i]);
    }
}

/* --- the ways --- */

static void expansion_rounds_once(void *arg)
{
    int kind = (int)(intptr_t)arg;
    struct weight host = made_weight(kind, 70, 160, false, 4);
    struct expand_job job = {made_whole(&host), 32, 38, simt_buffer("expanded", 38 * 160 * 2), 0};
    SIMT_CHECK(launch_expand(&job, NULL) == 0, "refused");
    float row[160];
    for (int r = 0; r < 38; r++) {
        weight_row(&host, 32 + r, row);
        for (int i = 0; i < 160; i++) {
            uint16_t want = bf16_of_f32(row[i]);
            SIMT_CHECK(job.out[r * 160 + i] == want, "row %d input %d: %x, not %x", r, i, job.out[r * 160 + i], want);
        }
    }
}

static void rows_become_e4m3_of_their_own(void *arg)
{
    (void)arg;
    enum { ROWS = 3, K = 4864 };
    uint16_t *x = simt_buffer("x", ROWS * K * 2);
    simt_fill_bf16(x, K, 1, 3);
    memset(x + K, 0, K * 2); /* zeros */
    simt_fill_bf16(x + 2 * K, K, 2, 1e-3f);
    x[2 * K + 7] = 0x7fc0; /* NaN */
    simt_seal(x);
    struct quantize_job job = {ROWS, K, K, x, simt_buffer("codes", ROWS * K), simt_buffer("scale", ROWS * 4)};
    SIMT_CHECK(launch_quantize_e4m3(&job, NULL) == 0, "refused");
    float most = 0;
    for (int i = 0; i < K; i++) most = fmaxf(most, fabsf(f32_of_bf16(x[i])));
    SIMT_CHECK(job.scale[0] == most / 448, "scale %g", (double)job.scale[0]);
    for (int i = 0; i < K; i++) {
        uint8_t want = e4m3_of_f32(f32_of_bf16(x[i]) * (448 / most));
        SIMT_CHECK(job.codes[i] == want, "code %d: %x, not %x", i, job.codes[i], want);
        SIMT_CHECK(job.codes[K + i] == 0, "code %d of a row of zeros", i);
    }
    SIMT_CHECK(job.scale[1] == 0 && !(job.scale[2] == job.scale[2]), "scales of zeros and of a NaN");
}

struct way {
    int kind, rows, cc;
    double part;
    bool e4m3; /* x goes through it, where that is asked for */
};

/* 200 rows go dense; 40 rows of codes wide, of bf16 dense; fp8 by e4m3 rows from sm_90 on where that is asked for and
 * the device has it (whose sums of e4m3 keep some 14 bits). */
static const struct way WAYS[] = {
    {KIND_BF16, 5, 90, 1e-5, false},  {KIND_BF16, 40, 90, 1e-5, false}, {KIND_F32, 20, 90, 1e-5, false},
    {KIND_Q8, 40, 90, 1e-5, false},   {KIND_Q8, 200, 90, 5e-3, false},  {KIND_Q4Z, 200, 80, 5e-3, false},
    {KIND_F8R, 16, 90, 1e-5, false},  {KIND_F8R, 200, 80, 5e-3, false}, {KIND_F8R, 200, 90, 1e-3, true},
    {KIND_F8R, 200, 90, 5e-3, false}, {KIND_F8, 200, 90, 5e-3, false},
};

#define WAY_N 48
#define WAY_K 128

/* Is there a dense product of e4m3 with scales of rows here? */
static bool has_fp8(struct rt_dense *dense, const struct cuda_weight *w, int rows, void *scratch)
{
    return rt_dense_has(dense, &(struct rt_product){.m = rows,
                                                    .n = WAY_N,
                                                    .k = WAY_K,
                                                    .in = RT_E4M3,
                                                    .out = RT_F32,
                                                    .x = scratch,
                                                    .w = w->data,
                                                    .ldx = WAY_K,
                                                    .ldw = WAY_K,
                                                    .y = scratch,
                                                    .ldy = WAY_N,
                                                    .add = true,
                                                    .scale_x = scratch,
                                                    .scale_w = w->scales}) == 0;
}

static void products_go_the_way_of_their_shape(void *arg)
{
    enum { N = WAY_N, K = WAY_K };
    if (arg) setenv("WEFT_SIMT_FP8", "0", 1); /* a device without products of e4m3 */
    struct rt_dense *dense;
    void *stream;
    SIMT_CHECK(rt_dense_new(&dense, NULL, 0) == 0 && rt_stream_new(&stream, false) == 0, "no dense products");
    for (int i = 0; i < (int)(sizeof WAYS / sizeof *WAYS); i++) {
        const struct way *way = &WAYS[i];
        size_t rows = (size_t)way->rows;
        struct weight host = made_weight(way->kind, N, K, false, 5);
        struct cuda_weight w = made_whole(&host);
        uint16_t *x = make_x(way->rows, K);
        float *y = simt_buffer("y", rows * N * 4);
        for (size_t j = 0; j < rows * N; j++) y[j] = 1;
        struct op_product op = {.rows = way->rows, .w = &w, .x = x, .ldx = K, .y = y, .ldy = N, .f32 = 1, .add = 1};
        op.dense = dense, op.scratch = simt_buffer("scratch", product_scratch(way->rows, N, K));
        cuda_target.cc = way->cc;
        product_begin(way->e4m3);
        SIMT_CHECK(launch_product(&op, stream) == 0, "refused");
        bool e4m3 = way->e4m3 && has_fp8(dense, &w, way->rows, op.scratch);
        double *want = sums(&host, x, way->rows, e4m3);
        for (size_t j = 0; j < rows * N; j++) y[j] -= 1; /* 1e-5 of a largest sum of some units takes that */
        check(cuda_kind_name[way->kind], y, want, rows, N, way->e4m3 && !e4m3 ? 5e-3 : way->part);
    }
    struct op_product op = {.rows = 1, .ldx = 12};
    struct weight host = made_weight(KIND_BF16, 8, 8, false, 5);
    struct cuda_weight w = made_whole(&host);
    op.w = &w;
    SIMT_CHECK(launch_product(&op, stream) == RT_BAD_SHAPE, "rows of x that are not 16-byte aligned");
    rt_stream_free(stream);
    rt_dense_free(dense);
}

/* The largest error of each row, of its largest output. */
static double worst_part(const float *got, const double *want, size_t rows, size_t n)
{
    double worst = 0;
    for (size_t r = 0; r < rows; r++) {
        double most = 0, error = 0;
        for (size_t i = 0; i < n; i++) {
            most = fmax(most, fabs(want[r * n + i]));
            error = fmax(error, fabs((double)got[r * n + i] - want[r * n + i]));
        }
        worst = fmax(worst, error / most);
    }
    return worst;
}

/* Why fp8 weights are expanded unless rows of e4m3 are asked for. */
static void rows_of_e4m3_miss_the_tolerance(void *arg)
{
    (void)arg;
    enum { ROWS = 144, N = 64, K = 896 };
    struct rt_dense *dense;
    void *stream;
    struct weight host = made_weight(KIND_F8R, N, K, false, 5);
    struct cuda_weight w = made_whole(&host);
    uint16_t *x = make_x(ROWS, K);
    double worst[2], *want = sums(&host, x, ROWS, false);
    SIMT_CHECK(rt_dense_new(&dense, NULL, 0) == 0 && rt_stream_new(&stream, false) == 0, "no dense products");
    cuda_target.cc = 90;
    for (int e4m3 = 0; e4m3 < 2; e4m3++) {
        float *y = simt_buffer("y", ROWS * N * 4);
        struct op_product op = {.rows = ROWS, .w = &w, .x = x, .ldx = K, .y = y, .ldy = N, .f32 = 1, .dense = dense};
        op.scratch = simt_buffer("scratch", product_scratch(ROWS, N, K));
        product_begin(e4m3);
        SIMT_CHECK(launch_product(&op, stream) == 0, "refused");
        worst[e4m3] = worst_part(y, want, ROWS, N);
    }
    product_begin(false);
    SIMT_CHECK(worst[0] <= 5e-3 && worst[1] > 1e-2, "expanded %.4f, rows of e4m3 %.4f", worst[0], worst[1]);
    free(want);
    rt_stream_free(stream);
    rt_dense_free(dense);
}

/* --- experts --- */

struct group {
    int experts, places, rows[6]; /* rows of each expert; places: the grid's */
};

static const struct group GROUPS[] = {
    {6, 8, {0, 1, 3, 0, 0, 2}}, {6, 60, {17, 0, 9, 1, 30, 3}}, {4, 160, {70, 0, 3, 66}}, {1, 4, {4}},
    {3, 12, {0, 0, 0}},
};

static void each_expert_takes_its_rows(void *arg)
{
    enum { N = 40, K = 160 };
    int kind = (int)(intptr_t)arg;
    struct weight host[6];
    struct cuda_weight w[6];
    void *stream;
    SIMT_CHECK(rt_stream_new(&stream, false) == 0, "no stream");
    for (int e = 0; e < 6; e++) {
        host[e] = made_weight(kind, N, K, false, (uint64_t)e + 1);
        w[e] = made_whole(&host[e]);
    }
    const struct cuda_weight *w_device = simt_sealed("weights", w, sizeof w);
    for (int i = 0; i < (int)(sizeof GROUPS / sizeof *GROUPS); i++) {
        const struct group *g = &GROUPS[i];
        int32_t first[7] = {0};
        for (int e = 0; e < g->experts; e++) first[e + 1] = first[e] + g->rows[e];
        uint16_t *x = make_x(g->places, K);
        float *y = simt_buffer("y", (size_t)g->places * N * 4);
        struct op_grouped op = {.places = g->places, .experts = g->experts, .w = w, .w_device = w_device};
        op.first = simt_sealed("first", first, sizeof *first * ((size_t)g->experts + 1));
        op.x = x, op.ldx = K, op.y = y, op.ldy = N, op.f32 = 1;
        if (i % 2) SIMT_CHECK(grouped_measure(&op, stream) == 0, "can't be timed"); /* whichever way is the faster */
        SIMT_CHECK(launch_grouped(&op, NULL) == 0, "refused");
        for (int e = 0; e < g->experts; e++) {
            double *want = sums(&host[e], x + first[e] * K, g->rows[e], false);
            check("expert", y + first[e] * N, want, (size_t)g->rows[e], N, kind == KIND_T4 ? 4e-3 : 1e-5);
            free(want);
        }
        size_t used = (size_t)first[g->experts];
        simt_untouched("places without a row", y + used * N, ((size_t)g->places - used) * N * 4);
    }
}

/* A place's bits do not depend on how many rows its expert has. */
static void a_place_has_the_same_bits_alone(void *arg)
{
    enum { N = 40, K = 320, PLACES = 20 };
    int kind = (int)(intptr_t)arg;
    struct weight host = made_weight(kind, N, K, false, 1);
    struct cuda_weight one = made_whole(&host), w[2] = {one, one};
    const int32_t many[3] = {0, 0, 19}, few[3] = {0, 18, 19};
    uint16_t *x = make_x(PLACES, K);
    float *y[2];
    for (int i = 0; i < 2; i++) {
        y[i] = simt_buffer("y", PLACES * N * 4);
        struct op_grouped op = {
            .places = PLACES, .experts = 2, .w = w, .w_device = simt_sealed("weights", w, sizeof w)};
        op.first = simt_sealed("first", i ? few : many, sizeof many);
        op.x = x, op.ldx = K, op.y = y[i], op.ldy = N, op.f32 = 1;
        SIMT_CHECK(launch_grouped(&op, NULL) == 0, "refused");
    }
    simt_equal("places", y[1], y[0], 19 * N * 4);
}

int main(void)
{
    for (intptr_t kind = 0; kind < KINDS; kind++) {
        char name[96];
        const char *what = cuda_kind_name[kind];
#define CASE(text, fn) snprintf(name, sizeof name, "%s: " text, what), simt_case(name, fn, (void *)kind)
        CASE("expansion to bf16 rounds once", expansion_rounds_once);
        if (simt_finds_races() && kind != KIND_Q4 && kind != KIND_T4) continue; /* threads meet in all kinds alike */
        CASE("each expert takes its rows", each_expert_takes_its_rows);
        CASE("a place has the same bits alone and among others", a_place_has_the_same_bits_alone);
    }
    simt_case("rows become e4m3, each with a scale of its own", rows_become_e4m3_of_their_own, NULL);
    simt_case("rows of e4m3 miss the tolerance that expansion holds", rows_of_e4m3_miss_the_tolerance, NULL);
    simt_case("products go the way of their shape", products_go_the_way_of_their_shape, NULL);
    simt_case("fp8 is expanded where the device has no product of it", products_go_the_way_of_their_shape, (void *)"");
    simt_case_without("gemm_expand", expansion_rounds_once, (void *)KIND_Q4);
    simt_case_without("gemm_expand", rows_become_e4m3_of_their_own, NULL);
    simt_case_without("gemm_kernel", each_expert_takes_its_rows, (void *)KIND_Q4);
    return simt_done();
}
