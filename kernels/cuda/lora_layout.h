/* How a module of an adapter lies in the pool, for the kernels that read it. Host code; called by adapters.c on the
 * loader's thread.
 *
 * Both matrices lie in the order of mma.m16n8k16's first operand (M = ranks in the shrink, M = outputs in the expand),
 * so that a lane's operand is one 16-byte load, a warp's 512 consecutive bytes, from memory or from a bulk copy of it.
 * Ranks are padded to a multiple of 8 (r8), inputs to 32, outputs to 16, with zeros.
 *
 *   A  LORA_SPLIT parts of k, one after the other (one per block of a cluster); a part is cut into chunks of LORA_CHUNK
 *      ranks, a chunk into steps of 32 inputs, a step into tiles of 16 ranks, 1 KB each, then perhaps one of 8, 512 bytes.
 *      Lane l = 4g + t of a tile of 16 has, for h = 0 and 1 (512 bytes apart), ranks g, g+8, g, g+8 at inputs
 *      8t+4h+{0,1}, the same, 8t+4h+{2,3}, the same; of a tile of 8: rank g at inputs 8t .. 8t+7.
 *   B  tiles of 16 outputs, 32 r8 bytes each; in one, blocks of 16 ranks, 512 bytes each, then perhaps one of 8, 256
 *      bytes. Lane l has outputs 2g, 2g+1, 2g, 2g+1 at ranks 2t+{0,1}, the same, 8+2t+{0,1}, the same; in a block of 8
 *      the first two pairs only. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LORA_RANK_STEP 8  /* ranks are padded to a multiple of this */
#define LORA_RANK_MAX 512 /* padded: of a module, and of what the uses of one row bring to it together */
#define LORA_SPLIT 8      /* parts of k: sums are taken in this many parts, in their order */
#define LORA_CHUNK 64     /* ranks whose shrinks are exchanged at once */
#define LORA_K_STEP 32    /* inputs of a tile of A */
#define LORA_N_STEP 16    /* outputs of a tile of B */

/* Bytes of A and of B together, a multiple of 128; *b_at: where B begins. 0: the rank is beyond LORA_RANK_MAX or a size
 * is not positive. */
size_t lora_layout_bytes(int r, int n, int k, size_t *b_at);

/* From a [r][k] and b [n][r], bf16, row-major, into dst (lora_layout_bytes(), 128-byte aligned). */
void lora_layout_pack(void *dst, int r, int n, int k, const uint16_t *a, const uint16_t *b);

/* Where an element lies: index of uint16_t within A, within B. */
size_t lora_layout_a(int r, int k, int rank, int input);
size_t lora_layout_b(int r, int output, int rank);

#ifdef __cplusplus
}
#endif
