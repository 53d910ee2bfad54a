/* 8-bit panels times int8 rows (LAYOUT_Q8, FAST): weights are their integer + 128, scales f16. Bytes per output and
 * group: 34. */
#define GROUP_BYTES Q8_GROUP_BYTES
#define HAS_M false
#include "kernels/matmul_int8_avx512.h"

INLINE void codes(const uint8_t *group, int p, __m512i w[2])
{
    const uint8_t *at = group + PANEL * 2 + p * PANEL * 4;
    w[0] = _mm512_load_si512(at), w[1] = _mm512_load_si512(at + 64);
}

INLINE void scales(const uint8_t *group, __m512 d[2], __m512 m[2])
{
    const __m256i *s = (const __m256i *)group;
    d[0] = _mm512_cvtph_ps(_mm256_load_si256(s)), d[1] = _mm512_cvtph_ps(_mm256_load_si256(s + 1));
    m[0] = m[1] = _mm512_setzero_ps();
}

void panel_q8_avx512(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                     float *acc)
{
    (void)t;
    panel_by_tiles(w, panel, in, row0, rows, acc);
}
