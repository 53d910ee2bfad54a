/* events_api: what happened, oldest first, by seq: a reader keeps the last one it saw and asks for what is after. The
 * operator sees everybody's and the gateway's own, or with ?tenant=NAME one's; a tenant its own. On database threads. */
#include "gateway/api/admin_api.h"
#include "gateway/api/page.h"
#include "gateway/auth/auth_store.h"
#include "gateway/live/event.h"

/* A tenant's own don't say whose they are; here they do, as all do. */
static int fill_one(const struct http_request *r, const char *name, const struct page *p, json_t *data, bool *more, struct err *e)
{
    json_t *tenant = NULL, *event;
    size_t i;
    if (tenant_get(admin_gateway(r)->auth, name, &tenant, e)) return -1;
    int rc = event_list(admin_gateway(r)->db, json_string_value(json_object_get(tenant, "id")), p, data, more, e);
    json_array_foreach(data, i, event) json_object_set(event, "tenant", json_object_get(tenant, "name"));
    json_decref(tenant);
    return rc;
}

static int fill_all(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    const char *name = http_query(r, "tenant");
    return name ? fill_one(r, name, p, data, more, e) : event_list(admin_gateway(r)->db, NULL, p, data, more, e);
}

static int fill_own(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    return event_list(admin_gateway(r)->db, admin_tenant(r), p, data, more, e);
}

static void list_all(struct http_request *r)
{
    static const char *const also[] = {"tenant", NULL};
    admin_answer_page(r, also, "seq", fill_all);
}

static void list_own(struct http_request *r)
{
    admin_answer_page(r, NULL, "seq", fill_own);
}

static void own(struct http_request *r)
{
    admin_defer(r, list_own);
}

const struct http_route routes_events_admin[] = {
    ADMIN_READ("/admin/v1/events", list_all),
    {0},
};

const struct http_route routes_events[] = {
    {"GET", "/v1/events", HTTP_BODY_NONE, 0, admin_usage_head, NULL, own, NULL},
    {"GET", "/t/{tenant}/v1/events", HTTP_BODY_NONE, 0, admin_usage_head, NULL, own, NULL},
    {0},
};
