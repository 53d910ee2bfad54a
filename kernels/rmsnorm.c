/* Root mean square norm, plain: the sum of squares in float64; and the one whose result is added to the residual stream
 * (the norms behind attention and MLP of Gemma). Rows are dealt to the threads. */
#include "kernels/act.h"
#include "kernels/matmul.h"
#include <math.h>

#define BLOCK 256 /* values normed before they are rounded; a multiple of GROUP */

static float rms_factor(const float *x, int k, float eps)
{
    double sum = 0;
    for (int i = 0; i < k; i++) sum += (double)x[i] * x[i];
    return (float)(1 / sqrt(sum / k + eps));
}

void rmsnorm_plain(struct kthread *t, const float *x, const int *row_of, int rows, int k, const float *weight,
                   float eps, struct act *out)
{
    int lo, hi;
    pool_share(t, rows, &lo, &hi);
    for (int row = lo; row < hi; row++) {
        const float *in = x + (size_t)(row_of ? row_of[row] : row) * (size_t)k;
        float factor = rms_factor(in, k, eps), y[BLOCK];
        for (int c = 0; c < k; c += BLOCK) {
            int n = k - c < BLOCK ? k - c : BLOCK;
            for (int i = 0; i < n; i++) y[i] = in[c + i] * factor * weight[c + i];
            act_put(out, row, k, c, n, y);
        }
    }
}

void rmsnorm_add_plain(struct kthread *t, const float *y, int rows, int k, const float *weight, float eps, float *x)
{
    int lo, hi;
    pool_share(t, rows, &lo, &hi);
    for (int row = lo; row < hi; row++) {
        const float *in = y + (size_t)row * (size_t)k;
        float *to = x + (size_t)row * (size_t)k, factor = rms_factor(in, k, eps);
        for (int i = 0; i < k; i++) to[i] += in[i] * factor * weight[i];
    }
}
