/* ledger_verify: do the rollups say what the rows say? To the integer.
 *
 * Per month and rollup one query: raw rows count plus, the rollup's sums minus, grouped by the rollup's key; a group that is not all zero
 * is a bucket that differs (the SQL stands with the tables, in ledger_month.c). Everything is read in one snapshot. Rollups are kept for
 * a while only (ledger_settle.c); what is older is not compared. */
#include "gateway/ledger_internal.h"
#include "base/clock.h"
#include <stdio.h>
#include <time.h>

#define VERIFY_MS 600000

struct tally {
    struct ledger *l;
    int64_t rows, bad;
};

static void latency_bucket(sqlite3_context *x, int n, sqlite3_value **v)
{
    (void)n;
    sqlite3_result_int(x, ledger_latency_bucket(sqlite3_value_int64(v[0])));
}

/* Unix seconds of the month's start. */
static int64_t month_start(int yyyymm)
{
    struct tm tm = {.tm_year = yyyymm / 100 - 1900, .tm_mon = yyyymm % 100 - 1, .tm_mday = 1};
    return (int64_t)timegm(&tm);
}

static int month_after(int yyyymm) { return yyyymm % 100 == 12 ? yyyymm + 89 : yyyymm + 1; }

static int count_bad(struct tally *t, sqlite3 *c, const char *sql, int yyyymm, int64_t kept_from, struct err *e)
{
    int64_t from = month_start(yyyymm), to = month_start(month_after(yyyymm));
    if (from < kept_from) from = kept_from;
    sqlite3_stmt *st = db_stmt(t->l->db, c, sql, e);
    if (!st || db_bind(st, e, "ii", from, to) || db_row(st, e) != 1) return -1;
    t->bad += sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    return 0;
}

static int count_rows(struct tally *t, sqlite3 *c, int yyyymm, struct err *e)
{
    static const char sql[] = "SELECT coalesce(sum(n), 0) FROM rollup_day WHERE t >= ?1 AND t < ?2";
    sqlite3_stmt *st = db_stmt(t->l->db, c, sql, e);
    if (!st || db_bind(st, e, "ii", month_start(yyyymm), month_start(month_after(yyyymm))) || db_row(st, e) != 1) return -1;
    t->rows += sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    return 0;
}

static int verify_month(struct tally *t, sqlite3 *c, const struct month *m, struct err *e)
{
    int64_t now = clock_wall_us() / 1000000;
    int64_t minutes = (now - 7 * 86400) / 3600 * 3600 + 3600, hours = (now - 400 * 86400) / 86400 * 86400 + 86400;
    if (count_rows(t, c, m->yyyymm, e)) return -1;
    if (count_bad(t, c, m->verify_minute, m->yyyymm, minutes, e) || count_bad(t, c, m->verify_hour, m->yyyymm, hours, e)) return -1;
    if (count_bad(t, c, m->verify_day, m->yyyymm, 0, e) || count_bad(t, c, m->verify_adapter, m->yyyymm, 0, e)) return -1;
    return count_bad(t, c, m->verify_latency, m->yyyymm, hours, e);
}

static int verify(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d;
    struct tally *t = u;
    struct month *months[LEDGER_MONTHS_MAX];
    int n;
    if (sqlite3_create_function(c, "latency_bucket", 1, SQLITE_UTF8 | SQLITE_DETERMINISTIC, NULL, latency_bucket, NULL, NULL) != SQLITE_OK)
        return db_error(c, "latency_bucket", e);
    if (ledger_months(t->l, c, months, &n, e)) return -1;
    for (int i = 0; i < n; i++)
        if (verify_month(t, c, months[i], e)) return -1;
    return 0;
}

int ledger_verify(struct ledger *l, int64_t *rows, int64_t *bad, struct err *e)
{
    struct tally t = {.l = l};
    if (db_read(l->db, verify, &t, VERIFY_MS, e)) return -1;
    *rows = t.rows;
    *bad = t.bad;
    return 0;
}
