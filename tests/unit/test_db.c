/* Tests of gateway/db: groups and savepoints, durability, the reader's deadline, the lock, the pepper, migrations, a
 * failing disk. */
#include "base/clock.h"
#include "base/json.h"
#include "gateway/db/db_audit.h"
#include "gateway/db/db_internal.h"
#include "tests/unit/data_room.h"
#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct put {
    int64_t value;
    bool fails, raw; /* raw: fail by SQL, not by us */
    _Atomic int done;
    enum err_code code;
};

static int run_put(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "INSERT INTO meta(name, value) VALUES(?1, ?2)",
                      bad[] = "INSERT INTO meta(name, value) VALUES('same', NULL)";
    struct put *p = u;
    char name[32];
    snprintf(name, sizeof name, "v%lld", (long long)p->value);
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "si", name, p->value) || db_done(st, e)) return -1;
    if (p->raw) return (st = db_stmt(d, c, bad, e)) ? db_done(st, e) : -1;
    return p->fails ? err_set(e, ERR_CONFLICT, "as asked") : 0;
}

static void done_put(void *u, const struct err *e)
{
    struct put *p = u;
    p->code = e ? e->code : ERR_NONE;
    p->done++;
}

static void wait_for(_Atomic int *n, int want)
{
    for (int i = 0; *n < want && i < 5000; i++) usleep(1000);
    assert_int_equal(*n, want);
}

/* A job that keeps the writer busy until the queue behind it is long. */
static int run_wait(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d, (void)c, (void)e;
    for (int i = 0; !*(_Atomic bool *)u && i < 5000; i++) usleep(1000);
    return 0;
}

static void a_failing_job_of_a_group_is_undone_alone(void **state)
{
    struct room *r = *state;
    struct put p[9] = {0};
    _Atomic bool go = false;
    struct err e = {0};
    assert_ok(db_write(r->db, &(struct db_job){.run = run_wait, .user = &go}, &e), e);
    for (int i = 0; i < 9; i++) {
        p[i].value = i;
        p[i].fails = i % 3 == 1;
        p[i].raw = i % 3 == 2;
        assert_ok(
            db_write(r->db, &(struct db_job){.run = run_put, .done = done_put, .user = &p[i], .durable = true}, &e), e);
    }
    go = true;
    for (int i = 0; i < 9; i++) wait_for(&p[i].done, 1);
    for (int i = 0; i < 9; i++) assert_int_equal(p[i].code, i % 3 == 0 ? ERR_NONE : i % 3 == 1 ? ERR_CONFLICT : ERR_IO);
    assert_int_equal(room_number(r, "SELECT count(*) FROM meta WHERE name LIKE 'v%'"), 3);
    assert_true(db_writable(r->db));
}

static void what_is_queued_is_committed_together(void **state)
{
    struct room *r = *state;
    enum { N = 2000 };
    struct put *p = calloc(N, sizeof *p);
    struct err e = {0};
    _Atomic bool go = false;
    assert_ok(db_write(r->db, &(struct db_job){.run = run_wait, .user = &go}, &e), e);
    for (int i = 0; i < N; i++) {
        p[i].value = i;
        assert_ok(
            db_write(r->db, &(struct db_job){.run = run_put, .done = done_put, .user = &p[i], .durable = true}, &e), e);
    }
    int64_t t = clock_mono_us();
    go = true;
    wait_for(&p[N - 1].done, 1);
    t = clock_mono_us() - t;
    for (int i = 0; i < N; i++) assert_int_equal(p[i].done, 1);
    assert_int_equal(room_number(r, "SELECT count(*) FROM meta"), N);
    pthread_mutex_lock(&r->db->lock);
    int head = (int)r->db->head;
    pthread_mutex_unlock(&r->db->lock);
    assert_int_equal(head, 0); /* an empty queue begins anew: its 2.6 MB are touched as far as it was ever full */
    assert_true(t < 2000000); /* one fsync each would take longer on any disk that has one */
    free(p);
}

static void the_queue_is_bounded_and_keeps_places_for_the_urgent(void **state)
{
    struct room *r = *state;
    struct err e = {0};
    _Atomic bool go = false;
    struct put p = {0}, urgent = {.value = 1};
    struct db_job nothing = {.run = run_put, .done = done_put, .user = &p};
    p.fails = true;
    assert_ok(db_write(r->db, &(struct db_job){.run = run_wait, .user = &go}, &e), e);
    int taken = 0;
    while (db_write(r->db, &nothing, &e) == 0) taken++;
    assert_int_equal(e.code, ERR_LEDGER);
    assert_true(taken >= DB_QUEUE_MAX - DB_QUEUE_URGENT - 1 && taken <= DB_QUEUE_MAX - DB_QUEUE_URGENT + DB_GROUP_MAX);
    struct err e2 = {0};
    assert_ok(db_write(r->db, &(struct db_job){.run = run_put, .done = done_put, .user = &urgent, .urgent = true}, &e2),
              e2);
    go = true;
    wait_for(&urgent.done, 1);
    wait_for(&p.done, taken);
}

static int run_endless(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    (void)u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return st ? db_done(st, e) : -1;
}

static void a_long_question_is_cut_at_its_deadline(void **state)
{
    struct room *r = *state;
    struct err e = {0};
    int64_t t = clock_mono_us();
    assert_int_equal(db_read(r->db, run_endless, NULL, 50, &e), -1);
    assert_int_equal(e.code, ERR_DEADLINE);
    assert_true(clock_mono_us() - t < 2000000);
    assert_int_equal(room_number(r, "SELECT 7"), 7);
}

static int run_insert_by_reader(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "INSERT INTO meta(name, value) VALUES('x', 1)";
    (void)u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return st ? db_done(st, e) : -1;
}

static void a_reader_cannot_write(void **state)
{
    struct err e = {0};
    assert_int_equal(db_read(((struct room *)*state)->db, run_insert_by_reader, NULL, 1000, &e), -1);
}

static void count_up(void *u)
{
    ++*(_Atomic int *)u;
}

static void deferred_work_runs_once_each_even_at_the_close(void **state)
{
    struct room *r = *state;
    struct err e = {0};
    _Atomic int n = 0;
    int given = 0;
    while (given < DB_DEFERRED_MAX && db_defer(r->db, count_up, (void *)&n, &e) == 0) given++;
    db_close(r->db);
    assert_int_equal(n, given);
    assert_true(given > 0);
    room_start(r);
}

static void files_and_settings_are_as_promised(void **state)
{
    struct room *r = *state;
    struct stat st;
    char path[128];
    static const struct {
        const char *name;
        mode_t mode;
        off_t size;
    } want[] = {
        {"pepper", S_IFREG | 0600, 32}, {"lock", S_IFREG | 0600, 0},   {"run", S_IFDIR | 0700, -1},
        {"tmp", S_IFDIR | 0700, -1},    {"blobs", S_IFDIR | 0700, -1}, {"archive", S_IFDIR | 0700, -1},
        {"packed", S_IFDIR | 0700, -1}, {"", S_IFDIR | 0700, -1},
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        snprintf(path, sizeof path, "%s/%s", r->dir, want[i].name);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode, want[i].mode);
        if (want[i].size >= 0) assert_int_equal(st.st_size, want[i].size);
    }
    assert_int_equal(room_number(r, "PRAGMA page_size"), 4096);
    assert_int_equal(room_number(r, "PRAGMA foreign_keys"), 1);
    assert_int_equal(room_number(r, "PRAGMA trusted_schema"), 0);
    assert_int_equal(room_number(r, "PRAGMA cell_size_check"), 1);
    assert_int_equal(
        room_number(r, "SELECT count(*) FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND NOT strict"
                       " AND name NOT LIKE 'sqlite%'"),
        0);
    assert_int_equal(room_number(r, "PRAGMA user_version"), db_nmigrations);
}

static void the_page_caches_are_as_large_as_was_asked(void **state)
{
    struct room *r = *state;
    struct err e = {0};
    struct room_number writer = {"PRAGMA cache_size", 0}; /* negative: KiB */
    assert_ok(db_write_wait(r->db, room_read_number, &writer, &e), e);
    assert_int_equal(-writer.v, DB_CACHE_MB * 1024);
    assert_int_equal(-room_number(r, "PRAGMA cache_size"), DB_CACHE_MB * 1024 / 4);
    db_close(r->db);
    assert_ok(db_open(&r->db, &(struct db_options){.dir = r->dir, .sync_ms = 5, .cache_mb = 3}, &e), e);
    assert_ok(db_write_wait(r->db, room_read_number, &writer, &e), e);
    assert_int_equal(-writer.v, 3 * 1024);
    assert_int_equal(-room_number(r, "PRAGMA cache_size"), 3 * 1024 / 4);
}

static void the_pepper_is_made_once_and_its_loss_is_named(void **state)
{
    struct room *r = *state;
    struct err e = {0};
    uint8_t first[32];
    char path[128];
    memcpy(first, db_pepper(r->db), 32);
    db_close(r->db);
    room_start(r);
    assert_memory_equal(first, db_pepper(r->db), 32);
    db_close(r->db);
    snprintf(path, sizeof path, "%s/pepper", r->dir);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(db_open(&r->db, &(struct db_options){.dir = r->dir}, &e), -1);
    assert_non_null(strstr(e.msg, "pepper is missing"));
    r->db = NULL;
}

static void a_second_process_is_refused_by_the_lock(void **state)
{
    struct room *r = *state;
    struct err e = {0};
    struct db *second = NULL;
    assert_int_equal(db_open(&second, &(struct db_options){.dir = r->dir}, &e), -1);
    assert_int_equal(e.code, ERR_CONFLICT);
    pid_t pid = fork();
    if (pid == 0) {
        struct err in_child = {0};
        _exit(db_open(&second, &(struct db_options){.dir = r->dir}, &in_child) && in_child.code == ERR_CONFLICT ? 0
                                                                                                                : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void a_newer_database_is_refused(void **state)
{
    struct room *r = *state;
    struct err e = {0};
    char path[128];
    sqlite3 *c;
    db_close(r->db);
    r->db = NULL;
    snprintf(path, sizeof path, "%s/" DB_FILE, r->dir);
    assert_int_equal(sqlite3_open(path, &c), SQLITE_OK);
    assert_int_equal(sqlite3_exec(c, "PRAGMA user_version=9999", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(c);
    assert_int_equal(db_open(&r->db, &(struct db_options){.dir = r->dir}, &e), -1);
    assert_int_equal(e.code, ERR_CONFLICT);
    assert_non_null(strstr(e.msg, "9999"));
}

static void a_migration_is_whole_or_not_at_all_and_leaves_a_copy(void **state)
{
    struct room *r = *state;
    static const struct db_migration rows[] = {
        {1, "one", "CREATE TABLE one(x INTEGER) STRICT"},
        {2, "two", "CREATE TABLE two(x INTEGER) STRICT; INSERT INTO two VALUES(1)"},
        {3, "broken", "CREATE TABLE three(x INTEGER) STRICT; INSERT INTO nowhere VALUES(1)"},
    };
    struct err e = {0};
    sqlite3 *c;
    char path[128];
    snprintf(path, sizeof path, "%s/other.db", r->dir);
    assert_int_equal(sqlite3_open(path, &c), SQLITE_OK);
    assert_ok(db_migrate(c, r->dir, rows, 1, &e), e);
    assert_ok(db_migrate(c, r->dir, rows, 2, &e), e);
    snprintf(path, sizeof path, "%s/archive/weft-before-v2.db", r->dir);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(db_migrate(c, r->dir, rows, 3, &e), -1);
    assert_non_null(strstr(e.msg, "migration 3"));
    assert_int_equal(sqlite3_exec(c, "SELECT x FROM two", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_exec(c, "SELECT x FROM three", NULL, NULL, NULL), SQLITE_ERROR);
    assert_int_equal(sqlite3_get_autocommit(c), 1);
    sqlite3_close(c);
}

/* --- a disk that refuses: the calls that SQLite's VFS makes are replaced for a while --- */

static _Atomic int disk_errno;
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);

static ssize_t bad_pwrite(int fd, const void *p, size_t n, off_t at)
{
    if (!disk_errno) return real_pwrite(fd, p, n, at);
    errno = disk_errno;
    return -1;
}

static void after_the_disk_refused_the_writer_recovers_and_nothing_acknowledged_is_lost(void **state)
{
    struct room *r = *state;
    static const int errors[] = {ENOSPC, EIO};
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    const char *name = vfs->xGetSystemCall(vfs, "pwrite64") ? "pwrite64" : "pwrite";
    real_pwrite = (ssize_t(*)(int, const void *, size_t, off_t))vfs->xGetSystemCall(vfs, name);
    assert_int_equal(vfs->xSetSystemCall(vfs, name, (sqlite3_syscall_ptr)bad_pwrite), SQLITE_OK);
    int acknowledged = 0;
    for (int round = 0; round < 6; round++) {
        struct err e = {0}, refused = {0}, full = {0};
        struct put good = {.value = 100 + 3 * round}, bad = {.value = 101 + 3 * round},
                   again = {.value = 102 + 3 * round};
        assert_ok(db_write_wait(r->db, run_put, &good, &e), e);
        disk_errno = errors[round % 2];
        assert_int_equal(db_write_wait(r->db, run_put, &bad, &refused), -1);
        assert_int_equal(refused.code, ERR_LEDGER);
        assert_false(db_writable(r->db));
        assert_int_equal(db_write_wait(r->db, run_put, &bad, &full), -1);
        disk_errno = 0;
        for (int i = 0; i < 1000 && !db_writable(r->db); i++) usleep(1000);
        assert_true(db_writable(r->db));
        assert_ok(db_write_wait(r->db, run_put, &again, &e), e);
        acknowledged += 2;
        assert_int_equal(room_number(r, "SELECT count(*) FROM meta WHERE name LIKE 'v%'"), acknowledged);
    }
    vfs->xSetSystemCall(vfs, name, NULL);
    assert_int_equal(room_number(r, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'"), 0);
}

static ssize_t (*real_pread)(int, void *, size_t, off_t);

static ssize_t bad_pread(int fd, void *p, size_t n, off_t at)
{
    if (!disk_errno) return real_pread(fd, p, n, at);
    errno = disk_errno;
    return -1;
}

static int run_look(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT count(*) FROM audit, meta";
    (void)u;
    sqlite3_db_cacheflush(c);
    sqlite3_db_release_memory(c); /* so that it has to be read */
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return st ? db_done(st, e) : -1;
}

/* SQLite's word for it is "malformed". */
static void a_read_that_failed_once_is_no_malformed_file(void **state)
{
    struct room *r = *state;
    struct err e = {0}, refused = {0};
    struct put p = {.value = 1};
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    const char *name = vfs->xGetSystemCall(vfs, "pread64") ? "pread64" : "pread";
    real_pread = (ssize_t(*)(int, void *, size_t, off_t))vfs->xGetSystemCall(vfs, name);
    assert_int_equal(vfs->xSetSystemCall(vfs, name, (sqlite3_syscall_ptr)bad_pread), SQLITE_OK);
    disk_errno = EIO;
    assert_int_equal(db_write_wait(r->db, run_look, NULL, &refused), -1);
    assert_int_equal(refused.code, ERR_LEDGER);
    assert_int_equal(r->db->health, DB_BROKEN);
    disk_errno = 0;
    for (int i = 0; i < 5000 && !db_writable(r->db); i++) usleep(1000);
    assert_ok(db_write_wait(r->db, run_put, &p, &e), e);
    vfs->xSetSystemCall(vfs, name, NULL);
}

static sqlite3_mem_methods own;
static __thread bool short_of_memory; /* whether SQLite gets memory on this thread */

static void *starved_malloc(int size) { return short_of_memory ? NULL : own.xMalloc(size); }
static void *starved_realloc(void *p, int size) { return short_of_memory ? NULL : own.xRealloc(p, size); }

static void watch_memory(void)
{
    sqlite3_config(SQLITE_CONFIG_GETMALLOC, &own);
    sqlite3_mem_methods watched = own;
    watched.xMalloc = starved_malloc;
    watched.xRealloc = starved_realloc;
    sqlite3_config(SQLITE_CONFIG_MALLOC, &watched);
}

static int run_starved(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    sqlite3_db_release_memory(c);
    short_of_memory = true;
    int rc = run_look(d, c, u, e);
    if (rc == 0) rc = run_put(d, c, u, e);
    short_of_memory = false;
    return rc;
}

static void one_shortage_of_memory_stops_nobody_but_who_met_it(void **state)
{
    struct room *r = *state;
    for (int i = 0; i < 5; i++) {
        struct err e = {0}, short_of = {0};
        struct put starved = {.value = 2 * i}, fed = {.value = 2 * i + 1};
        assert_int_equal(db_write_wait(r->db, run_starved, &starved, &short_of), -1);
        assert_int_equal(short_of.code, ERR_LEDGER);
        assert_true(db_writable(r->db));
        assert_ok(db_write_wait(r->db, run_put, &fed, &e), e);
    }
    assert_int_equal(room_number(r, "SELECT count(*) FROM meta WHERE name LIKE 'v%'"), 5);
}

static int read_one(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT count(*) FROM meta";
    (void)u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return st ? db_done(st, e) : -1;
}

static int read_starved(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    int rc = read_one(d, c, u, e);
    short_of_memory = true; /* for all that comes after it, too */
    return rc;
}

/* A connection that nobody read with before: the first one is taken meanwhile. */
static int read_beside(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)c, (void)u;
    db_read(d, read_starved, NULL, 1000, NULL);
    short_of_memory = false;
    assert_true(sqlite3_get_autocommit(d->reader[1].c));
    return db_read(d, read_one, NULL, 1000, e);
}

static void the_end_of_a_read_needs_no_memory(void **state)
{
    struct room *r = *state;
    struct err e = {0};
    assert_ok(db_read(r->db, read_beside, NULL, 5000, &e), e);
}

/* Sanitizers ask for these: what is larger than anything is answered with NULL there, too. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "allocator_may_return_null=1"; }
const char *__tsan_default_options(void);
const char *__tsan_default_options(void) { return "allocator_may_return_null=1"; }

/* What is said in JSON, without the part that had no memory: nobody looks. */
static void say_less(void)
{
    json_t *list = json_array();
    json_array_append_new(list, json_stringn_nocheck("x", SIZE_MAX / 4));
    json_decref(list);
}

static int put_less(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    say_less();
    return run_put(d, c, u, e);
}

static void what_lacks_a_part_for_want_of_memory_is_not_written(void **state)
{
    struct room *r = *state;
    struct err short_of = {0}, e = {0};
    struct put less = {.value = 1}, whole = {.value = 2};
    json_load_start();
    assert_int_equal(db_write_wait(r->db, put_less, &less, &short_of), -1);
    assert_int_equal(short_of.code, ERR_NO_MEMORY);
    assert_ok(db_write_wait(r->db, run_put, &whole, &e), e);
    assert_int_equal(room_number(r, "SELECT count(*) FROM meta WHERE name LIKE 'v%'"), 1);
}

static int run_checkpoint_due(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)c, (void)u, (void)e;
    d->checkpoint_at = 1;
    return 0;
}

static void the_reserve_is_given_up_on_a_full_disk_and_made_again_after_it(void **state)
{
    struct room *r = *state;
    struct err e = {0}, refused = {0};
    struct put bad = {.value = 1}, good = {.value = 2};
    char path[128];
    snprintf(path, sizeof path, "%s/reserve", r->dir);
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    const char *name = vfs->xGetSystemCall(vfs, "pwrite64") ? "pwrite64" : "pwrite";
    real_pwrite = (ssize_t(*)(int, const void *, size_t, off_t))vfs->xGetSystemCall(vfs, name);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(vfs->xSetSystemCall(vfs, name, (sqlite3_syscall_ptr)bad_pwrite), SQLITE_OK);
    disk_errno = ENOSPC;
    assert_int_equal(db_write_wait(r->db, run_put, &bad, &refused), -1);
    assert_int_equal(access(path, F_OK), -1);
    disk_errno = 0;
    for (int i = 0; i < 5000 && !db_writable(r->db); i++) usleep(1000);
    vfs->xSetSystemCall(vfs, name, NULL);
    assert_ok(db_write_wait(r->db, run_put, &good, &e), e);
    assert_ok(db_write_wait(r->db, run_checkpoint_due, NULL, &e), e);
    for (int i = 0; i < 5000 && access(path, F_OK); i++) usleep(1000);
    assert_int_equal(access(path, F_OK), 0);
}

/* The program's own fdatasync() stands before the C library's, for SQLite too. */
static _Atomic bool hold_syncs;
static _Atomic int syncs_held, sync_errno;
static _Atomic bool told_once; /* as the kernel does: the error is that of the first call, held or not */

int fdatasync(int fd)
{
    int mine = sync_errno;
    if (mine && told_once) sync_errno = 0;
    syncs_held++;
    for (int i = 0; hold_syncs && i < 5000; i++) usleep(1000);
    syncs_held--;
    if (!mine) mine = sync_errno;
    errno = mine;
    return mine ? -1 : (int)syscall(SYS_fdatasync, fd);
}

static void a_commit_does_not_wait_for_the_sync_of_an_earlier_one(void **state)
{
    struct room *r = *state;
    struct err e = {0};
    struct put first = {.value = 1}, later[20] = {{0}};
    hold_syncs = true;
    assert_ok(db_write(r->db, &(struct db_job){run_put, done_put, &first, .durable = true}, &e), e);
    wait_for(&syncs_held, 1);
    for (int i = 0; i < 20; i++) {
        later[i].value = 2 + i;
        assert_ok(db_write(r->db, &(struct db_job){run_put, done_put, &later[i], .durable = i % 2}, &e), e);
        wait_for(&later[i].done, 1);
        assert_int_equal(later[i].code, ERR_NONE);
    }
    assert_int_equal(syncs_held, 1);
    assert_true(hold_syncs);
    hold_syncs = false;
    for (int i = 0; syncs_held && i < 5000; i++) usleep(1000);
    assert_int_equal(room_number(r, "SELECT count(*) FROM meta WHERE name LIKE 'v%'"), 21);
}

static void a_sync_that_fails_beside_the_writer_stops_it_until_the_disk_is_back(void **state)
{
    struct room *r = *state;
    struct err e = {0}, refused = {0};
    struct put first = {.value = 1}, second = {.value = 2}, third = {.value = 3};
    sync_errno = EIO;
    assert_ok(db_write(r->db, &(struct db_job){run_put, done_put, &first, .durable = true}, &e), e);
    for (int i = 0; i < 5000 && db_writable(r->db); i++) usleep(1000);
    assert_false(db_writable(r->db));
    assert_int_equal(db_write(r->db, &(struct db_job){.run = run_put, .done = done_put, .user = &second}, &refused), -1);
    assert_int_equal(refused.code, ERR_LEDGER);
    sync_errno = 0;
    for (int i = 0; i < 5000 && !db_writable(r->db); i++) usleep(1000);
    assert_true(db_writable(r->db));
    assert_ok(db_write_wait(r->db, run_put, &third, &e), e);
    assert_int_equal(room_number(r, "SELECT count(*) FROM meta WHERE name LIKE 'v%'"), 2);
}

static void nothing_is_called_durable_when_the_sync_beside_the_writer_met_the_error(void **state)
{
    struct room *r = *state;
    struct err e = {0};
    struct put first = {.value = 1}, second = {.value = 2}, third = {.value = 3};
    hold_syncs = told_once = true;
    sync_errno = EIO;
    assert_ok(db_write(r->db, &(struct db_job){run_put, done_put, &first, .durable = true}, &e), e);
    wait_for(&syncs_held, 1);
    r->db->ack_durable = true;
    assert_ok(db_write(r->db, &(struct db_job){run_put, done_put, &second, .durable = true}, &e), e);
    for (int i = 0; i < 5000 && room_number(r, "SELECT count(*) FROM meta WHERE name LIKE 'v%'") < 2; i++) usleep(1000);
    assert_int_equal(second.done, 0);
    hold_syncs = told_once = false;
    wait_for(&second.done, 1);
    assert_int_equal(second.code, ERR_LEDGER);
    for (int i = 0; i < 5000 && !db_writable(r->db); i++) usleep(1000);
    assert_ok(db_write_wait(r->db, run_put, &third, &e), e);
}

struct snapshot {
    _Atomic bool held, go;
};

static int hold_snapshot(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct snapshot *s = u;
    sqlite3_stmt *st = db_stmt(d, c, "SELECT name FROM meta", e);
    assert_int_equal(db_row(st, e), 1);
    s->held = true;
    for (int i = 0; !s->go && i < 5000; i++) usleep(1000);
    sqlite3_reset(st);
    return 0;
}

static void *read_on(void *u)
{
    void **with = u;
    db_read(((struct room *)with[0])->db, hold_snapshot, with[1], 10000, NULL);
    return NULL;
}

static void after_a_lost_write_back_nothing_is_written_before_all_of_the_log_is_in_the_file(void **state)
{
    struct room *r = *state;
    struct err e = {0};
    struct put first = {.value = 1}, second = {.value = 2};
    struct snapshot s = {false, false};
    pthread_t reader;
    assert_ok(db_write_wait(r->db, run_put, &first, &e), e);
    pthread_create(&reader, NULL, read_on, (void *[]){r, &s});
    for (int i = 0; !s.held && i < 5000; i++) usleep(1000);
    sync_errno = EIO;
    assert_ok(db_write(r->db, &(struct db_job){run_put, done_put, &second, .durable = true}, &e), e);
    for (int i = 0; i < 5000 && db_writable(r->db); i++) usleep(1000);
    sync_errno = 0;
    usleep(400000); /* some tries */
    assert_false(db_writable(r->db));
    s.go = true;
    pthread_join(reader, NULL);
    for (int i = 0; i < 5000 && !db_writable(r->db); i++) usleep(1000);
    assert_true(db_writable(r->db));
    assert_int_equal(room_number(r, "SELECT count(*) FROM meta WHERE name LIKE 'v%'"), 2);
}

static int run_audit(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct actor by = {"key", "127.0.0.1", "request", NULL, 0};
    json_t *after = json_pack("{si}", "n", *(int *)u);
    int rc = audit_add(d, c, &(struct audit){&by, "test.change", "thing", NULL, after}, e);
    json_decref(after);
    return rc;
}

static int run_forge(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "UPDATE audit SET actor = 'somebody' WHERE seq = 3";
    (void)u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return st ? db_done(st, e) : -1;
}

static void a_changed_audit_row_breaks_the_chain(void **state)
{
    struct room *r = *state;
    struct err e = {0};
    int64_t rows, bad;
    for (int i = 0; i < 5; i++) assert_ok(db_write_wait(r->db, run_audit, &i, &e), e);
    assert_ok(audit_verify(r->db, &rows, &bad, &e), e);
    assert_int_equal(rows, 5);
    assert_int_equal(bad, 0);
    json_t *list = json_array();
    bool more;
    assert_ok(audit_list(r->db, 0, 2, list, &more, &e), e);
    assert_int_equal(json_array_size(list), 2);
    assert_true(more);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(list, 0), "seq")), 5);
    json_decref(list);
    assert_ok(db_write_wait(r->db, run_forge, NULL, &e), e);
    assert_ok(audit_verify(r->db, &rows, &bad, &e), e);
    assert_int_equal(bad, 3);
}

int main(void)
{
    watch_memory();
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, room_setup, room_teardown)
        T(a_failing_job_of_a_group_is_undone_alone),
        T(what_is_queued_is_committed_together),
        T(the_queue_is_bounded_and_keeps_places_for_the_urgent),
        T(a_long_question_is_cut_at_its_deadline),
        T(a_reader_cannot_write),
        T(deferred_work_runs_once_each_even_at_the_close),
        T(files_and_settings_are_as_promised),
        T(the_page_caches_are_as_large_as_was_asked),
        T(the_pepper_is_made_once_and_its_loss_is_named),
        T(a_second_process_is_refused_by_the_lock),
        T(a_newer_database_is_refused),
        T(a_migration_is_whole_or_not_at_all_and_leaves_a_copy),
        T(after_the_disk_refused_the_writer_recovers_and_nothing_acknowledged_is_lost),
        T(a_read_that_failed_once_is_no_malformed_file),
        T(one_shortage_of_memory_stops_nobody_but_who_met_it),
        T(the_end_of_a_read_needs_no_memory),
        T(what_lacks_a_part_for_want_of_memory_is_not_written),
        T(the_reserve_is_given_up_on_a_full_disk_and_made_again_after_it),
        T(a_commit_does_not_wait_for_the_sync_of_an_earlier_one),
        T(a_sync_that_fails_beside_the_writer_stops_it_until_the_disk_is_back),
        T(nothing_is_called_durable_when_the_sync_beside_the_writer_met_the_error),
        T(after_a_lost_write_back_nothing_is_written_before_all_of_the_log_is_in_the_file),
        T(a_changed_audit_row_breaks_the_chain),
#undef T
    };
    return cmocka_run_group_tests_name("db", tests, NULL, NULL);
}
