/* Tests ("is ...") and the functions that every template may call.
 *
 * Rows of tables, as the filters are. Source: Jinja 3's template designer documentation, "List of Builtin Tests" and "List of Global
 * Functions"; raise_exception and strftime_now are Hugging Face's. */
#include "engine/jinja.h"
#include "engine/tokenizer_utf8.h"
#include <string.h>
#include <time.h>

#define TIME_TEXT_MAX 256

#define TEST(fn, expr)                                                                                     \
    static int fn(struct run *r, const struct val *v, const struct args *a, struct val *o)                 \
    {                                                                                                      \
        (void)r;                                                                                           \
        (void)a;                                                                                           \
        *o = v_bool(expr);                                                                                 \
        return 0;                                                                                          \
    }
TEST(t_defined, v->t != V_UNDEF)
TEST(t_undefined, v->t == V_UNDEF)
TEST(t_none, v->t == V_NONE)
TEST(t_string, v->t == V_STR)
TEST(t_number, v_is_number(v))
TEST(t_integer, v->t == V_INT)
TEST(t_float, v->t == V_FLOAT)
TEST(t_boolean, v->t == V_BOOL)
TEST(t_true, v->t == V_BOOL && v->b)
TEST(t_false, v->t == V_BOOL && !v->b)
TEST(t_mapping, v->t == V_DICT)
TEST(t_sequence, v->t == V_STR || v->t == V_LIST || v->t == V_TUPLE || v->t == V_DICT || v->t == V_UNDEF)
TEST(t_iterable, v->t == V_STR || v->t == V_LIST || v->t == V_TUPLE || v->t == V_DICT || v->t == V_UNDEF || v->t == V_LOOP)
TEST(t_callable, v->t == V_FUNC || (v->t == V_LOOP && v->loop->node->flag))

static int compare(struct run *r, const struct val *v, const struct args *a, enum tok op, struct val *out)
{
    bool is = false;
    if (run_compare(r, op, v, arg(a, 0), &is)) return -1;
    *out = v_bool(is);
    return 0;
}

#define COMPARE(fn, op) \
    static int fn(struct run *r, const struct val *v, const struct args *a, struct val *o) { return compare(r, v, a, op, o); }
COMPARE(t_eq, T_EQ)
COMPARE(t_ne, T_NE)
COMPARE(t_lt, T_LT)
COMPARE(t_le, T_LE)
COMPARE(t_gt, T_GT)
COMPARE(t_ge, T_GE)
COMPARE(t_in, T_IN)

static int t_sameas(struct run *r, const struct val *v, const struct args *a, struct val *out)
{
    const struct val *x = arg(a, 0);
    *out = v_bool(false);
    return v->t == x->t ? compare(r, v, a, T_EQ, out) : 0;
}

static int remainder_of(struct run *r, const struct val *v, int64_t by, struct val *out)
{
    struct val n = v_int(by);
    if (!v_is_number(v)) return run_fail(r, "not all arguments converted: a number was expected, not %s", val_type(v));
    return run_binary(r, T_MOD, v, &n, out);
}

static int t_even(struct run *r, const struct val *v, const struct args *a, struct val *out)
{
    struct val rest;
    (void)a;
    if (remainder_of(r, v, 2, &rest)) return -1;
    *out = v_bool(!val_true(&rest));
    return 0;
}

static int t_odd(struct run *r, const struct val *v, const struct args *a, struct val *out)
{
    struct val rest;
    (void)a;
    if (remainder_of(r, v, 2, &rest)) return -1;
    *out = v_bool(v_number(&rest) == 1);
    return 0;
}

static int t_divisibleby(struct run *r, const struct val *v, const struct args *a, struct val *out)
{
    struct val rest;
    int64_t by = 0;
    if (arg_int(r, a, 0, &by) || remainder_of(r, v, by, &rest)) return -1;
    *out = v_bool(!val_true(&rest));
    return 0;
}

static int by_method(struct run *r, const char *name, const struct val *v, struct val *out)
{
    struct val s;
    struct args none = {0};
    return val_call_text(r, v, &s) || run_builtin(r, jinja_find(jinja_string_methods, name, strlen(name)), &s, &none, out) ? -1 : 0;
}

static int t_upper(struct run *r, const struct val *v, const struct args *a, struct val *o) { (void)a; return by_method(r, "isupper", v, o); }
static int t_lower(struct run *r, const struct val *v, const struct args *a, struct val *o) { (void)a; return by_method(r, "islower", v, o); }

static int t_filter(struct run *r, const struct val *v, const struct args *a, struct val *out)
{
    (void)r;
    (void)a;
    *out = v_bool(v->t == V_STR && jinja_find_filter(v->s, v->n));
    return 0;
}

static int t_test(struct run *r, const struct val *v, const struct args *a, struct val *out)
{
    (void)r;
    (void)a;
    *out = v_bool(v->t == V_STR && jinja_find(jinja_tests, v->s, v->n));
    return 0;
}

const struct builtin jinja_tests[] = {
    {"defined", t_defined, "", 0},
    {"undefined", t_undefined, "", 0},
    {"none", t_none, "", 0},
    {"string", t_string, "", 0},
    {"number", t_number, "", 0},
    {"integer", t_integer, "", 0},
    {"float", t_float, "", 0},
    {"boolean", t_boolean, "", 0},
    {"true", t_true, "", 0},
    {"false", t_false, "", 0},
    {"mapping", t_mapping, "", 0},
    {"sequence", t_sequence, "", 0},
    {"iterable", t_iterable, "", 0},
    {"callable", t_callable, "", 0},
    {"eq", t_eq, "other", 1},
    {"equalto", t_eq, "other", 1},
    {"==", t_eq, "other", 1},
    {"ne", t_ne, "other", 1},
    {"!=", t_ne, "other", 1},
    {"lt", t_lt, "other", 1},
    {"lessthan", t_lt, "other", 1},
    {"<", t_lt, "other", 1},
    {"le", t_le, "other", 1},
    {"<=", t_le, "other", 1},
    {"gt", t_gt, "other", 1},
    {"greaterthan", t_gt, "other", 1},
    {">", t_gt, "other", 1},
    {"ge", t_ge, "other", 1},
    {">=", t_ge, "other", 1},
    {"in", t_in, "seq", 1},
    {"sameas", t_sameas, "other", 1},
    {"even", t_even, "", 0},
    {"odd", t_odd, "", 0},
    {"divisibleby", t_divisibleby, "num", 1},
    {"upper", t_upper, "", 0},
    {"lower", t_lower, "", 0},
    {"filter", t_filter, "", 0},
    {"test", t_test, "", 0},
    {0},
};

/* --- functions --- */

static int g_range(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    int64_t from = 0, to = 0, step = 1;
    (void)self;
    bool both = arg(a, 1) != NULL; /* range(stop) or range(start, stop) */
    if ((both && arg_int(r, a, 0, &from)) || arg_int(r, a, both, &to) || arg_int(r, a, 2, &step)) return -1;
    if (step == 0) return run_fail(r, "range() arg 3 must not be zero");
    if (from > (1ll << 40) || from < -(1ll << 40) || to > (1ll << 40) || to < -(1ll << 40) || step > (1ll << 40) || step < -(1ll << 40))
        return run_fail(r, "range() of numbers that are too large");
    int64_t n = step > 0 ? (to - from + step - 1) / step : (from - to - step - 1) / -step;
    if (n < 0) n = 0;
    if (n > JINJA_RANGE_MAX) return run_fail(r, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).", JINJA_RANGE_MAX);
    struct val *items = run_alloc(r, ((size_t)n + 1) * sizeof *items);
    if (!items) return -1;
    for (int64_t i = 0; i < n; i++) items[i] = v_int(from + i * step);
    *out = v_items(V_LIST, items, (size_t)n);
    return run_step(r, n);
}

/* Of the pairs of a dict, or of two-element lists, and of names. */
static int g_dict(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    const struct val *items = NULL, *from = arg(a, 0);
    size_t n = 0, count = 0;
    (void)self;
    if (a->npos > 1) return run_fail(r, "dict expected at most 1 argument, got %d", a->npos);
    if (from && from->t == V_DICT) count = from->n;
    else if (from && val_list(r, from, &items, &count)) return -1;
    struct dict_pair *p = run_alloc(r, (count + (size_t)a->nkw + 1) * sizeof *p);
    if (!p) return -1;
    for (; n < count; n++) {
        if (items && ((items[n].t != V_LIST && items[n].t != V_TUPLE) || items[n].n != 2)) return run_fail(r, "dict() needs pairs");
        p[n] = items ? (struct dict_pair){items[n].items[0], items[n].items[1]} : from->pairs[n];
    }
    for (int i = 0; i < a->nkw; i++) {
        struct val key = v_cstr(a->kw[i].name), have = v_dict(p, n);
        const struct val *found;
        if (val_get(r, &have, &key, &found)) return -1;
        if (found) *(struct val *)found = a->kw[i].v; /* it points into p */
        else p[n++] = (struct dict_pair){key, a->kw[i].v};
    }
    *out = v_dict(p, n);
    return 0;
}

static int set_var(struct run *r, struct scope *ns, const char *name, const struct val *v)
{
    const char *known = jinja_known_name(r->j, name);
    return known ? scope_set(r, ns, known, v) : 0; /* what the template never names it can't read */
}

static int g_namespace(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val d;
    struct scope *ns = scope_new(r, NULL);
    if (!ns || g_dict(r, self, a, &d)) return -1;
    for (size_t i = 0; i < d.n; i++) {
        char *name = d.pairs[i].k.t == V_STR ? arena_strndup(r->arena, d.pairs[i].k.s, d.pairs[i].k.n) : NULL;
        if (!name) return run_fail(r, "a namespace's names must be strings");
        if (set_var(r, ns, name, &d.pairs[i].v)) return -1;
    }
    *out = (struct val){.t = V_NS, .ns = ns};
    return 0;
}

static int g_raise(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val text;
    (void)self;
    (void)out;
    if (val_call_text(r, arg(a, 0), &text)) return -1;
    return err_field(r->e, ERR_INVALID, "messages", "%.*s", (int)(text.n < 400 ? text.n : 400), text.s);
}

static int g_strftime(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val format = v_none();
    char text[TIME_TEXT_MAX] = "", *f;
    time_t now = time(NULL);
    struct tm tm;
    (void)self;
    if (arg_str(r, a, 0, &format)) return -1;
    f = format.n < TIME_TEXT_MAX / 4 ? arena_strndup(r->arena, format.s, format.n) : NULL;
    if (!f || !localtime_r(&now, &tm)) return run_fail(r, "the time can't be written in that format");
    size_t n = strftime(text, sizeof text, f, &tm);
    char *copy = utf8_valid(text, n) == n ? arena_strndup(r->arena, text, n) : NULL;
    if (!copy) return run_fail(r, "the time can't be written in that format");
    *out = v_str(copy, n);
    return 0;
}

const struct builtin jinja_globals[] = {
    {"range", g_range, "start stop step", 1},
    {"dict", g_dict, "*", 0},
    {"namespace", g_namespace, "*", 0},
    {"raise_exception", g_raise, "message", 1},
    {"strftime_now", g_strftime, "format", 1},
    {0},
};
