/* table_moe: the half of a layer that is made of experts, as launches.
 *
 *     logits = router h (+ adapters)       route: experts and weights of each row
 *     order: places, sorted by expert      gather: h in the order of places
 *     gate|up by experts (+ adapters)      act(gate) * up
 *     down by experts (+ adapters)         combine: sum over a row's places, into x
 *
 * Where the CPU plans an expert's products on the host, here nobody looks at what was routed: the grids go by places
 * (rows * used), the kernels find their expert by first[]. The adapters' tiles over places are made on the device too,
 * for an expert's rows of one segment. */
#include "kernels/cuda/cuda.h"

RUN(moe_gather)
RUN(moe_combine)
RUN(grouped)
RUN(glu)

static int run_route(const void *op, void *stream)
{
    int rc = launch_moe_route(op, stream);
    return rc ? rc : launch_moe_order(op, stream);
}

static void *at(const struct kthread *t, enum cuda_area area)
{
    return arena_address(cuda_device, t->id, area);
}

static struct op_moe moe_of(const struct kthread *t, const struct moe_half *m)
{
    const struct cuda_bucket *b = &cuda_device->steps.now->key;
    size_t places = (size_t)m->rows * (size_t)m->used;
    int32_t *ints = at(t, AREA_MOE_INTS);
    struct op_moe op = {.meta = *cuda_device->rank[t->id].meta,
                        .rows = m->rows,
                        .experts = m->experts,
                        .used = m->used,
                        .norm_topk = m->norm_topk,
                        .logits = at(t, AREA_MOE_LOGITS),
                        .expert = ints,
                        .weight = at(t, AREA_MOE_WEIGHT),
                        .place = ints + places,
                        .row_of = ints + 2 * places,
                        .first = ints + 3 * places,
                        .ntile = ints + 3 * places + m->experts + 1};
    if (b->lora != LORA_NONE) op.tile = at(t, AREA_MOE_TILES);
    return op;
}

static void route(struct kthread *t, const struct moe_half *m, const struct op_moe *op)
{
    struct mm router = {.in = m->in, .rows = m->rows, .nout = 1, .layer = m->layer, .expert = -1};
    struct op_lora lora;
    float *logits = at(t, AREA_MOE_LOGITS);
    const uint16_t *h = (const uint16_t *)(cuda_device->rank[t->id].base + arena_offset(cuda_device, m->in->bf16));
    router.out[0] = (struct mm_out){.w = m->router, .module = MM_ROUTER};
    cuda_product(t, &router, h, logits, m->experts, true, false);
    if (lora_op(t, &router, logits, m->experts, true, &lora)) lora_launch(t, &lora);
    cuda_enqueue(t->id, "moe_route", run_route, op, sizeof *op);
    struct op_moe_gather gather = {.places = m->rows * m->used,
                                   .k = cuda_device->dim.hidden,
                                   .row_of = op->row_of,
                                   .first = op->first,
                                   .experts = m->experts,
                                   .in = h,
                                   .out = at(t, AREA_MOE_G)};
    ENQUEUE(t, moe_gather, gather);
}

/* The products of all places with their experts' gate|up or down, then the adapters'. */
static void grouped(struct kthread *t, const struct moe_half *m, const struct op_moe *moe, bool down, enum cuda_area in,
                    enum cuda_area out)
{
    const struct device *d = cuda_device;
    const struct device_shape *s = &d->shape;
    int mlp = d->dim.expert_mlp, k = down ? mlp : d->dim.hidden, n = down ? d->dim.hidden : mlp;
    struct op_grouped op = {.places = m->rows * m->used,
                            .experts = m->experts,
                            .first = moe->first,
                            .x = at(t, in),
                            .ldx = k,
                            .y = at(t, out),
                            .ldy = down ? n : 2 * n,
                            .f32 = down,
                            .scratch = at(t, AREA_PRODUCT)};
    place_grouped(d, t->id, m->layer, down, &op.w, &op.w_device);
    ENQUEUE(t, grouped, op);
    if (!moe->tile) return;
    struct op_lora lora = {.tile = moe->tile,
                           .ntile = moe->ntile,
                           .nall = moe->ntile,
                           .made = 1,
                           .max_tiles = op.places,
                           .tile_rows = TILE_ROWS,
                           .ranks = d->steps.now->key.ranks,
                           .table = at(t, AREA_TABLE_EXPERT),
                           .stride = s->layers * s->experts * EXPERT_PARTS,
                           .nslice = down ? 1 : 2,
                           .slice = {down ? EXPERT_PARTS - 1 : 0, 1},
                           .n = {n, n},
                           .y0 = {0, n},
                           .k = k,
                           .x = op.x,
                           .ldx = k,
                           .y = op.y,
                           .ldy = op.ldy,
                           .f32 = op.f32,
                           .scratch = at(t, AREA_LORA)};
    lora.table += (size_t)m->layer * (size_t)(s->experts * EXPERT_PARTS);
    lora_launch(t, &lora);
}

static void combine(struct kthread *t, const struct moe_half *m, const struct op_moe *moe)
{
    bool shared = cuda_device->ranks > 1;
    float *to = at(t, m->add ? AREA_X : AREA_Y), *y = shared ? group_part(t, m->rows) : to;
    struct op_moe_combine op = {.rows = m->rows,
                                .used = m->used,
                                .k = cuda_device->dim.hidden,
                                .add = m->add && !shared,
                                .expert = moe->expert,
                                .place = moe->place,
                                .weight = moe->weight,
                                .y = at(t, AREA_MOE_Y),
                                .x = y};
    ENQUEUE(t, moe_combine, op);
    if (shared) group_sum(t, m->rows, m->add, to);
}

void cuda_moe_half(struct kthread *t, const struct moe_half *m)
{
    if (!has_rank(cuda_device, t)) return;
    lora_flush(t);
    struct op_moe moe = moe_of(t, m);
    route(t, m, &moe);
    grouped(t, m, &moe, false, AREA_MOE_G, AREA_MOE_GU);
    struct op_glu glu = {.rows = m->rows * m->used,
                         .n = cuda_device->dim.expert_mlp,
                         .act = m->gate == MLP_SILU ? ACT_SILU_MUL : ACT_GELU_MUL,
                         .gu = at(t, AREA_MOE_GU),
                         .out = at(t, AREA_MOE_A)};
    ENQUEUE(t, glu, glu);
    grouped(t, m, &moe, true, AREA_MOE_A, AREA_MOE_Y);
    combine(t, m, &moe);
}
