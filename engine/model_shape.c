/* model_shape: metadata checked into a shape.
 *
 * The numbers are rows of a table with their range, so a file with an absurd value is refused by the key's name before
 * anything is allocated from it; what changes the result and is not served is a row of another one.
 *
 * Guaranteed after family_shape(): every product of two numbers of the shape fits an int, the dimensions that the
 * kernels need in multiples are so, and no setting that would change the result was passed over.
 *
 * The context: the model's own, but at most CONTEXT_USUAL where none is asked for, since the tables of angles and the
 * scheduler's bounds grow with it (a million positions are half a gigabyte of angles that hardly anybody uses); where the scaling of
 * rotary positions serves two lengths (longrope, dynamic, yarn beyond max_position_embeddings) the shorter is the usual one,
 * and a longer one has to be asked for because it changes the answers to short prompts.
 *
 * Called at load only. */
#include "base/log.h"
#include "engine/model_family.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LAYERS_MAX 1024
#define HIDDEN_MAX 65536
#define VOCAB_MAX (1 << 20)
#define CONTEXT_USUAL 131072

/* What helps where a file lacks something. */
#define AGAIN(c) ((c)->g ? "convert the model again" : "take the file that save_pretrained() wrote")

static const struct number {
    struct meta_key key;
    size_t field;  /* an int of struct model */
    size_t preset; /* an int of struct family: what config.json means without the key; 0: none */
    int min, max;
    int multiple; /* of which the value has to be */
} numbers[] = {
#define FIELD(f) offsetof(struct model, f)
#define PRESET(f) offsetof(struct family, f)
    {{"block_count", "num_hidden_layers"}, FIELD(layers), 0, 1, LAYERS_MAX, 1},
    {{"embedding_length", "hidden_size"}, FIELD(hidden), PRESET(hidden), 32, HIDDEN_MAX, 32},
    {{"context_length", "max_position_embeddings"}, FIELD(max_context), PRESET(context), 1, CONTEXT_MAX, 1},
#undef FIELD
#undef PRESET
};

/* Values that change the result: each is served where it is `neutral`, and not otherwise. */
static const struct refused {
    struct meta_key key;
    double neutral;
} refused[] = {
    {{"logit_scale", NULL}, 1},
    {{"residual_scale", NULL}, 1},
    {{"embedding_scale", NULL}, 1},
    {{"attention.scale", NULL}, 0},
    {{"attention.output_scale", NULL}, 1},
    {{"attention.value_scale", NULL}, 1},
    {{"attention.temperature_scale", NULL}, 0},
    {{"attention.clamp_kqv", NULL}, 0},
    {{"attention.max_alibi_bias", NULL}, 0},
    {{"router_logit_softcapping", NULL}, 0},
    {{"expert_shared_count", NULL}, 0},
    {{"expert_weights_scale", NULL}, 1},
    {{"expert_gating_func", NULL}, 1}, /* 1: softmax */
    {{"expert_group_count", NULL}, 1},
    {{"nextn_predict_layers", "num_nextn_predict_layers"}, 0},
    {{NULL, "shared_expert_intermediate_size"}, 0},
};
static const struct refused_flag {
    struct meta_key key;
    bool neutral;
} refused_flags[] = {
    {{"attention.causal", "is_causal"}, true},
    {{"use_parallel_residual", NULL}, false},
    {{NULL, "use_bidirectional_attention"}, false},
    {{NULL, "add_cross_attention"}, false},
};

static int read_numbers(const struct meta *c, struct model *m, struct err *e)
{
    char name[128];
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const struct number *n = &numbers[i];
        int v = 0;
        if (c->j && n->preset) memcpy(&v, (const char *)c->f + n->preset, sizeof v);
        if (meta_int(c, n->key, n->min, n->max, n->multiple, &v, e)) return -1;
        if (!v) return err_set(e, ERR_MODEL, "%s is missing; %s", meta_name(c, n->key, name), AGAIN(c));
        memcpy((char *)m + n->field, &v, sizeof v);
    }
    const struct meta_key key = {"attention.layer_norm_rms_epsilon", "rms_norm_eps"};
    double eps = c->j ? c->f->eps : 0;
    if (meta_num(c, key, 0, 1, &eps, e)) return -1;
    if (c->g && !meta_has(c, key))
        return err_set(e, ERR_MODEL, "%s is missing; convert the model again", meta_name(c, key, name));
    if (!((float)eps > 0 && eps < 1)) /* one that is 0 in float32 would divide a row of zeros by 0 */
        return err_set(e, ERR_MODEL, "%s is %g: a value between 0 and 1 is needed", meta_name(c, key, name), eps);
    m->norm_eps = (float)eps;
    return 0;
}

static const struct meta_key heads_key = {"attention.head_count", "num_attention_heads"},
                             kv_key = {"attention.head_count_kv", "num_key_value_heads"},
                             dim_key = {"attention.key_length", "head_dim"},
                             value_key = {"attention.value_length", NULL};

/* A layer's heads, where it has any. */
static int check_layer(const struct meta *c, const struct layer_plan *l, int head_dim, struct err *e)
{
    char a[128], b[128];
    if (!l->heads) return 0;
    if (l->heads % l->kv_heads)
        return err_set(e, ERR_MODEL, "%s is %d and %s %d: %d heads cannot share %d key-value heads evenly",
                       meta_name(c, heads_key, a), l->heads, meta_name(c, kv_key, b), l->kv_heads, l->heads,
                       l->kv_heads);
    if ((l->heads * head_dim) % 32)
        return err_set(e, ERR_MODEL, "%s is %d and %s %d: their product is not a multiple of 32",
                       meta_name(c, heads_key, a), l->heads, meta_name(c, dim_key, b), head_dim);
    return 0;
}

static int check_heads(const struct meta *c, const struct model *m, const struct model_plan *p, int value,
                       struct err *e)
{
    char a[128];
    if (m->head_dim < 2 || m->head_dim % 2 || m->head_dim > HEAD_DIM_MAX)
        return err_set(e, ERR_MODEL, "%s: a head size of %d is not served (even, 2 to %d)", meta_name(c, dim_key, a),
                       m->head_dim, HEAD_DIM_MAX);
    for (int i = 0; i < m->layers; i++)
        if (check_layer(c, &p->layer[i], m->head_dim, e)) return -1;
    if (value != m->head_dim)
        return err_set(e, ERR_MODEL, "%s: values of %d beside keys of %d per head are not served; both must be equal",
                       meta_name(c, value_key, a), value, m->head_dim);
    return 0;
}

/* llama.cpp takes as many as there are heads where the key is missing; a file that has fewer lacks it. */
static int check_stated(const struct meta *c, const struct source *s, const struct model *m, struct err *e)
{
    char name[128];
    int64_t rows = 0, cols = 0;
    if (!c->g || meta_has(c, kv_key) || !source_shape(s, &(struct spot){.at = AT_K}, &rows, &cols) ||
        rows == (int64_t)m->kv_heads * m->head_dim)
        return 0;
    return err_set(e, ERR_MODEL,
                   "%s is missing, and blk.0.attn_k.weight has %lld rows, not those of %d heads of %d; %s",
                   meta_name(c, kv_key, name), (long long)rows, m->kv_heads, m->head_dim, AGAIN(c));
}

/* Where layers have different numbers of heads, hidden/heads says nothing. */
static int check_known(const struct meta *c, const struct model *m, const struct model_plan *p, struct err *e)
{
    char name[128];
    bool same = meta_has(c, dim_key) || (c->j && c->f->head_dim);
    for (int i = 0; i < m->layers && !same; i++)
        if (p->layer[i].heads && p->layer[i].heads != m->heads)
            return err_set(e, ERR_MODEL, "%s is missing, and layers have different numbers of heads",
                           meta_name(c, dim_key, name));
    return 0;
}

static int read_heads(const struct meta *c, const struct source *s, struct model *m, const struct model_plan *p,
                      struct err *e)
{
    m->head_dim = c->j && c->f->head_dim ? c->f->head_dim : m->hidden / m->heads;
    if (meta_int(c, dim_key, 2, HEAD_DIM_MAX, 1, &m->head_dim, e) || check_known(c, m, p, e)) return -1;
    int value = m->head_dim;
    if (meta_int(c, value_key, 2, HEAD_DIM_MAX, 1, &value, e)) return -1;
    return check_heads(c, m, p, value, e) || check_stated(c, s, m, e) ? -1 : 0;
}

/* Dimensions that rotate: GGUF states them, config.json the part of the head that they are. */
static int read_rotary(const struct meta *c, const struct rope_spec *r, struct model *m, struct err *e)
{
    char name[128];
    m->rotary = c->j ? (int)(m->head_dim * r->partial) : m->head_dim;
    if (meta_int(c, (struct meta_key){"rope.dimension_count", NULL}, 2, HEAD_DIM_MAX, 1, &m->rotary, e)) return -1;
    if (m->rotary == m->head_dim) return 0;
    if (!c->f->partial_rotary || m->rotary > m->head_dim || m->rotary < 2 || m->rotary % 2)
        return err_set(e, ERR_MODEL,
                       "%s: rope over %d of %d dimensions of a head is not served; of this family all must turn",
                       c->g ? meta_name(c, (struct meta_key){"rope.dimension_count", NULL}, name)
                            : meta_name(c, (struct meta_key){NULL, "partial_rotary_factor"}, name),
                       m->rotary, m->head_dim);
    return 0;
}

static int read_refused(const struct meta *c, struct err *e)
{
    char name[128];
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const struct refused *r = &refused[i];
        double v = r->neutral;
        if (meta_num(c, r->key, -1e300, 1e300, &v, e)) return -1;
        if (v != r->neutral && v != 0)
            return err_set(e, ERR_MODEL, "%s is %g: it changes the answers and is not served; %g, or none, is",
                           meta_name(c, r->key, name), v, r->neutral);
    }
    for (size_t i = 0; i < sizeof refused_flags / sizeof *refused_flags; i++) {
        const struct refused_flag *r = &refused_flags[i];
        bool v = r->neutral;
        if (meta_bool(c, r->key, &v, e)) return -1;
        if (v != r->neutral)
            return err_set(e, ERR_MODEL, "%s is %s, which is not served; a model trained with %s is needed",
                           meta_name(c, r->key, name), v ? "true" : "false", v ? "false" : "true");
    }
    return 0;
}

static int check_activation(const struct meta *c, struct err *e)
{
    static const struct {
        const char *key, *value[2];
    } known[] = {[MLP_SILU] = {"hidden_act", {"silu", "swish"}},
                 [MLP_GELU_TANH] = {"hidden_activation", {"gelu_pytorch_tanh", "gelu_new"}}};
    const char *key = known[c->f->act].key, *const *want = known[c->f->act].value;
    const json_t *v = c->j ? json_object_get(c->j, key) : NULL;
    if (!v || json_is_null(v)) return 0;
    const char *s = json_string_value(v);
    if (s && (strcmp(s, want[0]) == 0 || strcmp(s, want[1]) == 0)) return 0;
    return err_set(e, ERR_MODEL,
                   "config.json: %s is %.64s: for %s only %s is served; a model trained with it is needed", key,
                   s ? s : "no string", c->f->class[0], want[0]);
}

/* Soft caps count in families that have them. transformers passes over a cap of the scores in Gemma 3 and
 * llama.cpp's converter refuses it, so nobody knows what it would mean there. */
static int read_caps(const struct meta *c, struct model *m, struct err *e)
{
    const struct meta_key attn = {"attn_logit_softcapping", "attn_logit_softcapping"},
                          logit = {"final_logit_softcapping", "final_logit_softcapping"};
    char name[128];
    bool absent_attn = c->g || !json_object_get(c->j, attn.hf), absent_logit = c->g || !json_object_get(c->j, logit.hf);
    double a = absent_attn ? c->f->attn_cap : 0, l = absent_logit ? c->f->logit_cap : 0;
    if (meta_num(c, attn, 0, 1e6, &a, e) || meta_num(c, logit, 0, 1e6, &l, e)) return -1;
    if ((a > 0 && c->f->caps != CAPS_BOTH) || (l > 0 && c->f->caps == CAPS_NONE))
        return err_set(e, ERR_MODEL,
                       "%s is %g: this family has no such cap; set it to null, which is what transformers computes",
                       meta_name(c, a > 0 && c->f->caps != CAPS_BOTH ? attn : logit, name), a > 0 ? a : l);
    if (l > 0 && c->j != c->root)
        return err_set(e, ERR_MODEL,
                       "config.json: text_config: final_logit_softcapping is %g, which transformers passes over in %s; "
                       "set it to null, or serve the text model alone",
                       l, c->f->class[1]);
    m->attn_softcap = (float)a;
    m->logit_softcap = (float)l;
    return 0;
}

static int read_scales(const struct meta *c, struct model *m, struct err *e)
{
    m->act = c->f->act;
    m->embed_scale = c->f->embed_scaled ? sqrtf((float)m->hidden) : 1;
    double scalar = m->head_dim;
    if (c->f->query_scalar && c->g && m->layers == c->f->big_layers) scalar = m->hidden / m->heads;
    if (c->f->query_scalar && c->j) {
        scalar = c->f->scalar;
        if (meta_num(c, (struct meta_key){NULL, "query_pre_attn_scalar"}, 1e-3, 1e6, &scalar, e)) return -1;
    }
    m->attn_scale = (float)(1 / sqrt(scalar));
    return 0;
}

static int read_vocab(const struct meta *c, const struct source *s, struct model *m, struct err *e)
{
    int64_t rows = 0, cols = 0;
    const struct meta_key key = {"vocab_size", "vocab_size"};
    char name[128];
    int stated = 0;
    if (!source_has(s, &(struct spot){.at = AT_EMBED}))
        return err_set(e, ERR_MODEL, "the tensor %s is missing%s",
                       c->g ? "token_embd.weight" : "model.embed_tokens.weight",
                       c->g ? "; convert the model again"
                            : ", under every known prefix: this is no decoder's checkpoint, or a shard is missing");
    bool known = source_shape(s, &(struct spot){.at = AT_EMBED}, &rows, &cols);
    if (meta_int(c, key, 1, VOCAB_MAX, 1, &stated, e)) return -1;
    if (!known) rows = stated;
    if (rows < 1 || rows > VOCAB_MAX)
        return err_set(e, ERR_MODEL, "the embedding has an odd shape: a matrix of 1 to %d rows is needed", VOCAB_MAX);
    if (stated && stated != rows)
        return err_set(e, ERR_MODEL, "%s is %d, the embedding has %lld rows", meta_name(c, key, name), stated,
                       (long long)rows);
    m->vocab = (int)rows;
    return 0;
}

/* Which matrices have a vector beside them. */
static int read_biases(const struct meta *c, const struct source *s, struct model_plan *p, struct err *e)
{
    bool attention = false, mlp = false;
    if (c->j && (meta_bool(c, (struct meta_key){NULL, "attention_bias"}, &attention, e) ||
                 meta_bool(c, (struct meta_key){NULL, "mlp_bias"}, &mlp, e)))
        return -1;
    for (int i = 0; i < LORA_MODULES; i++) {
        enum bias_rule rule = i <= LM_V ? c->f->qkv_bias : i == LM_O ? c->f->o_bias : c->f->mlp_bias;
        bool asked = c->j ? (i <= LM_O ? attention : mlp)
                          : source_has(s, &(struct spot){.at = (enum place)(AT_Q + i), .bias = true});
        p->bias[i] = rule == BIAS_ALWAYS || (rule == BIAS_ASKED && asked);
    }
    return 0;
}

static int read_tied(const struct meta *c, const struct source *s, struct model_plan *p, struct err *e)
{
    const struct meta_key key = {NULL, "tie_word_embeddings"};
    const struct meta whole = {.f = c->f, .j = c->root, .root = c->root};
    p->tied = c->f->tied;
    if (c->g)
        p->tied = !source_has(s, &(struct spot){.at = AT_HEAD});
    else if (meta_bool(c, key, &p->tied, e) || (c->root != c->j && meta_bool(&whole, key, &p->tied, e)))
        return -1;
    if (c->j && !p->tied && !source_has(s, &(struct spot){.at = AT_HEAD}))
        return err_set(e, ERR_MODEL,
                       "config.json: tie_word_embeddings is false, and the tensors model.embed_tokens.weight and "
                       "lm_head.weight are not both there; set it to true where they are one, or download them again");
    return 0;
}

static int set_context(const struct rope_spec *r, int limit, int asked, struct model *m, struct err *e)
{
    if (asked > limit)
        return err_set(e, ERR_USAGE, "max_context is %d, the model's own limit is %d", asked, limit);
    m->max_context = asked > 0 ? asked : r->normal;
    if (asked > 0 || m->max_context <= CONTEXT_USUAL) return 0;
    log_info("model_context", LI("own", m->max_context), LI("served", CONTEXT_USUAL),
             LS("hint", "set max_context for more"));
    m->max_context = CONTEXT_USUAL;
    return 0;
}

int family_shape(const struct meta *c, const struct source *s, int max_context, struct model *m, struct model_plan *p,
                 struct err *e)
{
    p->f = c->f;
    if (read_numbers(c, m, e) || family_widths(c, m, p, e) || read_heads(c, s, m, p, e)) return -1;
    if (read_refused(c, e) || check_activation(c, e)) return -1;
    if (read_caps(c, m, e) || read_scales(c, m, e) || read_vocab(c, s, m, e)) return -1;
    if (read_biases(c, s, p, e) || read_tied(c, s, p, e)) return -1;
    if (rope_read(c, s, m->max_context, m->head_dim, false, &p->rope, e) || read_rotary(c, &p->rope, m, e)) return -1;
    if (reach_rope(p->reach, m->max_context, &p->rope, e)) return -1;
    p->own_local = c->f->local_base > 0;
    if (p->own_local && rope_read(c, s, m->max_context, m->head_dim, true, &p->local, e)) return -1;
    if (set_context(&p->rope, reach_context(p->reach, &p->rope), max_context, m, e) || family_layers(c, s, m, p, e)) return -1;
    reach_windows(p->reach, m, p);
    return 0;
}

void model_plan_close(struct model_plan *p)
{
    rope_spec_close(&p->rope);
    rope_spec_close(&p->local);
    free(p->layer);
    p->layer = NULL;
}
