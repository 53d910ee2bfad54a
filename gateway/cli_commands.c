/* All commands of `weft`, a row each: what it is called, what it takes, the one request that it is (cli_plain.c) or the
 * function that does more (cli_verbs.h). Help, completion and docs/CLI.md follow this table. */
#include "gateway/cli_command.h"
#include "gateway/cli_config.h"
#include "gateway/cli_verbs.h"
#include <string.h>

#define F(f) CLI_BIT(CLI_##f##_FLAG)
#define TENANT_FIELDS (F(WEIGHT) | F(PRIVATE) | F(CLASS) | F(DEADLINE))
#define KEY_FIELDS (F(NAME) | F(ROLE) | F(SCOPE) | F(EXPIRES))
#define IMPORT_FIELDS (F(DESCRIPTION) | F(SHA256) | F(CONFIG_URL) | F(WEIGHTS_URL))
#define ENGINE_FIELDS (F(KIND) | F(BASE) | F(MODEL) | F(LOCAL) | F(CAPACITY) | F(SECRET) | F(SETTING))
#define WAITING (F(WAIT) | F(TIMEOUT))
#define PAGING (F(AFTER) | F(LIMIT))
#define ONE(n) .least_args = n, .most_args = n
#define ADMIN(m, p) .side = CLI_ADMIN_SIDE, .method = m, .path = p
#define TENANT(m, p) .side = CLI_TENANT_SIDE, .method = m, .path = p
#define SHOW(v) .shape = CLI_SHOW_OBJECT, .view = &cli_view_##v
#define LIST(v) .shape = CLI_SHOW_LIST, .view = &cli_view_##v
#define DONE(text) .shape = CLI_SHOW_DONE, .done = text

const struct cli_command cli_commands[] = {
    /* --- tenants and keys --- */
    {"tenant create", "NAME", ONE(1), .takes = TENANT_FIELDS | F(IDEMPOTENCY_KEY), .body = TENANT_FIELDS,
     ADMIN("POST", "/admin/v1/tenants"), .fixed = "{\"name\":\"{0}\"}", SHOW(tenant), .help = "add a tenant",
     .examples = "weft tenant create acme\nweft tenant create clinic --private yes --class interactive --weight 2"},
    {"tenant list", "", .takes = PAGING, ADMIN("GET", "/admin/v1/tenants"), LIST(tenant), .help = "all tenants"},
    {"tenant show", "NAME", ONE(1), ADMIN("GET", "/admin/v1/tenants/{0}"), SHOW(tenant), .names = {CLI_TENANTS},
     .help = "one tenant"},
    {"tenant set", "NAME", ONE(1), .takes = TENANT_FIELDS | F(IF_MATCH), .body = TENANT_FIELDS,
     ADMIN("PATCH", "/admin/v1/tenants/{0}"), SHOW(tenant), .names = {CLI_TENANTS}, .help = "change a tenant",
     .examples = "weft tenant set acme --weight 4 --deadline-ms 2k\nweft tenant set acme --deadline-ms none"},
    {"tenant disable", "NAME", ONE(1), ADMIN("PATCH", "/admin/v1/tenants/{0}"), .fixed = "{\"disabled\":true}",
     SHOW(tenant), .names = {CLI_TENANTS}, .help = "refuse all requests of a tenant from now on"},
    {"tenant enable", "NAME", ONE(1), ADMIN("PATCH", "/admin/v1/tenants/{0}"), .fixed = "{\"disabled\":false}",
     SHOW(tenant), .names = {CLI_TENANTS}, .help = "serve it again"},

    {"key create", "", .takes = KEY_FIELDS | F(TENANT) | F(OWN) | F(IDEMPOTENCY_KEY), .needs = F(TENANT),
     .body = KEY_FIELDS, .run = cli_key_create, ADMIN("POST", "/admin/v1/tenants/{tenant}/keys"),
     .own_path = "/v1/keys", .shape = CLI_SHOW_SECRET, .help = "make a key; it is shown once, alone on stdout",
     .examples = "KEY=$(weft key create --tenant acme --role inference --expires 90d)\n"
                 "weft key create --own --name ci --role writer"},
    {"key list", "", .takes = F(TENANT) | F(OWN) | PAGING, .needs = F(TENANT),
     ADMIN("GET", "/admin/v1/tenants/{tenant}/keys"), .own_path = "/v1/keys", LIST(key),
     .help = "the keys of a tenant"},
    {"key show", "ID", ONE(1), .takes = F(OWN), ADMIN("GET", "/admin/v1/keys/{0}"), .own_path = "/v1/keys/{0}",
     SHOW(key), .help = "one key, without its secret"},
    {"key set", "ID", ONE(1), .takes = F(NAME) | F(EXPIRES) | F(IF_MATCH), .body = F(NAME) | F(EXPIRES),
     ADMIN("PATCH", "/admin/v1/keys/{0}"), SHOW(key), .help = "change a key's label or expiry",
     .examples = "weft key set x7Kd9QmR2pLs --expires 2027-01-31"},
    {"key rotate", "ID", ONE(1), .takes = F(OWN) | F(GRACE) | F(EXPIRES) | F(IDEMPOTENCY_KEY),
     .body = F(GRACE) | F(EXPIRES), ADMIN("POST", "/admin/v1/keys/{0}/rotate"), .own_path = "/v1/keys/{0}/rotate",
     .shape = CLI_SHOW_SECRET, .help = "a new key with the same rights; the old one works until the grace is over",
     .examples = "weft key rotate x7Kd9QmR2pLs --grace 24h"},
    {"key revoke", "ID", ONE(1), .takes = F(OWN), ADMIN("DELETE", "/admin/v1/keys/{0}"), .own_path = "/v1/keys/{0}",
     DONE("is revoked"), .help = "refuse a key from now on"},

    {"admin-key create", "", .takes = KEY_FIELDS | F(IDEMPOTENCY_KEY), .body = KEY_FIELDS, .run = cli_key_create,
     ADMIN("POST", "/admin/v1/admin-keys"), .shape = CLI_SHOW_SECRET, .help = "make an admin's key",
     .examples = "weft admin-key create --name grafana --role viewer --expires 365d"},
    {"admin-key list", "", .takes = PAGING, ADMIN("GET", "/admin/v1/admin-keys"), LIST(admin_key),
     .help = "the admins' keys"},
    {"admin-key revoke", "ID", ONE(1), ADMIN("DELETE", "/admin/v1/admin-keys/{0}"), DONE("is revoked"),
     .help = "refuse an admin's key from now on"},

    /* --- limits, prices, events --- */
    {"limit show", "[KEY-ID]", .takes = F(TENANT) | F(ADAPTER), .run = cli_limit_show,
     .help = "limits beside what is used: the tenant's own, or of --tenant, of its --adapter, of a key (ID)",
     .most_args = 1,
     .examples = "weft limit show\nweft limit show --tenant acme\nweft limit show --tenant acme --adapter sql\n"
                 "weft limit show x7Kd9QmR2pLs"},
    {"limit set", "NAME=VALUE...", .least_args = 1, .most_args = CLI_ARGS_MAX,
     .takes = F(TENANT) | F(ADAPTER) | F(REPLACE) | F(IF_MATCH), .run = cli_limit_set, .names = {CLI_WORDS, CLI_WORDS},
     .help = "set limits of --tenant, of its --adapter, or of a key (ID as the first argument); others stay",
     .examples = "weft limit set --tenant acme requests_per_minute=600 tokens_per_minute=100k concurrent_requests=32\n"
                 "weft limit set --tenant acme tokens_per_month=50M cost_per_month=250.00 cost_per_month_soft=200\n"
                 "weft limit set --tenant acme --adapter sql tokens_per_day=none\n"
                 "weft limit set x7Kd9QmR2pLs requests_per_minute=60"},
    {"limit clear", "[KEY-ID]", .most_args = 1, .takes = F(TENANT) | F(ADAPTER) | F(IF_MATCH), .run = cli_limit_clear,
     .help = "no limits any more, of --tenant, its --adapter, or a key"},

    {"price list", "", .takes = PAGING, ADMIN("GET", "/admin/v1/prices"), LIST(price),
     .help = "prices, for a million tokens"},
    {"price add", "",
     .takes = F(BASE) | F(TENANT) | F(ADAPTER) | F(PROMPT) | F(CACHED) | F(OUTPUT) | F(FROM) | F(IDEMPOTENCY_KEY),
     .needs = F(BASE) | F(PROMPT) | F(OUTPUT),
     .body = F(BASE) | F(TENANT) | F(ADAPTER) | F(PROMPT) | F(CACHED) | F(OUTPUT) | F(FROM),
     ADMIN("POST", "/admin/v1/prices"), SHOW(price),
     .help = "what a million tokens cost from then on; the most specific counts",
     .examples = "weft price add --base smollm2-135m --prompt 0.15 --cached 0.02 --output 0.60\n"
                 "weft price add --base smollm2-135m --tenant acme --adapter sql --prompt 0.30 --output 1.20 --from "
                 "2027-01-01"},
    {"price rm", "ID", ONE(1), ADMIN("DELETE", "/admin/v1/prices/{0}"), DONE("is removed"), .help = "remove a price"},

    {"event list", "", .takes = PAGING | F(FOLLOW) | F(OWN) | F(INTERVAL), .run = cli_event_list,
     ADMIN("GET", "/admin/v1/events"), .own_path = "/v1/events", LIST(event),
     .help = "what happened: states of adapters, budgets, engines",
     .examples = "weft event list --follow\nweft event list --own --after 120 --json"},

    /* --- adapters --- */
    {"adapter push", "NAME DIR", ONE(2), .takes = F(DESCRIPTION) | F(RESUME) | WAITING | F(NO_WAIT),
     .run = cli_adapter_push, .names = {CLI_ADAPTERS, CLI_FILE_NAME},
     .help = "upload DIR/adapter_config.json and DIR/adapter_model.safetensors; wait until it can be used",
     .examples = "weft adapter push sql ./my-lora --description \"from run 31\"\n"
                 "weft adapter push sql ./my-lora --resume      # after a broken connection: goes on"},
    {"adapter upload", "NAME DIR", ONE(2), .takes = F(DESCRIPTION) | F(RESUME) | WAITING | F(NO_WAIT),
     .run = cli_adapter_push, .names = {CLI_ADAPTERS, CLI_FILE_NAME}, .help = "the same as push"},
    {"adapter import", "NAME [URL]", .least_args = 1, .most_args = 2, .takes = IMPORT_FIELDS | WAITING,
     .body = IMPORT_FIELDS, .run = cli_adapter_import, TENANT("POST", "/v1/adapters/{0}/import"), SHOW(upload),
     .names = {CLI_ADAPTERS},
     .help = "let the gateway fetch it: URL of a folder with both files, or --config-url and --weights-url",
     .examples = "weft adapter import sql https://models.example/acme/sql/ --wait"},
    {"adapter validate", "DIR", ONE(1), .run = cli_adapter_validate, .names = {CLI_FILE_NAME},
     .help = "would it be served: nothing is kept"},
    {"adapter list", "", .takes = F(ALL) | F(TENANT) | F(STATE) | PAGING, .query = F(TENANT) | F(STATE),
     TENANT("GET", "/v1/adapters"), LIST(adapter), .help = "the tenant's adapters; with --all those of all tenants",
     .examples = "weft adapter list\nweft adapter list --all --state failed\nweft adapter list --all --tenant acme"},
    {"adapter show", "NAME[@VERSION]", ONE(1), .run = cli_adapter_show, TENANT("GET", "/v1/adapters/{v0}"),
     SHOW(adapter), .names = {CLI_ADAPTERS}, .help = "one adapter and its versions"},
    {"adapter versions", "NAME", ONE(1), .run = cli_adapter_versions, TENANT("GET", "/v1/adapters/{0}"), LIST(version),
     .names = {CLI_ADAPTERS}, .help = "its versions"},
    {"adapter wait", "NAME[@VERSION]", ONE(1), .takes = F(TIMEOUT), .run = cli_adapter_wait, .names = {CLI_ADAPTERS},
     .help = "until it is ready or has failed; the newest version where none is named"},
#define ACT(verb, what)                                                                                                \
    {                                                                                                                  \
        "adapter " verb, "NAME[@VERSION]", ONE(1), .takes = WAITING, .run = cli_adapter_act,                           \
                                                   TENANT("POST", "/v1/adapters/{v0}/" verb), SHOW(adapter),           \
                                                   .names = {CLI_ADAPTERS}, .help = what                               \
    }
    ACT("pin", "keep it in the engines' slots"),
    ACT("unpin", "let it go cold again"),
    ACT("warm", "load it now, before the first request"),
    ACT("archive", "out of use, its bytes kept"),
    ACT("restore", "back from the archive"),
    {"adapter rm", "NAME[@VERSION]", ONE(1), .takes = F(IF_MATCH), TENANT("DELETE", "/v1/adapters/{v0}"),
     DONE("is removed"), .names = {CLI_ADAPTERS}, .help = "remove an adapter, or one version of it"},

    {"alias list", "", .takes = PAGING, TENANT("GET", "/v1/aliases"), LIST(alias),
     .help = "names that clients call, and where they lead"},
    {"alias show", "NAME", ONE(1), TENANT("GET", "/v1/aliases/{0}"), SHOW(alias), .names = {CLI_ALIASES},
     .help = "one alias"},
    {"alias set", "NAME TARGET[=SHARE%],...", .least_args = 2, .most_args = CLI_ARGS_MAX,
     .takes = F(POLICY) | F(STICKY) | F(SYSTEM_PREFIX) | F(CREATE) | F(IF_MATCH),
     .body = F(POLICY) | F(STICKY) | F(SYSTEM_PREFIX), .run = cli_alias_set, TENANT("PUT", "/v1/aliases/{0}"),
     SHOW(alias), .names = {CLI_ALIASES, CLI_ADAPTERS},
     .help = "where a name leads: ADAPTER, ADAPTER@VERSION or base:NAME; shares make a canary, one without a share "
             "gets the rest",
     .examples = "weft alias set chat sql@1\nweft alias set chat sql@2=10%,sql@1        # canary\n"
                 "weft alias set chat sql@2=1,sql@1=1 --sticky user\n"
                 "weft alias set chat sql@2,sql@1,base:smollm2-135m --policy fallback"},
    {"alias rollback", "NAME", ONE(1), .takes = F(IF_MATCH), TENANT("POST", "/v1/aliases/{0}/rollback"), SHOW(alias),
     .names = {CLI_ALIASES}, .help = "back to what it was before its last change"},
    {"alias rm", "NAME", ONE(1), .takes = F(IF_MATCH), TENANT("DELETE", "/v1/aliases/{0}"), DONE("is removed"),
     .names = {CLI_ALIASES}, .help = "remove an alias"},

    /* --- engines and the server --- */
    {"engine add", "NAME [URL]", .least_args = 1, .most_args = 2, .takes = ENGINE_FIELDS | F(IDEMPOTENCY_KEY),
     .needs = F(BASE), .body = ENGINE_FIELDS, .run = cli_engine_add, ADMIN("POST", "/admin/v1/engines"), SHOW(engine),
     .help = "one more engine: of a kind, at URL (http, https or unix:/path), or spawned here with --model",
     .examples = "weft engine add a --base big --model /models/big.gguf --setting threads=8\n"
                 "weft engine add b http://10.0.0.7:9000 --kind weft --base smollm2-135m --secret-file token\n"
                 "weft engine add v http://10.0.0.8:8000 --kind vllm --base smollm2-135m --local yes\n"
                 "weft engine add o https://api.example/v1 --kind openai --base big --model big-1 --secret-file key"},
    {"engine list", "", .takes = PAGING, ADMIN("GET", "/admin/v1/engines"), LIST(engine),
     .help = "engines and how they are"},
    {"engine show", "NAME", ONE(1), ADMIN("GET", "/admin/v1/engines/{0}"), SHOW(engine), .names = {CLI_ENGINES},
     .help = "one engine"},
    {"engine set", "NAME", ONE(1), .takes = F(LOCAL) | F(CAPACITY) | F(SECRET) | F(MODEL) | F(IF_MATCH),
     .body = F(LOCAL) | F(CAPACITY) | F(SECRET) | F(MODEL), ADMIN("PATCH", "/admin/v1/engines/{0}"), SHOW(engine),
     .names = {CLI_ENGINES}, .help = "change an engine"},
#define ENGINE(verb, what)                                                                                             \
    {                                                                                                                  \
        "engine " verb, "NAME", ONE(1), ADMIN("POST", "/admin/v1/engines/{0}/" verb), SHOW(engine),                    \
            .names = {CLI_ENGINES}, .help = what                                                                       \
    }
    ENGINE("drain", "nothing new; what runs ends in peace"),
    ENGINE("enable", "serve again"),
    ENGINE("disable", "nothing new, at once"),
    {"engine rm", "NAME", ONE(1), .takes = F(IF_MATCH), ADMIN("DELETE", "/admin/v1/engines/{0}"), DONE("is removed"),
     .names = {CLI_ENGINES}, .help = "remove an engine"},

    {"settings", "", .run = cli_settings, .help = "the gateway's settings, and where each is from"},
    {"reload", "", .run = cli_reload, .help = "read the settings again, as at SIGHUP"},
    {"audit list", "", .takes = PAGING, ADMIN("GET", "/admin/v1/audit"), LIST(audit), .most_rows = 100,
     .help = "who changed what, newest first"},
    {"audit verify", "", .run = cli_audit_verify, .help = "walk the audit's chain: was a row changed or dropped"},

    /* --- use --- */
    {"model list", "", .run = cli_model_list, .help = "what the tenant can call"},
    {"model show", "NAME", ONE(1), TENANT("GET", "/v1/models/{0}"), SHOW(model), .names = {CLI_MODELS},
     .help = "one of them"},
    {"chat", "[PROMPT]", .most_args = 1, .takes = F(MODEL) | F(SYSTEM) | F(MAX_TOKENS) | F(TEMPERATURE),
     .needs = F(MODEL), .run = cli_chat, .help = "ask; without PROMPT each line of stdin is a turn of one conversation",
     .examples = "weft chat --model sql 'How many orders were paid in 2023?'\nweft chat --model sql --temperature 0 "
                 "<questions.txt"},
    {"usage", "", .takes = F(DAYS) | F(GROUP_BY) | F(ALL) | F(TENANT), .run = cli_usage,
     .help = "requests and tokens per day; with --all those of all tenants",
     .examples = "weft usage --days 30 --group-by model,key\nweft usage --all --group-by tenant"},
    {"request list", "", .takes = F(ALL) | F(TENANT) | PAGING, .query = F(TENANT), TENANT("GET", "/v1/usage/requests"),
     LIST(request), .most_rows = 100, .help = "single requests, newest first"},
    {"top", "", .takes = F(ONCE) | F(INTERVAL) | F(COUNT) | F(SORT) | F(LIMIT), .run = cli_top,
     .help = "live: engines, tenants, adapters; q ends, s sorts, p pauses",
     .examples = "weft top\nweft top --once\nweft top --json --once | jq .engines"},

    /* --- this machine --- */
    {"doctor", "", .takes = F(SETTINGS) | F(DATA), .run = cli_doctor,
     .help = "check the set-up and say what to do; exit status 1 where a check failed",
     .examples = "weft doctor\nweft doctor --settings /etc/weft/gateway.conf --data /var/lib/weft"},
    {"config show", "", .run = cli_config_show, .help = "where commands go and with which keys (hidden)"},
    {"config get", "NAME", ONE(1), .run = cli_config_get, .names = {CLI_WORDS},
     .help = "one value, as it is: url, admin_url, key, admin_key"},
    {"config set", "NAME [VALUE]", .least_args = 1, .most_args = 2, .run = cli_config_set, .names = {CLI_WORDS},
     .help = "keep it in the file, in the section of --profile; without VALUE it is read from stdin",
     .examples =
         "weft config set url https://weft.example --profile prod\nweft config set key --profile prod <key-file\n"
         "weft config set profile prod      # used from now on"},
    {"config unset", "NAME", ONE(1), .run = cli_config_unset, .names = {CLI_WORDS}, .help = "drop it from the file"},
    {"config path", "", .run = cli_config_where, .help = "where the file is"},
    {"completion", "SHELL", ONE(1), .run = cli_completion, .names = {CLI_WORDS},
     .help = "a script for bash, zsh or fish",
     .examples = "source <(weft completion bash)\nweft completion zsh >~/.zfunc/_weft\n"
                 "weft completion fish >~/.config/fish/completions/weft.fish"},
    {"complete", "WORD...", .most_args = CLI_ARGS_MAX, .run = cli_complete},
    {"help", "[COMMAND]", .most_args = 2, .run = cli_help, .help = "this, or a command's flags and examples"},
};
const int cli_ncommands = CLI_COUNT(cli_commands);

/* A word of the row is argv's, or its noun's plural. */
static bool is_word(const char *row, size_t n, const char *word, bool noun)
{
    size_t len = strlen(word);
    if (noun && len == n + 1 && word[n] == 's') len = n;
    if (noun && len == n + 2 && !strcmp(word + n, "es")) len = n;
    return len == n && !strncmp(row, word, n);
}

static bool matches(const struct cli_command *k, int argc, char **argv, int *words)
{
    size_t n = strcspn(k->words, " ");
    if (!argc || !is_word(k->words, n, argv[0], true)) return false;
    *words = 1;
    if (!k->words[n]) return true;
    const char *verb = k->words + n + 1;
    bool alone = argc == 1 || argv[1][0] == '-', plural = strlen(argv[0]) > n;
    if (alone && plural && !strcmp(verb, "list")) return true; /* weft adapters */
    *words = 2;
    return argc > 1 && is_word(verb, strlen(verb), argv[1], false);
}

const struct cli_command *cli_command_find(int argc, char **argv, int *words)
{
    for (int i = 0; i < cli_ncommands; i++)
        if (matches(&cli_commands[i], argc, argv, words)) return &cli_commands[i];
    return NULL;
}

bool cli_command_begins(const char *word)
{
    for (int i = 0; i < cli_ncommands; i++)
        if (is_word(cli_commands[i].words, strcspn(cli_commands[i].words, " "), word, true)) return true;
    return false;
}
