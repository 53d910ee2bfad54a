/* Attention over a float32 cache (EXACT): float32 throughout, one FMA per product. */
#define STEP 1
#define LOAD 64
#define UNIT 1.0f
#include "kernels/attention_item_avx512.h"

INLINE __m512i load(const char *p)
{
    return _mm512_loadu_si512(p);
}

INLINE __m512 dot(__m512 sum, __m512i w, __m512i x)
{
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
    return sum;
}

INLINE __m512 power(__m512 x)
{
    return exp16(x);
}

INLINE void put_query(const float *q, struct group *g, int i, int hd)
{
    g->q_scale[i] = 1;
    for (int d = 0; d < hd; d++) memcpy(&g->q[d * g->n + i], &q[d], sizeof *q);
}

INLINE __m512 score(__m512 raw, const struct block *b, int page)
{
    (void)b, (void)page;
    return raw;
}

INLINE void put_weights(const __m512 p[PAGES], const struct block *b, const struct span *s, uint32_t *out)
{
    (void)b, (void)s;
    for (int j = 0; j < PAGES; j++) _mm512_store_ps((float *)out + j * 16, p[j]);
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

bool attn_run_f32_avx512(const struct attn *a, const struct attn_item *it, struct attn_walk *w, struct attn_item *next,
                         void *scratch, struct act *out)
{
    return run_item(a, it, w, next, scratch, out);
}
