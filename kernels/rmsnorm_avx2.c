/* Root mean square norm, and the one whose result is added to the residual stream. Rows are dealt to the threads. */
#include "kernels/avx2.h"
#include "kernels/vector_avx2.h"

#define BLOCK 256 /* values normed before they are rounded; a multiple of GROUP */

void rmsnorm_avx2(struct kthread *t, const float *x, const int *row_of, int rows, int k, const float *weight, float eps,
                  struct act *out)
{
    int lo, hi;
    pool_share(t, rows, &lo, &hi);
    for (int row = lo; row < hi; row++) {
        const float *in = x + (size_t)(row_of ? row_of[row] : row) * (size_t)k;
        __m256 factor = _mm256_set1_ps(rms_factor(in, k, eps));
        for (int c = 0; c < k; c += BLOCK) {
            int n = k - c < BLOCK ? k - c : BLOCK;
            float y[BLOCK];
            for (int i = 0; i < n; i += 8) {
                __m256i tail = lanes8(n - i);
                __m256 v = _mm256_mul_ps(_mm256_maskload_ps(in + c + i, tail), factor);
                _mm256_storeu_ps(y + i, _mm256_mul_ps(v, _mm256_maskload_ps(weight + c + i, tail)));
            }
            act_put_avx2(out, row, k, c, n, y);
        }
    }
}

void rmsnorm_add_avx2(struct kthread *t, const float *y, int rows, int k, const float *weight, float eps, float *x)
{
    int lo, hi;
    pool_share(t, rows, &lo, &hi);
    for (int row = lo; row < hi; row++) {
        const float *in = y + (size_t)row * (size_t)k;
        float *to = x + (size_t)row * (size_t)k;
        __m256 factor = _mm256_set1_ps(rms_factor(in, k, eps));
        for (int i = 0; i < k; i += 8) {
            __m256i tail = lanes8(k - i);
            __m256 v = _mm256_mul_ps(_mm256_maskload_ps(in + i, tail), factor);
            v = _mm256_mul_ps(v, _mm256_maskload_ps(weight + i, tail));
            _mm256_maskstore_ps(to + i, tail, _mm256_add_ps(_mm256_maskload_ps(to + i, tail), v));
        }
    }
}
