/* embed.cu against the plain operation: every kind of matrix, rows with factors, with a matrix of their own, with several
 * adapters; a row alone and among others; tokens that the step before chose. */
#include "kernels/cuda/ops.h"
#include "tests/simt/plain.h"
#include "tests/simt/weights.h"

#define VOCAB 70
#define ROWS 17
#define SLOTS 3
#define SEGS 4

static const int RANK[SLOTS] = {5, 1, 0}; /* of the factors */
static const bool FULL[SLOTS] = {false, true, true};

/* Rows 0, 1, 8, 15, 16 have no adapter; a stack's own matrix takes no part. */
static const struct {
    int row0, rows, nuse, slot[2];
    float weight[2];
} SEG[SEGS] = {{2, 3, 1, {0}, {1}}, {5, 1, 2, {1, 0}, {2, 0.5f}}, {6, 2, 1, {1}, {0.25f}}, {9, 6, 1, {2}, {1}}};

struct world {
    int k;
    struct weight w, full[SLOTS];
    struct cuda_weight device;
    struct lora_embed factors[SLOTS];
    struct lora_table table[SLOTS];
    struct lora_seg seg[SEGS];
    struct lora_batch lora;
    int32_t token[ROWS];
    struct op_embed op;
};

static void make_adapters(struct world *w)
{
    struct cuda_embed_module mod[SLOTS] = {0};
    size_t k = (size_t)w->k;
    for (int s = 0; s < SLOTS; s++) {
        size_t r = (size_t)RANK[s];
        if (FULL[s]) {
            uint16_t *full = simt_buffer("full", VOCAB * k * 2);
            simt_fill_bf16(full, VOCAB * k, 20 + (uint64_t)s, 1);
            simt_seal(full);
            weight_pack(&w->full[s], T_BF16, full, VOCAB, w->k, NULL, PREC_FAST, NULL);
            mod[s].full = full;
            w->table[s].embed_full = &w->full[s];
        }
        if (r == 0) continue;
        mod[s].r = RANK[s], mod[s].scale = 0.75f;
        mod[s].a = sealed_floats("a", VOCAB * r, 30 + (uint64_t)s, 1);
        mod[s].b = sealed_floats("b", r * k, 40 + (uint64_t)s, 1);
        w->factors[s] = (struct lora_embed){RANK[s], 0.75f, mod[s].a, mod[s].b};
        w->table[s].embed = &w->factors[s];
    }
    w->op.table = simt_sealed("table", mod, sizeof mod);
}

static void make_segments(struct world *w)
{
    static int32_t seg_of[ROWS];
    struct cuda_tile seg[SEGS] = {0};
    for (int i = 0; i < ROWS; i++) seg_of[i] = -1;
    for (int s = 0; s < SEGS; s++) {
        seg[s].row0 = SEG[s].row0, seg[s].rows = SEG[s].rows, seg[s].nuse = SEG[s].nuse;
        w->seg[s] = (struct lora_seg){.row0 = SEG[s].row0, .rows = SEG[s].rows, .nuse = SEG[s].nuse};
        for (int u = 0; u < SEG[s].nuse; u++) {
            seg[s].use[u] = (struct cuda_use){SEG[s].slot[u], SEG[s].weight[u]};
            w->seg[s].use[u] = (struct lora_use){&w->table[SEG[s].slot[u]], SEG[s].weight[u]};
        }
        for (int i = 0; i < SEG[s].rows; i++) seg_of[SEG[s].row0 + i] = s;
    }
    w->lora = (struct lora_batch){.nseg = SEGS, .seg = w->seg};
    w->op.meta.seg = simt_sealed("seg", seg, sizeof seg);
    w->op.meta.seg_of = simt_sealed("seg_of", seg_of, sizeof seg_of);
}

static struct world *world_new(int kind, int k)
{
    struct world *w = calloc(1, sizeof *w);
    w->k = k;
    w->w = made_weight(kind, VOCAB, k, false, 9);
    w->device = made_whole(&w->w);
    for (int i = 0; i < ROWS; i++) w->token[i] = i == 1 ? VOCAB - 1 : (i * 29 + 3) % VOCAB;
    w->op = (struct op_embed){.rows = ROWS, .hidden = k, .vocab = VOCAB, .w = &w->device, .scale = 1};
    w->op.meta.token = simt_sealed("token", w->token, sizeof w->token);
    make_adapters(w);
    make_segments(w);
    w->op.x = simt_buffer("x", ROWS * (size_t)k * 4);
    return w;
}

static void do_embed(struct kthread *t, void *arg)
{
    plain_kernels()->embed(t, arg);
}

static void check(struct world *w, bool adapters)
{
    size_t n = ROWS * (size_t)w->k;
    float *want = malloc(n * sizeof *want);
    struct embed e = {.w = &w->w,
                      .token = w->token,
                      .rows = ROWS,
                      .scale = w->op.scale,
                      .lora = adapters ? &w->lora : NULL,
                      .x = want};
    plain_run(do_embed, &e);
    SIMT_CHECK(launch_embed(&w->op, NULL) == 0, "refused");
    for (int row = 0; row < ROWS; row++) {
        size_t at = (size_t)row * (size_t)w->k;
        if (adapters)
            simt_near_f32("x", w->op.x + at, want + at, (size_t)w->k, 1e-6f);
        else
            simt_equal("x", w->op.x + at, want + at, (size_t)w->k * 4);
    }
    free(want);
}

static void rows_of_every_kind_are_exact(void *arg)
{
    (void)arg;
    static const int K[] = {64, 4864, 896};
    for (int kind = 0; kind < KINDS; kind++) {
        struct world *w = world_new(kind, K[kind % 3]);
        w->op.table = NULL;
        if (kind % 2) w->op.scale = 24;
        check(w, false);
    }
}

static void adapters_add_what_the_plain_operation_adds(void *arg)
{
    (void)arg;
    static const int K[] = {64, 1032, 896};
    for (int i = 0; i < 3; i++) {
        struct world *w = world_new((int[]){KIND_BF16, KIND_BF16, KIND_Q4}[i], i == 2 ? 896 : K[i]);
        w->op.scale = i ? 3 : 1;
        check(w, true);
    }
}

static void a_row_has_the_same_bits_alone(void *arg)
{
    (void)arg;
    struct world *w = world_new(KIND_BF16, 576);
    SIMT_CHECK(launch_embed(&w->op, NULL) == 0, "refused");
    float *all = w->op.x;
    for (int row = 3; row < ROWS; row += 3) {
        struct op_embed alone = w->op;
        alone.rows = 1, alone.x = simt_buffer("alone", 576 * 4);
        alone.meta.token += row, alone.meta.seg_of += row;
        SIMT_CHECK(launch_embed(&alone, NULL) == 0, "refused");
        simt_equal("a row", alone.x, all + row * 576, 576 * 4);
    }
}

/* Every other row names a wanted logit of the step before; what was chosen there may be no token at all. */
static void a_token_may_be_one_that_was_chosen_before(void *arg)
{
    (void)arg;
    struct world *w = world_new(KIND_BF16, 576);
    int32_t token[ROWS];
    struct cuda_chosen chosen[ROWS];
    memset(chosen, 0xff, sizeof chosen);
    for (int i = 0; i < ROWS; i++) {
        int at = (i * 5 + 2) % ROWS; /* in another order than the rows */
        bool before = i % 2 == 1;
        token[i] = before ? -1 - at : w->token[i];
        if (before) chosen[at].id = w->token[i];
        if (i == 7) chosen[at].id = VOCAB; /* nobody wants this row: any token will do, within the matrix */
    }
    w->token[7] = 0;
    w->op.meta.token = simt_sealed("token", token, sizeof token);
    w->op.chosen = simt_sealed("chosen", chosen, sizeof chosen);
    check(w, true);
}

int main(void)
{
    simt_case("rows of every kind are exact", rows_of_every_kind_are_exact, NULL);
    simt_case("adapters add what the plain operation adds", adapters_add_what_the_plain_operation_adds, NULL);
    simt_case("a row has the same bits alone", a_row_has_the_same_bits_alone, NULL);
    simt_case("a token may be one that was chosen before", a_token_may_be_one_that_was_chosen_before, NULL);
    simt_case_without("embed", a_row_has_the_same_bits_alone, NULL);
    return simt_done();
}
