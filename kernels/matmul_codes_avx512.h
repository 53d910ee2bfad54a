/* Private to kernels/: products of panels whose codes stand for bf16 values, with bf16 rows (LAYOUT_T4, LAYOUT_F8).
 *
 * Each file gives decode(): a load of codes becomes the bf16 pairs that vdpbf16ps takes. Per group of 32 inputs each row
 * has a sum of its own in the order of k, which starts at zero; then y += (d * factor) * sum. Two ways to the same bits:
 *
 *   up to 8 rows    tiles of 4: codes are decoded into registers, 16 outputs at a time, and multiplied at once: decoding
 *                   finds free ports
 *   9 rows or more  the group is decoded into a buffer of 2 KB, then all rows of the item are multiplied with it, 8 at a
 *                   time; their y wait in acc, which the first-level cache holds
 *
 * A tile of 8 rows that decodes for itself would keep 32 sums and spill. */
#pragma once
#include "kernels/avx512.h"
#include "kernels/pack.h"
#include "kernels/vector.h"
#include <string.h>

#define FEW 4   /* rows of a tile that decodes for itself */
#define TILES 2 /* of them, at most */
#define AHEAD 2048
#define TILE 8 /* rows */
#define EIGHTS (GROUP / 8)

#define INLINE static inline __attribute__((always_inline))

/* Inputs 8p .. 8p+7 of outputs 16 half .. 16 half + 15 of a group as four vectors of pairs; `table` is the layout's own.
 */
INLINE void decode(__m512i table, const uint8_t *codes, int p, int half, __m512i pair[4]);

struct codes_rows {
    const uint16_t *x; /* row r at r * k */
    int k, groups;
    size_t ahead; /* bytes from a group to the one to prefetch */
    __m512 factor;
    __m512i table;
};

INLINE __m512bh two(const uint16_t *p)
{
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return (__m512bh)_mm512_set1_epi32(pair);
}

INLINE __m512 scale_of(const uint8_t *group, const struct codes_rows *x, int half)
{
    return _mm512_mul_ps(_mm512_load_ps(group + half * 64), x->factor);
}

/* acc[R][32] += the sums of a group. */
INLINE void add_group(const __m512 scale[2], __m512 dot[][2], const int R, float *acc)
{
    for (int r = 0; r < R; r++, acc += PANEL) {
        _mm512_store_ps(acc, _mm512_fmadd_ps(scale[0], dot[r][0], _mm512_load_ps(acc)));
        _mm512_store_ps(acc + 16, _mm512_fmadd_ps(scale[1], dot[r][1], _mm512_load_ps(acc + 16)));
    }
}

/* --- few rows --- */

/* y += one group. The loop over p stays one: unrolled, gcc decodes all of it first and spills. */
INLINE void few_group(const uint8_t *group, const struct codes_rows *x, const uint16_t *at, const int R,
                      __m512 y[FEW][2])
{
    __m512 dot[FEW][2];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) dot[r][0] = dot[r][1] = _mm512_setzero_ps();
#pragma GCC unroll 1
    for (int p = 0; p < EIGHTS; p++, at += 8) {
        __m512i pair[2][4];
        decode(x->table, group + PANEL * 4, p, 0, pair[0]);
        decode(x->table, group + PANEL * 4, p, 1, pair[1]);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                __m512bh a = two(at + (size_t)r * (size_t)x->k + j * 2);
                dot[r][0] = _mm512_dpbf16_ps(dot[r][0], (__m512bh)pair[0][j], a);
                dot[r][1] = _mm512_dpbf16_ps(dot[r][1], (__m512bh)pair[1][j], a);
            }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
        for (int i = 0; i < 2; i++) y[r][i] = _mm512_fmadd_ps(scale_of(group, x, i), dot[r][i], y[r][i]);
}

INLINE void few_rows(const uint8_t *group, const struct codes_rows *x, const int R, float *acc)
{
    __m512 y[FEW][2];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) y[r][0] = y[r][1] = _mm512_setzero_ps();
    for (int g = 0; g < x->groups; g++, group += GROUP_BYTES) {
        for (int i = 0; i < GROUP_BYTES; i += 64) prefetch_l1(group + AHEAD + i);
        few_group(group, x, x->x + g * GROUP, R, y);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
        for (int i = 0; i < 2; i++) _mm512_store_ps(acc + r * PANEL + 16 * i, y[r][i]);
}

INLINE void few_by_tiles(const uint8_t *group, struct codes_rows x, int rows, float *acc)
{
    for (; rows > 0; rows -= FEW, x.x += FEW * (size_t)x.k, acc += FEW * PANEL) switch (rows) {
        case 1:
            few_rows(group, &x, 1, acc);
            break;
        case 2:
            few_rows(group, &x, 2, acc);
            break;
        case 3:
            few_rows(group, &x, 3, acc);
            break;
        default:
            few_rows(group, &x, 4, acc);
        }
}

/* --- many rows --- */

struct decoded {
    _Alignas(64) uint32_t pair[GROUP / 2][PANEL];
    __m512 scale[2];
};

INLINE void decode_group(const uint8_t *group, const struct codes_rows *x, struct decoded *out)
{
#pragma GCC unroll 1
    for (int p = 0; p < EIGHTS; p++)
        for (int half = 0; half < 2; half++) {
            __m512i pair[4];
            decode(x->table, group + PANEL * 4, p, half, pair);
            for (int j = 0; j < 4; j++) _mm512_store_si512(&out->pair[p * 4 + j][half * 16], pair[j]);
        }
    out->scale[0] = scale_of(group, x, 0), out->scale[1] = scale_of(group, x, 1);
}

/* acc[R][32] += a decoded group with R rows. */
INLINE void tile(const struct decoded *group, const uint16_t *x, int k, const int R, float *acc)
{
    __m512 dot[TILE][2];
    for (int r = 0; r < R; r++) dot[r][0] = dot[r][1] = _mm512_setzero_ps();
    for (int i = 0; i < GROUP / 2; i++) {
        __m512bh w0 = (__m512bh)_mm512_load_si512(group->pair[i]),
                 w1 = (__m512bh)_mm512_load_si512(group->pair[i] + 16);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            __m512bh a = two(x + (size_t)r * (size_t)k + i * 2);
            dot[r][0] = _mm512_dpbf16_ps(dot[r][0], w0, a);
            dot[r][1] = _mm512_dpbf16_ps(dot[r][1], w1, a);
        }
    }
    add_group(group->scale, dot, R, acc);
}

static void group_rows(const struct decoded *group, const uint16_t *x, int k, int rows, float *acc)
{
    int r = 0;
    for (; r + TILE <= rows; r += TILE, acc += TILE * PANEL, x += (size_t)TILE * (size_t)k)
        tile(group, x, k, TILE, acc);
    if (r + 4 <= rows) {
        tile(group, x, k, 4, acc);
        r += 4, acc += 4 * PANEL, x += 4 * (size_t)k;
    }
    for (; r < rows; r++, acc += PANEL, x += k) tile(group, x, k, 1, acc);
}

static void many_rows(const uint8_t *group, const struct codes_rows *x, int rows, float *acc)
{
    memset(acc, 0, sizeof *acc * (size_t)rows * PANEL);
    for (int g = 0; g < x->groups; g++, group += GROUP_BYTES) {
        struct decoded decoded;
        prefetch(group + x->ahead, GROUP_BYTES);
        decode_group(group, x, &decoded);
        group_rows(&decoded, x->x + g * GROUP, x->k, rows, acc);
    }
}

static inline void panel_of_codes(const struct weight *w, int panel, __m512i table, float factor, const struct act *in,
                                  int row0, int rows, float *acc)
{
    const uint8_t *group = (const uint8_t *)w->data + (size_t)panel * w->panel_bytes;
    struct codes_rows x = {
        in->bf16 + (size_t)row0 * (size_t)w->k, w->k, w->k / GROUP, w->panel_bytes, _mm512_set1_ps(factor), table};
    if (rows <= FEW * TILES)
        few_by_tiles(group, x, rows, acc);
    else
        many_rows(group, &x, rows, acc);
}
