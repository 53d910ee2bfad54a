/* Under ASan, which looks at memory and not at answers, long tables of cases run every third: a different third of them
 * in each row, so that each column is met. The release build, which judges the answers, runs all. */
#pragma once

#ifdef __SANITIZE_ADDRESS__
#define THIN_EVERY 3
#else
#define THIN_EVERY 1
#endif

/* n: row + column of the table. */
static inline int thin_skips(int n)
{
    return n % THIN_EVERY != 0;
}
