/* usage_api: GET /v1/usage in the shape of OpenAI's usage API.
 *
 *     start_time, end_time  Unix seconds; start inclusive, end exclusive; without a start: the last `limit` buckets
 *     bucket_width          1m, 1h, 1d (default)
 *     group_by              model, key (api_key_id), state, adapter, version; comma or repeated; the operator also tenant.
 *                           Minutes and hours are kept by state (and tenant) only: other groups are refused, not ignored.
 *     limit, page           buckets of one answer; page is the next_page of the answer before
 *
 * One code serves the tenant (its own id, from its key) and the operator (everybody, or ?tenant=NAME). On database threads. */
#include "base/clock.h"
#include "gateway/api/admin_api.h"
#include "gateway/ledger/ledger_query.h"
#include <stdio.h>
#include <string.h>

#define TIME_MAX 253402300799 /* 9999-12-31 */

static const struct {
    const char *word;
    int64_t width_s;
    int limit, limit_max;
} widths[] = {{"1m", 60, 60, 1440}, {"1h", 3600, 24, 168}, {"1d", 86400, 7, 31}};

/* The last is the operator's. */
static const struct admin_group groups[] = {
    {"model", GROUP_MODEL}, {"key", GROUP_KEY}, {"api_key_id", GROUP_KEY}, {"state", GROUP_STATE}, {"adapter", GROUP_ADAPTER},
    {"version", GROUP_VERSION}, {"tenant", GROUP_TENANT},
};
#define GROUPS (sizeof groups / sizeof *groups)

static int read_times(const struct http_request *r, struct usage_query *q, struct err *e)
{
    int64_t now = clock_wall_us() / 1000000, page = 0;
    q->end = now;
    if (admin_query_int(r, "end_time", 0, TIME_MAX, &q->end, e)) return -1;
    int64_t last = (q->end + q->width_s - 1) / q->width_s * q->width_s, span = q->limit * q->width_s;
    q->start = last > span ? last - span : 0; /* so that the first page ends with the bucket of now */
    if (admin_query_int(r, "start_time", 0, TIME_MAX, &q->start, e) || admin_query_int(r, "page", 0, TIME_MAX, &page, e)) return -1;
    if (admin_query_in_order(q->start, q->end, e)) return -1;
    if (page > q->start) q->start = page;
    if (q->start >= q->end) return err_field(e, ERR_INVALID, "page", "'page' is past 'end_time'.");
    return 0;
}

static int read_width(const struct http_request *r, struct usage_query *q, struct err *e)
{
    const char *word = http_query(r, "bucket_width");
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        if (strcmp(word ? word : "1d", widths[i].word) != 0) continue;
        int64_t limit = widths[i].limit;
        if (admin_query_int(r, "limit", 1, widths[i].limit_max, &limit, e)) return -1;
        q->width_s = widths[i].width_s;
        q->limit = (int)limit;
        return 0;
    }
    return err_field(e, ERR_INVALID, "bucket_width", "'bucket_width' must be 1m, 1h or 1d, not '%.40s'.", word);
}

static int read_query(const struct http_request *r, bool admin, struct usage_query *q, struct err *e)
{
    static const char *const own[] = {"start_time", "end_time", "bucket_width", "group_by", "group_by[]", "limit", "page", NULL};
    static const char *const all[] = {"start_time", "end_time", "bucket_width", "group_by", "group_by[]", "limit", "page", "tenant", NULL};
    if (admin_query_known(r, admin ? all : own, e) || admin_query_groups(r, groups, admin ? GROUPS : GROUPS - 1, &q->group, e)) return -1;
    if (read_width(r, q, e) || read_times(r, q, e)) return -1;
    if (q->width_s < 86400 && (q->group & ~(unsigned)USAGE_SPAN_GROUPS))
        return err_field(e, ERR_INVALID, "group_by", "Buckets of 1m and 1h are kept by %sstate only; use bucket_width=1d.", admin ? "tenant and " : "");
    return 0;
}

static int answer(struct http_request *r, const char *tenant, struct buf *data, struct err *e)
{
    struct usage_query q = {.tenant = tenant};
    int64_t next;
    if (read_query(r, !tenant, &q, e) || (!tenant && admin_query_tenant(r, &q.tenant, e))) return -1;
    if (ledger_usage(admin_gateway(r)->ledger, &q, data, &next, e)) return -1;
    admin_reply_buckets(r, data, next);
    return 0;
}

void usage_answer(struct http_request *r, const char *tenant)
{
    struct err e = {0};
    struct buf data;
    buf_init(&data, ADMIN_ANSWER_MAX);
    if (answer(r, tenant, &data, &e)) http_reply_error(r, &e);
    buf_close(&data);
}

/* --- the tenant's routes --- */

static void own_usage(struct http_request *r) { usage_answer(r, admin_who(r)->tenant); }

static void get_usage(struct http_request *r) { admin_defer(r, own_usage); }

const struct http_route routes_usage[] = {
    {"GET", "/v1/usage", HTTP_BODY_NONE, 0, admin_usage_head, NULL, get_usage, NULL},
    {"GET", "/t/{tenant}/v1/usage", HTTP_BODY_NONE, 0, admin_usage_head, NULL, get_usage, NULL},
    {0},
};
