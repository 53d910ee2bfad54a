/* The engines that serve: which there are, how they are, which one gets a request (GATEWAY.md section 5).
 *
 * An engine is a row: kind weft (spawned here, or at an address, with a token that both sides prove), vllm (its own routes
 * for adapters, no headers of ours), openai (an upstream that knows its own models only: no adapters). The pool watches
 * each one's health and queue, and picks:
 *
 *   an adapter   rendezvous hashing of its digest over the healthy engines of its base, so it lives on few; on one more
 *                where those are loaded beyond LOAD_BOUND times the mean
 *   the base     the less loaded of two picked at random
 *
 * An engine that loses requests or fails its health check is ejected, comes back by and by (slow start), and when it
 * drains gets nothing new. Rows change while traffic runs; what was picked stays valid until it is done. */
#pragma once
#include "adapters/adapter.h"
#include "base/buf.h"
#include "base/client.h"
#include "gateway/db/db.h"

#define POOL_ENGINES 64
#define PICK_DIGESTS 4
#define ENGINE_BASE_LEN 128

enum engine_kind { ENGINE_WEFT, ENGINE_VLLM, ENGINE_OPENAI, ENGINE_KINDS };

struct pool;
struct member; /* one engine of the pool */
struct metrics;
struct engine_link;
struct engine_options;
struct kind;
struct json_t;
struct page;

struct pool_options {
    struct db *db;
    struct client *client;
    const char *run;                    /* folder of sockets */
    const struct engine_options *spawn; /* what spawned engines are started with */
    const struct engine_options *own;   /* the engine of the settings; NULL: none */
    /* A life of an engine (pick.life) is over, and all who were lost with it know by now: did it crash? On its watcher's thread. */
    void (*ended)(void *u, const char *engine, uint64_t life, bool crashed);
    void *user;
};

/* Reads the table and begins to watch; waits for nothing. */
int pool_open(struct pool **out, const struct pool_options *o, struct err *e);
/* When nothing is picked any more. Lets spawned engines go on (`keep`), or asks them to stop and waits up to grace_ms. */
void pool_close(struct pool *p, bool keep, int grace_ms);

/* --- a request's way --- */

struct pool_want {
    const char *base;                 /* name under which it is served */
    const char *digest[PICK_DIGESTS]; /* adapters that the request needs */
    int ndigests;
    bool local_only;   /* a private tenant: engines that are local, or none */
    uint64_t tried;    /* bits of members that this request was lost on already: others first */
    bool only_untried; /* others, or none */
};

/* One request's hold on an engine. */
struct pick {
    struct member *m;
    uint64_t bit;         /* for `tried` */
    uint64_t life;        /* of the engine: how often it had become ready */
    struct pool_hot *hot; /* the pool's own */
};

/* 0: picked, to be ended by pool_done(). 1: none now, but one is starting, coming back or full: wait and ask again; e says
 * which. -1: ERR_UNAVAILABLE: none will; ERR_MODEL_NOT_FOUND: no engine of this base. */
int pool_pick(struct pool *p, const struct pool_want *w, struct pick *out, struct err *e);

enum pick_end {
    PICK_OK,
    PICK_REFUSED, /* it said no: busy, full, or the request was at fault */
    PICK_LOST,    /* the connection broke or was not to be had */
    PICK_FAILED,  /* it answered that it failed */
    PICK_TIMEOUT,
    PICK_UNUSED
};
void pool_done(struct pool *p, struct pick *k, enum pick_end how);

/* A request that this engine (by name) served is settled, with so many tokens generated. */
void pool_settled(struct pool *p, const char *engine, int64_t output);

/* Makes a digest usable on the picked engine; single flight per engine and digest; done on the client's thread. */
void pool_load(struct pick *k, const char *digest, void (*done)(void *u, bool cold, const struct err *e), void *u);
bool pool_has(struct pick *k, const char *digest);
void pool_forget(struct pick *k, const char *digest); /* it said that it does not have it */
void pool_unload(struct pool *p, const char *digest); /* everywhere; fire and forget, repeated */
/* Makes a digest usable on the engine where its next request would go; asks even where it is believed to be. engine, life: where; "": none was
 * picked. */
void pool_warm(struct pool *p, const char *base, const char *digest, bool local_only,
               void (*done)(void *u, bool cold, const char *engine, uint64_t life, const struct err *e), void *u);

/* What is said to an engine of its kind, and how its answers count. */
const char *pick_name(const struct pick *k);
enum engine_kind pick_kind(const struct pick *k);
const struct kind *pick_ops(const struct pick *k);
void pick_link(const struct pick *k, struct engine_link *out); /* valid until pool_done() */

/* --- what is served --- */

/* The base as its engines describe it: name, digest, shapes. ERR_MODEL_NOT_FOUND: none has this name; "": the only or
 * first one. ERR_UNAVAILABLE: not known yet. A base whose engines describe nothing (kind openai) has no modules. */
int pool_base(struct pool *p, const char *name, struct base_desc *out, int *max_context, struct err *e);
/* The same without the shapes, which are some KB that a request has no use for. */
struct pool_base_id {
    char name[ENGINE_BASE_LEN], digest[SHA256_HEX];
};
int pool_base_id(struct pool *p, const char *name, struct pool_base_id *out, int *max_context, struct err *e);
/* Calls fn for each base that is served. */
void pool_bases(struct pool *p, void (*fn)(void *u, const char *name, bool ready), void *u);

bool pool_ready(struct pool *p); /* some engine can serve */
/* For the engine of the settings, as engine_wait(); 0 at once where there is none. */
int pool_wait(struct pool *p, int wait_ms, struct err *e);
/* Until every engine that has receipts answers, or wait_ms are over. */
void pool_wait_all(struct pool *p, int wait_ms);
/* For ledger_recover(): the first engine that knows the request. */
int pool_receipt(void *pool, const char *id, int64_t *prompt, int64_t *cached, int64_t *output, char finish[16]);

/* --- what is seen of it --- */

struct json_t *pool_device(struct pool *p); /* of the first engine that is ready; NULL: it does not say */
void pool_meter(struct pool *p, struct metrics *m);
struct pool_sums {
    int ready, total, running, waiting, adapters; /* engines; requests there, as they say; adapters that they hold */
};
void pool_sum(struct pool *p, struct pool_sums *out);
/* What an engine may be given: its base as it is served here, private tenants' adapters. base "": it serves another one than
 * the older ones under that name. ERR_NOT_FOUND: there is none. */
struct pool_rights {
    bool local;
    char base[128];
};
int pool_rights(struct pool *p, const char *name, struct pool_rights *out, struct err *e);
/* [{name, requests_gateway, requests_engine, tokens_gateway, tokens_engine, ratio}], since each became ready; null: it does not say. */
struct json_t *pool_tally(struct pool *p);
/* An engine's own /metrics; done on the client's thread, with its text or why there is none. ERR_NOT_FOUND, ERR_UNAVAILABLE at once. */
int pool_scrape(struct pool *p, const char *name, void (*done)(void *u, const struct buf *text, const struct err *e), void *u, struct err *e);
/* [{"targets":[host],"labels":{"__metrics_path__","engine","kind"}}] of those that have one, as Prometheus' HTTP service discovery reads it. */
struct json_t *pool_targets(struct pool *p, const char *host);
/* Engines by name, as page.h says; or one (ERR_NOT_FOUND). */
int pool_list(struct pool *p, const struct page *page, struct json_t *list, bool *more, struct err *e);
int pool_get(struct pool *p, const char *name, struct json_t **out, struct err *e);
/* Appends {"engine","in_flight","resident"} for each engine that holds or is asked for the digest. */
void pool_where(struct pool *p, const char *digest, struct json_t *list);
int64_t pool_evictions(struct pool *p, const char *digest); /* how often it left an engine of now (engine_evictions()) */

/* --- changing it (pool_rows.c); blocking, not on the writer's thread; in force when it returns --- */

struct actor;
enum member_state { MEMBER_ENABLED, MEMBER_DRAINING, MEMBER_DISABLED };
extern const char *const member_state_name[];

/* body: the fields of an engine, for PATCH those that change. want: as revision.h says. */
int pool_create(struct pool *p, const struct actor *by, const struct json_t *body, struct json_t **out, struct err *e);
int pool_change(struct pool *p, const struct actor *by, const char *name, int64_t want, const struct json_t *body,
                struct json_t **out, struct err *e);
int pool_set_state(struct pool *p, const struct actor *by, const char *name, int64_t want, enum member_state s,
                   struct json_t **out, struct err *e);
int pool_remove(struct pool *p, const struct actor *by, const char *name, int64_t want, struct err *e);
