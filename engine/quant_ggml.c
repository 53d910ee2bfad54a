/* quant_ggml: ggml's blocks, taken apart.
 *
 * A row of a tensor is a run of blocks of 32 or 256 values, each with its scales inside. One function per type takes a block apart; the
 * table says what it makes of it. Types whose values are a scale times a small code keep their codes, so that the kernels multiply in
 * the file's own precision; types with scales finer than 32 values, or with more codes than the kernels have layouts for, give floats.
 *
 * "Exactly" is meant to the bit: the products and sums below are taken in float32 in the order in which ggml takes them.
 *
 * Refused: scales that are not finite, MXFP4's exponent of 255 (it is NaN). Types that are not in the table are refused by name.
 *
 * Sources: ggml-common.h (layouts), ggml-quants.c (values). Called at load only. */
#include "engine/quant_ggml.h"
#include "engine/source_impl.h"
#include "kernels/convert.h"
#include <stdlib.h>
#include <string.h>

/* Take block `i` of a row apart into the row's places. */
typedef void take_block(const uint8_t *b, int i, struct weight_row *o);

static float half_at(const uint8_t *p)
{
    return f32_of_f16((uint16_t)(p[0] | p[1] << 8));
}

/* --- blocks of 32 --- */

/* 16 bytes that hold input i in the low and input 16 + i in the high half. */
static void nibbles(const uint8_t *b, uint8_t *q)
{
    for (int i = 0; i < 16; i++) {
        q[i] = b[i] & 15;
        q[16 + i] = b[i] >> 4;
    }
}

static void take_q4_0(const uint8_t *b, int i, struct weight_row *o)
{
    o->d[i] = half_at(b);
    o->z[i] = 8;
    nibbles(b + 2, o->q + 32 * i);
}

static void take_q4_1(const uint8_t *b, int i, struct weight_row *o)
{
    o->d[i] = half_at(b);
    o->z[i] = half_at(b + 2);
    nibbles(b + 4, o->q + 32 * i);
}

/* Five bits: nibbles, and 32 fifth bits before them. */
static void fives(const uint8_t *b, uint8_t *q)
{
    uint32_t high = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
    nibbles(b + 4, q);
    for (int i = 0; i < 32; i++) q[i] |= (uint8_t)((high >> i & 1) << 4);
}

static void take_q5_0(const uint8_t *b, int i, struct weight_row *o)
{
    uint8_t *q = o->q + 32 * i;
    o->d[i] = half_at(b);
    fives(b + 2, q);
    for (int j = 0; j < 32; j++) q[j] = (uint8_t)(q[j] + 128 - 16);
}

static void take_q5_1(const uint8_t *b, int i, struct weight_row *o)
{
    uint8_t q[32];
    float d = half_at(b), m = half_at(b + 2), *f = o->f + 32 * i;
    fives(b + 4, q);
    for (int j = 0; j < 32; j++) f[j] = d * (float)q[j] + m;
}

static void take_q8_0(const uint8_t *b, int i, struct weight_row *o)
{
    o->d[i] = half_at(b);
    for (int j = 0; j < 32; j++) o->q[32 * i + j] = b[2 + j] ^ 0x80;
}

static void take_iq4_nl(const uint8_t *b, int i, struct weight_row *o)
{
    o->d[i] = half_at(b);
    nibbles(b + 2, o->q + 32 * i);
}

/* A power of two; the table's values are doubled, as ggml has them, so the scale is halved. */
static void take_mxfp4(const uint8_t *b, int i, struct weight_row *o)
{
    uint32_t x = b[0];
    o->d[i] = f32_of_bits(x == 255 ? 0x7fc00000u : x < 2 ? 0x00200000u << x : (x - 1) << 23);
    nibbles(b + 1, o->q + 32 * i);
}

/* --- blocks of 256 --- */

/* Eight scales and eight minima of six bits in twelve bytes. */
static void six_bits(const uint8_t *s, int j, int *scale, int *min)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        *min = s[j + 4] >> 4 | (s[j] >> 6) << 4;
    }
}

static void take_q4_k(const uint8_t *b, int i, struct weight_row *o)
{
    float d = half_at(b), dmin = half_at(b + 2);
    for (int j = 0; j < 8; j++) {
        const uint8_t *q = b + 16 + 32 * (j / 2);
        int scale, min, shift = j % 2 * 4;
        six_bits(b + 4, j, &scale, &min);
        o->d[8 * i + j] = d * (float)scale;
        o->z[8 * i + j] = -(dmin * (float)min);
        for (int l = 0; l < 32; l++) o->q[256 * i + 32 * j + l] = q[l] >> shift & 15;
    }
}

static void take_q5_k(const uint8_t *b, int i, struct weight_row *o)
{
    const uint8_t *high = b + 16;
    float d = half_at(b), dmin = half_at(b + 2);
    for (int j = 0; j < 8; j++) {
        const uint8_t *q = b + 48 + 32 * (j / 2);
        int scale, min, shift = j % 2 * 4;
        six_bits(b + 4, j, &scale, &min);
        float ds = d * (float)scale, m = dmin * (float)min, *f = o->f + 256 * i + 32 * j;
        for (int l = 0; l < 32; l++) f[l] = ds * (float)((q[l] >> shift & 15) | (high[l] >> j & 1) << 4) - m;
    }
}

static void take_q2_k(const uint8_t *b, int i, struct weight_row *o)
{
    float d = half_at(b + 80), dmin = half_at(b + 82);
    for (int j = 0; j < 16; j++) { /* 16 values share a scale */
        const uint8_t *q = b + 16 + 32 * (j / 8) + 16 * (j % 2);
        float ds = d * (float)(b[j] & 15), m = dmin * (float)(b[j] >> 4), *f = o->f + 256 * i + 16 * j;
        int shift = j % 8 / 2 * 2;
        for (int l = 0; l < 16; l++) f[l] = ds * (float)(q[l] >> shift & 3) - m;
    }
}

static void take_q3_k(const uint8_t *b, int i, struct weight_row *o)
{
    const uint8_t *s = b + 96;
    float d = half_at(b + 108);
    for (int j = 0; j < 16; j++) {
        const uint8_t *q = b + 32 + 32 * (j / 8) + 16 * (j % 2), *mask = b + 16 * (j % 2);
        int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4, scale = (low | (s[8 + j % 4] >> (j / 4 * 2) & 3) << 4) - 32;
        float ds = d * (float)scale, *f = o->f + 256 * i + 16 * j;
        int shift = j % 8 / 2 * 2;
        for (int l = 0; l < 16; l++) f[l] = ds * (float)((q[l] >> shift & 3) - (mask[l] >> j / 2 & 1 ? 0 : 4));
    }
}

static void take_q6_k(const uint8_t *b, int i, struct weight_row *o)
{
    float d = half_at(b + 208);
    for (int j = 0; j < 16; j++) {
        const uint8_t *low = b + 64 * (j / 8) + 16 * (j % 4), *high = b + 128 + 32 * (j / 8) + 16 * (j % 2);
        float ds = d * (float)(int8_t)b[192 + j], *f = o->f + 256 * i + 16 * j;
        int nibble = j % 8 / 4 * 4, pair = j % 8 / 2 * 2;
        for (int l = 0; l < 16; l++) f[l] = ds * (float)(((low[l] >> nibble & 15) | (high[l] >> pair & 3) << 4) - 32);
    }
}

/* --- the table --- */

static const float iq4_nl_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const float mxfp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static const struct ggml_row {
    int number; /* ggml's */
    const char *name;
    int block, bytes;
    enum code_kind kind;
    take_block *take; /* NULL: plain floats */
    enum dtype floats;
    const float *table;
} rows[] = {
    {0, "F32", 1, 4, CODES_FLOAT, NULL, D_F32, NULL},
    {1, "F16", 1, 2, CODES_FLOAT, NULL, D_F16, NULL},
    {30, "BF16", 1, 2, CODES_FLOAT, NULL, D_BF16, NULL},
    {2, "Q4_0", 32, 18, CODES_INT4, take_q4_0, 0, NULL},
    {3, "Q4_1", 32, 20, CODES_AFFINE, take_q4_1, 0, NULL},
    {6, "Q5_0", 32, 22, CODES_INT8, take_q5_0, 0, NULL},
    {7, "Q5_1", 32, 24, CODES_FLOAT, take_q5_1, 0, NULL},
    {8, "Q8_0", 32, 34, CODES_INT8, take_q8_0, 0, NULL},
    {10, "Q2_K", 256, 84, CODES_FLOAT, take_q2_k, 0, NULL},
    {11, "Q3_K", 256, 110, CODES_FLOAT, take_q3_k, 0, NULL},
    {12, "Q4_K", 256, 144, CODES_AFFINE, take_q4_k, 0, NULL},
    {13, "Q5_K", 256, 176, CODES_FLOAT, take_q5_k, 0, NULL},
    {14, "Q6_K", 256, 210, CODES_FLOAT, take_q6_k, 0, NULL},
    {20, "IQ4_NL", 32, 18, CODES_TABLE, take_iq4_nl, 0, iq4_nl_values},
    {39, "MXFP4", 32, 17, CODES_TABLE, take_mxfp4, 0, mxfp4_values},
};

struct ggml_room {
    const struct ggml_row *row;
    const uint8_t *data;
    const char *label; /* behind the room */
};

static const struct ggml_row *find_row(int type)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].number == type) return &rows[i];
    return NULL;
}

bool ggml_is_float(int type)
{
    const struct ggml_row *r = find_row(type);
    return r && !r->take;
}

int64_t ggml_row_bytes(int type, int64_t k)
{
    const struct ggml_row *r = find_row(type);
    return r && k % r->block == 0 ? k / r->block * r->bytes : 0;
}

static bool all_finite(const float *f, int n)
{
    uint32_t wild = 0;
    for (int i = 0; i < n; i++) wild |= (bits_of_f32(f[i]) & 0x7f800000) == 0x7f800000;
    return !wild;
}

static int read_row(const struct weight_source *src, int row, struct weight_row *out, struct err *e)
{
    const struct ggml_room *g = src->u;
    const struct ggml_row *r = g->row;
    const uint8_t *p = g->data + (size_t)row * (size_t)(src->k / r->block) * (size_t)r->bytes;
    bool fine;
    if (!r->take) {
        fine = floats_read(r->floats, p, 0, 1, src->k, out->f) == 0;
    } else {
        for (int i = 0; i < src->k / r->block; i++) r->take(p + (size_t)i * (size_t)r->bytes, i, out);
        bool offsets = src->kind == CODES_AFFINE;
        fine = src->kind == CODES_FLOAT
                   ? all_finite(out->f, src->k)
                   : all_finite(out->d, src->k / GROUP) && (!offsets || all_finite(out->z, src->k / GROUP));
    }
    if (fine) return 0;
    return err_set(e, ERR_MODEL, "%s, row %d: a %s is not finite; download it again", g->label, row,
                   r->take ? "scale" : "value");
}

static int refuse_type(int type, const char *label, struct err *e)
{
    return err_set(e, ERR_MODEL,
                   "%s is of the type %s, which is not served; convert the model to Q8_0, Q6_K, Q5_K, Q4_K, Q3_K, "
                   "Q2_K, Q5_1, Q5_0, "
                   "Q4_1, Q4_0, IQ4_NL, MXFP4, BF16, F16 or F32",
                   label, gguf_type_name(type));
}

int ggml_source(struct source_matrix *out, int type, const void *data, int n, int k, const char *label, struct err *e)
{
    const struct ggml_row *r = find_row(type);
    if (!r) return refuse_type(type, label, e);
    if (k % r->block || (r->take && k % GROUP))
        return err_set(e, ERR_MODEL, "%s: rows of %d are no multiple of %s's blocks of %d", label, k, r->name,
                       r->block);
    struct ggml_room *g = malloc(sizeof *g + strlen(label) + 1);
    if (!g) return err_set(e, ERR_NO_MEMORY, "no memory for %s", label);
    char *copy = (char *)(g + 1);
    memcpy(copy, label, strlen(label) + 1);
    *g = (struct ggml_room){r, data, copy};
    *out = (struct source_matrix){
        .src = {.kind = r->kind, .n = n, .k = k, .table = r->table, .read = read_row, .u = g, .format = r->name},
        .room = g};
    return 0;
}
