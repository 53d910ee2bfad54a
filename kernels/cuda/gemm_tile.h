/* A warp's share of a product: 16 or 32 outputs x 64 inputs of a weight times 8 NT rows, by mma m16n8k16 with weights on M
 * and rows on N. Device functions that gemm.h's kernel and the expansion are made of.
 *
 * A lane's weights and activations come in chunks of 16 bytes that it reads back from shared memory, chunk c of a warp
 * at slot[c * 32] (slot points at the lane's own 16 bytes of chunk 0). Which element a chunk holds is the mma's fragment
 * (weight.h), so no lane needs another's data, and neither ldmatrix nor a transposition is needed: the mma's k is
 * renumbered, the same way for weights and rows.
 *
 * Codes become bf16 exactly, two at a time: the bits of an integer below 128 put under those of 128.0 are 128 + q, from
 * which 128 and a zero point are subtracted, or, where a minimum is added anyway, 128 d from the minimum; e4m3 has bf16's
 * fields, narrower, 2^-120 off; t4's codes are looked up in a table of pairs that has a copy for each lane, so that no two
 * lanes meet in a bank. Scales are applied per group of 32 inputs in float32: acc += d c, and for layouts with a minimum
 * acc += m s, where s, the sum of the group's activations, is an mma with a matrix of ones.
 *
 * Instructions count: of the bytes that an SM gets in a cycle (15 on an H100, 20 on an H200) follow the issue slots that a
 * warp's tile may take: 350 and 250 at 4 bits, 210 and 150 at 2. Compiled for sm_90 it takes 220 to 250 and 225 with 8 rows,
 * 265 to 290 and 300 with 16: so 4 bits run at the memory's speed, on an H200 with 16 rows at nine tenths, 2 bits at half to
 * two thirds. Hence the spelled-out lop3 and addresses that are kept per lane. */
#pragma once
#include "kernels/cuda/dev.h"
#include "kernels/cuda/weight.h"

#define CHUNK_LANES 32
#define LUT_WORDS (256 * 32)

/* Where the weight of a block lies. */
struct gemm_view {
    const char *data;
    int n, k, ld;
};

/* Chunks of a lane. MT: m-tiles of 16 outputs; tiles of codes always bring both. */
template <int KIND, int MT> struct chunks {
    static constexpr int scales = KIND <= KIND_F8R ? 0 : KIND == KIND_Q8 ? 1 : KIND == KIND_Q4Z ? 3 : 2;
    static constexpr int codes = KIND == KIND_BF16  ? 4 * MT
                                 : KIND == KIND_F32 ? 8 * MT
                                 : KIND == KIND_F8R ? 2 * MT
                                 : KIND <= KIND_F8  ? 4
                                 : KIND <= KIND_T4  ? 2
                                                    : 1;
    static constexpr int all = scales + codes;
    static constexpr int tile_bytes = scales * 128 + codes * 512;
    static constexpr bool has_min = KIND == KIND_Q4 || KIND == KIND_Q2;
};

DEV int lane_g()
{
    return (int)dev_lane() / 4;
}

DEV int lane_t()
{
    return (int)dev_lane() % 4;
}

/* First input of the lane's eight that its x chunk h holds, within a tile. */
template <int KIND> DEV int lane_k(int h)
{
    return KIND == KIND_F8R ? 16 * lane_t() + 8 * h : 32 * h + 8 * lane_t();
}

/* --- copies into the ring. A copy that is not `there` reads nothing, so its address may lie anywhere. --- */

/* Where a lane's chunks begin in a panel (n0 on), and how much of the matrix there is from its first output and input. */
struct lane_source {
    const char *scales, *codes;
    int outputs, inputs;
};

/* First byte of the lane's input, of orders of rows. */
template <int KIND> DEV int lane_byte()
{
    return (KIND == KIND_F32 ? 32 : 16) * lane_t();
}

template <int KIND> DEV struct lane_source lane_source_of(const struct gemm_view *w, int n0)
{
    const int bytes = KIND == KIND_BF16 ? 2 : KIND == KIND_F32 ? 4 : 1;
    struct lane_source s;
    s.outputs = w->n - n0 - lane_g(), s.inputs = w->k - lane_byte<KIND>() / bytes;
    if constexpr (KIND <= KIND_F8R) {
        s.scales = NULL;
        s.codes = w->data + (size_t)(n0 + lane_g()) * (size_t)(w->ld * bytes) + lane_byte<KIND>();
    } else {
        int tiles = (w->k + TILE_K - 1) / TILE_K;
        const char *panel = w->data + (size_t)(n0 / TILE_N) * (size_t)tiles * chunks<KIND, 2>::tile_bytes;
        s.scales = panel + lane_g() * 16;
        s.codes = panel + chunks<KIND, 2>::scales * 128 + dev_lane() * 16;
    }
    return s;
}

/* Row-ordered: outputs 8j + g, j < 2 MT; zeros beyond n and k. */
template <int KIND, int MT> DEV void fetch_rows(uint4 *slot, const struct lane_source *s, int ld, int tile)
{
    const int bytes = KIND == KIND_BF16 ? 2 : KIND == KIND_F32 ? 4 : 1;
    const int per_row = chunks<KIND, MT>::codes / (2 * MT);
    const char *from = s->codes + tile * (TILE_K * bytes);
    UNROLL
    for (int j = 0; j < 2 * MT; j++) {
        UNROLL
        for (int c = 0; c < per_row; c++) {
            int k = KIND == KIND_F8R ? 0 : KIND == KIND_BF16 ? 32 * c : 32 * (c / 2) + 4 * (c % 2);
            bool there = 8 * j < s->outputs && tile * TILE_K + k < s->inputs;
            dev_cp_async16_zfill(slot + (j * per_row + c) * CHUNK_LANES, from + k * bytes, there);
        }
        from += 8 * (size_t)(ld * bytes);
    }
}

template <int KIND> DEV void fetch_tile(uint4 *slot, const struct lane_source *s, int tile)
{
    size_t at = (size_t)tile * chunks<KIND, 2>::tile_bytes;
    UNROLL
    for (int c = 0; c < chunks<KIND, 2>::scales; c++) dev_cp_async16(slot + c * CHUNK_LANES, s->scales + at + c * 128);
    UNROLL
    for (int c = 0; c < chunks<KIND, 2>::codes; c++)
        dev_cp_async16(slot + (chunks<KIND, 2>::scales + c) * CHUNK_LANES, s->codes + at + c * 512);
}

/* The lane's chunks of inputs tile * 64 .. */
template <int KIND, int MT> DEV void fetch_weight(uint4 *slot, const struct lane_source *s, int ld, int tile)
{
    if constexpr (KIND <= KIND_F8R)
        fetch_rows<KIND, MT>(slot, s, ld, tile);
    else
        fetch_tile<KIND>(slot, s, tile);
}

/* --- codes to pairs of bf16 --- */

#define AND_OR 0xea /* lop3: (a & b) | c; spelled out, or the compiler makes two of it */

/* 128 + q, q below 128 in the bits of `mask`; halves apart. */
DEV uint32_t pair_of_bits(uint32_t bits, uint32_t mask)
{
    return dev_lop3<AND_OR>(bits, mask, 0x43004300u);
}

/* int8 in bytes 0 and 2: the sign counts -128, so what is subtracted is 128 or 256, its bit the exponent's last. */
DEV uint32_t pair_of_int8(uint32_t bits)
{
    return dev_sub_bf16x2(dev_lop3<AND_OR>(bits, 0x007f007fu, 0x43004300u),
                          dev_lop3<AND_OR>(bits, 0x00800080u, 0x43004300u));
}

/* e4m3 in bytes 1 and 3: sign in place, exponent and mantissa four down, times 2^120. */
DEV uint32_t pair_of_e4m3(uint32_t bits)
{
    return dev_mul_bf16x2((bits & 0x80008000u) | (bits >> 4 & 0x07f007f0u), 0x7b807b80u);
}

DEV uint32_t word_of(uint4 v, int i)
{
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* One of the three bf16 whose sum is the float exactly: 8 bits of its mantissa each. */
DEV float float_term(uint32_t bits, int term)
{
    float v = dev_as_float(bits);
    for (int i = 0; i < term; i++) v -= dev_as_float(dev_as_uint(v) & 0xffff0000u);
    return v;
}

DEV uint32_t pair_of_floats(uint32_t a, uint32_t b, int term)
{
    return dev_prmt(dev_as_uint(float_term(a, term)), dev_as_uint(float_term(b, term)), 0x7632);
}

/* The lane's eight inputs of group h and output j as four pairs; `codes` is the slot behind the scales. zero: bf16 128 +
 * z, twice (q4z). term: 0 .. 2 of f32, else 0. */
template <int KIND>
DEV void lane_pairs(const uint4 *codes, int h, int j, uint32_t zero, const uint32_t *lut, int term, uint32_t out[4])
{
    if constexpr (KIND == KIND_BF16) {
        uint4 v = codes[(j * 2 + h) * CHUNK_LANES];
        out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
    } else if constexpr (KIND == KIND_F32) {
        uint4 a = codes[(j * 4 + h * 2) * CHUNK_LANES], b = codes[(j * 4 + h * 2 + 1) * CHUNK_LANES];
        out[0] = pair_of_floats(a.x, a.y, term), out[1] = pair_of_floats(a.z, a.w, term);
        out[2] = pair_of_floats(b.x, b.y, term), out[3] = pair_of_floats(b.z, b.w, term);
    } else if constexpr (KIND == KIND_F8R) {
        uint4 v = codes[j * CHUNK_LANES];
        UNROLL
        for (int i = 0; i < 2; i++) {
            uint32_t word = word_of(v, 2 * h + i);
            out[2 * i] = pair_of_e4m3(dev_prmt(word, 0, 0x1404));
            out[2 * i + 1] = pair_of_e4m3(dev_prmt(word, 0, 0x3424));
        }
    } else if constexpr (KIND == KIND_Q8 || KIND == KIND_Q8F || KIND == KIND_F8) {
        uint4 v = codes[(2 * h + j / 2) * CHUNK_LANES];
        UNROLL
        for (int i = 0; i < 2; i++) {
            uint32_t word = word_of(v, 2 * (j % 2) + i);
            out[2 * i] = KIND == KIND_F8 ? pair_of_e4m3(word << 8) : pair_of_int8(word);
            out[2 * i + 1] = KIND == KIND_F8 ? pair_of_e4m3(word) : pair_of_int8(word >> 8);
        }
    } else if constexpr (KIND == KIND_T4) {
        uint32_t word = word_of(codes[h * CHUNK_LANES], j);
        UNROLL
        for (int i = 0; i < 4; i++) {
            uint32_t at = i == 0 ? word << 7 : word >> (8 * i - 7); /* the byte times the 128 bytes of its copies */
            at = dev_lop3<AND_OR>(at, 255u << 7, dev_lane() * 4);
            out[i] = *reinterpret_cast<const uint32_t *>(reinterpret_cast<const char *>(lut) + at);
        }
    } else {
        const int bits = KIND == KIND_Q2 ? 2 : 4;
        uint32_t word = word_of(codes[KIND == KIND_Q2 ? 0 : h * CHUNK_LANES], j) >> (KIND == KIND_Q2 ? 8 * h : 0);
        UNROLL
        for (int i = 0; i < 4; i++) {
            out[i] = pair_of_bits(word >> bits * i, KIND == KIND_Q2 ? 0x00030003u : 0x000f000fu);
            if constexpr (KIND == KIND_Q4Z) out[i] = dev_sub_bf16x2(out[i], zero);
        }
    }
}

/* --- scales of group h: d, m of the outputs j = 0 .. 3 --- */

DEV void f16_scales(uint4 chunk, int h, float out[4])
{
    float2 a = dev_half2_f32(word_of(chunk, 2 * h)), b = dev_half2_f32(word_of(chunk, 2 * h + 1));
    out[0] = a.x, out[1] = a.y, out[2] = b.x, out[3] = b.y;
}

template <int KIND> DEV void lane_scales(const uint4 *slot, int h, float d[4], float m[4], uint32_t zero[4])
{
    if constexpr (KIND == KIND_Q8 || chunks<KIND, 2>::has_min) {
        f16_scales(slot[0], h, d);
    } else {
        uint4 v = slot[h * CHUNK_LANES];
        UNROLL
        for (int j = 0; j < 4; j++) d[j] = dev_as_float(word_of(v, j));
    }
    if constexpr (chunks<KIND, 2>::has_min) {
        f16_scales(slot[CHUNK_LANES], h, m);
        UNROLL
        for (int j = 0; j < 4; j++) m[j] = dev_fma(-128, d[j], m[j]); /* the codes come with 128 on top */
    }
    UNROLL
    for (int j = 0; j < 4; j++) zero[j] = 0;
    if constexpr (KIND == KIND_Q4Z) {
        uint4 v = slot[2 * CHUNK_LANES];
        UNROLL
        for (int j = 0; j < 4; j++) zero[j] = dev_prmt(word_of(v, 2 * h + j / 2), 0, j % 2 ? 0x3232 : 0x1010);
    }
}

/* --- the product --- */

/* The lane's part of the outputs of m-tile p and group h: what mma takes as a, for its two steps of 16 inputs. */
template <int KIND>
DEV void weight_fragments(uint32_t a[2][4], const uint4 *codes, int p, int h, const uint32_t zero[4],
                          const uint32_t *lut, int term)
{
    uint32_t low[4], high[4];
    lane_pairs<KIND>(codes, h, 2 * p, zero[2 * p], lut, term, low);
    lane_pairs<KIND>(codes, h, 2 * p + 1, zero[2 * p + 1], lut, term, high);
    UNROLL
    for (int s = 0; s < 2; s++)
        a[s][0] = low[2 * s], a[s][1] = high[2 * s], a[s][2] = low[2 * s + 1], a[s][3] = high[2 * s + 1];
}

/* c += the outputs of `a` times eight rows, whose chunk is v. */
DEV void multiply(float c[4], const uint32_t a[2][4], uint4 v)
{
    UNROLL
    for (int s = 0; s < 2; s++) {
        uint32_t b[2] = {word_of(v, 2 * s), word_of(v, 2 * s + 1)};
        dev_mma_bf16(c, a[s], b);
    }
}

/* Orders of rows: acc += the tile, straight through. */
template <int KIND, int MT, int NT> DEV void row_product(float acc[MT][NT][4], const uint4 *slot, const uint4 *x)
{
    const uint32_t none[4] = {0, 0, 0, 0};
    UNROLL
    for (int h = 0; h < 2; h++) UNROLL
    for (int p = 0; p < MT; p++) UNROLL
    for (int term = 0; term < (KIND == KIND_F32 ? 3 : 1); term++) {
        uint32_t a[2][4];
        weight_fragments<KIND>(a, slot, p, h, none, NULL, term);
        UNROLL
        for (int i = 0; i < NT; i++) multiply(acc[p][i], a, x[(i * 2 + h) * CHUNK_LANES]);
    }
}

/* Tiles of codes: acc += d (codes x) + m (sum of x), of group h. */
template <int KIND, int NT>
DEV void code_group(float acc[2][NT][4], const uint4 *slot, const uint4 *x, const uint32_t *lut, int h)
{
    const uint32_t ones[2][4] = {{0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u},
                                 {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u}};
    float d[4], m[4];
    uint32_t zero[4], a[2][2][4];
    lane_scales<KIND>(slot, h, d, m, zero);
    UNROLL
    for (int p = 0; p < 2; p++)
        weight_fragments<KIND>(a[p], slot + chunks<KIND, 2>::scales * CHUNK_LANES, p, h, zero, lut, 0);
    UNROLL
    for (int i = 0; i < NT; i++) {
        uint4 v = x[(i * 2 + h) * CHUNK_LANES];
        float c[2][4] = {}, sum[4] = {};
        UNROLL
        for (int p = 0; p < 2; p++) multiply(c[p], a[p], v);
        if constexpr (chunks<KIND, 2>::has_min) multiply(sum, ones, v);
        UNROLL
        for (int e = 0; e < 8; e++) {
            float *to = &acc[e / 4][i][e % 4];
            *to = dev_fma(d[e / 2], c[e / 4][e % 4], *to);
            if constexpr (chunks<KIND, 2>::has_min) *to = dev_fma(m[e / 2], sum[e % 2], *to);
        }
    }
}

/* Many rows: a group after the other, or its registers are those of two. */
template <int KIND, int NT>
DEV void code_product(float acc[2][NT][4], const uint4 *slot, const uint4 *x, const uint32_t *lut)
{
    if constexpr (NT > 2) {
        NO_UNROLL
        for (int h = 0; h < 2; h++) code_group<KIND, NT>(acc, slot, x, lut, h);
    } else {
        UNROLL
        for (int h = 0; h < 2; h++) code_group<KIND, NT>(acc, slot, x, lut, h);
    }
}

template <int KIND, int MT, int NT>
DEV void tile_product(float acc[MT][NT][4], const uint4 *slot, const uint4 *x, const uint32_t *lut)
{
    if constexpr (KIND <= KIND_F8R)
        row_product<KIND, MT, NT>(acc, slot, x);
    else
        code_product<KIND, NT>(acc, slot, x, lut);
}
