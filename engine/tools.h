/* Tool calls: how a family writes them into its answer, and how they are taken out again.
 *
 * The chat template puts the tools into the prompt; the model answers with calls in the manner it was trained on. Which manner that is
 * shows in its template, so formats are rows of a table that name the words to look for. What looks like a call and isn't one (it does not
 * parse, or names no tool of the request) stays text: nothing of an answer is lost.
 *
 * A forced choice (`required`, or one function) doesn't depend on the family: the answer is constrained to a JSON schema made from
 * the tools, and read as that. */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"

#define TOOLS_MAX 128
#define TOOL_NAME_MAX 64
#define TOOL_CALLS_MAX 64 /* of one answer; beyond, they stay text */
#define TOOL_ID_LEN 32
#define TOOL_HELD_MAX (1u << 20) /* bytes of a call that is not finished; a longer one is text */

struct tool_format;

/* The format that a template's source speaks of; NULL: none that is known. */
const struct tool_format *tool_format_of(const char *source, size_t len);
const char *tool_format_name(const struct tool_format *f);
/* The words around its calls, "" where there is none: up to three. */
void tool_format_words(const struct tool_format *f, const char *words[3]);

enum tool_choice { TOOL_CHOICE_NONE, TOOL_CHOICE_AUTO, TOOL_CHOICE_REQUIRED, TOOL_CHOICE_NAMED };

struct tool_call {
    char id[TOOL_ID_LEN];
    char *name, *arguments; /* arguments: JSON text */
};

/* Takes the calls out of one answer's text, as it comes. */
struct tool_parser;

/* tools: the request's, checked; they are copied. `named`: the function of TOOL_CHOICE_NAMED. With TOOL_CHOICE_AUTO `f` is the
 * format, NULL: everything is text. `parallel` false: calls behind the first are dropped. */
int tool_parser_new(struct tool_parser **out, const struct tool_format *f, enum tool_choice choice, const json_t *tools,
                    const char *named, bool parallel, struct err *e);
void tool_parser_free(struct tool_parser *p); /* NULL is fine */

/* More of the answer; what is text for certain is appended to `content`. -1: out of memory. */
int tool_push(struct tool_parser *p, const char *text, size_t len, struct buf *content);
int tool_end(struct tool_parser *p, struct buf *content); /* the answer is over */

/* The calls so far, in order. */
const struct tool_call *tool_calls(const struct tool_parser *p, int *n);

/* The schema of a forced answer: of the arguments of `named`, or (NULL) of a list of calls {"name","parameters"}, of one
 * unless `parallel`. A function without parameters takes none. A new reference; NULL: out of memory. */
json_t *tool_schema(const json_t *tools, const char *named, bool parallel);

/* Messages as templates expect them: in assistant messages' tool_calls, `arguments` given as JSON text becomes the object. */
int tool_normalize_message(json_t *message);
