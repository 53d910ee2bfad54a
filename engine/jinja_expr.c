/* Parser, expressions: precedence climbing after Jinja's own parser, one function each level.
 *
 *     if-else < or < and < not < comparisons, in < + - < ~ < * / // % < ** < sign, primary, postfix, filters and tests
 *
 * How an expression lies in a node:
 *     N_CONST v | N_NAME name | N_LIST N_TUPLE kids | N_DICT kids: key, value, key, value... | N_ATTR a, name (v: the same as a value) |
 *     N_ITEM a, b | N_SLICE a b c, each may be NULL | N_CALL a, kids: arguments | N_FILTER N_TEST builtin, a, kids | N_KEYWORD name, a |
 *     N_STAR N_STARSTAR a | N_BINARY op a b | N_COMPARE a, kids: N_BINARYs with op and b | N_CONCAT kids | N_COND a: condition, b: then, c
 *
 * Called at load. */
#include "engine/jinja.h"
#include <string.h>

static struct node *parse_unary(struct parser *p, bool with_filter);
static struct node *parse_postfix(struct parser *p, struct node *n);
static struct node *parse_or(struct parser *p);

static struct node *node_ab(struct parser *p, enum kind kind, int line, struct node *a, struct node *b)
{
    struct node *n = a ? node_new(p, kind, line) : NULL;
    if (!n) return NULL;
    n->a = a;
    n->b = b;
    return n;
}

/* --- names, literals, brackets --- */

static struct node *parse_name(struct parser *p, bool with_namespace)
{
    static const struct {
        const char *word;
        struct val v;
    } words[] = {{"true", {.t = V_BOOL, .b = true}},   {"True", {.t = V_BOOL, .b = true}}, {"false", {.t = V_BOOL}},
                 {"False", {.t = V_BOOL}},             {"none", {.t = V_NONE}},            {"None", {.t = V_NONE}}};
    struct node *n = node_new(p, N_NAME, p->t->line);
    if (!n) return NULL;
    n->name = p->t->s;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (parse_is(p, words[i].word)) {
            n->kind = N_CONST;
            n->v = words[i].v;
        }
    p->t++;
    if (!with_namespace || n->kind != N_NAME || !parse_skip_op(p, T_DOT)) return n;
    n = node_ab(p, N_ATTR, n->line, n, NULL);
    if (n) n->name = p->t->s;
    return n && !parse_need(p, T_NAME) ? n : NULL;
}

static struct node *parse_string(struct parser *p)
{
    struct node *n = node_new(p, N_CONST, p->t->line);
    if (!n) return NULL;
    n->v = v_str(p->t->s, p->t->n);
    for (p->t++; p->t->t == T_STR; p->t++) { /* 'a' 'b' is 'ab' */
        char *both = arena_alloc(p->j->arena, n->v.n + p->t->n + 1);
        if (!both) {
            parse_fail(p, "the template is too large");
            return NULL;
        }
        memcpy(both, n->v.s, n->v.n);
        memcpy(both + n->v.n, p->t->s, p->t->n);
        n->v = v_str(both, n->v.n + p->t->n);
    }
    return n;
}

static struct node *parse_number(struct parser *p)
{
    struct node *n = node_new(p, N_CONST, p->t->line);
    if (n) n->v = p->t->t == T_INT ? v_int(p->t->i) : v_float(p->t->f);
    p->t++;
    return n;
}

static struct node *parse_list(struct parser *p)
{
    struct node *n = node_new(p, N_LIST, p->t->line);
    p->t++;
    while (n && p->t->t != T_RBRACKET) {
        if (n->nkid && parse_need(p, T_COMMA)) return NULL;
        if (p->t->t == T_RBRACKET) break;
        if (node_add(p, n, parse_expr(p))) return NULL;
    }
    return n && !parse_need(p, T_RBRACKET) ? n : NULL;
}

static struct node *parse_dict(struct parser *p)
{
    struct node *n = node_new(p, N_DICT, p->t->line);
    p->t++;
    while (n && p->t->t != T_RBRACE) {
        if (n->nkid && parse_need(p, T_COMMA)) return NULL;
        if (p->t->t == T_RBRACE) break;
        if (node_add(p, n, parse_expr(p)) || parse_need(p, T_COLON) || node_add(p, n, parse_expr(p))) return NULL;
    }
    return n && !parse_need(p, T_RBRACE) ? n : NULL;
}

static bool at_tuple_end(const struct parser *p, const char *end_word)
{
    return p->t->t == T_VAR_END || p->t->t == T_BLOCK_END || p->t->t == T_RPAREN || (end_word && parse_is(p, end_word));
}

/* One expression, or those between commas as a tuple. `one` parses an element. */
static struct node *parse_elements(struct parser *p, struct node *(*one)(struct parser *p), const char *end_word, bool may_be_empty)
{
    struct node *first = NULL, *tuple = NULL;
    int line = p->t->line;
    while (!at_tuple_end(p, end_word)) {
        struct node *n = one(p);
        if (!n || (tuple && node_add(p, tuple, n))) return NULL;
        if (!first) first = n;
        if (!parse_skip_op(p, T_COMMA)) break;
        if (!tuple && (!(tuple = node_new(p, N_TUPLE, line)) || node_add(p, tuple, first))) return NULL;
    }
    if (first) return tuple ? tuple : first;
    if (may_be_empty) return node_new(p, N_TUPLE, line);
    parse_fail(p, "an expression was expected");
    return NULL;
}

struct node *parse_tuple(struct parser *p, bool with_cond, const char *end_word)
{
    return parse_elements(p, with_cond ? parse_expr : parse_expr_no_cond, end_word, false);
}

static struct node *parse_parens(struct parser *p)
{
    p->t++;
    struct node *n = parse_elements(p, parse_expr, NULL, true);
    return n && !parse_need(p, T_RPAREN) ? n : NULL;
}

static struct node *parse_primary(struct parser *p)
{
    switch (p->t->t) {
    case T_NAME: return parse_name(p, false);
    case T_STR: return parse_string(p);
    case T_INT:
    case T_FLOAT: return parse_number(p);
    case T_LPAREN: return parse_parens(p);
    case T_LBRACKET: return parse_list(p);
    case T_LBRACE: return parse_dict(p);
    default: parse_fail(p, "an expression was expected"); return NULL;
    }
}

/* --- targets --- */

static struct node *parse_target_name(struct parser *p)
{
    struct node *n = p->t->t == T_NAME ? parse_name(p, false) : p->t->t == T_LPAREN ? parse_parens(p) : NULL;
    if (!n) parse_fail(p, "a name was expected");
    return n;
}

static struct node *parse_target_part(struct parser *p)
{
    return p->t->t == T_NAME ? parse_name(p, true) : parse_target_name(p);
}

static bool can_assign(const struct node *n)
{
    if (n->kind == N_NAME || n->kind == N_ATTR) return true;
    for (int i = 0; n->kind == N_TUPLE && i < n->nkid; i++)
        if (!can_assign(n->kid[i])) return false;
    return n->kind == N_TUPLE;
}

struct node *parse_target(struct parser *p, bool with_namespace)
{
    struct node *n = parse_elements(p, with_namespace ? parse_target_part : parse_target_name, "in", false);
    if (!n || can_assign(n)) return n;
    parse_fail(p, "this can't be assigned to");
    return NULL;
}

/* --- calls, subscripts, filters, tests --- */

static struct node *parse_arg(struct parser *p)
{
    int line = p->t->line;
    if (parse_skip_op(p, T_MUL)) return node_ab(p, N_STAR, line, parse_expr(p), NULL);
    if (parse_skip_op(p, T_POW)) return node_ab(p, N_STARSTAR, line, parse_expr(p), NULL);
    if (p->t->t != T_NAME || p->t[1].t != T_ASSIGN) return parse_expr(p);
    const char *name = p->t->s;
    p->t += 2;
    struct node *n = node_ab(p, N_KEYWORD, line, parse_expr(p), NULL);
    if (n) n->name = name;
    return n;
}

/* What may follow what: values, then *args or keywords, then **kwargs. */
static int check_arg_order(struct parser *p, const struct node *n)
{
    int last = 0;
    for (int i = 0; i < n->nkid; i++) {
        enum kind k = n->kid[i]->kind;
        int rank = k == N_STARSTAR ? 2 : k == N_KEYWORD || k == N_STAR ? 1 : 0;
        if (rank < last || (k == N_STARSTAR && last == 2)) return parse_fail(p, "the arguments are in an order that is not allowed");
        last = rank;
    }
    return 0;
}

/* "(...)" into n's kids. */
static int parse_args(struct parser *p, struct node *n)
{
    if (parse_need(p, T_LPAREN)) return -1;
    while (p->t->t != T_RPAREN) {
        if (n->nkid && parse_need(p, T_COMMA)) return -1;
        if (p->t->t == T_RPAREN) break;
        if (node_add(p, n, parse_arg(p))) return -1;
    }
    return parse_need(p, T_RPAREN) || check_arg_order(p, n) ? -1 : 0;
}

/* Jinja's functions that we have not: named at load, not at the first message. */
static bool is_unserved_function(const struct node *of)
{
    static const char *const names[] = {"cycler", "joiner", "lipsum"};
    for (size_t i = 0; of->kind == N_NAME && i < sizeof names / sizeof *names; i++)
        if (!strcmp(of->name, names[i])) return true;
    return false;
}

static struct node *parse_call(struct parser *p, struct node *of)
{
    if (is_unserved_function(of)) {
        parse_fail(p, "the function \"%s\" is not known", of->name);
        return NULL;
    }
    struct node *n = node_ab(p, N_CALL, p->t->line, of, NULL);
    return n && !parse_args(p, n) ? n : NULL;
}

static bool at_bound_end(const struct parser *p)
{
    return p->t->t == T_COLON || p->t->t == T_RBRACKET || p->t->t == T_COMMA;
}

static struct node *parse_subscript(struct parser *p)
{
    struct node *n, *bound[3] = {NULL};
    int line = p->t->line, k = 0;
    if (p->t->t != T_COLON && !(bound[0] = parse_expr(p))) return NULL;
    if (p->t->t != T_COLON) return bound[0];
    while (k < 2 && parse_skip_op(p, T_COLON)) {
        k++;
        if (!at_bound_end(p) && !(bound[k] = parse_expr(p))) return NULL;
    }
    if (!(n = node_new(p, N_SLICE, line))) return NULL;
    n->a = bound[0], n->b = bound[1], n->c = bound[2];
    return n;
}

static struct node *parse_brackets(struct parser *p, struct node *of)
{
    struct node *n = node_ab(p, N_ITEM, p->t->line, of, NULL), *tuple;
    p->t++;
    if (!n || !(n->b = parse_subscript(p))) return NULL;
    if (p->t->t == T_COMMA) {
        if (!(tuple = node_new(p, N_TUPLE, p->t->line)) || node_add(p, tuple, n->b)) return NULL;
        while (parse_skip_op(p, T_COMMA))
            if (node_add(p, tuple, parse_subscript(p))) return NULL;
        n->b = tuple;
    }
    return parse_need(p, T_RBRACKET) ? NULL : n;
}

static struct node *parse_dot(struct parser *p, struct node *of)
{
    struct node *n;
    int line = p->t->line;
    p->t++;
    if (p->t->t == T_INT) return node_ab(p, N_ITEM, line, of, parse_number(p));
    if (!(n = node_ab(p, N_ATTR, line, of, NULL))) return NULL;
    n->name = p->t->s;
    n->v = v_str(p->t->s, p->t->n);
    return parse_need(p, T_NAME) ? NULL : n;
}

static struct node *parse_postfix(struct parser *p, struct node *n)
{
    while (n) {
        if (p->t->t == T_DOT) n = parse_dot(p, n);
        else if (p->t->t == T_LBRACKET) n = parse_brackets(p, n);
        else if (p->t->t == T_LPAREN) n = parse_call(p, n);
        else break;
    }
    return n;
}

struct node *parse_filters(struct parser *p, struct node *on, bool inline_first)
{
    while (on && (inline_first || parse_skip_op(p, T_PIPE))) {
        struct node *n = node_ab(p, N_FILTER, p->t->line, on, NULL);
        const struct token *name = p->t;
        inline_first = false;
        if (!n || parse_need(p, T_NAME)) return NULL;
        n->builtin = jinja_find_filter(name->s, name->n);
        if (!n->builtin) {
            parse_fail(p, "the filter \"%.60s\" is not known", name->s);
            return NULL;
        }
        if (p->t->t == T_LPAREN && parse_args(p, n)) return NULL;
        on = n;
    }
    return on;
}

/* A test's one argument may stand without brackets: "is divisibleby 3". */
static bool at_bare_argument(const struct parser *p)
{
    enum tok t = p->t->t;
    if (t == T_NAME) return !parse_is(p, "else") && !parse_is(p, "or") && !parse_is(p, "and") && !parse_is(p, "is");
    return t == T_STR || t == T_INT || t == T_FLOAT || t == T_LBRACKET || t == T_LBRACE;
}

static struct node *parse_test(struct parser *p, struct node *on)
{
    struct node *n = node_ab(p, N_TEST, p->t->line, on, NULL);
    p->t++;
    if (!n) return NULL;
    n->flag = parse_skip(p, "not");
    const struct token *name = p->t;
    if (parse_need(p, T_NAME)) return NULL;
    n->builtin = jinja_find(jinja_tests, name->s, name->n);
    if (!n->builtin) {
        parse_fail(p, "the test \"%.60s\" is not known", name->s);
        return NULL;
    }
    if (p->t->t == T_LPAREN) return parse_args(p, n) ? NULL : n;
    if (parse_is(p, "is")) {
        parse_fail(p, "tests can't be chained with \"is\"");
        return NULL;
    }
    if (at_bare_argument(p) && node_add(p, n, parse_postfix(p, parse_primary(p)))) return NULL;
    return n;
}

/* --- operators --- */

static struct node *parse_signed(struct parser *p)
{
    enum kind kind = p->t->t == T_SUB ? N_NEG : N_POS;
    int line = p->t->line;
    p->t++;
    return node_ab(p, kind, line, parse_unary(p, false), NULL);
}

/* Every way into a deeper expression leads through here. */
static struct node *parse_unary(struct parser *p, bool with_filter)
{
    struct node *n;
    if (++p->depth > JINJA_NESTING) {
        parse_fail(p, "expressions are nested too deeply");
        p->depth--;
        return NULL;
    }
    n = parse_postfix(p, p->t->t == T_SUB || p->t->t == T_ADD ? parse_signed(p) : parse_primary(p));
    while (n && with_filter) {
        if (p->t->t == T_PIPE) n = parse_filters(p, n, false);
        else if (parse_is(p, "is")) n = parse_test(p, n);
        else if (p->t->t == T_LPAREN) n = parse_call(p, n);
        else break;
    }
    p->depth--;
    return n;
}

static struct node *parse_operand(struct parser *p) { return parse_unary(p, true); }

/* A level of left-associative binary operators from..to above `next`. */
static struct node *parse_level(struct parser *p, enum tok from, enum tok to, struct node *(*next)(struct parser *p))
{
    struct node *n = next(p);
    while (n && p->t->t >= from && p->t->t <= to) {
        const struct token *op = p->t++;
        struct node *right = next(p);
        n = right ? node_ab(p, N_BINARY, op->line, n, right) : NULL;
        if (n) n->op = op->t;
    }
    return n;
}

static struct node *parse_pow(struct parser *p) { return parse_level(p, T_POW, T_POW, parse_operand); }
static struct node *parse_times(struct parser *p) { return parse_level(p, T_MUL, T_MOD, parse_pow); }

static struct node *parse_concat(struct parser *p)
{
    struct node *n = parse_times(p), *all;
    if (!n || p->t->t != T_TILDE) return n;
    if (!(all = node_new(p, N_CONCAT, p->t->line)) || node_add(p, all, n)) return NULL;
    while (parse_skip_op(p, T_TILDE))
        if (node_add(p, all, parse_times(p))) return NULL;
    return all;
}

static struct node *parse_plus(struct parser *p) { return parse_level(p, T_ADD, T_SUB, parse_concat); }

static enum tok comparison(struct parser *p)
{
    if (p->t->t >= T_EQ && p->t->t <= T_GE) return (p->t++)->t;
    if (parse_skip(p, "in")) return T_IN;
    if (parse_is(p, "not") && p->t[1].t == T_NAME && !strcmp(p->t[1].s, "in")) {
        p->t += 2;
        return T_NOT_IN;
    }
    return T_END;
}

static struct node *parse_compare(struct parser *p)
{
    struct node *n = parse_plus(p), *all = NULL;
    enum tok op;
    while (n && (op = comparison(p)) != T_END) {
        struct node *right = parse_plus(p), *pair = right ? node_new(p, N_BINARY, right->line) : NULL;
        if (!pair) return NULL;
        pair->op = op;
        pair->b = right;
        if (!all && !(all = node_ab(p, N_COMPARE, pair->line, n, NULL))) return NULL;
        if (node_add(p, all, pair)) return NULL;
    }
    return all ? all : n;
}

static struct node *parse_not(struct parser *p)
{
    int line = p->t->line;
    if (!parse_skip(p, "not")) return parse_compare(p);
    if (++p->depth > JINJA_NESTING) {
        parse_fail(p, "expressions are nested too deeply");
        return NULL;
    }
    struct node *n = node_ab(p, N_NOT, line, parse_not(p), NULL);
    p->depth--;
    return n;
}

static struct node *parse_word_level(struct parser *p, const char *word, enum kind kind, struct node *(*next)(struct parser *p))
{
    struct node *n = next(p);
    int line = p->t->line;
    while (n && parse_skip(p, word)) {
        struct node *right = next(p);
        n = right ? node_ab(p, kind, line, n, right) : NULL;
    }
    return n;
}

static struct node *parse_and(struct parser *p) { return parse_word_level(p, "and", N_AND, parse_not); }
static struct node *parse_or(struct parser *p) { return parse_word_level(p, "or", N_OR, parse_and); }

struct node *parse_expr_no_cond(struct parser *p) { return parse_or(p); }

struct node *parse_expr(struct parser *p)
{
    struct node *n = parse_or(p);
    int line = p->t->line;
    while (n && parse_skip(p, "if")) {
        struct node *test = parse_or(p), *cond = node_ab(p, N_COND, line, test, n);
        if (!cond) return NULL;
        if (parse_skip(p, "else")) {
            if (++p->depth > JINJA_NESTING) {
                parse_fail(p, "expressions are nested too deeply");
                return NULL;
            }
            cond->c = parse_expr(p);
            p->depth--;
            if (!cond->c) return NULL;
        }
        n = cond;
    }
    return n;
}
