/* Panels of two of each four inputs times bf16 rows (LAYOUT_S24, FAST).
 *
 * For four inputs of eight outputs there are 16 values and a mask of 32 bits: vpexpandw puts the values where their inputs are, a vector of
 * eight times four, which vdpbf16ps multiplies with the row's four inputs, broadcast. An output's sum so has two halves, of the inputs 4i, 4i+1
 * and of 4i+2, 4i+3, each in the order of i; they are added at the end. That is the order for any number of rows: batch invariance.
 *
 * Bytes per output: 1.125 k, 9/16 of bf16. Up to FEW rows are multiplied as the values are spread: memory is what counts, and they take two
 * thirds of bf16's time. More rows take tiles of FEW, which spread the same values again: slower than bf16. Beyond ONCE rows the panel is spread
 * once into the thread's scratch (64 k bytes), which tiles of up to TILE rows read: three quarters of bf16's rate (docs/PRUNING.md).
 *
 * vpexpandw waits for its destination's old contents even where it clears them; spread() clears it first by an instruction of its own, without
 * which one row takes 1.5 times as long.
 *
 * The table may run where AVX512_VBMI2 is missing (Cooper Lake): plain C then. */
#include "kernels/avx512.h"
#include "kernels/pack.h"
#include "kernels/vector.h"
#include <string.h>

#define FEW 4 /* rows of a tile that spreads as it goes */
#define ONCE 48
#define TILE 6
#define AHEAD (4 * S24_UNIT_BYTES)
#define SPREAD 256 /* bytes of four inputs of a panel */

#define VBMI2 __attribute__((target("avx512vbmi2")))
#define INLINE static inline __attribute__((always_inline)) VBMI2

INLINE __m512i spread(const char *unit, int in, int part)
{
    uint32_t mask;
    __m512i none = _mm512_setzero_si512();
    memcpy(&mask, unit + in * 16 + part * 4, sizeof mask);
    __asm__("" : "+v"(none)); /* or gcc takes the form that clears */
    __m256i value = _mm256_load_si256((const __m256i *)(const void *)(unit + S24_MASKS + in * PANEL * 4 + part * 32));
    return _mm512_mask_expand_epi16(none, _cvtu32_mask32(mask), _mm512_castsi256_si512(value));
}

INLINE __m512bh four(const uint16_t *p)
{
    int64_t inputs;
    memcpy(&inputs, p, sizeof inputs);
    return (__m512bh)_mm512_set1_epi64(inputs);
}

/* Both halves of each output's sum, added: 8 floats. */
INLINE void store_sums(float *acc, __m512 y)
{
    __m512 odd = _mm512_castsi512_ps(_mm512_srli_epi64(_mm512_castps_si512(y), 32));
    __m512i sum = _mm512_castps_si512(_mm512_add_ps(y, odd));
    _mm256_store_ps(acc, _mm256_castsi256_ps(_mm512_cvtepi64_epi32(sum)));
}

/* R rows: x[r] at r * k, acc [R][32]. `packed`: w is the panel as it is stored, else spread already. */
INLINE void tile(const char *w, const bool packed, const uint16_t *x, int k, const int R, float *acc)
{
    __m512 y[TILE][4];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int p = 0; p < 4; p++) y[r][p] = _mm512_setzero_ps();
    for (int u = 0; u < k; u += S24_UNIT, w += packed ? S24_UNIT_BYTES : 4 * SPREAD, x += S24_UNIT) {
#pragma GCC unroll 9
        for (int line = 0; packed && line < S24_UNIT_BYTES; line += 64) prefetch_l1(w + AHEAD + line);
#pragma GCC unroll 4
        for (int in = 0; in < 4; in++) {
            __m512bh a[TILE];
#pragma GCC unroll 6
            for (int r = 0; r < R; r++) a[r] = four(x + (size_t)r * (size_t)k + in * 4);
#pragma GCC unroll 4
            for (int p = 0; p < 4; p++) {
                __m512bh v = (__m512bh)(packed ? spread(w, in, p) : _mm512_load_si512(w + in * SPREAD + p * 64));
#pragma GCC unroll 6
                for (int r = 0; r < R; r++) y[r][p] = _mm512_dpbf16_ps(y[r][p], v, a[r]);
            }
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int p = 0; p < 4; p++) store_sums(acc + r * PANEL + p * 8, y[r][p]);
}

VBMI2 static void few(const char *w, const uint16_t *x, int k, int rows, float *acc)
{
    switch (rows) {
    case 1:
        tile(w, true, x, k, 1, acc);
        break;
    case 2:
        tile(w, true, x, k, 2, acc);
        break;
    case 3:
        tile(w, true, x, k, 3, acc);
        break;
    default:
        tile(w, true, x, k, 4, acc);
    }
}

VBMI2 static void many(const char *w, const uint16_t *x, int k, int rows, float *acc)
{
    switch (rows) {
    case 1:
        tile(w, false, x, k, 1, acc);
        break;
    case 2:
        tile(w, false, x, k, 2, acc);
        break;
    case 3:
        tile(w, false, x, k, 3, acc);
        break;
    case 4:
        tile(w, false, x, k, 4, acc);
        break;
    case 5:
        tile(w, false, x, k, 5, acc);
        break;
    default:
        tile(w, false, x, k, 6, acc);
    }
}

VBMI2 static void spread_panel(const char *w, int k, char *out)
{
    for (int i = 0; i < k; i += 4)
        for (int p = 0; p < 4; p++)
            _mm512_store_si512(out + (size_t)(i / 4) * SPREAD + p * 64,
                               spread(w + (size_t)(i / S24_UNIT) * S24_UNIT_BYTES, i % S24_UNIT / 4, p));
}

void panel_s24_avx512(struct kthread *t, const struct weight *w, int panel, const struct act *in, int row0, int rows,
                      float *acc)
{
    if (!__builtin_cpu_supports("avx512vbmi2")) {
        panel_fast_bf16(t, w, panel, in, row0, rows, acc);
        return;
    }
    const char *data = (const char *)w->data + (size_t)panel * w->panel_bytes;
    const uint16_t *x = in->bf16 + (size_t)row0 * (size_t)w->k;
    bool once = rows > ONCE && (size_t)w->k / 4 * SPREAD <= KERNEL_SCRATCH;
    if (once) spread_panel(data, w->k, t->scratch);
    int most = once ? TILE : FEW, tiles = (rows + most - 1) / most;
    for (int n; tiles; tiles--, rows -= n, acc += n * PANEL, x += (size_t)n * (size_t)w->k) {
        n = (rows + tiles - 1) / tiles;
        if (once)
            many(t->scratch, x, w->k, n, acc);
        else
            few(data, x, w->k, n, acc);
    }
}
