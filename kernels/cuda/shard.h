/* What each device of a tensor-parallel group holds (LORA_KERNELS.md section 3). Weights (place.c), adapters (adapters.c),
 * biases, heads of keys and values and the widths of a rank (backend.c) are all cut by these rules and by nothing else.
 *
 *     q, k, v, gate, up   a part of the outputs: heads, or columns of the MLP      SPLIT_OUTPUTS
 *     o, down             the part of the inputs that those outputs are            SPLIT_INPUTS, summed over the group
 *     lm_head             a part of the vocabulary, gathered                       SPLIT_OUTPUTS, ragged
 *     norms, router, embedding                                                     SPLIT_NONE
 *
 * A part is rows and columns of the [n][k] matrix, and the same part goes for all that belongs to it: a bias and DoRA's
 * factors are cut like the outputs, an adapter's A [r][k] by inputs, its B [n][r] by outputs. So with SPLIT_INPUTS each
 * rank expands what its own part of A x gives, and the one sum over the group that the base needs adds the adapters'
 * parts too; its bias is added once, by rank 0.
 *
 * Parts consist of whole units, which are what may not be cut: a head, or 32 inputs that share a scale. A group that does
 * not come out even is refused. K and V of fewer heads than there are ranks are kept by several: `copies`. */
#pragma once
#include "kernels/device.h"

enum shard_split { SPLIT_NONE, SPLIT_OUTPUTS, SPLIT_INPUTS };

struct shard_rule {
    enum shard_split split;
    int n, k;
    int unit;    /* outputs (SPLIT_OUTPUTS) or inputs (SPLIT_INPUTS) that stay together */
    bool copies; /* fewer units than ranks: neighbouring ranks hold the same one */
    bool ragged; /* the last parts may be shorter, or empty */
};

/* Outputs row0 .. row0+n-1, inputs k0 .. k0+k-1. */
struct shard {
    int row0, n, k0, k;
};

/* -1 with ERR_USAGE and the reason where `ranks` can't share it. `what`: for the message, "k_proj". */
int shard_check(const struct shard_rule *rule, const char *what, int ranks, struct err *e);

/* The part of `rank`; rules that pass shard_check(). */
struct shard shard_of(const struct shard_rule *rule, int ranks, int rank);

/* Outputs of a whole part, as the gather of a ragged one counts them: rank r's stand at r * shard_step(). */
int shard_step(const struct shard_rule *rule, int ranks);

/* The rules of a model; of ROLE_WHOLE and ROLE_EMBED n and k are 0: whatever the matrix has. */
struct shard_rule shard_rule_of(const struct device_shape *s, enum device_role role);
enum shard_split shard_split_of(enum device_role role);

/* All of a model's rules: heads in whole groups, MLPs in groups of inputs that share a scale, ... */
int shard_model(const struct device_shape *s, int ranks, struct err *e);
