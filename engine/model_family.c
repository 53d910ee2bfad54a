/* model_family: the table of architectures.
 *
 * Idea: an architecture is a row; what distinguishes it is a column that the loader and the forward pass read. One row
 * added is a family served, from GGUF files and from Hugging Face directories alike. A column with a default is there
 * because published files lean on it: config.json leaves out what the class in transformers has by default (Gemma 3's
 * have half a dozen keys).
 *
 * transformers chooses by model_type, so model_type finds the row; the architectures that stand beside it must be the row's, or
 * the file is something else made of the same parts (a classifier, an embedder). An architecture that is no row is refused by
 * name. Sources: the classes of transformers, models/ of llama.cpp for what its converter leaves out.
 *
 * Called at load only. */
#include "engine/model_family.h"
#include <stdio.h>
#include <string.h>

static const struct family families[] = {
    {.gguf = {"llama"}, /* Llama 2 and 3, SmolLM2; as GGUF Mistral and Mixtral too */
     .type = {"llama"},
     .class = {"LlamaForCausalLM"},
     .qkv_bias = BIAS_ASKED,
     .o_bias = BIAS_ASKED,
     .mlp_bias = BIAS_ASKED,
     .experts = EXPERTS_ALL,
     .norm_topk_fixed = true,
     .window = WINDOW_NONE,
     .theta = 1e4,
     .eps = 1e-6},
    {.gguf = {"deci"}, /* DeciLM and Nemotron-NAS: Llama with layers of their own widths (model_widths.c) */
     .type = {"nemotron-nas", "deci"},
     .class = {"DeciLMForCausalLM"},
     .qkv_bias = BIAS_ASKED,
     .o_bias = BIAS_ASKED,
     .mlp_bias = BIAS_ASKED,
     .window = WINDOW_NONE,
     .theta = 1e4,
     .eps = 1e-5},
    {.gguf = {"mistral3"}, /* Mistral Small 3.1 and later, as llama.cpp names it */
     .type = {"mistral"},
     .class = {"MistralForCausalLM"},
     .window = WINDOW_ALL,
     .window_default = 4096,
     .kv_heads = 8,
     .theta = 1e4,
     .eps = 1e-6},
    {.gguf = {"qwen2"}, /* Qwen 2 and 2.5 */
     .type = {"qwen2"},
     .class = {"Qwen2ForCausalLM"},
     .qkv_bias = BIAS_ALWAYS,
     .window = WINDOW_TAIL,
     .window_default = 4096,
     .kv_heads = 32,
     .theta = 1e4,
     .eps = 1e-6},
    {.gguf = {"qwen3"},
     .type = {"qwen3"},
     .class = {"Qwen3ForCausalLM"},
     .qkv_bias = BIAS_ASKED,
     .o_bias = BIAS_ASKED,
     .qk_norm = true,
     .window = WINDOW_TAIL,
     .window_default = 4096,
     .kv_heads = 32,
     .head_dim = 128,
     .theta = 1e4,
     .eps = 1e-6},
    {.gguf = {"gemma2"},
     .type = {"gemma2"},
     .class = {"Gemma2ForCausalLM"},
     .qkv_bias = BIAS_ASKED,
     .o_bias = BIAS_ASKED,
     .post_norms = true,
     .norm_less_one = true,
     .embed_scaled = true,
     .query_scalar = true,
     .tied = true,
     .act = MLP_GELU_TANH,
     .window = WINDOW_PATTERN,
     .window_default = 4096,
     .pattern = 2,
     .caps = CAPS_BOTH,
     .attn_cap = 50,
     .logit_cap = 30,
     .heads = 8,
     .kv_heads = 4,
     .head_dim = 256,
     .scalar = 256,
     .context = 8192,
     .hidden = 2304,
     .mlp = 9216,
     .theta = 1e4,
     .eps = 1e-6,
     .big_layers = 46},
    {.gguf = {"gemma3"},
     .type = {"gemma3_text", "gemma3"},
     .class = {"Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"},
     .qkv_bias = BIAS_ASKED,
     .o_bias = BIAS_ASKED,
     .qk_norm = true,
     .post_norms = true,
     .norm_less_one = true,
     .embed_scaled = true,
     .query_scalar = true,
     .tied = true,
     .act = MLP_GELU_TANH,
     .window = WINDOW_PATTERN,
     .window_default = 4096,
     .pattern = 6,
     .caps = CAPS_LOGITS,
     .heads = 8,
     .kv_heads = 4,
     .head_dim = 256,
     .scalar = 256,
     .context = 131072,
     .hidden = 2304,
     .mlp = 9216,
     .theta = 1e6,
     .local_base = 1e4,
     .eps = 1e-6,
     .big_layers = 62},
    {.gguf = {"phi3"}, /* Phi-3 and Phi-4 */
     .type = {"phi3"},
     .class = {"Phi3ForCausalLM"},
     .partial_rotary = true,
     .fused = true,
     .original = 4096,
     .window = WINDOW_ALL,
     .theta = 1e4,
     .eps = 1e-5},
    {.type = {"mixtral"},
     .class = {"MixtralForCausalLM"},
     .window = WINDOW_ALL,
     .experts = EXPERTS_ALL,
     .norm_topk_fixed = true,
     .kv_heads = 8,
     .theta = 1e6,
     .eps = 1e-5},
    {.gguf = {"qwen3moe"},
     .type = {"qwen3_moe"},
     .class = {"Qwen3MoeForCausalLM"},
     .qkv_bias = BIAS_ASKED,
     .o_bias = BIAS_ASKED,
     .qk_norm = true,
     .window = WINDOW_SWITCHED,
     .window_default = 4096,
     .experts = EXPERTS_STEP,
     .kv_heads = 4,
     .theta = 1e4,
     .eps = 1e-6},
    {.gguf = {"smollm3"},
     .type = {"smollm3"},
     .class = {"SmolLM3ForCausalLM"},
     .qkv_bias = BIAS_ASKED,
     .o_bias = BIAS_ASKED,
     .mlp_bias = BIAS_ASKED,
     .tied = true,
     .window = WINDOW_UNTURNED,
     .nope_interval = 4,
     .kv_heads = 4,
     .theta = 2e6,
     .eps = 1e-6},
};
#define FAMILIES (sizeof families / sizeof *families)

static bool among(const char *const names[FAMILY_NAMES], const char *s, size_t len)
{
    for (int i = 0; i < FAMILY_NAMES && names[i]; i++)
        if (strlen(names[i]) == len && memcmp(names[i], s, len) == 0) return true;
    return false;
}

/* The first names of all rows, for messages. */
static void list_names(bool gguf, char out[512])
{
    size_t n = 0;
    out[0] = 0;
    for (size_t i = 0; i < FAMILIES; i++) {
        const char *name = gguf ? families[i].gguf[0] : families[i].class[0];
        if (name && n < 480) n += (size_t)snprintf(out + n, 512 - n, "%s%s", n ? ", " : "", name);
    }
}

static int unknown(bool gguf, const char *what, const char *s, size_t len, struct err *e)
{
    char known[512];
    list_names(gguf, known);
    return err_set(e, ERR_MODEL, "%s \"%.*s\" is not served; a model of one of these is needed: %s", what,
                   (int)(len < 64 ? len : 64), s, known);
}

static int of_gguf(const struct gguf *g, struct meta *out, struct err *e)
{
    struct gguf_str arch;
    if (gguf_string(g, "general.architecture", &arch, e)) return -1;
    for (size_t i = 0; i < FAMILIES; i++)
        for (int j = 0; j < FAMILY_NAMES && families[i].gguf[j]; j++)
            if (strlen(families[i].gguf[j]) == arch.len && memcmp(families[i].gguf[j], arch.s, arch.len) == 0) {
                *out = (struct meta){.f = &families[i], .arch = families[i].gguf[j], .g = g};
                return 0;
            }
    return unknown(true, "general.architecture: the architecture", arch.s, arch.len, e);
}

#define ARCHITECTURE "config.json: the architecture"

static const char *first_class(const json_t *root)
{
    return json_string_value(json_array_get(json_object_get(root, "architectures"), 0));
}

int family_of_config(const json_t *config, const json_t *root, struct meta *out, struct err *e)
{
    const char *type = json_string_value(json_object_get(config, "model_type")), *class = first_class(root);
    const json_t *classes = json_object_get(root, "architectures"), *word = json_object_get(config, "model_type");
    if (classes && !json_is_null(classes) && (!json_is_array(classes) || (json_array_size(classes) && !class)))
        return err_set(e, ERR_MODEL,
                       "config.json: architectures is not a list of names; [\"LlamaForCausalLM\"] is one");
    if (word && !json_is_null(word) && !type)
        return err_set(e, ERR_MODEL, "config.json: model_type is not a name; \"llama\" is one");
    if (!type && !class)
        return err_set(
            e, ERR_MODEL,
            "config.json has neither model_type nor architectures: nothing says what it is; download it again");
    for (size_t i = 0; i < FAMILIES; i++) {
        const struct family *f = &families[i];
        if (type ? !among(f->type, type, strlen(type)) : !among(f->class, class, strlen(class))) continue;
        if (class && !among(f->class, class, strlen(class)))
            return unknown(false, ARCHITECTURE, class, strlen(class), e);
        *out = (struct meta){.f = f, .j = config, .root = root};
        return 0;
    }
    return class ? unknown(false, ARCHITECTURE, class, strlen(class), e)
                 : unknown(false, "config.json: the model_type", type, strlen(type), e);
}

int family_of(const struct source *s, struct meta *out, struct err *e)
{
    const struct gguf *g = source_gguf(s);
    return g ? of_gguf(g, out, e) : family_of_config(source_config(s), source_config_root(s), out, e);
}
