/* What the LoRA kernels share: lora.cu (planes), lora_sm90.cu (clusters), lora_fold*.cu. Device code.
 *
 *     y[t][n] += sum over uses of weight scale sum_j B[n][j] (sum_k A[j][k] x[t][k])
 *
 * One path for any number of rows. The operand that streams (A, then B) is the M side of mma.m16n8k16 and the rows are
 * its N side, eight columns: a tile of one row costs the tensor cores as much as one of eight, which is nothing beside the
 * bytes, and a row's value is one dot product that doesn't know its neighbours. So no second path for small tiles is
 * needed, and a row's bits are the same alone, in any tile, in both kernels, by this order of sums:
 *
 *   1. k lies in LORA_SPLIT parts of whole steps of 32 inputs; a part is a block's (cluster) or a plane (planes).
 *   2. Of a chunk of up to 64 ranks, warp w of 8 takes ranks 16 m .. of steps kq, kq + kw, ..: m = w % mw, kq = w / mw,
 *      (mw, kw) = (1, 8), (2, 4), (4, 2) for 1, 2, 3 to 4 tiles of 16 ranks. Even and odd halves of steps are two chains
 *      of mma, added at the end.
 *   3. The kw partial sums are added in the order of kq, then the parts in the order 0 .. 7: s, float32.
 *   4. v = scale weight s is split into hi + lo, two bf16 (16 bits of it are kept: 4e-6), and expand is two chains of mma
 *      over all ranks of all uses, hi and lo, added at the end; y + that sum is rounded once.
 *
 * All of it depends on the module's rank and shape, and on the row's own list of uses, only.
 *
 * Lanes: g = lane / 4, t = lane % 4, as in dev.h. A result d[] of the shrink is ranks g, g+8 by rows 2t, 2t+1; of the
 * expand outputs 2g, 2g+1 by rows 2t, 2t+1 (lora_layout.h interleaves them, so that a lane has pairs of outputs). */
#pragma once
#include "kernels/cuda/dev.h"
#include "kernels/cuda/lora_layout.h"
#include "kernels/cuda/ops.h"

#define LORA_WARPS 8
#define LORA_THREADS (LORA_WARPS * 32)
#define LORA_BLOCKS_PER_SM 2
#define LORA_PART_ROW 20 /* floats of 16 ranks of a row in `part`: 4 more, so that a warp's stores meet no bank twice */
#define LORA_TILE_WORDS 64 /* 16-byte words of a step of 16 ranks */

/* What a row's use brings to a slice. */
struct lora_entry {
    const uint4 *a, *b;
    const float *g; /* DoRA's factor of the rows of W, or NULL */
    float scale;    /* weight included */
    int r;          /* padded to 8; 0: nothing */
    int v;          /* its first block of 16 ranks in v */
};

/* A tile, a slice (or PARTS slices that are done together) and a block of its columns. */
template <int PARTS> struct lora_item {
    int row0, rows, slice, block;
    int blocks16; /* blocks of 16 ranks of all entries; 0: y stays as it is */
    struct lora_entry e[PARTS * META_STACK];
};

/* What a launch's blocks share out among them. */
struct lora_walk {
    int tiles, groups, blocks, items; /* items = tiles * groups * blocks */
};

/* Host: what no launch can do. */
static inline int lora_check(const struct op_lora *op)
{
    if (op->k % 8 || op->ldx % 8 || op->ranks > LORA_RANK_MAX || op->nslice > LORA_SLICES) return RT_BAD_SHAPE;
    if (op->ranks < 1 || op->tile_rows > TILE_ROWS) return RT_BAD_SHAPE;
    for (int s = 0; s < op->nslice && !op->f32; s++)
        if (op->n[s] % 2 || op->y0[s] % 2 || op->ldy % 2) return RT_BAD_SHAPE;
    return 0;
}

DEV int lora_rank8(int r)
{
    return (r + LORA_RANK_STEP - 1) / LORA_RANK_STEP * LORA_RANK_STEP;
}

DEV int lora_blocks16(int r)
{
    return (r + 15) / 16;
}

/* Few items: their columns are cut too, so that more than `teams` * 8 / items blocks have something to read. The shrink
 * is then done by each; its bytes come from L2. `units` of columns are the smallest cut, of which a block gets two. */
DEV struct lora_walk lora_walk_of(int tiles, int groups, int units, int teams)
{
    struct lora_walk w = {tiles, groups, 1, tiles * groups};
    int most = units / (2 * LORA_SPLIT); /* 0 units: never cut */
    if (w.items > 0 && w.items < teams) w.blocks = teams / w.items < most ? teams / w.items : most;
    if (w.blocks < 1) w.blocks = 1;
    w.items *= w.blocks;
    return w;
}

DEV int lora_most_columns(const struct op_lora *op)
{
    int most = op->n[0];
    for (int s = 1; s < op->nslice; s++) most = op->n[s] > most ? op->n[s] : most;
    return most;
}

/* The columns of a block of a slice, in units. */
struct lora_span {
    int from, to;
};
DEV struct lora_span lora_columns(int units, const struct lora_walk *w, int block, int rank)
{
    int shares = w->blocks * LORA_SPLIT, per = (units + shares - 1) / shares, from = (block * LORA_SPLIT + rank) * per;
    struct lora_span s = {from < units ? from : units, from + per < units ? from + per : units};
    return s;
}

/* The steps of k of a part. */
DEV struct lora_span lora_steps(int k, int rank)
{
    int steps = (k + LORA_K_STEP - 1) / LORA_K_STEP, per = (steps + LORA_SPLIT - 1) / LORA_SPLIT, from = rank * per;
    struct lora_span s = {from < steps ? from : steps, from + per < steps ? from + per : steps};
    return s;
}

DEV const struct cuda_module *lora_module(const struct op_lora *op, const struct cuda_tile *tile, int use, int slice)
{
    return &op->table[(size_t)tile->use[use].slot * (size_t)op->stride + (size_t)(tile->at + op->slice[slice])];
}

/* Entry i of item `index`, by one thread each; its neighbours' ranks are read again, which costs less than a barrier. */
template <int PARTS>
DEV void lora_fill(struct lora_item<PARTS> *item, const struct op_lora *op, const struct lora_walk *w, int index, int i)
{
    const struct cuda_tile *tile = &op->tile[index / w->blocks / w->groups];
    int slice0 = index / w->blocks % w->groups, nuse = tile->nuse, before = 0, own = 0;
    struct lora_entry e = {0, 0, 0, 0.0f, 0, 0};
    for (int j = 0; j < PARTS * META_STACK; j++) {
        int use = j % META_STACK, slice = PARTS > 1 ? j / META_STACK : slice0;
        int r = use < nuse ? lora_rank8(lora_module(op, tile, use, slice)->r) : 0;
        if (j < i) before += lora_blocks16(r);
        if (j == i) own = r;
        if (j == PARTS * META_STACK - 1 && i == j) item->blocks16 = before + lora_blocks16(r);
    }
    if (own > 0) {
        const struct cuda_module *m = lora_module(op, tile, i % META_STACK, PARTS > 1 ? i / META_STACK : slice0);
        e.a = (const uint4 *)m->a, e.b = (const uint4 *)m->b, e.g = m->row_scale;
        e.scale = m->scale * tile->use[i % META_STACK].weight;
        e.r = own;
    }
    e.v = before;
    item->e[i] = e;
    if (i == 0) {
        item->row0 = tile->row0, item->rows = tile->rows;
        item->slice = slice0, item->block = index % w->blocks;
    }
}

/* --- planes: scratch [row][slice][part of k][ranks], what the shrink leaves where there is no cluster --- */

/* Floats of a part: every use's ranks are padded to 16, as in v. Host and device. */
#define LORA_PLANE_STRIDE(ranks) ((ranks) + META_STACK * (16 - LORA_RANK_STEP))

DEV float *lora_plane(const struct op_lora *op, int row, int slice, int part)
{
    size_t at = ((size_t)row * LORA_SLICES + (size_t)slice) * LORA_SPLIT + (size_t)part;
    return (float *)op->scratch + at * (size_t)LORA_PLANE_STRIDE(op->ranks);
}

/* --- shrink --- */

/* How a chunk of ranks is shared among the warps (2. above). */
struct lora_share {
    int tiles, mw, kw; /* tiles of 16 ranks */
    int m, kq;         /* this warp's; m >= tiles: it has none */
};
DEV struct lora_share lora_share_of(int ranks)
{
    int tiles = (ranks + 15) / 16, mw = tiles > 2 ? 4 : tiles, warp = (int)dev_warp();
    struct lora_share s = {tiles, mw, LORA_WARPS / mw, warp % mw, warp / mw};
    return s;
}

DEV uint4 lora_zero()
{
    return make_uint4(0, 0, 0, 0);
}

/* A lane's part of 32 inputs of 16 ranks (lo, hi: halves of the step) and of the rows. */
template <int NT> struct lora_step {
    uint4 lo, hi, x[NT];
};

/* GLOBAL: straight from memory; else from shared memory. `half`: eight ranks, whose one word serves both halves. */
template <bool GLOBAL> DEV void lora_fetch_a(uint4 *lo, uint4 *hi, const uint4 *a, bool half)
{
    uint4 v = GLOBAL ? dev_ld_nc(a) : *a;
    *lo = half ? make_uint4(v.x, 0, v.y, 0) : v;
    if (half)
        *hi = make_uint4(v.z, 0, v.w, 0);
    else
        *hi = GLOBAL ? dev_ld_nc(a + 32) : a[32];
}

template <int NT> DEV void lora_multiply(float d[NT][2][4], const struct lora_step<NT> *s)
{
    const uint32_t lo[4] = {s->lo.x, s->lo.y, s->lo.z, s->lo.w}, hi[4] = {s->hi.x, s->hi.y, s->hi.z, s->hi.w};
    UNROLL
    for (int n = 0; n < NT; n++) {
        const uint32_t even[2] = {s->x[n].x, s->x[n].y}, odd[2] = {s->x[n].z, s->x[n].w};
        dev_mma_bf16(d[n][0], lo, even);
        dev_mma_bf16(d[n][1], hi, odd);
    }
}

/* Where a lane finds its row's inputs; NULL: the tile has no such row. One step is 4 words further. */
template <int NT> struct lora_rows {
    const uint4 *x[NT];
};

/* d += the warp's share of `steps` steps of one chunk. a: the chunk's first step; rest: inputs from there to the end of
 * the row, beyond which nothing is read. `first`: the number of the first of these steps within the part. */
template <int NT, bool GLOBAL>
DEV void lora_shrink(float d[NT][2][4], const struct lora_share *s, const uint4 *a, int ranks, int first, int steps,
                     const struct lora_rows<NT> *rows, int rest)
{
    constexpr int F = GLOBAL ? NT > 1 ? 2 : 3 : 1; /* steps whose loads are in flight together */
    int lane = (int)dev_lane(), begin = (s->kq - first % s->kw + s->kw) % s->kw;
    bool half = (ranks & 8) && s->m == s->tiles - 1;
    if (s->m >= s->tiles) return;
    a += s->m * LORA_TILE_WORDS + lane;
    NO_UNROLL
    for (int i = begin; i < steps; i += s->kw * F) {
        struct lora_step<NT> f[F];
        UNROLL
        for (int u = 0; u < F; u++) {
            int step = i + u * s->kw;
            if (step >= steps) break;
            lora_fetch_a<GLOBAL>(&f[u].lo, &f[u].hi, a + (size_t)step * (size_t)(ranks * 4), half);
            UNROLL
            for (int n = 0; n < NT; n++)
                f[u].x[n] = rows->x[n] && step * LORA_K_STEP + lane % 4 * 8 < rest ? rows->x[n][step * 4] : lora_zero();
        }
        UNROLL
        for (int u = 0; u < F; u++)
            if (i + u * s->kw < steps) lora_multiply<NT>(d, &f[u]);
    }
}

/* part [kw][mw][8 NT rows][LORA_PART_ROW]: the warps' sums. */
template <int NT> DEV void lora_part_put(float *part, const struct lora_share *s, const float d[NT][2][4])
{
    int g = (int)dev_lane() / 4, t = (int)dev_lane() % 4;
    if (s->m >= s->tiles) return;
    float *to = part + (s->kq * s->mw + s->m) * 8 * NT * LORA_PART_ROW;
    UNROLL
    for (int n = 0; n < NT; n++) {
        float *row = to + (8 * n + 2 * t) * LORA_PART_ROW + g;
        row[0] = d[n][0][0] + d[n][1][0];
        row[LORA_PART_ROW] = d[n][0][1] + d[n][1][1];
        row[8] = d[n][0][2] + d[n][1][2];
        row[LORA_PART_ROW + 8] = d[n][0][3] + d[n][1][3];
    }
}

DEV float4 lora_add4(float4 a, float4 b)
{
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

/* Ranks 4 quad .. of the chunk, of one row, over the warps. */
template <int NT> DEV float4 lora_part_sum(const float *part, const struct lora_share *s, int row, int quad)
{
    const float *from = part + (quad / 4 * 8 * NT + row) * LORA_PART_ROW + quad % 4 * 4;
    float4 sum = *(const float4 *)from;
    for (int q = 1; q < s->kw; q++) sum = lora_add4(sum, *(const float4 *)(from + q * s->mw * 8 * NT * LORA_PART_ROW));
    return sum;
}

/* --- v: [blocks of 16 ranks][NT][lane] of { hi ranks 2t, 2t+1; hi 2t+8, +9; lo; lo } of row g --- */

DEV float lora_lo(float v)
{
    return v - dev_f32(dev_bf16(v));
}

/* s: ranks 4 quad .. of row `row`, quads counted over all of v. */
template <int NT> DEV void lora_v_put(uint4 *v, int row, int quad, float4 s, float scale)
{
    uint32_t *to = (uint32_t *)&v[(quad / 4 * NT + row / 8) * 32 + row % 8 * 4 + quad % 2 * 2] + quad % 4 / 2;
    s = make_float4(s.x * scale, s.y * scale, s.z * scale, s.w * scale);
    to[0] = dev_pack(s.x, s.y);
    to[2] = dev_pack(lora_lo(s.x), lora_lo(s.y));
    to[4] = dev_pack(s.z, s.w);
    to[6] = dev_pack(lora_lo(s.z), lora_lo(s.w));
}

/* The scale of a block of v. */
template <int PARTS> DEV float lora_scale_at(const struct lora_item<PARTS> *item, int block16)
{
    float scale = 0;
    UNROLL
    for (int e = 0; e < PARTS * META_STACK; e++)
        if (item->e[e].r > 0 && item->e[e].v <= block16) scale = item->e[e].scale;
    return scale;
}

/* --- expand --- */

/* d[n][0] += B hi, d[n][1] += B lo, 16 outputs by 16 (half: 8) ranks. */
template <int NT> DEV void lora_expand_block(float d[NT][2][4], uint4 b, const uint4 *v)
{
    const uint32_t a[4] = {b.x, b.y, b.z, b.w};
    UNROLL
    for (int n = 0; n < NT; n++) {
        uint4 f = v[n * 32];
        const uint32_t hi[2] = {f.x, f.y}, lo[2] = {f.z, f.w};
        dev_mma_bf16(d[n][0], a, hi);
        dev_mma_bf16(d[n][1], a, lo);
    }
}

template <bool GLOBAL> DEV uint4 lora_fetch_b(const uint4 *b, int block, bool half, int lane)
{
    b += block * 32;
    if (!half) return GLOBAL ? dev_ld_nc(b + lane) : b[lane];
    const uint2 *p = (const uint2 *)b + lane;
    uint2 w = GLOBAL ? dev_ld_nc(p) : *p;
    return make_uint4(w.x, w.y, 0, 0);
}

/* Tiles of 16 outputs tile, tile + 8, .. (those below `end`), U of them at once: d[u] += what entry e adds. b: of tile 0.
 */
template <int NT, int U, bool GLOBAL>
DEV void lora_expand(float d[U][NT][2][4], const struct lora_entry *e, const uint4 *b, const uint4 *v, int tile,
                     int end)
{
    int lane = (int)dev_lane(), r = e->r;
    v += e->v * NT * 32 + lane;
    NO_UNROLL
    for (int block = 0; block < lora_blocks16(r); block++, v += NT * 32) {
        bool half = r - block * 16 < 16;
        uint4 w[U];
        UNROLL
        for (int u = 0; u < U; u++)
            if (tile + u * LORA_WARPS < end)
                w[u] = lora_fetch_b<GLOBAL>(b + (size_t)(tile + u * LORA_WARPS) * (size_t)(r * 2), block, half, lane);
        UNROLL
        for (int u = 0; u < U; u++)
            if (tile + u * LORA_WARPS < end) lora_expand_block<NT>(d[u], w[u], v);
    }
}

template <int N> DEV void lora_clear(float *d)
{
    UNROLL
    for (int i = 0; i < N; i++) d[i] = 0;
}
