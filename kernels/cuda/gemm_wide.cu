/* Products of codes with 17 to some hundred rows, and of groups whose experts have many rows each: weights stay codes on
 * their way to the tensor cores, where expanding them first would move eight to twenty times their bytes.
 *
 * Up to 32 rows: a block has two columns of 32 outputs and splits k over four slices; beyond: four columns, two slices,
 * 64 rows, and as many blocks in y as that takes. The columns share x's chunks, so x is read from L2 n / 64 or n / 128
 * times.
 *
 * Cost: the larger of the weights' bytes / bandwidth for every 64 rows and 2 rows n k operations at half of what mma.sync
 * can do (each warp reads all of x's fragments from shared memory: 4 KB for 32 mma). */
#include "kernels/cuda/gemm_kernel.h"

#define NARROW_ROWS 32 /* NT 4 */

static gemm_start_fn *const narrow[KINDS] = {
    gemm_start<KIND_BF16, 2, 4, 4>, gemm_start<KIND_F32, 1, 4, 4>, gemm_start<KIND_F8R, 2, 4, 4>,
    gemm_start<KIND_Q8, 2, 4, 4>,   gemm_start<KIND_Q8F, 2, 4, 4>, gemm_start<KIND_F8, 2, 4, 4>,
    gemm_start<KIND_Q4, 2, 4, 4>,   gemm_start<KIND_Q4Z, 2, 4, 4>, gemm_start<KIND_T4, 2, 4, 4>,
    gemm_start<KIND_Q2, 2, 4, 4>,
};

static gemm_start_fn *const full[KINDS] = {
    gemm_start<KIND_BF16, 2, 8, 2>, gemm_start<KIND_F32, 1, 8, 2>, gemm_start<KIND_F8R, 2, 8, 2>,
    gemm_start<KIND_Q8, 2, 8, 2>,   gemm_start<KIND_Q8F, 2, 8, 2>, gemm_start<KIND_F8, 2, 8, 2>,
    gemm_start<KIND_Q4, 2, 8, 2>,   gemm_start<KIND_Q4Z, 2, 8, 2>, gemm_start<KIND_T4, 2, 8, 2>,
    gemm_start<KIND_Q2, 2, 8, 2>,
};

int launch_gemm_wide(const struct gemm_job *job, void *stream)
{
    int each = job->group ? job->rows / job->experts : job->rows;
    return (each <= NARROW_ROWS ? narrow : full)[job->w.kind](job, stream);
}
