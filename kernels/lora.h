/* Private to kernels/: adapters inside a matrix product.
 *
 * A stays [r][k], row after row: the shrink takes dot products along k, so no rank is padded and a rank of 4 costs a
 * quarter of 16. B is in panels like the weight, [n/32][r][32]; in bf16 output o of a panel stands at lora_b_index(o),
 * so that one shift and one mask of a 64-byte line give outputs 0..15 and 16..31 as float32. */
#pragma once
#include "kernels/ops.h"

static inline int lora_b_index(int o)
{
    return o < PANEL / 2 ? 2 * o : 2 * (o - PANEL / 2) + 1;
}

/* v[row][j] = scale * sum_k A[j][k] x[row][k] for row0 <= row < row0+rows and r0 <= j < r1; ld floats between rows of
 * v. */
typedef void lora_shrink_fn(const struct lora_mod *mod, const struct act *in, int k, int row0, int rows, int r0, int r1,
                            float *v, int ld);

/* acc[row][0..32) += sum_j v[row][j] B[panel][j][0..32), j in order. */
typedef void lora_expand_fn(const struct lora_mod *mod, int panel, const float *v, int ld, int rows, float *acc);

lora_shrink_fn lora_shrink_bf16, lora_shrink_f32;
lora_expand_fn lora_expand_bf16, lora_expand_f32;

/* The module that an adapter brings for `out`, or NULL where it has none. */
const struct lora_mod *lora_mod_of(const struct mm *m, const struct lora_use *use, const struct mm_out *out);

/* Does any row of the product use an adapter? */
bool lora_any(const struct mm *m);

/* This thread's share of all shrinks of the product, into m->shrink; `element`: bytes of one of A. */
void lora_shrink_share(struct kthread *t, const struct mm *m, lora_shrink_fn *shrink, size_t element);
