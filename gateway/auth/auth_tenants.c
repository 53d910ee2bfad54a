/* auth_tenants: tenants as rows, and what all changes here share (see auth_store.h and auth_change.h).
 *
 * Nothing is deleted: usage rows name tenants and keys for years. A tenant that is not wanted any more is disabled, and its keys with it. */
#include "base/clock.h"
#include "gateway/api/idempotency.h"
#include "gateway/api/revision.h"
#include "gateway/auth/auth_change.h"
#include <stdio.h>
#include <string.h>

#define TENANT_COLUMNS "SELECT name, id, weight, disabled, private, class, deadline_ms, revision, created FROM tenant "

/* --- shared --- */

json_t *row_seconds(sqlite3_stmt *st, int column)
{
    if (sqlite3_column_type(st, column) == SQLITE_NULL) return json_null();
    return json_integer(sqlite3_column_int64(st, column) / 1000000);
}

int row_get(struct db *d, sqlite3 *c, const char *sql, json_t *(*print)(sqlite3_stmt *), const char *key, json_t **out,
            struct err *e)
{
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "s", key)) return -1;
    int rc = db_row(st, e);
    json_t *v = rc == 1 ? print(st) : NULL;
    sqlite3_reset(st);
    if (rc < 0) return -1;
    if (rc == 1 && !v) return err_set(e, ERR_NO_MEMORY, "no memory for an object");
    *out = v;
    return 0;
}

int row_check_revision(const json_t *row, int64_t want, struct err *e)
{
    return revision_check(want ? want : REVISION_ANY, json_integer_value(json_object_get(row, "revision")), e);
}

int auth_note(struct db *d, sqlite3 *c, const struct change *w, const char *action, const char *object, struct err *e)
{
    return audit_add(d, c, &(struct audit){w->by, action, object, w->before, w->after}, e);
}

int change_apply(struct auth *a, int (*run)(struct db *, sqlite3 *, void *, struct err *), struct change *w,
                 json_t **out, struct err *e)
{
    int rc = db_write_wait(auth_db(a), run, w, e);
    if (rc == 0) rc = auth_reload(a, e);
    json_decref(w->before);
    if (rc == 0)
        *out = w->after;
    else
        json_decref(w->after);
    return rc;
}

struct privacy {
    const char *tenant;
    bool private;
};

static int read_privacy(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct privacy *p = u;
    sqlite3_stmt *st = db_stmt(d, c, "SELECT private FROM tenant WHERE id = ?1", e);
    if (!st || db_bind(st, e, "s", p->tenant)) return -1;
    int rc = db_row(st, e);
    p->private = rc == 1 && sqlite3_column_int(st, 0);
    sqlite3_reset(st);
    return rc == 0 ? err_set(e, ERR_NOT_FOUND, "there is no such tenant") : rc < 0 ? -1 : 0;
}

int auth_tenant_private(struct db *d, const char *tenant, bool *out, struct err *e)
{
    struct privacy p = {.tenant = tenant};
    if (db_read(d, read_privacy, &p, STORE_READ_MS, e)) return -1;
    *out = p.private;
    return 0;
}

static int read_page(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct row_page *p = u;
    json_t *tenant = NULL;
    if (p->tenant && tenant_need(d, c, p->tenant, &tenant, e)) return -1;
    json_decref(tenant);
    sqlite3_stmt *st = db_stmt(d, c, p->sql[page_back(p->page)], e);
    if (!st || db_bind(st, e, "sis", page_cursor(p->page), page_ask(p->page), p->tenant)) return -1;
    return page_rows(st, p->page, p->print, p->list, &p->more, e);
}

int row_page(struct auth *a, struct row_page *p, struct err *e)
{
    return db_read(auth_db(a), read_page, p, STORE_READ_MS, e);
}

/* --- tenants --- */

static json_t *tenant_json(sqlite3_stmt *st)
{
    bool deadline = sqlite3_column_type(st, 6) != SQLITE_NULL;
    return json_pack("{ss ss ss sf sb sb ss so sI so}", "object", "tenant", "name", db_text(st, 0), "id",
                     db_text(st, 1), "weight", sqlite3_column_double(st, 2), "disabled", sqlite3_column_int(st, 3),
                     "private", sqlite3_column_int(st, 4), "class", db_text(st, 5), "deadline_ms",
                     deadline ? json_integer(sqlite3_column_int64(st, 6)) : json_null(), "revision",
                     (json_int_t)sqlite3_column_int64(st, 7), "created_at", row_seconds(st, 8));
}

static const char sql_tenant[] = TENANT_COLUMNS "WHERE name = ?1";

int tenant_need(struct db *d, sqlite3 *c, const char *name, json_t **out, struct err *e)
{
    if (row_get(d, c, sql_tenant, tenant_json, name, out, e)) return -1;
    return *out ? 0 : err_set(e, ERR_NOT_FOUND, "There is no tenant '%.64s'.", name);
}

static int check_change(const struct tenant_change *t, struct err *e)
{
    static const char *const classes[] = {"interactive", "normal", "batch"};
    if (t->set_weight && !(t->weight >= WEIGHT_MIN && t->weight <= WEIGHT_MAX))
        return err_field(e, ERR_INVALID, "weight", "'weight' must be from %g to %g, not %g.", WEIGHT_MIN, WEIGHT_MAX,
                         t->weight);
    if (t->set_deadline && (t->deadline_ms < 0 || t->deadline_ms > DEADLINE_MAX_MS))
        return err_field(e, ERR_INVALID, "deadline_ms", "'deadline_ms' must be from 1 to %d, or null.",
                         DEADLINE_MAX_MS);
    if (!t->class) return 0;
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (strcmp(t->class, classes[i]) == 0) return 0;
    return err_field(e, ERR_INVALID, "class", "'class' must be interactive, normal or batch, not '%.40s'.", t->class);
}

struct tenant_write {
    struct change w; /* first: run() gets its address */
    const char *name;
    const struct tenant_change *set;
};

static int bind_change(sqlite3_stmt *st, const char *name, const struct tenant_change *t, struct err *e)
{
    return db_bind(st, e, "siiidiisii", name, (int64_t)t->set_disabled, (int64_t)t->disabled, (int64_t)t->set_weight,
                   t->weight, (int64_t)t->set_private, (int64_t)t->private, t->class, (int64_t)t->set_deadline,
                   t->deadline_ms);
}

static int set_fields(struct db *d, sqlite3 *c, const char *name, const struct tenant_change *t, struct err *e)
{
    static const char sql[] =
        "UPDATE tenant SET disabled = iif(?2, ?3, disabled), weight = iif(?4, ?5, weight), private = iif(?6, ?7, "
        "private),"
        " class = coalesce(?8, class), deadline_ms = iif(?9, nullif(?10, 0), deadline_ms) WHERE name = ?1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return st && bind_change(st, name, t, e) == 0 ? db_done(st, e) : -1;
}

static int run_add(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "INSERT INTO tenant(id, name, weight, created) VALUES(?1, ?2, 1, ?3)";
    struct tenant_write *t = u;
    json_t *there = NULL;
    if (row_get(d, c, sql_tenant, tenant_json, t->name, &there, e)) return -1;
    json_decref(there);
    if (there) return err_field(e, ERR_CONFLICT, "name", "A tenant '%s' exists already.", t->name);
    char id[UUID_LEN];
    uuid7(id);
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ssi", id, t->name, clock_wall_us()) || db_done(st, e) ||
        set_fields(d, c, t->name, t->set, e))
        return -1;
    if (tenant_need(d, c, t->name, &t->w.after, e)) return -1;
    if (auth_note(d, c, &t->w, "tenant.create", t->name, e)) return -1;
    return once_keep(d, c, t->w.by, 201, t->w.after, e);
}

int tenant_add(struct auth *a, const struct actor *by, const char *name, const struct tenant_change *first,
               json_t **out, struct err *e)
{
    if (!name_is_valid(name))
        return err_field(e, ERR_INVALID, "name",
                         "'name' must be 1 to %d of a-z 0-9 . _ -, beginning with a letter or digit.", NAME_MAX_LEN);
    if (check_change(first, e)) return -1;
    struct tenant_write t = {.w.by = by, .name = name, .set = first};
    return change_apply(a, run_add, &t.w, out, e);
}

static int run_update(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "UPDATE tenant SET revision = revision + 1 WHERE name = ?1";
    struct tenant_write *t = u;
    if (tenant_need(d, c, t->name, &t->w.before, e) || row_check_revision(t->w.before, t->set->revision, e)) return -1;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "s", t->name) || db_done(st, e) || set_fields(d, c, t->name, t->set, e)) return -1;
    if (tenant_need(d, c, t->name, &t->w.after, e)) return -1;
    return auth_note(d, c, &t->w, "tenant.update", t->name, e);
}

int tenant_update(struct auth *a, const struct actor *by, const char *name, const struct tenant_change *change,
                  json_t **out, struct err *e)
{
    if (check_change(change, e)) return -1;
    struct tenant_write t = {.w.by = by, .name = name, .set = change};
    return change_apply(a, run_update, &t.w, out, e);
}

int tenant_list(struct auth *a, const struct page *page, json_t *list, bool *more, struct err *e)
{
    static const char *const sql[] = {TENANT_COLUMNS "WHERE name > ?1 AND ?3 IS NULL ORDER BY name LIMIT ?2",
                                      TENANT_COLUMNS "WHERE name < ?1 AND ?3 IS NULL ORDER BY name DESC LIMIT ?2"};
    struct row_page p = {.sql = sql, .page = page, .print = tenant_json, .list = list};
    if (row_page(a, &p, e)) return -1;
    *more = p.more;
    return 0;
}

struct one {
    const char *name;
    json_t *out;
};

static int read_tenant(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct one *o = u;
    return tenant_need(d, c, o->name, &o->out, e);
}

int tenant_get(struct auth *a, const char *name, json_t **out, struct err *e)
{
    struct one o = {.name = name};
    if (db_read(auth_db(a), read_tenant, &o, STORE_READ_MS, e)) return -1;
    *out = o.out;
    return 0;
}
