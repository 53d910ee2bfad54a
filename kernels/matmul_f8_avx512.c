/* e4m3 panels times bf16 rows (LAYOUT_F8, FAST).
 *
 * bf16 has the same fields with a wider exponent, so a code becomes bf16 by moving its bits: exponent and mantissa to bits
 * 4 to 10, and 112 more in the exponent, which needs no carry (the value is then 2^-8 times the code's, and `factor`
 * gives that back). Codes with exponent 0 are subnormal: moved like the others they would get a leading one, and as
 * bf16 subnormals vdpbf16ps would take them for zero, so vpermw gives those eight from a table. Seven operations for
 * 32 codes. Bytes per output and group: 36. */
#define GROUP_BYTES F8_GROUP_BYTES
#include "kernels/matmul_codes_avx512.h"

/* The codes in the high bytes of words. */
INLINE __m512i of_high(__m512i subnormal, __m512i words)
{
    const __m512i field = _mm512_set1_epi16(0x07f0), bias = _mm512_set1_epi16(0x3800);
    __m512i value = _mm512_ternarylogic_epi32(_mm512_srli_epi16(words, 4), field, bias, 0xea); /* (a & b) | c */
    __mmask32 small = _mm512_testn_epi16_mask(words, _mm512_set1_epi16(0x7800));
    value = _mm512_mask_permutexvar_epi16(value, small, _mm512_srli_epi16(words, 8), subnormal);
    return _mm512_ternarylogic_epi32(words, _mm512_set1_epi16((short)0x8000), value, 0xea);
}

/* 64 bytes are 16 outputs x 4 inputs: the low bytes of an output's words are inputs 0 and 1, the high ones 2 and 3. */
INLINE void decode(__m512i subnormal, const uint8_t *codes, int p, int half, __m512i pair[4])
{
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        __m512i bytes = _mm512_load_si512(codes + (p * 2 + i) * PANEL * 4 + half * 64);
        pair[i * 2] = of_high(subnormal, _mm512_slli_epi16(bytes, 8));
        pair[i * 2 + 1] = of_high(subnormal, bytes);
    }
}

void panel_f8_avx512(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                     float *acc)
{
    (void)t;
    /* Word i mod 8: i times 2^-9, times 2^-8. */
    __m128i eight = _mm_setr_epi16(0, 0x3700, 0x3780, 0x37c0, 0x3800, 0x3820, 0x3840, 0x3860);
    panel_of_codes(w, panel, _mm512_broadcast_i32x4(eight), 256, in, row0, rows, acc);
}
