/* Requests for text as the gateway reads and rewrites them: what it takes keeps to its bounds and is what a second reading of the JSON finds there; strict mode lets
 * known fields pass alone; the engine's body names the model, the salt and the adapters that the gateway chose, whatever the client wrote, begins with an alias's fixed
 * text, and is otherwise the client's. Input: a byte for route and mode, the body. */
#include "gateway/proxy/chat_ask.h"
#include "tests/fuzz/fuzz.h"

#define PREFIX "Be brief."
#define DIGEST "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define SALT "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

/* The number of a field that was taken; otherwise what it means to leave it out. */
static int64_t number(const json_t *o, const char *key, int64_t without)
{
    const json_t *v = json_object_get(o, key);
    FUZZ_NEED(!v || json_is_null(v) || json_is_integer(v));
    return json_is_integer(v) ? json_integer_value(v) : without;
}

static void check_ask(const struct chat_ask *a, const json_t *o, bool chat)
{
    int64_t most = number(o, "max_tokens", -1);
    const json_t *prompt = json_object_get(o, "prompt");
    FUZZ_NEED(a->chat == chat && !strcmp(a->model, text_of(o, "model")) && strlen(a->model) <= CHAT_MODEL_MAX);
    FUZZ_NEED(!strcmp(a->user, text_of(o, "user")) && a->stream == json_is_true(json_object_get(o, "stream")));
    if (chat) most = number(o, "max_completion_tokens", most);
    FUZZ_NEED(a->max_tokens == most && (most == -1 || (most >= 1 && most <= CHAT_TOKENS_MAX)));
    FUZZ_NEED(a->choices == number(o, "n", 1) && a->choices >= 1 && a->choices <= CHAT_CHOICES_MAX);
    FUZZ_NEED(a->prompts == 1 || (!chat && a->prompts == (int64_t)json_array_size(prompt)));
}

static void check_limits(const struct chat_ask *a, const json_t *o, size_t len)
{
    static const int contexts[] = {0, 1, 4096, 1 << 20};
    for (size_t i = 0; i < sizeof contexts / sizeof *contexts; i++) {
        struct limit_wish l = chat_ask_limits(a, o, len, contexts[i]);
        FUZZ_NEED(l.prompts >= 1 && l.choices >= 1 && l.body_bytes == (int64_t)len && l.tools == (json_object_get(o, "tools") != NULL));
        FUZZ_NEED(l.max_tokens == a->max_tokens || (a->max_tokens < 0 && !a->chat && l.max_tokens >= 1));
        struct limit_most m = limit_bound(&l);
        FUZZ_NEED(m.prompt >= 0 && m.output >= 0 && m.tokens >= 0 && m.tokens <= m.prompt + m.output);
    }
}

/* Each adapter's name becomes the digest. False: refused. */
static bool resolve(json_t *o)
{
    size_t n = 0;
    const char *name = NULL;
    struct err e = {0};
    if (chat_ask_adapters(o, &n, &e)) {
        FUZZ_NEED(e.code == ERR_INVALID && json_array_size(json_object_get(o, "adapters")) > CHAT_ADAPTERS_MAX);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (chat_ask_adapter(o, i, &name, &e)) {
            FUZZ_NEED(e.code == ERR_INVALID || e.code == ERR_MISSING);
            return false;
        }
        FUZZ_NEED(strlen(name) <= CHAT_MODEL_MAX && chat_ask_resolve(o, i, DIGEST, &e) == 0);
    }
    return true;
}

static bool begins(const json_t *v, const json_t *was, const char *between)
{
    const char *s = json_string_value(v);
    size_t n = sizeof PREFIX - 1, k = strlen(between);
    return s && !strncmp(s, PREFIX, n) && (!was || (!strncmp(s + n, between, k) && !strcmp(s + n + k, json_string_value(was))));
}

/* The first message is the client's own system message with the prefix in front, or one of ours before the client's. */
static void check_messages(const json_t *now, const json_t *was)
{
    const json_t *first = json_array_get(now, 0), *content = json_object_get(first, "content"), *old = json_object_get(json_array_get(was, 0), "content");
    size_t added = json_array_size(now) - json_array_size(was);
    FUZZ_NEED(added <= 1 && json_is_object(first));
    for (size_t i = 1; i < json_array_size(now); i++) FUZZ_NEED(json_equal(json_array_get(now, i), json_array_get(was, i - added)));
    if (json_is_array(content))
        FUZZ_NEED(!added && begins(json_object_get(json_array_get(content, 0), "text"), NULL, "") && json_array_size(content) == json_array_size(old) + 1);
    else
        FUZZ_NEED(begins(content, !added && json_is_string(old) ? old : NULL, "\n\n"));
}

static void check_prefixed(const json_t *o, const json_t *was, bool chat)
{
    const json_t *messages = json_object_get(o, "messages"), *prompt = json_object_get(o, "prompt"), *old = json_object_get(was, "prompt");
    if (chat && json_is_array(messages))
        check_messages(messages, json_object_get(was, "messages"));
    else if (chat)
        FUZZ_NEED(json_equal(o, was));
    else if (json_is_string(prompt))
        FUZZ_NEED(begins(prompt, old, ""));
    FUZZ_NEED(chat || json_array_size(prompt) == json_array_size(old));
    for (size_t i = 0; !chat && i < json_array_size(prompt); i++) FUZZ_NEED(begins(json_array_get(prompt, i), json_array_get(old, i), ""));
}

static void forget_written(json_t *o)
{
    static const char *const written[] = {"model", "cache_salt", "adapters", "messages", "prompt"};
    for (size_t i = 0; i < sizeof written / sizeof *written; i++) json_object_del(o, written[i]);
}

/* What an engine gets, read again. */
static void check_body(json_t *o, json_t *was)
{
    struct err e = {0};
    struct buf out;
    json_t *again = NULL, *v;
    size_t i;
    buf_init(&out, 1u << 20);
    FUZZ_NEED(chat_ask_body(o, DIGEST, SALT, &out, &e) == 0 && json_parse(out.data, out.len, &again, NULL) == 0 && json_equal(o, again));
    FUZZ_NEED(!strcmp(text_of(again, "model"), DIGEST) && !strcmp(text_of(again, "cache_salt"), SALT));
    json_array_foreach(json_object_get(again, "adapters"), i, v) FUZZ_NEED(!strcmp(text_of(v, "name"), DIGEST));
    forget_written(again);
    forget_written(was);
    FUZZ_NEED(json_equal(again, was));
    json_decref(again);
    buf_close(&out);
}

static void check_strict(const char *body, size_t n, bool chat, bool taken)
{
    json_t *o = NULL;
    struct chat_ask a;
    struct err e = {0};
    int rc = chat_ask_read(body, n, chat, true, &o, &a, &e);
    FUZZ_NEED(rc ? e.code == ERR_UNSUPPORTED || !taken : taken);
    if (rc && e.code == ERR_UNSUPPORTED) FUZZ_NEED(o && e.msg[0]);
    if (!rc) FUZZ_NEED(!json_object_get(o, chat ? "prompt" : "messages"));
    json_decref(o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    bool chat = fuzz_byte(&data, &n) % 2;
    char *body = fuzz_text(data, n);
    json_t *o = NULL, *was = NULL;
    struct chat_ask a;
    struct err e = {0}, no = {0};
    int rc = chat_ask_read(body, n, chat, false, &o, &a, &e);
    check_strict(body, n, chat, rc == 0);
    if (rc) {
        FUZZ_NEED(e.msg[0] && (e.code == ERR_INVALID || e.code == ERR_MISSING || e.code == ERR_INVALID_JSON));
    } else {
        was = json_deep_copy(o);
        check_ask(&a, o, chat);
        check_limits(&a, o, n);
        if (chat_ask_prefix(o, chat, PREFIX, &no)) /* messages that are no objects have no place for it: the engine refuses them */
            FUZZ_NEED(no.code == ERR_UNSUPPORTED || no.code == ERR_NO_MEMORY);
        else {
            check_prefixed(o, was, chat);
            if (resolve(o)) check_body(o, was);
        }
    }
    json_decref(was);
    json_decref(o);
    free(body);
    return 0;
}
