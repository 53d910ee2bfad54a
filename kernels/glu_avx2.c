/* act(gate) * up of a tile: the last step of a gated product (matmul.c), whose sums are still at hand. */
#include "kernels/avx2.h"
#include "kernels/glu.h"
#include "kernels/vector_avx2.h"

INLINE __m256 exponent(enum mlp_act act, __m256 g)
{
    if (act == MLP_SILU) return _mm256_sub_ps(_mm256_setzero_ps(), g);
    __m256 square = _mm256_mul_ps(g, g);
    return _mm256_mul_ps(g, _mm256_fmadd_ps(_mm256_set1_ps(GELU_3), square, _mm256_set1_ps(GELU_1)));
}

/* Outputs that the panel does not have are computed as well: the tile has room for them. */
void gate_avx2(enum mlp_act act, const float *gate, const float *up, int count, int rows, struct act *out, int row0,
               int k, int c0)
{
    const __m256 one = _mm256_set1_ps(1);
    for (int row = 0; row < rows; row++, gate += PANEL, up += PANEL) {
        float y[PANEL];
        for (int i = 0; i < count; i += 8) {
            __m256 g = _mm256_loadu_ps(gate + i), e = exp8(exponent(act, g));
            __m256 v = _mm256_mul_ps(_mm256_div_ps(g, _mm256_add_ps(one, e)), _mm256_loadu_ps(up + i));
            _mm256_storeu_ps(y + i, v);
        }
        act_put_avx2(out, row0 + row, k, c0, count, y);
    }
}
