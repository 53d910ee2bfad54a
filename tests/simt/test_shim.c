/* The shim's own test: every small kernel of self.cu is right as it stands, and every mistake in it is caught, for every
 * seed. Races are the race build's to find; faults of memory and barriers that can't open, both builds'. */
#include "kernels/convert.h"
#include "tests/simt/self.h"
#include "tests/simt/simt.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N 512
#define K 96
#define COUNT(a) (sizeof(a) / sizeof *(a))

/* A kernel with what it works on and what it must give. */
struct small {
    const char *name;
    int (*launch)(const struct self_op *op);
    size_t outs; /* floats of out */
    void (*want)(const struct self_op *op, float *want);
};

static void want_block(const struct self_op *op, float *want)
{
    for (int round = 0; round < 2; round++) {
        float sum = 0;
        for (int i = 0; i < 256; i++) sum += op->in[i] + (float)round;
        for (int i = 0; i < 256; i++) want[round * 256 + i] = sum;
    }
}

static void want_exchanged(const struct self_op *op, float *want)
{
    for (int i = 0; i < 32; i++) want[i] = op->in[i ^ 1];
}

static void want_product(const struct self_op *op, float *want)
{
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 8; n++) {
            double sum = 0;
            for (int k = 0; k < K; k++) sum += (double)f32_of_bf16(op->a[m * K + k]) * f32_of_bf16(op->b[n * K + k]);
            want[m * 8 + n] = (float)sum;
        }
}

static void want_s8(const struct self_op *op, float *want)
{
    const int8_t *a = (const int8_t *)op->a, *b = (const int8_t *)op->b;
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 8; n++) {
            int sum = 0;
            for (int k = 0; k < 32; k++) sum += a[m * 32 + k] * b[n * 32 + k];
            want[m * 8 + n] = (float)sum;
        }
}

static void want_doubled(const struct self_op *op, float *want)
{
    for (int i = 0; i < N; i++) want[i] = 2 * op->in[i];
}

static void want_same(const struct self_op *op, float *want)
{
    memcpy(want, op->in, N * sizeof *want);
}

static void want_one_more(const struct self_op *op, float *want)
{
    for (int i = 0; i < 32; i++) want[i] = op->in[i] + 1;
}

static void want_four(const struct self_op *op, float *want)
{
    for (int i = 0; i < 4; i++) want[i] = op->in[0] + op->in[1] + op->in[2] + op->in[3];
}

static void want_next(const struct self_op *op, float *want)
{
    for (int i = 0; i < 4; i++) want[i] = op->in[(i + 1) % 4];
}

static void want_last(const struct self_op *op, float *want)
{
    memcpy(want + 1, op->in, 4 * sizeof *want);
    want[0] = op->in[0] + op->in[1] + op->in[2] + op->in[3];
}

static void want_warp(const struct self_op *op, float *want)
{
    for (int w = 0; w < 64; w += 32) {
        float v[32];
        memcpy(v, op->in + w, sizeof v);
        for (int n = 16; n; n /= 2)
            for (int i = 0; i < n; i++) v[i] += v[i + n];
        for (int i = 0; i < 32; i++) want[w + i] = v[0];
    }
}

enum { BLOCKSUM, WARP, MMA, S8, RING, PUSH, PULL, BLOCKS, NAMED, STORE, LAST, DEPENDENT, SHUFFLE, SMALLS };
static const struct small SMALL[SMALLS] = {
    [BLOCKSUM] = {"a block's sum", launch_self_block, 512, want_block},
    [WARP] = {"an exchange in a warp", launch_self_warp, 32, want_exchanged},
    [MMA] = {"a product by cp.async, ldmatrix and mma", launch_self_mma, 128, want_product},
    [S8] = {"a product of bytes", launch_self_s8, 128, want_s8},
    [RING] = {"a ring of bulk copies", launch_self_ring, N, want_doubled},
    [PUSH] = {"a sum pushed to a cluster's peers", launch_self_cluster, 4, want_four},
    [PULL] = {"a value read from a cluster's peer", launch_self_pull, 4, want_next},
    [BLOCKS] = {"blocks side by side", launch_self_blocks, 128, want_same},
    [NAMED] = {"warps that meet at a named barrier", launch_self_named, 32, want_one_more},
    [STORE] = {"bulk copies to global memory", launch_self_store, N, want_same},
    [LAST] = {"the last block sums up", launch_self_last, 5, want_last},
    [DEPENDENT] = {"a dependent launch", launch_self_dependent, 64, want_same},
    [SHUFFLE] = {"a sum by shuffles", launch_self_shuffle, 64, want_warp},
};

struct mistake {
    int small, fault;
    const char *what, *message;
    int n; /* of the op */
};

static void run_small(const struct small *s, int fault, int n)
{
    struct self_op op = {.fault = fault, .n = n, .k = K};
    float *in = simt_buffer("in", N * sizeof *in), want[N];
    uint16_t *a = simt_buffer("a", 16 * K * 2), *b = simt_buffer("b", 8 * K * 2);
    simt_fill_f32(in, N, 1, 1), simt_fill_bf16(a, 16 * K, 2, 1), simt_fill_bf16(b, 8 * K, 3, 1);
    simt_seal(in), simt_seal(a), simt_seal(b);
    op.in = in, op.a = a, op.b = b;
    op.out = simt_buffer("out", s->outs * sizeof *op.out);
    op.counter = simt_buffer("counter", sizeof *op.counter);
    *op.counter = 0;
    SIMT_CHECK(s->launch(&op) == 0, "refused");
    s->want(&op, want);
    simt_near_f32("out", op.out, want, s->outs, 1e-5f);
}

static void is_right(void *arg)
{
    run_small(arg, RIGHT, N);
}

static void is_wrong(void *arg)
{
    const struct mistake *m = arg;
    run_small(&SMALL[m->small], m->fault, m->n ? m->n : N);
}

/* Found by the order of accesses: the race build. */
static const struct mistake RACES[] = {
    {BLOCKSUM, NO_BARRIER, "without the barrier", "data race", 0},
    {BLOCKSUM, NO_SECOND_BARRIER, "without the barrier before the next round", "data race", 0},
    {BLOCKSUM, OVERLAP, "whose threads write one place", "data race", 0},
    {BLOCKSUM, READ_ONLY, "with a read-only load of its own results", "read-only load of what this launch writes", 0},
    {WARP, NO_BARRIER, "without dev_sync_warp", "data race", 0},
    {MMA, NO_BARRIER, "without the barrier behind the wait", "data race", 0},
    {MMA, NO_SECOND_BARRIER, "without the barrier before the refill", "data race", 0},
    {MMA, NO_WAIT, "without a wait", "data race", 0},
    {MMA, SHORT_WAIT, "that waits for one group too few", "data race", 0},
    {RING, NO_WAIT, "without a wait", "data race", 0},
    {RING, WRONG_PARITY, "with the wrong parity", "simt: seed", 0},
    {RING, EARLY_LANDING, "that doesn't wait for an empty stage", "simt: seed", 0},
    {RING, NO_BARRIER, "without the barrier behind mbar_init", "simt: seed", 0},
    {NAMED, NO_BARRIER, "without one side's wait", "data race", 0},
    {STORE, NO_BARRIER, "without the barrier before the copy", "data race", 0},
    {STORE, NO_FENCE, "without dev_fence_async_shared", "dev_fence_async_shared()", 0},
    {PUSH, NOT_STARTED, "without the first barrier", "may not have started", 0},
    {PUSH, NO_BARRIER, "without the second barrier", "simt: seed", 0},
    {PULL, NO_WAIT, "that arrives, but does not wait", "simt: seed", 0},
    {PULL, EARLY_END, "that ends too early", "simt: seed", 0},
    {BLOCKS, OVERLAP, "of which two write one place", "data race", 0},
    {LAST, NO_FENCE, "without a fence", "data race", 0},
    {DEPENDENT, NO_BARRIER, "whose other warp does not wait", "before dev_pdl_wait()", 0},
    {DEPENDENT, READ_ONLY, "with a read-only load of what the launch in front may write", "a kernel in front may write",
     0},
};

/* Found by any build. */
static const struct mistake FAULTS[] = {
    {BLOCKSUM, DIVERGENT, "with two barriers for one", "divergent barrier", 0},
    {BLOCKSUM, MISSING_THREAD, "that one thread leaves out", "simt: seed", 0},
    {BLOCKSUM, OUTSIDE, "that writes behind a page's end", "no access to out", 0},
    {BLOCKSUM, INTO_SEALED, "that writes its input", "no access to in[2048] + 12, sealed", 0},
    {BLOCKSUM, OUT_OF_SHARED, "that writes behind a SHARED array", "behind the end of a SHARED array", 3},
    {SHUFFLE, MISSING_THREAD, "with a lane that has ended", "deadlock", 0},
    {SHUFFLE, DIVERGENT, "from two lines", "divergent warp", 0},
    {NAMED, MISSING_THREAD, "without one side's arrival", "deadlock", 0},
    {RING, NO_FENCE, "without dev_mbar_fence_init", "dev_mbar_fence_init", 0},
    {STORE, NO_WAIT, "that ends without dev_bulk_wait_read", "simt: seed", 0},
    {DEPENDENT, NO_WAIT, "that never waits", "dev_pdl_wait()", 0},
};

static void expect(const struct mistake *m)
{
    static char name[160];
    snprintf(name, sizeof name, "%s %s is caught", SMALL[m->small].name, m->what);
    simt_case_fails(name, is_wrong, (void *)m, m->message);
}

int main(void)
{
    for (size_t i = 0; i < SMALLS; i++) simt_case(SMALL[i].name, is_right, (void *)&SMALL[i]);
    for (size_t i = 0; i < COUNT(FAULTS); i++) expect(&FAULTS[i]);
    for (size_t i = 0; i < COUNT(RACES) && simt_finds_races(); i++) expect(&RACES[i]);
    return simt_done();
}
