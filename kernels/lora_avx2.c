/* Adapters: shrink and expand (lora.h has the layouts).
 *
 * Shrink: dot products along k of up to 4 rows of A with up to 2 rows of activations, 8 sums of 8 lanes; their lanes are
 * folded in one fixed order, whatever the tile: l and l+4, l+2, l+1. bf16 come in pairs: a shift and a mask of a load
 * are the even and the odd inputs as float32, of A as of x, so nothing has to be brought in order.
 * Expand: per rank 16 of the 32 outputs and up to 4 rows' v: float32 FMA, in the order of the ranks. The 16 are 8h .. and
 * 16 + 8h .., which is how lora_b_index() lays bf16: again a shift and a mask. */
#include "kernels/avx2.h"
#include "kernels/vector_avx2.h"

#define RANKS 4
#define ROWS 2
#define TILE 4 /* rows of the expand */

/* Four folds at once, transposed: the same additions in the same order as fold(). */
INLINE __m128 fold_four(const __m256 s[RANKS])
{
    __m128 q0 = fold4(s[0]), q1 = fold4(s[1]), q2 = fold4(s[2]), q3 = fold4(s[3]);
    _MM_TRANSPOSE4_PS(q0, q1, q2, q3);
    return _mm_add_ps(_mm_add_ps(q0, q2), _mm_add_ps(q1, q3));
}

/* sum[r][j] += A[j] . x[r] over all of k; A[j] at j * k, x[r] at r * k. */
typedef void dots_fn(const void *a, const void *x, int k, const int J, const int R, __m256 sum[ROWS][RANKS]);

/* k is even, as a bf16 panel's is. */
INLINE void dots_bf16(const void *a0, const void *x0, int k, const int J, const int R, __m256 sum[ROWS][RANKS])
{
    const uint16_t *a = a0, *x = x0;
    for (int i = 0; i < k; i += 16) {
        __m256i tail = lanes8((k - i) / 2);
        __m256 even[ROWS], odd[ROWS];
#pragma GCC unroll 2
        for (int r = 0; r < R; r++) {
            __m256i pairs = _mm256_maskload_epi32((const int *)(x + (size_t)r * (size_t)k + i), tail);
            even[r] = first_bf16(pairs), odd[r] = second_bf16(pairs);
        }
#pragma GCC unroll 4
        for (int j = 0; j < J; j++) {
            __m256i pairs = _mm256_maskload_epi32((const int *)(a + (size_t)j * (size_t)k + i), tail);
#pragma GCC unroll 2
            for (int r = 0; r < R; r++) {
                sum[r][j] = _mm256_fmadd_ps(first_bf16(pairs), even[r], sum[r][j]);
                sum[r][j] = _mm256_fmadd_ps(second_bf16(pairs), odd[r], sum[r][j]);
            }
        }
    }
}

INLINE void dots_f32(const void *a0, const void *x0, int k, const int J, const int R, __m256 sum[ROWS][RANKS])
{
    const float *a = a0, *x = x0;
    for (int i = 0; i < k; i += 8) {
        __m256i tail = lanes8(k - i);
        __m256 v[ROWS];
#pragma GCC unroll 2
        for (int r = 0; r < R; r++) v[r] = _mm256_maskload_ps(x + (size_t)r * (size_t)k + i, tail);
#pragma GCC unroll 4
        for (int j = 0; j < J; j++) {
            __m256 w = _mm256_maskload_ps(a + (size_t)j * (size_t)k + i, tail);
#pragma GCC unroll 2
            for (int r = 0; r < R; r++) sum[r][j] = _mm256_fmadd_ps(w, v[r], sum[r][j]);
        }
    }
}

/* v[r][j] = scale * fold, v rows ld apart. */
INLINE void tile(dots_fn *dots, const void *a, const void *x, int k, const int J, const int R, float scale, float *v,
                 int ld)
{
    __m256 sum[ROWS][RANKS];
#pragma GCC unroll 2
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int j = 0; j < J; j++) sum[r][j] = _mm256_setzero_ps();
    dots(a, x, k, J, R, sum);
#pragma GCC unroll 2
    for (int r = 0; r < R; r++, v += ld) {
        if (J == RANKS)
            _mm_storeu_ps(v, _mm_mul_ps(_mm_set1_ps(scale), fold_four(sum[r])));
        else
            for (int j = 0; j < J; j++) v[j] = scale * fold(sum[r][j]);
    }
}

/* J ranks and all rows: the rows of A stay in the cache. */
INLINE void tiles(dots_fn *dots, size_t element, const void *a, const char *x, int k, const int J, int rows,
                  float scale, float *v, int ld)
{
    int r = 0;
    for (; r + ROWS <= rows; r += ROWS, x += (size_t)ROWS * (size_t)k * element, v += (size_t)ROWS * (size_t)ld)
        tile(dots, a, x, k, J, ROWS, scale, v, ld);
    if (r < rows) tile(dots, a, x, k, J, 1, scale, v, ld);
}

INLINE void shrink(dots_fn *dots, size_t element, const struct lora_mod *mod, const char *x, int k, int rows, int r0,
                   int r1, float *v, int ld)
{
    for (int j = r0; j < r1;) {
        const char *a = (const char *)mod->a + (size_t)j * (size_t)k * element;
        int step = r1 - j >= 4 ? 4 : r1 - j >= 2 ? 2 : 1;
        if (step == 4)
            tiles(dots, element, a, x, k, 4, rows, mod->scale, v + j, ld);
        else if (step == 2)
            tiles(dots, element, a, x, k, 2, rows, mod->scale, v + j, ld);
        else
            tiles(dots, element, a, x, k, 1, rows, mod->scale, v + j, ld);
        j += step;
    }
}

void lora_shrink_bf16_avx2(const struct lora_mod *mod, const struct act *in, int k, int row0, int rows, int r0, int r1,
                           float *v, int ld)
{
    shrink(dots_bf16, 2, mod, (const char *)(in->bf16 + (size_t)row0 * (size_t)k), k, rows, r0, r1,
           v + (size_t)row0 * (size_t)ld, ld);
}

void lora_shrink_f32_avx2(const struct lora_mod *mod, const struct act *in, int k, int row0, int rows, int r0, int r1,
                          float *v, int ld)
{
    shrink(dots_f32, 4, mod, (const char *)(in->x + (size_t)row0 * (size_t)k), k, rows, r0, r1,
           v + (size_t)row0 * (size_t)ld, ld);
}

/* Outputs 8h .. and 16 + 8h .. of a rank's line. */
INLINE void load_b(const char *b, const bool bf16, int h, __m256 out[2])
{
    if (bf16) {
        __m256i pairs = load_bits(b + h * 32);
        out[0] = first_bf16(pairs), out[1] = second_bf16(pairs);
    } else {
        out[0] = _mm256_load_ps((const float *)b + h * 8);
        out[1] = _mm256_load_ps((const float *)b + 16 + h * 8);
    }
}

INLINE void add(const char *b, const bool bf16, int ranks, const float *v, int ld, const int R, int h, float *acc)
{
    __m256 y[TILE][2], w[2];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
        for (int s = 0; s < 2; s++) y[r][s] = _mm256_load_ps(acc + r * PANEL + s * 16 + h * 8);
    for (int j = 0; j < ranks; j++, b += bf16 ? PANEL * 2 : PANEL * 4) {
        load_b(b, bf16, h, w);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            __m256 s = _mm256_broadcast_ss(v + (size_t)r * (size_t)ld + j);
            y[r][0] = _mm256_fmadd_ps(s, w[0], y[r][0]);
            y[r][1] = _mm256_fmadd_ps(s, w[1], y[r][1]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
        for (int s = 0; s < 2; s++) _mm256_store_ps(acc + r * PANEL + s * 16 + h * 8, y[r][s]);
}

INLINE void expand(const struct lora_mod *mod, const bool bf16, int panel, const float *v, int ld, int rows, float *acc)
{
    const char *b = (const char *)mod->b + (size_t)panel * (size_t)mod->r * PANEL * (bf16 ? 2 : 4);
    for (int r = 0; r < rows; r += TILE, v += (size_t)TILE * (size_t)ld, acc += TILE * PANEL)
        for (int h = 0; h < 2; h++) {
            switch (rows - r) {
            case 1:
                add(b, bf16, mod->r, v, ld, 1, h, acc);
                break;
            case 2:
                add(b, bf16, mod->r, v, ld, 2, h, acc);
                break;
            case 3:
                add(b, bf16, mod->r, v, ld, 3, h, acc);
                break;
            default:
                add(b, bf16, mod->r, v, ld, 4, h, acc);
            }
        }
}

void lora_expand_bf16_avx2(const struct lora_mod *mod, int panel, const float *v, int ld, int rows, float *acc)
{
    expand(mod, true, panel, v, ld, rows, acc);
}

void lora_expand_f32_avx2(const struct lora_mod *mod, int panel, const float *v, int ld, int rows, float *acc)
{
    expand(mod, false, panel, v, ld, rows, acc);
}
