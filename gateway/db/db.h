/* The one database: weft.db (METERING.md section 1, RELIABILITY.md section 2).
 *
 * Exactly one connection writes, on the writer thread, which drains its queue into one transaction after another (group
 * commit). Each job runs inside a savepoint of the group's transaction: a job that fails is undone alone. Readers are pooled read-only
 * connections with a deadline, used on the caller's thread. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>
#include <sqlite3.h>

#define DB_QUEUE_MAX 65536
#define DB_QUEUE_URGENT 32768 /* of these, places that only urgent jobs may take */
#define DB_READERS 4
#define DB_ALONE 4       /* reads on connections of their own at a time */
#define DB_PATH_LEN 768
#define DB_DEFERRED_MAX 256
#define DB_FILE "weft.db"
#define DB_CACHE_MB 32 /* unless options say otherwise */

struct db;

struct db_options {
    const char *dir;   /* $WEFT_DATA: weft.db, pepper, lock, run/, tmp/, blobs/ are made in it, mode 0700 */
    int sync_ms;       /* a durable job waits at most so long for its fsync */
    bool ack_durable;  /* done() of durable jobs comes after the fsync */
    bool standby;      /* the folder is a standby's that is being promoted: nobody else opens that */
    int lock;          /* with it: the caller's descriptor of the lock file, which has the lock and keeps it */
    int cache_mb;      /* page cache of the connection that writes, MiB; each that reads has a quarter. 0: DB_CACHE_MB */
};

/* Takes the lock file (ERR_CONFLICT when another process holds it), opens or creates and migrates the database. */
int db_open(struct db **out, const struct db_options *o, struct err *e);

/* Finishes what is deferred and queued, commits, closes. NULL is fine. */
void db_close(struct db *d);

/* A change. run() sees the writer's connection inside a transaction; done() comes on the writer thread once the group is committed (or has
 * failed) and must not block. A disk that is full or failing fails the group with ERR_LEDGER; the writer then tries ten times a second to
 * write again, and only urgent jobs are taken meanwhile. */
struct db_job {
    int (*run)(struct db *d, sqlite3 *c, void *u, struct err *e);
    void (*done)(void *u, const struct err *e); /* e NULL: committed; may be NULL */
    void *user;
    bool durable; /* must reach the disk within sync_ms (settlements, control data); else it survives kill -9, not power loss */
    bool urgent;  /* may use the part of the queue that is kept for settlements: never refused */
    bool reads_sums; /* what jobs before it left to db_later() is written before it runs: for those that read the rollups, or change them */
};

int db_write(struct db *d, const struct db_job *j, struct err *e);      /* any thread; ERR_LEDGER when the queue is full */
/* In run(): leaves something to the end of the group. fn gets all that its jobs left, at once, before the commit, or before a job with reads_sums;
 * what a job left that is undone is forgotten with it. `what` must live until done(); fn is the same in all of a program. -1: too much was left. When
 * fn fails, the group fails. */
int db_later(struct db *d, int (*fn)(struct db *d, sqlite3 *c, const void *const *what, int n, struct err *e), const void *what, struct err *e);
#define DB_LATER_MAX 8192

/* As db_write() with durable and reads_sums, waiting until it is on the disk. Not on the writer thread. */
int db_write_wait(struct db *d, int (*run)(struct db *d, sqlite3 *c, void *u, struct err *e), void *u, struct err *e);
int db_flush(struct db *d, struct err *e); /* all that was committed before is on the disk */

/* Runs fn on this thread with a read-only connection, all in one snapshot; interrupted after deadline_ms (ERR_DEADLINE). */
int db_read(struct db *d, int (*fn)(struct db *d, sqlite3 *c, void *u, struct err *e), void *u, int deadline_ms, struct err *e);

/* The same on a connection of its own, which costs a millisecond to open: for reads that attach, or take so long that the pool would miss one. */
int db_read_alone(struct db *d, int (*fn)(struct db *d, sqlite3 *c, void *u, struct err *e), void *u, int deadline_ms, struct err *e);
/* In db_read_alone: the database file at path is `archive` in SQL from now on; it is opened after the snapshot was taken. At most once a read. */
int db_attach(struct db *d, sqlite3 *c, const char *path, struct err *e);

/* Runs fn(u) soon on one of DB_READERS threads, for handlers that would else block an event thread in db_read or db_write_wait.
 * ERR_QUEUE_FULL beyond DB_DEFERRED_MAX waiting ones. fn runs exactly once when 0 was returned. */
int db_defer(struct db *d, void (*fn)(void *u), void *u, struct err *e);

/* The statement for this constant string on this connection, prepared once and cached, reset and unbound; NULL with ERR_IO. It is found by
 * the string's address, which must stay the string's as long as the database is open. */
sqlite3_stmt *db_stmt(struct db *d, sqlite3 *c, const char *sql, struct err *e);
/* sqlite3_step to the end; 0 or -1 with the library's message. */
int db_done(sqlite3_stmt *st, struct err *e);
/* One row: 1 there is one, 0 none, -1 failed. */
int db_row(sqlite3_stmt *st, struct err *e);
int db_error(sqlite3 *c, const char *what, struct err *e);

/* Binds ?1, ?2, ... by a format: s const char * (NULL: SQL NULL), i int64_t, d double, b 32 bytes (const uint8_t *). The bytes are
 * borrowed until the statement is bound anew. */
int db_bind(sqlite3_stmt *st, struct err *e, const char *format, ...);
const char *db_text(sqlite3_stmt *st, int column); /* never NULL; valid until the next step */

/* Copies the database as it is at one moment into a file, which is replaced; it is on the disk when 0 is returned. Takes as long as it
 * takes, on a connection of its own; `stop` (may be NULL) is asked between steps, and ends it with ERR_UNAVAILABLE. Any thread but the writer's. */
int db_copy(struct db *d, const char *path, bool (*stop)(void *u), void *u, struct err *e);

/* "file:PATH?query" for SQLite, PATH escaped; query as in "mode=ro". ERR_INVALID: too long. */
#define DB_URI_MAX 4096
int db_uri(const char *path, const char *query, char out[DB_URI_MAX], struct err *e);

/* Of the database's shape that this program makes; one of a greater version is refused. A file has its own in bytes 60 to 63, the greatest first. */
int db_version(void);
#define DB_VERSION_AT 60

const char *db_dir(const struct db *d);
const uint8_t *db_pepper(const struct db *d); /* 32 bytes, kept outside the database, mode 0600 */
int db_queue_len(const struct db *d);
bool db_writable(const struct db *d); /* the last write went well, or nothing has failed since the recovery */
