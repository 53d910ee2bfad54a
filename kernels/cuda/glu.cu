/* glu: out row = act(gate) * up of a row of gate | up, all bf16.
 *
 * A thread has eight neighbouring outputs: two loads of 16 bytes in flight, one store. Rows lie along the grid's x, where
 * there may be many (places of experts), a row's blocks along y. 6 n bytes a row; 32 rows of 14336 are 2.8 MB, all of it
 * in L2: 2 us, estimated, of which the bytes are half.
 *
 * n: a multiple of 8. */
#include "kernels/cuda/glu.h"

#define THREADS 128

KERNEL(glu, THREADS, 8)(GRID_CONST struct op_glu op)
{
    dev_pdl_launch();
    dev_pdl_wait();
    int at = (int)(blockIdx.y * THREADS + threadIdx.x) * 8;
    if (at >= op.n) return;
    const uint16_t *gate = op.gu + (size_t)blockIdx.x * 2 * (size_t)op.n + at;
    uint4 g = *(const uint4 *)gate, u = *(const uint4 *)(gate + op.n);
    *(uint4 *)(op.out + (size_t)blockIdx.x * (size_t)(op.n + op.gap) + at) =
        glu_eight(op.act, g, u, op.gate_bias ? op.gate_bias + at : NULL, op.up_bias ? op.up_bias + at : NULL);
}

int launch_glu(const struct op_glu *op, void *stream)
{
    if (op->rows < 1) return 0;
    if (op->n < 8 || op->n % 8) return RT_BAD_SHAPE;
    struct dev_launch l = {};
    l.gx = (unsigned)op->rows, l.gy = (unsigned)(op->n / 8 + THREADS - 1) / THREADS;
    l.threads = THREADS;
    l.stream = stream;
    l.pdl = cuda_target.pdl;
    return LAUNCH(&l, glu, *op);
}
