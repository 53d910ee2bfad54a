/* chat_ask: what a request for text says.
 *
 * The gateway reads model, adapters, stream and the token limits; everything else is the engine's to check, whose
 * refusals pass on with the client's names. Three fields are written: `model` becomes the digest or the base's name, the
 * names in `adapters` become digests, and `cache_salt` the tenant's own, so that a client can neither name another
 * tenant's adapter nor share its cache. An alias's fixed beginning is put in front of the prompt.
 *
 * With `strict`, a field that no row below names is refused.
 *
 * Everything here is of one request: no locks, any thread. */
#include "gateway/proxy/chat_ask.h"
#include "gateway/registry/prompt_policy.h"
#include <string.h>

#define COMPLETION_TOKENS 16 /* OpenAI's default of max_tokens for /v1/completions */

#define RAG_FIELD "rag" /* of `metadata` */

#define IN_CHAT 1
#define IN_COMPLETION 2
#define IN_BOTH 3

/* The fields that strict mode lets pass. */
static const struct {
    const char *name;
    int in;
} known[] = {
    {"model", IN_BOTH},
    {"stream", IN_BOTH},
    {"stream_options", IN_BOTH},
    {"max_tokens", IN_BOTH},
    {"max_completion_tokens", IN_CHAT},
    {"messages", IN_CHAT},
    {"slots", IN_CHAT}, /* of an alias with a template; others ignore them */
    {"prompt", IN_COMPLETION},
    {"temperature", IN_BOTH},
    {"top_p", IN_BOTH},
    {"top_k", IN_BOTH},
    {"min_p", IN_BOTH},
    {"n", IN_BOTH},
    {"best_of", IN_COMPLETION},
    {"stop", IN_BOTH},
    {"seed", IN_BOTH},
    {"logprobs", IN_BOTH},
    {"top_logprobs", IN_CHAT},
    {"presence_penalty", IN_BOTH},
    {"frequency_penalty", IN_BOTH},
    {"repetition_penalty", IN_BOTH},
    {"logit_bias", IN_BOTH},
    {"user", IN_BOTH},
    {"echo", IN_COMPLETION},
    {"suffix", IN_COMPLETION},
    {"min_tokens", IN_BOTH},
    {"ignore_eos", IN_BOTH},
    {"stop_token_ids", IN_BOTH},
    {"skip_special_tokens", IN_BOTH},
    {"add_generation_prompt", IN_CHAT},
    {"add_special_tokens", IN_BOTH},
    {"chat_template_kwargs", IN_CHAT},
    {"return_token_ids", IN_BOTH},
    {"response_format", IN_BOTH},
    {"tools", IN_CHAT},
    {"tool_choice", IN_CHAT},
    {"metadata", IN_BOTH},
    {"store", IN_CHAT},
    {"cache_salt", IN_BOTH},
    {"parallel_tool_calls", IN_CHAT},
    {"typical_p", IN_BOTH},
    {"adapters", IN_BOTH},
    {"structured_outputs", IN_BOTH},
    {"guided_json", IN_BOTH},
    {"guided_regex", IN_BOTH},
    {"guided_choice", IN_BOTH},
    {"service_tier", IN_CHAT},
};

/* --- what it asks --- */

static int check_known(const json_t *o, int in, struct err *e)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)o, key, value)
    {
        bool found = false;
        for (size_t i = 0; i < sizeof known / sizeof *known && !found; i++)
            found = (known[i].in & in) && strcmp(known[i].name, key) == 0;
        if (!found) return err_field(e, ERR_UNSUPPORTED, key, "Unknown field '%.60s'.", key);
    }
    return 0;
}

/* What /v1/completions may hold several of: texts, or lists of token ids. */
static int64_t count_prompts(const json_t *prompt)
{
    const json_t *first = json_array_get(prompt, 0);
    return json_is_string(first) || json_is_array(first) ? (int64_t)json_array_size(prompt) : 1;
}

static int read_fields(const json_t *o, bool chat, struct chat_ask *a, struct err *e)
{
    int64_t newer = -1;
    *a = (struct chat_ask){.chat = chat, .user = "", .max_tokens = -1, .choices = 1, .prompts = 1};
    if (json_need_str(o, "model", CHAT_MODEL_MAX, &a->model, e) || json_get_bool(o, "stream", &a->stream, NULL, e) ||
        json_get_int(o, "max_tokens", 1, CHAT_TOKENS_MAX, &a->max_tokens, NULL, e) ||
        json_get_int(o, "n", 1, CHAT_CHOICES_MAX, &a->choices, NULL, e))
        return -1;
    if (chat && json_get_int(o, "max_completion_tokens", 1, CHAT_TOKENS_MAX, &newer, NULL, e)) return -1;
    if (newer >= 0) a->max_tokens = newer;
    if (json_is_string(json_object_get(o, "user"))) a->user = json_string_value(json_object_get(o, "user"));
    if (!chat) a->prompts = count_prompts(json_object_get(o, "prompt"));
    return 0;
}

/* What was retrieved for the answer is for who judges it: engines would at best read over it, and some refuse metadata that are not texts. */
static bool take_out_rag(json_t *root)
{
    json_t *metadata = json_object_get(root, "metadata");
    if (!json_object_get(metadata, RAG_FIELD)) return false;
    json_object_del(metadata, RAG_FIELD);
    if (json_object_size(metadata) == 0) json_object_del(root, "metadata");
    return true;
}

int chat_ask_read(const char *text, size_t len, bool chat, bool strict, json_t **root, struct chat_ask *a, struct err *e)
{
    if (json_parse(text, len, root, e)) return -1;
    if (strict && check_known(*root, chat ? IN_CHAT : IN_COMPLETION, e)) return -1;
    json_object_del(*root, PROMPT_FIELD); /* is ours to write */
    bool rag = take_out_rag(*root);
    int rc = read_fields(*root, chat, a, e);
    a->rag = rag;
    return rc;
}

struct limit_wish chat_ask_limits(const struct chat_ask *a, const json_t *root, size_t body_len, int max_context)
{
    return (struct limit_wish){.body_bytes = (int64_t)body_len,
                               .prompts = a->prompts > 0 ? a->prompts : 1,
                               .choices = a->choices,
                               .max_tokens = a->max_tokens < 0 && !a->chat ? COMPLETION_TOKENS : a->max_tokens,
                               .max_context = max_context,
                               .tools = json_object_get(root, "tools") != NULL};
}

/* --- adapters --- */

int chat_ask_adapters(const json_t *root, size_t *n, struct err *e)
{
    *n = json_array_size(json_object_get(root, "adapters"));
    if (*n <= CHAT_ADAPTERS_MAX) return 0;
    return err_field(e, ERR_INVALID, "adapters", "'adapters' holds more than %d adapters", CHAT_ADAPTERS_MAX);
}

int chat_ask_adapter(const json_t *root, size_t i, const char **name, struct err *e)
{
    const json_t *v = json_array_get(json_object_get(root, "adapters"), i);
    if (!json_is_object(v)) return err_set(e, ERR_INVALID, "'adapters' must hold objects {\"name\",\"weight\"}");
    return json_need_str(v, "name", CHAT_MODEL_MAX, name, e);
}

int chat_ask_resolve(json_t *root, size_t i, const char *digest, struct err *e)
{
    json_t *v = json_array_get(json_object_get(root, "adapters"), i);
    return json_object_set_new(v, "name", json_string(digest)) ? err_set(e, ERR_NO_MEMORY, "no memory for the request") : 0;
}

/* --- an alias's system prefix --- */

static json_t *joined(const char *a, const char *between, const json_t *b)
{
    return json_sprintf("%s%s%s", a, between, json_string_value(b));
}

/* In front of the client's own system message, as one text: many templates take only one, and the first. */
static int prefix_system(json_t *message, const char *prefix)
{
    json_t *content = json_object_get(message, "content");
    if (json_is_string(content)) return json_object_set_new(message, "content", joined(prefix, "\n\n", content));
    if (json_is_array(content))
        return json_array_insert_new(content, 0, json_pack("{ss ss}", "type", "text", "text", prefix));
    return json_object_set_new(message, "content", json_string(prefix));
}

static int prefix_messages(json_t *messages, const char *prefix)
{
    json_t *first = json_array_get(messages, 0);
    const char *role = json_string_value(json_object_get(first, "role"));
    if (!json_is_array(messages)) return 0; /* the engine says so */
    if (role && (strcmp(role, "system") == 0 || strcmp(role, "developer") == 0)) return prefix_system(first, prefix);
    return json_array_insert_new(messages, 0, json_pack("{ss ss}", "role", "system", "content", prefix));
}

/* A completion's prompt begins with the prefix, byte for byte; token ids have no place for a text. */
static int prefix_prompt(json_t *o, const char *prefix, struct err *e)
{
    json_t *prompt = json_object_get(o, "prompt"), *v;
    size_t i;
    int rc = 0;
    if (json_is_string(prompt)) return json_object_set_new(o, "prompt", joined(prefix, "", prompt));
    json_array_foreach(prompt, i, v)
    {
        if (!json_is_string(v))
            return err_field(e, ERR_UNSUPPORTED, "prompt",
                             "This model has a fixed beginning, so 'prompt' must be text, not token ids.");
        rc |= json_array_set_new(prompt, i, joined(prefix, "", v));
    }
    return rc;
}

int chat_ask_prefix(json_t *root, bool chat, const char *prefix, struct err *e)
{
    int rc = chat ? prefix_messages(json_object_get(root, "messages"), prefix) : prefix_prompt(root, prefix, e);
    return rc ? err_set(e, ERR_NO_MEMORY, "no memory for the request") : 0;
}

/* --- the body for an engine --- */

int chat_ask_body(json_t *root, const char *model, const char *salt, struct buf *out, struct err *e)
{
    bool failed = json_object_set_new(root, "model", json_string(model)) || json_object_set_new(root, "cache_salt", json_string(salt)) || json_dump(root, false, out);
    return failed ? err_set(e, ERR_NO_MEMORY, "no memory for the request") : 0;
}
