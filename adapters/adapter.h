/* An adapter as the base sees it: every tensor of the file mapped to (layer, module), checked, with its scale and
 * digest.
 *
 * Fail closed: every tensor is used or the adapter is refused with the list of those that were not; A and B come in
 * pairs, under DoRA with a magnitude; shapes match the base; values are finite and |x| <= 1e4; r in 1..PEFT_RANK_MAX;
 * |scale| <= 64. */
#pragma once
#include "adapters/peft.h"
#include "adapters/safetensors.h"
#include "adapters/tensor_name.h"
#include "base/err.h"
#include "base/sha256.h"

#define BASE_UNEVEN_MAX 256 /* layers of a base whose layers differ */

/* Of one layer: rows of q, of k and v, of gate and up; 0: it has no such modules. */
struct base_widths {
    int q, kv, mlp;
};

/* What an adapter is checked against. */
struct base_desc {
    char name[128];          /* the served name */
    char digest[SHA256_HEX]; /* of the base's file */
    char also[4][128];       /* other names that adapters may give for it, "" unused */
    int layers;
    int in[LORA_MODULES];    /* columns of A; 0: the base has no such module; of the largest layer */
    int out[LORA_MODULES];   /* rows of B; 0 with in 0 */
    int vocab, hidden;       /* of embed_tokens and lm_head, [vocab][hidden]; 0: they can't be adapted */
    int experts, expert_mlp; /* 0: none; gate and up of an expert are [expert_mlp][hidden], down [hidden][expert_mlp] */
    bool fused_qkv,
        fused_gate_up; /* the base's own modules are qkv_proj and gate_up_proj (Phi-3): q, k, v and gate, up by rows */
    bool uneven;       /* layers differ, each as widths[] says */
    struct base_widths widths[BASE_UNEVEN_MAX];
};

/* Of a module in one layer: columns of A, rows of B; 0: that layer has no such module. */
int base_desc_in(const struct base_desc *b, int layer, enum lora_module m);
int base_desc_out(const struct base_desc *b, int layer, enum lora_module m);

/* One adapted matrix, as views into the file's tensors: fused modules and stacked experts share theirs. */
struct adapter_part {
    const struct st_tensor *a;         /* [..][in]; for embed_tokens [r][vocab]. NULL: not adapted */
    const struct st_tensor *b;         /* [..][..]; for embed_tokens [hidden][r] */
    const struct st_tensor *magnitude; /* DoRA: one for each output; or NULL */
    int r;
    float scale;
    int64_t a_row0; /* A's row j is a_row0 + j */
    int64_t b_row0; /* output o is row b_row0 + o of B and of the magnitude */
    int64_t b_col0; /* rank j is column b_col0 + j b_step of B */
    int b_step;
};

/* Element j, i of A; o, j of B. */
float adapter_part_a(const struct adapter_part *p, int64_t j, int64_t i);
float adapter_part_b(const struct adapter_part *p, int64_t o, int64_t j);

/* Files that were read whole, checked and hashed. All zeros: none. */
struct adapter_stamp {
    struct file_id config, weights;
    char digest[SHA256_HEX];
};

struct adapter {
    struct adapter_stamp stamp; /* for a later adapter_open(); zeros where the files were written to just now */
    struct peft_config *config;
    struct st_file *file;
    int layers, experts;
    struct adapter_part *part;   /* [layers][LORA_MODULES] */
    struct adapter_part *expert; /* [layers][experts][3] gate, up, down; NULL: no expert is adapted */
    struct adapter_part *router; /* [layers]; NULL: none is adapted */
    struct adapter_part embed, head;
    const struct st_tensor *embed_full, *head_full; /* [vocab][hidden] in the base's place, or NULL */
    bool full_tied; /* on a base whose head is its embedding, one whole matrix stands for both */
    bool tied;      /* there, embed's LoRA also adapts the head (ensure_weight_tying) */
    int max_rank;
    unsigned modules; /* bit set of the modules that occur, experts' included, and of those below */
    size_t tensor_bytes;
    char digest[SHA256_HEX];      /* digest.h: the version's identity */
    char file_sha256[SHA256_HEX]; /* of adapter_model.safetensors as it is; "" where limits say unsummed */
};

#define ADAPTS_EMBED (1u << 16)
#define ADAPTS_HEAD (1u << 17)
#define ADAPTS_ROUTER (1u << 18)
#define ADAPTS_EXPERTS (1u << 19)

struct adapter_limits {
    int max_rank;     /* 0: PEFT_RANK_MAX */
    size_t max_bytes; /* of the weights file; 0: no limit of its own */
    bool unsummed;    /* file_sha256 isn't needed and stays "": half of the hashing */
    /* Of an earlier adapter_open() against the same base: where both files still are those, their values are not checked and their digest is not
     * computed again. NULL: nothing is taken on trust. */
    const struct adapter_stamp *known;
    /* Called between tensors: who opens an adapter beside more urgent work rests in it. NULL: nothing. */
    void (*breathe)(void *u);
    void *u;
};

#define ADAPTER_CONFIG_FILE "adapter_config.json"
#define ADAPTER_WEIGHTS_FILE "adapter_model.safetensors"

/* Opens DIR/adapter_config.json and DIR/adapter_model.safetensors and checks everything named above, cheap to dear.
 * Refusals are ERR_ADAPTER_INVALID and name the tensor or the field. `limits` may be NULL. */
int adapter_open(struct adapter **out, const char *dir, const struct base_desc *base,
                 const struct adapter_limits *limits, struct err *e);
void adapter_close(struct adapter *a); /* NULL is fine */

/* May an adapter that says it was trained on `trained_on` (base_model_name_or_path) meet this base? A hub name
 * ("org/name", "name") must end in the base's name or one of `also`, compared without case, organisation and the
 * suffixes of quantized copies; an empty one and a local path say nothing, and the shapes decide. ERR_ADAPTER_INVALID
 * names both. */
int base_desc_accepts(const struct base_desc *b, const char *trained_on, struct err *e);

/* Of one that another process filled: whether it is as base_desc_from_json() would have it, byte for byte. ERR_INVALID. */
int base_desc_check(const struct base_desc *b, struct err *e);

/* base_desc as JSON (the engine's /weft/v1/state carries it, the gateway reads it back):
 * {"name","digest","also":[..],"layers":N,"modules":{"q_proj":[out,in],..},"vocab","hidden","experts","expert_mlp",
 * "fused_qkv","fused_gate_up","widths":[[q,kv,mlp],..]}, the last seven only where they are not 0 or false. NULL: out of memory. The reader fails
 * with ERR_INVALID or ERR_MISSING. */
struct json_t;
struct json_t *base_desc_to_json(const struct base_desc *b);
int base_desc_from_json(struct base_desc *b, const struct json_t *j, struct err *e);
