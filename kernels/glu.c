/* act(gate) * up, plain. Dealt to the threads in blocks of columns, because a decode step has few rows. */
#include "kernels/glu.h"
#include "kernels/act.h"
#include "kernels/matmul.h"
#include <math.h>

static float exponent(enum mlp_act act, float g)
{
    return act == MLP_SILU ? -g : g * (GELU_1 + GELU_3 * (g * g));
}

void glu_plain(struct kthread *t, enum mlp_act act, const float *gate, const float *up, int rows, int k,
               struct act *out)
{
    int blocks = glu_blocks(k), lo, hi;
    pool_share(t, rows * blocks, &lo, &hi);
    for (int i = lo; i < hi; i++) {
        int row = i / blocks, c0 = i % blocks * GLU_BLOCK, c1 = c0 + GLU_BLOCK < k ? c0 + GLU_BLOCK : k;
        for (int c = c0; c < c1; c++) {
            size_t at = (size_t)row * (size_t)k + (size_t)c;
            out->x[at] = gate[at] / (1 + expf(exponent(act, gate[at]))) * up[at];
        }
        act_round(out, row, k, c0, c1);
    }
}
