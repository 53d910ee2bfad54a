/* forward: the transformer block as a list of kernel calls.
 *
 *     x = embed(token)
 *     each layer:
 *         h = norm(x)    q,k,v = W h (and adapters)    norm heads, rotate, store k and v    a = attention(q)
 *         x += W a, or x += norm(W a)
 *         h = norm(x)    a = act(gate W h) * up W h
 *         x += W a, or x += norm(W a);                 a layer of experts: forward_moe.c
 *     logits of the wanted rows = head(norm(x)), capped
 *
 * Families differ by columns of the model, never by code of their own; a column that is zero or NULL is an operation
 * that isn't there.
 *
 * Idea: one pool_run() per pass; every thread walks the same list and the kernels share the work inside each call, so
 * threads are woken once a step and meet at a barrier between operations. `x` is kept in float32 (the residual stream);
 * the two activation buffers hold the rounded forms that the products read.
 *
 * Guarantees: nothing is allocated in a pass; a row's result depends on that row's own inputs only (the kernels'
 * promise: this file adds no operation across rows). Rows that are not in the batch are neither read nor written.
 *
 * Called by the step thread; fields are read by the pool's threads during forward_run() only. */
#include "engine/forward_impl.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>

static int round_up(int v, int to)
{
    return (v + to - 1) / to * to;
}

static int max_of(int a, int b)
{
    return a > b ? a : b;
}

/* Rows of the shrinks' scratch: of q, k, v; of gate and up of all experts; of the head. */
static size_t shrink_rows(const struct forward *f)
{
    int places = f->m->experts > 0 ? 2 * f->max_rows * f->m->experts_used : 0;
    return (size_t)max_of(max_of(MM_OUTS * f->max_rows, places), f->max_logits);
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
                {&f->y, rows * (size_t)m->hidden},
                {&f->q, rows * q},
                {&f->kk, rows * kv},
                {&f->v, rows * kv},
                {&f->shrink, shrink_rows(f) * rank},
                {&f->logits, (size_t)f->max_logits * (size_t)m->vocab},
                {&f->partial, f->partial_floats}};
    size_t used = 0;
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        if (block) *part[i].at = block + used;
        used += (part[i].n + 15) & ~(size_t)15;
    }
    return used * sizeof(float);
}

static int take_memory(struct forward *f, struct err *e)
{
    const struct model *m = f->m;
    if (f->k->device) return forward_device_rooms(f, e);
    f->partial_floats = attn_partial_floats(m->heads, m->head_dim, max_of(m->max_context, 1));
    f->block_bytes = lay_out(f, NULL);
    f->block = big_alloc(f->block_bytes);
    f->head_seg = calloc((size_t)max_of(f->max_logits, 1), sizeof *f->head_seg);
    if (!f->block || !f->head_seg)
        return err_set(e, ERR_NO_MEMORY, "no memory for the workspace of %d rows (%zu bytes)", f->max_rows,
                       f->block_bytes);
    lay_out(f, f->block);
    int rows = max_of(f->max_rows, f->max_logits), inner = max_of(m->heads * m->head_dim, m->mlp);
    if (act_init(&f->h, rows, round_up(m->hidden, GROUP), m->act_forms, e)) return -1;
    if (act_init(&f->a, rows, round_up(inner, GROUP), m->act_forms, e)) return -1;
    f->h_bf16 = f->h.bf16, f->a_bf16 = f->a.bf16;
    return m->experts > 0 ? forward_moe_new(&f->moe, m, f->max_rows, e) : 0;
}

int forward_new(struct forward **out, const struct model *m, const struct kernels *k, struct pool *pool,
                struct kv_cache *kv, int max_rows, int max_logits, int max_rank, struct err *e)
{
    struct forward *f = calloc(1, sizeof *f);
    if (!f) return err_set(e, ERR_NO_MEMORY, "no memory for the forward pass");
    *f = (struct forward){
        .m = m, .k = k, .pool = pool, .kv = kv, .max_rows = max_rows, .max_logits = max_logits, .max_rank = max_rank};
    if (take_memory(f, e)) {
        forward_free(f);
        return -1;
    }
    *out = f;
    return 0;
}

void forward_free(struct forward *f)
{
    if (!f) return;
    if (f->block) big_free(f->block, f->block_bytes);
    if (!f->k->device) { /* else they are handles */
        act_close(&f->h);
        act_close(&f->a);
    }
    forward_moe_free(f->moe);
    free(f->head_seg);
    free(f);
}

size_t forward_bytes(const struct forward *f)
{
    return f->block_bytes + f->h.bytes + f->a.bytes + forward_moe_bytes(f->moe);
}

size_t forward_logits_bytes(const struct forward *f)
{
    return (size_t)f->max_logits * (size_t)f->m->vocab * sizeof *f->logits;
}

struct mm forward_product(const struct forward *f, const struct act *in, int rows, const struct lora_batch *lora,
                          int layer)
{
    return (struct mm){.in = in,
                       .rows = rows,
                       .lora = lora->nseg ? lora : NULL,
                       .layer = layer,
                       .expert = -1,
                       .shrink = f->shrink,
                       .shrink_ld = lora_rank_pad(max_of(f->b->max_rank, 1))};
}

int forward_segments(const struct lora_batch *b, const int *row_of, int rows, struct lora_seg *out)
{
    int n = 0, at = 0;
    for (int s = 0; s < b->nseg && at < rows; s++) {
        const struct lora_seg *seg = &b->seg[s];
        while (at < rows && row_of[at] < seg->row0) at++;
        int first = at;
        while (at < rows && row_of[at] < seg->row0 + seg->rows) at++;
        if (at == first) continue;
        out[n] = *seg;
        out[n].row0 = first;
        out[n++].rows = at - first;
    }
    return n;
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

/* x += norm(y), where what a half gives is normed first. */
static void add_normed(struct forward *f, struct kthread *t, const float *post)
{
    if (!post) return;
    f->k->rmsnorm_add(t, f->y, f->b->rows, f->m->hidden, post, f->m->norm_eps, f->x);
    pool_barrier(t);
}

static struct attn attention_of(struct forward *f, int layer)
{
    const struct model *m = f->m;
    const struct model_layer *l = &m->layer[layer];
    struct kv_cache *own = f->kv->own; /* where layers differ */
    return (struct attn){.nseq = f->b->nseq,
                         .seq = f->b->seq,
                         .rows = f->b->rows,
                         .heads = model_heads(m, layer),
                         .layer = own ? 0 : layer,
                         .scale = m->attn_scale != 0 ? m->attn_scale : 1.0f / sqrtf((float)m->head_dim),
                         .window = l->window,
                         .sinks = l->sinks,
                         .softcap = m->attn_softcap,
                         .rotary = m->rotary,
                         .q_norm = l->q_norm,
                         .k_norm = l->k_norm,
                         .norm_eps = m->norm_eps,
                         .q = f->q,
                         .k = f->kk,
                         .v = f->v,
                         .rope = l->rope ? l->rope : m->rope,
                         .kv = own ? &own[layer] : f->kv,
                         .partial = f->partial,
                         .partial_floats = f->partial_floats};
}

static void attention_half(struct forward *f, struct kthread *t, int layer)
{
    const struct model *m = f->m;
    const struct model_layer *l = &m->layer[layer];
    int rows = f->b->rows;
    if (m->uneven && !l->module[LM_Q].n) return;
    f->k->rmsnorm(t, f->x, NULL, rows, m->hidden, l->attn_norm, m->norm_eps, &f->h);
    pool_barrier(t);
    struct mm qkv = forward_product(f, &f->h, rows, &f->lora, layer);
    add_out(f, &qkv, LM_Q, f->q, false);
    add_out(f, &qkv, LM_K, f->kk, false);
    add_out(f, &qkv, LM_V, f->v, false);
    f->k->matmul(t, &qkv);
    pool_barrier(t);
    struct attn at = attention_of(f, layer);
    f->k->rope_store(t, &at);
    pool_barrier(t);
    if (f->b->ncopies) {
        kv_copy_slots(t, at.kv, at.layer, f->b->copy, f->b->ncopies);
        pool_barrier(t);
    }
    f->k->attention(t, &at, &f->a);
    pool_barrier(t);
    struct mm o = forward_product(f, &f->a, rows, &f->lora, layer);
    add_out(f, &o, LM_O, l->attn_post ? f->y : f->x, !l->attn_post);
    f->k->matmul(t, &o);
    pool_barrier(t);
    add_normed(f, t, l->attn_post);
}

static void dense(struct forward *f, struct kthread *t, int layer, float *to, bool add)
{
    int rows = f->b->rows;
    struct mm gu = forward_product(f, &f->h, rows, &f->lora, layer);
    add_out(f, &gu, LM_GATE, NULL, false);
    add_out(f, &gu, LM_UP, NULL, false);
    gu.gated = &f->a;
    gu.gate = f->m->act;
    f->k->matmul(t, &gu);
    pool_barrier(t);
    struct mm down = forward_product(f, &f->a, rows, &f->lora, layer);
    add_out(f, &down, LM_DOWN, to, add);
    f->k->matmul(t, &down);
    pool_barrier(t);
}

static void mlp_half(struct forward *f, struct kthread *t, int layer)
{
    const struct model *m = f->m;
    const struct model_layer *l = &m->layer[layer];
    if (m->uneven && !l->module[LM_DOWN].n) return;
    f->k->rmsnorm(t, f->x, NULL, f->b->rows, m->hidden, l->mlp_norm, m->norm_eps, &f->h);
    pool_barrier(t);
    void (*half)(struct forward * f, struct kthread * t, int layer, float *to, bool add) =
        l->router.n > 0 ? forward_moe : dense;
    half(f, t, layer, l->mlp_post ? f->y : f->x, !l->mlp_post);
    add_normed(f, t, l->mlp_post);
}

static void head(struct forward *f, struct kthread *t)
{
    const struct model *m = f->m;
    const struct forward_batch *b = f->b;
    f->k->rmsnorm(t, f->x, b->logit_row, b->nlogits, m->hidden, m->final_norm, m->norm_eps, &f->h);
    pool_barrier(t);
    struct mm mm = forward_product(f, &f->h, b->nlogits, &f->head_lora, 0);
    mm.nout = 1;
    mm.out[0] = (struct mm_out){.w = m->head, .y = f->logits, .ldy = m->vocab, .module = MM_HEAD};
    f->k->matmul(t, &mm);
    pool_barrier(t);
    if (m->logit_softcap <= 0) return;
    f->k->softcap(t, f->logits, (size_t)b->nlogits * (size_t)m->vocab, m->logit_softcap);
    pool_barrier(t);
}

void forward_pass(struct kthread *t, void *arg)
{
    struct forward *f = arg;
    const struct forward_batch *b = f->b;
    struct embed e = {.w = &f->m->embed,
                      .token = b->token,
                      .rows = b->rows,
                      .scale = f->m->embed_scale,
                      .lora = f->lora.nseg ? &f->lora : NULL,
                      .x = f->x};
    f->k->embed(t, &e);
    pool_barrier(t);
    for (int layer = 0; layer < f->m->layers; layer++) {
        attention_half(f, t, layer);
        mlp_half(f, t, layer);
    }
    if (b->nlogits) head(f, t);
}

static void pass_and_after(struct kthread *t, void *arg)
{
    struct forward *f = arg;
    forward_pass(t, f);
    if (f->b->after) f->b->after(t, f->b->u, f->logits);
}

/* Activations have a bf16 form where something reads it. (Experts' rows are copied in all forms: there it stays.) */
static void choose_forms(struct forward *f)
{
    bool unread = f->m->bf16_for_adapters && f->m->experts == 0 && f->lora.nseg == 0;
    f->h.bf16 = unread ? NULL : f->h_bf16;
    f->a.bf16 = unread ? NULL : f->a_bf16;
}

int forward_begin(struct forward *f, const struct forward_batch *b)
{
    assert(b->rows >= 1 && b->rows <= f->max_rows && b->nlogits <= f->max_logits && b->max_rank <= f->max_rank);
    assert(!f->begun[f->k->device ? FORWARD_BEGUN - 1 : 0]);
    f->begun[f->begun[0] ? 1 : 0] = f->b = b;
    f->lora = b->lora;
    f->head_lora = f->lora;
    f->head_lora.seg = f->head_seg;
    f->head_lora.nseg = forward_segments(&b->lora, b->logit_row, b->nlogits, f->head_seg);
    return f->k->device ? forward_device_begin(f) : 0;
}

const float *forward_end(struct forward *f)
{
    const struct forward_batch *b = f->begun[0];
    const float *logits = f->logits;
    if (f->k->device) {
        logits = forward_device_end(f, b) ? NULL : f->chosen.logits;
    } else {
        choose_forms(f);
        pool_run(f->pool, pass_and_after, f);
    }
    f->begun[0] = f->begun[1];
    f->begun[1] = NULL;
    return logits;
}

const float *forward_run(struct forward *f, const struct forward_batch *b)
{
    return forward_begin(f, b) ? NULL : forward_end(f);
}

void forward_hidden(struct forward *f, struct kthread *t, const int *row_of, int n, struct act *out)
{
    f->k->rmsnorm(t, f->x, row_of, n, f->m->hidden, f->m->final_norm, f->m->norm_eps, out);
}

const struct err *forward_error(const struct forward *f)
{
    return &f->error;
}

const struct device_result *forward_chosen(const struct forward *f)
{
    return f->k->device ? &f->chosen : NULL;
}
