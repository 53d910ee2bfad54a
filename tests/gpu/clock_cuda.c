/* Time on a device's stream: two events. */
#include "tests/gpu/lanes.h"
#include <cuda_runtime_api.h>

static cudaEvent_t from, to;

int clock_open(void)
{
    cudaError_t rc = cudaEventCreate(&from);
    return (int)(rc ? rc : cudaEventCreate(&to));
}

int clock_start(void *stream)
{
    return (int)cudaEventRecord(from, (cudaStream_t)stream);
}

int clock_stop(void *stream, double *us)
{
    float ms = 0;
    cudaError_t rc = cudaEventRecord(to, (cudaStream_t)stream);
    if (!rc) rc = cudaEventSynchronize(to);
    if (!rc) rc = cudaEventElapsedTime(&ms, from, to);
    *us = (double)ms * 1e3;
    return (int)rc;
}
