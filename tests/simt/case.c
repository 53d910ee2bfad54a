/* Cases, seeds, comparisons. A case runs in a process of its own for each seed, so a fault in a kernel ends that process
 * and no more; what it says goes to stderr, and how to run it again. */
#include "kernels/convert.h"
#include "tests/simt/run.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEFAULT_SEEDS 4
#define FAULT_SEEDS 4 /* of what must be noticed: each policy once; 40 once in a while */
#define MAX_SEEDS 1024
#define CASE_S 300 /* a case that takes longer hangs */
#define SAID_MAX 65536
#define FAILED 3 /* a case's exit status */

static unsigned seed; /* 0: no case runs */
static int cases, failures;

unsigned simt_seed(void)
{
    return seed;
}

void simt_failed(void)
{
    fflush(stderr);
    if (seed) _exit(FAILED);
    abort();
}

bool simt_held(bool cond)
{
    return cond; /* launches have ended when they return */
}

void simt_check_failed(const char *file, int line, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "simt: seed %u: %s:%d: ", seed, file, line);
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, "\n");
    va_end(ap);
    simt_failed();
}

/* --- cases --- */

static void child(unsigned s, void (*fn)(void *), void *arg, int to)
{
    seed = s;
    dup2(to, STDERR_FILENO);
    close(to);
    alarm(CASE_S);
    memory_catch_faults();
    fn(arg);
    simt_check_guards();
    fflush(NULL);
    _exit(0);
}

/* A seed that runs; what it says is in a file without a name. */
struct job {
    pid_t pid;
    int said;
};

static struct job start(unsigned s, void (*fn)(void *), void *arg)
{
    struct job j = {.said = memfd_create("said", 0)};
    fflush(NULL);
    j.pid = fork();
    if (!j.pid) child(s, fn, arg, j.said);
    return j;
}

/* -> the exit status, or 128 + the signal; -1: it could not be run. */
static int finish(struct job j, char *said, size_t size)
{
    int status;
    bool ran = j.pid > 0 && waitpid(j.pid, &status, 0) == j.pid;
    ssize_t n = j.said < 0 ? 0 : pread(j.said, said, size - 1, 0);
    said[n > 0 ? n : 0] = 0;
    if (j.said >= 0) close(j.said);
    if (!ran) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static unsigned number(const char *name, unsigned otherwise)
{
    const char *s = getenv(name);
    return s ? (unsigned)strtoul(s, NULL, 10) : otherwise;
}

static void print_lines(const char *text)
{
    while (*text) {
        int n = (int)strcspn(text, "\n");
        printf("# %.*s\n", n, text);
        text += n + (text[n] == '\n');
    }
}

/* Seeds first .. last, some at a time -> the first that ends otherwise than it should (0: none), what it said, and its
 * status. `message` NULL: the case must pass. */
static unsigned run_seeds(unsigned first, unsigned last, void (*fn)(void *), void *arg, const char *message, char *said,
                          int *status)
{
    struct job job[MAX_SEEDS];
    long beside = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned started = first, bad = 0;
    for (unsigned s = first; s <= last; s++) {
        static char text[SAID_MAX];
        for (; started <= last && started < s + (unsigned)beside && !bad; started++)
            job[started - first] = start(started, fn, arg);
        if (s >= started) break;
        int end = finish(job[s - first], text, sizeof text);
        bool good = message ? end == FAILED && strstr(text, message) : end == 0;
        if (good && getenv("SIMT_SAY")) print_lines(text);
        if (good || bad) continue;
        bad = s, *status = end;
        memcpy(said, text, sizeof text);
    }
    return bad;
}

static void run_case(const char *name, void (*fn)(void *), void *arg, const char *message)
{
    static char said[SAID_MAX];
    const char *only = getenv("SIMT_CASE");
    unsigned one = number("SIMT_SEED", 0), seeds = number("SIMT_SEEDS", DEFAULT_SEEDS);
    if (only && !strstr(name, only)) return;
    if (seeds > MAX_SEEDS) seeds = MAX_SEEDS;
    cases++;
    int status = 0;
    unsigned bad = run_seeds(one ? one : 1, one ? one : seeds, fn, arg, message, said, &status);
    printf("%s %d - %s\n", bad ? "not ok" : "ok", cases, name);
    if (!bad) return;
    failures++;
    if (message) printf("# wanted a failure that says: %s\n", message);
    print_lines(said);
    printf("# status %d; again with SIMT_SEED=%u SIMT_CASE='%s'\n", status, bad, name);
}

void simt_case(const char *name, void (*fn)(void *), void *arg)
{
    run_case(name, fn, arg, NULL);
}

void simt_case_fails(const char *name, void (*fn)(void *), void *arg, const char *message)
{
    run_case(name, fn, arg, message);
}

/* --- without a barrier or a wait --- */

struct without {
    void (*fn)(void *);
    void *arg;
    struct simt_place place;
};

static void run_without(void *arg)
{
    const struct without *w = arg;
    simt_leave_out(&w->place);
    w->fn(w->arg);
}

static void leave_out(const struct without *w, const char *where)
{
    static char said[SAID_MAX];
    char name[256];
    int status;
    const char *only = getenv("SIMT_CASE");
    snprintf(name, sizeof name, "%s of %s:%d is missed", w->place.what, where, w->place.line);
    if (only && !strstr(name, only)) return;
    unsigned seeds = number("SIMT_SEEDS", FAULT_SEEDS);
    unsigned bad =
        run_seeds(1, seeds > MAX_SEEDS ? MAX_SEEDS : seeds, run_without, (void *)w, "simt: seed", said, &status);
    if (bad) {
        printf("# seed %u does without %s of %s:%d\n", bad, w->place.what, where, w->place.line);
        return;
    }
    printf("ok %d - %s\n", ++cases, name);
    place_is_missed(&w->place);
}

void simt_case_without(const char *file, void (*fn)(void *), void *arg)
{
    static char said[SAID_MAX];
    static struct simt_place place[PLACES_MAX];
    const struct simt_place *seen;
    if (!simt_finds_races()) return;
    simt_forget_places();
    if (finish(start(1, fn, arg), said, sizeof said)) return; /* a case of its own says why */
    int n = simt_places(&seen);
    memcpy(place, seen, (size_t)n * sizeof *place);
    for (int i = 0; i < n; i++) {
        struct without w = {fn, arg, place[i]};
        const char *where = strstr(place[i].file, "kernels/cuda/");
        if (!where || strncmp(where + strlen("kernels/cuda/"), file, strlen(file)) || place_was_missed(&place[i]))
            continue;
        leave_out(&w, where);
    }
}

int simt_done(void)
{
    kernels_tell();
    printf("1..%d\n", cases);
    return failures != 0;
}

/* --- numbers --- */

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
    for (size_t i = 0; i < n; i++) p[i] = value_at(stream, i, scale);
}

void simt_fill_bf16(uint16_t *p, size_t n, uint64_t stream, float scale)
{
    for (size_t i = 0; i < n; i++) p[i] = bf16_of_f32(value_at(stream, i, scale));
}

void simt_fill_bytes(void *p, size_t n, uint64_t stream)
{
    for (size_t i = 0; i < n; i++) ((uint8_t *)p)[i] = (uint8_t)(mix(mix(stream) + i) >> 56);
}

/* --- comparisons --- */

void simt_equal(const char *what, const void *got, const void *want, size_t bytes)
{
    const uint8_t *g = got, *w = want;
    for (size_t i = 0; i < bytes; i++)
        if (g[i] != w[i]) {
            fprintf(stderr, "simt: seed %u: %s: byte %zu of %zu is %02x, not %02x\n", seed, what, i, bytes, g[i], w[i]);
            simt_failed();
        }
}

void simt_untouched(const char *what, const void *p, size_t bytes)
{
    const uint8_t *b = p;
    for (size_t i = 0; i < bytes; i++)
        if (b[i] != 0xff) {
            fprintf(stderr, "simt: seed %u: %s: byte %zu of %zu was written\n", seed, what, i, bytes);
            simt_failed();
        }
}

static float largest(const float *v, size_t n)
{
    float most = 0;
    for (size_t i = 0; i < n; i++) most = fmaxf(most, fabsf(v[i]));
    return most;
}

static void near(const char *what, size_t i, float got, float want, float most)
{
    if (fabsf(got - want) <= most) return;
    fprintf(stderr, "simt: seed %u: %s[%zu] is %.9g, wanted %.9g within %.3g\n", seed, what, i, (double)got,
            (double)want, (double)most);
    simt_failed();
}

void simt_near_f32(const char *what, const float *got, const float *want, size_t n, float part)
{
    float most = largest(want, n) * part;
    for (size_t i = 0; i < n; i++) near(what, i, got[i], want[i], most);
}

void simt_near_bf16(const char *what, const uint16_t *got, const float *want, size_t n, float part)
{
    float most = largest(want, n) * part;
    for (size_t i = 0; i < n; i++) near(what, i, f32_of_bf16(got[i]), want[i], most);
}
