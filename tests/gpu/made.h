/* Models without a file: a shape, and weights that the device makes itself (kernels/cuda/fill.h), so that 8 billion of them
 * cost neither a download nor the host's memory. With what a bench of passes needs: the device started with it, adapters
 * of one rank on all modules, sequences with their pages, decoding steps whose tokens the device chooses.
 *
 * Failures end the program with the reason: there is nothing to go on with. One at a time per process. */
#pragma once
#include "engine/forward.h"
#include "engine/kv.h"
#include "engine/model_device.h"

#define MADE_ADAPTERS 32
#define MADE_BATCH 128

struct made_shape {
    const char *name;
    int layers, hidden, heads, kv_heads, head_dim, mlp, vocab;
    double theta;
    bool bias, tied; /* of q, k, v; head and embedding */
};
extern const struct made_shape made_shapes[];
extern const int made_count;
const struct made_shape *made_named(const char *name); /* NULL: none */

struct made {
    struct model *m;
    struct device *device;
    struct device_plan plan;
    struct pool *pool;
    struct kv_pool kv;
    struct forward *f;
    struct lora_table table[MADE_ADAPTERS];
    struct lora_mod *mod; /* of all tables: the same values, at places of their own on the device */
    void *mod_bytes;
    int rank, context, most_rows;
    struct kv_seq seq[MADE_BATCH];
};

/* Room for `batch` sequences of `context` tokens, and as many adapters as `adapters` of rank `rank`. */
void made_open(struct made *w, const struct made_shape *s, int batch, int context, int adapters, int rank);
void made_close(struct made *w);

/* Decoding: row i is sequence i at position pos with token[i]; adapters are dealt in runs, of[i] (-1: none) if it is not NULL.
 * token[] becomes what was chosen; logits != NULL: no choice, the rows' logits [batch][vocab] instead. */
struct made_step {
    int batch, pos, adapters;
    const int *of;
    int32_t *token;
    float *logits;
};
void made_decode(struct made *w, const struct made_step *s);
/* Prompts of positions 0 .. length-1 for `batch` sequences, by the base. */
void made_prefill(struct made *w, int batch, int length);

/* What a decoding step has to read: weights, keys and values, adapters. */
double made_bytes(const struct made *w, int batch, int pos, int adapters);
