/* weft help, weft NOUN --help, weft NOUN VERB --help: printed from the tables of commands and flags. */
#include "gateway/cli/cli_command.h"
#include "gateway/cli/cli_verbs.h"
#include <stdio.h>
#include <string.h>

static const char exits[] = "Exit status: 0 done, 1 failed or refused, 2 wrong usage, 3 nobody there or broken off,\n"
                            "4 no valid key or not its right, 5 not found, 6 exists, in use or changed meanwhile,\n"
                            "7 a limit or a budget, 8 not ready, try again.\n";

static const char settings[] = "Where: flags win over the environment (WEFT_URL, WEFT_KEY, WEFT_ADMIN_URL, "
                               "WEFT_ADMIN_KEY, WEFT_PROFILE), that wins\n"
                               "over the configuration file (weft config --help). A profile named by --profile is used "
                               "instead of the environment.\n";

static void put_flags(unsigned __int128 taken, unsigned __int128 needed, int from, int to)
{
    for (int i = from; i < to; i++) {
        const struct cli_flag_row *f = &cli_flags[i];
        char left[64];
        if (!(CLI_BIT(i) & taken)) continue;
        snprintf(left, sizeof left, "%s %s", f->name, f->value ? f->value : "");
        printf("  %-24s %s%s\n", left, f->help, CLI_BIT(i) & needed ? " (required)" : "");
    }
}

static void put_usage(const struct cli_command *k)
{
    printf("  %sweft %s%s%s%s", cli_colour(CLI_BOLD), k->words, cli_colour(CLI_PLAIN), *k->args ? " " : "", k->args);
    for (int i = CLI_COMMON_FLAGS; i < CLI_FLAGS; i++)
        if (CLI_BIT(i) & k->needs) printf(" %s %s", cli_flags[i].name, cli_flags[i].value);
    if (k->takes & ~k->needs) printf(" [FLAGS]");
    printf("\n      %s\n", k->help);
}

static void put_examples(const char *text)
{
    puts("\nExamples:");
    for (const char *p = text; *p;) {
        size_t n = strcspn(p, "\n");
        printf("  %.*s\n", (int)n, p);
        p += n + (p[n] == '\n');
    }
}

int cli_help_command(const struct cli_command *k)
{
    printf("usage: weft %s%s%s [FLAGS]\n\n  %s\n", k->words, *k->args ? " " : "", k->args, k->help);
    if (k->takes) puts("\nFlags:");
    put_flags(k->takes, k->needs, CLI_COMMON_FLAGS, CLI_FLAGS);
    puts("\nFor every command:");
    put_flags(~0ull, 0, 0, CLI_COMMON_FLAGS);
    if (k->examples) put_examples(k->examples);
    return CLI_OK;
}

static bool is_of(const struct cli_command *k, const char *noun)
{
    size_t n = strcspn(k->words, " "), len = strlen(noun);
    if (len == n + 1 && noun[n] == 's') len = n; /* a plural */
    return len == n && !strncmp(k->words, noun, n);
}

int cli_help_all(const char *noun)
{
    puts("usage: weft NOUN VERB [ARGUMENTS] [FLAGS]\n");
    for (int i = 0; i < cli_ncommands; i++) {
        const struct cli_command *k = &cli_commands[i];
        bool hidden = !k->help;
        if (!hidden && (!noun || is_of(k, noun))) put_usage(k);
    }
    puts("\nFor every command (and weft COMMAND --help says more):");
    put_flags(~0ull, 0, 0, CLI_COMMON_FLAGS);
    printf("\n%s\n%s", settings, exits);
    return CLI_OK;
}

/* weft help [WORDS]. */
int cli_help(const struct cli *c)
{
    int words;
    if (!c->nargs) return cli_help_all(NULL);
    const struct cli_command *k = cli_command_find(c->nargs, (char **)c->arg, &words);
    if (k && words == c->nargs) return cli_help_command(k);
    if (cli_command_begins(c->arg[0])) return cli_help_all(c->arg[0]);
    return cli_error(CLI_USAGE, "no command \"%s\"; see weft help", c->arg[0]);
}
