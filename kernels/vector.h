/* Private to kernels/: vector helpers for the files named *_avx512.c, and only for them. */
#pragma once
#include <immintrin.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* Bring the line at p to the first-level cache, to the second. Always inlined: gcc takes a function that only prefetches
 * for one without effect, and drops its calls. */
static inline __attribute__((always_inline)) void prefetch_l1(const void *p)
{
    _mm_prefetch(p, _MM_HINT_T0);
}

static inline __attribute__((always_inline)) void prefetch_l2(const void *p)
{
    _mm_prefetch(p, _MM_HINT_T1);
}

static inline __attribute__((always_inline)) void prefetch(const void *p, int bytes)
{
    for (int i = 0; i < bytes; i += 64) prefetch_l2((const char *)p + i);
}

/* The first n of 16 lanes (all of them for n >= 16). */
static inline __mmask16 lanes16(int n)
{
    return (__mmask16)(n >= 16 ? 0xffff : (1u << n) - 1);
}

/* e^x within 1 ulp of float32 (measured against float64), 0 below -104, infinity above 88.8, NaN stays: x = n ln 2 + r,
 * e^r by its series to the seventh power, |r| <= 0.347, where the next term is 5e-9. */
static inline __m512 exp16(__m512 x)
{
    x = _mm512_min_ps(_mm512_set1_ps(100),
                      _mm512_max_ps(_mm512_set1_ps(-110), x)); /* this order of operands keeps a NaN */
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p0f)), 0);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0x1.62e4p-1f), x); /* ln 2 in two parts; n times the first is exact */
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0x1.7f7d1cp-20f), r);
    __m512 p = _mm512_set1_ps(1.0f / 5040);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    return _mm512_scalef_ps(p, n);
}

/* 2^x within 3e-6 of it, for what is rounded to fewer bits afterwards: x below -150 gives 0, -infinity too, NaN stays.
 * The fraction goes through the polynomial of the fourth power that has the smallest largest error on [0, 1] with 1
 * at 0. */
static inline __m512 exp2_fast16(__m512 x)
{
    __m512 f = _mm512_reduce_ps(x, 1); /* x - floor(x) */
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0x1.b7f73p-7f), f, _mm512_set1_ps(0x1.abf868p-5f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.ee245p-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.62d6c6p-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1));
    return _mm512_scalef_ps(p, x);
}

/* Sixteen bf16 in the low halves of 32-bit lanes, rounded as bf16_of_f32() does. Not vcvtneps2bf16: that one flushes
 * subnormals. */
static inline __m512i bf16_lanes(__m512 x)
{
    __m512i b = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(b, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(b, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    rounded = _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), b, _mm512_set1_epi32(0x400000));
    return _mm512_srli_epi32(rounded, 16);
}

static inline __m256i to_bf16(__m512 x)
{
    return _mm512_cvtepi32_epi16(bf16_lanes(x));
}

/* Lanes l and l+8, then l+4, l+2, l+1: one order for every sum. fold4: before the last two steps. */
static inline __m128 fold4(__m512 s)
{
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
    return _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
}

static inline float fold(__m512 s)
{
    __m128 q = fold4(s);
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

/* tanh within 2 ulp of float32. |x| < 0.6: six terms of Lambert's continued fraction x / (1 + x^2 / (3 + x^2 / (5 + ..
 * ))), the next one is below 1e-11 there; beyond: (1 - e) / (1 + e) of e^(-2 |x|), where nothing cancels any more. */
static inline __m512 tanh16(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1), sign = _mm512_set1_ps(-0.0f);
    __m512 z = _mm512_mul_ps(x, x), size = _mm512_andnot_ps(sign, x);
    __m512 top =
        _mm512_fmadd_ps(_mm512_fmadd_ps(_mm512_set1_ps(21), z, _mm512_set1_ps(1260)), z, _mm512_set1_ps(10395));
    __m512 low = _mm512_fmadd_ps(_mm512_add_ps(z, _mm512_set1_ps(210)), z, _mm512_set1_ps(4725));
    __m512 small = _mm512_mul_ps(x, _mm512_div_ps(top, _mm512_fmadd_ps(low, z, _mm512_set1_ps(10395))));
    __m512 e = exp16(_mm512_mul_ps(size, _mm512_set1_ps(-2)));
    __m512 large = _mm512_div_ps(_mm512_sub_ps(one, e), _mm512_add_ps(one, e));
    large = _mm512_or_ps(large, _mm512_and_ps(sign, x));
    return _mm512_mask_mov_ps(large, _mm512_cmp_ps_mask(size, _mm512_set1_ps(0.6f), _CMP_LT_OQ), small);
}

/* 1 / sqrt(mean of squares + eps): squares go over 64 lanes in the order of k, then lanes are folded in a fixed
 * order. */
static inline float rms_factor(const float *x, int k, float eps)
{
    __m512 s[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int i = 0; i < k; i += 64)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            int left = k - i - j * 16;
            __m512 v = _mm512_maskz_loadu_ps(left > 0 ? lanes16(left) : 0, x + i + j * 16);
            s[j] = _mm512_fmadd_ps(v, v, s[j]);
        }
    float sum = fold(_mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3])));
    return 1 / sqrtf(sum / (float)k + eps);
}
