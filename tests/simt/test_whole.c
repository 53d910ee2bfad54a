/* whole.cu against float64: heads of adapters that bring a matrix of their own, rows without one and tiles with a sum of
 * adapters untouched; a row alone and among others, and beside one that is not finite. */
#include "kernels/cuda/ops.h"
#include "tests/simt/plain.h"
#include <stdio.h>

#define SLOTS 3
#define ROWS 24
#define MAX_TILES 9

static const struct shape {
    int n, k;
} SHAPES[] = {{70, 896}, {33, 4864}, {64, 8}, {1, 264}, {896, 40}};
#define SHAPES_N ((int)(sizeof SHAPES / sizeof *SHAPES))

/* Slot 1 brings nothing; the tile of rows 18, 19 is a sum. Rows 1 and 20 .. 23 are in no tile. */
static const struct cuda_tile TILES[] = {
    {0, 1, 1, 0, {{0, 1}}},
    {2, 15, 1, 0, {{2, 1}}},
    {17, 1, 1, 0, {{1, 1}}},
    {18, 2, 2, 0, {{0, 1}, {2, 1}}},
};
#define TILES_N 4

struct world {
    struct shape s;
    const uint16_t *full[SLOTS];
    struct op_whole op;
};

static int slot_of(int row)
{
    return row == 0 ? 0 : row >= 2 && row < 17 ? 2 : -1;
}

static uint16_t *made_x(const struct world *w, int rows, int bad)
{
    uint16_t *x = simt_buffer("x", (size_t)(rows * w->op.ldx) * 2);
    for (int row = 0; row < rows; row++) {
        simt_fill_bf16(x + row * w->op.ldx, (size_t)w->s.k, 40 + (uint64_t)row, 1);
        for (int i = 0; row == bad && i < w->s.k; i++) x[row * w->op.ldx + i] = i % 2 ? 0x7f80 : 0x7fc0;
    }
    simt_seal(x);
    return x;
}

static struct world world_of(struct shape s)
{
    struct world w = {.s = s};
    for (int slot = 0; slot < SLOTS; slot++) {
        uint16_t *full = slot == 1 ? NULL : simt_buffer("full", (size_t)s.n * (size_t)s.k * 2);
        if (full) simt_fill_bf16(full, (size_t)s.n * (size_t)s.k, (uint64_t)slot + 1, 1), simt_seal(full);
        w.full[slot] = full;
    }
    struct cuda_tile tile[MAX_TILES];
    memset(tile, 0xff, sizeof tile);
    memcpy(tile, TILES, sizeof TILES);
    const int32_t ntile = TILES_N;
    w.op = (struct op_whole){.max_tiles = MAX_TILES, .n = s.n, .k = s.k, .ldx = s.k + 8, .ldy = s.n + 3};
    w.op.tile = simt_sealed("tiles", tile, sizeof tile), w.op.ntile = simt_sealed("ntile", &ntile, sizeof ntile);
    w.op.full = simt_sealed("full", w.full, sizeof w.full);
    w.op.x = made_x(&w, ROWS, -1);
    return w;
}

static float *run(struct world *w)
{
    w->op.y = simt_buffer("y", (size_t)(ROWS * w->op.ldy) * 4);
    SIMT_CHECK(launch_whole(&w->op, NULL) == 0, "refused");
    return w->op.y;
}

static void check_row(const struct world *w, const float *y, int row)
{
    const uint16_t *full = slot_of(row) < 0 ? NULL : w->full[slot_of(row)];
    const uint16_t *x = w->op.x + row * w->op.ldx;
    for (int n = 0; full && n < w->s.n; n++) {
        double want = 0, size = 0;
        for (int i = 0; i < w->s.k; i++) {
            double v =
                (double)plain_of_bf16(full[(size_t)n * (size_t)w->s.k + (size_t)i]) * (double)plain_of_bf16(x[i]);
            want += v, size += fabs(v);
        }
        SIMT_CHECK(fabs((double)y[n] - want) <= 1e-5 * size, "row %d output %d: %g, not %g", row, n, (double)y[n],
                   want);
    }
    simt_untouched("beside the outputs", y + (full ? w->s.n : 0), (size_t)(w->op.ldy - (full ? w->s.n : 0)) * 4);
}

static void rows_take_the_matrix_of_their_adapter(void *arg)
{
    struct world w = world_of(*(const struct shape *)arg);
    float *y = run(&w);
    for (int row = 0; row < ROWS; row++) check_row(&w, y + row * w.op.ldy, row);
}

static void a_row_is_the_same_alone_and_beside_what_is_not_finite(void *arg)
{
    struct world w = world_of(*(const struct shape *)arg);
    float *all = run(&w);
    w.op.x = made_x(&w, ROWS, 5);
    float *beside = run(&w);
    for (int row = 0; row < ROWS; row++)
        if (row != 5) simt_equal("a row beside", beside + row * w.op.ldy, all + row * w.op.ldy, (size_t)w.op.ldy * 4);
    for (int n = 0; n < w.s.n; n++) SIMT_CHECK(isnan(beside[5 * w.op.ldy + n]), "output %d hides it", n);
    const struct cuda_tile one = {9, 1, 1, 0, {{2, 1}}};
    const int32_t ntile = 1;
    w.op.x = made_x(&w, ROWS, -1), w.op.max_tiles = 1;
    w.op.tile = simt_sealed("tile", &one, sizeof one), w.op.ntile = simt_sealed("ntile", &ntile, sizeof ntile);
    simt_equal("row 9", run(&w) + 9 * w.op.ldy, all + 9 * w.op.ldy, (size_t)w.op.ldy * 4);
}

static void lengths_that_are_no_pieces_are_refused(void *arg)
{
    (void)arg;
    SIMT_CHECK(launch_whole(&(struct op_whole){.max_tiles = 1, .n = 8, .k = 12}, NULL) == RT_BAD_SHAPE, "k 12");
}

int main(void)
{
    for (int i = 0; i < SHAPES_N; i++) {
        static char name[SHAPES_N][96];
        snprintf(name[i], sizeof name[i], "rows take the matrix of their adapter: n %d, k %d", SHAPES[i].n,
                 SHAPES[i].k);
        simt_case(name[i], rows_take_the_matrix_of_their_adapter, (void *)&SHAPES[i]);
    }
    simt_case("a row is the same alone and beside what is not finite",
              a_row_is_the_same_alone_and_beside_what_is_not_finite, (void *)&SHAPES[0]);
    simt_case("lengths that are no pieces are refused", lengths_that_are_no_pieces_are_refused, NULL);
    simt_case_without("whole", rows_take_the_matrix_of_their_adapter, (void *)&SHAPES[2]);
    return simt_done();
}
