/* live_api: routes of the views that live_api.h lists, and what is read of their queries. Handlers run on database threads;
 * the event threads only check the key. */
#include "gateway/live/live_api.h"
#include "base/clock.h"
#include "gateway/auth/auth_store.h"
#include "gateway/proxy/chat_api.h"
#include <stdio.h>
#include <string.h>

#define TIME_MAX 253402300799 /* 9999-12-31 */
#define NAMES_MAX 16

/* ?tenant=NAME -> its id, in the request's memory. */
static int read_tenant(struct http_request *r, struct span *s, struct err *e)
{
    const char *name = http_query(r, "tenant");
    json_t *o;
    if (!s->admin) {
        s->tenant = admin_who(r)->tenant;
        s->tenant_name = admin_who(r)->tenant_name;
        return 0;
    }
    if (!name) return 0;
    if (tenant_get(admin_gateway(r)->auth, name, &o, e)) return -1;
    s->tenant_name = name;
    s->tenant = arena_strdup(r->arena, json_string_value(json_object_get(o, "id")));
    json_decref(o);
    return s->tenant ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for a request");
}

static int read_known(struct http_request *r, bool times, const char *const *also, struct span *out, struct err *e)
{
    const char *names[NAMES_MAX + 1] = {NULL};
    int n = 0;
    *out = (struct span){.admin = !admin_who(r)->tenant[0]};
    if (times) names[n++] = "start_time", names[n++] = "end_time";
    if (out->admin) names[n++] = "tenant";
    for (; also && *also && n < NAMES_MAX; also++) names[n++] = *also;
    return admin_query_known(r, names, e);
}

int span_read_whose(struct http_request *r, const char *const *also, struct span *out, struct err *e)
{
    if (read_known(r, false, also, out, e)) return -1;
    out->end = clock_wall_us() / 1000000;
    return read_tenant(r, out, e);
}

int span_read(struct http_request *r, const char *const *also, struct span *out, struct err *e)
{
    if (read_known(r, true, also, out, e)) return -1;
    out->end = clock_wall_us() / 1000000;
    if (admin_query_int(r, "end_time", 1, TIME_MAX, &out->end, e)) return -1;
    out->start = out->end > SPAN_DEFAULT_S ? out->end - SPAN_DEFAULT_S : 0;
    if (admin_query_int(r, "start_time", 0, TIME_MAX, &out->start, e)) return -1;
    if (out->start >= out->end)
        return err_field(e, ERR_INVALID, "start_time", "'start_time' (%lld) must be before 'end_time' (%lld).",
                         (long long)out->start, (long long)out->end);
    return read_tenant(r, out, e);
}

int span_word(const struct http_request *r, const char *name, const char *const *words, int *out, struct err *e)
{
    const char *word = http_query(r, name);
    char all[160] = "";
    *out = 0;
    if (!word) return 0;
    for (int i = 0; words[i]; i++) {
        if (strcmp(word, words[i]) == 0) {
            *out = i;
            return 0;
        }
        size_t n = strlen(all);
        snprintf(all + n, sizeof all - n, "%s%s", n ? ", " : "", words[i]);
    }
    return err_field(e, ERR_INVALID, name, "'%s' must be one of %s, not '%.40s'.", name, all, word);
}

int span_points(const struct http_request *r, const struct span *s, int64_t *interval_s, int64_t *first, int *n,
                struct err *e)
{
    static const char *const words[] = {"1h", "1d", NULL};
    static const int64_t widths[] = {3600, 86400};
    int which;
    if (span_word(r, "interval", words, &which, e)) return -1;
    int64_t w = widths[which], from = s->start / w * w, points = (s->end - from + w - 1) / w;
    if (points > SPAN_POINTS_MAX)
        return err_field(e, ERR_INVALID, "interval", "%lld points of %s; there may be %d: ask for less time%s.",
                         (long long)points, words[which], SPAN_POINTS_MAX, which ? "" : ", or interval=1d");
    *interval_s = w;
    *first = from;
    *n = (int)points;
    return 0;
}

void live_answer(struct http_request *r, int rc, json_t *v, const struct err *e)
{
    if (rc == 0) {
        admin_reply(r, 200, v);
        return;
    }
    json_decref(v);
    api_refuse(r, e);
}

/* --- routes --- */

const struct http_route routes_live[] = {
    TENANT_ROWS(SCOPE_USAGE, "GET", "/now", HTTP_BODY_NONE, 0, now_get),
    TENANT_ROWS(SCOPE_USAGE, "GET", "/live", HTTP_BODY_NONE, 0, live_get),
    TENANT_ROWS(SCOPE_USAGE, "GET", "/stats/refused", HTTP_BODY_NONE, 0, refused_get),
    TENANT_ROWS(SCOPE_USAGE, "GET", "/stats/adapters", HTTP_BODY_NONE, 0, adapter_stats_get),
    TENANT_ROWS(SCOPE_USAGE, "GET", "/stats/canary", HTTP_BODY_NONE, 0, canary_get),
    TENANT_ROWS(SCOPE_USAGE, "GET", "/stats/budgets", HTTP_BODY_NONE, 0, budgets_get),
    {0},
};

const struct http_route routes_live_admin[] = {
    ADMIN_READ("/admin/v1/now", now_get),
    ADMIN_READ("/admin/v1/live", live_get),
    ADMIN_READ("/admin/v1/stats/refused", refused_get),
    ADMIN_READ("/admin/v1/stats/adapters", adapter_stats_get),
    ADMIN_READ("/admin/v1/stats/canary", canary_get),
    ADMIN_READ("/admin/v1/stats/budgets", budgets_get),
    ADMIN_READ("/admin/v1/ledger/health", ledger_health_get),
    {0},
};
