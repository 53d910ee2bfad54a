/* Tests of engine/tools: each format as its family writes it, however the text is cut; what is no call stays text, to
 * the byte. The texts are what the model cards of the families show. */
#include "engine/tools.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const char tools_json[] = "[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"parameters\":{"
                                 "\"type\":\"object\",\"properties\":{"
                                 "\"city\":{\"$ref\":\"#/$defs/city\"}},\"$defs\":{\"city\":{\"type\":\"string\"}}}}},"
                                 "{\"type\":\"function\",\"function\":{\"name\":\"add\"}},"
                                 "{\"type\":\"function\",\"function\":{\"name\":\"typed\",\"parameters\":{"
                                 "\"properties\":{\"zip\":{\"type\":\"string\"},\"code\":{\"type\":\"string\"},"
                                 "\"n\":{\"type\":\"integer\"}}}}}]";

static const struct {
    const char *format, *template;
} templates[] = {
    {"hermes", "...return a json object within <tool_call></tool_call> tags: <tool_call>\\n{\"name\":"},
    {"qwen3_coder", "<tool_call>\n<function=example_function_name>\n<parameter=example>"},
    {"mistral", "{{ '[TOOL_CALLS] [' }}"},
    {"phi4", "{{ '<|tool|>' + message['tools'] + '<|/tool|>' }}"},
    {"glm", "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>"},
    {"seed", "<seed:tool_call>\n<function=example_function_name>"},
    {"tool_calls", "<tool_calls>[{...}]</tool_calls>, not <tool_call>"},
    {"nemotron", "<TOOLCALL>"},
    {"functools", "functools[{"},
    {"deepseek", "<｜tool▁calls▁begin｜>"},
    {"functions", "<function=example_function_name>{...}</function> Environment: ipython"},
    {"llama3_json", "Environment: ipython"},
};

static const struct row {
    const char *format, *answer, *content;
    const char *calls; /* "name arguments" each, with a newline between */
} rows[] = {
    {"hermes", "hello", "hello", ""},
    {"hermes", "", "", ""},
    {"hermes", "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>", "", "add {\"a\":1}"},
    {"hermes",
     "I look.\n<tool_call>{\"name\":\"add\",\"arguments\":{}}</tool_call>\n<tool_call>{\"name\":\"get_weather\","
     "\"arguments\":{\"city\":\"Köln\"}}</tool_call>\n",
     "I look.\n", "add {}\nget_weather {\"city\":\"Köln\"}"},
    {"hermes", "<tool_call>{\"name\":\"add\",\"arguments\":{\"a\":1}}", "",
     "add {\"a\":1}"}, /* no end: the answer's does */
    {"hermes", "<tool_call>{\"name\":\"add\",\"argum", "<tool_call>{\"name\":\"add\",\"argum", ""},
    {"hermes", "<tool_call>not json</tool_call> x", "<tool_call>not json</tool_call> x", ""},
    {"hermes", "<tool_call>{\"name\":\"rm\",\"arguments\":{}}</tool_call>",
     "<tool_call>{\"name\":\"rm\",\"arguments\":{}}</tool_call>", ""},
    {"hermes", "a < b <tool> <tool_cal", "a < b <tool> <tool_cal", ""},
    {"hermes", "<tool_call>{\"name\":\"add\",\"arguments\":{}} {\"name\":\"rm\",\"arguments\":{}}</tool_call>",
     "<tool_call>{\"name\":\"add\",\"arguments\":{}} {\"name\":\"rm\",\"arguments\":{}}</tool_call>", ""},
    {"qwen3_coder",
     "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n"
     "</parameter>\n</function>\n</tool_call>",
     "", "get_weather {\"city\":\"Paris\",\"days\":3}"},
    {"qwen3_coder", "<tool_call>\n<function=rm>\n</function>\n</tool_call>",
     "<tool_call>\n<function=rm>\n</function>\n</tool_call>", ""},
    {"mistral",
     "[TOOL_CALLS] [{\"name\": \"add\", \"arguments\": {\"a\": 2}}, {\"name\": \"get_weather\", \"arguments\": {}}]",
     "", "add {\"a\":2}\nget_weather {}"},
    {"mistral", "[TOOL_CALLS]add[ARGS]{\"a\": 2}[TOOL_CALLS]get_weather{\"city\":\"x\"}", "",
     "add {\"a\":2}\nget_weather {\"city\":\"x\"}"},
    {"mistral", "see [TOOL_CALLS", "see [TOOL_CALLS", ""},
    {"mistral", "[TOOL_CALLS]nobody{}", "[TOOL_CALLS]nobody{}", ""},
    {"phi4", "<|tool_call|>[{\"name\":\"add\",\"arguments\":{\"a\":1}}]<|/tool_call|>", "", "add {\"a\":1}"},
    {"mistral", "[TOOL_CALLS]add[CALL_ID]aB3dE6gH9[ARGS]{\"a\": 2}", "", "add {\"a\":2}"},
    {"mistral", "[TOOL_CALLS]add[CALL_ID]", "[TOOL_CALLS]add[CALL_ID]", ""},
    {"qwen3_coder",
     "<tool_call>\n<function=typed>\n<parameter=zip>\n01234\n</parameter>\n<parameter=code>\n12\n</parameter>\n"
     "<parameter=n>\n12\n</parameter>\n</function>\n</tool_call>",
     "", "typed {\"zip\":\"01234\",\"code\":\"12\",\"n\":12}"},
    {"glm",
     "Well.<tool_call>typed\n<arg_key>code</arg_key>\n<arg_value>12</arg_value>\n<arg_key>n</arg_key>\n"
     "<arg_value>[1, {\"a\": null}]</arg_value>\n</tool_call>\n<tool_call>add</tool_call>",
     "Well.", "typed {\"code\":\"12\",\"n\":[1,{\"a\":null}]}\nadd {}"},
    {"glm", "<tool_call>add<arg_key>a</arg_key></tool_call>", "<tool_call>add<arg_key>a</arg_key></tool_call>", ""},
    {"glm", "<tool_call>rm</tool_call>", "<tool_call>rm</tool_call>", ""},
    {"seed", "<seed:tool_call>\n<function=add>\n<parameter=a>1</parameter>\n</function>\n</seed:tool_call>", "",
     "add {\"a\":1}"},
    {"tool_calls", "<tool_calls>[{\"name\": \"add\", \"arguments\": {}}]</tool_calls>", "", "add {}"},
    {"tool_calls",
     "<tool_calls>\n{\"name\": \"add\", \"arguments\": {}}\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n"
     "</tool_calls>",
     "", "add {}\nadd {\"a\":1}"},
    {"nemotron", "<TOOLCALL>[{\"name\": \"add\", \"arguments\": {}}]</TOOLCALL>", "", "add {}"},
    {"functools", "functools[{\"name\": \"add\", \"arguments\": {}}]", "", "add {}"},
    {"functools", "fun is what functools gives", "fun is what functools gives", ""},
    {"functools", "funct", "funct", ""},
    {"deepseek",
     "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜><｜tool▁call▁begin｜>"
     "typed<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
     "", "add {\"a\":1}\ntyped {}"},
    {"deepseek",
     "Hm<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{\"a\": "
     "1}\n```<｜tool▁call▁end｜>"
     "<｜tool▁calls▁end｜>",
     "Hm", "add {\"a\":1}"},
    {"deepseek",
     "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁call▁begin｜>rm<"
     "｜tool▁sep｜>{}"
     "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
     "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁call▁begin｜>rm<"
     "｜tool▁sep｜>{}"
     "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
     ""},
    {"functions", "<function=add>{\"a\": 1}</function><function=add>{}</function>", "", "add {\"a\":1}\nadd {}"},
    {"functions", "<function=add>[1]</function>", "<function=add>[1]</function>", ""},
    {"llama3_json", "{\"name\": \"add\", \"parameters\": {\"a\": \"1\"}}", "", "add {\"a\":\"1\"}"},
    {"llama3_json",
     "<|python_tag|>{\"name\": \"add\", \"parameters\": {}}; {\"name\": \"add\", \"parameters\": {\"b\":2}}", "",
     "add {}\nadd {\"b\":2}"},
    {"llama3_json", "{\"answer\": 42}", "{\"answer\": 42}", ""},
    {"llama3_json", "Sure {\"name\": \"add\", \"parameters\": {}}", "Sure {\"name\": \"add\", \"parameters\": {}}", ""},
    {"llama3_json", "<|py", "<|py", ""},
};

static const struct tool_format *format(const char *name)
{
    for (size_t i = 0; i < sizeof templates / sizeof *templates; i++)
        if (!strcmp(templates[i].format, name))
            return tool_format_of(templates[i].template, strlen(templates[i].template));
    return NULL;
}

static void print_calls(const struct tool_parser *p, char *out, size_t size)
{
    int n;
    const struct tool_call *c = tool_calls(p, &n);
    size_t at = 0;
    out[0] = 0;
    for (int i = 0; i < n; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%s %s", i ? "\n" : "", c[i].name, c[i].arguments);
}

/* The answer in pieces of `step` bytes. */
static void check(const struct row *r, enum tool_choice choice, const char *named, bool parallel, size_t step)
{
    struct err e = {0};
    struct tool_parser *p;
    struct buf content;
    char calls[1024];
    json_t *tools = json_loads(tools_json, 0, NULL);
    assert_int_equal(tool_parser_new(&p, r->format ? format(r->format) : NULL, choice, tools, named, parallel, &e), 0);
    json_decref(tools);
    buf_init(&content, 1 << 20);
    size_t len = strlen(r->answer);
    for (size_t i = 0; i < len; i += step)
        assert_int_equal(tool_push(p, r->answer + i, len - i < step ? len - i : step, &content), 0);
    assert_int_equal(tool_end(p, &content), 0);
    print_calls(p, calls, sizeof calls);
    const char *text = content.data ? content.data : "";
    if (strcmp(text, r->content) || strcmp(calls, r->calls))
        fail_msg("%s by %zu: text '%s', calls '%s'", r->answer, step, text, calls);
    buf_close(&content);
    tool_parser_free(p);
}

static void test_the_format_is_read_off_the_template(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof templates / sizeof *templates; i++) {
        const struct tool_format *f = format(templates[i].format);
        assert_non_null(f);
        assert_string_equal(tool_format_name(f), templates[i].format);
    }
    static const char *const unknown[] = {"no tools", "<tool_call>\n<invoke name=", "<minimax:tool_call>",
                                          "<|tool_call_start|>[f(x='y')]"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        assert_null(tool_format_of(unknown[i], strlen(unknown[i])));
}

static void test_calls_are_taken_out_however_the_text_is_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t step = 1; step < 30; step++) check(&rows[i], TOOL_CHOICE_AUTO, NULL, true, step);
}

static void test_calls_behind_the_first_are_dropped_unless_parallel(void **state)
{
    (void)state;
    const struct row r = {"phi4",
                          "<|tool_call|>[{\"name\":\"add\",\"arguments\":{}},{\"name\":\"add\",\"arguments\":{}}]"
                          "<|/tool_call|>",
                          "", "add {}"};
    check(&r, TOOL_CHOICE_AUTO, NULL, false, 7);
}

static void test_a_forced_answer_is_read_as_its_schema_says(void **state)
{
    (void)state;
    const struct row named = {NULL, "{\"a\": 1}", "", "add {\"a\":1}"}, cut = {NULL, "{\"a\": ", "", "add {\"a\": "},
                     required = {"hermes", "[{\"name\":\"add\",\"parameters\":{\"a\":1}}]", "", "add {\"a\":1}"};
    static const struct row cuts[] = {
        {NULL, "[{\"name\":\"add\",\"parameters\":{\"a\":1}}, {\"name\":\"rm\",\"parameters\":{\"b", "",
         "add {\"a\":1}\nrm {\"b"},
        {NULL, "[{\"name\":\"add\",\"parameters\":{\"a\":1}}", "", "add {\"a\":1}"},
        {NULL, "[\n {\n  \"name\": \"add\",\n \"parameters\": ", "", "add "},
        {NULL, "[{\"name\":\"add\",\"para", "", "add "},
        {NULL, "[{\"name\":\"add\"", "", "add "},
        {NULL, "[{\"name\":\"ad", "", ""},
        {NULL, "[{\"na", "", ""},
        {NULL, "[", "", ""},
    };
    for (size_t step = 1; step < 9; step++) {
        for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) check(&cuts[i], TOOL_CHOICE_REQUIRED, NULL, true, step);
        check(&named, TOOL_CHOICE_NAMED, "add", true, step);
        check(&cut, TOOL_CHOICE_NAMED, "add", true, step);
        check(&required, TOOL_CHOICE_REQUIRED, NULL, true, step);
    }
}

static void test_ids_differ_and_keep_to_the_family(void **state)
{
    (void)state;
    struct err e = {0};
    struct buf content;
    int n;
    static const struct {
        const char *format, *answer;
        size_t len;
    } cases[] = {
        {"mistral", "[TOOL_CALLS][{\"name\":\"add\",\"arguments\":{}},{\"name\":\"add\",\"arguments\":{}}]", 9},
        {"phi4", "<|tool_call|>[{\"name\":\"add\",\"arguments\":{}},{\"name\":\"add\",\"arguments\":{}}]", 29}};
    for (size_t i = 0; i < 2; i++) {
        struct tool_parser *p;
        json_t *tools = json_loads(tools_json, 0, NULL);
        buf_init(&content, 1 << 20);
        assert_int_equal(tool_parser_new(&p, format(cases[i].format), TOOL_CHOICE_AUTO, tools, NULL, true, &e), 0);
        tool_push(p, cases[i].answer, strlen(cases[i].answer), &content);
        tool_end(p, &content);
        const struct tool_call *c = tool_calls(p, &n);
        assert_int_equal(n, 2);
        assert_int_equal(strlen(c[0].id), cases[i].len);
        assert_string_not_equal(c[0].id, c[1].id);
        json_decref(tools);
        buf_close(&content);
        tool_parser_free(p);
    }
}

static void test_the_schema_of_a_forced_answer_moves_its_references(void **state)
{
    (void)state;
    json_t *tools = json_loads(tools_json, 0, NULL), *any = tool_schema(tools, NULL, true),
           *one = tool_schema(tools, "get_weather", true);
    const json_t *first = json_array_get(json_object_get(json_object_get(any, "items"), "anyOf"), 0);
    const json_t *p = json_object_get(json_object_get(first, "properties"), "parameters");
    const json_t *ref = json_object_get(json_object_get(json_object_get(p, "properties"), "city"), "$ref");
    assert_string_equal(json_string_value(ref), "#/items/anyOf/0/properties/parameters/$defs/city");
    ref = json_object_get(json_object_get(json_object_get(one, "properties"), "city"), "$ref");
    assert_string_equal(json_string_value(ref), "#/$defs/city");
    json_decref(any);
    json_decref(one);
    json_decref(tools);
}

static void test_data_in_a_schema_is_no_reference(void **state)
{
    (void)state;
    static const char text[] =
        "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"properties\":{"
        "\"const\":{\"$ref\":\"#/$defs/enum\"},\"$ref\":{\"const\":{\"$ref\":\"#/x\"}},"
        "\"e\":{\"enum\":[{\"$ref\":\"#/y\"}]}},\"$defs\":{\"enum\":{\"$ref\":\"#\"}}}}}]";
    static const char want[] =
        "{\"$defs\":{\"enum\":{\"$ref\":\"#/items/anyOf/0/properties/parameters\"}},\"properties\":{"
        "\"$ref\":{\"const\":{\"$ref\":\"#/x\"}},"
        "\"const\":{\"$ref\":\"#/items/anyOf/0/properties/parameters/$defs/enum\"},"
        "\"e\":{\"enum\":[{\"$ref\":\"#/y\"}]}},\"type\":\"object\"}";
    json_t *tools = json_loads(text, 0, NULL), *any = tool_schema(tools, NULL, true);
    const json_t *first = json_array_get(json_object_get(json_object_get(any, "items"), "anyOf"), 0);
    char *got = json_dumps(json_object_get(json_object_get(first, "properties"), "parameters"),
                           JSON_COMPACT | JSON_SORT_KEYS);
    assert_string_equal(got, want);
    free(got);
    json_decref(any);
    json_decref(tools);
}

static void test_the_schema_says_how_many_calls_and_what_a_function_without_parameters_takes(void **state)
{
    (void)state;
    json_t *tools = json_loads("[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]", 0, NULL);
    json_t *one = tool_schema(tools, NULL, false), *args = tool_schema(tools, "f", true);
    char *text = json_dumps(args, JSON_COMPACT | JSON_SORT_KEYS);
    assert_int_equal(json_integer_value(json_object_get(one, "maxItems")), 1);
    assert_string_equal(text, "{\"additionalProperties\":false,\"type\":\"object\"}");
    free(text);
    json_decref(one);
    json_decref(args);
    json_decref(tools);
}

static void test_arguments_in_messages_become_objects(void **state)
{
    (void)state;
    json_t *m = json_loads(
        "{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"a\",\"arguments\":\"{\\\"x\\\":1}\"}},"
        "{\"function\":{\"name\":\"b\",\"arguments\":\"oops\"}},{\"function\":7},3]}",
        0, NULL);
    assert_int_equal(tool_normalize_message(m), 0);
    const json_t *calls = json_object_get(m, "tool_calls");
    assert_true(json_is_object(json_object_get(json_object_get(json_array_get(calls, 0), "function"), "arguments")));
    assert_true(json_is_string(json_object_get(json_object_get(json_array_get(calls, 1), "function"), "arguments")));
    json_decref(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_format_is_read_off_the_template),
        cmocka_unit_test(test_calls_are_taken_out_however_the_text_is_cut),
        cmocka_unit_test(test_calls_behind_the_first_are_dropped_unless_parallel),
        cmocka_unit_test(test_a_forced_answer_is_read_as_its_schema_says),
        cmocka_unit_test(test_ids_differ_and_keep_to_the_family),
        cmocka_unit_test(test_the_schema_of_a_forced_answer_moves_its_references),
        cmocka_unit_test(test_data_in_a_schema_is_no_reference),
        cmocka_unit_test(test_the_schema_says_how_many_calls_and_what_a_function_without_parameters_takes),
        cmocka_unit_test(test_arguments_in_messages_become_objects),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
