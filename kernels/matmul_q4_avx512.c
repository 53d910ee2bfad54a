/* 4-bit panels times int8 rows (LAYOUT_Q4, FAST).
 *
 * Tile: 32 outputs x up to 4 rows. One 64-byte load of nibbles is 16 outputs x 8 inputs: a mask and a shift make the
 * two operands of vpdpbusd, shared by the tile's rows; the activations' four bytes are broadcast. Per group of 32
 * inputs and 16 outputs: 8 products, then y += a * (d * dot + m * sum): 3 multiplications. 8 integer and 8 float
 * accumulators, 4 scales: no spills; an 8-row tile spills. Bytes per output and group: 20 (4-bit values, two f16
 * scales). */
#include "kernels/matmul_int8_avx512.h"

INLINE void tile(const uint8_t *group, const struct rows *x, const int R, float *acc)
{
    sums y;
    for (int r = 0; r < R; r++) y[r][0] = y[r][1] = _mm512_setzero_ps();
    for (int g = 0; g < x->groups; g++, group += Q4_GROUP_BYTES) {
        dots dot;
        if (g % x->tiles == x->tile) prefetch(group + x->ahead, Q4_GROUP_BYTES);
        dots_zero(dot, R);
#pragma GCC unroll 4
        for (int p = 0; p < 4; p++) dots_nibbles(group + PANEL * 4 + p * PANEL * 4, x, g * GROUP + p * 8, R, dot);
        add_affine(group, x, g, R, dot, y);
    }
    tile_store(y, R, acc);
}

void panel_q4_avx512(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                     float *acc)
{
    (void)t;
    panel_by_tiles(w, panel, in, row0, rows, acc);
}
