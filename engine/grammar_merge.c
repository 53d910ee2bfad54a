/* grammar_merge: combinations of JSON schemas as plain ones.
 *
 * A schema with $ref, allOf, anyOf or oneOf beside other keywords means: all of these at once. It is multiplied out into alternatives
 * without such keywords (a disjunctive normal form): {A, anyOf: [B, C]} is AB or AC, where AB is one schema that says what both say:
 * types and enumerations meet, bounds tighten, properties unite, a name that only one side knows is subject to the other side's
 * additionalProperties. Where two keywords have no common form (two patterns) the schema is refused.
 *
 * oneOf asks that exactly one alternative holds. It is served where no two can hold at once (grammar_apart.c); then it is anyOf.
 *
 * What a schema was multiplied out to is remembered by its address, so a definition costs once, however many combinations name it. Every
 * schema that gets here lives until the compile's end: it is the root's, or `made` keeps it.
 *
 * The product may be exponential: SCHEMA_WORK, SCHEMA_ALTERNATIVES, SCHEMA_NESTING and the net's clock end it. */
#include "base/json.h"
#include "engine/grammar_schema.h"
#include "engine/grammar_value.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define COPY 4 /* what copying a keyword costs more than walking over it */
#define FLAT_FIRST 64

bool schema_spend(struct schema *s, size_t work)
{
    if (!net_charge(s->net, work)) return false;
    s->work += (int)(work < SCHEMA_WORK ? work : SCHEMA_WORK);
    if (s->work <= SCHEMA_WORK) return true;
    schema_refuse(s, "schema", "too large: its combinations multiply");
    return false;
}

/* A new value of ours, kept until the schema is done; the pointer is borrowed. */
static json_t *keep(struct schema *s, json_t *v)
{
    if (v && json_array_append_new(s->made, v) == 0) return v;
    net_no_memory(s->net);
    return NULL;
}

/* v is taken. What has no memory is never left out: a grammar without it would be another one, and is kept. */
static void put_last(struct schema *s, json_t *list, json_t *v)
{
    if (json_array_append_new(list, v)) net_no_memory(s->net);
}

static void put(struct schema *s, json_t *object, const char *key, json_t *v)
{
    if (json_object_set_new(object, key, v)) net_no_memory(s->net);
}

/* --- two plain schemas as one --- */

struct merging {
    struct schema *s;
    const char *key;
    const json_t *a, *b; /* what both say; never NULL */
};

static json_t *both(const json_t *a, const json_t *b)
{
    return json_pack("{s:[O,O]}", "allOf", a, b);
}

static json_t *merge_subschema(const struct merging *m)
{
    if (json_is_false(m->a) || json_is_false(m->b)) return json_false();
    if (json_is_true(m->b) || value_equal(m->s->net, m->a, m->b)) return json_incref((json_t *)m->a);
    return json_is_true(m->a) ? json_incref((json_t *)m->b) : both(m->a, m->b);
}

static json_t *merge_type(const struct merging *m)
{
    static const char *const name[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
    json_t *a = json_pack("{s:O}", "type", m->a), *b = json_pack("{s:O}", "type", m->b), *list = json_array();
    int ka = schema_kinds(m->s, a), kb = schema_kinds(m->s, b),
        kinds = ka < 0 || kb < 0 ? 0 : schema_kinds_both(ka, kb);
    if (!a || !b || !list) net_no_memory(m->s->net); /* no "type" at all would be any */
    for (int i = 0; i < 7; i++)
        if (kinds & 1 << i) put_last(m->s, list, json_string(name[i]));
    json_decref(a);
    json_decref(b);
    return list;
}

/* What isn't a number wins, to be refused by the keyword's own reader. */
static json_t *merge_end(const struct merging *m, int sign)
{
    bool first = !json_is_number(m->a) || (json_is_number(m->b) && sign * value_compare(m->a, m->b) > 0);
    return json_incref((json_t *)(first ? m->a : m->b));
}

static json_t *merge_larger(const struct merging *m)
{
    return merge_end(m, 1);
}

static json_t *merge_smaller(const struct merging *m)
{
    return merge_end(m, -1);
}

/* Of two lists: what is in both, or in any of them, once each. */
static json_t *merge_lists(const struct merging *m, bool in_both)
{
    size_t na = json_array_size(m->a), nb = json_array_size(m->b);
    json_t *out = json_array();
    struct value_set set;
    if (!out) net_no_memory(m->s->net);
    if (!schema_spend(m->s, COPY * (na + nb)) || value_set_init(&set, m->s->net, na + nb)) return out;
    for (size_t i = 0; i < (in_both ? nb : na); i++) value_set_add(&set, json_array_get(in_both ? m->b : m->a, i), 0);
    for (size_t i = 0; i < na; i++)
        if (!in_both || value_set_owner(&set, json_array_get(m->a, i)) == 0)
            put_last(m->s, out, json_incref(json_array_get(m->a, i)));
    for (size_t i = 0; i < nb && !in_both; i++)
        if (value_set_owner(&set, json_array_get(m->b, i)) == NO_OWNER)
            put_last(m->s, out, json_incref(json_array_get(m->b, i)));
    value_set_close(&set);
    return out;
}

static json_t *merge_union(const struct merging *m)
{
    if (!json_is_array(m->a) || !json_is_array(m->b)) return json_incref((json_t *)(json_is_array(m->a) ? m->b : m->a));
    return merge_lists(m, false);
}

static json_t *merge_common(const struct merging *m)
{
    if (!json_is_array(m->a) || !json_is_array(m->b)) return json_incref((json_t *)(json_is_array(m->a) ? m->b : m->a));
    return merge_lists(m, true);
}

static json_t *merge_multiple(const struct merging *m)
{
    double a = json_number_value(m->a), b = json_number_value(m->b);
    if (b > 0 && fmod(a, b) == 0) return json_incref((json_t *)m->a);
    if (a > 0 && fmod(b, a) == 0) return json_incref((json_t *)m->b);
    schema_refuse(m->s, m->key, "two different ones at once are not served");
    return NULL;
}

static json_t *merge_equal(const struct merging *m)
{
    if (value_equal(m->s->net, m->a, m->b)) return json_incref((json_t *)m->a);
    schema_refuse(m->s, m->key, "two different ones at once are not served");
    return NULL;
}

static const struct merge_row {
    const char *key;
    json_t *(*merge)(const struct merging *m); /* a new reference */
} rows[] = {
    {"type", merge_type},
    {"required", merge_union},
    {"additionalProperties", merge_subschema},
    {"items", merge_subschema},
    {"prefixItems", merge_equal},
    {"enum", merge_common},
    {"minItems", merge_larger},
    {"minLength", merge_larger},
    {"minimum", merge_larger},
    {"exclusiveMinimum", merge_larger},
    {"maxItems", merge_smaller},
    {"maxLength", merge_smaller},
    {"maximum", merge_smaller},
    {"exclusiveMaximum", merge_smaller},
    {"multipleOf", merge_multiple},
    {"pattern", merge_equal},
    {"format", merge_equal},
};

static json_t *merge_key(const struct merging *m)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(rows[i].key, m->key) == 0) return rows[i].merge(m);
    return json_incref((json_t *)m->b); /* const: see merge_two */
}

/* The properties of `from` into `out`: those that the other side knows are both, the rest must be what the other side allows. */
static void merge_properties(struct schema *s, json_t *out, const json_t *from, const json_t *other)
{
    const json_t *known = json_object_get(other, "properties"), *rest = json_object_get(other, "additionalProperties");
    const char *name;
    json_t *v;
    json_object_foreach(json_object_get(from, "properties"), name, v)
    {
        if (!schema_spend(s, COPY)) return;
        if (json_object_get(out, name)) continue;
        struct merging m = {s, name, v, json_object_get(known, name)};
        if (!m.b) m.b = rest ? rest : json_true();
        put(s, out, name, merge_subschema(&m));
    }
}

/* Both sides speak of tuples, and not in the same way. */
static bool tuples_differ(const json_t *a, const json_t *b)
{
    const json_t *pa = json_object_get(a, "prefixItems"), *pb = json_object_get(b, "prefixItems");
    return (pa && !pb && json_object_get(b, "items")) || (pb && !pa && json_object_get(a, "items"));
}

/* NULL: refused, or (without an error) nothing can be both. */
static json_t *merge_two(struct schema *s, const json_t *a, const json_t *b)
{
    const char *key;
    json_t *v, *out = json_copy_top(a), *props = json_object();
    bool empty = false;
    if (!out || !props) net_no_memory(s->net);
    if (tuples_differ(a, b)) schema_refuse(s, "prefixItems", "not served beside items in a combination");
    if (!schema_spend(s, COPY * (1 + json_object_size(a) + json_object_size(b)))) goto out;
    json_object_foreach((json_t *)b, key, v)
    {
        struct merging m = {s, key, json_object_get(a, key), v};
        if (strcmp(key, "const") == 0 && m.a && !value_equal(s->net, m.a, m.b)) empty = true;
        json_t *one = m.a && strcmp(key, "properties") != 0 ? merge_key(&m) : json_incref(v);
        put(s, out, key, one);
    }
    const json_t *type = json_object_get(out, "type");
    empty = empty || (json_is_array(type) && json_array_size(type) == 0);
    merge_properties(s, props, a, b);
    merge_properties(s, props, b, a);
    if (json_object_get(a, "properties") || json_object_get(b, "properties")) put(s, out, "properties", json_incref(props));
out:
    json_decref(props);
    if (!s->net->failed && !empty) return out;
    json_decref(out);
    return NULL;
}

/* --- multiplying out --- */

static const json_t *flatten(struct schema *s, const json_t *schema);

/* Every way of being one of a and one of b. NULL: refused. */
static const json_t *cross(struct schema *s, const json_t *a, const json_t *b)
{
    json_t *out = keep(s, json_array());
    for (size_t i = 0; a && b && out && i < json_array_size(a); i++)
        for (size_t j = 0; j < json_array_size(b) && !s->net->failed; j++) {
            json_t *one = merge_two(s, json_array_get(a, i), json_array_get(b, j));
            if (one) put_last(s, out, one);
            if (json_array_size(out) > SCHEMA_ALTERNATIVES)
                schema_refuse(s, "anyOf", "too large: its combinations multiply");
        }
    return s->net->failed || !a || !b ? NULL : out;
}

static const json_t *flatten_union(struct schema *s, const json_t *list, const char *keyword)
{
    json_t *out = keep(s, json_array());
    if (!json_is_array(list) || json_array_size(list) == 0) schema_refuse(s, keyword, "must be a list of schemas");
    for (size_t i = 0; out && i < json_array_size(list) && !s->net->failed; i++) {
        const json_t *one = flatten(s, json_array_get(list, i));
        if (one && schema_spend(s, json_array_size(one)) && json_array_extend(out, (json_t *)one)) net_no_memory(s->net);
        if (json_array_size(out) > SCHEMA_ALTERNATIVES)
            schema_refuse(s, keyword, "too large: too many alternatives in a combination");
    }
    return s->net->failed ? NULL : out;
}

/* The keywords of a schema that are no combinations, as a list of one. */
static const json_t *own_part(struct schema *s, const json_t *schema)
{
    static const char *const not_own[] = {"$ref", "allOf", "anyOf", "oneOf"};
    const char *key;
    json_t *v, *own = json_object();
    json_object_foreach((json_t *)schema, key, v)
    {
        bool ours = schema_spend(s, 1) && schema_serves(key);
        for (size_t i = 0; i < sizeof not_own / sizeof *not_own; i++) ours = ours && strcmp(key, not_own[i]) != 0;
        if (ours) put(s, own, key, json_incref(v));
    }
    return keep(s, json_pack("[o]", own));
}

static const json_t *flatten_object(struct schema *s, const json_t *schema)
{
    const json_t *ref = json_object_get(schema, "$ref"), *all = json_object_get(schema, "allOf");
    const json_t *any = json_object_get(schema, "anyOf"), *one = json_object_get(schema, "oneOf");
    if (schema_check(s, schema) < 0) return NULL;
    const json_t *out = keep(s, json_pack("[{}]")); /* what is inherited comes first, so do its properties */
    if (ref && out) out = cross(s, out, flatten(s, schema_target(s, ref)));
    if (all && !json_is_array(all)) schema_refuse(s, "allOf", "must be a list of schemas");
    for (size_t i = 0; out && i < json_array_size(all); i++) out = cross(s, out, flatten(s, json_array_get(all, i)));
    if (out) out = cross(s, out, own_part(s, schema));
    if (any && out) out = cross(s, out, flatten_union(s, any, "anyOf"));
    if (one && out && !merge_apart(s, one)) return NULL;
    if (one && out) out = cross(s, out, flatten_union(s, one, "oneOf"));
    return s->net->failed ? NULL : out;
}

/* Where a schema's list is remembered, or would be; room is made. NULL: no memory. */
static struct flat *flat_slot(struct schema *s, const json_t *schema)
{
    if (2 * s->nflat >= s->flat_slots) {
        size_t old = s->flat_slots, slots = old ? 2 * old : FLAT_FIRST;
        struct flat *from = s->flat, *to = calloc(slots, sizeof *to);
        if (!to) return net_no_memory(s->net), NULL;
        s->flat = to;
        s->flat_slots = slots;
        for (size_t i = 0; i < old; i++)
            if (from[i].schema) *flat_slot(s, from[i].schema) = from[i];
        free(from);
    }
    size_t i = (size_t)(((uintptr_t)schema >> 4) * 0x9e3779b97f4a7c15u >> 20) & (s->flat_slots - 1);
    while (s->flat[i].schema && s->flat[i].schema != schema) i = (i + 1) & (s->flat_slots - 1);
    return &s->flat[i];
}

static const json_t *flatten(struct schema *s, const json_t *schema)
{
    if (!schema || s->net->failed || !schema_spend(s, 1)) return NULL;
    if (json_is_true(schema)) return keep(s, json_pack("[{}]"));
    if (json_is_false(schema)) return keep(s, json_array());
    if (!json_is_object(schema)) return schema_refuse(s, "schema", "must be an object, true or false"), NULL;
    struct flat *known = flat_slot(s, schema);
    if (!known || known->schema) return known ? known->list : NULL;
    if (s->depth == SCHEMA_NESTING)
        return schema_refuse(s, "schema", "combinations nested too deep, or one that contains itself"), NULL;
    s->depth++;
    const json_t *out = flatten_object(s, schema);
    s->depth--;
    known = out ? flat_slot(s, schema) : NULL; /* the table may have grown */
    if (known) *known = (struct flat){schema, out}, s->nflat++;
    return out;
}

const json_t *merge_flatten(struct schema *s, const json_t *schema)
{
    return flatten(s, schema);
}
