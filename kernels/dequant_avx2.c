/* Panels' groups back to float32 (LAYOUT_Q8 and later), 32 inputs x 32 outputs at a time, to the last bit what
 * weight_row() gives: for the exact products. A vector is 8 outputs; v counts the four of a panel. */
#include "kernels/avx2.h"
#include "kernels/pack.h"
#include "kernels/vector_avx2.h"

/* out[32 inputs][32 outputs]: 8 outputs of input i. */
INLINE void put(float *out, int i, int v, __m256 value)
{
    _mm256_store_ps(out + i * PANEL + v * 8, value);
}

/* 8 scales: f16 after `at` bytes, float32 at the group's head. */
INLINE __m256 scale16(const uint8_t *group, int at, int v)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(group + at) + v));
}

INLINE __m256 scale32(const uint8_t *group, int v)
{
    return _mm256_loadu_ps((const float *)group + v * 8);
}

/* Byte i of each lane as float32. */
INLINE __m256 byte_of(__m256i lanes, int i)
{
    const __m256i first = _mm256_setr_epi8(0, -1, -1, -1, 4, -1, -1, -1, 8, -1, -1, -1, 12, -1, -1, -1, 0, -1, -1, -1,
                                           4, -1, -1, -1, 8, -1, -1, -1, 12, -1, -1, -1);
    return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(lanes, _mm256_add_epi8(first, _mm256_set1_epi32(i))));
}

/* Bytes less 128, times d. */
INLINE void bytes128(const uint8_t *q, int v, __m256 d, float *out)
{
    for (int p = 0; p < GROUP / 4; p++) {
        __m256i lanes = load_bits(q + p * PANEL * 4 + v * 32);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            put(out, p * 4 + i, v, _mm256_mul_ps(d, _mm256_sub_ps(byte_of(lanes, i), _mm256_set1_ps(128))));
    }
}

static void group_q8(const struct weight *w, const uint8_t *group, float *out)
{
    (void)w;
    for (int v = 0; v < 4; v++) bytes128(group + PANEL * 2, v, scale16(group, 0, v), out);
}

static void group_q8f(const struct weight *w, const uint8_t *group, float *out)
{
    (void)w;
    for (int v = 0; v < 4; v++) bytes128(group + PANEL * 4, v, scale32(group, v), out);
}

static void group_q4(const struct weight *w, const uint8_t *group, float *out)
{
    (void)w;
    const __m256i nibble = _mm256_set1_epi8(15);
    for (int v = 0; v < 4; v++) {
        __m256 d = scale16(group, 0, v), m = scale16(group, PANEL * 2, v);
        for (int p = 0; p < GROUP / 8; p++) {
            __m256i q = load_bits(group + PANEL * 4 + p * PANEL * 4 + v * 32);
            __m256i low = _mm256_and_si256(q, nibble), high = _mm256_and_si256(_mm256_srli_epi16(q, 4), nibble);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                put(out, p * 8 + i, v, _mm256_fmadd_ps(d, byte_of(low, i), m));
                put(out, p * 8 + 4 + i, v, _mm256_fmadd_ps(d, byte_of(high, i), m));
            }
        }
    }
}

static void group_q4z(const struct weight *w, const uint8_t *group, float *out)
{
    (void)w;
    const __m256i nibble = _mm256_set1_epi8(15);
    for (int v = 0; v < 4; v++) {
        __m256 d = scale32(group, v);
        __m256i zero = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(group + PANEL * 4 + v * 8)));
        __m256 z = _mm256_cvtepi32_ps(zero);
        for (int p = 0; p < GROUP / 8; p++) {
            __m256i q = load_bits(group + PANEL * 5 + p * PANEL * 4 + v * 32);
            __m256i low = _mm256_and_si256(q, nibble), high = _mm256_and_si256(_mm256_srli_epi16(q, 4), nibble);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                put(out, p * 8 + i, v, _mm256_mul_ps(d, _mm256_sub_ps(byte_of(low, i), z)));
                put(out, p * 8 + 4 + i, v, _mm256_mul_ps(d, _mm256_sub_ps(byte_of(high, i), z)));
            }
        }
    }
}

static void group_t4(const struct weight *w, const uint8_t *group, float *out)
{
    __m256 first = _mm256_loadu_ps(w->table), second = _mm256_loadu_ps(w->table + 8);
    for (int v = 0; v < 4; v++) {
        __m256 d = scale32(group, v);
        for (int p = 0; p < GROUP / 8; p++) {
            __m256i q = load_bits(group + PANEL * 4 + p * PANEL * 4 + v * 32);
            /* Four nibbles of the even inputs, then four of the odd ones. vpermps looks at three bits of a lane; the
             * fourth, moved to the sign, chooses between the halves of the table. */
            for (int i = 0; i < 8; i++, q = _mm256_srli_epi32(q, 4)) {
                __m256 side = _mm256_castsi256_ps(_mm256_slli_epi32(q, 28));
                __m256 value =
                    _mm256_blendv_ps(_mm256_permutevar8x32_ps(first, q), _mm256_permutevar8x32_ps(second, q), side);
                put(out, p * 8 + i % 4 * 2 + i / 4, v, _mm256_mul_ps(d, value));
            }
        }
    }
}

/* Bytes are inputs 0, 2, 1, 3 of the four. */
static void group_f8(const struct weight *w, const uint8_t *group, float *out)
{
    (void)w;
    for (int v = 0; v < 4; v++) {
        __m256 d = scale32(group, v);
        for (int p = 0; p < GROUP / 4; p++) {
            __m256i even, odd;
            e4m3_pairs(load_bits(group + PANEL * 4 + p * PANEL * 4 + v * 32), &even, &odd);
            put(out, p * 4, v, _mm256_mul_ps(d, first_bf16(even)));
            put(out, p * 4 + 1, v, _mm256_mul_ps(d, second_bf16(even)));
            put(out, p * 4 + 2, v, _mm256_mul_ps(d, first_bf16(odd)));
            put(out, p * 4 + 3, v, _mm256_mul_ps(d, second_bf16(odd)));
        }
    }
}

static void group_q2(const struct weight *w, const uint8_t *group, float *out)
{
    (void)w;
    const __m256i two_bits = _mm256_set1_epi8(3);
    for (int v = 0; v < 4; v++) {
        __m256 d = scale16(group, 0, v), m = scale16(group, PANEL * 2, v);
        for (int p = 0; p < GROUP / 16; p++) {
            __m256i q = load_bits(group + PANEL * 4 + p * PANEL * 4 + v * 32);
            /* Bits 2j of byte i: input 4j + i. */
            for (int j = 0; j < 4; j++, q = _mm256_srli_epi16(q, 2)) {
                __m256i codes = _mm256_and_si256(q, two_bits);
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) put(out, p * 16 + j * 4 + i, v, _mm256_fmadd_ps(d, byte_of(codes, i), m));
            }
        }
    }
}

const struct dequant_avx2 dequant_avx2[LAYOUTS] = {
    [LAYOUT_Q8] = {Q8_GROUP_BYTES, group_q8},    [LAYOUT_Q4] = {Q4_GROUP_BYTES, group_q4},
    [LAYOUT_Q8F] = {Q8F_GROUP_BYTES, group_q8f}, [LAYOUT_Q4Z] = {Q4Z_GROUP_BYTES, group_q4z},
    [LAYOUT_T4] = {T4_GROUP_BYTES, group_t4},    [LAYOUT_F8] = {F8_GROUP_BYTES, group_f8},
    [LAYOUT_Q2] = {Q2_GROUP_BYTES, group_q2},    [LAYOUT_S24] = {2 * S24_UNIT_BYTES, group_s24},
};
