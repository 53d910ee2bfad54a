/* The residual step of Medusa's blocks, in one version for all tables of this processor: some thousands of values a step. */
#include "kernels/act.h"
#include "kernels/matmul.h"
#include <assert.h>
#include <math.h>

void add_silu(struct kthread *t, const float *x, int x_rows, const float *y, int rows, int k, struct act *out)
{
    int lo, hi;
    assert(out->x);
    pool_share(t, rows, &lo, &hi);
    for (int row = lo; row < hi; row++) {
        const float *from = x + (size_t)(row % x_rows) * (size_t)k, *g = y + (size_t)row * (size_t)k;
        float *to = out->x + (size_t)row * (size_t)k;
        for (int i = 0; i < k; i++) to[i] = from[i] + g[i] / (1 + expf(-g[i]));
        act_put(out, row, k, 0, k, to);
    }
}
