/* Methods of strings, lists, dicts and loops: Python's, those that a sandbox allows (nothing that changes its object).
 *
 * Rows of tables; a method is one row and one function. Strings are UTF-8, positions count characters. Sources: Python's library reference,
 * "Text Sequence Type" and "Mapping Types". */
#include "base/buf.h"
#include "engine/jinja.h"
#include "engine/tokenizer_utf8.h"
#include <string.h>

/* --- strip --- */

static bool in_chars(const char *s, size_t len, const struct val *chars)
{
    for (size_t at = 0; at < chars->n;) {
        uint32_t cp;
        int n = utf8_decode(chars->s + at, chars->n - at, &cp);
        if ((size_t)n == len && !memcmp(chars->s + at, s, len)) return true;
        at += n > 0 ? (size_t)n : 1;
    }
    return false;
}

static bool strips(const char *s, size_t len, uint32_t cp, const struct val *chars)
{
    return chars->t == V_STR ? in_chars(s, len, chars) : utf8_is_space(cp);
}

static struct val strip(const struct val *v, const struct val *chars, bool left, bool right)
{
    size_t from = 0, to = v->n;
    uint32_t cp;
    while (left && from < to) {
        int n = utf8_decode(v->s + from, to - from, &cp);
        if (n <= 0 || !strips(v->s + from, (size_t)n, cp, chars)) break;
        from += (size_t)n;
    }
    while (right && to > from) {
        size_t c = to - 1;
        while (c > from && ((uint8_t)v->s[c] & 0xc0) == 0x80) c--;
        if (utf8_decode(v->s + c, to - c, &cp) <= 0 || !strips(v->s + c, to - c, cp, chars)) break;
        to = c;
    }
    return v_str(v->s + from, to - from);
}

static int strip_with(struct run *r, const struct val *self, const struct args *a, bool left, bool right, struct val *out)
{
    struct val chars = v_none();
    if (arg(a, 0) && arg(a, 0)->t != V_NONE && arg_str(r, a, 0, &chars)) return -1;
    *out = strip(self, &chars, left, right);
    return run_step(r, (int64_t)(self->n / 256));
}

static int m_strip(struct run *r, const struct val *s, const struct args *a, struct val *o) { return strip_with(r, s, a, true, true, o); }
static int m_lstrip(struct run *r, const struct val *s, const struct args *a, struct val *o) { return strip_with(r, s, a, true, false, o); }
static int m_rstrip(struct run *r, const struct val *s, const struct args *a, struct val *o) { return strip_with(r, s, a, false, true, o); }

/* --- split --- */

struct parts {
    struct val *v;
    size_t n, cap;
};

static int add_part(struct run *r, struct parts *p, const char *s, size_t n)
{
    if (p->n == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 8;
        struct val *v = run_alloc(r, cap * sizeof *v);
        if (!v) return -1;
        if (p->n) memcpy(v, p->v, p->n * sizeof *v);
        p->v = v;
        p->cap = cap;
    }
    p->v[p->n++] = v_str(s, n);
    return run_step(r, 1);
}

static const char *next_space(const char *s, const char *end, bool space)
{
    uint32_t cp;
    for (int n; s < end && (n = utf8_decode(s, (size_t)(end - s), &cp)) > 0 && utf8_is_space(cp) != space; s += n) {}
    return s;
}

/* Without a separator: words between white space. */
static int split_words(struct run *r, struct parts *p, const struct val *v, int64_t most)
{
    const char *s = v->s, *end = v->s + v->n;
    for (;;) {
        s = next_space(s, end, false);
        if (s == end) return 0;
        const char *stop = next_space(s, end, true);
        if (most >= 0 && p->n == (size_t)most) return add_part(r, p, s, (size_t)(end - s));
        if (add_part(r, p, s, (size_t)(stop - s))) return -1;
        s = stop;
    }
}

static int split_at(struct run *r, struct parts *p, const struct val *v, const struct val *sep, int64_t most)
{
    const char *s = v->s, *end = v->s + v->n, *hit;
    while ((most < 0 || p->n < (size_t)most) && (hit = memmem(s, (size_t)(end - s), sep->s, sep->n))) {
        if (add_part(r, p, s, (size_t)(hit - s))) return -1;
        s = hit + sep->n;
    }
    return add_part(r, p, s, (size_t)(end - s));
}

static int split_args(struct run *r, const struct args *a, struct val *sep, int64_t *most)
{
    *sep = v_none();
    *most = -1;
    if (arg(a, 0) && arg(a, 0)->t != V_NONE && arg_str(r, a, 0, sep)) return -1;
    if (sep->t == V_STR && sep->n == 0) return run_fail(r, "empty separator");
    return arg_int(r, a, 1, most);
}

static int m_split(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val sep;
    struct parts p = {0};
    int64_t most;
    if (split_args(r, a, &sep, &most)) return -1;
    if (sep.t == V_STR ? split_at(r, &p, self, &sep, most) : split_words(r, &p, self, most)) return -1;
    *out = v_items(V_LIST, p.v, p.n);
    return run_step(r, (int64_t)(self->n / 256));
}

/* The last `most` of the splits; the parts before are put together again, they lie side by side. */
static int m_rsplit(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val sep;
    int64_t most;
    if (split_args(r, a, &sep, &most)) return -1;
    struct args all = {.pos = &sep, .npos = 1};
    if (m_split(r, self, &all, out)) return -1;
    if (most < 0 || out->n <= (size_t)most + 1) return 0;
    size_t join = out->n - (size_t)most;
    const struct val *last = &out->items[join - 1];
    struct val *items = run_alloc(r, ((size_t)most + 1) * sizeof *items);
    if (!items) return -1;
    items[0] = v_str(sep.t == V_STR ? self->s : out->items[0].s, (size_t)(last->s + last->n - (sep.t == V_STR ? self->s : out->items[0].s)));
    memcpy(items + 1, out->items + join, (size_t)most * sizeof *items);
    *out = v_items(V_LIST, items, (size_t)most + 1);
    return 0;
}

/* The length of the line end at s, or 0. */
static size_t line_end(const char *s, const char *end)
{
    uint32_t cp;
    if (end - s >= 2 && s[0] == '\r' && s[1] == '\n') return 2;
    int n = utf8_decode(s, (size_t)(end - s), &cp);
    bool is = n > 0 && ((cp >= 10 && cp <= 13) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 || cp == 0x2028 || cp == 0x2029);
    return is ? (size_t)n : 0;
}

static int m_splitlines(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    const char *s = self->s, *end = s + self->n;
    bool keep = arg_bool(a, 0, false);
    struct parts p = {0};
    while (s < end) {
        const char *stop = s;
        size_t n = 0;
        while (stop < end && !(n = line_end(stop, end))) stop++;
        if (add_part(r, &p, s, (size_t)(stop - s) + (keep ? n : 0))) return -1;
        s = stop + n;
    }
    *out = v_items(V_LIST, p.v, p.n);
    return run_step(r, (int64_t)(self->n / 64));
}

static int partition(struct run *r, const struct val *self, const struct args *a, bool last, struct val *out)
{
    struct val sep = v_none(), *o = run_alloc(r, 3 * sizeof *o);
    const char *hit = NULL, *end = self->s + self->n;
    if (!o || arg_str(r, a, 0, &sep)) return -1;
    if (sep.n == 0) return run_fail(r, "empty separator");
    for (const char *p = self->s; (p = memmem(p, (size_t)(end - p), sep.s, sep.n)); p += sep.n) {
        hit = p;
        if (!last) break;
    }
    o[0] = hit ? v_str(self->s, (size_t)(hit - self->s)) : last ? v_str("", 0) : *self;
    o[1] = hit ? sep : v_str("", 0);
    o[2] = hit ? v_str(hit + sep.n, (size_t)(end - hit - (ptrdiff_t)sep.n)) : last ? *self : v_str("", 0);
    *out = v_items(V_TUPLE, o, 3);
    return 0;
}

static int m_partition(struct run *r, const struct val *s, const struct args *a, struct val *o) { return partition(r, s, a, false, o); }
static int m_rpartition(struct run *r, const struct val *s, const struct args *a, struct val *o) { return partition(r, s, a, true, o); }

/* --- looking into strings --- */

static bool has_affix(const struct val *s, const struct val *x, bool at_end)
{
    return x->n <= s->n && (x->n == 0 || !memcmp(at_end ? s->s + s->n - x->n : s->s, x->s, x->n));
}

static int affix(struct run *r, const struct val *self, const struct args *a, bool at_end, struct val *out)
{
    const struct val *x = arg(a, 0), *items = x;
    size_t n = 1;
    *out = v_bool(false);
    if (x->t == V_TUPLE) items = x->items, n = x->n;
    for (size_t i = 0; i < n; i++) {
        if (items[i].t != V_STR) return run_fail(r, "%s first arg must be str or a tuple of str, not %s", at_end ? "endswith" : "startswith", val_type(&items[i]));
        if (has_affix(self, &items[i], at_end)) *out = v_bool(true);
    }
    return 0;
}

static int m_startswith(struct run *r, const struct val *s, const struct args *a, struct val *o) { return affix(r, s, a, false, o); }
static int m_endswith(struct run *r, const struct val *s, const struct args *a, struct val *o) { return affix(r, s, a, true, o); }

static int remove_affix(struct run *r, const struct val *self, const struct args *a, bool at_end, struct val *out)
{
    struct val x = v_none();
    if (arg_str(r, a, 0, &x)) return -1;
    *out = *self;
    if (!has_affix(self, &x, at_end)) return 0;
    *out = v_str(self->s + (at_end ? 0 : x.n), self->n - x.n);
    return 0;
}

static int m_removeprefix(struct run *r, const struct val *s, const struct args *a, struct val *o) { return remove_affix(r, s, a, false, o); }
static int m_removesuffix(struct run *r, const struct val *s, const struct args *a, struct val *o) { return remove_affix(r, s, a, true, o); }

/* The first or last place of x, in bytes, or -1. */
static int64_t find_bytes(const struct val *s, const struct val *x, bool last)
{
    const char *end = s->s + s->n, *hit = NULL;
    if (x->n == 0) return last ? (int64_t)s->n : 0;
    for (const char *p = s->s; (p = memmem(p, (size_t)(end - p), x->s, x->n)); p++) {
        hit = p;
        if (!last) break;
    }
    return hit ? hit - s->s : -1;
}

static int find(struct run *r, const struct val *self, const struct args *a, bool last, bool must, struct val *out)
{
    struct val x = v_none();
    if (arg_str(r, a, 0, &x)) return -1;
    int64_t at = find_bytes(self, &x, last);
    if (at < 0 && must) return run_fail(r, "substring not found");
    *out = v_int(at < 0 ? -1 : (int64_t)buf_characters(self->s, (size_t)at));
    return run_step(r, (int64_t)(self->n / 64));
}

static int m_find(struct run *r, const struct val *s, const struct args *a, struct val *o) { return find(r, s, a, false, false, o); }
static int m_rfind(struct run *r, const struct val *s, const struct args *a, struct val *o) { return find(r, s, a, true, false, o); }
static int m_index(struct run *r, const struct val *s, const struct args *a, struct val *o) { return find(r, s, a, false, true, o); }

static int m_count(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val x = v_none();
    int64_t n = 0;
    if (arg_str(r, a, 0, &x)) return -1;
    if (x.n == 0) n = (int64_t)buf_characters(self->s, self->n) + 1;
    const char *end = self->s + self->n;
    for (const char *p = self->s; x.n && (p = memmem(p, (size_t)(end - p), x.s, x.n)); p += x.n) n++;
    *out = v_int(n);
    return run_step(r, (int64_t)(self->n / 256));
}

static int m_replace(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val from = v_none(), to = v_none();
    int64_t most = -1;
    struct text t = {0};
    const char *s = self->s, *end = s + self->n, *hit;
    if (arg_str(r, a, 0, &from) || arg_str(r, a, 1, &to) || arg_int(r, a, 2, &most)) return -1;
    for (; most != 0 && s <= end; most--) {
        if (from.n == 0) { /* before each character, and at the end */
            uint32_t cp;
            int n = s < end ? utf8_decode(s, (size_t)(end - s), &cp) : 0;
            if (text_add(r, &t, to.s, to.n) || text_add(r, &t, s, (size_t)n)) return -1;
            if (s == end) break;
            s += n;
            continue;
        }
        if (!(hit = memmem(s, (size_t)(end - s), from.s, from.n))) break;
        if (text_add(r, &t, s, (size_t)(hit - s)) || text_add(r, &t, to.s, to.n) || run_step(r, 1)) return -1;
        s = hit + from.n;
    }
    if (s < end && text_add(r, &t, s, (size_t)(end - s))) return -1;
    *out = text_val(&t);
    return run_step(r, (int64_t)(self->n / 256));
}

/* --- case --- */

enum casing { UPPER, LOWER, TITLE, CAPITALIZE, SWAP };

static int recase(struct run *r, const struct val *self, enum casing how, struct val *out)
{
    struct text t = {0};
    bool inside = false;
    for (size_t at = 0; at < self->n;) {
        char o[4];
        uint32_t cp;
        int n = utf8_decode(self->s + at, self->n - at, &cp);
        bool up = how == UPPER || ((how == TITLE || how == CAPITALIZE) && !inside) || (how == SWAP && utf8_upper(cp) != cp);
        inside = how == CAPITALIZE || utf8_is_alpha(cp);
        int len = utf8_encode(up ? utf8_upper(cp) : utf8_lower(cp), o);
        if (n <= 0 || text_add(r, &t, o, (size_t)len)) return -1;
        at += (size_t)n;
    }
    *out = text_val(&t);
    return run_step(r, (int64_t)(self->n / 64));
}

#define CASING(name, how) \
    static int name(struct run *r, const struct val *s, const struct args *a, struct val *o) { (void)a; return recase(r, s, how, o); }
CASING(m_upper, UPPER)
CASING(m_lower, LOWER)
CASING(m_title, TITLE)
CASING(m_capitalize, CAPITALIZE)
CASING(m_swapcase, SWAP)

/* --- what all characters are --- */

static bool is_alnum(uint32_t cp) { return utf8_is_alpha(cp) || utf8_is_digit(cp); }

static int all(const struct val *self, bool (*is)(uint32_t cp), struct val *out)
{
    bool yes = self->n > 0;
    for (size_t at = 0; at < self->n && yes;) {
        uint32_t cp = 0;
        int n = utf8_decode(self->s + at, self->n - at, &cp);
        yes = n > 0 && is(cp);
        at += n > 0 ? (size_t)n : 1;
    }
    *out = v_bool(yes);
    return 0;
}

#define ALL(name, is) \
    static int name(struct run *r, const struct val *s, const struct args *a, struct val *o) { (void)r; (void)a; return all(s, is, o); }
ALL(m_isalpha, utf8_is_alpha)
ALL(m_isdigit, utf8_is_digit)
ALL(m_isalnum, is_alnum)
ALL(m_isspace, utf8_is_space)

/* Some letter has a case, and all that have one are of that case. */
static int one_case(const struct val *self, bool upper, struct val *out)
{
    bool some = false, other = false;
    for (size_t at = 0; at < self->n;) {
        uint32_t cp = 0;
        int n = utf8_decode(self->s + at, self->n - at, &cp);
        if (utf8_lower(cp) != cp) *(upper ? &some : &other) = true;
        else if (utf8_upper(cp) != cp) *(upper ? &other : &some) = true;
        at += n > 0 ? (size_t)n : 1;
    }
    *out = v_bool(some && !other);
    return 0;
}

static int m_isupper(struct run *r, const struct val *s, const struct args *a, struct val *o) { (void)r; (void)a; return one_case(s, true, o); }
static int m_islower(struct run *r, const struct val *s, const struct args *a, struct val *o) { (void)r; (void)a; return one_case(s, false, o); }

/* --- joining and padding --- */

static int m_join(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    const struct val *items;
    size_t n;
    struct text t = {0};
    if (val_list(r, arg(a, 0), &items, &n)) return -1;
    for (size_t i = 0; i < n; i++) {
        if (items[i].t != V_STR) return run_fail(r, "sequence item %zu: expected str instance, %s found", i, val_type(&items[i]));
        if ((i && text_add(r, &t, self->s, self->n)) || text_add(r, &t, items[i].s, items[i].n)) return -1;
    }
    *out = text_val(&t);
    return 0;
}

static int pad_to(struct run *r, const struct val *self, const struct args *a, int side, struct val *out)
{
    struct val fill = v_str(" ", 1);
    struct text t = {0};
    int64_t width = 0, have = (int64_t)buf_characters(self->s, self->n);
    if (arg_int(r, a, 0, &width) || arg_str(r, a, 1, &fill)) return -1;
    if (buf_characters(fill.s, fill.n) != 1) return run_fail(r, "The fill character must be exactly one character long");
    if (width > JINJA_RANGE_MAX) return run_fail(r, "a width of %lld is too large", (long long)width);
    int64_t lack = width > have ? width - have : 0, left = side < 0 ? 0 : side > 0 ? lack : lack / 2 + (lack & width & 1);
    for (int64_t i = 0; i < lack; i++)
        if ((i == left && text_add(r, &t, self->s, self->n)) || text_add(r, &t, fill.s, fill.n)) return -1;
    if (left == lack && text_add(r, &t, self->s, self->n)) return -1;
    *out = text_val(&t);
    return 0;
}

static int m_ljust(struct run *r, const struct val *s, const struct args *a, struct val *o) { return pad_to(r, s, a, -1, o); }
static int m_rjust(struct run *r, const struct val *s, const struct args *a, struct val *o) { return pad_to(r, s, a, 1, o); }
static int m_center(struct run *r, const struct val *s, const struct args *a, struct val *o) { return pad_to(r, s, a, 0, o); }

static int m_zfill(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    bool sign = self->n && (*self->s == '-' || *self->s == '+');
    struct val digits = v_str(self->s + sign, self->n - sign), width = *arg(a, 0), with[2];
    struct args pad = {.pos = with, .npos = 2};
    if (!v_is_integer(&width)) return run_fail(r, "an integer was expected, not %s", val_type(&width));
    with[0] = v_int(v_integer(&width) - sign);
    with[1] = v_str("0", 1);
    if (pad_to(r, &digits, &pad, 1, out)) return -1;
    if (!sign) return 0;
    struct val head = v_str(self->s, 1), tail = *out;
    return run_binary(r, T_ADD, &head, &tail, out);
}

static int m_format(struct run *r, const struct val *self, const struct args *a, struct val *out) { return run_format(r, self, a, out); }

/* --- dicts --- */

static int m_get(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    const struct val *found;
    if (val_get(r, self, arg(a, 0), &found)) return -1;
    *out = found ? *found : arg(a, 1) ? *arg(a, 1) : v_none();
    return 0;
}

static int m_keys(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    const struct val *items;
    size_t n;
    (void)a;
    if (val_list(r, self, &items, &n)) return -1;
    *out = v_items(V_LIST, items, n);
    return 0;
}

static int m_values(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val *items = run_alloc(r, (self->n + 1) * sizeof *items);
    (void)a;
    if (!items) return -1;
    for (size_t i = 0; i < self->n; i++) items[i] = self->pairs[i].v;
    *out = v_items(V_LIST, items, self->n);
    return run_step(r, (int64_t)self->n);
}

static int m_items(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val *items = run_alloc(r, (self->n + 1) * sizeof *items), *both = run_alloc(r, (2 * self->n + 1) * sizeof *both);
    (void)a;
    if (!items || !both) return -1;
    for (size_t i = 0; i < self->n; i++) {
        both[2 * i] = self->pairs[i].k;
        both[2 * i + 1] = self->pairs[i].v;
        items[i] = v_items(V_TUPLE, &both[2 * i], 2);
    }
    *out = v_items(V_LIST, items, self->n);
    return run_step(r, (int64_t)self->n);
}

static int m_copy(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    (void)r;
    (void)a;
    *out = *self; /* nothing can change either of them */
    return 0;
}

static int m_changes(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    (void)a;
    (void)out;
    return run_fail(r, "a %s can't be changed in a template", val_type(self));
}

/* --- lists --- */

static int m_list_count(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    int64_t n = 0;
    for (size_t i = 0; i < self->n; i++) {
        bool same;
        if (val_equal(r, &self->items[i], arg(a, 0), &same)) return -1;
        n += same;
    }
    *out = v_int(n);
    return 0;
}

static int m_list_index(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    for (size_t i = 0; i < self->n; i++) {
        bool same;
        if (val_equal(r, &self->items[i], arg(a, 0), &same)) return -1;
        if (!same) continue;
        *out = v_int((int64_t)i);
        return 0;
    }
    return run_fail(r, "the value is not in the list");
}

/* --- loops --- */

static int m_cycle(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    if (!a->npos) return run_fail(r, "no items for cycling given");
    *out = a->pos[self->loop->i % (size_t)a->npos];
    return 0;
}

static int m_changed(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct loop *l = self->loop;
    struct val now = v_items(V_TUPLE, a->pos, (size_t)a->npos);
    bool same = false;
    if (l->changed_set && val_equal(r, &l->changed, &now, &same)) return -1;
    l->changed = now;
    l->changed_set = true;
    *out = v_bool(!same);
    return 0;
}

const struct builtin jinja_string_methods[] = {
    {"strip", m_strip, "chars", 0},
    {"lstrip", m_lstrip, "chars", 0},
    {"rstrip", m_rstrip, "chars", 0},
    {"split", m_split, "sep maxsplit", 0},
    {"rsplit", m_rsplit, "sep maxsplit", 0},
    {"splitlines", m_splitlines, "keepends", 0},
    {"partition", m_partition, "sep", 1},
    {"rpartition", m_rpartition, "sep", 1},
    {"startswith", m_startswith, "prefix", 1},
    {"endswith", m_endswith, "suffix", 1},
    {"removeprefix", m_removeprefix, "prefix", 1},
    {"removesuffix", m_removesuffix, "suffix", 1},
    {"find", m_find, "sub", 1},
    {"rfind", m_rfind, "sub", 1},
    {"index", m_index, "sub", 1},
    {"count", m_count, "sub", 1},
    {"replace", m_replace, "old new count", 2},
    {"upper", m_upper, "", 0},
    {"lower", m_lower, "", 0},
    {"casefold", m_lower, "", 0},
    {"title", m_title, "", 0},
    {"capitalize", m_capitalize, "", 0},
    {"swapcase", m_swapcase, "", 0},
    {"isalpha", m_isalpha, "", 0},
    {"isdigit", m_isdigit, "", 0},
    {"isnumeric", m_isdigit, "", 0},
    {"isdecimal", m_isdigit, "", 0},
    {"isalnum", m_isalnum, "", 0},
    {"isspace", m_isspace, "", 0},
    {"isupper", m_isupper, "", 0},
    {"islower", m_islower, "", 0},
    {"join", m_join, "iterable", 1},
    {"ljust", m_ljust, "width fillchar", 1},
    {"rjust", m_rjust, "width fillchar", 1},
    {"center", m_center, "width fillchar", 1},
    {"zfill", m_zfill, "width", 1},
    {"format", m_format, "*", 0},
    {0},
};

const struct builtin jinja_dict_methods[] = {
    {"get", m_get, "key default", 1},
    {"keys", m_keys, "", 0},
    {"values", m_values, "", 0},
    {"items", m_items, "", 0},
    {"copy", m_copy, "", 0},
    {"pop", m_changes, "*", 0},
    {"popitem", m_changes, "*", 0},
    {"update", m_changes, "*", 0},
    {"setdefault", m_changes, "*", 0},
    {"clear", m_changes, "*", 0},
    {0},
};

const struct builtin jinja_list_methods[] = {
    {"count", m_list_count, "value", 1},
    {"index", m_list_index, "value", 1},
    {"copy", m_copy, "", 0},
    {"append", m_changes, "*", 0},
    {"extend", m_changes, "*", 0},
    {"insert", m_changes, "*", 0},
    {"pop", m_changes, "*", 0},
    {"remove", m_changes, "*", 0},
    {"reverse", m_changes, "*", 0},
    {"sort", m_changes, "*", 0},
    {"clear", m_changes, "*", 0},
    {0},
};

const struct builtin jinja_loop_methods[] = {
    {"cycle", m_cycle, "*", 0},
    {"changed", m_changed, "*", 0},
    {0},
};
