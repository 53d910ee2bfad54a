/* Panels of unquantized weights: LAYOUT_F32 and LAYOUT_BF16 (weight.h draws both). bf16 pairs inputs, because the
 * processor's dot product takes pairs. */
#include "kernels/convert.h"
#include "kernels/pack.h"

bool put_f32(void *panel, int o, const struct weight_row *row, int k, struct rounding *r)
{
    (void)r;
    float *out = panel; /* [k][32] */
    for (int i = 0; i < k; i++) out[(size_t)i * PANEL + o] = row->f[i];
    return true;
}

bool put_bf16(void *panel, int o, const struct weight_row *row, int k, struct rounding *r)
{
    uint16_t *out = panel; /* [k/2][32][2] */
    uint32_t lost = 0;
    for (int i = 0; i < k; i++) {
        out[((size_t)(i / 2) * PANEL + o) * 2 + i % 2] = bf16_of_f32(row->f[i]);
        lost |= bits_of_f32(row->f[i]) & 0xffff;
    }
    r->any |= lost != 0;
    return true;
}

void unpack_f32(const struct weight *w, const void *panel, int o, int k, float *out)
{
    (void)w;
    const float *in = panel;
    for (int i = 0; i < k; i++) out[i] = in[(size_t)i * PANEL + o];
}

void unpack_bf16(const struct weight *w, const void *panel, int o, int k, float *out)
{
    (void)w;
    const uint16_t *in = panel;
    for (int i = 0; i < k; i++) out[i] = f32_of_bf16(in[((size_t)(i / 2) * PANEL + o) * 2 + i % 2]);
}
