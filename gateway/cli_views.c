/* The columns of what the gateway lists and shows, a table per kind of object (gateway/cli_print.h). */
#include "gateway/cli_print.h"

#define VIEW(name, columns) const struct cli_view cli_view_##name = {columns, (int)(sizeof columns / sizeof *columns)}

static const struct cli_column tenant[] = {
    {"name", "name", CLI_TEXT, CLI_IN_BOTH},
    {"id", "id", CLI_TEXT, CLI_IN_BOTH},
    {"disabled", "disabled", CLI_YES, CLI_IN_BOTH},
    {"private", "private", CLI_YES, CLI_IN_BOTH},
    {"class", "class", CLI_TEXT, CLI_IN_BOTH},
    {"weight", "weight", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"deadline ms", "deadline_ms", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"created", "created_at|created", CLI_TIME_CELL, CLI_IN_BOTH},
    {"revision", "revision", CLI_COUNT_CELL, CLI_IN_SHOW},
};
VIEW(tenant, tenant);

static const struct cli_column key[] = {
    {"id", "id", CLI_TEXT, CLI_IN_BOTH},
    {"name", "name", CLI_TEXT, CLI_IN_BOTH},
    {"tenant", "tenant", CLI_TEXT, CLI_IN_SHOW},
    {"roles", "roles|role", CLI_LIST_CELL, CLI_IN_BOTH},
    {"scopes", "scopes", CLI_LIST_CELL, CLI_IN_BOTH},
    {"created", "created_at|created", CLI_TIME_CELL, CLI_IN_BOTH},
    {"created by", "created_by", CLI_TEXT, CLI_IN_SHOW},
    {"last used", "last_used_at|last_used", CLI_TIME_CELL, CLI_IN_BOTH},
    {"expires", "expires_at|expires", CLI_TIME_CELL, CLI_IN_BOTH},
    {"revoked", "revoked_at|revoked", CLI_TIME_CELL, CLI_IN_BOTH},
    {"replaced by", "replaced_by", CLI_TEXT, CLI_IN_BOTH},
    {"revision", "revision", CLI_COUNT_CELL, CLI_IN_SHOW},
};
VIEW(key, key);
VIEW(admin_key, key);

static const struct cli_column adapter[] = {
    {"tenant", "tenant_name|tenant", CLI_TEXT, CLI_IN_BOTH},
    {"name", "name|adapter", CLI_TEXT, CLI_IN_BOTH},
    {"description", "description", CLI_TEXT, CLI_IN_SHOW},
    {"version", "version|latest_version", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"state", "state", CLI_STATE_CELL, CLI_IN_BOTH},
    {"reason", "reason", CLI_TEXT, CLI_IN_SHOW},
    {"tensor", "tensor", CLI_TEXT, CLI_IN_SHOW},
    {"residency", "residency", CLI_TEXT, CLI_IN_BOTH},
    {"pinned", "pinned", CLI_YES, CLI_IN_BOTH},
    {"resident", "resident", CLI_YES, CLI_IN_SHOW},
    {"was cold", "was_cold", CLI_YES, CLI_IN_SHOW},
    {"base", "base|parent", CLI_TEXT, CLI_IN_SHOW},
    {"kind", "kind", CLI_TEXT, CLI_IN_BOTH},
    {"rank", "rank", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"modules", "modules", CLI_LIST_CELL, CLI_IN_SHOW},
    {"scale", "scale", CLI_TEXT, CLI_IN_SHOW},
    {"self-test", "max_error", CLI_TEXT, CLI_IN_SHOW},
    {"size", "bytes", CLI_BYTES_CELL, CLI_IN_BOTH},
    {"requests", "requests", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"created", "created_at|created", CLI_TIME_CELL, CLI_IN_SHOW},
    {"last used", "last_used_at|last_used", CLI_TIME_CELL, CLI_IN_BOTH},
    {"digest", "digest", CLI_SHORT, CLI_IN_LIST},
    {"digest", "digest", CLI_TEXT, CLI_IN_SHOW},
    {"revision", "revision", CLI_COUNT_CELL, CLI_IN_SHOW},
};
VIEW(adapter, adapter);

static const struct cli_column version[] = {
    {"version", "version", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"state", "state", CLI_STATE_CELL, CLI_IN_BOTH},
    {"residency", "residency", CLI_TEXT, CLI_IN_BOTH},
    {"pinned", "pinned", CLI_YES, CLI_IN_BOTH},
    {"kind", "kind", CLI_TEXT, CLI_IN_BOTH},
    {"rank", "rank", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"size", "bytes", CLI_BYTES_CELL, CLI_IN_BOTH},
    {"self-test", "max_error", CLI_TEXT, CLI_IN_BOTH},
    {"requests", "requests", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"created", "created_at|created", CLI_TIME_CELL, CLI_IN_BOTH},
    {"digest", "digest", CLI_SHORT, CLI_IN_BOTH},
    {"reason", "reason", CLI_TEXT, CLI_IN_BOTH},
};
VIEW(version, version);

static const struct cli_column upload[] = {
    {"id", "id", CLI_TEXT, CLI_IN_BOTH},
    {"adapter", "adapter", CLI_TEXT, CLI_IN_BOTH},
    {"state", "state", CLI_STATE_CELL, CLI_IN_BOTH},
    {"reason", "reason", CLI_TEXT, CLI_IN_BOTH},
    {"version", "version", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"expires", "expires_at|expires", CLI_TIME_CELL, CLI_IN_BOTH},
};
VIEW(upload, upload);

static const struct cli_column alias[] = {
    {"name", "name", CLI_TEXT, CLI_IN_BOTH},
    {"targets", "targets", CLI_TARGETS, CLI_IN_BOTH},
    {"policy", "policy", CLI_TEXT, CLI_IN_BOTH},
    {"sticky", "sticky", CLI_TEXT, CLI_IN_BOTH},
    {"system prefix", "system_prefix", CLI_TEXT, CLI_IN_SHOW},
    {"changed", "changed_at|updated_at|changed", CLI_TIME_CELL, CLI_IN_BOTH},
    {"created", "created_at|created", CLI_TIME_CELL, CLI_IN_SHOW},
    {"revision", "revision", CLI_COUNT_CELL, CLI_IN_BOTH},
};
VIEW(alias, alias);

static const struct cli_column engine[] = {
    {"name", "name", CLI_TEXT, CLI_IN_BOTH},
    {"kind", "kind", CLI_TEXT, CLI_IN_BOTH},
    {"base", "base", CLI_TEXT, CLI_IN_BOTH},
    {"state", "state", CLI_STATE_CELL, CLI_IN_BOTH},
    {"now", "status.state", CLI_STATE_CELL, CLI_IN_BOTH},
    {"why", "status.why", CLI_TEXT, CLI_IN_BOTH},
    {"in flight", "status.in_flight", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"capacity", "capacity", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"waiting", "status.waiting", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"running", "status.running", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"kv used", "status.kv_used", CLI_TEXT, CLI_IN_SHOW},
    {"adapters", "status.adapters", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"share", "status.weight", CLI_TEXT, CLI_IN_SHOW},
    {"drained", "status.drained", CLI_YES, CLI_IN_SHOW},
    {"requests", "status.requests", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"lost", "status.lost", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"refused", "status.refused", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"ejections", "status.ejections", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"device", "status.device", CLI_TEXT, CLI_IN_SHOW},
    {"local", "local", CLI_YES, CLI_IN_BOTH},
    {"url", "url", CLI_TEXT, CLI_IN_BOTH},
    {"model", "model", CLI_TEXT, CLI_IN_SHOW},
    {"secret", "has_secret", CLI_YES, CLI_IN_SHOW},
    {"from", "source", CLI_TEXT, CLI_IN_SHOW},
    {"settings", "settings", CLI_TEXT, CLI_IN_SHOW},
    {"created", "created_at|created", CLI_TIME_CELL, CLI_IN_SHOW},
    {"revision", "revision", CLI_COUNT_CELL, CLI_IN_SHOW},
};
VIEW(engine, engine);

static const struct cli_column event[] = {
    {"seq", "seq|id", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"time", "created_at|created|t", CLI_TIME_CELL, CLI_IN_BOTH},
    {"tenant", "tenant_name|tenant", CLI_TEXT, CLI_IN_BOTH},
    {"type", "type", CLI_TEXT, CLI_IN_BOTH},
    {"of", "target", CLI_TEXT, CLI_IN_BOTH},
    {"detail", "detail|data", CLI_JSON_CELL, CLI_IN_BOTH},
};
VIEW(event, event);

static const struct cli_column price[] = {
    {"id", "id", CLI_TEXT, CLI_IN_BOTH},
    {"base", "base", CLI_TEXT, CLI_IN_BOTH},
    {"tenant", "tenant_name|tenant", CLI_TEXT, CLI_IN_BOTH},
    {"adapter", "adapter", CLI_TEXT, CLI_IN_BOTH},
    {"valid from", "valid_from", CLI_TIME_CELL, CLI_IN_BOTH},
    {"prompt/M", "prompt_nano", CLI_PRICE_CELL, CLI_IN_BOTH},
    {"cached/M", "cached_nano", CLI_PRICE_CELL, CLI_IN_BOTH},
    {"output/M", "output_nano", CLI_PRICE_CELL, CLI_IN_BOTH},
    {"created", "created_at|created", CLI_TIME_CELL, CLI_IN_SHOW},
};
VIEW(price, price);

static const struct cli_column audit[] = {
    {"seq", "seq", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"time", "created_at|created", CLI_TIME_CELL, CLI_IN_BOTH},
    {"actor", "actor", CLI_TEXT, CLI_IN_BOTH},
    {"from", "ip|peer", CLI_TEXT, CLI_IN_BOTH},
    {"action", "action", CLI_TEXT, CLI_IN_BOTH},
    {"of", "target", CLI_TEXT, CLI_IN_BOTH},
    {"request", "request_id|request", CLI_TEXT, CLI_IN_SHOW},
    {"before", "before", CLI_JSON_CELL, CLI_IN_LIST},
    {"after", "after", CLI_JSON_CELL, CLI_IN_LIST},
};
VIEW(audit, audit);

static const struct cli_column model[] = {
    {"id", "id", CLI_TEXT, CLI_IN_BOTH},
    {"parent", "parent", CLI_TEXT, CLI_IN_BOTH},
    {"owner", "owned_by", CLI_TEXT, CLI_IN_BOTH},
    {"created", "created", CLI_TIME_CELL, CLI_IN_BOTH},
};
VIEW(model, model);

static const struct cli_column request[] = {
    {"id", "id", CLI_TEXT, CLI_IN_BOTH},
    {"time", "created_at", CLI_TIME_CELL, CLI_IN_BOTH},
    {"tenant", "tenant", CLI_TEXT, CLI_IN_BOTH},
    {"model", "model", CLI_TEXT, CLI_IN_BOTH},
    {"state", "state", CLI_STATE_CELL, CLI_IN_BOTH},
    {"status", "http_status", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"input", "input_tokens", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"cached", "input_cached_tokens", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"output", "output_tokens", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"cost", "cost_nano", CLI_MONEY_CELL, CLI_IN_BOTH},
    {"engine", "engine", CLI_TEXT, CLI_IN_BOTH},
    {"cold", "cold", CLI_YES, CLI_IN_BOTH},
};
VIEW(request, request);

static const struct cli_column validation[] = {
    {"valid", "valid", CLI_YES, CLI_IN_BOTH},      {"reason", "error.message", CLI_TEXT, CLI_IN_BOTH},
    {"code", "error.code", CLI_TEXT, CLI_IN_BOTH}, {"tensor", "error.tensor|tensor", CLI_TEXT, CLI_IN_BOTH},
    {"base", "base", CLI_TEXT, CLI_IN_BOTH},       {"kind", "kind", CLI_TEXT, CLI_IN_BOTH},
    {"rank", "rank", CLI_COUNT_CELL, CLI_IN_BOTH}, {"modules", "modules", CLI_LIST_CELL, CLI_IN_BOTH},
    {"scale", "scale", CLI_TEXT, CLI_IN_BOTH},     {"size", "bytes", CLI_BYTES_CELL, CLI_IN_BOTH},
    {"memory", "memory", CLI_TEXT, CLI_IN_BOTH},   {"unused", "unused", CLI_LIST_CELL, CLI_IN_BOTH},
    {"digest", "digest", CLI_TEXT, CLI_IN_BOTH},
};
VIEW(validation, validation);
