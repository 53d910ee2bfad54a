/* How long something takes that steps will do: in a graph, as they do it. */
#pragma once
#include "kernels/cuda/rt.h"

/* Launches: an rt_enqueue(). What op points to lives until timed_run() returns. */
struct timed {
    int (*fn)(const void *op, void *stream);
    const void *op;
    size_t bytes;
    int runs; /* in one graph */
};

/* Seconds of one of the runs, in the fastest of so many rounds. 0, or the code of what failed. */
int timed_run(const struct timed *t, int rounds, void *stream, double *s);
