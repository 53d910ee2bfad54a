/* What api_params*.c share. Each parser reads its fields of a->root into the ask; -1 with the field's name. Private. */
#pragma once
#include "engine/api_params.h"

typedef int ask_parser(struct ask *a, int vocab, struct err *e);

/* NULL where the field is absent or null. */
json_t *ask_given(const struct ask *a, const char *name);
int ask_check_id(const json_t *v, const char *name, int vocab, struct err *e);

/* --- api_params_input.c --- */
int ask_parse_messages(struct ask *a, struct err *e);
int ask_parse_prompts(struct ask *a, int vocab, struct err *e);

/* --- api_params_policy.c --- */
ask_parser ask_parse_policy; /* weft_prompt_policy */

/* --- api_params_output.c --- */
ask_parser ask_parse_choices;  /* n, best_of */
ask_parser ask_parse_bias;     /* logit_bias */
ask_parser ask_parse_format;   /* response_format, guided_*, structured_outputs */
ask_parser ask_parse_tools;    /* tools, tool_choice, parallel_tool_calls */
ask_parser ask_parse_adapters; /* adapters */
