/* stats_api: what dashboards draw: series, top lists, latency and aborts; one code for the tenant (its own) and the operator (all, or ?tenant=NAME).
 *
 *     start_time, end_time  Unix seconds; the last 24 hours; widened to whole buckets, of UTC
 *     interval              1m (kept 7 days), 1h (kept 400 days), 1d; left out: as fine as the question can be with some hundred points
 *
 *     adapter               only this one ((base): none), of the tenant (the operator names whose): what rollups know of adapters are days, by version and base
 *
 * Minutes and hours are kept by tenant and state only: other groups are refused there, not ignored. An adapter that is not there has no usage: what is
 * asked outlives the adapter. On database threads. */
#include "gateway/stats/stats_api.h"
#include "base/clock.h"
#include "gateway/stats/stats.h"
#include <stdio.h>
#include <string.h>

#define SPAN_DEFAULT_S 86400
#define FINE_S (6 * 3600)   /* so long 1m by itself */
#define HOURS_S (14 * 86400) /* so long 1h */
#define SERIES_TOP 8
#define SERIES_TOP_MAX 50
#define TOP_DEFAULT 10
#define NAMES_MAX 16

/* --- the query --- */

int stats_query_known(const struct http_request *r, bool admin, const char *const *more, struct err *e)
{
    const char *names[NAMES_MAX] = {"start_time", "end_time"};
    int n = 2;
    if (admin) names[n++] = "tenant";
    for (; *more && n < NAMES_MAX - 1; more++) names[n++] = *more;
    return admin_query_known(r, names, e);
}

int stats_query_word(const struct http_request *r, const char *name, const char *const *words, int n, int *out, struct err *e)
{
    const char *text = http_query(r, name);
    char all[256] = "";
    for (int i = 0; text && i < n; i++) {
        size_t len = strlen(all);
        snprintf(all + len, sizeof all - len, "%s%s", i ? ", " : "", words[i]);
        if (strcmp(words[i], text) == 0) {
            *out = i;
            return 0;
        }
    }
    return text ? err_field(e, ERR_INVALID, name, "'%s' must be one of %s, not '%.40s'.", name, all, text) : 0;
}

int stats_query_bool(const struct http_request *r, const char *name, bool *out, struct err *e)
{
    static const char *const words[] = {"false", "true"};
    int v = *out;
    if (stats_query_word(r, name, words, 2, &v, e)) return -1;
    *out = v;
    return 0;
}

int stats_query_times(const struct http_request *r, int64_t span_s, int64_t *start, int64_t *end, struct err *e)
{
    *end = clock_wall_us() / 1000000;
    if (admin_query_int(r, "end_time", 0, STATS_TIME_MAX, end, e)) return -1;
    *start = *end > span_s ? *end - span_s : 0;
    if (admin_query_int(r, "start_time", 0, STATS_TIME_MAX, start, e)) return -1;
    return admin_query_in_order(*start, *end, e);
}

/* days_only, no_minutes: what the question's rollups don't have. */
static int read_range(const struct http_request *r, bool no_minutes, bool days_only, struct stats_range *out, struct err *e)
{
    static const char *const words[] = {"1m", "1h", "1d"};
    static const int64_t widths[] = {60, 3600, STATS_DAY};
    int64_t start, end;
    int i = -1;
    if (stats_query_times(r, SPAN_DEFAULT_S, &start, &end, e) || stats_query_word(r, "interval", words, 3, &i, e)) return -1;
    if (i < 0) i = days_only ? 2 : end - start <= FINE_S && !no_minutes ? 0 : end - start <= HOURS_S ? 1 : 2;
    if (i < 1 && no_minutes && !days_only) return err_field(e, ERR_INVALID, "interval", "'interval' must be 1h or 1d here.");
    if (i < 2 && days_only) return err_field(e, ERR_INVALID, "interval", "Minutes and hours are kept by tenant and state only; use interval=1d.");
    *out = stats_range(start, end, widths[i]);
    if (stats_points(out) <= STATS_POINTS_MAX) return 0;
    return err_field(e, ERR_INVALID, "interval", "%zu points are more than %d; ask for a longer interval or a shorter time.", stats_points(out),
                     STATS_POINTS_MAX);
}

static int read_by(const struct http_request *r, bool admin, const char *tenant, int *by, struct err *e)
{
    if (stats_query_word(r, "by", stats_by_word, STATS_BYS, by, e)) return -1;
    if (*by != BY_TENANT || (admin && !tenant)) return 0;
    return err_field(e, ERR_INVALID, "by", "by=tenant compares tenants; this is about one.");
}

static int read_adapter(const struct http_request *r, const char *tenant, enum stats_by by, const char **out, struct err *e)
{
    const char *name = http_query(r, "adapter");
    *out = name;
    if (!name) return 0;
    if (!*name) return err_field(e, ERR_INVALID, "adapter", "'adapter' must name an adapter.");
    if (strcmp(name, "(base)") == 0) *out = "";
    if (!tenant) return err_field(e, ERR_MISSING, "tenant", "'tenant' must say whose adapter it is.");
    if (stats_keeps_adapter(by)) return 0;
    return err_field(e, ERR_INVALID, "by", "Of one adapter 'by' must be none, adapter, version or base: nothing else is kept by adapter.");
}

/* --- the questions --- */

static int ask_series(struct http_request *r, bool admin, const char *tenant, json_t **out, struct err *e)
{
    static const char *const more[] = {"interval", "by", "measure", "top", "compare", "adapter", NULL};
    struct stats_series_query q = {0};
    int by = BY_NONE, measure = MEASURE_REQUESTS;
    int64_t top = SERIES_TOP;
    if (stats_query_known(r, admin, more, e) || read_by(r, admin, tenant, &by, e) ||
        stats_query_word(r, "measure", stats_measure_word, STATS_MEASURES, &measure, e) ||
        admin_query_int(r, "top", 1, SERIES_TOP_MAX, &top, e) || stats_query_bool(r, "compare", &q.compare, e) ||
        read_adapter(r, tenant, (enum stats_by)by, &q.adapter, e) ||
        read_range(r, false, q.adapter || (by != BY_NONE && by != BY_TENANT && by != BY_STATE), &q.range, e))
        return -1;
    q.by = (enum stats_by)by;
    q.measure = (enum stats_measure)measure;
    q.top = (int)top;
    return stats_series(admin_gateway(r)->kept, tenant, &q, out, e);
}

static int ask_top(struct http_request *r, bool admin, const char *tenant, json_t **out, struct err *e)
{
    static const char *const more[] = {"by", "sort", "limit", "compare", "adapter", NULL};
    static const char *const sorts[] = {"requests", "tokens", "output_tokens", "cost_nano", "errors"};
    static const enum stats_measure measures[] = {MEASURE_REQUESTS, MEASURE_TOKENS, MEASURE_OUTPUT, MEASURE_COST, MEASURE_ERRORS};
    struct stats_top_query q = {.compare = true};
    bool one = http_query(r, "adapter");
    int first = admin && !tenant ? BY_TENANT : BY_KEY, by = (admin && !tenant ? BY_TENANT : one ? BY_VERSION : BY_ADAPTER) - first, sort = 0;
    int64_t limit = TOP_DEFAULT, start, end;
    if (stats_query_known(r, admin, more, e) || stats_query_word(r, "by", stats_by_word + first, BY_ENDPOINT - first + 1, &by, e) ||
        stats_query_word(r, "sort", sorts, 5, &sort, e) ||
        admin_query_int(r, "limit", 1, STATS_TOP_MAX, &limit, e) || stats_query_bool(r, "compare", &q.compare, e) ||
        read_adapter(r, tenant, (enum stats_by)(first + by), &q.adapter, e) || stats_query_times(r, SPAN_DEFAULT_S, &start, &end, e))
        return -1;
    q.by = (enum stats_by)(first + by);
    q.sort = measures[sort];
    q.limit = (int)limit;
    q.range = stats_range(start, end, STATS_DAY);
    if (stats_points(&q.range) > STATS_POINTS_MAX)
        return err_field(e, ERR_INVALID, "start_time", "%zu days are more than %d.", stats_points(&q.range), STATS_POINTS_MAX);
    return stats_top(admin_gateway(r)->kept, tenant, &q, out, e);
}

static int ask_latency(struct http_request *r, bool admin, const char *tenant, json_t **out, struct err *e)
{
    static const char *const more[] = {"interval", "kind", NULL}, *const kinds[LATENCY_KINDS] = {"ttft", "duration", "tpot"};
    struct stats_range range;
    int kind = LATENCY_TTFT;
    if (stats_query_known(r, admin, more, e) || stats_query_word(r, "kind", kinds, LATENCY_KINDS, &kind, e) || read_range(r, true, false, &range, e))
        return -1;
    return stats_latency(admin_gateway(r)->kept, tenant, (enum latency_kind)kind, &range, out, e);
}

static int ask_aborts(struct http_request *r, bool admin, const char *tenant, json_t **out, struct err *e)
{
    static const char *const more[] = {"interval", NULL};
    struct stats_range range;
    if (stats_query_known(r, admin, more, e) || read_range(r, true, false, &range, e)) return -1;
    return stats_aborts(admin_gateway(r)->db, tenant, &range, out, e);
}

/* --- the routes --- */

void stats_work(struct http_request *r)
{
    const struct stats_handler *h = r->route->data;
    const char *tenant = h->admin ? NULL : admin_tenant(r);
    struct err e = {0};
    json_t *out = NULL;
    int rc = h->admin ? admin_query_tenant(r, &tenant, &e) : 0;
    if (rc == 0) rc = h->ask(r, h->admin, tenant, &out, &e);
    if (rc < 0) http_reply_error(r, &e);
    else if (rc == 0) admin_reply(r, 200, out);
}

const struct http_route routes_stats[] = {
    STATS_OWN("/stats/series", ask_series),   STATS_OWN("/stats/top", ask_top),       STATS_OWN("/stats/latency", ask_latency),
    STATS_OWN("/stats/aborts", ask_aborts),   {0},
};

const struct http_route routes_stats_admin[] = {
    STATS_ADMIN("/stats/series", ask_series), STATS_ADMIN("/stats/top", ask_top),     STATS_ADMIN("/stats/latency", ask_latency),
    STATS_ADMIN("/stats/aborts", ask_aborts), {0},
};
