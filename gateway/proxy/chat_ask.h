/* What a request for text says, as far as the gateway reads it, and what it writes into the body before an engine sees it. No network, no database: JSON in,
 * JSON out (fuzzed as `chat`). */
#pragma once
#include "base/buf.h"
#include "base/json.h"
#include "gateway/limits/limit_request.h"

#define CHAT_MODEL_MAX 255
#define CHAT_TOKENS_MAX 1048576 /* as the engine bounds it */
#define CHAT_CHOICES_MAX 128
#define CHAT_ADAPTERS_MAX UPSTREAM_ADAPTERS

/* Strings are the JSON's. */
struct chat_ask {
    bool chat;                /* messages; else a prompt */
    const char *model, *user; /* user: "" where it was not said */
    bool stream;
    int64_t max_tokens; /* -1: not said */
    int64_t choices;    /* to each prompt */
    int64_t prompts;
    bool rag;           /* what the client retrieved was with it, and is taken out: chat_ask_read() */
};

/* Parses and reads. `strict`: a field that is no row of the table is ERR_UNSUPPORTED. Else ERR_INVALID_JSON, ERR_INVALID, ERR_MISSING with the field.
 * `metadata.rag` (gateway/quality/grounded.h) is no engine's and is taken out. The caller owns *root, which may be set on failure too. */
int chat_ask_read(const char *text, size_t len, bool chat, bool strict, json_t **root, struct chat_ask *a, struct err *e);

/* `adapters`: how many there are, 0 where the field isn't a list (the engine says what is wrong with it then). ERR_INVALID: too many. */
int chat_ask_adapters(const json_t *root, size_t *n, struct err *e);
/* The name that entry i gives, borrowed. ERR_INVALID, ERR_MISSING. */
int chat_ask_adapter(const json_t *root, size_t i, const char **name, struct err *e);
/* Puts the digest in the name's place. */
int chat_ask_resolve(json_t *root, size_t i, const char *digest, struct err *e);

/* What the limits have to know of it. */
struct limit_wish chat_ask_limits(const struct chat_ask *a, const json_t *root, size_t body_len, int max_context);

/* Puts an alias's fixed beginning in front: the system message's text, or the prompt's. ERR_UNSUPPORTED: a prompt of token ids. */
int chat_ask_prefix(json_t *root, bool chat, const char *prefix, struct err *e);

/* The body for an engine: the client's with `model` and `cache_salt` set, appended to `out`. */
int chat_ask_body(json_t *root, const char *model, const char *salt, struct buf *out, struct err *e);
