/* /v1/evaluations, /v1/evaluations/summary, and under /admin/v1: scores of answers, one by one and by version (docs/EVALUATION.md). One handler serves both
 * sides: a tenant sees its own, the operator everybody's, or with ?tenant=NAME one's (summaries: of one). On database threads. */
#include "gateway/api/admin_api.h"
#include "gateway/api/page.h"
#include "gateway/live/live_api.h"
#include "gateway/proxy/chat_api.h"
#include "gateway/stats/stats_api.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GROUPS_MAX 500 /* versions times rules in one summary */
#define SUMMARY_POINTS_MAX 400

/* --- rows --- */

struct rows {
    const struct page *page;
    const char *tenant, *alias, *adapter, *rule; /* NULL: any */
    int64_t version, passed;                     /* -1: any; passed 2: not scored */
    json_t *list;
    bool more;
};

static json_t *row_json(sqlite3_stmt *st)
{
    bool base = !*db_text(st, 5), scored = sqlite3_column_type(st, 11) != SQLITE_NULL;
    json_t *o = json_pack("{ss sI sI ss* ss ss so sI ss}", "object", "evaluation", "seq", (json_int_t)sqlite3_column_int64(st, 0), "created_at",
                          (json_int_t)(sqlite3_column_int64(st, 1) / 1000000), "tenant", sqlite3_column_type(st, 2) == SQLITE_NULL ? NULL : db_text(st, 2), "request_id", db_text(st, 3), "alias",
                          db_text(st, 4), "adapter", base ? json_null() : json_string(db_text(st, 5)), "version", (json_int_t)sqlite3_column_int64(st, 6), "digest", db_text(st, 7));
    json_t *more = json_pack("{ss ss ss so so ss so}", "base", db_text(st, 8), "rule", db_text(st, 9), "kind", db_text(st, 10), "score",
                             scored ? json_real(sqlite3_column_double(st, 11)) : json_null(), "passed", scored ? json_boolean(sqlite3_column_int(st, 12)) : json_null(), "note", db_text(st, 13),
                             "judge_request_id", *db_text(st, 14) ? json_string(db_text(st, 14)) : json_null());
    bool whole = o && more && json_object_update(o, more) == 0;
    json_decref(more);
    if (whole) return o;
    json_decref(o);
    return NULL;
}

#define COLUMNS ", v.request, v.alias, v.adapter, v.version, v.digest, v.base, v.rule, v.kind, v.score, v.passed, v.note, v.judge FROM evaluation v"
#define FILTER                                                                                                                                       \
    " AND (?4 IS NULL OR v.alias = ?4) AND (?5 IS NULL OR v.adapter = ?5) AND (?6 IS NULL OR v.rule = ?6) AND (?7 < 0 OR v.version = ?7)"            \
    " AND (?8 < 0 OR coalesce(v.passed, 2) = ?8)"
#define OWN "SELECT v.row, v.t, NULL" COLUMNS " WHERE v.tenant = ?3"
#define ALL "SELECT v.row, v.t, coalesce(t.name, v.tenant)" COLUMNS " LEFT JOIN tenant t ON t.id = v.tenant WHERE ?3 IS NULL"

static int read_rows(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char own[] = OWN " AND (?1 = 0 OR v.row < ?1)" FILTER " ORDER BY v.row DESC LIMIT ?2", own_before[] = OWN " AND v.row > ?1" FILTER " ORDER BY v.row LIMIT ?2",
                      all[] = ALL " AND (?1 = 0 OR v.row < ?1)" FILTER " ORDER BY v.row DESC LIMIT ?2", all_before[] = ALL " AND v.row > ?1" FILTER " ORDER BY v.row LIMIT ?2";
    struct rows *x = u;
    bool back = page_back(x->page);
    int64_t at;
    if (page_number(x->page, &at, e)) return -1;
    sqlite3_stmt *st = db_stmt(d, c, x->tenant ? back ? own_before : own : back ? all_before : all, e);
    if (!st || db_bind(st, e, "iissssii", at, page_ask(x->page), x->tenant, x->alias, x->adapter, x->rule, x->version, x->passed)) return -1;
    return page_rows(st, x->page, row_json, x->list, &x->more, e);
}

static const char *const row_filters[] = {"alias", "adapter", "version", "rule", "passed", NULL};
static const char *const row_filters_all[] = {"alias", "adapter", "version", "rule", "passed", "tenant", NULL};

static int fill(const struct http_request *r, const char *tenant, const struct page *p, json_t *data, bool *more, struct err *e)
{
    static const char *const words[] = {"false", "true", "none"};
    int passed = -1;
    struct rows x = {.page = p, .tenant = tenant, .alias = http_query(r, "alias"), .adapter = http_query(r, "adapter"), .rule = http_query(r, "rule"), .version = -1, .list = data};
    if (admin_query_int(r, "version", 0, 999999999, &x.version, e) || stats_query_word(r, "passed", words, 3, &passed, e)) return -1;
    x.passed = passed;
    if (db_read(admin_gateway(r)->db, read_rows, &x, LIVE_READ_MS, e)) return -1;
    *more = x.more;
    return 0;
}

static int fill_own(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    return fill(r, admin_tenant(r), p, data, more, e);
}

static int fill_all(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    const char *id = NULL;
    if (admin_query_tenant((struct http_request *)r, &id, e)) return -1;
    return fill(r, id, p, data, more, e);
}

static void list_own(struct http_request *r) { admin_answer_page(r, row_filters, "seq", fill_own); }
static void list_all(struct http_request *r) { admin_answer_page(r, row_filters_all, "seq", fill_all); }

/* --- summaries --- */

struct group {
    char key[640]; /* which, for comparing */
    json_t *o;     /* what is told of it so far */
    int64_t n, fails, skipped;
    double sum, squares;
    int64_t *count; /* [points] */
    double *sums;
};

struct summary {
    const struct span *span;
    const char *alias, *adapter, *rule;
    int64_t version;
    int64_t interval_s, first;
    int points, n;
    bool truncated;
    struct group *group; /* [GROUPS_MAX] */
};

static struct group *group_of(struct summary *x, sqlite3_stmt *st)
{
    struct group *g = x->n ? &x->group[x->n - 1] : NULL;
    char key[sizeof g->key];
    snprintf(key, sizeof key, "%s %s %s %s %s", db_text(st, 0), db_text(st, 1), db_text(st, 2), db_text(st, 3), db_text(st, 4));
    if (g && strcmp(g->key, key) == 0) return g; /* rows of a group stand together */
    if (x->n == GROUPS_MAX) {
        x->truncated = true;
        return NULL;
    }
    g = &x->group[x->n++];
    memcpy(g->key, key, sizeof key);
    bool base = !*db_text(st, 1);
    g->o = json_pack("{ss so sI ss ss ss ss}", "alias", db_text(st, 0), "adapter", base ? json_null() : json_string(db_text(st, 1)), "version", (json_int_t)sqlite3_column_int64(st, 2), "base",
                     db_text(st, 3), "digest", db_text(st, 6), "rule", db_text(st, 4), "kind", db_text(st, 7));
    g->count = calloc((size_t)x->points, sizeof *g->count);
    g->sums = calloc((size_t)x->points, sizeof *g->sums);
    return g;
}

static int add(struct summary *x, sqlite3_stmt *st, struct err *e)
{
    struct group *g = group_of(x, st);
    int64_t at = (sqlite3_column_int64(st, 5) - x->first) / x->interval_s;
    if (!g) return 0;
    if (!g->o || !g->count || !g->sums) return err_set(e, ERR_NO_MEMORY, "no memory for a summary");
    g->n += sqlite3_column_int64(st, 8);
    g->sum += sqlite3_column_double(st, 9);
    g->squares += sqlite3_column_double(st, 10);
    g->fails += sqlite3_column_int64(st, 11);
    g->skipped += sqlite3_column_int64(st, 12);
    if (at < 0 || at >= x->points) return 0;
    g->count[at] += sqlite3_column_int64(st, 8);
    g->sums[at] += sqlite3_column_double(st, 9);
    return 0;
}

static int read_sums(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT alias, adapter, version, base, rule, t, digest, kind, n, sum, squares, fails, skipped FROM rollup_evaluation WHERE tenant = ?1 AND t >= ?2 AND t < ?3"
                              " AND (?4 IS NULL OR alias = ?4) AND (?5 IS NULL OR adapter = ?5) AND (?6 IS NULL OR rule = ?6) AND (?7 < 0 OR version = ?7)"
                              " ORDER BY alias, adapter, version, base, rule, t";
    struct summary *x = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "siisssi", x->span->tenant, x->first, x->first + x->points * x->interval_s, x->alias, x->adapter, x->rule, x->version)) return -1;
    int rc;
    while ((rc = db_row(st, e)) == 1)
        if (add(x, st, e)) return -1;
    return rc;
}

static json_t *rounded(double v) { return json_real(rint(v * 1e6) / 1e6); }

static json_t *group_json(const struct summary *x, const struct group *g)
{
    double n = (double)g->n, mean = g->n ? g->sum / n : 0, left = g->squares - n * mean * mean;
    json_t *series = json_array();
    for (int i = 0; i < x->points; i++) json_list_add(&series, g->count[i] ? rounded(g->sums[i] / (double)g->count[i]) : json_null());
    json_t *o = json_copy_top(g->o);
    json_object_put(&o, "scored", json_integer(g->n));
    json_object_put(&o, "not_scored", json_integer(g->skipped));
    json_object_put(&o, "failed", json_integer(g->fails));
    json_object_put(&o, "mean", g->n ? rounded(mean) : json_null());
    json_object_put(&o, "deviation", g->n > 1 ? rounded(sqrt(left > 0 ? left / (n - 1) : 0)) : json_null());
    json_object_put(&o, "pass_rate", g->n ? rounded((n - (double)g->fails) / n) : json_null());
    json_object_put(&o, "series", series);
    return o;
}

static json_t *summary_json(const struct summary *x)
{
    json_t *points = json_array(), *data = json_array();
    for (int i = 0; i < x->points; i++) json_list_add(&points, json_integer(x->first + i * x->interval_s));
    for (int i = 0; i < x->n; i++) json_list_add(&data, group_json(x, &x->group[i]));
    return json_pack("{ss sI sI sI so so sb}", "object", "evaluation_summary", "start_time", (json_int_t)x->first, "end_time", (json_int_t)(x->first + x->points * x->interval_s), "interval_s",
                     (json_int_t)x->interval_s, "points", points, "data", data, "truncated", x->truncated);
}

static int ask_summary(struct http_request *r, struct span *s, struct summary *x, struct err *e)
{
    static const char *const also[] = {"interval", "alias", "adapter", "version", "rule", NULL};
    *x = (struct summary){.span = s, .version = -1};
    if (span_read(r, also, s, e) || span_points(r, s, &x->interval_s, &x->first, &x->points, e) || admin_query_int(r, "version", 0, 999999999, &x->version, e)) return -1;
    if (!s->tenant) return err_field(e, ERR_MISSING, "tenant", "'tenant' must say whose answers.");
    if (x->points > SUMMARY_POINTS_MAX) return err_field(e, ERR_INVALID, "interval", "At most %d points are told; take a longer interval.", SUMMARY_POINTS_MAX);
    x->alias = http_query(r, "alias");
    x->adapter = http_query(r, "adapter");
    x->rule = http_query(r, "rule");
    x->group = calloc(GROUPS_MAX, sizeof *x->group);
    return x->group ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for a summary");
}

static void summary_get(struct http_request *r)
{
    struct err e = {0};
    struct span s;
    struct summary x;
    int rc = ask_summary(r, &s, &x, &e);
    if (rc == 0) rc = db_read(admin_gateway(r)->db, read_sums, &x, LIVE_READ_MS, &e);
    live_answer(r, rc, rc ? NULL : summary_json(&x), &e);
    for (int i = 0; i < x.n; i++) {
        json_decref(x.group[i].o);
        free(x.group[i].count);
        free(x.group[i].sums);
    }
    free(x.group);
}

/* --- routes --- */

const struct http_route routes_evaluations[] = {
    TENANT_ROWS(SCOPE_USAGE, "GET", "/evaluations", HTTP_BODY_NONE, 0, list_own),
    TENANT_ROWS(SCOPE_USAGE, "GET", "/evaluations/summary", HTTP_BODY_NONE, 0, summary_get),
    {0},
};

const struct http_route routes_evaluations_admin[] = {
    ADMIN_READ("/admin/v1/evaluations", list_all),
    ADMIN_READ("/admin/v1/evaluations/summary", summary_get),
    {0},
};
