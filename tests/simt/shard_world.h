/* A model of one layer on a group of devices of the shim, for test_shard.c: made by the backend itself (device_start's
 * and device_adapter_put's own code), then read back from each device's memory. What uncut dimensions have (hidden) is
 * small; what is cut has the sizes of real models. */
#pragma once
#include "kernels/cuda/cuda.h"
#include "tests/simt/weights.h"

enum { PART_Q, PART_K, PART_V, PART_O, PART_GATE, PART_UP, PART_DOWN, PART_HEAD, PARTS };
enum { ALL_MODULES = 0x7f, MODULES = PART_HEAD };

struct shard_model_row {
    const char *name;
    int heads, kv_heads, head_dim, mlp, vocab;
    int kind;                       /* enum cuda_kind of its matrices */
    bool tied, bias;                /* head and embedding are one; q, k, v, o and the MLP have biases */
    int experts;                    /* > 0: the MLP is each expert's */
    bool can[RANKS_MAX + 1];        /* be shared by so many */
    const char *why[RANKS_MAX + 1]; /* not */
};

struct shard_adapter_row {
    int rank;
    unsigned modules; /* bits of PART_Q .. PART_DOWN */
    bool dora, head, whole;
};

/* A module as somebody holds it: all of it, or a rank's part. y = g (W x + scale B (A x)) + bias. */
struct held {
    int n, k, r;
    float scale;
    float *w, *a, *b, *g, *bias; /* [n][k], [r][k], [n][r], [n], [n]; NULL: none */
};

struct shard_world {
    const struct shard_model_row *row;
    const struct shard_adapter_row *adapter; /* NULL: the base alone */
    struct device_shape shape;
    struct weight w[PARTS], embed, other; /* other: in the head's and the embedding's place */
    struct weight expert[2][EXPERT_PARTS];
    const struct weight *layer_experts;
    float *bias[PARTS];
    struct lora_mod mod[MODULES], expert_mod[2 * EXPERT_PARTS], head_mod;
    struct lora_table table;
    struct device *device;
};

enum { WORLD_HIDDEN = 32 };

/* -1: the group can't share it, *e says why. */
int shard_world_open(struct shard_world *w, const struct shard_model_row *row, int ranks, struct err *e);
void shard_world_close(struct shard_world *w);
void shard_world_put(struct shard_world *w, const struct shard_adapter_row *a);
void shard_world_drop(struct shard_world *w);

struct held shard_whole(const struct shard_world *w, int part);
struct held shard_held(const struct shard_world *w, int part, int rank);
void held_free(struct held *h);
