/* The pool of KV pages, and the list of pages that a sequence holds.
 *
 * All pages are taken at start; a page belongs to every sequence that counts on it (reference counts, so that prefixes
 * may be shared), and goes back to the pool with the last of them. Used by the step thread only. */
#pragma once
#include "engine/model.h"

struct kv_pool {
    struct kv_cache cache; /* what the kernels see */
    size_t bytes;
    int nfree;
    int *free_page; /* stack of nfree page numbers */
    int *refs;      /* [cache.pages] */
};

struct kv_seq {
    int *page; /* [npages] of cap: page i holds positions 16 i .. 16 i + 15 */
    int npages, cap;
};

/* bytes 0: for max_running sequences of moderate length, one whole context at least, a quarter of the machine's memory
 * at most. Fails with ERR_USAGE when not one page fits. Logs the plan. */
int kv_pool_init(struct kv_pool *p, const struct model *m, int64_t bytes, int max_running, struct err *e);
void kv_pool_close(struct kv_pool *p);

/* Pages that `tokens` positions take. */
int kv_pages_of(int tokens);

/* A page with one reference, or -1 when none is free. */
int kv_page_take(struct kv_pool *p);
void kv_page_ref(struct kv_pool *p, int page);
void kv_page_drop(struct kv_pool *p, int page);

int kv_seq_init(struct kv_seq *s, int max_tokens, struct err *e);
void kv_seq_close(struct kv_seq *s); /* its pages must be back */

/* Pages for positions 0 .. tokens-1: all that are missing, or none and false. */
bool kv_seq_reserve(struct kv_pool *p, struct kv_seq *s, int tokens);
void kv_seq_release(struct kv_pool *p, struct kv_seq *s);
