/* LoRA folded into what follows the product anyway (sm_90): one launch where there were two, and y is not written and read
 * once more.
 *
 *   lora_glu    gate | up, then act(gate) * up         both slices are one item: gate's and up's v side by side; sums end
 *                                                      in registers, y is only read
 *   lora_rope   q | k | v, then bias, head norms,      columns are cut by heads; y is written, then read by the block that
 *               rotation, the store into KV pages      wrote it, a warp a head (rope.h)
 *   lora_norm   x += ..., then h = norm(x)             columns are not cut; when a tile's rows are whole (the cluster's
 *                                                      barrier), block i of the team norms rows i and i + 8
 *
 * They do all rows: behind the tiles with adapters come those of the other rows, which skip shrink, exchange and expand.
 * The result is bit by bit that of launch_lora() and then the kernel alone: sums are rounded to y's type before anything
 * follows (registers or not), and what follows is the same device functions in the same order. So a step with adapters
 * and one without agree on rows that have none.
 *
 * Cost beside lora_sm90.cu's: glu reads 4 n and writes 2 n bytes a row and drops 4 n; rope adds one trip to L2; norm one
 * barrier of the team and one read of the row: each less than the 1 to 2 us that a kernel's start and end take. */
#include "kernels/cuda/glu.h"
#include "kernels/cuda/lora_cluster.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/rope.h"

/* --- glu --- */

struct tail_glu {
    struct op_glu glu;
};

DEV bool lora_every(const struct tail_glu *)
{
    return true;
}

DEV bool lora_whole(const struct tail_glu *)
{
    return false;
}

DEV bool lora_passes(const struct tail_glu *)
{
    return true;
}

DEV int lora_unit(const struct tail_glu *)
{
    return LORA_N_STEP;
}

DEV void lora_hold(const struct tail_glu *, struct lora_held *h, const struct op_lora *op, int row0, int slice,
                   const struct lora_spot *s)
{
    lora_hold_bf16(h, op, row0, slice, s);
}

/* A part's four values as y would hold them. */
template <int NT, int U>
DEV void glu_part(float out[4], const struct lora_work<NT, 2, U> *w, int part, int u, int n,
                  const struct lora_item<2> *item, const struct lora_spot *s)
{
    const struct lora_held *h = &w->held[part][u][n];
    bool touched = lora_touched(item, part);
    lora_sum(out, false, h, w->d[part][u][n], item->e[part * META_STACK].g, s);
    UNROLL
    for (int i = 0; i < 4; i++) {
        float y = i / 2 ? dev_hi(h->w[i % 2]) : dev_lo(h->w[i % 2]);
        out[i] = touched ? dev_lo(dev_pack(out[i], 0)) : y;
    }
}

template <int NT, int U>
DEV void lora_store(const struct tail_glu *t, const struct lora_work<NT, 2, U> *w, int u, int n, const struct op_lora *,
                    const struct lora_item<2> *item, const struct lora_spot *s)
{
    float gate[4], up[4];
    if (s->col >= s->n) return;
    glu_part(gate, w, 0, u, n, item, s);
    glu_part(up, w, 1, u, n, item, s);
    UNROLL
    for (int i = 0; i < 4; i++) {
        if (t->glu.gate_bias) gate[i] += t->glu.gate_bias[s->col + i / 2];
        if (t->glu.up_bias) up[i] += t->glu.up_bias[s->col + i / 2];
        gate[i] = glu_value(t->glu.act, gate[i], up[i]);
    }
    UNROLL
    for (int i = 0; i < 2; i++)
        if (s->row + i < s->rows)
            *(uint32_t *)(t->glu.out + (size_t)(item->row0 + s->row + i) * (size_t)(t->glu.n + t->glu.gap) + s->col) =
                dev_pack(gate[i], gate[i + 2]);
}

DEV void lora_finish(const struct tail_glu *, const struct lora_team<2> *, const struct op_lora *,
                     const struct lora_item<2> *)
{
}

/* --- rope: N as in rope.h --- */

template <int N> struct tail_rope {
    struct op_rope rope;
};

template <int N> DEV bool lora_every(const struct tail_rope<N> *)
{
    return true;
}

template <int N> DEV bool lora_whole(const struct tail_rope<N> *)
{
    return false;
}

template <int N> DEV bool lora_passes(const struct tail_rope<N> *)
{
    return false;
}

template <int N> DEV int lora_unit(const struct tail_rope<N> *t)
{
    return t->rope.kv.head_dim;
}

template <int N>
DEV void lora_hold(const struct tail_rope<N> *, struct lora_held *h, const struct op_lora *op, int row0, int slice,
                   const struct lora_spot *s)
{
    lora_hold_bf16(h, op, row0, slice, s);
}

template <int N, int NT, int U>
DEV void lora_store(const struct tail_rope<N> *, const struct lora_work<NT, 1, U> *w, int u, int n,
                    const struct op_lora *op, const struct lora_item<1> *item, const struct lora_spot *s)
{
    float out[4];
    lora_sum(out, false, &w->held[0][u][n], w->d[0][u][n], item->e[0].g, s);
    lora_store_bf16(op, item->row0, item->slice, s, out);
}

/* The heads that this block has of the item, all of whose columns it wrote. */
template <int N>
DEV void lora_finish(const struct tail_rope<N> *t, const struct lora_team<1> *b, const struct op_lora *op,
                     const struct lora_item<1> *item)
{
    const struct op_rope *rope = &t->rope;
    int hd = rope->kv.head_dim, first = item->slice == 0 ? 0 : rope->heads + (item->slice - 1) * rope->kv.kv_heads;
    struct lora_span s = lora_columns(op->n[item->slice] / hd, &b->walk, item->block, b->rank);
    if (item->blocks16 > 0) dev_sync(); /* all warps' columns */
    NO_UNROLL
    for (int i = (int)dev_warp(); i < item->rows * (s.to - s.from); i += LORA_WARPS) {
        int row = item->row0 + i / (s.to - s.from), h = first + s.from + i % (s.to - s.from);
        if (rope->meta.seq_of[row] < 0) continue;
        struct rope_head<N, 2> x;
        rope_load(rope, rope->qkv + (size_t)row * (size_t)rope->ld + h * hd, &x);
        rope_finish(rope, row, h, &x);
    }
}

/* --- norm --- */

struct tail_norm {
    struct op_rmsnorm norm;
};

DEV bool lora_every(const struct tail_norm *)
{
    return true;
}

DEV bool lora_whole(const struct tail_norm *)
{
    return true;
}

DEV bool lora_passes(const struct tail_norm *)
{
    return false;
}

DEV int lora_unit(const struct tail_norm *)
{
    return LORA_N_STEP;
}

DEV void lora_hold(const struct tail_norm *, struct lora_held *h, const struct op_lora *op, int row0, int slice,
                   const struct lora_spot *s)
{
    lora_hold_f32(h, op, row0, slice, s);
}

template <int NT, int U>
DEV void lora_store(const struct tail_norm *, const struct lora_work<NT, 1, U> *w, int u, int n,
                    const struct op_lora *op, const struct lora_item<1> *item, const struct lora_spot *s)
{
    float out[4];
    lora_sum(out, true, &w->held[0][u][n], w->d[0][u][n], item->e[0].g, s);
    lora_store_f32(op, item->row0, item->slice, s, out);
}

/* One row as rmsnorm.cu's block has it: up to 512 threads, of which this block is the lower and, in turn, the upper
 * half; so the sum has the same order. `scratch` [NORM_WARPS] */
DEV void norm_one(const struct op_rmsnorm *op, int row, float *scratch)
{
    int per = NORM_QUADS_OF(op->k), threads = NORM_THREADS_OF(op->k, per), quads = op->k / 4;
    const float4 *x = (const float4 *)(op->x + (size_t)row * (size_t)op->k), *weight = (const float4 *)op->weight;
    uint2 *out = (uint2 *)(op->out + (size_t)row * (size_t)(op->k + op->gap));
    NO_UNROLL
    for (int t = (int)threadIdx.x; t < threads; t += LORA_THREADS) {
        struct norm_row<1> r;
        float sum = 0;
        for (int i = 0; i < per; i++)
            if (t + i * threads < quads) r.v[0] = dev_ld_cg(x + t + i * threads), sum = norm_squares_on(&r, sum);
        sum = dev_warp_sum(sum);
        if (dev_lane() == 0) scratch[t / 32] = sum;
    }
    dev_sync();
    float sum = scratch[0];
    for (int w = 1; w < threads / 32; w++) sum += scratch[w];
    float factor = norm_factor(sum, op->k, op->eps);
    for (int q = (int)threadIdx.x; q < quads; q += LORA_THREADS)
        out[q] = norm_round(dev_ld_cg(x + q), factor, dev_ldg(weight + q));
    dev_sync(); /* scratch is free again */
}

DEV void lora_finish(const struct tail_norm *t, const struct lora_team<1> *b, const struct op_lora *,
                     const struct lora_item<1> *item)
{
    SHARED(float, scratch, NORM_WARPS);
    if (item->blocks16 > 0) dev_cluster_sync(); /* all columns of the rows */
    for (int row = b->rank; row < item->rows; row += LORA_SPLIT) norm_one(&t->norm, item->row0 + row, scratch);
}

/* --- kernels and launches --- */

template <int NT, int PARTS, class TAIL>
CLUSTER_KERNEL_ON(lora_fold, LORA_SPLIT, LORA_THREADS, LORA_BLOCKS_PER_SM)
(GRID_CONST struct op_lora op, GRID_CONST struct lora_plan plan, GRID_CONST TAIL tail)
{
    DYN_SHARED(unsigned char, shared);
    SHARED(float, part, LORA_WARPS * 8 * NT * LORA_PART_ROW);
    SHARED(struct lora_item<PARTS>, items, LORA_AHEAD);
    SHARED(struct dev_mbar, bars, 2 * LORA_STAGES);
    lora_cluster_run<NT, PARTS>(&tail, &op, &plan, items, bars, part, shared);
}

template <int NT, int PARTS, class TAIL> static int launch(const struct op_lora *op, const TAIL *tail, void *stream)
{
    struct lora_plan plan = lora_plan_of<NT, PARTS>(op->ranks);
    struct dev_launch l = lora_cluster_launch(&plan, stream);
    if (plan.bytes + plan.fixed > (size_t)cuda_target.shared_block) return RT_NOT_HERE;
    int held = CLUSTERS(&l, (lora_fold<NT, PARTS, TAIL>));
    if (held == 0) return RT_NOT_HERE;
    lora_cluster_teams(&plan, &l, held);
    return LAUNCH(&l, (lora_fold<NT, PARTS, TAIL>), *op, plan, *tail);
}

template <int PARTS, class TAIL> static int launch_any(const struct op_lora *op, const TAIL *tail, void *stream)
{
    int rc = lora_check(op);
    if (rc) return rc;
    return op->tile_rows > 8 ? launch<2, PARTS>(op, tail, stream) : launch<1, PARTS>(op, tail, stream);
}

int launch_lora_glu(const struct op_lora *lora, const struct op_glu *glu, void *stream)
{
    bool fits = lora->nslice == 2 && !lora->f32 && lora->n[0] == glu->n && lora->n[1] == glu->n && lora->y == glu->gu;
    if (cuda_target.cc < 90 || !fits) return RT_NOT_HERE;
    struct tail_glu tail = {*glu};
    return launch_any<2>(lora, &tail, stream);
}

int launch_lora_rope(const struct op_lora *lora, const struct op_rope *rope, void *stream)
{
    int hd = rope->kv.head_dim, rest = hd - rope->rotary;
    bool fits = lora->nslice == 3 && !lora->f32 && lora->y == rope->qkv && lora->ldy == rope->ld && hd % 16 == 0;
    fits = fits && hd <= 256 && rope->rotary % 4 == 0 && rest >= 0 && rest % 4 == 0;
    fits = fits && lora->n[0] == rope->heads * hd && lora->n[1] == rope->kv.kv_heads * hd && lora->n[2] == lora->n[1];
    if (cuda_target.cc < 90 || !fits) return RT_NOT_HERE;
    if (hd > 128) {
        struct tail_rope<2> tail = {
            *rope
        };
        return launch_any<1>(lora, &tail, stream);
    }
    struct tail_rope<1> tail = {
        *rope
    };
    return launch_any<1>(lora, &tail, stream);
}

int launch_lora_norm(const struct op_lora *lora, const struct op_rmsnorm *norm, void *stream)
{
    bool fits = lora->nslice == 1 && lora->f32 && lora->y == norm->x && lora->ldy == norm->k && lora->n[0] == norm->k;
    fits = fits && !norm->row_of && norm->k % 4 == 0 && NORM_QUADS_OF(norm->k) > 0;
    if (cuda_target.cc < 90 || !fits) return RT_NOT_HERE;
    struct tail_norm tail = {*norm};
    return launch_any<1>(lora, &tail, stream);
}
