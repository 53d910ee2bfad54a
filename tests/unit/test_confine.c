/* What a process gives up stays given up: each test in a child of its own, for nothing takes it back. */
#include "base/confine.h"
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char room[64];

static char *in_room(const char *name)
{
    static char path[4][128];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", room, name);
    return p;
}

static void write_file(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0 && write(fd, "text", 4) == 4);
    close(fd);
}

static int make_room(void **state)
{
    (void)state;
    snprintf(room, sizeof room, "/tmp/weft-confine-XXXXXX");
    assert_non_null(mkdtemp(room));
    assert_int_equal(mkdir(in_room("read"), 0700) | mkdir(in_room("change"), 0700) | mkdir(in_room("other"), 0700) |
                         mkdir(in_room("run"), 0700),
                     0);
    write_file(in_room("read/file"));
    write_file(in_room("other/file"));
    write_file(in_room("other/linked"));
    assert_int_equal(symlink("../other/linked", in_room("read/link")), 0);
    return 0;
}

static int remove_room(void **state)
{
    (void)state;
    static const char *const files[] = {"read/link",  "read/file",      "other/file", "other/linked",
                                        "change/new", "change/renamed", "run/s"};
    static const char *const folders[] = {"read", "change", "other", "run", ""};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) unlink(in_room(files[i]));
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) rmdir(in_room(folders[i]));
    return 0;
}

/* In a child; which of its checks failed, by number from 1 on; 0: none. */
static int in_child(int (*work)(void))
{
    int status;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) _exit(work());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

#define CHECK(n, what)                                                                                                 \
    if (!(what)) return n

static int opens(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC, 0600);
    if (fd >= 0) close(fd);
    return fd >= 0 ? 0 : errno;
}

/* Files: 77 where the kernel has no Landlock, which is said and no failure of ours. */
static int enter(void)
{
    struct err e = {0};
    const struct confine_path paths[] = {{in_room("read"), CONFINE_READ},
                                         {in_room("change"), CONFINE_CHANGE},
                                         {in_room("run"), CONFINE_SOCKET},
                                         {in_room("not there"), CONFINE_READ},
                                         {"/proc/self", CONFINE_READ}, /* whose links lead to the root of all */
                                         {NULL, CONFINE_READ},
                                         {"", CONFINE_READ}};
    if (confine_files(paths, sizeof paths / sizeof *paths, &e) == 0) return 0;
    return e.code == ERR_UNAVAILABLE ? 77 : 100;
}

static int files_in_child(void)
{
    int rc = enter();
    if (rc) return rc;
    CHECK(1, opens(in_room("read/file"), O_RDONLY) == 0);
    CHECK(2, opens(in_room("read/file"), O_WRONLY) == EACCES);
    CHECK(3, opens(in_room("read/new"), O_WRONLY | O_CREAT) == EACCES);
    CHECK(4, unlink(in_room("read/file")) == -1 && errno == EACCES);
    CHECK(5, opens(in_room("other/file"), O_RDONLY) == EACCES);
    CHECK(6, opens(in_room("read/link"), O_RDONLY) == 0);
    CHECK(7, opens("/etc/passwd", O_RDONLY) == EACCES);
    CHECK(8, opens(in_room("change/new"), O_WRONLY | O_CREAT) == 0);
    CHECK(9, rename(in_room("change/new"), in_room("change/renamed")) == 0 && unlink(in_room("change/renamed")) == 0);
    CHECK(10, mkdir(in_room("change/folder"), 0700) == -1);
    CHECK(11, rename(in_room("read/file"), in_room("change/file")) == -1);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%.60s/run/s", room);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(12, bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && unlink(a.sun_path) == 0);
    CHECK(13, opens(in_room("run/file"), O_WRONLY | O_CREAT) == EACCES);
    CHECK(14, access(in_room("change"), W_OK) == 0);
    CHECK(15, opens("/proc/self/status", O_RDONLY) == 0);
    CHECK(16, opens("/proc/self/root/etc/passwd", O_RDONLY) == EACCES);
    CHECK(17, opens("/dev/urandom", O_RDONLY) == 0 && opens("/dev/urandom", O_WRONLY) == EACCES);
    CHECK(18, opens("/proc/sys/kernel/random/boot_id", O_RDONLY) == 0 && opens("/etc/hosts", O_RDONLY) != EACCES);
    return 0;
}

static void *open_other(void *u)
{
    *(int *)u = opens(in_room("other/file"), O_RDONLY);
    return NULL;
}

static int later_threads_in_child(void)
{
    int got = 0, rc = enter();
    pthread_t t;
    if (rc) return rc;
    CHECK(1, pthread_create(&t, NULL, open_other, &got) == 0 && pthread_join(t, NULL) == 0);
    CHECK(2, got == EACCES);
    return 0;
}

static void judge(int rc)
{
    if (rc == 77) return; /* the kernel has none of it: said by the engine, tested there */
    assert_int_equal(rc, 0);
}

static void test_only_the_named_files_are_opened(void **state)
{
    (void)state;
    judge(in_child(files_in_child));
}

static void test_threads_that_start_later_are_in_the_same_room(void **state)
{
    (void)state;
    judge(in_child(later_threads_in_child));
}

/* --- system calls --- */

static int started[2];

static void *fork_when_told(void *u)
{
    char c;
    if (read(started[0], &c, 1) != 1) return u;
    *(int *)u = fork() == -1 ? errno : 0;
    return NULL;
}

static void *nothing(void *u)
{
    return u;
}

/* A socket of the internet that listens at a port of its own. */
static int listening(struct sockaddr_in *at)
{
    socklen_t n = sizeof *at;
    *at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    return fd >= 0 && bind(fd, (struct sockaddr *)at, n) == 0 && listen(fd, 4) == 0 && getsockname(fd, (struct sockaddr *)at, &n) == 0 ? fd : -1;
}

static int calls_in_child(void)
{
    struct err e = {0};
    struct sockaddr_in own_at, other_at;
    int own = listening(&own_at), other = listening(&other_at);
    pthread_t before, after;
    int forked = 0, pair[2];
    CHECK(1, pipe(started) == 0 && pthread_create(&before, NULL, fork_when_told, &forked) == 0);
    CHECK(2, socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    confine_start();
    if (confine_calls(&e)) return e.code == ERR_UNAVAILABLE ? 77 : 3;
    CHECK(4, socket(AF_INET, SOCK_STREAM, 0) == -1 && errno == EPERM);
    CHECK(5, socket(AF_UNIX, SOCK_STREAM, 0) == -1 && errno == EPERM);
    CHECK(6, fork() == -1 && errno == EPERM);
    char name[] = "/bin/true", *argv[] = {name, NULL};
    CHECK(7, execv(argv[0], argv) == -1 && errno == EPERM);
    CHECK(8, kill(getppid(), 0) == -1 && errno == EPERM);
    CHECK(9, prctl(PR_SET_DUMPABLE, 1) == -1 && errno == EPERM);
    CHECK(10, setuid(getuid()) == -1 && errno == EPERM);
    CHECK(11, send(pair[0], "x", 1, 0) == 1 && fcntl(pair[0], F_SETFL, O_NONBLOCK) == 0);
    CHECK(12, pthread_create(&after, NULL, nothing, NULL) == 0 && pthread_join(after, NULL) == 0);
    CHECK(13, write(started[1], "x", 1) == 1 && pthread_join(before, NULL) == 0 &&
                  forked == EPERM); /* threads that were there */
    free(malloc(64u << 20));
    CHECK(14, prctl(PR_SET_NAME, "name") == 0 && opens("/dev/null", O_RDONLY) == 0);
    /* Nothing of another process, though its user is the same: no limit, no priority, no cores, no signal by way of a descriptor. */
    struct rlimit limit;
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(0, &cores);
    CHECK(15, prlimit(getppid(), RLIMIT_NOFILE, NULL, &limit) == -1 && errno == EPERM);
    CHECK(16, prlimit(0, RLIMIT_NOFILE, NULL, &limit) == 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK(17, setpriority(PRIO_PROCESS, (id_t)getppid(), 19) == -1 && errno == EPERM);
    CHECK(18, setpriority(PRIO_USER, 0, 19) == -1 && errno == EPERM);
    CHECK(19, setpriority(PRIO_PROCESS, 0, 19) == 0);
    CHECK(20, sched_setaffinity(getppid(), sizeof cores, &cores) == -1 && errno == EPERM);
    CHECK(21, sched_setscheduler(getppid(), SCHED_OTHER, &(struct sched_param){0}) == -1 && errno == EPERM);
    CHECK(22, fcntl(pair[0], F_SETOWN, getppid()) == -1 && errno == EPERM);
    CHECK(23, fcntl(pair[0], F_SETSIG, SIGKILL) == -1 && errno == EPERM);
    CHECK(24, fcntl(pair[0], F_GETFL) >= 0 && fcntl(pair[0], F_DUPFD_CLOEXEC, 10) >= 10);
    /* A listener that is shut down is as good as a new socket, and TCP Fast Open connects without connect(). */
    struct iovec x = {name, 1};
    struct msghdr to = {.msg_name = &other_at, .msg_namelen = sizeof other_at, .msg_iov = &x, .msg_iovlen = 1};
    CHECK(25, own >= 0 && other >= 0 && shutdown(own, SHUT_RDWR) == 0);
    CHECK(26, sendto(own, "x", 1, MSG_FASTOPEN, (struct sockaddr *)&other_at, sizeof other_at) == -1 && errno == EPERM);
    CHECK(27, sendmsg(own, &to, MSG_FASTOPEN) == -1 && errno == EPERM);
    CHECK(28, fcntl(other, F_SETFL, O_NONBLOCK) == 0 && accept(other, NULL, NULL) == -1 && errno == EAGAIN);
    CHECK(29, sendto(pair[0], "x", 1, MSG_NOSIGNAL, NULL, 0) == 1);
    return 0;
}

static void test_few_system_calls_are_left_to_all_threads(void **state)
{
    (void)state;
    if (confine_is_sanitized()) return; /* their runtimes need more */
    judge(in_child(calls_in_child));
}

/* The one that fetches makes connections and processes of its own kind, and no more. */
static int fetching_in_child(void)
{
    struct err e = {0};
    struct sockaddr_un at = {.sun_family = AF_UNIX, .sun_path = "/nonexistent"};
    int status = 1;
    confine_start();
    if (confine_calls_fetching(&e)) return e.code == ERR_UNAVAILABLE ? 77 : 3;
    int fd = socket(AF_INET, SOCK_STREAM, 0), pair[2];
    struct sockaddr_in nowhere = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_port = htons(1)};
    CHECK(4, fd >= 0 && connect(fd, (struct sockaddr *)&nowhere, sizeof nowhere) == -1 && errno == ECONNREFUSED);
    CHECK(5, socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK(6, bind(pair[0], (struct sockaddr *)&at, sizeof at) == -1 && errno == EPERM);
    CHECK(12, socket(AF_UNIX, SOCK_STREAM, 0) == -1 && errno == EPERM);
    CHECK(13, socket(AF_PACKET, SOCK_RAW, 0) == -1 && errno == EPERM);
    CHECK(14, socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE) >= 0);
    CHECK(15, socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER) == -1 && errno == EPERM);
    CHECK(16, syscall(SYS_clone, SIGCHLD | CLONE_NEWUSER, 0, 0, 0, 0) == -1 && errno == EPERM);
    CHECK(7, listen(fd, 1) == -1 && errno == EPERM);
    char name[] = "/bin/true", *argv[] = {name, NULL};
    pid_t child = fork();
    if (child == 0) _exit(execv(argv[0], argv) == -1 && errno == EPERM ? 42 : 1);
    CHECK(8, child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 42);
    CHECK(9, kill(getppid(), 0) == -1 && errno == EPERM);
    CHECK(10, prctl(PR_SET_DUMPABLE, 1) == -1 && errno == EPERM);
    CHECK(11, setuid(getuid()) == -1 && errno == EPERM);
    return 0;
}

/* In what that one starts, which gives up more: a folder of its own, no process, no signal; its end comes with its parent's. */
static int alone_in_child(void)
{
    struct err e = {0};
    const struct confine_path all[] = {{room, CONFINE_TREE}}, one[] = {{in_room("change"), CONFINE_CHANGE}};
    confine_start();
    if (confine_files(all, 1, &e) || confine_calls_fetching(&e)) return e.code == ERR_UNAVAILABLE ? 77 : 3;
    CHECK(4, prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
    CHECK(5, prctl(PR_SET_PDEATHSIG, 0) == -1 && errno == EPERM);
    CHECK(6, opens(in_room("other/file"), O_RDWR) == 0);
    CHECK(7, confine_files(one, 1, &e) == 0 && confine_calls_alone(&e) == 0);
    CHECK(8, opens(in_room("other/file"), O_RDONLY) == EACCES && opens(in_room("change/new"), O_RDWR | O_CREAT) == 0);
    CHECK(9, mkdir(in_room("change/folder"), 0700) == -1 && errno == EACCES);
    CHECK(10, fork() == -1 && errno == EPERM);
    CHECK(11, syscall(SYS_tgkill, getpid(), getpid(), 0) == -1 && errno == EPERM);
    CHECK(12, kill(getppid(), 0) == -1 && errno == EPERM);
    pthread_t thread;
    CHECK(13, pthread_create(&thread, NULL, nothing, NULL) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(14, socket(AF_INET, SOCK_STREAM, 0) >= 0 && socket(AF_UNIX, SOCK_STREAM, 0) == -1);
    return 0;
}

static void test_what_fetches_for_it_is_alone(void **state)
{
    (void)state;
    if (confine_is_sanitized()) return;
    judge(in_child(alone_in_child));
}

static void test_who_fetches_connects_and_starts_no_program(void **state)
{
    (void)state;
    if (confine_is_sanitized()) return;
    judge(in_child(fetching_in_child));
}

static int start_in_child(void)
{
    struct rlimit core = {9, 9};
    confine_start();
    CHECK(1, getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_cur <= 1 && core.rlim_max <= 1);
    CHECK(2, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    CHECK(3, confine_is_sanitized() || prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0);
    return 0;
}

static void test_no_core_file_and_no_new_privileges(void **state)
{
    (void)state;
    judge(in_child(start_in_child));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_only_the_named_files_are_opened),
        cmocka_unit_test(test_threads_that_start_later_are_in_the_same_room),
        cmocka_unit_test(test_few_system_calls_are_left_to_all_threads),
        cmocka_unit_test(test_who_fetches_connects_and_starts_no_program),
        cmocka_unit_test(test_what_fetches_for_it_is_alone),
        cmocka_unit_test(test_no_core_file_and_no_new_privileges),
    };
    return cmocka_run_group_tests(tests, make_room, remove_room);
}
