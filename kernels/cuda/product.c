/* Which way a product goes: the backend's own kernels, or cuBLASLt.
 *
 *     small   up to 16 rows, any kind                                   gemm_small.cu
 *     wide    codes and f32, any number of rows                         gemm_wide.cu
 *     dense   bf16 as it is; codes expanded to bf16, panel by panel
 *
 * Without measurement: small up to 16 rows, wide up to WIDE_ROWS for codes, dense beyond and for bf16. product_measure()
 * replaces the rule for a shape by what was fastest. A way belongs to a shape and a bucket of rows, never to what the
 * rows hold, so a row's bits are the same in every step of a bucket.
 *
 * Expanded panels are at most EXPAND_BYTES, so that they stay in L2 between the expansion and the product.
 *
 * Experts go by own kernels alone: how many rows each has, the device knows, and a graph is made before. Their way belongs
 * to the number of places, and is timed with as many rows for each expert.
 *
 * fp8 with a scale a row can be multiplied as it is on Hopper, with rows of x as e4m3 too (product_begin()). These have 3
 * bits of mantissa: the largest error of a row is 2 to 4 % of its largest output, expanded to bf16 0.2 to 0.35 %
 * (tests/simt/test_product.c). So it is off unless it is asked for; what goes by own kernels keeps bf16 rows.
 *
 * Columns of adapters behind k (augment.c): a dense product of bf16 or of what was expanded has them if augment.c said so for
 * its shape and rows; without, it runs by the same algorithm. The table is written at start, by one thread, and only
 * read afterwards. */
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/timed.h"

#define WIDE_ROWS 128
#define WIDE_ROWS_TRIED 512
#define EXPAND_BYTES ((size_t)32 << 20)
#define CHOICES_MAX 4096
#define ROUNDS 5 /* of a measurement */
#define ALIGN 256

enum way { WAY_SMALL, WAY_WIDE, WAY_DENSE, WAYS };

/* What was measured. */
static struct choice {
    int kind, n, k, rows, f32, experts; /* experts: 0, or of a grouped product, whose rows are places */
    enum way way;
    double s;       /* of one product; 0: not measured */
    bool augmented; /* adapters are columns */
} choices[CHOICES_MAX];
static int choices_n;
static bool e4m3_rows;

/* --- ways --- */

static struct gemm_job job_of(const struct op_product *op)
{
    return (struct gemm_job){.w = *op->w,
                             .rows = op->rows,
                             .x = op->x,
                             .ldx = op->ldx,
                             .y = op->y,
                             .ldy = op->ldy,
                             .f32 = op->f32,
                             .add = op->add};
}

/* Inputs between rows of W: room for columns of adapters is behind them. */
static int row_of(const struct cuda_weight *w)
{
    return w->kind == KIND_BF16 ? w->ld : w->k + w->columns;
}

static struct rt_product dense_of(const struct op_product *op, int n0, int n, const void *w)
{
    char *y = op->y;
    return (struct rt_product){.m = op->rows,
                               .n = n,
                               .k = op->w->k,
                               .in = RT_BF16,
                               .out = op->f32 ? RT_F32 : RT_BF16,
                               .x = op->x,
                               .w = w,
                               .ldx = op->ldx,
                               .ldw = row_of(op->w),
                               .y = y + (size_t)n0 * (op->f32 ? 4 : 2),
                               .ldy = op->ldy,
                               .add = op->add};
}

/* Outputs that are expanded at once: whole panels. */
static int expand_outputs(int k)
{
    size_t n = EXPAND_BYTES / ((size_t)k * 2) / TILE_N * TILE_N;
    return n < TILE_N ? TILE_N : n > (1 << 24) ? 1 << 24 : (int)n;
}

/* rt_dense_run, or rt_dense_plan where shapes are made known first. */
typedef int dense_fn(struct rt_dense *d, const struct rt_product *p, void *stream);

static int run_bf16(const struct op_product *op, dense_fn *run, bool columns, void *stream)
{
    struct rt_product dense = dense_of(op, 0, op->w->n, op->w->data);
    if (columns) dense.k += op->w->columns;
    return run(op->dense, &dense, stream);
}

static int run_expanded(const struct op_product *op, dense_fn *run, const struct product_columns *columns, void *stream)
{
    int ld = row_of(op->w), step = expand_outputs(ld), rc = 0;
    for (int n0 = 0; !rc && n0 < op->w->n; n0 += step) {
        struct expand_job job = {*op->w, n0, op->w->n - n0 < step ? op->w->n - n0 : step, op->scratch, op->w->columns};
        struct rt_product dense = dense_of(op, n0, job.n, op->scratch);
        rc = launch_expand(&job, stream);
        if (columns) dense.k = ld;
        if (!rc && columns && columns->put) rc = columns->put(columns->u, op->scratch, ld, n0, job.n, stream);
        if (!rc) rc = run(op->dense, &dense, stream);
    }
    return rc;
}

static size_t codes_bytes(int rows, int k)
{
    return ((size_t)rows * (size_t)k + ALIGN - 1) / ALIGN * ALIGN;
}

/* Rows of e4m3 in the scratch, their scales behind them. */
static struct rt_product fp8_of(const struct op_product *op)
{
    struct rt_product dense = dense_of(op, 0, op->w->n, op->w->data);
    dense.in = RT_E4M3, dense.x = op->scratch, dense.ldx = op->w->k;
    dense.scale_x = (float *)((char *)op->scratch + codes_bytes(op->rows, op->w->k));
    dense.scale_w = op->w->scales;
    return dense;
}

static int run_fp8(const struct op_product *op, dense_fn *run, void *stream)
{
    struct rt_product dense = fp8_of(op);
    struct quantize_job job = {op->rows, op->w->k, op->ldx, op->x, op->scratch, (float *)dense.scale_x};
    int rc = launch_quantize_e4m3(&job, stream);
    return rc ? rc : run(op->dense, &dense, stream);
}

/* cuBLASLt's fp8 wants 16 outputs at a time, and has scales of rows on some devices only. */
static bool takes_fp8(const struct op_product *op)
{
    if (!e4m3_rows || op->w->kind != KIND_F8R || cuda_target.cc < 90 || op->w->n % 16 || op->ldy % 16) return false;
    struct rt_product dense = fp8_of(op);
    return rt_dense_has(op->dense, &dense) == 0;
}

static int run_dense(const struct op_product *op, dense_fn *run, void *stream)
{
    if (takes_fp8(op)) return run_fp8(op, run, stream);
    return op->w->kind == KIND_BF16 ? run_bf16(op, run, false, stream) : run_expanded(op, run, NULL, stream);
}

static int run_way(const struct op_product *op, enum way way, void *stream)
{
    struct gemm_job job = job_of(op);
    if (way == WAY_SMALL) return launch_gemm_small(&job, stream);
    if (way == WAY_WIDE) return launch_gemm_wide(&job, stream);
    return run_dense(op, rt_dense_run, stream);
}

/* --- the choice --- */

static bool can_go(const struct op_product *op, enum way way)
{
    bool bf16 = op->w->kind == KIND_BF16;
    if (way == WAY_SMALL) return op->rows <= GEMM_SMALL_ROWS;
    if (way == WAY_DENSE) return op->dense && op->w->kind != KIND_F32 && (bf16 || op->scratch);
    return !bf16 || !op->dense; /* wide: cuBLASLt is there for bf16 */
}

static enum way default_way(const struct op_product *op)
{
    if (op->rows <= GEMM_SMALL_ROWS) return WAY_SMALL;
    bool wide = op->w->kind != KIND_BF16 && op->rows <= WIDE_ROWS;
    return wide || !can_go(op, WAY_DENSE) ? WAY_WIDE : WAY_DENSE;
}

static struct choice *find(const struct cuda_weight *w, int rows, int f32, int experts)
{
    for (int i = 0; i < choices_n; i++) {
        struct choice *c = &choices[i];
        if (c->kind == w->kind && c->n == w->n && c->k == w->k && c->rows == rows && c->f32 == f32 &&
            c->experts == experts)
            return c;
    }
    return NULL;
}

static struct choice *add(const struct cuda_weight *w, int rows, int f32, int experts, enum way way)
{
    struct choice *c = &choices[choices_n++];
    *c = (struct choice){w->kind, w->n, w->k, rows, f32, experts, way, 0, false};
    return c;
}

static struct choice *choice_of(const struct op_product *op)
{
    return find(op->w, op->rows, op->f32, 0);
}

static int grouped_way(const struct op_grouped *op, enum way way, void *stream)
{
    struct gemm_job job = {.w = op->w[0],
                           .group = op->w_device,
                           .first = op->first,
                           .experts = op->experts,
                           .rows = op->places,
                           .x = op->x,
                           .ldx = op->ldx,
                           .y = op->y,
                           .ldy = op->ldy,
                           .f32 = op->f32};
    return way == WAY_SMALL ? launch_gemm_small(&job, stream) : launch_gemm_wide(&job, stream);
}

/* One way of something, ready to be timed. */
typedef int way_fn(const void *what, enum way way, void *stream);
struct timed_way {
    way_fn *run;
    const void *what;
    enum way way;
};

static int run_timed(const void *op, void *stream)
{
    const struct timed_way *w = op;
    return w->run(w->what, w->way, stream);
}

/* Seconds of the fastest round of a way. */
static int time_way(way_fn *run, const void *what, enum way way, void *stream, double *s)
{
    const struct timed_way w = {run, what, way};
    return timed_run(&(struct timed){run_timed, &w, sizeof w, 1}, ROUNDS, stream, s);
}

struct many {
    const struct op_product *op;
    int n;
};

static int run_many(const void *what, enum way way, void *stream)
{
    const struct many *m = what;
    int rc = 0;
    for (int i = 0; !rc && i < m->n; i++) rc = run_way(&m->op[i], way, stream);
    return rc;
}

int product_measure(const struct op_product *op, int n, void *stream)
{
    const struct many many = {op, n};
    double best = 1e30, s;
    enum way fastest = default_way(op);
    if (choice_of(op) || choices_n == CHOICES_MAX) return 0;
    for (enum way way = 0; way < WAYS; way++) {
        if (!can_go(op, way) || (way == WAY_WIDE && op->rows > WIDE_ROWS_TRIED)) continue;
        int rc = way == WAY_DENSE ? run_dense(op, rt_dense_plan, stream) : 0;
        if (rc == RT_PRODUCT && fastest != WAY_DENSE) continue; /* cuBLASLt has nothing for it, others have */
        if (!rc) rc = time_way(run_many, &many, way, stream, &s);
        if (rc) return rc;
        if (s < best) best = s, fastest = way;
    }
    add(op->w, op->rows, op->f32, 0, fastest)->s = best / n;
    return 0;
}

static int run_grouped(const void *what, enum way way, void *stream)
{
    return grouped_way(what, way, stream);
}

int grouped_measure(const struct op_grouped *op, void *stream)
{
    double best = 1e30, s;
    enum way fastest = WAY_SMALL;
    if (find(op->w, op->places, op->f32, op->experts) || choices_n == CHOICES_MAX) return 0;
    for (enum way way = WAY_SMALL; way <= WAY_WIDE; way++) {
        int rc = time_way(run_grouped, op, way, stream, &s);
        if (rc) return rc;
        if (s < best) best = s, fastest = way;
    }
    add(op->w, op->places, op->f32, op->experts, fastest)->s = best;
    return 0;
}

const char *product_measured(const struct cuda_weight *w, int rows, int f32, int experts, double *s)
{
    static const char *const names[WAYS] = {"small", "wide", "dense"};
    const struct choice *c = find(w, rows, f32, experts);
    *s = c ? c->s : 0;
    return c && c->s > 0 ? names[c->way] : NULL;
}

void product_begin(bool e4m3)
{
    choices_n = 0;
    e4m3_rows = e4m3;
}

/* --- columns of adapters (gemm.h) --- */

static enum way way_of(const struct op_product *op)
{
    const struct choice *c = choice_of(op);
    return c ? c->way : default_way(op);
}

bool product_is_dense(const struct op_product *op)
{
    return op->w->kind != KIND_F32 && way_of(op) == WAY_DENSE && !takes_fp8(op);
}

int product_dense(const struct op_product *op, const struct product_columns *columns, void *stream)
{
    if (op->w->kind == KIND_BF16) return run_bf16(op, rt_dense_run, columns != NULL, stream);
    return run_expanded(op, rt_dense_run, columns, stream);
}

/* The same algorithm with columns and without, added to y and not. */
static int plan_alike(struct rt_dense *d, const struct rt_product *p, int columns, void *stream)
{
    int rc = rt_dense_plan(d, p, stream);
    for (int i = 1; !rc && i < 4; i++) {
        struct rt_product other = *p;
        if (i % 2) other.k += columns;
        if (i / 2) other.add = false;
        rc = rt_dense_plan_as(d, &other, p);
    }
    return rc;
}

int product_dense_plan(const struct op_product *op, void *stream)
{
    int step = op->w->kind == KIND_BF16 ? op->w->n : expand_outputs(row_of(op->w)), rc = 0;
    for (int n0 = 0; !rc && n0 < op->w->n; n0 += step) {
        const void *w = op->w->kind == KIND_BF16 ? op->w->data : op->scratch;
        struct rt_product p = dense_of(op, n0, op->w->n - n0 < step ? op->w->n - n0 : step, w);
        rc = plan_alike(op->dense, &p, op->w->columns, stream);
    }
    return rc;
}

void product_augment(const struct op_product *op, bool augmented)
{
    struct choice *c = choice_of(op);
    if (!c && choices_n < CHOICES_MAX) c = add(op->w, op->rows, op->f32, 0, default_way(op));
    if (c) c->augmented = augmented;
}

/* --- ops.h --- */

size_t product_scratch(int max_rows, int most_n, int most_k)
{
    size_t outputs = (size_t)((most_n + TILE_N - 1) / TILE_N * TILE_N), most = (size_t)expand_outputs(most_k);
    size_t panel = (outputs < most ? outputs : most) * (size_t)most_k * 2;
    if (outputs * (size_t)most_k * 2 > EXPAND_BYTES && panel < EXPAND_BYTES) panel = EXPAND_BYTES; /* of a smaller k */
    size_t rows = codes_bytes(max_rows, most_k) + (size_t)max_rows * sizeof(float);
    return ((panel > rows ? panel : rows) + ALIGN - 1) / ALIGN * ALIGN;
}

int launch_product(const struct op_product *op, void *stream)
{
    if (op->rows < 1) return 0;
    if (op->w->k % 8 || op->ldx % 8 || (op->add && !op->f32)) return RT_BAD_SHAPE;
    return run_way(op, way_of(op), stream);
}

bool product_is_augmented(const struct op_product *op)
{
    const struct choice *c = choice_of(op);
    return c && c->augmented;
}

static int put_columns(const void *u, uint16_t *w, int ld, int n0, int n, void *stream)
{
    struct op_augment op = *(const struct op_augment *)u;
    op.w = w, op.ldw = ld, op.first = n0, op.outputs = n;
    return launch_augment_weights(&op, stream);
}

int launch_product_augmented(const struct op_product *op, const struct op_augment *columns, void *stream)
{
    const struct product_columns c = {put_columns, columns};
    int rc = launch_augment_rows(columns, stream);
    return rc ? rc : product_dense(op, &c, stream);
}

int launch_grouped(const struct op_grouped *op, void *stream)
{
    if (op->places < 1) return 0;
    if (op->w->k % 8 || op->ldx % 8) return RT_BAD_SHAPE;
    const struct choice *c = find(op->w, op->places, op->f32, op->experts);
    enum way rule = op->places / op->experts <= GEMM_SMALL_ROWS ? WAY_SMALL : WAY_WIDE;
    return grouped_way(op, c ? c->way : rule, stream);
}
