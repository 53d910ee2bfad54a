/* The columns of what the gateway lists and shows, a table per kind of object (gateway/cli/cli_print.h). */
#include "gateway/cli/cli_print.h"

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
    {"prompt policy", "prompt_policy", CLI_JSON_CELL, CLI_IN_SHOW},
    {"evaluation", "evaluation", CLI_JSON_CELL, CLI_IN_SHOW},
    {"routing", "routing", CLI_JSON_CELL, CLI_IN_SHOW},
    {"capture", "capture", CLI_JSON_CELL, CLI_IN_SHOW},
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

static const struct cli_column engine_token[] = {
    {"id", "id", CLI_TEXT, CLI_IN_LIST},
    {"created", "created_at", CLI_TIME_CELL, CLI_IN_LIST},
    {"ends", "expires_at", CLI_TIME_CELL, CLI_IN_LIST},
    {"last used", "last_used_at", CLI_TIME_CELL, CLI_IN_LIST},
};
VIEW(engine_token, engine_token);

static const struct cli_column event[] = {
    {"seq", "seq|id", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"time", "created_at|created|t", CLI_TIME_CELL, CLI_IN_BOTH},
    {"tenant", "tenant_name|tenant", CLI_TEXT, CLI_IN_BOTH},
    {"type", "type", CLI_TEXT, CLI_IN_BOTH},
    {"of", "target", CLI_TEXT, CLI_IN_BOTH},
    {"detail", "detail|data", CLI_JSON_CELL, CLI_IN_BOTH},
};
VIEW(event, event);

static const struct cli_column quarantine[] = {
    {"id", "id", CLI_TEXT, CLI_IN_BOTH},
    {"tenant", "tenant", CLI_TEXT, CLI_IN_BOTH},
    {"model", "model", CLI_TEXT, CLI_IN_BOTH},
    {"adapter", "adapter", CLI_TEXT, CLI_IN_BOTH},
    {"crashes", "crashes", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"since", "created_at", CLI_TIME_CELL, CLI_IN_BOTH},
    {"until", "expires_at", CLI_TIME_CELL, CLI_IN_BOTH},
};
VIEW(quarantine, quarantine);

static const struct cli_column evaluation[] = {
    {"seq", "seq", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"time", "created_at", CLI_TIME_CELL, CLI_IN_BOTH},
    {"tenant", "tenant", CLI_TEXT, CLI_IN_BOTH},
    {"alias", "alias", CLI_TEXT, CLI_IN_BOTH},
    {"adapter", "adapter|base", CLI_TEXT, CLI_IN_BOTH},
    {"version", "version", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"rule", "rule", CLI_TEXT, CLI_IN_BOTH},
    {"score", "score", CLI_JSON_CELL, CLI_IN_BOTH},
    {"passed", "passed", CLI_YES, CLI_IN_BOTH},
    {"note", "note", CLI_TEXT, CLI_IN_BOTH},
    {"request", "request_id", CLI_TEXT, CLI_IN_BOTH},
};
VIEW(evaluation, evaluation);

static const struct cli_column feedback[] = {
    {"request", "request_id", CLI_TEXT, CLI_IN_BOTH},   {"tenant", "tenant", CLI_TEXT, CLI_IN_BOTH}, {"said", "created_at", CLI_TIME_CELL, CLI_IN_BOTH},
    {"model", "model", CLI_TEXT, CLI_IN_BOTH},          {"adapter", "adapter", CLI_TEXT, CLI_IN_BOTH}, {"version", "version", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"rating", "rating", CLI_TEXT, CLI_IN_BOTH},        {"label", "label", CLI_TEXT, CLI_IN_BOTH},   {"comment", "comment", CLI_TEXT, CLI_IN_BOTH},
    {"key", "api_key_id", CLI_TEXT, CLI_IN_SHOW},
};
VIEW(feedback, feedback);

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
    {"adapter", "adapter", CLI_TEXT, CLI_IN_SHOW},
    {"version", "version", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"alias", "alias", CLI_TEXT, CLI_IN_SHOW},
    {"key", "api_key_id", CLI_TEXT, CLI_IN_SHOW},
    {"endpoint", "endpoint", CLI_TEXT, CLI_IN_SHOW},
    {"produced", "produced_tokens", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"prompt before", "policy_before_tokens", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"prompt after", "policy_after_tokens", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"route", "route", CLI_JSON_CELL, CLI_IN_SHOW},
    {"first token ms", "ttft_ms", CLI_TEXT, CLI_IN_SHOW},
    {"per token ms", "tpot_ms", CLI_TEXT, CLI_IN_SHOW},
    {"duration ms", "duration_ms", CLI_TEXT, CLI_IN_SHOW},
};
VIEW(request, request);

static const struct cli_column now[] = {
    {"in flight", "in_flight", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"waiting", "waiting", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"tokens/s", "tokens_per_s", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"requests/s", "requests_per_s", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"errors", "errors", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"refused", "refused", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"first token p50 ms", "ttft_ms.p50", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"first token p99 ms", "ttft_ms.p99", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"per token p50 ms", "tpot_ms.p50", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"per token p99 ms", "tpot_ms.p99", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"duration p50 ms", "duration_ms.p50", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"duration p99 ms", "duration_ms.p99", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"requests today", "today.requests", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"input today", "today.input_tokens", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"output today", "today.output_tokens", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"cost today", "today.cost_nano", CLI_MONEY_CELL, CLI_IN_SHOW},
    {"requests this month", "month.requests", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"cost this month", "month.cost_nano", CLI_MONEY_CELL, CLI_IN_SHOW},
    {"engines ready", "engines.ready", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"of", "engines.total", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"running there", "engines.running", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"waiting there", "engines.waiting", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"adapters resident", "adapters_resident", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"pressure", "pressure.level", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"gives up", "pressure.name", CLI_TEXT, CLI_IN_SHOW},
    {"because of", "pressure.by", CLI_TEXT, CLI_IN_SHOW},
};
VIEW(now, now);
static const struct cli_column backup[] = {
    {"id", "id", CLI_TEXT, CLI_IN_BOTH},
    {"state", "state", CLI_STATE_CELL, CLI_IN_BOTH},
    {"error", "error", CLI_TEXT, CLI_IN_BOTH},
    {"created", "created_at", CLI_TIME_CELL, CLI_IN_BOTH},
    {"size", "bytes", CLI_BYTES_CELL, CLI_IN_BOTH},
    {"of it shared", "linked_bytes", CLI_BYTES_CELL, CLI_IN_BOTH},
    {"files", "files", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"adapters", "adapters", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"months in files", "archived_months", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"took ms", "took_ms", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"schema", "schema", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"program", "program", CLI_TEXT, CLI_IN_SHOW},
    {"verifying", "verifying", CLI_YES, CLI_IN_SHOW},
    {"verified", "verification.verified_at", CLI_TIME_CELL, CLI_IN_BOTH},
    {"good", "verification.good", CLI_YES, CLI_IN_BOTH},
    {"requests", "verification.requests", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"what is wrong", "verification.reason", CLI_TEXT, CLI_IN_SHOW},
    {"digest", "sha256", CLI_SHORT, CLI_IN_LIST},
    {"digest", "sha256", CLI_TEXT, CLI_IN_SHOW},
};
VIEW(backup, backup);

static const struct cli_column standby[] = {
    {"key", "key", CLI_TEXT, CLI_IN_BOTH},
    {"from", "peer", CLI_TEXT, CLI_IN_BOTH},
    {"behind s", "behind_s", CLI_TEXT, CLI_IN_BOTH},
    {"up to date", "synced_at", CLI_TIME_CELL, CLI_IN_BOTH},
    {"seen", "seen_at", CLI_TIME_CELL, CLI_IN_BOTH},
    {"pages", "pages", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"sent", "bytes", CLI_BYTES_CELL, CLI_IN_BOTH},
};
VIEW(standby, standby);

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

static const struct cli_column schedule[] = {
    {"name", "name", CLI_TEXT, CLI_IN_BOTH},
    {"tenant", "tenant", CLI_TEXT, CLI_IN_BOTH},
    {"format", "format", CLI_TEXT, CLI_IN_BOTH},
    {"every", "every", CLI_TEXT, CLI_IN_BOTH},
    {"state", "state", CLI_STATE_CELL, CLI_IN_BOTH},
    {"written until", "done_until", CLI_TIME_CELL, CLI_IN_BOTH},
    {"behind s", "behind_s", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"files", "files", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"last run", "last_run", CLI_TIME_CELL, CLI_IN_SHOW},
    {"error", "last_error", CLI_TEXT, CLI_IN_BOTH},
    {"created", "created_at", CLI_TIME_CELL, CLI_IN_SHOW},
    {"revision", "revision", CLI_COUNT_CELL, CLI_IN_SHOW},
};
VIEW(schedule, schedule);
static const struct cli_column webhook[] = {
    {"id", "id", CLI_TEXT, CLI_IN_BOTH},
    {"name", "name", CLI_TEXT, CLI_IN_BOTH},
    {"tenant", "tenant", CLI_TEXT, CLI_IN_BOTH},
    {"url", "url", CLI_TEXT, CLI_IN_BOTH},
    {"usage", "usage", CLI_YES, CLI_IN_BOTH},
    {"events", "events", CLI_LIST_CELL, CLI_IN_BOTH},
    {"state", "state", CLI_STATE_CELL, CLI_IN_BOTH},
    {"waiting", "waiting", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"for seconds", "waiting_s", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"failures", "failures", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"failing since", "failing_since", CLI_TIME_CELL, CLI_IN_SHOW},
    {"last status", "last_status", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"last error", "last_error", CLI_TEXT, CLI_IN_SHOW},
    {"delivered", "delivered", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"last delivered", "last_delivered_at", CLI_TIME_CELL, CLI_IN_SHOW},
    {"once more from", "redelivery.start_time", CLI_TIME_CELL, CLI_IN_SHOW},
    {"created", "created_at", CLI_TIME_CELL, CLI_IN_SHOW},
    {"revision", "revision", CLI_COUNT_CELL, CLI_IN_SHOW},
};
VIEW(webhook, webhook);

static const struct cli_column webhook_test[] = {
    {"delivered", "delivered", CLI_YES, CLI_IN_BOTH},
    {"status", "status", CLI_COUNT_CELL, CLI_IN_BOTH},
    {"error", "error", CLI_TEXT, CLI_IN_BOTH},
    {"milliseconds", "duration_ms", CLI_COUNT_CELL, CLI_IN_BOTH},
};
VIEW(webhook_test, webhook_test);

static const struct cli_column capture[] = {
    {"id", "id", CLI_TEXT, CLI_IN_BOTH},
    {"alias", "alias", CLI_TEXT, CLI_IN_BOTH},
    {"version", "version", CLI_TEXT, CLI_IN_SHOW},
    {"created", "created_at", CLI_TIME_CELL, CLI_IN_BOTH},
    {"expires", "expires_at", CLI_TIME_CELL, CLI_IN_BOTH},
    {"size", "bytes", CLI_BYTES_CELL, CLI_IN_LIST},
    {"finish", "finish_reason", CLI_TEXT, CLI_IN_SHOW},
    {"redacted", "redacted", CLI_JSON_CELL, CLI_IN_SHOW},
};
VIEW(capture, capture);

static const struct cli_column capture_summary[] = {
    {"captures", "captures", CLI_COUNT_CELL, CLI_IN_SHOW},
    {"size", "bytes", CLI_BYTES_CELL, CLI_IN_SHOW},
    {"at most", "bytes_max", CLI_BYTES_CELL, CLI_IN_SHOW},
    {"stopped", "stopped", CLI_YES, CLI_IN_SHOW},
};
VIEW(capture_summary, capture_summary);
