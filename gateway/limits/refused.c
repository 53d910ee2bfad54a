/* refused: a small table in front of rollup_refused (see refused.h).
 *
 *     refused_count -> [row of tenant x hour] --once a minute--> taken out whole -> job of the writer --committed--> freed
 *                             ^                                                        `--failed--.
 *                             `-------------------- counted again ----------------------------------'
 *
 * Rows are found by linear probing and never removed one by one: taking them out empties the table. A minute that sees more
 * than ROWS tenants refused loses the counts of the others, and counts that. One lock, held for an addition or a copy. */
#include "gateway/limits/refused.h"
#include "base/clock.h"
#include "base/log.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 4096
#define PROBES 64
#define FLUSH_US (60 * 1000000LL)

enum scope_of { OF_TENANT, OF_KEY, OF_ADAPTER, SCOPES };
static const char *const scope_name[SCOPES] = {"tenant", "key", "adapter"};

struct row {
    char tenant[UUID_LEN]; /* "": free */
    int64_t hour;          /* since 1970 */
    uint32_t n[SCOPES][LIMIT_KINDS];
};

struct refused {
    struct db *db;
    pthread_mutex_t lock; /* covers the rest but `writing` */
    struct row row[ROWS];
    int used;
    int64_t lost, flushed_us;
    atomic_int writing; /* jobs that the writer holds */
};

struct batch {
    struct refused *r;
    int n;
    struct row row[]; /* [n] */
};

/* Under the lock. NULL: no place. */
static struct row *row_of(struct refused *r, const char *tenant, int64_t hour)
{
    uint32_t h = 2166136261u ^ (uint32_t)hour;
    for (const char *s = tenant; *s; s++) h = (h ^ (uint8_t)*s) * 16777619u;
    for (uint32_t i = 0; i < PROBES; i++) {
        struct row *x = &r->row[(h + i) % ROWS];
        if (x->tenant[0] && (x->hour != hour || strcmp(x->tenant, tenant) != 0)) continue;
        if (!x->tenant[0]) {
            memcpy(x->tenant, tenant, strnlen(tenant, UUID_LEN - 1));
            x->hour = hour;
            r->used++;
        }
        return x;
    }
    return NULL;
}

static int scope_of(const char *word)
{
    int i = 0;
    while (i < SCOPES - 1 && strcmp(scope_name[i], word) != 0) i++;
    return i;
}

void refused_count(struct refused *r, const char *tenant, const char *scope, enum limit_kind kind)
{
    int64_t hour = clock_wall_us() / 3600000000LL;
    pthread_mutex_lock(&r->lock);
    struct row *x = row_of(r, tenant, hour);
    if (x)
        x->n[scope_of(scope)][kind]++;
    else
        r->lost++;
    pthread_mutex_unlock(&r->lock);
}

/* --- to the database --- */

/* NULL: there is nothing, or no memory now. */
static struct batch *take(struct refused *r)
{
    pthread_mutex_lock(&r->lock);
    struct batch *b = r->used ? malloc(sizeof *b + (size_t)r->used * sizeof b->row[0]) : NULL;
    if (b) {
        *b = (struct batch){.r = r};
        for (int i = 0; i < ROWS; i++)
            if (r->row[i].tenant[0]) b->row[b->n++] = r->row[i];
        memset(r->row, 0, sizeof r->row);
        r->used = 0;
    }
    r->flushed_us = clock_mono_us();
    pthread_mutex_unlock(&r->lock);
    return b;
}

static void put_back(const struct batch *b)
{
    struct refused *r = b->r;
    pthread_mutex_lock(&r->lock);
    for (int i = 0; i < b->n; i++) {
        struct row *x = row_of(r, b->row[i].tenant, b->row[i].hour);
        for (int k = 0; k < SCOPES * LIMIT_KINDS; k++) {
            uint32_t n = b->row[i].n[k / LIMIT_KINDS][k % LIMIT_KINDS];
            if (x)
                x->n[k / LIMIT_KINDS][k % LIMIT_KINDS] += n;
            else
                r->lost += n;
        }
    }
    pthread_mutex_unlock(&r->lock);
}

static int add(struct db *d, sqlite3 *c, const struct row *x, int scope, int kind, struct err *e)
{
    static const char sql[] = "INSERT INTO rollup_refused(tenant, t, scope, kind, n) VALUES(?1, ?2, ?3, ?4, ?5)"
                              " ON CONFLICT DO UPDATE SET n = n + excluded.n";
    const char *whose[] = {x->tenant, ""};
    for (int i = 0; i < 2; i++) {
        sqlite3_stmt *st = db_stmt(d, c, sql, e);
        if (!st || db_bind(st, e, "sissi", whose[i], x->hour * 3600, scope_name[scope], limit_name[kind],
                           (int64_t)x->n[scope][kind]) ||
            db_done(st, e))
            return -1;
    }
    return 0;
}

static int run_write(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    const struct batch *b = u;
    for (int i = 0; i < b->n; i++)
        for (int k = 0; k < SCOPES * LIMIT_KINDS; k++)
            if (b->row[i].n[k / LIMIT_KINDS][k % LIMIT_KINDS] &&
                add(d, c, &b->row[i], k / LIMIT_KINDS, k % LIMIT_KINDS, e))
                return -1;
    return 0;
}

static void written(void *u, const struct err *e)
{
    struct batch *b = u;
    if (e) put_back(b);
    b->r->writing--;
    free(b);
}

static void hand_over(struct refused *r)
{
    struct batch *b = take(r);
    if (!b) return;
    r->writing++;
    struct err e = {0};
    if (db_write(r->db, &(struct db_job){.run = run_write, .done = written, .user = b, .durable = true}, &e))
        written(b, &e);
}

void refused_tick(struct refused *r)
{
    pthread_mutex_lock(&r->lock);
    bool due = r->used && clock_mono_us() - r->flushed_us >= FLUSH_US;
    pthread_mutex_unlock(&r->lock);
    if (due) hand_over(r);
}

static int nothing(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d, (void)c, (void)u, (void)e;
    return 0;
}

void refused_settle(struct refused *r)
{
    hand_over(r);
    if (r->writing > 0) db_write_wait(r->db, nothing, NULL, NULL); /* jobs are done in their order */
}

int refused_open(struct refused **out, struct db *d, struct err *e)
{
    struct refused *r = calloc(1, sizeof *r);
    if (!r) return err_set(e, ERR_NO_MEMORY, "no memory for counts of refusals");
    r->db = d;
    r->flushed_us = clock_mono_us();
    pthread_mutex_init(&r->lock, NULL);
    *out = r;
    return 0;
}

void refused_stop(struct refused *r)
{
    if (r) hand_over(r);
}

void refused_free(struct refused *r)
{
    if (!r) return;
    if (r->lost) log_warn("refusals_not_counted", LI("n", r->lost));
    pthread_mutex_destroy(&r->lock);
    free(r);
}
