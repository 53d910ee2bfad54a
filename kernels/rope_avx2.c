/* Rotary positions and the store of k and v into the row's page. Eight pairs at a time, what is left one by one; a row's
 * cosines and sines are taken apart once for all heads. Rows are dealt to the threads. The rotation multiplies and adds
 * separately, as the plain one does: both give the same bits, but where a norm of heads comes before. */
#include "kernels/avx2.h"
#include "kernels/convert.h"
#include "kernels/kv.h"
#include "kernels/vector_avx2.h"
#include <assert.h>
#include <string.h>

/* Rotate pairs i .. i+7 of `half` of `heads` heads. */
static void rotate8(float *x, int heads, int head_dim, int half, int i, const float *rope)
{
    __m256 r0 = _mm256_loadu_ps(rope + 2 * i), r1 = _mm256_loadu_ps(rope + 2 * i + 8);
    __m256d even = _mm256_castps_pd(_mm256_shuffle_ps(r0, r1, 0x88));
    __m256d odd = _mm256_castps_pd(_mm256_shuffle_ps(r0, r1, 0xdd));
    __m256 c = _mm256_castpd_ps(_mm256_permute4x64_pd(even, 0xd8));
    __m256 s = _mm256_castpd_ps(_mm256_permute4x64_pd(odd, 0xd8));
    for (int h = 0; h < heads; h++, x += head_dim) {
        __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + half);
        _mm256_storeu_ps(x + i, _mm256_sub_ps(_mm256_mul_ps(a, c), _mm256_mul_ps(b, s)));
        _mm256_storeu_ps(x + i + half, _mm256_add_ps(_mm256_mul_ps(b, c), _mm256_mul_ps(a, s)));
    }
}

static void rotate1(float *x, int heads, int head_dim, int half, int i, const float *rope)
{
    float c = rope[2 * i], s = rope[2 * i + 1];
    for (int h = 0; h < heads; h++, x += head_dim) {
        float a = x[i], b = x[i + half];
        x[i] = a * c - b * s;
        x[i + half] = b * c + a * s;
    }
}

static void rotate(float *x, int heads, int head_dim, int half, const float *rope)
{
    int i = 0;
    for (; i + 8 <= half; i += 8) rotate8(x, heads, head_dim, half, i, rope);
    for (; i < half; i++) rotate1(x, heads, head_dim, half, i, rope);
}

static void norm_heads(float *x, int heads, int hd, const float *weight, float eps)
{
    for (int h = 0; h < heads; h++, x += hd) {
        __m256 factor = _mm256_set1_ps(rms_factor(x, hd, eps));
        for (int i = 0; i < hd; i += 8) {
            __m256i tail = lanes8(hd - i);
            __m256 v = _mm256_mul_ps(_mm256_maskload_ps(x + i, tail), factor);
            _mm256_maskstore_ps(x + i, tail, _mm256_mul_ps(v, _mm256_maskload_ps(weight + i, tail)));
        }
    }
}

static void round_head(const float *x, int hd, uint16_t *out)
{
    int d = 0;
    for (; d + 8 <= hd; d += 8) _mm_storeu_si128((__m128i *)(out + d), to_bf16(_mm256_loadu_ps(x + d)));
    for (; d < hd; d++) out[d] = bf16_of_f32(x[d]);
}

/* The other half of a pair of values belongs to another row, maybe another thread's: halves are stored one by one. */
static void store_bf16(char *head, int hd, int slot, const float *k, const float *v)
{
    uint16_t rounded[HEAD_DIM_MAX], *values = (uint16_t *)(head + KV_PAGE * (size_t)hd * 2);
    round_head(k, hd, rounded);
    for (int d = 0; d < hd; d += 2) memcpy((uint16_t *)head + kv_k_pair(d, slot), rounded + d, 4);
    round_head(v, hd, rounded);
    for (int d = 0; d < hd; d++) values[kv_v_pair(hd, d, slot)] = rounded[d];
}

static void store_f32(char *head, int hd, int slot, const float *k, const float *v)
{
    float *keys = (float *)head;
    for (int d = 0; d < hd; d++) keys[kv_k_f32(d, slot)] = k[d];
    memcpy(keys + KV_PAGE * (size_t)hd + kv_v_f32(hd, 0, slot), v, sizeof *v * (size_t)hd);
}

static void turn_heads(const struct attn *a, float *x, int heads, const float *norm, const float *rope)
{
    int hd = a->kv->head_dim;
    if (norm) norm_heads(x, heads, hd, norm, a->norm_eps);
    rotate(x, heads, hd, attn_rotary(a) / 2, rope);
}

void rope_store_avx2(struct kthread *t, const struct attn *a)
{
    int hd = a->kv->head_dim, kv_heads = a->kv->kv_heads, rotary = attn_rotary(a), lo, hi;
    assert(hd % 2 == 0 && hd <= HEAD_DIM_MAX && rotary % 2 == 0 && rotary <= hd);
    pool_share(t, a->rows, &lo, &hi);
    for (int row = lo; row < hi; row++) {
        const struct attn_seq *seq = attn_seq_of(a, row);
        if (!seq) continue;
        int pos = seq->pos0 + row - seq->row0;
        const float *rope = a->rope + (size_t)pos * (size_t)rotary;
        float *k = a->k + (size_t)row * (size_t)(kv_heads * hd);
        const float *v = a->v + (size_t)row * (size_t)(kv_heads * hd);
        turn_heads(a, a->q + (size_t)row * (size_t)(a->heads * hd), a->heads, a->q_norm, rope);
        turn_heads(a, k, kv_heads, a->k_norm, rope);
        for (int h = 0; h < kv_heads; h++) {
            char *head = kv_head_at(a->kv, a->layer, seq->page[pos / KV_PAGE], h);
            if (a->kv->type == KV_BF16)
                store_bf16(head, hd, pos % KV_PAGE, k + h * hd, v + h * hd);
            else if (a->kv->type == KV_F32)
                store_f32(head, hd, pos % KV_PAGE, k + h * hd, v + h * hd);
            else
                kv_store_plain(a->kv, head, pos % KV_PAGE, k + h * hd, v + h * hd);
        }
    }
}
