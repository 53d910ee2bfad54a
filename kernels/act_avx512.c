/* Activations in all their forms, from memory. */
#include "kernels/act_avx512.h"
#include "kernels/avx512.h"

/* n (a constant) groups of a row, from x. */
ACT_INLINE void put_groups(const struct act *out, const int n, size_t at, const float *x)
{
    size_t to[ACT_FOUR];
    __m512 v[ACT_FOUR][2];
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) {
        to[i] = at + (size_t)(i * GROUP);
        v[i][0] = _mm512_loadu_ps(x + i * GROUP), v[i][1] = _mm512_loadu_ps(x + i * GROUP + 16);
    }
    act_put_groups(out, n, to, v);
}

void act_put_avx512(struct act *out, int row, int k, int c0, int n, const float *x)
{
    size_t at = (size_t)row * (size_t)k + (size_t)c0;
    if (k % GROUP == 0) {
        int i = 0;
        for (; i + ACT_FOUR * GROUP <= n; i += ACT_FOUR * GROUP) put_groups(out, ACT_FOUR, at + (size_t)i, x + i);
        for (; i < n; i += GROUP) put_groups(out, 1, at + (size_t)i, x + i);
        return;
    }
    for (int i = 0; i < n; i += GROUP) {
        __mmask16 m0 = lanes16(n - i), m1 = n - i > 16 ? lanes16(n - i - 16) : 0;
        __m512 x0 = _mm512_maskz_loadu_ps(m0, x + i), x1 = _mm512_maskz_loadu_ps(m1, x + i + 16);
        act_put_tail(out, at + (size_t)i, n - i, x0, x1);
    }
}
