/* webhooks_api: webhooks over HTTP, a tenant's own (/v1/webhooks) and everybody's (/admin/v1/webhooks), by the same handlers.
 *
 *     reach    the tenant's id, or NULL for the operator: all that a handler knows of who asks
 *     scopes   a tenant needs `keys`: a webhook hands usage to whoever has its URL, and goes on when the key that made it is gone
 *
 * A secret leaves in the answers to create and rotate, and nowhere else. Each handler is on a database thread. */
#include "base/clock.h"
#include "base/json.h"
#include "gateway/api/revision.h"
#include "gateway/auth/keys_api.h"
#include "gateway/proxy/chat_api.h"
#include "gateway/webhook/webhook.h"
#include <string.h>

#define GRACE_DEFAULT_S 86400

struct webhooks_route {
    struct admin_handler on; /* first, for admin_pass_on() */
    int skip;                /* parameters before {id} */
    bool admin;
};

static const struct webhooks_route *route_of(const struct http_request *r)
{
    return r->route->data;
}

static const char *reach_of(const struct http_request *r)
{
    return route_of(r)->admin ? NULL : admin_tenant(r);
}

static const char *id_of(const struct http_request *r)
{
    return r->param[route_of(r)->skip];
}

/* --- reading --- */

static int fill(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    const char *reach = reach_of(r), *name = http_query(r, "tenant");
    json_t *tenant = NULL;
    if (name && tenant_get(admin_gateway(r)->auth, name, &tenant, e)) return -1;
    if (tenant) reach = json_string_value(json_object_get(tenant, "id"));
    int rc = webhook_list(admin_gateway(r), reach, p, data, more, e);
    json_decref(tenant);
    return rc;
}

static void list(struct http_request *r)
{
    static const char *const also[] = {"tenant", NULL};
    admin_answer_page(r, route_of(r)->admin ? also : NULL, "id", fill);
}

static void get(struct http_request *r)
{
    struct err e = {0};
    json_t *o = NULL;
    int rc = admin_query_none(r, &e) || webhook_get(admin_gateway(r), reach_of(r), id_of(r), &o, &e);
    keys_answer(r, rc, 200, o, &e);
}

/* --- changing --- */

struct ask {
    struct actor by;
    struct webhook_who who;
    struct err e;
};

/* id NULL: a new one. */
static int begin(struct http_request *r, struct ask *a, const char *id)
{
    *a = (struct ask){.by = admin_actor(r), .who = {.reach = reach_of(r), .id = id}};
    a->who.by = &a->by;
    return admin_query_none(r, &a->e) || revision_wanted(r, &a->who.want, &a->e) ? -1 : 0;
}

static void post(struct http_request *r)
{
    static const char *const own[] = {"name", "url", "authorization", "usage", "events", NULL},
                            *const all[] = {"name", "url", "authorization", "usage", "events", "tenant", NULL};
    struct gateway *g = admin_gateway(r);
    struct ask a;
    struct webhook_wish w;
    json_t *body = NULL, *o = NULL;
    int rc = begin(r, &a, NULL) || admin_body(r, route_of(r)->admin ? all : own, &body, &a.e) || webhook_read_wish(g, body, true, &w, &a.e) ||
             webhook_create(g, &a.who, &w, &o, &a.e);
    json_decref(body);
    keys_answer_secret(r, rc, o, &a.e);
}

static void patch(struct http_request *r)
{
    static const char *const names[] = {"name", "url", "authorization", "usage", "events", NULL};
    struct gateway *g = admin_gateway(r);
    struct ask a;
    struct webhook_wish w;
    json_t *body = NULL, *o = NULL;
    int rc = begin(r, &a, id_of(r)) || admin_body(r, names, &body, &a.e) || webhook_read_wish(g, body, false, &w, &a.e);
    if (!rc && !w.name && !w.url && !w.authorization && !w.set_events && w.usage < 0)
        rc = err_set(&a.e, ERR_MISSING, "There is nothing to change: name, url, authorization, usage or events.");
    if (!rc) rc = webhook_update(g, &a.who, &w, &o, &a.e);
    json_decref(body);
    keys_answer(r, rc, 200, o, &a.e);
}

static void drop(struct http_request *r)
{
    struct ask a;
    json_t *o = NULL;
    if (begin(r, &a, id_of(r)) || webhook_remove(admin_gateway(r), &a.who, &o, &a.e))
        api_refuse(r, &a.e);
    else
        admin_reply(r, 200, o);
}

/* No body at all is an empty one. */
static int read_body(struct http_request *r, const char *const *names, json_t **body, struct err *e)
{
    return r->body ? admin_body(r, names, body, e) : 0;
}

static void rotate(struct http_request *r)
{
    static const char *const names[] = {"grace_s", NULL};
    struct ask a;
    int64_t grace = GRACE_DEFAULT_S;
    json_t *body = NULL, *o = NULL;
    int rc = begin(r, &a, id_of(r)) || read_body(r, names, &body, &a.e) ||
             json_get_int(body, "grace_s", 0, WEBHOOK_GRACE_MAX_S, &grace, NULL, &a.e) ||
             webhook_rotate(admin_gateway(r), &a.who, grace, &o, &a.e);
    json_decref(body);
    keys_answer_secret(r, rc, o, &a.e);
}

static void act(struct http_request *r,
                int (*fn)(struct gateway *g, const struct webhook_who *who, json_t **out, struct err *e))
{
    static const char *const none[] = {NULL};
    struct ask a;
    json_t *body = NULL, *o = NULL;
    int rc = begin(r, &a, id_of(r)) || read_body(r, none, &body, &a.e) || fn(admin_gateway(r), &a.who, &o, &a.e);
    json_decref(body);
    keys_answer(r, rc, 200, o, &a.e);
}

static void pause_it(struct http_request *r)
{
    act(r, webhook_pause);
}

static void resume(struct http_request *r)
{
    act(r, webhook_resume);
}

static void redeliver(struct http_request *r)
{
    static const char *const names[] = {"start_time", "end_time", "after_event", NULL};
    struct ask a;
    struct webhook_span s;
    json_t *body = NULL, *o = NULL;
    int rc = begin(r, &a, id_of(r)) || admin_body(r, names, &body, &a.e) || webhook_read_span(body, clock_wall_us() / 1000000, &s, &a.e) ||
             webhook_redeliver(admin_gateway(r), &a.who, s.start, s.end, s.after_event, &o, &a.e);
    json_decref(body);
    keys_answer(r, rc, 202, o, &a.e);
}

static void test(struct http_request *r)
{
    static const char *const none[] = {NULL};
    struct err e = {0};
    json_t *body = NULL;
    int rc = admin_query_none(r, &e) || read_body(r, none, &body, &e);
    json_decref(body);
    if (rc)
        api_refuse(r, &e);
    else
        webhook_try(r, reach_of(r), id_of(r));
}

/* --- routes --- */

#define ROW(method, path, body, most, head, fn, skip, admin)                                                                 \
    {                                                                                                                        \
        method, path, body, most, head, NULL, admin_pass_on, &(const struct webhooks_route)                                  \
        {                                                                                                                    \
            {fn}, skip, admin                                                                                                \
        }                                                                                                                    \
    }
#define OWN(method, path, body, most, fn)                                                                                    \
    ROW(method, "/v1/webhooks" path, body, most, admin_keys_head, fn, 0, false),                                                 \
        ROW(method, "/t/{tenant}/v1/webhooks" path, body, most, admin_keys_head, fn, 1, false)
#define ALL(method, path, body, most, fn) ROW(method, "/admin/v1/webhooks" path, body, most, admin_head, fn, 0, true)

#define TABLE(WHO)                                                                                                           \
    WHO("GET", "", HTTP_BODY_NONE, 0, list), WHO("POST", "", HTTP_BODY_BUFFER, API_BODY_MAX, post),                          \
        WHO("GET", "/{id}", HTTP_BODY_NONE, 0, get), WHO("PATCH", "/{id}", HTTP_BODY_BUFFER, API_BODY_MAX, patch),           \
        WHO("DELETE", "/{id}", HTTP_BODY_NONE, 0, drop), WHO("POST", "/{id}/rotate", HTTP_BODY_BUFFER, API_BODY_MAX, rotate), \
        WHO("POST", "/{id}/pause", HTTP_BODY_BUFFER, API_BODY_MAX, pause_it),                                                \
        WHO("POST", "/{id}/resume", HTTP_BODY_BUFFER, API_BODY_MAX, resume),                                                 \
        WHO("POST", "/{id}/redeliver", HTTP_BODY_BUFFER, API_BODY_MAX, redeliver),                                           \
        WHO("POST", "/{id}/test", HTTP_BODY_BUFFER, API_BODY_MAX, test)

const struct http_route routes_webhooks[] = {TABLE(OWN), {0}};

const struct http_route routes_webhooks_admin[] = {TABLE(ALL), {0}};
