/* All commands of `weft`, a row each: what it is called, what it takes, the one request that it is (cli_plain.c) or the
 * function that does more (cli_verbs.h). Help, completion and docs/CLI.md follow this table. */
#include "gateway/cli/cli_command.h"
#include "gateway/cli/cli_config.h"
#include "gateway/cli/cli_verbs.h"
#include <string.h>

#define F(f) CLI_BIT(CLI_##f##_FLAG)
#define TENANT_FIELDS (F(WEIGHT) | F(PRIVATE) | F(CLASS) | F(DEADLINE))
#define KEY_FIELDS (F(NAME) | F(ROLE) | F(SCOPE) | F(EXPIRES))
#define IMPORT_FIELDS (F(DESCRIPTION) | F(SHA256) | F(CONFIG_URL) | F(WEIGHTS_URL))
#define ENGINE_FIELDS (F(KIND) | F(BASE) | F(MODEL) | F(LOCAL) | F(CAPACITY) | F(SECRET) | F(SETTING))
#define SCHEDULE_FIELDS (F(EVERY) | F(FORMAT) | F(TENANT) | F(SINCE))
#define CAPTURE_FILTER (F(ALIAS) | F(OF) | F(RATING_BELOW) | F(RATING_ABOVE))
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

    {"event list", "", .takes = F(TENANT) | PAGING | F(FOLLOW) | F(OWN) | F(INTERVAL), .query = F(TENANT), .run = cli_event_list,
     ADMIN("GET", "/admin/v1/events"), .own_path = "/v1/events", LIST(event),
     .help = "what happened: states of adapters, budgets, engines",
     .examples = "weft event list --follow\nweft event list --tenant acme\nweft event list --own --after 120 --json"},

    {"quarantine list", "", .takes = F(TENANT) | F(OWN) | PAGING, .query = F(TENANT), ADMIN("GET", "/admin/v1/quarantine"),
     .own_path = "/v1/quarantine", LIST(quarantine), .help = "requests that are refused because engines were lost with them"},
    {"quarantine lift", "ID", ONE(1), .takes = F(OWN), ADMIN("DELETE", "/admin/v1/quarantine/{0}"),
     .own_path = "/v1/quarantine/{0}", DONE("is lifted"), .help = "let such a request be served again"},

    {"feedback give", "REQUEST RATING", ONE(2), .takes = F(LABEL) | F(COMMENT), .body = F(LABEL) | F(COMMENT), .run = cli_feedback_give,
     TENANT("POST", "/v1/feedback"), SHOW(feedback), .names = {CLI_ANY, CLI_WORDS},
     .help = "say how good an answer was: up, down, or a number from -1 to 1; REQUEST is its x-request-id, said again it replaces",
     .examples = "weft feedback give 019ab1c2-0000-7000-8000-000000000000 down --label wrong-queue\n"
                 "weft feedback give 019ab1c2-0000-7000-8000-000000000000 0.5 --comment 'right, but too long'"},
    {"feedback list", "", .takes = F(ALL) | F(TENANT) | F(ALIAS) | PAGING, .query = F(TENANT) | F(ALIAS), TENANT("GET", "/v1/feedback"),
     LIST(feedback), .most_rows = 100, .help = "what was said of answers, the newest request first"},
    {"feedback show", "REQUEST", ONE(1), TENANT("GET", "/v1/feedback/{0}"), SHOW(feedback), .help = "what was said of one answer"},
    {"feedback rm", "REQUEST", ONE(1), TENANT("DELETE", "/v1/feedback/{0}"), DONE("is taken back"), .help = "take it back"},

    /* --- webhooks --- */
    {"webhook create", "NAME URL [FIELD=VALUE...]", .least_args = 2, .most_args = CLI_ARGS_MAX,
     .takes = F(TENANT) | F(OWN) | F(IDEMPOTENCY_KEY), .run = cli_webhook_create, ADMIN("POST", "/admin/v1/webhooks"),
     .own_path = "/v1/webhooks",
     .help = "send usage (usage=no: none) and events (events=version.,budget. or *) to a URL; the secret is shown once",
     .examples = "weft webhook create billing https://billing.example/weft\n"
                 "weft webhook create watch https://chat.example/hook usage=no events=budget.,version.failed\n"
                 "SECRET=$(weft webhook create mine https://acme.example/usage --own)"},
    {"webhook list", "", .takes = F(TENANT) | F(OWN) | PAGING, .query = F(TENANT), ADMIN("GET", "/admin/v1/webhooks"),
     .own_path = "/v1/webhooks", LIST(webhook), .help = "webhooks and how far behind they are"},
    {"webhook show", "ID", ONE(1), .takes = F(OWN), ADMIN("GET", "/admin/v1/webhooks/{0}"),
     .own_path = "/v1/webhooks/{0}", SHOW(webhook), .help = "one webhook, without its secret"},
    {"webhook set", "ID FIELD=VALUE...", .least_args = 2, .most_args = CLI_ARGS_MAX, .takes = F(OWN) | F(IF_MATCH),
     .run = cli_webhook_set, ADMIN("PATCH", "/admin/v1/webhooks/{0}"), .own_path = "/v1/webhooks/{0}",
     .help = "change name, url, usage, events, authorization (from stdin: authorization=-)",
     .examples = "weft webhook set ID url=https://billing2.example/weft events=none\n"
                 "weft webhook set ID authorization=- <token-file"},
    {"webhook rotate", "ID", ONE(1), .takes = F(OWN) | F(GRACE) | F(IDEMPOTENCY_KEY), .body = F(GRACE),
     .run = cli_webhook_rotate, ADMIN("POST", "/admin/v1/webhooks/{0}/rotate"),
     .own_path = "/v1/webhooks/{0}/rotate", .help = "a new secret; the old one signs as well until the grace is over"},
#define WEBHOOK(verb, what)                                                                                            \
    {                                                                                                                  \
        "webhook " verb, "ID", ONE(1), .takes = F(OWN), ADMIN("POST", "/admin/v1/webhooks/{0}/" verb),                 \
            .own_path = "/v1/webhooks/{0}/" verb, SHOW(webhook), .help = what                                          \
    }
    WEBHOOK("pause", "send nothing for a while; what is settled waits"),
    WEBHOOK("resume", "send again; one that was failing also gets what it missed"),
    {"webhook test", "ID", ONE(1), .takes = F(OWN), ADMIN("POST", "/admin/v1/webhooks/{0}/test"),
     .own_path = "/v1/webhooks/{0}/test", SHOW(webhook_test), .help = "send one event now and say how it went"},
    {"webhook redeliver", "ID FIELD=VALUE", .least_args = 2, .most_args = 3, .takes = F(OWN) | F(IDEMPOTENCY_KEY),
     .run = cli_webhook_redeliver, ADMIN("POST", "/admin/v1/webhooks/{0}/redeliver"),
     .own_path = "/v1/webhooks/{0}/redeliver", SHOW(webhook),
     .help = "send once more: from=WHEN [until=WHEN], or events after_event=SEQ; ids stay the same",
     .examples = "weft webhook redeliver ID from=2027-01-31\nweft webhook redeliver ID from=3d until=1d   # ago\n"
                 "weft webhook redeliver ID after_event=120"},
    {"webhook rm", "ID", ONE(1), .takes = F(OWN) | F(IF_MATCH), ADMIN("DELETE", "/admin/v1/webhooks/{0}"),
     .own_path = "/v1/webhooks/{0}", DONE("is removed"), .help = "remove a webhook"},

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
    {"adapter idle", "", .takes = F(DAYS) | F(ALL) | F(TENANT) | F(LIMIT), .run = cli_adapter_idle,
     .help = "versions that were not used for --days (30), the largest first; with --all those of all tenants",
     .examples = "weft adapter idle --days 90\nweft adapter idle --all --limit 20"},
    {"adapter rm", "NAME[@VERSION]", ONE(1), .takes = F(IF_MATCH), TENANT("DELETE", "/v1/adapters/{v0}"),
     DONE("is removed"), .names = {CLI_ADAPTERS}, .help = "remove an adapter, or one version of it"},

    {"alias list", "", .takes = PAGING, TENANT("GET", "/v1/aliases"), LIST(alias),
     .help = "names that clients call, and where they lead"},
    {"alias show", "NAME", ONE(1), TENANT("GET", "/v1/aliases/{0}"), SHOW(alias), .names = {CLI_ALIASES},
     .help = "one alias"},
    {"alias set", "NAME TARGET[=SHARE%],...", .least_args = 2, .most_args = CLI_ARGS_MAX,
     .takes = F(POLICY) | F(STICKY) | F(SYSTEM_PREFIX) | F(PROMPT_POLICY) | F(EVALUATION) | F(ROUTING) | F(CAPTURE) | F(CREATE) | F(IF_MATCH),
     .body = F(POLICY) | F(STICKY) | F(SYSTEM_PREFIX) | F(PROMPT_POLICY) | F(EVALUATION) | F(ROUTING) | F(CAPTURE), .run = cli_alias_set, TENANT("PUT", "/v1/aliases/{0}"),
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

    /* --- captured conversations --- */
    {"capture list", "", .takes = F(ALIAS) | PAGING, .query = F(ALIAS), TENANT("GET", "/v1/captures"), LIST(capture),
     .help = "conversations that aliases with --capture kept, the newest first; without their texts"},
    {"capture show", "ID", ONE(1), TENANT("GET", "/v1/captures/{0}"), SHOW(capture), .help = "one of them; --json has the texts"},
    {"capture summary", "", TENANT("GET", "/v1/captures/summary"), SHOW(capture_summary), .help = "how many there are, and how large"},
    {"capture stop", "", TENANT("PUT", "/v1/captures/stop"), .fixed = "{\"stopped\":true}", SHOW(capture_summary),
     .help = "keep nothing from now on, whatever aliases say; what is there stays until it expires or is removed"},
    {"capture resume", "", TENANT("PUT", "/v1/captures/stop"), .fixed = "{\"stopped\":false}", SHOW(capture_summary), .help = "the end of the stop"},
    {"capture rm", "ID", ONE(1), TENANT("DELETE", "/v1/captures/{0}"), DONE("is removed"), .help = "remove one, from the disk too"},
    {"capture clear", "", .takes = F(ALIAS), .query = F(ALIAS), TENANT("DELETE", "/v1/captures"), DONE("captures are removed"), .help = "remove all, or those of --alias"},
    {"capture export", "[FILE]", .most_args = 1, .takes = CAPTURE_FILTER | F(ANSWER) | F(DISAGREEMENTS) | F(CUT), .query = CAPTURE_FILTER | F(ANSWER) | F(DISAGREEMENTS) | F(CUT),
     .run = cli_capture_export, .names = {CLI_FILE_NAME}, TENANT("GET", "/v1/captures/export"),
     .help = "a training set: JSON lines {\"messages\", \"weft\"} into FILE (-: stdout)",
     .examples = "weft capture export train.jsonl --alias support --of big@3\nweft capture export next.jsonl --rating-below 0 --answer big@3\n"
                 "weft capture export next.jsonl --disagreements big@3,small@1"},
    {"capture compare", "", .takes = F(ALIAS) | F(OF) | F(WITH) | F(LIMIT) | F(MAX_TOKENS), .needs = F(WITH), .run = cli_capture_compare,
     .help = "ask another version the same, on the tenant's account, and keep its answers beside (the newest 100, or --limit)",
     .examples = "weft capture compare --alias support --with small@1 --limit 200"},

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
    {"engine-token create", "ENGINE", ONE(1), .takes = F(GRACE) | F(IDEMPOTENCY_KEY), .body = F(GRACE),
     ADMIN("POST", "/admin/v1/engines/{0}/token"), .shape = CLI_SHOW_SECRET, .names = {CLI_ENGINES},
     .help = "a token by which an engine elsewhere fetches adapters (its pull_token_file); shown once, alone on stdout",
     .examples = "(umask 077 && weft engine-token create far >token)\n"
                 "weft engine-token create far --grace 1h      # the one before works for an hour more"},
    {"engine-token list", "ENGINE", ONE(1), .run = cli_engine_tokens, ADMIN("GET", "/admin/v1/engines/{0}/token"),
     LIST(engine_token), .names = {CLI_ENGINES}, .help = "an engine's tokens, without their text: the newest and, in its grace, the one before"},
    {"engine-token revoke", "ENGINE", ONE(1), ADMIN("DELETE", "/admin/v1/engines/{0}/token"), DONE("has no token any more"),
     .names = {CLI_ENGINES}, .help = "end all tokens of an engine, at once"},

    {"settings", "", .run = cli_settings, .help = "the gateway's settings, and where each is from"},
    {"reload", "", .run = cli_reload, .help = "read the settings again, as at SIGHUP"},
    {"audit list", "", .takes = PAGING, ADMIN("GET", "/admin/v1/audit"), LIST(audit), .most_rows = 100,
     .help = "who changed what, newest first"},
    {"audit verify", "", .run = cli_audit_verify, .help = "walk the audit's chain: was a row changed or dropped"},

    {"backup create", "", .takes = F(NO_WAIT) | F(TIMEOUT), .run = cli_backup_create,
     .help = "one state of everything, while the gateway serves; waits until it is made and verified",
     .examples = "weft backup create\nweft backup create --no-wait"},
    {"backup list", "", .takes = PAGING, ADMIN("GET", "/admin/v1/backups"), LIST(backup), .help = "backups, newest first"},
    {"backup show", "ID", ONE(1), ADMIN("GET", "/admin/v1/backups/{0}"), SHOW(backup), .help = "one backup"},
    {"backup verify", "ID", ONE(1), .takes = F(NO_WAIT) | F(TIMEOUT), .run = cli_backup_verify,
     .help = "read all of it again, open a copy, check its books"},
    {"backup rm", "ID", ONE(1), ADMIN("DELETE", "/admin/v1/backups/{0}"), DONE("is removed"), .help = "remove a backup"},
    {"standby status", "", ADMIN("GET", "/admin/v1/standby"), LIST(standby), .help = "the standbys that follow this gateway, and how far they are behind"},

    /* --- use --- */
    {"model list", "", .run = cli_model_list, .help = "what the tenant can call"},
    {"model show", "NAME", ONE(1), TENANT("GET", "/v1/models/{0}"), SHOW(model), .names = {CLI_MODELS},
     .help = "one of them"},
    {"chat", "[PROMPT]", .most_args = 1, .takes = F(MODEL) | F(SYSTEM) | F(MAX_TOKENS) | F(TEMPERATURE),
     .needs = F(MODEL), .run = cli_chat, .help = "ask; without PROMPT each line of stdin is a turn of one conversation",
     .examples = "weft chat --model sql 'How many orders were paid in 2023?'\nweft chat --model sql --temperature 0 "
                 "<questions.txt"},
    {"usage top", "[WHAT]", .most_args = 1, .takes = F(DAYS) | F(SINCE) | F(UNTIL) | F(SORT) | F(LIMIT) | F(ALL) | F(TENANT) | F(ADAPTER), .run = cli_usage_top,
     .names = {CLI_WORDS},
     .help = "who used most, and its change, of the days that are over against as many before: WHAT is key, adapter (the default), version, model, base, endpoint; with --all also tenant; of --adapter NAME version, base",
     .examples = "weft usage top model --sort cost --days 7\nweft usage top tenant --all --sort tokens --limit 20\nweft usage top key --tenant acme\n"
                 "weft usage top tenant --all --since 2026-11-21 --until 2026-11-22   # a day\n"
                 "weft usage top --adapter sql --days 30   # its versions"},
    {"usage latency", "[KIND]", .most_args = 1, .takes = F(DAYS) | F(SINCE) | F(UNTIL) | F(ALL) | F(TENANT), .run = cli_usage_latency, .names = {CLI_WORDS},
     .help = "how long it took, by the hour: KIND is ttft (the default), tpot (per token) or duration; two days where no time is named",
     .examples = "weft usage latency\nweft usage latency --all --since 2026-11-21 --until 2026-11-22\nweft usage latency tpot --tenant acme --days 7"},
    {"usage errors", "", .takes = F(ALL) | F(TENANT) | F(STATE) | PAGING, .query = F(TENANT) | F(STATE), TENANT("GET", "/v1/stats/errors"), LIST(request),
     .most_rows = 50, .help = "the last requests that did not complete",
     .examples = "weft usage errors\nweft usage errors --all --state timeout --limit 200"},
    {"usage verify", "", .run = cli_usage_verify,
     .help = "do the sums equal the rows, to the integer, and is the audit's chain whole"},
    {"usage", "", .takes = F(DAYS) | F(GROUP_BY) | F(ALL) | F(TENANT), .run = cli_usage,
     .help = "requests and tokens per day; with --all those of all tenants",
     .examples = "weft usage --days 30 --group-by model,key\nweft usage --all --group-by tenant"},
    {"costs", "", .takes = F(DAYS) | F(GROUP_BY) | F(ALL) | F(TENANT), .run = cli_costs,
     .help = "what usage cost per day, by line item; with --all by tenant",
     .examples = "weft costs --days 30\nweft costs --all --group-by tenant,line_item\nweft costs --tenant acme --group-by adapter"},
    {"invoice", "[MONTH]", .most_args = 1, .takes = F(ALL) | F(TENANT), .run = cli_invoice, .names = {CLI_WORDS},
     .help = "a month as an invoice (2027-01; this month so far); with --tenant of one, with --all the totals of all",
     .examples = "weft invoice 2027-01\nweft invoice 2027-01 --tenant acme --json\nweft invoice --all"},
    {"request list", "", .takes = F(ALL) | F(TENANT) | F(STATE) | F(ADAPTER) | F(MODEL) | F(UNTIL) | PAGING,
     .query = F(TENANT) | F(STATE) | F(ADAPTER) | F(MODEL) | F(UNTIL), TENANT("GET", "/v1/usage/requests"), LIST(request), .most_rows = 100,
     .help = "single requests, newest first", .examples = "weft request list --state client_abort --adapter sql@2\n"
                 "weft request list --all --until 2026-11-21T11:00:00Z --limit 50   # which of them were cold"},
    {"request show", "ID", ONE(1), .takes = F(ALL), TENANT("GET", "/v1/usage/requests/{0}"), SHOW(request),
     .help = "one request, with its times"},
    {"now", "", .takes = F(OWN) | F(TENANT), .query = F(TENANT), ADMIN("GET", "/admin/v1/now"), .own_path = "/v1/now",
     SHOW(now), .help = "requests at this moment, times of the last minute, sums of today and this month",
     .examples = "weft now\nweft now --own\nweft now --tenant acme --json | jq .ttft_ms"},
    {"canary", "ALIAS", ONE(1), .takes = F(TENANT), .run = cli_canary, .names = {CLI_ALIASES},
     .help = "an alias's targets beside each other since its last change: is one better or worse",
     .examples = "weft canary chat\nweft canary chat --tenant acme"},
    {"eval list", "", .takes = F(ALL) | F(TENANT) | F(ALIAS) | F(ADAPTER) | F(RULE) | PAGING, .query = F(TENANT) | F(ALIAS) | F(ADAPTER) | F(RULE),
     TENANT("GET", "/v1/evaluations"), LIST(evaluation), .help = "scores of single answers, newest first",
     .examples = "weft eval list --alias chat --rule overall\nweft eval list --all --tenant acme --limit 20"},
    {"eval summary", "[ALIAS]", .most_args = 1, .takes = F(TENANT) | F(ADAPTER) | F(RULE) | F(DAYS), .run = cli_eval_summary, .names = {CLI_ALIASES},
     .help = "scores of answers by version and rule, of the last days",
     .examples = "weft eval summary chat\nweft eval summary --tenant acme --rule overall --days 30"},
    {"ledger health", "", .run = cli_ledger_health,
     .help = "is usage recorded, checked, archived and passed on, and do the engines count the same"},
    {"export", "[FILE]", .most_args = 1, .takes = F(FORMAT) | F(SINCE) | F(UNTIL) | F(DAYS) | F(ALL) | F(TENANT) | F(AFTER) | F(FRESH) | F(PARTIAL),
     .run = cli_export, .names = {CLI_FILE_NAME},
     .help = "usage rows into FILE, or to stdout; the same command again goes on where the file ends",
     .examples = "weft export usage.csv --since 2026-11-01 --until 2026-12-01\nweft export usage.csv      # later: what came since\n"
                 "weft export focus.csv --format focus --all\nweft export --format jsonl --days 1 | jq .cost_nano"},
    {"export-schedule list", "", .takes = PAGING, ADMIN("GET", "/admin/v1/export-schedules"), LIST(schedule),
     .help = "files that the gateway writes by itself"},
    {"export-schedule show", "NAME", ONE(1), ADMIN("GET", "/admin/v1/export-schedules/{0}"), SHOW(schedule), .help = "one schedule and how far it is"},
    {"export-schedule create", "NAME", ONE(1), .takes = SCHEDULE_FIELDS | F(IDEMPOTENCY_KEY), .needs = F(EVERY), .body = SCHEDULE_FIELDS,
     ADMIN("POST", "/admin/v1/export-schedules"), .fixed = "{\"name\":\"{0}\"}", SHOW(schedule),
     .help = "write a file for each hour, day or month into the folder NAME",
     .examples = "weft export-schedule create billing --every day --format focus\n"
                 "weft export-schedule create acme --every month --tenant acme --since 2026-01-01"},
    {"export-schedule set", "NAME", ONE(1), .takes = F(SINCE) | F(IF_MATCH), .needs = F(SINCE), .body = F(SINCE),
     ADMIN("PATCH", "/admin/v1/export-schedules/{0}"), SHOW(schedule), .help = "go on with the period of --since; files that are whole stay"},
    {"export-schedule pause", "NAME", ONE(1), ADMIN("PATCH", "/admin/v1/export-schedules/{0}"), .fixed = "{\"state\":\"paused\"}", SHOW(schedule),
     .help = "write no further file"},
    {"export-schedule resume", "NAME", ONE(1), ADMIN("PATCH", "/admin/v1/export-schedules/{0}"), .fixed = "{\"state\":\"enabled\"}",
     SHOW(schedule), .help = "go on; what was missed is caught up"},
    {"export-schedule rm", "NAME", ONE(1), .takes = F(IF_MATCH), ADMIN("DELETE", "/admin/v1/export-schedules/{0}"), DONE("is removed"),
     .help = "remove a schedule; its files stay"},
    {"top", "", .takes = F(ONCE) | F(INTERVAL) | F(COUNT) | F(SORT) | F(LIMIT), .run = cli_top,
     .help = "live: engines, tenants, adapters; q ends, s sorts, p pauses",
     .examples = "weft top\nweft top --once\nweft top --json --once | jq .engines"},

    /* --- this machine --- */
    {"doctor", "", .takes = F(SETTINGS) | F(DATA), .run = cli_doctor,
     .help = "check the set-up and say what to do; exit status 1 where a check failed",
     .examples = "weft doctor\nweft doctor --settings /etc/weft/gateway.conf --data /var/lib/weft"},
    {"plan", "PROFILE [NAME=VALUE...]", .least_args = 1, .most_args = CLI_ARGS_MAX, .takes = F(EXPLAIN), .run = cli_plan,
     .names = {CLI_FILE_NAME, CLI_WORDS},
     .help = "engines, settings, memory, times and cost for given traffic, from what weft-engine calibrate measured",
     .examples = "weft-engine calibrate --model base.gguf --out here.conf\n"
                 "weft plan here.conf requests_minute=300 peak_minute=900 adapters=500 ttft_ms=500 tpot_ms=50 price_hour=0.20\n"
                 "weft plan here.conf adapters=500 engines=2 --explain"},
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
