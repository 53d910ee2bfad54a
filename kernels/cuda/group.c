/* group: what the devices of a tensor-parallel group tell each other, and how the host waits for all of them.
 *
 *     sum      o, down, experts: each rank has a part of every value [rows][hidden]; all get the sum
 *     logits   each rank has its part of the vocabulary (shard.h); all get whole rows
 *
 * Idea of the sum: parts are exchanged as they are, and a kernel adds them in the order of ranks (ranks.cu). An all-reduce
 * of the library's adds in an order that depends on where a value stands in the buffer, so a row's bits would depend on
 * how many rows are before it; here they do not. Two ways with the same bits, by the bytes that travel:
 *
 *     at once    every rank gets all parts and sums all                 (N-1) S to each, one collective
 *     in halves  rank i gets part i of all, sums it, and tells it on    2 (N-1)/N S, two collectives
 *
 * Two ranks go at once always, for that is no more. Decoding is latency: 32 rows of 4096 are half a megabyte.
 *
 * Logits: a rank's part stands at its place of the gathered array, so nothing is copied before; a kernel lays the parts
 * of a row side by side, which is how the choice and the CPU's sampler read them. All ranks have them, so that each may
 * choose for itself.
 *
 * Which collective is called follows from the shape and the bucket, never from what was timed or what rows hold, so
 * ranks can't disagree. Rank i's thread enqueues for rank i.
 *
 * Waiting: a rank that fails does not come to the collectives that others stand in. So all ranks' events are looked at in
 * turns, and the first failure (or WAIT_MS without an end) ends the group's collectives: everybody comes back, the step
 * has failed, and the process goes its way out. The graphs go before, for each holds the communicators that it was
 * recorded with, and the end waits for it. What hangs inside a call of a rank's thread is the watchdog's. */
#include "kernels/cuda/cuda.h"
#include <sched.h>
#include <time.h>

#define AT_ONCE ((size_t)4 << 20) /* bytes that a second collective is worth: 10 us at 400 GB/s */
#define WAIT_MS 50000             /* the engine's watchdog comes at a minute */
#define DRAIN_MS 2000             /* a device that broke may never come to an end */
#define PIECE 4                   /* floats of 16 bytes */

RUN(ranks_sum)
RUN(ranks_logits)

static size_t most(size_t a, size_t b)
{
    return a > b ? a : b;
}

static float *at(const struct kthread *t, enum cuda_area area)
{
    return arena_address(cuda_device, t->id, area);
}

/* Floats that one rank sums where they go in halves. */
static size_t chunk_of(const struct device *d, size_t rows)
{
    size_t ranks = (size_t)d->ranks, each = (rows * (size_t)d->dim.hidden + ranks - 1) / ranks;
    return (each + PIECE - 1) / PIECE * PIECE;
}

static bool at_once(const struct device *d, size_t rows)
{
    size_t n = (size_t)d->ranks, bytes = rows * (size_t)d->dim.hidden * sizeof(float);
    return n == 2 || (n - 1) * (n - 2) / n * bytes <= AT_ONCE;
}

size_t group_part_floats(const struct device *d, size_t rows)
{
    size_t plain = rows * (size_t)d->dim.hidden;
    return d->ranks > 1 ? most(plain, (size_t)d->ranks * chunk_of(d, rows)) : plain;
}

size_t group_bytes(const struct device *d, size_t rows, size_t logits)
{
    size_t n = (size_t)d->ranks, hidden = (size_t)d->dim.hidden, floats = n * logits * (size_t)d->dim.head;
    if (n == 1) return 0;
    for (size_t r = 1; r <= rows; r = (size_t)cuda_rows_of((int)r + 1))
        floats = most(floats, at_once(d, r) ? n * r * hidden : 2 * n * chunk_of(d, r));
    return floats * sizeof(float);
}

static void told(const struct kthread *t, const char *what, int rc)
{
    (void)t;
    cuda_failed(cuda_device, what, rc);
}

static bool failed(void)
{
    return atomic_load(&cuda_device->code) != 0;
}

static void gather(struct kthread *t, float *all, size_t floats)
{
    struct device *d = cuda_device;
    const float *own = all + (size_t)t->id * floats;
    if (failed()) return;
    told(t, "gathering from devices",
         rt_all_gather(d->group, t->id, own, all, floats * sizeof *all, d->rank[t->id].stream));
}

/* to (+)= the parts, one behind the other. */
static void sum(struct kthread *t, int ranks, size_t n, const float *part, bool add, float *to)
{
    struct op_ranks_sum op = {.ranks = ranks, .add = add, .n = n, .step = n, .part = part, .to = to};
    ENQUEUE(t, ranks_sum, op);
}

float *group_part(const struct kthread *t, int rows)
{
    const struct device *d = cuda_device;
    if (!at_once(d, (size_t)rows)) return at(t, AREA_PART);
    return at(t, AREA_GATHER) + (size_t)t->id * (size_t)rows * (size_t)d->dim.hidden;
}

static void sum_in_halves(struct kthread *t, size_t rows, bool add, float *to)
{
    struct device *d = cuda_device;
    size_t n = (size_t)d->ranks, chunk = chunk_of(d, rows);
    float *parts = at(t, AREA_GATHER), *all = parts + n * chunk;
    if (failed()) return;
    told(t, "exchanging between devices",
         rt_exchange(d->group, t->id, at(t, AREA_PART), parts, chunk * sizeof *parts, d->rank[t->id].stream));
    sum(t, d->ranks, chunk, parts, false, all + (size_t)t->id * chunk);
    gather(t, all, chunk);
    sum(t, 1, rows * (size_t)d->dim.hidden, all, add, to);
}

void group_sum(struct kthread *t, int rows, bool add, float *to)
{
    const struct device *d = cuda_device;
    size_t floats = (size_t)rows * (size_t)d->dim.hidden;
    if (!at_once(d, (size_t)rows)) {
        sum_in_halves(t, (size_t)rows, add, to);
        return;
    }
    gather(t, at(t, AREA_GATHER), floats);
    sum(t, d->ranks, floats, at(t, AREA_GATHER), add, to);
}

float *group_logits_part(const struct kthread *t, int logits)
{
    return at(t, AREA_GATHER) + (size_t)t->id * (size_t)logits * (size_t)cuda_device->dim.head;
}

void group_logits(struct kthread *t, int logits)
{
    const struct cuda_dims *m = &cuda_device->dim;
    struct op_ranks_logits op = {.ranks = cuda_device->ranks,
                                 .rows = logits,
                                 .step = m->head,
                                 .vocab = m->vocab,
                                 .part = at(t, AREA_GATHER),
                                 .out = at(t, AREA_LOGITS)};
    gather(t, at(t, AREA_GATHER), (size_t)logits * (size_t)m->head);
    ENQUEUE(t, ranks_logits, op);
}

/* --- waiting --- */

static long long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* How many have not come. */
static int look(struct device *d, void *const *done)
{
    int running = 0;
    for (int r = 0; r < d->ranks; r++) {
        int rc = rt_event_query(done[r]);
        if (rc == RT_LATER)
            running++;
        else
            cuda_failed(d, "a step", rc);
    }
    cuda_failed(d, "a collective", rt_group_state(d->group));
    return running;
}

void group_wait(struct device *d, void *const *done)
{
    long long end = now_ms() + WAIT_MS;
    while (!failed() && look(d, done) && !failed()) {
        if (now_ms() > end) cuda_failed(d, "waiting for all devices of the group", RT_GROUP);
        sched_yield();
    }
    if (failed()) group_end(d);
}

void group_end(struct device *d)
{
    steps_forget(d);
    rt_group_abort(d->group);
}

void group_drain(struct device *d, void *const *done)
{
    long long end = now_ms() + DRAIN_MS;
    for (int r = 0; r < d->ranks; r++)
        while (done[r] && rt_event_query(done[r]) == RT_LATER && now_ms() < end) sched_yield();
}
