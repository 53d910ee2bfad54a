/* The template language inside: tokens, tree, values and the run, shared by the engine/jinja_*.c files. chat.h is the face.
 *
 * Modelled on Jinja 3 as Hugging Face sets it up: trim_blocks, lstrip_blocks, loop controls, a sandbox in which lists and dicts cannot
 * be changed. So values are immutable and can be shared freely; only a namespace() changes. All memory of a template is its arena's, all
 * of a rendering is that of the run's arena. */
#pragma once
#include "base/arena.h"
#include "base/err.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JINJA_SOURCE_MAX (256u << 10)
#define JINJA_COMPILE_BYTES (32u << 20)
#define JINJA_NODES_MAX 100000
#define JINJA_NESTING 120          /* of expressions and of blocks in the source */
#define JINJA_DEPTH 400            /* of evaluation: calls, blocks and expressions together */
#define JINJA_VALUE_DEPTH 100      /* of lists in lists, where they are walked */
#define JINJA_STEPS 8000000        /* nodes evaluated, and bytes made, 256 to a step */
#define JINJA_RENDER_BYTES (128u << 20)
#define JINJA_OUTPUT_MAX (8u << 20)
#define JINJA_RANGE_MAX 100000

/* --- values --- */

enum vtype { V_UNDEF, V_NONE, V_BOOL, V_INT, V_FLOAT, V_STR, V_LIST, V_TUPLE, V_DICT, V_NS, V_FUNC, V_LOOP, V_MISSING /* an argument that was not given */ };

struct val {
    enum vtype t;
    bool safe; /* a string that went through |safe or |escape: + escapes what is joined to it, as MarkupSafe does */
    size_t n; /* bytes of a string (or of an undefined thing's name), elements, pairs */
    union {
        bool b;
        int64_t i;
        double f;
        const char *s;           /* valid UTF-8, not terminated */
        const struct val *items; /* list, tuple */
        const struct dict_pair *pairs;
        struct scope *ns;
        struct func *fn;
        struct loop *loop;
    };
};

struct dict_pair {
    struct val k, v;
};

struct named {
    const char *name;
    struct val v;
};

struct args {
    struct val *pos;
    int npos;
    struct named *kw;
    int nkw;
};

struct run;

/* A builtin: `self` is what a filter, test or method stands behind. The arguments come in the order of the row's params; arg() gives
 * NULL for one that was not given. */
typedef int jinja_fn(struct run *r, const struct val *self, const struct args *a, struct val *out);

/* A row of the tables of filters, tests, methods and global functions. `params` names the arguments in order, so that they may be
 * given by name, and says how many there are; "*" at the end: any number. */
struct builtin {
    const char *name;
    jinja_fn *fn;
    const char *params; /* "old new count" */
    int need;           /* how many must be there */
};

struct func {
    enum { FN_BUILTIN, FN_MACRO } kind;
    const struct builtin *builtin;
    struct val self;
    const struct node *macro;
    struct scope *scope; /* where the macro stands */
};

struct loop {
    const struct node *node;
    struct scope *scope; /* around the loop */
    const struct val *items;
    size_t n, i;
    int depth;
    bool changed_set;
    struct val changed;
};

/* Variables: innermost first. A namespace is a scope without one above it. */
struct scope {
    struct scope *up;
    struct var *vars;
};

/* --- the tree --- */

enum tok {
    T_END, T_DATA, T_VAR_BEGIN, T_VAR_END, T_BLOCK_BEGIN, T_BLOCK_END, T_NAME, T_STR, T_INT, T_FLOAT,
    T_ADD, T_SUB, T_MUL, T_DIV, T_FLOORDIV, T_MOD, T_POW, T_TILDE, T_LPAREN, T_RPAREN, T_LBRACKET, T_RBRACKET, T_LBRACE, T_RBRACE,
    T_EQ, T_NE, T_LT, T_LE, T_GT, T_GE, T_ASSIGN, T_DOT, T_COMMA, T_COLON, T_PIPE, T_SEMI,
    T_IN, T_NOT_IN, /* operators made by the parser */
};

struct token {
    enum tok t;
    int line;
    const char *s; /* data, name, string */
    size_t n;
    int64_t i;
    double f;
};

enum kind {
    /* expressions */
    N_CONST, N_NAME, N_LIST, N_TUPLE, N_DICT, N_ATTR, N_ITEM, N_SLICE, N_CALL, N_FILTER, N_TEST, N_NEG, N_POS, N_NOT, N_BINARY, N_AND, N_OR,
    N_COMPARE, N_CONCAT, N_COND, N_KEYWORD, N_STAR, N_STARSTAR,
    /* statements */
    S_TEXT, S_OUTPUT, S_BODY, S_IF, S_FOR, S_SET, S_SET_BLOCK, S_MACRO, S_CALL, S_FILTER, S_WITH, S_BREAK, S_CONTINUE,
};

/* What the fields mean for each kind stands in jinja_parse.c beside the function that makes it. */
struct node {
    enum kind kind;
    enum tok op;
    int line;
    bool flag; /* S_FOR: recursive; N_TEST: negated; a body: it makes its own scope */
    struct node *a, *b, *c, *d;
    struct node **kid;
    int nkid;
    const char *name; /* interned: equal names are the same pointer */
    const struct builtin *builtin;
    struct val v;
};

struct var {
    struct var *next;
    const char *name; /* interned */
    struct val v;
};

struct jinja {
    struct arena *arena;
    struct node *root;
    struct name {
        struct name *next;
        const char *s;
    } *names[256];
    int nodes;
};

/* Both: ERR_MODEL with the line. tokens end with T_END. */
int jinja_lex(struct jinja *j, const char *source, size_t len, struct token **out, size_t *n, struct err *e);
int jinja_parse(struct jinja *j, const struct token *tokens, struct err *e);

const char *jinja_intern(struct jinja *j, const char *s, size_t n); /* NULL: out of memory */
const char *jinja_known_name(const struct jinja *j, const char *s); /* NULL: the template doesn't use it */

/* The statements and expressions, one file each kind; see jinja_parse.c. */
struct parser {
    struct jinja *j;
    const struct token *t; /* the current one */
    int depth;
    int loops; /* open around here: break and continue need one */
    struct err *e;
};

struct node *parse_expr(struct parser *p);                    /* NULL: error set */
struct node *parse_expr_no_cond(struct parser *p);
struct node *parse_tuple(struct parser *p, bool with_cond, const char *end_word); /* one expression, or several with commas */
struct node *parse_target(struct parser *p, bool with_namespace); /* what may be assigned to */
struct node *parse_filters(struct parser *p, struct node *on, bool inline_first);
struct node *node_new(struct parser *p, enum kind kind, int line);
int node_add(struct parser *p, struct node *n, struct node *kid);
int parse_fail(struct parser *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool parse_is(const struct parser *p, const char *word);
bool parse_skip(struct parser *p, const char *word); /* a name token of that text */
bool parse_skip_op(struct parser *p, enum tok t);
int parse_need(struct parser *p, enum tok t);

const struct builtin *jinja_find(const struct builtin *rows, const char *name, size_t n); /* NULL ends a table */
extern const struct builtin jinja_text_filters[], jinja_list_filters[], jinja_tests[], jinja_globals[], jinja_string_methods[], jinja_dict_methods[],
    jinja_list_methods[], jinja_loop_methods[];
const struct builtin *jinja_find_filter(const char *name, size_t n);

/* --- the run --- */

/* Text that grows in the run's arena. */
struct text {
    char *p;
    size_t n, cap;
};

struct run {
    const struct jinja *j;
    struct arena *arena;
    struct err *e;
    struct text *out;
    struct scope *globals;
    int64_t steps;
    int depth, line;
    enum { GO, BREAK, CONTINUE } flow;
    bool copy_json;  /* val_from_json() copies the strings, for JSON that goes before the run ends */
    struct val hole; /* what a block's filters are applied to */
    const char *n_loop, *n_caller, *n_varargs, *n_kwargs; /* NULL where the template doesn't use the name */
};

/* Renders with the variables of `vars` (an object; NULL values are skipped) into r->out. */
int jinja_render(const struct jinja *j, const json_t *vars, struct arena *arena, struct text *out, struct err *e);

/* Fails with ERR_INVALID, param "messages" and the line; returns -1. */
int run_fail(struct run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int run_step(struct run *r, int64_t n); /* -1: too many */
void *run_alloc(struct run *r, size_t n); /* NULL: error set */
int run_eval(struct run *r, struct scope *s, const struct node *n, struct val *out);
int run_exec(struct run *r, struct scope *s, const struct node *n);
int run_call(struct run *r, const struct val *fn, const struct args *a, struct val *out);
int run_builtin(struct run *r, const struct builtin *b, const struct val *self, const struct args *a, struct val *out);
int run_args(struct run *r, struct scope *s, const struct node *n, struct args *a);
int run_loop(struct run *r, const struct node *n, struct scope *s, const struct val *over, int depth);
int run_loop_again(struct run *r, struct loop *l, const struct args *a, struct val *out); /* loop(...) of a recursive one */
int run_macro(struct run *r, const struct func *f, const struct args *a, struct val *out);
int run_capture(struct run *r, struct scope *s, const struct node *body, struct val *out);
int run_assign(struct run *r, struct scope *s, const struct node *target, const struct val *v);
int run_attr(struct run *r, const struct val *of, const char *name, size_t n, struct val *out);
int run_item(struct run *r, const struct val *of, const struct val *key, struct val *out);
int run_slice(struct run *r, const struct val *of, const struct val bound[3], struct val *out);
int run_format(struct run *r, const struct val *format, const struct args *a, struct val *out);  /* "{}".format() */
int run_percent(struct run *r, const struct val *format, const struct val *with, struct val *out); /* "%s" % */
int run_binary(struct run *r, enum tok op, const struct val *a, const struct val *b, struct val *out);
int run_compare(struct run *r, enum tok op, const struct val *a, const struct val *b, bool *out);
int run_loop_attr(struct run *r, struct loop *l, const char *name, size_t n, struct val *out);

struct scope *scope_new(struct run *r, struct scope *up);
int scope_set(struct run *r, struct scope *s, const char *name, const struct val *v);
const struct val *scope_find(const struct scope *s, const char *name); /* NULL: nowhere */

int text_add(struct run *r, struct text *t, const char *s, size_t n);
static inline struct val text_val(const struct text *t) { return (struct val){.t = V_STR, .n = t->n, .s = t->n ? t->p : ""}; }

/* --- values: jinja_value.c, jinja_print.c, jinja_json.c --- */

static inline struct val v_none(void) { return (struct val){.t = V_NONE}; }
static inline struct val v_bool(bool b) { return (struct val){.t = V_BOOL, .b = b}; }
static inline struct val v_int(int64_t i) { return (struct val){.t = V_INT, .i = i}; }
static inline struct val v_float(double f) { return (struct val){.t = V_FLOAT, .f = f}; }
static inline struct val v_str(const char *s, size_t n) { return (struct val){.t = V_STR, .n = n, .s = s}; }
static inline struct val v_undef(const char *name, size_t n) { return (struct val){.t = V_UNDEF, .n = n, .s = name}; }
static inline struct val v_items(enum vtype t, const struct val *items, size_t n) { return (struct val){.t = t, .n = n, .items = items}; }
static inline const struct dict_pair *v_pairs(const struct val *v) { return v->pairs; }
static inline bool v_is_number(const struct val *v) { return v->t == V_BOOL || v->t == V_INT || v->t == V_FLOAT; }
static inline bool v_is_integer(const struct val *v) { return v->t == V_BOOL || v->t == V_INT; }
static inline int64_t v_integer(const struct val *v) { return v->t == V_BOOL ? v->b : v->i; }
static inline double v_number(const struct val *v) { return v->t == V_FLOAT ? v->f : (double)v_integer(v); }
struct val v_dict(const struct dict_pair *pairs, size_t n);
struct val v_cstr(const char *s);
bool v_is(const struct val *v, const char *s); /* a string of that text */

const char *val_type(const struct val *v); /* Python's name of it */
bool val_true(const struct val *v);
int val_equal(struct run *r, const struct val *a, const struct val *b, bool *out);
int val_order(struct run *r, const struct val *a, const struct val *b, int *out); /* <0 0 >0; fails where Python's < does */
int val_in(struct run *r, const struct val *x, const struct val *in, bool *out);
int val_get(struct run *r, const struct val *dict, const struct val *key, const struct val **out); /* *out NULL: not there */
int val_list(struct run *r, const struct val *v, const struct val **items, size_t *n); /* what iterating gives */
int val_length(struct run *r, const struct val *v, size_t *n);
int val_from_json(struct run *r, const json_t *j, int depth, struct val *out);
int val_escape(struct run *r, const struct val *v, struct val *out); /* & < > " ' of a string for HTML */
int val_call_text(struct run *r, const struct val *v, struct val *out); /* str(v) as a V_STR */

struct json_style {
    bool ascii, sorted;
    int indent; /* -1: one line */
    struct val item, key; /* separators */
};

int print_str(struct run *r, struct text *t, const struct val *v);  /* Python's str() */
int print_repr(struct run *r, struct text *t, const struct val *v, int depth);
size_t print_float(double f, char out[40]);                         /* repr of a float */
int print_json(struct run *r, struct text *t, const struct val *v, const struct json_style *style, int depth);

static inline const struct val *arg(const struct args *a, int i)
{
    return i < a->npos && a->pos[i].t != V_MISSING ? &a->pos[i] : NULL;
}
int arg_int(struct run *r, const struct args *a, int i, int64_t *out);   /* left as it is when not given */
int arg_bool(const struct args *a, int i, bool otherwise);
int arg_str(struct run *r, const struct args *a, int i, struct val *out); /* must be a string when given */
const struct named *arg_named(const struct args *a, const char *name);
