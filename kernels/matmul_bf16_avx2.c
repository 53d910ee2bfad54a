/* bf16 panels times bf16 rows (LAYOUT_BF16, FAST).
 *
 * There is no product of bf16 here, but bf16 are the upper halves of float32: a shift and a mask make two vectors of a
 * load. Products of two bf16 are exact in float32, so each sum has the plain one's bits.
 *
 *   1 or 2 rows   weights are widened in registers: that hides behind the memory
 *   more          PART inputs are widened into a buffer, then all rows of the item are multiplied with it
 *
 * The rows are widened into a buffer in both: one pass for 32 outputs. Bytes per output: 2 k. */
#include "kernels/avx2.h"
#include "kernels/matmul_tile_avx2.h"
#include <string.h>

#define FEW 2 /* rows */

struct buffers {
    float x[BLOCK_ROWS][PART];
    float w[PART][PANEL];
};

_Static_assert(sizeof(struct buffers) <= KERNEL_SCRATCH, "the buffers fit the scratch memory");

/* acc[R][32] += x[r][0..2 pairs) with pairs of inputs of the panel. */
INLINE void few(const char *w, const float *x, int pairs, size_t ahead, const int R, float *acc)
{
    __m256 y[FEW][4], a[FEW][2];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < 4; v++) y[r][v] = _mm256_load_ps(acc + r * PANEL + v * 8);
    for (int i = 0; i < pairs; i++, w += PANEL * 4, x += 2) {
        prefetch(w + ahead, PANEL * 4);
        for (int r = 0; r < R; r++)
            for (int j = 0; j < 2; j++) a[r][j] = _mm256_broadcast_ss(x + r * PART + j);
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
            __m256i bits = load_bits(w + v * 32);
            for (int r = 0; r < R; r++) {
                y[r][v] = _mm256_fmadd_ps(first_bf16(bits), a[r][0], y[r][v]);
                y[r][v] = _mm256_fmadd_ps(second_bf16(bits), a[r][1], y[r][v]);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < 4; v++) _mm256_store_ps(acc + r * PANEL + v * 8, y[r][v]);
}

static void add(const char *w, size_t ahead, int count, int rows, struct buffers *b, float *acc)
{
    switch (rows) {
    case 1:
        few(w, b->x[0], count / 2, ahead, 1, acc);
        break;
    case 2:
        few(w, b->x[0], count / 2, ahead, 2, acc);
        break;
    default:
        widen_panel(w, count / 2, b->w[0]);
        add_part(b->w[0], b->x[0], PART, count, (struct ahead){w + ahead, PANEL * 2}, rows, acc);
    }
}

void panel_bf16_avx2(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                     float *acc)
{
    const char *data = (const char *)w->data + (size_t)panel * w->panel_bytes;
    const uint16_t *x = in->bf16 + (size_t)row0 * (size_t)w->k;
    struct buffers *b = t->scratch;
    memset(acc, 0, sizeof *acc * (size_t)rows * PANEL);
    for (int k0 = 0; k0 < w->k; k0 += PART) {
        int count = w->k - k0 < PART ? w->k - k0 : PART;
        widen_rows(x + k0, w->k, count, rows, b->x[0]);
        add(data + (size_t)k0 * PANEL * 2, w->panel_bytes, count, rows, b, acc);
    }
}
