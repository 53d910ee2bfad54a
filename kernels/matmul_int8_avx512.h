/* Private to kernels/: products of 8-bit, 4-bit and 2-bit panels with int8 rows. Each file describes its layout by
 * GROUP_BYTES, HAS_M and two functions, and gets panel_by_tiles().
 *
 * vpdpbusd multiplies unsigned by signed bytes: codes are the unsigned side. What a layout subtracts from its codes is
 * taken off with the sum of the group's activations: 8-bit sums start at -128 times it, the others add m times it, so
 * that a group adds a (d dot) or a (d dot + m sum) to y.
 *
 * Tile: 32 outputs x up to 8 rows, whose 16 float sums stay in registers. A group of 32 inputs is multiplied for at most
 * ONCE rows at a time, 8 to 12 integer sums: no spills. It is 8 products per sum, then 2 float multiplications (3 with m)
 * on the same two ports, so that 80 % (73 %) of the products' rate is the bound; conversions and additions find other
 * ports. More rows are dealt evenly to tiles of up to ONCE.
 *
 *   up to 8 rows   one tile reads the panel from end to end, AHEAD bytes of it asked for in advance
 *   9 rows or more a panel is taken in slabs of groups, which the first-level cache holds while all tiles of the item
 *                  are multiplied with one; sums wait in acc in between. Each tile asks for its part of the next slab
 *
 * Codes of less than 8 bits are unpacked in registers by every tile: that finds free ports. Unpacking a slab once for
 * all tiles was slower at 8 to 512 rows. */
#pragma once
#include "kernels/avx512.h"
#include "kernels/pack.h"
#include "kernels/vector.h"
#include <string.h>

#define TILE 8  /* rows */
#define ONCE 6  /* rows whose integer sums are made together */
#define SLAB 16 /* groups at most: 17 KB */
#define AHEAD 8192
#define AHEAD_ALONE 4096 /* of one row */
#define QUADS (GROUP / 4)

#define INLINE static inline __attribute__((always_inline))

/* Inputs 4p .. 4p+3 of a group as codes, a byte each, of outputs 0 to 15 and 16 to 31. */
INLINE void codes(const uint8_t *group, int p, __m512i w[2]);

/* The group's d and m, for the same. Where there is no m, codes are 128 too large. */
INLINE void scales(const uint8_t *group, __m512 d[2], __m512 m[2]);

struct rows {
    const int8_t *q; /* row r at r * k */
    const float *scale;
    const int32_t *sum; /* row r at r * groups */
    int k, groups;
};

/* Groups of a panel, and what to ask for: `step` bytes (a multiple of 64) a group. */
struct part {
    const uint8_t *group;
    int first, count;
    const uint8_t *next;
    int step;
};

INLINE __m512i four(const int8_t *p)
{
    int32_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    return _mm512_set1_epi32(bytes);
}

/* dot[r] = the integer sums of group g with rows r0 .. r0+R-1. */
INLINE void group_dots(const uint8_t *group, const struct rows *x, int g, const int r0, const int R, __m512i dot[][2])
{
    const int8_t *at = x->q + (size_t)r0 * (size_t)x->k + g * GROUP;
    const int32_t *sums = x->sum + r0 * x->groups + g;
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
        __m512i start = _mm512_setzero_si512();
        if (!HAS_M) start = _mm512_sub_epi32(start, _mm512_slli_epi32(_mm512_set1_epi32(sums[r * x->groups]), 7));
        dot[r][0] = dot[r][1] = start;
    }
#pragma GCC unroll 8
    for (int p = 0; p < QUADS; p++) {
        __m512i w[2];
        codes(group, p, w);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            __m512i a = four(at + (size_t)r * (size_t)x->k + p * 4);
            dot[r][0] = _mm512_dpbusd_epi32(dot[r][0], w[0], a);
            dot[r][1] = _mm512_dpbusd_epi32(dot[r][1], w[1], a);
        }
    }
}

/* y + a (d dot + m sum) */
INLINE __m512 add_scaled(__m512 y, __m512 a, __m512 d, __m512 m, __m512i dot, __m512 sum)
{
    __m512 t = _mm512_mul_ps(d, _mm512_cvtepi32_ps(dot));
    if (HAS_M) t = _mm512_fmadd_ps(m, sum, t);
    return _mm512_fmadd_ps(a, t, y);
}

/* y += group g with rows r0 .. r0+R-1. */
INLINE void add_group(const uint8_t *group, const struct rows *x, int g, const int r0, const int R, __m512 y[][2])
{
    __m512i dot[ONCE][2];
    __m512 d[2], m[2];
    group_dots(group, x, g, r0, R, dot);
    scales(group, d, m);
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
        int at = (r0 + r) * x->groups + g;
        __m512 a = _mm512_set1_ps(x->scale[at]), sum = _mm512_setzero_ps();
        if (HAS_M) sum = _mm512_cvtepi32_ps(_mm512_set1_epi32(x->sum[at]));
        for (int i = 0; i < 2; i++) y[r0 + r][i] = add_scaled(y[r0 + r][i], a, d[i], m[i], dot[r][i], sum);
    }
}

/* acc[R][32] (from: what it holds, or zero) += the part's groups with R rows. R and the flags are constants. */
INLINE void tile(const struct part *p, const struct rows *x, const int R, const bool from_zero, float *acc)
{
    const uint8_t *group = p->group, *next = p->next;
    const int first = R <= ONCE ? R : (R + 1) / 2;
    __m512 y[TILE][2];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
        for (int i = 0; i < 2; i++)
            y[r][i] = from_zero ? _mm512_setzero_ps() : _mm512_load_ps(acc + r * PANEL + 16 * i);
    for (int g = p->first; g < p->first + p->count; g++, group += GROUP_BYTES, next += p->step) {
        for (int i = 0; i < (from_zero ? GROUP_BYTES : p->step); i += 64) prefetch_l1(next + i);
        add_group(group, x, g, 0, first, y);
        if (R == first) continue;
        __asm__ volatile("" : "+r"(group)); /* load the codes again: kept, they would cost the sums their registers */
        add_group(group, x, g, first, R - first, y);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
        for (int i = 0; i < 2; i++) _mm512_store_ps(acc + r * PANEL + 16 * i, y[r][i]);
}

INLINE void tile_rows(const struct part *p, const struct rows *x, int rows, const bool from_zero, float *acc)
{
    switch (rows) {
    case 1:
        tile(p, x, 1, from_zero, acc);
        break;
    case 2:
        tile(p, x, 2, from_zero, acc);
        break;
    case 3:
        tile(p, x, 3, from_zero, acc);
        break;
    case 4:
        tile(p, x, 4, from_zero, acc);
        break;
    case 5:
        tile(p, x, 5, from_zero, acc);
        break;
    case 6:
        tile(p, x, 6, from_zero, acc);
        break;
    case 7:
        tile(p, x, 7, from_zero, acc);
        break;
    default:
        tile(p, x, 8, from_zero, acc);
    }
}

/* All rows times the part's groups. */
INLINE void part_rows(struct part p, struct rows x, int rows, float *acc)
{
    int tiles = (rows + ONCE - 1) / ONCE;
    p.step = (GROUP_BYTES / tiles + 63) / 64 * 64;
    for (int left = rows; tiles; tiles--) {
        int n = (left + tiles - 1) / tiles;
        tile_rows(&p, &x, n, false, acc);
        p.next += p.count * p.step;
        acc += n * PANEL, left -= n;
        x.q += (size_t)n * (size_t)x.k, x.scale += n * x.groups, x.sum += n * x.groups;
    }
}

static inline void panel_by_tiles(const struct weight *w, int panel, const struct act *in, int row0, int rows,
                                  float *acc)
{
    int groups = w->k / GROUP, slabs = (groups + SLAB - 1) / SLAB, each = (groups + slabs - 1) / slabs;
    const uint8_t *data = (const uint8_t *)w->data + (size_t)panel * w->panel_bytes;
    struct rows x = {in->q8 + (size_t)row0 * (size_t)w->k, in->q8_scale + (size_t)row0 * (size_t)groups,
                     in->q8_sum + (size_t)row0 * (size_t)groups, w->k, groups};
    if (rows <= TILE) {
        struct part all = {data, 0, groups, data + (rows > 1 ? AHEAD : AHEAD_ALONE), GROUP_BYTES};
        tile_rows(&all, &x, rows, true, acc);
        return;
    }
    memset(acc, 0, sizeof *acc * (size_t)rows * PANEL);
    for (int g = 0; g < groups; g += each, data += each * GROUP_BYTES) {
        int count = groups - g < each ? groups - g : each;
        struct part p = {data, g, count, data + count * GROUP_BYTES, 0};
        part_rows(p, x, rows, acc);
    }
}
