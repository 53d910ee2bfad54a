/* /v1/aliases: names in front of versions (gateway/registry/alias.h), a tenant's own; and below /admin/v1/tenants/{name}, where the operator sets them for a
 * tenant (a rollback at night needs no key of the tenant's). Each handler runs on one of the database's threads.
 *
 * A PUT takes the whole alias, so a change is read, edited, written back, with If-Match what was read; a rollback needs
 * no reading, which is what one wants of it.
 *
 * A change is answered behind captures_fence(): an alias that keeps no conversations any more has written its last one. */
#include "base/json.h"
#include "gateway/api/admin_api.h"
#include "gateway/api/page.h"
#include "gateway/api/revision.h"
#include "gateway/capture/capture.h"
#include "gateway/proxy/chat_api.h"
#include "gateway/registry/alias.h"
#include "gateway/registry/alias_draft.h"
#include "gateway/registry/residency.h"

/* Takes v over. */
static void reply(struct http_request *r, int status, json_t *v)
{
    revision_show(r, json_integer_value(json_object_get(v, "revision")));
    api_reply(r, status, v);
}

static void reply_changed(struct http_request *r, int status, json_t *v)
{
    captures_fence(admin_gateway(r)->captures);
    reply(r, status, v);
}

static int fill(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    return alias_list(admin_gateway(r)->registry, admin_tenant(r), p, data, more, e);
}

static void list(struct http_request *r)
{
    admin_answer_page(r, NULL, "id", fill);
}

static void get(struct http_request *r)
{
    struct err e = {0};
    json_t *v;
    if (admin_query_none(r, &e) || alias_get(admin_gateway(r)->registry, admin_tenant(r), api_param(r, 0), &v, &e))
        api_refuse(r, &e);
    else
        reply(r, 200, v);
}

static void put(struct http_request *r)
{
    const char *names[DRAFT_FIELDS + 1];
    struct gateway *g = admin_gateway(r);
    struct actor by = admin_actor(r);
    struct err e = {0};
    json_t *body = NULL, *v = NULL;
    bool created = false;
    struct alias_put p = {.tenant = admin_tenant(r), .name = api_param(r, 0), .served = residency_serves, .u = g};
    draft_fields(names);
    int rc = admin_query_none(r, &e) || revision_wanted(r, &p.want, &e) || admin_body(r, names, &body, &e) ? -1 : 0;
    p.body = body;
    if (rc == 0) rc = alias_put(g->registry, &by, &p, &v, &created, &e);
    json_decref(body);
    if (rc)
        api_refuse(r, &e);
    else
        reply_changed(r, created ? 201 : 200, v);
}

static void rollback(struct http_request *r)
{
    struct gateway *g = admin_gateway(r);
    struct actor by = admin_actor(r);
    struct err e = {0};
    int64_t want;
    json_t *v = NULL;
    if (admin_query_none(r, &e) || revision_wanted(r, &want, &e) ||
        alias_rollback(g->registry, &by, admin_tenant(r), api_param(r, 0), want, residency_serves, g, &v, &e))
        api_refuse(r, &e);
    else
        reply_changed(r, 200, v);
}

static void drop(struct http_request *r)
{
    struct gateway *g = admin_gateway(r);
    struct actor by = admin_actor(r);
    struct err e = {0};
    int64_t want;
    if (admin_query_none(r, &e) || revision_wanted(r, &want, &e) ||
        alias_delete(g->registry, &by, admin_tenant(r), api_param(r, 0), want, &e)) {
        api_refuse(r, &e);
        return;
    }
    captures_fence(g->captures);
    api_reply(r, 200, json_pack("{ss ss sb}", "id", api_param(r, 0), "object", "alias", "deleted", 1));
}

#define PUT_MAX (4 * (ALIAS_PREFIX_MAX + ALIAS_PARTS * ALIAS_PART_MAX) + API_BODY_MAX)

const struct http_route routes_aliases[] = {
    TENANT_ROWS(SCOPE_WRITE, "GET", "/aliases", HTTP_BODY_NONE, 0, list),
    TENANT_ROWS(SCOPE_WRITE, "GET", "/aliases/{name}", HTTP_BODY_NONE, 0, get),
    TENANT_ROWS(SCOPE_WRITE, "PUT", "/aliases/{name}", HTTP_BODY_BUFFER, PUT_MAX, put),
    TENANT_ROWS(SCOPE_WRITE, "DELETE", "/aliases/{name}", HTTP_BODY_NONE, 0, drop),
    TENANT_ROWS(SCOPE_WRITE, "POST", "/aliases/{name}/rollback", HTTP_BODY_NONE, 0, rollback),
    {0},
};

const struct http_route routes_aliases_admin[] = {
    OPERATOR_ROW("GET", "/aliases", HTTP_BODY_NONE, 0, list),
    OPERATOR_ROW("GET", "/aliases/{alias}", HTTP_BODY_NONE, 0, get),
    OPERATOR_ROW("PUT", "/aliases/{alias}", HTTP_BODY_BUFFER, PUT_MAX, put),
    OPERATOR_ROW("DELETE", "/aliases/{alias}", HTTP_BODY_NONE, 0, drop),
    OPERATOR_ROW("POST", "/aliases/{alias}/rollback", HTTP_BODY_NONE, 0, rollback),
    {0},
};
