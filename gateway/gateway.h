/* What all handlers of the gateway share: http_request.server_user points to this. Made by main.c, immutable after start. */
#pragma once
#include "base/client.h"
#include "base/http.h"
#include "base/metrics.h"
#include "gateway/arrival.h"
#include "gateway/auth/auth.h"
#include "gateway/db/db.h"
#include "gateway/ledger/ledger.h"
#include "gateway/ledger/price.h"
#include "gateway/limits/limit.h"
#include "gateway/pool/pool.h"
#include "gateway/pressure.h"
#include "gateway/registry/registry.h"
#include "gateway/standby/takeover.h"

struct upstream; /* gateway/proxy/upstream.h: upstream_open() after client and pool, upstream_close() after the public listener has stopped */
struct uploads;  /* gateway/registry/upload.h: uploads_open() after registry and pool, before the listeners; uploads_close() after them */
struct once_book; /* gateway/api/idempotency.h: once_open() after db, before the listeners; once_close() after them */
struct settings_live; /* gateway/settings.h */
struct refused;  /* gateway/limits/refused.h: refused_open() after db; refused_stop() before its close */
struct live_streams; /* gateway/live/live_stream.h: before the listeners; live_streams_stop() when they drain */
struct boards;   /* gateway/stats/adapter_board.h */
struct models_kept; /* gateway/registry/models_kept.h */
struct exports;  /* gateway/export/export_stream.h: exports_open() after ledger and prices, before the listeners; exports_close() after them */
struct export_files; /* gateway/export/export_files.h: the same */
struct webhooks; /* gateway/webhook/webhook.h: webhooks_open() after ledger and metrics, webhooks_stop() after the listeners */
struct blame;    /* gateway/proxy/quarantine.h: quarantine_open() before the pool; blame_stop() before uploads_close(), blame_close() after the pool's */
struct upkeep;   /* gateway/backup/upkeep.h: upkeep_open() after ledger_recover(), before the listeners; upkeep_close() after them, before the ledger */
struct feed;     /* gateway/standby/feed.h: feed_open() after the database, before the listeners; feed_close() after them */
struct docs;     /* gateway/api/openapi.h: docs_open() with the joined routes, before the listeners */
struct blobs;    /* gateway/pool/blobs.h: blobs_open() after the pool, before the listeners; blobs_close() after them */
struct captures; /* gateway/capture/capture.h: captures_open() after db, before the upkeep; captures_close() after it and quality_close() */
struct quality;  /* gateway/quality/quality.h: quality_open() before the listeners, quality_close() after upstream_close() */
struct evaluations; /* gateway/quality/evaluation.h: evaluations_open() before quality_open(), evaluations_close() after quality_close() */
struct otlp;     /* gateway/observe/otlp.h: otlp_open() before the listeners, otlp_close() after the last request is over */
struct route_book;
struct settings; /* schema/gateway_settings.def, see gateway/settings.h */

#define ADMIN_CONNECTIONS 256

struct gateway {
    const struct settings *_Atomic set; /* in force now; a request that must see one state takes it once */
    struct settings_live *settings;
    struct db *db;
    struct auth *auth;
    struct registry *registry;
    struct models_kept *models;
    struct ledger *ledger;
    struct limits *limits; /* after ledger_recover() */
    struct prices *prices;
    struct client *client;
    struct pool *pool;
    struct blobs *blobs;
    struct upstream *upstream;
    struct blame *blame;
    struct uploads *uploads;
    struct once_book *once;
    struct refused *refused;
    struct boards *boards;
    struct stats_kept *kept;
    struct live_streams *streams;
    struct exports *exports;
    struct export_files *export_files;
    struct webhooks *webhooks;
    struct upkeep *upkeep;
    struct feed *feed;
    struct docs *docs;
    struct captures *captures;
    struct quality *quality;
    struct evaluations *evaluations;
    struct otlp *otlp; /* NULL: traces are told to nobody */
    struct metrics *metrics;
    struct http_server *_Atomic public_server, *_Atomic admin_server, *_Atomic blob_server; /* NULL: not open, or not yet */
    struct arrivals arrivals; /* arrivals_open() before the listeners */
    char takeover[TAKEOVER_LEN]; /* what engines are told of these books */
    struct pressure pressure; /* pressure_open() before the listeners */
    char store[1024]; /* blobs */
    char tmp[1024];
    struct route_book *routing; /* gateway/quality/route_book.h: route_book_open() after db, before the listeners */
};

/* Route rows, each table ended by method NULL; main.c joins them into one per listener. */
extern const struct http_route routes_inference[]; /* chat_api.c: /v1 and /t/{tenant}/v1: chat/completions, completions, models */
extern const struct http_route routes_adapters[];  /* adapters_api.c: /v1/adapters... and under /t/{tenant} */
extern const struct http_route routes_uploads[];   /* uploads_api.c: uploads in parts and imports, beside them */
extern const struct http_route routes_aliases[];   /* aliases_api.c: /v1/aliases... */
extern const struct http_route routes_adapters_admin[]; /* adapters_api.c, of the admin listener: all tenants' */
extern const struct http_route routes_captures[], routes_captures_admin[]; /* captures_api.c: /v1/captures..., and a tenant's sum and stop for the operator */
extern const struct http_route routes_usage[];     /* usage_api.c: /v1/usage and under /t/{tenant} */
extern const struct http_route routes_adjustments[], routes_adjustments_admin[]; /* adjustments_api.c: corrections of what was billed */
extern const struct http_route routes_stats[], routes_stats_admin[]; /* stats_api.c: series, top lists, latency, aborts */
extern const struct http_route routes_costs[], routes_costs_admin[]; /* costs_api.c: costs and invoices */
extern const struct http_route routes_requests[], routes_requests_admin[]; /* requests_api.c: single requests */
extern const struct http_route routes_exports[];       /* exports_api.c: /v1/exports/usage and under /t/{tenant} */
extern const struct http_route routes_exports_admin[]; /* exports_api.c: /admin/v1/exports/usage */
extern const struct http_route routes_export_schedules[]; /* export_schedules_api.c: /admin/v1/export-schedules... */
extern const struct http_route routes_keys[];      /* keys_api.c: /v1/keys... and under /t/{tenant} */
extern const struct http_route routes_limits[];       /* limits_api.c: /v1/limits and under /t/{tenant} */
extern const struct http_route routes_limits_admin[]; /* limits_api.c: limits of tenants, keys and adapters */
extern const struct http_route routes_events[];       /* events_api.c: /v1/events and under /t/{tenant} */
extern const struct http_route routes_events_admin[]; /* events_api.c: everybody's */
extern const struct http_route routes_prices[];       /* prices_api.c (admin listener) */
extern const struct http_route routes_webhooks[], routes_webhooks_admin[]; /* webhooks_api.c: /v1/webhooks..., /admin/v1/webhooks... */
extern const struct http_route routes_admin[];     /* admin_api.c: /admin/v1/... (admin listener) */
extern const struct http_route routes_engines[];   /* engines_api.c, top_api.c: /admin/v1/engines..., /admin/v1/top */
extern const struct http_route routes_engine_tokens[]; /* blobs_api.c: /admin/v1/engines/{name}/token */
extern const struct http_route routes_blobs[];     /* blobs_api.c: the listener for engines */
extern const struct http_route routes_quarantine[], routes_quarantine_admin[]; /* quarantine_api.c: requests that engines were lost with */
extern const struct http_route routes_evaluations[], routes_evaluations_admin[]; /* evaluations_api.c: scores of answers */
extern const struct http_route routes_feedback[], routes_feedback_admin[]; /* feedback_api.c: what tenants say of answers */
extern const struct http_route routes_live[], routes_live_admin[]; /* live_api.c: now, live, and stats of the moment and of adapters */
extern const struct http_route routes_backup[];    /* backup_api.c: /admin/v1/backups... */
extern const struct http_route routes_standby[];   /* standby/feed.c: /admin/v1/standby... */
extern const struct http_route routes_health[];    /* health.c: /health, /ready and /metrics of the admin listener */
extern const struct http_route routes_health[];    /* health.c: /health and /ready of the admin listener */
extern const struct http_route routes_metrics[];   /* metrics_api.c: /metrics, the gateway's and its engines' */
extern const struct http_route routes_health_public[]; /* health.c: /health alone */
extern const struct http_route routes_docs[], routes_docs_public[]; /* docs_api.c: /openapi.json and /docs */
extern const struct http_route routes_aliases_admin[]; /* aliases_api.c: a tenant's, for the operator */
extern const struct http_route routes_whoami[], routes_whoami_admin[]; /* whoami_api.c: what the key is that asks */
extern const struct http_route routes_dashboard[];   /* dashboard.c: /dashboard of both listeners */

/* routes.c: the tables of each listener, ended by NULL. A table that is listed here is served and must be described (schema/openapi/). */
extern const struct http_route *const gateway_public_routes[], *const gateway_admin_routes[];
/* Of the listener for engines: what is said there is part of schema/ENGINE_API.md, not of the description. */
extern const struct http_route *const gateway_blob_routes[];
