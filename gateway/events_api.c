/* events_api: what happened, oldest first, by seq: a reader keeps the last one it saw and asks for what is after. The
 * operator sees everybody's and the gateway's own, a tenant its own. On database threads. */
#include "gateway/admin_api.h"
#include "gateway/event.h"
#include "gateway/page.h"

static void list(struct http_request *r, const char *tenant)
{
    struct err e = {0};
    struct page p;
    bool more;
    json_t *data = json_array();
    if (page_read(r, NULL, &p, &e) || event_list(admin_gateway(r)->db, tenant, &p, data, &more, &e)) {
        json_decref(data);
        http_reply_error(r, &e);
        return;
    }
    admin_reply_list(r, data, "seq", more);
}

static void list_all(struct http_request *r)
{
    list(r, NULL);
}

static void list_own(struct http_request *r)
{
    list(r, admin_who(r)->tenant);
}

static int tenant_head(struct http_request *r)
{
    struct principal who;
    struct err e = {0};
    if (auth_check(admin_gateway(r)->auth, http_bearer(r), r->param[0], SCOPE_USAGE, &who, &e) == 0)
        return admin_set_who(r, &who);
    http_reply_error(r, &e);
    return -1;
}

static void all(struct http_request *r)
{
    admin_defer(r, list_all);
}

static void own(struct http_request *r)
{
    admin_defer(r, list_own);
}

const struct http_route routes_events_admin[] = {
    {"GET", "/admin/v1/events", HTTP_BODY_NONE, 0, admin_head, NULL, all, NULL},
    {0},
};

const struct http_route routes_events[] = {
    {"GET", "/v1/events", HTTP_BODY_NONE, 0, tenant_head, NULL, own, NULL},
    {"GET", "/t/{tenant}/v1/events", HTTP_BODY_NONE, 0, tenant_head, NULL, own, NULL},
    {0},
};
