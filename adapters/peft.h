/* PEFT's adapter_config.json: read, and refuse by name what is not served.
 *
 * Source of the fields and of the rules: PEFT's LoraConfig (huggingface.co/docs/peft). Fields that don't change the
 * result (dropout, revision, ...) are ignored; fields that would change it and are not served (bias,
 * trainable_token_indices, layer_replication, QALoRA, BD-LoRA, initialisations that alter the base, modules_to_save of
 * anything but embed_tokens and lm_head, ...) are refused when set to anything but their neutral value. A field that we
 * don't know is refused when it looks like a switch that is on (use_...: true) or like the settings of a method
 * (..._config: {...}).
 *
 * Modules are named as PEFT names them while it trains: the path in the base, "model.layers.0.self_attn.q_proj". */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PEFT_CONFIG_MAX (256u << 10)
#define PEFT_PATTERNS 256
#define PEFT_PATTERN_LEN 4096
#define PEFT_TARGETS 4096
#define PEFT_LAYERS_MAX 1024
#define PEFT_INVOCATION_MAX 256 /* tokens that wake an aLoRA */
#define PEFT_RANK_MAX 512
#define PEFT_SCALE_MAX 64.0

struct peft_pattern {
    const char *key; /* regex as PEFT matches it: (.*\.)?(key)$ ; first match wins */
    double value;
};

struct peft_config {
    int r;
    double lora_alpha;
    bool use_rslora;
    bool use_dora;
    bool fan_in_fan_out;    /* PEFT drops it with a warning on linear layers, and so do we */
    const char *base_model; /* base_model_name_or_path, or "" */
    struct peft_pattern *rank_pattern, *alpha_pattern;
    int nrank_pattern, nalpha_pattern;
    int *layers_to_transform; /* sorted; NULL: all */
    int nlayers_to_transform;
    const char **layers_pattern; /* regexes for the name of the list of layers; none: any */
    int nlayers_pattern;
    const char **target_modules; /* names or suffixes, sorted; a regex string stands as target_regex. Of a config
                                    without any: PEFT's own for the families served, q_proj and v_proj */
    int ntarget_modules;
    const char *target_regex;     /* or NULL; "all-linear" stands here as it is */
    const char **exclude_modules; /* as target_modules */
    int nexclude_modules;
    const char *exclude_regex;
    const char **target_parameters; /* whole names or suffixes, sorted: "mlp.experts.gate_up_proj" */
    int ntarget_parameters;
    bool saves_embed, saves_head; /* modules_to_save: they are then no targets */
    bool last_number;             /* layers_to_transform counts the last number of a name, as older PEFTs did */
    bool ensure_weight_tying;     /* what adapts a tied embedding adapts the head too */
    int32_t *invocation;          /* aLoRA: alora_invocation_tokens */
    int ninvocation;              /* 0: none */
    char *canonical; /* the fields of ARCHITECTURE.md's digest rule as canonical JSON (see digest.h), without the base's
                        digest */
    void *json;      /* private: owns the strings */
    struct peft_match *match; /* private: compiled patterns */
};

int peft_parse(struct peft_config **out, const char *text, size_t len, struct err *e); /* ERR_ADAPTER_INVALID */
int peft_load(struct peft_config **out, const char *path, struct err *e);
void peft_free(struct peft_config *c); /* NULL is fine */

/* What it makes of an adapter: "lora", "dora" or "alora". */
const char *peft_kind(const struct peft_config *c);

/* What the config says of one module. */
struct peft_place {
    bool target;  /* it is adapted: named by target_modules, not by exclude_modules, its layer in layers_to_transform */
    int r;        /* after rank_pattern; 1..PEFT_RANK_MAX */
    double alpha; /* after alpha_pattern */
    float scale;  /* alpha/r, or alpha/sqrt(r) for rsLoRA; |scale| <= PEFT_SCALE_MAX */
};

/* `module` without prefixes of the file and without ".lora_A.weight". Fails when the scale is out of range or a pattern
 * takes too long to match (the whole config has a budget of CPU time). One thread at a time per config. */
int peft_resolve(const struct peft_config *c, const char *module, struct peft_place *out, struct err *e);

/* The same for a parameter that target_parameters may name: "model.layers.0.mlp.experts.gate_up_proj". */
int peft_resolve_parameter(const struct peft_config *c, const char *parameter, struct peft_place *out, struct err *e);

/* Where a pattern means something else to PCRE2 than to Python's re, or NULL: nowhere. `alone`: it is not put behind
 * another, so that flags may stand at its start (peft_dialect.c). */
const char *peft_dialect_differs(const char *pattern, bool alone);

/* Private to peft*.c: compile the patterns of a config; the reverse. */
int peft_match_new(struct peft_config *c, struct err *e);
void peft_match_free(struct peft_match *m);
