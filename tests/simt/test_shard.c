/* Tensor-parallel parts on the CPU: a group of N devices, started and given adapters by the backend's own code, holds in
 * its memories what together gives what the whole model gives; what can't be cut is refused. */
#include "kernels/convert.h"
#include "tests/simt/shard_world.h"
#include <stdio.h>

/* Sizes are those of the models of these names; kinds go around. */
static const struct shard_model_row models[] = {
    {.name = "Qwen2.5-0.5B",
     .heads = 14,
     .kv_heads = 2,
     .head_dim = 64,
     .mlp = 4864,
     .vocab = 151936,
     .kind = KIND_BF16,
     .tied = true,
     .bias = true,
     .can = {[1] = true, [2] = true},
     .why = {[3] = "q_proj: 14 times 64 outputs can't be shared by 3 devices",
             [4] = "q_proj: 14 times 64",
             [8] = "q_proj: 14 times 64"}},
    {.name = "Llama-3-8B",
     .heads = 32,
     .kv_heads = 8,
     .head_dim = 128,
     .mlp = 14336,
     .vocab = 128256,
     .kind = KIND_Q4Z,
     .can = {[1] = true, [2] = true, [4] = true, [8] = true},
     .why = {[3] = "q_proj: 32 times 128 outputs can't be shared by 3 devices"}},
    {.name = "SmolLM2-135M",
     .heads = 9,
     .kv_heads = 3,
     .head_dim = 64,
     .mlp = 1536,
     .vocab = 49152,
     .kind = KIND_Q8,
     .tied = true,
     .can = {[1] = true, [3] = true},
     .why = {[2] = "q_proj: 9 times 64", [4] = "q_proj: 9 times 64", [8] = "q_proj: 9 times 64"}},
    {.name = "one head of keys",
     .heads = 8,
     .kv_heads = 1,
     .head_dim = 40,
     .mlp = 768,
     .vocab = 50257,
     .kind = KIND_F8,
     .tied = true,
     .can = {[1] = true, [2] = true},
     .why = {[3] = "q_proj: 8 times 40",
             [4] = "o_proj: 80 inputs on each of 4 devices cut a group of 32",
             [8] = "o_proj: 40 inputs on each of 8 devices cut a group of 32"}},
    {.name = "two heads of keys, few tokens",
     .heads = 8,
     .kv_heads = 2,
     .head_dim = 40,
     .mlp = 320,
     .vocab = 130,
     .kind = KIND_BF16,
     .bias = true,
     .can = {[1] = true, [2] = true, [4] = true, [8] = true},
     .why = {[3] = "q_proj: 8 times 40"}},
    {.name = "three of each",
     .heads = 6,
     .kv_heads = 3,
     .head_dim = 32,
     .mlp = 480,
     .vocab = 1000,
     .kind = KIND_Q2,
     .can = {[1] = true, [3] = true},
     .why = {[2] = "k_proj and v_proj: 3 times 32 outputs", [4] = "q_proj: 6 times 32", [8] = "q_proj: 6 times 32"}},
    {.name = "experts",
     .heads = 16,
     .kv_heads = 4,
     .head_dim = 32,
     .mlp = 768,
     .vocab = 1024,
     .kind = KIND_Q4,
     .experts = 2,
     .can = {[1] = true, [2] = true, [4] = true, [8] = true},
     .why = {[3] = "q_proj: 16 times 32"}},
};

#define ATTENTION (1u << PART_Q | 1u << PART_V)
#define INPUTS (1u << PART_O | 1u << PART_DOWN)
#define MLP (1u << PART_GATE | 1u << PART_UP | 1u << PART_DOWN)

static const struct shard_adapter_row adapters[] = {
    {1, ALL_MODULES, false, false, false},  {4, ATTENTION, false, false, false},
    {8, ALL_MODULES, true, true, false},    {12, INPUTS, false, false, false},
    {16, ALL_MODULES, false, true, false},  {24, MLP, true, false, false},
    {64, ALL_MODULES, false, false, false}, {100, 1u << PART_K, false, false, false},
    {256, ATTENTION, true, false, false},   {8, 1u << PART_Q, false, false, true},
};
#define COUNT(a) (int)(sizeof(a) / sizeof *(a))

struct group_case {
    const struct shard_model_row *model;
    int ranks;
};

/* --- one device's share, and the whole --- */

/* y [h.n] of x [h.k]; `bias`: added here. */
static void run(const struct held *h, bool bias, const double *x, double *y)
{
    double *low = calloc((size_t)h->r + 1, sizeof *low);
    for (int j = 0; j < h->r; j++)
        for (int i = 0; i < h->k; i++) low[j] += (double)h->a[(size_t)j * (size_t)h->k + (size_t)i] * x[i];
    for (int o = 0; o < h->n; o++) {
        double sum = 0, added = 0;
        for (int i = 0; i < h->k; i++) sum += (double)h->w[(size_t)o * (size_t)h->k + (size_t)i] * x[i];
        for (int j = 0; j < h->r; j++) added += (double)h->b[(size_t)o * (size_t)h->r + (size_t)j] * low[j];
        sum += (double)h->scale * added;
        y[o] = (h->g ? (double)h->g[o] : 1) * sum + (bias && h->bias ? (double)h->bias[o] : 0);
    }
    free(low);
}

static double *room(int n)
{
    return calloc((size_t)n + 1, sizeof(double));
}

/* A head's output stands for attention: its q times what its k and v heads have. Inputs of o in, o's part out; the bias
 * of o is added by one. */
static void attention(const struct held *h, int head_dim, bool bias, const double *x, double *out)
{
    double *q = room(h[PART_Q].n), *k = room(h[PART_K].n), *v = room(h[PART_V].n);
    int heads = h[PART_Q].n / head_dim, group = heads / (h[PART_K].n / head_dim);
    run(&h[PART_Q], true, x, q), run(&h[PART_K], true, x, k), run(&h[PART_V], true, x, v);
    SIMT_CHECK(h[PART_O].k == h[PART_Q].n && h[PART_K].n == h[PART_V].n, "o does not read what q gives");
    for (int i = 0; i < h[PART_Q].n; i++) {
        int at = i / head_dim / group * head_dim + i % head_dim;
        q[i] = tanh((q[i] + k[at] * v[at]) / 50);
    }
    run(&h[PART_O], bias, q, out);
    free(q), free(k), free(v);
}

static void mlp(const struct held *h, bool bias, const double *x, double *out)
{
    double *gate = room(h[PART_GATE].n), *up = room(h[PART_UP].n);
    run(&h[PART_GATE], true, x, gate), run(&h[PART_UP], true, x, up);
    SIMT_CHECK(h[PART_DOWN].k == h[PART_GATE].n, "down does not read what gate gives");
    for (int i = 0; i < h[PART_GATE].n; i++) gate[i] = tanh(gate[i] / 50) * up[i] / 10;
    run(&h[PART_DOWN], bias, gate, out);
    free(gate), free(up);
}

/* --- the comparison --- */

static void near(const char *what, const double *got, const double *want, int n)
{
    double most = 0;
    for (int i = 0; i < n; i++) most = fabs(want[i]) > most ? fabs(want[i]) : most;
    for (int i = 0; i < n; i++)
        SIMT_CHECK(fabs(got[i] - want[i]) <= 1e-9 * most, "%s %d: %g, not %g", what, i, got[i], want[i]);
}

static void fill(double *x, int n)
{
    float f[WORLD_HIDDEN];
    simt_fill_f32(f, (size_t)n, 5, 1);
    for (int i = 0; i < n; i++) x[i] = (double)f[i];
}

struct results {
    double attention[WORLD_HIDDEN], mlp[WORLD_HIDDEN];
    double *logits;
};

static void run_whole(const struct shard_world *w, const double *x, struct results *out)
{
    struct held h[PARTS];
    for (int p = 0; p < PARTS; p++) h[p] = shard_whole(w, p);
    attention(h, w->row->head_dim, true, x, out->attention);
    mlp(h, true, x, out->mlp);
    run(&h[PART_HEAD], false, x, out->logits);
    for (int p = 0; p < PARTS; p++) held_free(&h[p]);
}

/* A rank's part is added to the sums, its logits stand where the gather leaves them. */
static void run_rank(const struct shard_world *w, int rank, const double *x, struct results *out)
{
    struct held h[PARTS];
    double part[WORLD_HIDDEN];
    for (int p = 0; p < PARTS; p++) h[p] = shard_held(w, p, rank);
    attention(h, w->row->head_dim, rank == 0, x, part);
    for (int i = 0; i < WORLD_HIDDEN; i++) out->attention[i] += part[i];
    mlp(h, rank == 0, x, part);
    for (int i = 0; i < WORLD_HIDDEN; i++) out->mlp[i] += part[i];
    run(&h[PART_HEAD], false, x, out->logits + (size_t)rank * (size_t)w->device->dim.head);
    for (int p = 0; p < PARTS; p++) held_free(&h[p]);
}

static void compare(const struct shard_world *w, int ranks)
{
    struct results want = {.logits = room(w->row->vocab)}, got = {.logits = room(ranks * w->device->dim.head)};
    double x[WORLD_HIDDEN];
    fill(x, WORLD_HIDDEN);
    run_whole(w, x, &want);
    for (int r = 0; r < ranks; r++) run_rank(w, r, x, &got);
    near("attention", got.attention, want.attention, WORLD_HIDDEN);
    near("mlp", got.mlp, want.mlp, WORLD_HIDDEN);
    near("logits", got.logits, want.logits, w->row->vocab);
    free(want.logits), free(got.logits);
}

/* What belongs to the embedding is whole everywhere. */
static void check_embedding(const struct shard_world *w, int ranks)
{
    float row[WORLD_HIDDEN];
    for (int r = 0; r < ranks; r++) {
        const struct cuda_weight *at = place_weight(w->device, r, &w->embed, 1);
        const struct cuda_embed_module *m = arena_address(w->device, r, AREA_TABLE_EMBED);
        SIMT_CHECK(at && at->n == w->row->vocab, "the embedding of rank %d", r);
        for (int i = 0; i < w->row->vocab; i += 97) {
            weight_row(&w->embed, i, row);
            const uint16_t *got = (const uint16_t *)at->data + (size_t)i * WORLD_HIDDEN;
            const uint16_t *full = m[1].full ? m[1].full + (size_t)i * WORLD_HIDDEN : NULL;
            for (int j = 0; j < WORLD_HIDDEN; j++) SIMT_CHECK(f32_of_bf16(got[j]) == row[j], "row %d", i);
            if (full) weight_row(&w->other, i, row);
            for (int j = 0; full && j < WORLD_HIDDEN; j++) SIMT_CHECK(f32_of_bf16(full[j]) == row[j], "row %d", i);
        }
    }
}

/* Order of threads plays no part: one seed is enough, and no race is looked for. */
static bool seen(void)
{
    return simt_seed() > 1 || simt_finds_races();
}

static void a_group_gives_what_the_whole_gives(void *arg)
{
    const struct group_case *c = arg;
    struct shard_world w;
    struct err e = {0};
    if (seen()) return;
    SIMT_CHECK(shard_world_open(&w, c->model, c->ranks, &e) == 0, "%s", e.msg);
    compare(&w, c->ranks);
    for (int i = 0; i < COUNT(adapters); i++) {
        shard_world_put(&w, &adapters[i]);
        compare(&w, c->ranks);
        check_embedding(&w, c->ranks);
        shard_world_drop(&w);
    }
    shard_world_close(&w);
}

static void what_a_group_cannot_share_is_refused(void *arg)
{
    const struct group_case *c = arg;
    struct shard_world w;
    struct err e = {0};
    if (seen()) return;
    SIMT_CHECK(shard_world_open(&w, c->model, c->ranks, &e) == -1 && e.code == ERR_USAGE, "it was taken");
    SIMT_CHECK(strstr(e.msg, c->model->why[c->ranks]), "%s", e.msg);
    shard_world_close(&w);
}

/* --- rules alone --- */

static void refuse(struct device_shape s, int ranks, const char *why)
{
    struct err e = {0};
    SIMT_CHECK(shard_model(&s, ranks, &e) == -1 && e.code == ERR_USAGE && strstr(e.msg, why), "%s: %s", why, e.msg);
}

static void rules_say_why(void *arg)
{
    struct device_shape s = {.hidden = 128, .heads = 16, .kv_heads = 4, .head_dim = 32, .mlp = 512, .vocab = 1000};
    struct device_shape t = s;
    struct err e = {0};
    (void)arg;
    for (int ranks = 1; ranks <= RANKS_MAX; ranks *= 2) SIMT_CHECK(shard_model(&s, ranks, &e) == 0, "%s", e.msg);
    refuse(s, 0, "a group of 0");
    t.heads = 12, t.kv_heads = 6;
    refuse(t, 4, "k_proj and v_proj: 6 times 32 outputs");
    t = s, t.mlp = 480;
    refuse(t, 2, "gate_proj and up_proj: 15 times 32 outputs");
    t.scale_group = 8;
    SIMT_CHECK(shard_model(&t, 2, &e) == 0, "%s", e.msg);
    t.mlp = 500;
    refuse(t, 2, "500 outputs are not made of 8 each");
    t = s, t.expert_mlp = 96;
    refuse(t, 2, "experts'");
    t.mlp = 0, t.expert_mlp = 128;
    SIMT_CHECK(shard_model(&t, 4, &e) == 0, "%s", e.msg);
}

static void parts_cover_all_once(void *arg)
{
    (void)arg;
    for (int m = 0; m < COUNT(models); m++)
        for (int ranks = 1; ranks <= RANKS_MAX; ranks++) {
            const struct shard_rule rule = {SPLIT_OUTPUTS, models[m].vocab, 8, PANEL, false, true};
            int at = 0;
            for (int r = 0; r < ranks; r++) {
                struct shard s = shard_of(&rule, ranks, r);
                SIMT_CHECK(s.row0 == at || s.n == 0, "a gap before rank %d", r);
                SIMT_CHECK(s.n == 0 || s.row0 == r * shard_step(&rule, ranks), "rank %d of %d", r, ranks);
                at += s.n;
            }
            SIMT_CHECK(at == models[m].vocab, "%d of %d", at, models[m].vocab);
        }
}

int main(void)
{
    static const int groups[] = {1, 2, 3, 4, 8};
    for (int m = 0; m < COUNT(models); m++)
        for (int i = 0; i < COUNT(groups); i++) {
            struct group_case c = {&models[m], groups[i]};
            bool can = models[m].can[groups[i]];
            char name[128];
            snprintf(name, sizeof name, "%s, %d devices: %s", models[m].name, groups[i],
                     can ? "a group gives what the whole gives" : "what a group cannot share is refused");
            simt_case(name, can ? a_group_gives_what_the_whole_gives : what_a_group_cannot_share_is_refused, &c);
        }
    simt_case("rules say why", rules_say_why, NULL);
    simt_case("parts of the vocabulary cover all of it once", parts_cover_all_once, NULL);
    return simt_done();
}
