/* ledger_month: raw usage stands in a table per month, usage_YYYYMM, so that old months leave by DROP and not row by row.
 *
 * The tables are alike but for the name, which SQL can't take as a parameter; the texts are made here from constant patterns and a
 * checked number, once per month, and kept. A settlement makes the table of a new month in its own transaction; `made` is set when such
 * a transaction was committed, so a rolled back one is simply made again. Times are UTC. Any thread. */
#include "gateway/ledger_internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char create_sql[] =
    "CREATE TABLE IF NOT EXISTS usage_%1$06d("
    " id TEXT PRIMARY KEY, tenant TEXT NOT NULL, key TEXT NOT NULL, base TEXT NOT NULL, adapter TEXT NOT NULL, version INTEGER NOT NULL,"
    " model TEXT NOT NULL, endpoint TEXT NOT NULL, stream INTEGER NOT NULL, state INTEGER NOT NULL CHECK(state BETWEEN 0 AND 5),"
    " http INTEGER NOT NULL, finish TEXT NOT NULL, t_start INTEGER NOT NULL, t_first INTEGER NOT NULL, t_end INTEGER NOT NULL,"
    " prompt INTEGER NOT NULL, cached INTEGER NOT NULL, output INTEGER NOT NULL, produced INTEGER NOT NULL, source INTEGER NOT NULL,"
    " price INTEGER NOT NULL, cost INTEGER NOT NULL, attempt INTEGER NOT NULL, cold INTEGER NOT NULL, engine TEXT NOT NULL,"
    " adjusts TEXT" /* a correction names the row that it corrects; rows are never updated */
    ") STRICT, WITHOUT ROWID;"
    "CREATE UNIQUE INDEX IF NOT EXISTS usage_%1$06d_tenant ON usage_%1$06d(tenant, id)";

static const char insert_sql[] =
    "INSERT OR IGNORE INTO usage_%1$06d(id, tenant, key, base, adapter, version, model, endpoint, stream, state, http, finish, t_start,"
    " t_first, t_end, prompt, cached, output, produced, source, price, cost, attempt, cold, engine)"
    " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25)";

#define ROW "SELECT id, tenant, key, model, adapter, version, endpoint, stream, state, http, finish, t_start, t_first, t_end, prompt," \
            " cached, output, produced, source, attempt, cold, engine, base, cost FROM usage_%1$06d "
static const char of_tenant_sql[] = ROW "WHERE tenant = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3";
static const char of_all_sql[] = ROW "WHERE id < ?2 AND ?1 IS NULL ORDER BY id DESC LIMIT ?3";
static const char of_tenant_before_sql[] = ROW "WHERE tenant = ?1 AND id > ?2 ORDER BY id LIMIT ?3";
static const char of_all_before_sql[] = ROW "WHERE id > ?2 AND ?1 IS NULL ORDER BY id LIMIT ?3";

/* Raw rows count +, the rollup's -: what is left over differs. ?1 and ?2: the month in Unix seconds. */
#define LEFT_OVER "HAVING sum(n) <> 0 OR sum(p) <> 0 OR sum(h) <> 0 OR sum(o) <> 0 OR sum(q) <> 0 OR sum(z) <> 0)"
#define RAW_SUMS "1 n, prompt p, cached h, output o, produced q, cost z FROM usage_%1$06d"
#define ROLLED(table) "-n, -prompt, -cached, -output, -produced, -cost FROM " table " WHERE t >= ?1 AND t < ?2"
#define BUCKET(seconds) "t_start / 1000000 / " #seconds " * " #seconds " t"

static const char verify_minute_sql[] = "SELECT count(*) FROM (SELECT 1 FROM (SELECT tenant, " BUCKET(60) ", state, " RAW_SUMS
                                        " WHERE t_start >= ?1 * 1000000 UNION ALL SELECT tenant, t, state, " ROLLED("rollup_minute") ")"
                                        " GROUP BY tenant, t, state " LEFT_OVER;
static const char verify_hour_sql[] = "SELECT count(*) FROM (SELECT 1 FROM (SELECT tenant, " BUCKET(3600) ", state, " RAW_SUMS
                                      " WHERE t_start >= ?1 * 1000000 UNION ALL SELECT tenant, t, state, " ROLLED("rollup_hour") ")"
                                      " GROUP BY tenant, t, state " LEFT_OVER;
static const char verify_day_sql[] =
    "SELECT count(*) FROM (SELECT 1 FROM (SELECT tenant, " BUCKET(86400) ", key, base, adapter, version, model, endpoint, state, " RAW_SUMS
    " UNION ALL SELECT tenant, t, key, base, adapter, version, model, endpoint, state, " ROLLED("rollup_day") ")"
    " GROUP BY tenant, t, key, base, adapter, version, model, endpoint, state " LEFT_OVER;
static const char verify_adapter_sql[] =
    "SELECT count(*) FROM (SELECT 1 FROM (SELECT tenant, adapter, version, " BUCKET(86400) ", " RAW_SUMS
    " UNION ALL SELECT tenant, adapter, version, t, " ROLLED("rollup_adapter") ")"
    " GROUP BY tenant, adapter, version, t " LEFT_OVER;
static const char verify_latency_sql[] =
    "SELECT count(*) FROM (SELECT 1 FROM ("
    "SELECT tenant, " BUCKET(3600) ", 0 kind, latency_bucket(t_first - t_start) bucket, 1 n FROM usage_%1$06d WHERE t_first > 0 AND t_start >= ?1 * 1000000"
    " UNION ALL SELECT tenant, " BUCKET(3600) ", 1, latency_bucket(t_end - t_start), 1 FROM usage_%1$06d WHERE t_start >= ?1 * 1000000"
    " UNION ALL SELECT tenant, t, kind, bucket, -n FROM rollup_latency WHERE t >= ?1 AND t < ?2)"
    " GROUP BY tenant, t, kind, bucket HAVING sum(n) <> 0)";

static const struct {
    const char *pattern;
    size_t at, size;
} texts[] = {
#define TEXT(field) {field##_sql, offsetof(struct month, field), sizeof ((struct month *)0)->field}
    TEXT(create), TEXT(insert), TEXT(of_tenant), TEXT(of_all), TEXT(of_tenant_before), TEXT(of_all_before),
    TEXT(verify_minute), TEXT(verify_hour), TEXT(verify_day), TEXT(verify_adapter), TEXT(verify_latency),
#undef TEXT
};

static int fill(struct month *m, struct err *e)
{
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        int n = snprintf((char *)m + texts[i].at, texts[i].size, texts[i].pattern, m->yyyymm);
        if (n < 0 || (size_t)n >= texts[i].size) return err_set(e, ERR_INTERNAL, "SQL of usage_%06d does not fit", m->yyyymm);
    }
    return 0;
}

static struct month *find(struct ledger *l, int yyyymm)
{
    struct month *m = l->months;
    while (m && m->yyyymm != yyyymm) m = m->next;
    return m;
}

/* Under the lock. */
static struct month *add(struct ledger *l, int yyyymm, struct err *e)
{
    struct month *m = l->nmonths < LEDGER_MONTHS_MAX ? calloc(1, sizeof *m) : NULL;
    if (!m) {
        err_set(e, ERR_LEDGER, "no room for the month %06d", yyyymm);
        return NULL;
    }
    m->yyyymm = yyyymm;
    if (fill(m, e)) {
        free(m);
        return NULL;
    }
    m->next = l->months;
    l->months = m;
    l->nmonths++;
    return m;
}

struct month *ledger_month_by_number(struct ledger *l, int yyyymm, struct err *e)
{
    if (yyyymm < 197001 || yyyymm > 999912 || yyyymm % 100 < 1 || yyyymm % 100 > 12) {
        err_set(e, ERR_INTERNAL, "%d is no month", yyyymm);
        return NULL;
    }
    pthread_mutex_lock(&l->lock);
    struct month *m = find(l, yyyymm);
    if (!m) m = add(l, yyyymm, e);
    pthread_mutex_unlock(&l->lock);
    return m;
}

struct month *ledger_month(struct ledger *l, int64_t wall_us, struct err *e)
{
    time_t s = (time_t)(wall_us / 1000000);
    struct tm tm = {0};
    gmtime_r(&s, &tm);
    return ledger_month_by_number(l, (tm.tm_year + 1900) * 100 + tm.tm_mon + 1, e);
}

int ledger_months(struct ledger *l, sqlite3 *c, struct month **list, int *n, struct err *e)
{
    static const char sql[] = "SELECT substr(name, 7) FROM sqlite_schema WHERE type = 'table' AND name GLOB"
                              " 'usage_[0-9][0-9][0-9][0-9][0-9][0-9]' ORDER BY name DESC";
    sqlite3_stmt *st = db_stmt(l->db, c, sql, e);
    if (!st) return -1;
    int rc;
    *n = 0;
    while ((rc = db_row(st, e)) == 1 && *n < LEDGER_MONTHS_MAX) {
        struct month *m = ledger_month_by_number(l, sqlite3_column_int(st, 0), e);
        if (!m) return -1;
        list[(*n)++] = m;
    }
    sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}
