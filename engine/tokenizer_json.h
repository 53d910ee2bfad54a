/* A tokenizer.json is read in place, value by value: its vocabulary has a million strings, of which a tree of JSON values would make
 * gigabytes. Each function leaves the reader behind what it read, or sets the error and returns -1. */
#pragma once
#include "engine/tokenizer_impl.h"

#define JS_DEPTH 64

struct js {
    const char *at, *end;
    struct err *e;
};

int js_fail(struct js *j, const char *what); /* ERR_MODEL: "tokenizer.json: WHAT" */
char js_peek(struct js *j);                  /* the first character of the next value, 0 at the end */
/* Walks `{...}` and `[...]`: call with *first true at the opening bracket; 1: an element follows (of an object: behind its key, which is in
 * `key`), 0: it was closed. */
int js_next(struct js *j, char open, bool *first, struct text *key);
int js_string(struct js *j, struct text *out); /* replaces what is in out */
int js_int(struct js *j, int64_t *out);
int js_bool(struct js *j, bool *out);
int js_skip(struct js *j, const char **from, size_t *len); /* any value, its text */
