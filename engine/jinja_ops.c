/* Operators, attributes, items and slices, with Python's rules.
 *
 * Integers are 64-bit: what does not fit is an error, not a wrong number. x.name looks for a method first and an item then, x['name'] the
 * other way round, as Jinja does, so message['items'] is the field and message.items the method. */
#include "engine/jinja.h"
#include "engine/tokenizer_utf8.h"
#include <math.h>
#include <string.h>

static int undefined(struct run *r, const struct val *v)
{
    return run_fail(r, "'%.*s' is undefined", (int)(v->n < 80 ? v->n : 80), v->s);
}

/* --- arithmetic --- */

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

static int int_pow(struct run *r, int64_t a, int64_t b, struct val *out)
{
    int64_t v = 1;
    if (b < 0) {
        *out = v_float(pow((double)a, (double)b));
        return 0;
    }
    if (a >= -1 && a <= 1) b = b == 0 ? 0 : 2 - (b & 1); /* the others overflow within 63 turns */
    for (; b > 0; b--)
        if (__builtin_mul_overflow(v, a, &v)) return run_fail(r, "a number is too large");
    *out = v_int(v);
    return 0;
}

static int int_op(struct run *r, enum tok op, int64_t a, int64_t b, struct val *out)
{
    int64_t v = 0;
    bool over = false;
    if ((op == T_DIV || op == T_FLOORDIV || op == T_MOD) && b == 0) return run_fail(r, "division by zero");
    if (b == -1 && (op == T_FLOORDIV || op == T_MOD)) over = op == T_FLOORDIV && __builtin_sub_overflow(0, a, &v); /* INT64_MIN / -1 traps */
    else if (op == T_FLOORDIV) v = floor_div(a, b);
    else if (op == T_MOD) v = a - floor_div(a, b) * b;
    if (op == T_ADD) over = __builtin_add_overflow(a, b, &v);
    if (op == T_SUB) over = __builtin_sub_overflow(a, b, &v);
    if (op == T_MUL) over = __builtin_mul_overflow(a, b, &v);
    if (op == T_POW) return int_pow(r, a, b, out);
    if (over) return run_fail(r, "a number is too large");
    *out = op == T_DIV ? v_float((double)a / (double)b) : v_int(v);
    return 0;
}

static int float_op(struct run *r, enum tok op, double a, double b, struct val *out)
{
    if ((op == T_DIV || op == T_FLOORDIV || op == T_MOD) && b == 0) return run_fail(r, "division by zero");
    double m = op == T_MOD ? fmod(a, b) : 0;
    if (op == T_MOD && m != 0 && (m < 0) != (b < 0)) m += b;
    *out = v_float(op == T_ADD ? a + b : op == T_SUB ? a - b : op == T_MUL ? a * b : op == T_DIV ? a / b : op == T_POW ? pow(a, b)
                   : op == T_FLOORDIV ? floor(a / b) : m);
    return 0;
}

static int join_strings(struct run *r, const struct val *a, const struct val *b, struct val *out)
{
    struct val plain;
    if (a->safe != b->safe) {
        if (val_escape(r, a->safe ? b : a, &plain)) return -1;
        return a->safe ? join_strings(r, a, &plain, out) : join_strings(r, &plain, b, out);
    }
    if (a->n + b->n > JINJA_OUTPUT_MAX) return run_fail(r, "a text grows beyond %u bytes", JINJA_OUTPUT_MAX);
    char *s = run_alloc(r, a->n + b->n + 1);
    if (!s) return -1;
    if (a->n) memcpy(s, a->s, a->n);
    if (b->n) memcpy(s + a->n, b->s, b->n);
    *out = v_str(s, a->n + b->n);
    out->safe = a->safe;
    return 0;
}

static int join_lists(struct run *r, const struct val *a, const struct val *b, struct val *out)
{
    struct val *items = run_alloc(r, (a->n + b->n + 1) * sizeof *items);
    if (!items) return -1;
    if (a->n) memcpy(items, a->items, a->n * sizeof *items);
    if (b->n) memcpy(items + a->n, b->items, b->n * sizeof *items);
    *out = v_items(a->t, items, a->n + b->n);
    return 0;
}

/* A string or list, several times. */
static int repeat(struct run *r, const struct val *a, int64_t times, struct val *out)
{
    size_t size = a->t == V_STR ? 1 : sizeof(struct val), bytes = a->n * size;
    size_t k = times < 0 ? 0 : (size_t)times;
    if (bytes && k > JINJA_OUTPUT_MAX / bytes) return run_fail(r, "a text grows beyond %u bytes", JINJA_OUTPUT_MAX);
    if (!bytes) k = 0;
    char *s = run_alloc(r, bytes * k + 1);
    if (!s) return -1;
    for (size_t i = 0; i < k; i++) memcpy(s + i * bytes, a->s, bytes);
    *out = *a;
    out->n = a->n * k;
    if (a->t == V_STR) out->s = s;
    else out->items = (const struct val *)(const void *)s;
    return 0;
}

static bool is_sequence(const struct val *v)
{
    return v->t == V_STR || v->t == V_LIST || v->t == V_TUPLE;
}

int run_binary(struct run *r, enum tok op, const struct val *a, const struct val *b, struct val *out)
{
    static const char *const signs[] = {[T_ADD] = "+", [T_SUB] = "-", [T_MUL] = "*", [T_DIV] = "/", [T_FLOORDIV] = "//", [T_MOD] = "%", [T_POW] = "**"};
    if (a->t == V_UNDEF) return undefined(r, a);
    if (b->t == V_UNDEF) return undefined(r, b);
    if (v_is_integer(a) && v_is_integer(b)) return int_op(r, op, v_integer(a), v_integer(b), out);
    if (v_is_number(a) && v_is_number(b)) return float_op(r, op, v_number(a), v_number(b), out);
    if (op == T_ADD && a->t == V_STR && b->t == V_STR) return join_strings(r, a, b, out);
    if (op == T_ADD && a->t == b->t && (a->t == V_LIST || a->t == V_TUPLE)) return join_lists(r, a, b, out);
    if (op == T_MUL && is_sequence(a) && v_is_integer(b)) return repeat(r, a, v_integer(b), out);
    if (op == T_MUL && v_is_integer(a) && is_sequence(b)) return repeat(r, b, v_integer(a), out);
    if (op == T_MOD && a->t == V_STR) return run_percent(r, a, b, out);
    if (op == T_ADD && a->t == V_STR) return run_fail(r, "can only concatenate str (not \"%s\") to str", val_type(b));
    return run_fail(r, "unsupported operand type(s) for %s: '%s' and '%s'", signs[op], val_type(a), val_type(b));
}

int run_compare(struct run *r, enum tok op, const struct val *a, const struct val *b, bool *out)
{
    int c;
    switch (op) {
    case T_EQ: return val_equal(r, a, b, out);
    case T_IN: return val_in(r, a, b, out);
    case T_NE:
    case T_NOT_IN:
        if (op == T_NE ? val_equal(r, a, b, out) : val_in(r, a, b, out)) return -1;
        *out = !*out;
        return 0;
    default: break;
    }
    if (a->t == V_UNDEF) return undefined(r, a);
    if (b->t == V_UNDEF) return undefined(r, b);
    if (val_order(r, a, b, &c)) return -1;
    *out = op == T_LT ? c < 0 : op == T_LE ? c <= 0 : op == T_GT ? c > 0 : c >= 0;
    return 0;
}

/* --- attributes --- */

static int bind_method(struct run *r, const struct builtin *b, const struct val *of, struct val *out)
{
    struct func *f = run_alloc(r, sizeof *f);
    if (!f) return -1;
    *f = (struct func){.kind = FN_BUILTIN, .builtin = b, .self = *of};
    *out = (struct val){.t = V_FUNC, .fn = f};
    return 0;
}

static const struct builtin *find_method(const struct val *of, const char *name, size_t n)
{
    switch (of->t) {
    case V_STR: return jinja_find(jinja_string_methods, name, n);
    case V_DICT: return jinja_find(jinja_dict_methods, name, n);
    case V_LIST:
    case V_TUPLE: return jinja_find(jinja_list_methods, name, n);
    case V_LOOP: return jinja_find(jinja_loop_methods, name, n);
    default: return NULL;
    }
}

static struct val neighbour(const struct loop *l, bool there, size_t i, const char *name)
{
    return there ? l->items[i] : v_undef(name, strlen(name));
}

int run_loop_attr(struct run *r, struct loop *l, const char *name, size_t n, struct val *out)
{
    const struct {
        const char *name;
        struct val v;
    } rows[] = {
        {"index", v_int((int64_t)l->i + 1)},
        {"index0", v_int((int64_t)l->i)},
        {"revindex", v_int((int64_t)(l->n - l->i))},
        {"revindex0", v_int((int64_t)(l->n - l->i) - 1)},
        {"first", v_bool(l->i == 0)},
        {"last", v_bool(l->i + 1 == l->n)},
        {"length", v_int((int64_t)l->n)},
        {"depth", v_int(l->depth)},
        {"depth0", v_int(l->depth - 1)},
        {"previtem", neighbour(l, l->i > 0, l->i - 1, "loop.previtem")},
        {"nextitem", neighbour(l, l->i + 1 < l->n, l->i + 1, "loop.nextitem")},
    };
    (void)r;
    *out = v_undef(name, n);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strlen(rows[i].name) == n && !memcmp(rows[i].name, name, n)) *out = rows[i].v;
    return 0;
}

static struct val namespace_var(const struct scope *ns, const char *name, size_t n)
{
    for (const struct var *v = ns->vars; v; v = v->next)
        if (strlen(v->name) == n && !memcmp(v->name, name, n)) return v->v;
    return v_undef(name, n);
}

/* The attribute proper, without items. */
static int own_attr(struct run *r, const struct val *of, const char *name, size_t n, struct val *out)
{
    const struct builtin *b = find_method(of, name, n);
    *out = v_undef(name, n);
    if (b) return bind_method(r, b, of, out);
    if (of->t == V_NS) *out = namespace_var(of->ns, name, n);
    return of->t == V_LOOP ? run_loop_attr(r, of->loop, name, n, out) : 0;
}

int run_attr(struct run *r, const struct val *of, const char *name, size_t n, struct val *out)
{
    struct val key = v_str(name, n);
    const struct val *found;
    if (of->t == V_UNDEF) return undefined(r, of);
    if (own_attr(r, of, name, n, out)) return -1;
    if (of->t != V_DICT || out->t != V_UNDEF) return 0;
    if (val_get(r, of, &key, &found)) return -1;
    if (found) *out = *found;
    return 0;
}

/* --- items --- */

static int char_at(struct run *r, const struct val *v, int64_t i, struct val *out)
{
    struct val one[3] = {v_int(i), i == -1 ? v_none() : v_int(i + 1), v_none()};
    return run_slice(r, v, one, out);
}

int run_item(struct run *r, const struct val *of, const struct val *key, struct val *out)
{
    const struct val *found;
    *out = v_undef("the item", 8);
    if (of->t == V_UNDEF) return undefined(r, of);
    if (of->t == V_DICT) {
        if (val_get(r, of, key, &found)) return -1;
        if (found) {
            *out = *found;
            return 0;
        }
    } else if (is_sequence(of) && v_is_integer(key)) {
        int64_t i = v_integer(key);
        size_t n;
        if (val_length(r, of, &n)) return -1;
        if (i < -(int64_t)n || i >= (int64_t)n) return 0;
        if (of->t == V_STR) return char_at(r, of, i, out);
        *out = of->items[i < 0 ? i + (int64_t)n : i];
        return 0;
    }
    return key->t == V_STR ? own_attr(r, of, key->s, key->n, out) : 0;
}

/* --- slices --- */

static int bound_of(struct run *r, const struct val *v, int64_t otherwise, int64_t *out)
{
    *out = otherwise;
    if (v->t == V_NONE) return 0;
    if (!v_is_integer(v)) return run_fail(r, "slice indices must be integers or None, not %s", val_type(v));
    *out = v_integer(v);
    return 0;
}

static int64_t clamp(int64_t i, int64_t n, int64_t least, int64_t most)
{
    if (i < 0) i = i < -n ? -1 : i + n;
    return i < least ? least : i > most ? most : i;
}

/* Python's slice.indices(): where to begin, how far, how many. */
static int slice_range(struct run *r, const struct val bound[3], int64_t n, int64_t *from, int64_t *step, size_t *count)
{
    int64_t to;
    if (bound_of(r, &bound[2], 1, step)) return -1;
    if (*step == 0) return run_fail(r, "slice step cannot be zero");
    if (*step < -n - 1) *step = -n - 1;
    if (*step > n + 1) *step = n + 1;
    bool back = *step < 0;
    if (bound_of(r, &bound[0], back ? n - 1 : 0, from) || bound_of(r, &bound[1], n, &to)) return -1;
    *from = clamp(*from, n, back ? -1 : 0, back ? n - 1 : n);
    to = bound[1].t == V_NONE ? (back ? -1 : n) : clamp(to, n, back ? -1 : 0, back ? n - 1 : n);
    *count = back ? (*from > to ? (size_t)((*from - to - 1) / -*step) + 1 : 0) : *from < to ? (size_t)((to - *from - 1) / *step) + 1 : 0;
    return 0;
}

static size_t byte_of(const struct val *s, size_t at, size_t chars)
{
    for (; chars && at < s->n; chars--)
        for (at++; at < s->n && ((uint8_t)s->s[at] & 0xc0) == 0x80; at++) {}
    return at;
}

static int slice_items(struct run *r, const struct val *of, int64_t from, int64_t step, size_t count, struct val *out)
{
    struct val *items;
    if (step == 1) {
        *out = v_items(of->t, of->items + from, count);
        return 0;
    }
    if (!(items = run_alloc(r, (count + 1) * sizeof *items))) return -1;
    for (size_t i = 0; i < count; i++) items[i] = of->items[from + (int64_t)i * step];
    *out = v_items(of->t, items, count);
    return 0;
}

static int slice_string(struct run *r, const struct val *of, int64_t from, int64_t step, size_t count, struct val *out)
{
    const struct val *chars;
    struct text t = {0};
    size_t n;
    if (step == 1) {
        size_t a = byte_of(of, 0, (size_t)from), b = byte_of(of, a, count);
        *out = v_str(of->s + a, b - a);
        return 0;
    }
    if (val_list(r, of, &chars, &n)) return -1;
    for (size_t i = 0; i < count; i++) {
        const struct val *c = &chars[from + (int64_t)i * step];
        if (text_add(r, &t, c->s, c->n)) return -1;
    }
    *out = text_val(&t);
    return 0;
}

int run_slice(struct run *r, const struct val *of, const struct val bound[3], struct val *out)
{
    size_t n = 0, count = 0;
    int64_t from = 0, step = 1;
    if (of->t == V_UNDEF) return undefined(r, of);
    if (!is_sequence(of)) return run_fail(r, "'%s' object can't be sliced", val_type(of));
    if (val_length(r, of, &n) || slice_range(r, bound, (int64_t)n, &from, &step, &count)) return -1;
    if (count == 0) {
        *out = of->t == V_STR ? v_str("", 0) : v_items(of->t, of->items, 0);
        return 0;
    }
    return of->t == V_STR ? slice_string(r, of, from, step, count, out) : slice_items(r, of, from, step, count, out);
}
