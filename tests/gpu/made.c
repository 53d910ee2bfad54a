/* made: see made.h. A weight of the model has a shape, a number and no data; place.c lets the device fill it. Its amplitude
 * is such that a layer's outputs are of the size of its inputs, so that logits stay finite and tokens differ. */
#include "tests/gpu/made.h"
#include "kernels/convert.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK 2048   /* rows of a prompt's step */
#define ADAPTER_A 16 /* an adapter's A and B: 1 / so much of a weight's amplitude */
#define EMBED_SCALE 1.0f
#define ROW_LOGITS MADE_BATCH

const struct made_shape made_shapes[] = {
    {"tiny", 2, 64, 4, 2, 16, 96, 320, 10000, true, true},
    {"qwen2.5-0.5b", 24, 896, 14, 2, 64, 4864, 151936, 1000000, true, true},
    {"llama-3-8b", 32, 4096, 32, 8, 128, 14336, 128256, 500000, false, false},
};
const int made_count = sizeof made_shapes / sizeof *made_shapes;

static void die(const char *what, const struct err *e)
{
    fprintf(stderr, "%s: %s\n", what, e->msg);
    exit(1);
}

static void *take(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);
    if (p) return p;
    fprintf(stderr, "no memory for %zu bytes\n", n * size);
    exit(1);
}

const struct made_shape *made_named(const char *name)
{
    for (int i = 0; i < made_count; i++)
        if (!strcmp(made_shapes[i].name, name)) return &made_shapes[i];
    return NULL;
}

/* --- the model --- */

/* `number`: layer * 16 + module; the embedding has 1 << 20, the head one more. */
static struct weight weight_of(int n, int k, size_t number, float scale)
{
    return (struct weight){.layout = LAYOUT_BF16, .n = n, .k = k, .bytes = number, .factor = scale};
}

static float *floats(size_t n, float value)
{
    float *f = take(n, sizeof *f);
    for (size_t i = 0; i < n; i++) f[i] = value;
    return f;
}

static void make_layer(struct model_layer *l, const struct made_shape *s, int number)
{
    int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    const int n[LORA_MODULES] = {q, kv, kv, s->hidden, s->mlp, s->mlp, s->hidden};
    const int k[LORA_MODULES] = {s->hidden, s->hidden, s->hidden, q, s->hidden, s->hidden, s->mlp};
    l->attn_norm = floats((size_t)s->hidden, 1);
    l->mlp_norm = floats((size_t)s->hidden, 1);
    for (int i = 0; i < LORA_MODULES; i++) {
        l->module[i] = weight_of(n[i], k[i], (size_t)(number * 16 + i), sqrtf(3.0f / (float)k[i]));
        if (s->bias && i <= LM_V) l->bias[i] = floats((size_t)n[i], 0.01f);
    }
}

static float *rope_of(const struct made_shape *s, int context)
{
    int half = s->head_dim / 2;
    float *rope = take((size_t)context * (size_t)s->head_dim, sizeof *rope);
    for (int pos = 0; pos < context; pos++)
        for (int i = 0; i < half; i++) {
            double angle = pos * pow(s->theta, -2.0 * i / s->head_dim);
            rope[(pos * half + i) * 2] = (float)cos(angle);
            rope[(pos * half + i) * 2 + 1] = (float)sin(angle);
        }
    return rope;
}

static struct model *model_of(const struct made_shape *s, int context)
{
    struct model *m = take(1, sizeof *m);
    *m = (struct model){.prec = PREC_FAST,
                        .layers = s->layers,
                        .hidden = s->hidden,
                        .heads = s->heads,
                        .kv_heads = s->kv_heads,
                        .head_dim = s->head_dim,
                        .mlp = s->mlp,
                        .vocab = s->vocab,
                        .tokens = s->vocab,
                        .max_context = context,
                        .norm_eps = 1e-5f};
    snprintf(m->name, sizeof m->name, "%s", s->name);
    m->embed = weight_of(s->vocab, s->hidden, 1 << 20, EMBED_SCALE);
    m->head_own = weight_of(s->vocab, s->hidden, (1 << 20) + 1, sqrtf(3.0f / (float)s->hidden));
    m->head = s->tied ? &m->embed : &m->head_own;
    m->final_norm = floats((size_t)s->hidden, 1);
    m->rope = rope_of(s, context);
    m->layer = take((size_t)s->layers, sizeof *m->layer);
    for (int i = 0; i < s->layers; i++) make_layer(&m->layer[i], s, i);
    return m;
}

static void model_drop(struct model *m)
{
    for (int i = 0; i < m->layers; i++) {
        free(m->layer[i].attn_norm), free(m->layer[i].mlp_norm);
        for (int j = 0; j < LORA_MODULES; j++) free(m->layer[i].bias[j]);
    }
    free(m->layer), free(m->rope), free(m->final_norm), free(m);
}

/* --- adapters: one set of values, put once for each --- */

static uint32_t random_state = 1;

static uint16_t *random_matrix(size_t n, float scale)
{
    uint16_t *p = take(n, sizeof *p);
    for (size_t i = 0; i < n; i++) {
        random_state = random_state * 1664525u + 1013904223u;
        p[i] = bf16_of_f32(((float)(random_state >> 8) * 0x1p-23f - 1) * scale);
    }
    return p;
}

static void make_module(struct made *w, const struct weight *base, struct lora_mod *to, char **at)
{
    size_t r = (size_t)w->rank, n = (size_t)base->n, k = (size_t)base->k;
    uint16_t *a = random_matrix(r * k, sqrtf(3.0f / (float)k)), *b = random_matrix(n * r, 1.0f / ADAPTER_A);
    lora_mod_pack(to, LORA_BF16, *at, w->rank, base->n, base->k, 1, T_BF16, a, b, NULL);
    *at += lora_mod_bytes(LORA_BF16, w->rank, base->n, base->k);
    free(a), free(b);
}

/* All layers share one layer's values: 32 layers of random numbers would take longer than what is measured. */
static void make_adapters(struct made *w, int adapters)
{
    const struct model *m = w->m;
    size_t bytes = 64;
    for (int i = 0; i < LORA_MODULES; i++)
        bytes += lora_mod_bytes(LORA_BF16, w->rank, m->layer[0].module[i].n, m->layer[0].module[i].k);
    w->mod = take((size_t)m->layers * LORA_MODULES, sizeof *w->mod);
    w->mod_bytes = aligned_alloc(64, (bytes + 63) / 64 * 64);
    char *at = w->mod_bytes;
    for (int i = 0; i < LORA_MODULES; i++) make_module(w, &m->layer[0].module[i], &w->mod[i], &at);
    for (int i = LORA_MODULES; i < m->layers * LORA_MODULES; i++) w->mod[i] = w->mod[i % LORA_MODULES];
    for (int i = 0; i < adapters; i++) {
        struct err e = {0};
        w->table[i] = (struct lora_table){.mod = w->mod, .slot = i};
        if (device_adapter_put(w->device, i, &w->table[i], &e)) die("an adapter", &e);
    }
}

/* Each adapter takes pages of 64 KB for each layer's site. */
static int64_t adapter_room(const struct made *w, int adapters)
{
    const struct model *m = w->m;
    size_t layer = 0;
    for (int i = 0; i < LORA_MODULES; i++) {
        const struct weight *x = &m->layer[0].module[i];
        layer += (size_t)(w->rank + 8) * (size_t)(x->n + x->k + 64) * 2 + (64 << 10);
    }
    return (int64_t)(layer * (size_t)m->layers * (size_t)(adapters + 1));
}

/* --- open, close --- */

static void start_device(struct made *w, int batch, int adapters)
{
    struct err e = {0};
    const struct model *m = w->m;
    size_t page = (size_t)m->kv_heads * 2 * KV_PAGE * (size_t)m->head_dim * 2 * (size_t)m->layers;
    struct model_device_options o = {.kv_type = KV_BF16,
                                     .max_rows = w->most_rows,
                                     .max_seqs = batch,
                                     .max_logits = batch,
                                     .max_segs = batch,
                                     .max_rank = lora_rank_pad(w->rank),
                                     .slots = MADE_ADAPTERS,
                                     .adapter_bytes = adapter_room(w, adapters)};
    o.kv_bytes = (int64_t)(page * (size_t)(kv_pages_of(w->context) * batch + 1));
    if (device_open(&w->device, "cuda", 1, &e)) die("no device", &e);
    if (model_to_device(m, w->device, &o, &w->plan, &e)) die("the model", &e);
}

void made_open(struct made *w, const struct made_shape *s, int batch, int context, int adapters, int rank)
{
    struct err e = {0};
    memset(w, 0, sizeof *w);
    w->rank = rank, w->context = context;
    w->most_rows = context * batch < CHUNK ? context * batch : CHUNK;
    if (w->most_rows < batch) w->most_rows = batch;
    w->m = model_of(s, context);
    start_device(w, batch, adapters);
    make_adapters(w, adapters);
    if (pool_new(&w->pool, 1, &e)) die("threads", &e);
    if (kv_pool_init_on(&w->kv, w->m, KV_BF16, &w->plan, device_room(w->device, ROOM_KV), &e)) die("pages", &e);
    if (forward_new(&w->f, w->m, device_kernels(w->device), w->pool, &w->kv.cache, w->most_rows, batch,
                    lora_rank_pad(rank), &e))
        die("passes", &e);
    for (int i = 0; i < batch; i++) {
        if (kv_seq_init(&w->seq[i], context, &e)) die("a sequence", &e);
        if (!kv_seq_reserve(&w->kv, &w->seq[i], context)) die("no pages left", &e);
    }
}

void made_close(struct made *w)
{
    for (int i = 0; i < MADE_BATCH; i++) {
        if (!w->seq[i].page) continue;
        kv_seq_release(&w->kv, &w->seq[i]);
        kv_seq_close(&w->seq[i]);
    }
    forward_free(w->f);
    kv_pool_close(&w->kv);
    pool_free(w->pool);
    device_close(w->device);
    free(w->mod), free(w->mod_bytes);
    model_drop(w->m);
}

/* --- passes --- */

static const float *run(struct made *w, const struct forward_batch *b)
{
    const float *logits = forward_run(w->f, b);
    if (!logits) die("the device", forward_error(w->f));
    return logits;
}

/* Runs of rows of one adapter; -> how many. */
static int segments(struct made *w, const struct made_step *s, struct lora_seg seg[MADE_BATCH])
{
    int n = 0, last = -1;
    for (int i = 0; i < s->batch; i++) {
        int a = s->of ? s->of[i] : s->adapters ? i * s->adapters / s->batch : -1;
        if (a >= 0 && a != last) seg[n++] = (struct lora_seg){i, 0, 1, {{&w->table[a], 1 + 0.25f * (float)(a % 4)}}};
        if (a >= 0) seg[n - 1].rows++;
        last = a;
    }
    return n;
}

static void choices(struct device_choice *c, int n)
{
    for (int i = 0; i < n; i++) c[i] = (struct device_choice){.here = true, .top_p = 1};
}

void made_decode(struct made *w, const struct made_step *s)
{
    struct attn_seq seq[MADE_BATCH];
    struct lora_seg seg[MADE_BATCH];
    struct device_choice choice[MADE_BATCH];
    int wanted[MADE_BATCH], nseg = segments(w, s, seg);
    for (int i = 0; i < s->batch; i++) {
        seq[i] = (struct attn_seq){i, 1, s->pos, w->seq[i].page};
        wanted[i] = i;
    }
    choices(choice, s->batch);
    const struct forward_batch b = {.rows = s->batch,
                                    .token = s->token,
                                    .nseq = s->batch,
                                    .seq = seq,
                                    .lora = {.nseg = nseg, .seg = seg, .modules = LORA_MODULES},
                                    .max_rank = nseg ? lora_rank_pad(w->rank) : 0,
                                    .nlogits = s->batch,
                                    .logit_row = wanted,
                                    .choice = s->logits ? NULL : choice};
    const float *logits = run(w, &b);
    if (s->logits) memcpy(s->logits, logits, (size_t)s->batch * (size_t)w->m->vocab * sizeof *logits);
    const struct device_result *chosen = forward_chosen(w->f);
    for (int i = 0; i < s->batch && !s->logits; i++) {
        if (!chosen->finite[i]) {
            fprintf(stderr, "row %d has logits that are not finite\n", i);
            exit(1);
        }
        s->token[i] = chosen->id[i];
    }
}

static int32_t prompt_token(const struct made *w, int seq, int pos)
{
    return (int32_t)(((uint32_t)seq * 2654435761u + (uint32_t)pos * 40503u + 17u) % (uint32_t)w->m->vocab);
}

void made_prefill(struct made *w, int batch, int length)
{
    int32_t *token = take((size_t)w->most_rows, sizeof *token);
    for (int i = 0; i < batch; i++)
        for (int pos = 0, rows; pos < length; pos += rows) {
            rows = length - pos < w->most_rows ? length - pos : w->most_rows;
            for (int j = 0; j < rows; j++) token[j] = prompt_token(w, i, pos + j);
            const struct attn_seq seq = {0, rows, pos, w->seq[i].page};
            const struct forward_batch b = {.rows = rows, .token = token, .nseq = 1, .seq = &seq};
            run(w, &b);
        }
    free(token);
}

double made_bytes(const struct made *w, int batch, int pos, int adapters)
{
    const struct model *m = w->m;
    double weights = 0, lora = 0, kv = 2.0 * m->kv_heads * m->head_dim * 2 * m->layers;
    for (int i = 0; i < LORA_MODULES; i++) {
        const struct weight *x = &m->layer[0].module[i];
        weights += 2.0 * x->n * x->k;
        lora += 2.0 * w->rank * (x->n + x->k);
    }
    return m->layers * (weights + adapters * lora) + 2.0 * m->vocab * m->hidden + batch * (pos + 1) * kv;
}
