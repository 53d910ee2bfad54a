/* Steps of attention for tests/simt/test_attention*: K, V and q are a function of (sequence, position, head,
 * dimension), so that the same row can be run alone, in a batch and in another cut; what it should be is computed in
 * float64 from the same rounded values. Pages are dealt in a random order; what a step may not read holds NaN: slots
 * behind the sequence, pages wholly before its window, other layers, the padding of rows, q's neighbours in the
 * buffer. */
#pragma once
#include "kernels/cuda/attention.h"
#include <stdbool.h>

struct attn_shape {
    const char *name;
    int heads, kv_heads, head_dim;
    int window;
    float softcap;
    bool int8;
};

/* Rows of the step: positions pos0 .. pos0+rows-1 of sequence id. */
struct attn_part {
    int id, pos0, rows;
};

#define PROBLEM_PARTS 40

struct attn_step {
    const struct attn_shape *shape;
    int parts;
    struct attn_part part[PROBLEM_PARTS];
    int rows, seqs; /* the bucket's; 0: what the parts have */
    int bad;        /* part whose q, K and V are not finite; 0: none (so never the first) */
};

/* Runs the step; -> [its rows][heads * head_dim] bf16. The rows of part i begin at first[i]. Ends the case where
 * anything else was written. */
uint16_t *attn_run(const struct attn_step *s, int first[PROBLEM_PARTS]);

/* Ends the case where the outputs are not attention, within the rounding of weights and outputs to bf16. */
void attn_compare(const struct attn_step *s, const uint16_t *out, const int first[PROBLEM_PARTS]);
