/* Number formats: float16, bfloat16 and e4m3 to and from float32, all by bits, so that every table agrees to the last
 * one. */
#pragma once
#include <stdint.h>
#include <string.h>

static inline float f32_of_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t bits_of_f32(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline float f32_of_bf16(uint16_t h)
{
    return f32_of_bits((uint32_t)h << 16);
}

/* Rounds to nearest even; a NaN stays one. */
static inline uint16_t bf16_of_f32(float f)
{
    uint32_t b = bits_of_f32(f);
    if ((b & 0x7fffffff) > 0x7f800000) return (uint16_t)(b >> 16 | 0x40);
    return (uint16_t)((b + 0x7fff + (b >> 16 & 1)) >> 16);
}

static inline float f32_of_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    if (exponent == 31) return f32_of_bits(sign | 0x7f800000 | mantissa << 13);
    if (exponent) return f32_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    float f = (float)mantissa * 0x1p-24f; /* subnormal: exact */
    return sign ? -f : f;
}

/* Rounds to nearest even, beyond the range to infinity; a NaN stays one. */
static inline uint16_t f16_of_f32(float f)
{
    uint32_t b = bits_of_f32(f), sign = b >> 16 & 0x8000, magnitude = b & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* 65520 and more */
    if (magnitude < 0x38800000)                                    /* subnormal: the sum's last place is 2^-24 */
        return (uint16_t)(sign | (bits_of_f32(f32_of_bits(magnitude) + 0.5f) - 0x3f000000));
    return (uint16_t)(sign | ((magnitude + 0xfff + (magnitude >> 13 & 1)) - 0x38000000) >> 13);
}

/* FP8 E4M3 of the OCP specification: no infinities; 0x7f and 0xff are NaN. */
static inline float f32_of_e4m3(uint8_t code)
{
    float f =
        f32_of_f16((uint16_t)((code & 0x80) << 8 | (code & 0x7f) << 7)) * 256; /* f16 has the same fields, wider */
    return (code & 0x7f) == 0x7f ? f32_of_bits(0x7fc00000) : f;
}

/* Rounds to nearest even, beyond 448 to 448. */
static inline uint8_t e4m3_of_f32(float f)
{
    uint32_t b = bits_of_f32(f), magnitude = b & 0x7fffffff, code;
    if (magnitude >= 0x43e00000) /* 448 */
        code = 0x7e;
    else if (magnitude < 0x3c800000) /* 2^-6: subnormal, the sum's last place is 2^-9 */
        code = bits_of_f32(f32_of_bits(magnitude) + 0x1p14f) - bits_of_f32(0x1p14f);
    else
        code = ((magnitude + 0x7ffff + (magnitude >> 20 & 1)) - (120u << 23)) >> 20;
    return (uint8_t)((b >> 24 & 0x80) | code);
}
