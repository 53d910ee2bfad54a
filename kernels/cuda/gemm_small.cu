/* Products of up to 16 rows (a decode step), and of groups whose experts have few rows each: weights stream once at the
 * memory's speed, whatever their kind.
 *
 * The eight warps of a block split k (gemm_kernel.h), a block has 32 outputs, or 16 where there would be too few blocks.
 * Everything goes through mma, a single row too: at 3 to 5 TB/s an SM gets 15 to 20 bytes a cycle, of 4-bit codes about 35
 * weights, and one mma takes 256 of them times 8 rows in under two cycles, while CUDA cores would spend half of all their
 * issue slots on one row and all of them on two. So a row has the same bits in any product of up to 16 rows.
 *
 * Cost: the weight's bytes / memory bandwidth. Beside them x is read by every block out of L2, rows / 16 (16 outputs) or
 * rows / 32 of the weights' bytes in bf16, which is why 32 outputs are preferred, and why beyond 16 rows the wide product
 * or a dense one takes over. */
#include "kernels/cuda/gemm_kernel.h"

#define SLICES 8

/* [kind][NT - 1], 32 outputs a block; f32's chunks fill the ring with 16. */
static gemm_start_fn *const whole[KINDS][2] = {
    {gemm_start<KIND_BF16, 2, 1, SLICES>, gemm_start<KIND_BF16, 2, 2, SLICES>},
    {gemm_start<KIND_F32, 1, 1, SLICES>, gemm_start<KIND_F32, 1, 2, SLICES>},
    {gemm_start<KIND_F8R, 2, 1, SLICES>, gemm_start<KIND_F8R, 2, 2, SLICES>},
    {gemm_start<KIND_Q8, 2, 1, SLICES>, gemm_start<KIND_Q8, 2, 2, SLICES>},
    {gemm_start<KIND_Q8F, 2, 1, SLICES>, gemm_start<KIND_Q8F, 2, 2, SLICES>},
    {gemm_start<KIND_F8, 2, 1, SLICES>, gemm_start<KIND_F8, 2, 2, SLICES>},
    {gemm_start<KIND_Q4, 2, 1, SLICES>, gemm_start<KIND_Q4, 2, 2, SLICES>},
    {gemm_start<KIND_Q4Z, 2, 1, SLICES>, gemm_start<KIND_Q4Z, 2, 2, SLICES>},
    {gemm_start<KIND_T4, 2, 1, SLICES>, gemm_start<KIND_T4, 2, 2, SLICES>},
    {gemm_start<KIND_Q2, 2, 1, SLICES>, gemm_start<KIND_Q2, 2, 2, SLICES>},
};

/* 16 outputs a block: bf16 and f8r, whose rows can be cut anywhere. */
static gemm_start_fn *const narrow[2][2] = {
    {gemm_start<KIND_BF16, 1, 1, SLICES>, gemm_start<KIND_BF16, 1, 2, SLICES>},
    {gemm_start<KIND_F8R, 1, 1, SLICES>, gemm_start<KIND_F8R, 1, 2, SLICES>},
};

int launch_gemm_small(const struct gemm_job *job, void *stream)
{
    int each = job->group ? job->rows / job->experts : job->rows, two = each > 8;
    bool few = !job->group && (job->w.n + TILE_N - 1) / TILE_N < 2 * cuda_target.sms;
    if (!job->group && job->rows > GEMM_SMALL_ROWS) return RT_BAD_SHAPE;
    if (few && job->w.kind == KIND_BF16) return narrow[0][two](job, stream);
    if (few && job->w.kind == KIND_F8R) return narrow[1][two](job, stream);
    return whole[job->w.kind][two](job, stream);
}
