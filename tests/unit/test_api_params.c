/* Tests of engine/api_params: one row per field and kind of fault. A row is a body's fields besides `model` and the
 * prompt; the code and the field at fault are what a client sees. */
#include "engine/api_params.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define VOCAB 1000
#define OK ERR_NONE
#define CHAT_BASE "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define TEXT_BASE "\"prompt\":\"hi\""

static enum err_code parse(enum ask_kind kind, const char *fields, const char *base, struct ask *out, struct err *e)
{
    char body[8192];
    int n =
        snprintf(body, sizeof body, "{\"model\":\"m\"%s%s%s%s}", *base ? "," : "", base, *fields ? "," : "", fields);
    assert_true(n > 0 && (size_t)n < sizeof body);
    *out = (struct ask){0};
    int rc = ask_parse(body, (size_t)n, kind, VOCAB, out, e);
    assert_int_equal(rc, e->code ? -1 : 0);
    return e->code;
}

struct row {
    const char *fields;
    enum err_code code;
    const char *param; /* NULL: not looked at */
};

static void check_rows(enum ask_kind kind, const char *base, const struct row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct ask a;
        struct err e = {0};
        enum err_code code = parse(kind, rows[i].fields, base, &a, &e);
        if (code != rows[i].code) fail_msg("%s: got %s (%s)", rows[i].fields, err_info(code)->name, e.msg);
        if (rows[i].param && strcmp(e.param, rows[i].param))
            fail_msg("%s: param '%s' (%s)", rows[i].fields, e.param, e.msg);
        ask_close(&a);
    }
}

#define CHECK(kind, base, rows) check_rows(kind, base, rows, sizeof rows / sizeof *rows)

/* Fields that both routes take. */
static const struct row both[] = {
    {"", OK, NULL},
    {"\"temperature\":0", OK, NULL},
    {"\"temperature\":2", OK, NULL},
    {"\"temperature\":null", OK, NULL},
    {"\"temperature\":2.1", ERR_INVALID, "temperature"},
    {"\"temperature\":-1", ERR_INVALID, "temperature"},
    {"\"temperature\":\"1\"", ERR_INVALID, "temperature"},
    {"\"temperature\":true", ERR_INVALID, "temperature"},
    {"\"top_p\":0.5", OK, NULL},
    {"\"top_p\":1.5", ERR_INVALID, "top_p"},
    {"\"top_p\":[]", ERR_INVALID, "top_p"},
    {"\"min_p\":0.1", OK, NULL},
    {"\"min_p\":-0.1", ERR_INVALID, "min_p"},
    {"\"top_k\":40", OK, NULL},
    {"\"top_k\":-1", OK, NULL},
    {"\"top_k\":-2", ERR_INVALID, "top_k"},
    {"\"top_k\":1.5", ERR_INVALID, "top_k"},
    {"\"max_tokens\":1", OK, NULL},
    {"\"max_tokens\":0", ERR_INVALID, "max_tokens"},
    {"\"max_tokens\":1e3", ERR_INVALID, "max_tokens"},
    {"\"max_tokens\":99999999999", ERR_INVALID, "max_tokens"},
    {"\"min_tokens\":0", OK, NULL},
    {"\"min_tokens\":-1", ERR_INVALID, "min_tokens"},
    {"\"ignore_eos\":true", OK, NULL},
    {"\"ignore_eos\":1", ERR_INVALID, "ignore_eos"},
    {"\"seed\":-9223372036854775807", OK, NULL},
    {"\"seed\":0.5", ERR_INVALID, "seed"},
    {"\"stop\":\"x\"", OK, NULL},
    {"\"stop\":null", OK, NULL},
    {"\"stop\":[]", OK, NULL},
    {"\"stop\":[\"a\",\"b\",\"c\",\"d\"]", OK, NULL},
    {"\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]", ERR_INVALID, "stop"},
    {"\"stop\":\"\"", ERR_INVALID, "stop"},
    {"\"stop\":[1]", ERR_INVALID, "stop"},
    {"\"stop\":7", ERR_INVALID, "stop"},
    {"\"stop_token_ids\":[0,999]", OK, NULL},
    {"\"stop_token_ids\":[1000]", ERR_INVALID, "stop_token_ids"},
    {"\"stop_token_ids\":[-1]", ERR_INVALID, "stop_token_ids"},
    {"\"stop_token_ids\":5", ERR_INVALID, "stop_token_ids"},
    {"\"stop_token_ids\":[\"5\"]", ERR_INVALID, "stop_token_ids"},
    {"\"stream\":true", OK, NULL},
    {"\"stream\":\"yes\"", ERR_INVALID, "stream"},
    {"\"stream\":true,\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}", OK, NULL},
    {"\"stream_options\":{\"include_usage\":true}", ERR_INVALID, "stream_options"},
    {"\"stream\":true,\"stream_options\":{\"include_usage\":1}", ERR_INVALID, "include_usage"},
    {"\"stream\":true,\"stream_options\":[]", ERR_INVALID, "stream_options"},
    {"\"response_format\":{\"type\":\"text\"}", OK, NULL},
    {"\"response_format\":{\"type\":\"json_object\"}", OK, NULL},
    {"\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"x\",\"schema\":{}}}", OK, NULL},
    {"\"response_format\":{\"type\":\"grammar\"}", ERR_UNSUPPORTED, "response_format"},
    {"\"response_format\":{\"type\":\"json_object\"},\"guided_regex\":\"a\"", ERR_INVALID, "guided_regex"},
    {"\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{}}", ERR_MISSING,
     "response_format.json_schema.schema"},
    {"\"response_format\":{}", ERR_MISSING, "response_format.type"},
    {"\"response_format\":\"text\"", ERR_INVALID, "response_format"},
    {"\"n\":1", OK, NULL},
    {"\"n\":2", OK, NULL},
    {"\"n\":128", OK, NULL},
    {"\"n\":129", ERR_INVALID, "n"},
    {"\"n\":0", ERR_INVALID, "n"},
    {"\"n\":\"1\"", ERR_INVALID, "n"},
    {"\"best_of\":2", ERR_UNSUPPORTED, "best_of"},
    {"\"frequency_penalty\":0", OK, NULL},
    {"\"frequency_penalty\":0.0", OK, NULL},
    {"\"frequency_penalty\":0.1", OK, NULL},
    {"\"frequency_penalty\":2.1", ERR_INVALID, "frequency_penalty"},
    {"\"presence_penalty\":-1", OK, NULL},
    {"\"presence_penalty\":\"x\"", ERR_INVALID, "presence_penalty"},
    {"\"typical_p\":0.5", OK, NULL},
    {"\"typical_p\":1.5", ERR_INVALID, "typical_p"},
    {"\"repetition_penalty\":1.0", OK, NULL},
    {"\"repetition_penalty\":1.1", OK, NULL},
    {"\"repetition_penalty\":0", ERR_INVALID, "repetition_penalty"},
    {"\"logit_bias\":{}", OK, NULL},
    {"\"logit_bias\":null", OK, NULL},
    {"\"logit_bias\":{\"50\":10,\"999\":-100}", OK, NULL},
    {"\"logit_bias\":{\"1000\":1}", ERR_INVALID, "logit_bias"},
    {"\"logit_bias\":{\"-1\":1}", ERR_INVALID, "logit_bias"},
    {"\"logit_bias\":{\"99999999999999999999\":1}", ERR_INVALID, "logit_bias"},
    {"\"logit_bias\":{\"5x\":1}", ERR_INVALID, "logit_bias"},
    {"\"logit_bias\":{\"\":1}", ERR_INVALID, "logit_bias"},
    {"\"logit_bias\":{\"5\":101}", ERR_INVALID, "logit_bias"},
    {"\"logit_bias\":{\"5\":\"1\"}", ERR_INVALID, "logit_bias"},
    {"\"logit_bias\":[1]", ERR_INVALID, "logit_bias"},
    {"\"adapters\":[{\"name\":\"a\",\"weight\":0.5},{\"name\":\"b\"}]", OK, NULL},
    {"\"adapters\":[]", OK, NULL},
    {"\"adapters\":{}", ERR_INVALID, "adapters"},
    {"\"adapters\":[\"a\"]", ERR_INVALID, "adapters"},
    {"\"adapters\":[{\"weight\":1}]", ERR_MISSING, "adapters.name"},
    {"\"adapters\":[{\"name\":\"a\",\"weight\":17}]", ERR_INVALID, "adapters.weight"},
    {"\"adapters\":[{\"name\":\"a\"},{\"name\":\"a\"}]", ERR_INVALID, "adapters"},
    {"\"adapters\":[{\"name\":\"a\"},{\"name\":\"b\"},{\"name\":\"c\"},{\"name\":\"d\"},{\"name\":\"e\"}]", ERR_INVALID,
     "adapters"},
    {"\"guided_json\":{}", OK, NULL},
    {"\"guided_json\":\"{\\\"type\\\":\\\"object\\\"}\"", OK, NULL},
    {"\"guided_json\":\"{\"", ERR_INVALID, "guided_json"},
    {"\"guided_json\":[]", ERR_INVALID, "guided_json"},
    {"\"guided_regex\":\"a\"", OK, NULL},
    {"\"guided_regex\":5", ERR_INVALID, "guided_regex"},
    {"\"guided_choice\":[\"a\",\"b\"]", OK, NULL},
    {"\"guided_choice\":[]", ERR_INVALID, "guided_choice"},
    {"\"guided_choice\":[\"a\",\"\"]", ERR_INVALID, "guided_choice"},
    {"\"guided_grammar\":\"root ::= x\"", ERR_UNSUPPORTED, "guided_grammar"},
    {"\"structured_outputs\":{\"json\":{\"type\":\"object\"}}", OK, NULL},
    {"\"structured_outputs\":{\"regex\":\"a\",\"choice\":[\"a\"]}", ERR_INVALID, "structured_outputs"},
    {"\"structured_outputs\":{\"grammar\":\"x\"}", ERR_UNSUPPORTED, "structured_outputs"},
    {"\"use_beam_search\":true", ERR_UNSUPPORTED, "use_beam_search"},
    {"\"user\":\"u\",\"metadata\":{\"a\":\"b\"},\"store\":true,\"no_such_field\":[1,2]", OK, NULL},
    {"\"return_token_ids\":true", OK, NULL},
    {"\"return_token_ids\":\"true\"", ERR_INVALID, "return_token_ids"},
    {"\"skip_special_tokens\":false", OK, NULL},
    {"\"skip_special_tokens\":0", ERR_INVALID, "skip_special_tokens"},
    {"\"cache_salt\":\"abc\"", OK, NULL},
    {"\"cache_salt\":1", ERR_INVALID, "cache_salt"},
};

static const struct row chat[] = {
    {"\"max_completion_tokens\":5", OK, NULL},
    {"\"max_completion_tokens\":-5", ERR_INVALID, "max_completion_tokens"},
    {"\"logprobs\":true", OK, NULL},
    {"\"logprobs\":true,\"top_logprobs\":20", OK, NULL},
    {"\"logprobs\":true,\"top_logprobs\":21", ERR_INVALID, "top_logprobs"},
    {"\"logprobs\":5", ERR_INVALID, "logprobs"},
    {"\"top_logprobs\":2", ERR_INVALID, "top_logprobs"},
    {"\"top_logprobs\":0", OK, NULL},
    {"\"tools\":[]", OK, NULL},
    {"\"tools\":[{\"type\":\"function\"}]", ERR_INVALID, "tools"},
    {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a b\"}}]", ERR_INVALID, "tools"},
    {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a\",\"parameters\":[]}}]", ERR_INVALID, "tools"},
    {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a\",\"parameters\":{\"type\":\"array\"}}}]", ERR_INVALID, "tools"},
    {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a\"}},{\"type\":\"function\",\"function\":{\"name\":\"a\"}}]",
     ERR_INVALID, "tools"},
    {"\"logit_bias\":{\"05\":1}", ERR_INVALID, "logit_bias"},
    {"\"logit_bias\":{\"0\":1}", OK, NULL},
    {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a\"}}]", OK, NULL},
    {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a\"}}],\"tool_choice\":\"required\"", OK, NULL},
    {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a\"}}],\"tool_choice\":\"any\"", ERR_INVALID,
     "tool_choice"},
    {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a\"}}],\"tool_choice\":{\"type\":\"function\","
     "\"function\":{\"name\":\"b\"}}",
     ERR_INVALID, "tool_choice"},
    {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a\"}}],\"tool_choice\":{\"type\":\"function\","
     "\"function\":{\"name\":\"a\"}}",
     OK, NULL},
    {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a\"}}],\"tool_choice\":\"required\","
     "\"response_format\":{\"type\":\"json_object\"}",
     ERR_INVALID, "tool_choice"},
    {"\"tools\":{}", ERR_INVALID, "tools"},
    {"\"parallel_tool_calls\":false", OK, NULL},
    {"\"tool_choice\":\"none\"", OK, NULL},
    {"\"tool_choice\":\"required\"", ERR_INVALID, "tool_choice"},
    {"\"tool_choice\":\"auto\"", OK, NULL},
    {"\"functions\":[{}]", ERR_UNSUPPORTED, "functions"},
    {"\"modalities\":[\"text\"]", OK, NULL},
    {"\"modalities\":[\"text\",\"audio\"]", ERR_UNSUPPORTED, "modalities"},
    {"\"chat_template\":\"x\"", ERR_UNSUPPORTED, "chat_template"},
    {"\"chat_template_kwargs\":{\"enable_thinking\":false}", OK, NULL},
    {"\"chat_template_kwargs\":[]", ERR_INVALID, "chat_template_kwargs"},
    {"\"add_generation_prompt\":false", OK, NULL},
    {"\"add_generation_prompt\":\"x\"", ERR_INVALID, "add_generation_prompt"},
    {"\"continue_final_message\":true", ERR_UNSUPPORTED, "continue_final_message"},
    {"\"suffix\":\"x\"", OK, NULL}, /* not a field of this route */
};

static const struct row completion[] = {
    {"\"logprobs\":0", OK, NULL},
    {"\"logprobs\":5", OK, NULL},
    {"\"logprobs\":21", ERR_INVALID, "logprobs"},
    {"\"logprobs\":true", ERR_INVALID, "logprobs"},
    {"\"echo\":true", OK, NULL},
    {"\"echo\":1", ERR_INVALID, "echo"},
    {"\"echo\":true,\"logprobs\":1", OK, NULL},
    {"\"suffix\":\"\"", OK, NULL},
    {"\"suffix\":\"x\"", ERR_UNSUPPORTED, "suffix"},
    {"\"tools\":[{}]", OK, NULL}, /* not a field of this route */
};

static const struct row messages[] = {
    {"", ERR_MISSING, "messages"},
    {"\"messages\":null", ERR_MISSING, "messages"},
    {"\"messages\":[]", ERR_INVALID, "messages"},
    {"\"messages\":\"hi\"", ERR_INVALID, "messages"},
    {"\"messages\":[\"hi\"]", ERR_INVALID, "messages.0"},
    {"\"messages\":[{\"content\":\"hi\"}]", ERR_MISSING, "messages.0"},
    {"\"messages\":[{\"role\":1,\"content\":\"hi\"}]", ERR_INVALID, "messages.0"},
    {"\"messages\":[{\"role\":\"user\"}]", ERR_MISSING, "messages.0"},
    {"\"messages\":[{\"role\":\"ipython_2-x\",\"content\":\"\"}]", OK, NULL},
    {"\"messages\":[{\"role\":\"user<|im_end|>\",\"content\":\"hi\"}]", ERR_INVALID, "messages.0"},
    {"\"messages\":[{\"role\":\"two words\",\"content\":\"hi\"}]", ERR_INVALID, "messages.0"},
    {"\"messages\":[{\"role\":\"user\",\"content\":7}]", ERR_INVALID, "messages.0"},
    {"\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":{}}]", ERR_INVALID,
     "messages.1"},
    {"\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]", ERR_UNSUPPORTED, "messages.0"},
    {"\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]", ERR_INVALID, "messages.0"},
    {"\"messages\":[{\"role\":\"user\",\"content\":[\"x\"]}]", ERR_INVALID, "messages.0"},
    {"\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[]},{\"role\":\"tool\",\"content\":\"\"}]",
     OK, NULL},
};

static const struct row prompts[] = {
    {"", ERR_MISSING, "prompt"},
    {"\"prompt\":\"\"", OK, NULL}, /* may still get a BOS; the tokenizer decides */
    {"\"prompt\":[]", ERR_INVALID, "prompt"},
    {"\"prompt\":[1,2,3]", OK, NULL},
    {"\"prompt\":[1,\"a\"]", ERR_INVALID, "prompt"},
    {"\"prompt\":[1,1000]", ERR_INVALID, "prompt"},
    {"\"prompt\":[1,-1]", ERR_INVALID, "prompt"},
    {"\"prompt\":[1.5]", ERR_INVALID, "prompt"},
    {"\"prompt\":[[1,2],[3]]", OK, NULL},
    {"\"prompt\":[[1,2],[]]", ERR_INVALID, "prompt"},
    {"\"prompt\":[\"a\",\"b\"]", OK, NULL},
    {"\"prompt\":[\"a\",7]", ERR_INVALID, "prompt"},
    {"\"prompt\":{}", ERR_INVALID, "prompt"},
    {"\"prompt\":true", ERR_INVALID, "prompt"},
};

static void every_field_takes_its_values_and_names_itself_when_wrong(void **state)
{
    (void)state;
    CHECK(ASK_CHAT, CHAT_BASE, both);
    CHECK(ASK_COMPLETION, TEXT_BASE, both);
    CHECK(ASK_CHAT, CHAT_BASE, chat);
    CHECK(ASK_COMPLETION, TEXT_BASE, completion);
    CHECK(ASK_CHAT, "", messages);
    CHECK(ASK_COMPLETION, "", prompts);
}

static void a_body_that_is_no_object_or_has_no_model_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *body;
        enum err_code code;
    } rows[] = {
        {"", ERR_INVALID_JSON},
        {"[]", ERR_INVALID_JSON},
        {"{", ERR_INVALID_JSON},
        {"nul", ERR_INVALID_JSON},
        {"{\"prompt\":\"x\"}", ERR_MISSING},
        {"{\"model\":7,\"prompt\":\"x\"}", ERR_INVALID},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct ask a;
        struct err e = {0};
        assert_int_equal(ask_parse(rows[i].body, strlen(rows[i].body), ASK_COMPLETION, VOCAB, &a, &e), -1);
        assert_int_equal(e.code, rows[i].code);
    }
}

static void the_defaults_are_those_of_openai(void **state)
{
    (void)state;
    struct ask a;
    struct err e = {0};
    parse(ASK_COMPLETION, "", TEXT_BASE, &a, &e);
    assert_true(a.p.sample.temperature == 1 && a.p.sample.top_p == 1 && a.p.sample.top_k == 0 && a.p.sample.min_p == 0);
    assert_int_equal(a.p.max_tokens, 16);
    assert_int_equal(a.p.sample.logprobs, -1);
    assert_true(a.add_special_tokens && !a.stream && !a.seeded && !a.p.show_special);
    ask_close(&a);
    parse(ASK_CHAT, "", CHAT_BASE, &a, &e);
    assert_int_equal(a.p.max_tokens, 0);
    assert_true(a.add_generation_prompt && !a.add_special_tokens);
    ask_close(&a);
}

static void values_arrive_where_they_belong(void **state)
{
    (void)state;
    struct ask a;
    struct err e = {0};
    parse(ASK_CHAT,
          "\"temperature\":0.25,\"top_p\":0.5,\"top_k\":7,\"min_p\":0.125,\"seed\":42,\"max_tokens\":9,\"max_"
          "completion_tokens\":8,"
          "\"min_tokens\":3,\"stop\":[\"ab\",\"c\"],\"stop_token_ids\":[4,5],\"logprobs\":true,\"top_logprobs\":3,"
          "\"stream\":true,"
          "\"stream_options\":{\"continuous_usage_stats\":true},\"cache_salt\":\"s\",\"skip_special_tokens\":false",
          CHAT_BASE, &a, &e);
    assert_int_equal(e.code, OK);
    assert_true(a.p.sample.temperature == 0.25f && a.p.sample.top_p == 0.5f && a.p.sample.min_p == 0.125f);
    assert_int_equal(a.p.sample.top_k, 7);
    assert_true(a.seeded && a.p.sample.seed == 42);
    assert_int_equal(a.p.max_tokens, 8);
    assert_int_equal(a.p.min_tokens, 3);
    assert_int_equal(a.p.nstop, 2);
    assert_string_equal(a.p.stop[0], "ab");
    assert_int_equal(a.p.nstop_id, 2);
    assert_int_equal(a.p.stop_id[1], 5);
    assert_int_equal(a.p.sample.logprobs, 3);
    assert_true(a.stream && a.continuous_usage && !a.include_usage && a.p.show_special);
    assert_string_equal(a.cache_salt, "s");
    ask_close(&a);
}

static void text_parts_become_one_string(void **state)
{
    (void)state;
    struct ask a;
    struct err e = {0};
    parse(ASK_CHAT, "",
          "\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\","
          "\"text\":\"b\"}]}]",
          &a, &e);
    assert_int_equal(e.code, OK);
    assert_string_equal(json_string_value(json_object_get(json_array_get(a.messages, 0), "content")), "a\nb");
    ask_close(&a);
}

static void several_prompts_are_told_apart_from_one_of_ids(void **state)
{
    (void)state;
    static const struct {
        const char *prompt;
        int n;
    } rows[] = {
        {"\"prompt\":[5,6,7]", 1},
        {"\"prompt\":[[5,6],[7]]", 2},
        {"\"prompt\":[\"a\",\"b\",\"c\"]", 3},
        {"\"prompt\":\"a\"", 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct ask a;
        struct err e = {0};
        parse(ASK_COMPLETION, "", rows[i].prompt, &a, &e);
        assert_int_equal(a.nprompts, rows[i].n);
        ask_close(&a);
    }
}

static void more_prompts_than_the_limit_are_refused(void **state)
{
    (void)state;
    struct buf b;
    struct ask a;
    struct err e = {0};
    buf_init(&b, 4096);
    buf_adds(&b, "\"prompt\":[");
    for (int i = 0; i <= ASK_PROMPTS_MAX; i++) buf_adds(&b, i ? ",\"a\"" : "\"a\"");
    buf_adds(&b, "]");
    assert_int_equal(parse(ASK_COMPLETION, "", b.data, &a, &e), ERR_INVALID);
    buf_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_takes_its_values_and_names_itself_when_wrong),
        cmocka_unit_test(a_body_that_is_no_object_or_has_no_model_is_refused),
        cmocka_unit_test(the_defaults_are_those_of_openai),
        cmocka_unit_test(values_arrive_where_they_belong),
        cmocka_unit_test(text_parts_become_one_string),
        cmocka_unit_test(several_prompts_are_told_apart_from_one_of_ids),
        cmocka_unit_test(more_prompts_than_the_limit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
