/* The engine that this gateway serves from: spawned, watched, restarted, and asked.
 *
 * States: starting -> ready -> (dead -> starting with backoff). The gateway adopts an engine that answers on the socket
 * (left from a gateway that was killed) when its base and precision are those asked for. */
#pragma once
#include "adapters/adapter.h"
#include "base/client.h"
#include "base/err.h"

struct engine;

struct engine_options {
    const char *program; /* path of weft-engine */
    const char *model;
    const char *base_name; /* "" from the file */
    const char *precision, *kernels, *kv_type;
    const char *chat_template, *draft_model; /* files, or "" */
    const char *socket;                      /* $WEFT_DATA/run/engine-BASE.sock or run/engine.sock */
    const char *store;                       /* blobs */
    const char *cache;                       /* packed copies of bases; "": none */
    int cache_mb, adapter_mb, max_context, max_slots, kv_mb, threads, max_running, speculate;
    bool prefix_cache;
    const char *url; /* instead of spawning: a weft-engine elsewhere, with token; or "" */
    const char *token;
};

int engine_open(struct engine **out, const struct engine_options *o, struct client *c, struct err *e);

/* Lets a spawned engine go on (`keep`), or asks it to stop and waits up to grace_ms. */
void engine_close(struct engine *g, bool keep, int grace_ms);

bool engine_ready(struct engine *g);
/* Blocks until ready, or ERR_UNAVAILABLE after wait_ms, or ERR_MODEL when it refused the model (exit code 3). */
int engine_wait(struct engine *g, int wait_ms, struct err *e);

/* Copies the description of the base (from GET /weft/v1/state); ERR_UNAVAILABLE when not known yet. */
int engine_base(struct engine *g, struct base_desc *out, struct err *e);
int engine_max_context(struct engine *g);

/* Where requests go: fills url ("http://engine" + path) and unix_socket of a client_request, and the bearer header if
 * any. */
void engine_address(struct engine *g, const char **base_url, const char **unix_socket, const char **auth_header);

/* Make a digest usable there; single flight per digest; done on the client's thread. Also forgotten when the engine
 * restarts. */
void engine_load(struct engine *g, const char *digest, void (*done)(void *u, bool cold, const struct err *e), void *u);
void engine_unload(struct engine *g, const char *digest); /* fire and forget, with retries */
bool engine_has(struct engine *g, const char *digest);
void engine_forget(struct engine *g,
                   const char *digest); /* it said that it does not have it: load again when next asked for */

/* A request met a dead connection: look now rather than at the next tick. */
void engine_suspect(struct engine *g);

/* Receipt for ledger_recover(): blocking, short time-out. */
int engine_receipt(void *engine, const char *id, int64_t *prompt, int64_t *cached, int64_t *output, char finish[16]);

const char *engine_name(struct engine *g); /* for usage rows: "local" */
