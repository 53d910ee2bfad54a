/* 4-bit panels by a table times bf16 rows (LAYOUT_T4, FAST).
 *
 * The table's sixteen bf16 stand twice in a register of 32 words, and vpermw looks at five bits of a word: a nibble and
 * one bit that chooses between equal halves. So a load of 64 bytes (16 outputs x 8 inputs) becomes four vectors of pairs
 * by three shifts and four vpermw, without a mask. Bytes per output and group: 20. */
#define GROUP_BYTES T4_GROUP_BYTES
#include "kernels/matmul_codes_avx512.h"

INLINE void decode(__m512i table, const uint8_t *codes, int p, int half, __m512i pair[4])
{
    __m512i words = _mm512_load_si512(codes + p * PANEL * 4 + half * 64);
    pair[0] = _mm512_permutexvar_epi16(words, table);
    pair[1] = _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4), table);
    pair[2] = _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 8), table);
    pair[3] = _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 12), table);
}

void panel_t4_avx512(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                     float *acc)
{
    (void)t;
    __m512i table = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)w->coarse));
    panel_of_codes(w, panel, table, w->factor, in, row0, rows, acc);
}
