/* Weights for the tests of products: a matrix of every layout from codes that look random, and its place on the device
 * in sealed memory. Values come back by weight_row(), which tests/kernels/test_weight.c holds against the formats. */
#pragma once
#include "kernels/cuda/weight.h"
#include "tests/simt/simt.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct made {
    int kind; /* enum cuda_kind that it becomes */
    bool integers;
    uint64_t seed;
};

static inline uint32_t made_bits(const struct made *m, int row, int i)
{
    uint64_t z =
        m->seed * 0x9e3779b97f4a7c15u + (uint64_t)row * 0xbf58476d1ce4e5b9u + (uint64_t)i * 0x94d049bb133111ebu;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 32);
}

static const float MADE_TABLE[16] = {
    -1,         -0.6961928f, -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f, -0.091050036f, 0,
    0.0795803f, 0.1609302f,  0.2461123f,   0.33791524f, 0.44070983f,  0.562617f,    0.72295684f,   1};
static const float MADE_WHOLE[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};

/* e4m3 of 0, 1, 2, 3, 4, 5, 6, -1, -2, -3; else any but NaN. */
static inline uint8_t made_e4m3(const struct made *m, uint32_t bits)
{
    static const uint8_t whole[10] = {0x00, 0x38, 0x40, 0x44, 0x48, 0x4a, 0x4c, 0xb8, 0xc0, 0xc4};
    if (m->integers) return whole[bits % 10];
    return (bits & 0x7f) == 0x7f ? 0x01 : (uint8_t)bits;
}

/* A scale that is exactly f16, or not, as the kind wants it; of whole numbers a power of two. */
static inline float made_scale(const struct made *m, int row, int g)
{
    if (m->integers) return m->kind == KIND_Q8F || m->kind == KIND_Q4Z ? 0x1p-30f : m->kind == KIND_F8 ? 1 + g % 2 : 1;
    bool f16 = m->kind == KIND_Q8 || m->kind == KIND_Q4 || m->kind == KIND_Q2;
    uint32_t bits = made_bits(m, row, -1 - g) % 1000;
    return f16 ? (float)(1024 + bits) / 65536 / 16 : 0.001f + (float)bits * 1.1e-5f;
}

static inline int made_read(const struct weight_source *s, int row, struct weight_row *out, struct err *e)
{
    const struct made *m = s->u;
    (void)e;
    for (int i = 0; i < s->k; i++) {
        uint32_t bits = made_bits(m, row, i);
        if (m->kind <= KIND_F32)
            out->f[i] = m->integers ? (float)(int)(bits % 17) - 8 : (float)(int)(bits % 65536) / 65536 - 0.5f;
        else if (m->kind == KIND_Q8 || m->kind == KIND_Q8F)
            out->q[i] = m->integers ? (uint8_t)(120 + bits % 16) : (uint8_t)bits;
        else if (m->kind == KIND_F8 || m->kind == KIND_F8R)
            out->q[i] = made_e4m3(m, bits);
        else
            out->q[i] = bits % (m->kind == KIND_Q2 ? 4 : 16);
    }
    for (int g = 0; m->kind > KIND_F32 && g < s->k / GROUP; g++) {
        out->d[g] = made_scale(m, row, m->kind == KIND_F8R ? 0 : g);
        int z = (int)(made_bits(m, row, -100000 - g) % 16);
        out->z[g] = m->kind == KIND_Q4Z ? (float)z : (float)-z / (m->integers ? 1 : 64);
    }
    return 0;
}

/* The host's weight; integers: its values are small whole numbers times one power of two. */
static inline struct weight made_weight(int kind, int n, int k, bool integers, uint64_t seed)
{
    static const enum code_kind codes[KINDS] = {
        [KIND_BF16] = CODES_FLOAT, [KIND_F32] = CODES_FLOAT, [KIND_F8R] = CODES_E4M3,  [KIND_Q8] = CODES_INT8,
        [KIND_Q8F] = CODES_INT8,   [KIND_F8] = CODES_E4M3,   [KIND_Q4] = CODES_AFFINE, [KIND_Q4Z] = CODES_INT4,
        [KIND_T4] = CODES_TABLE,   [KIND_Q2] = CODES_INT2};
    static const int layout[KINDS] = {LAYOUT_BF16, LAYOUT_F32, LAYOUT_F8,  LAYOUT_Q8, LAYOUT_Q8F,
                                      LAYOUT_F8,   LAYOUT_Q4,  LAYOUT_Q4Z, LAYOUT_T4, LAYOUT_Q2};
    struct made m = {kind, integers, seed};
    struct weight_source s = {.kind = codes[kind],
                              .n = n,
                              .k = k,
                              .table = kind == KIND_T4 ? integers ? MADE_WHOLE : MADE_TABLE : NULL,
                              .read = made_read,
                              .u = &m,
                              .format = "made"};
    struct weight w;
    struct err e = {0};
    SIMT_CHECK(weight_pack_source(&w, &s, NULL, kind == KIND_F32 ? PREC_EXACT : PREC_FAST, LAYOUT_AUTO, NULL, &e) == 0,
               "%s", e.msg);
    SIMT_CHECK((int)w.layout == layout[kind], "%s became %s", cuda_kind_name[kind], layout_name[w.layout]);
    return w;
}

/* Packed for the device, panel by panel, and sealed. */
static inline struct cuda_weight made_device(const struct cuda_part *part, int parts)
{
    struct cuda_weight w;
    struct err e = {0};
    SIMT_CHECK(cuda_weight_plan(&w, part, parts, &e) == 0, "%s", e.msg);
    char *host = malloc(cuda_weight_bytes(&w));
    for (int p = 0; p <= cuda_panels(&w); p++) cuda_panel_pack(&w, part, parts, p, host + cuda_panel_offset(&w, p));
    cuda_weight_place(&w, simt_sealed("weight", host, cuda_weight_bytes(&w)));
    free(host);
    return w;
}

static inline struct cuda_weight made_whole(const struct weight *w)
{
    struct cuda_part part = {w, 0, w->n, 0, w->k};
    return made_device(&part, 1);
}
