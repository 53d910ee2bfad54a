/* The folded LoRA kernels against launch_lora() followed by the kernel alone: equal by bits, rows with and without
 * adapters, rows of padding, modules that an adapter lacks, stacks and DoRA. */
#include "kernels/cuda/lora_layout.h"
#include "tests/simt/lora_world.h"
#include "tests/simt/simt.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

struct cuda_target cuda_target = {.cc = 90, .sms = 8, .shared_block = 232448, .pdl = 1};

static const int RANKS[10][LORA_SLICES] = {{1, 1, 1},   {4, 0, 4},    {8, 8, 0},    {12, 12, 12},    {16, 16, 16},
                                           {24, 0, 24}, {64, 64, 64}, {100, 1, 64}, {256, 256, 256}, {0, 0, 0}};
#define DORA (1u << 4)

/* Rows 3, 13, 31 and 32 have none; row 30's adapter brings nothing; rows 4 .. 6 a sum of three. */
static const struct world_seg SEGS[] = {
    {0, 1, 1, {8}, {1}},  {1, 2, 1, {6}, {1}},  {4, 3, 3, {2, 1, 0}, {0.5f, -1, 2}},
    {7, 1, 1, {7}, {1}},  {8, 5, 1, {3}, {1}},  {14, 7, 1, {4}, {1}},
    {21, 9, 1, {5}, {1}}, {30, 1, 1, {9}, {1}},
};
#define ROWS 33
#define LIVE 32 /* the row behind is padding */
#define BAD 22  /* that is not finite, where one is */

static void make(struct world *w, int k, int nslice, const int n[LORA_SLICES], bool f32)
{
    struct world_shape s = {k, nslice, {n[0], n[1], n[2]}, f32, WORLD_REAL};
    world_make(w, &s, ROWS, COUNT(RANKS), RANKS, DORA);
}

static void *noise_f32(const char *name, size_t n, uint64_t stream, float scale, float plus)
{
    float *p = simt_buffer(name, n * sizeof *p);
    simt_fill_f32(p, n, stream, scale);
    for (size_t i = 0; i < n; i++) p[i] += plus;
    simt_seal(p);
    return p;
}

/* y without the columns that belong to nothing: rows follow each other. */
static void pack_y(struct world *w)
{
    size_t size = w->shape.f32 ? 4 : 2, used = (size_t)(w->ldy - 6) * size, pitch = (size_t)w->ldy * size;
    for (int row = 1; row < w->rows; row++) memmove((char *)w->y + row * used, (char *)w->y + row * pitch, used);
    w->ldy -= 6;
}

static struct op_lora op_of(struct world *w, int tile_rows)
{
    struct op_lora op = world_op(w, SEGS, COUNT(SEGS), tile_rows);
    op.y = world_copy_y(w);
    return op;
}

static int tiles_of_seed(void)
{
    return simt_seed() % 2 ? 8 : 16;
}

/* --- glu --- */

struct glu_case {
    const char *name;
    int k, n, act;
    bool bias;
};

static const struct glu_case GLU[] = {
    {"glu: k 896, n 4864", 896, 4864, ACT_SILU_MUL, false},
    {"glu: gelu, biases, k 4864, n 896", 4864, 896, ACT_GELU_MUL, true},
    {"glu: a part of a group, k 896, n 2432", 896, 2432, ACT_SILU_MUL, false},
    {"glu: k 40, n 24", 40, 24, ACT_SILU_MUL, true},
};

/* Rows of bf16 that lie GAP apart are those that lie close, and what is between them stays as it was. */
#define GAP 64
static void rows_equal(const char *what, const uint16_t *apart, const uint16_t *close, int n)
{
    for (size_t row = 0; row < ROWS; row++) {
        simt_equal(what, apart + row * (size_t)(n + GAP), close + row * (size_t)n, (size_t)n * 2);
        simt_untouched(what, apart + row * (size_t)(n + GAP) + n, GAP * 2);
    }
}

static void glu_folds(void *arg)
{
    const struct glu_case *c = arg;
    struct world w;
    make(&w, c->k, 2, (int[]){c->n, c->n, 0}, false);
    pack_y(&w);
    size_t bytes = (size_t)ROWS * (size_t)c->n * 2;
    struct op_glu glu = {.rows = ROWS, .n = c->n, .act = c->act};
    if (c->bias) glu.gate_bias = noise_f32("gate bias", (size_t)c->n, 1, 1, 0);
    if (c->bias) glu.up_bias = noise_f32("up bias", (size_t)c->n, 2, 1, 0);
    struct op_lora op = op_of(&w, 8);
    uint16_t *want = simt_buffer("want", bytes);
    glu.gu = op.y, glu.out = want;
    SIMT_CHECK(launch_lora_planes(&op, NULL) == 0 && launch_glu(&glu, NULL) == 0, "refused");
    op = op_of(&w, tiles_of_seed());
    glu.gu = op.y, glu.gap = GAP, glu.out = simt_buffer("out", bytes + ROWS * GAP * 2);
    simt_seal(op.y);
    SIMT_CHECK(launch_lora_glu(&op, &glu, NULL) == 0, "refused");
    rows_equal("the gate", glu.out, want, c->n);
}

/* --- rope --- */

struct rope_case {
    const char *name;
    int hd, heads, kv_heads, rotary, norm, int8, k;
};

static const struct rope_case ROPE[] = {
    {"rope: 14 heads of 64, 2 of k and v", 64, 14, 2, 64, 0, 0, 896},
    {"rope: heads of 128, normed", 128, 4, 4, 128, 1, 0, 896},
    {"rope: heads of 256", 256, 2, 1, 256, 1, 1, 896},
    {"rope: k 4864, 38 heads of 128, 7 of k and v", 128, 38, 7, 128, 0, 1, 4864},
    {"rope: heads of 80 of which 32 rotate", 80, 8, 8, 32, 1, 0, 104},
    {"rope: heads of 96 of which 48 rotate, int8", 96, 4, 1, 48, 0, 1, 104},
};

/* Sequences of 1 row each but one of 5; two pages each, in another order than the sequences'. */
static struct cuda_meta meta_of(void)
{
    static int32_t pos[ROWS], seq_of[ROWS], page[ROWS * 2];
    static struct cuda_seq seq[ROWS];
    for (int row = 0; row < ROWS; row++) {
        bool first = row < 9 || row > 13;
        seq_of[row] = row < LIVE ? (row > 13 ? row - 4 : row > 9 ? 9 : row) : -1;
        pos[row] = row >= 9 && row <= 13 ? 13 + row - 9 : row * 7 % 32;
        if (first || row == 9)
            seq[row > 13 ? row - 4 : row] =
                (struct cuda_seq){row, row == 9 ? 5 : 1, pos[row], 2 * (row > 13 ? row - 4 : row)};
        page[2 * row] = 2 * ROWS - 1 - 2 * row, page[2 * row + 1] = 2 * row % 3 == 0 ? 2 * ROWS + row : 2 * ROWS + row;
    }
    struct cuda_meta m = {.pos = simt_sealed("pos", pos, sizeof pos),
                          .seq_of = simt_sealed("seq_of", seq_of, sizeof seq_of)};
    m.seq = simt_sealed("seq", seq, sizeof seq), m.page = simt_sealed("page", page, sizeof page), m.max_rows = ROWS;
    return m;
}

static struct op_rope rope_of(const struct rope_case *c, int ld)
{
    size_t hd = (size_t)c->hd, positions = 64;
    struct op_rope op = {.meta = meta_of(),
                         .rows = ROWS,
                         .heads = c->heads,
                         .layer = 1,
                         .ld = ld,
                         .rotary = c->rotary,
                         .norm_eps = 1e-5f};
    op.kv = (struct cuda_kv){.kv_heads = c->kv_heads, .head_dim = c->hd, .int8 = c->int8};
    op.kv.row_bytes = (c->hd * (c->int8 ? 1 : 2) + 15) / 16 * 16, op.kv.scale_bytes = c->int8 ? 64 : 0;
    op.kv.part_bytes = op.kv.scale_bytes + 16 * op.kv.row_bytes;
    op.kv.page_bytes = (size_t)op.kv.part_bytes * 2 * (size_t)c->kv_heads,
    op.kv.layer_bytes = op.kv.page_bytes * ROWS * 3;
    op.q_bias = noise_f32("q bias", hd * (size_t)c->heads, 1, 1, 0);
    op.v_bias = noise_f32("v bias", hd * (size_t)c->kv_heads, 2, 1, 0);
    if (c->norm) op.q_norm = noise_f32("q norm", hd, 3, 0.5f, 1), op.k_norm = noise_f32("k norm", hd, 4, 0.5f, 1);
    op.rope = noise_f32("rope", positions * (size_t)c->rotary, 5, 1, 0);
    return op;
}

static void rope_folds(void *arg)
{
    const struct rope_case *c = arg;
    struct world w;
    make(&w, c->k, 3, (int[]){c->hd * c->heads, c->hd * c->kv_heads, c->hd * c->kv_heads}, false);
    struct op_lora op = op_of(&w, 8);
    struct op_rope rope = rope_of(c, w.ldy);
    size_t kv = rope.kv.layer_bytes * 2;
    char *want = simt_buffer("kv wanted", kv);
    uint16_t *q = op.y;
    rope.qkv = q, rope.kv.base = want;
    SIMT_CHECK(launch_lora_planes(&op, NULL) == 0 && launch_rope(&rope, NULL) == 0, "refused");
    op = op_of(&w, tiles_of_seed());
    rope.qkv = op.y, rope.kv.base = simt_buffer("kv", kv);
    SIMT_CHECK(launch_lora_rope(&op, &rope, NULL) == 0, "refused");
    simt_equal("q, k and v", op.y, q, world_y_bytes(&w));
    simt_equal("the pages", rope.kv.base, want, kv);
}

/* --- norm --- */

static const int NORM_SHAPES[][2] = {{896, 896}, {4864, 896}, {896, 4864}, {2432, 896}, {64, 4100}, {40, 132}};

static void norm_folds(void *arg)
{
    const int *shape = arg;
    struct world w;
    make(&w, shape[0], 1, (int[]){shape[1], 0, 0}, true);
    pack_y(&w);
    size_t bytes = (size_t)ROWS * (size_t)shape[1] * 2;
    struct op_lora op = op_of(&w, 8);
    struct op_rmsnorm norm = {.rows = ROWS, .k = shape[1], .x = op.y, .eps = 1e-6f, .out = simt_buffer("want", bytes)};
    norm.weight = noise_f32("weight", (size_t)shape[1], 1, 0.5f, 1);
    uint16_t *want = norm.out;
    void *x = op.y;
    SIMT_CHECK(launch_lora_planes(&op, NULL) == 0 && launch_rmsnorm(&norm, NULL) == 0, "refused");
    op = op_of(&w, tiles_of_seed());
    norm.x = op.y, norm.gap = GAP, norm.out = simt_buffer("out", bytes + ROWS * GAP * 2);
    SIMT_CHECK(launch_lora_norm(&op, &norm, NULL) == 0, "refused");
    simt_equal("x", op.y, x, world_y_bytes(&w));
    rows_equal("h", norm.out, want, shape[1]);
}

/* --- a row that is not finite: the others have the bits that they have without it --- */

struct poisoned {
    struct world w;
    struct op_lora op;
    char *out[2];
    size_t row; /* bytes of out's */
};

static void expect_alone(struct poisoned *p)
{
    for (size_t row = 0; row < LIVE; row++)
        if (row != BAD) simt_equal("a row", p->out[1] + row * p->row, p->out[0] + row * p->row, p->row);
    SIMT_CHECK(memcmp(p->out[1] + BAD * p->row, p->out[0] + BAD * p->row, p->row), "the row hides it");
}

static void glu_keeps_rows_apart(void *arg)
{
    enum { N = 144 };
    (void)arg;
    struct poisoned p;
    make(&p.w, 200, 2, (int[]){N, N, 0}, false);
    pack_y(&p.w);
    p.row = N * 2;
    for (int i = 0; i < 2; i++) {
        if (i) world_poison(&p.w, BAD);
        p.op = op_of(&p.w, i ? 16 : 8);
        struct op_glu glu = {.rows = ROWS, .n = N, .gu = p.op.y, .out = simt_buffer("out", ROWS * p.row)};
        SIMT_CHECK(launch_lora_glu(&p.op, &glu, NULL) == 0, "refused");
        p.out[i] = (char *)glu.out;
    }
    expect_alone(&p);
}

static void rope_keeps_rows_apart(void *arg)
{
    static const struct rope_case c = {"", 64, 4, 2, 64, 1, 0, 200};
    (void)arg;
    struct poisoned p;
    make(&p.w, c.k, 3, (int[]){c.hd * c.heads, c.hd * c.kv_heads, c.hd * c.kv_heads}, false);
    for (int i = 0; i < 2; i++) {
        if (i) world_poison(&p.w, BAD);
        p.op = op_of(&p.w, i ? 16 : 8);
        struct op_rope rope = rope_of(&c, p.w.ldy);
        rope.qkv = p.op.y, rope.kv.base = simt_buffer("kv", rope.kv.layer_bytes * 2);
        SIMT_CHECK(launch_lora_rope(&p.op, &rope, NULL) == 0, "refused");
        p.out[i] = p.op.y;
    }
    p.row = (size_t)p.w.ldy * 2;
    expect_alone(&p);
}

static void norm_keeps_rows_apart(void *arg)
{
    enum { N = 144 };
    (void)arg;
    struct poisoned p;
    make(&p.w, 200, 1, (int[]){N, 0, 0}, true);
    pack_y(&p.w);
    p.row = N * 2;
    for (int i = 0; i < 2; i++) {
        if (i) world_poison(&p.w, BAD);
        p.op = op_of(&p.w, i ? 16 : 8);
        struct op_rmsnorm norm = {
            .rows = ROWS, .k = N, .x = p.op.y, .eps = 1e-6f, .out = simt_buffer("out", ROWS * p.row)};
        norm.weight = noise_f32("weight", N, 1, 0.5f, 1);
        SIMT_CHECK(launch_lora_norm(&p.op, &norm, NULL) == 0, "refused");
        p.out[i] = (char *)norm.out;
    }
    expect_alone(&p);
}

static void shapes_that_do_not_fold_are_said(void *arg)
{
    (void)arg;
    struct op_lora op = {.nslice = 1, .f32 = 1, .n = {64}, .ldy = 64, .k = 64, .ldx = 64, .ranks = 8, .tile_rows = 8};
    int32_t row_of[1] = {0};
    struct op_rmsnorm norm = {.rows = 1, .k = 64, .x = op.y, .row_of = row_of};
    SIMT_CHECK(launch_lora_norm(&op, &norm, NULL) == RT_NOT_HERE, "chosen rows");
    norm.row_of = NULL, norm.k = 60;
    SIMT_CHECK(launch_lora_norm(&op, &norm, NULL) == RT_NOT_HERE, "another length");
    cuda_target.cc = 80, norm.k = 64;
    SIMT_CHECK(launch_lora_norm(&op, &norm, NULL) == RT_NOT_HERE, "no clusters");
}

/* Races are looked for at the last, small, shapes of each table. */
int main(void)
{
    bool races = simt_finds_races();
    for (int i = races ? COUNT(GLU) - 1 : 0; i < COUNT(GLU); i++) simt_case(GLU[i].name, glu_folds, (void *)&GLU[i]);
    for (int i = races ? COUNT(ROPE) - 1 : 0; i < COUNT(ROPE); i++)
        simt_case(ROPE[i].name, rope_folds, (void *)&ROPE[i]);
    for (int i = races ? COUNT(NORM_SHAPES) - 1 : 0; i < COUNT(NORM_SHAPES); i++) {
        static char name[64];
        snprintf(name, sizeof name, "norm: k %d, n %d", NORM_SHAPES[i][0], NORM_SHAPES[i][1]);
        simt_case(name, norm_folds, (void *)NORM_SHAPES[i]);
    }
    simt_case("glu: a row that is not finite stays alone", glu_keeps_rows_apart, NULL);
    simt_case("rope: a row that is not finite stays alone", rope_keeps_rows_apart, NULL);
    simt_case("norm: a row that is not finite stays alone", norm_keeps_rows_apart, NULL);
    simt_case("shapes that do not fold are said", shapes_that_do_not_fold_are_said, NULL);
    simt_case_without("lora_fold", glu_folds, (void *)&GLU[COUNT(GLU) - 1]);
    simt_case_without("lora_fold", rope_folds, (void *)&ROPE[COUNT(ROPE) - 1]);
    simt_case_without("lora_fold", norm_folds, (void *)NORM_SHAPES[COUNT(NORM_SHAPES) - 1]);
    return simt_done();
}
