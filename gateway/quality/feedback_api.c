/* feedback_api: what tenants say of answers, over HTTP. A tenant says and reads its own, the operator reads everybody's.
 *
 *     POST   /v1/feedback               {"request_id", "rating": "up" | "down" | -1..1, "label", "comment"}; again replaces
 *     GET    /v1/feedback               newest request first; ?alias=NAME, ?max_rating=-0.5
 *     GET    /v1/feedback/{request}     one
 *     DELETE /v1/feedback/{request}     takes it back
 *     GET    /admin/v1/feedback         everybody's; also ?tenant=NAME
 *
 * Whoever may ask a model may say how it answered, and see and take back what was said; lists want the right to read usage. On database threads. */
#include "gateway/api/admin_api.h"
#include "gateway/api/page.h"
#include "gateway/auth/auth_store.h"
#include "gateway/proxy/chat_api.h"
#include "gateway/quality/feedback.h"
#include <stdlib.h>
#include <string.h>

#define ALIAS_MAX NAME_MAX_LEN
#define NUMBER_MAX 32

static void post(struct http_request *r)
{
    static const char *const fields[] = {"request_id", "rating", "label", "comment", NULL};
    struct gateway *g = admin_gateway(r);
    struct err e = {0};
    struct actor by = admin_actor(r);
    struct feedback f = {.tenant = admin_tenant(r), .key = admin_who(r)->key, .label = "", .comment = ""};
    json_t *body = NULL, *out = NULL;
    int rc = admin_query_none(r, &e) || admin_body(r, fields, &body, &e) || feedback_read(body, &f, &e) || feedback_put(g->ledger, g->db, g->routing, &by, &f, &out, &e);
    json_decref(body);
    if (rc)
        http_reply_error(r, &e);
    else
        admin_reply(r, 200, out);
}

static int read_query(const struct http_request *r, const struct page *p, struct feedback_query *q, struct err *e)
{
    const char *most = http_query(r, "max_rating");
    char *end = NULL;
    q->most = 1;
    q->alias = http_query(r, "alias");
    if (*page_cursor(p) && !uuid_is(page_cursor(p))) return err_field(e, ERR_INVALID, page_back(p) ? "before" : "after", "The cursor must be the id of a request.");
    if (q->alias && strlen(q->alias) > ALIAS_MAX) return err_field(e, ERR_INVALID, "alias", "'alias' has at most %d bytes.", ALIAS_MAX);
    if (!most) return 0;
    q->most = strlen(most) < NUMBER_MAX ? strtod(most, &end) : 2;
    if (!end || end == most || *end || !(q->most >= -1 && q->most <= 1)) return err_field(e, ERR_INVALID, "max_rating", "'max_rating' must be a number from -1 to 1.");
    return 0;
}

static int fill_own(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    struct feedback_query q = {.tenant = admin_tenant(r)};
    return read_query(r, p, &q, e) ? -1 : feedback_list(admin_gateway(r)->db, &q, p, data, more, e);
}

/* A tenant's own don't say whose they are; here they do, as all do. */
static int fill_all(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    const char *name = http_query(r, "tenant");
    struct feedback_query q = {0};
    json_t *tenant = NULL, *one;
    size_t i;
    if (read_query(r, p, &q, e) || (name && tenant_get(admin_gateway(r)->auth, name, &tenant, e))) return -1;
    q.tenant = json_string_value(json_object_get(tenant, "id"));
    int rc = feedback_list(admin_gateway(r)->db, &q, p, data, more, e);
    json_array_foreach(data, i, one) if (tenant) json_object_set(one, "tenant", json_object_get(tenant, "name"));
    json_decref(tenant);
    return rc;
}

static void list_own(struct http_request *r)
{
    static const char *const also[] = {"alias", "max_rating", NULL};
    admin_answer_page(r, also, "id", fill_own);
}

static void list_all(struct http_request *r)
{
    static const char *const also[] = {"tenant", "alias", "max_rating", NULL};
    admin_answer_page(r, also, "id", fill_all);
}

static int read_id(struct http_request *r, const char **id, struct err *e)
{
    *id = api_param(r, 0);
    if (admin_query_none(r, e)) return -1;
    return uuid_is(*id) ? 0 : err_set(e, ERR_NOT_FOUND, "There is no request '%.64s' that has ended.", *id);
}

static void get_one(struct http_request *r)
{
    struct err e = {0};
    const char *id;
    json_t *out = NULL;
    if (read_id(r, &id, &e) || feedback_get(admin_gateway(r)->db, admin_tenant(r), id, &out, &e))
        http_reply_error(r, &e);
    else
        admin_reply(r, 200, out);
}

static void delete_one(struct http_request *r)
{
    struct err e = {0};
    const char *id;
    if (read_id(r, &id, &e) || feedback_delete(admin_gateway(r)->db, admin_tenant(r), id, &e))
        http_reply_error(r, &e);
    else
        admin_reply(r, 200, json_pack("{ss ss sb}", "id", id, "object", "feedback", "deleted", 1));
}

const struct http_route routes_feedback[] = {
    TENANT_ROWS(SCOPE_INFER, "POST", "/feedback", HTTP_BODY_BUFFER, API_BODY_MAX, post),
    TENANT_ROWS(SCOPE_USAGE, "GET", "/feedback", HTTP_BODY_NONE, 0, list_own),
    TENANT_ROWS(SCOPE_INFER, "GET", "/feedback/{request}", HTTP_BODY_NONE, 0, get_one),
    TENANT_ROWS(SCOPE_INFER, "DELETE", "/feedback/{request}", HTTP_BODY_NONE, 0, delete_one),
    {0},
};

const struct http_route routes_feedback_admin[] = {
    ADMIN_READ("/admin/v1/feedback", list_all),
    {0},
};
