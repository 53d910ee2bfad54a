/* Products of the backend's own, as product.c calls them: y [rows][n] = x [rows][k] w [n][k]^T on the weight's codes. */
#pragma once
#include "kernels/cuda/weight.h"
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct gemm_job {
    struct cuda_weight w;            /* with `group`, only its kind and shape count */
    const struct cuda_weight *group; /* device [experts], or NULL */
    const int32_t *first;            /* device [experts+1]: rows of x and y of each */
    int experts, rows;               /* rows: at most, with a group */
    const uint16_t *x;               /* bf16 [rows][ldx], 16-byte aligned; ldx a multiple of 8 */
    int ldx;
    void *y; /* [rows][ldy] */
    int ldy, f32, add;
};

#define GEMM_SMALL_ROWS 16 /* what the small product takes without a group */

/* The small one splits k over the eight warps of a block, so that few outputs keep the whole device busy; the wide one
 * shares 32 or 64 rows of x between warps. Both: any number of rows with a group, the wide one also without. */
int launch_gemm_small(const struct gemm_job *job, void *stream);
int launch_gemm_wide(const struct gemm_job *job, void *stream);

/* out [n][k] bf16 = rows row0 .. row0+n-1 (row0 a multiple of 32) of w, rounded once. */
struct expand_job {
    struct cuda_weight w;
    int row0, n;
    uint16_t *out;
    int gap; /* elements between rows of out */
};
int launch_expand(const struct expand_job *job, void *stream);

struct op_product;
/* The dense product alone, plain or with the columns of adapters that stand behind k (w.columns) in x and w. Codes are
 * expanded panel by panel, and `put` writes the columns of outputs n0 .. n0+n-1 behind each, at w [n][ld]. */
typedef int product_put_fn(const void *u, uint16_t *w, int ld, int n0, int n, void *stream);
struct product_columns {
    product_put_fn *put;
    const void *u;
};
int product_dense(const struct op_product *op, const struct product_columns *columns, void *stream);
/* Algorithms for both, the same one. RT_PRODUCT: there is none. */
int product_dense_plan(const struct op_product *op, void *stream);
/* Would this product be a dense one of bf16? */
bool product_is_dense(const struct op_product *op);
void product_augment(const struct op_product *op, bool augmented); /* what product_is_augmented() says from now on */

/* codes [rows][k] e4m3 and scale [rows] (largest / 448) of bf16 rows; k a multiple of 16. */
struct quantize_job {
    int rows, k, ldx;
    const uint16_t *x;
    uint8_t *codes;
    float *scale;
};
int launch_quantize_e4m3(const struct quantize_job *job, void *stream);

#ifdef __cplusplus
}
#endif
