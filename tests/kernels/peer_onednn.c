/* oneDNN's packed matrix products (its C interface of version 2): the weights' layout is left to the library, and they
 * are reordered into it once, so that what is timed is the product alone. */
#include "tests/kernels/peer.h"
#include <oneapi/dnnl/dnnl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define COPIES_MAX 4096

struct peer {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t product;
    dnnl_memory_t src, dst, *weight; /* weight: [copies] */
    int copies;
};

const char *const peer_name = "oneDNN";

static const struct {
    dnnl_data_type_t src, weight;
    size_t bytes; /* of an element of either */
} types[] = {[PEER_BF16] = {dnnl_bf16, dnnl_bf16, 2}, [PEER_INT8] = {dnnl_u8, dnnl_s8, 1}};

static int make_desc(struct peer *p, enum peer_type type, int m, int n, int k)
{
    dnnl_memory_desc_t src, weight, dst;
    dnnl_matmul_desc_t product;
    dnnl_primitive_attr_t attr;
    if (dnnl_memory_desc_init_by_tag(&src, 2, (dnnl_dims_t){m, k}, types[type].src, dnnl_ab) ||
        dnnl_memory_desc_init_by_tag(&weight, 2, (dnnl_dims_t){k, n}, types[type].weight, dnnl_format_tag_any) ||
        dnnl_memory_desc_init_by_tag(&dst, 2, (dnnl_dims_t){m, n}, dnnl_f32, dnnl_ab) ||
        dnnl_matmul_desc_init(&product, &src, &weight, NULL, &dst) || dnnl_primitive_attr_create(&attr))
        return -1;
    float *scales = calloc((size_t)n, sizeof *scales);
    for (int i = 0; scales && i < n; i++) scales[i] = 0.01f;
    int rc = -1;
    if (scales && (type != PEER_INT8 || !dnnl_primitive_attr_set_output_scales(attr, n, 1 << 1, scales)))
        rc = dnnl_primitive_desc_create(&p->desc, &product, attr, p->engine, NULL);
    dnnl_primitive_attr_destroy(attr);
    free(scales);
    return rc ? -1 : 0;
}

static dnnl_memory_t memory_of(const struct peer *p, dnnl_query_t what)
{
    dnnl_memory_t memory = NULL;
    if (dnnl_memory_create(&memory, dnnl_primitive_desc_query_md(p->desc, what, 0), p->engine, DNNL_MEMORY_ALLOCATE))
        return NULL;
    return memory;
}

/* Small bf16 numbers, or small bytes. */
static int fill_memory(dnnl_memory_t memory, enum peer_type type, size_t count)
{
    void *data;
    if (dnnl_memory_map_data(memory, &data)) return -1;
    for (size_t i = 0; i < count; i++) {
        if (type == PEER_BF16)
            ((uint16_t *)data)[i] = (uint16_t)(0x3c00 + i * 7 % 128);
        else
            ((uint8_t *)data)[i] = (uint8_t)(i * 7 % 128);
    }
    return dnnl_memory_unmap_data(memory, data) ? -1 : 0;
}

static int reorder(struct peer *p, dnnl_memory_t from, dnnl_memory_t to)
{
    const dnnl_memory_desc_t *from_md, *to_md;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t move;
    if (dnnl_memory_get_memory_desc(from, &from_md) || dnnl_memory_get_memory_desc(to, &to_md) ||
        dnnl_reorder_primitive_desc_create(&desc, from_md, p->engine, to_md, p->engine, NULL))
        return -1;
    int rc = dnnl_primitive_create(&move, desc);
    dnnl_primitive_desc_destroy(desc);
    if (rc) return -1;
    dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    rc = dnnl_primitive_execute(move, p->stream, 2, args) || dnnl_stream_wait(p->stream);
    dnnl_primitive_destroy(move);
    return rc ? -1 : 0;
}

static int make_weights(struct peer *p, enum peer_type type, int n, int k)
{
    dnnl_memory_desc_t rows;
    dnnl_memory_t plain;
    if (dnnl_memory_desc_init_by_tag(&rows, 2, (dnnl_dims_t){k, n}, types[type].weight, dnnl_ba) ||
        dnnl_memory_create(&plain, &rows, p->engine, DNNL_MEMORY_ALLOCATE))
        return -1;
    int rc = fill_memory(plain, type, (size_t)n * (size_t)k);
    for (int i = 0; !rc && i < p->copies; i++) {
        p->weight[i] = memory_of(p, dnnl_query_weights_md);
        rc = p->weight[i] ? reorder(p, plain, p->weight[i]) : -1;
    }
    dnnl_memory_destroy(plain);
    return rc;
}

static int make(struct peer *p, enum peer_type type, int m, int n, int k)
{
    if (dnnl_engine_create(&p->engine, dnnl_cpu, 0) ||
        dnnl_stream_create(&p->stream, p->engine, dnnl_stream_default_flags) || make_desc(p, type, m, n, k) ||
        dnnl_primitive_create(&p->product, p->desc))
        return -1;
    p->src = memory_of(p, dnnl_query_src_md);
    p->dst = memory_of(p, dnnl_query_dst_md);
    if (!p->src || !p->dst || fill_memory(p->src, type, (size_t)m * (size_t)k)) return -1;
    return make_weights(p, type, n, k);
}

struct peer *peer_new(enum peer_type type, int m, int n, int k, int copies)
{
    struct peer *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->copies = copies < COPIES_MAX ? copies : COPIES_MAX;
    p->weight = calloc((size_t)p->copies, sizeof *p->weight);
    if (p->weight && !make(p, type, m, n, k)) return p;
    peer_free(p);
    return NULL;
}

void peer_run(struct peer *p, int copy)
{
    dnnl_exec_arg_t args[] = {
        {DNNL_ARG_SRC, p->src}, {DNNL_ARG_WEIGHTS, p->weight[copy % p->copies]}, {DNNL_ARG_DST, p->dst}};
    dnnl_primitive_execute(p->product, p->stream, 3, args);
    dnnl_stream_wait(p->stream);
}

void peer_free(struct peer *p)
{
    if (!p) return;
    for (int i = 0; p->weight && i < p->copies; i++)
        if (p->weight[i]) dnnl_memory_destroy(p->weight[i]);
    free(p->weight);
    if (p->src) dnnl_memory_destroy(p->src);
    if (p->dst) dnnl_memory_destroy(p->dst);
    if (p->product) dnnl_primitive_destroy(p->product);
    if (p->desc) dnnl_primitive_desc_destroy(p->desc);
    if (p->stream) dnnl_stream_destroy(p->stream);
    if (p->engine) dnnl_engine_destroy(p->engine);
    free(p);
}
