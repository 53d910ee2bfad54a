/* The kernels' launches, as table.c calls them. A section belongs to whoever owns its kernels.
 *
 * All pointers inside an op are device addresses, but for `w` (struct cuda_weight on the host). Types: bf16 is uint16_t
 * here. `rows` is the bucket's: the grid; the step's own count is in meta (an op for logits says so). Every launch
 * returns 0 or rt.h's code, enqueues on `stream` only, never waits, allocates nothing and may be captured. */
#pragma once
#include "kernels/cuda/meta.h"
#include "kernels/cuda/rt.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_weight; /* weight.h */

/* What launches may know of the device; set once at start. */
struct cuda_target {
    int cc, sms, shared_block;
    int pdl; /* 1: dependent launch is worth it */
};
extern struct cuda_target cuda_target; /* table.c */

/* --- base: embed, norms, rope, gates (embed.cu norm.cu rope.cu glu.cu) --- */

struct op_embed {
    struct cuda_meta meta;
    int rows, hidden, vocab;
    const struct cuda_weight *w;
    float scale;                           /* of the rows, adapters' part included */
    const struct cuda_embed_module *table; /* [slot]; NULL: no adapters in this bucket */
    const struct cuda_chosen *chosen;      /* by the step before: what tokens < 0 mean */
    float *x;                              /* [rows][hidden] */
};
int launch_embed(const struct op_embed *op, void *stream);

/* out[i] = norm(x[row_of ? row_of[i] : i]) * weight, bf16; row_of[i] < 0: skipped. */
struct op_rmsnorm {
    int rows, k;
    const float *x;
    const int32_t *row_of;
    const float *weight;
    float eps;
    uint16_t *out; /* [rows][k + gap] */
    int gap;
};
int launch_rmsnorm(const struct op_rmsnorm *op, void *stream);

/* x += norm(y) * weight, float32. */
struct op_rmsnorm_add {
    int rows, k;
    const float *y, *weight;
    float eps;
    float *x;
};
int launch_rmsnorm_add(const struct op_rmsnorm_add *op, void *stream);

/* qkv [rows][ld] = q | k | v: bias added (NULL: none), heads of q and k normed (NULL: not), rotated; q stays in place, k
 * and v go to the row's slot. */
struct op_rope {
    struct cuda_meta meta;
    struct cuda_kv kv;
    int rows, heads, layer, ld, rotary; /* rotary: dimensions, even */
    const float *q_bias, *k_bias, *v_bias, *q_norm, *k_norm;
    float norm_eps;
    const float *rope; /* [position][rotary/2][cos, sin] */
    uint16_t *qkv;
};
int launch_rope(const struct op_rope *op, void *stream);

/* out [rows][n] = act(gate) * up of gu [rows][2n] = gate | up. */
enum { ACT_SILU_MUL, ACT_GELU_MUL };
struct op_glu {
    int rows, n, act;
    const float *gate_bias, *up_bias; /* NULL: none */
    const uint16_t *gu;
    uint16_t *out;
    int gap; /* elements between rows of out */
};
int launch_glu(const struct op_glu *op, void *stream);

/* y[i][j] += bias[j], float32 or bf16, where no fused kernel adds it. */
struct op_bias {
    int rows, n, ld, f32;
    const float *bias;
    void *y;
};
int launch_bias(const struct op_bias *op, void *stream);

struct op_softcap {
    float *x;
    size_t n;
    float cap;
};
int launch_softcap(const struct op_softcap *op, void *stream);

/* out row i = in row (row_of ? row_of[i] : i; < 0: skipped), `pieces` of 16 bytes of each (point.cu). */
struct op_rows {
    int rows, pieces;
    const void *in;
    const int32_t *row_of;
    void *out;
    size_t in_bytes, out_bytes; /* between rows, multiples of 16 */
};
int launch_rows(const struct op_rows *op, void *stream);

/* --- base: experts (moe.cu). A place is a (row, expert) pair in the order of experts; places = rows * used. --- */

struct op_moe {
    struct cuda_meta meta;
    int rows, experts, used, norm_topk;
    const float *logits; /* [rows][experts] */
    int32_t *expert;     /* [rows][used] ascending; padding rows: -1, and they take no place */
    float *weight;       /* [rows][used] */
    int32_t *place;      /* [rows][used] */
    int32_t *row_of;     /* [places] */
    int32_t *first;      /* [experts+1] */
    /* Tiles of adapters over places: at = expert * 3 + (gate 0, up 1, down 2 by slice); ntile[0] of them. */
    struct cuda_tile *tile; /* [places]; NULL: no adapters in this bucket */
    int32_t *ntile;
};
int launch_moe_route(const struct op_moe *op, void *stream); /* expert, weight */
int launch_moe_order(const struct op_moe *op, void *stream); /* place, row_of, first, tile: rows of one segment within
                                                              * an expert share a tile */

struct op_moe_gather {
    int places, k;
    const int32_t *row_of, *first;
    int experts;
    const uint16_t *in;
    uint16_t *out; /* [places][k] */
};
int launch_moe_gather(const struct op_moe_gather *op, void *stream);

struct op_moe_combine {
    int rows, used, k, add;
    const int32_t *expert, *place;
    const float *weight;
    const float *y; /* [places][k] */
    float *x;       /* [rows][k] */
};
int launch_moe_combine(const struct op_moe_combine *op, void *stream);

/* --- base: sampling (choose*.cu): logits by meta.choice into chosen [logits] --- */

struct op_choose {
    struct cuda_meta meta;
    int logits, vocab, tokens; /* rows; between rows; ids below `tokens` may be chosen, the rest is padding, unread */
    const float *x;            /* [logits][vocab] */
    float *scratch;            /* logits * choose_scratch(vocab) floats, 16-byte aligned */
    struct cuda_chosen *out;   /* [logits] */
};
size_t choose_scratch(int vocab); /* floats a row */
int launch_choose(const struct op_choose *op, void *stream);

/* --- groups of devices (ranks.cu, group.c) --- */

/* to[0..n) = (add ? to : 0) + (part 0's + part 1's + ...); n and `step`, the floats between parts, multiples of 4. */
struct op_ranks_sum {
    int ranks, add;
    size_t n, step;
    const float *part;
    float *to;
};
int launch_ranks_sum(const struct op_ranks_sum *op, void *stream);

/* out [rows][vocab] of part [ranks][rows][step]: rank after rank; what the last parts have beyond vocab is left out. */
struct op_ranks_logits {
    int ranks, rows, step, vocab; /* step: a multiple of 4 */
    const float *part;
    float *out;
};
int launch_ranks_logits(const struct op_ranks_logits *op, void *stream);

/* --- attention (attn*.cu) --- */

struct op_attn {
    struct cuda_meta meta;
    struct cuda_kv kv;
    int rows, seqs, heads, layer, ld; /* rows and seqs: the bucket's */
    int prompts;                      /* 0: the bucket has one row per sequence only */
    int window;
    float scale, softcap;
    const uint16_t *qkv; /* q of a row: its first heads * head_dim */
    uint16_t *out;       /* [rows][heads * head_dim + gap] */
    int gap;
    void *scratch; /* attn_scratch() bytes */
};
size_t attn_scratch(int max_rows, int max_seqs, int heads, int head_dim, int max_context);
int launch_attn(const struct op_attn *op, void *stream);

/* --- products (gemm*.cu, dense*; weight.h) --- */

struct op_product {
    int rows;
    const struct cuda_weight *w;
    const uint16_t *x;
    int ldx;
    void *y;
    int ldy;
    int f32, add; /* y: float32 or bf16; added to what it holds (float32 only) */
    struct rt_dense *dense;
    void *scratch; /* product_scratch() bytes: panels of codes as bf16 */
};
size_t product_scratch(int max_rows, int most_n, int most_k); /* most_k: columns included */
int launch_product(const struct op_product *op, void *stream);
/* With the adapters' columns, which stand behind x (launch_augment_rows); behind a bf16 w they stand too, behind codes they
 * are put as these are expanded. Only where product_is_augmented(). */
struct op_augment;
int launch_product_augmented(const struct op_product *op, const struct op_augment *columns, void *stream);
/* Products of this shape take their adapters as columns, wherever their rows are a prompt's. */
bool product_is_augmented(const struct op_product *op);
/* Time the ways that products of this shape can go and keep the fastest for launch_product(): at start, on a device,
 * outside a capture. The n ops differ in their weights alone: as many layers as exceed its cache. Writes to y. */
int product_measure(const struct op_product *op, int n, void *stream);
/* Forget what was measured. e4m3: fp8 weights with a scale a row take rows of e4m3 where the device multiplies these. */
void product_begin(bool e4m3);

/* Experts: place p of expert e (first[e] <= p < first[e+1]) times w[e]. */
struct op_grouped {
    int places, experts;
    const struct cuda_weight *w;        /* on the host [experts]: same kind and shape */
    const struct cuda_weight *w_device; /* the same array on the device */
    const int32_t *first;
    const uint16_t *x;
    int ldx;
    void *y;
    int ldy, f32;
    void *scratch;
};
int launch_grouped(const struct op_grouped *op, void *stream);
/* As product_measure(), for the ways that groups can go. */
int grouped_measure(const struct op_grouped *op, void *stream);
/* The way that was fastest and its seconds; NULL: not measured. experts: 0, or of a group, and rows are places. */
const char *product_measured(const struct cuda_weight *w, int rows, int f32, int experts, double *s);

/* --- adapters (lora*.cu) --- */

/* Slice s: columns y0[s] .. y0[s]+n[s]-1 of y get what module table[slot * stride + tile.at + slice[s]] adds. */
#define LORA_SLICES 3
struct op_lora {
    const struct cuda_tile *tile;
    const int32_t *ntile; /* device: the tiles that have adapters */
    const int32_t *nall;  /* device: with those of all other rows behind them; for the folded kernels */
    int made;             /* 1: a kernel of the step writes tile and counts, so nobody looks before dev_pdl_wait() */
    int max_tiles;        /* the grid goes by this */
    int tile_rows;        /* rows of a tile at most: 8 or TILE_ROWS; the bucket's */
    int ranks; /* what the uses of a row bring to a slice at most, each padded to LORA_RANK_STEP: shared memory
                           * goes by this */
    const struct cuda_module *table;
    int stride; /* modules between slots */
    int nslice, slice[LORA_SLICES], n[LORA_SLICES], y0[LORA_SLICES];
    int k;
    const uint16_t *x; /* [rows][ldx] */
    int ldx;
    void *y;
    int ldy, f32;  /* y float32 or bf16 */
    void *scratch; /* lora_scratch() bytes */
};
size_t lora_scratch(int max_rows, int max_rank); /* max_rank: the greatest `ranks` of a launch */
/* RT_BAD_SHAPE: k or ldx not a multiple of 8, a bf16 slice whose n, y0 or ldy is odd, ranks beyond LORA_RANK_MAX. */
int launch_lora(const struct op_lora *op, void *stream);
/* The two that it chooses from (clusters from sm_90 on); their results are equal bit by bit. */
int launch_lora_planes(const struct op_lora *op, void *stream);
int launch_lora_cluster(const struct op_lora *op, void *stream);

/* The sums A x of the tiles alone, as planes in the scratch: the first half of launch_lora_planes. */
int launch_lora_shrink(const struct op_lora *op, void *stream);

/* K-augmentation, for prompts where few adapters are resident: y = [x | s] [W | B]^T is one dense product and y is not read
 * once more. Behind the k columns of x and of W stand augment_columns() more: per hot adapter augment_width(), in which
 * each slice has `ranks` columns of s's upper halves, as many of its lower halves (s is float32; as two bf16 16 bits of it
 * are kept), both against the same columns of B, which are zero in the other slices' rows of W. What is not used is zero on
 * both sides. A width is a multiple of 64, what products take at once of k, so that sums have the same order wherever an
 * adapter's columns are; augment.c makes sure of it.
 *
 * Tiles that do not go this way (several adapters on a row, DoRA, great ranks) come first, and launch_lora() adds what
 * theirs say. An adapter whose B is not finite would reach every row (0 * NaN): such
 * adapters are refused when they are loaded. */
struct op_augment {
    struct op_lora lora; /* tiles, table, slices' n, k, x, ldx >= k + columns, scratch; y is not looked at */
    const int32_t *hot;  /* device [nhot]: slots, -1: none; NULL: adapter i is slot i */
    const int32_t *cold; /* device: so many tiles, the first ones, have no columns but zeros; NULL: 0 */
    int nhot, ranks, at; /* most adapters; of each, a multiple of 16; at: cuda_tile.at of the step's tiles */
    uint16_t *w;         /* [outputs][ldw], slice after slice; ldw >= k + columns */
    int ldw;
    int first, outputs; /* the rows of W that stand at w; outputs 0: all, from the first on */
    int only;           /* 1 + the adapter whose columns are written to W; 0: all */
};
int augment_width(int nslice, int ranks); /* of an adapter */
int augment_columns(int nslice, int nhot, int ranks);
int launch_augment_rows(const struct op_augment *op, void *stream);    /* s behind x: all rows of tile[0..nall) */
int launch_augment_weights(const struct op_augment *op, void *stream); /* B behind W */

/* y = row_scale (y) of tiles whose module has one is launch_lora's affair: it applies the factor to what y holds and to the
 * sum it adds. So DoRA's products are written to a y of their own, and x gets them by this: */
struct op_add {
    int rows, k;
    const float *y;
    float *x; /* += y */
};
int launch_add(const struct op_add *op, void *stream);

/* Rows of tiles whose adapter brings a matrix in the base's place: y = x full^T, y float32 [rows][ldy]. */
struct op_whole {
    const struct cuda_tile *tile;
    const int32_t *ntile;
    int max_tiles;
    const uint16_t *const *full; /* device [slot]: bf16 [n][k] or NULL */
    int n, k, ldx, ldy;
    const uint16_t *x;
    float *y;
};
int launch_whole(const struct op_whole *op, void *stream);

/* launch_lora folded into what follows it; 0 rows of adapters give the same bits as the kernel without. -> RT_NOT_HERE where a shape has no fused
 * kernel: then the two run one after the other. */
int launch_lora_glu(const struct op_lora *lora, const struct op_glu *glu, void *stream);
int launch_lora_rope(const struct op_lora *lora, const struct op_rope *rope, void *stream);
/* x += ...; then out = norm(x). */
int launch_lora_norm(const struct op_lora *lora, const struct op_rmsnorm *norm, void *stream);

#ifdef __cplusplus
}
#endif
