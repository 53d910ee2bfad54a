/* Panels of quantized weights (weight.h draws them): codes go where the products' loads expect them, scales and minima
 * before them, per group of 32 inputs.
 *
 * A scale that the layout keeps as f16 must be exactly one, unless rounding is allowed; then the errors are noted, and
 * pack.c judges them against the matrix's largest scale. Infinity is never what a finite scale is rounded to. */
#include "kernels/convert.h"
#include "kernels/pack.h"
#include <math.h>

/* Where input i of output o has its code behind the scales, for 8, 4 and 2 bits. */
static inline int at8(int o, int i)
{
    return (i / 4 * PANEL + o) * 4 + i % 4;
}

static inline int at4(int o, int i)
{
    return (i / 8 * PANEL + o) * 4 + i % 4;
}

static inline int shift4(int i)
{
    return i % 8 < 4 ? 0 : 4;
}

static inline int at2(int o, int i)
{
    return (i / 16 * PANEL + o) * 4 + i % 4;
}

static inline int shift2(int i)
{
    return i % 16 / 4 * 2;
}

/* LAYOUT_F8: as at8(), but bytes of inputs 0, 2, 1, 3, so that a word's low bytes are a pair, and its high ones too. */
static inline int at_f8(int o, int i)
{
    return (i / 4 * PANEL + o) * 4 + (i % 2 * 2 + i % 4 / 2);
}

/* The word of LAYOUT_T4 and the place in it. */
static inline int at_word(int o, int i)
{
    return (i / 8 * PANEL + o) * 2 + i % 2;
}

static inline int shift_word(int i)
{
    return i % 8 / 2 * 4;
}

/* v as f16 into *out; false: it needs rounding and may not be. */
static bool to_f16(float v, uint16_t *out, struct rounding *r, float *error)
{
    *out = f16_of_f32(v);
    float back = f32_of_f16(*out);
    if (back == v) return true;
    if (!r->allowed || !isfinite(back)) return false;
    r->any = true;
    *error = fmaxf(*error, fabsf(back - v));
    return true;
}

/* d and m as f16 at the head of a group. */
static bool put_scales(uint8_t *group, int o, float d, float m, struct rounding *r)
{
    uint16_t *to = (uint16_t *)group;
    r->d = fmaxf(r->d, fabsf(d));
    return to_f16(d, &to[o], r, &r->d_error) && to_f16(m, &to[PANEL + o], r, &r->m_error);
}

static void put_nibbles(uint8_t *to, int o, const uint8_t *q)
{
    for (int i = 0; i < GROUP; i++) to[at4(o, i)] |= (uint8_t)(q[i] << shift4(i));
}

bool put_q8(void *panel, int o, const struct weight_row *row, int k, struct rounding *r)
{
    uint8_t *group = panel;
    for (int g = 0; g < k / GROUP; g++, group += Q8_GROUP_BYTES) {
        if (!to_f16(row->d[g], &((uint16_t *)group)[o], r, &r->d_error)) return false;
        for (int i = 0; i < GROUP; i++) group[PANEL * 2 + at8(o, i)] = row->q[g * GROUP + i];
    }
    return true;
}

bool put_q8f(void *panel, int o, const struct weight_row *row, int k, struct rounding *r)
{
    (void)r;
    uint8_t *group = panel;
    for (int g = 0; g < k / GROUP; g++, group += Q8F_GROUP_BYTES) {
        ((float *)group)[o] = row->d[g];
        for (int i = 0; i < GROUP; i++) group[PANEL * 4 + at8(o, i)] = row->q[g * GROUP + i];
    }
    return true;
}

bool put_f8(void *panel, int o, const struct weight_row *row, int k, struct rounding *r)
{
    (void)r;
    uint8_t *group = panel;
    for (int g = 0; g < k / GROUP; g++, group += F8_GROUP_BYTES) {
        ((float *)group)[o] = row->d[g];
        for (int i = 0; i < GROUP; i++) group[PANEL * 4 + at_f8(o, i)] = row->q[g * GROUP + i];
    }
    return true;
}

bool put_q4(void *panel, int o, const struct weight_row *row, int k, struct rounding *r)
{
    uint8_t *group = panel;
    for (int g = 0; g < k / GROUP; g++, group += Q4_GROUP_BYTES) {
        if (!put_scales(group, o, row->d[g], row->z[g], r)) return false;
        put_nibbles(group + PANEL * 4, o, row->q + g * GROUP);
    }
    return true;
}

/* d (q - z) as d q + m: where d and m = -d z are exactly f16, both products are exact in float32, and so is the sum. */
bool put_q4_of_zero(void *panel, int o, const struct weight_row *row, int k, struct rounding *r)
{
    uint8_t *group = panel;
    for (int g = 0; g < k / GROUP; g++, group += Q4_GROUP_BYTES) {
        double m = -(double)row->d[g] * row->z[g];
        if ((float)m != m || !put_scales(group, o, row->d[g], (float)m, r)) return false;
        put_nibbles(group + PANEL * 4, o, row->q + g * GROUP);
    }
    return true;
}

bool put_q4z(void *panel, int o, const struct weight_row *row, int k, struct rounding *r)
{
    (void)r;
    uint8_t *group = panel;
    for (int g = 0; g < k / GROUP; g++, group += Q4Z_GROUP_BYTES) {
        ((float *)group)[o] = row->d[g];
        group[PANEL * 4 + o] = (uint8_t)(int8_t)row->z[g];
        put_nibbles(group + PANEL * 5, o, row->q + g * GROUP);
    }
    return true;
}

bool put_q2(void *panel, int o, const struct weight_row *row, int k, struct rounding *r)
{
    uint8_t *group = panel;
    for (int g = 0; g < k / GROUP; g++, group += Q2_GROUP_BYTES) {
        if (!put_scales(group, o, row->d[g], row->z[g], r)) return false;
        for (int i = 0; i < GROUP; i++) group[PANEL * 4 + at2(o, i)] |= (uint8_t)(row->q[g * GROUP + i] << shift2(i));
    }
    return true;
}

bool put_t4(void *panel, int o, const struct weight_row *row, int k, struct rounding *r)
{
    (void)r;
    uint8_t *group = panel;
    for (int g = 0; g < k / GROUP; g++, group += T4_GROUP_BYTES) {
        uint16_t *words = (uint16_t *)(group + PANEL * 4);
        ((float *)group)[o] = row->d[g];
        for (int i = 0; i < GROUP; i++) words[at_word(o, i)] |= (uint16_t)(row->q[g * GROUP + i] << shift_word(i));
    }
    return true;
}

/* --- and back --- */

static float f16_at(const uint8_t *group, int i)
{
    return f32_of_f16(((const uint16_t *)group)[i]);
}

void unpack_q8(const struct weight *w, const void *panel, int o, int k, float *out)
{
    (void)w;
    const uint8_t *group = panel;
    for (int g = 0; g < k / GROUP; g++, group += Q8_GROUP_BYTES, out += GROUP)
        for (int i = 0; i < GROUP; i++) out[i] = f16_at(group, o) * (float)(group[PANEL * 2 + at8(o, i)] - 128);
}

void unpack_q8f(const struct weight *w, const void *panel, int o, int k, float *out)
{
    (void)w;
    const uint8_t *group = panel;
    for (int g = 0; g < k / GROUP; g++, group += Q8F_GROUP_BYTES, out += GROUP)
        for (int i = 0; i < GROUP; i++)
            out[i] = ((const float *)group)[o] * (float)(group[PANEL * 4 + at8(o, i)] - 128);
}

void unpack_q4(const struct weight *w, const void *panel, int o, int k, float *out)
{
    (void)w;
    const uint8_t *group = panel;
    for (int g = 0; g < k / GROUP; g++, group += Q4_GROUP_BYTES, out += GROUP)
        for (int i = 0; i < GROUP; i++) {
            int code = group[PANEL * 4 + at4(o, i)] >> shift4(i) & 15;
            out[i] = f16_at(group, o) * (float)code + f16_at(group, PANEL + o);
        }
}

void unpack_q4z(const struct weight *w, const void *panel, int o, int k, float *out)
{
    (void)w;
    const uint8_t *group = panel;
    for (int g = 0; g < k / GROUP; g++, group += Q4Z_GROUP_BYTES, out += GROUP)
        for (int i = 0; i < GROUP; i++) {
            int code = group[PANEL * 5 + at4(o, i)] >> shift4(i) & 15;
            out[i] = ((const float *)group)[o] * (float)(code - (int8_t)group[PANEL * 4 + o]);
        }
}

void unpack_q2(const struct weight *w, const void *panel, int o, int k, float *out)
{
    (void)w;
    const uint8_t *group = panel;
    for (int g = 0; g < k / GROUP; g++, group += Q2_GROUP_BYTES, out += GROUP)
        for (int i = 0; i < GROUP; i++) {
            int code = group[PANEL * 4 + at2(o, i)] >> shift2(i) & 3;
            out[i] = f16_at(group, o) * (float)code + f16_at(group, PANEL + o);
        }
}

void unpack_t4(const struct weight *w, const void *panel, int o, int k, float *out)
{
    const uint8_t *group = panel;
    for (int g = 0; g < k / GROUP; g++, group += T4_GROUP_BYTES, out += GROUP) {
        const uint16_t *words = (const uint16_t *)(group + PANEL * 4);
        for (int i = 0; i < GROUP; i++)
            out[i] = ((const float *)group)[o] * w->table[words[at_word(o, i)] >> shift_word(i) & 15];
    }
}

void unpack_f8(const struct weight *w, const void *panel, int o, int k, float *out)
{
    (void)w;
    const uint8_t *group = panel;
    for (int g = 0; g < k / GROUP; g++, group += F8_GROUP_BYTES, out += GROUP)
        for (int i = 0; i < GROUP; i++)
            out[i] = ((const float *)group)[o] * f32_of_e4m3(group[PANEL * 4 + at_f8(o, i)]);
}

/* --- tables --- */

#define FACTORS 64 /* tried: 64/64, 65/64 .. 127/64, and their inverses */

/* The largest distance, relative to the table's largest entry, that bf16 leaves when the table is divided by `factor`
 * first; *coarse gets what it becomes. */
static double coarse_error(const float *table, double factor, uint16_t *coarse)
{
    double worst = 0, most = 1e-300;
    for (int i = 0; i < 16; i++) {
        coarse[i] = bf16_of_f32((float)(table[i] / factor));
        float back = (float)(f32_of_bf16(coarse[i]) * factor);
        worst = fmax(worst, fabs((double)back - table[i]));
        most = fmax(most, fabs((double)table[i]));
    }
    return worst / most;
}

void table_coarse(struct weight *w)
{
    double best = INFINITY;
    for (int j = 0; j < 2 * FACTORS && best > 0; j++) {
        uint16_t coarse[16];
        double factor = j % 2 ? 64.0 / (64 + j / 2) : (64 + j / 2) / 64.0; /* FP4 needs 1/1.5 */
        double error = coarse_error(w->table, factor, coarse);
        if (error >= best) continue;
        best = error;
        w->factor = (float)factor;
        for (int i = 0; i < 16; i++) w->coarse[i] = coarse[i];
    }
}
