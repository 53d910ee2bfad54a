/* GET and POST /admin/v1/engines, GET, PATCH and DELETE /admin/v1/engines/{name}, POST .../drain, enable, disable: the
 * pool's rows over HTTP. Handlers take the request apart; what a row may be, and what a change does, is pool_rows.c's. */
#include "gateway/api/admin_api.h"
#include "gateway/api/page.h"
#include "gateway/api/revision.h"
#include "gateway/live/top_api.h"
#include "gateway/pool/blobs.h"

static const char *const no_query[] = {NULL};

/* v is an engine's object: its revision becomes the ETag. */
static void answer(struct http_request *r, int rc, int status, json_t *v, const struct err *e)
{
    if (rc) {
        http_reply_error(r, e);
        return;
    }
    revision_show(r, json_integer_value(json_object_get(v, "revision")));
    admin_reply(r, status, v);
}

static int fill(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    return pool_list(admin_gateway(r)->pool, p, data, more, e);
}

static void list(struct http_request *r)
{
    admin_answer_page(r, NULL, "name", fill);
}

static void get(struct http_request *r)
{
    struct err e = {0};
    json_t *out = NULL;
    int rc = admin_query_known(r, no_query, &e) || pool_get(admin_gateway(r)->pool, r->param[0], &out, &e);
    answer(r, rc, 200, out, &e);
}

static void create(struct http_request *r)
{
    static const char *const fields[] = {"name",     "kind",  "base",     "url",    "model",
                                         "settings", "local", "capacity", "secret", NULL};
    struct err e = {0};
    struct actor by = admin_actor(r);
    json_t *body = NULL, *out = NULL;
    int rc = admin_query_known(r, no_query, &e) || admin_body(r, fields, &body, &e) ||
             pool_create(admin_gateway(r)->pool, &by, body, &out, &e);
    json_decref(body);
    answer(r, rc, 201, out, &e);
}

static void change(struct http_request *r)
{
    static const char *const fields[] = {"base", "url", "model", "settings", "local", "capacity", "secret", NULL};
    struct err e = {0};
    struct actor by = admin_actor(r);
    json_t *body = NULL, *out = NULL;
    int64_t want;
    int rc = admin_query_known(r, no_query, &e) || revision_wanted(r, &want, &e) || admin_body(r, fields, &body, &e);
    if (!rc && json_object_size(body) == 0) rc = err_set(&e, ERR_MISSING, "Nothing to change: the body is empty.");
    if (!rc) rc = pool_change(admin_gateway(r)->pool, &by, r->param[0], want, body, &out, &e);
    json_decref(body);
    answer(r, rc, 200, out, &e);
}

static void remove_one(struct http_request *r)
{
    struct err e = {0};
    struct actor by = admin_actor(r);
    int64_t want;
    int rc = admin_query_known(r, no_query, &e) || revision_wanted(r, &want, &e) ||
             pool_remove(admin_gateway(r)->pool, &by, r->param[0], want, &e);
    if (!rc) blobs_forget(admin_gateway(r)->blobs, r->param[0]);
    if (rc)
        http_reply_error(r, &e);
    else
        admin_reply(r, 200, json_pack("{ss ss sb}", "id", r->param[0], "object", "engine", "deleted", 1));
}

/* POST without a body, or with an empty object. */
static int no_body(const struct http_request *r, struct err *e)
{
    json_t *body = NULL;
    if (!r->body_len) return 0;
    int rc = admin_body(r, no_query, &body, e);
    json_decref(body);
    return rc;
}

static void set_state(struct http_request *r, enum member_state s)
{
    struct err e = {0};
    struct actor by = admin_actor(r);
    json_t *out = NULL;
    int64_t want;
    int rc = admin_query_known(r, no_query, &e) || no_body(r, &e) || revision_wanted(r, &want, &e) ||
             pool_set_state(admin_gateway(r)->pool, &by, r->param[0], want, s, &out, &e);
    answer(r, rc, 200, out, &e);
}

static void drain(struct http_request *r)
{
    set_state(r, MEMBER_DRAINING);
}

static void enable(struct http_request *r)
{
    set_state(r, MEMBER_ENABLED);
}

static void disable(struct http_request *r)
{
    set_state(r, MEMBER_DISABLED);
}

/* --- routes: the event thread only passes the request on --- */

const struct http_route routes_engines[] = {
    ADMIN_READ("/admin/v1/engines", list),
    ADMIN_CHANGE("POST", "/admin/v1/engines", create),
    ADMIN_READ("/admin/v1/engines/{name}", get),
    ADMIN_CHANGE("PATCH", "/admin/v1/engines/{name}", change),
    ADMIN_CHANGE("DELETE", "/admin/v1/engines/{name}", remove_one),
    ADMIN_CHANGE("POST", "/admin/v1/engines/{name}/drain", drain),
    ADMIN_CHANGE("POST", "/admin/v1/engines/{name}/enable", enable),
    ADMIN_CHANGE("POST", "/admin/v1/engines/{name}/disable", disable),
    ADMIN_READ("/admin/v1/top", top_get),
    {0},
};
