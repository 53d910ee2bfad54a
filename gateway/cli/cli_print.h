/* What people read: tables, fields, colours. cli_print.c; the columns of each kind of object are in cli_views.c. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum cli_cell {
    CLI_TEXT,
    CLI_SHORT, /* of a digest */
    CLI_COUNT_CELL,
    CLI_BYTES_CELL,
    CLI_MONEY_CELL, /* nano-units */
    CLI_PRICE_CELL, /* nano-units of one, shown for a million */
    CLI_TIME_CELL,
    CLI_YES,
    CLI_LIST_CELL,  /* of words; of objects their names */
    CLI_STATE_CELL, /* a word that has a colour */
    CLI_TARGETS,    /* of an alias */
    CLI_JSON_CELL,  /* an object, compactly */
};

enum { CLI_IN_LIST = 1, CLI_IN_SHOW = 2, CLI_IN_BOTH = 3 };

struct cli_column {
    const char *title;
    const char *fields; /* "created_at|created": the first that is there; a dot goes into an object */
    enum cli_cell kind;
    int where;
};

struct cli_view {
    const struct cli_column *columns;
    int n;
};

extern const struct cli_view cli_view_tenant, cli_view_key, cli_view_admin_key, cli_view_adapter, cli_view_version,
    cli_view_upload, cli_view_alias, cli_view_engine, cli_view_engine_token, cli_view_event, cli_view_quarantine, cli_view_evaluation, cli_view_price, cli_view_audit, cli_view_model,
    cli_view_request, cli_view_validation, cli_view_now, cli_view_schedule, cli_view_webhook, cli_view_webhook_test, cli_view_backup, cli_view_standby, cli_view_feedback,
    cli_view_capture, cli_view_capture_summary;

void cli_table(const struct cli_view *view, const json_t *rows); /* array of objects; columns of CLI_IN_LIST */
void cli_rows(const struct cli_view *view, const json_t *rows, bool heads); /* the same; heads false: rows alone */
void cli_fields(const struct cli_view *view, const json_t *o); /* a line per field of CLI_IN_SHOW that is there */
int cli_json(const json_t *o);                                 /* compactly, on a line; enum cli_exit */

void cli_puts(const char *s, size_t n); /* to stdout; on a terminal without control characters but \n and \t */

/* Colour on stdout: "" unless it is a terminal and NO_COLOR is not set. */
enum cli_colour { CLI_PLAIN, CLI_BOLD, CLI_DIM, CLI_GREEN, CLI_YELLOW, CLI_RED };
const char *cli_colour(enum cli_colour c);

#define CLI_CELL 512
int cli_width(const char *utf8); /* columns of a terminal */
void cli_cell(const struct cli_column *c, const json_t *row, char out[CLI_CELL]);
void cli_tame(char *s); /* becomes one line of text, whole characters, nothing that steers a terminal */
void cli_print_start(void); /* once, before the others: what the terminal is */
void cli_print_to(FILE *f); /* all of the above goes there */

/* The bar of an upload, on stderr; callers see to it that that is a terminal. */
void cli_progress(long long done, long long total);
void cli_progress_end(void);
