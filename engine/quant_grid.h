/* Integers with scales and zeros, however they are packed: what GPTQ, AWQ and compressed-tensors have in common. Private to quant_*.c. */
#pragma once
#include "engine/source_impl.h"

/* Codes of `bits` bits, packed one behind the other from the low end of little-endian words. Line `outer` of them begins at word
 * outer * line, and its words are `stride` apart. */
struct codes {
    const uint8_t *p; /* NULL: no such tensor */
    int bits;         /* with words of one byte: 8, and signed */
    bool bytes;       /* words are bytes, not 32 bits */
    int64_t line, stride;
};

/* An [n][k] matrix w = scale * (q - zero), in which input i belongs to group group_of[i], or i / group_size. */
struct grid {
    struct codes q, zero;
    bool q_by_input;  /* the lines of q are inputs, not rows */
    bool zero_by_row; /* the lines of zero are rows, not groups */
    bool awq_order;   /* outputs within a word lie as 0 2 4 6 1 3 5 7 */
    int zero_plus;    /* added to what zero holds, modulo 2^bits; without a tensor: the zero */
    const struct tensor *scale;
    int64_t scale_row, scale_group; /* strides */
    int group_size, groups;
    int32_t *group_of;  /* or NULL; behind the room */
    float *row_scale;   /* [2][groups]: of the row that is read */
    uint8_t *row_codes; /* [k] */
    char label[TENSOR_NAME_MAX + 512 + 16];
};

/* Make a source of *g, which is copied; group_of is taken over (malloc'ed). Chooses codes or floats. */
int grid_source(const struct module_of *m, const struct grid *g, const char *format, struct source_matrix *out,
                struct err *e);

/* Reads g_idx into g->group_of where it isn't i / group_size; refuses values that are no group. `t` NULL: fine. */
int grid_order(const struct module_of *m, const struct tensor *t, struct grid *g, struct err *e);
/* k divided by the number of groups; ERR_MODEL where it isn't a whole number, or there are none. */
int grid_groups(const struct module_of *m, int64_t groups, struct grid *g, struct err *e);
/* A tensor of that type and shape (d1 0: one dimension); NULL with ERR_MODEL. */
const struct tensor *grid_need(const struct module_of *m, const char *suffix, int dtype, int64_t d0, int64_t d1,
                               struct err *e);
#define ANY_FLOAT (-1)
