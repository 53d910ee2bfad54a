/* grammar_shape: objects and arrays of a JSON schema, and values of no fixed shape.
 *
 * Properties come in the schema's order: required ones must, others may be left out, names that the schema doesn't know come last where
 * it allows them. `choice` is where a name must come, `after` where a value has ended:
 *
 *     {  --> choice[0] --name : value--> after[1] --,--> choice[1] --name : value--> after[2] ... after[n] --> }
 *                \--left out--> choice[1]    \--all that is left may be left out--> }
 *
 * Each property is written into the net once, however many ways lead to it. Names that come last must differ from the named ones: they are
 * a trie of those, each step away from which leads to free text; for this they are spelled in one way only (net_json_char).
 *
 * White space: nothing, one blank, or a line break with up to INDENT_BLANKS blanks or INDENT_TABS tabs, behind { [ , and before } ];
 * nothing or one blank behind a colon. So there is room for any usual layout and no endless run of it. */
#include "engine/grammar_schema.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INDENT_BLANKS 64
#define INDENT_TABS 16

static uint32_t up_to(struct net *n, char c, int max, uint32_t next)
{
    uint32_t at = next;
    for (int i = 0; i < max; i++) at = net_or(n, net_text(n, &c, 1, at), next);
    return at;
}

static uint32_t space(struct schema *s, uint32_t next)
{
    struct net *n = s->net;
    if (!s->space) {
        s->space = net_rule(n) + 1;
        uint32_t indent = net_or(n, up_to(n, ' ', INDENT_BLANKS, NODE_RET), up_to(n, '\t', INDENT_TABS, NODE_RET));
        uint32_t some = net_or(n, net_text(n, "\n", 1, indent), net_text(n, " ", 1, NODE_RET));
        net_rule_body(n, s->space - 1, net_or(n, some, NODE_RET));
    }
    return net_call(n, s->space - 1, next);
}

static uint32_t comma(struct schema *s, uint32_t next)
{
    return net_text(s->net, ",", 1, space(s, next));
}

static uint32_t colon(struct schema *s, uint32_t next)
{
    return net_text(s->net, ":", 1, net_or(s->net, net_text(s->net, " ", 1, next), next));
}

/* --- any value --- */

/* first, or first , first , ... between brackets; `item` is entered with what follows it. */
static uint32_t any_list(struct schema *s, char open, char close, uint32_t (*item)(struct schema *, uint32_t),
                         uint32_t next)
{
    struct net *n = s->net;
    uint32_t end = space(s, net_text(n, &close, 1, next)), after = net_hole(n), first = item(s, after);
    net_fill(n, after, comma(s, first), end);
    return net_text(n, &open, 1, net_or(n, space(s, first), end));
}

static uint32_t any_member(struct schema *s, uint32_t next)
{
    return scalar_text(s, 0, UINT32_MAX, colon(s, shape_value(s, next)));
}

static uint32_t any_object(struct schema *s, uint32_t next)
{
    return any_list(s, '{', '}', any_member, next);
}

uint32_t shape_value(struct schema *s, uint32_t next)
{
    struct net *n = s->net;
    if (!s->value) {
        s->value = net_rule(n) + 1;
        uint32_t word = net_or(n, net_text(n, "true", 4, NODE_RET),
                               net_or(n, net_text(n, "false", 5, NODE_RET), net_text(n, "null", 4, NODE_RET)));
        uint32_t scalar =
            net_or(n, scalar_text(s, 0, UINT32_MAX, NODE_RET), net_or(n, scalar_any_number(s, false, NODE_RET), word));
        uint32_t list = any_list(s, '[', ']', shape_value, NODE_RET);
        net_rule_body(n, s->value - 1, net_or(n, any_object(s, NODE_RET), net_or(n, list, scalar)));
    }
    return net_call(n, s->value - 1, next);
}

static uint32_t scalar_literal(struct schema *s, const json_t *v, uint32_t next)
{
    char *text = scalar_dump(v);
    uint32_t entry = text ? net_text(s->net, text, strlen(text), next) : net_no_memory(s->net);
    free(text);
    return entry;
}

static uint32_t literal_object(struct schema *s, const json_t *v, uint32_t end)
{
    const char *key;
    json_t *x;
    uint32_t at = end, first = NODE_FAIL;
    size_t n = 0, count = json_object_size(v);
    struct {
        const char *key;
        const json_t *value;
    } *member = malloc((count + 1) * sizeof *member);
    if (!member) return net_no_memory(s->net);
    json_object_foreach((json_t *)v, key, x) member[n].key = key, member[n++].value = x;
    while (n-- > 0) {
        json_t *name = json_string(member[n].key);
        if (first != NODE_FAIL) at = comma(s, first);
        first = scalar_literal(s, name, colon(s, shape_literal(s, member[n].value, at)));
        json_decref(name);
    }
    free(member);
    return net_text(s->net, "{", 1, count ? space(s, first) : end);
}

uint32_t shape_literal(struct schema *s, const json_t *v, uint32_t next)
{
    struct net *n = s->net;
    if (!json_is_object(v) && !json_is_array(v)) return scalar_literal(s, v, next);
    if (n->failed || s->depth == SCHEMA_NESTING) return schema_refuse(s, "enum", "a value is nested too deep");
    s->depth++;
    uint32_t end = space(s, net_text(n, json_is_object(v) ? "}" : "]", 1, next)), at = end, first = NODE_FAIL;
    if (json_is_object(v)) {
        at = literal_object(s, v, end);
    } else {
        for (size_t i = json_array_size(v); i-- > 0;) {
            if (first != NODE_FAIL) at = comma(s, first);
            first = shape_literal(s, json_array_get(v, i), at);
        }
        at = net_text(n, "[", 1, json_array_size(v) ? space(s, first) : end);
    }
    s->depth--;
    return at;
}

int shape_compile_object(struct net *n, struct err *e)
{
    struct schema s = {.net = n, .path = "#"};
    (void)e; /* the net has it */
    return net_finish(n, any_object(&s, NODE_RET));
}

/* --- objects --- */

struct prop {
    const char *name;
    size_t len;
    const json_t *schema;
    bool required;
};

struct object {
    struct prop *prop;
    size_t n;
    const json_t *others; /* the schema of names that aren't listed; false: there are none */
};

/* Looks from `*from` on and then from the start: names are mostly required in their properties' order. */
static struct prop *find(struct schema *s, struct object *o, const char *name, size_t *from)
{
    for (size_t i = 0; i < o->n && net_charge(s->net, 1); i++) {
        size_t at = (*from + i) % o->n;
        if (strcmp(o->prop[at].name, name) != 0) continue;
        *from = at + 1;
        return &o->prop[at];
    }
    return NULL;
}

/* A name that is required and not described is as names outside the list are, and comes behind them. */
static int read_required(struct schema *s, struct object *o, const json_t *required)
{
    size_t from = 0;
    if (required && !json_is_array(required)) return (int)schema_refuse(s, "required", "must be a list of names") - 1;
    for (size_t i = 0; i < json_array_size(required); i++) {
        const json_t *name = json_array_get(required, i);
        if (!json_is_string(name)) return (int)schema_refuse(s, "required", "must be a list of names") - 1;
        struct prop *p = find(s, o, json_string_value(name), &from);
        if (!p) {
            p = &o->prop[o->n++];
            *p = (struct prop){.name = json_string_value(name), .len = json_string_length(name), .schema = o->others};
        }
        p->required = true;
    }
    return 0;
}

/* -1: refused. o->prop is the caller's to free. */
static int read_object(struct schema *s, const json_t *schema, struct object *o)
{
    const json_t *props = json_object_get(schema, "properties"), *required = json_object_get(schema, "required");
    const json_t *others = json_object_get(schema, "additionalProperties");
    const char *key;
    json_t *v;
    if (props && !json_is_object(props)) return (int)schema_refuse(s, "properties", "must be an object") - 1;
    if (json_object_size(props) + json_array_size(required) > SCHEMA_PROPERTIES)
        return (int)schema_refuse(s, "properties", "too large: too many properties") - 1;
    o->prop = malloc((json_object_size(props) + json_array_size(required) + 1) * sizeof *o->prop);
    if (!o->prop) return (int)net_no_memory(s->net) - 1;
    json_object_foreach((json_t *)props, key, v) o->prop[o->n++] =
        (struct prop){.name = key, .len = strlen(key), .schema = v};
    o->others = others ? others : json_true();
    if (read_required(s, o, required)) return -1;
    if (!others && (props || o->n > 0)) o->others = json_false(); /* open only by silence: nothing else is offered */
    return 0;
}

/* --- names --- */

static uint32_t decode(const char **s)
{
    const uint8_t *p = (const uint8_t *)*s;
    int n = p[0] < 0x80 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    uint32_t v = n == 1 ? p[0] : p[0] & (0x7fu >> n);
    for (int i = 1; i < n; i++) v = v << 6 | (p[i] & 0x3fu);
    *s += n;
    return v;
}

/* A name with its quotes, from its end backwards. */
static uint32_t name_text(struct schema *s, const struct prop *p, uint32_t next)
{
    const char *end = p->name + p->len;
    uint32_t at = net_text(s->net, "\"", 1, next);
    while (end > p->name && !s->net->failed) {
        for (end--; ((uint8_t)*end & 0xc0) == 0x80; end--) continue; /* jansson's strings are well-formed UTF-8 */
        const char *c = end;
        at = net_json_char(s->net, decode(&c), at);
    }
    return net_text(s->net, "\"", 1, at);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct prop *)a)->name, ((const struct prop *)b)->name);
}

/* Sorted names p[0..n) agree in their first `at` bytes: the rest of a name that is none of them, with its closing quote. */
static uint32_t other_rest(struct schema *s, const struct prop *p, size_t n, size_t at, uint32_t free_text,
                           uint32_t next)
{
    struct net *net = s->net;
    uint32_t *c = malloc(n * sizeof *c), count = 0, all = NODE_FAIL;
    size_t i = 0;
    if (!c) return net_no_memory(net);
    bool taken = p[0].len == at;
    for (i += taken; i < n && !net->failed;) {
        const char *rest = p[i].name + at;
        c[count] = decode(&rest);
        size_t step = (size_t)(rest - (p[i].name + at)), j = i + 1;
        while (j < n && memcmp(p[j].name + at, p[i].name + at, step) == 0) j++;
        all = net_or(net, all, net_json_char(net, c[count], other_rest(s, p + i, j - i, at + step, free_text, next)));
        count++;
        i = j;
    }
    all = net_or(net, all, net_json_other(net, c, count, free_text));
    free(c);
    return taken ? all : net_or(net, all, net_text(net, "\"", 1, next));
}

static uint32_t other_name(struct schema *s, const struct object *o, uint32_t next)
{
    if (o->n == 0) return scalar_text(s, 0, UINT32_MAX, next);
    struct prop *sorted = malloc(o->n * sizeof *sorted);
    if (!sorted) return net_no_memory(s->net);
    memcpy(sorted, o->prop, o->n * sizeof *sorted);
    qsort(sorted, o->n, sizeof *sorted, by_name);
    for (size_t i = 0; i < o->n; i++)
        if (o->prop[i].len > SCHEMA_NAME_MAX)
            schema_refuse(s, "additionalProperties", "not served beside names of more than 256 bytes");
    uint32_t free_text = net_hole(s->net), entry = NODE_FAIL;
    net_fill(s->net, free_text, net_json_other(s->net, NULL, 0, free_text), net_text(s->net, "\"", 1, next));
    if (!s->net->failed) entry = net_text(s->net, "\"", 1, other_rest(s, sorted, o->n, 0, free_text, next));
    free(sorted);
    return entry;
}

static uint32_t property(struct schema *s, const struct prop *p, uint32_t next)
{
    size_t mark = schema_enter(s, "properties", p->name);
    uint32_t value = schema_net(s, p->schema, next);
    schema_leave(s, mark);
    return name_text(s, p, colon(s, value));
}

static uint32_t other_property(struct schema *s, const struct object *o, uint32_t next)
{
    if (json_is_false(o->others)) return NODE_FAIL;
    size_t mark = schema_enter(s, "additionalProperties", NULL);
    uint32_t value = schema_net(s, o->others, next);
    schema_leave(s, mark);
    return other_name(s, o, colon(s, value));
}

uint32_t shape_object(struct schema *s, const json_t *schema, uint32_t next)
{
    struct net *n = s->net;
    struct object o = {0};
    uint32_t entry = NODE_FAIL;
    if (read_object(s, schema, &o)) goto out;
    uint32_t end = space(s, net_text(n, "}", 1, next)), after = net_hole(n);
    uint32_t choice = other_property(s, &o, after);
    bool may_end = true;
    net_fill(n, after, comma(s, choice), end);
    for (size_t i = o.n; i-- > 0 && !n->failed;) {
        uint32_t this = property(s, &o.prop[i], after);
        choice = net_or(n, this, o.prop[i].required ? NODE_FAIL : choice);
        may_end = may_end && !o.prop[i].required;
        after = net_or(n, comma(s, choice), may_end ? end : NODE_FAIL);
    }
    entry = net_text(n, "{", 1, net_or(n, space(s, choice), may_end ? end : NODE_FAIL));
out:
    free(o.prop);
    return entry;
}

/* --- arrays --- */

struct array {
    const json_t *prefix, *items; /* items false: none behind the prefix */
    uint32_t nprefix, min, max;   /* max UINT32_MAX: any */
    uint32_t rule;                /* of items, + 1; 0: not built */
};

static int read_array(struct schema *s, const json_t *schema, struct array *a)
{
    const json_t *items = json_object_get(schema, "items");
    *a = (struct array){.prefix = json_object_get(schema, "prefixItems"), .items = items, .max = UINT32_MAX};
    if (a->prefix && !json_is_array(a->prefix))
        return (int)schema_refuse(s, "prefixItems", "must be a list of schemas") - 1;
    if (json_is_array(items)) return (int)schema_refuse(s, "items", "a list of schemas is served as prefixItems") - 1;
    if (schema_count(s, schema, "minItems", &a->min) || schema_count(s, schema, "maxItems", &a->max)) return -1;
    a->nprefix = (uint32_t)json_array_size(a->prefix);
    if (!items) a->items = a->nprefix > 0 && a->min <= a->nprefix ? json_false() : json_true();
    if (json_is_false(a->items) && a->max > a->nprefix) a->max = a->nprefix;
    if (a->max != UINT32_MAX && a->max > NODES_MAX) return (int)schema_refuse(s, "maxItems", "too large") - 1;
    if (a->min > NODES_MAX) return (int)schema_refuse(s, "minItems", "too large") - 1;
    return 0;
}

/* The item at an index; those behind the prefix are one rule. */
static uint32_t item(struct schema *s, struct array *a, uint32_t index, uint32_t next)
{
    if (index >= a->nprefix) {
        if (!a->rule) {
            a->rule = net_rule(s->net) + 1;
            size_t mark = schema_enter(s, "items", NULL);
            net_rule_body(s->net, a->rule - 1, schema_net(s, a->items, NODE_RET));
            schema_leave(s, mark);
        }
        return net_call(s->net, a->rule - 1, next);
    }
    char number[24];
    snprintf(number, sizeof number, "%u", index);
    size_t mark = schema_enter(s, "prefixItems", number);
    uint32_t entry = schema_net(s, json_array_get(a->prefix, index), next);
    schema_leave(s, mark);
    return entry;
}

/* Built from the last item backwards: `after` is where item i has ended. Without a maximum the items from index `last` on are a loop. */
uint32_t shape_array(struct schema *s, const json_t *schema, uint32_t next)
{
    struct net *n = s->net;
    struct array a;
    if (read_array(s, schema, &a) || a.min > a.max) return NODE_FAIL;
    uint32_t end = space(s, net_text(n, "]", 1, next)), after = end, first = NODE_FAIL, count = a.max;
    if (a.max == UINT32_MAX) {
        count = a.min > a.nprefix ? a.min : a.nprefix;
        count += count == a.nprefix; /* the last of them repeats */
        after = net_hole(n);
        first = item(s, &a, count - 1, after);
        net_fill(n, after, comma(s, first), end);
        count--;
        after = net_or(n, comma(s, first), count >= a.min ? end : NODE_FAIL);
    }
    for (uint32_t i = count; i-- > 0 && !n->failed;) {
        first = item(s, &a, i, after);
        after = net_or(n, comma(s, first), i >= a.min ? end : NODE_FAIL);
    }
    return net_text(n, "[", 1, net_or(n, space(s, first), a.min == 0 ? end : NODE_FAIL));
}
