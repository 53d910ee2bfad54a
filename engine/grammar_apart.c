/* grammar_apart: proves that no value is valid for two schemas of a oneOf.
 *
 *     schemas --flatten--> plain ones --+--listed values--> one set of all: each value has one owner
 *                                       +--other kinds----> one owner for each kind
 *                                       +--objects--------> parts by the values of a property that they require (a tag), parts of
 *                                                           parts by another, and what no tag parts pair by pair
 *
 * What isn't proved counts as not apart: the oneOf is refused then, for an answer could be valid for two of its schemas and so for none.
 *
 * A tag is a property that objects require and whose values they list (enum, const). With one set of all values, objects that share one
 * are put together; objects of different parts are apart. So a union of hundreds of tagged objects costs one look at each. Objects that
 * lack the tag are compared with all others in pairs: apart are two where one requires what the other forbids, or where both require a
 * property whose schemas are apart themselves. Such recursion ends at SCHEMA_NESTING. */
#include "engine/grammar_schema.h"
#include "engine/grammar_value.h"
#include <stdlib.h>
#include <string.h>

#define SEVERAL (-2) /* owners */

#define SLOTS 7 /* one for each bit of a kind; that of K_NUM is for numbers that aren't whole */

struct member {
    const json_t *plain;
    int owner; /* which schema of the oneOf */
    int part;  /* of a split by a tag; NO_OWNER: it has no such tag */
};

struct apart {
    struct schema *s;
    struct value_set values;
    int open[SLOTS], listed[SLOTS]; /* owners: of schemas that don't list their values, and of values */
    struct member *object;
    size_t nobject;
};

static bool lists_apart(struct schema *s, const json_t *const *list, size_t n);

/* What a plain schema lists: *one or the items of *many; false: it lists nothing. */
static bool listing(const json_t *plain, const json_t **one, const json_t **many)
{
    *one = json_object_get(plain, "const");
    *many = *one ? NULL : json_object_get(plain, "enum");
    return *one || *many;
}

static size_t listed_count(const json_t *plain)
{
    const json_t *one, *many;
    return listing(plain, &one, &many) ? one ? 1 : json_array_size(many) : 0;
}

static void add_owner(int *at, int owner)
{
    *at = *at == NO_OWNER || *at == owner ? owner : SEVERAL;
}

/* --- values and kinds --- */

static void add_kinds(int *owners, int kinds, int owner)
{
    if (kinds & K_NUM) kinds |= K_INT;
    for (int i = 0; i < SLOTS; i++)
        if (kinds & 1 << i) add_owner(&owners[i], owner);
}

/* A listed value; false: another schema lists it too. */
static bool add_value(struct apart *a, const json_t *v, int kinds, int owner)
{
    int kind = schema_kind_of(v);
    if (!schema_kind_fits(kind, kinds)) return true;
    add_owner(&a->listed[__builtin_ctz((unsigned)kind)], owner);
    return value_set_add(&a->values, v, owner) == owner;
}

static bool add_plain(struct apart *a, const json_t *plain, int owner)
{
    const json_t *one, *many;
    int kinds = schema_kinds(a->s, plain);
    if (kinds < 0) return false;
    if (listing(plain, &one, &many)) {
        if (one) return add_value(a, one, kinds, owner);
        for (size_t i = 0; i < json_array_size(many); i++)
            if (!add_value(a, json_array_get(many, i), kinds, owner)) return false;
        return true;
    }
    add_kinds(a->open, kinds, owner);
    if (kinds & K_OBJ) a->object[a->nobject++] = (struct member){.plain = plain, .owner = owner};
    return true;
}

/* But for objects among each other. */
static bool kinds_apart(const struct apart *a)
{
    for (int i = 0; i < SLOTS; i++) {
        if (a->open[i] == SEVERAL && 1 << i != K_OBJ) return false;
        if (a->open[i] != NO_OWNER && a->listed[i] != NO_OWNER && (a->open[i] != a->listed[i] || a->open[i] == SEVERAL))
            return false;
    }
    return true;
}

/* --- objects in pairs --- */

static bool requires(struct schema *s, const json_t *plain, const char *name)
{
    const json_t *list = json_object_get(plain, "required");
    size_t i = 0, n = json_array_size(list);
    for (; i < n; i++) {
        const char *k = json_string_value(json_array_get(list, i));
        if (k && strcmp(k, name) == 0) break;
    }
    schema_spend(s, 1 + i);
    return i < n;
}

/* a needs a property that b forbids. */
static bool forbids(struct schema *s, const json_t *b, const json_t *a)
{
    const json_t *required = json_object_get(a, "required"), *pb = json_object_get(b, "properties");
    if (!json_is_false(json_object_get(b, "additionalProperties"))) return false;
    for (size_t i = 0; i < json_array_size(required) && schema_spend(s, 2); i++) {
        const char *name = json_string_value(json_array_get(required, i));
        if (name && !json_object_get(pb, name)) return true;
    }
    return false;
}

/* Both need a property, and its values in a are never those in b. */
static bool property_tells(struct schema *s, const json_t *a, const json_t *b)
{
    const json_t *required = json_object_get(a, "required"), *pa = json_object_get(a, "properties"),
                 *pb = json_object_get(b, "properties");
    for (size_t i = 0; i < json_array_size(required) && schema_spend(s, 4); i++) {
        const char *name = json_string_value(json_array_get(required, i));
        const json_t *va = name ? json_object_get(pa, name) : NULL, *vb = name ? json_object_get(pb, name) : NULL;
        if (!va || !vb || !requires(s, b, name)) continue;
        const json_t *flat[] = {merge_flatten(s, va), merge_flatten(s, vb)};
        if (lists_apart(s, flat, 2)) return true;
    }
    return false;
}

static bool pair_apart(struct schema *s, const struct member *a, const struct member *b)
{
    if (a->owner == b->owner) return true;
    if (!schema_spend(s, 4) || s->depth == SCHEMA_NESTING) return false;
    s->depth++;
    bool apart =
        forbids(s, a->plain, b->plain) || forbids(s, b->plain, a->plain) || property_tells(s, a->plain, b->plain);
    s->depth--;
    return apart && !s->net->failed;
}

/* --- objects by a tag --- */

/* The alternatives of a member's property of that name where it is required; NULL: it is no tag. */
static const json_t *tag_of(struct schema *s, const json_t *plain, const char *name, size_t *count)
{
    const json_t *schema = json_object_get(json_object_get(plain, "properties"), name), *one, *many;
    if (!schema || !requires(s, plain, name)) return NULL;
    const json_t *flat = merge_flatten(s, schema);
    for (size_t i = 0; i < json_array_size(flat); i++) {
        const json_t *p = json_array_get(flat, i);
        if (!listing(p, &one, &many) || !schema_spend(s, 1)) return NULL;
        *count += listed_count(p);
    }
    return flat;
}

static int root_of(struct member *m, int i)
{
    while (m[i].part != i) i = m[i].part = m[m[i].part].part;
    return i;
}

static void join(struct member *m, int i, int j)
{
    m[root_of(m, i)].part = root_of(m, j);
}

/* Member i's values into the set; where one is there, its part joins that one's. */
static void add_tag(struct value_set *set, struct member *m, int i, const json_t *flat)
{
    for (size_t k = 0; k < json_array_size(flat); k++) {
        const json_t *one, *many;
        listing(json_array_get(flat, k), &one, &many);
        for (size_t j = 0, n = one ? 1 : json_array_size(many); j < n && !set->net->failed; j++)
            join(m, i, value_set_add(set, one ? one : json_array_get(many, j), i));
    }
}

/* Parts by the values of a property; how many have it. -1: refused. */
static int split(struct schema *s, struct member *m, size_t n, const char *name)
{
    struct value_set set;
    size_t count = 0;
    int have = 0;
    for (size_t i = 0; i < n; i++) {
        m[i].part = tag_of(s, m[i].plain, name, &count) ? (int)i : NO_OWNER;
        have += m[i].part != NO_OWNER;
    }
    if (s->net->failed || value_set_init(&set, s->net, count)) return -1;
    for (size_t i = 0; i < n; i++)
        if (m[i].part != NO_OWNER)
            add_tag(&set, m, (int)i,
                    merge_flatten(s, json_object_get(json_object_get(m[i].plain, "properties"), name)));
    value_set_close(&set);
    for (size_t i = 0; i < n; i++)
        if (m[i].part != NO_OWNER) m[i].part = root_of(m, (int)i);
    return s->net->failed ? -1 : have;
}

static int by_part(const void *a, const void *b)
{
    const struct member *x = a, *y = b;
    return x->part != y->part ? (x->part > y->part) - (x->part < y->part)
                              : (x->owner > y->owner) - (x->owner < y->owner);
}

static bool one_owner(const struct member *m, size_t n)
{
    for (size_t i = 1; i < n; i++)
        if (m[i].owner != m[0].owner) return false;
    return true;
}

static bool one_part(const struct member *m, size_t n)
{
    for (size_t i = 1; i < n; i++)
        if (m[i].part != m[0].part) return false;
    return true;
}

/* The first `from` members against each other and against the rest. */
static bool pairs_apart(struct schema *s, const struct member *m, size_t from, size_t n)
{
    for (size_t i = 0; i < from; i++)
        for (size_t j = i + 1; j < n; j++)
            if (!pair_apart(s, &m[i], &m[j])) return false;
    return true;
}

/* Each split makes smaller sets, so recursion ends; a set that no tag splits is compared in pairs. */
static bool objects_apart(struct schema *s, struct member *m, size_t n)
{
    const json_t *names = n ? json_object_get(m[0].plain, "required") : NULL;
    if (n < 2 || one_owner(m, n)) return true;
    for (size_t k = 0; k < json_array_size(names) && schema_spend(s, n); k++) {
        const char *name = json_string_value(json_array_get(names, k));
        size_t none = 0, start, count = 0;
        if (!name || !tag_of(s, m[0].plain, name, &count)) continue;
        int have = split(s, m, n, name);
        if (have < 0) return false;
        if (have < 2 || one_part(m, n)) continue;
        qsort(m, n, sizeof *m, by_part); /* those without a tag first */
        while (none < n && m[none].part == NO_OWNER) none++;
        if (one_part(m + none, n - none)) continue;
        if (!pairs_apart(s, m, none, n)) return false;
        for (start = none; start < n; start += count) {
            for (count = 1; start + count < n && m[start + count].part == m[start].part;) count++;
            if (!objects_apart(s, m + start, count)) return false;
        }
        return true;
    }
    return pairs_apart(s, m, n, n);
}

/* --- all of it --- */

static bool apart_in(struct apart *a, const json_t *const *list, size_t n)
{
    for (int i = 0; i < SLOTS; i++) a->open[i] = a->listed[i] = NO_OWNER;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < json_array_size(list[i]); j++)
            if (!schema_spend(a->s, 4) || !add_plain(a, json_array_get(list[i], j), (int)i)) return false;
    return kinds_apart(a) && objects_apart(a->s, a->object, a->nobject) && !a->s->net->failed;
}

/* Lists of plain schemas: no value is valid for schemas of two lists. */
static bool lists_apart(struct schema *s, const json_t *const *list, size_t n)
{
    struct apart a = {.s = s};
    size_t plains = 0, values = 0;
    bool ok = false;
    for (size_t i = 0; i < n; i++) {
        if (!list[i]) return false;
        plains += json_array_size(list[i]);
        for (size_t j = 0; j < json_array_size(list[i]); j++) values += listed_count(json_array_get(list[i], j));
    }
    if (!schema_spend(s, plains) || value_set_init(&a.values, s->net, values)) return false;
    a.object = malloc((plains + 1) * sizeof *a.object);
    if (a.object)
        ok = apart_in(&a, list, n);
    else
        net_no_memory(s->net);
    free(a.object);
    value_set_close(&a.values);
    return ok;
}

bool merge_apart(struct schema *s, const json_t *list)
{
    size_t n = json_array_size(list);
    const json_t **flat = calloc(n + 1, sizeof *flat);
    bool ok = flat != NULL;
    if (!flat) net_no_memory(s->net);
    for (size_t i = 0; i < n && ok; i++) ok = (flat[i] = merge_flatten(s, json_array_get(list, i))) != NULL;
    ok = ok && lists_apart(s, flat, n);
    free(flat);
    if (!ok && !s->net->failed)
        schema_refuse(
            s, "oneOf",
            "two of its schemas may hold at once; use anyOf, or give them a required property that tells them apart");
    return ok;
}
