/* adjustments_api: corrections of what was billed, and credits, over HTTP.
 *
 *     POST /admin/v1/adjustments      the operator makes one; with an Idempotency-Key, sending it again makes no second
 *     GET  /admin/v1/adjustments      all, ?tenant=NAME, ?request=ID; newest first
 *     GET  /v1/adjustments            a tenant's own, without who made them
 *
 * On database threads. */
#include "gateway/api/admin_api.h"
#include "gateway/api/page.h"
#include "gateway/auth/auth_store.h"
#include "gateway/ledger/ledger_adjust.h"
#include <string.h>

#define COST_MAX 100000000000000ll /* nano-units: PRICE_COST_MAX of a request */

static int read_wish(const json_t *body, struct adjust_wish *w, struct err *e)
{
    const char *tenant = "", *request = "";
    *w = (struct adjust_wish){0};
    if (json_get_str(body, "tenant", NAME_MAX_LEN, &tenant, NULL, e) || json_get_str(body, "request", UUID_LEN - 1, &request, NULL, e) ||
        json_need_str(body, "reason", ADJUST_REASON_MAX, &w->reason, e) ||
        json_get_int(body, "input_tokens", -ADJUST_TOKENS_MAX, ADJUST_TOKENS_MAX, &w->prompt, NULL, e) ||
        json_get_int(body, "input_cached_tokens", -ADJUST_TOKENS_MAX, ADJUST_TOKENS_MAX, &w->cached, NULL, e) ||
        json_get_int(body, "output_tokens", -ADJUST_TOKENS_MAX, ADJUST_TOKENS_MAX, &w->output, NULL, e) ||
        json_get_int(body, "cost_nano", -COST_MAX, COST_MAX, &w->cost, &w->has_cost, e))
        return -1;
    if (!*w->reason) return err_field(e, ERR_INVALID, "reason", "'reason' must not be empty.");
    if (*request && !uuid_is(request)) return err_field(e, ERR_INVALID, "request", "'request' must be the id of a request.");
    w->tenant = *tenant ? tenant : NULL;
    w->request = *request ? request : NULL;
    return 0;
}

static void post(struct http_request *r)
{
    static const char *const fields[] = {"tenant", "request", "reason", "input_tokens", "input_cached_tokens", "output_tokens", "cost_nano", NULL};
    struct gateway *g = admin_gateway(r);
    struct err e = {0};
    struct actor by = admin_actor(r);
    struct adjust_wish w;
    json_t *body = NULL, *out = NULL;
    int rc = admin_query_none(r, &e) || admin_body(r, fields, &body, &e) || read_wish(body, &w, &e) ||
             ledger_adjust(g->ledger, g->auth, &by, &w, &out, &e);
    json_decref(body);
    if (rc) http_reply_error(r, &e);
    else admin_reply(r, 201, out);
}

static int check_id(const char *name, const char *value, struct err *e)
{
    return !value || uuid_is(value) ? 0 : err_field(e, ERR_INVALID, name, "'%s' must be an id.", name);
}

static int check_cursor(const struct page *p, struct err *e)
{
    return *page_cursor(p) ? check_id(page_back(p) ? "before" : "after", page_cursor(p), e) : 0;
}

static int fill_all(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    const char *name = http_query(r, "tenant");
    struct adjust_query q = {.request = http_query(r, "request"), .show_actor = true};
    json_t *o = NULL;
    if (check_id("request", q.request, e) || check_cursor(p, e)) return -1;
    if (name && tenant_get(admin_gateway(r)->auth, name, &o, e)) return -1;
    if (o) q.tenant = json_string_value(json_object_get(o, "id"));
    int rc = ledger_adjustments(admin_gateway(r)->ledger, &q, p, data, more, e);
    json_decref(o);
    return rc;
}

static int fill_own(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    struct adjust_query q = {.tenant = admin_tenant(r), .request = http_query(r, "request")};
    if (check_id("request", q.request, e) || check_cursor(p, e)) return -1;
    return ledger_adjustments(admin_gateway(r)->ledger, &q, p, data, more, e);
}

static void list_all(struct http_request *r)
{
    static const char *const also[] = {"tenant", "request", NULL};
    admin_answer_page(r, also, "id", fill_all);
}

static void list_own(struct http_request *r)
{
    static const char *const also[] = {"request", NULL};
    admin_answer_page(r, also, "id", fill_own);
}

static void get_one(struct http_request *r)
{
    struct err e = {0};
    json_t *out = NULL;
    int rc = admin_query_none(r, &e);
    if (!rc && !uuid_is(r->param[0])) rc = err_set(&e, ERR_NOT_FOUND, "There is no adjustment '%.64s'.", r->param[0]);
    if (!rc) rc = ledger_adjustment(admin_gateway(r)->ledger, r->param[0], &out, &e);
    if (rc) http_reply_error(r, &e);
    else admin_reply(r, 200, out);
}

static void own(struct http_request *r) { admin_defer(r, list_own); }

const struct http_route routes_adjustments_admin[] = {
    ADMIN_CHANGE("POST", "/admin/v1/adjustments", post),
    ADMIN_READ("/admin/v1/adjustments", list_all),
    ADMIN_READ("/admin/v1/adjustments/{id}", get_one),
    {0},
};

const struct http_route routes_adjustments[] = {
    {"GET", "/v1/adjustments", HTTP_BODY_NONE, 0, admin_usage_head, NULL, own, NULL},
    {"GET", "/t/{tenant}/v1/adjustments", HTTP_BODY_NONE, 0, admin_usage_head, NULL, own, NULL},
    {0},
};
