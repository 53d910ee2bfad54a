/* What lora*.c share. Private: others use lora.h.
 *
 * One lock guards every field below but those said otherwise. No callback runs under it: whoever settles waiters moves
 * them to a list of their own (lora_settle) and calls lora_fire() after unlocking. */
#pragma once
#include "engine/lora.h"
#include <pthread.h>

#define LORA_BUCKETS 4096
#define LORA_LOADERS 2 /* one reads and hashes something large, the other goes on with the rest */

enum wait_kind { WAIT_LOAD, WAIT_PIN, WAIT_UNLOAD };

/* Somebody who wants to hear: in an entry's list, or in a list to be fired. */
struct lora_waiter {
    struct lora_waiter *next;
    enum wait_kind kind;
    int64_t until_us;                                                             /* monotonic: no longer for a slot */
    void (*done)(void *u, const struct err *e);                                   /* WAIT_LOAD, WAIT_UNLOAD */
    void (*got)(void *u, struct lora_slot *slot, bool cold, const struct err *e); /* WAIT_PIN */
    void *u;
    struct lora_slot *slot; /* result of WAIT_PIN */
    struct err err;         /* code 0: it went well */
};

struct lora_waiters {
    struct lora_waiter *first, *last;
};

/* A known adapter. */
struct lora_entry {
    char digest[SHA256_HEX];
    char *path;
    enum lora_state state;
    struct slot *slot; /* RESIDENT, DRAINING */
    int claims;        /* of requests: it is neither forgotten nor unloaded before the last is given back */
    bool forgotten;    /* in no list any more: what is left goes with the last claim */
    struct lora_waiters waiters;
    int64_t last_use_us, loaded_at;
    int rank;
    const char *kind;
    size_t bytes;
    struct adapter_stamp stamp;     /* of its last load: what needs no second reading */
    struct lora_entry *chain;       /* of its bucket */
    struct lora_entry *prev, *next; /* of all */
    struct lora_entry *queue;       /* LOADING and not yet taken by the loader */
};

/* A place for a packed adapter. `pub` is immutable while the slot is pinned. */
struct slot {
    struct lora_slot pub;     /* first: a lora_slot is a slot */
    struct lora_entry *owner; /* NULL: free, or being filled by the loader */
    bool closing;             /* no new pins: the loader waits for it */
    int pins;
    /* lora_pack.c's */
    void *block; /* fresh or a dropped adapter's */
    size_t block_bytes;
    struct lora_mod *expert, *router, head;
    struct lora_embed embed;
    struct weight embed_full, head_full; /* n 0: none */
    int32_t invocation[PEFT_INVOCATION_MAX];
};

/* The memory of a dropped adapter, written into its own beginning: taken by the next load that it fits, else given back by the loader, for
 * nobody waits for munmap() under the lock. */
struct lora_spare {
    struct lora_spare *next;
    size_t bytes;
};

/* How fast a load may go (lora_pace.c). */
struct lora_pace {
    struct lora_set *s;
    int64_t rested_us; /* of the thread's own time: when it last rested */
};

struct lora_set {
    const struct model *m;
    struct lora_options o; /* o.store points to own memory */
    pthread_mutex_t lock;
    pthread_cond_t wake; /* the loaders: work, a pin given back, the turn to take a slot, stop */
    pthread_t thread[LORA_LOADERS];
    int started; /* threads */
    bool stop, taking; /* one of them takes a slot and fills it */
    int loading;       /* of them at work: they share the time that a step can spare */
    bool (*busy)(void *u); /* called with the lock held; NULL: never busy */
    void *busy_u;
    struct lora_spare *spare;
    struct slot *slot; /* [max_slots] */
    int nknown;
    struct lora_entry *bucket[LORA_BUCKETS], *first;
    struct lora_entry *queue_first, *queue_last;
};

/* --- lora.c; all with the lock held --- */
void lora_enqueue(struct lora_set *s, struct lora_entry *e); /* state becomes LOADING */
void lora_forget(struct lora_set *s, struct lora_entry *e);  /* it has neither slot nor waiters */
/* Move the entry's waiters of kind to `out` with the outcome `err` (NULL: well). WAIT_PIN that goes well takes a pin; a WAIT_LOAD that came
 * after a WAIT_UNLOAD can't go well before that one did, and stays. */
void lora_settle(struct lora_entry *e, enum wait_kind kind, const struct err *err, struct lora_waiters *out);
bool lora_has_waiters(const struct lora_entry *e, enum wait_kind kind);
void lora_evict(struct lora_set *s,
                struct slot *slot); /* unpinned: its entry is COLD then, or queued when somebody waits */
/* Where an unload was asked for and nobody has a claim or pin: frees the slot, settles, forgets or queues it again. */
void lora_drain(struct lora_set *s, struct lora_entry *e, struct lora_waiters *out);
void lora_note_slots(struct lora_set *s); /* the gauges */
/* The memory of a dropped adapter of about this size becomes the empty slot's. */
void lora_take_spare(struct lora_set *s, struct slot *slot, size_t bytes);
/* Without the lock. */
void lora_free_spares(struct lora_spare *first);

/* Without the lock: call back and free. */
void lora_fire(struct lora_waiters *w, bool cold);

/* --- lora_pack.c --- */
struct adapter;
/* Fill the slot's memory and `pub` from an opened adapter. ERR_ADAPTER_INVALID where a layer of the base lacks what the
 * adapter adapts, ERR_NO_MEMORY. */
/* Bytes that the slot will take; the same errors. */
int lora_pack_bytes(const struct model *m, const struct adapter *a, int64_t *bytes, struct err *e);
int lora_pack(const struct model *m, const struct adapter *a, struct slot *slot, struct lora_pace *pace, struct err *e);
void lora_pack_free(struct slot *slot);

/* The base's matrix under a part of the adapter: a column in a dense layer (expert -1) or of an expert; n 0: the layer
 * has none. */
const struct weight *lora_base_of(const struct model *m, int layer, int expert, int module);

/* --- lora_loader.c --- */
void *lora_loader(void *set);
/* Open the folder as an adapter of this base whose content hashes to `digest`. */
int lora_open_folder(struct lora_set *s, const char *digest, const char *path, const struct adapter_stamp *known,
                     struct lora_pace *pace, struct adapter **out, struct err *e);

/* --- lora_pace.c --- */
/* Called again and again by whoever loads; rests now and then. `pace` is a struct lora_pace; NULL: does nothing. */
void lora_breathe(void *pace);
/* Fresh memory of big_alloc(), or NULL: where steps are made it is touched in slices. */
void lora_touch(void *block, size_t bytes, struct lora_pace *pace);

/* The folder of a known adapter, malloc'ed; NULL: unknown or no memory. */
char *lora_path_of(struct lora_set *s, const char *digest);
