/* registry_change: versions come and go, each with its row in the audit trail.
 *
 * A change runs on the writer thread in one transaction (see gateway/db.h): the rows of `adapter` and `version` and
 * those of `audit` are there together or not at all. Every row that appears, changes or goes has an entry of its own,
 * in the order in which it happened:
 *
 *     adapter.create  TENANT/NAME           after: description
 *     adapter.update  TENANT/NAME           before, after: description
 *     version.create  TENANT/NAME@VERSION   after: what identifies the bytes
 *     version.remove  TENANT/NAME@VERSION   before: the same
 *     adapter.remove  TENANT/NAME           before: description
 *
 * Nothing changed, nothing noted: the same bytes under the same name again leave no entry. One entry per version, not
 * one list of them, for an entry's object is bounded and an adapter's versions are many.
 *
 * The caller blocks until the new snapshot is in force. Any thread but the writer's and the event threads. */
#include "base/clock.h"
#include "base/json.h"
#include "gateway/registry_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OBJECT_MAX (2 * NAME_MAX_LEN + 16) /* TENANT/NAME@VERSION */

/* Whose adapter of which name a change is about, and who makes it. */
struct subject {
    const struct actor *by;
    const char *tenant, *name; /* the tenant's id; the adapter's name */
};

static int print_object(struct db *d, sqlite3 *c, const struct subject *s, int version, char out[OBJECT_MAX],
                        struct err *e)
{
    static const char sql[] = "SELECT name FROM tenant WHERE id = ?1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st && db_bind(st, e, "s", s->tenant) == 0 ? db_row(st, e) : -1;
    if (rc == 1 && version)
        snprintf(out, OBJECT_MAX, "%s/%s@%d", db_text(st, 0), s->name, version);
    else if (rc == 1)
        snprintf(out, OBJECT_MAX, "%s/%s", db_text(st, 0), s->name);
    if (st) sqlite3_reset(st);
    if (rc == 0) return err_set(e, ERR_NOT_FOUND, "There is no tenant with the id '%.40s'.", s->tenant);
    return rc < 0 ? -1 : 0;
}

/* One entry of the trail; version 0: about the adapter. Takes over before and after, of which one may be absent. */
static int note(struct db *d, sqlite3 *c, const struct subject *s, int version, const char *action, json_t *before,
                json_t *after, struct err *e)
{
    char object[OBJECT_MAX];
    int rc = before || after ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for an audit entry");
    if (rc == 0) rc = print_object(d, c, s, version, object, e);
    if (rc == 0) rc = audit_add(d, c, &(struct audit){s->by, action, object, before, after}, e);
    json_decref(before);
    json_decref(after);
    return rc;
}

static json_t *adapter_entry(const char *description)
{
    return json_pack("{ss}", "description", description);
}

static json_t *version_entry(const char *digest, const char *base, int64_t rank, int64_t bytes)
{
    return json_pack("{ss ss sI sI}", "digest", digest, "base", base, "rank", (json_int_t)rank, "bytes",
                     (json_int_t)bytes);
}

/* --- adding --- */

struct adding {
    struct subject s;
    const struct version_new *v;
    int version;
    bool created;
};

static int create_adapter(struct db *d, sqlite3 *c, const struct adding *a, struct err *e)
{
    static const char sql[] = "INSERT INTO adapter(tenant, name, description, created) VALUES(?1, ?2, ?3, ?4)";
    const char *description = a->v->description ? a->v->description : "";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "sssi", a->s.tenant, a->s.name, description, clock_wall_us()) || db_done(st, e))
        return -1;
    return note(d, c, &a->s, 0, "adapter.create", NULL, adapter_entry(description), e);
}

static int describe_adapter(struct db *d, sqlite3 *c, const struct adding *a, const char *was, struct err *e)
{
    static const char sql[] = "UPDATE adapter SET description = ?3 WHERE tenant = ?1 AND name = ?2";
    json_t *before = adapter_entry(was); /* before the statement that `was` belongs to is used again */
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "sss", a->s.tenant, a->s.name, a->v->description) || db_done(st, e)) {
        json_decref(before);
        return -1;
    }
    return note(d, c, &a->s, 0, "adapter.update", before, adapter_entry(a->v->description), e);
}

/* The adapter's row as it shall be. */
static int settle_adapter(struct db *d, sqlite3 *c, const struct adding *a, struct err *e)
{
    static const char sql[] = "SELECT description FROM adapter WHERE tenant = ?1 AND name = ?2";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ss", a->s.tenant, a->s.name)) return -1;
    int rc = db_row(st, e);
    if (rc == 0) return create_adapter(d, c, a, e);
    bool differs = rc == 1 && a->v->description && strcmp(a->v->description, db_text(st, 0)) != 0;
    if (differs) rc = describe_adapter(d, c, a, db_text(st, 0), e);
    sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

static int find_adapter(struct db *d, sqlite3 *c, const struct subject *s, int64_t *row, int *next, struct err *e)
{
    static const char sql[] = "SELECT row, next_version FROM adapter WHERE tenant = ?1 AND name = ?2";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ss", s->tenant, s->name) || db_row(st, e) != 1) return -1;
    *row = sqlite3_column_int64(st, 0);
    *next = sqlite3_column_int(st, 1);
    sqlite3_reset(st);
    return 0;
}

static int insert_version(struct db *d, sqlite3 *c, const struct adding *a, int64_t adapter, struct err *e)
{
    static const char sql[] =
        "INSERT INTO version(adapter, version, state, digest, file_sha256, base, rank, modules, scale, bytes, created,"
        " kind) VALUES(?1, ?2, 'ready', ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    static const char next[] = "UPDATE adapter SET next_version = ?2 + 1 WHERE row = ?1";
    const struct version_new *v = a->v;
    int64_t version = a->version;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st ||
        db_bind(st, e, "iisssiidiis", adapter, version, v->digest, v->file_sha256, v->base, (int64_t)v->rank,
                (int64_t)v->modules, v->scale, v->bytes, clock_wall_us(), v->kind ? v->kind : "lora") ||
        db_done(st, e))
        return -1;
    if (!(st = db_stmt(d, c, next, e)) || db_bind(st, e, "ii", adapter, version) || db_done(st, e)) return -1;
    return note(d, c, &a->s, a->version, "version.create", NULL, version_entry(v->digest, v->base, v->rank, v->bytes),
                e);
}

static int run_add(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char same[] = "SELECT version FROM version WHERE adapter = ?1 AND digest = ?2";
    struct adding *a = u;
    int64_t row;
    int next;
    if (settle_adapter(d, c, a, e) || find_adapter(d, c, &a->s, &row, &next, e)) return -1;
    sqlite3_stmt *st = db_stmt(d, c, same, e);
    if (!st || db_bind(st, e, "is", row, a->v->digest)) return -1;
    int rc = db_row(st, e);
    a->created = rc == 0;
    a->version = rc == 1 ? sqlite3_column_int(st, 0) : next;
    sqlite3_reset(st);
    return rc == 0 ? insert_version(d, c, a, row, e) : rc < 0 ? -1 : 0;
}

int registry_add(struct registry *r, const struct actor *by, const struct version_new *v, int *version, bool *created,
                 struct err *e)
{
    struct adding a = {.s = {by, v->tenant, v->name}, .v = v};
    if (!name_is_valid(v->name))
        return err_field(e, ERR_INVALID, "name",
                         "'name' must be 1 to %d of a-z 0-9 . _ -, beginning with a letter or digit.", NAME_MAX_LEN);
    if (strcmp(v->name, v->base) == 0)
        return err_field(e, ERR_CONFLICT, "name", "'%s' is the name of the base model.", v->name);
    if (!sha256_is_hex(v->digest) || !sha256_is_hex(v->file_sha256))
        return err_set(e, ERR_INTERNAL, "a version needs its digests");
    if (db_write_wait(r->db, run_add, &a, e)) return -1;
    *version = a.version;
    *created = a.created;
    return registry_reload(r, e);
}

/* --- removing --- */

struct removing {
    struct subject s;
    int version;                /* 0: all */
    char (*digest)[SHA256_HEX]; /* of the removed versions, then of the orphans only */
    int n, cap;
};

static int keep_digest(struct removing *x, const char *digest, struct err *e)
{
    if (x->n == x->cap) {
        int cap = x->cap ? 2 * x->cap : 8;
        char(*bigger)[SHA256_HEX] = realloc(x->digest, (size_t)cap * sizeof *bigger);
        if (!bigger) return err_set(e, ERR_NO_MEMORY, "no memory for %d digests", cap);
        x->digest = bigger;
        x->cap = cap;
    }
    snprintf(x->digest[x->n++], SHA256_HEX, "%s", digest);
    return 0;
}

/* Each version that goes: its digest is kept, its entry written. */
static int note_versions(struct db *d, sqlite3 *c, struct removing *x, struct err *e)
{
    static const char sql[] =
        "SELECT v.version, v.digest, v.base, v.rank, v.bytes FROM adapter a JOIN version v ON v.adapter = a.row"
        " WHERE a.tenant = ?1 AND a.name = ?2 AND (?3 = 0 OR v.version = ?3) ORDER BY v.version";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ssi", x->s.tenant, x->s.name, (int64_t)x->version)) return -1;
    int rc;
    while ((rc = db_row(st, e)) == 1) {
        json_t *was =
            version_entry(db_text(st, 1), db_text(st, 2), sqlite3_column_int64(st, 3), sqlite3_column_int64(st, 4));
        if (note(d, c, &x->s, sqlite3_column_int(st, 0), "version.remove", was, NULL, e) ||
            keep_digest(x, db_text(st, 1), e))
            return -1;
    }
    return rc;
}

static int note_adapter(struct db *d, sqlite3 *c, const struct subject *s, struct err *e)
{
    static const char sql[] = "SELECT description FROM adapter WHERE tenant = ?1 AND name = ?2";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ss", s->tenant, s->name)) return -1;
    int rc = db_row(st, e);
    if (rc == 1) rc = note(d, c, s, 0, "adapter.remove", adapter_entry(db_text(st, 0)), NULL, e);
    sqlite3_reset(st);
    return rc;
}

static int keep_orphans(struct db *d, sqlite3 *c, struct removing *x, struct err *e)
{
    static const char sql[] = "SELECT 1 FROM version WHERE digest = ?1 LIMIT 1";
    int kept = 0;
    for (int i = 0; i < x->n; i++) {
        sqlite3_stmt *st = db_stmt(d, c, sql, e);
        int rc = st && db_bind(st, e, "s", x->digest[i]) == 0 ? db_row(st, e) : -1;
        if (rc < 0) return -1;
        if (rc == 0) memmove(x->digest[kept++], x->digest[i], SHA256_HEX);
        sqlite3_reset(st);
    }
    x->n = kept;
    return 0;
}

static int run_remove(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char one[] = "DELETE FROM version WHERE version = ?3 AND adapter = (SELECT row FROM adapter WHERE "
                              "tenant = ?1 AND name = ?2)";
    static const char all[] = "DELETE FROM adapter WHERE tenant = ?1 AND name = ?2 AND ?3 = 0";
    struct removing *x = u;
    x->n = 0;
    if (note_versions(d, c, x, e) || (!x->version && note_adapter(d, c, &x->s, e))) return -1;
    sqlite3_stmt *st = db_stmt(d, c, x->version ? one : all, e);
    if (!st || db_bind(st, e, "ssi", x->s.tenant, x->s.name, (int64_t)x->version) || db_done(st, e)) return -1;
    if (sqlite3_changes(c) == 0)
        return x->version
                   ? err_set(e, ERR_NOT_FOUND, "There is no adapter '%.64s' with a version %d.", x->s.name, x->version)
                   : err_set(e, ERR_NOT_FOUND, "There is no adapter '%.64s'.", x->s.name);
    return keep_orphans(d, c, x, e);
}

int registry_remove(struct registry *r, const struct actor *by, const char *tenant, const char *name, int version,
                    char (**orphans)[SHA256_HEX], int *norphans, struct err *e)
{
    struct removing x = {.s = {by, tenant, name}, .version = version};
    if (db_write_wait(r->db, run_remove, &x, e) || registry_reload(r, e)) {
        free(x.digest);
        return -1;
    }
    *orphans = x.digest;
    *norphans = x.n;
    return 0;
}
