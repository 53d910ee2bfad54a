/* Waiting until an adapter's version is ready: asked every POLL_MS, up to --timeout.
 *
 * A version that is not there yet is one on its way (an import makes it when its bytes have come). States that end the
 * wait: ready, failed, quarantined, archived. */
#include "base/clock.h"
#include "gateway/cli/cli.h"
#include "gateway/cli/cli_verbs.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define POLL_MS 300
#define WAIT_S 600

static bool is_over(const char *state)
{
    static const char *const words[] = {"ready", "failed", "quarantined", "archived", "deleting"};
    for (int i = 0; i < CLI_COUNT(words); i++)
        if (state && !strcmp(state, words[i])) return true;
    return false;
}

/* The version with this number, or the one with the largest; borrowed. */
static json_t *pick(json_t *adapter, int64_t version)
{
    json_t *versions = json_object_get(adapter, "versions"), *v, *best = NULL;
    int64_t most = -1;
    size_t i;
    json_array_foreach(versions, i, v)
    {
        int64_t n = json_integer_value(json_object_get(v, "version"));
        if (version ? n == version : n > most) best = v, most = n;
    }
    return best;
}

/* CLI_OK with *out set: over; without: not yet. */
static int look(const struct cli *c, const char *path, int64_t version, bool must, json_t **out)
{
    struct cli_answer a;
    int rc = cli_ask(
        c, &(struct cli_ask){.side = CLI_TENANT_SIDE, .method = "GET", .path = path, .expected = must ? 0 : 404}, &a);
    json_t *v = rc ? NULL : pick(a.json, version);
    if (v && is_over(json_string_value(json_object_get(v, "state")))) *out = json_incref(v);
    if (rc == CLI_NOT_FOUND && !must) rc = CLI_OK;
    cli_answer_close(&a);
    return rc;
}

int cli_wait_ready(const struct cli *c, const char *name, int64_t version, bool must, json_t **out)
{
    const struct timespec pause = {.tv_nsec = POLL_MS * 1000000l};
    int64_t until = clock_mono_us() + cli_int(c, CLI_TIMEOUT_FLAG, WAIT_S) * 1000000;
    char path[CLI_URL_MAX];
    json_t *over = NULL;
    cli_path(path, "/v1/adapters/%s", name, NULL);
    for (;;) {
        int rc = look(c, path, version, must, &over);
        if (rc) return rc;
        if (over) break;
        if (clock_mono_us() > until)
            return cli_error(CLI_NOT_READY, "%s is not ready after %" PRId64 " s; it goes on: weft adapter wait %s",
                             name, cli_int(c, CLI_TIMEOUT_FLAG, WAIT_S), name);
        nanosleep(&pause, NULL);
    }
    *out = over;
    return CLI_OK;
}
