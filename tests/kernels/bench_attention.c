/* How fast attention is, beside what the machine can do in the same run: decoding rows as bytes of K and V a second,
 * beside the read rate of plain loops; prompts as operations a second, beside plain bf16 products.
 *
 * A case goes through the layers of a cache that is made larger than the processor's caches where it says so. Cases and
 * probes take turns, because the machine's own state changes within seconds; figures are medians.
 *   bench_attention [threads] [case]   (default: all cores, all cases) */
#include "tests/kernels/common.h"
#include "tests/kernels/median.h"
#include "tests/kernels/probe.h"
#include <time.h>

#define ROUNDS 7
#define RUNS_MAX 400
#define READ_BYTES ((size_t)192 << 20)
#define PROBE_N 20000
#define LAYER_BYTES ((size_t)256 << 20) /* of the caches that are to be larger than the processor's */

struct cas {
    const char *name;
    int heads, kv_heads, head_dim, seqs, rows, context;
    bool large;
};

static const struct cas CASES[] = {
    {"decode 1 x 64, cached", 9, 3, 64, 1, 1, 64, false},
    {"decode 1 x 512, cached", 9, 3, 64, 1, 1, 512, false},
    {"decode 8 x 512, cached", 9, 3, 64, 8, 1, 512, false},
    {"decode 1 x 512", 9, 3, 64, 1, 1, 512, true},
    {"decode 8 x 256", 9, 3, 64, 8, 1, 256, true},
    {"decode 16 x 512", 9, 3, 64, 16, 1, 512, true},
    {"decode 1 x 8,192", 9, 3, 64, 1, 1, 8192, true},
    {"decode 1 x 32,000", 9, 3, 64, 1, 1, 32000, true},
    {"decode 1 x 32,000, 14 heads of 2", 14, 2, 64, 1, 1, 32000, true},
    {"decode 4 x 4,096, 32 heads of 8 x 128", 32, 8, 128, 4, 1, 4096, true},
    {"prompt of 64", 9, 3, 64, 1, 64, 64, false},
    {"prompt of 512", 9, 3, 64, 1, 512, 512, false},
    {"prompt of 512, 14 heads of 2", 14, 2, 64, 1, 512, 512, false},
    {"prompt of 512, 32 heads of 8 x 128", 32, 8, 128, 1, 512, 512, false},
    {"256 rows up to 8,192", 9, 3, 64, 1, 256, 8192, false},
    {"256 rows up to 32,000", 9, 3, 64, 1, 256, 32000, false},
};
#define CASES_N ((int)(sizeof CASES / sizeof *CASES))

static const struct {
    const char *name;
    enum kv_type type;
} TYPES[] = {{"bf16", KV_BF16}, {"int8", KV_INT8}};
#define TYPES_N 2

/* --- the machine --- */

static volatile float sink;
static char *read_block;

static void do_read(struct kthread *t, void *arg)
{
    size_t each = READ_BYTES / (size_t)t->n / 512 * 512;
    (void)arg, sink = (float)probe_read(read_block + each * (size_t)t->id, each);
}

static void do_bf16(struct kthread *t, void *arg)
{
    (void)t, (void)arg, sink = probe_bf16(PROBE_N);
}

static void do_fma(struct kthread *t, void *arg)
{
    (void)t, (void)arg, sink = probe_fma(PROBE_N);
}

static void do_int8(struct kthread *t, void *arg)
{
    (void)t, (void)arg, sink = probe_int8(PROBE_N);
}

static double seconds(struct pool *p, void (*fn)(struct kthread *t, void *arg), void *arg)
{
    double start = now_s();
    pool_run(p, fn, arg);
    return now_s() - start;
}

static double read_rate(struct pool *p)
{
    return (double)READ_BYTES / seconds(p, do_read, NULL);
}

static double product_rate(struct pool *p)
{
    return 2.0 * 32 * PROBE_N * PROBE_CHAINS * pool_threads(p) / seconds(p, do_bf16, NULL);
}

/* --- a case --- */

struct setup {
    const struct kernels *kn;
    struct kv_cache kv;
    size_t bytes;
    struct attn_seq *seq;
    int *page;
    struct attn a;
    struct act out;
};

/* Values by one pattern: 0x3c3c is 0.011 in bf16, 0x3c 60 steps in int8 (of 0.011). */
static void fill_cache(struct setup *s)
{
    memset(s->kv.base, 0x3c, s->bytes);
}

static void setup_init(struct setup *s, const struct cas *c, enum kv_type type)
{
    int pages = (c->context + KV_PAGE - 1) / KV_PAGE, rows = c->seqs * c->rows;
    size_t page_bytes = kv_page_bytes(type, c->kv_heads, c->head_dim), layer = page_bytes * (size_t)(pages * c->seqs);
    *s = (struct setup){.kn = kernels_pick(NULL, PREC_FAST)};
    s->kv = (struct kv_cache){type, 1, c->kv_heads, c->head_dim, pages * c->seqs, page_bytes, NULL, NULL};
    if (c->large) s->kv.layers = (int)(LAYER_BYTES / layer) + 1;
    s->bytes = layer * (size_t)s->kv.layers;
    s->kv.base = big_alloc(s->bytes);
    fill_cache(s);
    s->page = xalloc(sizeof(int) * (size_t)(pages * c->seqs));
    for (int i = 0; i < pages * c->seqs; i++) s->page[i] = i;
    s->seq = xalloc(sizeof *s->seq * (size_t)c->seqs);
    for (int i = 0; i < c->seqs; i++)
        s->seq[i] = (struct attn_seq){i * c->rows, c->rows, c->context - c->rows, s->page + i * pages};
    size_t width = (size_t)(c->heads * c->head_dim);
    s->a = (struct attn){.nseq = c->seqs,
                         .seq = s->seq,
                         .rows = rows,
                         .heads = c->heads,
                         .scale = 1 / sqrtf((float)c->head_dim),
                         .q = xalloc((size_t)rows * width * 4),
                         .kv = &s->kv,
                         .partial_floats = attn_partial_floats(c->heads, c->head_dim, c->context)};
    s->a.partial = xalloc(s->a.partial_floats * 4);
    fill(s->a.q, (size_t)rows * width);
    if (act_init(&s->out, rows, (int)((width + 31) / 32 * 32), ACT_BF16 | ACT_Q8, NULL)) abort();
}

static void setup_close(struct setup *s)
{
    big_free(s->kv.base, s->bytes);
    act_close(&s->out);
    free(s->seq), free(s->page), free(s->a.q), free(s->a.partial);
}

#define LAYERS_A_RUN 16

static void do_layers(struct kthread *t, void *arg)
{
    struct setup *s = arg;
    struct attn a = s->a;
    for (int i = 0; i < LAYERS_A_RUN; i++) {
        a.layer = (a.layer + 1) % s->kv.layers;
        s->kn->attention(t, &a, &s->out);
        pool_barrier(t);
    }
}

/* Seconds of a layer: the median of a round's runs. */
static double round_of(struct pool *p, struct setup *s)
{
    static double t[RUNS_MAX];
    int n = 0;
    double end = now_s() + 0.02;
    for (; n < RUNS_MAX && (n < 1 || now_s() < end); n++) {
        t[n] = seconds(p, do_layers, s) / LAYERS_A_RUN;
        s->a.layer = (s->a.layer + LAYERS_A_RUN) % s->kv.layers;
    }
    return median(t, n);
}

static void bench(struct pool *p, const struct cas *c)
{
    struct setup s[TYPES_N];
    double t[TYPES_N][ROUNDS], read[ROUNDS], product[ROUNDS];
    for (int i = 0; i < TYPES_N; i++) setup_init(&s[i], c, TYPES[i].type);
    for (int n = 0; n < ROUNDS; n++) {
        read[n] = read_rate(p);
        product[n] = product_rate(p);
        for (int i = 0; i < TYPES_N; i++) t[i][n] = round_of(p, &s[i]);
    }
    double r = median(read, ROUNDS), f = median(product, ROUNDS);
    double pairs = (double)c->seqs * c->rows * (c->context - (c->rows - 1) / 2.0);
    for (int i = 0; i < TYPES_N; i++) {
        double m = median(t[i], ROUNDS), flop = pairs * c->heads * c->head_dim * 4 / m;
        double bytes = (double)s[i].kv.page_bytes * s[i].kv.pages / m;
        printf("%-38s %s %9.1f us a layer", c->name, TYPES[i].name, m * 1e6);
        if (c->rows == 1) printf("  %6.1f GB/s of K and V, %3.0f%% of %.1f", bytes / 1e9, 100 * bytes / r, r / 1e9);
        printf("  %5.0f GFLOP/s, %3.0f%% of %.0f\n", flop / 1e9, 100 * flop / f, f / 1e9);
        setup_close(&s[i]);
    }
}

int main(int argc, char **argv)
{
    struct pool *p = pool_of(argc > 1 ? (int)strtol(argv[1], NULL, 10) : 0);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!kernels_pick("avx512", PREC_FAST)) {
        printf("bench_attention: this processor has no AVX-512; the plain table is a definition, not timed\n");
        pool_free(p);
        return 0;
    }
    read_block = big_alloc(READ_BYTES);
    memset(read_block, 1, READ_BYTES);
    double ops = 2.0 * PROBE_N * PROBE_CHAINS * pool_threads(p);
    printf("machine: read %.1f GB/s; float32 %.0f, bf16 %.0f, int8 %.0f G operations/s\n", read_rate(p) / 1e9,
           ops * 16 / seconds(p, do_fma, NULL) / 1e9, product_rate(p) / 1e9,
           ops * 64 / seconds(p, do_int8, NULL) / 1e9);
    for (int i = 0; i < CASES_N; i++)
        if (argc < 3 || strtol(argv[2], NULL, 10) == i) bench(p, &CASES[i]);
    big_free(read_block, READ_BYTES);
    pool_free(p);
    return 0;
}
