/* db_reader: questions to the database, on DB_READERS read-only connections.
 *
 * db_read() borrows a connection for the call and wraps it in one read transaction, so a function that asks twice sees one state. The
 * deadline covers waiting for a connection and the work itself (the progress handler in db.c looks at it). Connections are few on
 * purpose: a dashboard's heavy query must not take the cores from the tokens. db_read_alone() makes one for the call, of which there are
 * DB_ALONE at a time: what takes minutes must not keep a dashboard waiting, and what is attached must not stay.
 *
 * db_defer() is for handlers on event threads: it queues a function for one of as many threads, which may then use db_read() and
 * db_write_wait() as they like. The queue is bounded; what was accepted is run, at db_close() too. */
#include "base/clock.h"
#include "gateway/db/db_internal.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

_Thread_local struct db_conn *db_alone;

static struct timespec at(int64_t mono_us)
{
    return (struct timespec){.tv_sec = mono_us / 1000000, .tv_nsec = mono_us % 1000000 * 1000};
}

static struct db_conn *take(struct db *d, int64_t deadline_us)
{
    struct timespec until = at(deadline_us);
    struct db_conn *found = NULL;
    pthread_mutex_lock(&d->pool);
    for (int rc = 0; !found && rc == 0;) {
        for (int i = 0; i < DB_READERS && !found; i++)
            if (!d->reader[i].taken) found = &d->reader[i];
        if (!found) rc = pthread_cond_timedwait(&d->pool_free, &d->pool, &until);
    }
    if (found) found->taken = true;
    pthread_mutex_unlock(&d->pool);
    return found;
}

static void give_back(struct db *d, struct db_conn *k)
{
    pthread_mutex_lock(&d->pool);
    k->taken = false;
    pthread_cond_broadcast(&d->pool_free); /* two kinds wait here */
    pthread_mutex_unlock(&d->pool);
}

static int begin_alone(struct db *d, int64_t deadline_us)
{
    struct timespec until = at(deadline_us);
    int rc = 0;
    pthread_mutex_lock(&d->pool);
    while (d->alone == DB_ALONE && rc == 0) rc = pthread_cond_timedwait(&d->pool_free, &d->pool, &until);
    bool yes = d->alone < DB_ALONE;
    d->alone += yes;
    pthread_mutex_unlock(&d->pool);
    return yes ? 0 : -1;
}

static void end_alone(struct db *d)
{
    pthread_mutex_lock(&d->pool);
    d->alone--;
    pthread_cond_broadcast(&d->pool_free);
    pthread_mutex_unlock(&d->pool);
}

static const char begin[] = "BEGIN", commit[] = "COMMIT";

/* The end of a read needs no memory: a connection that could not prepare its COMMIT would keep the snapshot, and refuse the next BEGIN. */
static int open_reader(struct db_conn *k, const struct db *d, struct err *e)
{
    if (db_conn_open(k, d, false, e)) return -1;
    if (db_conn_stmt(k, begin, e) && db_conn_stmt(k, commit, e)) return 0;
    db_conn_close(k);
    return -1;
}

/* begin takes the snapshot by a look at the file: what fn attaches is opened after it. */
static int in_snapshot(struct db *d, struct db_conn *k, int (*fn)(struct db *d, sqlite3 *c, void *u, struct err *e), void *u, struct err *e)
{
    sqlite3_stmt *st = db_conn_stmt(k, begin, e);
    int rc = st ? db_done(st, e) : -1;
    if (rc == 0) rc = fn(d, k->c, u, e);
    k->deadline_us = 0; /* the end of a transaction is never interrupted */
    db_conn_reset(k);
    if (!sqlite3_get_autocommit(k->c) && (st = db_conn_stmt(k, commit, NULL))) db_done(st, NULL);
    return rc;
}

int db_read(struct db *d, int (*fn)(struct db *d, sqlite3 *c, void *u, struct err *e), void *u, int deadline_ms, struct err *e)
{
    int64_t deadline = clock_mono_us() + (int64_t)deadline_ms * 1000;
    struct db_conn *k = take(d, deadline);
    if (!k) return err_set(e, ERR_DEADLINE, "all %d database readers were busy for %d ms", DB_READERS, deadline_ms);
    k->deadline_us = deadline;
    int rc = in_snapshot(d, k, fn, u, e);
    give_back(d, k);
    return rc;
}

static int read_alone(struct db *d, int (*fn)(struct db *d, sqlite3 *c, void *u, struct err *e), void *u, int64_t deadline, struct err *e)
{
    struct db_conn *k = malloc(sizeof *k);
    if (!k) return err_set(e, ERR_NO_MEMORY, "no memory for a connection to the database");
    int rc = open_reader(k, d, e);
    if (rc == 0) {
        k->deadline_us = deadline;
        db_alone = k;
        rc = in_snapshot(d, k, fn, u, e);
        db_alone = NULL;
        db_conn_close(k);
    }
    free(k);
    return rc;
}

int db_read_alone(struct db *d, int (*fn)(struct db *d, sqlite3 *c, void *u, struct err *e), void *u, int deadline_ms, struct err *e)
{
    int64_t deadline = clock_mono_us() + (int64_t)deadline_ms * 1000;
    if (db_alone) return err_set(e, ERR_INTERNAL, "a read on a connection of its own inside of another");
    if (begin_alone(d, deadline)) return err_set(e, ERR_DEADLINE, "all %d long reads were busy for %d ms", DB_ALONE, deadline_ms);
    int rc = read_alone(d, fn, u, deadline, e);
    end_alone(d);
    return rc;
}

int db_attach(struct db *d, sqlite3 *c, const char *path, struct err *e)
{
    static const char look[] = "SELECT 1 FROM main.sqlite_schema LIMIT 1", attach[] = "ATTACH ?1 AS archive";
    sqlite3_stmt *st = db_stmt(d, c, look, e);
    if (!st || db_done(st, e) || !(st = db_stmt(d, c, attach, e)) || db_bind(st, e, "s", path)) return -1;
    return db_done(st, e);
}

int db_defer(struct db *d, void (*fn)(void *u), void *u, struct err *e)
{
    pthread_mutex_lock(&d->pool);
    bool fits = d->deferred_len < DB_DEFERRED_MAX && !d->deferred_stop;
    if (fits) {
        d->deferred[(d->deferred_head + d->deferred_len++) % DB_DEFERRED_MAX] = (struct db_deferred){fn, u};
        pthread_cond_signal(&d->deferred_wake);
    }
    pthread_mutex_unlock(&d->pool);
    return fits ? 0 : err_set(e, ERR_QUEUE_FULL, "too many questions to the database wait; try again");
}

static void *reader_main(void *u)
{
    struct db *d = u;
    pthread_mutex_lock(&d->pool);
    for (;;) {
        while (!d->deferred_len && !d->deferred_stop) pthread_cond_wait(&d->deferred_wake, &d->pool);
        if (!d->deferred_len) break;
        struct db_deferred job = d->deferred[d->deferred_head];
        d->deferred_head = (d->deferred_head + 1) % DB_DEFERRED_MAX;
        d->deferred_len--;
        pthread_mutex_unlock(&d->pool);
        job.fn(job.user);
        pthread_mutex_lock(&d->pool);
    }
    pthread_mutex_unlock(&d->pool);
    return NULL;
}

int db_readers_start(struct db *d, struct err *e)
{
    for (int i = 0; i < DB_READERS; i++)
        if (open_reader(&d->reader[i], d, e)) return -1;
    for (; d->nthreads < DB_READERS; d->nthreads++)
        if (pthread_create(&d->reader_thread[d->nthreads], NULL, reader_main, d))
            return err_set(e, ERR_NO_MEMORY, "no thread for database reader %d", d->nthreads);
    return 0;
}

void db_deferred_stop(struct db *d)
{
    pthread_mutex_lock(&d->pool);
    d->deferred_stop = true;
    pthread_cond_broadcast(&d->deferred_wake);
    pthread_mutex_unlock(&d->pool);
    while (d->nthreads > 0) pthread_join(d->reader_thread[--d->nthreads], NULL);
}

void db_readers_stop(struct db *d)
{
    for (int i = 0; i < DB_READERS; i++) db_conn_close(&d->reader[i]);
}
