/* One forward pass: rows of many sequences and adapters in, logits out.
 *
 * The workspace is taken once, for the largest step; a pass allocates nothing. One pass is one pool_run(). Used by the
 * step thread only.
 *
 * Where the table's operations are a device's (kernels.device, which was started with the model's constants), the
 * workspace and the KV cache are the device's too, and a pass is a graph that is replayed. */
#pragma once
#include "engine/model.h"
#include "kernels/device.h"

struct forward;

struct forward_batch {
    int rows;             /* 1 .. max_rows */
    const int32_t *token; /* [rows]; on a device also TOKEN_CHOSEN() of the pass before */
    int nseq;
    const struct attn_seq *seq; /* ascending row0, together they cover all rows: pages must hold their positions */
    struct lora_batch lora;     /* nseg 0: base rows only */
    int ncopies;
    const struct kv_copy *copy; /* in each layer, once its keys and values are stored; not on a device */
    int max_rank;         /* largest sum of lora_rank_pad(rank) over one segment's uses; where each segment has one
                                 * adapter, the largest rank will do */
    int nlogits;          /* 0 .. max_logits; several rows of a sequence may ask */
    const int *logit_row; /* [nlogits] rows whose logits are wanted, ascending */
    const struct device_choice *choice; /* [nlogits] what a device may choose itself; NULL: nothing */
    /* Runs on every thread of the pool when the logits are complete (sampling is shared that way); NULL: nothing. */
    void (*after)(struct kthread *t, void *u, const float *logits);
    void *u;
};

/* max_rank: the largest that a batch may say. max_logits may exceed the running sequences (speculation, log-probabilities
 * of prompts): it costs max_logits * vocab floats. ERR_MODEL: more experts than EXPERTS_MAX. */
int forward_new(struct forward **out, const struct model *m, const struct kernels *k, struct pool *pool,
                struct kv_cache *kv, int max_rows, int max_logits, int max_rank, struct err *e);
void forward_free(struct forward *f);

/* The logits, [nlogits][vocab] in the order of logit_row, valid until the next pass. NULL: the device failed, `after` was
 * not called, and no pass will succeed any more: forward_error() says why. */
const float *forward_run(struct forward *f, const struct forward_batch *b);
/* The same in two parts. On a device the pass runs in between, and one more may be begun behind it (device.h says which);
 * forward_end() is the oldest's. Here forward_end() does it all. `b` stays until then. -1, NULL: as above. */
int forward_begin(struct forward *f, const struct forward_batch *b);
const float *forward_end(struct forward *f);
const struct err *forward_error(const struct forward *f);
/* What the device chose in this pass, from within `after` on; NULL: there is no device. Rows that it chose from have no
 * logits here. */
const struct device_result *forward_chosen(const struct forward *f);

/* The last hidden states, normed, of rows row_of[0 .. n-1] of the pass that ended last, into `out`. On every thread of a
 * pool_run(), a barrier behind it; until the next pass begins, and not on a device. */
void forward_hidden(struct forward *f, struct kthread *t, const int *row_of, int n, struct act *out);

size_t forward_bytes(const struct forward *f);        /* of the workspace */
size_t forward_logits_bytes(const struct forward *f); /* of it, the logits */
