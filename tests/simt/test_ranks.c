/* ranks.cu and group.c: parts of several devices are put together in the order of ranks, to the bit, whichever way they
 * travel and wherever a row stands. */
#include "kernels/cuda/cuda.h"
#include "tests/simt/shard_world.h"
#include <pthread.h>
#include <stdio.h>

/* --- kernels --- */

static void sums_are_taken_in_the_order_of_ranks(void *arg)
{
    (void)arg;
    enum { N = 4 * 257, STEP = N + 12 };
    for (int ranks = 1; ranks <= RANKS_MAX; ranks++)
        for (int add = 0; add < 2; add++) {
            float *part = simt_buffer("part", (size_t)ranks * STEP * 4), *to = simt_buffer("to", (N + 4) * 4), want[N];
            simt_fill_f32(part, (size_t)ranks * STEP, (uint64_t)ranks, 1);
            simt_seal(part);
            if (add) simt_fill_f32(to, N, 9, 1);
            for (int i = 0; i < N; i++) {
                float sum = part[i];
                for (int r = 1; r < ranks; r++) sum += part[r * STEP + i];
                want[i] = add ? to[i] + sum : sum;
            }
            struct op_ranks_sum op = {.ranks = ranks, .add = add, .n = N, .step = STEP, .part = part, .to = to};
            SIMT_CHECK(launch_ranks_sum(&op, NULL) == 0, "refused");
            simt_equal("sum", to, want, sizeof want);
            simt_untouched("behind it", to + N, 16);
        }
}

static void logits_of_a_row_stand_side_by_side(void *arg)
{
    (void)arg;
    static const int VOCABS[] = {64, 1000, 1001, 1023, 2050};
    enum { ROWS = 3 };
    for (size_t v = 0; v < sizeof VOCABS / sizeof *VOCABS; v++)
        for (int ranks = 2; ranks <= RANKS_MAX; ranks *= 2) {
            const struct shard_rule rule = {SPLIT_OUTPUTS, VOCABS[v], 8, PANEL, false, true};
            int vocab = VOCABS[v], step = shard_step(&rule, ranks);
            float *part = simt_buffer("part", (size_t)ranks * ROWS * (size_t)step * 4);
            float *out = simt_buffer("out", (size_t)(ROWS * vocab + 4) * 4);
            for (int r = 0; r < ranks; r++) {
                struct shard s = shard_of(&rule, ranks, r);
                for (int row = 0; row < ROWS; row++)
                    for (int i = 0; i < s.n; i++) part[(r * ROWS + row) * step + i] = (float)(row * vocab + s.row0 + i);
            }
            simt_seal(part);
            struct op_ranks_logits op = {
                .ranks = ranks, .rows = ROWS, .step = step, .vocab = vocab, .part = part, .out = out};
            SIMT_CHECK(launch_ranks_logits(&op, NULL) == 0, "refused");
            for (int i = 0; i < ROWS * vocab; i++) SIMT_CHECK(out[i] == (float)i, "%d is %g", i, (double)out[i]);
            simt_untouched("behind it", out + ROWS * vocab, 16);
        }
}

static void odd_sizes_are_refused(void *arg)
{
    (void)arg;
    float *x = simt_buffer("x", 64);
    struct op_ranks_sum sum = {.ranks = 2, .n = 6, .step = 8, .part = x, .to = x};
    SIMT_CHECK(launch_ranks_sum(&sum, NULL) == RT_BAD_SHAPE, "6 floats were taken");
    sum.n = 8, sum.ranks = RANKS_MAX + 1;
    SIMT_CHECK(launch_ranks_sum(&sum, NULL) == RT_BAD_SHAPE, "too many ranks were taken");
    struct op_ranks_logits logits = {.ranks = 2, .rows = 1, .step = 32, .vocab = 65, .part = x, .out = x};
    SIMT_CHECK(launch_ranks_logits(&logits, NULL) == RT_BAD_SHAPE, "parts that don't hold the vocabulary were taken");
}

/* --- a group --- */

enum { HIDDEN = 128, ROWS = 4096, FEW = 64 };

static struct device *group;

static void open_group(int ranks)
{
    extern const struct device_backend weft_device_backend;
    const struct device_shape s = {.layers = 1,
                                   .hidden = HIDDEN,
                                   .heads = 24,
                                   .kv_heads = 24,
                                   .head_dim = 32,
                                   .mlp = 768,
                                   .vocab = 64,
                                   .max_context = KV_PAGE,
                                   .max_rows = ROWS,
                                   .max_seqs = 1,
                                   .max_logits = 1,
                                   .max_segs = 1,
                                   .max_rank = 8,
                                   .slots = 1,
                                   .adapter_bytes = 1 << 20};
    struct device_plan plan;
    struct err e = {0};
    char n[8];
    snprintf(n, sizeof n, "%d", ranks);
    setenv("WEFT_SIMT_DEVICES", n, 1);
    SIMT_CHECK(weft_device_backend.open(&group, 0, ranks, &e) == 0, "%s", e.msg);
    SIMT_CHECK(weft_device_backend.start(group, &s, NULL, 0, &plan, &e) == 0, "%s", e.msg);
}

/* What rank r brings to the sum of a row; a row has the same values wherever it stands. */
static void fill_row(float *to, int rank, int row)
{
    simt_fill_f32(to, HIDDEN, (uint64_t)(rank * 31 + row + 1), 1);
}

static int rows_now;

static void *sum_of_rank(void *rank)
{
    struct kthread t = {.id = (int)(intptr_t)rank};
    float *part = group_part(&t, rows_now);
    for (int row = 0; row < rows_now; row++) fill_row(part + (size_t)row * HIDDEN, t.id, rows_now - row);
    group_sum(&t, rows_now, false, arena_address(group, t.id, AREA_Y));
    return NULL;
}

static void sum_all(int rows)
{
    pthread_t thread[RANKS_MAX];
    rows_now = rows;
    for (intptr_t r = 0; r < group->ranks; r++)
        SIMT_CHECK(pthread_create(&thread[r], NULL, sum_of_rank, (void *)r) == 0, "no thread");
    for (int r = 0; r < group->ranks; r++) pthread_join(thread[r], NULL);
    SIMT_CHECK(atomic_load(&group->code) == 0, "it failed: %s", rt_error_text(atomic_load(&group->code)));
}

static void check_row(int rows, int row)
{
    float want[HIDDEN], part[HIDDEN];
    fill_row(want, 0, row);
    for (int r = 1; r < group->ranks; r++) {
        fill_row(part, r, row);
        for (int i = 0; i < HIDDEN; i++) want[i] += part[i];
    }
    for (int r = 0; r < group->ranks; r++) {
        const float *y = arena_address(group, r, AREA_Y);
        simt_equal("a row's sum", y + (size_t)(rows - row) * HIDDEN, want, sizeof want);
    }
}

static void a_rows_sum_has_the_same_bits_in_every_step(void *arg)
{
    static const int STEPS[] = {1, 3, FEW, ROWS};
    int ranks = (int)(intptr_t)arg;
    if (simt_seed() > 1 || simt_finds_races()) return; /* the order of kernels' threads plays no part */
    open_group(ranks);
    for (size_t i = 0; i < sizeof STEPS / sizeof *STEPS; i++) {
        sum_all(STEPS[i]);
        for (int row = 1; row <= STEPS[i]; row += row < FEW ? 1 : 61) check_row(STEPS[i], row);
    }
}

int main(void)
{
    cuda_target = (struct cuda_target){.cc = 90, .sms = 4, .shared_block = 232448, .pdl = 1};
    simt_case("sums are taken in the order of ranks", sums_are_taken_in_the_order_of_ranks, NULL);
    simt_case("logits of a row stand side by side", logits_of_a_row_stand_side_by_side, NULL);
    simt_case_without("ranks", sums_are_taken_in_the_order_of_ranks, NULL);
    simt_case_without("ranks", logits_of_a_row_stand_side_by_side, NULL);
    simt_case("odd sizes are refused", odd_sizes_are_refused, NULL);
    for (intptr_t ranks = 2; ranks <= RANKS_MAX; ranks++) {
        char name[80];
        if (24 % ranks) continue;
        snprintf(name, sizeof name, "%d devices: a row's sum has the same bits in every step", (int)ranks);
        simt_case(name, a_rows_sum_has_the_same_bits_in_every_step, (void *)ranks);
    }
    simt_case_without("ranks", sums_are_taken_in_the_order_of_ranks, NULL);
    simt_case_without("ranks", logits_of_a_row_stand_side_by_side, NULL);
    return simt_done();
}
