/* price_store: prices as rows (see price_store.h). A change travels to the writer as a struct, writes the row, reads it again,
 * and notes it in the audit trail, all in its savepoint; then the snapshot is renewed. */
#include "gateway/ledger/price_store.h"
#include "base/clock.h"
#include "base/json.h"
#include "gateway/api/idempotency.h"
#include "gateway/api/page.h"
#include <stdio.h>

#define READ_MS 2000

#define COLUMNS                                                                                                        \
    "SELECT p.row, p.base, t.name, p.adapter, p.valid_from, p.prompt, p.cached, p.output, p.created FROM price p"      \
    " LEFT JOIN tenant t ON t.id = p.tenant "

static json_t *text_or_null(const char *s)
{
    return *s ? json_string(s) : json_null();
}

static json_t *price_json(sqlite3_stmt *st)
{
    return json_pack("{ss ss ss so so sI sI sI sI sI}", "object", "price", "id", db_text(st, 0), "base", db_text(st, 1),
                     "tenant", text_or_null(db_text(st, 2)), "adapter", text_or_null(db_text(st, 3)), "valid_from",
                     (json_int_t)(sqlite3_column_int64(st, 4) / 1000000), "prompt_nano",
                     (json_int_t)sqlite3_column_int64(st, 5), "cached_nano", (json_int_t)sqlite3_column_int64(st, 6),
                     "output_nano", (json_int_t)sqlite3_column_int64(st, 7), "created_at",
                     (json_int_t)(sqlite3_column_int64(st, 8) / 1000000));
}

struct change {
    const struct actor *by;
    const struct price_wish *wish;
    int64_t row;
    json_t *out;
};

static int get(struct db *d, sqlite3 *c, int64_t row, json_t **out, struct err *e)
{
    static const char sql[] = COLUMNS "WHERE p.row = ?1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "i", row)) return -1;
    int rc = db_row(st, e);
    *out = rc == 1 ? price_json(st) : NULL;
    sqlite3_reset(st);
    if (rc < 0) return -1;
    if (rc == 1 && !*out) return err_set(e, ERR_NO_MEMORY, "no memory for a price");
    return 0;
}

static int check_tenant(struct db *d, sqlite3 *c, const char *name, struct err *e)
{
    static const char sql[] = "SELECT 1 FROM tenant WHERE name = ?1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "s", name)) return -1;
    int rc = db_row(st, e);
    sqlite3_reset(st);
    return rc == 0 ? err_field(e, ERR_NOT_FOUND, "tenant", "There is no tenant '%.64s'.", name) : rc < 0 ? -1 : 0;
}

static int run_create(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] =
        "INSERT INTO price(base, tenant, adapter, valid_from, prompt, cached, output, created) VALUES(?1,"
        " coalesce((SELECT id FROM tenant WHERE name = ?2), ''), ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING";
    struct change *w = u;
    const struct price_wish *p = w->wish;
    int64_t now = clock_wall_us(), from = p->valid_from < 0 ? now : p->valid_from * 1000000;
    if (*p->tenant && check_tenant(d, c, p->tenant, e)) return -1;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "sssiiiii", p->base, p->tenant, p->adapter, from, p->prompt, p->cached, p->output, now) ||
        db_done(st, e))
        return -1;
    if (!sqlite3_changes(c))
        return err_field(e, ERR_CONFLICT, "valid_from", "There is a price from that moment on already.");
    w->row = sqlite3_last_insert_rowid(c);
    if (get(d, c, w->row, &w->out, e)) return -1;
    const char *id = json_string_value(json_object_get(w->out, "id"));
    if (audit_add(d, c, &(struct audit){w->by, "price.create", id, NULL, w->out}, e)) return -1;
    return once_keep(d, c, w->by, 201, w->out, e);
}

static int run_remove(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char keep[] = "INSERT OR IGNORE INTO price_removed SELECT row, prompt, cached, output FROM price WHERE row = ?1",
                      sql[] = "DELETE FROM price WHERE row = ?1";
    struct change *w = u;
    json_t *before = NULL;
    if (get(d, c, w->row, &before, e)) return -1;
    if (!before) return err_set(e, ERR_NOT_FOUND, "There is no price '%lld'.", (long long)w->row);
    const char *id = json_string_value(json_object_get(before, "id"));
    sqlite3_stmt *st = db_stmt(d, c, keep, e);
    int rc = st && db_bind(st, e, "i", w->row) == 0 ? db_done(st, e) : -1;
    st = rc == 0 ? db_stmt(d, c, sql, e) : NULL;
    rc = st && db_bind(st, e, "i", w->row) == 0 ? db_done(st, e) : -1;
    if (rc == 0) rc = audit_add(d, c, &(struct audit){w->by, "price.delete", id, before, NULL}, e);
    if (rc == 0) w->out = json_pack("{ss ss sb}", "id", id, "object", "price", "deleted", 1);
    json_decref(before);
    return rc;
}

static int apply(struct prices *p, int (*run)(struct db *, sqlite3 *, void *, struct err *), struct change *w,
                 json_t **out, struct err *e)
{
    int rc = db_write_wait(prices_db(p), run, w, e);
    if (rc) {
        json_decref(w->out);
        return rc;
    }
    prices_changed(p); /* it is done, whatever becomes of this: never told as failed */
    *out = w->out;
    return 0;
}

int price_create(struct prices *p, const struct actor *by, const struct price_wish *wish, struct json_t **out,
                 struct err *e)
{
    struct change w = {.by = by, .wish = wish};
    return apply(p, run_create, &w, out, e);
}

int price_remove(struct prices *p, const struct actor *by, int64_t row, struct json_t **out, struct err *e)
{
    struct change w = {.by = by, .row = row};
    return apply(p, run_remove, &w, out, e);
}

struct list {
    const struct page *page;
    json_t *list;
    bool more;
};

static int read_page(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = COLUMNS "WHERE p.row > ?1 ORDER BY p.row LIMIT ?2",
                      back[] = COLUMNS "WHERE p.row < ?1 ORDER BY p.row DESC LIMIT ?2";
    struct list *x = u;
    int64_t at;
    if (page_number(x->page, &at, e)) return -1;
    sqlite3_stmt *st = db_stmt(d, c, page_back(x->page) ? back : sql, e);
    if (!st || db_bind(st, e, "ii", at, page_ask(x->page))) return -1;
    return page_rows(st, x->page, price_json, x->list, &x->more, e);
}

int price_list(struct prices *p, const struct page *page, struct json_t *list, bool *more, struct err *e)
{
    struct list x = {page, list, false};
    if (db_read(prices_db(p), read_page, &x, READ_MS, e)) return -1;
    *more = x.more;
    return 0;
}
