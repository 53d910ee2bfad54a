/* LoRA in two kernels, "planes" (sm_80 on): what runs where there are no clusters, and the reference for the cluster
 * kernel, with which it agrees bit by bit (lora_core.h has the order of sums).
 *
 *   shrink   block (team, part): for its team's items (tile, slice) the sums over one of 8 parts of k; float32 into plane
 *            `part` of the scratch, [row][slice][part][ranks].
 *   expand   block (team, part): for its team's items (tile, slice, block of columns) adds planes 0 .. 7, scales, splits,
 *            and does an eighth of the item's columns.
 *
 * Grid: constant, two blocks of 256 an SM, teams of 8; items go round. Both stream their operand from memory straight
 * into registers, 16 bytes a lane, 4 loads in flight a lane: 32 KB an SM. Bytes moved per item: 2 r (k + n) once, and a
 * read and a write of rows * n of y; the planes are 32 bytes per row and rank, each way. Shared: 5 KB (10 KB with tiles
 * of 16 rows) in the shrink; v in the expand, 512 bytes per 16 ranks and 8 rows.
 *
 * Launch of launch_lora(): the cluster kernel where the device has them. */
#include "kernels/cuda/lora_tail.h"

template <int NT> DEV struct lora_rows<NT> rows_of(const struct op_lora *op, int row0, int count, int input) {
    struct lora_rows<NT> r;
    int lane = (int)dev_lane();
    UNROLL
    for (int n = 0; n < NT; n++) {
        int row = n * 8 + lane / 4;
        r.x[n] = row < count ? (const uint4 *)(op->x + (size_t)(row0 + row) * (size_t)op->ldx + input) + lane % 4 : 0;
    }
    return r;
}

/* One chunk of an entry's ranks into the plane. Barriers inside; free `part` behind the caller's next one. */
template <int NT>
DEV void shrink_chunk(float *part, const struct op_lora *op, const struct lora_item<1> *item,
                      const struct lora_entry *e, int chunk, int rank)
{
    struct lora_span k = lora_steps(op->k, rank);
    int ranks = e->r - chunk * LORA_CHUNK < LORA_CHUNK ? e->r - chunk * LORA_CHUNK : LORA_CHUNK, steps = k.to - k.from;
    struct lora_share s = lora_share_of(ranks);
    const uint4 *a = e->a + ((size_t)e->r * (size_t)k.from + (size_t)(chunk * LORA_CHUNK) * (size_t)steps) * 4;
    struct lora_rows<NT> rows = rows_of<NT>(op, item->row0, item->rows, k.from * LORA_K_STEP);
    float d[NT][2][4];
    lora_clear<NT * 8>(&d[0][0][0]);
    lora_shrink<NT, true>(d, &s, a, ranks, 0, steps, &rows, op->k - k.from * LORA_K_STEP);
    lora_part_put<NT>(part, &s, d);
    dev_sync();
    for (int i = (int)threadIdx.x; i < item->rows * s.tiles * 4; i += LORA_THREADS) {
        int row = i / (s.tiles * 4), quad = i % (s.tiles * 4);
        float *to = lora_plane(op, item->row0 + row, item->slice, rank) + e->v * 16 + chunk * LORA_CHUNK + quad * 4;
        *(float4 *)to = lora_part_sum<NT>(part, &s, row, quad);
    }
    dev_sync();
}

template <int NT> KERNEL(lora_shrink_planes, LORA_THREADS, LORA_BLOCKS_PER_SM)(GRID_CONST struct op_lora op)
{
    SHARED(float, part, LORA_WARPS * 8 * NT * LORA_PART_ROW);
    SHARED(struct lora_item<1>, item, 1);
    int rank = (int)blockIdx.x % LORA_SPLIT, team = (int)blockIdx.x / LORA_SPLIT, teams = (int)gridDim.x / LORA_SPLIT;
    dev_pdl_launch();
    dev_pdl_wait();
    struct lora_walk w = {*op.ntile, op.nslice, 1, *op.ntile * op.nslice};
    for (int i = team; i < w.items; i += teams) {
        dev_sync(); /* all have read the item before */
        if (threadIdx.x < META_STACK) lora_fill<1>(item, &op, &w, i, (int)threadIdx.x);
        dev_sync();
        NO_UNROLL
        for (int u = 0; u < META_STACK; u++) NO_UNROLL
        for (int chunk = 0; chunk * LORA_CHUNK < item->e[u].r; chunk++)
            shrink_chunk<NT>(part, &op, item, &item->e[u], chunk, rank);
    }
}

/* v of one part of an item from the planes. */
template <int NT> DEV void gather_v(uint4 *v, const struct op_lora *op, const struct lora_item<1> *item)
{
    int quads = item->blocks16 * 4;
    for (int i = (int)threadIdx.x; i < 8 * NT * quads; i += LORA_THREADS) {
        int row = i / quads, quad = i % quads;
        float4 sum = make_float4(0, 0, 0, 0);
        if (row < item->rows) {
            const float *from = lora_plane(op, item->row0 + row, item->slice, 0) + quad * 4;
            int stride = LORA_PLANE_STRIDE(op->ranks);
            sum = *(const float4 *)from;
            UNROLL
            for (int p = 1; p < LORA_SPLIT; p++) sum = lora_add4(sum, *(const float4 *)(from + p * stride));
        }
        lora_v_put<NT>(v, row, quad, sum, lora_scale_at<1>(item, quad / 4));
    }
}

template <int NT>
KERNEL(lora_expand_planes, LORA_THREADS, LORA_BLOCKS_PER_SM)
(GRID_CONST struct op_lora op, GRID_CONST struct tail_add tail)
{
    DYN_SHARED(uint4, v);
    SHARED(struct lora_item<1>, item, 1);
    int rank = (int)blockIdx.x % LORA_SPLIT, team = (int)blockIdx.x / LORA_SPLIT, teams = (int)gridDim.x / LORA_SPLIT;
    dev_pdl_launch();
    dev_pdl_wait();
    struct lora_walk w = lora_walk_of(*op.ntile, op.nslice, lora_most_columns(&op) / LORA_N_STEP, teams);
    for (int i = team; i < w.items; i += teams) {
        dev_sync(); /* all have read the item and the v before */
        if (threadIdx.x < META_STACK) lora_fill<1>(item, &op, &w, i, (int)threadIdx.x);
        dev_sync();
        if (item->blocks16 == 0) continue;
        gather_v<NT>(v, &op, item);
        dev_sync();
        struct lora_span cols =
            lora_columns((op.n[item->slice] + LORA_N_STEP - 1) / LORA_N_STEP, &w, item->block, rank);
        for (int tile = cols.from + (int)dev_warp(); tile < cols.to; tile += 4 / NT * LORA_WARPS) {
            struct lora_work<NT, 1, 4 / NT> work;
            lora_begin(&tail, &work, &op, item, tile, cols.to);
            lora_add_up<NT, 1, 4 / NT, true>(&work, item, NULL, 0, 0, v, tile, cols.to);
            lora_end(&tail, &work, &op, item, tile, cols.to);
        }
    }
}

/* --- launch --- */

size_t lora_scratch(int max_rows, int max_rank)
{
    return (size_t)max_rows * LORA_SLICES * LORA_SPLIT * (size_t)LORA_PLANE_STRIDE(max_rank) * sizeof(float);
}

static struct dev_launch grid_of(void *stream)
{
    unsigned teams = (unsigned)(cuda_target.sms * LORA_BLOCKS_PER_SM) / LORA_SPLIT;
    struct dev_launch l = {};
    l.gx = (teams > 0 ? teams : 1) * LORA_SPLIT, l.threads = LORA_THREADS, l.stream = stream, l.pdl = cuda_target.pdl;
    return l;
}

int launch_lora_shrink(const struct op_lora *op, void *stream)
{
    struct dev_launch l = grid_of(stream);
    int rc = lora_check(op);
    if (rc) return rc;
    return op->tile_rows > 8 ? LAUNCH(&l, (lora_shrink_planes<2>), *op) : LAUNCH(&l, (lora_shrink_planes<1>), *op);
}

template <int NT> static int launch_expand(const struct op_lora *op, void *stream)
{
    struct dev_launch l = grid_of(stream);
    struct tail_add tail = {op->f32};
    l.shared = (size_t)(LORA_PLANE_STRIDE(op->ranks) / 16) * NT * 32 * sizeof(uint4);
    return LAUNCH(&l, (lora_expand_planes<NT>), *op, tail);
}

int launch_lora_planes(const struct op_lora *op, void *stream)
{
    int rc = launch_lora_shrink(op, stream);
    if (rc) return rc;
    return op->tile_rows > 8 ? launch_expand<2>(op, stream) : launch_expand<1>(op, stream);
}

int launch_lora(const struct op_lora *op, void *stream)
{
    return cuda_target.cc >= 90 ? launch_lora_cluster(op, stream) : launch_lora_planes(op, stream);
}
