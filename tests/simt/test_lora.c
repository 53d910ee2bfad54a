/* The LoRA kernels, planes and clusters, against plain C and against each other: ranks mixed in one step, wide and narrow
 * slices, modules that an adapter lacks, stacks, DoRA, rows without an adapter; a row's bits alone and in company.
 *
 * Few multiprocessors, so that a team has many items and there are two teams; many for the columns to be cut. */
#include "kernels/cuda/lora_layout.h"
#include "tests/simt/lora_world.h"
#include "tests/simt/simt.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

struct cuda_target cuda_target = {.cc = 90, .sms = 8, .shared_block = 232448, .pdl = 1};

static const int RANKS[9][LORA_SLICES] = {{1, 1, 1},    {4, 0, 4},    {8, 8, 0},       {12, 12, 12},   {16, 0, 16},
                                          {24, 24, 24}, {64, 64, 64}, {100, 100, 100}, {256, 256, 256}};

/* Rows 3, 9, 12 .. 15 and 35 have none. */
static const struct world_seg MIXED[] = {
    {0, 1, 1, {6}, {1}},  {1, 2, 1, {0}, {1}},  {4, 5, 1, {1}, {1}},  {10, 2, 1, {8}, {1}}, {16, 9, 1, {4}, {1}},
    {25, 1, 1, {2}, {1}}, {26, 3, 1, {3}, {1}}, {29, 4, 1, {5}, {1}}, {33, 2, 1, {7}, {1}},
};
#define MIXED_ROWS 36

struct shape_case {
    const char *name;
    struct world_shape shape;
};

static const struct shape_case SHAPES[] = {
    {"whole numbers, k 896, n 4864", {896, 1, {4864}, false, WORLD_WHOLE}},
    {"whole numbers, k 4864, n 896", {4864, 1, {896}, false, WORLD_WHOLE}},
    {"whole numbers, q k v of 896 and 128", {896, 3, {896, 128, 128}, false, WORLD_WHOLE}},
    {"whole numbers into float32", {896, 1, {896}, true, WORLD_WHOLE}},
    {"real numbers, q k v", {896, 3, {896, 128, 128}, false, WORLD_REAL}},
    {"real numbers into float32, k 4864", {4864, 1, {896}, true, WORLD_REAL}},
    {"a part of a group: k 2432, n 448", {2432, 1, {448}, true, WORLD_WHOLE}},
    {"small: k 40, n 24, 8 and 2", {40, 3, {24, 8, 2}, false, WORLD_WHOLE}},
    {"an odd number of outputs in float32", {64, 1, {37}, true, WORLD_WHOLE}},
};

/* Races are looked for at shapes that are small, and at which every barrier is reached. */
static const struct shape_case SMALL[] = {
    {"small: k 40, n 24 and 8", {40, 2, {24, 8}, false, WORLD_WHOLE}},
    {"k 600, n 400", {600, 1, {400}, false, WORLD_REAL}},
};

/* Planes against plain C, then one of the others, by seed, against planes. */
static void ranks_mix(void *arg)
{
    static const struct {
        const char *name;
        int tile_rows;
        world_launch *launch;
    } other[] = {{"clusters, tiles of 8 rows", 8, launch_lora_cluster},
                 {"clusters, tiles of 16 rows", 16, launch_lora_cluster},
                 {"planes, tiles of 16 rows", 16, launch_lora_planes}};
    const struct shape_case *c = arg;
    unsigned i = simt_seed() % COUNT(other);
    struct world w;
    world_make(&w, &c->shape, MIXED_ROWS, COUNT(RANKS), RANKS, 0);
    float *want = world_plain(&w, MIXED, COUNT(MIXED));
    void *planes = world_run(&w, MIXED, COUNT(MIXED), 8, launch_lora_planes);
    world_check(&w, planes, want);
    world_check_untouched(&w, MIXED, COUNT(MIXED), planes);
    void *got = world_run(&w, MIXED, COUNT(MIXED), other[i].tile_rows, other[i].launch);
    simt_equal(other[i].name, got, planes, world_y_bytes(&w));
    free(want);
}

/* A row's bits: the first and the last of each segment, alone. */
static void a_row_is_the_same_alone(void *arg)
{
    (void)arg;
    struct world w;
    world_make(&w, &(struct world_shape){896, 2, {896, 128}, false, WORLD_REAL}, MIXED_ROWS, COUNT(RANKS), RANKS, 0);
    uint16_t *all = world_run(&w, MIXED, COUNT(MIXED), 16, launch_lora_cluster);
    for (int i = 0; i < COUNT(MIXED); i++)
        for (int last = 0; last < 2; last++) {
            struct world_seg one = MIXED[i];
            size_t row = (size_t)(one.row0 + (last ? one.rows - 1 : 0)), ldy = (size_t)w.ldy;
            one.row0 = (int)row, one.rows = 1;
            uint16_t *alone = world_run(&w, &one, 1, 8, last ? launch_lora_planes : launch_lora_cluster);
            simt_equal("the row", alone + row * ldy, all + row * ldy, ldy * 2);
        }
}

/* Segments of every size about tiles of 8 and of 16 rows, every rank. */
static const int RAGGED[] = {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33};
#define RAGGED_ROWS 147

static int ragged(struct world_seg seg[COUNT(RAGGED)])
{
    int row = 0;
    for (int i = 0; i < COUNT(RAGGED); i++) {
        seg[i] = (struct world_seg){row, RAGGED[i], 1, {i % COUNT(RANKS)}, {1}};
        row += RAGGED[i];
    }
    return row;
}

static void segments_of_every_size(void *arg)
{
    struct world w;
    struct world_seg seg[COUNT(RAGGED)];
    SIMT_CHECK(ragged(seg) == RAGGED_ROWS, "rows");
    world_make(&w, arg, RAGGED_ROWS, COUNT(RANKS), RANKS, 0);
    float *want = world_plain(&w, seg, COUNT(seg));
    int tile = simt_seed() % 2 ? 8 : 16;
    void *planes = world_run(&w, seg, COUNT(seg), tile, launch_lora_planes);
    world_check(&w, planes, want);
    simt_equal("clusters", world_run(&w, seg, COUNT(seg), 24 - tile, launch_lora_cluster), planes, world_y_bytes(&w));
    free(want);
}
static const struct world_shape RAGGED_SHAPE = {104, 2, {144, 40}, false, WORLD_WHOLE};

/* The rows of its tile, too. */
static void a_row_that_is_not_finite_stays_alone(void *arg)
{
    enum { BAD = 5 };
    struct world w;
    world_make(&w, arg, MIXED_ROWS, COUNT(RANKS), RANKS, 0);
    char *fine = world_run(&w, MIXED, COUNT(MIXED), 8, launch_lora_planes);
    world_poison(&w, BAD);
    char *planes = world_run(&w, MIXED, COUNT(MIXED), 8, launch_lora_planes);
    char *clusters = world_run(&w, MIXED, COUNT(MIXED), 16, launch_lora_cluster);
    size_t pitch = (size_t)w.ldy * (w.shape.f32 ? 4 : 2);
    for (size_t row = 0; row < MIXED_ROWS; row++) {
        if (row == BAD) continue;
        simt_equal("planes", planes + row * pitch, fine + row * pitch, pitch);
        simt_equal("clusters", clusters + row * pitch, fine + row * pitch, pitch);
    }
    const uint16_t *bad = (const uint16_t *)(clusters + BAD * pitch);
    for (int i = 0; i < w.shape.n[0]; i++) SIMT_CHECK((bad[i] & 0x7f80) == 0x7f80, "column %d hides it", i);
}
static const struct world_shape POISON_SHAPE = {200, 2, {144, 40}, false, WORLD_REAL};

/* d adapters of rank 16 in 32 rows, in turn. */
static void distinct_adapters(void *arg)
{
    static int rank[32][LORA_SLICES];
    static struct world_seg seg[32];
    int d = *(const int *)arg;
    struct world w;
    for (int i = 0; i < 32; i++) rank[i][0] = rank[i][1] = 16;
    for (int i = 0; i < d; i++) seg[i] = (struct world_seg){i * 32 / d, (i + 1) * 32 / d - i * 32 / d, 1, {i}, {1}};
    world_make(&w, &(struct world_shape){896, 2, {896, 128}, false, WORLD_WHOLE}, 32, 32, rank, 0);
    float *want = world_plain(&w, seg, d);
    void *planes = world_run(&w, seg, d, 8, launch_lora_planes);
    world_check(&w, planes, want);
    for (int sms = 4; sms <= 132; sms += 64) {
        cuda_target.sms = sms;
        simt_equal("clusters", world_run(&w, seg, d, 8, launch_lora_cluster), planes, world_y_bytes(&w));
    }
    free(want);
}
static const int DISTINCT[] = {1, 2, 5, 32};

/* Sums of adapters, modules that some of them lack, factors of rows. */
static const struct world_seg STACKS[] = {
    {0, 2, 4, {0, 1, 2, 4}, {1, 2, -1, 0.5f}},
    {2, 1, 2, {1, 4}, {-2, 1}},
    {4, 9, 3, {5, 3, 0}, {1, 0.5f, 4}},
    {13, 2, 1, {6}, {1}}, /* DoRA */
    {15, 1, 1, {7}, {1}}, /* DoRA whose k and v are the base's */
};
static const int STACK_RANKS[8][LORA_SLICES] = {{4, 0, 8},    {0, 16, 12}, {24, 8, 0},   {100, 0, 4},
                                                {16, 64, 16}, {1, 1, 1},   {8, 24, 100}, {16, 0, 0}};

static void stacks_add_up(void *arg)
{
    const bool *f32 = arg;
    struct world w;
    world_make(&w, &(struct world_shape){200, 3, {144, 48, 16}, *f32, WORLD_WHOLE}, 17, 8, STACK_RANKS, 3u << 6);
    float *want = world_plain(&w, STACKS, COUNT(STACKS));
    void *planes = world_run(&w, STACKS, COUNT(STACKS), 8, launch_lora_planes);
    world_check(&w, planes, want);
    world_check_untouched(&w, STACKS, COUNT(STACKS), planes);
    simt_equal("clusters", world_run(&w, STACKS, COUNT(STACKS), 16, launch_lora_cluster), planes, world_y_bytes(&w));
    free(want);
}
static const bool BF16_F32[] = {false, true};

/* Whole numbers of few bits have no lower half. */
static void sums_over_the_rank_keep_their_lower_half(void *arg)
{
    (void)arg;
    struct world w;
    world_make(&w, &(struct world_shape){200, 2, {144, 48}, true, WORLD_REAL}, MIXED_ROWS, COUNT(RANKS), RANKS, 0);
    float *want = world_plain(&w, MIXED, COUNT(MIXED));
    void *planes = world_run(&w, MIXED, COUNT(MIXED), 8, launch_lora_planes);
    world_check(&w, planes, want);
    simt_equal("clusters", world_run(&w, MIXED, COUNT(MIXED), 16, launch_lora_cluster), planes, world_y_bytes(&w));
    free(want);
}

/* Few items on many multiprocessors: their columns are cut. */
static void columns_are_cut(void *arg)
{
    (void)arg;
    struct world w;
    world_make(&w, &(struct world_shape){128, 1, {4864}, false, WORLD_REAL}, MIXED_ROWS, COUNT(RANKS), RANKS, 0);
    void *whole = world_run(&w, MIXED, 2, 8, launch_lora_planes);
    cuda_target.sms = 132;
    simt_equal("clusters", world_run(&w, MIXED, 2, 8, launch_lora_cluster), whole, world_y_bytes(&w));
    simt_equal("planes", world_run(&w, MIXED, 2, 8, launch_lora_planes), whole, world_y_bytes(&w));
}

static void a_step_without_adapters_changes_nothing(void *arg)
{
    (void)arg;
    struct world w;
    world_make(&w, &(struct world_shape){896, 1, {896}, false, WORLD_REAL}, 8, COUNT(RANKS), RANKS, 0);
    simt_equal("planes", world_run(&w, NULL, 0, 8, launch_lora_planes), w.y, world_y_bytes(&w));
    simt_equal("clusters", world_run(&w, NULL, 0, 8, launch_lora_cluster), w.y, world_y_bytes(&w));
    struct world_seg lacks = {0, 8, 1, {1}, {1}};
    world_make(&w, &(struct world_shape){64, 2, {32, 32}, false, WORLD_REAL}, 8, COUNT(RANKS), RANKS, 0);
    world_check_untouched(&w, &lacks, 1, world_run(&w, &lacks, 1, 8, launch_lora_cluster));
}

struct made_case {
    int made;
    world_launch *launch;
};
static const struct made_case MADE_CLUSTER = {1, launch_lora_cluster}, MADE_PLANES = {1, launch_lora_planes},
                              NOT_MADE = {0, launch_lora_cluster};

/* As behind moe_order: what a kernel in front may still write is not looked at before it has ended. */
static void made_tiles_are_read_behind_the_wait(void *arg)
{
    const struct made_case *c = arg;
    struct world w;
    world_make(&w, &(struct world_shape){64, 2, {32, 32}, false, WORLD_WHOLE}, MIXED_ROWS, COUNT(RANKS), RANKS, 0);
    float *want = world_plain(&w, MIXED, COUNT(MIXED));
    struct op_lora op = world_op(&w, MIXED, COUNT(MIXED), 8);
    simt_unseal((void *)op.tile), simt_unseal((void *)op.ntile);
    op.made = c->made, op.y = world_copy_y(&w);
    SIMT_CHECK(c->launch(&op, NULL) == 0, "refused");
    world_check(&w, op.y, want);
    free(want);
}
static void shapes_that_no_kernel_takes_are_refused(void *arg)
{
    (void)arg;
    struct op_lora good = {.nslice = 1, .n = {16}, .k = 64, .ldx = 64, .ldy = 16, .ranks = 8, .tile_rows = 8}, op;
    op = good, op.k = 60;
    SIMT_CHECK(launch_lora(&op, NULL) == RT_BAD_SHAPE, "k 60");
    op = good, op.ldx = 68;
    SIMT_CHECK(launch_lora(&op, NULL) == RT_BAD_SHAPE, "ldx 68");
    op = good, op.n[0] = 15;
    SIMT_CHECK(launch_lora(&op, NULL) == RT_BAD_SHAPE, "15 outputs in bf16");
    op = good, op.ranks = LORA_RANK_MAX + 8;
    SIMT_CHECK(launch_lora(&op, NULL) == RT_BAD_SHAPE, "ranks");
    op = good, op.tile_rows = 32, cuda_target.cc = 80;
    SIMT_CHECK(launch_lora(&op, NULL) == RT_BAD_SHAPE, "tiles of 32 rows");
}

/* More items than are looked up at once, eight in a row that bring nothing, entries of one and of two chunks, stages that
 * come round; one team. */
#define BUSY_ROWS 14
static void a_team_is_busy(void *arg)
{
    static const int rank[4][LORA_SLICES] = {{72, 8, 8}, {16, 0, 8}, {0, 0, 0}, {136, 8, 8}};
    static const int slot[BUSY_ROWS] = {0, 1, 0, 3, 2, 2, 2, 2, 2, 1, 0, 1, 3, 0};
    static struct world_seg seg[BUSY_ROWS];
    struct world w;
    for (int i = 0; i < BUSY_ROWS; i++) seg[i] = (struct world_seg){i, 1, 1, {slot[i]}, {1}};
    world_make(&w, &(struct world_shape){520, 2, {144, 80}, false, WORLD_REAL}, BUSY_ROWS, 4, rank, 0);
    cuda_target.sms = 8, cuda_target.shared_block = 130000;
    world_run(&w, seg, COUNT(seg), 8, arg ? launch_lora_cluster : launch_lora_planes);
}

int main(void)
{
    bool races = simt_finds_races();
    const struct shape_case *shapes = races ? SMALL : SHAPES;
    for (int i = 0; i < (races ? COUNT(SMALL) : COUNT(SHAPES)); i++)
        simt_case(shapes[i].name, ranks_mix, (void *)&shapes[i]);
    for (int i = races ? 1 : 0; i < COUNT(BF16_F32); i++)
        simt_case(i ? "stacks add up in float32" : "stacks add up", stacks_add_up, (void *)&BF16_F32[i]);
    simt_case("sums over the rank keep their lower half", sums_over_the_rank_keep_their_lower_half, NULL);
    simt_case("a step without adapters changes nothing", a_step_without_adapters_changes_nothing, NULL);
    simt_case("shapes that no kernel takes are refused", shapes_that_no_kernel_takes_are_refused, NULL);
    simt_case("tiles that a kernel made are read behind the wait, clusters", made_tiles_are_read_behind_the_wait,
              (void *)&MADE_CLUSTER);
    simt_case("tiles that a kernel made are read behind the wait, planes", made_tiles_are_read_behind_the_wait,
              (void *)&MADE_PLANES);
    simt_case("segments of every size", segments_of_every_size, (void *)&RAGGED_SHAPE);
    simt_case("a row that is not finite stays alone", a_row_that_is_not_finite_stays_alone, (void *)&POISON_SHAPE);
    if (races) {
        simt_case_fails("tiles that a kernel may still write and that are read early are caught",
                        made_tiles_are_read_behind_the_wait, (void *)&NOT_MADE, "before dev_pdl_wait()");
        simt_case_without("lora", a_team_is_busy, NULL);
        simt_case_without("lora", a_team_is_busy, (void *)"clusters");
        simt_case_without("lora", made_tiles_are_read_behind_the_wait, (void *)&MADE_CLUSTER);
        return simt_done();
    }
    simt_case("a row is the same alone", a_row_is_the_same_alone, NULL);
    for (int i = 0; i < COUNT(DISTINCT); i++) {
        static const char *const name[] = {"one adapter", "two adapters", "five adapters", "32 adapters"};
        simt_case(name[i], distinct_adapters, (void *)&DISTINCT[i]);
    }
    simt_case("columns are cut where there are few items", columns_are_cut, NULL);
    return simt_done();
}
