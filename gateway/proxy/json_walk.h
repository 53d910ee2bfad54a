/* Members of a JSON object, and items of an array, by their places in the text: for answers that are passed on with one or
 * two members changed, without a tree for each chunk of each stream.
 *
 * A walk tells where values begin and end; it does not say that they are right JSON inside. Nothing is allocated, nothing
 * beyond the given bytes is read. */
#pragma once
#include "base/buf.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_span {
    const char *s;
    size_t n;
};

struct json_member {
    struct json_span key;   /* with its quotes, as it stands there */
    struct json_span value; /* without spaces around it */
};

struct json_walk {
    const char *p, *end;
    bool begun;
};

static inline struct json_walk json_walk(struct json_span v)
{
    return (struct json_walk){v.s, v.s + v.n, false};
}

/* 1: the next one; 0: there are no more; -1: the value is no object (array), or not in order here. */
int json_walk_member(struct json_walk *w, struct json_member *out);
int json_walk_item(struct json_walk *w, struct json_span *out);

/* The value of a member by its name without quotes (one that needs no escapes); false: not there. */
bool json_walk_find(struct json_span object, const char *name, struct json_span *out);

bool json_walk_named(const struct json_member *m, const char *name);
bool json_span_is(struct json_span v, const char *text); /* exactly these bytes */
/* A number without fraction from 0 to INT32_MAX; false: it is none. */
bool json_span_count(struct json_span v, int64_t *out);
