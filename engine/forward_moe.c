/* forward_moe: the half of a layer that is made of experts.
 *
 *     logits = router h          one product, with the adapters' router
 *     route                      the experts of each row and their weights
 *     plan                       thread 0: places, products and segments of every expert that has rows
 *     g = h in the order of places
 *     a = act(gate_e g) * up_e g all experts' products as one list: one sharing out, one barrier
 *     y = W_e a                  one list again
 *     to[row] = sum of weight * y[place]
 *
 * Idea: rows are gathered by expert, so that an expert's weights are read once a step for all its rows, and products see
 * plain matrices: an expert's rows are a view into the gathered activations, its segments count from the view's first
 * row. Rows of an expert stay in the batch's order, so an adapter's rows are consecutive there as well.
 *
 * Bounds: a row takes experts_used places; segments are at most the places; products at most the experts. Guarantees:
 * nothing is allocated in a pass; a row's sum has the order of its experts' ids.
 *
 * Called by the pool's threads during forward_run(). */
#include "engine/forward_impl.h"
#include <stdlib.h>

struct moe_space {
    struct moe moe; /* rows and logits .. first belong to the layer that runs */
    size_t bytes;
    float *block; /* owns the floats: logits, weight, y */
    size_t block_bytes;
    float *logits, *weight;
    float *y;     /* [places][hidden] */
    int *ints;    /* owns expert, place, row_of, first */
    struct act g; /* gathered rows, k = hidden */
    struct act a; /* k = expert_mlp */

    /* The plan of a layer. */
    int nlist;
    struct mm *gate_up, *down;   /* [experts] */
    struct act *g_view, *a_view; /* [experts] */
    struct lora_batch *lora;     /* [experts] */
    struct lora_seg *seg;        /* [places] */
};

static int round_up(int v, int to)
{
    return (v + to - 1) / to * to;
}

/* Hand out the floats of one block, each array on its own cache lines. With block NULL only counts. */
static size_t lay_out(struct moe_space *s, const struct model *m, size_t rows, float *block)
{
    size_t places = rows * (size_t)m->experts_used, used = 0;
    struct {
        float **at;
        size_t n;
    } part[] = {{&s->logits, rows * (size_t)m->experts}, {&s->weight, places}, {&s->y, places * (size_t)m->hidden}};
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        if (block) *part[i].at = block + used;
        used += (part[i].n + 15) & ~(size_t)15;
    }
    return used * sizeof(float);
}

static bool take_arrays(struct moe_space *s, const struct model *m, size_t rows)
{
    size_t places = rows * (size_t)m->experts_used, experts = (size_t)m->experts;
    s->block_bytes = lay_out(s, m, rows, NULL);
    s->block = big_alloc(s->block_bytes);
    if (s->block) lay_out(s, m, rows, s->block);
    s->ints = calloc(3 * places + experts + 1, sizeof *s->ints);
    s->gate_up = calloc(experts, sizeof *s->gate_up);
    s->down = calloc(experts, sizeof *s->down);
    s->g_view = calloc(experts, sizeof *s->g_view);
    s->a_view = calloc(experts, sizeof *s->a_view);
    s->lora = calloc(experts, sizeof *s->lora);
    s->seg = calloc(places, sizeof *s->seg);
    s->bytes = s->block_bytes + (3 * places + experts + 1) * sizeof *s->ints + places * sizeof *s->seg +
               experts * (2 * sizeof *s->gate_up + 2 * sizeof *s->g_view + sizeof *s->lora);
    return s->block && s->ints && s->gate_up && s->down && s->g_view && s->a_view && s->lora && s->seg;
}

static struct moe moe_of(const struct moe_space *s, const struct model *m, size_t rows)
{
    size_t places = rows * (size_t)m->experts_used;
    return (struct moe){.experts = m->experts,
                        .used = m->experts_used,
                        .norm_topk = m->norm_topk,
                        .logits = s->logits,
                        .expert = s->ints,
                        .weight = s->weight,
                        .place = s->ints + places,
                        .row_of = s->ints + 2 * places,
                        .first = s->ints + 3 * places};
}

int forward_moe_new(struct moe_space **out, const struct model *m, int max_rows, struct err *e)
{
    if (m->experts > EXPERTS_MAX || m->experts_used < 1 || m->experts_used > m->experts)
        return err_set(e, ERR_MODEL, "%d of %d experts a row: at most %d experts are served, and 1 to all of them used",
                       m->experts_used, m->experts, EXPERTS_MAX);
    struct moe_space *s = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_NO_MEMORY, "no memory for the experts' workspace");
    unsigned forms = m->act_forms;
    int places = max_rows * m->experts_used;
    if (!take_arrays(s, m, (size_t)max_rows)) {
        err_set(e, ERR_NO_MEMORY, "no memory for the experts' workspace of %d rows", max_rows);
        goto fail;
    }
    if (act_init(&s->g, places, round_up(m->hidden, GROUP), forms, e)) goto fail;
    if (act_init(&s->a, places, round_up(m->expert_mlp, GROUP), forms, e)) goto fail;
    s->moe = moe_of(s, m, (size_t)max_rows);
    s->bytes += s->g.bytes + s->a.bytes;
    *out = s;
    return 0;
fail:
    forward_moe_free(s);
    return -1;
}

void forward_moe_free(struct moe_space *s)
{
    if (!s) return;
    if (s->block) big_free(s->block, s->block_bytes);
    act_close(&s->g);
    act_close(&s->a);
    free(s->ints);
    free(s->gate_up);
    free(s->down);
    free(s->g_view);
    free(s->a_view);
    free(s->lora);
    free(s->seg);
    free(s);
}

size_t forward_moe_bytes(const struct moe_space *s)
{
    return s ? s->bytes : 0;
}

static struct mm_out output(const struct model_expert *x, int module, float *y)
{
    const struct weight *w = &x->part[module - LM_GATE];
    return (struct mm_out){.w = w, .y = y, .ldy = w->n, .module = module};
}

/* The products of an expert that has rows, at the end of the list; `seg` has room for its rows. Returns the segments. */
static int plan_expert(const struct forward *f, struct moe_space *s, int layer, int expert, struct lora_seg *seg)
{
    const struct model *m = f->m;
    int i = s->nlist++, row0 = s->moe.first[expert], rows = s->moe.first[expert + 1] - row0;
    size_t at = (size_t)row0;
    const struct model_expert *x = &m->layer[layer].expert[expert];
    s->lora[i] = (struct lora_batch){.seg = seg, .modules = f->lora.modules, .experts = m->experts};
    s->lora[i].nseg = forward_segments(&f->lora, s->moe.row_of + row0, rows, seg);
    s->g_view[i] = act_rows(&s->g, row0, rows, m->hidden);
    s->a_view[i] = act_rows(&s->a, row0, rows, m->expert_mlp);
    struct mm gu = forward_product(f, &s->g_view[i], rows, &s->lora[i], layer);
    struct mm down = forward_product(f, &s->a_view[i], rows, &s->lora[i], layer);
    gu.expert = down.expert = expert;
    gu.shrink += 2 * at * (size_t)gu.shrink_ld;
    down.shrink += at * (size_t)down.shrink_ld;
    gu.nout = 2;
    gu.out[0] = output(x, LM_GATE, NULL);
    gu.out[1] = output(x, LM_UP, NULL);
    gu.gated = &s->a_view[i];
    gu.gate = m->act;
    down.nout = 1;
    down.out[0] = output(x, LM_DOWN, s->y + at * (size_t)m->hidden);
    s->gate_up[i] = gu;
    s->down[i] = down;
    return s->lora[i].nseg;
}

static void plan(const struct forward *f, struct moe_space *s, int layer)
{
    struct lora_seg *seg = s->seg;
    moe_order(&s->moe);
    s->nlist = 0;
    for (int e = 0; e < s->moe.experts; e++)
        if (s->moe.first[e + 1] > s->moe.first[e]) seg += plan_expert(f, s, layer, e, seg);
}

static void route(struct forward *f, struct kthread *t, int layer)
{
    struct moe_space *s = f->moe;
    struct mm router = forward_product(f, &f->h, f->b->rows, &f->lora, layer);
    router.nout = 1;
    router.out[0] =
        (struct mm_out){.w = &f->m->layer[layer].router, .y = s->logits, .ldy = f->m->experts, .module = MM_ROUTER};
    f->k->matmul(t, &router);
    if (t->id == 0) s->moe.rows = f->b->rows;
    pool_barrier(t);
    f->k->moe_route(t, &s->moe);
    pool_barrier(t);
    if (t->id == 0) plan(f, s, layer);
    pool_barrier(t);
}

/* The whole half as one operation of the table's. */
static void at_once(struct forward *f, struct kthread *t, int layer, float *to, bool add)
{
    const struct model *m = f->m;
    const struct model_layer *l = &m->layer[layer];
    const struct moe_half half = {.rows = f->b->rows,
                                  .layer = layer,
                                  .experts = m->experts,
                                  .used = m->experts_used,
                                  .norm_topk = m->norm_topk,
                                  .router = &l->router,
                                  .expert = l->expert[0].part,
                                  .gate = m->act,
                                  .in = &f->h,
                                  .lora = f->lora.nseg ? &f->lora : NULL,
                                  .to = to,
                                  .add = add};
    f->k->moe_half(t, &half);
    pool_barrier(t);
}

void forward_moe(struct forward *f, struct kthread *t, int layer, float *to, bool add)
{
    const struct model *m = f->m;
    if (f->k->moe_half) {
        at_once(f, t, layer, to, add);
        return;
    }
    struct moe_space *s = f->moe;
    route(f, t, layer);
    f->k->moe_gather(t, &s->moe, &f->h, m->hidden, &s->g);
    pool_barrier(t);
    f->k->matmul_list(t, s->gate_up, s->nlist);
    pool_barrier(t);
    f->k->matmul_list(t, s->down, s->nlist);
    pool_barrier(t);
    f->k->moe_combine(t, &s->moe, s->y, m->hidden, to, add);
    pool_barrier(t);
}
