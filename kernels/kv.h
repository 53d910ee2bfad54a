/* Private to kernels/: the inside of a KV page, and which positions a row sees. Per kv head, K then V, of KV_PAGE = 16
 * tokens:
 *   bf16     K [head_dim/2][16][2]   V [16/2][head_dim][2]     pairs, because the dot product takes pairs
 *   int8     the same, and before each of the two its float32 scales [16]
 *   float32  K [head_dim][16]        V [16][head_dim]
 * K has the tokens side by side: one vector is one product of a query's dimension with all tokens of the page. */
#pragma once
#include "kernels/ops.h"

static inline size_t kv_element(enum kv_type type)
{
    return type == KV_F32 ? 4 : type == KV_BF16 ? 2 : 1;
}

/* K or V of one kv head in a page. */
static inline size_t kv_part_bytes(enum kv_type type, int head_dim)
{
    size_t scales = type == KV_INT8 ? KV_PAGE * sizeof(float) : 0;
    return scales + KV_PAGE * (size_t)head_dim * kv_element(type);
}

/* K of a kv head in a page: its scales where the type has them, else its elements. V lies kv_part_bytes() behind. */
static inline char *kv_head_at(const struct kv_cache *kv, int layer, int page, int kv_head)
{
    return kv->base + ((size_t)layer * (size_t)kv->pages + (size_t)page) * kv->page_bytes +
           (size_t)kv_head * 2 * kv_part_bytes(kv->type, kv->head_dim);
}

/* The elements of K or V, whose scales, if any, come first. */
static inline char *kv_elements(enum kv_type type, const char *part)
{
    return (char *)part + (type == KV_INT8 ? KV_PAGE * sizeof(float) : 0);
}

/* Element indices inside K and V: of bf16 and int8, and of float32. */
static inline size_t kv_k_pair(int d, int slot)
{
    return ((size_t)(d / 2) * KV_PAGE + (size_t)slot) * 2 + (size_t)(d % 2);
}
static inline size_t kv_v_pair(int head_dim, int d, int slot)
{
    return ((size_t)(slot / 2) * (size_t)head_dim + (size_t)d) * 2 + (size_t)(slot % 2);
}
static inline size_t kv_k_f32(int d, int slot)
{
    return (size_t)d * KV_PAGE + (size_t)slot;
}
static inline size_t kv_v_f32(int head_dim, int d, int slot)
{
    return (size_t)slot * (size_t)head_dim + (size_t)d;
}

/* K and V, float32 [head_dim], into a slot of a kv head's place in a page. kv_store_avx512() (avx512.h) stores the same
 * bits. */
void kv_store_plain(const struct kv_cache *kv, char *head, int slot, const float *k, const float *v);

/* K (or V) of a slot as float32. */
void kv_load_plain(const struct kv_cache *kv, const char *head, int slot, bool value, float *out);

/* int8: the scale of values whose largest magnitude has these bits, and what they are multiplied with before they are
 * rounded; 0 where all become 0. */
float kv_int8_scale(uint32_t most, float *inverse);

/* The leading dimensions of a head that rotate. */
static inline int attn_rotary(const struct attn *a)
{
    return a->rotary > 0 ? a->rotary : a->kv->head_dim;
}

/* The first position that position `pos` sees; of one that sees its sinks apart, the first of its window. */
static inline int attn_first(const struct attn *a, int pos)
{
    return a->window > 0 && pos >= a->window + a->sinks ? pos - a->window + 1 : 0;
}

/* The sequence that a row belongs to; NULL: none. */
static inline const struct attn_seq *attn_seq_of(const struct attn *a, int row)
{
    for (int s = 0; s < a->nseq; s++)
        if (row >= a->seq[s].row0 && row < a->seq[s].row0 + a->seq[s].rows) return &a->seq[s];
    return NULL;
}
