/* weft usage: the tenant's own usage per day, in OpenAI's usage shape, as a table with a line of totals.
 *
 * Buckets come in pages (next_page); each result of a bucket is a row. A day without requests has no row. Sums are of
 * what is shown, so the last line always adds up. One thread. */
#include "gateway/cli.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define DAY 86400
#define DAYS_DEFAULT 7
#define ROWS_MAX 100000
#define COUNT(a) (int)(sizeof(a) / sizeof *(a))

static const char *const counts[] = {"num_model_requests", "input_tokens", "input_cached_tokens", "output_tokens"};

struct usage {
    const char *group;
    json_t *rows;
    json_int_t total[COUNT(counts)];
};

static int add_result(struct usage *u, const json_t *bucket, json_t *result)
{
    time_t t = (time_t)json_integer_value(json_object_get(bucket, "start_time"));
    char day[16] = "-";
    struct tm tm;
    if (json_array_size(u->rows) >= ROWS_MAX) return cli_error(CLI_REFUSED, "more than %d rows of usage", ROWS_MAX);
    if (gmtime_r(&t, &tm)) strftime(day, sizeof day, "%Y-%m-%d", &tm);
    for (int i = 0; i < COUNT(counts); i++) u->total[i] += json_integer_value(json_object_get(result, counts[i]));
    json_object_set_new(result, "day", json_string(day));
    json_array_append(u->rows, result);
    return CLI_OK;
}

static int add_page(struct usage *u, const json_t *page)
{
    size_t i, k;
    json_t *bucket, *result;
    if (!json_is_array(json_object_get(page, "data")))
        return cli_error(CLI_REFUSED, "the server's answer is no usage page");
    json_array_foreach(json_object_get(page, "data"), i, bucket)
    {
        json_array_foreach(json_object_get(bucket, "results"), k, result)
        {
            int rc = json_is_object(result) ? add_result(u, bucket, result) : CLI_OK;
            if (rc) return rc;
        }
    }
    return CLI_OK;
}

static void print_usage(struct usage *u)
{
    char group[160], title[64] = "";
    snprintf(group, sizeof group, "%.40s|%.40s_id|api_%.40s_id|%.20s", u->group, u->group, u->group, "name");
    for (size_t i = 0; u->group[i] && i + 1 < sizeof title; i++)
        title[i] = u->group[i] >= 'a' && u->group[i] <= 'z' ? (char)(u->group[i] - 32) : u->group[i];
    const struct cli_column columns[] = {
        {"DAY", "day", CLI_TEXT},        {title, group, CLI_TEXT},         {"REQUESTS", counts[0], CLI_COUNT},
        {"INPUT", counts[1], CLI_COUNT}, {"CACHED", counts[2], CLI_COUNT}, {"OUTPUT", counts[3], CLI_COUNT},
    };
    json_t *total = json_pack("{s:s}", "day", "total");
    for (int i = 0; i < COUNT(counts); i++) json_object_set_new(total, counts[i], json_integer(u->total[i]));
    json_array_append_new(u->rows, total);
    cli_table(columns, COUNT(columns), u->rows);
}

/* One page; *next the cursor of the following one, "" when there is none. */
static int fetch_page(const struct cli *c, struct usage *u, const char *query, char next[1024])
{
    char path[CLI_URL_MAX], cursor[CLI_URL_MAX] = "";
    json_t *o = NULL;
    if (*next) cli_path(cursor, "&page=%s", next, NULL);
    if (snprintf(path, sizeof path, "/v1/usage?%s%s", query, cursor) >= (int)sizeof path)
        return cli_error(CLI_REFUSED, "the server's cursor is too long");
    struct cli quiet = *c;
    quiet.json = false;
    int rc = cli_call(&quiet, CLI_TENANT, "GET", path, NULL, &o);
    if (!rc && c->json) rc = cli_print_raw(o);
    if (!rc && !c->json) rc = add_page(u, o);
    const char *page = json_string_value(json_object_get(o, "next_page"));
    bool more = json_is_true(json_object_get(o, "has_more")) && page && strcmp(page, next);
    snprintf(next, 1024, "%s", more ? page : "");
    json_decref(o);
    return rc;
}

int cli_usage(const struct cli *c)
{
    char query[CLI_URL_MAX + 128], group[CLI_URL_MAX], next[1024] = "";
    struct usage u = {.group = c->group_by ? c->group_by : "model", .rows = json_array()};
    int64_t days = c->days ? c->days : DAYS_DEFAULT, today = (int64_t)time(NULL) / DAY * DAY;
    int rc = CLI_OK, pages = 0;
    if (strlen(u.group) > 32) rc = cli_error(CLI_USAGE, "--group-by %s: too long", u.group);
    if (!rc) {
        cli_path(group, "&group_by=%s", u.group, NULL);
        snprintf(query, sizeof query, "start_time=%" PRId64 "&bucket_width=1d%s", today - (days - 1) * DAY, group);
    }
    do {
        if (!rc) rc = fetch_page(c, &u, query, next);
    } while (!rc && *next && ++pages < CLI_PAGES_MAX);
    if (!rc && !c->json) print_usage(&u);
    json_decref(u.rows);
    return rc;
}
