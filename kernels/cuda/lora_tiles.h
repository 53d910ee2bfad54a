/* A step's adapters as tiles: what the LoRA kernels walk over. Host code, no CUDA.
 *
 * Rows that go as columns have one adapter, which can; their tiles stand behind those of the others, so that a list of each
 * is a part of one. A segment of the step is cut into tiles of up to tile_rows rows; rows without an adapter are in no tile of the first
 * list. Behind it stands a second list of tiles without adapters that covers those other rows, for the kernels that are
 * folded into what follows a product and so have every row to do. The grid of a launch never depends on any of it. */
#pragma once
#include "kernels/cuda/meta.h"
#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A resident adapter: its slot, and the largest of its modules' ranks, padded to LORA_RANK_STEP; can it be columns of a
 * product (augment.c)? */
struct lora_resident {
    int slot, rank;
    bool columns;
};

/* -1: the table is not resident. */
typedef int lora_resident_fn(void *u, const struct lora_table *t, struct lora_resident *out);

struct lora_tiles {
    struct cuda_tile *tile; /* the caller's [max]; as many as there are rows always suffice */
    int max;
    int n;    /* with adapters: tile[0..n) */
    int cold; /* of these, tile[0..cold) are none of columns: rows of several adapters, or of one that can't be */
    int all;  /* with those of the other rows: tile[0..all) */
};

/* Rows 0 .. rows-1 of the step; `b` may be NULL. max_rank: what a row's uses may have in sum (the kernels' scratch).
 * tile_rows: 8 or TILE_ROWS. ERR_INTERNAL for segments that overlap or leave the step, for a table that is not resident
 * and for ranks beyond max_rank; `out` is then as before. */
int lora_tiles_build(struct lora_tiles *out, const struct lora_batch *b, int rows, int tile_rows, int max_rank,
                     lora_resident_fn *resident, void *u, struct err *e);

#ifdef __cplusplus
}
#endif
