/* Chat templates: a small Jinja interpreter over JSON values, compiled once at load.
 *
 * What is served: text, {{ }}, {% if/elif/else, for (with loop.*, filters, recursion bound), set (also blocks and namespace attributes), macro,
 * generation, break, continue %}, whitespace control as in Hugging Face's settings (trim_blocks, lstrip_blocks), expressions with all
 * operators, slices, conditional expressions, tests, filters and string/list/dict methods that the known templates use, raise_exception,
 * strftime_now, namespace, range, dict; with, call, filter and raw blocks; llama.cpp's from_json. Integers have 64 bits; lists and dicts
 * can't be changed (Hugging Face's sandbox). A construct that isn't known is ERR_MODEL at load with its line. Rendering is bounded: steps,
 * depth and output bytes. Immutable after creation: any thread may render. */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"

struct chat_template;

/* source: the template; bos and eos: texts of those tokens ("" where there is none). */
int chat_template_new(struct chat_template **out, const char *source, size_t len, const char *bos, const char *eos,
                      struct err *e);
void chat_template_free(struct chat_template *t);

/* The template's own text, borrowed. */
const char *chat_source(const struct chat_template *t, size_t *len);

/* messages: array of {"role","content",...}; tools: array or NULL, given to the template where it looks for them (`tools`; SmolLM3's
 * `xml_tools`; Phi-4-mini's message['tools'] as text in the system message, which is made where there is none); reasoning is found by
 * any of reasoning_content, thinking and reasoning. extra: object of further variables (chat_template_kwargs) or
 * NULL. Appends to out. raise_exception and bad input are ERR_INVALID with param "messages". */
int chat_render(const struct chat_template *t, const json_t *messages, const json_t *tools, bool add_generation_prompt,
                const json_t *extra, struct buf *out, struct err *e);
