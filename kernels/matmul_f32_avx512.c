/* Any panel times float32 rows (EXACT).
 *
 * A panel is dequantized PART inputs at a time into a buffer of 16 KB, [PART][32] float32, which the first-level cache
 * holds while all rows of the item are multiplied with it; the sums wait in acc between parts. So every layout has the
 * same inner loop, and a weight is dequantized once per item. float32 panels are multiplied where they are. Tile: 32
 * outputs x up to 8 rows, 16 accumulators, one FMA per weight in the order of k. */
#include "kernels/avx512.h"
#include "kernels/pack.h"
#include "kernels/vector.h"
#include <string.h>

#define TILE 8
#define PART 128 /* inputs; a multiple of GROUP */

static void part_bf16(const char *pairs, int count, float *out)
{
    for (int i = 0; i < count; i += 2, pairs += PANEL * 4)
        for (int half = 0; half < 2; half++) {
            __m512i pair = _mm512_load_si512(pairs + half * 64);
            _mm512_store_ps(out + i * PANEL + half * 16, _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16)));
            _mm512_store_ps(out + (i + 1) * PANEL + half * 16,
                            _mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32((int)0xffff0000))));
        }
}

/* Inputs k0 .. k0+count of the panel as [count][32] float32: in `buffer`, or the panel itself. */
static const float *dequantize(const struct weight *w, const char *panel, int k0, int count, float *buffer)
{
    switch (w->layout) {
    case LAYOUT_F32:
        return (const float *)panel + (size_t)k0 * PANEL;
    case LAYOUT_BF16:
        part_bf16(panel + (size_t)k0 * PANEL * 2, count, buffer);
        break;
    default: {
        const struct dequant_avx512 *way = &dequant_avx512[w->layout];
        for (int i = 0; i < count; i += GROUP) {
            const char *group = panel + (size_t)((k0 + i) / GROUP) * (size_t)way->group_bytes;
            prefetch(group + w->panel_bytes, way->group_bytes);
            way->group(w, (const uint8_t *)group, buffer + i * PANEL);
        }
    }
    }
    return buffer;
}

/* acc[R][32] += part x[r][0..count), x[r] at r * k. */
static inline __attribute__((always_inline)) void tile(const float *part, const float *x, int k, int count, const int R,
                                                       float *acc)
{
    __m512 y[TILE][2];
    for (int r = 0; r < R; r++) {
        y[r][0] = _mm512_load_ps(acc + r * PANEL);
        y[r][1] = _mm512_load_ps(acc + r * PANEL + 16);
    }
    for (int i = 0; i < count; i++, part += PANEL) {
        __m512 w0 = _mm512_load_ps(part), w1 = _mm512_load_ps(part + 16);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            __m512 a = _mm512_set1_ps(x[(size_t)r * (size_t)k + i]);
            y[r][0] = _mm512_fmadd_ps(w0, a, y[r][0]);
            y[r][1] = _mm512_fmadd_ps(w1, a, y[r][1]);
        }
    }
    for (int r = 0; r < R; r++) {
        _mm512_store_ps(acc + r * PANEL, y[r][0]);
        _mm512_store_ps(acc + r * PANEL + 16, y[r][1]);
    }
}

static void add_part(const float *part, const float *x, int k, int count, int rows, float *acc)
{
    for (int r = 0; r < rows; r += TILE, acc += TILE * PANEL, x += (size_t)TILE * (size_t)k) {
        switch (rows - r) {
        case 1:
            tile(part, x, k, count, 1, acc);
            break;
        case 2:
            tile(part, x, k, count, 2, acc);
            break;
        case 3:
            tile(part, x, k, count, 3, acc);
            break;
        case 4:
            tile(part, x, k, count, 4, acc);
            break;
        case 5:
            tile(part, x, k, count, 5, acc);
            break;
        case 6:
            tile(part, x, k, count, 6, acc);
            break;
        case 7:
            tile(part, x, k, count, 7, acc);
            break;
        default:
            tile(part, x, k, count, 8, acc);
        }
    }
}

void panel_exact_avx512(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                        float *acc)
{
    const char *data = (const char *)w->data + (size_t)panel * w->panel_bytes;
    float *buffer = t->scratch;
    memset(acc, 0, sizeof *acc * (size_t)rows * PANEL);
    for (int k0 = 0; k0 < w->k; k0 += PART) {
        int count = w->k - k0 < PART ? w->k - k0 : PART;
        const float *part = dequantize(w, data, k0, count, buffer);
        add_part(part, in->x + (size_t)row0 * (size_t)w->k + k0, w->k, count, rows, acc);
    }
}
