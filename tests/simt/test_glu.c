/* glu.cu against float64: every size of argument, both gates, biases; a row alone and among others. */
#include "kernels/cuda/ops.h"
#include "tests/simt/plain.h"

#define ROWS 17

static const int LENGTHS[] = {8, 64, 896, 1160, 4864};
#define LENGTHS_N ((int)(sizeof LENGTHS / sizeof *LENGTHS))

static double gated(int act, double g)
{
    if (act == ACT_SILU_MUL) return g / (1 + exp(-g));
    return g / (1 + exp(-2 * sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)));
}

static void gates_agree_with_float64_for_any_length(void *arg)
{
    (void)arg;
    for (int l = 0; l < 2 * LENGTHS_N; l++) {
        int n = LENGTHS[l / 2], rows = (int[]){1, 3, ROWS}[l % 3];
        size_t all = (size_t)rows * (size_t)n;
        uint16_t *gu = simt_buffer("gu", all * 4), *out = simt_buffer("out", all * 2);
        simt_fill_bf16(gu, all * 2, (uint64_t)l, l % 2 ? 3 : 20);
        simt_seal(gu);
        struct op_glu op = {.rows = rows, .n = n, .act = l % 2 ? ACT_GELU_MUL : ACT_SILU_MUL, .gu = gu, .out = out};
        if (l % 4 > 1) op.gate_bias = sealed_floats("gate_bias", (size_t)n, 7, 1);
        if (l % 4 > 2) op.up_bias = sealed_floats("up_bias", (size_t)n, 8, 1);
        SIMT_CHECK(launch_glu(&op, NULL) == 0, "refused");
        for (size_t i = 0; i < all; i++) {
            size_t row = i / (size_t)n, c = i % (size_t)n;
            double g = (double)plain_of_bf16(gu[2 * row * (size_t)n + c]) + (op.gate_bias ? op.gate_bias[c] : 0);
            double u = (double)plain_of_bf16(gu[(2 * row + 1) * (size_t)n + c]) + (op.up_bias ? op.up_bias[c] : 0);
            double want = gated(op.act, g) * u, got = plain_of_bf16(out[i]);
            SIMT_CHECK(fabs(got - want) <= 4e-3 * fabs(want) + 1e-30, "n %d: act(%g) * %g is %g, not %g", n, g, u, got,
                       want);
        }
    }
}

static void extreme_gates_give_the_limits(void *arg)
{
    (void)arg;
    uint16_t *gu = simt_buffer("gu", 32), *out = simt_buffer("out", 16);
    static const uint16_t gate[8] = {0xc348, 0x4348, 0xff61, 0x7f61, 0x7f80, 0x7fc0, 0x0000, 0x8000};
    for (int i = 0; i < 8; i++) gu[i] = gate[i], gu[8 + i] = 0x3f80;
    for (int act = ACT_SILU_MUL; act <= ACT_GELU_MUL; act++) {
        struct op_glu op = {.rows = 1, .n = 8, .act = act, .gu = gu, .out = out};
        SIMT_CHECK(launch_glu(&op, NULL) == 0, "refused");
        float y[8];
        for (int i = 0; i < 8; i++) y[i] = plain_of_bf16(out[i]);
        SIMT_CHECK(y[0] == 0 && y[1] == 200 && y[2] == 0, "%g %g %g", (double)y[0], (double)y[1], (double)y[2]);
        SIMT_CHECK(y[3] == plain_of_bf16(0x7f61) && isinf(y[4]) && isnan(y[5]), "%g %g %g", (double)y[3], (double)y[4],
                   (double)y[5]);
        SIMT_CHECK(out[6] == 0 && out[7] == 0x8000, "%04x %04x", out[6], out[7]);
    }
}

static void a_row_has_the_same_bits_alone(void *arg)
{
    (void)arg;
    enum { N = 896 };
    uint16_t *gu = simt_buffer("gu", ROWS * N * 4), *all = simt_buffer("all", ROWS * N * 2),
             *alone = simt_buffer("alone", N * 2);
    simt_fill_bf16(gu, ROWS * N * 2, 3, 5);
    simt_seal(gu);
    struct op_glu op = {.rows = ROWS, .n = N, .gu = gu, .out = all};
    SIMT_CHECK(launch_glu(&op, NULL) == 0, "refused");
    op.rows = 1, op.gu = gu + 5 * 2 * N, op.out = alone;
    SIMT_CHECK(launch_glu(&op, NULL) == 0, "refused");
    simt_equal("row 5", alone, all + 5 * N, N * 2);
}

int main(void)
{
    simt_case("gates agree with float64 for any length", gates_agree_with_float64_for_any_length, NULL);
    simt_case("extreme gates give the limits", extreme_gates_give_the_limits, NULL);
    simt_case("a row has the same bits alone", a_row_has_the_same_bits_alone, NULL);
    simt_case_without("glu", a_row_has_the_same_bits_alone, NULL);
    return simt_done();
}
