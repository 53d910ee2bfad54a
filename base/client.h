/* HTTP client: many requests at once on one thread (libcurl's multi interface; curl is seen in base/client*.c only).
 *
 * client_start() may be called from any thread and returns at once; the callbacks run on the client's thread, must not
 * block and see: head once (status and headers complete), data any number of times, done exactly once, always last.
 * first_byte_ms is silence before the head (while a file is sent it starts again with every piece), idle_ms silence
 * after it. A body goes as application/json unless a Content-Type header says otherwise, a file as
 * application/octet-stream. Errors: ERR_UNAVAILABLE no connection, ERR_UPSTREAM_TIMEOUT, ERR_ENGINE broke off,
 * cancelled or cut by on_data. Certificates are checked, and what is wrong with one is said. Redirects are not followed; proxies and ~/.netrc are ignored; only http and https. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sockaddr;

struct client;
struct client_call;

struct client_reply {
    int status;               /* HTTP status, 0: none arrived */
    const char *content_type; /* or NULL */
    const char *retry_after;  /* or NULL */
    const char *location;     /* of a redirect, or NULL */
    const char *request_id;   /* x-request-id, or NULL */
    const char *etag;         /* or NULL */
    const char *weft_time;    /* x-weft-time (ENGINE_API.md), or NULL */
};

struct client_request {
    const char *method;
    const char *url;            /* "http://engine/v1/models" */
    const char *unix_socket;    /* path, or NULL for TCP */
    const char *const *headers; /* "Name: value", NULL-terminated; or NULL */
    const void *body;           /* copied; NULL: none */
    size_t body_len;
    const char *file;                                       /* instead of body: this file is sent; or NULL */
    void (*progress)(void *u, int64_t sent, int64_t total); /* with file; or NULL */
    const char *ca_file;                                    /* PEM: authorities that are trusted beside the system's; or NULL */
    int connect_ms, first_byte_ms, idle_ms, total_ms;       /* 0: no limit (but say one) */
    void (*on_head)(void *u, const struct client_reply *r);
    int (*on_data)(void *u, const char *bytes, size_t n); /* -1: cut the connection */
    /* Judges each address before a connection to it is opened: 0, or -1 to refuse; or NULL. For URLs from strangers. */
    int (*on_address)(void *u, const struct sockaddr *a);
    /* client_fetch() only: called about once a second, and when something came; -1 ends it; or NULL. */
    int (*on_tick)(void *u);
    /* With on_address: connections that earlier calls of this client opened may be used again. Only where all of its
     * calls to a host are judged alike. */
    bool keep;
    /* r->status 0 or `e` set when the exchange failed: connect, time-out (ERR_UPSTREAM_TIMEOUT), cut (ERR_ENGINE),
     * cancelled. */
    void (*on_done)(void *u, const struct client_reply *r, const struct err *e);
    void *user;
};

int client_new(struct client **out, int max_connections, struct err *e);
/* Cancels what runs, calls every done, ends the thread; from then on client_start() refuses with ERR_UNAVAILABLE. */
void client_stop(struct client *c);
void client_free(struct client *c); /* cancels what runs, calls every done, joins the thread */

/* All of *req is copied. The call is valid until its on_done returns. */
int client_start(struct client *c, const struct client_request *req, struct client_call **out, struct err *e);

/* Any thread, before on_done has returned: the connection is closed soon, done follows. */
void client_cancel(struct client_call *call);

/* From on_data: what the peer sends from now on is left with it until client_resume(), or for so long (at least 1 ms); that time is no silence. The end
 * of an answer that is all here, or its loss, may be told meanwhile. */
void client_pause(struct client_call *call, int ms);
/* Any thread, before on_done has returned; harmless where nothing is paused. */
void client_resume(struct client_call *call);

/* For command lines and start-up: one exchange on the calling thread; of the callbacks only progress, on_address, on_tick and,
 * where the body shall go to on_data, on_head are used. Else *body is malloc'ed, at most max_body bytes. `c`
 * is not needed. */
int client_fetch(const struct client_request *req, size_t max_body, int *status, char **body, size_t *body_len,
                 struct err *e);
