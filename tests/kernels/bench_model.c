/* How fast a whole model's products are beside what the machine itself can do in the same run.
 *
 * Products, norms and gate of all layers and the head (no attention) on random weights: rows/s of base rows, as a
 * fraction of the read rate and of the multipliers, and with adapters taking turns with it: 8 of rank 8, 8 of
 * ranks 8 to 64, on all seven modules. "bytes allow" is what the adapters' own bytes leave of the base's rate
 * where memory bounds both
 *
 * Figures are medians of short runs, since other processes and the machine's own states disturb; compare ratios within one run.
 *   bench_model [threads]              (default: all cores)
 *   --model, --type TEXT, --rows N     only those that contain the text, only so many rows */
#include "tests/kernels/timing.h"

static struct machine machine;

static struct {
    const char *model, *type;
    int rows, threads;
} opt = {.model = "", .type = ""};

/* --- a whole model --- */

enum { Q, K, V, O, GATE, UP, DOWN, PROJECTIONS };
enum { MODEL_ROWS = 512, HEAD_ROWS = 16, LAYERS_MAX = 30, ADAPTERS = 8, RANK_MOST = 64 };

static const struct dims {
    const char *name;
    int hidden, kv, mlp, vocab, layers;
} DIMS[] = {{"SmolLM2-135M", 576, 192, 1536, 49152, 30}, {"Qwen2.5-0.5B", 896, 128, 4864, 151936, 24}};

#define DIMS_N ((int)(sizeof DIMS / sizeof *DIMS))

static const struct model_type {
    const char *name;
    enum tensor_type type, head;
    enum precision prec;
    unsigned form; /* of activations, in FAST */
} MODEL_TYPES[] = {{"bf16", T_BF16, T_BF16, PREC_FAST, ACT_BF16},
                   {"q8_0", T_Q8_0, T_Q8_0, PREC_FAST, ACT_BF16 | ACT_Q8},
                   {"q4_1", T_Q4_1, T_Q8_0, PREC_FAST, ACT_BF16 | ACT_Q8},
                   {"q4_1", T_Q4_1, T_Q8_0, PREC_EXACT, ACT_BF16}};

#define MODEL_TYPES_N ((int)(sizeof MODEL_TYPES / sizeof *MODEL_TYPES))

static const struct mix {
    const char *name;
    int rank[ADAPTERS];
} MIXES[] = {{"ranks 8", {8, 8, 8, 8, 8, 8, 8, 8}}, {"ranks 8-64", {8, 8, 16, 16, 32, 32, 64, 64}}};

#define MIXES_N ((int)(sizeof MIXES / sizeof *MIXES))

struct adapter_set {
    struct lora_mod mods[ADAPTERS][LAYERS_MAX * PROJECTIONS];
    struct lora_table table[ADAPTERS];
    void *block[ADAPTERS];
    size_t bytes[ADAPTERS];
    struct lora_seg seg[ADAPTERS];
    struct lora_batch batch;
};

static struct model {
    const struct dims *d;
    const struct model_type *type;
    const struct kernels *kn;
    int n[PROJECTIONS], k[PROJECTIONS];
    struct weight w[LAYERS_MAX][PROJECTIONS], head;
    struct adapter_set set[MIXES_N];
    struct act x, norm, gated;
    float *q, *kk, *v, *gate, *logits, *shrink, *ones;
    int rows, head_rows;
    const struct adapter_set *adapted; /* NULL: base rows */
} model;

/* Random blocks with scales in range: as fast to make as to read. */
static void make_weight(struct weight *w, enum tensor_type type, int n, int k)
{
    size_t bytes = tensor_bytes(type, n, k), block = type == T_Q8_0 ? 34 : 20;
    uint8_t *src = xalloc(bytes);
    for (size_t i = 0; i + 4 <= bytes; i += 4) {
        uint32_t u = type == T_BF16 ? (next_u32() & 0x807f807f) | 0x3c003c00 : next_u32(); /* about 0.01 */
        memcpy(src + i, &u, 4);
    }
    for (size_t i = 0; type != T_BF16 && i < bytes; i += block) {
        src[i + 1] = 0x18;                     /* about 0.002 */
        if (type == T_Q4_1) src[i + 3] = 0x9c; /* about -0.004 */
    }
    if (weight_pack(w, type, src, n, k, NULL, model.type->prec, NULL)) abort();
    free(src);
}

static void make_adapter(struct adapter_set *set, int a, int r)
{
    enum lora_type type = model.type->prec == PREC_FAST ? LORA_BF16 : LORA_F32;
    int layers = model.d->layers;
    size_t count = (size_t)r * (size_t)model.d->mlp;
    float *values = xalloc(count * sizeof *values);
    fill(values, count);
    set->bytes[a] = 0;
    for (int p = 0; p < PROJECTIONS; p++)
        set->bytes[a] += (size_t)layers * lora_mod_bytes(type, r, model.n[p], model.k[p]);
    char *at = set->block[a] = big_alloc(set->bytes[a]);
    for (int i = 0; i < layers * PROJECTIONS; i++) {
        int p = i % PROJECTIONS;
        lora_mod_pack(&set->mods[a][i], type, at, r, model.n[p], model.k[p], 0.01f, T_F32, values, values, NULL);
        at += lora_mod_bytes(type, r, model.n[p], model.k[p]);
    }
    set->table[a].mod = set->mods[a];
    free(values);
}

static void make_rows(void)
{
    const struct dims *d = model.d;
    size_t row = sizeof(float) * MODEL_ROWS;
    if (act_init(&model.x, MODEL_ROWS, d->hidden, 0, NULL) ||
        act_init(&model.norm, MODEL_ROWS, d->hidden, model.type->form, NULL) ||
        act_init(&model.gated, MODEL_ROWS, d->mlp, model.type->form, NULL))
        abort();
    fill(model.x.x, (size_t)MODEL_ROWS * (size_t)d->hidden);
    model.q = xalloc(row * (size_t)d->hidden), model.kk = xalloc(row * (size_t)d->kv);
    model.v = xalloc(row * (size_t)d->kv), model.gate = xalloc(row * (size_t)d->mlp);
    model.shrink = xalloc(row * MM_OUTS * RANK_MOST);
    model.logits = xalloc(sizeof(float) * HEAD_ROWS * (size_t)d->vocab);
    model.ones = xalloc(sizeof(float) * (size_t)d->mlp);
    for (int i = 0; i < d->mlp; i++) model.ones[i] = 1;
}

static void make_model(const struct dims *d, const struct model_type *type)
{
    memset(&model, 0, sizeof model);
    model.d = d, model.type = type, model.kn = kernels_pick(NULL, type->prec);
    int n[] = {d->hidden, d->kv, d->kv, d->hidden, d->mlp, d->mlp, d->hidden};
    for (int p = 0; p < PROJECTIONS; p++) model.n[p] = n[p], model.k[p] = p == DOWN ? d->mlp : d->hidden;
    for (int l = 0; l < d->layers; l++)
        for (int p = 0; p < PROJECTIONS; p++) make_weight(&model.w[l][p], type->type, model.n[p], model.k[p]);
    make_weight(&model.head, type->head, d->vocab, d->hidden);
    for (int i = 0; i < MIXES_N; i++)
        for (int a = 0; a < ADAPTERS; a++) make_adapter(&model.set[i], a, MIXES[i].rank[a]);
    make_rows();
}

static void free_model(void)
{
    for (int i = 0; i < model.d->layers * PROJECTIONS; i++) weight_close(&model.w[i / PROJECTIONS][i % PROJECTIONS]);
    weight_close(&model.head);
    for (int i = 0; i < MIXES_N * ADAPTERS; i++) {
        struct adapter_set *set = &model.set[i / ADAPTERS];
        big_free(set->block[i % ADAPTERS], set->bytes[i % ADAPTERS]);
    }
    act_close(&model.x), act_close(&model.norm), act_close(&model.gated);
    free(model.q), free(model.kk), free(model.v), free(model.gate);
    free(model.logits), free(model.shrink), free(model.ones);
}

/* Rows in segments as even as they go. */
static void set_rows(int rows)
{
    model.rows = rows;
    model.head_rows = rows > HEAD_ROWS ? 1 : rows; /* a prompt needs its last row's */
    for (int i = 0; i < MIXES_N; i++) {
        struct adapter_set *set = &model.set[i];
        set->batch = (struct lora_batch){.seg = set->seg, .modules = PROJECTIONS};
        for (int a = 0, row0 = 0; a < ADAPTERS; a++) {
            int n = (rows + ADAPTERS - 1 - a) / ADAPTERS;
            if (n) set->seg[set->batch.nseg++] = (struct lora_seg){row0, n, 1, {{&set->table[a], 1}}};
            row0 += n;
        }
    }
}

static size_t adapter_bytes(const struct adapter_set *set)
{
    size_t bytes = 0;
    for (int a = 0; a < set->batch.nseg; a++) bytes += set->bytes[a];
    return bytes;
}

static struct mm product(int layer, const struct act *in, int rows)
{
    return (struct mm){.in = in,
                       .rows = rows,
                       .lora = model.adapted ? &model.adapted->batch : NULL,
                       .layer = layer,
                       .shrink = model.shrink,
                       .shrink_ld = RANK_MOST};
}

static void add_out(struct mm *m, int p, float *y)
{
    m->out[m->nout++] = (struct mm_out){.w = &model.w[m->layer][p], .y = y, .ldy = model.n[p], .module = p};
}

static void norm(struct kthread *t, int rows)
{
    model.kn->rmsnorm(t, model.x.x, NULL, rows, model.d->hidden, model.ones, 1e-5f, &model.norm);
    pool_barrier(t);
}

static void layer(struct kthread *t, int l)
{
    struct mm qkv = product(l, &model.norm, model.rows), o = qkv, gu = qkv, down = product(l, &model.gated, model.rows);
    add_out(&qkv, Q, model.q), add_out(&qkv, K, model.kk), add_out(&qkv, V, model.v);
    add_out(&o, O, model.gate);
    add_out(&gu, GATE, NULL), add_out(&gu, UP, NULL);
    gu.gated = &model.gated;
    add_out(&down, DOWN, model.q);
    norm(t, model.rows);
    model.kn->matmul(t, &qkv);
    pool_barrier(t);
    model.kn->matmul(t, &o);
    pool_barrier(t);
    norm(t, model.rows);
    model.kn->matmul(t, &gu);
    pool_barrier(t);
    model.kn->matmul(t, &down);
    pool_barrier(t);
}

static void forward(struct kthread *t, void *arg)
{
    (void)arg;
    for (int l = 0; l < model.d->layers; l++) layer(t, l);
    norm(t, model.head_rows);
    struct mm head = {.in = &model.norm, .rows = model.head_rows, .nout = 1};
    head.out[0] = (struct mm_out){.w = &model.head, .y = model.logits, .ldy = model.d->vocab, .module = MM_BASE};
    model.kn->matmul(t, &head);
}

static double one_forward(struct pool *p, const struct adapter_set *adapted)
{
    model.adapted = adapted;
    double start = now_s();
    pool_run(p, forward, NULL);
    return now_s() - start;
}

static void print_base(int rows, double t, double bytes)
{
    double flop = 2.0 * model.head_rows * model.d->vocab * model.d->hidden;
    for (int p = 0; p < PROJECTIONS; p++) flop += 2.0 * rows * model.d->layers * model.n[p] * model.k[p];
    double peak = model.type->prec == PREC_EXACT ? machine.f32
                  : model.type->form & ACT_Q8    ? machine.int8
                                                 : machine.bf16;
    printf("%s %s %-5s m=%-3d %7.0f rows/s, %3.0f%% of the read rate, %2.0f%% of the multipliers", model.d->name,
           model.type->name, model.type->prec == PREC_FAST ? "fast" : "exact", rows, rows / t,
           100 * bytes / t / machine.read, 100 * flop / t / peak);
}

/* Base and mixes in turns; ratios are taken within a turn. */
static void bench_rows(struct pool *p, int rows, double budget)
{
    static double base[SAMPLES_MAX], ratio[MIXES_N][SAMPLES_MAX];
    int n = 0;
    set_rows(rows);
    one_forward(p, NULL);
    for (int i = 0; i < MIXES_N; i++) one_forward(p, &model.set[i]);
    for (double end = now_s() + budget; n < SAMPLES_MAX && (n < 3 || now_s() < end); n++) {
        base[n] = one_forward(p, NULL);
        for (int i = 0; i < MIXES_N; i++) ratio[i][n] = base[n] / one_forward(p, &model.set[i]);
    }
    double bytes = (double)model.head.bytes;
    for (int l = 0; l < model.d->layers; l++)
        for (int i = 0; i < PROJECTIONS; i++) bytes += (double)model.w[l][i].bytes;
    print_base(rows, median(base, n), bytes);
    for (int i = 0; i < MIXES_N; i++)
        printf("; %s keep %.3f, bytes allow %.3f", MIXES[i].name, median(ratio[i], n),
               bytes / (bytes + (double)adapter_bytes(&model.set[i])));
    printf("\n");
}

static void bench_model(struct pool *p, const struct dims *d, const struct model_type *type)
{
    static const int rows[] = {1, 2, 4, 8, 16, 64, 512};
    make_model(d, type);
    for (int i = 0; i < (int)(sizeof rows / sizeof *rows); i++)
        if (!opt.rows || opt.rows == rows[i]) bench_rows(p, rows[i], type->prec == PREC_FAST ? 1 : 0.6);
    free_model();
}

/* 0, or -1: not understood. */
static int read_options(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(a, "--model") && value)
            opt.model = value, i++;
        else if (!strcmp(a, "--type") && value)
            opt.type = value, i++;
        else if (!strcmp(a, "--rows") && value)
            opt.rows = (int)strtol(value, NULL, 10), i++;
        else if (a[0] != '-')
            opt.threads = (int)strtol(a, NULL, 10);
        else
            return -1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (read_options(argc, argv)) {
        fprintf(stderr, "bench_model: an option is not known; the file's head lists them\n");
        return 2;
    }
    if (!kernels_pick("avx512", PREC_FAST)) {
        printf("bench_model: this processor has no AVX-512; the plain table is a definition, not timed\n");
        return 0;
    }
    struct pool *p = pool_of(opt.threads);
    machine = machine_measure(p);
    machine_print(&machine, pool_threads(p), false);
    for (int d = 0; d < DIMS_N; d++)
        for (int i = 0; i < MODEL_TYPES_N; i++)
            if (strstr(DIMS[d].name, opt.model) && strstr(MODEL_TYPES[i].name, opt.type))
                bench_model(p, &DIMS[d], &MODEL_TYPES[i]);
    machine = machine_measure(p);
    machine_print(&machine, pool_threads(p), false);
    pool_free(p);
    return 0;
}
