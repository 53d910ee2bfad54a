/* Tests of engine/chat. The oracle is Jinja itself, set up as transformers does (tests/golden/chat.json, made by make_chat.py), and
 * the demo prompts that transformers rendered with the model's own template. */
#include "engine/chat.h"
#include "engine/gguf.h"
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define OUTPUT (16u << 20)

static json_t *golden, *demo;

static int set_up(void **state)
{
    (void)state;
    json_error_t je;
    golden = json_load_file("tests/golden/chat.json", JSON_ALLOW_NUL, &je);
    demo = json_load_file("tests/golden/demo.json", JSON_ALLOW_NUL, &je);
    if (!golden || !demo) print_error("golden files: %s (run from the top folder)\n", je.text);
    return golden && demo ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    json_decref(golden);
    json_decref(demo);
    return 0;
}

/* 0 and the text in out, or -1 and the error. */
static int render(const char *source, size_t len, const json_t *messages, const json_t *tools, bool prompt, const json_t *extra, struct buf *out,
                  struct err *e)
{
    struct chat_template *t;
    if (chat_template_new(&t, source, len, "<s>", "</s>", e)) return -1;
    int r = chat_render(t, messages, tools, prompt, extra, out, e);
    chat_template_free(t);
    return r;
}

static bool check(const char *name, const char *source, size_t len, const json_t *c, const json_t *messages, const json_t *tools)
{
    const json_t *want = json_object_get(c, "want"), *extra = json_object_get(c, "extra");
    struct buf out;
    struct err e = {0};
    buf_init(&out, OUTPUT);
    int r = render(source, len, messages, json_is_null(tools) ? NULL : tools, json_is_true(json_object_get(c, "add_generation_prompt")), extra, &out, &e);
    bool good = want ? !r && out.len == json_string_length(want) && !memcmp(out.data, json_string_value(want), out.len)
                     : r && (e.code == ERR_INVALID || e.code == ERR_MODEL) && e.msg[0];
    if (!good)
        print_error("%s\n  gives %s\n  wants %s\n", name, r ? e.msg : out.data,
                    want ? json_string_value(want) : json_string_value(json_object_get(c, "error")));
    buf_close(&out);
    return good;
}

static void templates_render_as_jinja_renders_them(void **state)
{
    (void)state;
    size_t i, bad = 0;
    json_t *c;
    json_array_foreach(json_object_get(golden, "cases"), i, c) {
        json_t *t = json_object_get(c, "template");
        bad += !check(json_string_value(json_object_get(c, "name")), json_string_value(t), json_string_length(t), c, json_object_get(c, "messages"),
                      json_object_get(c, "tools"));
    }
    assert_true(i >= 20);
    assert_int_equal(bad, 0);
}

static void expressions_have_jinjas_values(void **state)
{
    (void)state;
    size_t i, bad = 0;
    json_t *c;
    json_array_foreach(json_object_get(golden, "expressions"), i, c) {
        const char *x = json_string_value(json_object_get(c, "expr"));
        char source[4096];
        int n = snprintf(source, sizeof source, "{{ %s }}", x);
        assert_true(n > 0 && (size_t)n < sizeof source);
        bad += !check(x, source, (size_t)n, c, json_object_get(golden, "messages"), json_object_get(golden, "tools"));
    }
    assert_true(i >= 70);
    assert_int_equal(bad, 0);
}

static void the_demo_prompts_are_those_of_transformers(void **state)
{
    (void)state;
    const char *path = getenv("WEFT_MODEL");
    struct gguf *g = NULL;
    struct gguf_str source;
    struct chat_template *t = NULL;
    struct err e = {0};
    size_t i;
    json_t *c;
    if (!path) fail_msg("WEFT_MODEL is not set: run the tests through ops/test");
    if (gguf_open(&g, path, &e) || gguf_string(g, "tokenizer.chat_template", &source, &e) ||
        chat_template_new(&t, source.s, source.len, "<|im_start|>", "<|im_end|>", &e))
        fail_msg("%s", e.msg);
    json_array_foreach(json_object_get(demo, "cases"), i, c) {
        struct buf out;
        buf_init(&out, OUTPUT);
        assert_int_equal(chat_render(t, json_object_get(c, "messages"), NULL, true, NULL, &out, &e), 0);
        assert_string_equal(out.data, json_string_value(json_object_get(c, "prompt")));
        buf_close(&out);
    }
    assert_int_equal(i, 48);
    chat_template_free(t);
    gguf_close(g);
}

static void what_is_not_served_is_refused_at_load_with_its_line(void **state)
{
    (void)state;
    static const struct {
        const char *source, *says;
    } rows[] = {
        {"a\nb {% include 'x' %}", "line 2: the tag \"include\" is not known"},
        {"{% do x %}", "the tag \"do\" is not known"},
        {"\n\n{{ x | frobnicate }}", "line 3: the filter \"frobnicate\" is not known"},
        {"{% if x is frobnicated %}{% endif %}", "the test \"frobnicated\" is not known"},
        {"\n{{ joiner(', ') }}", "line 2: the function \"joiner\" is not known"},
        {"{{ x|groupby('role') }}", "the filter \"groupby\" is not known"},
        {"a\n{% extends 'x' %}", "line 2: the tag \"extends\" is not known"},
        {"{% import 'x' as y %}", "the tag \"import\" is not known"},
        {"{% block b %}{% endblock %}", "the tag \"block\" is not known"},
        {"{% trans %}x{% endtrans %}", "the tag \"trans\" is not known"},
        {"{% autoescape true %}{% endautoescape %}", "the tag \"autoescape\" is not known"},
        {"{% if x %}", "the template ends where {% elif %} was expected"},
        {"{% for x in y %}", "the template ends"},
        {"{% for x in y %}{% endif %}", "the tag \"endif\" is not known here"},
        {"{{ x ", "a tag is not closed"},
        {"{{ 'x }}", "a string is not closed"},
        {"{# x", "a comment is not closed"},
        {"{% raw %} x", "a raw block is not closed"},
        {"{{ (1 }}", "a closing bracket that none opened"},
        {"{{ x ] }}", "a closing bracket that none opened"},
        {"{{ 1 + }}", "an expression was expected"},
        {"{{ }}", "an expression was expected"},
        {"{{ a ? b }}", "a character that no expression has"},
        {"{{ '\\xZZ' }}", "a string has a bad escape"},
        {"{{ 99999999999999999999 }}", "a number is too large"},
        {"{% break %}", "break outside of a loop"},
        {"{% for x in y %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}", "break outside of a loop"},
        {"{% set 1 = 2 %}", "a name was expected"},
        {"{% set true = 2 %}", "can't be assigned to"},
        {"{% set a.b.c = 2 %}", "%} was expected"},
        {"{% macro m(a=1, b) %}{% endmacro %}", "without a default"},
        {"{{ f(a=1, 2) }}", "order that is not allowed"},
        {"{% call x %}{% endcall %}", "a call was expected"},
        {"\xff", "not text in UTF-8"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct chat_template *t = NULL;
        struct err e = {0};
        if (!chat_template_new(&t, rows[i].source, strlen(rows[i].source), "", "", &e)) fail_msg("compiles: %s", rows[i].source);
        assert_int_equal(e.code, ERR_MODEL);
        if (!strstr(e.msg, rows[i].says)) fail_msg("%s: \"%s\"", rows[i].source, e.msg);
    }
}

/* A template, from the outside: what must stop it. */
static void runaway_templates_end_with_an_error(void **state)
{
    (void)state;
    static const struct {
        const char *source, *says;
    } rows[] = {
        {"{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", "it takes more than"},
        {"{% for a in range(3000) %}{{ ('x' * 1000000) | length }}{% endfor %}", "it takes more than"},
        {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested too deeply"},
        {"{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}", "nested too deeply"},
        {"{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}", "grows beyond"},
        {"{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}", "bytes of memory"},
        {"{% set n = namespace(x=[]) %}{% for i in range(3000) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}", "nested too deeply"},
        {"{% set n = namespace(x=[]) %}{% for i in range(3000) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x == n.x }}", "nested too deeply"},
        {"{% set n = namespace(x=[]) %}{% for i in range(3000) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x | tojson }}", "nested too deeply"},
        {"{{ 'ab' * 100000000 }}", "grows beyond"},
        {"{{ 'ab' * 4000000 ~ 'ab' * 4000000 }}", "grows beyond"},
        {"{{ '%1000000d' % 1 }}", "width is too large"},
        {"{{ '{:1000000}'.format(1) }}", "not served"},
        {"{{ 'x' | center(10000000) }}", "too large"},
        {"{{ (-1) ** 9223372036854775807 }}{{ 10 ** 19 }}", "too large"},
        {"{{ -9223372036854775807 - 2 }}", "too large"},
        {"{{ (-9223372036854775807 - 1) // -1 }}", "too large"},
        {"{{ ([0] * 100000) | length }}{% for i in range(100000) %}{{ range(100000) | sort | first }}{% endfor %}", "it takes more than"},
        {"{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "nested too deeply"},
    };
    json_t *messages = json_array();
    assert_non_null(messages);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buf out;
        struct err e = {0};
        struct timespec t0, t1;
        buf_init(&out, OUTPUT);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t0);
        if (!render(rows[i].source, strlen(rows[i].source), messages, NULL, false, NULL, &out, &e)) fail_msg("renders: %s", rows[i].source);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t1);
        assert_int_equal(e.code, ERR_INVALID);
        assert_string_equal(e.param, "messages");
        if (!strstr(e.msg, rows[i].says)) fail_msg("%s: \"%s\"", rows[i].source, e.msg);
        assert_true(t1.tv_sec - t0.tv_sec < 10);
        buf_close(&out);
    }
    json_decref(messages);
}

static char *repeated(const char *head, const char *body, size_t times, const char *tail)
{
    size_t n = strlen(body);
    char *s = malloc(strlen(head) + n * times + strlen(tail) + 1), *p = s;
    p = stpcpy(p, head);
    for (size_t i = 0; i < times; i++) p = mempcpy(p, body, n);
    stpcpy(p, tail);
    return s;
}

static void deep_or_long_sources_are_refused_or_served_but_never_crash(void **state)
{
    (void)state;
    static const char *const rows[][3] = {
        {"{{ ", "(", ""},          {"{{ ", "[", ""},        {"{{ ", "{'a':", ""},     {"{{ ", "not ", "1 }}"}, {"{{ ", "-", "1 }}"},
        {"{{ ", "1 if 0 else ", "1 }}"}, {"{{ a", ".a", " }}"}, {"{{ a", "[a", ""},       {"{{ a", "(a", ""},      {"{{ 1", "+1", " }}"},
        {"", "{% if 1 %}", ""},    {"", "{% for a in b %}", ""}, {"{{ 1", "|abs", " }}"},  {"{{ 1", " is odd", " }}"}, {"{% if 0 %}", "{% elif 0 %}", "{% endif %}"},
        {"{{ a", " or a", " }}"},  {"", "{{ 1 }}", ""},     {"", "{% set a %}", ""},  {"{{ '", "\\x41", "' }}"}, {"{{ ", "'a'", " }}"},
    };
    static const size_t times[] = {50, 1000, 20000};
    json_t *messages = json_array();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t k = 0; k < sizeof times / sizeof *times; k++) {
            char *s = repeated(rows[i][0], rows[i][1], times[k], rows[i][2]);
            struct buf out;
            struct err e = {0};
            buf_init(&out, OUTPUT);
            if (render(s, strlen(s), messages, NULL, false, NULL, &out, &e)) assert_true(e.msg[0] != 0);
            buf_close(&out);
            free(s);
        }
    json_decref(messages);
}

static void damaged_templates_never_crash(void **state)
{
    (void)state;
    static const char bits[] = "{}%#-+'\"()[]|.,:=~* \n\\09ax";
    size_t i, served = 0, refused = 0;
    unsigned x = 99;
    json_t *c;
    json_array_foreach(json_object_get(golden, "cases"), i, c) {
        const char *t = json_string_value(json_object_get(c, "template"));
        size_t n = strlen(t);
        for (size_t k = 0; k < 400; k++) {
            char *s = strdup(t);
            size_t len = k % 2 ? n : n * k / 400; /* cut, or a few characters changed */
            for (unsigned m = 0; m < 1 + k % 3 && k % 2; m++) {
                x = x * 1103515245u + 12345u;
                s[(x >> 8) % n] = bits[(x >> 4) % (sizeof bits - 1)];
            }
            struct buf out;
            struct err e = {0};
            buf_init(&out, OUTPUT);
            if (render(s, len, json_object_get(c, "messages"), NULL, true, NULL, &out, &e)) refused++;
            else served++;
            buf_close(&out);
            free(s);
        }
    }
    assert_true(served > 500 && refused > 2000);
}

static void from_json_reads_the_arguments_of_a_call(void **state)
{
    (void)state;
    static const struct {
        const char *source, *want; /* NULL: an error */
    } rows[] = {
        {"{{ ('{\"a\": [1, 2.5, null, \"x\"]}' | from_json).a | tojson }}", "[1, 2.5, null, \"x\"]"},
        {"{{ '3' | from_json + 1 }}", "4"},
        {"{{ '{' | from_json }}", NULL},
        {"{{ 3 | from_json }}", NULL},
        {"{{ ('[' * 1000 ~ ']' * 1000) | from_json }}", NULL},
        {"{{ ('[' ~ '0,' * 100000 ~ '0]') | from_json }}", NULL},
    };
    json_t *messages = json_array();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buf out;
        struct err e = {0};
        buf_init(&out, OUTPUT);
        assert_int_equal(render(rows[i].source, strlen(rows[i].source), messages, NULL, false, NULL, &out, &e), rows[i].want ? 0 : -1);
        if (rows[i].want) assert_string_equal(out.data, rows[i].want);
        else assert_int_equal(e.code, ERR_INVALID);
        buf_close(&out);
    }
    json_decref(messages);
}

static void raise_exception_is_the_clients_error(void **state)
{
    (void)state;
    static const char t[] = "{{ raise_exception('No system role, please: ' ~ messages[0].role) }}";
    json_t *messages = json_pack("[{s:s,s:s}]", "role", "system", "content", "x");
    struct buf out;
    struct err e = {0};
    buf_init(&out, OUTPUT);
    assert_int_equal(render(t, sizeof t - 1, messages, NULL, false, NULL, &out, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_string_equal(e.param, "messages");
    assert_string_equal(e.msg, "No system role, please: system");
    err_clear(&e);
    assert_int_equal(render("", 0, json_null(), NULL, false, NULL, &out, &e), -1);
    assert_string_equal(e.param, "messages");
    err_clear(&e);
    assert_int_equal(render("", 0, messages, NULL, false, messages, &out, &e), -1);
    assert_string_equal(e.param, "chat_template_kwargs");
    buf_close(&out);
    json_decref(messages);
}

static void the_requests_variables_cannot_replace_the_messages(void **state)
{
    (void)state;
    static const char t[] = "{{ messages[0].role }} {{ bos_token }} {{ add_generation_prompt }} {{ own }}";
    json_t *messages = json_pack("[{s:s}]", "role", "user");
    json_t *extra = json_pack("{s:[{s:s}],s:s,s:b,s:i}", "messages", "role", "system", "bos_token", "x", "add_generation_prompt", 0, "own", 5);
    struct buf out;
    struct err e = {0};
    buf_init(&out, OUTPUT);
    assert_int_equal(render(t, sizeof t - 1, messages, NULL, true, extra, &out, &e), 0);
    assert_string_equal(out.data, "user <s> True 5");
    assert_int_equal(json_object_size(extra), 4); /* and are left as they were */
    buf_close(&out);
    json_decref(messages);
    json_decref(extra);
}

static void tools_are_put_where_the_template_looks_for_them(void **state)
{
    (void)state;
    static const struct {
        const char *source, *want;
    } rows[] = {
        {"{{ tools[0].f }} {{ xml_tools is defined }}", "x True"}, /* it speaks of them */
        {"{{ xml_tools[0].f }}", "x"},
        {"{% for message in messages %}{{ message.role }}{{ message['tools'] }} {% endfor %}",
         "system[{\"f\": \"x\"}] user "},
        {"{{ messages[0].role }} {{ tools[0].f }}", "user x"},
    };
    json_t *messages = json_pack("[{s:s}]", "role", "user"), *tools = json_pack("[{s:s}]", "f", "x");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buf out;
        struct err e = {0};
        buf_init(&out, OUTPUT);
        if (render(rows[i].source, strlen(rows[i].source), messages, tools, false, NULL, &out, &e)) fail_msg("%s", e.msg);
        assert_string_equal(out.data, rows[i].want);
        assert_int_equal(json_array_size(messages), 1);
        buf_close(&out);
    }
    json_decref(messages);
    json_decref(tools);
}

static void reasoning_is_found_by_each_of_its_names(void **state)
{
    (void)state;
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    static const char t[] = "{{ messages[0].reasoning_content }} {{ messages[0].thinking }} {{ messages[1] is none }}";
    for (size_t i = 0; i < 3; i++) {
        json_t *messages = json_pack("[{s:s}, n]", names[i], "why");
        struct buf out;
        struct err e = {0};
        buf_init(&out, OUTPUT);
        assert_int_equal(render(t, sizeof t - 1, messages, NULL, true, NULL, &out, &e), 0);
        assert_string_equal(out.data, "why why True");
        assert_int_equal(json_object_size(json_array_get(messages, 0)), 1); /* and the request's is left alone */
        buf_close(&out);
        json_decref(messages);
    }
}

static void the_source_is_kept_to_its_length(void **state)
{
    (void)state;
    struct chat_template *t;
    struct err e = {0};
    size_t n;
    char *source = malloc(3); /* as in a model's file: no zero behind it */
    memcpy(source, "abc", 3);
    assert_int_equal(chat_template_new(&t, source, 3, "", "", &e), 0);
    free(source);
    assert_memory_equal(chat_source(t, &n), "abc", 3);
    assert_int_equal(n, 3);
    chat_template_free(t);
}

static void a_prompt_that_does_not_fit_the_buffer_is_an_error(void **state)
{
    (void)state;
    json_t *messages = json_array();
    struct buf out;
    struct err e = {0};
    buf_init(&out, 10);
    assert_int_equal(render("{{ 'x' * 100 }}", 15, messages, NULL, false, NULL, &out, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    buf_close(&out);
    json_decref(messages);
}

static void strftime_now_writes_todays_date(void **state)
{
    (void)state;
    static const char t[] = "{{ strftime_now('%Y-%m-%d') }}";
    json_t *messages = json_array();
    char want[2][16];
    struct buf out;
    struct err e = {0};
    for (int i = 0; i < 2; i++) { /* midnight may fall between */
        time_t now = time(NULL);
        struct tm tm;
        if (i == 1) {
            buf_init(&out, OUTPUT);
            assert_int_equal(render(t, sizeof t - 1, messages, NULL, false, NULL, &out, &e), 0);
            now = time(NULL);
        }
        localtime_r(&now, &tm);
        strftime(want[i], sizeof want[i], "%Y-%m-%d", &tm);
    }
    assert_true(!strcmp(out.data, want[0]) || !strcmp(out.data, want[1]));
    buf_close(&out);
    json_decref(messages);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(templates_render_as_jinja_renders_them),
        cmocka_unit_test(expressions_have_jinjas_values),
        cmocka_unit_test(the_demo_prompts_are_those_of_transformers),
        cmocka_unit_test(what_is_not_served_is_refused_at_load_with_its_line),
        cmocka_unit_test(runaway_templates_end_with_an_error),
        cmocka_unit_test(deep_or_long_sources_are_refused_or_served_but_never_crash),
        cmocka_unit_test(damaged_templates_never_crash),
        cmocka_unit_test(from_json_reads_the_arguments_of_a_call),
        cmocka_unit_test(raise_exception_is_the_clients_error),
        cmocka_unit_test(the_requests_variables_cannot_replace_the_messages),
        cmocka_unit_test(tools_are_put_where_the_template_looks_for_them),
        cmocka_unit_test(reasoning_is_found_by_each_of_its_names),
        cmocka_unit_test(the_source_is_kept_to_its_length),
        cmocka_unit_test(a_prompt_that_does_not_fit_the_buffer_is_an_error),
        cmocka_unit_test(strftime_now_writes_todays_date),
    };
    return cmocka_run_group_tests_name("chat", tests, set_up, tear_down);
}
