/* 4-bit panels with a zero point times int8 rows (LAYOUT_Q4Z, FAST).
 *
 * As LAYOUT_Q4's; then y += a * (d * (dot - z * sum)), the bracket an integer. A group is ten and a half lines, so every
 * other one is loaded across lines: cheaper than the bytes that padding would add. Bytes per output and group: 21. */
#include "kernels/matmul_int8_avx512.h"

INLINE void tile(const uint8_t *group, const struct rows *x, const int R, float *acc)
{
    sums y;
    for (int r = 0; r < R; r++) y[r][0] = y[r][1] = _mm512_setzero_ps();
    for (int g = 0; g < x->groups; g++, group += Q4Z_GROUP_BYTES) {
        dots dot;
        if (g % x->tiles == x->tile) prefetch(group + x->ahead, Q4Z_GROUP_BYTES);
        dots_zero(dot, R);
#pragma GCC unroll 4
        for (int p = 0; p < 4; p++) dots_nibbles(group + PANEL * 5 + p * PANEL * 4, x, g * GROUP + p * 8, R, dot);
        const __m128i *zero = (const __m128i *)(group + PANEL * 4);
        __m512i z0 = _mm512_cvtepi8_epi32(_mm_loadu_si128(zero)), z1 = _mm512_cvtepi8_epi32(_mm_loadu_si128(zero + 1));
        for (int r = 0; r < R; r++) {
            __m512i sum = group_sum(x, r, g);
            dot[r][0] = _mm512_sub_epi32(dot[r][0], _mm512_mullo_epi32(z0, sum));
            dot[r][1] = _mm512_sub_epi32(dot[r][1], _mm512_mullo_epi32(z1, sum));
        }
        add_scaled(x, g, R, _mm512_loadu_ps(group), _mm512_loadu_ps(group + 64), dot, y);
    }
    tile_store(y, R, acc);
}

void panel_q4z_avx512(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                      float *acc)
{
    (void)t;
    panel_by_tiles(w, panel, in, row0, rows, acc);
}
