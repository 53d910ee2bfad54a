/* x = cap tanh(x / cap). Dealt to the threads by value; lanes are independent, so the cut changes no bit. */
#include "kernels/avx2.h"
#include "kernels/vector_avx2.h"

void softcap_avx2(struct kthread *t, float *x, size_t n, float cap)
{
    size_t lo = n * (size_t)t->id / (size_t)t->n, hi = n * ((size_t)t->id + 1) / (size_t)t->n;
    __m256 c = _mm256_set1_ps(cap);
    for (size_t i = lo; i < hi; i += 8) {
        __m256i tail = lanes8(hi - i < 8 ? (int)(hi - i) : 8);
        __m256 v = tanh8(_mm256_div_ps(_mm256_maskload_ps(x + i, tail), c));
        _mm256_maskstore_ps(x + i, tail, _mm256_mul_ps(c, v));
    }
}
