/* What the tenants' API files share: who asks, and the handlers of /v1/models. */
#pragma once
#include "gateway/gateway.h"
#include "gateway/settings.h"

/* `data` of a route of the tenants' API. */
struct api_route {
    unsigned scope;   /* what the key must allow */
    bool in_path;     /* /t/{tenant}/...: the tenant is param[0] */
    const void *what; /* the route's own */
};

static inline const struct api_route *api_route(const struct http_request *r)
{
    return r->route->data;
}

/* Parameter i of the pattern, not counting {tenant}. */
static inline const char *api_param(const struct http_request *r, int i)
{
    return r->param[api_route(r)->in_path ? i + 1 : i];
}

/* Head callback: 401 or 403 before the body. r->user becomes the struct principal, in the request's arena. */
int api_who(struct http_request *r);

/* The error as the answer, with Retry-After on a 503. */
void api_refuse(struct http_request *r, const struct err *e);

/* A JSON value as the answer; the value is released. NULL: out of memory. */
struct json_t;
#define API_REPLY_MAX (64u << 20)
void api_reply(struct http_request *r, int status, struct json_t *v);

void models_list(struct http_request *r);
void models_get(struct http_request *r);
