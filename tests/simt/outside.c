/* What the shim asks of a case, where there is none: inside weft-cuda.so, opened by an engine or a test of it. Threads
 * run in turn, or in the order of WEFT_SIMT_SEED; a fault that the shim finds ends the process. */
#include "tests/simt/simt.h"
#include <stdlib.h>

unsigned simt_seed(void)
{
    const char *seed = getenv("WEFT_SIMT_SEED");
    return seed ? (unsigned)strtoul(seed, NULL, 10) : 0;
}

void simt_failed(void)
{
    abort();
}
