/* Uploads: adapters from tenants, from the multipart body to a registered version.
 *
 * The body is streamed into a temporary folder; a job on a bounded pool opens and checks it as the engine would, moves
 * it into the store and registers it. What does not end as a registered version leaves nothing behind: the folder is
 * discarded with its request, and what a crash left is removed at the next start (temporary folders, and blobs that no
 * version refers to). */
#pragma once
#include "gateway/gateway.h"

struct uploads;
struct upload;

/* Starts the pool of set->upload_jobs threads; removes temporary folders and orphaned blobs. */
int uploads_open(struct uploads **out, struct gateway *g, struct err *e);
void uploads_close(struct uploads *u); /* after the listeners have stopped: finishes the queue; NULL is fine */

/* In the head callback: a fresh folder for this request, which owns the upload: it goes with http_on_free. NULL with *e
 * set. */
struct upload *upload_begin(struct http_request *r, const struct principal *who, bool dry_run, struct err *e);

/* Pieces of the body, in order. */
int upload_feed(struct upload *up, const char *bytes, size_t n, struct err *e);

/* The body is complete: queue its validation, which answers the request. */
int upload_submit(struct upload *up, struct err *e);

/* Drop the blobs of digests that registry_remove() returned, unless an upload has brought one back meanwhile; the
 * engine is told to unload them. */
void uploads_drop(struct uploads *u, char (*digests)[SHA256_HEX], int n);
