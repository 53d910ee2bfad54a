/* table_lora: what adapters add to the products of a step.
 *
 * The launches are the same whatever adapters a step has: tiles and their number are the step's metadata, modules stand
 * in the resident tables (adapters.c). A bucket without adapters has none of these launches.
 *
 * Folded or not: the fused kernels say RT_NOT_HERE for a shape that they don't take, when they are launched. That is
 * while a graph is recorded, so what runs instead is recorded in their place. */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/lora_layout.h"

RUN(lora)

/* Two ops for one launch. */
struct pair_glu {
    struct op_lora lora;
    struct op_glu next;
};
struct pair_rope {
    struct op_lora lora;
    struct op_rope next;
};
struct pair_norm {
    struct op_lora lora;
    struct op_rmsnorm next;
};

/* The folded kernel, or the two. */
static int one_or_two(int folded, const struct op_lora *lora, int (*next)(const void *op, void *stream), const void *op,
                      void *stream)
{
    if (folded != RT_NOT_HERE) return folded;
    int rc = launch_lora(lora, stream);
    return rc ? rc : next(op, stream);
}

RUN(glu)
RUN(rope)
RUN(rmsnorm)

static int run_pair_glu(const void *op, void *stream)
{
    const struct pair_glu *p = op;
    return one_or_two(launch_lora_glu(&p->lora, &p->next, stream), &p->lora, run_glu, &p->next, stream);
}

static int run_pair_rope(const void *op, void *stream)
{
    const struct pair_rope *p = op;
    return one_or_two(launch_lora_rope(&p->lora, &p->next, stream), &p->lora, run_rope, &p->next, stream);
}

static int run_pair_norm(const void *op, void *stream)
{
    const struct pair_norm *p = op;
    return one_or_two(launch_lora_norm(&p->lora, &p->next, stream), &p->lora, run_rmsnorm, &p->next, stream);
}

/* Tiles that the bucket's rows can be cut into, whatever the segments are, and those between them. */
static int most_tiles(const struct device *d, int rows, int tile_rows)
{
    int most = rows / tile_rows + 2 * d->shape.max_segs + 1;
    return most < rows ? most : rows;
}

/* The table in which a module's column is looked up. */
static void find_table(struct kthread *t, const struct mm *m, struct op_lora *op)
{
    const struct device *d = cuda_device;
    const struct device_shape *s = &d->shape;
    const struct cuda_module *mod = arena_address(d, t->id, AREA_TABLE_MOD);
    const struct cuda_module *router = arena_address(d, t->id, AREA_TABLE_ROUTER);
    switch (m->out[0].module) {
    case MM_HEAD:
        op->table = arena_address(d, t->id, AREA_TABLE_HEAD);
        op->stride = 1;
        break;
    case MM_ROUTER:
        op->table = router + m->layer;
        op->stride = s->layers;
        break;
    default:
        op->table = mod + (size_t)m->layer * (size_t)s->modules;
        op->stride = s->layers * s->modules;
    }
}

bool lora_op(struct kthread *t, const struct mm *m, void *y, int ldy, bool f32, struct op_lora *op)
{
    const struct device *d = cuda_device;
    const struct cuda_bucket *b = &d->steps.now->key;
    const struct cuda_meta *meta = d->rank[t->id].meta;
    bool head = m->out[0].module == MM_HEAD;
    if (b->lora == LORA_NONE || m->out[0].module == MM_BASE) return false;
    *op = (struct op_lora){.tile = head ? meta->head_tile : meta->tile,
                           .ntile = meta->count + (head ? COUNT_HEAD_TILES : COUNT_TILES),
                           .nall = meta->count + (head ? COUNT_HEAD_TILES : COUNT_ALL_TILES),
                           .tile_rows = meta_tile_rows(b),
                           .ranks = b->ranks,
                           .nslice = m->nout,
                           .x = (const uint16_t *)(d->rank[t->id].base + arena_offset(d, m->in->bf16)),
                           .y = y,
                           .ldy = ldy,
                           .f32 = f32,
                           .scratch = arena_address(d, t->id, AREA_LORA)};
    op->max_tiles = most_tiles(d, m->rows, op->tile_rows);
    find_table(t, m, op);
    for (int i = 0, column = 0; i < m->nout; i++) {
        const struct mm_out *o = &m->out[i];
        enum device_role role = o->module >= 0 ? d->shape.module[o->module].role : head ? ROLE_HEAD : ROLE_WHOLE;
        struct shard part = cuda_shard(d, role, o->w->n, o->w->k, t->id);
        op->slice[i] = o->module >= 0 ? o->module : 0;
        op->n[i] = part.n;
        op->y0[i] = column;
        column += op->n[i];
        op->k = part.k;
    }
    op->ldx = op->k;
    return true;
}

void lora_launch(struct kthread *t, const struct op_lora *op)
{
    ENQUEUE(t, lora, *op);
}

struct pair_product {
    struct op_product product;
    struct op_augment columns;
};

static int run_pair_product(const void *op, void *stream)
{
    const struct pair_product *p = op;
    return launch_product_augmented(&p->product, &p->columns, stream);
}

void lora_as_columns(struct kthread *t, const struct op_product *product, const struct op_lora *op)
{
    const struct device *d = cuda_device;
    const struct cuda_meta *meta = d->rank[t->id].meta;
    struct pair_product p = {.product = *product};
    p.columns = (struct op_augment){.lora = *op,
                                    .hot = meta->hot,
                                    .cold = meta->count + COUNT_COLD_TILES,
                                    .nhot = d->augment.slots,
                                    .ranks = d->augment.ranks,
                                    .ldw = product->w->k + product->w->columns};
    cuda_enqueue(t->id, "product_augmented", run_pair_product, &p, sizeof p);
    struct op_lora rest = *op;
    rest.ntile = meta->count + COUNT_COLD_TILES;
    if (d->steps.now->key.lora != LORA_COLUMNS) lora_launch(t, &rest);
}

void lora_flush(struct kthread *t)
{
    struct cuda_pending *p = &cuda_device->rank[t->id].pending;
    if (p->lora) lora_launch(t, &p->op);
    *p = (struct cuda_pending){.lora = false};
}

void lora_then_glu(struct kthread *t, const struct op_lora *lora, const struct op_glu *glu)
{
    if (!lora) {
        ENQUEUE(t, glu, *glu);
        return;
    }
    struct pair_glu p = {*lora, *glu};
    cuda_enqueue(t->id, "lora_glu", run_pair_glu, &p, sizeof p);
}

void lora_then_rope(struct kthread *t, const struct op_lora *lora, const struct op_rope *rope)
{
    if (!lora) {
        ENQUEUE(t, rope, *rope);
        return;
    }
    struct pair_rope p = {*lora, *rope};
    cuda_enqueue(t->id, "lora_rope", run_pair_rope, &p, sizeof p);
}

void lora_then_norm(struct kthread *t, const struct op_lora *lora, const struct op_rmsnorm *norm)
{
    struct pair_norm p = {*lora, *norm};
    cuda_enqueue(t->id, "lora_norm", run_pair_norm, &p, sizeof p);
}
