/* Inside the shim: what its sources share. The tests' face is simt.h, the kernels' kernels/cuda/dev_simt.h.
 *
 *   sched.c   fibers, launches, who runs next          memory.c  shared memory, guarded buffers, faults
 *   sync.c    barriers, warps, clusters, dependent launch   race.c / race_off.c  happens-before, or nothing
 *   copy.c    cp.async, mbarriers, bulk copies         case.c    cases, seeds, comparisons
 *   math.c    ldmatrix and mma                           places.c  barriers to leave out
 *   kernels.c which kernels there are and ran
 *
 * One launch runs at a time (a lock), on the thread that launches: its clusters one after the other in an order by
 * seed, all blocks of a cluster at once. */
#pragma once
#include "kernels/cuda/dev.h"
#include "tests/simt/race.h"
#include "tests/simt/simt.h"
#include <stdio.h>

#define LANES 32
#define MAX_THREADS 1024 /* of a block */
#define MAX_CLUSTER 8
#define MAX_FIBERS (MAX_THREADS * MAX_CLUSTER)
#define MAX_WARPS (MAX_THREADS / LANES)
#define MAX_BARRIERS 16
#define MAX_MBARS 64  /* of a block */
#define MAX_GROUPS 32 /* of threads of one warp that wait at once */
#define PLACES_MAX 256
#define MAX_STATIC_SHARED 49152
#define MAX_SHARED 232448 /* static and dynamic: what an H100's block may have */

struct fiber {
    struct simt_here here; /* first: simt_me points to it */
    int index, lane;       /* of the cluster; of the warp */
    struct cta *cta;
    struct warp *warp;
    void *sp;
    bool favoured, ended, cluster_arrived, cluster_left_out;
    bool fenced; /* called dev_fence() */
    uint64_t cluster_phase;
    struct simt_site at; /* the last call into the shim, */
    const char *what;    /* and what it was */
    struct fiber *next;  /* in the list that it waits in */
    int vote;            /* what a barrier brought */
    unsigned parity;     /* waited for */
    uint64_t post, got;  /* shuffles */
    int from;
    const void *arg[3]; /* of a warp's operation */
    void *out;
    int count;
    bool trans;
    void (*matrix)(struct fiber *lane);
    struct copy *copies;        /* that it waits for itself */
    int cp_groups, bulk_groups; /* committed so far */
    void *asan;
};

/* A barrier's clock is what the threads that arrived had seen. */
struct barrier {
    int arrived, need;
    int votes;
    struct fiber *waiting;
    struct simt_site at;
    struct race_clock clock;
};

/* Lanes that wait for each other. */
struct group {
    uint32_t mask, here;
    int op;
    struct simt_site at;
    struct fiber *lane; /* lane 0 */
    struct race_clock clock;
};

struct warp {
    int groups; /* in use, or were */
    struct group group[MAX_GROUPS];
};

struct mbar {
    const void *at;
    bool fenced;
    struct fiber *maker;
    unsigned arrivals, pending;
    int64_t bytes; /* still to come in this phase */
    uint64_t phase;
    int agent;
    struct fiber *waiting;
    struct race_clock clock, seen; /* of this phase so far; of the one before */
};

struct cta {
    struct simt_dim block;
    unsigned rank;
    bool started;
    int live;
    struct barrier barrier[MAX_BARRIERS];
    struct warp warp[MAX_WARPS];
    struct mbar mbar[MAX_MBARS];
    int mbars;
};

struct run {
    const struct dev_launch *launch;
    struct simt_site at;
    unsigned seed, serial; /* serial: of the launch */
    uint64_t random;
    int policy;
    uint32_t land_odds; /* a bulk copy lands at one switch in so many */
    bool ahead;         /* the favoured go first, or last */
    int ctas, fibers, live;
    unsigned long cluster; /* which one, in the grid's order */
    struct simt_dim grid;
    struct cta *cta;
    struct fiber *fiber;
    struct fiber *me;
    int cluster_arrived;
    uint64_t cluster_phase;
    struct fiber *cluster_waiting;
    struct race_clock cluster_clock[2];
    bool pdl_waited;
};
extern struct run run;

/* --- sched.c --- */

uint32_t run_random(uint32_t below);
/* The running fiber enters the shim; others may go first. */
struct fiber *run_enter(const char *what, struct simt_site at);
void run_wait(struct fiber **list); /* until woken */
void run_block(void);               /* until run_ready */
void run_wake(struct fiber **list);
void run_ready(struct fiber *f);
/* A message about the running thread (if there is one), with the seed; does not return. */
void run_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

/* --- sync.c, copy.c: called by sched.c --- */

/* The whole warp meets; `all` gets its lane 0, behind which the others stand. */
void sync_matrix(struct fiber *f, void (*all)(struct fiber *lane));
void sync_describe(void);          /* who waits where, to stderr */
void sync_ended(struct fiber *f);  /* a thread came to its end */
bool copy_land_some(bool must);    /* a bulk copy, by chance or by need; -> whether there was one */
void copy_ended(struct fiber *f);  /* its copies land */
void copy_cta_ends(struct cta *c); /* nothing may be on its way to its memory */
void copy_cluster(void);           /* a new cluster */

/* --- kernels.c --- */

void kernel_runs(const struct simt_kernel *k);
/* What the cases ran, into the folder that SIMT_RAN names (tests/simt/coverage); without it, nothing. */
void kernels_tell(void);

/* --- places.c --- */

/* A thread is at this barrier or wait; whether it passes it by. */
bool place_left_out(const char *what, struct simt_site at);
void place_is_missed(const struct simt_place *p); /* each seed noticed that it was left out */
bool place_was_missed(const struct simt_place *p);
void places_tell(FILE *to);

/* --- memory.c --- */

void memory_cta_starts(struct cta *c);
void memory_cta_ends(struct cta *c);
void memory_catch_faults(void);
void memory_launch(void); /* checks the launch's shared bytes; forgets static arrays */
void *memory_map(struct fiber *f, const void *shared, unsigned rank);
/* The rank whose shared memory p is in, or -1. */
int memory_rank(const void *p);
/* A name for messages: "x + 24" or "shared memory of block 2 + 128". */
const char *memory_name(const void *p, char *buf, size_t size);
/* What the checker has to know of a byte. */
enum memory_kind { MEMORY_OTHER, MEMORY_SEALED, MEMORY_GLOBAL, MEMORY_SHARED };
enum memory_kind memory_kind(const void *p);
uint64_t memory_offset(const void *p); /* within all that the shim hands out; MEMORY_SPAN at most */
#define MEMORY_SPAN ((size_t)1 << 31)
