/* A base model: its shape, its packed weights, its tokenizer and chat template. Immutable after loading; any thread may
 * read it.
 *
 * Families are rows of the table in model_family.c; an architecture that is no row is refused by name. GGUF llama files have the rows
 * of q and k permuted for interleaved rope: they are put back into Hugging Face's order at load, so that adapters (trained in
 * that order) need no special case and rope rotates halves. */
#pragma once
#include "adapters/adapter.h"
#include "engine/chat.h"
#include "engine/tokenizer.h"
#include "kernels/ops.h"

struct model_layer {
    float *attn_norm, *mlp_norm; /* [hidden] */
    struct weight module[LORA_MODULES];
    float *bias[LORA_MODULES]; /* [out]; NULL: none */
};

struct model {
    char name[128];            /* served name */
    struct base_desc desc;
    enum precision prec;
    int layers, hidden, heads, kv_heads, head_dim, mlp, vocab;
    int max_context;           /* tokens */
    float norm_eps;
    struct weight embed;       /* [vocab][hidden] */
    struct weight *head;       /* lm_head: own, or &embed when tied */
    struct weight head_own;
    float *final_norm;
    struct model_layer *layer;
    float *rope;               /* [max_context][head_dim/2][2] */
    unsigned act_forms;        /* what activations the layouts multiply with (enum act_form) */
    struct tokenizer *tok;
    struct chat_template *chat; /* NULL: the file has none */
    size_t weight_bytes;
    int64_t created;           /* unix seconds: the file's mtime */
};

/* name NULL: from the file's name, lower case, without the type suffix ("SmolLM2-135M-Instruct.Q4_1.gguf" ->
 * "smollm2-135m-instruct"). max_context 0: the model's own. Logs the plan: layouts and bytes. */
int model_load(struct model **out, const char *path, const char *name, enum precision prec, int max_context, struct err *e);
void model_free(struct model *m);
