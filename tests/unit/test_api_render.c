/* Tests of engine/api_render: each object is parsed back by jansson, strictly (no duplicate keys), and looked into. The
 * vocabulary is a small table with the hard cases: quotes, control bytes, half characters. */
#include "engine/api_render.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const words[] = {"Hi", " \"quoted\"\n", "\xe2\x82", "\xac", "\x01", "\xc3\xa9t\xc3\xa9", "\xe2\x82"};

static const char *word(const void *u, int32_t id, size_t *len)
{
    (void)u;
    *len = strlen(words[id]);
    return words[id];
}

static const struct vocab_text vocab = {word, NULL};
static const struct gen_counts counts = {.prompt = 7, .cached = 2, .output = 3};

static void start(struct render *r, enum ask_kind kind, bool stream, bool usage, bool continuous)
{
    struct render_spec s = {.kind = kind,
                            .stream = stream,
                            .include_usage = usage,
                            .continuous_usage = continuous,
                            .id = "u-1",
                            .created = 1700000000,
                            .model = "na\"me",
                            .fingerprint = "fp_x"};
    assert_int_equal(render_init(r, &s, NULL), 0);
}

/* The object in a whole answer, or behind "data: " in a chunk. */
static json_t *parse(const struct buf *b, bool chunk)
{
    json_error_t je;
    const char *text = b->data;
    assert_false(b->failed);
    if (chunk) {
        assert_int_equal(strncmp(text, "data: ", 6), 0);
        assert_string_equal(b->data + b->len - 2, "\n\n");
        assert_ptr_equal(memchr(text, '\n', b->len), b->data + b->len - 2); /* an event is one line */
        text += 6;
    }
    json_t *v = json_loads(text, JSON_REJECT_DUPLICATES, &je);
    if (!v) fail_msg("%s in %s", je.text, text);
    return v;
}

/* The value at a path like "choices.0.delta.content"; must exist. */
static json_t *at(json_t *v, const char *path)
{
    char part[64];
    while (*path) {
        size_t n = strcspn(path, ".");
        memcpy(part, path, n);
        part[n] = 0;
        v = json_is_array(v) ? json_array_get(v, strtoul(part, NULL, 10)) : json_object_get(v, part);
        if (!v) fail_msg("nothing at %s", path);
        path += n + (path[n] == '.');
    }
    return v;
}

static const char *str(json_t *v, const char *path)
{
    return json_string_value(at(v, path));
}
static json_int_t num(json_t *v, const char *path)
{
    return json_integer_value(at(v, path));
}

static struct piece text_piece(const char *text)
{
    return (struct piece){.text = text, .text_len = strlen(text)};
}

static void a_chat_stream_has_a_role_then_content_then_a_reason(void **state)
{
    (void)state;
    struct render r;
    struct buf b;
    struct piece role = {.role = true, .text = ""}, text = text_piece("a\"b\\\n\x01\xff"),
                 last = {.text = "", .finish = "stop"};
    buf_init(&b, 1 << 16);
    start(&r, ASK_CHAT, true, false, false);

    render_chunk(&r, &role, &counts, &b);
    json_t *v = parse(&b, true);
    assert_string_equal(str(v, "id"), "chatcmpl-u-1");
    assert_string_equal(str(v, "object"), "chat.completion.chunk");
    assert_string_equal(str(v, "model"), "na\"me");
    assert_string_equal(str(v, "system_fingerprint"), "fp_x");
    assert_int_equal(num(v, "created"), 1700000000);
    assert_string_equal(str(v, "choices.0.delta.role"), "assistant");
    assert_string_equal(str(v, "choices.0.delta.content"), "");
    assert_true(json_is_null(at(v, "choices.0.finish_reason")));
    assert_true(json_is_null(at(v, "choices.0.logprobs")));
    assert_null(json_object_get(v, "usage"));
    json_decref(v);

    buf_reset(&b);
    render_chunk(&r, &text, &counts, &b);
    v = parse(&b, true);
    assert_string_equal(str(v, "choices.0.delta.content"), "a\"b\\\n\x01\xef\xbf\xbd");
    assert_null(json_object_get(at(v, "choices.0.delta"), "role"));
    json_decref(v);

    buf_reset(&b);
    render_chunk(&r, &last, &counts, &b);
    v = parse(&b, true);
    assert_string_equal(str(v, "choices.0.finish_reason"), "stop");
    assert_int_equal(json_object_size(at(v, "choices.0.delta")), 0);
    json_decref(v);
    render_close(&r);
    buf_close(&b);
}

static void usage_is_absent_null_or_there_as_was_asked(void **state)
{
    (void)state;
    static const struct {
        bool usage, continuous;
        json_type want;
    } rows[] = {{true, false, JSON_NULL}, {true, true, JSON_OBJECT}, {false, true, JSON_OBJECT}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct render r;
        struct buf b;
        struct piece text = text_piece("x");
        buf_init(&b, 1 << 16);
        start(&r, ASK_COMPLETION, true, rows[i].usage, rows[i].continuous);
        render_chunk(&r, &text, &counts, &b);
        json_t *v = parse(&b, true);
        assert_int_equal(json_typeof(at(v, "usage")), rows[i].want);
        json_decref(v);
        buf_reset(&b);
        render_usage_chunk(&r, &counts, &b);
        v = parse(&b, true);
        assert_int_equal(json_array_size(at(v, "choices")), 0);
        assert_int_equal(num(v, "usage.prompt_tokens"), 7);
        assert_int_equal(num(v, "usage.completion_tokens"), 3);
        assert_int_equal(num(v, "usage.total_tokens"), 10);
        assert_int_equal(num(v, "usage.prompt_tokens_details.cached_tokens"), 2);
        json_decref(v);
        render_close(&r);
        buf_close(&b);
    }
}

static struct sample sample_of(int32_t id, float logprob, int ntop)
{
    struct sample s = {.id = id, .logprob = logprob, .ntop = ntop};
    for (int i = 0; i < ntop; i++) s.top[i] = (struct token_logprob){i, -(float)i};
    return s;
}

static void chat_logprobs_show_text_and_true_bytes(void **state)
{
    (void)state;
    struct render r;
    struct buf b;
    struct logprobs lp;
    struct sample half = sample_of(2, -0.5f, 3), impossible = sample_of(1, -INFINITY, 0);
    struct piece p = text_piece("x");
    logprobs_init(&lp);
    assert_int_equal(logprobs_add(&lp, ASK_CHAT, &vocab, &half), 0);
    assert_int_equal(logprobs_add(&lp, ASK_CHAT, &vocab, &impossible), 0);
    p.lp = &lp;
    p.finish = "length";
    buf_init(&b, 1 << 16);
    start(&r, ASK_CHAT, false, false, false);
    render_whole(&r, &p, 1, &counts, &b);
    json_t *v = parse(&b, false);
    assert_string_equal(str(v, "object"), "chat.completion");
    assert_string_equal(str(v, "choices.0.message.role"), "assistant");
    assert_string_equal(str(v, "choices.0.message.content"), "x");
    assert_int_equal(json_array_size(at(v, "choices.0.logprobs.content")), 2);
    assert_string_equal(str(v, "choices.0.logprobs.content.0.token"), "\xef\xbf\xbd");
    assert_int_equal(num(v, "choices.0.logprobs.content.0.bytes.0"), 0xe2);
    assert_int_equal(num(v, "choices.0.logprobs.content.0.bytes.1"), 0x82);
    assert_true(json_real_value(at(v, "choices.0.logprobs.content.0.logprob")) == -0.5);
    assert_int_equal(json_array_size(at(v, "choices.0.logprobs.content.0.top_logprobs")), 3);
    assert_string_equal(str(v, "choices.0.logprobs.content.0.top_logprobs.1.token"), " \"quoted\"\n");
    assert_true(json_number_value(at(v, "choices.0.logprobs.content.1.logprob")) == -9999);
    json_decref(v);
    render_close(&r);
    buf_close(&b);
    logprobs_close(&lp);
}

static void completion_logprobs_are_four_columns_of_one_length(void **state)
{
    (void)state;
    struct render r;
    struct buf b;
    struct logprobs lp;
    struct sample first = sample_of(5, -1, 2), second = sample_of(6, -3, 3), rest = sample_of(3, -1, 0),
                  third = sample_of(0, -2, 0);
    struct piece p = text_piece("x");
    logprobs_init(&lp);
    logprobs_add(&lp, ASK_COMPLETION, &vocab, &first);
    logprobs_add(&lp, ASK_COMPLETION, &vocab, &second); /* half a character, of the bytes of token 2 */
    p.lp = &lp;
    buf_init(&b, 1 << 16);
    start(&r, ASK_COMPLETION, true, false, false);
    render_chunk(&r, &p, &counts, &b);
    json_t *v = parse(&b, true), *l = at(v, "choices.0.logprobs");
    assert_string_equal(str(l, "tokens.0"), "\xc3\xa9t\xc3\xa9");
    assert_int_equal(json_array_size(at(l, "token_logprobs")), 2);
    assert_int_equal(json_object_size(at(l, "top_logprobs.0")), 3); /* two alternatives and the chosen one */
    assert_int_equal(json_object_size(at(l, "top_logprobs.1")), 3); /* the name that comes twice stands once */
    assert_int_equal(num(l, "text_offset.0"), 0);
    assert_int_equal(num(l, "text_offset.1"), 3);
    assert_string_equal(str(l, "tokens.1"), "bytes:\\xe2\\x82");
    assert_non_null(json_object_get(at(l, "top_logprobs.1"), "bytes:\\xe2\\x82"));
    json_decref(v);

    logprobs_reset(&lp);
    logprobs_add(&lp, ASK_COMPLETION, &vocab, &rest);
    logprobs_add(&lp, ASK_COMPLETION, &vocab, &third);
    buf_reset(&b);
    render_chunk(&r, &p, &counts, &b);
    v = parse(&b, true);
    assert_int_equal(num(v, "choices.0.logprobs.text_offset.0"), 3); /* within the character that began */
    assert_int_equal(num(v, "choices.0.logprobs.text_offset.1"), 4); /* the offset goes on */
    json_decref(v);
    render_close(&r);
    buf_close(&b);
    logprobs_close(&lp);
}

static void several_choices_come_with_their_index_and_ids(void **state)
{
    (void)state;
    struct render r;
    struct buf b, ids;
    const int32_t prompt[] = {4, 5};
    buf_init(&b, 1 << 16);
    buf_init(&ids, 64);
    buf_adds(&ids, "1,2,3");
    struct piece p[2] = {text_piece("a"), text_piece("b")};
    p[1].index = 1;
    for (int i = 0; i < 2; i++) p[i].finish = "stop", p[i].ids = &ids, p[i].prompt_ids = prompt, p[i].nprompt_ids = 2;
    start(&r, ASK_COMPLETION, false, false, false);
    render_whole(&r, p, 2, &counts, &b);
    json_t *v = parse(&b, false);
    assert_string_equal(str(v, "object"), "text_completion");
    assert_string_equal(str(v, "choices.1.text"), "b");
    assert_int_equal(num(v, "choices.1.index"), 1);
    assert_int_equal(num(v, "choices.1.token_ids.2"), 3);
    assert_int_equal(num(v, "choices.0.prompt_token_ids.1"), 5);
    json_decref(v);
    render_close(&r);

    start(&r, ASK_CHAT, false, false, false);
    buf_reset(&b);
    render_whole(&r, p, 1, &counts, &b);
    v = parse(&b, false);
    assert_int_equal(num(v, "prompt_token_ids.0"), 4);
    json_decref(v);
    render_close(&r);
    buf_close(&b);
    buf_close(&ids);
}

static void the_rest_of_a_stream_is_exact(void **state)
{
    (void)state;
    struct buf b;
    struct err e = {0};
    buf_init(&b, 1 << 12);
    render_counts(&counts, &b);
    render_stream_done(&b);
    assert_string_equal(b.data, ": weft 7 2 3\n\ndata: [DONE]\n\n");
    buf_reset(&b);
    err_set(&e, ERR_ADAPTER_FAULT, "bad \"values\"");
    render_stream_error(&e, &b);
    json_t *v = parse(&b, true);
    assert_string_equal(str(v, "error.code"), "adapter_fault");
    assert_string_equal(str(v, "error.message"), "bad \"values\"");
    json_decref(v);
    buf_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chat_stream_has_a_role_then_content_then_a_reason),
        cmocka_unit_test(usage_is_absent_null_or_there_as_was_asked),
        cmocka_unit_test(chat_logprobs_show_text_and_true_bytes),
        cmocka_unit_test(completion_logprobs_are_four_columns_of_one_length),
        cmocka_unit_test(several_choices_come_with_their_index_and_ids),
        cmocka_unit_test(the_rest_of_a_stream_is_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
