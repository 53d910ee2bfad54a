/* 8-bit panels with float32 scales times int8 rows (LAYOUT_Q8F, FAST): as LAYOUT_Q8's, but for the scales. Bytes per
 * output and group: 36. */
#define GROUP_BYTES Q8F_GROUP_BYTES
#define HAS_M false
#include "kernels/matmul_int8_avx512.h"

INLINE void codes(const uint8_t *group, int p, __m512i w[2])
{
    const uint8_t *at = group + PANEL * 4 + p * PANEL * 4;
    w[0] = _mm512_load_si512(at), w[1] = _mm512_load_si512(at + 64);
}

INLINE void scales(const uint8_t *group, __m512 d[2], __m512 m[2])
{
    d[0] = _mm512_load_ps(group), d[1] = _mm512_load_ps(group + 64);
    m[0] = m[1] = _mm512_setzero_ps();
}

void panel_q8f_avx512(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                      float *acc)
{
    (void)t;
    panel_by_tiles(w, panel, in, row0, rows, acc);
}
