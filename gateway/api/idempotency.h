/* Idempotency-Key: a POST that is sent again has no second effect and gets the first one's answer (GATEWAY.md section 6).
 *
 *     admin_defer          once_begin: new -> the handler runs; answered before -> the stored answer; under way -> 409; other body -> 422
 *     the handler's job    once_keep(d, c, by, status, answer): the answer, in the same transaction as the effect
 *     the handler's end    once_end: no longer under way
 *
 * So there are an effect and its answer, or neither, whenever the process dies. A refused request has no effect and is not kept: sent again,
 * it is tried again. Kept for ONCE_KEEP_S; rows that are older are removed by later ones.
 *
 * Answers may show secrets (a key's text, once): all are sealed (base/seal.h) under a key from the pepper, with actor and key as what they
 * are about, so the database alone shows none of them, and they are given to the same actor for the same request only. */
#pragma once
#include "base/sha256.h"
#include "gateway/db/db.h"

#define ONCE_KEY_MAX 255
#define ONCE_KEEP_S 86400

struct once_book; /* all requests that are under way */
struct once;      /* one request with a key */
struct actor;
struct json_t;

int once_open(struct once_book **out, struct db *d, struct err *e);
void once_close(struct once_book *b); /* NULL is fine; after the last once_end */

struct once_answer {
    int status;
    char *body; /* malloc'ed; NULL: the request is new */
};

/* actor: the public id of the caller's key; body: SHA-256 of method, path, query and body. 0: new, *out is to be ended; or answered before, and
 * stored->body is set and *out NULL. -1: ERR_INVALID, ERR_CONFLICT (under way), ERR_KEY_REUSED. Blocks in the database. */
int once_begin(struct once_book *b, const char *actor, const char *key, const uint8_t body[SHA256_BYTES],
               struct once **out, struct once_answer *stored, struct err *e);

/* Inside the effect's job, as its last step: this is what the request will be answered with. Nothing when by->once is NULL. */
int once_keep(struct db *d, sqlite3 *c, const struct actor *by, int status, const struct json_t *answer, struct err *e);

/* A handler that answers after it returned keeps a reference until its job is done. */
struct once *once_ref(struct once *o);
void once_end(struct once *o); /* NULL is fine */
