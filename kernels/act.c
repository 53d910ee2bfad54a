/* Activations: their memory and, in plain C, their rounding to bf16 and to int8 in groups of 32 (scale = largest
 * magnitude / 127, to nearest even). */
#include "kernels/act.h"
#include "kernels/convert.h"
#include <math.h>

#define LINE 64
#define ROWS_MAX (1 << 20)

static size_t take(size_t *used, size_t bytes)
{
    size_t at = *used;
    *used += (bytes + LINE - 1) / LINE * LINE;
    return at;
}

int act_init(struct act *a, int rows_max, int k_max, unsigned forms, struct err *e)
{
    if (rows_max < 1 || rows_max > ROWS_MAX || k_max < GROUP || k_max % GROUP)
        return err_set(e, ERR_USAGE,
                       "activations of %d rows of %d: rows must be 1 to %d, their length a multiple of %d", rows_max,
                       k_max, ROWS_MAX, GROUP);
    size_t values = (size_t)rows_max * (size_t)k_max, used = 0;
    size_t x = forms & ACT_NO_F32 ? 0 : take(&used, values * 4);
    size_t bf16 = forms & ACT_BF16 ? take(&used, values * 2) : 0;
    size_t q8 = forms & ACT_Q8 ? take(&used, values) : 0;
    size_t scale = forms & ACT_Q8 ? take(&used, values / GROUP * 4) : 0;
    size_t sum = forms & ACT_Q8 ? take(&used, values / GROUP * 4) : 0;
    char *block = big_alloc(used);
    if (!block) return err_set(e, ERR_NO_MEMORY, "no memory for activations of %d rows of %d", rows_max, k_max);
    *a = (struct act){.rows_max = rows_max, .k_max = k_max, .block = block, .bytes = used};
    if (!(forms & ACT_NO_F32)) a->x = (float *)(block + x);
    if (forms & ACT_BF16) a->bf16 = (uint16_t *)(block + bf16);
    if (forms & ACT_Q8) {
        a->q8 = (int8_t *)(block + q8);
        a->q8_scale = (float *)(block + scale);
        a->q8_sum = (int32_t *)(block + sum);
    }
    return 0;
}

void act_close(struct act *a)
{
    big_free(a->block, a->bytes);
    *a = (struct act){0};
}

static void round_group(const float *x, int8_t *q, float *scale, int32_t *sum)
{
    /* Bits of magnitudes order like the magnitudes, infinities and NaN above all. */
    uint32_t most = 0;
    for (int i = 0; i < GROUP; i++) {
        uint32_t bits = bits_of_f32(x[i]) & 0x7fffffff;
        if (bits > most) most = bits;
    }
    float largest = f32_of_bits(most);
    *sum = 0;
    if (largest < Q8_TINY || most >= 0x7f800000) {
        *scale = most >= 0x7f800000 ? NAN : 0; /* NaN times a sum of zero is NaN */
        memset(q, 0, GROUP);
        return;
    }
    float inverse = 127.0f / largest;
    *scale = largest / 127.0f;
    for (int i = 0; i < GROUP; i++) {
        q[i] = (int8_t)lrintf(x[i] * inverse);
        *sum += q[i];
    }
}

void act_put(struct act *out, int row, int k, int c0, int n, const float *x)
{
    size_t at = (size_t)row * (size_t)k + (size_t)c0;
    if (out->x) memmove(out->x + at, x, sizeof *x * (size_t)n);
    for (int i = 0; out->bf16 && i < n; i++) out->bf16[at + (size_t)i] = bf16_of_f32(x[i]);
    if (!out->q8 || k % GROUP) return;
    for (int c = 0; c < n; c += GROUP) {
        size_t i = at + (size_t)c;
        round_group(x + c, out->q8 + i, out->q8_scale + i / GROUP, out->q8_sum + i / GROUP);
    }
}
