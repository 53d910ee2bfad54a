/* The LoRA kernel of a cluster: one launch does shrink, exchange and expand. Device code; the kernels that it becomes are
 * in lora_sm90.cu and lora_fold_sm90.cu.
 *
 * A team is a cluster of 8 blocks of 256 threads. Its items go round: team, team + teams, ... For an item every block
 *   1. shrinks its part of k, chunk of up to 64 ranks by chunk;
 *   2. adds its warps' sums and pushes them into every peer's `recv`, arrives at the cluster's barrier, waits;
 *   3. adds the parts 0 .. 7, scales, splits: v;
 *   4. expands its eighth of the item's columns and hands the sums to the tail (lora_tail.h).
 *
 * A block's weights are one stream, A of the first item, B of it, A of the next, ..., that thread 0 brings into a ring of
 * stages by bulk copies, up to LORA_STAGES ahead and across items; so memory is busy while the team exchanges. A stage of
 * A also has the rows' inputs for the same steps. The stream begins before the kernel that writes x has ended: weights
 * first, then dev_pdl_wait(), then the rows. Which weights, the tiles say: the step's metadata, or what a kernel of the
 * step wrote (op.made: experts), and then nothing is read before the wait.
 *
 *      full[s]   1 arrival (thread 0) and the bytes;  empty[s]  8 arrivals, one a warp
 *
 * Shared memory: the ring; recv [2][8 parts][8 NT rows][ranks of a chunk], doubled because a block that is ahead pushes
 * the next sums while a peer still adds these (which half is next changes only after a barrier that took place); v;
 * `part`, the warps' sums; the next items.
 *
 * Barriers, by what they keep apart: the block's behind `part` also ends the expand of the item before, so v is free; the
 * cluster's behind the push also frees `part`; nothing is needed at a loop's top, nor at the end: a block's last wait
 * follows all pushes into its memory. The first push needs all blocks to have started: one cluster barrier before the
 * loop. */
#pragma once
#include "kernels/cuda/lora_tail.h"

#define LORA_STAGES 4
#define LORA_STAGE_BYTES 16384 /* at least; a tile of 16 outputs with all its ranks must fit */
#define LORA_AHEAD 16          /* items that are looked up at once; half of them again when half are done */

/* How a launch cuts its dynamic shared memory. */
struct lora_plan {
    int stage_bytes, chunk; /* chunk: ranks of a row in recv */
    int recv_at, v_at;      /* bytes from the ring's start */
    int teams;
    size_t bytes, fixed; /* fixed: static, and what the system keeps */
};

template <int NT, int PARTS> static inline struct lora_plan lora_plan_of(int ranks)
{
    struct lora_plan p;
    int padded = ranks + META_STACK * (16 - LORA_RANK_STEP), most = 2 * LORA_N_STEP * ranks * PARTS;
    p.stage_bytes = most > LORA_STAGE_BYTES ? (most + 127) / 128 * 128 : LORA_STAGE_BYTES;
    p.chunk = (ranks + 15) / 16 * 16 < LORA_CHUNK ? (ranks + 15) / 16 * 16 : LORA_CHUNK;
    p.recv_at = LORA_STAGES * p.stage_bytes;
    p.v_at = p.recv_at + 2 * LORA_SPLIT * 8 * NT * p.chunk * (int)sizeof(float);
    p.bytes = (size_t)p.v_at + (size_t)(padded / 16 * PARTS * NT * 512);
    p.fixed =
        LORA_WARPS * 8 * NT * LORA_PART_ROW * sizeof(float) + LORA_AHEAD * sizeof(struct lora_item<PARTS>) + 1024 + 128;
    p.teams = 1;
    return p;
}

/* The constant grid: as many teams as the device holds at once. A wave that is short of a few blocks would double the
 * time, so where the device can't say (`held` -1), only whole eighths of its multiprocessors count. */
static inline struct dev_launch lora_cluster_launch(const struct lora_plan *p, void *stream)
{
    struct dev_launch l = {};
    l.gx = l.cluster = LORA_SPLIT, l.threads = LORA_THREADS, l.shared = p->bytes;
    l.stream = stream, l.pdl = cuda_target.pdl;
    return l;
}

static inline void lora_cluster_teams(struct lora_plan *p, struct dev_launch *l, int held)
{
    int fit = 2 * (p->bytes + p->fixed) <= (size_t)cuda_target.shared_block + 1024 ? 2 : 1;
    p->teams = held > 0 ? held : cuda_target.sms / LORA_SPLIT * fit;
    if (p->teams < 1) p->teams = 1;
    l->gx = (unsigned)(p->teams * LORA_SPLIT);
}

/* A place in the stream of a block's weights. */
struct lora_cursor {
    int q;            /* item, counted by the team */
    int e, chunk, at; /* A: entry, chunk, step; B (e == entries): tile of 16 outputs */
};

/* What all threads of a block know. */
template <int PARTS> struct lora_team {
    struct lora_item<PARTS> *items; /* [LORA_AHEAD], item q at q % LORA_AHEAD */
    struct lora_walk walk;
    struct lora_plan plan;
    int rank, team, count; /* count: this team's items */
    int loaded;            /* items below are looked up */
    struct dev_mbar *full, *empty;
    unsigned char *ring;
    int used, issued; /* stages; issued: of thread 0 */
    int half;         /* of recv, the next one */
};

template <int PARTS> DEV struct lora_item<PARTS> *lora_item_at(const struct lora_team<PARTS> *b, int q) {
    return &b->items[q % LORA_AHEAD];
}

/* Tiles of 16 outputs of this block's columns of an item. */
template <int PARTS, class TAIL>
DEV struct lora_span lora_tiles_of(const struct lora_team<PARTS> *b, const TAIL *tail, const struct op_lora *op,
                                   const struct lora_item<PARTS> *item)
{
    int unit = lora_unit(tail), wide = unit / LORA_N_STEP;
    struct lora_span s = lora_columns((op->n[item->slice] + unit - 1) / unit, &b->walk, item->block, b->rank);
    int all = (op->n[item->slice] + LORA_N_STEP - 1) / LORA_N_STEP;
    struct lora_span tiles = {s.from * wide, s.to * wide < all ? s.to * wide : all};
    return tiles;
}

DEV int lora_chunk_ranks(const struct lora_entry *e, int chunk)
{
    int rest = e->r - chunk * LORA_CHUNK;
    return rest < LORA_CHUNK ? rest : LORA_CHUNK;
}

/* Steps in a stage, whole turns of the warps where there are that many. Rows lie an odd number of 64 bytes apart, so that
 * the rows that a warp reads together meet no bank twice. */
DEV int lora_stage_steps(int stage_bytes, int ranks, int rows)
{
    int steps = (stage_bytes - rows * 64) / (ranks * 64 + rows * 64), kw = ranks > 32 ? 2 : ranks > 16 ? 4 : 8;
    return steps > kw ? steps / kw * kw : steps;
}

DEV int lora_row_pitch(int steps)
{
    return (steps | 1) * 4; /* 16-byte words */
}

/* Tiles of 16 outputs in a stage. */
template <int PARTS> DEV int lora_stage_tiles(int stage_bytes, const struct lora_item<PARTS> *item)
{
    int ranks = 0;
    for (int e = 0; e < PARTS * META_STACK; e++) ranks += item->e[e].r;
    int tiles = stage_bytes / (2 * LORA_N_STEP * ranks);
    return tiles > LORA_WARPS ? tiles / LORA_WARPS * LORA_WARPS : tiles;
}

/* --- the producer: thread 0 --- */

DEV void lora_bring(void *to, const void *from, int bytes, struct dev_mbar *full)
{
    dev_bulk_g2s(to, from, (uint32_t)bytes, full);
}

/* Move the cursor to the next stage's start; false: none that may be issued yet. */
template <int PARTS, class TAIL>
DEV bool lora_settle(struct lora_cursor *c, const struct lora_team<PARTS> *b, const TAIL *tail,
                     const struct op_lora *op)
{
    while (c->q < b->loaded) {
        const struct lora_item<PARTS> *item = lora_item_at(b, c->q);
        struct lora_span k = lora_steps(op->k, b->rank);
        for (; c->e < PARTS * META_STACK; c->e++, c->chunk = 0)
            for (; c->chunk * LORA_CHUNK < item->e[c->e].r; c->chunk++, c->at = 0)
                if (c->at < k.to - k.from) return true;
        if (item->blocks16 > 0) {
            struct lora_span tiles = lora_tiles_of(b, tail, op, item);
            if (c->at < tiles.to - tiles.from) return true;
        }
        c->q++;
        c->e = c->chunk = c->at = 0;
    }
    return false;
}

enum { LORA_WEIGHTS = 1, LORA_INPUTS = 2 };

/* Weights or the rows' inputs of a stage of A. */
template <int PARTS>
DEV void lora_issue_a(struct lora_cursor *c, const struct lora_team<PARTS> *b, const struct op_lora *op, int what,
                      unsigned char *stage, struct dev_mbar *full)
{
    const struct lora_item<PARTS> *item = lora_item_at(b, c->q);
    const struct lora_entry *e = &item->e[c->e];
    struct lora_span k = lora_steps(op->k, b->rank);
    int ranks = lora_chunk_ranks(e, c->chunk), per = lora_stage_steps(b->plan.stage_bytes, ranks, item->rows);
    int steps = k.to - k.from - c->at < per ? k.to - k.from - c->at : per, a_bytes = steps * ranks * 64;
    int input = (k.from + c->at) * LORA_K_STEP, rest = op->k - input;
    int x_bytes = (steps * LORA_K_STEP < rest ? steps * LORA_K_STEP : rest) * 2;
    const uint4 *a = e->a + ((size_t)e->r * (size_t)k.from + (size_t)(c->chunk * LORA_CHUNK) * (size_t)(k.to - k.from) +
                             (size_t)(c->at * ranks)) *
                                4;
    if (what & LORA_WEIGHTS) {
        dev_mbar_arrive_expect(full, (uint32_t)(a_bytes + item->rows * x_bytes));
        lora_bring(stage, a, a_bytes, full);
    }
    NO_UNROLL
    for (int row = 0; row < item->rows && (what & LORA_INPUTS); row++)
        lora_bring(stage + a_bytes + row * lora_row_pitch(steps) * 16,
                   op->x + (size_t)(item->row0 + row) * (size_t)op->ldx + input, x_bytes, full);
    c->at += steps;
}

template <int PARTS, class TAIL>
DEV void lora_issue_b(struct lora_cursor *c, const struct lora_team<PARTS> *b, const TAIL *tail,
                      const struct op_lora *op, int what, unsigned char *stage, struct dev_mbar *full)
{
    const struct lora_item<PARTS> *item = lora_item_at(b, c->q);
    struct lora_span tiles = lora_tiles_of(b, tail, op, item);
    int per = lora_stage_tiles(b->plan.stage_bytes, item), tile = tiles.from + c->at, ranks = 0;
    int count = tiles.to - tile < per ? tiles.to - tile : per;
    for (int e = 0; e < PARTS * META_STACK; e++) ranks += item->e[e].r;
    c->at += count;
    if (!(what & LORA_WEIGHTS)) return;
    dev_mbar_arrive_expect(full, (uint32_t)(count * ranks * 32));
    for (int e = 0; e < PARTS * META_STACK; e++) {
        int bytes = count * item->e[e].r * 32;
        if (bytes > 0) lora_bring(stage, item->e[e].b + (size_t)tile * (size_t)(item->e[e].r * 2), bytes, full);
        stage += bytes;
    }
}

/* Stages up to `limit`, as far as items are known; `what` of them. Waits until all warps have left the stage that was in
 * the place before. */
template <int PARTS, class TAIL>
DEV void lora_produce(struct lora_cursor *c, struct lora_team<PARTS> *b, const TAIL *tail, const struct op_lora *op,
                      int limit, int what)
{
    NO_UNROLL
    while (b->issued < limit && lora_settle(c, b, tail, op)) {
        int s = b->issued % LORA_STAGES, turn = b->issued / LORA_STAGES;
        unsigned char *stage = b->ring + s * b->plan.stage_bytes;
        if (turn > 0) dev_mbar_wait(&b->empty[s], (unsigned)(turn - 1) & 1);
        if (c->e < PARTS * META_STACK)
            lora_issue_a(c, b, op, what, stage, &b->full[s]);
        else
            lora_issue_b(c, b, tail, op, what, stage, &b->full[s]);
        b->issued++;
    }
}

/* --- the consumers: all warps --- */

template <int PARTS> DEV unsigned char *lora_stage(const struct lora_team<PARTS> *b)
{
    return b->ring + b->used % LORA_STAGES * b->plan.stage_bytes;
}

template <int PARTS> DEV void lora_await(const struct lora_team<PARTS> *b)
{
    dev_mbar_wait(&b->full[b->used % LORA_STAGES], (unsigned)(b->used / LORA_STAGES) & 1);
}

/* This warp is done with the stage. Thread 0 refills, one stage behind: the warps that are slower need not be waited for
 * at once. */
template <int PARTS, class TAIL>
DEV void lora_leave(struct lora_cursor *c, struct lora_team<PARTS> *b, const TAIL *tail, const struct op_lora *op)
{
    dev_sync_warp();
    if (dev_lane() == 0) dev_mbar_arrive(&b->empty[b->used % LORA_STAGES]);
    b->used++;
    if (threadIdx.x == 0) lora_produce(c, b, tail, op, b->used - 1 + LORA_STAGES, LORA_WEIGHTS | LORA_INPUTS);
}

/* This block's sums of a chunk, in `part`. */
template <int NT, int PARTS, class TAIL>
DEV void lora_shrink_chunk(struct lora_cursor *c, struct lora_team<PARTS> *b, const TAIL *tail,
                           const struct op_lora *op, const struct lora_item<PARTS> *item, int ranks,
                           const struct lora_share *s, float *part)
{
    struct lora_span k = lora_steps(op->k, b->rank);
    int per = lora_stage_steps(b->plan.stage_bytes, ranks, item->rows), lane = (int)dev_lane();
    float d[NT][2][4];
    lora_clear<NT * 8>(&d[0][0][0]);
    NO_UNROLL
    for (int at = k.from; at < k.to; at += per) {
        int steps = k.to - at < per ? k.to - at : per;
        const uint4 *a = (const uint4 *)lora_stage(b), *x = a + steps * ranks * 4 + lane % 4;
        struct lora_rows<NT> rows;
        UNROLL
        for (int n = 0; n < NT; n++)
            rows.x[n] = n * 8 + lane / 4 < item->rows ? x + (n * 8 + lane / 4) * lora_row_pitch(steps) : 0;
        lora_await(b);
        lora_shrink<NT, false>(d, s, a, ranks, at - k.from, steps, &rows, op->k - at * LORA_K_STEP);
        lora_leave(c, b, tail, op);
    }
    lora_part_put<NT>(part, s, d);
    dev_sync();
}

/* recv [half][part of k][row][chunk] */
template <int NT, int PARTS>
DEV void lora_push(const struct lora_team<PARTS> *b, const struct lora_item<PARTS> *item, const struct lora_share *s,
                   const float *part, float *recv)
{
    int quads = s->tiles * 4, values = item->rows * quads;
    float *own = recv + (b->half * LORA_SPLIT + b->rank) * 8 * NT * b->plan.chunk;
    for (int i = (int)threadIdx.x; i < values * LORA_SPLIT; i += LORA_THREADS) {
        int peer = i / values, row = i % values / quads, quad = i % values % quads;
        float *to = dev_cluster_map(own + row * b->plan.chunk + quad * 4, (unsigned)peer);
        *(float4 *)to = lora_part_sum<NT>(part, s, row, quad);
    }
}

template <int NT, int PARTS>
DEV void lora_gather(const struct lora_team<PARTS> *b, const struct lora_item<PARTS> *item, const struct lora_entry *e,
                     int chunk, const struct lora_share *s, const float *recv, uint4 *v)
{
    int quads = s->tiles * 4, pitch = 8 * NT * b->plan.chunk;
    const float *from = recv + b->half * LORA_SPLIT * pitch;
    for (int i = (int)threadIdx.x; i < 8 * NT * quads; i += LORA_THREADS) {
        int row = i / quads, quad = i % quads;
        float4 sum = make_float4(0, 0, 0, 0);
        if (row < item->rows) {
            const float *p = from + row * b->plan.chunk + quad * 4;
            sum = *(const float4 *)p;
            UNROLL
            for (int r = 1; r < LORA_SPLIT; r++) sum = lora_add4(sum, *(const float4 *)(p + r * pitch));
        }
        lora_v_put<NT>(v, row, (e->v + chunk * (LORA_CHUNK / 16)) * 4 + quad, sum, e->scale);
    }
}

/* v of all entries of the item. */
template <int NT, int PARTS, class TAIL>
DEV void lora_shrink_item(struct lora_cursor *c, struct lora_team<PARTS> *b, const TAIL *tail, const struct op_lora *op,
                          const struct lora_item<PARTS> *item, float *part, float *recv, uint4 *v)
{
    NO_UNROLL
    for (int i = 0; i < PARTS * META_STACK; i++) {
        const struct lora_entry *e = &item->e[i];
        NO_UNROLL
        for (int chunk = 0; chunk * LORA_CHUNK < e->r; chunk++) {
            int ranks = lora_chunk_ranks(e, chunk);
            struct lora_share s = lora_share_of(ranks);
            lora_shrink_chunk<NT>(c, b, tail, op, item, ranks, &s, part);
            lora_push<NT>(b, item, &s, part, recv);
            dev_cluster_sync();
            lora_gather<NT>(b, item, e, chunk, &s, recv, v);
            b->half ^= 1;
        }
    }
    dev_sync();
}

template <int NT, int PARTS, class TAIL>
DEV void lora_expand_item(struct lora_cursor *c, struct lora_team<PARTS> *b, const TAIL *tail, const struct op_lora *op,
                          const struct lora_item<PARTS> *item, const uint4 *v)
{
    constexpr int U = PARTS * NT >= 4 ? 1 : 4 / (PARTS * NT);
    struct lora_span tiles = lora_tiles_of(b, tail, op, item);
    bool streamed = item->blocks16 > 0;
    int per = streamed ? lora_stage_tiles(b->plan.stage_bytes, item) : LORA_WARPS * U;
    NO_UNROLL
    for (int first = tiles.from; first < tiles.to; first += per) {
        int end = first + per < tiles.to ? first + per : tiles.to;
        bool waited = !streamed;
        const uint4 *stage = (const uint4 *)lora_stage(b);
        NO_UNROLL
        for (int tile = first + (int)dev_warp(); tile < end; tile += U * LORA_WARPS) {
            struct lora_work<NT, PARTS, U> work;
            lora_begin(tail, &work, op, item, tile, end);
            if (!waited) lora_await(b);
            waited = true;
            lora_add_up<NT, PARTS, U, false>(&work, item, stage, first, end - first, v, tile, end);
            lora_end(tail, &work, op, item, tile, end);
        }
        if (!waited) lora_await(b); /* nobody leaves a stage that has not come */
        if (streamed) lora_leave(c, b, tail, op);
    }
}

DEV void lora_finish(const struct tail_add *, const struct lora_team<1> *, const struct op_lora *,
                     const struct lora_item<1> *)
{
}

/* --- the whole --- */

/* Items from .. to-1 of the team are looked up, one entry a thread. */
template <int PARTS> DEV void lora_look_up(struct lora_team<PARTS> *b, const struct op_lora *op, int from, int to)
{
    constexpr int entries = PARTS * META_STACK;
    int q = from + (int)threadIdx.x / entries;
    if (q < to && q < b->count)
        lora_fill(lora_item_at(b, q), op, &b->walk, b->team + q * b->plan.teams, (int)threadIdx.x % entries);
    b->loaded = to < b->count ? to : b->count;
}

template <int PARTS, class TAIL>
DEV void lora_start(struct lora_cursor *c, struct lora_team<PARTS> *b, const TAIL *tail, const struct op_lora *op)
{
    if (op->made) dev_pdl_wait();
    int tiles = lora_every(tail) ? *op->nall : *op->ntile, unit = lora_unit(tail);
    b->rank = (int)dev_cluster_rank(), b->team = (int)blockIdx.x / LORA_SPLIT;
    b->walk = lora_walk_of(tiles, PARTS > 1 ? 1 : op->nslice, lora_whole(tail) ? 0 : lora_most_columns(op) / unit,
                           b->plan.teams);
    b->count = b->team < b->walk.items ? (b->walk.items - b->team + b->plan.teams - 1) / b->plan.teams : 0;
    b->used = b->issued = b->half = 0;
    if (threadIdx.x == 0) {
        for (int s = 0; s < LORA_STAGES; s++) dev_mbar_init(&b->full[s], 1), dev_mbar_init(&b->empty[s], LORA_WARPS);
        dev_mbar_fence_init();
    }
    lora_look_up(b, op, 0, LORA_AHEAD);
    dev_sync();
    struct lora_cursor begin = {0, 0, 0, 0};
    *c = begin;
    if (threadIdx.x == 0) lora_produce(c, b, tail, op, LORA_STAGES, LORA_WEIGHTS);
    dev_pdl_wait();
    if (threadIdx.x == 0) {
        *c = begin, b->issued = 0;
        lora_produce(c, b, tail, op, LORA_STAGES, LORA_INPUTS);
    }
}

template <int NT, int PARTS, class TAIL>
DEV void lora_cluster_run(const TAIL *tail, const struct op_lora *op, const struct lora_plan *plan,
                          struct lora_item<PARTS> *items, struct dev_mbar *bars, float *part, unsigned char *shared)
{
    struct lora_team<PARTS> b;
    struct lora_cursor c;
    float *recv = (float *)(shared + plan->recv_at);
    uint4 *v = (uint4 *)(shared + plan->v_at);
    b.items = items, b.plan = *plan, b.full = bars, b.empty = bars + LORA_STAGES, b.ring = shared;
    dev_pdl_launch();
    dev_cluster_arrive();
    lora_start(&c, &b, tail, op);
    dev_cluster_wait();
    NO_UNROLL
    for (int q = 0; q < b.count; q++) {
        if (q > 0 && q % (LORA_AHEAD / 2) == 0) {
            if (c.q < q) c.q = q, c.e = c.chunk = c.at = 0; /* or it would look for more in an item that goes */
            dev_sync();                                     /* nobody reads those any more */
            lora_look_up(&b, op, q + LORA_AHEAD / 2, q + LORA_AHEAD);
            dev_sync();
        }
        if (threadIdx.x == 0) lora_produce(&c, &b, tail, op, b.used + LORA_STAGES - 1, LORA_WEIGHTS | LORA_INPUTS);
        const struct lora_item<PARTS> *item = lora_item_at(&b, q);
        if (item->blocks16 == 0 && !lora_every(tail)) continue;
        if (item->blocks16 > 0) lora_shrink_item<NT>(&c, &b, tail, op, item, part, recv, v);
        if (item->blocks16 > 0 || lora_passes(tail)) lora_expand_item<NT>(&c, &b, tail, op, item, v);
        lora_finish(tail, &b, op, item);
    }
}
