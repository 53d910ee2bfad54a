/* Model families: what an architecture needs, as columns, and how a file's metadata becomes a shape. Private to
 * model*.c.
 *
 * The life of a load: family_of() finds the row, family_shape() reads the numbers into the model and the plan, text_load() the
 * vocabulary, rope_load() the tables of angles; model.c then fetches what the plan names. */
#pragma once
#include "engine/model.h"
#include "engine/source.h"

#define FAMILY_NAMES 3
#define CONTEXT_MAX (1 << 20) /* positions: tables of angles grow with them */

enum bias_rule {
    BIAS_NONE,
    BIAS_ALWAYS,
    BIAS_ASKED, /* config.json's attention_bias or mlp_bias; in a GGUF: where the tensors are */
};

enum window_rule {
    WINDOW_NONE,
    WINDOW_ALL,      /* sliding_window counts in every layer */
    WINDOW_SWITCHED, /* the same, with use_sliding_window */
    WINDOW_TAIL,     /* with use_sliding_window, from layer max_window_layers on, or as layer_types say */
    WINDOW_PATTERN,  /* all but each `pattern`th layer, or as layer_types say */
    WINDOW_UNTURNED, /* layers without rotation with use_sliding_window, or as layer_types say (SmolLM3) */
};

enum expert_rule {
    EXPERTS_NONE,
    EXPERTS_ALL,  /* every layer, when there are experts at all (Mixtral) */
    EXPERTS_STEP, /* decoder_sparse_step and mlp_only_layers choose layers (Qwen3-MoE) */
};

enum caps_rule { CAPS_NONE, CAPS_LOGITS, CAPS_BOTH };

struct family {
    const char *gguf[FAMILY_NAMES];  /* general.architecture, also the prefix of its keys */
    const char *type[FAMILY_NAMES];  /* config.json's model_type */
    const char *class[FAMILY_NAMES]; /* its architectures */
    enum bias_rule qkv_bias, o_bias, mlp_bias;
    bool qk_norm;         /* heads of q and k are normed */
    bool post_norms;      /* what a half adds is normed */
    bool norm_less_one;   /* Hugging Face's files hold norms as w - 1 */
    bool embed_scaled;    /* by sqrt(hidden) */
    bool query_scalar;    /* scores are scaled by 1/sqrt(query_pre_attn_scalar) */
    bool partial_rotary;  /* partial_rotary_factor counts */
    bool fused;           /* qkv_proj and gate_up_proj are the family's own modules */
    bool tied;            /* config.json without tie_word_embeddings means true */
    bool norm_topk_fixed; /* the chosen experts' weights always sum to 1 */
    enum mlp_act act;
    enum window_rule window;
    int window_default, pattern; /* of config.json without the key */
    enum expert_rule experts;
    enum caps_rule caps;
    int nope_interval; /* each such layer has no rotation (SmolLM3); 0: all rotate */
    double theta;      /* default of rope_theta */
    double local_base; /* windowed layers rotate with this base by default; 0: with the model's */
    double eps;        /* default of rms_norm_eps */
    int original; /* original_max_position_embeddings of a config.json without it, before its rope settings; 0: none */
    int heads, kv_heads, head_dim, scalar, context, hidden,
        mlp; /* defaults of a config.json that leaves them out; 0: needed, or derived */
    double attn_cap, logit_cap;
    int big_layers; /* GGUF says nothing of the scalar: a model of so many layers has hidden/heads, others head_dim */
};

/* Metadata of either world: `g` or `j` is set. */
struct meta {
    const struct family *f;
    const char *arch; /* prefix of GGUF keys */
    const struct gguf *g;
    const json_t *j;    /* config.json, of a composite its text part */
    const json_t *root; /* config.json itself */
};

/* How positions become angles. Numbers as transformers' modeling_rope_utils names them. */
enum rope_type { ROPE_PLAIN, ROPE_LINEAR, ROPE_DYNAMIC, ROPE_YARN, ROPE_LONG, ROPE_LLAMA3, ROPE_TYPES };
struct rope_spec {
    enum rope_type type;
    double base, factor;
    double attention;           /* cosines and sines are multiplied by it */
    double low_freq, high_freq; /* llama3 */
    double beta_fast, beta_slow;
    bool whole;   /* yarn: the bounds of its ramp are rounded to whole dimensions */
    int original; /* the length that the unscaled frequencies were trained for */
    int normal;   /* context when none is asked for */
    int reach;    /* longest context */
    double partial;
    float *divisor; /* [rotary/2] or NULL: each frequency is divided by its own (GGUF's llama3 tables) */
    float *near_factor, *far_factor; /* longrope: the same up to the original length, beyond it */
    int factors;                     /* elements of those two */
};
void rope_spec_close(struct rope_spec *r);

struct layer_plan {
    int window, sinks;
    bool local;    /* rotates with the local table */
    bool unturned; /* doesn't rotate */
    bool sparse;   /* has experts */
    int heads, kv_heads, mlp; /* its own; 0: no attention, no MLP (of a sparse layer mlp means nothing) */
};

/* What family_shape() found beside the model's own numbers. */
struct model_plan {
    const struct family *f;
    bool bias[LORA_MODULES];
    bool tied;
    bool own_local; /* windowed layers have a table of their own */
    struct rope_spec rope, local;
    const struct model_reach *reach; /* or NULL: nothing is asked for */
    struct layer_plan *layer; /* [layers] */
};
void model_plan_close(struct model_plan *p);

/* The row of the source's architecture; -1 with ERR_MODEL naming it. */
int family_of(const struct source *s, struct meta *out, struct err *e);
int family_of_config(const json_t *config, const json_t *root, struct meta *out, struct err *e);

/* Fills the numbers of `m` (layers .. norm_topk, max_context) and the plan. What would change the result and is not
 * served is refused by its key. max_context 0: the model's own. */
int family_shape(const struct meta *c, const struct source *s, int max_context, struct model *m, struct model_plan *p,
                 struct err *e);
/* Its parts that know of layers. Heads and widths (model_widths.c): takes p->layer, fills the model's heads, kv_heads, mlp, uneven. */
int family_widths(const struct meta *c, struct model *m, struct model_plan *p, struct err *e);
/* Windows, experts, rotation (model_layers.c). */
int family_layers(const struct meta *c, const struct source *s, struct model *m, struct model_plan *p, struct err *e);

/* --- numbers of either world (model_meta.c): absent or null leaves *out as it is --- */

/* `gguf` comes after "ARCH."; NULL: that world has no such key. */
struct meta_key {
    const char *gguf, *hf;
};
bool meta_has(const struct meta *c, struct meta_key k);
int meta_int(const struct meta *c, struct meta_key k, int min, int max, int multiple, int *out, struct err *e);
int meta_num(const struct meta *c, struct meta_key k, double min, double max, double *out, struct err *e);
int meta_bool(const struct meta *c, struct meta_key k, bool *out, struct err *e);
/* A list of n whole numbers, one for each layer; *out: free(). */
bool meta_is_list(const struct meta *c, struct meta_key k);
int meta_list(const struct meta *c, struct meta_key k, int min, int max, int multiple, int n, int **out, struct err *e);
/* The key as messages name it: "llama.block_count", "config.json: num_hidden_layers". */
const char *meta_name(const struct meta *c, struct meta_key k, char name[128]);

/* --- rope (model_rope.c computes, model_rope_meta.c reads) --- */

/* `context`: the model's own, `head_dim` known. Fills r->normal and r->reach. `local`: of windowed layers. */
int rope_read(const struct meta *c, const struct source *s, int context, int head_dim, bool local, struct rope_spec *r,
              struct err *e);
int rope_check(const struct rope_spec *r, struct err *e);
/* What yarn and longrope multiply cosines and sines with, from mscale and mscale_all_dim; 1 for others. */
double rope_usual_attention(const struct rope_spec *r, double mscale, double all);
/* Frequencies [rotary/2] for a context of that length. */
void rope_frequencies(const struct rope_spec *r, int context, int rotary, float *freq);
/* The model's tables, and every layer's pointer to its own. */
int rope_load(struct model *m, const struct model_plan *p, struct err *e);

/* --- beyond what the files say (model_reach.c) --- */

/* The scaling that is asked for takes the place of the files'. `own`: the model's context. */
int reach_rope(const struct model_reach *w, int own, struct rope_spec *r, struct err *e);
/* The longest context, given the model's spec. */
int reach_context(const struct model_reach *w, const struct rope_spec *r);
/* The length that scalings which depend on it are made for: what a position may be away from another. */
int reach_length(const struct model_reach *w, int context);
/* Windows and sinks of the layers that see farther. */
void reach_windows(const struct model_reach *w, const struct model *m, struct model_plan *p);

/* --- text (model_text.c) --- */

/* Tokenizer and chat template. */
int text_load(const struct source *s, struct model *m, struct err *e);

/* --- names (model_name.c) --- */

/* The model's name, `created` and desc, but for the digest. `name` NULL or "": from the path. */
int model_describe(const struct meta *c, const struct model_plan *p, const char *path, const char *name,
                   struct model *m, struct err *e);
