/* Prompt policies of aliases, and the requests that they are put into: what is taken keeps to its bounds and, printed and read again, is the same policy;
 * a filled template has the template's messages with the roles and the words that it gives them, whatever a client's slots hold, so no value is more than a part of
 * one message; and what the gateway makes of a request the engine reads. A reference fills the template here, in its own way: from the last place to the first.
 * Input: a byte for the route (odd: chat), the policy, a NUL, the request's body. */
#include "engine/api_params.h"
#include "gateway/registry/prompt_policy.h"
#include "gateway/registry/prompt_template.h"
#include "tests/fuzz/fuzz.h"

#define VOCAB 100

static char *dump(const json_t *v)
{
    char *s = json_dumps(v, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY);
    FUZZ_NEED(s);
    return s;
}

/* --- the policy --- */

static void need_refused(int rc, const struct err *e)
{
    FUZZ_NEED(rc == -1 && e->code != ERR_NONE && err_info(e->code)->status >= 400 && err_info(e->code)->status < 500 && e->msg[0]);
}

static void check_template(const json_t *t)
{
    const json_t *messages = json_object_get(t, "messages"), *slots = json_object_get(t, "slots");
    FUZZ_NEED(json_array_size(messages) >= 1 && json_array_size(messages) <= TEMPLATE_MESSAGES && json_object_size(slots) <= TEMPLATE_SLOTS);
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *m = json_array_get(messages, i);
        FUZZ_NEED(json_object_size(m) == 2 && json_is_string(json_object_get(m, "role")) && json_is_string(json_object_get(m, "content")));
    }
}

/* What is stored, as text; NULL: it was refused, or asks for nothing. */
static char *set_policy(const char *said, size_t n)
{
    json_t *v = NULL, *policy = NULL, *again = NULL, *back = NULL;
    struct err e = {0};
    char *text = NULL;
    if (json_parse(said, n, &v, NULL)) return NULL;
    int rc = prompt_policy_read(v, &policy, &e);
    if (rc) {
        need_refused(rc, &e);
        FUZZ_NEED(!policy && strncmp(e.param, "prompt_policy", 13) == 0);
    } else if (policy) {
        text = dump(policy);
        FUZZ_NEED(json_object_size(policy) >= 1 && strlen(text) <= PROMPT_POLICY_MAX);
        if (json_object_get(policy, "template")) check_template(json_object_get(policy, "template"));
        FUZZ_NEED(json_parse(text, strlen(text), &back, NULL) == 0 && prompt_policy_read(back, &again, NULL) == 0);
        FUZZ_NEED(json_equal(again, policy) && json_equal(back, policy));
    }
    json_decref(v);
    json_decref(policy);
    json_decref(again);
    json_decref(back);
    return text;
}

/* --- the request --- */

/* The words that a slot's value is, by the table of docs/POLICIES.md. free() */
static char *words_of(const json_t *v)
{
    return json_is_string(v) ? strndup(json_string_value(v), json_string_length(v)) : dump(v);
}

static const json_t *value_of(const json_t *slots, const json_t *given, const char *name)
{
    const json_t *v = json_object_get(given, name);
    return v ? v : json_object_get(json_object_get(slots, name), "default");
}

/* A slot of type json prints strings with their quotes. */
static char *slot_words(const json_t *slots, const json_t *given, const char *name)
{
    const char *type = json_string_value(json_object_get(json_object_get(slots, name), "type"));
    const json_t *v = value_of(slots, given, name);
    FUZZ_NEED(type && v);
    return strcmp(type, "json") == 0 ? dump(v) : words_of(v);
}

/* Is `filled` the content with each {{name}} replaced? From the end on, so that what stands in a value is never taken for a place. */
static void check_content(const char *content, const char *filled, const json_t *slots, const json_t *given)
{
    size_t c = strlen(content), f = strlen(filled);
    while (c) {
        if (c < 2 || content[c - 1] != '}' || content[c - 2] != '}') {
            FUZZ_NEED(f && content[c - 1] == filled[f - 1]);
            c--, f--;
            continue;
        }
        size_t from = c - 2;
        while (from >= 2 && !(content[from - 1] == '{' && content[from - 2] == '{')) from--;
        char *name = strndup(content + from, c - 2 - from);
        if (from < 2 || !json_object_get(slots, name)) { /* two braces of the text's own */
            free(name);
            FUZZ_NEED(f && content[c - 1] == filled[f - 1]);
            c--, f--;
            continue;
        }
        char *words = slot_words(slots, given, name);
        size_t n = strlen(words);
        FUZZ_NEED(f >= n && memcmp(filled + f - n, words, n) == 0);
        f -= n;
        c = from - 2;
        free(words);
        free(name);
    }
    FUZZ_NEED(f == 0);
}

static void check_messages(const json_t *template, const json_t *given, const json_t *filled)
{
    const json_t *messages = json_object_get(template, "messages");
    FUZZ_NEED(json_is_array(filled) && json_array_size(filled) == json_array_size(messages));
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *from = json_array_get(messages, i), *to = json_array_get(filled, i);
        FUZZ_NEED(json_object_size(to) == 2 && json_equal(json_object_get(from, "role"), json_object_get(to, "role")));
        check_content(json_string_value(json_object_get(from, "content")), json_string_value(json_object_get(to, "content")),
                      json_object_get(template, "slots"), given);
    }
}

/* All that a client may have put in stands in `text`, for the engine to look at; nothing else does. */
static void check_texts(const json_t *template, const json_t *given, const json_t *texts)
{
    const json_t *slots = json_object_get(template, "slots");
    const char *name;
    json_t *slot;
    size_t n = 0;
    json_object_foreach((json_t *)slots, name, slot)
    {
        const char *type = json_string_value(json_object_get(slot, "type"));
        if (strcmp(type, "string") != 0 && strcmp(type, "json") != 0) continue;
        char *words = slot_words(slots, given, name);
        const char *told = json_string_value(json_object_get(texts, name));
        FUZZ_NEED(told && strcmp(told, words) == 0);
        free(words);
        n++;
    }
    FUZZ_NEED(json_object_size(texts) == n);
}

/* What has become of the request is one that an engine takes. */
static void check_engine(const json_t *root)
{
    struct ask a = {0};
    struct err e = {0};
    json_t *body = json_pack("{ss sO sO}", "model", "m", "messages", json_object_get(root, "messages"), PROMPT_FIELD, json_object_get(root, PROMPT_FIELD));
    char *text = dump(body);
    FUZZ_NEED(ask_parse(text, strlen(text), ASK_CHAT, VOCAB, &a, &e) == 0 && a.policy.on);
    ask_close(&a);
    free(text);
    json_decref(body);
}

static void check_filled(const json_t *policy, const json_t *before, const json_t *after)
{
    const json_t *t = json_object_get(policy, "template"), *asked = json_object_get(after, PROMPT_FIELD);
    const char *name;
    json_t *v;
    FUZZ_NEED(json_is_object(asked));
    FUZZ_NEED(json_equal(json_object_get(policy, "truncate"), json_object_get(asked, "truncate")) ||
              (!json_object_get(policy, "truncate") && !json_object_get(asked, "truncate")));
    FUZZ_NEED(json_equal(json_object_get(policy, "compress"), json_object_get(asked, "compress")) ||
              (!json_object_get(policy, "compress") && !json_object_get(asked, "compress")));
    json_object_foreach((json_t *)before, name, v)
    {
        bool ours = strcmp(name, PROMPT_FIELD) == 0 || (t && (strcmp(name, "messages") == 0 || strcmp(name, "slots") == 0));
        FUZZ_NEED(ours || json_equal(v, json_object_get(after, name)));
    }
    if (!t) return;
    FUZZ_NEED(!json_object_get(after, "slots"));
    const json_t *given = json_object_get(before, "slots");
    check_messages(t, given, json_object_get(after, "messages"));
    check_texts(t, given, json_object_get(asked, "text"));
    check_engine(after);
}

static void apply(const char *text, bool chat, const char *body, size_t n)
{
    json_t *root = NULL, *before, *policy = NULL;
    struct err e = {0};
    if (json_parse(body, n, &root, NULL)) return;
    before = json_copy_all(root);
    FUZZ_NEED(before && json_parse(text, strlen(text), &policy, NULL) == 0);
    int rc = prompt_policy_apply(text, chat, root, &e);
    if (rc) {
        need_refused(rc, &e);
        FUZZ_NEED(json_object_get(policy, "template")); /* all else is the engine's to refuse */
    } else {
        FUZZ_NEED(chat || !json_object_get(policy, "template"));
        check_filled(policy, before, root);
    }
    json_decref(policy);
    json_decref(before);
    json_decref(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    bool chat = fuzz_byte(&data, &n) % 2;
    char *said = fuzz_until(&data, &n, 0), *body = fuzz_text(data, n), *text = set_policy(said, strlen(said));
    if (text) apply(text, chat, body, n);
    free(text);
    free(body);
    free(said);
    return 0;
}
