/* model_rope: angles of rotary positions, and the row order that goes with them.
 *
 * Idea: transformers rotates the two halves of a head, (i, i + d/2); ggml's llama graph rotates neighbours, (2i, 2i +
 * 1), and its converter therefore shuffles the rows of q and k. We keep transformers' order: the shuffle is undone once
 * at load, adapters fit as they are, and the table below serves both.
 *
 * The rounding follows transformers, since answers are compared with it: frequency, and frequency times position, are
 * rounded to float32 before the cosine is taken. Computing the angle in double would be "better" and differ in the
 * fourth digit at position 8,000.
 *
 * Source: Su et al. 2021; transformers' modeling_rope_utils; llama.cpp's converter for the order. Called at load only.
 */
#include "engine/model_family.h"
#include <math.h>
#include <stdlib.h>

static float frequency(const struct rope_spec *r, const float *divisor, int i, int head_dim)
{
    float power = (float)(2 * i) / (float)head_dim;
    float f = 1.0f / (float)pow(r->base, (double)power);
    if (divisor) f = f / divisor[i];
    return r->factor == 1 ? f : f / (float)r->factor;
}

float *rope_table(const struct rope_spec *r, const float *divisor, int max_context, int head_dim)
{
    int half = head_dim / 2;
    float *table = malloc((size_t)max_context * (size_t)half * 2 * sizeof *table);
    if (!table) return NULL;
    for (int i = 0; i < half; i++) {
        float f = frequency(r, divisor, i, head_dim);
        for (int pos = 0; pos < max_context; pos++) {
            float angle = (float)pos * f;
            float *at = table + ((size_t)pos * (size_t)half + (size_t)i) * 2;
            at[0] = (float)cos((double)angle);
            at[1] = (float)sin((double)angle);
        }
    }
    return table;
}

void qk_row_order(int heads, int head_dim, int *row_of)
{
    int half = head_dim / 2;
    for (int h = 0; h < heads; h++)
        for (int j = 0; j < 2; j++)
            for (int i = 0; i < half; i++) row_of[h * head_dim + j * half + i] = h * head_dim + 2 * i + j;
}
