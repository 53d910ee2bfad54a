/* 4-bit panels with a zero point times int8 rows (LAYOUT_Q4Z, FAST): d (q - z) as d q + m, m = -d z.
 *
 * A group is ten and a half lines, so every other one is loaded across lines: cheaper than the bytes that padding would
 * add. Bytes per output and group: 21. */
#define GROUP_BYTES Q4Z_GROUP_BYTES
#define HAS_M true
#include "kernels/matmul_int8_avx512.h"

/* A line of nibbles is 16 outputs x 8 inputs: low halves are four of them, high halves the next four. */
INLINE void codes(const uint8_t *group, int p, __m512i w[2])
{
    const __m512i low = _mm512_set1_epi8(15);
    const uint8_t *at = group + PANEL * 5 + p / 2 * PANEL * 4;
    w[0] = _mm512_loadu_si512(at), w[1] = _mm512_loadu_si512(at + 64);
    if (p % 2) w[0] = _mm512_srli_epi16(w[0], 4), w[1] = _mm512_srli_epi16(w[1], 4);
    w[0] = _mm512_and_si512(w[0], low), w[1] = _mm512_and_si512(w[1], low);
}

INLINE void scales(const uint8_t *group, __m512 d[2], __m512 m[2])
{
    for (int i = 0; i < 2; i++) {
        __m512i z = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(group + PANEL * 4) + i));
        d[i] = _mm512_loadu_ps(group + 64 * i);
        m[i] = _mm512_sub_ps(_mm512_setzero_ps(), _mm512_mul_ps(d[i], _mm512_cvtepi32_ps(z)));
    }
}

void panel_q4z_avx512(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                      float *acc)
{
    (void)t;
    panel_by_tiles(w, panel, in, row0, rows, acc);
}
