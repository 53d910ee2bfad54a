/* rmsnorm.cu against float64: lengths that leave threads without work, rows that are chosen or skipped, the sum into the
 * residual stream; a row's bits alone and among others. */
#include "kernels/cuda/ops.h"
#include "tests/simt/simt.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 3
#define EPS 1e-5f

static const int LENGTHS[] = {4, 64, 100, 576, 896, 1536, 2052, 4096, 4864, 9000, 16384};
#define LENGTHS_N ((int)(sizeof LENGTHS / sizeof *LENGTHS))

static void norm_plain(const float *x, const float *weight, int k, float *out)
{
    double sum = 0;
    for (int i = 0; i < k; i++) sum += (double)x[i] * x[i];
    double factor = 1 / sqrt(sum / k + (double)EPS);
    for (int i = 0; i < k; i++) out[i] = (float)(x[i] * factor * weight[i]);
}

static float *sealed_floats(const char *name, size_t n, uint64_t stream)
{
    float *p = simt_buffer(name, n * sizeof *p);
    simt_fill_f32(p, n, stream, 2);
    simt_seal(p);
    return p;
}

static void rows_are_normed(void *arg)
{
    (void)arg;
    for (int l = 0; l < LENGTHS_N; l++) {
        int k = LENGTHS[l];
        size_t n = (size_t)k;
        float *x = sealed_floats("x", ROWS * n, 1), *w = sealed_floats("weight", n, 2),
              *want = malloc(n * sizeof *want);
        uint16_t *out = simt_buffer("out", ROWS * n * 2);
        struct op_rmsnorm op = {.rows = ROWS, .k = k, .x = x, .weight = w, .eps = EPS, .out = out};
        SIMT_CHECK(launch_rmsnorm(&op, NULL) == 0, "refused");
        for (size_t r = 0; r < ROWS; r++) {
            norm_plain(x + r * n, w, k, want);
            simt_near_bf16("out", out + r * n, want, n, 4e-3f);
        }
        free(want);
    }
}

static void rows_are_chosen_and_padding_is_skipped(void *arg)
{
    (void)arg;
    enum { K = 896 };
    static const int32_t row_of[ROWS] = {2, -1, 0};
    float *x = sealed_floats("x", ROWS * K, 1), *w = sealed_floats("weight", K, 2), want[K];
    uint16_t *out = simt_buffer("out", ROWS * K * 2);
    struct op_rmsnorm op = {.rows = ROWS, .k = K, .x = x, .weight = w, .eps = EPS, .out = out};
    op.row_of = simt_sealed("row_of", row_of, sizeof row_of);
    SIMT_CHECK(launch_rmsnorm(&op, NULL) == 0, "refused");
    norm_plain(x + 2 * K, w, K, want);
    simt_near_bf16("row 2", out, want, K, 4e-3f);
    simt_untouched("the skipped row", out + K, K * 2);
    norm_plain(x, w, K, want);
    simt_near_bf16("row 0", out + 2 * K, want, K, 4e-3f);
}

static void a_row_has_the_same_bits_alone(void *arg)
{
    (void)arg;
    enum { K = 4864 };
    float *x = sealed_floats("x", ROWS * K, 1), *w = sealed_floats("weight", K, 2);
    uint16_t *all = simt_buffer("all", ROWS * K * 2), *alone = simt_buffer("alone", K * 2);
    struct op_rmsnorm op = {.rows = ROWS, .k = K, .x = x, .weight = w, .eps = EPS, .out = all};
    SIMT_CHECK(launch_rmsnorm(&op, NULL) == 0, "refused");
    op.rows = 1, op.x = x + K, op.out = alone;
    SIMT_CHECK(launch_rmsnorm(&op, NULL) == 0, "refused");
    simt_equal("row 1", alone, all + K, K * 2);
}

static void norms_are_added_to_the_residual_stream(void *arg)
{
    (void)arg;
    for (int l = 0; l < LENGTHS_N; l++) {
        int k = LENGTHS[l];
        size_t n = (size_t)k;
        float *y = sealed_floats("y", ROWS * n, 1), *w = sealed_floats("weight", n, 2),
              *want = malloc(n * sizeof *want);
        float *x = simt_buffer("x", ROWS * n * sizeof *x), *before = malloc(ROWS * n * sizeof *before);
        simt_fill_f32(x, ROWS * n, 3, 1);
        memcpy(before, x, ROWS * n * sizeof *x);
        struct op_rmsnorm_add op = {.rows = ROWS, .k = k, .y = y, .weight = w, .eps = EPS, .x = x};
        SIMT_CHECK(launch_rmsnorm_add(&op, NULL) == 0, "refused");
        for (size_t r = 0; r < ROWS; r++) {
            norm_plain(y + r * n, w, k, want);
            for (size_t i = 0; i < n; i++) want[i] += before[r * n + i];
            simt_near_f32("x", x + r * n, want, n, 1e-5f);
        }
        free(want), free(before);
    }
}

static void lengths_that_no_block_holds_are_refused(void *arg)
{
    (void)arg;
    struct op_rmsnorm op = {.rows = 1, .k = 30};
    SIMT_CHECK(launch_rmsnorm(&op, NULL) == RT_BAD_SHAPE, "30 was taken");
    op.k = 16388;
    SIMT_CHECK(launch_rmsnorm(&op, NULL) == RT_BAD_SHAPE, "16388 was taken");
}

int main(void)
{
    simt_case("rows are normed", rows_are_normed, NULL);
    simt_case("rows are chosen and padding is skipped", rows_are_chosen_and_padding_is_skipped, NULL);
    simt_case("a row has the same bits alone", a_row_has_the_same_bits_alone, NULL);
    simt_case("norms are added to the residual stream", norms_are_added_to_the_residual_stream, NULL);
    simt_case("lengths that no block holds are refused", lengths_that_no_block_holds_are_refused, NULL);
    simt_case_without("rmsnorm", rows_are_normed, NULL);
    simt_case_without("rmsnorm", norms_are_added_to_the_residual_stream, NULL);
    return simt_done();
}
