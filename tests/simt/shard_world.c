/* shard_world: see shard_world.h. Everything is made from the same streams of numbers whatever the group is. */
#include "tests/simt/shard_world.h"
#include "kernels/convert.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/lora_layout.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POOL ((int64_t)64 << 20)
#define EXPERT 1 /* the one that is looked at */

extern const struct device_backend weft_device_backend;

static void *take(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);
    SIMT_CHECK(p, "no memory");
    return p;
}

static struct device_module whole_shape(const struct shard_world *w, int part)
{
    const struct shard_model_row *r = w->row;
    int q = r->heads * r->head_dim, kv = r->kv_heads * r->head_dim, h = WORLD_HIDDEN;
    const int n[PARTS] = {q, kv, kv, h, r->mlp, r->mlp, h, r->vocab};
    const int k[PARTS] = {h, h, h, q, h, h, r->mlp, h};
    static const enum device_role dense[PARTS] = {ROLE_Q,    ROLE_KV,   ROLE_KV,   ROLE_O,
                                                  ROLE_GATE, ROLE_GATE, ROLE_DOWN, ROLE_HEAD};
    enum device_role role = dense[part];
    if (r->experts && role == ROLE_GATE) role = ROLE_EXPERT_GATE;
    if (r->experts && role == ROLE_DOWN) role = ROLE_EXPERT_DOWN;
    return (struct device_module){n[part], k[part], role};
}

static bool of_expert(const struct shard_world *w, int part)
{
    return w->row->experts && part >= PART_GATE && part <= PART_DOWN;
}

/* --- the model --- */

static void make_model(struct shard_world *w)
{
    const struct shard_model_row *r = w->row;
    for (int p = 0; p < PARTS; p++) {
        struct device_module m = whole_shape(w, p);
        for (int x = 0; x < 2 && of_expert(w, p); x++)
            w->expert[x][p - PART_GATE] = made_weight(r->kind, m.n, m.k, false, (uint64_t)(p + 20 * x + 1));
        if (of_expert(w, p) || (p == PART_HEAD && r->tied)) continue;
        w->w[p] = made_weight(p == PART_HEAD ? KIND_BF16 : r->kind, m.n, m.k, false, (uint64_t)p + 1);
        if (!r->bias || p == PART_HEAD) continue;
        w->bias[p] = take((size_t)m.n, sizeof(float));
        simt_fill_f32(w->bias[p], (size_t)m.n, (uint64_t)p + 50, 1);
    }
    w->embed = made_weight(KIND_BF16, r->vocab, WORLD_HIDDEN, false, 30);
    w->layer_experts = w->expert[0];
}

static const struct weight *head_of(const struct shard_world *w)
{
    return w->row->tied ? &w->embed : &w->w[PART_HEAD];
}

static const struct weight *weight_of(const struct shard_world *w, int part)
{
    if (part == PART_HEAD) return head_of(w);
    return of_expert(w, part) ? &w->expert[EXPERT][part - PART_GATE] : &w->w[part];
}

static int list_model(const struct shard_world *w, struct device_const *c)
{
    static const int site[PARTS] = {1, 1, 1, 0, 2, 2, 0, 0};
    int n = 0;
    c[n++] = (struct device_const){.w = &w->embed, .role = ROLE_EMBED};
    c[n++] = (struct device_const){.w = head_of(w), .role = ROLE_HEAD};
    for (int p = 0; p < PART_HEAD; p++)
        if (!of_expert(w, p))
            c[n++] = (struct device_const){.w = &w->w[p], .role = whole_shape(w, p).role, .site = site[p]};
    for (int x = 0; x < w->row->experts; x++)
        for (int p = PART_GATE; p <= PART_DOWN; p++)
            c[n++] = (struct device_const){.w = &w->expert[x][p - PART_GATE],
                                           .role = whole_shape(w, p).role,
                                           .site = p < PART_DOWN ? 3 + x : 0,
                                           .grouped = true};
    for (int p = 0; p < PART_HEAD; p++)
        if (w->bias[p]) c[n++] = (struct device_const){.f = w->bias[p], .n = (size_t)whole_shape(w, p).n};
    return n;
}

static struct device_shape shape_of(const struct shard_world *w)
{
    const struct shard_model_row *r = w->row;
    struct device_shape s = {.layers = 1,
                             .hidden = WORLD_HIDDEN,
                             .heads = r->heads,
                             .kv_heads = r->kv_heads,
                             .head_dim = r->head_dim,
                             .mlp = r->experts ? 0 : r->mlp,
                             .vocab = r->vocab,
                             .tokens = r->vocab,
                             .max_context = KV_PAGE,
                             .modules = MODULES,
                             .experts = r->experts,
                             .experts_used = r->experts ? 1 : 0,
                             .expert_mlp = r->experts ? r->mlp : 0,
                             .expert = &w->layer_experts,
                             .scale_group = r->kind == KIND_BF16 ? 8 : GROUP,
                             .max_rows = 1,
                             .max_seqs = 1,
                             .max_logits = 1,
                             .max_segs = 1,
                             .max_rank = 256,
                             .slots = 2,
                             .adapter_bytes = POOL};
    for (int p = 0; p < MODULES; p++) s.module[p] = whole_shape(w, p);
    return s;
}

int shard_world_open(struct shard_world *w, const struct shard_model_row *row, int ranks, struct err *e)
{
    struct device_const c[2 * PARTS + 2 * EXPERT_PARTS + 2];
    struct device_plan plan;
    char n[8];
    *w = (struct shard_world){.row = row};
    make_model(w);
    w->shape = shape_of(w);
    snprintf(n, sizeof n, "%d", ranks);
    setenv("WEFT_SIMT_DEVICES", n, 1);
    SIMT_CHECK(weft_device_backend.open(&w->device, 0, ranks, e) == 0, "%s", e->msg);
    return weft_device_backend.start(w->device, &w->shape, c, list_model(w, c), &plan, e);
}

void shard_world_close(struct shard_world *w)
{
    weft_device_backend.close(w->device);
    for (int p = 0; p < PARTS; p++) {
        weight_close(&w->w[p]);
        free(w->bias[p]);
    }
    for (int p = 0; p < 2 * EXPERT_PARTS; p++) weight_close(&w->expert[p / EXPERT_PARTS][p % EXPERT_PARTS]);
    weight_close(&w->embed);
}

/* --- adapters --- */

static void make_module(struct shard_world *w, struct lora_mod *to, struct device_module m, int seed)
{
    const struct shard_adapter_row *row = w->adapter;
    size_t r = (size_t)row->rank, n = (size_t)m.n, k = (size_t)m.k;
    float *a = take(r * k, sizeof *a), *b = take(n * r, sizeof *b), *g = take(n, sizeof *g);
    size_t bytes = lora_mod_bytes(LORA_BF16, row->rank, m.n, m.k);
    simt_fill_f32(a, r * k, (uint64_t)seed + 100, 1);
    simt_fill_f32(b, n * r, (uint64_t)seed + 200, 1);
    simt_fill_f32(g, n, (uint64_t)seed + 300, 2);
    void *packed = aligned_alloc(64, (bytes + 63) / 64 * 64);
    lora_mod_pack(to, LORA_BF16, packed, row->rank, m.n, m.k, 0.25f, T_F32, a, b, NULL);
    to->row_scale = row->dora ? g : NULL;
    if (!row->dora) free(g);
    free(a), free(b);
}

void shard_world_put(struct shard_world *w, const struct shard_adapter_row *a)
{
    struct err e = {0};
    w->adapter = a;
    memset(w->mod, 0, sizeof w->mod);
    memset(w->expert_mod, 0, sizeof w->expert_mod);
    for (int p = 0; p < MODULES; p++) {
        struct lora_mod *to = of_expert(w, p) ? &w->expert_mod[EXPERT * EXPERT_PARTS + p - PART_GATE] : &w->mod[p];
        if (a->modules >> p & 1) make_module(w, to, whole_shape(w, p), p);
    }
    w->table = (struct lora_table){.mod = w->mod, .alone = a->dora || a->whole, .slot = 1};
    if (w->row->experts) w->table.expert = w->expert_mod;
    if (a->head) make_module(w, &w->head_mod, whole_shape(w, PART_HEAD), PART_HEAD), w->table.head = &w->head_mod;
    if (a->whole) {
        w->other = made_weight(KIND_BF16, w->row->vocab, WORLD_HIDDEN, false, 31);
        w->table.embed_full = w->table.head_full = &w->other;
    }
    SIMT_CHECK(weft_device_backend.adapter_put(w->device, 1, &w->table, &e) == 0, "%s", e.msg);
}

static void free_module(struct lora_mod *m)
{
    if (m->r) free((void *)(uintptr_t)m->a), free((void *)(uintptr_t)m->row_scale);
    *m = (struct lora_mod){.r = 0};
}

void shard_world_drop(struct shard_world *w)
{
    weft_device_backend.adapter_drop(w->device, 1);
    for (int p = 0; p < MODULES; p++) free_module(&w->mod[p]);
    for (int p = 0; p < 2 * EXPERT_PARTS; p++) free_module(&w->expert_mod[p]);
    free_module(&w->head_mod);
    if (w->adapter->whole) weight_close(&w->other);
    w->adapter = NULL;
}

static const struct lora_mod *mod_of(const struct shard_world *w, int part)
{
    if (!w->adapter) return NULL;
    if (part == PART_HEAD) return w->table.head;
    return of_expert(w, part) ? &w->expert_mod[EXPERT * EXPERT_PARTS + part - PART_GATE] : &w->mod[part];
}

/* --- what the whole model is: from the host --- */

static float rounded(float v)
{
    return f32_of_bf16(bf16_of_f32(v));
}

static float *copy(const float *from, size_t n)
{
    float *p = from ? take(n, sizeof *p) : NULL;
    if (from) memcpy(p, from, n * sizeof *p);
    return p;
}

static size_t b_index(int o)
{
    return (size_t)(o < PANEL / 2 ? 2 * o : 2 * (o - PANEL / 2) + 1);
}

static void whole_module(struct held *h, const struct lora_mod *m)
{
    size_t r = (size_t)m->r, n = (size_t)h->n, k = (size_t)h->k;
    const uint16_t *a = m->a, *b = m->b;
    h->r = m->r, h->scale = m->scale;
    h->a = take(r * k, sizeof(float)), h->b = take(n * r, sizeof(float));
    h->g = copy(m->row_scale, n);
    for (size_t i = 0; i < r * k; i++) h->a[i] = f32_of_bf16(a[i]);
    for (size_t o = 0; o < n; o++)
        for (size_t j = 0; j < r; j++)
            h->b[o * r + j] = f32_of_bf16(b[(o / PANEL * r + j) * PANEL + b_index((int)(o % PANEL))]);
}

struct held shard_whole(const struct shard_world *w, int part)
{
    const struct weight *from = weight_of(w, part);
    const struct lora_mod *m = mod_of(w, part);
    if (part == PART_HEAD && w->adapter && w->adapter->whole) from = &w->other;
    struct held h = {.n = from->n, .k = from->k, .w = take((size_t)from->n * (size_t)from->k, sizeof(float))};
    for (int i = 0; i < h.n; i++) weight_row(from, i, h.w + (size_t)i * (size_t)h.k);
    for (size_t i = 0; i < (size_t)h.n * (size_t)h.k; i++) h.w[i] = rounded(h.w[i]);
    if (m && m->r) whole_module(&h, m);
    h.bias = copy(w->bias[part], (size_t)h.n);
    return h;
}

/* --- what a rank has: from its memory, by the backend's look-ups --- */

/* Rows row0 .. of a matrix on the device. */
static float *read_rows(const struct cuda_weight *from, int row0, int n)
{
    size_t all = (size_t)from->n * (size_t)from->k, at = (size_t)row0 * (size_t)from->k;
    float *out = take((size_t)n * (size_t)from->k, sizeof *out);
    uint16_t *bf16 = take(all, sizeof *bf16);
    struct expand_job job = {.w = *from, .n = from->n, .out = bf16};
    SIMT_CHECK(launch_expand(&job, NULL) == 0, "expansion");
    for (size_t i = 0; i < (size_t)n * (size_t)from->k; i++) out[i] = f32_of_bf16(bf16[at + i]);
    free(bf16);
    return out;
}

/* The matrix that holds the part, and the part's first row in it. */
static const struct cuda_weight *find_part(const struct shard_world *w, int part, int rank, int *row0)
{
    const struct cuda_weight *host, *device, *stack;
    const int first[PARTS] = {PART_Q, PART_Q, PART_Q, PART_O, PART_GATE, PART_GATE, PART_DOWN, PART_HEAD};
    const int parts[PARTS] = {3, 3, 3, 1, 2, 2, 1, 1};
    *row0 = 0;
    for (int p = first[part]; p < part; p++) {
        struct device_module m = whole_shape(w, p);
        *row0 += cuda_shard(w->device, m.role, m.n, m.k, rank).n;
    }
    if (part == PART_HEAD) return place_head(w->device, rank);
    if (of_expert(w, part)) {
        place_grouped(w->device, rank, 0, part == PART_DOWN, &host, &device);
        SIMT_CHECK(!memcmp(host, device, sizeof *host * (size_t)w->row->experts), "the device's array of experts");
        return &host[EXPERT];
    }
    stack = place_weight(w->device, rank, &w->w[first[part]], parts[part]);
    SIMT_CHECK(stack, "part %d is not stacked", part);
    return stack;
}

static void held_module(struct held *h, const struct cuda_module *m)
{
    const uint16_t *a = m->a, *b = m->b;
    h->r = m->r, h->scale = m->scale;
    h->a = take((size_t)m->r * (size_t)h->k, sizeof(float)), h->b = take((size_t)h->n * (size_t)m->r, sizeof(float));
    h->g = copy(m->row_scale, (size_t)h->n);
    for (int j = 0; j < m->r; j++)
        for (int i = 0; i < h->k; i++)
            h->a[(size_t)j * (size_t)h->k + (size_t)i] = f32_of_bf16(a[lora_layout_a(m->r, h->k, j, i)]);
    for (int o = 0; o < h->n; o++)
        for (int j = 0; j < m->r; j++)
            h->b[(size_t)o * (size_t)m->r + (size_t)j] = f32_of_bf16(b[lora_layout_b(m->r, o, j)]);
}

static struct cuda_module resident(const struct shard_world *w, int part, int rank)
{
    const struct cuda_module *mod = arena_address(w->device, rank, AREA_TABLE_MOD),
                             *expert = arena_address(w->device, rank, AREA_TABLE_EXPERT),
                             *head = arena_address(w->device, rank, AREA_TABLE_HEAD);
    if (part == PART_HEAD) return head[1];
    if (of_expert(w, part)) return expert[(w->row->experts + EXPERT) * EXPERT_PARTS + part - PART_GATE];
    return mod[MODULES + part];
}

struct held shard_held(const struct shard_world *w, int part, int rank)
{
    int row0;
    const struct cuda_weight *from = find_part(w, part, rank, &row0);
    struct device_module m = whole_shape(w, part);
    struct shard s = cuda_shard(w->device, m.role, m.n, m.k, rank);
    struct held h = {.n = s.n, .k = s.k};
    if (s.n == 0) return h;
    SIMT_CHECK(from->k == s.k && from->n >= row0 + s.n, "%d x %d", from->n, from->k);
    h.w = read_rows(from, row0, s.n);
    if (w->adapter) {
        struct cuda_module at = resident(w, part, rank);
        uint16_t *const *whole = arena_address(w->device, rank, AREA_TABLE_WHOLE);
        if (at.r) held_module(&h, &at);
        for (size_t i = 0; part == PART_HEAD && whole[1] && i < (size_t)h.n * (size_t)h.k; i++)
            h.w[i] = f32_of_bf16(whole[1][i]);
    }
    const float *bias = place_floats(w->device, rank, w->bias[part]);
    h.bias = copy(bias ? bias + s.row0 : NULL, (size_t)s.n);
    return h;
}

void held_free(struct held *h)
{
    free(h->w), free(h->a), free(h->b), free(h->g), free(h->bias);
    *h = (struct held){.n = 0};
}
