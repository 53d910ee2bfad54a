/* make_usage: a data folder with months of usage, for `make bench-usage`: tenants, keys, adapters, prices, and rows as the ledger writes them.
 *
 *     make_usage DIR [ROWS [TENANTS [ADAPTERS [DAYS]]]]        10,000,000 rows, 1,000 tenants, 10,000 adapters, 90 days
 *     make_usage --add DIR                                     what else dashboards show: refusals, aliases, budgets and their use; adds what it lacks
 *
 * The rows end now. Tenants are used by Zipf's law (exponent 1), a tenant's adapters by a flatter one; more by day than by night; 96 % complete. Each
 * batch of rows goes into its month's table by the ledger's own SQL, and into the rollups by ledger_sums, in one transaction, so the folder is what a
 * gateway would have written (GET /admin/v1/ledger?verify=1 says so). The same arguments give the same rows, but for the present time and the ids. One
 * thread besides the database's writer. */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/ledger/ledger_dims.h"
#include "gateway/ledger/ledger_internal.h"
#include "gateway/ledger/ledger_sums.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 20000
#define KEYS_EACH 3
#define BASE "smollm2-135m-instruct"
#define DAY_US 86400000000ll

struct world {
    int64_t rows, from, until; /* wall us */
    int tenants, adapters, each; /* adapters of a tenant */
    double *tenant_up_to, *adapter_up_to; /* of the random number, in rising order */
    char (*tenant)[UUID_LEN], (*adapter)[32], (*versioned)[40], (*key)[24];
    struct db *db;
    struct ledger *ledger;
    uint64_t seed;
};

struct batch {
    struct world *w;
    struct month *month;
    struct usage_row row[BATCH];
    char id[BATCH][UUID_LEN];
    int n;
};

static uint64_t next(struct world *w)
{
    uint64_t z = (w->seed += 0x9E3779B97F4A7C15ull);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

static double uniform(struct world *w) { return (double)(next(w) >> 11) / 9007199254740992.0; }

/* A positive number with this median; one in six is more than `spread` times as much. */
static double lognormal(struct world *w, double median, double spread)
{
    double u = uniform(w) + 1e-12, v = uniform(w);
    return median * exp(log(spread) * sqrt(-2 * log(u)) * cos(2 * M_PI * v));
}

static double *zipf(int n, double exponent)
{
    double *up_to = calloc((size_t)n, sizeof *up_to), sum = 0;
    for (int i = 0; i < n; i++) up_to[i] = sum += pow(i + 1, -exponent);
    for (int i = 0; i < n; i++) up_to[i] /= sum;
    return up_to;
}

static int pick(const double *up_to, int n, double u)
{
    int low = 0, high = n - 1;
    while (low < high) {
        int mid = (low + high) / 2;
        if (up_to[mid] < u)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* --- who there is --- */

static void name_all(struct world *w)
{
    w->tenant = calloc((size_t)w->tenants, sizeof *w->tenant);
    w->adapter = calloc((size_t)w->adapters, sizeof *w->adapter);
    w->versioned = calloc((size_t)w->adapters, sizeof *w->versioned);
    w->key = calloc((size_t)w->tenants * KEYS_EACH, sizeof *w->key);
    for (int i = 0; i < w->tenants; i++) uuid7(w->tenant[i]);
    for (int i = 0; i < w->adapters; i++) {
        snprintf(w->adapter[i], sizeof w->adapter[i], "adapter-%d", i % w->each);
        snprintf(w->versioned[i], sizeof w->versioned[i], "adapter-%d@1", i % w->each);
    }
    for (int i = 0; i < w->tenants * KEYS_EACH; i++) snprintf(w->key[i], sizeof w->key[i], "k%08x%d", (unsigned)(i * 2654435761u), i % 10);
    w->tenant_up_to = zipf(w->tenants, 1.0);
    w->adapter_up_to = zipf(w->each, 0.7);
}

static int put(struct db *d, sqlite3 *c, const char *sql, struct err *e, const char *format, const char *a, const char *b, const char *x, int64_t i, int64_t k)
{
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return st && db_bind(st, e, format, a, b, x, i, k) == 0 ? db_done(st, e) : -1;
}

static int make_names(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char tenant[] = "INSERT INTO tenant(id, name, weight, created) VALUES(?1, ?2 || ?3 || ?4, 1.0, ?5)";
    static const char key[] = "INSERT INTO api_key(id, tenant, name, roles, hash, created, created_by) VALUES(?1, ?2, ?3 || ?4, 'inference', randomblob(32), ?5, 'make')";
    static const char adapter[] = "INSERT INTO adapter(tenant, name, description, created, next_version) VALUES(?1, ?2, ?3, ?5, ?4)";
    static const char version[] = "INSERT INTO version(adapter, version, state, digest, file_sha256, base, rank, modules, scale, bytes, created)"
                                  " SELECT row, 1, 'ready', lower(hex(randomblob(32))), '', ?3, 16, 60, 2.0, ?5, ?4 FROM adapter WHERE tenant = ?1 AND name = ?2";
    static const char price[] = "INSERT INTO price(base, tenant, adapter, valid_from, prompt, cached, output, created) VALUES(?1, ?2, ?3, ?4, 150 + ?5, 20, 600 + ?5, 0)";
    struct world *w = u;
    for (int i = 0; i < w->tenants; i++)
        if (put(d, c, tenant, e, "sssii", w->tenant[i], "tenant-", "", i, w->from)) return -1;
    for (int i = 0; i < w->tenants * KEYS_EACH; i++)
        if (put(d, c, key, e, "sssii", w->key[i], w->tenant[i / KEYS_EACH], "key-", i % KEYS_EACH, w->from)) return -1;
    for (int i = 0; i < w->adapters; i++)
        if (put(d, c, adapter, e, "sssii", w->tenant[i / w->each], w->adapter[i], "", 2, w->from) ||
            put(d, c, version, e, "sssii", w->tenant[i / w->each], w->adapter[i], BASE, w->from, 4000000 + i * 100))
            return -1;
    int64_t half = (w->from + w->until) / 2;
    return put(d, c, price, e, "sssii", BASE, "", "", 0, 0) || put(d, c, price, e, "sssii", BASE, "", "", half, 30) ||
                   put(d, c, price, e, "sssii", BASE, w->tenant[0], "", 0, 50)
               ? -1
               : 0;
}

/* --- what else dashboards show; ?1: the last request's start, Unix seconds --- */

#define NUMBER "CAST(substr(t.name, 8) AS INTEGER)" /* of tenant-N */
#define DAY_OF "?1 / 86400 * 86400"
#define MONTH_OF "unixepoch(?1, 'unixepoch', 'start of month')"
#define BUDGETS(subject, from) \
    "INSERT OR IGNORE INTO limits(subject, tokens_per_day, tokens_per_month, cost_per_month, tokens_per_month_soft, revision, changed)" \
    " SELECT " subject ", 5000000, 100000000, 30000000000, 80000000, 1, ?1 * 1000000 FROM " from
#define USED(period, start, subject, from) \
    "INSERT OR IGNORE INTO budget_use(subject, period, t, tokens, cost) SELECT " subject ", " period ", " start ", sum(r.prompt + r.output), sum(r.cost)" \
    " FROM limits l CROSS JOIN " from " AND r.t >= " start " AND r.t <= ?1 GROUP BY 1"
#define OF_TENANT "rollup_by r ON r.tenant = '' AND r.dim = 5 AND 'tenant:' || r.name = l.subject"
#define OF_KEY "api_key k ON l.subject = 'key:' || k.id CROSS JOIN rollup_by r ON r.tenant = k.tenant AND r.dim = 1 AND r.name = k.id"
#define OF_ADAPTER "rollup_adapter r ON l.subject > 'adapter:' AND l.subject < 'adapter;' AND r.tenant = substr(l.subject, 9, 36) AND r.adapter = substr(l.subject, 46)"

static const char *const more[] = {
    "INSERT OR IGNORE INTO alias(tenant, name, created, changed) SELECT t.id, 'chat', t.created, min(t.created, ?1 * 1000000) FROM tenant t WHERE " NUMBER " < 50",
    "INSERT OR IGNORE INTO alias_target(alias, position, adapter, version, weight) SELECT l.row, p.n, a.row, 1, 9 - 8 * p.n FROM alias l"
    " CROSS JOIN (SELECT 0 AS n UNION ALL SELECT 1) p JOIN adapter a ON a.tenant = l.tenant AND a.name = 'adapter-' || p.n WHERE l.name = 'chat' AND ?1 > 0",
    BUDGETS("'tenant:' || t.id", "tenant t WHERE " NUMBER " < 1000"),
    BUDGETS("'key:' || k.id", "api_key k JOIN tenant t ON t.id = k.tenant WHERE k.created_by = 'make' AND " NUMBER " < 100"),
    BUDGETS("'adapter:' || t.id || '/' || a.name", "adapter a JOIN tenant t ON t.id = a.tenant WHERE " NUMBER " < 30"),
    USED("0", DAY_OF, "'tenant:' || r.name", OF_TENANT),
    USED("1", MONTH_OF, "'tenant:' || r.name", OF_TENANT),
    USED("0", DAY_OF, "l.subject", OF_KEY),
    USED("1", MONTH_OF, "l.subject", OF_KEY),
    USED("0", DAY_OF, "l.subject", OF_ADAPTER),
    USED("1", MONTH_OF, "l.subject", OF_ADAPTER),
    "WITH RECURSIVE hour(t) AS (VALUES(?1 / 3600 * 3600) UNION ALL SELECT h.t - 3600 FROM hour h WHERE h.t > ?1 - 90 * 86400)"
    " INSERT OR IGNORE INTO rollup_refused(tenant, t, scope, kind, n) SELECT t.id, h.t, x.scope, x.kind, 1 + (h.t / 3600 + " NUMBER ") % x.n FROM hour h"
    " CROSS JOIN tenant t CROSS JOIN (SELECT 'tenant' AS scope, 'requests_per_minute' AS kind, 40 AS n UNION ALL SELECT 'tenant', 'tokens_per_day', 3"
    " UNION ALL SELECT 'key', 'requests_per_minute', 20 UNION ALL SELECT 'adapter', 'concurrent_requests', 7) x WHERE " NUMBER " < 30",
    "INSERT OR IGNORE INTO rollup_refused(tenant, t, scope, kind, n) SELECT '', t, scope, kind, sum(n) FROM rollup_refused WHERE tenant <> ''"
    " AND t < ?1 GROUP BY 2, 3, 4",
};

static int last_start(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT max(t) FROM rollup_hour WHERE tenant = ''";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st ? db_row(st, e) : -1;
    *(int64_t *)u = rc == 1 ? sqlite3_column_int64(st, 0) + 3599 : 0;
    return rc < 0 ? -1 : 0;
}

static int has_more(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT 1 FROM rollup_refused LIMIT 1"; /* the last that is added */
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st ? db_row(st, e) : -1;
    *(bool *)u = rc == 1;
    return rc < 0 ? -1 : 0;
}

static int add_more(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        sqlite3_stmt *st = db_stmt(d, c, more[i], e);
        if (!st || db_bind(st, e, "i", *(int64_t *)u) || db_done(st, e)) return -1;
    }
    return 0;
}

/* The folder's own last hour is the present, so that doing it again adds nothing. */
static int add_to_folder(const char *dir)
{
    struct err e = {0};
    struct db *d = NULL;
    int64_t now = 0;
    bool has = false;
    int rc = db_open(&d, &(struct db_options){.dir = dir, .sync_ms = 1000}, &e) || db_read(d, has_more, &has, 5000, &e);
    if (rc == 0 && !has) rc = db_read(d, last_start, &now, 5000, &e) || db_write_wait(d, add_more, &now, &e);
    db_close(d);
    if (rc) fprintf(stderr, "make_usage: %s\n", e.msg);
    return rc ? 1 : 0;
}

/* --- rows --- */

static int64_t price_row(const struct world *w, int tenant, int64_t t) { return tenant == 0 ? 3 : t < (w->from + w->until) / 2 ? 1 : 2; }

static int64_t price_of_tenant(int64_t row, int what)
{
    static const int64_t each[3][3] = {{150, 20, 600}, {180, 20, 630}, {200, 20, 650}};
    return each[row - 1][what];
}

static int state_of(struct world *w)
{
    static const struct {
        double up_to;
        int state;
    } states[] = {{0.96, USAGE_COMPLETED}, {0.98, USAGE_CLIENT_ABORT}, {0.99, USAGE_UPSTREAM_ERROR}, {0.995, USAGE_TIMEOUT}, {0.9995, USAGE_REJECTED}};
    double u = uniform(w);
    for (size_t i = 0; i < sizeof states / sizeof *states; i++)
        if (u < states[i].up_to) return states[i].state;
    return USAGE_GATEWAY_CRASH;
}

static void set_counts(struct world *w, struct usage_row *r)
{
    r->state = state_of(w);
    r->http_status = r->state == USAGE_COMPLETED || r->state == USAGE_CLIENT_ABORT ? 200 : 502;
    r->finish = r->state == USAGE_COMPLETED ? "stop" : "";
    r->prompt = (int64_t)lognormal(w, 400, 2.5) + 1;
    r->cached = uniform(w) < 0.4 ? r->prompt / 2 : 0;
    r->output = r->state == USAGE_COMPLETED || r->state == USAGE_CLIENT_ABORT ? (int64_t)lognormal(w, 120, 2) + 1 : 0;
    r->produced = r->output + (r->state == USAGE_CLIENT_ABORT ? 7 : 0);
    r->source = COUNT_ENGINE;
    r->cost = (r->prompt - r->cached) * price_of_tenant(r->price, 0) + r->cached * price_of_tenant(r->price, 1) + r->output * price_of_tenant(r->price, 2);
    r->cold = uniform(w) < 0.01;
    r->load_us = r->cold ? (int64_t)lognormal(w, 90000, 1.6) : 0;
    r->attempt = 1;
    r->t_first = r->output ? r->t_start + r->load_us + (int64_t)lognormal(w, 180000, 1.8) : 0;
    r->t_end = r->output ? r->t_first + r->output * (int64_t)lognormal(w, 14000, 1.2) : r->t_start + (int64_t)lognormal(w, 400000, 3);
}

static void set_row(struct world *w, struct usage_row *r, const char *id, int64_t t, int month)
{
    int tenant = pick(w->tenant_up_to, w->tenants, uniform(w)), at = tenant * w->each + pick(w->adapter_up_to, w->each, uniform(w));
    bool base = uniform(w) < 0.1, alias = !base && uniform(w) < 0.05, versioned = !base && !alias && uniform(w) < 0.2;
    *r = (struct usage_row){.id = id, .tenant = w->tenant[tenant], .key = w->key[tenant * KEYS_EACH + (int)(next(w) % KEYS_EACH)], .base = BASE,
                            .adapter = base ? "" : w->adapter[at], .version = !base, .t_start = t, .month = month, .engine = "local",
                            .alias = alias ? "chat" : "", .stream = uniform(w) < 0.6, .price = price_row(w, tenant, t)};
    r->model = base ? BASE : alias ? "chat" : versioned ? w->versioned[at] : w->adapter[at];
    r->endpoint = uniform(w) < 0.85 ? "/v1/chat/completions" : "/v1/completions";
    set_counts(w, r);
}

static int insert(struct batch *b, struct db *d, sqlite3 *c, const struct usage_row *r, struct err *e)
{
    sqlite3_stmt *st = db_stmt(d, c, b->month->insert, e);
    if (!st || db_bind(st, e, "sssssissiiisiiiiiiiiiiiisssi", r->id, r->tenant, r->key, r->base, r->adapter, r->version, r->model, r->endpoint, r->stream,
                       r->state, r->http_status, r->finish, r->t_start, r->t_first, r->t_end, r->prompt, r->cached, r->output, r->produced, r->source,
                       r->price, r->cost, r->attempt, r->cold, r->engine, r->adjusts, r->alias, r->load_us))
        return -1;
    return db_done(st, e);
}

static int write_batch(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct batch *b = u;
    int64_t now = b->w->until / 1000000;
    struct sums *s = sums_new(BATCH, (now - SUMS_MINUTES_KEPT_S) / 3600 * 3600, (now - SUMS_HOURS_KEPT_S) / 86400 * 86400,
                              (now - SUMS_BAD_KEPT_S) / 86400 * 86400);
    if (!s) return err_set(e, ERR_NO_MEMORY, "no memory for sums");
    int rc = sqlite3_exec(c, b->month->create, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_error(c, "usage table", e);
    for (int i = 0; i < b->n && rc == 0; i++) {
        rc = insert(b, d, c, &b->row[i], e);
        sums_add(s, &b->row[i]);
    }
    if (rc == 0) rc = sums_write(s, d, c, e);
    sums_free(s);
    return rc;
}

/* The moment of row i: evenly, but for a wave of a day that takes two thirds of the nights. */
static int64_t moment(const struct world *w, int64_t i)
{
    double part = (double)i / (double)w->rows, days = part * (double)(w->until - w->from) / DAY_US;
    double wave = 0.1 * sin(2 * M_PI * days); /* less than a day, so moments only grow */
    int64_t t = w->from + (int64_t)((days + wave) * DAY_US);
    return t < w->from ? w->from : t > w->until ? w->until : t;
}

/* 128 bits of a time and a number: rows of one millisecond keep their order. */
static void id_at(char id[UUID_LEN], int64_t t, uint64_t serial)
{
    usage_id_at(t, id);
    snprintf(id + 14, UUID_LEN - 14, "7%03x-8%03x-%012llx", (unsigned)(serial >> 20 & 0xFFF), (unsigned)(serial >> 8 & 0xFFF), (unsigned long long)serial);
}

static int make_rows(struct world *w, struct err *e)
{
    struct batch *b = calloc(1, sizeof *b);
    int rc = b ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for a batch");
    int64_t began = clock_mono_us();
    for (int64_t i = 0; i < w->rows && rc == 0;) {
        int month = month_of(moment(w, i));
        b->w = w;
        b->month = ledger_month_by_number(w->ledger, month, e);
        for (b->n = 0; b->n < BATCH && i < w->rows && month_of(moment(w, i)) == month; i++, b->n++) {
            id_at(b->id[b->n], moment(w, i), (uint64_t)i);
            set_row(w, &b->row[b->n], b->id[b->n], moment(w, i), month);
        }
        rc = b->month ? db_write_wait(w->db, write_batch, b, e) : -1;
        if (i / BATCH % 25 == 0)
            fprintf(stderr, "\rmake_usage: %lld rows, %.0f/s ", (long long)i, (double)i * 1e6 / (double)(clock_mono_us() - began + 1));
    }
    fprintf(stderr, "\n");
    free(b);
    return rc;
}

int main(int argc, char **argv)
{
    long long n[4] = {10000000, 1000, 10000, 90};
    struct err e = {0};
    if (argc < 2) {
        fprintf(stderr, "make_usage DIR [ROWS [TENANTS [ADAPTERS [DAYS]]]]\nmake_usage --add DIR\n");
        return 2;
    }
    if (argc == 3 && strcmp(argv[1], "--add") == 0) return add_to_folder(argv[2]);
    for (int i = 2; i < argc && i < 6; i++) n[i - 2] = atoll(argv[i]);
    int64_t now = clock_wall_us() - 120000000ll; /* admissions of now come after */
    struct world w = {.rows = n[0], .tenants = (int)n[1], .adapters = (int)n[2], .until = now, .from = now - n[3] * DAY_US, .seed = 42};
    if (w.rows < 1 || w.tenants < 1 || w.tenants > 100000 || w.adapters < w.tenants || w.adapters > 1000000 || n[3] < 1 || n[3] > 3650) {
        fprintf(stderr, "make_usage: a number is out of range\n");
        return 2;
    }
    log_init("make_usage", LOG_WARN);
    w.each = w.adapters / w.tenants;
    w.adapters = w.each * w.tenants;
    name_all(&w);
    int rc = db_open(&w.db, &(struct db_options){.dir = argv[1], .sync_ms = 1000}, &e) || ledger_open(&w.ledger, w.db, &e) ||
             db_write_wait(w.db, make_names, &w, &e) || make_rows(&w, &e);
    ledger_close(w.ledger);
    db_close(w.db);
    if (rc) fprintf(stderr, "make_usage: %s\n", e.msg);
    return rc ? 1 : 0;
}
