/* Prompt policies of aliases: what is done with a prompt before the model reads it (docs/POLICIES.md).
 *
 * A policy is a JSON object: {truncate, compress, template}. It stands in the alias's row as text with all its defaults written out, and in the registry's
 * snapshot as that text; NULL there is an alias without one, which costs a request nothing but the look. */
#pragma once
#include "base/err.h"
#include "base/json.h"

#define PROMPT_POLICY_MAX 65536 /* bytes of the text: ALIAS_PART_MAX */
#define PROMPT_FIELD "weft_prompt_policy" /* of a request's body: schema/ENGINE_API.md */

/* What a client says a policy is, into the object that is stored; *out NULL where v is NULL, null or {}. The caller owns it. ERR_INVALID and ERR_MISSING
 * name the field below `prompt_policy`. */
int prompt_policy_read(const json_t *v, json_t **out, struct err *e);

/* A stored policy's text into a request's body (chat: with messages): a template takes the place of `slots`, and what the engine is to do goes into
 * PROMPT_FIELD. ERR_INVALID, ERR_MISSING, ERR_TOO_LARGE naming the slot; ERR_UNSUPPORTED: a template where there are no messages. */
int prompt_policy_apply(const char *text, bool chat, json_t *root, struct err *e);
