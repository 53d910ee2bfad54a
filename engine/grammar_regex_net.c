/* grammar_regex_net: a parsed regular expression -> the net.
 *
 * First as an automaton over code points (Thompson's construction from the end backwards, repetitions written out), then, node by node, as
 * bytes: a class becomes UTF-8 sequences, and inside a JSON string the characters that must be escaped become their escapes, each in one
 * form (\" \\ \b \f \n \r \t, \u00XX in lower case), so texts are equal exactly where their strings are.
 *
 * A bound on the length of the whole text (minLength, maxLength beside a pattern) is met by counting: one copy of the automaton per number
 * of characters read, linked each to the next; nodes that can't reach an end in their copy are pruned by need (grammar_net.c). */
#include "engine/grammar_regex.h"
#include <stdlib.h>
#include <string.h>

enum rx_op { RX_END, RX_CHAR, RX_SPLIT };
struct rx {
    enum rx_op op;
    uint32_t klass; /* RX_CHAR; RX_ANY: any character, ends of lines too */
    uint32_t a, b;  /* RX_CHAR: a is next */
};
#define RX_ANY UINT32_MAX
#define NO_RULE UINT32_MAX

struct build {
    struct net *net;
    const struct regex *x;
    const struct regex_use *use;
    struct rx *rx;
    uint32_t n, cap;
    uint32_t *rule; /* of each class, then of RX_ANY */
};

/* --- the automaton over code points --- */

static uint32_t rx_add(struct build *b, struct rx r)
{
    if (!net_charge(b->net, 1)) return 0;
    if (b->n == b->cap) return net_refuse(b->net, "%s: too large: it needs too many states", b->use->where), 0;
    b->rx[b->n] = r;
    return b->n++;
}

static uint32_t rx_node(struct build *b, uint32_t re, uint32_t next);

static uint32_t rx_loop(struct build *b, uint32_t child, uint32_t klass, uint32_t next)
{
    uint32_t hole = rx_add(b, (struct rx){.op = RX_SPLIT, .b = next});
    uint32_t body = child ? rx_node(b, child, hole) : rx_add(b, (struct rx){.op = RX_CHAR, .klass = klass, .a = hole});
    b->rx[hole].a = body;
    return hole;
}

static uint32_t rx_repeat(struct build *b, const struct re *r, uint32_t next)
{
    uint32_t out = next;
    if (r->max == REPEAT_INF)
        next = rx_loop(b, r->child, 0, next);
    else
        for (uint32_t i = r->min; i < r->max && !b->net->failed; i++)
            next = rx_add(b, (struct rx){.op = RX_SPLIT, .a = rx_node(b, r->child, next), .b = out});
    for (uint32_t i = 0; i < r->min && !b->net->failed; i++) next = rx_node(b, r->child, next);
    return next;
}

/* Recursion follows the nesting of groups, which the parser bounds. */
static uint32_t rx_node(struct build *b, uint32_t re, uint32_t next)
{
    const struct re *r = &b->x->re[re];
    uint32_t all = 0;
    if (b->net->failed) return 0;
    switch (r->op) {
    case RE_CLASS:
        return rx_add(b, (struct rx){.op = RX_CHAR, .klass = r->klass, .a = next});
    case RE_REPEAT:
        return rx_repeat(b, r, next);
    case RE_SEQ:
        for (uint32_t c = r->child; c; c = b->x->re[c].before) next = rx_node(b, c, next);
        return next;
    case RE_ALT:
        for (uint32_t c = r->child; c; c = b->x->re[c].before) {
            uint32_t one = rx_node(b, c, next);
            all = c == r->child ? one : rx_add(b, (struct rx){.op = RX_SPLIT, .a = one, .b = all});
        }
        return all;
    }
    return 0;
}

/* The top-level alternatives, with anything before and behind them where a search is asked for and no anchor stands. */
static uint32_t rx_top(struct build *b)
{
    uint32_t end = rx_add(b, (struct rx){.op = RX_END}), all = 0, last = b->x->re[b->x->top].child;
    for (uint32_t c = last; c; c = b->x->re[c].before) {
        const struct re *seq = &b->x->re[c];
        uint32_t one = end;
        if (b->use->search && !seq->at_end) one = rx_loop(b, 0, RX_ANY, one);
        one = rx_node(b, c, one);
        if (b->use->search && !seq->at_start) one = rx_loop(b, 0, RX_ANY, one);
        all = c == last ? one : rx_add(b, (struct rx){.op = RX_SPLIT, .a = one, .b = all});
    }
    return all;
}

/* --- characters as bytes --- */

static uint32_t escaped(struct net *n, uint32_t c, uint32_t next)
{
    static const char plain[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt", hex[] = "0123456789abcdef";
    const char *k = c ? strchr(plain, (int)c) : NULL;
    char s[6] = {'\\', 'u', '0', '0', hex[c >> 4 & 15], hex[c & 15]};
    if (c == 0) return NODE_FAIL; /* U+0000 is never written, see constrain.h */
    if (k) s[1] = letter[k - plain];
    return net_text(n, s, k ? 2 : 6, next);
}

static bool must_escape(uint32_t c)
{
    return c < 0x20 || c == '"' || c == '\\';
}

/* One character of the ranges. */
static uint32_t ranges_net(struct net *n, bool json, const struct cp_range *r, uint32_t count, uint32_t next)
{
    uint32_t all = NODE_FAIL;
    struct byte_set ascii = {0};
    for (uint32_t i = 0; i < count; i++) {
        uint32_t lo = r[i].lo, hi = r[i].hi;
        for (; lo <= hi && lo < 0x80; lo++) {
            if (json && must_escape(lo))
                all = net_or(n, all, escaped(n, lo, next));
            else
                byte_set_add(&ascii, lo, lo);
        }
        if (lo <= hi) all = net_or(n, all, net_utf8(n, lo, hi, next));
    }
    return net_or(n, net_set(n, &ascii, next), all);
}

uint32_t net_json_char(struct net *n, uint32_t c, uint32_t next)
{
    struct cp_range one = {c, c};
    return ranges_net(n, true, &one, 1, next);
}

uint32_t net_json_other(struct net *n, const uint32_t *c, uint32_t count, uint32_t next)
{
    uint32_t from = 0, all = NODE_FAIL;
    for (uint32_t i = 0; i <= count; i++) {
        struct cp_range gap = {from, i < count ? c[i] - 1 : CODE_POINT_MAX};
        if (i < count && c[i] == from) gap = (struct cp_range){1, 0};
        if (gap.lo <= gap.hi) all = net_or(n, all, ranges_net(n, true, &gap, 1, next));
        if (i < count) from = c[i] + 1;
    }
    return all;
}

static uint32_t class_net(struct build *b, uint32_t klass, uint32_t next)
{
    static const struct cp_range any = {0, CODE_POINT_MAX};
    if (klass == RX_ANY) return ranges_net(b->net, b->use->json, &any, 1, next);
    return ranges_net(b->net, b->use->json, b->x->klass[klass].r, b->x->klass[klass].n, next);
}

/* A class of ASCII that needs no escape is one node; any other is a rule, built once. */
static uint32_t character(struct build *b, uint32_t klass, uint32_t next)
{
    bool simple = klass != RX_ANY;
    for (uint32_t i = 0; simple && i < b->x->klass[klass].n; i++) {
        struct cp_range r = b->x->klass[klass].r[i];
        simple = r.hi < 0x80 &&
                 (!b->use->json || (r.lo >= 0x20 && !(r.lo <= '"' && r.hi >= '"') && !(r.lo <= '\\' && r.hi >= '\\')));
    }
    if (simple) return class_net(b, klass, next);
    uint32_t *rule = &b->rule[klass == RX_ANY ? b->x->nklass : klass];
    if (*rule == NO_RULE) {
        *rule = net_rule(b->net);
        net_rule_body(b->net, *rule, class_net(b, klass, NODE_RET));
    }
    return net_call(b->net, *rule, next);
}

/* --- one copy per number of characters read --- */

/* Copy `k` of `levels`: at[i] becomes the net's node of rx i; above[i] is that of the next copy (the same one where counting has ended). A
 * node's next is older than it, but for a loop's body, which the hole is for. */
static void copy_net(struct build *b, uint32_t *at, const uint32_t *above, bool may_end, uint32_t next)
{
    for (uint32_t i = 0; i < b->n && !b->net->failed; i++) {
        const struct rx *r = &b->rx[i];
        if (r->op == RX_END)
            at[i] = may_end ? next : NODE_FAIL;
        else if (r->op == RX_CHAR)
            at[i] = character(b, r->klass, above[r->a]);
        else
            at[i] = net_hole(b->net);
    }
    for (uint32_t i = 0; i < b->n && !b->net->failed; i++)
        if (b->rx[i].op == RX_SPLIT) net_fill(b->net, at[i], at[b->rx[i].a], at[b->rx[i].b]);
}

static uint32_t count_copies(struct build *b, uint32_t start, uint32_t next)
{
    const struct regex_use *u = b->use;
    bool bounded = u->max != UINT32_MAX;
    uint64_t levels = (uint64_t)(bounded ? u->max : u->min) + 1;
    if (u->min > u->max) return NODE_FAIL;
    if (levels * b->n > NODES_MAX)
        return net_refuse(b->net, "%s: too large beside a length of %llu", u->where, (unsigned long long)levels - 1);
    uint32_t *block = calloc(2 * (size_t)b->n, sizeof *block), *at = block, *above = block;
    if (!block) return net_no_memory(b->net);
    above += b->n;
    for (uint64_t k = levels; k-- > 0 && !b->net->failed;) {
        bool top = k == levels - 1;
        copy_net(b, at, top && !bounded ? at : above, k >= u->min, next);
        uint32_t *swap = at;
        at = above;
        above = swap;
    }
    uint32_t entry = b->net->failed ? NODE_FAIL : above[start];
    free(block);
    return entry;
}

uint32_t net_regex(struct net *n, const char *pattern, size_t len, const struct regex_use *use, uint32_t next)
{
    struct regex x;
    if (n->failed) return NODE_FAIL;
    if (regex_parse(&x, pattern, len, use->where, n->e)) {
        n->failed = true;
        return NODE_FAIL;
    }
    /* a written-out repetition takes what parse counted; the ends and what a search puts around come on top */
    struct build b = {.net = n, .x = &x, .use = use, .cap = 2 * x.re[x.top].size + 6 * x.n + 16};
    b.rx = malloc(b.cap * sizeof *b.rx);
    b.rule = malloc((x.nklass + 1) * sizeof *b.rule);
    uint32_t entry = NODE_FAIL;
    if (b.rx && b.rule) {
        memset(b.rule, 0xff, (x.nklass + 1) * sizeof *b.rule);
        uint32_t start = rx_top(&b);
        if (!n->failed) entry = count_copies(&b, start, next);
    } else {
        net_no_memory(n);
    }
    free(b.rx);
    free(b.rule);
    regex_close(&x);
    return entry;
}
