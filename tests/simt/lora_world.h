/* What tests of the LoRA kernels share: adapters as a file has them and packed in a table, a step's rows and segments, the
 * run of one kernel, and the same in plain C. Everything that no kernel may read is NaN; what none may write is sealed. */
#pragma once
#include "kernels/cuda/lora_tiles.h"
#include "kernels/cuda/ops.h"
#include <stdbool.h>

#define WORLD_SLOTS 40
#define WORLD_STRIDE 4 /* modules between slots: one more than slices, so that a wrong step shows */

enum world_data { WORLD_WHOLE, WORLD_REAL }; /* whole numbers: every sum is exact, results are compared by bits */

struct world_shape {
    int k, nslice, n[LORA_SLICES];
    bool f32;
    enum world_data data;
};

struct world_module {
    int r;
    float scale;
    uint16_t *a, *b; /* row-major */
    float *g;        /* DoRA, or NULL */
};

struct world {
    struct world_shape shape;
    int y0[LORA_SLICES], ldx, ldy, rows, slots;
    struct world_module mod[WORLD_SLOTS][LORA_SLICES];
    struct cuda_module *table; /* device */
    struct lora_table tag[WORLD_SLOTS];
    uint16_t *x; /* [rows][ldx] sealed */
    void *y;     /* [rows][ldy] what it holds before; NaN where no slice is */
    float *scratch;
    int max_rank;
};

/* rank[slot][slice]; dora: bit per slot. */
void world_make(struct world *w, const struct world_shape *shape, int rows, int slots, const int (*rank)[LORA_SLICES],
                uint64_t dora);

struct world_seg {
    int row0, rows, nuse;
    int slot[LORA_STACK];
    float weight[LORA_STACK];
};

typedef int world_launch(const struct op_lora *op, void *stream);

/* Rows and tiles of the segments by tile_rows; the op is ready but for y. */
struct op_lora world_op(struct world *w, const struct world_seg *seg, int nseg, int tile_rows);
/* The inputs of a row become NaN and infinities. */
void world_poison(struct world *w, int row);
/* A fresh y as the launch leaves it. */
void *world_run(struct world *w, const struct world_seg *seg, int nseg, int tile_rows, world_launch *launch);
void *world_copy_y(const struct world *w);
size_t world_y_bytes(const struct world *w);
/* What the rows come to, [rows][ldy]; NaN where no slice is. */
float *world_plain(const struct world *w, const struct world_seg *seg, int nseg);
/* Results against plain: bits for whole numbers, else by tolerance; and nothing outside of slices. */
void world_check(const struct world *w, const void *y, const float *want);

/* Rows in no segment, and modules that all adapters of a row lack: y keeps its bits, -0 included. */
void world_check_untouched(const struct world *w, const struct world_seg *seg, int nseg, const void *y);

float world_bf16(uint16_t bits);
uint16_t world_to_bf16(float f);
