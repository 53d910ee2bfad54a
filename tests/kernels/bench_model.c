/* How fast a whole model's products are, and attention, beside what the machine itself can do in the same run.
 *
 *   1. a whole model's products (SmolLM2-135M: Q4_1 projections, Q8_0 head, norms and gate; no attention), rows/s, base rows and a
 *      mix of three adapters taking turns
 *   2. attention at several contexts
 *
 * Figures are medians of short runs, since other processes and the machine's own states disturb; compare ratios within one run.
 *   bench_model [threads]   (default: all cores) */
#include "tests/kernels/timing.h"

static struct machine machine;

/* --- a whole model --- */

enum { HIDDEN = 576, KV = 192, MLP = 1536, VOCAB = 49152, LAYERS_N = 30, MODEL_ROWS = 512 };
enum { Q, K, V, O, GATE, UP, DOWN, PROJECTIONS };

static const struct {
    int n, k;
} PROJ[PROJECTIONS] = {{HIDDEN, HIDDEN}, {KV, HIDDEN},  {KV, HIDDEN}, {HIDDEN, HIDDEN},
                       {MLP, HIDDEN},    {MLP, HIDDEN}, {HIDDEN, MLP}};

/* Rank of each adapter's module: rank 8 everywhere, 16 on attention, 4 on some. */
static const int RANKS[3][PROJECTIONS] = {{8, 8, 8, 8, 8, 8, 8}, {16, 16, 16, 16, 0, 0, 0}, {4, 0, 4, 0, 0, 4, 4}};

static struct model {
    enum precision prec;
    const struct kernels *kn;
    struct weight w[LAYERS_N][PROJECTIONS], head;
    struct lora_mod mods[3][LAYERS_N * PROJECTIONS];
    void *adapter_block[3];
    size_t adapter_bytes[3];
    struct act x, norm, gated;
    float *q, *k, *v, *gate, *up, *logits, *shrink, *ones;
    int rows, head_rows;
    struct lora_table table[3];
    struct lora_seg seg[3];
    struct lora_batch batch;
    bool adapted;
} model;

/* Random blocks with scales in range: as fast to make as to read. */
static void make_weight(struct weight *w, enum tensor_type type, int n, int k)
{
    size_t bytes = tensor_bytes(type, n, k), block = type == T_Q8_0 ? 34 : 20;
    uint8_t *src = xalloc(bytes);
    for (size_t i = 0; i + 4 <= bytes; i += 4) memcpy(src + i, &(uint32_t){next_u32()}, 4);
    for (size_t i = 0; i < bytes; i += block) {
        src[i + 1] = 0x18;                     /* about 0.002 */
        if (type == T_Q4_1) src[i + 3] = 0x9c; /* about -0.004 */
    }
    if (weight_pack(w, type, src, n, k, NULL, model.prec, NULL)) abort();
    free(src);
}

static void make_adapter(int a)
{
    enum lora_type type = model.prec == PREC_FAST ? LORA_BF16 : LORA_F32;
    static float values[16 * MLP];
    fill(values, 16 * MLP);
    for (int p = 0; p < PROJECTIONS; p++)
        if (RANKS[a][p]) model.adapter_bytes[a] += LAYERS_N * lora_mod_bytes(type, RANKS[a][p], PROJ[p].n, PROJ[p].k);
    char *at = model.adapter_block[a] = big_alloc(model.adapter_bytes[a]);
    for (int i = 0; i < LAYERS_N * PROJECTIONS; i++) {
        int p = i % PROJECTIONS, r = RANKS[a][p];
        if (!r) continue;
        lora_mod_pack(&model.mods[a][i], type, at, r, PROJ[p].n, PROJ[p].k, 0.01f, T_F32, values, values, NULL);
        at += lora_mod_bytes(type, r, PROJ[p].n, PROJ[p].k);
    }
}

static void make_model(enum precision prec)
{
    memset(&model, 0, sizeof model);
    model.prec = prec;
    model.kn = kernels_pick(NULL, prec);
    for (int l = 0; l < LAYERS_N; l++)
        for (int p = 0; p < PROJECTIONS; p++) make_weight(&model.w[l][p], T_Q4_1, PROJ[p].n, PROJ[p].k);
    make_weight(&model.head, T_Q8_0, VOCAB, HIDDEN);
    for (int a = 0; a < 3; a++) make_adapter(a);
    if (act_init(&model.x, MODEL_ROWS, HIDDEN, 0, NULL) ||
        act_init(&model.norm, MODEL_ROWS, HIDDEN, ACT_BF16 | ACT_Q8, NULL) ||
        act_init(&model.gated, MODEL_ROWS, MLP, ACT_BF16 | ACT_Q8, NULL))
        abort();
    fill(model.x.x, MODEL_ROWS * HIDDEN);
    size_t row = sizeof(float) * MODEL_ROWS;
    model.q = xalloc(row * HIDDEN), model.k = xalloc(row * KV), model.v = xalloc(row * KV);
    model.gate = xalloc(row * MLP), model.up = xalloc(row * MLP);
    model.logits = xalloc(sizeof(float) * 16 * VOCAB), model.shrink = xalloc(row * 3 * 16),
    model.ones = xalloc(sizeof(float) * MLP);
    for (int i = 0; i < MLP; i++) model.ones[i] = 1;
}

static void free_model(void)
{
    for (int i = 0; i < LAYERS_N * PROJECTIONS; i++) weight_close(&model.w[i / PROJECTIONS][i % PROJECTIONS]);
    weight_close(&model.head);
    for (int a = 0; a < 3; a++) big_free(model.adapter_block[a], model.adapter_bytes[a]);
    act_close(&model.x), act_close(&model.norm), act_close(&model.gated);
    free(model.q), free(model.k), free(model.v), free(model.gate), free(model.up);
    free(model.logits), free(model.shrink), free(model.ones);
}

/* Rows in three segments as even as they go. */
static void set_rows(int rows)
{
    model.rows = rows;
    model.head_rows = rows > 16 ? 1 : rows; /* a prompt needs its last row's */
    model.batch = (struct lora_batch){.seg = model.seg, .modules = PROJECTIONS};
    for (int i = 0, row0 = 0; i < 3; i++) {
        int n = (rows + 2 - i) / 3;
        model.table[i].mod = model.mods[i];
        if (n) model.seg[model.batch.nseg++] = (struct lora_seg){row0, n, 1, {{&model.table[i], 1}}};
        row0 += n;
    }
}

static struct mm product(int layer, const struct act *in, int rows)
{
    return (struct mm){.in = in,
                       .rows = rows,
                       .lora = model.adapted ? &model.batch : NULL,
                       .layer = layer,
                       .shrink = model.shrink,
                       .shrink_ld = 16};
}

static void add_out(struct mm *m, int p, float *y, bool add)
{
    m->out[m->nout++] = (struct mm_out){.w = &model.w[m->layer][p], .y = y, .ldy = PROJ[p].n, .add = add, .module = p};
}

static void norm(struct kthread *t, int rows)
{
    model.kn->rmsnorm(t, model.x.x, NULL, rows, HIDDEN, model.ones, 1e-5f, &model.norm);
    pool_barrier(t);
}

static void layer(struct kthread *t, int l)
{
    struct mm qkv = product(l, &model.norm, model.rows), o = qkv, gu = qkv, down = product(l, &model.gated, model.rows);
    add_out(&qkv, Q, model.q, false), add_out(&qkv, K, model.k, false), add_out(&qkv, V, model.v, false);
    add_out(&o, O, model.gate, false);
    add_out(&gu, GATE, model.gate, false), add_out(&gu, UP, model.up, false);
    add_out(&down, DOWN, model.q, false);
    norm(t, model.rows);
    model.kn->matmul(t, &qkv);
    pool_barrier(t);
    model.kn->matmul(t, &o);
    pool_barrier(t);
    norm(t, model.rows);
    model.kn->matmul(t, &gu);
    pool_barrier(t);
    model.kn->glu(t, MLP_SILU, model.gate, model.up, model.rows, MLP, &model.gated);
    pool_barrier(t);
    model.kn->matmul(t, &down);
    pool_barrier(t);
}

static void forward(struct kthread *t, void *arg)
{
    (void)arg;
    for (int l = 0; l < LAYERS_N; l++) layer(t, l);
    norm(t, model.head_rows);
    struct mm head = {.in = &model.norm,
                      .rows = model.head_rows,
                      .nout = 1,
                      .out = {{.w = &model.head, .y = model.logits, .ldy = VOCAB, .module = -1}}};
    model.kn->matmul(t, &head);
}

static double one_forward(struct pool *p, bool adapted)
{
    model.adapted = adapted;
    double start = now_s();
    pool_run(p, forward, NULL);
    return now_s() - start;
}

static void bench_rows(struct pool *p, int rows, double budget)
{
    static double base[SAMPLES_MAX], mixed[SAMPLES_MAX], ratio[SAMPLES_MAX];
    int n = 0;
    set_rows(rows);
    one_forward(p, false), one_forward(p, true);
    for (double end = now_s() + budget; n < SAMPLES_MAX && (n < 3 || now_s() < end); n++) {
        base[n] = one_forward(p, false);
        mixed[n] = one_forward(p, true);
        ratio[n] = base[n] / mixed[n];
    }
    double t = median(base, n), adapted = median(mixed, n);
    double bytes = (double)model.head.bytes;
    for (int i = 0; i < LAYERS_N * PROJECTIONS; i++) bytes += (double)model.w[i / PROJECTIONS][i % PROJECTIONS].bytes;
    double flop = 2.0 * rows * LAYERS_N * (2 * HIDDEN * HIDDEN + 2 * KV * HIDDEN + 3 * MLP * HIDDEN) +
                  2.0 * model.head_rows * VOCAB * HIDDEN;
    double peak = model.prec == PREC_FAST ? machine.int8 : machine.f32;
    printf("model %-5s m=%-4d base %8.0f rows/s  3 adapters %8.0f rows/s  ratio %.3f   base: %3.0f%% of the read rate, "
           "%3.0f%% of the "
           "multipliers\n",
           model.prec == PREC_FAST ? "fast" : "exact", rows, rows / t, rows / adapted, median(ratio, n),
           100 * bytes / t / machine.read, 100 * flop / t / peak);
}

/* --- attention --- */

static void do_attention(struct kthread *t, void *arg)
{
    struct attn *a = arg;
    kernels_pick(NULL, a->kv->prec)->attention(t, a, &model.gated);
}

/* SmolLM2's heads: `seqs` sequences of `rows` rows that end at `context`. */
static void bench_attention(struct pool *p, enum precision prec, int seqs, int rows, int context)
{
    int pages = (context + KV_PAGE - 1) / KV_PAGE, *page = xalloc(sizeof(int) * (size_t)(pages * seqs));
    struct kv_cache kv = {prec, 1, 3, 64, pages * seqs, kv_page_bytes(prec, 3, 64), NULL};
    kv.base = big_alloc(kv.page_bytes * (size_t)kv.pages);
    struct attn_seq *seq = xalloc(sizeof *seq * (size_t)seqs);
    for (int i = 0; i < pages * seqs; i++) page[i] = i;
    for (int i = 0; i < seqs; i++) seq[i] = (struct attn_seq){i * rows, rows, context - rows, page + i * pages};
    struct attn a = {
        .nseq = seqs, .seq = seq, .rows = seqs * rows, .heads = 9, .scale = 0.125f, .q = model.gate, .kv = &kv};
    fill(model.gate, (size_t)(seqs * rows) * HIDDEN);
    double t = time_run(p, do_attention, &a, 0.05), pairs = (double)seqs * rows * (context - (rows - 1) / 2.0);
    double flop = pairs * 9 * 64 * 4 / t, bytes = (double)kv.page_bytes * kv.pages / t;
    printf("attention %-5s %d x %-3d rows, context %-4d: %8.1f us a layer  %6.0f GFLOP/s (%2.0f%%)  %5.1f GB/s of KV\n",
           prec == PREC_FAST ? "fast" : "exact", seqs, rows, context, t * 1e6, flop / 1e9,
           100 * flop / (prec == PREC_FAST ? machine.bf16 : machine.f32), bytes / 1e9);
    big_free(kv.base, kv.page_bytes * (size_t)kv.pages);
    free(page), free(seq);
}

int main(int argc, char **argv)
{
    struct pool *p = pool_of(argc > 1 ? (int)strtol(argv[1], NULL, 10) : 0);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!kernels_pick("avx512", PREC_FAST)) {
        printf("bench_model: this processor has no AVX-512; the plain table is a definition, not timed\n");
        pool_free(p);
        return 0;
    }
    machine = machine_measure(p);
    machine_print(&machine, pool_threads(p), false);
    for (enum precision prec = PREC_FAST; prec <= PREC_EXACT; prec++) {
        static const int rows[] = {1, 2, 4, 8, 16, 512};
        make_model(prec);
        for (int i = 0; i < 6; i++) bench_rows(p, rows[i], prec == PREC_FAST ? 1 : 0.6);
        bench_attention(p, prec, 1, 1, 512);
        bench_attention(p, prec, 8, 1, 512);
        bench_attention(p, prec, 1, 512, 512);
        free_model();
    }
    pool_free(p);
    return 0;
}
