/* act(gate) * up. Dealt to the threads in blocks of columns, because a decode step has few rows. */
#include "kernels/avx512.h"
#include "kernels/glu.h"
#include "kernels/vector.h"

static inline __m512 exponent(enum mlp_act act, __m512 g)
{
    if (act == MLP_SILU) return _mm512_sub_ps(_mm512_setzero_ps(), g);
    __m512 square = _mm512_mul_ps(g, g);
    return _mm512_mul_ps(g, _mm512_fmadd_ps(_mm512_set1_ps(GELU_3), square, _mm512_set1_ps(GELU_1)));
}

static void block(enum mlp_act act, const float *gate, const float *up, int n, float *out)
{
    const __m512 one = _mm512_set1_ps(1);
    for (int i = 0; i < n; i += 16) {
        __mmask16 tail = lanes16(n - i);
        __m512 g = _mm512_maskz_loadu_ps(tail, gate + i), u = _mm512_maskz_loadu_ps(tail, up + i);
        __m512 e = exp16(exponent(act, g));
        _mm512_mask_storeu_ps(out + i, tail, _mm512_mul_ps(_mm512_div_ps(g, _mm512_add_ps(one, e)), u));
    }
}

void glu_avx512(struct kthread *t, enum mlp_act act, const float *gate, const float *up, int rows, int k,
                struct act *out)
{
    int blocks = glu_blocks(k), lo, hi;
    pool_share(t, rows * blocks, &lo, &hi);
    for (int i = lo; i < hi; i++) {
        int row = i / blocks, c0 = i % blocks * GLU_BLOCK, c1 = c0 + GLU_BLOCK < k ? c0 + GLU_BLOCK : k;
        size_t at = (size_t)row * (size_t)k + (size_t)c0;
        block(act, gate + at, up + at, c1 - c0, out->x + at);
        act_round_avx512(out, row, k, c0, c1);
    }
}
