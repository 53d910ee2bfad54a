/* Attention of prompts over pages: rows of a sequence see all that came before them, in the manner of FlashAttention-2
 * (Dao 2023).
 *
 * A block takes a tile of vectors (query heads of consecutive rows that share a kv head) through all positions that
 * any of them sees; its four warps have 32 vectors each (16 where head_dim is large or rows are few) and share K and
 * V, which come in halves of 32 positions through one ring (attention_tile.h). q lies in shared memory in front of
 * the ring; with head_dim 64 it is in registers as well. A warp leaves out the steps that none of its vectors sees.
 * Nothing is divided among blocks, so a vector's sums are one chain over its positions, whatever tile it is in and
 * wherever the prompt was cut; the last tiles of a sequence, the longest, come first.
 *
 * Grid: (tiles that a step of so many rows and sequences can have) x kv heads; blocks without a tile leave.
 *
 * Cost: 4 head_dim operations a pair of vector and position. At head_dim 128 a step is 512 products a block (128
 * vectors) for 16 KB of K and V from L2, 20 bytes a clock and SM at the rate that mma.sync reaches; shared memory is
 * read at 64 KB a step, 96 KB where q isn't in registers, close to what it can. wgmma would take K and V from there
 * directly. */
#include "kernels/cuda/attention_tile.h"

#define CAUSAL_WARPS 4

/* Groups of 16 vectors a warp has at most. */
#define CAUSAL_GROUPS(hd) ((hd) == 64 || (hd) == 96 || (hd) == 128 ? 2 : 1)

template <class E, int MW, int NT>
DEV void put_rows(const struct op_attn *op, const struct attn_work *work, const struct attn_state<MW, NT> *st,
                  int kv_head, int slice, int dims, int first, int most)
{
    int group = op->heads / op->kv.kv_heads, g = (int)dev_lane() / 4;
    UNROLL
    for (int i = 0; i < 2 * MW; i++) {
        int m = i / 2, half = i % 2, v = first + i * 8 + g;
        if (v >= most) continue;
        int row = v / group, head = kv_head * group + v % group;
        float inverse = 1 / st->sum[m][half];
        uint16_t *out = attn_out(op, work->seq.row0 + row, head) + slice * ATTN_SLICE;
        UNROLL
        for (int p = 0; p < NT; p++) {
            float lo, hi;
            int d = attn_pair<E>(st->o[m], p / 2, half, p % 2, &lo, &hi);
            if (d < dims) *(uint32_t *)(out + d) = attn_output(lo, hi, inverse);
        }
    }
}

template <class E, int HD, int MW> KERNEL(attention_causal, CAUSAL_WARPS * 32, 2)(GRID_CONST struct op_attn op)
{
    const int NT = (HD && HD <= ATTN_SLICE ? HD : ATTN_SLICE) / 8, QK = HD == 64 ? HD / 16 : 0;
    DYN_SHARED(char, shared);
    struct attn_dims d = attn_dims_of<E, HD>(op.kv.head_dim);
    struct attn_rule rule = attn_rule_of(&op);
    struct attn_work work;
    int group = op.heads / op.kv.kv_heads, slices = (op.kv.head_dim + ATTN_SLICE - 1) / ATTN_SLICE;
    int vectors = (int)blockDim.x / 32 * 16 * MW, across = op.kv.kv_heads * slices, item = (int)blockIdx.x;
    int kv_head = item % across / slices, slice = item % slices;
    dev_pdl_launch();
    bool found = attn_find(&op, ATTN_CAUSAL, vectors, item / across, &work);
    dev_pdl_wait();
    if (!found) return;
    int most = work.seq.rows * group, tiles = (most + vectors - 1) / vectors;
    int first = (tiles - 1 - work.unit) * vectors, end = first + vectors < most ? first + vectors : most;
    int own = first + (int)dev_warp() * 16 * MW;
    struct attn_source src = attn_source_of<E, HD>(&op, &work.seq, kv_head, slice, first / group, (end - 1) / group);
    struct attn_state<MW, NT> st;
    struct attn_query<MW, QK> q;
    struct attn_sight<MW> see;
    attn_load_q<E, HD>(&op, &work.seq, &d, shared, kv_head, first, vectors, most);
    attn_sight_init(&see, &op, &work.seq, own, most);
    attn_state_init(&st);
    dev_sync();
    attn_query_init(&q, shared + (int)dev_warp() * 16 * MW * d.q_stride, d.q_stride);
    attn_walk<E, HD, MW, NT, QK, true>(&st, &src, &d, &q, &see, &rule, shared + vectors * d.q_stride,
                                       src.lo / ATTN_STEP * ATTN_STEP, src.last + 1, own >= most);
    attn_state_close(&st);
    put_rows<E, MW, NT>(&op, &work, &st, kv_head, slice, src.v_dims, own, most);
}

/* --- launching --- */

/* How a shape is cut on this device. Sums don't depend on it. */
struct causal_cut {
    int warps, groups; /* of a block; groups of 16 vectors of a warp */
    int blocks;
    size_t bytes;
};

static int causal_blocks(const struct op_attn *op, int vectors)
{
    int hd = op->kv.head_dim, group = op->heads / op->kv.kv_heads, slices = (hd + ATTN_SLICE - 1) / ATTN_SLICE;
    return (op->rows * group / vectors + op->seqs) * op->kv.kv_heads * slices;
}

/* Small tiles where large ones would leave processors idle; as many warps as the memory is enough for. */
static bool causal_cut_of(const struct op_attn *op, struct causal_cut *c)
{
    int hd = op->kv.head_dim, int8 = op->kv.int8;
    c->groups = CAUSAL_GROUPS(hd);
    if (op->rows * op->heads / (CAUSAL_WARPS * 16 * c->groups) < cuda_target.sms) c->groups = 1;
    for (c->warps = CAUSAL_WARPS; c->warps; c->warps /= 2) {
        int vectors = c->warps * 16 * c->groups;
        c->bytes = (size_t)vectors * (size_t)ATTN_Q_STRIDE(hd, int8) + (size_t)(ATTN_RING * ATTN_SLOT(hd, int8));
        c->blocks = causal_blocks(op, vectors);
        if (c->bytes <= (size_t)cuda_target.shared_block) return true;
    }
    return false;
}

template <class E, int HD>
static int causal_with(const struct op_attn *op, const struct causal_cut *c, const struct dev_launch *l)
{
    if (c->groups == 1) return LAUNCH(l, (attention_causal<E, HD, 1>), *op);
    return LAUNCH(l, (attention_causal<E, HD, CAUSAL_GROUPS(HD)>), *op);
}

template <class E>
static int causal_of(const struct op_attn *op, const struct causal_cut *c, const struct dev_launch *l)
{
    switch (ATTN_KERNEL(op)) {
    case 64:
        return causal_with<E, 64>(op, c, l);
    case 96:
        return causal_with<E, 96>(op, c, l);
    case 128:
        return causal_with<E, 128>(op, c, l);
    case 256:
        return causal_with<E, 256>(op, c, l);
    default:
        return causal_with<E, 0>(op, c, l);
    }
}

int launch_attention_causal(const struct op_attn *op, void *stream)
{
    struct causal_cut c;
    if (!causal_cut_of(op, &c)) return RT_BAD_SHAPE;
    struct dev_launch l = {};
    l.gx = (unsigned)c.blocks;
    l.threads = 32 * (unsigned)c.warps;
    l.shared = c.bytes, l.stream = stream, l.pdl = cuda_target.pdl;
    return op->kv.int8 ? causal_of<int8_t>(op, &c, &l) : causal_of<uint16_t>(op, &c, &l);
}

int launch_attn(const struct op_attn *op, void *stream)
{
    bool shape = op->kv.head_dim % 2 == 0 && op->kv.head_dim > 0 && op->kv.head_dim <= ATTN_HEAD_DIM_MOST &&
                 op->kv.kv_heads > 0 && op->heads % op->kv.kv_heads == 0;
    if (!shape) return RT_BAD_SHAPE;
    int e = launch_attention_split(op, stream);
    if (!e) e = launch_attention_merge(op, stream);
    if (!e && op->prompts) e = launch_attention_causal(op, stream);
    return e;
}
