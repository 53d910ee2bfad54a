/* Rounding of activations to bf16 and to int8 in groups of 32, bit for bit as act_round() does it. */
#include "kernels/act.h"
#include "kernels/avx512.h"
#include "kernels/convert.h"
#include "kernels/vector.h"
#include <math.h>

static void round_bf16(const float *x, int n, uint16_t *out)
{
    for (int i = 0; i < n; i += 16) {
        __mmask16 tail = lanes16(n - i);
        _mm256_mask_storeu_epi16(out + i, tail, to_bf16(_mm512_maskz_loadu_ps(tail, x + i)));
    }
}

static void round_group(const float *x, int8_t *q, float *scale, int32_t *sum)
{
    __m512 x0 = _mm512_loadu_ps(x), x1 = _mm512_loadu_ps(x + 16);
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i most = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(x0), magnitude),
                                    _mm512_and_si512(_mm512_castps_si512(x1), magnitude));
    uint32_t bits = (uint32_t)_mm512_reduce_max_epi32(most);
    float largest = f32_of_bits(bits);
    if (largest < Q8_TINY || bits >= 0x7f800000) {
        *scale = bits >= 0x7f800000 ? NAN : 0;
        *sum = 0;
        _mm256_storeu_si256((__m256i *)q, _mm256_setzero_si256());
        return;
    }
    __m512 inverse = _mm512_set1_ps(127.0f / largest);
    __m512i q0 = _mm512_cvtps_epi32(_mm512_mul_ps(x0, inverse)), q1 = _mm512_cvtps_epi32(_mm512_mul_ps(x1, inverse));
    _mm_storeu_si128((__m128i *)q, _mm512_cvtepi32_epi8(q0));
    _mm_storeu_si128((__m128i *)(q + 16), _mm512_cvtepi32_epi8(q1));
    *scale = largest / 127.0f;
    *sum = _mm512_reduce_add_epi32(_mm512_add_epi32(q0, q1));
}

void act_round_avx512(struct act *out, int row, int k, int c0, int c1)
{
    size_t at = (size_t)row * (size_t)k;
    if (out->bf16) round_bf16(out->x + at + (size_t)c0, c1 - c0, out->bf16 + at + (size_t)c0);
    if (!out->q8 || k % GROUP) return;
    for (int c = c0; c < c1; c += GROUP) {
        size_t i = at + (size_t)c;
        round_group(out->x + i, out->q8 + i, out->q8_scale + i / GROUP, out->q8_sum + i / GROUP);
    }
}
