/* weft-simulate: gateways' placement and engines' steps, without either, at a size that nobody has at hand.
 *
 * What decides is not modelled but linked: placement is gateway/pool/place.c, and the time of a step and how many rows of
 * a prompt fit into one are engine/sched_cost.c. What is modelled is what happens around them: requests in a trace, the
 * counts that the gateway keeps, an engine's adapter slots, its loader, and steps of continuous batching with prompts in
 * chunks (sim_engine.c says what of engine/sched is left out). Time is an event's, in microseconds; nothing reads a
 * clock, and all that is random comes from a seed, so a run gives the same figures each time.
 *
 *     trace_make, trace_read -> struct trace -> sim_run(policy) -> struct tally -> table, JSON lines -> plot
 *
 * One thread. Memory: a few words a request and an adapter; bounds are those of settings.def. */
#pragma once
#include "base/conf.h"
#include "engine/sched_cost.h"
#include "gateway/pool/place.h"

struct sim_settings {
#define X CONF_FIELD
#include "tests/sim/settings.def"
#undef X
};
extern const struct conf_row sim_rows[];
extern const size_t sim_nrows;

/* --- chance: splitmix64 --- */

uint64_t chance_next(uint64_t *s);
double chance_unit(uint64_t *s);        /* inside (0, 1) */
double chance_exponential(uint64_t *s); /* of mean 1 */
double chance_normal(uint64_t *s);

/* --- requests --- */

enum { TRACE_REQUESTS_MAX = 10000000, TRACE_TOKENS_MAX = 1000000, TRACE_RANK_MAX = 512 };

struct request {
    double at_us; /* it comes */
    int tenant, adapter, prompt, output;
};

struct trace {
    struct request *v;
    int n, adapters, tenants;
    int *rank;     /* [adapters] */
    uint64_t *key; /* [adapters], what placement hashes */
};

/* By the settings: popularity by Zipf's law, arrivals by Poisson's with bursts of one adapter, lengths lognormal. */
int trace_make(struct trace *t, const struct sim_settings *o, struct err *e);
/* at_us, tenant, adapter, prompt, output and, if there is one, rank (else drawn by the name): a header line and rows of
 * CSV, or an object a line. Names are strings or numbers. In order of time. */
int trace_read(struct trace *t, const char *path, struct err *e);
int trace_write(const struct trace *t, const char *path, struct err *e);
void trace_close(struct trace *t);

/* --- an engine's slots: what is used least recently goes first, and nothing that is held --- */

struct slot {
    int adapter, holds;
    bool ready; /* loaded */
    uint64_t used, mark;
};

struct slots {
    struct slot *v;
    int n, cap;
    uint64_t clock;
};

int slots_init(struct slots *s, int cap, struct err *e);
void slots_close(struct slots *s);
struct slot *slots_find(struct slots *s, int adapter); /* NULL: not there; else it is used now */
/* A slot for an adapter that has none, not ready; NULL: all are held. */
struct slot *slots_take(struct slots *s, int adapter);

/* --- one engine --- */

enum { ENGINE_NONE = -1, ENGINE_LOADING = 4, ENGINE_SCAN = 64 };

/* A request on its way. */
struct way {
    const struct request *q;
    int engine, slot;  /* slot: -1 none yet */
    int done, made;    /* positions computed; tokens given */
    int rows;          /* of this step */
    int next;          /* in a queue */
    bool cold, loaded; /* its adapter was not ready when it came; it was the one that had it loaded */
    double first_us, end_us;
};

struct queue {
    int first, last, n;
};

struct engine {
    struct slots slots;
    struct queue waiting;
    int *running, nrunning; /* in the order in which they began */
    int load[ENGINE_LOADING], nload; /* slots that are loaded one after the other, the first now */
    double step_end, load_end;       /* 0: none */
    double busy_us, load_us;
    uint64_t steps, marks;
    int64_t loads;
};

struct sim;
int engine_init(struct engine *g, const struct sim_settings *o, struct err *e);
void engine_close(struct engine *g);
void engine_give(struct sim *s, int engine, int way); /* a request comes to it */
void engine_loaded(struct sim *s, int engine);        /* its load_end is now */
void engine_stepped(struct sim *s, int engine);       /* its step_end is now */

/* --- policies --- */

struct router {
    struct place *v; /* [engines] */
    int n, nfull;
    const struct trace *trace;
    int *hot; /* [adapters] in flight */
    uint64_t seed, turn;
};

struct policy {
    const char *name;
    /* One of v[0..n), n at least 1. */
    int (*pick)(struct router *r, const struct place *v, int n, int adapter);
    const char *what;
};
extern const struct policy policies[];
extern const int npolicies;
const struct policy *policy_find(const char *name);
/* Index of the engine, ENGINE_NONE: all are full; router_end() when a request has ended. */
int router_pick(struct router *r, const struct policy *p, int adapter);
void router_end(struct router *r, int engine, int adapter);

/* --- the whole --- */

struct tally {
    int64_t requests, ended, cold, loads; /* counted */
    int64_t first_seen; /* adapters among them that nobody had asked for before: no policy loads less */
    int64_t pooled;     /* loads of one least-recently-used store of all engines' slots: what sharing without copies can reach */
    int64_t prompt_tokens, output_tokens;
    double ttft_ms[4], tpot_ms[4]; /* p50, p90, p99, mean */
    double work_most, work_cv;     /* engines' work: the most over the mean; standard deviation over the mean */
    double flight_most;            /* requests in flight: the most over the mean, the mean of all looks */
    double busy, busy_most;        /* share of the time in steps */
    double places;                 /* engines that an adapter's requests went to, the mean over requests */
    double seconds;                /* simulated */
};

struct event {
    double at_us;
    int kind, engine;
};

struct sim {
    const struct sim_settings *o;
    const struct trace *trace;
    const struct policy *policy;
    struct cost_model cost;
    struct engine *engine; /* [engines] */
    struct way *way;       /* [requests] */
    struct router router;
    struct queue held; /* by the gateway: all engines are full */
    double now_us;
    struct event *heap;
    int nheap;
    int first_counted, ended;
    double flight_sum;
    int flight_looks;
};

int sim_open(struct sim **out, const struct sim_settings *o, const struct trace *t, const struct policy *p, struct err *e);
void sim_run(struct sim *s); /* to the end of the last request */
void sim_tell(const struct sim *s, struct tally *out);
void sim_close(struct sim *s);

void queue_init(struct queue *q);
void queue_push(struct sim *s, struct queue *q, int way);
/* engine to simulator: an event of its own; a request has ended. */
enum { EVENT_STEP, EVENT_LOAD, EVENT_WATCH };
void sim_at(struct sim *s, double at_us, int kind, int engine);
void sim_ended(struct sim *s, int way);
