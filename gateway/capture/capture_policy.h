/* What an alias says of capture: its part `capture` (gateway/registry/alias.h).
 *
 *     {"sample": 1.0, "expires_days": 30, "max_rows": 5000, "top_logprobs": 0, "redact": ["secret", "email", ...], "patterns": [{"name", "regex"}]}
 *
 * There is none unless the tenant's own admin key, or the operator, set it. */
#pragma once
#include "base/err.h"
#include "base/json.h"

#define CAPTURE_FIELD "capture"
#define CAPTURE_DAYS_MAX 365
#define CAPTURE_ROWS_MAX 20000 /* of an alias, and of a tenant */
#define CAPTURE_TOP_MAX 20     /* as OpenAI and engines bound it */

/* As alias_part_row.read. */
int capture_policy_read(const json_t *v, json_t **out, struct err *e);

/* Of a stored text: how many log-probabilities are asked for beside each token; 0: none. No tree is made. */
int capture_policy_top(const char *text);

/* Asks for them in a chat's body where the client did not; whether it did so, and they are to be taken out of the answer. */
bool capture_ask_logprobs(json_t *root, int top);
void capture_unask_logprobs(json_t *root); /* the same body without */
