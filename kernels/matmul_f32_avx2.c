/* Any panel times float32 rows (EXACT).
 *
 * A panel is dequantized PART inputs at a time into a buffer of 16 KB, [PART][32] float32, which the first-level cache
 * holds while all rows of the item are multiplied with it; the sums wait in acc between parts. So every layout has the
 * same inner loop (matmul_tile_avx2.h), and a weight is dequantized once per item. float32 panels are multiplied where
 * they are. */
#include "kernels/avx2.h"
#include "kernels/matmul_tile_avx2.h"
#include <string.h>

/* Inputs k0 .. k0+count of the panel, which lie at `from`, as [count][32] float32: in `buffer`, or where they are. */
static const float *dequantize(const struct weight *w, const char *from, int count, float *buffer)
{
    const struct dequant_avx2 *way = &dequant_avx2[w->layout];
    switch (w->layout) {
    case LAYOUT_F32:
        return (const float *)from;
    case LAYOUT_BF16:
        widen_panel(from, count / 2, buffer);
        return buffer;
    default:
        for (int i = 0; i < count; i += GROUP, from += way->group_bytes)
            way->group(w, (const uint8_t *)from, buffer + i * PANEL);
        return buffer;
    }
}

void panel_exact_avx2(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                      float *acc)
{
    const char *data = (const char *)w->data + (size_t)panel * w->panel_bytes;
    size_t step = w->panel_bytes / (size_t)w->k;
    memset(acc, 0, sizeof *acc * (size_t)rows * PANEL);
    for (int k0 = 0; k0 < w->k; k0 += PART, data += PART * step) {
        int count = w->k - k0 < PART ? w->k - k0 : PART;
        const float *part = dequantize(w, data, count, t->scratch);
        const struct ahead next = {data + w->panel_bytes, step};
        add_part(part, in->x + (size_t)row0 * (size_t)w->k + k0, w->k, count, next, rows, acc);
    }
}
