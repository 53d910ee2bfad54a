/* What the parts of gateway/db share: db.c (open, statements), db_files.c, db_migrate.c, db_writer.c, db_sync.c,
 * db_reader.c, db_pages.c. Nobody else includes it. */
#pragma once
#include "gateway/db/db.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#define DB_STATEMENTS 1024 /* per connection, a power of two; filled to three quarters at most */
#define DB_PATH_MAX DB_PATH_LEN
#define DB_GROUP_MAX 4096 /* jobs of one transaction: the more, the more of them count in the same sums */
#define DB_PAGE_BYTES 4096
#define DB_BUSY_MS 5000 /* nobody else writes, so a busy is a bug; wait rather than fail */

enum db_health { DB_HEALTHY, DB_BROKEN, DB_CORRUPT };

struct db_slot {
    const char *sql;
    sqlite3_stmt *st;
};

struct db_conn {
    sqlite3 *c;
    struct db_slot slot[DB_STATEMENTS];
    int used;
    int64_t deadline_us; /* readers: monotonic; looked at by the progress handler */
    bool taken;
};

struct db_files {
    char dir[512];
    int lock; /* descriptor that holds the flock, -1: none */
    uint8_t pepper[32];
};

struct db_queued {
    struct db_job job;
    bool ack; /* done() waits for the fsync, whatever the options say */
};

struct db_deferred {
    void (*fn)(void *u);
    void *user;
};

struct db {
    struct db_files files;
    char path[DB_PATH_MAX];
    int sync_ms;
    bool ack_durable;
    int cache_mb; /* pages that the writer's connection keeps */
    _Atomic int health; /* enum db_health */

    /* Writer. `lock` covers the ring, stop, wake and what is db_sync.c's; the rest is the writer thread's own. */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct db_queued *ring; /* [DB_QUEUE_MAX] */
    unsigned head, len;
    bool stop;
    bool writer_runs;
    pthread_t writer_thread;
    struct db_conn writer;
    struct db_queued group[DB_GROUP_MAX];
    struct err result[DB_GROUP_MAX];
    int (*later)(struct db *d, sqlite3 *c, const void *const *what, int n, struct err *e);
    const void *left[DB_LATER_MAX]; /* to it, by the jobs of this group so far */
    int nleft;
    int64_t sync_due_us;  /* monotonic; 0: nothing waits for an fsync */
    int64_t retry_us;     /* broken: not before */
    int64_t group_us;     /* monotonic; end of the last group */
    _Atomic int wal_pages;         /* read by tests, as cut_again_us */
    int checkpoint_at;
    int wal_longest;         /* pages, since the file was cut */
    _Atomic int64_t cut_again_us;  /* not before */
    uint32_t wal_frames;     /* of the last commit's WAL, checkpointed or not */
    struct db_pages *pages; /* db_pages.c's; NULL: nobody asks */
    bool reserve_gone;
    int shortages;        /* of memory, since the last group that went well */

    pthread_t sync_thread;
    pthread_cond_t sync_wake, sync_idle;
    sqlite3_file *syncing; /* the file in hand, NULL: none */
    int sync_rc;           /* of one that failed, until db_sync_result() */
    bool sync_runs, sync_stop;

    /* Readers. `pool` covers taken flags, `alone` and the deferred ring. */
    pthread_mutex_t pool;
    pthread_cond_t pool_free, deferred_wake;
    struct db_conn reader[DB_READERS];
    int alone; /* reads on connections of their own */
    struct db_deferred deferred[DB_DEFERRED_MAX];
    unsigned deferred_head, deferred_len;
    bool deferred_stop;
    int nthreads;
    pthread_t reader_thread[DB_READERS];
};

/* db.c */
int db_conn_open(struct db_conn *k, const struct db *d, bool writer, struct err *e);
void db_conn_close(struct db_conn *k);
sqlite3_stmt *db_conn_stmt(struct db_conn *k, const char *sql, struct err *e); /* db_stmt() of this connection */
void db_conn_reset(struct db_conn *k); /* ends every statement that is still in mid-result */

/* db_files.c */
int db_files_open(struct db_files *f, const struct db_options *o, struct err *e);
void db_files_close(struct db_files *f);
void db_reserve_make(const struct db_files *f); /* some room on the disk, given up when it is full */
bool db_reserve_drop(const struct db_files *f);  /* whether there was one */
bool db_reserve_again(const struct db_files *f); /* where there is room by now */

/* db_migrate.c */
struct db_migration {
    int version; /* 1, 2, ... without a gap */
    const char *what, *sql;
};
int db_migrate(sqlite3 *c, const char *dir, const struct db_migration *rows, int n, struct err *e);
extern const struct db_migration db_migrations[];
extern const int db_nmigrations;

/* db_writer.c */
int db_writer_start(struct db *d, struct err *e);
void db_writer_stop(struct db *d);

sqlite3_file *db_wal_file(struct db *d); /* the writer's; NULL: there is none */

/* db_pages.c, on the writer's thread. */
void db_pages_look(struct db *d);   /* after a commit, before the checkpoint */
void db_pages_forget(struct db *d); /* what was noted may not be all; or the end */

/* db_sync.c: the fsync beside the writer. */
int db_sync_start(struct db *d, struct err *e);
void db_sync_stop(struct db *d);
bool db_sync_begin(struct db *d, sqlite3_file *wal); /* false: one is in hand; d->wake is signalled when it is over */
void db_sync_wait(struct db *d);                     /* until none is in hand */
bool db_is_syncing(struct db *d); /* whether one is in hand */
int db_sync_result(struct db *d);                    /* SQLite's code of one that failed since the last call, or SQLITE_OK */

/* db_reader.c */
extern _Thread_local struct db_conn *db_alone; /* of this thread's db_read_alone() */
int db_readers_start(struct db *d, struct err *e);
void db_deferred_stop(struct db *d);
void db_readers_stop(struct db *d);
