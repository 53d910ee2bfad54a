/* Running a template, expressions: the value of a node.
 *
 * A name or attribute that isn't there is an undefined value, which is false, prints as nothing and may be tested; taking an attribute of
 * it, calling it or computing with it is an error that names it. "and" and "or" give one of their operands.
 *
 * See jinja_exec.c for scopes and limits. */
#include "engine/jinja.h"
#include <string.h>

static int eval_name(struct scope *s, const struct node *n, struct val *out)
{
    const struct val *v = scope_find(s, n->name);
    *out = v ? *v : v_undef(n->name, strlen(n->name));
    return 0;
}

static int eval_items(struct run *r, struct scope *s, const struct node *n, struct val *out)
{
    struct val *items = run_alloc(r, ((size_t)n->nkid + 1) * sizeof *items);
    if (!items) return -1;
    for (int i = 0; i < n->nkid; i++)
        if (run_eval(r, s, n->kid[i], &items[i])) return -1;
    *out = v_items(n->kind == N_LIST ? V_LIST : V_TUPLE, items, (size_t)n->nkid);
    return 0;
}

static int eval_dict(struct run *r, struct scope *s, const struct node *n, struct val *out)
{
    struct dict_pair *pairs = run_alloc(r, ((size_t)n->nkid / 2 + 1) * sizeof *pairs);
    struct val d = v_dict(pairs, 0);
    if (!pairs) return -1;
    for (int i = 0; i < n->nkid; i += 2) {
        struct val k, v;
        const struct val *have;
        if (run_eval(r, s, n->kid[i], &k) || run_eval(r, s, n->kid[i + 1], &v) || val_get(r, &d, &k, &have)) return -1;
        if (have) *(struct val *)have = v; /* it points into our own pairs: the later value wins, in the earlier place */
        else pairs[d.n++] = (struct dict_pair){k, v};
    }
    *out = d;
    return 0;
}

static int eval_attr(struct run *r, struct scope *s, const struct node *n, struct val *out)
{
    struct val of;
    return run_eval(r, s, n->a, &of) || run_attr(r, &of, n->v.s, n->v.n, out) ? -1 : 0;
}

static int eval_item(struct run *r, struct scope *s, const struct node *n, struct val *out)
{
    struct val of, key, bound[3];
    if (run_eval(r, s, n->a, &of)) return -1;
    if (n->b->kind != N_SLICE) return run_eval(r, s, n->b, &key) || run_item(r, &of, &key, out) ? -1 : 0;
    const struct node *from[3] = {n->b->a, n->b->b, n->b->c};
    for (int i = 0; i < 3; i++) {
        bound[i] = v_none();
        if (from[i] && run_eval(r, s, from[i], &bound[i])) return -1;
    }
    return run_slice(r, &of, bound, out);
}

/* --- calls --- */

/* How many values and names the arguments are, with those behind stars. */
struct counted {
    struct val *v; /* of each argument */
    size_t npos, nkw;
};

static int count_args(struct run *r, struct scope *s, const struct node *n, struct counted *c)
{
    *c = (struct counted){.v = run_alloc(r, ((size_t)n->nkid + 1) * sizeof *c->v)};
    if (!c->v) return -1;
    for (int i = 0; i < n->nkid; i++) {
        const struct node *k = n->kid[i];
        bool named = k->kind == N_KEYWORD, star = k->kind == N_STAR, stars = k->kind == N_STARSTAR;
        if (run_eval(r, s, named || star || stars ? k->a : k, &c->v[i])) return -1;
        if (star) {
            const struct val *items;
            size_t count;
            if (val_list(r, &c->v[i], &items, &count)) return -1;
            c->v[i] = v_items(V_LIST, items, count);
            c->npos += count;
        } else if (stars) {
            if (c->v[i].t != V_DICT) return run_fail(r, "argument after ** must be a mapping, not %s", val_type(&c->v[i]));
            c->nkw += c->v[i].n;
        } else {
            *(named ? &c->nkw : &c->npos) += 1;
        }
    }
    return c->npos + c->nkw > JINJA_RANGE_MAX ? run_fail(r, "too many arguments") : 0;
}

static int add_stars(struct run *r, struct args *a, const struct val *dict)
{
    for (size_t i = 0; i < dict->n; i++) {
        const struct val *k = &dict->pairs[i].k;
        const char *name = k->t == V_STR ? arena_strndup(r->arena, k->s, k->n) : NULL;
        if (!name) return run_fail(r, "keywords must be strings");
        a->kw[a->nkw++] = (struct named){name, dict->pairs[i].v};
    }
    return 0;
}

int run_args(struct run *r, struct scope *s, const struct node *n, struct args *a)
{
    struct counted c;
    *a = (struct args){0};
    if (!n->nkid) return 0;
    if (count_args(r, s, n, &c)) return -1;
    a->pos = run_alloc(r, (c.npos + 1) * sizeof *a->pos);
    a->kw = run_alloc(r, (c.nkw + 1) * sizeof *a->kw);
    if (!a->pos || !a->kw) return -1;
    for (int i = 0; i < n->nkid; i++) {
        const struct node *k = n->kid[i];
        if (k->kind == N_KEYWORD) {
            a->kw[a->nkw++] = (struct named){k->name, c.v[i]};
        } else if (k->kind == N_STAR) {
            if (c.v[i].n) memcpy(a->pos + a->npos, c.v[i].items, c.v[i].n * sizeof *a->pos);
            a->npos += (int)c.v[i].n;
        } else if (k->kind == N_STARSTAR) {
            if (add_stars(r, a, &c.v[i])) return -1;
        } else {
            a->pos[a->npos++] = c.v[i];
        }
    }
    return 0;
}

int run_call(struct run *r, const struct val *fn, const struct args *a, struct val *out)
{
    if (fn->t == V_LOOP) return run_loop_again(r, fn->loop, a, out);
    if (fn->t == V_UNDEF) return run_fail(r, "'%.*s' is undefined", (int)(fn->n < 80 ? fn->n : 80), fn->s);
    if (fn->t != V_FUNC) return run_fail(r, "'%s' object is not callable", val_type(fn));
    return fn->fn->kind == FN_MACRO ? run_macro(r, fn->fn, a, out) : run_builtin(r, fn->fn->builtin, &fn->fn->self, a, out);
}

static int eval_call(struct run *r, struct scope *s, const struct node *n, struct val *out)
{
    struct val fn;
    struct args a;
    return run_eval(r, s, n->a, &fn) || run_args(r, s, n, &a) || run_call(r, &fn, &a, out) ? -1 : 0;
}

/* Filters and tests. */
static int eval_builtin(struct run *r, struct scope *s, const struct node *n, struct val *out)
{
    struct val on;
    struct args a;
    if (run_eval(r, s, n->a, &on) || run_args(r, s, n, &a) || run_builtin(r, n->builtin, &on, &a, out)) return -1;
    if (n->kind == N_TEST) *out = v_bool(val_true(out) != n->flag);
    return 0;
}

/* --- builtins' arguments --- */

static int param_index(const char *params, const char *name)
{
    size_t n = strlen(name);
    int i = 0;
    for (const char *p = params; *p; i++) {
        size_t len = strcspn(p, " ");
        if (len == n && !memcmp(p, name, n) && *p != '*') return i;
        p += len;
        p += *p == ' ';
    }
    return -1;
}

static int param_count(const char *params, bool *more)
{
    int n = 0;
    *more = false;
    for (const char *p = params; *p;) {
        if (*p == '*') *more = true;
        else n++;
        p += strcspn(p, " ");
        p += *p == ' ';
    }
    return n;
}

/* The arguments in the order of the row's params, with V_MISSING where one was not given. What a "*" takes follows. */
static int bind(struct run *r, const struct builtin *b, const struct args *a, struct args *bound)
{
    bool more;
    int n = param_count(b->params, &more), room = a->npos > n ? a->npos : n;
    if (a->npos > n && !more) return run_fail(r, "%s() takes at most %d arguments, %d were given", b->name, n, a->npos);
    bound->pos = run_alloc(r, ((size_t)room + 1) * sizeof *bound->pos);
    bound->kw = run_alloc(r, ((size_t)a->nkw + 1) * sizeof *bound->kw);
    if (!bound->pos || !bound->kw) return -1;
    for (int i = 0; i < room; i++) bound->pos[i] = i < a->npos ? a->pos[i] : (struct val){.t = V_MISSING};
    bound->npos = room;
    for (int i = 0; i < a->nkw; i++) {
        int at = param_index(b->params, a->kw[i].name);
        if (at < 0 && !more) return run_fail(r, "%s() got an unexpected keyword argument '%.60s'", b->name, a->kw[i].name);
        if (at < 0) bound->kw[bound->nkw++] = a->kw[i];
        else if (bound->pos[at].t != V_MISSING) return run_fail(r, "%s() got multiple values for argument '%s'", b->name, a->kw[i].name);
        else bound->pos[at] = a->kw[i].v;
    }
    for (int i = 0; i < b->need; i++)
        if (!arg(bound, i)) return run_fail(r, "%s() needs %d arguments", b->name, b->need);
    return 0;
}

int run_builtin(struct run *r, const struct builtin *b, const struct val *self, const struct args *a, struct val *out)
{
    struct args bound = {0};
    if (run_step(r, 1)) return -1;
    if (!a->npos && !a->nkw && !b->need) return b->fn(r, self, &bound, out);
    return bind(r, b, a, &bound) || b->fn(r, self, &bound, out) ? -1 : 0;
}

int arg_int(struct run *r, const struct args *a, int i, int64_t *out)
{
    const struct val *v = arg(a, i);
    if (!v) return 0;
    if (!v_is_integer(v)) return run_fail(r, "an integer was expected, not %s", val_type(v));
    *out = v_integer(v);
    return 0;
}

int arg_bool(const struct args *a, int i, bool otherwise)
{
    return arg(a, i) ? val_true(arg(a, i)) : otherwise;
}

int arg_str(struct run *r, const struct args *a, int i, struct val *out)
{
    const struct val *v = arg(a, i);
    if (!v) return 0;
    if (v->t != V_STR) return run_fail(r, "a string was expected, not %s", val_type(v));
    *out = *v;
    return 0;
}

const struct builtin *jinja_find(const struct builtin *rows, const char *name, size_t n)
{
    for (; rows->name; rows++)
        if (strlen(rows->name) == n && !memcmp(rows->name, name, n)) return rows;
    return NULL;
}

const struct builtin *jinja_find_filter(const char *name, size_t n)
{
    const struct builtin *b = jinja_find(jinja_text_filters, name, n);
    return b ? b : jinja_find(jinja_list_filters, name, n);
}

/* --- operators --- */

static int eval_word(struct run *r, struct scope *s, const struct node *n, struct val *out)
{
    if (run_eval(r, s, n->a, out)) return -1;
    return val_true(out) == (n->kind == N_OR) ? 0 : run_eval(r, s, n->b, out);
}

static int eval_sign(struct run *r, struct scope *s, const struct node *n, struct val *out)
{
    struct val zero = v_int(0), v;
    if (run_eval(r, s, n->a, &v)) return -1;
    if (v.t == V_FLOAT) {
        *out = v_float(n->kind == N_NEG ? -v.f : v.f);
        return 0;
    }
    return run_binary(r, n->kind == N_NEG ? T_SUB : T_ADD, &zero, &v, out);
}

static int eval_compare(struct run *r, struct scope *s, const struct node *n, struct val *out)
{
    struct val left, right;
    bool is = true;
    if (run_eval(r, s, n->a, &left)) return -1;
    for (int i = 0; i < n->nkid && is; i++) {
        if (run_eval(r, s, n->kid[i]->b, &right) || run_compare(r, n->kid[i]->op, &left, &right, &is)) return -1;
        left = right;
    }
    *out = v_bool(is);
    return 0;
}

static int eval_binary(struct run *r, struct scope *s, const struct node *n, struct val *out)
{
    struct val a, b;
    return run_eval(r, s, n->a, &a) || run_eval(r, s, n->b, &b) || run_binary(r, n->op, &a, &b, out) ? -1 : 0;
}

static int eval_concat(struct run *r, struct scope *s, const struct node *n, struct val *out)
{
    struct text t = {0};
    for (int i = 0; i < n->nkid; i++) {
        struct val v;
        if (run_eval(r, s, n->kid[i], &v) || print_str(r, &t, &v)) return -1;
    }
    *out = text_val(&t);
    return 0;
}

static int eval_cond(struct run *r, struct scope *s, const struct node *n, struct val *out)
{
    struct val is;
    if (run_eval(r, s, n->a, &is)) return -1;
    if (val_true(&is)) return run_eval(r, s, n->b, out);
    *out = v_undef("the inline if-expression without else", 37);
    return n->c ? run_eval(r, s, n->c, out) : 0;
}

static int eval_not(struct run *r, struct scope *s, const struct node *n, struct val *out)
{
    struct val v;
    if (run_eval(r, s, n->a, &v)) return -1;
    *out = v_bool(!val_true(&v));
    return 0;
}

static int eval_one(struct run *r, struct scope *s, const struct node *n, struct val *out)
{
    switch (n->kind) {
    case N_CONST: *out = n->v; return 0;
    case N_NAME: return eval_name(s, n, out);
    case N_LIST:
    case N_TUPLE: return eval_items(r, s, n, out);
    case N_DICT: return eval_dict(r, s, n, out);
    case N_ATTR: return eval_attr(r, s, n, out);
    case N_ITEM: return eval_item(r, s, n, out);
    case N_CALL: return eval_call(r, s, n, out);
    case N_FILTER:
    case N_TEST: return eval_builtin(r, s, n, out);
    case N_NEG:
    case N_POS: return eval_sign(r, s, n, out);
    case N_NOT: return eval_not(r, s, n, out);
    case N_BINARY: return eval_binary(r, s, n, out);
    case N_AND:
    case N_OR: return eval_word(r, s, n, out);
    case N_COMPARE: return eval_compare(r, s, n, out);
    case N_CONCAT: return eval_concat(r, s, n, out);
    case N_COND: return eval_cond(r, s, n, out);
    case S_BODY: *out = r->hole; return 0;
    default: return run_fail(r, "a slice can't stand here");
    }
}

int run_eval(struct run *r, struct scope *s, const struct node *n, struct val *out)
{
    if (run_step(r, 1)) return -1;
    if (++r->depth > JINJA_DEPTH) return run_fail(r, "it is nested too deeply");
    r->line = n->line;
    int rc = eval_one(r, s, n, out);
    r->depth--;
    return rc;
}
