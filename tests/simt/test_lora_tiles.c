/* Where adapters lie in the pool, and how a step's segments become tiles. Host code alone. */
#include "kernels/cuda/lora_layout.h"
#include "kernels/cuda/lora_tiles.h"
#include "tests/simt/simt.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

/* --- layout --- */

static const int SHAPES[][3] = {{1, 2, 8},      {4, 16, 32},   {8, 17, 40},      {12, 128, 896},  {16, 24, 600},
                                {24, 128, 896}, {64, 48, 300}, {100, 896, 1000}, {256, 64, 4864}, {512, 16, 64}};

/* Element (i, j) of A is 1 + its number modulo 2^16 - 1, of B the same: each must stand where the layout says, once, and all
 * else is zero. */
static void everything_is_packed_once(void *arg)
{
    (void)arg;
    for (int s = 0; s < COUNT(SHAPES); s++) {
        int r = SHAPES[s][0], n = SHAPES[s][1], k = SHAPES[s][2];
        size_t b_at, bytes = lora_layout_bytes(r, n, k, &b_at), na = (size_t)r * (size_t)k, nb = (size_t)n * (size_t)r;
        uint16_t *a = malloc(na * 2), *b = malloc(nb * 2), *to = simt_buffer("packed", bytes);
        SIMT_CHECK(bytes % 128 == 0 && b_at % 128 == 0, "%zu bytes, B at %zu", bytes, b_at);
        for (size_t i = 0; i < na; i++) a[i] = (uint16_t)(1 + i % 65535);
        for (size_t i = 0; i < nb; i++) b[i] = (uint16_t)(1 + i % 65535);
        lora_layout_pack(to, r, n, k, a, b);
        simt_check_guards();
        for (size_t i = 0; i < na; i++) {
            uint16_t *at = &to[lora_layout_a(r, k, (int)(i / (size_t)k), (int)(i % (size_t)k))];
            SIMT_CHECK(*at == a[i], "A %zu of r %d k %d: %d", i, r, k, *at);
            *at = 0;
        }
        for (size_t i = 0; i < nb; i++) {
            uint16_t *at = &to[b_at / 2 + lora_layout_b(r, (int)(i / (size_t)r), (int)(i % (size_t)r))];
            SIMT_CHECK(*at == b[i], "B %zu of r %d n %d: %d", i, r, n, *at);
            *at = 0;
        }
        for (size_t i = 0; i < bytes / 2; i++) SIMT_CHECK(to[i] == 0, "padding holds %d", to[i]);
        free(a), free(b);
    }
}

static void ranks_beyond_the_maximum_have_no_size(void *arg)
{
    (void)arg;
    SIMT_CHECK(lora_layout_bytes(LORA_RANK_MAX, 8, 8, NULL) > 0, "the largest");
    SIMT_CHECK(lora_layout_bytes(LORA_RANK_MAX + 1, 8, 8, NULL) == 0, "one more");
    SIMT_CHECK(lora_layout_bytes(0, 8, 8, NULL) == 0, "none");
}

/* --- tiles --- */

#define TABLES 5
static struct lora_table tables[TABLES];

static int resident(void *u, const struct lora_table *t, struct lora_resident *out)
{
    *out = (struct lora_resident){10 + (int)(t - tables), 16, u && *(const int *)u == t - tables};
    return t == &tables[TABLES - 1] ? -1 : 0; /* the last one is not */
}

struct tiles_case {
    const char *name;
    int rows, tile_rows, nseg;
    int seg[6][3]; /* row0, rows, uses */
    int n, all;
    int tile[12][3]; /* row0, rows, uses */
};

static const struct tiles_case TILES[] = {
    {"no rows", 0, 8, 0, {{0}}, 0, 0, {{0}}},
    {"all base", 20, 8, 0, {{0}}, 0, 3, {{0, 8, 0}, {8, 8, 0}, {16, 4, 0}}},
    {"one adapter everywhere", 9, 8, 1, {{0, 9, 1}}, 2, 2, {{0, 8, 1}, {8, 1, 1}}},
    {"base before, between and behind",
     20,
     16,
     2,
     {{2, 17 - 2, 1}, {18, 1, 2}},
     2,
     5,
     {{2, 15, 1}, {18, 1, 2}, {0, 2, 0}, {17, 1, 0}, {19, 1, 0}}},
    {"a segment without uses is base",
     6,
     8,
     3,
     {{0, 2, 1}, {2, 2, 0}, {4, 2, 4}},
     2,
     3,
     {{0, 2, 1}, {4, 2, 4}, {2, 2, 0}}},
    {"an empty segment", 4, 8, 2, {{1, 0, 1}, {1, 2, 1}}, 1, 3, {{1, 2, 1}, {0, 1, 0}, {3, 1, 0}}},
    {"seventy rows", 70, 16, 1, {{0, 70, 1}}, 5, 5, {{0, 16, 1}, {16, 16, 1}, {32, 16, 1}, {48, 16, 1}, {64, 6, 1}}},
};

static struct lora_batch batch_of(const struct tiles_case *c, struct lora_seg seg[6])
{
    memset(seg, 0, 6 * sizeof *seg);
    for (int i = 0; i < c->nseg; i++) {
        seg[i].row0 = c->seg[i][0], seg[i].rows = c->seg[i][1], seg[i].nuse = c->seg[i][2];
        for (int u = 0; u < seg[i].nuse; u++) seg[i].use[u] = (struct lora_use){&tables[(i + u) % 4], (float)(u + 1)};
    }
    return (struct lora_batch){.nseg = c->nseg, .seg = seg};
}

static void segments_become_tiles(void *arg)
{
    const struct tiles_case *c = arg;
    struct lora_seg seg[6];
    struct lora_batch b = batch_of(c, seg);
    struct lora_tiles t = {.tile = simt_buffer("tiles", 12 * sizeof *t.tile), .max = 12};
    struct err e = {0};
    int rc = lora_tiles_build(&t, c->nseg ? &b : NULL, c->rows, c->tile_rows, 64, resident, NULL, &e);
    SIMT_CHECK(rc == 0, "%s", e.msg);
    SIMT_CHECK(t.n == c->n && t.all == c->all, "%d and %d tiles", t.n, t.all);
    for (int i = 0; i < t.all; i++) {
        const struct cuda_tile *got = &t.tile[i];
        const int *want = c->tile[i];
        SIMT_CHECK(got->row0 == want[0] && got->rows == want[1] && got->nuse == want[2] && got->at == 0,
                   "tile %d: rows %d + %d, %d uses", i, got->row0, got->rows, got->nuse);
        for (int s = 0; s < c->nseg && i < t.n; s++)
            for (int u = 0; u < got->nuse && got->row0 >= seg[s].row0 && got->row0 < seg[s].row0 + seg[s].rows; u++)
                SIMT_CHECK(got->use[u].slot == 10 + (s + u) % 4 && got->use[u].weight == (float)(u + 1),
                           "tile %d use %d: slot %d", i, u, got->use[u].slot);
    }
    simt_untouched("the rest", t.tile + t.all, (size_t)(12 - t.all) * sizeof *t.tile);
}

/* Rows of the one adapter that can be columns stand behind those of others, and of sums. */
static void columns_stand_behind_the_others(void *arg)
{
    (void)arg;
    static const struct tiles_case c = {"", 24, 8, 4, {{0, 4, 1}, {4, 9, 1}, {13, 2, 2}, {15, 5, 1}}, 5, 6, {{0}}};
    static const int want[6] = {0, 13, 15, 4, 12, 20}; /* the second segment is cut in two */
    struct lora_seg seg[6];
    struct lora_batch b = batch_of(&c, seg);
    struct lora_tiles t = {.tile = simt_buffer("tiles", 12 * sizeof *t.tile), .max = 12};
    struct err e = {0};
    int columns = 1;
    seg[2].use[0].t = seg[2].use[1].t = &tables[1]; /* in a sum it is none, whatever stands beside it */
    SIMT_CHECK(lora_tiles_build(&t, &b, c.rows, c.tile_rows, 64, resident, &columns, &e) == 0, "%s", e.msg);
    SIMT_CHECK(t.cold == 3 && t.n == c.n && t.all == c.all, "%d, %d and %d tiles", t.cold, t.n, t.all);
    for (int i = 0; i < t.all; i++) SIMT_CHECK(t.tile[i].row0 == want[i], "tile %d: row %d", i, t.tile[i].row0);
}

struct bad_case {
    const char *name, *says;
    int max_rank, max, rows;
    struct lora_seg seg[2];
};

static const struct bad_case BAD[] = {
    {"a table that is not resident",
     "not resident",
     64,
     8,
     4,
     {{0, 1, 1, {{&tables[0], 1}}}, {1, 1, 1, {{&tables[4], 1}}}}},
    {"ranks beyond the scratch",
     "rank 32 in sum",
     24,
     8,
     4,
     {{0, 1, 1, {{&tables[0], 1}}}, {1, 1, 2, {{&tables[0], 1}, {&tables[1], 1}}}}},
    {"segments that overlap",
     "segment of rows 1..2",
     64,
     8,
     4,
     {{0, 2, 1, {{&tables[0], 1}}}, {1, 2, 1, {{&tables[1], 1}}}}},
    {"a segment beyond the step",
     "segment of rows 2..4",
     64,
     8,
     4,
     {{0, 2, 1, {{&tables[0], 1}}}, {2, 3, 1, {{&tables[1], 1}}}}},
    {"more tiles than there is room for",
     "more than 1 tiles",
     64,
     1,
     4,
     {{0, 1, 1, {{&tables[0], 1}}}, {1, 1, 1, {{&tables[1], 1}}}}},
};

static void what_cannot_be_is_refused(void *arg)
{
    const struct bad_case *c = arg;
    struct lora_batch b = {.nseg = 2, .seg = c->seg};
    struct lora_tiles t = {.tile = simt_buffer("tiles", 8 * sizeof *t.tile), .max = c->max, .n = -7};
    struct err e = {0};
    int rc = lora_tiles_build(&t, &b, c->rows, 8, c->max_rank, resident, NULL, &e);
    SIMT_CHECK(rc == -1 && e.code == ERR_INTERNAL && strstr(e.msg, c->says) && t.n == -7, "%d, %s", rc, e.msg);
}

int main(void)
{
    static char name[128];
    simt_case("every element is packed once, and the rest is zero", everything_is_packed_once, NULL);
    simt_case("ranks beyond the maximum have no size", ranks_beyond_the_maximum_have_no_size, NULL);
    for (int i = 0; i < COUNT(TILES); i++) {
        snprintf(name, sizeof name, "tiles: %s", TILES[i].name);
        simt_case(name, segments_become_tiles, (void *)&TILES[i]);
    }
    for (int i = 0; i < COUNT(BAD); i++) {
        snprintf(name, sizeof name, "refused: %s", BAD[i].name);
        simt_case(name, what_cannot_be_is_refused, (void *)&BAD[i]);
    }
    simt_case("columns stand behind the others", columns_stand_behind_the_others, NULL);
    return simt_done();
}
