/* lanes: see lanes.h. A round of a lane is one launch of its graph, between two events; the first one, which loads what it
 * needs, does not count. */
#include "tests/gpu/lanes.h"
#include "kernels/cuda/fill.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DENSE_SPACE ((size_t)32 << 20)
#define ALIGN 256
#define CACHES 3

struct bench bench;
static uint32_t filled; /* streams of values used so far */

void bench_check(int rc, const char *what)
{
    if (!rc) return;
    fprintf(stderr, "bench: %s: %s\n", what, rt_error_text(rc));
    exit(1);
}

void bench_open(void)
{
    int n = 0;
    void *space = NULL;
    bench_check(rt_count(&n), "devices");
    if (!n) {
        fprintf(stderr, "bench: no device is there\n");
        exit(3);
    }
    bench_check(rt_about(0, &bench.info), "the device");
    cuda_target = (struct cuda_target){.cc = bench.info.cc,
                                       .sms = bench.info.sms,
                                       .shared_block = bench.info.shared_block,
                                       .pdl = bench.info.cc >= 90};
    bench_check(rt_stream_new(&bench.stream, true), "a stream");
    bench_check(rt_alloc(&space, DENSE_SPACE), "workspace");
    bench_check(rt_dense_new(&bench.dense, space, DENSE_SPACE), "dense products");
    bench_check(clock_open(), "a clock");
}

void bench_close(void)
{
    rt_dense_free(bench.dense);
    rt_stream_free(bench.stream);
}

void bench_sync(void)
{
    bench_check(rt_stream_sync(bench.stream), "a launch");
}

/* --- memory --- */

static void *take(size_t bytes)
{
    void *p = NULL;
    bench_check(rt_alloc(&p, (bytes + ALIGN - 1) / ALIGN * ALIGN), "memory");
    return p;
}

uint16_t *bench_values(size_t n, float scale)
{
    size_t k = 4096, rows = (n + k - 1) / k;
    uint16_t *p = take(rows * k * 2);
    struct op_fill op = {(int)rows, (int)k, (int)k, ++filled, scale, p};
    bench_check(launch_fill(&op, bench.stream), "values");
    return p;
}

void *bench_zeros(size_t bytes)
{
    void *p = take(bytes);
    bench_check(rt_fill(p, 0, bytes, bench.stream), "zeros");
    return p;
}

void *bench_copied(const void *host, size_t bytes)
{
    void *p = take(bytes);
    bench_check(rt_copy_in(p, host, bytes, bench.stream), "a copy");
    bench_sync();
    return p;
}

int bench_copies(size_t bytes, int most)
{
    size_t n = (size_t)bench.info.l2_bytes * CACHES / (bytes + 1) + 2;
    if (bench.tiny) return most < 2 ? most : 2;
    return n < (size_t)most ? (int)n : most;
}

/* --- lanes --- */

static struct lane *open_lane;

void lane_begin(struct lane *l)
{
    l->ops = l->rounds = 0;
    open_lane = l;
    bench_check(rt_capture_begin(bench.stream), "recording");
}

void lane_op(int (*run)(const void *op, void *stream), const void *op, size_t bytes)
{
    bench_check(rt_enqueue(run, op, bytes, bench.stream), open_lane->name);
    open_lane->ops++;
}

void lane_end(struct lane *l)
{
    bench_check(rt_capture_end(bench.stream, &l->graph), l->name);
    open_lane = NULL;
}

static double run_round(struct lane *l)
{
    double us;
    bench_check(clock_start(bench.stream), "the clock");
    bench_check(rt_graph_launch(l->graph, bench.stream), l->name);
    bench_check(clock_stop(bench.stream, &us), l->name);
    return us;
}

void lanes_time(struct lane *l, int n)
{
    int rounds = bench.tiny ? 1 : LANE_ROUNDS;
    for (int i = 0; i < n; i++) run_round(&l[i]);
    for (int r = 0; r < rounds; r++)
        for (int i = 0; i < n; i++) l[i].us[l[i].rounds++] = run_round(&l[i]);
    for (int i = 0; i < n; i++) {
        rt_graph_free(l[i].graph);
        l[i].graph = NULL;
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double lane_us(const struct lane *l)
{
    double us[LANE_ROUNDS];
    memcpy(us, l->us, sizeof us);
    qsort(us, (size_t)l->rounds, sizeof *us, by_value);
    return us[l->rounds / 2] / (l->ops ? l->ops : 1);
}
