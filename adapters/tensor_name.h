/* Names of LoRA tensors as PEFT writes them, and as its many users rewrite them.
 *
 *     base_model.model.model.layers.12.self_attn.q_proj.lora_A.weight
 *     [base_model.model.] [wrappers.] layers.N.{self_attn|mlp}.MODULE.lora_{A|B}[.default].weight
 *
 * Wrappers are names that frameworks put around the same decoder (model, language_model, module of DDP, _orig_mod of
 * torch.compile, ...). A vision tower's layers have other parts in front and are not accepted. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* The linear layers that LoRA may adapt, in the order of one transformer block. */
enum lora_module { LM_Q, LM_K, LM_V, LM_O, LM_GATE, LM_UP, LM_DOWN, LORA_MODULES };
extern const char *const lora_module_name[LORA_MODULES]; /* "q_proj", ... */

#define TENSOR_NAME_MAX 256

struct tensor_name {
    int layer;
    enum lora_module module;
    bool is_b;
    char prefix[TENSOR_NAME_MAX]; /* wrappers with their dots as PEFT saw them: without "base_model.model." */
};

/* False: not the name of a LoRA tensor that is served. */
bool tensor_name_parse(const char *name, struct tensor_name *out);

/* The module's path in the model it was trained on, which PEFT's patterns match: PREFIX "layers.N.self_attn.q_proj". */
#define MODULE_PATH_MAX (TENSOR_NAME_MAX + 64)
void module_path(const char *prefix, int layer, enum lora_module m, char out[MODULE_PATH_MAX]);
