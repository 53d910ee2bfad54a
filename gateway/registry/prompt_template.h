/* Structured prompts: an alias's messages with typed places in them, which a client fills (docs/POLICIES.md).
 *
 *     {"messages": [{"role": "user", "content": "Sort: {{text}}"}], "slots": {"text": {"type": "string", "max_length": 2000}}}
 *
 * Part of a prompt policy (prompt_policy.h). Pure functions over JSON; any thread. */
#pragma once
#include "base/err.h"
#include "base/json.h"

#define TEMPLATE_MESSAGES 64
#define TEMPLATE_SLOTS 32
#define TEMPLATE_TEXT_MAX 65536     /* characters of a slot's value */
#define TEMPLATE_RENDERED_MAX (4u << 20) /* bytes of all contents */

/* A client's template with all defaults written out; the caller owns *out. ERR_INVALID and ERR_MISSING name the field in it. */
int prompt_template_read(const json_t *v, json_t **out, struct err *e);

/* Puts messages in the place of a request's `slots`. *texts, the caller's: the values of its slots that may hold any text, by name. ERR_INVALID, ERR_MISSING
 * and ERR_TOO_LARGE name the slot. */
int prompt_template_fill(const json_t *t, json_t *root, json_t **texts, struct err *e);
