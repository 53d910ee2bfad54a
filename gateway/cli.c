/* The command line: two tables, of commands and of flags, and the little that reads them.
 *
 *     weft NOUN VERB [ARGUMENTS] [FLAGS]      (chat and usage have no verb)
 *
 * Every flag is a row with its place in struct cli; every command says which flags it takes, so a misplaced flag is an
 * error and each command's --help is printed from the rows. Later wins: default, environment, flag. Values may follow
 * as the next word or after "="; after "--" everything is an argument.
 *
 * One thread, but for the HTTP client's while `chat` streams. */
#include "gateway/cli.h"
#include "base/err.h"
#include "base/json.h"
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum flag_kind { FLAG_ON, FLAG_STR, FLAG_INT, FLAG_NUM, FLAG_ROLE };

enum { /* the flags that not every command takes, as bits of command.flags */
       F_TENANT = 1,
       F_NAME = 2,
       F_ROLE = 4,
       F_DESCRIPTION = 8,
       F_MODEL = 16,
       F_SYSTEM = 32,
       F_MAX_TOKENS = 64,
       F_TEMPERATURE = 128,
       F_DAYS = 256,
       F_GROUP_BY = 512,
};

static const struct flag {
    const char *name, *value; /* value: what --help calls it */
    enum flag_kind kind;
    unsigned bit; /* 0: every command takes it */
    size_t offset;
    double min, max;
    const char *help;
} flags[] = {
#define AT(field) offsetof(struct cli, field)
    {"--tenant", "NAME", FLAG_STR, F_TENANT, AT(tenant), 0, 0, "the tenant (required)"},
    {"--name", "LABEL", FLAG_STR, F_NAME, AT(name), 0, 0, "a label to know the key by"},
    {"--role", "ROLE", FLAG_ROLE, F_ROLE, 0, 0, 0,
     "admin, writer, inference (the default) or billing; may be repeated"},
    {"--description", "TEXT", FLAG_STR, F_DESCRIPTION, AT(description), 0, 0, "kept with the adapter"},
    {"--model", "NAME", FLAG_STR, F_MODEL, AT(model), 0, 0, "the base, an adapter, or ADAPTER@VERSION (required)"},
    {"--system", "TEXT", FLAG_STR, F_SYSTEM, AT(system), 0, 0, "the system message"},
    {"--max-tokens", "N", FLAG_INT, F_MAX_TOKENS, AT(max_tokens), 1, 1e9, "the longest answer"},
    {"--temperature", "T", FLAG_NUM, F_TEMPERATURE, AT(temperature), 0, 2, "0 is greedy"},
    {"--days", "N", FLAG_INT, F_DAYS, AT(days), 1, 3660, "how many days back, today included (7)"},
    {"--group-by", "WHAT", FLAG_STR, F_GROUP_BY, AT(group_by), 0, 0, "model (the default), key, state, ..."},
    {"--url", "URL", FLAG_STR, 0, AT(url), 0, 0, "the gateway (WEFT_URL, http://127.0.0.1:8080)"},
    {"--admin-url", "URL", FLAG_STR, 0, AT(admin_url), 0, 0,
     "its admin address (WEFT_ADMIN_URL, http://127.0.0.1:8081)"},
    {"--key", "KEY", FLAG_STR, 0, AT(key), 0, 0, "the tenant's key (better in WEFT_API_KEY: flags show in ps)"},
    {"--admin-key", "KEY", FLAG_STR, 0, AT(admin_key), 0, 0, "the admin's key (better in WEFT_ADMIN_KEY)"},
    {"--json", NULL, FLAG_ON, 0, AT(json), 0, 0, "print the server's answers as they are"},
    {"--help", NULL, FLAG_ON, 0, AT(help), 0, 0, "this"},
#undef AT
};

static const struct command {
    const char *noun, *verb; /* verb NULL: the noun alone */
    const char *args;
    int min_args, max_args;
    unsigned flags, required;
    int (*run)(const struct cli *c);
    const char *help;
} commands[] = {
    {"tenant", "create", "NAME", 1, 1, 0, 0, cli_tenant_create, "add a tenant"},
    {"tenant", "list", "", 0, 0, 0, 0, cli_tenant_list, "all tenants"},
    {"tenant", "show", "NAME", 1, 1, 0, 0, cli_tenant_show, "one tenant"},
    {"tenant", "disable", "NAME", 1, 1, 0, 0, cli_tenant_disable, "refuse all requests of a tenant from now on"},
    {"tenant", "enable", "NAME", 1, 1, 0, 0, cli_tenant_enable, "serve it again"},
    {"key", "create", "", 0, 0, F_TENANT | F_NAME | F_ROLE, F_TENANT, cli_key_create, "make a key; it is shown once"},
    {"key", "list", "", 0, 0, F_TENANT, F_TENANT, cli_key_list, "the keys of a tenant"},
    {"key", "revoke", "ID", 1, 1, 0, 0, cli_key_revoke, "refuse a key from now on"},
    {"adapter", "push", "NAME DIR", 2, 2, F_DESCRIPTION, 0, cli_adapter_push,
     "upload DIR/adapter_config.json and DIR/adapter_model.safetensors; wait until it can be used"},
    {"adapter", "list", "", 0, 0, 0, 0, cli_adapter_list, "the tenant's adapters"},
    {"adapter", "show", "NAME", 1, 1, 0, 0, cli_adapter_show, "one adapter and its versions"},
    {"adapter", "rm", "NAME[@VERSION]", 1, 1, 0, 0, cli_adapter_rm, "remove an adapter, or one version of it"},
    {"chat", NULL, "[PROMPT]", 0, 1, F_MODEL | F_SYSTEM | F_MAX_TOKENS | F_TEMPERATURE, F_MODEL, cli_chat,
     "ask; without PROMPT each line of stdin is a turn of one conversation"},
    {"usage", NULL, "", 0, 0, F_DAYS | F_GROUP_BY, 0, cli_usage, "requests and tokens per day"},
};

#define COUNT(a) (int)(sizeof(a) / sizeof *(a))

int cli_error(int status, const char *format, ...)
{
    va_list v;
    va_start(v, format);
    fputs("weft: ", stderr);
    vfprintf(stderr, format, v);
    fputc('\n', stderr);
    va_end(v);
    return status;
}

/* --- help --- */

static void print_flags(unsigned taken, bool common)
{
    for (int i = 0; i < COUNT(flags); i++) {
        const struct flag *f = &flags[i];
        char left[64];
        if (common ? f->bit != 0 : !(f->bit & taken)) continue;
        snprintf(left, sizeof left, "%s %s", f->name, f->value ? f->value : "");
        printf("  %-22s %s\n", left, f->help);
    }
}

static void print_command(const struct command *k)
{
    printf("  weft %s%s%s%s%s", k->noun, k->verb ? " " : "", k->verb ? k->verb : "", *k->args ? " " : "", k->args);
    for (int i = 0; i < COUNT(flags); i++) {
        bool must = flags[i].bit & k->required;
        if (flags[i].bit & k->flags)
            printf(" %s%s %s%s", must ? "" : "[", flags[i].name, flags[i].value, must ? "" : "]");
    }
    printf("\n      %s\n", k->help);
}

static int help_command(const struct command *k)
{
    print_command(k);
    if (k->flags) puts("");
    print_flags(k->flags, false);
    puts("\nFor every command:");
    print_flags(0, true);
    return CLI_OK;
}

/* Of one noun, or all. */
static int help_list(const char *noun)
{
    puts("usage: weft NOUN VERB [ARGUMENTS] [FLAGS]\n");
    for (int i = 0; i < COUNT(commands); i++)
        if (!noun || !strcmp(noun, commands[i].noun)) print_command(&commands[i]);
    puts("\nFor every command:");
    print_flags(0, true);
    puts("\nExit status: 0 done, 1 the server refused, 2 wrong usage, 3 no connection.");
    return CLI_OK;
}

/* --- reading --- */

static int set_number(const struct flag *f, void *at, const char *text)
{
    char *end;
    errno = 0;
    double x = strtod(text, &end);
    if (end == text || *end || errno || !(x >= f->min && x <= f->max) ||
        (f->kind == FLAG_INT && x != (double)(int64_t)x))
        return cli_error(CLI_USAGE, "%s %s: not a number from %g to %g", f->name, text, f->min, f->max);
    if (f->kind == FLAG_INT)
        *(int64_t *)at = (int64_t)x;
    else
        *(double *)at = x;
    return CLI_OK;
}

static int set_flag(struct cli *c, const struct flag *f, const char *value)
{
    void *at = (char *)c + f->offset;
    switch (f->kind) {
    case FLAG_ON:
        *(bool *)at = true;
        return CLI_OK;
    case FLAG_STR:
        *(const char **)at = value;
        return CLI_OK;
    case FLAG_ROLE:
        if (c->nroles == CLI_ROLES_MAX) return cli_error(CLI_USAGE, "more than %d roles", CLI_ROLES_MAX);
        c->role[c->nroles++] = value;
        return CLI_OK;
    case FLAG_INT:
    case FLAG_NUM:
        return set_number(f, at, value);
    }
    return CLI_USAGE;
}

static const struct flag *find_flag(const char *word, size_t n)
{
    for (int i = 0; i < COUNT(flags); i++)
        if (strlen(flags[i].name) == n && !strncmp(flags[i].name, word, n)) return &flags[i];
    return NULL;
}

/* One flag at argv[*i]; steps *i over its value. */
static int read_flag(struct cli *c, const struct command *k, int argc, char **argv, int *i, unsigned *seen)
{
    const char *word = argv[*i], *eq = strchr(word, '='), *value = eq ? eq + 1 : NULL;
    const struct flag *f = find_flag(word, eq ? (size_t)(eq - word) : strlen(word));
    if (!f) return cli_error(CLI_USAGE, "%s is no flag; see weft --help", word);
    if (f->bit && !(k->flags & f->bit))
        return cli_error(CLI_USAGE, "%s does not go with weft %s %s", f->name, k->noun, k->verb ? k->verb : "");
    if (f->kind == FLAG_ON && value) return cli_error(CLI_USAGE, "%s takes no value", f->name);
    if (f->kind != FLAG_ON && !value && ++*i < argc) value = argv[*i];
    if (f->kind != FLAG_ON && !value) return cli_error(CLI_USAGE, "%s needs a value", f->name);
    *seen |= f->bit;
    return set_flag(c, f, value);
}

static int read_words(struct cli *c, const struct command *k, int argc, char **argv, unsigned *seen)
{
    bool only_args = false;
    for (int i = 0; i < argc; i++) {
        if (!only_args && !strcmp(argv[i], "--")) {
            only_args = true;
        } else if (!only_args && !strncmp(argv[i], "--", 2)) {
            int rc = read_flag(c, k, argc, argv, &i, seen);
            if (rc) return rc;
        } else {
            if (c->nargs == k->max_args) return cli_error(CLI_USAGE, "\"%s\" is an argument too many", argv[i]);
            c->arg[c->nargs++] = argv[i];
        }
    }
    return CLI_OK;
}

static int required_check(const struct cli *c, const struct command *k, unsigned seen)
{
    for (int i = 0; i < COUNT(flags); i++)
        if (flags[i].bit & k->required & ~seen)
            return cli_error(CLI_USAGE, "%s %s is missing", flags[i].name, flags[i].value);
    if (c->nargs < k->min_args)
        return cli_error(CLI_USAGE, "usage: weft %s %s %s", k->noun, k->verb ? k->verb : "", k->args);
    return CLI_OK;
}

static const char *env_or(const char *name, const char *otherwise)
{
    const char *v = getenv(name);
    return v && *v ? v : otherwise;
}

static int run(const struct command *k, int argc, char **argv)
{
    struct cli c = {
        .url = env_or("WEFT_URL", "http://127.0.0.1:8080"),
        .admin_url = env_or("WEFT_ADMIN_URL", "http://127.0.0.1:8081"),
        .key = env_or("WEFT_API_KEY", NULL),
        .admin_key = env_or("WEFT_ADMIN_KEY", NULL),
        .temperature = -1,
    };
    unsigned seen = 0;
    int rc = read_words(&c, k, argc, argv, &seen);
    if (rc) return rc;
    if (c.help) return help_command(k);
    rc = required_check(&c, k, seen);
    return rc ? rc : k->run(&c);
}

/* The command that argv names, and how many words that took; NULL: none. */
static const struct command *find_command(int argc, char **argv, int *words)
{
    for (int i = 0; i < COUNT(commands); i++) {
        const struct command *k = &commands[i];
        *words = k->verb ? 2 : 1;
        if (argc >= *words && !strcmp(argv[0], k->noun) && (!k->verb || !strcmp(argv[1], k->verb))) return k;
    }
    return NULL;
}

static bool is_noun(const char *word)
{
    for (int i = 0; i < COUNT(commands); i++)
        if (!strcmp(word, commands[i].noun)) return true;
    return false;
}

int main(int argc, char **argv)
{
    int words;
    json_start();
    signal(SIGPIPE, SIG_IGN); /* a reader gone is a failed write, not a death in the middle of an exchange */
    if (argc < 2) {
        help_list(NULL);
        return CLI_USAGE;
    }
    const struct command *k = find_command(argc - 1, argv + 1, &words);
    if (k) {
        int rc = run(k, argc - 1 - words, argv + 1 + words);
        if (fflush(stdout) && !rc) rc = cli_error(CLI_REFUSED, "can't write the answer: %s", strerror(errno));
        return rc;
    }
    const char *noun = is_noun(argv[1]) ? argv[1] : NULL;
    if (!strcmp(argv[argc - 1], "--help") || !strcmp(argv[1], "help")) return help_list(noun);
    if (noun) return cli_error(CLI_USAGE, "what about the %s? See weft %s --help", noun, noun);
    return cli_error(CLI_USAGE, "no command \"%s\"; see weft --help", argv[1]);
}
