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

/* --- matrices --- */

static const char *const TYPE_NAMES[] = {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"};

struct matrix {
    int n, k;
    enum tensor_type type;
    void *src;
    double *value; /* [n][k] as the format defines them */
};

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
static inline struct matrix matrix_make(enum tensor_type type, int n, int k, bool integers)
{
    struct matrix m = {n, k, type, xalloc(tensor_bytes(type, n, k)), xalloc(sizeof(double) * (size_t)n * (size_t)k)};
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
    free(m->value);
}

/* --- tables and pools --- */

struct variant {
    const char *table;
    enum precision prec;
};

/* Every table that this processor can run, in both precisions. */
static const struct variant VARIANTS[] = {
    {"plain", PREC_EXACT}, {"plain", PREC_FAST}, {"avx512", PREC_EXACT}, {"avx512", PREC_FAST}};
#define VARIANTS_N 4

static inline const struct kernels *variant_kernels(int i)
{
    return kernels_pick(VARIANTS[i].table, VARIANTS[i].prec);
}

static inline void say_what_runs(void)
{
    if (!kernels_pick("avx512", PREC_FAST)) printf("# no AVX-512 here: the plain table alone is tested\n");
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
