/* registry_upload: rows of uploads that outlive a request: in parts, or from a URL.
 *
 *     registry_begin -> open --registry_upload_complete--> validating --registry_add----------> done
 *                        |                                     \------registry_change_state--> failed
 *                        +--registry_upload_drop, expiry--> (gone, and the version with it)
 *
 * The version's number is given out at the beginning and stands as uploading, so that lists show what comes. The last
 * step is written by the transaction that settles the version: no upload says done without its version. */
#include "gateway/registry/registry_upload.h"
#include "base/clock.h"
#include "base/json.h"
#include "gateway/api/idempotency.h"
#include "gateway/api/page.h"
#include "gateway/registry/registry_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_MS 2000

static const struct actor nobody = {.key = "system", .ip = "", .request = ""};

/* --- beginning --- */

struct looking {
    const char *tenant, *adapter, *id;
    struct upload_row *out;
};

struct counting {
    const char *tenant;
    int n;
};

struct beginning {
    struct subject s;
    const struct version_new *v;
    const struct upload_new *n;
    int version;
};

static int note_upload(struct db *d, sqlite3 *c, const struct subject *s, const char *id, const char *action,
                       int version, bool after, struct err *e)
{
    json_t *o = json_pack("{ss si}", "upload", id, "version", version);
    return registry_note(d, c, s, version, action, after ? NULL : o, after ? o : NULL, e);
}

static int insert_given(struct db *d, sqlite3 *c, const struct beginning *b, int64_t adapter, struct err *e)
{
    static const char sql[] =
        "INSERT INTO version(adapter, version, state, digest, file_sha256, base, rank, modules, scale, bytes,"
        " created, changed) VALUES(?1, ?2, 'uploading', '', '', ?3, 0, 0, 0.0, 0, ?4, ?4)";
    static const char row[] =
        "INSERT INTO upload(id, tenant, adapter, description, state, url, version, created, created_by, expires)"
        " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    const struct version_new *v = b->v;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "iisi", adapter, (int64_t)b->version, v->base, clock_wall_us()) || db_done(st, e))
        return -1;
    if (!(st = db_stmt(d, c, row, e)) ||
        db_bind(st, e, "ssssssiisi", v->upload, v->tenant, v->name, v->description ? v->description : "",
                *b->n->url ? "validating" : "open", b->n->url, (int64_t)b->version, clock_wall_us(), b->s.by->key,
                b->n->expires) ||
        db_done(st, e))
        return -1;
    return registry_next(d, c, adapter, b->version, e);
}

static int read_row(struct db *d, sqlite3 *c, void *u, struct err *e);

static int read_count(struct db *d, sqlite3 *c, struct counting *k, struct err *e)
{
    static const char sql[] = "SELECT count(*) FROM upload WHERE tenant = ?1 AND state IN ('open', 'validating')";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "s", k->tenant) || db_row(st, e) != 1) return -1;
    k->n = sqlite3_column_int(st, 0);
    sqlite3_reset(st);
    return 0;
}

static int check_open(struct db *d, sqlite3 *c, const struct beginning *b, struct err *e)
{
    struct counting k = {b->v->tenant, 0};
    if (read_count(d, c, &k, e)) return -1;
    if (k.n < b->n->most) return 0;
    return err_set(e, ERR_QUOTA,
                   "this tenant has %d uploads and imports under way, as many as it may; complete or delete one", k.n);
}

/* What the request will be answered with. */
static int keep_answer(struct db *d, sqlite3 *c, const struct beginning *b, struct err *e)
{
    struct upload_row row = {.version = 0};
    struct looking l = {NULL, NULL, b->v->upload, &row};
    if (!b->s.by->once) return 0;
    json_t *o = read_row(d, c, &l, e) == 0 ? b->n->show(&row) : NULL;
    int rc = o ? once_keep(d, c, b->s.by, b->n->status, o, e) : err_set(e, ERR_NO_MEMORY, "no memory for the answer");
    json_decref(o);
    upload_row_close(&row);
    return rc;
}

static int run_begin(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct beginning *b = u;
    int64_t row;
    if (check_open(d, c, b, e) || registry_adapter_row(d, c, &b->s, b->v->description, &row, &b->version, e) ||
        registry_room(d, c, b->v, e) || insert_given(d, c, b, row, e) ||
        note_upload(d, c, &b->s, b->v->upload, "upload.create", b->version, true, e))
        return -1;
    if (registry_event(d, c, &b->s, b->version, "version.uploading", "", NULL, e)) return -1;
    return keep_answer(d, c, b, e);
}

int registry_begin(struct registry *r, const struct actor *by, const struct version_new *v, const struct upload_new *n,
                   int *version, struct err *e)
{
    struct beginning b = {.s = {by, v->tenant, v->name}, .v = v, .n = n};
    if (!name_is_valid(v->name))
        return err_field(e, ERR_INVALID, "name",
                         "an adapter's name is 1 to %d characters of a-z 0-9 . _ -, the first a letter or digit",
                         NAME_MAX_LEN);
    if (db_write_wait(r->db, run_begin, &b, e) || registry_reload(r, e)) return -1;
    *version = b.version;
    return 0;
}

/* --- reading --- */

void upload_row_close(struct upload_row *u)
{
    free(u->description);
    free(u->reason);
    free(u->url);
    u->description = u->reason = u->url = NULL;
}

#define COLUMNS                                                                                                        \
    "SELECT id, tenant, adapter, state, created_by, version, created, expires, description, reason, url FROM upload "

static int fill(struct upload_row *o, sqlite3_stmt *st, struct err *e)
{
    snprintf(o->id, sizeof o->id, "%s", db_text(st, 0));
    snprintf(o->tenant, sizeof o->tenant, "%s", db_text(st, 1));
    snprintf(o->adapter, sizeof o->adapter, "%s", db_text(st, 2));
    snprintf(o->state, sizeof o->state, "%s", db_text(st, 3));
    snprintf(o->by, sizeof o->by, "%s", db_text(st, 4));
    o->version = sqlite3_column_int(st, 5);
    o->created = sqlite3_column_int64(st, 6);
    o->expires = sqlite3_column_int64(st, 7);
    o->description = strdup(db_text(st, 8));
    o->reason = strdup(db_text(st, 9));
    o->url = strdup(db_text(st, 10));
    return o->description && o->reason && o->url ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for an upload");
}

static int read_row(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = COLUMNS "WHERE id = ?1 AND (?2 IS NULL OR tenant = ?2) AND (?3 IS NULL OR adapter = ?3)";
    struct looking *l = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st && db_bind(st, e, "sss", l->id, l->tenant, l->adapter) == 0 ? db_row(st, e) : -1;
    if (rc == 1 && fill(l->out, st, e)) rc = -1;
    if (st) sqlite3_reset(st);
    return rc == 0 ? err_set(e, ERR_NOT_FOUND, "There is no upload '%.40s' here.", l->id) : rc < 0 ? -1 : 0;
}

int registry_upload_get(struct registry *r, const char *tenant, const char *adapter, const char *id,
                        struct upload_row *out, struct err *e)
{
    struct upload_row row = {.version = 0};
    struct looking l = {tenant, adapter, id, &row};
    if (db_read(r->db, read_row, &l, READ_MS, e)) {
        upload_row_close(&row);
        return -1;
    }
    *out = row;
    return 0;
}

json_t *upload_json(const struct upload_row *row)
{
    return json_pack("{ss ss ss si ss ss so sI sI}", "id", row->id, "object", "adapter.upload", "adapter", row->adapter,
                     "version", row->version, "state", row->state, "description", row->description, "reason",
                     *row->reason ? json_string(row->reason) : json_null(), "created_at",
                     (json_int_t)(row->created / 1000000), "expires_at", (json_int_t)(row->expires / 1000000));
}

static json_t *print_row(sqlite3_stmt *st)
{
    struct upload_row row = {.version = 0};
    json_t *o = fill(&row, st, NULL) == 0 ? upload_json(&row) : NULL;
    upload_row_close(&row);
    return o;
}

struct listing {
    const char *tenant, *adapter;
    const struct page *page;
    json_t *list;
    bool more;
};

static int has_adapter(struct db *d, sqlite3 *c, const struct listing *l, struct err *e)
{
    static const char sql[] = "SELECT 1 FROM adapter WHERE tenant = ?1 AND name = ?2";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st && db_bind(st, e, "ss", l->tenant, l->adapter) == 0 ? db_row(st, e) : -1;
    if (st) sqlite3_reset(st);
    return rc == 0 ? err_set(e, ERR_NOT_FOUND, "There is no adapter '%.64s'.", l->adapter) : rc < 0 ? -1 : 0;
}

static int read_list(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = COLUMNS "WHERE tenant = ?3 AND adapter = ?4 AND id > ?1 ORDER BY id LIMIT ?2";
    static const char sql_back[] = COLUMNS "WHERE tenant = ?3 AND adapter = ?4 AND id < ?1 ORDER BY id DESC LIMIT ?2";
    struct listing *l = u;
    if (has_adapter(d, c, l, e)) return -1;
    sqlite3_stmt *st = db_stmt(d, c, page_back(l->page) ? sql_back : sql, e);
    if (!st || db_bind(st, e, "siss", page_cursor(l->page), page_ask(l->page), l->tenant, l->adapter)) return -1;
    return page_rows(st, l->page, print_row, l->list, &l->more, e);
}

int registry_upload_list(struct registry *r, const char *tenant, const char *adapter, const struct page *p,
                         struct json_t *list, bool *more, struct err *e)
{
    struct listing l = {tenant, adapter, p, list, false};
    if (db_read(r->db, read_list, &l, READ_MS, e)) return -1;
    *more = l.more;
    return 0;
}

struct each {
    const char *state;
    int64_t before;
    int (*fn)(void *u, const char *id);
    void *u;
};

static int read_each(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] =
        "SELECT id FROM upload WHERE (?1 IS NULL OR state = ?1) AND (?2 = 0 OR expires < ?2) ORDER BY id";
    struct each *x = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "si", x->state, x->before)) return -1;
    int rc;
    while ((rc = db_row(st, e)) == 1)
        if (x->fn(x->u, db_text(st, 0))) return err_set(e, ERR_NO_MEMORY, "no memory for the uploads");
    return rc;
}

int registry_upload_each(struct registry *r, const char *state, int64_t before, int (*fn)(void *u, const char *id),
                         void *u, struct err *e)
{
    struct each x = {state, before, fn, u};
    return db_read(r->db, read_each, &x, READ_MS, e);
}

/* --- changing --- */

int registry_upload_end(struct db *d, sqlite3 *c, const char *id, const char *state, int version, const char *reason,
                        struct err *e)
{
    static const char sql[] = "UPDATE upload SET state = ?2, version = ?3, reason = ?4, url = '' WHERE id = ?1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return !st || db_bind(st, e, "ssis", id, state, (int64_t)version, reason) || db_done(st, e) ? -1 : 0;
}

struct ending {
    const struct actor *by;
    const char *id;
    struct upload_row row;
    struct answer_keep *keep;
};

static int find_row(struct db *d, sqlite3 *c, struct ending *x, struct err *e)
{
    struct looking l = {NULL, NULL, x->id, &x->row};
    upload_row_close(&x->row);
    return read_row(d, c, &l, e);
}

static int keep_completed(struct db *d, sqlite3 *c, struct ending *x, int status, struct err *e)
{
    if (!x->keep) return 0;
    json_t *o = find_row(d, c, x, e) == 0 ? upload_json(&x->row) : NULL;
    return o ? registry_keep(d, c, x->by, status, o, x->keep, e) : err_set(e, ERR_NO_MEMORY, "no memory for the answer");
}

static int run_complete(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "UPDATE upload SET state = 'validating' WHERE id = ?1";
    static const char version[] =
        "UPDATE version SET state = 'validating', changed = ?4 WHERE version = ?3 AND adapter ="
        " (SELECT row FROM adapter WHERE tenant = ?1 AND name = ?2)";
    struct ending *x = u;
    if (find_row(d, c, x, e)) return -1;
    if (strcmp(x->row.state, "open") != 0) return err_set(e, ERR_CONFLICT, "The upload is %s already.", x->row.state);
    struct subject s = {x->by, x->row.tenant, x->row.adapter};
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "s", x->id) || db_done(st, e)) return -1;
    if (!(st = db_stmt(d, c, version, e)) ||
        db_bind(st, e, "ssii", x->row.tenant, x->row.adapter, (int64_t)x->row.version, clock_wall_us()) ||
        db_done(st, e))
        return -1;
    return note_upload(d, c, &s, x->id, "upload.complete", x->row.version, true, e) ? -1 : keep_completed(d, c, x, 202, e);
}

int registry_upload_complete(struct registry *r, const struct actor *by, const char *id, struct answer_keep *keep, struct err *e)
{
    struct ending x = {.by = by, .id = id, .keep = keep};
    int rc = db_write_wait(r->db, run_complete, &x, e);
    upload_row_close(&x.row);
    return rc ? -1 : registry_reload(r, e);
}

static int run_keep(struct db *d, sqlite3 *c, void *u, struct err *e) { return keep_completed(d, c, u, 200, e); }

int registry_upload_keep(struct registry *r, const struct actor *by, const char *id, struct answer_keep *keep, struct err *e)
{
    struct ending x = {.by = by, .id = id, .keep = keep};
    int rc = db_write_wait(r->db, run_keep, &x, e);
    upload_row_close(&x.row);
    return rc;
}

/* The version that would have come, and the adapter where it was to be its first. */
static int drop_version(struct db *d, sqlite3 *c, const struct upload_row *u, struct err *e)
{
    static const char version[] = "DELETE FROM version WHERE version = ?3 AND state = 'uploading' AND adapter ="
                                  " (SELECT row FROM adapter WHERE tenant = ?1 AND name = ?2)";
    static const char adapter[] = "DELETE FROM adapter WHERE tenant = ?1 AND name = ?2 AND next_version = 2 AND ?3 = 1"
                                  " AND NOT EXISTS (SELECT 1 FROM version v WHERE v.adapter = adapter.row)"
                                  " AND NOT EXISTS (SELECT 1 FROM alias_target t WHERE t.adapter = adapter.row)";
    static const char *const sql[] = {version, adapter};
    for (int i = 0; i < 2; i++) {
        sqlite3_stmt *st = db_stmt(d, c, sql[i], e);
        if (!st || db_bind(st, e, "ssi", u->tenant, u->adapter, (int64_t)u->version) || db_done(st, e)) return -1;
    }
    return 0;
}

static int run_drop(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "DELETE FROM upload WHERE id = ?1";
    struct ending *x = u;
    if (find_row(d, c, x, e)) return -1;
    if (strcmp(x->row.state, "validating") == 0)
        return err_set(e, ERR_CONFLICT, "The upload is being validated; remove its version, or wait.");
    struct subject s = {x->by, x->row.tenant, x->row.adapter};
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "s", x->id) || db_done(st, e)) return -1;
    if (note_upload(d, c, &s, x->id, "upload.remove", x->row.version, false, e)) return -1;
    return strcmp(x->row.state, "open") == 0 ? drop_version(d, c, &x->row, e) : 0;
}

int registry_upload_drop(struct registry *r, const struct actor *by, const char *id, struct err *e)
{
    struct ending x = {.by = by ? by : &nobody, .id = id};
    int rc = db_write_wait(r->db, run_drop, &x, e);
    upload_row_close(&x.row);
    return rc ? -1 : registry_reload(r, e);
}
