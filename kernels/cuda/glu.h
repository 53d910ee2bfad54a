/* The gate of an MLP, act(g) * u, which kernels that end in it share: eight outputs at a time, each with the bits that its
 * gate and up give alone. */
#pragma once
#include "kernels/cuda/dev.h"
#include "kernels/cuda/ops.h"

#define GLU_LOG2_E 1.4426950408889634f
/* gelu by tanh is silu with another exponent (kernels/glu.h): g / (1 + e^(g (GELU_1 + GELU_3 g^2))). */
#define GLU_GELU_1 (-2 * 0.7978845608028654f)
#define GLU_GELU_3 (-2 * 0.7978845608028654f * 0.044715f)

/* An exponential that overflows gives g times 0, the limit. Written out as fused steps, so that every kernel rounds it
 * alike. */
DEV float glu_value(int act, float g, float u)
{
    float e = act == ACT_SILU_MUL ? -g : g * dev_fma(GLU_GELU_3, g * g, GLU_GELU_1);
    return g * dev_rcp(1 + dev_exp2(e * GLU_LOG2_E)) * u;
}

/* Eight gates and eight ups, bf16 as they lie in memory, with biases [8] or NULL. */
DEV uint4 glu_eight(int act, uint4 gate, uint4 up, const float *gate_bias, const float *up_bias)
{
    float g[8], u[8], out[8];
    dev_unpack8(gate, g);
    dev_unpack8(up, u);
    UNROLL
    for (int i = 0; i < 8; i++) {
        if (gate_bias) g[i] += gate_bias[i];
        if (up_bias) u[i] += up_bias[i];
        out[i] = glu_value(act, g[i], u[i]);
    }
    return dev_pack8(out);
}
