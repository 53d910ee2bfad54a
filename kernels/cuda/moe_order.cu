/* moe_order: where each (row, expert) pair lies when pairs are sorted by expert, then by row, and which runs of those
 * places have the same adapters.
 *
 *     order   a block an expert: counts the pairs of smaller ids (-> first[e]), then walks all pairs again and gives its
 *             own their places in order. Nothing is exchanged between blocks, no atomics; every block reads all pairs
 *             (4 bytes each, from L2): 128 experts and 2048 rows of 8 are 2 x 8 MB, some 10 us (estimated); 32 rows: 2 us.
 *     tiles   one block: walks the places a block's width at a time; a running maximum finds where the run of each
 *             place began (another expert, or another segment), tiles are TILE_ROWS of a run, a running sum numbers them.
 *
 * Both walks carry their state in registers from turn to turn, and every thread goes as many turns.
 *
 * Pairs of padding have expert -1 and take no place: places at and beyond first[experts] are nobody's; their row_of is
 * not written. */
#include "kernels/cuda/dev.h"
#include "kernels/cuda/ops.h"

#define ORDER_THREADS 256
#define TILE_THREADS 512

/* How many threads of the block before this one say yes; *all: how many at all. hits: a word a warp. */
DEV int count_before(int yes, uint32_t *hits, int *all)
{
    uint32_t mine = dev_ballot(yes);
    int before = dev_popc(mine & ((1u << dev_lane()) - 1));
    dev_sync();
    if (dev_lane() == 0) hits[dev_warp()] = (uint32_t)dev_popc(mine);
    dev_sync();
    *all = 0;
    for (unsigned w = 0; w < blockDim.x / 32; w++) {
        if (w < dev_warp()) before += (int)hits[w];
        *all += (int)hits[w];
    }
    return before;
}

KERNEL(moe_order, ORDER_THREADS, 1)(GRID_CONST struct op_moe op)
{
    SHARED(int, sums, 32);
    SHARED(uint32_t, hits, 32);
    dev_pdl_launch();
    dev_pdl_wait();
    int expert = (int)blockIdx.x, pairs = op.rows * op.used, less = 0, all;
    for (int i = (int)threadIdx.x; i < pairs; i += ORDER_THREADS) {
        int e = op.expert[i];
        if (e >= 0 && e < expert) less++;
    }
    int at = dev_block_sum(less, sums);
    if (threadIdx.x == 0) op.first[expert] = at;
    if (expert == op.experts) return; /* the block behind the last expert only counts */
    for (int i0 = 0; i0 < pairs; i0 += ORDER_THREADS) {
        int i = i0 + (int)threadIdx.x;
        int yes = i < pairs && op.expert[i] == expert;
        int before = count_before(yes, hits, &all);
        if (yes) {
            op.place[i] = at + before;
            op.row_of[at + before] = i / op.used;
        }
        at += all;
    }
}

/* The largest of the threads up to and with this one. */
DEV int most_so_far(int v, int *warps)
{
    UNROLL
    for (int n = 1; n < 32; n *= 2) {
        int other = dev_shfl_up(v, (unsigned)n);
        if ((int)dev_lane() >= n && other > v) v = other;
    }
    if (dev_lane() == 31) warps[dev_warp()] = v;
    dev_sync();
    for (unsigned w = 0; w < dev_warp(); w++) v = warps[w] > v ? warps[w] : v;
    return v;
}

/* The expert at a place: first[] ascends. */
DEV int expert_at(const struct op_moe *op, int place)
{
    int lo = 0, hi = op->experts - 1; /* the last one whose first place is not behind */
    while (lo < hi) {
        int mid = (lo + hi + 1) / 2;
        if (op->first[mid] <= place)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

/* Segment and expert of a place; -1: no adapters, or no place. */
DEV int seg_at(const struct op_moe *op, int place, int places)
{
    return place >= 0 && place < places ? op->meta.seg_of[op->row_of[place]] : -1;
}

/* Does a run of places with the same adapters and the same expert begin here? */
DEV bool run_begins(const struct op_moe *op, int place, int places)
{
    return seg_at(op, place, places) != seg_at(op, place - 1, places) || op->first[expert_at(op, place)] == place;
}

DEV void put_tile(const struct op_moe *op, int tile, int place0, int rows, int seg)
{
    struct cuda_tile t = op->meta.seg[seg];
    t.row0 = place0;
    t.rows = rows;
    t.at = expert_at(op, place0) * 3;
    op->tile[tile] = t;
}

KERNEL(moe_tiles, TILE_THREADS, 1)(GRID_CONST struct op_moe op)
{
    SHARED(int, warps, 32);
    SHARED(uint32_t, hits, 32);
    SHARED(int, last, 1);
    dev_pdl_launch();
    dev_pdl_wait();
    int places = op.first[op.experts], run = 0, tiles = 0, all;
    for (int p0 = 0; p0 < places; p0 += TILE_THREADS) {
        int p = p0 + (int)threadIdx.x, seg = seg_at(&op, p, places);
        bool here = p < places;
        int began = most_so_far(here && run_begins(&op, p, places) ? p : run, warps);
        bool ends =
            seg >= 0 && ((p - began) % TILE_ROWS == TILE_ROWS - 1 || p + 1 == places || run_begins(&op, p + 1, places));
        int at = tiles + count_before(ends, hits, &all), start = p - (p - began) % TILE_ROWS;
        if (ends) put_tile(&op, at, start, p + 1 - start, seg);
        tiles += all;
        if (threadIdx.x == TILE_THREADS - 1) last[0] = began;
        dev_sync();
        run = last[0];
    }
    if (threadIdx.x == 0) op.ntile[0] = tiles;
}

int launch_moe_order(const struct op_moe *op, void *stream)
{
    if (op->rows < 1) return 0;
    if (op->experts < 1 || op->used < 1) return RT_BAD_SHAPE;
    struct dev_launch l = {};
    l.gx = (unsigned)op->experts + 1;
    l.threads = ORDER_THREADS;
    l.stream = stream;
    l.pdl = cuda_target.pdl;
    int rc = LAUNCH(&l, moe_order, *op);
    if (rc || !op->tile) return rc;
    l.gx = 1;
    l.threads = TILE_THREADS;
    return LAUNCH(&l, moe_tiles, *op);
}
