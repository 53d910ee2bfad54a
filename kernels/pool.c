/* The compute threads of a step.
 *
 * A run hands one function to every thread; thread 0 is the caller. Workers wait for the next run by watching a run
 * number: for SPIN_NS they spin, because a decoding engine starts the next step within microseconds, then they park on
 * a futex, so that an idle engine costs nothing.
 *
 *            pool_run(): number + 1, wake           fn returns: last one clears `running`
 *     [spin] ----------------------------> [in fn] ------------------------------------> [spin]
 *        \ SPIN_NS passed                     ^
 *         -> [parked] ------------------------+
 *
 * The barrier counts arrivals and bumps a generation. Who waits spins BARRIER_SPINS times, then sleeps on the
 * generation: HTTP threads and other processes share the cores, and the thread that everybody waits for may be the one
 * without a core; a sleeper's core goes to it at once. (Yielding did not do that: the waiter stays runnable, so the
 * other thread is left in its queue.) While there are fewer free cores than threads every wait ends asleep and spinning
 * is waste, so such a sleep halves the spins: one that was long, or was ended by a thread on the same core. A short one
 * that a thread on another core ended was a mistake, and spins are full again: waking takes tens of microseconds, in which
 * the other thread waits at the next barrier, sleeps as well if it may not spin for so long, and so on without end
 * (steps of one row took twice their time).
 *
 * Claims: two counters serve all phases in turns. Entering phase c, thread 0 clears the counter of phase c + 1, which
 * is the one of phase c - 1: the barrier between phases makes sure that nobody uses it any more and nobody uses it yet.
 * Near claims have a word per thread's part in the same way, cleared by its thread: the low half counts claims from the
 * front (the owner's, several at once), the high half those from the end. A claim counts as far as both together are no
 * more than the part.
 *
 * Guarantees: a pool_run() returns after all threads have returned from fn, and what they wrote is visible. Refuses:
 * nested runs and runs from two threads at once (the engine's step thread alone calls it). */
#include "kernels/pool.h"
#include "kernels/ops.h"
#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LINE 64
#define SPIN_NS 100000     /* a worker looks for the next run this long before it parks */
#define SPINS_PER_LOOK 64  /* spins between two looks at the clock */
#define BARRIER_SPINS 4000 /* about 80 us; a thread that has a core comes sooner, even if it has to wake up */
#define BARRIER_SPINS_MIN 64
#define CORE_LOST_NS 1000000 /* who waits for so long waits for a thread without a core */

struct line_uint {
    _Alignas(LINE) _Atomic unsigned v;
};

struct line_word {
    _Alignas(LINE) _Atomic uint64_t v;
};

struct pool {
    struct line_uint number;     /* of the current run; futex */
    struct line_uint parked;     /* workers that sleep or are about to */
    struct line_uint running;    /* workers still inside fn; futex */
    struct line_uint arrived;    /* barrier */
    struct line_uint generation; /* futex */
    struct line_uint asleep;     /* threads that sleep in a barrier or wait for the end of a run, or are about to */
    struct line_uint claim[2];   /* next unclaimed item, for even and odd phases */
    struct line_word part[2][POOL_THREADS_MAX]; /* what is claimed of each thread's part, the same */
    _Alignas(LINE) void (*fn)(struct kthread *t, void *arg);
    void *arg;
    bool stop;
    int n, started;
    _Atomic int spins;    /* before a barrier sleeps: halves when one had to, grows back when none has */
    _Atomic int last_cpu; /* of the thread that ended the last wait */
    struct kthread thread[POOL_THREADS_MAX];
    pthread_t tid[POOL_THREADS_MAX];
};

static long futex(_Atomic unsigned *word, int op, unsigned value)
{
    return syscall(SYS_futex, (unsigned *)word, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* Wait until the run number differs from `seen`. */
static void wait_for_run(struct pool *p, unsigned seen)
{
    int64_t until = now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < SPINS_PER_LOOK; i++) {
            if (atomic_load_explicit(&p->number.v, memory_order_acquire) != seen) return;
            _mm_pause();
        }
    } while (now_ns() < until);
    /* Sequentially consistent on both sides: either pool_run() sees us parked, or the futex sees the new number. */
    atomic_fetch_add(&p->parked.v, 1);
    while (atomic_load(&p->number.v) == seen) futex(&p->number.v, FUTEX_WAIT, seen);
    atomic_fetch_sub(&p->parked.v, 1);
}

/* Sleep until `word` differs from `value`. Sequentially consistent, as above. Returns whether that was right. */
static bool sleep_for(struct pool *p, _Atomic unsigned *word, unsigned value)
{
    int64_t start = now_ns();
    atomic_fetch_add(&p->asleep.v, 1);
    while (atomic_load(word) == value) futex(word, FUTEX_WAIT, value);
    atomic_fetch_sub(&p->asleep.v, 1);
    return now_ns() - start > CORE_LOST_NS || atomic_load(&p->last_cpu) == sched_getcpu();
}

/* Wait until `word` differs from `value`: spin, then sleep. */
static void wait_change(struct pool *p, _Atomic unsigned *word, unsigned value)
{
    int most = atomic_load_explicit(&p->spins, memory_order_relaxed);
    for (int spins = 0; spins < most; spins++) {
        if (atomic_load_explicit(word, memory_order_acquire) != value) {
            int more = most + BARRIER_SPINS_MIN < BARRIER_SPINS ? most + BARRIER_SPINS_MIN : BARRIER_SPINS;
            if (more != most) atomic_store_explicit(&p->spins, more, memory_order_relaxed);
            return;
        }
        _mm_pause();
    }
    int fewer = most / 2 > BARRIER_SPINS_MIN ? most / 2 : BARRIER_SPINS_MIN;
    bool right = sleep_for(p, word, value);
    atomic_store_explicit(&p->spins, right ? fewer : BARRIER_SPINS, memory_order_relaxed);
}

/* By the thread that is about to change a word. */
static void note_cpu(struct pool *p)
{
    atomic_store_explicit(&p->last_cpu, sched_getcpu(), memory_order_relaxed);
}

static void wake_sleepers(struct pool *p, _Atomic unsigned *word)
{
    if (atomic_load(&p->asleep.v)) futex(word, FUTEX_WAKE, POOL_THREADS_MAX);
}

static void *worker(void *arg)
{
    struct kthread *t = arg;
    struct pool *p = t->pool;
    unsigned seen = 0;
    for (;;) {
        wait_for_run(p, seen);
        seen++;
        if (p->stop) return NULL;
        p->fn(t, p->arg);
        note_cpu(p);
        if (atomic_fetch_sub(&p->running.v, 1) == 1) wake_sleepers(p, &p->running.v);
    }
}

static void start_run(struct pool *p)
{
    atomic_store(&p->running.v, (unsigned)p->started);
    atomic_fetch_add(&p->number.v, 1);
    if (atomic_load(&p->parked.v)) futex(&p->number.v, FUTEX_WAKE, POOL_THREADS_MAX);
}

void pool_run(struct pool *p, void (*fn)(struct kthread *t, void *arg), void *arg)
{
    p->fn = fn;
    p->arg = arg;
    if (p->started) start_run(p);
    fn(&p->thread[0], arg);
    for (unsigned left; p->started && (left = atomic_load(&p->running.v));) wait_change(p, &p->running.v, left);
}

void pool_barrier(struct kthread *t)
{
    struct pool *p = t->pool;
    if (t->n == 1) return;
    unsigned generation = atomic_load_explicit(&p->generation.v, memory_order_acquire);
    if (atomic_fetch_add(&p->arrived.v, 1) != (unsigned)t->n - 1) {
        wait_change(p, &p->generation.v, generation);
        return;
    }
    note_cpu(p);
    atomic_store_explicit(&p->arrived.v, 0, memory_order_relaxed);
    atomic_store(&p->generation.v, generation + 1);
    wake_sleepers(p, &p->generation.v);
}

void pool_claim_begin(struct kthread *t)
{
    struct pool *p = t->pool;
    t->claims++;
    unsigned next = (t->claims + 1) & 1;
    if (t->id == 0) atomic_store_explicit(&p->claim[next].v, 0, memory_order_relaxed);
    atomic_store_explicit(&p->part[next][t->id].v, 0, memory_order_relaxed);
}

int pool_claim(struct kthread *t, int items, int chunk)
{
    _Atomic unsigned *next = &t->pool->claim[t->claims & 1].v;
    /* Looking first keeps the counter bounded however often a thread asks after the end. */
    if (atomic_load_explicit(next, memory_order_relaxed) >= (unsigned)items) return -1;
    unsigned first = atomic_fetch_add_explicit(next, (unsigned)chunk, memory_order_relaxed);
    return first < (unsigned)items ? (int)first : -1;
}

/* Of the part of thread `of`: the first `most` items that are left, for its owner, or the last one. */
static int claim_part(struct kthread *t, int of, int items, int most, int *n)
{
    const bool own = of == t->id;
    _Atomic uint64_t *word = &t->pool->part[t->claims & 1][of].v;
    int first = (int)((long)items * of / t->n), end = (int)((long)items * (of + 1) / t->n);
    uint64_t seen = atomic_load_explicit(word, memory_order_relaxed); /* looking first keeps the halves bounded */
    if ((seen & UINT32_MAX) + (seen >> 32) >= (uint64_t)(end - first)) return -1;
    seen = atomic_fetch_add_explicit(word, own ? (uint64_t)most : (uint64_t)1 << 32, memory_order_relaxed);
    int64_t front = (int64_t)(seen & UINT32_MAX), back = (int64_t)(seen >> 32), left = end - first - front - back;
    if (left <= 0) return -1;
    *n = !own ? 1 : left < most ? (int)left : most;
    return own ? first + (int)front : end - 1 - (int)back;
}

int pool_claim_near(struct kthread *t, int items, int most, int *n)
{
    for (int i = 0; i < t->n; i++) {
        int item = claim_part(t, (t->id + i) % t->n, items, most, n);
        if (item >= 0) return item;
    }
    return -1;
}

static int start_workers(struct pool *p, struct err *e)
{
    for (int i = 1; i < p->n; i++) {
        int rc = pthread_create(&p->tid[i], NULL, worker, &p->thread[i]);
        if (rc) return err_set(e, ERR_IO, "cannot start compute thread %d of %d: %s", i, p->n, strerror(rc));
        p->started++;
    }
    return 0;
}

static int init_threads(struct pool *p, struct err *e)
{
    for (int i = 0; i < p->n; i++) {
        struct kthread *t = &p->thread[i];
        *t = (struct kthread){.pool = p, .id = i, .n = p->n, .scratch_bytes = KERNEL_SCRATCH};
        t->scratch = big_alloc(KERNEL_SCRATCH);
        if (!t->scratch)
            return err_set(e, ERR_NO_MEMORY, "no memory for the scratch space of %d compute threads", p->n);
    }
    return 0;
}

int pool_new(struct pool **out, int threads, struct err *e)
{
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    if (online < 1) online = 1;
    if (threads == 0) threads = online < POOL_THREADS_MAX ? (int)online : POOL_THREADS_MAX;
    if (threads < 0 || threads > POOL_THREADS_MAX)
        return err_set(e, ERR_USAGE, "%d compute threads: the number must be 0 to %d", threads, POOL_THREADS_MAX);
    struct pool *p = aligned_alloc(LINE, (sizeof *p + LINE - 1) / LINE * LINE);
    if (!p) return err_set(e, ERR_NO_MEMORY, "no memory for the compute pool");
    memset(p, 0, sizeof *p);
    p->n = threads;
    p->spins = BARRIER_SPINS;
    if (init_threads(p, e) || start_workers(p, e)) {
        pool_free(p);
        return -1;
    }
    *out = p;
    return 0;
}

void pool_free(struct pool *p)
{
    if (!p) return;
    p->stop = true;
    if (p->started) start_run(p);
    for (int i = 1; i <= p->started; i++) pthread_join(p->tid[i], NULL);
    for (int i = 0; i < p->n; i++) big_free(p->thread[i].scratch, KERNEL_SCRATCH);
    free(p);
}

int pool_threads(const struct pool *p)
{
    return p->n;
}
