/* PEFT's adapter_config.json: read, and refuse by name what is not served.
 *
 * Source of the fields and of the pattern rule: PEFT's LoraConfig (huggingface.co/docs/peft). Fields that don't change the result (dropout,
 * revision, task_type, ...) are ignored; fields that would change it and are not served (bias, modules_to_save,
 * trainable_token_indices, layer_replication, QALoRA, BD-LoRA, initialisations that alter the base, DoRA and aLoRA until
 * they are served, ...) are refused when set to anything but their neutral value. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>

#define PEFT_CONFIG_MAX (256u << 10)
#define PEFT_PATTERNS 256
#define PEFT_RANK_MAX 512

struct peft_pattern {
    const char *key; /* regex as PEFT matches it: (.*\.)?(key)$ ; first match wins */
    double value;
};

struct peft_config {
    int r;
    double lora_alpha;
    bool use_rslora;
    bool use_dora;
    bool fan_in_fan_out;
    const char *base_model; /* base_model_name_or_path, or "" */
    struct peft_pattern *rank_pattern, *alpha_pattern;
    int nrank_pattern, nalpha_pattern;
    int *layers_to_transform; /* sorted; NULL: all */
    int nlayers_to_transform;
    const char **target_modules; /* names or suffixes, sorted; a regex string stands as target_regex */
    int ntarget_modules;
    const char *target_regex; /* or NULL; "all-linear" stands here as it is */
    char *canonical;          /* the fields of ARCHITECTURE.md's digest rule as canonical JSON, without the base's digest */
    void *json;               /* private: owns the strings */
};

int peft_parse(struct peft_config **out, const char *text, size_t len, struct err *e); /* ERR_ADAPTER_INVALID */
int peft_load(struct peft_config **out, const char *path, struct err *e);
void peft_free(struct peft_config *c);

/* Rank and alpha of the module `name` (without prefixes and ".lora_A.weight"), after the patterns. */
int peft_rank(const struct peft_config *c, const char *module);
double peft_alpha(const struct peft_config *c, const char *module);

/* alpha/r or alpha/sqrt(r). */
float peft_scale(const struct peft_config *c, const char *module);
