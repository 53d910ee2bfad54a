/* For test_weight.c: a device weight's rows as float32, as embeddings read them. A thread takes eight inputs. */
#include "kernels/cuda/weight_dev.h"
#include "tests/simt/rows_out.h"

#define THREADS 64

KERNEL(rows_out, THREADS, 1)(GRID_CONST struct rows_job job)
{
    int k = ((int)blockIdx.x * THREADS + (int)threadIdx.x) * 8, row = (int)blockIdx.y;
    if (k < job.w.k) weight_get8(&job.w, row, k, job.out + (size_t)row * job.w.k + k);
}

int launch_rows_out(const struct rows_job *job)
{
    struct dev_launch l = {
        ((unsigned)job->w.k / 8 + THREADS - 1) / THREADS, (unsigned)job->w.n, 1, THREADS, 1, 0, 0, 0};
    return LAUNCH(&l, rows_out, *job);
}
