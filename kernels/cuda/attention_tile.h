/* Attention's common ground, device code: a warp's way through the positions of one sequence, for 16 or 32 vectors (a
 * vector is a query head of a row) that share a kv head.
 *
 * Positions are taken in *steps* of 32 (two pages), counted from position 0 of the sequence: scores of the step by
 * m16n8k16 products, its largest, exponentials against the running largest (Milakov and Gimelshein 2018), values by
 * products again. K and V of a step come as two *halves* through a ring of three slots in shared memory: while one half
 * is worked on, two are on their way, and one barrier a half is enough:
 *
 *     half      K0        V0        K1        V1
 *     wait for  K0        V0        K1        V1        then the barrier: all see it, all left the half before
 *     ask for   K1        V1        K2        V2        into the slot of the half before
 *     work      scores,   values    scores,   values
 *               softmax             softmax
 *
 * The ring belongs to a warp (decoding: each has positions of its own) or to the block (prompts: all share them).
 *
 * What a vector's bits depend on: its position, its sequence's K and V, the window, and where the walk over the
 * positions begins and is cut, which positions alone decide. A step that it does not see, because other vectors of the
 * tile do, changes nothing: its largest stays, keep is 1, weights are 0. Tiles, neighbours and padding don't enter.
 *
 * Never read: positions before the first or behind the last that the tile sees, and pages wholly of such; their slots
 * are zero in shared memory, so that NaN times a weight of 0 can't happen. Their scales may be anything.
 *
 * int8: K and V become bf16 in registers (127 steps are exact in it); the scale of a token multiplies its score, and
 * its weight. One ldmatrix brings 16 dimensions of 8 tokens: lane t of four holds dimensions 4t .. 4t+3, so the
 * products' order of k is permuted, and so is q in shared memory; for V the order of the outputs is. */
#pragma once
#include "kernels/cuda/attention_work.h"

#define ATTN_NONE (-dev_as_float(0x7f800000u)) /* the largest of no scores */
#define ATTN_AND_OR 0xea                       /* lop3: (a & b) | c */
#define ATTN_LOG2E 1.4426950408889634f

/* Sizes of a head in shared memory; constants where HD is. */
struct attn_dims {
    int hd;
    int chunks;   /* 16-byte pieces of a row of K in shared memory */
    int pieces;   /* of them in the page; the rest is zero */
    int tail;     /* bytes of the last of these that count; 0: all */
    int stride;   /* bytes between rows: an odd number of pieces, so that eight rows meet all banks */
    int room;     /* bytes in front of the rows: scales */
    int slot;     /* bytes of a slot */
    int ksteps;   /* products of 16 dimensions */
    int q_stride; /* bytes between vectors */
};

/* Where positions come from. */
struct attn_source {
    const char *part; /* K of the kv head and layer in page 0 */
    size_t page_bytes;
    int part_bytes, scale_bytes, row_bytes;
    const int32_t *page; /* of the sequence */
    int lo, last;        /* positions that the tile sees */
    int at, id;          /* this lane knows the number of page at + lane */
    int v_first, v_dims; /* V: its first piece, dimensions */
};

/* How scores become weights: exp2(factor z), z = score or tanh(score * pre). */
struct attn_rule {
    float factor, pre;
    bool capped;
};

/* What rows g and g + 8 of each product see: `window` positions up to `last`. */
template <int MW> struct attn_sight {
    int last[MW][2], window;
    int all_first, all_last; /* seen by every vector */
    int any_first, any_last; /* seen by some */
};

template <int MW, int NT> struct attn_state {
    float o[MW][NT][4];
    float most[MW][2], sum[MW][2]; /* largest z; this lane's part of the sum */
};

/* A warp's q: products of the first QK steps of k in registers, the others from shared memory. */
template <int MW, int QK> struct attn_query {
    const char *row; /* this lane's for ldmatrix */
    uint32_t a[MW][QK ? QK : 1][4];
};

template <class E, int HD> DEV struct attn_dims attn_dims_of(int head_dim)
{
    const int int8 = sizeof(E) == 1;
    struct attn_dims d;
    d.hd = HD ? HD : head_dim;
    d.chunks = ATTN_WIDE(d.hd, int8) * (int)sizeof(E) / 16;
    d.pieces = (d.hd * (int)sizeof(E) + 15) / 16;
    d.tail = d.hd * (int)sizeof(E) % 16;
    d.stride = ATTN_STRIDE(d.hd, int8);
    d.room = ATTN_SCALES(int8);
    d.slot = ATTN_SLOT(d.hd, int8);
    d.ksteps = ATTN_WIDE(d.hd, int8) / 16;
    d.q_stride = ATTN_Q_STRIDE(d.hd, int8);
    return d;
}

/* --- loads --- */

template <class E, int HD>
DEV struct attn_source attn_source_of(const struct op_attn *op, const struct cuda_seq *q, int kv_head, int slice,
                                      int first_row, int last_row)
{
    const struct cuda_kv *kv = &op->kv;
    struct attn_source s;
    s.part = kv->base + (size_t)op->layer * kv->layer_bytes + (size_t)(2 * kv_head) * (size_t)kv->part_bytes;
    s.page_bytes = kv->page_bytes;
    s.part_bytes = kv->part_bytes, s.scale_bytes = kv->scale_bytes, s.row_bytes = kv->row_bytes;
    s.page = op->meta.page + q->page0;
    s.lo = attn_first_seen(op->window, q->pos0 + first_row);
    s.last = q->pos0 + last_row;
    s.at = -64, s.id = 0;
    int hd = HD ? HD : kv->head_dim, left = hd - slice * ATTN_SLICE;
    s.v_first = slice * ATTN_SLICE * (int)sizeof(E) / 16;
    s.v_dims = left < ATTN_SLICE ? left : ATTN_SLICE;
    return s;
}

/* Page `page` of the sequence, the same in all lanes. Numbers are asked for 32 at a time. */
DEV const char *attn_page(struct attn_source *s, int page)
{
    if (page < s->at || page >= s->at + 32) {
        int want = page + (int)dev_lane(), most = s->last / ATTN_PAGE;
        s->at = page;
        s->id = s->page[want < most ? want : most];
    }
    return s->part + (size_t)dev_shfl(s->id, page - s->at) * s->page_bytes;
}

/* All positions of the step are wanted, and pieces of a row divide a warp: lane l has piece l % chunks of every so many
 * rows, at addresses that are constants apart. */
template <class E, int HD>
DEV void attn_load_whole(const char *first, const char *second, size_t to_rows, const struct attn_dims *d, char *slot)
{
    const int rows = 32 / d->chunks, row_bytes = HD * (int)sizeof(E);
    int lane = (int)dev_lane(), row = lane / d->chunks, c = lane % d->chunks;
    size_t from = to_rows + (size_t)(row * row_bytes + c * 16);
    char *to = slot + d->room + row * d->stride + c * 16;
    const char *page[2] = {first + from, second + from};
    UNROLL
    for (int r = 0; r < ATTN_STEP; r += rows)
        dev_cp_async16(to + r * d->stride, page[r / ATTN_PAGE] + r % ATTN_PAGE * row_bytes);
}

/* Thread t of n asks for its pieces of K or V of the step at `base`; a warp's ring: n is 32. */
template <class E, int HD, bool BLOCK>
DEV void attn_load(struct attn_source *s, const struct attn_dims *d, char *slot, int base, bool value, int t, int n)
{
    const char *first = attn_page(s, base / ATTN_PAGE), *second = attn_page(s, base / ATTN_PAGE + 1);
    size_t to_part = value ? (size_t)s->part_bytes : 0;
    int pieces = HD || !value ? d->pieces : (s->v_dims * (int)sizeof(E) + 15) / 16;
    size_t to_rows = to_part + (size_t)s->scale_bytes + (HD || !value ? 0 : (size_t)s->v_first * 16);
    if (sizeof(E) == 1 && t < ATTN_STEP / 4) { /* four scales a piece */
        int pos = base + t * 4;
        bool seen = pos + 3 >= s->lo && pos <= s->last;
        const char *from = (t < ATTN_PAGE / 4 ? first : second) + to_part + t % (ATTN_PAGE / 4) * 16;
        dev_cp_async16_zfill(slot + t * 16, seen ? from : s->part, seen);
    }
    if (HD && !BLOCK && 32 % d->chunks == 0 && base >= s->lo && base + ATTN_STEP - 1 <= s->last) {
        attn_load_whole<E, HD>(first, second, to_rows, d, slot);
        return;
    }
    NO_UNROLL
    for (int i = t; i < ATTN_STEP * d->chunks; i += n) {
        int row = i / d->chunks, c = i % d->chunks, pos = base + row;
        bool seen = pos >= s->lo && pos <= s->last && c < pieces;
        const char *from = (row < ATTN_PAGE ? first : second) + to_rows + (row % ATTN_PAGE) * s->row_bytes + c * 16;
        dev_cp_async16_zfill(slot + d->room + row * d->stride + c * 16, seen ? from : s->part, seen);
    }
}

/* K behind the last dimension becomes zero, whatever the page holds there: by the thread that brought it. */
template <class E, int HD> DEV void attn_clear_tail(const struct attn_dims *d, char *slot, int t, int n)
{
    if (HD || !d->tail) return;
    dev_cp_async_wait<ATTN_RING - 2>();
    for (int i = t; i < ATTN_STEP * d->chunks; i += n) {
        if (i % d->chunks != d->pieces - 1) continue;
        char *piece = slot + d->room + i / d->chunks * d->stride + (d->pieces - 1) * 16;
        for (int b = d->tail; b < 16; b += 2) *(uint16_t *)(piece + b) = 0;
    }
}

/* Pair p of a vector's dimensions in shared memory. */
template <class E> DEV int attn_q_pair(int p)
{
    return sizeof(E) == 2 ? p : (p & ~7) | (p & 1) << 2 | (p & 7) >> 1;
}

/* q of `count` vectors from `first` on into shared memory; those beyond `most` are the last one again. */
template <class E, int HD>
DEV void attn_load_q(const struct op_attn *op, const struct cuda_seq *seq, const struct attn_dims *d, char *q,
                     int kv_head, int first, int count, int most)
{
    int group = op->heads / op->kv.kv_heads, per = HD ? HD / 8 : d->ksteps * 8;
    for (int i = (int)threadIdx.x; i < count * per; i += (int)blockDim.x) {
        int slot = i / per, p = i % per, v = first + slot < most ? first + slot : most - 1;
        const uint16_t *from = op->qkv + (size_t)(seq->row0 + v / group) * (size_t)op->ld +
                               (size_t)(kv_head * group + v % group) * (size_t)d->hd;
        uint32_t *to = (uint32_t *)(q + slot * d->q_stride);
        if (HD) {
            uint4 w = ((const uint4 *)from)[p];
            to[attn_q_pair<E>(4 * p)] = w.x, to[attn_q_pair<E>(4 * p + 1)] = w.y;
            to[attn_q_pair<E>(4 * p + 2)] = w.z, to[attn_q_pair<E>(4 * p + 3)] = w.w;
        } else {
            to[attn_q_pair<E>(p)] = 2 * p < d->hd ? ((const uint32_t *)from)[p] : 0;
        }
    }
}

/* --- products --- */

/* Bytes I and J of a word of signed bytes as a pair of bf16: the low seven bits in the fraction of 128, less 128, or
 * 256 for a negative byte. Each is a bf16, so nothing is rounded. */
template <int I, int J> DEV uint32_t attn_wide(uint32_t bytes)
{
    uint32_t pair = dev_prmt(bytes, 0, 0x4040u | I | J << 8);
    uint32_t low = dev_lop3<ATTN_AND_OR>(pair, 0x007f007fu, 0x43004300u);
    return dev_fma_bf16x2(low, 0x3f803f80u, dev_lop3<ATTN_AND_OR>(pair, 0x00800080u, 0xc300c300u));
}

/* K of the step's 32 tokens and dimensions 16 ks .. as the products' b. */
template <class E> DEV void attn_keys(uint32_t b[4][2], const char *rows, const struct attn_dims *d, int ks)
{
    int lane = (int)dev_lane();
    uint32_t r[4];
    if (sizeof(E) == 2) {
        const char *at = rows + (lane / 16 * 8 + lane % 8) * d->stride + lane / 8 % 2 * 16 + ks * 32;
        UNROLL
        for (int half = 0; half < 2; half++) {
            dev_ldmatrix_x4(r, at + half * 16 * d->stride);
            b[2 * half][0] = r[0], b[2 * half][1] = r[1];
            b[2 * half + 1][0] = r[2], b[2 * half + 1][1] = r[3];
        }
    } else {
        dev_ldmatrix_x4(r, rows + lane * d->stride + ks * 16);
        UNROLL
        for (int n = 0; n < 4; n++) {
            b[n][0] = attn_wide<0, 1>(r[n]), b[n][1] = attn_wide<2, 3>(r[n]);
        }
    }
}

/* V of the step's tokens 16 half .. +15 and dimensions 16 g .. 16 g + 15 (int8: 32 g .. +31) as the products' b; which
 * of them a column is: attn_dim(). */
template <class E> DEV void attn_values(uint32_t b[][2], const char *rows, const struct attn_dims *d, int half, int g)
{
    int lane = (int)dev_lane();
    uint32_t r[4];
    dev_ldmatrix_x4_trans(r, rows + (half * 16 + lane % 16) * d->stride + lane / 16 * 16 + g * 32);
    if (sizeof(E) == 2) {
        b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
    } else {
        UNROLL
        for (int n = 0; n < 2; n++) {
            uint32_t low = r[2 * n], high = r[2 * n + 1];
            b[2 * n][0] = attn_wide<0, 2>(low), b[2 * n][1] = attn_wide<0, 2>(high);
            b[2 * n + 1][0] = attn_wide<1, 3>(low), b[2 * n + 1][1] = attn_wide<1, 3>(high);
        }
    }
}

/* The two outputs that pair `p` (0, 1) of columns 16 g .. 16 g + 15 means to this lane, row g or g + 8 by `half`, and
 * their first dimension. */
template <class E> DEV int attn_pair(const float (*o)[4], int g, int half, int p, float *lo, float *hi)
{
    int t = (int)dev_lane() % 4;
    if (sizeof(E) == 2) {
        *lo = o[2 * g + p][2 * half], *hi = o[2 * g + p][2 * half + 1];
        return 16 * g + 8 * p + 2 * t;
    }
    *lo = o[2 * g][2 * half + p], *hi = o[2 * g + 1][2 * half + p];
    return 16 * g + 4 * t + 2 * p;
}

template <int MW, int QK> DEV void attn_query_init(struct attn_query<MW, QK> *q, const char *rows, int q_stride)
{
    int lane = (int)dev_lane();
    q->row = rows + lane % 16 * q_stride + lane / 16 * 16;
    UNROLL
    for (int m = 0; m < MW; m++) {
        UNROLL
        for (int ks = 0; ks < QK; ks++) dev_ldmatrix_x4(q->a[m][ks], q->row + m * 16 * q_stride + ks * 32);
    }
}

/* s = q K of a step: [MW][4 groups of 8 tokens]. */
template <class E, int HD, int MW, int QK>
DEV void attn_scores(float s[MW][4][4], const struct attn_query<MW, QK> *q, const struct attn_dims *d, const char *slot)
{
    UNROLL
    for (int i = 0; i < MW * 16; i++) s[i / 16][i / 4 % 4][i % 4] = 0;
    UNROLL
    for (int ks = 0; ks < d->ksteps; ks++) {
        uint32_t a[MW][4], b[4][2];
        attn_keys<E>(b, slot + d->room, d, ks);
        UNROLL
        for (int m = 0; m < MW; m++) {
            if (QK) {
                UNROLL
                for (int i = 0; i < 4; i++) a[m][i] = q->a[m][QK ? ks : 0][i];
            } else {
                dev_ldmatrix_x4(a[m], q->row + m * 16 * d->q_stride + ks * 32);
            }
            UNROLL
            for (int n = 0; n < 4; n++) dev_mma_bf16(s[m][n], a[m], b[n]);
        }
    }
}

/* Scores of the step at `base` become z: scaled by their tokens, capped, and none where a row does not see. */
template <class E, int MW>
DEV void attn_mask(float s[MW][4][4], const struct attn_sight<MW> *see, const struct attn_rule *rule, const char *slot,
                   int base)
{
    int t = (int)dev_lane() % 4;
    if (sizeof(E) == 1) {
        UNROLL
        for (int n = 0; n < 4; n++) {
            float2 scale = *(const float2 *)(slot + (n * 8 + 2 * t) * (int)sizeof(float));
            UNROLL
            for (int i = 0; i < MW * 4; i++) s[i / 4][n][i % 4] *= i % 2 ? scale.y : scale.x;
        }
    }
    if (rule->capped) {
        UNROLL
        for (int i = 0; i < MW * 16; i++) {
            float *z = &s[i / 16][i / 4 % 4][i % 4];
            *z = dev_tanh(*z * rule->pre);
        }
    }
    if (base >= see->all_first && base + ATTN_STEP - 1 <= see->all_last) return;
    UNROLL
    for (int i = 0; i < MW * 16; i++) {
        int m = i / 16, n = i / 4 % 4, half = i / 2 % 2, pos = base + n * 8 + 2 * t + i % 2;
        if (pos > see->last[m][half] || see->last[m][half] - pos >= see->window) s[m][n][i % 4] = ATTN_NONE;
    }
}

/* z become weights against the running largest; the sums and outputs so far follow. */
template <int MW, int NT>
DEV void attn_soften(float s[MW][4][4], struct attn_state<MW, NT> *st, const struct attn_rule *rule)
{
    UNROLL
    for (int m = 0; m < MW; m++) {
        float keep[2];
        UNROLL
        for (int half = 0; half < 2; half++) {
            float most = st->most[m][half], sum = 0;
            UNROLL
            for (int i = 0; i < 8; i++) most = fmaxf(most, s[m][i / 2][2 * half + i % 2]);
            most = fmaxf(most, dev_shfl_xor(most, 1));
            most = fmaxf(most, dev_shfl_xor(most, 2));
            float against = most == ATTN_NONE ? 0 : most * rule->factor;
            keep[half] = dev_exp2(dev_fma(st->most[m][half], rule->factor, -against));
            UNROLL
            for (int i = 0; i < 8; i++) {
                float *z = &s[m][i / 2][2 * half + i % 2];
                *z = dev_exp2(dev_fma(*z, rule->factor, -against));
                sum += *z;
            }
            st->sum[m][half] = dev_fma(st->sum[m][half], keep[half], sum);
            st->most[m][half] = most;
        }
        if (!dev_any(keep[0] != 1 || keep[1] != 1)) continue;
        UNROLL
        for (int n = 0; n < NT; n++) {
            st->o[m][n][0] *= keep[0], st->o[m][n][1] *= keep[0];
            st->o[m][n][2] *= keep[1], st->o[m][n][3] *= keep[1];
        }
    }
}

/* o += weights V of a step. */
template <class E, int HD, int MW, int NT>
DEV void attn_add_values(struct attn_state<MW, NT> *st, const float s[MW][4][4], const struct attn_dims *d,
                         const char *slot, int dims)
{
    const int wide = sizeof(E) == 2 ? 2 : 4; /* groups of 8 dimensions that one load brings */
    int t = (int)dev_lane() % 4;
    UNROLL
    for (int half = 0; half < 2; half++) {
        uint32_t a[MW][4], b[4][2];
        UNROLL
        for (int j = 0; j < 2; j++) {
            float2 scale = {1, 1};
            if (sizeof(E) == 1) scale = *(const float2 *)(slot + (half * 16 + j * 8 + 2 * t) * (int)sizeof(float));
            UNROLL
            for (int m = 0; m < MW; m++) {
                const float *p = s[m][2 * half + j];
                UNROLL
                for (int i = 0; i < 2; i++) {
                    float x = p[2 * i], y = p[2 * i + 1];
                    if (sizeof(E) == 1) x = x > 0 ? x * scale.x : 0, y = y > 0 ? y * scale.y : 0;
                    a[m][2 * j + i] = dev_pack(x, y);
                }
            }
        }
        UNROLL
        for (int g = 0; g < NT / wide; g++) {
            if (!HD && g * wide * 8 >= dims) break;
            attn_values<E>(b, slot + d->room, d, half, g);
            UNROLL
            for (int n = 0; n < wide; n++) {
                UNROLL
                for (int m = 0; m < MW; m++) dev_mma_bf16(st->o[m][g * wide + n], a[m], b[n]);
            }
        }
    }
}

/* --- the walk --- */

template <int MW, int NT> DEV void attn_state_init(struct attn_state<MW, NT> *st)
{
    UNROLL
    for (int m = 0; m < MW; m++) {
        UNROLL
        for (int i = 0; i < NT * 4; i++) st->o[m][i / 4][i % 4] = 0;
        st->most[m][0] = st->most[m][1] = ATTN_NONE, st->sum[m][0] = st->sum[m][1] = 0;
    }
}

/* What the warp's vectors from `first` on see; those beyond `most` are the last one again. */
template <int MW>
DEV void attn_sight_init(struct attn_sight<MW> *see, const struct op_attn *op, const struct cuda_seq *q, int first,
                         int most)
{
    int group = op->heads / op->kv.kv_heads, g = (int)dev_lane() / 4, end = first + 16 * MW - 1;
    UNROLL
    for (int i = 0; i < 2 * MW; i++) {
        int v = first + i * 8 + g;
        see->last[i / 2][i % 2] = q->pos0 + (v < most ? v : most - 1) / group;
    }
    see->window = op->window > 0 ? op->window : 0x7fffffff;
    int low = q->pos0 + (first < most ? first : most - 1) / group,
        high = q->pos0 + (end < most ? end : most - 1) / group;
    see->all_last = low, see->any_last = high;
    see->all_first = attn_first_seen(op->window, high), see->any_first = attn_first_seen(op->window, low);
}

/* The ring's owner: a warp or the block. */
template <bool BLOCK> DEV void attn_wait()
{
    dev_cp_async_wait<ATTN_RING - 2>();
    if (BLOCK)
        dev_sync();
    else
        dev_sync_warp();
}

/* Steps from .. to-1 (multiples of ATTN_STEP) for a warp's vectors; `idle`: it only helps with the loads. Afterwards no
 * copies are on their way, but others may still read the ring. */
template <class E, int HD, int MW, int NT, int QK, bool BLOCK>
DEV void attn_walk(struct attn_state<MW, NT> *st, struct attn_source *src, const struct attn_dims *d,
                   const struct attn_query<MW, QK> *q, const struct attn_sight<MW> *see, const struct attn_rule *rule,
                   char *ring, int from, int to, bool idle)
{
    const int t = BLOCK ? (int)threadIdx.x : (int)dev_lane(), n = BLOCK ? (int)blockDim.x : 32;
    if (from < to) attn_load<E, HD, BLOCK>(src, d, ring, from, false, t, n);
    dev_cp_async_commit();
    if (from < to) attn_load<E, HD, BLOCK>(src, d, ring + d->slot, from, true, t, n);
    dev_cp_async_commit();
    int slot = 0;
    NO_UNROLL
    for (int base = from; base < to; base += ATTN_STEP) {
        bool skip = idle || base > see->any_last || base + ATTN_STEP <= see->any_first;
        char *key = ring + slot * d->slot, *value = ring + (slot + 1) % ATTN_RING * d->slot;
        char *next = ring + (slot + 2) % ATTN_RING * d->slot;
        float s[MW][4][4];
        attn_clear_tail<E, HD>(d, key, t, n);
        attn_wait<BLOCK>();
        if (base + ATTN_STEP < to) attn_load<E, HD, BLOCK>(src, d, next, base + ATTN_STEP, false, t, n);
        dev_cp_async_commit();
        if (!skip) {
            attn_scores<E, HD, MW, QK>(s, q, d, key);
            attn_mask<E, MW>(s, see, rule, key, base);
            attn_soften<MW, NT>(s, st, rule);
        }
        attn_wait<BLOCK>();
        if (base + ATTN_STEP < to) attn_load<E, HD, BLOCK>(src, d, key, base + ATTN_STEP, true, t, n);
        dev_cp_async_commit();
        if (!skip) attn_add_values<E, HD, MW, NT>(st, s, d, value, src->v_dims);
        slot = (slot + 2) % ATTN_RING;
    }
}

/* This lane's parts of the sums become the sums. */
template <int MW, int NT> DEV void attn_state_close(struct attn_state<MW, NT> *st)
{
    UNROLL
    for (int i = 0; i < 2 * MW; i++) {
        float *sum = &st->sum[i / 2][i % 2];
        *sum += dev_shfl_xor(*sum, 1);
        *sum += dev_shfl_xor(*sum, 2);
    }
}

DEV struct attn_rule attn_rule_of(const struct op_attn *op)
{
    struct attn_rule r;
    r.capped = op->softcap > 0;
    r.pre = r.capped ? op->scale / op->softcap : 0;
    r.factor = (r.capped ? op->softcap : op->scale) * ATTN_LOG2E;
    return r;
}

/* Two neighbours of an output row; a zero has no sign, so that no step that changes nothing can show. */
DEV uint32_t attn_output(float lo, float hi, float inverse)
{
    return dev_pack(lo * inverse + 0.0f, hi * inverse + 0.0f);
}
