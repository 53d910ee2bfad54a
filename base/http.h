/* HTTP server: routes, requests, replies and streams, on libmicrohttpd (which is seen in base/http*.c only).
 *
 * Idea: a handler gets a whole request and owes it exactly one answer, now or later, from any thread: http_reply(), or
 * http_stream_open() followed by writes and one end or abort. While it owes, the connection is suspended and costs no
 * thread. The request and everything in its arena live until the answer is sent or the client is gone *and* the handler
 * has answered; so a handler never touches freed memory, whatever the client does.
 *
 * Order of calls for a request, all but the last two on the connection's worker thread:
 *   guard (RELIABILITY.md section 1: ambiguous messages get 400 and a closed connection)
 *   -> route lookup (404, 405)
 *   -> route.head, if any: headers only, before "100 Continue"; it may reply (401, 413, 429), then the body is dropped:
 *      read first when at most HTTP_DROP_MAX (1 MiB) long, else not read and the connection closed
 *   -> http_options.arrives, if a body is to come; it may reply: then the connection is closed
 *   -> body, by route.body: none, buffered up to max_body (413), or handed piecewise to route.sink
 *   -> http_options.arrived, when the body is there (or the request is over without)
 *   -> route.handle
 *   -> http_on_gone's callback, if the client went away before the answer was complete (from the watcher or a worker)
 *   -> http_on_free's callback, when nothing refers to the request any more
 *
 * Bounds: connections (503 beyond), 64 headers, header bytes, body size, stream buffer (http_stream_write returns -1
 * beyond), times for a head, a body, a reader (http_reap.c), and for inactivity. */
#pragma once
#include "base/arena.h"
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTP_PARAMS 4
#define HTTP_HEADERS 64

struct http_server;
struct http_stream;

struct http_request {
    const char *method;
    const char *path;               /* percent-decoded once, without the query */
    const char *param[HTTP_PARAMS]; /* values of {..} in the route's pattern, in order */
    const struct http_route *route;
    const char *body; /* NUL-terminated; NULL unless HTTP_BODY_BUFFER and not empty */
    size_t body_len;
    int64_t content_length; /* -1: none declared (chunked or no body) */
    char peer[64];          /* address of the client, or "unix" */
    char id[37];            /* UUIDv7 made for this request */
    int64_t t_start_us;     /* monotonic, when the headers were complete */
    struct arena *arena;    /* the request's memory */
    void *user;             /* the handler's own */
    void *arrival;          /* of http_options.arrives and arrived */
    void *layer;            /* of what stands between the server and the handler */
    void *server_user;      /* http_options.user */
    /* For http_options.done, set on the way: */
    const void *who;   /* whoever it was found to be, in the request's arena; the handler's */
    void *seen;        /* what was noted of it; the handler's */
    const char *error; /* `code` of the error object that was answered, a constant; or NULL */
};

enum http_body { HTTP_BODY_NONE, HTTP_BODY_BUFFER, HTTP_BODY_SINK };

struct http_route {
    const char *method; /* "GET" */
    /* "/v1/adapters/{name}"; a parameter matches one non-empty segment, the last one may be {rest...}. The first row
     * that fits wins, so literals stand above parameters. HEAD is served by the GET row. */
    const char *pattern;
    enum http_body body;
    size_t max_body; /* bytes */
    /* Optional; may reply. Return 0 to go on, -1 when it has replied. */
    int (*head)(struct http_request *r);
    /* For HTTP_BODY_SINK: pieces in order, blocking work allowed. Return -1 when it has replied: the rest is
     * read and dropped, then the answer goes out. */
    int (*sink)(struct http_request *r, const char *bytes, size_t n);
    void (*handle)(struct http_request *r);
    const void *data; /* the route's own */
};

#define HTTP_SINK_SPEED 4096 /* bytes a second, the least (http_options.sink_slow_s) */

struct http_options {
    const char
        *listen; /* "127.0.0.1:8080", "[::1]:0", "unix:/path" (mode 0600, stale file replaced), "fd:3" (inherited) */
    const struct http_route *routes; /* method NULL ends the table; must outlive the server */
    int workers;                     /* epoll threads, 4 where unsure */
    int max_connections;             /* beyond: 503 and close */
    int idle_timeout_s;              /* of inactivity */
    int head_timeout_s;              /* for a whole head since the connection or its first byte came: cut. 0: none */
    int body_timeout_s;              /* for a whole HTTP_BODY_BUFFER body since the request began: 408; twice as long, or one that nobody wants: cut. So long silent: 408. 0: none */
    int sink_quiet_s;                /* so long nothing of a HTTP_BODY_SINK body comes: 408 and close. 0: the idle time-out, which says nothing */
    int sink_slow_s;                 /* over so long less than HTTP_SINK_SPEED came of a HTTP_BODY_SINK body, the sink's own time apart: 408 and close. 0: none */
    int send_timeout_s;              /* a reader that takes nothing for so long, or is no more, is cut (TCP). 0: the system's own */
    size_t stream_buffer;            /* bytes a slow reader may lag behind, per stream */
    void *user;
    /* Optional: called once its route is known, before the route's head, with nothing read of the body. Return 0 to go on, -1
     * when it has replied. */
    int (*gate)(struct http_request *r);
    /* Optional, both: a body begins to come to a request that was not answered yet, whatever its route does with it. Return 0 to
     * go on, -1 when it has replied: the connection is closed. After a 0, arrived comes once. */
    int (*arrives)(struct http_request *r);
    void (*arrived)(struct http_request *r);
    /* Optional: called for each request that was answered, on a worker, for metrics and access logs. Refused ones
     * count: r->route is NULL before a route was found, r->path "" where it was not legal. */
    void (*done)(const struct http_request *r, int status, uint64_t bytes, int64_t duration_us);
};

/* Binds and starts. *bound (if not NULL, malloc'ed) is the address with the real port. */
int http_server_start(struct http_server **out, const struct http_options *o, char **bound, struct err *e);

/* Stop accepting; requests in flight go on; answers carry "Connection: close". */
void http_server_quiesce(struct http_server *s);

/* Quiesce, wait up to grace_ms for requests in flight, close idle connections (what came on them before is answered), abort
 * what is left (as if their clients had gone), free. Handlers may still answer afterwards. */
void http_server_stop(struct http_server *s, int grace_ms);

/* While on: every answer carries "Connection: close", and idle connections are closed. Any thread. */
void http_server_shed(struct http_server *s, bool on);

int http_server_in_flight(const struct http_server *s);
int http_server_connections(const struct http_server *s); /* open ones, idle or not */
int http_server_cut(const struct http_server *s); /* connections cut since the start, because a message did not come in time */

/* --- what a handler asks --- */

const char *http_header(const struct http_request *r, const char *name); /* any case; NULL: absent */
/* The values of all headers of that name, in order, with commas between; returns the length. 0: absent, or too long. */
size_t http_header_join(const struct http_request *r, const char *name, char *out, size_t cap);
const char *http_query(const struct http_request *r, const char *name);  /* decoded; NULL: absent */

/* Calls fn for each query argument in order; a value is "" where there is none. */
void http_query_each(const struct http_request *r, void (*fn)(void *u, const char *name, const char *value), void *u);

/* The token of "Authorization: Bearer TOKEN", or NULL. */
const char *http_bearer(const struct http_request *r);

/* In head or arrives: this body may have at most n bytes, where its route takes more (413). */
void http_limit_body(struct http_request *r, size_t n);

/* fn is called at most once, when the client is gone before the answer is complete, from any thread; it must not block.
 * Set it on the worker (in head or handle) before the request is handed to another thread, with what it needs in place;
 * or on the thread that got it, which then asks http_is_gone(), for it may have been too late.
 * It is not begun after the last of the handler's calls (reply, stream end or abort) but may still run beside it: what
 * it touches is freed in http_on_free's callback, not before. A client that half-closes counts as gone once it must
 * wait. */
void http_on_gone(struct http_request *r, void (*fn)(struct http_request *r));
bool http_is_gone(const struct http_request *r);

/* fn is called once, last of all, before the arena goes. */
void http_on_free(struct http_request *r, void (*fn)(struct http_request *r));

/* --- what a handler answers (exactly one of reply, reply_error, stream_open; any thread) --- */

/* A response header to go with the answer; copied; a second one of the same name replaces the first. Control bytes,
 * names that are none, Content-Length and Transfer-Encoding are refused (-1). "x-request-id: <r->id>" is there unless
 * set. Nobody has to look whether there was memory for it: without, no answer goes out but an error. */
int http_set_header(struct http_request *r, const char *name, const char *value);

/* Copies the body. content_type NULL: application/json. */
void http_reply(struct http_request *r, int status, const char *content_type, const void *body, size_t n);

/* n bytes of an open file from `at` on, read as the socket takes them, so that none of it is held in memory. Takes fd over. content_type NULL:
 * application/octet-stream. */
void http_reply_file(struct http_request *r, int status, const char *content_type, int fd, int64_t at, int64_t n);

/* OpenAI's error object, with the status of err_info(e->code). "Connection: close" is added where the body was not
 * read, Retry-After to a 503 that has none. */
void http_reply_error(struct http_request *r, const struct err *e);

/* Chunked answer. Lives until http_stream_end() or http_stream_abort(), whichever comes first; then don't touch it. */
struct http_stream *http_stream_open(struct http_request *r, int status, const char *content_type);

/* Append a copy of n bytes; any thread, one at a time. `mark` is the caller's running count after these bytes (tokens,
 * say; never smaller than before). Returns -1 when the client is gone or lags more than stream_buffer behind: then the
 * caller stops and calls http_stream_abort(). */
int http_stream_write(struct http_stream *s, const void *bytes, size_t n, uint64_t mark);

/* For answers that are longer than the buffer: the bytes that one write may have now; 0 also when the client is gone. */
size_t http_stream_room(struct http_stream *s);
/* Calls fn once, from any thread, when a write of n bytes (cut to half of stream_buffer) has room or the stream is over; at
 * once where that is so. fn must not block and may come before this returns. One at a time; none may wait at the end. */
void http_stream_on_room(struct http_stream *s, size_t n, void (*fn)(void *u), void *u);

/* fn once: when all that was written so far was handed to the client's socket, or never will be. At once, where that is so already. On a worker or
 * here; one at a time, before end or abort, which it may call. */
void http_stream_on_drained(struct http_stream *s, void (*fn)(void *u), void *u);

/* The mark of the last write whose bytes have all been handed to the client's socket. */
uint64_t http_stream_handed(const struct http_stream *s);

/* Call `fn` (once, any thread, must not block) when the stream is over: `clean` says whether everything including the
 * end was handed to the socket; `mark` is the final http_stream_handed(). Set it before end or abort. When the stream
 * is over already, fn is called at once. It may come before end or abort, when the client left; those are owed all the
 * same. */
void http_stream_on_close(struct http_stream *s, void (*fn)(void *u, bool clean, uint64_t mark), void *u);

void http_stream_end(struct http_stream *s); /* what was written is sent, then the terminating chunk */

/* The connection is cut without the terminating chunk: at once after a failed write, else when what was written is
 * sent. */
void http_stream_abort(struct http_stream *s);
