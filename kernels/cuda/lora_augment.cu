/* K-augmentation: the columns behind x and W that make adapters a part of the base's product (ops.h has their order).
 *
 *   rows      the shrink of lora.cu leaves planes; here parts 0 .. 7 are added, scaled and split into two bf16 by rows,
 *             four ranks a thread, zeros where the row's adapters are others. Rows * columns * 2 bytes written.
 *   weights   B out of the pool's order (lora_layout.h) into rows, eight columns a thread, one 16-byte store. Outputs *
 *             columns * 2 bytes written, half of it zeros for each other slice. Behind W itself when an adapter is loaded,
 *             and its columns alone; behind panels of expanded codes in each product.
 *
 * The product then has k + columns inputs instead of k: cheaper than reading and writing y where rows are many and
 * adapters few. It is not bit-equal to the LoRA kernels (another order of sums), so a bucket uses one or the other. */
#include "kernels/cuda/lora_core.h"

#define COLUMN_STEP 64 /* what dense products like k to be a multiple of */
#define AUGMENT_BLOCKS_PER_SM 4

int augment_width(int nslice, int ranks)
{
    return (nslice * 2 * ranks + COLUMN_STEP - 1) / COLUMN_STEP * COLUMN_STEP;
}

int augment_columns(int nslice, int nhot, int ranks)
{
    return nhot * augment_width(nslice, ranks);
}

/* A column behind k: which hot adapter's, slice's, half's and rank's. slice >= nslice: padding. */
struct augment_column {
    int adapter, slice, half, rank;
};
DEV struct augment_column column_of(const struct op_augment *op, int column, int width)
{
    int i = column % width / op->ranks;
    struct augment_column c = {column / width, i / 2, i % 2, column % width % op->ranks};
    return c;
}

DEV int slot_of(const struct op_augment *op, const struct augment_column *c)
{
    if (c->slice >= op->lora.nslice) return -1;
    return op->hot ? op->hot[c->adapter] : c->adapter;
}

/* s of ranks c->rank .. +3 of a row of the tile, scaled; zeros where no use is in this slot. */
DEV float4 s_of(const struct op_augment *op, const struct cuda_tile *tile, int row, const struct augment_column *c,
                int slot)
{
    float4 s = make_float4(0, 0, 0, 0);
    for (int u = 0, at = 0; slot >= 0 && u < tile->nuse; u++) {
        const struct cuda_module *m = lora_module(&op->lora, tile, u, c->slice);
        float scale = m->r > 0 ? m->scale * tile->use[u].weight : 0;
        const float *from = lora_plane(&op->lora, row, c->slice, 0) + at * 16 + c->rank;
        at += lora_blocks16(lora_rank8(m->r));
        if (tile->use[u].slot != slot || c->rank >= lora_rank8(m->r)) continue;
        float4 sum = *(const float4 *)from;
        for (int p = 1; p < LORA_SPLIT; p++)
            sum = lora_add4(sum, *(const float4 *)(from + p * LORA_PLANE_STRIDE(op->lora.ranks)));
        s = lora_add4(s, make_float4(sum.x * scale, sum.y * scale, sum.z * scale, sum.w * scale));
    }
    return s;
}

KERNEL(augment_rows, LORA_THREADS, 2)(GRID_CONST struct op_augment op, GRID_CONST int width)
{
    int columns = op.nhot * width;
    dev_pdl_launch();
    dev_pdl_wait();
    int cold = op.cold ? *op.cold : 0;
    for (int i = (int)blockIdx.x; i < *op.lora.nall; i += (int)gridDim.x) {
        const struct cuda_tile *tile = &op.lora.tile[i];
        for (int q = (int)threadIdx.x; q < tile->rows * (columns / 4); q += LORA_THREADS) {
            int row = tile->row0 + q / (columns / 4), column = q % (columns / 4) * 4;
            struct augment_column c = column_of(&op, column, width);
            float4 s = s_of(&op, tile, row, &c, i < cold ? -1 : slot_of(&op, &c));
            if (c.half) s = make_float4(lora_lo(s.x), lora_lo(s.y), lora_lo(s.z), lora_lo(s.w));
            uint16_t *x = const_cast<uint16_t *>(op.lora.x) + (size_t)row * (size_t)op.lora.ldx + op.lora.k;
            *(uint2 *)(x + column) = make_uint2(dev_pack(s.x, s.y), dev_pack(s.z, s.w));
        }
    }
}

/* Ranks j, j+1 (j even) of an output of B as packed. */
DEV uint32_t pair_of_b(const void *b, int r8, int output, int j)
{
    int o = output % LORA_N_STEP, lane = o / 2 * 4 + j % 8 / 2, block = j / 16;
    const uint16_t *at =
        (const uint16_t *)b + (size_t)(output / LORA_N_STEP) * (size_t)(LORA_N_STEP * r8) + block * 256;
    int wide = r8 - block * 16 >= 16;
    return *(const uint32_t *)(at + (wide ? lane * 8 + j % 16 / 8 * 4 + o % 2 * 2 : lane * 4 + o % 2 * 2));
}

/* Eight ranks of an output: the columns' half doesn't matter, for both have the same B. */
DEV uint4 b_of(const struct op_augment *op, int slice, int output, const struct augment_column *c)
{
    uint32_t w[4] = {0, 0, 0, 0};
    int slot = c->slice == slice ? slot_of(op, c) : -1;
    if (slot >= 0) {
        const struct op_lora *l = &op->lora;
        const struct cuda_module *m = &l->table[(size_t)slot * (size_t)l->stride + (size_t)(op->at + l->slice[slice])];
        int r8 = lora_rank8(m->r);
        UNROLL
        for (int i = 0; i < 4; i++)
            if (c->rank + 2 * i < r8) w[i] = pair_of_b(m->b, r8, output, c->rank + 2 * i);
    }
    return make_uint4(w[0], w[1], w[2], w[3]);
}

KERNEL(augment_weights, LORA_THREADS, 2)(GRID_CONST struct op_augment op, GRID_CONST int width)
{
    int from = op.only ? (op.only - 1) * width : 0, eights = (op.only ? 1 : op.nhot) * width / 8, slice0 = 0;
    dev_pdl_launch();
    dev_pdl_wait();
    for (int s = 0; s < op.lora.nslice; slice0 += op.lora.n[s], s++) {
        int begin = op.first > slice0 ? op.first - slice0 : 0, end = op.lora.n[s];
        if (op.outputs && op.first + op.outputs - slice0 < end) end = op.first + op.outputs - slice0;
        for (int i = (int)(blockIdx.x * LORA_THREADS + threadIdx.x); i < (end - begin) * eights;
             i += (int)gridDim.x * LORA_THREADS) {
            int output = begin + i / eights, column = from + i % eights * 8;
            struct augment_column c = column_of(&op, column, width);
            uint16_t *to = op.w + (size_t)(slice0 + output - op.first) * (size_t)op.ldw + op.lora.k + column;
            *(uint4 *)to = b_of(&op, s, output, &c);
        }
    }
}

/* --- launch --- */

static int check(const struct op_augment *op)
{
    if (op->ranks < 16 || op->ranks % 16 || op->nhot < 1 || op->lora.k % 8) return RT_BAD_SHAPE;
    int all = op->lora.k + augment_columns(op->lora.nslice, op->nhot, op->ranks);
    return op->lora.ldx < all || op->ldw < all || op->ldw % 8 ? RT_BAD_SHAPE : 0;
}

static struct dev_launch grid_of(void *stream)
{
    struct dev_launch l = {};
    l.gx = (unsigned)(cuda_target.sms * AUGMENT_BLOCKS_PER_SM), l.threads = LORA_THREADS;
    l.stream = stream, l.pdl = cuda_target.pdl;
    return l;
}

int launch_augment_rows(const struct op_augment *op, void *stream)
{
    struct dev_launch l = grid_of(stream);
    int rc = check(op);
    if (!rc) rc = launch_lora_shrink(&op->lora, stream);
    return rc ? rc : LAUNCH(&l, augment_rows, *op, augment_width(op->lora.nslice, op->ranks));
}

int launch_augment_weights(const struct op_augment *op, void *stream)
{
    struct dev_launch l = grid_of(stream);
    int rc = check(op);
    return rc ? rc : LAUNCH(&l, augment_weights, *op, augment_width(op->lora.nslice, op->ranks));
}
