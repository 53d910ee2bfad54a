/* whole: the head of adapters that bring a matrix in the base's place (modules_to_save): y = x full^T for the rows of
 * their tiles. It runs behind the base's product, in buckets with such an adapter only, and overwrites what that wrote.
 *
 * Grid: x = blocks of OUTPUTS outputs, y = tiles. A warp has one output at a time and all rows of the tile (TILE_ROWS sums in
 * registers): it reads the output's row of `full` once, 16 bytes a lane, and the tile's rows from L2. A sum goes over a
 * lane's pieces in order, then over lanes (16, 8, 4, 2, 1): set by k alone.
 *
 * Cost: full's bytes once per tile, 2 n k: 1 GB for a head of 128k x 4096, 0.3 ms on an H200. Such adapters are rare;
 * rows that share one share the reading. */
#include "kernels/cuda/dev.h"
#include "kernels/cuda/ops.h"

#define WARPS 8
#define OUTPUTS 64 /* of a block: 8 of each warp */
#define PIECE 8    /* values of 16 bytes */

DEV float dot_piece(uint4 w, uint4 x, float sum)
{
    sum = dev_fma(dev_lo(w.x), dev_lo(x.x), sum), sum = dev_fma(dev_hi(w.x), dev_hi(x.x), sum);
    sum = dev_fma(dev_lo(w.y), dev_lo(x.y), sum), sum = dev_fma(dev_hi(w.y), dev_hi(x.y), sum);
    sum = dev_fma(dev_lo(w.z), dev_lo(x.z), sum), sum = dev_fma(dev_hi(w.z), dev_hi(x.z), sum);
    return dev_fma(dev_hi(w.w), dev_hi(x.w), dev_fma(dev_lo(w.w), dev_lo(x.w), sum));
}

KERNEL(whole, WARPS * 32, 2)(GRID_CONST struct op_whole op)
{
    dev_pdl_launch();
    dev_pdl_wait();
    if ((int)blockIdx.y >= op.ntile[0]) return;
    struct cuda_tile tile = op.tile[blockIdx.y];
    const uint16_t *full = tile.nuse == 1 ? op.full[tile.use[0].slot] : NULL;
    if (!full) return;
    int lane = (int)dev_lane(), end = (int)(blockIdx.x + 1) * OUTPUTS;
    for (int n = (int)blockIdx.x * OUTPUTS + (int)dev_warp(); n < end && n < op.n; n += WARPS) {
        float sum[TILE_ROWS] = {};
        for (int k = lane * PIECE; k < op.k; k += 32 * PIECE) {
            uint4 w = *(const uint4 *)(full + (size_t)n * (size_t)op.k + k);
            UNROLL
            for (int r = 0; r < TILE_ROWS; r++)
                if (r < tile.rows)
                    sum[r] = dot_piece(w, *(const uint4 *)(op.x + (size_t)(tile.row0 + r) * (size_t)op.ldx + k), sum[r]);
        }
        UNROLL
        for (int r = 0; r < TILE_ROWS; r++) {
            float all = dev_warp_sum(sum[r]);
            if (lane == 0 && r < tile.rows) op.y[(size_t)(tile.row0 + r) * (size_t)op.ldy + n] = all;
        }
    }
}

int launch_whole(const struct op_whole *op, void *stream)
{
    struct dev_launch l = {};
    l.gx = (unsigned)((op->n + OUTPUTS - 1) / OUTPUTS), l.gy = (unsigned)op->max_tiles;
    l.threads = WARPS * 32;
    l.stream = stream;
    l.pdl = cuda_target.pdl;
    if (op->max_tiles < 1) return 0;
    return op->k % PIECE ? RT_BAD_SHAPE : LAUNCH(&l, whole, *op);
}
