/* Timing of launches: what is compared stands in lanes side by side, each a graph of many launches, and the lanes take turns
 * round by round, so that a change of clocks hits all; of a lane the median round counts.
 *
 *     struct lane lane[2] = {{"fused"}, {"planes"}};
 *     for each lane: lane_begin(&lane[i]); lane_op(run_lora, &op, sizeof op); ... lane_end(&lane[i]);
 *     lanes_time(lane, 2);  lane_us(&lane[0]): microseconds of one operation
 *
 * Failures end the program with the reason. One device, one stream, one thread. On the shim (clock_host.c) the same runs
 * and the times mean nothing. */
#pragma once
#include "kernels/cuda/ops.h"
#include "kernels/cuda/rt.h"

#define LANE_ROUNDS 15

struct lane {
    const char *name;
    void *graph;
    int ops, rounds;
    double us[LANE_ROUNDS];
};

struct bench {
    struct rt_info info;
    void *stream;
    struct rt_dense *dense;
    double bandwidth;  /* bytes a second, read and written, of a copy */
    int tiny;          /* small sizes: to try the program */
    const char *table; /* file for other programs' comparisons, or NULL */
};
extern struct bench bench;

void bench_open(void);
void bench_close(void);

void lane_begin(struct lane *l);
void lane_op(int (*run)(const void *op, void *stream), const void *op, size_t bytes);
void lane_end(struct lane *l);
void lanes_time(struct lane *l, int n); /* and drops their graphs */
double lane_us(const struct lane *l);   /* of one operation; divided by what lane_op() counted */

/* Device memory that lives until the program ends: of values that look random, or zeroed, or copied. */
uint16_t *bench_values(size_t n, float scale);
void *bench_zeros(size_t bytes);
void *bench_copied(const void *host, size_t bytes);
void bench_sync(void);
void bench_check(int rc, const char *what);
/* How many buffers of so many bytes are read in turn, so that none of them is still in the cache; `most` at most. */
int bench_copies(size_t bytes, int most);

/* --- clock_cuda.c, clock_host.c --- */

int clock_open(void);
int clock_start(void *stream);
int clock_stop(void *stream, double *us); /* waits */

/* --- parts --- */

void bench_boundary(void);
void bench_cluster(void);
void bench_lora(void);
void bench_overlap(void);
void bench_active(void);
void bench_augment(void);
void bench_base(void);
