/* How much memory may still be taken. */
#pragma once
#include <stddef.h>

/* Bytes that the system calls available, or that a control group around this process leaves below its limit, whichever is least; 0: nobody
 * says. Any thread. */
size_t memory_available(void);

/* The same, of a tree of files like the system's that begins at `root`: for tests. */
size_t memory_available_in(const char *root);
