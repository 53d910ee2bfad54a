/* Panels of unquantized weights: LAYOUT_F32 and LAYOUT_BF16 (weight.h draws both). bf16 pairs inputs, because the
 * processor's dot product takes pairs. */
#include "kernels/convert.h"
#include "kernels/pack.h"

float tensor_element(enum tensor_type type, const void *src, size_t i)
{
    if (type == T_F16) return f32_of_f16(((const uint16_t *)src)[i]);
    if (type == T_BF16) return f32_of_bf16(((const uint16_t *)src)[i]);
    float f; /* files do not promise alignment */
    memcpy(&f, (const char *)src + i * sizeof f, sizeof f);
    return f;
}

int pack_panel_f32(void *panel, enum tensor_type type, const char *const *row, int count, int k)
{
    float *out = panel; /* [k][32] */
    for (int o = 0; o < count; o++)
        for (int i = 0; i < k; i++) out[(size_t)i * PANEL + o] = tensor_element(type, row[o], (size_t)i);
    return 0;
}

int pack_panel_bf16(void *panel, enum tensor_type type, const char *const *row, int count, int k)
{
    uint16_t *out = panel; /* [k/2][32][2] */
    for (int o = 0; o < count; o++)
        for (int i = 0; i < k; i++)
            out[((size_t)(i / 2) * PANEL + o) * 2 + i % 2] = bf16_of_f32(tensor_element(type, row[o], (size_t)i));
    return 0;
}

void unpack_row_f32(const void *panel, int o, int k, float *out)
{
    const float *in = panel;
    for (int i = 0; i < k; i++) out[i] = in[(size_t)i * PANEL + o];
}

void unpack_row_bf16(const void *panel, int o, int k, float *out)
{
    const uint16_t *in = panel;
    for (int i = 0; i < k; i++) out[i] = f32_of_bf16(in[((size_t)(i / 2) * PANEL + o) * 2 + i % 2]);
}
