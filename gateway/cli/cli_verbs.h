/* Commands that are more than one request: a function each, run by the row of cli_commands.c that names it. */
#pragma once
#include "gateway/cli/cli.h"

int cli_key_create(const struct cli *c);
int cli_limit_show(const struct cli *c);
int cli_limit_set(const struct cli *c);
int cli_limit_clear(const struct cli *c);
int cli_event_list(const struct cli *c);
int cli_feedback_give(const struct cli *c);
int cli_webhook_create(const struct cli *c);
int cli_webhook_set(const struct cli *c);
int cli_webhook_rotate(const struct cli *c);
int cli_webhook_redeliver(const struct cli *c);
int cli_adapter_push(const struct cli *c);
int cli_adapter_import(const struct cli *c);
int cli_adapter_validate(const struct cli *c);
int cli_adapter_show(const struct cli *c);
int cli_adapter_versions(const struct cli *c);
int cli_adapter_wait(const struct cli *c);
int cli_adapter_act(const struct cli *c); /* the row's request, then --wait */
int cli_alias_set(const struct cli *c);
int cli_capture_export(const struct cli *c);
int cli_capture_compare(const struct cli *c);
int cli_engine_add(const struct cli *c);
int cli_engine_tokens(const struct cli *c);
int cli_settings(const struct cli *c);
int cli_reload(const struct cli *c);
int cli_audit_verify(const struct cli *c);
int cli_model_list(const struct cli *c);
int cli_chat(const struct cli *c);
int cli_usage(const struct cli *c);
int cli_usage_top(const struct cli *c);
int cli_usage_latency(const struct cli *c);
int cli_costs(const struct cli *c);
int cli_invoice(const struct cli *c);
int cli_canary(const struct cli *c);
int cli_eval_summary(const struct cli *c);
int cli_adapter_idle(const struct cli *c);
int cli_ledger_health(const struct cli *c);
int cli_export(const struct cli *c);
int cli_usage_verify(const struct cli *c);
int cli_backup_create(const struct cli *c);
int cli_backup_verify(const struct cli *c);
int cli_doctor(const struct cli *c);
int cli_plan(const struct cli *c);
int cli_top(const struct cli *c);
int cli_complete(const struct cli *c);
int cli_completion(const struct cli *c);
int cli_help(const struct cli *c);

/* cli_resume.c: NAME's two files of DIR in parts, going on where they ended. *out: the version. */
int cli_upload_parts(const struct cli *c, const char *name, const char *dir, json_t **out);
/* cli_wait.c: asks until the version (0: the newest) is ready or failed; *out is it. must: the adapter is there already. */
int cli_wait_ready(const struct cli *c, const char *name, int64_t version, bool must, json_t **out);
int cli_adapter_verdict(const struct cli *c, const json_t *version);
