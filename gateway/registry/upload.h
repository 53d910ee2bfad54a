/* Uploads: adapters from tenants, from the bytes to a version that is ready, and back to nothing.
 *
 * Bytes come as one multipart body, in resumable parts (upload_parts.h), or from a URL (import.h), always into a
 * temporary folder; a job on a bounded pool opens and checks it as the engine will, moves it into the store and
 * registers it as validating; the engine's self-test makes it ready or failed. Bytes that no version needs are removed:
 * at once, or at the next start after a crash at any point. */
#pragma once
#include "gateway/gateway.h"

struct uploads;
struct upload;

/* Starts the pool of set->upload_jobs threads; removes temporary folders and orphaned blobs, goes on with what was under way. */
int uploads_open(struct uploads **out, struct gateway *g, struct err *e);
void uploads_close(struct uploads *u); /* after the listeners have stopped: finishes the queue; NULL is fine */

/* In the head callback: a fresh folder for this request, which owns the upload: it goes with http_on_free. NULL with *e
 * set. */
struct upload *upload_begin(struct http_request *r, const struct principal *who, bool dry_run, struct err *e);

/* Pieces of the body, in order. */
int upload_feed(struct upload *up, const char *bytes, size_t n, struct err *e);

/* The body is complete: queue its validation, which answers the request. */
int upload_submit(struct upload *up, struct err *e);

/* Removes a version (0: the adapter with all) as registry_remove() does, with the bytes that nobody needs any more: now, or
 * by and by when the last request that uses them is over (*draining). Blocks. */
struct actor;
int uploads_remove(struct uploads *u, const struct actor *by, const char *tenant, const char *name, int version,
                   int64_t want, int *draining, struct err *e);

/* archived or quarantined -> validating: the self-test decides. Bytes that engines were lost with come back by the operator only (ERR_FORBIDDEN).
 * keep: or NULL. Blocks. */
int uploads_restore(struct uploads *u, const struct actor *by, bool operator, const char *tenant, const char *name, int version,
                    struct answer_keep *keep, struct err *e);

/* A version gets no requests any more, until it is restored: why, as a code (a static one) and in words. Any thread. */
void uploads_quarantine(struct uploads *u, const char *tenant, const char *name, int version, const char *code, const char *detail);
/* The tenant's others with the same bytes. */
void uploads_quarantine_same(struct uploads *u, const char *tenant, const char *name, int version, const char *code, const char *detail);
/* A request met values that are not finite, of this version alone. Any thread. */
void uploads_fault(struct uploads *u, const char *tenant, const char *name, int version);

/* Drop the blobs of these digests, unless a version needs them (again); the engine is told to unload them. */
void uploads_drop(struct uploads *u, char (*digests)[SHA256_HEX], int n);
