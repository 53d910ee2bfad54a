/* Quantizing rows: a source that reads another one's float32 values and gives codes, group by group, which pack.c then
 * packs as it packs any codes.
 *
 * Each search tries a few ranges and keeps the codes of least squared error; for each range of an affine group the best
 * scale and minimum for the codes found (least squares) are tried too. Scales are rounded to what the layout holds before
 * the codes are chosen. Loops run over 32 values without branches, so that the compiler makes vectors of them.
 *
 * Values that are not finite are refused: a group with one would lose all others. */
#include "kernels/quantize.h"
#include "kernels/convert.h"
#include "kernels/pack.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>

const float table_nf4[16] = {-1.0f,
                             -0.6961928009986877f,
                             -0.5250730514526367f,
                             -0.39491748809814453f,
                             -0.28444138169288635f,
                             -0.18477343022823334f,
                             -0.09105003625154495f,
                             0.0f,
                             0.07958029955625534f,
                             0.16093020141124725f,
                             0.24611230194568634f,
                             0.33791524171829224f,
                             0.44070982933044434f,
                             0.5626170039176941f,
                             0.7229568362236023f,
                             1.0f};
const float table_fp4[16] = {0, 1.0f / 192,  2.0f / 3,  1,  1.0f / 3,  0.5f,  1.0f / 6,  0.25f,
                             0, -1.0f / 192, -2.0f / 3, -1, -1.0f / 3, -0.5f, -1.0f / 6, -0.25f};
const float table_mxfp4[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, 0, -0.5f, -1, -1.5f, -2, -3, -4, -6};

const struct quant_type quant_types[] = {
    {"bf16", LAYOUT_BF16, NULL, false, 16},  {"int8", LAYOUT_Q8, NULL, false, 8.5},
    {"int4", LAYOUT_Q4, NULL, false, 5},     {"nf4", LAYOUT_T4, table_nf4, false, 5},
    {"fp4", LAYOUT_T4, table_fp4, false, 5}, {"mxfp4", LAYOUT_T4, table_mxfp4, true, 5},
    {"mxfp8", LAYOUT_F8, NULL, true, 9},     {"int2", LAYOUT_Q2, NULL, false, 3},
    {NULL, LAYOUT_F32, NULL, false, 0},
};

const struct quant_type *quant_type_find(const char *name)
{
    for (const struct quant_type *t = quant_types; t->name; t++)
        if (strcmp(t->name, name) == 0) return t;
    return NULL;
}

/* What a group becomes, and how far from its values that is. */
struct found {
    float d, z;
    float error; /* sum of squares; NAN: nothing yet */
    uint8_t q[GROUP];
};

static void keep_better(struct found *best, const struct found *f)
{
    if (!(best->error <= f->error)) *best = *f;
}

/* To the nearest whole number, for |x| < 2^22, in two additions. */
static inline float nearest(float x)
{
    return (x + 0x1.8p23f) - 0x1.8p23f;
}

static inline float within(float x, float lo, float hi)
{
    return fminf(fmaxf(x, lo), hi);
}

static float magnitude_of(const float *f)
{
    float most = 0;
    for (int i = 0; i < GROUP; i++) most = fmaxf(most, fabsf(f[i]));
    return most;
}

static void range_of(const float *f, float *lo, float *hi)
{
    *lo = *hi = f[0];
    for (int i = 1; i < GROUP; i++) *lo = fminf(*lo, f[i]), *hi = fmaxf(*hi, f[i]);
}

/* --- 8 bits --- */

/* The f16 scale is rounded up where rounding down would cut off the largest value by more than half a step. */
static void group_int8(const struct quant_type *t, const float *f, struct found *out)
{
    float most = magnitude_of(f), d = most / 127;
    if (t->layout == LAYOUT_Q8) {
        uint16_t h = f16_of_f32(d);
        if (f32_of_f16(h) * 127.5f < most) h++;
        if (isfinite(f32_of_f16(h))) d = f32_of_f16(h);
    }
    float inverse = d > 0 ? 1 / d : 0;
    *out = (struct found){.d = d};
    if (!isfinite(inverse)) return; /* the group is smaller than any number matters */
    for (int i = 0; i < GROUP; i++) out->q[i] = (uint8_t)(128 + (int)nearest(within(f[i] * inverse, -127, 127)));
}

/* --- 4 and 2 bits: d q + m --- */

static float to_f16(float x)
{
    return f32_of_f16(f16_of_f32(x));
}

/* The codes for d and m, both as f16, and from them in turn the d and m that fit these codes best. */
static void affine_codes(const float *f, float most, float *d, float *m, struct found *out)
{
    float step = to_f16(*d), low = to_f16(*m), inverse = step != 0 ? 1 / step : 0;
    float error = 0, sq = 0, sqq = 0, sf = 0, sqf = 0;
    for (int i = 0; i < GROUP; i++) {
        float q = nearest(within((f[i] - low) * inverse, 0, most)), off = step * q + low - f[i];
        out->q[i] = (uint8_t)(int)q;
        error += off * off, sq += q, sqq += q * q, sf += f[i], sqf += q * f[i];
    }
    out->d = step, out->z = low, out->error = error;
    float det = GROUP * sqq - sq * sq;
    if (det < 0.5f) return; /* all codes the same */
    *d = (GROUP * sqf - sq * sf) / det;
    *m = (sf - *d * sq) / GROUP;
}

#define AFFINE_RANGES 7

static void group_affine(const struct quant_type *t, const float *f, struct found *best)
{
    float lo, hi, most = t->layout == LAYOUT_Q2 ? 3 : 15, narrower = t->layout == LAYOUT_Q2 ? 0.08f : 0.04f;
    range_of(f, &lo, &hi);
    best->error = NAN;
    for (int i = 0; i < AFFINE_RANGES; i++) {
        float cut = (hi - lo) * narrower * (float)i / 2, m = lo + cut, d = (hi - lo - 2 * cut) / most;
        struct found one = {0};
        for (int round = 0; round < 2; round++) {
            affine_codes(f, most, &d, &m, &one);
            keep_better(best, &one);
        }
    }
    if (!isfinite(best->d) || !isfinite(best->z)) best->d = FLT_MAX, best->z = 0; /* beyond f16: fits no layout */
}

/* d (q - z) with a whole z, the scale float32. */
static void group_zero(const struct quant_type *t, const float *f, struct found *best)
{
    (void)t;
    float lo, hi;
    range_of(f, &lo, &hi);
    lo = fminf(lo, 0), hi = fmaxf(hi, 0);
    *best = (struct found){.error = NAN};
    for (int i = 0; i < AFFINE_RANGES; i++) {
        struct found one = {.d = (hi - lo) * (1 - 0.04f * (float)i) / 15};
        float inverse = one.d > 0 ? 1 / one.d : 0;
        inverse = isfinite(inverse) ? inverse : 0;
        one.z = within(nearest(within(-lo * inverse, 0, 15)), 0, 15);
        for (int j = 0; j < GROUP; j++) {
            float q = nearest(within(f[j] * inverse + one.z, 0, 15)), off = one.d * (q - one.z) - f[j];
            one.q[j] = (uint8_t)(int)q;
            one.error += off * off;
        }
        keep_better(best, &one);
    }
}

/* --- tables and e4m3 --- */

/* The nearest entries at scale d, and the d that fits them best. */
static float table_codes(const float *table, const float *f, float d, struct found *out)
{
    float distance[GROUP], value[GROUP];
    int32_t q[GROUP] = {0};
    for (int i = 0; i < GROUP; i++) distance[i] = INFINITY, value[i] = 0;
    for (int t = 0; t < 16; t++) {
        float entry = table[t];
        for (int i = 0; i < GROUP; i++) {
            float off = fabsf(d * entry - f[i]);
            bool nearer = off < distance[i];
            distance[i] = nearer ? off : distance[i];
            value[i] = nearer ? entry : value[i];
            q[i] = nearer ? t : q[i];
        }
    }
    float sft = 0, stt = 0;
    out->d = d, out->error = 0;
    for (int i = 0; i < GROUP; i++) {
        out->q[i] = (uint8_t)q[i];
        out->error += distance[i] * distance[i];
        sft += f[i] * value[i], stt += value[i] * value[i];
    }
    return stt > 0 ? sft / stt : d;
}

static void e4m3_codes(const float *f, float d, struct found *out)
{
    out->d = d, out->error = 0;
    for (int i = 0; i < GROUP; i++) {
        out->q[i] = d > 0 ? e4m3_of_f32(f[i] / d) : 0;
        float off = d * f32_of_e4m3(out->q[i]) - f[i];
        out->error += off * off;
    }
}

/* The least power of two that is at least x, among normal numbers. */
static float power_above(float x)
{
    int e;
    float m = frexpf(fmaxf(x, 0x1p-126f), &e);
    return ldexpf(1, m == 0.5f ? e - 1 : e);
}

static void codes_at(const struct quant_type *t, const float *f, float d, struct found *best)
{
    struct found one = {0};
    float fitted = d;
    if (t->layout == LAYOUT_F8)
        e4m3_codes(f, d, &one);
    else
        fitted = table_codes(t->table, f, d, &one);
    keep_better(best, &one);
    if (t->power_of_two || fitted == d || !isfinite(fitted)) return;
    table_codes(t->table, f, fitted, &one);
    keep_better(best, &one);
}

/* A scale that takes in the largest value, or half of that, which cuts off the largest and is finer for the rest. */
static void group_scaled(const struct quant_type *t, const float *f, struct found *best)
{
    float most = magnitude_of(f), top = t->layout == LAYOUT_F8 ? 448 : 0;
    for (int i = 0; t->layout == LAYOUT_T4 && i < 16; i++) top = fmaxf(top, fabsf(t->table[i]));
    *best = (struct found){.error = NAN};
    if (top == 0) top = 1;
    if (t->power_of_two) {
        float d = power_above(most / top);
        if (!isfinite(d * top)) d /= 2; /* a code of the largest value would be beyond float32 */
        codes_at(t, f, d, best);
        if (d > 0x1p-126f) codes_at(t, f, d / 2, best);
        return;
    }
    codes_at(t, f, most / top, best);
    if (t->layout == LAYOUT_T4) codes_at(t, f, most / top * 0.9f, best);
}

/* --- as a source --- */

/* How a layout is quantized to: the kind whose codes it takes, and a group's search. */
static const struct {
    enum code_kind kind;
    void (*group)(const struct quant_type *t, const float *f, struct found *out);
} ways[LAYOUTS] = {
    [LAYOUT_Q8] = {CODES_INT8, group_int8},     [LAYOUT_Q8F] = {CODES_INT8, group_int8},
    [LAYOUT_Q4] = {CODES_AFFINE, group_affine}, [LAYOUT_Q4Z] = {CODES_INT4, group_zero},
    [LAYOUT_T4] = {CODES_TABLE, group_scaled},  [LAYOUT_F8] = {CODES_E4M3, group_scaled},
    [LAYOUT_Q2] = {CODES_INT2, group_affine},
};

struct quantizer {
    const struct weight_source *src;
    const struct quant_type *type;
    struct weight_row in;
};

static int read_quantized(const struct weight_source *s, int row, struct weight_row *out, struct err *e)
{
    const struct quantizer *z = s->u;
    struct weight_row in = z->in;
    if (row_read(z->src, row, &in, e)) return -1;
    row_values(z->src, &in);
    for (int i = 0; i < s->k; i++)
        if (!isfinite(in.f[i]))
            return err_set(e, ERR_MODEL, "row %d of a %s matrix has a value that is not finite: it cannot be quantized",
                           row, s->format);
    for (int g = 0; g < s->k / GROUP; g++) {
        struct found found = {0};
        ways[z->type->layout].group(z->type, in.f + g * GROUP, &found);
        out->d[g] = found.d, out->z[g] = found.z;
        memcpy(out->q + g * GROUP, found.q, GROUP);
    }
    return 0;
}

int weight_quantize(struct weight *w, const struct quant_type *type, const struct weight_source *src, const int *row_of,
                    struct err *e)
{
    if (type->layout <= LAYOUT_BF16 || src->k % GROUP)
        return weight_pack_source(w, src, row_of, PREC_FAST, type->layout == LAYOUT_F32 ? LAYOUT_F32 : LAYOUT_BF16,
                                  NULL, e);
    struct quantizer z = {src, type, {0}};
    struct weight_source coded = {ways[type->layout].kind, src->n, src->k,     type->table,
                                  read_quantized,          &z,     src->format};
    struct weight shape;
    if (weight_shape(&shape, type->layout, src->n, src->k, src->format, e) || row_room(&z.in, src->k, e)) return -1;
    int rc = pack_codes(w, &coded, row_of, PREC_FAST, (int)type->layout, NULL, e);
    if (rc == 1 && type->layout == LAYOUT_Q8) /* scales beyond f16 */
        rc = pack_codes(w, &coded, row_of, PREC_FAST, LAYOUT_Q8F, NULL, e);
    free(z.in.f);
    if (rc == 1) return weight_pack_source(w, src, row_of, PREC_FAST, LAYOUT_BF16, NULL, e);
    return rc;
}
