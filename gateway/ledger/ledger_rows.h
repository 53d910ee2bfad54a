/* Raw usage rows, wherever they stand: in the months' tables of weft.db or in archive/usage_YYYYMM.db. For exports, webhooks, the request explorer and
 * verification. Rows come in the order of (month, id): ids are UUIDv7, so that is nearly the order of starts. Any thread that may read (db_read). */
#pragma once
#include "gateway/ledger/ledger.h"

/* A row; texts are borrowed until the callback returns. Times are wall microseconds. */
struct usage_row {
    const char *id, *tenant, *key, *base, *adapter, *model, *alias, *endpoint, *finish, *engine;
    const char *adjusts; /* of a correction: the row that it corrects, or "" for one that no request caused; NULL: a request */
    int64_t version, stream, state, http_status, t_start, t_first, t_end, prompt, cached, output, produced, source, price, cost, attempt, cold, load_us;
    int64_t before, after; /* of the prompt under a policy; 0: none, or not known */
    int month;           /* YYYYMM, of its table */
};

/* A place between rows: all up to and including this one have been seen. {0}: the beginning. */
struct rows_cursor {
    int month;
    char id[UUID_LEN];
};

struct rows_query {
    const char *tenant;    /* id; NULL: all */
    int64_t start, end;    /* of t_start, Unix seconds; start inclusive, end exclusive */
    bool all;              /* also rows that are not final (ledger_final_before) */
};

/* Calls each() for at most `max` rows after *at, in one short read of at most READ_MS; *at moves with each row that each() returned 0 for. *more: there may
 * be further ones now. each() returning -1 (with e set) ends it. ERR_DEADLINE leaves *at at the last row seen: call again. */
int ledger_rows(struct ledger *l, const struct rows_query *q, struct rows_cursor *at, int max, int (*each)(void *u, const struct usage_row *r, struct err *e),
                void *u, bool *more, struct err *e);

/* Months from `first` to `last` (YYYYMM) that lost rows to retention (archive_keep_months), though later ones may have come. A reader of several slices
 * looks before the first and after each: while it is the same, no row went meanwhile. */
struct rows_gone {
    int months, first, last; /* how many; the first and the last of them, 0: none */
    int64_t rows;
};
int ledger_rows_gone(struct ledger *l, int first, int last, struct rows_gone *out, struct err *e);

/* The row of an id; 1 found, 0 none, -1 failed. month 0: looked for in the month that the id says, and its neighbours. tenant NULL: anybody's. */
int ledger_row(struct ledger *l, const char *tenant, const char *id, int month, int (*each)(void *u, const struct usage_row *r, struct err *e), void *u,
               struct err *e);

/* Ids begin with the time: the lowest of a time, and the time of one (microseconds, to the millisecond). A row's t_start is that or soon after. */
void usage_id_at(int64_t wall_us, char id[UUID_LEN]);
int64_t usage_id_time(const char *id);
/* When a row begins by this clock. Ids go on where the clock was set back, and so do starts: else a row would fall into a time that was told to be final. */
static inline int64_t usage_start(const char *id, int64_t wall_us)
{
    int64_t t = usage_id_time(id);
    return wall_us > t ? wall_us : t;
}

/* No row with an id below this will ever appear: all requests that began before have been settled. It lies LEDGER_FINAL_S behind now, or behind the
 * oldest open admission. Whoever reads up to here and goes on from there misses nothing. */
#define LEDGER_FINAL_S 60
#define LEDGER_ADMIT_S 50 /* an id that is older is not admitted any more (408) */
int ledger_final_before(struct ledger *l, char id[UUID_LEN], int64_t *wall_us, struct err *e);
