/* The store of a token's K and V of one kv head into its slot; the same bits as the plain one. */
#include "kernels/avx512.h"
#include "kernels/kv.h"
#include "kernels/vector.h"
#include <string.h>

static void store_bf16(char *keys, char *values, int hd, int slot, const float *k, const float *v)
{
    uint16_t rounded[HEAD_DIM_MAX];
    for (int d = 0; d < hd; d += 16) {
        __mmask16 tail = lanes16(hd - d);
        _mm256_mask_storeu_epi16(rounded + d, tail, to_bf16(_mm512_maskz_loadu_ps(tail, k + d)));
        /* V: the even or the odd half of each dimension's pair of slots. */
        __m512i bits = _mm512_slli_epi32(bf16_lanes(_mm512_maskz_loadu_ps(tail, v + d)), slot % 2 * 16);
        __mmask32 mine = (hd - d >= 16 ? 0x55555555u : 0x55555555u & ((1u << 2 * (hd - d)) - 1)) << slot % 2;
        _mm512_mask_storeu_epi16((uint16_t *)values + kv_v_pair(hd, d, slot & ~1), mine, bits);
    }
    for (int d = 0; d < hd; d += 2) memcpy((uint16_t *)keys + kv_k_pair(d, slot), rounded + d, 4);
}

static void store_f32(char *keys, char *values, int hd, int slot, const float *k, const float *v)
{
    for (int d = 0; d < hd; d++) ((float *)keys)[kv_k_f32(d, slot)] = k[d];
    memcpy((float *)values + kv_v_f32(hd, 0, slot), v, sizeof *v * (size_t)hd);
}

/* The scale of n values. */
static float scale_of(const float *x, int n, float *inverse)
{
    __m512i most = _mm512_setzero_si512();
    for (int i = 0; i < n; i += 16) {
        __m512i bits = _mm512_castps_si512(_mm512_maskz_loadu_ps(lanes16(n - i), x + i));
        most = _mm512_max_epi32(most, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
    }
    return kv_int8_scale((uint32_t)_mm512_reduce_max_epi32(most), inverse);
}

/* Rounded codes; of values that a scale of 0 or NaN stands for, 0. */
static __m128i codes16(const float *x, __mmask16 tail, float inverse)
{
    if (!(inverse > 0)) return _mm_setzero_si128();
    __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(tail, x), _mm512_set1_ps(inverse));
    return _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v));
}

static void store_int8(char *keys, char *values, int hd, int slot, const float *k, const float *v)
{
    float by_k, by_v;
    int8_t code[HEAD_DIM_MAX];
    ((float *)keys)[slot] = scale_of(k, hd, &by_k);
    ((float *)values)[slot] = scale_of(v, hd, &by_v);
    int8_t *ks = (int8_t *)kv_elements(KV_INT8, keys), *vs = (int8_t *)kv_elements(KV_INT8, values);
    for (int d = 0; d < hd; d += 16) {
        __mmask16 tail = lanes16(hd - d);
        _mm_mask_storeu_epi8(code + d, tail, codes16(k + d, tail, by_k));
        __m256i pairs = _mm256_slli_epi16(_mm256_cvtepu8_epi16(codes16(v + d, tail, by_v)), slot % 2 * 8);
        __mmask32 mine = (hd - d >= 16 ? 0x55555555u : 0x55555555u & ((1u << 2 * (hd - d)) - 1)) << slot % 2;
        _mm256_mask_storeu_epi8(vs + kv_v_pair(hd, d, slot & ~1), mine, pairs);
    }
    for (int d = 0; d < hd; d += 2) memcpy(ks + kv_k_pair(d, slot), code + d, 2);
}

void kv_store_avx512(const struct kv_cache *kv, char *head, int slot, const float *k, const float *v)
{
    char *values = head + kv_part_bytes(kv->type, kv->head_dim);
    switch (kv->type) {
    case KV_BF16:
        store_bf16(head, values, kv->head_dim, slot, k, v);
        break;
    case KV_INT8:
        store_int8(head, values, kv->head_dim, slot, k, v);
        break;
    case KV_F32:
        store_f32(head, values, kv->head_dim, slot, k, v);
    }
}
