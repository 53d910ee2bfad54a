/* What the machine itself can do, measured in the same run as the kernels: reading memory and multiplying from
 * registers. */
#pragma once
#include <immintrin.h>
#include <stddef.h>

#define PROBE_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16"), noinline))

/* Reads `bytes` (a multiple of 512). */
PROBE_TARGET static int probe_read(const char *p, size_t bytes)
{
    __m512i s[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) s[i] = _mm512_setzero_si512();
    for (size_t at = 0; at < bytes; at += 512)
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) s[i] = _mm512_or_si512(s[i], _mm512_load_si512(p + at + (size_t)i * 64));
#pragma GCC unroll 8
    for (int i = 1; i < 8; i++) s[0] = _mm512_or_si512(s[0], s[i]);
    return _mm512_reduce_or_epi32(s[0]);
}

#define PROBE_CHAINS 16

/* Each does n * PROBE_CHAINS vector operations: 16 FMA, 32 bf16 products, 64 byte products a time. */
PROBE_TARGET static float probe_fma(int n)
{
    __m512 s[PROBE_CHAINS], a = _mm512_set1_ps(0.5f);
#pragma GCC unroll 16
    for (int i = 0; i < PROBE_CHAINS; i++) s[i] = _mm512_set1_ps((float)i);
    for (int j = 0; j < n; j++)
#pragma GCC unroll 16
        for (int i = 0; i < PROBE_CHAINS; i++) {
            s[i] = _mm512_fmadd_ps(s[i], a, a);
            __asm__ volatile("" : "+v"(s[i]));
        }
#pragma GCC unroll 16
    for (int i = 1; i < PROBE_CHAINS; i++) s[0] = _mm512_add_ps(s[0], s[i]);
    return _mm512_reduce_add_ps(s[0]);
}

PROBE_TARGET static float probe_bf16(int n)
{
    __m512 s[PROBE_CHAINS];
    __m512bh a = (__m512bh)_mm512_set1_epi32(0x3f003f00);
#pragma GCC unroll 16
    for (int i = 0; i < PROBE_CHAINS; i++) s[i] = _mm512_set1_ps((float)i);
    for (int j = 0; j < n; j++)
#pragma GCC unroll 16
        for (int i = 0; i < PROBE_CHAINS; i++) {
            s[i] = _mm512_dpbf16_ps(s[i], a, a);
            __asm__ volatile("" : "+v"(s[i]));
        }
#pragma GCC unroll 16
    for (int i = 1; i < PROBE_CHAINS; i++) s[0] = _mm512_add_ps(s[0], s[i]);
    return _mm512_reduce_add_ps(s[0]);
}

PROBE_TARGET static float probe_int8(int n)
{
    __m512i s[PROBE_CHAINS], a = _mm512_set1_epi8(1);
#pragma GCC unroll 16
    for (int i = 0; i < PROBE_CHAINS; i++) s[i] = _mm512_set1_epi32(i);
    for (int j = 0; j < n; j++)
#pragma GCC unroll 16
        for (int i = 0; i < PROBE_CHAINS; i++) {
            s[i] = _mm512_dpbusd_epi32(s[i], a, a);
            __asm__ volatile("" : "+v"(s[i]));
        }
#pragma GCC unroll 16
    for (int i = 1; i < PROBE_CHAINS; i++) s[0] = _mm512_add_epi32(s[0], s[i]);
    return (float)_mm512_reduce_add_epi32(s[0]);
}
