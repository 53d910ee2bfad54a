/* grammar_net: the graph of nodes that schemas, patterns and choices become, and what is computed on it once it is whole.
 *
 *     BYTES --a byte of the set--> next        SPLIT --> a, b        CALL rule --rule's RET--> next
 *
 * Two things are computed by net_finish(). The classes of bytes: most nets tell 30 to 80 kinds of bytes apart, and the machine's
 * tables have one column per kind. And for each node its `need`: the number of stack frames that the shortest way from there to the
 * rule's end takes. The stack is bounded, and a node is entered only where what it needs still fits; so a text that was begun can always
 * be finished, whatever the recursion, and what cannot be finished at all (an empty class, a required property that must not exist, a
 * schema that needs itself) is never entered.
 *
 * Everything is bounded by NODES_MAX: a bomb stops growing there and is refused. One thread builds a net; finished it is immutable. */
#include "engine/grammar_net.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SET_SLOTS 4096 /* twice BYTE_SETS_MAX, a power of two */
#define NODES_FIRST 256
#define RULES_FIRST 16

/* --- the clock --- */

static int64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void clock_begin(struct clock *c)
{
    *c = (struct clock){.until_ns = cpu_ns() + COMPILE_CPU_MS * 1000000ll};
}

bool clock_look(struct clock *c)
{
    c->charged = 0;
    c->over = c->over || cpu_ns() > c->until_ns;
    return !c->over;
}

int net_init(struct net *n, struct err *e)
{
    *n = (struct net){.e = e, .cap = NODES_FIRST, .cap_rule = RULES_FIRST};
    clock_begin(&n->clock);
    n->node = malloc(NODES_FIRST * sizeof *n->node);
    n->set = malloc(BYTE_SETS_MAX * sizeof *n->set);
    n->set_slot = calloc(SET_SLOTS, sizeof *n->set_slot);
    n->rule = malloc(RULES_FIRST * sizeof *n->rule);
    if (!n->node || !n->set || !n->set_slot || !n->rule) {
        net_close(n);
        return err_set(e, ERR_NO_MEMORY, "no memory for a grammar");
    }
    n->node[n->n++] = (struct node){.op = OP_FAIL};
    n->node[n->n++] = (struct node){.op = OP_RET};
    return 0;
}

void net_close(struct net *n)
{
    free(n->node);
    free(n->set);
    free(n->set_slot);
    free(n->rule);
    free(n->need);
    *n = (struct net){0};
}

size_t net_bytes_used(const struct net *n)
{
    return n->cap * sizeof *n->node + n->n + n->cap_rule * sizeof *n->rule + n->nset * sizeof *n->set;
}

uint32_t net_refuse(struct net *n, const char *fmt, ...)
{
    char msg[sizeof n->e->msg];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    n->failed = true;
    err_set(n->e, ERR_INVALID, "%s", msg);
    return NODE_FAIL;
}

uint32_t net_no_memory(struct net *n)
{
    n->failed = true;
    err_set(n->e, ERR_NO_MEMORY, "no memory for a grammar");
    return NODE_FAIL;
}

bool net_charge(struct net *n, size_t work)
{
    if (n->failed) return false;
    if (clock_charge(&n->clock, work < CLOCK_CHARGES ? (uint32_t)work : CLOCK_CHARGES)) return true;
    net_refuse(n, "%s%s%stakes too long to compile", n->place ? "JSON schema, " : "",
               n->place ? n->place : "the grammar", n->place ? ": " : " ");
    return false;
}

/* --- nodes --- */

static uint32_t add(struct net *n, enum node_op op, uint32_t a, uint32_t b)
{
    if (!net_charge(n, 1)) return NODE_FAIL;
    if (n->n == NODES_MAX) return net_refuse(n, "the grammar is too large: more than %u states", NODES_MAX);
    if (n->n == n->cap) {
        struct node *p = realloc(n->node, 2 * (size_t)n->cap * sizeof *p);
        if (!p) return net_no_memory(n);
        n->node = p;
        n->cap *= 2;
    }
    n->node[n->n] = (struct node){.op = op, .a = a, .b = b};
    return n->n++;
}

static uint32_t intern(struct net *n, const struct byte_set *s)
{
    uint64_t h = (s->w[0] ^ s->w[1] * 3 ^ s->w[2] * 5 ^ s->w[3] * 7) * 0x9e3779b97f4a7c15ull;
    uint32_t i = (uint32_t)(h >> 40) % SET_SLOTS;
    for (; n->set_slot[i]; i = (i + 1) % SET_SLOTS)
        if (memcmp(&n->set[n->set_slot[i] - 1], s, sizeof *s) == 0) return n->set_slot[i] - 1u;
    if (n->nset == BYTE_SETS_MAX)
        return net_refuse(n, "the grammar is too large: more than %d sets of characters", BYTE_SETS_MAX);
    n->set[n->nset] = *s;
    n->set_slot[i] = (uint16_t)++n->nset;
    return n->nset - 1;
}

uint32_t net_set(struct net *n, const struct byte_set *s, uint32_t next)
{
    if (n->failed || next == NODE_FAIL || !(s->w[0] | s->w[1] | s->w[2] | s->w[3])) return NODE_FAIL;
    uint32_t i = intern(n, s);
    return add(n, OP_BYTES, i, next);
}

uint32_t net_range(struct net *n, uint8_t lo, uint8_t hi, uint32_t next)
{
    struct byte_set s = {0};
    byte_set_add(&s, lo, hi);
    return net_set(n, &s, next);
}

uint32_t net_text(struct net *n, const char *s, size_t len, uint32_t next)
{
    while (len-- > 0 && !n->failed) next = net_range(n, (uint8_t)s[len], (uint8_t)s[len], next);
    return next;
}

uint32_t net_or(struct net *n, uint32_t a, uint32_t b)
{
    if (a == NODE_FAIL || a == b) return b;
    return b == NODE_FAIL ? a : add(n, OP_SPLIT, a, b);
}

uint32_t net_hole(struct net *n)
{
    return add(n, OP_SPLIT, NODE_FAIL, NODE_FAIL);
}

void net_fill(struct net *n, uint32_t hole, uint32_t a, uint32_t b)
{
    if (!n->failed) n->node[hole].a = a, n->node[hole].b = b;
}

uint32_t net_rule(struct net *n)
{
    if (n->failed) return 0;
    if (n->nrule == RULES_MAX) return net_refuse(n, "the grammar is too large: more than %u rules", RULES_MAX);
    if (n->nrule == n->cap_rule) {
        uint32_t *p = realloc(n->rule, 2 * (size_t)n->cap_rule * sizeof *p);
        if (!p) return net_no_memory(n);
        n->rule = p;
        n->cap_rule *= 2;
    }
    n->rule[n->nrule] = NODE_FAIL;
    return n->nrule++;
}

void net_rule_body(struct net *n, uint32_t rule, uint32_t entry)
{
    if (!n->failed) n->rule[rule] = entry;
}

uint32_t net_call(struct net *n, uint32_t rule, uint32_t next)
{
    return next == NODE_FAIL ? NODE_FAIL : add(n, OP_CALL, rule, next);
}

/* --- words --- */

static int by_bytes(const void *a, const void *b)
{
    const struct word *x = a, *y = b;
    int c = memcmp(x->s, y->s, x->len < y->len ? x->len : y->len);
    return c ? c : (x->len > y->len) - (x->len < y->len);
}

/* Words w[0..count) agree in their first `at` bytes. Recursion goes where words part, so at most as deep as there are words that are
 * each the next one's beginning: their lengths sum to the source's, which bounds that by its square root. */
static uint32_t words_from(struct net *n, const struct word *w, size_t count, size_t at, uint32_t next)
{
    const struct word *first = &w[0], *last = &w[count - 1];
    size_t end = at;
    while (end < first->len && end < last->len && first->s[end] == last->s[end]) end++;
    size_t i = 0;
    uint32_t entry = NODE_FAIL;
    while (i < count && w[i].len == end) i++; /* doubles */
    bool ends = i > 0;
    while (i < count && !n->failed) {
        size_t j = i + 1;
        while (j < count && w[j].s[end] == w[i].s[end]) j++;
        uint32_t rest = words_from(n, w + i, j - i, end + 1, next);
        entry = net_or(n, net_text(n, w[i].s + end, 1, rest), entry);
        i = j;
    }
    if (ends) entry = net_or(n, entry, next);
    return net_text(n, first->s + at, end - at, entry);
}

uint32_t net_words(struct net *n, struct word *w, size_t count, uint32_t next)
{
    if (count == 0) return NODE_FAIL;
    qsort(w, count, sizeof *w, by_bytes);
    return words_from(n, w, count, 0, next);
}

/* --- UTF-8 --- */

static int encode(uint32_t c, uint8_t out[4])
{
    if (c < 0x80) return out[0] = (uint8_t)c, 1;
    int len = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const uint8_t lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (int i = len - 1; i > 0; i--, c >>= 6) out[i] = (uint8_t)(0x80 | (c & 0x3f));
    out[0] = (uint8_t)(lead[len] | c);
    return len;
}

/* Sequences lo..hi of len bytes in the order of their code points. */
static uint32_t sequences(struct net *n, const uint8_t *lo, const uint8_t *hi, int len, uint32_t next)
{
    static const uint8_t least[3] = {0x80, 0x80, 0x80}, most[3] = {0xbf, 0xbf, 0xbf};
    if (len == 1) return net_range(n, lo[0], hi[0], next);
    if (lo[0] == hi[0]) return net_range(n, lo[0], lo[0], sequences(n, lo + 1, hi + 1, len - 1, next));
    uint8_t from = lo[0], to = hi[0];
    uint32_t all = NODE_FAIL;
    if (memcmp(lo + 1, least, (size_t)len - 1) != 0) {
        all = net_or(n, all, net_range(n, from, from, sequences(n, lo + 1, most, len - 1, next)));
        from++;
    }
    if (memcmp(hi + 1, most, (size_t)len - 1) != 0) {
        all = net_or(n, all, net_range(n, to, to, sequences(n, least, hi + 1, len - 1, next)));
        to--;
    }
    if (from <= to) all = net_or(n, all, net_range(n, from, to, sequences(n, least, most, len - 1, next)));
    return all;
}

uint32_t net_utf8(struct net *n, uint32_t lo, uint32_t hi, uint32_t next)
{
    static const uint32_t part[][2] = {
        {0, 0x7f}, {0x80, 0x7ff}, {0x800, 0xd7ff}, {0xe000, 0xffff}, {0x10000, 0x10ffff}};
    uint32_t all = NODE_FAIL;
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        uint32_t a = lo > part[i][0] ? lo : part[i][0], b = hi < part[i][1] ? hi : part[i][1];
        uint8_t first[4], last[4];
        if (a > b) continue;
        int len = encode(a, first);
        encode(b, last);
        all = net_or(n, all, sequences(n, first, last, len, next));
    }
    return all;
}

/* --- what a whole net knows of itself --- */

static void find_classes(struct net *n)
{
    memset(n->klass, 0, sizeof n->klass);
    n->nklass = 1;
    for (uint32_t s = 0; s < n->nset && n->nklass < 256; s++) {
        int16_t moved[256]; /* class -> the class of its members that are in the set */
        uint8_t out[256] = {0};
        memset(moved, -1, sizeof moved);
        for (int c = 0; c < 256; c++)
            if (!byte_set_has(&n->set[s], (uint8_t)c)) out[n->klass[c]] = 1;
        for (int c = 0; c < 256; c++) {
            uint8_t k = n->klass[c];
            if (!byte_set_has(&n->set[s], (uint8_t)c) || !out[k]) continue;
            if (moved[k] < 0) moved[k] = (int16_t)n->nklass++;
            n->klass[c] = (uint8_t)moved[k];
        }
    }
}

static uint8_t need_of(const struct net *n, uint32_t i)
{
    struct node d = n->node[i];
    uint8_t inside;
    switch ((enum node_op)d.op) {
    case OP_RET:
        return 0;
    case OP_BYTES:
        return n->need[d.b];
    case OP_SPLIT:
        return n->need[d.a] < n->need[d.b] ? n->need[d.a] : n->need[d.b];
    case OP_CALL:
        inside = n->need[n->rule[d.a]];
        if (inside >= STACK_MAX || n->need[d.b] == NEED_NEVER) return NEED_NEVER;
        if (n->node[d.b].op != OP_RET) inside++; /* a call in last place needs no frame */
        return inside > n->need[d.b] ? inside : n->need[d.b];
    default:
        return NEED_NEVER;
    }
}

/* The least fixed point: needs only ever shrink from NEED_NEVER, each pass settles at least the next smallest ones. Nodes mostly point
 * to older ones, so two or three passes do. */
static int find_needs(struct net *n)
{
    n->need = malloc(n->n);
    if (!n->need) return err_set(n->e, ERR_NO_MEMORY, "no memory for a grammar");
    memset(n->need, NEED_NEVER, n->n);
    bool changed = true;
    for (uint64_t work = 0; changed; work += n->n) {
        if (!net_charge(n, CLOCK_CHARGES)) return -1;
        if (work > 48 * (uint64_t)NODES_MAX)
            return err_set(n->e, ERR_INVALID, "the grammar is too large: its rules are too entangled");
        changed = false;
        for (uint32_t i = 0; i < n->n; i++) {
            uint8_t v = need_of(n, i);
            if (v < n->need[i]) n->need[i] = v, changed = true;
        }
    }
    return 0;
}

int net_finish(struct net *n, uint32_t start)
{
    if (n->failed) return -1;
    n->start = start;
    find_classes(n);
    if (find_needs(n)) return -1;
    if (n->need[start] > STACK_MAX)
        return err_set(n->e, ERR_INVALID,
                       "no answer can match: what is asked for contradicts itself, contains itself, or nests deeper "
                       "than %d levels",
                       STACK_MAX);
    free(n->set_slot);
    n->set_slot = NULL;
    n->e = NULL;
    n->place = NULL;
    return 0;
}
