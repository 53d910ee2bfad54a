/* Passes over a row of logits, which sampling is made of; plain C and AVX-512, chosen by processor like the operations of
 * a step. Each is one thread's work on one row; a result is set by the row alone. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define LOGITS_BLOCK 256 /* weights per partial sum */

struct logits_ops {
    /* The largest of n values; *finite: none is NaN or infinite (else the result means nothing). */
    float (*most)(const float *x, int n, bool *finite);

    /* The first index of a value that is in the row. */
    int (*find)(const float *x, int n, float value);

    /* w[i] = e^((x[i] - most) inv_t), within 2 units in the last place; w may be x, or NULL: not kept. sums [n /
     * LOGITS_BLOCK, rounded up], or NULL: of each block. Returns the sum of all. Below e^-87 a weight is 0. */
    double (*weigh)(const float *x, int n, float most, float inv_t, float *w, float *sums);

    /* The indices of weights that are at least `least` and more than 0, ascending. Returns their number. */
    int (*above)(const float *w, int n, float least, int32_t *index);
};

const struct logits_ops *logits_pick(void);

extern const struct logits_ops logits_plain, logits_avx512;
