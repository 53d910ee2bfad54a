/* limit_budget: budgets in the file. The settlement's part, inside the transaction that writes the usage row, so a budget
 * and the row can't differ.
 *
 *     for each subject of the request that has a row in `limits`:
 *         day, month += tokens, cost --past the soft one--> event "budget.soft", once in the period
 *                                   `--all of the hard one--> event "budget.hard", once in the period
 *
 * What is left of a hard one may be too little for anybody's request: the first that is refused for it writes that event, too,
 * in a job of its own.
 *
 * A subject without a row costs one look at that table and writes nothing; when it gets a row, the sums of the running day
 * and month are taken from the daily rollups, which know the same tokens of everybody (limit_begin_run), and `since` in its row says from when on: periods
 * of then and later have all rows, and ledger_verify() holds them against them; a row of an earlier one that ends late makes a sum of its own, which
 * nobody reads. `alerted` has a
 * bit for each event that was written; it is in the same row, so a crash neither loses nor repeats one. On the writer
 * thread only. */
#include "base/json.h"
#include "base/log.h"
#include "gateway/limits/limit_store.h"
#include "gateway/live/event.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUDGETS 4
#define HARD_BIT 16 /* of `alerted`: that of the kind, so far up */

static const enum limit_kind budgets[BUDGETS] = {LIMIT_TOKENS_DAY, LIMIT_TOKENS_MONTH, LIMIT_COST_DAY,
                                                 LIMIT_COST_MONTH};

struct budget_row {
    char subject[LIMIT_SUBJECT_LEN];
    int64_t hard[BUDGETS], soft[BUDGETS]; /* -1: none */
};

struct spent {
    struct limit_use use;
    int64_t alerted;
};

static int64_t number_or_none(sqlite3_stmt *st, int column)
{
    return sqlite3_column_type(st, column) == SQLITE_NULL ? -1 : sqlite3_column_int64(st, column);
}

static int read_rows(struct db *d, sqlite3 *c, const struct principal *who, const char *adapter,
                     struct budget_row row[LIMIT_SUBJECTS], struct err *e)
{
    /* Not IN (?1, ?2, ?3), which sorts the three into a table of its own first: every settlement comes here. */
#define ROW_OF(subject)                                                                                                \
    "SELECT subject, tokens_per_day, tokens_per_month, cost_per_day, cost_per_month, tokens_per_day_soft,"             \
    " tokens_per_month_soft, cost_per_day_soft, cost_per_month_soft FROM limits WHERE subject = " subject
    static const char sql[] = ROW_OF("?1") " UNION ALL " ROW_OF("?2") " UNION ALL " ROW_OF("?3");
#undef ROW_OF
    char name[LIMIT_SUBJECTS][LIMIT_SUBJECT_LEN];
    limit_subject_tenant(name[0], who->tenant);
    limit_subject_key(name[1], who->key);
    limit_subject_adapter(name[2], who->tenant, adapter);
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "sss", name[0], name[1], *adapter ? name[2] : NULL)) return -1;
    int rc, n = 0;
    while ((rc = db_row(st, e)) == 1 && n < LIMIT_SUBJECTS) {
        struct budget_row *r = &row[n++];
        snprintf(r->subject, sizeof r->subject, "%s", db_text(st, 0));
        for (int i = 0; i < BUDGETS; i++) {
            r->hard[i] = number_or_none(st, 1 + i);
            r->soft[i] = number_or_none(st, 1 + BUDGETS + i);
        }
    }
    sqlite3_reset(st);
    return rc < 0 ? -1 : n;
}

static int add(struct db *d, sqlite3 *c, const char *subject, enum limit_span span, int64_t t, struct limit_use u,
               struct spent *out, struct err *e)
{
    static const char sql[] =
        "INSERT INTO budget_use(subject, period, t, tokens, cost) VALUES(?1, ?2, ?3, ?4, ?5)"
        " ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens, cost = cost + excluded.cost"
        " RETURNING tokens, cost, alerted";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "siiii", subject, (int64_t)span, t, u.tokens, u.cost)) return -1;
    int rc = db_row(st, e);
    if (rc == 1)
        *out = (struct spent){{sqlite3_column_int64(st, 0), sqlite3_column_int64(st, 1)}, sqlite3_column_int64(st, 2)};
    if (rc == 1) rc = db_done(st, e);
    sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

static int mark(struct db *d, sqlite3 *c, const char *subject, enum limit_span span, int64_t t, int64_t alerted,
                struct err *e)
{
    static const char sql[] = "UPDATE budget_use SET alerted = ?4 WHERE subject = ?1 AND period = ?2 AND t = ?3";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return st && db_bind(st, e, "siii", subject, (int64_t)span, t, alerted) == 0 ? db_done(st, e) : -1;
}

static int alert(struct db *d, sqlite3 *c, const char *tenant, const char *type, const char *subject,
                 enum limit_kind kind, int64_t limit, int64_t used, int64_t t, struct err *e)
{
    json_t *detail = json_pack("{ss sI sI sI}", "limit", limit_name[kind], "value", (json_int_t)limit, "used",
                               (json_int_t)used, "period_start", (json_int_t)t);
    int rc = event_add(d, c, tenant, type, subject, detail, e);
    json_decref(detail);
    return rc;
}

struct due {
    struct budget_row row;
    enum limit_span span;
    int64_t t;
    unsigned refused; /* kinds whose hard budget counts as spent, whatever was used */
};

/* Events that are due in this period and were not written yet. */
static int alert_due(struct db *d, sqlite3 *c, const char *tenant, const struct due *w, const struct spent *s,
                     struct err *e)
{
    const struct budget_row *r = &w->row;
    int64_t alerted = s->alerted;
    for (int i = 0; i < BUDGETS; i++) {
        enum limit_kind k = budgets[i];
        int64_t used = limit_is_cost(k) ? s->use.cost : s->use.tokens, soft = 1ll << k, hard = soft << HARD_BIT;
        bool spent = used >= r->hard[i] || w->refused & 1u << k;
        if (limit_span_of(k) != w->span) continue;
        if (r->soft[i] >= 0 && used >= r->soft[i] && !(alerted & soft)) {
            if (alert(d, c, tenant, "budget.soft", r->subject, k, r->soft[i], used, w->t, e)) return -1;
            alerted |= soft;
        }
        if (r->hard[i] >= 0 && spent && !(alerted & hard)) {
            if (alert(d, c, tenant, "budget.hard", r->subject, k, r->hard[i], used, w->t, e)) return -1;
            alerted |= hard;
        }
    }
    return alerted == s->alerted ? 0 : mark(d, c, r->subject, w->span, w->t, alerted, e);
}

int limit_settle_run(struct db *d, sqlite3 *c, const struct principal *who, const char *adapter, int64_t wall_us,
                     int64_t tokens, int64_t cost, struct err *e)
{
    struct budget_row row[LIMIT_SUBJECTS];
    const int id[LIMIT_SPANS] = {limit_day(wall_us), limit_month(wall_us)};
    int n = read_rows(d, c, who, adapter, row, e);
    for (int i = 0; i < n; i++)
        for (int p = 0; p < LIMIT_SPANS; p++) {
            struct spent s = {0};
            struct due w = {row[i], (enum limit_span)p, limit_period_start((enum limit_span)p, id[p]), 0};
            if (add(d, c, row[i].subject, w.span, w.t, (struct limit_use){tokens, cost}, &s, e) ||
                alert_due(d, c, who->tenant, &w, &s, e))
                return -1;
        }
    return n < 0 ? -1 : 0;
}

/* --- the first refusal --- */

struct refusal {
    struct limits *l;
    struct principal who;
    char adapter[LIMIT_SUBJECT_LEN], subject[LIMIT_SUBJECT_LEN];
    enum limit_kind kind;
    int id;
};

static int run_refusal(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    const struct refusal *f = u;
    struct budget_row row[LIMIT_SUBJECTS];
    enum limit_span span = limit_span_of(f->kind);
    int n = read_rows(d, c, &f->who, f->adapter, row, e);
    for (int i = 0; i < n; i++) {
        struct spent s = {0};
        struct due w = {row[i], span, limit_period_start(span, f->id), 1u << f->kind};
        if (strcmp(row[i].subject, f->subject) != 0) continue;
        if (add(d, c, f->subject, span, w.t, (struct limit_use){0, 0}, &s, e) ||
            alert_due(d, c, f->who.tenant, &w, &s, e))
            return -1;
    }
    return n < 0 ? -1 : 0;
}

static void refusal_done(void *u, const struct err *e)
{
    if (e) log_error("event_lost", LS("type", "budget.hard"), LS("object", ((struct refusal *)u)->subject));
    free(u);
}

/* Whether the file has to be told. */
static bool is_first(struct refusal *f)
{
    bool first = false;
    pthread_mutex_lock(&f->l->lock);
    struct limit_subject *s = limit_find(f->l, f->subject, false);
    if (s) {
        struct limit_period *now = &s->now[limit_span_of(f->kind)];
        first = !(now->refused & 1u << f->kind);
        now->refused |= 1u << f->kind;
        f->id = now->id;
    }
    pthread_mutex_unlock(&f->l->lock);
    return first;
}

void limit_refused(struct limits *l, const struct limit_ask *a, const struct limit_view *v)
{
    struct refusal f = {.l = l, .who = *a->who, .kind = v->refused}, *job;
    if (!v->scope || !limit_is_budget((int)v->refused) || v->retry_after_us < 0) return;
    snprintf(f.adapter, sizeof f.adapter, "%s", a->adapter);
    if (strcmp(v->scope, "tenant") == 0)
        limit_subject_tenant(f.subject, a->who->tenant);
    else if (strcmp(v->scope, "key") == 0)
        limit_subject_key(f.subject, a->who->key);
    else
        limit_subject_adapter(f.subject, a->who->tenant, a->adapter);
    if (!is_first(&f) || !(job = malloc(sizeof *job))) return;
    *job = f;
    if (db_write(l->db, &(struct db_job){.run = run_refusal, .done = refusal_done, .user = job, .durable = true}, NULL))
        refusal_done(job, &(struct err){.code = ERR_LEDGER});
}

/* --- a subject's sums, by the rollups --- */

/* ?1 tenant or key, ?2 adapter, ?3 and ?4 the days. */
#define SUMS "SELECT coalesce(sum(prompt + output), 0), coalesce(sum(cost), 0) FROM "
static const struct {
    const char *prefix, *sql;
} sources[] = {
    {"tenant:", SUMS "rollup_day WHERE tenant = ?1 AND ?2 IS NOT NULL AND t >= ?3 AND t < ?4"},
    {"key:", SUMS "rollup_day WHERE tenant = (SELECT tenant FROM api_key WHERE id = ?1) AND key = ?1 AND ?2 IS NOT NULL"
                  " AND t >= ?3 AND t < ?4"},
    {"adapter:", SUMS "rollup_adapter WHERE tenant = ?1 AND adapter = ?2 AND t >= ?3 AND t < ?4"},
};

int limit_rolled(struct db *d, sqlite3 *c, const char *subject, enum limit_span span, int id, struct limit_use *out,
                 struct err *e)
{
    char name[LIMIT_SUBJECT_LEN];
    const char *sql = NULL;
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        size_t n = strlen(sources[i].prefix);
        if (strncmp(subject, sources[i].prefix, n) != 0) continue;
        sql = sources[i].sql;
        snprintf(name, sizeof name, "%s", subject + n);
    }
    if (!sql) return err_set(e, ERR_INTERNAL, "'%s' is no subject of limits", subject);
    char *slash = strchr(name, '/');
    if (slash) *slash++ = 0;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st ||
        db_bind(st, e, "ssii", name, slash ? slash : "", limit_period_start(span, id),
                limit_period_start(span, id + 1)) ||
        db_row(st, e) != 1)
        return -1;
    *out = (struct limit_use){sqlite3_column_int64(st, 0), sqlite3_column_int64(st, 1)};
    sqlite3_reset(st);
    return 0;
}

static int begin_period(struct db *d, sqlite3 *c, const char *subject, enum limit_span span, int id, const struct limit_use *used, struct err *e)
{
    static const char sql[] = "INSERT INTO budget_use(subject, period, t, tokens, cost) VALUES(?1, ?2, ?3, ?4, ?5)"
                              " ON CONFLICT DO UPDATE SET tokens = excluded.tokens, cost = excluded.cost, carried_tokens = 0, carried_cost = 0";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return st && db_bind(st, e, "siiii", subject, (int64_t)span, limit_period_start(span, id), used->tokens, used->cost) == 0 ? db_done(st, e) : -1;
}

/* Where the clock was set back over midnight, tomorrow has rows already. */
int limit_begin_run(struct db *d, sqlite3 *c, const char *subject, const int id[LIMIT_SPANS],
                    struct limit_use used[LIMIT_SPANS], struct err *e)
{
    for (enum limit_span p = 0; p < LIMIT_SPANS; p++) {
        struct limit_use next;
        if (limit_rolled(d, c, subject, p, id[p], &used[p], e) || begin_period(d, c, subject, p, id[p], &used[p], e) ||
            limit_rolled(d, c, subject, p, id[p] + 1, &next, e))
            return -1;
        if ((next.tokens || next.cost) && begin_period(d, c, subject, p, id[p] + 1, &next, e)) return -1;
    }
    return 0;
}
