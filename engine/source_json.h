/* A walk over JSON that may be large: the header of a safetensors file, the index of a model in shards. A tree of it would take sixty
 * times the text's bytes; these two have a known shape, so a cursor reads them as they lie. Private to source*.c.
 *
 * Every function returns 0, or -1 with ERR_MODEL that names `where` and the byte. Strings point into the text. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JSON_WALK_DEPTH 32

struct json_walk {
    const char *text, *p, *end;
    const char *where; /* the file's name */
    struct err *e;
};

struct json_word {
    const char *s;
    size_t len;
};

int walk_expect(struct json_walk *w, char c);               /* white space, then c */
bool walk_sees(struct json_walk *w, char c);                /* white space, then is c next? takes nothing */
int walk_word(struct json_walk *w, struct json_word *out);  /* a string without escapes */
int walk_size(struct json_walk *w, int64_t *out);           /* a whole number of 0 or more */
int walk_skip(struct json_walk *w);                         /* any value */
int walk_next(struct json_walk *w, char close, bool *more); /* behind a member: "," or the closing bracket */
bool word_is(const struct json_word *w, const char *s);
