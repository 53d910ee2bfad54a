/* Upkeep: what is slow and not urgent, one thing at a time on a thread of its own: closed months into files (ledger_archive.h), backups and their
 * verification (backup.h), captures that have expired (gateway/capture). One at a time, so no month moves while a backup is made.
 *
 * Asked for by the API, or due: archives once an hour, a backup every backup_every_h hours. An end by SIGTERM interrupts what is under way: a backup is
 * then not made, an archive goes on at the next start. */
#pragma once
#include "gateway/db/db_audit.h"
#include "gateway/gateway.h"

#define UPKEEP_QUEUE 16 /* verifications that wait */

struct upkeep;

/* After ledger_recover(), before the listeners. */
int upkeep_open(struct upkeep **out, struct gateway *g, struct err *e);
void upkeep_close(struct upkeep *u); /* after the listeners, before the ledger; NULL is fine */

/* Has a backup made. *out: it, as upkeep_get() shows it. ERR_CONFLICT while another is being made. `verify`: once it is complete. */
int upkeep_backup(struct upkeep *u, const struct actor *by, bool verify, struct json_t **out, struct err *e);
/* Has one verified. ERR_QUEUE_FULL beyond UPKEEP_QUEUE; one that waits already is not queued again. */
int upkeep_verify(struct upkeep *u, const struct actor *by, const char *id, struct json_t **out, struct err *e);
int upkeep_remove(struct upkeep *u, const struct actor *by, const char *id, struct json_t **out, struct err *e);

/* {"object":"backup","id","state":"waiting|running|complete|failed","error","verifying","verification",...}; newest first, those under way and the last that
 * failed among them. */
int upkeep_get(struct upkeep *u, const char *id, struct json_t **out, struct err *e);
struct page;
int upkeep_list(struct upkeep *u, const struct page *p, struct json_t *list, bool *more, struct err *e);

/* When the newest complete backup was begun, which is the moment that it holds, Unix seconds; 0: there is none. */
int64_t upkeep_last_backup(struct upkeep *u);

/* Its age, and which tasks failed when they were last done. */
struct metrics;
void upkeep_meter(struct upkeep *u, struct metrics *m);
