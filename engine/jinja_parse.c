/* Parser, statements: tokens -> the tree that jinja_exec.c walks. Expressions are in jinja_expr.c.
 *
 * Recursive descent after Jinja's own parser, so that precedence and odd corners (a colon after a tag, a comma after a tuple's last
 * element) agree. What the run could not do is refused here, with its line: unknown tags, filters and tests, break outside of a loop.
 *
 * How a statement lies in a node:
 *     S_TEXT v | S_OUTPUT a | S_BODY kids | S_IF a: condition, b: body, c: else (an S_IF or a body) | S_FOR a: target, b: over, c: filter,
 *     d: body, kid[0]: else | S_SET a: target, b: value | S_SET_BLOCK a: target, b: body, c: filters on a hole | S_MACRO name, kids:
 *     parameters (N_NAME with the default in a), b: body | S_CALL a: call, b: an S_MACRO named "caller" | S_FILTER b, c as S_SET_BLOCK |
 *     S_WITH kids: S_SETs, b: body
 *
 * Called at load. */
#include "engine/jinja.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int parse_fail(struct parser *p, const char *fmt, ...)
{
    char msg[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return err_set(p->e, ERR_MODEL, "line %d: %s", p->t->line, msg);
}

struct node *node_new(struct parser *p, enum kind kind, int line)
{
    struct node *n = p->j->nodes < JINJA_NODES_MAX ? arena_alloc(p->j->arena, sizeof *n) : NULL;
    if (!n) {
        parse_fail(p, "the template is too large");
        return NULL;
    }
    p->j->nodes++;
    n->kind = kind;
    n->line = line;
    return n;
}

int node_add(struct parser *p, struct node *n, struct node *kid)
{
    if (!kid) return -1;
    if ((n->nkid & (n->nkid - 1)) == 0) { /* 0, 1, 2, 4, ...: full */
        struct node **k = arena_alloc(p->j->arena, (n->nkid ? (size_t)n->nkid * 2 : 1) * sizeof *k);
        if (!k) return parse_fail(p, "the template is too large");
        if (n->nkid) memcpy(k, n->kid, (size_t)n->nkid * sizeof *k);
        n->kid = k;
    }
    n->kid[n->nkid++] = kid;
    return 0;
}

bool parse_is(const struct parser *p, const char *word)
{
    return p->t->t == T_NAME && !strcmp(p->t->s, word);
}

bool parse_skip(struct parser *p, const char *word)
{
    if (!parse_is(p, word)) return false;
    p->t++;
    return true;
}

bool parse_skip_op(struct parser *p, enum tok t)
{
    if (p->t->t != t) return false;
    p->t++;
    return true;
}

int parse_need(struct parser *p, enum tok t)
{
    static const char *const names[] = {[T_VAR_END] = "}}", [T_BLOCK_END] = "%}", [T_NAME] = "a name", [T_LPAREN] = "(", [T_RPAREN] = ")",
                                        [T_RBRACKET] = "]", [T_RBRACE] = "}", [T_ASSIGN] = "=", [T_COMMA] = ",", [T_COLON] = ":"};
    if (parse_skip_op(p, t)) return 0;
    return parse_fail(p, "%s was expected%s%.*s", names[t], p->t->t == T_NAME ? ", not " : "",
                      p->t->t == T_NAME ? (int)(p->t->n < 60 ? p->t->n : 60) : 0, p->t->t == T_NAME ? p->t->s : "");
}

static struct node *parse_until(struct parser *p, const char *const *ends);

/* "%}", the statements up to one of the words, which is left as the current token. */
static struct node *parse_body(struct parser *p, const char *const *ends)
{
    parse_skip_op(p, T_COLON);
    return parse_need(p, T_BLOCK_END) ? NULL : parse_until(p, ends);
}

/* As parse_body() for a single end word, with the whole end tag. */
static struct node *parse_whole_body(struct parser *p, const char *end)
{
    const char *const ends[] = {end, NULL};
    struct node *b = parse_body(p, ends);
    if (!b) return NULL;
    p->t++;
    return parse_need(p, T_BLOCK_END) ? NULL : b;
}

static struct node *parse_if(struct parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    struct node *first = NULL, **at = &first;
    do {
        struct node *n = node_new(p, S_IF, p->t[-1].line);
        if (!n || !(n->a = parse_tuple(p, false, NULL)) || !(n->b = parse_body(p, ends))) return NULL;
        *at = n;
        at = &n->c;
    } while (parse_skip(p, "elif"));
    if (parse_skip(p, "else")) return (*at = parse_whole_body(p, "endif")) ? first : NULL;
    p->t++;
    return parse_need(p, T_BLOCK_END) ? NULL : first;
}

static struct node *parse_for(struct parser *p)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    struct node *n = node_new(p, S_FOR, p->t[-1].line), *other;
    if (!n || !(n->a = parse_target(p, false))) return NULL;
    if (!parse_skip(p, "in")) {
        parse_fail(p, "\"in\" was expected");
        return NULL;
    }
    if (!(n->b = parse_tuple(p, false, "recursive"))) return NULL;
    if (parse_skip(p, "if") && !(n->c = parse_expr(p))) return NULL;
    n->flag = parse_skip(p, "recursive");
    p->loops++;
    n->d = parse_body(p, ends);
    p->loops--;
    if (!n->d) return NULL;
    if (parse_skip(p, "else")) return (other = parse_whole_body(p, "endfor")) && !node_add(p, n, other) ? n : NULL;
    p->t++;
    return parse_need(p, T_BLOCK_END) ? NULL : n;
}

/* Filters applied to what a block makes: a chain whose innermost operand is a hole (an S_BODY without kids). */
static struct node *parse_block_filters(struct parser *p, bool inline_first)
{
    struct node *hole = node_new(p, S_BODY, p->t->line);
    return hole ? parse_filters(p, hole, inline_first) : NULL;
}

static struct node *parse_set(struct parser *p)
{
    struct node *n = node_new(p, S_SET, p->t[-1].line);
    if (!n || !(n->a = parse_target(p, true))) return NULL;
    if (parse_skip_op(p, T_ASSIGN)) {
        n->b = parse_tuple(p, true, NULL);
        return n->b && !parse_need(p, T_BLOCK_END) ? n : NULL;
    }
    n->kind = S_SET_BLOCK;
    if (p->t->t == T_PIPE && !(n->c = parse_block_filters(p, false))) return NULL;
    return (n->b = parse_whole_body(p, "endset")) ? n : NULL;
}

/* "(a, b=1)" into n's kids. */
static int parse_signature(struct parser *p, struct node *n)
{
    bool defaults = false;
    if (parse_need(p, T_LPAREN)) return -1;
    while (p->t->t != T_RPAREN) {
        if (n->nkid && parse_need(p, T_COMMA)) return -1;
        struct node *param = node_new(p, N_NAME, p->t->line);
        if (!param) return -1;
        param->name = p->t->s;
        if (parse_need(p, T_NAME) || node_add(p, n, param)) return -1;
        if (parse_skip_op(p, T_ASSIGN)) {
            defaults = true;
            if (!(param->a = parse_expr(p))) return -1;
        } else if (defaults) {
            return parse_fail(p, "a parameter without a default follows one with it");
        }
    }
    return parse_need(p, T_RPAREN);
}

/* break and continue don't reach out of a macro. */
static struct node *parse_macro_body(struct parser *p, const char *end)
{
    int loops = p->loops;
    p->loops = 0;
    struct node *b = parse_whole_body(p, end);
    p->loops = loops;
    return b;
}

static struct node *parse_macro(struct parser *p)
{
    struct node *n = node_new(p, S_MACRO, p->t[-1].line);
    if (!n) return NULL;
    n->name = p->t->s;
    if (parse_need(p, T_NAME) || parse_signature(p, n)) return NULL;
    return (n->b = parse_macro_body(p, "endmacro")) ? n : NULL;
}

static struct node *parse_call_block(struct parser *p)
{
    struct node *n = node_new(p, S_CALL, p->t[-1].line), *caller = n ? node_new(p, S_MACRO, n->line) : NULL;
    if (!caller) return NULL;
    n->b = caller;
    caller->name = jinja_intern(p->j, "caller", 6);
    if (!caller->name) return NULL;
    if (p->t->t == T_LPAREN && parse_signature(p, caller)) return NULL;
    if (!(n->a = parse_expr(p))) return NULL;
    if (n->a->kind != N_CALL) {
        parse_fail(p, "a call was expected");
        return NULL;
    }
    return (caller->b = parse_macro_body(p, "endcall")) ? n : NULL;
}

static struct node *parse_filter_block(struct parser *p)
{
    struct node *n = node_new(p, S_FILTER, p->t[-1].line);
    if (!n || !(n->c = parse_block_filters(p, true))) return NULL;
    return (n->b = parse_whole_body(p, "endfilter")) ? n : NULL;
}

static struct node *parse_with(struct parser *p)
{
    struct node *n = node_new(p, S_WITH, p->t[-1].line);
    if (!n) return NULL;
    while (p->t->t != T_BLOCK_END) {
        if (n->nkid && parse_need(p, T_COMMA)) return NULL;
        struct node *set = node_new(p, S_SET, p->t->line);
        if (!set || !(set->a = parse_target(p, false)) || parse_need(p, T_ASSIGN) || !(set->b = parse_expr(p)) || node_add(p, n, set))
            return NULL;
    }
    return (n->b = parse_whole_body(p, "endwith")) ? n : NULL;
}

static struct node *parse_generation(struct parser *p)
{
    return parse_whole_body(p, "endgeneration"); /* it marks the answer for training; rendering it is rendering its body */
}

static struct node *parse_print(struct parser *p)
{
    struct node *n = node_new(p, S_BODY, p->t[-1].line);
    while (n && p->t->t != T_BLOCK_END) {
        struct node *o = node_new(p, S_OUTPUT, p->t->line);
        if ((n->nkid && parse_need(p, T_COMMA)) || !o || !(o->a = parse_expr(p)) || node_add(p, n, o)) return NULL;
    }
    return n && !parse_need(p, T_BLOCK_END) ? n : NULL;
}

static struct node *parse_jump(struct parser *p)
{
    struct node *n = node_new(p, !strcmp(p->t[-1].s, "break") ? S_BREAK : S_CONTINUE, p->t[-1].line);
    if (n && !p->loops) {
        parse_fail(p, "%s outside of a loop", p->t[-1].s);
        return NULL;
    }
    return n && !parse_need(p, T_BLOCK_END) ? n : NULL;
}

/* Each parser starts behind the word and reads the whole statement with its last "%}". */
static const struct statement {
    const char *word;
    struct node *(*parse)(struct parser *p);
} statements[] = {
    {"if", parse_if},         {"for", parse_for},      {"set", parse_set},   {"macro", parse_macro},
    {"call", parse_call_block}, {"filter", parse_filter_block}, {"with", parse_with}, {"generation", parse_generation},
    {"print", parse_print},   {"break", parse_jump},   {"continue", parse_jump},
};

static struct node *parse_statement(struct parser *p)
{
    const struct token *word = p->t;
    struct node *n = NULL;
    if (parse_need(p, T_NAME)) return NULL;
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        if (strcmp(word->s, statements[i].word)) continue;
        if (++p->depth > JINJA_NESTING) parse_fail(p, "blocks are nested too deeply");
        else n = statements[i].parse(p);
        p->depth--;
        return n;
    }
    p->t = word;
    parse_fail(p, "the tag \"%.60s\" is not known here", word->s);
    return NULL;
}

static bool is_one_of(const struct parser *p, const char *const *words)
{
    for (; words && *words; words++)
        if (parse_is(p, *words)) return true;
    return false;
}

static struct node *parse_piece(struct parser *p)
{
    struct node *n;
    switch (p->t->t) {
    case T_DATA:
        if ((n = node_new(p, S_TEXT, p->t->line))) n->v = v_str(p->t->s, p->t->n);
        p->t++;
        return n;
    case T_VAR_BEGIN:
        n = node_new(p, S_OUTPUT, p->t->line);
        p->t++;
        if (!n || !(n->a = parse_tuple(p, true, NULL)) || parse_need(p, T_VAR_END)) return NULL;
        return n;
    default:
        return parse_statement(p);
    }
}

/* `ends` NULL: up to the end of the template. */
static struct node *parse_until(struct parser *p, const char *const *ends)
{
    struct node *body = node_new(p, S_BODY, p->t->line);
    while (body && p->t->t != T_END) {
        if (p->t->t == T_BLOCK_BEGIN) {
            p->t++;
            if (is_one_of(p, ends)) return body;
        }
        if (node_add(p, body, parse_piece(p))) return NULL;
    }
    if (body && ends) {
        parse_fail(p, "the template ends where {%% %s %%} was expected", ends[0]);
        return NULL;
    }
    return body;
}

int jinja_parse(struct jinja *j, const struct token *tokens, struct err *e)
{
    struct parser p = {.j = j, .t = tokens, .e = e};
    j->root = parse_until(&p, NULL);
    return j->root ? 0 : -1;
}

const char *jinja_known_name(const struct jinja *j, const char *s)
{
    for (const struct name *n = j->names[(uint8_t)s[0] ^ (strlen(s) & 0xff)]; n; n = n->next)
        if (!strcmp(n->s, s)) return n->s;
    return NULL;
}

const char *jinja_intern(struct jinja *j, const char *s, size_t n)
{
    char *copy = arena_strndup(j->arena, s, n);
    const char *known = copy ? jinja_known_name(j, copy) : NULL;
    if (!copy || known) return known;
    struct name *row = arena_alloc(j->arena, sizeof *row), **slot = &j->names[(uint8_t)copy[0] ^ (n & 0xff)];
    if (!row) return NULL;
    *row = (struct name){*slot, copy};
    *slot = row;
    return copy;
}
