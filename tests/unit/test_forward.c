/* The forward pass of every kind of family on small random models, against a plain pass in float64 that shares no code
 * with it: dense, Gemma-like, experts; with adapters on every module, on experts, router, embedding and head, stacked
 * and whole; and the same bits however the rows come in. */
#include "engine/forward.h"
#include "engine/sampler.h"
#include "tests/unit/tables.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { HIDDEN = 64, HEADS = 4, KV_HEADS = 2, DIM = 16, MLP = 96, EXPERT_MLP = 32, VOCAB = 101, LAYERS = 3, ROWS = 40 };
enum { EXPERTS = 6, RANK = 4, ADAPTERS = 2, PAGES = 4 };
#define LORA_SCALE 0.5f
#define EPS 1e-5f

struct family_spec {
    const char *name;
    bool post, head_norms, biases, tied, norm_topk;
    int window; /* of odd layers */
    int rotary; /* 0: all */
    float attn_scale, attn_softcap, logit_softcap, embed_scale;
    enum mlp_act act;
    int used;         /* experts a row takes; 0: dense */
    int dense_layers; /* the first ones of a model of experts */
};

static const struct family_spec FAMILIES[] = {
    {.name = "llama", .tied = true},
    {.name = "qwen2", .biases = true},
    {.name = "qwen3", .head_norms = true},
    {.name = "part rotation", .rotary = 8, .window = 8},
    {.name = "gemma2",
     .post = true,
     .tied = true,
     .window = 8,
     .attn_scale = 0.2f,
     .attn_softcap = 2,
     .logit_softcap = 3,
     .embed_scale = 8,
     .act = MLP_GELU_TANH},
    {.name = "gemma3",
     .post = true,
     .tied = true,
     .head_norms = true,
     .window = 17,
     .embed_scale = 8,
     .act = MLP_GELU_TANH},
    {.name = "mixtral", .used = 2, .norm_topk = true},
    {.name = "qwen3moe", .used = 4, .head_norms = true, .dense_layers = 1},
    {.name = "experts with norms behind", .used = 1, .post = true, .norm_topk = true},
};
#define FAMILIES_N ((int)(sizeof FAMILIES / sizeof *FAMILIES))

/* --- a model and what adapts it --- */

/* A matrix with its bias and two adapters, as floats for the plain pass. */
struct mat {
    int n, k;
    float *w, *bias;
    float *a[ADAPTERS], *b[ADAPTERS]; /* [RANK][k], [n][RANK] */
};

struct plain_layer {
    struct mat module[LORA_MODULES], router, expert[EXPERTS][3];
};

struct world {
    const struct family_spec *s;
    enum precision prec;
    struct model m;
    struct model_layer layer[LAYERS];
    struct plain_layer plain[LAYERS];
    struct mat embed, head;
    struct weight embed_full, head_full;
    float *embed_whole, *head_whole; /* of the third adapter */
    struct lora_mod mod[ADAPTERS][LAYERS * LORA_MODULES], expert[ADAPTERS][LAYERS * EXPERTS * EXPERT_PARTS];
    struct lora_mod router[ADAPTERS][LAYERS], head_mod[ADAPTERS];
    struct lora_embed embed_mod[ADAPTERS];
    struct lora_table table[ADAPTERS + 1];
    void *owned[4096];
    int nowned;
};

static uint64_t seed_state;

static float next_float(void) /* -1 .. 1 */
{
    seed_state = seed_state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(seed_state >> 33) / 1073741824.0 - 1);
}

static void *own(struct world *w, size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    assert_non_null(p);
    assert_true(w->nowned < 4096);
    return w->owned[w->nowned++] = p;
}

static float *vector(struct world *w, size_t n, float size, float middle)
{
    float *v = own(w, n * sizeof *v);
    for (size_t i = 0; i < n; i++) v[i] = middle + size * next_float();
    return v;
}

static struct mat mat_of(struct world *w, int n, int k, bool bias)
{
    struct mat m = {.n = n, .k = k, .w = vector(w, (size_t)(n * k), 2 / sqrtf((float)k), 0)};
    if (bias) m.bias = vector(w, (size_t)n, 0.5f, 0);
    for (int i = 0; i < ADAPTERS; i++) {
        m.a[i] = vector(w, (size_t)(RANK * k), 1 / sqrtf((float)k), 0);
        m.b[i] = vector(w, (size_t)(n * RANK), 1, 0);
    }
    return m;
}

static void pack(struct world *w, struct weight *out, int n, int k, const float *v, enum precision prec)
{
    struct err e = {0};
    if (weight_pack(out, T_F32, v, n, k, NULL, prec, &e)) fail_msg("%s", e.msg);
    (void)w;
}

static void adapt(struct world *w, const struct mat *m, int adapter, struct lora_mod *mod)
{
    enum lora_type type = w->prec == PREC_FAST ? LORA_BF16 : LORA_F32;
    void *at = own(w, lora_mod_bytes(type, RANK, m->n, m->k));
    lora_mod_pack(mod, type, at, RANK, m->n, m->k, LORA_SCALE, T_F32, m->a[adapter], m->b[adapter], NULL);
}

static void make_dense(struct world *w, int l)
{
    static const int shape[LORA_MODULES][2] = {{HEADS * DIM, HIDDEN},
                                               {KV_HEADS * DIM, HIDDEN},
                                               {KV_HEADS * DIM, HIDDEN},
                                               {HIDDEN, HEADS * DIM},
                                               {MLP, HIDDEN},
                                               {MLP, HIDDEN},
                                               {HIDDEN, MLP}};
    int modules = w->s->used && l >= w->s->dense_layers ? LM_GATE : LORA_MODULES;
    for (int i = 0; i < modules; i++) {
        struct mat *m = &w->plain[l].module[i];
        *m = mat_of(w, shape[i][0], shape[i][1], w->s->biases && i < LM_O);
        pack(w, &w->layer[l].module[i], m->n, m->k, m->w, w->prec);
        w->layer[l].bias[i] = m->bias;
        for (int a = 0; a < ADAPTERS; a++) adapt(w, m, a, &w->mod[a][l * LORA_MODULES + i]);
    }
}

static void make_experts(struct world *w, int l)
{
    if (!w->s->used || l < w->s->dense_layers) return;
    struct model_layer *to = &w->layer[l];
    struct plain_layer *p = &w->plain[l];
    p->router = mat_of(w, EXPERTS, HIDDEN, false);
    pack(w, &to->router, EXPERTS, HIDDEN, p->router.w, PREC_EXACT);
    to->expert = own(w, EXPERTS * sizeof *to->expert);
    for (int a = 0; a < ADAPTERS; a++) adapt(w, &p->router, a, &w->router[a][l]);
    for (int e = 0; e < EXPERTS; e++)
        for (int i = 0; i < 3; i++) {
            struct mat *m = &p->expert[e][i];
            *m = i == 2 ? mat_of(w, HIDDEN, EXPERT_MLP, false) : mat_of(w, EXPERT_MLP, HIDDEN, false);
            pack(w, &to->expert[e].part[i], m->n, m->k, m->w, w->prec);
            for (int a = 0; a < ADAPTERS; a++) adapt(w, m, a, &w->expert[a][(l * EXPERTS + e) * EXPERT_PARTS + i]);
        }
}

static float *angles(struct world *w, int rotary, double base)
{
    float *t = own(w, sizeof *t * (size_t)(ROWS * rotary));
    for (int i = 0; i < ROWS * rotary / 2; i++) {
        double angle = i / (rotary / 2) * pow(base, -2.0 * (i % (rotary / 2)) / rotary);
        t[2 * i] = (float)cos(angle), t[2 * i + 1] = (float)sin(angle);
    }
    return t;
}

static void make_layer(struct world *w, int l)
{
    const struct family_spec *s = w->s;
    struct model_layer *to = &w->layer[l];
    to->attn_norm = vector(w, HIDDEN, 0.3f, 1);
    to->mlp_norm = vector(w, HIDDEN, 0.3f, 1);
    if (s->post) to->attn_post = vector(w, HIDDEN, 0.3f, 0.5f), to->mlp_post = vector(w, HIDDEN, 0.3f, 0.5f);
    if (s->head_norms) to->q_norm = vector(w, DIM, 0.3f, 1.5f), to->k_norm = vector(w, DIM, 0.3f, 1);
    if (l % 2 && s->window) to->window = s->window, to->rope = w->m.rope_local;
    make_dense(w, l);
    make_experts(w, l);
}

static void make_ends(struct world *w)
{
    struct model *m = &w->m;
    w->embed = mat_of(w, VOCAB, HIDDEN, false);
    w->head = mat_of(w, VOCAB, HIDDEN, false);
    if (w->s->tied) w->head.w = w->embed.w;
    w->embed_whole = vector(w, VOCAB * HIDDEN, 0.3f, 0);
    w->head_whole = vector(w, VOCAB * HIDDEN, 0.2f, 0);
    pack(w, &m->embed, VOCAB, HIDDEN, w->embed.w, w->prec);
    if (!w->s->tied) pack(w, &m->head_own, VOCAB, HIDDEN, w->head.w, w->prec);
    pack(w, &w->embed_full, VOCAB, HIDDEN, w->embed_whole, w->prec);
    pack(w, &w->head_full, VOCAB, HIDDEN, w->head_whole, w->prec);
    m->head = w->s->tied ? &m->embed : &m->head_own;
    for (int a = 0; a < ADAPTERS; a++) {
        float *by_token = own(w, sizeof(float) * VOCAB * RANK), *b = own(w, sizeof(float) * RANK * HIDDEN);
        for (int i = 0; i < VOCAB * RANK; i++) by_token[i] = w->embed.b[a][i]; /* [vocab][r] as it is */
        for (int i = 0; i < RANK * HIDDEN; i++) b[i] = w->embed.a[a][i];       /* [r][hidden] */
        w->embed_mod[a] = (struct lora_embed){.r = RANK, .scale = LORA_SCALE, .a = by_token, .b = b};
        adapt(w, &w->head, a, &w->head_mod[a]);
        w->table[a] = (struct lora_table){.mod = w->mod[a],
                                          .expert = w->s->used ? w->expert[a] : NULL,
                                          .router = w->s->used ? w->router[a] : NULL,
                                          .head = &w->head_mod[a],
                                          .embed = &w->embed_mod[a]};
    }
    w->table[ADAPTERS] = (struct lora_table){.embed_full = &w->embed_full, .head_full = &w->head_full, .alone = true};
}

static struct world *world_of(const struct family_spec *s, enum precision prec)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    seed_state = (uint64_t)(s - FAMILIES) + 7;
    w->s = s, w->prec = prec;
    w->m = (struct model){.prec = prec,
                          .layers = LAYERS,
                          .hidden = HIDDEN,
                          .heads = HEADS,
                          .kv_heads = KV_HEADS,
                          .head_dim = DIM,
                          .mlp = MLP,
                          .vocab = VOCAB,
                          .max_context = ROWS,
                          .norm_eps = EPS,
                          .rotary = s->rotary,
                          .attn_scale = s->attn_scale,
                          .attn_softcap = s->attn_softcap,
                          .logit_softcap = s->logit_softcap,
                          .embed_scale = s->embed_scale,
                          .act = s->act,
                          .experts = s->used ? EXPERTS : 0,
                          .experts_used = s->used,
                          .expert_mlp = s->used ? EXPERT_MLP : 0,
                          .norm_topk = s->norm_topk,
                          .layer = w->layer,
                          .act_forms = ACT_BF16 | ACT_Q8};
    w->m.rope = angles(w, s->rotary ? s->rotary : DIM, 10000);
    w->m.rope_local = angles(w, s->rotary ? s->rotary : DIM, 100);
    w->m.final_norm = vector(w, HIDDEN, 0.3f, 1);
    for (int l = 0; l < LAYERS; l++) make_layer(w, l);
    make_ends(w);
    return w;
}

static void world_free(struct world *w)
{
    for (int l = 0; l < LAYERS; l++) {
        for (int i = 0; i < LORA_MODULES; i++) weight_close(&w->layer[l].module[i]);
        weight_close(&w->layer[l].router);
        for (int i = 0; w->layer[l].expert && i < EXPERTS * 3; i++)
            weight_close(&w->layer[l].expert[i / 3].part[i % 3]);
    }
    weight_close(&w->m.embed), weight_close(&w->m.head_own);
    weight_close(&w->embed_full), weight_close(&w->head_full);
    for (int i = 0; i < w->nowned; i++) free(w->owned[i]);
    free(w);
}

/* --- who adapts which row --- */

static int32_t token_of(int row)
{
    return (int32_t)(row * 37 % VOCAB);
}

/* The weight of an adapter on a row: none, the first, both, the second, none; the last rows have whole matrices. */
static double use_of(int row, int adapter, bool adapted)
{
    if (!adapted || row < 5 || row >= 36) return 0;
    if (row < 15) return adapter == 0;
    if (row < 25) return adapter == 0 ? 1 : 0.5;
    return row < 33 ? adapter == 1 : 0;
}

static bool whole_of(int row, bool adapted)
{
    return adapted && row >= 36;
}

/* The segments of rows first .. first+rows-1, counted from 0. */
static int segments_of(const struct world *w, int first, int rows, struct lora_seg *out)
{
    const struct lora_table *t = w->table;
    const struct lora_seg all[] = {{5, 10, 1, {{&t[0], 1}}},
                                   {15, 10, 2, {{&t[0], 1}, {&t[1], 0.5f}}},
                                   {25, 8, 1, {{&t[1], 1}}},
                                   {36, 4, 1, {{&t[2], 1}}}};
    int n = 0;
    for (int i = 0; i < 4; i++) {
        int lo = all[i].row0 > first ? all[i].row0 : first, hi = all[i].row0 + all[i].rows;
        if (hi > first + rows) hi = first + rows;
        if (lo >= hi) continue;
        out[n] = all[i];
        out[n].row0 = lo - first, out[n++].rows = hi - lo;
    }
    return n;
}

/* --- the plain pass --- */

struct plain {
    const struct world *w;
    bool adapted;
    double k[LAYERS][ROWS][KV_HEADS * DIM], v[LAYERS][ROWS][KV_HEADS * DIM];
};

static void linear(const struct plain *p, const struct mat *m, int row, const double *x, double *y)
{
    for (int o = 0; o < m->n; o++) {
        y[o] = m->bias ? m->bias[o] : 0;
        for (int i = 0; i < m->k; i++) y[o] += (double)m->w[o * m->k + i] * x[i];
    }
    for (int a = 0; a < ADAPTERS; a++)
        for (int j = 0; j < RANK && use_of(row, a, p->adapted) != 0; j++) {
            double s = 0;
            for (int i = 0; i < m->k; i++) s += (double)m->a[a][j * m->k + i] * x[i];
            for (int o = 0; o < m->n; o++) y[o] += use_of(row, a, true) * LORA_SCALE * s * m->b[a][o * RANK + j];
        }
}

static void norm(const double *x, const float *weight, int n, double *y)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] * x[i];
    for (int i = 0; i < n; i++) y[i] = x[i] / sqrt(sum / n + EPS) * weight[i];
}

static void turn(const struct plain *p, double *x, const float *weight, int layer, int row)
{
    const struct model_layer *l = &p->w->layer[layer];
    int rotary = p->w->s->rotary ? p->w->s->rotary : DIM, half = rotary / 2;
    const float *cs = (l->rope ? l->rope : p->w->m.rope) + row * rotary;
    if (weight) norm(x, weight, DIM, x);
    for (int i = 0; i < half; i++) {
        double a = x[i], b = x[i + half];
        x[i] = a * cs[2 * i] - b * cs[2 * i + 1];
        x[i + half] = b * cs[2 * i] + a * cs[2 * i + 1];
    }
}

static void attend(const struct plain *p, int layer, int row, const double *q, double *out)
{
    const struct family_spec *s = p->w->s;
    int window = p->w->layer[layer].window, first = window && row >= window ? row - window + 1 : 0;
    for (int h = 0; h < HEADS; h++) {
        double sum = 0, e[ROWS];
        for (int t = first; t <= row; t++) {
            double dot = 0;
            for (int d = 0; d < DIM; d++) dot += q[h * DIM + d] * p->k[layer][t][h / 2 * DIM + d];
            dot *= s->attn_scale != 0 ? s->attn_scale : 1 / sqrt(DIM);
            if (s->attn_softcap > 0) dot = s->attn_softcap * tanh(dot / s->attn_softcap);
            sum += e[t] = exp(dot);
        }
        for (int d = 0; d < DIM; d++) {
            out[h * DIM + d] = 0;
            for (int t = first; t <= row; t++) out[h * DIM + d] += e[t] / sum * p->v[layer][t][h / 2 * DIM + d];
        }
    }
}

static double act(enum mlp_act a, double g)
{
    if (a == MLP_SILU) return g / (1 + exp(-g));
    return 0.5 * g * (1 + tanh(sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)));
}

static void mlp(const struct plain *p, const struct mat *gate, const struct mat *up, const struct mat *down, int row,
                const double *h, double *y)
{
    double g[MLP], u[MLP];
    linear(p, gate, row, h, g);
    linear(p, up, row, h, u);
    for (int i = 0; i < gate->n; i++) g[i] = act(p->w->s->act, g[i]) * u[i];
    linear(p, down, row, g, y);
}

static void experts(const struct plain *p, const struct plain_layer *l, int row, const double *h, double *y)
{
    double logit[EXPERTS], all = 0, chosen = 0, one[HIDDEN];
    bool taken[EXPERTS];
    linear(p, &l->router, row, h, logit);
    for (int e = 0; e < EXPERTS; e++) {
        int before = 0;
        for (int i = 0; i < EXPERTS; i++) before += logit[i] > logit[e];
        taken[e] = before < p->w->s->used;
        all += exp(logit[e]);
        if (taken[e]) chosen += exp(logit[e]);
    }
    memset(y, 0, sizeof one);
    for (int e = 0; e < EXPERTS; e++) {
        if (!taken[e]) continue;
        mlp(p, &l->expert[e][0], &l->expert[e][1], &l->expert[e][2], row, h, one);
        for (int i = 0; i < HIDDEN; i++) y[i] += exp(logit[e]) / (p->w->s->norm_topk ? chosen : all) * one[i];
    }
}

static void plain_layer(struct plain *p, int l, int row, double *x)
{
    const struct model_layer *m = &p->w->layer[l];
    const struct plain_layer *w = &p->w->plain[l];
    double h[HIDDEN], q[HEADS * DIM], a[HEADS * DIM], y[HIDDEN];
    norm(x, m->attn_norm, HIDDEN, h);
    linear(p, &w->module[LM_Q], row, h, q);
    linear(p, &w->module[LM_K], row, h, p->k[l][row]);
    linear(p, &w->module[LM_V], row, h, p->v[l][row]);
    for (int i = 0; i < HEADS; i++) turn(p, q + i * DIM, m->q_norm, l, row);
    for (int i = 0; i < KV_HEADS; i++) turn(p, p->k[l][row] + i * DIM, m->k_norm, l, row);
    attend(p, l, row, q, a);
    linear(p, &w->module[LM_O], row, a, y);
    if (m->attn_post) norm(y, m->attn_post, HIDDEN, y);
    for (int i = 0; i < HIDDEN; i++) x[i] += y[i];
    norm(x, m->mlp_norm, HIDDEN, h);
    if (m->expert)
        experts(p, w, row, h, y);
    else
        mlp(p, &w->module[LM_GATE], &w->module[LM_UP], &w->module[LM_DOWN], row, h, y);
    if (m->mlp_post) norm(y, m->mlp_post, HIDDEN, y);
    for (int i = 0; i < HIDDEN; i++) x[i] += y[i];
}

static void plain_embed(const struct plain *p, int row, double *x)
{
    const struct world *w = p->w;
    int token = token_of(row);
    const float *from = whole_of(row, p->adapted) ? w->embed_whole : w->embed.w;
    for (int i = 0; i < HIDDEN; i++) {
        x[i] = from[token * HIDDEN + i];
        for (int a = 0; a < ADAPTERS; a++)
            for (int j = 0; j < RANK; j++)
                x[i] += use_of(row, a, p->adapted) * LORA_SCALE * w->embed.b[a][token * RANK + j] *
                        w->embed.a[a][j * HIDDEN + i];
        if (w->s->embed_scale != 0) x[i] *= w->s->embed_scale;
    }
}

static void plain_row(struct plain *p, int row, double logits[VOCAB])
{
    const struct world *w = p->w;
    double x[HIDDEN], h[HIDDEN];
    plain_embed(p, row, x);
    for (int l = 0; l < LAYERS; l++) plain_layer(p, l, row, x);
    norm(x, w->m.final_norm, HIDDEN, h);
    struct mat head = w->head;
    if (whole_of(row, p->adapted)) head.w = w->head_whole;
    linear(p, &head, row, h, logits);
    for (int i = 0; i < VOCAB && w->s->logit_softcap > 0; i++)
        logits[i] = w->s->logit_softcap * tanh(logits[i] / w->s->logit_softcap);
}

/* --- the engine's pass --- */

struct runner {
    const struct world *w;
    struct pool *pool;
    struct kv_cache kv;
    struct forward *f;
    bool adapted;
};

static const int PAGE[PAGES] = {2, 0, 3, 1};

static bool runner_init(struct runner *r, const struct world *w, const char *table, int threads, bool adapted)
{
    struct err e = {0};
    const struct kernels *k = kernels_pick(table, w->prec);
    if (!k) return false;
    *r = (struct runner){.w = w, .adapted = adapted};
    r->kv = (struct kv_cache){kv_type_of(w->prec), LAYERS, KV_HEADS, DIM, PAGES, 0, NULL, NULL};
    r->kv.page_bytes = kv_page_bytes(r->kv.type, KV_HEADS, DIM);
    size_t bytes = LAYERS * PAGES * r->kv.page_bytes;
    r->kv.base = big_alloc(bytes);
    assert_non_null(r->kv.base);
    memset(r->kv.base, 0xff, bytes);
    if (pool_new(&r->pool, threads, &e)) fail_msg("%s", e.msg);
    if (forward_new(&r->f, &w->m, k, r->pool, &r->kv, ROWS, ROWS, 2 * lora_rank_pad(RANK), &e)) fail_msg("%s", e.msg);
    return true;
}

static void runner_close(struct runner *r)
{
    forward_free(r->f);
    pool_free(r->pool);
    big_free(r->kv.base, LAYERS * PAGES * r->kv.page_bytes);
}

/* Rows first .. of the one sequence as a step; the logits of every `every`-th of them into out [ROWS][VOCAB] (NULL:
 * nowhere), and to `after`. */
static void run_rows_then(struct runner *r, int first, int rows, int every,
                          void (*after)(struct kthread *t, void *u, const float *logits), void *u, float *out)
{
    int32_t token[ROWS];
    int wanted[ROWS], n = 0;
    struct lora_seg seg[4];
    for (int i = 0; i < rows; i++) {
        token[i] = token_of(first + i);
        if (i % every == every - 1) wanted[n++] = i;
    }
    struct attn_seq at = {0, rows, first, PAGE};
    struct forward_batch b = {.rows = rows,
                              .token = token,
                              .nseq = 1,
                              .seq = &at,
                              .nlogits = n,
                              .logit_row = wanted,
                              .after = after,
                              .u = u,
                              .max_rank = 2 * lora_rank_pad(RANK),
                              .lora = {.seg = seg, .modules = LORA_MODULES, .experts = r->w->m.experts}};
    b.lora.nseg = r->adapted ? segments_of(r->w, first, rows, seg) : 0;
    const float *logits = forward_run(r->f, &b);
    for (int i = 0; out && i < n; i++)
        memcpy(out + (size_t)(first + wanted[i]) * VOCAB, logits + (size_t)i * VOCAB, VOCAB * sizeof *out);
}

static void run_rows(struct runner *r, int first, int rows, int every, float *out)
{
    run_rows_then(r, first, rows, every, NULL, NULL, out);
}

static double distance(const struct world *w, bool adapted, const float *got)
{
    struct plain *p = calloc(1, sizeof *p);
    double worst = 0, want[VOCAB];
    assert_non_null(p);
    p->w = w, p->adapted = adapted;
    for (int row = 0; row < ROWS; row++) {
        plain_row(p, row, want);
        for (int i = 0; i < VOCAB; i++) {
            double d = fabs(want[i] - (double)got[row * VOCAB + i]);
            if (!(d <= worst)) worst = d;
        }
    }
    free(p);
    return worst;
}

static void test_exact_logits_of_every_family_equal_a_plain_pass_in_double(void **state)
{
    (void)state;
    static float got[ROWS * VOCAB];
    for (int i = 0; i < FAMILIES_N; i++) {
        struct world *w = world_of(&FAMILIES[i], PREC_EXACT);
        for (int t = 0; t < 2 * TABLES_N; t++) {
            struct runner r;
            if (!runner_init(&r, w, TABLES[t / 2], 2, t % 2)) continue;
            run_rows(&r, 0, ROWS, 1, got);
            runner_close(&r);
            double d = distance(w, t % 2, got);
            if (!(d < 1e-4)) fail_msg("%s, %s, adapted %d: off by %g", FAMILIES[i].name, TABLES[t / 2], t % 2, d);
        }
        world_free(w);
    }
}

/* Experts are left out: a router's near tie may fall to the other side. */
static void test_fast_logits_lie_within_the_rounding_of_bf16(void **state)
{
    (void)state;
    static float got[ROWS * VOCAB];
    for (int i = 0; i < FAMILIES_N; i++) {
        if (FAMILIES[i].used) continue;
        struct world *w = world_of(&FAMILIES[i], PREC_FAST);
        for (int t = 0; t < 2 * TABLES_N; t++) {
            struct runner r;
            if (!runner_init(&r, w, TABLES[t / 2], 2, t % 2)) continue;
            run_rows(&r, 0, ROWS, 1, got);
            runner_close(&r);
            double d = distance(w, t % 2, got);
            if (!(d < 0.5)) fail_msg("%s, %s, adapted %d: off by %g", FAMILIES[i].name, TABLES[t / 2], t % 2, d);
        }
        world_free(w);
    }
}

/* Chunk lengths that repeat. */
static const int CUTS[][3] = {{1, 1, 1}, {7, 1, 20}, {39, 1, 1}};

static void check_cuts(const struct world *w, const char *table)
{
    static float whole[ROWS * VOCAB], parts[ROWS * VOCAB];
    struct runner r;
    if (!runner_init(&r, w, table, 1, true)) return;
    run_rows(&r, 0, ROWS, 1, whole);
    runner_close(&r);
    for (int c = 0; c < 3; c++) {
        assert_true(runner_init(&r, w, table, 2 + c, true));
        for (int row = 0, n = 0; row < ROWS; n++) {
            int rows = CUTS[c][n % 3] < ROWS - row ? CUTS[c][n % 3] : ROWS - row;
            run_rows(&r, row, rows, 1, parts);
            row += rows;
        }
        runner_close(&r);
        if (memcmp(whole, parts, sizeof whole)) fail_msg("%s, %s: cut %d gives other bits", w->s->name, table, c);
    }
    assert_true(runner_init(&r, w, table, 3, true));
    memcpy(parts, whole, sizeof whole);
    for (int row = 2; row < ROWS; row += 3) memset(parts + row * VOCAB, 0, VOCAB * sizeof *parts);
    run_rows(&r, 0, ROWS, 3, parts); /* only some logits wanted */
    runner_close(&r);
    assert_memory_equal(whole, parts, sizeof whole);
}

static void test_rows_give_the_same_bits_alone_in_chunks_and_on_any_threads(void **state)
{
    (void)state;
    for (int i = 0; i < FAMILIES_N; i++)
        for (int t = 0; t < 2 * TABLES_N; t++) {
            struct world *w = world_of(&FAMILIES[i], t % 2 ? PREC_EXACT : PREC_FAST);
            check_cuts(w, TABLES[t / 2]);
            world_free(w);
        }
}

/* --- memory --- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTED false
static atomic_int taken;
#else
#define COUNTED true
/* The C library's own functions, under names that count. */
static atomic_int taken;
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t n, size_t bytes);
void *__libc_realloc(void *p, size_t bytes);
void *__libc_memalign(size_t align, size_t bytes);

void *malloc(size_t bytes)
{
    atomic_fetch_add(&taken, 1);
    return __libc_malloc(bytes);
}

void *calloc(size_t n, size_t bytes)
{
    atomic_fetch_add(&taken, 1);
    return __libc_calloc(n, bytes);
}

void *realloc(void *p, size_t bytes)
{
    atomic_fetch_add(&taken, 1);
    return __libc_realloc(p, bytes);
}

void *aligned_alloc(size_t align, size_t bytes)
{
    atomic_fetch_add(&taken, 1);
    return __libc_memalign(align, bytes);
}
#endif

/* Thread 0 of a pass samples too, as the scheduler does. */
static void sample_all(struct kthread *t, void *u, const float *logits)
{
    struct sample out;
    const struct sample_params p = {
        .temperature = 0.8f, .top_p = 0.9f, .typical_p = 1, .repetition_penalty = 1, .logprobs = 2};
    const struct sample_input in = {.p = &p};
    if (t->id == 0) sample_token(u, logits, &in, &out);
}

static void test_a_pass_takes_no_memory(void **state)
{
    (void)state;
    for (int i = 0; COUNTED && i < FAMILIES_N; i++) {
        struct world *w = world_of(&FAMILIES[i], PREC_FAST);
        struct runner r;
        struct sampler *s = sampler_new(VOCAB);
        if (runner_init(&r, w, NULL, 3, true)) {
            int before = atomic_load(&taken);
            run_rows_then(&r, 0, ROWS - 1, 1, sample_all, s, NULL);
            run_rows_then(&r, ROWS - 1, 1, 1, sample_all, s, NULL);
            assert_int_equal(atomic_load(&taken), before);
            void *volatile more = malloc(1); /* volatile: else the compiler leaves the pair out */
            free(more);
            assert_int_equal(atomic_load(&taken), before + 1); /* it does count */
            runner_close(&r);
        }
        sampler_free(s);
        world_free(w);
    }
}

static void test_more_experts_than_are_served_are_refused(void **state)
{
    (void)state;
    struct err e = {0};
    struct forward *f;
    struct pool *pool;
    struct world *w = world_of(&FAMILIES[6], PREC_EXACT);
    assert_int_equal(pool_new(&pool, 1, &e), 0);
    struct kv_cache kv = {0};
    struct model m = w->m;
    m.experts = EXPERTS_MAX + 1;
    assert_int_equal(forward_new(&f, &m, kernels_pick("plain", PREC_EXACT), pool, &kv, 4, 4, 16, &e), -1);
    assert_int_equal(e.code, ERR_MODEL);
    m.experts = 4, m.experts_used = 5;
    e = (struct err){0};
    assert_int_equal(forward_new(&f, &m, kernels_pick("plain", PREC_EXACT), pool, &kv, 4, 4, 16, &e), -1);
    assert_int_equal(e.code, ERR_MODEL);
    pool_free(pool);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact_logits_of_every_family_equal_a_plain_pass_in_double),
        cmocka_unit_test(test_fast_logits_lie_within_the_rounding_of_bf16),
        cmocka_unit_test(test_rows_give_the_same_bits_alone_in_chunks_and_on_any_threads),
        cmocka_unit_test(test_a_pass_takes_no_memory),
        cmocka_unit_test(test_more_experts_than_are_served_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
