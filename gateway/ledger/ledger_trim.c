/* ledger_trim: rollups leave when their time is over: minutes after a week, hours after 400 days, the index of what did not complete after 40.
 *
 *     a settlement in a new hour --> [job: TRIM_ROWS of each table] --some left--> [job again] ... --none--> until the next hour
 *
 * Tables begin with the tenant, so a tenant's oldest rows are the front of a range: tenants are found by skipping from one to the next in the
 * primary key ('' and tenants that nobody knows any more, too), and nothing of what stays is read. In slices, so that no settlement waits for
 * a whole hour of a thousand tenants. Jobs are the writer's; they are not urgent: what was refused is done an hour later. */
#include "base/clock.h"
#include "gateway/ledger/ledger_internal.h"
#include "gateway/ledger/ledger_sums.h"

#define TRIM_ROWS 2000

#define TENANTS(table) \
    "WITH RECURSIVE of(tenant) AS (SELECT min(tenant) FROM " table " UNION ALL SELECT (SELECT min(tenant) FROM " table " r WHERE r.tenant > of.tenant)" \
    " FROM of WHERE of.tenant IS NOT NULL) "
#define TRIM(table, key) \
    TENANTS(table) "DELETE FROM " table " WHERE (" key ") IN (SELECT " key " FROM of CROSS JOIN " table " USING(tenant) WHERE t < ?1 LIMIT ?2)"
static const char minute_sql[] = TRIM("rollup_minute", "tenant, t, state"), hour_sql[] = TRIM("rollup_hour", "tenant, t, state"),
                  latency_sql[] = TRIM("rollup_latency", "tenant, t, kind, bucket"), refused_sql[] = TRIM("rollup_refused", "tenant, t, scope, kind");
/* Of aliases there are few: each one's hours are walked. */
#define TRIM_ALIAS(table, key) "DELETE FROM " table " WHERE (" key ") IN (SELECT " key " FROM " table " WHERE t < ?1 LIMIT ?2)"
static const char alias_sql[] = TRIM_ALIAS("rollup_alias", "tenant, alias, t, adapter, version, state"),
                  alias_latency_sql[] = TRIM_ALIAS("rollup_alias_latency", "tenant, alias, t, adapter, version, kind, bucket");

static const struct {
    const char *sql;
    int64_t kept_s, width_s;
} tables[] = {
    {minute_sql, SUMS_MINUTES_KEPT_S, 3600},    {hour_sql, SUMS_HOURS_KEPT_S, 86400},  {latency_sql, SUMS_HOURS_KEPT_S, 86400},
    {refused_sql, SUMS_HOURS_KEPT_S, 86400},    {alias_sql, SUMS_HOURS_KEPT_S, 86400}, {alias_latency_sql, SUMS_HOURS_KEPT_S, 86400},
};

static int trim(struct db *d, sqlite3 *c, const char *sql, int64_t before, bool *full, struct err *e)
{
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ii", before, (int64_t)TRIM_ROWS) || db_done(st, e)) return -1;
    *full |= sqlite3_changes(c) >= TRIM_ROWS;
    return 0;
}

static int trim_bad(struct db *d, sqlite3 *c, int64_t now, bool *full, struct err *e)
{
    static const char sql[] = "DELETE FROM usage_bad WHERE (tenant, id) IN (SELECT tenant, id FROM usage_bad WHERE id < ?1 LIMIT ?2)";
    char before[UUID_LEN];
    usage_id_at((now - SUMS_BAD_KEPT_S) * 1000000, before);
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "si", before, (int64_t)TRIM_ROWS) || db_done(st, e)) return -1;
    *full |= sqlite3_changes(c) >= TRIM_ROWS;
    return 0;
}

static int run_trim(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct ledger *l = u;
    int64_t now = l->trimmed_hour * 3600;
    bool full = false;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        if (trim(d, c, tables[i].sql, (now - tables[i].kept_s) / tables[i].width_s * tables[i].width_s, &full, e)) return -1;
    if (trim_bad(d, c, now, &full, e)) return -1;
    l->trim_more = full;
    return 0;
}

static void trim_done(void *u, const struct err *e);

static void hand_in(struct ledger *l)
{
    l->queued++;
    if (db_write(l->db, &(struct db_job){.run = run_trim, .done = trim_done, .user = l, .reads_sums = true}, NULL)) l->queued--;
}

static void trim_done(void *u, const struct err *e)
{
    struct ledger *l = u;
    if (!e && l->trim_more && !l->closing) hand_in(l);
    l->queued--;
}

/* A clock that was set ahead takes nothing that the right one would still show: time goes on from the start by the clock that nobody sets. */
void ledger_trim(struct ledger *l, int64_t wall_us)
{
    int64_t passed = l->opened_us + clock_mono_us() - l->opened_mono_us;
    int64_t hour = (wall_us < passed ? wall_us : passed) / 3600000000ll, last = l->trimmed_hour;
    if (hour > last && atomic_compare_exchange_strong(&l->trimmed_hour, &last, hour)) hand_in(l);
}
