/* One engine of the pool: watched, asked, and where it is ours spawned and restarted. gateway/pool/pool.h is what others use.
 *
 * States: down -> starting -> ready -> (dead -> down with backoff). A spawned engine that answers on its socket (left from
 * a gateway that was killed) is adopted when it runs what is asked for. What is said to it is its kind's affair. */
#pragma once
#include "base/client.h"
#include "gateway/pool/engine_kind.h"

struct engine;

#define ENGINE_EXTRA_MAX 64 /* words of a spawned one's own settings */

struct engine_options {
    const struct kind *kind;
    const char *name;              /* of the row */
    const char *base;              /* the name under which its base is served; "" (weft): the engine's own */
    const char *url;               /* "http://host:port", "https://...", "unix:/path"; "": spawned */
    const char *secret;            /* its token or key, or "" */
    const char *upstream_model;    /* the engine's own name of the model, where the row says it */
    const char *store;             /* blobs, as the engine's machine names them */
    const struct json_t *settings; /* of the row, or NULL; copied */
    bool local;

    /* Of a spawned one. */
    const char *program; /* path of weft-engine */
    const char *model;
    const char *base_name; /* "" from the file */
    const char *precision, *kernels, *kv_type, *device, *confine;
    const char *chat_template, *draft_model; /* files, or "" */
    const char *medusa;                      /* a folder, or "" */
    const char *socket;                      /* $WEFT_DATA/run/engine-NAME.sock or run/engine.sock */
    const char *cache;                       /* packed copies of bases; "": none */
    int cache_mb, adapter_mb, max_context, max_slots, kv_mb, threads, max_running, speculate, medusa_nodes, tp;
    bool prefix_cache;
    const char *const *extra; /* "--name", "value", ..., NULL: go before those above; or NULL */

    void (*ended)(void *u, const char *name, uint64_t life, bool crashed); /* as struct pool_options says; or NULL */
    void *user;
};

int engine_open(struct engine **out, const struct engine_options *o, struct client *c, struct err *e);

/* It will be closed: its watcher ends by itself, so that of many that hang all are waited for at once. */
void engine_stop(struct engine *g);
/* Lets a spawned engine go on (`keep`), or asks it to stop and waits up to grace_ms. */
void engine_close(struct engine *g, bool keep, int grace_ms);

enum engine_state { ENGINE_DOWN, ENGINE_STARTING, ENGINE_READY };
extern const char *const engine_state_name[];
enum engine_state engine_state_of(struct engine *g); /* no lock */
bool engine_ready(struct engine *g);                 /* and not suspected; no lock */
/* Blocks until ready, or ERR_UNAVAILABLE after wait_ms, or ERR_MODEL when it refused the model (exit code 3). */
int engine_wait(struct engine *g, int wait_ms, struct err *e);
uint64_t engine_lives(struct engine *g); /* how often it became ready; no lock */

/* What the last look found; ERR_UNAVAILABLE when nothing is known yet. */
int engine_get_view(struct engine *g, struct engine_view *out, struct err *e);
void engine_get_queue(struct engine *g, struct engine_queue *out); /* zeros where it does not say */

/* What this gateway settled of it and what it counted itself, since it became ready the last time. */
struct engine_tally {
    struct engine_counts ours, theirs;
    bool told; /* theirs is known */
};
void engine_get_tally(struct engine *g, struct engine_tally *out);
void engine_settled(struct engine *g, int64_t output); /* a request that it served, with so many tokens */
void engine_why(struct engine *g, char *out, size_t n);            /* what the last look failed by; "" */

/* Why it could not fetch an adapter that it was to load, as long as none was loaded since; "". */
void engine_why_load(struct engine *g, char *out, size_t n);

/* Where it is. Valid as long as the engine. */
void engine_get_link(struct engine *g, struct engine_link *out);

/* Make a digest usable there; single flight per digest; done on the client's thread. Also forgotten when the engine
 * restarts. */
void engine_load(struct engine *g, const char *digest, void (*done)(void *u, bool cold, const struct err *e), void *u);
void engine_unload(struct engine *g, const char *digest); /* fire and forget, with retries */
bool engine_has(struct engine *g, const char *digest);
/* It said that it does not have it: load again when next asked for. Whether it was thought to. */
bool engine_forget(struct engine *g, const char *digest);
void engine_doubt(struct engine *g, const char *digest); /* asks anew when it is next loaded, which is no harm where it is there */
/* How often this digest, or any (NULL), left the engine since the gateway's start: unloaded, found missing, or the engine
 * ended with it. */
int64_t engine_evictions(struct engine *g, const char *digest);
/* How many digests it is believed to hold; the first `max` go to fn. */
int engine_digests(struct engine *g, int max, void (*fn)(void *u, const char *digest), void *u);

/* A request met a dead connection: look now rather than at the next tick. */
void engine_suspect(struct engine *g);

/* Receipt for ledger_recover(): blocking, short time-out. */
int engine_receipt(struct engine *g, const char *id, struct relay_counts *out);
