/* Attention over a bf16 cache: queries and weights are rounded to bf16 for vdpbf16ps; sums are float32. */
#define STEP 2
#define LOAD 64
#define UNIT 0x1.715476p0f /* 1 / ln 2 */
#include "kernels/attention_item_avx512.h"

INLINE __m512i load(const char *p)
{
    return _mm512_loadu_si512(p);
}

INLINE __m512 dot(__m512 sum, __m512i w, __m512i x)
{
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
    return sum;
}

INLINE __m512 power(__m512 x)
{
    return exp2_fast16(x);
}

INLINE void put_query(const float *q, struct group *g, int i, int hd)
{
    uint32_t pair[HEAD_DIM_MAX / 2];
    for (int d = 0; d < hd; d += 16)
        _mm256_storeu_si256((__m256i *)(pair + d / 2), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(q + d)));
    g->q_scale[i] = 1;
    for (int d = 0; d < hd / 2; d++) g->q[d * g->n + i] = pair[d];
}

INLINE __m512 score(__m512 raw, const struct block *b, int page)
{
    (void)b, (void)page;
    return raw;
}

INLINE void put_weights(const __m512 p[PAGES], const struct block *b, const struct span *s, uint32_t *out)
{
    (void)b, (void)s;
    for (int j = 0; j < PAGES; j += 2) _mm512_store_si512(out + j * 8, (__m512i)_mm512_cvtne2ps_pbh(p[j + 1], p[j]));
}

INLINE __m512 value(__m512 raw)
{
    return raw;
}

INLINE float worth(const struct span *s)
{
    (void)s;
    return 1;
}

bool attn_run_bf16_avx512(const struct attn *a, const struct attn_item *it, struct attn_walk *w, struct attn_item *next,
                          void *scratch, struct act *out)
{
    return run_item(a, it, w, next, scratch, out);
}
