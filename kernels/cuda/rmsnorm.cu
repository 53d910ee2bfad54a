/* rmsnorm: root mean square norms of rows.
 *
 *     rmsnorm       out row i = norm(x row i, or row_of[i]) * weight, as bf16       reads 4 k, writes 2 k bytes a row
 *     rmsnorm_add   x row i += norm(y row i) * weight                               reads 8 k, writes 4 k
 *
 * A block has one row, whole in registers: one pass over memory, one barrier. Threads go by k alone (as few quads a
 * thread as 512 threads allow), since they set the order of the sum (norm.h). Weights are asked for before the wait for
 * the kernel that writes x, so with dependent launch a decoding step pays one trip to L2 for a norm, not two.
 *
 * Cost, estimated for an H200: some 2 us for up to 132 rows of 4096 (latency), then the bytes.
 *
 * k: a multiple of 4 up to NORM_K_MAX. Rows of padding are normed like others: whatever they hold stays theirs. */
#include "kernels/cuda/norm.h"
#include "kernels/cuda/ops.h"

template <int Q> KERNEL(rmsnorm, NORM_WARPS * 32, 1)(GRID_CONST struct op_rmsnorm op)
{
    SHARED(float, scratch, 32);
    struct norm_row<Q> x, weight;
    int quads = op.k / 4;
    dev_pdl_launch();
    norm_load_constant(&weight, op.weight, quads);
    dev_pdl_wait();
    int row = op.row_of ? op.row_of[blockIdx.x] : (int)blockIdx.x;
    if (row < 0) return;
    norm_load(&x, op.x + (size_t)row * (size_t)op.k, quads);
    float factor = norm_factor(dev_block_sum(norm_squares(&x), scratch), op.k, op.eps);
    uint2 *out = (uint2 *)(op.out + (size_t)blockIdx.x * (size_t)(op.k + op.gap));
    UNROLL
    for (int i = 0; i < Q; i++) {
        int at = (int)(threadIdx.x + (unsigned)i * blockDim.x);
        if (at < quads) out[at] = norm_round(x.v[i], factor, weight.v[i]);
    }
}

template <int Q> KERNEL(rmsnorm_add, NORM_WARPS * 32, 1)(GRID_CONST struct op_rmsnorm_add op)
{
    SHARED(float, scratch, 32);
    struct norm_row<Q> x, y, weight;
    int quads = op.k / 4;
    size_t at0 = (size_t)blockIdx.x * (size_t)op.k;
    dev_pdl_launch();
    norm_load_constant(&weight, op.weight, quads);
    dev_pdl_wait();
    norm_load(&y, op.y + at0, quads);
    norm_load(&x, op.x + at0, quads);
    float factor = norm_factor(dev_block_sum(norm_squares(&y), scratch), op.k, op.eps);
    float4 *to = (float4 *)(op.x + at0);
    UNROLL
    for (int i = 0; i < Q; i++) {
        int at = (int)(threadIdx.x + (unsigned)i * blockDim.x);
        if (at < quads) to[at] = norm_add(x.v[i], y.v[i], factor, weight.v[i]);
    }
}

/* Quads of a thread (norm.h); 0: no row has this length. */
static int quads_of(int k)
{
    return k < 4 || k % 4 ? 0 : NORM_QUADS_OF(k);
}

static struct dev_launch shape_of(int rows, int k, int quads, void *stream)
{
    struct dev_launch l = {};
    l.gx = (unsigned)rows, l.gy = l.gz = 1;
    l.threads = (unsigned)NORM_THREADS_OF(k, quads);
    l.stream = stream;
    l.pdl = cuda_target.pdl;
    return l;
}

int launch_rmsnorm(const struct op_rmsnorm *op, void *stream)
{
    int quads = quads_of(op->k);
    struct dev_launch l = shape_of(op->rows, op->k, quads ? quads : 1, stream);
    if (op->rows < 1) return 0;
    switch (quads) {
    case 1:
        return LAUNCH(&l, (rmsnorm<1>), *op);
    case 2:
        return LAUNCH(&l, (rmsnorm<2>), *op);
    case 4:
        return LAUNCH(&l, (rmsnorm<4>), *op);
    case 8:
        return LAUNCH(&l, (rmsnorm<8>), *op);
    }
    return RT_BAD_SHAPE;
}

int launch_rmsnorm_add(const struct op_rmsnorm_add *op, void *stream)
{
    int quads = quads_of(op->k);
    struct dev_launch l = shape_of(op->rows, op->k, quads ? quads : 1, stream);
    if (op->rows < 1) return 0;
    switch (quads) {
    case 1:
        return LAUNCH(&l, (rmsnorm_add<1>), *op);
    case 2:
        return LAUNCH(&l, (rmsnorm_add<2>), *op);
    case 4:
        return LAUNCH(&l, (rmsnorm_add<4>), *op);
    case 8:
        return LAUNCH(&l, (rmsnorm_add<8>), *op);
    }
    return RT_BAD_SHAPE;
}
