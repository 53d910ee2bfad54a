/* The answer to a chat as `weft chat` reads it: one JSON document, or server-sent events (WHATWG HTML, section 9.2) as OpenAI
 * uses them: "data: {json}" lines, at last "data: [DONE]", behind which nothing is read. Pure: bytes in, texts out. */
#pragma once
#include "base/buf.h"

#define CHAT_LINE_MAX (1u << 20)   /* a line of the stream */
#define CHAT_ANSWER_MAX (16u << 20) /* an answer, which is kept for the conversation */
#define CHAT_ERROR_MAX (64u << 10)

struct chat_stream {
    bool whole; /* one document, not streamed */
    bool done;  /* [DONE] has come */
    int status; /* HTTP, the caller's to set before bytes come; not 200: they are a refusal's */
    struct buf line;  /* of the stream, not yet ended */
    struct buf text;  /* the answer so far; of a whole one the document */
    struct buf error; /* of a refusal its body, of a stream its first error event's data */
    void (*say)(const char *text, size_t n);
};

/* say: gets each piece of a streamed answer as it comes. */
void chat_stream_init(struct chat_stream *s, bool whole, void (*say)(const char *text, size_t n));
void chat_stream_close(struct chat_stream *s);

/* 0; -1: something is longer than its bound (that buf has failed), and no more is to be read. */
int chat_stream_feed(struct chat_stream *s, const char *bytes, size_t n);

/* What the assistant said, of an answer that is over. The caller's to free; NULL: a whole answer that is no JSON object, or
 * no memory. */
char *chat_stream_said(const struct chat_stream *s);
