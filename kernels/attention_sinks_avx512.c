/* Attention to a sequence's first positions: the 16 tokens of a page are the lanes of the scores, 16 dimensions those of the values.
 * Values of tokens that are no sinks are never loaded; keys of them are, and their scores dropped. */
#include "kernels/attention_sinks.h"
#include "kernels/vector.h"
#include <immintrin.h>
#include <math.h>

/* Two values in each lane, the first or the second as float32. */
static inline __m512 half_of(enum kv_type type, const char *at, bool second)
{
    if (type == KV_BF16) {
        __m512i pair = _mm512_loadu_si512(at);
        return _mm512_castsi512_ps(second ? _mm512_and_si512(pair, _mm512_set1_epi32((int)0xffff0000)) : _mm512_slli_epi32(pair, 16));
    }
    __m512i pair = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)at));
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(second ? pair : _mm512_slli_epi32(pair, 16), 16));
}

/* q K of the tokens of a page. */
static __m512 scores(const struct attn *a, const char *part, const float *q)
{
    enum kv_type type = a->kv->type;
    const char *k = kv_elements(type, part);
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    int bytes = type == KV_F32 ? 128 : type == KV_BF16 ? 64 : 32; /* of two dimensions */
    for (int d = 0; d < a->kv->head_dim; d += 2, k += bytes) {
        __m512 first = type == KV_F32 ? _mm512_loadu_ps(k) : half_of(type, k, false);
        __m512 second = type == KV_F32 ? _mm512_loadu_ps(k + 64) : half_of(type, k, true);
        even = _mm512_fmadd_ps(first, _mm512_set1_ps(q[d]), even);
        odd = _mm512_fmadd_ps(second, _mm512_set1_ps(q[d + 1]), odd);
    }
    even = _mm512_add_ps(even, odd);
    if (type == KV_INT8) even = _mm512_mul_ps(even, _mm512_loadu_ps(part));
    even = _mm512_mul_ps(even, _mm512_set1_ps(a->scale));
    if (a->softcap <= 0) return even;
    const __m512 cap = _mm512_set1_ps(a->softcap);
    return _mm512_mul_ps(tanh16(_mm512_div_ps(even, cap)), cap);
}

/* out += p V of a token. */
static void add_value(const struct kv_cache *kv, const char *part, int slot, float p, float *out)
{
    const char *v = kv_elements(kv->type, part);
    if (kv->type == KV_INT8) p *= ((const float *)part)[slot];
    for (int d = 0; d < kv->head_dim; d += 16) {
        __m512 x = kv->type == KV_F32 ? _mm512_loadu_ps(v + kv_v_f32(kv->head_dim, d, slot) * sizeof(float))
                                      : half_of(kv->type, v + kv_v_pair(kv->head_dim, d, slot & ~1) * kv_element(kv->type), slot & 1);
        _mm512_storeu_ps(out + d, _mm512_fmadd_ps(x, _mm512_set1_ps(p), _mm512_loadu_ps(out + d)));
    }
}

/* K of the kv head that query head `head` reads, in page j of the sequence. */
static const char *keys_of(const struct attn *a, const struct attn_seq *seq, int j, int head)
{
    return kv_head_at(a->kv, a->layer, seq->page[j], head / (a->heads / a->kv->kv_heads));
}

void attn_sinks_avx512(const struct attn *a, const struct attn_seq *seq, int pos, int head, float *state)
{
    int hd = a->kv->head_dim;
    size_t row = (size_t)(seq->row0 + pos - seq->pos0);
    float q[HEAD_DIM_MAX], s[ATTN_SINKS_MAX], most = -INFINITY, sum = 0;
    attn_sinks_turn(a, pos, a->q + (row * (size_t)a->heads + (size_t)head) * (size_t)hd, q);
    for (int j = 0; j < a->sinks; j += KV_PAGE) _mm512_storeu_ps(s + j, scores(a, keys_of(a, seq, j / KV_PAGE, head), q));
    for (int j = 0; j < a->sinks; j++)
        if (!(s[j] <= most)) most = s[j]; /* one that is no number stays to be seen */
    memset(state + ATTN_OUT, 0, sizeof *state * (size_t)hd);
    for (int j = 0; j < a->sinks; j++) {
        float p = _mm512_cvtss_f32(exp16(_mm512_set1_ps(s[j] - most)));
        add_value(a->kv, keys_of(a, seq, j / KV_PAGE, head) + kv_part_bytes(a->kv->type, hd), j % KV_PAGE, p, state + ATTN_OUT);
        sum += p;
    }
    state[ATTN_MOST] = most;
    state[ATTN_SUM] = sum;
}
