/* From a row of logits to a token: greedy, or temperature with top-k and top-p, seeded; with log-probabilities.
 *
 * Deterministic: the choice depends on the logits, the parameters, the seed and the index of the token in its answer only, never on the
 * batch. Greedy takes the smallest id among equals. Log-probabilities are of the unmodified logits (log softmax in float32 with a fixed order). */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define TOP_LOGPROBS_MAX 20

struct sample_params {
    float temperature;                         /* 0: greedy */
    float top_p;                               /* 1: all */
    int top_k;                                 /* 0: all */
    float min_p;                               /* 0: off */
    float typical_p;                           /* 1: off; Meister et al. 2023 */
    float repetition_penalty;                  /* 1: off; over prompt and answer, Keskar et al. 2019 */
    float presence_penalty, frequency_penalty; /* 0: off; over the answer, as OpenAI defines them */
    uint64_t seed;
    int logprobs; /* -1: none, else how many alternatives (0..TOP_LOGPROBS_MAX) besides the chosen */
};

struct token_bias {
    int32_t id;
    float bias; /* added to the logit; -100 and below: never chosen */
};

/* What a choice depends on besides the logits. */
struct sample_input {
    const struct sample_params *p;
    uint64_t index;     /* how many tokens of this answer were chosen before */
    const int32_t *ids; /* [nids] prompt, then answer; may be NULL where no penalty is asked for */
    int nprompt, nids;
    const struct token_bias *bias; /* [nbias] each id once */
    int nbias;
    const int32_t *banned; /* [nbanned] may not be chosen now (end tokens before min_tokens) */
    int nbanned;
    const uint32_t *mask; /* bit per token that may be chosen (constrain.h); NULL: all */
};

struct token_logprob {
    int32_t id;
    float logprob;
};

struct sample {
    int32_t id;
    float logprob; /* when logprobs >= 0 */
    int ntop;
    struct token_logprob top[TOP_LOGPROBS_MAX]; /* best first */
};

/* What a thread of sampling needs; make one per thread. */
struct sampler;
struct sampler *sampler_new(int vocab);
/* Rows of logits are this long, where an embedding is padded: what is behind the vocabulary is never chosen, and counts in
 * log-probabilities, as everywhere. */
void sampler_set_row(struct sampler *s, int row);
void sampler_free(struct sampler *s);

/* Returns 0, or -1 when the logits hold a value that is not finite (the caller ends the request with ERR_ADAPTER_FAULT). Where mask and
 * bans leave nothing, the bans give way. */
int sample_token(struct sampler *s, const float *logits, const struct sample_input *in, struct sample *out);

/* The log-probability of a token that was not sampled but given (prompts), with p->logprobs alternatives. */
int sample_given(struct sampler *s, const float *logits, const struct sample_params *p, int32_t id, struct sample *out);
