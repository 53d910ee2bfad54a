/* ranks: what came from the other devices of a group, put together (group.c).
 *
 *     ranks_sum     to[i] (+)= part 0's + part 1's + ...: the order is that of ranks, for every value in every step
 *     ranks_logits  a row's parts of the vocabulary side by side: out[row][rank * step + j] = part[rank][row][j]
 *
 * A thread has 16 bytes; of a sum it has one load per part in flight, all before the first is added. Bytes: a sum reads
 * each part once and writes (reads too, where it adds) the whole; logits are read and written once: 33 MB for 32 rows of
 * 128k, 10 us (estimated). Rows of out begin anywhere where the vocabulary is no multiple of four: then values are
 * stored one by one. A value depends on its own inputs only. */
#include "kernels/cuda/dev.h"
#include "kernels/cuda/ops.h"

#define THREADS 256
#define PIECE 4 /* floats of 16 bytes */
#define PARTS 8 /* most ranks */

DEV float4 add4(float4 a, float4 b)
{
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

KERNEL(ranks_sum, THREADS, 4)(GRID_CONST struct op_ranks_sum op)
{
    dev_pdl_launch();
    dev_pdl_wait();
    size_t at = ((size_t)blockIdx.x * THREADS + threadIdx.x) * PIECE;
    if (at >= op.n) return;
    float4 v[PARTS] = {};
    float4 *to = (float4 *)(op.to + at), x = make_float4(0, 0, 0, 0);
    UNROLL
    for (int r = 0; r < PARTS; r++)
        if (r < op.ranks) v[r] = *(const float4 *)(op.part + (size_t)r * op.step + at);
    if (op.add) x = *to;
    UNROLL
    for (int r = 1; r < PARTS; r++)
        if (r < op.ranks) v[0] = add4(v[0], v[r]);
    *to = op.add ? add4(x, v[0]) : v[0];
}

KERNEL(ranks_logits, THREADS, 4)(GRID_CONST struct op_ranks_logits op)
{
    dev_pdl_launch();
    dev_pdl_wait();
    int at = (int)(blockIdx.x * THREADS + threadIdx.x) * PIECE, row = (int)blockIdx.y, rank = at / op.step;
    if (at >= op.vocab) return;
    float4 v =
        *(const float4 *)(op.part + ((size_t)rank * (size_t)op.rows + (size_t)row) * (size_t)op.step + at % op.step);
    float *to = op.out + (size_t)row * (size_t)op.vocab + at;
    if (op.vocab % PIECE == 0) {
        *(float4 *)to = v;
        return;
    }
    int left = op.vocab - at;
    to[0] = v.x;
    if (left > 1) to[1] = v.y;
    if (left > 2) to[2] = v.z;
    if (left > 3) to[3] = v.w;
}

static struct dev_launch shape_of(size_t n, int rows, void *stream)
{
    struct dev_launch l = {};
    l.gx = (unsigned)((n + THREADS * PIECE - 1) / (THREADS * PIECE)), l.gy = (unsigned)rows;
    l.threads = THREADS;
    l.stream = stream;
    l.pdl = cuda_target.pdl;
    return l;
}

int launch_ranks_sum(const struct op_ranks_sum *op, void *stream)
{
    struct dev_launch l = shape_of(op->n, 1, stream);
    if (op->n < 1) return 0;
    if (op->n % PIECE || op->step % PIECE || op->ranks < 1 || op->ranks > PARTS) return RT_BAD_SHAPE;
    return LAUNCH(&l, ranks_sum, *op);
}

int launch_ranks_logits(const struct op_ranks_logits *op, void *stream)
{
    struct dev_launch l = shape_of((size_t)op->vocab, op->rows, stream);
    if (op->rows < 1) return 0;
    if (op->step < 1 || op->step % PIECE || op->vocab > op->ranks * op->step) return RT_BAD_SHAPE;
    return LAUNCH(&l, ranks_logits, *op);
}
