/* Private to kernels/: what the products of 8-bit, 4-bit and 2-bit panels share, for both bodies of their integer sums
 * (matmul_int8_avx2.c, matmul_int8_avxvnni.c): the rows of a tile, the scales, and how a block of rows is cut into tiles.
 *
 * A tile is up to 4 rows; per group of 32 inputs it goes over the panel's outputs 16 at a time: eight integer sums, then
 * y += a * (what the layout makes of them). y waits in acc between groups, since sixteen registers do not hold both.
 *
 * Codes are unsigned; what a layout subtracts from them (128, a zero point) is taken off the sum as that number times
 * the sum of the group's activations. Integer sums are exact, and the rest is the same operations in the same order, so
 * both bodies give the same bits. */
#pragma once
#include "kernels/avx2.h"
#include "kernels/pack.h"
#include "kernels/vector_avx2.h"
#include <string.h>

#define TILE 4  /* rows */
#define STEP 16 /* outputs */

struct rows {
    const int8_t *q;
    const float *scale;
    const int32_t *sum;
    int k, groups;
    size_t ahead;    /* bytes from a group to the one to prefetch */
    int tile, tiles; /* of the item's: each prefetches its part of the groups */
};

/* Integer sums of a row with 8 outputs each. */
typedef __m256i dots[TILE][2];

/* dot = codes x over a group: codes of 16 outputs at q, of all 32 inputs, PANEL * 4 bytes between steps of inputs;
 * activations from x->q + at on. By the body. */
typedef void dots_fn(const uint8_t *q, const struct rows *x, int at, const int R, dots dot);
INLINE void dots_bytes(const uint8_t *q, const struct rows *x, int at, const int R, dots dot);
INLINE void dots_nibbles(const uint8_t *q, const struct rows *x, int at, const int R, dots dot);
INLINE void dots_quarters(const uint8_t *q, const struct rows *x, int at, const int R, dots dot);

INLINE __m256i four(const int8_t *p)
{
    int32_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    return _mm256_set1_epi32(bytes);
}

INLINE const int8_t *row_at(const struct rows *x, int r, int i)
{
    return x->q + (size_t)r * (size_t)x->k + i;
}

/* The sum of row r's activations of group g. */
INLINE __m256i group_sum(const struct rows *x, int r, int g)
{
    return _mm256_set1_epi32(x->sum[r * x->groups + g]);
}

INLINE void add_to(float *acc, __m256 a, __m256 value)
{
    _mm256_store_ps(acc, _mm256_fmadd_ps(a, value, _mm256_load_ps(acc)));
}

/* y += a d (dot - z sum) */
INLINE void add_zero(const struct rows *x, int g, const int R, const __m256 d[2], const __m256i z[2], dots dot,
                     float *acc)
{
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        __m256 a = _mm256_set1_ps(x->scale[r * x->groups + g]);
        __m256i sum = group_sum(x, r, g);
#pragma GCC unroll 2
        for (int s = 0; s < 2; s++) {
            __m256i whole = _mm256_sub_epi32(dot[r][s], _mm256_mullo_epi32(z[s], sum));
            add_to(acc + r * PANEL + s * 8, a, _mm256_mul_ps(d[s], _mm256_cvtepi32_ps(whole)));
        }
    }
}

/* y += a d (dot - 128 sum) */
INLINE void add_bytes(const struct rows *x, int g, const int R, const __m256 d[2], dots dot, float *acc)
{
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        __m256 a = _mm256_set1_ps(x->scale[r * x->groups + g]);
        __m256i offset = _mm256_slli_epi32(group_sum(x, r, g), 7);
#pragma GCC unroll 2
        for (int s = 0; s < 2; s++)
            add_to(acc + r * PANEL + s * 8, a,
                   _mm256_mul_ps(d[s], _mm256_cvtepi32_ps(_mm256_sub_epi32(dot[r][s], offset))));
    }
}

/* y += a (d dot + m sum) */
INLINE void add_affine(const struct rows *x, int g, const int R, const __m256 d[2], const __m256 m[2], dots dot,
                       float *acc)
{
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        __m256 a = _mm256_set1_ps(x->scale[r * x->groups + g]);
        __m256 sum = _mm256_cvtepi32_ps(group_sum(x, r, g));
#pragma GCC unroll 2
        for (int s = 0; s < 2; s++)
            add_to(acc + r * PANEL + s * 8, a,
                   _mm256_fmadd_ps(m[s], sum, _mm256_mul_ps(d[s], _mm256_cvtepi32_ps(dot[r][s]))));
    }
}

/* 16 f16 or float32 from `from` on. */
INLINE void load_f16(const void *from, __m256 out[2])
{
#pragma GCC unroll 2
    for (int s = 0; s < 2; s++) out[s] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from + s));
}

INLINE void load_f32(const void *from, __m256 out[2])
{
#pragma GCC unroll 2
    for (int s = 0; s < 2; s++) out[s] = _mm256_loadu_ps((const float *)from + s * 8);
}

/* --- one group of a layout, 16 outputs from output o on --- */

typedef void group_fn(const uint8_t *group, int o, const struct rows *x, int g, const int R, float *acc);

INLINE void group_q8(const uint8_t *group, int o, const struct rows *x, int g, const int R, float *acc)
{
    dots dot;
    __m256 d[2];
    dots_bytes(group + PANEL * 2 + o * 4, x, g * GROUP, R, dot);
    load_f16(group + o * 2, d);
    add_bytes(x, g, R, d, dot, acc);
}

INLINE void group_q8f(const uint8_t *group, int o, const struct rows *x, int g, const int R, float *acc)
{
    dots dot;
    __m256 d[2];
    dots_bytes(group + PANEL * 4 + o * 4, x, g * GROUP, R, dot);
    load_f32(group + o * 4, d);
    add_bytes(x, g, R, d, dot, acc);
}

INLINE void group_q4(const uint8_t *group, int o, const struct rows *x, int g, const int R, float *acc)
{
    dots dot;
    __m256 d[2], m[2];
    dots_nibbles(group + PANEL * 4 + o * 4, x, g * GROUP, R, dot);
    load_f16(group + o * 2, d);
    load_f16(group + PANEL * 2 + o * 2, m);
    add_affine(x, g, R, d, m, dot, acc);
}

INLINE void group_q4z(const uint8_t *group, int o, const struct rows *x, int g, const int R, float *acc)
{
    dots dot;
    __m256 d[2];
    __m256i z[2];
    dots_nibbles(group + PANEL * 5 + o * 4, x, g * GROUP, R, dot);
    load_f32(group + o * 4, d);
#pragma GCC unroll 2
    for (int s = 0; s < 2; s++)
        z[s] = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(group + PANEL * 4 + o + s * 8)));
    add_zero(x, g, R, d, z, dot, acc);
}

INLINE void group_q2(const uint8_t *group, int o, const struct rows *x, int g, const int R, float *acc)
{
    dots dot;
    __m256 d[2], m[2];
    dots_quarters(group + PANEL * 4 + o * 4, x, g * GROUP, R, dot);
    load_f16(group + o * 2, d);
    load_f16(group + PANEL * 2 + o * 2, m);
    add_affine(x, g, R, d, m, dot, acc);
}

/* --- tiles --- */

/* R rows: x[r] at r * k. acc [R][32]. */
INLINE void tile(const uint8_t *group, int group_bytes, const struct rows *x, const int R, float *acc, group_fn *fn)
{
    memset(acc, 0, sizeof *acc * (size_t)R * PANEL);
    for (int g = 0, turn = x->tile; g < x->groups; g++, turn--, group += group_bytes) {
        if (turn == 0) {
            prefetch(group + x->ahead, group_bytes);
            turn = x->tiles;
        }
        for (int o = 0; o < PANEL; o += STEP) fn(group, o, x, g, R, acc + o);
    }
}

INLINE void panel_by_tiles(const struct weight *w, int panel, const struct act *in, int row0, int rows, float *acc,
                           int group_bytes, group_fn *fn)
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
            tile(group, group_bytes, &x, 1, acc, fn);
            break;
        case 2:
            tile(group, group_bytes, &x, 2, acc, fn);
            break;
        case 3:
            tile(group, group_bytes, &x, 3, acc, fn);
            break;
        default:
            tile(group, group_bytes, &x, 4, acc, fn);
        }
    }
}
