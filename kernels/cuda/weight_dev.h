/* Elements of a device weight as float32, exactly what its layout says: for embeddings and expansions. */
#pragma once
#include "kernels/cuda/dev.h"
#include "kernels/cuda/weight.h"

/* Scale and minimum of group h of a tile for the output that lanes g have as their j-th: w = d q + m, or d (q - z). */
struct tile_scale {
    float d, m;
    int zero;
};

DEV float weight_f16(uint16_t bits)
{
    return dev_half2_f32(bits).x;
}

DEV struct tile_scale tile_scale_at(int kind, const char *tile, int g, int h, int j)
{
    const uint16_t *f16 = reinterpret_cast<const uint16_t *>(tile) + g * 8 + h * 4 + j;
    struct tile_scale s = {0, 0, 0};
    bool narrow = kind == KIND_Q8 || kind == KIND_Q4 || kind == KIND_Q2;
    s.d = narrow ? weight_f16(*f16) : reinterpret_cast<const float *>(tile)[h * 32 + g * 4 + j];
    if (kind == KIND_Q4 || kind == KIND_Q2) s.m = weight_f16(f16[64]);
    if (kind == KIND_Q4Z) s.zero = (int)dev_lo(f16[128]) - 128;
    return s;
}

/* Element i of the lane's eight from its words: two of 8-bit kinds, else one. */
DEV int tile_code(int kind, const uint32_t word[2], int h, int i)
{
    if (kind == KIND_Q8 || kind == KIND_Q8F || kind == KIND_F8) {
        uint32_t byte = word[i / 4] >> 8 * (i % 4 == 1 ? 2 : i % 4 == 2 ? 1 : i % 4) & 255;
        return kind == KIND_F8 ? (int)byte : (int)(int8_t)byte;
    }
    if (kind == KIND_T4) return word[0] >> 4 * i & 15;
    if (kind == KIND_Q2) return word[0] >> (2 * (4 * h + i / 2) + 16 * (i % 2)) & 3;
    return word[0] >> (4 * (i / 2) + 16 * (i % 2)) & 15;
}

DEV void weight_tile8(const struct cuda_weight *w, int row, int k0, float out[8])
{
    const int kind = w->kind, bits = kind <= KIND_F8 ? 8 : kind <= KIND_T4 ? 4 : 2;
    const int scales = kind == KIND_Q8 ? 128 : kind == KIND_Q4Z ? 384 : 256, bytes = scales + 256 * bits;
    int tiles = (w->k + TILE_K - 1) / TILE_K, h = k0 / 32 % 2, j = row / 8 % 4, g = row % 8, lane = 4 * g + k0 / 8 % 4;
    const char *tile =
        static_cast<const char *>(w->data) + ((size_t)(row / TILE_N) * tiles + k0 / TILE_K) * (size_t)bytes;
    const uint32_t *codes = reinterpret_cast<const uint32_t *>(tile + scales);
    struct tile_scale s = tile_scale_at(kind, tile, g, h, j);
    uint32_t word[2] = {0, 0};
    if (bits == 8) {
        const uint32_t *at = codes + ((2 * h + j / 2) * 32 + lane) * 4 + 2 * (j % 2);
        word[0] = at[0], word[1] = at[1];
    } else {
        word[0] = codes[((bits == 4 ? h : 0) * 32 + lane) * 4 + j];
    }
    UNROLL
    for (int i = 0; i < 8; i++) {
        int q = tile_code(kind, word, h, i);
        if (kind == KIND_T4)
            out[i] = s.d * w->table[q];
        else if (kind == KIND_F8)
            out[i] = s.d * dev_e4m3x2_f32((uint16_t)q).x;
        else
            out[i] = dev_fma(s.d, (float)(q - s.zero), s.m); /* d q is exact in float32 where there is a minimum */
    }
}

/* Inputs k0 .. k0+7 (k0 a multiple of 8) of output `row`. */
DEV void weight_get8(const struct cuda_weight *w, int row, int k0, float out[8])
{
    size_t at = (size_t)row * (size_t)w->ld + k0;
    if (w->kind == KIND_BF16) {
        dev_unpack8(dev_ldg(reinterpret_cast<const uint4 *>(static_cast<const uint16_t *>(w->data) + at)), out);
    } else if (w->kind == KIND_F32) {
        UNROLL
        for (int i = 0; i < 8; i++) out[i] = static_cast<const float *>(w->data)[at + i];
    } else if (w->kind == KIND_F8R) {
        UNROLL
        for (int i = 0; i < 8; i++)
            out[i] = w->scales[row] * dev_e4m3x2_f32(static_cast<const uint8_t *>(w->data)[at + i]).x;
    } else {
        weight_tile8(w, row, k0, out);
    }
}
