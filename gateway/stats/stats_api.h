/* What the routes of stats, costs and invoices share: their queries, and one handler for the tenant's and the operator's side of a question. */
#pragma once
#include "gateway/api/admin_api.h"

/* A question over HTTP: reads its query. 0: what it asked for is *out (NULL: there was no memory for it). 1: it has answered itself. -1 with an error. tenant: an id; NULL: everybody, which only the operator (admin) may ask. On a database thread. */
typedef int stats_ask(struct http_request *r, bool admin, const char *tenant, json_t **out, struct err *e);

struct stats_handler {
    struct admin_handler on; /* first: admin_pass_on() looks for it */
    stats_ask *ask;
    bool admin;
};
void stats_work(struct http_request *r);

/* A row of the admin listener; two of the public one. */
#define STATS_ADMIN(path, fn)                                                                  \
    {                                                                                          \
        "GET", "/admin/v1" path, HTTP_BODY_NONE, 0, admin_head, NULL, admin_pass_on,           \
            &(const struct stats_handler){{stats_work}, fn, true}                              \
    }
#define STATS_AT(prefix, path, fn)                                                             \
    {                                                                                          \
        "GET", prefix path, HTTP_BODY_NONE, 0, admin_usage_head, NULL,  admin_pass_on,         \
            &(const struct stats_handler){{stats_work}, fn, false}                             \
    }
#define STATS_OWN(path, fn) STATS_AT("/v1", path, fn), STATS_AT("/t/{tenant}/v1", path, fn)

/* start_time, end_time, of the operator also tenant, and `more` (ended by NULL). */
int stats_query_known(const struct http_request *r, bool admin, const char *const *more, struct err *e);
/* One of n words, by its place; absent: *out stays. */
int stats_query_word(const struct http_request *r, const char *name, const char *const *words, int n, int *out, struct err *e);
int stats_query_bool(const struct http_request *r, const char *name, bool *out, struct err *e);
/* Without them: the span_s before now. */
int stats_query_times(const struct http_request *r, int64_t span_s, int64_t *start, int64_t *end, struct err *e);
