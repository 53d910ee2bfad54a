/* Errors: what went wrong with somebody's input or with the world, in one sentence.
 *
 * Functions that can fail return 0 or -1 and take `struct err *e` as their last argument; results come through
 * out-parameters and stay untouched on failure. The first error wins: a later err_set() on the same struct is ignored,
 * so cleanup code may fail without hiding the cause. Pass NULL where the reason does not matter.
 *
 * The codes are the rows of schema/errors.def, which also give the HTTP status and OpenAI's `type` and `code` words. */
#pragma once

enum err_code {
    ERR_NONE = 0,
#define X(name, status, type, code, doc) ERR_##name,
#include "schema/errors.def"
#undef X
    ERR_CODES
};

struct err {
    enum err_code code;
    char param[64]; /* the field of a request that is at fault, or "" */
    char msg[448];  /* plain English with the offending value; safe to show to the client */
    int retry_after_s; /* with a 503 or 429: when trying again makes sense; 0: unsaid */
};

struct err_info {
    const char *name; /* "MODEL_NOT_FOUND" */
    int status;       /* HTTP status */
    const char *type; /* OpenAI's error type */
    const char *code; /* OpenAI's error code, or NULL for none */
};

/* Record an error unless one is recorded already. Always returns -1, so `return err_set(...)` reads well. */
int err_set(struct err *e, enum err_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* As err_set(), of what may go in s seconds: Retry-After. */
int err_later(struct err *e, enum err_code code, int s, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* The same, naming the request field at fault. */
int err_field(struct err *e, enum err_code code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* As err_set(e, ERR_IO, ...), with strerror(errno) appended. */
int err_errno(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Put "context: " before the message of an error that is already set. Returns -1. */
int err_prefix(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The field at fault lies in `owner`: its name becomes "owner.field", or "owner" where none is named or both are too long for param. Returns -1. */
int err_within(struct err *e, const char *owner);

void err_clear(struct err *e);

/* The row of schema/errors.def of a code; never NULL. */
const struct err_info *err_info(enum err_code code);

/* The code whose OpenAI `code` word is `word`, or ERR_NONE. */
enum err_code err_by_word(const char *word);
