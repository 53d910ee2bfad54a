/* Number formats: float16 and bfloat16 to and from float32, all by bits, so that every table agrees to the last one. */
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

/* f16 bits of -8 times the f16 value `h`, which is exact; overflow gives infinity. */
static inline uint16_t f16_times_minus_8(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) ^ 0x8000, exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    if (exponent == 31) return (uint16_t)(h ^ 0x8000);
    if (exponent == 0) { /* subnormal: shift until it is normal or three places are done */
        int shifts = 3;
        while (shifts && mantissa && mantissa < 0x400) {
            mantissa <<= 1;
            shifts--;
        }
        if (mantissa < 0x400) return (uint16_t)(sign | mantissa);
        return (uint16_t)(sign | (uint32_t)(1 + shifts) << 10 | (mantissa & 0x3ff));
    }
    exponent += 3;
    return (uint16_t)(exponent >= 31 ? sign | 0x7c00 : sign | exponent << 10 | mantissa);
}
