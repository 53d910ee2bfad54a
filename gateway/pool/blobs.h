/* Adapters for engines that share no folder with this gateway: they fetch them by digest from a listener of its own (schema/ENGINE_API.md, "Blobs").
 *
 * Each engine of the table may have a token, wfe_..., made here, shown once and kept as an HMAC under the pepper, like keys. It opens the files of a
 * digest that a version of its engine's base has that may be served (validating, ready), a private tenant's only where the engine is local; all else is
 * 404. Nothing is listed, nothing can be changed with it, and it is good on no other listener. A new token leaves the one before valid for a grace.
 *
 * What it costs others is bounded: connections, requests at a time and a second by engine (BLOB_*), and a thread of its own for the disk. */
#pragma once
#include "base/http.h"
#include "gateway/auth/auth.h"

#define BLOB_CONNECTIONS 256
#define BLOB_AT_A_TIME 64     /* requests of all engines */
#define BLOB_OF_ENGINE 16     /* of one */
#define BLOB_RATE 100         /* requests a second of one, and at once */
#define BLOB_GRACE_DEFAULT_S 86400
#define BLOB_GRACE_MAX_S (30 * 86400)

struct actor;
struct blobs;
struct gateway;
struct json_t;

/* After the pool, before the listeners. */
int blobs_open(struct blobs **out, struct gateway *g, struct err *e);
void blobs_close(struct blobs *b); /* after the listener; NULL is fine */

/* A token for an engine of the table (ERR_NOT_FOUND); the ones before end after grace_s, 0: now. *out shows its text. Blocking, in force when it returns. */
int blobs_make(struct blobs *b, const struct actor *by, const char *engine, int64_t grace_s, struct json_t **out, struct err *e);
int blobs_revoke(struct blobs *b, const struct actor *by, const char *engine, struct json_t **out, struct err *e); /* all of them */
int blobs_show(struct blobs *b, const char *engine, struct json_t **out, struct err *e);
void blobs_forget(struct blobs *b, const char *engine); /* the engine was removed, its rows are gone */

/* blobs_token.c, for blobs_api.c. What a token opens a door for: taken by blobs_enter(), given back by blobs_leave(). */
struct blob_guest {
    char engine[NAME_MAX_LEN + 1];
};
/* ERR_UNAUTHORIZED; ERR_OVERLOADED: too many of it, or of all, at a time or a second. Any thread, no database. */
int blobs_enter(struct blobs *b, const char *bearer, struct blob_guest *out, struct err *e);
void blobs_leave(struct blobs *b, const struct blob_guest *guest);
/* fn(r) soon on the thread for the disk. */
void blobs_defer(struct blobs *b, struct http_request *r, void (*fn)(struct http_request *r));

/* SHA-256 of a file, remembered as long as it stays the same (base/file_id.h). On that thread. */
int blobs_sum(struct blobs *b, const char *path, char out[SHA256_HEX], struct err *e);

/* blobs_range.c: what of a file of `size` bytes a Range header (NULL: none) asks for. 1: a part; 0: all of it; -1: none of it lies there. */
int blobs_range(const char *range, int64_t size, int64_t *from, int64_t *n);
