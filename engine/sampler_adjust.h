/* What a request changes in a row of logits before one is chosen: penalties, biases, bans, the mask of a grammar.
 * Private to sampler*.c. */
#pragma once
#include "engine/sampler.h"

/* Does the input ask for anything that adjust_row() does? */
bool adjust_needed(const struct sample_input *in);

/* x[vocab]: a copy of the logits, changed in place, in this order: repetition penalty, presence and frequency penalties,
 * bias, mask, bans. What may not be chosen becomes -INFINITY. seen[vocab]: zeros, and zeros again afterwards. False:
 * nothing is left to choose (x is of no use then). */
bool adjust_row(float *x, int vocab, uint32_t *seen, const struct sample_input *in);
