/* auth_store: tenants and keys as rows (see auth_store.h).
 *
 * A change is a struct that travels to the writer thread, where it reads the row, changes it, reads it again, and notes both in the
 * audit trail, all in its savepoint; what it read last is the answer. So the answer, the trail and the row can't differ. Then the
 * caller's thread renews auth's snapshot. Nothing is deleted: usage rows name tenants and keys for years. */
#include "gateway/auth_store.h"
#include "base/clock.h"
#include "base/json.h"
#include <stdio.h>
#include <string.h>

#define READ_MS 2000
#define ROLES_BYTES 128

#define TENANT_COLUMNS "SELECT name, id, weight, disabled, created FROM tenant "
#define KEY_COLUMNS \
    "SELECT k.id, t.name, k.name, k.roles, k.created, k.created_by, k.expires, k.revoked, k.last_used, k.tenant FROM api_key k" \
    " LEFT JOIN tenant t ON t.id = k.tenant "

static json_t *seconds(sqlite3_stmt *st, int column)
{
    if (sqlite3_column_type(st, column) == SQLITE_NULL) return json_null();
    return json_integer(sqlite3_column_int64(st, column) / 1000000);
}

static json_t *tenant_json(sqlite3_stmt *st)
{
    return json_pack("{ss ss ss sf sb so}", "object", "tenant", "name", db_text(st, 0), "id", db_text(st, 1), "weight",
                     sqlite3_column_double(st, 2), "disabled", sqlite3_column_int(st, 3), "created_at", seconds(st, 4));
}

static json_t *roles_json(const char *roles)
{
    char words[ROLES_BYTES], *rest = words, *word;
    json_t *list = json_array();
    snprintf(words, sizeof words, "%s", roles);
    while ((word = strsep(&rest, ",")))
        if (*word) json_array_append_new(list, json_string(word));
    return list;
}

static json_t *key_json(sqlite3_stmt *st)
{
    bool admin = sqlite3_column_type(st, 9) == SQLITE_NULL;
    char shown[KEY_ID_LEN + 8];
    snprintf(shown, sizeof shown, "%s%s...", admin ? "wfa_" : "wft_", db_text(st, 0));
    return json_pack("{ss ss ss* ss ss so so ss so so so}", "object", "key", "id", db_text(st, 0), "tenant", admin ? NULL : db_text(st, 1),
                     "name", db_text(st, 2), "redacted", shown, "roles", roles_json(db_text(st, 3)), "created_at", seconds(st, 4),
                     "created_by", db_text(st, 5), "expires_at", seconds(st, 6), "revoked_at", seconds(st, 7), "last_used_at",
                     seconds(st, 8));
}

/* The row of one name or id as JSON: 0 with *out NULL when there is none. */
static int get_one(struct db *d, sqlite3 *c, const char *sql, json_t *(*print)(sqlite3_stmt *), const char *key, json_t **out, struct err *e)
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

static const char sql_tenant[] = TENANT_COLUMNS "WHERE name = ?1";
static const char sql_key[] = KEY_COLUMNS "WHERE k.id = ?1";

static int need_tenant(struct db *d, sqlite3 *c, const char *name, json_t **out, struct err *e)
{
    if (get_one(d, c, sql_tenant, tenant_json, name, out, e)) return -1;
    return *out ? 0 : err_set(e, ERR_NOT_FOUND, "There is no tenant '%.64s'.", name);
}

/* What every change carries to the writer thread. */
struct change {
    const struct actor *by;
    const char *name; /* tenant's */
    json_t *before, *after;
    union {
        double weight;
        const struct tenant_change *tenant;
        struct {
            const struct key_wish *wish;
            const struct new_key *fresh;
            char roles[ROLES_BYTES];
        } key;
        const char *id;
    } u;
};

static int note(struct db *d, sqlite3 *c, const struct change *w, const char *action, const char *object, struct err *e)
{
    return audit_add(d, c, &(struct audit){w->by, action, object, w->before, w->after}, e);
}

/* Sends the change to the writer; *out gets `after` once it is committed and in force. */
static int apply(struct auth *a, int (*run)(struct db *, sqlite3 *, void *, struct err *), struct change *w, json_t **out, struct err *e)
{
    int rc = db_write_wait(auth_db(a), run, w, e);
    if (rc == 0) rc = auth_reload(a, e);
    json_decref(w->before);
    if (rc == 0) *out = w->after;
    else json_decref(w->after);
    return rc;
}

static int run_tenant_create(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "INSERT INTO tenant(id, name, weight, created) VALUES(?1, ?2, ?3, ?4)";
    struct change *w = u;
    json_t *there = NULL;
    if (get_one(d, c, sql_tenant, tenant_json, w->name, &there, e)) return -1;
    json_decref(there);
    if (there) return err_field(e, ERR_CONFLICT, "name", "A tenant '%s' exists already.", w->name);
    char id[UUID_LEN];
    uuid7(id);
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ssdi", id, w->name, w->u.weight, clock_wall_us()) || db_done(st, e)) return -1;
    if (need_tenant(d, c, w->name, &w->after, e)) return -1;
    return note(d, c, w, "tenant.create", w->name, e);
}

static int check_weight(double weight, struct err *e)
{
    if (weight >= WEIGHT_MIN && weight <= WEIGHT_MAX) return 0;
    return err_field(e, ERR_INVALID, "weight", "'weight' must be from %g to %g, not %g.", WEIGHT_MIN, WEIGHT_MAX, weight);
}

int tenant_create(struct auth *a, const struct actor *by, const char *name, double weight, json_t **out, struct err *e)
{
    if (!name_is_valid(name))
        return err_field(e, ERR_INVALID, "name", "'name' must be 1 to %d of a-z 0-9 . _ -, beginning with a letter or digit.",
                         NAME_MAX_LEN);
    if (check_weight(weight, e)) return -1;
    struct change w = {.by = by, .name = name, .u.weight = weight};
    return apply(a, run_tenant_create, &w, out, e);
}

static int run_tenant_update(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "UPDATE tenant SET disabled = iif(?2, ?3, disabled), weight = iif(?4, ?5, weight) WHERE name = ?1";
    struct change *w = u;
    const struct tenant_change *t = w->u.tenant;
    if (need_tenant(d, c, w->name, &w->before, e)) return -1;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "siiid", w->name, (int64_t)t->set_disabled, (int64_t)t->disabled, (int64_t)t->set_weight, t->weight))
        return -1;
    if (db_done(st, e) || need_tenant(d, c, w->name, &w->after, e)) return -1;
    return note(d, c, w, "tenant.update", w->name, e);
}

int tenant_update(struct auth *a, const struct actor *by, const char *name, const struct tenant_change *change, json_t **out,
                  struct err *e)
{
    if (change->set_weight && check_weight(change->weight, e)) return -1;
    struct change w = {.by = by, .name = name, .u.tenant = change};
    return apply(a, run_tenant_update, &w, out, e);
}

static int join_roles(const struct key_wish *w, char out[ROLES_BYTES], struct err *e)
{
    unsigned scopes;
    size_t n = 0;
    if (w->nroles < 1) return err_field(e, ERR_MISSING, "roles", "'roles' must name at least one role.");
    for (int i = 0; i < w->nroles; i++) {
        if (!auth_role(w->role[i], !w->tenant, &scopes))
            return err_field(e, ERR_INVALID, "roles", "There is no role '%.40s' for %s; there are %s.", w->role[i],
                             w->tenant ? "a tenant's key" : "an admin key",
                             w->tenant ? "admin, writer, inference and billing" : "admin and viewer");
        n += (size_t)snprintf(out + n, ROLES_BYTES - n, "%s%s", i ? "," : "", w->role[i]); /* 8 known words fit */
    }
    return 0;
}

/* ?6 the tenant's name: its id is looked up in the same statement. */
static int insert_key(struct db *d, sqlite3 *c, const struct new_key *k, const char *tenant, const char *name, const char *roles,
                      const char *by, int64_t expires_s, struct err *e)
{
    static const char sql[] = "INSERT INTO api_key(id, hash, name, roles, created_by, tenant, created, expires)"
                              " VALUES(?1, ?2, ?3, ?4, ?5, (SELECT id FROM tenant WHERE name = ?6), ?7, nullif(?8, 0))";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "sbssssii", k->id, k->hash, name, roles, by, tenant, clock_wall_us(), expires_s * 1000000)) return -1;
    return db_done(st, e);
}

static int run_key_create(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct change *w = u;
    const struct key_wish *k = w->u.key.wish;
    json_t *tenant = NULL;
    if (k->tenant && need_tenant(d, c, k->tenant, &tenant, e)) return -1;
    json_decref(tenant);
    if (insert_key(d, c, w->u.key.fresh, k->tenant, k->name, w->u.key.roles, w->by->key, k->expires, e)) return -1;
    if (get_one(d, c, sql_key, key_json, w->u.key.fresh->id, &w->after, e)) return -1;
    return note(d, c, w, k->tenant ? "key.create" : "admin_key.create", w->u.key.fresh->id, e);
}

int key_create(struct auth *a, const struct actor *by, const struct key_wish *wish, json_t **out, struct err *e)
{
    struct new_key fresh;
    struct change w = {.by = by, .u.key = {.wish = wish, .fresh = &fresh}};
    if (join_roles(wish, w.u.key.roles, e) || auth_key_make(db_pepper(auth_db(a)), !wish->tenant, &fresh, e)) return -1;
    int rc = apply(a, run_key_create, &w, out, e);
    if (rc == 0) json_object_set_new(*out, "key", json_string(fresh.text));
    explicit_bzero(&fresh, sizeof fresh);
    return rc;
}

static int run_key_revoke(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "UPDATE api_key SET revoked = coalesce(revoked, ?2) WHERE id = ?1";
    struct change *w = u;
    if (get_one(d, c, sql_key, key_json, w->u.id, &w->before, e)) return -1;
    if (!w->before) return err_set(e, ERR_NOT_FOUND, "There is no key '%.16s'.", w->u.id);
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "si", w->u.id, clock_wall_us()) || db_done(st, e)) return -1;
    if (get_one(d, c, sql_key, key_json, w->u.id, &w->after, e)) return -1;
    return note(d, c, w, "key.revoke", w->u.id, e);
}

int key_revoke(struct auth *a, const struct actor *by, const char *id, json_t **out, struct err *e)
{
    struct change w = {.by = by, .u.id = id};
    return apply(a, run_key_revoke, &w, out, e);
}

struct page {
    const char *sql, *tenant, *after;
    json_t *(*print)(sqlite3_stmt *st);
    int limit;
    json_t *list;
    bool more;
};

static int read_page(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct page *p = u;
    json_t *tenant = NULL;
    if (p->tenant && need_tenant(d, c, p->tenant, &tenant, e)) return -1;
    json_decref(tenant);
    sqlite3_stmt *st = db_stmt(d, c, p->sql, e);
    if (!st || db_bind(st, e, "sis", p->after, (int64_t)p->limit + 1, p->tenant)) return -1;
    int rc = 0, n = 0;
    while ((rc = db_row(st, e)) == 1 && n++ < p->limit)
        if (json_array_append_new(p->list, p->print(st))) return err_set(e, ERR_NO_MEMORY, "no memory for a list");
    p->more = rc == 1;
    return rc < 0 ? -1 : 0;
}

int tenant_list(struct auth *a, const char *after, int limit, json_t *list, bool *more, struct err *e)
{
    static const char sql[] = TENANT_COLUMNS "WHERE name > ?1 AND ?3 IS NULL ORDER BY name LIMIT ?2";
    struct page p = {.sql = sql, .after = after, .print = tenant_json, .limit = limit, .list = list};
    if (db_read(auth_db(a), read_page, &p, READ_MS, e)) return -1;
    *more = p.more;
    return 0;
}

int key_list(struct auth *a, const char *tenant, const char *after, int limit, json_t *list, bool *more, struct err *e)
{
    static const char of_tenant[] = KEY_COLUMNS "WHERE k.tenant = (SELECT id FROM tenant WHERE name = ?3) AND k.id > ?1 ORDER BY k.id LIMIT ?2";
    static const char of_nobody[] = KEY_COLUMNS "WHERE k.tenant IS NULL AND k.id > ?1 AND ?3 IS NULL ORDER BY k.id LIMIT ?2";
    struct page p = {.sql = tenant ? of_tenant : of_nobody, .tenant = tenant, .after = after, .print = key_json, .limit = limit, .list = list};
    if (db_read(auth_db(a), read_page, &p, READ_MS, e)) return -1;
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
    return need_tenant(d, c, o->name, &o->out, e);
}

int tenant_get(struct auth *a, const char *name, json_t **out, struct err *e)
{
    struct one o = {.name = name};
    if (db_read(auth_db(a), read_tenant, &o, READ_MS, e)) return -1;
    *out = o.out;
    return 0;
}

struct first {
    struct new_key key;
    bool only_first, made;
};

static int run_first(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char any[] = "SELECT 1 FROM api_key WHERE tenant IS NULL AND revoked IS NULL AND ',' || roles || ',' LIKE '%,admin,%'"
                              " AND (expires IS NULL OR expires > ?1) LIMIT 1";
    static const struct actor local = {"local", "", ""};
    struct first *f = u;
    sqlite3_stmt *st = db_stmt(d, c, any, e);
    if (!st || db_bind(st, e, "i", clock_wall_us())) return -1;
    int there = db_row(st, e);
    sqlite3_reset(st);
    if (there < 0) return -1;
    if (there && f->only_first) return 0;
    if (insert_key(d, c, &f->key, NULL, "made on the command line", "admin", local.key, 0, e)) return -1;
    struct change w = {.by = &local};
    int rc = get_one(d, c, sql_key, key_json, f->key.id, &w.after, e);
    if (rc == 0) rc = note(d, c, &w, "admin_key.create", f->key.id, e);
    json_decref(w.after);
    f->made = rc == 0;
    return rc;
}

static int make_admin_key(struct db *d, bool only_first, char key_text[KEY_TEXT_LEN], struct err *e)
{
    struct first f = {.only_first = only_first};
    if (auth_key_make(db_pepper(d), true, &f.key, e)) return -1;
    int rc = db_write_wait(d, run_first, &f, e);
    if (rc == 0) snprintf(key_text, KEY_TEXT_LEN, "%s", f.made ? f.key.text : "");
    explicit_bzero(&f, sizeof f);
    return rc;
}

int auth_first_admin_key(struct db *d, char key_text[KEY_TEXT_LEN], struct err *e) { return make_admin_key(d, true, key_text, e); }

int auth_new_admin_key(struct db *d, char key_text[KEY_TEXT_LEN], struct err *e) { return make_admin_key(d, false, key_text, e); }
