/* Chat templates: a template that is taken renders a talk, or refuses it with a reason, the same each time; what it gives is UTF-8 within its bound. Input:
 * the template; behind a NUL, one more message. */
#include "engine/chat.h"
#include "tests/fuzz/fuzz.h"

static const char talk[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief. <&>\"},{\"role\":\"user\",\"content\":\"Hi \\u00e9\"},"
    "{\"role\":\"assistant\",\"content\":null,\"reasoning_content\":\"hm\",\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\","
    "\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1,\"b\":[1.5,true,null]}}}]},{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":\"42\"}],"
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"d\",\"parameters\":{\"type\":\"object\",\"properties\":{}}}}],"
    "\"extra\":{\"enable_thinking\":false,\"n\":3,\"list\":[3,1,2],\"d\":{\"b\":1,\"a\":\"x\"},\"text\":\" a b,c \"}}";

static void check_text(const struct buf *b)
{
    FUZZ_NEED(b->len <= 8u << 20);
    for (size_t i = 0; i < b->len;) {
        bool valid;
        i += buf_utf8(b->data + i, b->len - i, &valid);
        FUZZ_NEED(valid);
    }
}

static void render(const struct chat_template *t, const json_t *messages, const json_t *tools, const json_t *extra, bool prompt)
{
    struct err e[2] = {0};
    struct buf b[2];
    int rc[2];
    for (int i = 0; i < 2; i++) {
        buf_init(&b[i], 16u << 20);
        rc[i] = chat_render(t, messages, tools, prompt, extra, &b[i], &e[i]);
    }
    FUZZ_NEED(rc[0] == rc[1] && (rc[0] == 0) == (e[0].code == ERR_NONE));
    if (rc[0] == 0) {
        FUZZ_NEED(b[0].len == b[1].len && !memcmp(b[0].data, b[1].data, b[0].len));
        check_text(&b[0]);
    }
    buf_close(&b[0]);
    buf_close(&b[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static json_t *all;
    struct chat_template *t = NULL;
    struct err e = {0};
    if (!all) FUZZ_NEED(json_parse(talk, sizeof talk - 1, &all, NULL) == 0);
    const uint8_t *nul = n ? memchr(data, 0, n) : NULL;
    size_t len = nul ? (size_t)(nul - data) : n, len2;
    char *source = fuzz_text(data, len), *more = nul ? fuzz_text(nul + 1, n - len - 1) : fuzz_text(NULL, 0);
    if (chat_template_new(&t, source, len, "<s>", "</s>", &e))
        FUZZ_NEED(e.code == ERR_MODEL && e.msg[0] && !t);
    else {
        json_t *messages = json_copy(json_object_get(all, "messages"));
        FUZZ_NEED(strncmp(chat_source(t, &len2), source, len) == 0 && len2 == len);
        render(t, messages, NULL, NULL, true);
        json_t *content = json_string(more);
        if (content) json_array_append_new(messages, json_pack("{ss so}", "role", "user", "content", content));
        render(t, messages, json_object_get(all, "tools"), json_object_get(all, "extra"), false);
        json_decref(messages);
        chat_template_free(t);
    }
    free(source);
    free(more);
    return 0;
}
