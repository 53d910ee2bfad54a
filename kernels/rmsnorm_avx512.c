/* Root mean square norm, and the one whose result is added to the residual stream. Rows are dealt to the threads. */
#include "kernels/avx512.h"
#include "kernels/vector.h"

void rmsnorm_avx512(struct kthread *t, const float *x, const int *row_of, int rows, int k, const float *weight,
                    float eps, struct act *out)
{
    int lo, hi;
    pool_share(t, rows, &lo, &hi);
    for (int row = lo; row < hi; row++) {
        const float *in = x + (size_t)(row_of ? row_of[row] : row) * (size_t)k;
        float *y = out->x + (size_t)row * (size_t)k;
        __m512 factor = _mm512_set1_ps(rms_factor(in, k, eps));
        for (int i = 0; i < k; i += 16) {
            __mmask16 tail = lanes16(k - i);
            __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(tail, in + i), factor);
            _mm512_mask_storeu_ps(y + i, tail, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(tail, weight + i)));
        }
        act_round_avx512(out, row, k, 0, k);
    }
}

void rmsnorm_add_avx512(struct kthread *t, const float *y, int rows, int k, const float *weight, float eps, float *x)
{
    int lo, hi;
    pool_share(t, rows, &lo, &hi);
    for (int row = lo; row < hi; row++) {
        const float *in = y + (size_t)row * (size_t)k;
        float *to = x + (size_t)row * (size_t)k;
        __m512 factor = _mm512_set1_ps(rms_factor(in, k, eps));
        for (int i = 0; i < k; i += 16) {
            __mmask16 tail = lanes16(k - i);
            __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(tail, in + i), factor);
            v = _mm512_mul_ps(v, _mm512_maskz_loadu_ps(tail, weight + i));
            _mm512_mask_storeu_ps(to + i, tail, _mm512_add_ps(_mm512_maskz_loadu_ps(tail, to + i), v));
        }
    }
}
