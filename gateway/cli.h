/* The command `weft`: what a person types. It knows the gateway's HTTP API and nothing else.
 *
 * A command is a row of the table in cli.c: its words, its arguments, the flags it takes, a function. The function
 * talks through cli_http.c and prints through cli_table.c. Exit status: enum cli_exit. Answers go to stdout, everything
 * about them to stderr, so `KEY=$(weft key create --tenant acme)` does what it looks like. */
#pragma once
#include "base/err.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum cli_exit {
    CLI_OK = 0,
    CLI_REFUSED = 1,       /* the server said no, or what it said makes no sense */
    CLI_USAGE = 2,         /* the command line is wrong */
    CLI_NO_CONNECTION = 3, /* nobody there, or the exchange broke off */
};

#define CLI_ARGS_MAX 4
#define CLI_ROLES_MAX 8
#define CLI_PAGE 100        /* rows asked for at once */
#define CLI_PAGES_MAX 10000 /* against a server that never ends a list */
#define CLI_URL_MAX 4096

struct cli {
    const char *url, *admin_url, *key, *admin_key;
    bool json, help;
    const char *tenant, *name, *description, *model, *system, *group_by;
    const char *role[CLI_ROLES_MAX];
    int nroles;
    int64_t max_tokens, days; /* 0: not given */
    double temperature;       /* < 0: not given */
    const char *arg[CLI_ARGS_MAX];
    int nargs;
};

/* --- cli_http.c: one exchange; failures are told on stderr and returned as enum cli_exit --- */

enum cli_side { CLI_TENANT, CLI_ADMIN };

/* `path` as from cli_path(). `body` may be NULL and is borrowed. With --json the answer is printed as it is and *out
 * stays NULL; else *out is the parsed object, the caller's. `out` may be NULL. */
int cli_call(const struct cli *c, enum cli_side side, const char *method, const char *path, const json_t *body,
             json_t **out);

/* POST of a file as multipart/form-data with this boundary; progress on a terminal. */
int cli_upload(const struct cli *c, const char *path, const char *file, const char *boundary, json_t **out);

/* A cursor list, page after page (`path` without a query): add() for each item; with --json the pages are printed
 * instead. */
int cli_pages(const struct cli *c, enum cli_side side, const char *path, void (*add)(void *u, json_t *item), void *u);

int cli_print_raw(const json_t *o); /* compactly, on a line */

/* `format` with each %s replaced by its argument, percent-encoded; ends at a NULL argument. */
void cli_path(char out[CLI_URL_MAX], const char *format, ...) __attribute__((sentinel));

/* What cli_call does before: headers with the key of that side, the whole URL. 0 or CLI_USAGE. */
struct cli_target {
    char url[CLI_URL_MAX * 2], authorization[512];
};
int cli_target(const struct cli *c, enum cli_side side, const char *path, struct cli_target *out);

int cli_broken(const struct err *e);                       /* tells it; the exit status */
int cli_refused(int status, const char *body, size_t len); /* the same for an error answer */
int cli_error(int status, const char *format, ...)
    __attribute__((format(printf, 2, 3))); /* "weft: ..."; returns status */

/* --- cli_table.c --- */

enum cli_kind { CLI_TEXT, CLI_SHORT, CLI_COUNT, CLI_BYTES, CLI_TIME, CLI_YES, CLI_LIST };

struct cli_column {
    const char *title;
    const char *fields; /* "created_at|created": the first that is there */
    enum cli_kind kind;
};

void cli_table(const struct cli_column *columns, int ncolumns, const json_t *rows); /* rows: array of objects */
void cli_fields(const struct cli_column *columns, int ncolumns, const json_t *o);   /* one object, a line per field */
void cli_puts(const char *s, size_t n); /* to stdout; on a terminal without control characters but \n and \t */

/* --- commands --- */

int cli_tenant_create(const struct cli *c);
int cli_tenant_list(const struct cli *c);
int cli_tenant_show(const struct cli *c);
int cli_tenant_disable(const struct cli *c);
int cli_tenant_enable(const struct cli *c);
int cli_key_create(const struct cli *c);
int cli_key_list(const struct cli *c);
int cli_key_revoke(const struct cli *c);
int cli_adapter_push(const struct cli *c);
int cli_adapter_list(const struct cli *c);
int cli_adapter_show(const struct cli *c);
int cli_adapter_rm(const struct cli *c);
int cli_chat(const struct cli *c);
int cli_usage(const struct cli *c);
