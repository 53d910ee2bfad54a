/* Passes over a row of logits: 64 lanes a turn, so that the second-level cache is the bound. */
#include "kernels/logits.h"
#include "kernels/vector.h"

#define TINY (-87.0f) /* e^ of less is not a normal number */

static float most(const float *x, int n, bool *finite)
{
    __m512 best[4], zero[4];
    for (int j = 0; j < 4; j++) best[j] = _mm512_set1_ps(-INFINITY), zero[j] = _mm512_setzero_ps();
    for (int i = 0; i < n; i += 64)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            int left = n - i - j * 16;
            __mmask16 m = left > 0 ? lanes16(left) : 0;
            __m512 v = _mm512_mask_loadu_ps(best[j], m, x + i + j * 16);
            best[j] = _mm512_max_ps(best[j], v);
            zero[j] = _mm512_mask3_fmadd_ps(v, _mm512_setzero_ps(), zero[j], m);
        }
    __m512 z = _mm512_add_ps(_mm512_add_ps(zero[0], zero[1]), _mm512_add_ps(zero[2], zero[3]));
    *finite = _mm512_cmp_ps_mask(z, _mm512_setzero_ps(), _CMP_EQ_OQ) == 0xffff;
    return _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(best[0], best[1]), _mm512_max_ps(best[2], best[3])));
}

static int find(const float *x, int n, float value)
{
    for (int i = 0; i < n; i += 16) {
        __mmask16 m = lanes16(n - i);
        m = _mm512_mask_cmp_ps_mask(m, _mm512_maskz_loadu_ps(m, x + i), _mm512_set1_ps(value), _CMP_EQ_OQ);
        if (m) return i + __builtin_ctz(m);
    }
    return 0;
}

/* One block: weights and their sum. */
static float weigh_block(const float *x, int n, float best, float inv_t, float *w)
{
    __m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int i = 0; i < n; i += 32)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            int left = n - i - j * 16;
            __mmask16 m = left > 0 ? lanes16(left) : 0;
            __m512 v = _mm512_sub_ps(_mm512_maskz_loadu_ps(m, x + i + j * 16), _mm512_set1_ps(best));
            v = _mm512_mul_ps(v, _mm512_set1_ps(inv_t));
            __mmask16 seen = _mm512_mask_cmp_ps_mask(m, v, _mm512_set1_ps(TINY), _CMP_GE_OQ);
            v = _mm512_maskz_mov_ps(seen, exp16(v));
            sum[j] = _mm512_add_ps(sum[j], v);
            if (w) _mm512_mask_storeu_ps(w + i + j * 16, m, v);
        }
    return fold(_mm512_add_ps(sum[0], sum[1]));
}

static double weigh(const float *x, int n, float best, float inv_t, float *w, float *sums)
{
    double mass = 0;
    for (int b = 0, at = 0; at < n; b++, at += LOGITS_BLOCK) {
        int len = n - at < LOGITS_BLOCK ? n - at : LOGITS_BLOCK;
        float sum = weigh_block(x + at, len, best, inv_t, w ? w + at : NULL);
        if (sums) sums[b] = sum;
        mass += (double)sum;
    }
    return mass;
}

static int above(const float *w, int n, float least, int32_t *index)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    int count = 0;
    for (int i = 0; i < n; i += 16) {
        __mmask16 m = lanes16(n - i);
        __m512 v = _mm512_maskz_loadu_ps(m, w + i);
        m = _mm512_mask_cmp_ps_mask(m, v, _mm512_set1_ps(least), _CMP_GE_OQ);
        m = _mm512_mask_cmp_ps_mask(m, v, _mm512_setzero_ps(), _CMP_GT_OQ);
        if (!m) continue;
        __m512i found = _mm512_maskz_compress_epi32(m, _mm512_add_epi32(lane, _mm512_set1_epi32(i)));
        _mm512_mask_storeu_epi32(index + count, lanes16(__builtin_popcount(m)), found);
        count += __builtin_popcount(m);
    }
    return count;
}

const struct logits_ops logits_avx512 = {most, find, weigh, above};
