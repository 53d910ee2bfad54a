/* What usage rows add to the rollups, summed in memory and written at once: a group of settlements touches each bucket once, however many fell into it.
 *
 *     struct sums *s = sums_new(rows, ..);  sums_add(s, row) .. sums_add(s, row);  sums_write(s, db, c, e);  sums_free(s);
 *
 * The one definition of what a row counts for, of settlements, adjustments and ledger_rebuild() alike; ledger_verify() has its own, in SQL. */
#pragma once
#include "gateway/ledger/ledger_rows.h"

struct sums;

/* What began before these times (Unix seconds) counts in no minute, hour or list that nobody keeps any more; 0: all count. */
struct sums *sums_new(int rows_max, int64_t minutes_from, int64_t hours_from, int64_t bad_from);
void sums_free(struct sums *s);

/* At most rows_max rows; r and its texts are borrowed until sums_write(). A row with `adjusts` adds its tokens and its cost, and is no request. */
void sums_add(struct sums *s, const struct usage_row *r);

/* In a job of the writer, or before the group's commit. What falls into days that are over is counted (sums_past) in the same transaction. */
int sums_write(const struct sums *s, struct db *d, sqlite3 *c, struct err *e);

/* Days are closed so long after their end: what readers keep of them in memory holds as long as this count of changes to closed days, of the same
 * snapshot, is the one that it was read with. closed: Unix seconds, days before are so for the reader. */
#define SUMS_CLOSED_S 3600
int sums_past(struct db *d, sqlite3 *c, int64_t closed, int64_t *out, struct err *e);
/* In a job of the writer that changes the rollups of closed days in another way than sums_write(). */
int sums_count_past(struct db *d, sqlite3 *c, struct err *e);

/* How long rollups are kept, behind now. */
#define SUMS_MINUTES_KEPT_S (7 * 86400ll)
#define SUMS_HOURS_KEPT_S (400 * 86400ll)
#define SUMS_BAD_KEPT_S (40 * 86400ll)

static inline int64_t bucket_s(int64_t wall_us, int64_t width_s)
{
    return wall_us / 1000000 / width_s * width_s;
}
