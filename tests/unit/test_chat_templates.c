/* Published chat templates: what engine/chat makes of them is what transformers does, and a call that a template wrote
 * into a prompt is one that engine/tools takes out of an answer.
 *
 *   test_chat_templates                  the templates kept here (tests/golden/chat_templates)
 *   test_chat_templates FOLDER ORACLE    a table of those of a folder; tests/golden/make_chat_templates.py runs it so
 *
 * The date is frozen for both: time() below takes the place of libc's. */
#include "base/buf.h"
#include "engine/chat.h"
#include "engine/tools.h"
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define FOLDER "tests/golden/chat_templates"
#define ORACLE "tests/golden/chat_templates.json"
#define OUTPUT (4u << 20)
#define SOURCE_MAX (1u << 20)

static time_t frozen;

time_t time(time_t *t)
{
    if (t) *t = frozen;
    return frozen;
}

/* Which way of writing calls each of the templates kept here speaks of; "": none, or none that is served. */
static const struct {
    const char *template, *format;
} kept[] = {
    {"Apertus-8B-Instruct.jinja", ""},
    {"GLM-4.6.jinja", "glm"},
    {"HuggingFaceTB-SmolLM3-3B.jinja", ""},
    {"MiMo-VL.jinja", "hermes"},
    {"MiniMax-M1.jinja", "tool_calls"},
    {"Mistral-Small-3.2-24B-Instruct-2506.jinja", "mistral"},
    {"Phi-4-mini-instruct.jinja", "phi4"},
    {"Qwen-QwQ-32B.jinja", "hermes"},
    {"Qwen-Qwen2.5-7B-Instruct.jinja", "hermes"},
    {"Qwen-Qwen3-0.6B.jinja", "hermes"},
    {"Qwen3-Coder.jinja", "qwen3_coder"},
    {"deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja", "deepseek"},
    {"deepseek-ai-DeepSeek-V3.1.jinja", "deepseek"},
    {"ibm-granite-granite-3.3-2B-Instruct.jinja", "phi4"},
    {"ibm-granite-granite-4.0.jinja", "hermes"},
    {"microsoft-Phi-3.5-mini-instruct.jinja", ""},
    {"mistralai-Ministral-3-14B-Reasoning-2512.jinja", "mistral"},
    {"mistralai-Mistral-Nemo-Instruct-2407.jinja", "mistral"},
    {"openai-gpt-oss-120b.jinja", ""},
    {NULL, NULL},
};

/* Talks that end with calls. */
static const char *const calling[] = {"call", "call with null content", "two calls", "call without arguments",
                                      "call with words"};

/* What ends a turn; answers don't hold it, since generation stops there. */
static const char *const ends[] = {
    "<|im_end|>", "</s>",    "<|eot_id|>",    "<|eom_id|>",    "<|end|>", "<|end_of_text|>",
    "<|call|>",   "<turn|>", "<end_of_turn>", "<|endoftext|>", "[e~["};

static char *read_file(const char *folder, const char *name, size_t *len)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "rb");
    char *s = f ? malloc(SOURCE_MAX) : NULL;
    if (!s) fail_msg("%s can't be read", path);
    *len = fread(s, 1, SOURCE_MAX, f);
    fclose(f);
    return s;
}

static json_t *load_oracle(const char *path)
{
    json_error_t je;
    json_t *oracle = json_load_file(path, JSON_ALLOW_NUL, &je);
    if (!oracle) fail_msg("%s: %s (run from the top folder)", path, je.text);
    frozen = (time_t)json_integer_value(json_object_get(oracle, "now"));
    return oracle;
}

static int render(const struct chat_template *t, const json_t *talk, const json_t *messages, bool prompt,
                  struct buf *out, struct err *e)
{
    const json_t *tools = json_object_get(talk, "tools");
    buf_init(out, OUTPUT);
    return chat_render(t, messages, json_is_null(tools) ? NULL : tools, prompt, json_object_get(talk, "extra"), out, e);
}

/* --- renderings --- */

static bool same_rendering(const struct chat_template *t, const char *file, const char *name, const json_t *talk,
                           const json_t *made, bool *more)
{
    const json_t *want = json_object_get(made, "want");
    struct buf out;
    struct err e = {0};
    int rc = render(t, talk, json_object_get(talk, "messages"),
                    json_is_true(json_object_get(talk, "add_generation_prompt")), &out, &e);
    size_t n = json_string_length(want), at = 0;
    bool good = !want || (!rc && out.len == n && !memcmp(out.len ? out.data : "", json_string_value(want), n));
    *more = !want && !rc;
    if (!good && want && !rc)
        while (at < n && at < out.len && out.data[at] == json_string_value(want)[at]) at++;
    if (!good)
        print_error("%s, %s:\n  ours   %s\n  theirs %s\n", file, name, rc ? e.msg : out.data + (at > 40 ? at - 40 : 0),
                    want ? json_string_value(want) + (at > 40 ? at - 40 : 0)
                         : json_string_value(json_object_get(made, "error")));
    buf_close(&out);
    return good;
}

/* --- the way back --- */

/* What the model would have written: the rendering with the calls, behind what both renderings have. */
static void cut_turn(const struct buf *before, struct buf *with)
{
    size_t at = 0;
    while (at < before->len && at < with->len && before->data[at] == with->data[at]) at++;
    if (at < before->len) /* what they differ in may begin alike */
        while (at && !strchr("\n>]", with->data[at - 1])) at--;
    memmove(with->data, with->data + at, with->len - at);
    with->len -= at;
    with->data[with->len] = 0;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        char *end = strstr(with->data, ends[i]);
        if (!end) continue;
        *end = 0;
        with->len = (size_t)(end - with->data);
    }
}

static bool same_calls(const struct tool_parser *p, const json_t *wanted)
{
    int n;
    const struct tool_call *c = tool_calls(p, &n);
    bool same = n == (int)json_array_size(wanted);
    for (int i = 0; same && i < n; i++) {
        const json_t *f = json_object_get(json_array_get(wanted, (size_t)i), "function");
        json_t *arguments = json_loads(c[i].arguments, 0, NULL);
        same = !strcmp(c[i].name, json_string_value(json_object_get(f, "name"))) &&
               json_equal(arguments, json_object_get(f, "arguments"));
        json_decref(arguments);
    }
    return same;
}

static bool taken_back(const struct tool_format *format, const char *file, const struct buf *turn, const json_t *talk,
                       const json_t *message)
{
    struct tool_parser *p;
    struct buf content;
    struct err e = {0};
    buf_init(&content, OUTPUT);
    assert_int_equal(tool_parser_new(&p, format, TOOL_CHOICE_AUTO, json_object_get(talk, "tools"), NULL, true, &e), 0);
    assert_int_equal(tool_push(p, turn->data, turn->len, &content), 0);
    assert_int_equal(tool_end(p, &content), 0);
    const char *words = json_string_value(json_object_get(message, "content"));
    bool good = same_calls(p, json_object_get(message, "tool_calls"));
    good =
        good && (!words || !words[0] || !strstr(turn->data, words) || strstr(content.data ? content.data : "", words));
    if (!good) print_error("%s: not taken back: %s\n", file, turn->data);
    buf_close(&content);
    tool_parser_free(p);
    return good;
}

/* 1: the same calls came back; 0: not so; -1: the template can't write them. */
static int round_trip(const struct chat_template *t, const char *file, const json_t *talk)
{
    size_t len;
    const char *source = chat_source(t, &len);
    const struct tool_format *format = tool_format_of(source, len);
    json_t *messages = json_object_get(talk, "messages"), *before = json_copy(messages);
    json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    struct buf prompt, turn;
    struct err e = {0};
    json_array_remove(before, json_array_size(before) - 1);
    int rc = render(t, talk, before, true, &prompt, &e) | render(t, talk, messages, false, &turn, &e) ? -1 : 0;
    json_decref(before);
    if (!rc) cut_turn(&prompt, &turn);
    if (!rc && !strstr(turn.data, "add") && !strstr(turn.data, "get_weather")) rc = -1; /* it has no calls */
    if (!rc) rc = format && taken_back(format, file, &turn, talk, last);
    buf_close(&prompt);
    buf_close(&turn);
    return rc;
}

/* --- one template --- */

struct score {
    const char *format;
    int same, of, more, back, calls; /* more: served, though transformers refuses */
    char refused[512];               /* at load */
};

static void score_template(const char *folder, const json_t *oracle, const json_t *row, struct score *s)
{
    const char *file = json_string_value(json_object_get(row, "template")), *name;
    struct chat_template *t;
    struct err e = {0};
    json_t *made;
    size_t len;
    char *source = read_file(folder, file, &len);
    const struct tool_format *format = tool_format_of(source, len);
    *s = (struct score){.format = format ? tool_format_name(format) : ""};
    int rc = chat_template_new(&t, source, len, "<s>", "</s>", &e);
    if (rc) snprintf(s->refused, sizeof s->refused, "%s", e.msg);
    const json_t *talks = json_object_get(oracle, "talks");
    json_object_foreach(json_object_get(row, "renderings"), name, made)
    {
        bool more = false;
        s->same += !rc && same_rendering(t, file, name, json_object_get(talks, name), made, &more);
        s->more += more;
        s->of++;
    }
    for (size_t i = 0; !rc && i < sizeof calling / sizeof *calling; i++) {
        int back = round_trip(t, file, json_object_get(talks, calling[i]));
        s->calls += back >= 0;
        s->back += back > 0;
    }
    if (!rc) chat_template_free(t);
    free(source);
}

/* --- tests --- */

static json_t *golden;

static int set_up(void **state)
{
    (void)state;
    golden = load_oracle(ORACLE);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    json_decref(golden);
    return 0;
}

static const char *kept_format(const char *file)
{
    for (size_t i = 0; kept[i].template; i++)
        if (!strcmp(kept[i].template, file)) return kept[i].format;
    print_error("%s has no row in the table of formats\n", file);
    return "?";
}

static void published_templates_render_as_transformers_renders_them(void **state)
{
    (void)state;
    size_t i, bad = 0;
    json_t *row;
    json_array_foreach(json_object_get(golden, "templates"), i, row)
    {
        struct score s;
        score_template(FOLDER, golden, row, &s);
        if (s.refused[0]) print_error("%s: %s\n", json_string_value(json_object_get(row, "template")), s.refused);
        bad += s.same != s.of || s.more;
    }
    assert_true(i >= 15);
    assert_int_equal(bad, 0);
}

static void calls_that_a_template_writes_are_taken_out_again(void **state)
{
    (void)state;
    size_t i, served = 0;
    json_t *row;
    json_array_foreach(json_object_get(golden, "templates"), i, row)
    {
        const char *file = json_string_value(json_object_get(row, "template"));
        struct score s;
        score_template(FOLDER, golden, row, &s);
        if (strcmp(s.format, kept_format(file))) fail_msg("%s: taken for \"%s\"", file, s.format);
        if (s.format[0] && s.back != s.calls) fail_msg("%s: %d of %d", file, s.back, s.calls);
        served += s.format[0] && s.calls;
    }
    assert_true(served >= 8);
}

/* A piece of another place of the template, a random character, a number, or nothing in place of what stood there. */
static size_t damage(char *s, size_t len, size_t max, unsigned *x)
{
    static const char *const pieces[] = {"{%",          "%}",
                                         "{{",          "}}",
                                         "-",           "|",
                                         "(",           ")",
                                         "[",           "]",
                                         "'",           "999999999",
                                         "**9",         " not ",
                                         "*",           "loop(",
                                         " if ",        "~",
                                         ".",           ",",
                                         "{% endif %}", "{% for x in range(99999) %}",
                                         "|tojson",     "|join",
                                         "messages",    "|list*99",
                                         "\\",          "\xc3"};
    *x = *x * 1103515245u + 12345u;
    size_t at = (*x >> 8) % len, cut = (*x >> 4) % 12, n;
    *x = *x * 1103515245u + 12345u;
    if (*x & 0x80) { /* a letter alone: most such still load */
        s[at] = "abcx019 "[(*x >> 8) % 8];
        return len;
    }
    const char *piece = pieces[(*x >> 8) % (sizeof pieces / sizeof *pieces)];
    char other[40];
    if (*x & 0x40) { /* from elsewhere */
        size_t from = (*x >> 10) % len;
        n = len - from < sizeof other - 1 ? len - from : sizeof other - 1;
        memcpy(other, s + from, n);
    } else {
        n = strlen(piece);
        memcpy(other, piece, n);
    }
    if (cut > len - at) cut = len - at;
    if (len - cut + n > max) return len;
    memmove(s + at + n, s + at + cut, len - at - cut);
    memcpy(s + at, other, n);
    return len - cut + n;
}

/* WEFT_FUZZ_ROUNDS, for a longer run by hand. */
static void damaged_published_templates_never_crash_or_hang(void **state)
{
    (void)state;
    const char *wanted = getenv("WEFT_FUZZ_ROUNDS"), *name;
    int rounds = wanted ? (int)strtol(wanted, NULL, 10) : 40, served = 0, loaded = 0, total = 0;
    unsigned x = 1 + (unsigned)rounds;
    size_t i;
    json_t *row, *talk;
    json_array_foreach(json_object_get(golden, "templates"), i, row)
    {
        size_t len;
        char *source = read_file(FOLDER, json_string_value(json_object_get(row, "template")), &len);
        char *s = malloc(SOURCE_MAX);
        for (int k = 0; k < rounds; k++, total++) {
            struct chat_template *t;
            struct err e = {0};
            size_t n = len, which = x % json_object_size(json_object_get(golden, "talks")), at = 0;
            memcpy(s, source, len);
            for (int m = 0; m < 1 + k % 3; m++) n = damage(s, n, SOURCE_MAX, &x);
            char *exact = malloc(n); /* so that a byte behind it is seen */
            memcpy(exact, s, n);
            int rc = chat_template_new(&t, exact, n, "<s>", "</s>", &e);
            free(exact);
            if (rc && e.code != ERR_MODEL) fail_msg("%s", e.msg);
            if (rc) continue;
            loaded++;
            json_object_foreach(json_object_get(golden, "talks"), name, talk)
            {
                if (at++ != which) continue;
                struct buf out;
                clock_t start = clock();
                served += !render(t, talk, json_object_get(talk, "messages"), true, &out, &e);
                if (clock() - start > 20 * CLOCKS_PER_SEC) fail_msg("too long: %.*s", (int)n, s);
                buf_close(&out);
            }
            chat_template_free(t);
        }
        free(s);
        free(source);
    }
    print_message("%d damaged templates: %d load, %d render\n", total, loaded, served);
    assert_true(loaded > total / 20 && served > 0);
}

static int print_table(const char *folder, const char *path)
{
    int templates = 0, loaded = 0, whole = 0, same = 0, of = 0, more = 0;
    size_t i;
    json_t *row, *oracle = load_oracle(path);
    printf("%-54s %-14s %8s %5s %6s\n", "template", "calls", "same", "more", "back");
    json_array_foreach(json_object_get(oracle, "templates"), i, row)
    {
        struct score s;
        score_template(folder, oracle, row, &s);
        printf("%-54s %-14s %4d/%-3d %5d %4d/%d  %s\n", json_string_value(json_object_get(row, "template")),
               s.format[0] ? s.format : "-", s.same, s.of, s.more, s.back, s.calls, s.refused);
        more += s.more;
        templates++;
        loaded += !s.refused[0];
        whole += s.same == s.of;
        same += s.same;
        of += s.of;
    }
    printf("%d templates: %d load, %d render all as transformers does; %d of %d renderings, %d of them refused there\n",
           templates, loaded, whole, same, of, more);
    json_decref(oracle);
    return same == of ? 0 : 1;
}

int main(int argc, char **argv)
{
    setenv("TZ", "UTC", 1);
    if (argc == 3) return print_table(argv[1], argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_templates_render_as_transformers_renders_them),
        cmocka_unit_test(calls_that_a_template_writes_are_taken_out_again),
        cmocka_unit_test(damaged_published_templates_never_crash_or_hang),
    };
    return cmocka_run_group_tests_name("chat templates", tests, set_up, tear_down);
}
