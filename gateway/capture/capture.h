/* Captures: exchanges that a tenant asked to keep, redacted, until they expire (docs/DISTILL.md).
 *
 *     transcript --redaction--> one file --export--> a training set
 *                                  |
 *                                  +-- expired, deleted, or one too many: unlinked
 *
 * Text of prompts and answers stands in $WEFT_DATA/captures/TENANT/ID.EXPIRES.ALIAS and nowhere else: not in the database, so in no backup of it and on no
 * standby. The folder is made with the first capture. What is where is known in memory, so that a list reads no files.
 *
 * A tenant can stop all of its captures at once (table capture_stop): then nothing is kept, whatever its aliases say. An alias that says `capture` no more
 * ends its own in the same way: an exchange that was picked before is looked at again when it would be written, and dropped.
 *
 * Any thread, but capture_take(), which is the thread of gateway/quality. */
#pragma once
#include "base/json.h"
#include "gateway/db/db_audit.h"
#include "gateway/gateway.h"

#define CAPTURE_ROW_MAX (1u << 20) /* bytes of one file */
#define CAPTURE_ANSWERS_MAX 8      /* of other versions beside the own, of one capture */
#define CAPTURE_ANSWER_LEN 65536

struct captures;
struct quality;
struct transcript;

/* After db; reads what is there. */
int captures_open(struct captures **out, struct db *d, struct err *e);
void captures_close(struct captures *c); /* NULL is fine */

/* The taker of gateway/quality/quality.c, and whether the operator lets anything be kept at all. */
bool capture_wanted(const struct gateway *g);
void capture_take(struct quality *q, const struct transcript *t);

/* False: the tenant has stopped them. Memory only. */
bool captures_on(struct captures *c, const char *tenant);
/* Nothing is written any more when a stop has returned. ERR_FORBIDDEN: a tenant would end what the operator has set. Audited as capture.stop and
 * capture.resume, with events of these names. */
int captures_stop(struct captures *c, const struct actor *by, const char *tenant, bool stopped, struct err *e);

struct capture_id {
    char id[UUID_LEN]; /* of the request */
    char alias[NAME_MAX_LEN + 1];
    int64_t expires_s, bytes;
};

struct capture_filter {
    const char *alias;            /* or NULL */
    int64_t start_us, end_us;     /* of the request; end exclusive */
};

struct capture_sum {
    int64_t rows, bytes;
};

struct capture_sum captures_sum(struct captures *c, const char *tenant); /* NULL: of all */
/* Those that the filter lets pass, by id, which is by time; malloc'ed. */
int captures_list(struct captures *c, const char *tenant, const struct capture_filter *f, struct capture_id **out, int *n, struct err *e);

/* The whole of one; ERR_NOT_FOUND. The caller owns *out. */
int captures_read(struct captures *c, const char *tenant, const char *id, json_t **out, struct err *e);

/* Keeps it; the oldest of the alias beyond max_rows, and of the tenant beyond max_bytes, go. ERR_CONFLICT: the tenant has stopped them, or it is not wanted
 * any more. */
struct capture_new {
    const char *tenant, *id, *alias;
    int64_t expires_s, max_rows, max_bytes;
    bool (*still)(void *u); /* whether it is wanted; asked under captures.lock, where memory alone may be looked at. NULL: it is */
    void *u;
};
int captures_add(struct captures *c, const struct capture_new *n, const json_t *row, struct err *e);
/* Returns when what was being written before is there: of that for which `still` says no by now nothing comes any more. NULL is fine. */
void captures_fence(struct captures *c);
/* In the place of what is there; ERR_NOT_FOUND. ERR_CONFLICT: the tenant's would be larger for it than max_bytes. */
int captures_replace(struct captures *c, const char *tenant, const char *id, const json_t *row, int64_t max_bytes, struct err *e);

/* id NULL: all that the filter lets pass. *n: how many went. ERR_NOT_FOUND: the id is none. */
int captures_remove(struct captures *c, const char *tenant, const char *id, const struct capture_filter *f, int *n, struct err *e);
/* A look of the upkeep: what has expired by now goes. */
void captures_expire(struct captures *c, int64_t now_s);
