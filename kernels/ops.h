/* The operations of a transformer step, as a table of functions: plain C defines each, other tables are faster and
 * agree with it (tests/kernels).
 *
 * Calling convention: every thread of a pool_run() calls the same operations with the same arguments in the same order;
 * an operation shares its work among the threads itself and may use barriers inside; after each one the caller puts a
 * pool_barrier(). No operation allocates.
 *
 * Batch invariance: the bits of a row's result depend on that row's inputs only, never on how many rows or which
 * adapters are in the step, nor on the number of threads, nor on how a prompt was cut into chunks. So every sum has one
 * order, set by k or by the token position.
 *
 * Rows: a step's rows are sorted so that rows of one adapter are consecutive (a segment) and, within, the rows of one
 * sequence.
 *
 * Precision FAST: activations are rounded to what the weight's layout multiplies with (bf16 for LAYOUT_BF16, int8 per
 * row and group of 32 for Q8 and Q4); LoRA reads bf16 activations made from the unquantized ones; sums are fp32. EXACT:
 * everything in float32 on the dequantized weights. */
#pragma once
#include "kernels/pool.h"
#include "kernels/weight.h"
#include <stdbool.h>

/* --- activations --- */

/* Rows of k floats together with the rounded forms that products read. */
struct act {
    int rows_max, k_max;
    float *x;        /* [rows][k], stride k; NULL where not needed */
    uint16_t *bf16;  /* [rows][k]; NULL where not needed */
    int8_t *q8;      /* [rows][k]; NULL where not needed */
    float *q8_scale; /* [rows][k/32] */
    int32_t *q8_sum; /* [rows][k/32]: sum of the 32 quantized values */
    void *block;     /* owns all of it */
    size_t bytes;
};

enum act_form { ACT_BF16 = 1, ACT_Q8 = 2, ACT_NO_F32 = 4 };

/* Memory for rows_max rows of up to k_max (a multiple of 32) in the given forms, and in float32 unless that is not
 * wanted. FAST reads float32 where a weight has LAYOUT_F32 only. */
int act_init(struct act *a, int rows_max, int k_max, unsigned forms, struct err *e);
void act_close(struct act *a);

/* Rows row0 .. row0+rows-1 of `a`, which holds rows of k, as activations of their own; `a` keeps the memory. Where a has
 * an int8 form, k is a multiple of 32. */
struct act act_rows(const struct act *a, int row0, int rows, int k);

/* out row i = x row (i modulo x_rows) + SiLU(y row i), rows of k, all forms that `out` has, float32 among them; x may be out's own. Shared among
 * the threads, a barrier behind it; on this processor, where one version serves all tables. */
void add_silu(struct kthread *t, const float *x, int x_rows, const float *y, int rows, int k, struct act *out);

/* --- matrix products with adapters --- */

enum mlp_act { MLP_SILU, MLP_GELU_TANH };

/* LoRA on the embedding: row t of the table += scale * sum_j a[t][j] b[j][..]; float32 in both precisions. */
struct lora_embed {
    int r;
    float scale;
    const float *a; /* [vocab][r] */
    const float *b; /* [r][hidden] */
};

/* What a resident adapter brings. A lora_mod with r 0 changes nothing, nor does a table that is NULL. Whole matrices
 * (modules_to_save) have the base's shape and stand in its place: products take head_full themselves, rows of
 * embed_full are the embedder's affair. */
struct lora_table {
    const struct lora_mod *mod;    /* [layers][modules] */
    const struct lora_mod *expert; /* [layers][experts][EXPERT_PARTS] gate, up, down */
    const struct lora_mod *router; /* [layers] */
    const struct lora_mod *head;   /* of lm_head */
    const struct lora_embed *embed;
    const struct weight *embed_full, *head_full;
    bool alone; /* has DoRA or whole matrices: serves with nuse 1 and weight 1 only */
    int slot;   /* the table's place on a device, where there is one */
};

#define LORA_STACK 4   /* adapters summed on one row */
#define EXPERT_PARTS 3 /* the last columns of the mod tables: gate, up, down */

/* `weight` multiplies the adapter's scale. */
struct lora_use {
    const struct lora_table *t;
    float weight;
};

/* Rows row0 .. row0+rows-1 use the sum of nuse (1 .. LORA_STACK) adapters, in this order. Rows in no segment use none.
 */
struct lora_seg {
    int row0, rows;
    int nuse;
    struct lora_use use[LORA_STACK];
};

struct lora_batch {
    int nseg;
    const struct lora_seg *seg; /* ascending row0 */
    int modules;                /* columns of the mod tables */
    int experts;                /* of the expert tables; 0: none, and mm.expert is not looked at */
};

/* What an output is, where it is no column of the mod tables. */
enum { MM_BASE = -1, MM_HEAD = -2, MM_ROUTER = -3 };

/* One output of a product: y[row][0..w->n) = (add ? y : 0) + g (W x + sum of weight scale B (A x)) + bias, where g is 1,
 * or row_scale of the row's one adapter. */
struct mm_out {
    const struct weight *w;
    float *y; /* [rows][ldy] */
    int ldy;
    bool add;          /* add to what y holds (residual) */
    const float *bias; /* [n] or NULL */
    int module;        /* column of the mod tables, MM_HEAD, MM_ROUTER, or MM_BASE: never adapted */
};

#define MM_OUTS 3

struct mm {
    const struct act *in; /* k = out[0].w->k, the same for all outs */
    int rows;
    int nout;
    struct mm_out out[MM_OUTS];    /* q,k,v or gate,up share one pass over the activations */
    const struct lora_batch *lora; /* or NULL */
    int layer;
    int expert;        /* the outputs with a column are parts of this expert; -1: of the dense layer */
    struct act *gated; /* NULL, or: out[0] is a gate and out[1] what it gates, n long both; all forms of this become
                        * gate(out[0]) * out[1], and the outputs' own y are not written */
    enum mlp_act gate;
    float *shrink; /* scratch [nout][rows][shrink_ld] floats for A x */
    int shrink_ld; /* a multiple of 16, >= the sum of lora_rank_pad(rank) over the uses of any one segment */
};

/* What an adapter's ranks take of a row of the scratch; those of a stack lie one behind the other. */
int lora_rank_pad(int r);

/* --- attention --- */

/* The KV cache: pages of KV_PAGE tokens, each holding K and V of one layer and all kv heads. The layout inside a page
 * belongs to the kernels.
 *
 * int8: a token's K and V of a kv head are 127 steps of their largest magnitude, in float32. One scale per token and
 * head, because a page is filled token by token: a scale of more than one token would depend on which tokens came
 * together, and with it the bits of the answer. */
#define KV_PAGE 16
#define HEAD_DIM_MAX 512 /* head_dim is even and at most this */

enum kv_type { KV_BF16, KV_F32, KV_INT8 }; /* EXACT has float32, FAST one of the others */

struct kv_cache {
    enum kv_type type;
    int layers, kv_heads, head_dim, pages;
    size_t page_bytes; /* of one layer's page */
    char *base;        /* page p of layer l: base + ((size_t)l * pages + p) * page_bytes; owned by whoever made it */
    struct kv_cache *own; /* NULL: layers are alike. Else [layers] caches of one layer each, which lie one behind the other
                           * from base on, and kv_heads and page_bytes are the largest layer's: operations are given a
                           * layer's own, and layer 0 */
};

/* What a precision has unless something else is asked for. */
enum kv_type kv_type_of(enum precision prec);

/* page_bytes for a shape. */
size_t kv_page_bytes(enum kv_type type, int kv_heads, int head_dim);

/* Slots 0 .. slots-1 of one page, keys and values, become those of another. */
struct kv_copy {
    int from, to, slots;
};

/* All copies in this order, of one layer: what one reads an earlier one may have written. The threads share the work; a
 * barrier comes before and behind. On this processor, where one version serves all tables: it moves bytes. */
void kv_copy_slots(struct kthread *t, const struct kv_cache *kv, int layer, const struct kv_copy *c, int n);

/* Consecutive rows of one sequence: row row0+i is the token at position pos0+i, which sees positions 0..pos0+i. Page i
 * of the table holds positions 16 i .. 16 i + 15. */
struct attn_seq {
    int row0, rows, pos0;
    const int *page;
};

struct attn {
    int nseq;
    const struct attn_seq *seq;
    int rows;
    int heads; /* query heads; a multiple of kv_heads */
    int layer;
    float scale;   /* 1/sqrt(head_dim) */
    int window;    /* > 0: position p sees p-window+1 .. p only, and pages wholly before them are not read; 0: all */
    int sinks;     /* > 0, with a window: positions 0 .. sinks-1 are seen besides, by the positions that lie farther than sinks+window
                    * as if they lay sinks+window-1 from the first (Xiao et al. 2023: positions inside the cache) */
    float softcap; /* > 0: scores become softcap tanh(score/softcap) after the scale; 0: none */
    int rotary;    /* leading dimensions of a head that rotate, even; 0: all */
    const float *q_norm,
        *k_norm; /* [head_dim] or NULL: each head of q and k is RMS-normed (norm_eps) before it rotates */
    float norm_eps;
    float *q;          /* [rows][heads*head_dim]; rope rotates it in place */
    float *k, *v;      /* [rows][kv_heads*head_dim] */
    const float *rope; /* [position][rotary/2][cos, sin] float32: halves rotate as (i, i + rotary/2) */
    struct kv_cache *kv;
    float *partial; /* scratch that all threads share, of attn_partial_floats(): without it (NULL, 0) the positions of a
                     * decoding row are not divided among threads; the result is the same */
    size_t partial_floats;
};

#define ATTN_SINKS_MAX 64

/* Scratch for a model whose sequences are up to `positions` long. */
size_t attn_partial_floats(int heads, int head_dim, int positions);

/* --- the embedding --- */

struct embed {
    const struct weight *w;
    const int32_t *token; /* [rows] */
    int rows;
    float scale;                   /* of the rows, adapters' part included; 0: 1 */
    const struct lora_batch *lora; /* or NULL: embed_full replaces w, embed adds to it */
    float *x;                      /* [rows][w->k] */
};

/* --- mixture of experts --- */

#define EXPERTS_MAX 1024 /* of a layer */

/* A row takes `used` of the layer's experts; (row, i-th of its experts, by id) is a pair. A pair's place is its rank when
 * pairs are sorted by expert, then by row: products run on the gathered rows of an expert. */
struct moe {
    int rows, experts, used;
    bool norm_topk;      /* the weights of the chosen experts are made to sum to 1 */
    const float *logits; /* [rows][experts] */
    int *expert;         /* [rows][used] ascending; by moe_route, as is weight */
    float *weight;       /* [rows][used] softmax over all experts, at the chosen ones */
    int *place;          /* [rows][used]; by moe_order, as are the two below */
    int *row_of;         /* [rows*used] the row at a place */
    int *first;          /* [experts+1] first place of each expert, then the number of places */
};

/* The half of a layer that is made of experts, whole: for tables that route, gather and sum where the host does not look.
 * to[row] = (add ? to[row] : 0) + sum of weight * expert(in row). */
struct moe_half {
    int rows, layer, experts, used;
    bool norm_topk;
    const struct weight *router;
    const struct weight *expert; /* [experts][EXPERT_PARTS] */
    enum mlp_act gate;
    const struct act *in;
    const struct lora_batch *lora; /* or NULL */
    float *to;
    bool add;
};

/* Places from the chosen experts; one thread alone calls it. */
void moe_order(const struct moe *m);

struct device;

struct kernels {
    const char *name; /* "plain", "avx2", "avxvnni", "avx512", or a device's */
    enum precision prec;
    struct device *device; /* NULL: this processor. Else arrays are handles of it: device.h */

    /* x[i][:] = scale * (row token[i] of w and of the row's adapters). */
    void (*embed)(struct kthread *t, const struct embed *e);

    /* out row i = x row (row_of ? row_of[i] : i), divided by its root mean square (eps inside the root), times
     * weight[k]; with all forms of `out`. Source: Zhang and Sennrich 2019. */
    void (*rmsnorm)(struct kthread *t, const float *x, const int *row_of, int rows, int k, const float *weight,
                    float eps, struct act *out);

    /* x row i += y row i, normed as above. */
    void (*rmsnorm_add)(struct kthread *t, const float *y, int rows, int k, const float *weight, float eps, float *x);

    /* Barrier inside where adapters take part. */
    void (*matmul)(struct kthread *t, const struct mm *m);

    /* The products of a list, shared out as one: no output of one may be the input of another, and each has scratch of
     * its own. */
    void (*matmul_list)(struct kthread *t, const struct mm *m, int n);

    /* Norm the heads of q and k where there are norms for them, rotate them by the row's position, store k and v into
     * the row's page. */
    void (*rope_store)(struct kthread *t, const struct attn *a);

    /* out rows [heads*head_dim] = softmax(q K^T scale) V, causal, online softmax in an order that the positions set; with
     * out's forms. May use barriers inside. */
    void (*attention)(struct kthread *t, const struct attn *a, struct act *out);

    /* x = cap tanh(x / cap), n values. */
    void (*softcap)(struct kthread *t, float *x, size_t n, float cap);

    /* The `used` largest logits of each row (ties: the smaller id) and their weights. */
    void (*moe_route)(struct kthread *t, const struct moe *m);

    /* out row p = in row row_of[p], all forms that `out` has, rows of k. */
    void (*moe_gather)(struct kthread *t, const struct moe *m, const struct act *in, int k, struct act *out);

    /* x row = (add ? x row : 0) + the sum over the row's pairs, in their order, of weight * y[place]; rows of k. */
    void (*moe_combine)(struct kthread *t, const struct moe *m, const float *y, int k, float *x, bool add);

    /* In the place of the three above and the products between them, or NULL. */
    void (*moe_half)(struct kthread *t, const struct moe_half *m);
};

/* The table for this processor; `want` NULL or "auto": the fastest that it can run; "plain", "avx2", "avxvnni", "avx512":
 * that one, or NULL when it can't run here. */
const struct kernels *kernels_pick(const char *want, enum precision prec);

/* How much kthread.scratch the tables need per thread. pool_new() allocates this much. */
#define KERNEL_SCRATCH (1u << 20)
