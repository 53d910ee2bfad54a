/* db_writer: the one thread that changes the database.
 *
 * Group commit: everything that is queued goes into one transaction, so the group grows by itself with the load and an idle writer never
 * waits for company. Each job has a savepoint; one that fails is undone alone.
 *
 *     db_write() -> ring -> [BEGIN, (SAVEPOINT, run, RELEASE) per job, what they left, COMMIT] -> done() per job -> checkpoint
 *                                                                                     `-> fsync when due, on its own thread (db_sync.c)
 *
 * Jobs may leave sums to the end of the group (db_later), where a bucket that a hundred of them count in is written once.
 *
 * Durability: commits run with synchronous=NORMAL, which in WAL mode writes and does not sync: a commit outlives the process, and
 * admissions need no more. A durable job sets a date, sync_ms away, by which the WAL is synced through SQLite's own file object; that is
 * what synchronous=FULL does after a commit, moved to where a whole burst shares it. Jobs that wait for the disk (db_write_wait,
 * ledger.ack=durable) get it at once, on the writer, and their done() after it.
 *
 *     HEALTHY --full, I/O error, no memory twice in a row, failed sync--> BROKEN --recover(): reopen, checkpoint, write, sync--> HEALTHY
 *        `----- malformed file -----> CORRUPT (stays; nothing is written or repaired any more)
 *
 * While BROKEN only urgent jobs are accepted (settlements; the ledger hands a failed one in again), a try is made every RETRY_MS, and
 * what is queued at a failed try fails with ERR_LEDGER. Checkpoints are PASSIVE, between groups, on this same connection, and keep it
 * for some milliseconds: so they wait for a moment without work until the WAL is CHECKPOINT_BUSY_PAGES longer than it need be. */
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/db/db_internal.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RETRY_MS 100
#define CHECKPOINT_PAGES 1500      /* of the WAL, 6 MB: when nothing was to do for CHECKPOINT_IDLE_MS */
#define CHECKPOINT_BUSY_PAGES 6000 /* more than these: in any case. All stays below journal_size_limit */
#define CHECKPOINT_IDLE_MS 20
#define WAL_KEPT_PAGES (CHECKPOINT_PAGES * 5 / 4) /* a file of more is cut off when nothing was to do for WAL_CUT_IDLE_MS */
#define WAL_CUT_IDLE_MS 1000

static const char sql_begin[] = "BEGIN IMMEDIATE", sql_commit[] = "COMMIT", sql_rollback[] = "ROLLBACK", sql_save[] = "SAVEPOINT job",
                  sql_release[] = "RELEASE job", sql_undo[] = "ROLLBACK TO job";
/* A ROLLBACK that has to be prepared when memory is short leaves the connection stuck: so all are prepared when it is opened. */
static const char *const control[] = {sql_begin, sql_commit, sql_rollback, sql_save, sql_release, sql_undo};

static int step(struct db *d, const char *sql, struct err *e)
{
    sqlite3_stmt *st = db_stmt(d, d->writer.c, sql, e);
    return st ? db_done(st, e) : -1;
}

static int note_wal(void *u, sqlite3 *c, const char *name, int pages)
{
    (void)c, (void)name;
    struct db *d = u;
    d->wal_pages = pages;
    d->wal_frames = (uint32_t)pages;
    if (pages > d->wal_longest) d->wal_longest = pages;
    return SQLITE_OK;
}

/* The file object that SQLite writes the WAL with, so an error of any earlier write-back is seen by its sync. */
sqlite3_file *db_wal_file(struct db *d)
{
    sqlite3_file *wal = NULL;
    sqlite3_file_control(d->writer.c, "main", SQLITE_FCNTL_JOURNAL_POINTER, &wal);
    return wal && wal->pMethods ? wal : NULL;
}

static int pages_of_wal(struct db *d)
{
    sqlite3_file *wal = db_wal_file(d);
    sqlite3_int64 bytes = 0;
    return wal && wal->pMethods->xFileSize(wal, &bytes) == SQLITE_OK ? (int)(bytes / DB_PAGE_BYTES) : 0;
}

static int prepare(struct db *d, struct err *e)
{
    for (size_t i = 0; i < sizeof control / sizeof *control; i++)
        if (!db_stmt(d, d->writer.c, control[i], e)) return -1;
    sqlite3_wal_hook(d->writer.c, note_wal, d);
    d->checkpoint_at = CHECKPOINT_PAGES;
    d->wal_longest = pages_of_wal(d); /* an earlier process may have left a long one */
    return 0;
}

static bool spoils_group(int rc)
{
    rc &= 0xFF;
    return rc == SQLITE_FULL || rc == SQLITE_IOERR || rc == SQLITE_NOMEM || rc == SQLITE_CORRUPT || rc == SQLITE_NOTADB;
}

/* SQLite calls a read that failed with EIO a malformed file. The errno of its two files tells them apart: it stays there until they are opened anew,
 * which happens after every error of the disk. */
static bool is_malformed(struct db *d, int rc)
{
    int main_errno = 0, wal_errno = 0;
    sqlite3_file *wal = db_wal_file(d);
    if (rc != SQLITE_CORRUPT) return rc == SQLITE_NOTADB;
    sqlite3_file_control(d->writer.c, "main", SQLITE_FCNTL_LAST_ERRNO, &main_errno);
    if (wal) wal->pMethods->xFileControl(wal, SQLITE_FCNTL_LAST_ERRNO, &wal_errno);
    return !main_errno && !wal_errno;
}

/* Memory that was short once says nothing of the disk: what met it is undone, and the next group is tried at once. Twice in a row it is waited for. */
static void mark_broken(struct db *d, int rc, const struct err *e)
{
    rc &= 0xFF;
    if (d->health == DB_CORRUPT) return;
    if (rc == SQLITE_NOMEM && sqlite3_get_autocommit(d->writer.c) && d->shortages++ == 0) return;
    bool corrupt = is_malformed(d, rc);
    if (rc == SQLITE_FULL && db_reserve_drop(&d->files)) d->reserve_gone = true;
    if (d->health == DB_HEALTHY || corrupt) log_error(corrupt ? "database_corrupt" : "database_broken", LS("reason", e->msg));
    d->health = corrupt ? DB_CORRUPT : DB_BROKEN;
    d->retry_us = clock_mono_us() + RETRY_MS * 1000;
}

static int judge_sync(struct db *d, int rc, struct err *e)
{
    struct err why = {0};
    if (rc == SQLITE_OK) return 0;
    err_set(&why, ERR_LEDGER, "the disk does not take the ledger (fsync: %s)", sqlite3_errstr(rc));
    mark_broken(d, SQLITE_IOERR, &why);
    return err_set(e, ERR_LEDGER, "%s", why.msg);
}

/* Now, on this thread. The kernel tells a file's lost write-back to one fsync only: if that was the one beside us, ours is no proof. */
static int sync_wal(struct db *d, struct err *e)
{
    sqlite3_file *wal = db_wal_file(d);
    d->sync_due_us = 0;
    db_sync_wait(d);
    int rc = db_sync_result(d);
    if (rc == SQLITE_OK && wal) rc = wal->pMethods->xSync(wal, SQLITE_SYNC_NORMAL);
    return judge_sync(d, rc, e);
}

/* Where the date has come: beside the writer; while one is in hand the date stays, and its end wakes the writer. */
static void sync_when_due(struct db *d)
{
    judge_sync(d, db_sync_result(d), NULL);
    if (d->health != DB_HEALTHY || !d->sync_due_us || clock_mono_us() < d->sync_due_us) return;
    sqlite3_file *wal = db_wal_file(d);
    if (!wal || db_sync_begin(d, wal)) d->sync_due_us = 0;
}

int db_later(struct db *d, int (*fn)(struct db *d, sqlite3 *c, const void *const *what, int n, struct err *e), const void *what, struct err *e)
{
    if (d->nleft == DB_LATER_MAX) return err_set(e, ERR_LEDGER, "more than %d rows to be summed in one group", d->nleft);
    d->later = fn;
    d->left[d->nleft++] = what;
    return 0;
}

static int do_later(struct db *d, struct err *e)
{
    int n = d->nleft;
    d->nleft = 0;
    return n ? d->later(d, d->writer.c, d->left, n, e) : 0;
}

/* 0 or -1; *spoilt gets SQLite's code when the whole group is lost with it. */
static int run_job(struct db *d, const struct db_job *j, int *spoilt, struct err *e)
{
    sqlite3 *c = d->writer.c;
    int left = d->nleft;
    int64_t began_us = clock_mono_us();
    int rc = step(d, sql_save, e) || j->run(d, c, j->user, e) ? -1 : 0;
    if (rc == 0 && json_was_short(began_us)) rc = err_set(e, ERR_NO_MEMORY, "no memory for what is to be written"); /* a part of it may be lacking */
    if (rc == 0 && step(d, sql_release, e) == 0) return 0;
    rc = sqlite3_errcode(c);
    d->nleft = left;
    err_set(e, ERR_INTERNAL, "a change of the database failed without a reason");
    db_conn_reset(&d->writer);
    if (sqlite3_get_autocommit(c) || spoils_group(rc)) *spoilt = rc ? rc : SQLITE_ERROR;
    else if (step(d, sql_undo, NULL) || step(d, sql_release, NULL)) *spoilt = SQLITE_ERROR;
    return -1;
}

/* All of the group but its commit. What is left to the end stands outside of the jobs' savepoints: its failure is the group's. */
static int run_each(struct db *d, int n, int *spoilt, struct err *e)
{
    for (int i = 0; i < n; i++) {
        const struct db_job *j = &d->group[i].job;
        d->result[i].code = ERR_NONE;
        if (j->reads_sums && do_later(d, e)) return -1;
        if (run_job(d, j, spoilt, &d->result[i]) && *spoilt) {
            *e = d->result[i];
            return -1;
        }
    }
    return do_later(d, e);
}

static int run_jobs(struct db *d, int n, int *spoilt, struct err *e)
{
    d->nleft = 0;
    int rc = step(d, sql_begin, e);
    if (rc == 0) rc = run_each(d, n, spoilt, e);
    if (rc == 0) db_conn_reset(&d->writer); /* a SELECT left in mid-result would keep its snapshot past the commit */
    if (rc == 0) rc = step(d, sql_commit, e);
    if (rc && !*spoilt) *spoilt = sqlite3_errcode(d->writer.c);
    return rc;
}

static void finish(const struct db_queued *q, const struct err *e)
{
    if (q->job.done) q->job.done(q->job.user, e->code ? e : NULL);
}

static void fail_group(struct db *d, int n, const struct err *e)
{
    for (int i = 0; i < n; i++) finish(&d->group[i], e);
}

static bool waits_for_disk(const struct db *d, const struct db_queued *q)
{
    return q->ack || (d->ack_durable && q->job.durable);
}

/* Committed: those who asked for no more hear it first, then the disk, then the others. */
static void report(struct db *d, int n)
{
    bool wait = false, durable = false;
    for (int i = 0; i < n; i++) {
        durable |= d->group[i].job.durable && !d->result[i].code;
        if (waits_for_disk(d, &d->group[i])) wait = true;
        else finish(&d->group[i], &d->result[i]);
    }
    if (durable && !d->sync_due_us) d->sync_due_us = clock_mono_us() + (int64_t)d->sync_ms * 1000;
    struct err e = {0};
    if (wait) sync_wal(d, &e);
    for (int i = 0; i < n; i++)
        if (waits_for_disk(d, &d->group[i])) finish(&d->group[i], e.code && !d->result[i].code ? &e : &d->result[i]);
}

static void run_group(struct db *d, int n)
{
    struct err e = {0};
    int spoilt = 0;
    if (run_jobs(d, n, &spoilt, &e) == 0) {
        d->shortages = 0;
        report(d, n);
        return;
    }
    db_conn_reset(&d->writer);
    if (!sqlite3_get_autocommit(d->writer.c)) step(d, sql_rollback, NULL);
    err_set(&e, ERR_LEDGER, "usage cannot be recorded now");
    e.code = ERR_LEDGER; /* for all of the group, whichever job met it: it may be tried again */
    mark_broken(d, spoilt, &e);
    fail_group(d, n, &e);
}

static int64_t idle_from(const struct db *d)
{
    return d->group_us + CHECKPOINT_IDLE_MS * 1000;
}

static void checkpoint(struct db *d)
{
    if (d->wal_pages < d->checkpoint_at || d->health != DB_HEALTHY) return;
    if (d->wal_pages < d->checkpoint_at + CHECKPOINT_BUSY_PAGES && clock_mono_us() < idle_from(d)) return;
    int in_wal = 0, moved = 0;
    db_pages_look(d); /* after it the WAL may be written anew */
    int rc = sqlite3_wal_checkpoint_v2(d->writer.c, "main", SQLITE_CHECKPOINT_PASSIVE, &in_wal, &moved);
    struct err e = {0};
    if (rc != SQLITE_OK && rc != SQLITE_BUSY) {
        db_error(d->writer.c, "checkpoint", &e);
        mark_broken(d, rc, &e);
    }
    /* A reader's snapshot may hold the rest back: then try again after as many pages, not after each group. */
    bool all = rc == SQLITE_OK && moved == in_wal;
    d->checkpoint_at = (all ? 0 : d->wal_pages) + CHECKPOINT_PAGES;
    if (all) d->wal_pages = 0;
    if (all && d->reserve_gone && db_reserve_again(&d->files)) d->reserve_gone = false;
}

static int64_t cut_from(const struct db *d)
{
    int64_t idle = d->group_us + WAL_CUT_IDLE_MS * 1000ll;
    return d->wal_longest <= WAL_KEPT_PAGES || d->health != DB_HEALTHY ? 0 : idle > d->cut_again_us ? idle : d->cut_again_us;
}

/* The file is written from its beginning again and again, so it stays as long as it ever was; not worth a write while somebody waits for one, so it
 * is cut when nobody does. Neither a reader that is still in it nor a sync under way is waited for. */
static void cut_wal(struct db *d)
{
    struct err e = {0};
    int64_t from = cut_from(d);
    if (!from || d->sync_due_us || clock_mono_us() < from || db_is_syncing(d)) return;
    db_pages_look(d);
    sqlite3_busy_timeout(d->writer.c, 0);
    int rc = sqlite3_wal_checkpoint_v2(d->writer.c, "main", SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    sqlite3_busy_timeout(d->writer.c, DB_BUSY_MS);
    d->cut_again_us = clock_mono_us() + WAL_CUT_IDLE_MS * 1000ll;
    if (rc == SQLITE_OK) {
        d->wal_longest = d->wal_pages = 0;
        d->checkpoint_at = CHECKPOINT_PAGES;
    } else if (rc != SQLITE_BUSY) {
        db_error(d->writer.c, "checkpoint", &e);
        mark_broken(d, rc, &e);
    }
}

static int probe(struct db *d, struct err *e)
{
    static const char sql[] = "INSERT INTO meta(name, value) VALUES('probe', ?1) ON CONFLICT DO UPDATE SET value = excluded.value";
    sqlite3_stmt *st = db_stmt(d, d->writer.c, sql, e);
    if (!st || db_bind(st, e, "i", clock_wall_us())) return -1;
    return db_done(st, e) || sync_wal(d, e) ? -1 : 0;
}

/* After an I/O error nothing that the old connection remembers of the file is trusted. What a failed fsync may have dropped from the
 * WAL's pages is copied into the main file and synced there by the checkpoint: all of it, so older readers are waited for. */
static bool recover(struct db *d)
{
    struct err e = {0};
    int in_wal = 0, moved = 0;
    db_sync_wait(d); /* it has the old connection's file; what it found is no news */
    db_sync_result(d);
    db_pages_forget(d);
    db_conn_close(&d->writer);
    if (db_conn_open(&d->writer, d, true, &e) == 0 && prepare(d, &e) == 0) {
        int rc = sqlite3_wal_checkpoint_v2(d->writer.c, "main", SQLITE_CHECKPOINT_PASSIVE, &in_wal, &moved);
        if (rc == SQLITE_OK && moved == in_wal && probe(d, &e) == 0) {
            d->health = DB_HEALTHY;
            log_info("database_recovered");
            return true;
        }
        mark_broken(d, sqlite3_errcode(d->writer.c), &e);
    }
    d->retry_us = clock_mono_us() + RETRY_MS * 1000;
    return false;
}

static void wait_until(struct db *d, int64_t mono_us)
{
    struct timespec ts = {.tv_sec = mono_us / 1000000, .tv_nsec = mono_us % 1000000 * 1000};
    if (mono_us) pthread_cond_timedwait(&d->wake, &d->lock, &ts);
    else pthread_cond_wait(&d->wake, &d->lock);
}

static int64_t sooner(int64_t a, int64_t b)
{
    return !a || (b && b < a) ? b : a;
}

/* When there is something to do without a job: the sync's date, a checkpoint's, the WAL's cut. 0: never. Under the lock. */
static int64_t next_date(const struct db *d)
{
    int64_t sync = d->syncing ? 0 : d->sync_due_us, idle = d->wal_pages >= d->checkpoint_at ? idle_from(d) : 0;
    return sooner(sooner(sync, idle), d->syncing || d->sync_due_us ? 0 : cut_from(d));
}

static bool has_come(int64_t date)
{
    return date && clock_mono_us() >= date;
}

/* Waits for work; moves up to DB_GROUP_MAX jobs into d->group. 0: woken for a date or a retry. -1: stopped, and nothing is left. */
static int take(struct db *d)
{
    int n = 0;
    pthread_mutex_lock(&d->lock);
    while (d->health == DB_BROKEN && !d->stop && clock_mono_us() < d->retry_us) wait_until(d, d->retry_us);
    while (!d->len && !d->stop && d->health == DB_HEALTHY && !d->sync_rc && !has_come(next_date(d))) wait_until(d, next_date(d));
    while (!d->len && !d->stop && d->health == DB_CORRUPT) wait_until(d, 0);
    for (; d->len && n < DB_GROUP_MAX; n++, d->len--) {
        d->group[n] = d->ring[d->head];
        d->head = (d->head + 1) % DB_QUEUE_MAX;
    }
    if (!d->len) d->head = 0; /* so that the ring takes no more memory than it once needed */
    bool over = d->stop && !n;
    pthread_mutex_unlock(&d->lock);
    return over ? -1 : n;
}

static void *writer_main(void *u)
{
    static const struct err down = {.code = ERR_LEDGER, .msg = "usage cannot be recorded now"};
    struct db *d = u;
    for (int n; (n = take(d)) >= 0;) {
        if (d->health == DB_CORRUPT || (d->health == DB_BROKEN && !recover(d))) {
            fail_group(d, n, &down);
            continue;
        }
        if (n) {
            run_group(d, n);
            d->group_us = clock_mono_us();
        }
        sync_when_due(d);
        checkpoint(d);
        cut_wal(d);
    }
    db_sync_wait(d);
    judge_sync(d, db_sync_result(d), NULL);
    if (d->sync_due_us && d->health == DB_HEALTHY) sync_wal(d, NULL);
    return NULL;
}

static int push(struct db *d, const struct db_queued *q, struct err *e)
{
    unsigned room = q->job.urgent ? DB_QUEUE_MAX : DB_QUEUE_MAX - DB_QUEUE_URGENT;
    bool broken = d->health == DB_CORRUPT || (d->health != DB_HEALTHY && !q->job.urgent);
    pthread_mutex_lock(&d->lock);
    bool fits = d->len < room && !d->stop && !broken;
    if (fits) d->ring[(d->head + d->len++) % DB_QUEUE_MAX] = *q;
    pthread_mutex_unlock(&d->lock);
    if (fits) {
        pthread_cond_signal(&d->wake); /* not under the lock: on the same core the writer would wake only to wait for it */
        return 0;
    }
    return err_set(e, ERR_LEDGER, broken ? "usage cannot be recorded now" : "too many changes of the database wait; try again");
}

int db_write(struct db *d, const struct db_job *j, struct err *e) { return push(d, &(struct db_queued){*j, false}, e); }

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool over;
    struct err err;
    int (*run)(struct db *d, sqlite3 *c, void *u, struct err *e);
    void *user;
};

static int wait_run(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct waiter *w = u;
    return w->run(d, c, w->user, e);
}

static void wait_done(void *u, const struct err *e)
{
    struct waiter *w = u;
    pthread_mutex_lock(&w->lock);
    if (e) w->err = *e;
    w->over = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
}

int db_write_wait(struct db *d, int (*run)(struct db *d, sqlite3 *c, void *u, struct err *e), void *u, struct err *e)
{
    struct waiter w = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER, .run = run, .user = u};
    struct db_queued q = {{.run = wait_run, .done = wait_done, .user = &w, .durable = true, .reads_sums = true}, true};
    if (push(d, &q, e)) return -1;
    pthread_mutex_lock(&w.lock);
    while (!w.over) pthread_cond_wait(&w.wake, &w.lock);
    pthread_mutex_unlock(&w.lock);
    pthread_mutex_destroy(&w.lock);
    pthread_cond_destroy(&w.wake);
    if (!w.err.code) return 0;
    if (e && !e->code) *e = w.err;
    return -1;
}

static int run_nothing(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d, (void)c, (void)u, (void)e;
    return 0;
}

int db_flush(struct db *d, struct err *e) { return db_write_wait(d, run_nothing, NULL, e); }

int db_queue_len(const struct db *d)
{
    struct db *m = (struct db *)d;
    pthread_mutex_lock(&m->lock);
    int n = (int)d->len;
    pthread_mutex_unlock(&m->lock);
    return n;
}

int db_writer_start(struct db *d, struct err *e)
{
    d->ring = calloc(DB_QUEUE_MAX, sizeof *d->ring);
    if (!d->ring) return err_set(e, ERR_NO_MEMORY, "no memory for the writer's queue");
    if (prepare(d, e) || db_sync_start(d, e)) return -1;
    if (pthread_create(&d->writer_thread, NULL, writer_main, d)) return err_set(e, ERR_NO_MEMORY, "no thread for the writer");
    d->writer_runs = true;
    return 0;
}

static void stop_thread(struct db *d)
{
    pthread_mutex_lock(&d->lock);
    d->stop = true;
    pthread_cond_signal(&d->wake);
    pthread_mutex_unlock(&d->lock);
    pthread_join(d->writer_thread, NULL);
    d->writer_runs = false;
}

void db_writer_stop(struct db *d)
{
    if (d->writer_runs) stop_thread(d);
    db_sync_stop(d);
}
