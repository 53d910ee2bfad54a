/* settings: the table behind gateway/settings.h, and what a row of it can't say. */
#include "gateway/settings.h"
#include "base/log.h"
#include <string.h>

const struct conf_row settings_rows[] = {
#define X(field, type, deflt, min, max, env, help)                                                                     \
    {#field, CONF_##type, deflt, min, max, env, help, offsetof(struct settings, field)},
#include "schema/gateway_settings.def"
#undef X
};
const size_t settings_nrows = sizeof settings_rows / sizeof *settings_rows;

/* Read anew each time they are used. All others are used up at the start: addresses, threads, the engine's arguments. */
static const char *const live[] = {
    "max_body",  "max_adapter_bytes", "max_adapters", "max_rank",     "connect_ms",   "first_byte_ms",
    "idle_ms",   "total_ms",          "keepalive_ms", "strict",       "drain_ms",     "linger_ms",
    "log_level", "engine_keep",       "max_uploads",  "upload_ttl_s", "import_hosts", "import_s",
    "import_slow_s",
    "dashboard",
    "webhook_hosts", "webhook_retry_s", "webhook_lag_rows", "webhook_lag_s",
    "access_log", "slow_ms", "otlp_percent",
    "max_waiting", "waiting_high", "memory_high", "disk_reserve",
    "archive_months", "archive_keep_months", "backup_every_h", "backup_keep", "capture_mb",
};

/* What a name ends in when its value is a secret itself, not the path of one. */
static const char *const secret[] = {"_key", "_token", "_secret", "_password"};

bool setting_is_live(const struct conf_row *row)
{
    for (size_t i = 0; i < sizeof live / sizeof *live; i++)
        if (strcmp(live[i], row->name) == 0) return true;
    return false;
}

bool setting_is_secret(const struct conf_row *row)
{
    size_t n = strlen(row->name);
    for (size_t i = 0; i < sizeof secret / sizeof *secret; i++) {
        size_t k = strlen(secret[i]);
        if (row->type == CONF_STR && n > k && strcmp(row->name + n - k, secret[i]) == 0) return true;
    }
    return false;
}

int settings_check(const struct settings *s, struct err *e)
{
    if (log_level_parse(s->log_level) < 0)
        return err_set(e, ERR_USAGE, "log_level '%s' is not one of debug, info, warn, error", s->log_level);
    if (!*s->data) return err_set(e, ERR_USAGE, "no data folder: set --data or WEFT_DATA");
    if (*s->otlp_url && strncmp(s->otlp_url, "http://", 7) != 0 && strncmp(s->otlp_url, "https://", 8) != 0)
        return err_set(e, ERR_USAGE, "otlp_url must begin with http:// or https://");
    if (strcmp(s->ack, "") != 0 && strcmp(s->ack, "async") != 0 && strcmp(s->ack, "durable") != 0)
        return err_set(e, ERR_USAGE, "ack '%s' is not one of async, durable", s->ack);
    return 0;
}
