/* Rotary positions and the store into KV pages, one head of one row to a warp: device functions that rope.cu and the
 * kernels that end in it share. Everything is float32 from the product's output (bias and adapters added) to the one
 * rounding at the end, and written out as fused steps, so that every kernel rounds alike.
 *
 * A head's dimensions go in pairs, dimension i with i + half (what rotates: halves of `rotary` dimensions), then, of
 * what does not rotate, again halves. Lane l of the warp has the units l, l + 32, ... of W neighbouring pairs; N units
 * hold a head of up to 64 N W dimensions. W is 2 where all halves are even, and 1 else. */
#pragma once
#include "kernels/cuda/dev.h"
#include "kernels/cuda/ops.h"

#define ROPE_PAGE 16        /* tokens of a KV page: KV_PAGE */
#define ROPE_Q8_TINY 1e-30f /* a row whose largest magnitude is less is zeros, as on the CPU */

template <int N, int W> struct rope_head {
    float lo[N][W], hi[N][W]; /* pair p and its other half */
};

/* What head h of the row q | k | v is. */
enum { ROPE_Q, ROPE_K, ROPE_V };
struct rope_part {
    int what, head;           /* head: among its own */
    const float *bias, *norm; /* [head_dim], or NULL */
};

DEV struct rope_part rope_part_of(const struct op_rope *op, int h)
{
    int hd = op->kv.head_dim;
    struct rope_part p = {ROPE_Q, h, op->q_bias, op->q_norm};
    if (h >= op->heads) p.what = ROPE_K, p.head = h - op->heads, p.bias = op->k_bias, p.norm = op->k_norm;
    if (h >= op->heads + op->kv.kv_heads)
        p.what = ROPE_V, p.head = h - op->heads - op->kv.kv_heads, p.bias = op->v_bias, p.norm = NULL;
    if (p.bias) p.bias += p.head * hd;
    return p;
}

/* First pair of unit i of this lane; its dimension, and the distance to the other half's. */
template <int W> DEV int rope_dim(const struct op_rope *op, int i, int *other)
{
    int pair = (i * 32 + (int)dev_lane()) * W, half = op->rotary / 2;
    if (pair < half) {
        *other = half;
        return pair;
    }
    *other = (op->kv.head_dim - op->rotary) / 2;
    return op->rotary + pair - half;
}

/* Has this lane a unit i? Pairs are head_dim / 2. */
template <int W> DEV bool rope_has(const struct op_rope *op, int i)
{
    return (i * 32 + (int)dev_lane()) * W < op->kv.head_dim / 2;
}

/* W neighbouring bf16. */
template <int W> DEV void rope_get(const uint16_t *from, float *v)
{
    if constexpr (W == 2) {
        uint32_t pair = *(const uint32_t *)from;
        v[0] = dev_lo(pair), v[1] = dev_hi(pair);
    } else
        v[0] = dev_lo(*from);
}

template <int W> DEV void rope_put(uint16_t *to, const float *v)
{
    if constexpr (W == 2)
        *(uint32_t *)to = dev_pack(v[0], v[1]);
    else
        *to = (uint16_t)dev_pack(v[0], 0);
}

/* A head from memory; units that it does not have are zeros. */
template <int N, int W> DEV void rope_load(const struct op_rope *op, const uint16_t *from, struct rope_head<N, W> *x)
{
    UNROLL
    for (int i = 0; i < N; i++) {
        int other, d = rope_dim<W>(op, i, &other);
        UNROLL
        for (int j = 0; j < W; j++) x->lo[i][j] = x->hi[i][j] = 0;
        if (!rope_has<W>(op, i)) continue;
        rope_get<W>(from + d, x->lo[i]);
        rope_get<W>(from + d + other, x->hi[i]);
    }
}

template <int N, int W> DEV void rope_bias(const struct op_rope *op, const float *bias, struct rope_head<N, W> *x)
{
    UNROLL
    for (int i = 0; i < N; i++) {
        int other, d = rope_dim<W>(op, i, &other);
        if (!rope_has<W>(op, i)) continue;
        UNROLL
        for (int j = 0; j < W; j++) x->lo[i][j] += bias[d + j], x->hi[i][j] += bias[d + other + j];
    }
}

template <int N, int W> DEV void rope_norm(const struct op_rope *op, const float *weight, struct rope_head<N, W> *x)
{
    float sum = 0;
    UNROLL
    for (int i = 0; i < N; i++) {
        UNROLL
        for (int j = 0; j < W; j++) {
            sum = dev_fma(x->lo[i][j], x->lo[i][j], sum);
            sum = dev_fma(x->hi[i][j], x->hi[i][j], sum);
        }
    }
    float factor = 1.0f / sqrtf(dev_warp_sum(sum) / (float)op->kv.head_dim + op->norm_eps);
    UNROLL
    for (int i = 0; i < N; i++) {
        int other, d = rope_dim<W>(op, i, &other);
        if (!rope_has<W>(op, i)) continue;
        UNROLL
        for (int j = 0; j < W; j++) {
            x->lo[i][j] = x->lo[i][j] * factor * weight[d + j];
            x->hi[i][j] = x->hi[i][j] * factor * weight[d + other + j];
        }
    }
}

/* turn: [rotary/2][cos, sin] of the row's position. */
template <int N, int W> DEV void rope_turn(const struct op_rope *op, const float *turn, struct rope_head<N, W> *x)
{
    UNROLL
    for (int i = 0; i < N; i++) {
        int other, d = rope_dim<W>(op, i, &other);
        if (d >= op->rotary / 2) continue;
        UNROLL
        for (int j = 0; j < W; j++) {
            float2 cs = dev_ldg((const float2 *)turn + d + j);
            float a = x->lo[i][j], b = x->hi[i][j];
            x->lo[i][j] = dev_fma(a, cs.x, -(b * cs.y));
            x->hi[i][j] = dev_fma(b, cs.x, a * cs.y);
        }
    }
}

template <int N, int W> DEV void rope_store(const struct op_rope *op, const struct rope_head<N, W> *x, uint16_t *to)
{
    UNROLL
    for (int i = 0; i < N; i++) {
        int other, d = rope_dim<W>(op, i, &other);
        if (!rope_has<W>(op, i)) continue;
        rope_put<W>(to + d, x->lo[i]);
        rope_put<W>(to + d + other, x->hi[i]);
    }
}

/* The bits of the largest magnitude: they order like magnitudes, infinities and NaN above all. */
template <int N, int W> DEV uint32_t rope_most(const struct rope_head<N, W> *x)
{
    uint32_t most = 0;
    UNROLL
    for (int i = 0; i < N; i++) {
        UNROLL
        for (int j = 0; j < W; j++) {
            uint32_t lo = dev_as_uint(x->lo[i][j]) & 0x7fffffffu, hi = dev_as_uint(x->hi[i][j]) & 0x7fffffffu;
            most = lo > most ? lo : most;
            most = hi > most ? hi : most;
        }
    }
    return dev_warp_max(most);
}

/* To int8 with one scale (kernels/kv.h's rule): 127 steps of the largest magnitude, not finite where a value isn't. */
template <int N, int W>
DEV void rope_store_int8(const struct op_rope *op, const struct rope_head<N, W> *x, int8_t *to, float *scale)
{
    uint32_t bits = rope_most(x);
    float most = dev_as_float(bits);
    bool finite = bits < 0x7f800000u, some = finite && !(most < ROPE_Q8_TINY);
    float inverse = some ? 127.0f / most : 0;
    if (dev_lane() == 0) *scale = finite ? some ? most / 127.0f : 0 : dev_as_float(0x7fc00000u);
    UNROLL
    for (int i = 0; i < N; i++) {
        int other, d = rope_dim<W>(op, i, &other);
        if (!rope_has<W>(op, i)) continue;
        UNROLL
        for (int j = 0; j < W; j++) {
            to[d + j] = (int8_t)(some ? (int)rintf(x->lo[i][j] * inverse) : 0);
            to[d + other + j] = (int8_t)(some ? (int)rintf(x->hi[i][j] * inverse) : 0);
        }
    }
}

/* K or V of a kv head into the slot of position `pos` of page number `page`. */
template <int N, int W>
DEV void rope_store_kv(const struct op_rope *op, const struct rope_head<N, W> *x, int page, int pos, int kv_head,
                       bool value)
{
    const struct cuda_kv *kv = &op->kv;
    int slot = pos % ROPE_PAGE;
    char *part = kv->base + (size_t)op->layer * kv->layer_bytes + (size_t)page * kv->page_bytes +
                 (size_t)(2 * kv_head + (value ? 1 : 0)) * (size_t)kv->part_bytes;
    char *to = part + kv->scale_bytes + slot * kv->row_bytes;
    if (kv->int8)
        rope_store_int8(op, x, (int8_t *)to, (float *)part + slot);
    else
        rope_store(op, x, (uint16_t *)to);
}

/* Head h of row `row`, whose product (adapters added) x holds, to where it belongs. Rows of padding (seq_of -1) are left
 * to the caller. */
template <int N, int W> DEV void rope_finish(const struct op_rope *op, int row, int h, struct rope_head<N, W> *x)
{
    const struct cuda_meta *m = &op->meta;
    struct rope_part part = rope_part_of(op, h);
    int pos = m->pos[row];
    if (part.bias) rope_bias(op, part.bias, x);
    if (part.norm) rope_norm(op, part.norm, x);
    if (part.what != ROPE_V) rope_turn(op, op->rope + (size_t)pos * (size_t)op->rotary, x);
    if (part.what == ROPE_Q) {
        rope_store(op, x, op->qkv + (size_t)row * (size_t)op->ld + h * op->kv.head_dim);
        return;
    }
    int page = m->page[m->seq[m->seq_of[row]].page0 + pos / ROPE_PAGE];
    rope_store_kv(op, x, page, pos, part.head, part.what == ROPE_V);
}
