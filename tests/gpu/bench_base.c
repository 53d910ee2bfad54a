/* The base's kernels at the 8B shape beside a copy of the same bytes: what a kernel that only moves them would take. Arrays
 * are read in turn, so that they come from memory; attention's sequences have 1,024 positions. */
#include "kernels/cuda/weight.h"
#include "tests/gpu/lanes.h"
#include "tests/gpu/probe.h"
#include <stdio.h>
#include <stdlib.h>

#define TURNS 16 /* arrays that are read in turn, at most */
#define LAUNCHES 32
#define PRODUCTS_MOST 32
#define PAGE 16

struct shape {
    int hidden, heads, kv_heads, head_dim, mlp, context, seqs;
};
static const struct shape LLAMA = {4096, 32, 8, 128, 14336, 1024, 512};
static const struct shape TINY = {64, 4, 2, 16, 96, 32, 8};
static struct shape at;

static int turns(size_t bytes)
{
    return bench_copies(bytes, TURNS);
}

static int launches(int n)
{
    return bench.tiny ? 2 : n > LAUNCHES ? n : LAUNCHES;
}

static int run_copy(const void *op, void *stream)
{
    return launch_copy(op, stream);
}

/* A copy of so many bytes, read and written together. */
static void copy_lane(struct lane *l, double bytes)
{
    static char *room;
    static size_t has;
    size_t half = ((size_t)bytes / 2 + 15) / 16 * 16;
    int n = turns(2 * half);
    if ((size_t)n * 2 * half > has) {
        rt_free(room);
        has = (size_t)n * 2 * half;
        room = (char *)bench_values(has / 2, 1);
    }
    lane_begin(l);
    for (int i = 0; i < launches(n); i++) {
        char *from = room + (size_t)(i % n) * 2 * half;
        const struct op_copy op = {bench.info.sms * 8, half, from, from + half};
        lane_op(run_copy, &op, sizeof op);
    }
    lane_end(l);
}

static void compare(const char *name, int rows, struct lane *l, double bytes)
{
    struct lane both[2] = {*l, {.name = "copy"}};
    copy_lane(&both[1], bytes);
    lanes_time(both, 2);
    double us = lane_us(&both[0]), copy = lane_us(&both[1]);
    printf("| %s | %d | %.3f | %.2f | %.2f | %.0f %% |\n", name, rows, bytes * 1e-6, us, copy, 100 * copy / us);
}

/* --- rows --- */

static int run_rmsnorm(const void *op, void *stream)
{
    return launch_rmsnorm(op, stream);
}

static int run_glu(const void *op, void *stream)
{
    return launch_glu(op, stream);
}

static void norm_case(int rows)
{
    size_t n = (size_t)rows * (size_t)at.hidden;
    int sets = turns(n * 6);
    struct lane l = {.name = "rmsnorm"};
    float *x = (float *)bench_values((size_t)sets * n * 2, 1), *w = (float *)bench_values((size_t)at.hidden * 2, 1);
    uint16_t *out = bench_zeros((size_t)sets * n * 2);
    lane_begin(&l);
    for (int i = 0; i < launches(sets); i++) {
        size_t set = (size_t)(i % sets) * n;
        const struct op_rmsnorm op = {rows, at.hidden, x + set, NULL, w, 1e-5f, out + set, 0};
        lane_op(run_rmsnorm, &op, sizeof op);
    }
    lane_end(&l);
    compare("rmsnorm", rows, &l, (double)n * 6);
    rt_free(x), rt_free(w), rt_free(out);
}

static void glu_case(int rows)
{
    size_t n = (size_t)rows * (size_t)at.mlp;
    int sets = turns(n * 6);
    struct lane l = {.name = "glu"};
    uint16_t *gu = bench_values((size_t)sets * n * 2, 1), *out = bench_zeros((size_t)sets * n * 2);
    lane_begin(&l);
    for (int i = 0; i < launches(sets); i++) {
        size_t set = (size_t)(i % sets) * n;
        const struct op_glu op = {.rows = rows, .n = at.mlp, .gu = gu + 2 * set, .out = out + set};
        lane_op(run_glu, &op, sizeof op);
    }
    lane_end(&l);
    compare("glu", rows, &l, (double)n * 6);
    rt_free(gu), rt_free(out);
}

/* --- attention, and what writes its pages --- */

struct pages {
    struct cuda_kv kv;
    struct cuda_meta meta[TURNS]; /* sequences i rows .. of all */
    int rows, sets;
    int32_t *page, *count, *pos, *seq_of;
    struct cuda_seq *seq;
    uint16_t *qkv, *out;
    void *scratch;
    int ld;
};

static char *kv_values;

static void pages_make(struct pages *p, int rows)
{
    int each = at.context / PAGE, sets = at.seqs / rows < TURNS ? at.seqs / rows : TURNS;
    *p = (struct pages){.rows = rows, .sets = sets};
    p->kv = (struct cuda_kv){.kv_heads = at.kv_heads, .head_dim = at.head_dim, .row_bytes = at.head_dim * 2};
    p->kv.part_bytes = PAGE * p->kv.row_bytes;
    p->kv.page_bytes = (size_t)(2 * at.kv_heads * p->kv.part_bytes);
    p->kv.layer_bytes = p->kv.page_bytes * (size_t)(at.seqs * each);
    if (!kv_values) kv_values = (char *)bench_values(p->kv.layer_bytes / 2, 1);
    p->kv.base = kv_values;
    int32_t *page = calloc((size_t)(at.seqs * each), 4), *pos = calloc((size_t)rows, 4), *of = calloc((size_t)rows, 4);
    struct cuda_seq *seq = calloc((size_t)at.seqs, sizeof *seq);
    int32_t count[COUNTS] = {[COUNT_ROWS] = rows, [COUNT_SEQS] = rows};
    if (!page || !pos || !of || !seq) exit(1);
    for (int i = 0; i < at.seqs * each; i++) page[i] = (int32_t)((long)i * 7919 % (at.seqs * each));
    for (int i = 0; i < at.seqs; i++) seq[i] = (struct cuda_seq){i % rows, 1, at.context - 1, i * each};
    for (int i = 0; i < rows; i++) pos[i] = at.context - 1, of[i] = i;
    p->page = bench_copied(page, (size_t)(at.seqs * each) * 4), p->count = bench_copied(count, sizeof count);
    p->seq = bench_copied(seq, (size_t)at.seqs * sizeof *seq), p->pos = bench_copied(pos, (size_t)rows * 4);
    p->seq_of = bench_copied(of, (size_t)rows * 4);
    for (int i = 0; i < sets; i++)
        p->meta[i] = (struct cuda_meta){.count = p->count,
                                        .pos = p->pos,
                                        .seq_of = p->seq_of,
                                        .seq = p->seq + i * rows,
                                        .page = p->page,
                                        .max_rows = rows,
                                        .max_seqs = rows};
    p->ld = (at.heads + 2 * at.kv_heads) * at.head_dim;
    p->qkv = bench_values((size_t)rows * (size_t)p->ld, 1);
    p->out = bench_zeros((size_t)(rows * at.heads * at.head_dim) * 2);
    p->scratch = bench_zeros(attn_scratch(rows, rows, at.heads, at.head_dim, at.context));
    free(page), free(pos), free(of), free(seq);
}

static void pages_close(struct pages *p)
{
    rt_free(p->page), rt_free(p->count), rt_free(p->seq), rt_free(p->pos), rt_free(p->seq_of);
    rt_free(p->qkv), rt_free(p->out), rt_free(p->scratch);
}

static int run_attn(const void *op, void *stream)
{
    return launch_attn(op, stream);
}

static int run_rope(const void *op, void *stream)
{
    return launch_rope(op, stream);
}

static void attention_case(int rows)
{
    struct pages p;
    struct lane l = {.name = "attention"}, r = {.name = "rope"};
    pages_make(&p, rows);
    float *rope = (float *)bench_values((size_t)(at.context * at.head_dim) * 2, 1);
    lane_begin(&l);
    for (int i = 0; i < launches(p.sets); i++) {
        struct op_attn op = {.meta = p.meta[i % p.sets], .kv = p.kv, .rows = rows, .seqs = rows, .heads = at.heads};
        op.ld = p.ld, op.scale = 0.0883883f, op.qkv = p.qkv, op.out = p.out, op.scratch = p.scratch;
        lane_op(run_attn, &op, sizeof op);
    }
    lane_end(&l);
    compare("attention, context 1024", rows, &l, (double)rows * at.context * at.kv_heads * at.head_dim * 4);
    lane_begin(&r);
    for (int i = 0; i < launches(p.sets); i++) {
        struct op_rope op = {.meta = p.meta[i % p.sets], .kv = p.kv, .rows = rows, .heads = at.heads, .ld = p.ld};
        op.rotary = at.head_dim, op.rope = rope, op.qkv = p.qkv;
        lane_op(run_rope, &op, sizeof op);
    }
    lane_end(&r);
    compare("rope and KV write", rows, &r, (double)rows * (2 * at.heads + 4 * at.kv_heads) * at.head_dim * 2);
    rt_free(rope);
    pages_close(&p);
}

/* --- products --- */

static int run_product(const void *op, void *stream)
{
    return launch_product(op, stream);
}

static void product_case(const char *name, int rows, int n, int k, int f32)
{
    size_t bytes = (size_t)n * (size_t)k * 2;
    int nw = bench_copies(bytes, PRODUCTS_MOST);
    struct cuda_weight w[PRODUCTS_MOST];
    struct op_product op[PRODUCTS_MOST];
    struct lane l = {.name = name};
    uint16_t *x = bench_values((size_t)rows * (size_t)k, 1), *values = bench_values((size_t)nw * bytes / 2, 0.02f);
    void *y = bench_zeros((size_t)rows * (size_t)n * 4);
    for (int i = 0; i < nw; i++) {
        w[i] = (struct cuda_weight){.kind = KIND_BF16, .n = n, .k = k, .ld = k, .data = values + (size_t)i * bytes / 2};
        op[i] = (struct op_product){.rows = rows, .w = &w[i], .x = x, .ldx = k, .y = y, .ldy = n, .f32 = f32};
        op[i].dense = bench.dense;
    }
    bench_check(product_measure(op, nw, bench.stream), "products");
    lane_begin(&l);
    for (int i = 0; i < launches(nw); i++) lane_op(run_product, &op[i % nw], sizeof *op);
    lane_end(&l);
    compare(name, rows, &l, (double)bytes + (double)rows * (2.0 * k + (f32 ? 4.0 : 2.0) * n));
    rt_free(x), rt_free(values), rt_free(y);
}

void bench_base(void)
{
    static const int rows[] = {1, 8, 16, 32, 128};
    at = bench.tiny ? TINY : LLAMA;
    int qkv = (at.heads + 2 * at.kv_heads) * at.head_dim, q = at.heads * at.head_dim;
    printf("\nThe base's kernels at the 8B shape; copy: of the same bytes:\n\n"
           "| kernel | rows | MB | us | copy us | of copy's rate |\n|---|---|---|---|---|---|\n");
    for (int i = 0; i < (bench.tiny ? 2 : 5); i++) {
        product_case("product q,k,v", rows[i], qkv, at.hidden, 0);
        product_case("product o", rows[i], at.hidden, q, 1);
        product_case("product gate,up", rows[i], 2 * at.mlp, at.hidden, 0);
        product_case("product down", rows[i], at.hidden, at.mlp, 1);
        norm_case(rows[i]);
        glu_case(rows[i]);
        attention_case(rows[i]);
    }
}
