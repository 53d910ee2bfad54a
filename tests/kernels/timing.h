/* What the benches share: medians of many short runs, and what the machine itself can do in the same run. */
#pragma once
#include "tests/kernels/common.h"
#include "tests/kernels/median.h"
#include "tests/kernels/probe.h"
#include <time.h>

#define SAMPLES_MAX 4001
#define READ_BYTES ((size_t)256 << 20)
#define PROBE_N 20000

/* Median seconds of one run, over about `budget` seconds. */
static inline double time_run(struct pool *p, void (*fn)(struct kthread *t, void *arg), void *arg, double budget)
{
    static double t[SAMPLES_MAX];
    int n = 0;
    pool_run(p, fn, arg);
    for (double end = now_s() + budget, start; n < SAMPLES_MAX && (n < 3 || now_s() < end); n++) {
        start = now_s();
        pool_run(p, fn, arg);
        t[n] = now_s() - start;
    }
    return median(t, n);
}

struct machine {
    double read1, read;     /* bytes/s, 1 thread and all */
    double f32, bf16, int8; /* operations/s, a multiplication and an addition are two */
    double run, barrier;    /* seconds */
};

static volatile float sink;

static inline void do_read(struct kthread *t, void *arg)
{
    size_t each = READ_BYTES / (size_t)t->n / 512 * 512;
    sink = (float)probe_read((const char *)arg + each * (size_t)t->id, each);
}

static inline void do_fma(struct kthread *t, void *arg)
{
    (void)t, (void)arg, sink = probe_fma(PROBE_N);
}

static inline void do_bf16(struct kthread *t, void *arg)
{
    (void)t, (void)arg, sink = probe_bf16(PROBE_N);
}

static inline void do_int8(struct kthread *t, void *arg)
{
    (void)t, (void)arg, sink = probe_int8(PROBE_N);
}

static inline void do_barriers(struct kthread *t, void *arg)
{
    (void)arg;
    for (int i = 0; i < 1000; i++) pool_barrier(t);
}

static inline void do_nothing(struct kthread *t, void *arg)
{
    (void)t, (void)arg;
}

static inline struct machine machine_measure(struct pool *p)
{
    struct pool *one = pool_of(1);
    char *block = big_alloc(READ_BYTES);
    memset(block, 1, READ_BYTES);
    double ops = (double)PROBE_N * PROBE_CHAINS * pool_threads(p) * 2;
    struct machine m = {.read1 = (double)READ_BYTES / time_run(one, do_read, block, 0.3),
                        .read = (double)READ_BYTES / time_run(p, do_read, block, 0.3),
                        .f32 = ops * 16 / time_run(p, do_fma, NULL, 0.1),
                        .bf16 = ops * 32 / time_run(p, do_bf16, NULL, 0.1),
                        .int8 = ops * 64 / time_run(p, do_int8, NULL, 0.1),
                        .run = time_run(p, do_nothing, NULL, 0.05),
                        .barrier = time_run(p, do_barriers, NULL, 0.05) / 1000};
    big_free(block, READ_BYTES);
    pool_free(one);
    return m;
}

static inline void machine_print(const struct machine *m, int threads, bool json)
{
    if (json)
        printf("{\"threads\":%d,\"read1_gb_s\":%.2f,\"read_gb_s\":%.2f,\"fma_gflop_s\":%.1f,\"bf16_gflop_s\":%.1f,"
               "\"int8_gop_s\":%.1f,\"run_us\":%.2f,\"barrier_us\":%.3f}\n",
               threads, m->read1 / 1e9, m->read / 1e9, m->f32 / 1e9, m->bf16 / 1e9, m->int8 / 1e9, m->run * 1e6,
               m->barrier * 1e6);
    else
        printf("machine: read %.1f GB/s with 1 thread, %.1f with %d; f32 FMA %.0f, bf16 %.0f, int8 %.0f GFLOP/s; "
               "run %.2f us, barrier %.3f us\n",
               m->read1 / 1e9, m->read / 1e9, threads, m->f32 / 1e9, m->bf16 / 1e9, m->int8 / 1e9, m->run * 1e6,
               m->barrier * 1e6);
}
