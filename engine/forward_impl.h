/* What forward*.c share. Private: others use forward.h. */
#pragma once
#include "engine/forward.h"

struct moe_space; /* forward_moe.c */

#define FORWARD_BEGUN 2 /* one behind the one that runs */

struct forward {
    const struct model *m;
    const struct kernels *k;
    struct pool *pool;
    struct kv_cache *kv;
    int max_rows, max_logits, max_rank;
    float *block; /* owns the arrays of floats below */
    size_t block_bytes;
    float *x;       /* [rows][hidden] the residual stream */
    float *y;       /* [rows][hidden] what a half gives, where it is normed before it is added */
    float *q;       /* [rows][heads*head_dim] */
    float *kk, *v;  /* [rows][kv_heads*head_dim] */
    float *shrink;  /* [MM_OUTS][rows][padded rank], or [2][pairs][padded rank] of experts */
    float *logits;  /* [max_logits][vocab] */
    float *partial; /* of attention */
    size_t partial_floats;
    struct act h;              /* after a norm, k = hidden */
    struct act a;              /* attention's or the gate's output, k = heads*head_dim or mlp */
    uint16_t *h_bf16, *a_bf16; /* their bf16 forms, which are left out where no row's adapter reads them */
    struct moe_space *moe;     /* NULL: no layer has experts */
    struct lora_seg *head_seg; /* [max_logits] */

    struct device_result chosen; /* by the device */
    struct err error;            /* of the device */

    const struct forward_batch *begun[FORWARD_BEGUN]; /* without an end, oldest first */
    const struct forward_batch *b;                    /* whose operations are walked, as are the two below */
    struct lora_batch lora;                           /* b's */
    struct lora_batch head_lora;                      /* its segments in the order of the wanted logits */
};

/* The operations of a pass, in order; on every thread of the pool. */
void forward_pass(struct kthread *t, void *forward);

/* A product over `rows` rows of `in` with the adapters of `lora`, without outputs yet. */
struct mm forward_product(const struct forward *f, const struct act *in, int rows, const struct lora_batch *lora,
                          int layer);

/* The segments of `b` as seen by rows that are row_of[0 .. rows-1] (ascending) of the batch: at most `rows` of them, into
 * out. Returns their number. */
int forward_segments(const struct lora_batch *b, const int *row_of, int rows, struct lora_seg *out);

/* --- forward_moe.c --- */

int forward_moe_new(struct moe_space **out, const struct model *m, int max_rows, struct err *e);
void forward_moe_free(struct moe_space *s);
size_t forward_moe_bytes(const struct moe_space *s);

/* The experts' half of a layer on the normed rows in f->h: to[row] = (add ? to[row] : 0) + their weighted sum. */
void forward_moe(struct forward *f, struct kthread *t, int layer, float *to, bool add);

/* --- forward_device.c --- */

/* The workspace is the device's; f->b is begun, with its segments ready; b, begun first, is over. -1: as forward_run(). */
int forward_device_rooms(struct forward *f, struct err *e);
int forward_device_begin(struct forward *f);
int forward_device_end(struct forward *f, const struct forward_batch *b);
