/* The LoRA kernels at the four sites of the 8B shape: clusters and planes beside the byte floor; beside a product whose
 * result they add to; K-augmentation for prompts.
 *
 * 32 rows, dealt in equal runs to D adapters. Each launch of a lane reads another set of D adapters, as many as exceed the
 * cache; x and y stay where they are, as behind the product that wrote them. Floor: A, B and x read, y read and written, at
 * the rate of a copy. */
#include "kernels/cuda/lora_layout.h"
#include "tests/gpu/lanes.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 32
#define SETS_MOST 512
#define LAUNCHES 48 /* of a lane, at least */
#define WEIGHTS 0.02f
#define HOT_MOST 4

struct site {
    const char *name;
    int k, nslice, n[LORA_SLICES];
    int f32;
};
static const struct site SITES[] = {{"qkv", 4096, 3, {4096, 1024, 1024}, 0},
                                    {"o", 4096, 1, {4096}, 1},
                                    {"gate+up", 4096, 2, {14336, 14336}, 0},
                                    {"down", 14336, 1, {4096}, 1}};
static const struct site TINY_SITES[] = {{"qkv", 64, 3, {64, 32, 32}, 0}, {"o", 64, 1, {64}, 1}};
static const int DISTINCT[] = {1, 8, 32}, RANKS[] = {8, 16, 64, 256};

struct problem {
    const struct site *site;
    int rows, d, r, sets;
    size_t bytes;      /* of one adapter's modules */
    char *pool;        /* their values */
    struct op_lora op; /* of set 0 */
    size_t tile_step;  /* tiles between sets */
};

static int run_planes(const void *op, void *stream)
{
    return launch_lora_planes(op, stream);
}

static int run_cluster(const void *op, void *stream)
{
    return launch_lora_cluster(op, stream);
}

static int run_dense(const void *op, void *stream)
{
    return rt_dense_run(bench.dense, op, stream);
}

static int run_augment(const void *op, void *stream)
{
    return launch_augment_rows(op, stream);
}

static int run_augment_weights(const void *op, void *stream)
{
    return launch_augment_weights(op, stream);
}

static int sites(const struct site **out)
{
    *out = bench.tiny ? TINY_SITES : SITES;
    return bench.tiny ? 2 : 4;
}

static int outputs(const struct site *s)
{
    return s->n[0] + s->n[1] + s->n[2];
}

static size_t module_bytes(const struct site *s, int r)
{
    size_t sum = 0;
    for (int i = 0; i < s->nslice; i++) sum += lora_layout_bytes(r, s->n[i], s->k, NULL);
    return sum;
}

/* What the largest of all shapes asks for, once. */
static char *pool_of(void)
{
    static char *pool;
    if (pool) return pool;
    const struct site *s;
    size_t most = 0;
    for (int i = 0, n = sites(&s); i < n; i++)
        for (int d = 0; d < 3; d++)
            for (int r = 0; r < 4; r++) {
                size_t set = (size_t)DISTINCT[d] * module_bytes(&s[i], RANKS[r]);
                size_t all = set * (size_t)bench_copies(set, SETS_MOST);
                most = all > most ? all : most;
            }
    return pool = (char *)bench_values(most / 2, WEIGHTS);
}

/* Slot by slot where the modules lie. */
static void make_table(struct problem *p)
{
    size_t slots = (size_t)(p->sets * p->d), n = slots * LORA_SLICES;
    struct cuda_module *table = calloc(n, sizeof *table);
    if (!table) exit(1);
    for (size_t slot = 0; slot < slots; slot++) {
        char *at = p->pool + slot * p->bytes;
        for (int i = 0; i < p->site->nslice; i++) {
            size_t b_at, bytes = lora_layout_bytes(p->r, p->site->n[i], p->site->k, &b_at);
            table[slot * LORA_SLICES + (size_t)i] = (struct cuda_module){at, at + b_at, NULL, p->r, 1};
            at += bytes;
        }
    }
    p->op.table = bench_copied(table, n * sizeof *table);
    free(table);
}

static void make_tiles(struct problem *p)
{
    int each = p->rows / p->d, tile_rows = each > 8 ? TILE_ROWS : 8, per = (each + tile_rows - 1) / tile_rows;
    int tiles = per * p->d;
    struct cuda_tile *tile = calloc((size_t)(p->sets * tiles), sizeof *tile);
    int32_t count[2] = {tiles, tiles};
    if (!tile) exit(1);
    for (int i = 0; i < p->sets * tiles; i++) {
        int a = i % tiles / per, at = i % per * tile_rows;
        tile[i] =
            (struct cuda_tile){.row0 = a * each + at, .rows = each - at < tile_rows ? each - at : tile_rows, .nuse = 1};
        tile[i].use[0] = (struct cuda_use){i / tiles * p->d + a, 1};
    }
    p->op.tile = bench_copied(tile, (size_t)(p->sets * tiles) * sizeof *tile);
    p->op.ntile = bench_copied(count, sizeof count);
    p->op.nall = p->op.ntile + 1;
    p->op.max_tiles = tiles, p->op.tile_rows = tile_rows;
    p->tile_step = (size_t)tiles;
    free(tile);
}

static void problem_make(struct problem *p, const struct site *s, int rows, int d, int r, char *pool)
{
    *p = (struct problem){.site = s, .rows = rows, .d = d, .r = r, .pool = pool, .bytes = module_bytes(s, r)};
    p->sets = bench_copies((size_t)d * p->bytes, SETS_MOST);
    p->op = (struct op_lora){.stride = LORA_SLICES, .nslice = s->nslice, .k = s->k, .ldx = s->k, .f32 = s->f32};
    p->op.ranks = (r + LORA_RANK_STEP - 1) / LORA_RANK_STEP * LORA_RANK_STEP;
    for (int i = 0, y0 = 0; i < s->nslice; y0 += s->n[i++]) p->op.slice[i] = i, p->op.n[i] = s->n[i], p->op.y0[i] = y0;
    p->op.ldy = outputs(s);
    make_table(p);
    make_tiles(p);
    p->op.x = bench_values((size_t)rows * (size_t)s->k, 1);
    p->op.y = bench_zeros((size_t)rows * (size_t)p->op.ldy * 4);
    p->op.scratch = bench_zeros(lora_scratch(rows, p->op.ranks));
    bench_sync();
}

static void problem_close(struct problem *p)
{
    rt_free((void *)p->op.table), rt_free((void *)p->op.tile), rt_free((void *)p->op.ntile);
    rt_free((void *)p->op.x), rt_free(p->op.y), rt_free(p->op.scratch);
}

static int launches(const struct problem *p)
{
    int most = bench.tiny ? 2 : LAUNCHES;
    return p->sets > most ? p->sets : most;
}

static struct op_lora op_of(const struct problem *p, int i)
{
    struct op_lora op = p->op;
    op.tile += (size_t)(i % p->sets) * p->tile_step;
    return op;
}

static void lora_lane(struct lane *l, const struct problem *p, int (*run)(const void *op, void *stream))
{
    lane_begin(l);
    for (int i = 0; i < launches(p); i++) {
        struct op_lora op = op_of(p, i);
        lane_op(run, &op, sizeof op);
    }
    lane_end(l);
}

static double floor_us(const struct problem *p)
{
    double y = (double)p->rows * outputs(p->site) * (p->site->f32 ? 8 : 4);
    return ((double)p->d * (double)p->bytes + 2.0 * p->rows * p->site->k + y) / bench.bandwidth * 1e6;
}

static void bench_case(const struct site *s, int d, int r, FILE *table)
{
    struct problem p;
    struct lane lane[2] = {{.name = "clusters"}, {.name = "planes"}};
    int n = bench.info.clusters ? 2 : 1;
    problem_make(&p, s, ROWS, d, r, pool_of());
    if (n == 2) lora_lane(&lane[0], &p, run_cluster);
    lora_lane(&lane[n - 1], &p, run_planes);
    lanes_time(lane, n);
    double fused = n == 2 ? lane_us(&lane[0]) : 0, planes = lane_us(&lane[n - 1]), least = floor_us(&p);
    printf("| %s | %d | %d | %.2f | %.2f | %.2f | %.2f |\n", s->name, d, r, fused, planes, least,
           (fused > 0 ? fused : planes) / least);
    if (table) fprintf(table, "%s %d %d %.3f %.3f %.3f\n", s->name, d, r, fused, planes, least);
    problem_close(&p);
}

void bench_lora(void)
{
    const struct site *s;
    FILE *table = bench.table ? fopen(bench.table, "w") : NULL;
    printf("\nOne launch a site of the 8B shape, %d rows, D adapters of rank r (0.00: no clusters here):\n\n"
           "| site | D | r | fused us | planes us | floor us | times the floor |\n|---|---|---|---|---|---|---|\n",
           ROWS);
    for (int i = 0, n = sites(&s); i < n; i++)
        for (int d = 0; d < (bench.tiny ? 2 : 3); d++)
            for (int r = 0; r < (bench.tiny ? 2 : 4); r++) bench_case(&s[i], DISTINCT[d], RANKS[r], table);
    if (table) fclose(table);
}

/* --- behind a product --- */

static struct rt_product product_of(const struct problem *p, const uint16_t *w, int ldx, int k)
{
    return (struct rt_product){.m = p->rows,
                               .n = outputs(p->site),
                               .k = k,
                               .in = RT_BF16,
                               .out = p->site->f32 ? RT_F32 : RT_BF16,
                               .x = p->op.x,
                               .w = w,
                               .ldx = ldx,
                               .ldw = k,
                               .y = p->op.y,
                               .ldy = p->op.ldy};
}

enum what { PRODUCT = 1, LORA = 2 };

static void pair_lane(struct lane *l, const struct problem *p, const struct rt_product *product, int n, int what,
                      int pdl)
{
    int before = cuda_target.pdl;
    cuda_target.pdl = pdl;
    lane_begin(l);
    for (int i = 0; i < (bench.tiny ? 2 : LAUNCHES); i++) {
        struct op_lora op = op_of(p, i);
        if (what & PRODUCT) lane_op(run_dense, &product[i % n], sizeof *product);
        if (what & LORA) lane_op(bench.info.clusters ? run_cluster : run_planes, &op, sizeof op);
    }
    lane_end(l);
    if (what == (PRODUCT | LORA)) l->ops /= 2;
    cuda_target.pdl = before;
}

/* The site's weights, as many as exceed the cache; planned. */
static int products(const struct problem *p, struct rt_product *out, int most, int ldx, int k)
{
    int n = bench_copies((size_t)outputs(p->site) * (size_t)k * 2, most);
    for (int i = 0; i < n; i++) {
        out[i] = product_of(p, bench_values((size_t)outputs(p->site) * (size_t)k, WEIGHTS), ldx, k);
        bench_check(rt_dense_plan(bench.dense, &out[i], bench.stream), "a product's plan");
    }
    return n;
}

static void products_drop(const struct rt_product *product, int n)
{
    for (int i = 0; i < n; i++) rt_free((void *)product[i].w);
}

#define PRODUCTS_MOST 16

void bench_overlap(void)
{
    const struct site *s;
    printf("\nA cuBLASLt product of %d rows and the adapters behind it (D 8, r 16), us:\n\n"
           "| site | product | adapters | both | both, dependent launch | hidden |\n|---|---|---|---|---|---|\n",
           ROWS);
    for (int i = 0, n = sites(&s); i < n; i++) {
        struct problem p;
        struct rt_product product[PRODUCTS_MOST];
        struct lane lane[4] = {{.name = "product"}, {.name = "adapters"}, {.name = "both"}, {.name = "dependent"}};
        problem_make(&p, &s[i], ROWS, 8, 16, pool_of());
        int nw = products(&p, product, PRODUCTS_MOST, p.op.ldx, p.op.k);
        pair_lane(&lane[0], &p, product, nw, PRODUCT, 0);
        pair_lane(&lane[1], &p, product, nw, LORA, 0);
        pair_lane(&lane[2], &p, product, nw, PRODUCT | LORA, 0);
        pair_lane(&lane[3], &p, product, nw, PRODUCT | LORA, cuda_target.cc >= 90);
        lanes_time(lane, 4);
        double us[4];
        for (int l = 0; l < 4; l++) us[l] = lane_us(&lane[l]);
        printf("| %s | %.2f | %.2f | %.2f | %.2f | %.2f |\n", s[i].name, us[0], us[1], us[2], us[3], us[2] - us[3]);
        products_drop(product, nw);
        problem_close(&p);
    }
}

/* --- K-augmentation --- */

struct augmented {
    struct op_augment op;
    struct rt_product product[PRODUCTS_MOST];
    int n, columns;
};

static void augment_make(struct augmented *a, const struct problem *p, int hot)
{
    int32_t slots[HOT_MOST] = {0};
    *a = (struct augmented){.columns = augment_columns(p->site->nslice, hot, p->r)};
    int k = p->op.k + a->columns;
    for (int i = 0; i < hot; i++) slots[i] = i;
    a->op = (struct op_augment){.lora = p->op, .nhot = hot, .ranks = p->r, .ldw = k};
    a->op.hot = bench_copied(slots, sizeof slots);
    a->op.lora.x = bench_values((size_t)p->rows * (size_t)k, 1);
    a->op.lora.ldx = k;
    a->n = products(p, a->product, 2, k, k);
    for (int i = 0; i < a->n; i++) a->product[i].x = a->op.lora.x;
    a->op.w = (uint16_t *)a->product[0].w;
}

static void augment_case(const struct site *s, int rows, int hot)
{
    struct problem p;
    struct augmented a;
    struct rt_product plain[2];
    struct lane lane[4] = {{.name = "product"}, {.name = "and adapters"}, {.name = "augmented"}, {.name = "weights"}};
    int repeat = bench.tiny ? 1 : 8, lora = bench.info.clusters;
    problem_make(&p, s, rows, hot, 16, pool_of());
    int n = products(&p, plain, 2, p.op.ldx, p.op.k);
    augment_make(&a, &p, hot);
    for (int l = 0; l < 4; l++) {
        lane_begin(&lane[l]);
        for (int i = 0; i < repeat; i++) {
            if (l == 2) lane_op(run_augment, &a.op, sizeof a.op);
            if (l == 3) lane_op(run_augment_weights, &a.op, sizeof a.op);
            if (l < 3) lane_op(run_dense, l == 2 ? &a.product[i % a.n] : &plain[i % n], sizeof *plain);
            if (l == 1) lane_op(lora ? run_cluster : run_planes, &p.op, sizeof p.op);
        }
        lane_end(&lane[l]);
        lane[l].ops = repeat;
    }
    lanes_time(lane, 4);
    printf("| %s | %d | %d | %.1f | %.1f | %.1f | %.1f |\n", s->name, rows, hot, lane_us(&lane[0]), lane_us(&lane[1]),
           lane_us(&lane[2]), lane_us(&lane[3]));
    products_drop(plain, n), products_drop(a.product, a.n);
    rt_free((void *)a.op.lora.x), rt_free((void *)a.op.hot);
    problem_close(&p);
}

void bench_augment(void)
{
    static const int rows[] = {256, 2048}, hot[] = {1, HOT_MOST};
    const struct site *s;
    printf("\nK-augmentation, rank 16, us (weights: B behind W, when the hot adapters change):\n\n"
           "| site | rows | adapters | product | product, then adapters | augmented | weights |\n"
           "|---|---|---|---|---|---|---|\n");
    for (int i = 0, n = sites(&s); i < n; i++)
        for (int r = 0; r < 2; r++)
            for (int h = 0; h < 2; h++) augment_case(&s[i], bench.tiny ? 16 : rows[r], hot[h]);
}
