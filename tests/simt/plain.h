/* The plain table of operations, for tests of kernels that do the same. */
#pragma once
#include "kernels/ops.h"
#include "tests/simt/simt.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static inline const struct kernels *plain_kernels(void)
{
    return kernels_pick("plain", PREC_EXACT);
}

/* On one thread. */
static inline void plain_run(void (*fn)(struct kthread *t, void *arg), void *arg)
{
    struct pool *pool;
    struct err e = {0};
    SIMT_CHECK(pool_new(&pool, 1, &e) == 0, "%s", e.msg);
    pool_run(pool, fn, arg);
    pool_free(pool);
}

static inline float plain_of_bf16(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float f;
    memcpy(&f, &wide, sizeof f);
    return f;
}

static inline float *plain_of_bf16s(const uint16_t *x, size_t n)
{
    float *out = malloc(n * sizeof *out);
    for (size_t i = 0; i < n; i++) out[i] = plain_of_bf16(x[i]);
    return out;
}

static inline float *sealed_floats(const char *name, size_t n, uint64_t stream, float scale)
{
    float *p = simt_buffer(name, n * sizeof *p);
    simt_fill_f32(p, n, stream, scale);
    simt_seal(p);
    return p;
}
