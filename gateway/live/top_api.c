/* The live view (see top_api.h): engines with their queues, the tenants and adapter versions that have requests in flight or
 * had tokens in the last ten seconds, and on which engines those adapters are. The busiest TOP_MAX of each, for `weft top`
 * and the dashboard; counts of now, in no way those that are billed. */
#include "gateway/live/top_api.h"
#include "base/clock.h"
#include "gateway/api/admin_api.h"
#include "gateway/api/page.h"
#include "gateway/live/live.h"
#include "gateway/proxy/upstream.h"

#define TOP_DEFAULT 20
#define TOP_MAX 100

json_t *top_tenants(struct live *l, int max)
{
    struct live_top top[TOP_MAX];
    json_t *list = json_array();
    int n = live_tenants(l, top, max);
    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{ss si sf}", "tenant", top[i].tenant, "in_flight", top[i].in_flight,
                                              "tokens_per_s", top[i].tokens_per_s));
    return list;
}

static json_t *adapters_json(struct gateway *g, int max)
{
    struct live_top top[TOP_MAX];
    json_t *list = json_array();
    int n = live_adapters(upstream_live(g->upstream), top, max);
    for (int i = 0; i < n; i++) {
        json_t *engines = json_array();
        pool_where(g->pool, top[i].digest, engines);
        json_array_append_new(list,
                              json_pack("{ss ss si ss si sf so}", "tenant", top[i].tenant, "adapter", top[i].adapter,
                                        "version", top[i].version, "digest", top[i].digest, "in_flight",
                                        top[i].in_flight, "tokens_per_s", top[i].tokens_per_s, "engines", engines));
    }
    return list;
}

void top_get(struct http_request *r)
{
    static const char *const names[] = {"limit", NULL};
    struct gateway *g = admin_gateway(r);
    struct err e = {0};
    int64_t limit = TOP_DEFAULT;
    bool more;
    json_t *engines = json_array();
    if (admin_query_known(r, names, &e) || admin_query_int(r, "limit", 1, TOP_MAX, &limit, &e) ||
        pool_list(g->pool, &(struct page){"", "", (int)limit}, engines, &more, &e)) {
        json_decref(engines);
        http_reply_error(r, &e);
        return;
    }
    admin_reply(r, 200,
                json_pack("{ss sf si so so so}", "object", "top", "time", (double)clock_wall_us() / 1e6, "window_s",
                          LIVE_WINDOW_S, "engines", engines, "tenants",
                          top_tenants(upstream_live(g->upstream), (int)limit), "adapters",
                          adapters_json(g, (int)limit)));
}
