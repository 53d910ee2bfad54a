/* weft eval summary: scores of answers by version and rule, a line each.
 *
 * The tenant's own by its key; with --tenant that one's, by the admin's. Of the last --days days, by default 7. One thread. */
#include "gateway/cli/cli_command.h"
#include "gateway/cli/cli_value.h"
#include "gateway/cli/cli_verbs.h"
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#define EVAL_DAYS 7
#define DAY 86400

static const struct cli_column summary_columns[] = {
    {"alias", "alias", CLI_TEXT, CLI_IN_LIST},     {"version", "label", CLI_TEXT, CLI_IN_LIST},   {"rule", "rule", CLI_TEXT, CLI_IN_LIST},
    {"answers", "scored", CLI_COUNT_CELL, CLI_IN_LIST}, {"mean", "mean_text", CLI_TEXT, CLI_IN_LIST}, {"passed", "passed_text", CLI_TEXT, CLI_IN_LIST},
    {"failed", "failed", CLI_COUNT_CELL, CLI_IN_LIST},  {"not scored", "not_scored", CLI_COUNT_CELL, CLI_IN_LIST},
};

/* What the table shows, beside what came. */
static void label(json_t *g)
{
    const char *adapter = json_string_value(json_object_get(g, "adapter")), *base = json_string_value(json_object_get(g, "base"));
    const json_t *mean = json_object_get(g, "mean"), *passed = json_object_get(g, "pass_rate");
    if (adapter) json_object_set_new(g, "label", json_sprintf("%s@%" JSON_INTEGER_FORMAT, adapter, json_integer_value(json_object_get(g, "version"))));
    else json_object_set_new(g, "label", json_sprintf("base:%s", base ? base : ""));
    if (json_is_number(mean)) json_object_set_new(g, "mean_text", json_sprintf("%.3f", json_number_value(mean)));
    if (json_is_number(passed)) json_object_set_new(g, "passed_text", json_sprintf("%.1f %%", 100 * json_number_value(passed)));
}

static int add(char path[CLI_URL_MAX], const char *name, const char *value) { return value ? cli_query_add(path, name, value) : CLI_OK; }

static int path_of(const struct cli *c, char path[CLI_URL_MAX])
{
    char from[24];
    int64_t now = time(NULL), days = cli_int(c, CLI_DAYS_FLAG, EVAL_DAYS);
    const char *tenant = cli_str(c, CLI_TENANT_FLAG);
    snprintf(path, CLI_URL_MAX, "%s/v1/evaluations/summary?interval=1d", tenant ? "/admin" : "");
    snprintf(from, sizeof from, "%" PRId64, (now / DAY - days + 1) * DAY);
    int rc = add(path, "start_time", from);
    if (!rc) rc = add(path, "tenant", tenant);
    if (!rc) rc = add(path, "alias", c->nargs ? c->arg[0] : NULL);
    if (!rc) rc = add(path, "adapter", cli_str(c, CLI_ADAPTER_FLAG));
    return rc ? rc : add(path, "rule", cli_str(c, CLI_RULE_FLAG));
}

int cli_eval_summary(const struct cli *c)
{
    char path[CLI_URL_MAX];
    json_t *o = NULL, *g;
    size_t i;
    int rc = path_of(c, path);
    if (!rc) rc = cli_call(c, cli_has(c, CLI_TENANT_FLAG) ? CLI_ADMIN_SIDE : CLI_TENANT_SIDE, "GET", path, NULL, &o);
    if (!rc && c->json) {
        rc = cli_json(o);
    } else if (!rc) {
        json_array_foreach(json_object_get(o, "data"), i, g) label(g);
        cli_table(&(struct cli_view){summary_columns, CLI_COUNT(summary_columns)}, json_object_get(o, "data"));
    }
    json_decref(o);
    return rc;
}
