/* What the base/http_*.c files share; nobody else includes this.
 *
 * Three objects: the server; a connection (one per socket, made and buried with it); an exchange (one per request: the
 * public http_request and what stands behind it). An exchange is counted: libmicrohttpd holds one reference until the
 * request completed, the handler one from handle() until its answer is finished, the watcher one while it looks.
 *
 * Locks: exchange.lock covers the fields marked (L); suspend and resume of libmicrohttpd are called under it, which is
 * what makes them strictly alternate. conn.lock covers conn.x alone. server.lock covers the lists of connections.
 * Order: server.lock, conn.lock, never both with an exchange.lock; no callback of a handler runs under any of them. */
#pragma once
#include "base/buf.h"
#include "base/http.h"
#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#define HTTP_ARENA_MAX ((size_t)16 << 20) /* memory of one request beside its body */
#define HTTP_DROP_MAX                                                                                                  \
    ((size_t)1 << 20) /* a refused body up to this is read and dropped, so the answer arrives and the                  \
                         connection stays; a longer one is cut */
#define HTTP_QUERY_ARGS 64

struct http_pair {
    const char *name, *value;
    struct http_pair *next;
};

struct http_conn {
    struct http_server *server;
    int fd;
    bool told;        /* stop has seen it; under server.lock */
    bool over;        /* beyond max_connections: gets one 503 */
    _Atomic bool hup; /* the peer has closed; set by the watcher, never cleared */
    _Atomic bool deaf; /* we stop, and hear nothing more from it */
    int looks;        /* the watcher's: how often it found it gone and without a request */
    _Atomic unsigned heads;      /* that came whole */
    _Atomic int64_t body_by_us;  /* when the body that is read must be there; 0: none is read */
    struct {
        unsigned heads;          /* that had come */
        uint64_t bytes;          /* that had come since the connection began, after the last whole message */
        int64_t idle_us, head_us; /* since when it is idle; since when a head is coming, 0: none is */
    } reap;                      /* the watcher's (http_reap.c) */
    char peer[64];
    pthread_mutex_t lock;
    struct http_exchange *x;       /* the request in work */
    struct http_conn *prev, *next; /* server.conns; next also links server.dead */
};

struct http_stream {
    struct buf queue; /* (L) records: struct stream_record, then its bytes */
    size_t head;      /* (L) where the oldest record starts in queue */
    size_t done;      /* (L) bytes of that record that were copied out */
    uint64_t copied;  /* (L) mark of the last record copied out whole */
    _Atomic uint64_t handed;
    uint64_t bytes; /* (L) copied out in all */
    bool open, ended, aborted, late, end_seen,
        over; /* (L) late: lagged beyond the limit; over: libmicrohttpd is done with it */
    bool ok;  /* (L) with over: all was sent */
    void (*on_drained)(void *u); /* (L) */
    void *on_drained_u;
    void (*on_close)(void *u, bool clean, uint64_t mark); /* (L) */
    void *on_close_u;
    size_t room_for;         /* (L) bytes that a writer waits to have room for */
    void (*on_room)(void *); /* (L) told then, once; NULL: nobody waits */
    void *on_room_u;
};

struct http_exchange {
    struct http_request r; /* first, so that the public pointer is this one */
    struct http_server *server;
    struct http_conn *conn; /* valid until mhd_done */
    struct MHD_Connection *mhd;
    _Atomic int refs;
    pthread_mutex_t lock;

    /* worker only */
    const char *raw_uri;
    bool started, old, chunked, head_only, close, handled, queued; /* old: HTTP/1.0 */
    bool arriving;   /* http_options.arrived is owed */
    size_t received; /* bytes of body */
    int64_t pace_us;  /* of HTTP_BODY_SINK: since when its speed is looked at, the sink's time left out; 0: not yet */
    size_t pace_from; /* received by then */
    size_t max_body; /* the route's, or less */
    _Atomic int64_t quiet_since; /* http_quiet.c's: when the worker began to wait for more of the body, monotonic us; 0: it does not */
    struct buf body;

    /* the handler's, one thread at a time */
    struct http_pair *out_headers;
    bool lacks_header; /* one had no memory */
    const char *query; /* raw, or NULL */
    struct http_pair *args;
    bool args_parsed;
    int nheaders;
    struct http_pair header[HTTP_HEADERS];

    bool answered;  /* (L) reply made or stream opened */
    bool finished;  /* (L) reply made, stream ended or aborted: the handler owes nothing more */
    bool owed;      /* (L) the handler has the request and its reference */
    bool suspended; /* (L) */
    bool mhd_done;  /* (L) */
    bool gone_told; /* (L) */
    _Atomic bool gone;
    int status;
    size_t reply_bytes;
    struct MHD_Response *response;
    void (*on_gone)(struct http_request *r); /* (L) */
    void (*on_free)(struct http_request *r);
    struct http_stream stream;
};

struct http_server {
    struct http_options opt;
    struct MHD_Daemon **daemon; /* one a worker */
    int listen_fd;
    bool inherited; /* the listening socket is shared with a supervisor */
    char *unix_path;
    dev_t unix_dev;
    ino_t unix_ino;
    _Atomic int refs, in_flight, nconns;
    _Atomic int coming; /* accepted, and not yet seen by their worker */
    _Atomic bool quiescing, aborting, watch_stop, accept_stop, shedding;
    _Atomic int ncut;
    int watch_epoll, watch_wake;
    pthread_t watcher;
    int accept_wake;
    unsigned next_worker; /* the accepter's */
    pthread_t accepter;
    pthread_mutex_t lock; /* covers conns and dead */
    struct http_conn *conns, *dead;
};

/* http_listen.c: a listening socket for "ADDR:PORT", "unix:PATH" or "fd:N"; *bound is malloc'ed. */
int http_listen(struct http_server *s, const char *where, char **bound, struct err *e);
void http_listen_quiesce(struct http_server *s); /* refuse from now on; the descriptor stays */
void http_listen_close(struct http_server *s);

/* http_accept.c: after the workers have started; stopping shuts the listening socket and waits for the thread. */
int http_accept_start(struct http_server *s, struct err *e);
void http_accept_stop(struct http_server *s);

/* http_guard.c */
/* method and version as libmicrohttpd gave them, in its own buffer; also fills x->header. */
int http_guard(struct http_exchange *x, const char *method, const char *version, struct err *e);
bool http_is_token(const char *s, size_t n);
bool http_is_text(const char *s, size_t n); /* no control bytes but tab */

/* http_uri.c: fills r.path and x->query from x->raw_uri. */
int http_uri_parse(struct http_exchange *x, struct err *e);

/* http_route.c: fills r.route and r.param; ERR_NOT_FOUND, or ERR_METHOD with the Allow header set. */
int http_route_find(struct http_exchange *x, struct err *e);

/* http_exchange.c: libmicrohttpd's callbacks and the life of an exchange. */
void *http_on_uri(void *cls, const char *uri, struct MHD_Connection *c);
enum MHD_Result http_on_access(void *cls, struct MHD_Connection *c, const char *url, const char *method,
                               const char *version, const char *upload, size_t *size, void **state);
void http_on_completed(void *cls, struct MHD_Connection *c, void **state, enum MHD_RequestTerminationCode code);
void http_ref(struct http_exchange *x);
void http_unref(struct http_exchange *x);
void http_wake(struct http_exchange *x);             /* under x->lock: resume if suspended */
bool http_is_lost(const struct http_exchange *x);    /* under x->lock: no use in sending anything more */
void http_lost(struct http_exchange *x, bool force); /* the client is gone, or the server stops (force) */
void http_server_unref(struct http_server *s);

/* http_reply.c: status and headers onto x->response, under x->lock. */
void http_dress(struct http_exchange *x, int status, const char *content_type);

/* http_stream.c: libmicrohttpd has finished with the stream; tells on_close. */
void http_stream_over(struct http_exchange *x, bool ok);

/* http_quiet.c: the worker waits for more of a body from here on; and it has the request in hand again: false: it was answered meanwhile, close. */
void http_quiet_begin(struct http_exchange *x);
bool http_quiet_end(struct http_exchange *x);
void http_quiet_look(struct http_server *s); /* the watcher's */

/* http_reap.c */
void http_reap_begin(struct http_conn *c);                /* a new connection */
void http_reap_body(struct http_exchange *x);             /* a worker: its body shall come in time */
void http_reap_look(struct http_conn *c, int64_t now_us); /* the watcher, under server.lock */

/* http_watch.c */
int http_watch_start(struct http_server *s, struct err *e);
void http_watch_stop(struct http_server *s);
void http_on_connection(void *cls, struct MHD_Connection *c, void **state, enum MHD_ConnectionNotificationCode code);
