/* ledger_rebuild: rollups anew from the raw rows, and tables of an older version brought to this one's shape.
 *
 *     ledger_upgrade (at each opening): columns and an index that a month's table lacks --> rollups older than LEDGER_ROLLUPS? --yes--> ledger_rebuild
 *     ledger_rebuild: per month [one transaction: DELETE its buckets, walk its rows, write their sums] --> a repair: sums of budgets --> meta 'rollups'
 *
 * A month whose rows retention has removed keeps its sums, also where rows came for it later: those are in them already. One that has sums and never had
 * rows loses them, as a repair.
 *
 * Tables of raw rows are made on demand, so no migration can name them; and what a migration adds to the rollups only the rows can say. A month
 * is all or nothing, and doing it again gives the same, so a kill between costs time only. Rows are walked on the writer's own connection, so it may be done
 * while requests run (but for budgets, whose sums a running gateway has in memory), which wait for it: what the group's jobs before it counted is in the rollups that are thrown away, and in the rows. Archived
 * rows are read through a reader; they don't change. Blocks; before traffic, or as a repair. */
#include "base/arena.h"
#include "base/clock.h"
#include "base/log.h"
#include "gateway/ledger/ledger_internal.h"
#include "gateway/ledger/ledger_sums.h"
#include <stdlib.h>

#define LEDGER_ROLLUPS 4 /* the version of what a row counts in; higher: they are made anew at the next start */
#define READ_MS 30000
#define LIST_MS 600000 /* reads all rollups */
#define BATCH 4096
#define BATCH_BYTES (BATCH * 4096) /* of the texts of a batch: model and names are bounded far below */

/* --- columns --- */

static int exec(sqlite3 *c, const char *sql, struct err *e)
{
    return sqlite3_exec(c, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_error(c, "usage table", e);
}

static int add_columns(struct ledger *l, sqlite3 *c, const struct month *m, struct err *e)
{
    sqlite3_stmt *st = db_stmt(l->db, c, m->columns, e);
    if (!st || db_row(st, e) != 1) return -1;
    bool alias = sqlite3_column_int(st, 0), load = sqlite3_column_int(st, 1);
    sqlite3_reset(st);
    return (alias ? 0 : exec(c, m->add_alias, e)) || (load ? 0 : exec(c, m->add_load, e)) || ledger_make_index(l->db, c, m, e) ? -1 : 0;
}

static int shape(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d;
    struct ledger *l = u;
    struct month *months[LEDGER_MONTHS_MAX];
    int n;
    if (ledger_months(l, c, months, &n, e)) return -1;
    for (int i = 0; i < n; i++)
        if (add_columns(l, c, months[i], e)) return -1;
    return 0;
}

/* --- a month's rows --- */

struct batch {
    struct arena *a;
    struct sums *s;
    int64_t minutes_from, hours_from, bad_from;
    struct usage_row row[BATCH];
    int n;
};

static int keep(struct batch *b, const struct usage_row *r, struct err *e)
{
    struct usage_row *k = &b->row[b->n];
    const char *const from[] = {r->id, r->tenant, r->key, r->base, r->adapter, r->model, r->alias, r->endpoint, r->adjusts};
    const char **const to[] = {&k->id, &k->tenant, &k->key, &k->base, &k->adapter, &k->model, &k->alias, &k->endpoint, &k->adjusts};
    *k = *r;
    for (size_t i = 0; i < sizeof from / sizeof *from; i++)
        if (from[i] && !(*to[i] = arena_strdup(b->a, from[i]))) return err_set(e, ERR_NO_MEMORY, "no memory for %d usage rows", BATCH);
    b->n++;
    return 0;
}

static int see(void *u, const struct usage_row *r, struct err *e)
{
    struct batch *b = u;
    if (keep(b, r, e)) return -1;
    sums_add(b->s, &b->row[b->n - 1]);
    return 0;
}

static int begin_batch(struct batch *b, struct err *e)
{
    b->n = 0;
    b->a = arena_new(BATCH_BYTES);
    b->s = sums_new(BATCH, b->minutes_from, b->hours_from, b->bad_from);
    return b->a && b->s ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for %d usage rows", BATCH);
}

static void end_batch(struct batch *b)
{
    sums_free(b->s);
    arena_free(b->a);
    b->s = NULL;
    b->a = NULL;
}

/* --- a month --- */

struct rebuild {
    struct ledger *l;
    int yyyymm;
    int64_t rows;
    struct batch b;
};

static int clear(struct rebuild *x, sqlite3 *c, struct err *e)
{
#define CLEAR(table) "DELETE FROM " table " WHERE t >= ?1 AND t < ?2"
    static const char *const sql[] = {CLEAR("rollup_minute"),  CLEAR("rollup_hour"),  CLEAR("rollup_day"),          CLEAR("rollup_adapter"),
                                      CLEAR("rollup_latency"), CLEAR("rollup_alias"), CLEAR("rollup_alias_latency"),
                                      CLEAR("rollup_by"),      "DELETE FROM usage_bad WHERE month = ?3"};
#undef CLEAR
    for (size_t i = 0; i < sizeof sql / sizeof *sql; i++) {
        sqlite3_stmt *st = db_stmt(x->l->db, c, sql[i], e);
        bool month = st && sqlite3_bind_parameter_count(st) > 2;
        if (!st || db_bind(st, e, month ? "iii" : "ii", month_start(x->yyyymm), month_start(month_after(x->yyyymm)), (int64_t)x->yyyymm) ||
            db_done(st, e))
            return -1;
    }
    return 0;
}

static int run_month(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct rebuild *x = u;
    struct rows_query q = {.start = month_start(x->yyyymm), .end = month_start(month_after(x->yyyymm)), .all = true};
    struct rows_cursor at = {0};
    bool more = true;
    int lost = ledger_lost_rows(x->l, c, x->yyyymm, e), rc = lost ? lost < 0 ? -1 : 0 : clear(x, c, e) || sums_count_past(d, c, e) ? -1 : 0;
    if (lost) return rc; /* only its sums know of those: they stay as they are */
    while (rc == 0 && more) {
        rc = begin_batch(&x->b, e);
        if (rc == 0) rc = ledger_rows_on(x->l, c, &q, &at, BATCH, see, &x->b, &more, e);
        if (rc == 0) rc = sums_write(x->b.s, d, c, e);
        x->rows += x->b.n;
        end_batch(&x->b);
    }
    return rc;
}

static int run_mark(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "INSERT INTO meta(name, value) VALUES('rollups', ?1) ON CONFLICT DO UPDATE SET value = excluded.value";
    (void)u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return st && db_bind(st, e, "i", (int64_t)LEDGER_ROLLUPS) == 0 ? db_done(st, e) : -1;
}

static int each_month(struct rebuild *x, bool repair, struct err *e)
{
    struct month_list list;
    if (repair ? db_read_alone(x->l->db, ledger_list_summed_months, &list, LIST_MS, e) : db_read(x->l->db, ledger_list_months, &list, READ_MS, e)) return -1;
    for (int i = 0; i < list.n; i++) {
        x->yyyymm = list.yyyymm[i];
        if (db_write_wait(x->l->db, run_month, x, e)) return -1;
    }
    if (repair && db_write_wait(x->l->db, ledger_repair_budgets, NULL, e)) return -1;
    return db_write_wait(x->l->db, run_mark, NULL, e);
}

/* A repair takes away sums of months that have no rows, too, and makes those of budgets anew; an upgrade, which nobody asked for, leaves those. */
static int rebuild(struct ledger *l, bool repair, int64_t *rows, struct err *e)
{
    int64_t began = clock_mono_us(), now = clock_wall_us() / 1000000;
    struct rebuild *x = calloc(1, sizeof *x);
    if (!x) return err_set(e, ERR_NO_MEMORY, "no memory to make the rollups anew");
    x->l = l;
    x->b.minutes_from = (now - SUMS_MINUTES_KEPT_S) / 3600 * 3600;
    x->b.hours_from = (now - SUMS_HOURS_KEPT_S) / 86400 * 86400;
    x->b.bad_from = (now - SUMS_BAD_KEPT_S) / 86400 * 86400;
    int rc = each_month(x, repair, e);
    if (rc == 0) *rows = x->rows;
    if (rc == 0 && x->rows) log_info("rollups_made", LI("rows", x->rows), LI("ms", (clock_mono_us() - began) / 1000));
    free(x);
    return rc;
}

int ledger_rebuild(struct ledger *l, int64_t *rows, struct err *e) { return rebuild(l, true, rows, e); }

static int read_version(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT value FROM meta WHERE name = 'rollups'";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st ? db_row(st, e) : -1;
    *(int64_t *)u = rc == 1 ? sqlite3_column_int64(st, 0) : 0;
    sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

int ledger_upgrade(struct ledger *l, struct err *e)
{
    int64_t version = 0, rows;
    if (db_write_wait(l->db, shape, l, e) || db_read(l->db, read_version, &version, READ_MS, e)) return -1;
    return version < LEDGER_ROLLUPS ? rebuild(l, false, &rows, e) : 0;
}
