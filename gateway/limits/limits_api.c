/* limits_api: limits over HTTP. The operator reads and replaces those of a tenant, a key, or an adapter; a tenant reads its own
 * and those of the key that asks.
 *
 * A name becomes a subject here (limit.h): ids, so that limits stay with what they were given to, and 404 for what is not
 * there. Everything else is limit_store.c's. On database threads. */
#include "gateway/api/admin_api.h"
#include "gateway/api/revision.h"
#include "gateway/limits/limit.h"
#include <string.h>

#define READ_MS 2000

/* Whose limits: by the route. */
struct named {
    const char *sql;  /* ?1, ?2: the route's parameters; a row: tenant, key or adapter */
    const char *what; /* for people */
    void (*subject)(char out[LIMIT_SUBJECT_LEN], const char *id, const char *name);
};

static void of_tenant(char out[LIMIT_SUBJECT_LEN], const char *id, const char *name)
{
    (void)name;
    limit_subject_tenant(out, id);
}

static void of_key(char out[LIMIT_SUBJECT_LEN], const char *id, const char *name)
{
    (void)name;
    limit_subject_key(out, id);
}

static const struct named tenants = {"SELECT id, '' FROM tenant WHERE name = ?1 AND ?2 = ''", "tenant", of_tenant},
                          keys = {"SELECT id, '' FROM api_key WHERE id = ?1 AND tenant IS NOT NULL AND ?2 = ''", "key",
                                  of_key},
                          adapters = {
                              "SELECT t.id, a.name FROM tenant t JOIN adapter a ON a.tenant = t.id WHERE t.name = ?1"
                              " AND a.name = ?2",
                              "adapter", limit_subject_adapter};

struct look {
    const struct named *by;
    const char *first, *second;
    char subject[LIMIT_SUBJECT_LEN];
};

static int run_look(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct look *k = u;
    sqlite3_stmt *st = db_stmt(d, c, k->by->sql, e);
    if (!st || db_bind(st, e, "ss", k->first, k->second)) return -1;
    int rc = db_row(st, e);
    if (rc == 1) k->by->subject(k->subject, db_text(st, 0), db_text(st, 1));
    sqlite3_reset(st);
    if (rc) return rc < 0 ? -1 : 0;
    return err_set(e, ERR_NOT_FOUND, "There is no %s '%.64s'.", k->by->what, *k->second ? k->second : k->first);
}

struct limits_route {
    struct admin_handler on; /* first, for admin_pass_on() */
    const struct named *by;  /* whose limits; NULL: the asker's own */
};

static const struct limits_route *route_of(const struct http_request *r)
{
    return r->route->data;
}

static int find(const struct http_request *r, char subject[LIMIT_SUBJECT_LEN], struct err *e)
{
    struct look k = {.by = route_of(r)->by, .first = r->param[0], .second = ""};
    if (k.by == &adapters) k.second = r->param[1];
    if (db_read(admin_gateway(r)->db, run_look, &k, READ_MS, e)) return -1;
    memcpy(subject, k.subject, LIMIT_SUBJECT_LEN);
    return 0;
}

static void answer(struct http_request *r, int rc, json_t *out, const struct err *e)
{
    if (rc) {
        http_reply_error(r, e);
        return;
    }
    int64_t revision = json_integer_value(json_object_get(out, "revision"));
    if (revision) revision_show(r, revision);
    admin_reply(r, 200, out);
}

static void get(struct http_request *r)
{
    char subject[LIMIT_SUBJECT_LEN];
    struct err e = {0};
    json_t *out = NULL;
    int rc = admin_query_none(r, &e) || find(r, subject, &e) || limits_get(admin_gateway(r)->limits, subject, &out, &e);
    answer(r, rc, out, &e);
}

/* The body's fields are checked by limits_put(), which knows them. */
static void put(struct http_request *r)
{
    char subject[LIMIT_SUBJECT_LEN];
    struct err e = {0};
    struct actor by = admin_actor(r);
    json_t *body = NULL, *out = NULL;
    int64_t want;
    int rc = admin_query_none(r, &e) || revision_wanted(r, &want, &e);
    if (!rc && !r->body) rc = err_set(&e, ERR_INVALID_JSON, "The body must be a JSON object; it is empty.");
    if (!rc) rc = json_parse(r->body, r->body_len, &body, &e) || find(r, subject, &e);
    if (!rc) rc = limits_put(admin_gateway(r)->limits, &by, subject, body, want, &out, &e);
    json_decref(body);
    answer(r, rc, out, &e);
}

/* --- the tenant's own --- */

static void own(struct http_request *r)
{
    struct limits *l = admin_gateway(r)->limits;
    char tenant[LIMIT_SUBJECT_LEN], key[LIMIT_SUBJECT_LEN];
    struct err e = {0};
    json_t *of_it = NULL, *of_key = NULL;
    limit_subject_tenant(tenant, admin_who(r)->tenant);
    limit_subject_key(key, admin_who(r)->key);
    if (admin_query_none(r, &e) || limits_get(l, tenant, &of_it, &e) || limits_get(l, key, &of_key, &e)) {
        json_decref(of_it);
        http_reply_error(r, &e);
        return;
    }
    admin_reply(r, 200, json_pack("{ss so so}", "object", "own_limits", "tenant", of_it, "key", of_key));
}

#define ROUTES(pattern, table)                                                                                         \
    {"GET",                                                                                                            \
     pattern,                                                                                                          \
     HTTP_BODY_NONE,                                                                                                   \
     0,                                                                                                                \
     admin_head,                                                                                                       \
     NULL,                                                                                                             \
     admin_pass_on,                                                                                                    \
     &(const struct limits_route){{get}, &table}},                                                                     \
    {                                                                                                                  \
        "PUT", pattern, HTTP_BODY_BUFFER, API_BODY_MAX, admin_head, NULL, admin_pass_on,                               \
            &(const struct limits_route)                                                                               \
        {                                                                                                              \
            {put}, &table                                                                                              \
        }                                                                                                              \
    }

const struct http_route routes_limits_admin[] = {
    ROUTES("/admin/v1/tenants/{name}/limits", tenants),
    ROUTES("/admin/v1/keys/{id}/limits", keys),
    ROUTES("/admin/v1/tenants/{name}/adapters/{adapter}/limits", adapters),
    {0},
};

static const struct limits_route own_route = {{own}, NULL};

const struct http_route routes_limits[] = {
    {"GET", "/v1/limits", HTTP_BODY_NONE, 0, admin_any_head, NULL, admin_pass_on, &own_route},
    {"GET", "/t/{tenant}/v1/limits", HTTP_BODY_NONE, 0, admin_any_head, NULL, admin_pass_on, &own_route},
    {0},
};
