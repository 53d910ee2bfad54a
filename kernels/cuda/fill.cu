/* fill: a matrix of values that look random, by counter: element i of stream s is a mix of (i, s), so that any part can be
 * made anywhere, and made again by another program (Wellons' lowbias32, two rounds, is the mix).
 *
 * A thread makes 8 elements and stores 16 bytes; blocks walk over the matrix. Writes 2 bytes an element: as fast as
 * memory takes them. At start only. */
#include "kernels/cuda/dev.h"
#include "kernels/cuda/fill.h"
#include "kernels/cuda/ops.h"

#define THREADS 256
#define BLOCKS_SM 8
#define EACH 8

DEV float value_of(uint32_t stream, uint64_t i)
{
    uint32_t h = (uint32_t)i ^ stream * 0x9e3779b9u;
    FILL_MIX(h);
    h += (uint32_t)(i >> 32) + stream;
    FILL_MIX(h);
    return (float)(h >> 8) * 0x1p-23f - 1;
}

KERNEL(fill, THREADS, 1)(GRID_CONST struct op_fill op)
{
    size_t row_pieces = (size_t)op.ld / EACH, pieces = row_pieces * (size_t)op.n;
    for (size_t p = (size_t)blockIdx.x * THREADS + threadIdx.x; p < pieces; p += (size_t)gridDim.x * THREADS) {
        size_t row = p / row_pieces;
        int k = (int)(p % row_pieces) * EACH;
        float v[EACH];
        UNROLL
        for (int i = 0; i < EACH; i++)
            v[i] = k < op.k ? op.scale * value_of(op.stream, row * (size_t)op.k + (size_t)(k + i)) : 0;
        *(uint4 *)(op.out + p * EACH) = dev_pack8(v);
    }
}

int launch_fill(const struct op_fill *op, void *stream)
{
    if (op->k % EACH || op->ld % EACH) return RT_BAD_SHAPE;
    size_t blocks = ((size_t)op->ld / EACH * (size_t)op->n + THREADS - 1) / THREADS;
    size_t most = (size_t)cuda_target.sms * BLOCKS_SM;
    struct dev_launch l = {};
    l.gx = (unsigned)(blocks < most ? blocks : most);
    l.threads = THREADS;
    l.stream = stream;
    return LAUNCH(&l, fill, *op);
}
