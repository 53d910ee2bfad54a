/* lora_selftest: does the fused path compute what the adapter's file says?
 *
 * Idea: the adapter is pinned as a request would pin it and its file is opened a second time. For the first and the
 * last layer in which a module is adapted, seeded rows go through the kernels' normalization and fused product, with
 * the slot's packed memory; beside it y = g (W x + s B (A x)) is computed in double from the base's dequantized rows and
 * the file's own tensors, DoRA's g from the norms. The same for the first and last expert and the router of those layers
 * and for lm_head; of the embedding, seeded tokens are looked up. What differs is the packing, the layout, the scale,
 * the order of rows, or the kernel: all that can go wrong between the file and an answer.
 *
 * The error of a module is the largest of its rows' ||y - ref|| / ||ref||. In EXACT about 1e-6 is expected; in FAST
 * what rounding costs: up to some percent on a 4-bit base. The model is never merged: memory is a few rows.
 *
 * Blocking; the caller's thread, with a pool of its own, so the step is not disturbed. */
#include "engine/lora_impl.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 4
#define SEED 0x5EEDu

const char *const lora_check_name[LORA_CHECKS] = {
    [LM_Q] = "q_proj",
    [LM_K] = "k_proj",
    [LM_V] = "v_proj",
    [LM_O] = "o_proj",
    [LM_GATE] = "gate_proj",
    [LM_UP] = "up_proj",
    [LM_DOWN] = "down_proj",
    [CHECK_EXPERTS] = "experts",
    [CHECK_ROUTER] = "router",
    [CHECK_HEAD] = "lm_head",
    [CHECK_EMBED] = "embed_tokens",
};

/* --- pin and wait --- */

struct pinned {
    pthread_mutex_t lock;
    pthread_cond_t done;
    bool came;
    struct lora_slot *slot;
    struct err err;
};

static void on_pin(void *u, struct lora_slot *slot, bool cold, const struct err *e)
{
    struct pinned *p = u;
    (void)cold;
    pthread_mutex_lock(&p->lock);
    p->slot = slot;
    if (e) p->err = *e;
    p->came = true;
    pthread_cond_signal(&p->done);
    pthread_mutex_unlock(&p->lock);
}

static struct lora_slot *pin_and_wait(struct lora_set *s, const char *digest, struct err *e)
{
    struct pinned p = {.lock = PTHREAD_MUTEX_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};
    lora_pin(s, digest, on_pin, &p);
    pthread_mutex_lock(&p.lock);
    while (!p.came) pthread_cond_wait(&p.done, &p.lock); /* lora_pin bounds it */
    pthread_mutex_unlock(&p.lock);
    if (!p.slot) err_set(e, p.err.code, "%s", p.err.msg);
    return p.slot;
}

/* --- the two computations --- */

/* An adapted matrix: what the base has there and what the file says. */
struct target {
    const struct weight *w;
    const float *bias; /* or NULL */
    const struct adapter_part *part;
    int layer, expert, module; /* as in a product */
};

struct bench {
    const struct model *m;
    const struct kernels *k;
    struct pool *pool;
    struct act act;
    float *in, *ones;     /* [ROWS][k], [k] */
    float *y, *shrink;    /* [ROWS][n], [ROWS][padded rank] */
    float *row;           /* [k]: one row of the base */
    double *x, *ref, *up; /* [ROWS][k], [ROWS][n], [ROWS][rank]: scale A x */
    const struct lora_slot *slot;
    struct target at;
    int32_t token[ROWS];
};

static struct lora_batch batch_of(const struct bench *b, struct lora_seg *seg)
{
    *seg = (struct lora_seg){.row0 = 0, .rows = ROWS, .nuse = 1, .use = {{&b->slot->table, 1}}};
    return (struct lora_batch){.nseg = 1, .seg = seg, .modules = LORA_MODULES, .experts = b->m->experts};
}

static void fused(struct kthread *t, void *arg)
{
    struct bench *b = arg;
    const struct weight *w = b->at.w;
    struct lora_seg seg;
    const struct lora_batch batch = batch_of(b, &seg);
    b->k->rmsnorm(t, b->in, NULL, ROWS, w->k, b->ones, b->m->norm_eps, &b->act);
    pool_barrier(t);
    struct mm mm = {.in = &b->act,
                    .rows = ROWS,
                    .nout = 1,
                    .lora = &batch,
                    .layer = b->at.layer,
                    .expert = b->at.expert,
                    .shrink = b->shrink,
                    .shrink_ld = lora_rank_pad(b->slot->max_rank)};
    mm.out[0] = (struct mm_out){.w = w, .y = b->y, .ldy = w->n, .bias = b->at.bias, .module = b->at.module};
    b->k->matmul(t, &mm);
}

static void embedded(struct kthread *t, void *arg)
{
    struct bench *b = arg;
    struct lora_seg seg;
    const struct lora_batch batch = batch_of(b, &seg);
    b->k->embed(t, &(struct embed){.w = b->at.w, .token = b->token, .rows = ROWS, .lora = &batch, .x = b->y});
}

static void normalize(const struct bench *b, int k)
{
    for (int r = 0; r < ROWS; r++) {
        double sum = 0;
        for (int i = 0; i < k; i++) sum += (double)b->in[r * k + i] * b->in[r * k + i];
        double scale = 1 / sqrt(sum / k + (double)b->m->norm_eps);
        for (int i = 0; i < k; i++) b->x[r * k + i] = (double)b->in[r * k + i] * scale;
    }
}

/* up = scale A x of every row. */
static void plain_shrink(const struct bench *b, int k)
{
    const struct adapter_part *p = b->at.part;
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < p->r; j++) {
            double v = 0;
            for (int i = 0; i < k; i++) v += (double)adapter_part_a(p, j, i) * b->x[r * k + i];
            b->up[r * p->r + j] = v * (double)p->scale;
        }
}

/* g of an output whose base row lies in b->row. */
static double plain_factor(const struct bench *b, int o, int k)
{
    const struct adapter_part *p = b->at.part;
    if (!p->magnitude) return 1;
    double norm = 0;
    for (int i = 0; i < k; i++) {
        double w = (double)b->row[i];
        for (int j = 0; j < p->r; j++)
            w += (double)p->scale * (double)adapter_part_b(p, o, j) * (double)adapter_part_a(p, j, i);
        norm += w * w;
    }
    return (double)st_get(p->magnitude, p->b_row0 + o) / sqrt(norm);
}

static void plain(const struct bench *b)
{
    const struct weight *w = b->at.w;
    const struct adapter_part *p = b->at.part;
    plain_shrink(b, w->k);
    for (int o = 0; o < w->n; o++) {
        weight_row(w, o, b->row);
        double g = plain_factor(b, o, w->k);
        for (int r = 0; r < ROWS; r++) {
            double sum = 0;
            for (int i = 0; i < w->k; i++) sum += (double)b->row[i] * b->x[r * w->k + i];
            for (int j = 0; j < p->r; j++) sum += b->up[r * p->r + j] * (double)adapter_part_b(p, o, j);
            b->ref[r * w->n + o] = g * sum + (b->at.bias ? (double)b->at.bias[o] : 0);
        }
    }
}

static void plain_embedded(const struct bench *b)
{
    const struct weight *w = b->at.w;
    const struct adapter_part *p = b->at.part;
    for (int r = 0; r < ROWS; r++) {
        weight_row(w, b->token[r], b->row);
        for (int i = 0; i < w->k; i++) {
            double sum = 0;
            for (int j = 0; j < p->r; j++)
                sum += (double)adapter_part_a(p, j, b->token[r]) * (double)adapter_part_b(p, i, j);
            b->ref[r * w->k + i] = (double)b->row[i] + (double)p->scale * sum;
        }
    }
}

static double largest_error(const struct bench *b, int n)
{
    double worst = 0;
    for (int r = 0; r < ROWS; r++) {
        double diff = 0, norm = 0;
        for (int o = 0; o < n; o++) {
            double d = (double)b->y[r * n + o] - b->ref[r * n + o];
            diff += d * d;
            norm += b->ref[r * n + o] * b->ref[r * n + o];
        }
        double rel = norm > 0 ? sqrt(diff / norm) : sqrt(diff);
        if (!(rel <= worst)) worst = rel; /* NaN too */
    }
    return worst;
}

static uint64_t next_seed(uint64_t *state)
{
    return (*state = *state * 6364136223846793005u + 1442695040888963407u) >> 40; /* Knuth's MMIX */
}

static void seed_rows(struct bench *b, int k)
{
    uint64_t state = SEED + (uint64_t)(b->at.layer * LORA_MODULES + b->at.module);
    for (int i = 0; i < ROWS * k; i++) b->in[i] = (float)((double)next_seed(&state) / (1 << 23) - 1);
}

/* Errors add up to the worst; -1 stands for none yet. */
static void note(double *worst, double error)
{
    if (!(error <= *worst)) *worst = error;
}

static void check(struct bench *b, struct target at, double *worst)
{
    b->at = at;
    if (!at.part->a) return;
    seed_rows(b, at.w->k);
    normalize(b, at.w->k);
    plain(b);
    pool_run(b->pool, fused, b);
    note(worst, largest_error(b, at.w->n));
}

static void check_embed(struct bench *b, const struct adapter *a, double *worst)
{
    uint64_t state = SEED;
    if (!a->embed.a) return;
    const struct weight *full = b->slot->table.embed_full;
    b->at = (struct target){.w = full ? full : &b->m->embed, .part = &a->embed};
    for (int r = 0; r < ROWS; r++) b->token[r] = (int32_t)(next_seed(&state) % (uint64_t)b->m->desc.vocab);
    plain_embedded(b);
    pool_run(b->pool, embedded, b);
    note(worst, largest_error(b, b->at.w->k));
}

/* --- whole --- */

static int bench_init(struct bench *b, const struct model *m, const struct adapter *a, const struct lora_slot *slot,
                      struct err *e)
{
    const struct base_desc *d = &m->desc;
    int k = d->hidden > d->expert_mlp ? d->hidden : d->expert_mlp, n = d->experts > k ? d->experts : k;
    for (int i = 0; i < LORA_MODULES; i++) {
        if (d->in[i] > k) k = d->in[i];
        if (d->out[i] > n) n = d->out[i];
    }
    if (a->head.a && d->vocab > n) n = d->vocab;
    k = (k + GROUP - 1) / GROUP * GROUP;
    size_t rank = (size_t)lora_rank_pad(slot->max_rank), in = (size_t)k, out = (size_t)n;
    *b = (struct bench){.m = m, .slot = slot, .k = kernels_pick(NULL, m->prec)};
    b->in = calloc(ROWS * in, sizeof *b->in);
    b->ones = calloc(in, sizeof *b->ones);
    b->y = calloc(ROWS * out, sizeof *b->y);
    b->shrink = aligned_alloc(64, MM_OUTS * ROWS * rank * sizeof *b->shrink);
    b->row = calloc(in, sizeof *b->row);
    b->x = calloc(ROWS * in, sizeof *b->x);
    b->ref = calloc(ROWS * out, sizeof *b->ref);
    b->up = calloc(ROWS * rank, sizeof *b->up);
    if (!b->in || !b->ones || !b->y || !b->shrink || !b->row || !b->x || !b->ref || !b->up)
        return err_set(e, ERR_NO_MEMORY, "no memory for the self-test");
    for (int i = 0; i < k; i++) b->ones[i] = 1;
    if (act_init(&b->act, ROWS, k, m->prec == PREC_EXACT ? 0 : ACT_BF16 | ACT_Q8, e)) return -1;
    return pool_new(&b->pool, 1, e);
}

static void bench_close(struct bench *b)
{
    if (b->pool) pool_free(b->pool);
    act_close(&b->act);
    free(b->in);
    free(b->ones);
    free(b->y);
    free(b->shrink);
    free(b->row);
    free(b->x);
    free(b->ref);
    free(b->up);
}

static struct target module_at(const struct bench *b, const struct adapter *a, int layer, int module)
{
    const struct model_layer *l = &b->m->layer[layer];
    return (struct target){
        &l->module[module], l->bias[module], &a->part[layer * LORA_MODULES + module], layer, -1, module};
}

/* The first and the last layer in which the module is adapted. */
static void check_module(struct bench *b, const struct adapter *a, int module, double *worst)
{
    int first = 0, last = a->layers - 1;
    while (first < a->layers && !a->part[first * LORA_MODULES + module].a) first++;
    if (first == a->layers) return;
    while (!a->part[last * LORA_MODULES + module].a) last--;
    check(b, module_at(b, a, first, module), worst);
    if (last != first) check(b, module_at(b, a, last, module), worst);
}

/* Of a layer's experts the first and the last. */
static void check_experts(struct bench *b, const struct adapter *a, int layer, double *worst)
{
    for (int x = 0; x<a->experts; x += a->experts> 1 ? a->experts - 1 : 1)
        for (int i = 0; i < EXPERT_PARTS; i++) {
            const struct weight *w = lora_base_of(b->m, layer, x, LM_GATE + i);
            const struct adapter_part *p =
                &a->expert[((size_t)layer * (size_t)a->experts + (size_t)x) * EXPERT_PARTS + (size_t)i];
            check(b, (struct target){.w = w, .part = p, .layer = layer, .expert = x, .module = LM_GATE + i}, worst);
        }
}

static void measure(struct bench *b, const struct adapter *a, double err_of[LORA_CHECKS])
{
    for (int i = 0; i < LORA_CHECKS; i++) err_of[i] = -1;
    for (int i = 0; i < LORA_MODULES; i++) check_module(b, a, i, &err_of[i]);
    for (int layer = 0; a->expert && layer<a->layers; layer += a->layers> 1 ? a->layers - 1 : 1) {
        const struct weight *router = &b->m->layer[layer].router;
        check_experts(b, a, layer, &err_of[CHECK_EXPERTS]);
        check(
            b,
            (struct target){.w = router, .part = &a->router[layer], .layer = layer, .expert = -1, .module = MM_ROUTER},
            &err_of[CHECK_ROUTER]);
    }
    const struct weight *full = b->slot->table.head_full;
    check(b, (struct target){.w = full ? full : b->m->head, .part = &a->head, .expert = -1, .module = MM_HEAD},
          &err_of[CHECK_HEAD]);
    check_embed(b, a, &err_of[CHECK_EMBED]);
}

int lora_selftest(struct lora_set *s, const char *digest, double err_of[LORA_CHECKS], struct err *e)
{
    struct lora_slot *slot = pin_and_wait(s, digest, e);
    if (!slot) return -1;
    struct adapter *a = NULL;
    struct bench b = {0};
    int rc = -1;
    char *path = lora_path_of(s, digest);
    if (!path) {
        err_set(e, ERR_ADAPTER_NOT_LOADED, "no adapter %.80s is loaded", digest);
        goto out;
    }
    if (lora_open_folder(s, digest, path, NULL, NULL, &a, e) || bench_init(&b, s->m, a, slot, e)) goto out;
    measure(&b, a, err_of);
    rc = 0;
out:
    bench_close(&b);
    adapter_close(a);
    free(path);
    lora_unpin(s, slot);
    return rc;
}
