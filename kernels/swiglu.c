/* silu(gate) * up, plain. Dealt to the threads in blocks of columns, because a decode step has few rows. */
#include "kernels/swiglu.h"
#include "kernels/act.h"
#include "kernels/matmul.h"
#include <math.h>

void swiglu_plain(struct kthread *t, const float *gate, const float *up, int rows, int k, struct act *out)
{
    int blocks = swiglu_blocks(k), lo, hi;
    pool_share(t, rows * blocks, &lo, &hi);
    for (int i = lo; i < hi; i++) {
        int row = i / blocks, c0 = i % blocks * SWIGLU_BLOCK, c1 = c0 + SWIGLU_BLOCK < k ? c0 + SWIGLU_BLOCK : k;
        for (int c = c0; c < c1; c++) {
            size_t at = (size_t)row * (size_t)k + (size_t)c;
            out->x[at] = gate[at] / (1 + expf(-gate[at])) * up[at];
        }
        act_round(out, row, k, c0, c1);
    }
}
