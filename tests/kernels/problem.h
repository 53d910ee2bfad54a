/* A matrix product with adapters to test or to time: activations, weights, a batch of segments, and the float64 answer.
 */
#pragma once
#include "tests/kernels/common.h"

#define RANK_MAX 512
#define SEGS_MAX 32
#define LAYERS_OF_MODS 2 /* the product uses the second one */

struct seg_spec {
    int rows, r; /* r 0: base rows, in no segment */
};

struct adapter {
    double *a, *b; /* values as rounded for the table: [r][k], [n][r]; per out */
};

struct problem {
    enum precision prec;
    int rows, k, nout, n[MM_OUTS];
    struct matrix m[MM_OUTS];
    struct weight w[MM_OUTS];
    struct act in;
    float *y[MM_OUTS], *y0[MM_OUTS], *bias[MM_OUTS]; /* y0: what y holds before */
    int ldy[MM_OUTS];
    float *shrink;
    struct lora_seg seg[SEGS_MAX];
    struct lora_table table[SEGS_MAX];
    int seg_of[1024]; /* row -> segment or -1 */
    struct lora_mod mods[SEGS_MAX][LAYERS_OF_MODS * MM_OUTS];
    struct adapter adapter[SEGS_MAX][MM_OUTS];
    void *packed[SEGS_MAX][MM_OUTS];
    struct lora_batch batch;
    struct mm mm;
};

struct problem_spec {
    enum precision prec;
    int type; /* of the matrices: enum tensor_type or enum matrix_type */
    int k, nout, n[MM_OUTS];
    const struct seg_spec *seg;
    int nseg;
    unsigned adapted; /* bit o: out o has adapters */
    bool integers, add, bias;
};

/* A float32 source of `count` values rounded as the table's adapters are; *value gets them as float64. */
static inline float *adapter_source(size_t count, bool round, bool integers, double **value)
{
    float *src = xalloc(count * sizeof *src);
    *value = xalloc(count * sizeof **value);
    for (size_t i = 0; i < count; i++) {
        src[i] = integers ? (float)next_int(-2, 2) : next_float() / 4;
        (*value)[i] = round ? bf16_near(src[i]) : src[i];
    }
    return src;
}

static inline void problem_adapter(struct problem *p, const struct problem_spec *s, int i, int o, int r)
{
    enum lora_type type = s->prec == PREC_FAST ? LORA_BF16 : LORA_F32;
    struct adapter *ad = &p->adapter[i][o];
    float *a = adapter_source((size_t)r * (size_t)p->k, type == LORA_BF16, s->integers, &ad->a);
    float *b = adapter_source((size_t)r * (size_t)p->n[o], type == LORA_BF16, s->integers, &ad->b);
    p->packed[i][o] = xalloc(lora_mod_bytes(type, r, p->n[o], p->k));
    lora_mod_pack(&p->mods[i][MM_OUTS + o], type, p->packed[i][o], r, p->n[o], p->k, s->integers ? 2 : 0.75f, T_F32, a,
                  b, NULL);
    free(a);
    free(b);
}

static inline void problem_rows(struct problem *p, const struct problem_spec *s)
{
    for (int i = 0; i < s->nseg; i++) {
        for (int r = 0; r < s->seg[i].rows; r++) p->seg_of[p->rows + r] = s->seg[i].r ? p->batch.nseg : -1;
        if (s->seg[i].r) {
            int at = p->batch.nseg++;
            p->table[at].mod = p->mods[at];
            p->seg[at] = (struct lora_seg){p->rows, s->seg[i].rows, 1, {{&p->table[at], 1}}};
            for (int o = 0; o < p->nout; o++)
                if (s->adapted >> o & 1) problem_adapter(p, s, at, o, s->seg[i].r);
        }
        p->rows += s->seg[i].rows;
    }
}

static inline void act_by_rmsnorm(struct kthread *t, void *arg)
{
    struct problem *p = arg;
    float *ones = t->scratch;
    for (int i = 0; i < p->k; i++) ones[i] = 1;
    kernels_pick("plain", PREC_FAST)->rmsnorm(t, p->in.x, NULL, p->rows, p->k, ones, 1e-6f, &p->in);
}

/* Integers with a largest magnitude of 127 in each group survive every rounding; the integer forms are then the values
 * themselves. */
static inline void integer_rows(struct problem *p)
{
    for (int i = 0; i < p->rows * p->k; i++) {
        int x = i % 32 == 0 ? 127 : next_int(-9, 9);
        p->in.x[i] = (float)x;
        p->in.bf16[i] = bf16_bits(p->in.x[i]);
        p->in.q8[i] = (int8_t)x;
        p->in.q8_scale[i / 32] = 1;
        if (i % 32 == 0) p->in.q8_sum[i / 32] = 0;
        p->in.q8_sum[i / 32] += x;
    }
}

/* What FAST makes of the matrix: bf16 where it multiplies that; of a table that bf16 does not hold, the nearest that it
 * does. */
static inline void problem_round(struct matrix *m, const struct weight *w)
{
    for (size_t i = 0; i < (size_t)m->n * (size_t)m->k; i++) {
        if (w->layout == LAYOUT_BF16) m->value[i] = bf16_near((float)m->value[i]);
        if (m->type == M_NF4) {
            uint32_t bits = (uint32_t)w->coarse[m->q[i]] << 16;
            float coarse;
            memcpy(&coarse, &bits, 4);
            m->value[i] = (double)m->d[i / 32] * w->factor * coarse;
        }
    }
}

static inline void problem_init(struct problem *p, const struct problem_spec *s)
{
    memset(p, 0, sizeof *p);
    p->prec = s->prec, p->k = s->k, p->nout = s->nout;
    memcpy(p->n, s->n, sizeof p->n);
    problem_rows(p, s);
    if (act_init(&p->in, p->rows, (s->k + 31) / 32 * 32, ACT_BF16 | ACT_Q8, NULL)) abort();
    p->batch.seg = p->seg;
    p->batch.modules = MM_OUTS;
    p->shrink = xalloc(sizeof(float) * MM_OUTS * (size_t)p->rows * RANK_MAX);
    p->mm = (struct mm){.in = &p->in,
                        .rows = p->rows,
                        .nout = s->nout,
                        .lora = &p->batch,
                        .layer = 1,
                        .shrink = p->shrink,
                        .shrink_ld = RANK_MAX};
    for (int o = 0; o < s->nout; o++) {
        p->m[o] = matrix_make(s->type, s->n[o], s->k, s->integers);
        if (matrix_pack(&p->w[o], &p->m[o], NULL, s->prec, NULL)) abort();
        p->ldy[o] = s->n[o] + 5;
        if (s->prec == PREC_FAST) problem_round(&p->m[o], &p->w[o]);
        size_t cells = (size_t)p->rows * (size_t)p->ldy[o];
        p->y[o] = xalloc(cells * 4), p->y0[o] = xalloc(cells * 4), p->bias[o] = xalloc((size_t)s->n[o] * 4);
        for (size_t i = 0; i < cells; i++)
            p->y0[o][i] = s->add ? (s->integers ? (float)next_int(-50, 50) : next_float()) : NAN;
        for (int i = 0; i < s->n[o]; i++) p->bias[o][i] = s->integers ? (float)next_int(-50, 50) : next_float();
        p->mm.out[o] = (struct mm_out){&p->w[o], p->y[o], p->ldy[o], s->add, s->bias ? p->bias[o] : NULL, o};
    }
    if (s->integers) {
        integer_rows(p);
        return;
    }
    fill(p->in.x, (size_t)p->rows * (size_t)s->k);
    struct pool *pool = pool_of(1);
    pool_run(pool, act_by_rmsnorm, p);
    pool_free(pool);
}

static inline void problem_close(struct problem *p)
{
    for (int o = 0; o < p->nout; o++) {
        matrix_free(&p->m[o]);
        weight_close(&p->w[o]);
        free(p->y[o]);
        free(p->y0[o]);
        free(p->bias[o]);
    }
    for (int i = 0; i < SEGS_MAX; i++)
        for (int o = 0; o < MM_OUTS; o++) {
            free(p->adapter[i][o].a);
            free(p->adapter[i][o].b);
            free(p->packed[i][o]);
        }
    act_close(&p->in);
    free(p->shrink);
}

struct problem_run {
    const struct kernels *kn;
    const struct mm *mm;
};

static inline void run_matmul(struct kthread *t, void *arg)
{
    const struct problem_run *r = arg;
    r->kn->matmul(t, r->mm);
}

/* y = the product, on `threads` threads. */
static inline void problem_run(struct problem *p, const struct kernels *kn, int threads)
{
    struct pool *pool = pool_of(threads);
    for (int o = 0; o < p->nout; o++) memcpy(p->y[o], p->y0[o], (size_t)p->rows * (size_t)p->ldy[o] * 4);
    pool_run(pool, run_matmul, &(struct problem_run){kn, &p->mm});
    pool_free(pool);
}

/* What the product reads of row `row`, input c, in the precision's rounding. */
static inline double problem_x(const struct problem *p, int o, int row, int c, bool lora)
{
    size_t i = (size_t)row * (size_t)p->k + (size_t)c;
    float bf16;
    uint32_t bits = (uint32_t)p->in.bf16[i] << 16;
    memcpy(&bf16, &bits, 4);
    if (p->prec == PREC_EXACT) return p->in.x[i];
    if (lora || weight_act_form(p->w[o].layout) == ACT_BF16) return bf16;
    return (double)p->in.q8_scale[i / 32] * p->in.q8[i];
}

/* The float64 answer for output o of a row. */
static inline void problem_answer(const struct problem *p, int o, int row, double *y)
{
    int k = p->k, s = p->seg_of[row];
    const struct lora_mod *mod = s >= 0 ? &p->mods[s][MM_OUTS + o] : NULL;
    double v[RANK_MAX] = {0}, *x = xalloc(sizeof(double) * (size_t)k);
    for (int c = 0; c < k; c++) x[c] = problem_x(p, o, row, c, true);
    for (int j = 0; mod && j < mod->r; j++)
        for (int c = 0; c < k; c++) v[j] += p->adapter[s][o].a[(size_t)j * (size_t)k + (size_t)c] * x[c] * mod->scale;
    for (int c = 0; c < k; c++) x[c] = problem_x(p, o, row, c, false);
    for (int i = 0; i < p->n[o]; i++) {
        const double *w = p->m[o].value + (size_t)i * (size_t)k;
        double sum = 0;
        for (int c = 0; c < k; c++) sum += w[c] * x[c];
        for (int j = 0; mod && j < mod->r; j++)
            sum += p->adapter[s][o].b[(size_t)i * (size_t)mod->r + (size_t)j] * v[j];
        if (p->mm.out[o].bias) sum += p->bias[o][i];
        if (p->mm.out[o].add) sum += p->y0[o][(size_t)row * (size_t)p->ldy[o] + (size_t)i];
        y[i] = sum;
    }
    free(x);
}

/* Adds a row's squared distance from the answer and the answer's squared length. */
static inline void problem_distance(const struct problem *p, int o, int row, double *diff, double *norm)
{
    double *want = xalloc(sizeof(double) * (size_t)p->n[o]);
    const float *y = p->y[o] + (size_t)row * (size_t)p->ldy[o];
    problem_answer(p, o, row, want);
    for (int i = 0; i < p->n[o]; i++) {
        *diff += (y[i] - want[i]) * (y[i] - want[i]);
        *norm += want[i] * want[i];
    }
    free(want);
}

/* Relative Frobenius distance of a row. */
static inline double problem_error(const struct problem *p, int o, int row)
{
    double diff = 0, norm = 1e-30;
    problem_distance(p, o, row, &diff, &norm);
    return sqrt(diff / norm);
}
