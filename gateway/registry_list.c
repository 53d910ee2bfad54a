/* registry_list: a tenant's adapters as JSON, by name, page by page.
 *
 * Read from the database, not from the snapshot: these answers carry what only the rows know (reason, bytes, creation)
 * and what the ledger's day x adapter rollup knows (requests, last use). Blocking, under a deadline; not on event
 * threads. */
#include "base/json.h"
#include "gateway/registry_impl.h"

#define READ_MS 2000

/* Newest ready version of each adapter beside the sums over all its versions; `limit` is on adapters, and each is a few
 * index ranges. */
#define ADAPTER_COLUMNS                                                                                                \
    "SELECT a.name, a.description, a.created, v.version, v.state, v.reason, v.rank, v.modules, v.scale, v.bytes, "     \
    "v.digest, v.base,"                                                                                                \
    " (SELECT count(*) FROM version w WHERE w.adapter = a.row),"                                                       \
    " (SELECT coalesce(sum(n), 0) FROM rollup_adapter u WHERE u.tenant = a.tenant AND u.adapter = a.name),"            \
    " (SELECT max(last_used) FROM rollup_adapter u WHERE u.tenant = a.tenant AND u.adapter = a.name), v.kind"          \
    " FROM adapter a LEFT JOIN version v ON v.row = (SELECT w.row FROM version w WHERE w.adapter = a.row"              \
    " ORDER BY w.state = 'ready' DESC, w.version DESC LIMIT 1) "

static const char sql_list[] = ADAPTER_COLUMNS "WHERE a.tenant = ?1 AND a.name > ?2 ORDER BY a.name LIMIT ?3";
static const char sql_one[] = ADAPTER_COLUMNS "WHERE a.tenant = ?1 AND a.name = ?2 LIMIT ?3";
static const char sql_versions[] =
    "SELECT a.name, v.created, v.version, v.state, v.reason, v.rank, v.modules, v.scale, v.bytes, v.digest, v.base, "
    "v.file_sha256,"
    " (SELECT coalesce(sum(n), 0) FROM rollup_adapter u WHERE u.tenant = ?1 AND u.adapter = ?2 AND u.version = "
    "v.version),"
    " (SELECT max(last_used) FROM rollup_adapter u WHERE u.tenant = ?1 AND u.adapter = ?2 AND u.version = v.version),"
    " v.kind FROM adapter a JOIN version v ON v.adapter = a.row WHERE a.tenant = ?1 AND a.name = ?2 AND (?3 = 0 OR "
    "v.version "
    "= ?3)"
    " ORDER BY v.version DESC";

struct ask {
    const char *tenant, *name;
    int n; /* limit, or version */
    json_t *out;
    bool more;
};

static json_t *seconds(sqlite3_stmt *st, int column)
{
    if (sqlite3_column_type(st, column) == SQLITE_NULL) return json_null();
    return json_integer(sqlite3_column_int64(st, column) / 1000000);
}

json_t *registry_modules_json(unsigned modules)
{
    static const struct {
        unsigned bit;
        const char *name;
    } beside[] = {{ADAPTS_EXPERTS, "experts"},
                  {ADAPTS_ROUTER, "router"},
                  {ADAPTS_EMBED, "embed_tokens"},
                  {ADAPTS_HEAD, "lm_head"}};
    json_t *list = json_array();
    for (int i = 0; i < LORA_MODULES; i++)
        if (modules >> i & 1) json_array_append_new(list, json_string(lora_module_name[i]));
    for (size_t i = 0; i < sizeof beside / sizeof *beside; i++)
        if (modules & beside[i].bit) json_array_append_new(list, json_string(beside[i].name));
    return list;
}

static json_t *modules_at(sqlite3_stmt *st, int column)
{
    return registry_modules_json((unsigned)sqlite3_column_int64(st, column));
}

static json_t *adapter_json(sqlite3_stmt *st)
{
    bool empty =
        sqlite3_column_type(st, 3) == SQLITE_NULL; /* every version was removed; the next one goes on counting */
    json_t *o = json_pack("{ss ss ss ss so sI sI so}", "id", db_text(st, 0), "object", "adapter", "name",
                          db_text(st, 0), "description", db_text(st, 1), "created_at", seconds(st, 2), "versions_count",
                          (json_int_t)sqlite3_column_int64(st, 12), "requests",
                          (json_int_t)sqlite3_column_int64(st, 13), "last_used_at", seconds(st, 14));
    if (o && empty) json_object_set_new(o, "state", json_string("empty"));
    if (!o || empty) return o;
    json_t *version =
        json_pack("{sI ss ss sI ss so sf sI ss ss}", "version", (json_int_t)sqlite3_column_int64(st, 3), "state",
                  db_text(st, 4), "reason", db_text(st, 5), "rank", (json_int_t)sqlite3_column_int64(st, 6), "kind",
                  db_text(st, 15), "modules", modules_at(st, 7), "scale", sqlite3_column_double(st, 8), "bytes",
                  (json_int_t)sqlite3_column_int64(st, 9), "digest", db_text(st, 10), "base", db_text(st, 11));
    json_object_update(o, version);
    json_decref(version);
    return o;
}

static json_t *version_json(sqlite3_stmt *st)
{
    return json_pack("{ss ss so sI ss ss sI ss so sf sI ss ss ss sI so}", "object", "adapter.version", "name",
                     db_text(st, 0), "created_at", seconds(st, 1), "version", (json_int_t)sqlite3_column_int64(st, 2),
                     "state", db_text(st, 3), "reason", db_text(st, 4), "rank", (json_int_t)sqlite3_column_int64(st, 5),
                     "kind", db_text(st, 14), "modules", modules_at(st, 6), "scale", sqlite3_column_double(st, 7),
                     "bytes", (json_int_t)sqlite3_column_int64(st, 8), "digest", db_text(st, 9), "base",
                     db_text(st, 10), "file_sha256", db_text(st, 11), "requests",
                     (json_int_t)sqlite3_column_int64(st, 12), "last_used_at", seconds(st, 13));
}

/* Appends at most `limit` rows to list. */
static int rows(struct db *d, sqlite3 *c, const char *sql, const struct ask *a, int64_t third,
                json_t *(*print)(sqlite3_stmt *), int limit, json_t *list, bool *more, struct err *e)
{
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ssi", a->tenant, a->name, third)) return -1;
    int rc, n = 0;
    while ((rc = db_row(st, e)) == 1 && n++ < limit)
        if (json_array_append_new(list, print(st)))
            return err_set(e, ERR_NO_MEMORY, "no memory for a list of adapters");
    *more = rc == 1;
    sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

static int read_list(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct ask *a = u;
    return rows(d, c, sql_list, a, (int64_t)a->n + 1, adapter_json, a->n, a->out, &a->more, e);
}

int registry_list(struct registry *r, const char *tenant, const char *after, int limit, struct json_t *list, bool *more,
                  struct err *e)
{
    struct ask a = {tenant, after, limit, list, false};
    if (db_read(r->db, read_list, &a, READ_MS, e)) return -1;
    *more = a.more;
    return 0;
}

static int read_adapter(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct ask *a = u;
    json_t *found = json_array(), *versions = json_array();
    int rc = rows(d, c, sql_one, a, 1, adapter_json, 1, found, &a->more, e);
    if (rc == 0 && json_array_size(found) == 0) rc = err_set(e, ERR_NOT_FOUND, "There is no adapter '%.64s'.", a->name);
    if (rc == 0) rc = rows(d, c, sql_versions, a, 0, version_json, INT32_MAX, versions, &a->more, e);
    if (rc == 0) {
        a->out = json_incref(json_array_get(found, 0));
        json_object_set(a->out, "versions", versions);
    }
    json_decref(found);
    json_decref(versions);
    return rc;
}

int registry_get(struct registry *r, const char *tenant, const char *name, struct json_t **out, struct err *e)
{
    struct ask a = {.tenant = tenant, .name = name};
    if (db_read(r->db, read_adapter, &a, READ_MS, e)) return -1;
    *out = a.out;
    return 0;
}

static int read_version(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct ask *a = u;
    json_t *found = json_array();
    int rc = rows(d, c, sql_versions, a, a->n, version_json, 1, found, &a->more, e);
    if (rc == 0 && json_array_size(found) == 0)
        rc = err_set(e, ERR_NOT_FOUND, "There is no adapter '%.64s' with a version %d.", a->name, a->n);
    if (rc == 0) a->out = json_incref(json_array_get(found, 0));
    json_decref(found);
    return rc;
}

int registry_get_version(struct registry *r, const char *tenant, const char *name, int version, struct json_t **out,
                         struct err *e)
{
    struct ask a = {.tenant = tenant, .name = name, .n = version};
    if (version < 1) return err_set(e, ERR_NOT_FOUND, "There is no adapter '%.64s' with a version %d.", name, version);
    if (db_read(r->db, read_version, &a, READ_MS, e)) return -1;
    *out = a.out;
    return 0;
}
