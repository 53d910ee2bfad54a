/* The length of an adapted row, for DoRA: in float64, at load.
 *
 * The row of the merged matrix is built by four ranks at a time and never stored beyond the call. This is the dear part
 * of loading a DoRA adapter (as many multiplications as the merge), hence the second body for wide registers; both add
 * in the same order. Any thread. */
#include "kernels/weight.h"
#include <math.h>

#define BODY static inline __attribute__((always_inline)) double

BODY row_norm(const float *w, const float *a, const double *c, int r, int k, double *sum)
{
    for (int i = 0; i < k; i++) sum[i] = (double)w[i];
    int j = 0;
    for (; j + 4 <= r; j += 4) {
        const float *a0 = a + (size_t)j * (size_t)k, *a1 = a0 + k, *a2 = a1 + k, *a3 = a2 + k;
        double c0 = c[j], c1 = c[j + 1], c2 = c[j + 2], c3 = c[j + 3];
        for (int i = 0; i < k; i++)
            sum[i] += c0 * (double)a0[i] + c1 * (double)a1[i] + c2 * (double)a2[i] + c3 * (double)a3[i];
    }
    for (; j < r; j++)
        for (int i = 0; i < k; i++) sum[i] += c[j] * (double)a[(size_t)j * (size_t)k + (size_t)i];
    double norm = 0;
    for (int i = 0; i < k; i++) norm += sum[i] * sum[i];
    return sqrt(norm);
}

__attribute__((target("avx512f"))) static double row_norm_wide(const float *w, const float *a, const double *c, int r,
                                                               int k, double *sum)
{
    return row_norm(w, a, c, r, k, sum);
}

double lora_row_norm(const float *w, const float *a, const double *c, int r, int k, double *scratch)
{
    return __builtin_cpu_supports("avx512f") ? row_norm_wide(w, a, c, r, k, scratch) : row_norm(w, a, c, r, k, scratch);
}
