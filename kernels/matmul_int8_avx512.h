/* Private to kernels/: what the products of 8-bit, 4-bit and 2-bit panels share: the rows of a tile, integer sums over a
 * group of 32 inputs, and how a block of rows is cut into tiles. Each file gives its own tile, which is inlined here once
 * for every number of rows.
 *
 * vpdpbusd multiplies unsigned by signed bytes: codes are the unsigned side, and what a layout subtracts from them (128,
 * a zero point) is taken off the sum as that number times the sum of the group's activations. */
#pragma once
#include "kernels/avx512.h"
#include "kernels/pack.h"
#include "kernels/vector.h"
#include <string.h>

#define TILE 4 /* rows */

struct rows {
    const int8_t *q;
    const float *scale;
    const int32_t *sum;
    int k, groups;
    size_t ahead;    /* bytes from a group to the one to prefetch */
    int tile, tiles; /* of the item's: each prefetches its part of the groups */
};

static inline __m512i four(const int8_t *p)
{
    int32_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    return _mm512_set1_epi32(bytes);
}

typedef __m512i dots[TILE][2]; /* integer sums of a row with 16 outputs each */
typedef __m512 sums[TILE][2];

#define INLINE static inline __attribute__((always_inline))

INLINE void dots_zero(dots dot, const int R)
{
    for (int r = 0; r < R; r++) dot[r][0] = dot[r][1] = _mm512_setzero_si512();
}

/* dot += codes x: 8 inputs in the halves of b0's (outputs 0 to 15) and b1's bytes; inputs i of the group on. */
INLINE void dots_nibbles(const uint8_t *q, const struct rows *x, int i, const int R, dots dot)
{
    const __m512i low = _mm512_set1_epi8(15);
    __m512i b0 = _mm512_loadu_si512(q), b1 = _mm512_loadu_si512(q + 64);
    __m512i w00 = _mm512_and_si512(b0, low), w01 = _mm512_and_si512(b1, low);
    __m512i w10 = _mm512_and_si512(_mm512_srli_epi16(b0, 4), low),
            w11 = _mm512_and_si512(_mm512_srli_epi16(b1, 4), low);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        const int8_t *at = x->q + (size_t)r * (size_t)x->k + i;
        __m512i a0 = four(at), a1 = four(at + 4);
        dot[r][0] = _mm512_dpbusd_epi32(dot[r][0], w00, a0);
        dot[r][1] = _mm512_dpbusd_epi32(dot[r][1], w01, a0);
        dot[r][0] = _mm512_dpbusd_epi32(dot[r][0], w10, a1);
        dot[r][1] = _mm512_dpbusd_epi32(dot[r][1], w11, a1);
    }
}

/* dot += codes x: 4 inputs, one a byte. */
INLINE void dots_bytes(const uint8_t *q, const struct rows *x, int i, const int R, dots dot)
{
    __m512i w0 = _mm512_loadu_si512(q), w1 = _mm512_loadu_si512(q + 64);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        __m512i a = four(x->q + (size_t)r * (size_t)x->k + i);
        dot[r][0] = _mm512_dpbusd_epi32(dot[r][0], w0, a);
        dot[r][1] = _mm512_dpbusd_epi32(dot[r][1], w1, a);
    }
}

/* The sum of row r's activations of group g. */
INLINE __m512i group_sum(const struct rows *x, int r, int g)
{
    return _mm512_set1_epi32(x->sum[r * x->groups + g]);
}

/* y += a (d dot) */
INLINE void add_scaled(const struct rows *x, int g, const int R, __m512 d0, __m512 d1, dots dot, sums y)
{
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        __m512 a = _mm512_set1_ps(x->scale[r * x->groups + g]);
        y[r][0] = _mm512_fmadd_ps(a, _mm512_mul_ps(d0, _mm512_cvtepi32_ps(dot[r][0])), y[r][0]);
        y[r][1] = _mm512_fmadd_ps(a, _mm512_mul_ps(d1, _mm512_cvtepi32_ps(dot[r][1])), y[r][1]);
    }
}

/* y += a (d dot + m sum), d and m being the group's first 64 f16. */
INLINE void add_affine(const uint8_t *group, const struct rows *x, int g, const int R, dots dot, sums y)
{
    const __m256i *s = (const __m256i *)group;
    __m512 d0 = _mm512_cvtph_ps(_mm256_load_si256(s)), d1 = _mm512_cvtph_ps(_mm256_load_si256(s + 1));
    __m512 m0 = _mm512_cvtph_ps(_mm256_load_si256(s + 2)), m1 = _mm512_cvtph_ps(_mm256_load_si256(s + 3));
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        __m512 a = _mm512_set1_ps(x->scale[r * x->groups + g]);
        __m512 sum = _mm512_cvtepi32_ps(group_sum(x, r, g));
        __m512 t0 = _mm512_fmadd_ps(m0, sum, _mm512_mul_ps(d0, _mm512_cvtepi32_ps(dot[r][0])));
        __m512 t1 = _mm512_fmadd_ps(m1, sum, _mm512_mul_ps(d1, _mm512_cvtepi32_ps(dot[r][1])));
        y[r][0] = _mm512_fmadd_ps(a, t0, y[r][0]);
        y[r][1] = _mm512_fmadd_ps(a, t1, y[r][1]);
    }
}

/* R rows: x[r] at r * k. acc [R][32]. R is a constant where it is called. */
INLINE void tile(const uint8_t *group, const struct rows *x, const int R, float *acc);

static inline void tile_store(sums y, int R, float *acc)
{
    for (int r = 0; r < R; r++) {
        _mm512_store_ps(acc + r * PANEL, y[r][0]);
        _mm512_store_ps(acc + r * PANEL + 16, y[r][1]);
    }
}

static inline void panel_by_tiles(const struct weight *w, int panel, const struct act *in, int row0, int rows,
                                  float *acc)
{
    const uint8_t *group = (const uint8_t *)w->data + (size_t)panel * w->panel_bytes;
    for (int r = 0; r < rows; r += TILE, acc += TILE * PANEL) {
        size_t row = (size_t)(row0 + r), groups = (size_t)w->k / GROUP;
        struct rows x = {in->q8 + row * (size_t)w->k,
                         in->q8_scale + row * groups,
                         in->q8_sum + row * groups,
                         w->k,
                         (int)groups,
                         w->panel_bytes,
                         r / TILE,
                         (rows + TILE - 1) / TILE};
        switch (rows - r) {
        case 1:
            tile(group, &x, 1, acc);
            break;
        case 2:
            tile(group, &x, 2, acc);
            break;
        case 3:
            tile(group, &x, 3, acc);
            break;
        default:
            tile(group, &x, 4, acc);
        }
    }
}
