/* tools: calls in an answer's text, by a table of formats.
 *
 *     TEXT --begin marker--> HELD --end marker: body is calls--> TEXT (blanks between calls are dropped)
 *       |                     |  \--not calls: the whole is text again--> TEXT
 *       |                     +--end of the answer: as if the end marker had come
 *       +-- the tail that may be the beginning of a marker waits for more
 *
 * A format without an end marker holds until the next begin marker or the end of the answer. A format without a begin
 * marker (Llama 3's) holds an answer that begins with a brace, whole. A forced choice holds everything: it is JSON by
 * construction, and is cut short only by max_tokens; then it is text.
 *
 * Sources: the model cards and chat templates of the families (Hermes/Qwen, Mistral, Llama 3, Phi-4-mini and Granite,
 * Qwen3-Coder); OpenAI's API reference for what a client sees. One parser per answer, on the step thread. */
#include "engine/tools.h"
#include "base/sha256.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define FORCED_CALLS_MAX 16 /* that `required` may make in one answer */

enum body { BODY_JSON, BODY_MISTRAL, BODY_XML };

struct tool_format {
    const char *name;
    const char *look_for[2]; /* words that the template holds, all of them */
    const char *begin, *end; /* NULL: see above */
    const char *skip;        /* a word in front of the call that is no part of it */
    enum body body;
    int id_len; /* letters and digits of an id; 0: OpenAI's manner */
};

/* The first row whose words are all found is taken. */
static const struct tool_format formats[] = {
    {"qwen3_coder", {"<tool_call>", "<function="}, "<tool_call>", "</tool_call>", NULL, BODY_XML, 0},
    {"hermes", {"<tool_call>"}, "<tool_call>", "</tool_call>", NULL, BODY_JSON, 0},
    {"mistral", {"[TOOL_CALLS]"}, "[TOOL_CALLS]", NULL, NULL, BODY_MISTRAL, 9},
    {"phi4", {"<|tool_call|>"}, "<|tool_call|>", "<|/tool_call|>", NULL, BODY_JSON, 0},
    {"llama3_json", {"Environment: ipython"}, NULL, NULL, "<|python_tag|>", BODY_JSON, 0},
};

struct tool_parser {
    const struct tool_format *f;
    enum tool_choice choice;
    bool parallel;
    bool held_all;   /* without a begin marker: this answer is held */
    bool decided;    /* whether it is */
    bool in_call;    /* behind a begin marker */
    bool after_call; /* blanks are dropped */
    char named[TOOL_NAME_MAX + 1];
    char (*tool)[TOOL_NAME_MAX + 1]; /* names of the request's tools */
    int ntools;
    struct buf held; /* may be a marker, or is a call's body */
    int ncalls;
    struct tool_call call[TOOL_CALLS_MAX];
};

/* --- formats --- */

static bool holds(const char *source, size_t len, const char *word)
{
    return !word || memmem(source, len, word, strlen(word)) != NULL;
}

const struct tool_format *tool_format_of(const char *source, size_t len)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (holds(source, len, formats[i].look_for[0]) && holds(source, len, formats[i].look_for[1]))
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

static const char *tool_name(const json_t *tool)
{
    const char *name = json_string_value(json_object_get(json_object_get(tool, "function"), "name"));
    return name ? name : "";
}

int tool_parser_new(struct tool_parser **out, const struct tool_format *f, enum tool_choice choice, const json_t *tools,
                    const char *named, bool parallel, struct err *e)
{
    struct tool_parser *p = calloc(1, sizeof *p);
    size_t n = json_array_size(tools);
    if (p) p->tool = calloc(n ? n : 1, sizeof *p->tool);
    if (!p || !p->tool) {
        free(p);
        return err_set(e, ERR_NO_MEMORY, "no memory for tool calls");
    }
    p->f = f;
    p->choice = choice;
    p->parallel = parallel;
    p->ntools = (int)n;
    buf_init(&p->held, TOOL_HELD_MAX * 2);
    for (size_t i = 0; i < n; i++) snprintf(p->tool[i], sizeof p->tool[i], "%s", tool_name(json_array_get(tools, i)));
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
    free(p->tool);
    free(p);
}

const struct tool_call *tool_calls(const struct tool_parser *p, int *n)
{
    *n = p->ncalls;
    return p->call;
}

/* --- one call --- */

static bool is_tool(const struct tool_parser *p, const char *name)
{
    for (int i = 0; i < p->ntools; i++)
        if (!strcmp(p->tool[i], name)) return true;
    return false;
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
    if (!*name || !is_tool(p, *name)) return NULL;
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

/* One JSON value, or several with blanks or semicolons between them. */
static int take_json(struct tool_parser *p, const char *s, size_t len)
{
    const char *end = s + len;
    int before = p->ncalls, rc = 0;
    while ((s = skip_blanks(s, end)) < end) {
        json_error_t where;
        json_t *v = json_loadb(s, (size_t)(end - s), JSON_DISABLE_EOF_CHECK, &where);
        rc = v ? take_value(p, v) : 0;
        json_decref(v);
        if (rc <= 0) break;
        s = skip_blanks(s + where.position, end);
        if (s < end && *s == ';') s++;
    }
    while (rc == 0 && p->ncalls > before) { /* all or nothing */
        free(p->call[--p->ncalls].name);
        free(p->call[p->ncalls].arguments);
    }
    return rc;
}

/* NAME{json}, or NAME[ARGS]{json}, as Mistral's later models write. */
static int take_mistral(struct tool_parser *p, const char *s, size_t len)
{
    const char *end = s + len;
    char name[TOOL_NAME_MAX + 1];
    size_t n = 0;
    s = skip_blanks(s, end);
    if (s < end && (*s == '[' || *s == '{')) return take_json(p, s, (size_t)(end - s));
    while (s + n < end && n < TOOL_NAME_MAX && (isalnum((unsigned char)s[n]) || strchr("_.-", s[n]))) n++;
    memcpy(name, s, n);
    name[n] = 0;
    s = skip_blanks(s + n, end);
    if (end - s > 6 && !memcmp(s, "[ARGS]", 6)) s += 6;
    json_t *v = is_tool(p, name) ? json_loadb(s, (size_t)(end - s), 0, NULL) : NULL;
    int rc = json_is_object(v) ? (add_call(p, name, json_dumps(v, JSON_COMPACT)) ? -1 : 1) : 0;
    json_decref(v);
    return rc;
}

/* --- Qwen3-Coder: <function=NAME> <parameter=KEY> VALUE </parameter> ... </function> --- */

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
    const char *at = skip_blanks(*s, end);
    if ((size_t)(end - at) < strlen(word) || memcmp(at, word, strlen(word)) != 0) return false;
    *s = at + strlen(word);
    return true;
}

/* A value as JSON where it is some, else as the text it is. One newline on either side belongs to the notation. */
static json_t *xml_value(const char *v, size_t n)
{
    if (n && v[0] == '\n') v++, n--;
    if (n && v[n - 1] == '\n') n--;
    json_t *parsed = json_loadb(v, n, JSON_DECODE_ANY, NULL);
    return parsed && !json_is_string(parsed) ? parsed : (json_decref(parsed), json_stringn(v, n));
}

static bool xml_parameters(const char **s, const char *end, json_t *into)
{
    const char *key, *value;
    size_t nkey, nvalue;
    while (eat(s, end, "<parameter=")) {
        if (!until(s, end, ">", &key, &nkey) || !until(s, end, "</parameter>", &value, &nvalue)) return false;
        json_object_setn_new(into, key, nkey, xml_value(value, nvalue));
    }
    return true;
}

static int take_xml(struct tool_parser *p, const char *s, size_t len)
{
    const char *end = s + len, *from;
    char name[TOOL_NAME_MAX + 1];
    size_t n;
    if (!eat(&s, end, "<function=") || !until(&s, end, ">", &from, &n) || n > TOOL_NAME_MAX) return 0;
    memcpy(name, from, n);
    name[n] = 0;
    json_t *args = json_object();
    int rc =
        is_tool(p, name) && xml_parameters(&s, end, args) && eat(&s, end, "</function>") && skip_blanks(s, end) == end;
    if (rc && add_call(p, name, json_dumps(args, JSON_COMPACT))) rc = -1;
    json_decref(args);
    return rc;
}

/* --- a held text --- */

static int take_forced(struct tool_parser *p, const char *s, size_t len)
{
    json_t *v = json_loadb(s, len, 0, NULL);
    int rc = 0;
    if (p->choice == TOOL_CHOICE_NAMED && json_is_object(v))
        rc = add_call(p, p->named, json_dumps(v, JSON_COMPACT)) ? -1 : 1;
    else if (p->choice == TOOL_CHOICE_REQUIRED && json_is_array(v))
        rc = take_value(p, v);
    json_decref(v);
    return rc;
}

static int take(struct tool_parser *p, const char *s, size_t len)
{
    const char *word = p->f ? p->f->skip : NULL;
    if (p->choice >= TOOL_CHOICE_REQUIRED) return take_forced(p, s, len);
    if (word && len >= strlen(word) && !memcmp(s, word, strlen(word))) s += strlen(word), len -= strlen(word);
    switch (p->f->body) {
    case BODY_JSON:
        return take_json(p, s, len);
    case BODY_MISTRAL:
        return take_mistral(p, s, len);
    case BODY_XML:
        return take_xml(p, s, len);
    }
    return 0;
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
    p->decided = *s != '<' || !marked || n >= strlen(word);
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
    if (forced || p->in_call || p->held_all) {
        const char *s = p->held.data;
        size_t lead = p->in_call || !s ? 0 : (size_t)(skip_blanks(s, s + p->held.len) - s);
        if (lead) forget(p, lead);
        return end_call(p, p->held.len, 0, content);
    }
    return show(p, p->held.len, content);
}

/* --- forced answers --- */

static json_t *parameters_of(const json_t *tool)
{
    json_t *s = json_object_get(json_object_get(tool, "function"), "parameters");
    return json_is_object(s) ? json_incref(s) : json_pack("{s:s}", "type", "object");
}

/* References inside a schema that moves from the root to `where`: "#/$defs/x" becomes "WHERE/$defs/x". */
static int move_references(json_t *schema, const char *where, int depth)
{
    const char *key;
    size_t i;
    json_t *v;
    if (depth > JSON_DEPTH) return 0;
    json_array_foreach(schema, i, v) if (move_references(v, where, depth + 1)) return -1;
    json_object_foreach(schema, key, v)
    {
        const char *ref = strcmp(key, "$ref") ? NULL : json_string_value(v);
        if (!ref && move_references(v, where, depth + 1)) return -1;
        if (ref && ref[0] == '#' && json_object_set_new(schema, key, json_sprintf("%s%s", where, ref + 1))) return -1;
    }
    return 0;
}

/* One call of tool number i among the alternatives. */
static json_t *call_schema(const json_t *tool, size_t i)
{
    char where[64];
    json_t *old = parameters_of(tool), *parameters = json_deep_copy(old);
    json_decref(old);
    snprintf(where, sizeof where, "#/items/anyOf/%zu/properties/parameters", i);
    if (!parameters || move_references(parameters, where, 0)) {
        json_decref(parameters);
        return NULL;
    }
    return json_pack("{s:s, s:{s:{s:s}, s:o}, s:[s,s], s:b}", "type", "object", "properties", "name", "const",
                     tool_name(tool), "parameters", parameters, "required", "name", "parameters",
                     "additionalProperties", 0);
}

json_t *tool_schema(const json_t *tools, const char *named)
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
    return json_pack("{s:s, s:i, s:i, s:{s:o}}", "type", "array", "minItems", 1, "maxItems", FORCED_CALLS_MAX, "items",
                     "anyOf", any);
}

int tool_normalize_message(json_t *message)
{
    size_t i;
    json_t *call;
    json_array_foreach(json_object_get(message, "tool_calls"), i, call)
    {
        json_t *f = json_object_get(call, "function"), *a = json_object_get(f, "arguments");
        if (!json_is_string(a)) continue;
        json_t *v = json_loadb(json_string_value(a), json_string_length(a), 0, NULL);
        if (!json_is_object(v)) {
            json_decref(v);
            continue;
        }
        if (json_object_set_new(f, "arguments", v)) return -1;
    }
    return 0;
}
