/* Inside of engine/tools: the table of formats, the parser's state, and the bodies of calls (tools_body.c). */
#pragma once
#include "engine/tools.h"

enum body {
    BODY_JSON,     /* {"name","arguments"}, several, or a list of them */
    BODY_MISTRAL,  /* that, or NAME[ARGS]{..}, NAME[CALL_ID]ID[ARGS]{..} */
    BODY_XML,      /* <function=NAME><parameter=KEY>VALUE</parameter></function> */
    BODY_KEYS,     /* NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value> */
    BODY_NAMED,    /* NAME>{..} */
    BODY_DEEPSEEK, /* NAME<sep>{..}, or function<sep>NAME and a fenced {..}, each within its own pair of words */
};

struct tool_format {
    const char *name;
    const char *look_for[2]; /* words that the template holds, all of them */
    const char *without;     /* one that it does not; NULL: any */
    const char *begin, *end; /* NULL: see tools.c */
    const char *skip;        /* a word in front of the call that is no part of it */
    enum body body;
    int id_len; /* letters and digits of an id; 0: OpenAI's manner */
};

struct tool_parser {
    const struct tool_format *f;
    enum tool_choice choice;
    bool parallel;
    bool held_all;   /* without a begin marker: this answer is held */
    bool decided;    /* whether it is */
    bool in_call;    /* behind a begin marker */
    bool after_call; /* blanks are dropped */
    char named[TOOL_NAME_MAX + 1];
    json_t *tools;   /* a copy of the request's */
    struct buf held; /* may be a marker, or is a call's body */
    bool no_memory;  /* for JSON of a call: nobody knows what it says */
    int ncalls;
    struct tool_call call[TOOL_CALLS_MAX];
};

const char *tool_name(const json_t *tool); /* "" where it has none */

/* A call's body as the format writes it. 1: it was calls, all of it; 0: it is text; -1: out of memory. */
int tool_take_body(struct tool_parser *p, enum body body, const char *s, size_t len);
/* The answer to a forced choice, which may have been cut short; never text. */
int tool_take_forced(struct tool_parser *p, const char *s, size_t len);
