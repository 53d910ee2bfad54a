/* sampler_adjust: a request's wishes as changes of the logits.
 *
 *     repetition   l > 0 ? l / r : l * r     once for each distinct token of prompt and answer (Keskar et al. 2019)
 *     presence     l - a                     once for each distinct token of the answer     } as OpenAI's API reference
 *     frequency    l - b * count             count in the answer                            } defines them
 *     bias         l + value                 -100 and below: never
 *     mask, bans   -inf
 *
 * The cost is that of the tokens so far, not of the vocabulary, but for the mask: that is one pass. Tokens are counted in
 * an array over the vocabulary, which is cleaned by walking the same tokens again, so it is never swept as a whole. Bit
 * SEEN_PROMPT marks a token of the prompt; the rest is the count in the answer.
 *
 * Pure functions over the caller's memory. */
#include "engine/sampler_adjust.h"
#include <math.h>
#include <stddef.h>

#define BIAS_NEVER (-100.0f)
#define SEEN_PROMPT 0x80000000u

static bool repeats_cost(const struct sample_params *p)
{
    return p->repetition_penalty > 0 && p->repetition_penalty != 1;
}

static bool penalized(const struct sample_input *in)
{
    const struct sample_params *p = in->p;
    return in->ids && (repeats_cost(p) || p->presence_penalty != 0 || p->frequency_penalty != 0);
}

bool adjust_needed(const struct sample_input *in)
{
    return penalized(in) || in->nbias > 0 || in->mask || in->nbanned > 0;
}

static void penalize_token(float *x, uint32_t seen, const struct sample_params *p)
{
    uint32_t count = seen & ~SEEN_PROMPT;
    if (repeats_cost(p)) *x = *x > 0 ? *x / p->repetition_penalty : *x * p->repetition_penalty;
    if (count) *x -= p->presence_penalty + p->frequency_penalty * (float)count;
}

static void penalize(float *x, int vocab, uint32_t *seen, const struct sample_input *in)
{
    for (int i = 0; i < in->nids; i++) {
        int32_t id = in->ids[i];
        if (id < 0 || id >= vocab) continue;
        if (i < in->nprompt)
            seen[id] |= SEEN_PROMPT;
        else
            seen[id]++;
    }
    for (int i = 0; i < in->nids; i++) {
        int32_t id = in->ids[i];
        if (id < 0 || id >= vocab || !seen[id]) continue;
        penalize_token(&x[id], seen[id], in->p);
        seen[id] = 0;
    }
}

static void add_bias(float *x, int vocab, const struct sample_input *in)
{
    for (int i = 0; i < in->nbias; i++) {
        const struct token_bias *b = &in->bias[i];
        if (b->id < 0 || b->id >= vocab) continue;
        x[b->id] = b->bias <= BIAS_NEVER ? -INFINITY : x[b->id] + b->bias;
    }
}

static void apply_mask(float *x, int vocab, const uint32_t *mask)
{
    for (int i = 0; i < vocab; i += 32) {
        uint32_t word = mask[i / 32];
        if (word == UINT32_MAX) continue;
        int n = vocab - i < 32 ? vocab - i : 32;
        for (int j = 0; j < n; j++)
            if (!(word >> j & 1)) x[i + j] = -INFINITY;
    }
}

static bool any_left(const float *x, int vocab)
{
    for (int i = 0; i < vocab; i++)
        if (x[i] > -INFINITY) return true;
    return false;
}

bool adjust_row(float *x, int vocab, uint32_t *seen, const struct sample_input *in)
{
    if (penalized(in)) penalize(x, vocab, seen, in);
    add_bias(x, vocab, in);
    if (in->mask) apply_mask(x, vocab, in->mask);
    for (int i = 0; i < in->nbanned; i++)
        if (in->banned[i] >= 0 && in->banned[i] < vocab) x[in->banned[i]] = -INFINITY;
    return any_left(x, vocab);
}
