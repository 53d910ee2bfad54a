/* costs_api: what usage costs over HTTP: GET costs in the shape of OpenAI's costs API, and invoices.
 *
 *     start_time, end_time  Unix seconds, widened to days of UTC; without a start: the last `limit` days
 *     group_by              line_item, key (api_key_id), adapter, model; the operator also tenant (project_id). One of key, adapter and model at a time,
 *                           and line_item not with key or model: no rollup keeps that, and usage?group_by= has all combinations without it.
 *
 * One code for the tenant and the operator (see stats_api.h). On database threads. */
#include "base/clock.h"
#include "gateway/ledger/ledger_internal.h"
#include "gateway/settings.h"
#include "gateway/stats/costs.h"
#include "gateway/stats/stats_api.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DAY 86400
#define DAYS_DEFAULT 7
#define DAYS_MAX 180
#define TIME_MAX 253402214400 /* 9999-12-31 */

/* The last two are the operator's. */
static const struct admin_group groups[] = {
    {"line_item", COSTS_LINE_ITEM}, {"key", COSTS_KEY},       {"api_key_id", COSTS_KEY},    {"adapter", COSTS_ADAPTER},
    {"model", COSTS_MODEL},         {"tenant", COSTS_TENANT}, {"project_id", COSTS_TENANT},
};
#define GROUPS (sizeof groups / sizeof *groups)

static int read_group(const struct http_request *r, bool admin, unsigned *out, struct err *e)
{
    if (admin_query_groups(r, groups, admin ? GROUPS : GROUPS - 2, out, e)) return -1;
    if (costs_group_is_kept(*out)) return 0;
    return err_field(e, ERR_INVALID, "group_by", "Costs are kept by one of key, adapter and model at a time, and by line_item not with key or model.");
}

static int read_days(const struct http_request *r, struct costs_query *q, struct err *e)
{
    int64_t limit = DAYS_DEFAULT, page = 0;
    if (admin_query_int(r, "limit", 1, DAYS_MAX, &limit, e)) return -1;
    q->limit = (int)limit;
    if (stats_query_times(r, (limit - 1) * DAY + 1, &q->start, &q->end, e) || admin_query_int(r, "page", 0, TIME_MAX, &page, e)) return -1;
    if (page > q->start) q->start = page;
    return q->start < q->end ? 0 : err_field(e, ERR_INVALID, "page", "'page' is past 'end_time'.");
}

static int ask_costs(struct http_request *r, bool admin, const char *tenant, json_t **out, struct err *e)
{
    static const char *const more[] = {"bucket_width", "group_by", "group_by[]", "limit", "page", NULL}, *const widths[] = {"1d"};
    struct gateway *g = admin_gateway(r);
    struct costs_query q = {.tenant = tenant, .currency = g->set->currency};
    struct buf data;
    int64_t next;
    int width = 0;
    (void)out; /* it is answered here */
    if (stats_query_known(r, admin, more, e) || stats_query_word(r, "bucket_width", widths, 1, &width, e) || read_group(r, admin, &q.group, e) ||
        read_days(r, &q, e))
        return -1;
    buf_init(&data, ADMIN_ANSWER_MAX);
    int rc = costs_of_days(g->kept, &q, &data, &next, e);
    if (rc == 0) admin_reply_buckets(r, &data, next);
    buf_close(&data);
    return rc < 0 ? -1 : 1;
}

/* "2026-11" -> 202611; left out: this month. */
static int read_month(const struct http_request *r, int *out, struct err *e)
{
    const char *text = http_query(r, "month");
    int now = month_of(clock_wall_us());
    *out = now;
    if (!text) return 0;
    bool legal = strlen(text) == 7 && text[4] == '-' && strspn(text, "0123456789") == 4 && strspn(text + 5, "0123456789") == 2;
    int yyyymm = legal ? (int)(strtol(text, NULL, 10) * 100 + strtol(text + 5, NULL, 10)) : 0;
    if (yyyymm < 197001 || yyyymm % 100 < 1 || yyyymm % 100 > 12)
        return err_field(e, ERR_INVALID, "month", "'month' must be a month as 2026-11, not '%.40s'.", text);
    if (yyyymm > now) return err_field(e, ERR_INVALID, "month", "The month %.7s has not begun.", text);
    *out = yyyymm;
    return 0;
}

static int ask_invoice(struct http_request *r, bool admin, const char *tenant, json_t **out, struct err *e)
{
    static const char *const own[] = {"month", NULL}, *const all[] = {"month", "tenant", NULL};
    struct gateway *g = admin_gateway(r);
    const char *currency = g->set->currency;
    int yyyymm;
    if (admin_query_known(r, admin ? all : own, e) || read_month(r, &yyyymm, e)) return -1;
    if (!tenant) return costs_invoices(g->ledger, g->db, yyyymm, currency, out, e);
    return costs_invoice(g->ledger, g->kept, tenant, admin ? http_query(r, "tenant") : admin_who(r)->tenant_name, yyyymm, currency, out, e);
}

const struct http_route routes_costs[] = {
    STATS_OWN("/costs", ask_costs),
    STATS_OWN("/invoice", ask_invoice),
    {0},
};

const struct http_route routes_costs_admin[] = {
    STATS_ADMIN("/costs", ask_costs),
    STATS_ADMIN("/invoice", ask_invoice),
    {0},
};
