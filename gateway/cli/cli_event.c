/* weft event list: what happened, and with --follow what goes on happening.
 *
 * Following asks again every --interval for what came after the last one seen; without --after it begins with the last
 * LAST that there are. With --json and --follow each event is a document on its line, since there is no end. A gateway that
 * restarts meanwhile is waited for; Ctrl-C, or a reader gone, ends it. */
#include "gateway/cli/cli_command.h"
#include "gateway/cli/cli_verbs.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

#define LAST 10
#define INTERVAL_S 2

struct follow {
    const struct cli *c;
    json_t *rows; /* of one look */
    bool keep_last;
};

static int add(void *u, json_t *item)
{
    struct follow *f = u;
    json_array_append(f->rows, item);
    if (f->keep_last && json_array_size(f->rows) > LAST) json_array_remove(f->rows, 0);
    return CLI_OK;
}

static void print_rows(const struct follow *f, bool heads)
{
    size_t i;
    json_t *row;
    if (!f->c->json) {
        if (json_array_size(f->rows) || heads) cli_rows(&cli_view_event, f->rows, heads);
        return;
    }
    json_array_foreach(f->rows, i, row) cli_json(row);
}

/* The last one's number becomes --after of the next look. */
static void step(struct cli *c, const json_t *rows)
{
    size_t n = json_array_size(rows);
    const json_t *seq = n ? json_object_get(json_array_get(rows, n - 1), "seq") : NULL;
    if (!json_is_integer(seq)) return;
    json_decref(c->flag[CLI_AFTER_FLAG]);
    c->flag[CLI_AFTER_FLAG] = json_sprintf("%" JSON_INTEGER_FORMAT, json_integer_value(seq));
}

static int look(struct cli *c, enum cli_side side, const char *path, bool first)
{
    struct follow f = {c, json_array(), first && !cli_has(c, CLI_AFTER_FLAG)};
    int rc = cli_pages(c, side, path, add, &f);
    if (!rc) print_rows(&f, first);
    if (!rc) step(c, f.rows);
    json_decref(f.rows);
    return rc;
}

static int follow(const struct cli *asked, enum cli_side side, const char *path)
{
    struct cli c = *asked;
    struct timespec pause = {.tv_sec = cli_int(asked, CLI_INTERVAL_FLAG, INTERVAL_S)};
    c.flag[CLI_AFTER_FLAG] = json_incref(asked->flag[CLI_AFTER_FLAG]);
    int rc = look(&c, side, path, true);
    while (!rc || rc == CLI_UNREACHABLE || rc == CLI_NOT_READY) {
        if (fflush(stdout)) {
            rc = cli_error(CLI_FAILED, "can't write the events");
            break;
        }
        nanosleep(&pause, NULL);
        rc = look(&c, side, path, false);
    }
    json_decref(c.flag[CLI_AFTER_FLAG]);
    return rc;
}

int cli_event_list(const struct cli *c)
{
    bool own = cli_has(c, CLI_OWN_FLAG);
    const struct cli_command *k = c->command;
    const char *tenant = cli_str(c, CLI_TENANT_FLAG);
    char path[CLI_URL_MAX];
    if (!cli_has(c, CLI_FOLLOW_FLAG)) return cli_plain(c);
    snprintf(path, sizeof path, "%s", own ? k->own_path : k->path);
    if (tenant && cli_query_add(path, "tenant", tenant)) return CLI_USAGE;
    return follow(c, own ? CLI_TENANT_SIDE : k->side, path);
}
