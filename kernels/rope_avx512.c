/* Rotary positions and the store of k and v into the row's page. Sixteen pairs at a time; a row's cosines and sines are
 * taken apart once for all heads. Rows are dealt to the threads. The rotation multiplies and adds separately, as the
 * plain one does: both give the same bits, but where a norm of heads comes before. */
#include "kernels/avx512.h"
#include "kernels/kv.h"
#include "kernels/vector.h"
#include <assert.h>

/* Rotate pairs i .. i+15 of `half` of `heads` heads. */
static void rotate(float *x, int heads, int head_dim, int half, int i, const float *rope)
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    int pairs = half - i;
    __mmask16 tail = lanes16(pairs);
    __m512 r0 = _mm512_maskz_loadu_ps(lanes16(2 * pairs), rope + 2 * i);
    __m512 r1 = pairs > 8 ? _mm512_maskz_loadu_ps(lanes16(2 * pairs - 16), rope + 2 * i + 16) : _mm512_setzero_ps();
    __m512 c = _mm512_permutex2var_ps(r0, even, r1), s = _mm512_permutex2var_ps(r0, odd, r1);
    for (int h = 0; h < heads; h++, x += head_dim) {
        __m512 a = _mm512_maskz_loadu_ps(tail, x + i), b = _mm512_maskz_loadu_ps(tail, x + i + half);
        _mm512_mask_storeu_ps(x + i, tail, _mm512_sub_ps(_mm512_mul_ps(a, c), _mm512_mul_ps(b, s)));
        _mm512_mask_storeu_ps(x + i + half, tail, _mm512_add_ps(_mm512_mul_ps(b, c), _mm512_mul_ps(a, s)));
    }
}

static void norm_heads(float *x, int heads, int hd, const float *weight, float eps)
{
    for (int h = 0; h < heads; h++, x += hd) {
        __m512 factor = _mm512_set1_ps(rms_factor(x, hd, eps));
        for (int i = 0; i < hd; i += 16) {
            __mmask16 tail = lanes16(hd - i);
            __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(tail, x + i), factor);
            _mm512_mask_storeu_ps(x + i, tail, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(tail, weight + i)));
        }
    }
}

void rope_store_avx512(struct kthread *t, const struct attn *a)
{
    int hd = a->kv->head_dim, kv_heads = a->kv->kv_heads, rotary = attn_rotary(a), lo, hi;
    assert(hd % 2 == 0 && hd <= HEAD_DIM_MAX && rotary % 2 == 0 && rotary <= hd);
    pool_share(t, a->rows, &lo, &hi);
    for (int row = lo; row < hi; row++) {
        const struct attn_seq *seq = attn_seq_of(a, row);
        if (!seq) continue;
        int pos = seq->pos0 + row - seq->row0;
        const float *rope = a->rope + (size_t)pos * (size_t)rotary;
        float *q = a->q + (size_t)row * (size_t)(a->heads * hd);
        float *k = a->k + (size_t)row * (size_t)(kv_heads * hd);
        const float *v = a->v + (size_t)row * (size_t)(kv_heads * hd);
        if (a->q_norm) norm_heads(q, a->heads, hd, a->q_norm, a->norm_eps);
        if (a->k_norm) norm_heads(k, kv_heads, hd, a->k_norm, a->norm_eps);
        for (int i = 0; i < rotary / 2; i += 16) {
            rotate(q, a->heads, hd, rotary / 2, i, rope);
            rotate(k, kv_heads, hd, rotary / 2, i, rope);
        }
        for (int h = 0; h < kv_heads; h++) {
            char *head = kv_head_at(a->kv, a->layer, seq->page[pos / KV_PAGE], h);
            kv_store_avx512(a->kv, head, pos % KV_PAGE, k + h * hd, v + h * hd);
        }
    }
}
