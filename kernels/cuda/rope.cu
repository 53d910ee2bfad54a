/* rope: what follows the product of q, k and v. Bias, the norms of q's and k's heads, the rotation by the row's position;
 * q back in its place, k and v into the row's slot of the KV pages, as bf16 or int8.
 *
 * A warp has one head of one row (rope.h says which lane has what), a block four heads, the grid heads x rows. A warp
 * reads its head once, in runs of 128 bytes (64 where a half is odd), and writes it once; the table of cosines is read by
 * all heads of a row and stays in the first-level cache. Norms and int8 scales are sums and maxima in the warp: no
 * shared memory, no barrier. Bytes: 4 (q + k + v) of a row, 6 for a 4096 + 2 * 1024 one at 24 KB: 32 rows in 2 us (estimated), which
 * is latency (position, page, head one after the other).
 *
 * Rows of padding (seq_of -1) are skipped whole: they own no page. A page is written only at the row's own slot. */
#include "kernels/cuda/rope.h"

#define THREADS 128 /* four heads */

template <int N, int W> KERNEL(rope, THREADS, 4)(GRID_CONST struct op_rope op)
{
    dev_pdl_launch();
    dev_pdl_wait();
    int row = (int)blockIdx.y, h = (int)(blockIdx.x * (THREADS / 32) + dev_warp());
    if (op.meta.seq_of[row] < 0 || h >= op.heads + 2 * op.kv.kv_heads) return;
    struct rope_head<N, W> x;
    rope_load(&op, op.qkv + (size_t)row * (size_t)op.ld + h * op.kv.head_dim, &x);
    rope_finish(&op, row, h, &x);
}

/* Halves, and where rows and heads begin, are even: two neighbours go together. */
static int in_twos(const struct op_rope *op)
{
    int rest = op->kv.head_dim - op->rotary;
    return op->rotary % 4 == 0 && rest % 4 == 0 && op->ld % 2 == 0;
}

int launch_rope(const struct op_rope *op, void *stream)
{
    int hd = op->kv.head_dim, all = op->heads + 2 * op->kv.kv_heads;
    if (op->rows < 1) return 0;
    if (hd < 2 || hd % 2 || hd > 512 || op->rotary % 2 || op->rotary > hd || op->rotary < 0) return RT_BAD_SHAPE;
    struct dev_launch l = {};
    l.gx = (unsigned)(all + THREADS / 32 - 1) / (THREADS / 32), l.gy = (unsigned)op->rows;
    l.threads = THREADS;
    l.stream = stream;
    l.pdl = cuda_target.pdl;
    if (!in_twos(op)) return LAUNCH(&l, (rope<8, 1>), *op);
    if (hd <= 128) return LAUNCH(&l, (rope<1, 2>), *op);
    if (hd <= 256) return LAUNCH(&l, (rope<2, 2>), *op);
    return LAUNCH(&l, (rope<4, 2>), *op);
}
