# Of each fuzzer: own_ the files whose coverage is told, in_ those of them that the fuzzer includes, with_ what they need besides base/, link_ further words for the linker.
own_backup_sums    := gateway/backup/backup_sums.c
with_backup_sums   := gateway/registry/files.c
own_conf           := base/conf.c
own_csv            := gateway/export/export_text.c
own_digest_header  := gateway/registry/digest_header.c
own_import_address := gateway/registry/import_address.c
own_json           := base/json.c
own_json_walk      := gateway/proxy/json_walk.c
own_key            := gateway/auth/auth_key.c
own_multipart      := gateway/registry/multipart.c
own_relay          := gateway/proxy/relay.c
own_trace_context  := base/trace_context.c
own_tensor_name := adapters/tensor_name.c
own_peft := adapters/peft.c adapters/peft_dialect.c adapters/peft_match.c
own_safetensors := adapters/safetensors.c
own_adapter := adapters/adapter.c adapters/adapter_agree.c adapters/adapter_place.c adapters/digest.c
with_adapter := $(filter-out $(own_adapter) adapters/store.c,$(SRC_adapters))
own_base_desc := adapters/base_desc.c
with_base_desc := adapters/tensor_name.c
own_medusa := engine/medusa_config.c engine/medusa_tree.c
own_gguf := engine/gguf.c
own_tokenizer_json := $(filter-out engine/tokenizer_gguf.c,$(wildcard engine/tokenizer*.c))
own_jinja := engine/chat.c $(wildcard engine/jinja_*.c)
with_jinja := engine/tokenizer_utf8.c
own_schema := $(filter-out engine/grammar_regex%,$(wildcard engine/grammar_*.c)) engine/constrain.c engine/constrain_lexicon.c
link_schema := -Wl,--wrap=machine_probe
with_schema := engine/grammar_regex.c engine/grammar_regex_net.c
own_regex := engine/grammar_regex.c engine/grammar_regex_net.c engine/grammar_machine.c engine/grammar_net.c
link_regex := -Wl,--wrap=machine_probe
with_regex := $(filter-out $(own_regex),$(wildcard engine/grammar_*.c)) engine/constrain.c engine/constrain_lexicon.c
own_ask := engine/api_params.c engine/api_params_input.c engine/api_params_output.c engine/api_params_policy.c
with_ask := engine/tools.c engine/tools_body.c
own_tools := engine/tools.c engine/tools_body.c
own_detok := engine/detok.c
with_detok := engine/tokenizer_utf8.c
own_words := gateway/pool/engine_words.c gateway/proxy/json_walk.c gateway/proxy/relay.c
with_words := gateway/pool/engine_vllm.c gateway/pool/engine_openai.c gateway/pool/engine_weft.c gateway/pool/engine_kind.c gateway/pool/engine_metrics.c adapters/base_desc.c adapters/tensor_name.c adapters/store.c
own_engine := gateway/pool/engine_vllm.c gateway/pool/engine_weft.c gateway/pool/engine_openai.c gateway/pool/engine_metrics.c gateway/pool/engine_kind.c
with_engine := gateway/pool/engine_words.c gateway/pool/engine_answers.c gateway/proxy/json_walk.c adapters/base_desc.c adapters/tensor_name.c adapters/store.c
own_uri := base/http_uri.c gateway/api/page.c
with_uri := gateway/api/admin_api.c
own_conditions := gateway/api/revision.c
own_chat := gateway/proxy/chat_ask.c
with_chat := gateway/limits/limit_request.c
in_cli := gateway/cli/cli.c
own_cli := gateway/cli/cli_value.c
with_cli := $(filter-out $(in_cli) $(own_cli),$(SRC_cli))
link_cli := -Wl,--wrap=client_fetch
own_tokenizer_gguf := engine/tokenizer_gguf.c
with_tokenizer_gguf := $(filter-out engine/tokenizer_gguf.c,$(wildcard engine/tokenizer*.c)) engine/gguf.c kernels/weight.c
own_http := base/http_guard.c base/http_exchange.c base/http_uri.c base/http_route.c base/http_reply.c base/http_stream.c
in_shards := engine/source_hf.c
own_shards := engine/source_st.c engine/source_json.c engine/source_names.c engine/source_quant.c
with_shards := engine/source.c engine/source_gguf.c engine/source_id.c engine/source_packed.c $(wildcard engine/packed*.c engine/quant_*.c) engine/cache.c engine/gguf.c kernels/weight.c
own_model_config := engine/model_family.c engine/model_layers.c engine/model_meta.c engine/model_reach.c engine/model_rope.c engine/model_rope_meta.c engine/model_shape.c engine/model_text.c engine/model_widths.c
with_model_config := $(wildcard engine/source*.c engine/tokenizer*.c engine/packed*.c engine/quant_*.c engine/jinja_*.c) engine/chat.c engine/cache.c engine/gguf.c kernels/weight.c
own_follow := gateway/standby/follow.c gateway/standby/fetch.c gateway/standby/redo.c gateway/standby/apply.c gateway/standby/parcel.c
with_follow := gateway/registry/files.c gateway/backup/backup.c gateway/backup/backup_sums.c
in_pull := engine/pull.c
own_pull := engine/pull_fetch.c engine/pull_cache.c
with_pull := engine/pull_helper.c engine/meters.c $(SRC_adapters)
link_pull := -Wl,--wrap=poll -Wl,--wrap=clock_mono_us -Wl,--wrap=posix_fallocate
own_give := gateway/pool/blobs_range.c gateway/standby/feed_ask.c
link_follow := -Wl,--wrap=clock_mono_us -Wl,--wrap=nanosleep -Wl,--wrap=fsync -Wl,--wrap=posix_fallocate
own_chat_stream := gateway/cli/cli_chat_stream.c
own_otlp_answer := gateway/observe/otlp_answer.c base/retry_after.c
own_webhook_answer := gateway/webhook/webhook_answer.c base/retry_after.c
own_engine_answers := gateway/pool/engine_answers.c
own_client := base/client_head.c
link_client := -Wl,--wrap=socket
own_packed := engine/packed.c engine/packed_verify.c
with_packed := kernels/weight.c kernels/tensor.c $(wildcard kernels/pack*.c)
link_packed := -Wl,--wrap=pthread_create
in_cli_run := gateway/cli/cli.c
own_cli_run := gateway/cli/cli_usage.c gateway/cli/cli_stats.c gateway/cli/cli_costs.c gateway/cli/cli_wait.c
with_cli_run := $(filter-out $(in_cli_run) $(own_cli_run),$(SRC_cli))
link_cli_run := -Wl,--wrap=client_fetch -Wl,--wrap=clock_mono_us -Wl,--wrap=nanosleep
own_prompt_policy := gateway/registry/prompt_policy.c gateway/registry/prompt_template.c
with_prompt_policy := engine/api_params.c engine/api_params_input.c engine/api_params_output.c engine/api_params_policy.c engine/tools.c engine/tools_body.c
in_headers := engine/api_fence.c
own_headers := engine/api_origin.c gateway/api/header.c
with_headers := engine/sched_queue.c
own_bodies := gateway/registry/alias_draft.c gateway/limits/limit_body.c gateway/ledger/price_body.c gateway/webhook/webhook_body.c gateway/quality/evaluation_policy.c gateway/quality/feedback_body.c gateway/capture/capture_policy.c
with_bodies := gateway/registry/alias.c gateway/registry/alias_parts.c gateway/registry/prompt_policy.c gateway/registry/prompt_template.c gateway/registry/import_address.c gateway/limits/limit_text.c gateway/auth/auth.c $(wildcard gateway/quality/rule*.c) gateway/quality/route.c gateway/quality/bandit.c gateway/capture/redact.c gateway/proxy/json_walk.c
own_rule := $(wildcard gateway/quality/rule*.c)
own_grounded := gateway/quality/grounded.c
with_grounded := gateway/quality/rule_language.c
own_judge := gateway/quality/judge_words.c
own_logprobs_strip := gateway/proxy/logprobs_strip.c
with_logprobs_strip := gateway/proxy/json_walk.c
own_transcript := gateway/quality/transcript.c
own_redact := gateway/capture/redact.c gateway/capture/capture_policy.c
with_redact := gateway/proxy/json_walk.c
