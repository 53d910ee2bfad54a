/* Byte-level BPE from a GGUF's metadata: text <-> token ids.
 *
 * Encoding: special tokens are cut out first (longest match), the rest is split by the vocabulary's pre-tokenizer (PCRE2, with match
 * limits), each piece is merged by rank with a heap (O(n log n) whatever the text). Immutable after creation: any thread
 * may use it. Source: Sennrich et al. 2016; byte alphabet and merges as in GPT-2's release; pre-tokenizers as llama.cpp names them. */
#pragma once
#include "base/err.h"
#include "engine/gguf.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer;

struct tokens {
    int32_t *id; /* malloc'ed by tokenizer_encode(); free() */
    size_t n;
};

/* ERR_MODEL where the vocabulary's model or pre-tokenizer is not known; the message names it. */
int tokenizer_from_gguf(struct tokenizer **out, const struct gguf *g, struct err *e);
void tokenizer_free(struct tokenizer *t);

/* UTF-8 (bad bytes are encoded as bytes) -> ids. `parse_special`: the text of special tokens becomes those tokens (chat
 * templates); else it is plain text. User-defined tokens (words that a vocabulary got later, such as "<think>") are cut out in both cases. A
 * byte that the vocabulary has no token for is left out. No BOS is added. More than max_tokens: ERR_CONTEXT_LENGTH. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, bool parse_special, size_t max_tokens,
                     struct tokens *out, struct err *e);

int tokenizer_vocab(const struct tokenizer *t);
int tokenizer_bos(const struct tokenizer *t); /* -1: none */
int tokenizer_eos(const struct tokenizer *t);
bool tokenizer_adds_bos(const struct tokenizer *t);
bool tokenizer_is_end(const struct tokenizer *t, int32_t id); /* eos, eot, <|im_end|>, <|endoftext|>, ... */
bool tokenizer_is_special(const struct tokenizer *t, int32_t id); /* control tokens: not shown */

/* The bytes of a token (a special token's text), borrowed. May be part of a UTF-8 character. */
const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *len);
