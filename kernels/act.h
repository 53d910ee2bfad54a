/* Private to kernels/: rounding activations, and the plain versions of the operations that make them. */
#pragma once
#include "kernels/ops.h"

/* A group whose largest magnitude is below this counts as zero: 127 divided by it would overflow. */
#define Q8_TINY 1e-30f

/* The other forms of out's row: of inputs c0 .. c1 (multiples of GROUP, or the row's end). The int8 form exists where k
 * is a multiple of GROUP. A group with a value that is not finite gets a scale that is not finite, so that the row's
 * result shows it. */
void act_round(struct act *out, int row, int k, int c0, int c1);

void embed_plain(struct kthread *t, const struct weight *w, const int32_t *token, int rows, float *x);
void rmsnorm_plain(struct kthread *t, const float *x, const int *row_of, int rows, int k, const float *weight,
                   float eps, struct act *out);
void rope_store_plain(struct kthread *t, const struct attn *a);
void attention_plain(struct kthread *t, const struct attn *a, struct act *out);
void swiglu_plain(struct kthread *t, const float *gate, const float *up, int rows, int k, struct act *out);
