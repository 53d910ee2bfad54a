/* Weights and adapters in the layout that the matrix products read.
 *
 * A weight is an [n][k] matrix (n outputs, k inputs) in panels of 32 output rows (ENGINE.md section 3); quantized
 * sources stay quantized. Rows come from a `struct weight_source`, or straight from a tensor of a simple type:
 *   F32, F16, BF16        -> LAYOUT_BF16 (fast; F32 and F16 are rounded) or LAYOUT_F32 (exact; BF16 too)
 *   Q8_0                  -> LAYOUT_Q8
 *   Q4_0, Q4_1            -> LAYOUT_Q4
 *
 * k must be a multiple of 32 for quantized layouts and even for the others; n is any, the last panel is padded with
 * zeros. A quantized source whose scales are not finite is refused. Memory comes in 2 MB pages where the system gives
 * them.
 *
 * Inside a panel, d, m and z being scales, minima and zero points of the group's 32 outputs:
 *   LAYOUT_F32   [k][32] float
 *   LAYOUT_BF16  [k/2][32][2] bf16
 *   LAYOUT_Q8    [k/32] of { f16 d[32]; uint8 q[8][32][4] }              w = d (q - 128)
 *   LAYOUT_Q4    [k/32] of { f16 d[32]; f16 m[32]; uint8 q[4][32][4] }   w = d q + m
 *   LAYOUT_Q8F   [k/32] of { float d[32]; uint8 q[8][32][4] }            w = d (q - 128)
 *   LAYOUT_Q4Z   [k/32] of { float d[32]; int8 z[32]; uint8 q[4][32][4] } w = d (q - z)
 *   LAYOUT_T4    [k/32] of { float d[32]; uint16 q[4][32][2] }           w = d table[q]
 *   LAYOUT_F8    [k/32] of { float d[32]; uint8 q[8][32][4] }            w = d e4m3(q)
 *   LAYOUT_Q2    [k/32] of { f16 d[32]; f16 m[32]; uint8 q[2][32][4] }   w = d q + m
 *   LAYOUT_S24   [k/16] of { uint32 mask[4][4]; bf16 v[4][32][2] }       two of each four inputs, the others are 0
 *
 * where q[p][o][i] of LAYOUT_Q8 and Q8F is input 4p+i of output o, and of LAYOUT_F8 input 4p+{0,2,1,3}[i]; of LAYOUT_Q4 and Q4Z its low half is
 * input 8p+i, its high half 8p+4+i; of LAYOUT_Q2 its bits 2j and 2j+1 are input 16p+4j+i; and bits 4j .. 4j+3 of
 * LAYOUT_T4's word q[p][o][i] are input 8p+2j+i, so that words are the pairs of bf16 that its products take. Bit 4 (o % 8) + i of
 * LAYOUT_S24's mask[p][o / 8] says that input 4p+i of output o is stored, v[p][o] are the two that are. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tensor_type { T_F32, T_F16, T_BF16, T_Q8_0, T_Q4_0, T_Q4_1 };
enum precision { PREC_FAST, PREC_EXACT };
/* The numbers are part of packed files. */
enum layout {
    LAYOUT_F32,
    LAYOUT_BF16,
    LAYOUT_Q8,
    LAYOUT_Q4,
    LAYOUT_Q8F,
    LAYOUT_Q4Z,
    LAYOUT_T4,
    LAYOUT_F8,
    LAYOUT_Q2,
    LAYOUT_S24,
    LAYOUTS
};

#define PANEL 32 /* output rows of a panel */
#define GROUP 32 /* inputs that share a scale */

struct weight {
    enum layout layout;
    int n, k;
    size_t bytes;        /* of data, padding included */
    size_t panel_bytes;  /* stride between panels */
    void *data;          /* owned; 64-byte aligned at least */
    void *block;         /* the shared 2 MB pages that data lies in; NULL: somebody else's memory */
    float table[16];     /* LAYOUT_T4 */
    uint16_t coarse[16]; /* LAYOUT_T4: what FAST multiplies with, bf16: table[i] = factor * coarse[i], or nearly */
    float factor;        /* LAYOUT_T4: to make that exact where it can be (FP4's thirds), else as near as it goes */
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

/* --- sources that give rows --- */

/* How a source spells a row; every kind is exact: the float32 value that it stands for is defined below, g = input/32.
 * What quantizes in other groups repeats its scale; what fits no kind gives floats. */
enum code_kind {
    CODES_FLOAT,  /* f[k] */
    CODES_INT8,   /* w = d[g] (q - 128), q 0..255 */
    CODES_INT4,   /* w = d[g] (q - z[g]), q 0..15, z a whole number */
    CODES_AFFINE, /* w = d[g] q + z[g], q 0..15 */
    CODES_TABLE,  /* w = d[g] table[q], q 0..15 (NF4, FP4, MXFP4, IQ4_NL) */
    CODES_E4M3,   /* w = d[g] e4m3(q) (FP8, MXFP8); NaN codes are refused */
    CODES_INT2,   /* w = d[g] q + z[g], q 0..3 */
};

/* Room for one row, owned by the caller of read(): k floats, k codes (one a byte), k/32 (rounded up) scales and offsets.
 */
struct weight_row {
    float *f;
    uint8_t *q;
    float *d, *z;
};

/* An [n][k] matrix that is read row by row. read() fills what the kind says; it is called from one thread, rows in any
 * order and maybe twice; -1 with ERR_MODEL for a value that no matrix may hold (a scale that isn't finite, an index out
 * of range). */
struct weight_source {
    enum code_kind kind;
    int n, k;
    const float *table; /* [16], CODES_TABLE */
    int (*read)(const struct weight_source *s, int row, struct weight_row *out, struct err *e);
    const void *u;      /* read's own */
    const char *format; /* "GPTQ", "Q4_K", "F16": for the log and for messages */
};

/* Pack a source. `to`: LAYOUT_AUTO, or a given layout, into which the row's float32 values are quantized anew (T4: the
 * source's table, or NF4's; quantize.h has more). row_of as in weight_pack(). *requantized (may be NULL) tells whether
 * the packed values differ from the source's. S24 is given only: of rows that have more than two of each four inputs the two of the larger
 * magnitude stay.
 *
 * AUTO takes the first layout that holds the kind's float32 values exactly, which for a float source is LAYOUT_F32, and
 * in FAST BF16:
 *   CODES_INT8 Q8, Q8F;  INT4 Q4, Q4Z;  TABLE T4;  E4M3 F8;
 *   CODES_AFFINE Q4 and CODES_INT2 Q2 where d and z are exactly f16, else FAST rounds them to f16, or the values to
 *   bf16 where they are beyond it, and EXACT takes F32.
 * A coded source with k not a multiple of 32 is packed like a float source. */
int weight_pack_source(struct weight *w, const struct weight_source *src, const int *row_of, enum precision prec,
                       int to, bool *requantized, struct err *e);
#define LAYOUT_AUTO (-1)

/* A weight whose packed bytes lie in memory that somebody else owns (a mapped file), 64-byte aligned. ERR_MODEL when
 * `bytes` is not what the layout and shape take, or the table (NULL unless T4) is not finite. weight_close() leaves the
 * memory alone. */
int weight_adopt(struct weight *w, enum layout layout, int n, int k, const float table[16], const void *data,
                 size_t bytes, struct err *e);
size_t weight_bytes(enum layout layout, int n, int k); /* 0: the shape does not fit the layout */
extern const char *const layout_name[LAYOUTS];         /* "f32", "bf16", "q8", ... */

/* The form of activations that FAST multiplies the layout with: ACT_BF16 or ACT_Q8 (ops.h); 0: float32. */
unsigned weight_act_form(enum layout layout);

/* --- adapters --- */

/* One adapted matrix: y += scale * B (A x). r == 0: not adapted. The rank is not padded. a and b point into one block,
 * b behind a. */
struct lora_mod {
    int r;
    float scale;
    const void *a;          /* A [r][k] packed for the shrink */
    const void *b;          /* B [n][r] packed for the expand, in the order of the weight's output rows */
    const float *row_scale; /* DoRA: [n] or NULL; y = row_scale * (W x + scale B A x), before the bias */
};

enum lora_type { LORA_BF16, LORA_F32 }; /* fast, exact */

/* Bytes that one module takes packed (a and b together, multiples of 64). */
size_t lora_mod_bytes(enum lora_type type, int r, int n, int k);

/* Pack one module into `dst` (64-byte aligned, lora_mod_bytes() long). A is [r][k], B is [n][r], row-major, of type
 * T_F32, T_F16 or T_BF16. row_of as in weight_pack(): output row i takes B's row row_of[i]. */
void lora_mod_pack(struct lora_mod *m, enum lora_type type, void *dst, int r, int n, int k, float scale,
                   enum tensor_type src, const void *a, const void *b, const int *row_of);

/* DoRA's norm of one merged row: || w + sum_j c[j] A[j] ||, w [k], A [r][k], c[j] = scale B[row][j]; scratch [k]. */
double lora_row_norm(const float *w, const float *a, const double *c, int r, int k, double *scratch);

#define HUGE_PAGE ((size_t)2 << 20)
#define HUGE_FROM (HUGE_PAGE / 2) /* bytes; such blocks are mappings of their own, aligned to HUGE_PAGE */

/* Big blocks in 2 MB pages where possible, zeroed, 64-byte aligned; NULL: out of memory. */
void *big_alloc(size_t bytes);
void big_free(void *p, size_t bytes);
