/* metrics_api: GET /metrics of the admin listener, and beside it those of the engines (pool_metrics.c); without a key, as
 * /health is: only the operator's network reaches them, and no label says more than the admin API's lists.
 *
 * What others know is read when somebody looks. Two who look at once are served one after the other, so that none sees the
 * gauges of engines half set: those that are no more are taken out first (metric_clear). Event threads; an engine's answer
 * comes on the client's thread. */
#include "base/clock.h"
#include "base/process.h"
#include "base/version.h"
#include "gateway/api/admin_api.h"
#include "gateway/backup/upkeep.h"
#include "gateway/capture/capture.h"
#include "gateway/export/export_files.h"
#include "gateway/observe/meters.h"
#include "gateway/observe/otlp.h"
#include "gateway/pool/blobs.h"
#include "gateway/proxy/blame.h"
#include "gateway/quality/evaluation.h"
#include "gateway/quality/quality.h"
#include "gateway/registry/registry.h"
#include "gateway/settings.h"
#include "gateway/standby/feed.h"
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define METRICS_MAX (16u << 20)
#define TEXT_TYPE "text/plain; version=0.0.4; charset=utf-8"

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER; /* covers what is between looking and printing */

static void look_at_process(struct metrics *m)
{
    struct process_use u;
    process_use(&u);
    metric_set(m, GM_CPU, NULL, u.cpu_s);
    metric_set(m, GM_RESIDENT, NULL, (double)u.resident);
    metric_set(m, GM_VIRTUAL, NULL, (double)u.virtual_);
    metric_set(m, GM_FDS, NULL, (double)u.open_fds);
    metric_set(m, GM_FDS_MAX, NULL, (double)u.max_fds);
    metric_set(m, GM_THREADS, NULL, (double)u.threads);
    metric_set(m, GM_STARTED, NULL, floor(u.start_s)); /* nine digits are printed of what is no integer */
    metric_set(m, GM_BUILD, (const char *[]){WEFT_VERSION}, 1);
}

/* The servers that are stopped before the admin's are looked at no more when this returns. */
void metrics_forget_public(struct gateway *g)
{
    pthread_mutex_lock(&one_at_a_time);
    g->public_server = g->blob_server = NULL;
    pthread_mutex_unlock(&one_at_a_time);
}

static double size_of(const struct gateway *g, const char *file)
{
    char path[1100];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", db_dir(g->db), file);
    return stat(path, &st) ? 0 : (double)st.st_size;
}

static void look_at_data(struct gateway *g)
{
    int64_t free, size;
    disk_room(db_dir(g->db), &free, &size);
    metric_set(g->metrics, GM_DATA_FREE, NULL, (double)free);
    metric_set(g->metrics, GM_DATA_SIZE, NULL, (double)size);
    metric_set(g->metrics, GM_DATABASE, (const char *[]){"weft.db"}, size_of(g, "weft.db"));
    metric_set(g->metrics, GM_DATABASE, (const char *[]){"weft.db-wal"}, size_of(g, "weft.db-wal"));
}

static void look_at_server(struct metrics *m, const char *listener, const struct http_server *s, int64_t most)
{
    if (!s) return;
    metric_set(m, GM_CONNECTIONS, (const char *[]){listener}, http_server_connections(s));
    metric_set(m, GM_CONNECTIONS_MAX, (const char *[]){listener}, (double)most);
    metric_set(m, GM_CUT, (const char *[]){listener}, http_server_cut(s));
    metric_set(m, GM_HTTP_IN_FLIGHT, (const char *[]){listener}, http_server_in_flight(s));
}

/* Gauges whose one label is the engine are pool_meter()'s. Of engines that were removed nothing is told any more: a gauge that stands still would keep an alert for ever. */
static void look_at_engines(struct gateway *g)
{
    for (size_t i = 0; i < GATEWAY_METERS; i++)
        if (gateway_meter_rows[i].kind == METRIC_GAUGE && strcmp(gateway_meter_rows[i].labels, "engine") == 0) metric_clear(g->metrics, i);
    pool_meter(g->pool, g->metrics);
}

/* Are the books checked, kept and passed on. Nothing here reads the database: that is for threads that may wait. */
static void look_at_books(struct gateway *g)
{
    int64_t bad, then = ledger_verified(g->ledger, &bad), age = clock_wall_us() / 1000000 - then;
    metric_clear(g->metrics, GM_VERIFY_AGE);
    metric_clear(g->metrics, GM_VERIFY_BAD);
    if (then) {
        metric_set(g->metrics, GM_VERIFY_AGE, NULL, age > 0 ? (double)age : 0);
        metric_set(g->metrics, GM_VERIFY_BAD, NULL, (double)bad);
    }
    metric_set(g->metrics, GM_EXPORT_BEHIND, NULL, (double)export_files_behind(g->export_files));
    upkeep_meter(g->upkeep, g->metrics);
    feed_meter(g->feed, g->metrics);
}

static void look_around(struct gateway *g)
{
    metric_set(g->metrics, GM_OPEN, NULL, (double)ledger_open_admissions(g->ledger));
    metric_set(g->metrics, GM_QUEUE, NULL, db_queue_len(g->db));
    metric_set(g->metrics, GM_RETRIES, NULL, (double)ledger_retried(g->ledger));
    metric_set(g->metrics, GM_WRITABLE, NULL, db_writable(g->db));
    metric_set(g->metrics, GM_QUALITY_WAITING, NULL, quality_waiting(g->quality));
    metric_set(g->metrics, GM_CAPTURE_BYTES, NULL, (double)captures_sum(g->captures, NULL).bytes);
    metric_set(g->metrics, GM_TRACES_WAITING, NULL, otlp_waiting(g->otlp));
    metric_set(g->metrics, GM_QUARANTINED_ADAPTERS, NULL, registry_count_in(g->registry, NULL, VERSION_QUARANTINED));
    metric_set(g->metrics, GM_QUARANTINED_REQUESTS, NULL, blame_count(g->blame, NULL, clock_mono_us()));
    pressure_meter(&g->pressure, g->metrics);
    arrivals_meter(&g->arrivals, g->metrics);
    look_at_books(g);
    look_at_engines(g);
    evaluations_meter(g->evaluations, g->metrics);
    look_at_process(g->metrics);
    look_at_data(g);
    look_at_server(g->metrics, "public", g->public_server, g->set->max_connections);
    look_at_server(g->metrics, "admin", g->admin_server, ADMIN_CONNECTIONS);
    look_at_server(g->metrics, "blobs", g->blob_server, BLOB_CONNECTIONS);
    for (int i = 0; i < AUTH_CAUSES; i++)
        metric_set(g->metrics, GM_AUTH_REFUSED, (const char *[]){auth_cause_name[i]},
                   (double)auth_refused(g->auth, (enum auth_cause)i));
}

static void get_metrics(struct http_request *r)
{
    struct gateway *g = admin_gateway(r);
    struct buf b;
    buf_init(&b, METRICS_MAX);
    pthread_mutex_lock(&one_at_a_time);
    look_around(g);
    int rc = metrics_print(g->metrics, &b);
    pthread_mutex_unlock(&one_at_a_time);
    if (rc == 0)
        http_reply(r, 200, TEXT_TYPE, b.data, b.len);
    else
        http_reply_error(r, &(struct err){.code = ERR_NO_MEMORY, .msg = "no memory for the metrics"});
    buf_close(&b);
}

/* Under the name that the scraper reached us by. */
static void get_targets(struct http_request *r)
{
    admin_reply(r, 200, pool_targets(admin_gateway(r)->pool, http_header(r, "host")));
}

static void scraped(void *u, const struct buf *text, const struct err *e)
{
    struct http_request *r = u;
    if (e)
        http_reply_error(r, e);
    else
        http_reply(r, 200, TEXT_TYPE, text->data, text->len);
}

static void get_engine(struct http_request *r)
{
    struct err e = {0};
    if (pool_scrape(admin_gateway(r)->pool, r->param[0], scraped, r, &e)) http_reply_error(r, &e);
}

const struct http_route routes_metrics[] = {
    {"GET", "/metrics", HTTP_BODY_NONE, 0, NULL, NULL, get_metrics, NULL},
    {"GET", "/metrics/targets", HTTP_BODY_NONE, 0, NULL, NULL, get_targets, NULL},
    {"GET", "/metrics/engines/{name}", HTTP_BODY_NONE, 0, NULL, NULL, get_engine, NULL},
    {0},
};
