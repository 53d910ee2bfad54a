/* Private to kernels/: what the products of 8-bit and 4-bit panels share: the rows of a tile, and how a block of rows is cut
 * into tiles. Each file gives its own tile, which is inlined here once for every number of rows. */
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

/* R rows: x[r] at r * k. acc [R][32]. R is a constant where it is called. */
static inline __attribute__((always_inline)) void tile(const uint8_t *group, const struct rows *x, const int R,
                                                       float *acc);

static inline void tile_store(__m512 y[TILE][2], int R, float *acc)
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
