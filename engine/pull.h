/* Adapters from afar: an engine that shares no folder with its gateway fetches versions by their digest (schema/ENGINE_API.md, "Blobs").
 *
 * The engine itself has no network but the connections that it accepts (engine/room.c). So pull_start() forks, before anything is read or confined,
 * a process that has: the puller (engine/pull_helper.c), with no model, no prompt and no key but its own token, and two of its kind a pull
 * (engine/pull_keep.c). The engine and the puller talk over a socket pair:
 *
 *     pull_load(DIGEST) -- in the store? --> lora_load
 *            | no: one pull a digest, however many ask
 *            GET --> puller: list of files, sizes --> NEED bytes --> evict what nobody uses (DROP), GO --> files, verified, renamed into the store
 *            DONE <-- --> lora_load, for all who wait
 *
 * The store is this engine's alone, and a cache: at most max_bytes, the longest unused goes first, what is resident, loading or claimed by a
 * request never. What the loader then finds to be damaged is dropped and pulled again, once.
 *
 * All functions but start, serve and free are for any thread. */
#pragma once
#include "base/metrics.h"
#include "engine/lora.h"

struct pull;

struct pull_options {
    const char *url;        /* of the gateway's listener for blobs, without a slash at its end; http or https */
    const char *token_file; /* read anew for each pull */
    const char *ca_file;    /* authorities that are trusted beside the system's, or "" */
    const char *store;      /* BLOBS root */
    const char *confine;    /* the setting */
    int64_t max_bytes;      /* of the store */
    int total_s, stall_s;   /* of one pull; without a byte */
    int max_rank;
    struct metrics *metrics; /* rows of meters.h; NULL: none */
};

/* Sweeps what was left half fetched, reads what the store holds, starts the puller. The calling process must have one thread. Strings are borrowed
 * for good. ERR_USAGE: the store is another engine's, or can't be written. */
int pull_start(struct pull **out, const struct pull_options *o, struct err *e);
/* The thread that hears the puller; after this loads may come. `loras` and `base` are borrowed until pull_stop(). */
int pull_serve(struct pull *p, struct lora_set *loras, const struct base_desc *base, struct metrics *m, struct err *e);
/* Who waits gets ERR_UNAVAILABLE; the puller ends. Before lora_set_free(). */
void pull_stop(struct pull *p);
void pull_free(struct pull *p); /* NULL is fine */
bool pull_ended(struct pull *p); /* the puller is no more, and nobody asked it to go */

/* As lora_load(), without a path. Beside its errors: ERR_NOT_FOUND, the gateway has no such adapter for this engine; ERR_FETCH, also after total_s and
 * PULL_GRACE_S. */
void pull_load(struct pull *p, const char *digest, void (*done)(void *u, const struct err *e), void *u);
/* As lora_unload(); then the files go, too. A pull of it is ended, and its loads get ERR_ADAPTER_NOT_LOADED. */
void pull_unload(struct pull *p, const char *digest, void (*done)(void *u, const struct err *e), void *u);

struct pull_state {
    int64_t bytes, max_bytes; /* of the store, with what is being fetched */
    int blobs, pulling;
};
void pull_get_state(struct pull *p, struct pull_state *out);
