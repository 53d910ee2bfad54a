/* Tests of what memory is said to be left, on trees of files like the system's. */
#include "base/memory.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* clang-format off */
#include <cmocka.h>
/* clang-format on */

#define MB ((size_t)1 << 20)

struct file {
    const char *path, *text;
};

static char root[64];

/* The file and the folders above it. */
static void write_file(const char *path, const char *text)
{
    char all[512];
    snprintf(all, sizeof all, "%s%s", root, path);
    for (char *at = all + strlen(root) + 1; (at = strchr(at, '/')); at++) {
        *at = 0;
        mkdir(all, 0700);
        *at = '/';
    }
    FILE *f = fopen(all, "we");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static size_t left_in(const struct file *f, size_t n)
{
    char remove[128];
    snprintf(root, sizeof root, "/tmp/weft-memory-XXXXXX");
    assert_non_null(mkdtemp(root));
    for (size_t i = 0; i < n && f[i].path; i++) write_file(f[i].path, f[i].text);
    size_t left = memory_available_in(root);
    snprintf(remove, sizeof remove, "rm -r %s", root);
    FILE *p = popen(remove, "r"); /* NOLINT: a folder of our own */
    assert_non_null(p);
    assert_int_equal(pclose(p), 0);
    return left;
}

static void test_the_least_of_the_machines_and_the_groups_is_left(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        size_t left;
        struct file file[8];
    } row[] = {
        {"nobody says", 0, {{0}}},
        {"the machine alone", 2048 * MB, {{"/proc/meminfo", "MemTotal: 9 kB\nMemAvailable: 2097152 kB\n"}}},
        {"a group of version 2",
         600 * MB,
         {{"/proc/meminfo", "MemAvailable: 2097152 kB\n"},
          {"/proc/self/cgroup", "0::/a/b\n"},
          {"/sys/fs/cgroup/a/b/memory.max", "734003200\n"},
          {"/sys/fs/cgroup/a/b/memory.current", "104857600\n"}}},
        {"one above it",
         100 * MB,
         {{"/proc/meminfo", "MemAvailable: 2097152 kB\n"},
          {"/proc/self/cgroup", "0::/a/b\n"},
          {"/sys/fs/cgroup/a/b/memory.max", "max\n"},
          {"/sys/fs/cgroup/a/b/memory.current", "104857600\n"},
          {"/sys/fs/cgroup/a/memory.max", "314572800\n"},
          {"/sys/fs/cgroup/a/memory.current", "209715200\n"}}},
        {"a group of version 1",
         100 * MB,
         {{"/proc/meminfo", "MemAvailable: 2097152 kB\n"},
          {"/proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/pod\n0::/\n"},
          {"/sys/fs/cgroup/memory/pod/memory.limit_in_bytes", "209715200\n"},
          {"/sys/fs/cgroup/memory/pod/memory.usage_in_bytes", "104857600\n"}}},
        {"a container that sees the host's path",
         100 * MB,
         {{"/proc/meminfo", "MemAvailable: 2097152 kB\n"},
          {"/proc/self/cgroup", "4:memory:/docker/0123\n"},
          {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "209715200\n"},
          {"/sys/fs/cgroup/memory/memory.usage_in_bytes", "104857600\n"}}},
        {"a group that is full",
         1,
         {{"/proc/meminfo", "MemAvailable: 2097152 kB\n"},
          {"/proc/self/cgroup", "0::/\n"},
          {"/sys/fs/cgroup/memory.max", "104857600\n"},
          {"/sys/fs/cgroup/memory.current", "104857700\n"}}},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        size_t left = left_in(row[i].file, sizeof row[i].file / sizeof *row[i].file);
        if (left != row[i].left) fail_msg("%s: %zu bytes", row[i].what, left);
    }
}

static void test_what_the_kernel_ended_is_counted(void **state)
{
    (void)state;
    char remove[128];
    snprintf(root, sizeof root, "/tmp/weft-memory-XXXXXX");
    assert_non_null(mkdtemp(root));
    assert_int_equal(memory_oom_kills_in(root), -1);
    write_file("/proc/vmstat", "nr_free_pages 100\noom_killed_not 3\noom_kill 17\nnuma_hit 5\n");
    assert_int_equal(memory_oom_kills_in(root), 17);
    write_file("/proc/vmstat", "nr_free_pages 100\n");
    assert_int_equal(memory_oom_kills_in(root), -1);
    snprintf(remove, sizeof remove, "rm -r %s", root);
    FILE *p = popen(remove, "r"); /* NOLINT: a folder of our own */
    assert_int_equal(pclose(p), 0);
    assert_true(memory_oom_kills() >= -1);
}

static void test_this_machine_has_some(void **state)
{
    (void)state;
    assert_true(memory_available() > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_least_of_the_machines_and_the_groups_is_left),
        cmocka_unit_test(test_what_the_kernel_ended_is_counted),
        cmocka_unit_test(test_this_machine_has_some),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
