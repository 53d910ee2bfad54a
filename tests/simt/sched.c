/* Fibers, launches and the order of threads.
 *
 * A thread runs until it waits in the shim (or is held up there by chance), then another one that is ready goes on. The
 * order is the seed's: policy seed % 4 picks ready threads uniformly, or keeps one block, one warp or one thread far
 * ahead of or behind the rest, which finds faults of buffering that uniform orders miss. Seed 0 (a library that serves)
 * takes them in turn.
 *
 * When nobody is ready, a copy on its way lands; when there is none either, the threads wait for each other: that is
 * reported with the place of each, and is how most divergent barriers show. */
#include "tests/simt/run.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define STACK_BYTES (128 << 10) /* sanitizers widen frames */
#define STACK_GUARD 4096
#define STACK_COLOUR 576
#define STACK_COLOURS 29
#define PAUSE_ODDS 16 /* one call in so many lets others go first */

enum { UNIFORM, ONE_BLOCK, ONE_WARP, ONE_THREAD, POLICIES };

struct queue { /* a ring */
    struct fiber *f[MAX_FIBERS];
    unsigned first, n;
};

struct simt_here *simt_me;
struct run run;
static struct queue ready[2]; /* [1] goes first */
static void *main_sp, *main_asan;
static char *stacks;
static int guarded;    /* stacks with a guard below */
static bool from_main; /* the last switch */
static void (*body)(void *);
static void *body_arg;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* --- switching: callee-saved registers on the stack, the stack pointer in *save --- */

void simt_switch(void **save, void *to);
__asm__(".text\n"
        ".type simt_switch, @function\n"
        "simt_switch:\n"
        "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
        "  mov %rsp, (%rdi)\n  mov %rsi, %rsp\n"
        "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n  pop %rbp\n  ret\n"
        ".size simt_switch, .-simt_switch\n");

#ifdef __SANITIZE_ADDRESS__
void __sanitizer_start_switch_fiber(void **save, const void *bottom, size_t size);
void __sanitizer_finish_switch_fiber(void *save, const void **bottom, size_t *size);
static const void *main_bottom;
static size_t main_size;

static void leave_stack(void **save, const struct fiber *to)
{
    const char *bottom = to ? stacks + (size_t)to->index * STACK_BYTES + STACK_GUARD : main_bottom;
    __sanitizer_start_switch_fiber(save, bottom, to ? STACK_BYTES - STACK_GUARD : main_size);
}

static void enter_stack(void *saved)
{
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(saved, &bottom, &size);
    if (from_main) main_bottom = bottom, main_size = size;
}
#else
static void leave_stack(void **save, const struct fiber *to)
{
    (void)save, (void)to;
}

static void enter_stack(void *saved)
{
    (void)saved;
}
#endif

/* --- messages --- */

void run_fail(const char *fmt, ...)
{
    va_list ap;
    fflush(stdout);
    fprintf(stderr, "simt: seed %u: ", run.seed);
    const struct fiber *f = run.me;
    if (f) {
        struct simt_dim b = f->here.block;
        fprintf(stderr, "block (%u, %u, %u) thread %u, at %s:%d (%s): ", b.x, b.y, b.z, f->here.thread.x, f->at.file,
                f->at.line, f->what);
    }
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\n");
    simt_failed();
}

/* --- order --- */

uint32_t run_random(uint32_t below)
{
    run.random ^= run.random << 13, run.random ^= run.random >> 7, run.random ^= run.random << 17;
    return (uint32_t)((run.random >> 32) * below >> 32);
}

void run_ready(struct fiber *f)
{
    struct queue *q = &ready[f->favoured == run.ahead];
    q->f[(q->first + q->n++) % MAX_FIBERS] = f;
}

static struct fiber *take_ready(void)
{
    struct queue *q = &ready[ready[1].n > 0];
    if (!q->n) return NULL;
    if (run.seed) {
        unsigned other = (q->first + run_random(q->n)) % MAX_FIBERS;
        struct fiber *f = q->f[other];
        q->f[other] = q->f[q->first];
        q->f[q->first] = f;
    }
    struct fiber *f = q->f[q->first];
    q->first = (q->first + 1) % MAX_FIBERS;
    q->n--;
    return f;
}

static struct fiber *next_fiber(void)
{
    copy_land_some(false);
    struct fiber *f;
    while (!(f = take_ready()) && copy_land_some(true)) {
    }
    if (f || !run.live) return f;
    fprintf(stderr, "simt: seed %u: launch at %s:%d: threads wait for each other:\n", run.seed, run.at.file,
            run.at.line);
    sync_describe();
    run.me = NULL;
    run_fail("deadlock (a barrier that not all threads reach, or a copy that nobody started)");
}

static void switch_to(struct fiber *to)
{
    struct fiber *from = run.me;
    if (from == to) return;
    void **save = from ? &from->sp : &main_sp, **asan = from ? &from->asan : &main_asan;
    run.me = to;
    from_main = !from;
    simt_me = to ? &to->here : NULL;
    leave_stack(from && from->ended ? NULL : asan, to);
    simt_switch(save, to ? to->sp : main_sp);
    enter_stack(*asan);
}

void run_block(void)
{
    switch_to(next_fiber());
}

void run_wait(struct fiber **list)
{
    run.me->next = *list;
    *list = run.me;
    run_block();
}

void run_wake(struct fiber **list)
{
    for (struct fiber *f = *list, *next; f; f = next) {
        next = f->next;
        run_ready(f);
    }
    *list = NULL;
}

struct fiber *run_enter(const char *what, struct simt_site at)
{
    struct fiber *f = run.me;
    if (!f) run_fail("%s:%d: %s outside a kernel", at.file, at.line, what);
    f->at = at, f->what = what;
    if (run.seed && !run_random(PAUSE_ODDS)) {
        run_ready(f);
        switch_to(next_fiber());
    }
    return f;
}

/* --- a fiber's life --- */

static void fiber_ends(struct fiber *f)
{
    copy_ended(f);
    f->ended = true;
    sync_ended(f);
    run.live--;
    if (!--f->cta->live) {
        copy_cta_ends(f->cta);
        race_cta_ends(f->cta);
        memory_cta_ends(f->cta);
    }
    switch_to(next_fiber());
    __builtin_unreachable();
}

static void fiber_main(void)
{
    enter_stack(NULL);
    struct fiber *f = run.me;
    if (!f->cta->started) {
        f->cta->started = true;
        memory_cta_starts(f->cta);
    }
    body(body_arg);
    f->what = "end of the kernel";
    fiber_ends(f);
}

static void fiber_init(struct fiber *f, int index, struct cta *cta)
{
    unsigned thread = (unsigned)index % run.launch->threads;
    memset(f, 0, sizeof *f);
    f->here = (struct simt_here){.thread = {thread, 0, 0},
                                 .block = cta->block,
                                 .block_dim = {run.launch->threads, 1, 1},
                                 .grid = run.grid,
                                 .rank = cta->rank,
                                 .ranks = (unsigned)run.ctas};
    f->index = index, f->lane = (int)(thread % LANES);
    f->cta = cta, f->warp = &cta->warp[thread / LANES];
    f->at = run.at, f->what = "launch";
    char *stack = stacks + (size_t)index * STACK_BYTES;
    for (; guarded <= index; guarded++) mprotect(stacks + (size_t)guarded * STACK_BYTES, STACK_GUARD, PROT_NONE);
    /* Tops at one distance would share the lines of the cache that one address has. */
    void **top = (void **)(stack + STACK_BYTES - (size_t)(index % STACK_COLOURS) * STACK_COLOUR);
    top[-1] = NULL; /* fiber_main's return address: it has none */
    *(void (**)(void)) & top[-2] = fiber_main;
    f->sp = top - 8; /* and six registers */
    memset(f->sp, 0, 6 * sizeof(void *));
}

/* --- launches --- */

static void stacks_make(void)
{
    if (stacks) return;
    stacks = mmap(NULL, (size_t)MAX_FIBERS * STACK_BYTES, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) run_fail("no memory for stacks");
    run.cta = calloc(MAX_CLUSTER, sizeof *run.cta);
    run.fiber = calloc(MAX_FIBERS, sizeof *run.fiber);
    if (!run.cta || !run.fiber) run_fail("no memory");
}

/* Who goes first or last in this cluster. */
static void favour(void)
{
    static const uint32_t odds[] = {2, 16, 128, UINT32_MAX};
    run.policy = (int)(run.seed % POLICIES);
    run.land_odds = odds[run_random(sizeof odds / sizeof *odds)];
    run.ahead = run.seed ? run_random(2) : false;
    if (!run.seed || run.policy == UNIFORM) return;
    int chosen = (int)run_random((uint32_t)run.fibers), unit = run.policy == ONE_BLOCK  ? (int)run.launch->threads
                                                               : run.policy == ONE_WARP ? LANES
                                                                                        : 1;
    for (int i = 0; i < run.fibers; i++) run.fiber[i].favoured = i / unit == chosen / unit;
}

static void cluster_init(unsigned long cluster)
{
    const struct dev_launch *l = run.launch;
    run.cluster = cluster;
    run.fibers = run.live = run.ctas * (int)l->threads;
    run.cluster_arrived = 0, run.cluster_phase = 0, run.cluster_waiting = NULL;
    memset(run.cluster_clock, 0, sizeof run.cluster_clock);
    for (int c = 0; c < run.ctas; c++) {
        unsigned long block = cluster * (unsigned long)run.ctas + (unsigned long)c;
        struct cta *cta = &run.cta[c];
        memset(cta, 0, sizeof *cta);
        cta->rank = (unsigned)c, cta->live = (int)l->threads;
        cta->block.x = (unsigned)(block % run.grid.x);
        cta->block.y = (unsigned)(block / run.grid.x % run.grid.y);
        cta->block.z = (unsigned)(block / run.grid.x / run.grid.y);
    }
    for (int i = 0; i < run.fibers; i++) fiber_init(&run.fiber[i], i, &run.cta[i / (int)l->threads]);
    favour();
    copy_cluster();
    race_cluster();
    for (int i = 0; i < run.fibers; i++) run_ready(&run.fiber[i]);
}

static void launch_check(void)
{
    const struct dev_launch *l = run.launch;
    unsigned cluster = run.ctas ? (unsigned)run.ctas : 1;
    if (!l->threads || l->threads % LANES || l->threads > MAX_THREADS)
        run_fail("launch at %s:%d: %u threads a block", run.at.file, run.at.line, l->threads);
    if (!run.grid.x || run.grid.y > 65535 || run.grid.z > 65535)
        run_fail("launch at %s:%d: grid %u x %u x %u", run.at.file, run.at.line, run.grid.x, run.grid.y, run.grid.z);
    if (cluster > MAX_CLUSTER || (cluster & (cluster - 1)) || run.grid.x % cluster)
        run_fail("launch at %s:%d: clusters of %u in a grid of %u blocks", run.at.file, run.at.line, cluster,
                 run.grid.x);
}

/* A permutation of the clusters by seed: i -> (i * step + first) mod n, step coprime to n. */
static unsigned long order_step(unsigned long n)
{
    for (unsigned long step = run.seed ? 1 + run_random((uint32_t)n) : 1;; step++) {
        unsigned long a = n, b = step;
        while (b) {
            unsigned long rest = a % b;
            a = b, b = rest;
        }
        if (a == 1) return step;
    }
}

int simt_launch(const struct simt_kernel *k, const struct dev_launch *l, void (*fn)(void *), void *arg,
                struct simt_site at)
{
    pthread_mutex_lock(&lock);
    kernel_runs(k);
    run.launch = l, run.at = at, run.me = NULL, run.serial++;
    run.seed = simt_seed();
    run.random = (run.seed + 1) * 0x9e3779b97f4a7c15u + run.serial;
    run.grid = (struct simt_dim){l->gx, l->gy ? l->gy : 1, l->gz ? l->gz : 1};
    run.ctas = l->cluster ? (int)l->cluster : 1;
    run.pdl_waited = !l->pdl;
    body = fn, body_arg = arg;
    launch_check();
    stacks_make();
    memory_launch();
    race_launch();
    unsigned long n = (unsigned long)run.grid.x * run.grid.y * run.grid.z / (unsigned long)run.ctas;
    unsigned long step = order_step(n), at_cluster = run.seed ? run_random((uint32_t)n) : 0;
    for (unsigned long i = 0; i < n; i++, at_cluster = (at_cluster + step) % n) {
        cluster_init(at_cluster);
        switch_to(next_fiber());
    }
    if (!run.pdl_waited) run_fail("launch at %s:%d: with pdl, but no thread called dev_pdl_wait()", at.file, at.line);
    pthread_mutex_unlock(&lock);
    return 0;
}
