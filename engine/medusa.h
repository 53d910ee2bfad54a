/* Medusa heads (Cai et al. 2024, arXiv 2401.10774): small networks beside a base that guess several tokens ahead from its
 * last hidden state. Immutable once loaded; any thread may read them.
 *
 * Head k, from 1, guesses the token k places behind the one that the base itself chooses from the same row:
 *
 *     h_k = h; `layers` times h_k += SiLU(W h_k + b); logits_k = lm_head_k h_k
 *
 * A folder: config.json with medusa_num_heads and medusa_num_layers, and medusa_lm_head.safetensors with, for head k from 0
 * and layer i,
 *
 *     K.I.linear.weight [hidden][hidden]   K.I.linear.bias [hidden]   K.LAYERS.weight [vocab][hidden]
 *
 * as the published ones name them, `medusa_head.` before each or before none. The last one, a head's own lm_head, is there
 * for all heads or for none: then they share the base's. Of ours, config.json may have `medusa_accuracy`: for each head how
 * often its candidate of each rank was the right token, of which trees of guesses are made; and `medusa_tokens`, ascending: the only tokens
 * that heads without an lm_head of their own guess (Zhao et al. 2025, "FR-Spec"), so that they read but these rows of the base's. */
#pragma once
#include "engine/medusa_tree.h"
#include "engine/model.h"

struct medusa {
    int heads, layers, hidden, vocab;
    struct weight *block; /* [heads][layers], [hidden][hidden] each */
    float *bias;          /* [heads][layers][hidden] */
    struct weight *own;   /* [heads], each [vocab][hidden]; NULL: all use the base's lm_head */
    struct weight few;    /* of the base's lm_head the rows of `token`, [ntokens][hidden]; n 0: it is used whole */
    int32_t *token;       /* [ntokens], ascending; NULL: any token may be guessed */
    int ntokens;
    bool measured; /* the file says accuracies */
    float right[MEDUSA_HEADS_MAX][MEDUSA_RANKS]; /* how often a candidate is the right token, 0 to 1 */
    struct medusa_tree tree[MEDUSA_NODES_MAX + 1]; /* by the number of nodes, from 1 */
    size_t bytes; /* of the weights as they are packed */
};

/* Fails closed: ERR_MODEL where a tensor is missing, has another shape than the base asks for, holds a value that is not
 * finite, or is used by nothing. */
int medusa_load(struct medusa **out, const char *folder, const struct model *base, struct err *e);
void medusa_free(struct medusa *m); /* NULL is fine */

/* What config.json says, for a base of that hidden size and vocabulary (what it may say of them must fit). */
int medusa_config(struct medusa *m, const char *text, size_t len, struct err *e);
