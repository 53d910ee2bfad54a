/* Panels of quantized weights: LAYOUT_Q8 from Q8_0, LAYOUT_Q4 from Q4_0 and Q4_1 (weight.h draws both).
 *
 * The sources are ggml's blocks of 32 inputs of one output: Q8_0 { f16 d; int8 q[32] }, Q4_0 { f16 d; 16 bytes }, Q4_1
 * { f16 d; f16 m; 16 bytes }, where byte i of a 4-bit block holds input i in its low half and input 16 + i in its high
 * half. Scales stay f16: nothing is rounded. Q4_0 means d * (q - 8); as d * q + m with m = -8 d all three values are
 * exact. */
#include "kernels/convert.h"
#include "kernels/pack.h"
#include <stdbool.h>

#define Q8_0_BYTES 34
#define Q4_0_BYTES 18
#define Q4_1_BYTES 20

static uint16_t read_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static bool f16_finite(uint16_t h)
{
    return (h & 0x7c00) != 0x7c00;
}

int pack_panel_q8(void *panel, enum tensor_type type, const char *const *row, int count, int k)
{
    (void)type;
    for (int g = 0; g < k / GROUP; g++) {
        uint8_t *group = (uint8_t *)panel + (size_t)g * Q8_GROUP_BYTES;
        uint16_t *d = (uint16_t *)group;
        uint8_t *q = group + PANEL * 2; /* [8][32][4] */
        for (int o = 0; o < count; o++) {
            const uint8_t *block = (const uint8_t *)row[o] + (size_t)g * Q8_0_BYTES;
            d[o] = read_u16(block);
            if (!f16_finite(d[o])) return -1;
            for (int i = 0; i < GROUP; i++) q[(i / 4 * PANEL + o) * 4 + i % 4] = block[2 + i] ^ 0x80;
        }
    }
    return 0;
}

static int pack_group_q4(uint8_t *group, enum tensor_type type, const uint8_t *block, int o)
{
    uint16_t *d = (uint16_t *)group, *m = d + PANEL;
    uint8_t *q = group + PANEL * 4; /* [4][32][4] */
    d[o] = read_u16(block);
    m[o] = type == T_Q4_1 ? read_u16(block + 2) : f16_times_minus_8(d[o]);
    const uint8_t *nibbles = block + (type == T_Q4_1 ? 4 : 2);
    for (int i = 0; i < GROUP; i++) {
        int value = i < 16 ? nibbles[i] & 15 : nibbles[i - 16] >> 4;
        q[(i / 8 * PANEL + o) * 4 + i % 4] |= (uint8_t)(i % 8 < 4 ? value : value << 4);
    }
    return f16_finite(d[o]) && f16_finite(m[o]) ? 0 : -1;
}

int pack_panel_q4(void *panel, enum tensor_type type, const char *const *row, int count, int k)
{
    size_t block_bytes = type == T_Q4_1 ? Q4_1_BYTES : Q4_0_BYTES;
    for (int g = 0; g < k / GROUP; g++)
        for (int o = 0; o < count; o++)
            if (pack_group_q4((uint8_t *)panel + (size_t)g * Q4_GROUP_BYTES, type,
                              (const uint8_t *)row[o] + (size_t)g * block_bytes, o))
                return -1;
    return 0;
}

void unpack_row_q8(const void *panel, int o, int k, float *out)
{
    for (int g = 0; g < k / GROUP; g++) {
        const uint8_t *group = (const uint8_t *)panel + (size_t)g * Q8_GROUP_BYTES;
        float d = f32_of_f16(((const uint16_t *)group)[o]);
        const uint8_t *q = group + PANEL * 2;
        for (int i = 0; i < GROUP; i++) out[g * GROUP + i] = d * (float)(q[(i / 4 * PANEL + o) * 4 + i % 4] - 128);
    }
}

void unpack_row_q4(const void *panel, int o, int k, float *out)
{
    for (int g = 0; g < k / GROUP; g++) {
        const uint8_t *group = (const uint8_t *)panel + (size_t)g * Q4_GROUP_BYTES;
        float d = f32_of_f16(((const uint16_t *)group)[o]), m = f32_of_f16(((const uint16_t *)group)[PANEL + o]);
        const uint8_t *q = group + PANEL * 4;
        for (int i = 0; i < GROUP; i++) {
            int byte = q[(i / 8 * PANEL + o) * 4 + i % 4];
            out[g * GROUP + i] = d * (float)(i % 8 < 4 ? byte & 15 : byte >> 4) + m;
        }
    }
}
