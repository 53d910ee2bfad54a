/* weft canary, weft adapter idle, weft ledger health: figures of the dashboard, for a terminal.
 *
 *     canary         the targets of an alias beside each other, what differs for certain, and the verdict
 *     adapter idle   versions that nobody used for some days, the largest first: what can be archived
 *     ledger health  is usage recorded, checked, archived and passed on; engines' counters beside ours
 *
 * Without --tenant and --all the tenant's own, by its key. One thread. */
#include "gateway/cli/cli_command.h"
#include "gateway/cli/cli_value.h"
#include "gateway/cli/cli_verbs.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define IDLE_DAYS 30
#define LABEL 160

static bool of_admin(const struct cli *c)
{
    return cli_has(c, CLI_ALL_FLAG) || cli_has(c, CLI_TENANT_FLAG);
}

/* "/v1/WHAT", or with --tenant and --all "/admin/v1/WHAT?tenant=NAME". */
static int path_of(const struct cli *c, const char *what, char path[CLI_URL_MAX])
{
    const char *tenant = cli_str(c, CLI_TENANT_FLAG);
    snprintf(path, CLI_URL_MAX, "%s/v1/%s", of_admin(c) ? "/admin" : "", what);
    return tenant ? cli_query_add(path, "tenant", tenant) : CLI_OK;
}

static enum cli_side side_of(const struct cli *c)
{
    return of_admin(c) ? CLI_ADMIN_SIDE : CLI_TENANT_SIDE;
}

/* --- canary --- */

static const struct cli_column target_columns[] = {
    {"target", "label", CLI_TEXT, CLI_IN_LIST},
    {"weight", "weight", CLI_COUNT_CELL, CLI_IN_LIST},
    {"requests", "requests", CLI_COUNT_CELL, CLI_IN_LIST},
    {"errors", "errors", CLI_TEXT, CLI_IN_LIST},
    {"aborts", "aborts", CLI_TEXT, CLI_IN_LIST},
    {"first token p50", "ttft_ms.p50", CLI_COUNT_CELL, CLI_IN_LIST},
    {"p99", "ttft_ms.p99", CLI_COUNT_CELL, CLI_IN_LIST},
    {"per token p50", "tpot_ms.p50", CLI_COUNT_CELL, CLI_IN_LIST},
    {"p99", "tpot_ms.p99", CLI_COUNT_CELL, CLI_IN_LIST},
    {"tokens", "output_tokens_avg", CLI_COUNT_CELL, CLI_IN_LIST},
    {"cost", "cost", CLI_MONEY_CELL, CLI_IN_LIST},
    {"score", "score_text", CLI_TEXT, CLI_IN_LIST},
};

static void set_percent(json_t *o, const char *name, const json_t *share)
{
    if (json_is_number(share)) json_object_set_new(o, name, json_sprintf("%.2f %%", 100 * json_number_value(share)));
}

/* What the table shows of a target, beside what came. */
static void label(json_t *target)
{
    const char *adapter = json_string_value(json_object_get(target, "adapter")),
               *base = json_string_value(json_object_get(target, "base"));
    char text[LABEL];
    if (adapter)
        snprintf(text, sizeof text, "%.100s@%lld", adapter,
                 (long long)json_integer_value(json_object_get(target, "version")));
    else
        snprintf(text, sizeof text, "base:%.128s", base ? base : "");
    json_object_set_new(target, "label", json_string(text));
    set_percent(target, "errors", json_object_get(target, "error_rate"));
    set_percent(target, "aborts", json_object_get(target, "abort_rate"));
    json_int_t cost = cli_value_whole(json_object_get(target, "cost_nano_avg"));
    if (cost) json_object_set_new(target, "cost", json_integer(cost));
    const json_t *score = json_object_get(target, "score");
    if (json_is_number(score)) json_object_set_new(target, "score_text", json_sprintf("%.3f", json_number_value(score)));
}

static const char *text_of(const json_t *o, const char *field)
{
    const char *s = json_string_value(json_object_get(o, field));
    return s ? s : "";
}

static void print_canary(const json_t *o)
{
    json_t *targets = json_object_get(o, "targets"), *t;
    const char *verdict = text_of(o, "verdict"), *reason = text_of(o, "reason");
    size_t i;
    json_array_foreach(targets, i, t) label(t);
    cli_table(&(struct cli_view){target_columns, CLI_COUNT(target_columns)}, targets);
    enum cli_colour colour = !strcmp(verdict, "worse") ? CLI_RED : !strcmp(verdict, "better") ? CLI_GREEN : CLI_BOLD;
    printf("\n%s", cli_colour(colour));
    cli_puts(verdict, strlen(verdict));
    printf("%s: ", cli_colour(CLI_PLAIN));
    cli_puts(reason, strlen(reason));
    putchar('\n');
}

int cli_canary(const struct cli *c)
{
    char path[CLI_URL_MAX];
    json_t *o = NULL;
    int rc = path_of(c, "stats/canary", path);
    if (!rc) rc = cli_query_add(path, "alias", c->arg[0]);
    if (!rc) rc = cli_call(c, side_of(c), "GET", path, NULL, &o);
    if (!rc && c->json)
        rc = cli_json(o);
    else if (!rc)
        print_canary(o);
    json_decref(o);
    return rc;
}

/* --- adapter idle --- */

static const struct cli_column idle_columns[] = {
    {"tenant", "tenant", CLI_TEXT, CLI_IN_LIST},        {"adapter", "adapter", CLI_TEXT, CLI_IN_LIST},
    {"version", "version", CLI_COUNT_CELL, CLI_IN_LIST}, {"state", "state", CLI_STATE_CELL, CLI_IN_LIST},
    {"size", "bytes", CLI_BYTES_CELL, CLI_IN_LIST},      {"rank", "rank", CLI_COUNT_CELL, CLI_IN_LIST},
    {"pinned", "pinned", CLI_YES, CLI_IN_LIST},          {"last used", "last_used", CLI_TIME_CELL, CLI_IN_LIST},
    {"created", "created_at", CLI_TIME_CELL, CLI_IN_LIST}, {"aliases", "aliases", CLI_LIST_CELL, CLI_IN_LIST},
    {"resident", "resident", CLI_LIST_CELL, CLI_IN_LIST},
};

int cli_adapter_idle(const struct cli *c)
{
    char path[CLI_URL_MAX], days[24];
    json_t *rows = NULL;
    snprintf(days, sizeof days, "%" PRId64, cli_int(c, CLI_DAYS_FLAG, IDLE_DAYS));
    int rc = path_of(c, "stats/adapters", path);
    if (!rc) rc = cli_query_add(path, "idle_days", days) || cli_query_add(path, "sort", "bytes") ? CLI_USAGE : CLI_OK;
    if (!rc) rc = cli_list(c, side_of(c), path, cli_int(c, CLI_LIMIT_FLAG, 0), &rows);
    if (!rc && c->json) {
        json_t *o = json_pack("{s:s, s:O}", "object", "list", "data", rows);
        rc = cli_json(o);
        json_decref(o);
    } else if (!rc) {
        cli_table(&(struct cli_view){idle_columns, CLI_COUNT(idle_columns)}, rows);
    }
    json_decref(rows);
    return rc;
}

/* --- ledger health --- */

static const struct cli_column health_columns[] = {
    {"writable", "writable", CLI_YES, CLI_IN_SHOW},
    {"open requests", "open_admissions", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"oldest, s", "oldest_admission_s", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"queue", "queue", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"settled", "settled", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"retried", "retried", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"final before", "final_before", CLI_TIME_CELL, CLI_IN_SHOW},
    {"database", "database_bytes", CLI_BYTES_CELL, CLI_IN_SHOW},
    {"its log", "wal_bytes", CLI_BYTES_CELL, CLI_IN_SHOW},
    {"verified", "last_verify.t", CLI_TIME_CELL, CLI_IN_SHOW},
    {"rows", "last_verify.rows", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"that differ", "last_verify.bad", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"last backup", "backups.last", CLI_TIME_CELL, CLI_IN_SHOW},
};
static const struct cli_column month_columns[] = {{"month", "month", CLI_TEXT, CLI_IN_LIST},
                                                  {"place", "place", CLI_STATE_CELL, CLI_IN_LIST},
                                                  {"rows", "rows", CLI_COUNT_CELL, CLI_IN_LIST}};
static const struct cli_column webhook_columns[] = {{"webhook", "name", CLI_TEXT, CLI_IN_LIST},
                                                    {"tenant", "tenant", CLI_TEXT, CLI_IN_LIST},
                                                    {"state", "state", CLI_STATE_CELL, CLI_IN_LIST},
                                                    {"lag", "lag", CLI_COUNT_CELL, CLI_IN_LIST}};
static const struct cli_column schedule_columns[] = {{"export", "name", CLI_TEXT, CLI_IN_LIST},
                                                     {"state", "state", CLI_TEXT, CLI_IN_LIST},
                                                     {"behind, s", "behind_s", CLI_COUNT_CELL, CLI_IN_LIST},
                                                     {"last error", "last_error", CLI_TEXT, CLI_IN_LIST}};
static const struct cli_column engine_columns[] = {{"engine", "name", CLI_TEXT, CLI_IN_LIST},
                                                   {"requests here", "requests_gateway", CLI_COUNT_CELL, CLI_IN_LIST},
                                                   {"there", "requests_engine", CLI_COUNT_CELL, CLI_IN_LIST},
                                                   {"tokens here", "tokens_gateway", CLI_COUNT_CELL, CLI_IN_LIST},
                                                   {"there", "tokens_engine", CLI_COUNT_CELL, CLI_IN_LIST},
                                                   {"ratio", "ratio", CLI_TEXT, CLI_IN_LIST}};

static const struct {
    const char *field;
    struct cli_view view;
} parts[] = {
    {"months", {month_columns, CLI_COUNT(month_columns)}},
    {"webhooks", {webhook_columns, CLI_COUNT(webhook_columns)}},
    {"schedules", {schedule_columns, CLI_COUNT(schedule_columns)}},
    {"engines", {engine_columns, CLI_COUNT(engine_columns)}},
};

int cli_ledger_health(const struct cli *c)
{
    json_t *o = NULL;
    int rc = cli_call(c, CLI_ADMIN_SIDE, "GET", "/admin/v1/ledger/health", NULL, &o);
    if (!rc && c->json) {
        rc = cli_json(o);
    } else if (!rc) {
        cli_fields(&(struct cli_view){health_columns, CLI_COUNT(health_columns)}, o);
        for (int i = 0; i < CLI_COUNT(parts); i++) {
            const json_t *rows = json_object_get(o, parts[i].field);
            if (!json_array_size(rows)) continue;
            putchar('\n');
            cli_table(&parts[i].view, rows);
        }
    }
    json_decref(o);
    return rc;
}
