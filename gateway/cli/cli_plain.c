/* Commands that are one request: what their row of cli_commands.c says, done.
 *
 *     path   {0} {1}: arguments; {v0}: NAME of NAME@VERSION, with /versions/VERSION; {tenant}: the flag
 *     body   the flags in `body` under their fields, or the row's fixed one
 *     query  the flags in `query`
 *
 * The server checks names, roles and ranges and says what is wrong with them; a second opinion here would only age. */
#include "base/json.h"
#include "gateway/cli/cli_command.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* --- the path --- */

static int add_version(const char *arg, char out[CLI_URL_MAX])
{
    char name[256];
    const char *at = strrchr(arg, '@');
    if (strlen(arg) >= sizeof name) return cli_error(CLI_USAGE, "the name is too long");
    if (at && (!at[1] || strspn(at + 1, "0123456789") != strlen(at + 1)))
        return cli_error(CLI_USAGE, "%s: a version is a number", arg);
    snprintf(name, sizeof name, "%.*s", at ? (int)(at - arg) : (int)sizeof name - 1, arg);
    if (at)
        cli_path(out, "%s/versions/%s", name, at + 1, NULL);
    else
        cli_path(out, "%s", name, NULL);
    return CLI_OK;
}

/* One {place}: what stands there, encoded. */
static int place(const struct cli *c, const char *name, size_t n, char out[CLI_URL_MAX])
{
    bool versioned = n == 2 && name[0] == 'v';
    const char *value = n == 6 ? cli_str(c, CLI_TENANT_FLAG) : c->arg[name[n - 1] - '0'];
    if (!value || !*value) return cli_error(CLI_USAGE, "a name is empty");
    if (versioned) return add_version(value, out);
    cli_path(out, "%s", value, NULL);
    return CLI_OK;
}

int cli_fill(const struct cli *c, const char *pattern, char out[CLI_URL_MAX])
{
    char piece[CLI_URL_MAX];
    size_t used = 0;
    for (const char *p = pattern; *p;) {
        size_t n = strcspn(p, "{");
        used += (size_t)snprintf(out + used, CLI_URL_MAX - used, "%.*s", (int)n, p);
        p += n;
        if (!*p || used >= CLI_URL_MAX) break;
        n = strcspn(p, "}");
        int rc = place(c, p + 1, n - 1, piece);
        if (rc) return rc;
        used += (size_t)snprintf(out + used, CLI_URL_MAX - used, "%s", piece);
        if (used >= CLI_URL_MAX) break;
        p += n + 1;
    }
    return used < CLI_URL_MAX ? CLI_OK : cli_error(CLI_USAGE, "the names are too long");
}

static int add_query(const struct cli *c, char path[CLI_URL_MAX])
{
    for (int f = 0; f < CLI_FLAGS; f++) {
        if (!(c->command->query & CLI_BIT(f)) || !c->flag[f]) continue;
        char number[24];
        const char *text = cli_str(c, (enum cli_flag)f);
        snprintf(number, sizeof number, "%" PRId64, text ? 0 : cli_int(c, (enum cli_flag)f, 0));
        int rc = cli_query_add(path, cli_flags[f].field, text ? text : number);
        if (rc) return rc;
    }
    return CLI_OK;
}

/* --- the body --- */

int cli_body(const struct cli *c, json_t **out)
{
    json_t *o = c->command->fixed ? json_load(c->command->fixed, strlen(c->command->fixed), 0, NULL) : json_object(), *v;
    const char *field;
    json_object_foreach(o, field, v)
    {
        const char *text = json_string_value(v);
        if (!text || strcmp(text, "{0}")) continue;
        json_t *arg = json_string(c->arg[0]);
        if (!arg || json_object_set_new(o, field, arg)) {
            int rc = cli_error(CLI_USAGE, "%s is not valid UTF-8", field);
            json_decref(o); /* the field's name is in it */
            return rc;
        }
    }
    for (int f = 0; f < CLI_FLAGS; f++)
        if (c->command->body & CLI_BIT(f) && c->flag[f]) json_object_set(o, cli_flags[f].field, c->flag[f]);
    *out = o;
    return CLI_OK;
}

int cli_revision(const struct cli *c, const char *tag, char out[96])
{
    const char *given = cli_str(c, CLI_IF_MATCH_FLAG);
    bool bare = given && given[strspn(given, "0123456789")] == 0;
    if (!given && (!tag || !*tag)) {
        *out = 0;
        return CLI_OK;
    }
    int n = snprintf(out, 96, bare ? "If-Match: \"%s\"" : "If-Match: %s", given ? given : tag);
    return n < 96 ? CLI_OK : cli_error(CLI_USAGE, "--if-match: not a revision");
}

/* --- the answer --- */

static int show_secret(const json_t *o)
{
    const char *what = json_object_get(o, "token") ? "token" : "key";
    const char *key = json_string_value(json_object_get(o, what)), *id = json_string_value(json_object_get(o, "id"));
    if (!key) return cli_error(CLI_FAILED, "the server's answer has no key in it");
    fprintf(stderr, "%s %.64s; it is shown this once:\n", what, id ? id : "");
    fflush(stderr);
    cli_puts(key, strlen(key));
    putchar('\n');
    return CLI_OK;
}

static int print(const struct cli *c, const struct cli_answer *a)
{
    const struct cli_command *k = c->command;
    if (c->json && a->json) {
        size_t n = strlen(a->text);
        cli_puts(a->text, n);
        if (a->text[n - 1] != '\n') putchar('\n');
        return CLI_OK;
    }
    if (c->json) return puts("{}") < 0 ? CLI_FAILED : CLI_OK;
    if (k->shape == CLI_SHOW_SECRET) return show_secret(a->json);
    if (k->shape == CLI_SHOW_OBJECT && a->json) cli_fields(k->view, a->json);
    if (k->done && c->nargs)
        fprintf(stderr, "%s %s\n", c->arg[0], k->done);
    else if (k->done)
        fprintf(stderr, "%s\n", k->done);
    return CLI_OK;
}

static int print_list(const struct cli *c, json_t *rows, bool more)
{
    if (c->json) {
        size_t n = json_array_size(rows);
        json_t *o = json_pack("{s:s, s:O, s:b}", "object", "list", "data", rows, "has_more", more);
        for (size_t i = 0; n && i < 2; i++) {
            const json_t *row = json_array_get(rows, i ? n - 1 : 0);
            json_t *id = json_object_get(row, "id");
            if (!id) id = json_object_get(row, json_object_get(row, "seq") ? "seq" : "name");
            if (id) json_object_set(o, i ? "last_id" : "first_id", id);
        }
        int rc = cli_json(o);
        json_decref(o);
        return rc;
    }
    cli_table(c->command->view, rows);
    return CLI_OK;
}

static int list(const struct cli *c, enum cli_side side, const char *path)
{
    json_t *rows = NULL;
    int64_t most = cli_int(c, CLI_LIMIT_FLAG, c->command->most_rows);
    int rc = cli_list(c, side, path, most, &rows);
    if (!rc) rc = print_list(c, rows, most && (int64_t)json_array_size(rows) == most);
    json_decref(rows);
    return rc;
}

static int one_request(const struct cli *c, enum cli_side side, const char *path)
{
    const struct cli_command *k = c->command;
    char match[96], idem[300] = "";
    const char *key = cli_str(c, CLI_IDEMPOTENCY_KEY_FLAG);
    json_t *body = NULL;
    struct cli_answer a;
    int rc = cli_revision(c, NULL, match);
    if (!rc && key && snprintf(idem, sizeof idem, "Idempotency-Key: %s", key) >= (int)sizeof idem)
        rc = cli_error(CLI_USAGE, "--idempotency-key: too long");
    if (!rc && (k->body || k->fixed)) rc = cli_body(c, &body);
    if (!rc && k->body && !k->fixed && !strcmp(k->method, "PATCH") && !json_object_size(body))
        rc = cli_error(CLI_USAGE, "nothing to change; see weft %s --help", k->words);
    if (rc) {
        json_decref(body);
        return rc;
    }
    struct cli_ask ask = {.side = side, .method = k->method, .path = path, .body = body};
    int n = 0;
    if (*match) ask.header[n++] = match;
    if (*idem) ask.header[n++] = idem;
    rc = cli_ask(c, &ask, &a);
    if (!rc) rc = print(c, &a);
    cli_answer_close(&a);
    json_decref(body);
    return rc;
}

static unsigned __int128 given(const struct cli *c)
{
    unsigned __int128 bits = 0;
    for (int f = 0; f < CLI_FLAGS; f++)
        if (c->flag[f]) bits |= CLI_BIT(f);
    return bits;
}

/* With --all: /v1/adapters is /admin/v1/adapters on the other side. */
static int to_admin(char path[CLI_URL_MAX])
{
    char own[CLI_URL_MAX];
    snprintf(own, sizeof own, "%s", path);
    if (snprintf(path, CLI_URL_MAX, "/admin%s", own) < CLI_URL_MAX) return CLI_OK;
    return cli_error(CLI_USAGE, "the names are too long");
}

int cli_plain(const struct cli *c)
{
    const struct cli_command *k = c->command;
    char path[CLI_URL_MAX];
    bool own = cli_has(c, CLI_OWN_FLAG),
         all = cli_has(c, CLI_ALL_FLAG) || k->query & CLI_BIT(CLI_TENANT_FLAG) & given(c);
    enum cli_side side = own ? CLI_TENANT_SIDE : all ? CLI_ADMIN_SIDE : k->side;
    int rc = cli_fill(c, own ? k->own_path : k->path, path);
    if (!rc && all && !own && k->side != CLI_ADMIN_SIDE) rc = to_admin(path);
    if (!rc) rc = add_query(c, path);
    if (rc) return rc;
    return k->shape == CLI_SHOW_LIST ? list(c, side, path) : one_request(c, side, path);
}
