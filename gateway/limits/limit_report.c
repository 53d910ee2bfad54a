/* limit_report: budgets for people to look at (see limit_report.h). What is used stands in budget_use and, more freshly, in
 * memory; the course of it comes from the rollups: hours of a tenant, days of a key or an adapter. On database threads.
 *
 * The forecast is what was used plus the rate of the recent past times what is left. The past is as long as the period's kind,
 * a day or a week, but begins no earlier than the first use in it, so that who came yesterday is not taken for idle before. */
#include "gateway/limits/limit_report.h"
#include "gateway/limits/limit_internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_MS 5000
#define HOUR 3600
#define DAY 86400
#define BUDGETS 4

/* In the order of the columns below. */
static const enum limit_kind kinds[BUDGETS] = {LIMIT_TOKENS_DAY, LIMIT_TOKENS_MONTH, LIMIT_COST_DAY, LIMIT_COST_MONTH};

struct read {
    struct limits *l;
    const char *tenant;
    int id[LIMIT_SPANS];
    struct budget *row;
    int n, cap;
};

/* --- which there are --- */

/* Held, and where the subject has a row used, as memory knows it. */
static void look_into_memory(struct limits *l, const int id[LIMIT_SPANS], struct budget *b)
{
    enum limit_span span = limit_span_of(b->kind);
    pthread_mutex_lock(&l->lock);
    struct limit_subject *s = limit_find(l, b->subject, false);
    const struct limit_period *p = s && s->now[span].id == id[span] ? &s->now[span] : NULL;
    if (p) {
        b->held = limit_is_cost(b->kind) ? p->held.cost : p->held.tokens;
        if (s->stored) b->used = limit_is_cost(b->kind) ? p->used.cost : p->used.tokens;
    }
    pthread_mutex_unlock(&l->lock);
}

static double share_of(const struct budget *b)
{
    int64_t of = b->hard >= 0 ? b->hard : b->soft;
    return of > 0 ? (double)b->used / (double)of : 1e9;
}

static struct budget *new_row(struct read *x, struct err *e)
{
    if (x->n == x->cap) {
        int cap = x->cap ? 2 * x->cap : 64;
        struct budget *more = cap <= 2 * BUDGET_ROWS_MAX ? realloc(x->row, (size_t)cap * sizeof *more) : NULL;
        if (!more) {
            err_set(e, ERR_TOO_LARGE, "too many budgets; ask for one tenant's");
            return NULL;
        }
        x->row = more;
        x->cap = cap;
    }
    return &x->row[x->n++];
}

static int64_t number_or_none(sqlite3_stmt *st, int column)
{
    return sqlite3_column_type(st, column) == SQLITE_NULL ? -1 : sqlite3_column_int64(st, column);
}

/* Columns: subject, tenant id, tenant, key, adapter; four hard, four soft; tokens and cost of the day, of the month. */
static int add(struct read *x, sqlite3_stmt *st, struct err *e)
{
    for (int i = 0; i < BUDGETS; i++) {
        int64_t hard = number_or_none(st, 5 + i), soft = number_or_none(st, 5 + BUDGETS + i);
        enum limit_span span = limit_span_of(kinds[i]);
        if (hard < 0 && soft < 0) continue;
        struct budget *b = new_row(x, e);
        if (!b) return -1;
        *b = (struct budget){.kind = kinds[i], .hard = hard, .soft = soft};
        b->start = limit_period_start(span, x->id[span]);
        b->end = limit_period_start(span, x->id[span] + 1);
        b->used = sqlite3_column_int64(st, 5 + 2 * BUDGETS + 2 * (int)span + limit_is_cost(kinds[i]));
        snprintf(b->subject, sizeof b->subject, "%s", db_text(st, 0));
        snprintf(b->tenant_id, sizeof b->tenant_id, "%s", db_text(st, 1));
        snprintf(b->tenant, sizeof b->tenant, "%s", db_text(st, 2));
        snprintf(b->key, sizeof b->key, "%s", db_text(st, 3));
        snprintf(b->adapter, sizeof b->adapter, "%s", db_text(st, 4));
        look_into_memory(x->l, x->id, b);
        b->share = share_of(b);
    }
    return 0;
}

/* A subject's text begins with its kind: tenant:ID, key:ID, adapter:TENANT ID/NAME (limit.h). An id is 36 long. */
static int read_rows(struct db *d, sqlite3 *c, void *u, struct err *e)
{
#define LIMITS \
    ", l.tokens_per_day, l.tokens_per_month, l.cost_per_day, l.cost_per_month, l.tokens_per_day_soft, l.tokens_per_month_soft," \
    " l.cost_per_day_soft, l.cost_per_month_soft, d.tokens, d.cost, m.tokens, m.cost FROM limits l"
#define USES \
    " LEFT JOIN budget_use d ON d.subject = l.subject AND d.period = 0 AND d.t = ?2" \
    " LEFT JOIN budget_use m ON m.subject = l.subject AND m.period = 1 AND m.t = ?3" \
    " WHERE (?1 IS NULL OR t.id = ?1) AND coalesce(l.tokens_per_day, l.tokens_per_month, l.cost_per_day, l.cost_per_month," \
    " l.tokens_per_day_soft, l.tokens_per_month_soft, l.cost_per_day_soft, l.cost_per_month_soft) IS NOT NULL"
    static const char *const sql[] = {
        "SELECT l.subject, t.id, t.name, '', ''" LIMITS " JOIN tenant t ON t.id = substr(l.subject, 8)" USES
        " AND l.subject > 'tenant:' AND l.subject < 'tenant;'",
        "SELECT l.subject, t.id, t.name, k.id, ''" LIMITS
        " JOIN api_key k ON k.id = substr(l.subject, 5) JOIN tenant t ON t.id = k.tenant" USES
        " AND l.subject > 'key:' AND l.subject < 'key;'",
        "SELECT l.subject, t.id, t.name, '', substr(l.subject, 46)" LIMITS
        " JOIN tenant t ON t.id = substr(l.subject, 9, 36)" USES " AND l.subject > 'adapter:' AND l.subject < 'adapter;'"};
#undef LIMITS
#undef USES
    struct read *x = u;
    for (size_t i = 0; i < sizeof sql / sizeof *sql; i++) {
        sqlite3_stmt *st = db_stmt(d, c, sql[i], e);
        if (!st || db_bind(st, e, "sii", x->tenant, limit_period_start(LIMIT_DAY, x->id[LIMIT_DAY]),
                           limit_period_start(LIMIT_MONTH, x->id[LIMIT_MONTH])))
            return -1;
        int rc;
        while ((rc = db_row(st, e)) == 1)
            if (add(x, st, e)) return -1;
        if (rc < 0) return -1;
    }
    return 0;
}

bool budget_before(const struct budget *a, const struct budget *b)
{
    if (a->share != b->share) return a->share > b->share;
    int c = strcmp(a->subject, b->subject);
    return c ? c < 0 : a->kind < b->kind;
}

static int by_share(const void *a, const void *b)
{
    return budget_before(a, b) ? -1 : budget_before(b, a);
}

int budgets_read(struct limits *l, const char *tenant, int64_t now_s, struct budget **out, int *n, struct err *e)
{
    struct read x = {.l = l, .tenant = tenant, .id = {limit_day(now_s * 1000000), limit_month(now_s * 1000000)}};
    if (db_read(l->db, read_rows, &x, READ_MS, e)) {
        free(x.row);
        return -1;
    }
    if (x.n) qsort(x.row, (size_t)x.n, sizeof *x.row, by_share);
    *out = x.row;
    *n = x.n;
    return 0;
}

/* --- how it went --- */

struct course_read {
    const struct budget *b;
    int64_t from, width, first; /* first: the bucket of the first use since `from`; 0: none */
    int64_t recent;             /* used since `from` */
    struct budget_course *out;
};

static void add_bucket(struct course_read *x, int64_t t, int64_t v)
{
    if (v && (!x->first || t < x->first)) x->first = t;
    x->recent += v;
    int64_t at = (t - x->b->start) / x->width;
    if (t >= x->b->start && at < x->out->n) x->out->sum[at] += v;
}

static int read_course(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    /* ?4 stands for one adapter's rows of all versions, or one key's of all else */
    static const char hours[] = "SELECT t, prompt + output, cost FROM rollup_hour WHERE tenant = ?1 AND t >= ?2 AND t < ?3 AND ?4 = ''";
    static const char keys[] = "WITH RECURSIVE day(t) AS (VALUES(?2) UNION ALL SELECT t + 86400 FROM day WHERE t + 86400 < ?3)"
                               " SELECT r.t, r.prompt + r.output, r.cost FROM day CROSS JOIN rollup_day r ON r.tenant = ?1 AND r.t = day.t"
                               " AND r.key = ?4";
    static const char adapters[] = "SELECT t, prompt + output, cost FROM rollup_adapter WHERE tenant = ?1 AND adapter = ?4 AND t >= ?2 AND t < ?3";
    struct course_read *x = u;
    const struct budget *b = x->b;
    const char *sql = *b->key ? keys : *b->adapter ? adapters : hours, *name = *b->key ? b->key : b->adapter;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "siis", b->tenant_id, x->from, b->end, name)) return -1;
    int rc;
    while ((rc = db_row(st, e)) == 1)
        add_bucket(x, sqlite3_column_int64(st, 0), sqlite3_column_int64(st, 1 + limit_is_cost(b->kind)));
    return rc;
}

static void forecast(const struct course_read *x, int64_t now_s)
{
    const struct budget *b = x->b;
    struct budget_course *o = x->out;
    int64_t past = x->first ? now_s - x->first : 0;
    double rate = (double)x->recent / (double)(past > HOUR ? past : HOUR);
    o->forecast = b->used + (int64_t)(rate * (double)(b->end - now_s));
    if (b->hard < 0) return;
    for (int i = 0; i < o->n && b->used >= b->hard; i++) {
        if (o->sum[i] < b->hard) continue;
        o->exhausted_at = o->t[i] + x->width < now_s ? o->t[i] + x->width : now_s;
        return;
    }
    if (b->used >= b->hard)
        o->exhausted_at = now_s; /* what was held of it was settled after the rollups were read */
    else if (rate > 0 && (double)(b->hard - b->used) / rate < (double)(b->end - now_s))
        o->exhausted_at = now_s + (int64_t)((double)(b->hard - b->used) / rate);
}

int budget_course(struct limits *l, const struct budget *b, int64_t now_s, struct budget_course *out, struct err *e)
{
    bool day = limit_span_of(b->kind) == LIMIT_DAY, own = !*b->key && !*b->adapter;
    int64_t back = day ? DAY : 7 * DAY, width = day && own ? HOUR : DAY, from = now_s - back;
    *out = (struct budget_course){.n = (int)((now_s - b->start) / width) + 1};
    if (out->n > BUDGET_POINTS_MAX) out->n = BUDGET_POINTS_MAX;
    for (int i = 0; i < out->n; i++) out->t[i] = b->start + i * width;
    if (from > b->start) from = b->start;
    struct course_read x = {.b = b, .from = from - from % width, .width = width, .out = out};
    if (db_read(l->db, read_course, &x, READ_MS, e)) return -1;
    for (int i = 1; i < out->n; i++) out->sum[i] += out->sum[i - 1];
    forecast(&x, now_s);
    return 0;
}
