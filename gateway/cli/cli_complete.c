/* Completion: `weft completion SHELL` prints a script, which calls `weft complete WORDS...` at each Tab.
 *
 *     words before the cursor -> the command's next word | a flag | a flag's value | an argument's name
 *
 * complete prints candidates, a line each with its meaning behind a tab. Names are asked of the gateway with short waits,
 * and nothing is said when it does not answer: a Tab must never hang or write over the prompt. A line ":files" gives the
 * place to the shell's own completion of paths. */
#include "gateway/cli/cli_command.h"
#include "gateway/cli/cli_config.h"
#include "gateway/cli/cli_verbs.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define CONNECT_MS 400
#define ANSWER_MS 1200

/* --- scripts --- */

/* bash breaks words at = @ and : too, so the line is split anew here, and what stands before the break is cut off. */
static const char bash_script[] =
    "_weft() {\n"
    "    local line=${COMP_LINE:0:COMP_POINT} cur=${COMP_WORDS[COMP_CWORD]} word rest\n"
    "    local -a words\n"
    "    read -ra words <<<\"$line\"\n"
    "    [[ $line == *[[:space:]] ]] && words+=(\"\")\n"
    "    rest=${words[${#words[@]}-1]}\n"
    "    [[ $cur == [=@:,] ]] && cur=\n"
    "    rest=${rest%\"$cur\"}\n"
    "    COMPREPLY=()\n"
    "    while IFS=$'\\t' read -r word _; do\n"
    "        if [[ $word == :files ]]; then COMPREPLY=(); compopt -o default 2>/dev/null; return; fi\n"
    "        COMPREPLY+=(\"${word#\"$rest\"}\")\n"
    "    done < <(weft complete -- \"${words[@]:1}\" 2>/dev/null)\n"
    "    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null\n"
    "}\n"
    "complete -F _weft weft\n";

static const char zsh_script[] = "#compdef weft\n"
                                 "_weft() {\n"
                                 "    local -a lines names texts\n"
                                 "    local line\n"
                                 "    lines=(\"${(@f)$(weft complete -- \"${(@)words[2,CURRENT]}\" 2>/dev/null)}\")\n"
                                 "    for line in $lines; do\n"
                                 "        if [[ $line == :files* ]]; then _files; return; fi\n"
                                 "        names+=(\"${line%%$'\\t'*}\")\n"
                                 "        texts+=(\"${line/$'\\t'/  -- }\")\n"
                                 "    done\n"
                                 "    (( ${#names} )) && compadd -l -d texts -a -- names\n"
                                 "}\n"
                                 "if [[ $funcstack[1] == _weft ]]; then _weft \"$@\"; else compdef _weft weft; fi\n";

static const char fish_script[] = "function __weft_complete\n"
                                  "    set -l words (commandline -opc)[2..-1] (commandline -ct)\n"
                                  "    set -l found (weft complete -- $words 2>/dev/null)\n"
                                  "    if contains -- :files $found\n"
                                  "        __fish_complete_path (commandline -ct)\n"
                                  "    else\n"
                                  "        printf '%s\\n' $found\n"
                                  "    end\n"
                                  "end\n"
                                  "complete -c weft -f -a '(__weft_complete)'\n";

static const struct {
    const char *name, *script;
} shells[] = {{"bash", bash_script}, {"zsh", zsh_script}, {"fish", fish_script}};

int cli_completion(const struct cli *c)
{
    for (int i = 0; i < CLI_COUNT(shells); i++)
        if (!strcmp(c->arg[0], shells[i].name)) return fputs(shells[i].script, stdout) < 0 ? CLI_FAILED : CLI_OK;
    return cli_error(CLI_USAGE, "no script for %s; there are bash, zsh and fish", c->arg[0]);
}

/* --- candidates --- */

struct typed {
    const struct cli *c; /* of `complete` itself: where the gateway is */
    const char *word;    /* what stands before the cursor of the last word */
};

static void offer(const struct typed *t, const char *prefix, const char *name, const char *meaning)
{
    char whole[512];
    if (snprintf(whole, sizeof whole, "%s%s", prefix, name) >= (int)sizeof whole) return;
    if (strncmp(whole, t->word, strlen(t->word)) || whole[strcspn(whole, "\t\r\n")]) return;
    printf("%s\t%s\n", whole, meaning ? meaning : "");
}

/* Names of a list that the gateway gives. */
static void offer_list(const struct typed *t, const char *prefix, enum cli_side side, const char *path,
                       const char *field)
{
    struct cli_answer a;
    struct cli_ask ask = {.side = side,
                          .method = "GET",
                          .path = path,
                          .quiet = true,
                          .connect_ms = CONNECT_MS,
                          .first_byte_ms = ANSWER_MS};
    size_t i;
    json_t *row;
    if (!cli_ask(t->c, &ask, &a)) {
        json_array_foreach(json_object_get(a.json, "data"), i, row)
        {
            const char *name = json_string_value(json_object_get(row, field)),
                       *state = json_string_value(json_object_get(row, "state"));
            if (name) offer(t, prefix, name, state);
        }
    }
    cli_answer_close(&a);
}

/* NAME@: the versions of that adapter. */
static void offer_versions(const struct typed *t, const char *prefix, const char *name, size_t n)
{
    char adapter[256], path[CLI_URL_MAX], text[300];
    struct cli_answer a;
    size_t i;
    json_t *v;
    snprintf(adapter, sizeof adapter, "%.*s", (int)n, name);
    cli_path(path, "/v1/adapters/%s", adapter, NULL);
    struct cli_ask ask = {
        .method = "GET", .path = path, .quiet = true, .connect_ms = CONNECT_MS, .first_byte_ms = ANSWER_MS};
    if (!cli_ask(t->c, &ask, &a)) {
        json_array_foreach(json_object_get(a.json, "versions"), i, v)
        {
            snprintf(text, sizeof text, "%s@%" JSON_INTEGER_FORMAT, adapter,
                     json_integer_value(json_object_get(v, "version")));
            offer(t, prefix, text, json_string_value(json_object_get(v, "state")));
        }
    }
    cli_answer_close(&a);
}

static const char *const shell_words[] = {"bash", "zsh", "fish", NULL};
static const char *const config_words[] = {"url", "admin_url", "key", "admin_key", "profile", NULL};
static const char *const rating_words[] = {"up", "down", NULL};
static const char *const limit_words[] = {
    "requests_per_minute=",   "tokens_per_minute=", "concurrent_requests=", "tokens_per_day=",
    "tokens_per_month=",      "cost_per_day=",      "cost_per_month=",      "tokens_per_day_soft=",
    "tokens_per_month_soft=", "cost_per_day_soft=", "cost_per_month_soft=", "adapters=",
    "adapter_bytes=",         "adapter_rank=",      "adapters_pinned=",     NULL};

static void offer_words(const struct typed *t, const char *const *words)
{
    for (; *words; words++) offer(t, "", *words, NULL);
}

static void offer_adapters(const struct typed *t, const char *prefix)
{
    const char *from = t->word + strlen(prefix), *at = strchr(from, '@');
    if (at)
        offer_versions(t, prefix, from, (size_t)(at - from));
    else
        offer_list(t, prefix, CLI_TENANT_SIDE, "/v1/adapters?limit=100", "name");
}

static void offer_names(const struct typed *t, const struct cli_command *k, enum cli_names kind)
{
    char prefix[256] = "";
    const char *comma = strrchr(t->word, ',');
    if (comma && kind == CLI_ADAPTERS) snprintf(prefix, sizeof prefix, "%.*s", (int)(comma + 1 - t->word), t->word);
    switch (kind) {
    case CLI_ANY:
        return;
    case CLI_FILE_NAME:
        puts(":files");
        return;
    case CLI_TENANTS:
        offer_list(t, "", CLI_ADMIN_SIDE, "/admin/v1/tenants?limit=100", "name");
        return;
    case CLI_ENGINES:
        offer_list(t, "", CLI_ADMIN_SIDE, "/admin/v1/engines?limit=100", "name");
        return;
    case CLI_ADAPTERS:
        offer_adapters(t, prefix);
        return;
    case CLI_ALIASES:
        offer_list(t, "", CLI_TENANT_SIDE, "/v1/aliases?limit=100", "name");
        return;
    case CLI_MODELS:
        offer_list(t, "", CLI_TENANT_SIDE, "/v1/models", "id");
        return;
    case CLI_WORDS:
        offer_words(t, k->run == cli_completion ? shell_words : k->run == cli_limit_set ? limit_words : k->run == cli_feedback_give ? rating_words : config_words);
        return;
    }
}

/* --- flags --- */

static const struct {
    enum cli_flag flag;
    const char *words[8];
} choices[] = {
    {CLI_ROLE_FLAG, {"admin", "writer", "inference", "billing", "viewer", "backup"}},
    {CLI_CLASS_FLAG, {"interactive", "normal", "batch"}},
    {CLI_PRIVATE_FLAG, {"yes", "no"}},
    {CLI_LOCAL_FLAG, {"yes", "no"}},
    {CLI_POLICY_FLAG, {"weighted", "fallback"}},
    {CLI_STICKY_FLAG, {"request", "user", "key"}},
    {CLI_KIND_FLAG, {"weft", "vllm", "openai"}},
    {CLI_STATE_FLAG, {"ready", "failed", "validating", "archived", "quarantined"}},
    {CLI_GROUP_BY_FLAG, {"model", "key", "state", "adapter", "version", "tenant"}},
    {CLI_SORT_FLAG, {"in_flight", "tokens", "queue", "name"}},
};

static void offer_value(const struct typed *t, const struct cli_command *k, enum cli_flag f, const char *prefix)
{
    for (int i = 0; i < CLI_COUNT(choices); i++)
        for (int w = 0; choices[i].flag == f && w < CLI_COUNT(choices[i].words) && choices[i].words[w]; w++)
            offer(t, prefix, choices[i].words[w], NULL);
    if (f == CLI_TENANT_FLAG) offer_list(t, prefix, CLI_ADMIN_SIDE, "/admin/v1/tenants?limit=100", "name");
    if (f == CLI_ADAPTER_FLAG) offer_list(t, prefix, CLI_TENANT_SIDE, "/v1/adapters?limit=100", "name");
    if (f == CLI_MODEL_FLAG && k->run == cli_chat) offer_list(t, prefix, CLI_TENANT_SIDE, "/v1/models", "id");
    if (f == CLI_SECRET_FLAG || f == CLI_CONFIG_FLAG || f == CLI_SETTINGS_FLAG || f == CLI_DATA_FLAG) puts(":files");
}

static void offer_flags(const struct typed *t, const struct cli_command *k)
{
    for (int i = CLI_FLAGS - 1; i >= 0; i--)
        if (i < CLI_COMMON_FLAGS || k->takes & CLI_BIT(i)) offer(t, "", cli_flags[i].name, cli_flags[i].help);
}

static int flag_named(const char *word, size_t n)
{
    for (int i = 0; i < CLI_FLAGS; i++)
        if (strlen(cli_flags[i].name) == n && !strncmp(cli_flags[i].name, word, n)) return i;
    return -1;
}

/* The words of a command so far: flags that say where the gateway is are used, arguments counted. -1, or the flag whose
 * value comes next. */
static int walk(struct cli *at, int n, const char *const *words, int *nargs)
{
    *nargs = 0;
    for (int i = 0; i < n; i++) {
        const char *eq = strchr(words[i], '=');
        if (strncmp(words[i], "--", 2)) {
            ++*nargs;
            continue;
        }
        int f = flag_named(words[i], eq ? (size_t)(eq - words[i]) : strlen(words[i]));
        if (f < 0 || !cli_flags[f].value) continue;
        const char *value = eq ? eq + 1 : ++i < n ? words[i] : NULL;
        if (!value) return f;
        if (f < CLI_COMMON_FLAGS) {
            json_decref(at->flag[f]);
            at->flag[f] = json_string(value);
        }
    }
    return -1;
}

static void offer_commands(const struct typed *t, int n, const char *const *words)
{
    const char *last = "";
    size_t len = 0;
    for (int i = 0; i < cli_ncommands; i++) {
        const struct cli_command *k = &cli_commands[i];
        const char *word = k->words;
        size_t noun = strcspn(word, " ");
        char text[64];
        if (!k->help) continue;
        if (n && (strlen(words[0]) != noun || strncmp(words[0], word, noun) || !word[noun])) continue;
        if (n) word += noun + 1, noun = strlen(word);
        if (noun == len && !strncmp(word, last, len)) continue;
        last = word, len = noun;
        snprintf(text, sizeof text, "%.*s", (int)noun, word);
        offer(t, "", text, n || !k->words[noun] ? k->help : NULL);
    }
}

static void offer_all(struct typed *t, struct cli *at, int n, const char *const *words)
{
    int used = 0, nargs;
    const struct cli_command *k = cli_command_find(n, (char **)words, &used);
    if (!k || (used == 1 && strchr(k->words, ' '))) {
        if (n < 2) offer_commands(t, n, words);
        return;
    }
    int f = walk(at, n - used, words + used, &nargs);
    const char *eq = strchr(t->word, '=');
    if (cli_config_settle(at)) return;
    if (f >= 0) {
        offer_value(t, k, (enum cli_flag)f, "");
    } else if (!strncmp(t->word, "--", 2) && eq) {
        char prefix[64];
        f = flag_named(t->word, (size_t)(eq - t->word));
        snprintf(prefix, sizeof prefix, "%.*s", (int)(eq + 1 - t->word), t->word);
        if (f >= 0) offer_value(t, k, (enum cli_flag)f, prefix);
    } else if (t->word[0] == '-') {
        offer_flags(t, k);
    } else if (nargs < k->most_args) {
        enum cli_names kind = k->names[nargs ? 1 : 0];
        if (kind == CLI_ANY && nargs && k->most_args > 2) kind = k->names[0];
        offer_names(t, k, kind);
    }
}

int cli_complete(const struct cli *c)
{
    struct cli at = {.command = c->command};
    const char *words[CLI_ARGS_MAX];
    int n = c->nargs ? c->nargs - 1 : 0, nothing = open("/dev/null", O_WRONLY | O_CLOEXEC);
    struct typed t = {&at, c->nargs ? c->arg[n] : ""};
    for (int i = 0; i < n; i++) words[i] = c->arg[i];
    if (nothing >= 0) dup2(nothing, STDERR_FILENO); /* never over the prompt */
    offer_all(&t, &at, n, words);
    cli_close(&at);
    return CLI_OK;
}
