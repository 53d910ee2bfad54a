/* What adapter*.c share. Private: others use adapter.h. */
#pragma once
#include "adapters/adapter.h"
#include "base/buf.h"

#define OTHER_BASE "; it was trained on another base: serve it there"
#define EXPERT_PARTS_OF 3 /* gate, up, down */

/* The file's tensors on their way into the adapter's parts. */
struct mapping {
    struct adapter *a;
    const struct base_desc *base;
    bool any, any_head;
    char prefix[TENSOR_NAME_MAX];      /* of the first tensor of a layer or the embedding; all must have it */
    char head_prefix[TENSOR_NAME_MAX]; /* of lm_head, which stands outside the decoder */
    char infix[TENSOR_INFIX_MAX];      /* of the first tensor with one */
    int moe_names;                     /* 0: none seen; 1: mlp, 2: block_sparse_moe */
    bool any_router, any_expert, any_stacked;
    struct adapter_part *fused;   /* [layers][2] qkv_proj, gate_up_proj */
    struct adapter_part *stacked; /* [layers][2] parameters of all experts: inner, outer */
    struct buf unused;            /* names */
    int nunused, named;
    char first_moe[TENSOR_NAME_MAX + 1];
};

int mapping_init(struct mapping *m, struct adapter *a, const struct base_desc *base, struct err *e);
void mapping_close(struct mapping *m);

/* Every tensor into its place, by name and shape. */
int mapping_place_all(struct mapping *m, struct err *e);

/* The places against the config: named and there, or not named and not there; ranks, scales, magnitudes. */
int mapping_agree(struct mapping *m, int max_rank, struct err *e);
