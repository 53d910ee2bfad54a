/* 4-bit panels times int8 rows (LAYOUT_Q4, FAST). Bytes per output and group: 20 (4-bit values, two f16 scales). */
#define GROUP_BYTES Q4_GROUP_BYTES
#define HAS_M true
#include "kernels/matmul_int8_avx512.h"

/* A line of nibbles is 16 outputs x 8 inputs: low halves are four of them, high halves the next four. */
INLINE void codes(const uint8_t *group, int p, __m512i w[2])
{
    const __m512i low = _mm512_set1_epi8(15);
    const uint8_t *at = group + PANEL * 4 + p / 2 * PANEL * 4;
    w[0] = _mm512_loadu_si512(at), w[1] = _mm512_loadu_si512(at + 64);
    if (p % 2) w[0] = _mm512_srli_epi16(w[0], 4), w[1] = _mm512_srli_epi16(w[1], 4);
    w[0] = _mm512_and_si512(w[0], low), w[1] = _mm512_and_si512(w[1], low);
}

INLINE void scales(const uint8_t *group, __m512 d[2], __m512 m[2])
{
    const __m256i *s = (const __m256i *)group;
    d[0] = _mm512_cvtph_ps(_mm256_load_si256(s)), d[1] = _mm512_cvtph_ps(_mm256_load_si256(s + 1));
    m[0] = _mm512_cvtph_ps(_mm256_load_si256(s + 2)), m[1] = _mm512_cvtph_ps(_mm256_load_si256(s + 3));
}

void panel_q4_avx512(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                     float *acc)
{
    (void)t;
    panel_by_tiles(w, panel, in, row0, rows, acc);
}
