/* The tables of kernels that tests of whole models run on: every one that this processor can, or the one that
 * WEFT_KERNELS names. */
#pragma once
#include "kernels/ops.h"
#include <stdlib.h>
#include <string.h>

static const char *const TABLES[] = {"plain", "avx2", "avxvnni", "avx512"};
#define TABLES_N ((int)(sizeof TABLES / sizeof *TABLES))

/* The one of the tests that take them in turn. */
static const char *current_table;

/* Run fn(prec) with current_table set to each; how many there were. */
static inline int for_each_table(enum precision prec, void (*fn)(enum precision prec))
{
    const char *only = getenv("WEFT_KERNELS");
    int n = 0;
    for (int i = 0; i < TABLES_N; i++) {
        if ((only && strcmp(only, "auto") != 0 && strcmp(only, TABLES[i]) != 0) || !kernels_pick(TABLES[i], prec))
            continue;
        current_table = TABLES[i];
        fn(prec);
        n++;
    }
    current_table = only;
    return n;
}
