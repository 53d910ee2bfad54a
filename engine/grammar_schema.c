/* grammar_schema: what a JSON schema asks for, as a net of the texts that are valid for it.
 *
 *     schema --$ref--> a rule, built once, later          --anyOf, oneOf, allOf--> alternatives (grammar_merge.c)
 *            --enum, const--> the values as they are      --type--> object, array (grammar_shape.c), string, number (grammar_scalar.c)
 *
 * Dialect: draft 2020-12, the keywords in the table below. Where a schema leaves things open (no type beside `properties`, no
 * additionalProperties beside them, no items behind prefixItems) the set of texts that its words describe is taken: each is valid, not
 * every valid text is offered. A keyword that narrows what is valid and isn't served is refused with its path; one that isn't JSON
 * schema's is an annotation.
 *
 * Recursion here follows the nesting of the schema, which is bounded (SCHEMA_NESTING); $ref never recurses, it queues. */
#include "engine/grammar_schema.h"
#include "engine/grammar_value.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- the path --- */

size_t schema_enter(struct schema *s, const char *key, const char *sub)
{
    size_t mark = strlen(s->path);
    snprintf(s->path + mark, sizeof s->path - mark, sub ? "/%s/%.64s" : "/%s", key, sub);
    return mark;
}

void schema_leave(struct schema *s, size_t mark)
{
    s->path[mark] = '\0';
}

uint32_t schema_refuse(struct schema *s, const char *keyword, const char *why)
{
    return net_refuse(s->net, "JSON schema, %s: %.64s: %s", s->path, keyword, why);
}

/* --- keywords --- */

enum use { SERVED, NOTE, REFUSED };
static const struct keyword {
    const char *name;
    enum use use;
} keywords[] = {
    /* sorted */
    {"$anchor", REFUSED},
    {"$dynamicAnchor", REFUSED},
    {"$dynamicRef", REFUSED},
    {"$recursiveAnchor", REFUSED},
    {"$recursiveRef", REFUSED},
    {"$ref", SERVED},
    {"additionalItems", REFUSED},
    {"additionalProperties", SERVED},
    {"allOf", SERVED},
    {"anyOf", SERVED},
    {"const", SERVED},
    {"contains", REFUSED},
    {"dependencies", REFUSED},
    {"dependentRequired", REFUSED},
    {"dependentSchemas", REFUSED},
    {"disallow", REFUSED},
    {"divisibleBy", REFUSED},
    {"else", REFUSED},
    {"enum", SERVED},
    {"exclusiveMaximum", SERVED},
    {"exclusiveMinimum", SERVED},
    {"extends", REFUSED},
    {"format", SERVED},
    {"if", REFUSED},
    {"items", SERVED},
    {"maxContains", REFUSED},
    {"maxItems", SERVED},
    {"maxLength", SERVED},
    {"maxProperties", REFUSED},
    {"maximum", SERVED},
    {"minContains", REFUSED},
    {"minItems", SERVED},
    {"minLength", SERVED},
    {"minProperties", REFUSED},
    {"minimum", SERVED},
    {"multipleOf", SERVED},
    {"not", REFUSED},
    {"oneOf", SERVED},
    {"pattern", SERVED},
    {"patternProperties", REFUSED},
    {"prefixItems", SERVED},
    {"properties", SERVED},
    {"propertyNames", REFUSED},
    {"required", SERVED},
    {"then", REFUSED},
    {"type", SERVED},
    {"unevaluatedItems", REFUSED},
    {"unevaluatedProperties", REFUSED},
    {"uniqueItems", REFUSED},
};

static enum use use_of(const char *name)
{
    size_t lo = 0, hi = sizeof keywords / sizeof *keywords;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        int c = strcmp(name, keywords[mid].name);
        if (c == 0) return keywords[mid].use;
        *(c < 0 ? &hi : &lo) = c < 0 ? mid : mid + 1;
    }
    return NOTE;
}

bool schema_serves(const char *keyword)
{
    return use_of(keyword) == SERVED;
}

/* Refused keywords in the form in which they say nothing. */
static bool is_idle(const char *key, const json_t *v)
{
    if (strcmp(key, "uniqueItems") == 0) return json_is_false(v);
    if (strcmp(key, "minProperties") == 0) return json_is_integer(v) && json_integer_value(v) == 0;
    if (strcmp(key, "patternProperties") == 0) return json_is_object(v) && json_object_size(v) == 0;
    return false;
}

/* A `$ref` anywhere below. */
static bool has_ref(struct schema *s, const json_t *v)
{
    const char *key;
    json_t *x;
    if (!schema_spend(s, 1)) return false;
    for (size_t i = 0; i < json_array_size(v); i++)
        if (has_ref(s, json_array_get(v, i))) return true;
    json_object_foreach((json_t *)v, key, x) if (strcmp(key, "$ref") == 0 || has_ref(s, x)) return true;
    return false;
}

/* An $id below the root begins a resource of its own: "#" in a $ref means that one from there on. */
static int check_id(struct schema *s, const json_t *schema)
{
    if (schema == s->root || !json_object_get(schema, "$id") || !has_ref(s, schema)) return 0;
    return (int)schema_refuse(s, "$id", "not served below the root beside $ref, which it would point elsewhere") - 1;
}

int schema_check(struct schema *s, const json_t *schema)
{
    const char *key;
    json_t *v;
    int n = 0;
    if (!schema_spend(s, json_object_size(schema)) || check_id(s, schema)) return -1;
    json_object_foreach((json_t *)schema, key, v)
    {
        enum use use = use_of(key);
        if (use == REFUSED && !is_idle(key, v)) return (int)schema_refuse(s, key, "this keyword is not served") - 1;
        n += use == SERVED;
    }
    return n;
}

/* --- types --- */

static const struct type_name {
    const char *name;
    int kind;
} type_names[] = {
    {"null", K_NULL},  {"boolean", K_BOOL}, {"integer", K_INT}, {"number", K_NUM},
    {"string", K_STR}, {"array", K_ARR},    {"object", K_OBJ},
};

static int kind_named(struct schema *s, const json_t *name)
{
    const char *word = json_string_value(name);
    for (size_t i = 0; word && i < sizeof type_names / sizeof *type_names; i++)
        if (strcmp(type_names[i].name, word) == 0) return type_names[i].kind;
    schema_refuse(s, "type", "must be null, boolean, integer, number, string, array, object, or a list of them");
    return -1;
}

int schema_kinds(struct schema *s, const json_t *schema)
{
    const json_t *t = json_object_get(schema, "type");
    int all = 0;
    if (!t) return K_ALL;
    if (!json_is_array(t)) return kind_named(s, t);
    for (size_t i = 0; i < json_array_size(t); i++) {
        int k = kind_named(s, json_array_get(t, i));
        if (k < 0) return -1;
        all |= k;
    }
    return all;
}

int schema_kind_of(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return K_OBJ;
    case JSON_ARRAY:
        return K_ARR;
    case JSON_STRING:
        return K_STR;
    case JSON_INTEGER:
        return K_INT;
    case JSON_REAL:
        return value_is_whole(v) ? K_INT : K_NUM;
    case JSON_NULL:
        return K_NULL;
    default:
        return K_BOOL;
    }
}

int schema_kinds_both(int a, int b)
{
    int both = a & b;
    if (((a & K_INT) && (b & K_NUM)) || ((a & K_NUM) && (b & K_INT))) both |= K_INT;
    return both;
}

bool schema_kind_fits(int kind, int kinds)
{
    return kind & kinds || (kind == K_INT && kinds & K_NUM);
}

/* Without `type`, the keywords say what is meant; nothing said: everything. */
static int kinds_meant(const json_t *schema)
{
    static const struct type_name about[] = {
        {"properties", K_OBJ}, {"required", K_OBJ},         {"additionalProperties", K_OBJ},
        {"items", K_ARR},      {"prefixItems", K_ARR},      {"minItems", K_ARR},
        {"maxItems", K_ARR},   {"minLength", K_STR},        {"maxLength", K_STR},
        {"pattern", K_STR},    {"format", K_STR},           {"minimum", K_NUM},
        {"maximum", K_NUM},    {"exclusiveMinimum", K_NUM}, {"exclusiveMaximum", K_NUM},
        {"multipleOf", K_NUM},
    };
    int all = 0;
    for (size_t i = 0; i < sizeof about / sizeof *about; i++)
        if (json_object_get(schema, about[i].name)) all |= about[i].kind;
    return all ? all : K_ALL;
}

/* --- references --- */

static int unhex(char c)
{
    const char *digits = "0123456789abcdef", *k = c ? strchr(digits, c | 0x20) : NULL;
    return k ? (int)(k - digits) : -1;
}

/* One part of a JSON pointer (RFC 6901) in a URI fragment, unescaped into out; the rest, or NULL where it is malformed or too long. */
static const char *pointer_part(const char *p, char *out, size_t room)
{
    size_t n = 0;
    while (*p && *p != '/') {
        char c = *p++;
        if (c == '%') {
            int hi = unhex(p[0]), lo = hi < 0 ? -1 : unhex(p[1]);
            if (lo < 0) return NULL;
            c = (char)(hi << 4 | lo);
            p += 2;
        } else if (c == '~') {
            if (*p != '0' && *p != '1') return NULL;
            c = *p++ == '0' ? '~' : '/';
        }
        if (n + 1 == room || c == '\0') return NULL;
        out[n++] = c;
    }
    out[n] = '\0';
    return p;
}

static const json_t *item_at(const json_t *list, const char *index)
{
    bool number = *index && strspn(index, "0123456789") == strlen(index) && strlen(index) < 10;
    return number ? json_array_get(list, strtoul(index, NULL, 10)) : NULL;
}

const json_t *schema_target(struct schema *s, const json_t *ref)
{
    const char *p = json_string_value(ref);
    const json_t *at = s->root;
    char part[SCHEMA_NAME_MAX];
    if (!p || p[0] != '#' || (p[1] && p[1] != '/')) {
        schema_refuse(s, "$ref", "only references inside the schema, such as #/$defs/name, are served");
        return NULL;
    }
    for (p++; at && p && *p == '/';) {
        p = pointer_part(p + 1, part, sizeof part);
        if (!p) break;
        if (at != s->root && json_is_string(json_object_get(at, "$id"))) {
            schema_refuse(s, "$ref", "into a schema with an $id of its own is not served");
            return NULL;
        }
        at = json_is_array(at) ? item_at(at, part) : json_object_get(at, part);
    }
    if (p && *p == '\0' && at) return at;
    schema_refuse(s, "$ref", "points to nothing in the schema");
    return NULL;
}

/* The rule of a reference; the first use queues its building. */
static uint32_t call_ref(struct schema *s, const json_t *ref, uint32_t next)
{
    const char *pointer = json_string_value(ref);
    uint64_t hash = 0;
    if (!schema_target(s, ref)) return NODE_FAIL;
    for (const char *p = pointer; *p; p++) hash = (hash ^ (uint8_t)*p) * 0x100000001b3ull;
    for (int i = 0; i < s->nref; i++)
        if (s->ref[i].hash == hash && strcmp(s->ref[i].pointer, pointer) == 0)
            return net_call(s->net, s->ref[i].rule, next);
    if (s->nref == SCHEMA_REFS) return schema_refuse(s, "$ref", "too many different references");
    s->ref[s->nref++] = (struct schema_ref){pointer, hash, net_rule(s->net)};
    return net_call(s->net, s->ref[s->nref - 1].rule, next);
}

/* --- schemas --- */

static uint32_t plain(struct schema *s, const json_t *schema, uint32_t next)
{
    bool typed = json_object_get(schema, "type"),
         literal = json_object_get(schema, "enum") || json_object_get(schema, "const");
    int kinds = typed ? schema_kinds(s, schema) : literal ? K_ALL : kinds_meant(schema);
    struct net *n = s->net;
    uint32_t all = NODE_FAIL;
    if (kinds < 0 || n->failed) return NODE_FAIL;
    if (literal) return scalar_literals(s, schema, kinds, next);
    if (!typed && kinds == K_ALL) return shape_value(s, next);
    if (kinds & K_OBJ) all = net_or(n, all, shape_object(s, schema, next));
    if (kinds & K_ARR) all = net_or(n, all, shape_array(s, schema, next));
    if (kinds & K_STR) all = net_or(n, all, scalar_string(s, schema, next));
    if (kinds & (K_NUM | K_INT)) all = net_or(n, all, scalar_number(s, schema, !(kinds & K_NUM), next));
    if (kinds & K_BOOL) all = net_or(n, all, net_or(n, net_text(n, "true", 4, next), net_text(n, "false", 5, next)));
    if (kinds & K_NULL) all = net_or(n, all, net_text(n, "null", 4, next));
    return all;
}

/* Any of a list of schemas. */
static uint32_t any_of(struct schema *s, const json_t *list, const char *keyword, uint32_t next)
{
    uint32_t all = NODE_FAIL;
    if (!json_is_array(list) || json_array_size(list) == 0)
        return schema_refuse(s, keyword, "must be a list of schemas");
    for (size_t i = 0; i < json_array_size(list) && !s->net->failed; i++) {
        char number[24];
        snprintf(number, sizeof number, "%zu", i);
        size_t mark = schema_enter(s, keyword, number);
        all = net_or(s->net, all, schema_net(s, json_array_get(list, i), next));
        schema_leave(s, mark);
    }
    return all;
}

static uint32_t flattened(struct schema *s, const json_t *schema, uint32_t next)
{
    const json_t *list = merge_flatten(s, schema);
    uint32_t all = NODE_FAIL;
    for (size_t i = 0; list && i < json_array_size(list); i++)
        all = net_or(s->net, all, plain(s, json_array_get(list, i), next));
    return all;
}

/* A schema that is one combination and nothing else keeps its references; any other is multiplied out. */
static uint32_t combined(struct schema *s, const json_t *schema, int served, uint32_t next)
{
    const json_t *ref = json_object_get(schema, "$ref"), *any = json_object_get(schema, "anyOf");
    const json_t *one = json_object_get(schema, "oneOf"), *all = json_object_get(schema, "allOf");
    if (!ref && !any && !one && !all) return plain(s, schema, next);
    if (served > 1) return flattened(s, schema, next);
    if (ref) return call_ref(s, ref, next);
    if (any) return any_of(s, any, "anyOf", next);
    if (one) return merge_apart(s, one) ? any_of(s, one, "oneOf", next) : NODE_FAIL;
    return json_array_size(all) == 1 ? any_of(s, all, "allOf", next) : flattened(s, schema, next);
}

uint32_t schema_net(struct schema *s, const json_t *schema, uint32_t next)
{
    if (s->net->failed || json_is_false(schema)) return NODE_FAIL;
    if (json_is_true(schema)) return shape_value(s, next);
    if (!json_is_object(schema)) return schema_refuse(s, "schema", "must be an object, true or false");
    if (s->depth == SCHEMA_NESTING) return schema_refuse(s, "schema", "nested too deep");
    int served = schema_check(s, schema);
    if (served < 0) return NODE_FAIL;
    s->depth++;
    uint32_t all = combined(s, schema, served, next);
    s->depth--;
    return all;
}

int schema_compile(struct net *n, const json_t *root, struct err *e)
{
    struct schema s = {.net = n, .root = root, .path = "#", .made = json_array()};
    s.ref = malloc(SCHEMA_REFS * sizeof *s.ref);
    int rc = -1;
    if (!s.made || !s.ref) {
        err_set(e, ERR_NO_MEMORY, "no memory for a JSON schema");
        goto out;
    }
    n->place = s.path;
    uint32_t start = schema_net(&s, root, NODE_RET);
    for (int i = 0; i < s.nref && !n->failed; i++) {
        json_t *pointer = json_string(s.ref[i].pointer);
        snprintf(s.path, sizeof s.path, "%s", s.ref[i].pointer);
        net_rule_body(n, s.ref[i].rule, schema_net(&s, schema_target(&s, pointer), NODE_RET));
        json_decref(pointer);
    }
    n->place = NULL;
    rc = net_finish(n, start);
out:
    json_decref(s.made);
    free(s.flat);
    free(s.ref);
    return rc;
}
