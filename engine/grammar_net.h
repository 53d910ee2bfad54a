/* Inside structured output: the net, a graph of byte-eating nodes with calls between rules (an NFA with a stack), which every kind of
 * source is compiled into, and the compilers that build it.
 *
 * A net is built from its end backwards: each function takes the node that comes `next` and returns the node to start at. So most nodes
 * point to older ones, and what is shared is shared by its number. Failure is sticky, as in a buf: the first error is kept, later calls
 * return NODE_FAIL, and net_finish() reports it. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NODES_MAX (1u << 19)
#define BYTE_SETS_MAX 2048
#define RULES_MAX (1u << 16)
#define STACK_MAX 64 /* frames: JSON of no fixed shape nests this deep, as base/json.h reads it */

enum node_op {
    OP_FAIL,  /* nothing matches */
    OP_RET,   /* the rule's end: back to the caller, or the end of the answer */
    OP_BYTES, /* one byte of set a, then b */
    OP_SPLIT, /* a or b, without eating */
    OP_CALL,  /* rule a, then b */
};
struct node {
    uint32_t op : 3, a : 29;
    uint32_t b;
};
enum { NODE_FAIL, NODE_RET }; /* the first two nodes of every net */

struct byte_set {
    uint64_t w[4];
};

/* The time that compiling may take: what is built, compared or copied is charged, about one for each twenty nanoseconds, and from time to
 * time the thread's CPU clock is looked at. A source may so be refused by one machine and served by a faster one, but the bounds in the
 * other limits end all but bombs long before. */
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
#define COMPILE_CPU_MS 4000 /* such code is slower by far */
#else
#define COMPILE_CPU_MS 80 /* of GRAMMAR_COMPILE_MS; the rest is for what is done between two looks */
#endif
#define CLOCK_CHARGES 4096 /* between two looks */
struct clock {
    int64_t until_ns; /* of CLOCK_THREAD_CPUTIME_ID */
    uint32_t charged; /* since the last look */
    bool over;
};
void clock_begin(struct clock *c);
bool clock_look(struct clock *c);
static inline bool clock_charge(struct clock *c, uint32_t work)
{
    c->charged += work;
    return c->charged < CLOCK_CHARGES ? !c->over : clock_look(c);
}

struct net {
    struct clock clock;
    const char *place; /* of the source, for messages; NULL: not known */
    struct node *node;
    uint32_t n, cap;
    struct byte_set *set;
    uint32_t nset;
    uint16_t *set_slot; /* hash of sets: index + 1 */
    uint32_t *rule;     /* entry nodes */
    uint32_t nrule, cap_rule;
    uint8_t *need;      /* per node: frames that its shortest way to the rule's end takes; NEED_NEVER: there is none */
    uint8_t klass[256]; /* bytes that no set tells apart share a class */
    uint32_t nklass;
    uint32_t start;
    struct err *e; /* of the building */
    bool failed;
};
#define NEED_NEVER 255

int net_init(struct net *n, struct err *e); /* e lives until net_finish() */
void net_close(struct net *n);
/* The answer starts at `start`: computes need, classes. ERR_INVALID where the net grew too large or nothing can match. */
int net_finish(struct net *n, uint32_t start);
size_t net_bytes_used(const struct net *n);
uint32_t net_refuse(struct net *n, const char *fmt, ...) __attribute__((format(printf, 2, 3))); /* sticky; NODE_FAIL */
uint32_t net_no_memory(struct net *n);
bool net_charge(struct net *n, size_t work); /* false: the clock has run out, and the net has failed */

uint32_t net_set(struct net *n, const struct byte_set *s, uint32_t next);
uint32_t net_range(struct net *n, uint8_t lo, uint8_t hi, uint32_t next);
uint32_t net_text(struct net *n, const char *s, size_t len, uint32_t next);
uint32_t net_or(struct net *n, uint32_t a, uint32_t b);
uint32_t net_hole(struct net *n); /* for loops: a node that net_fill() gives its ways */
void net_fill(struct net *n, uint32_t hole, uint32_t a, uint32_t b);
uint32_t net_rule(struct net *n); /* a rule whose body comes later */
void net_rule_body(struct net *n, uint32_t rule, uint32_t entry);
uint32_t net_call(struct net *n, uint32_t rule, uint32_t next);

struct word {
    const char *s;
    size_t len;
};
/* Any of these words (sorts them; doubles are fine): a trie, so that a thousand alternatives are one state. */
uint32_t net_words(struct net *n, struct word *w, size_t count, uint32_t next);
#define CODE_POINT_MAX 0x10ffffu
/* Code points lo..hi as UTF-8; surrogates are left out. */
uint32_t net_utf8(struct net *n, uint32_t lo, uint32_t hi, uint32_t next);

static inline void byte_set_add(struct byte_set *s, unsigned lo, unsigned hi)
{
    for (unsigned c = lo; c <= hi; c++) s->w[c >> 6] |= 1ull << (c & 63);
}
static inline bool byte_set_has(const struct byte_set *s, uint8_t c)
{
    return s->w[c >> 6] >> (c & 63) & 1;
}

/* --- regular expressions (grammar_regex.c reads, grammar_regex_net.c builds) --- */

struct regex_use {
    bool json;         /* text inside a JSON string, escaped as it must be; else plain UTF-8 */
    bool search;       /* may match anywhere unless anchored (JSON schema's pattern); else the whole text */
    uint32_t min, max; /* code points of the whole text; max UINT32_MAX: any */
    const char *where; /* for messages: "pattern at #/properties/a", or "" */
};
uint32_t net_regex(struct net *n, const char *pattern, size_t len, const struct regex_use *use, uint32_t next);

/* One character inside a JSON string, in the one form that patterns, property names and keys use: escaped only where it must be. */
uint32_t net_json_char(struct net *n, uint32_t c, uint32_t next);
uint32_t net_json_other(struct net *n, const uint32_t *c, uint32_t count,
                        uint32_t next); /* any but these, which are sorted */

/* --- numbers (grammar_number.c) --- */

#define INT_DIGITS 18
#define INT_LIMIT 999999999999999999ll
#define MULTIPLE_MAX 1000
#define DECIMAL_DIGITS 15
uint32_t net_integer(struct net *n, int64_t lo, int64_t hi, uint32_t multiple,
                     uint32_t next); /* both ends within INT_LIMIT */

struct bound { /* of decimals */
    bool set, exclusive;
    double value;
};
/* Decimals lo..hi without exponent. `where` for messages. */
uint32_t net_decimal(struct net *n, struct bound lo, struct bound hi, const char *where, uint32_t next);
