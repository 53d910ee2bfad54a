/* Redaction: what looks like somebody's address, number or secret becomes a word in brackets, before anything of a text is written (docs/DISTILL.md).
 *
 * The kinds are rows of a table: a pattern, and a check of what it found (a card's digits must add up, an address must be one). A tenant's own patterns
 * come from a stranger: their matches have limits of steps, depth, memory and processor time, and what meets a limit fails the whole text. So a text is either
 * redacted to its end, or refused. It finds what has a shape; a name or a story has none. */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"

#define REDACT_PATTERNS_MAX 8
#define REDACT_PATTERN_LEN 256
#define REDACT_MATCHES_MAX 10000 /* of one redactor */

struct redactor;

bool redact_is_kind(const char *word);
const char *redact_kind(int i); /* NULL: there are no more */
bool redact_names(const json_t *kinds, const char *word); /* whether it is one of an array's words */

/* kinds: an array of their words; patterns: [{name, regex}]; both as capture_policy_read() stores them. ERR_INVALID: a regex is none. */
int redactor_new(struct redactor **out, const json_t *kinds, const json_t *patterns, struct err *e);
void redactor_free(struct redactor *r); /* NULL is fine */

/* Appends the text without what was found. ERR_TOO_LARGE: a limit was met; then nothing of it may be kept. */
int redact_text(struct redactor *r, const char *s, size_t n, struct buf *out, struct err *e);
/* A copy of v whose strings are redacted, and the names of its members. */
int redact_json(struct redactor *r, const json_t *v, json_t **out, struct err *e);

int redactor_found(const struct redactor *r); /* so far */
json_t *redactor_counts(const struct redactor *r); /* {"email": 2, ...} of those that were found */
