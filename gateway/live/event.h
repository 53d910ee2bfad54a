/* Events: what happened to a tenant's things or the operator's, one row each, written by the transaction that made it
 * happen. Lists go by seq; webhooks read them later. Types are words with a dot: "version.ready", "version.failed",
 * "version.quarantined", "request.quarantined", "tenant.quarantined", "alias.changed", "capture.stopped", "capture.resumed", "capture.deleted", "budget.soft", "budget.hard", "engine.ejected", "engine.back",
 * "usage.adjusted", "evaluation.below", "evaluation.recovered". */
#pragma once
#include "gateway/db/db.h"

struct json_t;

/* Inside a job of the writer. tenant: id, "" for the operator's. detail is borrowed; NULL: none. */
int event_add(struct db *d, sqlite3 *c, const char *tenant, const char *type, const char *object, const struct json_t *detail, struct err *e);
/* The same as a job of its own, for what happens outside of a change. Fire and forget; a full queue is logged. */
void event_note(struct db *d, const char *tenant, const char *type, const char *object, struct json_t *detail /* taken over */);

/* Oldest first, a page by seq. tenant NULL: all. */
struct page;
int event_list(struct db *d, const char *tenant, const struct page *p, struct json_t *list, bool *more, struct err *e);
