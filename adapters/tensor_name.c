/* From a tensor's name to its place in the model, by reading the name part by part from the left.
 *
 * No searching for substrings: "vision_tower.encoder.layers.0.self_attn.q_proj.lora_A.weight" contains everything that
 * a decoder's name contains, and would silently adapt the wrong layer. Each part must be one we know, in its place, or
 * the name is not ours and the adapter is refused with it. Pure functions, any thread. */
#include "adapters/tensor_name.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NUMBER_DIGITS 4

/* What stands behind "layers.N.", in the order of trial: nothing here begins with an earlier row and a dot. */
static const struct {
    const char *parent, *name;
    enum tensor_place place;
    int module;
    bool old_moe;
} parts[] = {
    {"self_attn", "q_proj", PLACE_MODULE, LM_Q, false},   {"self_attn", "k_proj", PLACE_MODULE, LM_K, false},
    {"self_attn", "v_proj", PLACE_MODULE, LM_V, false},   {"self_attn", "o_proj", PLACE_MODULE, LM_O, false},
    {"mlp", "gate_proj", PLACE_MODULE, LM_GATE, false},   {"mlp", "up_proj", PLACE_MODULE, LM_UP, false},
    {"mlp", "down_proj", PLACE_MODULE, LM_DOWN, false},   {"self_attn", "qkv_proj", PLACE_FUSED, LM_Q, false},
    {"mlp", "gate_up_proj", PLACE_FUSED, LM_GATE, false}, {"mlp", "gate", PLACE_ROUTER, 0, false},
    {"block_sparse_moe", "gate", PLACE_ROUTER, 0, true},
};

/* What stands behind "experts.M.". */
static const struct {
    const char *parent, *name;
    int module;
    bool old_moe;
} expert_parts[] = {
    {"mlp", "gate_proj", LM_GATE, false},    {"mlp", "up_proj", LM_UP, false},
    {"mlp", "down_proj", LM_DOWN, false},    {"block_sparse_moe", "w1", LM_GATE, true},
    {"block_sparse_moe", "w3", LM_UP, true}, {"block_sparse_moe", "w2", LM_DOWN, true},
};

const char *const lora_module_name[LORA_MODULES] = {
    [LM_Q] = "q_proj",       [LM_K] = "k_proj",   [LM_V] = "v_proj",       [LM_O] = "o_proj",
    [LM_GATE] = "gate_proj", [LM_UP] = "up_proj", [LM_DOWN] = "down_proj",
};

static const char *const wrappers[] = {"model",  "language_model", "text_model", "llm",
                                       "module", "_orig_mod",      "base_model"};

/* What a tensor is called behind its place: WORD [.NAME] END. */
static const struct {
    const char *word, *end;
    enum tensor_kind kind;
    bool embedding; /* of embed_tokens, not of the others */
    bool whole;     /* of embed_tokens and lm_head only */
} ends[] = {
    {"lora_A", ".weight", TENSOR_A, false, false},
    {"lora_B", ".weight", TENSOR_B, false, false},
    {"lora_embedding_A", "", TENSOR_A, true, false},
    {"lora_embedding_B", "", TENSOR_B, true, false},
    {"lora_magnitude_vector", ".weight", TENSOR_MAGNITUDE, false, false},
    {"lora_magnitude_vector", "", TENSOR_MAGNITUDE, false, false},
    {"modules_to_save", ".weight", TENSOR_SAVED, false, true},
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

static bool eat_number(const char **p, int *out)
{
    size_t n = strspn(*p, "0123456789");
    if (n < 1 || n > NUMBER_DIGITS || (*p)[n] != '.' || (**p == '0' && n > 1)) return false;
    *out = (int)strtol(*p, NULL, 10);
    *p += n + 1;
    return true;
}

static bool eat_part(const char **p, struct tensor_name *t)
{
    for (size_t i = 0; i < COUNT(parts); i++) {
        const char *q = *p;
        if (!eat(&q, parts[i].parent) || !eat(&q, parts[i].name)) continue;
        t->place = parts[i].place;
        t->module = (enum lora_module)parts[i].module;
        t->old_moe = parts[i].old_moe;
        *p = q;
        return true;
    }
    return false;
}

static bool eat_expert(const char **p, struct tensor_name *t)
{
    for (size_t i = 0; i < COUNT(expert_parts); i++) {
        const char *q = *p;
        if (!eat(&q, expert_parts[i].parent) || !eat(&q, "experts") || !eat_number(&q, &t->expert) ||
            !eat(&q, expert_parts[i].name))
            continue;
        t->place = PLACE_EXPERT;
        t->module = (enum lora_module)expert_parts[i].module;
        t->old_moe = expert_parts[i].old_moe;
        *p = q;
        return true;
    }
    return false;
}

static bool eat_experts(const char **p, struct tensor_name *t)
{
    const char *q = *p;
    if (!eat(&q, "mlp") || !eat(&q, "experts")) return false;
    t->place = PLACE_EXPERTS;
    t->nested = eat(&q, "base_layer");
    *p = q;
    return true;
}

static bool eat_place(const char **p, struct tensor_name *t)
{
    if (eat(p, "layers")) return eat_number(p, &t->layer) && (eat_part(p, t) || eat_expert(p, t) || eat_experts(p, t));
    t->place = PLACE_EMBED;
    if (eat(p, "embed_tokens")) return true;
    t->place = PLACE_HEAD;
    return eat(p, "lm_head");
}

/* "" or ".NAME" between the word and the end. No adapter is called "weight": that is the end of another kind of tensor.
 */
static bool take_infix(const char *from, size_t n, char out[TENSOR_INFIX_MAX])
{
    if (n == 0) {
        snprintf(out, TENSOR_INFIX_MAX, "default");
        return true;
    }
    if (n < 2 || n > TENSOR_INFIX_MAX || *from != '.' || memchr(from + 1, '.', n - 1)) return false;
    if (n == sizeof ".weight" - 1 && !memcmp(from, ".weight", n)) return false;
    snprintf(out, TENSOR_INFIX_MAX, "%.*s", (int)n - 1, from + 1);
    return true;
}

static bool read_end(const char *p, size_t i, struct tensor_name *t)
{
    size_t word = strlen(ends[i].word), end = strlen(ends[i].end), n = strlen(p);
    if (n < word + end || strncmp(p, ends[i].word, word) || strcmp(p + n - end, ends[i].end) != 0) return false;
    return take_infix(p + word, n - word - end, t->infix);
}

static bool read_tensor(const char *p, struct tensor_name *t)
{
    bool whole = t->place == PLACE_EMBED || t->place == PLACE_HEAD;
    t->kind = TENSOR_SAVED;
    if (whole && !strcmp(p, "weight")) return take_infix(p, 0, t->infix);
    t->kind = TENSOR_BASE;
    if (whole && !strcmp(p, "base_layer.weight")) return take_infix(p, 0, t->infix);
    for (size_t i = 0; i < COUNT(ends); i++) {
        bool fits =
            ends[i].whole ? whole : ends[i].kind == TENSOR_MAGNITUDE || ends[i].embedding == (t->place == PLACE_EMBED);
        if (!fits || !read_end(p, i, t)) continue;
        t->kind = ends[i].kind;
        t->by_wrapper = ends[i].whole;
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
    if (n >= sizeof t.prefix || !eat_place(&p, &t) || !read_tensor(p, &t)) return false;
    memcpy(t.prefix, prefix, n);
    *out = t;
    return true;
}

/* --- paths --- */

static void part_path(const struct tensor_name *n, const char *prefix, char out[MODULE_PATH_MAX])
{
    for (size_t i = 0; i < COUNT(parts); i++)
        if (parts[i].place == n->place && parts[i].module == (int)n->module && parts[i].old_moe == n->old_moe)
            snprintf(out, MODULE_PATH_MAX, "%slayers.%d.%s.%s", prefix, n->layer, parts[i].parent, parts[i].name);
}

static void expert_path(const struct tensor_name *n, const char *prefix, char out[MODULE_PATH_MAX])
{
    for (size_t i = 0; i < COUNT(expert_parts); i++)
        if (expert_parts[i].module == (int)n->module && expert_parts[i].old_moe == n->old_moe)
            snprintf(out, MODULE_PATH_MAX, "%slayers.%d.%s.experts.%d.%s", prefix, n->layer, expert_parts[i].parent,
                     n->expert, expert_parts[i].name);
}

void module_path(const struct tensor_name *n, char out[MODULE_PATH_MAX])
{
    /* A decoder saved without its head has no prefix; PEFT's patterns expect the usual one. */
    const char *prefix = *n->prefix ? n->prefix : "model.";
    switch (n->place) {
    case PLACE_EXPERT:
        expert_path(n, prefix, out);
        break;
    case PLACE_EXPERTS:
        snprintf(out, MODULE_PATH_MAX, "%slayers.%d.mlp.experts.%s", prefix, n->layer,
                 n->module == LM_DOWN ? "down_proj" : "gate_up_proj");
        break;
    case PLACE_EMBED:
        snprintf(out, MODULE_PATH_MAX, "%sembed_tokens", prefix);
        break;
    case PLACE_HEAD:
        snprintf(out, MODULE_PATH_MAX, "%slm_head", n->prefix);
        break;
    default:
        part_path(n, prefix, out);
    }
}
