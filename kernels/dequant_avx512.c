/* Panels' groups back to float32 (LAYOUT_Q8 and later), 32 inputs x 32 outputs at a time, to the last bit what
 * weight_row() gives: for the exact products. */
#include "kernels/avx512.h"
#include "kernels/pack.h"
#include "kernels/vector.h"

/* out[32 inputs][32 outputs]: 16 outputs of input i. */
static inline void put(float *out, int i, int half, __m512 value)
{
    _mm512_store_ps(out + i * PANEL + half * 16, value);
}

/* 16 scales of a half: f16 after `at` bytes, float32 at the group's head. */
static inline __m512 scale16(const uint8_t *group, int at, int half)
{
    return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(group + at) + half));
}

static inline __m512 scale32(const uint8_t *group, int half)
{
    return _mm512_loadu_ps((const float *)group + half * 16);
}

/* Bytes less 128, times d. */
static inline void bytes128(const uint8_t *q, int half, __m512 d, float *out)
{
    const __m512i offset = _mm512_set1_epi32(128), byte = _mm512_set1_epi32(255);
    for (int p = 0; p < GROUP / 4; p++) {
        __m512i word = _mm512_load_si512(q + p * PANEL * 4 + half * 64);
        for (int i = 0; i < 4; i++, word = _mm512_srli_epi32(word, 8)) {
            __m512 value = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_and_si512(word, byte), offset));
            put(out, p * 4 + i, half, _mm512_mul_ps(d, value));
        }
    }
}

static void group_q8(const struct weight *w, const uint8_t *group, float *out)
{
    (void)w;
    for (int half = 0; half < 2; half++) bytes128(group + PANEL * 2, half, scale16(group, 0, half), out);
}

static void group_q8f(const struct weight *w, const uint8_t *group, float *out)
{
    (void)w;
    for (int half = 0; half < 2; half++) bytes128(group + PANEL * 4, half, scale32(group, half), out);
}

static void group_q4(const struct weight *w, const uint8_t *group, float *out)
{
    (void)w;
    const __m512i nibble = _mm512_set1_epi32(15);
    for (int half = 0; half < 2; half++) {
        __m512 d = scale16(group, 0, half), m = scale16(group, PANEL * 2, half);
        for (int p = 0; p < GROUP / 8; p++) {
            __m512i q = _mm512_load_si512(group + PANEL * 4 + p * PANEL * 4 + half * 64);
            /* Nibbles in order are inputs 0, 4, 1, 5, 2, 6, 3, 7 of the eight. */
            for (int i = 0; i < 8; i++, q = _mm512_srli_epi32(q, 4))
                put(out, p * 8 + i / 2 + i % 2 * 4, half,
                    _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(_mm512_and_si512(q, nibble)), m));
        }
    }
}

static void group_q4z(const struct weight *w, const uint8_t *group, float *out)
{
    (void)w;
    const __m512i nibble = _mm512_set1_epi32(15);
    for (int half = 0; half < 2; half++) {
        __m512 d = scale32(group, half);
        __m512i z = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(group + PANEL * 4) + half));
        for (int p = 0; p < GROUP / 8; p++) {
            __m512i q = _mm512_loadu_si512(group + PANEL * 5 + p * PANEL * 4 + half * 64);
            for (int i = 0; i < 8; i++, q = _mm512_srli_epi32(q, 4)) {
                __m512i value = _mm512_sub_epi32(_mm512_and_si512(q, nibble), z);
                put(out, p * 8 + i / 2 + i % 2 * 4, half, _mm512_mul_ps(d, _mm512_cvtepi32_ps(value)));
            }
        }
    }
}

static void group_t4(const struct weight *w, const uint8_t *group, float *out)
{
    __m512 table = _mm512_loadu_ps(w->table);
    for (int half = 0; half < 2; half++) {
        __m512 d = scale32(group, half);
        for (int p = 0; p < GROUP / 8; p++) {
            __m512i q = _mm512_load_si512(group + PANEL * 4 + p * PANEL * 4 + half * 64);
            /* Four nibbles of the even inputs, then four of the odd ones; vpermps looks at four bits of a lane. */
            for (int i = 0; i < 8; i++, q = _mm512_srli_epi32(q, 4))
                put(out, p * 8 + i % 4 * 2 + i / 4, half, _mm512_mul_ps(d, _mm512_permutexvar_ps(q, table)));
        }
    }
}

/* Codes as f16 are their bits moved, times 2^-8; f16 subnormals convert exactly. */
static void group_f8(const struct weight *w, const uint8_t *group, float *out)
{
    (void)w;
    const __m512i sign = _mm512_set1_epi32(0x8000), rest = _mm512_set1_epi32(0x3f80);
    for (int half = 0; half < 2; half++) {
        __m512 d = scale32(group, half);
        for (int p = 0; p < GROUP / 4; p++) {
            __m512i q = _mm512_load_si512(group + PANEL * 4 + p * PANEL * 4 + half * 64);
            for (int i = 0; i < 4; i++, q = _mm512_srli_epi32(q, 8)) {
                __m512i h = _mm512_or_si512(_mm512_and_si512(_mm512_slli_epi32(q, 8), sign),
                                            _mm512_and_si512(_mm512_slli_epi32(q, 7), rest));
                __m512 value = _mm512_mul_ps(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(h)), _mm512_set1_ps(256));
                put(out, p * 4 + i % 2 * 2 + i / 2, half, _mm512_mul_ps(d, value));
            }
        }
    }
}

static void group_q2(const struct weight *w, const uint8_t *group, float *out)
{
    (void)w;
    const __m512i two_bits = _mm512_set1_epi32(3);
    for (int half = 0; half < 2; half++) {
        __m512 d = scale16(group, 0, half), m = scale16(group, PANEL * 2, half);
        for (int p = 0; p < GROUP / 16; p++) {
            __m512i q = _mm512_load_si512(group + PANEL * 4 + p * PANEL * 4 + half * 64);
            /* Byte i, then bits 2j: input 4j + i. */
            for (int i = 0; i < 16; i++, q = _mm512_srli_epi32(q, 2))
                put(out, p * 16 + i % 4 * 4 + i / 4, half,
                    _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(_mm512_and_si512(q, two_bits)), m));
        }
    }
}

const struct dequant_avx512 dequant_avx512[LAYOUTS] = {
    [LAYOUT_Q8] = {Q8_GROUP_BYTES, group_q8},    [LAYOUT_Q4] = {Q4_GROUP_BYTES, group_q4},
    [LAYOUT_Q8F] = {Q8F_GROUP_BYTES, group_q8f}, [LAYOUT_Q4Z] = {Q4Z_GROUP_BYTES, group_q4z},
    [LAYOUT_T4] = {T4_GROUP_BYTES, group_t4},    [LAYOUT_F8] = {F8_GROUP_BYTES, group_f8},
    [LAYOUT_Q2] = {Q2_GROUP_BYTES, group_q2},    [LAYOUT_S24] = {2 * S24_UNIT_BYTES, group_s24},
};
