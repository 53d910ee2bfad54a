/* Commands: the table, and what reads it (cli.c, cli_help.c, cli_complete.c, cli_plain.c). */
#pragma once
#include "gateway/cli/cli.h"
#include "gateway/cli/cli_print.h"
#include "gateway/cli/cli_value.h"

#define CLI_BIT(f) ((unsigned __int128)1 << (f))
_Static_assert(CLI_FLAGS <= 128, "flags are bits");

struct cli_flag_row {
    const char *name, *value; /* value: what --help calls it; NULL: takes none */
    enum cli_value_kind kind;
    const char *field; /* of a body or a query */
    double least, most;
    const char *help;
};
extern const struct cli_flag_row cli_flags[CLI_FLAGS];

enum cli_shape {
    CLI_SHOW_OBJECT,
    CLI_SHOW_LIST,
    CLI_SHOW_SECRET, /* a new key or token: alone on stdout */
    CLI_SHOW_DONE,   /* a sentence on stderr, `done` with the first argument */
};

/* What an argument is, for completion. */
enum cli_names { CLI_ANY, CLI_FILE_NAME, CLI_TENANTS, CLI_ADAPTERS, CLI_ALIASES, CLI_ENGINES, CLI_MODELS, CLI_WORDS };

struct cli_command {
    const char *words; /* "adapter rm" */
    const char *args;  /* "NAME[@VERSION]" */
    int least_args, most_args;
    unsigned __int128 takes, needs;  /* CLI_BIT()s; takes includes needs, body and query */
    unsigned __int128 body, query;   /* of the request's body, of its query */
    int (*run)(const struct cli *c); /* NULL: the one request below */

    enum cli_side side;
    const char *method, *path; /* {0}: argument 0; {v0}: NAME of NAME@V, with /versions/V; {tenant}: the flag */
    const char *own_path;      /* with --own, on the tenant's side; NULL: no such */
    const char *fixed;         /* of the body, beside the flags: JSON; "{0}" is argument 0 */
    enum cli_shape shape;
    const struct cli_view *view;
    const char *done;
    int most_rows; /* of a list, where --limit says nothing; 0: all */

    enum cli_names names[2]; /* of the first two arguments; further ones are as the second */
    const char *help, *examples;
};
extern const struct cli_command cli_commands[];
extern const int cli_ncommands;

/* The command that the words begin with, the longest one, and how many they are; NULL: none. Plurals are taken too. */
const struct cli_command *cli_command_find(int argc, char **argv, int *words);
bool cli_command_begins(const char *word); /* some command's first word */

int cli_help_command(const struct cli_command *k);
int cli_help_all(const char *noun); /* NULL: all */

int cli_plain(const struct cli *c);                                            /* the request of c->command */
int cli_body(const struct cli *c, json_t **out);                               /* of the flags in command->body */
int cli_fill(const struct cli *c, const char *pattern, char out[CLI_URL_MAX]); /* {0}, {v0}, {tenant} */
int cli_revision(const struct cli *c, const char *tag, char out[96]); /* "If-Match: ..."; tag as in an ETag, or NULL */
