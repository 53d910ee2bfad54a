/* Running a template, statements: bodies, conditions, loops, assignments, macros.
 *
 *     globals <- variables of the call <- [macro] <- [loop turn] <- ...        a name is looked up outwards
 *
 * Scopes are Jinja's: a loop's turn, a macro's call, a with, and a block that is captured have their own; if has none. An assignment
 * is always to the innermost one, which is why templates that want to carry something out of a loop use a namespace. A macro sees
 * what stands around its definition.
 *
 * Everything that runs costs steps and depth; both have a limit, so any template ends.
 *
 * One run belongs to one thread; the template is shared and only read. */
#include "engine/jinja.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int run_fail(struct run *r, const char *fmt, ...)
{
    char msg[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return err_field(r->e, ERR_INVALID, "messages", "the chat template refuses these messages (line %d: %s)", r->line, msg);
}

int run_step(struct run *r, int64_t n)
{
    r->steps += n;
    return r->steps > JINJA_STEPS ? run_fail(r, "it takes more than %d steps", JINJA_STEPS) : 0;
}

void *run_alloc(struct run *r, size_t n)
{
    void *p = run_step(r, (int64_t)(n / 256)) ? NULL : arena_alloc(r->arena, n ? n : 1);
    if (!p && !arena_is_full(r->arena))
        err_set(r->e, ERR_NO_MEMORY, "chat template: out of memory");
    else if (!p)
        run_fail(r, "it takes more than %u bytes of memory", JINJA_RENDER_BYTES);
    return p;
}

/* --- scopes --- */

struct scope *scope_new(struct run *r, struct scope *up)
{
    struct scope *s = run_alloc(r, sizeof *s);
    if (s) s->up = up;
    return s;
}

static struct var *find_here(const struct scope *s, const char *name)
{
    for (struct var *v = s->vars; v; v = v->next)
        if (v->name == name) return v;
    return NULL;
}

int scope_set(struct run *r, struct scope *s, const char *name, const struct val *v)
{
    struct var *var = find_here(s, name);
    if (!var) {
        var = run_alloc(r, sizeof *var);
        if (!var) return -1;
        var->name = name;
        var->next = s->vars;
        s->vars = var;
    }
    var->v = *v;
    return 0;
}

const struct val *scope_find(const struct scope *s, const char *name)
{
    for (; s; s = s->up) {
        struct var *v = find_here(s, name);
        if (v) return &v->v;
    }
    return NULL;
}

/* --- assignment --- */

static int unpack(struct run *r, struct scope *s, const struct node *target, const struct val *v)
{
    const struct val *items;
    size_t n;
    if (v->t == V_UNDEF || val_list(r, v, &items, &n)) return run_fail(r, "cannot unpack a %s", val_type(v));
    if (n != (size_t)target->nkid) return run_fail(r, "%zu values to unpack into %d names", n, target->nkid);
    for (size_t i = 0; i < n; i++)
        if (run_assign(r, s, target->kid[i], &items[i])) return -1;
    return 0;
}

int run_assign(struct run *r, struct scope *s, const struct node *target, const struct val *v)
{
    if (target->kind == N_NAME) return scope_set(r, s, target->name, v);
    if (target->kind == N_TUPLE) return unpack(r, s, target, v);
    const struct val *ns = scope_find(s, target->a->name);
    if (!ns || ns->t != V_NS) return run_fail(r, "cannot assign attribute on non-namespace object");
    return scope_set(r, ns->ns, target->name, v);
}

/* --- capturing --- */

int run_capture(struct run *r, struct scope *s, const struct node *body, struct val *out)
{
    struct text text = {0}, *outer = r->out;
    r->out = &text;
    int rc = run_exec(r, s, body);
    r->out = outer;
    *out = text_val(&text);
    return rc;
}

/* What a block makes, through its filters. */
static int capture_filtered(struct run *r, struct scope *s, const struct node *n, struct val *out)
{
    struct scope *inner = scope_new(r, s);
    struct val outer = r->hole, made;
    if (!inner || run_capture(r, inner, n->b, &made)) return -1;
    *out = made;
    if (!n->c) return 0;
    r->hole = made;
    int rc = run_eval(r, s, n->c, out);
    r->hole = outer;
    return rc;
}

/* --- loops --- */

/* Those elements for which the loop's "if" holds. */
static int filter_items(struct run *r, const struct node *n, struct scope *s, const struct val **items, size_t *count)
{
    struct val *kept = run_alloc(r, (*count + 1) * sizeof *kept), is;
    size_t k = 0;
    if (!kept) return -1;
    for (size_t i = 0; i < *count; i++) {
        struct scope *turn = scope_new(r, s);
        if (!turn || run_assign(r, turn, n->a, &(*items)[i]) || run_eval(r, turn, n->c, &is)) return -1;
        if (val_true(&is)) kept[k++] = (*items)[i];
    }
    *items = kept;
    *count = k;
    return 0;
}

static int loop_turn(struct run *r, const struct node *n, struct loop *l)
{
    struct scope *turn = scope_new(r, l->scope);
    struct val self = {.t = V_LOOP, .loop = l};
    if (!turn || (r->n_loop && scope_set(r, turn, r->n_loop, &self)) || run_assign(r, turn, n->a, &l->items[l->i])) return -1;
    if (run_exec(r, turn, n->d)) return -1;
    if (r->flow == CONTINUE) r->flow = GO;
    return 0;
}

int run_loop(struct run *r, const struct node *n, struct scope *s, const struct val *over, int depth)
{
    struct loop *l = run_alloc(r, sizeof *l);
    if (!l) return -1;
    *l = (struct loop){.node = n, .scope = s, .depth = depth};
    if (val_list(r, over, &l->items, &l->n) || (n->c && filter_items(r, n, s, &l->items, &l->n))) return -1;
    for (l->i = 0; l->i < l->n && r->flow == GO; l->i++)
        if (loop_turn(r, n, l)) return -1;
    if (r->flow == BREAK) r->flow = GO;
    if (l->n || !n->nkid) return 0;
    struct scope *inner = scope_new(r, s);
    return inner ? run_exec(r, inner, n->kid[0]) : -1;
}

int run_loop_again(struct run *r, struct loop *l, const struct args *a, struct val *out)
{
    struct text text = {0}, *outer = r->out;
    if (!l->node->flag) return run_fail(r, "the loop is not marked recursive");
    if (a->npos != 1 || a->nkw) return run_fail(r, "loop() takes one argument");
    if (++r->depth > JINJA_DEPTH) return run_fail(r, "it is nested too deeply");
    r->out = &text;
    int rc = run_loop(r, l->node, l->scope, &a->pos[0], l->depth + 1);
    r->out = outer;
    r->depth--;
    *out = text_val(&text);
    return rc;
}

static int exec_for(struct run *r, struct scope *s, const struct node *n)
{
    struct val over;
    return run_eval(r, s, n->b, &over) || run_loop(r, n, s, &over, 1) ? -1 : 0;
}

/* --- macros --- */

static int make_macro(struct run *r, struct scope *s, const struct node *n, struct val *out)
{
    struct func *f = run_alloc(r, sizeof *f);
    if (!f) return -1;
    *f = (struct func){.kind = FN_MACRO, .macro = n, .scope = s};
    *out = (struct val){.t = V_FUNC, .fn = f};
    return 0;
}

const struct named *arg_named(const struct args *a, const char *name)
{
    for (int i = 0; i < a->nkw; i++)
        if (!strcmp(a->kw[i].name, name)) return &a->kw[i];
    return NULL;
}

static int bind_param(struct run *r, struct scope *s, const struct node *m, int i, const struct args *a)
{
    const struct node *p = m->kid[i];
    const struct named *kw = arg_named(a, p->name);
    struct val v = v_undef(p->name, strlen(p->name));
    if (i < a->npos && kw) return run_fail(r, "macro '%s' got two values for '%s'", m->name, p->name);
    if (i < a->npos) v = a->pos[i];
    else if (kw) v = kw->v;
    else if (p->a && run_eval(r, s, p->a, &v)) return -1;
    return scope_set(r, s, p->name, &v);
}

static bool is_param(const struct node *m, const char *name)
{
    for (int i = 0; i < m->nkid; i++)
        if (!strcmp(m->kid[i]->name, name)) return true;
    return false;
}

/* The arguments that no parameter takes: to `varargs` and `kwargs` where the template speaks of them, else an error. */
static int bind_rest(struct run *r, struct scope *s, const struct node *m, const struct args *a)
{
    int extra = a->npos > m->nkid ? a->npos - m->nkid : 0;
    size_t n = 0;
    struct dict_pair *rest = run_alloc(r, ((size_t)a->nkw + 1) * sizeof *rest);
    if (!rest) return -1;
    for (int i = 0; i < a->nkw; i++) {
        if (is_param(m, a->kw[i].name)) continue;
        if (!strcmp(a->kw[i].name, "caller")) {
            if (r->n_caller && scope_set(r, s, r->n_caller, &a->kw[i].v)) return -1;
            continue;
        }
        rest[n++] = (struct dict_pair){v_cstr(a->kw[i].name), a->kw[i].v};
    }
    if (extra && !r->n_varargs) return run_fail(r, "macro '%s' takes not more than %d arguments", m->name, m->nkid);
    if (n && !r->n_kwargs) return run_fail(r, "macro '%s' takes no keyword argument '%.*s'", m->name, (int)rest[0].k.n, rest[0].k.s);
    struct val more = v_items(V_TUPLE, extra ? a->pos + (a->npos - extra) : NULL, (size_t)extra), named = v_dict(rest, n);
    if (r->n_varargs && scope_set(r, s, r->n_varargs, &more)) return -1;
    return r->n_kwargs ? scope_set(r, s, r->n_kwargs, &named) : 0;
}

int run_macro(struct run *r, const struct func *f, const struct args *a, struct val *out)
{
    struct scope *s = scope_new(r, f->scope);
    int line = r->line;
    if (!s || bind_rest(r, s, f->macro, a)) return -1;
    for (int i = 0; i < f->macro->nkid; i++)
        if (bind_param(r, s, f->macro, i, a)) return -1;
    if (run_capture(r, s, f->macro->b, out)) return -1;
    r->line = line;
    return 0;
}

/* {% call m(...) %}: the call with its block as one more argument, "caller". */
static int exec_call(struct run *r, struct scope *s, const struct node *n)
{
    struct val fn, out;
    struct args a;
    if (run_eval(r, s, n->a->a, &fn) || run_args(r, s, n->a, &a)) return -1;
    struct named *kw = run_alloc(r, ((size_t)a.nkw + 1) * sizeof *kw);
    if (!kw) return -1;
    if (a.nkw) memcpy(kw, a.kw, (size_t)a.nkw * sizeof *kw);
    kw[a.nkw].name = "caller";
    if (make_macro(r, s, n->b, &kw[a.nkw].v)) return -1;
    a.kw = kw;
    a.nkw++;
    return run_call(r, &fn, &a, &out) || print_str(r, r->out, &out) ? -1 : 0;
}

/* --- the others --- */

static int exec_body(struct run *r, struct scope *s, const struct node *n)
{
    for (int i = 0; i < n->nkid && r->flow == GO; i++)
        if (run_exec(r, s, n->kid[i])) return -1;
    return 0;
}

static int exec_if(struct run *r, struct scope *s, const struct node *n)
{
    for (; n && n->kind == S_IF; n = n->c) {
        struct val is;
        if (run_eval(r, s, n->a, &is)) return -1;
        if (val_true(&is)) return run_exec(r, s, n->b);
    }
    return n ? run_exec(r, s, n) : 0;
}

static int exec_with(struct run *r, struct scope *s, const struct node *n)
{
    struct scope *inner = scope_new(r, s);
    struct val v;
    if (!inner) return -1;
    for (int i = 0; i < n->nkid; i++) /* values are of the scope around */
        if (run_eval(r, s, n->kid[i]->b, &v) || run_assign(r, inner, n->kid[i]->a, &v)) return -1;
    return run_exec(r, inner, n->b);
}

static int exec_one(struct run *r, struct scope *s, const struct node *n)
{
    struct val v;
    switch (n->kind) {
    case S_TEXT: return text_add(r, r->out, n->v.s, n->v.n);
    case S_OUTPUT: return run_eval(r, s, n->a, &v) || print_str(r, r->out, &v) ? -1 : 0;
    case S_BODY: return exec_body(r, s, n);
    case S_IF: return exec_if(r, s, n);
    case S_FOR: return exec_for(r, s, n);
    case S_SET: return run_eval(r, s, n->b, &v) || run_assign(r, s, n->a, &v) ? -1 : 0;
    case S_SET_BLOCK: return capture_filtered(r, s, n, &v) || run_assign(r, s, n->a, &v) ? -1 : 0;
    case S_FILTER: return capture_filtered(r, s, n, &v) || print_str(r, r->out, &v) ? -1 : 0;
    case S_MACRO: return make_macro(r, s, n, &v) || scope_set(r, s, n->name, &v) ? -1 : 0;
    case S_CALL: return exec_call(r, s, n);
    case S_WITH: return exec_with(r, s, n);
    case S_BREAK: r->flow = BREAK; return 0;
    case S_CONTINUE: r->flow = CONTINUE; return 0;
    default: return run_fail(r, "a statement of kind %d", n->kind); /* the parser makes no other */
    }
}

int run_exec(struct run *r, struct scope *s, const struct node *n)
{
    if (run_step(r, 1)) return -1;
    if (++r->depth > JINJA_DEPTH) return run_fail(r, "it is nested too deeply");
    r->line = n->line;
    int rc = exec_one(r, s, n);
    r->depth--;
    return rc;
}

/* --- a whole run --- */

static int set_globals(struct run *r, struct scope *s)
{
    for (const struct builtin *b = jinja_globals; b->name; b++) {
        const char *name = jinja_known_name(r->j, b->name);
        struct func *f = name ? run_alloc(r, sizeof *f) : NULL;
        if (!name) continue;
        if (!f) return -1;
        *f = (struct func){.kind = FN_BUILTIN, .builtin = b};
        struct val v = {.t = V_FUNC, .fn = f};
        if (scope_set(r, s, name, &v)) return -1;
    }
    return 0;
}

static int set_vars(struct run *r, struct scope *s, const json_t *vars)
{
    const char *key;
    json_t *j;
    json_object_foreach((json_t *)vars, key, j) {
        const char *name = jinja_known_name(r->j, key);
        struct val v;
        if (name && (val_from_json(r, j, 0, &v) || scope_set(r, s, name, &v))) return -1;
    }
    return 0;
}

int jinja_render(const struct jinja *j, const json_t *vars, struct arena *arena, struct text *out, struct err *e)
{
    struct run r = {.j = j, .arena = arena, .e = e, .out = out, .line = 1};
    struct scope *globals = scope_new(&r, NULL), *s = globals ? scope_new(&r, globals) : NULL;
    r.n_loop = jinja_known_name(j, "loop");
    r.n_caller = jinja_known_name(j, "caller");
    r.n_varargs = jinja_known_name(j, "varargs");
    r.n_kwargs = jinja_known_name(j, "kwargs");
    if (!s || set_globals(&r, globals) || set_vars(&r, s, vars)) return -1;
    return run_exec(&r, s, j->root);
}
