/* The metadata of a step: everything that an operation reads and that differs from step to step, in one buffer.
 *
 * The host writes it pinned, one copy brings it over, then the graph of the step's bucket is replayed. So all pointers
 * below are the same in every step, and launches may bake them; what they point to, counts included, may not be looked
 * at by the host code that launches. Launches go by the bucket's numbers (rows, logits: an op's `rows`), kernels find
 * the step's own in count[].
 *
 * A token < 0 is one that the host did not know when it wrote this: the one that the step before chose from its wanted
 * logit -1 - token. It lies on the device still, for choosing comes last in a step and looking up comes first.
 *
 * Rows from count[COUNT_ROWS] up to the bucket's have seq_of -1 and token 0: they may be computed, and write neither KV
 * nor results that anybody reads.
 *
 * Kernels take a struct cuda_meta by value (GRID_CONST). Sections behind "sections of kernels" belong to their owners. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#define META_STACK 4 /* adapters summed on one row: ops.h's LORA_STACK */
#define META_HOT 16  /* slots whose adapters can be columns */
#define TILE_ROWS 16 /* rows of a tile of adapters, at most */

enum cuda_count {
    COUNT_ROWS,
    COUNT_SEQS,
    COUNT_LOGITS,
    COUNT_SEGS,
    COUNT_TILES,      /* of tile[] */
    COUNT_HEAD_TILES, /* of head_tile[] */
    COUNT_COLD_TILES, /* of tile[]: those that have adapters and no columns (lora_tiles.h) */
    COUNT_ALL_TILES,  /* of tile[]: those with adapters, then those that cover the step's other rows (nuse 0) */
    COUNTS = 16
};

/* Rows row0 .. row0+rows-1 are positions pos0 .. of a sequence; its pages are page[page0 ..]. */
struct cuda_seq {
    int32_t row0, rows, pos0, page0;
};

/* One adapter on some rows; `slot` of the resident tables; `weight` multiplies the adapter's scale. */
struct cuda_use {
    int32_t slot;
    float weight;
};

/* Rows row0 .. row0+rows-1 (1 .. TILE_ROWS) with the same adapters, in the order of the sum. Their modules stand in the
 * resident table at [slot * stride + at + slice]. A segment is written the same way, with any number of rows. */
struct cuda_tile {
    int32_t row0, rows, nuse, at;
    struct cuda_use use[META_STACK];
};

/* How a row of logits is chosen from on the device; exactly as engine/sampler.c does it. */
enum {
    CHOOSE_NOT,    /* the CPU's sampler takes the logits */
    CHOOSE_GREEDY, /* the largest, the smallest id among equals */
    CHOOSE_DRAW,   /* temperature, then min_p, top_k, top_p */
    CHOOSE_GIVEN   /* the token is `given`; for its log-probability */
};
struct cuda_choice {
    int32_t how, top_k;        /* top_k 0: all */
    float inv_t, top_p, min_p; /* 1.0f / temperature; 1: all; 0: off */
    int32_t tell;              /* 0: no log-probabilities; else 1 + how many alternatives (0 .. CHOOSE_TOP) */
    uint64_t seed, index; /* of the draw: u = (mix(mix(seed) ^ mix(~index)) >> 11) 2^-53, mix = splitmix64's output */
    int64_t given;
};
#define CHOOSE_TOP 20

/* What comes back: the token, and whether all logits of the row were finite (0: nothing else here means anything). */
struct cuda_chosen {
    int32_t id, finite; /* not finite: id is 0 */
    float logprob;      /* where `tell` */
    int32_t ntop;
    struct {
        int32_t id;
        float logprob;
    } top[CHOOSE_TOP]; /* best first, smaller ids first among equals */
};

struct cuda_meta {
    const int32_t *count;                   /* [COUNTS] */
    const int32_t *token, *pos, *seq_of;    /* [rows]; token < 0: see above; seq_of -1: padding */
    const int32_t *seg_of;                  /* [rows] of seg[]; -1: base */
    const struct cuda_seq *seq;             /* [seqs] */
    const int32_t *page;                    /* page numbers, sequence after sequence: cuda_seq.page0 */
    const int32_t *logit_row;               /* [logits] the row; -1: padding */
    const struct cuda_tile *seg;            /* [segs] segments, `at` 0 */
    const struct cuda_tile *tile;           /* [all tiles] over the step's rows: lora_tiles.h */
    const struct cuda_tile *head_tile;      /* [head tiles] over the wanted logits: row0 counts those */
    const struct cuda_choice *choice;       /* [logits] */
    int32_t max_rows, max_seqs, max_logits; /* what the arrays hold */
    /* --- sections of kernels --- */
    const int32_t *hot; /* [META_HOT] slot i, where rows of the step have it as columns (augment.c), else -1 */
};

/* KV pages: page p of layer l begins at base + l layer_bytes + p page_bytes; the K of kv head h lies h * 2 part_bytes
 * behind that, its V part_bytes further. A part is scale_bytes of float32 scales [16] (int8 only), then 16 rows of
 * head_dim elements (bf16, or int8 times the row's scale), row_bytes apart, a multiple of 16. */
struct cuda_kv {
    char *base;
    size_t page_bytes, layer_bytes;
    int32_t kv_heads, head_dim, int8;
    int32_t row_bytes, scale_bytes, part_bytes;
};

/* A module of a resident adapter, as products look it up: y += weight scale B (A x), or with a row factor y = g (y +
 * ...). r 0: nothing. The layout of a and b is lora_layout.h's. */
struct cuda_module {
    const void *a, *b;      /* bf16 */
    const float *row_scale; /* DoRA [n], or NULL */
    int32_t r;              /* the file's rank */
    float scale;
};

/* LoRA on the embedding, and a matrix in the base's place: row t of the table is full's where there is one, += weight
 * scale sum_j a[t][j] b[j]. */
struct cuda_embed_module {
    const float *a, *b;   /* [vocab][r], [r][hidden] */
    const uint16_t *full; /* bf16 [vocab][hidden], or NULL */
    int32_t r;
    float scale;
};
