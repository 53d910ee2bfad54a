/* Chat: a template compiled once, and a conversation rendered with it into the prompt.
 *
 * The variables are those that Hugging Face gives a template: messages, tools, documents, add_generation_prompt, bos_token, eos_token,
 * and whatever the request's chat_template_kwargs add (they can't replace the others). The work is jinja_*.c's; here are the
 * arenas, which is where a rendering's limits on memory come from, and the errors.
 *
 * A template belongs to the model's file, the messages to a stranger. So the first is trusted to mean well and still bounded; the second
 * never is code: a message's text is a value and is only ever copied.
 *
 * Immutable after chat_template_new(): any thread may render. */
#include "engine/chat.h"
#include "engine/jinja.h"
#include <stdlib.h>
#include <string.h>

struct chat_template {
    struct jinja j;
    const char *bos, *eos, *source; /* in j.arena */
    size_t source_len;
};

static int compile(struct chat_template *t, const char *source, size_t len, const char *bos, const char *eos, struct err *e)
{
    struct token *tokens;
    size_t n;
    t->j.arena = arena_new(JINJA_COMPILE_BYTES);
    if (!t->j.arena) return err_set(e, ERR_NO_MEMORY, "chat template: out of memory");
    t->bos = arena_strdup(t->j.arena, bos);
    t->eos = arena_strdup(t->j.arena, eos);
    t->source = arena_strdup(t->j.arena, source);
    t->source_len = t->source ? strlen(t->source) : 0;
    if (!t->bos || !t->eos || !t->source) return err_set(e, ERR_NO_MEMORY, "chat template: out of memory");
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

/* A new object that borrows the values by reference counts. */
static json_t *make_vars(const struct chat_template *t, const json_t *messages, const json_t *tools, bool add_generation_prompt,
                         const json_t *extra)
{
    json_t *vars = extra ? json_copy((json_t *)extra) : json_object();
    bool bad = !vars;
    bad = bad || json_object_set(vars, "messages", (json_t *)messages);
    bad = bad || json_object_set_new(vars, "tools", tools ? json_incref((json_t *)tools) : json_null());
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
        if (r) err_field(e, ERR_INVALID, "messages", "the messages make a prompt of %zu bytes, which is too long", text.n);
    }
    arena_free(arena);
    return r;
}

int chat_render(const struct chat_template *t, const json_t *messages, const json_t *tools, bool add_generation_prompt,
                const json_t *extra, struct buf *out, struct err *e)
{
    if (!json_is_array(messages)) return err_field(e, ERR_INVALID, "messages", "messages must be an array");
    if (extra && !json_is_object(extra)) return err_field(e, ERR_INVALID, "chat_template_kwargs", "chat_template_kwargs must be an object");
    json_t *vars = make_vars(t, messages, tools, add_generation_prompt, extra);
    if (!vars) return err_set(e, ERR_NO_MEMORY, "chat template: out of memory");
    int r = render(t, vars, out, e);
    json_decref(vars);
    return r;
}
