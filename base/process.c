/* process: /proc/self as numbers (proc(5)).
 *
 * `stat` has the fields that count, behind a name in parentheses that may itself hold anything: so it is read from the last
 * closing one. Open descriptors are counted by listing /proc/self/fd, of which the listing's own is taken off. */
#include "base/process.h"
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define STAT_MAX 2048

static size_t read_text(const char *path, char *out, size_t cap)
{
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(out, 1, cap - 1, f) : 0;
    if (f) fclose(f);
    out[n] = 0;
    return n;
}

/* Seconds since 1970 when the machine was started. */
static double boot_s(void)
{
    char line[256];
    long long s = 0;
    FILE *f = fopen("/proc/stat", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "btime %lld", &s) == 1) break;
    if (f) fclose(f);
    return (double)s;
}

static void read_stat(struct process_use *out)
{
    char text[STAT_MAX];
    unsigned long user = 0, system = 0, size = 0;
    long long threads = 0, start = 0, pages = 0;
    double tick = (double)sysconf(_SC_CLK_TCK);
    read_text("/proc/self/stat", text, sizeof text);
    const char *p = strrchr(text, ')');
    if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %lld %*d %lld %lu %lld", &user, &system, &threads, &start,
                     &size, &pages) != 6)
        return;
    out->cpu_s = (double)(user + system) / tick;
    out->threads = threads;
    out->start_s = boot_s() + (double)start / tick;
    out->virtual_ = (int64_t)size;
    out->resident = pages * sysconf(_SC_PAGESIZE);
}

int64_t process_resident(void)
{
    char text[STAT_MAX];
    long long size, pages = 0;
    read_text("/proc/self/statm", text, sizeof text);
    return sscanf(text, "%lld %lld", &size, &pages) == 2 ? pages * sysconf(_SC_PAGESIZE) : 0;
}

static int64_t count_fds(void)
{
    int64_t n = -1; /* its own */
    DIR *d = opendir("/proc/self/fd");
    if (!d) return 0;
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

void process_use(struct process_use *out)
{
    struct rlimit most = {0};
    *out = (struct process_use){0};
    read_stat(out);
    out->open_fds = count_fds();
    if (getrlimit(RLIMIT_NOFILE, &most) == 0) out->max_fds = (int64_t)most.rlim_cur;
}

void disk_room(const char *path, int64_t *free, int64_t *size)
{
    struct statvfs v;
    *free = *size = 0;
    if (statvfs(path, &v)) return;
    *free = (int64_t)v.f_bavail * (int64_t)v.f_frsize;
    *size = (int64_t)v.f_blocks * (int64_t)v.f_frsize;
}
