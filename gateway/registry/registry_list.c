/* registry_list: a tenant's adapters as JSON, by name, page by page.
 *
 * Read from the database, not from the snapshot: these answers carry what only the rows know (reason, bytes, creation)
 * and what the ledger's day x adapter rollup knows (requests, last use). Blocking, under a deadline; not on event
 * threads. */
#include "base/json.h"
#include "gateway/api/page.h"
#include "gateway/registry/registry_impl.h"
#include <string.h>

#define READ_MS 2000

/* Newest ready version of each adapter (the newest, where none is ready) beside the sums over all its versions; `limit` is
 * on adapters, and each is a few index ranges. Columns: ADAPTER 0.., VERSION 7.. */
#define SUM(what) "(SELECT " what " FROM rollup_adapter u WHERE u.tenant = a.tenant AND u.adapter = a.name"
#define VERSION_COLUMNS                                                                                                \
    " v.version, v.state, v.reason, v.tensor, v.rank, v.kind, v.modules, v.scale, v.bytes, v.digest, v.base,"          \
    " v.file_sha256, v.pinned, v.max_error, v.created, v.changed"
#define ADAPTER_COLUMNS                                                                                                \
    "SELECT a.name, a.description, a.created, a.revision, (SELECT count(*) FROM version w WHERE w.adapter = "          \
    "a.row), " SUM("coalesce(sum(n), 0)") "), " SUM(                                                                   \
        "nullif(max(last_used), 0)") ")," VERSION_COLUMNS ", t.name"                                                              \
                          " FROM adapter a JOIN tenant t ON t.id = a.tenant LEFT JOIN version v ON v.row = (SELECT "   \
                          "w.row FROM version w WHERE"                                                                 \
                          " w.adapter = a.row ORDER BY w.state = 'ready' DESC, w.version DESC LIMIT 1) "
#define AT_VERSION 7
#define AT_TENANT 23

static const char sql_list[] = ADAPTER_COLUMNS "WHERE a.tenant = ?3 AND a.name > ?1 ORDER BY a.name LIMIT ?2";
static const char sql_list_back[] = ADAPTER_COLUMNS "WHERE a.tenant = ?3 AND a.name < ?1 ORDER BY a.name DESC LIMIT ?2";
#define OF_ALL                                                                                                         \
    "WHERE (?3 IS NULL OR t.name = ?3) AND (?4 IS NULL OR EXISTS (SELECT 1 FROM version w WHERE w.adapter = a.row AND" \
    " w.state = ?4)) AND "
static const char sql_all[] =
    ADAPTER_COLUMNS OF_ALL "t.name || '/' || a.name > ?1 ORDER BY t.name || '/' || a.name LIMIT ?2";
static const char sql_all_back[] =
    ADAPTER_COLUMNS OF_ALL "t.name || '/' || a.name < ?1 ORDER BY t.name || '/' || a.name DESC LIMIT ?2";
static const char sql_one[] = ADAPTER_COLUMNS "WHERE a.tenant = ?1 AND a.name = ?2 LIMIT ?3";
static const char sql_versions[] =
    "SELECT a.name, '', a.created, a.revision, 0, " SUM("coalesce(sum(n), 0)") " AND u.version = v.version), " SUM(
        "max(last_used)") " AND u.version = v.version)," VERSION_COLUMNS
                          " FROM adapter a JOIN version v ON v.adapter = a.row WHERE a.tenant = ?1 AND a.name = ?2 AND "
                          "(?3 = 0 OR v.version = ?3)"
                          " ORDER BY v.version DESC";

struct ask {
    const char *tenant, *name, *state;
    const struct page *page;
    int n; /* version */
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

json_t *registry_failure_json(const char *state, const char *reason, const char *tensor)
{
    const char *detail = strstr(reason, ": ");
    if (!detail || strcmp(state, "deleting") == 0) return json_null();
    return json_pack("{ss% ss ss}", "code", reason, (size_t)(detail - reason), "tensor", tensor, "detail", detail + 2);
}

static void add_version(json_t *o, sqlite3_stmt *st)
{
    int i = AT_VERSION;
    const char *reason = db_text(st, i + 2), *detail = strstr(reason, ": ");
    bool failed = strcmp(db_text(st, i + 1), "deleting") != 0 && detail;
    json_t *v = json_pack(
        "{sI ss ss so sI ss so sf sI ss ss ss sb so sI}", "version", (json_int_t)sqlite3_column_int64(st, i), "state",
        db_text(st, i + 1), "reason", failed ? detail + 2 : "", "failure",
        registry_failure_json(db_text(st, i + 1), reason, db_text(st, i + 3)), "rank",
        (json_int_t)sqlite3_column_int64(st, i + 4), "kind", db_text(st, i + 5), "modules", modules_at(st, i + 6),
        "scale", sqlite3_column_double(st, i + 7), "bytes", (json_int_t)sqlite3_column_int64(st, i + 8), "digest",
        db_text(st, i + 9), "base", db_text(st, i + 10), "file_sha256", db_text(st, i + 11), "pinned",
        sqlite3_column_int(st, i + 12), "max_error",
        sqlite3_column_type(st, i + 13) == SQLITE_NULL ? json_null() : json_real(sqlite3_column_double(st, i + 13)),
        "changed_at", (json_int_t)(sqlite3_column_int64(st, i + 15) / 1000000));
    json_object_update(o, v);
    json_decref(v);
}

static json_t *adapter_json(sqlite3_stmt *st)
{
    bool empty = sqlite3_column_type(st, AT_VERSION) ==
                 SQLITE_NULL; /* every version was removed; the next one goes on counting */
    json_t *o =
        json_pack("{ss ss ss ss so sI sI sI so}", "id", db_text(st, 0), "object", "adapter", "name", db_text(st, 0),
                  "description", db_text(st, 1), "created_at", seconds(st, 2), "revision",
                  (json_int_t)sqlite3_column_int64(st, 3), "versions_count", (json_int_t)sqlite3_column_int64(st, 4),
                  "requests", (json_int_t)sqlite3_column_int64(st, 5), "last_used_at", seconds(st, 6));
    if (o && empty) json_object_set_new(o, "state", json_string("empty"));
    if (o && !empty) add_version(o, st);
    return o;
}

static json_t *adapter_of_all_json(sqlite3_stmt *st)
{
    json_t *o = adapter_json(st);
    if (!o) return NULL;
    json_object_set_new(o, "tenant", json_string(db_text(st, AT_TENANT)));
    json_object_set_new(o, "id", json_sprintf("%s/%s", db_text(st, AT_TENANT), db_text(st, 0)));
    return o;
}

static json_t *version_json(sqlite3_stmt *st)
{
    json_t *o = json_pack("{so ss ss so sI so}", "id",
                          json_sprintf("%s@%d", db_text(st, 0), sqlite3_column_int(st, AT_VERSION)), "object",
                          "adapter.version", "name", db_text(st, 0), "created_at", seconds(st, AT_VERSION + 14),
                          "requests", (json_int_t)sqlite3_column_int64(st, 5), "last_used_at", seconds(st, 6));
    if (o) add_version(o, st);
    return o;
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
    sqlite3_stmt *st = db_stmt(d, c, page_back(a->page) ? sql_list_back : sql_list, e);
    if (!st || db_bind(st, e, "sis", page_cursor(a->page), page_ask(a->page), a->tenant)) return -1;
    return page_rows(st, a->page, adapter_json, a->out, &a->more, e);
}

static int read_all(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct ask *a = u;
    sqlite3_stmt *st = db_stmt(d, c, page_back(a->page) ? sql_all_back : sql_all, e);
    if (!st || db_bind(st, e, "siss", page_cursor(a->page), page_ask(a->page), a->tenant, a->state)) return -1;
    return page_rows(st, a->page, adapter_of_all_json, a->out, &a->more, e);
}

int registry_list(struct registry *r, const char *tenant, const struct page *p, struct json_t *list, bool *more,
                  struct err *e)
{
    struct ask a = {.tenant = tenant, .page = p, .out = list};
    if (db_read(r->db, read_list, &a, READ_MS, e)) return -1;
    *more = a.more;
    return 0;
}

int registry_list_all(struct registry *r, const char *tenant, const char *state, const struct page *p,
                      struct json_t *list, bool *more, struct err *e)
{
    struct ask a = {.tenant = tenant, .state = state, .page = p, .out = list};
    if (db_read(r->db, read_all, &a, READ_MS, e)) return -1;
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

int registry_version_json(struct db *d, sqlite3 *c, const char *tenant, const char *name, int version, json_t **out, struct err *e)
{
    struct ask a = {.tenant = tenant, .name = name, .n = version};
    if (read_version(d, c, &a, e)) return -1;
    *out = a.out;
    return 0;
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
