/* fill.cu against its definition in plain C: values by counter, so the same whatever the rows' pitch; columns beyond k are
 * zero, nothing beside the matrix is written. */
#include "kernels/convert.h"
#include "kernels/cuda/fill.h"
#include "kernels/cuda/ops.h"
#include "tests/simt/simt.h"

static float value_of(uint32_t stream, uint64_t i)
{
    uint32_t h = (uint32_t)i ^ stream * 0x9e3779b9u;
    FILL_MIX(h);
    h += (uint32_t)(i >> 32) + stream;
    FILL_MIX(h);
    return (float)(h >> 8) * 0x1p-23f - 1;
}

static void values_go_by_their_number(void *arg)
{
    (void)arg;
    static const struct op_fill SHAPES[] = {
        {1, 8, 8, 0, 1, NULL}, {37, 96, 104, 7, 0.25f, NULL}, {300, 64, 64, 1 << 20, 3, NULL}};
    for (int s = 0; s < 3; s++) {
        struct op_fill op = SHAPES[s];
        size_t n = (size_t)op.n * (size_t)op.ld;
        op.out = simt_buffer("out", n * 2);
        SIMT_CHECK(launch_fill(&op, NULL) == 0, "refused");
        for (size_t i = 0; i < n; i++) {
            size_t row = i / (size_t)op.ld, k = i % (size_t)op.ld;
            float want = k < (size_t)op.k ? op.scale * value_of(op.stream, row * (size_t)op.k + k) : 0;
            SIMT_CHECK(op.out[i] == bf16_of_f32(want), "row %zu column %zu: %04x", row, k, op.out[i]);
        }
    }
}

static void values_have_no_mean_and_the_variance_of_a_third(void *arg)
{
    (void)arg;
    enum { N = 512 * 64 };
    double sum = 0, squares = 0;
    struct op_fill op = {512, 64, 64, 3, 1, simt_buffer("out", N * 2)};
    SIMT_CHECK(launch_fill(&op, NULL) == 0, "refused");
    for (int i = 0; i < N; i++) {
        double v = (double)f32_of_bf16(op.out[i]);
        sum += v, squares += v * v;
    }
    SIMT_CHECK(sum / N > -0.02 && sum / N < 0.02, "mean %g", sum / N);
    SIMT_CHECK(squares / N > 0.32 && squares / N < 0.35, "variance %g", squares / N);
}

static void lengths_that_are_no_pieces_are_refused(void *arg)
{
    (void)arg;
    SIMT_CHECK(launch_fill(&(struct op_fill){.n = 1, .k = 12, .ld = 16}, NULL) == RT_BAD_SHAPE, "k 12 was taken");
    SIMT_CHECK(launch_fill(&(struct op_fill){.n = 1, .k = 8, .ld = 12}, NULL) == RT_BAD_SHAPE, "ld 12 was taken");
}

int main(void)
{
    simt_case("values go by their number", values_go_by_their_number, NULL);
    simt_case("values have no mean and the variance of a third", values_have_no_mean_and_the_variance_of_a_third, NULL);
    simt_case("lengths that are no pieces are refused", lengths_that_are_no_pieces_are_refused, NULL);
    return simt_done();
}
