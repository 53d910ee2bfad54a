/* ledger_adjust: corrections and credits (see ledger_adjust.h).
 *
 *     wish -> what the request was billed and how it was corrected before (readers) -> not below zero?
 *          -> [job: nobody corrected it meanwhile? row, rollups, outbox, budgets, `adjustment`, event, audit] --committed--> budgets in memory
 *                        `--somebody did--> from the beginning, TRIES times
 *
 * The row says what is added, `adjustment` says why and by whom. Rows of archived months are corrected like any: the correction stands in this
 * month. Blocks; on database threads, but for the job and its done(). */
#include "gateway/ledger/ledger_adjust.h"
#include "base/clock.h"
#include "base/json.h"
#include "gateway/api/idempotency.h"
#include "gateway/api/page.h"
#include "gateway/auth/auth_store.h"
#include "gateway/db/db_audit.h"
#include "gateway/ledger/ledger_internal.h"
#include "gateway/live/event.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_MS 5000
#define TRIES 5

/* Copies of a row's texts and numbers. */
struct billed {
    struct admission a; /* whose, and of what */
    char endpoint[64];
    int64_t prompt, cached, output, cost;
};

struct adjusting {
    struct ledger *l;
    const struct actor *by;
    const struct adjust_wish *w;
    const char *request; /* id, or "" */
    struct billed was;   /* with what was corrected before */
    int64_t before;      /* corrections so far */
    /* The job's. */
    char id[UUID_LEN];
    struct usage_row row;
    struct month *month;
    json_t *out;
    bool overtaken;
    /* Waited for; under the lock. */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool over;
    struct err err;
};

/* --- what was billed --- */

static int take_request(void *u, const struct usage_row *r, struct err *e)
{
    struct billed *b = u;
    struct admission *a = &b->a;
    if (r->adjusts) return err_field(e, ERR_INVALID, "request", "%s is an adjustment; adjust the request that it is about.", r->id);
    snprintf(a->who.tenant, sizeof a->who.tenant, "%s", r->tenant);
    snprintf(a->who.key, sizeof a->who.key, "%s", r->key);
    snprintf(a->what.base, sizeof a->what.base, "%s", r->base);
    snprintf(a->what.adapter, sizeof a->what.adapter, "%s", r->adapter);
    a->what.version = (int)r->version;
    snprintf(a->model, sizeof a->model, "%s", r->model);
    snprintf(b->endpoint, sizeof b->endpoint, "%s", r->endpoint);
    a->price.row = r->price;
    a->t_start = r->t_start;
    b->prompt = r->prompt;
    b->cached = r->cached;
    b->output = r->output;
    b->cost = r->cost;
    return 0;
}

static int add_earlier(void *u, const struct usage_row *r, struct err *e)
{
    struct billed *b = u;
    (void)e;
    b->prompt += r->prompt;
    b->cached += r->cached;
    b->output += r->output;
    b->cost += r->cost;
    return 0;
}

struct earlier {
    const char *request;
    int n;
    char id[ADJUST_PER_REQUEST][UUID_LEN];
};

static int read_earlier(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT id FROM adjustment WHERE request = ?1 AND request <> '' LIMIT ?2";
    struct earlier *x = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "si", x->request, (int64_t)ADJUST_PER_REQUEST)) return -1;
    int rc;
    for (x->n = 0; (rc = db_row(st, e)) == 1 && x->n < ADJUST_PER_REQUEST; x->n++) snprintf(x->id[x->n], UUID_LEN, "%s", db_text(st, 0));
    sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

static int find_request(struct adjusting *x, struct err *e)
{
    struct earlier past = {.request = x->request};
    int rc = ledger_row(x->l, NULL, x->request, 0, take_request, &x->was, e);
    if (rc < 0) return -1;
    if (!rc) return err_field(e, ERR_NOT_FOUND, "request", "There is no settled request '%.64s'.", x->request);
    if (db_read(x->l->db, read_earlier, &past, READ_MS, e)) return -1;
    if (past.n == ADJUST_PER_REQUEST)
        return err_field(e, ERR_INVALID, "request", "The request was adjusted %d times; credit the rest without 'request'.", past.n);
    for (int i = 0; i < past.n; i++)
        if (ledger_row(x->l, NULL, past.id[i], 0, add_earlier, &x->was, e) < 0) return -1;
    x->before = past.n;
    return 0;
}

static int find_tenant(struct adjusting *x, struct auth *auth, struct err *e)
{
    json_t *o = NULL;
    if (!x->w->tenant) return *x->request ? 0 : err_field(e, ERR_MISSING, "tenant", "A credit without a 'request' needs its 'tenant'.");
    if (tenant_get(auth, x->w->tenant, &o, e)) return -1;
    const char *id = json_string_value(json_object_get(o, "id"));
    bool same = !*x->request || strcmp(id, x->was.a.who.tenant) == 0;
    snprintf(x->was.a.who.tenant, sizeof x->was.a.who.tenant, "%s", id);
    json_decref(o);
    return same ? 0 : err_field(e, ERR_NOT_FOUND, "request", "There is no settled request '%.64s' of this tenant.", x->request);
}

/* --- what is added --- */

/* Tokens at the price that the request was billed at: a difference costs what it makes of the whole. */
static int find_cost(struct db *d, sqlite3 *c, const struct adjusting *x, int64_t *cost, struct err *e)
{
    const struct adjust_wish *w = x->w;
    const struct billed *b = &x->was;
    struct price p;
    *cost = w->cost;
    if (w->has_cost || !*x->request) return 0;
    int rc = price_of_row(d, c, b->a.price.row, &p, e);
    if (rc == 0) err_field(e, ERR_MISSING, "cost_nano", "The price of the request is not known any more: say what it comes to in 'cost_nano'.");
    if (rc <= 0) return -1;
    *cost = price_cost(&p, b->prompt + w->prompt, b->cached + w->cached, b->output + w->output) - price_cost(&p, b->prompt, b->cached, b->output);
    return 0;
}

static int check(const struct adjusting *x, int64_t cost, struct err *e)
{
    const struct adjust_wish *w = x->w;
    const struct billed *b = &x->was;
    const struct {
        const char *field;
        int64_t sum, was;
    } sums[] = {{"input_tokens", b->prompt + w->prompt, b->prompt},
                {"input_cached_tokens", b->cached + w->cached, b->cached},
                {"output_tokens", b->output + w->output, b->output},
                {"cost_nano", b->cost + cost, b->cost}};
    if (!w->prompt && !w->cached && !w->output && !cost)
        return err_field(e, ERR_INVALID, "cost_nano", "The adjustment changes nothing: give 'cost_nano', or tokens of a request.");
    if (!*x->request) return 0;
    for (size_t i = 0; i < sizeof sums / sizeof *sums; i++)
        if (sums[i].sum < 0)
            return err_field(e, ERR_INVALID, sums[i].field, "'%s' would give back more than the %lld that were billed.", sums[i].field,
                             (long long)sums[i].was);
    if (sums[1].sum > sums[0].sum)
        return err_field(e, ERR_INVALID, "input_cached_tokens", "Of %lld input tokens %lld can't be cached.", (long long)sums[0].sum,
                         (long long)sums[1].sum);
    return 0;
}

static void fill_row(struct adjusting *x, int64_t cost, int64_t now)
{
    const struct admission *a = &x->was.a;
    x->row = (struct usage_row){.id = x->id, .tenant = a->who.tenant, .key = a->who.key, .base = a->what.base, .adapter = a->what.adapter,
                                .model = a->model, .alias = "", .endpoint = x->was.endpoint, .finish = "", .engine = "", .adjusts = x->request,
                                .version = a->what.version, .state = USAGE_COMPLETED, .t_start = now, .t_end = now, .prompt = x->w->prompt,
                                .cached = x->w->cached, .output = x->w->output, .source = COUNT_NONE, .price = a->price.row, .cost = cost,
                                .month = x->month->yyyymm};
}

static json_t *adjustment_json(const struct usage_row *r, const char *tenant, const char *reason, const char *actor)
{
    json_t *o = json_pack("{ss ss sI ss? so ss sI sI sI sI}", "object", "adjustment", "id", r->id, "created_at", (json_int_t)(r->t_start / 1000000),
                          "tenant", tenant, "request", *r->adjusts ? json_string(r->adjusts) : json_null(), "reason", reason, "input_tokens",
                          (json_int_t)r->prompt, "input_cached_tokens", (json_int_t)r->cached, "output_tokens", (json_int_t)r->output, "cost_nano",
                          (json_int_t)r->cost);
    if (o && actor) json_object_set_new(o, "actor", json_string(actor));
    return o;
}

/* --- the job --- */

static int note(struct db *d, sqlite3 *c, const struct adjusting *x, struct err *e)
{
    static const char sql[] = "INSERT INTO adjustment(id, t, tenant, request, reason, actor) VALUES(?1, ?2, ?3, ?4, ?5, ?6)";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "sissss", x->id, x->row.t_start, x->row.tenant, x->request, x->w->reason, x->by->key)) return -1;
    return db_done(st, e);
}

static int count_earlier(struct db *d, sqlite3 *c, struct adjusting *x, struct err *e)
{
    static const char sql[] = "SELECT count(*) FROM adjustment WHERE request = ?1 AND request <> ''";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "s", x->request) || db_row(st, e) != 1) return -1;
    x->overtaken = sqlite3_column_int64(st, 0) != x->before;
    sqlite3_reset(st);
    return x->overtaken ? err_set(e, ERR_CONFLICT, "the request was adjusted by somebody else; try again") : 0;
}

static int tenant_name(struct db *d, sqlite3 *c, struct adjusting *x, struct err *e)
{
    static const char sql[] = "SELECT coalesce((SELECT name FROM tenant WHERE id = ?1), ?1)";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "s", x->row.tenant) || db_row(st, e) != 1) return -1;
    x->out = adjustment_json(&x->row, db_text(st, 0), x->w->reason, x->by->key);
    sqlite3_reset(st);
    return x->out ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for an adjustment");
}

static int tell(struct db *d, sqlite3 *c, const struct adjusting *x, struct err *e)
{
    json_t *detail = json_pack("{ss sI}", "request", x->request, "cost_nano", (json_int_t)x->row.cost);
    int rc = event_add(d, c, x->row.tenant, "usage.adjusted", x->id, detail, e);
    json_decref(detail);
    if (rc == 0) rc = audit_add(d, c, &(struct audit){x->by, "adjustment.create", x->id, NULL, x->out}, e);
    return rc ? -1 : once_keep(d, c, x->by, 201, x->out, e);
}

/* The id is made here, so that it is as young as the row: nobody has been told yet that rows of now are final. */
static int run(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct adjusting *x = u;
    int64_t cost, now;
    bool fresh;
    json_decref(x->out);
    x->out = NULL;
    uuid7(x->id);
    now = usage_start(x->id, clock_wall_us());
    if (find_cost(d, c, x, &cost, e) || check(x, cost, e) || count_earlier(d, c, x, e) || !(x->month = ledger_month(x->l, now, e))) return -1;
    fill_row(x, cost, now);
    if (ledger_count_run(d, c, x->month, &x->row, &fresh, e) || note(d, c, x, e) || tenant_name(d, c, x, e) || tell(d, c, x, e)) return -1;
    return limit_settle_run(d, c, &x->was.a.who, x->row.adapter, now, x->row.prompt + x->row.output, cost, e);
}

/* In the order of commits, as settlements are. */
static void done(void *u, const struct err *e)
{
    struct adjusting *x = u;
    const struct usage_row *r = &x->row;
    if (!e) x->month->made = true;
    if (!e && x->l->limits) limit_adjust(x->l->limits, &x->was.a.who, r->adapter, r->t_start, r->prompt + r->output, r->cost);
    pthread_mutex_lock(&x->lock);
    if (e) x->err = *e;
    x->over = true;
    pthread_cond_signal(&x->wake);
    pthread_mutex_unlock(&x->lock);
}

static int commit(struct adjusting *x, struct err *e)
{
    struct db_job job = {.run = run, .done = done, .user = x, .durable = true};
    x->over = x->overtaken = false;
    x->err.code = ERR_NONE;
    if (db_write(x->l->db, &job, e)) return -1;
    pthread_mutex_lock(&x->lock);
    while (!x->over) pthread_cond_wait(&x->wake, &x->lock);
    pthread_mutex_unlock(&x->lock);
    if (!x->err.code) return db_flush(x->l->db, e);
    if (!x->overtaken) *e = x->err;
    return -1;
}

int ledger_adjust(struct ledger *l, struct auth *auth, const struct actor *by, const struct adjust_wish *w, struct json_t **out, struct err *e)
{
    struct adjusting x = {.l = l, .by = by, .w = w, .request = w->request ? w->request : "", .lock = PTHREAD_MUTEX_INITIALIZER,
                          .wake = PTHREAD_COND_INITIALIZER, .overtaken = true};
    int rc = -1;
    if (!*x.request && (w->prompt || w->cached || w->output))
        return err_field(e, ERR_INVALID, "request", "Tokens are those of a 'request'; a credit without one has 'cost_nano' only.");
    for (int i = 0; i < TRIES && rc && x.overtaken; i++) {
        x.was = (struct billed){0};
        x.overtaken = false;
        rc = (*x.request && find_request(&x, e)) || find_tenant(&x, auth, e) || commit(&x, e) ? -1 : 0;
    }
    if (rc && x.overtaken) err_set(e, ERR_CONFLICT, "the request is being adjusted by others; try again");
    if (rc == 0) *out = x.out;
    else json_decref(x.out);
    pthread_mutex_destroy(&x.lock);
    pthread_cond_destroy(&x.wake);
    return rc;
}

/* --- reading --- */

struct found {
    char id[UUID_LEN], tenant[NAME_MAX_LEN + 1], actor[64];
    char *reason;
    bool show_actor;
    json_t *out;
};

static int print(void *u, const struct usage_row *r, struct err *e)
{
    struct found *f = u;
    if (!r->adjusts) return err_set(e, ERR_INTERNAL, "the row of the adjustment %s is none", r->id);
    f->out = adjustment_json(r, f->tenant, f->reason, f->show_actor ? f->actor : NULL);
    return f->out ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for an adjustment");
}

#define COLUMNS "SELECT a.id, coalesce(t.name, a.tenant), a.reason, a.actor FROM adjustment a LEFT JOIN tenant t ON t.id = a.tenant WHERE "
/* Their month's rows are gone, by retention: in no list, else a page of them would be empty and never end. */
#define THERE \
    "NOT EXISTS (SELECT 1 FROM archive WHERE removed IS NOT NULL AND month = CAST(strftime('%Y%m', a.t / 1000000, 'unixepoch') AS INTEGER)) AND "
#define OF_ALL COLUMNS THERE "?2 IS NULL AND ?3 IS NULL AND "
#define OF_TENANT COLUMNS THERE "a.tenant = ?2 AND ?3 IS NULL AND "
#define OF_REQUEST COLUMNS THERE "a.request = ?3 AND a.request <> '' AND (?2 IS NULL OR a.tenant = ?2) AND "
#define AFTER "a.id < ?1 ORDER BY a.id DESC LIMIT ?4"
#define BEFORE "a.id > ?1 ORDER BY a.id LIMIT ?4"
static const char all_sql[] = OF_ALL AFTER, all_back_sql[] = OF_ALL BEFORE, tenant_sql[] = OF_TENANT AFTER, tenant_back_sql[] = OF_TENANT BEFORE,
                  request_sql[] = OF_REQUEST AFTER, request_back_sql[] = OF_REQUEST BEFORE;

struct listing {
    const struct adjust_query *q;
    const struct page *p;
    int n;
    struct found row[PAGE_MAX + 1];
};

static int read_list(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct listing *x = u;
    const struct adjust_query *q = x->q;
    bool back = page_back(x->p);
    const char *sql = q->request ? back ? request_back_sql : request_sql : q->tenant ? back ? tenant_back_sql : tenant_sql : back ? all_back_sql : all_sql;
    const char *cursor = *page_cursor(x->p) ? page_cursor(x->p) : "g"; /* follows every id */
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "sssi", cursor, q->tenant, q->request, page_ask(x->p))) return -1;
    int rc;
    while ((rc = db_row(st, e)) == 1 && x->n <= PAGE_MAX) {
        struct found *f = &x->row[x->n++];
        f->show_actor = q->show_actor;
        snprintf(f->id, sizeof f->id, "%s", db_text(st, 0));
        snprintf(f->tenant, sizeof f->tenant, "%s", db_text(st, 1));
        snprintf(f->actor, sizeof f->actor, "%s", db_text(st, 3));
        if (!(f->reason = strdup(db_text(st, 2)))) return err_set(e, ERR_NO_MEMORY, "no memory for adjustments");
    }
    sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

static int add_found(struct ledger *l, struct found *f, bool back, json_t *list, struct err *e)
{
    int rc = ledger_row(l, NULL, f->id, 0, print, f, e);
    if (rc < 0) return -1;
    if (!rc) return 0; /* they have just gone */
    rc = back ? json_array_insert_new(list, 0, f->out) : json_array_append_new(list, f->out);
    return rc ? err_set(e, ERR_NO_MEMORY, "no memory for adjustments") : 0;
}

int ledger_adjustments(struct ledger *l, const struct adjust_query *q, const struct page *p, struct json_t *list, bool *more, struct err *e)
{
    struct listing *x = calloc(1, sizeof *x);
    if (!x) return err_set(e, ERR_NO_MEMORY, "no memory for adjustments");
    x->q = q;
    x->p = p;
    int rc = db_read(l->db, read_list, x, READ_MS, e);
    for (int i = 0; i < x->n; i++) {
        if (rc == 0 && i < p->limit) rc = add_found(l, &x->row[i], page_back(p), list, e);
        free(x->row[i].reason);
    }
    if (rc == 0) *more = x->n > p->limit;
    free(x);
    return rc;
}

static int read_one(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = COLUMNS "a.id = ?1";
    struct found *f = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "s", f->id)) return -1;
    int rc = db_row(st, e);
    if (rc == 1) {
        snprintf(f->tenant, sizeof f->tenant, "%s", db_text(st, 1));
        snprintf(f->actor, sizeof f->actor, "%s", db_text(st, 3));
        f->reason = strdup(db_text(st, 2));
    }
    sqlite3_reset(st);
    if (rc == 1 && !f->reason) return err_set(e, ERR_NO_MEMORY, "no memory for an adjustment");
    return rc < 0 ? -1 : 0;
}

int ledger_adjustment(struct ledger *l, const char *id, struct json_t **out, struct err *e)
{
    struct found f = {.show_actor = true};
    snprintf(f.id, sizeof f.id, "%s", id);
    int rc = db_read(l->db, read_one, &f, READ_MS, e);
    if (rc == 0) rc = f.reason ? ledger_row(l, NULL, f.id, 0, print, &f, e) : 0;
    if (rc == 0) err_set(e, ERR_NOT_FOUND, "There is no adjustment '%.64s'.", id);
    if (rc == 1) *out = f.out;
    free(f.reason);
    return rc == 1 ? 0 : -1;
}
