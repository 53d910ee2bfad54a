/* The inner loops of a matrix product in plain C: what the faster tables are tested against.
 *
 * EXACT multiplies the dequantized weights in float32. FAST multiplies what the layout says: bf16 pairs, or integers in
 * groups of 32, where with activations a * qx and weights d * qw + m
 *     y = sum over groups of a * (d * sum(qw qx) + m * sum(qx)),
 * the integer sums exact and the outer one in the order of the groups; or codes of bf16 values v in groups of 32, where
 * with bf16 activations x
 *     y = sum over groups of d * factor * sum(v x). */
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

/* Reads output o of a group. */
typedef void read_fn(const uint8_t *from, int o, struct group *g);

static void read_bytes(const uint8_t *from, int o, int *qw)
{
    for (int i = 0; i < GROUP; i++) qw[i] = from[(i / 4 * PANEL + o) * 4 + i % 4] - 128;
}

static void read_nibbles(const uint8_t *from, int o, int *qw)
{
    for (int i = 0; i < GROUP; i++) {
        int byte = from[(i / 8 * PANEL + o) * 4 + i % 4];
        qw[i] = i % 8 < 4 ? byte & 15 : byte >> 4;
    }
}

static void read_q8(const uint8_t *from, int o, struct group *g)
{
    g->d = f32_of_f16(((const uint16_t *)from)[o]);
    g->m = 0;
    read_bytes(from + PANEL * 2, o, g->qw);
}

static void read_q8f(const uint8_t *from, int o, struct group *g)
{
    g->d = ((const float *)from)[o];
    g->m = 0;
    read_bytes(from + PANEL * 4, o, g->qw);
}

static void read_q4(const uint8_t *from, int o, struct group *g)
{
    g->d = f32_of_f16(((const uint16_t *)from)[o]);
    g->m = f32_of_f16(((const uint16_t *)from)[PANEL + o]);
    read_nibbles(from + PANEL * 4, o, g->qw);
}

static void read_q4z(const uint8_t *from, int o, struct group *g)
{
    g->d = ((const float *)from)[o];
    g->m = 0;
    read_nibbles(from + PANEL * 5, o, g->qw);
    for (int i = 0; i < GROUP; i++) g->qw[i] -= (int8_t)from[PANEL * 4 + o];
}

static void read_q2(const uint8_t *from, int o, struct group *g)
{
    g->d = f32_of_f16(((const uint16_t *)from)[o]);
    g->m = f32_of_f16(((const uint16_t *)from)[PANEL + o]);
    for (int i = 0; i < GROUP; i++)
        g->qw[i] = from[PANEL * 4 + (i / 16 * PANEL + o) * 4 + i % 4] >> (i % 16 / 4 * 2) & 3;
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
                         size_t group_bytes, read_fn *read)
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

void panel_fast_q8f(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                    float *acc)
{
    (void)t;
    panel_groups(w, panel, in, row0, rows, acc, Q8F_GROUP_BYTES, read_q8f);
}

void panel_fast_q4(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                   float *acc)
{
    (void)t;
    panel_groups(w, panel, in, row0, rows, acc, Q4_GROUP_BYTES, read_q4);
}

void panel_fast_q4z(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                    float *acc)
{
    (void)t;
    panel_groups(w, panel, in, row0, rows, acc, Q4Z_GROUP_BYTES, read_q4z);
}

void panel_fast_q2(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                   float *acc)
{
    (void)t;
    panel_groups(w, panel, in, row0, rows, acc, Q2_GROUP_BYTES, read_q2);
}

/* --- codes of bf16 values --- */

/* One group of one output: values v and the factor that they share. */
struct values {
    float v[GROUP], d;
};

static void read_t4(const struct weight *w, const uint8_t *from, int o, struct values *g)
{
    const uint16_t *words = (const uint16_t *)(from + PANEL * 4);
    g->d = ((const float *)from)[o] * w->factor;
    for (int i = 0; i < GROUP; i++) {
        int code = words[(i / 8 * PANEL + o) * 2 + i % 2] >> (i % 8 / 2 * 4) & 15;
        g->v[i] = f32_of_bf16(w->coarse[code]);
    }
}

static void read_f8(const struct weight *w, const uint8_t *from, int o, struct values *g)
{
    (void)w;
    g->d = ((const float *)from)[o];
    for (int i = 0; i < GROUP; i++) g->v[i] = f32_of_e4m3(from[PANEL * 4 + (i / 4 * PANEL + o) * 4 + i % 2 * 2 + i % 4 / 2]);
}

static void add_values(const struct values *g, const struct act *in, int row0, int rows, int k, int index, int o,
                       float *acc)
{
    for (int row = 0; row < rows; row++) {
        const uint16_t *x = in->bf16 + (size_t)(row0 + row) * (size_t)k + (size_t)index * GROUP;
        float dot = 0;
        for (int i = 0; i < GROUP; i++) dot += g->v[i] * f32_of_bf16(x[i]);
        acc[row * PANEL + o] += g->d * dot;
    }
}

static void panel_values(const struct weight *w, int panel, const struct act *in, int row0, int rows, float *acc,
                         size_t group_bytes,
                         void (*read)(const struct weight *w, const uint8_t *from, int o, struct values *g))
{
    memset(acc, 0, sizeof *acc * (size_t)rows * PANEL);
    for (int index = 0; index < w->k / GROUP; index++)
        for (int o = 0; o < PANEL; o++) {
            struct values g;
            read(w, group_of(w, panel, index, group_bytes), o, &g);
            add_values(&g, in, row0, rows, w->k, index, o, acc);
        }
}

void panel_fast_t4(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                   float *acc)
{
    (void)t;
    panel_values(w, panel, in, row0, rows, acc, T4_GROUP_BYTES, read_t4);
}

void panel_fast_f8(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                   float *acc)
{
    (void)t;
    panel_values(w, panel, in, row0, rows, acc, F8_GROUP_BYTES, read_f8);
}
