/* 8-bit panels times int8 rows (LAYOUT_Q8, FAST).
 *
 * Tile: 32 outputs x up to 4 rows. vpdpbusd multiplies unsigned by signed bytes, so weights are stored as their integer
 * + 128 and each integer sum starts at -128 times the sum of the group's activations. Per group of 32 inputs and 16
 * outputs: 8 products, then y += a * (d * dot): 2 multiplications. Bytes per output and group: 34. */
#include "kernels/matmul_int8_avx512.h"

static inline __attribute__((always_inline)) void tile(const uint8_t *group, const struct rows *x, const int R,
                                                       float *acc)
{
    __m512 y[TILE][2];
    for (int r = 0; r < R; r++) y[r][0] = y[r][1] = _mm512_setzero_ps();
    for (int g = 0; g < x->groups; g++, group += Q8_GROUP_BYTES) {
        __m512i dot[TILE][2];
        if (g % x->tiles == x->tile) prefetch(group + x->ahead, Q8_GROUP_BYTES);
        for (int r = 0; r < R; r++) {
            __m512i sum = _mm512_set1_epi32(x->sum[r * x->groups + g]);
            dot[r][0] = dot[r][1] = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(sum, 7));
        }
#pragma GCC unroll 8
        for (int p = 0; p < 8; p++) {
            const uint8_t *q = group + PANEL * 2 + p * PANEL * 4;
            __m512i w0 = _mm512_loadu_si512(q), w1 = _mm512_loadu_si512(q + 64);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                __m512i a = four(x->q + (size_t)r * (size_t)x->k + g * GROUP + p * 4);
                dot[r][0] = _mm512_dpbusd_epi32(dot[r][0], w0, a);
                dot[r][1] = _mm512_dpbusd_epi32(dot[r][1], w1, a);
            }
        }
        const __m256i *s = (const __m256i *)group;
        __m512 d0 = _mm512_cvtph_ps(_mm256_load_si256(s)), d1 = _mm512_cvtph_ps(_mm256_load_si256(s + 1));
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            __m512 a = _mm512_set1_ps(x->scale[r * x->groups + g]);
            y[r][0] = _mm512_fmadd_ps(a, _mm512_mul_ps(d0, _mm512_cvtepi32_ps(dot[r][0])), y[r][0]);
            y[r][1] = _mm512_fmadd_ps(a, _mm512_mul_ps(d1, _mm512_cvtepi32_ps(dot[r][1])), y[r][1]);
        }
    }
    tile_store(y, R, acc);
}

void panel_q8_avx512(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                     float *acc)
{
    (void)t;
    panel_by_tiles(w, panel, in, row0, rows, acc);
}
