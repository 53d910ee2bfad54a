/* probe: a launch and a copy. A touch is one warp a block, a load and a store; the copy has four loads of 16 bytes in
 * flight in each of 256 threads, and blocks enough to fill the device: what any kernel that moves bytes is held against. */
#include "kernels/cuda/dev.h"
#include "tests/gpu/probe.h"

#define WARP 32
#define THREADS 256
#define DEPTH 4

KERNEL(touch, WARP, 1)(GRID_CONST struct op_touch op)
{
    dev_pdl_launch();
    dev_pdl_wait();
    if (threadIdx.x == 0) op.word[blockIdx.x] += 1;
}

int launch_touch(const struct op_touch *op, void *stream)
{
    struct dev_launch l = {};
    l.gx = (unsigned)op->blocks, l.threads = WARP, l.stream = stream, l.pdl = op->pdl;
    return LAUNCH(&l, touch, *op);
}

KERNEL(copy, THREADS, 4)(GRID_CONST struct op_copy op)
{
    const uint4 *from = (const uint4 *)op.from;
    uint4 *to = (uint4 *)op.to;
    size_t n = op.bytes / sizeof(uint4), step = (size_t)gridDim.x * THREADS * DEPTH;
    for (size_t at = (size_t)blockIdx.x * THREADS * DEPTH + threadIdx.x; at < n; at += step) {
        uint4 v[DEPTH];
        UNROLL
        for (int i = 0; i < DEPTH; i++)
            if (at + (size_t)(i * THREADS) < n) v[i] = dev_ld_nc(from + at + i * THREADS);
        UNROLL
        for (int i = 0; i < DEPTH; i++)
            if (at + (size_t)(i * THREADS) < n) to[at + (size_t)(i * THREADS)] = v[i];
    }
}

int launch_copy(const struct op_copy *op, void *stream)
{
    size_t most = (op->bytes + THREADS * DEPTH * 16 - 1) / (THREADS * DEPTH * 16);
    struct dev_launch l = {};
    l.gx = (unsigned)(most < (size_t)op->blocks ? most : (size_t)op->blocks), l.threads = THREADS, l.stream = stream;
    return LAUNCH(&l, copy, *op);
}
