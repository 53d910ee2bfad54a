/* What becomes of the sums that the expand has: the ends of the LoRA kernels. Device code.
 *
 * A tail is a plain struct that a kernel gets by value; which one it is chooses among the overloads below and in the
 * files of the folded kernels:
 *   lora_every(tail)       all rows are done, not only those with adapters
 *   lora_whole(tail)       a tile's rows must stay with one team: columns are not cut
 *   lora_passes(tail)      store has work where there is nothing to add, too
 *   lora_unit(tail)        columns that belong together, a multiple of 16
 *   lora_hold(tail, ..)    load what the sums are added to, before the loads of B wait for anything
 *   lora_store(tail, ..)   add, round once, store
 *   lora_finish(tail, ..)  by all threads of the team, when an item's columns are stored
 *
 * A lane's values of 16 outputs: d[0], d[1]: output 2g of rows 2t, 2t+1; d[2], d[3]: output 2g+1. */
#pragma once
#include "kernels/cuda/lora_core.h"

/* A lane's part of y: bf16: pairs of outputs of rows 2t, 2t+1 in w[0], w[1]; float32: in the order of d. */
struct lora_held {
    uint32_t w[4];
};

/* U tiles of 16 outputs, of PARTS slices, in flight in a warp; d: the sums over hi and lo. */
template <int NT, int PARTS, int U> struct lora_work {
    struct lora_held held[PARTS][U][NT];
    float d[PARTS][U][NT][2][4];
};

/* Where in the item's slice a lane is: output 2g of its tile, row 2t of its 8. */
struct lora_spot {
    int col, row;
    int n, rows; /* how many there are */
};
DEV struct lora_spot lora_spot_of(int n, int tile, int n8, int rows)
{
    int lane = (int)dev_lane();
    struct lora_spot s = {tile * LORA_N_STEP + lane / 4 * 2, n8 * 8 + lane % 4 * 2, n, rows};
    return s;
}

/* Has the item anything to add to this part? Where not, y keeps its bits: -0 + 0 would be +0. */
template <int PARTS> DEV bool lora_touched(const struct lora_item<PARTS> *item, int part)
{
    const struct lora_entry *e = &item->e[part * META_STACK];
    return e[0].r + e[1].r + e[2].r + e[3].r > 0;
}

/* --- y as bf16, or as float32: the loads and stores that tails share --- */

DEV size_t lora_at(const struct op_lora *op, int row0, int slice, const struct lora_spot *s, int i)
{
    return (size_t)(row0 + s->row + i) * (size_t)op->ldy + (size_t)(op->y0[slice] + s->col);
}

DEV void lora_hold_bf16(struct lora_held *h, const struct op_lora *op, int row0, int slice, const struct lora_spot *s)
{
    UNROLL
    for (int i = 0; i < 2; i++)
        h->w[i] = s->row + i < s->rows && s->col < s->n
                      ? *(const uint32_t *)((const uint16_t *)op->y + lora_at(op, row0, slice, s, i))
                      : 0;
}

DEV void lora_hold_f32(struct lora_held *h, const struct op_lora *op, int row0, int slice, const struct lora_spot *s)
{
    const uint32_t *y = (const uint32_t *)op->y;
    UNROLL
    for (int i = 0; i < 4; i++) {
        bool there = s->row + i % 2 < s->rows && s->col + i / 2 < s->n;
        h->w[i] = there ? y[lora_at(op, row0, slice, s, i % 2) + (size_t)(i / 2)] : 0;
    }
}

/* A lane's four values: g (y + sum), of what was held as bf16 or float32. g: DoRA's factors, or NULL. */
DEV void lora_sum(float out[4], bool f32, const struct lora_held *h, const float d[2][4], const float *g,
                  const struct lora_spot *s)
{
    UNROLL
    for (int i = 0; i < 4; i++) {
        float y = f32 ? dev_as_float(h->w[i]) : i / 2 ? dev_hi(h->w[i % 2]) : dev_lo(h->w[i % 2]);
        out[i] = y + (d[0][i] + d[1][i]);
        if (g && s->col + i / 2 < s->n) out[i] *= g[s->col + i / 2];
    }
}

DEV void lora_store_bf16(const struct op_lora *op, int row0, int slice, const struct lora_spot *s, const float out[4])
{
    UNROLL
    for (int i = 0; i < 2; i++)
        if (s->row + i < s->rows && s->col < s->n)
            *(uint32_t *)((uint16_t *)op->y + lora_at(op, row0, slice, s, i)) = dev_pack(out[i], out[i + 2]);
}

DEV void lora_store_f32(const struct op_lora *op, int row0, int slice, const struct lora_spot *s, const float out[4])
{
    UNROLL
    for (int i = 0; i < 4; i++)
        if (s->row + i % 2 < s->rows && s->col + i / 2 < s->n)
            ((float *)op->y)[lora_at(op, row0, slice, s, i % 2) + (size_t)(i / 2)] = out[i];
}

/* --- tail_add: y += ..., bf16 or float32 --- */

struct tail_add {
    int f32;
};

DEV bool lora_every(const struct tail_add *)
{
    return false;
}

DEV bool lora_whole(const struct tail_add *)
{
    return false;
}

DEV bool lora_passes(const struct tail_add *)
{
    return false;
}

DEV int lora_unit(const struct tail_add *)
{
    return LORA_N_STEP;
}

DEV void lora_hold(const struct tail_add *t, struct lora_held *h, const struct op_lora *op, int row0, int slice,
                   const struct lora_spot *s)
{
    if (t->f32)
        lora_hold_f32(h, op, row0, slice, s);
    else
        lora_hold_bf16(h, op, row0, slice, s);
}

template <int NT, int U>
DEV void lora_store(const struct tail_add *t, const struct lora_work<NT, 1, U> *w, int u, int n,
                    const struct op_lora *op, const struct lora_item<1> *item, const struct lora_spot *s)
{
    float out[4];
    lora_sum(out, t->f32, &w->held[0][u][n], w->d[0][u][n], item->e[0].g, s);
    if (t->f32)
        lora_store_f32(op, item->row0, item->slice, s, out);
    else
        lora_store_bf16(op, item->row0, item->slice, s, out);
}

/* --- a warp's tiles of 16 outputs tile, tile + 8, .. below end, U at a time --- */

template <int NT, int PARTS, int U, class TAIL>
DEV void lora_begin(const TAIL *tail, struct lora_work<NT, PARTS, U> *w, const struct op_lora *op,
                    const struct lora_item<PARTS> *item, int tile, int end)
{
    lora_clear<PARTS * U * NT * 8>(&w->d[0][0][0][0][0]);
    UNROLL
    for (int i = 0; i < PARTS * U * NT; i++) {
        int n = i % NT, u = i / NT % U, part = i / NT / U, slice = PARTS > 1 ? part : item->slice;
        struct lora_spot s = lora_spot_of(op->n[slice], tile + u * LORA_WARPS, n, item->rows);
        if (tile + u * LORA_WARPS < end) lora_hold(tail, &w->held[part][u][n], op, item->row0, slice, &s);
    }
}

/* stage: B's tiles from `first` on, entry after entry, `count` tiles of each; or NULL: where the entries say. */
template <int NT, int PARTS, int U, bool GLOBAL>
DEV void lora_add_up(struct lora_work<NT, PARTS, U> *w, const struct lora_item<PARTS> *item, const uint4 *stage,
                     int first, int count, const uint4 *v, int tile, int end)
{
    UNROLL
    for (int part = 0; part < PARTS; part++) {
        NO_UNROLL
        for (int u = 0; u < META_STACK; u++) {
            const struct lora_entry *e = &item->e[part * META_STACK + u];
            if (e->r == 0) continue;
            lora_expand<NT, U, GLOBAL>(w->d[part], e, GLOBAL ? e->b : stage, v, GLOBAL ? tile : tile - first,
                                       GLOBAL ? end : end - first);
            if (!GLOBAL) stage += count * e->r * 2;
        }
    }
}

template <int NT, int PARTS, int U, class TAIL>
DEV void lora_end(const TAIL *tail, const struct lora_work<NT, PARTS, U> *w, const struct op_lora *op,
                  const struct lora_item<PARTS> *item, int tile, int end)
{
    UNROLL
    for (int i = 0; i < U * NT; i++) {
        int n = i % NT, u = i / NT, slice = PARTS > 1 ? 0 : item->slice;
        struct lora_spot s = lora_spot_of(op->n[slice], tile + u * LORA_WARPS, n, item->rows);
        if (tile + u * LORA_WARPS < end) lora_store(tail, w, u, n, op, item, &s);
    }
}
