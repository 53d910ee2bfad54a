/* limit_store: limits as rows, and the way of a change into memory.
 *
 *     limits_put -> [writer: check the revision, replace the row, sums of the running periods, audit] --committed-->
 *                -> [writer, in the order of commits: the subject's limits and `used` in memory] -> fsync -> answer
 *
 * Memory changes in the job's done(), which comes in the order of the jobs: settlements before it are in the sums that
 * the job read, settlements after it are added by their own done(). So no request is forgotten or counted twice, though
 * none waits for a change. A row that was there once stays, with all its limits NULL where none is left: its budgets go on
 * being counted.
 *
 * limits_put() and limits_get() block: on database threads. */
#include "gateway/limits/limit_store.h"
#include "base/clock.h"
#include "base/json.h"
#include "gateway/limits/limit_body.h"
#include "gateway/api/revision.h"
#include "gateway/db/db_audit.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_MS 5000
#define LOAD_MS 30000

#define COLUMNS                                                                                                        \
    "requests_per_minute, tokens_per_minute, concurrent_requests, tokens_per_day, tokens_per_month, cost_per_day, "    \
    "cost_per_month,"                                                                                                  \
    " adapters, adapter_bytes, adapter_rank, adapters_pinned,"                                                         \
    " tokens_per_day_soft, tokens_per_month_soft, cost_per_day_soft, cost_per_month_soft"

struct limit_row {
    char subject[LIMIT_SUBJECT_LEN];
    int64_t value[LIMIT_VALUES]; /* in the order of COLUMNS; -1: none */
    int64_t revision;            /* 0: no row */
    struct limit_use used[LIMIT_SPANS];
    struct limit_use ahead[LIMIT_SPANS]; /* of the periods after, at a start */
};

static void read_values(sqlite3_stmt *st, int column, int64_t *value)
{
    for (int i = 0; i < LIMIT_VALUES; i++)
        value[i] = sqlite3_column_type(st, column + i) == SQLITE_NULL ? -1 : sqlite3_column_int64(st, column + i);
}

/* --- memory --- */

/* Under the lock. `fresh`: what was used is the row's to say. */
static void put_in_force(struct limit_subject *s, const struct limit_row *r, const int id[LIMIT_SPANS], bool fresh)
{
    memcpy(s->max, r->value, sizeof s->max);
    s->stored = true;
    for (int p = 0; p < LIMIT_SPANS && fresh; p++) {
        struct limit_period *now = limit_period_now(s, (enum limit_span)p, id[p]);
        now->used = r->used[p];
    }
}

static void clear_all(struct limits *l)
{
    for (uint32_t i = 0; i < l->nbuckets; i++)
        for (struct limit_subject *s = l->bucket[i]; s; s = s->next)
            for (int k = 0; k < LIMIT_KINDS; k++) s->max[k] = -1;
}

struct load {
    struct limits *l;
    int id[LIMIT_SPANS];
    struct limit_row *row; /* [cap] */
    size_t n, cap;
};

static int load_row(struct load *x, sqlite3_stmt *st, struct err *e)
{
    if (x->n == x->cap) {
        size_t cap = x->cap ? 2 * x->cap : 64;
        struct limit_row *more = realloc(x->row, cap * sizeof *more);
        if (!more) return err_set(e, ERR_NO_MEMORY, "no memory for %zu limits", cap);
        x->row = more;
        x->cap = cap;
    }
    struct limit_row *r = &x->row[x->n++];
    snprintf(r->subject, sizeof r->subject, "%s", db_text(st, 0));
    for (int p = 0; p < LIMIT_SPANS; p++)
        r->used[p] = (struct limit_use){sqlite3_column_int64(st, 1 + 2 * p), sqlite3_column_int64(st, 2 + 2 * p)};
    for (int p = 0; p < LIMIT_SPANS; p++)
        r->ahead[p] = (struct limit_use){sqlite3_column_int64(st, 5 + 2 * p), sqlite3_column_int64(st, 6 + 2 * p)};
    read_values(st, 1 + 4 * LIMIT_SPANS, r->value);
    return 0;
}

static int load_rows(struct db *d, sqlite3 *c, void *u, struct err *e)
{
#define USE(name, period, t) " LEFT JOIN budget_use " name " ON " name ".subject = l.subject AND " name ".period = " period " AND " name ".t = " t
    static const char sql[] = "SELECT l.subject, d.tokens, d.cost, m.tokens, m.cost, d2.tokens, d2.cost, m2.tokens, m2.cost, " COLUMNS " FROM limits l"
        USE("d", "0", "?1") USE("m", "1", "?2") USE("d2", "0", "?3") USE("m2", "1", "?4");
#undef USE
    struct load *x = u;
    const int *id = x->id;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "iiii", limit_period_start(LIMIT_DAY, id[LIMIT_DAY]), limit_period_start(LIMIT_MONTH, id[LIMIT_MONTH]),
                       limit_period_start(LIMIT_DAY, id[LIMIT_DAY] + 1), limit_period_start(LIMIT_MONTH, id[LIMIT_MONTH] + 1)))
        return -1;
    int rc;
    while ((rc = db_row(st, e)) == 1)
        if (load_row(x, st, e)) return -1;
    return rc;
}

/* The clock was set back over midnight while nothing ran: requests go on in the day that the last ones were in (usage_start), with what it has used. */
static void put_ahead(struct limit_subject *s, const struct limit_row *r, const int id[LIMIT_SPANS])
{
    for (int p = 0; p < LIMIT_SPANS; p++)
        if (r->ahead[p].tokens || r->ahead[p].cost) s->before[p] = (struct limit_period){.id = id[p] + 1, .used = r->ahead[p]};
}

int limits_reload(struct limits *l, struct err *e)
{
    int64_t wall = l->wall_us();
    struct load x = {.l = l, .id = {limit_day(wall), limit_month(wall)}};
    int rc = db_read(l->db, load_rows, &x, LOAD_MS, e);
    pthread_mutex_lock(&l->lock);
    if (rc == 0) clear_all(l);
    for (size_t i = 0; i < x.n && rc == 0; i++) {
        struct limit_subject *s = limit_find(l, x.row[i].subject, true);
        if (s) {
            put_in_force(s, &x.row[i], x.id, !s->stored);
            put_ahead(s, &x.row[i], x.id);
        } else
            rc = err_set(e, ERR_NO_MEMORY, "no memory for limits");
    }
    pthread_mutex_unlock(&l->lock);
    free(x.row);
    return rc;
}

/* --- JSON --- */

/* What is used now. What requests under way hold is added to minutes and stands beside the budgets. */
static json_t *used_json(struct limits *l, const struct limit_row *r, const int id[LIMIT_SPANS])
{
    struct limit_use used[LIMIT_SPANS] = {r->used[LIMIT_DAY], r->used[LIMIT_MONTH]}, held[LIMIT_SPANS] = {{0}};
    int64_t requests = 0, tokens = 0, concurrent = 0;
    pthread_mutex_lock(&l->lock);
    struct limit_subject *s = limit_find(l, r->subject, false);
    if (s) {
        window_advance(&s->minute, l->mono_us());
        requests = s->minute.requests;
        tokens = s->minute.tokens;
        concurrent = s->concurrent;
        for (int p = 0; p < LIMIT_SPANS; p++) held[p] = limit_period_now(s, (enum limit_span)p, id[p])->held;
        for (int p = 0; p < LIMIT_SPANS && s->stored; p++) used[p] = s->now[p].used;
    }
    pthread_mutex_unlock(&l->lock);
    return json_pack("{sI sI sI sI sI sI sI s{sI sI}}", "requests_per_minute", (json_int_t)requests,
                     "tokens_per_minute", (json_int_t)tokens, "concurrent_requests", (json_int_t)concurrent,
                     "tokens_per_day", (json_int_t)used[LIMIT_DAY].tokens, "tokens_per_month",
                     (json_int_t)used[LIMIT_MONTH].tokens, "cost_per_day", (json_int_t)used[LIMIT_DAY].cost,
                     "cost_per_month", (json_int_t)used[LIMIT_MONTH].cost, "reserved", "tokens",
                     (json_int_t)held[LIMIT_DAY].tokens, "cost", (json_int_t)held[LIMIT_DAY].cost);
}

static int answer(struct limits *l, const struct limit_row *r, const int id[LIMIT_SPANS], json_t **out, struct err *e)
{
    json_t *o = json_pack("{ss so so sI}", "object", "limits", "limits", limit_body_json(r->value), "used", used_json(l, r, id),
                          "revision", (json_int_t)r->revision);
    if (!o) return err_set(e, ERR_NO_MEMORY, "no memory for limits");
    *out = o;
    return 0;
}

/* --- rows --- */

static int read_row(struct db *d, sqlite3 *c, const char *subject, struct limit_row *r, struct err *e)
{
    static const char sql[] = "SELECT revision, " COLUMNS " FROM limits WHERE subject = ?1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "s", subject)) return -1;
    int rc = db_row(st, e);
    *r = (struct limit_row){0};
    for (int i = 0; i < LIMIT_VALUES; i++) r->value[i] = -1;
    snprintf(r->subject, sizeof r->subject, "%s", subject);
    if (rc == 1) {
        r->revision = sqlite3_column_int64(st, 0);
        read_values(st, 1, r->value);
    }
    sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

/* What the file says of the running periods; nothing: 0. */
static int read_used(struct db *d, sqlite3 *c, struct limit_row *r, const int id[LIMIT_SPANS], struct err *e)
{
    static const char sql[] = "SELECT tokens, cost FROM budget_use WHERE subject = ?1 AND period = ?2 AND t = ?3";
    for (int p = 0; p < LIMIT_SPANS; p++) {
        sqlite3_stmt *st = db_stmt(d, c, sql, e);
        if (!st || db_bind(st, e, "sii", r->subject, (int64_t)p, limit_period_start((enum limit_span)p, id[p])))
            return -1;
        int rc = db_row(st, e);
        if (rc == 1) r->used[p] = (struct limit_use){sqlite3_column_int64(st, 0), sqlite3_column_int64(st, 1)};
        sqlite3_reset(st);
        if (rc < 0) return -1;
    }
    return 0;
}

struct get {
    const char *subject;
    int id[LIMIT_SPANS];
    struct limit_row row;
};

static int run_get(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct get *g = u;
    if (read_row(d, c, g->subject, &g->row, e)) return -1;
    for (int p = 0; p < LIMIT_SPANS && !g->row.revision; p++)
        if (limit_rolled(d, c, g->subject, (enum limit_span)p, g->id[p], &g->row.used[p], e)) return -1;
    return 0;
}

int limits_get(struct limits *l, const char *subject, struct json_t **out, struct err *e)
{
    int64_t wall = l->wall_us();
    struct get g = {.subject = subject, .id = {limit_day(wall), limit_month(wall)}};
    if (db_read(l->db, run_get, &g, READ_MS, e)) return -1;
    return answer(l, &g.row, g.id, out, e);
}

/* --- a change --- */

struct put {
    struct limits *l;
    const struct actor *by;
    int64_t if_revision;
    int id[LIMIT_SPANS];
    struct limit_row row;
    bool fresh;
    /* Waited for; `over` and `err` under the lock. */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool over;
    struct err err;
};

/* since: the day's start, of a new row. */
static int write_row(struct db *d, sqlite3 *c, const struct limit_row *r, int64_t since, struct err *e)
{
    static const char sql[] =
        "INSERT INTO limits(subject, revision, changed, since, " COLUMNS
        ") VALUES(?1, ?2, ?3, ?19, nullif(?4, -1), nullif(?5, -1), nullif(?6, -1),"
        " nullif(?7, -1), nullif(?8, -1), nullif(?9, -1), nullif(?10, -1), nullif(?11, -1), nullif(?12, -1), "
        "nullif(?13, -1),"
        " nullif(?14, -1), nullif(?15, -1), nullif(?16, -1), nullif(?17, -1), nullif(?18, -1)) ON CONFLICT DO UPDATE "
        "SET"
        " (revision, changed, " COLUMNS ") = (excluded.revision, excluded.changed, excluded.requests_per_minute,"
        " excluded.tokens_per_minute, excluded.concurrent_requests, excluded.tokens_per_day, excluded.tokens_per_month,"
        " excluded.cost_per_day, excluded.cost_per_month, excluded.adapters, excluded.adapter_bytes, "
        "excluded.adapter_rank,"
        " excluded.adapters_pinned, excluded.tokens_per_day_soft, excluded.tokens_per_month_soft, "
        "excluded.cost_per_day_soft,"
        " excluded.cost_per_month_soft)";
    const int64_t *v = r->value;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "siiiiiiiiiiiiiiiiii", r->subject, r->revision, clock_wall_us(), v[0], v[1], v[2], v[3],
                       v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11], v[12], v[13], v[14], since))
        return -1;
    return db_done(st, e);
}

static int run_put(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct put *p = u;
    struct limit_row was;
    if (read_row(d, c, p->row.subject, &was, e) || revision_check(p->if_revision, was.revision, e)) return -1;
    p->fresh = was.revision == 0;
    p->row.revision = was.revision + 1;
    if (write_row(d, c, &p->row, limit_period_start(LIMIT_DAY, p->id[LIMIT_DAY]), e)) return -1;
    if (p->fresh ? limit_begin_run(d, c, p->row.subject, p->id, p->row.used, e) : read_used(d, c, &p->row, p->id, e))
        return -1;
    json_t *before = was.revision ? limit_body_json(was.value) : NULL, *after = limit_body_json(p->row.value);
    int rc = audit_add(d, c, &(struct audit){p->by, "limits.put", p->row.subject, before, after}, e);
    json_decref(before);
    json_decref(after);
    return rc;
}

/* A row that another change wrote. */
static int run_load(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct put *p = u;
    char subject[LIMIT_SUBJECT_LEN]; /* read_row() begins with an empty row */
    memcpy(subject, p->row.subject, sizeof subject);
    return read_row(d, c, subject, &p->row, e) || read_used(d, c, &p->row, p->id, e) ? -1 : 0;
}

static void put_done(void *u, const struct err *e)
{
    struct put *p = u;
    if (!e && p->row.revision) {
        pthread_mutex_lock(&p->l->lock);
        struct limit_subject *s = limit_find(p->l, p->row.subject, true);
        if (s) put_in_force(s, &p->row, p->id, p->fresh || !s->stored);
        pthread_mutex_unlock(&p->l->lock);
        if (!s) err_set(&p->err, ERR_NO_MEMORY, "no memory for limits; they are in force from the next start on");
    }
    pthread_mutex_lock(&p->lock);
    if (e) p->err = *e;
    p->over = true;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

static int wait_for(struct put *p, struct err *e)
{
    pthread_mutex_lock(&p->lock);
    while (!p->over) pthread_cond_wait(&p->wake, &p->lock);
    pthread_mutex_unlock(&p->lock);
    if (!p->err.code) return 0;
    if (e && !e->code) *e = p->err;
    return -1;
}

/* Not db_write_wait(): its end comes after that of jobs behind it. Durable like settlements, so they keep their order. */
static int change(struct put *p, int (*run)(struct db *d, sqlite3 *c, void *u, struct err *e), struct err *e)
{
    int64_t wall = p->l->wall_us();
    p->id[LIMIT_DAY] = limit_day(wall);
    p->id[LIMIT_MONTH] = limit_month(wall);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    int rc = db_write(p->l->db, &(struct db_job){.run = run, .done = put_done, .user = p, .durable = true, .reads_sums = true}, e);
    if (rc == 0) rc = wait_for(p, e);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->wake);
    return rc;
}

int limits_load(struct limits *l, const char *subject, struct err *e)
{
    struct put p = {.l = l};
    snprintf(p.row.subject, sizeof p.row.subject, "%s", subject);
    return change(&p, run_load, e);
}

int limits_put(struct limits *l, const struct actor *by, const char *subject, const struct json_t *o,
               int64_t if_revision, struct json_t **out, struct err *e)
{
    struct put p = {.l = l, .by = by, .if_revision = if_revision};
    snprintf(p.row.subject, sizeof p.row.subject, "%s", subject);
    if (limit_body_read(o, p.row.value, e)) return -1;
    if (change(&p, run_put, e) || db_flush(l->db, e)) return -1; /* on the disk, too */
    return answer(l, &p.row, p.id, out, e);
}
