/* Attention on the device: numbers that kernels and tests agree on. The operation is op_attn of ops.h.
 *
 * Sequences with up to ATTN_FEW rows in the step (decoding rows and the guesses ahead of them) are *split*: their
 * positions are cut into segments, each a block's work, and the segments' results merged in their order. Where a
 * segment ends is set by the position alone: 256 positions each up to 4,096, then eighths of an octave. Sequences with
 * more rows (prompts) are *causal*: a block takes a tile of rows through all positions that they see.
 *
 * What is promised: of a row in a sequence with few rows, and of a row in one with many, the bits depend on its own
 * q, its sequence's K and V, its position and the window; not on other sequences, on the rows beside it, on how a
 * prompt was cut (as long as each cut has more than ATTN_FEW rows), on the page numbers, the bucket or the grid. A
 * row computed the one way and the other agrees within rounding. NaN and infinity in K or V stay in their sequence.
 *
 * Shapes: head_dim even, up to 512 (64, 96, 128 and 256 are fast), any number of heads per kv head. */
#pragma once
#include "kernels/cuda/ops.h"

#define ATTN_PAGE 16   /* positions of a page */
#define ATTN_STEP 32   /* positions whose scores are made together */
#define ATTN_RING 3    /* slots of a half step */
#define ATTN_FEW 9     /* rows of a sequence that is split: one and eight guesses */
#define ATTN_SLICE 256 /* dimensions of V that a block takes */

#define ATTN_SEGMENT 256
#define ATTN_EVEN 16     /* segments of that length */
#define ATTN_EVEN_LOG 12 /* log2(ATTN_SEGMENT * ATTN_EVEN) */
#define ATTN_EIGHTHS 8

#define ATTN_HEAD_DIM_MOST 512

/* Bytes in shared memory, for kernels and for those who launch them: a vector of q (bf16); a row of K or V, an odd
 * number of 16-byte pieces; scales; a slot of the ring. Dimensions are padded to whole products. */
#define ATTN_WIDE(hd, int8) ((int8) ? ((hd) + 31) / 32 * 32 : ((hd) + 15) / 16 * 16)
#define ATTN_Q_STRIDE(hd, int8) (ATTN_WIDE(hd, int8) * 2 + 16)
#define ATTN_STRIDE(hd, int8) (ATTN_WIDE(hd, int8) * ((int8) ? 1 : 2) + 16)
#define ATTN_SCALES(int8) ((int8) ? ATTN_STEP * 4 : 0)
#define ATTN_SLOT(hd, int8) (ATTN_SCALES(int8) + ATTN_STEP * ATTN_STRIDE(hd, int8))

/* The head_dim that a kernel was made for; 0: the one for all. */
#define ATTN_KERNEL(op) ((op)->kv.row_bytes == (op)->kv.head_dim * ((op)->kv.int8 ? 1 : 2) ? (op)->kv.head_dim : 0)

/* Parts of launch_attn(), one behind the other on the stream. */
int launch_attention_split(const struct op_attn *op, void *stream);
int launch_attention_merge(const struct op_attn *op, void *stream);
int launch_attention_causal(const struct op_attn *op, void *stream);
