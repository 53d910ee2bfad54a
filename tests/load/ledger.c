/* weft-bench-ledger: how many requests a second the ledger admits and settles, on a disk whose fsync takes a known time.
 *
 * Everything is the gateway's own but HTTP: each request is admitted, settled from the admission's callback and over when its settlement is told;
 * so many are open at a time. Tenants, keys, adapters and aliases are chosen as they come in practice (Zipf), so that groups have many buckets.
 *
 *   --seconds N    how long (5)               --open N      requests open at a time (8192: 20,000/s of 0.4 s)
 *   --tenants N    of Zipf's law (1000)       --adapters N  in all, each of one tenant (10000)
 *   --sync-us N    fdatasync takes (1000)     --durable     an end is told after its fsync: FULL group commits (else within sync_ms, beside)
 *   --check        at the end: verification, and all rollups made anew, with their times
 *
 * fdatasync() is this program's: it sleeps and syncs nothing, so a slow or shared disk does not count. Prints one JSON line: settled_s, group (rows a
 * commit, mean), syncs, admit_p50_us/p99 and settle_p50_us/p99 (from being handed in to being told), cpu_us (of the process, for each request), writer_us
 * (of the writer's thread: a million over it is what a machine can settle that has nothing else to do), wal and file in bytes. Exit codes: 0, 1 when rows or sums are wrong, 2 bad arguments. */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/ledger/ledger.h"
#include <ftw.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES_MAX (1 << 22)
#define ZIPF 1.1

static int seconds = 5, tenants = 1000, adapters = 10000, open_max = 8192, sync_us = 1000;
static bool durable, check;
static _Atomic int64_t syncs, busy, settled, wrong, writer_ns;
static struct ledger *ledger;
static int32_t *admit_us, *settle_us;
static double *upto; /* [adapters] of Zipf's law, summed */

int fdatasync(int fd)
{
    (void)fd;
    syncs++;
    if (sync_us) nanosleep(&(struct timespec){sync_us / 1000000, sync_us % 1000000 * 1000l}, NULL);
    return 0;
}

struct flight {
    struct admission a;
    int64_t t;
};

static uint64_t next(void)
{
    static uint64_t x = 88172645463325252ull;
    x ^= x << 13;
    x ^= x >> 7;
    return x ^= x << 17;
}

static int draw(void)
{
    double at = (double)(next() >> 11) / 9007199254740992.0 * upto[adapters - 1];
    int low = 0, high = adapters - 1;
    while (low < high) {
        int mid = (low + high) / 2;
        if (upto[mid] < at) low = mid + 1;
        else high = mid;
    }
    return low;
}

static void fill(struct admission *a)
{
    int n = draw(), tenant = n % tenants;
    *a = (struct admission){.endpoint = "/v1/chat/completions", .stream = next() % 2, .reserved_tokens = 600, .t_start = clock_wall_us(),
                            .price = {1, 150, 75, 600}};
    uuid7(a->id);
    snprintf(a->who.tenant, sizeof a->who.tenant, "01890a5d-ac96-774b-bcce-%012d", tenant);
    snprintf(a->who.key, sizeof a->who.key, "k%07d%04d", tenant, (int)(next() % 3));
    snprintf(a->what.base, sizeof a->what.base, "smollm2-135m-instruct");
    snprintf(a->what.adapter, sizeof a->what.adapter, "adapter-%05d", n);
    a->what.version = 1 + (int)(next() % 2);
    snprintf(a->model, sizeof a->model, "adapter-%05d", n);
    if (n % 20 == 0) snprintf(a->alias, sizeof a->alias, "alias-%05d", n);
}

/* Callbacks come on the writer: what its thread has used so far. */
static void note_writer(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    writer_ns = t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void told(void *u)
{
    struct flight *f = u;
    int64_t n = settled++;
    if (n % 16 == 0) note_writer();
    if (n < SAMPLES_MAX) settle_us[n] = (int32_t)(clock_mono_us() - f->t);
    free(f);
    busy--;
}

static void admitted(void *u, const struct err *e)
{
    static int64_t n;
    struct flight *f = u;
    int64_t now = clock_mono_us();
    if (e) {
        wrong++;
        busy--;
        free(f);
        return;
    }
    if (n < SAMPLES_MAX) admit_us[n++] = (int32_t)(now - f->t);
    f->t = now;
    int64_t output = 20 + (int64_t)(next() % 300);
    struct settlement s = {.state = next() % 50 ? USAGE_COMPLETED : USAGE_CLIENT_ABORT, .http_status = 200, .finish = "stop",
                           .t_first = f->a.t_start + 40000 + (int64_t)(next() % 400000), .prompt = 50 + (int64_t)(next() % 500), .cached = 32,
                           .delivered = output, .produced = output, .source = COUNT_ENGINE, .attempt = 1, .engine = "engine-1"};
    s.t_end = s.t_first + output * 12000;
    ledger_settle(ledger, &f->a, &s, told, f);
}

static void run(int64_t until)
{
    struct err e = {0};
    while (clock_mono_us() < until) {
        if (busy >= open_max) {
            nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
            continue;
        }
        struct flight *f = calloc(1, sizeof *f);
        fill(&f->a);
        f->t = clock_mono_us();
        busy++;
        if (ledger_admit(ledger, &f->a, admitted, f, &e)) {
            err_clear(&e);
            free(f);
            busy--;
            nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
        }
    }
    while (busy > 0) nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
}

static int by_value(const void *a, const void *b) { return *(const int32_t *)a < *(const int32_t *)b ? -1 : *(const int32_t *)a > *(const int32_t *)b; }

static int quantile(int32_t *v, int64_t n, double q)
{
    if (n > SAMPLES_MAX) n = SAMPLES_MAX;
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n ? v[(int64_t)((double)(n - 1) * q)] : 0;
}

static int64_t cpu_us(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000ll + u.ru_utime.tv_usec + u.ru_stime.tv_usec;
}

static long long size_of(const char *dir, const char *name)
{
    char path[256];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return stat(path, &st) ? 0 : (long long)st.st_size;
}

/* Every row in every rollup, twice over. */
static int check_all(struct err *e)
{
    int64_t rows, bad, made, t = clock_mono_us();
    if (ledger_verify(ledger, &rows, &bad, e)) return -1;
    int64_t verify_us = clock_mono_us() - t;
    t = clock_mono_us();
    if (ledger_rebuild(ledger, &made, e)) return -1;
    int64_t rebuild_us = clock_mono_us() - t, rows2, bad2;
    if (ledger_verify(ledger, &rows2, &bad2, e)) return -1;
    printf(", \"rows\": %lld, \"bad\": %lld, \"verify_ms\": %lld, \"rebuild_ms\": %lld, \"bad_after\": %lld", (long long)rows, (long long)bad,
           (long long)verify_us / 1000, (long long)rebuild_us / 1000, (long long)bad2);
    wrong += bad + bad2 + (rows != settled) + (made != rows) + (rows2 != rows);
    return 0;
}

static int bench(const char *dir, struct err *e)
{
    struct db *d;
    if (db_open(&d, &(struct db_options){.dir = dir, .sync_ms = 5, .ack_durable = durable}, e) || ledger_open(&ledger, d, e)) return -1;
    int64_t began = clock_mono_us(), cpu = cpu_us();
    syncs = 0;
    run(began + seconds * 1000000ll);
    int64_t us = clock_mono_us() - began, n = settled, all_syncs = syncs;
    cpu = cpu_us() - cpu;
    printf("{\"settled_s\": %.0f, \"settled\": %lld, \"syncs\": %lld, \"rows_sync\": %.1f, \"cpu_us\": %.1f, \"writer_us\": %.1f", (double)n * 1e6 / (double)us, (long long)n,
           (long long)all_syncs, (double)n / (double)(all_syncs ? all_syncs : 1), (double)cpu / (double)(n ? n : 1),
           (double)writer_ns / 1000 / (double)(n ? n : 1));
    printf(", \"admit_p50_us\": %d, \"admit_p99_us\": %d", quantile(admit_us, n, 0.5), quantile(admit_us, n, 0.99));
    printf(", \"settle_p50_us\": %d, \"settle_p99_us\": %d, \"file\": %lld, \"wal\": %lld", quantile(settle_us, n, 0.5), quantile(settle_us, n, 0.99),
           size_of(dir, "weft.db"), size_of(dir, "weft.db-wal"));
    int rc = check ? check_all(e) : 0;
    printf(", \"durable\": %s, \"sync_us\": %d, \"wrong\": %lld}\n", durable ? "true" : "false", sync_us, (long long)wrong);
    ledger_close(ledger);
    db_close(d);
    return rc;
}

static int arguments(int argc, char **argv)
{
    const struct {
        const char *name;
        int *value;
    } numbers[] = {{"--seconds", &seconds}, {"--tenants", &tenants}, {"--adapters", &adapters}, {"--open", &open_max}, {"--sync-us", &sync_us}};
    for (int i = 1; i < argc; i++) {
        bool known = false;
        for (size_t k = 0; k < sizeof numbers / sizeof *numbers && i + 1 < argc; k++)
            if (strcmp(argv[i], numbers[k].name) == 0) {
                *numbers[k].value = (int)strtol(argv[++i], NULL, 10);
                known = true;
                break;
            }
        if (known) continue;
        if (strcmp(argv[i], "--durable") == 0) durable = true;
        else if (strcmp(argv[i], "--check") == 0) check = true;
        else return -1;
    }
    return seconds > 0 && tenants > 0 && adapters >= tenants && open_max > 0 && open_max <= 30000 && sync_us >= 0 ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st, (void)type, (void)f;
    return remove(path);
}

int main(int argc, char **argv)
{
    char dir[] = "/tmp/weft-bench-ledger-XXXXXX";
    struct err e = {0};
    if (arguments(argc, argv)) {
        fprintf(stderr, "usage: ledger [--seconds N] [--open N] [--tenants N] [--adapters N] [--sync-us N] [--durable] [--check]\n");
        return 2;
    }
    log_init("bench-ledger", LOG_ERROR);
    upto = calloc((size_t)adapters, sizeof *upto);
    admit_us = calloc(SAMPLES_MAX, sizeof *admit_us);
    settle_us = calloc(SAMPLES_MAX, sizeof *settle_us);
    if (!mkdtemp(dir) || !upto || !admit_us || !settle_us) return 1;
    for (int i = 0; i < adapters; i++) upto[i] = (i ? upto[i - 1] : 0) + pow(i + 1, -ZIPF);
    int rc = bench(dir, &e);
    if (rc) fprintf(stderr, "%s\n", e.msg);
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return rc || wrong ? 1 : 0;
}
