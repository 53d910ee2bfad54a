/* What archives and backups cost those who are served meanwhile: `make bench-archive`, ARGS="ROWS [TENANTS]".
 *
 * A month of ROWS rows (of TENANTS tenants, a few of whom have most) stands in a ledger; one thread settles requests, a few hundred a second, and
 * times each from its hand-over to its commit. Measured: nothing else going on; while the month goes into its file and leaves the database; while a
 * backup is made; and, to compare, while a table like it is removed by one DROP TABLE. Times are of a disk that others use, too. */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/backup/backup.h"
#include "gateway/ledger/ledger_archive.h"
#include <ftw.h>
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROWS_DEFAULT 1000000
#define TENANTS_DEFAULT 1000
#define AUGUST 1785542400ll /* 2026-08-01T00:00:00Z */
#define PAUSE_US 2000
#define TIMES_MAX 1000000

struct traffic {
    struct ledger *l;
    _Atomic bool stop, over;
    int n;
    int64_t t0;
    int *us;
};

static void die(const char *what, const struct err *e)
{
    fprintf(stderr, "archive: %s: %s\n", what, e->msg);
    exit(1);
}

static void settled(void *u) { *(_Atomic bool *)u = true; }

static void settle_one(struct traffic *t, int i)
{
    static int64_t serial;
    int64_t now = clock_wall_us();
    struct admission a = {.endpoint = "/v1/chat/completions", .t_start = now};
    struct settlement s = {.t_first = now, .t_end = now, .prompt = 10, .delivered = 20, .produced = 20, .engine = "local"};
    snprintf(a.id, sizeof a.id, "%08x-%04x-7000-8000-%012llx", (unsigned)(now / 1000 >> 16), (unsigned)(now / 1000 & 65535), (unsigned long long)++serial);
    snprintf(a.who.tenant, sizeof a.who.tenant, "tenant-%d", i % 50);
    snprintf(a.what.base, sizeof a.what.base, "base");
    _Atomic bool done = false;
    int64_t began = clock_mono_us();
    ledger_settle(t->l, &a, &s, settled, (void *)&done);
    while (!done) usleep(50);
    if (t->n < TIMES_MAX) t->us[t->n++] = (int)(clock_mono_us() - began);
}

static void *settle_on(void *u)
{
    struct traffic *t = u;
    for (int i = 0; !t->stop; i++) {
        settle_one(t, i);
        usleep(PAUSE_US);
    }
    return NULL;
}

static int by_us(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

/* work() beside the traffic; prints the line. */
static void beside(struct ledger *l, const char *what, void (*work)(void *u), void *u)
{
    struct traffic t = {.l = l, .us = malloc(TIMES_MAX * sizeof *t.us)};
    pthread_t thread;
    if (!t.us || pthread_create(&thread, NULL, settle_on, &t)) exit(1);
    int64_t began = clock_mono_us();
    work(u);
    double s = (double)(clock_mono_us() - began) / 1e6;
    t.stop = true;
    pthread_join(thread, NULL);
    qsort(t.us, (size_t)t.n, sizeof *t.us, by_us);
    printf("%-28s %8.1f s  settlements %6d  p50 %6.2f  p99 %7.2f  max %8.2f ms\n", what, s, t.n, t.us[t.n / 2] / 1e3, t.us[t.n * 99ll / 100] / 1e3,
           t.us[t.n - 1] / 1e3);
    fflush(stdout);
    free(t.us);
}

struct bench {
    struct db *db;
    struct ledger *l;
    char dir[64], backups[80];
    struct archive_pass pass;
    json_t *made;
};

static void nothing(void *u)
{
    (void)u;
    sleep(3);
}

static void archive(void *u)
{
    struct bench *b = u;
    struct err e = {0};
    struct archive_options o = {.months = 1, .now_us = (AUGUST + 70 * 86400) * 1000000};
    if (ledger_archive(b->l, &o, &b->pass, &e)) die("archive", &e);
}

static void back_up(void *u)
{
    struct bench *b = u;
    struct err e = {0};
    if (backup_open(b->backups, &e) || backup_make(b->db, b->backups, "20261122T100000.000Z", NULL, &b->made, &e)) die("backup", &e);
}

static int run_sql(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d;
    return sqlite3_exec(c, u, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_error(c, "bench", e);
}

static void sql(struct bench *b, const char *text)
{
    struct err e = {0};
    if (db_write_wait(b->db, run_sql, (void *)text, &e)) die("SQL", &e);
}

static void drop(void *u) { sql(u, "DROP TABLE usage_202607"); }

static void fill(struct bench *b, int month, int64_t start, long rows, int tenants)
{
    char text[2400];
    snprintf(text, sizeof text,
             "WITH RECURSIVE n(i, t) AS (SELECT 0, %2$lld000000 UNION ALL SELECT i + 1, t + 2500000 * 1000000 / %3$ld FROM n WHERE i < %3$ld - 1),"
             " r AS (SELECT i, t, CAST(%4$d * q * q * q AS INTEGER) w FROM (SELECT i, t, (i * 2654435761 %% 1000003) / 1000003.0 q FROM n))"
             "INSERT INTO usage_%1$06d(id, tenant, key, base, adapter, version, model, endpoint, stream, state, http, finish, t_start, t_first, t_end, prompt,"
             " cached, output, produced, source, price, cost, attempt, cold, engine, adjusts, alias, load_us)"
             " SELECT printf('%%08x-%%04x-7000-8000-%%012d', t / 1000 >> 16, t / 1000 & 65535, i), printf('01900000-0000-7000-8000-%%012d', w), 'key-' || w,"
             " 'base', 'adapter-' || w, 1, 'adapter-' || w, '/v1/chat/completions', 1, 0, 200, 'stop', t, t + 200000, t + 2000000, 100, 10, 200, 200, 1, 1, 5000,"
             " 1, 0, 'local', NULL, '', 0 FROM r",
             month, (long long)start, rows, tenants);
    sql(b, text);
}

/* The table of a month, by the ledger's own hand: one request of it. */
static void make_month(struct bench *b, int64_t start)
{
    struct admission a = {.endpoint = "/v1/chat/completions", .t_start = start * 1000000};
    struct settlement s = {.t_end = start * 1000000, .engine = "local"};
    _Atomic bool done = false;
    uuid7(a.id);
    snprintf(a.who.tenant, sizeof a.who.tenant, "first");
    ledger_settle(b->l, &a, &s, settled, (void *)&done);
    while (!done) usleep(1000);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st, (void)type, (void)f;
    return remove(path);
}

int main(int argc, char **argv)
{
    long rows = argc > 1 ? strtol(argv[1], NULL, 10) : ROWS_DEFAULT, tenants = argc > 2 ? strtol(argv[2], NULL, 10) : TENANTS_DEFAULT;
    struct bench b = {.dir = "/tmp/weft-archive-XXXXXX"};
    struct err e = {0};
    log_init("archive", LOG_ERROR);
    if (rows < 1 || rows > 100000000 || tenants < 1 || tenants > 100000 || !mkdtemp(b.dir)) return 2;
    snprintf(b.backups, sizeof b.backups, "%s/backup", b.dir);
    if (db_open(&b.db, &(struct db_options){.dir = b.dir, .sync_ms = 5}, &e) || ledger_open(&b.l, b.db, &e)) die("open", &e);
    make_month(&b, AUGUST - 86400 * 31);
    make_month(&b, AUGUST);
    fill(&b, 202607, AUGUST - 86400 * 31, rows, (int)tenants);
    fill(&b, 202608, AUGUST, rows, (int)tenants);
    printf("%ld rows of %ld tenants in each of two months\n", rows, tenants);
    beside(b.l, "nothing else", nothing, NULL);
    beside(b.l, "a backup", back_up, &b);
    printf("  %.0f MB\n", (double)json_integer_value(json_object_get(b.made, "bytes")) / 1e6);
    beside(b.l, "DROP TABLE of a month", drop, &b);
    beside(b.l, "a month into its file", archive, &b);
    printf("  %lld rows; the writer was held %.2f ms at most\n", (long long)b.pass.rows, (double)b.pass.slowest_us / 1e3);
    json_decref(b.made);
    ledger_close(b.l);
    db_close(b.db);
    nftw(b.dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return 0;
}
