/* Tests of kernels on the shim: memory that notices, cases that run once per seed in a process of their own, and
 * comparisons that end a case with the reason.
 *
 *     static void norms_a_row(void *arg)
 *     {
 *         float *x = simt_buffer("x", n * 4);              // 0xff, guarded
 *         simt_fill_f32(x, n, 1, 1.0f);
 *         simt_seal(x);                                    // read-only from here
 *         uint16_t *out = simt_buffer("out", n * 2);
 *         SIMT_CHECK(launch_...(&op, NULL) == 0, "refused");
 *         simt_near_bf16("out", out, want, n, 1e-2f);
 *     }
 *     int main(void)
 *     {
 *         simt_case("a row is normed", norms_a_row, NULL);
 *         return simt_done();
 *     }
 *
 * Environment: SIMT_SEEDS=N runs seeds 1..N (default 4: one of each policy), SIMT_SEED=S only that one,
 * SIMT_CASE=WORDS only cases whose name contains them, SIMT_SAY=1 prints what cases say that fail as they should. Output
 * is TAP. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --- memory; a case's buffers live as long as its process --- */

void *simt_buffer(const char *name, size_t bytes); /* 16-byte aligned, all 0xff; `name` outlives it */
void simt_seal(void *buffer);                      /* a write to it ends the case */
void simt_unseal(void *buffer);
void *simt_sealed(const char *name, const void *from, size_t bytes);
void simt_check_guards(void); /* nothing was written beside a buffer; a case's end does it too */

/* --- numbers that look random and are the same everywhere --- */

void simt_fill_f32(float *p, size_t n, uint64_t stream, float scale); /* uniform in -scale .. scale */
void simt_fill_bf16(uint16_t *p, size_t n, uint64_t stream, float scale);
void simt_fill_bytes(void *p, size_t n, uint64_t stream);

/* --- cases --- */

/* Each seed runs fn(arg) in a process of its own; prints one line of TAP. */
void simt_case(const char *name, void (*fn)(void *arg), void *arg);
/* For the shim's own test: the case must fail, for every seed, with `message` in what it says. */
void simt_case_fails(const char *name, void (*fn)(void *arg), void *arg, const char *message);
int simt_done(void); /* -> main's status */

unsigned simt_seed(void);    /* of this process; 0 outside cases: threads run in turn */
bool simt_finds_races(void); /* the race build */

/* --- places: the barriers and waits that launches came by, and what happens without one of them --- */

struct simt_place {
    const char *what; /* "dev_sync", "dev_cp_async_wait", .. */
    const char *file;
    int line;
};
int simt_places(const struct simt_place **out); /* so far */
void simt_forget_places(void);
/* From here on all threads pass it by. */
void simt_leave_out(const struct simt_place *place);
/* fn(arg) once more without each barrier and wait that it comes by in files of kernels/cuda that begin with `file`, one at
 * a time. A place that all seeds (4, or SIMT_SEEDS) notice is a case that passed; what this fn does not need is a remark, and
 * tests/simt/coverage fails where no fn needs it. Nothing in builds that don't look for races. */
void simt_case_without(const char *file, void (*fn)(void *arg), void *arg);
void simt_list_kernels(void); /* of this program, to stdout */

/* --- checks: they end the case --- */

void simt_failed(void) __attribute__((noreturn));
void simt_check_failed(const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4), noreturn));
/* cond; on a device (tests/gpu/case.c) it first waits for what was launched. */
bool simt_held(bool cond);
#define SIMT_CHECK(cond, ...)                                                                                          \
    do {                                                                                                               \
        if (!simt_held(cond)) simt_check_failed(__FILE__, __LINE__, __VA_ARGS__);                                               \
    } while (0)

void simt_equal(const char *what, const void *got, const void *want, size_t bytes);
/* |got - want| <= part * the largest |want|; NaN is never near. */
void simt_near_f32(const char *what, const float *got, const float *want, size_t n, float part);
void simt_near_bf16(const char *what, const uint16_t *got, const float *want, size_t n, float part);
/* Still as simt_buffer() left it. */
void simt_untouched(const char *what, const void *p, size_t bytes);

#ifdef __cplusplus
}
#endif
