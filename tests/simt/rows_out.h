/* out [n][k] = the float32 values of a device weight. */
#pragma once
#include "kernels/cuda/weight.h"

#ifdef __cplusplus
extern "C" {
#endif

struct rows_job {
    struct cuda_weight w;
    float *out;
};
int launch_rows_out(const struct rows_job *job);

#ifdef __cplusplus
}
#endif
