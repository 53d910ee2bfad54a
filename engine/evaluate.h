/* What a model makes of a text: perplexity, and against another model of the same vocabulary the divergence of its
 * choices. The measure of what a type of weights costs (`weft-engine eval`, `quantize --type auto`).
 *
 * The text is cut into windows of `context` tokens that don't overlap; in each, every token but the first is predicted
 * from those before it in the window. One evaluator per model, one thread at a time. */
#pragma once
#include "engine/forward.h"
#include "engine/kv.h"

struct evaluator;

/* context: tokens of a window, 2 .. the model's own. threads 0: one per core. */
int evaluator_new(struct evaluator **out, const struct model *m, const struct kernels *k, int threads, int context,
                  struct err *e);
/* With keys and values of a type: of a model in EXACT float32, else bf16 or int8. */
int evaluator_new_as(struct evaluator **out, const struct model *m, const struct kernels *k, enum kv_type type, int threads, int context,
                     struct err *e);
void evaluator_free(struct evaluator *v); /* NULL is fine */

/* Predictions of one window: `see` gets the logits, [count][vocab], of positions first .. first+count-1, in order, in
 * parts of bounded size. */
void evaluator_window(struct evaluator *v, const int32_t *token, int n,
                      void (*see)(void *u, int first, int count, const float *logits), void *u);

#define EVAL_NEAR 256 /* positions of the first octave below, each of the others has as many as all before it */
#define EVAL_OCTAVES 14

struct eval_result {
    int64_t tokens; /* predicted */
    double nll;     /* sum of -log p of the text's tokens, natural */
    struct {
        int64_t tokens;
        double nll;
    } octave[EVAL_OCTAVES]; /* the same by the position that predicts */
    /* against a reference; of the same positions */
    double kl, kl_max; /* sum and largest of KL(reference || model) */
    int64_t same_top;  /* positions with the same best token */
};

double eval_perplexity(const struct eval_result *r); /* exp(nll / tokens) */

/* Over a whole text; `reference` NULL: perplexity only. Both must have the same vocabulary and context. */
void evaluate(struct evaluator *v, struct evaluator *reference, const int32_t *token, int n, struct eval_result *out);

/* log p of `id` in a row of logits; KL(p || q) of two rows over `n` tokens. In double. */
double eval_logprob(const float *logits, int n, int32_t id);
double eval_kl(const float *p, const float *q, int n);

/* A text file as ids, `max` at most (BOS first where the vocabulary adds one). ERR_IO, ERR_USAGE: too short. */
int eval_read_text(const struct tokenizer *t, const char *path, int max, struct tokens *out, struct err *e);
