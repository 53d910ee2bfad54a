/* bf16 panels times bf16 rows (LAYOUT_BF16, FAST).
 *
 * Tile: 32 outputs x up to 8 rows, 16 accumulators, each a chain over k/2 pairs; two loads of weights and a broadcast
 * pair per row feed 16 vdpbf16ps. Bytes per output: 2 k. One tile alone asks for the panel AHEAD bytes in advance; past
 * the panel's end lies the next one. Several tiles read the panel from the second-level cache, which keeps up, and ask
 * for a part of the next panel each; rows are dealt evenly to them.
 *
 * A product takes five cycles and two begin per cycle: fewer than ten accumulators leave the multipliers idle. So few rows
 * take two panels at once (pair_bf16_avx512), 4 to 24 accumulators, and share the loads of activations. Each panel asks for
 * what it needs of the panel after the other one, half of AHEAD in advance. From memory that is 1 to 2 % slower than one
 * panel after the other, from the second-level cache up to 60 % faster. */
#include "kernels/avx512.h"
#include "kernels/vector.h"
#include <string.h>

#define TILE 8
#define AHEAD 8192
#define PAIR_BYTES (PANEL * 4)

#define INLINE static inline __attribute__((always_inline))

INLINE __m512bh two(const uint16_t *p)
{
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return (__m512bh)_mm512_set1_epi32(pair);
}

/* R rows: x[r] at r * k. acc [R][32]. `next`: what to ask for, `step` bytes a pair, into the nearest cache where the
 * tile is alone. */
INLINE void tile(const char *w, const uint16_t *x, int k, const char *next, int step, const bool alone, const int R,
                 float *acc)
{
    __m512 y[TILE][2];
    for (int r = 0; r < R; r++) y[r][0] = y[r][1] = _mm512_setzero_ps();
    for (int i = 0; i < k; i += 2, w += PAIR_BYTES, next += step) {
        __m512bh w0 = (__m512bh)_mm512_load_si512(w), w1 = (__m512bh)_mm512_load_si512(w + 64);
        if (alone)
            prefetch_l1(next), prefetch_l1(next + 64);
        else
            prefetch_l2(next);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            __m512bh a = two(x + (size_t)r * (size_t)k + i);
            y[r][0] = _mm512_dpbf16_ps(y[r][0], w0, a);
            y[r][1] = _mm512_dpbf16_ps(y[r][1], w1, a);
        }
    }
    for (int r = 0; r < R; r++) {
        _mm512_store_ps(acc + r * PANEL, y[r][0]);
        _mm512_store_ps(acc + r * PANEL + 16, y[r][1]);
    }
}

INLINE void tile_rows(const char *w, const uint16_t *x, int k, const char *next, int step, const bool alone, int rows,
                      float *acc)
{
    switch (rows) {
    case 1:
        tile(w, x, k, next, step, alone, 1, acc);
        break;
    case 2:
        tile(w, x, k, next, step, alone, 2, acc);
        break;
    case 3:
        tile(w, x, k, next, step, alone, 3, acc);
        break;
    case 4:
        tile(w, x, k, next, step, alone, 4, acc);
        break;
    case 5:
        tile(w, x, k, next, step, alone, 5, acc);
        break;
    case 6:
        tile(w, x, k, next, step, alone, 6, acc);
        break;
    case 7:
        tile(w, x, k, next, step, alone, 7, acc);
        break;
    default:
        tile(w, x, k, next, step, alone, 8, acc);
    }
}

/* Two panels, `stride` bytes apart, times R rows; acc [2][R][32]. */
INLINE void pair_tile(const char *w, size_t stride, const uint16_t *x, int k, const int R, float *acc)
{
    __m512 y[2][FEW_ROWS][2];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) y[0][r][0] = y[0][r][1] = y[1][r][0] = y[1][r][1] = _mm512_setzero_ps();
    size_t ahead = AHEAD / 2;
    int turn = k - AHEAD / 2 / PAIR_BYTES * 2;
    for (int i = 0; i < k; i += 2, w += PAIR_BYTES) {
        __m512bh w0[2], w1[2];
        if (i >= turn) ahead = AHEAD / 2 + stride; /* behind this panel's end lies the other one */
#pragma GCC unroll 2
        for (int p = 0; p < 2; p++) {
            const char *at = w + stride * (size_t)p;
            w0[p] = (__m512bh)_mm512_load_si512(at), w1[p] = (__m512bh)_mm512_load_si512(at + 64);
            prefetch_l1(at + ahead), prefetch_l1(at + ahead + 64);
        }
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            __m512bh a = two(x + (size_t)r * (size_t)k + i);
#pragma GCC unroll 2
            for (int p = 0; p < 2; p++) {
                y[p][r][0] = _mm512_dpbf16_ps(y[p][r][0], w0[p], a);
                y[p][r][1] = _mm512_dpbf16_ps(y[p][r][1], w1[p], a);
            }
        }
    }
#pragma GCC unroll 2
    for (int p = 0; p < 2; p++)
#pragma GCC unroll 6
        for (int r = 0; r < R; r++, acc += PANEL) {
            _mm512_store_ps(acc, y[p][r][0]);
            _mm512_store_ps(acc + 16, y[p][r][1]);
        }
}

void pair_bf16_avx512(const struct weight *w, int panel, const struct act *in, int row0, int rows, float *acc)
{
    const char *data = (const char *)w->data + (size_t)panel * w->panel_bytes;
    const uint16_t *x = in->bf16 + (size_t)row0 * (size_t)w->k;
    switch (rows) {
    case 1:
        pair_tile(data, w->panel_bytes, x, w->k, 1, acc);
        break;
    case 2:
        pair_tile(data, w->panel_bytes, x, w->k, 2, acc);
        break;
    case 3:
        pair_tile(data, w->panel_bytes, x, w->k, 3, acc);
        break;
    case 4:
        pair_tile(data, w->panel_bytes, x, w->k, 4, acc);
        break;
    case 5:
        pair_tile(data, w->panel_bytes, x, w->k, 5, acc);
        break;
    default:
        pair_tile(data, w->panel_bytes, x, w->k, 6, acc);
    }
}

void panel_bf16_avx512(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                       float *acc)
{
    (void)t;
    const char *data = (const char *)w->data + (size_t)panel * w->panel_bytes, *next = data + w->panel_bytes;
    const uint16_t *x = in->bf16 + (size_t)row0 * (size_t)w->k;
    if (rows <= TILE) {
        tile_rows(data, x, w->k, data + AHEAD, PAIR_BYTES, true, rows, acc);
        return;
    }
    int tiles = (rows + TILE - 1) / TILE, step = PAIR_BYTES / tiles; /* at most 64: no line is left out */
    for (int n; tiles; tiles--, rows -= n, acc += n * PANEL, x += (size_t)n * (size_t)w->k) {
        n = (rows + tiles - 1) / tiles;
        tile_rows(data, x, w->k, next, step, false, n, acc);
        next += w->k / 2 * step;
    }
}
