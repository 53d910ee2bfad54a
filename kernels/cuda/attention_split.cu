/* Attention of sequences with few rows over the pages of their past: split by positions, then merged.
 *
 * A unit is (tile of 16 vectors, segment of positions) of a sequence; a block takes a unit for one kv head, so that all
 * its query heads share the loads. The block's warps divide the segment evenly; each walks its part by itself
 * (attention_tile.h), with a ring of its own and no barrier of the block; then the parts are joined in their order, and
 * the block writes the state (largest, sum, weighted sum of V, float32) of each vector, or, where the sequence has one
 * segment only, the output. attention_merge joins the states of a vector in the order of the segments.
 *
 * Grid: as many blocks as the device holds at once; block b takes work b, b + grid, ... until there is none. So the
 * grid is the same for every step, and a bucket need not know how long its sequences are. In shared memory: q [16],
 * the warps' rings, where their parts are left afterwards, and ends[warp][16][2]: largest and sum of each part.
 *
 * Cost: K and V once from memory, with two halves of 32 positions on their way in each of 4 warps (head_dim 128,
 * bf16: 64 KB a block, two blocks an SM). A warp's step is some 500 instructions for 16 KB in bf16, 1,050 for 8.5 KB
 * in int8 (half of them make bf16 of bytes), counted in the machine code: 16 and 63 % of the time that the bytes take
 * on an H200. Products with 16 rows of which one is used are an eighth of it, so small groups need no path of their
 * own. States are 1/64 of the bytes at 4 heads per kv head; merging should be latency, 3 us, of which dependent
 * launch hides a part. */
#include "kernels/cuda/attention_tile.h"

#define SPLIT_WARPS 4
#define SPLIT_VECTORS 16
#define SPLIT_BLOCKS 8 /* of an SM, at most */
#define SPLIT_ENDS_BYTES (SPLIT_WARPS * SPLIT_VECTORS * 2 * sizeof(float))
/* Blocks of an SM that registers are set aside for; shared memory has room for two of head_dim 128 in bf16. */
#define SPLIT_RESIDENT(E, HD) ((HD) == 64 ? 5 - (int)sizeof(E) : 2)
#define MERGE_WARPS 4
#define MERGE_AHEAD 8          /* loads of 512 bytes that a warp has on their way */
#define SM_SHARED (227 * 1024) /* of an H100's multiprocessor; where there is less, some blocks wait */

/* A state in the scratch memory, in floats: V's sum [head_dim rounded up to 4], largest, sum, 2 unused. */
#define STATE_ENDS(head_dim) (((head_dim) + 3) / 4 * 4)
#define STATE_FLOATS(head_dim) (STATE_ENDS(head_dim) + 4)

DEV float *state_of(const struct op_attn *op, int state, int head)
{
    size_t at = (size_t)state * (size_t)op->heads + (size_t)head;
    return (float *)op->scratch + at * (size_t)STATE_FLOATS(op->kv.head_dim);
}

/* What a sum against the largest `most` is worth against `larger`; both are exponents of 2. */
DEV float worth(float most, float larger)
{
    return most == ATTN_NONE ? 0 : dev_exp2(most - larger);
}

/* One block's work. */
struct unit {
    struct attn_work work;
    int kv_head, slice, tile, seg; /* seg: of the sequence's */
    int first, most;               /* vectors first .. of most */
};

DEV bool find_unit(const struct op_attn *op, int item, struct unit *u)
{
    int slices = (op->kv.head_dim + ATTN_SLICE - 1) / ATTN_SLICE, heads = op->kv.kv_heads * slices;
    if (!attn_find(op, ATTN_SPLIT, SPLIT_VECTORS, item / heads, &u->work)) return false;
    u->kv_head = item % heads / slices, u->slice = item % slices;
    u->tile = u->work.unit / u->work.nseg, u->seg = u->work.unit % u->work.nseg;
    u->first = u->tile * SPLIT_VECTORS;
    u->most = u->work.seq.rows * (op->heads / op->kv.kv_heads);
    return true;
}

/* The positions of this warp's part of the segment, in steps. */
DEV void part_of(const struct unit *u, const struct attn_source *src, int *from, int *to)
{
    int segment = u->work.segment0 + u->seg, parts = (int)blockDim.x / 32;
    int start = attn_segment_start(segment), length = (attn_segment_start(segment + 1) - start) / parts;
    start += (int)dev_warp() * length;
    int end = start + length < src->last + 1 ? start + length : src->last + 1;
    *from = start > src->lo ? start : src->lo / ATTN_STEP * ATTN_STEP;
    *to = end;
}

/* A warp's part goes to [16][dims + 8] floats of shared memory, its ends beside. */
template <class E, int NT>
DEV void leave_part(const struct attn_state<1, NT> *st, const struct attn_rule *rule, float *to, float *ends, int dims,
                    int ld)
{
    int g = (int)dev_lane() / 4;
    UNROLL
    for (int i = 0; i < NT * 2; i++) {
        float lo, hi;
        int half = i % 2, d = attn_pair<E>(st->o[0], i / 4, half, i / 2 % 2, &lo, &hi);
        if (d < dims) *(float2 *)(to + (g + 8 * half) * ld + d) = make_float2(lo, hi);
    }
    if (dev_lane() % 4) return;
    UNROLL
    for (int half = 0; half < 2; half++) {
        float most = st->most[0][half];
        ends[(g + 8 * half) * 2] = most == ATTN_NONE ? ATTN_NONE : most * rule->factor;
        ends[(g + 8 * half) * 2 + 1] = st->sum[0][half];
    }
}

/* Dimensions d, d+1 of a vector: the parts' sums, one after the other. */
struct joined {
    float most, sum, lo, hi;
};

DEV struct joined join_parts(const float *part, size_t part_floats, const float *ends, int slot, int ld, int d)
{
    struct joined j = {ATTN_NONE, 0, 0, 0};
    int parts = (int)blockDim.x / 32;
    for (int w = 0; w < parts; w++) j.most = fmaxf(j.most, ends[(w * SPLIT_VECTORS + slot) * 2]);
    for (int w = 0; w < parts; w++) {
        float2 v = *(const float2 *)(part + (size_t)w * part_floats + slot * ld + d);
        const float *end = ends + (w * SPLIT_VECTORS + slot) * 2;
        float x = worth(end[0], j.most);
        j.sum = dev_fma(x, end[1], j.sum);
        j.lo = dev_fma(x, v.x, j.lo), j.hi = dev_fma(x, v.y, j.hi);
    }
    return j;
}

/* The block's vectors: outputs, or states where others have to be merged. */
DEV void put_unit(const struct op_attn *op, const struct unit *u, const float *part, size_t part_floats,
                  const float *ends, int dims, int ld)
{
    int group = op->heads / op->kv.kv_heads, hd = op->kv.head_dim, pairs = dims / 2;
    int count = u->most - u->first < SPLIT_VECTORS ? u->most - u->first : SPLIT_VECTORS;
    for (int i = (int)threadIdx.x; i < count * pairs; i += (int)blockDim.x) {
        int slot = i / pairs, d = i % pairs * 2, v = u->first + slot;
        int row = v / group, head = u->kv_head * group + v % group, at = u->slice * ATTN_SLICE + d;
        struct joined j = join_parts(part, part_floats, ends, slot, ld, d);
        if (u->work.nseg == 1) {
            uint16_t *out = attn_out(op, u->work.seq.row0 + row, head);
            *(uint32_t *)(out + at) = attn_output(j.lo, j.hi, 1 / j.sum);
            continue;
        }
        float *state = state_of(op, u->work.state + row * u->work.nseg + u->seg, head);
        *(float2 *)(state + at) = make_float2(j.lo, j.hi);
        if (at == 0) *(float2 *)(state + STATE_ENDS(hd)) = make_float2(j.most, j.sum);
    }
}

template <class E, int HD>
KERNEL(attention_split, SPLIT_WARPS * 32, SPLIT_RESIDENT(E, HD))
(GRID_CONST struct op_attn op)
{
    const int NT = (HD && HD <= ATTN_SLICE ? HD : ATTN_SLICE) / 8, QK = HD && HD <= 128 ? HD / 16 : 0;
    DYN_SHARED(char, shared);
    SHARED(float, ends, SPLIT_WARPS *SPLIT_VECTORS * 2);
    struct attn_dims d = attn_dims_of<E, HD>(op.kv.head_dim);
    struct attn_rule rule = attn_rule_of(&op);
    char *ring = shared + SPLIT_VECTORS * d.q_stride;
    size_t part_floats = (size_t)(ATTN_RING * d.slot) / sizeof(float);
    dev_pdl_launch();
    struct unit u;
    bool found = find_unit(&op, (int)blockIdx.x, &u);
    dev_pdl_wait();
    for (int item = (int)blockIdx.x; found; item += (int)gridDim.x, found = find_unit(&op, item, &u)) {
        struct attn_state<1, NT> st;
        struct attn_query<1, QK> q;
        struct attn_sight<1> see;
        int group = op.heads / op.kv.kv_heads, end = u.first + SPLIT_VECTORS, from, to;
        struct attn_source src = attn_source_of<E, HD>(&op, &u.work.seq, u.kv_head, u.slice, u.first / group,
                                                       ((end < u.most ? end : u.most) - 1) / group);
        attn_load_q<E, HD>(&op, &u.work.seq, &d, shared, u.kv_head, u.first, SPLIT_VECTORS, u.most);
        attn_sight_init(&see, &op, &u.work.seq, u.first, u.most);
        attn_state_init(&st);
        part_of(&u, &src, &from, &to);
        dev_sync();
        attn_query_init(&q, shared, d.q_stride);
        attn_walk<E, HD, 1, NT, QK, false>(&st, &src, &d, &q, &see, &rule,
                                           ring + dev_warp() * (size_t)(ATTN_RING * d.slot), from, to, false);
        attn_state_close(&st);
        dev_sync_warp();
        leave_part<E, NT>(&st, &rule, (float *)ring + dev_warp() * part_floats, ends + dev_warp() * SPLIT_VECTORS * 2,
                          src.v_dims, src.v_dims + 8);
        dev_sync();
        put_unit(&op, &u, (const float *)ring, part_floats, ends, src.v_dims, src.v_dims + 8);
    }
}

/* --- merging --- */

/* The largest over a vector's states, the same in all lanes. */
DEV float largest(const float *state, size_t step, int end, int nseg)
{
    float most = ATTN_NONE;
    for (int i = (int)dev_lane(); i < nseg; i += 32) most = fmaxf(most, state[(size_t)i * step + (size_t)end]);
    return dev_warp_max(most);
}

/* A warp: the output of a vector whose states lie `step` floats apart; lane l has dimensions 4 l + 128 j .. +3. The
 * loads of MERGE_AHEAD / J states are on their way together; states behind the last count nothing. */
template <int J> DEV void merge_vector(const float *state, size_t step, int hd, int nseg, uint16_t *out)
{
    const int N = MERGE_AHEAD / J;
    int lane = (int)dev_lane(), end = STATE_ENDS(hd);
    float most = largest(state, step, end, nseg), sum = 0, o[J][4] = {};
    for (int base = 0; base < nseg; base += N) {
        float4 v[N][J];
        float2 ends[N];
        UNROLL
        for (int s = 0; s < N; s++) {
            bool real = base + s < nseg;
            const float *from = state + (size_t)(real ? base + s : 0) * step;
            ends[s] = real ? *(const float2 *)(from + end) : make_float2(ATTN_NONE, 0);
            UNROLL
            for (int j = 0; j < J; j++) {
                int d = 4 * lane + 128 * j;
                v[s][j] = real && d < hd ? *(const float4 *)(from + d) : make_float4(0, 0, 0, 0);
            }
        }
        UNROLL
        for (int s = 0; s < N; s++) {
            float w = worth(ends[s].x, most);
            sum = dev_fma(w, ends[s].y, sum);
            UNROLL
            for (int j = 0; j < J; j++) {
                o[j][0] = dev_fma(w, v[s][j].x, o[j][0]), o[j][1] = dev_fma(w, v[s][j].y, o[j][1]);
                o[j][2] = dev_fma(w, v[s][j].z, o[j][2]), o[j][3] = dev_fma(w, v[s][j].w, o[j][3]);
            }
        }
    }
    UNROLL
    for (int i = 0; i < 2 * J; i++) {
        int d = 4 * lane + 128 * (i / 2) + 2 * (i % 2);
        if (d < hd) *(uint32_t *)(out + d) = attn_output(o[i / 2][i % 2 * 2], o[i / 2][i % 2 * 2 + 1], 1 / sum);
    }
}

/* Grid: (tile of 16 vectors of a sequence, kv head); a warp takes every fourth vector. J: float4 of a lane. */
template <int J> KERNEL(attention_merge, MERGE_WARPS * 32, 4)(GRID_CONST struct op_attn op)
{
    struct attn_work work;
    int group = op.heads / op.kv.kv_heads, hd = op.kv.head_dim, item = (int)blockIdx.x;
    int kv_head = item % op.kv.kv_heads;
    dev_pdl_launch();
    bool found = attn_find(&op, ATTN_MERGE, SPLIT_VECTORS, item / op.kv.kv_heads, &work);
    dev_pdl_wait();
    if (!found) return;
    int first = work.unit * SPLIT_VECTORS, most = work.seq.rows * group;
    size_t step = (size_t)op.heads * (size_t)STATE_FLOATS(hd);
    for (int slot = (int)dev_warp(); slot < SPLIT_VECTORS && first + slot < most; slot += MERGE_WARPS) {
        int row = (first + slot) / group, head = kv_head * group + (first + slot) % group;
        uint16_t *out = attn_out(&op, work.seq.row0 + row, head);
        merge_vector<J>(state_of(&op, work.state + row * work.nseg, head), step, hd, work.nseg, out);
    }
}

/* --- launching --- */

/* Warps of a block: as many as its memory has rings for; the same for a shape on a device, whatever is in the step. */
static int split_warps(const struct op_attn *op, size_t *bytes)
{
    size_t hd = (size_t)op->kv.head_dim, most = (size_t)cuda_target.shared_block - SPLIT_ENDS_BYTES;
    for (int warps = SPLIT_WARPS; warps; warps /= 2) {
        *bytes =
            SPLIT_VECTORS * ATTN_Q_STRIDE(hd, op->kv.int8) + (size_t)warps * ATTN_RING * ATTN_SLOT(hd, op->kv.int8);
        if (*bytes <= most) return warps;
    }
    return 0;
}

template <class E> static int split_with(const struct op_attn *op, const struct dev_launch *l)
{
    switch (ATTN_KERNEL(op)) {
    case 64:
        return LAUNCH(l, (attention_split<E, 64>), *op);
    case 96:
        return LAUNCH(l, (attention_split<E, 96>), *op);
    case 128:
        return LAUNCH(l, (attention_split<E, 128>), *op);
    case 256:
        return LAUNCH(l, (attention_split<E, 256>), *op);
    default:
        return LAUNCH(l, (attention_split<E, 0>), *op);
    }
}

int launch_attention_split(const struct op_attn *op, void *stream)
{
    size_t bytes;
    int warps = split_warps(op, &bytes);
    if (!warps) return RT_BAD_SHAPE;
    size_t blocks = SM_SHARED / (bytes + SPLIT_ENDS_BYTES + 1024);
    blocks = blocks < 1 ? 1 : blocks > SPLIT_BLOCKS ? SPLIT_BLOCKS : blocks;
    struct dev_launch l = {};
    l.gx = (unsigned)cuda_target.sms * (unsigned)blocks;
    l.threads = 32 * (unsigned)warps;
    l.shared = bytes, l.stream = stream, l.pdl = cuda_target.pdl;
    return op->kv.int8 ? split_with<int8_t>(op, &l) : split_with<uint16_t>(op, &l);
}

/* Rows of sequences with few rows in a step of so many. */
static int few_rows(int rows, int seqs)
{
    return rows < seqs * ATTN_FEW ? rows : seqs * ATTN_FEW;
}

int launch_attention_merge(const struct op_attn *op, void *stream)
{
    int group = op->heads / op->kv.kv_heads;
    int tiles = few_rows(op->rows, op->seqs) * group / SPLIT_VECTORS + op->seqs;
    struct dev_launch l = {};
    l.gx = (unsigned)(tiles * op->kv.kv_heads);
    l.threads = 32 * MERGE_WARPS;
    l.stream = stream, l.pdl = cuda_target.pdl;
    if (op->kv.head_dim <= 128) return LAUNCH(&l, (attention_merge<1>), *op);
    if (op->kv.head_dim <= 256) return LAUNCH(&l, (attention_merge<2>), *op);
    return LAUNCH(&l, (attention_merge<ATTN_HEAD_DIM_MOST / 128>), *op);
}

/* Segments up to max_context, rounded up to an octave's. */
size_t attn_scratch(int max_rows, int max_seqs, int heads, int head_dim, int max_context)
{
    size_t segments = ATTN_EVEN, state = (size_t)STATE_FLOATS(head_dim) * sizeof(float);
    for (int64_t reach = ATTN_EVEN * ATTN_SEGMENT; reach < max_context; reach *= 2) segments += ATTN_EIGHTHS;
    return (size_t)few_rows(max_rows, max_seqs) * segments * (size_t)heads * state;
}
