/* What JSON handlers share: bodies, queries, lists, who asks, and leaving the event thread. Lists by cursor are gateway/api/page.h's, ETags
 * gateway/api/revision.h's.
 *
 * Idempotency-Key of a POST that goes through admin_defer() is looked at here, before the handler; the handler passes admin_actor() on to its
 * job, and the job ends with once_keep(d, c, by, status, answer, e) (gateway/api/idempotency.h), answer being what it will be answered with. */
#pragma once
#include "base/json.h"
#include "gateway/db/db_audit.h"
#include "gateway/gateway.h"

#define ADMIN_ANSWER_MAX (64u << 20)

#define API_BODY_MAX 65536
#define API_PAGE_DEFAULT 20
#define API_PAGE_MAX 100

static inline struct gateway *admin_gateway(const struct http_request *r)
{
    return r->server_user;
}

/* Checked in the route's head hook, for the handlers behind it. */
static inline const struct principal *admin_who(const struct http_request *r)
{
    return r->user;
}
static inline const char *admin_tenant(const struct http_request *r)
{
    return admin_who(r)->tenant;
}

/* Head hook of admin routes: GET needs SCOPE_ADMIN_READ, everything else SCOPE_ADMIN. */
int admin_head(struct http_request *r);
/* Head hooks of the tenants' routes, with the tenant in the path or without: SCOPE_USAGE, SCOPE_KEYS, any key of the tenant. */
int admin_usage_head(struct http_request *r);
int admin_keys_head(struct http_request *r);
int admin_any_head(struct http_request *r);
/* Keeps a copy of who in r->user. Returns 0, or -1 when memory was short and it has replied. */
int admin_set_who(struct http_request *r, const struct principal *who);

/* The operator acts for the tenant that the path's first parameter names: from here on admin_tenant(r) is its id, while admin_actor(r) stays the
 * operator's key. On a database thread. -1 with ERR_NOT_FOUND: there is none. */
int admin_for_tenant(struct http_request *r, struct err *e);

/* Rows of the admin listener: the event thread only passes the request on, to `fn` on a deferred thread. */
struct admin_handler {
    void (*work)(struct http_request *r);
};
void admin_pass_on(struct http_request *r);

#define ADMIN_READ(pattern, fn)                                                                                        \
    {                                                                                                                  \
        "GET", pattern, HTTP_BODY_NONE, 0, admin_head, NULL, admin_pass_on, &(const struct admin_handler)              \
        {                                                                                                              \
            fn                                                                                                         \
        }                                                                                                              \
    }
#define ADMIN_CHANGE(method, pattern, fn)                                                                              \
    {                                                                                                                  \
        method, pattern, HTTP_BODY_BUFFER, API_BODY_MAX, admin_head, NULL, admin_pass_on,                              \
            &(const struct admin_handler)                                                                              \
        {                                                                                                              \
            fn                                                                                                         \
        }                                                                                                              \
    }

/* Rows of the tenants' API: for the key's own tenant, and with the tenant in the path; the event thread only passes the request on to `fn`. Who writes them
 * includes gateway/proxy/chat_api.h, too, for its struct api_route and api_param(). path: what stands behind /v1. */
void admin_pass_on_own(struct http_request *r);

#define TENANT_ROW(scope, method, pattern, body, most, fn, in_path)                                                    \
    {                                                                                                                  \
        method, pattern, body, most, api_who, NULL, admin_pass_on_own, &(const struct api_route)                       \
        {                                                                                                              \
            scope, in_path, &(const struct admin_handler)                                                              \
            {                                                                                                          \
                fn                                                                                                     \
            }                                                                                                          \
        }                                                                                                              \
    }
#define TENANT_ROWS(scope, method, path, body, most, fn)                                                               \
    TENANT_ROW(scope, method, "/v1" path, body, most, fn, false),                                                      \
        TENANT_ROW(scope, method, "/t/{tenant}/v1" path, body, most, fn, true)

/* The same handlers for the operator, below one tenant: `fn` runs when admin_for_tenant() has found it. */
void admin_pass_on_for(struct http_request *r);

#define OPERATOR_ROW(method, path, body, most, fn)                                                                     \
    {                                                                                                                  \
        method, "/admin/v1/tenants/{name}" path, body, most, admin_head, NULL, admin_pass_on_for,                      \
            &(const struct api_route)                                                                                  \
        {                                                                                                              \
            0, true, &(const struct admin_handler)                                                                     \
            {                                                                                                          \
                fn                                                                                                     \
            }                                                                                                          \
        }                                                                                                              \
    }

/* Takes over v; NULL answers with out of memory. */
void admin_reply(struct http_request *r, int status, json_t *v);
/* A page of buckets, whose list stands in `data` as text (of ADMIN_ANSWER_MAX bytes at most): a tree of some thousand results takes longer than to find them.
 * next: the start of the page after; 0: there is none. */
void admin_reply_buckets(struct http_request *r, const struct buf *data, int64_t next);
/* {"object":"list",...}; takes over data. id: the member that first_id and last_id show. */
void admin_reply_list(struct http_request *r, json_t *data, const char *id, bool more);

/* GET of a list by cursor: fill() appends to data what the page asks for. also: see page_read(); id: the member that is the cursor. */
struct page;
void admin_answer_page(struct http_request *r, const char *const *also, const char *id,
                       int (*fill)(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e));

/* Runs work(r) on one of the database's threads; 503 when too many wait. A POST with an Idempotency-Key that was answered before is answered
 * from what was kept, and work is not called. admin_who(r) must be set. */
void admin_defer(struct http_request *r, void (*work)(struct http_request *r));

/* Every query argument must be one of `names` (ended by NULL) and come once; ERR_INVALID names the first that isn't. */
int admin_query_known(const struct http_request *r, const char *const *names, struct err *e);
int admin_query_none(const struct http_request *r, struct err *e);
/* ?wait=ready and nothing else. */
int admin_query_wait(const struct http_request *r, bool *wait, struct err *e);
/* A decimal number; absent: *out stays. */
int admin_query_int(const struct http_request *r, const char *name, int64_t min, int64_t max, int64_t *out,
                    struct err *e);

/* ?tenant=NAME -> its id in the request's memory; absent: *id stays. ERR_NOT_FOUND. Blocks. */
int admin_query_tenant(struct http_request *r, const char **id, struct err *e);
/* start_time, end_time are in order. */
int admin_query_in_order(int64_t start, int64_t end, struct err *e);

/* group_by and group_by[], with commas or repeated, of the words that are known here: bits. */
struct admin_group {
    const char *word;
    unsigned bit;
};
int admin_query_groups(const struct http_request *r, const struct admin_group *known, size_t n, unsigned *out, struct err *e);

/* `after` and `limit` of a list, and nothing else. New lists use page_read() of gateway/api/page.h. */
struct admin_page {
    const char *after; /* never NULL */
    int limit;
};
int admin_page(const struct http_request *r, struct admin_page *out, struct err *e);

/* The body as an object with no fields but `names` (ended by NULL). */
int admin_body(const struct http_request *r, const char *const *names, json_t **out, struct err *e);

/* Who makes this change, for its job. Where the handler returns before its job is over, by.once is to be kept by once_ref(). */
struct actor admin_actor(const struct http_request *r);

/* usage_api.c: /v1/usage for one tenant's id, or everybody (NULL, then group_by tenant and ?tenant=NAME are allowed). */
void usage_answer(struct http_request *r, const char *tenant);

/* Handlers, each on a deferred thread. */
void admin_tenants_post(struct http_request *r);
void admin_tenants_get(struct http_request *r);
void admin_tenant_get(struct http_request *r);
void admin_tenant_patch(struct http_request *r);
void admin_keys_post(struct http_request *r);
void admin_keys_get(struct http_request *r);
void admin_key_get(struct http_request *r);
void admin_key_patch(struct http_request *r);
void admin_key_delete(struct http_request *r);
void admin_key_rotate(struct http_request *r);
void admin_admin_keys_post(struct http_request *r);
void admin_admin_keys_get(struct http_request *r);
void admin_admin_key_get(struct http_request *r);
void admin_admin_key_delete(struct http_request *r);
void admin_settings_get(struct http_request *r);
void admin_reload_post(struct http_request *r);
