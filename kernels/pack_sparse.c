/* Panels of which two of each four inputs are stored: LAYOUT_S24 (weight.h draws it). A row that has more keeps the two of the larger
 * magnitude, of equals the first; one that was pruned so loses nothing but what bf16 rounds.
 *
 * A mask names the two inputs of eight outputs: one instruction spreads the values of eight outputs to where they are multiplied. */
#include "kernels/convert.h"
#include "kernels/pack.h"
#include <math.h>
#include <string.h>

/* Of values f[4]: bits of the two that are stored. */
static uint32_t two_of(const float *f, bool *lost)
{
    uint32_t mask = 0;
    for (int i = 0; i < 4; i++) {
        int before = 0;
        for (int j = 0; j < 4; j++) before += fabsf(f[j]) > fabsf(f[i]) || (fabsf(f[j]) == fabsf(f[i]) && j < i);
        if (before < 2)
            mask |= 1u << i;
        else
            *lost |= f[i] != 0;
    }
    return mask;
}

bool put_s24(void *panel, int o, const struct weight_row *row, int k, struct rounding *r)
{
    for (int i = 0; i < k; i += 4) {
        char *group = (char *)panel + (size_t)(i / S24_UNIT) * S24_UNIT_BYTES;
        int in = i % S24_UNIT / 4, taken = 0;
        uint32_t *word = (uint32_t *)(void *)group + in * 4 + o / 8;
        uint16_t *value = (uint16_t *)(void *)(group + S24_MASKS) + in * PANEL * 2 + o * 2;
        uint32_t mask = two_of(row->f + i, &r->any);
        *word |= mask << o % 8 * 4;
        for (int x = 0; x < 4; x++)
            if (mask >> x & 1) {
                r->any |= (bits_of_f32(row->f[i + x]) & 0xffff) != 0;
                value[taken++] = bf16_of_f32(row->f[i + x]);
            }
    }
    return true;
}

void unpack_s24(const struct weight *w, const void *panel, int o, int k, float *out)
{
    (void)w;
    for (int i = 0; i < k; i += 4) {
        const char *group = (const char *)panel + (size_t)(i / S24_UNIT) * S24_UNIT_BYTES;
        int in = i % S24_UNIT / 4, taken = 0;
        uint32_t mask = ((const uint32_t *)(const void *)group)[in * 4 + o / 8] >> o % 8 * 4 & 15;
        const uint16_t *value = (const uint16_t *)(const void *)(group + S24_MASKS) + in * PANEL * 2 + o * 2;
        for (int x = 0; x < 4; x++) {
            out[i + x] = 0;
            if (mask >> x & 1 && taken < 2) out[i + x] = f32_of_bf16(value[taken++]);
        }
    }
}

void group_s24(const struct weight *w, const uint8_t *group, float *out)
{
    float row[GROUP];
    for (int o = 0; o < PANEL; o++) {
        unpack_s24(w, group, o, GROUP, row);
        for (int i = 0; i < GROUP; i++) out[i * PANEL + o] = row[i];
    }
}
