/* Weights on the device: what the products (gemm*.cu) stream, made from the host's panels (kernels/weight.h) without
 * loss: the float32 value of every element is the layout's.
 *
 * Two orders. Rows (bf16, f32, f8r): row-major [n][ld], so that cuBLASLt takes them as they are. Tiles (the others): the
 * matrix is cut into tiles of 32 outputs x 64 inputs, stored panel after panel (a panel is 32 outputs with all inputs),
 * and a tile holds, in the order in which a warp's lanes take them, 16 bytes a lane at a time:
 *
 *     scales   chunks of [8 lanes' g][16 bytes]    (the four lanes of one g read the same 16)
 *     codes    chunks of [32 lanes][16 bytes]
 *
 * Lane l = 4g + t of a warp has outputs 8j + g (j 0..3) and, of group h (0, 1), inputs 32h + 8t + i (i 0..7): the
 * fragments of an mma whose k is numbered in that order. Element i of a lane's eight:
 *
 *   kind  scales                                      codes
 *   q8    f16 d[h][j]                                 chunk (h, j/2): word 2(j%2) + i/4, byte {0,2,1,3}[i%4]: int8, q - 128
 *   q8f   float d[j] of h 0, the same of h 1          the same
 *   f8    as q8f                                      the same, e4m3
 *   q4    f16 d[h][j]; f16 m[h][j]                    chunk h: word j, bits 4(i/2) + 16(i%2)
 *   q4z   as q8f; bf16 128 + z [h][j]                 the same
 *   t4    as q8f                                      chunk h: word j, bits 4i
 *   q2    as q4                                       word j, bits 2(4h + i/2) + 16(i%2)
 *
 * What lies beyond n or k (tiles are whole) has scale 0, m 0. f8r is fp8 whose scale is the same along a row (checkpoints
 * with a scale per tensor or per channel): codes row-major, float scales [n] behind them; Hopper multiplies it as it is.
 *
 * k is a multiple of 8; f8r takes 16, else fp8 stays in tiles. */
#pragma once
#include "kernels/weight.h"

#ifdef __cplusplus
extern "C" {
#endif

enum cuda_kind {
    KIND_BF16,
    KIND_F32,
    KIND_F8R,
    KIND_Q8,
    KIND_Q8F,
    KIND_F8,
    KIND_Q4,
    KIND_Q4Z,
    KIND_T4,
    KIND_Q2,
    KINDS
};

#define TILE_N 32
#define TILE_K 64

/* Passed to kernels by value. */
struct cuda_weight {
    int32_t kind, n, k, ld; /* ld: elements between rows; orders of rows only */
    int32_t
        columns; /* of adapters (augment.c) that there is room for behind k: bf16 here, codes when they are expanded */
    const void *data;    /* device, 256-byte aligned */
    const float *scales; /* f8r: device [n] */
    float factor;        /* t4: table[i] = factor * coarse[i], or nearly: see struct weight */
    uint16_t coarse[16]; /* t4: bf16 */
    float table[16];     /* t4 */
};

extern const char *const cuda_kind_name[KINDS];

/* A part of a matrix: outputs row0 .. row0+n-1, inputs k0 .. k0+k-1. */
struct cuda_part {
    const struct weight *w;
    int row0, n, k0, k;
};

#define PARTS_MAX 4

/* Kind, shape and table of parts stacked one on the other (q on k on v); data and scales stay NULL. ERR_MODEL for parts
 * that do not stack (another layout, k, table, or a k0 that is no multiple of 32 in a quantized layout, of 2 in others),
 * and for k. */
int cuda_weight_plan(struct cuda_weight *w, const struct cuda_part *part, int parts, struct err *e);

/* Room for so many columns behind k: a planned weight, before its bytes are asked for. */
void cuda_weight_widen(struct cuda_weight *w, int columns);

size_t cuda_weight_bytes(const struct cuda_weight *w);

/* The planned weight lies at `device` (256-byte aligned). */
void cuda_weight_place(struct cuda_weight *w, const void *device);

/* Outputs row0 (a multiple of 32) .. row0+n-1 of a weight that lies on the device, without a copy. n 0: nothing. */
struct cuda_weight cuda_weight_view(const struct cuda_weight *w, int row0, int n);

/* Packing goes panel by panel (32 outputs), so that staging may be small and threads may share it. Panel p's bytes begin
 * cuda_panel_offset(w, p) behind the weight's start; panels == cuda_panels(w) is where the f8r scales begin, and one
 * past it the end. */
int cuda_panels(const struct cuda_weight *w);
size_t cuda_panel_offset(const struct cuda_weight *w, int panel);
/* The bytes of panel `panel`, or the scales (panel == cuda_panels(w); other kinds: nothing), into host memory. */
void cuda_panel_pack(const struct cuda_weight *w, const struct cuda_part *part, int parts, int panel, void *host);

#ifdef __cplusplus
}
#endif
