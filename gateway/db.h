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
#define DB_READERS 4

struct db;

struct db_options {
    const char *dir;   /* $WEFT_DATA: weft.db, pepper, lock, run/, tmp/, blobs/ are made in it, mode 0700 */
    int sync_ms;       /* a durable job waits at most so long for its fsync */
    bool ack_durable;  /* done() of durable jobs comes after the fsync */
};

/* Takes the lock file (ERR_CONFLICT when another process holds it), opens or creates and migrates the database. */
int db_open(struct db **out, const struct db_options *o, struct err *e);

/* Finishes the queue, commits, closes. */
void db_close(struct db *d);

/* A change. run() sees the writer's connection inside a transaction; done() comes on the writer thread once the group is committed (or has
 * failed) and must not block. */
struct db_job {
    int (*run)(struct db *d, sqlite3 *c, void *u, struct err *e);
    void (*done)(void *u, const struct err *e); /* e NULL: committed; may be NULL */
    void *user;
    bool durable; /* must reach the disk within sync_ms (settlements, control data); else it survives kill -9, not power loss */
    bool urgent;  /* may use the part of the queue that is kept for settlements: never refused */
};

int db_write(struct db *d, const struct db_job *j, struct err *e);      /* any thread; ERR_LEDGER when the queue is full */
int db_write_wait(struct db *d, int (*run)(struct db *d, sqlite3 *c, void *u, struct err *e), void *u, struct err *e);

/* Runs fn on this thread with a read-only connection; interrupted after deadline_ms (ERR_DEADLINE). */
int db_read(struct db *d, int (*fn)(struct db *d, sqlite3 *c, void *u, struct err *e), void *u, int deadline_ms, struct err *e);

/* The statement for this constant string on this connection, prepared once and cached, reset and unbound; NULL with ERR_IO. */
sqlite3_stmt *db_stmt(struct db *d, sqlite3 *c, const char *sql, struct err *e);
/* sqlite3_step to the end; 0 or -1 with the library's message. */
int db_done(sqlite3_stmt *st, struct err *e);
int db_error(sqlite3 *c, const char *what, struct err *e);

const char *db_dir(const struct db *d);
const uint8_t *db_pepper(const struct db *d); /* 32 bytes, kept outside the database, mode 0600 */
int db_queue_len(const struct db *d);
