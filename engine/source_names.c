/* source_names: which tensor of a file stands for which place of a model.
 *
 * Two tables, one per world; a family is served when its names are rows here. '#' in a name is the layer, '@' the expert. A place may have
 * several rows, and the first whose tensor is there counts: so Mixtral's names stand beside Qwen's, and stacks of experts beside single
 * ones. Where one name means different things in different families (post_attention_layernorm is the norm before the MLP for Llama, that
 * behind attention for Gemma), a row says beside what, or without what, it counts.
 *
 * Hugging Face's names come behind a prefix that depends on what the model was wrapped into; the embedding tells which.
 *
 * Sources: transformers' modeling files; llama.cpp's gguf-py/gguf/constants.py and converters. Called at load only. */
#include "engine/source_impl.h"
#include <stdio.h>
#include <string.h>

struct name_row {
    enum place at;
    const char *stem;
    enum form form;
    const char *beside, *without; /* whole names of tensors, or NULL */
};

static const struct name_row gguf_rows[] = {
    {AT_EMBED, "token_embd", FORM_MODULE, NULL, NULL},
    {AT_HEAD, "output", FORM_MODULE, NULL, NULL},
    {AT_FINAL_NORM, "output_norm", FORM_MODULE, NULL, NULL},
    {AT_ROPE_FREQS, "rope_freqs", FORM_MODULE, NULL, NULL},
    {AT_ROPE_LONG, "rope_factors_long", FORM_MODULE, NULL, NULL},
    {AT_ROPE_SHORT, "rope_factors_short", FORM_MODULE, NULL, NULL},
    {AT_ATTN_NORM, "blk.#.attn_norm", FORM_MODULE, NULL, NULL},
    {AT_MLP_NORM, "blk.#.ffn_norm", FORM_MODULE, NULL, NULL},
    {AT_ATTN_POST, "blk.#.post_attention_norm", FORM_MODULE, NULL, NULL},
    {AT_MLP_POST, "blk.#.post_ffw_norm", FORM_MODULE, NULL, NULL},
    {AT_Q_NORM, "blk.#.attn_q_norm", FORM_MODULE, NULL, NULL},
    {AT_K_NORM, "blk.#.attn_k_norm", FORM_MODULE, NULL, NULL},
    {AT_Q, "blk.#.attn_q", FORM_MODULE, NULL, NULL},
    {AT_K, "blk.#.attn_k", FORM_MODULE, NULL, NULL},
    {AT_V, "blk.#.attn_v", FORM_MODULE, NULL, NULL},
    {AT_O, "blk.#.attn_output", FORM_MODULE, NULL, NULL},
    {AT_GATE, "blk.#.ffn_gate", FORM_MODULE, NULL, NULL},
    {AT_UP, "blk.#.ffn_up", FORM_MODULE, "blk.#.ffn_gate.weight", NULL},
    {AT_DOWN, "blk.#.ffn_down", FORM_MODULE, NULL, NULL},
    {AT_QKV, "blk.#.attn_qkv", FORM_MODULE, NULL, NULL},
    {AT_GATE_UP, "blk.#.ffn_up", FORM_MODULE, NULL, "blk.#.ffn_gate.weight"},
    {AT_ROUTER, "blk.#.ffn_gate_inp", FORM_MODULE, NULL, NULL},
    {AT_EXPERT_GATE, "blk.#.ffn_gate_exps.weight", FORM_STACK, NULL, NULL},
    {AT_EXPERT_GATE, "blk.#.ffn_gate_up_exps.weight", FORM_LOW, NULL, NULL},
    {AT_EXPERT_GATE, "blk.#.ffn_gate.@", FORM_MODULE, NULL, NULL},
    {AT_EXPERT_UP, "blk.#.ffn_up_exps.weight", FORM_STACK, NULL, NULL},
    {AT_EXPERT_UP, "blk.#.ffn_gate_up_exps.weight", FORM_HIGH, NULL, NULL},
    {AT_EXPERT_UP, "blk.#.ffn_up.@", FORM_MODULE, NULL, NULL},
    {AT_EXPERT_DOWN, "blk.#.ffn_down_exps.weight", FORM_STACK, NULL, NULL},
    {AT_EXPERT_DOWN, "blk.#.ffn_down.@", FORM_MODULE, NULL, NULL},
};

#define GEMMA_NORM "layers.#.pre_feedforward_layernorm"

static const struct name_row hf_rows[] = {
    {AT_EMBED, "embed_tokens", FORM_MODULE, NULL, NULL},
    {AT_FINAL_NORM, "norm", FORM_MODULE, NULL, NULL},
    {AT_ATTN_NORM, "layers.#.input_layernorm", FORM_MODULE, NULL, NULL},
    {AT_MLP_NORM, GEMMA_NORM, FORM_MODULE, NULL, NULL},
    {AT_MLP_NORM, "layers.#.post_attention_layernorm", FORM_MODULE, NULL, GEMMA_NORM ".weight"},
    {AT_ATTN_POST, "layers.#.post_attention_layernorm", FORM_MODULE, GEMMA_NORM ".weight", NULL},
    {AT_MLP_POST, "layers.#.post_feedforward_layernorm", FORM_MODULE, NULL, NULL},
    {AT_Q_NORM, "layers.#.self_attn.q_norm", FORM_MODULE, NULL, NULL},
    {AT_K_NORM, "layers.#.self_attn.k_norm", FORM_MODULE, NULL, NULL},
    {AT_Q, "layers.#.self_attn.q_proj", FORM_MODULE, NULL, NULL},
    {AT_K, "layers.#.self_attn.k_proj", FORM_MODULE, NULL, NULL},
    {AT_V, "layers.#.self_attn.v_proj", FORM_MODULE, NULL, NULL},
    {AT_O, "layers.#.self_attn.o_proj", FORM_MODULE, NULL, NULL},
    {AT_GATE, "layers.#.mlp.gate_proj", FORM_MODULE, NULL, NULL},
    {AT_UP, "layers.#.mlp.up_proj", FORM_MODULE, NULL, NULL},
    {AT_DOWN, "layers.#.mlp.down_proj", FORM_MODULE, NULL, NULL},
    {AT_QKV, "layers.#.self_attn.qkv_proj", FORM_MODULE, NULL, NULL},
    {AT_GATE_UP, "layers.#.mlp.gate_up_proj", FORM_MODULE, NULL, NULL},
    {AT_ROUTER, "layers.#.mlp.gate", FORM_MODULE, NULL, NULL},
    {AT_ROUTER, "layers.#.block_sparse_moe.gate", FORM_MODULE, NULL, NULL},
    {AT_EXPERT_GATE, "layers.#.mlp.experts.@.gate_proj", FORM_MODULE, NULL, NULL},
    {AT_EXPERT_GATE, "layers.#.block_sparse_moe.experts.@.w1", FORM_MODULE, NULL, NULL},
    {AT_EXPERT_GATE, "layers.#.mlp.experts.gate_up_proj", FORM_LOW, NULL, NULL},
    {AT_EXPERT_UP, "layers.#.mlp.experts.@.up_proj", FORM_MODULE, NULL, NULL},
    {AT_EXPERT_UP, "layers.#.block_sparse_moe.experts.@.w3", FORM_MODULE, NULL, NULL},
    {AT_EXPERT_UP, "layers.#.mlp.experts.gate_up_proj", FORM_HIGH, NULL, NULL},
    {AT_EXPERT_DOWN, "layers.#.mlp.experts.@.down_proj", FORM_MODULE, NULL, NULL},
    {AT_EXPERT_DOWN, "layers.#.block_sparse_moe.experts.@.w2", FORM_MODULE, NULL, NULL},
    {AT_EXPERT_DOWN, "layers.#.mlp.experts.down_proj", FORM_STACK, NULL, NULL},
};

/* What a model was wrapped into: before the decoder's names, and the head's whole name. */
static const struct {
    const char *prefix, *head;
} worlds[] = {
    {"model.", "lm_head"},                               /* ...ForCausalLM */
    {"model.language_model.", "lm_head"},                /* composites, transformers 5 */
    {"language_model.model.", "language_model.lm_head"}, /* composites before */
    {"", "lm_head"},                                     /* the bare decoder */
};
#define WORLDS (int)(sizeof worlds / sizeof *worlds)

/* Endings under which a module's matrix may be stored. */
static const char *const matrix_ends[] = {".weight", ".qweight", ".weight_packed", ".compressed"};

/* Scales and zeros of activations and of the key-value cache, and what is computed anew anyway: without them the weights say the same. */
static const char *const harmless_ends[] = {
    ".rotary_emb.inv_freq", ".input_scale", ".input_zero_point", ".output_scale",
    ".activation_scale",    ".k_scale",     ".v_scale",          ".q_scale",
    ".weight_format"};
/* The other halves of composites. */
static const char *const other_halves[] = {"vision_tower.", "multi_modal_projector.", "vision_model.", "visual.",
                                           "audio_tower.",  "embed_vision.",          "embed_audio."};

static bool exists(const struct source *s, const char *name)
{
    return s->kind == SOURCE_GGUF ? gguf_find(s->g, name) != NULL : hf_find(s, name) != NULL;
}

/* prefix + template with its numbers put in. */
static void spell(char out[TENSOR_NAME_MAX], const char *prefix, const char *template, const struct spot *at)
{
    size_t n = (size_t)snprintf(out, TENSOR_NAME_MAX, "%s", prefix);
    for (const char *p = template; *p && n < TENSOR_NAME_MAX - 12; p++) {
        if (*p == '#' || *p == '@')
            n += (size_t)snprintf(out + n, TENSOR_NAME_MAX - n, "%d", *p == '#' ? at->layer : at->expert);
        else
            out[n++] = *p;
    }
    out[n] = 0;
}

static bool module_exists(const struct source *s, const char *stem)
{
    char name[TENSOR_NAME_MAX + 16];
    for (size_t i = 0; i < sizeof matrix_ends / sizeof *matrix_ends; i++) {
        snprintf(name, sizeof name, "%s%s", stem, matrix_ends[i]);
        if (exists(s, name)) return true;
    }
    return false;
}

static bool row_counts(const struct source *s, const struct name_row *r, const char *prefix, const struct spot *at)
{
    char name[TENSOR_NAME_MAX];
    if (r->beside) {
        spell(name, prefix, r->beside, at);
        if (!exists(s, name)) return false;
    }
    if (!r->without) return true;
    spell(name, prefix, r->without, at);
    return !exists(s, name);
}

bool names_locate(const struct source *s, const struct spot *at, struct located *out)
{
    bool ggml = s->kind == SOURCE_GGUF;
    const struct name_row *rows = ggml ? gguf_rows : hf_rows;
    size_t n = ggml ? sizeof gguf_rows / sizeof *gguf_rows : sizeof hf_rows / sizeof *hf_rows;
    const char *prefix = ggml ? "" : worlds[s->world].prefix;
    *out = (struct located){.stem = ""};
    if (!ggml && (at->at == AT_HEAD || (at->at == AT_EMBED && s->head_is_embed))) {
        snprintf(out->stem, sizeof out->stem, "%s", worlds[s->world].head);
        return at->at == AT_EMBED || (!s->head_is_copy && !s->head_is_embed && module_exists(s, out->stem));
    }
    for (size_t i = 0; i < n; i++) {
        struct located x = {.form = rows[i].form};
        if (rows[i].at != at->at) continue;
        spell(x.stem, prefix, rows[i].stem, at);
        if (!out->stem[0]) *out = x;
        if (!row_counts(s, &rows[i], prefix, at)) continue;
        if (x.form == FORM_MODULE ? !module_exists(s, x.stem) : !exists(s, x.stem)) continue;
        *out = x;
        return true;
    }
    return false;
}

/* Of a tied model some tools write the head and leave the embedding out, which is the same. */
static bool only_head(const struct source *s, int world)
{
    char norm[TENSOR_NAME_MAX];
    snprintf(norm, sizeof norm, "%snorm.weight", worlds[world].prefix);
    bool untied = json_is_false(json_object_get(s->config, "tie_word_embeddings")) ||
                  json_is_false(json_object_get(s->root, "tie_word_embeddings"));
    return !untied && exists(s, norm) && module_exists(s, worlds[world].head);
}

void names_world(struct source *s)
{
    for (s->world = 0; s->world < WORLDS; s->world++) {
        char stem[TENSOR_NAME_MAX];
        snprintf(stem, sizeof stem, "%sembed_tokens", worlds[s->world].prefix);
        if (module_exists(s, stem)) return;
    }
    for (s->world = 0; s->world < WORLDS; s->world++) {
        s->head_is_embed = only_head(s, s->world);
        if (s->head_is_embed) return;
    }
    s->world = 0;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

bool names_harmless(const struct source *s, const char *name)
{
    for (size_t i = 0; i < sizeof harmless_ends / sizeof *harmless_ends; i++)
        if (ends_with(name, harmless_ends[i])) return s->kind != SOURCE_GGUF;
    if (s->kind == SOURCE_GGUF || s->config == s->root) return false;
    if (strncmp(name, "model.", 6) == 0) name += 6;
    for (size_t i = 0; i < sizeof other_halves / sizeof *other_halves; i++)
        if (strncmp(name, other_halves[i], strlen(other_halves[i])) == 0) return true;
    return false;
}
