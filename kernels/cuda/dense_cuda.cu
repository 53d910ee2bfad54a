/* Dense products by cuBLASLt (rt.h's rt_dense_*), with a cache of plans.
 *
 * A plan is everything that cuBLASLt wants to be told about a shape (descriptor, layouts, algorithm), made once: at start
 * by rt_dense_plan(), which times the algorithms that the library proposes and keeps the fastest, or by rt_dense_run() on
 * first sight, which takes the first proposal (no work for the device, so allowed while a stream is captured). A run is
 * then a look-up and one call. Only the pointers of fp8's scales are set anew for a run.
 *
 * The library counts columns: y [m][n] = x [m][k] w [n][k]^T in rows is y^T = w x^T in columns, w transposed. Its
 * workspace is the caller's, one for the stream, so two products of one rt_dense never run at once. A plan's algorithm
 * belongs to its shape (m included), so a row's bits in a product of m rows do not depend on what the other rows hold;
 * split sums go through the workspace in float32, in order; sums that are split in y's own type are not asked for.
 *
 * One thread per rt_dense. PLANS_MAX shapes; beyond, RT_PRODUCT. */
#include "kernels/cuda/rt.h"
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <stdlib.h>
#include <string.h>

#define PLANS_MAX 16384 /* half are used: 140 buckets of rows, some ten sites, each perhaps in panels */
#define PROPOSALS 12
#define RUNS 5 /* timed of each */
#define ALIGN_MAX 256

/* Products of e4m3 whose rows have scales came with CUDA 12.9. Which devices have them, the library says. */
#define HAS_ROW_SCALES (CUBLAS_VERSION >= 120900)

/* What makes two products the same to the library. It is compared by bytes, so there is no room between its members. */
struct shape {
    int m, n, k, ldx, ldw, ldy, in, out, add, scaled, batch;
    int align_x, align_w, align_y; /* bytes */
    size_t step_x, step_w, step_y;
};

static_assert(sizeof(struct shape) == 14 * sizeof(int) + 3 * sizeof(size_t), "room between members");

struct plan {
    struct shape shape;
    bool timed;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulAlgo_t algo;
};

struct rt_dense {
    cublasLtHandle_t lt;
    void *workspace;
    size_t bytes;
    int plans;
    struct plan *plan[PLANS_MAX]; /* by hash, open addressing; at most half full */
};

static int align_of(const void *p)
{
    uintptr_t bits = (uintptr_t)p | ALIGN_MAX;
    return (int)(bits & -bits);
}

static struct shape shape_of(const struct rt_product *p)
{
    struct shape s;
    memset(&s, 0, sizeof s);
    s.m = p->m, s.n = p->n, s.k = p->k, s.ldx = p->ldx, s.ldw = p->ldw, s.ldy = p->ldy;
    s.in = p->in, s.out = p->out, s.add = p->add, s.scaled = p->scale_x != NULL, s.batch = p->batch > 1 ? p->batch : 1;
    s.align_x = align_of(p->x), s.align_w = align_of(p->w), s.align_y = align_of(p->y);
    if (s.batch > 1) s.step_x = p->step_x, s.step_w = p->step_w, s.step_y = p->step_y;
    return s;
}

static unsigned hash_of(const struct shape *s)
{
    unsigned h = 2166136261u;
    for (size_t i = 0; i < sizeof *s; i++) h = (h ^ ((const unsigned char *)s)[i]) * 16777619u;
    return h % PLANS_MAX;
}

/* The place of a shape's plan: taken by it, or free. */
static struct plan **find(struct rt_dense *d, const struct shape *s)
{
    unsigned at = hash_of(s);
    while (d->plan[at] && memcmp(&d->plan[at]->shape, s, sizeof *s)) at = (at + 1) % PLANS_MAX;
    return &d->plan[at];
}

static void plan_free(struct plan *p)
{
    if (p->op) cublasLtMatmulDescDestroy(p->op);
    if (p->w) cublasLtMatrixLayoutDestroy(p->w);
    if (p->x) cublasLtMatrixLayoutDestroy(p->x);
    if (p->y) cublasLtMatrixLayoutDestroy(p->y);
    free(p);
}

/* --- making a plan --- */

static cudaDataType_t type_of(int type)
{
    return type == RT_BF16 ? CUDA_R_16BF : type == RT_F32 ? CUDA_R_32F : CUDA_R_8F_E4M3;
}

static int make_layout(cublasLtMatrixLayout_t *out, int type, int rows, int columns, int ld, const struct shape *s,
                       size_t step)
{
    if (cublasLtMatrixLayoutCreate(out, type_of(type), (uint64_t)rows, (uint64_t)columns, ld)) return RT_PRODUCT;
    if (s->batch == 1) return 0;
    int64_t stride = (int64_t)step;
    int32_t batch = s->batch;
    if (cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch) ||
        cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride))
        return RT_PRODUCT;
    return 0;
}

static int set_op(struct plan *p, cublasLtMatmulDescAttributes_t what, int32_t value)
{
    return cublasLtMatmulDescSetAttribute(p->op, what, &value, sizeof value) ? RT_PRODUCT : 0;
}

static int set_row_scales(struct plan *p)
{
#if HAS_ROW_SCALES
    int rc = set_op(p, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
    return rc ? rc : set_op(p, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
#else
    (void)p;
    return RT_PRODUCT;
#endif
}

static int describe(struct plan *p)
{
    const struct shape *s = &p->shape;
    if (cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F)) return RT_PRODUCT;
    int rc = set_op(p, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    if (!rc && s->scaled) rc = set_row_scales(p);
    if (!rc) rc = make_layout(&p->w, s->in, s->k, s->n, s->ldw, s, s->step_w);
    if (!rc) rc = make_layout(&p->x, s->in, s->k, s->m, s->ldx, s, s->step_x);
    if (!rc) rc = make_layout(&p->y, s->out, s->n, s->m, s->ldy, s, s->step_y);
    return rc;
}

static int set_scales(const struct plan *p, const struct rt_product *r)
{
    if (!p->shape.scaled) return 0;
    const void *w = r->scale_w, *x = r->scale_x;
    if (cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &w, sizeof w) ||
        cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &x, sizeof x))
        return RT_PRODUCT;
    return 0;
}

static bool set_limit(cublasLtMatmulPreference_t pref, cublasLtMatmulPreferenceAttributes_t what, int value)
{
    uint32_t v = (uint32_t)value;
    return cublasLtMatmulPreferenceSetAttribute(pref, what, &v, sizeof v) == CUBLAS_STATUS_SUCCESS;
}

/* What the library proposes, best first; -> how many, 0: nothing fits. */
static int propose(struct rt_dense *d, const struct plan *p, cublasLtMatmulHeuristicResult_t *out, int most)
{
    cublasLtMatmulPreference_t pref;
    const struct shape *s = &p->shape;
    int n = 0;
    if (cublasLtMatmulPreferenceCreate(&pref)) return 0;
    bool ok = !cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &d->bytes,
                                                    sizeof d->bytes) &&
              set_limit(pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) &&
              set_limit(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, s->align_w) &&
              set_limit(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, s->align_x) &&
              set_limit(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, s->align_y) &&
              set_limit(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, s->align_y);
    if (!ok || cublasLtMatmulAlgoGetHeuristic(d->lt, p->op, p->w, p->x, p->y, p->y, pref, most, out, &n)) n = 0;
    cublasLtMatmulPreferenceDestroy(pref);
    return n;
}

static int new_plan(struct rt_dense *d, const struct rt_product *r, struct plan **out)
{
    struct shape s = shape_of(r);
    cublasLtMatmulHeuristicResult_t first;
    struct plan **at = find(d, &s);
    if (*at) {
        *out = *at;
        return 0;
    }
    if (d->plans >= PLANS_MAX / 2) return RT_PRODUCT;
    struct plan *p = (struct plan *)calloc(1, sizeof *p);
    if (!p) return RT_PRODUCT;
    p->shape = s;
    int rc = describe(p);
    if (!rc) rc = set_scales(p, r);
    if (!rc && propose(d, p, &first, 1) < 1) rc = RT_PRODUCT;
    if (rc) {
        plan_free(p);
        return rc;
    }
    p->algo = first.algo;
    *at = *out = p;
    d->plans++;
    return 0;
}

static int run_algo(struct rt_dense *d, const struct plan *p, const cublasLtMatmulAlgo_t *algo,
                    const struct rt_product *r, void *stream)
{
    float alpha = r->scale != 0 ? r->scale : 1, beta = r->add ? 1.0f : 0.0f;
    return cublasLtMatmul(d->lt, p->op, &alpha, r->w, p->w, r->x, p->x, &beta, r->y, p->y, r->y, p->y, algo,
                          d->workspace, d->bytes, (cudaStream_t)stream)
               ? RT_PRODUCT
               : 0;
}

/* RUNS runs as steps have them: in a graph, where the host's share of a launch does not count. */
static int record_algo(struct rt_dense *d, const struct plan *p, const cublasLtMatmulAlgo_t *algo,
                       const struct rt_product *r, void *stream, void **graph)
{
    int rc = rt_capture_begin(stream);
    if (rc) return rc;
    for (int i = 0; !rc && i < RUNS; i++) rc = run_algo(d, p, algo, r, stream);
    int end = rt_capture_end(stream, graph);
    return rc ? rc : end;
}

/* Milliseconds of RUNS runs after one that warms up; negative: this one does not run. */
static float time_algo(struct rt_dense *d, const struct plan *p, const cublasLtMatmulAlgo_t *algo,
                       const struct rt_product *r, cudaEvent_t from, cudaEvent_t to, void *stream)
{
    float ms = -1;
    void *graph = NULL;
    bool ok = !run_algo(d, p, algo, r, stream) && !record_algo(d, p, algo, r, stream, &graph);
    ok = ok && !rt_graph_launch(graph, stream) && !cudaEventRecord(from, (cudaStream_t)stream);
    ok = ok && !rt_graph_launch(graph, stream) && !cudaEventRecord(to, (cudaStream_t)stream);
    ok = ok && !cudaEventSynchronize(to) && !cudaEventElapsedTime(&ms, from, to);
    rt_graph_free(graph);
    return ok ? ms : -1;
}

/* --- rt.h --- */

int rt_dense_new(struct rt_dense **out, void *workspace, size_t bytes)
{
    struct rt_dense *d = (struct rt_dense *)calloc(1, sizeof *d);
    if (!d) return RT_PRODUCT;
    if (cublasLtCreate(&d->lt)) {
        free(d);
        return RT_NO_LIBRARY;
    }
    d->workspace = workspace, d->bytes = bytes;
    *out = d;
    return 0;
}

void rt_dense_free(struct rt_dense *d)
{
    if (!d) return;
    for (int i = 0; i < PLANS_MAX; i++)
        if (d->plan[i]) plan_free(d->plan[i]);
    cublasLtDestroy(d->lt);
    free(d);
}

int rt_dense_plan(struct rt_dense *d, const struct rt_product *r, void *stream)
{
    struct plan *p;
    cudaEvent_t from = NULL, to = NULL;
    cublasLtMatmulHeuristicResult_t proposal[PROPOSALS];
    int rc = new_plan(d, r, &p);
    if (rc || p->timed) return rc;
    rc = cudaEventCreate(&from);
    if (!rc) rc = cudaEventCreate(&to);
    float best = -1;
    int n = rc ? 0 : propose(d, p, proposal, PROPOSALS);
    for (int i = 0; i < n; i++) {
        float ms = time_algo(d, p, &proposal[i].algo, r, from, to, stream);
        if (ms < 0) (void)cudaGetLastError(); /* of one that does not run */
        if (ms < 0 || (best >= 0 && ms >= best)) continue;
        best = ms;
        p->algo = proposal[i].algo;
    }
    if (from) cudaEventDestroy(from);
    if (to) cudaEventDestroy(to);
    if (!rc && best < 0) rc = RT_PRODUCT;
    p->timed = rc == 0;
    return rc;
}

int rt_dense_plan_as(struct rt_dense *d, const struct rt_product *r, const struct rt_product *like)
{
    struct plan *p, *model;
    cublasLtMatmulHeuristicResult_t can;
    int rc = new_plan(d, like, &model);
    if (!rc) rc = new_plan(d, r, &p);
    if (rc) return rc;
    if (cublasLtMatmulAlgoCheck(d->lt, p->op, p->w, p->x, p->y, p->y, &model->algo, &can) || can.state ||
        can.workspaceSize > d->bytes)
        return RT_PRODUCT;
    p->algo = model->algo;
    p->timed = true;
    return 0;
}

int rt_dense_has(struct rt_dense *d, const struct rt_product *r)
{
    struct plan *p;
    return new_plan(d, r, &p);
}

/* The description is made anew for the other device; the algorithm is a plain struct of the same library. */
int rt_dense_share(struct rt_dense *to, const struct rt_dense *from)
{
    for (int i = 0; i < PLANS_MAX; i++) {
        const struct plan *p = from->plan[i];
        if (!p || !p->timed) continue;
        struct plan **at = find(to, &p->shape);
        if (!*at && to->plans >= PLANS_MAX / 2) return RT_PRODUCT;
        if (!*at) {
            struct plan *copy = (struct plan *)calloc(1, sizeof *copy);
            if (!copy) return RT_PRODUCT;
            copy->shape = p->shape;
            if (describe(copy)) {
                plan_free(copy);
                return RT_PRODUCT;
            }
            *at = copy;
            to->plans++;
        }
        (*at)->algo = p->algo;
        (*at)->timed = true;
    }
    return 0;
}

int rt_dense_run(struct rt_dense *d, const struct rt_product *r, void *stream)
{
    struct plan *p;
    int rc = new_plan(d, r, &p);
    if (!rc) rc = set_scales(p, r);
    return rc ? rc : run_algo(d, p, &p->algo, r, stream);
}
