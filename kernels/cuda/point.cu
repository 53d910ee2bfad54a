/* point: what is done value by value and has no better place.
 *
 *     softcap   x = cap tanh(x / cap)                    the logits of Gemma 2
 *     bias      y row += bias                            where no kernel behind the product adds it
 *     add       x += y                                   parts of the residual (other ranks' sums, DoRA's products)
 *     rows      out row i = in row (row_of ? row_of[i] : i), of so many 16-byte pieces, between any strides
 *
 * A thread has 16 bytes, in one piece where rows are whole pieces. All of it is bytes: what is read and written, at the
 * rate of a copy from some MB on, 2 us (estimated) below. A value depends on its own inputs only. */
#include "kernels/cuda/dev.h"
#include "kernels/cuda/ops.h"

#define THREADS 256
#define EACH 4 /* values of a thread, where rows may begin anywhere */

/* Value j of this thread's EACH: neighbours have neighbouring ones. */
DEV size_t mine(int j)
{
    return ((size_t)blockIdx.x * EACH + (size_t)j) * THREADS + threadIdx.x;
}

KERNEL(softcap, THREADS, 4)(GRID_CONST struct op_softcap op)
{
    dev_pdl_launch();
    dev_pdl_wait();
    float v[EACH];
    UNROLL
    for (int j = 0; j < EACH; j++) v[j] = mine(j) < op.n ? op.x[mine(j)] : 0;
    UNROLL
    for (int j = 0; j < EACH; j++)
        if (mine(j) < op.n) op.x[mine(j)] = op.cap * dev_tanh(v[j] / op.cap);
}

KERNEL(bias_f32, THREADS, 4)(GRID_CONST struct op_bias op)
{
    dev_pdl_launch();
    dev_pdl_wait();
    float *y = (float *)op.y + (size_t)blockIdx.y * (size_t)op.ld;
    UNROLL
    for (int j = 0; j < EACH; j++)
        if ((int)mine(j) < op.n) y[mine(j)] += op.bias[mine(j)];
}

KERNEL(bias_bf16, THREADS, 4)(GRID_CONST struct op_bias op)
{
    dev_pdl_launch();
    dev_pdl_wait();
    uint16_t *y = (uint16_t *)op.y + (size_t)blockIdx.y * (size_t)op.ld;
    UNROLL
    for (int j = 0; j < EACH; j++)
        if ((int)mine(j) < op.n) y[mine(j)] = (uint16_t)dev_pack(dev_lo(y[mine(j)]) + op.bias[mine(j)], 0);
}

KERNEL(add, THREADS, 4)(GRID_CONST struct op_add op)
{
    dev_pdl_launch();
    dev_pdl_wait();
    int at = (int)(blockIdx.x * THREADS + threadIdx.x) * 4;
    if (at >= op.k) return;
    size_t i = (size_t)blockIdx.y * (size_t)op.k + at;
    float4 x = *(const float4 *)(op.x + i), y = *(const float4 *)(op.y + i);
    *(float4 *)(op.x + i) = make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w);
}

KERNEL(rows, THREADS, 4)(GRID_CONST struct op_rows op)
{
    dev_pdl_launch();
    dev_pdl_wait();
    int at = (int)(blockIdx.x * THREADS + threadIdx.x);
    int from = op.row_of ? op.row_of[blockIdx.y] : (int)blockIdx.y;
    if (from < 0 || at >= op.pieces) return;
    const uint4 *in = (const uint4 *)((const char *)op.in + (size_t)from * op.in_bytes);
    uint4 *out = (uint4 *)((char *)op.out + (size_t)blockIdx.y * op.out_bytes);
    out[at] = in[at];
}

static struct dev_launch shape_of(size_t n, int each, int rows, void *stream)
{
    struct dev_launch l = {};
    size_t block = (size_t)each * THREADS;
    l.gx = (unsigned)((n + block - 1) / block), l.gy = (unsigned)rows;
    l.threads = THREADS;
    l.stream = stream;
    l.pdl = cuda_target.pdl;
    return l;
}

int launch_softcap(const struct op_softcap *op, void *stream)
{
    struct dev_launch l = shape_of(op->n, EACH, 1, stream);
    return op->n < 1 ? 0 : LAUNCH(&l, softcap, *op);
}

int launch_bias(const struct op_bias *op, void *stream)
{
    struct dev_launch l = shape_of((size_t)op->n, EACH, op->rows, stream);
    if (op->rows < 1 || op->n < 1) return 0;
    return op->f32 ? LAUNCH(&l, bias_f32, *op) : LAUNCH(&l, bias_bf16, *op);
}

int launch_add(const struct op_add *op, void *stream)
{
    struct dev_launch l = shape_of((size_t)op->k, 4, op->rows, stream);
    if (op->rows < 1 || op->k < 1) return 0;
    return op->k % 4 ? RT_BAD_SHAPE : LAUNCH(&l, add, *op);
}

int launch_rows(const struct op_rows *op, void *stream)
{
    struct dev_launch l = shape_of((size_t)op->pieces, 1, op->rows, stream);
    if (op->rows < 1 || op->pieces < 1) return 0;
    return op->in_bytes % 16 || op->out_bytes % 16 ? RT_BAD_SHAPE : LAUNCH(&l, rows, *op);
}
