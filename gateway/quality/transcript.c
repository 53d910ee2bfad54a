/* transcript: the first choice of an answer, out of the bytes that went to the client.
 *
 * A stream's events are joined as a client joins them: texts behind each other, parts of a tool's call by their `index`, entries of logprobs in one list.
 * What is not in order is passed over: the answer is a stranger's, and what a rule then finds of it is what a client would have found.
 *
 * Pure functions; any thread. */
#include "gateway/quality/transcript.h"
#include "base/json.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void answer_close(struct answer *a)
{
    buf_close(&a->text);
    json_decref(a->tool_calls);
    json_decref(a->logprobs);
    a->tool_calls = a->logprobs = NULL;
}

/* --- calls of tools --- */

/* Pieces are kept as they come and joined at the end: to join each of them would copy all that there is, each time. */
static void add_piece(json_t *o, const char *name, json_t *more)
{
    json_t *pieces = json_object_get(o, name);
    if (!json_is_string(more)) return;
    if (!pieces && json_object_set_new(o, name, json_array()) == 0) pieces = json_object_get(o, name);
    json_array_append(pieces, more);
}

/* What is too long by a piece does without it. */
static void join_pieces(json_t *o, const char *name)
{
    const json_t *pieces = json_object_get(o, name), *one;
    struct buf b;
    size_t i;
    if (!pieces) return;
    buf_init(&b, TRANSCRIPT_ANSWER_MAX);
    json_array_foreach(pieces, i, one)
        if (b.len + json_string_length(one) < TRANSCRIPT_ANSWER_MAX) buf_add(&b, json_string_value(one), json_string_length(one));
    if (b.failed || json_object_set_new(o, name, json_stringn_nocheck(b.data, b.len))) json_object_del(o, name);
    buf_close(&b);
}

static void join_calls(struct answer *a)
{
    json_t *call;
    size_t i;
    json_array_foreach(a->tool_calls, i, call)
    {
        join_pieces(json_object_get(call, "function"), "name");
        join_pieces(json_object_get(call, "function"), "arguments");
    }
}

static json_t *call_at(struct answer *a, size_t index)
{
    if (index >= TRANSCRIPT_TOOLS_MAX) return NULL;
    if (!a->tool_calls) a->tool_calls = json_array();
    while (a->tool_calls && json_array_size(a->tool_calls) <= index)
        if (json_array_append_new(a->tool_calls, json_pack("{ss s{}}", "type", "function", "function"))) return NULL;
    return json_array_get(a->tool_calls, index);
}

static void add_call(struct answer *a, const json_t *from, size_t at)
{
    const json_t *index = json_object_get(from, "index"), *id = json_object_get(from, "id"), *f = json_object_get(from, "function");
    json_int_t i = json_is_integer(index) ? json_integer_value(index) : (json_int_t)at;
    json_t *to = i >= 0 ? call_at(a, (size_t)i) : NULL, *function = json_object_get(to, "function");
    if (!to) return;
    if (json_is_string(id)) json_object_set_new(to, "id", json_string_nocheck(json_string_value(id)));
    add_piece(function, "name", json_object_get(f, "name"));
    add_piece(function, "arguments", json_object_get(f, "arguments"));
}

/* --- one object --- */

static void add_logprobs(struct answer *a, json_t *v)
{
    json_t *entries = json_object_get(v, "content"), *one;
    size_t i;
    if (!json_is_object(v)) return;
    if (!a->logprobs) a->logprobs = json_array();
    if (!entries) json_array_append(a->logprobs, v);
    json_array_foreach(entries, i, one) json_array_append(a->logprobs, one);
}

static json_t *first_choice(const json_t *o)
{
    json_t *list = json_object_get(o, "choices"), *c;
    size_t i;
    json_array_foreach(list, i, c) if (json_integer_value(json_object_get(c, "index")) == 0) return c;
    return NULL;
}

/* As much of it as there is room for, in whole characters. */
static void set_finish(struct answer *a, const char *s)
{
    size_t n = strlen(s);
    if (n >= sizeof a->finish)
        for (n = sizeof a->finish - 1; n && ((unsigned char)s[n] & 0xc0) == 0x80;) n--;
    memcpy(a->finish, s, n);
    a->finish[n] = 0;
}

static int add_object(struct answer *a, const json_t *o, struct err *e)
{
    json_t *c = first_choice(o), *said = json_object_get(c, "delta"), *text, *call;
    const char *finish = json_string_value(json_object_get(c, "finish_reason"));
    size_t i;
    a->events++;
    if (!c) return 0;
    if (!said) said = json_object_get(c, "message");
    text = said ? json_object_get(said, "content") : json_object_get(c, "text");
    if (json_is_string(text) && buf_add(&a->text, json_string_value(text), json_string_length(text)))
        return err_set(e, ERR_NO_MEMORY, "no memory for a transcript");
    json_array_foreach(json_object_get(said, "tool_calls"), i, call) add_call(a, call, i);
    add_logprobs(a, json_object_get(c, "logprobs"));
    if (finish) set_finish(a, finish);
    return 0;
}

static int add_text(struct answer *a, const char *s, size_t n, struct err *e)
{
    json_t *o = NULL;
    struct err why = {0};
    if (json_parse(s, n, &o, &why)) return why.code == ERR_NO_MEMORY ? err_set(e, ERR_NO_MEMORY, "no memory for a transcript") : 0;
    int rc = add_object(a, o, e);
    json_decref(o);
    return rc;
}

/* --- all of it --- */

static int add_line(struct answer *a, const char *s, size_t n, struct err *e)
{
    static const char word[] = "data:";
    size_t skip = sizeof word - 1;
    if (n < skip || memcmp(s, word, skip) != 0) return 0;
    while (skip < n && s[skip] == ' ') skip++;
    return s[skip] == '{' ? add_text(a, s + skip, n - skip, e) : 0; /* not [DONE] */
}

static int add_lines(struct answer *a, const char *bytes, size_t n, struct err *e)
{
    for (size_t at = 0; at < n;) {
        const char *end = memchr(bytes + at, '\n', n - at);
        size_t len = end ? (size_t)(end - bytes) - at : n - at;
        if (end && add_line(a, bytes + at, len, e)) return -1; /* what has no end was cut */
        at += len + 1;
    }
    return 0;
}

int answer_read(struct answer *a, const char *bytes, size_t n, bool stream, struct err *e)
{
    *a = (struct answer){.tool_calls = NULL};
    buf_init(&a->text, TRANSCRIPT_ANSWER_MAX);
    int rc = stream ? add_lines(a, bytes, n, e) : add_text(a, bytes, n, e);
    join_calls(a);
    return rc;
}
