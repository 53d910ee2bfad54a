/* Kinds: how one speaks to an engine of each sort (GATEWAY.md section 5, ENGINE_API.md).
 *
 * The pool and the upstream know no protocol but this table: one row per kind, each in a file of its own (engine_weft.c,
 * engine_vllm.c, engine_openai.c), joined in engine_kind.c. What a row leaves NULL is said beside it. Operations keep no
 * state of their own: they get the link, and the request that is answered.
 *
 * Threads: what looks (greet, look, queue, residents, receipt) blocks, on the engine's watcher, and asks by kind_get();
 * all others only read and write bytes, on the client's or a worker's thread. */
#pragma once
#include "adapters/adapter.h"
#include "base/buf.h"
#include "gateway/pool/pool.h"
#include "gateway/proxy/relay.h"
#include <sys/types.h>

struct json_t;

/* Where an engine is and what it is called. Borrowed for the call. */
struct engine_link {
    const char *name;              /* of its row */
    const char *base_url;          /* "http://host:port", no slash at its end; "http://engine" behind a socket */
    const char *unix_socket;       /* or NULL */
    const char *auth;              /* "Authorization: Bearer ...", or NULL */
    const char *secret;            /* what stands in auth, or "" */
    const char *base;              /* the name under which its base is served here; "" (weft): the engine's own */
    char model[128];               /* its own name of the base: of the row, or of the last look; "" not known yet */
    const char *store;             /* blobs, as this machine names them */
    const struct json_t *settings; /* the row's settings; an object, or NULL */
    bool local;
    bool pulls;                    /* as the last look found: it fetches what it loads by digest */
    bool policies;                 /* likewise: it knows prompt policies */
};

/* What an engine computes on, as it told when it became ready. */
struct engine_device {
    char backend[16]; /* "cpu", "cuda"; "": it does not say */
    char name[96];
    int ranks; /* devices that share the model */
    int64_t memory;
};

/* What a look found. Comes zeroed. */
struct engine_view {
    char model[128]; /* the engine's own name of the base */
    bool described;  /* base holds digest and shapes: adapters can be checked against it */
    struct base_desc base;
    int max_context; /* 0: it does not say */
    struct engine_device device;
    bool pulls; /* it fetches adapters from the listener for engines */
    bool policies; /* it knows prompt policies */
    pid_t pid; /* 0: it does not say */
};

/* Requests there, whoever sent them. Comes zeroed. */
struct engine_queue {
    int running, waiting;
    double kv_used; /* share of its KV memory, 0 to 1; 0 where it does not say */
    /* For people to look at; all 0 where it does not say. */
    int slots, slots_resident, slots_loading; /* of adapters */
    int pages, pages_used;                    /* of KV memory */
    int64_t steps, step_us_p50, step_us_p99;
};

/* What an engine counted since its start, whoever asked. */
struct engine_counts {
    int64_t requests, output; /* that ended; tokens generated */
};

/* One call that is to be made, of load and unload. */
struct kind_call {
    char path[64];
    struct buf body; /* initialized by the caller */
};

#define KIND_CHOICES 128 /* whose tokens are counted one by one while a stream lasts */

/* A request while it is with an engine, and what its client may see. The exchange's own; filled before write_body(). */
struct kind_ask {
    const char *id;     /* of the request */
    const char *model;  /* as the client wrote it: answers say this, never the engine's word */
    const char *path;   /* of the engine's route: "/v1/chat/completions" */
    const char *digest; /* the adapter in `model` of the body; NULL: the base, or `adapters` say which */
    const char *body;   /* JSON as weft-engine takes it: digests for adapters, `base` for the base, cache_salt */
    size_t len;
    bool stream;
    bool policy; /* the body asks for a prompt policy (schema/ENGINE_API.md) */
    /* For write_body() to note, and for event() and answer() to follow: */
    bool usage, usage_each;       /* the client asked for include_usage, continuous_usage_stats */
    int choices;                  /* of each prompt */
    char sent[128];               /* the name that stands in `model` of the body that was sent; "" the digest */
    uint32_t state[KIND_CHOICES]; /* of one answer; zeroed before each send */
};

/* What an answer that is not 200 means. */
enum kind_verdict {
    KIND_REFUSED,    /* the request is at fault: its status and body go to the client */
    KIND_BUSY,       /* not now: another engine first, else status and body go to the client */
    KIND_NOT_LOADED, /* it does not have the adapter: load, and send again */
    KIND_FAULT,      /* the adapter's values are not finite */
    KIND_FAILED,     /* anything else: the engine's fault, another engine first */
};

struct kind {
    const char *name;  /* "weft", as in JSON and in the table `engine` */
    bool adapters;     /* serves them at all */
    bool weft_headers; /* gets X-Weft-*: request id, tenant, weight, class, deadline, model */
    bool spawns;       /* a row without url starts one from `model` */
    const char
        *alive; /* path that is 200 while it lives; asked every second, without the bearer where alive_open. NULL:
                          it is not to be asked that often, what requests meet has to do */
    bool alive_open;
    const char *metrics; /* path of its metrics, for Prometheus; NULL: it has none */

    /* Before anything else is said to an engine with a secret, whenever the connection may be to somebody else: it proves
     * that it knows the secret, which is not sent. NULL: it is taken on trust. */
    int (*greet)(const struct engine_link *l, struct err *e);
    /* Can it serve, and as what? -1: not yet; asked again until it can. */
    int (*look)(const struct engine_link *l, struct engine_view *out, struct err *e);
    int (*queue)(const struct engine_link *l, struct engine_queue *out, struct err *e); /* NULL: what we sent counts */
    int (*counts)(const struct engine_link *l, struct engine_counts *out); /* 0 or -1; NULL: it does not say */
    /* The digests that it holds already. NULL: none are known. */
    int (*residents)(const struct engine_link *l, void (*one)(void *u, const char *digest), void *u, struct err *e);

    /* NULL without `adapters`. A load is done when the answer is 200; what else came becomes an error of ours (ERR_NOT_FOUND,
     * ERR_NO_SLOT, ERR_UNAVAILABLE, ERR_ADAPTER_INVALID, ...), or stays unset where it means that the adapter is there. */
    int (*load)(const struct engine_link *l, const char *digest, struct kind_call *out, struct err *e);
    void (*load_refused)(int status, const char *body, size_t n, struct err *e);
    int (*unload)(const struct engine_link *l, const char *digest, struct kind_call *out,
                  struct err *e); /* 200 or 404: done */

    /* The body for this engine: its own name of the model, fields of ours out, stream_options in. NULL, or nothing appended:
     * a->body as it is.
     * ERR_UNSUPPORTED and other 4xx: the request can't be said there. */
    int (*write_body)(const struct engine_link *l, struct kind_ask *a, struct buf *out, struct err *e);
    /* One `data:` line of a stream but [DONE]: appends the data that goes on (nothing: the event is left out), and notes
     * what it counts. NULL: lines pass as they are, counts come in comments (ENGINE_API.md, "Counting"). */
    int (*event)(struct kind_ask *a, const char *data, size_t n, struct relay_counts *c, struct buf *out);
    /* A whole answer. NULL: passes as it is, its `usage` counts. */
    int (*answer)(struct kind_ask *a, const char *body, size_t n, struct relay_counts *c, struct buf *out);
    /* Status and body of a refusal; appends the body in OpenAI's shape to out. */
    enum kind_verdict (*verdict)(const struct kind_ask *a, int status, const char *body, size_t n, struct buf *out);

    /* What became of a request: 0 with its counts. NULL: it does not know. */
    int (*receipt)(const struct engine_link *l, const char *id, struct relay_counts *out);
};

/* ERR_UNSUPPORTED: the alias has a prompt policy, and this engine can't follow it. */
int kind_refuse_policy(const struct engine_link *l, struct err *e);

/* The row of a kind; NULL: this build has none. */
const struct kind *kind_of(enum engine_kind k);
/* By its name, or -1. */
int kind_by_name(const char *name);

extern const struct kind kind_weft;   /* engine_weft.c */
extern const struct kind kind_vllm;   /* engine_vllm.c */
extern const struct kind kind_openai; /* engine_openai.c */

/* engine_kind.c: `residents` of those that list adapters in /v1/models, under their digests. Of one that says states those that a request could use at once: a
 * digest that it merely remembers is loaded again, which is harmless. */
int kind_residents(const struct engine_link *l, void (*one)(void *u, const char *digest), void *u, struct err *e);

/* engine_metrics.c: `counts` of those whose /metrics have vLLM's names, which weft-engine's have, too. */
int kind_counts(const struct engine_link *l, struct engine_counts *out);
/* All lines of a metric in a page of /metrics added up; n: how many there are. */
struct metric_sum {
    double sum;
    int n;
};
struct metric_sum kind_metric(const char *page, const char *name);

/* GET on an engine, blocking, within two seconds and 4 MiB. with_auth false: without the bearer. *body is malloc'ed. */
int kind_get(const struct engine_link *l, const char *path, bool with_auth, int *status, char **body, size_t *len,
             struct err *e);
/* The same for a JSON object that comes with 200; anything else is ERR_ENGINE. */
int kind_get_json(const struct engine_link *l, const char *path, struct json_t **out, struct err *e);

/* {"error":{..}} with code and message out of an answer; both "" where it is no such thing. For verdict and load_refused. */
struct kind_error {
    char code[64], type[64], message[448];
};
void kind_read_error(const char *body, size_t n, struct kind_error *out);
