/* db_copy: the database as it was at one moment, into a file of its own, while the writer goes on (docs/BACKUP.md).
 *
 * SQLite's backup API starts over whenever another connection has written, so under load it would never end. Here the source is a connection
 * of its own that holds one read transaction over all steps: in WAL mode that is one unchanging state, and no step sees a later one. What it
 * costs: checkpoints can't fold back what was committed since, so the WAL grows by what is written meanwhile.
 *
 * Steps are small, with a rest after each, so that the writer's fsync finds the disk free. The copy is complete and on the disk when 0 is
 * returned; on failure the file is removed. The copy says that it is in WAL mode, as the source does: who only reads it opens it with
 * immutable=1. */
#include "base/clock.h"
#include "gateway/db/db_internal.h"
#include "gateway/registry/files.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define STEP_PAGES 512        /* 2 MB */
#define REST_MIN_US 500
#define REST_MAX_US 50000
#define COPY_CACHE "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-4096;"

/* Half of the time is the writer's. */
static void rest(int64_t worked_us)
{
    int64_t us = worked_us < REST_MIN_US ? REST_MIN_US : worked_us > REST_MAX_US ? REST_MAX_US : worked_us;
    nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
}

static int step_all(sqlite3_backup *b, bool (*stop)(void *u), void *u, struct err *e)
{
    for (;;) {
        int64_t began = clock_mono_us();
        if (stop && stop(u)) return err_set(e, ERR_UNAVAILABLE, "stopped before it was done");
        int rc = sqlite3_backup_step(b, STEP_PAGES);
        if (rc == SQLITE_DONE) return 0;
        if (rc != SQLITE_OK && rc != SQLITE_BUSY && rc != SQLITE_LOCKED)
            return err_set(e, ERR_IO, "copy of the database: %s", sqlite3_errstr(rc));
        rest(clock_mono_us() - began);
    }
}

static int copy_open(sqlite3 *from, sqlite3 *to, bool (*stop)(void *u), void *u, struct err *e)
{
    /* The transaction begins with the first read, not with BEGIN. */
    if (sqlite3_exec(from, "BEGIN; SELECT count(*) FROM meta", NULL, NULL, NULL) != SQLITE_OK) return db_error(from, "copy", e);
    if (sqlite3_exec(to, COPY_CACHE, NULL, NULL, NULL) != SQLITE_OK) return db_error(to, "copy", e);
    sqlite3_backup *b = sqlite3_backup_init(to, "main", from, "main");
    if (!b) return db_error(to, "copy", e);
    int rc = step_all(b, stop, u, e);
    if (sqlite3_backup_finish(b) != SQLITE_OK && rc == 0) rc = db_error(to, "copy", e);
    return rc;
}

int db_copy(struct db *d, const char *path, bool (*stop)(void *u), void *u, struct err *e)
{
    struct db_conn *from = calloc(1, sizeof *from);
    sqlite3 *to = NULL;
    int rc = from ? db_conn_open(from, d, false, e) : err_set(e, ERR_NO_MEMORY, "no memory to copy the database");
    if (rc == 0 && unlink(path) && errno != ENOENT) rc = err_errno(e, "%s", path);
    if (rc == 0 && sqlite3_open_v2(path, &to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
        rc = err_set(e, ERR_IO, "%s can't be made: %s", path, to ? sqlite3_errmsg(to) : "out of memory");
    if (rc == 0) rc = copy_open(from->c, to, stop, u, e);
    if (sqlite3_close(to) != SQLITE_OK && rc == 0) rc = err_set(e, ERR_IO, "%s can't be closed", path);
    if (from) db_conn_close(from);
    free(from);
    if (rc == 0) rc = files_sync(path, e);
    if (rc) unlink(path);
    return rc;
}

int db_uri(const char *path, const char *query, char out[DB_URI_MAX], struct err *e)
{
    size_t n = (size_t)snprintf(out, DB_URI_MAX, "file:");
    for (const char *p = path; *p && n + 4 < DB_URI_MAX; p++)
        n += (size_t)snprintf(out + n, 4, strchr("%?#", *p) ? "%%%02X" : "%c", (unsigned char)*p);
    n += (size_t)snprintf(out + n, DB_URI_MAX - n, "?%s", query);
    return n < DB_URI_MAX ? 0 : err_set(e, ERR_INVALID, "the path of %.64s... is too long", path);
}
