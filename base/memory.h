/* How much memory may still be taken. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* Bytes that the system calls available, or that a control group around this process leaves below its limit, whichever is least; 0: nobody
 * says. Any thread. */
size_t memory_available(void);

/* How many processes of this machine the kernel has ended for want of memory, the machine's or a control group's; -1: nobody says (Linux before 4.13). */
int64_t memory_oom_kills(void);

/* The same, of a tree of files like the system's that begins at `root`: for tests. */
size_t memory_available_in(const char *root);
int64_t memory_oom_kills_in(const char *root);
