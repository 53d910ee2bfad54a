/* Segments that sum several adapters, DoRA, and the places beyond the modules of a layer (head, experts, router): against
 * float64 on the same rounded inputs, and bit for bit whatever else is in the step. The shrinks' scratch is NaN before
 * each product, so that what a segment did not write is not read. */
#include "tests/kernels/problem.h"

#define TOLERANCE 1e-5
#define K 160
#define N 75
#define EXPERTS 3
#define MODULES 7
#define LAYER 1
#define LD 1024 /* four ranks of 256 */

static const int RANKS[] = {1, 4, 8, 12, 16, 24, 64, 100, 256};
enum { ADAPTERS = sizeof RANKS / sizeof *RANKS };

/* One adapter per rank; every second one has row factors. */
static struct {
    double *a, *b; /* as rounded for the table */
    float factor[N];
    void *packed;
    struct lora_mod mod[2]; /* plain, DoRA */
    struct lora_mod layer[(LAYER + 1) * MODULES], expert[(LAYER + 1) * EXPERTS * EXPERT_PARTS], router[LAYER + 1];
    struct lora_table table, dora;
    struct lora_mod dora_layer[(LAYER + 1) * MODULES];
} ad[ADAPTERS];

#define MODULE 4 /* the column that the products use */

static const struct {
    int rows, nuse;
    struct {
        int adapter;
        float weight;
    } use[LORA_STACK];
    bool dora;
} SEGS[] = {
    {2, 0, {{0, 0}}, false},
    {3, 1, {{0, 1}}, false},
    {1, 4, {{0, 0.5f}, {1, -2}, {2, 1}, {3, 0.25f}}, false},
    {2, 1, {{4, 1}}, true},
    {5, 2, {{8, 1}, {0, 3}}, false},
    {1, 1, {{7, 1}}, true},
    {3, 0, {{0, 0}}, false},
    {40, 3, {{6, 0.5f}, {5, 0.5f}, {7, -0.5f}}, false},
    {1, 1, {{2, -1.5f}}, false},
    {9, 1, {{8, 1}}, true},
    {2, 4, {{8, 1}, {8, -1}, {8, 0.5f}, {8, 0.25f}}, false},
    {1, 1, {{3, 0}}, false},
};
enum { SEGS_N = sizeof SEGS / sizeof *SEGS };

static int seg_of[128], rows_n;

static void make_adapter(int i, enum precision prec)
{
    enum lora_type type = prec == PREC_FAST ? LORA_BF16 : LORA_F32;
    int r = RANKS[i];
    float *a = adapter_source((size_t)r * K, type == LORA_BF16, false, &ad[i].a);
    float *b = adapter_source((size_t)r * N, type == LORA_BF16, false, &ad[i].b);
    ad[i].packed = xalloc(lora_mod_bytes(type, r, N, K));
    lora_mod_pack(&ad[i].mod[0], type, ad[i].packed, r, N, K, 0.75f, T_F32, a, b, NULL);
    ad[i].mod[1] = ad[i].mod[0];
    ad[i].mod[1].row_scale = ad[i].factor;
    for (int o = 0; o < N; o++) ad[i].factor[o] = 1 + next_float() / 2;
    ad[i].layer[LAYER * MODULES + MODULE] = ad[i].mod[0];
    ad[i].dora_layer[LAYER * MODULES + MODULE] = ad[i].mod[1];
    ad[i].expert[(LAYER * EXPERTS + 2) * EXPERT_PARTS] = ad[i].mod[0]; /* module 4 is the first of the last three */
    ad[i].router[LAYER] = ad[i].mod[0];
    ad[i].table = (struct lora_table){.mod = ad[i].layer};
    ad[i].dora = (struct lora_table){.mod = ad[i].dora_layer, .alone = true};
    free(a);
    free(b);
}

static void free_adapters(void)
{
    for (int i = 0; i < ADAPTERS; i++) {
        free(ad[i].a);
        free(ad[i].b);
        free(ad[i].packed);
    }
    memset(ad, 0, sizeof ad);
}

static struct lora_seg seg_at(int s, int row0, int rows)
{
    struct lora_seg seg = {.row0 = row0, .rows = rows, .nuse = SEGS[s].nuse};
    for (int u = 0; u < seg.nuse; u++) {
        int i = SEGS[s].use[u].adapter;
        seg.use[u] = (struct lora_use){SEGS[s].dora ? &ad[i].dora : &ad[i].table, SEGS[s].use[u].weight};
    }
    return seg;
}

static struct lora_batch all_segments(struct lora_seg *seg)
{
    struct lora_batch b = {.seg = seg, .modules = MODULES};
    rows_n = 0;
    for (int s = 0; s < SEGS_N; s++) {
        for (int r = 0; r < SEGS[s].rows; r++) seg_of[rows_n + r] = s;
        if (SEGS[s].nuse) seg[b.nseg++] = seg_at(s, rows_n, SEGS[s].rows);
        rows_n += SEGS[s].rows;
    }
    return b;
}

/* The float64 answer of one row, `adapted`: with what its segment uses. */
static void answer(const struct problem *p, int row, bool adapted, double *y)
{
    int s = seg_of[row];
    for (int o = 0; o < N; o++) {
        double sum = 0;
        for (int c = 0; c < K; c++) sum += p->m[0].value[o * K + c] * problem_x(p, 0, row, c, false);
        y[o] = sum;
    }
    for (int u = 0; adapted && u < SEGS[s].nuse; u++) {
        int i = SEGS[s].use[u].adapter, r = RANKS[i];
        for (int j = 0; j < r; j++) {
            double v = 0;
            for (int c = 0; c < K; c++) v += ad[i].a[j * K + c] * problem_x(p, 0, row, c, true);
            v *= 0.75 * (double)SEGS[s].use[u].weight;
            for (int o = 0; o < N; o++) y[o] += v * ad[i].b[o * r + j];
        }
        for (int o = 0; SEGS[s].dora && o < N; o++) y[o] *= (double)ad[i].factor[o];
    }
    for (int o = 0; p->mm.out[0].bias && o < N; o++) y[o] += (double)p->bias[0][o];
}

static double error_of(const struct problem *p, int row, bool adapted)
{
    double want[N], diff = 0, norm = 1e-30;
    answer(p, row, adapted, want);
    for (int o = 0; o < N; o++) {
        double d = (double)p->y[0][row * p->ldy[0] + o] - want[o];
        diff += d * d;
        norm += want[o] * want[o];
    }
    return sqrt(diff / norm);
}

static void run(struct problem *p, const struct kernels *kn, int threads)
{
    for (int i = 0; i < p->rows * LD; i++) p->shrink[i] = NAN;
    problem_run(p, kn, threads);
}

/* A product of all segments' rows over N outputs. */
static void open_problem(struct problem *p, int v, enum tensor_type type, struct lora_seg *seg,
                         struct lora_batch *batch)
{
    seed((uint64_t)(v * 10 + (int)type));
    for (int i = 0; i < ADAPTERS; i++) make_adapter(i, VARIANTS[v].prec);
    *batch = all_segments(seg);
    struct seg_spec base = {rows_n, 0};
    problem_init(p, &(struct problem_spec){.prec = VARIANTS[v].prec,
                                           .type = type,
                                           .k = K,
                                           .nout = 1,
                                           .n = {N},
                                           .seg = &base,
                                           .nseg = 1,
                                           .bias = true});
    free(p->shrink);
    p->mm.shrink = p->shrink = xalloc(sizeof(float) * (size_t)rows_n * LD);
    p->mm.shrink_ld = LD;
    p->mm.lora = batch;
    p->mm.layer = LAYER;
    p->mm.expert = -1;
    p->mm.out[0].module = MODULE;
}

static void close_problem(struct problem *p)
{
    problem_close(p);
    free_adapters();
}

static void for_each_table(void (*each)(struct problem *p, const struct kernels *kn, struct lora_batch *batch))
{
    static const enum tensor_type types[] = {T_F32, T_Q8_0, T_Q4_1};
    for (int v = 0; v < VARIANTS_N; v++)
        for (size_t t = 0; variant_kernels(v) && t < sizeof types / sizeof *types; t++) {
            struct problem p;
            struct lora_seg seg[SEGS_N];
            struct lora_batch batch;
            open_problem(&p, v, types[t], seg, &batch);
            each(&p, variant_kernels(v), &batch);
            close_problem(&p);
        }
}

static void check_rows(const struct problem *p, const struct kernels *kn, bool adapted, const char *what)
{
    for (int row = 0; row < rows_n; row++) {
        double error = error_of(p, row, adapted);
        if (!(error < TOLERANCE))
            fail_msg("%s, %s: row %d of segment %d is off by %g", what, kn->name, row, seg_of[row], error);
    }
}

static void sums(struct problem *p, const struct kernels *kn, struct lora_batch *batch)
{
    (void)batch;
    run(p, kn, 2);
    check_rows(p, kn, true, "sums");
}

static void sums_and_row_factors_agree_with_float64(void **state)
{
    (void)state;
    for_each_table(sums);
}

/* Row `row` as the only one of a product. */
static void run_row_alone(const struct problem *p, const struct kernels *kn, int row, int threads, float *y)
{
    struct lora_seg seg = seg_at(seg_of[row], 0, 1);
    struct lora_batch batch = {.nseg = seg.nuse > 0, .seg = &seg, .modules = MODULES};
    struct act in = p->in;
    size_t k = K, at = (size_t)row * k;
    in.x += at, in.bf16 += at, in.q8 += at, in.q8_scale += at / 32, in.q8_sum += at / 32;
    struct mm mm = p->mm;
    mm.in = &in, mm.rows = 1, mm.lora = &batch;
    mm.out[0].y = y;
    for (int i = 0; i < LD; i++) mm.shrink[i] = NAN;
    struct pool *pool = pool_of(threads);
    pool_run(pool, run_matmul, &(struct problem_run){kn, &mm});
    pool_free(pool);
}

static void alone(struct problem *p, const struct kernels *kn, struct lora_batch *batch)
{
    float y[N];
    (void)batch;
    run(p, kn, 3);
    for (int row = 0; row < rows_n; row += row < 20 ? 1 : 7) {
        run_row_alone(p, kn, row, 1 + row % 2, y);
        if (memcmp(y, p->y[0] + row * p->ldy[0], sizeof y) != 0)
            fail_msg("%s: row %d of segment %d has other bits alone", kn->name, row, seg_of[row]);
    }
}

static void a_row_has_the_same_bits_alone_and_beside_sums_and_dora(void **state)
{
    (void)state;
    for_each_table(alone);
}

/* The same adapters, found in another place; elsewhere nothing is adapted. */
static void places(struct problem *p, const struct kernels *kn, struct lora_batch *batch)
{
    static const struct {
        const char *what;
        int module, expert;
        bool adapted;
    } row[] = {
        {"head", MM_HEAD, -1, true},
        {"router", MM_ROUTER, -1, true},
        {"expert", MODULE, 2, true},
        {"another expert", MODULE, 1, false},
        {"another part", MODULE + 1, 2, false},
        {"attention of experts", 0, -1, false},
        {"base", MM_BASE, -1, false},
        {"dense", MODULE, -1, false},
    };
    batch->experts = EXPERTS;
    for (int i = 0; i < ADAPTERS; i++) {
        ad[i].table = (struct lora_table){.expert = ad[i].expert, .router = ad[i].router, .head = &ad[i].mod[0]};
        ad[i].dora = (struct lora_table){.head = &ad[i].mod[1]};
    }
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        p->mm.out[0].module = row[i].module;
        p->mm.expert = row[i].expert;
        run(p, kn, 2);
        for (int r = 0; r < rows_n; r++) {
            bool adapted = row[i].adapted && (!SEGS[seg_of[r]].dora || row[i].module == MM_HEAD);
            double error = error_of(p, r, adapted);
            if (!(error < TOLERANCE)) fail_msg("%s, %s: row %d is off by %g", row[i].what, kn->name, r, error);
        }
    }
}

static void head_experts_and_router_are_looked_up_in_their_tables(void **state)
{
    (void)state;
    for_each_table(places);
}

/* A whole lm_head in one segment's place of the base's. */
static void whole(struct problem *p, const struct kernels *kn, struct lora_batch *batch)
{
    struct matrix m = matrix_make(T_BF16, N, K, false);
    struct weight w;
    enum { SEG = 4 }; /* of the batch: one adapter, 1 row */
    assert_int_equal(weight_pack(&w, T_BF16, m.src, N, K, NULL, p->prec, NULL), 0);
    struct lora_table t = {.head_full = &w, .alone = true};
    struct lora_seg *seg = (struct lora_seg *)&batch->seg[SEG];
    assert_int_equal(seg->nuse, 1);
    seg->use[0] = (struct lora_use){&t, 1};
    p->mm.out[0].module = MM_HEAD;
    run(p, kn, 2);
    for (int r = 0; r < rows_n; r++) {
        bool replaced = r >= seg->row0 && r < seg->row0 + seg->rows;
        for (int o = 0; replaced && o < N; o++) {
            double want = (double)p->bias[0][o], size = 1e-9;
            for (int c = 0; c < K; c++) {
                double x = p->prec == PREC_EXACT ? (double)p->in.x[r * K + c] : problem_x(p, 0, r, c, true);
                want += m.value[o * K + c] * x;
                size += fabs(m.value[o * K + c] * x);
            }
            assert_true(fabs((double)p->y[0][r * p->ldy[0] + o] - want) < 1e-6 * size);
        }
        if (!replaced) assert_true(error_of(p, r, false) < TOLERANCE);
    }
    weight_close(&w);
    matrix_free(&m);
}

static void a_whole_head_replaces_the_bases_for_its_rows_only(void **state)
{
    (void)state;
    for_each_table(whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_and_row_factors_agree_with_float64),
        cmocka_unit_test(a_row_has_the_same_bits_alone_and_beside_sums_and_dora),
        cmocka_unit_test(head_experts_and_router_are_looked_up_in_their_tables),
        cmocka_unit_test(a_whole_head_replaces_the_bases_for_its_rows_only),
    };
    say_what_runs();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
