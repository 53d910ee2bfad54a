/* Residency: what the life of an adapter asks of engines: what they serve, and that they load, keep, test, forget a
 * digest. The only file of the registry's side that talks to an engine. */
#pragma once
#include "gateway/gateway.h"
#include "gateway/pool/engine_answers.h"
#include <stdatomic.h>

/* A base that is served, by its name; "": the first. ERR_UNAVAILABLE: not known yet, ERR_MODEL_NOT_FOUND. */
int residency_base(struct gateway *g, const char *name, struct base_desc *out, struct err *e);
bool residency_serves(void *gateway, const char *base);
/* Those that are served and known, at most max; how many. */
int residency_bases(struct gateway *g, struct base_desc *out, int max);

/* Asks the engine where the digest's next request would go, even where it is believed to hold it, so that it stays among
 * those used last; a private tenant's goes to local engines only. Blocks for a look at the database; done on the
 * client's thread or at once. */
void residency_warm(struct gateway *g, const char *tenant, const char *digest,
                    void (*done)(void *u, bool cold, const struct err *e), void *u);
/* {"engine","resident"} of each engine that has the digest or is asked for it. How much is asked stays untold: others may
 * have a version with the same bytes. */
struct json_t;
struct json_t *residency_json(struct gateway *g, const char *digest);
void residency_unload(struct gateway *g, const char *digest); /* fire and forget; what runs on it is answered in full */

struct selftest {
    struct engine_selftest figure;
    bool lost;       /* the engine, while it loaded or tested: */
    char engine[64]; /* which, in which of its lives */
    uint64_t life;
};

/* Loads the digest, then compares the engine's path with plain arithmetic (ENGINE_API.md). Blocks, but no longer than
 * *stop is false. ERR_UNAVAILABLE, ERR_ENGINE, ERR_NO_SLOT, ERR_QUEUE_FULL, ERR_UPSTREAM_TIMEOUT: try again later;
 * everything else: the engine refuses it. */
/* may: is asked whether it may be this engine now; false: ERR_UNAVAILABLE. */
int residency_selftest(struct gateway *g, const char *tenant, const char *digest, const atomic_bool *stop,
                       bool (*may)(void *u, const char *engine), void *u, struct selftest *out, struct err *e);
