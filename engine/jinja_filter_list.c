/* Filters on lists, dicts and whatever can be iterated.
 *
 * Where Jinja gives a lazy iterator a list is given: a template can't see the difference, for nothing in it changes. Sorting is stable and
 * ignores the case of strings unless told otherwise. */
#include "engine/jinja.h"
#include "engine/tokenizer_utf8.h"
#include <stdlib.h>
#include <string.h>

/* --- "a.b.0": what attribute= names, item first as Jinja does --- */

static int get_path(struct run *r, const struct val *of, const struct val *path, const struct val *otherwise, struct val *out)
{
    *out = *of;
    if (!path || path->t == V_NONE) return 0;
    if (v_is_integer(path)) return run_item(r, of, path, out);
    if (path->t != V_STR) return run_fail(r, "an attribute's name was expected, not %s", val_type(path));
    for (const char *p = path->s, *end = p + path->n, *dot; p <= end; p = dot + 1) {
        dot = memchr(p, '.', (size_t)(end - p));
        if (!dot) dot = end;
        struct val key = v_str(p, (size_t)(dot - p)), from = *out;
        bool digits = key.n > 0 && key.n < 9;
        int64_t i = 0;
        for (size_t k = 0; k < key.n && digits; k++) digits = key.s[k] >= '0' && key.s[k] <= '9', i = i * 10 + key.s[k] - '0';
        if (digits) key = v_int(i);
        if (run_item(r, &from, &key, out)) return -1;
    }
    if (out->t == V_UNDEF && otherwise) *out = *otherwise;
    return 0;
}

static int fold_case(struct run *r, struct val *v, bool sensitive)
{
    struct val s = *v;
    struct args none = {0};
    return v->t != V_STR || sensitive ? 0 : run_builtin(r, jinja_find(jinja_string_methods, "lower", 5), &s, &none, v);
}

/* --- sorting --- */

struct keyed {
    struct val key, v;
    size_t at;
};

struct sorting {
    struct run *r;
    bool failed, reverse;
};

static int compare_keyed(const void *a, const void *b, void *u)
{
    const struct keyed *x = a, *y = b;
    struct sorting *s = u;
    int c = 0;
    if (s->failed || val_order(s->r, &x->key, &y->key, &c)) s->failed = true;
    if (c == 0) return (x->at > y->at) - (x->at < y->at); /* a reversed sort keeps equal ones in order, too */
    return s->reverse ? -c : c;
}

static int sort_keyed(struct run *r, struct keyed *k, size_t n, bool reverse, struct val *out)
{
    struct sorting s = {r, false, reverse};
    struct val *items = run_alloc(r, (n + 1) * sizeof *items);
    if (!items) return -1;
    qsort_r(k, n, sizeof *k, compare_keyed, &s);
    if (s.failed) return -1;
    for (size_t i = 0; i < n; i++) items[i] = k[i].v;
    *out = v_items(V_LIST, items, n);
    return 0;
}

static int make_keys(struct run *r, const struct val *self, const struct val *path, bool sensitive, struct keyed **out, size_t *n)
{
    const struct val *items;
    if (val_list(r, self, &items, n)) return -1;
    struct keyed *k = run_alloc(r, (*n + 1) * sizeof *k);
    if (!k) return -1;
    for (size_t i = 0; i < *n; i++) {
        k[i].v = items[i];
        k[i].at = i;
        if (get_path(r, &items[i], path, NULL, &k[i].key) || fold_case(r, &k[i].key, sensitive)) return -1;
    }
    *out = k;
    return 0;
}

static int f_sort(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct keyed *k;
    size_t n;
    return make_keys(r, self, arg(a, 2), arg_bool(a, 1, false), &k, &n) || sort_keyed(r, k, n, arg_bool(a, 0, false), out) ? -1 : 0;
}

static int f_dictsort(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val items, by = v_str("key", 3);
    struct args none = {0};
    struct keyed *k;
    size_t n;
    if (self->t != V_DICT) return run_fail(r, "dictsort needs a dict, not %s", val_type(self));
    if (arg_str(r, a, 1, &by)) return -1;
    if (!v_is(&by, "key") && !v_is(&by, "value")) return run_fail(r, "You can only sort by either \"key\" or \"value\"");
    struct val path = v_int(v_is(&by, "value"));
    if (run_builtin(r, jinja_find(jinja_dict_methods, "items", 5), self, &none, &items)) return -1;
    return make_keys(r, &items, &path, arg_bool(a, 0, false), &k, &n) || sort_keyed(r, k, n, arg_bool(a, 2, false), out) ? -1 : 0;
}

static int extreme(struct run *r, const struct val *self, const struct args *a, int sign, struct val *out)
{
    struct keyed *k;
    size_t n, best = 0;
    int c;
    if (make_keys(r, self, arg(a, 1), arg_bool(a, 0, false), &k, &n)) return -1;
    *out = v_undef("No aggregated item, sequence was empty.", 39);
    for (size_t i = 1; i < n; i++) {
        if (val_order(r, &k[i].key, &k[best].key, &c)) return -1;
        if (c * sign > 0) best = i;
    }
    if (n) *out = k[best].v;
    return 0;
}

static int f_min(struct run *r, const struct val *s, const struct args *a, struct val *o) { return extreme(r, s, a, -1, o); }
static int f_max(struct run *r, const struct val *s, const struct args *a, struct val *o) { return extreme(r, s, a, 1, o); }

static int f_unique(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct keyed *k;
    size_t n, kept = 0;
    if (make_keys(r, self, arg(a, 1), arg_bool(a, 0, false), &k, &n)) return -1;
    struct val *items = run_alloc(r, (n + 1) * sizeof *items);
    if (!items) return -1;
    for (size_t i = 0; i < n; i++) {
        bool seen = false;
        for (size_t j = 0; j < kept && !seen; j++)
            if (val_equal(r, &k[j].key, &k[i].key, &seen)) return -1;
        if (seen) continue;
        items[kept] = k[i].v;
        k[kept++].key = k[i].key;
    }
    *out = v_items(V_LIST, items, kept);
    return 0;
}

/* --- simple ones --- */

static int f_list(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    const struct val *items;
    size_t n;
    (void)a;
    if (val_list(r, self, &items, &n)) return -1;
    *out = v_items(V_LIST, items, n);
    return 0;
}

static int end_of(struct run *r, const struct val *self, bool last, struct val *out)
{
    const struct val *items;
    size_t n;
    if (val_list(r, self, &items, &n)) return -1;
    *out = n ? items[last ? n - 1 : 0] : v_undef(last ? "No last item, sequence was empty." : "No first item, sequence was empty.", last ? 33 : 34);
    return 0;
}

static int f_first(struct run *r, const struct val *s, const struct args *a, struct val *o) { (void)a; return end_of(r, s, false, o); }
static int f_last(struct run *r, const struct val *s, const struct args *a, struct val *o) { (void)a; return end_of(r, s, true, o); }

static int f_reverse(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val back[3] = {v_none(), v_none(), v_int(-1)}, list;
    if (self->t == V_STR) return run_slice(r, self, back, out);
    return f_list(r, self, a, &list) || run_slice(r, &list, back, out) ? -1 : 0;
}

static int f_join(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val sep = v_str("", 0);
    const struct val *items;
    size_t n;
    struct text t = {0};
    if (val_list(r, self, &items, &n) || (arg(a, 0) && val_call_text(r, arg(a, 0), &sep))) return -1;
    for (size_t i = 0; i < n; i++) {
        struct val v;
        if ((i && text_add(r, &t, sep.s, sep.n)) || get_path(r, &items[i], arg(a, 1), NULL, &v) || print_str(r, &t, &v)) return -1;
    }
    *out = text_val(&t);
    return 0;
}

static int f_items(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    *out = v_items(V_LIST, NULL, 0);
    if (self->t == V_UNDEF) return 0;
    if (self->t != V_DICT) return run_fail(r, "Can only get item pairs from a mapping.");
    return run_builtin(r, jinja_find(jinja_dict_methods, "items", 5), self, a, out);
}

static int f_sum(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    const struct val *items;
    size_t n;
    struct val sum = arg(a, 1) ? *arg(a, 1) : v_int(0), v, next;
    if (val_list(r, self, &items, &n)) return -1;
    for (size_t i = 0; i < n; i++) {
        if (get_path(r, &items[i], arg(a, 0), NULL, &v) || run_binary(r, T_ADD, &sum, &v, &next)) return -1;
        sum = next;
    }
    *out = sum;
    return 0;
}

static int f_batch(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    const struct val *items;
    size_t n, rows = 0;
    int64_t per = 0;
    if (val_list(r, self, &items, &n) || arg_int(r, a, 0, &per)) return -1;
    if (per < 1 || per > JINJA_RANGE_MAX) return run_fail(r, "a batch of %lld", (long long)per);
    struct val *row = run_alloc(r, (n / (size_t)per + 2) * sizeof *row);
    for (size_t at = 0; row && at < n; at += (size_t)per, rows++) {
        size_t have = n - at < (size_t)per ? n - at : (size_t)per, want = arg(a, 1) && arg(a, 1)->t != V_NONE ? (size_t)per : have;
        struct val *v = run_alloc(r, (want + 1) * sizeof *v);
        if (!v) return -1;
        for (size_t i = 0; i < want; i++) v[i] = i < have ? items[at + i] : *arg(a, 1);
        row[rows] = v_items(V_LIST, v, want);
    }
    if (!row) return -1;
    *out = v_items(V_LIST, row, rows);
    return 0;
}

/* --- map, select and reject: of None and whatever else is false they make nothing --- */

static int list_if_true(struct run *r, const struct val *v, const struct val **items, size_t *n)
{
    struct val none = v_undef("", 0);
    return val_list(r, val_true(v) ? v : &none, items, n);
}

static struct args rest_of(const struct args *a, int from)
{
    return (struct args){a->pos + (from < a->npos ? from : a->npos), a->npos > from ? a->npos - from : 0, a->kw, a->nkw};
}

static int map_attribute(struct run *r, const struct val *items, size_t n, const struct args *a, struct val *o)
{
    const struct named *otherwise = arg_named(a, "default");
    for (size_t i = 0; i < n; i++)
        if (get_path(r, &items[i], &arg_named(a, "attribute")->v, otherwise ? &otherwise->v : NULL, &o[i])) return -1;
    return 0;
}

static int map_filter(struct run *r, const struct val *items, size_t n, const struct args *a, struct val *o)
{
    const struct val *name = arg(a, 0);
    const struct builtin *b = name && name->t == V_STR ? jinja_find_filter(name->s, name->n) : NULL;
    struct args rest = rest_of(a, 1);
    if (!b) return run_fail(r, "map needs the name of a filter or an attribute");
    for (size_t i = 0; i < n; i++)
        if (run_builtin(r, b, &items[i], &rest, &o[i])) return -1;
    return 0;
}

static int f_map(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    const struct val *items;
    size_t n;
    if (list_if_true(r, self, &items, &n)) return -1;
    struct val *o = run_alloc(r, (n + 1) * sizeof *o);
    if (!o || (arg_named(a, "attribute") ? map_attribute(r, items, n, a, o) : map_filter(r, items, n, a, o))) return -1;
    *out = v_items(V_LIST, o, n);
    return 0;
}

/* Keeps the elements for which the test (none: truth) is as wanted; `path`: of that attribute. */
static int choose(struct run *r, const struct val *self, const struct args *a, bool by_attr, bool want, struct val *out)
{
    const struct val *items, *name = arg(a, by_attr), *path = by_attr ? arg(a, 0) : NULL;
    const struct builtin *b = name && name->t == V_STR ? jinja_find(jinja_tests, name->s, name->n) : NULL;
    struct args rest = rest_of(a, by_attr + 1);
    size_t n, kept = 0;
    if (name && !b) return run_fail(r, "no test of that name");
    if (by_attr && !path) return run_fail(r, "selectattr needs an attribute");
    if (list_if_true(r, self, &items, &n)) return -1;
    struct val *o = run_alloc(r, (n + 1) * sizeof *o), v, is;
    if (!o) return -1;
    for (size_t i = 0; i < n; i++) {
        if (get_path(r, &items[i], path, NULL, &v)) return -1;
        is = v;
        if (b && run_builtin(r, b, &v, &rest, &is)) return -1;
        if (val_true(&is) == want) o[kept++] = items[i];
    }
    *out = v_items(V_LIST, o, kept);
    return 0;
}

static int f_select(struct run *r, const struct val *s, const struct args *a, struct val *o) { return choose(r, s, a, false, true, o); }
static int f_reject(struct run *r, const struct val *s, const struct args *a, struct val *o) { return choose(r, s, a, false, false, o); }
static int f_selectattr(struct run *r, const struct val *s, const struct args *a, struct val *o) { return choose(r, s, a, true, true, o); }
static int f_rejectattr(struct run *r, const struct val *s, const struct args *a, struct val *o) { return choose(r, s, a, true, false, o); }

const struct builtin jinja_list_filters[] = {
    {"sort", f_sort, "reverse case_sensitive attribute", 0},
    {"dictsort", f_dictsort, "case_sensitive by reverse", 0},
    {"min", f_min, "case_sensitive attribute", 0},
    {"max", f_max, "case_sensitive attribute", 0},
    {"unique", f_unique, "case_sensitive attribute", 0},
    {"list", f_list, "", 0},
    {"first", f_first, "", 0},
    {"last", f_last, "", 0},
    {"reverse", f_reverse, "", 0},
    {"join", f_join, "d attribute", 0},
    {"items", f_items, "", 0},
    {"sum", f_sum, "attribute start", 0},
    {"batch", f_batch, "linecount fill_with", 1},
    {"map", f_map, "*", 0},
    {"select", f_select, "*", 0},
    {"reject", f_reject, "*", 0},
    {"selectattr", f_selectattr, "*", 0},
    {"rejectattr", f_rejectattr, "*", 0},
    {0},
};
