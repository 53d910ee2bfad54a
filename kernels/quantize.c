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

/* A type ready for searching: its table sorted, the middles between neighbours, and their codes. */
struct search {
    const struct quant_type *type;
    float entry[16], middle[15];
    uint8_t code[16];
};

static struct search search_of(const struct quant_type *type)
{
    struct search s = {.type = type};
    for (int i = 0; type->table && i < 16; i++) {
        int at = i;
        for (; at > 0 && s.entry[at - 1] > type->table[i]; at--)
            s.entry[at] = s.entry[at - 1], s.code[at] = s.code[at - 1];
        s.entry[at] = type->table[i], s.code[at] = (uint8_t)i;
    }
    for (int i = 0; i < 15; i++) s.middle[i] = (s.entry[i] + s.entry[i + 1]) / 2;
    return s;
}

/* What a group becomes, and how far from its values that is. */
struct found {
    float d, z;
    float error; /* sum of squares; NAN: nothing yet */
    uint8_t q[GROUP];
};

static void keep_better(struct found *best, const struct found *f)
{
    if (isnan(best->error) || f->error < best->error) *best = *f;
}

/* Sums are kept in lanes: the compiler may not change their order, but makes vectors of these. */
#define LANES 8

static float folded(const float *lane)
{
    return ((lane[0] + lane[4]) + (lane[1] + lane[5])) + ((lane[2] + lane[6]) + (lane[3] + lane[7]));
}

/* To the nearest whole number, for |x| < 2^22, in two additions. */
static inline float nearest(float x)
{
    return (x + 0x1.8p23f) - 0x1.8p23f;
}

/* A NaN becomes hi. */
static inline float within(float x, float lo, float hi)
{
    x = x < hi ? x : hi;
    return x > lo ? x : lo;
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
static void group_int8(const struct search *s, const float *f, struct found *out)
{
    float most = magnitude_of(f), d = most / 127;
    if (s->type->layout == LAYOUT_Q8) {
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

/* The codes for values from lo to hi with d and m, both as f16, and from them in turn the d and m that fit these codes
 * best. */
static void affine_codes(const float *f, float lo, float hi, int most, float *d, float *m, struct found *out)
{
    float step = to_f16(*d), low = to_f16(*m), inverse = step != 0 ? 1 / step : 0;
    int32_t q[GROUP];
    float lane[5][LANES] = {0};
    out->d = step, out->z = low, out->error = NAN;
    if (!isfinite(step) || !(fmaxf(hi - low, low - lo) * inverse < 1e9f)) return;    /* a code is to fit an int32_t */
    for (int i = 0; i < GROUP; i++) q[i] = (int32_t)nearest((f[i] - low) * inverse); /* a little beyond 0 .. most */
    for (int i = 0; i < GROUP; i++)
        q[i] = q[i] < 0 ? 0 : q[i] > most ? most : q[i]; /* as integers: of those it makes vectors */
    for (int i = 0; i < GROUP; i++) out->q[i] = (uint8_t)q[i];
    for (int i = 0; i < GROUP; i += LANES)
        for (int l = 0; l < LANES; l++) {
            float x = f[i + l], code = (float)q[i + l], off = step * code + low - x;
            lane[0][l] += off * off, lane[1][l] += code, lane[2][l] += code * code;
            lane[3][l] += x, lane[4][l] += code * x;
        }
    float error = folded(lane[0]), sq = folded(lane[1]), sqq = folded(lane[2]), sf = folded(lane[3]);
    float sqf = folded(lane[4]);
    out->error = error;
    float det = GROUP * sqq - sq * sq;
    if (det < 0.5f) return; /* all codes the same */
    *d = (GROUP * sqf - sq * sf) / det;
    *m = (sf - *d * sq) / GROUP;
}

#define AFFINE_RANGES 7

static void group_affine(const struct search *s, const float *f, struct found *best)
{
    int most = s->type->layout == LAYOUT_Q2 ? 3 : 15;
    float lo, hi, narrower = s->type->layout == LAYOUT_Q2 ? 0.08f : 0.04f;
    range_of(f, &lo, &hi);
    best->error = NAN;
    for (int i = 0; i < AFFINE_RANGES; i++) {
        float cut = (hi - lo) * narrower * (float)i / 2, m = lo + cut, d = (hi - lo - 2 * cut) / (float)most;
        struct found one = {0};
        for (int round = 0; round < 2; round++) {
            affine_codes(f, lo, hi, most, &d, &m, &one);
            keep_better(best, &one);
        }
    }
    if (!isfinite(best->error)) best->d = FLT_MAX, best->z = 0; /* beyond f16: fits no layout */
}

/* d (q - z) with a whole z, the scale float32. */
static void group_zero(const struct search *s, const float *f, struct found *best)
{
    (void)s;
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

/* The nearest entries at scale d, and the d that fits them best. How many middles between sorted entries lie below a
 * value is the entry's place: no branch, and the same work for any table. */
static float table_codes(const struct search *s, const float *f, float d, struct found *out)
{
    float inverse = 1 / d, x[GROUP];
    int32_t place[GROUP] = {0};
    if (!isfinite(inverse)) inverse = 0;
    for (int i = 0; i < GROUP; i++) x[i] = f[i] * inverse;
    for (int t = 0; t < 15; t++)
        for (int i = 0; i < GROUP; i++) place[i] += x[i] > s->middle[t];
    float sft = 0, stt = 0;
    out->d = d, out->error = 0;
    for (int i = 0; i < GROUP; i++) {
        float entry = s->entry[place[i]], off = d * entry - f[i];
        out->q[i] = s->code[place[i]];
        out->error += off * off;
        sft += f[i] * entry, stt += entry * entry;
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

static void codes_at(const struct search *s, const float *f, float d, struct found *best)
{
    struct found one = {0};
    float fitted = d;
    if (s->type->layout == LAYOUT_F8)
        e4m3_codes(f, d, &one);
    else
        fitted = table_codes(s, f, d, &one);
    keep_better(best, &one);
    if (s->type->power_of_two || fitted == d || !(fitted > 0) || !isfinite(fitted)) return;
    table_codes(s, f, fitted, &one);
    keep_better(best, &one);
}

/* A scale that takes in the largest value, or half of that, which cuts off the largest and is finer for the rest. */
static void group_scaled(const struct search *s, const float *f, struct found *best)
{
    float most = magnitude_of(f), top = s->type->layout == LAYOUT_F8 ? 448 : 0;
    for (int i = 0; s->type->layout == LAYOUT_T4 && i < 16; i++) top = fmaxf(top, fabsf(s->entry[i]));
    *best = (struct found){.error = NAN};
    if (top == 0) top = 1;
    if (s->type->power_of_two) {
        float d = power_above(most / top);
        if (!isfinite(d * top)) d /= 2; /* a code of the largest value would be beyond float32 */
        codes_at(s, f, d, best);
        if (d > 0x1p-126f) codes_at(s, f, d / 2, best);
        return;
    }
    codes_at(s, f, most / top, best);
    if (s->type->layout == LAYOUT_T4) codes_at(s, f, most / top * 0.9f, best);
}

/* --- as a source --- */

/* How a layout is quantized to: the kind whose codes it takes, and a group's search. */
static const struct {
    enum code_kind kind;
    void (*group)(const struct search *s, const float *f, struct found *out);
} ways[LAYOUTS] = {
    [LAYOUT_Q8] = {CODES_INT8, group_int8},     [LAYOUT_Q8F] = {CODES_INT8, group_int8},
    [LAYOUT_Q4] = {CODES_AFFINE, group_affine}, [LAYOUT_Q4Z] = {CODES_INT4, group_zero},
    [LAYOUT_T4] = {CODES_TABLE, group_scaled},  [LAYOUT_F8] = {CODES_E4M3, group_scaled},
    [LAYOUT_Q2] = {CODES_INT2, group_affine},
};

struct quantizer {
    const struct weight_source *src;
    struct search search;
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
        ways[z->search.type->layout].group(&z->search, in.f + g * GROUP, &found);
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
    struct quantizer z = {src, search_of(type), {0}};
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
