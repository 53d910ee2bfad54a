/* confine_calls: which system calls are left (see confine.h), by libseccomp.
 *
 * A list of what is allowed, for what is not known yet is not harmless. Calls that the C library tries first and
 * has another way for (clone3, whose flags a filter cannot see) are said to be unknown; everything else that is not on
 * the list is said to be forbidden, which a program can report, rather than killed. Threads are made, processes are not:
 * clone() must say CLONE_THREAD. Names that an architecture does not have are passed over.
 *
 * The filter would turn speculative store bypass off on kernels before 5.16, at several percent of the speed of all that
 * computes; it is asked not to (SPEC_ALLOW): the engine runs nobody's code. */
#include "base/confine.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/prctl.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* Names by what they are for, with spaces between. */
static const char *const allowed[] = {
    /* files, by what confine_files() leaves */
    "read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 open openat openat2 close "
    "close_range stat lstat fstat newfstatat fstatat64 fstat64 statx statfs fstatfs lseek _llseek access "
    "faccessat faccessat2 readlink readlinkat getdents64 getcwd unlink unlinkat rename renameat renameat2 "
    "link linkat ftruncate fallocate mkdir mkdirat fsync fdatasync sync_file_range flock fchmod utimensat "
    "dup dup2 dup3 fadvise64 readahead copy_file_range umask",
    /* memory */
    "brk mmap mmap2 munmap mremap mprotect madvise mincore msync mlock mlock2 munlock mbind get_mempolicy "
    "set_mempolicy memfd_create membarrier pkey_alloc pkey_free pkey_mprotect",
    /* connections that there are */
    "accept accept4 recvfrom recvmsg recv send shutdown getsockname getpeername getsockopt "
    "setsockopt sendfile sendfile64 poll ppoll select _newselect pselect6 epoll_create epoll_create1 "
    "epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2 pipe pipe2",
    /* threads and time */
    "futex futex_waitv set_robust_list get_robust_list rseq set_tid_address sched_yield sched_getaffinity "
    "sched_getparam sched_getscheduler sched_get_priority_max sched_get_priority_min getpriority getcpu nanosleep clock_nanosleep "
    "clock_gettime clock_getres gettimeofday time times getitimer restart_syscall exit exit_group",
    /* itself */
    "rt_sigaction rt_sigprocmask rt_sigpending rt_sigtimedwait rt_sigreturn rt_sigsuspend sigaltstack "
    "sigreturn getpid getppid gettid getuid geteuid getgid getegid getrandom getrusage sysinfo uname "
    "getrlimit ugetrlimit arch_prctl",
};

/* Of a process that fetches, beside those: names of hosts are asked for and connections made, and one process a file is started and
 * waited for. No bind() and no listen(): nobody connects to it. What fetch_rules() adds: sockets of the internet, and the one by which the
 * C library learns of addresses; none of this machine's own, behind which other programs are. Processes, but in no namespace of their own. Each may give up
 * more, has an alarm, and can make sure that the kernel kills it when its parent ends, not that it doesn't. */
static const char fetching[] = "socketpair connect sendmmsg recvmmsg rmdir wait4 waitid alarm setitimer seccomp landlock_create_ruleset landlock_add_rule "
                               "landlock_restrict_self";
#define NAMESPACES ((uint64_t)(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET))

/* Calls whose first arguments decide. What names a process or thread by number takes 0 alone, the caller's own: other processes of the user have limits,
 * priorities and cores as well. Of fcntl() what has to do with descriptors: F_SETOWN and F_SETSIG send signals of one's choice to a process of one's choice.
 * TCP Fast Open connects as it sends, and a listener that was shut down is a socket to do it on. */
static const struct {
    const char *name;
    unsigned arg;
    uint64_t mask, value;
} partly[] = {
    {"clone", 0, CLONE_THREAD, CLONE_THREAD},
    {"prctl", 0, ~0ull, PR_SET_NAME},
    {"prctl", 0, ~0ull, PR_SET_VMA},
    {"ioctl", 1, ~0ull, FIONREAD},
    {"ioctl", 1, ~0ull, FIONBIO},
    {"fcntl", 1, ~0ull, F_DUPFD},
    {"fcntl", 1, ~0ull, F_DUPFD_CLOEXEC},
    {"fcntl", 1, ~0ull, F_GETFD},
    {"fcntl", 1, ~0ull, F_SETFD},
    {"fcntl", 1, ~0ull, F_GETFL},
    {"fcntl", 1, ~0ull, F_SETFL},
    {"fcntl", 1, ~0ull, F_GETLK},
    {"fcntl", 1, ~0ull, F_SETLK},
    {"fcntl", 1, ~0ull, F_SETLKW},
    {"fcntl", 1, ~0ull, F_OFD_GETLK},
    {"fcntl", 1, ~0ull, F_OFD_SETLK},
    {"fcntl", 1, ~0ull, F_OFD_SETLKW},
    {"fcntl", 1, ~0ull, F_ADD_SEALS},
    {"fcntl", 1, ~0ull, F_GET_SEALS},
    {"sendto", 3, MSG_FASTOPEN, 0},
    {"sendmsg", 2, MSG_FASTOPEN, 0},
    {"prlimit64", 0, ~0ull, 0},
    {"sched_setaffinity", 0, ~0ull, 0},
};

static const char *const unknown[] = {"clone3", "io_uring_setup"};

static int rule(scmp_filter_ctx f, uint32_t action, const char *name)
{
    int call = seccomp_syscall_resolve_name(name);
    if (call == __NR_SCMP_ERROR || call < 0) return 0;
    int rc = seccomp_rule_add(f, action, call, 0);
    return rc == -EOPNOTSUPP || rc == -EDOM ? 0 : rc;
}

static int allow_all(scmp_filter_ctx f, const char *names)
{
    char copy[2048], *rest = copy, *name;
    int rc = 0;
    snprintf(copy, sizeof copy, "%s", names);
    while (rc == 0 && (name = strsep(&rest, " "))) rc = rule(f, SCMP_ACT_ALLOW, name);
    return rc;
}

static int fetch_rules(scmp_filter_ctx f)
{
    int rc = allow_all(f, fetching);
    if (rc == 0) rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1, SCMP_CMP64(0, SCMP_CMP_MASKED_EQ, NAMESPACES, 0));
    if (rc == 0) rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 2, SCMP_CMP64(0, SCMP_CMP_EQ, PR_SET_PDEATHSIG), SCMP_CMP64(1, SCMP_CMP_EQ, SIGKILL));
    if (rc == 0) rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, SCMP_CMP64(0, SCMP_CMP_EQ, PR_SET_NO_NEW_PRIVS));
    if (rc == 0) rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_CMP64(0, SCMP_CMP_EQ, AF_INET));
    if (rc == 0) rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_CMP64(0, SCMP_CMP_EQ, AF_INET6));
    if (rc == 0) rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 2, SCMP_CMP64(0, SCMP_CMP_EQ, AF_NETLINK), SCMP_CMP64(2, SCMP_CMP_EQ, NETLINK_ROUTE));
    return rc;
}

static int fill(scmp_filter_ctx f, bool fetches)
{
    int rc = seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1); /* all threads that there are */
    if (rc == 0) rc = seccomp_attr_set(f, SCMP_FLTATR_CTL_SSB, 1);
    if (rc == 0) rc = seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree, not a line of comparisons */
    for (size_t i = 0; rc == 0 && i < sizeof allowed / sizeof *allowed; i++) rc = allow_all(f, allowed[i]);
    if (rc == 0 && fetches) rc = fetch_rules(f);
    for (size_t i = 0; rc == 0 && i < sizeof unknown / sizeof *unknown; i++)
        rc = rule(f, SCMP_ACT_ERRNO(ENOSYS), unknown[i]);
    for (size_t i = 0; rc == 0 && i < sizeof partly / sizeof *partly; i++)
        rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, seccomp_syscall_resolve_name(partly[i].name), 1,
                              SCMP_CMP64(partly[i].arg, SCMP_CMP_MASKED_EQ, partly[i].mask, partly[i].value));
    if (rc == 0) /* of this thread; PRIO_USER with 0 would be all of the user's */
        rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(setpriority), 2, SCMP_CMP64(0, SCMP_CMP_EQ, PRIO_PROCESS), SCMP_CMP64(1, SCMP_CMP_EQ, 0));
    if (rc == 0) /* abort() and the threads' library signal this process; no other is signalled */
        rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, SCMP_CMP64(0, SCMP_CMP_EQ, (uint64_t)getpid()));
    return rc;
}

/* On top of a filter that holds already: what this one allows is still asked of that. */
static int fill_alone(scmp_filter_ctx f)
{
    int rc = seccomp_attr_set(f, SCMP_FLTATR_CTL_SSB, 1);
    if (rc == 0) rc = seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1, SCMP_CMP64(0, SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0));
    if (rc == 0) rc = seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(tgkill), 0);
    return rc;
}

enum filter { ENGINE, FETCHING, ALONE };

static int load(enum filter which, struct err *e)
{
    scmp_filter_ctx f = seccomp_init(which == ALONE ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(EPERM));
    if (!f) return err_set(e, ERR_NO_MEMORY, "no memory for the filter of system calls");
    int rc = which == ALONE ? fill_alone(f) : fill(f, which == FETCHING);
    if (rc == 0) rc = seccomp_load(f);
    seccomp_release(f);
    if (rc == 0) return 0;
    return err_set(e, rc == -EINVAL || rc == -ENOSYS || rc == -EOPNOTSUPP ? ERR_UNAVAILABLE : ERR_INTERNAL,
                   "no filter of system calls: %s", strerror(-rc));
}

int confine_calls(struct err *e)
{
    return load(ENGINE, e);
}

int confine_calls_fetching(struct err *e)
{
    return load(FETCHING, e);
}

int confine_calls_alone(struct err *e)
{
    return load(ALONE, e);
}
