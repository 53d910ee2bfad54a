/* Root mean square norm, plain: the sum of squares in float64. Rows are dealt to the threads. */
#include "kernels/act.h"
#include "kernels/matmul.h"
#include <math.h>

void rmsnorm_plain(struct kthread *t, const float *x, const int *row_of, int rows, int k, const float *weight,
                   float eps, struct act *out)
{
    int lo, hi;
    pool_share(t, rows, &lo, &hi);
    for (int row = lo; row < hi; row++) {
        const float *in = x + (size_t)(row_of ? row_of[row] : row) * (size_t)k;
        float *y = out->x + (size_t)row * (size_t)k;
        double sum = 0;
        for (int i = 0; i < k; i++) sum += (double)in[i] * in[i];
        float factor = (float)(1 / sqrt(sum / k + eps));
        for (int i = 0; i < k; i++) y[i] = in[i] * factor * weight[i];
        act_round(out, row, k, 0, k);
    }
}
