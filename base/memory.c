/* memory: what is left, of the machine's and of each control group's that this process is in.
 *
 * Idea: /proc/meminfo knows nothing of a container's limit, and who goes beyond that is killed. So the limits are read where both versions of
 * control groups keep them, in the process's own group and all above it. Inside a container the path in /proc/self/cgroup may be the host's;
 * then its folders are missing, but the one at the top is the container's own and is read in any case.
 *
 * A group's use counts its page cache, which could be given up: so this may be too small, never too large. */
#include "base/memory.h"
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define PATH_BYTES 1024

/* Of the two versions: folder, limit, use. */
static const struct {
    const char *folder, *limit, *used;
} version[] = {
    {"/sys/fs/cgroup", "memory.max", "memory.current"},
    {"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"},
};

static size_t less(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* The number that a file begins with; SIZE_MAX: none, as in "max". */
static size_t number_in(const char *folder, const char *name)
{
    char path[2 * PATH_BYTES + 64];
    unsigned long long n;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "re");
    if (!f) return SIZE_MAX;
    int got = fscanf(f, "%20llu", &n);
    fclose(f);
    return got == 1 ? (size_t)n : SIZE_MAX;
}

static size_t machine_leaves(const char *root)
{
    unsigned long kb = 0;
    char path[PATH_BYTES], line[128];
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    FILE *f = fopen(path, "re");
    if (!f) return SIZE_MAX;
    int got = 0;
    while (got != 1 && fgets(line, sizeof line, f)) got = sscanf(line, "MemAvailable: %20lu kB", &kb);
    fclose(f);
    return got == 1 ? (size_t)kb * 1024 : SIZE_MAX;
}

/* A group and all above it. */
static size_t groups_leave(const char *root, size_t v, const char *group)
{
    char folder[2 * PATH_BYTES + 32];
    size_t least = SIZE_MAX, top = (size_t)snprintf(folder, sizeof folder, "%s%s", root, version[v].folder);
    snprintf(folder + top, sizeof folder - top, "%s", strcmp(group, "/") == 0 ? "" : group);
    for (;;) {
        size_t limit = number_in(folder, version[v].limit), used = number_in(folder, version[v].used);
        if (limit != SIZE_MAX && used != SIZE_MAX) least = less(least, limit > used ? limit - used : 1);
        char *slash = strrchr(folder + top, '/');
        if (!slash) return least;
        *slash = 0;
    }
}

size_t memory_available_in(const char *root)
{
    char path[PATH_BYTES], line[PATH_BYTES];
    size_t least = machine_leaves(root);
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) { /* 0::/group, or 4:memory:/group */
        line[strcspn(line, "\n")] = 0;
        char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;
        if (!group) continue;
        *group++ = 0;
        names++;
        if (*names == 0) least = less(least, groups_leave(root, 0, group));
        if (strstr(names, "memory")) least = less(least, groups_leave(root, 1, group));
    }
    if (f) fclose(f);
    return least == SIZE_MAX ? 0 : least;
}

int64_t memory_oom_kills_in(const char *root)
{
    long long n = -1;
    char path[PATH_BYTES], line[128];
    snprintf(path, sizeof path, "%s/proc/vmstat", root);
    FILE *f = fopen(path, "re");
    if (!f) return -1;
    int got = 0;
    while (got != 1 && fgets(line, sizeof line, f)) got = sscanf(line, "oom_kill %18lld", &n);
    fclose(f);
    return got == 1 ? n : -1;
}

int64_t memory_oom_kills(void)
{
    return memory_oom_kills_in("");
}

size_t memory_available(void)
{
    return memory_available_in("");
}
