/* events_api: what happened, oldest first, by seq: a reader keeps the last one it saw and asks for what is after. The
 * operator sees everybody's and the gateway's own, a tenant its own. On database threads. */
#include "gateway/admin_api.h"
#include "gateway/event.h"
#include "gateway/page.h"

static int fill_all(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    return event_list(admin_gateway(r)->db, NULL, p, data, more, e);
}

static int fill_own(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    return event_list(admin_gateway(r)->db, admin_tenant(r), p, data, more, e);
}

static void list_all(struct http_request *r)
{
    admin_answer_page(r, NULL, "seq", fill_all);
}

static void list_own(struct http_request *r)
{
    admin_answer_page(r, NULL, "seq", fill_own);
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

static void own(struct http_request *r)
{
    admin_defer(r, list_own);
}

const struct http_route routes_events_admin[] = {
    ADMIN_READ("/admin/v1/events", list_all),
    {0},
};

const struct http_route routes_events[] = {
    {"GET", "/v1/events", HTTP_BODY_NONE, 0, tenant_head, NULL, own, NULL},
    {"GET", "/t/{tenant}/v1/events", HTTP_BODY_NONE, 0, tenant_head, NULL, own, NULL},
    {0},
};
