/* The audit trail: one row for each change, written by the transaction that makes the change, each row's hash over the one before.
 *
 * hash = SHA-256(hash of the row before || canonical JSON [seq, t, actor, ip, request, action, object, before, after]); the first row follows 32
 * zero bytes. So a row that is changed, dropped or slipped in later shows at every row after it. */
#pragma once
#include "gateway/db.h"

struct json_t;

struct actor {
    const char *key;     /* public id of the key, "local" for the command line, "system" */
    const char *ip;      /* address, or "" */
    const char *request; /* request id, or "" */
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

/* Newest first, with seq below `before` (0: from the newest), as JSON objects appended to list. */
int audit_list(struct db *d, int64_t before, int limit, struct json_t *list, bool *more, struct err *e);

/* Walks the chain: *bad gets the seq of the first row whose hash is wrong, 0 when all are right. */
int audit_verify(struct db *d, int64_t *rows, int64_t *bad, struct err *e);
