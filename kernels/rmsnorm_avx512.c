/* Root mean square norm, and the one whose result is added to the residual stream. Rows are dealt to the threads. */
#include "kernels/act_avx512.h"
#include "kernels/avx512.h"

/* Values i .. i+15 of a row of k. */
ACT_INLINE __m512 normed(const float *in, const float *weight, int i, int k, __m512 factor)
{
    __mmask16 tail = k > i ? lanes16(k - i) : 0;
    return _mm512_mul_ps(_mm512_mul_ps(_mm512_maskz_loadu_ps(tail, in + i), factor),
                         _mm512_maskz_loadu_ps(tail, weight + i));
}

/* n (a constant) groups of a row at `at` of out. */
ACT_INLINE void put_normed(const float *in, const float *weight, const int n, __m512 factor, const struct act *out,
                           size_t at)
{
    size_t to[ACT_FOUR];
    __m512 y[ACT_FOUR][2];
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) {
        to[i] = at + (size_t)(i * GROUP);
        y[i][0] = normed(in, weight, i * GROUP, (i + 1) * GROUP, factor);
        y[i][1] = normed(in, weight, i * GROUP + 16, (i + 1) * GROUP, factor);
    }
    act_put_groups(out, n, to, y);
}

static void put_row(const float *in, const float *weight, int k, __m512 factor, const struct act *out, size_t at)
{
    int i = 0;
    for (; i + ACT_FOUR * GROUP <= k; i += ACT_FOUR * GROUP)
        put_normed(in + i, weight + i, ACT_FOUR, factor, out, at + (size_t)i);
    for (; i < k; i += GROUP) put_normed(in + i, weight + i, 1, factor, out, at + (size_t)i);
}

void rmsnorm_avx512(struct kthread *t, const float *x, const int *row_of, int rows, int k, const float *weight,
                    float eps, struct act *out)
{
    int lo, hi;
    pool_share(t, rows, &lo, &hi);
    for (int row = lo; row < hi; row++) {
        const float *in = x + (size_t)(row_of ? row_of[row] : row) * (size_t)k;
        __m512 factor = _mm512_set1_ps(rms_factor(in, k, eps));
        size_t at = (size_t)row * (size_t)k;
        if (k % GROUP == 0) put_row(in, weight, k, factor, out, at);
        for (int i = 0; k % GROUP && i < k; i += GROUP)
            act_put_tail(out, at + (size_t)i, k - i, normed(in, weight, i, k, factor),
                         normed(in, weight, i + 16, k, factor));
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
