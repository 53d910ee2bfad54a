/* Upstream: one admitted request's exchange with the engine, from admission to settlement, without holding a thread.
 *
 * upstream_start() takes a request that has passed authentication, parsing and the registry, and owes its answer from
 * then on. It writes the admission, loads the adapter where needed, sends the request, passes the answer on, and
 * settles exactly once, whatever happens. */
#pragma once
#include "gateway/gateway.h"

struct upstream;
struct exchange;
struct watch;

/* One small timer thread: keep-alive comments and waits for an engine that is being restarted. g must outlive it. */
int upstream_open(struct upstream **out, struct gateway *g, struct err *e);
/* Before client_stop(): exchanges that it cuts end as "shutting down", and are not sent again. */
void upstream_stop(struct upstream *u);
void upstream_close(struct upstream *u); /* when no request is in flight any more; NULL is fine */

#define UPSTREAM_ADAPTERS 4 /* that a request may sum, as the engine bounds it */

/* An adapter that answers, so that the engine must hold it before it gets the request. */
struct upstream_need {
    char digest[SHA256_HEX];
    char name[NAME_MAX_LEN + 16];    /* as the client said it */
    char version[NAME_MAX_LEN + 16]; /* NAME@N */
};

#define UPSTREAM_ROUTES 4 /* of a chain */

/* One way to answer the request. Several are tried in turn, before the first byte of an answer: the next one where no engine can serve this one. */
struct upstream_route {
    struct target what;
    struct price price; /* of what; set with the limits */
    struct upstream_need need[UPSTREAM_ADAPTERS]; /* the model's own, or those of `adapters` in its place */
    int nneeds;
    char *body; /* what is sent to the engine; malloc'ed, taken over by upstream_start() */
    size_t body_len;
    char name[SHA256_HEX]; /* in quarantine; "": not computed yet */
};

struct upstream_ask {
    struct admission adm; /* complete but for id (and t_start, which limit_start() sets); adm.what is route[0].what */
    const char *path;     /* of the engine's route: "/v1/chat/completions" */
    const char *named_by; /* the field that says which adapters: "model" or "adapters" */
    struct watch *watch;  /* gateway/quality/quality.h; NULL: nobody looks at it afterwards. Taken over by upstream_start() */
    bool strip;           /* log-probabilities were asked for beyond what the client wants: gateway/proxy/logprobs_strip.h */
    bool policy;          /* the bodies ask for a prompt policy, which not all engines know */
    struct upstream_route route[UPSTREAM_ROUTES];
    int nroutes;
    struct trial *trial; /* of an adaptive alias (trial.h); NULL: none. The exchange's, like the bodies */
};

/* Frees the bodies and the watch, and gives back what the needs hold (gateway/registry/alias.h), of one that was not started. */
void upstream_drop(struct gateway *g, struct upstream_ask *ask);

/* Answers r, now or later. At most once for a request, by the thread that has it. Bodies and holds in *ask are the exchange's. */
void upstream_start(struct upstream *u, struct http_request *r, const struct upstream_ask *ask);

/* Before a body is read: is there room among those that wait for an engine, for this tenant? 0, or -1 with ERR_QUEUE_FULL. Any thread. */
int upstream_has_room(struct upstream *u, const struct principal *who, struct err *e);

/* What is in flight, per tenant and adapter. */
struct live *upstream_live(struct upstream *u);
