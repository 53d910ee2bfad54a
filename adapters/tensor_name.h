/* Names of LoRA tensors as PEFT writes them, and as its many users rewrite them.
 *
 *     base_model.model.model.layers.12.self_attn.q_proj.lora_A.weight
 *     [base_model.model.] [wrappers.] PLACE.TENSOR
 *
 *     PLACE   layers.N.self_attn.{q_proj|k_proj|v_proj|o_proj|qkv_proj}
 *             layers.N.mlp.{gate_proj|up_proj|down_proj|gate_up_proj}
 *             layers.N.mlp.gate, layers.N.block_sparse_moe.gate                         the router of experts
 *             layers.N.mlp.experts.M.{gate_proj|up_proj|down_proj}                      one expert
 *             layers.N.block_sparse_moe.experts.M.{w1|w3|w2}                            the same, Mixtral's old names
 *             layers.N.mlp.experts[.base_layer]                                         all experts (target_parameters)
 *             embed_tokens, lm_head
 *     TENSOR  lora_A[.NAME].weight  lora_B[.NAME].weight  lora_embedding_A[.NAME]  lora_embedding_B[.NAME]
 *             lora_magnitude_vector[.NAME][.weight]
 *             weight, modules_to_save[.NAME].weight, base_layer.weight                  of embed_tokens and lm_head
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
#define TENSOR_INFIX_MAX 64

enum tensor_place {
    PLACE_MODULE,  /* layer, module */
    PLACE_FUSED,   /* layer; module LM_Q: qkv_proj, LM_GATE: gate_up_proj */
    PLACE_ROUTER,  /* layer */
    PLACE_EXPERT,  /* layer, expert, module LM_GATE .. LM_DOWN */
    PLACE_EXPERTS, /* layer: a parameter of all experts; `nested`: with one more around it */
    PLACE_EMBED,
    PLACE_HEAD,
};

enum tensor_kind {
    TENSOR_A,
    TENSOR_B,
    TENSOR_MAGNITUDE,
    TENSOR_SAVED, /* the module itself, by modules_to_save or as it was saved along */
    TENSOR_BASE,  /* the same of a module that has LoRA as well: base_layer.weight */
};

struct tensor_name {
    enum tensor_place place;
    enum tensor_kind kind;
    int layer, expert;
    enum lora_module module;
    bool nested, old_moe;         /* old_moe: block_sparse_moe */
    bool by_wrapper;              /* TENSOR_SAVED that says modules_to_save */
    char prefix[TENSOR_NAME_MAX]; /* wrappers with their dots as PEFT saw them: without "base_model.model." */
    char infix[TENSOR_INFIX_MAX]; /* the adapter's name; "default" where none is given */
};

/* False: not the name of a tensor that is served. */
bool tensor_name_parse(const char *name, struct tensor_name *out);

/* The module's path in the model it was trained on, which PEFT's patterns match: PREFIX "layers.N.self_attn.q_proj".
 * PLACE_EXPERTS has one path for each of its parameters: module LM_GATE is gate_up_proj, LM_DOWN is down_proj. */
#define MODULE_PATH_MAX (TENSOR_NAME_MAX + 64)
void module_path(const struct tensor_name *n, char out[MODULE_PATH_MAX]);
