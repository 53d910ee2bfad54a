/* Private to kernels/: activations from registers into all forms that they have, for the files named *_avx512.c. Bit for
 * bit as act_put() does it. Four groups of 32 at a time: their largest magnitudes and their sums are found together, in a
 * third of the steps that each alone takes. */
#pragma once
#include "kernels/act.h"
#include "kernels/vector.h"

#define ACT_FOUR 4 /* groups put together */

#define ACT_INLINE static inline __attribute__((always_inline))

/* The largest of each of four vectors; the second one: their sums. */
static inline __m128i most_of_four(const __m512i x[ACT_FOUR])
{
    __m512i a = _mm512_max_epi32(_mm512_unpacklo_epi32(x[0], x[1]), _mm512_unpackhi_epi32(x[0], x[1]));
    __m512i b = _mm512_max_epi32(_mm512_unpacklo_epi32(x[2], x[3]), _mm512_unpackhi_epi32(x[2], x[3]));
    a = _mm512_max_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    __m256i h = _mm256_max_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    return _mm_max_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
}

static inline __m128i sums_of_four(const __m512i x[ACT_FOUR])
{
    __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(x[0], x[1]), _mm512_unpackhi_epi32(x[0], x[1]));
    __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(x[2], x[3]), _mm512_unpackhi_epi32(x[2], x[3]));
    a = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    __m256i h = _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
}

/* n groups of 32 as int8, the i-th at at[i]. Values times an inverse of 0 become 0, or, where one is not finite, the
 * integer that stands for no number, whose low byte is 0 as well. */
ACT_INLINE void put_q8(const struct act *out, const int n, const size_t at[ACT_FOUR], const __m512 x[ACT_FOUR][2])
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i v[ACT_FOUR] = {0};
#pragma GCC unroll 4
    for (int i = 0; i < n; i++)
        v[i] = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(x[i][0]), magnitude),
                                _mm512_and_si512(_mm512_castps_si512(x[i][1]), magnitude));
    __m128i bits = most_of_four(v);
    __m128 most = _mm_castsi128_ps(bits);
    __mmask8 finite = _mm_cmplt_epi32_mask(bits, _mm_set1_epi32(0x7f800000));
    __mmask8 used = _mm_mask_cmp_ps_mask(finite, most, _mm_set1_ps(Q8_TINY), _CMP_GE_OQ);
    __m128 inverse = _mm_maskz_div_ps(used, _mm_set1_ps(127), most), scale = _mm_setzero_ps();
    scale = _mm_mask_mov_ps(_mm_set1_ps(NAN), finite, _mm_mask_div_ps(scale, used, most, _mm_set1_ps(127)));
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) {
        __m512 by = _mm512_permutexvar_ps(_mm512_set1_epi32(i), _mm512_castps128_ps512(inverse));
        __m512i q0 = _mm512_cvtps_epi32(_mm512_mul_ps(x[i][0], by)),
                q1 = _mm512_cvtps_epi32(_mm512_mul_ps(x[i][1], by));
        _mm_storeu_si128((__m128i *)(out->q8 + at[i]), _mm512_cvtepi32_epi8(q0));
        _mm_storeu_si128((__m128i *)(out->q8 + at[i] + 16), _mm512_cvtepi32_epi8(q1));
        v[i] = _mm512_add_epi32(q0, q1);
    }
    float scales[ACT_FOUR];
    int32_t sums[ACT_FOUR];
    _mm_storeu_ps(scales, scale);
    _mm_storeu_si128((__m128i *)sums, _mm_maskz_mov_epi32(used, sums_of_four(v)));
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) out->q8_scale[at[i] / GROUP] = scales[i], out->q8_sum[at[i] / GROUP] = sums[i];
}

static inline void put_floats(const struct act *out, size_t at, __m512 x0, __m512 x1)
{
    if (out->x) {
        _mm512_storeu_ps(out->x + at, x0);
        _mm512_storeu_ps(out->x + at + 16, x1);
    }
    if (!out->bf16) return;
    __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(to_bf16(x0)), to_bf16(x1), 1);
    _mm512_storeu_si512(out->bf16 + at, both);
}

/* n (a constant, at most 4) groups of rows whose length is a multiple of GROUP, the i-th at at[i] of out's rows taken as
 * one array. */
ACT_INLINE void act_put_groups(const struct act *out, const int n, const size_t at[ACT_FOUR],
                               const __m512 x[ACT_FOUR][2])
{
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) put_floats(out, at[i], x[i][0], x[i][1]);
    if (out->q8) put_q8(out, n, at, x);
}

/* The first n of 32, of rows whose length is no multiple of GROUP: they have no int8 form. */
static inline void act_put_tail(const struct act *out, size_t at, int n, __m512 x0, __m512 x1)
{
    __mmask16 m0 = lanes16(n), m1 = n > 16 ? lanes16(n - 16) : 0;
    if (out->x) {
        _mm512_mask_storeu_ps(out->x + at, m0, x0);
        _mm512_mask_storeu_ps(out->x + at + 16, m1, x1);
    }
    if (out->bf16) {
        _mm256_mask_storeu_epi16(out->bf16 + at, m0, to_bf16(x0));
        _mm256_mask_storeu_epi16(out->bf16 + at + 16, m1, to_bf16(x1));
    }
}

/* act_put() itself. */
void act_put_avx512(struct act *out, int row, int k, int c0, int n, const float *x);
