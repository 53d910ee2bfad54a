/* kv: how a page of keys and values lies on the device (meta.h, struct cuda_kv): rows of tokens, for loads of 16 bytes,
 * where the CPU's page has the tokens side by side (kernels/kv.h). Nothing but the kernels looks inside, so the engine's
 * pool of pages serves both. */
#include "kernels/cuda/cuda.h"

#define ROW_ALIGN 16

/* One K or V of a head in a page. */
static struct cuda_kv part_of(enum kv_type type, int kv_heads, int head_dim)
{
    struct cuda_kv kv = {.kv_heads = kv_heads, .head_dim = head_dim, .int8 = type == KV_INT8};
    int element = kv.int8 ? 1 : 2;
    kv.row_bytes = (head_dim * element + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
    kv.scale_bytes = kv.int8 ? KV_PAGE * (int)sizeof(float) : 0;
    kv.part_bytes = kv.scale_bytes + KV_PAGE * kv.row_bytes;
    kv.page_bytes = (size_t)kv_heads * 2 * (size_t)kv.part_bytes;
    return kv;
}

size_t kv_layer_page_bytes(enum kv_type type, int kv_heads, int head_dim)
{
    return part_of(type, kv_heads, head_dim).page_bytes;
}

struct cuda_kv kv_layout(const struct device *d, int rank)
{
    struct cuda_kv kv = part_of(d->shape.kv_type, d->dim.kv_heads, d->dim.head_dim);
    kv.base = arena_address(d, rank, AREA_KV);
    kv.layer_bytes = kv.page_bytes * (size_t)d->plan.kv_pages;
    return kv;
}
