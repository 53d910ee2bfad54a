/* Calls in a model's answer: text and calls don't depend on how the answer was cut; calls name tools of the request and have arguments that are JSON; an
 * answer of which nothing is a call stays as it is. And a request's tools: the schema of a forced answer has each of them, with references that point to where its
 * parameters went; messages are brought into the templates' form once and for all. Input: bytes for format, choice and cuts, then the answer; of a request the JSON. */
#include "engine/tools_impl.h"
#include "tests/fuzz/fuzz.h"

static const char tools_json[] = "{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"parameters\":{\"type\":\"object\",\"properties\":{"
                                 "\"city\":{\"type\":\"string\"},\"days\":{\"type\":\"integer\"}}}}},{\"type\":\"function\",\"function\":{\"name\":\"add\"}}]}";

static const char *const templates[] = {
    "<tool_call></tool_call> <tool_call>\\n{\"name\":", "<tool_call>\n<function=example_function_name>\n<parameter=example>", "{{ '[TOOL_CALLS] [' }}",
    "{{ '<|tool|>' + message['tools'] + '<|/tool|>' }}", "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>",
    "<seed:tool_call>\n<function=example_function_name>", "<tool_calls>[{...}]</tool_calls>, not <tool_call>", "<TOOLCALL>", "functools[{",
    "<\xef\xbd\x9ctool\xe2\x96\x81""calls\xe2\x96\x81""begin\xef\xbd\x9c>", "<function=example_function_name>{...}</function> Environment: ipython",
    "Environment: ipython", "no format that is known",
};
#define NTEMPLATES (sizeof templates / sizeof *templates)

static void run(struct tool_parser *p, const uint8_t *s, size_t n, size_t step, struct buf *content)
{
    buf_init(content, 2 * n + 1024);
    while (n) {
        size_t k = step && step < n ? step : n;
        char *piece = fuzz_text(s, k);
        FUZZ_NEED(tool_push(p, piece, k, content) == 0);
        free(piece);
        s += k;
        n -= k;
    }
    FUZZ_NEED(tool_end(p, content) == 0);
}

static void check_calls(const struct tool_parser *a, const struct tool_parser *b)
{
    int na, nb;
    const struct tool_call *ca = tool_calls(a, &na), *cb = tool_calls(b, &nb);
    FUZZ_NEED(na == nb && na <= TOOL_CALLS_MAX && (a->parallel || na <= 1));
    for (int i = 0; i < na; i++) {
        FUZZ_NEED(a->choice >= TOOL_CHOICE_REQUIRED || !strcmp(ca[i].name, "get_weather") || !strcmp(ca[i].name, "add")); /* a forced one was held to the schema */
        FUZZ_NEED(!strcmp(ca[i].name, cb[i].name) && !strcmp(ca[i].arguments, cb[i].arguments) && ca[i].id[0]);
        json_t *v = json_loads(ca[i].arguments, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        bool quoted = !a->f || a->f->body == BODY_JSON || a->f->body == BODY_MISTRAL; /* "arguments" given as text stay that text */
        quoted = quoted || strstr(ca[i].arguments, "\\u0000"); /* which jansson does not read in keys */
        FUZZ_NEED(v || quoted || a->choice >= TOOL_CHOICE_REQUIRED);         /* a forced answer may have been cut short */
        json_decref(v);
    }
}

/* --- a request's tools --- */

static bool among(const char *key, const char *const *words)
{
    while (*words && strcmp(*words, key) != 0) words++;
    return *words != NULL;
}

/* References of a schema that was moved to `where`; what is data is the client's, and so are names in front of schemas. */
static void check_references(const json_t *schema, const char *where, bool named)
{
    static const char *const data[] = {"const", "enum", "default", "example", "examples", NULL};
    static const char *const names[] = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", NULL};
    const char *key;
    json_t *v;
    size_t i;
    json_array_foreach((json_t *)schema, i, v) check_references(v, where, false);
    json_object_foreach((json_t *)schema, key, v)
    {
        const char *ref = !named && !strcmp(key, "$ref") ? json_string_value(v) : NULL;
        if (!named && among(key, data)) continue;
        if (ref)
            FUZZ_NEED(ref[0] != '#' || !strncmp(ref, where, strlen(where)));
        else
            check_references(v, where, !named && among(key, names));
    }
}

static void check_one(const json_t *one, const json_t *tool, size_t i)
{
    char where[64];
    const json_t *properties = json_object_get(one, "properties"), *parameters = json_object_get(properties, "parameters");
    const char *name = json_string_value(json_object_get(json_object_get(properties, "name"), "const"));
    snprintf(where, sizeof where, "#/items/anyOf/%zu/properties/parameters", i);
    FUZZ_NEED(name && !strcmp(name, tool_name(tool)) && !strcmp(json_string_value(json_object_get(parameters, "type")), "object"));
    check_references(parameters, where, false);
}

static void check_schema(const json_t *tools, const char *named, bool parallel)
{
    json_t *before = json_deep_copy(tools), *schema = tool_schema(tools, named, parallel), *one;
    const json_t *any = json_object_get(json_object_get(schema, "items"), "anyOf");
    size_t i;
    bool there = false;
    json_array_foreach((json_t *)tools, i, one) there |= named && !strcmp(tool_name(one), named);
    FUZZ_NEED(schema && (!tools || json_equal(before, tools)));
    if (there)
        FUZZ_NEED(!strcmp(json_string_value(json_object_get(schema, "type")), "object"));
    else
        FUZZ_NEED(json_array_size(any) == json_array_size(tools) && json_integer_value(json_object_get(schema, "maxItems")) >= 1);
    json_array_foreach((json_t *)any, i, one) if (!there) check_one(one, json_array_get(tools, i), i);
    json_decref(schema);
    json_decref(before);
}

/* Arguments in quotes become the object that they are; a second time there is nothing to do. */
static void check_messages(json_t *messages)
{
    size_t i, k;
    json_t *message, *call;
    json_array_foreach(messages, i, message)
    {
        FUZZ_NEED(tool_normalize_message(message) == 0);
        json_t *once = json_deep_copy(message);
        FUZZ_NEED(tool_normalize_message(message) == 0 && json_equal(once, message));
        json_decref(once);
        json_array_foreach(json_object_get(message, "tool_calls"), k, call)
        {
            const json_t *a = json_object_get(json_object_get(call, "function"), "arguments");
            json_t *v = json_is_string(a) ? json_loadb(json_string_value(a), json_string_length(a), 0, NULL) : NULL;
            FUZZ_NEED(!json_is_object(v));
            json_decref(v);
        }
    }
}

static void read_request(const uint8_t *data, size_t n, bool parallel)
{
    char *text = fuzz_text(data, n);
    json_t *o = NULL;
    if (json_parse(text, n, &o, NULL) == 0) {
        const json_t *tools = json_object_get(o, "tools");
        check_schema(json_is_array(tools) ? tools : NULL, json_string_value(json_object_get(o, "named")), parallel);
        check_messages(json_object_get(o, "messages"));
    }
    json_decref(o);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static json_t *tools;
    struct tool_parser *a = NULL, *b = NULL;
    struct buf ta, tb;
    int ncalls;
    if (!tools) FUZZ_NEED(json_parse(tools_json, sizeof tools_json - 1, &tools, NULL) == 0);
    unsigned what = fuzz_byte(&data, &n) % (NTEMPLATES + 1), how = fuzz_byte(&data, &n);
    size_t step = 1 + fuzz_byte(&data, &n) % 29;
    if (what == NTEMPLATES) {
        read_request(data, n, how / 8 % 4 != 0);
        return 0;
    }
    const char *source = templates[what], *words[3];
    const struct tool_format *f = tool_format_of(source, strlen(source));
    FUZZ_NEED(!f == (what == NTEMPLATES - 1));
    if (f) tool_format_words(f, words);
    if (f) FUZZ_NEED(tool_format_name(f)[0] && words[0] && words[1] && words[2]);
    enum tool_choice choice = how % 8 < 5 ? TOOL_CHOICE_AUTO : how % 8 == 5 ? TOOL_CHOICE_REQUIRED : TOOL_CHOICE_NAMED;
    bool parallel = how / 8 % 4 != 0;
    const char *named = choice == TOOL_CHOICE_NAMED ? "add" : NULL;
    FUZZ_NEED(tool_parser_new(&a, f, choice, json_object_get(tools, "tools"), named, parallel, NULL) == 0);
    FUZZ_NEED(tool_parser_new(&b, f, choice, json_object_get(tools, "tools"), named, parallel, NULL) == 0);
    run(a, data, n, 0, &ta);
    run(b, data, n, step, &tb);
    FUZZ_NEED(ta.len == tb.len && !memcmp(ta.data, tb.data, ta.len));
    check_calls(a, b);
    tool_calls(a, &ncalls);
    if (ncalls == 0 && choice <= TOOL_CHOICE_AUTO) FUZZ_NEED(ta.len == n && (!n || !memcmp(ta.data, data, n)));
    tool_parser_free(a);
    tool_parser_free(b);
    buf_close(&ta);
    buf_close(&tb);
    return 0;
}
