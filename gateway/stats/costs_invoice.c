/* costs_invoice: a tenant's month as lines, and all tenants' totals (see costs.h).
 *
 * A line is a base or adapter, a kind of token and a unit price: where the price changed in the month there is a line for each, so tokens times price is
 * the amount on every line. Adjustments are booked in the month in which they were made and stand apart, each with its reason. */
#include "base/clock.h"
#include "gateway/api/page.h"
#include "gateway/ledger/ledger_adjust.h"
#include "gateway/stats/costs_internal.h"
#include "gateway/stats/stats_kept.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ADJUSTMENTS_MAX 10000 /* of a month; more would be no invoice */

struct invoice {
    struct stats_read x;
    struct stats_range range; /* the month */
    struct stats_tally t;     /* owner: the base; name: the adapter; version: the price row */
    struct costs_prices prices;
    json_t *lines;
    int64_t total, adjusted, requests;
};

static int add_row(void *u, const struct stats_row *row, struct err *e)
{
    struct invoice *v = u;
    v->total += row->sums.v[SUM_COST];
    v->requests += row->sums.v[SUM_REQUESTS];
    if (row->price == ROLLUP_PRICE_ADJUSTED) {
        v->adjusted += row->sums.v[SUM_COST];
        return 0;
    }
    return stats_tally_add(&v->t, row->base, row->name, row->price, &row->sums, e);
}

static int by_name(const void *a, const void *b)
{
    const struct stats_item *x = a, *y = b;
    int d = strcmp(x->owner, y->owner);
    if (!d) d = strcmp(x->name, y->name);
    return d ? d : (x->version > y->version) - (x->version < y->version);
}

static int add_lines(struct invoice *v, const struct stats_item *it, struct err *e)
{
    struct costs_part part[COSTS_ITEMS];
    if (costs_split(&v->x, &v->prices, it->version, &it->sums, part, e)) return -1;
    for (int i = 0; i < COSTS_ITEMS; i++) {
        if (!part[i].there) continue;
        json_t *o = json_pack("{ss so ss sI so sI}", "base", it->owner, "adapter", *it->name ? json_string(it->name) : json_null(), "line_item",
                              costs_item_word[i], "tokens", (json_int_t)part[i].tokens, "unit_price_nano",
                              part[i].unit < 0 ? json_null() : json_integer(part[i].unit), "amount_nano", (json_int_t)part[i].amount);
        if (!o || json_array_append_new(v->lines, o)) return err_set(e, ERR_NO_MEMORY, "no memory for an invoice");
    }
    return 0;
}

static int read_invoice(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct invoice *v = u;
    if (stats_begin(&v->x, d, c, e) || stats_names(&v->x, v->x.tenant, DIM_BILL, NULL, &v->range, add_row, v, e)) return -1;
    if (v->t.n) qsort(v->t.item, (size_t)v->t.n, sizeof *v->t.item, by_name);
    for (int i = 0; i < v->t.n; i++)
        if (add_lines(v, &v->t.item[i], e)) return -1;
    return 0;
}

static struct stats_range whole_month(int yyyymm)
{
    return (struct stats_range){month_start(yyyymm), month_start(month_after(yyyymm)), STATS_DAY};
}

/* No request of the month is under way any more. */
static int is_final(struct ledger *l, const struct stats_range *month, bool *out, struct err *e)
{
    char id[UUID_LEN];
    int64_t until;
    if (ledger_final_before(l, id, &until, e)) return -1;
    *out = until / 1000000 >= month->end;
    return 0;
}

/* The list is newest first, and its cursors begin with the time: the month's stand between two of them. */
static int list_adjustments(struct ledger *l, const char *tenant, const struct stats_range *month, json_t *list, struct err *e)
{
    const struct adjust_query q = {.tenant = tenant};
    char after[UUID_LEN];
    bool more = true;
    usage_id_at((month->end + 1) * 1000000, after);
    while (more && json_array_size(list) < ADJUSTMENTS_MAX) {
        json_t *page = json_array(), *o;
        size_t i;
        int rc = ledger_adjustments(l, &q, &(struct page){after, "", PAGE_MAX}, page, &more, e);
        more &= json_array_size(page) > 0; /* no place to go on from */
        json_array_foreach(page, i, o)
        {
            int64_t t = json_integer_value(json_object_get(o, "created_at"));
            snprintf(after, sizeof after, "%s", json_string_value(json_object_get(o, "id")));
            if (t >= month->start && t < month->end) json_array_insert(list, 0, o);
            more &= t >= month->start;
        }
        json_decref(page);
        if (rc) return -1;
    }
    return 0;
}

static json_t *month_json(int yyyymm) { return json_sprintf("%04d-%02d", yyyymm / 100, yyyymm % 100); }

int costs_invoice(struct ledger *l, struct stats_kept *kept, const char *tenant, const char *name, int yyyymm, const char *currency, struct json_t **out, struct err *e)
{
    struct invoice v = {.x = {.tenant = tenant, .now = clock_wall_us() / 1000000, .kept = kept}, .range = whole_month(yyyymm)};
    json_t *adjustments = json_array();
    bool final;
    int rc = stats_tally_init(&v.t, e);
    v.lines = json_array();
    if (rc == 0) rc = is_final(l, &v.range, &final, e); /* before the sums are read: they hold all that was final by then */
    if (rc == 0) rc = db_read(stats_kept_db(kept), read_invoice, &v, STATS_READ_MS, e);
    if (rc == 0) rc = list_adjustments(l, tenant, &v.range, adjustments, e);
    if (rc == 0) {
        *out = json_pack("{ss so ss ss sI sI sb sO sO sI sI sI so}", "object", "invoice", "month", month_json(yyyymm), "tenant", name, "currency", currency,
                         "start_time", (json_int_t)v.range.start, "end_time", (json_int_t)v.range.end, "final", final, "lines", v.lines, "adjustments",
                         adjustments, "requests", (json_int_t)v.requests, "adjustments_nano", (json_int_t)v.adjusted, "total_nano", (json_int_t)v.total,
                         "total", costs_money(v.total));
        if (!*out) rc = err_set(e, ERR_NO_MEMORY, "no memory for an invoice");
    }
    json_decref(v.lines);
    json_decref(adjustments);
    stats_tally_close(&v.t);
    return rc;
}

/* --- all tenants --- */

struct invoices {
    struct stats_range range;
    json_t *list;
    int64_t total;
};

static int read_invoices(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT coalesce(t.name, r.name), sum(r.n), sum(r.prompt), sum(r.cached), sum(r.output), sum(r.cost)"
                              " FROM rollup_by r LEFT JOIN tenant t ON t.id = r.name WHERE r.tenant = '' AND r.t = ?1 AND r.dim = ?2"
                              " GROUP BY 1 ORDER BY 1 LIMIT ?3";
    struct invoices *v = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "iii", v->range.start, (int64_t)DIM_TENANT_MONTH, (int64_t)STATS_ITEMS_MAX)) return -1;
    int rc;
    while ((rc = db_row(st, e)) == 1) {
        int64_t cost = sqlite3_column_int64(st, 5);
        json_t *o = json_pack("{ss sI sI sI sI sI so}", "tenant", db_text(st, 0), "requests", (json_int_t)sqlite3_column_int64(st, 1), "input_tokens",
                              (json_int_t)sqlite3_column_int64(st, 2), "cached_tokens", (json_int_t)sqlite3_column_int64(st, 3), "output_tokens",
                              (json_int_t)sqlite3_column_int64(st, 4), "total_nano", (json_int_t)cost, "total", costs_money(cost));
        v->total += cost;
        if (!o || json_array_append_new(v->list, o)) return err_set(e, ERR_NO_MEMORY, "no memory for invoices");
    }
    return rc;
}

int costs_invoices(struct ledger *l, struct db *d, int yyyymm, const char *currency, struct json_t **out, struct err *e)
{
    struct invoices v = {.range = whole_month(yyyymm), .list = json_array()};
    bool final;
    int rc = is_final(l, &v.range, &final, e);
    if (rc == 0) rc = db_read(d, read_invoices, &v, STATS_READ_MS, e);
    if (rc == 0) {
        *out = json_pack("{ss so ss sI sI sb sO sI so}", "object", "invoices", "month", month_json(yyyymm), "currency", currency, "start_time",
                         (json_int_t)v.range.start, "end_time", (json_int_t)v.range.end, "final", final, "data", v.list, "total_nano", (json_int_t)v.total,
                         "total", costs_money(v.total));
        if (!*out) rc = err_set(e, ERR_NO_MEMORY, "no memory for invoices");
    }
    json_decref(v.list);
    return rc;
}
