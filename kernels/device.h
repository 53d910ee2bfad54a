/* A device that computes in the place of this processor: what the engine sees of it. No word of CUDA here.
 *
 * The backend is a shared object (weft-cuda.so in ../lib/weft or beside the program, or WEFT_DEVICE_LIB) that is opened when it is asked
 * for. Life: open -> start (memory by a plan, constants copied) -> steps, adapters in and out -> close.
 *
 *     device_begin(step) --walk?--> on thread i of the pool, i < ranks: device_enter(), operations, device_leave()
 *              |                                                            |
 *              +--------> on thread i < ranks: device_launch() <------------+
 *                                  |
 *                         device_finish(): waits, results
 *
 * While a step runs the next may be begun and launched, one ahead at most, where the device chooses all that both want
 * (their logits don't come back); it may take tokens that the host has not seen. device_finish() is the oldest's.
 *
 * A *handle* is an address that means device memory: it may be computed with, and faults when the host touches it.
 *
 * After a call failed the device is of no use: the engine says why and ends. Operations can't fail by themselves: the
 * first failure is kept, and device_finish() tells it. device_begin() and device_finish() are the step thread's; adapters
 * are put by the loader and dropped by whoever holds the set's lock. One device group per process. */
#pragma once
#include "kernels/ops.h"

struct device;

struct device_about {
    char name[96];
    char backend[16]; /* "cuda", "simt" */
    int ranks;        /* devices of the group */
    size_t memory;    /* bytes of each */
};

/* which: "cuda" or "cuda:N" (N: the first of `ranks` devices). ERR_UNAVAILABLE where no library loads or no device
 * answers, ERR_USAGE for a name that is none. */
bool device_is_name(const char *which);
int device_open(struct device **out, const char *which, int ranks, struct err *e);
void device_close(struct device *d); /* NULL: nothing */
void device_about(const struct device *d, struct device_about *out);
const struct kernels *device_kernels(const struct device *d);

/* --- memory, all of it taken at once --- */

/* What a matrix is to the model, which says how a group shares it (kernels/cuda/shard.h). */
enum device_role {
    ROLE_WHOLE, /* routers */
    ROLE_EMBED, /* looked up, never multiplied */
    ROLE_Q,
    ROLE_KV,
    ROLE_O,
    ROLE_GATE, /* and up */
    ROLE_DOWN,
    ROLE_EXPERT_GATE,
    ROLE_EXPERT_DOWN,
    ROLE_HEAD,
    ROLES
};

/* What the device has to hold of the model: a weight, or n floats. Operations name it by its host address. Consecutive
 * items of one site > 0 are read by one product and lie one behind the other. A tied head is listed again behind the
 * embedding. */
struct device_const {
    const struct weight *w;
    const float *f;
    size_t n;
    enum device_role role; /* of w */
    int site;
    int layer, module; /* of the mod tables: q to down */
    bool grouped;      /* of an expert */
};

/* A column of the mod tables: the base matrix that it adapts. */
struct device_module {
    int n, k;
    enum device_role role;
};

#define DEVICE_MODULES 8

/* Adapters as columns of prompts' products: where that is faster and takes little memory; wherever it can be; never. */
enum device_augment { AUGMENT_AUTO, AUGMENT_ON, AUGMENT_OFF };

struct device_shape {
    int layers, hidden, heads, kv_heads, head_dim, mlp, vocab, tokens, max_context;
    int modules; /* columns of the mod tables */
    struct device_module module[DEVICE_MODULES];
    int experts, experts_used, expert_mlp;
    int scale_group; /* inputs that share a scale in some matrix: no part of a group ends within; 0: GROUP */
    const struct weight *const *expert; /* [layers] the layer's [experts][EXPERT_PARTS], NULL: a dense layer */
    enum kv_type kv_type;
    int max_rows, max_seqs, max_logits, max_segs, max_rank; /* of a step; max_rank: of a segment's sum, padded */
    int slots;                                              /* adapters at once */
    int64_t adapter_bytes;                                  /* of the pool; 0: a share of what is left */
    int64_t kv_bytes;                                       /* 0: what is left */
    enum device_augment augment;
    bool e4m3_rows; /* fp8 weights: rows as e4m3 too, where that is quicker; off the tolerance */
};

/* What was found out at start. */
struct device_measured {
    double s; /* that it took; 0: nothing was timed */
    double bytes_us, flops_us,
        step_us;       /* reading weights, multiplying many rows, the launches of a step; 0: not known */
    int shapes, timed; /* of products; timed in so many buckets of rows, all shapes together */
    int augment_ranks, augment_columns; /* of adapters as columns: up to this rank, so many at most behind k; 0: none */
    int augment_tried, augment_taken;   /* shapes in buckets of rows: with the same bits; of these, taken */
    double augment_with_us, augment_without_us; /* over all that were timed */
    char ways[512];                             /* of each shape, by rows: "4096x4096 bf16: small 1 dense 24; ..." */
};

/* Bytes on each device. */
struct device_plan {
    size_t weights, constants, kv, adapters, workspace, staging, total, memory;
    int kv_pages;
    size_t kv_page_bytes; /* of a layer */
    struct device_measured measured;
};

/* ERR_USAGE with the sums when it does not fit, or the shape cannot be shared by so many. */
int device_start(struct device *d, const struct device_shape *s, const struct device_const *c, int n,
                 struct device_plan *plan, struct err *e);

/* Handles of the arrays that a pass works in; their element types are the device's affair. */
enum device_room { ROOM_X, ROOM_Y, ROOM_Q, ROOM_K, ROOM_V, ROOM_H, ROOM_A, ROOM_LOGITS, ROOM_KV, ROOMS };
void *device_room(struct device *d, enum device_room which);

/* --- adapters --- */

/* The slot's table is brought over and can be used by steps that begin after this returned; the table keeps its address
 * until it is dropped. ERR_NO_SLOT: the pool has no room. */
int device_adapter_put(struct device *d, int slot, const struct lora_table *t, struct err *e);
/* No step that is begun from now on uses it. Does not wait: what takes its place does, for steps that were begun. */
void device_adapter_drop(struct device *d, int slot);

/* --- steps --- */

/* How the device chooses from a row of logits. Rows that it does not choose come back whole. */
#define DEVICE_GREEDY_BELOW 1e-5f /* a temperature: engine/sampler.c has the same */

struct device_choice {
    bool here;
    float temperature, top_p, min_p; /* below DEVICE_GREEDY_BELOW: greedy; 1: all; 0: off */
    int top_k;                       /* 0: all */
    uint64_t seed, index;
};

/* In the place of a token: the one that the device chose from wanted logit k of the step before. Not finite: token 0. */
#define TOKEN_CHOSEN(k) (-1 - (k))

struct device_step {
    int rows;
    const int32_t *token; /* or TOKEN_CHOSEN() */
    int nseq;
    const struct attn_seq *seq;
    const struct lora_batch *lora;      /* over the rows; tables that were put */
    const struct lora_batch *head_lora; /* over the wanted logits */
    int nlogits;
    const int *logit_row;
    const struct device_choice *choice; /* [nlogits]; NULL: all logits come back */
};

/* Rows and logits to walk with: those of the bucket. */
struct device_walk {
    bool needed;
    int rows, nlogits;
};

struct device_result {
    const float *logits;   /* [nlogits][vocab]; rows that the device chose from hold nothing */
    const int32_t *id;     /* [nlogits] of those that it chose from */
    const int32_t *finite; /* the same: 0 where a logit is NaN or infinite, and id means nothing */
};

int device_begin(struct device *d, const struct device_step *s, struct device_walk *walk, struct err *e);
/* Around the walk and to run the step, on the thread that serves device `rank` of the group. */
void device_enter(struct device *d, int rank);
void device_leave(struct device *d, int rank);
void device_launch(struct device *d, int rank);
/* The result is valid until the next step is finished, logits until the next is begun. */
int device_finish(struct device *d, struct device_result *out, struct err *e);

/* --- watching: any thread --- */

/* Opening, starting and bringing adapters may never come back from a device that hangs. `call` is the one that is under
 * way (NULL: none), `count` grows while it gets on. */
struct device_pulse {
    const char *call;
    uint64_t count;
};
void device_pulse(struct device_pulse *out);
/* Whether a call failed so that the device is of no use any more; *e: why. */
bool device_failed(const struct device *d, struct err *e);

/* Steps that made a graph, and those that replayed one. */
struct device_counts {
    uint64_t graphs, replays;
};
void device_counts(const struct device *d, struct device_counts *out);

/* --- what device.c and a backend agree on --- */

#define DEVICE_VERSION 2
#define DEVICE_SYMBOL "weft_device_backend"

struct device_backend {
    int version;
    size_t sizes; /* sizeof of the structs that cross, summed: DEVICE_SIZES */
    int (*open)(struct device **out, int first, int ranks, struct err *e);
    void (*close)(struct device *d);
    void (*about)(const struct device *d, struct device_about *out);
    const struct kernels *(*kernels)(const struct device *d);
    int (*start)(struct device *d, const struct device_shape *s, const struct device_const *c, int n,
                 struct device_plan *plan, struct err *e);
    void *(*room)(struct device *d, enum device_room which);
    int (*adapter_put)(struct device *d, int slot, const struct lora_table *t, struct err *e);
    void (*adapter_drop)(struct device *d, int slot);
    int (*begin)(struct device *d, const struct device_step *s, struct device_walk *walk, struct err *e);
    void (*enter)(struct device *d, int rank);
    void (*leave)(struct device *d, int rank);
    void (*launch)(struct device *d, int rank);
    int (*finish)(struct device *d, struct device_result *out, struct err *e);
    void (*counts)(const struct device *d, struct device_counts *out);
    bool (*failed)(const struct device *d, struct err *e);
    uint64_t (*progress)(void); /* counts what start and adapter_put got done */
};

#define DEVICE_SIZES                                                                                                   \
    (sizeof(struct kernels) + sizeof(struct mm) + sizeof(struct attn) + sizeof(struct embed) + sizeof(struct weight) + \
     sizeof(struct lora_table) + sizeof(struct lora_mod) + sizeof(struct lora_seg) + sizeof(struct device_shape) +     \
     sizeof(struct device_const) + sizeof(struct device_step) + sizeof(struct device_plan) + sizeof(struct moe))
