/* point.cu: caps, biases, sums and rows against their definition, nothing beside them touched. */
#include "kernels/cuda/ops.h"
#include "tests/simt/plain.h"

static void a_cap_agrees_with_float64_from_tail_to_tail(void *arg)
{
    (void)arg;
    static const int LENGTHS[] = {1, 3, 257, 1025, 5000};
    for (int l = 0; l < 5; l++) {
        size_t n = (size_t)LENGTHS[l];
        float cap = (float[]){30, 1, 0.01f}[l % 3], *x = simt_buffer("x", n * 4), *before = malloc(n * 4);
        simt_fill_f32(x, n, (uint64_t)l, 1);
        for (size_t i = 0; i < n; i++) x[i] = ldexpf(x[i], (int)(i % 40) - 30) * cap;
        if (n > 2) x[0] = INFINITY, x[1] = -INFINITY, x[2] = -0.0f;
        memcpy(before, x, n * 4);
        struct op_softcap op = {.x = x, .n = n, .cap = cap};
        SIMT_CHECK(launch_softcap(&op, NULL) == 0, "refused");
        for (size_t i = 0; i < n; i++) {
            double want = (double)cap * tanh((double)before[i] / (double)cap);
            SIMT_CHECK(fabs(x[i] - want) <= 1e-6 * fabs(want), "cap of %g is %g, not %g", (double)before[i],
                       (double)x[i], want);
        }
        SIMT_CHECK(n < 3 || signbit(x[2]), "-0 lost its sign");
        free(before);
    }
}

static void a_bias_is_added_to_the_columns_it_has(void *arg)
{
    (void)arg;
    enum { ROWS = 3, N = 1029, LD = 1040 };
    for (int f32 = 0; f32 < 2; f32++) {
        float *bias = sealed_floats("bias", N, 1, 1), *x = malloc(ROWS * LD * 4);
        size_t size = f32 ? 4 : 2;
        char *y = simt_buffer("y", ROWS * LD * size);
        for (size_t r = 0; r < ROWS; r++) {
            if (f32)
                simt_fill_f32((float *)y + r * LD, N, 5 + r, 1);
            else
                simt_fill_bf16((uint16_t *)y + r * LD, N, 5 + r, 1);
            for (size_t i = 0; i < N; i++)
                x[r * LD + i] = bias[i] + (f32 ? ((float *)y)[r * LD + i] : plain_of_bf16(((uint16_t *)y)[r * LD + i]));
        }
        struct op_bias op = {.rows = ROWS, .n = N, .ld = LD, .f32 = f32, .bias = bias, .y = y};
        SIMT_CHECK(launch_bias(&op, NULL) == 0, "refused");
        for (size_t r = 0; r < ROWS; r++) {
            if (f32)
                simt_equal("y", (float *)y + r * LD, x + r * LD, N * 4);
            else
                simt_near_bf16("y", (uint16_t *)y + r * LD, x + r * LD, N, 4e-3f);
            simt_untouched("padding", y + (r * LD + N) * size, (LD - N) * size);
        }
        free(x);
    }
}

static void parts_of_the_residual_are_added(void *arg)
{
    (void)arg;
    static const int LENGTHS[] = {4, 896, 4864, 1028};
    for (int l = 0; l < 4; l++) {
        int k = LENGTHS[l], rows = 1 + 2 * l;
        size_t n = (size_t)k * (size_t)rows;
        float *y = sealed_floats("y", n, 1, 1), *x = simt_buffer("x", n * 4), *want = malloc(n * 4);
        simt_fill_f32(x, n, 2, 1);
        for (size_t i = 0; i < n; i++) want[i] = x[i] + y[i];
        struct op_add op = {.rows = rows, .k = k, .y = y, .x = x};
        SIMT_CHECK(launch_add(&op, NULL) == 0, "refused");
        simt_equal("x", x, want, n * 4);
        free(want);
    }
    SIMT_CHECK(launch_add(&(struct op_add){.rows = 1, .k = 6}, NULL) == RT_BAD_SHAPE, "taken");
}

static void rows_are_copied_by_index_between_any_strides(void *arg)
{
    (void)arg;
    enum { ROWS = 5, PIECES = 300, IN = PIECES * 16 + 16, OUT = PIECES * 16 + 32 };
    static const int32_t row_of[ROWS] = {4, -1, 0, 4, 2};
    char *in = simt_buffer("in", ROWS * IN), *out = simt_buffer("out", ROWS * OUT);
    for (int r = 0; r < ROWS; r++) simt_fill_bytes(in + r * IN, PIECES * 16, (uint64_t)r);
    simt_seal(in);
    struct op_rows op = {.rows = ROWS, .pieces = PIECES, .in = in, .out = out, .in_bytes = IN, .out_bytes = OUT};
    op.row_of = simt_sealed("row_of", row_of, sizeof row_of);
    SIMT_CHECK(launch_rows(&op, NULL) == 0, "refused");
    for (int r = 0; r < ROWS; r++) {
        if (row_of[r] < 0)
            simt_untouched("a skipped row", out + r * OUT, OUT);
        else
            simt_equal("a row", out + r * OUT, in + row_of[r] * IN, PIECES * 16);
        simt_untouched("padding", out + r * OUT + PIECES * 16, OUT - PIECES * 16);
    }
    op.row_of = NULL;
    SIMT_CHECK(launch_rows(&op, NULL) == 0, "refused");
    simt_equal("the row in its place", out + OUT, in + IN, PIECES * 16);
}

int main(void)
{
    simt_case("a cap agrees with float64 from tail to tail", a_cap_agrees_with_float64_from_tail_to_tail, NULL);
    simt_case("a bias is added to the columns it has", a_bias_is_added_to_the_columns_it_has, NULL);
    simt_case("parts of the residual are added", parts_of_the_residual_are_added, NULL);
    simt_case("rows are copied by index between any strides", rows_are_copied_by_index_between_any_strides, NULL);
    simt_case_without("point", a_cap_agrees_with_float64_from_tail_to_tail, NULL);
    simt_case_without("point", a_bias_is_added_to_the_columns_it_has, NULL);
    simt_case_without("point", parts_of_the_residual_are_added, NULL);
    simt_case_without("point", rows_are_copied_by_index_between_any_strides, NULL);
    return simt_done();
}
