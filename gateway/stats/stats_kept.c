/* stats_kept: days by dimension, told from memory where they are closed and from SQLite where they are not (see stats_kept.h).
 *
 *     range:   |--------- closed ---------|- open -|
 *     blocks:  [ 16 days ][ 16 days ][ 5 d]          each of one tenant in one dimension, made by one range of the primary key
 *     rows:                                [  SQL  ]
 *
 * A block holds its names once, in the key's order, with their sums over all of its days; and a row for each day and name, by day, in the order of
 * names. So what SQLite would step through is told in the same order without it; a name's days are found by a search in each; and where a range covers
 * a block, sums by name cost one row a name.
 *
 * One name's days of everybody's dimensions (a thousand tenants in a block) don't make one that isn't there: sixteen searches in the key are cheaper.
 *
 * A tenant's histograms are kept as days, too, which in the database are its hours: a dimension for each kind, with the buckets as names. Hours leave
 * when their time is over, so days that are about to are read each time.
 *
 * Blocks are immutable and shared; `lock` covers the table, the order of use and all references. Two who miss the same block both make it, the later is
 * kept. A block that would take more than an eighth of all room is told and not kept. On any thread that reads. */
#include "gateway/stats/stats_kept.h"
#include "gateway/ledger/ledger_sums.h"
#include "gateway/stats/latency.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS 4096 /* of the table: a power of two */
#define WINDOW ((int64_t)KEPT_DAYS * STATS_DAY)
#define FIRST 16 /* rows and names of a block, to begin with */
#define LATENCY_DIM ROLLUP_DIMS /* and after: of rollup_latency */

struct block_name {
    uint32_t name, base; /* in text */
    int64_t version, price;
    struct stats_sums whole;
};

struct block_row {
    int name;
    struct stats_sums sums;
};

struct block {
    char tenant[UUID_LEN];
    int dim;
    int64_t start, until, past; /* days, and the count that its snapshot had */
    int refs;
    size_t bytes;
    struct block *chain, *newer, *older;
    int first[KEPT_DAYS + 1]; /* row of each day */
    int names, rows;
    struct block_name *name;
    struct block_row *row;
    char *text;
};

struct stats_kept {
    struct db *db;
    pthread_mutex_t lock;
    size_t bytes, bytes_max;
    struct block *slot[SLOTS], *newest, *oldest;
};

struct stats_kept *stats_kept_new(struct db *d, size_t bytes_max)
{
    struct stats_kept *k = calloc(1, sizeof *k);
    if (!k) return NULL;
    k->db = d;
    k->bytes_max = bytes_max;
    pthread_mutex_init(&k->lock, NULL);
    return k;
}

struct db *stats_kept_db(const struct stats_kept *k) { return k->db; }

size_t stats_kept_bytes(struct stats_kept *k)
{
    pthread_mutex_lock(&k->lock);
    size_t bytes = k->bytes;
    pthread_mutex_unlock(&k->lock);
    return bytes;
}

/* Under the lock, or of the one that has it alone. */
static void drop(struct block *b)
{
    if (!b || --b->refs) return;
    free(b->name);
    free(b->row);
    free(b->text);
    free(b);
}

static void unref(struct stats_kept *k, struct block *b)
{
    pthread_mutex_lock(&k->lock);
    drop(b);
    pthread_mutex_unlock(&k->lock);
}

/* --- the table; under the lock --- */

static struct block **slot_of(struct stats_kept *k, const char *tenant, int dim, int64_t start)
{
    uint64_t h = (uint64_t)start / (uint64_t)WINDOW * (LATENCY_DIM + LATENCY_KINDS) + (uint64_t)dim;
    for (; *tenant; tenant++) h = (h ^ (uint8_t)*tenant) * 1099511628211ull;
    return &k->slot[(h >> 32 ^ h) & (SLOTS - 1)];
}

static struct block *find(struct stats_kept *k, const char *tenant, int dim, int64_t start)
{
    struct block *b = *slot_of(k, tenant, dim, start);
    while (b && (b->start != start || b->dim != dim || strcmp(b->tenant, tenant) != 0)) b = b->chain;
    return b;
}

static void unlink_used(struct stats_kept *k, struct block *b)
{
    *(b->newer ? &b->newer->older : &k->newest) = b->older;
    *(b->older ? &b->older->newer : &k->oldest) = b->newer;
}

static void link_newest(struct stats_kept *k, struct block *b)
{
    b->newer = NULL;
    b->older = k->newest;
    *(k->newest ? &k->newest->newer : &k->oldest) = b;
    k->newest = b;
}

static void forget(struct stats_kept *k, struct block *b)
{
    struct block **at = slot_of(k, b->tenant, b->dim, b->start);
    while (*at != b) at = &(*at)->chain;
    *at = b->chain;
    unlink_used(k, b);
    k->bytes -= b->bytes;
    drop(b);
}

void stats_kept_free(struct stats_kept *k)
{
    if (!k) return;
    while (k->newest) forget(k, k->newest);
    pthread_mutex_destroy(&k->lock);
    free(k);
}

static void keep(struct stats_kept *k, struct block *b)
{
    if (b->bytes > k->bytes_max / 8) return;
    pthread_mutex_lock(&k->lock);
    struct block *was = find(k, b->tenant, b->dim, b->start), **at = slot_of(k, b->tenant, b->dim, b->start);
    if (was) forget(k, was);
    while (k->oldest && k->bytes + b->bytes > k->bytes_max) forget(k, k->oldest);
    b->chain = *at;
    *at = b;
    link_newest(k, b);
    k->bytes += b->bytes;
    b->refs++;
    pthread_mutex_unlock(&k->lock);
}

/* NULL: not there as this snapshot has it, up to `until`. */
static struct block *find_kept(const struct stats_read *x, const char *tenant, int dim, int64_t start, int64_t until)
{
    struct stats_kept *k = x->kept;
    pthread_mutex_lock(&k->lock);
    struct block *b = find(k, tenant, dim, start);
    if (b && (b->past != x->past || b->until < until)) b = NULL;
    if (b) {
        b->refs++;
        unlink_used(k, b);
        link_newest(k, b);
    }
    pthread_mutex_unlock(&k->lock);
    return b;
}

/* --- what a block is made of --- */

struct histogram_days {
    stats_each *each;
    void *user;
    int64_t day, n[LATENCY_BUCKETS];
};

static int end_day(struct histogram_days *h, struct err *e)
{
    char name[16];
    for (int i = 0; i < LATENCY_BUCKETS; i++) {
        if (!h->n[i]) continue;
        snprintf(name, sizeof name, "%03d", i); /* so that texts are in the order of numbers */
        if (h->each(h->user, &(struct stats_row){.t = h->day, .name = name, .base = "", .tenant = "", .sums = {.v = {[SUM_REQUESTS] = h->n[i]}}}, e))
            return -1;
        h->n[i] = 0;
    }
    return 0;
}

/* Hours are found one by one, so the other kinds' rows are not looked at. */
static int histogram_rows(const struct stats_read *x, const char *tenant, int kind, const struct stats_range *r, stats_each *each, void *u, struct err *e)
{
    static const char sql[] = "WITH RECURSIVE hour(t) AS (VALUES(?2) UNION ALL SELECT t + 3600 FROM hour WHERE t + 3600 < ?3)"
                              " SELECT r.t, r.bucket, r.n FROM hour CROSS JOIN rollup_latency r ON r.tenant = ?1 AND r.t = hour.t AND r.kind = ?4";
    struct histogram_days h = {.each = each, .user = u, .day = r->start};
    if (r->start >= r->end) return 0;
    sqlite3_stmt *st = db_stmt(x->d, x->c, sql, e);
    if (!st || db_bind(st, e, "siii", tenant, r->start, r->end, (int64_t)kind)) return -1;
    int rc;
    while ((rc = db_row(st, e)) == 1) {
        int64_t day = sqlite3_column_int64(st, 0) / STATS_DAY * STATS_DAY, bucket = sqlite3_column_int64(st, 1);
        if (day != h.day && end_day(&h, e)) break;
        h.day = day;
        if (bucket >= 0 && bucket < LATENCY_BUCKETS) h.n[bucket] += sqlite3_column_int64(st, 2);
    }
    sqlite3_reset(st);
    return rc == 0 ? end_day(&h, e) : -1;
}

static int rows(const struct stats_read *x, const char *tenant, int dim, const char *name, const struct stats_range *r, stats_each *each, void *u,
                struct err *e)
{
    if (dim >= LATENCY_DIM) return histogram_rows(x, tenant, dim - LATENCY_DIM, r, each, u, e);
    return stats_rows(x, tenant, (enum rollup_dim)dim, name, r, each, u, e);
}

/* --- making a block --- */

struct making {
    struct block *b;
    int name_cap, row_cap, slots;
    size_t text_n, text_cap;
    int *slot; /* [slots], name + 1 or 0 */
};

static uint32_t hash_name(const char *name, int64_t version, const char *base, int64_t price)
{
    uint32_t h = 2166136261u ^ (uint32_t)version ^ (uint32_t)price << 8;
    for (; *name; name++) h = (h ^ (uint8_t)*name) * 16777619u;
    for (; *base; base++) h = (h ^ (uint8_t)*base) * 16777619u;
    return h ^ h >> 15;
}

static int *find_name(const struct making *m, const char *name, int64_t version, const char *base, int64_t price)
{
    for (uint32_t i = hash_name(name, version, base, price);; i++) {
        int *at = &m->slot[i & (uint32_t)(m->slots - 1)];
        const struct block_name *n = *at ? &m->b->name[*at - 1] : NULL;
        const char *text = m->b->text;
        if (!n || (n->version == version && n->price == price && strcmp(text + n->name, name) == 0 && strcmp(text + n->base, base) == 0)) return at;
    }
}

static int grow_names(struct making *m, struct err *e)
{
    if (m->b->names < m->name_cap) return 0;
    int cap = m->name_cap ? 2 * m->name_cap : FIRST;
    struct block_name *name = realloc(m->b->name, (size_t)cap * sizeof *name);
    int *slot = name ? calloc((size_t)cap * 2, sizeof *slot) : NULL;
    if (name) m->b->name = name;
    if (!slot) return err_set(e, ERR_NO_MEMORY, "no memory for names of days");
    free(m->slot);
    m->slot = slot;
    m->slots = 2 * cap;
    m->name_cap = cap;
    for (int i = 0; i < m->b->names; i++) {
        const struct block_name *n = &name[i];
        *find_name(m, m->b->text + n->name, n->version, m->b->text + n->base, n->price) = i + 1;
    }
    return 0;
}

static int add_text(struct making *m, const char *text, uint32_t *out, struct err *e)
{
    size_t n = strlen(text) + 1;
    if (m->text_n + n > m->text_cap) {
        size_t cap = 2 * m->text_cap + n + 64;
        char *more = cap < UINT32_MAX ? realloc(m->b->text, cap) : NULL;
        if (!more) return err_set(e, ERR_NO_MEMORY, "no memory for names of days");
        m->b->text = more;
        m->text_cap = cap;
    }
    memcpy(m->b->text + m->text_n, text, n);
    *out = (uint32_t)m->text_n;
    m->text_n += n;
    return 0;
}

static int name_of(struct making *m, const struct stats_row *row, int *out, struct err *e)
{
    struct block *b = m->b;
    if (grow_names(m, e)) return -1;
    int *at = find_name(m, row->name, row->version, row->base, row->price);
    if (!*at) {
        struct block_name n = {.version = row->version, .price = row->price};
        if (add_text(m, row->name, &n.name, e) || add_text(m, row->base, &n.base, e)) return -1;
        b->name[b->names++] = n;
        *at = b->names;
    }
    *out = *at - 1;
    return 0;
}

static int add_row(void *u, const struct stats_row *row, struct err *e)
{
    struct making *m = u;
    struct block *b = m->b;
    int name;
    if (b->rows == m->row_cap) {
        int cap = m->row_cap ? 2 * m->row_cap : FIRST;
        struct block_row *more = realloc(b->row, (size_t)cap * sizeof *more);
        if (!more) return err_set(e, ERR_NO_MEMORY, "no memory for %d rows of days", cap);
        b->row = more;
        m->row_cap = cap;
    }
    if (name_of(m, row, &name, e)) return -1;
    stats_add(&b->name[name].whole, &row->sums);
    b->row[b->rows++] = (struct block_row){name, row->sums};
    b->first[(row->t - b->start) / STATS_DAY + 1]++; /* how many, for now */
    return 0;
}

static int by_key(const void *p, const void *q, void *u)
{
    const struct block *b = u;
    const struct block_name *x = &b->name[*(const int *)p], *y = &b->name[*(const int *)q];
    int d = strcmp(b->text + x->name, b->text + y->name);
    if (!d) d = (x->version > y->version) - (x->version < y->version);
    if (!d) d = strcmp(b->text + x->base, b->text + y->base);
    return d ? d : (x->price > y->price) - (x->price < y->price);
}

/* Names into the key's order, in which the rows of a day have come. */
static int order(struct block *b, struct err *e)
{
    size_t n = (size_t)b->names;
    int *from = malloc((n + 1) * sizeof *from), *to = malloc((n + 1) * sizeof *to);
    struct block_name *name = malloc((n + 1) * sizeof *name);
    int rc = from && to && name ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for names of days");
    for (int i = 0; i < b->names && rc == 0; i++) from[i] = i;
    if (rc == 0 && n) qsort_r(from, n, sizeof *from, by_key, b);
    for (int i = 0; i < b->names && rc == 0; i++) name[i] = b->name[from[i]], to[from[i]] = i;
    for (int i = 0; i < b->rows && rc == 0; i++) b->row[i].name = to[b->row[i].name];
    for (int i = 0; i < KEPT_DAYS && rc == 0; i++) b->first[i + 1] += b->first[i];
    free(from);
    free(to);
    free(rc ? name : b->name);
    if (rc == 0) b->name = name;
    return rc;
}

static struct block *make(const struct stats_read *x, const char *tenant, int dim, int64_t start, int64_t until, struct err *e)
{
    struct stats_range r = {start, until, STATS_DAY};
    struct block *b = calloc(1, sizeof *b);
    struct making m = {.b = b};
    if (!b) {
        err_set(e, ERR_NO_MEMORY, "no memory for days");
        return NULL;
    }
    *b = (struct block){.dim = dim, .start = start, .until = until, .past = x->past, .refs = 1};
    memcpy(b->tenant, tenant, strlen(tenant) + 1);
    int rc = rows(x, tenant, dim, NULL, &r, add_row, &m, e) || order(b, e);
    free(m.slot);
    if (rc) {
        drop(b);
        return NULL;
    }
    struct block_row *row = b->rows ? realloc(b->row, (size_t)b->rows * sizeof *row) : NULL;
    if (row) b->row = row;
    b->bytes = sizeof *b + (size_t)(b->names + 1) * sizeof *b->name + (size_t)b->rows * sizeof *b->row + m.text_cap;
    keep(x->kept, b);
    return b;
}

/* --- telling --- */

struct ask {
    const char *name; /* NULL: all */
    struct stats_range part;
    bool summed;
    stats_each *each;
    void *user;
};

static int tell(const struct block *b, const struct ask *a, int name, int64_t t, const struct stats_sums *sums, struct err *e)
{
    const struct block_name *n = &b->name[name];
    return a->each(a->user,
                   &(struct stats_row){.t = t, .version = n->version, .price = n->price, .name = b->text + n->name, .base = b->text + n->base,
                                       .tenant = "", .sums = *sums},
                   e);
}

/* The first name that is not before this one; after: nor it. */
static int bound(const struct block *b, const char *name, bool after)
{
    int low = 0, high = b->names;
    while (low < high) {
        int mid = (low + high) / 2, d = strcmp(b->text + b->name[mid].name, name);
        if (d < 0 || (after && d == 0))
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static int row_of(const struct block *b, int day, int name)
{
    int low = b->first[day], high = b->first[day + 1];
    while (low < high) {
        int mid = (low + high) / 2;
        if (b->row[mid].name < name)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static int tell_summed(const struct block *b, const struct ask *a, int from, int to, int names[2], struct err *e)
{
    int n = names[1] - names[0], rc = 0;
    struct stats_sums *sums = calloc((size_t)n + 1, sizeof *sums);
    bool *there = calloc((size_t)n + 1, sizeof *there);
    if (!sums || !there) rc = err_set(e, ERR_NO_MEMORY, "no memory for sums of days");
    for (int i = b->first[from]; i < b->first[to] && rc == 0; i++) {
        stats_add(&sums[b->row[i].name], &b->row[i].sums);
        there[b->row[i].name] = true;
    }
    for (int i = 0; i < n && rc == 0; i++)
        if (there[i]) rc = tell(b, a, i, a->part.start, &sums[i], e);
    free(sums);
    free(there);
    return rc;
}

static int tell_block(const struct block *b, const struct ask *a, struct err *e)
{
    int names[2] = {a->name ? bound(b, a->name, false) : 0, a->name ? bound(b, a->name, true) : b->names};
    int from = (int)((a->part.start - b->start) / STATS_DAY), to = (int)((a->part.end - b->start) / STATS_DAY);
    bool whole = a->part.start <= b->start && a->part.end >= b->until;
    if (names[0] == names[1]) return 0;
    for (int i = names[0]; i < names[1] && a->summed && whole; i++)
        if (tell(b, a, i, a->part.start, &b->name[i].whole, e)) return -1;
    if (a->summed && whole) return 0;
    if (a->summed && !a->name) return tell_summed(b, a, from, to, names, e);
    for (int day = from; day < to; day++)
        for (int i = a->name ? row_of(b, day, names[0]) : b->first[day]; i < b->first[day + 1] && b->row[i].name < names[1]; i++)
            if (tell(b, a, b->row[i].name, b->start + day * (int64_t)STATS_DAY, &b->row[i].sums, e)) return -1;
    return 0;
}

/* A part of one window, all of it closed. */
static int closed_part(const struct stats_read *x, const char *tenant, int dim, const struct ask *a, struct err *e)
{
    int64_t start = a->part.start / WINDOW * WINDOW, until = start + WINDOW < x->closed ? start + WINDOW : x->closed;
    bool leaves = dim >= LATENCY_DIM && start < x->now - SUMS_HOURS_KEPT_S + 2 * STATS_DAY;
    struct block *b = leaves ? NULL : find_kept(x, tenant, dim, start, a->part.end);
    if (leaves || (!b && a->name && !*tenant)) return rows(x, tenant, dim, a->name, &a->part, a->each, a->user, e);
    if (!b && !(b = make(x, tenant, dim, start, until, e))) return -1;
    int rc = tell_block(b, a, e);
    unref(x->kept, b);
    return rc;
}

/* A month's row changes as long as the month lasts, so it is no closed day. */
static int days(const struct stats_read *x, const char *tenant, int dim, const struct stats_range *r, struct ask *a, struct err *e)
{
    bool keeps = x->kept && dim != DIM_TENANT_MONTH && strlen(tenant) < UUID_LEN;
    int64_t at = r->start, closed = !keeps ? r->start : r->end < x->closed ? r->end : x->closed;
    for (int64_t next; at < closed; at = next) {
        int64_t window = at / WINDOW * WINDOW + WINDOW;
        next = window < closed ? window : closed;
        a->part = (struct stats_range){at, next, STATS_DAY};
        if (closed_part(x, tenant, dim, a, e)) return -1;
    }
    a->part = (struct stats_range){at, r->end, STATS_DAY};
    return rows(x, tenant, dim, a->name, &a->part, a->each, a->user, e);
}

int stats_days(const struct stats_read *x, const char *tenant, enum rollup_dim dim, const char *name, const struct stats_range *r, stats_each *each, void *u,
               struct err *e)
{
    return days(x, tenant, dim, r, &(struct ask){.name = name, .each = each, .user = u}, e);
}

int stats_names(const struct stats_read *x, const char *tenant, enum rollup_dim dim, const char *name, const struct stats_range *r, stats_each *each, void *u,
                struct err *e)
{
    return days(x, tenant, dim, r, &(struct ask){.name = name, .summed = true, .each = each, .user = u}, e);
}

int stats_histograms(const struct stats_read *x, const char *tenant, enum latency_kind kind, const struct stats_range *r, stats_each *each, void *u,
                     struct err *e)
{
    return days(x, tenant, LATENCY_DIM + (int)kind, r, &(struct ask){.each = each, .user = u}, e);
}

int stats_begin(struct stats_read *x, struct db *d, sqlite3 *c, struct err *e)
{
    x->d = d;
    x->c = c;
    x->closed = (x->now - SUMS_CLOSED_S) / STATS_DAY * STATS_DAY;
    return x->kept ? sums_past(d, c, x->closed, &x->past, e) : 0;
}
