/* ledger_sums: usage rows -> buckets of the rollups.
 *
 *     row --> minute, hour (tenant, and '' for everybody) | day x full key | day x adapter | latencies (tenant, and '')
 *                                                         | alias x hour, its latencies | what did not complete
 *                                                         | day x one dimension (tenant, and ''; gateway/ledger/ledger_dims.h)
 *     each (table, key) is found by a hash of those parts of the row that the table's key has; a bucket keeps the row that made it, for the texts
 *
 * Writing is one upsert per bucket, table by table. Kinds of latency: 0 time to first token, 1 duration, 2 time per output token after the first.
 * Single-threaded, memory of its own, bounded by rows_max; sums stay far from 2^63 because tokens and costs of a row are bounded
 * (LEDGER_COUNT_MAX, PRICE_COST_MAX). */
#include "gateway/ledger/ledger_sums.h"
#include "base/clock.h"
#include "gateway/ledger/ledger_dims.h"
#include "gateway/ledger/ledger_internal.h"
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS_OF_ROW 31 /* at most: see sums_add() */

enum table { MINUTE, HOUR, DAY, ADAPTER, LATENCY, ALIAS, ALIAS_LATENCY, BAD, BY, TABLES };

/* Parts of a bucket's key beside tenant and t. */
enum part { OF_STATE = 1, OF_KIND = 2, OF_KEY = 4, OF_BASE = 8, OF_ADAPTER = 16, OF_MODEL = 32, OF_ENDPOINT = 64, OF_ALIAS = 128, OF_ID = 256, OF_DIM = 512 };

struct bucket {
    uint64_t hash;
    const struct usage_row *r;
    const char *tenant; /* r's, or "" */
    int64_t t;
    enum table table;
    int kind, step; /* of a latency; kind also enum rollup_dim */
    int64_t n, prompt, cached, output, produced, cost, cold, last_used, errors, aborts, ttft_n, ttft_us, load_us;
};

struct sums {
    int64_t oldest_day; /* of its buckets of days; INT64_MAX / 2: none yet */
    int64_t minutes_from, hours_from, bad_from;
    uint32_t *index; /* [mask + 1], 1 + place in bucket */
    uint32_t mask;
    struct bucket *bucket;
    uint32_t n, cap;
};

/* Quarter octaves: four buckets per doubling, so a percentile is right within 19 %. */
int ledger_latency_bucket(int64_t us)
{
    if (us < 4) return us > 0 ? (int)us : 0;
    int octave = 63 - __builtin_clzll((unsigned long long)us);
    return octave * 4 + (int)(us >> (octave - 2) & 3);
}

struct sums *sums_new(int rows_max, int64_t minutes_from, int64_t hours_from, int64_t bad_from)
{
    struct sums *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    *s = (struct sums){.oldest_day = INT64_MAX / 2, .minutes_from = minutes_from, .hours_from = hours_from, .bad_from = bad_from,
                       .cap = (uint32_t)rows_max * BUCKETS_OF_ROW};
    uint32_t slots = 32;
    while (slots < s->cap * 2) slots *= 2;
    s->mask = slots - 1;
    s->index = calloc(slots, sizeof *s->index);
    s->bucket = malloc(s->cap * sizeof *s->bucket);
    if (s->index && s->bucket) return s;
    sums_free(s);
    return NULL;
}

void sums_free(struct sums *s)
{
    if (!s) return;
    free(s->index);
    free(s->bucket);
    free(s);
}

/* --- SQL, by table --- */

#define SUMS "n, prompt, cached, output, produced, cost"
#define ADD_SUMS \
    "n = n + excluded.n, prompt = prompt + excluded.prompt, cached = cached + excluded.cached, output = output + excluded.output," \
    " produced = produced + excluded.produced, cost = cost + excluded.cost"
#define SPAN(table) \
    "INSERT INTO " table "(tenant, t, state, " SUMS ") VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO UPDATE SET " ADD_SUMS

static const char minute_sql[] = SPAN("rollup_minute"), hour_sql[] = SPAN("rollup_hour");
static const char day_sql[] = "INSERT INTO rollup_day(tenant, t, key, base, adapter, version, model, endpoint, state, " SUMS
                              ") VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) ON CONFLICT DO UPDATE SET " ADD_SUMS;
static const char adapter_sql[] =
    "INSERT INTO rollup_adapter(tenant, adapter, version, t, cold, last_used, errors, aborts, ttft_n, ttft_us, load_us, " SUMS
    ") VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17) ON CONFLICT DO UPDATE SET " ADD_SUMS
    ", cold = cold + excluded.cold, last_used = max(last_used, excluded.last_used), errors = errors + excluded.errors,"
    " aborts = aborts + excluded.aborts, ttft_n = ttft_n + excluded.ttft_n, ttft_us = ttft_us + excluded.ttft_us,"
    " load_us = load_us + excluded.load_us";
static const char latency_sql[] = "INSERT INTO rollup_latency(tenant, t, kind, bucket, n) VALUES(?1, ?2, ?3, ?4, ?5)"
                                  " ON CONFLICT DO UPDATE SET n = n + excluded.n";
static const char alias_sql[] = "INSERT INTO rollup_alias(tenant, alias, t, adapter, version, state, " SUMS
                                ") VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT DO UPDATE SET " ADD_SUMS;
static const char alias_latency_sql[] = "INSERT INTO rollup_alias_latency(tenant, alias, t, adapter, version, kind, bucket, n)"
                                        " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO UPDATE SET n = n + excluded.n";
static const char by_sql[] = "INSERT INTO rollup_by(tenant, t, dim, name, version, base, price, errors, aborts, " SUMS
                             ") VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) ON CONFLICT DO UPDATE SET " ADD_SUMS
                             ", errors = errors + excluded.errors, aborts = aborts + excluded.aborts";
static const char bad_sql[] = "INSERT OR IGNORE INTO usage_bad(tenant, id, month, state) VALUES(?1, ?2, ?3, ?4)";

static int bind_span(sqlite3_stmt *st, const struct bucket *b, struct err *e)
{
    return db_bind(st, e, "siiiiiiii", b->tenant, b->t, b->r->state, b->n, b->prompt, b->cached, b->output, b->produced, b->cost);
}

static int bind_day(sqlite3_stmt *st, const struct bucket *b, struct err *e)
{
    const struct usage_row *r = b->r;
    return db_bind(st, e, "sisssissiiiiiii", b->tenant, b->t, r->key, r->base, r->adapter, r->version, r->model, r->endpoint, r->state, b->n,
                   b->prompt, b->cached, b->output, b->produced, b->cost);
}

static int bind_adapter(sqlite3_stmt *st, const struct bucket *b, struct err *e)
{
    return db_bind(st, e, "ssiiiiiiiiiiiiiii", b->tenant, b->r->adapter, b->r->version, b->t, b->cold, b->last_used, b->errors, b->aborts,
                   b->ttft_n, b->ttft_us, b->load_us, b->n, b->prompt, b->cached, b->output, b->produced, b->cost);
}

static int bind_latency(sqlite3_stmt *st, const struct bucket *b, struct err *e)
{
    return db_bind(st, e, "siiii", b->tenant, b->t, (int64_t)b->kind, (int64_t)b->step, b->n);
}

static int bind_alias(sqlite3_stmt *st, const struct bucket *b, struct err *e)
{
    return db_bind(st, e, "ssisiiiiiiii", b->tenant, b->r->alias, b->t, b->r->adapter, b->r->version, b->r->state, b->n, b->prompt, b->cached,
                   b->output, b->produced, b->cost);
}

static int bind_alias_latency(sqlite3_stmt *st, const struct bucket *b, struct err *e)
{
    return db_bind(st, e, "ssisiiii", b->tenant, b->r->alias, b->t, b->r->adapter, b->r->version, (int64_t)b->kind, (int64_t)b->step, b->n);
}

static int bind_bad(sqlite3_stmt *st, const struct bucket *b, struct err *e)
{
    return db_bind(st, e, "ssii", b->tenant, b->r->id, (int64_t)b->r->month, b->r->state);
}

/* What a row of rollup_by is called: gateway/ledger/ledger_dims.h, line by line. */
struct by_key {
    const char *name, *base;
    int64_t version, price;
};

static struct by_key by_key(const struct bucket *b)
{
    static const char *const states[USAGE_STATES] = {"0", "1", "2", "3", "4", "5"};
    const struct usage_row *r = b->r;
    bool all = !*b->tenant;
    int64_t price = r->adjusts ? ROLLUP_PRICE_ADJUSTED : 0;
    switch (b->kind) {
    case DIM_BILL: return (struct by_key){all ? "" : r->adapter, r->base, all ? 0 : r->version, r->adjusts ? price : r->price};
    case DIM_KEY: return (struct by_key){r->key, "", 0, price};
    case DIM_MODEL: return (struct by_key){r->model, strcmp(r->model, r->base) == 0 ? r->base : "", 0, price};
    case DIM_ENDPOINT: return (struct by_key){r->endpoint, "", 0, price};
    case DIM_STATE: return (struct by_key){r->state >= 0 && r->state < USAGE_STATES ? states[r->state] : "", "", 0, price};
    default: return (struct by_key){r->tenant, "", 0, price};
    }
}

static int bind_by(sqlite3_stmt *st, const struct bucket *b, struct err *e)
{
    struct by_key k = by_key(b);
    return db_bind(st, e, "siisisiiiiiiiii", b->tenant, b->t, (int64_t)b->kind, k.name, k.version, k.base, k.price, b->errors, b->aborts, b->n, b->prompt,
                   b->cached, b->output, b->produced, b->cost);
}

static const struct {
    unsigned parts;
    int64_t width_s;
    const char *sql;
    int (*bind)(sqlite3_stmt *st, const struct bucket *b, struct err *e);
} tables[TABLES] = {
    [MINUTE] = {OF_STATE, 60, minute_sql, bind_span},
    [HOUR] = {OF_STATE, 3600, hour_sql, bind_span},
    [DAY] = {OF_KEY | OF_BASE | OF_ADAPTER | OF_MODEL | OF_ENDPOINT | OF_STATE, 86400, day_sql, bind_day},
    [ADAPTER] = {OF_ADAPTER, 86400, adapter_sql, bind_adapter},
    [LATENCY] = {OF_KIND, 3600, latency_sql, bind_latency},
    [ALIAS] = {OF_ALIAS | OF_ADAPTER | OF_STATE, 3600, alias_sql, bind_alias},
    [ALIAS_LATENCY] = {OF_ALIAS | OF_ADAPTER | OF_KIND, 3600, alias_latency_sql, bind_alias_latency},
    [BAD] = {OF_ID, 3600, bad_sql, bind_bad},
    [BY] = {OF_DIM, 86400, by_sql, bind_by},
};

/* --- days that are over --- */

static _Atomic int64_t closed_until; /* the latest that any reader took for closed, so that a clock that is set back betrays nobody */

int sums_past(struct db *d, sqlite3 *c, int64_t closed, int64_t *out, struct err *e)
{
    static const char sql[] = "SELECT value FROM meta WHERE name = 'rollups_past'";
    int64_t last = closed_until;
    while (last < closed && !atomic_compare_exchange_weak(&closed_until, &last, closed)) {}
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st ? db_row(st, e) : -1;
    if (rc >= 0) *out = rc ? sqlite3_column_int64(st, 0) : 0;
    sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

int sums_count_past(struct db *d, sqlite3 *c, struct err *e)
{
    static const char sql[] = "INSERT INTO meta(name, value) VALUES('rollups_past', 1) ON CONFLICT DO UPDATE SET value = value + 1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return st ? db_done(st, e) : -1;
}

/* Half of SUMS_CLOSED_S lies between what is counted here and what a reader keeps: a transaction is over by then. */
static bool is_past(const struct sums *s)
{
    int64_t counted = clock_wall_us() / 1000000 - SUMS_CLOSED_S / 2, last = closed_until;
    if (counted < last) counted = last;
    return s->oldest_day + 86400 <= counted;
}

int sums_write(const struct sums *s, struct db *d, sqlite3 *c, struct err *e)
{
    if (is_past(s) && sums_count_past(d, c, e)) return -1;
    for (int k = 0; k < TABLES; k++)
        for (uint32_t i = 0; i < s->n; i++) {
            const struct bucket *b = &s->bucket[i];
            if ((int)b->table != k) continue;
            sqlite3_stmt *st = db_stmt(d, c, tables[k].sql, e);
            if (!st || tables[k].bind(st, b, e) || db_done(st, e)) return -1;
        }
    return 0;
}

/* --- finding a bucket --- */

/* The parts of a row that keys have, hashed once for all of its buckets. */
struct parts {
    uint64_t tenant, key, base, adapter, model, endpoint, alias, id;
};

static uint64_t hash_text(const char *s)
{
    uint64_t h = 14695981039346656037ull;
    for (; *s; s++) h = (h ^ (uint8_t)*s) * 1099511628211ull;
    return h;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9E3779B97F4A7C15ull;
    return h ^ h >> 29;
}

/* Texts of a dimension; that all have a version, a base and a price is one more compare in same(). */
static uint64_t hash_dim(const struct bucket *b, const struct parts *p)
{
    uint64_t h = (uint64_t)b->kind << 8 | (b->r->adjusts != NULL);
    switch (b->kind) {
    case DIM_BILL: return mix(mix(mix(mix(h, *b->tenant ? p->adapter : 0), *b->tenant ? (uint64_t)b->r->version : 0), p->base), (uint64_t)b->r->price);
    case DIM_KEY: return mix(h, p->key);
    case DIM_MODEL: return mix(h, p->model);
    case DIM_ENDPOINT: return mix(h, p->endpoint);
    case DIM_STATE: return mix(h, (uint64_t)b->r->state);
    default: return mix(h, p->tenant);
    }
}

static bool same_text(const char *a, const char *b) { return a == b || strcmp(a, b) == 0; }

static bool same_dim(const struct bucket *a, const struct bucket *b)
{
    if (a->kind != b->kind) return false;
    struct by_key x = by_key(a), y = by_key(b);
    return x.version == y.version && x.price == y.price && same_text(x.name, y.name) && same_text(x.base, y.base);
}

static uint64_t hash_bucket(const struct bucket *b, const struct parts *p)
{
    unsigned of = tables[b->table].parts;
    uint64_t h = mix(mix((uint64_t)b->table + 1, (uint64_t)b->t), *b->tenant ? p->tenant : 0);
    if (of & OF_STATE) h = mix(h, (uint64_t)b->r->state);
    if (of & OF_KIND) h = mix(h, (uint64_t)b->kind << 32 | (uint64_t)b->step);
    if (of & OF_KEY) h = mix(h, p->key);
    if (of & OF_BASE) h = mix(h, p->base);
    if (of & OF_ADAPTER) h = mix(mix(h, p->adapter), (uint64_t)b->r->version);
    if (of & OF_MODEL) h = mix(h, p->model);
    if (of & OF_ENDPOINT) h = mix(h, p->endpoint);
    if (of & OF_ALIAS) h = mix(h, p->alias);
    if (of & OF_ID) h = mix(h, p->id);
    if (of & OF_DIM) h = mix(h, hash_dim(b, p));
    return h;
}

static bool same(const struct bucket *a, const struct bucket *b)
{
    const struct usage_row *x = a->r, *y = b->r;
    unsigned of = tables[a->table].parts;
    if (a->hash != b->hash || a->table != b->table || a->t != b->t || !same_text(a->tenant, b->tenant)) return false;
    if (of & OF_STATE && x->state != y->state) return false;
    if (of & OF_KIND && (a->kind != b->kind || a->step != b->step)) return false;
    if (of & OF_KEY && !same_text(x->key, y->key)) return false;
    if (of & OF_BASE && !same_text(x->base, y->base)) return false;
    if (of & OF_ADAPTER && (x->version != y->version || !same_text(x->adapter, y->adapter))) return false;
    if (of & OF_MODEL && !same_text(x->model, y->model)) return false;
    if (of & OF_ENDPOINT && !same_text(x->endpoint, y->endpoint)) return false;
    if (of & OF_ALIAS && !same_text(x->alias, y->alias)) return false;
    if (of & OF_DIM && !same_dim(a, b)) return false;
    return !(of & OF_ID) || same_text(x->id, y->id);
}

static int64_t bucket_start(const struct bucket *b)
{
    if (b->table == BY && b->kind == DIM_TENANT_MONTH) return month_start(month_of(b->r->t_start));
    bool day = b->table == LATENCY && b->kind >= LATENCY_DAY;
    return bucket_s(b->r->t_start, day ? 86400 : tables[b->table].width_s);
}

/* The bucket of this key, made empty where there is none. */
static struct bucket *find(struct sums *s, struct bucket *key, const struct parts *p)
{
    key->t = bucket_start(key);
    key->hash = hash_bucket(key, p);
    uint32_t i = (uint32_t)(key->hash >> 20) & s->mask;
    while (s->index[i] && !same(&s->bucket[s->index[i] - 1], key)) i = (i + 1) & s->mask;
    if (!s->index[i]) {
        s->bucket[s->n++] = *key;
        if (key->table == DAY && key->t < s->oldest_day) s->oldest_day = key->t; /* every row is in one of these */
        s->index[i] = s->n;
    }
    return &s->bucket[s->index[i] - 1];
}

/* --- adding --- */

static struct bucket *add_to(struct sums *s, struct bucket *key, const struct parts *p)
{
    const struct usage_row *r = key->r;
    struct bucket *b = find(s, key, p);
    b->n += !r->adjusts;
    b->prompt += r->prompt;
    b->cached += r->cached;
    b->output += r->output;
    b->produced += r->produced;
    b->cost += r->cost;
    return b;
}

static struct bucket *add(struct sums *s, const struct usage_row *r, const struct parts *p, enum table table, const char *tenant)
{
    return add_to(s, &(struct bucket){.r = r, .table = table, .tenant = tenant}, p);
}

static void add_outcome(struct bucket *b, const struct usage_row *r)
{
    if (r->adjusts) return;
    b->errors += r->state == USAGE_UPSTREAM_ERROR || r->state == USAGE_TIMEOUT || r->state == USAGE_GATEWAY_CRASH;
    b->aborts += r->state == USAGE_CLIENT_ABORT;
}

static void add_dims(struct sums *s, const struct usage_row *r, const struct parts *p)
{
    static const enum rollup_dim own[] = {DIM_BILL, DIM_KEY, DIM_MODEL, DIM_ENDPOINT, DIM_STATE},
                                 all[] = {DIM_BILL, DIM_ENDPOINT, DIM_STATE, DIM_TENANT, DIM_TENANT_MONTH, DIM_MODEL};
    int nown = sizeof own / sizeof *own, nall = sizeof all / sizeof *all;
    if (!*r->base || strcmp(r->model, r->base) != 0) nall--; /* the last: what is a tenant's own name is nobody else's; a credit names nothing */
    for (int i = 0; i < nown; i++) add_outcome(add_to(s, &(struct bucket){.r = r, .table = BY, .tenant = r->tenant, .kind = own[i]}, p), r);
    for (int i = 0; i < nall; i++) add_outcome(add_to(s, &(struct bucket){.r = r, .table = BY, .tenant = "", .kind = all[i]}, p), r);
}

static void add_latency(struct sums *s, const struct usage_row *r, const struct parts *p, int kind, int64_t us)
{
    struct bucket key = {.r = r, .table = LATENCY, .tenant = r->tenant, .kind = kind, .step = ledger_latency_bucket(us)};
    find(s, &key, p)->n++;
    key.tenant = "";
    find(s, &key, p)->n++;
    key.kind = kind + LATENCY_DAY;
    find(s, &key, p)->n++;
    key.kind = kind;
    if (!*r->alias) return;
    key.table = ALIAS_LATENCY;
    key.tenant = r->tenant;
    find(s, &key, p)->n++;
}

static void add_latencies(struct sums *s, const struct usage_row *r, const struct parts *p)
{
    if (r->t_first > 0) add_latency(s, r, p, 0, r->t_first - r->t_start);
    add_latency(s, r, p, 1, r->t_end - r->t_start);
    if (r->t_first > 0 && r->output > 1) add_latency(s, r, p, 2, (r->t_end - r->t_first) / (r->output - 1));
}

static void add_adapter(struct sums *s, const struct usage_row *r, const struct parts *p)
{
    struct bucket *b = add(s, r, p, ADAPTER, r->tenant);
    if (r->adjusts) return;
    b->cold += r->cold;
    if (r->t_end > b->last_used) b->last_used = r->t_end;
    add_outcome(b, r);
    b->ttft_n += r->t_first > 0;
    b->ttft_us += r->t_first > 0 ? r->t_first - r->t_start : 0;
    b->load_us += r->load_us;
}

void sums_add(struct sums *s, const struct usage_row *r)
{
    const struct parts p = {hash_text(r->tenant), hash_text(r->key), hash_text(r->base), hash_text(r->adapter), hash_text(r->model),
                            hash_text(r->endpoint), hash_text(r->alias), hash_text(r->id)};
    int64_t t = r->t_start / 1000000;
    add(s, r, &p, DAY, r->tenant);
    add_adapter(s, r, &p);
    add_dims(s, r, &p);
    if (t >= s->minutes_from)
        for (int all = 0; all < 2; all++) add(s, r, &p, MINUTE, all ? "" : r->tenant);
    if (t < s->hours_from) return;
    for (int all = 0; all < 2; all++) add(s, r, &p, HOUR, all ? "" : r->tenant);
    if (*r->alias) add(s, r, &p, ALIAS, r->tenant);
    if (r->adjusts) return;
    add_latencies(s, r, &p);
    if (t >= s->bad_from && r->state != USAGE_COMPLETED) find(s, &(struct bucket){.r = r, .table = BAD, .tenant = r->tenant}, &p);
}
