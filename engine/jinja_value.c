/* Values of the template language: what they are, how they compare, what iterating over them gives.
 *
 * The rules are Python's: a bool is the number 0 or 1, a list never equals a tuple, strings are ordered by code point, a dict
 * keeps the order in which it was written. Values don't change, so they are passed by copy and share what they point to.
 *
 * Walks over nested values carry a depth of at most JINJA_VALUE_DEPTH, and every element costs a step, so a template can make no
 * value that is dear to look at. */
#include "base/buf.h"
#include "engine/jinja.h"
#include "engine/tokenizer_utf8.h"
#include <math.h>
#include <string.h>

struct val v_dict(const struct dict_pair *pairs, size_t n)
{
    return (struct val){.t = V_DICT, .n = n, .pairs = pairs};
}

struct val v_cstr(const char *s)
{
    return v_str(s, strlen(s));
}

bool v_is(const struct val *v, const char *s)
{
    return v->t == V_STR && v->n == strlen(s) && !memcmp(v->s, s, v->n);
}

const char *val_type(const struct val *v)
{
    static const char *const names[] = {[V_UNDEF] = "Undefined", [V_NONE] = "NoneType", [V_BOOL] = "bool", [V_INT] = "int", [V_FLOAT] = "float",
                                        [V_STR] = "str", [V_LIST] = "list", [V_TUPLE] = "tuple", [V_DICT] = "dict", [V_NS] = "Namespace",
                                        [V_FUNC] = "function", [V_LOOP] = "LoopContext"};
    return names[v->t];
}

bool val_true(const struct val *v)
{
    switch (v->t) {
    case V_UNDEF:
    case V_NONE: return false;
    case V_BOOL: return v->b;
    case V_INT: return v->i != 0;
    case V_FLOAT: return v->f != 0;
    case V_STR:
    case V_LIST:
    case V_TUPLE:
    case V_DICT: return v->n != 0;
    default: return true;
    }
}

/* --- comparing --- */

static int compare_numbers(const struct val *a, const struct val *b)
{
    if (v_is_integer(a) && v_is_integer(b)) return (v_integer(a) > v_integer(b)) - (v_integer(a) < v_integer(b));
    return (v_number(a) > v_number(b)) - (v_number(a) < v_number(b));
}

static int compare_strings(const struct val *a, const struct val *b)
{
    size_t n = a->n < b->n ? a->n : b->n;
    int c = n ? memcmp(a->s, b->s, n) : 0; /* UTF-8 keeps the order of code points */
    return c ? c : (a->n > b->n) - (a->n < b->n);
}

static int equal(struct run *r, const struct val *a, const struct val *b, int depth, bool *out);

static int equal_items(struct run *r, const struct val *a, const struct val *b, int depth, bool *out)
{
    *out = a->n == b->n;
    for (size_t i = 0; i < a->n && *out; i++)
        if (equal(r, &a->items[i], &b->items[i], depth, out)) return -1;
    return 0;
}

static int equal_dicts(struct run *r, const struct val *a, const struct val *b, int depth, bool *out)
{
    *out = a->n == b->n;
    for (size_t i = 0; i < a->n && *out; i++) {
        const struct val *other;
        if (val_get(r, b, &a->pairs[i].k, &other)) return -1;
        *out = other != NULL;
        if (other && equal(r, &a->pairs[i].v, other, depth, out)) return -1;
    }
    return 0;
}

static int equal(struct run *r, const struct val *a, const struct val *b, int depth, bool *out)
{
    if (depth > JINJA_VALUE_DEPTH) return run_fail(r, "values are nested too deeply to compare");
    if (run_step(r, 1)) return -1;
    if (v_is_number(a) && v_is_number(b)) {
        *out = compare_numbers(a, b) == 0 && !isnan(v_number(a)) && !isnan(v_number(b));
        return 0;
    }
    *out = false;
    if (a->t != b->t) return 0;
    switch (a->t) {
    case V_STR: *out = a->n == b->n && !memcmp(a->s, b->s, a->n); return 0;
    case V_LIST:
    case V_TUPLE: return equal_items(r, a, b, depth + 1, out);
    case V_DICT: return equal_dicts(r, a, b, depth + 1, out);
    case V_NS: *out = a->ns == b->ns; return 0;
    case V_FUNC: *out = a->fn == b->fn; return 0;
    case V_LOOP: *out = a->loop == b->loop; return 0;
    default: *out = true; return 0; /* None, undefined */
    }
}

int val_equal(struct run *r, const struct val *a, const struct val *b, bool *out)
{
    return equal(r, a, b, 0, out);
}

static int order(struct run *r, const struct val *a, const struct val *b, int depth, int *out)
{
    if (depth > JINJA_VALUE_DEPTH) return run_fail(r, "values are nested too deeply to compare");
    if (v_is_number(a) && v_is_number(b)) {
        *out = compare_numbers(a, b);
    } else if (a->t == V_STR && b->t == V_STR) {
        *out = compare_strings(a, b);
    } else if (a->t == b->t && (a->t == V_LIST || a->t == V_TUPLE)) {
        for (size_t i = 0; i < a->n && i < b->n; i++) {
            bool same;
            if (equal(r, &a->items[i], &b->items[i], depth + 1, &same)) return -1;
            if (!same) return order(r, &a->items[i], &b->items[i], depth + 1, out);
        }
        *out = (a->n > b->n) - (a->n < b->n);
    } else {
        return run_fail(r, "'<' not supported between instances of '%s' and '%s'", val_type(a), val_type(b));
    }
    return run_step(r, 1);
}

int val_order(struct run *r, const struct val *a, const struct val *b, int *out)
{
    return order(r, a, b, 0, out);
}

/* --- containers --- */

static bool hashable(const struct val *v)
{
    return v->t != V_LIST && v->t != V_DICT;
}

int val_get(struct run *r, const struct val *dict, const struct val *key, const struct val **out)
{
    *out = NULL;
    if (!hashable(key)) return run_fail(r, "unhashable type: '%s'", val_type(key));
    if (run_step(r, 1 + (int64_t)(dict->n / 16))) return -1;
    for (size_t i = 0; i < dict->n && !*out; i++) {
        const struct val *k = &dict->pairs[i].k;
        bool same = false;
        if (k->t == V_STR && key->t == V_STR) same = k->n == key->n && !memcmp(k->s, key->s, k->n);
        else if (val_equal(r, k, key, &same)) return -1;
        if (same) *out = &dict->pairs[i].v;
    }
    return 0;
}

int val_in(struct run *r, const struct val *x, const struct val *in, bool *out)
{
    const struct val *found;
    *out = false;
    switch (in->t) {
    case V_STR:
        if (x->t != V_STR) return run_fail(r, "'in <string>' requires string as left operand, not %s", val_type(x));
        *out = x->n == 0 || memmem(in->s, in->n, x->s, x->n) != NULL;
        return run_step(r, (int64_t)(in->n / 256));
    case V_LIST:
    case V_TUPLE:
        for (size_t i = 0; i < in->n && !*out; i++)
            if (val_equal(r, x, &in->items[i], out)) return -1;
        return 0;
    case V_DICT:
        if (val_get(r, in, x, &found)) return -1;
        *out = found != NULL;
        return 0;
    case V_UNDEF: return 0;
    default: return run_fail(r, "argument of type '%s' is not iterable", val_type(in));
    }
}

/* The characters of a string, each as a string. */
static int characters(struct run *r, const struct val *v, const struct val **items, size_t *n)
{
    size_t count = buf_characters(v->s, v->n), at = 0;
    struct val *chars = run_alloc(r, (count + 1) * sizeof *chars);
    if (!chars) return -1;
    for (size_t i = 0; i < count; i++) {
        uint32_t cp;
        int len = utf8_decode(v->s + at, v->n - at, &cp);
        chars[i] = v_str(v->s + at, (size_t)(len > 0 ? len : 1));
        at += chars[i].n;
    }
    *items = chars;
    *n = count;
    return run_step(r, (int64_t)count);
}

int val_list(struct run *r, const struct val *v, const struct val **items, size_t *n)
{
    *items = NULL;
    *n = 0;
    if (v->t == V_LIST || v->t == V_TUPLE) {
        *items = v->items;
        *n = v->n;
        return 0;
    }
    if (v->t == V_STR) return characters(r, v, items, n);
    if (v->t == V_UNDEF) return 0;
    if (v->t != V_DICT) return run_fail(r, "'%s' object is not iterable", val_type(v));
    struct val *keys = run_alloc(r, (v->n + 1) * sizeof *keys);
    if (!keys) return -1;
    for (size_t i = 0; i < v->n; i++) keys[i] = v->pairs[i].k;
    *items = keys;
    *n = v->n;
    return run_step(r, (int64_t)v->n);
}

int val_length(struct run *r, const struct val *v, size_t *n)
{
    switch (v->t) {
    case V_STR: *n = buf_characters(v->s, v->n); return run_step(r, (int64_t)(v->n / 256));
    case V_LIST:
    case V_TUPLE:
    case V_DICT: *n = v->n; return 0;
    case V_UNDEF: *n = 0; return 0;
    default: return run_fail(r, "object of type '%s' has no len()", val_type(v));
    }
}

int val_call_text(struct run *r, const struct val *v, struct val *out)
{
    struct text t = {0};
    if (v->t == V_STR) {
        *out = *v;
        return 0;
    }
    if (print_str(r, &t, v)) return -1;
    *out = text_val(&t);
    return 0;
}

int val_escape(struct run *r, const struct val *v, struct val *out)
{
    static const char from[] = "&<>\"'";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#34;", "&#39;"};
    struct text t = {0};
    for (size_t i = 0; i < v->n; i++) {
        const char *k = v->s[i] ? strchr(from, v->s[i]) : NULL;
        if (k ? text_add(r, &t, to[k - from], strlen(to[k - from])) : text_add(r, &t, v->s + i, 1)) return -1;
    }
    *out = text_val(&t);
    out->safe = true;
    return run_step(r, (int64_t)(v->n / 64));
}

/* --- from JSON: strings are borrowed from it unless the run says otherwise --- */

static int from_text(struct run *r, const char *s, size_t n, struct val *out)
{
    char *copy = r->copy_json ? run_alloc(r, n + 1) : NULL;
    if (r->copy_json && !copy) return -1;
    if (copy && n) memcpy(copy, s, n);
    *out = v_str(copy ? copy : s, n);
    return 0;
}

static int from_array(struct run *r, const json_t *j, int depth, struct val *out)
{
    size_t n = json_array_size(j);
    struct val *items = run_alloc(r, (n + 1) * sizeof *items);
    if (!items) return -1;
    for (size_t i = 0; i < n; i++)
        if (val_from_json(r, json_array_get(j, i), depth + 1, &items[i])) return -1;
    *out = v_items(V_LIST, items, n);
    return 0;
}

static int from_object(struct run *r, const json_t *j, int depth, struct val *out)
{
    size_t n = 0;
    const char *key;
    json_t *v;
    struct dict_pair *pairs = run_alloc(r, (json_object_size(j) + 1) * sizeof *pairs);
    if (!pairs) return -1;
    json_object_foreach((json_t *)j, key, v) {
        if (from_text(r, key, strlen(key), &pairs[n].k) || val_from_json(r, v, depth + 1, &pairs[n++].v)) return -1;
    }
    *out = v_dict(pairs, n);
    return 0;
}

int val_from_json(struct run *r, const json_t *j, int depth, struct val *out)
{
    if (depth > JINJA_VALUE_DEPTH) return run_fail(r, "values are nested too deeply");
    if (run_step(r, 1)) return -1;
    switch (json_typeof(j)) {
    case JSON_OBJECT: return from_object(r, j, depth, out);
    case JSON_ARRAY: return from_array(r, j, depth, out);
    case JSON_STRING: return from_text(r, json_string_value(j), json_string_length(j), out);
    case JSON_INTEGER: *out = v_int(json_integer_value(j)); return 0;
    case JSON_REAL: *out = v_float(json_real_value(j)); return 0;
    case JSON_TRUE: *out = v_bool(true); return 0;
    case JSON_FALSE: *out = v_bool(false); return 0;
    default: *out = v_none(); return 0;
    }
}
