/* GET /admin/v1/ledger/health: is usage recorded, closed, checked, kept and passed on as it should be. Counts of the process,
 * the newest verification, months and where they stand, how far webhooks and scheduled exports lag behind, and the engines'
 * own counters beside what was settled of them.
 *
 * Cheap: no count of usage rows; whoever wants the books compared asks for GET /admin/v1/ledger?verify=1, which writes what
 * `last_verify` shows. On database threads. */
#include "base/clock.h"
#include "gateway/backup/upkeep.h"
#include "gateway/ledger/ledger_rows.h"
#include "gateway/live/live_api.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MONTHS_MAX 1200
#define LAG_MAX 100000 /* counted so far; more is this many */
#define PATH_LEN 1400

struct health {
    json_t *o;
    int64_t now_s;
};

/* Rows of one query, each made by print(), as a member of the answer. */
struct part {
    const char *name, *sql;
    json_t *(*print)(sqlite3_stmt *st);
    bool one; /* one row or null, no list */
};

static json_t *int_or_null(sqlite3_stmt *st, int column)
{
    return sqlite3_column_type(st, column) == SQLITE_NULL ? json_null() : json_integer(sqlite3_column_int64(st, column));
}

static json_t *verify_json(sqlite3_stmt *st)
{
    return json_pack("{sI sI sI sf}", "t", (json_int_t)(sqlite3_column_int64(st, 0) / 1000000), "rows",
                     (json_int_t)sqlite3_column_int64(st, 1), "bad", (json_int_t)sqlite3_column_int64(st, 2), "took_ms",
                     (double)sqlite3_column_int64(st, 3) / 1000);
}

static json_t *month_json(sqlite3_stmt *st)
{
    int month = sqlite3_column_int(st, 0);
    return json_pack("{so so ss}", "month", json_sprintf("%04d-%02d", month / 100, month % 100), "rows",
                     int_or_null(st, 1), "place", db_text(st, 2));
}

static json_t *webhook_json(sqlite3_stmt *st)
{
    return json_pack("{ss so sI ss}", "name", db_text(st, 0), "tenant",
                     *db_text(st, 1) ? json_string(db_text(st, 1)) : json_null(), "lag",
                     (json_int_t)sqlite3_column_int64(st, 2), "state", db_text(st, 3));
}

static json_t *schedule_json(sqlite3_stmt *st)
{
    return json_pack("{ss sI ss ss}", "name", db_text(st, 0), "behind_s", (json_int_t)sqlite3_column_int64(st, 1),
                     "last_error", db_text(st, 2), "state", db_text(st, 3));
}

static json_t *number_json(sqlite3_stmt *st)
{
    return int_or_null(st, 0);
}

/* ?1: now, Unix seconds. Ids of admissions begin with their time, so the first is the oldest. */
static const struct part parts[] = {
    {"oldest_admission_s", "SELECT max(?1 - t_start / 1000000, 0) FROM admission ORDER BY id LIMIT 1", number_json, true},
    {"last_verify", "SELECT t, rows, bad, took_us FROM verified WHERE ?1 ORDER BY t DESC LIMIT 1", verify_json, true},
    {"months",
     "WITH here AS (SELECT CAST(substr(name, 7) AS INTEGER) month FROM sqlite_schema WHERE type = 'table' AND name GLOB"
     " 'usage_[0-9][0-9][0-9][0-9][0-9][0-9]'), gone AS (SELECT month, rows FROM archive WHERE removed IS NULL)"
     " SELECT month, gone.rows, CASE WHEN gone.rows IS NULL THEN 'database' WHEN here.month IS NULL THEN 'archive' ELSE 'both' END"
     " FROM (SELECT month FROM here UNION SELECT month FROM gone) LEFT JOIN here USING(month) LEFT JOIN gone USING(month)"
     " WHERE ?1 ORDER BY month DESC",
     month_json, false},
    {"webhooks",
     "SELECT w.name, coalesce(t.name, w.tenant), iif(w.usage, (SELECT count(*) FROM (SELECT 1 FROM outbox o WHERE o.seq >"
     " w.usage_seq AND w.tenant IN ('', o.tenant) LIMIT 100000)), 0), w.state FROM webhook w LEFT JOIN tenant t ON t.id = w.tenant"
     " WHERE ?1 ORDER BY w.tenant, w.name",
     webhook_json, false},
    {"schedules",
     "SELECT name, max(0, ?1 - CASE every WHEN 'hour' THEN done_until + 3600 WHEN 'day' THEN done_until + 86400 ELSE"
     " CAST(strftime('%s', done_until, 'unixepoch', '+1 month') AS INTEGER) END), last_error, state FROM export_schedule ORDER BY name",
     schedule_json, false},
};

static int read_part(struct db *d, sqlite3 *c, const struct part *p, struct health *x, struct err *e)
{
    sqlite3_stmt *st = db_stmt(d, c, p->sql, e);
    if (!st || db_bind(st, e, "i", x->now_s)) return -1;
    json_t *list = json_array();
    int rc, n = 0;
    while ((rc = db_row(st, e)) == 1 && n++ < MONTHS_MAX) json_array_append_new(list, p->print(st));
    sqlite3_reset(st);
    json_t *first = json_array_get(list, 0);
    json_object_set_new(x->o, p->name, !p->one ? json_incref(list) : first ? json_incref(first) : json_null());
    json_decref(list);
    return rc < 0 ? -1 : 0;
}

static int read_health(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (read_part(d, c, &parts[i], u, e)) return -1;
    return 0;
}

static int64_t size_of(struct db *d, const char *suffix)
{
    char path[PATH_LEN];
    struct stat s;
    snprintf(path, sizeof path, "%s/" DB_FILE "%s", db_dir(d), suffix);
    return stat(path, &s) == 0 ? (int64_t)s.st_size : 0;
}

static json_t *backups_json(int64_t last, int64_t now_s)
{
    return last ? json_pack("{sI sI}", "last", (json_int_t)last, "age_s", (json_int_t)(now_s > last ? now_s - last : 0)) : json_null();
}

static json_t *held_json(struct gateway *g)
{
    struct limit_held h = limit_all_held(g->limits);
    return json_pack("{sI sI sI}", "places", (json_int_t)h.places, "tokens", (json_int_t)h.tokens, "cost_nano", (json_int_t)h.cost);
}

/* Null while the ledger can't say. */
static json_t *final_before(struct gateway *g)
{
    char id[UUID_LEN];
    int64_t wall_us;
    if (ledger_final_before(g->ledger, id, &wall_us, NULL)) return json_null();
    return json_integer(wall_us / 1000000);
}

static int fill(struct gateway *g, struct health *x, struct err *e)
{
    json_t *now = json_pack(
        "{ss sI sI si sb sI sI so sI sI so so so}", "object", "ledger.health", "time", (json_int_t)x->now_s, "open_admissions",
        (json_int_t)ledger_open_admissions(g->ledger), "queue", db_queue_len(g->db), "writable", db_writable(g->db),
        "settled", (json_int_t)ledger_settled(g->ledger), "retried", (json_int_t)ledger_retried(g->ledger),
        "final_before", final_before(g), "database_bytes", (json_int_t)size_of(g->db, ""), "wal_bytes",
        (json_int_t)size_of(g->db, "-wal"), "engines", pool_tally(g->pool), "held", held_json(g), "backups", backups_json(upkeep_last_backup(g->upkeep), x->now_s));
    int rc = !now || json_object_update(x->o, now) ? err_set(e, ERR_NO_MEMORY, "no memory for the answer") : 0;
    json_decref(now);
    return rc ? -1 : db_read(g->db, read_health, x, LIVE_READ_MS, e);
}

void ledger_health_get(struct http_request *r)
{
    struct err e = {0};
    struct health x = {json_object(), clock_wall_us() / 1000000};
    int rc = admin_query_none(r, &e) || fill(admin_gateway(r), &x, &e);
    live_answer(r, rc, x.o, &e);
}
