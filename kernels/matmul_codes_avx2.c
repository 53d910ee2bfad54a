/* Panels of codes that stand for bf16 values times bf16 rows (LAYOUT_T4, LAYOUT_F8, FAST).
 *
 * Per group of 32 inputs each row has a sum of its own in the order of k, which starts at zero; then
 * y += (d * factor) * sum. A group is decoded into a buffer of 4 KB float32, [32][32], and multiplied with all rows of
 * the item, which were widened before (matmul_tile_avx2.h). Values times bf16 are exact in float32, so a group's sum has
 * the plain one's bits. Bytes per output and group: 20 and 36. */
#include "kernels/avx2.h"
#include "kernels/matmul_tile_avx2.h"
#include "kernels/pack.h"
#include <string.h>

struct buffers {
    float x[BLOCK_ROWS][PART];
    float group[GROUP][PANEL];
    float scale[PANEL];
};

_Static_assert(sizeof(struct buffers) <= KERNEL_SCRATCH, "the buffers fit the scratch memory");

typedef void decode_fn(const struct weight *w, const uint8_t *codes, float *out);

/* What the codes of bytes (in any lanes) are: the upper and the lower halves of a table of sixteen bf16. */
struct halves {
    __m256i upper, lower;
};

static struct halves halves_of(const uint16_t table[16])
{
    const __m128i low_bytes = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m128i high_bytes = _mm_setr_epi8(1, 3, 5, 7, 9, 11, 13, 15, -1, -1, -1, -1, -1, -1, -1, -1);
    __m128i a = _mm_loadu_si128((const __m128i *)table), b = _mm_loadu_si128((const __m128i *)(table + 8));
    __m128i lower = _mm_unpacklo_epi64(_mm_shuffle_epi8(a, low_bytes), _mm_shuffle_epi8(b, low_bytes));
    __m128i upper = _mm_unpacklo_epi64(_mm_shuffle_epi8(a, high_bytes), _mm_shuffle_epi8(b, high_bytes));
    return (struct halves){_mm256_broadcastsi128_si256(upper), _mm256_broadcastsi128_si256(lower)};
}

/* A vector of pairs of bf16, inputs i and i+1. */
INLINE void put_pairs(__m256i pairs, int i, float *out)
{
    _mm256_store_ps(out + i * PANEL, first_bf16(pairs));
    _mm256_store_ps(out + (i + 1) * PANEL, second_bf16(pairs));
}

/* Bytes that hold a nibble each: those at even places are a pair of inputs i and i+1 of an output, those at odd places
 * inputs i+4 and i+5. */
INLINE void put_nibbles(__m256i nibbles, struct halves table, int i, float *out)
{
    __m256i even, odd;
    join_bf16(_mm256_shuffle_epi8(table.upper, nibbles), _mm256_shuffle_epi8(table.lower, nibbles), &even, &odd);
    put_pairs(even, i, out);
    put_pairs(odd, i + 4, out);
}

/* A word is one output's four nibbles of inputs 8p, 8p+2, 8p+4, 8p+6, the next word those behind them. */
static void decode_t4(const struct weight *w, const uint8_t *codes, float *out)
{
    const __m256i nibble = _mm256_set1_epi8(15);
    struct halves table = halves_of(w->coarse);
    for (int p = 0; p < GROUP / 8; p++)
        for (int v = 0; v < 4; v++) {
            __m256i q = load_bits(codes + p * PANEL * 4 + v * 32);
            put_nibbles(_mm256_and_si256(q, nibble), table, p * 8, out + v * 8);
            put_nibbles(_mm256_and_si256(_mm256_srli_epi16(q, 4), nibble), table, p * 8 + 2, out + v * 8);
        }
}

/* Bytes are inputs 0, 2, 1, 3 of the four. */
static void decode_f8(const struct weight *w, const uint8_t *codes, float *out)
{
    (void)w;
    for (int p = 0; p < GROUP / 4; p++)
        for (int v = 0; v < 4; v++) {
            __m256i even, odd;
            e4m3_pairs(load_bits(codes + p * PANEL * 4 + v * 32), &even, &odd);
            put_pairs(even, p * 4, out + v * 8);
            put_pairs(odd, p * 4 + 2, out + v * 8);
        }
}

static void scales(const uint8_t *group, float factor, float *out)
{
    for (int v = 0; v < PANEL; v += 8)
        _mm256_store_ps(out + v, _mm256_mul_ps(_mm256_load_ps((const float *)group + v), _mm256_set1_ps(factor)));
}

INLINE void panel_of_codes(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0,
                           int rows, float *acc, int group_bytes, float factor, decode_fn *decode)
{
    const uint8_t *group = (const uint8_t *)w->data + (size_t)panel * w->panel_bytes;
    const uint16_t *x = in->bf16 + (size_t)row0 * (size_t)w->k;
    struct buffers *b = t->scratch;
    memset(acc, 0, sizeof *acc * (size_t)rows * PANEL);
    for (int k0 = 0; k0 < w->k; k0 += PART) {
        int count = w->k - k0 < PART ? w->k - k0 : PART;
        widen_rows(x + k0, w->k, count, rows, b->x[0]);
        for (int i = 0; i < count; i += GROUP, group += group_bytes) {
            const struct ahead next = {(const char *)group + w->panel_bytes, (size_t)group_bytes / GROUP};
            decode(w, group + PANEL * 4, b->group[0]);
            scales(group, factor, b->scale);
            add_group(b->group[0], b->scale, b->x[0] + i, PART, next, rows, acc);
        }
    }
}

void panel_t4_avx2(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                   float *acc)
{
    panel_of_codes(t, w, panel, in, row0, rows, acc, T4_GROUP_BYTES, w->factor, decode_t4);
}

void panel_f8_avx2(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                   float *acc)
{
    panel_of_codes(t, w, panel, in, row0, rows, acc, F8_GROUP_BYTES, 1, decode_f8);
}
