/* Inside structured output: JSON values compared by what they mean. 1, 1.0 and 1e0 are one value, also inside arrays and objects, and whole
 * numbers are compared with every digit; jansson's json_equal() knows neither. All of it is charged to the net's clock. */
#pragma once
#include "engine/grammar_net.h"
#include <jansson.h>

int value_compare(const json_t *a, const json_t *b); /* two numbers, exactly: -1, 0, 1 */
bool value_is_whole(const json_t *number);           /* 1, 1.0 */
bool value_equal(struct net *n, const json_t *a, const json_t *b);

/* A set of values, each with who brought it first. Borrows the values. */
struct value_slot {
    const json_t *v; /* NULL: empty */
    uint64_t hash;
    int owner;
};
struct value_set {
    struct net *net;
    struct value_slot *slot;
    size_t slots; /* a power of two */
};
#define NO_OWNER (-1)
int value_set_init(struct value_set *s, struct net *n,
                   size_t most); /* room for `most` values; -1: no memory, said to the net */
void value_set_close(struct value_set *s);
int value_set_owner(const struct value_set *s, const json_t *v);    /* NO_OWNER: not there */
int value_set_add(struct value_set *s, const json_t *v, int owner); /* its first owner, now or before */
