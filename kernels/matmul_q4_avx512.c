/* 4-bit panels times int8 rows (LAYOUT_Q4, FAST).
 *
 * Tile: 32 outputs x up to 4 rows. One 64-byte load of nibbles is 16 outputs x 8 inputs: a mask and a shift make the
 * two operands of vpdpbusd, shared by the tile's rows; the activations' four bytes are broadcast. Per group of 32
 * inputs and 16 outputs: 8 products, then y += a * (d * dot + m * sum): 3 multiplications. 8 integer and 8 float
 * accumulators, 4 scales: no spills; an 8-row tile spills. Bytes per output and group: 20 (4-bit values, two f16
 * scales). */
#include "kernels/matmul_int8_avx512.h"

static inline __attribute__((always_inline)) void tile(const uint8_t *group, const struct rows *x, const int R,
                                                       float *acc)
{
    const __m512i low = _mm512_set1_epi8(15);
    __m512 y[TILE][2];
    for (int r = 0; r < R; r++) y[r][0] = y[r][1] = _mm512_setzero_ps();
    for (int g = 0; g < x->groups; g++, group += Q4_GROUP_BYTES) {
        __m512i dot[TILE][2];
        if (g % x->tiles == x->tile) prefetch(group + x->ahead, Q4_GROUP_BYTES);
        for (int r = 0; r < R; r++) dot[r][0] = dot[r][1] = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int p = 0; p < 4; p++) {
            const uint8_t *q = group + PANEL * 4 + p * PANEL * 4;
            __m512i b0 = _mm512_loadu_si512(q), b1 = _mm512_loadu_si512(q + 64);
            __m512i w00 = _mm512_and_si512(b0, low), w01 = _mm512_and_si512(b1, low);
            __m512i w10 = _mm512_and_si512(_mm512_srli_epi16(b0, 4), low),
                    w11 = _mm512_and_si512(_mm512_srli_epi16(b1, 4), low);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                const int8_t *at = x->q + (size_t)r * (size_t)x->k + g * GROUP + p * 8;
                __m512i a0 = four(at), a1 = four(at + 4);
                dot[r][0] = _mm512_dpbusd_epi32(dot[r][0], w00, a0);
                dot[r][1] = _mm512_dpbusd_epi32(dot[r][1], w01, a0);
                dot[r][0] = _mm512_dpbusd_epi32(dot[r][0], w10, a1);
                dot[r][1] = _mm512_dpbusd_epi32(dot[r][1], w11, a1);
            }
        }
        const __m256i *s = (const __m256i *)group;
        __m512 d0 = _mm512_cvtph_ps(_mm256_load_si256(s)), d1 = _mm512_cvtph_ps(_mm256_load_si256(s + 1));
        __m512 m0 = _mm512_cvtph_ps(_mm256_load_si256(s + 2)), m1 = _mm512_cvtph_ps(_mm256_load_si256(s + 3));
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            __m512 a = _mm512_set1_ps(x->scale[r * x->groups + g]);
            __m512 sum = _mm512_cvtepi32_ps(_mm512_set1_epi32(x->sum[r * x->groups + g]));
            __m512 t0 = _mm512_fmadd_ps(m0, sum, _mm512_mul_ps(d0, _mm512_cvtepi32_ps(dot[r][0])));
            __m512 t1 = _mm512_fmadd_ps(m1, sum, _mm512_mul_ps(d1, _mm512_cvtepi32_ps(dot[r][1])));
            y[r][0] = _mm512_fmadd_ps(a, t0, y[r][0]);
            y[r][1] = _mm512_fmadd_ps(a, t1, y[r][1]);
        }
    }
    tile_store(y, R, acc);
}

void panel_q4_avx512(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                     float *acc)
{
    (void)t;
    panel_by_tiles(w, panel, in, row0, rows, acc);
}
