/* Private to kernels/: gelu's constants. */
#pragma once

/* gelu by tanh (Hendrycks and Gimpel 2016), 0.5 g (1 + tanh(u)), u = sqrt(2/pi) (g + 0.044715 g^3), is
 * g / (1 + e^(-2u)): silu with another exponent, and without the cancellation that 1 + tanh has for negative g.
 * -2u = g (GELU_1 + GELU_3 g^2). */
#define GELU_1 (-2 * 0.7978845608028654f)
#define GELU_3 (-2 * 0.7978845608028654f * 0.044715f)
