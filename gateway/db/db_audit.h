/* The audit trail: one row for each change, written by the transaction that makes the change, each row's hash over the one before.
 *
 * hash = SHA-256(hash of the row before || canonical JSON [seq, t, actor, ip, request, action, object, before, after]); the first row follows 32
 * zero bytes. So a row that is changed, dropped or slipped in later shows at every row after it. */
#pragma once
#include "base/sha256.h"
#include "gateway/db/db.h"

struct json_t;
struct once; /* gateway/api/idempotency.h */

struct actor {
    const char *key;     /* public id of the key, "local" for the command line, "system" */
    const char *ip;      /* address, or "" */
    const char *request; /* request id, or "" */
    struct once *once;   /* its Idempotency-Key: a POST's job hands its answer to once_keep(); NULL: it has none */
    unsigned scopes;     /* of the key, bits of enum scope; 0: not said */
};

struct audit {
    const struct actor *by;
    const char *action;          /* "tenant.create" */
    const char *object;          /* what it was done to */
    const struct json_t *before; /* or NULL; never a secret */
    const struct json_t *after;
};

/* Inside a job of the writer. */
int audit_add(struct db *d, sqlite3 *c, const struct audit *a, struct err *e);

/* Newest first, by seq, as JSON objects appended to list. ERR_INVALID for a cursor that is no number. */
struct page;
int audit_page(struct db *d, const struct page *p, struct json_t *list, bool *more, struct err *e);
/* The same with seq below `before` (0: from the newest). */
int audit_list(struct db *d, int64_t before, int limit, struct json_t *list, bool *more, struct err *e);

/* Walks the chain: what it found up to the first row whose hash is wrong. */
struct audit_walk {
    int64_t rows, bad;     /* rows that were looked at; seq of the wrong one, 0: all are right */
    char hash[SHA256_HEX]; /* of the last good row */
};
int audit_walk(struct db *d, struct audit_walk *out, struct err *e);
int audit_verify(struct db *d, int64_t *rows, int64_t *bad, struct err *e); /* the same, without the hash */
