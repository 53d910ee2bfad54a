/* Codes to bf16, for dense products of many rows; and bf16 rows to e4m3 with a scale each, for Hopper's fp8 products.
 *
 * expand: a thread makes 8 inputs of one output (16 bytes out); a warp's lanes are neighbours in k. Reads the codes, writes
 * 2 bytes a weight: for a panel that stays in L2 (product.c cuts them so) the cost is the writes to L2, about 2 bytes /
 * (5 TB/s) a weight.
 *
 * quantize: a block a row, read twice (the second time from L1 or L2): its largest magnitude, then codes of x * 448 /
 * largest, rounded to nearest even. A row's codes depend on nothing but the row. A row of zeros has scale 0. NaN and
 * infinity become a scale that is not finite, so they show in the result. */
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/weight_dev.h"

#define THREADS 256
#define E4M3_MAX 448.0f

KERNEL(expand, THREADS, 4)(GRID_CONST struct expand_job job)
{
    int per_row = job.w.k / 8;
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    dev_pdl_launch();
    if (i < (size_t)job.n * per_row) {
        int row = (int)(i / per_row), k = (int)(i % per_row) * 8;
        float v[8];
        weight_get8(&job.w, job.row0 + row, k, v);
        dev_pdl_wait(); /* the product in front may still read what lies here */
        *reinterpret_cast<uint4 *>(job.out + (size_t)row * (size_t)(job.w.k + job.gap) + k) = dev_pack8(v);
    }
}

int launch_expand(const struct expand_job *job, void *stream)
{
    size_t items = (size_t)job->n * (size_t)(job->w.k / 8);
    struct dev_launch l = {(unsigned)((items + THREADS - 1) / THREADS), 1, 1, THREADS, 1, 0, stream, cuda_target.pdl};
    return LAUNCH(&l, expand, *job);
}

DEV float largest8(uint4 v)
{
    float f[8], most = 0;
    dev_unpack8(v, f);
    UNROLL
    for (int i = 0; i < 8; i++) {
        float a = dev_as_float(dev_as_uint(f[i]) & 0x7fffffffu);
        most = a > most || a != a ? a : most; /* a NaN stays, as nothing is above it */
    }
    return most;
}

DEV uint2 codes8(uint4 v, float factor)
{
    float f[8];
    uint32_t pair[4];
    dev_unpack8(v, f);
    UNROLL
    for (int i = 0; i < 4; i++) pair[i] = dev_e4m3x2(f[2 * i] * factor, f[2 * i + 1] * factor);
    return make_uint2(pair[0] | pair[1] << 16, pair[2] | pair[3] << 16);
}

KERNEL(quantize_e4m3, THREADS, 4)(GRID_CONST struct quantize_job job)
{
    SHARED(uint32_t, scratch, 32);
    const uint4 *x = reinterpret_cast<const uint4 *>(job.x + (size_t)blockIdx.x * (size_t)job.ldx);
    uint2 *out = reinterpret_cast<uint2 *>(job.codes + (size_t)blockIdx.x * (size_t)job.k);
    uint32_t most = 0; /* bits of magnitudes are ordered as these, NaN above all */
    dev_pdl_launch();
    dev_pdl_wait();
    for (int i = (int)threadIdx.x; i < job.k / 8; i += THREADS) {
        uint32_t here = dev_as_uint(largest8(x[i]));
        most = here > most ? here : most;
    }
    float largest = dev_as_float(dev_block_max(most, scratch));
    if (threadIdx.x == 0) job.scale[blockIdx.x] = largest / E4M3_MAX;
    float factor = largest > 0 ? E4M3_MAX / largest : 0;
    for (int i = (int)threadIdx.x; i < job.k / 8; i += THREADS) out[i] = codes8(x[i], factor);
}

int launch_quantize_e4m3(const struct quantize_job *job, void *stream)
{
    struct dev_launch l = {(unsigned)job->rows, 1, 1, THREADS, 1, 0, stream, cuda_target.pdl};
    return LAUNCH(&l, quantize_e4m3, *job);
}
