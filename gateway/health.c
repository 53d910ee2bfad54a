/* health: is the process alive (/health, both listeners), can it serve (/ready), and what has it done (/metrics), the last two on the admin
 * listener, which only the operator's network reaches; none needs a key, and none says whom it serves beyond the bounded labels.
 *
 * Ready means: an engine answers and the database takes writes. Gauges that others know are read when somebody looks. Event threads; nothing blocks. */
#include "gateway/admin_api.h"
#include "gateway/meters.h"
#include <string.h>

#define METRICS_MAX (16u << 20)

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
                json_pack("{ss sb sb so*}", "status", ready ? "ready" : "not_ready", "engine", engine, "database",
                          database, "device", engine ? pool_device(g->pool) : NULL));
}

static void look_around(struct gateway *g)
{
    metric_set(g->metrics, GM_OPEN, NULL, (double)ledger_open_admissions(g->ledger));
    metric_set(g->metrics, GM_QUEUE, NULL, db_queue_len(g->db));
    metric_set(g->metrics, GM_RETRIES, NULL, (double)ledger_retried(g->ledger));
    metric_set(g->metrics, GM_WRITABLE, NULL, db_writable(g->db));
    pool_meter(g->pool, g->metrics);
    for (int i = 0; i < AUTH_CAUSES; i++)
        metric_set(g->metrics, GM_AUTH_REFUSED, (const char *[]){auth_cause_name[i]},
                   (double)auth_refused(g->auth, (enum auth_cause)i));
}

static void get_metrics(struct http_request *r)
{
    struct gateway *g = admin_gateway(r);
    struct buf b;
    buf_init(&b, METRICS_MAX);
    look_around(g);
    if (metrics_print(g->metrics, &b) == 0)
        http_reply(r, 200, "text/plain; version=0.0.4", b.data, b.len);
    else
        http_reply_error(r, &(struct err){.code = ERR_NO_MEMORY, .msg = "no memory for the metrics"});
    buf_close(&b);
}

const struct http_route routes_health_public[] = {
    {"GET", "/health", HTTP_BODY_NONE, 0, NULL, NULL, get_health, NULL},
    {0},
};

const struct http_route routes_health[] = {
    {"GET", "/health", HTTP_BODY_NONE, 0, NULL, NULL, get_health, NULL},
    {"GET", "/ready", HTTP_BODY_NONE, 0, NULL, NULL, get_ready, NULL},
    {"GET", "/metrics", HTTP_BODY_NONE, 0, NULL, NULL, get_metrics, NULL},
    {0},
};
