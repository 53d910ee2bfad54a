/* See attention_problem.h. Built in float64 and plain loops, nothing of the kernels' order in it. */
#include "tests/simt/attention_problem.h"
#include "kernels/convert.h"
#include "tests/simt/simt.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LAYERS 2
#define LAYER 1
#define SPARE_PAGES 3

enum what { WHAT_Q, WHAT_K, WHAT_V, WHAT_SCALE };

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Between -2 and 2, of variance 1 / 3. */
static float draw(enum what what, int id, int pos, int head, int d)
{
    uint64_t h = mix((uint64_t)what << 60 ^ (uint64_t)id << 44 ^ (uint64_t)pos << 24 ^ (uint64_t)(head << 10 | d));
    float sum = 0;
    for (int i = 0; i < 4; i++) sum += (float)(h >> 16 * i & 0xffff) / 65536 - 0.5f;
    return sum;
}

static uint16_t q_of(int id, int pos, int head, int d)
{
    return bf16_of_f32(4 * draw(WHAT_Q, id, pos, head, d));
}

static float scale_of(enum what what, int id, int pos, int head)
{
    return (1.5f + draw(WHAT_SCALE, id, pos, head, (int)what) / 2) / 127;
}

static int8_t code_of(enum what what, int id, int pos, int head, int d)
{
    return (int8_t)lrintf(63 * draw(what, id, pos, head, d));
}

static uint16_t kv_of(enum what what, int id, int pos, int head, int d)
{
    return bf16_of_f32(2 * draw(what, id, pos, head, d));
}

static double kv_value(const struct attn_shape *h, enum what what, int id, int pos, int head, int d)
{
    if (h->int8) return (double)scale_of(what, id, pos, head) * code_of(what, id, pos, head, d);
    return f32_of_bf16(kv_of(what, id, pos, head, d));
}

static int first_seen(const struct attn_shape *h, int pos)
{
    return h->window > 0 && pos >= h->window ? pos - h->window + 1 : 0;
}

/* --- a step's memory --- */

static struct cuda_kv kv_of_shape(const struct attn_shape *h, int pages)
{
    struct cuda_kv kv = {.kv_heads = h->kv_heads, .head_dim = h->head_dim, .int8 = h->int8};
    kv.row_bytes = (h->head_dim * (h->int8 ? 1 : 2) + 15) / 16 * 16;
    kv.scale_bytes = h->int8 ? 64 : 0;
    kv.part_bytes = kv.scale_bytes + ATTN_PAGE * kv.row_bytes;
    kv.page_bytes = (size_t)(h->kv_heads * 2 * kv.part_bytes);
    kv.layer_bytes = kv.page_bytes * (size_t)pages;
    kv.base = simt_buffer("kv", kv.layer_bytes * LAYERS);
    return kv;
}

static void put_position(const struct attn_shape *h, const struct cuda_kv *kv, int page, int id, int pos)
{
    char *at = kv->base + LAYER * kv->layer_bytes + (size_t)page * kv->page_bytes;
    for (int head = 0; head < h->kv_heads; head++)
        for (enum what what = WHAT_K; what <= WHAT_V; what++, at += kv->part_bytes) {
            char *row = at + kv->scale_bytes + pos % ATTN_PAGE * kv->row_bytes;
            if (h->int8) ((float *)at)[pos % ATTN_PAGE] = scale_of(what, id, pos, head);
            for (int d = 0; d < h->head_dim; d++)
                if (h->int8)
                    ((int8_t *)row)[d] = code_of(what, id, pos, head, d);
                else
                    ((uint16_t *)row)[d] = kv_of(what, id, pos, head, d);
        }
}

/* Page numbers of all parts, one behind the other, in a random order; those before a window are nonsense. */
static int32_t *deal_pages(const struct attn_step *s, int page0[], int *pages)
{
    int n = 0, total = SPARE_PAGES;
    for (int i = 0; i < s->parts; i++) total += (s->part[i].pos0 + s->part[i].rows + ATTN_PAGE - 1) / ATTN_PAGE;
    int32_t *page = simt_buffer("pages", sizeof *page * (size_t)total), *deck = malloc(sizeof *deck * (size_t)total);
    if (!deck) abort();
    for (int i = 0; i < total; i++) {
        int j = (int)(mix((uint64_t)i * 977 + (uint64_t)total) % (uint64_t)(i + 1));
        deck[i] = deck[j], deck[j] = i;
    }
    for (int i = 0; i < s->parts; i++) {
        const struct attn_part *p = &s->part[i];
        page0[i] = n;
        for (int j = 0; j * ATTN_PAGE < p->pos0 + p->rows; j++, n++)
            page[n] = (j + 1) * ATTN_PAGE > first_seen(s->shape, p->pos0) ? deck[n] : -1000000;
    }
    *pages = total;
    free(deck);
    return page;
}

static void put_sequence(const struct attn_step *s, const struct cuda_kv *kv, const struct attn_part *p,
                         const int32_t *page)
{
    for (int pos = first_seen(s->shape, p->pos0); pos < p->pos0 + p->rows; pos++)
        put_position(s->shape, kv, page[pos / ATTN_PAGE], p->id, pos);
}

static void put_queries(const struct attn_shape *h, const struct attn_part *p, uint16_t *qkv, int ld)
{
    for (int i = 0; i < p->rows; i++)
        for (int j = 0; j < h->heads * h->head_dim; j++)
            qkv[(size_t)i * (size_t)ld + (size_t)j] = q_of(p->id, p->pos0 + i, j / h->head_dim, j % h->head_dim);
}

/* NaN and infinities in all that a sequence has. */
static void spoil(const struct attn_step *s, const struct cuda_kv *kv, const int32_t *page, uint16_t *q, int ld)
{
    const struct attn_part *p = &s->part[s->bad];
    const struct attn_shape *h = s->shape;
    for (int i = 0; i < p->rows * ld; i++)
        if (i % ld < h->heads * h->head_dim) q[i] = i % 2 ? 0x7f80 : 0x7fc0;
    for (int pos = first_seen(h, p->pos0); pos < p->pos0 + p->rows; pos++) {
        char *at = kv->base + LAYER * kv->layer_bytes + (size_t)page[pos / ATTN_PAGE] * kv->page_bytes;
        for (int part = 0; part < 2 * h->kv_heads; part++, at += kv->part_bytes) {
            uint16_t *row = (uint16_t *)(at + kv->scale_bytes + pos % ATTN_PAGE * kv->row_bytes);
            if (h->int8) ((float *)at)[pos % ATTN_PAGE] = pos % 2 ? NAN : INFINITY;
            for (int d = 0; d < h->head_dim && !h->int8; d++) row[d] = d % 2 ? 0x7fc0 : 0xff80;
        }
    }
}

/* Metadata, pages and queries of the step. */
static void put_step(const struct attn_step *s, struct op_attn *op, const int first[])
{
    const struct attn_shape *h = s->shape;
    int page0[PROBLEM_PARTS], pages;
    int32_t *page = deal_pages(s, page0, &pages), *count = simt_buffer("count", sizeof *count * COUNTS);
    struct cuda_seq *seq = simt_buffer("seq", (size_t)op->seqs * sizeof *seq);
    uint16_t *qkv = simt_buffer("qkv", (size_t)(op->rows * op->ld) * sizeof *qkv);
    op->kv = kv_of_shape(h, pages);
    for (int i = 0; i < s->parts; i++) {
        const struct attn_part *p = &s->part[i];
        seq[i] = (struct cuda_seq){first[i], p->rows, p->pos0, page0[i]};
        put_sequence(s, &op->kv, p, page + page0[i]);
        put_queries(h, p, qkv + (size_t)(first[i] * op->ld), op->ld);
        count[COUNT_ROWS] = first[i] + p->rows;
    }
    if (s->bad) spoil(s, &op->kv, page + page0[s->bad], qkv + (size_t)(first[s->bad] * op->ld), op->ld);
    count[COUNT_SEQS] = s->parts;
    simt_seal(page), simt_seal(count), simt_seal(seq), simt_seal(qkv), simt_seal(op->kv.base);
    op->meta.count = count, op->meta.seq = seq, op->meta.page = page, op->qkv = qkv;
}

uint16_t *attn_run(const struct attn_step *s, int first[PROBLEM_PARTS])
{
    const struct attn_shape *h = s->shape;
    int rows = 0, context = 0, width = h->heads * h->head_dim;
    struct op_attn op = {.heads = h->heads, .layer = LAYER, .window = h->window, .softcap = h->softcap};
    for (int i = 0; i < s->parts; i++) {
        const struct attn_part *p = &s->part[i];
        first[i] = rows, rows += p->rows;
        op.prompts |= p->rows > 1;
        if (p->pos0 + p->rows > context) context = p->pos0 + p->rows;
    }
    op.rows = s->rows ? s->rows : rows, op.seqs = s->seqs ? s->seqs : s->parts;
    op.ld = width + 2 * h->kv_heads * h->head_dim;
    op.scale = (float)(1 / sqrt(h->head_dim));
    put_step(s, &op, first);
    op.scratch = simt_buffer("scratch", attn_scratch(op.rows, op.seqs, h->heads, h->head_dim, context));
    op.out = simt_buffer("out", (size_t)(op.rows * width) * sizeof *op.out);
    SIMT_CHECK(launch_attn(&op, NULL) == 0, "%s: refused", h->name);
    simt_untouched("padding rows", op.out + rows * width, (size_t)((op.rows - rows) * width) * sizeof *op.out);
    return op.out;
}

/* --- what it should be --- */

/* K and V of a part's kv head, [positions][head_dim] as float64. */
struct past {
    double *k, *v;
};

static void past_init(struct past *past, const struct attn_shape *h, const struct attn_part *p, int kv_head)
{
    size_t hd = (size_t)h->head_dim, n = (size_t)(p->pos0 + p->rows) * hd;
    past->k = malloc(n * sizeof(double)), past->v = malloc(n * sizeof(double));
    SIMT_CHECK(past->k && past->v, "no memory");
    for (size_t i = (size_t)first_seen(h, p->pos0) * hd; i < n; i++) {
        past->k[i] = kv_value(h, WHAT_K, p->id, (int)(i / hd), kv_head, (int)(i % hd));
        past->v[i] = kv_value(h, WHAT_V, p->id, (int)(i / hd), kv_head, (int)(i % hd));
    }
}

static void past_close(struct past *past)
{
    free(past->k), free(past->v);
}

/* Weights of the positions that `pos` sees. */
static void weigh(const struct attn_shape *h, const struct past *past, int pos, const double *q, double *weight)
{
    double most = -INFINITY, sum = 0;
    for (int i = first_seen(h, pos); i <= pos; i++) {
        double s = 0;
        for (int d = 0; d < h->head_dim; d++) s += q[d] * past->k[i * h->head_dim + d];
        s /= sqrt(h->head_dim);
        weight[i] = h->softcap > 0 ? h->softcap * tanh(s / h->softcap) : s;
        most = fmax(most, weight[i]);
    }
    for (int i = first_seen(h, pos); i <= pos; i++) sum += weight[i] = exp(weight[i] - most);
    for (int i = first_seen(h, pos); i <= pos; i++) weight[i] /= sum;
}

/* One head of a row against what it should be; rounding of weights and outputs may take it 1/256 of their sizes away.
 * */
static void compare_row(const struct attn_shape *h, const struct attn_part *p, const struct past *past, int pos,
                        int head, const uint16_t *got)
{
    double q[ATTN_HEAD_DIM_MOST], want[ATTN_HEAD_DIM_MOST] = {0}, size[ATTN_HEAD_DIM_MOST] = {0};
    double *weight = malloc((size_t)(pos + 1) * sizeof *weight);
    SIMT_CHECK(weight, "no memory");
    for (int d = 0; d < h->head_dim; d++) q[d] = f32_of_bf16(q_of(p->id, pos, head, d));
    weigh(h, past, pos, q, weight);
    for (int i = first_seen(h, pos); i <= pos; i++)
        for (int d = 0; d < h->head_dim; d++) {
            double w = weight[i] * past->v[i * h->head_dim + d];
            want[d] += w, size[d] += fabs(w);
        }
    for (int d = 0; d < h->head_dim; d++) {
        double is = f32_of_bf16(got[d]), slack = (size[d] + fabs(want[d])) / 256 + 1e-6;
        SIMT_CHECK(fabs(is - want[d]) <= slack, "%s: sequence %d position %d head %d [%d]: %g, not %g within %g",
                   h->name, p->id, pos, head, d, is, want[d], slack);
    }
    free(weight);
}

void attn_compare(const struct attn_step *s, const uint16_t *out, const int first[PROBLEM_PARTS])
{
    const struct attn_shape *h = s->shape;
    int group = h->heads / h->kv_heads;
    for (int i = 0; i < s->parts; i++)
        for (int kv_head = 0; kv_head < h->kv_heads; kv_head++) {
            const struct attn_part *p = &s->part[i];
            struct past past;
            past_init(&past, h, p, kv_head);
            for (int j = 0; j < p->rows * group; j++) {
                int row = j / group, head = kv_head * group + j % group;
                const uint16_t *got = out + (size_t)((first[i] + row) * h->heads + head) * (size_t)h->head_dim;
                compare_row(h, p, &past, p->pos0 + row, head, got);
            }
            past_close(&past);
        }
}
