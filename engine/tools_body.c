/* tools_body: what stands between the markers of a call, each family's notation read into name and JSON arguments.
 *
 * All or nothing: a body is calls to its end, or it is text. Notations that write values without quotes (XML, keys) don't
 * tell the text 12 from the number: the tool's schema does where it says "string"; else what parses as JSON is JSON.
 *
 * On the step thread, through tools.c alone. */
#include "base/json.h"
#include "base/sha256.h"
#include "engine/tools_impl.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* --- one call --- */

/* The tool of that name; NULL: none of the request's. */
static const json_t *find_tool(const struct tool_parser *p, const char *name)
{
    const json_t *tool;
    size_t i;
    json_array_foreach(p->tools, i, tool) if (!strcmp(tool_name(tool), name)) return tool;
    return NULL;
}

static int make_id(const struct tool_parser *p, char out[TOOL_ID_LEN])
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    unsigned char bytes[24];
    if (random_bytes(bytes, sizeof bytes)) return -1;
    int n = p->f && p->f->id_len ? p->f->id_len : (int)sizeof bytes;
    char *at = out;
    if (n == (int)sizeof bytes) {
        memcpy(at, "call_", 5);
        at += 5;
    }
    for (int i = 0; i < n; i++) *at++ = letters[bytes[i] % (sizeof letters - 1)];
    *at = 0;
    return 0;
}

/* Takes `arguments` (malloc'ed). -1: out of memory. Calls that don't count any more are dropped. */
static int add_call(struct tool_parser *p, const char *name, char *arguments)
{
    struct tool_call *c = &p->call[p->ncalls];
    if (!arguments) return -1;
    if (p->ncalls == TOOL_CALLS_MAX || (p->ncalls && !p->parallel)) {
        free(arguments);
        return 0;
    }
    c->name = strdup(name);
    c->arguments = arguments;
    if (!c->name || make_id(p, c->id)) {
        free(c->name);
        free(c->arguments);
        return -1;
    }
    p->ncalls++;
    return 0;
}

/* {"name": .., "arguments" or "parameters": object or text} of a tool that there is; NULL: not so. */
static const json_t *arguments_of(const struct tool_parser *p, const json_t *v, const char **name)
{
    *name = json_string_value(json_object_get(v, "name"));
    if (!*name || !find_tool(p, *name)) return NULL;
    const json_t *a = json_object_get(v, "arguments");
    if (!a) a = json_object_get(v, "parameters");
    return json_is_object(a) || json_is_string(a) ? a : NULL;
}

/* 1: it was calls, all of it; 0: it is text; -1: out of memory. */
static int take_value(struct tool_parser *p, const json_t *v)
{
    const char *name;
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    for (size_t i = 0; i < n; i++)
        if (!arguments_of(p, json_is_array(v) ? json_array_get(v, i) : v, &name)) return 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *a = arguments_of(p, json_is_array(v) ? json_array_get(v, i) : v, &name);
        char *text = json_is_string(a) ? strdup(json_string_value(a)) : json_dumps(a, JSON_COMPACT);
        if (add_call(p, name, text)) return -1;
    }
    return n > 0;
}

static const char *skip_blanks(const char *s, const char *end)
{
    while (s < end && isspace((unsigned char)*s)) s++;
    return s;
}

/* All or nothing: those behind `before` weren't calls after all. */
static void drop_calls(struct tool_parser *p, int before)
{
    while (p->ncalls > before) {
        free(p->call[--p->ncalls].name);
        free(p->call[p->ncalls].arguments);
    }
}

/* NULL: no JSON, or no memory, which is remembered: what could not be read is no text for that. */
static json_t *load(struct tool_parser *p, const char *s, size_t n, size_t flags, size_t *used)
{
    json_error_t je;
    json_t *v = json_load(s, n, flags, &je);
    if (!v && json_lacked_memory(&je)) p->no_memory = true;
    if (v && used) *used = (size_t)je.position;
    return v;
}

/* One JSON value, or several with blanks or semicolons between them. */
static int take_json(struct tool_parser *p, const char *s, size_t len)
{
    const char *end = s + len;
    int before = p->ncalls, rc = 0;
    while ((s = skip_blanks(s, end)) < end) {
        size_t used = 0;
        json_t *v = load(p, s, (size_t)(end - s), JSON_DISABLE_EOF_CHECK, &used);
        rc = v ? take_value(p, v) : 0;
        json_decref(v);
        if (rc <= 0) break;
        s = skip_blanks(s + used, end);
        if (s < end && *s == ';') s++;
    }
    if (rc == 0) drop_calls(p, before);
    return rc;
}

static const char *skip_word(const char *s, const char *end, const char *word)
{
    size_t n = strlen(word);
    return (size_t)(end - s) >= n && !memcmp(s, word, n) ? s + n : s;
}

/* A name's letters at *s; *s goes behind them. */
static void take_name(const char **s, const char *end, char name[TOOL_NAME_MAX + 1])
{
    size_t n = 0;
    while (*s + n < end && n < TOOL_NAME_MAX && (isalnum((unsigned char)(*s)[n]) || memchr("_.-", (*s)[n], 3))) n++;
    memcpy(name, *s, n);
    name[n] = 0;
    *s += n;
}

/* One JSON object to the end, which the named tool is called with. */
static int take_object(struct tool_parser *p, const char *name, const char *s, const char *end)
{
    json_t *v = find_tool(p, name) ? load(p, s, (size_t)(end - s), 0, NULL) : NULL;
    int rc = json_is_object(v) ? (add_call(p, name, json_dumps(v, JSON_COMPACT)) ? -1 : 1) : 0;
    json_decref(v);
    return rc;
}

/* NAME{json}, NAME[ARGS]{json} or NAME[CALL_ID]ID[ARGS]{json}, as Mistral's later models write. */
static int take_mistral(struct tool_parser *p, const char *s, size_t len)
{
    const char *end = s + len;
    char name[TOOL_NAME_MAX + 1], id[TOOL_NAME_MAX + 1];
    s = skip_blanks(s, end);
    if (s < end && (*s == '[' || *s == '{')) return take_json(p, s, (size_t)(end - s));
    take_name(&s, end, name);
    s = skip_blanks(s, end);
    const char *call_id = skip_word(s, end, "[CALL_ID]");
    if (call_id != s) take_name(&call_id, end, id);
    return take_object(p, name, skip_word(call_id, end, "[ARGS]"), end);
}

/* --- notations with tags --- */

/* The text between *s and `stop`; *s goes behind it. false: there is no stop. */
static bool until(const char **s, const char *end, const char *stop, const char **from, size_t *n)
{
    const char *at = memmem(*s, (size_t)(end - *s), stop, strlen(stop));
    if (!at) return false;
    *from = *s;
    *n = (size_t)(at - *s);
    *s = at + strlen(stop);
    return true;
}

static bool eat(const char **s, const char *end, const char *word)
{
    const char *at = skip_blanks(*s, end), *behind = skip_word(at, end, word);
    if (behind == at) return false;
    *s = behind;
    return true;
}

static bool wants_text(const json_t *tool, const char *key, size_t nkey)
{
    const json_t *schema = json_object_get(json_object_get(tool, "function"), "parameters");
    const char *type =
        json_string_value(json_object_get(json_object_getn(json_object_get(schema, "properties"), key, nkey), "type"));
    return type && !strcmp(type, "string");
}

/* A value as JSON where it is some, else as the text it is. One newline on either side belongs to the notation. */
static json_t *tag_value(struct tool_parser *p, const char *v, size_t n, bool text)
{
    if (n && v[0] == '\n') v++, n--;
    if (n && v[n - 1] == '\n') n--;
    json_t *parsed = text ? NULL : load(p, v, n, JSON_DECODE_ANY, NULL);
    return parsed && !json_is_string(parsed) ? parsed : (json_decref(parsed), json_stringn(v, n));
}

/* How a notation with tags writes an argument: KEY between the first two, VALUE between the others. */
struct tags {
    const char *key, *key_end, *value, *value_end;
};

static const struct tags xml_tags = {"<parameter=", ">", "", "</parameter>"};
static const struct tags key_tags = {"<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"};

static bool take_arguments(struct tool_parser *p, const char **s, const char *end, const struct tags *t, const json_t *tool, json_t *into)
{
    const char *key, *value;
    size_t nkey, nvalue;
    while (eat(s, end, t->key)) {
        if (!until(s, end, t->key_end, &key, &nkey)) return false;
        if (t->value[0] && !eat(s, end, t->value)) return false;
        if (!until(s, end, t->value_end, &value, &nvalue)) return false;
        if (json_object_setn_new(into, key, nkey, tag_value(p, value, nvalue, wants_text(tool, key, nkey)))) return false;
    }
    return true;
}

/* The name is taken: its arguments, then `close`, then nothing. */
static int take_tagged(struct tool_parser *p, const char *name, const char *s, const char *end, const struct tags *t,
                       const char *close)
{
    const json_t *tool = find_tool(p, name);
    json_t *args = json_object();
    int rc = args && tool && take_arguments(p, &s, end, t, tool, args) && (!close || eat(&s, end, close)) &&
             skip_blanks(s, end) == end;
    if (rc && add_call(p, name, json_dumps(args, JSON_COMPACT))) rc = -1;
    json_decref(args);
    return rc;
}

static int take_xml(struct tool_parser *p, const char *s, size_t len)
{
    const char *end = s + len;
    char name[TOOL_NAME_MAX + 1];
    if (!eat(&s, end, "<function=")) return 0;
    take_name(&s, end, name);
    return eat(&s, end, ">") ? take_tagged(p, name, s, end, &xml_tags, "</function>") : 0;
}

static int take_keys(struct tool_parser *p, const char *s, size_t len)
{
    const char *end = s + len;
    char name[TOOL_NAME_MAX + 1];
    s = skip_blanks(s, end);
    take_name(&s, end, name);
    return take_tagged(p, name, s, end, &key_tags, NULL);
}

static int take_named(struct tool_parser *p, const char *s, size_t len)
{
    const char *end = s + len;
    char name[TOOL_NAME_MAX + 1];
    take_name(&s, end, name);
    return eat(&s, end, ">") ? take_object(p, name, s, end) : 0;
}

/* One call of DeepSeek's between its own words. R1 writes function<sep>NAME and fences the JSON. */
static int take_deepseek_call(struct tool_parser *p, const char *s, const char *end)
{
    static const char sep[] = "<｜tool▁sep｜>", fence[] = "```json\n", fence_end[] = "\n```";
    char name[TOOL_NAME_MAX + 1];
    const char *typed = skip_word(skip_word(s, end, "function"), end, sep), *json;
    size_t n;
    if (typed != s && typed != skip_word(s, end, "function")) s = typed;
    take_name(&s, end, name);
    if (eat(&s, end, sep)) return take_object(p, name, s, end);
    return eat(&s, end, fence) && until(&s, end, fence_end, &json, &n) ? take_object(p, name, json, json + n) : 0;
}

static int take_deepseek(struct tool_parser *p, const char *s, size_t len)
{
    const char *end = s + len, *one;
    int rc = 0, before = p->ncalls;
    size_t n;
    while (eat(&s, end, "<｜tool▁call▁begin｜>")) {
        rc = until(&s, end, "<｜tool▁call▁end｜>", &one, &n) ? take_deepseek_call(p, one, one + n) : 0;
        if (rc <= 0) break;
    }
    if (rc > 0 && skip_blanks(s, end) != end) rc = 0;
    if (rc == 0) drop_calls(p, before);
    return rc;
}

/* --- any body --- */

/* Behind blanks and that character; NULL: it isn't there. */
static const char *skip_char(const char *s, const char *end, char c)
{
    s = skip_blanks(s, end);
    return s < end && *s == c ? s + 1 : NULL;
}

/* {"name": "NAME", "parameters": what there is of them; a call whose name is not whole is none. */
static int take_begun(struct tool_parser *p, const char *s, const char *end)
{
    char name[TOOL_NAME_MAX + 1];
    size_t n = 0;
    s = skip_char(s, end, '{');
    if (s) s = skip_word(skip_blanks(s, end), end, "\"name\"");
    if (s) s = skip_char(s, end, ':');
    if (s) s = skip_char(s, end, '"');
    while (s && s + n < end && s[n] != '"' && n < TOOL_NAME_MAX) n++;
    if (!s || s + n >= end || s[n] != '"') return 0;
    memcpy(name, s, n);
    name[n] = 0;
    s = skip_char(s + n + 1, end, ',');
    if (s) s = skip_word(skip_blanks(s, end), end, "\"parameters\"");
    if (s) s = skip_char(s, end, ':');
    if (s) s = skip_blanks(s, end);
    return add_call(p, name, s ? strndup(s, (size_t)(end - s)) : strdup(""));
}

/* A list of calls of which the last was cut short. */
static int take_cut(struct tool_parser *p, const char *s, const char *end)
{
    for (s = skip_char(s, end, '['); s && (s = skip_blanks(s, end)) < end; s = skip_char(s, end, ',')) {
        size_t used = 0;
        json_t *v = load(p, s, (size_t)(end - s), JSON_DISABLE_EOF_CHECK, &used);
        int rc = v ? take_value(p, v) : 0;
        json_decref(v);
        if (!v) return take_begun(p, s, end);
        if (rc <= 0) return rc;
        s += used;
    }
    return 0;
}

int tool_take_forced(struct tool_parser *p, const char *s, size_t len)
{
    json_t *v = load(p, s, len, 0, NULL);
    int rc = 0;
    if (p->choice == TOOL_CHOICE_NAMED)
        rc = add_call(p, p->named, json_is_object(v) ? json_dumps(v, JSON_COMPACT) : strndup(s, len));
    else if (json_is_array(v))
        rc = take_value(p, v);
    else
        rc = take_cut(p, s, s + len);
    json_decref(v);
    return rc < 0 || p->no_memory ? -1 : 1;
}

static int take_body(struct tool_parser *p, enum body body, const char *s, size_t len)
{
    switch (body) {
    case BODY_JSON:
        return take_json(p, s, len);
    case BODY_MISTRAL:
        return take_mistral(p, s, len);
    case BODY_XML:
        return take_xml(p, s, len);
    case BODY_KEYS:
        return take_keys(p, s, len);
    case BODY_NAMED:
        return take_named(p, s, len);
    case BODY_DEEPSEEK:
        return take_deepseek(p, s, len);
    }
    return 0;
}

int tool_take_body(struct tool_parser *p, enum body body, const char *s, size_t len)
{
    int rc = take_body(p, body, s, len);
    return p->no_memory ? -1 : rc;
}
