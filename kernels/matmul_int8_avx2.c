/* 8-bit, 4-bit and 2-bit panels times int8 rows (LAYOUT_Q8, Q8F, Q4, Q4Z, Q2, FAST) without a product of bytes that adds
 * up in 32 bits.
 *
 * vpmaddubsw multiplies unsigned by signed bytes and adds neighbours in 16 bits, with saturation: two products of a code
 * of 8 bits do not fit. Two of a nibble do, and so do those of a whole group: 32 inputs are 8 steps of 2 products in each
 * 16-bit sum, at most 16 * 15 * 128 = 30720. So bytes are taken apart into nibbles, sums of a group stay in 16 bits, and
 * vpmaddwd brings them to 32 once per group, the upper nibbles' times 16.
 *
 * The loops over a group stay loops: of unrolled ones gcc puts the additions into another order, for which it keeps all
 * products, and spills them. */
#include "kernels/matmul_int8_avx2.h"

/* 16-bit sums of the group to 32 bits, times `factor`. */
INLINE __m256i widen(__m256i sums, int factor)
{
    return _mm256_madd_epi16(sums, _mm256_set1_epi16((short)factor));
}

INLINE __m256i add_products(__m256i sums, __m256i codes, __m256i x)
{
    return _mm256_add_epi16(sums, _mm256_maddubs_epi16(codes, x));
}

/* 8 outputs: lower and upper nibbles of the same inputs have sums of their own. */
INLINE void bytes8(const uint8_t *q, const struct rows *x, int at, const int R, dots dot, int s)
{
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i low[TILE], high[TILE];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) low[r] = high[r] = _mm256_setzero_si256();
#pragma GCC unroll 1
    for (int p = 0; p < GROUP / 4; p++) {
        __m256i b = load_bits(q + p * PANEL * 4);
        __m256i w0 = _mm256_and_si256(b, nibble), w1 = _mm256_and_si256(_mm256_srli_epi16(b, 4), nibble);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            __m256i a = four(row_at(x, r, at + p * 4));
            low[r] = add_products(low[r], w0, a);
            high[r] = add_products(high[r], w1, a);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) dot[r][s] = _mm256_add_epi32(widen(low[r], 1), widen(high[r], 16));
}

INLINE void dots_bytes(const uint8_t *q, const struct rows *x, int at, const int R, dots dot)
{
    bytes8(q, x, at, R, dot, 0);
    bytes8(q + 32, x, at, R, dot, 1);
}

/* Codes of `bits` bits, `parts` of them in a byte. */
INLINE void dots_parts(const uint8_t *q, const int bits, const int parts, const struct rows *x, int at, const int R,
                       dots dot)
{
    const __m256i mask = _mm256_set1_epi8((char)((1 << bits) - 1));
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) dot[r][0] = dot[r][1] = _mm256_setzero_si256();
#pragma GCC unroll 1
    for (int i = 0; i < GROUP; q += PANEL * 4) {
        __m256i b0 = load_bits(q), b1 = load_bits(q + 32);
#pragma GCC unroll 1
        for (int j = 0; j < parts; j++, i += 4) {
            __m256i w0 = _mm256_and_si256(b0, mask), w1 = _mm256_and_si256(b1, mask);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                __m256i a = four(row_at(x, r, at + i));
                dot[r][0] = add_products(dot[r][0], w0, a);
                dot[r][1] = add_products(dot[r][1], w1, a);
            }
            b0 = _mm256_srli_epi16(b0, bits), b1 = _mm256_srli_epi16(b1, bits);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) dot[r][0] = widen(dot[r][0], 1), dot[r][1] = widen(dot[r][1], 1);
}

INLINE void dots_nibbles(const uint8_t *q, const struct rows *x, int at, const int R, dots dot)
{
    dots_parts(q, 4, 2, x, at, R, dot);
}

INLINE void dots_quarters(const uint8_t *q, const struct rows *x, int at, const int R, dots dot)
{
    dots_parts(q, 2, 4, x, at, R, dot);
}

void panel_q8_avx2(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                   float *acc)
{
    (void)t;
    panel_by_tiles(w, panel, in, row0, rows, acc, Q8_GROUP_BYTES, group_q8);
}

void panel_q8f_avx2(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                    float *acc)
{
    (void)t;
    panel_by_tiles(w, panel, in, row0, rows, acc, Q8F_GROUP_BYTES, group_q8f);
}

void panel_q4_avx2(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                   float *acc)
{
    (void)t;
    panel_by_tiles(w, panel, in, row0, rows, acc, Q4_GROUP_BYTES, group_q4);
}

void panel_q4z_avx2(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                    float *acc)
{
    (void)t;
    panel_by_tiles(w, panel, in, row0, rows, acc, Q4Z_GROUP_BYTES, group_q4z);
}

void panel_q2_avx2(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                   float *acc)
{
    (void)t;
    panel_by_tiles(w, panel, in, row0, rows, acc, Q2_GROUP_BYTES, group_q2);
}
