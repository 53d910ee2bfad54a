/* bf16 panels times bf16 rows (LAYOUT_BF16, FAST).
 *
 * Tile: 32 outputs x up to 8 rows, 16 accumulators, each a chain over k/2 pairs; two loads of weights and a broadcast
 * pair per row feed 16 vdpbf16ps. Bytes per output: 2 k. */
#include "kernels/avx512.h"
#include "kernels/vector.h"
#include <string.h>

#define TILE 8

/* Which lines a tile prefetches: those of the next panel, every of-th. */
struct part {
    size_t ahead;
    int tile, of;
};

static inline __m512bh two(const uint16_t *p)
{
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return (__m512bh)_mm512_set1_epi32(pair);
}

/* R rows: x[r] at r * k. acc [R][32]. */
static inline __attribute__((always_inline)) void tile(const char *w, const uint16_t *x, int k, struct part part,
                                                       const int R, float *acc)
{
    __m512 y[TILE][2];
    for (int r = 0; r < R; r++) y[r][0] = y[r][1] = _mm512_setzero_ps();
    for (int i = 0; i < k; i += 2, w += PANEL * 4) {
        __m512bh w0 = (__m512bh)_mm512_load_si512(w), w1 = (__m512bh)_mm512_load_si512(w + 64);
        if (i / 2 % part.of == part.tile) prefetch(w + part.ahead, PANEL * 4);
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

void panel_bf16_avx512(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                       float *acc)
{
    (void)t;
    const char *data = (const char *)w->data + (size_t)panel * w->panel_bytes;
    for (int r = 0; r < rows; r += TILE, acc += TILE * PANEL) {
        const uint16_t *x = in->bf16 + (size_t)(row0 + r) * (size_t)w->k;
        struct part part = {w->panel_bytes, r / TILE, (rows + TILE - 1) / TILE};
        switch (rows - r) {
        case 1:
            tile(data, x, w->k, part, 1, acc);
            break;
        case 2:
            tile(data, x, w->k, part, 2, acc);
            break;
        case 3:
            tile(data, x, w->k, part, 3, acc);
            break;
        case 4:
            tile(data, x, w->k, part, 4, acc);
            break;
        case 5:
            tile(data, x, w->k, part, 5, acc);
            break;
        case 6:
            tile(data, x, w->k, part, 6, acc);
            break;
        case 7:
            tile(data, x, w->k, part, 7, acc);
            break;
        default:
            tile(data, x, w->k, part, 8, acc);
        }
    }
}
