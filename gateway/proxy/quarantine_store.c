/* Refused requests as rows.
 *
 *     found guilty -> put, in the transaction of its event --its time is over, or lifted--> gone
 *                      `--start of the gateway--> read: refused as before, until the same moment of the day
 *
 * Without it a gateway that is started anew, perhaps for the very engines that went down, would let the client's next try take two more with it. What is
 * only suspected is in no row: it costs a restart one crash to learn that again, and most of what is suspected is innocent.
 *
 * The writer's jobs; quarantine_rows_read() on the thread that starts. */
#include "gateway/proxy/quarantine_store.h"
#include "base/clock.h"
#include <stdio.h>

#define READ_MS 60000

static int drop_over(struct db *d, sqlite3 *c, int64_t wall, struct err *e)
{
    static const char over[] = "DELETE FROM quarantine WHERE until <= ?1";
    static const char beyond[] = "DELETE FROM quarantine WHERE request IN (SELECT request FROM quarantine ORDER BY since DESC, request LIMIT -1 OFFSET ?1)";
    sqlite3_stmt *st = db_stmt(d, c, over, e);
    if (!st || db_bind(st, e, "i", wall) || db_done(st, e)) return -1;
    st = db_stmt(d, c, beyond, e);
    return !st || db_bind(st, e, "i", (int64_t)BLAME_NAMES) || db_done(st, e) ? -1 : 0;
}

int quarantine_row_put(struct db *d, sqlite3 *c, const struct blame_refused *r, struct err *e)
{
    static const char sql[] = "INSERT INTO quarantine(request, tenant, model, adapter, version, crashes, since, until) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
                              " ON CONFLICT(request) DO UPDATE SET crashes = ?6, since = ?7, until = ?8";
    int64_t wall = clock_wall_us(), before = wall - clock_mono_us();
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ssssiiii", r->who.request, r->who.tenant, r->who.model, r->who.adapter, (int64_t)r->who.version, (int64_t)r->crashes,
                       r->since_us + before, r->until_us + before) ||
        db_done(st, e))
        return -1;
    return drop_over(d, c, wall, e);
}

int quarantine_row_drop(struct db *d, sqlite3 *c, const char *id, struct err *e)
{
    static const char sql[] = "DELETE FROM quarantine WHERE substr(request, 1, 32) = ?1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return !st || db_bind(st, e, "s", id) || db_done(st, e) ? -1 : 0;
}

static void take(struct blame_refused *r, sqlite3_stmt *st, int64_t before)
{
    *r = (struct blame_refused){.crashes = sqlite3_column_int(st, 6), .since_us = sqlite3_column_int64(st, 7) - before, .until_us = sqlite3_column_int64(st, 8) - before};
    snprintf(r->who.request, sizeof r->who.request, "%s", db_text(st, 0));
    snprintf(r->who.tenant, sizeof r->who.tenant, "%s", db_text(st, 1));
    snprintf(r->who.tenant_name, sizeof r->who.tenant_name, "%s", db_text(st, 2));
    snprintf(r->who.model, sizeof r->who.model, "%s", db_text(st, 3));
    snprintf(r->who.adapter, sizeof r->who.adapter, "%s", db_text(st, 4));
    r->who.version = sqlite3_column_int(st, 5);
}

static int read_rows(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT q.request, q.tenant, t.name, q.model, q.adapter, q.version, q.crashes, q.since, q.until FROM quarantine q"
                              " JOIN tenant t ON t.id = q.tenant WHERE q.until > ?1 ORDER BY q.since";
    int64_t wall = clock_wall_us(), before = wall - clock_mono_us();
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    struct blame_refused r;
    int rc;
    if (!st || db_bind(st, e, "i", wall)) return -1;
    while ((rc = db_row(st, e)) == 1) {
        take(&r, st, before);
        blame_restore(u, &r);
    }
    return rc;
}

int quarantine_rows_read(struct db *d, struct blame *b, struct err *e)
{
    return db_read(d, read_rows, b, READ_MS, e);
}
