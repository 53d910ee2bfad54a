/* What all handlers of the gateway share: http_request.server_user points to this. Made by main.c, immutable after start. */
#pragma once
#include "base/client.h"
#include "base/http.h"
#include "base/metrics.h"
#include "gateway/auth.h"
#include "gateway/db.h"
#include "gateway/engine.h"
#include "gateway/ledger.h"
#include "gateway/registry.h"

struct upstream; /* gateway/upstream.h: upstream_open() after client and engine, upstream_close() after the public listener has stopped */
struct uploads;  /* gateway/upload.h: uploads_open() after registry and engine, before the listeners; uploads_close() after them */
struct settings; /* schema/gateway_settings.def, see gateway/settings.h */

struct gateway {
    const struct settings *set;
    struct db *db;
    struct auth *auth;
    struct registry *registry;
    struct ledger *ledger;
    struct client *client;
    struct engine *engine;
    struct upstream *upstream;
    struct uploads *uploads;
    struct metrics *metrics;
    char store[1024]; /* blobs */
    char tmp[1024];
};

/* Route rows, each table ended by method NULL; main.c joins them into one per listener. */
extern const struct http_route routes_inference[]; /* chat_api.c: /v1 and /t/{tenant}/v1: chat/completions, completions, models */
extern const struct http_route routes_adapters[];  /* adapters_api.c: /v1/adapters... and under /t/{tenant} */
extern const struct http_route routes_usage[];     /* usage_api.c: /v1/usage and under /t/{tenant} */
extern const struct http_route routes_admin[];     /* admin_api.c: /admin/v1/... (admin listener) */
extern const struct http_route routes_health[];    /* health.c: /health, /ready and /metrics of the admin listener */
extern const struct http_route routes_health_public[]; /* health.c: /health alone */
