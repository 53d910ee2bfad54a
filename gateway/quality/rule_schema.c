/* rule_schema: whether an answer is one JSON value that a schema allows (JSON Schema 2020-12, the keywords below).
 *
 * The whole answer must be the value, with white space around it at most; a fence of three backticks around it fails, as it fails for who parses the answer.
 * A keyword that would change what is valid and is not in the list is refused when the rule is set: nothing is judged by half a schema. What only describes
 * (title, format, ...) is passed over. `$ref` leads to a schema within the schema itself ("#", "#/$defs/..."), never into an enum or a default, which nobody has
 * checked; a schema that refers to itself is followed as deep as the value goes. Validation has a budget of STEPS, because anyOf of references can ask for more
 * than anybody has: a schema looked at is one, and so is each member, word or value that a keyword holds against the answer's. */
#include "base/buf.h"
#include "gateway/quality/rule.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH 64
#define STEPS 200000
#define SCHEMA_MAX 32768 /* bytes, printed */
#define REF_MAX 512
#define PATTERN_STEPS 10         /* of the budget: what compiling a pattern costs */
#define PATTERN_BYTES 64         /* and so many bytes of a text one more */
#define PATTERN_TRY 2000         /* steps of a search that are within that */
#define PATTERN_LONG (STEPS / 16) /* of the budget: a search that takes more */

struct check {
    const json_t *root;
    int depth, steps;
    bool gave_up;
    char why[RULE_NOTE_LEN];
};

static bool valid(struct check *c, const json_t *schema, const json_t *v);

static bool no(struct check *c, const char *keyword, const char *more)
{
    snprintf(c->why, sizeof c->why, "%s%s%.100s", keyword, *more ? ": " : "", more);
    return false;
}

/* False: there are no more steps; nothing counts that is said from then on. */
static bool spend(struct check *c, size_t steps)
{
    c->gave_up |= steps > (size_t)(STEPS - c->steps);
    if (!c->gave_up) c->steps += (int)steps;
    return !c->gave_up;
}

/* --- types and values --- */

static const char *const type_name[] = {"integer", "number", "string", "boolean", "object", "array", "null", NULL};

static bool is_type(const char *name, const json_t *v)
{
    if (strcmp(name, "integer") == 0) return json_is_integer(v) || (json_is_real(v) && json_real_value(v) == floor(json_real_value(v)));
    if (strcmp(name, "number") == 0) return json_is_number(v);
    if (strcmp(name, "string") == 0) return json_is_string(v);
    if (strcmp(name, "boolean") == 0) return json_is_boolean(v);
    if (strcmp(name, "object") == 0) return json_is_object(v);
    if (strcmp(name, "array") == 0) return json_is_array(v);
    return strcmp(name, "null") == 0 && json_is_null(v);
}

static bool equal(const json_t *a, const json_t *b);

static bool equal_members(const json_t *a, const json_t *b)
{
    const char *name;
    json_t *one;
    json_object_foreach((json_t *)a, name, one) if (!equal(one, json_object_get(b, name))) return false;
    return json_object_size(a) == json_object_size(b);
}

/* Numbers by what they are worth, at any depth: 1 is 1.0. The answer's depth is bounded by its parser, a schema's likewise. */
static bool equal(const json_t *a, const json_t *b)
{
    if (json_is_integer(a) && json_is_integer(b)) return json_integer_value(a) == json_integer_value(b);
    if (json_is_number(a) && json_is_number(b)) return json_number_value(a) == json_number_value(b);
    if (json_is_object(a) && json_is_object(b)) return equal_members(a, b);
    if (!json_is_array(a) || !json_is_array(b)) return json_equal(a, b);
    size_t n = json_array_size(a);
    for (size_t i = 0; i < n && n == json_array_size(b); i++)
        if (!equal(json_array_get(a, i), json_array_get(b, i))) return false;
    return n == json_array_size(b);
}

static bool on_type(struct check *c, const json_t *k, const json_t *schema, const json_t *v)
{
    size_t i;
    json_t *one;
    (void)schema;
    if (json_is_string(k)) return is_type(json_string_value(k), v) || no(c, "type", json_string_value(k));
    json_array_foreach((json_t *)k, i, one) if (is_type(json_string_value(one), v)) return true;
    return no(c, "type", "none of the list");
}

static bool on_enum(struct check *c, const json_t *k, const json_t *schema, const json_t *v)
{
    size_t i;
    json_t *one;
    (void)schema;
    if (!spend(c, json_array_size(k))) return false;
    json_array_foreach((json_t *)k, i, one) if (equal(one, v)) return true;
    return no(c, "enum", "");
}

static bool on_const(struct check *c, const json_t *k, const json_t *schema, const json_t *v)
{
    (void)schema;
    return equal(k, v) || no(c, "const", "");
}

/* --- numbers and lengths --- */

#define LIMIT(name, word, applies, value, holds)                                                                                                     \
    static bool name(struct check *c, const json_t *k, const json_t *schema, const json_t *v)                                                        \
    {                                                                                                                                                \
        (void)schema;                                                                                                                                \
        if (!(applies)) return true;                                                                                                                 \
        double is = (double)(value), bound = json_number_value(k);                                                                                   \
        return (holds) || no(c, word, "");                                                                                                           \
    }

LIMIT(on_minimum, "minimum", json_is_number(v), json_number_value(v), is >= bound)
LIMIT(on_maximum, "maximum", json_is_number(v), json_number_value(v), is <= bound)
LIMIT(on_above, "exclusiveMinimum", json_is_number(v), json_number_value(v), is > bound)
LIMIT(on_below, "exclusiveMaximum", json_is_number(v), json_number_value(v), is < bound)
LIMIT(on_multiple, "multipleOf", json_is_number(v), json_number_value(v), fabs(remainder(is, bound)) <= 1e-9 * fabs(bound))
LIMIT(on_min_length, "minLength", json_is_string(v), buf_characters(json_string_value(v), json_string_length(v)), is >= bound)
LIMIT(on_max_length, "maxLength", json_is_string(v), buf_characters(json_string_value(v), json_string_length(v)), is <= bound)
LIMIT(on_min_items, "minItems", json_is_array(v), json_array_size(v), is >= bound)
LIMIT(on_max_items, "maxItems", json_is_array(v), json_array_size(v), is <= bound)
LIMIT(on_min_members, "minProperties", json_is_object(v), json_object_size(v), is >= bound)
LIMIT(on_max_members, "maxProperties", json_is_object(v), json_object_size(v), is <= bound)

/* An answer may have thousands of strings, each of which takes a bad pattern to its limit: a few of these are all that is searched for. */
static bool on_pattern(struct check *c, const json_t *k, const json_t *schema, const json_t *v)
{
    char why[RULE_NOTE_LEN];
    const char *pattern = json_string_value(k), *s = json_string_value(v);
    size_t n = json_string_length(v);
    (void)schema;
    if (!s) return true;
    if (!spend(c, PATTERN_STEPS + n / PATTERN_BYTES)) return false;
    int rc = rule_match(pattern, false, s, n, PATTERN_TRY, why);
    if (rc < 0 && spend(c, PATTERN_LONG)) rc = rule_match(pattern, false, s, n, RULE_MATCH_STEPS, why);
    c->gave_up |= rc < 0;
    return rc > 0 || no(c, "pattern", pattern);
}

/* --- objects and arrays --- */

static bool on_properties(struct check *c, const json_t *k, const json_t *schema, const json_t *v)
{
    const char *name;
    json_t *one;
    (void)schema;
    if (!spend(c, json_object_size(k))) return false;
    json_object_foreach((json_t *)k, name, one)
    {
        const json_t *is = json_is_object(v) ? json_object_get(v, name) : NULL;
        if (is && !valid(c, one, is)) return false;
    }
    return true;
}

static bool on_required(struct check *c, const json_t *k, const json_t *schema, const json_t *v)
{
    size_t i;
    json_t *one;
    (void)schema;
    if (!spend(c, json_array_size(k))) return false;
    json_array_foreach((json_t *)k, i, one) if (json_is_object(v) && !json_object_get(v, json_string_value(one))) return no(c, "required", json_string_value(one));
    return true;
}

static bool on_additional(struct check *c, const json_t *k, const json_t *schema, const json_t *v)
{
    const json_t *named = json_object_get(schema, "properties");
    const char *name;
    json_t *one;
    if (!json_is_object(v)) return true;
    json_object_foreach((json_t *)v, name, one)
    {
        if (json_object_get(named, name)) continue;
        if (json_is_false(k)) return no(c, "additionalProperties", ""); /* its name is the answer's word */
        if (!valid(c, k, one)) return false;
    }
    return true;
}

static bool on_prefix_items(struct check *c, const json_t *k, const json_t *schema, const json_t *v)
{
    size_t i;
    json_t *one;
    (void)schema;
    json_array_foreach((json_t *)k, i, one)
    {
        const json_t *is = json_array_get(v, i);
        if (is && !valid(c, one, is)) return false;
    }
    return true;
}

static bool on_items(struct check *c, const json_t *k, const json_t *schema, const json_t *v)
{
    for (size_t i = json_array_size(json_object_get(schema, "prefixItems")); i < json_array_size(v); i++)
        if (!valid(c, k, json_array_get(v, i))) return false;
    return true;
}

static bool on_unique(struct check *c, const json_t *k, const json_t *schema, const json_t *v)
{
    size_t n = json_array_size(v);
    (void)schema;
    for (size_t i = 0; json_is_true(k) && i < n; i++)
        for (size_t j = 0; j < i; j++) {
            if (!spend(c, 1)) return false;
            if (equal(json_array_get(v, i), json_array_get(v, j))) return no(c, "uniqueItems", "");
        }
    return true;
}

/* --- several schemas --- */

static int count_valid(struct check *c, const json_t *list, const json_t *v)
{
    size_t i;
    json_t *one;
    int n = 0;
    json_array_foreach((json_t *)list, i, one) n += valid(c, one, v);
    return n;
}

static bool on_all(struct check *c, const json_t *k, const json_t *schema, const json_t *v)
{
    size_t i;
    json_t *one;
    (void)schema;
    json_array_foreach((json_t *)k, i, one) if (!valid(c, one, v)) return false;
    return true;
}

static bool on_any(struct check *c, const json_t *k, const json_t *schema, const json_t *v)
{
    (void)schema;
    return count_valid(c, k, v) > 0 || no(c, "anyOf", "");
}

static bool on_one(struct check *c, const json_t *k, const json_t *schema, const json_t *v)
{
    (void)schema;
    return count_valid(c, k, v) == 1 || no(c, "oneOf", "");
}

static bool on_not(struct check *c, const json_t *k, const json_t *schema, const json_t *v)
{
    (void)schema;
    return !valid(c, k, v) || no(c, "not", "");
}

static const json_t *follow(const json_t *root, const char *ref);

static bool on_ref(struct check *c, const json_t *k, const json_t *schema, const json_t *v)
{
    (void)schema;
    return valid(c, follow(c->root, json_string_value(k)), v);
}

/* --- the table --- */

enum shape { A_SCHEMA, SCHEMAS, NAMED_SCHEMAS, NUMBER, COUNT, TEXT, NAMES, TYPES, LIST, ANY, FLAG, PATTERN, REF };

static const struct keyword {
    const char *name;
    enum shape shape;
    bool (*holds)(struct check *c, const json_t *k, const json_t *schema, const json_t *v); /* NULL: it only describes */
} keywords[] = {
    {"type", TYPES, on_type}, {"enum", LIST, on_enum}, {"const", ANY, on_const}, {"minimum", NUMBER, on_minimum}, {"maximum", NUMBER, on_maximum},
    {"exclusiveMinimum", NUMBER, on_above}, {"exclusiveMaximum", NUMBER, on_below}, {"multipleOf", NUMBER, on_multiple}, {"minLength", COUNT, on_min_length},
    {"maxLength", COUNT, on_max_length}, {"pattern", PATTERN, on_pattern}, {"properties", NAMED_SCHEMAS, on_properties}, {"required", NAMES, on_required},
    {"additionalProperties", A_SCHEMA, on_additional}, {"minProperties", COUNT, on_min_members}, {"maxProperties", COUNT, on_max_members},
    {"prefixItems", SCHEMAS, on_prefix_items}, {"items", A_SCHEMA, on_items}, {"minItems", COUNT, on_min_items}, {"maxItems", COUNT, on_max_items},
    {"uniqueItems", FLAG, on_unique}, {"allOf", SCHEMAS, on_all}, {"anyOf", SCHEMAS, on_any}, {"oneOf", SCHEMAS, on_one}, {"not", A_SCHEMA, on_not},
    {"$ref", REF, on_ref}, {"$defs", NAMED_SCHEMAS, NULL}, {"definitions", NAMED_SCHEMAS, NULL}, {"$schema", TEXT, NULL}, {"$comment", TEXT, NULL}, {"title", TEXT, NULL},
    {"description", TEXT, NULL}, {"format", TEXT, NULL}, {"default", ANY, NULL}, {"examples", LIST, NULL}, {"deprecated", FLAG, NULL}, {"readOnly", FLAG, NULL}, {"writeOnly", FLAG, NULL},
};
#define KEYWORDS (sizeof keywords / sizeof *keywords)

static const struct keyword *keyword_of(const char *name)
{
    for (size_t i = 0; i < KEYWORDS; i++)
        if (strcmp(keywords[i].name, name) == 0) return &keywords[i];
    return NULL;
}

/* One name of a pointer (RFC 6901), ~0 and ~1 being ~ and /; how many bytes it took, 0: it is too long. */
static size_t pointer_name(const char *at, char name[REF_MAX])
{
    size_t n = strcspn(at, "/"), len = 0;
    if (n >= REF_MAX) return 0;
    for (size_t i = 0; i < n; i++) {
        bool escaped = at[i] == '~' && i + 1 < n && (at[i + 1] == '0' || at[i + 1] == '1');
        name[len++] = !escaped ? at[i] : at[i + 1] == '0' ? '~' : '/';
        i += escaped;
    }
    name[len] = 0;
    return n;
}

static const json_t *element(const json_t *list, const char *name)
{
    return *name && strspn(name, "0123456789") == strlen(name) ? json_array_get(list, strtoul(name, NULL, 10)) : NULL;
}

/* Where "#/a/b" leads, if that is a schema's place; else NULL. */
static const json_t *follow(const json_t *root, const char *ref)
{
    char name[REF_MAX];
    enum shape within = A_SCHEMA; /* what root is: a schema, or a list or an object of them */
    if (*ref++ != '#') return NULL;
    while (root && *ref == '/') {
        size_t n = pointer_name(++ref, name);
        const struct keyword *w = within == A_SCHEMA ? keyword_of(name) : NULL;
        if (within == A_SCHEMA && (!w || w->shape > NAMED_SCHEMAS)) return NULL;
        root = within == SCHEMAS ? element(root, name) : json_object_get(root, name);
        within = w ? w->shape : A_SCHEMA;
        ref += n;
    }
    return *ref || within != A_SCHEMA ? NULL : root;
}

static bool valid(struct check *c, const json_t *schema, const json_t *v)
{
    const char *name;
    json_t *k;
    bool holds = true;
    if (c->depth >= DEPTH) c->gave_up = true;
    if (!spend(c, 1)) return false;
    if (!json_is_object(schema)) return json_is_true(schema) || no(c, "false", "");
    c->depth++;
    json_object_foreach((json_t *)schema, name, k)
    {
        const struct keyword *w = keyword_of(name);
        if (w && w->holds && !(holds = w->holds(c, k, schema, v))) break;
    }
    c->depth--;
    return holds;
}

/* --- when it is set --- */

static int check_schema(const json_t *root, const json_t *s, int depth, struct err *e);

static int check_each(const json_t *root, const json_t *k, int depth, struct err *e)
{
    const char *name;
    json_t *one;
    size_t i;
    json_array_foreach((json_t *)k, i, one) if (check_schema(root, one, depth, e)) return -1;
    json_object_foreach((json_t *)k, name, one) if (check_schema(root, one, depth, e)) return -1;
    return 0;
}

static bool all_strings(const json_t *k)
{
    size_t i;
    json_t *one;
    json_array_foreach((json_t *)k, i, one) if (!json_is_string(one)) return false;
    return true;
}

static bool is_types(const json_t *k)
{
    size_t i;
    json_t *one;
    const char *const *p = type_name;
    if (json_is_string(k)) {
        while (*p && strcmp(*p, json_string_value(k)) != 0) p++;
        return *p;
    }
    json_array_foreach((json_t *)k, i, one) if (!json_is_string(one) || !is_types(one)) return false;
    return json_array_size(k) > 0;
}

static bool is_shape(enum shape shape, const json_t *k)
{
    char why[RULE_NOTE_LEN];
    switch (shape) {
    case A_SCHEMA: return json_is_object(k) || json_is_boolean(k);
    case SCHEMAS: return json_array_size(k) > 0;
    case NAMED_SCHEMAS: return json_is_object(k);
    case NUMBER: return json_is_number(k);
    case COUNT: return json_is_integer(k) && json_integer_value(k) >= 0;
    case TEXT: return json_is_string(k);
    case REF: return json_is_string(k) && json_string_length(k) < REF_MAX;
    case NAMES: return json_is_array(k) && all_strings(k);
    case TYPES: return is_types(k);
    case LIST: return json_is_array(k);
    case FLAG: return json_is_boolean(k);
    case PATTERN: return json_is_string(k) && json_string_length(k) <= RULE_PATTERN_MAX && rule_match(json_string_value(k), false, NULL, 0, 0, why) == 0;
    case ANY: break;
    }
    return true;
}

static int check_schema(const json_t *root, const json_t *s, int depth, struct err *e)
{
    const char *name;
    json_t *k;
    if (json_is_boolean(s)) return 0;
    if (!json_is_object(s) || depth >= DEPTH) return err_field(e, ERR_INVALID, "schema", "A schema is an object or a boolean, at most %d deep.", DEPTH);
    json_object_foreach((json_t *)s, name, k)
    {
        const struct keyword *w = keyword_of(name);
        if (!w) return err_field(e, ERR_INVALID, "schema", "The keyword '%.60s' is not followed here.", name);
        if (!is_shape(w->shape, k) || (w->holds == on_multiple && json_number_value(k) <= 0)) return err_field(e, ERR_INVALID, "schema", "The keyword '%.60s' can't have that value.", name);
        if (w->shape == REF && !follow(root, json_string_value(k))) return err_field(e, ERR_INVALID, "schema", "'%.100s' leads nowhere in the schema.", json_string_value(k));
        if (w->shape <= NAMED_SCHEMAS && (w->shape == A_SCHEMA ? check_schema(root, k, depth + 1, e) : check_each(root, k, depth + 1, e))) return -1;
    }
    return 0;
}

int rule_schema_read(const json_t *v, json_t *to, struct err *e)
{
    json_t *schema = json_object_get(v, "schema");
    struct buf text;
    if (!schema || json_is_null(schema)) return err_field(e, ERR_MISSING, "schema", "'schema' is missing.");
    if (check_schema(schema, schema, 0, e)) return -1;
    buf_init(&text, SCHEMA_MAX);
    bool fits = json_dump(schema, true, &text) == 0, large = text.full;
    buf_close(&text);
    if (large) return err_field(e, ERR_INVALID, "schema", "A schema has at most %d bytes.", SCHEMA_MAX);
    return !fits || json_object_set(to, "schema", schema) ? err_set(e, ERR_NO_MEMORY, "no memory for a rule") : 0;
}

void rule_schema_apply(const json_t *rule, const struct rule_text *t, struct verdict *v)
{
    struct check c = {.root = json_object_get(rule, "schema")};
    struct err e = {0};
    json_t *wrap = NULL;
    struct buf text; /* a value of any type, in a list of one */
    buf_init(&text, t->n + 16);
    buf_adds(&text, "{\"v\":");
    buf_add(&text, t->s, t->n);
    buf_adds(&text, "}");
    bool read = !text.failed && json_parse(text.data, text.len, &wrap, &e) == 0;
    bool one = read && json_object_size(wrap) == 1; /* `1,"x":2` is no value */
    buf_close(&text);
    bool good = one && valid(&c, c.root, json_object_get(wrap, "v"));
    if (c.gave_up) verdict_skip(v, "the schema asks for more steps than are taken");
    else verdict_pass(v, good, "%s", one ? c.why : "not JSON");
    json_decref(wrap);
}
