/* Values that look random, made where they are wanted: matrices of models without a file (tests/gpu). */
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Element (row, i) of n rows, ld apart, becomes bf16(scale u), u = fill_value(stream, row k + i) in [-1, 1); columns from
 * k on become 0. k and ld are multiples of 8. */
struct op_fill {
    int n, k, ld;
    uint32_t stream;
    float scale;
    uint16_t *out;
};
int launch_fill(const struct op_fill *op, void *stream);

/* 24 bits of a mixed counter; tests/gpu/static_batch.py computes the same. */
#define FILL_MIX(h) ((h) ^= (h) >> 16, (h) *= 0x7feb352du, (h) ^= (h) >> 15, (h) *= 0x846ca68bu, (h) ^= (h) >> 16)

#ifdef __cplusplus
}
#endif
