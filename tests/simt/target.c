/* What launches know of the device when no backend sets it: a test that cares writes its own values. */
#include "kernels/cuda/ops.h"

__attribute__((weak)) struct cuda_target cuda_target = {.cc = 90, .sms = 4, .shared_block = 232448, .pdl = 1};
