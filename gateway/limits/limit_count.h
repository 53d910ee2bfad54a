/* How many tokens a prompt really has, by asking an engine (ENGINE_API.md, /weft/v1/tokenize). */
#pragma once
#include "gateway/proxy/upstream.h"

/* done(u, tokens of all prompts) comes once, on the client's thread; -1: nobody could say. -1 at once where none can be
 * asked or LIMIT_COUNTS are under way: refused requests must not keep the engine busy. */
#define LIMIT_COUNTS 4
int limit_count(struct gateway *g, const struct upstream_ask *ask, void (*done)(void *u, int64_t tokens), void *u);
