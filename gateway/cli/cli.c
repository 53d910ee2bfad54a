/* The command line: from words to struct cli, and to the command that they name.
 *
 *     weft NOUN VERB [ARGUMENTS] [FLAGS]      (chat, usage, top, ... have no verb)
 *
 * Flags may stand anywhere after the command's words, their values as the next word or after "="; after "--" everything
 * is an argument. A flag is read once, by its kind (cli_value.h); one that the command does not take is an error. Where
 * the gateway is and which keys go there: cli_config.c. One thread, but for the HTTP client's while `chat` streams. */
#include "gateway/cli/cli.h"
#include "base/json.h"
#include "base/version.h"
#include "gateway/cli/cli_command.h"
#include "gateway/cli/cli_config.h"
#include "gateway/cli/cli_print.h"
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct cli_flag_row cli_flags[CLI_FLAGS] = {
#define X(id, name, value, kind, field, least, most, help) {name, value, CLI_V_##kind, field, least, most, help},
#include "gateway/cli/cli_flags.def"
#undef X
};

#define LIST_MAX 64 /* words of a flag that may be repeated */

/* --- what commands ask --- */

bool cli_has(const struct cli *c, enum cli_flag f)
{
    return c->flag[f] != NULL;
}

const char *cli_str(const struct cli *c, enum cli_flag f)
{
    return json_string_value(c->flag[f]);
}

int64_t cli_int(const struct cli *c, enum cli_flag f, int64_t otherwise)
{
    return json_is_number(c->flag[f]) ? (int64_t)json_number_value(c->flag[f]) : otherwise;
}

/* What a server said may be in it. */
static void tell(const char *format, va_list v)
{
    char *text = NULL;
    if (vasprintf(&text, format, v) < 0) text = NULL;
    if (text) cli_tame(text);
    fprintf(stderr, "weft: %s\n", text ? text : format);
    free(text);
}

void cli_note(const char *format, ...)
{
    va_list v;
    va_start(v, format);
    tell(format, v);
    va_end(v);
}

int cli_error(int status, const char *format, ...)
{
    va_list v;
    va_start(v, format);
    tell(format, v);
    va_end(v);
    return status;
}

/* --- flags --- */

/* Repeated flags gather: words as a list, pairs as an object; of others the last one counts. Takes v. */
static int keep(struct cli *c, int f, json_t *v)
{
    enum cli_value_kind kind = cli_flags[f].kind;
    if (kind == CLI_V_LIST) {
        if (!c->flag[f]) c->flag[f] = json_array();
        json_array_append_new(c->flag[f], v);
        if (json_array_size(c->flag[f]) <= LIST_MAX) return CLI_OK;
        return cli_error(CLI_USAGE, "%s more than %d times", cli_flags[f].name, LIST_MAX);
    }
    if (kind == CLI_V_PAIR && c->flag[f]) {
        json_object_update(c->flag[f], v);
        json_decref(v);
        return CLI_OK;
    }
    json_decref(c->flag[f]);
    c->flag[f] = v;
    return CLI_OK;
}

static int set_flag(struct cli *c, int f, const char *text)
{
    const struct cli_flag_row *row = &cli_flags[f];
    char why[CLI_WHY];
    json_t *v = NULL;
    if (cli_value_read(row->kind, text ? text : "", row->least, row->most, &v, why))
        return cli_error(CLI_USAGE, "%s %s: %s", row->name, row->kind == CLI_V_FILE || text ? text : "", why);
    return keep(c, f, v);
}

static int find_flag(const char *word, size_t n)
{
    for (int i = 0; i < CLI_FLAGS; i++)
        if (strlen(cli_flags[i].name) == n && !strncmp(cli_flags[i].name, word, n)) return i;
    return -1;
}

/* One flag at argv[*i]; steps *i over its value. */
static int read_flag(struct cli *c, int argc, char **argv, int *i)
{
    const char *word = argv[*i], *eq = strchr(word, '='), *value = eq ? eq + 1 : NULL;
    int f = find_flag(word, eq ? (size_t)(eq - word) : strlen(word));
    if (f < 0) return cli_error(CLI_USAGE, "%s is no flag; see weft %s --help", word, c->command->words);
    const struct cli_flag_row *row = &cli_flags[f];
    if (f >= CLI_COMMON_FLAGS && !(c->command->takes & CLI_BIT(f)))
        return cli_error(CLI_USAGE, "%s does not go with weft %s", row->name, c->command->words);
    if (!row->value && value) return cli_error(CLI_USAGE, "%s takes no value", row->name);
    if (row->value && !value && ++*i < argc) value = argv[*i];
    if (row->value && !value) return cli_error(CLI_USAGE, "%s needs a value", row->name);
    return set_flag(c, f, value);
}

static int read_words(struct cli *c, int argc, char **argv)
{
    bool only_args = false;
    for (int i = 0; i < argc; i++) {
        int rc = CLI_OK;
        if (!only_args && !strcmp(argv[i], "--"))
            only_args = true;
        else if (!only_args && !strcmp(argv[i], "-h"))
            rc = set_flag(c, CLI_HELP_FLAG, NULL);
        else if (!only_args && !strncmp(argv[i], "--", 2))
            rc = read_flag(c, argc, argv, &i);
        else if (c->nargs == c->command->most_args)
            rc = cli_error(CLI_USAGE, "\"%s\" is an argument too many", argv[i]);
        else
            c->arg[c->nargs++] = argv[i];
        if (rc) return rc;
    }
    return CLI_OK;
}

static int complete(const struct cli *c)
{
    const struct cli_command *k = c->command;
    for (int i = 0; i < CLI_FLAGS; i++)
        if (CLI_BIT(i) & k->needs && !c->flag[i] && !(i == CLI_TENANT_FLAG && cli_has(c, CLI_OWN_FLAG)))
            return cli_error(CLI_USAGE, "%s %s is missing%s", cli_flags[i].name, cli_flags[i].value,
                             i == CLI_TENANT_FLAG && k->own_path ? " (or --own)" : "");
    if (cli_has(c, CLI_TENANT_FLAG) && cli_has(c, CLI_OWN_FLAG))
        return cli_error(CLI_USAGE, "--tenant and --own exclude each other");
    if (c->nargs < k->least_args) return cli_error(CLI_USAGE, "usage: weft %s %s", k->words, k->args);
    return CLI_OK;
}

/* --- running --- */

void cli_close(struct cli *c)
{
    for (int i = 0; i < CLI_FLAGS; i++) json_decref(c->flag[i]);
    free(c->url);
    free(c->admin_url);
    free(c->key);
    free(c->admin_key);
}

static int run(struct cli *c, int argc, char **argv)
{
    int rc = read_words(c, argc, argv);
    if (rc) return rc;
    if (cli_has(c, CLI_HELP_FLAG)) return cli_help_command(c->command);
    c->json = cli_has(c, CLI_JSON_FLAG);
    rc = complete(c);
    if (!rc) rc = cli_config_settle(c);
    if (rc) return rc;
    return c->command->run ? c->command->run(c) : cli_plain(c);
}

static int run_command(const struct cli_command *k, int argc, char **argv)
{
    struct cli c = {.command = k};
    int rc = run(&c, argc, argv);
    cli_close(&c);
    if (fflush(stdout) && !rc) rc = cli_error(CLI_FAILED, "can't write the answer: %s", strerror(errno));
    return rc;
}

static int no_command(int argc, char **argv)
{
    const char *word = argv[0], *last = argv[argc - 1];
    bool noun = cli_command_begins(word);
    if (!strcmp(word, "--version")) return puts("weft " WEFT_VERSION) < 0 ? CLI_FAILED : CLI_OK;
    if (!strcmp(word, "--help") || !strcmp(word, "-h")) return cli_help_all(NULL);
    if (noun && (!strcmp(last, "--help") || !strcmp(last, "-h"))) return cli_help_all(word);
    if (noun) return cli_error(CLI_USAGE, "what about the %s? See weft %s --help", word, word);
    return cli_error(CLI_USAGE, "no command \"%s\"; see weft help", word);
}

int main(int argc, char **argv)
{
    int words;
    json_start();
    cli_print_start();
    signal(SIGPIPE, SIG_IGN); /* a reader gone is a failed write, not a death in the middle of an exchange */
    if (argc < 2) {
        cli_help_all(NULL);
        return CLI_USAGE;
    }
    const struct cli_command *k = cli_command_find(argc - 1, argv + 1, &words);
    return k ? run_command(k, argc - 1 - words, argv + 1 + words) : no_command(argc - 1, argv + 1);
}
