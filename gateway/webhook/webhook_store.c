/* webhook_store: webhooks as rows, read and shown. The secret is in no answer but those of webhook_change.c that make one.
 *
 * What waits for a webhook is counted in the outbox, up to LAG_SHOWN, so that a list costs the same however far one is behind; its age is
 * that of the first that waits, whose id has the time in it. Readers, and the writer's jobs (webhook_row). */
#include "base/clock.h"
#include "base/json.h"
#include "gateway/api/page.h"
#include "gateway/webhook/webhook_impl.h"
#include <string.h>

#define READ_MS 2000
#define LAG_SHOWN 10000

const char *const hook_state_name[HOOK_STATES] = {"enabled", "paused", "failing"};

#define COLUMNS                                                                                                                              \
    "SELECT w.id, t.name, w.name, w.url, w.usage, w.events, w.state, w.failures, w.failing_since, w.last_error, w.last_status, w.delivered," \
    " w.last_delivered, w.revision, w.created, w.usage_seq, w.tenant, w.replay_start, w.replay_until FROM webhook w"                         \
    " LEFT JOIN tenant t ON t.id = w.tenant "

static json_t *seconds_or_null(sqlite3_stmt *st, int column)
{
    int64_t us = sqlite3_column_int64(st, column);
    return us ? json_integer(us / 1000000) : json_null();
}

static json_t *text_or_null(const char *s)
{
    return *s ? json_string(s) : json_null();
}

static json_t *words(const char *s)
{
    json_t *list = json_array();
    while (*s) {
        size_t n = strcspn(s, ",");
        json_array_append_new(list, json_stringn(s, n));
        s += n + (s[n] == ',');
    }
    return list;
}

static json_t *redelivery(sqlite3_stmt *st)
{
    int64_t start = sqlite3_column_int64(st, 17), until = sqlite3_column_int64(st, 18);
    if (!until) return json_null();
    return json_pack("{sI so}", "start_time", (json_int_t)start, "end_time", until > 0 ? json_integer(until) : json_null());
}

static json_t *row_json(sqlite3_stmt *st)
{
    int64_t status = sqlite3_column_int64(st, 10);
    return json_pack("{ss ss so ss ss sb so ss sI so so so sI so so sI sI}", "object", "webhook", "id", db_text(st, 0), "tenant",
                     text_or_null(db_text(st, 1)), "name", db_text(st, 2), "url", db_text(st, 3), "usage", sqlite3_column_int(st, 4), "events",
                     words(db_text(st, 5)), "state", db_text(st, 6), "failures", (json_int_t)sqlite3_column_int64(st, 7), "failing_since",
                     seconds_or_null(st, 8), "last_error", text_or_null(db_text(st, 9)), "last_status",
                     status ? json_integer(status) : json_null(), "delivered", (json_int_t)sqlite3_column_int64(st, 11), "last_delivered_at",
                     seconds_or_null(st, 12), "redelivery", redelivery(st), "created_at", (json_int_t)(sqlite3_column_int64(st, 14) / 1000000),
                     "revision", (json_int_t)sqlite3_column_int64(st, 13));
}

struct waiting {
    char tenant[UUID_LEN];
    int64_t from, n, age_s;
};

static int count_waiting(struct db *d, sqlite3 *c, struct waiting *x, struct err *e)
{
#define WAITING(which) "SELECT count(*), (SELECT id FROM outbox WHERE " which " ORDER BY seq LIMIT 1) FROM (SELECT 1 FROM outbox WHERE " which " LIMIT ?3)"
    static const char all[] = WAITING("seq > ?1 AND ?2 = ''"), own[] = WAITING("tenant = ?2 AND seq > ?1");
#undef WAITING
    sqlite3_stmt *st = db_stmt(d, c, *x->tenant ? own : all, e);
    int rc = st && db_bind(st, e, "isi", x->from, x->tenant, (int64_t)LAG_SHOWN) == 0 ? db_row(st, e) : -1;
    if (rc == 1) {
        x->n = sqlite3_column_int64(st, 0);
        if (x->n) x->age_s = (clock_wall_us() - usage_id_time(db_text(st, 1))) / 1000000;
        if (x->age_s < 0) x->age_s = 0;
    }
    if (st) sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

static int add_waiting(struct db *d, sqlite3 *c, struct waiting *x, json_t *o, struct err *e)
{
    if (json_is_true(json_object_get(o, "usage")) && count_waiting(d, c, x, e)) return -1;
    if (!o || json_object_set_new(o, "waiting", json_integer(x->n)) || json_object_set_new(o, "waiting_s", json_integer(x->age_s)))
        return err_set(e, ERR_NO_MEMORY, "no memory for a webhook");
    return 0;
}

static void note_waiting(sqlite3_stmt *st, struct waiting *x)
{
    *x = (struct waiting){.from = sqlite3_column_int64(st, 15)};
    memcpy(x->tenant, db_text(st, 16), strnlen(db_text(st, 16), UUID_LEN - 1));
}

int webhook_row(struct db *d, sqlite3 *c, const char *reach, const char *id, json_t **out, struct err *e)
{
    static const char sql[] = COLUMNS "WHERE w.id = ?1 AND (?2 IS NULL OR w.tenant = ?2)";
    struct waiting x;
    json_t *o = NULL;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st && db_bind(st, e, "ss", id, reach) == 0 ? db_row(st, e) : -1;
    if (rc == 1) {
        note_waiting(st, &x);
        o = row_json(st);
    }
    if (st) sqlite3_reset(st);
    if (rc == 0) return err_set(e, ERR_NOT_FOUND, "There is no webhook '%.64s'.", id);
    if (rc < 0 || add_waiting(d, c, &x, o, e)) {
        json_decref(o);
        return -1;
    }
    *out = o;
    return 0;
}

struct reading {
    const char *reach, *id;
    const struct page *page;
    json_t *out;
    bool more;
};

static int read_one(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct reading *x = u;
    return webhook_row(d, c, x->reach, x->id, &x->out, e);
}

int webhook_get(struct gateway *g, const char *reach, const char *id, json_t **out, struct err *e)
{
    struct reading x = {.reach = reach, .id = id};
    if (db_read(g->db, read_one, &x, READ_MS, e)) return -1;
    *out = x.out;
    return 0;
}

/* Rows in the page's order; what waits is added when the statement is over. */
static int read_rows(sqlite3_stmt *st, const struct page *p, json_t *list, struct waiting *w, int *n, bool *more, struct err *e)
{
    int rc;
    while ((rc = db_row(st, e)) == 1 && *n < p->limit) {
        note_waiting(st, &w[(*n)++]);
        if (json_array_append_new(list, row_json(st))) return err_set(e, ERR_NO_MEMORY, "no memory for a list");
    }
    *more = rc == 1;
    sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

static int read_page(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = COLUMNS "WHERE w.id > ?1 AND (?3 IS NULL OR w.tenant = ?3) ORDER BY w.id LIMIT ?2",
                      back[] = COLUMNS "WHERE w.id < ?1 AND (?3 IS NULL OR w.tenant = ?3) ORDER BY w.id DESC LIMIT ?2";
    struct reading *x = u;
    struct waiting w[PAGE_MAX];
    int n = 0;
    sqlite3_stmt *st = db_stmt(d, c, page_back(x->page) ? back : sql, e);
    if (!st || db_bind(st, e, "sis", page_cursor(x->page), page_ask(x->page), x->reach)) return -1;
    json_t *rows = json_array();
    int rc = read_rows(st, x->page, rows, w, &n, &x->more, e);
    for (int i = 0; rc == 0 && i < n; i++) {
        json_t *o = json_array_get(rows, (size_t)i);
        rc = add_waiting(d, c, &w[i], o, e);
        if (rc == 0 && (page_back(x->page) ? json_array_insert(x->out, 0, o) : json_array_append(x->out, o)))
            rc = err_set(e, ERR_NO_MEMORY, "no memory for a list");
    }
    json_decref(rows);
    return rc;
}

int webhook_list(struct gateway *g, const char *reach, const struct page *p, json_t *list, bool *more, struct err *e)
{
    struct reading x = {.reach = reach, .page = p, .out = list};
    if (db_read(g->db, read_page, &x, READ_MS, e)) return -1;
    *more = x.more;
    return 0;
}
