/* An adapter as the base sees it: every tensor of the file mapped to (layer, module), checked, with its scale and digest.
 *
 * Fail closed: every tensor is used or the adapter is refused with the list of those that were not; A and B come in
 * pairs; shapes match the base; values are finite and |x| <= 1e4; r in 1..PEFT_RANK_MAX; |scale| <= 64. */
#pragma once
#include "adapters/peft.h"
#include "adapters/safetensors.h"
#include "base/err.h"
#include "base/sha256.h"

/* The linear layers that LoRA may adapt, in the order of one transformer block. */
enum lora_module { LM_Q, LM_K, LM_V, LM_O, LM_GATE, LM_UP, LM_DOWN, LORA_MODULES };
extern const char *const lora_module_name[LORA_MODULES]; /* "q_proj", ... */

/* What an adapter is checked against. */
struct base_desc {
    char name[128];             /* the served name */
    char digest[SHA256_HEX];    /* of the base's file */
    char also[4][128];          /* other names that adapters may give for it, "" unused */
    int layers;
    int in[LORA_MODULES];       /* columns of A */
    int out[LORA_MODULES];      /* rows of B */
};

struct adapter_part {
    const struct st_tensor *a; /* [r][in];  NULL: this module is not adapted in this layer */
    const struct st_tensor *b; /* [out][r] */
    int r;
    float scale;
};

struct adapter {
    struct peft_config *config;
    struct st_file *file;
    int layers;
    struct adapter_part *part; /* [layers][LORA_MODULES] */
    int max_rank;
    unsigned modules;          /* bit set of the modules that occur */
    size_t tensor_bytes;
    char digest[SHA256_HEX];   /* ARCHITECTURE.md section 2: the version's identity */
    char file_sha256[SHA256_HEX]; /* of adapter_model.safetensors as it is */
};

struct adapter_limits {
    int max_rank;      /* 0: PEFT_RANK_MAX */
    size_t max_bytes;  /* of the weights file; 0: no limit of its own */
};

#define ADAPTER_CONFIG_FILE "adapter_config.json"
#define ADAPTER_WEIGHTS_FILE "adapter_model.safetensors"

/* Opens DIR/adapter_config.json and DIR/adapter_model.safetensors and checks everything named above, cheap to dear. */
int adapter_open(struct adapter **out, const char *dir, const struct base_desc *base, const struct adapter_limits *limits,
                 struct err *e);
void adapter_close(struct adapter *a); /* NULL is fine */

/* base_desc as JSON (the engine's /weft/v1/state carries it, the gateway reads it back). */
struct json_t;
struct json_t *base_desc_to_json(const struct base_desc *b);
int base_desc_from_json(struct base_desc *b, const struct json_t *j, struct err *e);
