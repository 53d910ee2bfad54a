/* What a generation request asks for: the JSON body of /v1/chat/completions, /v1/completions and /weft/v1/tokenize,
 * checked.
 *
 * A field that we know is served or refused by name (ERR_UNSUPPORTED), never half applied; a field that we don't know
 * is ignored, as OpenAI's clients expect. Fields that don't change the answer (user, metadata, store, ...) count as
 * unknown. */
#pragma once
#include "base/err.h"
#include "base/json.h"
#include "engine/sched.h"

#define ASK_PROMPTS_MAX 64 /* prompts of one completions request */
#define ASK_MESSAGES_MAX 4096
#define ASK_MODEL_LEN 256
#define ASK_SALT_LEN 128

enum ask_kind { ASK_CHAT = 1, ASK_COMPLETION = 2 };

struct ask {
    enum ask_kind kind;
    json_t *root; /* owns all that is borrowed below */
    const char *model;
    const json_t *messages;      /* chat: array of objects, each content a string (or absent) */
    const json_t *template_args; /* chat: chat_template_kwargs, or NULL */
    bool add_generation_prompt;
    const json_t *prompt[ASK_PROMPTS_MAX]; /* completions: a string, or an array of token ids, each */
    int nprompts;                          /* chat: 1 */
    struct gen_params p;                   /* max_tokens 0: none given; stop[] borrowed from root */
    bool seeded;                           /* p.sample.seed was given */
    bool stream, include_usage, continuous_usage;
    bool echo, return_token_ids;
    bool add_special_tokens; /* completions: begin with BOS where the vocabulary does */
    const char *cache_salt;  /* or NULL */
};

/* vocab: token ids are below it. On failure nothing is held. */
int ask_parse(const char *body, size_t len, enum ask_kind kind, int vocab, struct ask *out, struct err *e);
void ask_close(struct ask *a); /* a zeroed one is fine */
