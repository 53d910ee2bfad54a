/* act(gate) * up of a tile: the last step of a gated product (matmul.c), whose sums are still at hand. */
#include "kernels/act_avx512.h"
#include "kernels/avx512.h"
#include "kernels/glu.h"

static inline __m512 gated(const enum mlp_act act, const float *gate, const float *up)
{
    const __m512 one = _mm512_set1_ps(1);
    __m512 g = _mm512_loadu_ps(gate), e = _mm512_sub_ps(_mm512_setzero_ps(), g);
    if (act == MLP_GELU_TANH) {
        __m512 square = _mm512_mul_ps(g, g);
        e = _mm512_mul_ps(g, _mm512_fmadd_ps(_mm512_set1_ps(GELU_3), square, _mm512_set1_ps(GELU_1)));
    }
    return _mm512_mul_ps(_mm512_div_ps(g, _mm512_add_ps(one, exp16(e))), _mm512_loadu_ps(up));
}

/* n (a constant) rows. */
ACT_INLINE void rows_together(const enum mlp_act act, const float *gate, const float *up, const int n,
                              const struct act *out, size_t at, int k)
{
    size_t to[ACT_FOUR];
    __m512 y[ACT_FOUR][2];
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) {
        to[i] = at + (size_t)i * (size_t)k;
        y[i][0] = gated(act, gate + i * PANEL, up + i * PANEL);
        y[i][1] = gated(act, gate + i * PANEL + 16, up + i * PANEL + 16);
    }
    act_put_groups(out, n, to, y);
}

ACT_INLINE void rows_of(const enum mlp_act act, const float *gate, const float *up, int rows, const struct act *out,
                        size_t at, int k)
{
    int row = 0;
    for (; row + ACT_FOUR <= rows; row += ACT_FOUR, at += ACT_FOUR * (size_t)k)
        rows_together(act, gate + row * PANEL, up + row * PANEL, ACT_FOUR, out, at, k);
    for (; row < rows; row++, at += (size_t)k) rows_together(act, gate + row * PANEL, up + row * PANEL, 1, out, at, k);
}

static void rows_with_tail(enum mlp_act act, const float *gate, const float *up, int rows, const struct act *out,
                           size_t at, int k, int count)
{
    for (int row = 0; row < rows; row++, gate += PANEL, up += PANEL, at += (size_t)k)
        act_put_tail(out, at, count, gated(act, gate, up), gated(act, gate + 16, up + 16));
}

/* Outputs that the panel does not have are computed as well, and not put. */
void gate_avx512(enum mlp_act act, const float *gate, const float *up, int count, int rows, struct act *out, int row0,
                 int k, int c0)
{
    size_t at = (size_t)row0 * (size_t)k + (size_t)c0;
    if (k % GROUP)
        rows_with_tail(act, gate, up, rows, out, at, k, count);
    else if (act == MLP_SILU)
        rows_of(MLP_SILU, gate, up, rows, out, at, k);
    else
        rows_of(MLP_GELU_TANH, gate, up, rows, out, at, k);
}
