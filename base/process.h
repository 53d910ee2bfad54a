/* What this process takes of its machine, read from /proc when somebody asks; zero where the kernel does not tell.
 *
 * The names under which Prometheus' own clients tell these are process_*: dashboards and alerts know them. */
#pragma once
#include <stdint.h>

struct process_use {
    double cpu_s;                 /* of all threads, user and system */
    double start_s;               /* unix time */
    int64_t resident, virtual_;   /* bytes */
    int64_t open_fds, max_fds;
    int64_t threads;
};

int64_t process_resident(void); /* bytes; a few microseconds; any thread */
void process_use(struct process_use *out); /* tens of microseconds; any thread */

/* Bytes of the file system that `path` lies on. */
void disk_room(const char *path, int64_t *free, int64_t *size);
