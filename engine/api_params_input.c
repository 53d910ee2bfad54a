/* api_params_input: what a request gives the model to read: messages or prompts.
 *
 * Two changes are made to the parsed JSON, so that chat templates see what they expect: a message's content given as
 * text parts is replaced by their text joined with newlines, as other servers do, and the arguments of tool calls that
 * come as JSON text (OpenAI's manner) become objects. Runs on HTTP workers; no state of its own. */
#include "engine/api_params_impl.h"
#include "engine/tools.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define ROLE_MAX 64

/* --- messages --- */

static int fault(struct err *e, enum err_code code, size_t i, const char *what)
{
    char param[64];
    snprintf(param, sizeof param, "messages.%zu", i);
    return err_field(e, code, param, "message %zu: %s", i, what);
}

static int join_parts(json_t *message, const json_t *parts, size_t i, struct err *e)
{
    struct buf text;
    int rc = -1;
    buf_init(&text, 64u << 20);
    for (size_t k = 0; k < json_array_size(parts); k++) {
        const json_t *part = json_array_get(parts, k), *t = json_object_get(part, "text");
        const char *type = json_string_value(json_object_get(part, "type"));
        if (!type) {
            fault(e, ERR_INVALID, i, "each part of 'content' must be an object with a 'type'");
            goto out;
        }
        if (strcmp(type, "text")) {
            fault(e, ERR_UNSUPPORTED, i, "parts of 'content' other than text are not supported");
            goto out;
        }
        if (!json_is_string(t)) {
            fault(e, ERR_INVALID, i, "a text part of 'content' needs a 'text' that is a string");
            goto out;
        }
        if (k) buf_addc(&text, '\n');
        buf_add(&text, json_string_value(t), json_string_length(t));
    }
    if (text.failed || json_object_set_new(message, "content", json_stringn(text.data, text.len)))
        err_set(e, ERR_NO_MEMORY, "no memory for the messages");
    else
        rc = 0;
out:
    buf_close(&text);
    return rc;
}

/* Templates write a role beside their special tokens: it is a word. */
static bool is_role(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)s[i]) && s[i] != '-' && s[i] != '_') return false;
    return n <= ROLE_MAX;
}

static int check_message(json_t *m, size_t i, struct err *e)
{
    if (!json_is_object(m)) return fault(e, ERR_INVALID, i, "it must be an object");
    const json_t *role = json_object_get(m, "role"), *content = json_object_get(m, "content");
    if (!role) return fault(e, ERR_MISSING, i, "'role' is missing");
    if (!json_is_string(role) || json_string_length(role) == 0)
        return fault(e, ERR_INVALID, i, "'role' must be a string");
    if (!is_role(json_string_value(role), json_string_length(role)))
        return fault(e, ERR_INVALID, i, "'role' must be letters, digits, dashes and underscores, at most 64");
    if (tool_normalize_message(m)) return fault(e, ERR_NO_MEMORY, i, "no memory");
    if (json_is_array(content)) return join_parts(m, content, i, e);
    if (json_is_string(content)) return 0;
    if (content && !json_is_null(content))
        return fault(e, ERR_INVALID, i, "'content' must be a string or an array of text parts");
    if (!json_object_get(m, "tool_calls")) return fault(e, ERR_MISSING, i, "'content' is missing");
    return json_object_set_new(m, "content", json_string("")) ? fault(e, ERR_NO_MEMORY, i, "no memory") : 0;
}

int ask_parse_messages(struct ask *a, struct err *e)
{
    json_t *list = ask_given(a, "messages");
    if (!list) return err_field(e, ERR_MISSING, "messages", "'messages' is missing");
    if (!json_is_array(list)) return err_field(e, ERR_INVALID, "messages", "'messages' must be an array");
    size_t n = json_array_size(list);
    if (n == 0) return err_field(e, ERR_INVALID, "messages", "'messages' is empty");
    if (n > ASK_MESSAGES_MAX) return err_field(e, ERR_INVALID, "messages", "more than %d messages", ASK_MESSAGES_MAX);
    for (size_t i = 0; i < n; i++)
        if (check_message(json_array_get(list, i), i, e)) return -1;
    a->messages = list;
    a->nprompts = 1;
    return 0;
}

/* --- prompts --- */

static int add_prompt(struct ask *a, const json_t *v, int vocab, struct err *e)
{
    if (a->nprompts == ASK_PROMPTS_MAX)
        return err_field(e, ERR_INVALID, "prompt", "more than %d prompts", ASK_PROMPTS_MAX);
    if (!json_is_string(v) && !json_is_array(v))
        return err_field(e, ERR_INVALID, "prompt",
                         "'prompt' must be a string, an array of strings, or arrays of token ids");
    if (json_is_array(v) && json_array_size(v) == 0) return err_field(e, ERR_INVALID, "prompt", "a prompt is empty");
    for (size_t i = 0; i < json_array_size(v); i++)
        if (ask_check_id(json_array_get(v, i), "prompt", vocab, e)) return -1;
    a->prompt[a->nprompts++] = v;
    return 0;
}

int ask_parse_prompts(struct ask *a, int vocab, struct err *e)
{
    const json_t *v = ask_given(a, "prompt");
    if (!v) return err_field(e, ERR_MISSING, "prompt", "'prompt' is missing");
    if (!json_is_array(v) || json_is_number(json_array_get(v, 0)) || json_array_size(v) == 0)
        return add_prompt(a, v, vocab, e);
    for (size_t i = 0; i < json_array_size(v); i++)
        if (add_prompt(a, json_array_get(v, i), vocab, e)) return -1;
    return 0;
}
