/* 2-bit panels times int8 rows (LAYOUT_Q2, FAST).
 *
 * As LAYOUT_Q4's, but a 64-byte load is 16 outputs x 16 inputs: a mask and three shifts make four operands. Bytes per
 * output and group: 12. */
#include "kernels/matmul_int8_avx512.h"

/* dot += codes x: 16 inputs in the quarters of each byte; inputs i of the group on. */
INLINE void dots_quarters(const uint8_t *q, const struct rows *x, int i, const int R, dots dot)
{
    const __m512i low = _mm512_set1_epi8(3);
    __m512i b0 = _mm512_loadu_si512(q), b1 = _mm512_loadu_si512(q + 64);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m512i w0 = _mm512_and_si512(b0, low), w1 = _mm512_and_si512(b1, low);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            __m512i a = four(x->q + (size_t)r * (size_t)x->k + i + 4 * j);
            dot[r][0] = _mm512_dpbusd_epi32(dot[r][0], w0, a);
            dot[r][1] = _mm512_dpbusd_epi32(dot[r][1], w1, a);
        }
        b0 = _mm512_srli_epi16(b0, 2), b1 = _mm512_srli_epi16(b1, 2);
    }
}

INLINE void tile(const uint8_t *group, const struct rows *x, const int R, float *acc)
{
    sums y;
    for (int r = 0; r < R; r++) y[r][0] = y[r][1] = _mm512_setzero_ps();
    for (int g = 0; g < x->groups; g++, group += Q2_GROUP_BYTES) {
        dots dot;
        if (g % x->tiles == x->tile) prefetch(group + x->ahead, Q2_GROUP_BYTES);
        dots_zero(dot, R);
#pragma GCC unroll 2
        for (int p = 0; p < 2; p++) dots_quarters(group + PANEL * 4 + p * PANEL * 4, x, g * GROUP + p * 16, R, dot);
        add_affine(group, x, g, R, dot, y);
    }
    tile_store(y, R, acc);
}

void panel_q2_avx512(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                     float *acc)
{
    (void)t;
    panel_by_tiles(w, panel, in, row0, rows, acc);
}
