/* A base model: its shape, its packed weights, its tokenizer and chat template. Immutable after loading; any thread may
 * read it.
 *
 * Families are rows of the table in model_family.c; an architecture that is no row is refused by name. Where the files lie
 * (GGUF, a Hugging Face directory, a packed file) is source.h's affair: whatever it was, rows of q and k are in Hugging Face's order here,
 * so that adapters (trained in that order) need no special case and rope rotates halves. */
#pragma once
#include "adapters/adapter.h"
#include "engine/chat.h"
#include "engine/tokenizer.h"
#include "kernels/ops.h"

/* gate, up and down of one expert, in the order LM_GATE, LM_UP, LM_DOWN. */
struct model_expert {
    struct weight part[3];
};

struct model_layer {
    float *attn_norm, *mlp_norm;        /* [hidden] */
    float *attn_post, *mlp_post;        /* [hidden] or NULL: norm of what a half adds, before it is added (Gemma) */
    float *q_norm, *k_norm;             /* [head_dim] or NULL: norm of each head before it rotates (Qwen3, Gemma) */
    struct weight module[LORA_MODULES]; /* in a layer of experts gate, up and down have n 0; in one without attention
                                         * q, k, v and o, in one without an MLP the others */
    float *bias[LORA_MODULES];          /* [out]; NULL: none */
    int window;                         /* 0: attention sees all */
    int sinks;                          /* positions that it sees besides its window: kernels/ops.h */
    const float *rope;                  /* one of the model's tables, [max_context][rotary/2][2]; NULL: model.rope */
    struct weight router;        /* [experts][hidden], packed PREC_EXACT: its logits are float32; n 0: a dense layer */
    struct model_expert *expert; /* [experts] or NULL */
};

struct model {
    char name[128]; /* served name */
    struct base_desc desc;
    enum precision prec;
    int layers, hidden, heads, kv_heads, head_dim, mlp, vocab;
    bool uneven; /* heads, kv_heads and mlp are those of the largest layer: what one has, its matrices tell */
    int tokens;      /* of the vocabulary: rows of the embedding beyond are padding, their ids are never sampled */
    int max_context; /* tokens */
    float norm_eps;
    int rotary;                        /* dimensions of a head that rotate; 0: all */
    float attn_scale;                  /* of the scores; 0: 1/sqrt(head_dim) */
    float attn_softcap, logit_softcap; /* 0: none */
    float embed_scale;                 /* of the embedding's rows; 0: 1 */
    enum mlp_act act;
    int experts, experts_used, expert_mlp; /* 0: no layer has experts */
    bool norm_topk;                        /* the weights of the chosen experts are made to sum to 1 */
    struct weight embed;                   /* [vocab][hidden] */
    struct weight *head;                   /* lm_head: own, or &embed when tied */
    struct weight head_own;
    float *final_norm;
    struct model_layer *layer;
    float *rope,                 /* [max_context][rotary/2][2] */
        *rope_local,             /* of windowed layers, where they have their own, or NULL */
        *rope_none;              /* of layers that don't rotate, or NULL: cosines 1, sines 0 */
    struct source *from;         /* of a packed file: what its weights lie in; NULL otherwise */
    struct model_keeper *keeper; /* model_keep.h; NULL: nothing to do */
    bool copied;                 /* came from the cache's copy */
    unsigned act_forms;          /* what activations the layouts and adapters multiply with (enum act_form) */
    bool bf16_for_adapters;      /* and no layout does with bf16 */
    struct tokenizer *tok;
    struct chat_template *chat; /* NULL: the file has none */
    size_t weight_bytes;
    int64_t created; /* unix seconds: the file's mtime */
};

/* Of a layer; 0: it has no attention. */
static inline int model_heads(const struct model *m, int layer)
{
    return m->uneven ? m->layer[layer].module[LM_Q].n / m->head_dim : m->heads;
}
static inline int model_kv_heads(const struct model *m, int layer)
{
    return m->uneven ? m->layer[layer].module[LM_K].n / m->head_dim : m->kv_heads;
}

static inline int model_mlp(const struct model *m, int layer)
{
    return m->uneven ? m->layer[layer].module[LM_DOWN].k : m->mlp;
}

struct cache;

/* What a base is served with beyond what its files say: docs/LONG_CONTEXT.md. All zero: nothing. */
struct model_reach {
    const char *scaling;  /* of rotary positions: NULL or "" as the files say, else "none", "linear" or "yarn" */
    double factor, theta; /* of that scaling; the base of the frequencies, 0: the files' */
    int original;         /* the length that the unscaled frequencies were trained for; 0: the files' */
    int window, sinks;    /* layers that see farther see the last `window` positions and the first `sinks` only; 0: no such window */
};

struct model_options {
    const char *name; /* NULL: from the path, see model_load() */
    enum precision prec;
    int max_context;
    struct model_reach reach;
    struct cache *cache; /* NULL: none; outlives the model */
    /* Weights of a packed file stay in the file's pages, shared by all engines that map it; else they are moved into this process's 2 MB
     * pages after the start. */
    bool keep_mapped;
};

/* As model_load(), and with a cache: a copy in it is mapped instead of packing the base anew, and where there is none one is written, after
 * this returned. The model is the same, bit for bit, digest and name included. */
int model_open(struct model **out, const char *path, const struct model_options *o, struct err *e);

/* Where the weights lie, at this moment. */
struct model_memory {
    const char *from; /* "packed" at this start, from the cache's "copy", from the packed "file" that was given */
    size_t weights;   /* bytes */
    size_t huge;      /* of them in this process's own blocks: 2 MB pages, where the system gives them */
    size_t mapped;    /* of them in the file's pages */
};
void model_memory(const struct model *m, struct model_memory *out);

/* path: a GGUF file, a Hugging Face directory or a packed file. name NULL: from the file's or directory's name, lower case, without
 * the type suffix ("SmolLM2-135M-Instruct.Q4_1.gguf" -> "smollm2-135m-instruct"; a snapshot in Hugging Face's cache has its
 * repository's). max_context 0: the model's own, of a rope scaling that answers short prompts otherwise (longrope, dynamic) its original
 * one, and 131,072 at most. Logs the plan: formats, layouts and bytes. */
int model_load(struct model **out, const char *path, const char *name, enum precision prec, int max_context,
               struct err *e);
/* Replace the chat template by that of a file (--chat-template); before anybody renders with it. */
int model_set_chat(struct model *m, const char *path, struct err *e);
void model_free(struct model *m);
