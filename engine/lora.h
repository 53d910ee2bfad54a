/* Resident adapters: slots, the loader threads, pins.
 *
 * An adapter is named by its digest. lora_load() makes it known and resident; the loader threads read, verify (digest
 * included) and pack it, so the step never touches a disk. At most max_slots and max_bytes are resident; the least recently used unpinned
 * ones are dropped for a new one. A known adapter that was dropped is loaded again when a request asks for it. A slot in use is pinned, so it never
 * changes under a request; a request that will need a slot, now or again, claims the adapter. Unload waits for both.
 *
 * All functions are safe from any thread. Callbacks run on a loader thread, or at once on the caller's, and must not block. */
#pragma once
#include "base/metrics.h"
#include "engine/model.h"
#include "kernels/device.h"

struct lora_set;
struct lora_entry;

struct lora_slot {
    char digest[SHA256_HEX];
    int id; /* 0 .. max_slots-1 */
    int max_rank;
    struct lora_mod *mod;    /* [layers][LORA_MODULES] */
    struct lora_table table; /* all that products look up; table.mod is `mod` */
    /* aLoRA: rows before the last occurrence of these tokens in the prompt use the base, and so does a prompt without
     * one. ninvocation 0: every row uses the adapter. */
    const int32_t *invocation;
    int ninvocation;
    const char *kind; /* "lora", "dora", "alora" */
    size_t bytes;
};

enum lora_state { LORA_COLD, LORA_LOADING, LORA_RESIDENT, LORA_DRAINING };
extern const char *const lora_state_name[];

struct lora_info {
    char digest[SHA256_HEX];
    enum lora_state state;
    int rank, pins;
    size_t bytes;
    const char *kind;  /* of a slot; "" before it was resident */
    int64_t loaded_at; /* unix seconds */
};

struct lora_options {
    const char *store; /* BLOBS root: a lora_path must lie in it; NULL: any absolute folder */
    int max_slots;
    int64_t max_bytes; /* of all resident; 0: a quarter of the machine's memory. A larger adapter is refused. */
    int max_known;     /* adapters remembered, resident or not */
    int wait_ms;       /* longest wait for a slot: then ERR_NO_SLOT */
    int max_rank;
    struct metrics *metrics; /* rows of meters.h; NULL: none */
    struct device *device;   /* what is resident is there as well; NULL: this processor */
};

int lora_set_new(struct lora_set **out, const struct model *m, const struct lora_options *o, struct err *e);

/* While busy(u) is true a load takes a tenth of a core, in slices of half a millisecond; else as much as it gets.
 * busy() must not block and take no lock. NULL: never; the earlier one is not called any more once this returned. */
void lora_set_pace(struct lora_set *s, bool (*busy)(void *u), void *u);

/* After the scheduler, and everybody else who pins, is gone. Waiters that are left get ERR_UNAVAILABLE. */
void lora_set_free(struct lora_set *s);

int lora_max_slots(const struct lora_set *s);
int64_t lora_max_bytes(const struct lora_set *s);
int lora_max_rank(const struct lora_set *s);

/* Make `digest` usable from the folder `path` (loadable by vLLM as it is). Repeating is harmless; loads of one digest are done once and
 * shared. done(u, NULL) when resident, done(u, e) with ERR_NOT_FOUND (no such folder), ERR_ADAPTER_INVALID or ERR_NO_SLOT. */
void lora_load(struct lora_set *s, const char *digest, const char *path, void (*done)(void *u, const struct err *e),
               void *u);

/* From now on nobody can claim it; when the last claim and pin are given back it is freed, then done(u, NULL). ERR_ADAPTER_NOT_LOADED when unknown. */
void lora_unload(struct lora_set *s, const char *digest, void (*done)(void *u, const struct err *e), void *u);

/* Until the claim is given back the adapter can be pinned, as often as need be, whatever is dropped, forgotten or unloaded meanwhile. NULL:
 * ERR_ADAPTER_NOT_LOADED, it is unknown or being unloaded. */
struct lora_entry *lora_claim(struct lora_set *s, const char *digest, struct err *e);
void lora_unclaim(struct lora_set *s, struct lora_entry *claim);

/* Pin for a request: got(u, slot, NULL) once resident (perhaps before this returns), or got(u, NULL, e): ERR_ADAPTER_NOT_LOADED when unknown,
 * or being unloaded and claimed by nobody; ERR_NO_SLOT after wait_ms. `cold` tells whether it had to be loaded. Each slot got is given back with lora_unpin(). */
void lora_pin(struct lora_set *s, const char *digest,
              void (*got)(void *u, struct lora_slot *slot, bool cold, const struct err *e), void *u);
void lora_unpin(struct lora_set *s, struct lora_slot *slot);

/* Its folder is about to go: forgets it where nothing holds it (not resident, loading, claimed or waited for). true: it is unknown now. */
bool lora_let_go(struct lora_set *s, const char *digest);
bool lora_may_go(struct lora_set *s, const char *digest);      /* it would, just now; nothing is forgotten */
int64_t lora_used_us(struct lora_set *s, const char *digest); /* when it was used last, monotonic; 0: unknown */

/* Up to max infos of known adapters; returns the count. */
int lora_list(struct lora_set *s, struct lora_info *out, int max);
bool lora_known(struct lora_set *s, const char *digest);    /* could be claimed, just now */
bool lora_resident(struct lora_set *s, const char *digest); /* a pin would be answered at once, just now */

/* What the self-test measures: the modules of dense layers, then experts, router, lm_head and embed_tokens. */
enum { CHECK_EXPERTS = LORA_MODULES, CHECK_ROUTER, CHECK_HEAD, CHECK_EMBED, LORA_CHECKS };
extern const char *const lora_check_name[LORA_CHECKS];

/* Compare the fused path against plain float64, g (W x + s B A x), on seeded rows: the largest relative error of each
 * check, < 0 where nothing is adapted. Pins for the time. Blocking, on the caller's thread. */
int lora_selftest(struct lora_set *s, const char *digest, double err_of[LORA_CHECKS], struct err *e);
