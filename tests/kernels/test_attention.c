/* Rotary positions, norms of heads, the KV cache and attention with its windows and caps: against float64, bit for bit
 * however a prompt is cut and whoever shares the step, and blind to slots and pages that a row does not see. */
#include "tests/kernels/common.h"
#include "tests/unit/thin.h"

#define PAGES 64
#define LAYERS 2
#define POSITIONS 400

struct heads {
    int heads, kv_heads, head_dim;
};

static const struct heads HEADS[] = {{9, 3, 64},  {4, 4, 80}, {8, 1, 96}, {6, 2, 128},
                                     {4, 1, 256}, {3, 3, 24}, {40, 1, 32}};
#define HEADS_N ((int)(sizeof HEADS / sizeof *HEADS))

/* What families do with scores and positions, as columns. The caps are low enough to bend random scores. */
struct look {
    int window, sinks;
    float softcap;
    int rotary_quarters; /* of a head; 0: all */
    bool norms;
};

static const struct look LOOKS[] = {
    {.window = 1},
    {.window = 15},
    {.window = 16},
    {.window = 17},
    {.window = 64},
    {.window = 100},
    {.softcap = 0.5f},
    {.rotary_quarters = 2},
    {.rotary_quarters = 3},
    {.norms = true},
    {.window = 37, .softcap = 0.7f, .norms = true},
    {.window = 1000, .softcap = 50, .rotary_quarters = 1, .norms = true},
    {.window = 16, .sinks = 4},
    {.window = 1, .sinks = 1},
    {.window = 64, .sinks = 17, .rotary_quarters = 2},
    {.window = 37, .sinks = 64, .softcap = 0.7f, .norms = true},
};
#define LOOKS_N ((int)(sizeof LOOKS / sizeof *LOOKS))

/* Rows of HEADS that every look is tried on: usual, no multiple of 32, wide, no multiple of 16. */
static const int LOOKED_AT[] = {0, 1, 4, 5};

struct problem {
    struct heads h;
    struct look look;
    int rotary;
    float scale;
    struct kv_cache kv;
    float *rope;            /* [POSITIONS][rotary/2][2] */
    float *q_norm, *k_norm; /* [head_dim] */
    float *q, *k, *v;       /* of whole sequences: [POSITIONS][...] before rotation */
    int page[PAGES];
};

/* Types of cache that a precision may have. */
static const struct {
    enum precision prec;
    enum kv_type type;
    const char *name;
} TYPES[] = {{PREC_EXACT, KV_F32, "float32"}, {PREC_FAST, KV_BF16, "bf16"}, {PREC_FAST, KV_INT8, "int8"}};
#define TYPES_N 3

/* The table of a variant, where it exists here and takes the type. */
static const struct kernels *table_for(int variant, int type)
{
    return VARIANTS[variant].prec == TYPES[type].prec ? variant_kernels(variant) : NULL;
}

static void problem_init(struct problem *p, struct heads h, enum kv_type type, struct look look)
{
    size_t hd = (size_t)h.head_dim;
    *p = (struct problem){.h = h, .look = look, .scale = 1 / sqrtf((float)hd)};
    p->rotary = look.rotary_quarters ? h.head_dim * look.rotary_quarters / 4 : h.head_dim;
    p->kv = (struct kv_cache){type, LAYERS, h.kv_heads, h.head_dim, PAGES, 0, NULL, NULL};
    p->kv.page_bytes = kv_page_bytes(p->kv.type, h.kv_heads, h.head_dim);
    p->kv.base = xalloc(LAYERS * PAGES * p->kv.page_bytes);
    size_t rotary = (size_t)p->rotary;
    p->rope = xalloc(POSITIONS * rotary * 4);
    for (int pos = 0; pos < POSITIONS; pos++)
        for (size_t i = 0; i < rotary / 2; i++) {
            double angle = pos * pow(10000, -2.0 * (double)i / (double)rotary);
            p->rope[((size_t)pos * rotary / 2 + i) * 2] = (float)cos(angle);
            p->rope[((size_t)pos * rotary / 2 + i) * 2 + 1] = (float)sin(angle);
        }
    p->q_norm = xalloc(hd * 4);
    p->k_norm = xalloc(hd * 4);
    fill(p->q_norm, hd);
    fill(p->k_norm, hd);
    p->q = xalloc(POSITIONS * (size_t)h.heads * hd * 4);
    p->k = xalloc(POSITIONS * (size_t)h.kv_heads * hd * 4);
    p->v = xalloc(POSITIONS * (size_t)h.kv_heads * hd * 4);
    fill(p->q, POSITIONS * (size_t)h.heads * hd);
    fill(p->k, POSITIONS * (size_t)h.kv_heads * hd);
    fill(p->v, POSITIONS * (size_t)h.kv_heads * hd);
    for (int i = 0; i < PAGES; i++) p->page[i] = i * 37 % PAGES;
}

static void problem_close(struct problem *p)
{
    free(p->kv.base);
    free(p->rope);
    free(p->q_norm);
    free(p->k_norm);
    free(p->q);
    free(p->k);
    free(p->v);
}

/* Unused memory is NaN, in both formats. */
static void poison_cache(struct problem *p)
{
    memset(p->kv.base, 0xff, LAYERS * PAGES * p->kv.page_bytes);
}

/* The first position of its window that a row sees; 0: it sees all. */
static int first_seen(const struct problem *p, int pos)
{
    return p->look.window && pos >= p->look.window + p->look.sinks ? pos - p->look.window + 1 : 0;
}

/* Pages that no row from `pos` on sees are somebody else's. */
static void poison_behind(struct problem *p, int pos)
{
    for (int i = (p->look.sinks + KV_PAGE - 1) / KV_PAGE; i < first_seen(p, pos) / KV_PAGE; i++)
        memset(p->kv.base + ((size_t)PAGES + (size_t)p->page[i]) * p->kv.page_bytes, 0xff, p->kv.page_bytes);
}

struct step {
    const struct kernels *kn;
    struct attn *a;
    struct act *out;
};

static void run_step(struct kthread *t, void *arg)
{
    struct step *s = arg;
    s->kn->rope_store(t, s->a);
    pool_barrier(t);
    s->kn->attention(t, s->a, s->out);
}

static struct attn attn_of(struct problem *p, float *q, float *k, float *v)
{
    return (struct attn){.heads = p->h.heads,
                         .layer = 1,
                         .scale = p->scale,
                         .window = p->look.window,
                         .sinks = p->look.sinks,
                         .softcap = p->look.softcap,
                         .rotary = p->look.rotary_quarters ? p->rotary : 0,
                         .q_norm = p->look.norms ? p->q_norm : NULL,
                         .k_norm = p->look.norms ? p->k_norm : NULL,
                         .norm_eps = 1e-6f,
                         .q = q,
                         .k = k,
                         .v = v,
                         .rope = p->rope,
                         .kv = &p->kv};
}

/* Rows pos0 .. pos0+rows of the sequence as one step; their outputs go to out [POSITIONS][heads*head_dim]. */
static void run_chunk(struct problem *p, const struct kernels *kn, int threads, int pos0, int rows, float *out)
{
    size_t hd = (size_t)p->h.head_dim, qw = (size_t)p->h.heads * hd, kw = (size_t)p->h.kv_heads * hd;
    struct act act;
    assert_int_equal(act_init(&act, rows, (int)((qw + 31) / 32 * 32), ACT_BF16 | ACT_Q8, NULL), 0);
    float *q = xalloc((size_t)rows * qw * 4), *k = xalloc((size_t)rows * kw * 4), *v = xalloc((size_t)rows * kw * 4);
    memcpy(q, p->q + (size_t)pos0 * qw, (size_t)rows * qw * 4);
    memcpy(k, p->k + (size_t)pos0 * kw, (size_t)rows * kw * 4);
    memcpy(v, p->v + (size_t)pos0 * kw, (size_t)rows * kw * 4);
    struct attn_seq seq = {0, rows, pos0, p->page};
    struct attn a = attn_of(p, q, k, v);
    a.nseq = 1, a.seq = &seq, a.rows = rows;
    a.partial_floats = attn_partial_floats(a.heads, p->h.head_dim, POSITIONS);
    a.partial = xalloc(a.partial_floats * 4);
    memset(a.partial, 0xff, a.partial_floats * 4);
    struct pool *pool = pool_of(threads);
    pool_run(pool, run_step, &(struct step){kn, &a, &act});
    pool_free(pool);
    memcpy(out + (size_t)pos0 * qw, act.x, (size_t)rows * qw * 4);
    for (size_t i = 0; i < (size_t)rows * qw; i++)
        if (fabsf(act.x[i]) >= 0x1p-126f) assert_true(act.bf16[i] == bf16_bits(bf16_near(act.x[i])));
    act_close(&act);
    free(a.partial);
    free(q);
    free(k);
    free(v);
}

/* A head of q or k as it meets the others: normed where the look says so, rotated. */
static void turned(const struct problem *p, const float *x, const float *norm, int pos, double *out)
{
    int hd = p->h.head_dim, half = p->rotary / 2;
    double sum = 0, y[HEAD_DIM_MAX];
    for (int d = 0; d < hd; d++) sum += (double)x[d] * x[d];
    for (int d = 0; d < hd; d++) out[d] = y[d] = p->look.norms ? x[d] / sqrt(sum / hd + 1e-6) * norm[d] : x[d];
    for (int i = 0; i < half; i++) {
        const float *cs = p->rope + ((size_t)pos * (size_t)half + (size_t)i) * 2;
        out[i] = y[i] * cs[0] - y[i + half] * cs[1];
        out[i + half] = y[i + half] * cs[0] + y[i] * cs[1];
    }
}

/* K or V of a position as the cache holds it, by the types' definitions. */
static void as_cached(const struct problem *p, double *x)
{
    double largest = 0;
    for (int d = 0; d < p->h.head_dim; d++) largest = fmax(largest, fabs(x[d]));
    for (int d = 0; d < p->h.head_dim; d++)
        if (p->kv.type == KV_BF16)
            x[d] = bf16_near((float)x[d]);
        else if (p->kv.type == KV_INT8)
            x[d] = rint(x[d] * 127 / largest) * largest / 127;
}

static void answer(const struct problem *p, int pos, int h, double *out)
{
    int hd = p->h.head_dim, kvh = h / (p->h.heads / p->h.kv_heads);
    size_t kv0 = (size_t)kvh * (size_t)hd, row = (size_t)(p->h.kv_heads * hd);
    const float *q = p->q + ((size_t)pos * (size_t)p->h.heads + (size_t)h) * (size_t)hd;
    double s[POSITIONS], near[HEAD_DIM_MAX], far[HEAD_DIM_MAX], b[HEAD_DIM_MAX], most = -INFINITY, sum = 0;
    int first = first_seen(p, pos), sinks = first ? p->look.sinks : 0; /* those that it sees apart, from inside the cache */
    turned(p, q, p->q_norm, pos, near);
    turned(p, q, p->q_norm, first ? p->look.sinks + p->look.window - 1 : pos, far);
    if (p->kv.type == KV_BF16) as_cached(p, near); /* what a query is rounded to; to int8 it never is */
    for (int t = 0; t <= pos; t++) {
        const double *a = t < sinks ? far : near;
        if (t >= sinks && t < first) continue;
        turned(p, p->k + (size_t)t * row + kv0, p->k_norm, t, b);
        as_cached(p, b);
        s[t] = 0;
        for (int d = 0; d < hd; d++) s[t] += a[d] * b[d];
        s[t] *= p->scale;
        if (p->look.softcap > 0) s[t] = p->look.softcap * tanh(s[t] / p->look.softcap);
        if (s[t] > most) most = s[t];
    }
    for (int t = 0; t <= pos; t++) sum += s[t] = t < sinks || t >= first ? exp(s[t] - most) : 0;
    for (int d = 0; d < hd; d++) out[d] = 0;
    for (int t = 0; t <= pos; t++) {
        if (t >= sinks && t < first) continue;
        for (int d = 0; d < hd; d++) b[d] = p->v[(size_t)t * row + kv0 + (size_t)d];
        as_cached(p, b);
        for (int d = 0; d < hd; d++) out[d] += s[t] / sum * b[d];
    }
}

static double distance(const struct problem *p, int pos, int h, const float *out)
{
    double want[HEAD_DIM_MAX], diff = 0, norm = 0;
    const float *got = out + ((size_t)pos * (size_t)p->h.heads + (size_t)h) * (size_t)p->h.head_dim;
    answer(p, pos, h, want);
    for (int d = 0; d < p->h.head_dim; d++) {
        diff += (got[d] - want[d]) * (got[d] - want[d]);
        norm += want[d] * want[d];
    }
    return sqrt(diff / norm);
}

/* Over bf16 a table may round q and the exponentials to bf16 (2^-9 each) or not; over int8 a value on the edge between two
 * codes may fall to the other one. */
static double tolerance(enum kv_type type)
{
    return type == KV_F32 ? 1e-5 : 4e-3;
}

/* A prompt of 150 on one table, where it exists here. */
static void check_against_float64(int variant, int type, struct heads h, struct look look, const char *what, int row)
{
    const struct kernels *kn = table_for(variant, type);
    if (!kn) return;
    struct problem p;
    seed((uint64_t)row);
    problem_init(&p, h, TYPES[type].type, look);
    poison_cache(&p);
    float *out = xalloc(POSITIONS * (size_t)(h.heads * h.head_dim) * 4);
    run_chunk(&p, kn, 2, 0, 150, out);
    for (int pos = 0; pos < 150; pos += pos < 20 ? 1 : 13)
        for (int head = 0; head < h.heads; head += 1 + h.heads / 4) {
            double error = distance(&p, pos, head, out);
            if (!(error < tolerance(p.kv.type)))
                fail_msg("%s %s %s row %d, head_dim %d: position %d head %d off by %g", kn->name, TYPES[type].name,
                         what, row, h.head_dim, pos, head, error);
        }
    free(out);
    problem_close(&p);
}

static void every_head_shape_agrees_with_float64(void **state)
{
    (void)state;
    for (int i = 0; i < HEADS_N; i++)
        for (int v = 0; v < VARIANTS_N * TYPES_N; v++) {
            if (thin_skips(i + v)) continue;
            check_against_float64(v / TYPES_N, v % TYPES_N, HEADS[i], (struct look){0}, "heads", i);
        }
}

static void every_window_cap_norm_and_part_rotation_agrees_with_float64(void **state)
{
    (void)state;
    for (int i = 0; i < LOOKS_N; i++)
        for (size_t h = 0; h < sizeof LOOKED_AT / sizeof *LOOKED_AT; h++)
            for (int v = 0; v < VARIANTS_N * TYPES_N; v++) {
                if (thin_skips(i + (int)h + v)) continue;
                check_against_float64(v / TYPES_N, v % TYPES_N, HEADS[LOOKED_AT[h]], LOOKS[i], "looks", i);
            }
}

/* How a prompt of 300 may come in: chunk lengths that repeat. */
static const int CUTS[][3] = {{300, 300, 300}, {1, 1, 1}, {16, 16, 16}, {64, 1, 7}, {5, 100, 31}, {299, 1, 1}};

static void check_cuts(const struct kernels *kn, enum kv_type type, struct heads h, struct look look)
{
    struct problem p;
    seed((uint64_t)h.head_dim);
    problem_init(&p, h, type, look);
    size_t bytes = 300 * (size_t)(h.heads * h.head_dim) * 4;
    float *whole = xalloc(bytes), *parts = xalloc(bytes);
    poison_cache(&p);
    run_chunk(&p, kn, 1, 0, 300, whole);
    for (size_t c = 1; c < sizeof CUTS / sizeof *CUTS; c++) {
        poison_cache(&p);
        for (int pos = 0, n = 0; pos < 300; n++) {
            int rows = CUTS[c][n % 3] < 300 - pos ? CUTS[c][n % 3] : 300 - pos;
            poison_behind(&p, pos);
            run_chunk(&p, kn, 1 + n % 4, pos, rows, parts);
            pos += rows;
        }
        assert_memory_equal(whole, parts, bytes);
    }
    free(whole);
    free(parts);
    problem_close(&p);
}

/* --- branches: rows of one sequence that don't see each other --- */

#define BRANCHES 3

struct branching {
    struct step step;
    const struct kv_copy *copy;
    int ncopies;
};

static void run_branching(struct kthread *t, void *arg)
{
    struct branching *b = arg;
    b->step.kn->rope_store(t, b->step.a);
    pool_barrier(t);
    kv_copy_slots(t, b->step.a->kv, b->step.a->layer, b->copy, b->ncopies);
    pool_barrier(t);
    b->step.kn->attention(t, b->step.a, b->step.out);
}

/* Position `pos` of the sequence's q, k and v, as row `row` of the step's. */
static void take_row(const struct problem *p, float *q, float *k, float *v, int row, int pos)
{
    size_t hd = (size_t)p->h.head_dim, qw = (size_t)p->h.heads * hd, kw = (size_t)p->h.kv_heads * hd;
    memcpy(q + (size_t)row * qw, p->q + (size_t)pos * qw, qw * 4);
    memcpy(k + (size_t)row * kw, p->k + (size_t)pos * kw, kw * 4);
    memcpy(v + (size_t)row * kw, p->v + (size_t)pos * kw, kw * 4);
}

/* A past of `past`, then in one step a row of it all at `past`, chain 0 of 3 rows behind it, and two branches of 2 rows each: one beside
 * chain 0's second row, one beside that branch's last row. `alone` >= 0: the way down to the end of that branch alone, as plain rows. Rows
 * take what they compute from places of the sequence further on, so that no two have the same. Outputs [8][heads*head_dim]. */
static const int PATHS_DOWN[BRANCHES][5] = {{0, 1, 2, 3, -1}, {0, 1, 4, 5, -1}, {0, 1, 4, 6, 7}};

static void run_tree(struct problem *p, const struct kernels *kn, int threads, int past, int alone, float *out)
{
    size_t hd = (size_t)p->h.head_dim, qw = (size_t)p->h.heads * hd, kw = (size_t)p->h.kv_heads * hd;
    float *q = xalloc(8 * qw * 4), *k = xalloc(8 * kw * 4), *v = xalloc(8 * kw * 4);
    int table[BRANCHES][PAGES], row_of[8], rows = 0, ncopies = 0, start[BRANCHES] = {0, 2, 3};
    struct kv_copy copy[BRANCHES];
    struct attn_seq seq[BRANCHES] = {{0, 4, past, p->page}, {4, 2, past + 2, table[1]}, {6, 2, past + 3, table[2]}};
    struct act act;
    for (int i = 0; i < 8; i++) row_of[i] = i;
    if (alone >= 0) {
        for (; rows < 5 && PATHS_DOWN[alone][rows] >= 0; rows++) row_of[rows] = PATHS_DOWN[alone][rows];
        seq[0].rows = rows;
    } else {
        rows = 8;
        for (int b = 1; b < BRANCHES; b++) { /* each hangs on the one before; pages of its own from the end of the pool */
            int at = past + start[b], first = at / KV_PAGE;
            memcpy(table[b], b == 1 ? p->page : table[b - 1], sizeof table[b]);
            int from = table[b][first];
            for (int i = 0; i < 2; i++) table[b][first + i] = p->page[PAGES - 2 * b + i];
            if (at % KV_PAGE) copy[ncopies++] = (struct kv_copy){from, table[b][first], at % KV_PAGE};
        }
    }
    for (int i = 0; i < rows; i++) take_row(p, q, k, v, i, past + 10 + row_of[i]);
    assert_int_equal(act_init(&act, 8, (int)((qw + 31) / 32 * 32), ACT_BF16 | ACT_Q8, NULL), 0);
    struct attn a = attn_of(p, q, k, v);
    a.nseq = alone >= 0 ? 1 : BRANCHES, a.seq = seq, a.rows = rows;
    struct pool *pool = pool_of(threads);
    pool_run(pool, run_branching, &(struct branching){{kn, &a, &act}, copy, ncopies});
    pool_free(pool);
    memcpy(out, act.x, (size_t)rows * qw * 4);
    act_close(&act);
    free(q);
    free(k);
    free(v);
}

static void check_branches(const struct kernels *kn, enum kv_type type, struct heads h, struct look look)
{
    struct problem p;
    size_t qw = (size_t)(h.heads * h.head_dim);
    float *out = xalloc(POSITIONS * qw * 4), *tree = xalloc(8 * qw * 4), *way = xalloc(8 * qw * 4);
    seed((uint64_t)h.head_dim);
    problem_init(&p, h, type, look);
    for (int past = 11; past < 70; past += past < 34 ? 1 : 11) { /* each slot of a page */
        poison_cache(&p);
        run_chunk(&p, kn, 2, 0, past, out);
        run_tree(&p, kn, 1 + past % 3, past, -1, tree);
        for (int b = 0; b < BRANCHES; b++) { /* the past is as it was, and what the tree stored is overwritten */
            run_tree(&p, kn, 2, past, b, way);
            for (int i = 0; i < 5 && PATHS_DOWN[b][i] >= 0; i++)
                assert_memory_equal(tree + (size_t)PATHS_DOWN[b][i] * qw, way + (size_t)i * qw, qw * 4);
        }
    }
    free(out);
    free(tree);
    free(way);
    problem_close(&p);
}

static void rows_of_a_branch_give_the_bits_of_the_way_down_to_them(void **state)
{
    (void)state;
    for (int v = 0; v < VARIANTS_N * TYPES_N; v++) {
        const struct kernels *kn = table_for(v / TYPES_N, v % TYPES_N);
        for (size_t h = 0; kn && h < sizeof LOOKED_AT / sizeof *LOOKED_AT; h++) {
            if (thin_skips(v + (int)h)) continue;
            check_branches(kn, TYPES[v % TYPES_N].type, HEADS[LOOKED_AT[h]], (struct look){.window = h % 2 ? 15 : 0});
        }
    }
}

static void a_prompt_gives_the_same_bits_however_it_is_cut_and_on_any_threads(void **state)
{
    (void)state;
    for (int i = 0; i < HEADS_N; i++)
        for (int v = 0; v < VARIANTS_N * TYPES_N; v++) {
            const struct kernels *kn = table_for(v / TYPES_N, v % TYPES_N);
            bool plain = VARIANTS[v / TYPES_N].table[0] == 'p';
            if (kn && (!plain || i <= 1) && !thin_skips(i + v)) check_cuts(kn, TYPES[v % TYPES_N].type, HEADS[i], (struct look){0});
        }
}

/* With windows too, and without the pages that they have left behind. */
static void a_windowed_prompt_gives_the_same_bits_without_the_pages_behind_its_window(void **state)
{
    (void)state;
    for (int i = 0; i < LOOKS_N; i++)
        for (int v = 0; v < VARIANTS_N * TYPES_N; v++) {
            const struct kernels *kn = table_for(v / TYPES_N, v % TYPES_N);
            if (kn && LOOKS[i].window && !thin_skips(i + v)) check_cuts(kn, TYPES[v % TYPES_N].type, HEADS[i % 2 ? 0 : 5], LOOKS[i]);
        }
}

/* Two sequences, one prompt and one decoding row, in a step: each as alone. */
static void sequences_of_a_step_do_not_meet(void **state)
{
    (void)state;
    for (int v = 0; v < VARIANTS_N * TYPES_N; v++) {
        const struct kernels *kn = table_for(v / TYPES_N, v % TYPES_N);
        if (!kn) continue;
        struct problem p;
        problem_init(&p, HEADS[0], TYPES[v % TYPES_N].type, (struct look){0});
        poison_cache(&p);
        size_t qw = 9 * 64, kw = 3 * 64;
        float *out = xalloc(POSITIONS * qw * 4), *alone = xalloc(POSITIONS * qw * 4);
        run_chunk(&p, kn, 2, 0, 101, alone);
        poison_cache(&p);
        run_chunk(&p, kn, 2, 0, 100, out); /* the decoding sequence's past */
        int other[PAGES];                  /* pages that the first has not used */
        for (int i = 0; i < 20; i++) other[i] = p.page[20 + i];
        struct attn_seq seq[2] = {{0, 1, 100, p.page}, {1, 60, 0, other}};
        struct act act;
        assert_int_equal(act_init(&act, 61, 576, ACT_BF16 | ACT_Q8, NULL), 0);
        float *q = xalloc(61 * qw * 4), *k = xalloc(61 * kw * 4), *value = xalloc(61 * kw * 4);
        memcpy(q, p.q + 100 * qw, qw * 4), memcpy(q + qw, p.q, 60 * qw * 4);
        memcpy(k, p.k + 100 * kw, kw * 4), memcpy(k + kw, p.k, 60 * kw * 4);
        memcpy(value, p.v + 100 * kw, kw * 4), memcpy(value + kw, p.v, 60 * kw * 4);
        struct attn a = attn_of(&p, q, k, value);
        a.nseq = 2, a.seq = seq, a.rows = 61;
        struct pool *pool = pool_of(3);
        pool_run(pool, run_step, &(struct step){kn, &a, &act});
        pool_free(pool);
        assert_memory_equal(act.x, alone + 100 * qw, qw * 4);
        assert_memory_equal(act.x + qw, alone, 60 * qw * 4);
        act_close(&act);
        free(out), free(alone), free(q), free(k), free(value);
        problem_close(&p);
    }
}

/* Scores in the hundreds: the softmax neither overflows nor loses the winner. */
static void large_scores_stay_finite(void **state)
{
    (void)state;
    for (int v = 0; v < VARIANTS_N * TYPES_N; v++) {
        const struct kernels *kn = table_for(v / TYPES_N, v % TYPES_N);
        if (!kn) continue;
        struct problem p;
        seed(9);
        problem_init(&p, HEADS[0], TYPES[v % TYPES_N].type, (struct look){0});
        for (size_t i = 0; i < POSITIONS * 9 * 64; i++) p.q[i] *= 60;
        for (size_t i = 0; i < POSITIONS * 3 * 64; i++) p.k[i] *= 10;
        float *out = xalloc(POSITIONS * 9 * 64 * 4);
        run_chunk(&p, kn, 2, 0, 200, out);
        for (size_t i = 0; i < 200 * 9 * 64; i++) assert_true(isfinite(out[i]) && fabsf(out[i]) <= 1.01f);
        free(out);
        problem_close(&p);
    }
}

/* K of token 25 and V of token 21 are not finite: rows before 21 do not notice, those from 25 on show it, in every head. */
static void a_token_that_is_not_finite_shows_in_the_rows_that_see_it_and_in_no_other(void **state)
{
    (void)state;
    for (int v = 0; v < VARIANTS_N * TYPES_N; v++) {
        const struct kernels *kn = table_for(v / TYPES_N, v % TYPES_N);
        if (!kn) continue;
        struct problem p;
        seed(10);
        problem_init(&p, HEADS[0], TYPES[v % TYPES_N].type, (struct look){0});
        size_t qw = 9 * 64, kw = 3 * 64;
        float *clean = xalloc(POSITIONS * qw * 4), *out = xalloc(POSITIONS * qw * 4);
        run_chunk(&p, kn, 2, 0, 40, clean);
        for (size_t h = 0; h < 3; h++) p.v[21 * kw + h * 64 + 5] = INFINITY, p.k[25 * kw + h * 64 + 7] = NAN;
        run_chunk(&p, kn, 2, 0, 40, out);
        assert_memory_equal(out, clean, 21 * qw * 4);
        for (size_t i = 21 * qw; i < 40 * qw; i += 64) {
            bool finite = true;
            for (size_t d = 0; d < 64; d++) finite = finite && isfinite(out[i + d]);
            assert_false(finite);
        }
        free(clean), free(out);
        problem_close(&p);
    }
}

/* --- long pasts --- */

#define LONG 9000 /* positions: segments of 256, 512 and 1,024 */
#define LONG_PAGES ((LONG + KV_PAGE - 1) / KV_PAGE)
#define LONG_ROWS 70 /* at the end */

/* A sequence whose keys and values are all there already; q of the last rows. */
struct past {
    struct kv_cache kv;
    int page[LONG_PAGES];
    float *q; /* [LONG_ROWS][6][32] */
};

static void store_rows(struct kthread *t, void *arg)
{
    const struct step *s = arg;
    s->kn->rope_store(t, s->a);
}

static void past_init(struct past *p, const struct kernels *kn, enum kv_type type, struct pool *pool)
{
    enum { CHUNK = 500, KW = 2 * 32, QW = 6 * 32 };
    p->kv = (struct kv_cache){type, 1, 2, 32, LONG_PAGES, kv_page_bytes(type, 2, 32), NULL, NULL};
    p->kv.base = xalloc(p->kv.page_bytes * LONG_PAGES);
    for (int i = 0; i < LONG_PAGES; i++) p->page[i] = i * 7 % LONG_PAGES;
    float *q = xalloc(CHUNK * QW * 4), *k = xalloc(CHUNK * KW * 4), *v = xalloc(CHUNK * KW * 4);
    float *rope = xalloc(LONG * 32 * 4);
    for (int i = 0; i < LONG * 16; i++) rope[2 * i] = 1;
    for (int pos = 0; pos < LONG; pos += CHUNK) {
        struct attn_seq seq = {0, CHUNK, pos, p->page};
        fill(k, CHUNK * KW), fill(v, CHUNK * KW);
        struct attn a = {.nseq = 1,
                         .seq = &seq,
                         .rows = CHUNK,
                         .heads = 6,
                         .scale = 1,
                         .q = q,
                         .k = k,
                         .v = v,
                         .rope = rope,
                         .kv = &p->kv};
        pool_run(pool, store_rows, &(struct step){kn, &a, NULL});
    }
    p->q = xalloc(LONG_ROWS * QW * 4);
    fill(p->q, LONG_ROWS * QW);
    free(q), free(k), free(v), free(rope);
}

static void attend_rows(struct kthread *t, void *arg)
{
    const struct step *s = arg;
    s->kn->attention(t, s->a, s->out);
}

/* The last `rows` rows of the sequence, with or without memory to cut their pasts. */
static void run_long(struct past *p, const struct kernels *kn, int threads, int rows, int window, bool cut, float *out)
{
    struct pool *pool = pool_of(threads);
    struct act act;
    struct attn_seq seq = {0, rows, LONG - rows, p->page};
    struct attn a = {.nseq = 1, .seq = &seq, .rows = rows, .heads = 6, .scale = 0.3f, .window = window, .kv = &p->kv};
    a.q = p->q + (size_t)(LONG_ROWS - rows) * 192;
    a.partial_floats = cut ? attn_partial_floats(6, 32, LONG) : 0;
    a.partial = cut ? xalloc(a.partial_floats * 4) : NULL;
    if (cut) memset(a.partial, 0xff, a.partial_floats * 4);
    assert_int_equal(act_init(&act, rows, 192, 0, NULL), 0);
    pool_run(pool, attend_rows, &(struct step){kn, &a, &act});
    memcpy(out + (size_t)(LONG_ROWS - rows) * 192, act.x, (size_t)rows * 192 * 4);
    act_close(&act);
    pool_free(pool);
    free(a.partial);
}

static void check_long(struct past *p, const struct kernels *kn, const float *want, int window, double within)
{
    static const struct {
        int threads, rows;
        bool cut;
    } WAYS[] = {{1, 1, false}, {1, 1, true}, {2, 1, true},  {5, 1, true},
                {3, 3, true},  {2, 4, true}, {4, 17, true}, {2, LONG_ROWS, true}};
    float *first = xalloc(LONG_ROWS * 192 * 4), *out = xalloc(LONG_ROWS * 192 * 4);
    run_long(p, kn, 2, LONG_ROWS, window, false, first);
    for (size_t i = 0; i < LONG_ROWS * 192; i++)
        if (!(fabsf(first[i] - want[i]) < (float)within))
            fail_msg("%s: %zu is %g, not %g", kn->name, i, (double)first[i], (double)want[i]);
    for (size_t w = 0; w < sizeof WAYS / sizeof *WAYS; w++) {
        size_t at = (size_t)(LONG_ROWS - WAYS[w].rows) * 192;
        run_long(p, kn, WAYS[w].threads, WAYS[w].rows, window, WAYS[w].cut, out);
        assert_memory_equal(out + at, first + at, (size_t)WAYS[w].rows * 192 * 4);
    }
    free(first), free(out);
}

static void a_long_past_gives_the_same_bits_however_it_is_divided(void **state)
{
    (void)state;
    static const int WINDOWS[] = {0, 5000, 300};
    struct pool *pool = pool_of(2);
    for (int v = 0; v < VARIANTS_N * TYPES_N; v++) {
        int type = v % TYPES_N;
        const struct kernels *kn = table_for(v / TYPES_N, type);
        if (!kn || VARIANTS[v / TYPES_N].table[0] == 'p') continue;
        struct past p;
        float *want = xalloc(LONG_ROWS * 192 * 4);
        seed(11);
        past_init(&p, kn, TYPES[type].type, pool);
        for (int w = 0; w < 3; w++) {
            run_long(&p, kernels_pick("plain", TYPES[type].prec), 4, LONG_ROWS, WINDOWS[w], false, want);
            check_long(&p, kn, want, WINDOWS[w], TYPES[type].prec == PREC_EXACT ? 1e-5 : 2e-3);
        }
        free(want), free(p.kv.base), free(p.q);
    }
    pool_free(pool);
}

/* What a page holds of a token does not depend on the table. */
static void every_table_stores_the_same_bits(void **state)
{
    (void)state;
    for (int v = 0; v < VARIANTS_N * TYPES_N; v++) {
        const struct kernels *kn = table_for(v / TYPES_N, v % TYPES_N);
        for (int i = 0; kn && i < HEADS_N; i++) {
            struct problem p, q;
            float *out = xalloc(POSITIONS * (size_t)(HEADS[i].heads * HEADS[i].head_dim) * 4);
            seed(12), problem_init(&p, HEADS[i], TYPES[v % TYPES_N].type, (struct look){0});
            seed(12), problem_init(&q, HEADS[i], TYPES[v % TYPES_N].type, (struct look){0});
            run_chunk(&p, kn, 2, 0, 40, out);
            run_chunk(&q, kernels_pick("plain", TYPES[v % TYPES_N].prec), 1, 0, 40, out);
            assert_memory_equal(p.kv.base, q.kv.base, LAYERS * PAGES * p.kv.page_bytes);
            free(out);
            problem_close(&p), problem_close(&q);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_head_shape_agrees_with_float64),
        cmocka_unit_test(every_window_cap_norm_and_part_rotation_agrees_with_float64),
        cmocka_unit_test(a_prompt_gives_the_same_bits_however_it_is_cut_and_on_any_threads),
        cmocka_unit_test(rows_of_a_branch_give_the_bits_of_the_way_down_to_them),
        cmocka_unit_test(a_windowed_prompt_gives_the_same_bits_without_the_pages_behind_its_window),
        cmocka_unit_test(sequences_of_a_step_do_not_meet),
        cmocka_unit_test(large_scores_stay_finite),
        cmocka_unit_test(a_token_that_is_not_finite_shows_in_the_rows_that_see_it_and_in_no_other),
        cmocka_unit_test(a_long_past_gives_the_same_bits_however_it_is_divided),
        cmocka_unit_test(every_table_stores_the_same_bits),
    };
    say_what_runs();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
