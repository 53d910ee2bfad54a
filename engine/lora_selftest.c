/* lora_selftest: does the fused path compute what the adapter's file says?
 *
 * Idea: the adapter is pinned as a request would pin it and its file is opened a second time. For the first and the
 * last layer in which a module is adapted, seeded rows go through the kernels' normalization and fused product, with
 * the slot's packed memory; beside it y = W x + s B (A x) is computed in double from the base's dequantized rows and
 * the file's own tensors. What differs is the packing, the layout, the scale, the order of rows, or the kernel: all
 * that can go wrong between the file and an answer.
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

struct bench {
    const struct model *m;
    const struct kernels *k;
    struct pool *pool;
    struct act act;
    float *in, *ones;  /* [ROWS][k], [k] */
    float *y, *shrink; /* [ROWS][n], [ROWS][padded rank] */
    float *row;        /* [k]: one row of the base */
    double *x, *ref;   /* [ROWS][k], [ROWS][n] */
    const struct lora_slot *slot;
    int layer, module;
};

static void fused(struct kthread *t, void *arg)
{
    struct bench *b = arg;
    const struct weight *w = &b->m->layer[b->layer].module[b->module];
    const struct lora_seg seg = {.row0 = 0, .rows = ROWS, .nuse = 1, .use = {{&b->slot->table, 1}}};
    const struct lora_batch batch = {.nseg = 1, .seg = &seg, .modules = LORA_MODULES};
    b->k->rmsnorm(t, b->in, NULL, ROWS, w->k, b->ones, b->m->norm_eps, &b->act);
    pool_barrier(t);
    struct mm mm = {.in = &b->act,
                    .rows = ROWS,
                    .nout = 1,
                    .lora = &batch,
                    .layer = b->layer,
                    .shrink = b->shrink,
                    .shrink_ld = lora_rank_pad(b->slot->max_rank)};
    mm.out[0] = (struct mm_out){
        .w = w, .y = b->y, .ldy = w->n, .bias = b->m->layer[b->layer].bias[b->module], .module = b->module};
    b->k->matmul(t, &mm);
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

static void plain_base(const struct bench *b, const struct weight *w)
{
    const float *bias = b->m->layer[b->layer].bias[b->module];
    for (int o = 0; o < w->n; o++) {
        weight_row(w, o, b->row);
        for (int r = 0; r < ROWS; r++) {
            double sum = bias ? (double)bias[o] : 0;
            for (int i = 0; i < w->k; i++) sum += (double)b->row[i] * b->x[r * w->k + i];
            b->ref[r * w->n + o] = sum;
        }
    }
}

static void plain_adapter(const struct bench *b, const struct weight *w, const struct adapter_part *p)
{
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < p->r; j++) {
            double v = 0;
            for (int i = 0; i < w->k; i++) v += (double)st_get(p->a, (int64_t)j * w->k + i) * b->x[r * w->k + i];
            v *= (double)p->scale;
            for (int o = 0; o < w->n; o++) b->ref[r * w->n + o] += v * (double)st_get(p->b, (int64_t)o * p->r + j);
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

static void seed_rows(struct bench *b, int k)
{
    uint64_t state = SEED + (uint64_t)(b->layer * LORA_MODULES + b->module);
    for (int i = 0; i < ROWS * k; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
        b->in[i] = (float)((double)(state >> 40) / (1 << 23) - 1);
    }
}

static double error_of(struct bench *b, const struct adapter_part *p)
{
    const struct weight *w = &b->m->layer[b->layer].module[b->module];
    seed_rows(b, w->k);
    normalize(b, w->k);
    plain_base(b, w);
    plain_adapter(b, w, p);
    pool_run(b->pool, fused, b);
    return largest_error(b, w->n);
}

/* --- whole --- */

static int bench_init(struct bench *b, const struct model *m, const struct lora_slot *slot, struct err *e)
{
    int k = 0, n = 0;
    for (int i = 0; i < LORA_MODULES; i++) {
        if (m->desc.in[i] > k) k = m->desc.in[i];
        if (m->desc.out[i] > n) n = m->desc.out[i];
    }
    size_t rank = (size_t)lora_rank_pad(slot->max_rank), in = (size_t)k, out = (size_t)n;
    *b = (struct bench){.m = m, .slot = slot, .k = kernels_pick(NULL, m->prec)};
    b->in = calloc(ROWS * in, sizeof *b->in);
    b->ones = calloc(in, sizeof *b->ones);
    b->y = calloc(ROWS * out, sizeof *b->y);
    b->shrink = aligned_alloc(64, MM_OUTS * ROWS * rank * sizeof *b->shrink);
    b->row = calloc(in, sizeof *b->row);
    b->x = calloc(ROWS * in, sizeof *b->x);
    b->ref = calloc(ROWS * out, sizeof *b->ref);
    if (!b->in || !b->ones || !b->y || !b->shrink || !b->row || !b->x || !b->ref)
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
}

/* The first and the last layer in which the module is adapted; -1 where none. */
static void layers_of(const struct adapter *a, int module, int layer[2])
{
    layer[0] = layer[1] = -1;
    for (int l = 0; l < a->layers; l++) {
        if (!a->part[l * LORA_MODULES + module].a) continue;
        if (layer[0] < 0) layer[0] = l;
        layer[1] = l;
    }
}

static void measure(struct bench *b, const struct adapter *a, double err_of[LORA_MODULES])
{
    for (b->module = 0; b->module < LORA_MODULES; b->module++) {
        int layer[2];
        layers_of(a, b->module, layer);
        err_of[b->module] = -1;
        for (int i = 0; i < 2 && layer[i] >= 0 && (i == 0 || layer[1] != layer[0]); i++) {
            b->layer = layer[i];
            double worst = error_of(b, &a->part[b->layer * LORA_MODULES + b->module]);
            if (!(worst <= err_of[b->module])) err_of[b->module] = worst;
        }
    }
}

int lora_selftest(struct lora_set *s, const char *digest, double err_of[LORA_MODULES], struct err *e)
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
    if (lora_open_folder(s, digest, path, &a, e) || bench_init(&b, s->m, slot, e)) goto out;
    measure(&b, a, err_of);
    rc = 0;
out:
    bench_close(&b);
    adapter_close(a);
    free(path);
    lora_unpin(s, slot);
    return rc;
}
