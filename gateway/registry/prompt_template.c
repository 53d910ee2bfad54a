/* prompt_template: structured prompts, checked when they are set and filled when a request comes.
 *
 * A content is cut at its {{name}} once, from left to right, and a value is put between the pieces without being looked at again: so what a client
 * sends in a slot can't name another slot, and as it becomes part of a message's content, a JSON string, it can't begin a message. What is
 * left is text that the engine's template would read as a special token; the gateway knows none, so the texts go along for the engine to
 * check (schema/ENGINE_API.md, `text`).
 *
 *   type      value                              becomes
 *   string    up to max_length characters        itself
 *   integer   from min to max                    its digits
 *   enum      one of values                      itself
 *   boolean   true or false                      true, false
 *   json      up to max_length, printed          compact JSON, keys sorted
 *
 * A slot with a default may be left out. All that a template says is in its messages; each slot stands somewhere in them. */
#include "gateway/registry/prompt_template.h"
#include "base/buf.h"
#include <stdio.h>
#include <string.h>

#define NAME_MAX 32
#define VALUES_MAX 64
#define VALUE_MAX 256 /* bytes of one of an enum's */
#define INTEGER_MAX 9007199254740991LL

static const char *const roles[] = {"system", "developer", "user", "assistant", NULL};
enum slot_type { SLOT_STRING, SLOT_INTEGER, SLOT_ENUM, SLOT_BOOLEAN, SLOT_JSON, SLOT_TYPES };
static const char *const types[] = {"string", "integer", "enum", "boolean", "json", NULL};

static int word_of(const char *const *words, const char *s)
{
    for (int i = 0; s && words[i]; i++)
        if (strcmp(words[i], s) == 0) return i;
    return -1;
}

static int no_memory(struct err *e)
{
    return err_set(e, ERR_NO_MEMORY, "no memory for a template");
}

static bool is_name(const char *s, size_t n)
{
    bool good = n >= 1 && n <= NAME_MAX && s[0] >= 'a' && s[0] <= 'z';
    for (size_t i = 0; i < n && good; i++) good = (s[i] >= 'a' && s[i] <= 'z') || (s[i] >= '0' && s[i] <= '9') || s[i] == '_';
    return good;
}

/* --- values --- */

static int wrong(struct err *e, const char *param, const char *what)
{
    return err_field(e, ERR_INVALID, param, "'%s' must be %s.", param, what);
}

static int put_text(const json_t *slot, const char *param, const char *s, size_t n, struct buf *out, struct err *e)
{
    size_t most = (size_t)json_integer_value(json_object_get(slot, "max_length")), has = buf_characters(s, n);
    if (has > most) return err_field(e, ERR_INVALID, param, "'%s' has %zu characters; at most %zu are taken.", param, has, most);
    return buf_add(out, s, n) ? err_field(e, ERR_TOO_LARGE, param, "the prompt gets too long with '%s'.", param) : 0;
}

static int put_json(const json_t *slot, const char *param, const json_t *v, struct buf *out, struct err *e)
{
    struct buf text;
    buf_init(&text, TEMPLATE_RENDERED_MAX);
    int rc = json_dump(v, true, &text) ? err_field(e, ERR_TOO_LARGE, param, "'%s' is too long.", param)
                                       : put_text(slot, param, text.data, text.len, out, e);
    buf_close(&text);
    return rc;
}

static int put_integer(const json_t *slot, const char *param, const json_t *v, struct buf *out, struct err *e)
{
    json_int_t least = json_integer_value(json_object_get(slot, "min")), most = json_integer_value(json_object_get(slot, "max"));
    char what[96];
    snprintf(what, sizeof what, "an integer from %lld to %lld", (long long)least, (long long)most);
    if (!json_is_integer(v) || json_integer_value(v) < least || json_integer_value(v) > most) return wrong(e, param, what);
    return buf_addf(out, "%lld", (long long)json_integer_value(v)) ? no_memory(e) : 0;
}

static int put_choice(const json_t *slot, const char *param, const json_t *v, struct buf *out, struct err *e)
{
    json_t *values = json_object_get(slot, "values"), *one;
    char all[200];
    size_t i, n = 0;
    json_array_foreach(values, i, one)
    {
        if (json_equal(one, v)) return buf_add(out, json_string_value(v), json_string_length(v)) ? no_memory(e) : 0;
        int more = n < sizeof all ? snprintf(all + n, sizeof all - n, "%s%s", i ? ", " : "", json_string_value(one)) : 0;
        n += more > 0 ? (size_t)more : 0;
    }
    return err_field(e, ERR_INVALID, param, "'%s' must be one of: %s%s.", param, all, n >= sizeof all ? "..." : "");
}

/* The value's text behind what is in out. param: "slots.NAME". */
static int put_value(const json_t *slot, const char *param, const json_t *v, struct buf *out, struct err *e)
{
    switch ((enum slot_type)word_of(types, json_string_value(json_object_get(slot, "type")))) {
    case SLOT_STRING:
        if (!json_is_string(v)) return wrong(e, param, "a string");
        return put_text(slot, param, json_string_value(v), json_string_length(v), out, e);
    case SLOT_INTEGER:
        return put_integer(slot, param, v, out, e);
    case SLOT_ENUM:
        return put_choice(slot, param, v, out, e);
    case SLOT_BOOLEAN:
        if (!json_is_boolean(v)) return wrong(e, param, "true or false");
        return buf_adds(out, json_is_true(v) ? "true" : "false") ? no_memory(e) : 0;
    case SLOT_JSON:
        return put_json(slot, param, v, out, e);
    case SLOT_TYPES:
        break;
    }
    return err_set(e, ERR_INTERNAL, "a template's slot has no type");
}

/* --- what may be set --- */

static int read_values(const json_t *v, const char *where, json_t *out, struct err *e)
{
    json_t *list = json_object_get(v, "values"), *one;
    size_t i;
    if (!json_is_array(list) || json_array_size(list) < 1 || json_array_size(list) > VALUES_MAX)
        return err_field(e, ERR_INVALID, where, "'values' must be a list of 1 to %d words.", VALUES_MAX);
    json_array_foreach(list, i, one)
    {
        if (!json_is_string(one) || json_string_length(one) < 1 || json_string_length(one) > VALUE_MAX)
            return err_field(e, ERR_INVALID, where, "One of 'values' is not a string of 1 to %d bytes.", VALUE_MAX);
    }
    return json_object_set(out, "values", list) ? no_memory(e) : 0;
}

/* The fields that a type has beside `type` and `default`. */
static int read_bounds(enum slot_type type, const json_t *v, const char *where, json_t *out, struct err *e)
{
    static const char *const of[SLOT_TYPES][5] = {[SLOT_STRING] = {"type", "default", "max_length"},
                                                  [SLOT_INTEGER] = {"type", "default", "min", "max"},
                                                  [SLOT_ENUM] = {"type", "default", "values"},
                                                  [SLOT_BOOLEAN] = {"type", "default"},
                                                  [SLOT_JSON] = {"type", "default", "max_length"}};
    int64_t length = 4096, least = -INTEGER_MAX, most = INTEGER_MAX;
    struct err why = {0};
    if (json_check_fields(v, of[type], where, e)) return -1;
    if (json_get_int(v, "max_length", 1, TEMPLATE_TEXT_MAX, &length, NULL, &why) ||
        json_get_int(v, "min", -INTEGER_MAX, INTEGER_MAX, &least, NULL, &why) ||
        json_get_int(v, "max", -INTEGER_MAX, INTEGER_MAX, &most, NULL, &why))
        return err_field(e, why.code, where, "%s", why.msg);
    if (least > most) return err_field(e, ERR_INVALID, where, "'min' is more than 'max'.");
    if (type == SLOT_ENUM) return read_values(v, where, out, e);
    if (type == SLOT_BOOLEAN) return 0;
    int rc = type == SLOT_INTEGER ? json_object_set_new(out, "min", json_integer(least)) || json_object_set_new(out, "max", json_integer(most))
                                  : json_object_set_new(out, "max_length", json_integer(length));
    return rc ? no_memory(e) : 0;
}

static int read_default(const json_t *v, const char *where, json_t *out, struct err *e)
{
    json_t *is = json_object_get(v, "default");
    struct err why = {0};
    struct buf text;
    if (!is) return 0;
    buf_init(&text, TEMPLATE_RENDERED_MAX);
    int rc = put_value(out, "default", is, &text, &why);
    buf_close(&text);
    if (rc) return err_field(e, why.code, where, "%s", why.msg);
    return json_object_set(out, "default", is) ? no_memory(e) : 0;
}

static int read_slot(const char *name, const json_t *v, json_t *slots, struct err *e)
{
    char where[NAME_MAX + 16];
    snprintf(where, sizeof where, "slots.%.*s", NAME_MAX, name);
    if (!is_name(name, strlen(name)))
        return err_field(e, ERR_INVALID, "slots", "'%.40s' is no name of a slot: 1 to %d of a-z 0-9 _, the first a letter.", name, NAME_MAX);
    if (!json_is_object(v)) return err_field(e, ERR_INVALID, where, "A slot is an object {type, ...}.");
    int type = word_of(types, json_string_value(json_object_get(v, "type")));
    if (type < 0) return err_field(e, ERR_INVALID, where, "'type' must be string, integer, enum, boolean or json.");
    json_t *slot = json_pack("{ss}", "type", types[type]);
    if (!slot) return no_memory(e);
    int rc = read_bounds((enum slot_type)type, v, where, slot, e) || read_default(v, where, slot, e) ? -1 : 0;
    if (rc == 0 && json_object_set(slots, name, slot)) rc = no_memory(e);
    json_decref(slot);
    return rc;
}

static int read_slots(const json_t *v, json_t *slots, struct err *e)
{
    const char *name;
    json_t *slot;
    if (!v || json_is_null(v)) return 0;
    if (!json_is_object(v) || json_object_size(v) > TEMPLATE_SLOTS)
        return err_field(e, ERR_INVALID, "slots", "'slots' must be an object of at most %d slots.", TEMPLATE_SLOTS);
    json_object_foreach((json_t *)v, name, slot)
    {
        if (read_slot(name, slot, slots, e)) return -1;
    }
    return 0;
}

/* --- contents --- */

/* The next {{name}} of s: *at where it begins, *n its bytes, name. 0: there is none; -1: it has no end. */
static int next_place(const char *s, size_t *at, size_t *n, char name[NAME_MAX + 1])
{
    const char *from = strstr(s, "{{"), *to = from ? strstr(from, "}}") : NULL;
    if (!from) return 0;
    if (!to || !is_name(from + 2, (size_t)(to - from) - 2)) return -1;
    snprintf(name, NAME_MAX + 1, "%.*s", (int)(to - from) - 2, from + 2);
    *at = (size_t)(from - s);
    *n = (size_t)(to - from) + 2;
    return 1;
}

static int check_content(const char *s, const json_t *slots, json_t *used, const char *where, struct err *e)
{
    char name[NAME_MAX + 1];
    size_t at, n;
    int rc;
    while ((rc = next_place(s, &at, &n, name)) == 1) {
        if (!json_object_get(slots, name)) return err_field(e, ERR_INVALID, where, "There is no slot '%s'.", name);
        if (json_object_set_new(used, name, json_true())) return no_memory(e);
        s += at + n;
    }
    return rc ? err_field(e, ERR_INVALID, where, "After '{{' comes a slot's name and '}}'.") : 0;
}

static int read_message(size_t i, const json_t *v, const json_t *slots, json_t *used, json_t *list, struct err *e)
{
    static const char *const names[] = {"role", "content", NULL};
    char where[32];
    snprintf(where, sizeof where, "messages.%zu", i);
    const char *role = json_string_value(json_object_get(v, "role"));
    const json_t *content = json_object_get(v, "content");
    if (!json_is_object(v) || word_of(roles, role) < 0 || !json_is_string(content))
        return err_field(e, ERR_INVALID, where, "A message is {role: system, developer, user or assistant; content: a string}.");
    if (json_check_fields(v, names, where, e) || check_content(json_string_value(content), slots, used, where, e)) return -1;
    return json_array_append_new(list, json_pack("{ss sO}", "role", role, "content", content)) ? no_memory(e) : 0;
}

static int read_messages(const json_t *v, const json_t *slots, json_t *list, struct err *e)
{
    const char *name;
    json_t *used = json_object(), *slot;
    int rc = used ? 0 : no_memory(e);
    if (rc == 0 && (!json_is_array(v) || json_array_size(v) < 1 || json_array_size(v) > TEMPLATE_MESSAGES))
        rc = err_field(e, ERR_INVALID, "messages", "'messages' must be a list of 1 to %d messages.", TEMPLATE_MESSAGES);
    for (size_t i = 0; rc == 0 && i < json_array_size(v); i++) rc = read_message(i, json_array_get(v, i), slots, used, list, e);
    json_object_foreach((json_t *)slots, name, slot)
    {
        if (rc == 0 && !json_object_get(used, name)) rc = err_field(e, ERR_INVALID, "slots", "The slot '%.40s' stands in no message.", name);
    }
    json_decref(used);
    return rc;
}

int prompt_template_read(const json_t *v, json_t **out, struct err *e)
{
    static const char *const names[] = {"messages", "slots", NULL};
    if (!json_is_object(v)) return err_field(e, ERR_INVALID, "", "It is an object {messages, slots}.");
    json_t *o = json_pack("{s[] s{}}", "messages", "slots"), *slots = json_object_get(o, "slots");
    int rc = o ? json_check_fields(v, names, "", e) : no_memory(e);
    if (rc == 0) rc = read_slots(json_object_get(v, "slots"), slots, e);
    if (rc == 0) rc = read_messages(json_object_get(v, "messages"), slots, json_object_get(o, "messages"), e);
    if (rc)
        json_decref(o);
    else
        *out = o;
    return rc;
}

/* --- filling --- */

/* The texts of all slots, by name; of those that may hold any text in free_ones, too. */
static int say_values(const json_t *slots, const json_t *given, json_t *said, json_t *free_ones, struct err *e)
{
    const char *name;
    json_t *slot;
    json_object_foreach((json_t *)slots, name, slot)
    {
        char param[NAME_MAX + 16];
        struct buf text;
        const json_t *v = json_object_get(given, name), *type = json_object_get(slot, "type");
        snprintf(param, sizeof param, "slots.%s", name);
        if (!v) v = json_object_get(slot, "default");
        if (!v) return err_field(e, ERR_MISSING, param, "'%s' is missing.", param);
        buf_init(&text, TEMPLATE_RENDERED_MAX);
        int rc = put_value(slot, param, v, &text, e);
        json_t *s = rc ? NULL : json_stringn(text.data, text.len);
        if (!rc && json_object_set(said, name, s)) rc = no_memory(e);
        int of = word_of(types, json_string_value(type));
        if (!rc && (of == SLOT_STRING || of == SLOT_JSON) && json_object_set(free_ones, name, s)) rc = no_memory(e);
        json_decref(s);
        buf_close(&text);
        if (rc) return -1;
    }
    return 0;
}

static int check_given(const json_t *slots, const json_t *given, struct err *e)
{
    const char *name;
    json_t *v;
    if (given && !json_is_object(given)) return err_field(e, ERR_INVALID, "slots", "'slots' must be an object.");
    json_object_foreach((json_t *)given, name, v)
    {
        char param[NAME_MAX + 16];
        snprintf(param, sizeof param, "slots.%.*s", NAME_MAX, name);
        if (!json_object_get(slots, name)) return err_field(e, ERR_INVALID, param, "This model has no slot '%.60s'.", name);
    }
    return 0;
}

static int fill_content(const char *s, const json_t *said, struct buf *out)
{
    char name[NAME_MAX + 1];
    size_t at, n;
    while (next_place(s, &at, &n, name) == 1) {
        const json_t *v = json_object_get(said, name);
        buf_add(out, s, at);
        buf_add(out, json_string_value(v), json_string_length(v));
        s += at + n;
    }
    return buf_adds(out, s);
}

static int fill_messages(const json_t *messages, const json_t *said, json_t *list, struct err *e)
{
    size_t i, all = 0;
    json_t *m;
    json_array_foreach((json_t *)messages, i, m)
    {
        struct buf text;
        buf_init(&text, TEMPLATE_RENDERED_MAX);
        int rc = fill_content(json_string_value(json_object_get(m, "content")), said, &text);
        all += text.len;
        json_t *o = rc ? NULL : json_pack("{sO so}", "role", json_object_get(m, "role"), "content", json_stringn(text.data, text.len));
        buf_close(&text);
        if (rc || all > TEMPLATE_RENDERED_MAX)
            rc = err_field(e, ERR_TOO_LARGE, "slots", "the prompt has more than %u bytes with these 'slots'.", TEMPLATE_RENDERED_MAX);
        if (!rc && json_array_append(list, o)) rc = no_memory(e);
        json_decref(o);
        if (rc) return -1;
    }
    return 0;
}

int prompt_template_fill(const json_t *t, json_t *root, json_t **texts, struct err *e)
{
    const json_t *slots = json_object_get(t, "slots"), *given = json_object_get(root, "slots"), *own = json_object_get(root, "messages");
    if (own && json_array_size(own) + json_object_size(own) > 0)
        return err_field(e, ERR_INVALID, "messages", "This model makes its messages itself; send 'slots' in their place.");
    if (json_is_null(given)) given = NULL;
    if (check_given(slots, given, e)) return -1;
    json_t *said = json_object(), *free_ones = json_object(), *list = json_array();
    int rc = said && free_ones && list ? 0 : no_memory(e);
    if (rc == 0) rc = say_values(slots, given, said, free_ones, e);
    if (rc == 0) rc = fill_messages(json_object_get(t, "messages"), said, list, e);
    if (rc == 0 && json_object_set(root, "messages", list)) rc = no_memory(e);
    if (rc == 0) json_object_del(root, "slots");
    if (rc == 0) *texts = json_incref(free_ones);
    json_decref(said);
    json_decref(free_ones);
    json_decref(list);
    return rc;
}
