/* K-augmentation: the product of the added columns is what the adapters add, exactly where numbers are whole; columns that
 * nobody uses are zero on both sides. */
#include "tests/simt/lora_world.h"
#include "tests/simt/simt.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))
#define NHOT 4
#define RANKS_PAD 32

static const int RANKS[6][LORA_SLICES] = {{8, 0, 4}, {32, 16, 24}, {1, 1, 1}, {12, 12, 12}, {16, 16, 16}, {9, 9, 9}};

/* Rows 3 and 12 .. 19 have none; rows 5 .. 7 a sum of two. Adapters 0, 1, 4 are hot, and one place is empty. */
static const struct world_seg SEGS[] = {
    {0, 3, 1, {0}, {1}}, {4, 1, 1, {1}, {2}}, {5, 3, 2, {4, 1}, {-1, 2}}, {8, 4, 1, {4}, {1}}};
#define ROWS 20
static const int32_t HOT[NHOT] = {4, -1, 0, 1};

static struct op_augment op_of(struct world *w, int tile_rows, int ranks_pad)
{
    int columns = augment_columns(w->shape.nslice, NHOT, ranks_pad), outputs = 0;
    size_t pitch = (size_t)(w->shape.k + columns);
    struct op_augment op = {.lora = world_op(w, SEGS, COUNT(SEGS), tile_rows), .nhot = NHOT, .ranks = ranks_pad};
    uint16_t *x = simt_buffer("x and s", ROWS * pitch * 2);
    for (size_t row = 0; row < ROWS; row++)
        memcpy(x + row * pitch, w->x + row * (size_t)w->ldx, (size_t)w->shape.k * 2);
    for (int s = 0; s < w->shape.nslice; s++) outputs += w->shape.n[s];
    op.hot = simt_sealed("hot", HOT, sizeof HOT);
    op.lora.x = x, op.lora.ldx = op.ldw = (int)pitch;
    op.w = simt_buffer("W and B", (size_t)outputs * pitch * 2);
    return op;
}

struct augment_case {
    const char *name;
    struct world_shape shape;
    int tile_rows, ranks_pad;
    const int (*rank)[LORA_SLICES];
};

static const int LARGE[6][LORA_SLICES] = {{256}, {100}, {4}, {64}, {24}, {16}};
static const struct augment_case CASES[] = {
    {"tiles of 8 rows", {104, 3, {144, 48, 16}, true, WORLD_WHOLE}, 8, 32, RANKS},
    {"tiles of 16 rows", {104, 3, {144, 48, 16}, true, WORLD_WHOLE}, 16, 32, RANKS},
    {"k 896, n 4864", {896, 1, {4864}, true, WORLD_WHOLE}, 16, 32, RANKS},
    {"k 4864, n 896, ranks up to 256", {4864, 1, {896}, true, WORLD_WHOLE}, 8, 256, LARGE},
};

/* Row by output, over the added columns. */
static double product(const struct op_augment *op, int columns, int row, int output)
{
    const uint16_t *x = op->lora.x + (size_t)row * (size_t)op->lora.ldx + op->lora.k;
    const uint16_t *w = op->w + (size_t)output * (size_t)op->ldw + op->lora.k;
    double sum = 0;
    for (int i = 0; i < columns; i++) sum += (double)world_bf16(x[i]) * (double)world_bf16(w[i]);
    return sum;
}

static void columns_add_what_adapters_add(void *arg)
{
    const struct augment_case *c = arg;
    struct world w;
    world_make(&w, &c->shape, ROWS, COUNT(RANKS), c->rank, 0);
    float *want = world_plain(&w, SEGS, COUNT(SEGS));
    struct op_augment op = op_of(&w, c->tile_rows, c->ranks_pad);
    SIMT_CHECK(launch_augment_rows(&op, NULL) == 0 && launch_augment_weights(&op, NULL) == 0, "refused");
    int columns = augment_columns(c->shape.nslice, NHOT, c->ranks_pad);
    for (int row = 0; row < ROWS; row++)
        for (int s = 0, output = 0; s < c->shape.nslice; s++)
            for (int i = 0; i < w.shape.n[s]; i++, output++) {
                size_t at = (size_t)row * (size_t)w.ldy + (size_t)(w.y0[s] + i);
                double got = product(&op, columns, row, output), delta = (double)want[at] - (double)((float *)w.y)[at];
                SIMT_CHECK(got == delta, "row %d output %d: %g, not %g", row, output, got, delta);
            }
    for (int row = 0; row < ROWS; row++)
        simt_equal("x", op.lora.x + (size_t)row * (size_t)op.lora.ldx, w.x + (size_t)row * (size_t)w.ldx,
                   (size_t)w.shape.k * 2);
    simt_untouched("W", op.w, (size_t)w.shape.k * 2);
    free(want);
}

/* Adapter by adapter, as they are loaded, and by rows of W, as codes are expanded: what one launch for all gives. */
static void columns_come_in_any_parts(void *arg)
{
    (void)arg;
    static const int cut[] = {0, 96, 160, 208};
    struct world w;
    world_make(&w, &(struct world_shape){104, 3, {144, 48, 16}, true, WORLD_WHOLE}, ROWS, COUNT(RANKS), RANKS, 0);
    struct op_augment all = op_of(&w, 8, RANKS_PAD), one = all, part = all;
    size_t bytes = (size_t)208 * (size_t)all.ldw * 2;
    one.w = simt_buffer("adapter by adapter", bytes);
    SIMT_CHECK(launch_augment_weights(&all, NULL) == 0, "refused");
    for (one.only = 1; one.only <= NHOT; one.only++) SIMT_CHECK(launch_augment_weights(&one, NULL) == 0, "refused");
    simt_equal("adapter by adapter", one.w, all.w, bytes);
    for (int i = 0; i + 1 < COUNT(cut); i++) {
        part.first = cut[i], part.outputs = cut[i + 1] - cut[i];
        part.w = simt_buffer("rows of W", (size_t)part.outputs * (size_t)all.ldw * 2);
        SIMT_CHECK(launch_augment_weights(&part, NULL) == 0, "refused");
        simt_equal("rows of W", part.w, all.w + (size_t)part.first * (size_t)all.ldw,
                   (size_t)part.outputs * (size_t)all.ldw * 2);
    }
}

/* The first tiles go another way, whatever slots their adapters are in. */
static void cold_tiles_have_zeros(void *arg)
{
    (void)arg;
    const int32_t two = 2;
    struct world w;
    world_make(&w, &(struct world_shape){104, 3, {144, 48, 16}, true, WORLD_WHOLE}, ROWS, COUNT(RANKS), RANKS, 0);
    struct op_augment op = op_of(&w, 8, RANKS_PAD), warm = op_of(&w, 8, RANKS_PAD);
    int columns = augment_columns(3, NHOT, RANKS_PAD), others = 0;
    op.cold = simt_sealed("cold", &two, sizeof two);
    SIMT_CHECK(launch_augment_rows(&op, NULL) == 0 && launch_augment_rows(&warm, NULL) == 0, "refused");
    for (int row = 0; row < ROWS; row++) {
        const uint16_t *x = op.lora.x + (size_t)row * (size_t)op.lora.ldx + 104;
        const uint16_t *y = warm.lora.x + (size_t)row * (size_t)op.lora.ldx + 104;
        bool cold = row < 3 || row == 4; /* the rows of SEGS[0] and SEGS[1] */
        for (int i = 0; i < columns; i++) {
            SIMT_CHECK(x[i] == (cold ? 0 : y[i]), "row %d column %d: %x", row, i, x[i]);
            others += x[i] != y[i];
        }
    }
    SIMT_CHECK(others > 0, "nothing was left out");
}

static void columns_without_room_are_refused(void *arg)
{
    (void)arg;
    struct op_augment op = {
        .lora = {.nslice = 1, .k = 64, .ldx = 64 + 64, .n = {16}}, .nhot = 2, .ranks = 16, .ldw = 128};
    op.lora.ldx = 120;
    SIMT_CHECK(launch_augment_rows(&op, NULL) == RT_BAD_SHAPE, "x");
    op.lora.ldx = 128, op.ldw = 120;
    SIMT_CHECK(launch_augment_weights(&op, NULL) == RT_BAD_SHAPE, "W");
    op.ldw = 128, op.ranks = 8;
    SIMT_CHECK(launch_augment_weights(&op, NULL) == RT_BAD_SHAPE, "ranks");
}

int main(void)
{
    for (int i = 0; i < (simt_finds_races() ? 2 : COUNT(CASES)); i++) {
        static char name[COUNT(CASES)][96];
        snprintf(name[i], sizeof name[i], "columns add what adapters add: %s", CASES[i].name);
        simt_case(name[i], columns_add_what_adapters_add, (void *)&CASES[i]);
    }
    simt_case("columns come in any parts", columns_come_in_any_parts, NULL);
    simt_case("cold tiles have zeros", cold_tiles_have_zeros, NULL);
    simt_case("columns without room are refused", columns_without_room_are_refused, NULL);
    simt_case_without("lora_augment", columns_add_what_adapters_add, (void *)&CASES[0]);
    return simt_done();
}
