/* Private to kernels/: what a table's matrix product consists of. matmul.c shares the work, adds adapters, bias and
 * residual and stores; the table brings the inner loops. */
#pragma once
#include "kernels/lora.h"

#define BLOCK_ROWS 64 /* rows of one work item: their sums stay in the first-level cache */

/* acc[row][0..32) = W[panel] x[row0 + row] for 0 <= row < rows <= BLOCK_ROWS, each sum in the order of k. */
typedef void panel_fn(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                      float *acc);

/* The same for panel and panel+1 and up to FEW_ROWS rows, acc[2][rows][32]: few rows of one panel would wait for their
 * own sums. */
typedef void pair_fn(const struct weight *w, int panel, const struct act *in, int row0, int rows, float *acc);

#define FEW_ROWS 6

/* y[row][0..count) = (add ? y : 0) + acc[row] + bias, count <= 32; y and bias (or NULL) stand at the panel's first
 * output. */
typedef void store_fn(float *y, int ldy, bool add, const float *bias, int count, int rows, const float *acc);

/* Inputs c0 .. c0+count-1 (count <= 32) of rows row0 .. row0+rows-1 of out, whose rows have k, become
 * act(gate[row]) * up[row]; both have 32 to a row. */
typedef void gate_fn(enum mlp_act act, const float *gate, const float *up, int count, int rows, struct act *out,
                     int row0, int k, int c0);

struct mm_ops {
    panel_fn *panel[LAYOUTS];
    pair_fn *pair[LAYOUTS]; /* or NULL */
    store_fn *store;
    gate_fn *gate;
    lora_shrink_fn *shrink;
    lora_expand_fn *expand;
    size_t element; /* bytes of an element of A and B */
};

void matmul_run(struct kthread *t, const struct mm *m, int n, const struct mm_ops *ops); /* n products */

/* plain */
panel_fn panel_exact, panel_fast_bf16, panel_fast_q8, panel_fast_q4, panel_fast_q8f, panel_fast_q4z, panel_fast_t4,
    panel_fast_f8, panel_fast_q2;

store_fn store_plain;
gate_fn gate_plain;

/* `total` items dealt to the threads in order: this thread's are lo <= i < hi. */
static inline void pool_share(const struct kthread *t, int total, int *lo, int *hi)
{
    *lo = (int)((long)total * t->id / t->n);
    *hi = (int)((long)total * (t->id + 1) / t->n);
}
