/* weft webhook create, set, rotate, redeliver: webhooks' fields as FIELD=VALUE, and secrets alone on stdout.
 *
 *     name, url        as they are            usage          yes, no
 *     events           types' beginnings with commas between, * for all, none
 *     authorization    -: the first line of stdin, none: no more
 *     from, until      a moment, or a span before now (3d); after_event: a number
 *
 * Each is one request; what a field may be is the server's word. */
#include "base/clock.h"
#include "gateway/cli/cli_command.h"
#include "gateway/cli/cli_verbs.h"
#include <stdio.h>
#include <string.h>

enum use { OF_WEBHOOK = 1, OF_REDELIVERY = 2 };

static int read_text(const char *text, json_t **out, char why[CLI_WHY])
{
    return cli_value_read(CLI_V_STR, text, 0, 0, out, why);
}

static int read_flag(const char *text, json_t **out, char why[CLI_WHY])
{
    return cli_value_read(CLI_V_BOOL, text, 0, 0, out, why);
}

static int read_words(const char *text, json_t **out, char why[CLI_WHY])
{
    json_t *list = json_array();
    if (!strcmp(text, "none")) text = "";
    for (const char *p = text; *p;) {
        size_t n = strcspn(p, ", ");
        json_t *word = n ? json_stringn(p, n) : NULL;
        if (n && !word) {
            json_decref(list);
            snprintf(why, CLI_WHY, "not valid UTF-8");
            return -1;
        }
        if (n) json_array_append_new(list, word);
        p += n + (p[n] != 0);
    }
    *out = list;
    return 0;
}

static int read_secret(const char *text, json_t **out, char why[CLI_WHY])
{
    if (!strcmp(text, "none")) {
        *out = json_null();
        return 0;
    }
    return cli_value_read(strcmp(text, "-") ? CLI_V_STR : CLI_V_FILE, text, 0, 0, out, why);
}

/* A span is a time ago; a bare number is Unix seconds. */
static int read_past(const char *text, json_t **out, char why[CLI_WHY])
{
    json_t *span = NULL;
    bool bare = text[strspn(text, "0123456789")] == 0;
    if (bare || cli_value_read(CLI_V_SPAN, text, 0, 0, &span, why)) return cli_value_read(CLI_V_TIME, text, 0, 0, out, why);
    *out = json_integer(clock_wall_us() / 1000000 - json_integer_value(span));
    json_decref(span);
    return 0;
}

static int read_number(const char *text, json_t **out, char why[CLI_WHY])
{
    return cli_value_read(CLI_V_INT, text, 0, 1e15, out, why);
}

static const struct {
    const char *name, *field;
    int use;
    int (*read)(const char *text, json_t **out, char why[CLI_WHY]);
} fields[] = {
    {"name", "name", OF_WEBHOOK, read_text},
    {"url", "url", OF_WEBHOOK, read_text},
    {"usage", "usage", OF_WEBHOOK, read_flag},
    {"events", "events", OF_WEBHOOK, read_words},
    {"authorization", "authorization", OF_WEBHOOK, read_secret},
    {"from", "start_time", OF_REDELIVERY, read_past},
    {"until", "end_time", OF_REDELIVERY, read_past},
    {"after_event", "after_event", OF_REDELIVERY, read_number},
};

static int read_field(const char *arg, enum use use, json_t *body)
{
    char why[CLI_WHY] = "";
    json_t *v = NULL;
    size_t n = strcspn(arg, "=");
    for (int i = 0; i < CLI_COUNT(fields) && arg[n]; i++) {
        if (!(fields[i].use & use) || strlen(fields[i].name) != n || strncmp(fields[i].name, arg, n) != 0) continue;
        if (fields[i].read(arg + n + 1, &v, why)) return cli_error(CLI_USAGE, "%s: %s", arg, why);
        json_object_set_new(body, fields[i].field, v);
        return CLI_OK;
    }
    return cli_error(CLI_USAGE, "%s: not a FIELD=VALUE of this command; see weft webhook --help", arg);
}

/* Fields from this argument on. */
static int read_fields(const struct cli *c, int from, enum use use, json_t *body)
{
    int rc = CLI_OK;
    for (int i = from; !rc && i < c->nargs; i++) rc = read_field(c->arg[i], use, body);
    return rc;
}

static int show_secret(const json_t *o)
{
    const char *secret = json_string_value(json_object_get(o, "secret")), *id = json_string_value(json_object_get(o, "id"));
    if (!secret) return cli_error(CLI_FAILED, "the server's answer has no secret in it");
    fprintf(stderr, "webhook %.64s; its secret is shown this once:\n", id ? id : "");
    fflush(stderr);
    cli_puts(secret, strlen(secret));
    putchar('\n');
    return CLI_OK;
}

/* The command's request with this body, and its answer as its row says, or the secret in it. */
static int send(const struct cli *c, const json_t *body, bool secret)
{
    char path[CLI_URL_MAX], match[96], idem[300] = "";
    const struct cli_command *k = c->command;
    const char *key = cli_str(c, CLI_IDEMPOTENCY_KEY_FLAG);
    bool own = cli_has(c, CLI_OWN_FLAG);
    struct cli_answer a = {0};
    int n = 0, rc = cli_fill(c, own ? k->own_path : k->path, path);
    if (!rc) rc = cli_revision(c, NULL, match);
    if (!rc && key && snprintf(idem, sizeof idem, "Idempotency-Key: %s", key) >= (int)sizeof idem)
        rc = cli_error(CLI_USAGE, "--idempotency-key: too long");
    if (rc) return rc;
    struct cli_ask ask = {.side = own ? CLI_TENANT_SIDE : k->side, .method = k->method, .path = path, .body = body};
    if (*match) ask.header[n++] = match;
    if (*idem) ask.header[n++] = idem;
    rc = cli_ask(c, &ask, &a);
    if (!rc && c->json) rc = cli_json(a.json);
    else if (!rc && secret) rc = show_secret(a.json);
    else if (!rc) cli_fields(&cli_view_webhook, a.json);
    cli_answer_close(&a);
    return rc;
}

int cli_webhook_create(const struct cli *c)
{
    json_t *body = json_pack("{ss ss}", "name", c->arg[0], "url", c->arg[1]);
    const char *tenant = cli_str(c, CLI_TENANT_FLAG);
    int rc = body ? read_fields(c, 2, OF_WEBHOOK, body) : cli_error(CLI_USAGE, "the name or URL is not valid UTF-8");
    if (!rc && tenant) json_object_set_new(body, "tenant", json_string(tenant));
    if (!rc) rc = send(c, body, true);
    json_decref(body);
    return rc;
}

static int send_fields(const struct cli *c, enum use use)
{
    json_t *body = json_object();
    int rc = read_fields(c, 1, use, body);
    if (!rc) rc = send(c, body, false);
    json_decref(body);
    return rc;
}

int cli_webhook_set(const struct cli *c)
{
    return send_fields(c, OF_WEBHOOK);
}

int cli_webhook_rotate(const struct cli *c)
{
    json_t *body = NULL;
    int rc = cli_body(c, &body);
    if (!rc) rc = send(c, body, true);
    json_decref(body);
    return rc;
}

int cli_webhook_redeliver(const struct cli *c)
{
    return send_fields(c, OF_REDELIVERY);
}
