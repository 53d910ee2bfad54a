/* db: opening the one database, its connections and their statements (METERING.md section 1, RELIABILITY.md section 2).
 *
 * Every connection is set up alike: WAL, foreign keys, no memory mapping (SQLite before 3.51.3 must not have two checkpointers, and a
 * mapping would let a bad disk kill the process), cells checked, schema not trusted, DEFENSIVE. Only the writer's may write and
 * checkpoint; readers are opened read-only.
 *
 * Statements are prepared once per connection and found by the address of their text: callers hold the SQL as constants, so an address
 * is a name. A connection belongs to one thread at a time (the writer's to the writer thread, a reader's to who took it from the pool),
 * so nothing here locks.
 *
 * Order: open files (lock!) -> writer's connection -> migrate -> readers -> writer thread. Closing goes back the same way, so the last
 * connection, the writer's, folds the WAL into the file. */
#include "gateway/db/db_internal.h"
#include "base/clock.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROGRESS_OPS 2000     /* virtual machine steps between looks at the deadline */
#define READER_PART 4         /* a reader's page cache is that part of the writer's */

static const char setup_writer[] = "PRAGMA page_size=4096; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
                                   "PRAGMA wal_autocheckpoint=0; PRAGMA journal_size_limit=67108864;";
static const char setup_reader[] = "PRAGMA wal_autocheckpoint=0; PRAGMA query_only=ON;";
static const char setup_all[] = "PRAGMA foreign_keys=ON; PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA mmap_size=0;"
                                "PRAGMA temp_store=MEMORY;";

int db_error(sqlite3 *c, const char *what, struct err *e)
{
    int rc = sqlite3_errcode(c) & 0xFF;
    switch (rc) {
    case SQLITE_INTERRUPT: return err_set(e, ERR_DEADLINE, "the query took too long; ask for less");
    case SQLITE_NOMEM: return err_set(e, ERR_NO_MEMORY, "out of memory in the database");
    case SQLITE_FULL: return err_set(e, ERR_LEDGER, "the disk is full (%s)", what);
    case SQLITE_IOERR:
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return err_set(e, ERR_LEDGER, "the database is not available (%s: %s)", what, sqlite3_errmsg(c));
    default: return err_set(e, ERR_IO, "the database refused (%s: %s)", what, sqlite3_errmsg(c));
    }
}

static size_t slot_of(const char *sql)
{
    return (size_t)(((uintptr_t)sql * 0x9E3779B97F4A7C15ull) >> 40) & (DB_STATEMENTS - 1);
}

sqlite3_stmt *db_conn_stmt(struct db_conn *k, const char *sql, struct err *e)
{
    size_t i = slot_of(sql);
    while (k->slot[i].sql && k->slot[i].sql != sql) i = (i + 1) & (DB_STATEMENTS - 1);
    sqlite3_stmt *st = k->slot[i].st;
    if (st) {
        sqlite3_reset(st);
        sqlite3_clear_bindings(st);
        return st;
    }
    if (k->used >= DB_STATEMENTS * 3 / 4) {
        err_set(e, ERR_INTERNAL, "more than %d SQL statements", k->used);
        return NULL;
    }
    if (sqlite3_prepare_v3(k->c, sql, -1, SQLITE_PREPARE_PERSISTENT, &st, NULL) != SQLITE_OK) {
        db_error(k->c, "prepare", e);
        return NULL;
    }
    k->slot[i] = (struct db_slot){sql, st};
    k->used++;
    return st;
}

sqlite3_stmt *db_stmt(struct db *d, sqlite3 *c, const char *sql, struct err *e)
{
    if (c == d->writer.c) return db_conn_stmt(&d->writer, sql, e);
    for (int i = 0; i < DB_READERS; i++)
        if (c == d->reader[i].c) return db_conn_stmt(&d->reader[i], sql, e);
    if (db_alone && c == db_alone->c) return db_conn_stmt(db_alone, sql, e);
    err_set(e, ERR_INTERNAL, "a statement for a connection that is not of this database");
    return NULL;
}

int db_done(sqlite3_stmt *st, struct err *e)
{
    int rc;
    do rc = sqlite3_step(st);
    while (rc == SQLITE_ROW);
    if (rc != SQLITE_DONE) db_error(sqlite3_db_handle(st), "step", e);
    sqlite3_reset(st);
    return rc == SQLITE_DONE ? 0 : -1;
}

int db_row(sqlite3_stmt *st, struct err *e)
{
    int rc = sqlite3_step(st);
    if (rc == SQLITE_ROW) return 1;
    if (rc != SQLITE_DONE) db_error(sqlite3_db_handle(st), "step", e);
    sqlite3_reset(st);
    return rc == SQLITE_DONE ? 0 : -1;
}

static int bind_one(sqlite3_stmt *st, int i, char kind, va_list *ap)
{
    const void *p;
    switch (kind) {
    case 'i': return sqlite3_bind_int64(st, i, va_arg(*ap, int64_t));
    case 'd': return sqlite3_bind_double(st, i, va_arg(*ap, double));
    case 'b': return sqlite3_bind_blob(st, i, va_arg(*ap, const uint8_t *), 32, SQLITE_STATIC);
    default: p = va_arg(*ap, const char *); return sqlite3_bind_text(st, i, p, -1, SQLITE_STATIC);
    }
}

int db_bind(sqlite3_stmt *st, struct err *e, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    int rc = SQLITE_OK;
    for (int i = 0; format[i] && rc == SQLITE_OK; i++) rc = bind_one(st, i + 1, format[i], &ap);
    va_end(ap);
    return rc == SQLITE_OK ? 0 : db_error(sqlite3_db_handle(st), "bind", e);
}

const char *db_text(sqlite3_stmt *st, int column)
{
    const unsigned char *s = sqlite3_column_text(st, column);
    return s ? (const char *)s : "";
}

static int late(void *u)
{
    const struct db_conn *k = u;
    return k->deadline_us && clock_mono_us() > k->deadline_us;
}

static int set_up(struct db_conn *k, int cache_kib, bool writer, struct err *e)
{
    char cache[48];
    snprintf(cache, sizeof cache, "PRAGMA cache_size=-%d", cache_kib);
    sqlite3_extended_result_codes(k->c, 1);
    sqlite3_busy_timeout(k->c, DB_BUSY_MS);
    sqlite3_db_config(k->c, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(k->c, SQLITE_DBCONFIG_DQS_DML, 0, NULL);
    sqlite3_db_config(k->c, SQLITE_DBCONFIG_DQS_DDL, 0, NULL);
    if (!writer) sqlite3_progress_handler(k->c, PROGRESS_OPS, late, k);
    if (sqlite3_exec(k->c, writer ? setup_writer : setup_reader, NULL, NULL, NULL) != SQLITE_OK || sqlite3_exec(k->c, cache, NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_exec(k->c, setup_all, NULL, NULL, NULL) != SQLITE_OK)
        return db_error(k->c, "setup", e);
    return 0;
}

int db_conn_open(struct db_conn *k, const struct db *d, bool writer, struct err *e)
{
    *k = (struct db_conn){0};
    int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE |
                (writer ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : SQLITE_OPEN_READONLY);
    if (sqlite3_open_v2(d->path, &k->c, flags, NULL) != SQLITE_OK)
        err_set(e, ERR_LEDGER, "%s can't be opened: %s", d->path, k->c ? sqlite3_errmsg(k->c) : "out of memory");
    else if (set_up(k, d->cache_mb * (writer ? 1024 : 1024 / READER_PART), writer, e) == 0)
        return 0;
    db_conn_close(k);
    return err_set(e, ERR_LEDGER, "%s can't be opened", d->path);
}

void db_conn_close(struct db_conn *k)
{
    for (int i = 0; i < DB_STATEMENTS; i++) sqlite3_finalize(k->slot[i].st);
    if (k->c) sqlite3_close(k->c);
    *k = (struct db_conn){0};
}

void db_conn_reset(struct db_conn *k)
{
    for (sqlite3_stmt *st = NULL; (st = sqlite3_next_stmt(k->c, st));)
        if (sqlite3_stmt_busy(st)) sqlite3_reset(st);
}

static int open_parts(struct db *d, const struct db_options *o, struct err *e)
{
    if (db_files_open(&d->files, o, e)) return -1;
    snprintf(d->path, sizeof d->path, "%s/" DB_FILE, d->files.dir);
    if (db_conn_open(&d->writer, d, true, e)) return -1;
    if (db_migrate(d->writer.c, d->files.dir, db_migrations, db_nmigrations, e)) return -1;
    if (db_readers_start(d, e)) return -1;
    return db_writer_start(d, e);
}

/* Nobody reads SQLite's count of its memory, for which each of its allocations takes a lock that all connections share. Changes nothing
 * once the library is in use. */
static void uncount_memory(void) { sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0); }

int db_open(struct db **out, const struct db_options *o, struct err *e)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, uncount_memory);
    struct db *d = calloc(1, sizeof *d);
    if (!d) return err_set(e, ERR_NO_MEMORY, "no memory for the database");
    d->files.lock = -1;
    d->sync_ms = o->sync_ms;
    d->ack_durable = o->ack_durable;
    d->cache_mb = o->cache_mb ? o->cache_mb : DB_CACHE_MB;
    pthread_condattr_t mono;
    pthread_condattr_init(&mono);
    pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
    pthread_mutex_init(&d->lock, NULL);
    pthread_mutex_init(&d->pool, NULL);
    pthread_cond_init(&d->wake, &mono);
    pthread_cond_init(&d->pool_free, &mono);
    pthread_cond_init(&d->deferred_wake, &mono);
    pthread_condattr_destroy(&mono);
    if (open_parts(d, o, e)) {
        db_close(d);
        return -1;
    }
    *out = d;
    return 0;
}

void db_close(struct db *d)
{
    if (!d) return;
    db_deferred_stop(d);
    db_writer_stop(d);
    db_readers_stop(d);
    db_pages_forget(d);
    db_conn_close(&d->writer);
    db_files_close(&d->files);
    pthread_cond_destroy(&d->wake);
    pthread_cond_destroy(&d->pool_free);
    pthread_cond_destroy(&d->deferred_wake);
    pthread_mutex_destroy(&d->lock);
    pthread_mutex_destroy(&d->pool);
    free(d->ring);
    free(d);
}

const char *db_dir(const struct db *d) { return d->files.dir; }

const uint8_t *db_pepper(const struct db *d) { return d->files.pepper; }

bool db_writable(const struct db *d) { return d->health == DB_HEALTHY; }
