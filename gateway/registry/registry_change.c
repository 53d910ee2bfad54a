/* registry_change: versions come and change their state, each change with its row in the audit trail and its event.
 *
 * A change runs on the writer thread in one transaction (see gateway/db/db.h): the rows of `adapter` and `version` and
 * those of `audit` are there together or not at all. Every row that appears, changes or goes has an entry of its own,
 * in the order in which it happened:
 *
 *     adapter.create  TENANT/NAME           after: description
 *     adapter.update  TENANT/NAME           before, after: description
 *     version.create  TENANT/NAME@VERSION   after: what identifies the bytes
 *     version.state   TENANT/NAME@VERSION   before, after: state, and what was wrong
 *     version.pin     TENANT/NAME@VERSION   before, after: pinned
 *     version.remove  TENANT/NAME@VERSION   before: as version.create (registry_remove.c)
 *     adapter.remove  TENANT/NAME           before: description (the same)
 *
 * Nothing changed, nothing noted: the same bytes under the same name again leave no entry. One entry per version, not
 * one list of them, for an entry's object is bounded and an adapter's versions are many.
 *
 * The caller blocks until the new snapshot is in force. Any thread but the writer's and the event threads. */
#include "base/clock.h"
#include "base/json.h"
#include "gateway/api/idempotency.h"
#include "gateway/live/event.h"
#include "gateway/registry/registry_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OBJECT_MAX (2 * NAME_MAX_LEN + 16) /* TENANT/NAME@VERSION */

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

int registry_note(struct db *d, sqlite3 *c, const struct subject *s, int version, const char *action, json_t *before,
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

json_t *registry_adapter_entry(const char *description)
{
    return json_pack("{ss}", "description", description);
}

json_t *registry_version_entry(const char *digest, const char *base, int64_t rank, int64_t bytes)
{
    return json_pack("{ss ss sI sI}", "digest", digest, "base", base, "rank", (json_int_t)rank, "bytes",
                     (json_int_t)bytes);
}

int registry_event(struct db *d, sqlite3 *c, const struct subject *s, int version, const char *type, const char *digest,
                   const struct version_change *why, struct err *e)
{
    char object[NAME_MAX_LEN + 16];
    json_t *o = json_pack("{ss si ss}", "adapter", s->name, "version", version, "digest", digest);
    if (!o) return err_set(e, ERR_NO_MEMORY, "no memory for an event");
    if (why && why->code)
        json_object_update_new(o, json_pack("{ss ss ss}", "code", why->code, "tensor", why->tensor ? why->tensor : "",
                                            "detail", why->detail ? why->detail : ""));
    snprintf(object, sizeof object, "%.64s@%d", s->name, version);
    int rc = event_add(d, c, s->tenant, type, object, o, e);
    json_decref(o);
    return rc;
}

/* --- the adapter's row --- */

static int create_adapter(struct db *d, sqlite3 *c, const struct subject *s, const char *description, struct err *e)
{
    static const char taken[] = "SELECT 1 FROM alias WHERE tenant = ?1 AND name = ?2";
    static const char sql[] = "INSERT INTO adapter(tenant, name, description, created) VALUES(?1, ?2, ?3, ?4)";
    sqlite3_stmt *st = db_stmt(d, c, taken, e);
    int rc = st && db_bind(st, e, "ss", s->tenant, s->name) == 0 ? db_row(st, e) : -1;
    if (st) sqlite3_reset(st);
    if (rc > 0) return err_field(e, ERR_CONFLICT, "name", "'%.64s' is the name of an alias.", s->name);
    if (rc < 0) return -1;
    if (!(st = db_stmt(d, c, sql, e)) || db_bind(st, e, "sssi", s->tenant, s->name, description, clock_wall_us()) ||
        db_done(st, e))
        return -1;
    return registry_note(d, c, s, 0, "adapter.create", NULL, registry_adapter_entry(description), e);
}

static int describe_adapter(struct db *d, sqlite3 *c, const struct subject *s, const char *was, const char *is,
                            struct err *e)
{
    static const char sql[] = "UPDATE adapter SET description = ?3 WHERE tenant = ?1 AND name = ?2";
    json_t *before = registry_adapter_entry(was); /* before the statement that `was` belongs to is used again */
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "sss", s->tenant, s->name, is) || db_done(st, e)) {
        json_decref(before);
        return -1;
    }
    return registry_note(d, c, s, 0, "adapter.update", before, registry_adapter_entry(is), e);
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

int registry_adapter_row(struct db *d, sqlite3 *c, const struct subject *s, const char *description, int64_t *row,
                         int *next, struct err *e)
{
    static const char sql[] = "SELECT description FROM adapter WHERE tenant = ?1 AND name = ?2";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ss", s->tenant, s->name)) return -1;
    int rc = db_row(st, e);
    if (rc == 0) {
        rc = create_adapter(d, c, s, description ? description : "", e);
    } else if (rc == 1) {
        bool differs = description && strcmp(description, db_text(st, 0)) != 0;
        rc = differs ? describe_adapter(d, c, s, db_text(st, 0), description, e) : 0;
        sqlite3_reset(st);
    }
    return rc < 0 ? -1 : find_adapter(d, c, s, row, next, e);
}

int registry_next(struct db *d, sqlite3 *c, int64_t adapter, int version, struct err *e)
{
    static const char sql[] =
        "UPDATE adapter SET next_version = max(next_version, ?2 + 1), revision = revision + 1 WHERE row = ?1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return !st || db_bind(st, e, "ii", adapter, (int64_t)version) || db_done(st, e) ? -1 : 0;
}

/* --- adding --- */

struct adding {
    struct subject s;
    const struct version_new *v;
    int version;
    bool created;
};

int registry_room(struct db *d, sqlite3 *c, const struct version_new *v, struct err *e)
{
    static const char sql[] =
        "SELECT count(*), coalesce(sum(v.bytes), 0) FROM adapter a JOIN version v ON v.adapter = a.row"
        " WHERE a.tenant = ?1 AND NOT (a.name = ?2 AND v.version = ?3)";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ssi", v->tenant, v->name, (int64_t)v->into) || db_row(st, e) != 1) return -1;
    int64_t n = sqlite3_column_int64(st, 0), bytes = sqlite3_column_int64(st, 1);
    sqlite3_reset(st);
    if (v->bounded && n >= v->room_count)
        return err_set(e, ERR_QUOTA, "this tenant has %lld adapter versions already; remove one first", (long long)n);
    if (v->bounded && v->room >= 0 && (bytes > v->room || v->bytes > v->room - bytes))
        return err_set(e, ERR_QUOTA, "this tenant's adapters have %lld bytes, and %lld more are over its limit of %lld",
                       (long long)bytes, (long long)v->bytes, (long long)v->room);
    return 0;
}

static int insert_version(struct db *d, sqlite3 *c, const struct adding *a, int64_t adapter, struct err *e)
{
    static const char sql[] =
        "INSERT INTO version(adapter, version, state, digest, file_sha256, base, rank, modules, scale, bytes, created,"
        " kind, changed) VALUES(?1, ?2, ?12, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?10)"
        " ON CONFLICT(adapter, version) DO UPDATE SET state = ?12, digest = ?3, file_sha256 = ?4, base = ?5, rank = ?6,"
        " modules = ?7, scale = ?8, bytes = ?9, kind = ?11, changed = ?10, reason = '', tensor = '', max_error = NULL";
    const struct version_new *v = a->v;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st ||
        db_bind(st, e, "iisssiidiiss", adapter, (int64_t)a->version, v->digest, v->file_sha256, v->base,
                (int64_t)v->rank, (int64_t)v->modules, v->scale, v->bytes, clock_wall_us(), v->kind ? v->kind : "lora",
                v->validating ? "validating" : "ready") ||
        db_done(st, e) || registry_next(d, c, adapter, a->version, e))
        return -1;
    if (registry_note(d, c, &a->s, a->version, "version.create", NULL,
                      registry_version_entry(v->digest, v->base, v->rank, v->bytes), e))
        return -1;
    return registry_event(d, c, &a->s, a->version, v->validating ? "version.validating" : "version.ready", v->digest,
                          NULL, e);
}

/* The number that was given out before goes, where the bytes turned out to be a version that exists. */
static int drop_given(struct db *d, sqlite3 *c, int64_t adapter, int version, struct err *e)
{
    static const char sql[] =
        "DELETE FROM version WHERE adapter = ?1 AND version = ?2 AND state IN ('uploading', 'validating')";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return !st || db_bind(st, e, "ii", adapter, (int64_t)version) || db_done(st, e) ? -1 : 0;
}

/* 1: these bytes are *version already; 2: and failed, so they are tried again; 0: they are new. */
static int find_same(struct db *d, sqlite3 *c, const struct adding *a, int64_t adapter, int *version, struct err *e)
{
    static const char sql[] =
        "SELECT version, state = 'failed' FROM version WHERE adapter = ?1 AND digest = ?2 AND version != ?3"
        " AND state != 'deleting' ORDER BY state = 'failed', version DESC LIMIT 1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "isi", adapter, a->v->digest, (int64_t)a->v->into)) return -1;
    int rc = db_row(st, e);
    if (rc == 1) {
        *version = sqlite3_column_int(st, 0);
        rc = sqlite3_column_int(st, 1) ? 2 : 1;
    }
    sqlite3_reset(st);
    return rc;
}

/* Have these bytes, under any of the tenant's names, this code in quarantine? */
static int find_quarantined(struct db *d, sqlite3 *c, const char *tenant, const char *digest, const char *code, char name[NAME_MAX_LEN + 16], struct err *e)
{
    static const char sql[] = "SELECT a.name, v.version FROM adapter a JOIN version v ON v.adapter = a.row WHERE a.tenant = ?1 AND v.digest = ?2"
                              " AND v.state = 'quarantined' AND substr(v.reason, 1, length(?3) + 1) = ?3 || ':' LIMIT 1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st && db_bind(st, e, "sss", tenant, digest, code) == 0 ? db_row(st, e) : -1;
    if (rc == 1) snprintf(name, NAME_MAX_LEN + 16, "%.64s@%d", db_text(st, 0), sqlite3_column_int(st, 1));
    if (st) sqlite3_reset(st);
    return rc;
}

static int check_quarantined(struct db *d, sqlite3 *c, const struct adding *a, struct err *e)
{
    char name[NAME_MAX_LEN + 16];
    int rc = find_quarantined(d, c, a->s.tenant, a->v->digest, "engine_lost", name, e);
    if (rc <= 0) return rc;
    return err_set(e, ERR_QUARANTINED, "These bytes are in quarantine as `%s`: engines were lost with them. The operator can restore that.", name);
}

/* The upload's number must still be waiting for its bytes: who deleted it meanwhile does not get it. */
static int check_given(struct db *d, sqlite3 *c, const struct adding *a, int64_t adapter, struct err *e)
{
    static const char sql[] =
        "SELECT 1 FROM version WHERE adapter = ?1 AND version = ?2 AND state IN ('uploading', 'validating')";
    sqlite3_stmt *st = a->v->into ? db_stmt(d, c, sql, e) : NULL;
    if (!a->v->into) return 0;
    int rc = st && db_bind(st, e, "ii", adapter, (int64_t)a->v->into) == 0 ? db_row(st, e) : -1;
    if (st) sqlite3_reset(st);
    return rc == 0 ? err_set(e, ERR_CONFLICT, "the version was removed meanwhile") : rc < 0 ? -1 : 0;
}

static int run_add(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct adding *a = u;
    const struct version_new *v = a->v;
    int64_t row;
    int next, same = 0;
    if (check_quarantined(d, c, a, e) || registry_adapter_row(d, c, &a->s, v->description, &row, &next, e) || check_given(d, c, a, row, e)) return -1;
    int rc = find_same(d, c, a, row, &same, e);
    if (rc < 0) return -1;
    a->created = rc != 1;
    a->version = rc ? same : v->into ? v->into : next;
    if (rc != 1 && (registry_room(d, c, v, e) || insert_version(d, c, a, row, e))) return -1;
    if (rc && v->into && drop_given(d, c, row, v->into, e)) return -1;
    return v->upload ? registry_upload_end(d, c, v->upload, "done", a->version, "", e) : 0;
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

/* --- changing --- */

struct changing {
    struct subject s;
    int version;
    const struct version_change *x;
    int64_t adapter, row;
    char digest[SHA256_HEX], was[16];
    bool pinned;
    int64_t most;
    struct answer_keep *keep;
};

static int find_version(struct db *d, sqlite3 *c, struct changing *x, struct err *e)
{
    static const char sql[] =
        "SELECT a.row, v.row, v.digest, v.state, v.pinned FROM adapter a JOIN version v ON v.adapter = a.row"
        " WHERE a.tenant = ?1 AND a.name = ?2 AND v.version = ?3";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st && db_bind(st, e, "ssi", x->s.tenant, x->s.name, (int64_t)x->version) == 0 ? db_row(st, e) : -1;
    if (rc == 1) {
        x->adapter = sqlite3_column_int64(st, 0);
        x->row = sqlite3_column_int64(st, 1);
        snprintf(x->digest, sizeof x->digest, "%s", db_text(st, 2));
        snprintf(x->was, sizeof x->was, "%s", db_text(st, 3));
    }
    bool was_pinned = rc == 1 && sqlite3_column_int(st, 4);
    if (st) sqlite3_reset(st);
    if (rc == 0)
        return err_set(e, ERR_NOT_FOUND, "There is no adapter '%.64s' with a version %d.", x->s.name, x->version);
    return rc < 0 ? -1 : was_pinned;
}

static unsigned state_bit(const char *word)
{
    for (unsigned i = 0; i < VERSION_STATES; i++)
        if (strcmp(version_state_name[i], word) == 0) return 1u << i;
    return 0;
}

static json_t *state_entry(const char *state, const struct version_change *x)
{
    json_t *o = json_pack("{ss}", "state", state);
    if (o && x && x->code)
        json_object_update_new(o, json_pack("{ss ss ss}", "code", x->code, "tensor", x->tensor ? x->tensor : "",
                                            "detail", x->detail ? x->detail : ""));
    return o;
}

static int write_state(struct db *d, sqlite3 *c, const struct changing *x, struct err *e)
{
    static const char sql[] = "UPDATE version SET state = ?2, reason = ?3, tensor = ?4, changed = ?5,"
                              " max_error = CASE WHEN ?6 < 0 THEN max_error ELSE ?6 END,"
                              " pinned = CASE WHEN ?2 = 'ready' THEN pinned ELSE 0 END WHERE row = ?1";
    const struct version_change *v = x->x;
    char reason[640] = "";
    if (v->code) snprintf(reason, sizeof reason, "%s: %s", v->code, v->detail ? v->detail : "");
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return !st ||
                   db_bind(st, e, "isssid", x->row, version_state_name[v->to], reason, v->tensor ? v->tensor : "",
                           clock_wall_us(), v->max_error) ||
                   db_done(st, e)
               ? -1
               : 0;
}

int registry_keep(struct db *d, sqlite3 *c, const struct actor *by, int status, json_t *row, struct answer_keep *k, struct err *e)
{
    json_object_update(row, k->beside);
    json_decref(k->out);
    k->out = row;
    return once_keep(d, c, by, status, row, e);
}

/* What the request will be answered with: the version as the change left it, and what its handler knows beside. */
static int keep_answer(struct db *d, sqlite3 *c, const struct changing *x, struct err *e)
{
    json_t *o = NULL;
    if (!x->keep) return 0;
    if (registry_version_json(d, c, x->s.tenant, x->s.name, x->version, &o, e)) return -1;
    return registry_keep(d, c, x->s.by, 200, o, x->keep, e);
}

static int check_unless(struct db *d, sqlite3 *c, const struct changing *x, struct err *e)
{
    char name[NAME_MAX_LEN + 16];
    int rc = x->x->unless ? find_quarantined(d, c, x->s.tenant, x->digest, x->x->unless, name, e) : 0;
    if (rc <= 0) return rc;
    return err_set(e, ERR_FORBIDDEN, "Engines were lost with the bytes of `%s`; only the operator restores that.", name);
}

static int run_state(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct changing *x = u;
    char type[32];
    if (find_version(d, c, x, e) < 0) return -1;
    if (!(state_bit(x->was) & x->x->from))
        return err_set(e, ERR_CONFLICT, "%.64s@%d is %s.", x->s.name, x->version, x->was);
    if (check_unless(d, c, x, e)) return -1;
    if (x->x->to == VERSION_ARCHIVED && registry_unpointed(d, c, x->s.tenant, x->s.name, x->version, e)) return -1;
    snprintf(type, sizeof type, "version.%s", version_state_name[x->x->to]);
    if (write_state(d, c, x, e) || registry_next(d, c, x->adapter, x->version, e) ||
        registry_note(d, c, &x->s, x->version, "version.state", state_entry(x->was, NULL),
                      state_entry(version_state_name[x->x->to], x->x), e) ||
        registry_event(d, c, &x->s, x->version, type, x->digest, x->x, e) || keep_answer(d, c, x, e))
        return -1;
    return x->x->upload
               ? registry_upload_end(d, c, x->x->upload, "failed", x->version, x->x->detail ? x->x->detail : "", e)
               : 0;
}

int registry_change_state(struct registry *r, const struct actor *by, const char *tenant, const char *name, int version,
                          const struct version_change *x, struct err *e)
{
    struct changing c = {.s = {by, tenant, name}, .version = version, .x = x, .keep = x->keep};
    return db_write_wait(r->db, run_state, &c, e) ? -1 : registry_reload(r, e);
}

static int check_pins(struct db *d, sqlite3 *c, const struct changing *x, struct err *e)
{
    static const char sql[] =
        "SELECT count(*) FROM adapter a JOIN version v ON v.adapter = a.row WHERE a.tenant = ?1 AND v.pinned = 1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "s", x->s.tenant) || db_row(st, e) != 1) return -1;
    int64_t n = sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    if (x->most < 0 || n < x->most) return 0;
    return err_set(e, ERR_QUOTA, "this tenant has %lld pinned adapters, as many as it may", (long long)n);
}

static int run_pin(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "UPDATE version SET pinned = ?2 WHERE row = ?1";
    struct changing *x = u;
    int was = find_version(d, c, x, e);
    if (was < 0) return -1;
    if (x->pinned && strcmp(x->was, "ready") != 0)
        return err_set(e, ERR_CONFLICT, "%.64s@%d is %s; only a ready version can be pinned.", x->s.name, x->version,
                       x->was);
    if (was == x->pinned) return keep_answer(d, c, x, e);
    if (x->pinned && check_pins(d, c, x, e)) return -1;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ii", x->row, (int64_t)x->pinned) || db_done(st, e) ||
        registry_next(d, c, x->adapter, x->version, e))
        return -1;
    if (registry_note(d, c, &x->s, x->version, "version.pin", json_pack("{sb}", "pinned", was), json_pack("{sb}", "pinned", x->pinned), e)) return -1;
    return keep_answer(d, c, x, e);
}

int registry_pin(struct registry *r, const struct actor *by, const char *tenant, const char *name, int version,
                 bool pinned, int64_t most, struct answer_keep *keep, struct err *e)
{
    struct changing c = {.s = {by, tenant, name}, .version = version, .pinned = pinned, .most = most, .keep = keep};
    return db_write_wait(r->db, run_pin, &c, e) ? -1 : registry_reload(r, e);
}
