/* forward: the transformer block as a list of kernel calls.
 *
 *     x = embed(token)
 *     each layer:
 *         h = norm(x)    q,k,v = W h (and adapters)    rotate, store k and v    a = attention(q)    x += W a
 *         h = norm(x)    gate,up = W h                 a = silu(gate) * up                          x += W a
 *     logits of the wanted rows = head(norm(x))
 *
 * Idea: one pool_run() per pass; every thread walks the same list and the kernels share the work inside each call, so
 * threads are woken once a step and meet at a barrier between operations. `x` is kept in float32 (the residual stream);
 * the two activation buffers hold the rounded forms that the products read.
 *
 * Guarantees: nothing is allocated in a pass; a row's result depends on that row's own inputs only (the kernels'
 * promise: this file adds no operation across rows). Rows that are not in the batch are neither read nor written.
 *
 * Called by the step thread; fields are read by the pool's threads during forward_run() only. */
#include "engine/forward.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>

struct forward {
    const struct model *m;
    const struct kernels *k;
    struct pool *pool;
    struct kv_cache *kv;
    int max_rows, max_logits, max_rank;
    float *block; /* owns the arrays below */
    size_t block_bytes;
    float *x;                      /* [rows][hidden] */
    float *q;                      /* [rows][heads*head_dim] */
    float *kk, *v;                 /* [rows][kv_heads*head_dim] */
    float *gate, *up;              /* [rows][mlp] */
    float *shrink;                 /* [MM_OUTS][rows][padded rank] */
    float *logits;                 /* [max_logits][vocab] */
    struct act h;                  /* after a norm, k = hidden */
    struct act a;                  /* attention's or the gate's output, k = heads*head_dim or mlp */
    const struct forward_batch *b; /* of the pass that runs */
};

static int round_up(int v, int to)
{
    return (v + to - 1) / to * to;
}

static int max_of(int a, int b)
{
    return a > b ? a : b;
}

/* Hand out the arrays of one block, each on its own cache lines. With block NULL only counts. */
static size_t lay_out(struct forward *f, float *block)
{
    const struct model *m = f->m;
    size_t rows = (size_t)f->max_rows, q = (size_t)(m->heads * m->head_dim), kv = (size_t)(m->kv_heads * m->head_dim);
    size_t rank = (size_t)lora_rank_pad(max_of(f->max_rank, 1));
    struct {
        float **at;
        size_t n;
    } part[] = {{&f->x, rows * (size_t)m->hidden},
                {&f->q, rows * q},
                {&f->kk, rows * kv},
                {&f->v, rows * kv},
                {&f->gate, rows * (size_t)m->mlp},
                {&f->up, rows * (size_t)m->mlp},
                {&f->shrink, MM_OUTS * rows * rank},
                {&f->logits, (size_t)f->max_logits * (size_t)m->vocab}};
    size_t used = 0;
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        if (block) *part[i].at = block + used;
        used += (part[i].n + 15) & ~(size_t)15;
    }
    return used * sizeof(float);
}

int forward_new(struct forward **out, const struct model *m, const struct kernels *k, struct pool *pool,
                struct kv_cache *kv, int max_rows, int max_logits, int max_rank, struct err *e)
{
    struct forward *f = calloc(1, sizeof *f);
    if (!f) return err_set(e, ERR_NO_MEMORY, "no memory for the forward pass");
    *f = (struct forward){
        .m = m, .k = k, .pool = pool, .kv = kv, .max_rows = max_rows, .max_logits = max_logits, .max_rank = max_rank};
    f->block_bytes = lay_out(f, NULL);
    f->block = big_alloc(f->block_bytes);
    if (!f->block) {
        err_set(e, ERR_NO_MEMORY, "no memory for the workspace of %d rows (%zu bytes)", max_rows, f->block_bytes);
        goto fail;
    }
    lay_out(f, f->block);
    int rows = max_of(max_rows, max_logits), inner = max_of(m->heads * m->head_dim, m->mlp);
    if (act_init(&f->h, rows, round_up(m->hidden, 32), m->act_forms, e)) goto fail;
    if (act_init(&f->a, rows, round_up(inner, 32), m->act_forms, e)) goto fail;
    *out = f;
    return 0;
fail:
    forward_free(f);
    return -1;
}

void forward_free(struct forward *f)
{
    if (!f) return;
    if (f->block) big_free(f->block, f->block_bytes);
    act_close(&f->h);
    act_close(&f->a);
    free(f);
}

size_t forward_bytes(const struct forward *f)
{
    return f->block_bytes + f->h.bytes + f->a.bytes;
}

static struct mm product(const struct forward *f, const struct act *in, int layer)
{
    int rank = f->b->max_rank > 0 ? f->b->max_rank : 1;
    return (struct mm){.in = in,
                       .rows = f->b->rows,
                       .lora = f->b->lora.nseg ? &f->b->lora : NULL,
                       .layer = layer,
                       .expert = -1,
                       .shrink = f->shrink,
                       .shrink_ld = lora_rank_pad(rank)};
}

static void add_out(const struct forward *f, struct mm *mm, int module, float *y, bool add)
{
    const struct model_layer *l = &f->m->layer[mm->layer];
    mm->out[mm->nout++] = (struct mm_out){.w = &l->module[module],
                                          .y = y,
                                          .ldy = l->module[module].n,
                                          .add = add,
                                          .bias = l->bias[module],
                                          .module = module};
}

static void attention_half(struct forward *f, struct kthread *t, int layer)
{
    const struct model *m = f->m;
    const struct forward_batch *b = f->b;
    f->k->rmsnorm(t, f->x, NULL, b->rows, m->hidden, m->layer[layer].attn_norm, m->norm_eps, &f->h);
    pool_barrier(t);
    struct mm qkv = product(f, &f->h, layer);
    add_out(f, &qkv, LM_Q, f->q, false);
    add_out(f, &qkv, LM_K, f->kk, false);
    add_out(f, &qkv, LM_V, f->v, false);
    f->k->matmul(t, &qkv);
    pool_barrier(t);
    struct attn at = {.nseq = b->nseq,
                      .seq = b->seq,
                      .rows = b->rows,
                      .heads = m->heads,
                      .layer = layer,
                      .scale = 1.0f / sqrtf((float)m->head_dim),
                      .q = f->q,
                      .k = f->kk,
                      .v = f->v,
                      .rope = m->rope,
                      .kv = f->kv};
    f->k->rope_store(t, &at);
    pool_barrier(t);
    f->k->attention(t, &at, &f->a);
    pool_barrier(t);
    struct mm o = product(f, &f->a, layer);
    add_out(f, &o, LM_O, f->x, true);
    f->k->matmul(t, &o);
    pool_barrier(t);
}

static void mlp_half(struct forward *f, struct kthread *t, int layer)
{
    const struct model *m = f->m;
    const struct forward_batch *b = f->b;
    f->k->rmsnorm(t, f->x, NULL, b->rows, m->hidden, m->layer[layer].mlp_norm, m->norm_eps, &f->h);
    pool_barrier(t);
    struct mm gu = product(f, &f->h, layer);
    add_out(f, &gu, LM_GATE, f->gate, false);
    add_out(f, &gu, LM_UP, f->up, false);
    f->k->matmul(t, &gu);
    pool_barrier(t);
    f->k->swiglu(t, f->gate, f->up, b->rows, m->mlp, &f->a);
    pool_barrier(t);
    struct mm down = product(f, &f->a, layer);
    add_out(f, &down, LM_DOWN, f->x, true);
    f->k->matmul(t, &down);
    pool_barrier(t);
}

static void head(struct forward *f, struct kthread *t)
{
    const struct model *m = f->m;
    const struct forward_batch *b = f->b;
    f->k->rmsnorm(t, f->x, b->logit_row, b->nlogits, m->hidden, m->final_norm, m->norm_eps, &f->h);
    pool_barrier(t);
    struct mm mm = {
        .in = &f->h, .rows = b->nlogits, .nout = 1, .layer = 0, .shrink = f->shrink, .shrink_ld = lora_rank_pad(1)};
    mm.out[0] = (struct mm_out){.w = m->head, .y = f->logits, .ldy = m->vocab, .module = -1};
    f->k->matmul(t, &mm);
    pool_barrier(t);
}

static void pass(struct kthread *t, void *arg)
{
    struct forward *f = arg;
    const struct forward_batch *b = f->b;
    f->k->embed(t, &f->m->embed, b->token, b->rows, f->x);
    pool_barrier(t);
    for (int layer = 0; layer < f->m->layers; layer++) {
        attention_half(f, t, layer);
        mlp_half(f, t, layer);
    }
    if (b->nlogits) head(f, t);
    if (b->after) b->after(t, b->u, f->logits);
}

const float *forward_run(struct forward *f, const struct forward_batch *b)
{
    assert(b->rows >= 1 && b->rows <= f->max_rows && b->nlogits <= f->max_logits && b->max_rank <= f->max_rank);
    f->b = b;
    pool_run(f->pool, pass, f);
    f->b = NULL;
    return f->logits;
}
