/* feedback: ratings of answers, a row each beside the usage rows (feedback.h).
 *
 *     put -> is it a settled request of this tenant? (a reader) --no--> 404
 *                     | yes                                              ^
 *                     v                                                  | a judge's question, a small model's probe
 *         [job: INSERT, or UPDATE of what was said before] --committed--> the row as JSON
 *
 * Of the usage row the model, the alias and the version that answered are copied, so that who reads ratings needs no month's table. Ids are UUIDv7: their
 * order is that of time. Nothing here touches the way of a request. Blocks; on database threads. */
#include "gateway/quality/feedback.h"
#include "base/clock.h"
#include "base/json.h"
#include "gateway/api/idempotency.h"
#include "gateway/api/page.h"
#include "gateway/db/db_audit.h"
#include "gateway/ledger/ledger_rows.h"
#include "gateway/quality/route_book.h"
#include <stdio.h>
#include <string.h>

#define READ_MS 2000

#define COLUMNS "f.request, coalesce(t.name, ''), f.t, f.key, f.model, f.alias, f.adapter, f.version, f.rating, f.label, f.comment"
#define FROM " FROM feedback f LEFT JOIN tenant t ON t.id = f.tenant AND ?1 IS NULL "

/* --- to JSON --- */

static json_t *or_null(const char *s)
{
    return *s ? json_string(s) : json_null();
}

/* The columns COLUMNS; the tenant's name only where everybody's are read. */
static json_t *print(sqlite3_stmt *st)
{
    json_t *o = json_pack("{ss ss ss sI ss ss so so sf so so}", "object", "feedback", "id", db_text(st, 0), "request_id", db_text(st, 0), "created_at",
                          (json_int_t)(sqlite3_column_int64(st, 2) / 1000000), "api_key_id", db_text(st, 3), "model", db_text(st, 4), "alias", or_null(db_text(st, 5)), "adapter",
                          or_null(db_text(st, 6)), "rating", sqlite3_column_double(st, 8), "label", or_null(db_text(st, 9)), "comment", or_null(db_text(st, 10)));
    if (o) json_object_set_new(o, "version", *db_text(st, 6) ? json_integer(sqlite3_column_int64(st, 7)) : json_null());
    if (o && *db_text(st, 1)) json_object_set_new(o, "tenant", json_string(db_text(st, 1)));
    return o;
}

static int no_such(struct err *e)
{
    return err_field(e, ERR_NOT_FOUND, "request_id", "There is no request of that id that has ended.");
}

/* --- writing --- */

struct putting {
    const struct feedback *f;
    const struct actor *by;
    char model[256], alias[NAME_MAX_LEN + 1], adapter[NAME_MAX_LEN + 1];
    int64_t version;
    int month;
    bool correction; /* the id is that of a row that is no request */
    json_t *out;
    struct route_lesson *learned;
};

static int take(void *u, const struct usage_row *r, struct err *e)
{
    struct putting *p = u;
    (void)e;
    snprintf(p->model, sizeof p->model, "%s", r->model);
    snprintf(p->alias, sizeof p->alias, "%s", r->alias);
    snprintf(p->adapter, sizeof p->adapter, "%s", r->adapter);
    p->version = r->version;
    p->month = r->month;
    p->correction = r->adjusts != NULL;
    return 0;
}

static int read_one(struct db *d, sqlite3 *c, const char *tenant, const char *request, json_t **out, struct err *e)
{
    static const char sql[] = "SELECT f.request, '', f.t, f.key, f.model, f.alias, f.adapter, f.version, f.rating, f.label, f.comment FROM feedback f WHERE f.tenant = ?1 AND f.request = ?2";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st && db_bind(st, e, "ss", tenant, request) == 0 ? db_row(st, e) : -1;
    json_t *o = rc == 1 ? print(st) : NULL;
    if (st) sqlite3_reset(st);
    if (rc < 0) return -1;
    if (rc == 0) return no_such(e);
    if (!o) return err_set(e, ERR_NO_MEMORY, "no memory for feedback");
    *out = o;
    return 0;
}

/* What was said before: 1, 0 nothing, -1. */
static int read_before(struct db *d, sqlite3 *c, const struct feedback *f, double *was, struct err *e)
{
    static const char sql[] = "SELECT rating FROM feedback WHERE tenant = ?1 AND request = ?2";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st && db_bind(st, e, "ss", f->tenant, f->request) == 0 ? db_row(st, e) : -1;
    if (rc == 1) *was = sqlite3_column_double(st, 0);
    if (st) sqlite3_reset(st);
    return rc;
}

/* A question to a judge, or what a small model was tried with: rows of the tenant's, but nobody got an answer. 1, 0, -1. */
static int is_our_own(struct db *d, sqlite3 *c, const char *request, struct err *e)
{
    static const char sql[] = "SELECT 1 FROM usage_route WHERE probe = ?1 AND probe <> '' UNION ALL SELECT 1 FROM usage_judge WHERE id = ?1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st && db_bind(st, e, "s", request) == 0 ? db_row(st, e) : -1;
    if (st) sqlite3_reset(st);
    return rc;
}

static int run_put(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "INSERT INTO feedback(tenant, request, month, t, key, model, alias, adapter, version, rating, label, comment)"
                              " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT DO UPDATE SET t = excluded.t, key = excluded.key,"
                              " rating = excluded.rating, label = excluded.label, comment = excluded.comment";
    struct putting *p = u;
    const struct feedback *f = p->f;
    double was = 0;
    int own = is_our_own(d, c, f->request, e), before = own ? -1 : read_before(d, c, f, &was, e);
    if (own > 0) return no_such(e);
    if (before < 0 || route_book_learn(d, c, f->tenant, f->request, before ? &was : NULL, f->rating, &p->learned, e)) return -1;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ssiissssidss", f->tenant, f->request, (int64_t)p->month, clock_wall_us(), f->key, p->model, p->alias, p->adapter, p->version, f->rating, f->label, f->comment) ||
        db_done(st, e))
        return -1;
    if (read_one(d, c, f->tenant, f->request, &p->out, e)) return -1;
    return once_keep(d, c, p->by, 200, p->out, e);
}

int feedback_put(struct ledger *l, struct db *d, struct route_book *routes, const struct actor *by, const struct feedback *f, struct json_t **out, struct err *e)
{
    struct putting p = {.f = f, .by = by};
    int rc = ledger_row(l, f->tenant, f->request, 0, take, &p, e);
    if (rc < 0) return -1;
    if (!rc || p.correction) return no_such(e);
    if (db_write_wait(d, run_put, &p, e)) {
        json_decref(p.out);
        route_book_learned(NULL, p.learned);
        return -1;
    }
    route_book_learned(routes, p.learned);
    *out = p.out;
    return 0;
}

struct deleting {
    const char *tenant, *request;
};

static int run_delete(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "DELETE FROM feedback WHERE tenant = ?1 AND request = ?2";
    const struct deleting *x = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    static const char forget[] = "UPDATE usage_route SET features = x'' WHERE id = ?1"; /* what was learned stays; it is not learned again */
    if (!st || db_bind(st, e, "ss", x->tenant, x->request) || db_done(st, e)) return -1;
    if (!sqlite3_changes(c)) return no_such(e);
    st = db_stmt(d, c, forget, e);
    return st && db_bind(st, e, "s", x->request) == 0 ? db_done(st, e) : -1;
}

int feedback_delete(struct db *d, const char *tenant, const char *request, struct err *e)
{
    return db_write_wait(d, run_delete, &(struct deleting){tenant, request}, e);
}

/* --- reading --- */

struct reading {
    const struct feedback_query *q;
    const struct page *page;
    json_t *list;
    bool more;
};

/* A tenant's by the primary key, everybody's by the index on requests. */
static int read_page(struct db *d, sqlite3 *c, void *u, struct err *e)
{
#define WANTED "f.rating <= ?4 AND (?5 IS NULL OR f.alias = ?5)"
#define OLDER " (?2 = '' OR f.request < ?2) AND " WANTED " ORDER BY f.request DESC LIMIT ?3"
#define NEWER " f.request > ?2 AND " WANTED " ORDER BY f.request LIMIT ?3"
    static const char own[] = "SELECT " COLUMNS FROM "WHERE f.tenant = ?1 AND" OLDER, own_back[] = "SELECT " COLUMNS FROM "WHERE f.tenant = ?1 AND" NEWER;
    static const char all[] = "SELECT " COLUMNS FROM "WHERE" OLDER, all_back[] = "SELECT " COLUMNS FROM "WHERE" NEWER;
#undef OLDER
#undef NEWER
#undef WANTED
    struct reading *x = u;
    bool back = page_back(x->page);
    const char *sql = x->q->tenant ? (back ? own_back : own) : back ? all_back : all;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return st && db_bind(st, e, "ssids", x->q->tenant, page_cursor(x->page), page_ask(x->page), x->q->most, x->q->alias) == 0
               ? page_rows(st, x->page, print, x->list, &x->more, e)
               : -1;
}

int feedback_list(struct db *d, const struct feedback_query *q, const struct page *p, struct json_t *list, bool *more, struct err *e)
{
    struct reading x = {.q = q, .page = p, .list = list};
    if (db_read(d, read_page, &x, READ_MS, e)) return -1;
    *more = x.more;
    return 0;
}

struct getting {
    const char *tenant, *request;
    json_t *out;
};

static int read_get(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct getting *x = u;
    return read_one(d, c, x->tenant, x->request, &x->out, e);
}

int feedback_get(struct db *d, const char *tenant, const char *request, struct json_t **out, struct err *e)
{
    struct getting x = {.tenant = tenant, .request = request};
    if (db_read(d, read_get, &x, READ_MS, e)) return -1;
    *out = x.out;
    return 0;
}
