/* From a row of logits to a token: greedy, or temperature with top-k and top-p, seeded; with log-probabilities.
 *
 * Deterministic: the choice depends on the logits, the parameters, the seed and the index of the token in its answer only, never on the
 * batch. Greedy takes the smallest id among equals. Log-probabilities are of the unmodified logits (log softmax in float32 with a fixed order). */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define TOP_LOGPROBS_MAX 20

struct sample_params {
    float temperature; /* 0: greedy */
    float top_p;       /* 1: all */
    int top_k;         /* 0: all */
    float min_p;       /* 0: off */
    uint64_t seed;
    int logprobs;      /* -1: none, else how many alternatives (0..TOP_LOGPROBS_MAX) besides the chosen */
};

struct token_logprob {
    int32_t id;
    float logprob;
};

struct sample {
    int32_t id;
    float logprob;                              /* when logprobs >= 0 */
    int ntop;
    struct token_logprob top[TOP_LOGPROBS_MAX]; /* best first */
};

/* What a thread of sampling needs; make one per thread. */
struct sampler;
struct sampler *sampler_new(int vocab);
void sampler_free(struct sampler *s);

/* `index`: how many tokens of this answer were chosen before. banned: ids that may not be chosen now (end tokens before min_tokens), or NULL.
 * Returns 0, or -1 when the logits hold no finite value (NaN or Inf anywhere counts: the caller ends the request with ERR_ADAPTER_FAULT). */
int sample_token(struct sampler *s, const float *logits, const struct sample_params *p, uint64_t index,
                 const int32_t *banned, int nbanned, struct sample *out);
