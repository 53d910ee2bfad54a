/* act(gate) * up. Dealt to the threads in blocks of columns, because a decode step has few rows. */
#include "kernels/avx2.h"
#include "kernels/glu.h"
#include "kernels/vector_avx2.h"

INLINE __m256 exponent(enum mlp_act act, __m256 g)
{
    if (act == MLP_SILU) return _mm256_sub_ps(_mm256_setzero_ps(), g);
    __m256 square = _mm256_mul_ps(g, g);
    return _mm256_mul_ps(g, _mm256_fmadd_ps(_mm256_set1_ps(GELU_3), square, _mm256_set1_ps(GELU_1)));
}

static void block(enum mlp_act act, const float *gate, const float *up, int n, float *out)
{
    const __m256 one = _mm256_set1_ps(1);
    for (int i = 0; i < n; i += 8) {
        __m256i tail = lanes8(n - i);
        __m256 g = _mm256_maskload_ps(gate + i, tail), u = _mm256_maskload_ps(up + i, tail);
        __m256 e = exp8(exponent(act, g));
        _mm256_maskstore_ps(out + i, tail, _mm256_mul_ps(_mm256_div_ps(g, _mm256_add_ps(one, e)), u));
    }
}

void glu_avx2(struct kthread *t, enum mlp_act act, const float *gate, const float *up, int rows, int k, struct act *out)
{
    int blocks = glu_blocks(k), lo, hi;
    pool_share(t, rows * blocks, &lo, &hi);
    for (int i = lo; i < hi; i++) {
        int row = i / blocks, c0 = i % blocks * GLU_BLOCK, c1 = c0 + GLU_BLOCK < k ? c0 + GLU_BLOCK : k;
        size_t at = (size_t)row * (size_t)k + (size_t)c0;
        block(act, gate + at, up + at, c1 - c0, out->x + at);
        act_round_avx2(out, row, k, c0, c1);
    }
}
