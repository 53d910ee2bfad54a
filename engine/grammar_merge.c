/* grammar_merge: combinations of JSON schemas as plain ones.
 *
 * A schema with $ref, allOf, anyOf or oneOf beside other keywords means: all of these at once. It is multiplied out into alternatives
 * without such keywords (a disjunctive normal form): {A, anyOf: [B, C]} is AB or AC, where AB is one schema that says what both say:
 * types and enumerations meet, bounds tighten, properties unite, a name that only one side knows is subject to the other side's
 * additionalProperties. Where two keywords have no common form (two patterns) the schema is refused.
 *
 * oneOf asks that exactly one alternative holds. It is served where no value can be valid for two of them, which is proved by types, by
 * listed values, by a required property whose values differ (a discriminator), or by one that the other forbids; then it is anyOf.
 * Otherwise it is refused, for an answer could be valid for two and so for none.
 *
 * The product may be exponential: SCHEMA_WORK, SCHEMA_ALTERNATIVES and SCHEMA_NESTING end it. */
#include "engine/grammar_schema.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool spend(struct schema *s, size_t work)
{
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
    if (json_is_true(m->b)) return json_incref((json_t *)m->a);
    return json_is_true(m->a) ? json_incref((json_t *)m->b) : both(m->a, m->b);
}

static json_t *merge_type(const struct merging *m)
{
    static const char *const name[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
    json_t *a = json_pack("{s:O}", "type", m->a), *b = json_pack("{s:O}", "type", m->b), *list = json_array();
    int ka = schema_kinds(m->s, a), kb = schema_kinds(m->s, b),
        kinds = ka < 0 || kb < 0 ? 0 : schema_kinds_both(ka, kb);
    for (int i = 0; i < 7; i++)
        if (kinds & 1 << i) json_array_append_new(list, json_string(name[i]));
    json_decref(a);
    json_decref(b);
    return list;
}

static json_t *merge_larger(const struct merging *m)
{
    return json_incref((json_t *)(json_number_value(m->a) > json_number_value(m->b) ? m->a : m->b));
}

static json_t *merge_smaller(const struct merging *m)
{
    return json_incref((json_t *)(json_number_value(m->a) < json_number_value(m->b) ? m->a : m->b));
}

static json_t *merge_union(const struct merging *m)
{
    json_t *all = json_copy((json_t *)m->a);
    if (json_is_array(all) && json_is_array(m->b)) json_array_extend(all, (json_t *)m->b);
    return all;
}

static bool contains(const json_t *list, const json_t *v)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_equal(json_array_get(list, i), v)) return true;
    return false;
}

static json_t *merge_common(const struct merging *m)
{
    json_t *all = json_array();
    if (!spend(m->s, json_array_size(m->a) * json_array_size(m->b))) return all;
    for (size_t i = 0; i < json_array_size(m->a); i++)
        if (contains(m->b, json_array_get(m->a, i))) json_array_append(all, json_array_get(m->a, i));
    return all;
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
    if (json_equal(m->a, m->b)) return json_incref((json_t *)m->a);
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
        if (!spend(s, 1)) return;
        if (json_object_get(out, name)) continue;
        struct merging m = {s, name, v, json_object_get(known, name)};
        if (!m.b) m.b = rest ? rest : json_true();
        json_object_set_new(out, name, merge_subschema(&m));
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
    json_t *v, *out = json_copy((json_t *)a), *props = json_object();
    bool empty = false;
    if (tuples_differ(a, b)) schema_refuse(s, "prefixItems", "not served beside items in a combination");
    if (!spend(s, 1 + json_object_size(b))) goto out;
    json_object_foreach((json_t *)b, key, v)
    {
        struct merging m = {s, key, json_object_get(a, key), v};
        if (strcmp(key, "const") == 0 && m.a && !json_equal(m.a, m.b)) empty = true;
        json_t *one = m.a && strcmp(key, "properties") != 0 ? merge_key(&m) : json_incref(v);
        if (one) json_object_set_new(out, key, one);
    }
    const json_t *type = json_object_get(out, "type");
    empty = empty || (json_is_array(type) && json_array_size(type) == 0);
    merge_properties(s, props, a, b);
    merge_properties(s, props, b, a);
    if (json_object_get(a, "properties") || json_object_get(b, "properties")) json_object_set(out, "properties", props);
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
            if (one) json_array_append_new(out, one);
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
        if (one) json_array_extend(out, (json_t *)one);
        if (json_array_size(out) > SCHEMA_ALTERNATIVES)
            schema_refuse(s, keyword, "too large: too many alternatives in a combination");
    }
    return s->net->failed ? NULL : out;
}

/* The keywords of a schema that are no combinations, as a list of one. */
static const json_t *own_part(struct schema *s, const json_t *schema)
{
    static const char *const not_own[] = {"$ref", "allOf", "anyOf", "oneOf", "nullable"};
    const char *key;
    json_t *v, *own = json_object();
    json_object_foreach((json_t *)schema, key, v)
    {
        bool ours = schema_serves(key) && spend(s, 1);
        for (size_t i = 0; i < sizeof not_own / sizeof *not_own; i++) ours = ours && strcmp(key, not_own[i]) != 0;
        if (ours) json_object_set(own, key, v);
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
    if (out && json_is_true(json_object_get(schema, "nullable"))) {
        json_t *more = keep(s, json_copy((json_t *)out));
        if (more) json_array_append_new(more, json_pack("{s:s}", "type", "null"));
        out = more;
    }
    return s->net->failed ? NULL : out;
}

static const json_t *flatten(struct schema *s, const json_t *schema)
{
    if (!schema || s->net->failed || !spend(s, 1)) return NULL;
    if (json_is_true(schema)) return keep(s, json_pack("[{}]"));
    if (json_is_false(schema)) return keep(s, json_array());
    if (!json_is_object(schema)) return schema_refuse(s, "schema", "must be an object, true or false"), NULL;
    if (s->depth == SCHEMA_NESTING)
        return schema_refuse(s, "schema", "combinations nested too deep, or one that contains itself"), NULL;
    s->depth++;
    const json_t *out = flatten_object(s, schema);
    s->depth--;
    return out;
}

const json_t *merge_flatten(struct schema *s, const json_t *schema)
{
    return flatten(s, schema);
}

/* --- apart --- */

static bool apart(struct schema *s, const json_t *a, const json_t *b);

static bool all_apart(struct schema *s, const json_t *a, const json_t *b)
{
    for (size_t i = 0; a && b && i < json_array_size(a); i++)
        for (size_t j = 0; j < json_array_size(b); j++)
            if (!apart(s, json_array_get(a, i), json_array_get(b, j))) return false;
    return a && b;
}

static bool has_name(const json_t *list, const char *name)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *s = json_string_value(json_array_get(list, i));
        if (s && strcmp(s, name) == 0) return true;
    }
    return false;
}

/* a needs a property that b forbids, or one whose values are never b's. */
static bool property_tells(struct schema *s, const json_t *a, const json_t *b)
{
    const json_t *required = json_object_get(a, "required"), *pa = json_object_get(a, "properties"),
                 *pb = json_object_get(b, "properties");
    for (size_t i = 0; i < json_array_size(required) && spend(s, 1); i++) {
        const char *name = json_string_value(json_array_get(required, i));
        if (!name) continue;
        const json_t *va = json_object_get(pa, name), *vb = json_object_get(pb, name);
        if (!vb && json_is_false(json_object_get(b, "additionalProperties"))) return true;
        if (!va || !vb || !has_name(json_object_get(b, "required"), name)) continue;
        if (all_apart(s, flatten(s, va), flatten(s, vb))) return true;
    }
    return false;
}

/* The values that enum and const leave, or NULL where they say nothing. */
static const json_t *listed(struct schema *s, const json_t *schema)
{
    const json_t *list = json_object_get(schema, "enum"), *one = json_object_get(schema, "const");
    return one ? keep(s, json_pack("[O]", one)) : list;
}

static int kinds_of(struct schema *s, const json_t *schema, const json_t *values)
{
    int kinds = schema_kinds(s, schema), all = 0;
    if (!values) return kinds;
    for (size_t i = 0; i < json_array_size(values); i++)
        all |= schema_kinds_both(schema_kind_of(json_array_get(values, i)), kinds);
    return all;
}

/* Of two plain schemas: no value is valid for both, provably. */
static bool apart(struct schema *s, const json_t *a, const json_t *b)
{
    if (!spend(s, 1)) return false;
    const json_t *va = listed(s, a), *vb = listed(s, b);
    int kinds = schema_kinds_both(kinds_of(s, a, va), kinds_of(s, b, vb));
    if (s->net->failed) return false;
    if (kinds == 0) return true;
    if (va && vb) {
        bool common = !spend(s, json_array_size(va) * json_array_size(vb));
        for (size_t i = 0; i < json_array_size(va) && !common; i++) common = contains(vb, json_array_get(va, i));
        return !common;
    }
    return kinds == K_OBJ && (property_tells(s, a, b) || property_tells(s, b, a));
}

bool merge_apart(struct schema *s, const json_t *list)
{
    size_t n = json_array_size(list);
    const json_t **flat = calloc(n + 1, sizeof *flat);
    bool ok = flat != NULL;
    if (!flat) net_no_memory(s->net);
    for (size_t i = 0; i < n && ok; i++) ok = (flat[i] = flatten(s, json_array_get(list, i))) != NULL;
    for (size_t i = 0; i < n && ok; i++)
        for (size_t j = i + 1; j < n && ok; j++) ok = all_apart(s, flat[i], flat[j]);
    free(flat);
    if (!ok && !s->net->failed)
        schema_refuse(
            s, "oneOf",
            "two of its schemas may hold at once; use anyOf, or give them a required property that tells them apart");
    return ok;
}
