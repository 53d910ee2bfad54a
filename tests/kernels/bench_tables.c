/* The tables of kernels beside each other: rows/s through the products of SmolLM2-135M's 30 layers (no head, no
 * attention, base rows), for each kind of weight, in both precisions.
 *
 * Tables take turns run by run, so that the machine's states and its other processes meet all of them; figures are
 * medians. Shares are of the rate of float32 FMAs on 256-bit registers, measured around each run; a table with wider
 * registers or products of bytes passes it. The plain table is a definition and not meant to be fast: it gets one layer,
 * few rows and is scaled.
 *   bench_tables [threads [kind]]   (default: all cores, all kinds of weight; a kind by its printed name) */
#include "tests/kernels/median.h"
#include "tests/kernels/problem.h"
#include <immintrin.h>
#include <time.h>

#define RUNS_MAX 400
#define CHAINS 12
#define PROBE_N 20000

enum { HIDDEN = 576, KV = 192, MLP = 1536, LAYERS_N = 30, ROWS_MAX = 512, PRODUCTS = 4 };

/* q k v together, o, gate and up together, down. */
static const struct {
    int k, nout, n[MM_OUTS];
} PRODUCT[PRODUCTS] = {
    {HIDDEN, 3, {HIDDEN, KV, KV}}, {HIDDEN, 1, {HIDDEN}}, {HIDDEN, 2, {MLP, MLP}}, {MLP, 1, {HIDDEN}}};

static const int KINDS[] = {T_Q4_1, T_Q8_0, T_BF16, M_NF4, M_E4M3, M_INT2};
#define KINDS_N ((int)(sizeof KINDS / sizeof *KINDS))

static const int ROWS[] = {1, 8, 64, 512};
#define ROWS_N ((int)(sizeof ROWS / sizeof *ROWS))

static struct {
    struct weight w[LAYERS_N][PRODUCTS][MM_OUTS];
    struct act in[2]; /* of HIDDEN and of MLP */
    float *y;
} model;

/* --- the machine --- */

static volatile float sink;

__attribute__((target("avx2,fma"))) static void probe_fma256(struct kthread *t, void *arg)
{
    (void)t, (void)arg;
    __m256 s[CHAINS], a = _mm256_set1_ps(0.5f);
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) s[i] = _mm256_set1_ps((float)i);
    for (int j = 0; j < PROBE_N; j++)
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) {
            s[i] = _mm256_fmadd_ps(s[i], a, a);
            __asm__ volatile("" : "+x"(s[i]));
        }
#pragma GCC unroll 12
    for (int i = 1; i < CHAINS; i++) s[0] = _mm256_add_ps(s[0], s[i]);
    sink = _mm256_cvtss_f32(s[0]);
}

/* Float operations/s of all threads, now. */
static double fma_rate(struct pool *p)
{
    double start = now_s();
    pool_run(p, probe_fma256, NULL);
    return 2.0 * 8 * CHAINS * PROBE_N * pool_threads(p) / (now_s() - start);
}

/* --- the model --- */

static void make_model(int type, enum precision prec)
{
    for (int p = 0; p < PRODUCTS; p++)
        for (int o = 0; o < PRODUCT[p].nout; o++) {
            struct matrix m = matrix_make(type, PRODUCT[p].n[o], PRODUCT[p].k, false);
            for (int l = 0; l < LAYERS_N; l++)
                if (matrix_pack(&model.w[l][p][o], &m, NULL, prec, NULL)) abort();
            matrix_free(&m);
        }
    model.y = xalloc(sizeof(float) * ROWS_MAX * 2 * MLP);
    for (int i = 0; i < 2; i++) {
        int k = i ? MLP : HIDDEN;
        if (act_init(&model.in[i], ROWS_MAX, k, ACT_BF16 | ACT_Q8, NULL)) abort();
        fill(model.in[i].x, (size_t)ROWS_MAX * (size_t)k);
        for (size_t j = 0; j < (size_t)ROWS_MAX * (size_t)k; j++) {
            model.in[i].bf16[j] = bf16_bits(bf16_near(model.in[i].x[j]));
            model.in[i].q8[j] = (int8_t)next_int(-127, 127);
            model.in[i].q8_scale[j / 32] = 1.0f / 127;
        }
    }
}

static void free_model(void)
{
    for (int l = 0; l < LAYERS_N; l++)
        for (int p = 0; p < PRODUCTS; p++)
            for (int o = 0; o < PRODUCT[p].nout; o++) weight_close(&model.w[l][p][o]);
    for (int i = 0; i < 2; i++) act_close(&model.in[i]);
    free(model.y);
}

struct pass {
    const struct kernels *kn;
    int rows, layers;
};

static void forward(struct kthread *t, void *arg)
{
    const struct pass *pass = arg;
    for (int l = 0; l < pass->layers; l++)
        for (int p = 0; p < PRODUCTS; p++) {
            struct mm m = {.in = &model.in[PRODUCT[p].k == MLP], .rows = pass->rows, .nout = PRODUCT[p].nout};
            for (int o = 0, at = 0; o < m.nout; at += PRODUCT[p].n[o++])
                m.out[o] =
                    (struct mm_out){.w = &model.w[l][p][o], .y = model.y + at, .ldy = 2 * MLP, .module = MM_BASE};
            pass->kn->matmul(t, &m);
            pool_barrier(t);
        }
}

static double seconds(struct pool *p, const struct kernels *kn, int rows)
{
    bool plain = strcmp(kn->name, "plain") == 0;
    struct pass pass = {kn, plain && rows > 8 ? 8 : rows, plain ? 1 : LAYERS_N};
    double start = now_s();
    pool_run(p, forward, &pass);
    return (now_s() - start) * ((double)LAYERS_N / pass.layers) * ((double)rows / pass.rows);
}

/* Operations of a row. */
#define FLOP (2.0 * LAYERS_N * (2 * HIDDEN * HIDDEN + 2 * KV * HIDDEN + 3 * MLP * HIDDEN))

static void bench(struct pool *p, int type, enum precision prec, int rows)
{
    static double rate[TABLES_N][RUNS_MAX], share[TABLES_N][RUNS_MAX];
    int n = 0;
    for (double end = now_s() + 0.5; n < RUNS_MAX && (n < 5 || now_s() < end); n++)
        for (int i = 0; i < TABLES_N; i++) {
            const struct kernels *kn = kernels_pick(TABLE_NAMES[i], prec);
            double before = fma_rate(p);
            rate[i][n] = kn && (i > 0 || n < 3) ? rows / seconds(p, kn, rows) : 0;
            share[i][n] = rate[i][n] * FLOP / fmax(before, fma_rate(p));
        }
    printf("%-16s %-5s m=%-3d ", TYPE_NAMES[type], prec == PREC_FAST ? "fast" : "exact", rows);
    for (int i = 0; i < TABLES_N; i++)
        printf("  %s %6.0f rows/s %3.0f%%", TABLE_NAMES[i], median(rate[i], i ? n : 3),
               100 * median(share[i], i ? n : 3));
    printf("\n");
}

int main(int argc, char **argv)
{
    struct pool *p = pool_of(argc > 1 ? (int)strtol(argv[1], NULL, 10) : 0);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!kernels_pick("avx2", PREC_FAST)) {
        printf("bench_tables: this processor runs the plain table alone\n");
        pool_free(p);
        return 0;
    }
    printf("%d threads\n", pool_threads(p));
    for (int prec = PREC_FAST; prec <= PREC_EXACT; prec++)
        for (int kind = 0; kind < KINDS_N; kind++) {
            if (argc > 2 && strcmp(argv[2], TYPE_NAMES[KINDS[kind]]) != 0) continue;
            make_model(KINDS[kind], (enum precision)prec);
            for (int r = 0; r < ROWS_N; r++) bench(p, KINDS[kind], (enum precision)prec, ROWS[r]);
            free_model();
        }
    pool_free(p);
    return 0;
}
