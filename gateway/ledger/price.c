/* price: what a token costs, from memory (see price.h).
 *
 * All rows stand in a sorted snapshot (base, tenant, adapter, valid_from), so a question is up to three binary searches:
 * the tenant's price of the adapter, the tenant's of the base, the base's. A snapshot is never edited; a change makes a
 * new one, and the last reader of an old one frees it. Where no new one could be made after a change that is committed, the
 * old one is stale: prices_tick() has it tried again on a database thread until it is renewed. */
#include "gateway/ledger/price.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PRICES_MAX 1000000
#define LOAD_MS 30000
#define CHANGED_MS 5000 /* of who made a change, who waits for its answer */
#define AGAIN_US 1000000
#define NAME_LEN 128

struct row {
    char base[NAME_LEN], tenant[40], adapter[72];
    int64_t from;
    struct price price;
};

struct snapshot {
    int refs; /* under prices.lock */
    size_t n, cap;
    struct row *row;
};

struct prices {
    struct db *db;
    pthread_mutex_t lock;      /* covers `now` and every refs */
    pthread_mutex_t reloading; /* one at a time, so an older state never replaces a newer one; taken before `lock` */
    struct snapshot *now;
    _Atomic bool stale;  /* what is committed is not in `now`: the last reload failed */
    _Atomic bool trying; /* on a database thread */
    _Atomic int64_t again_us;
};

static void snapshot_free(struct snapshot *s)
{
    if (s) free(s->row);
    free(s);
}

static void snapshot_unref(struct prices *p, struct snapshot *s)
{
    pthread_mutex_lock(&p->lock);
    bool last = s && --s->refs == 0;
    pthread_mutex_unlock(&p->lock);
    if (last) snapshot_free(s);
}

static int add_row(struct snapshot *s, sqlite3_stmt *st, struct err *e)
{
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 64;
        struct row *more = s->n < PRICES_MAX ? realloc(s->row, cap * sizeof *more) : NULL;
        if (!more) return err_set(e, ERR_NO_MEMORY, "no memory for %zu prices", cap);
        s->row = more;
        s->cap = cap;
    }
    struct row *r = &s->row[s->n++];
    snprintf(r->base, sizeof r->base, "%s", db_text(st, 0));
    snprintf(r->tenant, sizeof r->tenant, "%s", db_text(st, 1));
    snprintf(r->adapter, sizeof r->adapter, "%s", db_text(st, 2));
    r->from = sqlite3_column_int64(st, 3);
    r->price = (struct price){sqlite3_column_int64(st, 4), sqlite3_column_int64(st, 5), sqlite3_column_int64(st, 6),
                              sqlite3_column_int64(st, 7)};
    return 0;
}

static int read_rows(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT base, tenant, adapter, valid_from, row, prompt, cached, output FROM price"
                              " ORDER BY base, tenant, adapter, valid_from";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st) return -1;
    int rc;
    while ((rc = db_row(st, e)) == 1)
        if (add_row(u, st, e)) return -1;
    return rc;
}

/* Under `reloading`: what is read is never older than the change that asked for it. */
static int load(struct prices *p, int within_ms, struct snapshot **old, struct err *e)
{
    struct snapshot *s = calloc(1, sizeof *s);
    *old = s;
    if (!s) return err_set(e, ERR_NO_MEMORY, "no memory for prices");
    s->refs = 1;
    if (db_read(p->db, read_rows, s, within_ms, e)) return -1;
    pthread_mutex_lock(&p->lock);
    *old = p->now;
    p->now = s;
    pthread_mutex_unlock(&p->lock);
    return 0;
}

static int reload(struct prices *p, int within_ms, struct err *e)
{
    struct snapshot *old;
    pthread_mutex_lock(&p->reloading);
    int rc = load(p, within_ms, &old, e);
    p->stale = rc != 0;
    pthread_mutex_unlock(&p->reloading);
    snapshot_unref(p, old);
    return rc;
}

void prices_changed(struct prices *p)
{
    struct err e = {0};
    if (reload(p, CHANGED_MS, &e) == 0) return;
    log_error("prices_stale", LS("error", e.msg));
    p->again_us = clock_mono_us() + AGAIN_US;
}

static void try_again(void *u)
{
    struct prices *p = u;
    struct err e = {0};
    if (reload(p, LOAD_MS, &e) == 0) log_info("prices_renewed");
    else log_error("prices_stale", LS("error", e.msg));
    p->again_us = clock_mono_us() + AGAIN_US;
    p->trying = false;
}

void prices_tick(struct prices *p)
{
    if (!p->stale || p->trying || clock_mono_us() < p->again_us) return;
    p->trying = true;
    if (db_defer(p->db, try_again, p, NULL)) p->trying = false;
}

static int compare(const struct row *r, const char *base, const char *tenant, const char *adapter)
{
    int d = strcmp(r->base, base);
    if (!d) d = strcmp(r->tenant, tenant);
    return d ? d : strcmp(r->adapter, adapter);
}

/* The last row of these names that began before the time. */
static const struct row *find(const struct snapshot *s, const char *base, const char *tenant, const char *adapter,
                              int64_t wall_us)
{
    size_t low = 0, high = s->n; /* the first row that is beyond */
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int d = compare(&s->row[mid], base, tenant, adapter);
        if (d < 0 || (d == 0 && s->row[mid].from <= wall_us))
            low = mid + 1;
        else
            high = mid;
    }
    return low && compare(&s->row[low - 1], base, tenant, adapter) == 0 ? &s->row[low - 1] : NULL;
}

struct price price_of(struct prices *p, const char *base, const char *tenant, const char *adapter, int64_t wall_us)
{
    struct price found = {0};
    pthread_mutex_lock(&p->lock);
    struct snapshot *s = p->now;
    bool none = s->n == 0; /* nobody asks for money: no need to come back for the reference */
    if (!none) s->refs++;
    pthread_mutex_unlock(&p->lock);
    if (none) return found;
    const struct row *r = *adapter ? find(s, base, tenant, adapter, wall_us) : NULL;
    if (!r) r = find(s, base, tenant, "", wall_us);
    if (!r) r = find(s, base, "", "", wall_us);
    if (r) found = r->price;
    snapshot_unref(p, s);
    return found;
}

int price_of_row(struct db *d, sqlite3 *c, int64_t row, struct price *out, struct err *e)
{
    static const char sql[] = "SELECT prompt, cached, output FROM price WHERE row = ?1 UNION ALL SELECT prompt, cached, output FROM price_removed WHERE row = ?1";
    *out = (struct price){.row = row};
    if (!row) return 1;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "i", row)) return -1;
    int rc = db_row(st, e);
    if (rc == 1) *out = (struct price){row, sqlite3_column_int64(st, 0), sqlite3_column_int64(st, 1), sqlite3_column_int64(st, 2)};
    sqlite3_reset(st);
    return rc;
}

static int64_t add_cost(int64_t sum, int64_t tokens, int64_t each)
{
    int64_t v;
    if (tokens <= 0 || each <= 0) return sum;
    if (__builtin_mul_overflow(tokens, each, &v) || __builtin_add_overflow(sum, v, &v) || v > PRICE_COST_MAX)
        return PRICE_COST_MAX;
    return v;
}

int64_t price_cost(const struct price *p, int64_t prompt, int64_t cached, int64_t output)
{
    if (cached > prompt) cached = prompt;
    int64_t cost = add_cost(0, prompt - (cached > 0 ? cached : 0), p->prompt);
    return add_cost(add_cost(cost, cached, p->cached), output, p->output);
}

int64_t price_bound(const struct price *p, int64_t prompt, int64_t output)
{
    return add_cost(add_cost(0, prompt, p->cached > p->prompt ? p->cached : p->prompt), output, p->output);
}

struct db *prices_db(struct prices *p)
{
    return p->db;
}

int prices_open(struct prices **out, struct db *d, struct err *e)
{
    struct prices *p = calloc(1, sizeof *p);
    if (!p) return err_set(e, ERR_NO_MEMORY, "no memory for prices");
    p->db = d;
    pthread_mutex_init(&p->lock, NULL);
    pthread_mutex_init(&p->reloading, NULL);
    if (reload(p, LOAD_MS, e)) {
        prices_close(p);
        return -1;
    }
    *out = p;
    return 0;
}

void prices_close(struct prices *p)
{
    if (!p) return;
    snapshot_free(p->now);
    pthread_mutex_destroy(&p->lock);
    pthread_mutex_destroy(&p->reloading);
    free(p);
}
