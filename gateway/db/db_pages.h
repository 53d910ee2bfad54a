/* Pages of the database: which changed since a moment, and what they were at another one, while the writer goes on (docs/BACKUP.md section 4).
 *
 *     db_snap_open(want) -> at: the moment, its generation -> db_snap_page() for each page that was wanted -> db_snap_close()
 *
 * Generations count the snapshots since the noting began, which is with the first snapshot after a start; `epoch` names that noting. Who holds all pages as
 * they were at generation g of an epoch, and takes the pages that a later snapshot gives for since = g, holds that snapshot. Where nobody asked for
 * DB_PAGES_IDLE_S the noting ends, and the next one has another epoch. */
#pragma once
#include "base/sha256.h"
#include "gateway/db/db.h"

#define DB_PAGES_MAX (1u << 24) /* 64 GB; 12 bytes are kept of each */
#define DB_PAGES_IDLE_S 900
#define DB_SNAP_MOST 65536 /* pages of one snapshot */
#define DB_SNAP_RANGES 4000

struct db_snap_want {
    const char *epoch;            /* NULL or "": since must be 0 */
    uint32_t since;               /* pages that changed after this generation; 0: all */
    uint32_t from, most;          /* the first page that is looked at (1 is the first there is), and how many are given at most */
    const uint32_t (*range)[2];   /* and these, changed or not; first and last, ascending */
    int nranges;
};

struct db_snap_at {
    char epoch[UUID_LEN];
    uint32_t gen;
    uint32_t pages, page_size;
    int64_t wall_us;
    int64_t before_us; /* of the last snapshot that the database knew of when the noting began; 0: of none */
    uint32_t next; /* pages that are wanted begin here again; 0: these were the last */
};

struct db_snap;

/* Any thread but the writer's. ERR_CONFLICT: another epoch. The snapshot keeps the WAL from being used again: for seconds, not minutes. */
int db_snap_open(struct db *d, const struct db_snap_want *want, struct db_snap **out, struct err *e);
void db_snap_close(struct db_snap *s); /* NULL is fine */

const struct db_snap_at *db_snap_at(const struct db_snap *s);
size_t db_snap_count(const struct db_snap *s);
/* The i-th page that was wanted, ascending: its number, and page_size bytes. */
int db_snap_page(struct db_snap *s, size_t i, uint32_t *pgno, void *out, struct err *e);
/* A connection that sees the same moment; statements are the caller's to finalize. */
sqlite3 *db_snap_conn(struct db_snap *s);
