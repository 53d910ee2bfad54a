/* embed: row token[i] of the matrix, in whatever kind it is stored (weight_dev.h), as float32, with what the row's
 * adapters add, times the model's scale. An adapter may bring a matrix in the base's place as well as factors
 * (kernels/embed.c); its matrix takes part only where it is the row's one adapter.
 *
 * A block has 1024 neighbouring columns of one row, a thread eight of them: one load of 16 bytes of bf16, two stores.
 * What the adapters add goes through registers: r rows of b, each read once in a run of 4 KB a block, in float32 and in
 * the order of uses, then of ranks. Bytes: 6 hidden a row, and 4 r hidden for an adapted one; 2 us (estimated) for 32 rows.
 *
 * A token that the step before chose is not in the metadata but where it was chosen (meta.h): one load more, which all
 * threads of a block share.
 *
 * hidden: a multiple of 8. A token outside the matrix is a fault of the caller, who checked the request; so as not to
 * read elsewhere it is taken for token 0. Rows of padding have token 0 and no segment. */
#include "kernels/cuda/ops.h"
#include "kernels/cuda/weight_dev.h"

#define THREADS 128
#define COLUMNS 8 /* of a thread */

/* The base's row, or the one that the row's only adapter brings. */
DEV void load_row(const struct op_embed *op, const struct cuda_weight *w, const struct cuda_tile *seg, int token,
                  int at, float x[COLUMNS])
{
    const uint16_t *full = seg && seg->nuse == 1 ? op->table[seg->use[0].slot].full : NULL;
    if (full)
        dev_unpack8(dev_ldg((const uint4 *)(full + (size_t)token * (size_t)op->hidden + at)), x);
    else
        weight_get8(w, token, at, x);
}

/* x += scale * sum_j a[token][j] b[j]. */
DEV void add_module(const struct op_embed *op, struct cuda_use use, int token, int at, float x[COLUMNS])
{
    struct cuda_embed_module m = op->table[use.slot];
    const float *a = m.a + (size_t)token * (size_t)m.r;
    for (int j = 0; j < m.r; j++) {
        const float4 *b = (const float4 *)(m.b + (size_t)j * (size_t)op->hidden + at);
        float v = m.scale * use.weight * dev_ldg(a + j);
        float4 lo = dev_ldg(b), hi = dev_ldg(b + 1);
        x[0] = dev_fma(v, lo.x, x[0]), x[1] = dev_fma(v, lo.y, x[1]);
        x[2] = dev_fma(v, lo.z, x[2]), x[3] = dev_fma(v, lo.w, x[3]);
        x[4] = dev_fma(v, hi.x, x[4]), x[5] = dev_fma(v, hi.y, x[5]);
        x[6] = dev_fma(v, hi.z, x[6]), x[7] = dev_fma(v, hi.w, x[7]);
    }
}

/* The row's token: the host's, or the one that the step before chose. */
DEV int token_of(const struct op_embed *op, int row)
{
    int token = op->meta.token[row];
    if (token < 0) token = op->chosen[-1 - token].id;
    return token >= 0 && token < op->vocab ? token : 0;
}

KERNEL(embed, THREADS, 4)(GRID_CONST struct op_embed op, GRID_CONST struct cuda_weight w)
{
    dev_pdl_launch();
    dev_pdl_wait();
    int row = (int)blockIdx.x, at = (int)(blockIdx.y * THREADS + threadIdx.x) * COLUMNS;
    if (at >= op.hidden) return;
    int token = token_of(&op, row), s = op.table ? op.meta.seg_of[row] : -1;
    const struct cuda_tile *seg = s >= 0 ? &op.meta.seg[s] : NULL;
    float x[COLUMNS];
    load_row(&op, &w, seg, token, at, x);
    for (int u = 0; seg && u < seg->nuse; u++) add_module(&op, seg->use[u], token, at, x);
    if (op.scale != 1) {
        UNROLL
        for (int i = 0; i < COLUMNS; i++) x[i] *= op.scale;
    }
    float4 *to = (float4 *)(op.x + (size_t)row * (size_t)op.hidden + at);
    to[0] = make_float4(x[0], x[1], x[2], x[3]);
    to[1] = make_float4(x[4], x[5], x[6], x[7]);
}

int launch_embed(const struct op_embed *op, void *stream)
{
    if (op->rows < 1) return 0;
    if (op->hidden < COLUMNS || op->hidden % COLUMNS) return RT_BAD_SHAPE;
    struct dev_launch l = {};
    l.gx = (unsigned)op->rows, l.gy = (unsigned)(op->hidden / COLUMNS + THREADS - 1) / THREADS;
    l.threads = THREADS;
    l.stream = stream;
    l.pdl = cuda_target.pdl;
    return LAUNCH(&l, embed, *op, *op->w);
}
