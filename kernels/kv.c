/* KV pages: their size, and the store of a token's K and V of one kv head into its slot, plain. What is stored depends
 * on that token alone (int8 too: one scale per token and head), so that a page holds the same bits however its tokens
 * came. A K or V with a value that is not finite gets a scale that is not finite, so that every row which sees the token
 * shows it. */
#include "kernels/kv.h"
#include "kernels/act.h"
#include "kernels/convert.h"
#include "kernels/matmul.h"
#include <math.h>
#include <string.h>

enum kv_type kv_type_of(enum precision prec)
{
    return prec == PREC_FAST ? KV_BF16 : KV_F32;
}

size_t kv_page_bytes(enum kv_type type, int kv_heads, int head_dim)
{
    size_t bytes = (size_t)kv_heads * 2 * kv_part_bytes(type, head_dim);
    return (bytes + 63) / 64 * 64;
}

float kv_int8_scale(uint32_t most, float *inverse)
{
    float largest = f32_of_bits(most);
    bool finite = most < 0x7f800000, tiny = largest < Q8_TINY;
    *inverse = finite && !tiny ? 127.0f / largest : 0;
    return !finite ? NAN : tiny ? 0 : largest / 127.0f;
}

/* The scale of n values; *inverse of it. */
static float scale_of(const float *x, int n, float *inverse)
{
    uint32_t most = 0; /* bits of magnitudes order like the magnitudes, infinities and NaN above all */
    for (int i = 0; i < n; i++) {
        uint32_t bits = bits_of_f32(x[i]) & 0x7fffffff;
        if (bits > most) most = bits;
    }
    return kv_int8_scale(most, inverse);
}

static void store_int8(char *keys, char *values, int hd, int slot, const float *k, const float *v)
{
    float by_k, by_v;
    ((float *)keys)[slot] = scale_of(k, hd, &by_k);
    ((float *)values)[slot] = scale_of(v, hd, &by_v);
    int8_t *ks = (int8_t *)kv_elements(KV_INT8, keys), *vs = (int8_t *)kv_elements(KV_INT8, values);
    for (int d = 0; d < hd; d++) {
        ks[kv_k_pair(d, slot)] = by_k > 0 ? (int8_t)lrintf(k[d] * by_k) : 0;
        vs[kv_v_pair(hd, d, slot)] = by_v > 0 ? (int8_t)lrintf(v[d] * by_v) : 0;
    }
}

void kv_store_plain(const struct kv_cache *kv, char *head, int slot, const float *k, const float *v)
{
    int hd = kv->head_dim;
    char *values = head + kv_part_bytes(kv->type, hd);
    if (kv->type == KV_INT8) {
        store_int8(head, values, hd, slot, k, v);
        return;
    }
    for (int d = 0; d < hd; d++) {
        if (kv->type == KV_BF16) {
            ((uint16_t *)head)[kv_k_pair(d, slot)] = bf16_of_f32(k[d]);
            ((uint16_t *)values)[kv_v_pair(hd, d, slot)] = bf16_of_f32(v[d]);
        } else {
            ((float *)head)[kv_k_f32(d, slot)] = k[d];
            ((float *)values)[kv_v_f32(hd, d, slot)] = v[d];
        }
    }
}

void kv_load_plain(const struct kv_cache *kv, const char *head, int slot, bool value, float *out)
{
    int hd = kv->head_dim;
    const char *part = head + (value ? kv_part_bytes(kv->type, hd) : 0), *x = kv_elements(kv->type, part);
    for (int d = 0; d < hd; d++) {
        size_t pair = value ? kv_v_pair(hd, d, slot) : kv_k_pair(d, slot);
        switch (kv->type) {
        case KV_BF16:
            out[d] = f32_of_bf16(((const uint16_t *)x)[pair]);
            break;
        case KV_INT8:
            out[d] = ((const float *)part)[slot] * (float)((const int8_t *)x)[pair];
            break;
        case KV_F32:
            out[d] = ((const float *)x)[value ? kv_v_f32(hd, d, slot) : kv_k_f32(d, slot)];
        }
    }
}

/* --- copies --- */

/* Slots 0 .. slots-1 of K or V. Of pairs (bf16, int8) an odd last slot is half of each last pair of V. */
static void copy_part(const struct kv_cache *kv, char *to, const char *from, int slots, bool value)
{
    size_t hd = (size_t)kv->head_dim, el = kv_element(kv->type), n = (size_t)slots;
    if (kv->type == KV_INT8) memcpy(to, from, n * sizeof(float));
    to = kv_elements(kv->type, to);
    from = kv_elements(kv->type, from);
    if (kv->type == KV_F32 && value) {
        memcpy(to, from, n * hd * el);
    } else if (kv->type == KV_F32) {
        for (size_t d = 0; d < hd; d++) memcpy(to + d * KV_PAGE * el, from + d * KV_PAGE * el, n * el);
    } else if (!value) {
        for (size_t d = 0; d < hd / 2; d++) memcpy(to + d * KV_PAGE * 2 * el, from + d * KV_PAGE * 2 * el, n * 2 * el);
    } else {
        memcpy(to, from, n / 2 * hd * 2 * el);
        size_t last = n / 2 * hd * 2 * el;
        for (size_t d = 0; n % 2 && d < hd; d++) memcpy(to + last + d * 2 * el, from + last + d * 2 * el, el);
    }
}

void kv_copy_slots(struct kthread *t, const struct kv_cache *kv, int layer, const struct kv_copy *c, int n)
{
    int lo, hi;
    pool_share(t, kv->kv_heads * 2, &lo, &hi);
    for (int i = 0; i < n; i++)
        for (int part = lo; part < hi; part++) {
            size_t at = part % 2 ? kv_part_bytes(kv->type, kv->head_dim) : 0;
            copy_part(kv, kv_head_at(kv, layer, c[i].to, part / 2) + at,
                      kv_head_at(kv, layer, c[i].from, part / 2) + at, c[i].slots, part % 2);
        }
}
