/* Chat: a template compiled once, and a conversation rendered with it into the prompt.
 *
 * The variables are those that Hugging Face gives a template: messages, tools, documents, add_generation_prompt, bos_token, eos_token,
 * and whatever the request's chat_template_kwargs add (they can't replace the others). As there, a message's reasoning is
 * found by any of its names. The work is jinja_*.c's; here are the arenas, which is where a rendering's limits on memory
 * come from, and the errors.
 *
 * A template belongs to the model's file, the messages to a stranger. So the first is trusted to mean well and still bounded; the second
 * never is code: a message's text is a value and is only ever copied.
 *
 * Immutable after chat_template_new(): any thread may render. */
#include "engine/chat.h"
#include "base/json.h"
#include "engine/jinja.h"
#include <stdlib.h>
#include <string.h>

struct chat_template {
    struct jinja j;
    const char *bos, *eos, *source; /* in j.arena */
    size_t source_len;
    bool tools_in_system; /* it reads message['tools'], as Phi-4-mini's does */
    bool xml_tools;       /* it reads the tools under this name, as SmolLM3's does */
};

static int compile(struct chat_template *t, const char *source, size_t len, const char *bos, const char *eos,
                   struct err *e)
{
    struct token *tokens;
    size_t n;
    t->j.arena = arena_new(JINJA_COMPILE_BYTES);
    if (!t->j.arena) return err_set(e, ERR_NO_MEMORY, "chat template: out of memory");
    t->bos = arena_strdup(t->j.arena, bos);
    t->eos = arena_strdup(t->j.arena, eos);
    t->source = arena_strndup(t->j.arena, source, len);
    t->source_len = len;
    if (!t->bos || !t->eos || !t->source) return err_set(e, ERR_NO_MEMORY, "chat template: out of memory");
    t->tools_in_system = memmem(source, len, "message['tools']", 16) != NULL;
    t->xml_tools = memmem(source, len, "xml_tools", 9) != NULL;
    return jinja_lex(&t->j, source, len, &tokens, &n, e) || jinja_parse(&t->j, tokens, e) ? -1 : 0;
}

int chat_template_new(struct chat_template **out, const char *source, size_t len, const char *bos, const char *eos,
                      struct err *e)
{
    struct chat_template *t = calloc(1, sizeof *t);
    if (!t) return err_set(e, ERR_NO_MEMORY, "chat template: out of memory");
    if (compile(t, source, len, bos, eos, e)) {
        chat_template_free(t);
        return -1;
    }
    *out = t;
    return 0;
}

const char *chat_source(const struct chat_template *t, size_t *len)
{
    *len = t->source_len;
    return t->source;
}

void chat_template_free(struct chat_template *t)
{
    if (!t) return;
    arena_free(t->j.arena);
    free(t);
}

/* --- messages --- */

/* The reasoning of a message under every name that templates read: a copy of the message, or itself where there is none. */
static json_t *name_reasoning(json_t *message)
{
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    json_t *reasoning = NULL, *named;
    for (size_t i = 0; i < sizeof names / sizeof *names && (!reasoning || json_is_null(reasoning)); i++)
        reasoning = json_object_get(message, names[i]);
    if (!reasoning || json_is_null(reasoning)) return json_incref(message);
    bool bad = !(named = json_object()) || json_object_set(named, "thinking", reasoning);
    bad = bad || json_object_update(named, message) || json_object_set(named, "reasoning_content", reasoning);
    if (!bad) return named;
    json_decref(named);
    return NULL;
}

/* The tools, as text, in the system message. */
static int put_tools_into_system(json_t *messages, const json_t *tools)
{
    json_t *first = json_array_get(messages, 0);
    const char *role = json_string_value(json_object_get(first, "role"));
    bool has = role && !strcmp(role, "system");
    json_t *system = has ? json_copy_top(first) : json_pack("{s:s, s:s}", "role", "system", "content", "");
    char *text = json_dumps(tools, 0);
    int rc = !system || !text || json_object_set_new(system, "tools", json_string(text)) ? -1 : 0;
    free(text);
    if (!rc) rc = has ? json_array_set(messages, 0, system) : json_array_insert(messages, 0, system);
    json_decref(system);
    return rc;
}

/* A new array; NULL: out of memory. */
static json_t *prepare(const struct chat_template *t, const json_t *messages, const json_t *tools)
{
    json_t *out = json_array(), *message;
    size_t i;
    bool bad = !out;
    json_array_foreach((json_t *)messages, i, message) bad = bad || json_array_append_new(out, name_reasoning(message));
    if (!bad && tools && t->tools_in_system) bad = put_tools_into_system(out, tools) != 0;
    if (!bad) return out;
    json_decref(out);
    return NULL;
}

/* A new object that borrows the values by reference counts. */
static json_t *make_vars(const struct chat_template *t, const json_t *messages, const json_t *tools,
                         bool add_generation_prompt, const json_t *extra)
{
    json_t *vars = extra ? json_copy_top(extra) : json_object();
    bool bad = !vars;
    bad = bad || json_object_set_new(vars, "messages", prepare(t, messages, tools));
    bad = bad || json_object_set_new(vars, "tools", tools ? json_incref((json_t *)tools) : json_null());
    if (tools && t->xml_tools && !json_object_get(vars, "xml_tools"))
        bad = bad || json_object_set(vars, "xml_tools", (json_t *)tools);
    bad = bad || (!json_object_get(vars, "documents") && json_object_set_new(vars, "documents", json_null()));
    bad = bad || json_object_set_new(vars, "add_generation_prompt", json_boolean(add_generation_prompt));
    bad = bad || json_object_set_new(vars, "bos_token", json_string(t->bos));
    bad = bad || json_object_set_new(vars, "eos_token", json_string(t->eos));
    if (!bad) return vars;
    json_decref(vars);
    return NULL;
}

static int render(const struct chat_template *t, const json_t *vars, struct buf *out, struct err *e)
{
    struct text text = {0};
    struct arena *arena = arena_new(JINJA_RENDER_BYTES);
    int r = -1;
    if (!arena) return err_set(e, ERR_NO_MEMORY, "chat template: out of memory");
    if (!jinja_render(&t->j, vars, arena, &text, e)) {
        r = buf_add(out, text.p ? text.p : "", text.n);
        if (r && out->full)
            err_field(e, ERR_INVALID, "messages", "the messages make a prompt of %zu bytes, which is too long", text.n);
        else if (r)
            err_set(e, ERR_NO_MEMORY, "chat template: out of memory");
    }
    arena_free(arena);
    return r;
}

int chat_render(const struct chat_template *t, const json_t *messages, const json_t *tools, bool add_generation_prompt,
                const json_t *extra, struct buf *out, struct err *e)
{
    if (!json_is_array(messages)) return err_field(e, ERR_INVALID, "messages", "messages must be an array");
    if (extra && !json_is_object(extra))
        return err_field(e, ERR_INVALID, "chat_template_kwargs", "chat_template_kwargs must be an object");
    json_t *vars = make_vars(t, messages, tools, add_generation_prompt, extra);
    if (!vars) return err_set(e, ERR_NO_MEMORY, "chat template: out of memory");
    int r = render(t, vars, out, e);
    json_decref(vars);
    return r;
}
