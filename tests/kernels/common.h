/* What the kernels' tests share: seeded numbers, matrices in the source formats together with their values by the
 * formats' own definition (an oracle that shares no code with kernels/), and running an operation on a pool. */
#pragma once
#include "kernels/ops.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint64_t seed_state = 1;

static inline void seed(uint64_t s)
{
    seed_state = s * 0x9e3779b97f4a7c15u + 1;
}

static inline uint32_t next_u32(void)
{
    seed_state ^= seed_state << 13;
    seed_state ^= seed_state >> 7;
    seed_state ^= seed_state << 17;
    return (uint32_t)(seed_state >> 32);
}

static inline float next_float(void)
{
    return (float)((double)next_u32() / 2147483648.0 - 1);
} /* -1 .. 1 */
static inline int next_int(int lo, int hi)
{
    return lo + (int)(next_u32() % (uint32_t)(hi - lo + 1));
}

static inline void fill(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = next_float();
}

static inline void *xalloc(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
    if (!p) abort();
    memset(p, 0, bytes);
    return p;
}

/* --- number formats, by their definition --- */

static inline double f16_value(uint16_t h)
{
    int e = h >> 10 & 31, m = h & 1023;
    double v = e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h & 0x8000 ? -v : v;
}

/* The f16 nearest to v among normal numbers (v is made so that it is one or rounds to one). */
static inline uint16_t f16_near(double v)
{
    if (v == 0) return 0;
    int e;
    long m = lrint(ldexp(frexp(fabs(v), &e), 11));
    if (m == 2048) m = 1024, e++;
    if (e < -13) return 0;
    return (uint16_t)((v < 0 ? 0x8000 : 0) | (e + 14) << 10 | (m & 1023));
}

static inline float bf16_near(float f)
{
    if (f == 0 || !isfinite(f)) return f;
    int e;
    double m = frexp(f, &e);
    return (float)ldexp(rint(ldexp(m, 8)), e - 8);
}

static inline uint16_t bf16_bits(float exact)
{
    uint32_t b;
    memcpy(&b, &exact, 4);
    return (uint16_t)(b >> 16);
}

/* By the OCP specification: sign, 4 bits of exponent with bias 7, 3 of mantissa. */
static inline double e4m3_value(uint8_t q)
{
    int e = q >> 3 & 15, m = q & 7;
    double v = e ? ldexp(8 + m, e - 10) : ldexp(m, -9);
    return q & 0x80 ? -v : v;
}

/* --- matrices --- */

/* Tensor types, then what only sources of codes have. */
enum matrix_type { M_INT8 = T_Q4_1 + 1, M_ZERO, M_NF4, M_FP4, M_IQ4, M_E4M3, M_INT2, MATRIX_TYPES };

static const char *const TYPE_NAMES[MATRIX_TYPES] = {
    "F32", "F16", "BF16",   "Q8_0", "Q4_0", "Q4_1", "int8, float32", "4-bit with zero",
    "NF4", "FP4", "IQ4_NL", "e4m3", "2-bit"};

static const float TABLES[3][16] = {{-1, -0.6961928f, -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f,
                                     -0.091050036f, 0, 0.0795803f, 0.1609302f, 0.2461123f, 0.33791524f, 0.44070983f,
                                     0.562617f, 0.72295684f, 1},
                                    {0, 0.0052083333f, 0.66666667f, 1, 0.33333333f, 0.5f, 0.16666667f, 0.25f, 0,
                                     -0.0052083333f, -0.66666667f, -1, -0.33333333f, -0.5f, -0.16666667f, -0.25f},
                                    {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}};

struct matrix {
    int n, k;
    int type;  /* enum tensor_type or enum matrix_type */
    void *src; /* of tensor types */
    uint8_t *q;
    float *d, *z;
    double *value; /* [n][k] as the format defines them, rounded once to float32 */
};

/* A row of codes. */
static inline int matrix_read(const struct weight_source *s, int row, struct weight_row *out, struct err *e)
{
    (void)e;
    const struct matrix *m = s->u;
    size_t k = (size_t)m->k, r = (size_t)row;
    memcpy(out->q, m->q + r * k, k);
    memcpy(out->d, m->d + r * (k / 32), k / 32 * 4);
    memcpy(out->z, m->z + r * (k / 32), k / 32 * 4);
    return 0;
}

static inline struct weight_source matrix_source(const struct matrix *m)
{
    static const enum code_kind kind[] = {CODES_INT8,  CODES_INT4, CODES_TABLE, CODES_TABLE,
                                          CODES_TABLE, CODES_E4M3, CODES_INT2};
    bool table = m->type >= M_NF4 && m->type <= M_IQ4;
    return (struct weight_source){.kind = kind[m->type - M_INT8],
                                  .n = m->n,
                                  .k = m->k,
                                  .table = table ? TABLES[m->type - M_NF4] : NULL,
                                  .read = matrix_read,
                                  .u = m,
                                  .format = TYPE_NAMES[m->type]};
}

static inline int matrix_pack(struct weight *w, const struct matrix *m, const int *row_of, enum precision prec,
                              struct err *e)
{
    if (m->type <= T_Q4_1) return weight_pack(w, (enum tensor_type)m->type, m->src, m->n, m->k, row_of, prec, e);
    struct weight_source s = matrix_source(m);
    return weight_pack_source(w, &s, row_of, prec, LAYOUT_AUTO, NULL, e);
}

/* A code and its value by the kind's definition. */
static inline uint8_t any_code(int type, bool integers)
{
    static const uint8_t whole[] = {0x00, 0x38, 0x40, 0x44, 0x48, 0x4a, 0x4c, 0xb8, 0xc0, 0xc4}; /* 0 to 6, -1 to -3 */
    int q = next_int(0, type == M_INT2 ? 3 : type == M_INT8 || type == M_E4M3 ? 255 : 15);
    if (type == M_INT8 && integers) return (uint8_t)(120 + q % 16);
    if (type == M_E4M3) return integers ? whole[q % 10] : (q & 0x7f) == 0x7f ? 0x81 : (uint8_t)q;
    return (uint8_t)q;
}

static inline double code_value(int type, uint8_t q, float d, float z)
{
    switch (type) {
    case M_INT8:
        return (float)((double)d * (q - 128));
    case M_ZERO:
        return (float)((double)d * (q - z));
    case M_E4M3:
        return (float)(d * e4m3_value(q));
    case M_INT2:
        return (float)((double)d * q + z);
    default:
        return (float)((double)d * TABLES[type - M_NF4][q]);
    }
}

static inline void codes_make(struct matrix *m, bool integers)
{
    size_t count = (size_t)m->n * (size_t)m->k;
    static const float size[] = {0.0003f, 0.01f, 0.1f, 0.1f, 0.001f, 0.001f, 0.1f};
    m->q = xalloc(count), m->d = xalloc(count / 32 * 4), m->z = xalloc(count / 32 * 4);
    for (size_t g = 0; g < count / 32; g++) {
        m->d[g] = integers ? m->type == M_FP4 ? 192 : 1 : (0.2f + fabsf(next_float())) * size[m->type - M_INT8];
        m->z[g] = m->type == M_ZERO ? (float)next_int(0, 16) : integers ? -1 : next_float() / 8;
        if (m->type == M_INT2) { /* exactly f16, so that FAST rounds nothing */
            m->d[g] = (float)f16_value(f16_near(m->d[g]));
            m->z[g] = (float)f16_value(f16_near(m->z[g]));
        }
    }
    for (size_t i = 0; i < count; i++) {
        m->q[i] = any_code(m->type, integers && m->type != M_NF4);
        m->value[i] = code_value(m->type, m->q[i], m->d[i / 32], m->z[i / 32]);
    }
}

static inline void block_of_ints(struct matrix *m, uint8_t *b, double *v, double d, double min, bool integers)
{
    uint16_t hd = f16_near(d), hm = f16_near(min);
    int header = m->type == T_Q4_1 ? 4 : 2;
    memcpy(b, &hd, 2);
    if (m->type == T_Q4_1) memcpy(b + 2, &hm, 2);
    for (int i = 0; i < 32; i++) {
        if (m->type == T_Q8_0) {
            int q = integers ? next_int(-8, 7) : next_int(-128, 127);
            b[2 + i] = (uint8_t)(int8_t)q;
            v[i] = f16_value(hd) * q;
            continue;
        }
        int q = next_int(0, 15);
        b[header + i % 16] |= (uint8_t)(i < 16 ? q : q << 4);
        v[i] = m->type == T_Q4_1 ? f16_value(hd) * q + f16_value(hm) : f16_value(hd) * (q - 8);
        v[i] = (float)v[i];
    }
}

/* Seeded [n][k]; integers: values are small integers and scales are 1. */
static inline struct matrix matrix_make(int type, int n, int k, bool integers)
{
    struct matrix m = {.n = n, .k = k, .type = type, .value = xalloc(sizeof(double) * (size_t)n * (size_t)k)};
    if (type > T_Q4_1) {
        codes_make(&m, integers);
        return m;
    }
    m.src = xalloc(tensor_bytes((enum tensor_type)type, n, k));
    size_t count = (size_t)n * (size_t)k, block = type == T_Q8_0 ? 34 : type == T_Q4_0 ? 18 : 20;
    for (size_t i = 0; type <= T_BF16 && i < count; i++) {
        float x = integers ? (float)next_int(-8, 8) : next_float() / 8;
        uint16_t h = type == T_F16 ? f16_near(x) : bf16_bits(bf16_near(x));
        m.value[i] = type == T_F32 ? x : type == T_F16 ? f16_value(h) : bf16_near(x);
        if (type == T_F32)
            ((float *)m.src)[i] = x;
        else
            ((uint16_t *)m.src)[i] = h;
    }
    for (size_t i = 0; type > T_BF16 && i < count; i += 32) {
        double d = integers ? 1 : (0.2 + fabs(next_float())) / (type == T_Q8_0 ? 512 : 64);
        block_of_ints(&m, (uint8_t *)m.src + i / 32 * block, m.value + i, d, integers ? -3 : next_float() / 8,
                      integers);
    }
    return m;
}

static inline void matrix_free(struct matrix *m)
{
    free(m->src);
    free(m->q);
    free(m->d);
    free(m->z);
    free(m->value);
}

/* --- tables and pools --- */

struct variant {
    const char *table;
    enum precision prec;
};

/* Every table, in both precisions; those that this processor cannot run are skipped. */
static const char *const TABLE_NAMES[] = {"plain", "avx2", "avxvnni", "avx512"};
#define TABLES_N ((int)(sizeof TABLE_NAMES / sizeof *TABLE_NAMES))

static const struct variant VARIANTS[] = {{"plain", PREC_EXACT},  {"plain", PREC_FAST},    {"avx2", PREC_EXACT},
                                          {"avx2", PREC_FAST},    {"avxvnni", PREC_EXACT}, {"avxvnni", PREC_FAST},
                                          {"avx512", PREC_EXACT}, {"avx512", PREC_FAST}};
#define VARIANTS_N ((int)(sizeof VARIANTS / sizeof *VARIANTS))

static inline const struct kernels *variant_kernels(int i)
{
    return kernels_pick(VARIANTS[i].table, VARIANTS[i].prec);
}

static inline void say_what_runs(void)
{
    for (int i = 0; i < TABLES_N; i++)
        if (!kernels_pick(TABLE_NAMES[i], PREC_FAST))
            printf("# no %s here: that table is not tested\n", TABLE_NAMES[i]);
}

static inline struct pool *pool_of(int threads)
{
    struct pool *p;
    struct err e = {0};
    if (pool_new(&p, threads, &e)) fail_msg("%s", e.msg);
    return p;
}

static inline uint32_t float_bits(float f)
{
    uint32_t b;
    memcpy(&b, &f, 4);
    return b;
}
