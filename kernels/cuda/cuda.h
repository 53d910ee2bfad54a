/* What the host code of the backend (the .c of this folder) shares. Private: the engine uses device.h, kernels use ops.h.
 *
 *     arena.c     memory by a plan, handles
 *     place.c     constants: packed, copied, looked up by their host address
 *     measure.c   how products go, timed at start; timed.h: in graphs, as steps run them
 *     augment.c   which take adapters as columns
 *     shard.h     what each device of a group holds; group.c: what they exchange, and what waits for them
 *     kv.c        the layout of pages
 *     adapters.c  the pool of adapters, resident tables
 *     meta.c      the metadata of a step
 *     graph.c     buckets, capture and replay: a step from begin to finish
 *     table.c     the operations (struct kernels), which enqueue
 *     table_lora.c  what adapters add to them
 *     table_moe.c   experts
 *     backend.c   open, start, close
 *
 * Ranks: every device of a group has the same arena, plan and offsets, so an offset is all that is kept. */
#pragma once
#include "kernels/cuda/lora_tiles.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/shard.h"
#include "kernels/cuda/weight.h"
#include "kernels/device.h"
#include <pthread.h>
#include <stdatomic.h>

#define RANKS_MAX 8
#define ALIGN 256
#define MODES 4
#define GRAPHS_MAX 192
#define DENSE_SPACE ((size_t)32 << 20)
#define ADAPTER_PAGE ((size_t)64 << 10)

/* Shapes of one rank. */
struct cuda_dims {
    int heads, kv_heads, head_dim, q, kv, qkv; /* widths in elements; qkv = q + 2 kv */
    int hidden, mlp, vocab, experts, used, expert_mlp;
    int head; /* outputs of the head that a rank has room for: shard_step() */
};

/* What a bucket's adapters need besides none (0): columns of products (augment.c: all of them can be; prompts only); plain sums; row factors or whole matrices, whose products are written
 * to an array of their own before they are added. */
enum lora_mode { LORA_NONE, LORA_COLUMNS, LORA_PLAIN, LORA_SCALED };

/* A graph is made for one of these. */
struct cuda_bucket {
    int rows, logits, seqs;
    int ranks; /* of adapters, the most that a row sums; 0 where lora is LORA_NONE */
    bool prompts;
    enum lora_mode lora;
};

/* --- arena.c --- */

/* Offsets of what a pass works in, adapters' tables and staging; bytes of each. */
enum cuda_area {
    AREA_X,      /* float [rows][hidden] */
    AREA_Y,      /* float [rows][hidden]: a half's output that is normed before it is added */
    AREA_PART,   /* float [rows][hidden]: one that is scaled or summed over ranks before it is added */
    AREA_GATHER, /* what ranks sent each other: group.c */
    AREA_QKV,    /* bf16 [rows][qkv] */
    AREA_H,      /* bf16 [rows][hidden] */
    AREA_A,      /* bf16 [rows][q or mlp] */
    AREA_GU,     /* bf16 [rows][2 mlp] */
    AREA_LOGITS, /* float [logits][vocab] */
    AREA_ATTN,   /* scratch of kernels */
    AREA_PRODUCT,
    AREA_LORA,
    AREA_CHOOSE,
    AREA_DENSE,
    AREA_MOE_LOGITS, /* float [rows][experts] */
    AREA_MOE_INTS,   /* expert, place, row_of, first, ntile */
    AREA_MOE_WEIGHT,
    AREA_MOE_TILES,
    AREA_MOE_G,  /* bf16 [places][hidden] */
    AREA_MOE_GU, /* bf16 [places][2 expert_mlp] */
    AREA_MOE_A,  /* bf16 [places][expert_mlp] */
    AREA_MOE_Y,  /* float [places][hidden] */
    AREA_CHOSEN, /* struct cuda_chosen [logits] */
    AREA_META,
    AREA_TABLE_MOD, /* struct cuda_module [slots][layers][modules] */
    AREA_TABLE_EXPERT,
    AREA_TABLE_ROUTER,
    AREA_TABLE_HEAD,
    AREA_TABLE_EMBED, /* struct cuda_embed_module [slots] */
    AREA_EXPERTS,     /* struct cuda_weight [layers][2][experts] */
    AREA_TABLE_WHOLE, /* uint16_t *[slots]: matrices in the head's place */
    AREA_POOL,
    AREA_CONSTS,
    AREA_KV,
    AREAS
};

struct cuda_arena {
    size_t at[AREAS], bytes[AREAS], total;
    char *range; /* reserved without access: handles */
};

/* Bytes of all areas but AREA_POOL, AREA_CONSTS and AREA_KV, which the caller sets before. */
void arena_plan(struct device *d);
int arena_take(struct device *d, struct err *e);
void arena_close(struct device *d);
void *arena_handle(const struct device *d, enum cuda_area area);
void *arena_address(const struct device *d, int rank, enum cuda_area area);
/* The offset of a handle, which must be one. */
size_t arena_offset(const struct device *d, const void *handle);

/* --- place.c --- */

struct placed;
struct cuda_place {
    struct placed *item; /* open addressing by host address */
    int room;
    const struct device_const *list; /* [n] what was planned; while start runs */
    int n;
    const struct weight *head; /* NULL: none was listed */
    struct cuda_weight heads[RANKS_MAX];
    struct cuda_weight *experts[RANKS_MAX]; /* [layers][2][experts]: gate|up, down; the same in AREA_EXPERTS */
};

/* Kinds and bytes; before memory is taken. `c` stays readable until place_copy() returned. */
int place_plan(struct device *d, const struct device_const *c, int n, size_t *weights, size_t *constants,
               struct err *e);
int place_copy(struct device *d, struct err *e);
void place_close(struct device *d);
/* The stack of `parts` weights that begins with w; NULL: there is no such stack (its parts lie apart). */
const struct cuda_weight *place_weight(const struct device *d, int rank, const struct weight *w, int parts);
const float *place_floats(const struct device *d, int rank, const float *f); /* NULL for NULL */
const struct cuda_weight *place_head(const struct device *d, int rank);      /* its part, n 0: none */
/* Item i of the list on the first device; NULL: floats, the embedding, or in the stack of an earlier one; *c NULL: there
 * is none. Start only. */
const struct cuda_weight *place_nth(const struct device *d, int i, const struct device_const **c);
/* The weights of a layer's experts as an array, on the host and on the device. */
void place_grouped(const struct device *d, int rank, int layer, bool down, const struct cuda_weight **host,
                   const struct cuda_weight **device);

/* --- group.c: between the devices of a group --- */

size_t group_bytes(const struct device *d, size_t rows, size_t logits); /* of AREA_GATHER; 0: one device */
size_t group_part_floats(const struct device *d, size_t rows);          /* of AREA_PART */
/* Where a rank leaves its part of a sum [rows][hidden], and what makes to (+)= the parts of all ranks in their order. */
float *group_part(const struct kthread *t, int rows);
void group_sum(struct kthread *t, int rows, bool add, float *to);
/* The same of logits: its part [logits][dim.head], and AREA_LOGITS of all. */
float *group_logits_part(const struct kthread *t, int logits);
void group_logits(struct kthread *t, int logits);
/* Waits for an event of each rank; where one failed, it ends the others' collectives. Step thread, while no rank's thread
 * is in a call. */
void group_wait(struct device *d, void *const *done);
/* The end of a failed group's collectives, by the thread and at the time that group_wait() may be called. */
void group_end(struct device *d);
/* Waits a little for what a failure has left on the way, so that memory can go; NULL events: never recorded. */
void group_drain(struct device *d, void *const *done);

/* --- measure.c --- */

int measure_products(struct device *d); /* at start, into d->plan.measured; 0 or a code */
/* A product of so many rows as steps have it, on the workspace. */
struct op_product measure_product(const struct device *d, const struct device_const *c, const struct cuda_weight *w,
                                  int rows);
/* --- measure_columns.c --- */
/* Does a product of a bucket with prompts take adapters as columns? Kept by product.c. */
int columns_settle(struct device *d, const struct op_product *op, int slices, struct device_measured *out);

/* --- augment.c --- */

struct augmented;
struct cuda_augment {
    int ranks, slots;             /* of an adapter's columns, a multiple of 16; 0: there are none */
    int columns[LORA_SLICES + 1]; /* of products with so many slices */
    int behind_h, behind_a;       /* room behind rows of AREA_H and AREA_A */
    struct augmented *site;
    int sites;
};

void augment_plan(struct device *d);
int augment_start(struct device *d); /* after the weights were copied; 0 or a code */
void augment_close(struct device *d);
/* Room behind the rows of a weight of `parts` parts, and of an array in buckets with prompts. */
int augment_columns_of(const struct device *d, const struct device_const *c, int parts);
int augment_gap(const struct device *d, enum cuda_area area);
int augment_slices(const struct device *d, const struct device_const *c); /* of the site that it begins; start only */
/* The slot's tables are there: its columns. 0 or a code. */
int augment_put(struct device *d, int slot);
/* Do a product's rows have the same bits with columns as without, wherever these are? Start only; 0 or a code. */
int augment_try(struct device *d, const struct op_product *op, bool *same);

/* --- kv.c --- */

struct cuda_kv kv_layout(const struct device *d, int rank);
size_t kv_layer_page_bytes(enum kv_type type, int kv_heads, int head_dim);

/* --- adapters.c --- */

struct cuda_slot {
    const struct lora_table *table; /* NULL: empty */
    enum lora_mode mode;
    bool columns; /* it can be columns of products */
    int rank;     /* the largest of its modules, padded */
    int npieces;
    struct piece *piece;
    uint64_t step; /* the last that uses it */
};

struct cuda_pool {
    pthread_mutex_t lock; /* pages */
    bool ready;
    uint64_t *used; /* a bit a page */
    int pages;
    struct cuda_slot *slot; /* [slots] */
    uint64_t read_until;    /* the step behind which nothing reads what was dropped */
};

int adapters_new(struct device *d, struct err *e);
void adapters_free(struct device *d);
size_t adapters_default_bytes(const struct device *d, size_t left);
int adapters_put(struct device *d, int slot, const struct lora_table *t, struct err *e);
void adapters_drop(struct device *d, int slot);
int adapters_resident(void *device, const struct lora_table *t, struct lora_resident *out); /* a lora_resident_fn */
/* The step begins with these. */
void adapters_use(struct device *d, const struct lora_batch *b, uint64_t step);
/* What the batch's adapters need of a bucket; *ranks: the largest sum of a row's. */
void adapters_need(const struct device *d, const struct lora_batch *b, enum lora_mode *mode, int *ranks);

/* --- meta.c --- */

size_t meta_bytes_max(const struct device *d);
/* Pointers into `base` for a bucket. */
struct cuda_meta meta_layout(const struct cuda_bucket *b, const char *base);
int meta_tile_rows(const struct cuda_bucket *b);
/* Write the step into `host`, laid out as the bucket says; *bytes: to bring over. ERR_INTERNAL: an adapter that is not
 * resident. */
int meta_write(const struct device *d, const struct device_step *s, const struct cuda_bucket *b, char *host,
               size_t *bytes, struct err *e);

/* --- graph.c --- */

struct cuda_graph {
    struct cuda_bucket key;
    struct cuda_meta meta[RANKS_MAX];
    void *exec[RANKS_MAX];
    uint64_t used;
};

/* What a step has to itself while it is under way. */
struct cuda_turn {
    struct cuda_graph *graph;
    const struct device_step *step; /* until it is launched */
    int nlogits;
    bool chooses; /* all that it wants is chosen on the device: no logits come back */
    char *pinned; /* metadata */
    size_t meta_bytes;
    struct cuda_chosen *chosen; /* pinned [logits] */
    int32_t *id, *finite;       /* [logits] */
    void *done[RANKS_MAX];      /* events: it has happened, copies included */
};

#define TURNS 2 /* a step may be begun while the one before it runs */

struct cuda_steps {
    struct cuda_graph graph[GRAPHS_MAX];
    int n;
    uint64_t clock;
    struct cuda_graph *now;           /* of the step that was begun last */
    struct cuda_turn turn[TURNS];     /* step number i has turn[i % TURNS] */
    _Atomic uint64_t begun, finished; /* numbers of the last; the loader reads `finished` */
    float *logits;                    /* pinned [logits][vocab] */
    uint64_t walks, replays;          /* how often */
};

int steps_new(struct device *d, struct err *e);
void steps_drain(struct device *d);  /* what failed on the way is over, within a bound; before the streams go */
void steps_forget(struct device *d); /* all graphs; those that run go when they end. No step comes after */
void steps_free(struct device *d);
int steps_begin(struct device *d, const struct device_step *s, struct device_walk *walk, struct err *e);
void steps_enter(struct device *d, int rank);
void steps_leave(struct device *d, int rank);
void steps_launch(struct device *d, int rank);
int steps_finish(struct device *d, struct device_result *out, struct err *e);
/* What comes on the rank's side stream waits until that step has happened. Any thread; the step was launched. */
int steps_hold(struct device *d, int rank, uint64_t step);
int cuda_rows_of(int rows); /* the bucket's */

/* One enqueue on the rank's stream, and a failure; the first one is kept. */
void cuda_enqueue(int rank, const char *what, int (*fn)(const void *op, void *stream), const void *op, size_t bytes);
void cuda_failed(struct device *d, const char *what, int code);
bool cuda_outcome(const struct device *d, struct err *e); /* whether something failed; *e: what */

/* --- table.c --- */

/* What a product leaves to the operation that follows it. */
struct cuda_pending {
    bool lora, qkv; /* the adapters of `op`; they and the biases belong to q, k and v */
    struct op_lora op;
    const float *q_bias, *k_bias, *v_bias;
};

extern const struct kernels cuda_table;

/* rt_enqueue() of launch_NAME with a struct op_NAME. */
#define ENQUEUE(t, name, op) cuda_enqueue((t)->id, #name, run_##name, &(op), sizeof(struct op_##name))
#define RUN(name)                                                                                                      \
    static int run_##name(const void *op, void *stream)                                                                \
    {                                                                                                                  \
        return launch_##name(op, stream);                                                                              \
    }

/* y [rows][ldy], float32 or bf16, of all outputs side by side = x W^T: one product where their weights are stacked. */
void cuda_product(struct kthread *t, const struct mm *m, const uint16_t *x, void *y, int ldy, bool f32, bool add);

/* --- table_lora.c --- */

/* What the adapters add to the outputs that stand side by side in y from column 0 on; false: the bucket has none. */
bool lora_op(struct kthread *t, const struct mm *m, void *y, int ldy, bool f32, struct op_lora *op);
void lora_launch(struct kthread *t, const struct op_lora *op);
/* The product with what the adapters add as columns; tiles that can't be go by themselves behind it. */
void lora_as_columns(struct kthread *t, const struct op_product *product, const struct op_lora *op);
/* What waits is launched by itself. */
void lora_flush(struct kthread *t);
/* Folded into what follows where there is such a kernel, else one after the other. */
void lora_then_glu(struct kthread *t, const struct op_lora *lora, const struct op_glu *glu);
void lora_then_rope(struct kthread *t, const struct op_lora *lora, const struct op_rope *rope);
void lora_then_norm(struct kthread *t, const struct op_lora *lora, const struct op_rmsnorm *norm);

/* --- table_moe.c --- */
void cuda_moe_half(struct kthread *t, const struct moe_half *m);

/* --- backend.c --- */

void cuda_progress(void); /* start or an adapter got on: a copy arrived, a product was timed */

struct cuda_rank {
    int device; /* its number */
    struct rt_info info;
    char *base; /* the arena */
    void *stream, *side;
    struct rt_dense *dense;
    struct cuda_pending pending;
    const struct cuda_meta *meta; /* of the bucket that is walked */
};

struct device {
    int ranks;
    struct cuda_rank rank[RANKS_MAX];
    struct rt_group *group; /* more than one rank */
    struct device_shape shape;
    struct cuda_dims dim;
    struct device_plan plan;
    struct cuda_arena arena;
    struct cuda_place place;
    struct cuda_augment augment;
    struct cuda_pool pool;
    struct cuda_steps steps;
    struct kernels kernels;
    atomic_int code; /* the first failure */
    const char *_Atomic where;
};

extern struct device *cuda_device; /* the one that is open */

/* The part of a matrix that a rank has. */
static inline struct shard cuda_shard(const struct device *d, enum device_role role, int n, int k, int rank)
{
    struct shard_rule rule = shard_rule_of(&d->shape, role);
    rule.n = n, rule.k = k;
    return shard_of(&rule, d->ranks, rank);
}

/* A device of the group computes on threads below its number. */
static inline bool has_rank(const struct device *d, const struct kthread *t)
{
    return t->id < d->ranks;
}
