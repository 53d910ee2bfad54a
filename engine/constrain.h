/* Structured output: a JSON schema, "any JSON object", a regular expression or a list of choices, compiled once into an automaton over
 * bytes, and per sequence the mask of the tokens that may come next.
 *
 * The automaton is a pushdown machine over UTF-8 bytes (JSON nests); a vocabulary is a trie of its tokens' bytes, walked once per state of
 * the automaton and remembered, so a step costs a look-up. Compiling is bounded in work, states, memory and CPU time: a bomb is refused
 * with ERR_INVALID in under 100 ms of it, naming the keyword or the place. So is a walk: about two milliseconds at most; states of very many
 * open ways offer shorter tokens instead.
 *
 * JSON schema: draft 2020-12. Served: type (a list too), properties, required, additionalProperties, items, prefixItems, minItems, maxItems,
 * enum, const, anyOf, allOf, oneOf where its schemas are provably apart (a tag among required properties costs nothing, hundreds are fine),
 * $ref within the schema (recursive too), minLength, maxLength, pattern, format (all of the standard's, each as a set of texts that are
 * valid for it; others are annotations), minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf (whole numbers to 1000). Values
 * are equal by what they mean (1 and 1.0), bounds count with every digit. Properties come in the schema's order, names that it doesn't list
 * last and only where additionalProperties says so; strings hold no U+0000; integers have 18 digits at most, other numbers 15 and 15; white
 * space is one blank or a line break with an indent. All of these narrow what is written, so an answer is always valid. Two things JSON
 * can't be held to here: that names which the schema doesn't list differ from each other, and that the answer has room.
 *
 * Regular expressions: ECMA-262's, without look-around, back references, word boundaries, \p and flags; see grammar_regex.c.
 *
 * Threads: a vocabulary and a cache of compiled grammars serve all threads; a state belongs to its sequence. */
#pragma once
#include "base/err.h"
#include "base/json.h"
#include "engine/tokenizer.h"
#include <stdbool.h>
#include <stdint.h>

#define GRAMMAR_SOURCE_MAX (256u << 10) /* bytes of a schema or pattern */
#define GRAMMAR_COMPILE_MS 100          /* of CPU */

struct constrain; /* a vocabulary prepared for masks, with the cache of grammars */
int constrain_new(struct constrain **out, const struct tokenizer *t, size_t cache_bytes, struct err *e);
void constrain_free(struct constrain *c); /* after the last grammar and state */

struct grammar; /* compiled, immutable but for its cache of masks (own lock), counted */
/* Each returns a reference; equal sources share one grammar. Unsupported schema keywords that would change what is valid are refused by
 * name and path; annotations are ignored. */
int grammar_json_schema(struct constrain *c, const json_t *schema, struct grammar **out, struct err *e);
int grammar_json_object(struct constrain *c, struct grammar **out, struct err *e); /* any JSON object */
int grammar_regex(struct constrain *c, const char *pattern, size_t len, struct grammar **out,
                  struct err *e); /* whole answer matches */
int grammar_choice(struct constrain *c, const char *const *choice, int n, struct grammar **out, struct err *e);
struct grammar *grammar_ref(struct grammar *g);
void grammar_unref(struct grammar *g); /* NULL is fine */

struct grammar_state;
int grammar_state_new(struct grammar_state **out, struct grammar *g, struct err *e); /* takes its own reference */
void grammar_state_free(struct grammar_state *s);                                    /* NULL is fine */
int grammar_state_copy(struct grammar_state **out, const struct grammar_state *s, struct err *e);

/* Words of the mask: bit i%32 of word i/32 is token i. */
static inline int grammar_mask_words(int vocab)
{
    return (vocab + 31) / 32;
}
/* The tokens that may come next; end tokens (tokenizer_is_end) are allowed where the answer may end, and alone where nothing else may
 * come. Bounded: at most one walk of the trie and a fixed number of transitions. 0, or -1 out of memory. */
int grammar_mask(struct grammar_state *s, uint32_t *mask);
/* Whether grammar_mask() would be a look-up now: the mask is remembered and nobody else is at this grammar. Never waits; for any thread
 * that may use the state, so that masks which have to be walked can be left to another one. */
bool grammar_mask_known(struct grammar_state *s);
/* A token was chosen. False: it was not allowed (the state does not change). */
bool grammar_accept(struct grammar_state *s, int32_t token);
bool grammar_may_end(const struct grammar_state *s);
bool grammar_is_over(const struct grammar_state *s); /* nothing but the end may come */
