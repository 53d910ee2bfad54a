/* alias_change: an alias is made, replaced, put back, removed, each in one transaction with its entry and its event.
 *
 * What a body says is read into a draft (alias_draft.c), and a draft is written as JSON with all its fields: this is the answer, what is
 * compared (a PUT of what stands is no change that a rollback could undo, and has no entry), and what stands in `previous` for a rollback, which is a PUT of
 * it. A rollback is a change as well, so a second one undoes the first.
 *
 * A target must be able to serve when it is set: a version that is ready, an adapter that has one, a base that is
 * served. From then on it can't be removed or archived (registry_remove.c); a quarantine may still take it.
 *
 *     alias.create  TENANT/NAME   after: targets, policy, sticky, and of the prefix its SHA-256: it may be a secret
 *     alias.update  TENANT/NAME   before, after
 *     alias.remove  TENANT/NAME   before */
#include "base/clock.h"
#include "base/json.h"
#include "gateway/api/idempotency.h"
#include "gateway/api/page.h"
#include "gateway/api/revision.h"
#include "gateway/live/event.h"
#include "gateway/registry/alias_draft.h"
#include "gateway/registry/alias_parts.h"
#include "gateway/registry/registry_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_MS 2000
#define TEXT_MAX (1u << 20) /* bytes of an alias, or of one of its parts, as JSON: more than draft_read() lets pass */

/* --- what stands --- */

struct row {
    int64_t row, revision, created, changed; /* row 0: there is none */
    json_t *body;                            /* as a draft */
    json_t *previous;                        /* or NULL */
};

static void row_close(struct row *x)
{
    json_decref(x->body);
    json_decref(x->previous);
    *x = (struct row){0};
}

static int add_targets(struct db *d, sqlite3 *c, int64_t alias, json_t *list, struct err *e)
{
    static const char sql[] = "SELECT coalesce(a.name, ''), t.version, t.base, t.weight FROM alias_target t"
                              " LEFT JOIN adapter a ON a.row = t.adapter WHERE t.alias = ?1 ORDER BY t.position";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "i", alias)) return -1;
    int rc;
    while ((rc = db_row(st, e)) == 1)
        if (json_array_append_new(list, draft_target_json(db_text(st, 0), sqlite3_column_int64(st, 1), db_text(st, 2),
                                                    sqlite3_column_int64(st, 3))))
            return err_set(e, ERR_NO_MEMORY, "no memory for an alias");
    return rc;
}

/* ALIAS_PART_COLUMNS from `column` on. */
static int read_parts(sqlite3_stmt *st, int column, json_t *body, struct err *e)
{
    for (int i = 0; i < ALIAS_PARTS; i++) {
        const char *text = db_text(st, column + i);
        json_t *part = NULL;
        if (*text && json_parse(text, strlen(text), &part, e)) return -1;
        if (json_object_set_new(body, alias_part_row[i].field, part ? part : json_null()))
            return err_set(e, ERR_NO_MEMORY, "no memory for a part of an alias");
    }
    return 0;
}

static int find_row(struct db *d, sqlite3 *c, const char *tenant, const char *name, struct row *x, struct err *e)
{
    static const char sql[] =
        "SELECT row, revision, created, changed, policy, sticky, system_prefix, previous, " ALIAS_PART_COLUMNS " FROM alias l"
        " WHERE tenant = ?1 AND name = ?2";
    row_close(x);
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st && db_bind(st, e, "ss", tenant, name) == 0 ? db_row(st, e) : -1;
    if (rc == 1) {
        const char *was = db_text(st, 7);
        *x = (struct row){sqlite3_column_int64(st, 0),
                          sqlite3_column_int64(st, 1),
                          sqlite3_column_int64(st, 2),
                          sqlite3_column_int64(st, 3),
                          NULL,
                          NULL};
        x->body = json_pack("{s[] ss ss ss}", "targets", "policy", db_text(st, 4), "sticky", db_text(st, 5), "system_prefix", db_text(st, 6));
        if (read_parts(st, 8, x->body, e)) rc = -1;
        if (rc == 1 && *was && json_parse(was, strlen(was), &x->previous, e)) rc = -1;
    }
    if (st) sqlite3_reset(st);
    if (rc == 1 && add_targets(d, c, x->row, json_object_get(x->body, "targets"), e)) rc = -1;
    return rc < 0 ? -1 : 0;
}

/* The object that clients see. Takes nothing over. */
static json_t *alias_json(const char *name, const struct row *x)
{
    json_t *o = json_pack("{ss ss ss sI sI sI sb}", "id", name, "object", "alias", "name", name, "revision",
                          (json_int_t)x->revision, "created_at", (json_int_t)(x->created / 1000000), "changed_at",
                          (json_int_t)(x->changed / 1000000), "can_roll_back", x->previous != NULL);
    if (o) json_object_update(o, x->body);
    return o;
}

/* The SHA-256 in hexadecimal; "" of nothing. */
static json_t *hash_of(const char *s, size_t n)
{
    char hex[SHA256_HEX] = "";
    uint8_t sum[SHA256_BYTES];
    if (n) {
        sha256_of(s, n, sum);
        sha256_hex(sum, hex);
    }
    return json_string(hex);
}

/* A part without the texts that may be secrets. NULL, here and below: no memory. */
static json_t *entry_part(const struct alias_part_row *row, const json_t *part)
{
    char name[64];
    struct buf text;
    json_t *o = json_copy_top(part), *secret = row->secret ? json_object_get(part, row->secret) : NULL;
    if (!o || !secret) return o;
    buf_init(&text, TEXT_MAX);
    snprintf(name, sizeof name, "%s_sha256", row->secret);
    json_object_del(o, row->secret);
    json_object_put(&o, name, json_dump(secret, true, &text) ? NULL : hash_of(text.data, text.len));
    buf_close(&text);
    return o;
}

/* Without the prefix's text, nor the parts' secrets. */
static json_t *entry_json(const json_t *body)
{
    json_t *o = json_copy_top(body), *prefix = json_object_get(body, "system_prefix");
    if (o) json_object_del(o, "system_prefix");
    if (o) json_object_put(&o, "system_prefix_sha256", hash_of(json_string_value(prefix), json_string_length(prefix)));
    for (int i = 0; o && i < ALIAS_PARTS; i++) {
        const struct alias_part_row *row = &alias_part_row[i];
        const json_t *part = json_object_get(body, row->field);
        if (json_is_object(part)) json_object_put(&o, row->field, entry_part(row, part));
    }
    return o;
}

/* --- writing --- */

struct putting {
    struct subject s;
    int64_t want;
    const json_t *body; /* NULL: roll back */
    bool (*served)(void *u, const char *base);
    void *u;
    struct row now;
    bool created;
};

/* The adapter's row that a target names, and it can serve. */
static int find_target(struct db *d, sqlite3 *c, const struct putting *p, const struct draft_target *t,
                       int64_t *adapter, struct err *e)
{
    static const char sql[] =
        "SELECT a.row FROM adapter a JOIN version v ON v.adapter = a.row WHERE a.tenant = ?1 AND a.name = ?2"
        " AND (?3 = 0 OR v.version = ?3) AND v.state = 'ready' LIMIT 1";
    *adapter = 0;
    if (*t->base)
        return p->served(p->u, t->base) ? 0
                                        : err_field(e, ERR_INVALID, "targets", "There is no base '%.127s'.", t->base);
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st && db_bind(st, e, "ssi", p->s.tenant, t->adapter, t->version) == 0 ? db_row(st, e) : -1;
    if (rc == 1) *adapter = sqlite3_column_int64(st, 0);
    if (st) sqlite3_reset(st);
    if (rc == 0 && t->version)
        return err_field(e, ERR_INVALID, "targets", "'%.64s@%lld' is no version that is ready.", t->adapter,
                         (long long)t->version);
    if (rc == 0)
        return err_field(e, ERR_INVALID, "targets", "'%.64s' is no adapter with a version that is ready.", t->adapter);
    return rc < 0 ? -1 : 0;
}

static int write_targets(struct db *d, sqlite3 *c, const struct putting *p, const struct draft *f, struct err *e)
{
    static const char clear[] = "DELETE FROM alias_target WHERE alias = ?1";
    static const char sql[] = "INSERT INTO alias_target(alias, position, adapter, version, base, weight)"
                              " VALUES(?1, ?2, nullif(?3, 0), ?4, ?5, ?6)";
    sqlite3_stmt *st = db_stmt(d, c, clear, e);
    if (!st || db_bind(st, e, "i", p->now.row) || db_done(st, e)) return -1;
    for (int i = 0; i < f->n; i++) {
        const struct draft_target *t = &f->target[i];
        int64_t adapter;
        if (find_target(d, c, p, t, &adapter, e)) return -1;
        if (!(st = db_stmt(d, c, sql, e)) ||
            db_bind(st, e, "iiiisi", p->now.row, (int64_t)i, adapter, t->version, t->base, t->weight) || db_done(st, e))
            return -1;
    }
    return 0;
}

/* With the new one among them: what was written is undone where there are too many. */
static int check_room(struct db *d, sqlite3 *c, const char *tenant, struct err *e)
{
    static const char sql[] = "SELECT count(*) FROM (SELECT 1 FROM alias WHERE tenant = ?1 LIMIT ?2)";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "si", tenant, (int64_t)ALIASES_TENANT_MAX + 1) || db_row(st, e) != 1) return -1;
    bool fits = sqlite3_column_int64(st, 0) <= ALIASES_TENANT_MAX;
    sqlite3_reset(st);
    return fits ? 0 : err_set(e, ERR_CONFLICT, "The tenant has %d aliases already, and may have no more; remove some.", ALIASES_TENANT_MAX);
}

static int write_row(struct db *d, sqlite3 *c, struct putting *p, const struct draft *f, struct err *e)
{
    static const char fresh[] =
        "INSERT INTO alias(tenant, name, policy, sticky, system_prefix, previous, created, changed)"
        " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)";
    static const char change[] =
        "UPDATE alias SET policy = ?3, sticky = ?4, system_prefix = ?5, previous = ?6, changed = ?7,"
        " revision = revision + 1 WHERE tenant = ?1 AND name = ?2";
    struct buf was;
    buf_init(&was, TEXT_MAX);
    int rc = p->now.row && json_dump(p->now.body, true, &was);
    sqlite3_stmt *st = rc ? NULL : db_stmt(d, c, p->now.row ? change : fresh, e);
    rc = st && db_bind(st, e, "ssssssi", p->s.tenant, p->s.name, alias_policy_name[f->policy],
                       alias_sticky_name[f->sticky], f->prefix, was.data, clock_wall_us()) == 0
             ? db_done(st, e)
             : err_set(e, ERR_NO_MEMORY, "no memory for an alias");
    buf_close(&was);
    if (rc || p->now.row) return rc;
    p->now.row = sqlite3_last_insert_rowid(c);
    return check_room(d, c, p->s.tenant, e);
}

static int write_parts(struct db *d, sqlite3 *c, const struct putting *p, const struct draft *f, struct err *e)
{
    int rc = 0;
    for (int i = 0; rc == 0 && i < ALIAS_PARTS; i++) {
        struct buf text;
        buf_init(&text, TEXT_MAX);
        sqlite3_stmt *st = db_stmt(d, c, alias_part_row[i].set, e);
        if (f->part[i] && json_dump(f->part[i], true, &text)) rc = err_set(e, ERR_NO_MEMORY, "no memory for an alias");
        if (rc == 0 && (!st || db_bind(st, e, "is", p->now.row, f->part[i] ? text.data : "") || db_done(st, e))) rc = -1;
        buf_close(&text);
    }
    return rc;
}

/* The entry and the event of a change; before or after is NULL where there was, or is, no alias. */
static int note_alias(struct db *d, sqlite3 *c, const struct subject *s, const char *action, const json_t *before,
                      const json_t *after, struct err *e)
{
    json_t *was = before ? entry_json(before) : NULL, *is = after ? entry_json(after) : NULL;
    int rc = (before && !was) || (after && !is) ? err_set(e, ERR_NO_MEMORY, "no memory for an audit entry") : 0;
    if (rc == 0) rc = event_add(d, c, s->tenant, after ? "alias.changed" : "alias.removed", s->name, after ? is : was, e);
    if (rc == 0) return registry_note(d, c, s, 0, action, was, is, e); /* takes both over */
    json_decref(was);
    json_decref(is);
    return -1;
}

/* The same again: a new revision, as any PUT gives, but what a rollback goes back to stays. */
static int confirm(struct db *d, sqlite3 *c, struct putting *p, struct err *e)
{
    static const char sql[] = "UPDATE alias SET revision = revision + 1 WHERE row = ?1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return !st || db_bind(st, e, "i", p->now.row) || db_done(st, e) ? -1 : 0;
}

/* A part that needs more than the right to write: set as it stands it is no change, and taken away it is everybody's. */
static int check_parts(const struct putting *p, const struct draft *f, struct err *e)
{
    for (int i = 0; i < ALIAS_PARTS; i++) {
        const struct alias_part_row *row = &alias_part_row[i];
        if (!f->part[i] || !row->scope || p->s.by->scopes & (row->scope | SCOPE_ADMIN) || json_equal(f->part[i], json_object_get(p->now.body, row->field))) continue;
        return err_field(e, ERR_FORBIDDEN, row->field, "'%s' is set by a key of the role admin, or by the operator.", row->field);
    }
    return 0;
}

static int change(struct db *d, sqlite3 *c, struct putting *p, const struct draft *f, const json_t *was,
                  const json_t *is, struct err *e)
{
    if (was && json_equal(was, is)) return confirm(d, c, p, e);
    if (check_parts(p, f, e) || write_row(d, c, p, f, e) || write_parts(d, c, p, f, e) || write_targets(d, c, p, f, e)) return -1;
    return note_alias(d, c, &p->s, p->created ? "alias.create" : "alias.update", was, is, e);
}

static int apply(struct db *d, sqlite3 *c, struct putting *p, const json_t *body, struct err *e)
{
    struct draft f;
    if (draft_read(body, &f, e)) return -1;
    json_t *is = draft_json(&f), *was = json_incref(p->now.body);
    p->created = !p->now.row;
    int rc = is ? change(d, c, p, &f, was, is, e) : err_set(e, ERR_NO_MEMORY, "no memory for an alias");
    if (rc == 0) rc = find_row(d, c, p->s.tenant, p->s.name, &p->now, e);
    json_decref(is);
    json_decref(was);
    draft_close(&f);
    return rc;
}

/* To `previous`, by the rules of a PUT: what it names may be gone by now, which is no fault of the request's body. */
static int roll_back(struct db *d, sqlite3 *c, struct putting *p, struct err *e)
{
    struct err why = {0};
    json_t *back = json_incref(p->now.previous);
    if (!back)
        return err_set(e, ERR_CONFLICT, "The alias '%.64s' has not been changed: there is nothing to go back to.",
                       p->s.name);
    int rc = apply(d, c, p, back, &why);
    json_decref(back);
    if (rc) return err_set(e, why.code == ERR_INVALID ? ERR_CONFLICT : why.code, "%s", why.msg);
    /* A second rollback would undo it: asked again with the same Idempotency-Key, it is answered from this. */
    json_t *answer = alias_json(p->s.name, &p->now);
    rc = answer ? once_keep(d, c, p->s.by, 200, answer, e) : err_set(e, ERR_NO_MEMORY, "no memory for an alias");
    json_decref(answer);
    return rc;
}

static int run_put(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct putting *p = u;
    if (find_row(d, c, p->s.tenant, p->s.name, &p->now, e)) return -1;
    if (!p->body && !p->now.row) return err_set(e, ERR_NOT_FOUND, "There is no alias '%.64s'.", p->s.name);
    if (revision_check(p->want, p->now.revision, e)) return -1;
    return p->body ? apply(d, c, p, p->body, e) : roll_back(d, c, p, e);
}

static int put(struct registry *r, struct putting *p, struct json_t **out, struct err *e)
{
    int rc = db_write_wait(r->db, run_put, p, e) || registry_reload(r, e) ? -1 : 0;
    json_t *o = rc ? NULL : alias_json(p->s.name, &p->now);
    if (rc == 0 && !o) rc = err_set(e, ERR_NO_MEMORY, "no memory for an alias");
    row_close(&p->now);
    if (rc == 0) *out = o;
    return rc;
}

int alias_put(struct registry *r, const struct actor *by, const struct alias_put *p, struct json_t **out, bool *created,
              struct err *e)
{
    struct putting x = {
        .s = {by, p->tenant, p->name}, .want = p->want, .body = p->body, .served = p->served, .u = p->u};
    struct draft f;
    if (!name_is_valid(p->name))
        return err_field(e, ERR_INVALID, "name",
                         "an alias's name is 1 to %d characters of a-z 0-9 . _ -, the first a letter or digit",
                         NAME_MAX_LEN);
    if (p->served(p->u, p->name))
        return err_field(e, ERR_CONFLICT, "name", "'%s' is the name of a base model.", p->name);
    if (draft_read(p->body, &f, e)) return -1;
    draft_close(&f);
    if (put(r, &x, out, e)) return -1;
    *created = x.created;
    return 0;
}

int alias_rollback(struct registry *r, const struct actor *by, const char *tenant, const char *name, int64_t want,
                   bool (*served)(void *u, const char *base), void *u, struct json_t **out, struct err *e)
{
    struct putting x = {.s = {by, tenant, name}, .want = want, .served = served, .u = u};
    return put(r, &x, out, e);
}

static int run_delete(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "DELETE FROM alias WHERE row = ?1";
    struct putting *p = u;
    if (find_row(d, c, p->s.tenant, p->s.name, &p->now, e)) return -1;
    if (!p->now.row) return err_set(e, ERR_NOT_FOUND, "There is no alias '%.64s'.", p->s.name);
    if (revision_check(p->want, p->now.revision, e)) return -1;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "i", p->now.row) || db_done(st, e)) return -1;
    return note_alias(d, c, &p->s, "alias.remove", p->now.body, NULL, e);
}

int alias_delete(struct registry *r, const struct actor *by, const char *tenant, const char *name, int64_t want,
                 struct err *e)
{
    struct putting x = {.s = {by, tenant, name}, .want = want};
    int rc = db_write_wait(r->db, run_delete, &x, e);
    row_close(&x.now);
    return rc ? -1 : registry_reload(r, e);
}

/* --- reading --- */

struct reading {
    const char *tenant, *name;
    const struct page *page;
    json_t *out;
    bool more;
};

static int read_one(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct reading *x = u;
    struct row row = {0};
    int rc = find_row(d, c, x->tenant, x->name, &row, e);
    if (rc == 0 && !row.row) rc = err_set(e, ERR_NOT_FOUND, "There is no alias '%.64s'.", x->name);
    if (rc == 0 && !(x->out = alias_json(x->name, &row))) rc = err_set(e, ERR_NO_MEMORY, "no memory for an alias");
    row_close(&row);
    return rc;
}

int alias_get(struct registry *r, const char *tenant, const char *name, struct json_t **out, struct err *e)
{
    struct reading x = {.tenant = tenant, .name = name};
    if (db_read(r->db, read_one, &x, READ_MS, e)) {
        json_decref(x.out);
        return -1;
    }
    *out = x.out;
    return 0;
}

static json_t *print_name(sqlite3_stmt *st)
{
    return json_string(db_text(st, 0));
}

/* The names of the page, then each of them: an alias is two queries. */
static int read_page(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT name FROM alias WHERE tenant = ?3 AND name > ?1 ORDER BY name LIMIT ?2";
    static const char back[] =
        "SELECT name FROM alias WHERE tenant = ?3 AND (?1 = '' OR name < ?1) ORDER BY name DESC LIMIT ?2";
    struct reading *x = u;
    json_t *names = json_array(), *name;
    size_t i;
    sqlite3_stmt *st = db_stmt(d, c, page_back(x->page) ? back : sql, e);
    int rc = st && db_bind(st, e, "sis", page_cursor(x->page), page_ask(x->page), x->tenant) == 0
                 ? page_rows(st, x->page, print_name, names, &x->more, e)
                 : -1;
    json_array_foreach(names, i, name)
    {
        struct reading one = {.tenant = x->tenant, .name = json_string_value(name)};
        if (rc == 0) rc = read_one(d, c, &one, e);
        if (rc == 0) json_array_append_new(x->out, one.out);
    }
    json_decref(names);
    return rc;
}

int alias_list(struct registry *r, const char *tenant, const struct page *p, struct json_t *list, bool *more,
               struct err *e)
{
    struct reading x = {.tenant = tenant, .page = p, .out = list};
    if (db_read(r->db, read_page, &x, READ_MS, e)) return -1;
    *more = x.more;
    return 0;
}
