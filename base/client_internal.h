/* What base/client*.c share: one exchange as libcurl's easy handle with our callbacks, used by the thread and by
 * client_fetch(). Nobody else includes this. */
#pragma once
#include "base/buf.h"
#include "base/client.h"
#include <curl/curl.h>
#include <stdbool.h>
#include <stdio.h>

/* The fields of an answer's head that are kept; "": not there. */
struct client_head {
    char content_type[128], retry_after[64], request_id[64], etag[64], weft_time[128];
    char *location; /* malloc'ed, or NULL */
};

/* client_head.c: a line of a head, its end included. A status line begins it anew: of several (100, 103) the last counts. */
void client_head_line(struct client_head *h, const char *line, size_t n);

struct client_call {
    struct client *client;
    CURL *easy;
    struct client_request req; /* callbacks and limits; its pointers to text are not kept */
    struct curl_slist *headers;
    void *body;
    FILE *file;
    int64_t file_size, sent;
    char url_shown[128]; /* for messages: scheme, host and path, no user part and no query */

    int status; /* of the head, once it is whole */
    struct client_head head;
    int64_t last_us;     /* the last byte either way; the start before that */
    int64_t paused_until_us; /* 0: not paused */
    struct buf *into;    /* client_fetch: the body goes here */
    int64_t *nearest_us; /* the client's next scan; NULL in client_fetch */
    struct err cause;    /* set when it is we who end the call */

    struct client_call *prev, *next; /* client.running, or client.incoming */
    struct client_call *asked_next; /* in client.asked, as those that follow under client.lock */
    bool asked, cancelled, resumed, taken; /* taken: no longer in incoming */
};

void client_global_start(void); /* libcurl's once-only start */

int client_call_new(struct client_call **out, const struct client_request *req, struct err *e);
void client_call_free(struct client_call *k);

struct client_reply client_call_reply(const struct client_call *k);
int64_t client_call_deadline(const struct client_call *k); /* when its silence gets too long; INT64_MAX: never */
void client_call_near(struct client_call *k);              /* the next scan comes no later than this call's deadline */
void client_call_silent(struct client_call *k);            /* records that it did */

/* How it ended, as an error; none when it went well. */
void client_call_verdict(const struct client_call *k, CURLcode code, struct err *e);
