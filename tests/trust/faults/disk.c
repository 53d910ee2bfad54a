/* disk: the ledger on a disk that refuses, at every one of its calls (row R4).
 *
 *     disk [--stride N]        every point, or one in N; one line of JSON
 *
 * A fixed workload (admissions, progress, settlements, a change that waits for the disk, a checkpoint) runs once for each point: a point is the Nth
 * call to the disk since its start, N = 0, 1, 2, ... until the workload ends without having made so many. The calls are those of SQLite's VFS, replaced
 * by its own hook, and fdatasync, which that hook lacks: this program's own stands before the C library's. Four series: ENOSPC (calls that take room)
 * and EIO (all), once and sticky. A sticky fault ends after the workload.
 *
 * Held at each point, counted in what is printed: what was acknowledged is there (an admission has its one row, a change its value); a refusal is
 * ERR_LEDGER, which is the client's 503; while a sticky fault lasts and the writer knows of it nothing new is let in; the writer serves again after it
 * without a restart; every settlement that was handed in is told of, once; rollups equal rows. After each series the file is opened anew and checked whole. */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/db/db_internal.h"
#include "gateway/ledger/ledger.h"
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REQUESTS 6       /* of one workload; the last is still open when the fault ends */
#define POINTS_MAX 2000  /* of one series: a workload makes far fewer calls */
#define WAIT_US 20000000 /* for anything: only a hang takes so long */
#define CALM 8           /* points between two looks at all rollups */

static struct {
    _Atomic bool on;
    bool sticky, only_room; /* only_room: calls that read are spared */
    int error, at;
    _Atomic int seen, done;
} fault;

static struct {
    int points, struck, acknowledged, refused, lost, twice, wrong, corrupt, unserved, hung, let_in, refused_meanwhile, reserves;
    int64_t slowest_us;
} sum;

static bool strikes(bool takes_room)
{
    if (!fault.on || (fault.only_room && !takes_room)) return false;
    int n = fault.seen++;
    if (fault.sticky ? n < fault.at : n != fault.at) return false;
    fault.done++;
    errno = fault.error;
    return true;
}

/* --- the disk --- */

static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_pread)(int, void *, size_t, off_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_open)(const char *, int, int);

static ssize_t my_pwrite(int fd, const void *p, size_t n, off_t at) { return strikes(true) ? -1 : real_pwrite(fd, p, n, at); }
static ssize_t my_pread(int fd, void *p, size_t n, off_t at) { return strikes(false) ? -1 : real_pread(fd, p, n, at); }
static int my_ftruncate(int fd, off_t n) { return strikes(true) ? -1 : real_ftruncate(fd, n); }
static int my_open(const char *path, int flags, int mode) { return strikes(flags & O_CREAT) ? -1 : real_open(path, flags, mode); }

int fdatasync(int fd) { return strikes(true) ? -1 : (int)syscall(SYS_fdatasync, fd); }

static sqlite3_syscall_ptr replace(sqlite3_vfs *vfs, const char *wide, const char *plain, sqlite3_syscall_ptr mine)
{
    const char *name = wide && vfs->xGetSystemCall(vfs, wide) ? wide : plain;
    sqlite3_syscall_ptr was = vfs->xGetSystemCall(vfs, name);
    if (!was || vfs->xSetSystemCall(vfs, name, mine) != SQLITE_OK) abort();
    return was;
}

static void take_the_disk(void)
{
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    real_pwrite = (ssize_t(*)(int, const void *, size_t, off_t))replace(vfs, "pwrite64", "pwrite", (sqlite3_syscall_ptr)my_pwrite);
    real_pread = (ssize_t(*)(int, void *, size_t, off_t))replace(vfs, "pread64", "pread", (sqlite3_syscall_ptr)my_pread);
    real_ftruncate = (int (*)(int, off_t))replace(vfs, NULL, "ftruncate", (sqlite3_syscall_ptr)my_ftruncate);
    real_open = (int (*)(const char *, int, int))replace(vfs, NULL, "open", (sqlite3_syscall_ptr)my_open);
}

/* --- the workload --- */

struct request {
    struct admission a;
    _Atomic int admitted; /* 0 not yet, 1 yes, -1 refused */
    _Atomic int told;     /* how often its settlement was */
    bool wrong;           /* refused with another error than ERR_LEDGER */
};

struct world {
    char dir[64];
    struct db *db;
    struct ledger *l;
    int64_t rows, puts; /* acknowledged: requests that were admitted, values that were put */
    char (*id)[UUID_LEN];
    int64_t *put;
};

static void die(const char *what, const struct err *e)
{
    fprintf(stderr, "disk: %s: %s (errno %d, sticky %d, call %d)\n", what, e ? e->msg : "", fault.error, fault.sticky, fault.at);
    exit(2);
}

static bool comes(_Atomic int *v)
{
    for (int64_t until = clock_mono_us() + WAIT_US; !*v && clock_mono_us() < until;) usleep(50);
    return *v != 0;
}

static void on_admitted(void *u, const struct err *e)
{
    struct request *q = u;
    q->wrong = e && e->code != ERR_LEDGER;
    q->admitted = e ? -1 : 1;
}

static void on_settled(void *u) { ++((struct request *)u)->told; }

static void ask(struct world *w, struct request *q, int n)
{
    struct err e = {0};
    q->a = (struct admission){.endpoint = "/v1/chat/completions", .stream = n & 1, .reserved_tokens = 100, .t_start = clock_wall_us()};
    uuid7(q->a.id);
    snprintf(q->a.who.tenant, sizeof q->a.who.tenant, "tenant-%d", n % 2);
    snprintf(q->a.who.key, sizeof q->a.who.key, "key");
    snprintf(q->a.what.base, sizeof q->a.what.base, "base");
    snprintf(q->a.model, sizeof q->a.model, "base");
    if (ledger_admit(w->l, &q->a, on_admitted, q, &e)) on_admitted(q, &e);
}

static void end(struct world *w, struct request *q)
{
    struct settlement s = {.state = USAGE_COMPLETED, .http_status = 200, .finish = "stop", .t_first = q->a.t_start + 10, .t_end = q->a.t_start + 20, .prompt = 7,
                           .delivered = 5, .produced = 5, .source = COUNT_ENGINE, .attempt = 1, .engine = "local"};
    ledger_settle(w->l, &q->a, &s, on_settled, q);
}

static int run_put(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "INSERT INTO meta(name, value) VALUES('put' || ?1, ?1)";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return st && db_bind(st, e, "i", *(int64_t *)u) == 0 ? db_done(st, e) : -1;
}

/* On the writer's thread, whose field it is: the next moment without work is a checkpoint's. */
static int run_due(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)c, (void)u, (void)e;
    d->checkpoint_at = 1;
    return 0;
}

static void checkpoint(struct world *w)
{
    struct err e = {0};
    if (db_write_wait(w->db, run_due, NULL, &e)) return;
    for (int64_t until = clock_mono_us() + 1000000; w->db->wal_pages && db_writable(w->db) && clock_mono_us() < until;) usleep(100);
}

static void put(struct world *w, int64_t n)
{
    struct err e = {0};
    if (db_write_wait(w->db, run_put, &n, &e) == 0) w->put[w->puts++] = n;
    else if (e.code != ERR_LEDGER) sum.wrong++;
}

static void work(struct world *w, struct request q[REQUESTS], int64_t point)
{
    for (int i = 0; i < REQUESTS; i++) {
        ask(w, &q[i], i);
        if (i < REQUESTS / 2 && !comes(&q[i].admitted)) sum.hung++; /* half of them alone, the others as a group */
    }
    for (int i = REQUESTS / 2; i < REQUESTS; i++)
        if (!comes(&q[i].admitted)) sum.hung++;
    if (q[0].admitted > 0) ledger_progress(w->l, q[0].a.id, 7, 0, 2);
    for (int i = 0; i < REQUESTS - 1; i++) {
        if (q[i].admitted > 0) end(w, &q[i]);
        if (i == 1) checkpoint(w);
    }
    put(w, 2 * point);
    checkpoint(w);
    put(w, 2 * point + 1);
}

/* While the disk refuses and the writer has seen it: nothing new may be let in. */
static void ask_meanwhile(struct world *w)
{
    static struct request q; /* a callback that came too late would find it */
    if (!fault.sticky || !fault.done || db_writable(w->db)) return;
    q = (struct request){0};
    ask(w, &q, 0);
    if (!comes(&q.admitted)) sum.hung++;
    sum.wrong += q.wrong;
    sum.refused_meanwhile += q.admitted < 0;
    if (q.admitted <= 0) return;
    if (!fault.only_room && db_writable(w->db)) { /* what could not be read was not needed any more */
        memcpy(w->id[w->rows++], q.a.id, UUID_LEN);
        end(w, &q);
        comes(&q.told);
        return;
    }
    sum.let_in++;
    end(w, &q);
    comes(&q.told);
}

static void serves_again(struct world *w)
{
    int64_t from = clock_mono_us();
    struct request q = {0};
    do {
        q = (struct request){0};
        ask(w, &q, 1);
        if (!comes(&q.admitted)) sum.hung++;
        if (q.admitted < 0) usleep(1000);
    } while (q.admitted < 0 && clock_mono_us() < from + WAIT_US);
    int64_t took = clock_mono_us() - from;
    if (took > sum.slowest_us) sum.slowest_us = took;
    if (q.admitted <= 0) {
        sum.unserved++;
        return;
    }
    memcpy(w->id[w->rows++], q.a.id, UUID_LEN);
    end(w, &q);
    if (!comes(&q.told)) sum.hung++;
}

static void balances(struct world *w, const char *when)
{
    struct err e = {0};
    int64_t rows, bad;
    if (ledger_verify(w->l, &rows, &bad, &e)) die("verify", &e);
    sum.wrong += bad > 0;
    if (bad || rows < w->rows) fprintf(stderr, "disk: %s: %lld rows for %lld, %lld buckets wrong\n", when, (long long)rows, (long long)w->rows, (long long)bad);
}

static void one_point(struct world *w, int point)
{
    struct request q[REQUESTS] = {0};
    fault.at = point;
    fault.seen = fault.done = 0;
    fault.on = true;
    work(w, q, point);
    ask_meanwhile(w);
    fault.on = false;
    serves_again(w);
    for (int i = 0; i < REQUESTS; i++) {
        sum.wrong += q[i].wrong;
        if (q[i].admitted <= 0) {
            sum.refused++;
            continue;
        }
        if (i == REQUESTS - 1) end(w, &q[i]);
        if (!comes(&q[i].told)) sum.hung++;
        sum.twice += q[i].told > 1;
        memcpy(w->id[w->rows++], q[i].a.id, UUID_LEN);
    }
    sum.points++;
    sum.struck += fault.done > 0;
    if (point % CALM == 0) balances(w, "under way");
}

/* --- what is there --- */

struct look {
    struct world *w;
    int lost, corrupt;
};

static bool has(struct db *d, sqlite3 *c, const char *sql, const char *id, int64_t n, struct err *e)
{
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || (id ? db_bind(st, e, "s", id) : db_bind(st, e, "i", n))) return false;
    int rc = db_row(st, e);
    sqlite3_reset(st);
    return rc == 1;
}

static int read_look(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char value[] = "SELECT 1 FROM meta WHERE name = 'put' || ?1 AND value = ?1",
                      fine[] = "SELECT 1 FROM pragma_integrity_check WHERE integrity_check <> 'ok'";
    static char row[80];
    struct look *k = u;
    time_t now = time(NULL);
    struct tm tm;
    gmtime_r(&now, &tm);
    snprintf(row, sizeof row, "SELECT 1 FROM usage_%04d%02d WHERE id = ?1", tm.tm_year + 1900, tm.tm_mon + 1);
    for (int64_t i = 0; i < k->w->rows; i++) k->lost += !has(d, c, row, k->w->id[i], 0, e);
    for (int64_t i = 0; i < k->w->puts; i++) k->lost += !has(d, c, value, NULL, k->w->put[i], e);
    k->corrupt = has(d, c, fine, NULL, 0, e);
    return 0;
}

static void open_world(struct world *w)
{
    struct err e = {0};
    int closed;
    if (db_open(&w->db, &(struct db_options){.dir = w->dir, .sync_ms = 1, .ack_durable = true}, &e) || ledger_open(&w->l, w->db, &e) ||
        ledger_recover(w->l, NULL, NULL, &closed, &e))
        die("open", &e);
}

static void close_world(struct world *w)
{
    ledger_close(w->l);
    db_close(w->db);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st, (void)type, (void)f;
    return remove(path);
}

/* One point in `stride`, until the workload ends before it is reached. */
static void series(int error, bool sticky, int stride)
{
    struct world w = {.id = calloc(POINTS_MAX * (REQUESTS + 2), UUID_LEN), .put = calloc(POINTS_MAX * 2, sizeof(int64_t))};
    struct err e = {0};
    char path[96];
    snprintf(w.dir, sizeof w.dir, "/tmp/weft-disk-XXXXXX");
    if (!w.id || !w.put || !mkdtemp(w.dir)) die("a folder", NULL);
    open_world(&w);
    fault.error = error;
    fault.sticky = sticky;
    fault.only_room = error == ENOSPC;
    int struck = sum.struck;
    for (int point = 0; point < POINTS_MAX; point += stride) {
        int before = sum.struck;
        one_point(&w, point);
        if (sum.struck == before) break; /* beyond the last call */
    }
    snprintf(path, sizeof path, "%s/reserve", w.dir);
    if (error == ENOSPC && sum.struck > struck) sum.reserves += access(path, F_OK) == 0;
    balances(&w, "at the end");
    close_world(&w);
    open_world(&w);
    balances(&w, "opened anew");
    struct look k = {.w = &w};
    if (db_read(w.db, read_look, &k, 60000, &e)) die("look", &e);
    sum.lost += k.lost;
    sum.corrupt += k.corrupt;
    sum.acknowledged += (int)(w.rows + w.puts);
    close_world(&w);
    nftw(w.dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(w.id);
    free(w.put);
}

int main(int argc, char **argv)
{
    int stride = argc == 3 && strcmp(argv[1], "--stride") == 0 ? (int)strtol(argv[2], NULL, 10) : 1;
    if (stride < 1 || argc == 2) {
        fprintf(stderr, "usage: disk [--stride N]\n");
        return 2;
    }
    log_init("disk", getenv("DISK_LOG") ? LOG_INFO : LOG_ERROR + 1);
    take_the_disk();
    for (int sticky = 0; sticky < 2; sticky++) {
        series(ENOSPC, sticky, stride);
        series(EIO, sticky, stride);
    }
    printf("{\"points\":%d,\"struck\":%d,\"acknowledged\":%d,\"refused\":%d,\"refused_meanwhile\":%d,\"lost\":%d,\"twice\":%d,\"wrong\":%d,\"corrupt\":%d,"
           "\"unserved\":%d,\"hung\":%d,\"let_in\":%d,\"reserves_kept\":%d,\"slowest_ms\":%.1f}\n",
           sum.points, sum.struck, sum.acknowledged, sum.refused, sum.refused_meanwhile, sum.lost, sum.twice, sum.wrong, sum.corrupt, sum.unserved, sum.hung,
           sum.let_in, sum.reserves, (double)sum.slowest_us / 1000);
    return 0;
}
