/* Model families: what a GGUF architecture needs, as columns, and how its metadata becomes a shape. Private to
 * model*.c. */
#pragma once
#include "engine/gguf.h"
#include "engine/model.h"

struct family {
    const char *arch;    /* general.architecture, also the prefix of its keys */
    bool interleaved_qk; /* the converter stored the rows of q and k for interleaved rope */
    bool qkv_bias;       /* q, k and v have a bias vector */
};

/* How positions become angles. */
struct rope_spec {
    double base;   /* rope.freq_base */
    double factor; /* linear scaling: positions are divided by it; 1: none */
};

/* The row of the file's architecture; NULL with ERR_MODEL naming it. */
const struct family *family_of(const struct gguf *g, struct err *e);

/* Fills the numbers of `m` (layers .. norm_eps, max_context) and `r` from the metadata. What would change the result
 * and is not served is refused by its key. max_context 0: the model's own. */
int family_shape(const struct family *f, const struct gguf *g, int max_context, struct model *m, struct rope_spec *r,
                 struct err *e);

/* The table of cosines and sines, [max_context][head_dim/2][2], in model_rope.c. `divisor`: [head_dim/2] or NULL, each
 * frequency is divided by its own (Llama 3's rope_freqs). NULL: out of memory. */
float *rope_table(const struct rope_spec *r, const float *divisor, int max_context, int head_dim);

/* row_of for un-permuting q or k: entry i is the file's row of output row i. */
void qk_row_order(int heads, int head_dim, int *row_of);
