/* The rows of `quarantine`: refused requests, so that they are refused after a restart, too. A row has what is told of a refusal and the request's
 * digest: nothing of its body. BLAME_NAMES rows at most, those that are over go with the next one that comes. */
#pragma once
#include "gateway/db/db.h"
#include "gateway/proxy/blame.h"

/* In a change. Times in the row are of day, r's of clock_mono_us(). */
int quarantine_row_put(struct db *d, sqlite3 *c, const struct blame_refused *r, struct err *e);
int quarantine_row_drop(struct db *d, sqlite3 *c, const char *id, struct err *e);
/* All that are not over go to b. Blocks. */
int quarantine_rows_read(struct db *d, struct blame *b, struct err *e);
