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
#include "engine/tools.h"

#define ASK_PROMPTS_MAX 64 /* prompts of one completions request */
#define ASK_MESSAGES_MAX 4096
#define ASK_MODEL_LEN 256
#define ASK_SALT_LEN GEN_SALT_LEN
#define ASK_CHOICES_MAX 128 /* of one request: prompts times n */
#define ASK_BIASES_MAX 1024
#define ASK_ALTERNATIVES_MAX 4096 /* of guided_choice */

enum ask_kind { ASK_CHAT = 1, ASK_COMPLETION = 2 };

/* What the answer has to look like. */
enum ask_format { FORMAT_ANY, FORMAT_JSON_OBJECT, FORMAT_JSON_SCHEMA, FORMAT_REGEX, FORMAT_CHOICE };

/* What a gateway asks to be done with a prompt before it is read: its field `weft_prompt_policy` (schema/ENGINE_API.md, docs/POLICIES.md). */
#define POLICY_TOKENS_MAX (1 << 20) /* of a prompt before it is cut */
struct ask_policy {
    bool on;        /* any of what follows */
    int max_tokens; /* truncate to so many; 0: don't */
    int head_turns, last_turns; /* of a chat: kept whatever happens */
    int head_tokens;            /* of a completion's prompt, likewise */
    double ratio;               /* compress: of the tokens that may be left out so many stay; 0: don't compress */
    int min_tokens;             /* prompts with less are left alone */
    bool words;                 /* units are words, not sentences */
    const json_t *text;         /* object of strings that stand in the messages and must be plain text, like all of them; NULL: anything goes */
};

struct ask {
    enum ask_kind kind;
    json_t *root; /* owns all that is borrowed below */
    const char *model;
    const json_t *messages;      /* chat: array of objects, each content a string (or absent) */
    const json_t *template_args; /* chat: chat_template_kwargs, or NULL */
    bool add_generation_prompt;
    const json_t *prompt[ASK_PROMPTS_MAX]; /* completions: a string, or an array of token ids, each */
    int nprompts;                          /* chat: 1 */
    struct gen_params p;                   /* max_tokens 0: none given; stop[] borrowed from root, bias malloc'ed */
    int n, best_of;                        /* choices per prompt; best_of 0: not given */
    struct {
        enum ask_format kind;
        const char *field;   /* that asked for it */
        const json_t *value; /* schema, pattern, or list of alternatives */
    } format;
    const json_t *tools; /* NULL: none */
    enum tool_choice tool_choice;
    const char *tool_named;
    bool parallel_tool_calls;
    struct {
        const char *name;
        double weight;
    } adapter[GEN_ADAPTERS]; /* summed, in place of the one that `model` names */
    int nadapters;
    bool seeded; /* p.sample.seed was given */
    bool stream, include_usage, continuous_usage;
    bool echo, return_token_ids;
    bool add_special_tokens; /* completions: begin with BOS where the vocabulary does */
    const char *cache_salt;  /* or NULL */
    struct ask_policy policy;
};

/* vocab: token ids are below it. On failure nothing is held. */
int ask_parse(const char *body, size_t len, enum ask_kind kind, int vocab, struct ask *out, struct err *e);
void ask_close(struct ask *a); /* a zeroed one is fine */
