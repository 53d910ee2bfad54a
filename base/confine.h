/* What a process gives up for good, so that whoever takes it over gets little (docs/SECURITY.md).
 *
 *     confine_start()        both programs, first thing in main
 *     confine_files()        the engine, before any other thread: only these paths from now on (Landlock)
 *     confine_calls()        the engine, once it listens: no new sockets, no processes, few system calls (seccomp)
 *     confine_calls_fetching()    the engine's puller (engine/pull_helper.c): connections, and few other system calls
 *     confine_calls_alone()       what fetches for it, then: no process of its own, no signal
 *
 * Each holds for the whole process and for what it might start, and nothing takes it back. */
#pragma once
#include "base/err.h"
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

/* No new privileges (no set-user-id program gains any), no core file, and no other process of this user may read the
 * memory, in which prompts and keys stand (PR_SET_DUMPABLE; so debuggers need root). What the kernel does not know is left out. */
void confine_start(void);

enum confine_right {
    CONFINE_READ,   /* a file, or a folder with all below it */
    CONFINE_CHANGE, /* the same, and files there are made, written, renamed, removed */
    CONFINE_TREE,   /* a folder: the same, and folders in it */
    CONFINE_SOCKET, /* a folder: a socket is made and removed there */
};

struct confine_path {
    const char *path; /* NULL, "" and what is not there are left out */
    enum confine_right right;
};

/* The folder that a path lies in, written into `out`; "." for a bare name, "" for "". Returns out, or a constant. */
const char *confine_folder_of(const char *path, char out[PATH_MAX]);

/* From now on the calling thread, and threads that it starts later, open nothing but these paths, and read what every
 * program of the C library does: shared libraries, and what time zones, names of hosts and random numbers come from. A folder's
 * symbolic links are followed: what they name is allowed too (as a Hugging Face cache has them). ERR_UNAVAILABLE where the kernel has
 * no Landlock, else ERR_INTERNAL; then nothing is forbidden. */
int confine_files(const struct confine_path *paths, size_t n, struct err *e);

/* From now on all threads may compute, wait, talk on sockets that they have or accept, and open files; any other
 * system call fails with EPERM, or ENOSYS where the C library knows another way. ERR_UNAVAILABLE where the kernel has no seccomp. */
int confine_calls(struct err *e);

/* The same for a process that fetches: it makes connections, and starts processes of its own kind, which may give up more; still no execve, no tracing,
 * no listening. What the kernel sends it at its parent's end may be made SIGKILL, and nothing else again. */
int confine_calls_fetching(struct err *e);

/* After that one, in a process that it started: no process, no signal, be it to itself. */
int confine_calls_alone(struct err *e);

/* A sanitizer is built in: it needs what confine_calls() forbids. */
bool confine_is_sanitized(void);
