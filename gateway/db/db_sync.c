/* db_sync: the fsync of the WAL, beside the writer.
 *
 * A commit takes tens of microseconds, an fsync some milliseconds; one thread for both would let every request that comes
 * while the disk is at work wait for it, although an admission needs no disk. So the writer hands the WAL's file object
 * over when a sync is due and goes on committing; what it commits meanwhile gets the next date.
 *
 *     idle --db_sync_begin()--> in hand --fsync--> idle, the writer woken (failed: db_sync_result() says so, once)
 *
 * The file object is SQLite's own, so that an error of any earlier write-back is seen and a test's fault reaches it.
 * xSync of SQLite's Unix files writes nothing that the writer reads but a flag that both clear. The object lives as long
 * as the connection: whoever closes that waits in db_sync_wait() first. One sync at a time; d->lock covers all of it. */
#include "gateway/db/db_internal.h"

static void *sync_main(void *u)
{
    struct db *d = u;
    pthread_mutex_lock(&d->lock);
    while (!d->sync_stop) {
        if (!d->syncing) {
            pthread_cond_wait(&d->sync_wake, &d->lock);
            continue;
        }
        pthread_mutex_unlock(&d->lock);
        int rc = d->syncing->pMethods->xSync(d->syncing, SQLITE_SYNC_NORMAL);
        pthread_mutex_lock(&d->lock);
        if (rc != SQLITE_OK) d->sync_rc = rc;
        d->syncing = NULL;
        pthread_cond_broadcast(&d->sync_idle);
        pthread_cond_signal(&d->wake);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

bool db_sync_begin(struct db *d, sqlite3_file *wal)
{
    pthread_mutex_lock(&d->lock);
    bool free = !d->syncing;
    if (free) {
        d->syncing = wal;
        pthread_cond_signal(&d->sync_wake);
    }
    pthread_mutex_unlock(&d->lock);
    return free;
}

bool db_is_syncing(struct db *d)
{
    pthread_mutex_lock(&d->lock);
    bool is = d->syncing != NULL;
    pthread_mutex_unlock(&d->lock);
    return is;
}

void db_sync_wait(struct db *d)
{
    pthread_mutex_lock(&d->lock);
    while (d->syncing) pthread_cond_wait(&d->sync_idle, &d->lock);
    pthread_mutex_unlock(&d->lock);
}

int db_sync_result(struct db *d)
{
    pthread_mutex_lock(&d->lock);
    int rc = d->sync_rc;
    d->sync_rc = SQLITE_OK;
    pthread_mutex_unlock(&d->lock);
    return rc;
}

int db_sync_start(struct db *d, struct err *e)
{
    pthread_cond_init(&d->sync_wake, NULL);
    pthread_cond_init(&d->sync_idle, NULL);
    d->sync_runs = pthread_create(&d->sync_thread, NULL, sync_main, d) == 0;
    return d->sync_runs ? 0 : err_set(e, ERR_NO_MEMORY, "no thread for the writer's fsync");
}

void db_sync_stop(struct db *d)
{
    if (!d->sync_runs) return;
    db_sync_wait(d);
    pthread_mutex_lock(&d->lock);
    d->sync_stop = true;
    pthread_cond_signal(&d->sync_wake);
    pthread_mutex_unlock(&d->lock);
    pthread_join(d->sync_thread, NULL);
    pthread_cond_destroy(&d->sync_wake);
    pthread_cond_destroy(&d->sync_idle);
    d->sync_runs = false;
}
