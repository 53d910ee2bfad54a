/* 8-bit panels times int8 rows (LAYOUT_Q8, FAST).
 *
 * Tile: 32 outputs x up to 4 rows. vpdpbusd multiplies unsigned by signed bytes, so weights are stored as their integer
 * + 128 and each integer sum starts at -128 times the sum of the group's activations. Per group of 32 inputs and 16
 * outputs: 8 products, then y += a * (d * dot): 2 multiplications. Bytes per output and group: 34. */
#include "kernels/matmul_int8_avx512.h"

INLINE void tile(const uint8_t *group, const struct rows *x, const int R, float *acc)
{
    sums y;
    for (int r = 0; r < R; r++) y[r][0] = y[r][1] = _mm512_setzero_ps();
    for (int g = 0; g < x->groups; g++, group += Q8_GROUP_BYTES) {
        dots dot;
        if (g % x->tiles == x->tile) prefetch(group + x->ahead, Q8_GROUP_BYTES);
        for (int r = 0; r < R; r++)
            dot[r][0] = dot[r][1] = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(group_sum(x, r, g), 7));
#pragma GCC unroll 8
        for (int p = 0; p < 8; p++) dots_bytes(group + PANEL * 2 + p * PANEL * 4, x, g * GROUP + p * 4, R, dot);
        const __m256i *s = (const __m256i *)group;
        __m512 d0 = _mm512_cvtph_ps(_mm256_load_si256(s)), d1 = _mm512_cvtph_ps(_mm256_load_si256(s + 1));
        add_scaled(x, g, R, d0, d1, dot, y);
    }
    tile_store(y, R, acc);
}

void panel_q8_avx512(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                     float *acc)
{
    (void)t;
    panel_by_tiles(w, panel, in, row0, rows, acc);
}
