/* What the passes of choosing a token share: constants, the scratch of a row, the exponential, and numbers that order.
 *
 * The weights of a row are w = e^((x - max) / T), in (0, 1]. Their exponential and the order of a block's sum are those of
 * kernels/logits_avx512.c, step by step, so that a draw meets the same bits on the device as on the CPU. */
#pragma once
#include "kernels/cuda/dev.h"
#include "kernels/cuda/ops.h"
#include "kernels/logits.h"

#define CHOOSE_TINY (-87.0f) /* e^ of less is 0 */
#define CHOOSE_GROUPS 256    /* maxima, of as many parts of the row, that bound its k-th largest from below */
/* The list holds the logits whose weight may be 2^-12 of the best or more: of this exponent, with room for rounding. */
#define CHOOSE_LEAST 0x1p-12f
#define CHOOSE_LEAST_AT (-8.3188f)
#define CHOOSE_MARGIN 0x1p-10f /* in exponents: more than any two roundings make of equal weights */

/* The scratch of a row, M = blocks of LOGITS_BLOCK: float best[M]; int id[M] (-1: a value there is not finite);
 * float sum[M], at 1/T; float one[M], at 1; uint32 list[M * 8]: bit per token. */
struct choose_row {
    const float *x;
    float *best;
    int32_t *id;
    float *sum, *one;
    uint32_t *list;
    int n, blocks;
};

#define CHOOSE_WORDS (LOGITS_BLOCK / 32)
#define CHOOSE_SCRATCH (4 + CHOOSE_WORDS) /* words a block */

/* The two passes over all logits, choose_weigh.cu. */
int choose_weigh_launch(const struct op_choose *op, void *stream);

DEV struct choose_row choose_row_of(const struct op_choose *op, int row)
{
    int blocks = (op->tokens + LOGITS_BLOCK - 1) / LOGITS_BLOCK, all = (op->vocab + LOGITS_BLOCK - 1) / LOGITS_BLOCK;
    float *s = op->scratch + (size_t)row * (size_t)all * CHOOSE_SCRATCH;
    struct choose_row r;
    r.x = op->x + (size_t)row * (size_t)op->vocab;
    r.best = s;
    r.id = (int32_t *)(s + all);
    r.sum = s + 2 * all;
    r.one = s + 3 * all;
    r.list = (uint32_t *)(s + 4 * all);
    r.n = op->tokens;
    r.blocks = blocks;
    return r;
}

/* Rows that the device does not choose from. */
DEV bool choose_skips(const struct op_choose *op, int row)
{
    return row >= op->meta.count[COUNT_LOGITS] || op->meta.choice[row].how == CHOOSE_NOT;
}

DEV bool choose_filters(const struct cuda_choice *c, int n)
{
    return (c->top_k > 0 && c->top_k < n) || c->top_p < 1 || c->min_p > 0;
}

/* How many of the largest logits the list has to hold; 0: no matter. */
DEV int choose_wanted(const struct cuda_choice *c, int n)
{
    int k = c->how == CHOOSE_DRAW && c->top_k < n ? c->top_k : 0;
    return c->tell - 1 > k ? c->tell - 1 : k;
}

/* Maxima of the row: of `each` neighbouring blocks. */
DEV int choose_groups(int blocks, int *each)
{
    *each = (blocks + CHOOSE_GROUPS - 1) / CHOOSE_GROUPS;
    return (blocks + *each - 1) / *each;
}

/* e^x for -87 <= x <= 0, the steps of vector.h's exp16(): x = n ln 2 + r, e^r by its series. 2^n is normal. */
DEV float choose_exp(float x)
{
    float n = rintf(x * 0x1.715476p0f);
    float r = dev_fma(n, -0x1.62e4p-1f, x);
    r = dev_fma(n, -0x1.7f7d1cp-20f, r);
    float p = 1.0f / 5040;
    p = dev_fma(p, r, 1.0f / 720);
    p = dev_fma(p, r, 1.0f / 120);
    p = dev_fma(p, r, 1.0f / 24);
    p = dev_fma(p, r, 1.0f / 6);
    p = dev_fma(p, r, 0.5f);
    p = dev_fma(p, r, 1);
    p = dev_fma(p, r, 1);
    return p * dev_as_float((uint32_t)((int)n + 127) << 23);
}

DEV float choose_weight(float x, float most, float inv_t)
{
    float at = (x - most) * inv_t;
    return at < CHOOSE_TINY ? 0 : choose_exp(at);
}

DEV bool choose_finite(float x)
{
    return (dev_as_uint(x) & 0x7f800000u) != 0x7f800000u;
}

/* The better of two (value, id): larger, then smaller id; both zeros are equal. */
DEV bool choose_better(float a, int a_id, float b, int b_id)
{
    return a > b || (a == b && a_id < b_id);
}

/* The best of a warp in all lanes. */
DEV void choose_best_of_warp(float *v, int *id)
{
    UNROLL
    for (int n = 16; n; n /= 2) {
        float other = dev_shfl_xor(*v, n);
        int other_id = dev_shfl_xor(*id, n);
        if (choose_better(other, other_id, *v, *id)) *v = other, *id = other_id;
    }
}

/* The best of the whole row, from its blocks' maxima, in all threads of a block; false: a value is not finite. values,
 * ids: 32 words of shared memory each. */
DEV bool choose_best(const struct choose_row *r, float *values, int *ids, float *most, int *most_id)
{
    float v = dev_as_float(0xff800000u);
    int id = 0x7fffffff, bad = 0;
    for (int b = (int)threadIdx.x; b < r->blocks; b += (int)blockDim.x) {
        float other = r->best[b];
        int other_id = r->id[b];
        bad |= other_id < 0;
        if (choose_better(other, other_id, v, id)) v = other, id = other_id;
    }
    choose_best_of_warp(&v, &id);
    if (dev_lane() == 0) values[dev_warp()] = v, ids[dev_warp()] = id;
    if (dev_sync_or(bad)) return false;
    for (unsigned w = 0; w < blockDim.x / 32; w++)
        if (choose_better(values[w], ids[w], v, id)) v = values[w], id = ids[w];
    *most = v;
    *most_id = id;
    return true;
}
