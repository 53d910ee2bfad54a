/* The inner loops of a matrix product in plain C: what the faster tables are tested against.
 *
 * EXACT multiplies the dequantized weights in float32. FAST multiplies what the layout says: bf16 pairs, or integers in
 * groups of 32, where with activations a * qx and weights d * qw + m
 *     y = sum over groups of a * (d * sum(qw qx) + m * sum(qx)),
 * the integer sums exact and the outer one in the order of the groups. */
#include "kernels/convert.h"
#include "kernels/matmul.h"
#include "kernels/pack.h"

#define PART 512 /* inputs dequantized at a time */

static const uint8_t *group_of(const struct weight *w, int panel, int g, size_t group_bytes)
{
    return (const uint8_t *)w->data + (size_t)panel * w->panel_bytes + (size_t)g * group_bytes;
}

/* The panel's part of k0 .. k0+count, dequantized, against every row's values x (stride ld). */
static void add_part(const float *part, const float *x, int ld, int o, int count, int rows, float *acc)
{
    for (int row = 0; row < rows; row++) {
        float sum = acc[row * PANEL + o];
        for (int i = 0; i < count; i++) sum += part[i] * x[(size_t)row * (size_t)ld + (size_t)i];
        acc[row * PANEL + o] = sum;
    }
}

void panel_exact(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                 float *acc)
{
    (void)t;
    float part[PART];
    memset(acc, 0, sizeof *acc * (size_t)rows * PANEL);
    for (int k0 = 0; k0 < w->k; k0 += PART) {
        int count = w->k - k0 < PART ? w->k - k0 : PART;
        for (int o = 0; o < PANEL; o++) {
            weight_part(w, panel, o, k0, count, part);
            add_part(part, in->x + (size_t)row0 * (size_t)w->k + k0, w->k, o, count, rows, acc);
        }
    }
}

void panel_fast_bf16(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                     float *acc)
{
    (void)t;
    float part[PART];
    memset(acc, 0, sizeof *acc * (size_t)rows * PANEL);
    for (int k0 = 0; k0 < w->k; k0 += PART) {
        int count = w->k - k0 < PART ? w->k - k0 : PART;
        for (int o = 0; o < PANEL; o++) {
            weight_part(w, panel, o, k0, count, part);
            for (int row = 0; row < rows; row++) {
                const uint16_t *x = in->bf16 + (size_t)(row0 + row) * (size_t)w->k + k0;
                float sum = acc[row * PANEL + o];
                for (int i = 0; i < count; i++) sum += part[i] * f32_of_bf16(x[i]);
                acc[row * PANEL + o] = sum;
            }
        }
    }
}

/* One group of one output: integers qw, scale d and minimum m. */
struct group {
    int qw[GROUP];
    float d, m;
};

static void read_q8(const uint8_t *from, int o, struct group *g)
{
    g->d = f32_of_f16(((const uint16_t *)from)[o]);
    g->m = 0;
    for (int i = 0; i < GROUP; i++) g->qw[i] = from[PANEL * 2 + (i / 4 * PANEL + o) * 4 + i % 4] - 128;
}

static void read_q4(const uint8_t *from, int o, struct group *g)
{
    g->d = f32_of_f16(((const uint16_t *)from)[o]);
    g->m = f32_of_f16(((const uint16_t *)from)[PANEL + o]);
    for (int i = 0; i < GROUP; i++) {
        int byte = from[PANEL * 4 + (i / 8 * PANEL + o) * 4 + i % 4];
        g->qw[i] = i % 8 < 4 ? byte & 15 : byte >> 4;
    }
}

static void add_group(const struct group *g, const struct act *in, int row0, int rows, int k, int index, int o,
                      float *acc)
{
    for (int row = 0; row < rows; row++) {
        size_t r = (size_t)(row0 + row), at = r * (size_t)(k / GROUP) + (size_t)index;
        const int8_t *qx = in->q8 + r * (size_t)k + (size_t)index * GROUP;
        int dot = 0;
        for (int i = 0; i < GROUP; i++) dot += g->qw[i] * qx[i];
        acc[row * PANEL + o] += in->q8_scale[at] * (g->d * (float)dot + g->m * (float)in->q8_sum[at]);
    }
}

static void panel_groups(const struct weight *w, int panel, const struct act *in, int row0, int rows, float *acc,
                         size_t group_bytes, void (*read)(const uint8_t *from, int o, struct group *g))
{
    memset(acc, 0, sizeof *acc * (size_t)rows * PANEL);
    for (int index = 0; index < w->k / GROUP; index++)
        for (int o = 0; o < PANEL; o++) {
            struct group g;
            read(group_of(w, panel, index, group_bytes), o, &g);
            add_group(&g, in, row0, rows, w->k, index, o, acc);
        }
}

void panel_fast_q8(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                   float *acc)
{
    (void)t;
    panel_groups(w, panel, in, row0, rows, acc, Q8_GROUP_BYTES, read_q8);
}

void panel_fast_q4(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                   float *acc)
{
    (void)t;
    panel_groups(w, panel, in, row0, rows, acc, Q4_GROUP_BYTES, read_q4);
}
