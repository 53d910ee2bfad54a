/* What the upstream*.c files share: the exchange. Not for others. */
#pragma once
#include "base/buf.h"
#include "gateway/live/live.h"
#include "gateway/observe/observe.h"
#include "gateway/pool/engine_kind.h"
#include "gateway/proxy/blame.h"
#include "gateway/proxy/relay.h"
#include "gateway/proxy/trial.h"
#include "gateway/proxy/upstream.h"
#include "gateway/settings.h"
#include <pthread.h>
#include <stdatomic.h>

#define EXCHANGE_ANSWER_MAX (64u << 20) /* bytes of an answer that is not a stream */
#define EXCHANGE_BODY_MAX (512u << 20)  /* bytes of a request in its engine's words */
#define EXCHANGE_ENGINE_WAIT_MS 15000   /* longest wait for an engine that is being restarted */
#define EXCHANGE_RELOADS 8              /* times that an adapter is unloaded between its load and its request */
#define EXCHANGE_LOADS 2                /* load calls of one request that may fail with a lost connection */
#define EXCHANGE_RETRIES 2              /* times that a request is sent again, before the first byte of an answer */
#define EXCHANGE_PROGRESS_US 1000000    /* a progress note so often */
#define EXCHANGE_PROGRESS_TOKENS 256    /* or after so many tokens */
#define EXCHANGE_PAUSE_MS 2000          /* longest pause of an engine for a reader that lags, before its stream's bound holds */
#define UPSTREAM_TICK_MS 50             /* how late a keep-alive or a resend may be */
#define RETRY_AFTER_S 1 /* where an engine that is busy does not say */
#define RETRY_AFTER_MAX_S 86400

struct outcome {
    enum usage_state state;
    int http_status;
};

struct exchange {
    struct upstream *up;
    struct gateway *g;
    struct http_request *req; /* not to be touched after the answer was given */
    struct admission adm;
    const char *path;
    struct upstream_route *route; /* [nroutes] */
    int nroutes;
    struct trial *trial; /* NULL: none */
    struct upstream_route *at; /* the one that is tried */
    atomic_int refs;           /* the request, and the timer while it looks */

    pthread_mutex_t lock;     /* covers the next five; taken before the client's and the engine's own locks */
    struct client_call *call; /* while one is under way */
    bool gone;                /* the client has left */
    bool lags;                /* its reader: the engine was paused, once until there is room again */
    bool closed_clean;        /* the stream was handed over to its end */
    uint64_t handed;          /* and its final mark */

    pthread_mutex_t write;      /* covers the next five: the client thread and the timer both write */
    struct http_stream *stream; /* once open */
    bool answered;              /* the answer was given: nothing more may be written */
    bool first_written;         /* a data line went out: no more keep-alives, no second try */
    bool lagged;                /* the reader was too slow: treated as gone */
    uint64_t written;           /* the mark of what was written last */
    struct buf tail;            /* the end mark, held back until the row is there */

    /* The pipeline's own: one stage at a time, handed on through queues. */
    bool admitted, settled, cold;
    struct pick pick; /* while m is set */
    struct blame_seat seat; /* there, once quarantine_enter() let it in */
    bool held;        /* a trial keeps it waiting: it may wait longer */
    uint64_t kept;    /* members that a trial kept it from in this wait */
    char engine[64];  /* the last that was picked, for the usage row */
    const char *kind; /* of the last that it was sent to */
    uint64_t life;    /* and its life (pool.h) */
    uint64_t tried;   /* members that lost or turned away this request */
    bool resent;      /* to one of those, which had come back: once */
    int reloads;      /* after "adapter_not_loaded", by this engine */
    int attempt, retries, lost_loads;
    const char *named_by;
    bool policy;
    int next_need;             /* of the route; those before it were loaded */
    int64_t arrived_us;        /* monotonic */
    int64_t load_begun_us, load_us; /* monotonic; waited for loads so far */
    int64_t engine_wait_until; /* monotonic us; 0: not waiting */
    struct kind_ask ask;       /* what is with the engine */
    struct buf body;           /* in the words of its kind; empty: the route's own */
    struct live_request live;
    struct relay relay;
    struct buf answer;
    bool too_large;
    int status;
    char content_type[96];
    int64_t retry_after_s; /* -1: it did not say */
    int64_t t_first, t_end;         /* wall us */
    int64_t noted_us, noted_tokens; /* of the last progress note */
    int64_t shown_tokens;           /* counted into `live` */
    int64_t receipt_until_us;       /* monotonic; 0: no receipt was asked for */
    bool receipt_next, receipt;     /* to be asked for at the next tick; the counts are one's */
    struct outcome out;
    int64_t delivered;     /* once it is settled */
    struct observed *seen; /* or NULL */
    bool strip;            /* the client's answer has no log-probabilities, the watch's has */
    struct watch *watch;   /* what goes to the client is copied there; NULL: it was not picked */

    /* Covered by the upstream's lock. */
    struct exchange *prev, *next;
    bool listed;
    int64_t due_us;  /* of the next keep-alive; 0: none */
    int64_t look_us; /* of the next look whether the engine is back; 0: not waiting for it */
    bool queued;     /* it has one of the places of those that wait for an engine */
};

struct upstream {
    struct gateway *g;
    _Atomic bool closing; /* what is lost from now on is lost to our own stop */
    struct live *live;
    pthread_t thread;
    pthread_mutex_t lock; /* covers the rest; nothing is called under it */
    pthread_cond_t wake;
    struct exchange *first, *last; /* the oldest comes first */
    _Atomic int queued; /* exchanges that wait for an engine */
    int freed;          /* places on engines that came free and that nobody was told of */
    struct pace {
        int64_t since_us;
        int frees;
    } pace; /* places that came free while somebody waited */
    bool stop;
};

/* upstream.c */
void exchange_proceed(struct exchange *x); /* next stage towards the engine, on any thread */
void exchange_unref(struct exchange *x);

/* upstream_route.c: which engine, by which route. */
int exchange_choose(struct exchange *x, bool elsewhere,
                    struct err *e);                           /* as pool_pick(), over the routes that are left */
void exchange_release(struct exchange *x, enum pick_end how); /* harmless where nothing is picked */
/* Gives this engine up and goes on at once on another that was not tried, if there is one: then true, and x is not to be
 * touched any more. */
bool exchange_elsewhere(struct exchange *x, enum pick_end how);
/* The same, and waits for an engine that comes back, this one too. */
bool exchange_again(struct exchange *x, enum pick_end how);
/* What is billed is what answers: the limits, the price and the row go to this route's adapter. -1: its limits refuse. */
int exchange_move(struct exchange *x, struct upstream_route *r, struct err *e);
bool exchange_next(struct exchange *x); /* the routes behind this one; false: the caller answers */

/* upstream_answer.c: the engine's side of an exchange, and the one answer to the client. */
void exchange_fail(struct exchange *x, enum usage_state state,
                   const struct err *e); /* answers; x is not to be touched after */
void exchange_drop(struct exchange *x);  /* the client is gone; likewise */
void exchange_keepalive(struct exchange *x);
void exchange_on_head(void *x, const struct client_reply *r);
int exchange_on_data(void *x, const char *bytes, size_t n);
void exchange_on_done(void *x, const struct client_reply *r, const struct err *e);

/* upstream_send.c */
int exchange_send(struct exchange *x, struct err *e);

/* upstream_settle.c */
void exchange_settle(struct exchange *x, void (*done)(void *u), void *u); /* at most once */
int64_t exchange_now(const struct exchange *x); /* wall us, the request's own: its start and what has passed since */
void exchange_over(struct exchange *x);                                   /* the limits get back what was too much, before the client sees the end */
void exchange_note(struct exchange *x);                                   /* progress, where due */

/* upstream_receipt.c: of a client that left. True: it is under way, and x is not to be touched any more. */
bool receipt_wait(struct exchange *x); /* first: the engine needs a moment to notice */
bool receipt_ask(struct exchange *x);  /* where that has passed */

/* upstream_wait.c */
void wait_keepalive(struct exchange *x); /* a comment every keepalive_ms, until wait_forget() or the first token */
int wait_engine(struct exchange *x, struct err *e); /* exchange_proceed() again at the next tick, or when a place comes free; ERR_QUEUE_FULL */
void wait_tick(struct exchange *x);      /* exchange_proceed() again at the next tick */
void wait_served(struct exchange *x);    /* it has its engine: its place among those that wait is another's */
void wait_freed(struct upstream *u);     /* an engine has a place again */
void wait_forget(struct exchange *x);
