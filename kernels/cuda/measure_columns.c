/* measure_columns: are adapters as columns of prompts' products faster than kernels of their own?
 *
 * Idea: both ways of a site are run as a step would, with the operation that follows, for that is where the adapters' own
 * kernel is folded in (gate and up: the gate; o and down: the norm; q, k and v: nothing, for both ways have the same to do
 * behind it). The adapters are zeros that lie in the pool, of small rank and of the greatest that columns take; the rows are
 * one adapter's, and shared by all slots. A shape takes columns in a bucket where the sum of those is less.
 *
 * What is compared is tables and tiles written here, over what the workspace holds. Start only, before any adapter is
 * there: the tables' memory is free. */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/lora_layout.h"
#include "kernels/cuda/timed.h"
#include <string.h>

#define ROUNDS 3
#define RUNS 4 /* of each, timed together */
#define SMALL_RANK 16

/* A step that is only its adapters. */
struct scene {
    struct device *d;
    struct op_product product;
    struct op_lora lora;
    struct op_augment columns;
    struct op_glu glu;
    struct op_rmsnorm norm;
    void *stream;
};

/* --- the two ways --- */

static int run_next(const struct scene *s)
{
    if (s->lora.nslice == 2) return launch_glu(&s->glu, s->stream);
    return s->lora.nslice == 1 ? launch_rmsnorm(&s->norm, s->stream) : 0;
}

static int run_apart(const struct scene *s)
{
    int rc = launch_product(&s->product, s->stream);
    if (rc) return rc;
    rc = s->lora.nslice == 2   ? launch_lora_glu(&s->lora, &s->glu, s->stream)
         : s->lora.nslice == 1 ? launch_lora_norm(&s->lora, &s->norm, s->stream)
                               : RT_NOT_HERE;
    if (rc != RT_NOT_HERE) return rc;
    rc = launch_lora(&s->lora, s->stream);
    return rc ? rc : run_next(s);
}

static int run_columns(const struct scene *s)
{
    int rc = launch_product_augmented(&s->product, &s->columns, s->stream);
    return rc ? rc : run_next(s);
}

/* A scene runs one of them. */
struct way {
    const struct scene *s;
    int (*run)(const struct scene *s);
};

static int run_way(const void *op, void *stream)
{
    const struct way *w = op;
    (void)stream;
    return w->run(w->s);
}

static int time_of(const struct scene *s, int (*run)(const struct scene *s), double *us)
{
    const struct way w = {s, run};
    double seconds;
    int rc = timed_run(&(struct timed){run_way, &w, sizeof w, RUNS}, ROUNDS, s->stream, &seconds);
    *us = seconds * 1e6;
    return rc;
}

/* --- the adapters --- */

/* Modules of zeros for every slot, [slots][slices]; RT_NOT_HERE: the pool is too small to tell. */
static int put_modules(struct scene *s, int ranks)
{
    struct cuda_module module[META_HOT * LORA_SLICES];
    const struct op_lora *l = &s->lora;
    char *pool = arena_address(s->d, 0, AREA_POOL);
    size_t room = s->d->arena.bytes[AREA_POOL], at = 0, used = 0, b_at;
    int slots = s->d->augment.slots;
    for (int i = 0; i < slots * l->nslice; i++) {
        size_t bytes = (lora_layout_bytes(ranks, l->n[i % l->nslice], l->k, &b_at) + ALIGN - 1) / ALIGN * ALIGN;
        if (at + bytes > room) at = 0; /* slots share what there is */
        if (bytes > room) return RT_NOT_HERE;
        module[i] = (struct cuda_module){.a = pool + at, .b = pool + at + b_at, .r = ranks, .scale = 1};
        at += bytes;
        if (at > used) used = at;
    }
    int rc = rt_fill(pool, 0, used, s->stream);
    size_t bytes = (size_t)(slots * l->nslice) * sizeof *module;
    if (!rc) rc = rt_copy_in((void *)l->table, module, bytes, s->stream);
    return rc ? rc : rt_stream_sync(s->stream);
}

/* --- the rows --- */

static int write_tiles(const struct scene *s, const struct cuda_bucket *b, struct cuda_tile *tile, int segments)
{
    int n = 0, each = (b->rows + segments - 1) / segments, tile_rows = s->lora.tile_rows;
    for (int row = 0, rows; row < b->rows; row += rows) {
        int end = (row / each + 1) * each;
        rows = (end < b->rows ? end : b->rows) - row;
        if (rows > tile_rows) rows = tile_rows;
        tile[n++] = (struct cuda_tile){.row0 = row, .rows = rows, .nuse = 1, .use = {{row / each, 1}}};
    }
    return n;
}

/* The bucket's metadata with rows shared by so many slots. */
static int put_meta(struct scene *s, const struct cuda_bucket *b, int segments)
{
    size_t bytes = s->d->arena.bytes[AREA_META];
    char *device = arena_address(s->d, 0, AREA_META), *host;
    int rc = rt_host_alloc((void **)&host, bytes);
    if (rc) return rc;
    struct cuda_meta there = meta_layout(b, device), here = meta_layout(b, host);
    int32_t *count = (int32_t *)here.count, *hot = (int32_t *)here.hot;
    int n = write_tiles(s, b, (struct cuda_tile *)here.tile, segments);
    count[COUNT_ROWS] = b->rows;
    count[COUNT_TILES] = count[COUNT_ALL_TILES] = n;
    for (int i = 0; i < META_HOT; i++) hot[i] = i < segments ? i : -1;
    s->lora.tile = there.tile;
    s->lora.ntile = there.count + COUNT_TILES;
    s->lora.nall = there.count + COUNT_ALL_TILES;
    s->lora.max_tiles = n;
    s->columns.lora = s->lora;
    s->columns.hot = there.hot;
    s->columns.cold = there.count + COUNT_COLD_TILES;
    rc = rt_copy_in(device, host, (size_t)((const char *)here.page - host), s->stream);
    if (!rc) rc = rt_stream_sync(s->stream);
    rt_host_free(host);
    return rc;
}

/* --- the site --- */

static struct scene scene_of(struct device *d, const struct op_product *op, int slices)
{
    const struct cuda_dims *m = &d->dim;
    const struct cuda_weight *w = op->w;
    struct scene s = {.d = d, .product = *op, .stream = d->rank[0].stream};
    const int n[LORA_SLICES + 1][LORA_SLICES] = {{0}, {w->n}, {m->mlp, m->mlp}, {m->q, m->kv, m->kv}};
    s.lora = (struct op_lora){.ranks = d->augment.ranks,
                              .table = arena_address(d, 0, AREA_TABLE_MOD),
                              .stride = slices,
                              .nslice = slices,
                              .slice = {0, 1, 2},
                              .y0 = {0, n[slices][0], n[slices][0] + n[slices][1]},
                              .k = w->k,
                              .x = op->x,
                              .ldx = op->ldx,
                              .y = op->y,
                              .ldy = op->ldy,
                              .f32 = op->f32,
                              .scratch = arena_address(d, 0, AREA_LORA)};
    memcpy(s.lora.n, n[slices], sizeof s.lora.n);
    s.columns = (struct op_augment){.nhot = d->augment.slots, .ranks = d->augment.ranks, .ldw = w->k + w->columns};
    s.glu = (struct op_glu){.rows = op->rows,
                            .n = m->mlp,
                            .act = ACT_SILU_MUL,
                            .gu = op->y,
                            .out = arena_address(d, 0, AREA_A),
                            .gap = d->augment.behind_a};
    s.norm = (struct op_rmsnorm){.rows = op->rows,
                                 .k = w->n,
                                 .x = op->y,
                                 .weight = arena_address(d, 0, AREA_X),
                                 .eps = 1e-5f,
                                 .out = arena_address(d, 0, AREA_H),
                                 .gap = d->augment.behind_h};
    return s;
}

/* Over ranks and shares of the rows. */
static int time_both(struct device *d, const struct op_product *op, int slices, double *apart, double *columns)
{
    struct scene s = scene_of(d, op, slices);
    int most = d->augment.ranks, small = most < SMALL_RANK ? most : SMALL_RANK, slots = d->augment.slots;
    const struct cuda_bucket b = {.rows = op->rows, .seqs = 1, .ranks = most, .prompts = true, .lora = LORA_COLUMNS};
    *apart = *columns = 0;
    s.lora.tile_rows = meta_tile_rows(&b);
    for (int i = 0; i < 4; i++) {
        double us[2];
        int rc = put_modules(&s, i % 2 ? most : small);
        if (!rc) rc = put_meta(&s, &b, i / 2 ? slots : 1);
        if (!rc) rc = time_of(&s, run_apart, &us[0]);
        if (!rc) rc = time_of(&s, run_columns, &us[1]);
        if (rc) return rc;
        *apart += us[0];
        *columns += us[1];
    }
    return 0;
}

int columns_settle(struct device *d, const struct op_product *op, int slices, struct device_measured *out)
{
    double apart = 0, columns = 0;
    bool same, taken;
    int rc = augment_try(d, op, &same);
    if (rc || !same) return rc;
    if (d->rank[0].info.timed) rc = time_both(d, op, slices, &apart, &columns);
    if (rc) return rc == RT_NOT_HERE ? 0 : rc;
    taken = d->shape.augment == AUGMENT_ON || columns < apart;
    out->augment_tried++;
    out->augment_taken += taken;
    out->augment_without_us += apart;
    out->augment_with_us += columns;
    product_augment(op, taken);
    return 0;
}
