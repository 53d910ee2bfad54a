/* Adapters: shrink and expand (lora.h has the layouts).
 *
 * Shrink: dot products along k of up to 4 rows of A with up to 4 rows of activations, 16 accumulators of 32 bf16
 * products (16 in float32); their lanes are folded in one fixed order, whatever the tile: l and l+8, l+4, l+2, l+1.
 * Expand: per rank, one line of B and up to 4 rows' v: float32 FMA, in the order of the ranks. */
#include "kernels/avx512.h"
#include "kernels/vector.h"

#define TILE 4

/* Four folds at once, transposed: the same additions in the same order as fold(). */
static inline __m128 fold_four(__m512 a, __m512 b, __m512 c, __m512 d)
{
    __m128 q0 = fold4(a), q1 = fold4(b), q2 = fold4(c), q3 = fold4(d);
    _MM_TRANSPOSE4_PS(q0, q1, q2, q3);
    return _mm_add_ps(_mm_add_ps(q0, q2), _mm_add_ps(q1, q3));
}

/* sum[j][r] += A[j] . x[r] over all of k; A[j] at j * k, x[r] at r * k. */
static inline __attribute__((always_inline)) void dots_bf16(const void *a0, const void *x0, int k, const int J,
                                                            const int R, __m512 sum[TILE][TILE])
{
    const uint16_t *a = a0, *x = x0;
    for (int i = 0; i < k; i += 32) {
        __mmask32 tail = k - i >= 32 ? 0xffffffff : (1u << (k - i)) - 1;
        __m512bh w[TILE];
#pragma GCC unroll 4
        for (int j = 0; j < J; j++) w[j] = (__m512bh)_mm512_maskz_loadu_epi16(tail, a + (size_t)j * (size_t)k + i);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            __m512bh v = (__m512bh)_mm512_maskz_loadu_epi16(tail, x + (size_t)r * (size_t)k + i);
#pragma GCC unroll 4
            for (int j = 0; j < J; j++) sum[j][r] = _mm512_dpbf16_ps(sum[j][r], w[j], v);
        }
    }
}

static inline __attribute__((always_inline)) void dots_f32(const void *a0, const void *x0, int k, const int J,
                                                           const int R, __m512 sum[TILE][TILE])
{
    const float *a = a0, *x = x0;
    for (int i = 0; i < k; i += 16) {
        __mmask16 tail = (__mmask16)(k - i >= 16 ? 0xffff : (1u << (k - i)) - 1);
        __m512 w[TILE];
#pragma GCC unroll 4
        for (int j = 0; j < J; j++) w[j] = _mm512_maskz_loadu_ps(tail, a + (size_t)j * (size_t)k + i);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            __m512 v = _mm512_maskz_loadu_ps(tail, x + (size_t)r * (size_t)k + i);
#pragma GCC unroll 4
            for (int j = 0; j < J; j++) sum[j][r] = _mm512_fmadd_ps(w[j], v, sum[j][r]);
        }
    }
}

typedef void dots_fn(const void *a, const void *x, int k, const int J, const int R, __m512 sum[TILE][TILE]);

/* v[r][j] = scale * fold, v rows ld apart. */
static inline __attribute__((always_inline)) void tile(dots_fn *dots, const void *a, const void *x, int k, const int J,
                                                       const int R, float scale, float *v, int ld)
{
    __m512 sum[TILE][TILE];
#pragma GCC unroll 4
    for (int j = 0; j < J; j++)
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) sum[j][r] = _mm512_setzero_ps();
    dots(a, x, k, J, R, sum);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        float *to = v + (size_t)r * (size_t)ld;
        if (J == 4) {
            _mm_storeu_ps(to, _mm_mul_ps(_mm_set1_ps(scale), fold_four(sum[0][r], sum[1][r], sum[2][r], sum[3][r])));
        } else {
#pragma GCC unroll 4
            for (int j = 0; j < J; j++) to[j] = scale * fold(sum[j][r]);
        }
    }
}

/* One tile of J ranks and up to 4 rows. */
static inline __attribute__((always_inline)) void tile_rows(dots_fn *dots, const void *a, const void *x, int k,
                                                            const int J, int rows, float scale, float *v, int ld)
{
    switch (rows) {
    case 1:
        tile(dots, a, x, k, J, 1, scale, v, ld);
        break;
    case 2:
        tile(dots, a, x, k, J, 2, scale, v, ld);
        break;
    case 3:
        tile(dots, a, x, k, J, 3, scale, v, ld);
        break;
    default:
        tile(dots, a, x, k, J, 4, scale, v, ld);
    }
}

/* Ranks outside, rows inside: the four rows of A stay in the cache. */
static inline __attribute__((always_inline)) void shrink(dots_fn *dots, size_t element, const struct lora_mod *mod,
                                                         const char *x, int k, int rows, int r0, int r1, float *v,
                                                         int ld)
{
    for (int j = r0; j < r1;) {
        const char *a = (const char *)mod->a + (size_t)j * (size_t)k * element;
        int step = r1 - j >= 4 ? 4 : r1 - j >= 2 ? 2 : 1;
        for (int r = 0; r < rows; r += TILE) {
            const char *from = x + (size_t)r * (size_t)k * element;
            float *to = v + (size_t)r * (size_t)ld + j;
            if (step == 4)
                tile_rows(dots, a, from, k, 4, rows - r, mod->scale, to, ld);
            else if (step == 2)
                tile_rows(dots, a, from, k, 2, rows - r, mod->scale, to, ld);
            else
                tile_rows(dots, a, from, k, 1, rows - r, mod->scale, to, ld);
        }
        j += step;
    }
}

void lora_shrink_bf16_avx512(const struct lora_mod *mod, const struct act *in, int k, int row0, int rows, int r0,
                             int r1, float *v, int ld)
{
    shrink(dots_bf16, 2, mod, (const char *)(in->bf16 + (size_t)row0 * (size_t)k), k, rows, r0, r1,
           v + (size_t)row0 * (size_t)ld, ld);
}

void lora_shrink_f32_avx512(const struct lora_mod *mod, const struct act *in, int k, int row0, int rows, int r0, int r1,
                            float *v, int ld)
{
    shrink(dots_f32, 4, mod, (const char *)(in->x + (size_t)row0 * (size_t)k), k, rows, r0, r1,
           v + (size_t)row0 * (size_t)ld, ld);
}

/* A line of B: 32 outputs as two vectors. */
static inline __attribute__((always_inline)) void load_b(const char *b, bool bf16, __m512 *b0, __m512 *b1)
{
    if (bf16) {
        __m512i line = _mm512_load_si512(b);
        *b0 = _mm512_castsi512_ps(_mm512_slli_epi32(line, 16));
        *b1 = _mm512_castsi512_ps(_mm512_and_si512(line, _mm512_set1_epi32((int)0xffff0000)));
    } else {
        *b0 = _mm512_load_ps(b);
        *b1 = _mm512_load_ps(b + 64);
    }
}

static inline __attribute__((always_inline)) void add(const char *b, const bool bf16, int ranks, const float *v, int ld,
                                                      const int R, float *acc)
{
    __m512 y[TILE][2];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        y[r][0] = _mm512_load_ps(acc + r * PANEL);
        y[r][1] = _mm512_load_ps(acc + r * PANEL + 16);
    }
#pragma GCC unroll 4
    for (int j = 0; j < ranks; j++, b += bf16 ? PANEL * 2 : PANEL * 4) {
        __m512 b0, b1;
        load_b(b, bf16, &b0, &b1);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            __m512 s = _mm512_set1_ps(v[(size_t)r * (size_t)ld + j]);
            y[r][0] = _mm512_fmadd_ps(s, b0, y[r][0]);
            y[r][1] = _mm512_fmadd_ps(s, b1, y[r][1]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        _mm512_store_ps(acc + r * PANEL, y[r][0]);
        _mm512_store_ps(acc + r * PANEL + 16, y[r][1]);
    }
}

static inline __attribute__((always_inline)) void expand(const struct lora_mod *mod, const bool bf16, int panel,
                                                         const float *v, int ld, int rows, float *acc)
{
    const char *b = (const char *)mod->b + (size_t)panel * (size_t)mod->r * PANEL * (bf16 ? 2 : 4);
    for (int r = 0; r < rows; r += TILE, v += (size_t)TILE * (size_t)ld, acc += TILE * PANEL) {
        switch (rows - r) {
        case 1:
            add(b, bf16, mod->r, v, ld, 1, acc);
            break;
        case 2:
            add(b, bf16, mod->r, v, ld, 2, acc);
            break;
        case 3:
            add(b, bf16, mod->r, v, ld, 3, acc);
            break;
        default:
            add(b, bf16, mod->r, v, ld, 4, acc);
        }
    }
}

void lora_expand_bf16_avx512(const struct lora_mod *mod, int panel, const float *v, int ld, int rows, float *acc)
{
    expand(mod, true, panel, v, ld, rows, acc);
}

void lora_expand_f32_avx512(const struct lora_mod *mod, int panel, const float *v, int ld, int rows, float *acc)
{
    expand(mod, false, panel, v, ld, rows, acc);
}
