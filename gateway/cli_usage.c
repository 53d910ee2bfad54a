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
#define GROUPS_MAX 6
#define GROUP_BYTES 64
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

/* A column for each word of --group-by: its title in capitals, and the names that a result may give it. */
struct group_column {
    char title[40], keys[160];
};

static int group_columns(const char *groups, struct group_column out[GROUPS_MAX])
{
    int n = 0;
    for (const char *s = groups; *s && n < GROUPS_MAX; n++) {
        int len = (int)strcspn(s, ",");
        struct group_column *g = &out[n];
        snprintf(g->title, sizeof g->title, "%.*s", len, s);
        for (char *t = g->title; *t; t++) *t = *t >= 'a' && *t <= 'z' ? (char)(*t - 32) : *t;
        snprintf(g->keys, sizeof g->keys, "%.*s|%.*s_id|api_%.*s_id", len, s, len, s, len, s);
        s += len + (s[len] == ',');
    }
    return n;
}

static void print_usage(struct usage *u)
{
    static const char *const titles[] = {"REQUESTS", "INPUT", "CACHED", "OUTPUT"};
    struct group_column group[GROUPS_MAX];
    struct cli_column columns[1 + GROUPS_MAX + COUNT(counts)] = {{"DAY", "day", CLI_TEXT}};
    int groups = group_columns(u->group, group), n = 1;
    for (int i = 0; i < groups; i++) columns[n++] = (struct cli_column){group[i].title, group[i].keys, CLI_TEXT};
    for (int i = 0; i < COUNT(counts); i++) columns[n++] = (struct cli_column){titles[i], counts[i], CLI_COUNT};
    json_t *total = json_pack("{s:s}", "day", "total");
    for (int i = 0; i < COUNT(counts); i++) json_object_set_new(total, counts[i], json_integer(u->total[i]));
    json_array_append_new(u->rows, total);
    cli_table(columns, n, u->rows);
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
    if (strlen(u.group) > GROUP_BYTES) rc = cli_error(CLI_USAGE, "--group-by %s: too long", u.group);
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
