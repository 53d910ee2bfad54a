/* The shim's clock: the host's. To try the bench, not to measure. */
#include "tests/gpu/lanes.h"
#include <time.h>

static double from;

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

int clock_open(void)
{
    return 0;
}

int clock_start(void *stream)
{
    (void)stream;
    from = now_us();
    return 0;
}

int clock_stop(void *stream, double *us)
{
    int rc = rt_stream_sync(stream);
    *us = now_us() - from;
    return rc;
}
