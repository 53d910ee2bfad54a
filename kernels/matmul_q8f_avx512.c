/* 8-bit panels with float32 scales times int8 rows (LAYOUT_Q8F, FAST): as LAYOUT_Q8's, but for the scales. Bytes per
 * output and group: 36. */
#include "kernels/matmul_int8_avx512.h"

INLINE void tile(const uint8_t *group, const struct rows *x, const int R, float *acc)
{
    sums y;
    for (int r = 0; r < R; r++) y[r][0] = y[r][1] = _mm512_setzero_ps();
    for (int g = 0; g < x->groups; g++, group += Q8F_GROUP_BYTES) {
        dots dot;
        if (g % x->tiles == x->tile) prefetch(group + x->ahead, Q8F_GROUP_BYTES);
        for (int r = 0; r < R; r++)
            dot[r][0] = dot[r][1] = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(group_sum(x, r, g), 7));
#pragma GCC unroll 8
        for (int p = 0; p < 8; p++) dots_bytes(group + PANEL * 4 + p * PANEL * 4, x, g * GROUP + p * 4, R, dot);
        add_scaled(x, g, R, _mm512_load_ps(group), _mm512_load_ps(group + 64), dot, y);
    }
    tile_store(y, R, acc);
}

void panel_q8f_avx512(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                      float *acc)
{
    (void)t;
    panel_by_tiles(w, panel, in, row0, rows, acc);
}
