/* Private to kernels/: vector helpers for the files named *_avx2.c and *_avxvnni.c, and only for them. */
#pragma once
#include <immintrin.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))

/* Bring `bytes` to the second-level cache. Products do so with the panel after theirs: while the rows of a panel are
 * multiplied the memory would idle otherwise. */
INLINE void prefetch(const void *p, int bytes)
{
    for (int i = 0; i < bytes; i += 64) _mm_prefetch((const char *)p + i, _MM_HINT_T1);
}

/* The first n of 8 lanes (all of them for n >= 8, none for n <= 0), as masked loads and stores take them. */
INLINE __m256i lanes8(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* A pair of bf16 in each 32-bit lane as float32: the first ones and the second ones. */
INLINE __m256 first_bf16(__m256i pairs)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
}

INLINE __m256 second_bf16(__m256i pairs)
{
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000)));
}

INLINE __m256i load_bits(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

/* The halves of 32 bf16 as pairs: those at even bytes of each lane, and those at odd ones. */
INLINE void join_bf16(__m256i upper, __m256i lower, __m256i *even, __m256i *odd)
{
    const __m256i low_byte = _mm256_set1_epi16(0x00ff);
    *even = _mm256_or_si256(_mm256_and_si256(lower, low_byte), _mm256_slli_epi16(upper, 8));
    *odd = _mm256_or_si256(_mm256_srli_epi16(lower, 8), _mm256_andnot_si256(low_byte, upper));
}

INLINE __m256i table16(char a0, char a1, char a2, char a3, char a4, char a5, char a6, char a7, char a8, char a9,
                       char a10, char a11, char a12, char a13, char a14, char a15)
{
    return _mm256_broadcastsi128_si256(
        _mm_setr_epi8(a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15));
}

/* 32 e4m3 codes as bf16. The exponent's bias grows by 120, an even number: so the lower half of a bf16 is the code's
 * lower nibble (one bit of exponent, mantissa) moved up, and the upper half follows from the upper nibble by a table.
 * Codes with exponent 0 are subnormal: i times 2^-9, both halves from tables. */
INLINE void e4m3_pairs(__m256i codes, __m256i *even, __m256i *odd)
{
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i normal = table16(60, 61, 62, 63, 64, 65, 66, 67, -68, -67, -66, -65, -64, -63, -62, -61);
    const __m256i small_upper = table16(0, 59, 59, 59, 60, 60, 60, 60, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m256i small_lower = table16(0, 0, -128, -64, 0, 32, 64, 96, 0, 0, 0, 0, 0, 0, 0, 0);
    __m256i low = _mm256_and_si256(codes, nibble), high = _mm256_and_si256(_mm256_srli_epi16(codes, 4), nibble);
    __m256i small = _mm256_cmpeq_epi8(_mm256_and_si256(codes, _mm256_set1_epi8(0x78)), _mm256_setzero_si256());
    __m256i sign = _mm256_and_si256(codes, _mm256_set1_epi8((char)0x80));
    __m256i upper = _mm256_blendv_epi8(_mm256_shuffle_epi8(normal, high),
                                       _mm256_or_si256(_mm256_shuffle_epi8(small_upper, low), sign), small);
    __m256i lower = _mm256_blendv_epi8(_mm256_slli_epi16(low, 4), _mm256_shuffle_epi8(small_lower, low), small);
    join_bf16(upper, lower, even, odd);
}

/* 2^n for -126 <= n <= 127. */
INLINE __m256 power_of_two(__m256i n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* e^x within 1 ulp of float32 (measured against float64), 0 below -104, infinity above 88.8, NaN stays: x = n ln 2 + r,
 * e^r by its series to the seventh power, |r| <= 0.347, where the next term is 5e-9. 2^n goes on in two factors, of
 * which only the second may leave the range of normal numbers, so it is rounded once. */
INLINE __m256 exp8(__m256 x)
{
    x = _mm256_min_ps(_mm256_set1_ps(100),
                      _mm256_max_ps(_mm256_set1_ps(-110), x)); /* this order of operands keeps a NaN */
    __m256 n =
        _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1.715476p0f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0x1.62e4p-1f), x); /* ln 2 in two parts; n times the first is exact */
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0x1.7f7d1cp-20f), r);
    __m256 p = _mm256_set1_ps(1.0f / 5040);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 720));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1));
    __m256i all = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(all, 1);
    return _mm256_mul_ps(_mm256_mul_ps(p, power_of_two(half)), power_of_two(_mm256_sub_epi32(all, half)));
}

/* Eight bf16 in the low halves of 32-bit lanes, rounded as bf16_of_f32() does. */
INLINE __m256i bf16_lanes(__m256 x)
{
    __m256i b = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(b, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(b, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256 quiet = _mm256_castsi256_ps(_mm256_or_si256(b, _mm256_set1_epi32(0x400000)));
    rounded =
        _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(rounded), quiet, _mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
    return _mm256_srli_epi32(rounded, 16);
}

INLINE __m128i to_bf16(__m256 x)
{
    __m256i lanes = bf16_lanes(x);
    return _mm_packus_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
}

/* Lanes l and l+4, then l+2, l+1: one order for every sum. fold4: before the last two steps. */
INLINE __m128 fold4(__m256 s)
{
    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

INLINE float fold(__m256 s)
{
    __m128 q = fold4(s);
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

/* The largest lane, as the same order would have it. */
INLINE float largest(__m256 s)
{
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

/* tanh within 2 ulp of float32. |x| < 0.6: six terms of Lambert's continued fraction x / (1 + x^2 / (3 + x^2 / (5 + ..
 * ))), the next one is below 1e-11 there; beyond: (1 - e) / (1 + e) of e^(-2 |x|), where nothing cancels any more. */
INLINE __m256 tanh8(__m256 x)
{
    const __m256 one = _mm256_set1_ps(1), sign = _mm256_set1_ps(-0.0f);
    __m256 z = _mm256_mul_ps(x, x), size = _mm256_andnot_ps(sign, x);
    __m256 top =
        _mm256_fmadd_ps(_mm256_fmadd_ps(_mm256_set1_ps(21), z, _mm256_set1_ps(1260)), z, _mm256_set1_ps(10395));
    __m256 low = _mm256_fmadd_ps(_mm256_add_ps(z, _mm256_set1_ps(210)), z, _mm256_set1_ps(4725));
    __m256 small = _mm256_mul_ps(x, _mm256_div_ps(top, _mm256_fmadd_ps(low, z, _mm256_set1_ps(10395))));
    __m256 e = exp8(_mm256_mul_ps(size, _mm256_set1_ps(-2)));
    __m256 large = _mm256_div_ps(_mm256_sub_ps(one, e), _mm256_add_ps(one, e));
    large = _mm256_or_ps(large, _mm256_and_ps(sign, x));
    return _mm256_blendv_ps(large, small, _mm256_cmp_ps(size, _mm256_set1_ps(0.6f), _CMP_LT_OQ));
}

/* 1 / sqrt(mean of squares + eps): squares go over 64 lanes in the order of k, then lanes are folded in a fixed
 * order. */
static inline float rms_factor(const float *x, int k, float eps)
{
    __m256 s[8];
    for (int j = 0; j < 8; j++) s[j] = _mm256_setzero_ps();
    for (int i = 0; i < k; i += 64)
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            __m256 v = _mm256_maskload_ps(x + i + j * 8, lanes8(k - i - j * 8));
            s[j] = _mm256_fmadd_ps(v, v, s[j]);
        }
    __m256 low = _mm256_add_ps(_mm256_add_ps(s[0], s[2]), _mm256_add_ps(s[4], s[6]));
    __m256 high = _mm256_add_ps(_mm256_add_ps(s[1], s[3]), _mm256_add_ps(s[5], s[7]));
    return 1 / sqrtf(fold(_mm256_add_ps(low, high)) / (float)k + eps);
}
