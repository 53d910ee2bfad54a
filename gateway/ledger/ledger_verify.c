/* ledger_verify: do the rollups say what the rows say? To the integer.
 *
 * Per month, wherever it stands, and per rollup one query: raw rows count plus, the rollup's sums minus, grouped by the rollup's key; a group
 * that is not all zero is a bucket that differs. A month that has buckets and no rows is held against none. It is SQL on purpose: what ledger_sums.c counted in C is looked at by other eyes. Rows of
 * everybody ('') are held against the sum of the tenants' rows, which are held against the raw ones. Rollups are kept for a while only
 * (ledger_sums.h); what is older is not compared. Of a month that lost raw rows to retention the sums are held against each other only, and the rows that
 * it got later all the same must have been counted.
 *
 * Budgets (`budget_use`) are held against the rollups last (ledger_verify_budgets.c).
 *
 * A month is one snapshot on a connection of its own, whose sorting spills to a file: ten million rows take minutes, not memory. The result is
 * kept in `verified`. Blocks; on database threads. */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/ledger/ledger_internal.h"
#include "gateway/ledger/ledger_sums.h"

#define MONTH_MS 600000
#define KEPT 100 /* results */

/* Which buckets are compared: all, those of hours, of minutes, or rows of the last weeks. */
enum span { EVER, HOURS, MINUTES, BAD, SPANS };

struct tally {
    struct ledger *l;
    int yyyymm;
    int64_t from[SPANS]; /* Unix seconds */
    int64_t rows, bad;
    ledger_differs_fn *differs;
    void *user;
};

/* ?1 and ?2: from and until, Unix seconds. */
#define LEFT_OVER "HAVING sum(n) <> 0 OR sum(p) <> 0 OR sum(h) <> 0 OR sum(o) <> 0 OR sum(q) <> 0 OR sum(z) <> 0)"
#define RAW_SUMS "adjusts IS NULL n, prompt p, cached h, output o, produced q, cost z FROM raw WHERE t_start >= ?1 * 1000000"
#define ROLLED(table) "-n, -prompt, -cached, -output, -produced, -cost FROM main." table " WHERE t >= ?1 AND t < ?2"
#define BUCKET(seconds) "t_start / 1000000 / " #seconds " * " #seconds " t"
#define COUNT "SELECT count(*) FROM (SELECT 1 FROM ("

#define SPAN_SQL(table, seconds) \
    COUNT "SELECT tenant, " BUCKET(seconds) ", state, " RAW_SUMS " UNION ALL SELECT tenant, t, state, " ROLLED(table) " AND tenant <> '')" \
          " GROUP BY tenant, t, state " LEFT_OVER
#define ALL_SQL(table) \
    COUNT "SELECT t, state, n, prompt p, cached h, output o, produced q, cost z FROM main." table " WHERE t >= ?1 AND t < ?2 AND tenant <> ''" \
          " UNION ALL SELECT t, state, " ROLLED(table) " AND tenant = '') GROUP BY t, state " LEFT_OVER

static const char minute_sql[] = SPAN_SQL("rollup_minute", 60), hour_sql[] = SPAN_SQL("rollup_hour", 3600);
static const char minute_all_sql[] = ALL_SQL("rollup_minute"), hour_all_sql[] = ALL_SQL("rollup_hour");
static const char day_sql[] =
    COUNT "SELECT tenant, " BUCKET(86400) ", key, base, adapter, version, model, endpoint, state, " RAW_SUMS
          " UNION ALL SELECT tenant, t, key, base, adapter, version, model, endpoint, state, " ROLLED("rollup_day") ")"
          " GROUP BY tenant, t, key, base, adapter, version, model, endpoint, state " LEFT_OVER;
static const char adapter_sql[] =
    COUNT "SELECT tenant, adapter, version, " BUCKET(86400) ", " RAW_SUMS
          " UNION ALL SELECT tenant, adapter, version, t, " ROLLED("rollup_adapter") ") GROUP BY tenant, adapter, version, t " LEFT_OVER;
/* What only requests count in; of the last use the latest. */
static const char adapter_more_sql[] =
    COUNT "SELECT tenant, adapter, version, " BUCKET(86400) ", cold c, state IN (2, 3, 5) x, state = 1 a, t_first > 0 f,"
          " (t_first > 0) * (t_first - t_start) u, load_us w, t_end l, 0 m FROM raw WHERE adjusts IS NULL AND t_start >= ?1 * 1000000"
          " UNION ALL SELECT tenant, adapter, version, t, -cold, -errors, -aborts, -ttft_n, -ttft_us, -load_us, 0, last_used FROM main.rollup_adapter"
          " WHERE t >= ?1 AND t < ?2) GROUP BY tenant, adapter, version, t"
          " HAVING sum(c) <> 0 OR sum(x) <> 0 OR sum(a) <> 0 OR sum(f) <> 0 OR sum(u) <> 0 OR sum(w) <> 0 OR max(l) <> max(m))";
#define LATENCY(kind, us, of) \
    "SELECT tenant, alias, adapter, version, " BUCKET(3600) ", " #kind " kind, latency_bucket(" us ") bucket, 1 n FROM raw" \
    " WHERE adjusts IS NULL AND t_start >= ?1 * 1000000" of
#define LATENCIES(of) \
    LATENCY(0, "t_first - t_start", " AND t_first > 0" of) " UNION ALL " LATENCY(1, "t_end - t_start", of) " UNION ALL " \
    LATENCY(2, "(t_end - t_first) / (output - 1)", " AND t_first > 0 AND output > 1" of)
static const char latency_sql[] =
    COUNT LATENCIES("") " UNION ALL SELECT tenant, '', '', 0, t, kind, bucket, -n FROM main.rollup_latency WHERE t >= ?1 AND t < ?2 AND tenant <> '')"
          " GROUP BY tenant, t, kind, bucket HAVING sum(n) <> 0)";
static const char latency_all_sql[] =
    COUNT "SELECT t, kind, bucket, n FROM main.rollup_latency WHERE t >= ?1 AND t < ?2 AND tenant <> '' UNION ALL SELECT t, kind, bucket, -n"
          " FROM main.rollup_latency WHERE t >= ?1 AND t < ?2 AND tenant = '' AND kind < 16) GROUP BY t, kind, bucket HAVING sum(n) <> 0)";
static const char alias_sql[] =
    COUNT "SELECT tenant, alias, " BUCKET(3600) ", adapter, version, state, " RAW_SUMS " AND alias <> ''"
          " UNION ALL SELECT tenant, alias, t, adapter, version, state, " ROLLED("rollup_alias") ")"
          " GROUP BY tenant, alias, t, adapter, version, state " LEFT_OVER;
static const char alias_latency_sql[] =
    COUNT LATENCIES(" AND alias <> ''") " UNION ALL SELECT tenant, alias, adapter, version, t, kind, bucket, -n FROM main.rollup_alias_latency"
          " WHERE t >= ?1 AND t < ?2) GROUP BY tenant, alias, adapter, version, t, kind, bucket HAVING sum(n) <> 0)";
static const char bad_sql[] =
    COUNT "SELECT tenant, id, state, 1 n FROM raw WHERE adjusts IS NULL AND state <> 0 AND t_start >= ?1 * 1000000"
          " UNION ALL SELECT tenant, id, state, -1 FROM main.usage_bad WHERE month = ?3 AND (?2 > 0) AND id IN"
          " (SELECT id FROM raw WHERE t_start >= ?1 * 1000000)) GROUP BY tenant, id, state HAVING sum(n) <> 0)";
/* Each correction says why, and each reason has its row. */
static const char adjust_sql[] =
    COUNT "SELECT id, 1 n FROM raw WHERE adjusts IS NOT NULL UNION ALL SELECT id, -1 FROM main.adjustment WHERE t >= ?1 * 1000000 AND t < ?2 * 1000000)"
          " GROUP BY id HAVING sum(n) <> 0)";

/* Of a month that lost rows to retention: those that it has count somewhere, for no bucket has fewer requests than they are. */
static const char counted_sql[] =
    COUNT "SELECT tenant, " BUCKET(86400) ", key, base, adapter, version, model, endpoint, state, adjusts IS NULL n FROM raw WHERE t_start >= ?1 * 1000000"
          " UNION ALL SELECT tenant, t, key, base, adapter, version, model, endpoint, state, -n FROM main.rollup_day WHERE t >= ?1 AND t < ?2)"
          " GROUP BY tenant, t, key, base, adapter, version, model, endpoint, state HAVING sum(n) > 0)";

static const struct {
    const char *rollup, *sql;
    enum span span;
    bool sums; /* compares sums with sums, so it holds without the rows, too */
} checks[] = {
    {"rollup_minute", minute_sql, MINUTES, false},
    {"rollup_minute", minute_all_sql, MINUTES, true},
    {"rollup_hour", hour_sql, HOURS, false},
    {"rollup_hour", hour_all_sql, HOURS, true},
    {"rollup_day", day_sql, EVER, false},
    {"rollup_adapter", adapter_sql, EVER, false},
    {"rollup_adapter", adapter_more_sql, EVER, false},
    {"rollup_latency", latency_sql, HOURS, false},
    {"rollup_latency", latency_all_sql, HOURS, true},
    {"rollup_alias", alias_sql, HOURS, false},
    {"rollup_alias_latency", alias_latency_sql, HOURS, false},
    {"usage_bad", bad_sql, BAD, false},
    {"adjustment", adjust_sql, EVER, false},
};

static void latency_bucket(sqlite3_context *x, int n, sqlite3_value **v)
{
    (void)n;
    sqlite3_result_int(x, ledger_latency_bucket(sqlite3_value_int64(v[0])));
}

static int number(struct tally *t, sqlite3 *c, const char *sql, enum span span, int64_t *out, struct err *e)
{
    int64_t from = month_start(t->yyyymm), to = month_start(month_after(t->yyyymm));
    if (from < t->from[span]) from = t->from[span];
    sqlite3_stmt *st = db_stmt(t->l->db, c, sql, e);
    if (!st) return -1;
    if (sqlite3_bind_parameter_count(st) && db_bind(st, e, sqlite3_bind_parameter_count(st) > 2 ? "iii" : "ii", from, to, (int64_t)t->yyyymm))
        return -1;
    if (db_row(st, e) != 1) return -1;
    *out += sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    return 0;
}

/* The view `raw` of all that there is of the month; of one that has sums only, an empty one. */
static int make_view(struct tally *t, struct db *d, sqlite3 *c, struct err *e)
{
    char path[DB_PATH_LEN];
    int table = ledger_has_table(t->l, c, t->yyyymm, e), file = table < 0 ? -1 : ledger_archived(t->l, c, t->yyyymm, e);
    if (file < 0) return -1;
    const struct month *m = table || file ? ledger_month_by_number(t->l, t->yyyymm, e) : NULL;
    if ((table || file) && !m) return -1;
    ledger_archive_path(t->l, t->yyyymm, path);
    if (file && db_attach(d, c, path, e)) return -1;
    const char *view = !m ? ledger_no_rows : table && file ? m->raw_both : table ? m->raw_table : m->raw_file;
    if (sqlite3_exec(c, "PRAGMA temp_store=FILE; PRAGMA cache_size=-65536; PRAGMA query_only=OFF", NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_exec(c, view, NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_create_function(c, "latency_bucket", 1, SQLITE_UTF8 | SQLITE_DETERMINISTIC, NULL, latency_bucket, NULL, NULL) != SQLITE_OK)
        return db_error(c, "verify", e);
    return 0;
}

/* One comparison; what differs is told. */
static int compare(struct tally *t, sqlite3 *c, const char *rollup, const char *sql, enum span span, struct err *e)
{
    int64_t bad = 0;
    if (number(t, c, sql, span, &bad, e)) return -1;
    t->bad += bad;
    if (bad) t->differs(t->user, t->yyyymm, rollup, bad);
    return 0;
}

static int verify_month(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char rows[] = "SELECT count(*) FROM raw";
    struct tally *t = u;
    int lost = make_view(t, d, c, e) ? -1 : ledger_lost_rows(t->l, c, t->yyyymm, e);
    if (lost < 0 || number(t, c, rows, EVER, &t->rows, e)) return -1;
    if (lost && compare(t, c, "rollup_day", counted_sql, EVER, e)) return -1;
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++)
        if ((!lost || checks[i].sums) && compare(t, c, checks[i].rollup, checks[i].sql, checks[i].span, e)) return -1;
    for (int i = 0; i < ledger_ndim_checks; i++) {
        const struct ledger_check *k = &ledger_dim_checks[i];
        if ((!lost || !k->raw) && compare(t, c, k->rollup, k->sql, k->hours ? HOURS : EVER, e)) return -1;
    }
    return 0;
}

static int verify_budgets(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d;
    struct tally *t = u;
    if (sqlite3_exec(c, "PRAGMA temp_store=FILE; PRAGMA cache_size=-65536", NULL, NULL, NULL) != SQLITE_OK) return db_error(c, "verify", e);
    t->yyyymm = 0;
    return compare(t, c, "budget_use", ledger_budget_check, EVER, e);
}

struct verified {
    int64_t t, rows, bad, took_us;
};

static int run_note(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char insert[] = "INSERT OR REPLACE INTO verified(t, rows, bad, took_us) VALUES(?1, ?2, ?3, ?4)";
    static const char trim[] = "DELETE FROM verified WHERE t < (SELECT t FROM verified ORDER BY t DESC LIMIT 1 OFFSET ?1)";
    const struct verified *v = u;
    sqlite3_stmt *st = db_stmt(d, c, insert, e);
    if (!st || db_bind(st, e, "iiii", v->t, v->rows, v->bad, v->took_us) || db_done(st, e)) return -1;
    return (st = db_stmt(d, c, trim, e)) && db_bind(st, e, "i", (int64_t)KEPT - 1) == 0 ? db_done(st, e) : -1;
}

static void set_spans(struct tally *t)
{
    int64_t now = clock_wall_us() / 1000000;
    t->from[MINUTES] = (now - SUMS_MINUTES_KEPT_S) / 3600 * 3600 + 3600;
    t->from[HOURS] = (now - SUMS_HOURS_KEPT_S) / 86400 * 86400 + 86400;
    t->from[BAD] = (now - SUMS_BAD_KEPT_S) / 86400 * 86400 + 86400;
}

int ledger_verify_each(struct ledger *l, ledger_differs_fn *differs, void *u, int64_t *rows, int64_t *bad, struct err *e)
{
    struct tally t = {.l = l, .differs = differs, .user = u};
    struct month_list list;
    int64_t began = clock_mono_us();
    set_spans(&t);
    if (db_read_alone(l->db, ledger_list_summed_months, &list, MONTH_MS, e)) return -1;
    for (int i = 0; i < list.n; i++) {
        t.yyyymm = list.yyyymm[i];
        if (db_read_alone(l->db, verify_month, &t, MONTH_MS, e)) return -1;
    }
    if (db_read_alone(l->db, verify_budgets, &t, MONTH_MS, e)) return -1;
    struct verified v = {clock_wall_us(), t.rows, t.bad, clock_mono_us() - began};
    if (db_write_wait(l->db, run_note, &v, e)) return -1;
    l->verified_bad = t.bad;
    l->verified_s = v.t / 1000000;
    *rows = t.rows;
    *bad = t.bad;
    return 0;
}

static void log_differs(void *u, int yyyymm, const char *rollup, int64_t buckets)
{
    (void)u;
    log_error("rollup_differs", LS("rollup", rollup), LI("month", yyyymm), LI("buckets", buckets));
}

int ledger_verify(struct ledger *l, int64_t *rows, int64_t *bad, struct err *e) { return ledger_verify_each(l, log_differs, NULL, rows, bad, e); }

/* An index of one entry: cheap at every start. */
int ledger_read_verified(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT t, bad FROM verified ORDER BY t DESC LIMIT 1";
    struct ledger *l = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st ? db_row(st, e) : -1;
    if (rc == 1) {
        l->verified_bad = sqlite3_column_int64(st, 1);
        l->verified_s = sqlite3_column_int64(st, 0) / 1000000;
    }
    if (st) sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

int64_t ledger_verified(const struct ledger *l, int64_t *bad)
{
    *bad = l->verified_bad;
    return l->verified_s;
}
