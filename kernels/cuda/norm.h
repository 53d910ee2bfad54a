/* Device functions of the root mean square norm, which kernels that end in a norm share: a block holds one row in
 * registers, thread t its quads t, t + threads, ... The sum of squares has one order: along a thread's values, in the
 * warp by halves, then warp by warp; so the bits of a row are set by k and the block's threads alone. */
#pragma once
#include "kernels/cuda/dev.h"

#define NORM_WARPS 16 /* of a block, at most */
#define NORM_QUADS 8  /* of a thread, at most */
#define NORM_K_MAX (NORM_WARPS * 32 * NORM_QUADS * 4)

/* How a row of k lies in a block: quads of a thread (0: it is too long), and threads. Host and device. */
#define NORM_QUADS_OF(k)                                                                                               \
    ((k) <= NORM_K_MAX / 8 ? 1 : (k) <= NORM_K_MAX / 4 ? 2 : (k) <= NORM_K_MAX / 2 ? 4 : (k) <= NORM_K_MAX ? 8 : 0)
#define NORM_THREADS_OF(k, quads) ((((k) / 4 + (quads)-1) / (quads) + 31) / 32 * 32)

/* Q quads of a row. */
template <int Q> struct norm_row {
    float4 v[Q];
};

/* Quads that the row does not have become zeros. */
template <int Q> DEV void norm_load(struct norm_row<Q> *r, const float *x, int quads)
{
    UNROLL
    for (int i = 0; i < Q; i++) {
        int at = (int)(threadIdx.x + (unsigned)i * blockDim.x);
        r->v[i] = make_float4(0, 0, 0, 0);
        if (at < quads) r->v[i] = ((const float4 *)x)[at];
    }
}

/* The same for what no kernel of the step writes (weights). */
template <int Q> DEV void norm_load_constant(struct norm_row<Q> *r, const float *x, int quads)
{
    UNROLL
    for (int i = 0; i < Q; i++) {
        int at = (int)(threadIdx.x + (unsigned)i * blockDim.x);
        r->v[i] = make_float4(0, 0, 0, 0);
        if (at < quads) r->v[i] = dev_ld_early((const float4 *)x + at);
    }
}

/* sum + the squares, in their order. */
template <int Q> DEV float norm_squares_on(const struct norm_row<Q> *r, float sum)
{
    UNROLL
    for (int i = 0; i < Q; i++) {
        sum = dev_fma(r->v[i].x, r->v[i].x, sum);
        sum = dev_fma(r->v[i].y, r->v[i].y, sum);
        sum = dev_fma(r->v[i].z, r->v[i].z, sum);
        sum = dev_fma(r->v[i].w, r->v[i].w, sum);
    }
    return sum;
}

template <int Q> DEV float norm_squares(const struct norm_row<Q> *r)
{
    return norm_squares_on(r, 0.0f);
}

/* 1 / root of the mean square; a row with a value that is not finite gets a factor that shows it. */
DEV float norm_factor(float squares, int k, float eps)
{
    return 1.0f / sqrtf(squares / (float)k + eps);
}

/* x += y norm weight. Written out as fused steps, so that every kernel rounds it alike. */
DEV float4 norm_add(float4 x, float4 y, float factor, float4 weight)
{
    return make_float4(dev_fma(y.x * factor, weight.x, x.x), dev_fma(y.y * factor, weight.y, x.y),
                       dev_fma(y.z * factor, weight.z, x.z), dev_fma(y.w * factor, weight.w, x.w));
}

/* Four normed values as bf16. */
DEV uint2 norm_round(float4 x, float factor, float4 weight)
{
    return make_uint2(dev_pack(x.x * factor * weight.x, x.y * factor * weight.y),
                      dev_pack(x.z * factor * weight.z, x.w * factor * weight.w));
}
