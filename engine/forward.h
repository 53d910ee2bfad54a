/* One forward pass: rows of many sequences and adapters in, logits out.
 *
 * The workspace is taken once, for the largest step; a pass allocates nothing. One pass is one pool_run(). Used by the
 * step thread only. */
#pragma once
#include "engine/model.h"

struct forward;

struct forward_batch {
    int rows;             /* 1 .. max_rows */
    const int32_t *token; /* [rows] */
    int nseq;
    const struct attn_seq *seq; /* ascending row0, together they cover all rows: pages must hold their positions */
    struct lora_batch lora;     /* nseg 0: base rows only */
    int max_rank;         /* largest sum of lora_rank_pad(rank) over one segment's uses; where each segment has one
                                 * adapter, the largest rank will do */
    int nlogits;          /* 0 .. max_logits; several rows of a sequence may ask */
    const int *logit_row; /* [nlogits] rows whose logits are wanted, ascending */
    /* Runs on every thread of the pool when the logits are complete (sampling is shared that way); NULL: nothing. */
    void (*after)(struct kthread *t, void *u, const float *logits);
    void *u;
};

/* max_rank: the largest that a batch may say. max_logits may exceed the running sequences (speculation, log-probabilities
 * of prompts): it costs max_logits * vocab floats. ERR_MODEL: more experts than EXPERTS_MAX. */
int forward_new(struct forward **out, const struct model *m, const struct kernels *k, struct pool *pool,
                struct kv_cache *kv, int max_rows, int max_logits, int max_rank, struct err *e);
void forward_free(struct forward *f);

/* The logits, [nlogits][vocab] in the order of logit_row, valid until the next pass. */
const float *forward_run(struct forward *f, const struct forward_batch *b);

size_t forward_bytes(const struct forward *f);        /* of the workspace */
size_t forward_logits_bytes(const struct forward *f); /* of it, the logits */
