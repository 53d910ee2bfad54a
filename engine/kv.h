/* The pool of KV pages, the list of pages that a sequence holds, and the cache of prefixes.
 *
 * All pages are taken at start; a page belongs to every sequence that counts on it (reference counts, so that prefixes
 * are shared). A full page may be published under a key that stands for everything its contents depend on; when nobody
 * counts on it any more it stays as it is, idle, until a lookup finds it again or the pool needs it: the longest idle
 * goes first. Used by the step thread only. */
#pragma once
#include "base/sha256.h"
#include "engine/model.h"
#include "kernels/device.h"

/* What a page's keys and values depend on: root, adapters and all tokens up to the page's last, as a chain of SHA-256.
 * Keys that are equal mean contents that are equal, bit for bit. */
struct kv_key {
    uint8_t b[SHA256_BYTES];
};

/* Of a page, for the cache. */
struct kv_slot {
    struct kv_key key;
    int chain;      /* next page of the bucket, -1: the last */
    int prev, next; /* of the idle, -1: the end */
    bool published;
};

struct kv_pool {
    struct kv_cache cache; /* what the kernels see */
    size_t bytes;
    bool elsewhere; /* pages are a device's: cache.base is a handle */
    int nfree;
    int *free_page;                   /* stack of nfree page numbers */
    int *refs;                        /* [cache.pages] */
    struct kv_slot *slot;             /* [cache.pages] */
    int *bucket;                      /* [nbuckets] first page, -1: none */
    int nbuckets;                     /* a power of two */
    int nidle, idle_first, idle_last; /* published pages without a reference, longest idle first */
    int npublished;
    uint64_t evictions; /* idle pages that were taken for something else */
};

struct kv_seq {
    int *page; /* [npages] of cap: page i holds positions 16 i .. 16 i + 15; -1: it was given back */
    int npages, cap;
    int kept, gone; /* pages kept .. gone-1 were given back; gone 0: none */
};

/* What a sequence has to keep: its last `window` positions and its first `sinks`. window 0: all. */
struct kv_keep {
    int window, sinks;
};

/* Pages of the type that goes with the model's precision. bytes 0: for max_running sequences of moderate length, one whole context at least, a quarter of the machine's memory
 * at most. Fails with ERR_USAGE when not one page fits. Logs the plan. */
int kv_pool_init(struct kv_pool *p, const struct model *m, int64_t bytes, int max_running, struct err *e);
/* With pages of a type: of a model in EXACT float32, else bf16 or int8. */
int kv_pool_init_as(struct kv_pool *p, const struct model *m, enum kv_type type, int64_t bytes, int max_running,
                    struct err *e);
/* What bytes 0 means, where no sequence holds more than `most` positions. */
int64_t kv_pool_bytes(const struct model *m, enum kv_type type, int most, int max_running);
/* The pages that a device's plan has, at `base`. */
int kv_pool_init_on(struct kv_pool *p, const struct model *m, enum kv_type type, const struct device_plan *plan,
                    char *base, struct err *e);
void kv_pool_close(struct kv_pool *p);

/* Bytes of one page of all layers. */
size_t kv_bytes_of(const struct model *m, enum kv_type type);

/* Pages that `tokens` positions take. */
int kv_pages_of(int tokens);

/* What the model's layers look at. window 0: one of them sees all. */
struct kv_keep kv_keep_of(const struct model *m);
/* Pages of the sinks, and the first of the others that positions from `pos` on look at. */
int kv_keep_sinks(const struct kv_keep *k);
int kv_keep_first(const struct kv_keep *k, int pos);
/* Pages that a sequence of that many positions holds at most, while it is given pages for `ahead` positions more than it has done. */
int kv_keep_most(const struct kv_keep *k, int tokens, int ahead);

/* Pages that can be taken: the free and the idle. */
int kv_available(const struct kv_pool *p);

/* A page with one reference, or -1 when none is available. */
int kv_page_take(struct kv_pool *p);
void kv_page_ref(struct kv_pool *p, int page); /* also of an idle page */
void kv_page_drop(struct kv_pool *p, int page);

int kv_seq_init(struct kv_seq *s, int max_tokens, struct err *e);
void kv_seq_close(struct kv_seq *s); /* its pages must be back */

/* Pages for positions 0 .. tokens-1: all that are missing, or none and false. */
bool kv_seq_reserve(struct kv_pool *p, struct kv_seq *s, int tokens);
/* The sequence's next page is this one, with a reference of its own. */
void kv_seq_share(struct kv_pool *p, struct kv_seq *s, int page);
/* Page i of the sequence becomes this one; the page that it had is dropped. */
void kv_seq_swap(struct kv_pool *p, struct kv_seq *s, int i, int page);
/* Pages that it holds. */
int kv_seq_held(const struct kv_seq *s);
/* Positions from `pos` on are all that will look: what they don't need is given back. k->window > 0. */
void kv_seq_evict(struct kv_pool *p, struct kv_seq *s, const struct kv_keep *k, int pos);
/* The sequence's next page is one that nobody looks at: the first `kept` pages are there, and those from the next one shared on. */
void kv_seq_skip(struct kv_seq *s, int kept);
/* Last page first, so that of an idle prefix the end goes before the beginning. */
void kv_seq_release(struct kv_pool *p, struct kv_seq *s);

/* --- the cache of prefixes: engine/kv_prefix.c --- */

int kv_prefix_init(struct kv_pool *p, struct err *e); /* by kv_pool_init() */
void kv_prefix_close(struct kv_pool *p);

/* Where a chain begins: prefixes are shared under the same salt only. */
void kv_key_root(struct kv_key *out, const char *salt);
/* The key of the page behind `before`'s. `begins`: which adapters take part from some row of this page on; NULL: none
 * that did not before. */
void kv_key_next(struct kv_key *out, const struct kv_key *before, const int32_t token[KV_PAGE],
                 const struct kv_key *begins);

/* The published page of that key, or -1. Takes no reference. */
int kv_prefix_find(const struct kv_pool *p, const struct kv_key *k);
/* A page that the caller holds and that is complete enters the cache; false: one of that key is there already. */
bool kv_prefix_publish(struct kv_pool *p, int page, const struct kv_key *k);
/* The page is found no more; when it was idle it is free. Fine for one that isn't published. */
void kv_prefix_forget(struct kv_pool *p, int page);

/* The list of the idle; kv.c's. */
void kv_idle_add(struct kv_pool *p, int page);
void kv_idle_remove(struct kv_pool *p, int page);
