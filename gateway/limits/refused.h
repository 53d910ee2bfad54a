/* Requests that a limit refused, counted per hour, tenant, whose limit it was (tenant, key, adapter) and which: they have no
 * usage row, so this is all that is kept of them (the table rollup_refused; tenant '' is everybody).
 *
 * Counted in memory, in a table of fixed size, and written once a minute and at the end: a flood of refusals costs the
 * database nothing. What kill -9 takes away is at most that minute. */
#pragma once
#include "gateway/limits/limit.h"

struct refused;

int refused_open(struct refused **out, struct db *d, struct err *e);
/* Before db_close(): what is left goes to the writer. */
void refused_stop(struct refused *r);
void refused_free(struct refused *r); /* after db_close() */

/* Any thread; no database access. scope: "tenant", "key" or "adapter". */
void refused_count(struct refused *r, const char *tenant, const char *scope, enum limit_kind kind);
/* About once a second: hands over what a minute has brought. */
void refused_tick(struct refused *r);
/* All that was counted before this call is in the table when it returns, if the database can be written. Blocks. */
void refused_settle(struct refused *r);
