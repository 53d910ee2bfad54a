/* table: the operations of a step as launches (struct kernels).
 *
 * Every function enqueues on its rank's stream and returns; nothing here waits or looks at a step's own numbers, for the
 * launches are recorded and replayed with others (graph.c). What an array is, the handle says: forward.c hands on those
 * of device_room(), and each stands for one area with its own element type and row stride.
 *
 *     q, k, v      one buffer [rows][q + 2 kv] bf16: one product makes all three where the weights are stacked
 *     gate, up     the same, [rows][2 mlp]
 *     o, down      added into x (float32) by the product; where a factor or another device's part comes first, through an
 *                  array of their own
 *
 * Deferred: what adapters add to q, k, v waits for rope_store, to o and down for the next norm, where fused kernels may
 * take it over (table_lora.c).
 *
 * On each rank's thread; threads beyond the ranks do nothing. A failure is kept, and the step's end tells it. */
#include "kernels/cuda/cuda.h"
#include <assert.h>

RUN(embed)
RUN(rmsnorm)
RUN(rmsnorm_add)
RUN(bias)
RUN(softcap)
RUN(attn)
RUN(product)
RUN(add)
RUN(whole)

struct cuda_target cuda_target;

static void *at(const struct kthread *t, enum cuda_area area)
{
    return arena_address(cuda_device, t->id, area);
}

static bool is_area(const void *handle, enum cuda_area area)
{
    return handle == arena_handle(cuda_device, area);
}

static void *address(const struct kthread *t, const void *handle)
{
    return cuda_device->rank[t->id].base + arena_offset(cuda_device, handle);
}

static const struct cuda_bucket *bucket(void)
{
    return &cuda_device->steps.now->key;
}

static const struct cuda_meta *meta(const struct kthread *t)
{
    return cuda_device->rank[t->id].meta;
}

static struct cuda_pending *pending(const struct kthread *t)
{
    return &cuda_device->rank[t->id].pending;
}

/* Elements between rows of an array behind what they hold. */
static int gap(const struct kthread *t, const void *x)
{
    if (!bucket()->prompts) return 0;
    return x == at(t, AREA_H)   ? augment_gap(cuda_device, AREA_H)
           : x == at(t, AREA_A) ? augment_gap(cuda_device, AREA_A)
                                : 0;
}

/* The rank's part of an output's bias. */
static const float *bias_of(const struct kthread *t, const struct mm_out *o)
{
    const float *whole = place_floats(cuda_device, t->id, o->bias);
    enum device_role role = cuda_device->shape.module[o->module].role;
    return whole ? whole + cuda_shard(cuda_device, role, o->w->n, o->w->k, t->id).row0 : NULL;
}

/* --- embedding, norms --- */

static void embed(struct kthread *t, const struct embed *e)
{
    if (!has_rank(cuda_device, t)) return;
    struct op_embed op = {.meta = *meta(t),
                          .rows = e->rows,
                          .hidden = e->w->k,
                          .vocab = e->w->n,
                          .w = place_weight(cuda_device, t->id, e->w, 1),
                          .scale = e->scale,
                          .table = bucket()->lora != LORA_NONE ? at(t, AREA_TABLE_EMBED) : NULL,
                          .chosen = at(t, AREA_CHOSEN),
                          .x = at(t, AREA_X)};
    ENQUEUE(t, embed, op);
}

static void rmsnorm(struct kthread *t, const float *x, const int *row_of, int rows, int k, const float *weight,
                    float eps, struct act *out)
{
    if (!has_rank(cuda_device, t)) return;
    struct op_rmsnorm op = {.rows = rows,
                            .k = k,
                            .x = address(t, x),
                            .row_of = row_of ? meta(t)->logit_row : NULL,
                            .weight = place_floats(cuda_device, t->id, weight),
                            .eps = eps,
                            .out = address(t, out->bf16)};
    op.gap = gap(t, op.out);
    struct cuda_pending *p = pending(t);
    if (p->lora && !p->qkv && !row_of) {
        struct op_lora lora = p->op;
        *p = (struct cuda_pending){.lora = false};
        lora_then_norm(t, &lora, &op);
        return;
    }
    lora_flush(t);
    ENQUEUE(t, rmsnorm, op);
}

static void rmsnorm_add(struct kthread *t, const float *y, int rows, int k, const float *weight, float eps, float *x)
{
    if (!has_rank(cuda_device, t)) return;
    struct op_rmsnorm_add op = {.rows = rows,
                                .k = k,
                                .y = address(t, y),
                                .weight = place_floats(cuda_device, t->id, weight),
                                .eps = eps,
                                .x = address(t, x)};
    ENQUEUE(t, rmsnorm_add, op);
}

static void softcap(struct kthread *t, float *x, size_t n, float cap)
{
    if (!has_rank(cuda_device, t)) return;
    struct op_softcap op = {.x = address(t, x), .n = n, .cap = cap};
    ENQUEUE(t, softcap, op);
}

/* --- products --- */

static struct op_product product_of(struct kthread *t, const struct mm *m, const struct cuda_weight *w,
                                    const uint16_t *x, void *y, int ldy, bool f32, bool add)
{
    struct op_product op = {.rows = m->rows,
                            .w = w,
                            .x = x,
                            .ldx = w->k + gap(t, x),
                            .y = y,
                            .ldy = ldy,
                            .f32 = f32,
                            .add = add,
                            .dense = cuda_device->rank[t->id].dense,
                            .scratch = at(t, AREA_PRODUCT)};
    return op;
}

static void one_product(struct kthread *t, const struct mm *m, const struct cuda_weight *w, const uint16_t *x, char *y,
                        int ldy, bool f32, bool add)
{
    struct op_product op = product_of(t, m, w, x, y, ldy, f32, add);
    ENQUEUE(t, product, op);
}

void cuda_product(struct kthread *t, const struct mm *m, const uint16_t *x, void *y, int ldy, bool f32, bool add)
{
    const struct cuda_weight *w = place_weight(cuda_device, t->id, m->out[0].w, m->nout);
    if (w) {
        one_product(t, m, w, x, y, ldy, f32, add);
        return;
    }
    char *to = y;
    for (int i = 0; i < m->nout; i++) {
        w = place_weight(cuda_device, t->id, m->out[i].w, 1);
        one_product(t, m, w, x, to, ldy, f32, add);
        to += (size_t)w->n * (f32 ? sizeof(float) : sizeof(uint16_t));
    }
}

/* The product of a site, and what its adapters add where that is a part of it; true: the rest is up to the caller. */
static bool site_product(struct kthread *t, const struct mm *m, void *y, int ldy, bool f32, bool add,
                         struct op_lora *lora)
{
    const uint16_t *x = address(t, m->in->bf16);
    const struct cuda_weight *w = place_weight(cuda_device, t->id, m->out[0].w, m->nout);
    bool adapted = lora_op(t, m, y, ldy, f32, lora);
    if (adapted) lora->ldx += gap(t, x);
    if (adapted && w && w->columns && bucket()->prompts) {
        struct op_product op = product_of(t, m, w, x, y, ldy, f32, add);
        if (product_is_augmented(&op)) {
            lora_as_columns(t, &op, lora);
            return false;
        }
    }
    cuda_product(t, m, x, y, ldy, f32, add);
    return adapted;
}

static void add_bias(struct kthread *t, const struct mm *m, float *y)
{
    const struct mm_out *o = &m->out[0];
    if (!o->bias) return;
    struct op_bias op = {.rows = m->rows,
                         .n = o->w->n,
                         .ld = o->w->n,
                         .f32 = true,
                         .bias = place_floats(cuda_device, t->id, o->bias),
                         .y = y};
    ENQUEUE(t, bias, op);
}

static void gated(struct kthread *t, const struct mm *m)
{
    int mlp = cuda_device->dim.mlp;
    uint16_t *gu = at(t, AREA_GU);
    struct op_lora lora;
    bool adapted = site_product(t, m, gu, 2 * mlp, false, false, &lora);
    struct op_glu op = {.rows = m->rows,
                        .n = mlp,
                        .act = m->gate == MLP_SILU ? ACT_SILU_MUL : ACT_GELU_MUL,
                        .gate_bias = bias_of(t, &m->out[0]),
                        .up_bias = bias_of(t, &m->out[1]),
                        .gu = gu,
                        .out = address(t, m->gated->bf16)};
    op.gap = gap(t, op.out);
    lora_then_glu(t, adapted ? &lora : NULL, &op);
}

static void qkv(struct kthread *t, const struct mm *m)
{
    const struct cuda_dims *d = &cuda_device->dim;
    uint16_t *y = at(t, AREA_QKV);
    struct op_lora lora;
    bool adapted = site_product(t, m, y, d->qkv, false, false, &lora);
    struct cuda_pending *p = pending(t);
    *p = (struct cuda_pending){.qkv = true,
                               .q_bias = bias_of(t, &m->out[0]),
                               .k_bias = bias_of(t, &m->out[1]),
                               .v_bias = bias_of(t, &m->out[2])};
    p->lora = adapted;
    if (adapted) p->op = lora;
}

static void add_part(struct kthread *t, int rows)
{
    struct op_add op = {.rows = rows, .k = cuda_device->dim.hidden, .y = at(t, AREA_PART), .x = at(t, AREA_X)};
    ENQUEUE(t, add, op);
}

/* o and down. */
static void residual(struct kthread *t, const struct mm *m)
{
    const struct mm_out *o = &m->out[0];
    int hidden = cuda_device->dim.hidden;
    bool shared = cuda_device->ranks > 1, apart = shared || (o->add && bucket()->lora == LORA_SCALED);
    float *to = at(t, o->add ? AREA_X : AREA_Y), *y = to;
    struct op_lora lora;
    if (apart) y = shared ? group_part(t, m->rows) : at(t, AREA_PART);
    bool adapted = site_product(t, m, y, hidden, true, y == to && o->add, &lora);
    if (adapted && !apart && o->add && !o->bias) {
        *pending(t) = (struct cuda_pending){.lora = true, .op = lora};
        return;
    }
    if (adapted) lora_launch(t, &lora);
    if (shared)
        group_sum(t, m->rows, o->add, to);
    else if (apart)
        add_part(t, m->rows);
    add_bias(t, m, to);
}

/* The rank's part of the vocabulary, y [rows][ldy]. */
static void head_part(struct kthread *t, const struct mm *m, const struct cuda_weight *w, float *y, int ldy)
{
    const uint16_t *x = address(t, m->in->bf16);
    struct op_lora lora;
    one_product(t, m, w, x, (char *)y, ldy, true, false);
    if (!lora_op(t, m, y, ldy, true, &lora)) return;
    lora.ldx += gap(t, x);
    if (bucket()->lora == LORA_SCALED) {
        struct op_whole op = {.tile = lora.tile,
                              .ntile = lora.ntile,
                              .max_tiles = lora.max_tiles,
                              .full = at(t, AREA_TABLE_WHOLE),
                              .n = w->n,
                              .k = w->k,
                              .ldx = lora.ldx,
                              .ldy = ldy,
                              .x = x,
                              .y = y};
        ENQUEUE(t, whole, op);
    }
    lora_launch(t, &lora);
}

static void head(struct kthread *t, const struct mm *m)
{
    const struct cuda_weight *w = place_head(cuda_device, t->id);
    bool shared = cuda_device->ranks > 1;
    float *y = shared ? group_logits_part(t, m->rows) : at(t, AREA_LOGITS);
    if (w->n) head_part(t, m, w, y, cuda_device->dim.head);
    if (shared) group_logits(t, m->rows);
}

static void matmul(struct kthread *t, const struct mm *m)
{
    if (!has_rank(cuda_device, t)) return;
    lora_flush(t);
    if (m->gated)
        gated(t, m);
    else if (is_area(m->out[0].y, AREA_QKV))
        qkv(t, m);
    else if (is_area(m->out[0].y, AREA_LOGITS))
        head(t, m);
    else
        residual(t, m);
}

/* --- attention --- */

static void rope_store(struct kthread *t, const struct attn *a)
{
    if (!has_rank(cuda_device, t)) return;
    const struct cuda_dims *m = &cuda_device->dim;
    struct cuda_pending p = *pending(t);
    assert(p.qkv);
    *pending(t) = (struct cuda_pending){.lora = false};
    struct op_rope op = {.meta = *meta(t),
                         .kv = kv_layout(cuda_device, t->id),
                         .rows = a->rows,
                         .heads = m->heads,
                         .layer = a->layer,
                         .ld = m->qkv,
                         .rotary = a->rotary > 0 ? a->rotary : m->head_dim,
                         .q_bias = p.q_bias,
                         .k_bias = p.k_bias,
                         .v_bias = p.v_bias,
                         .q_norm = place_floats(cuda_device, t->id, a->q_norm),
                         .k_norm = place_floats(cuda_device, t->id, a->k_norm),
                         .norm_eps = a->norm_eps,
                         .rope = place_floats(cuda_device, t->id, a->rope),
                         .qkv = at(t, AREA_QKV)};
    lora_then_rope(t, p.lora ? &p.op : NULL, &op);
}

static void attention(struct kthread *t, const struct attn *a, struct act *out)
{
    if (!has_rank(cuda_device, t)) return;
    const struct cuda_dims *m = &cuda_device->dim;
    struct op_attn op = {.meta = *meta(t),
                         .kv = kv_layout(cuda_device, t->id),
                         .rows = a->rows,
                         .seqs = bucket()->seqs,
                         .heads = m->heads,
                         .layer = a->layer,
                         .ld = m->qkv,
                         .prompts = bucket()->prompts,
                         .window = a->window,
                         .scale = a->scale,
                         .softcap = a->softcap,
                         .qkv = at(t, AREA_QKV),
                         .out = address(t, out->bf16),
                         .scratch = at(t, AREA_ATTN)};
    op.gap = gap(t, op.out);
    ENQUEUE(t, attn, op);
}

const struct kernels cuda_table = {.name = "cuda",
                                   .prec = PREC_FAST,
                                   .embed = embed,
                                   .rmsnorm = rmsnorm,
                                   .rmsnorm_add = rmsnorm_add,
                                   .matmul = matmul,
                                   .rope_store = rope_store,
                                   .attention = attention,
                                   .softcap = softcap,
                                   .moe_half = cuda_moe_half};
