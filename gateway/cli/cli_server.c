/* weft engine add, engine-token list, settings, reload, audit verify, model list: the small ones about the server. */
#include "gateway/cli/cli_command.h"
#include "gateway/cli/cli_verbs.h"
#include <stdio.h>
#include <string.h>

/* NAME [URL] and the flags are the body. */
int cli_engine_add(const struct cli *c)
{
    char idem[300];
    const char *key = cli_str(c, CLI_IDEMPOTENCY_KEY_FLAG);
    json_t *body = NULL;
    struct cli_answer a = {0};
    int rc = cli_body(c, &body);
    if (rc) return rc;
    if (!cli_has(c, CLI_KIND_FLAG)) json_object_set_new(body, "kind", json_string("weft"));
    json_object_set_new(body, "name", json_string(c->arg[0]));
    if (c->nargs > 1) json_object_set_new(body, "url", json_string(c->arg[1]));
    struct cli_ask ask = {.side = c->command->side, .method = "POST", .path = c->command->path, .body = body};
    if (key && snprintf(idem, sizeof idem, "Idempotency-Key: %s", key) >= (int)sizeof idem)
        rc = cli_error(CLI_USAGE, "--idempotency-key: too long");
    if (key) ask.header[0] = idem;
    if (!rc) rc = cli_ask(c, &ask, &a);
    if (!rc && c->json)
        rc = cli_json(a.json);
    else if (!rc)
        cli_fields(&cli_view_engine, a.json);
    cli_answer_close(&a);
    json_decref(body);
    return rc;
}

/* An engine has two at most: they come without pages. */
int cli_engine_tokens(const struct cli *c)
{
    char path[CLI_URL_MAX];
    json_t *o = NULL;
    int rc = cli_fill(c, c->command->path, path);
    if (!rc) rc = cli_call(c, CLI_ADMIN_SIDE, "GET", path, NULL, &o);
    const json_t *tokens = json_object_get(o, "tokens");
    if (!rc && c->json)
        rc = cli_json(o);
    else if (!rc && !json_is_array(tokens))
        rc = cli_error(CLI_FAILED, "the server's answer is no list");
    else if (!rc)
        cli_table(c->command->view, tokens);
    json_decref(o);
    return rc;
}

/* --- settings --- */

int cli_settings(const struct cli *c)
{
    static const struct cli_column columns[] = {
        {"name", "name", CLI_TEXT, CLI_IN_LIST},   {"value", "value", CLI_TEXT, CLI_IN_LIST},
        {"from", "source", CLI_TEXT, CLI_IN_LIST}, {"default", "default", CLI_TEXT, CLI_IN_LIST},
        {"reloads", "live", CLI_YES, CLI_IN_LIST}, {"meaning", "help", CLI_TEXT, CLI_IN_LIST}};
    json_t *o = NULL;
    int rc = cli_call(c, CLI_ADMIN_SIDE, "GET", "/admin/v1/settings", NULL, &o);
    if (!rc && c->json)
        rc = cli_json(o);
    else if (!rc)
        cli_table(&(struct cli_view){columns, CLI_COUNT(columns)}, json_object_get(o, "data"));
    json_decref(o);
    return rc;
}

/* What changed, and what stays as it was until a restart. */
int cli_reload(const struct cli *c)
{
    static const struct cli_column columns[] = {{"changed", "name", CLI_TEXT, CLI_IN_LIST},
                                                {"before", "before", CLI_TEXT, CLI_IN_LIST},
                                                {"after", "after", CLI_TEXT, CLI_IN_LIST}};
    json_t *o = NULL, *none = json_object();
    size_t i;
    json_t *name;
    int rc = cli_call(c, CLI_ADMIN_SIDE, "POST", "/admin/v1/reload", none, &o);
    json_decref(none);
    const json_t *changed = json_object_get(o, "changed"), *kept = json_object_get(o, "restart_needed");
    if (!rc && c->json)
        rc = cli_json(o);
    else if (!rc && json_array_size(changed))
        cli_table(&(struct cli_view){columns, CLI_COUNT(columns)}, changed);
    else if (!rc)
        fputs("nothing has changed\n", stderr);
    json_array_foreach((json_t *)kept, i, name)
    {
        const char *word = json_string_value(json_is_object(name) ? json_object_get(name, "name") : name);
        if (!c->json) cli_note("%s takes a restart", word ? word : "?");
    }
    json_decref(o);
    return rc;
}

/* --- audit --- */

int cli_audit_verify(const struct cli *c)
{
    json_t *o = NULL;
    int rc = cli_call(c, CLI_ADMIN_SIDE, "GET", "/admin/v1/audit/verify", NULL, &o);
    if (rc) return rc;
    bool valid = json_is_true(json_object_get(o, "valid"));
    json_int_t rows = json_integer_value(json_object_get(o, "rows")),
               bad = json_integer_value(json_object_get(o, "first_bad"));
    if (c->json) rc = cli_json(o);
    if (!c->json && valid) {
        const char *hash = json_string_value(json_object_get(o, "hash"));
        printf("the chain of %" JSON_INTEGER_FORMAT " rows is whole; its last hash %.64s\n", rows, hash ? hash : "-");
    }
    if (!valid)
        rc = cli_error(CLI_FAILED,
                       "the audit's chain is broken at row %" JSON_INTEGER_FORMAT
                       ": that row, or one before it, was changed, dropped or slipped in",
                       bad);
    json_decref(o);
    return rc;
}

/* --- models: one list without pages, as OpenAI's --- */

int cli_model_list(const struct cli *c)
{
    json_t *o = NULL;
    int rc = cli_call(c, CLI_TENANT_SIDE, "GET", "/v1/models", NULL, &o);
    const json_t *data = json_object_get(o, "data");
    if (!rc && c->json)
        rc = cli_json(o);
    else if (!rc && !json_is_array(data))
        rc = cli_error(CLI_FAILED, "the server's answer is no list");
    else if (!rc)
        cli_table(&cli_view_model, data);
    json_decref(o);
    return rc;
}
