/* Attention over an int8 cache. K and V are widened to 16 bits where they are loaded; queries are 16-bit integers with a
 * scale per vector, weights (times their token's scale of V) 16-bit integers with a scale per block, so that vpdpwssd
 * makes exact sums at the rate of vdpbf16ps, and both are finer than bf16. Bounds: 32767 * 127 * 512 dimensions, and
 * 32767 * 127 * 64 tokens, are below 2^31. */
#define STEP 2
#define LOAD 32
#define UNIT 0x1.715476p0f /* 1 / ln 2 */
#include "kernels/attention_item_avx512.h"
#include "kernels/convert.h"

#define STEPS 32767.0f

_Static_assert(32767LL * 127 * HEAD_DIM_MAX < 1LL << 31, "a score fits 32 bits");

INLINE __m512i load(const char *p)
{
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)p));
}

INLINE __m512 dot(__m512 sum, __m512i w, __m512i x)
{
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
    return sum;
}

INLINE __m512 power(__m512 x)
{
    return exp2_fast16(x);
}

INLINE __m256i to_int16(__m512 x)
{
    return _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x));
}

/* A query that is not finite gets a scale that is not. */
INLINE void put_query(const float *q, struct group *g, int i, int hd)
{
    uint32_t pair[HEAD_DIM_MAX / 2];
    __m512i most = _mm512_setzero_si512();
    for (int d = 0; d < hd; d += 16)
        most = _mm512_max_epi32(most, _mm512_and_si512(_mm512_loadu_si512(q + d), _mm512_set1_epi32(0x7fffffff)));
    uint32_t bits = (uint32_t)_mm512_reduce_max_epi32(most);
    float largest = f32_of_bits(bits);
    bool finite = bits < 0x7f800000, tiny = largest < Q8_TINY;
    __m512 inverse = _mm512_set1_ps(finite && !tiny ? STEPS / largest : 0);
    g->q_scale[i] = !finite ? NAN : tiny ? 0 : largest / STEPS;
    for (int d = 0; d < hd; d += 16)
        _mm256_storeu_si256((__m256i *)(pair + d / 2), to_int16(_mm512_mul_ps(_mm512_loadu_ps(q + d), inverse)));
    for (int d = 0; d < hd / 2; d++) g->q[d * g->n + i] = pair[d];
}

INLINE __m512 score(__m512 raw, const struct block *b, int page)
{
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_castps_si512(raw)), _mm512_loadu_ps(b->key[page] - 64));
}

/* Weights of tokens that are not seen are 0, but their scales are anything. */
INLINE void put_weights(const __m512 p[PAGES], const struct block *b, const struct span *s, uint32_t *out)
{
    __m512 inverse = _mm512_set1_ps(s->v_largest >= Q8_TINY / 127 ? STEPS / s->v_largest : 0);
#pragma GCC unroll 4
    for (int j = 0; j < PAGES; j++) {
        __mmask16 seen = (__mmask16)(s->seen >> j * KV_PAGE);
        __m512 scale = _mm512_mul_ps(_mm512_maskz_loadu_ps(seen, b->value[j] - 64), inverse);
        _mm256_store_si256((__m256i *)(out + j * 8), to_int16(_mm512_mul_ps(p[j], scale)));
    }
}

INLINE __m512 value(__m512 raw)
{
    return _mm512_cvtepi32_ps(_mm512_castps_si512(raw));
}

INLINE float worth(const struct span *s)
{
    return s->v_largest / STEPS;
}

bool attn_run_int8_avx512(const struct attn *a, const struct attn_item *it, struct attn_walk *w, struct attn_item *next,
                          void *scratch, struct act *out)
{
    return run_item(a, it, w, next, scratch, out);
}
