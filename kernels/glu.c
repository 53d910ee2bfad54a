/* act(gate) * up of a tile, plain: the last step of a gated product (matmul.c), whose sums are still at hand. */
#include "kernels/glu.h"
#include "kernels/act.h"
#include "kernels/matmul.h"
#include <math.h>

static float exponent(enum mlp_act act, float g)
{
    return act == MLP_SILU ? -g : g * (GELU_1 + GELU_3 * (g * g));
}

void gate_plain(enum mlp_act act, const float *gate, const float *up, int count, int rows, struct act *out, int row0,
                int k, int c0)
{
    for (int row = 0; row < rows; row++, gate += PANEL, up += PANEL) {
        float y[PANEL];
        for (int i = 0; i < count; i++) y[i] = gate[i] / (1 + expf(exponent(act, gate[i]))) * up[i];
        act_put(out, row0 + row, k, c0, count, y);
    }
}
