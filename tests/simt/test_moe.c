/* moe_*.cu against the plain operations: experts and weights, places, tiles of adapters, gathering and the sum; ties,
 * values that are not finite, padding; a row alone and among others. */
#include "kernels/cuda/ops.h"
#include "tests/simt/plain.h"
#include <stdio.h>

#define SEGS 3

struct shape {
    int rows, padding, experts, used;
    bool norm_topk, whole; /* whole: logits with ties */
};
static const struct shape SHAPES[] = {{1, 0, 4, 2, true, false},    {17, 3, 8, 2, true, true},
                                      {40, 0, 60, 4, false, false}, {3, 1, 128, 8, true, false},
                                      {70, 5, 160, 6, false, true}, {5, 0, 1024, 8, true, false}};
#define SHAPES_N ((int)(sizeof SHAPES / sizeof *SHAPES))

struct world {
    struct shape s;
    int rows; /* of the bucket: the step's and padding */
    struct op_moe op;
    struct moe plain; /* of the step's rows */
    int32_t *seg_of;
};

/* Runs of rows by segment 0, 1, none, 2, ... */
static int seg_of_row(int row)
{
    static const int seg[] = {0, 0, 0, 1, -1, -1, 2, 2};
    return row < 40 ? seg[row / 3 % 8] : 1;
}

static void make_meta(struct world *w)
{
    int32_t *seq_of = malloc((size_t)w->rows * 4);
    w->seg_of = malloc((size_t)w->rows * 4);
    struct cuda_tile seg[SEGS] = {0};
    for (int i = 0; i < SEGS; i++) seg[i] = (struct cuda_tile){.nuse = 1 + i, .use = {{i, 0.5f}, {i + 1, 2}}};
    for (int i = 0; i < w->rows; i++) {
        seq_of[i] = i < w->s.rows ? i : -1;
        w->seg_of[i] = i < w->s.rows ? seg_of_row(i) : -1;
    }
    w->op.meta.seq_of = simt_sealed("seq_of", seq_of, (size_t)w->rows * 4);
    w->op.meta.seg_of = simt_sealed("seg_of", w->seg_of, (size_t)w->rows * 4);
    w->op.meta.seg = simt_sealed("seg", seg, sizeof seg);
    free(seq_of);
}

static struct world *world_new(const struct shape *s)
{
    struct world *w = calloc(1, sizeof *w);
    w->s = *s, w->rows = s->rows + s->padding;
    size_t rows = (size_t)w->rows, pairs = rows * (size_t)s->used, step = (size_t)(s->rows * s->experts);
    float *logits = simt_buffer("logits", rows * (size_t)s->experts * 4);
    simt_fill_f32(logits, step, (uint64_t)s->experts, 4);
    for (size_t i = 0; s->whole && i < step; i++) logits[i] = rintf(logits[i]);
    w->op = (struct op_moe){.rows = w->rows, .experts = s->experts, .used = s->used, .norm_topk = s->norm_topk};
    w->op.logits = logits;
    w->op.expert = simt_buffer("expert", pairs * 4), w->op.weight = simt_buffer("weight", pairs * 4);
    w->op.place = simt_buffer("place", pairs * 4), w->op.row_of = simt_buffer("row_of", pairs * 4);
    w->op.first = simt_buffer("first", (size_t)(s->experts + 1) * 4);
    w->op.tile = simt_buffer("tile", pairs * sizeof *w->op.tile), w->op.ntile = simt_buffer("ntile", 4);
    make_meta(w);
    return w;
}

static void do_route(struct kthread *t, void *arg)
{
    plain_kernels()->moe_route(t, arg);
}

static void plain_route(struct world *w)
{
    struct moe *m = &w->plain;
    size_t pairs = (size_t)(w->s.rows * w->s.used);
    *m = (struct moe){w->s.rows, w->s.experts, w->s.used, w->s.norm_topk, w->op.logits, NULL, NULL, NULL, NULL, NULL};
    m->expert = malloc(pairs * 4), m->weight = malloc(pairs * 4), m->place = malloc(pairs * 4);
    m->row_of = malloc(pairs * 4), m->first = malloc((size_t)(w->s.experts + 1) * 4);
    plain_run(do_route, m);
    moe_order(m);
}

static void route(struct world *w)
{
    simt_seal((void *)w->op.logits);
    SIMT_CHECK(launch_moe_route(&w->op, NULL) == 0, "refused");
}

static void experts_and_weights_are_the_plain_ones(void *arg)
{
    struct world *w = world_new(arg);
    plain_route(w);
    route(w);
    size_t pairs = (size_t)(w->s.rows * w->s.used);
    simt_equal("expert", w->op.expert, w->plain.expert, pairs * 4);
    simt_near_f32("weight", w->op.weight, w->plain.weight, pairs, 1e-5f);
    for (int i = w->s.rows * w->s.used; i < w->rows * w->s.used; i++)
        SIMT_CHECK(w->op.expert[i] == -1, "padding has expert %d", w->op.expert[i]);
}

/* The tiles by walking over the places. */
static int plain_tiles(const struct world *w, struct cuda_tile *tile)
{
    int n = 0;
    for (int e = 0; e < w->s.experts; e++)
        for (int p = w->plain.first[e]; p < w->plain.first[e + 1]; p++) {
            int seg = w->seg_of[w->plain.row_of[p]];
            bool goes_on =
                n && p > w->plain.first[e] && seg == w->seg_of[w->plain.row_of[p - 1]] && tile[n - 1].rows < TILE_ROWS;
            if (seg < 0) continue;
            if (goes_on) {
                tile[n - 1].rows++;
                continue;
            }
            tile[n] = w->op.meta.seg[seg];
            tile[n].row0 = p, tile[n].rows = 1, tile[n].at = 3 * e;
            n++;
        }
    return n;
}

static void places_and_tiles_are_the_plain_ones(void *arg)
{
    struct world *w = world_new(arg);
    plain_route(w);
    route(w);
    size_t pairs = (size_t)(w->s.rows * w->s.used), padding = (size_t)(w->s.padding * w->s.used);
    SIMT_CHECK(launch_moe_order(&w->op, NULL) == 0, "refused");
    simt_equal("first", w->op.first, w->plain.first, (size_t)(w->s.experts + 1) * 4);
    simt_equal("place", w->op.place, w->plain.place, pairs * 4);
    simt_equal("row_of", w->op.row_of, w->plain.row_of, pairs * 4);
    simt_untouched("places of nobody", w->op.row_of + pairs, padding * 4);
    struct cuda_tile *tile = calloc(pairs, sizeof *tile);
    int n = plain_tiles(w, tile);
    SIMT_CHECK(w->op.ntile[0] == n, "%d tiles, not %d", w->op.ntile[0], n);
    simt_equal("tiles", w->op.tile, tile, (size_t)n * sizeof *tile);
}

static void all_rows_to_one_expert_make_whole_tiles(void *arg)
{
    (void)arg;
    static const struct shape s = {600, 2, 3, 1, true, false};
    struct world *w = world_new(&s);
    for (int i = 0; i < s.rows; i++) ((float *)w->op.logits)[i * 3 + 1] = 9;
    plain_route(w);
    route(w);
    SIMT_CHECK(launch_moe_order(&w->op, NULL) == 0, "refused");
    struct cuda_tile *tile = calloc((size_t)s.rows, sizeof *tile);
    int n = plain_tiles(w, tile);
    SIMT_CHECK(w->op.ntile[0] == n && n > 560 / TILE_ROWS, "%d tiles, not %d", w->op.ntile[0], n);
    simt_equal("tiles", w->op.tile, tile, (size_t)n * sizeof *tile);
}

static void a_logit_that_is_not_finite_shows_in_its_row(void *arg)
{
    (void)arg;
    static const struct shape s = {6, 0, 40, 4, true, false};
    struct world *w = world_new(&s);
    float *logits = (float *)w->op.logits;
    logits[0] = NAN, logits[39] = -NAN;
    for (int i = 0; i < 40; i++) logits[2 * 40 + i] = NAN, logits[3 * 40 + i] = -INFINITY;
    logits[4 * 40 + 7] = INFINITY;
    plain_route(w);
    route(w);
    for (int row = 0; row < s.rows; row++) {
        bool fine = row == 1 || row == 5;
        for (int i = 0; i < s.used; i++) {
            int e = w->op.expert[row * 4 + i];
            SIMT_CHECK(e >= 0 && e < 40 && (i == 0 || e > w->op.expert[row * 4 + i - 1]), "row %d: expert %d", row, e);
            SIMT_CHECK(isnan(w->op.weight[row * 4 + i]) == !fine, "row %d: weight %g", row,
                       (double)w->op.weight[row * 4 + i]);
        }
        if (fine) simt_equal("expert", w->op.expert + row * 4, w->plain.expert + row * 4, 16);
    }
}

static void rows_of_experts_are_gathered_and_summed(void *arg)
{
    (void)arg;
    static const int LENGTHS[] = {64, 896, 4864};
    for (int l = 0; l < 3; l++) {
        static const struct shape s = {17, 2, 8, 5, true, false};
        struct world *w = world_new(&s);
        plain_route(w);
        route(w);
        SIMT_CHECK(launch_moe_order(&w->op, NULL) == 0, "refused");
        size_t k = (size_t)LENGTHS[l], rows = (size_t)w->rows, pairs = rows * 5, step = 17 * 5;
        uint16_t *in = simt_buffer("in", rows * k * 2), *out = simt_buffer("out", pairs * k * 2);
        simt_fill_bf16(in, 17 * k, 1, 1);
        simt_seal(in);
        struct op_moe_gather g = {.places = (int)pairs, .k = (int)k, .experts = 8, .in = in, .out = out};
        g.row_of = w->op.row_of, g.first = w->op.first;
        SIMT_CHECK(launch_moe_gather(&g, NULL) == 0, "refused");
        for (size_t p = 0; p < step; p++)
            simt_equal("a place", out + p * k, in + (size_t)w->plain.row_of[p] * k, k * 2);
        simt_untouched("places of nobody", out + step * k, (pairs - step) * k * 2);

        float *y = simt_buffer("y", pairs * k * 4), *x = simt_buffer("x", rows * k * 4), *want = calloc(17 * k, 4);
        simt_fill_f32(y, step * k, 2, 1);
        simt_seal(y);
        if (l % 2) simt_fill_f32(x, 17 * k, 3, 1), memcpy(want, x, 17 * k * 4);
        for (size_t i = 0; i < 17 * k; i++)
            for (size_t j = 0; j < 5; j++) {
                size_t pair = i / k * 5 + j;
                want[i] += w->plain.weight[pair] * y[(size_t)w->plain.place[pair] * k + i % k];
            }
        struct op_moe_combine c = {.rows = (int)rows, .used = 5, .k = (int)k, .add = l % 2, .y = y, .x = x};
        c.expert = w->op.expert, c.place = w->op.place, c.weight = w->op.weight;
        SIMT_CHECK(launch_moe_combine(&c, NULL) == 0, "refused");
        simt_near_f32("x", x, want, 17 * k, 1e-5f);
        simt_untouched("padding", x + 17 * k, 2 * k * 4);
    }
}

static void a_row_has_the_same_bits_alone(void *arg)
{
    (void)arg;
    struct world *w = world_new(&SHAPES[4]);
    route(w);
    for (int row = 0; row < w->s.rows; row += 9) {
        struct op_moe alone = w->op;
        alone.rows = 1, alone.logits += row * w->s.experts;
        alone.expert = simt_buffer("expert alone", 24), alone.weight = simt_buffer("weight alone", 24);
        SIMT_CHECK(launch_moe_route(&alone, NULL) == 0, "refused");
        simt_equal("expert", alone.expert, w->op.expert + row * 6, 24);
        simt_equal("weight", alone.weight, w->op.weight + row * 6, 24);
    }
}

int main(void)
{
    for (int i = 0; i < SHAPES_N; i++) {
        static char route_name[SHAPES_N][96], order_name[SHAPES_N][96];
        const struct shape *s = &SHAPES[i];
        snprintf(route_name[i], sizeof route_name[i], "experts and weights are the plain ones: %d rows, %d of %d",
                 s->rows, s->used, s->experts);
        snprintf(order_name[i], sizeof order_name[i], "places and tiles are the plain ones: %d rows, %d of %d", s->rows,
                 s->used, s->experts);
        simt_case(route_name[i], experts_and_weights_are_the_plain_ones, (void *)s);
        if (s->experts > 500 && simt_finds_races()) continue; /* a block an expert: seconds */
        simt_case(order_name[i], places_and_tiles_are_the_plain_ones, (void *)s);
    }
    simt_case("all rows to one expert make whole tiles", all_rows_to_one_expert_make_whole_tiles, NULL);
    simt_case("a logit that is not finite shows in its row", a_logit_that_is_not_finite_shows_in_its_row, NULL);
    simt_case("rows of experts are gathered and summed", rows_of_experts_are_gathered_and_summed, NULL);
    simt_case("a row has the same bits alone", a_row_has_the_same_bits_alone, NULL);
    simt_case_without("moe", experts_and_weights_are_the_plain_ones, (void *)&SHAPES[1]);
    simt_case_without("moe", places_and_tiles_are_the_plain_ones, (void *)&SHAPES[4]);
    simt_case_without("moe", rows_of_experts_are_gathered_and_summed, NULL);
    return simt_done();
}
