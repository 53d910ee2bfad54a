/* Private to kernels/: rounding activations, and the plain versions of the operations that make them. */
#pragma once
#include "kernels/ops.h"

/* A group whose largest magnitude is below this counts as zero: 127 divided by it would overflow. */
#define Q8_TINY 1e-30f

/* x[0..n) becomes the inputs c0 .. c0+n-1 of out's row, in all its forms; c0 is a multiple of GROUP, and n too but at
 * the row's end. The int8 form exists where k is a multiple of GROUP. A group with a value that is not finite gets a
 * scale that is not finite, so that the row's result shows it. x may be the place in out->x itself. */
void act_put(struct act *out, int row, int k, int c0, int n, const float *x);

void embed_plain(struct kthread *t, const struct embed *e);
void rmsnorm_plain(struct kthread *t, const float *x, const int *row_of, int rows, int k, const float *weight,
                   float eps, struct act *out);
void rmsnorm_add_plain(struct kthread *t, const float *y, int rows, int k, const float *weight, float eps, float *x);
void rope_store_plain(struct kthread *t, const struct attn *a);
void attention_plain(struct kthread *t, const struct attn *a, struct act *out);
void softcap_plain(struct kthread *t, float *x, size_t n, float cap);
void moe_route_plain(struct kthread *t, const struct moe *m);
void moe_gather_plain(struct kthread *t, const struct moe *m, const struct act *in, int k, struct act *out);
void moe_combine_plain(struct kthread *t, const struct moe *m, const float *y, int k, float *x, bool add);
