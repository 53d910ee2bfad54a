/* Private to kernels/: how swiglu is cut into work. */
#pragma once

#define SWIGLU_BLOCK 256 /* columns; a multiple of GROUP */

static inline int swiglu_blocks(int k)
{
    return (k + SWIGLU_BLOCK - 1) / SWIGLU_BLOCK;
}
