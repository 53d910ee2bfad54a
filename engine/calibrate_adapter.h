/* Adapters that weft-engine calibrate makes for itself: all modules of all layers, of no meaning. */
#pragma once
#include "adapters/adapter.h"

/* A PEFT folder of that rank. `weights`: a file of an earlier one to link to; NULL: written anew. With another alpha it is another adapter all the same. */
int made_adapter(const char *folder, const struct base_desc *base, int rank, int alpha, const char *weights, struct err *e);
