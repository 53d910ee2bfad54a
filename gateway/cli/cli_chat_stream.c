/* cli_chat_stream: bytes of an answer -> lines -> events -> what the assistant says.
 *
 * Pieces may be cut anywhere. What is no event of ours (comments, other fields, data that is no JSON) is left out: a
 * broken stream shows by its missing end. Of error events the first counts, for it is shown as one JSON object. */
#include "gateway/cli/cli_chat_stream.h"
#include "base/json.h"
#include <stdlib.h>
#include <string.h>

void chat_stream_init(struct chat_stream *s, bool whole, void (*say)(const char *text, size_t n))
{
    *s = (struct chat_stream){.whole = whole, .say = say};
    buf_init(&s->line, CHAT_LINE_MAX);
    buf_init(&s->text, CHAT_ANSWER_MAX);
    buf_init(&s->error, CHAT_ERROR_MAX);
}

void chat_stream_close(struct chat_stream *s)
{
    buf_close(&s->line);
    buf_close(&s->text);
    buf_close(&s->error);
}

static int take_delta(struct chat_stream *s, const json_t *chunk)
{
    const json_t *choice = json_array_get(json_object_get(chunk, "choices"), 0);
    const json_t *content = json_object_get(json_object_get(choice, "delta"), "content");
    if (!json_is_string(content)) return 0;
    s->say(json_string_value(content), json_string_length(content));
    return buf_add(&s->text, json_string_value(content), json_string_length(content));
}

static int take_event(struct chat_stream *s, const char *data, size_t n)
{
    json_t *o = NULL;
    int rc = 0;
    s->done = n == 6 && !memcmp(data, "[DONE]", 6);
    if (s->done || json_parse(data, n, &o, NULL)) return 0;
    if (!json_object_get(o, "error"))
        rc = take_delta(s, o);
    else if (!s->error.len)
        rc = buf_add(&s->error, data, n);
    json_decref(o);
    return rc;
}

static int take_line(struct chat_stream *s)
{
    const char *p = s->line.data;
    size_t n = s->line.len;
    if (n && p[n - 1] == '\r') n--;
    if (n < 5 || memcmp(p, "data:", 5)) return 0; /* comments, blank lines, other fields */
    p += 5, n -= 5;
    if (n && *p == ' ') p++, n--;
    return take_event(s, p, n);
}

int chat_stream_feed(struct chat_stream *s, const char *bytes, size_t n)
{
    if (s->status != 200) return buf_add(&s->error, bytes, n);
    if (s->whole) return buf_add(&s->text, bytes, n);
    while (n && !s->done) {
        const char *end = memchr(bytes, '\n', n);
        size_t k = end ? (size_t)(end - bytes) : n;
        if (buf_add(&s->line, bytes, k)) return -1;
        if (!end) return 0;
        if (take_line(s)) return -1;
        buf_reset(&s->line);
        bytes += k + 1, n -= k + 1;
    }
    return 0;
}

char *chat_stream_said(const struct chat_stream *s)
{
    json_t *o = NULL;
    if (!s->whole) return strndup(s->text.data, s->text.len);
    if (json_parse(s->text.data, s->text.len, &o, NULL)) return NULL;
    const json_t *choice = json_array_get(json_object_get(o, "choices"), 0);
    const char *said = json_string_value(json_object_get(json_object_get(choice, "message"), "content"));
    char *copy = strdup(said ? said : "");
    json_decref(o);
    return copy;
}
