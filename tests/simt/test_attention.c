/* attention*.cu against float64: lengths around pages, steps and segments, groups of all sizes, windows, caps, int8,
 * steps that mix prompts, decoding rows and guesses; and the same bits however a row came to be computed. */
#include "tests/simt/attention_problem.h"
#include "tests/simt/simt.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every kernel that there is, every group, with a window that ends within a page, and without. */
static const struct attn_shape SHAPES[] = {
    {"head_dim 64, 4 heads of 2", 4, 2, 64, 0, 0, false},
    {"head_dim 64, 3 of 1, a window", 3, 1, 64, 40, 0, false},
    {"head_dim 64, 8 of 1, int8", 8, 1, 64, 0, 0, true},
    {"head_dim 96, 7 of 1, a cap", 7, 1, 96, 0, 3, false},
    {"head_dim 96, 1 of 1, int8, a window", 1, 1, 96, 33, 0, true},
    {"head_dim 128, 4 of 1", 4, 1, 128, 0, 0, false},
    {"head_dim 128, 2 of 2, int8, a window and a cap", 2, 2, 128, 100, 2, true},
    {"head_dim 256, 2 of 1", 2, 1, 256, 0, 0, false},
    {"head_dim 256, 1 of 1, int8", 1, 1, 256, 0, 0, true},
    {"head_dim 20, 17 of 1", 17, 1, 20, 0, 0, false},
    {"head_dim 80, 3 of 1, int8, a window", 3, 1, 80, 17, 0, true},
    {"head_dim 18, 4 of 2, int8", 4, 2, 18, 0, 0, true},
    {"head_dim 2, 2 of 1, a window of one", 2, 1, 2, 1, 0, false},
    {"head_dim 512, 1 of 1", 1, 1, 512, 0, 0, false},
    {"head_dim 258, 2 of 1, int8", 2, 1, 258, 0, 0, true},
};
#define SHAPES_N ((int)(sizeof SHAPES / sizeof *SHAPES))

/* First rows, lengths around a page, guesses across a segment's end, prompts that begin and that go on; a bucket with
 * room for more. */
static const struct attn_step MIXED = {
    .parts = 8,
    .part = {{0, 0, 1}, {1, 14, 1}, {2, 15, 1}, {3, 16, 1}, {4, 252, 9}, {5, 0, 37}, {6, 5, 10}, {7, 90, 30}},
    .rows = 96,
    .seqs = 12,
};

static void a_mixed_step_agrees_with_float64(void *arg)
{
    struct attn_step s = MIXED;
    int first[PROBLEM_PARTS];
    s.shape = arg;
    attn_compare(&s, attn_run(&s, first), first);
}

/* --- the same bits --- */

/* Part i of the step, alone, has the bits that it has there. */
static void expect_alone(const struct attn_step *s, int i, const uint16_t *out, const int first[])
{
    struct attn_step alone = {.shape = s->shape, .parts = 1, .part = {s->part[i]}};
    int at[PROBLEM_PARTS], width = s->shape->heads * s->shape->head_dim;
    const uint16_t *own = attn_run(&alone, at);
    simt_equal(s->shape->name, own, out + first[i] * width, (size_t)(s->part[i].rows * width) * sizeof *out);
}

static void a_row_has_the_same_bits_alone(void *arg)
{
    struct attn_step s = MIXED;
    int first[PROBLEM_PARTS];
    s.shape = arg;
    uint16_t *out = attn_run(&s, first);
    for (int i = 0; i < s.parts; i++) expect_alone(&s, i, out, first);
}

static void a_sequence_that_is_not_finite_stays_alone(void *arg)
{
    struct attn_step s = MIXED;
    int first[PROBLEM_PARTS], width;
    s.shape = arg, width = s.shape->heads * s.shape->head_dim;
    const uint16_t *fine = attn_run(&s, first);
    s.bad = simt_seed() % 2 ? 2 : 5; /* one that decodes, a prompt */
    const uint16_t *out = attn_run(&s, first);
    for (int i = 0; i < s.parts; i++)
        if (i != s.bad)
            simt_equal("another sequence", out + first[i] * width, fine + first[i] * width,
                       (size_t)(s.part[i].rows * width) * sizeof *out);
    for (int d = 0; d < width; d++)
        SIMT_CHECK((out[first[s.bad] * width + d] & 0x7f80) == 0x7f80, "dimension %d hides it", d);
}

/* Rows from .. of a sequence, in cuts, against all of them in one. */
static void expect_cuts(const struct attn_shape *shape, int from, const int cut[], int n)
{
    struct attn_step whole = {.shape = shape, .parts = 1, .part = {{0, from, 0}}};
    int at[PROBLEM_PARTS], width = shape->heads * shape->head_dim;
    for (int i = 0; i < n; i++) whole.part[0].rows += cut[i];
    const uint16_t *out = attn_run(&whole, at);
    for (int i = 0, row = 0; i < n; row += cut[i++]) {
        struct attn_step part = {.shape = shape, .parts = 1, .part = {{0, from + row, cut[i]}}};
        simt_equal("a cut", attn_run(&part, at), out + row * width, (size_t)(cut[i] * width) * sizeof *out);
    }
}

static const struct attn_shape CUT_SHAPES[] = {
    {"head_dim 64, 3 of 1", 3, 1, 64, 0, 0, false},
    {"head_dim 64, 3 of 1, int8, a window", 3, 1, 64, 45, 0, true},
    {"head_dim 20, 2 of 1, a window and a cap", 2, 1, 20, 33, 2, false},
};

static void a_prompt_has_the_same_bits_in_cuts(void *arg)
{
    (void)arg;
    static const int cuts[] = {10, 33, 11, 48}, later[] = {17, 10, 30};
    for (int i = 0; i < 3; i++) {
        expect_cuts(&CUT_SHAPES[i], 0, cuts, 4);
        expect_cuts(&CUT_SHAPES[i], 70, later, 3);
    }
}

static void a_row_has_the_same_bits_with_guesses(void *arg)
{
    (void)arg;
    static const int alone[] = {1, 1, 1, 1}, mixed[] = {3, 1, 5};
    for (int i = 0; i < 3; i++) {
        expect_cuts(&CUT_SHAPES[i], 254, alone, 4);
        expect_cuts(&CUT_SHAPES[i], 760, mixed, 3);
    }
}

/* Kernels with tiles of two sizes. */
static const struct attn_shape TILED[] = {
    {"head_dim 64", 4, 2, 64, 0, 0, false},   {"head_dim 64, int8", 2, 1, 64, 0, 0, true},
    {"head_dim 96", 3, 1, 96, 50, 0, false},  {"head_dim 96, int8", 2, 1, 96, 0, 0, true},
    {"head_dim 128", 2, 1, 128, 0, 5, false}, {"head_dim 128, int8", 2, 1, 128, 33, 0, true},
};
#define TILED_N ((int)(sizeof TILED / sizeof *TILED))

/* A device with many processors cuts a prompt into smaller tiles. */
static void a_prompt_has_the_same_bits_in_tiles_of_any_size(void *arg)
{
    struct attn_step s = {.shape = arg, .parts = 1, .part = {{0, 20, 70}}};
    int first[PROBLEM_PARTS];
    struct cuda_target before = cuda_target;
    cuda_target.sms = 1;
    uint16_t *large = attn_run(&s, first);
    attn_compare(&s, large, first);
    cuda_target.sms = 200;
    uint16_t *small = attn_run(&s, first);
    cuda_target = before;
    simt_equal(s.shape->name, small, large, (size_t)(70 * s.shape->heads * s.shape->head_dim) * sizeof *large);
}

/* --- lengths --- */

struct length {
    const char *name;
    struct attn_shape shape;
    struct attn_part part[3];
};

static const struct length LENGTHS[] = {
    {"255, 1000 and 1024 positions", {"", 2, 1, 64, 0, 0, false}, {{0, 254, 1}, {1, 999, 1}, {2, 1023, 1}}},
    {"5000 positions", {"", 2, 1, 16, 0, 0, false}, {{0, 4999, 1}, {1, 4095, 1}, {2, 4095, 2}}},
    {"5000 positions in int8, a window of 600",
     {"", 3, 1, 32, 600, 0, true},
     {{0, 4999, 1}, {1, 4609, 3}, {2, 599, 2}}},
    {"9000 positions", {"", 1, 1, 8, 0, 0, false}, {{0, 8999, 1}, {1, 8191, 2}, {2, 5119, 1}}},
    {"a prompt's end at 1000", {"", 1, 1, 32, 0, 0, false}, {{0, 985, 16}, {1, 990, 10}, {2, 0, 1}}},
};
#define LENGTHS_N ((int)(sizeof LENGTHS / sizeof *LENGTHS))

static void long_sequences_agree_with_float64(void *arg)
{
    const struct length *l = arg;
    struct attn_step s = {.shape = &l->shape, .parts = 3, .seqs = 5};
    int first[PROBLEM_PARTS];
    memcpy(s.part, l->part, sizeof l->part);
    attn_compare(&s, attn_run(&s, first), first);
}

static void more_sequences_than_a_warp_has_lanes(void *arg)
{
    struct attn_step s = {.shape = arg, .parts = PROBLEM_PARTS};
    int first[PROBLEM_PARTS];
    for (int i = 0; i < s.parts; i++) s.part[i] = (struct attn_part){i, i * 13 % 300, i % 5 == 3 ? 11 : 1};
    attn_compare(&s, attn_run(&s, first), first);
}

/* --- edges --- */

static void a_step_without_rows_writes_nothing(void *arg)
{
    struct attn_step s = {.shape = arg, .rows = 16, .seqs = 4};
    int first[PROBLEM_PARTS];
    attn_run(&s, first); /* looks at all of them */
}

static void shapes_that_no_kernel_has_are_refused(void *arg)
{
    (void)arg;
    struct op_attn op = {.heads = 2, .rows = 1, .seqs = 1};
    op.kv.kv_heads = 1, op.kv.head_dim = 65;
    SIMT_CHECK(launch_attn(&op, NULL) == RT_BAD_SHAPE, "odd");
    op.kv.head_dim = ATTN_HEAD_DIM_MOST + 2;
    SIMT_CHECK(launch_attn(&op, NULL) == RT_BAD_SHAPE, "too long");
    op.kv.head_dim = 64, op.kv.kv_heads = 2, op.heads = 3;
    SIMT_CHECK(launch_attn(&op, NULL) == RT_BAD_SHAPE, "uneven groups");
}

/* An older device has less shared memory: fewer warps share a segment. */
static void less_shared_memory_is_enough(void *arg)
{
    struct attn_step s = {.shape = arg, .parts = 2, .part = {{0, 280, 1}, {1, 20, 12}}};
    int first[PROBLEM_PARTS];
    cuda_target.shared_block = 101376;
    attn_compare(&s, attn_run(&s, first), first);
}

int main(void)
{
    static const struct attn_shape tiny = {"head_dim 16", 2, 1, 16, 0, 0, false};
    for (int i = 0; i < SHAPES_N; i++) simt_case(SHAPES[i].name, a_mixed_step_agrees_with_float64, (void *)&SHAPES[i]);
    for (int i = 0; i < LENGTHS_N; i++)
        simt_case(LENGTHS[i].name, long_sequences_agree_with_float64, (void *)&LENGTHS[i]);
    simt_case("more sequences than a warp has lanes", more_sequences_than_a_warp_has_lanes, (void *)&tiny);
    simt_case("a row has the same bits alone", a_row_has_the_same_bits_alone, (void *)&SHAPES[1]);
    simt_case("a row has the same bits alone, int8", a_row_has_the_same_bits_alone, (void *)&SHAPES[2]);
    simt_case("a row has the same bits alone, head_dim 20", a_row_has_the_same_bits_alone, (void *)&SHAPES[9]);
    simt_case("a sequence that is not finite stays alone", a_sequence_that_is_not_finite_stays_alone,
              (void *)&SHAPES[1]);
    simt_case("a sequence that is not finite stays alone, int8", a_sequence_that_is_not_finite_stays_alone,
              (void *)&SHAPES[2]);
    simt_case("a row has the same bits with guesses beside it", a_row_has_the_same_bits_with_guesses, NULL);
    simt_case("a prompt has the same bits in cuts", a_prompt_has_the_same_bits_in_cuts, NULL);
    for (int i = 0; i < (simt_finds_races() ? 1 : TILED_N); i++) {
        static char name[TILED_N][96];
        snprintf(name[i], sizeof name[i], "a prompt has the same bits in tiles of any size: %s", TILED[i].name);
        simt_case(name[i], a_prompt_has_the_same_bits_in_tiles_of_any_size, (void *)&TILED[i]);
    }
    simt_case("a step without rows writes nothing", a_step_without_rows_writes_nothing, (void *)&tiny);
    simt_case("shapes that no kernel has are refused", shapes_that_no_kernel_has_are_refused, NULL);
    simt_case("less shared memory is enough", less_shared_memory_is_enough, (void *)&SHAPES[7]);
    return simt_done();
}
