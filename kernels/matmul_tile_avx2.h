/* Private to kernels/: the tile of all products with float32 panels, which is where every layout but the integer ones
 * ends up: [count][32] float32 of a panel against rows of float32.
 *
 * Sixteen registers hold 12 sums, so a tile is 32 outputs x up to 3 rows, where a load of weights serves three rows, or
 * 16 outputs x up to 6, where a broadcast serves two: 7 and 8 loads for 12 FMAs. Rows are cut into tiles
 * so that none has few sums, which could not hide an FMA's latency: 8 rows are 5 + 3, with 10 and 12 of them, and not
 * 4 + 4 with 8. Each sum is one FMA per weight in the order of k, whatever the tile.
 *
 * The panel after this one is brought in line by line while the first tile is multiplied. All at once before it, the
 * lines of 16 KB fill the queue of misses, and the loads that follow wait for them: half the time at 8 rows of bf16. */
#pragma once
#include "kernels/vector_avx2.h"
#include "kernels/weight.h"

#define TILE_ROWS 6
#define PART 128 /* inputs in float32 at a time, 16 KB of a panel; a multiple of GROUP */

/* What to prefetch for each input: the bytes from p + input * step on. */
struct ahead {
    const char *p;
    size_t step;
};

/* V vectors of 8 outputs x R rows, x[r] at r * ld: acc += sum over count, or, where a scale of the outputs is given,
 * acc += scale * (that sum from zero). */
INLINE void tile(const float *part, const float *x, int ld, int count, const float *scale, struct ahead next,
                 const int R, const int V, float *acc)
{
    __m256 y[TILE_ROWS][4], w[4], a[TILE_ROWS];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) y[r][v] = scale ? _mm256_setzero_ps() : _mm256_load_ps(acc + r * PANEL + v * 8);
    for (int i = 0; i < count; i++, part += PANEL, x++, next.p += next.step) {
        _mm_prefetch(next.p, _MM_HINT_T1);
        if (V == 4) { /* a broadcast of each row, then weights one by one */
#pragma GCC unroll 6
            for (int r = 0; r < R; r++) a[r] = _mm256_broadcast_ss(x + (size_t)r * (size_t)ld);
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) {
                w[v] = _mm256_load_ps(part + v * 8);
#pragma GCC unroll 6
                for (int r = 0; r < R; r++) y[r][v] = _mm256_fmadd_ps(w[v], a[r], y[r][v]);
            }
        } else {
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) w[v] = _mm256_load_ps(part + v * 8);
#pragma GCC unroll 6
            for (int r = 0; r < R; r++) {
                a[r] = _mm256_broadcast_ss(x + (size_t)r * (size_t)ld);
#pragma GCC unroll 4
                for (int v = 0; v < V; v++) y[r][v] = _mm256_fmadd_ps(w[v], a[r], y[r][v]);
            }
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) {
            float *to = acc + r * PANEL + v * 8;
            if (scale) y[r][v] = _mm256_fmadd_ps(_mm256_load_ps(scale + v * 8), y[r][v], _mm256_load_ps(to));
            _mm256_store_ps(to, y[r][v]);
        }
}

INLINE void tile_halves(const float *part, const float *x, int ld, int count, const float *scale, struct ahead next,
                        const int R, float *acc)
{
    tile(part, x, ld, count, scale, next, R, 2, acc);
    next.p += 64; /* of float32 panels, which have two lines an input, the other one */
    tile(part + 16, x, ld, count, scale ? scale + 16 : NULL, next, R, 2, acc + 16);
}

INLINE void tile_of(const float *part, const float *x, int ld, int count, const float *scale, struct ahead next,
                    int rows, float *acc)
{
    switch (rows) {
    case 1:
        tile(part, x, ld, count, scale, next, 1, 4, acc);
        break;
    case 2:
        tile(part, x, ld, count, scale, next, 2, 4, acc);
        break;
    case 3:
        tile(part, x, ld, count, scale, next, 3, 4, acc);
        break;
    case 4:
        tile_halves(part, x, ld, count, scale, next, 4, acc);
        break;
    case 5:
        tile_halves(part, x, ld, count, scale, next, 5, acc);
        break;
    default:
        tile_halves(part, x, ld, count, scale, next, 6, acc);
    }
}

INLINE void tiles(const float *part, const float *x, int ld, int count, const float *scale, struct ahead next, int rows,
                  float *acc)
{
    static const int first[] = {0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 5}; /* the next tile of so many rows */
    for (int n; rows > 0; rows -= n) {
        n = rows <= 10 ? first[rows] : TILE_ROWS;
        tile_of(part, x, ld, count, scale, next, n, acc);
        x += (size_t)n * (size_t)ld, acc += n * PANEL;
        next = (struct ahead){(const char *)part, 0}; /* nothing more to bring in */
    }
}

/* acc[rows][32] += x[rows][0..count) part. */
static inline void add_part(const float *part, const float *x, int ld, int count, struct ahead next, int rows,
                            float *acc)
{
    tiles(part, x, ld, count, NULL, next, rows, acc);
}

/* acc[rows][32] += scale[32] * (x[rows][0..GROUP) part). */
static inline void add_group(const float *part, const float *scale, const float *x, int ld, struct ahead next, int rows,
                             float *acc)
{
    tiles(part, x, ld, GROUP, scale, next, rows, acc);
}

/* count (at most PART) bf16 of each row, stride k, as float32 with stride PART. */
static inline void widen_rows(const uint16_t *x, int k, int count, int rows, float *out)
{
    for (int r = 0; r < rows; r++, x += k, out += PART) {
        int i = 0;
        for (; i + 8 <= count; i += 8) {
            __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(x + i)));
            _mm256_store_ps(out + i, first_bf16(bits));
        }
        for (; i < count; i++) out[i] = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128((int)((uint32_t)x[i] << 16))));
    }
}

/* `pairs` pairs of inputs of a bf16 panel as [2 pairs][32] float32. */
static inline void widen_panel(const char *from, int pairs, float *out)
{
    for (int i = 0; i < pairs; i++, from += PANEL * 4, out += 2 * PANEL)
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
            __m256i bits = load_bits(from + v * 32);
            _mm256_store_ps(out + v * 8, first_bf16(bits));
            _mm256_store_ps(out + PANEL + v * 8, second_bf16(bits));
        }
}
