/* Inside structured output: a regular expression as read, between its parser (grammar_regex.c) and its builder (grammar_regex_net.c). */
#pragma once
#include "engine/grammar_net.h"

#define REGEX_NESTING 100
#define REGEX_STATES_MAX 65536 /* after repetitions are written out */
#define REGEX_CLASSES_MAX 4096
#define REGEX_RANGES_MAX 1024 /* of one class */
#define REPEAT_INF UINT32_MAX

struct cp_range {
    uint32_t lo, hi; /* code points */
};

struct cp_class {
    struct cp_range *r; /* sorted, apart, without surrogates */
    uint32_t n;
};

enum re_op { RE_CLASS, RE_SEQ, RE_ALT, RE_REPEAT };
struct re {
    enum re_op op;
    uint32_t klass;        /* RE_CLASS */
    uint32_t child;        /* the others: the last of the children */
    uint32_t before;       /* the sibling before this one; 0: none */
    uint32_t min, max;     /* RE_REPEAT */
    uint32_t size;         /* states when written out, saturating */
    bool at_start, at_end; /* of a top-level alternative: anchored */
};

struct regex {
    struct re *re; /* re[0] is unused */
    uint32_t n, cap;
    struct cp_class *klass;
    uint32_t nklass;
    uint32_t top; /* an RE_ALT of RE_SEQ */
};

/* ERR_INVALID names what is not served, and its position in bytes. */
int regex_parse(struct regex *x, const char *pattern, size_t len, const char *where, struct err *e);
void regex_close(struct regex *x);
