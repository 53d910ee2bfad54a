/* moe_rows: rows into the order of experts, and the sum of what the experts gave.
 *
 *     gather    out row p = in row row_of[p], bf16: 4 k bytes a place
 *     combine   x row = (add ? x row : 0) + the sum over the row's pairs, by expert, of weight * y[place]: 4 used k bytes
 *               a row and what x takes; a thread has four columns, all its pairs' loads in flight UNDER at a time
 *
 * Both are copies of that many bytes. Rows of padding (expert -1) keep what x holds; places that nobody has (from
 * first[experts] on) are not written. The sum is in float32, pair by pair: its bits are the row's own. */
#include "kernels/cuda/dev.h"
#include "kernels/cuda/ops.h"

#define THREADS 128
#define UNDER 4

KERNEL(moe_gather, THREADS, 8)(GRID_CONST struct op_moe_gather op)
{
    dev_pdl_launch();
    dev_pdl_wait();
    int at = (int)(blockIdx.y * THREADS + threadIdx.x) * 8, place = (int)blockIdx.x;
    if (at >= op.k || place >= op.first[op.experts]) return;
    const uint16_t *from = op.in + (size_t)op.row_of[place] * (size_t)op.k + at;
    *(uint4 *)(op.out + (size_t)place * (size_t)op.k + at) = *(const uint4 *)from;
}

DEV float4 plus_weighted(float4 sum, float weight, float4 y)
{
    return make_float4(dev_fma(weight, y.x, sum.x), dev_fma(weight, y.y, sum.y), dev_fma(weight, y.z, sum.z),
                       dev_fma(weight, y.w, sum.w));
}

KERNEL(moe_combine, THREADS, 8)(GRID_CONST struct op_moe_combine op)
{
    dev_pdl_launch();
    dev_pdl_wait();
    int at = (int)(blockIdx.y * THREADS + threadIdx.x) * 4;
    size_t row = blockIdx.x, pair0 = row * (size_t)op.used;
    if (at >= op.k || op.expert[pair0] < 0) return;
    float4 sum = make_float4(0, 0, 0, 0), y[UNDER];
    for (int i0 = 0; i0 < op.used; i0 += UNDER) {
        UNROLL
        for (int i = 0; i < UNDER; i++)
            if (i0 + i < op.used) y[i] = *(const float4 *)(op.y + (size_t)op.place[pair0 + i0 + i] * op.k + at);
        UNROLL
        for (int i = 0; i < UNDER; i++)
            if (i0 + i < op.used) sum = plus_weighted(sum, op.weight[pair0 + i0 + i], y[i]);
    }
    float4 *to = (float4 *)(op.x + row * (size_t)op.k + at), x = make_float4(0, 0, 0, 0);
    if (op.add) x = *to;
    *to = make_float4(x.x + sum.x, x.y + sum.y, x.z + sum.z, x.w + sum.w);
}

/* Rows lie along x, which may be long. */
static struct dev_launch shape_of(int k, int each, int rows, void *stream)
{
    struct dev_launch l = {};
    l.gx = (unsigned)rows, l.gy = (unsigned)(k / each + THREADS - 1) / THREADS;
    l.threads = THREADS;
    l.stream = stream;
    l.pdl = cuda_target.pdl;
    return l;
}

int launch_moe_gather(const struct op_moe_gather *op, void *stream)
{
    struct dev_launch l = shape_of(op->k, 8, op->places, stream);
    if (op->places < 1) return 0;
    return op->k < 8 || op->k % 8 ? RT_BAD_SHAPE : LAUNCH(&l, moe_gather, *op);
}

int launch_moe_combine(const struct op_moe_combine *op, void *stream)
{
    struct dev_launch l = shape_of(op->k, 4, op->rows, stream);
    if (op->rows < 1) return 0;
    return op->k < 4 || op->k % 4 || op->used < 1 ? RT_BAD_SHAPE : LAUNCH(&l, moe_combine, *op);
}
