/* ledger_month: raw usage stands in a table per month, usage_YYYYMM, so that old months leave by DROP and not row by row.
 *
 * The tables are alike but for the name, which SQL can't take as a parameter; the texts are made here from constant patterns and a
 * checked number, once per month, and kept. A settlement makes the table of a new month in its own transaction; `made` is set when such
 * a transaction was committed, so a rolled back one is simply made again. Times are UTC. Any thread. */
#include "gateway/ledger/ledger_internal.h"
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
    " adjusts TEXT," /* a correction names the row that it corrects; rows are never updated */
    " alias TEXT NOT NULL DEFAULT '', load_us INTEGER NOT NULL DEFAULT 0" /* last: tables of before got them so */
    ") STRICT, WITHOUT ROWID";
/* A table that was renamed keeps its index, and that its name (ledger_archive.c): the month's next one takes the other. */
#define INDEX(suffix) "CREATE UNIQUE INDEX IF NOT EXISTS usage_%1$06d_tenant" suffix " ON usage_%1$06d(tenant, id)"
static const char index_sql[] = INDEX(""), index_2_sql[] = INDEX("_2");
static const char indexed_sql[] = "SELECT 1 FROM main.sqlite_schema WHERE type = 'index' AND tbl_name = 'usage_%1$06d' AND sql IS NOT NULL";

static const char insert_sql[] =
    "INSERT OR IGNORE INTO usage_%1$06d(id, tenant, key, base, adapter, version, model, endpoint, stream, state, http, finish, t_start,"
    " t_first, t_end, prompt, cached, output, produced, source, price, cost, attempt, cold, engine, adjusts, alias, load_us)"
    " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27,"
    " ?28)";

/* Tables that were made before these columns were. */
static const char columns_sql[] = "SELECT sum(name = 'alias'), sum(name = 'load_us') FROM pragma_table_info('usage_%1$06d')";
static const char add_alias_sql[] = "ALTER TABLE usage_%1$06d ADD COLUMN alias TEXT NOT NULL DEFAULT ''";
static const char add_load_sql[] = "ALTER TABLE usage_%1$06d ADD COLUMN load_us INTEGER NOT NULL DEFAULT 0";

/* For ledger_rows.c, in the order of its enum. ?1 the tenant or NULL, ?2 and ?3 between which ids, ?4 and ?5 the times. */
#define UNDER(which) "(SELECT p." which " FROM main.usage_policy p WHERE p.id = u.id)"
#define COLUMNS \
    "SELECT u.id, u.tenant, key, base, adapter, model, alias, endpoint, finish, engine, adjusts, version, stream, u.state, http, t_start, t_first," \
    " t_end, prompt, cached, output, produced, source, price, cost, attempt, cold, load_us, " UNDER("before") ", " UNDER("after") " FROM "
#define WHOLE(schema) COLUMNS schema "usage_%1$06d u "
#define RANGE "AND id > ?2 AND id < ?3 AND t_start >= ?4 AND t_start < ?5 ORDER BY id LIMIT ?6"
static const char rows_tenant_sql[] = WHOLE("main.") "WHERE tenant = ?1 " RANGE;
static const char rows_all_sql[] = WHOLE("main.") "WHERE ?1 IS NULL " RANGE;
static const char last_sql[] = "SELECT max(id) FROM main.usage_%1$06d WHERE id < ?1";
static const char row_sql[] = WHOLE("main.") "WHERE id = ?2 AND (?1 IS NULL OR tenant = ?1)";
static const char archived_rows_tenant_sql[] = WHOLE("archive.") "WHERE tenant = ?1 " RANGE;
static const char archived_rows_all_sql[] = WHOLE("archive.") "WHERE ?1 IS NULL " RANGE;
static const char archived_row_sql[] = WHOLE("archive.") "WHERE id = ?2 AND (?1 IS NULL OR tenant = ?1)";

/* Lists, newest first, and oldest first for what stands before a cursor: ?1 the tenant or NULL, ?2 and ?3 between which ids. No limit: a filter (ledger_find.c)
 * stops where it has enough. */
#define BETWEEN "AND id > ?2 AND id < ?3 AND adjusts IS NULL ORDER BY id"
static const char of_tenant_sql[] = WHOLE("main.") "WHERE tenant = ?1 " BETWEEN " DESC";
static const char of_all_sql[] = WHOLE("main.") "WHERE ?1 IS NULL " BETWEEN " DESC";
static const char of_tenant_before_sql[] = WHOLE("main.") "WHERE tenant = ?1 " BETWEEN;
static const char of_all_before_sql[] = WHOLE("main.") "WHERE ?1 IS NULL " BETWEEN;
/* The same of a state that is not completed, ?4, by usage_bad: as far back as that is kept. */
#define BAD(whose) COLUMNS "usage_bad b CROSS JOIN main.usage_%1$06d u ON u.id = b.id WHERE " whose " AND b.month = %1$06d AND b.state = ?4 AND b.id > ?2" \
    " AND b.id < ?3 AND adjusts IS NULL ORDER BY b.id"
static const char bad_tenant_sql[] = BAD("b.tenant = ?1") " DESC", bad_tenant_before_sql[] = BAD("b.tenant = ?1");
static const char bad_all_sql[] = BAD("?1 IS NULL") " DESC", bad_all_before_sql[] = BAD("?1 IS NULL");
static const char archived_of_tenant_sql[] = WHOLE("archive.") "WHERE tenant = ?1 " BETWEEN " DESC";
static const char archived_of_all_sql[] = WHOLE("archive.") "WHERE ?1 IS NULL " BETWEEN " DESC";
static const char archived_of_tenant_before_sql[] = WHOLE("archive.") "WHERE tenant = ?1 " BETWEEN;
static const char archived_of_all_before_sql[] = WHOLE("archive.") "WHERE ?1 IS NULL " BETWEEN;

/* The whole month for ledger_verify.c, from wherever it stands: a row that is in both counts once. */
#define FIELDS \
    "SELECT id, tenant, key, base, adapter, version, model, endpoint, state, t_start, t_first, t_end, prompt, cached, output, produced, cost, cold," \
    " adjusts, alias, load_us, price FROM "
static const char raw_table_sql[] = "CREATE TEMP VIEW raw AS " FIELDS "main.usage_%1$06d";
static const char raw_file_sql[] = "CREATE TEMP VIEW raw AS " FIELDS "archive.usage_%1$06d";
static const char raw_both_sql[] = "CREATE TEMP VIEW raw AS " FIELDS "main.usage_%1$06d UNION ALL " FIELDS "archive.usage_%1$06d a"
                                   " WHERE NOT EXISTS (SELECT 1 FROM main.usage_%1$06d m WHERE m.id = a.id)";
const char ledger_no_rows[] = "CREATE TEMP VIEW raw AS SELECT '' id, '' tenant, '' key, '' base, '' adapter, 0 version, '' model, '' endpoint, 0 state, 0 t_start,"
                              " 0 t_first, 0 t_end, 0 prompt, 0 cached, 0 output, 0 produced, 0 cost, 0 cold, NULL adjusts, '' alias, 0 load_us, 0 price WHERE 0";

static const struct {
    const char *pattern;
    size_t at, size;
} texts[] = {
#define TEXT(field) {field##_sql, offsetof(struct month, field), sizeof ((struct month *)0)->field}
    TEXT(create), TEXT(index), TEXT(index_2), TEXT(indexed), TEXT(insert), TEXT(columns), TEXT(add_alias), TEXT(add_load), TEXT(rows_tenant), TEXT(rows_all), TEXT(row), TEXT(last),
    TEXT(archived_rows_tenant), TEXT(archived_rows_all), TEXT(archived_row), TEXT(of_tenant), TEXT(of_all), TEXT(of_tenant_before), TEXT(of_all_before),
    TEXT(bad_tenant), TEXT(bad_tenant_before), TEXT(bad_all), TEXT(bad_all_before),
    TEXT(archived_of_tenant), TEXT(archived_of_all), TEXT(archived_of_tenant_before), TEXT(archived_of_all_before),
    TEXT(raw_table), TEXT(raw_file), TEXT(raw_both),
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

int month_of(int64_t wall_us)
{
    time_t s = (time_t)(wall_us / 1000000);
    struct tm tm = {0};
    gmtime_r(&s, &tm);
    return (tm.tm_year + 1900) * 100 + tm.tm_mon + 1;
}

int64_t month_start(int yyyymm)
{
    struct tm tm = {.tm_year = yyyymm / 100 - 1900, .tm_mon = yyyymm % 100 - 1, .tm_mday = 1};
    return (int64_t)timegm(&tm);
}

int month_after(int yyyymm) { return yyyymm % 100 == 12 ? yyyymm + 89 : yyyymm + 1; }

struct month *ledger_month(struct ledger *l, int64_t wall_us, struct err *e)
{
    return ledger_month_by_number(l, month_of(wall_us), e);
}

static int exec(sqlite3 *c, const char *sql, struct err *e)
{
    return sqlite3_exec(c, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_error(c, "usage table", e);
}

int ledger_make_index(struct db *d, sqlite3 *c, const struct month *m, struct err *e)
{
    const char *const names[] = {m->index, m->index_2};
    int has = 0;
    for (int i = 0; i <= 2 && !has; i++) {
        sqlite3_stmt *st = db_stmt(d, c, m->indexed, e);
        has = st ? db_row(st, e) : -1;
        sqlite3_reset(st);
        if (!has && i < 2 && exec(c, names[i], e)) return -1;
    }
    return has > 0 ? 0 : err_set(e, ERR_INTERNAL, "usage_%06d has no index", m->yyyymm);
}

int ledger_make_table(struct db *d, sqlite3 *c, const struct month *m, struct err *e)
{
    return exec(c, m->create, e) ? -1 : ledger_make_index(d, c, m, e);
}

static int one_of(struct ledger *l, sqlite3 *c, const char *sql, int yyyymm, struct err *e)
{
    sqlite3_stmt *st = db_stmt(l->db, c, sql, e);
    if (!st || db_bind(st, e, "i", (int64_t)yyyymm)) return -1;
    int rc = db_row(st, e);
    sqlite3_reset(st);
    return rc;
}

int ledger_has_table(struct ledger *l, sqlite3 *c, int yyyymm, struct err *e)
{
    static const char sql[] = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = 'usage_' || ?1";
    return one_of(l, c, sql, yyyymm, e);
}

int ledger_archived(struct ledger *l, sqlite3 *c, int yyyymm, struct err *e)
{
    static const char sql[] = "SELECT 1 FROM main.archive WHERE month = ?1 AND removed IS NULL";
    return one_of(l, c, sql, yyyymm, e);
}

int ledger_lost_rows(struct ledger *l, sqlite3 *c, int yyyymm, struct err *e)
{
    static const char sql[] = "SELECT 1 FROM main.archive WHERE month = ?1 AND lost > 0";
    return one_of(l, c, sql, yyyymm, e);
}

void ledger_archive_path(const struct ledger *l, int yyyymm, char path[DB_PATH_LEN])
{
    snprintf(path, DB_PATH_LEN, "%s/archive/usage_%06d.db", db_dir(l->db), yyyymm);
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

static int list_months(struct db *d, sqlite3 *c, const char *sql, struct month_list *list, struct err *e)
{
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st ? 0 : -1;
    for (list->n = 0; st && list->n < LEDGER_MONTHS_MAX && (rc = db_row(st, e)) == 1;) list->yyyymm[list->n++] = sqlite3_column_int(st, 0);
    sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

#define WITH_ROWS \
    "SELECT substr(name, 7) + 0 FROM main.sqlite_schema WHERE type = 'table' AND name GLOB" \
    " 'usage_[0-9][0-9][0-9][0-9][0-9][0-9]' UNION SELECT month FROM main.archive WHERE removed IS NULL"

int ledger_list_months(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = WITH_ROWS " ORDER BY 1";
    return list_months(d, c, sql, u, e);
}

int ledger_list_summed_months(struct db *d, sqlite3 *c, void *u, struct err *e)
{
#define DAYS_OF(table) "SELECT t / 86400 d FROM main." table
#define AND " UNION "
    static const char sql[] =
        WITH_ROWS " UNION SELECT strftime('%Y%m', d * 86400, 'unixepoch') + 0 FROM (" DAYS_OF("rollup_minute") AND
        DAYS_OF("rollup_hour") AND DAYS_OF("rollup_day") AND DAYS_OF("rollup_adapter") AND DAYS_OF("rollup_latency") AND DAYS_OF("rollup_alias") AND
        DAYS_OF("rollup_alias_latency") AND DAYS_OF("rollup_by") ") ORDER BY 1";
#undef DAYS_OF
#undef AND
    return list_months(d, c, sql, u, e);
}
