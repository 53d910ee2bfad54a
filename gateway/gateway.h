/* What all handlers of the gateway share: http_request.server_user points to this. Made by main.c, immutable after start. */
#pragma once
#include "base/client.h"
#include "base/http.h"
#include "base/metrics.h"
#include "gateway/auth.h"
#include "gateway/db.h"
#include "gateway/ledger.h"
#include "gateway/limit.h"
#include "gateway/pool.h"
#include "gateway/price.h"
#include "gateway/registry.h"

struct upstream; /* gateway/upstream.h: upstream_open() after client and pool, upstream_close() after the public listener has stopped */
struct uploads;  /* gateway/upload.h: uploads_open() after registry and pool, before the listeners; uploads_close() after them */
struct once_book; /* gateway/idempotency.h: once_open() after db, before the listeners; once_close() after them */
struct settings_live; /* gateway/settings.h */
struct docs;     /* gateway/openapi.h: docs_open() with the joined routes, before the listeners */
struct settings; /* schema/gateway_settings.def, see gateway/settings.h */

struct gateway {
    const struct settings *_Atomic set; /* in force now; a request that must see one state takes it once */
    struct settings_live *settings;
    struct db *db;
    struct auth *auth;
    struct registry *registry;
    struct ledger *ledger;
    struct limits *limits; /* after ledger_recover() */
    struct prices *prices;
    struct client *client;
    struct pool *pool;
    struct upstream *upstream;
    struct uploads *uploads;
    struct once_book *once;
    struct docs *docs;
    struct metrics *metrics;
    char store[1024]; /* blobs */
    char tmp[1024];
};

/* Route rows, each table ended by method NULL; main.c joins them into one per listener. */
extern const struct http_route routes_inference[]; /* chat_api.c: /v1 and /t/{tenant}/v1: chat/completions, completions, models */
extern const struct http_route routes_adapters[];  /* adapters_api.c: /v1/adapters... and under /t/{tenant} */
extern const struct http_route routes_uploads[];   /* uploads_api.c: uploads in parts and imports, beside them */
extern const struct http_route routes_aliases[];   /* aliases_api.c: /v1/aliases... */
extern const struct http_route routes_adapters_admin[]; /* adapters_api.c, of the admin listener: all tenants' */
extern const struct http_route routes_usage[];     /* usage_api.c: /v1/usage and under /t/{tenant} */
extern const struct http_route routes_keys[];      /* keys_api.c: /v1/keys... and under /t/{tenant} */
extern const struct http_route routes_limits[];       /* limits_api.c: /v1/limits and under /t/{tenant} */
extern const struct http_route routes_limits_admin[]; /* limits_api.c: limits of tenants, keys and adapters */
extern const struct http_route routes_events[];       /* events_api.c: /v1/events and under /t/{tenant} */
extern const struct http_route routes_events_admin[]; /* events_api.c: everybody's */
extern const struct http_route routes_prices[];       /* prices_api.c (admin listener) */
extern const struct http_route routes_admin[];     /* admin_api.c: /admin/v1/... (admin listener) */
extern const struct http_route routes_engines[];   /* engines_api.c, top_api.c: /admin/v1/engines..., /admin/v1/top */
extern const struct http_route routes_health[];    /* health.c: /health, /ready and /metrics of the admin listener */
extern const struct http_route routes_health_public[]; /* health.c: /health alone */
extern const struct http_route routes_docs[], routes_docs_public[]; /* docs_api.c: /openapi.json and /docs */

/* routes.c: the tables of each listener, ended by NULL. A table that is listed here is served and must be described (schema/openapi/). */
extern const struct http_route *const gateway_public_routes[], *const gateway_admin_routes[];
