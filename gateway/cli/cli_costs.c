/* weft costs, weft usage top, weft usage latency, weft invoice: what usage cost, who used most, how long it took, as tables; with --json the server's answer.
 *
 * They are the tenant's own, by its key; with --all or --tenant the operator's view. One thread. */
#include "gateway/cli/cli_command.h"
#include "gateway/cli/cli_value.h"
#include "gateway/cli/cli_verbs.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define DAY 86400
#define COSTS_DAYS 7
#define COSTS_DAYS_MAX 180
#define TOP_DAYS 7
#define LATENCY_DAYS 2

static bool of_all(const struct cli *c) { return cli_has(c, CLI_ALL_FLAG) || cli_has(c, CLI_TENANT_FLAG); }

/* The path of a side, with --tenant and the time: the days, or from --since to --until; --until alone ends the days. */
static int begin(const struct cli *c, const char *path, int days, char out[CLI_URL_MAX])
{
    const char *tenant = cli_str(c, CLI_TENANT_FLAG);
    snprintf(out, CLI_URL_MAX, "%s/v1/%s", of_all(c) ? "/admin" : "", path);
    if (cli_has(c, CLI_DAYS_FLAG) && cli_has(c, CLI_SINCE_FLAG)) return cli_error(CLI_USAGE, "--days and --since don't go together");
    if (days) {
        int64_t until = cli_int(c, CLI_UNTIL_FLAG, time(NULL) + 1), last = (until - 1) / DAY * DAY, n = cli_int(c, CLI_DAYS_FLAG, days);
        snprintf(out + strlen(out), CLI_URL_MAX - strlen(out), "?start_time=%" PRId64 "&end_time=%" PRId64,
                 cli_int(c, CLI_SINCE_FLAG, last - (n - 1) * DAY), until);
    }
    return tenant ? cli_query_add(out, "tenant", tenant) : CLI_OK;
}

static int ask(const struct cli *c, const char *path, json_t **out)
{
    return cli_call(c, of_all(c) ? CLI_ADMIN_SIDE : CLI_TENANT_SIDE, "GET", path, NULL, out);
}

static int show(const struct cli *c, json_t *o, json_t *rows, const struct cli_view *view)
{
    int rc = CLI_OK;
    if (c->json)
        rc = cli_json(o);
    else
        cli_table(view, rows);
    json_decref(o);
    json_decref(rows);
    return rc;
}

/* --- costs --- */

static const struct cli_column costs_columns[] = {
    {"day", "day", CLI_TEXT, CLI_IN_LIST},
    {"tenant", "tenant", CLI_TEXT, CLI_IN_LIST},
    {"key", "api_key_id", CLI_TEXT, CLI_IN_LIST},
    {"adapter", "adapter", CLI_TEXT, CLI_IN_LIST},
    {"model", "model", CLI_TEXT, CLI_IN_LIST},
    {"line item", "line_item", CLI_TEXT, CLI_IN_LIST},
    {"tokens", "quantity", CLI_COUNT_CELL, CLI_IN_LIST},
    {"cost", "amount_nano", CLI_MONEY_CELL, CLI_IN_LIST},
    {"", "amount.currency", CLI_TEXT, CLI_IN_LIST},
};

static int64_t add_bucket(const json_t *bucket, json_t *rows)
{
    time_t t = (time_t)json_integer_value(json_object_get(bucket, "start_time"));
    char day[16] = "-";
    struct tm tm;
    size_t i;
    json_t *result;
    int64_t sum = 0;
    if (gmtime_r(&t, &tm)) strftime(day, sizeof day, "%Y-%m-%d", &tm);
    json_array_foreach(json_object_get(bucket, "results"), i, result)
    {
        json_object_set_new(result, "day", json_string(day));
        sum = cli_value_sum(sum, json_integer_value(json_object_get(result, "amount_nano")));
        json_array_append(rows, result);
    }
    return sum;
}

/* Only columns that some row has. */
static struct cli_view used_columns(const struct cli_column *all, int n, const json_t *rows, struct cli_column *out)
{
    int used = 0;
    for (int k = 0; k < n; k++) {
        size_t i;
        json_t *row;
        bool there = false;
        json_array_foreach(rows, i, row)
        {
            const json_t *v = json_object_get(row, all[k].fields);
            there |= (v && !json_is_null(v)) || strchr(all[k].fields, '.');
        }
        if (there) out[used++] = all[k];
    }
    return (struct cli_view){out, used};
}

int cli_costs(const struct cli *c)
{
    char path[CLI_URL_MAX];
    const char *group = cli_str(c, CLI_GROUP_BY_FLAG);
    json_t *o = NULL, *rows = json_array(), *bucket;
    struct cli_column columns[CLI_COUNT(costs_columns)];
    size_t i;
    int64_t sum = 0;
    int rc = cli_int(c, CLI_DAYS_FLAG, COSTS_DAYS) > COSTS_DAYS_MAX ? cli_error(CLI_USAGE, "--days: at most %d", COSTS_DAYS_MAX) : begin(c, "costs", COSTS_DAYS, path);
    if (!group) group = cli_has(c, CLI_ALL_FLAG) && !cli_has(c, CLI_TENANT_FLAG) ? "tenant" : "line_item";
    if (!rc) rc = cli_query_add(path, "limit", "180");
    if (!rc && *group) rc = cli_query_add(path, "group_by", group);
    if (!rc) rc = ask(c, path, &o);
    if (rc) {
        json_decref(rows);
        return rc;
    }
    if (!c->json) {
        json_array_foreach(json_object_get(o, "data"), i, bucket) sum = cli_value_sum(sum, add_bucket(bucket, rows));
        json_array_append_new(rows, json_pack("{s:s, s:I}", "day", "total", "amount_nano", (json_int_t)sum));
    }
    struct cli_view view = used_columns(costs_columns, CLI_COUNT(costs_columns), rows, columns);
    return show(c, o, rows, &view);
}

/* --- usage top --- */

static const struct cli_column top_columns[] = {
    {"name", "name", CLI_TEXT, CLI_IN_LIST},
    {"tenant", "tenant", CLI_TEXT, CLI_IN_LIST},
    {"requests", "requests", CLI_COUNT_CELL, CLI_IN_LIST},
    {"errors", "errors", CLI_COUNT_CELL, CLI_IN_LIST},
    {"aborts", "aborts", CLI_COUNT_CELL, CLI_IN_LIST},
    {"input", "input_tokens", CLI_COUNT_CELL, CLI_IN_LIST},
    {"cached", "cached_tokens", CLI_COUNT_CELL, CLI_IN_LIST},
    {"output", "output_tokens", CLI_COUNT_CELL, CLI_IN_LIST},
    {"cost", "cost_nano", CLI_MONEY_CELL, CLI_IN_LIST},
    {"share", "share_percent", CLI_TEXT, CLI_IN_LIST},
    {"change", "change_percent", CLI_TEXT, CLI_IN_LIST},
};

static void set_percent(json_t *row, const char *from, const char *to, bool sign)
{
    const json_t *v = json_object_get(row, from);
    char text[32] = "-";
    if (json_is_number(v)) snprintf(text, sizeof text, sign ? "%+.1f %%" : "%.1f %%", 100 * json_number_value(v));
    json_object_set_new(row, to, json_string(text));
}

int cli_usage_top(const struct cli *c)
{
    char path[CLI_URL_MAX], limit[24];
    const char *sort = cli_str(c, CLI_SORT_FLAG), *adapter = cli_str(c, CLI_ADAPTER_FLAG);
    json_t *o = NULL, *row, *rows;
    struct cli_column columns[CLI_COUNT(top_columns)];
    size_t i;
    int rc = begin(c, "stats/top", TOP_DAYS, path);
    if (sort && strcmp(sort, "cost") == 0) sort = "cost_nano";
    if (!rc && c->nargs) rc = cli_query_add(path, "by", c->arg[0]);
    if (!rc && adapter) rc = cli_query_add(path, "adapter", adapter);
    if (!rc && sort) rc = cli_query_add(path, "sort", sort);
    snprintf(limit, sizeof limit, "%" PRId64, cli_int(c, CLI_LIMIT_FLAG, 10));
    if (!rc) rc = cli_query_add(path, "limit", limit);
    if (!rc) rc = ask(c, path, &o);
    if (rc) return rc;
    rows = json_incref(json_object_get(o, "data"));
    if (!c->json) {
        json_array_foreach(rows, i, row)
        {
            set_percent(row, "share", "share_percent", false);
            set_percent(row, "change", "change_percent", true);
        }
    }
    struct cli_view view = used_columns(top_columns, CLI_COUNT(top_columns), rows, columns);
    return show(c, o, rows, &view);
}

/* --- usage latency --- */

static const struct cli_column latency_columns[] = {
    {"time", "time", CLI_TEXT, CLI_IN_LIST},         {"requests", "n", CLI_COUNT_CELL, CLI_IN_LIST}, {"p50 ms", "p50_ms", CLI_COUNT_CELL, CLI_IN_LIST},
    {"p90 ms", "p90_ms", CLI_COUNT_CELL, CLI_IN_LIST}, {"p99 ms", "p99_ms", CLI_COUNT_CELL, CLI_IN_LIST},
};

/* A row of the answer as it is shown: times in whole milliseconds. */
static void add_latency(json_t *rows, const json_t *from, const char *name)
{
    static const char *const shown[][2] = {{"p50", "p50_ms"}, {"p90", "p90_ms"}, {"p99", "p99_ms"}};
    time_t t = (time_t)json_integer_value(json_object_get(from, "t"));
    char text[24] = "-";
    struct tm tm;
    json_t *row = json_pack("{s:O*}", "n", json_object_get(from, "n"));
    if (!name && gmtime_r(&t, &tm)) strftime(text, sizeof text, "%Y-%m-%d %H:%M", &tm);
    json_object_set_new(row, "time", json_string(name ? name : text));
    for (size_t i = 0; i < CLI_COUNT(shown); i++) {
        const json_t *v = json_object_get(from, shown[i][0]);
        if (json_is_number(v)) json_object_set_new(row, shown[i][1], json_integer((json_int_t)(json_number_value(v) + 0.5)));
    }
    json_array_append_new(rows, row);
}

int cli_usage_latency(const struct cli *c)
{
    static const struct cli_view view = {latency_columns, CLI_COUNT(latency_columns)};
    char path[CLI_URL_MAX];
    json_t *o = NULL, *one, *rows = NULL;
    size_t i;
    int rc = begin(c, "stats/latency", LATENCY_DAYS, path);
    if (!rc) rc = cli_query_add(path, "kind", c->nargs ? c->arg[0] : "ttft");
    if (!rc) rc = ask(c, path, &o);
    if (rc) return rc;
    rows = json_array();
    json_array_foreach(json_object_get(o, "percentiles"), i, one) add_latency(rows, one, NULL);
    add_latency(rows, json_object_get(o, "total"), "in all");
    if (json_is_object(json_object_get(o, "previous"))) add_latency(rows, json_object_get(o, "previous"), "the time before");
    return show(c, o, rows, &view);
}

/* --- invoice --- */

static const struct cli_column invoice_columns[] = {
    {"tenant", "tenant", CLI_TEXT, CLI_IN_LIST},
    {"base", "base", CLI_TEXT, CLI_IN_LIST},
    {"adapter", "adapter", CLI_TEXT, CLI_IN_LIST},
    {"line item", "line_item", CLI_TEXT, CLI_IN_LIST},
    {"reason", "reason", CLI_TEXT, CLI_IN_LIST},
    {"requests", "requests", CLI_COUNT_CELL, CLI_IN_LIST},
    {"tokens", "tokens", CLI_COUNT_CELL, CLI_IN_LIST},
    {"input", "input_tokens", CLI_COUNT_CELL, CLI_IN_LIST},
    {"output", "output_tokens", CLI_COUNT_CELL, CLI_IN_LIST},
    {"price/M", "unit_price_nano", CLI_PRICE_CELL, CLI_IN_LIST},
    {"amount", "amount_nano", CLI_MONEY_CELL, CLI_IN_LIST},
};

static void add_adjustment(json_t *rows, const json_t *a)
{
    json_t *o = json_pack("{s:s, s:O}", "line_item", "adjustment", "reason", json_object_get(a, "reason"));
    json_object_set(o, "amount_nano", json_object_get(a, "cost_nano"));
    json_array_append_new(rows, o);
}

/* Lines, adjustments and the total; of all tenants a line for each. */
static json_t *invoice_rows(json_t *o)
{
    size_t i;
    json_t *rows = json_array(), *row, *total = json_pack("{s:O*}", "amount_nano", json_object_get(o, "total_nano"));
    json_array_foreach(json_object_get(o, "lines"), i, row) json_array_append(rows, row);
    json_array_foreach(json_object_get(o, "adjustments"), i, row) add_adjustment(rows, row);
    json_array_foreach(json_object_get(o, "data"), i, row)
    {
        json_object_set(row, "amount_nano", json_object_get(row, "total_nano"));
        json_array_append(rows, row);
    }
    json_object_set_new(total, json_object_get(o, "data") ? "tenant" : "base", json_string("total"));
    json_array_append_new(rows, total);
    return rows;
}

int cli_invoice(const struct cli *c)
{
    char path[CLI_URL_MAX];
    json_t *o = NULL;
    struct cli_column columns[CLI_COUNT(invoice_columns)];
    int rc = begin(c, "invoice", 0, path);
    if (!rc && c->nargs) rc = cli_query_add(path, "month", c->arg[0]);
    if (!rc) rc = ask(c, path, &o);
    if (rc) return rc;
    json_t *rows = c->json ? json_array() : invoice_rows(o);
    if (!c->json) {
        const char *month = json_string_value(json_object_get(o, "month")), *currency = json_string_value(json_object_get(o, "currency"));
        cli_note("%s, %s%s", month ? month : "-", currency ? currency : "-",
                 json_is_true(json_object_get(o, "final")) ? "" : "; not final");
    }
    struct cli_view view = used_columns(invoice_columns, CLI_COUNT(invoice_columns), rows, columns);
    return show(c, o, rows, &view);
}
