/* A finished tile of a product into y, with bias and residual: additions in the order of store_plain(). */
#include "kernels/avx512.h"
#include "kernels/vector.h"

static inline __attribute__((always_inline)) void store(float *y, int ldy, const bool add, __m512 b0, __m512 b1,
                                                        const bool bias, __mmask16 m0, __mmask16 m1, int rows,
                                                        const float *acc)
{
    for (int row = 0; row < rows; row++, acc += PANEL, y += ldy) {
        __m512 s0 = _mm512_load_ps(acc), s1 = _mm512_load_ps(acc + 16);
        if (bias) s0 = _mm512_add_ps(s0, b0), s1 = _mm512_add_ps(s1, b1);
        if (add) {
            s0 = _mm512_add_ps(_mm512_maskz_loadu_ps(m0, y), s0);
            s1 = _mm512_add_ps(_mm512_maskz_loadu_ps(m1, y + 16), s1);
        }
        _mm512_mask_storeu_ps(y, m0, s0);
        _mm512_mask_storeu_ps(y + 16, m1, s1);
    }
}

void store_avx512(float *y, int ldy, bool add, const float *bias, int count, int rows, const float *acc)
{
    __mmask16 m0 = lanes16(count), m1 = count > 16 ? lanes16(count - 16) : 0;
    if (bias) {
        __m512 b0 = _mm512_maskz_loadu_ps(m0, bias), b1 = _mm512_maskz_loadu_ps(m1, bias + 16);
        store(y, ldy, add, b0, b1, true, m0, m1, rows, acc);
    } else {
        store(y, ldy, add, _mm512_setzero_ps(), _mm512_setzero_ps(), false, m0, m1, rows, acc);
    }
}
