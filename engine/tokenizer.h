/* Text <-> token ids: the vocabulary of a GGUF's metadata or of a Hugging Face tokenizer.json.
 *
 * Served are BPE over bytes (GPT-2's alphabet) and BPE over characters with byte fallback (SentencePiece), with the normalizers,
 * pre-tokenizers and decoders that model families use; what is not known is refused by name. Encoding: special tokens are cut out
 * first (longest match), the rest is normalized, split into pieces and merged by rank with a heap, O(n log n) whatever the text.
 * Immutable after creation: any thread may use it. Source: Sennrich et al. 2016; Hugging Face's tokenizers for the meaning of
 * tokenizer.json's parts; pre-tokenizers of GGUF as llama.cpp names them. */
#pragma once
#include "base/err.h"
#include "engine/gguf.h"
#include <jansson.h>
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

/* tokenizer_json: the file's text (not kept). tokenizer_config and generation_config may be NULL: they say which tokens begin and end a
 * text. The vocabulary may be smaller than the model's embedding (padding rows), and may have holes. ERR_MODEL names the part of
 * the file that cannot be served. */
int tokenizer_from_hf(struct tokenizer **out, const char *tokenizer_json, size_t len, const json_t *tokenizer_config,
                      const json_t *generation_config, struct err *e);
void tokenizer_free(struct tokenizer *t);

/* UTF-8 (bad bytes are encoded as bytes) -> ids. `parse_special`: the text of special tokens becomes those tokens (chat
 * templates); else it is plain text. User-defined tokens (words that a vocabulary got later, such as "<think>") are cut out in both cases. A
 * byte that the vocabulary has no token for becomes its unknown token, or is left out. No BOS is added. More than max_tokens:
 * ERR_CONTEXT_LENGTH. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, bool parse_special, size_t max_tokens,
                     struct tokens *out, struct err *e);

int tokenizer_vocab(const struct tokenizer *t); /* the largest id + 1 */
int tokenizer_bos(const struct tokenizer *t);   /* -1: none */
int tokenizer_eos(const struct tokenizer *t);
bool tokenizer_adds_bos(const struct tokenizer *t);
bool tokenizer_is_end(const struct tokenizer *t, int32_t id);     /* eos, eot, <|im_end|>, <|endoftext|>, ... */
bool tokenizer_is_special(const struct tokenizer *t, int32_t id); /* control tokens: not shown */

/* The bytes of a token (a special token's text), borrowed. May be part of a UTF-8 character. */
const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *len);
/* The same of the first token that is shown of a text: SentencePiece's space before the first word is none of the text's. */
const char *tokenizer_first_bytes(const struct tokenizer *t, int32_t id, size_t *len);
