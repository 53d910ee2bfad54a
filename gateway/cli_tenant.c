/* weft tenant ... and weft key ...: the admin's side.
 *
 * Thin on purpose: the server checks names and roles and says what is wrong with them; a second opinion here would only
 * age. A new key goes to stdout alone, everything about it to stderr. */
#include "gateway/cli.h"
#include <stdio.h>
#include <string.h>

#define COUNT(a) (int)(sizeof(a) / sizeof *(a))

static const struct cli_column tenant_columns[] = {
    {"NAME", "name", CLI_TEXT},
    {"ID", "id", CLI_TEXT},
    {"DISABLED", "disabled", CLI_YES},
    {"CREATED", "created_at|created", CLI_TIME},
};

static const struct cli_column key_columns[] = {
    {"ID", "id", CLI_TEXT},
    {"NAME", "name", CLI_TEXT},
    {"ROLES", "roles", CLI_LIST},
    {"CREATED", "created_at|created", CLI_TIME},
    {"LAST USED", "last_used_at|last_used", CLI_TIME},
    {"EXPIRES", "expires_at|expires", CLI_TIME},
    {"REVOKED", "revoked_at|revoked", CLI_TIME},
};

static void add_row(void *rows, json_t *item)
{
    json_array_append(rows, item);
}

static int print_list(const struct cli *c, const char *path, const struct cli_column *columns, int n)
{
    json_t *rows = json_array();
    int rc = cli_pages(c, CLI_ADMIN, path, add_row, rows);
    if (!rc && !c->json) cli_table(columns, n, rows);
    json_decref(rows);
    return rc;
}

/* One call whose answer is a tenant. Takes `body`. */
static int tenant_call(const struct cli *c, const char *method, const char *path, json_t *body)
{
    json_t *o = NULL;
    int rc = cli_call(c, CLI_ADMIN, method, path, body, &o);
    if (o) cli_fields(tenant_columns, COUNT(tenant_columns), o);
    json_decref(o);
    json_decref(body);
    return rc;
}

int cli_tenant_create(const struct cli *c)
{
    json_t *body = json_pack("{s:s}", "name", c->arg[0]);
    if (!body) return cli_error(CLI_USAGE, "the name is not valid UTF-8");
    return tenant_call(c, "POST", "/admin/v1/tenants", body);
}

int cli_tenant_list(const struct cli *c)
{
    return print_list(c, "/admin/v1/tenants", tenant_columns, COUNT(tenant_columns));
}

int cli_tenant_show(const struct cli *c)
{
    char path[CLI_URL_MAX];
    cli_path(path, "/admin/v1/tenants/%s", c->arg[0], NULL);
    return tenant_call(c, "GET", path, NULL);
}

static int set_disabled(const struct cli *c, bool disabled)
{
    char path[CLI_URL_MAX];
    cli_path(path, "/admin/v1/tenants/%s", c->arg[0], NULL);
    return tenant_call(c, "PATCH", path, json_pack("{s:b}", "disabled", disabled));
}

int cli_tenant_disable(const struct cli *c)
{
    return set_disabled(c, true);
}
int cli_tenant_enable(const struct cli *c)
{
    return set_disabled(c, false);
}

/* --- keys --- */

static json_t *key_body(const struct cli *c)
{
    json_t *o = json_object(), *roles = json_array();
    int rc = json_object_set_new(o, "roles", roles);
    for (int i = 0; i < c->nroles; i++) rc |= json_array_append_new(roles, json_string(c->role[i]));
    if (!c->nroles) rc |= json_array_append_new(roles, json_string("inference")); /* the least that is of use */
    if (c->name) rc |= json_object_set_new(o, "name", json_string(c->name));
    if (!rc) return o;
    json_decref(o);
    return NULL;
}

static int show_key(const json_t *o)
{
    const char *key = json_string_value(json_object_get(o, "key")), *id = json_string_value(json_object_get(o, "id"));
    if (!key) return cli_error(CLI_REFUSED, "the server's answer has no key in it");
    fprintf(stderr, "key %.64s; it is shown this once:\n", id ? id : "");
    fflush(stderr);
    cli_puts(key, strlen(key));
    putchar('\n');
    return CLI_OK;
}

int cli_key_create(const struct cli *c)
{
    char path[CLI_URL_MAX];
    json_t *body = key_body(c), *o = NULL;
    if (!body) return cli_error(CLI_USAGE, "the label or a role is not valid UTF-8");
    cli_path(path, "/admin/v1/tenants/%s/keys", c->tenant, NULL);
    int rc = cli_call(c, CLI_ADMIN, "POST", path, body, &o);
    if (!rc && !c->json) rc = show_key(o);
    json_decref(o);
    json_decref(body);
    return rc;
}

int cli_key_list(const struct cli *c)
{
    char path[CLI_URL_MAX];
    cli_path(path, "/admin/v1/tenants/%s/keys", c->tenant, NULL);
    return print_list(c, path, key_columns, COUNT(key_columns));
}

int cli_key_revoke(const struct cli *c)
{
    char path[CLI_URL_MAX];
    cli_path(path, "/admin/v1/keys/%s", c->arg[0], NULL);
    int rc = cli_call(c, CLI_ADMIN, "DELETE", path, NULL, NULL);
    if (!rc && !c->json) fprintf(stderr, "key %s is revoked\n", c->arg[0]);
    return rc;
}
