/* Products of the backend against float64: every kind of weight, small and wide, with tails in outputs, inputs and rows;
 * whole numbers exactly; what lies behind x, y and the weight is NaN or guarded; a row's bits alone and among others. */
#include "kernels/convert.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/ops.h"
#include "tests/simt/weights.h"
#include <stdio.h>

struct shape {
    int n, k, rows;
};

struct problem {
    struct shape s;
    struct weight host;
    struct cuda_weight w;
    uint16_t *x; /* [rows][ldx] */
    int ldx, ldy;
    double *want; /* [rows][n] */
};

/* x: bf16, behind its k columns NaN; whole numbers -4 .. 4 or any in -1 .. 1. */
static void make_x(struct problem *p, bool integers)
{
    size_t n = (size_t)p->s.rows * (size_t)p->ldx;
    p->x = simt_buffer("x", n * 2);
    uint16_t *row = malloc((size_t)p->s.k * 2);
    for (int r = 0; r < p->s.rows; r++) {
        simt_fill_bf16(row, (size_t)p->s.k, (uint64_t)r + 77, integers ? 4.4f : 1);
        for (int i = 0; integers && i < p->s.k; i++) row[i] = bf16_of_f32(rintf(f32_of_bf16(row[i])));
        memcpy(p->x + (size_t)r * (size_t)p->ldx, row, (size_t)p->s.k * 2);
    }
    free(row);
    simt_seal(p->x);
}

static void make_want(struct problem *p)
{
    float *w = malloc((size_t)p->s.k * sizeof *w);
    p->want = calloc((size_t)p->s.rows * (size_t)p->s.n, sizeof *p->want);
    for (int n = 0; n < p->s.n; n++) {
        weight_row(&p->host, n, w);
        for (int r = 0; r < p->s.rows; r++) {
            double sum = 0;
            for (int i = 0; i < p->s.k; i++)
                sum += (double)w[i] * (double)f32_of_bf16(p->x[(size_t)r * (size_t)p->ldx + (size_t)i]);
            p->want[(size_t)r * (size_t)p->s.n + (size_t)n] = sum;
        }
    }
    free(w);
}

static struct problem problem_of(int kind, struct shape s, bool integers)
{
    struct problem p = {.s = s, .ldx = (s.k + 15) / 8 * 8, .ldy = s.n + 3};
    p.host = made_weight(kind, s.n, s.k, integers, (uint64_t)kind + 1);
    p.w = made_whole(&p.host);
    SIMT_CHECK(p.w.kind == kind, "became %s", cuda_kind_name[p.w.kind]);
    make_x(&p, integers);
    make_want(&p);
    return p;
}

static struct gemm_job job_of(const struct problem *p, void *y, int f32)
{
    return (struct gemm_job){.w = p->w, .rows = p->s.rows, .x = p->x, .ldx = p->ldx, .y = y, .ldy = p->ldy, .f32 = f32};
}

/* Columns beyond n keep what was there. */
static void check_rows(const struct problem *p, const float *y, double part)
{
    for (int r = 0; r < p->s.rows; r++) {
        const double *want = p->want + (size_t)r * (size_t)p->s.n;
        const float *got = y + (size_t)r * (size_t)p->ldy;
        double most = 0;
        for (int n = 0; n < p->s.n; n++) most = fmax(most, fabs(want[n]));
        for (int n = 0; n < p->s.n; n++)
            SIMT_CHECK(fabs(got[n] - want[n]) <= part * most, "%s %d x %d, row %d of %d, output %d: %g, not %g",
                       cuda_kind_name[p->w.kind], p->s.n, p->s.k, r, p->s.rows, n, (double)got[n], want[n]);
        simt_untouched("beyond n", got + p->s.n, (size_t)(p->ldy - p->s.n) * sizeof *got);
    }
}

static float *run_f32(const struct problem *p, bool wide)
{
    float *y = simt_buffer("y", (size_t)p->s.rows * (size_t)p->ldy * sizeof *y);
    struct gemm_job job = job_of(p, y, 1);
    SIMT_CHECK((wide ? launch_gemm_wide : launch_gemm_small)(&job, NULL) == 0, "refused");
    return y;
}

/* --- the table --- */

static const struct shape SMALL[] = {{64, 64, 1}, {70, 192, 2},  {33, 320, 3}, {64, 576, 5},
                                     {40, 64, 8}, {31, 896, 13}, {96, 96, 16}};
static const struct shape WIDE[] = {{70, 192, 17}, {130, 160, 40}, {40, 96, 70}};
#define COUNT(table) ((int)(sizeof(table) / sizeof *(table)))

static struct shape fits(int kind, struct shape s)
{
    if (kind <= KIND_F32) s.k -= 8; /* a tail that is no group */
    return s;
}

static void small_products_agree(void *arg)
{
    int kind = (int)(intptr_t)arg;
    for (int i = 0; i < COUNT(SMALL); i += simt_finds_races() ? 3 : 1) {
        struct problem p = problem_of(kind, fits(kind, SMALL[i]), false);
        /* t4 multiplies with its table in bf16. */
        check_rows(&p, run_f32(&p, false), kind == KIND_T4 ? 4e-3 : 1e-5);
    }
}

static void wide_products_agree(void *arg)
{
    int kind = (int)(intptr_t)arg;
    for (int i = 0; i < COUNT(WIDE); i += simt_finds_races() ? 2 : 1) {
        struct problem p = problem_of(kind, fits(kind, WIDE[i]), false);
        check_rows(&p, run_f32(&p, true), kind == KIND_T4 ? 4e-3 : 1e-5);
    }
}

static void whole_numbers_are_exact(void *arg)
{
    int kind = (int)(intptr_t)arg;
    struct shape s[] = {{50, 224, 3}, {33, 352, 11}};
    for (int i = 0; i < COUNT(s); i++) {
        struct problem p = problem_of(kind, s[i], true);
        check_rows(&p, run_f32(&p, false), 0);
        check_rows(&p, run_f32(&p, true), 0);
    }
}

/* A shape a kind, so that all sizes of small models meet all numbers of rows somewhere. */
static const struct shape MODELS[] = {{896, 576, 8}, {64, 4864, 5}, {4864, 64, 3},  {576, 896, 13}, {896, 64, 16},
                                      {576, 576, 2}, {64, 896, 16}, {896, 4864, 1}, {64, 64, 13},   {576, 64, 8}};

static void a_models_shape_agrees(void *arg)
{
    int kind = (int)(intptr_t)arg;
    struct problem p = problem_of(kind, MODELS[kind], false);
    check_rows(&p, run_f32(&p, false), kind == KIND_T4 ? 4e-3 : 1e-5);
}

/* 896 and 4864, small and wide, a part of a group: by seed. */
static const struct shape WHOLE_MODELS[] = {{896, 4864, 3}, {4864, 896, 16}, {896, 896, 17}, {448, 2432, 33}};

static void outputs_and_inputs_of_a_model_agree(void *arg)
{
    int kind = (int)(intptr_t)arg;
    const struct shape *s = &WHOLE_MODELS[simt_seed() % COUNT(WHOLE_MODELS)];
    struct problem p = problem_of(kind, *s, false);
    check_rows(&p, run_f32(&p, s->rows > GEMM_SMALL_ROWS), kind == KIND_T4 ? 4e-3 : 1e-5);
}

/* --- rows alone and among others --- */

static void a_row_has_the_same_bits_alone(void *arg)
{
    int kind = (int)(intptr_t)arg;
    struct problem p = problem_of(kind, (struct shape){48, 640, 13}, false);
    float *all = run_f32(&p, false);
    for (int r = 0; r < 13; r += 6) {
        struct problem one = p;
        one.s.rows = 1, one.x = p.x + (size_t)r * (size_t)p.ldx;
        simt_equal("a row alone", run_f32(&one, false), all + (size_t)r * (size_t)p.ldy, 48 * sizeof *all);
    }
    struct problem some = p;
    some.s.rows = 7;
    simt_equal("seven rows of thirteen", run_f32(&some, false), all, (6 * (size_t)p.ldy + 48) * sizeof *all);
}

static void a_row_of_a_wide_product_does_not_see_the_others(void *arg)
{
    int kind = (int)(intptr_t)arg;
    struct problem p = problem_of(kind, (struct shape){40, 320, 70}, false);
    float *all = run_f32(&p, true);
    struct problem last = p;
    last.s.rows = 40, last.x = p.x + (size_t)30 * (size_t)p.ldx;
    simt_equal("rows 30 to 69", run_f32(&last, true), all + 30 * (size_t)p.ldy,
               (39 * (size_t)p.ldy + 40) * sizeof *all);
}

/* The first of the eight rows of a tile, or the last row there is. */
static void a_row_that_is_not_finite_stays_alone(void *arg)
{
    int kind = (int)(intptr_t)arg;
    for (int wide = 0; wide < 2; wide++) {
        struct problem p = problem_of(kind, (struct shape){40, 192, wide ? 33 : 13}, false);
        int bad = wide ? 32 : 8;
        float *fine = run_f32(&p, wide);
        simt_unseal(p.x);
        for (int i = 0; i < p.s.k; i++) p.x[bad * p.ldx + i] = i % 2 ? 0x7f80 : 0x7fc0;
        simt_seal(p.x);
        float *y = run_f32(&p, wide);
        for (int r = 0; r < p.s.rows; r++)
            if (r != bad) simt_equal("a row", y + r * p.ldy, fine + r * p.ldy, (size_t)p.ldy * sizeof *y);
        for (int n = 0; n < p.s.n; n++) SIMT_CHECK(!isfinite(y[bad * p.ldy + n]), "output %d hides it", n);
    }
}

/* --- outputs --- */

static void results_are_rounded_or_added(void *arg)
{
    (void)arg;
    struct problem p = problem_of(KIND_Q8, (struct shape){70, 160, 6}, false);
    float *y = run_f32(&p, false);
    size_t n = (size_t)p.s.rows * (size_t)p.ldy;
    uint16_t *half = simt_buffer("bf16 y", n * 2);
    struct gemm_job job = job_of(&p, half, 0);
    SIMT_CHECK(launch_gemm_small(&job, NULL) == 0, "refused");
    float *x = simt_buffer("x added to", n * 4);
    for (size_t i = 0; i < n; i++) x[i] = (float)i;
    job = job_of(&p, x, 1);
    job.add = 1;
    SIMT_CHECK(launch_gemm_small(&job, NULL) == 0, "refused");
    for (int r = 0; r < p.s.rows; r++)
        for (int c = 0; c < p.ldy; c++) {
            size_t at = (size_t)r * (size_t)p.ldy + (size_t)c;
            uint16_t want = c < p.s.n ? bf16_of_f32(y[at]) : 0xffff;
            SIMT_CHECK(half[at] == want, "bf16 %d %d: %x, not %x", r, c, half[at], want);
            SIMT_CHECK(x[at] == (float)at + (c < p.s.n ? y[at] : 0), "added %d %d: %g", r, c, (double)x[at]);
        }
}

static void halves_of_panels_have_the_bits_of_whole_ones(void *arg)
{
    int kind = (int)(intptr_t)arg;
    struct problem p = problem_of(kind, (struct shape){70, 320, 9}, false);
    cuda_target.sms = 1;
    float *whole = run_f32(&p, false);
    cuda_target.sms = 100;
    float *halves = run_f32(&p, false);
    simt_equal("16 outputs a block", halves, whole, ((size_t)p.s.rows * (size_t)p.ldy) * sizeof *whole);
}

int main(void)
{
    for (intptr_t kind = 0; kind < KINDS; kind++) {
        char name[96];
        const char *what = cuda_kind_name[kind];
#define CASE(text, fn) snprintf(name, sizeof name, "%s: " text, what), simt_case(name, fn, (void *)kind)
        CASE("products of 1 to 16 rows agree with float64", small_products_agree);
        CASE("products of 17 to 70 rows agree with float64", wide_products_agree);
        if (simt_finds_races()) continue; /* the above go through all that threads do together */
        CASE("a model's shape agrees with float64", a_models_shape_agrees);
        CASE("outputs and inputs of 896 and 4864 agree with float64", outputs_and_inputs_of_a_model_agree);
        CASE("a row that is not finite stays alone", a_row_that_is_not_finite_stays_alone);
        CASE("whole numbers are exact", whole_numbers_are_exact);
        CASE("a row has the same bits alone and among up to 16", a_row_has_the_same_bits_alone);
        CASE("a row of a wide product does not see the others", a_row_of_a_wide_product_does_not_see_the_others);
    }
    simt_case("results are rounded to bf16, or added in float32", results_are_rounded_or_added, NULL);
    simt_case("bf16: 16 outputs a block have the bits of 32", halves_of_panels_have_the_bits_of_whole_ones,
              (void *)KIND_BF16);
    simt_case("f8r: 16 outputs a block have the bits of 32", halves_of_panels_have_the_bits_of_whole_ones,
              (void *)KIND_F8R);
    simt_case_without("gemm", small_products_agree, (void *)KIND_BF16);
    simt_case_without("gemm", small_products_agree, (void *)KIND_T4);
    simt_case_without("gemm", wide_products_agree, (void *)KIND_Q4);
    return simt_done();
}
