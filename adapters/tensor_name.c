/* From a tensor's name to its place in the model, by reading the name part by part from the left.
 *
 * No searching for substrings: "vision_tower.encoder.layers.0.self_attn.q_proj.lora_A.weight" contains everything that
 * a decoder's name contains, and would silently adapt the wrong layer. Each part must be one we know, in its place, or
 * the name is not ours and the adapter is refused with it. Pure functions, any thread. */
#include "adapters/tensor_name.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAYER_DIGITS 4

static const struct {
    const char *parent, *name;
} modules[LORA_MODULES] = {
    [LM_Q] = {"self_attn", "q_proj"}, [LM_K] = {"self_attn", "k_proj"}, [LM_V] = {"self_attn", "v_proj"},
    [LM_O] = {"self_attn", "o_proj"}, [LM_GATE] = {"mlp", "gate_proj"}, [LM_UP] = {"mlp", "up_proj"},
    [LM_DOWN] = {"mlp", "down_proj"},
};

const char *const lora_module_name[LORA_MODULES] = {
    [LM_Q] = "q_proj",       [LM_K] = "k_proj",   [LM_V] = "v_proj",       [LM_O] = "o_proj",
    [LM_GATE] = "gate_proj", [LM_UP] = "up_proj", [LM_DOWN] = "down_proj",
};

static const char *const wrappers[] = {"model",  "language_model", "text_model", "llm",
                                       "module", "_orig_mod",      "base_model"};

static const struct {
    const char *end;
    bool is_b;
} ends[] = {
    {"lora_A.weight", false},
    {"lora_A.default.weight", false},
    {"lora_B.weight", true},
    {"lora_B.default.weight", true},
};

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* `word` and a dot at *p: step over them. */
static bool eat(const char **p, const char *word)
{
    size_t n = strlen(word);
    if (strncmp(*p, word, n) || (*p)[n] != '.') return false;
    *p += n + 1;
    return true;
}

static bool eat_wrapper(const char **p)
{
    for (size_t i = 0; i < COUNT(wrappers); i++)
        if (eat(p, wrappers[i])) return true;
    return false;
}

static bool eat_layer(const char **p, int *layer)
{
    size_t n = strspn(*p, "0123456789");
    if (n < 1 || n > LAYER_DIGITS || (*p)[n] != '.' || (**p == '0' && n > 1)) return false;
    *layer = (int)strtol(*p, NULL, 10);
    *p += n + 1;
    return true;
}

static bool eat_module(const char **p, enum lora_module *m)
{
    for (int i = 0; i < LORA_MODULES; i++) {
        const char *q = *p;
        if (!eat(&q, modules[i].parent) || !eat(&q, modules[i].name)) continue;
        *m = (enum lora_module)i;
        *p = q;
        return true;
    }
    return false;
}

bool tensor_name_parse(const char *name, struct tensor_name *out)
{
    struct tensor_name t = {0};
    const char *p = name;
    if (eat(&p, "base_model") && !eat(&p, "model")) p = name;
    const char *prefix = p;
    while (eat_wrapper(&p)) {
    }
    size_t n = (size_t)(p - prefix);
    if (n >= sizeof t.prefix || !eat(&p, "layers") || !eat_layer(&p, &t.layer) || !eat_module(&p, &t.module))
        return false;
    memcpy(t.prefix, prefix, n);
    for (size_t i = 0; i < COUNT(ends); i++) {
        if (strcmp(p, ends[i].end)) continue;
        t.is_b = ends[i].is_b;
        *out = t;
        return true;
    }
    return false;
}

void module_path(const char *prefix, int layer, enum lora_module m, char out[MODULE_PATH_MAX])
{
    /* A decoder saved without its head has no prefix; PEFT's patterns expect the usual one. */
    snprintf(out, MODULE_PATH_MAX, "%slayers.%d.%s.%s", *prefix ? prefix : "model.", layer, modules[m].parent,
             modules[m].name);
}
