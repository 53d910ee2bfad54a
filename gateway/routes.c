/* routes: which tables of routes make up each listener. One list for the program, the documents at /openapi.json and the test that compares them. */
#include "gateway/gateway.h"

const struct http_route *const gateway_public_routes[] = {
    routes_inference,
    routes_adapters,
    routes_uploads,
    routes_aliases,
    routes_usage,
    routes_keys,
    routes_limits,
    routes_events,
    routes_health_public,
    routes_docs_public,
    NULL,
};

const struct http_route *const gateway_admin_routes[] = {
    routes_admin,
    routes_engines,
    routes_adapters_admin,
    routes_limits_admin,
    routes_prices,
    routes_events_admin,
    routes_health,
    routes_docs,
    NULL,
};
