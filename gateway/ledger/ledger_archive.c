/* ledger_archive: a closed month's rows move from their table into a file, without a moment in which they are nowhere, or twice, and without holding the
 * writer for longer than a request may wait.
 *
 *     usage_M --copy--> M.db.tmp --check, fsync, rename--> M.db --one transaction: a row in `archive`, usage_M renamed gone_M--> archived
 *                                                                                  gone_M --slices of DELETE--> empty --DROP--> (nothing)
 *
 * Until the transaction the table counts, from it on the file: readers see the one or the other, in their snapshot. Rows that were settled into
 * the month after the copy began show in month.added, which only the writer moves, so the transaction itself finds out and lets the next pass
 * do it again. A kill leaves one of: a .tmp (made anew), a file without a row (made anew), a gone_M (compared with its file, then emptied).
 *
 * A DROP of a large table walks all its pages inside one transaction, seconds for ten million rows. So gone_M is emptied by jobs of the writer
 * that are as long as SLICE_GOAL_US allows, found by measuring each; what a slice will touch is read before, on this thread, so that the writer
 * finds it in the system's cache; and between two slices the writer rests. The freed pages take the next months' rows.
 *
 * A month that is archived and gets rows again (a settlement after a crash) is archived again, with the file's rows and the new ones. They may come
 * while gone_M is there, even in the transaction that made it: usage_M is made anew, beside it.
 * Called by one thread (upkeep.c); jobs run on the writer's. */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/ledger/archive_file.h"
#include "gateway/ledger/ledger_internal.h"
#include "gateway/live/event.h"
#include "gateway/registry/files.h"
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define READ_MS 30000
#define SLICE_FIRST 500
#define SLICE_MIN 20
#define SLICE_MAX 20000
#define SLICE_GOAL_US 4000 /* of the writer's time */
#define REST_MIN_US 2000
#define JOB_TRIES 5
#define MAKE_TRIES 3 /* where rows came meanwhile */
#define JOB_WAIT_MS 200
#define SQL_MAX 400

struct pass {
    struct ledger *l;
    const struct archive_options *o;
    struct archive_pass *out;
    char database[DB_PATH_LEN];
};

static bool pass_is_over(const struct pass *p) { return p->o->stop && p->o->stop(p->o->user); }

static void rest_us(int64_t us) { nanosleep(&(struct timespec){.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000}, NULL); }

/* The month that lies `n` before that of a time. */
static int months_before(int64_t wall_us, int n)
{
    int now = month_of(wall_us), months = now / 100 * 12 + now % 100 - 1 - n;
    return months / 12 * 100 + months % 12 + 1;
}

/* --- a job of the writer, waited for --- */

struct job {
    struct pass *p;
    struct month *m;
    int (*run)(struct job *j, sqlite3 *c, struct err *e);
    int64_t rows, bytes, t; /* what `run` is given */
    int64_t added;          /* of the month, when it was last looked at after a commit */
    char sha256[SHA256_HEX];
    int limit, changed;
    bool waits;
    int64_t took_us;

    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool over;
    struct err err;
};

/* Nothing: its done() sees what is committed. A count that is read elsewhere may hold rows that no snapshot has yet. */
static int run_look(struct job *j, sqlite3 *c, struct err *e)
{
    (void)j, (void)c, (void)e;
    return 0;
}

static int job_run(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct job *j = u;
    (void)d;
    int64_t began = clock_mono_us();
    int rc = j->run(j, c, e);
    j->took_us = clock_mono_us() - began;
    return rc;
}

/* On the writer thread, after the done() of those that settled before: what they say of the month's table is put right here. */
static void job_done(void *u, const struct err *e)
{
    struct job *j = u;
    j->m->made = false;
    if (j->run == run_look) j->added = j->m->added;
    pthread_mutex_lock(&j->lock);
    if (e) j->err = *e;
    j->over = true;
    pthread_cond_signal(&j->wake);
    pthread_mutex_unlock(&j->lock);
}

/* Durable: where settlements wait for the disk, this does too, and keeps its place among them. */
static int do_once(struct job *j, struct err *e)
{
    j->over = false;
    j->err = (struct err){0};
    if (db_write(j->p->l->db, &(struct db_job){.run = job_run, .done = job_done, .user = j, .durable = true}, e)) return -1;
    pthread_mutex_lock(&j->lock);
    while (!j->over) pthread_cond_wait(&j->wake, &j->lock);
    pthread_mutex_unlock(&j->lock);
    if (j->took_us > j->p->out->slowest_us) j->p->out->slowest_us = j->took_us;
    if (!j->err.code) return 0;
    if (e) *e = j->err;
    return -1;
}

/* The disk may refuse for a while, and a statement of the same group may hold the schema: tried again, but for what `run` itself refuses. */
static int do_job(struct job *j, struct err *e)
{
    struct err why = {0};
    pthread_mutex_init(&j->lock, NULL);
    pthread_cond_init(&j->wake, NULL);
    int rc = -1;
    for (int i = 0; i < JOB_TRIES && rc; i++) {
        if (i) rest_us(JOB_WAIT_MS * 1000);
        why = (struct err){0};
        rc = do_once(j, &why);
        if (why.code == ERR_CONFLICT || pass_is_over(j->p)) break;
    }
    pthread_mutex_destroy(&j->lock);
    pthread_cond_destroy(&j->wake);
    return rc ? err_set(e, why.code, "%s", why.msg) : 0;
}

/* Names of tables can't be bound: patterns of ours and a checked number. One use each, so not kept by db_stmt(). */
static sqlite3_stmt *prepare(sqlite3 *c, const char *pattern, int yyyymm, struct err *e)
{
    char sql[SQL_MAX];
    sqlite3_stmt *st = NULL;
    snprintf(sql, sizeof sql, pattern, yyyymm);
    if (sqlite3_prepare_v2(c, sql, -1, &st, NULL) != SQLITE_OK) db_error(c, "archive", e);
    return st;
}

static int exec(sqlite3 *c, const char *pattern, int yyyymm, struct err *e)
{
    sqlite3_stmt *st = prepare(c, pattern, yyyymm, e);
    int rc = st ? db_done(st, e) : -1;
    sqlite3_finalize(st);
    return rc;
}

/* --- out of sight --- */

static int run_switch(struct job *j, sqlite3 *c, struct err *e)
{
    static const char note[] = "INSERT INTO archive(month, rows, bytes, sha256, made, dropped, removed) VALUES(?1, ?2, ?3, ?4, ?5, ?5, NULL)"
                               " ON CONFLICT DO UPDATE SET rows = excluded.rows, bytes = excluded.bytes, sha256 = excluded.sha256,"
                               " made = excluded.made, dropped = excluded.dropped, removed = NULL";
    if (j->m->added != j->added) return err_set(e, ERR_CONFLICT, "rows came for %06d while it was archived", j->m->yyyymm);
    if (exec(c, "ALTER TABLE usage_%1$06d RENAME TO gone_%1$06d", j->m->yyyymm, e)) return -1;
    j->m->made = false; /* now: a settlement of the same group may come after this, and makes it anew */
    sqlite3_stmt *st = db_stmt(j->p->l->db, c, note, e);
    if (!st || db_bind(st, e, "iiisi", (int64_t)j->m->yyyymm, j->rows, j->bytes, j->sha256, j->t)) return -1;
    return db_done(st, e);
}

/* --- away --- */

static int run_empty(struct job *j, sqlite3 *c, struct err *e)
{
    sqlite3_stmt *st = prepare(c, "DELETE FROM gone_%1$06d WHERE id IN (SELECT id FROM gone_%1$06d ORDER BY id LIMIT ?1)", j->m->yyyymm, e);
    int rc = st && db_bind(st, e, "i", (int64_t)j->limit) == 0 ? db_done(st, e) : -1;
    j->changed = rc == 0 ? sqlite3_changes(c) : 0;
    sqlite3_finalize(st);
    return rc;
}

static int run_drop(struct job *j, sqlite3 *c, struct err *e) { return exec(c, "DROP TABLE gone_%1$06d", j->m->yyyymm, e); }

/* Reads the pages of table and index that the next slice will change. Best effort. */
static int warm(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct job *j = u;
    (void)d;
#define WARM(index) \
    "SELECT count(*) FROM (SELECT tenant, id, engine FROM gone_%1$06d ORDER BY id LIMIT ?1) a CROSS JOIN gone_%1$06d b INDEXED BY" \
    " usage_%1$06d_tenant" index " ON b.tenant = a.tenant AND b.id = a.id"
    sqlite3_stmt *st = prepare(c, WARM(""), j->m->yyyymm, NULL); /* which of its two names it has */
    if (!st) st = prepare(c, WARM("_2"), j->m->yyyymm, e);
#undef WARM
    int rc = st && db_bind(st, e, "i", (int64_t)j->limit) == 0 ? db_done(st, e) : -1;
    sqlite3_finalize(st);
    return rc;
}

static int next_limit(const struct job *j)
{
    int64_t n = j->took_us > 0 ? (int64_t)j->limit * SLICE_GOAL_US / j->took_us : SLICE_MAX;
    if (n > 2 * j->limit) n = 2 * j->limit;
    return n < SLICE_MIN ? SLICE_MIN : n > SLICE_MAX ? SLICE_MAX : (int)n;
}

static int empty(struct pass *p, struct month *m, struct err *e)
{
    struct job j = {.p = p, .m = m, .run = run_empty, .limit = SLICE_FIRST, .changed = 1};
    while (j.changed > 0) {
        if (pass_is_over(p)) return err_set(e, ERR_UNAVAILABLE, "stopped before it was done");
        db_read(p->l->db, warm, &j, READ_MS, NULL);
        if (do_job(&j, e)) return -1;
        j.limit = next_limit(&j);
        rest_us(2 * j.took_us > REST_MIN_US ? 2 * j.took_us : REST_MIN_US);
    }
    j.run = run_drop;
    return do_job(&j, e);
}

/* --- a month --- */

struct filed {
    int month;
    int64_t rows; /* -1: no file counts */
};

static int read_filed(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT rows FROM archive WHERE month = ?1 AND removed IS NULL";
    struct filed *x = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st && db_bind(st, e, "i", (int64_t)x->month) == 0 ? db_row(st, e) : -1;
    x->rows = rc == 1 ? sqlite3_column_int64(st, 0) : -1;
    return rc < 0 ? -1 : 0;
}

static struct archive_file file_of(const struct pass *p, const struct month *m, const char *path, const char *before, const char *table)
{
    return (struct archive_file){.database = p->database, .path = path, .before = before, .table = table, .yyyymm = m->yyyymm,
                                 .stop = p->o->stop, .user = p->o->user};
}

static int publish(const struct pass *p, const char *fresh, const char *path, struct err *e)
{
    char folder[DB_PATH_LEN];
    snprintf(folder, sizeof folder, "%s/archive", db_dir(p->l->db));
    return rename(fresh, path) ? err_errno(e, "%s", path) : files_sync_folder(folder, e);
}

static int make(struct pass *p, struct month *m, struct job *j, struct err *e)
{
    char path[DB_PATH_LEN], fresh[DB_PATH_LEN + 8];
    struct filed filed = {m->yyyymm, -1};
    if (db_read(p->l->db, read_filed, &filed, READ_MS, e)) return -1;
    ledger_archive_path(p->l, m->yyyymm, path);
    snprintf(fresh, sizeof fresh, "%s.tmp", path);
    struct archive_file f = file_of(p, m, fresh, filed.rows >= 0 ? path : NULL, "usage");
    if (archive_file_make(&f, e) || archive_file_check(&f, true, &j->rows, e) || archive_file_digest(&f, &j->bytes, j->sha256, e) ||
        publish(p, fresh, path, e)) {
        unlink(fresh);
        return -1;
    }
    return 0;
}

static int make_and_switch(struct pass *p, struct month *m, struct job *j, struct err *e)
{
    *j = (struct job){.p = p, .m = m, .run = run_look, .t = p->o->now_us};
    if (do_job(j, e) || make(p, m, j, e)) return -1;
    j->run = run_switch;
    return do_job(j, e);
}

static int archive_month(struct pass *p, struct month *m, struct err *e)
{
    int64_t began = clock_mono_us();
    struct err why = {.code = ERR_CONFLICT};
    struct job j;
    for (int i = 0; i < MAKE_TRIES && why.code == ERR_CONFLICT; i++) {
        why = (struct err){0};
        make_and_switch(p, m, &j, &why);
    }
    if (why.code) return err_set(e, why.code, "%s", why.msg);
    p->out->archived++;
    p->out->rows += j.rows;
    log_info("month_archived", LI("month", m->yyyymm), LI("rows", j.rows), LI("bytes", j.bytes), LI("ms", (clock_mono_us() - began) / 1000));
    return empty(p, m, e);
}

/* A stop or a kill came while it was emptied: what is left must be in the file. */
static int finish_month(struct pass *p, struct month *m, struct err *e)
{
    char path[DB_PATH_LEN];
    int64_t rows;
    ledger_archive_path(p->l, m->yyyymm, path);
    struct archive_file f = file_of(p, m, path, NULL, "gone");
    return archive_file_check(&f, false, &rows, e) ? -1 : empty(p, m, e);
}

/* --- a pass --- */

struct months {
    const char *sql;
    int last;
    int list[LEDGER_MONTHS_MAX], n;
};

static int read_months(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct months *x = u;
    sqlite3_stmt *st = db_stmt(d, c, x->sql, e);
    int rc = st && db_bind(st, e, "i", (int64_t)x->last) == 0 ? 1 : -1;
    for (x->n = 0; rc == 1 && x->n < LEDGER_MONTHS_MAX && (rc = db_row(st, e)) == 1; x->n++) x->list[x->n] = sqlite3_column_int(st, 0);
    return rc < 0 ? -1 : 0;
}

/* What could not be done is told once here; the operator hears of it by an event, too. */
static void tell(struct pass *p, int month, const struct err *why)
{
    char name[16];
    snprintf(name, sizeof name, "%06d", month);
    if (pass_is_over(p)) return;
    log_error("archive_failed", LI("month", month), LS("reason", why->msg));
    event_note(p->l->db, "", "archive.failed", name, json_pack("{ss}", "reason", why->msg));
}

static int each(struct pass *p, const char *sql, int last, int (*fn)(struct pass *p, struct month *m, struct err *e), struct err *e)
{
    struct months *x = calloc(1, sizeof *x);
    if (!x) return err_set(e, ERR_NO_MEMORY, "no memory for a list of months");
    x->sql = sql;
    x->last = last;
    int rc = db_read(p->l->db, read_months, x, READ_MS, e);
    for (int i = 0; rc == 0 && i < x->n && !pass_is_over(p); i++) {
        struct err why = {0};
        struct month *m = ledger_month_by_number(p->l, x->list[i], &why);
        if (m && fn(p, m, &why) == 0) continue;
        tell(p, x->list[i], &why);
        err_set(e, why.code, "%s", why.msg);
    }
    free(x);
    return rc;
}

/* What stands of rows beside the months' tables, walked once a month at most. */
static int run_remove_beside(struct db *d, sqlite3 *c, int64_t month, struct err *e)
{
    static const char policies[] = "DELETE FROM usage_policy WHERE month = ?1", feedback[] = "DELETE FROM feedback WHERE month = ?1",
                      routes[] = "DELETE FROM usage_route WHERE month = ?1", judges[] = "DELETE FROM usage_judge WHERE month = ?1";
    const char *const tables[] = {policies, feedback, routes, judges};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        sqlite3_stmt *st = db_stmt(d, c, tables[i], e);
        if (!st || db_bind(st, e, "i", month) || db_done(st, e)) return -1;
    }
    return 0;
}

/* A request of the month that is open still will be a row of it: the month waits for that. */
static int run_remove(struct job *j, sqlite3 *c, struct err *e)
{
    static const char open[] = "SELECT 1 FROM admission WHERE t_start >= ?1 AND t_start < ?2 LIMIT 1";
    static const char sql[] = "UPDATE archive SET removed = ?2, lost = lost + rows WHERE month = ?1 AND removed IS NULL";
    struct db *d = j->p->l->db;
    sqlite3_stmt *st = db_stmt(d, c, open, e);
    if (!st || db_bind(st, e, "ii", month_start(j->m->yyyymm) * 1000000, month_start(month_after(j->m->yyyymm)) * 1000000)) return -1;
    int rc = db_row(st, e);
    sqlite3_reset(st);
    j->waits = rc == 1;
    if (rc) return rc < 0 ? -1 : 0;
    st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ii", (int64_t)j->m->yyyymm, j->t) || db_done(st, e)) return -1;
    return run_remove_beside(d, c, j->m->yyyymm, e);
}

/* First no longer counted, then gone: a kill between leaves a file that the next pass takes. */
static int remove_month(struct pass *p, struct month *m, struct err *e)
{
    char path[DB_PATH_LEN];
    struct job j = {.p = p, .m = m, .run = run_remove, .t = p->o->now_us};
    ledger_archive_path(p->l, m->yyyymm, path);
    if (access(path, F_OK) && errno == ENOENT) return 0;
    if (do_job(&j, e)) return -1;
    if (j.waits) return 0;
    if (unlink(path) && errno != ENOENT) return err_errno(e, "%s", path);
    p->out->removed++;
    log_info("month_removed", LI("month", m->yyyymm));
    return 0;
}

int ledger_archive(struct ledger *l, const struct archive_options *o, struct archive_pass *out, struct err *e)
{
#define TABLES(stem) \
    "SELECT CAST(substr(name, length('" stem "_') + 1) AS INTEGER) m FROM sqlite_schema WHERE type = 'table' AND name GLOB '" stem \
    "_[0-9][0-9][0-9][0-9][0-9][0-9]' AND m <= ?1 ORDER BY m"
    static const char gone[] = TABLES("gone"), due[] = TABLES("usage");
    static const char old[] = "SELECT month FROM archive WHERE month < ?1 ORDER BY month";
#undef TABLES
    struct err why = {0};
    *out = (struct archive_pass){0};
    struct pass p = {.l = l, .o = o, .out = out};
    snprintf(p.database, sizeof p.database, "%s/" DB_FILE, db_dir(l->db));
    int rc = each(&p, gone, 999912, finish_month, &why);
    if (rc == 0 && !pass_is_over(&p)) rc = each(&p, due, months_before(o->now_us, o->months + 1), archive_month, &why);
    if (rc == 0 && o->keep_months && !pass_is_over(&p)) rc = each(&p, old, months_before(o->now_us, o->keep_months), remove_month, &why);
    if (pass_is_over(&p)) err_set(&why, ERR_UNAVAILABLE, "stopped before it was done");
    return why.code ? err_set(e, why.code, "%s", why.msg) : 0;
}
