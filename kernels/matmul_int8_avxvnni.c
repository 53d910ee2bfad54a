/* 8-bit, 4-bit and 2-bit panels times int8 rows (LAYOUT_Q8, Q8F, Q4, Q4Z, Q2, FAST) on processors with AVX-VNNI: vpdpbusd
 * on 256 bits multiplies unsigned by signed bytes and adds four products to 32 bits at once. */
#include "kernels/matmul_int8_avx2.h"

INLINE void dots_zero(dots dot, const int R)
{
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) dot[r][0] = dot[r][1] = _mm256_setzero_si256();
}

/* Four inputs from `at` on. */
INLINE void add_step(__m256i w0, __m256i w1, const struct rows *x, int at, const int R, dots dot)
{
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        __m256i a = four(row_at(x, r, at));
        dot[r][0] = _mm256_dpbusd_avx_epi32(dot[r][0], w0, a);
        dot[r][1] = _mm256_dpbusd_avx_epi32(dot[r][1], w1, a);
    }
}

INLINE void dots_bytes(const uint8_t *q, const struct rows *x, int at, const int R, dots dot)
{
    dots_zero(dot, R);
#pragma GCC unroll 8
    for (int p = 0; p < GROUP / 4; p++)
        add_step(load_bits(q + p * PANEL * 4), load_bits(q + p * PANEL * 4 + 32), x, at + p * 4, R, dot);
}

/* Codes of `bits` bits, `parts` of them in a byte. */
INLINE void dots_parts(const uint8_t *q, const int bits, const int parts, const struct rows *x, int at, const int R,
                       dots dot)
{
    const __m256i mask = _mm256_set1_epi8((char)((1 << bits) - 1));
    dots_zero(dot, R);
#pragma GCC unroll 4
    for (int p = 0; p < bits; p++) {
        __m256i b0 = load_bits(q + p * PANEL * 4), b1 = load_bits(q + p * PANEL * 4 + 32);
#pragma GCC unroll 4
        for (int j = 0; j < parts; j++)
            add_step(_mm256_and_si256(_mm256_srli_epi16(b0, j * bits), mask),
                     _mm256_and_si256(_mm256_srli_epi16(b1, j * bits), mask), x, at + (p * parts + j) * 4, R, dot);
    }
}

INLINE void dots_nibbles(const uint8_t *q, const struct rows *x, int at, const int R, dots dot)
{
    dots_parts(q, 4, 2, x, at, R, dot);
}

INLINE void dots_quarters(const uint8_t *q, const struct rows *x, int at, const int R, dots dot)
{
    dots_parts(q, 2, 4, x, at, R, dot);
}

void panel_q8_avxvnni(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                      float *acc)
{
    (void)t;
    panel_by_tiles(w, panel, in, row0, rows, acc, Q8_GROUP_BYTES, group_q8);
}

void panel_q8f_avxvnni(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                       float *acc)
{
    (void)t;
    panel_by_tiles(w, panel, in, row0, rows, acc, Q8F_GROUP_BYTES, group_q8f);
}

void panel_q4_avxvnni(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                      float *acc)
{
    (void)t;
    panel_by_tiles(w, panel, in, row0, rows, acc, Q4_GROUP_BYTES, group_q4);
}

void panel_q4z_avxvnni(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                       float *acc)
{
    (void)t;
    panel_by_tiles(w, panel, in, row0, rows, acc, Q4Z_GROUP_BYTES, group_q4z);
}

void panel_q2_avxvnni(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                      float *acc)
{
    (void)t;
    panel_by_tiles(w, panel, in, row0, rows, acc, Q2_GROUP_BYTES, group_q2);
}
