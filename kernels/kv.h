/* Private to kernels/: the inside of a KV page. Per kv head, K then V, of KV_PAGE = 16 tokens:
 *   bf16     K [head_dim/2][16][2]   V [16/2][head_dim][2]     pairs, because the dot product takes pairs
 *   float32  K [head_dim][16]        V [16][head_dim]
 * K has the tokens side by side: one vector is one product of a query's dimension with all tokens of the page. */
#pragma once
#include "kernels/ops.h"

static inline size_t kv_element(const struct kv_cache *kv)
{
    return kv->prec == PREC_FAST ? 2 : 4;
}

/* K of a kv head in a page; V lies kv_v_offset() bytes behind it. */
static inline char *kv_head_at(const struct kv_cache *kv, int layer, int page, int kv_head)
{
    return kv->base + ((size_t)layer * (size_t)kv->pages + (size_t)page) * kv->page_bytes +
           (size_t)kv_head * 2 * KV_PAGE * (size_t)kv->head_dim * kv_element(kv);
}

static inline size_t kv_v_offset(const struct kv_cache *kv)
{
    return KV_PAGE * (size_t)kv->head_dim * kv_element(kv);
}

/* Element indices inside K and V. */
static inline size_t kv_k_bf16(int d, int slot)
{
    return ((size_t)(d / 2) * KV_PAGE + (size_t)slot) * 2 + (size_t)(d % 2);
}
static inline size_t kv_v_bf16(int head_dim, int d, int slot)
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

/* The leading dimensions of a head that rotate. */
static inline int attn_rotary(const struct attn *a)
{
    return a->rotary > 0 ? a->rotary : a->kv->head_dim;
}

/* The first position that position `pos` sees. */
static inline int attn_first(const struct attn *a, int pos)
{
    return a->window > 0 && pos >= a->window ? pos - a->window + 1 : 0;
}

/* The sequence that a row belongs to; NULL: none. */
static inline const struct attn_seq *attn_seq_of(const struct attn *a, int row)
{
    for (int s = 0; s < a->nseq; s++)
        if (row >= a->seq[s].row0 && row < a->seq[s].row0 + a->seq[s].rows) return &a->seq[s];
    return NULL;
}
