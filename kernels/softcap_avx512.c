/* x = cap tanh(x / cap). Dealt to the threads by value; lanes are independent, so the cut changes no bit. */
#include "kernels/avx512.h"
#include "kernels/vector.h"

void softcap_avx512(struct kthread *t, float *x, size_t n, float cap)
{
    size_t lo = n * (size_t)t->id / (size_t)t->n, hi = n * ((size_t)t->id + 1) / (size_t)t->n;
    __m512 c = _mm512_set1_ps(cap);
    for (size_t i = lo; i < hi; i += 16) {
        __mmask16 tail = lanes16(hi - i < 16 ? (int)(hi - i) : 16);
        __m512 v = tanh16(_mm512_div_ps(_mm512_maskz_loadu_ps(tail, x + i), c));
        _mm512_mask_storeu_ps(x + i, tail, _mm512_mul_ps(c, v));
    }
}
