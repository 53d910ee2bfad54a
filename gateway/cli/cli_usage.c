/* weft usage: usage per day, in OpenAI's usage shape, as a table with a line of totals: the tenant's own, or with --all
 * everybody's.
 *
 * Buckets come in pages (next_page); each result of a bucket is a row. A day without requests has no row. Sums are of
 * what is shown, so the last line always adds up. One thread. */
#include "gateway/cli/cli_command.h"
#include "gateway/cli/cli_value.h"
#include "gateway/cli/cli_verbs.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define DAY 86400
#define DAYS_DEFAULT 7
#define ROWS_MAX 100000
#define GROUPS_MAX 6
#define GROUP_BYTES 64

static const char *const counts[] = {"num_model_requests", "input_tokens", "input_cached_tokens", "output_tokens",
                                     "cost_nano"};

#define PAGES_MAX 10000
#define COST 4 /* of counts */

struct usage {
    const char *group, *path;
    enum cli_side side;
    json_t *data; /* of all pages, for --json */
    json_t *rows;
    json_int_t total[CLI_COUNT(counts)];
};

static int add_result(struct usage *u, const json_t *bucket, json_t *result)
{
    time_t t = (time_t)json_integer_value(json_object_get(bucket, "start_time"));
    char day[16] = "-";
    struct tm tm;
    if (json_array_size(u->rows) >= ROWS_MAX) return cli_error(CLI_FAILED, "more than %d rows of usage", ROWS_MAX);
    if (gmtime_r(&t, &tm)) strftime(day, sizeof day, "%Y-%m-%d", &tm);
    for (int i = 0; i < CLI_COUNT(counts); i++) u->total[i] = cli_value_sum(u->total[i], json_integer_value(json_object_get(result, counts[i])));
    json_object_set_new(result, "day", json_string(day));
    json_array_append(u->rows, result);
    return CLI_OK;
}

static int add_page(struct usage *u, const json_t *page)
{
    size_t i, k;
    json_t *bucket, *result;
    if (!json_is_array(json_object_get(page, "data")))
        return cli_error(CLI_FAILED, "the server's answer is no usage page");
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
    static const char *const titles[] = {"REQUESTS", "INPUT", "CACHED", "OUTPUT", "COST"};
    struct group_column group[GROUPS_MAX];
    struct cli_column columns[1 + GROUPS_MAX + CLI_COUNT(counts)] = {{"day", "day", CLI_TEXT, CLI_IN_LIST}};
    int groups = group_columns(u->group, group), n = 1;
    for (int i = 0; i < groups; i++)
        columns[n++] = (struct cli_column){group[i].title, group[i].keys, CLI_TEXT, CLI_IN_LIST};
    int shown = u->total[COST] ? CLI_COUNT(counts) : COST; /* no prices, no column */
    for (int i = 0; i < shown; i++)
        columns[n++] =
            (struct cli_column){titles[i], counts[i], i == COST ? CLI_MONEY_CELL : CLI_COUNT_CELL, CLI_IN_LIST};
    json_t *total = json_pack("{s:s}", "day", "total");
    for (int i = 0; i < CLI_COUNT(counts); i++) json_object_set_new(total, counts[i], json_integer(u->total[i]));
    json_array_append_new(u->rows, total);
    cli_table(&(struct cli_view){columns, n}, u->rows);
}

/* One page; *next the cursor of the following one, "" when there is none. */
static int fetch_page(const struct cli *c, struct usage *u, char next[1024])
{
    char path[CLI_URL_MAX];
    json_t *o = NULL;
    snprintf(path, sizeof path, "%s", u->path);
    if (*next && cli_query_add(path, "page", next)) return CLI_USAGE;
    int rc = cli_call(c, u->side, "GET", path, NULL, &o);
    if (!rc && c->json) json_array_extend(u->data, json_object_get(o, "data"));
    if (!rc && !c->json) rc = add_page(u, o);
    const char *page = json_string_value(json_object_get(o, "next_page"));
    bool more = json_is_true(json_object_get(o, "has_more")) && page && strcmp(page, next);
    snprintf(next, 1024, "%s", more ? page : "");
    json_decref(o);
    return rc;
}

static int path_of(const struct cli *c, const char *group, bool all, char path[CLI_URL_MAX])
{
    const char *tenant = cli_str(c, CLI_TENANT_FLAG);
    int64_t days = cli_int(c, CLI_DAYS_FLAG, DAYS_DEFAULT), today = (int64_t)time(NULL) / DAY * DAY;
    snprintf(path, CLI_URL_MAX, "%s/v1/usage?start_time=%" PRId64 "&bucket_width=1d", all ? "/admin" : "",
             today - (days - 1) * DAY);
    int rc = cli_query_add(path, "group_by", group);
    if (!rc && tenant) rc = cli_query_add(path, "tenant", tenant);
    return rc;
}

int cli_usage(const struct cli *c)
{
    char path[CLI_URL_MAX], next[1024] = "";
    const char *group = cli_str(c, CLI_GROUP_BY_FLAG);
    bool all = cli_has(c, CLI_ALL_FLAG) || cli_has(c, CLI_TENANT_FLAG);
    if (!group) group = cli_has(c, CLI_ALL_FLAG) && !cli_has(c, CLI_TENANT_FLAG) ? "tenant,model" : "model";
    if (strlen(group) > GROUP_BYTES) return cli_error(CLI_USAGE, "--group-by %s: too long", group);
    struct usage u = {.group = group,
                      .path = path,
                      .side = all ? CLI_ADMIN_SIDE : CLI_TENANT_SIDE,
                      .rows = json_array(),
                      .data = json_array()};
    int rc = path_of(c, group, all, path), pages = 0;
    do {
        if (!rc) rc = fetch_page(c, &u, next);
    } while (!rc && *next && ++pages < PAGES_MAX);
    if (!rc && c->json) {
        json_t *o = json_pack("{s:s, s:O, s:b}", "object", "page", "data", u.data, "has_more", 0);
        rc = cli_json(o);
        json_decref(o);
    } else if (!rc)
        print_usage(&u);
    json_decref(u.rows);
    json_decref(u.data);
    return rc;
}
