/* Weights and adapters in the layout that the matrix products read.
 *
 * A weight is an [n][k] matrix (n outputs, k inputs) in panels of 32 output rows (ENGINE.md section 3); quantized
 * sources stay quantized:
 *   source F32, F16, BF16 -> LAYOUT_BF16 (fast; F32 and F16 are rounded) or LAYOUT_F32 (exact; BF16 too)
 *   source Q8_0           -> LAYOUT_Q8: int8, scale per 32 inputs
 *   source Q4_0, Q4_1     -> LAYOUT_Q4: nibbles 0..15, scale and minimum per 32 inputs: w = d q + m (Q4_0: m = -8 d)
 *
 * Every layout dequantizes to exactly the float32 values that the source format defines. k must be a multiple of 32
 * for quantized sources and even for the others; n is any, the last panel is padded with zeros. A quantized source
 * whose scales are not finite is refused. Memory comes in 2 MB pages where the system gives them.
 *
 * Inside a panel:
 *   LAYOUT_F32   [k][32] float
 *   LAYOUT_BF16  [k/2][32][2] bf16
 *   LAYOUT_Q8    [k/32] groups of { f16 d[32]; uint8 q[8][32][4], the weight's integer + 128 }
 *   LAYOUT_Q4    [k/32] groups of { f16 d[32]; f16 m[32]; uint8 q[4][32][4] }
 *
 * where q[p][o][i] of LAYOUT_Q4 holds input 8p+i in its low and input 8p+4+i in its high half. */
#pragma once
#include "base/err.h"
#include <stddef.h>
#include <stdint.h>

enum tensor_type { T_F32, T_F16, T_BF16, T_Q8_0, T_Q4_0, T_Q4_1 };
enum precision { PREC_FAST, PREC_EXACT };
enum layout { LAYOUT_F32, LAYOUT_BF16, LAYOUT_Q8, LAYOUT_Q4, LAYOUTS };

#define PANEL 32 /* output rows of a panel */
#define GROUP 32 /* inputs that share a scale */

struct weight {
    enum layout layout;
    int n, k;
    size_t bytes;       /* of data, padding included */
    size_t panel_bytes; /* stride between panels */
    void *data;         /* owned; 64-byte aligned at least */
    void *block;        /* the shared 2 MB pages that data lies in */
};

/* Source bytes of an [n][k] matrix of that type, or 0 when k does not fit the type's blocks. */
size_t tensor_bytes(enum tensor_type type, int64_t n, int64_t k);

/* Output row i of the packed weight is source row row_of[i]; row_of NULL: the same row. `src` is only read during the
 * call. */
int weight_pack(struct weight *w, enum tensor_type type, const void *src, int n, int k, const int *row_of,
                enum precision prec, struct err *e);
void weight_close(struct weight *w);

/* Row `row` of the dequantized matrix, as float32 out[k] (embedding look-up, tests, self-test). */
void weight_row(const struct weight *w, int row, float *out);

/* A vector of n floats from a F32, F16 or BF16 source (norms). */
void tensor_to_f32(enum tensor_type type, const void *src, int64_t n, float *out);

/* --- adapters --- */

/* One adapted matrix: y += scale * B (A x). r == 0: not adapted. The rank is not padded. a and b point into one block,
 * b behind a. */
struct lora_mod {
    int r;
    float scale;
    const void *a; /* A [r][k] packed for the shrink */
    const void *b; /* B [n][r] packed for the expand, in the order of the weight's output rows */
};

enum lora_type { LORA_BF16, LORA_F32 }; /* fast, exact */

/* Bytes that one module takes packed (a and b together, multiples of 64). */
size_t lora_mod_bytes(enum lora_type type, int r, int n, int k);

/* Pack one module into `dst` (64-byte aligned, lora_mod_bytes() long). A is [r][k], B is [n][r], row-major, of type
 * T_F32, T_F16 or T_BF16. row_of as in weight_pack(): output row i takes B's row row_of[i]. */
void lora_mod_pack(struct lora_mod *m, enum lora_type type, void *dst, int r, int n, int k, float scale,
                   enum tensor_type src, const void *a, const void *b, const int *row_of);

/* Big blocks in 2 MB pages where possible, zeroed, 64-byte aligned; NULL: out of memory. */
void *big_alloc(size_t bytes);
void big_free(void *p, size_t bytes);
