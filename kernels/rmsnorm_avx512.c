/* Root mean square norm. The sum of squares goes over 64 lanes in the order of k, then lanes are folded in a fixed
 * order. Rows are dealt to the threads. */
#include "kernels/avx512.h"
#include "kernels/vector.h"
#include <math.h>

#define LANES 64

static float sum_of_squares(const float *x, int k)
{
    __m512 s[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int i = 0; i < k; i += LANES)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            int left = k - i - j * 16;
            __m512 v = _mm512_maskz_loadu_ps(left > 0 ? lanes16(left) : 0, x + i + j * 16);
            s[j] = _mm512_fmadd_ps(v, v, s[j]);
        }
    return fold(_mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3])));
}

void rmsnorm_avx512(struct kthread *t, const float *x, const int *row_of, int rows, int k, const float *weight,
                    float eps, struct act *out)
{
    int lo, hi;
    pool_share(t, rows, &lo, &hi);
    for (int row = lo; row < hi; row++) {
        const float *in = x + (size_t)(row_of ? row_of[row] : row) * (size_t)k;
        float *y = out->x + (size_t)row * (size_t)k;
        __m512 factor = _mm512_set1_ps(1 / sqrtf(sum_of_squares(in, k) / (float)k + eps));
        for (int i = 0; i < k; i += 16) {
            __mmask16 tail = lanes16(k - i);
            __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(tail, in + i), factor);
            _mm512_mask_storeu_ps(y + i, tail, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(tail, weight + i)));
        }
        act_round_avx512(out, row, k, 0, k);
    }
}
