/* health: is the process alive (/health, both listeners), and can it serve (/ready, on the admin listener, which only the operator's network
 * reaches); neither needs a key. What it has done is told by metrics_api.c.
 *
 * Ready means: an engine answers and the database takes writes. Pressure (gateway/pressure.h) is told beside it, and is no reason to be not ready: a
 * balancer that took us away for it would give our load to those who have theirs. Event threads; nothing blocks. */
#include "gateway/api/admin_api.h"

static void get_health(struct http_request *r)
{
    static const char ok[] = "{\"status\":\"ok\"}";
    http_reply(r, 200, NULL, ok, sizeof ok - 1);
}

static void get_ready(struct http_request *r)
{
    struct gateway *g = admin_gateway(r);
    bool engine = pool_ready(g->pool), database = db_writable(g->db);
    bool ready = engine && database;
    admin_reply(r, ready ? 200 : 503,
                json_pack("{ss sb sb so so*}", "status", ready ? "ready" : "not_ready", "engine", engine, "database",
                          database, "pressure", pressure_json(&g->pressure), "device", engine ? pool_device(g->pool) : NULL));
}

const struct http_route routes_health_public[] = {
    {"GET", "/health", HTTP_BODY_NONE, 0, NULL, NULL, get_health, NULL},
    {0},
};

const struct http_route routes_health[] = {
    {"GET", "/health", HTTP_BODY_NONE, 0, NULL, NULL, get_health, NULL},
    {"GET", "/ready", HTTP_BODY_NONE, 0, NULL, NULL, get_ready, NULL},
    {0},
};
