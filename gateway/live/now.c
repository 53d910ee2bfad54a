/* now: what is going on (see now.h). Counts of the moment come from memory (live.h, pool.h), sums from the rollups of hours,
 * where everybody is the tenant ''. GET .../now is here, too; on database threads. */
#include "gateway/live/now.h"
#include "base/clock.h"
#include "base/json.h"
#include "gateway/live/live.h"
#include "gateway/live/live_api.h"
#include "gateway/live/top_api.h"
#include "gateway/proxy/blame.h"
#include "gateway/proxy/upstream.h"
#include "gateway/registry/registry.h"
#include "gateway/settings.h"
#include <math.h>
#include <time.h>

#define TOP 10

static int64_t month_start(int64_t now_s)
{
    time_t t = (time_t)now_s;
    struct tm tm = {0};
    gmtime_r(&t, &tm);
    return now_s - now_s % 86400 - (tm.tm_mday - 1) * 86400ll;
}

struct sums_read {
    const char *tenant;
    int64_t month, today;
    struct now_sums *out;
};

static int read_sums(struct db *d, sqlite3 *c, void *u, struct err *e)
{
#define OF(what) "coalesce(sum(" what ") FILTER (WHERE t >= ?3), 0), coalesce(sum(" what "), 0), "
#define ERRORS "iif(state IN (2, 3, 5), n, 0)" /* usage_is_error() */
    static const char sql[] = "SELECT " OF("n") OF(ERRORS) OF("prompt") OF("cached") OF("output") OF("cost") "0"
                              " FROM rollup_hour WHERE tenant = ?1 AND t >= ?2";
#undef OF
#undef ERRORS
    struct sums_read *x = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "sii", x->tenant, x->month, x->today)) return -1;
    int rc = db_row(st, e);
    for (int i = 0; i < 6 && rc == 1; i++) {
        x->out->today[i] = sqlite3_column_int64(st, 2 * i);
        x->out->month[i] = sqlite3_column_int64(st, 2 * i + 1);
    }
    sqlite3_reset(st);
    return rc == 1 ? 0 : -1;
}

int now_read(struct gateway *g, const struct now_ask *a, struct now_sums *out, struct err *e)
{
    int64_t now = clock_wall_us() / 1000000;
    struct sums_read x = {a->tenant ? a->tenant : "", month_start(now), now - now % 86400, out};
    return db_read(g->db, read_sums, &x, LIVE_READ_MS, e);
}

static json_t *sums_json(const int64_t s[6])
{
    return json_pack("{sI sI sI sI sI sI}", "requests", (json_int_t)s[0], "errors", (json_int_t)s[1], "input_tokens",
                     (json_int_t)s[2], "cached_tokens", (json_int_t)s[3], "output_tokens", (json_int_t)s[4],
                     "cost_nano", (json_int_t)s[5]);
}

static json_t *adapters_json(struct live *l)
{
    struct live_top top[TOP];
    json_t *list = json_array();
    int n = live_adapters(l, top, TOP);
    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{ss ss si si sf}", "tenant", top[i].tenant, "adapter", top[i].adapter,
                                              "version", top[i].version, "in_flight", top[i].in_flight, "tokens_per_s",
                                              top[i].tokens_per_s));
    return list;
}

/* What only the operator sees; `waiting` gets what waits in the engines added. */
static void add_admin(struct gateway *g, const struct now_ask *a, json_t *o, int *waiting)
{
    struct pool_sums p;
    struct live *l = upstream_live(g->upstream);
    pool_sum(g->pool, &p);
    if (!a->tenant) *waiting += p.waiting;
    json_object_set_new(o, "engines", json_pack("{si si si si}", "ready", p.ready, "total", p.total, "running",
                                                p.running, "waiting", p.waiting));
    json_object_set_new(o, "adapters_resident", json_integer(p.adapters));
    json_object_set_new(o, "open_admissions", json_integer(ledger_open_admissions(g->ledger)));
    json_object_set_new(o, "pressure", pressure_json(&g->pressure));
    if (a->tenant) return;
    json_object_set_new(o, "tenants", top_tenants(l, TOP));
    json_object_set_new(o, "adapters", adapters_json(l));
}

static json_t *quarantined_json(struct gateway *g, const char *tenant)
{
    return json_pack("{si si}", "adapters", registry_count_in(g->registry, tenant, VERSION_QUARANTINED), "requests",
                     blame_count(g->blame, tenant, clock_mono_us()));
}

json_t *now_json(struct gateway *g, const struct now_ask *a, const struct now_sums *s)
{
    struct live_now n;
    live_now(upstream_live(g->upstream), a->tenant_name, &n);
    int waiting = n.of.waiting;
    double rate = (double)n.minute.count[LIVE_REQUESTS] / n.minute.covered_s;
    json_t *o = json_pack("{ss sf si si sf sf}", "object", "now", "time", (double)clock_wall_us() / 1e6, "window_s",
                          LIVE_SPAN_S, "in_flight", n.of.in_flight, "tokens_per_s", n.of.tokens_per_s, "requests_per_s",
                          n.minute.covered_s > 0 ? rint(rate * 1000) / 1000 : 0.0);
    if (!o) return NULL;
    for (int k = 0; k < LATENCY_KINDS; k++) json_object_set_new(o, latency_name[k], latency_json(n.minute.times[k]));
    if (a->admin) add_admin(g, a, o, &waiting);
    json_t *more = json_pack("{sI sI si so so so ss}", "errors", (json_int_t)n.minute.count[LIVE_ERRORS], "refused",
                             (json_int_t)n.minute.count[LIVE_REFUSED], "waiting", waiting, "quarantined",
                             quarantined_json(g, a->tenant), "today", sums_json(s->today), "month",
                             sums_json(s->month), "currency", g->set->currency);
    if (json_object_update(o, more)) {
        json_decref(o);
        o = NULL;
    }
    json_decref(more);
    return o;
}

void now_get(struct http_request *r)
{
    struct gateway *g = admin_gateway(r);
    struct err e = {0};
    struct span s;
    struct now_sums sums = {0};
    int rc = span_read_whose(r, NULL, &s, &e);
    struct now_ask a = {s.tenant, s.tenant_name, s.admin};
    if (rc == 0) rc = now_read(g, &a, &sums, &e);
    live_answer(r, rc, rc ? NULL : now_json(g, &a, &sums), &e);
}
