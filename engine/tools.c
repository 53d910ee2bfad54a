/* tools: calls in an answer's text, by a table of formats.
 *
 *     TEXT --begin marker--> HELD --end marker: body is calls--> TEXT (blanks between calls are dropped)
 *       |                     |  \--not calls: the whole is text again--> TEXT
 *       |                     +--end of the answer: as if the end marker had come
 *       +-- the tail that may be the beginning of a marker waits for more
 *
 * A format without an end marker holds until the next begin marker or the end of the answer. A format without a begin
 * marker (Llama 3's) holds an answer that begins with a brace, whole. A forced choice holds everything: it is JSON by
 * construction; where max_tokens cut it short the last call's arguments are what there is of them, as OpenAI does it.
 *
 * What a body looks like is tools_body.c's. Sources: the model cards and chat templates of the families;
 * OpenAI's API reference for what a client sees. One parser per answer, on the step thread. */
#include "base/json.h"
#include "engine/tools.h"
#include "engine/tools_impl.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define FORCED_CALLS_MAX 16 /* that `required` may make in one answer */

/* The first row that fits is taken: the words that only one notation has stand before those that several share. */
static const struct tool_format formats[] = {
    {"qwen3_coder", {"<tool_call>", "<function="}, NULL, "<tool_call>", "</tool_call>", NULL, BODY_XML, 0},
    {"seed", {"<seed:tool_call>", "<function="}, NULL, "<seed:tool_call>", "</seed:tool_call>", NULL, BODY_XML, 0},
    {"glm", {"<tool_call>", "<arg_key>"}, NULL, "<tool_call>", "</tool_call>", NULL, BODY_KEYS, 0},
    {"tool_calls", {"<tool_calls>"}, NULL, "<tool_calls>", "</tool_calls>", NULL, BODY_JSON, 0},
    {"nemotron", {"<TOOLCALL>"}, NULL, "<TOOLCALL>", "</TOOLCALL>", NULL, BODY_JSON, 0},
    {"hermes", {"<tool_call>"}, "<invoke", "<tool_call>", "</tool_call>", NULL, BODY_JSON, 0},
    {"mistral", {"[TOOL_CALLS]"}, NULL, "[TOOL_CALLS]", NULL, NULL, BODY_MISTRAL, 9},
    {"phi4", {"<|tool_call|>"}, NULL, "<|tool_call|>", "<|/tool_call|>", NULL, BODY_JSON, 0},
    {"phi4", {"<|/tool|>"}, NULL, "<|tool_call|>", "<|/tool_call|>", NULL, BODY_JSON, 0},
    {"functools", {"functools["}, NULL, NULL, NULL, "functools", BODY_JSON, 0},
    {"deepseek",
     {"<｜tool▁calls▁begin｜>"},
     NULL,
     "<｜tool▁calls▁begin｜>",
     "<｜tool▁calls▁end｜>",
     NULL,
     BODY_DEEPSEEK,
     0},
    {"functions", {"<function=", "</function>"}, NULL, "<function=", "</function>", NULL, BODY_NAMED, 0},
    {"llama3_json", {"Environment: ipython"}, NULL, NULL, NULL, "<|python_tag|>", BODY_JSON, 0},
};

/* --- formats --- */

static bool holds(const char *source, size_t len, const char *word)
{
    return !word || memmem(source, len, word, strlen(word)) != NULL;
}

const struct tool_format *tool_format_of(const char *source, size_t len)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (holds(source, len, formats[i].look_for[0]) && holds(source, len, formats[i].look_for[1]) &&
            (!formats[i].without || !holds(source, len, formats[i].without)))
            return &formats[i];
    return NULL;
}

const char *tool_format_name(const struct tool_format *f)
{
    return f->name;
}

void tool_format_words(const struct tool_format *f, const char *words[3])
{
    words[0] = f->begin ? f->begin : "";
    words[1] = f->end ? f->end : "";
    words[2] = f->skip ? f->skip : "";
}

/* --- life --- */

const char *tool_name(const json_t *tool)
{
    const char *name = json_string_value(json_object_get(json_object_get(tool, "function"), "name"));
    return name ? name : "";
}

int tool_parser_new(struct tool_parser **out, const struct tool_format *f, enum tool_choice choice, const json_t *tools,
                    const char *named, bool parallel, struct err *e)
{
    struct tool_parser *p = calloc(1, sizeof *p);
    if (p) p->tools = tools ? json_copy_all(tools) : json_array();
    if (!p || !p->tools) {
        free(p);
        return err_set(e, ERR_NO_MEMORY, "no memory for tool calls");
    }
    p->f = f;
    p->choice = choice;
    p->parallel = parallel;
    buf_init(&p->held, TOOL_HELD_MAX * 2);
    if (named) snprintf(p->named, sizeof p->named, "%s", named);
    *out = p;
    return 0;
}

void tool_parser_free(struct tool_parser *p)
{
    if (!p) return;
    for (int i = 0; i < p->ncalls; i++) {
        free(p->call[i].name);
        free(p->call[i].arguments);
    }
    buf_close(&p->held);
    json_decref(p->tools);
    free(p);
}

const struct tool_call *tool_calls(const struct tool_parser *p, int *n)
{
    *n = p->ncalls;
    return p->call;
}

/* --- a held text --- */

static const char *skip_blanks(const char *s, const char *end)
{
    while (s < end && isspace((unsigned char)*s)) s++;
    return s;
}

/* The blanks in front of an answer that is held from its beginning are not the call's; they stay where it is none. */
static int take(struct tool_parser *p, const char *s, size_t len)
{
    const char *word = p->f ? p->f->skip : NULL, *from = p->in_call ? s : skip_blanks(s, s + len);
    len -= (size_t)(from - s);
    s = from;
    if (p->choice >= TOOL_CHOICE_REQUIRED) return tool_take_forced(p, s, len);
    if (word && len >= strlen(word) && !memcmp(s, word, strlen(word))) s += strlen(word), len -= strlen(word);
    return tool_take_body(p, p->f->body, s, len);
}

/* held[0..used) is done with. */
static void forget(struct tool_parser *p, size_t used)
{
    memmove(p->held.data, p->held.data + used, p->held.len - used);
    p->held.len -= used;
    p->held.data[p->held.len] = 0;
}

/* Text that is sure; blanks behind a call are dropped. */
static int show(struct tool_parser *p, size_t n, struct buf *content)
{
    size_t skip = 0;
    while (p->after_call && skip < n && isspace((unsigned char)p->held.data[skip])) skip++;
    if (n > skip) p->after_call = false;
    if (n > skip && buf_add(content, p->held.data + skip, n - skip)) return -1;
    forget(p, n);
    return 0;
}

/* The call's body held[0..n) and `tail` bytes of end marker behind it are over. */
static int end_call(struct tool_parser *p, size_t n, size_t tail, struct buf *content)
{
    int rc = take(p, p->held.data ? p->held.data : "", n);
    if (rc < 0) return -1;
    p->in_call = false;
    if (rc > 0) {
        p->after_call = true;
        forget(p, n + tail);
        return 0;
    }
    if (p->f && p->f->begin && p->choice == TOOL_CHOICE_AUTO && buf_adds(content, p->f->begin)) return -1;
    return show(p, n + tail, content);
}

/* Where `word` begins in the held text, or where its beginning might at the end; held.len: nowhere. */
static size_t find(const struct buf *b, const char *word, bool *whole)
{
    size_t n = strlen(word);
    const char *at = b->len ? memmem(b->data, b->len, word, n) : NULL;
    *whole = at != NULL;
    if (at) return (size_t)(at - b->data);
    for (size_t keep = b->len < n - 1 ? b->len : n - 1; keep > 0; keep--)
        if (!memcmp(b->data + b->len - keep, word, keep)) return b->len - keep;
    return b->len;
}

/* Markers one after the other, as far as the held text goes. */
static int scan(struct tool_parser *p, struct buf *content)
{
    for (;;) {
        bool whole;
        const char *word = p->in_call && p->f->end ? p->f->end : p->f->begin;
        size_t at = find(&p->held, word, &whole);
        if (p->in_call && !whole) return p->held.len > TOOL_HELD_MAX ? end_call(p, p->held.len, 0, content) : 0;
        if (p->in_call) {
            if (end_call(p, at, p->f->end ? strlen(word) : 0, content)) return -1;
            continue;
        }
        if (show(p, at, content)) return -1;
        if (!whole) return 0;
        forget(p, strlen(word));
        p->in_call = true;
    }
}

/* Does an answer of a format without a begin marker look like a call? Decided at its first visible character. */
static void decide(struct tool_parser *p)
{
    const char *s = skip_blanks(p->held.data, p->held.data + p->held.len), *word = p->f->skip;
    size_t n = p->held.len - (size_t)(s - p->held.data);
    if (n == 0) return;
    bool marked = word && !memcmp(s, word, n < strlen(word) ? n : strlen(word));
    p->held_all = *s == '{' || *s == '[' || marked;
    p->decided = !marked || n >= strlen(word);
}

int tool_push(struct tool_parser *p, const char *text, size_t len, struct buf *content)
{
    bool forced = p->choice >= TOOL_CHOICE_REQUIRED;
    if (!forced && !p->f) return len ? buf_add(content, text, len) : 0;
    if (len && buf_add(&p->held, text, len)) return -1;
    if (!p->held.len || forced) return 0;
    if (p->f->begin) return scan(p, content);
    if (!p->decided) decide(p);
    if (p->decided && (!p->held_all || p->held.len > TOOL_HELD_MAX)) {
        p->held_all = false;
        return show(p, p->held.len, content);
    }
    return 0;
}

int tool_end(struct tool_parser *p, struct buf *content)
{
    bool forced = p->choice >= TOOL_CHOICE_REQUIRED;
    if (!p->held.len && !p->in_call) return 0;
    if (forced || p->in_call || p->held_all) return end_call(p, p->held.len, 0, content);
    return show(p, p->held.len, content);
}

/* --- forced answers --- */

static json_t *parameters_of(const json_t *tool)
{
    const json_t *s = json_object_get(json_object_get(tool, "function"), "parameters");
    if (!json_is_object(s)) return json_pack("{s:s, s:b}", "type", "object", "additionalProperties", 0);
    json_t *copy = json_copy_all(s);
    if (copy && json_object_set_new(copy, "type", json_string("object"))) {
        json_decref(copy);
        return NULL;
    }
    return copy;
}

static bool is_one_of(const char *key, const char *const *words)
{
    while (*words && strcmp(*words, key) != 0) words++;
    return *words != NULL;
}

/* References inside a schema that moves from the root to `where`: "#/$defs/x" becomes "WHERE/$defs/x". What is data stays
 * as it is. `named`: the keys are names, each of a schema. */
static int move_references(json_t *schema, const char *where, bool named, int depth)
{
    static const char *const data[] = {"const", "enum", "default", "example", "examples", NULL};
    static const char *const names[] = {"properties",  "patternProperties", "$defs",
                                        "definitions", "dependentSchemas",  NULL};
    const char *key;
    size_t i;
    json_t *v;
    if (depth > JSON_DEPTH) return 0;
    json_array_foreach(schema, i, v) if (move_references(v, where, false, depth + 1)) return -1;
    json_object_foreach(schema, key, v)
    {
        const char *ref = named || strcmp(key, "$ref") ? NULL : json_string_value(v);
        if (!named && is_one_of(key, data)) continue;
        if (!ref && move_references(v, where, !named && is_one_of(key, names), depth + 1)) return -1;
        if (ref && ref[0] == '#' && json_object_set_new(schema, key, json_sprintf("%s%s", where, ref + 1))) return -1;
    }
    return 0;
}

/* One call of tool number i among the alternatives. */
static json_t *call_schema(const json_t *tool, size_t i)
{
    char where[64];
    json_t *parameters = parameters_of(tool);
    snprintf(where, sizeof where, "#/items/anyOf/%zu/properties/parameters", i);
    if (!parameters || move_references(parameters, where, false, 0)) {
        json_decref(parameters);
        return NULL;
    }
    return json_pack("{s:s, s:{s:{s:s}, s:o}, s:[s,s], s:b}", "type", "object", "properties", "name", "const",
                     tool_name(tool), "parameters", parameters, "required", "name", "parameters",
                     "additionalProperties", 0);
}

json_t *tool_schema(const json_t *tools, const char *named, bool parallel)
{
    json_t *any = json_array();
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *tool = json_array_get(tools, i);
        if (named && !strcmp(tool_name(tool), named)) {
            json_decref(any);
            return parameters_of(tool);
        }
        if (json_array_append_new(any, call_schema(tool, i))) {
            json_decref(any);
            return NULL;
        }
    }
    return json_pack("{s:s, s:i, s:i, s:{s:o}}", "type", "array", "minItems", 1, "maxItems",
                     parallel ? FORCED_CALLS_MAX : 1, "items", "anyOf", any);
}

int tool_normalize_message(json_t *message)
{
    size_t i;
    json_t *call;
    json_array_foreach(json_object_get(message, "tool_calls"), i, call)
    {
        json_t *f = json_object_get(call, "function"), *a = json_object_get(f, "arguments");
        if (!json_is_string(a)) continue;
        json_error_t je;
        json_t *v = json_load(json_string_value(a), json_string_length(a), 0, &je);
        if (!v && json_lacked_memory(&je)) return -1;
        if (!json_is_object(v)) {
            json_decref(v);
            continue;
        }
        if (json_object_set_new(f, "arguments", v)) return -1;
    }
    return 0;
}
