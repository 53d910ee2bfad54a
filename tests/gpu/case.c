/* tests/simt/simt.h on a GPU: the cases of tests/simt/test_*.c, linked with the kernels as nvcc made them.
 *
 * Idea: what a test asks of simt.h is memory that it and a kernel both see, and cases. Here the memory is pinned host
 * memory, which the device reads and writes at the same addresses; the tests' sources, the tables that they build
 * (pointers inside) and what they expect stay as they are. Launches are the ones that ship: the linker hands them to
 * __wrap_*, which notes that something runs, and the next check, fill, comparison or buffer waits for it. So kernels that
 * one launch_*() enqueues behind each other run as in the engine, dependent launch included.
 *
 *     buffers   | guard | 0xff .. data | guard |   at a case's end the guards and all that is beside the data must
 *               still be 0xff, and what was sealed must have the sum that it was sealed with
 *     GPU_APART=1: each buffer is an allocation of its own, as long as it says: for memcheck, which then sees reads too
 *
 * A case runs in this process. One that fails is left by longjmp (what it held on the host is lost); if the device
 * refuses all further work after it, the program starts itself again behind that case. A launch that this device has no
 * kernel for (clusters before sm_90) ends the case as skipped.
 *
 * What it can't see: writes into pages of other processes (nobody can), reads beside a buffer without memcheck, races
 * without racecheck. Device memory proper is met by golden.c and bench.c. */
#include "kernels/convert.h"
#include "kernels/cuda/ops.h"
#include "tests/simt/simt.h"
#include <cuda_runtime_api.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARENA ((size_t)768 << 20)
#define PAGE ((size_t)4096)
#define FRESH 0xff
#define MAX_BUFFERS 1024
#define DEFAULT_SEEDS 3 /* a case that chooses by seed has three choices at most */
#define CASE_S 120      /* a case that takes longer hangs */

struct buffer {
    const char *name;
    char *pages, *data;
    size_t bytes, page_bytes; /* page_bytes 0: an allocation of its own */
    bool sealed;
    uint64_t sum;
};

static char *arena;
static size_t used; /* of the arena, by this case */
static struct buffer buffer[MAX_BUFFERS];
static int buffers;
static unsigned seed; /* 0: no case runs */
static int cases, failures, skipped;
static jmp_buf case_end;
static enum { PASSED, FAILED, SKIPPED } result;
static bool pending, lost, no_kernel, clusters;

static void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    printf("# seed %u: ", seed);
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
}

/* --- launches --- */

cudaError_t __real_cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *kernel, void **args);
cudaError_t __wrap_cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *kernel, void **args);
cudaError_t __real_cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream);
cudaError_t __wrap_cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream);
cudaError_t __real_cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t s);
cudaError_t __wrap_cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t s);
int __real_rt_dense_run(struct rt_dense *d, const struct rt_product *p, void *stream);
int __wrap_rt_dense_run(struct rt_dense *d, const struct rt_product *p, void *stream);

static bool wants_cluster(const cudaLaunchConfig_t *c)
{
    for (unsigned i = 0; i < c->numAttrs; i++)
        if (c->attrs[i].id == cudaLaunchAttributeClusterDimension) return true;
    return false;
}

cudaError_t __wrap_cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *kernel, void **args)
{
    cudaLaunchConfig_t plain = *config;
    pending = true;
    if (!arena || clusters) return __real_cudaLaunchKernelExC(config, kernel, args);
    no_kernel = wants_cluster(config);
    if (no_kernel) return cudaErrorNotSupported;
    plain.numAttrs = 0; /* dependent launch came with clusters, but a test's target may ask for it */
    return __real_cudaLaunchKernelExC(&plain, kernel, args);
}

cudaError_t __wrap_cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    pending = true;
    return __real_cudaMemsetAsync(to, value, bytes, stream);
}

cudaError_t __wrap_cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t s)
{
    pending = true;
    return __real_cudaMemcpyAsync(to, from, bytes, kind, s);
}

int __wrap_rt_dense_run(struct rt_dense *d, const struct rt_product *p, void *stream)
{
    pending = true;
    return __real_rt_dense_run(d, p, stream);
}

static void leave(int how) __attribute__((noreturn));
static void leave(int how)
{
    if (!seed) exit(3);
    result = how;
    longjmp(case_end, 1);
}

void simt_failed(void)
{
    leave(FAILED);
}

/* Wait for what runs; a fault of the device ends the case, and this process's use of the device. */
static void settle(void)
{
    if (no_kernel) leave(SKIPPED);
    if (!pending) return;
    pending = false;
    cudaError_t rc = cudaDeviceSynchronize();
    if (rc == cudaSuccess) rc = cudaGetLastError();
    if (rc == cudaSuccess) return;
    lost = true;
    say("the device: %s", cudaGetErrorString(rc));
    simt_failed();
}

bool simt_held(bool cond)
{
    settle();
    return cond;
}

void simt_check_failed(const char *file, int line, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    printf("# seed %u: %s:%d: ", seed, file, line);
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
    simt_failed();
}

unsigned simt_seed(void)
{
    return seed;
}

void simt_case_without(const char *file, void (*fn)(void *arg), void *arg)
{
    (void)file, (void)fn, (void)arg; /* what a device does without a barrier tells nothing */
}

bool simt_finds_races(void)
{
    return false;
}

/* --- memory --- */

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static void open_device(void)
{
    struct cudaDeviceProp p;
    int device = 0, can = 0;
    if (arena) return;
    cudaError_t rc = cudaGetDevice(&device);
    if (!rc) rc = cudaGetDeviceProperties(&p, device);
    if (!rc) rc = cudaDeviceGetAttribute(&can, cudaDevAttrClusterLaunch, device);
    if (!rc) rc = cudaHostAlloc((void **)&arena, ARENA, cudaHostAllocMapped);
    if (rc) {
        printf("Bail out! no device: %s\n", cudaGetErrorString(rc));
        exit(2);
    }
    clusters = can != 0;
    if (cuda_target.shared_block > (int)p.sharedMemPerBlockOptin)
        cuda_target.shared_block = (int)p.sharedMemPerBlockOptin;
    printf("# on %s, sm_%d%d\n", p.name, p.major, p.minor);
}

static void *alone(struct buffer *b)
{
    cudaError_t rc = cudaHostAlloc((void **)&b->data, b->bytes ? b->bytes : 1, cudaHostAllocMapped);
    SIMT_CHECK(rc == cudaSuccess, "no room for %s: %s", b->name, cudaGetErrorString(rc));
    memset(b->data, FRESH, b->bytes);
    return b->data;
}

void *simt_buffer(const char *name, size_t bytes)
{
    settle();
    SIMT_CHECK(buffers < MAX_BUFFERS, "more than %d buffers", MAX_BUFFERS);
    struct buffer *b = &buffer[buffers++];
    *b = (struct buffer){.name = name, .bytes = bytes};
    if (getenv("GPU_APART")) return alone(b);
    size_t page_bytes = round_up(bytes + !bytes, PAGE);
    if (used + page_bytes + 2 * PAGE > ARENA) {
        buffers--;
        simt_check_failed(__FILE__, __LINE__, "no room for %zu bytes of %s", bytes, name);
    }
    b->page_bytes = page_bytes;
    b->pages = arena + used + PAGE;
    b->data = b->pages + page_bytes - round_up(bytes, 16);
    memset(arena + used, FRESH, page_bytes + 2 * PAGE);
    used += page_bytes + PAGE; /* the guard behind is the next one's in front */
    return b->data;
}

static uint64_t sum_of(const struct buffer *b)
{
    uint64_t sum = 14695981039346656037u;
    size_t words = b->bytes / 8, i;
    for (i = 0; i < words; i++) {
        uint64_t w;
        memcpy(&w, b->data + 8 * i, 8);
        sum = (sum ^ w) * 1099511628211u;
    }
    for (i = 8 * words; i < b->bytes; i++) sum = (sum ^ (uint8_t)b->data[i]) * 1099511628211u;
    return sum;
}

static struct buffer *buffer_at(const void *p)
{
    for (int i = 0; i < buffers; i++)
        if ((const char *)p >= buffer[i].data && (const char *)p < buffer[i].data + buffer[i].bytes + !buffer[i].bytes)
            return &buffer[i];
    simt_check_failed(__FILE__, __LINE__, "not a buffer");
}

void simt_seal(void *data)
{
    settle();
    struct buffer *b = buffer_at(data);
    b->sealed = true, b->sum = sum_of(b);
}

static void check_seal(const struct buffer *b)
{
    if (b->sealed && sum_of(b) != b->sum) simt_check_failed(__FILE__, __LINE__, "%s was sealed and written", b->name);
}

void simt_unseal(void *data)
{
    settle();
    struct buffer *b = buffer_at(data);
    check_seal(b);
    b->sealed = false;
}

void *simt_sealed(const char *name, const void *from, size_t bytes)
{
    void *data = simt_buffer(name, bytes);
    memcpy(data, from, bytes);
    simt_seal(data);
    return data;
}

static void check_fresh(const struct buffer *b, const char *from, const char *to, const char *where)
{
    for (const char *p = from; p < to; p++)
        if (*p != (char)FRESH)
            simt_check_failed(__FILE__, __LINE__, "written %zd bytes %s %s[%zu]",
                              p < b->data ? b->data - p : p - (b->data + b->bytes), where, b->name, b->bytes);
}

void simt_check_guards(void)
{
    settle();
    for (int i = 0; i < buffers; i++) {
        const struct buffer *b = &buffer[i];
        check_seal(b);
        if (!b->page_bytes) continue;
        check_fresh(b, b->pages - PAGE, b->data, "in front of");
        check_fresh(b, b->data + b->bytes, b->pages + b->page_bytes + PAGE, "behind");
    }
}

static void forget_buffers(void)
{
    for (int i = 0; i < buffers && !lost; i++)
        if (!buffer[i].page_bytes) cudaFreeHost(buffer[i].data);
    buffers = 0, used = 0;
}

/* --- cases --- */

static unsigned number(const char *name, unsigned otherwise)
{
    const char *s = getenv(name);
    return s ? (unsigned)strtoul(s, NULL, 10) : otherwise;
}

static void set_number(const char *name, int n)
{
    char text[16];
    snprintf(text, sizeof text, "%d", n);
    setenv(name, text, 1);
}

/* This process's context is of no more use: go on behind this case in a new one. */
static void start_again(void)
{
    char self[] = "/proc/self/exe", *argv[] = {self, NULL};
    set_number("GPU_FROM", cases), set_number("GPU_FAILED", failures), set_number("GPU_SKIPPED", skipped);
    fflush(NULL);
    execv(self, argv);
    printf("Bail out! the device is lost\n");
    exit(3);
}

static void run_seed(void (*fn)(void *), void *arg)
{
    result = PASSED, no_kernel = pending = false;
    if (setjmp(case_end) == 0) {
        fn(arg);
        simt_check_guards();
    }
    if (pending && !lost) cudaDeviceSynchronize();
    (void)cudaGetLastError(); /* a refused launch, which the case has seen */
}

void simt_case(const char *name, void (*fn)(void *arg), void *arg)
{
    const char *only = getenv("SIMT_CASE");
    unsigned one = number("SIMT_SEED", 0), seeds = number("SIMT_SEEDS", DEFAULT_SEEDS);
    if (only && !strstr(name, only)) return;
    if (cases++ < (int)number("GPU_FROM", 0)) return;
    if (cases == (int)number("GPU_FROM", 0) + 1)
        failures = (int)number("GPU_FAILED", 0), skipped = (int)number("GPU_SKIPPED", 0);
    open_device();
    const struct cuda_target target = cuda_target;
    alarm(CASE_S);
    result = PASSED;
    for (seed = one ? one : 1; result == PASSED && seed <= (one ? one : seeds); seed++) {
        run_seed(fn, arg);
        forget_buffers();
        cuda_target = target; /* cases change it */
    }
    seed = 0;
    alarm(0);
    failures += result == FAILED, skipped += result == SKIPPED;
    printf("%sok %d - %s%s\n", result == FAILED ? "not " : "", cases, name,
           result == SKIPPED ? " # skip this device has no clusters" : "");
    fflush(stdout);
    if (lost) start_again();
}

/* Barriers are not left out on a device. */
void simt_case_fails(const char *name, void (*fn)(void *arg), void *arg, const char *message)
{
    (void)name, (void)fn, (void)arg, (void)message;
}

int simt_done(void)
{
    if (cases <= (int)number("GPU_FROM", 0)) /* started again behind the last one */
        failures = (int)number("GPU_FAILED", 0), skipped = (int)number("GPU_SKIPPED", 0);
    if (!cases) {
        printf("Bail out! no case is called %s\n", getenv("SIMT_CASE"));
        return 4;
    }
    printf("1..%d\n# %d passed, %d failed, %d skipped\n", cases, cases - failures - skipped, failures, skipped);
    return failures != 0;
}

/* --- numbers: those of the shim --- */

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static float value_at(uint64_t stream, size_t i, float scale)
{
    return ((float)(mix(mix(stream) + i) >> 40) * 0x1p-23f - 1) * scale;
}

void simt_fill_f32(float *p, size_t n, uint64_t stream, float scale)
{
    settle();
    for (size_t i = 0; i < n; i++) p[i] = value_at(stream, i, scale);
}

void simt_fill_bf16(uint16_t *p, size_t n, uint64_t stream, float scale)
{
    settle();
    for (size_t i = 0; i < n; i++) p[i] = bf16_of_f32(value_at(stream, i, scale));
}

void simt_fill_bytes(void *p, size_t n, uint64_t stream)
{
    settle();
    for (size_t i = 0; i < n; i++) ((uint8_t *)p)[i] = (uint8_t)(mix(mix(stream) + i) >> 56);
}

/* --- comparisons --- */

void simt_equal(const char *what, const void *got, const void *want, size_t bytes)
{
    settle();
    const uint8_t *g = got, *w = want;
    for (size_t i = 0; i < bytes; i++)
        if (g[i] != w[i])
            simt_check_failed(__FILE__, __LINE__, "%s: byte %zu of %zu is %02x, not %02x", what, i, bytes, g[i], w[i]);
}

void simt_untouched(const char *what, const void *p, size_t bytes)
{
    settle();
    const uint8_t *b = p;
    for (size_t i = 0; i < bytes; i++)
        if (b[i] != FRESH) simt_check_failed(__FILE__, __LINE__, "%s: byte %zu of %zu was written", what, i, bytes);
}

static float bound(const float *want, size_t n, float part)
{
    float most = 0;
    for (size_t i = 0; i < n; i++) most = fmaxf(most, fabsf(want[i]));
    return most * part;
}

static void near(const char *what, size_t i, float got, float want, float most)
{
    if (!(fabsf(got - want) <= most))
        simt_check_failed(__FILE__, __LINE__, "%s[%zu] is %.9g, wanted %.9g within %.3g", what, i, (double)got,
                          (double)want, (double)most);
}

void simt_near_f32(const char *what, const float *got, const float *want, size_t n, float part)
{
    settle();
    float most = bound(want, n, part);
    for (size_t i = 0; i < n; i++) near(what, i, got[i], want[i], most);
}

void simt_near_bf16(const char *what, const uint16_t *got, const float *want, size_t n, float part)
{
    settle();
    float most = bound(want, n, part);
    for (size_t i = 0; i < n; i++) near(what, i, f32_of_bf16(got[i]), want[i], most);
}
