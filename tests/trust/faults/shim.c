/* shim: what the system does to a program, made to go wrong on request (LD_PRELOAD; steered by tests/trust/faults/shim.py).
 *
 * The environment's WEFT_FAULTS names a page that is mapped and shared with the test, which may change it while the program runs; WEFT_FAULTS_IN is the
 * name of the program that it is for: children that inherit the environment map nothing and run as they are. In the page stand rules. Each says which
 * calls, on which paths (a pattern with *) or kinds of descriptors, from which matching call on, how often, and what happens: an errno, a shorter
 * transfer, a delay. It counts the calls that matched and those that it spoiled, so a test knows that its fault was met, and that none is left to meet.
 * Memory is one kind of call (malloc, calloc, realloc, strdup and their kin return NULL; a pattern is then of the library that asks); the clock is a number that is added to CLOCK_REALTIME,
 * gettimeofday() and time(), while CLOCK_MONOTONIC stays, as when somebody sets the clock.
 *
 * SQLite's own hook (xSetSystemCall) lacks fdatasync, and knows nothing of what other libraries do: so this stands before the C library instead. Not seen
 * are calls that the C library makes within itself (stdio's writes, posix_fallocate's) and what the kernel does with mappings.
 *
 * What may not be faked: EAGAIN and short transfers on sockets that an epoll watches for edges (libmicrohttpd's). The kernel promises another edge after
 * those, which a shim can't make; the proxy (proxy.py) splits and stalls bytes for real.
 *
 * Any thread, at any time: rules are read with atomics only, nothing is allocated, no lock is taken, and what the shim asks itself goes to the kernel
 * directly. With ASan in the program this must come before its runtime (verify_asan_link_order=0): the next malloc is ASan's. */
#include "tests/trust/faults/shim.h"
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PATH_ROOM 512
#define FRAMES 40
#define REAL(name) __typeof__(&name) real = (__typeof__(&name))next(&at_##name, #name)
#define SLOT(name) static void *_Atomic at_##name

static struct shim_page *page;
static bool traces; /* WEFT_FAULTS_TRACE: where each fault struck, to stderr */

/* The same address from whichever thread comes first. Found at the first call: other libraries' constructors may run before ours. */
static void *next(void *_Atomic *slot, const char *name)
{
    void *p = *slot;
    if (!p) *slot = p = dlsym(RTLD_NEXT, name);
    return p;
}

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("WEFT_FAULTS"), *only = getenv("WEFT_FAULTS_IN");
    if (!path || (only && strcmp(only, program_invocation_short_name) != 0)) return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    void *p = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0) syscall(SYS_close, fd);
    if (p == MAP_FAILED || ((struct shim_page *)p)->magic != SHIM_MAGIC) _exit(125); /* a test that would test nothing */
    page = p;
    page->pid = getpid();
    void *first[4];
    traces = getenv("WEFT_FAULTS_TRACE") && backtrace(first, 4) > 0; /* its first call allocates */
}

/* --- which call a rule means --- */

static bool matches(const char *pattern, const char *s)
{
    const char *star = NULL, *from = NULL;
    while (*s) {
        if (*pattern == '*') star = ++pattern, from = s;
        else if (*pattern == *s) pattern++, s++;
        else if (star) pattern = star, s = ++from;
        else return false;
    }
    while (*pattern == '*') pattern++;
    return !*pattern;
}

static unsigned kind_of(int fd)
{
    struct stat st;
    if (syscall(SYS_fstat, fd, &st)) return SHIM_OTHER;
    return S_ISREG(st.st_mode) ? SHIM_FILE : S_ISSOCK(st.st_mode) ? SHIM_SOCKET : SHIM_OTHER;
}

static void digits(char *out, unsigned n)
{
    char turned[12];
    int k = 0;
    do turned[k++] = (char)('0' + n % 10);
    while (n /= 10);
    while (k) *out++ = turned[--k];
    *out = 0;
}

static bool is_path_of(const struct shim_rule *r, int fd)
{
    char link[32] = "/proc/self/fd/", path[PATH_ROOM];
    digits(link + 14, (unsigned)fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (n < 0) return false;
    path[n] = 0;
    return matches(r->path, path);
}

/* fd >= 0 or path is given, or neither (memory). */
static bool is_meant(struct shim_rule *r, unsigned call, int fd, const char *path)
{
    if (!r->armed || !(r->calls & call)) return false;
    if (fd >= 0 && r->kinds && !(r->kinds & kind_of(fd))) return false;
    if (!r->path[0]) return true;
    return path ? matches(r->path, path) : fd >= 0 && is_path_of(r, fd);
}

static void tell(void)
{
    void *at[FRAMES];
    int n = backtrace(at, FRAMES);
    syscall(SYS_write, 2, "struck:\n", 8);
    backtrace_symbols_fd(at, n, 2);
}

/* The rule that strikes now, or NULL. */
static struct shim_rule *struck(unsigned call, int fd, const char *path)
{
    if (!page || !page->any) return NULL;
    int kept = errno;
    struct shim_rule *hit = NULL;
    for (int i = 0; i < SHIM_RULES && !hit; i++) {
        struct shim_rule *r = &page->rule[i];
        if (!is_meant(r, call, fd, path)) continue;
        int64_t n = r->seen++;
        if (n < r->from || (r->times >= 0 && n >= r->from + r->times)) continue;
        r->done++;
        hit = r;
    }
    if (hit && traces) tell();
    errno = kept;
    return hit;
}

static void rest(int64_t us)
{
    struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    syscall(SYS_nanosleep, &t, NULL);
}

/* True: the call fails, errno is set. *n may become shorter. */
static bool fails(unsigned call, int fd, const char *path, size_t *n)
{
    struct shim_rule *r = struck(call, fd, path);
    if (!r) return false;
    if (r->delay_us) rest(r->delay_us);
    if (r->error) errno = r->error;
    else if (n && *n > 1) *n = r->short_to && (size_t)r->short_to < *n ? (size_t)r->short_to : r->short_to ? *n : (*n + 1) / 2;
    return r->error != 0;
}

/* --- transfers --- */

SLOT(read); SLOT(write); SLOT(pread); SLOT(pwrite); SLOT(pread64); SLOT(pwrite64); SLOT(readv); SLOT(writev); SLOT(send); SLOT(recv); SLOT(sendto);
SLOT(recvfrom); SLOT(sendmsg); SLOT(recvmsg);

ssize_t read(int fd, void *p, size_t n)
{
    REAL(read);
    return fails(SHIM_READ, fd, NULL, &n) ? -1 : real(fd, p, n);
}

ssize_t write(int fd, const void *p, size_t n)
{
    REAL(write);
    return fails(SHIM_WRITE, fd, NULL, &n) ? -1 : real(fd, p, n);
}

ssize_t pread(int fd, void *p, size_t n, off_t at)
{
    REAL(pread);
    return fails(SHIM_PREAD, fd, NULL, &n) ? -1 : real(fd, p, n, at);
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
    REAL(pwrite);
    return fails(SHIM_PWRITE, fd, NULL, &n) ? -1 : real(fd, p, n, at);
}

ssize_t pread64(int fd, void *p, size_t n, off64_t at)
{
    REAL(pread64);
    return fails(SHIM_PREAD, fd, NULL, &n) ? -1 : real(fd, p, n, at);
}

ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at)
{
    REAL(pwrite64);
    return fails(SHIM_PWRITE, fd, NULL, &n) ? -1 : real(fd, p, n, at);
}

/* Fortified callers. The room was checked by the compiler's own number: it is passed on. */
ssize_t __read_chk(int fd, void *p, size_t n, size_t room);
ssize_t __read_chk(int fd, void *p, size_t n, size_t room)
{
    if (n > room) abort();
    return read(fd, p, n);
}

ssize_t __pread_chk(int fd, void *p, size_t n, off_t at, size_t room);
ssize_t __pread_chk(int fd, void *p, size_t n, off_t at, size_t room)
{
    if (n > room) abort();
    return pread(fd, p, n, at);
}

ssize_t __pread64_chk(int fd, void *p, size_t n, off64_t at, size_t room);
ssize_t __pread64_chk(int fd, void *p, size_t n, off64_t at, size_t room)
{
    if (n > room) abort();
    return pread64(fd, p, n, at);
}

/* Of several pieces a short transfer is the first one. */
ssize_t readv(int fd, const struct iovec *v, int count)
{
    REAL(readv);
    size_t all = 2;
    if (fails(SHIM_READ, fd, NULL, &all)) return -1;
    return all == 1 && count > 0 ? read(fd, v[0].iov_base, (v[0].iov_len + 1) / 2) : real(fd, v, count);
}

ssize_t writev(int fd, const struct iovec *v, int count)
{
    REAL(writev);
    size_t all = 2;
    if (fails(SHIM_WRITEV, fd, NULL, &all)) return -1;
    return all == 1 && count > 0 ? write(fd, v[0].iov_base, (v[0].iov_len + 1) / 2) : real(fd, v, count);
}

ssize_t send(int fd, const void *p, size_t n, int flags)
{
    REAL(send);
    return fails(SHIM_SEND, fd, NULL, &n) ? -1 : real(fd, p, n, flags);
}

ssize_t sendto(int fd, const void *p, size_t n, int flags, const struct sockaddr *to, socklen_t len)
{
    REAL(sendto);
    return fails(SHIM_SEND, fd, NULL, &n) ? -1 : real(fd, p, n, flags, to, len);
}

ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    REAL(sendmsg);
    return fails(SHIM_SEND, fd, NULL, NULL) ? -1 : real(fd, m, flags);
}

ssize_t recv(int fd, void *p, size_t n, int flags)
{
    REAL(recv);
    return fails(SHIM_RECV, fd, NULL, &n) ? -1 : real(fd, p, n, flags);
}

ssize_t recvfrom(int fd, void *p, size_t n, int flags, struct sockaddr *from, socklen_t *len)
{
    REAL(recvfrom);
    return fails(SHIM_RECV, fd, NULL, &n) ? -1 : real(fd, p, n, flags, from, len);
}

ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
    REAL(recvmsg);
    return fails(SHIM_RECV, fd, NULL, NULL) ? -1 : real(fd, m, flags);
}

/* --- files --- */

SLOT(fdatasync); SLOT(fsync); SLOT(ftruncate); SLOT(ftruncate64); SLOT(posix_fallocate); SLOT(posix_fallocate64); SLOT(open); SLOT(open64); SLOT(openat);
SLOT(openat64); SLOT(rename); SLOT(mkdir); SLOT(link); SLOT(linkat); SLOT(unlink); SLOT(accept4);

int fdatasync(int fd)
{
    REAL(fdatasync);
    return fails(SHIM_FDATASYNC, fd, NULL, NULL) ? -1 : real(fd);
}

int fsync(int fd)
{
    REAL(fsync);
    return fails(SHIM_FSYNC, fd, NULL, NULL) ? -1 : real(fd);
}

int ftruncate(int fd, off_t n)
{
    REAL(ftruncate);
    return fails(SHIM_FTRUNCATE, fd, NULL, NULL) ? -1 : real(fd, n);
}

int ftruncate64(int fd, off64_t n)
{
    REAL(ftruncate64);
    return fails(SHIM_FTRUNCATE, fd, NULL, NULL) ? -1 : real(fd, n);
}

int posix_fallocate(int fd, off_t at, off_t n)
{
    REAL(posix_fallocate);
    return fails(SHIM_FTRUNCATE, fd, NULL, NULL) ? errno : real(fd, at, n);
}

int posix_fallocate64(int fd, off64_t at, off64_t n)
{
    REAL(posix_fallocate64);
    return fails(SHIM_FTRUNCATE, fd, NULL, NULL) ? errno : real(fd, at, n);
}

static mode_t mode_of(int flags, va_list ap)
{
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;
}

#define OPEN(name)                                                       \
    int name(const char *path, int flags, ...)                           \
    {                                                                    \
        REAL(name);                                                      \
        va_list ap;                                                      \
        va_start(ap, flags);                                             \
        mode_t mode = mode_of(flags, ap);                                \
        va_end(ap);                                                      \
        return fails(SHIM_OPEN, -1, path, NULL) ? -1 : real(path, flags, mode); \
    }
#define OPENAT(name)                                                     \
    int name(int dir, const char *path, int flags, ...)                  \
    {                                                                    \
        REAL(name);                                                      \
        va_list ap;                                                      \
        va_start(ap, flags);                                             \
        mode_t mode = mode_of(flags, ap);                                \
        va_end(ap);                                                      \
        return fails(SHIM_OPEN, -1, path, NULL) ? -1 : real(dir, path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

int __open_2(const char *path, int flags);
int __open_2(const char *path, int flags) { return open(path, flags); }
int __open64_2(const char *path, int flags);
int __open64_2(const char *path, int flags) { return open64(path, flags); }
int __openat_2(int dir, const char *path, int flags);
int __openat_2(int dir, const char *path, int flags) { return openat(dir, path, flags); }
int __openat64_2(int dir, const char *path, int flags);
int __openat64_2(int dir, const char *path, int flags) { return openat64(dir, path, flags); }

int rename(const char *from, const char *to)
{
    REAL(rename);
    return fails(SHIM_RENAME, -1, to, NULL) ? -1 : real(from, to);
}

int link(const char *from, const char *to)
{
    REAL(link);
    return fails(SHIM_RENAME, -1, to, NULL) ? -1 : real(from, to);
}

int linkat(int a, const char *from, int b, const char *to, int flags)
{
    REAL(linkat);
    return fails(SHIM_RENAME, -1, to, NULL) ? -1 : real(a, from, b, to, flags);
}

int unlink(const char *path)
{
    REAL(unlink);
    return fails(SHIM_UNLINK, -1, path, NULL) ? -1 : real(path);
}

int mkdir(const char *path, mode_t mode)
{
    REAL(mkdir);
    return fails(SHIM_MKDIR, -1, path, NULL) ? -1 : real(path, mode);
}

int accept4(int fd, struct sockaddr *a, socklen_t *n, int flags)
{
    REAL(accept4);
    return fails(SHIM_ACCEPT, fd, NULL, NULL) ? -1 : real(fd, a, n, flags);
}

/* --- memory --- */

SLOT(malloc); SLOT(calloc); SLOT(realloc); SLOT(reallocarray); SLOT(aligned_alloc); SLOT(posix_memalign); SLOT(pthread_getattr_np);

static _Thread_local bool spared __attribute__((tls_model("initial-exec"))); /* no call of __tls_get_addr, which ASan counts */

/* ASan asks this of each thread that begins, and ends the program where it fails: that is no finding. */
int pthread_getattr_np(pthread_t thread, pthread_attr_t *a)
{
    REAL(pthread_getattr_np);
    spared = true;
    int rc = real(thread, a);
    spared = false;
    return rc;
}

/* The library (or the program) that asks, where a rule wants to know. */
static const char *library_of(const void *caller)
{
    Dl_info who;
    for (int i = 0; i < SHIM_RULES; i++)
        if (page->rule[i].armed && page->rule[i].calls & SHIM_MALLOC && page->rule[i].path[0]) return dladdr(caller, &who) ? who.dli_fname : NULL;
    return NULL;
}

static bool no_memory(const void *caller)
{
    return !spared && page && page->any && fails(SHIM_MALLOC, -1, library_of(caller), NULL);
}

#define CALLER __builtin_return_address(0)

void *malloc(size_t n)
{
    REAL(malloc);
    return no_memory(CALLER) ? NULL : real(n);
}

void *calloc(size_t a, size_t b)
{
    REAL(calloc);
    return no_memory(CALLER) ? NULL : real(a, b);
}

void *realloc(void *p, size_t n)
{
    REAL(realloc);
    return no_memory(CALLER) ? NULL : real(p, n);
}

void *reallocarray(void *p, size_t a, size_t b)
{
    REAL(reallocarray);
    return no_memory(CALLER) ? NULL : real(p, a, b);
}

void *aligned_alloc(size_t align, size_t n)
{
    REAL(aligned_alloc);
    return no_memory(CALLER) ? NULL : real(align, n);
}

int posix_memalign(void **p, size_t align, size_t n)
{
    REAL(posix_memalign);
    return no_memory(CALLER) ? ENOMEM : real(p, align, n);
}

static void *taken(size_t n)
{
    REAL(malloc);
    return real(n);
}

/* ASan makes copies of strings by itself. */
char *strdup(const char *s)
{
    size_t n = strlen(s) + 1;
    char *p = no_memory(CALLER) ? NULL : taken(n);
    return p ? memcpy(p, s, n) : NULL;
}

char *__strdup(const char *s);
char *__strdup(const char *s) { return strdup(s); }

char *strndup(const char *s, size_t most)
{
    size_t n = strnlen(s, most);
    char *p = no_memory(CALLER) ? NULL : taken(n + 1);
    if (!p) return NULL;
    p[n] = 0;
    return memcpy(p, s, n);
}

/* --- the clock --- */

SLOT(clock_gettime); SLOT(gettimeofday);

static int64_t shift_us(void)
{
    return page ? page->clock_us : 0;
}

int clock_gettime(clockid_t id, struct timespec *t)
{
    REAL(clock_gettime);
    int rc = real(id, t);
    int64_t shift = id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE ? shift_us() : 0;
    if (rc || !shift) return rc;
    int64_t ns = t->tv_nsec + shift % 1000000 * 1000;
    t->tv_sec += shift / 1000000 + (ns >= 1000000000) - (ns < 0);
    t->tv_nsec = ns + (ns < 0) * 1000000000ll - (ns >= 1000000000) * 1000000000ll;
    return 0;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone)
{
    REAL(gettimeofday);
    int rc = real(t, zone);
    if (rc || !shift_us()) return rc;
    int64_t us = (int64_t)t->tv_sec * 1000000 + t->tv_usec + shift_us();
    t->tv_sec = us / 1000000;
    t->tv_usec = us % 1000000;
    return 0;
}

time_t time(time_t *out)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (out) *out = t.tv_sec;
    return t.tv_sec;
}
