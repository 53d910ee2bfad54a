/* LAYOUT_S24: what is stored and read back, products on every table against float64, a row alone and among others by bits. */
#include "kernels/ops.h"
#include "kernels/pool.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N 70 /* three panels, the last one short */
#define K 864
#define ROWS 70
#define GUARD 32

static float value[N][K]; /* bf16 exactly */
static const int row_counts[] = {1, 2, 3, 4, 5, 6, 7, 12, 13, 64, 65, ROWS};

static uint32_t next(uint32_t *s)
{
    *s = *s * 1664525u + 1013904223u;
    return *s >> 8;
}

/* Two of each four; in some fours fewer, in row 3 none. */
static void make_values(void)
{
    uint32_t s = 1;
    for (int o = 0; o < N; o++)
        for (int i = 0; i < K; i += 4) {
            int a = (int)(next(&s) % 4), b = (a + 1 + (int)(next(&s) % 3)) % 4;
            for (int x = 0; x < 4; x++)
                value[o][i + x] = (x == a || x == b) && o != 3 && next(&s) % 16 ? (float)((int)(next(&s) % 255) - 127) / 64 : 0;
        }
}

static int read_value(const struct weight_source *src, int row, struct weight_row *out, struct err *e)
{
    (void)src;
    (void)e;
    memcpy(out->f, value[row], sizeof value[row]);
    return 0;
}

static struct weight pack(void)
{
    const struct weight_source src = {.kind = CODES_FLOAT, .n = N, .k = K, .read = read_value, .format = "test"};
    struct weight w;
    struct err e = {0};
    bool changed = true;
    if (weight_pack_source(&w, &src, NULL, PREC_FAST, LAYOUT_S24, &changed, &e)) fail_msg("%s", e.msg);
    assert_int_equal(w.layout, LAYOUT_S24);
    assert_false(changed);
    return w;
}

static void what_is_two_of_four_comes_back(void **state)
{
    (void)state;
    struct weight w = pack();
    float row[K];
    assert_int_equal(w.bytes, (size_t)3 * 32 * K * 9 / 8);
    for (int o = 0; o < N; o++) {
        weight_row(&w, o, row);
        for (int i = 0; i < K; i++) assert_true(row[i] == value[o][i]);
    }
    weight_close(&w);
}

static void of_more_the_larger_two_stay(void **state)
{
    (void)state;
    struct weight w;
    float row[K];
    bool changed = false;
    for (int i = 0; i < 4; i++) value[0][i] = (float[]){1, -3, 2, 2}[i];
    const struct weight_source src = {.kind = CODES_FLOAT, .n = N, .k = K, .read = read_value, .format = "test"};
    assert_int_equal(weight_pack_source(&w, &src, NULL, PREC_FAST, LAYOUT_S24, &changed, NULL), 0);
    weight_row(&w, 0, row);
    assert_memory_equal(row, ((float[]){0, -3, 2, 0}), 4 * sizeof *row);
    assert_true(changed);
    weight_close(&w);
    make_values();
}

struct product {
    const struct kernels *k;
    struct mm mm;
};

static void run_product(struct kthread *t, void *u)
{
    const struct product *p = u;
    p->k->matmul(t, &p->mm);
}

static void multiply(const struct kernels *k, struct pool *pool, const struct weight *w, const struct act *in, int rows, float *y)
{
    struct product p = {k, {.in = in, .rows = rows, .nout = 1, .expert = -1, .shrink_ld = 16}};
    p.mm.out[0] = (struct mm_out){.w = w, .y = y, .ldy = N, .module = MM_BASE};
    pool_run(pool, run_product, &p);
}

static void fill(struct act *a)
{
    uint32_t s = 7;
    for (int i = 0; i < ROWS * K; i++) {
        float v = (float)((int)(next(&s) % 255) - 127) / 32;
        uint32_t bits;
        memcpy(&bits, &v, sizeof bits);
        a->x[i] = v;
        a->bf16[i] = (uint16_t)(bits >> 16);
    }
}

static void check_table(const char *name, enum precision prec, struct pool *pool, const struct weight *w, const struct act *in)
{
    const struct kernels *k = kernels_pick(name, prec);
    static float whole[ROWS * N], some[ROWS * N + GUARD];
    if (!k) return;
    multiply(k, pool, w, in, ROWS, whole);
    double off = 0, all = 0;
    for (int r = 0; r < ROWS; r++)
        for (int o = 0; o < N; o++) {
            double want = 0;
            for (int i = 0; i < K; i++) want += (double)value[o][i] * (double)in->x[r * K + i];
            off += pow((double)whole[r * N + o] - want, 2), all += want * want;
        }
    printf("  %s: off by %.1e\n", name, sqrt(off / all));
    if (!(sqrt(off / all) < 1e-6)) fail_msg("%s: off by %g", name, sqrt(off / all));
    for (size_t c = 0; c < sizeof row_counts / sizeof *row_counts; c++) {
        memset(some, 0xff, sizeof some);
        multiply(k, pool, w, in, row_counts[c], some);
        assert_memory_equal(some, whole, (size_t)row_counts[c] * N * sizeof *some);
        for (int i = 0; i < GUARD; i++) assert_true(isnan(some[row_counts[c] * N + i]));
    }
}

static void products_on_every_table_are_right_and_alike_for_any_rows(void **state)
{
    (void)state;
    static const char *const names[] = {"plain", "avx2", "avxvnni", "avx512"};
    struct weight w = pack();
    struct act in;
    struct pool *pool;
    assert_int_equal(act_init(&in, ROWS, K, ACT_BF16, NULL), 0);
    assert_int_equal(pool_new(&pool, 2, NULL), 0);
    fill(&in);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        check_table(names[i], PREC_FAST, pool, &w, &in);
        check_table(names[i], PREC_EXACT, pool, &w, &in);
    }
    pool_free(pool);
    act_close(&in);
    weight_close(&w);
}

int main(void)
{
    make_values();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_two_of_four_comes_back),
        cmocka_unit_test(of_more_the_larger_two_stay),
        cmocka_unit_test(products_on_every_table_are_right_and_alike_for_any_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
