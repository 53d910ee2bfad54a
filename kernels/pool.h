/* Compute threads: one persistent pool that runs the same function on every thread (SPMD), spinning briefly between
 * calls and then parked.
 *
 * A step of the engine is one pool_run(); inside, operations follow each other with pool_barrier() between them, so a
 * step wakes the threads once. Only the engine's step thread calls pool_run(). */
#pragma once
#include "base/err.h"
#include <stdatomic.h>
#include <stddef.h>

#define POOL_THREADS_MAX 64

struct pool;

/* What each thread of a run is handed. Thread 0 is the caller of pool_run(). */
struct kthread {
    struct pool *pool;
    int id, n;
    unsigned claims; /* private: how many pool_claim() phases this thread has entered */
    void *scratch;   /* this thread's own working memory, 64-byte aligned */
    size_t scratch_bytes;
};

int pool_new(struct pool **out, int threads, struct err *e); /* threads 0: one per online core */
void pool_free(struct pool *p);
int pool_threads(const struct pool *p);

void pool_run(struct pool *p, void (*fn)(struct kthread *t, void *arg), void *arg);

/* All threads of the run meet. A full memory barrier among them. Spins, then sleeps, so that a core taken by another
 * process costs little. */
void pool_barrier(struct kthread *t);

/* Dynamic sharing of `items` among the threads of one phase: returns the next unclaimed index, or -1. A phase starts
 * with pool_claim_begin() on every thread, after the barrier that ended the phase before. */
void pool_claim_begin(struct kthread *t);
int pool_claim(struct kthread *t, int items, int chunk); /* first index of a chunk, or -1 */

/* The same near by: a thread has its own part of the items, in ascending order, and when that is done takes from the ends
 * of the others' parts. So neighbours stay with one thread, which reads memory in order, and the end is still even when
 * another process takes a core. Returns the first of *n items, up to `most` of its own part or one of another's, or -1.
 * One phase uses one of the two. */
int pool_claim_near(struct kthread *t, int items, int most, int *n);
