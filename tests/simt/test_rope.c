/* rope.cu against the plain operation: head lengths, partial rotation, norms of heads, biases, bf16 and int8 pages; only
 * q and the rows' own slots are written; a row alone and among others. */
#include "kernels/cuda/ops.h"
#include "kernels/kv.h"
#include "tests/simt/plain.h"
#include <stdio.h>

#define PAGES 9
#define POSITIONS 64
#define ROWS 17 /* of the bucket; the last two are padding */
#define SEQS 3
#define LAYER 1
#define LAYERS 2
#define EPS 1e-6f

static const struct shape {
    int heads, kv_heads, head_dim, rotary, int8;
    bool norms, bias;
} SHAPES[] = {
    {4, 2, 64, 64, 0, false, false}, {3, 1, 64, 64, 1, true, true},   {2, 1, 128, 128, 0, true, true},
    {5, 1, 96, 96, 0, false, true},  {2, 2, 80, 32, 1, false, false}, {1, 1, 256, 256, 1, true, false},
    {1, 1, 512, 128, 0, true, true}, {2, 1, 30, 30, 0, true, true},   {3, 1, 16, 16, 1, false, false},
    {1, 1, 6, 2, 1, true, true},
};
#define SHAPES_N ((int)(sizeof SHAPES / sizeof *SHAPES))

/* Three sequences, at positions that begin within pages. */
static const struct cuda_seq SEQ[SEQS] = {{0, 9, 12, 0}, {9, 1, 31, 2}, {10, 5, 0, 4}};
static const int32_t PAGE[] = {3, 7, -1, 5, 0}; /* sequence 1 has no row in its first page */

struct world {
    const struct shape *s;
    int q, kvn, ld; /* floats of q, of k or v; of a row */
    struct op_rope op;
    uint16_t *before;
    size_t kv_bytes;
    float *rope, *bias, *norm; /* bias: q | k | v; norm: of q, of k */
};

static int round_16(int bytes)
{
    return (bytes + 15) / 16 * 16;
}

static void make_pages(struct world *w)
{
    struct cuda_kv *kv = &w->op.kv;
    kv->kv_heads = w->s->kv_heads, kv->head_dim = w->s->head_dim, kv->int8 = w->s->int8;
    kv->row_bytes = round_16(kv->head_dim * (kv->int8 ? 1 : 2));
    kv->scale_bytes = kv->int8 ? KV_PAGE * 4 : 0;
    kv->part_bytes = kv->scale_bytes + KV_PAGE * kv->row_bytes;
    kv->page_bytes = (size_t)(2 * kv->kv_heads * kv->part_bytes);
    kv->layer_bytes = kv->page_bytes * PAGES;
    w->kv_bytes = kv->layer_bytes * LAYERS;
    kv->base = simt_buffer("pages", w->kv_bytes);
}

static void make_meta(struct world *w)
{
    int32_t seq_of[ROWS], pos[ROWS];
    for (int i = 0; i < ROWS; i++) seq_of[i] = pos[i] = -1;
    for (int s = 0; s < SEQS; s++)
        for (int i = 0; i < SEQ[s].rows; i++) {
            seq_of[SEQ[s].row0 + i] = s;
            pos[SEQ[s].row0 + i] = SEQ[s].pos0 + i;
        }
    w->op.meta.seq_of = simt_sealed("seq_of", seq_of, sizeof seq_of);
    w->op.meta.pos = simt_sealed("pos", pos, sizeof pos);
    w->op.meta.seq = simt_sealed("seq", SEQ, sizeof SEQ);
    w->op.meta.page = simt_sealed("page", PAGE, sizeof PAGE);
}

static struct world *world_new(const struct shape *s)
{
    struct world *w = calloc(1, sizeof *w);
    w->s = s, w->q = s->heads * s->head_dim, w->kvn = s->kv_heads * s->head_dim, w->ld = w->q + 2 * w->kvn;
    w->op = (struct op_rope){
        .rows = ROWS, .heads = s->heads, .layer = LAYER, .ld = w->ld, .rotary = s->rotary, .norm_eps = EPS};
    make_pages(w);
    make_meta(w);
    w->rope = sealed_floats("rope", (size_t)(POSITIONS * s->rotary), 1, 1);
    w->bias = sealed_floats("bias", (size_t)w->ld, 2, 1);
    w->norm = sealed_floats("norm", (size_t)(2 * s->head_dim), 3, 2);
    w->op.rope = w->rope;
    if (s->bias) w->op.q_bias = w->bias, w->op.k_bias = w->bias + w->q, w->op.v_bias = w->bias + w->q + w->kvn;
    if (s->norms) w->op.q_norm = w->norm, w->op.k_norm = w->norm + s->head_dim;
    size_t all = ROWS * (size_t)w->ld;
    w->op.qkv = simt_buffer("qkv", all * 2), w->before = malloc(all * 2);
    simt_fill_bf16(w->op.qkv, all - 2 * (size_t)w->ld, 4, 2); /* padding stays NaN */
    memcpy(w->before, w->op.qkv, all * 2);
    return w;
}

/* --- the plain operation on the same rows --- */

struct plain {
    struct attn a;
    struct attn_seq seq[SEQS];
    struct kv_cache kv;
    float *q, *k, *v;
};

static void do_rope(struct kthread *t, void *arg)
{
    plain_kernels()->rope_store(t, arg);
}

static struct plain *plain_new(const struct world *w)
{
    struct plain *p = calloc(1, sizeof *p);
    const struct shape *s = w->s;
    enum kv_type type = s->int8 ? KV_INT8 : KV_F32;
    p->kv = (struct kv_cache){type, LAYERS, s->kv_heads, s->head_dim, PAGES, 0, NULL, NULL};
    p->kv.page_bytes = kv_page_bytes(type, s->kv_heads, s->head_dim);
    p->kv.base = calloc(LAYERS * PAGES, p->kv.page_bytes);
    p->q = calloc(ROWS * (size_t)w->q, 4), p->k = calloc(ROWS * (size_t)w->kvn, 4),
    p->v = calloc(ROWS * (size_t)w->kvn, 4);
    for (int row = 0; row < ROWS - 2; row++)
        for (int i = 0; i < w->ld; i++) {
            float x = plain_of_bf16(w->before[row * w->ld + i]) + (s->bias ? w->bias[i] : 0);
            if (i < w->q)
                p->q[row * w->q + i] = x;
            else if (i < w->q + w->kvn)
                p->k[row * w->kvn + i - w->q] = x;
            else
                p->v[row * w->kvn + i - w->q - w->kvn] = x;
        }
    for (int i = 0; i < SEQS; i++)
        p->seq[i] = (struct attn_seq){SEQ[i].row0, SEQ[i].rows, SEQ[i].pos0, PAGE + SEQ[i].page0};
    p->a = (struct attn){.nseq = SEQS,
                         .seq = p->seq,
                         .rows = ROWS - 2,
                         .heads = s->heads,
                         .layer = LAYER,
                         .rotary = s->rotary,
                         .norm_eps = EPS,
                         .q = p->q,
                         .k = p->k,
                         .v = p->v,
                         .rope = w->rope,
                         .kv = &p->kv};
    if (s->norms) p->a.q_norm = w->norm, p->a.k_norm = w->norm + s->head_dim;
    plain_run(do_rope, &p->a);
    return p;
}

/* --- what is where --- */

static int page_of(int seq, int pos)
{
    return PAGE[SEQ[seq].page0 + pos / KV_PAGE];
}

static const char *part_at(const struct cuda_kv *kv, int page, int head, bool value)
{
    return kv->base + LAYER * kv->layer_bytes + (size_t)page * kv->page_bytes +
           (size_t)((2 * head + value) * kv->part_bytes);
}

/* K or V of a slot as floats; `touched` of its bytes are taken off what must be untouched. */
static void slot_of(const struct cuda_kv *kv, const char *part, int slot, float *out)
{
    const char *row = part + kv->scale_bytes + slot * kv->row_bytes;
    for (int d = 0; d < kv->head_dim; d++)
        out[d] = kv->int8 ? ((const float *)part)[slot] * (float)((const int8_t *)row)[d]
                          : plain_of_bf16(((const uint16_t *)row)[d]);
}

static void check_slot(const struct world *w, const struct plain *p, int seq, int pos, int head, bool value)
{
    float got[HEAD_DIM_MAX], want[HEAD_DIM_MAX];
    int page = page_of(seq, pos), slot = pos % KV_PAGE;
    slot_of(&w->op.kv, part_at(&w->op.kv, page, head, value), slot, got);
    const char *at = kv_head_at(&p->kv, LAYER, page, head);
    kv_load_plain(&p->kv, at, slot, value, want);
    simt_near_f32(value ? "v" : "k", got, want, (size_t)w->s->head_dim, w->s->int8 ? 9e-3f : 4e-3f);
}

static bool is_written(int page, int slot)
{
    for (int s = 0; s < SEQS; s++)
        for (int i = 0; i < SEQ[s].rows; i++)
            if (page_of(s, SEQ[s].pos0 + i) == page && (SEQ[s].pos0 + i) % KV_PAGE == slot) return true;
    return false;
}

/* Slots of nobody in this step, pages of nobody, the other layer. */
static void check_untouched(const struct world *w)
{
    const struct cuda_kv *kv = &w->op.kv;
    simt_untouched("the other layer", kv->base, kv->layer_bytes);
    for (int page = 0; page < PAGES; page++)
        for (int part = 0; part < 2 * kv->kv_heads; part++)
            for (int slot = 0; slot < KV_PAGE; slot++) {
                const char *at = part_at(kv, page, part / 2, part % 2);
                if (is_written(page, slot)) continue;
                simt_untouched("another slot", at + kv->scale_bytes + slot * kv->row_bytes, (size_t)kv->row_bytes);
                if (kv->int8) simt_untouched("another scale", at + slot * 4, 4);
            }
}

static void rows_are_rotated_and_stored(void *arg)
{
    struct world *w = world_new(arg);
    struct plain *p = plain_new(w);
    SIMT_CHECK(launch_rope(&w->op, NULL) == 0, "refused");
    for (int row = 0; row < ROWS; row++) {
        uint16_t *got = w->op.qkv + row * w->ld;
        if (row < ROWS - 2) simt_near_bf16("q", got, p->q + row * w->q, (size_t)w->q, 4e-3f);
        simt_equal("k and v stay", got + w->q, w->before + row * w->ld + w->q, (size_t)(2 * w->kvn) * 2);
    }
    simt_untouched("padding", w->op.qkv + (ROWS - 2) * w->ld, (size_t)(2 * w->ld) * 2);
    for (int s = 0; s < SEQS; s++)
        for (int i = 0; i < SEQ[s].rows; i++)
            for (int part = 0; part < 2 * w->s->kv_heads; part++)
                check_slot(w, p, s, SEQ[s].pos0 + i, part / 2, part % 2);
    check_untouched(w);
}

static void a_row_has_the_same_bits_alone(void *arg)
{
    struct world *w = world_new(arg);
    SIMT_CHECK(launch_rope(&w->op, NULL) == 0, "refused");
    for (int row = 0; row < ROWS - 2; row += 4) {
        struct op_rope alone = w->op;
        alone.rows = 1;
        alone.qkv = simt_buffer("alone", (size_t)w->ld * 2), alone.kv.base = simt_buffer("pages alone", w->kv_bytes);
        memcpy(alone.qkv, w->before + row * w->ld, (size_t)w->ld * 2);
        alone.meta.seq_of += row, alone.meta.pos += row;
        SIMT_CHECK(launch_rope(&alone, NULL) == 0, "refused");
        simt_equal("q", alone.qkv, w->op.qkv + row * w->ld, (size_t)w->q * 2);
        int seq = w->op.meta.seq_of[row], pos = w->op.meta.pos[row];
        for (int part = 0; part < 2 * w->s->kv_heads; part++) {
            const char *got = part_at(&alone.kv, page_of(seq, pos), part / 2, part % 2),
                       *want = part_at(&w->op.kv, page_of(seq, pos), part / 2, part % 2);
            int at = w->op.kv.scale_bytes + pos % KV_PAGE * w->op.kv.row_bytes;
            simt_equal("a slot", got + at, want + at, (size_t)(w->s->head_dim * (w->s->int8 ? 1 : 2)));
            if (w->s->int8) simt_equal("its scale", got + pos % KV_PAGE * 4, want + pos % KV_PAGE * 4, 4);
        }
    }
}

/* Whoever sees the token has to see that it is not a number; one of zeros, and of nearly nothing, is zeros. */
static void int8_shows_what_is_not_finite(void *arg)
{
    struct world *w = world_new(arg);
    uint16_t *v = w->op.qkv + w->q + w->kvn;
    v[3] = 0x7f80;
    for (int i = 0; i < w->s->head_dim; i++) v[w->ld + i] = i % 2 ? 0x8000 : 0, v[2 * w->ld + i] = 0x0a00;
    SIMT_CHECK(launch_rope(&w->op, NULL) == 0, "refused");
    const char *part = part_at(&w->op.kv, page_of(0, 12), 0, true);
    const float *scale = (const float *)part + 12;
    SIMT_CHECK(!isfinite(scale[0]) && scale[1] == 0 && scale[2] == 0, "scales %g, %g, %g", (double)scale[0],
               (double)scale[1], (double)scale[2]);
    float row[HEAD_DIM_MAX];
    slot_of(&w->op.kv, part, 13, row);
    for (int d = 0; d < w->s->head_dim; d++) SIMT_CHECK(row[d] == 0, "zeros became %g", (double)row[d]);
}

int main(void)
{
    for (int i = 0; i < SHAPES_N; i++) {
        static char name[SHAPES_N][96];
        snprintf(name[i], sizeof name[i], "rows are rotated and stored: %d+%d heads of %d, %d rotate, %s%s%s",
                 SHAPES[i].heads, SHAPES[i].kv_heads, SHAPES[i].head_dim, SHAPES[i].rotary,
                 SHAPES[i].int8 ? "int8" : "bf16", SHAPES[i].norms ? ", norms" : "", SHAPES[i].bias ? ", biases" : "");
        simt_case(name[i], rows_are_rotated_and_stored, (void *)&SHAPES[i]);
    }
    simt_case("a row has the same bits alone: bf16", a_row_has_the_same_bits_alone, (void *)&SHAPES[2]);
    simt_case("a row has the same bits alone: int8", a_row_has_the_same_bits_alone, (void *)&SHAPES[1]);
    simt_case("int8 shows what is not finite", int8_shows_what_is_not_finite, (void *)&SHAPES[4]);
    simt_case_without("rope", rows_are_rotated_and_stored, (void *)&SHAPES[8]);
    return simt_done();
}
