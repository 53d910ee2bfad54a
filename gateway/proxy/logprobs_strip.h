/* Log-probabilities that the gateway asked an engine for and the client did not (gateway/capture, trial.c): taken out of the answer on its way to the client.
 *
 * `choices[].logprobs` becomes null, as it is in an answer without; every other byte stays. What can't be walked through passes as it came. */
#pragma once
#include "base/buf.h"

/* One object, an answer that is not a stream. */
int logprobs_strip(const char *s, size_t n, struct buf *out);
/* Lines of a stream; what is no `data: {` line passes. */
int logprobs_strip_lines(const char *s, size_t n, struct buf *out);
