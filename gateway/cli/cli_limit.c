/* weft limit ...: limits of a tenant, one of its adapters, or a key, in values that people write.
 *
 *     set:  GET the limits and their revision -> put the given ones in -> PUT with If-Match
 *
 * so that what is not named stays and a change in between is a conflict, not a loss. A name without its unit's kind in the
 * table below is taken as a count: the server knows what limits there are. */
#include "gateway/cli/cli_command.h"
#include "gateway/cli/cli_value.h"
#include "gateway/cli/cli_verbs.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME 64
#define VALUE 64
#define SOFT "_soft"

/* The kinds of values; all others are counts. */
static const struct {
    const char *name;
    enum cli_value_kind kind;
} kinds[] = {
    {"cost_per_day", CLI_V_MONEY},        {"cost_per_month", CLI_V_MONEY}, {"cost_per_day_soft", CLI_V_MONEY},
    {"cost_per_month_soft", CLI_V_MONEY}, {"adapter_bytes", CLI_V_BYTES},  {"cost", CLI_V_MONEY},
};

static enum cli_value_kind kind_of(const char *name)
{
    for (int i = 0; i < CLI_COUNT(kinds); i++)
        if (!strcmp(kinds[i].name, name)) return kinds[i].kind;
    return CLI_V_COUNT;
}

/* --- whose --- */

static int path_of(const struct cli *c, char path[CLI_URL_MAX], enum cli_side *side)
{
    const char *tenant = cli_str(c, CLI_TENANT_FLAG), *adapter = cli_str(c, CLI_ADAPTER_FLAG);
    const char *key = c->nargs && !strchr(c->arg[0], '=') ? c->arg[0] : NULL;
    *side = CLI_ADMIN_SIDE;
    if (key && (tenant || adapter))
        return cli_error(CLI_USAGE, "%s is a key's ID: it goes without --tenant and --adapter", key);
    if (adapter && !tenant) return cli_error(CLI_USAGE, "--adapter needs --tenant");
    if (key)
        cli_path(path, "/admin/v1/keys/%s/limits", key, NULL);
    else if (adapter)
        cli_path(path, "/admin/v1/tenants/%s/adapters/%s/limits", tenant, adapter, NULL);
    else if (tenant)
        cli_path(path, "/admin/v1/tenants/%s/limits", tenant, NULL);
    else {
        *side = CLI_TENANT_SIDE;
        snprintf(path, CLI_URL_MAX, "/v1/limits");
    }
    return CLI_OK;
}

static int need_whose(const struct cli *c)
{
    bool key = c->nargs && !strchr(c->arg[0], '=');
    if (key || cli_has(c, CLI_TENANT_FLAG)) return CLI_OK;
    return cli_error(CLI_USAGE, "whose? --tenant NAME (and --adapter NAME), or a key's ID before the limits");
}

/* --- shown --- */

static void show_value(enum cli_value_kind kind, const json_t *v, char out[VALUE])
{
    int64_t n = cli_value_whole(v);
    if (!json_is_number(v))
        snprintf(out, VALUE, "-");
    else if (kind == CLI_V_MONEY)
        cli_value_money(n, out, VALUE);
    else
        cli_value_count(n, out, VALUE);
}

static json_t *row_of(const char *name, const json_t *limits, const json_t *used)
{
    char limit[VALUE], soft[VALUE], now[VALUE], softly[NAME + 8];
    enum cli_value_kind kind = kind_of(name);
    snprintf(softly, sizeof softly, "%s" SOFT, name);
    show_value(kind, json_object_get(limits, name), limit);
    show_value(kind, json_object_get(limits, softly), soft);
    show_value(kind, json_object_get(used, name), now);
    double most = json_number_value(json_object_get(limits, name)), n = json_number_value(json_object_get(used, name));
    json_t *o = json_pack("{s:s, s:s, s:s, s:s}", "name", name, "limit", limit, "soft", soft, "used", now);
    if (o && most > 0 && strcmp(now, "-")) json_object_set_new(o, "share", json_sprintf("%.0f %%", 100 * n / most));
    return o;
}

static bool is_soft(const char *name)
{
    size_t n = strlen(name), k = strlen(SOFT);
    return n > k && !strcmp(name + n - k, SOFT);
}

static void show_limits(const json_t *o)
{
    static const struct cli_column columns[] = {{"limit", "name", CLI_TEXT, CLI_IN_LIST},
                                                {"at most", "limit", CLI_COUNT_CELL, CLI_IN_LIST},
                                                {"warns at", "soft", CLI_COUNT_CELL, CLI_IN_LIST},
                                                {"used", "used", CLI_COUNT_CELL, CLI_IN_LIST},
                                                {"share", "share", CLI_COUNT_CELL, CLI_IN_LIST}};
    const json_t *limits = json_object_get(o, "limits"), *used = json_object_get(o, "used");
    json_t *rows = json_array(), *v;
    const char *name;
    json_object_foreach((json_t *)limits, name, v) if (!is_soft(name))
        json_array_append_new(rows, row_of(name, limits, used));
    cli_table(&(struct cli_view){columns, CLI_COUNT(columns)}, rows);
    json_decref(rows);
}

/* GET /v1/limits has the tenant's and the key's own; the admin's routes one subject's. */
static int show(const struct cli *c, const json_t *o)
{
    const char *who;
    json_t *v;
    bool first = true;
    if (c->json) return cli_json(o);
    if (json_object_get(o, "limits")) {
        show_limits(o);
        return CLI_OK;
    }
    json_object_foreach((json_t *)o, who, v)
    {
        if (!json_object_get(v, "limits")) continue;
        printf("%s%s%s%s\n", first ? "" : "\n", cli_colour(CLI_BOLD), who, cli_colour(CLI_PLAIN));
        show_limits(v);
        first = false;
    }
    return CLI_OK;
}

int cli_limit_show(const struct cli *c)
{
    char path[CLI_URL_MAX];
    enum cli_side side;
    json_t *o = NULL;
    int rc = path_of(c, path, &side);
    if (!rc) rc = cli_call(c, side, "GET", path, NULL, &o);
    if (!rc) rc = show(c, o);
    json_decref(o);
    return rc;
}

/* --- changed --- */

static int put_one(json_t *limits, const char *arg)
{
    const char *eq = strchr(arg, '=');
    char name[NAME], why[CLI_WHY];
    json_t *v = NULL;
    if (!eq || eq == arg || eq - arg >= NAME) return cli_error(CLI_USAGE, "%s: not of the form NAME=VALUE", arg);
    snprintf(name, sizeof name, "%.*s", (int)(eq - arg), arg);
    for (char *p = name; *p; p++) *p = *p == '-' ? '_' : *p;
    if (cli_value_read(kind_of(name), eq + 1, 0, 0, &v, why)) return cli_error(CLI_USAGE, "%s: %s", arg, why);
    json_object_set_new(limits, name, v);
    return CLI_OK;
}

static int put_limits(const struct cli *c, const char *path, const json_t *limits, const char *tag)
{
    char match[96];
    struct cli_answer a = {0};
    int rc = cli_revision(c, tag, match);
    struct cli_ask ask = {.side = CLI_ADMIN_SIDE, .method = "PUT", .path = path, .body = limits};
    if (*match) ask.header[0] = match;
    if (!rc) rc = cli_ask(c, &ask, &a);
    if (!rc) rc = show(c, a.json);
    cli_answer_close(&a);
    return rc;
}

int cli_limit_set(const struct cli *c)
{
    char path[CLI_URL_MAX];
    enum cli_side side;
    struct cli_answer now = {0};
    int first = c->nargs && !strchr(c->arg[0], '=') ? 1 : 0, rc = need_whose(c);
    if (!rc && first == c->nargs) rc = cli_error(CLI_USAGE, "no limit given, like requests_per_minute=600");
    if (!rc) rc = path_of(c, path, &side);
    if (!rc) rc = cli_ask(c, &(struct cli_ask){.side = side, .method = "GET", .path = path}, &now);
    json_t *limits =
        rc || cli_has(c, CLI_REPLACE_FLAG) ? json_object() : json_incref(json_object_get(now.json, "limits"));
    if (!rc && !limits) rc = cli_error(CLI_FAILED, "the server's answer has no limits in it");
    for (int i = first; !rc && i < c->nargs; i++) rc = put_one(limits, c->arg[i]);
    if (!rc) rc = put_limits(c, path, limits, now.etag);
    json_decref(limits);
    cli_answer_close(&now);
    return rc;
}

int cli_limit_clear(const struct cli *c)
{
    char path[CLI_URL_MAX];
    enum cli_side side;
    json_t *none = json_object();
    int rc = need_whose(c);
    if (!rc) rc = path_of(c, path, &side);
    if (!rc) rc = put_limits(c, path, none, NULL);
    json_decref(none);
    return rc;
}
