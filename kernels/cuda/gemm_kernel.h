/* The product's kernel, a template that gemm_small.cu and gemm_wide.cu instantiate: a ring of 64 inputs at a time between
 * global memory and the tensor cores.
 *
 * A block is WARPS warps in WN columns of outputs (16 MT each) x WK slices of k, times 8 NT rows. Slice s takes tiles s,
 * s + WK, s + 2 WK, ... of 64 inputs, so that a block reads runs of WK * 64 inputs of each output. A lane copies its own
 * fragments of the weights with cp.async and reads them back itself: no barrier in the loop where a warp has its rows of
 * x to itself (WN 1), one where WN warps share them.
 *
 *     ring   [WARPS][STAGES][weight_chunks][32 lanes] 16 bytes     weights, private to a lane
 *     rows   [WK][STAGES][2 NT][32 lanes] 16 bytes                 x in the order of the fragments; zeros beyond
 *     lut    [256][32] words                                       t4 only
 *     sums   [WK][8 NT][outputs + 4] float, over the ring once all have read it
 *
 * Order of a sum: within a slice tiles ascending, inputs as the mma adds them, groups of codes each scaled as they end;
 * then slices 0 .. WK - 1. It depends on k, KIND and WK alone: not on the rows beside, NT, MT or the block, and WK is 8
 * for all products of up to 16 rows, so those give a row the same bits whatever their number.
 *
 * Weights are asked for before the wait for the kernel in front (dependent launch), which does not write them.
 * Two blocks fit an SM (96 KB of ring at most, 128 registers): one's first copies and last sums hide behind the other's
 * stream, and 2 x 3 stages of 8 to 32 KB are under way, against the 20 to 30 KB an SM that latency times bandwidth of an
 * H100 or H200 asks for. */
#pragma once
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gemm_tile.h"
#include "kernels/cuda/ops.h"

#define WARPS 8
#define THREADS (WARPS * 32)
#define RING_BYTES (96 * 1024)
#define STAGES_MAX 6

template <int KIND, int MT, int NT, int WK> struct gemm_sizes {
    static constexpr int columns = WARPS / WK, outputs = columns * 16 * MT,
                         pitch = outputs + 4; /* of sums, in floats */
    static constexpr int lut_bytes = KIND == KIND_T4 ? LUT_WORDS * 4 : 0;
    static constexpr int weights = chunks<KIND, MT>::all * CHUNK_LANES, rows = 2 * NT * CHUNK_LANES; /* of a stage */
    static constexpr int stage_bytes = (WARPS * weights + WK * rows) * 16;
    static constexpr int fit = (RING_BYTES - lut_bytes) / stage_bytes;
    static constexpr int stages = fit > STAGES_MAX ? STAGES_MAX : fit < 2 ? 2 : fit;
    static constexpr int ring_bytes = stages * stage_bytes, sum_bytes = WK * 8 * NT * pitch * 4;
    static constexpr int shared_bytes = lut_bytes + (ring_bytes > sum_bytes ? ring_bytes : sum_bytes);
};

/* What a block works on. */
struct gemm_place {
    struct gemm_view w;
    const float *scales;
    const uint16_t *coarse;
    float factor;
    int row0, end; /* rows of x and y */
};

/* Tiles of `tile` rows of a group's experts stand in the grid at first[e] / tile + e and after: room for each, in
 * ascending order, in a grid whose size no step changes. false: this block has none. All threads call it. */
DEV bool find_expert(const struct gemm_job *job, int tile, struct gemm_place *at)
{
    SHARED(int, found, 1);
    int slot = (int)blockIdx.y;
    if (threadIdx.x == 0) found[0] = -1;
    dev_sync();
    for (int e = (int)threadIdx.x; e < job->experts; e += THREADS)
        if (slot >= job->first[e] / tile + e && slot < job->first[e + 1] / tile + e + 1) found[0] = e;
    dev_sync();
    int e = found[0];
    if (e < 0) return false;
    at->row0 = job->first[e] + (slot - job->first[e] / tile - e) * tile;
    at->end = job->first[e + 1];
    const struct cuda_weight *w = job->group + e;
    at->w.data = static_cast<const char *>(w->data), at->scales = w->scales, at->coarse = w->coarse,
    at->factor = w->factor;
    return at->row0 < at->end;
}

/* Pairs of entries for every byte of two codes, 32 times. */
DEV void fill_lut(uint32_t *lut, const uint16_t *coarse)
{
    uint4 *out = reinterpret_cast<uint4 *>(lut);
    for (int i = (int)threadIdx.x; i < LUT_WORDS / 4; i += THREADS) {
        int byte = i / 8;
        uint32_t pair = coarse[byte % 16] | (uint32_t)coarse[byte / 16] << 16;
        out[i] = make_uint4(pair, pair, pair, pair);
    }
    dev_sync();
}

/* A lane's first row of x, and how many rows and inputs there are from its first on. */
struct lane_rows {
    const uint16_t *x;
    int rows, inputs, step; /* step: elements between its rows, eight apart */
};

template <int KIND> DEV struct lane_rows lane_rows_of(const struct gemm_job *job, const struct gemm_place *at)
{
    int row = at->row0 + lane_g();
    return {job->x + (size_t)row * (size_t)job->ldx + lane_k<KIND>(0), at->end - row, at->w.k - lane_k<KIND>(0),
            8 * job->ldx};
}

/* Chunks first, first + columns, ... of the rows' 2 NT for tile `tile`; slot is the lane's. */
template <int KIND, int NT> DEV void fetch_x(uint4 *slot, const struct lane_rows *s, int tile, int first, int columns)
{
    const int second = KIND == KIND_F8R ? 8 : 32; /* inputs from a lane's chunk 0 to its chunk 1 */
    UNROLL
    for (int c = 0; c < 2 * NT; c++) {
        if (c % columns != first) continue;
        int k = tile * TILE_K + c % 2 * second;
        bool there = c / 2 * 8 < s->rows && k < s->inputs;
        dev_cp_async16_zfill(slot + c * CHUNK_LANES, s->x + (size_t)(c / 2) * (size_t)s->step + k, there);
    }
}

DEV void store_sum(const struct gemm_job *job, int row, int n, float v)
{
    size_t at = (size_t)row * (size_t)job->ldy + n;
    if (!job->f32) {
        static_cast<uint16_t *>(job->y)[at] = (uint16_t)dev_pack(v, 0);
    } else {
        float *y = static_cast<float *>(job->y) + at;
        *y = job->add ? *y + v : v;
    }
}

/* acc of all warps -> sums -> y. */
template <int KIND, int MT, int NT, int WK>
DEV void finish(float *sums, const float acc[MT][NT][4], const struct gemm_job *job, const struct gemm_place *at)
{
    typedef gemm_sizes<KIND, MT, NT, WK> sizes;
    const int outputs = sizes::outputs, pitch = sizes::pitch;
    int slice = (int)dev_warp() / sizes::columns, n0 = (int)dev_warp() % sizes::columns * 16 * MT;
    UNROLL
    for (int p = 0; p < MT; p++) UNROLL
    for (int i = 0; i < NT; i++) UNROLL
    for (int e = 0; e < 4; e++)
        sums[(slice * 8 * NT + 8 * i + 2 * lane_t() + e % 2) * pitch + n0 + 16 * p + lane_g() + e / 2 * 8] =
            acc[p][i][e];
    dev_sync();
    for (int i = (int)threadIdx.x; i < outputs * 8 * NT; i += THREADS) {
        int r = i / outputs, n = (int)blockIdx.x * outputs + i % outputs;
        if (n >= at->w.n || at->row0 + r >= at->end) continue;
        float v = sums[r * pitch + i % outputs];
        UNROLL
        for (int s = 1; s < WK; s++) v += sums[(s * 8 * NT + r) * pitch + i % outputs];
        if (KIND == KIND_F8R) v *= at->scales[n];
        if (KIND == KIND_T4) v *= at->factor;
        store_sum(job, at->row0 + r, n, v);
    }
}

template <int KIND, int MT, int NT, int WK> KERNEL(gemm, THREADS, NT <= 4 ? 2 : 1)(GRID_CONST struct gemm_job job)
{
    typedef gemm_sizes<KIND, MT, NT, WK> sizes;
    const int STAGES = sizes::stages, WN = sizes::columns, weights = sizes::weights, rows = sizes::rows;
    DYN_SHARED(uint4, shared);
    uint32_t *lut = reinterpret_cast<uint32_t *>(shared);
    uint4 *ring = shared + sizes::lut_bytes / 16;
    struct gemm_place at = {{static_cast<const char *>(job.w.data), job.w.n, job.w.k, job.w.ld},
                            job.w.scales,
                            job.w.coarse,
                            job.w.factor,
                            (int)blockIdx.y * 8 * NT,
                            job.rows};
    dev_pdl_launch();
    if (job.group) {
        dev_pdl_wait();
        if (!find_expert(&job, 8 * NT, &at)) return;
    }
    if constexpr (KIND == KIND_T4) fill_lut(lut, at.coarse);

    int slice = (int)dev_warp() / WN, column = (int)dev_warp() % WN;
    int n0 = ((int)blockIdx.x * WN + column) * 16 * MT, tiles = (at.w.k + TILE_K - 1) / TILE_K;
    int rounds = (tiles + WK - 1) / WK, mine = n0 < at.w.n ? tiles : 0; /* tiles with work for this warp */
    uint4 *own = ring + dev_warp() * STAGES * weights + dev_lane();
    uint4 *shared_rows = ring + WARPS * STAGES * weights + slice * STAGES * rows + dev_lane();
    struct lane_source source = lane_source_of<KIND>(&at.w, n0);
    struct lane_rows lane = lane_rows_of<KIND>(&job, &at);
    float acc[MT][NT][4] = {};

    UNROLL
    for (int s = 0; s < STAGES - 1; s++)
        if (slice + s * WK < mine) fetch_weight<KIND, MT>(own + s * weights, &source, at.w.ld, slice + s * WK);
    if (!job.group) dev_pdl_wait();
    UNROLL
    for (int s = 0; s < STAGES - 1; s++) {
        if (slice + s * WK < tiles) fetch_x<KIND, NT>(shared_rows + s * rows, &lane, slice + s * WK, column, WN);
        dev_cp_async_commit();
    }
    int stage = 0, ahead = STAGES - 1;
    NO_UNROLL
    for (int i = 0; i < rounds; i++) {
        dev_cp_async_wait<STAGES - 2>();
        if (WN > 1) dev_sync();
        int tile = slice + i * WK, next = tile + (STAGES - 1) * WK;
        if (next < mine) fetch_weight<KIND, MT>(own + ahead * weights, &source, at.w.ld, next);
        if (next < tiles) fetch_x<KIND, NT>(shared_rows + ahead * rows, &lane, next, column, WN);
        dev_cp_async_commit();
        if (tile < mine) tile_product<KIND, MT, NT>(acc, own + stage * weights, shared_rows + stage * rows, lut);
        ahead = stage;
        stage = stage + 1 == STAGES ? 0 : stage + 1;
    }
    dev_sync(); /* all have read the ring; no copy is on its way: each tile that was asked for has been waited for */
    finish<KIND, MT, NT, WK>(reinterpret_cast<float *>(ring), acc, &job, &at);
}

template <int KIND, int MT, int NT, int WK> int gemm_start(const struct gemm_job *job, void *stream)
{
    typedef gemm_sizes<KIND, MT, NT, WK> sizes;
    unsigned outputs = sizes::outputs, row_tiles = ((unsigned)job->rows + 8 * NT - 1) / (8 * NT);
    if (job->group) row_tiles = (unsigned)(job->rows / (8 * NT) + job->experts);
    struct dev_launch l = {((unsigned)job->w.n + outputs - 1) / outputs,
                           row_tiles,
                           1,
                           THREADS,
                           1,
                           (size_t)sizes::shared_bytes,
                           stream,
                           cuda_target.pdl};
    return LAUNCH(&l, (gemm<KIND, MT, NT, WK>), *job);
}

typedef int gemm_start_fn(const struct gemm_job *job, void *stream);
