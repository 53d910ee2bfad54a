/* /v1/quarantine and /admin/v1/quarantine: requests that are refused because engines were lost with them. A tenant sees and lifts its own, the operator
 * everybody's. Adapters in quarantine are among the adapters (state=quarantined), and `restore` lifts them. On database threads. */
#include "base/clock.h"
#include "gateway/api/admin_api.h"
#include "gateway/api/page.h"
#include "gateway/auth/auth_store.h"
#include "gateway/proxy/chat_api.h"
#include "gateway/proxy/quarantine.h"

/* A tenant's own don't say whose they are; here they do, as all do. */
static int fill_one(const struct http_request *r, const char *name, const struct page *p, json_t *data, bool *more, struct err *e)
{
    json_t *tenant = NULL, *one;
    size_t i;
    if (tenant_get(admin_gateway(r)->auth, name, &tenant, e)) return -1;
    int rc = blame_list(admin_gateway(r)->blame, json_string_value(json_object_get(tenant, "id")), p, clock_mono_us(), clock_wall_us(), data, more, e);
    json_array_foreach(data, i, one) json_object_set(one, "tenant", json_object_get(tenant, "name"));
    json_decref(tenant);
    return rc;
}

static int fill_all(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    const char *name = http_query(r, "tenant");
    if (name) return fill_one(r, name, p, data, more, e);
    return blame_list(admin_gateway(r)->blame, NULL, p, clock_mono_us(), clock_wall_us(), data, more, e);
}

static int fill_own(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    return blame_list(admin_gateway(r)->blame, admin_tenant(r), p, clock_mono_us(), clock_wall_us(), data, more, e);
}

static void list_all(struct http_request *r)
{
    static const char *const also[] = {"tenant", NULL};
    admin_answer_page(r, also, "id", fill_all);
}

static void list_own(struct http_request *r)
{
    admin_answer_page(r, NULL, "id", fill_own);
}

static void lift(struct http_request *r, const char *tenant, const char *id)
{
    struct err e = {0};
    struct actor by = admin_actor(r);
    if (admin_query_none(r, &e) || quarantine_lift(admin_gateway(r), &by, tenant, id, &e))
        http_reply_error(r, &e);
    else
        admin_reply(r, 200, json_pack("{ss ss sb}", "id", id, "object", "quarantine", "deleted", 1));
}

static void lift_any(struct http_request *r)
{
    lift(r, NULL, r->param[0]);
}

static void lift_own(struct http_request *r)
{
    lift(r, admin_tenant(r), api_param(r, 0));
}

const struct http_route routes_quarantine[] = {
    TENANT_ROWS(SCOPE_WRITE, "GET", "/quarantine", HTTP_BODY_NONE, 0, list_own),
    TENANT_ROWS(SCOPE_WRITE, "DELETE", "/quarantine/{id}", HTTP_BODY_NONE, 0, lift_own),
    {0},
};

const struct http_route routes_quarantine_admin[] = {
    ADMIN_READ("/admin/v1/quarantine", list_all),
    ADMIN_CHANGE("DELETE", "/admin/v1/quarantine/{id}", lift_any),
    {0},
};
