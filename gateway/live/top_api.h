/* GET /admin/v1/top: what is going on at this moment; its row stands with the engines' routes. */
#pragma once
#include "base/http.h"

/* [{tenant, in_flight, tokens_per_s}], the busiest `max`, at most 100. */
struct json_t;
struct live;
struct json_t *top_tenants(struct live *l, int max);

void top_get(struct http_request *r);
