/* weft backup create, verify; weft usage verify: what takes a while is waited for, looked at every POLL_MS. */
#include "base/clock.h"
#include "gateway/cli/cli_command.h"
#include "gateway/cli/cli_verbs.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define POLL_MS 300
#define WAIT_S 3600
#define LEDGER_WAIT_MS 900000 /* the first byte comes when all rows have been read */

static bool is_under_way(const json_t *o)
{
    const char *state = json_string_value(json_object_get(o, "state"));
    return (state && (!strcmp(state, "waiting") || !strcmp(state, "running"))) || json_is_true(json_object_get(o, "verifying"));
}

/* Until nothing is under way with it; *o is replaced by what it is then. */
static int wait_for(const struct cli *c, json_t **o)
{
    const struct timespec pause = {.tv_nsec = POLL_MS * 1000000l};
    int64_t until = clock_mono_us() + cli_int(c, CLI_TIMEOUT_FLAG, WAIT_S) * 1000000;
    char path[CLI_URL_MAX];
    const char *id = json_string_value(json_object_get(*o, "id"));
    if (!id) return cli_error(CLI_FAILED, "the server's answer has no id in it");
    cli_path(path, "/admin/v1/backups/%s", id, NULL);
    while (is_under_way(*o)) {
        json_t *now = NULL;
        if (clock_mono_us() > until) return cli_error(CLI_NOT_READY, "it is still under way; look later with weft backup show");
        nanosleep(&pause, NULL);
        int rc = cli_call(c, CLI_ADMIN_SIDE, "GET", path, NULL, &now);
        if (rc) return rc;
        json_decref(*o);
        *o = now;
    }
    return CLI_OK;
}

static int verdict(const json_t *o, bool verified)
{
    const char *state = json_string_value(json_object_get(o, "state")), *why = json_string_value(json_object_get(o, "error"));
    const json_t *v = json_object_get(o, "verification");
    if (state && !strcmp(state, "failed")) return cli_error(CLI_FAILED, "the backup was not made: %s", why ? why : "see the gateway's log");
    if (!verified) return CLI_OK;
    if (!json_is_object(v)) return cli_error(CLI_FAILED, "the backup could not be verified: see weft event list");
    why = json_string_value(json_object_get(v, "reason"));
    return json_is_true(json_object_get(v, "good")) ? CLI_OK : cli_error(CLI_FAILED, "the backup is not good: %s", why ? why : "?");
}

static int begin(const struct cli *c, const char *path, json_t *body, bool verified)
{
    json_t *o = NULL;
    int rc = cli_call(c, CLI_ADMIN_SIDE, "POST", path, body, &o);
    json_decref(body);
    if (!rc && !cli_has(c, CLI_NO_WAIT_FLAG)) rc = wait_for(c, &o);
    if (!rc && c->json) rc = cli_json(o);
    else if (!rc) cli_fields(&cli_view_backup, o);
    if (!rc && !cli_has(c, CLI_NO_WAIT_FLAG)) rc = verdict(o, verified);
    json_decref(o);
    return rc;
}

/* Made, and verified at once: a backup that nobody has opened is a hope. */
int cli_backup_create(const struct cli *c) { return begin(c, "/admin/v1/backups", json_pack("{s:b}", "verify", 1), true); }

int cli_backup_verify(const struct cli *c)
{
    char path[CLI_URL_MAX];
    cli_path(path, "/admin/v1/backups/%s/verify", c->arg[0], NULL);
    return begin(c, path, json_object(), true);
}

/* --- weft usage verify --- */

static void add_row(json_t *rows, const char *what, const json_t *n, const json_t *bad, bool good)
{
    json_array_append_new(rows, json_pack("{s:s, s:O, s:O, s:s}", "what", what, "rows", n, "bad", bad, "verdict", good ? "ok" : "BAD"));
}

int cli_usage_verify(const struct cli *c)
{
    static const struct cli_column columns[] = {{"what", "what", CLI_TEXT, CLI_IN_LIST},
                                                {"rows", "rows", CLI_COUNT_CELL, CLI_IN_LIST},
                                                {"bad", "bad", CLI_COUNT_CELL, CLI_IN_LIST},
                                                {"verdict", "verdict", CLI_TEXT, CLI_IN_LIST}};
    struct cli_answer a;
    struct cli_ask ask = {.side = CLI_ADMIN_SIDE, .method = "GET", .path = "/admin/v1/ledger?verify=1", .first_byte_ms = LEDGER_WAIT_MS};
    int rc = cli_ask(c, &ask, &a);
    const json_t *verify = json_object_get(a.json, "verify"), *audit = json_object_get(a.json, "audit");
    const json_t *bad = json_object_get(verify, "bad_buckets"), *broken = json_object_get(audit, "first_bad");
    if (!rc && (!json_is_integer(bad) || !json_is_integer(broken))) rc = cli_error(CLI_FAILED, "the server's answer makes no sense");
    bool usage_good = json_integer_value(bad) == 0, audit_good = json_integer_value(broken) == 0;
    json_t *table = json_array();
    if (!rc) add_row(table, "usage: rollups against rows", json_object_get(verify, "rows"), bad, usage_good);
    if (!rc) add_row(table, "audit: the chain of hashes", json_object_get(audit, "rows"), broken, audit_good);
    if (!rc && c->json) rc = cli_json(a.json);
    else if (!rc) cli_table(&(struct cli_view){columns, CLI_COUNT(columns)}, table);
    if (!rc && !usage_good) rc = cli_error(CLI_FAILED, "%" JSON_INTEGER_FORMAT " buckets of the rollups are not what the rows say", json_integer_value(bad));
    if (!rc && !audit_good) rc = cli_error(CLI_FAILED, "the audit's chain is broken at row %" JSON_INTEGER_FORMAT, json_integer_value(broken));
    json_decref(table);
    cli_answer_close(&a);
    return rc;
}
