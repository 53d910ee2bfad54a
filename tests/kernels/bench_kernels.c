/* How fast the matrix products are: each shape, layout and number of rows beside what the machine itself can do, and
 * beside oneDNN's packed product of the same shape where that library is (peer.h), both in turns within one run.
 *
 *   hot    the same weight again and again, as far as caches hold it
 *   cold   weights taking turns until they are more than any cache holds: what a step of the engine meets
 *
 * A product is timed as the engine runs it: inside a run of the pool, a barrier behind it. int8 layouts are compared
 * with oneDNN's u8 x s8, which knows one scale per output where ours have one per 32 inputs. Its threads are OpenMP's:
 * with OMP_WAIT_POLICY=active they would spin on our cores during our turns.
 *
 *   bench_kernels [threads]           a table
 *   --json                            one object a line: the machine, then the products
 *   --machine                         the machine's line alone, as JSON
 *   --shape, --kind TEXT, --rows N    only those that contain the text, only so many rows
 *   --hot, --cold                     only these
 *   --ms N                            time for one figure (default 30)
 *   --best                            the fastest sample instead of the median, for a machine that others use too */
#include "tests/kernels/peer.h"
#include "tests/kernels/problem.h"
#include "tests/kernels/shapes.h"
#include "tests/kernels/timing.h"

#define ROWS_MAX 512
#define ROUNDS 5
#define COLD_BYTES ((size_t)128 << 20)
#define COPIES_MAX 1024
#define RUN_S 200e-6  /* products are repeated inside a run until it takes so long */
#define PAUSE_S 0.006 /* after the peer's turn: its threads spin a while */

static struct machine machine;

static struct {
    bool json, machine_only, hot, cold, best;
    const char *shape, *kind;
    int rows, threads;
    double budget;
} opt = {.hot = true, .cold = true, .shape = "", .kind = "", .budget = 0.03};

static const struct kind {
    int type;
    enum precision prec;
    int peer; /* enum peer_type; -1: none is alike */
} KINDS[] = {{T_BF16, PREC_FAST, PEER_BF16}, {T_Q8_0, PREC_FAST, PEER_INT8}, {M_INT8, PREC_FAST, PEER_INT8},
             {T_Q4_1, PREC_FAST, PEER_INT8}, {M_ZERO, PREC_FAST, PEER_INT8}, {M_INT2, PREC_FAST, PEER_INT8},
             {M_NF4, PREC_FAST, PEER_BF16},  {M_E4M3, PREC_FAST, PEER_BF16}, {T_F32, PREC_EXACT, -1},
             {T_Q4_1, PREC_EXACT, -1},       {M_NF4, PREC_EXACT, -1},        {M_E4M3, PREC_EXACT, -1}};

#define KINDS_N ((int)(sizeof KINDS / sizeof *KINDS))

static const int ROWS[] = {1, 4, 8, 16, 64, ROWS_MAX};

#define ROWS_N ((int)(sizeof ROWS / sizeof *ROWS))

/* One weight of a kind in several copies, activations for ROWS_MAX rows, and the sums. */
struct product {
    const struct shape *shape;
    const struct kind *kind;
    struct weight w, copy[COPIES_MAX];
    char *block;
    size_t block_bytes;
    int copies;
    struct act in;
    float *y;
    int rows, reps, first; /* of a run: products, and the copy that the first of them takes */
    bool cold;
};

static double peak_of(const struct product *p)
{
    if (p->kind->prec == PREC_EXACT) return machine.f32;
    return weight_act_form(p->w.layout) == ACT_BF16 ? machine.bf16 : machine.int8;
}

static void make_copies(struct product *p)
{
    size_t each = (p->w.bytes + 4095) / 4096 * 4096;
    p->copies = opt.cold ? (int)(COLD_BYTES / each) + 1 : 1;
    if (p->copies > COPIES_MAX) p->copies = COPIES_MAX;
    p->block_bytes = each * (size_t)p->copies;
    p->block = big_alloc(p->block_bytes);
    if (!p->block) abort();
    for (int i = 0; i < p->copies; i++) {
        p->copy[i] = p->w;
        p->copy[i].data = memcpy(p->block + each * (size_t)i, p->w.data, p->w.bytes);
    }
}

static void round_rows(struct kthread *t, void *arg)
{
    struct product *p = arg;
    int k = p->w.k;
    float *ones = t->scratch;
    for (int i = 0; i < k; i++) ones[i] = 1;
    kernels_pick("plain", PREC_FAST)->rmsnorm(t, p->in.x, NULL, ROWS_MAX, k, ones, 1e-6f, &p->in);
}

static struct product *product_new(struct pool *pool, const struct shape *s, const struct kind *kind)
{
    struct product *p = xalloc(sizeof *p);
    struct matrix m = matrix_make(kind->type, s->n, s->k, false);
    p->shape = s, p->kind = kind;
    if (matrix_pack(&p->w, &m, NULL, kind->prec, NULL)) abort();
    matrix_free(&m);
    make_copies(p);
    if (act_init(&p->in, ROWS_MAX, s->k, ACT_BF16 | ACT_Q8, NULL)) abort();
    fill(p->in.x, (size_t)ROWS_MAX * (size_t)s->k);
    pool_run(pool, round_rows, p);
    p->y = big_alloc(sizeof(float) * ROWS_MAX * (size_t)s->n);
    if (!p->y) abort();
    return p;
}

static void product_free(struct product *p)
{
    big_free(p->y, sizeof(float) * ROWS_MAX * (size_t)p->w.n);
    big_free(p->block, p->block_bytes);
    act_close(&p->in);
    weight_close(&p->w);
    free(p);
}

static void run_products(struct kthread *t, void *arg)
{
    const struct product *p = arg;
    const struct kernels *kn = kernels_pick(NULL, p->kind->prec);
    for (int i = 0; i < p->reps; i++) {
        struct mm mm = {.in = &p->in, .rows = p->rows, .nout = 1};
        mm.out[0] = (struct mm_out){
            .w = &p->copy[p->cold ? (p->first + i) % p->copies : 0], .y = p->y, .ldy = p->w.n, .module = MM_BASE};
        kn->matmul(t, &mm);
        pool_barrier(t);
    }
}

static double middle(double *t, int n)
{
    double m = median(t, n);
    return opt.best ? t[0] : m;
}

/* Seconds of one product, median over `budget` seconds; ours for peer NULL. Cold ones go on where they stopped. */
static double time_products(struct pool *pool, struct product *p, struct peer *peer, double budget)
{
    static double t[SAMPLES_MAX];
    int n = 0;
    for (double end = now_s() + budget; n < SAMPLES_MAX && (n < 3 || now_s() < end); n++) {
        double start = now_s();
        if (peer)
            for (int i = 0; i < p->reps; i++) peer_run(peer, p->cold ? p->first + i : 0);
        else
            pool_run(pool, run_products, p);
        t[n] = (now_s() - start) / p->reps;
        p->first = (p->first + p->reps) % p->copies;
    }
    return middle(t, n);
}

static void choose_reps(struct pool *pool, struct product *p)
{
    p->reps = 1;
    double one = time_products(pool, p, NULL, 0);
    p->reps = one < RUN_S ? (int)(RUN_S / one) + 1 : 1;
}

struct figures {
    double t, peer, ratio; /* seconds; peer's over ours */
};

/* Ours and the peer's in turns; ratios are taken within a round. */
static struct figures compare(struct pool *pool, struct product *p, struct peer *peer)
{
    double ours[ROUNDS], theirs[ROUNDS] = {0}, ratio[ROUNDS] = {0};
    choose_reps(pool, p);
    for (int i = 0; i < ROUNDS; i++) {
        ours[i] = time_products(pool, p, NULL, opt.budget / ROUNDS);
        if (!peer) continue;
        theirs[i] = time_products(pool, p, peer, opt.budget / ROUNDS);
        ratio[i] = theirs[i] / ours[i];
        nanosleep(&(struct timespec){.tv_nsec = (long)(PAUSE_S * 1e9)}, NULL);
    }
    return (struct figures){middle(ours, ROUNDS), middle(theirs, ROUNDS), median(ratio, ROUNDS)};
}

static void print_figures(const struct product *p, const struct figures *f)
{
    double flop = 2.0 * p->w.n * p->w.k * p->rows / f->t, bytes = (double)p->w.bytes / f->t;
    const char *prec = p->kind->prec == PREC_FAST ? "fast" : "exact", *state = p->cold ? "cold" : "hot";
    if (opt.json) {
        printf("{\"shape\":\"%s\",\"n\":%d,\"k\":%d,\"type\":\"%s\",\"layout\":\"%s\",\"precision\":\"%s\",\"rows\":%d,"
               "\"state\":\"%s\",\"us\":%.2f,\"gflop_s\":%.1f,\"of_peak\":%.3f,\"gb_s\":%.2f,\"of_read\":%.3f",
               p->shape->name, p->w.n, p->w.k, TYPE_NAMES[p->kind->type], layout_name[p->w.layout], prec, p->rows,
               state, f->t * 1e6, flop / 1e9, flop / peak_of(p), bytes / 1e9, bytes / machine.read);
        if (f->peer > 0)
            printf(",\"peer\":\"%s\",\"peer_us\":%.2f,\"peer_ratio\":%.3f", peer_name, f->peer * 1e6, f->ratio);
        printf("}\n");
        return;
    }
    printf("%-24s %-16s %-5s m=%-4d %-4s %8.1f us %6.0f GFLOP/s %3.0f%% %6.1f GB/s %3.0f%%", p->shape->name,
           TYPE_NAMES[p->kind->type], prec, p->rows, state, f->t * 1e6, flop / 1e9, 100 * flop / peak_of(p),
           bytes / 1e9, 100 * bytes / machine.read);
    if (f->peer > 0) printf("  %s %8.1f us, %.2f x", peer_name, f->peer * 1e6, f->ratio);
    printf("\n");
}

static void bench_rows(struct pool *pool, struct product *p, int rows)
{
    struct peer *peer = NULL;
    p->rows = rows;
    if (p->kind->peer >= 0) peer = peer_new((enum peer_type)p->kind->peer, rows, p->w.n, p->w.k, p->copies);
    for (int cold = 0; cold < 2; cold++) {
        if (cold ? !opt.cold || rows > 64 : !opt.hot) continue;
        p->cold = cold;
        struct figures f = compare(pool, p, peer);
        print_figures(p, &f);
    }
    peer_free(peer);
}

static void bench_shape(struct pool *pool, const struct shape *s)
{
    for (int i = 0; i < KINDS_N; i++) {
        if (!strstr(TYPE_NAMES[KINDS[i].type], opt.kind)) continue;
        struct product *p = product_new(pool, s, &KINDS[i]);
        for (int r = 0; r < ROWS_N; r++)
            if (!opt.rows || opt.rows == ROWS[r]) bench_rows(pool, p, ROWS[r]);
        product_free(p);
    }
}

/* 0, or -1: not understood. */
static int read_options(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(a, "--json"))
            opt.json = true;
        else if (!strcmp(a, "--machine"))
            opt.machine_only = opt.json = true;
        else if (!strcmp(a, "--hot"))
            opt.cold = false;
        else if (!strcmp(a, "--cold"))
            opt.hot = false;
        else if (!strcmp(a, "--best"))
            opt.best = true;
        else if (!strcmp(a, "--shape") && value)
            opt.shape = value, i++;
        else if (!strcmp(a, "--kind") && value)
            opt.kind = value, i++;
        else if (!strcmp(a, "--rows") && value)
            opt.rows = (int)strtol(value, NULL, 10), i++;
        else if (!strcmp(a, "--ms") && value)
            opt.budget = (double)strtol(value, NULL, 10) / 1000, i++;
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
        fprintf(stderr, "bench_kernels: an option is not known; the file's head lists them\n");
        return 2;
    }
    if (!kernels_pick("avx512", PREC_FAST)) {
        printf("bench_kernels: this processor has no AVX-512; the plain table is a definition, not timed\n");
        return 0;
    }
    struct pool *pool = pool_of(opt.threads);
    machine = machine_measure(pool);
    machine_print(&machine, pool_threads(pool), opt.json);
    for (int s = 0; !opt.machine_only && s < BENCH_SHAPES_N; s++)
        if (strstr(BENCH_SHAPES[s].name, opt.shape)) bench_shape(pool, &BENCH_SHAPES[s]);
    if (!opt.json) {
        machine = machine_measure(pool);
        machine_print(&machine, pool_threads(pool), false);
    }
    pool_free(pool);
    return 0;
}
