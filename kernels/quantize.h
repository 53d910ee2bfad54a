/* Quantizing a model's matrices for `weft-engine quantize`: a name of the command line stands for a layout, its table
 * and what its scales may be.
 *
 * Every group of 32 inputs is quantized by itself: 8 bits by its largest magnitude; 4 and 2 bits by a small search for
 * the range that leaves the least squared error; tables and e4m3 by the best of a few scales. What the layout cannot
 * hold exactly is rounded before the codes are chosen, so that a code is the nearest to what will be multiplied. MX
 * types: OCP Microscaling Formats (MX) Specification 1.0; NF4: Dettmers et al., QLoRA, 2023, appendix E. */
#pragma once
#include "kernels/weight.h"

struct quant_type {
    const char *name; /* "int4" */
    enum layout layout;
    const float *table; /* [16], LAYOUT_T4 */
    bool power_of_two;  /* scales are powers of two (e8m0) */
    double bits;        /* a weight takes, scales included */
};

extern const struct quant_type quant_types[]; /* bf16 int8 int4 nf4 fp4 mxfp4 mxfp8 int2; the end has name NULL */

/* NULL: no such type. */
const struct quant_type *quant_type_find(const char *name);

extern const float table_nf4[16], table_fp4[16], table_mxfp4[16];

/* Pack `src`, quantized to the type. w->layout may be another one: BF16 where k is not a multiple of 32, or where an
 * affine type's scales are beyond f16; Q8F for Q8. ERR_MODEL for values that are not finite. */
int weight_quantize(struct weight *w, const struct quant_type *type, const struct weight_source *src, const int *row_of,
                    struct err *e);
