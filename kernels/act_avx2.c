/* Activations in all their forms, bit for bit as act_put() does it. */
#include "kernels/act.h"
#include "kernels/avx2.h"
#include "kernels/convert.h"
#include "kernels/vector_avx2.h"
#include <math.h>

static void round_bf16(const float *x, int n, uint16_t *out)
{
    int i = 0;
    for (; i + 8 <= n; i += 8) _mm_storeu_si128((__m128i *)(out + i), to_bf16(_mm256_loadu_ps(x + i)));
    for (; i < n; i++) out[i] = bf16_of_f32(x[i]);
}

/* The largest magnitude's bits, which order like the magnitudes, infinities and NaN above all. */
static uint32_t most_of(const __m256 x[4])
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i most = _mm256_setzero_si256();
    for (int j = 0; j < 4; j++) most = _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(x[j]), magnitude));
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(m);
}

static int32_t sum_of(__m256i v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

static void round_group(const float *from, int8_t *to, float *scale, int32_t *sum)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); /* packing goes by halves */
    __m256 x[4];
    __m256i q[4];
    for (int j = 0; j < 4; j++) x[j] = _mm256_loadu_ps(from + j * 8);
    uint32_t bits = most_of(x);
    float most = f32_of_bits(bits);
    if (most < Q8_TINY || bits >= 0x7f800000) {
        *scale = bits >= 0x7f800000 ? NAN : 0;
        *sum = 0;
        _mm256_storeu_si256((__m256i *)to, _mm256_setzero_si256());
        return;
    }
    __m256 inverse = _mm256_set1_ps(127.0f / most);
    for (int j = 0; j < 4; j++) q[j] = _mm256_cvtps_epi32(_mm256_mul_ps(x[j], inverse));
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    _mm256_storeu_si256((__m256i *)to, _mm256_permutevar8x32_epi32(bytes, order));
    *scale = most / 127.0f;
    *sum = sum_of(_mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3])));
}

void act_put_avx2(struct act *out, int row, int k, int c0, int n, const float *x)
{
    size_t at = (size_t)row * (size_t)k + (size_t)c0;
    if (out->x) memmove(out->x + at, x, sizeof *x * (size_t)n);
    if (out->bf16) round_bf16(x, n, out->bf16 + at);
    if (!out->q8 || k % GROUP) return;
    for (int c = 0; c < n; c += GROUP) {
        size_t i = at + (size_t)c;
        round_group(x + c, out->q8 + i, out->q8_scale + i / GROUP, out->q8_sum + i / GROUP);
    }
}
