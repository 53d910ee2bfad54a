/* augment: which products of prompts take adapters as columns behind k (K-augmentation; lora_augment.cu makes them).
 *
 *     plan     columns for every slot behind the rows of W and of the arrays that products read; before memory is taken
 *     put      B of an adapter behind the W of bf16, when it is loaded; codes get theirs as they are expanded
 *     settle   per shape and bucket of rows: are the bits the same, and is it faster? At start, the answer is logged
 *
 * What a row's bits depend on. A bucket with prompts takes columns for a product or it does not: settled at start, for the
 * shape and the bucket's rows. Every slot has columns, so nobody's adapter has them because others are not there. A row
 * goes by columns if it has one adapter, without DoRA's factors, of a rank up to augment.ranks; else launch_lora() adds
 * what its adapters say: the row's own affair. Rows without an adapter have zeros there. So the product of a row is a sum
 * over k and its own adapter's columns among zeros, and three things must not show: how many zeros there are, where the
 * adapter's columns are, and whether there are columns at all (a bucket without adapters has none). They don't where
 * the product runs by one algorithm that adds up k in steps of 64 from the front; they may where it splits k. Nobody tells
 * which one a library's algorithm does, so it is tried: the same rows with the same columns in every slot's place, and
 * without, must be equal by bits, or the shape does without columns.
 *
 * Refused by rule: groups of devices (a part of k each, products of other algorithms), models with experts, more than
 * META_HOT slots, products by own kernels (they cut k among warps) or of e4m3 rows.
 *
 * Bytes: `columns` values for each output of a bf16 W, and each row of what it reads: no more than 1/SHARE of k, but for
 * rank 16 where it is asked for. */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/fill.h"
#include "kernels/cuda/gemm.h"
#include <stdlib.h>
#include <string.h>

#define SHARE 8
#define RANK_STEP 16
#define RANKS_MOST 64
#define APART 32               /* columns; a width is 64 at least */
#define LOOK ((size_t)2 << 20) /* bytes of y that are compared: the first rows and the last */

/* --- plan --- */

static int pad(int rank)
{
    return (rank + RANK_STEP - 1) / RANK_STEP * RANK_STEP;
}

static bool fits(const struct device *d, int ranks)
{
    const struct cuda_dims *m = &d->dim;
    int slots = d->shape.slots, inner = m->q < m->mlp ? m->q : m->mlp;
    return augment_columns(3, slots, ranks) <= m->hidden / SHARE && augment_columns(1, slots, ranks) <= inner / SHARE;
}

static bool is_possible(const struct device *d)
{
    const struct device_shape *s = &d->shape;
    if (s->augment == AUGMENT_AUTO && !d->rank[0].info.timed) return false;
    return s->augment != AUGMENT_OFF && d->ranks == 1 && !s->experts && s->slots >= 1 && s->slots <= META_HOT;
}

void augment_plan(struct device *d)
{
    struct cuda_augment *a = &d->augment;
    int most = pad(d->shape.max_rank);
    *a = (struct cuda_augment){.slots = d->shape.slots};
    if (!is_possible(d)) return;
    if (most > RANKS_MOST) most = RANKS_MOST;
    while (most > 0 && !fits(d, most)) most -= RANK_STEP;
    if (!most && d->shape.augment == AUGMENT_ON) most = RANK_STEP;
    a->ranks = most;
    if (!most) return;
    for (int n = 1; n <= LORA_SLICES; n++) a->columns[n] = augment_columns(n, a->slots, most);
    a->behind_a = a->columns[1];
    a->behind_h = a->columns[LORA_SLICES];
}

int augment_columns_of(const struct device *d, const struct device_const *c, int parts)
{
    bool whole = parts > 1 || c->site == 0; /* one product has all of the site */
    bool site = c->role == ROLE_Q || c->role == ROLE_O || c->role == ROLE_GATE || c->role == ROLE_DOWN;
    if (!site || !whole || parts > LORA_SLICES) return 0;
    return d->augment.columns[parts];
}

int augment_gap(const struct device *d, enum cuda_area area)
{
    return area == AREA_H ? d->augment.behind_h : area == AREA_A ? d->augment.behind_a : 0;
}

/* --- an adapter comes --- */

/* A site of a layer: its modules stand side by side. */
struct augmented {
    const struct cuda_weight *w;
    int layer, module, slices;
};

int augment_slices(const struct device *d, const struct device_const *c)
{
    const struct device_const *end = d->place.list + d->place.n;
    int n = 1;
    while (c->site > 0 && c + n < end && c[n].site == c->site) n++;
    return n;
}

int augment_start(struct device *d)
{
    struct cuda_augment *a = &d->augment;
    const struct device_const *c;
    int sites = 0;
    if (!a->ranks) return 0;
    a->site = calloc((size_t)d->place.n, sizeof *a->site);
    if (!a->site) return 2;
    for (int i = 0;; i++) {
        const struct cuda_weight *w = place_nth(d, i, &c);
        if (!c) break;
        if (w && w->columns) a->site[sites++] = (struct augmented){w, c->layer, c->module, augment_slices(d, c)};
    }
    a->sites = sites;
    return 0;
}

void augment_close(struct device *d)
{
    free(d->augment.site);
    d->augment = (struct cuda_augment){.ranks = 0};
}

static struct op_augment columns_of(const struct device *d, const struct augmented *at)
{
    const struct device_shape *s = &d->shape;
    const struct cuda_module *mod = arena_address(d, 0, AREA_TABLE_MOD);
    struct op_augment op = {.nhot = d->augment.slots, .ranks = d->augment.ranks};
    op.lora = (struct op_lora){.table = mod + (size_t)at->layer * (size_t)s->modules,
                               .stride = s->layers * s->modules,
                               .nslice = at->slices,
                               .k = at->w->k,
                               .ldx = at->w->k + at->w->columns};
    for (int i = 0; i < at->slices; i++) {
        op.lora.slice[i] = at->module + i;
        op.lora.n[i] = s->module[at->module + i].n;
    }
    op.w = (uint16_t *)at->w->data;
    op.ldw = op.lora.ldx;
    return op;
}

int augment_put(struct device *d, int slot)
{
    int rc = 0;
    for (int i = 0; !rc && i < d->augment.sites; i++) {
        struct op_augment op = columns_of(d, &d->augment.site[i]);
        op.only = slot + 1;
        if (d->augment.site[i].w->kind == KIND_BF16) rc = launch_augment_weights(&op, d->rank[0].side);
    }
    return rc || !d->augment.sites ? rc : rt_stream_sync(d->rank[0].side);
}

/* --- are the bits the same? --- */

/* What is tried: a product, and where its columns are. */
struct trial {
    struct device *d;
    struct op_product op;
    uint16_t *of_x, *of_w, *zero; /* device, rows of columns */
    int width;                    /* of an adapter's columns */
    void *stream;
};

/* `columns` values at `from` behind k of each row. */
static int put_row(const struct trial *t, uint16_t *rows, int n, int ld, int at, const uint16_t *from, int columns)
{
    struct op_rows op = {.rows = n,
                         .pieces = columns / 8,
                         .in = from,
                         .out = rows + t->op.w->k + at,
                         .out_bytes = (size_t)ld * sizeof *rows};
    return launch_rows(&op, t->stream);
}

/* Zeros behind k, and `values` where slot `slot` (-1: nobody) has its columns. */
static int put_at(const struct trial *t, uint16_t *rows, int n, int ld, int slot, const uint16_t *values)
{
    int rc = put_row(t, rows, n, ld, 0, t->zero, t->op.w->columns);
    return rc || slot < 0 ? rc : put_row(t, rows, n, ld, slot * t->width, values, t->width);
}

struct behind_w {
    const struct trial *t;
    int slot;
};

static int put_behind_w(const void *u, uint16_t *w, int ld, int n0, int n, void *stream)
{
    const struct behind_w *b = u;
    (void)n0, (void)stream;
    return put_at(b->t, w, n, ld, b->slot, b->t->of_w);
}

/* The first rows and the last of y, which is zeros before. */
static int run_and_read(struct trial *t, const struct product_columns *columns, char *out)
{
    size_t row = (size_t)t->op.ldy * (t->op.f32 ? sizeof(float) : sizeof(uint16_t)), rows = LOOK / 2 / row + 1;
    if (rows > (size_t)t->op.rows) rows = (size_t)t->op.rows;
    char *y = t->op.y;
    int rc = rt_fill(y, 0, row * (size_t)t->op.rows, t->stream);
    if (!rc) rc = product_dense(&t->op, columns, t->stream);
    if (!rc) rc = rt_copy_out(out, y, rows * row, t->stream);
    if (!rc) rc = rt_copy_out(out + rows * row, y + ((size_t)t->op.rows - rows) * row, rows * row, t->stream);
    return rc ? rc : rt_stream_sync(t->stream);
}

static size_t read_bytes(const struct op_product *op)
{
    size_t row = (size_t)op->ldy * (op->f32 ? sizeof(float) : sizeof(uint16_t)), rows = LOOK / 2 / row + 1;
    return 2 * row * (rows > (size_t)op->rows ? (size_t)op->rows : rows);
}

/* A row's columns and W's are in place x and w of the slots (-1: none). */
static int run_at(struct trial *t, int x, int w, char *out)
{
    const struct cuda_weight *weight = t->op.w;
    const struct behind_w b = {t, w};
    const struct product_columns columns = {put_behind_w, &b};
    int rc = put_at(t, (uint16_t *)t->op.x, t->op.rows, t->op.ldx, x, t->of_x);
    if (!rc && weight->kind == KIND_BF16) rc = put_at(t, (uint16_t *)weight->data, weight->n, weight->ld, w, t->of_w);
    return rc ? rc : run_and_read(t, &columns, out);
}

/* As W was: zeros where no adapter is. */
static int clean(struct trial *t)
{
    const struct cuda_weight *w = t->op.w;
    return w->kind == KIND_BF16 ? put_at(t, (uint16_t *)w->data, w->n, w->ld, -1, NULL) : 0;
}

static int try_places(struct trial *t, char *one, char *other, bool *same)
{
    size_t bytes = read_bytes(&t->op);
    *same = true;
    int rc = run_and_read(t, NULL, one);
    if (!rc) rc = run_at(t, -1, 0, other); /* no adapter, but others' columns */
    *same = !rc && memcmp(one, other, bytes) == 0;
    if (!rc && *same) rc = run_at(t, 0, 0, one);
    *same = *same && !rc && memcmp(one, other, bytes) != 0; /* it says something */
    for (int slot = 1; !rc && *same && slot < t->d->augment.slots; slot++) {
        rc = run_at(t, slot, slot, other);
        *same = !rc && memcmp(one, other, bytes) == 0;
    }
    if (rc || !*same || !t->op.add) return rc;
    t->op.add = 0; /* as beside DoRA */
    rc = run_at(t, 0, 0, other);
    *same = !rc && memcmp(one, other, bytes) == 0;
    return rc;
}

/* A number and its opposite, in steps of k that no instruction adds up together: what was summed before loses the bits
 * below them, and with other sums in between, others do. So an order that differs shows in results that are rounded. */
static int put_large(const struct trial *t)
{
    static const uint16_t large = 0x4480, opposite = 0xc480; /* 2^10, bf16 */
    int rc = 0;
    for (int i = 0; !rc && i < 2; i++) {
        rc = rt_copy_in(t->of_x + i * APART, &large, sizeof large, t->stream);
        if (!rc) rc = rt_copy_in(t->of_w + i * APART, i ? &opposite : &large, sizeof large, t->stream);
    }
    return rc ? rc : rt_stream_sync(t->stream);
}

/* Rows that look random, and the rows of columns, in the scratch of the LoRA kernels. */
static int prepare(struct trial *t)
{
    int columns = t->op.w->columns;
    t->of_x = arena_address(t->d, 0, AREA_LORA);
    t->of_w = t->of_x + columns;
    t->zero = t->of_w + columns;
    struct op_fill x = {t->op.rows, t->op.w->k, t->op.ldx, 1, 1, (uint16_t *)t->op.x};
    struct op_fill both = {2, columns, columns, 2, 1, t->of_x};
    int rc = launch_fill(&x, t->stream);
    if (!rc) rc = launch_fill(&both, t->stream);
    if (!rc) rc = rt_fill(t->zero, 0, (size_t)columns * sizeof *t->zero, t->stream);
    return rc ? rc : put_large(t);
}

int augment_try(struct device *d, const struct op_product *op, bool *same)
{
    struct trial t = {.d = d, .op = *op, .stream = d->rank[0].stream};
    size_t bytes = read_bytes(op);
    char *one = malloc(2 * bytes);
    *same = false;
    if (!one) return 2;
    t.width = op->w->columns / d->augment.slots;
    int rc = product_dense_plan(op, t.stream);
    if (!rc) rc = prepare(&t);
    if (!rc) rc = try_places(&t, one, one + bytes, same);
    if (!rc) rc = clean(&t);
    free(one);
    return rc == RT_PRODUCT ? 0 : rc; /* nothing in the library does both */
}
