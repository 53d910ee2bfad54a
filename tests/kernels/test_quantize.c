/* Sources of rows and quantizers: which layout a source gets, what it loses there, and how near each quantizer comes. */
#include "kernels/quantize.h"
#include "tests/kernels/common.h"

enum { N = 37, K = 96, GROUPS = K / 32 };

/* A made-up source: every row from the same generator, so that reading twice gives the same. */
struct made {
    enum code_kind kind;
    float (*scale)(void), (*offset)(void);
    uint8_t most;
};

static float f16_scale(void)
{
    return (float)f16_value(f16_near(0.01 + fabs(next_float()) / 50));
}
static float f32_scale(void)
{
    return 0.01f + fabsf(next_float()) / 50;
}
static float huge_scale(void)
{
    return 1e6f + fabsf(next_float());
}
static float tiny_scale(void)
{
    return 1e-9f + fabsf(next_float()) * 1e-9f;
}
static float whole(void)
{
    return (float)next_int(0, 16);
}
static float below_zero(void)
{
    return (float)next_int(-128, 127);
}
static float half(void)
{
    return 7.5f;
}
static float too_far(void)
{
    return 128;
}
static float infinite(void)
{
    return INFINITY;
}
static float minus_f16(void)
{
    return (float)f16_value(f16_near(-0.1 - fabs(next_float()) / 50));
}

static int read_made(const struct weight_source *s, int row, struct weight_row *out, struct err *e)
{
    (void)e;
    const struct made *m = s->u;
    seed((uint64_t)row + 77);
    for (int g = 0; g < (s->k + 31) / 32; g++) out->d[g] = m->scale(), out->z[g] = m->offset ? m->offset() : 0;
    for (int i = 0; i < s->k; i++) out->q[i] = (uint8_t)(next_u32() % (m->most + 1u));
    return 0;
}

/* The values by the kinds' definition, in float32. */
static void made_values(const struct made *m, const struct weight_source *s, int row, float *f)
{
    uint8_t q[K];
    float d[GROUPS + 1], z[GROUPS + 1];
    struct weight_row r = {f, q, d, z};
    read_made(s, row, &r, NULL);
    for (int i = 0; i < s->k; i++) {
        float at = d[i / 32], off = z[i / 32];
        f[i] = m->kind == CODES_INT8    ? (float)((double)at * (q[i] - 128))
               : m->kind == CODES_INT4  ? (float)((double)at * (q[i] - off))
               : m->kind == CODES_TABLE ? at * s->table[q[i]]
               : m->kind == CODES_E4M3  ? (float)(at * e4m3_value(q[i]))
                                        : (float)((double)at * q[i]) + off;
    }
}

/* What AUTO does with each kind: the layout in FAST and in EXACT, and whether FAST rounds. */
static void sources_get_the_first_layout_that_holds_them(void **state)
{
    (void)state;
    static const struct {
        struct made m;
        int k;
        enum layout fast, exact;
        bool rounds;
    } rows[] = {
        {{CODES_INT8, f16_scale, NULL, 255}, K, LAYOUT_Q8, LAYOUT_Q8, false},
        {{CODES_INT8, f32_scale, NULL, 255}, K, LAYOUT_Q8F, LAYOUT_Q8F, false},
        {{CODES_INT8, huge_scale, NULL, 255}, K, LAYOUT_Q8F, LAYOUT_Q8F, false},
        {{CODES_INT4, f32_scale, whole, 15}, K, LAYOUT_Q4Z, LAYOUT_Q4Z, false},
        {{CODES_INT4, f32_scale, below_zero, 15}, K, LAYOUT_Q4Z, LAYOUT_Q4Z, false},
        {{CODES_TABLE, f32_scale, NULL, 15}, K, LAYOUT_T4, LAYOUT_T4, false},
        {{CODES_E4M3, f32_scale, NULL, 0x7e}, K, LAYOUT_F8, LAYOUT_F8, false},
        {{CODES_AFFINE, f16_scale, minus_f16, 15}, K, LAYOUT_Q4, LAYOUT_Q4, false},
        {{CODES_AFFINE, f32_scale, minus_f16, 15}, K, LAYOUT_Q4, LAYOUT_F32, true},
        {{CODES_AFFINE, huge_scale, minus_f16, 15}, K, LAYOUT_BF16, LAYOUT_F32, true},
        {{CODES_AFFINE, tiny_scale, NULL, 15}, K, LAYOUT_BF16, LAYOUT_F32, true},
        {{CODES_INT2, f16_scale, minus_f16, 3}, K, LAYOUT_Q2, LAYOUT_Q2, false},
        {{CODES_INT2, f32_scale, minus_f16, 3}, K, LAYOUT_Q2, LAYOUT_F32, true},
        {{CODES_INT2, huge_scale, NULL, 3}, K, LAYOUT_BF16, LAYOUT_F32, true},
        {{CODES_INT4, f32_scale, whole, 15}, K - 16, LAYOUT_BF16, LAYOUT_F32, true},
        {{CODES_E4M3, f32_scale, NULL, 0x7e}, K - 2, LAYOUT_BF16, LAYOUT_F32, true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (enum precision prec = PREC_FAST; prec <= PREC_EXACT; prec++) {
            struct weight_source s = {rows[i].m.kind, N, rows[i].k, table_nf4, read_made, &rows[i].m, "made-up"};
            struct weight w;
            struct err e = {0};
            bool rounded = false;
            if (weight_pack_source(&w, &s, NULL, prec, LAYOUT_AUTO, &rounded, &e)) fail_msg("row %zu: %s", i, e.msg);
            assert_int_equal(w.layout, prec == PREC_FAST ? rows[i].fast : rows[i].exact);
            assert_int_equal(rounded, prec == PREC_FAST && rows[i].rounds);
            for (int row = 0; row < N; row++) {
                float want[K], got[K];
                made_values(&rows[i].m, &s, row, want);
                weight_row(&w, row, got);
                for (int c = 0; c < s.k; c++) {
                    if (!rounded && got[c] != want[c])
                        fail_msg("row %zu: %g is %g", i, (double)want[c], (double)got[c]);
                    float most = 0.004f * fabsf(want[c]) + (rows[i].m.scale == f32_scale ? 0.0003f : 0);
                    if (rounded && !(fabsf(got[c] - want[c]) <= most))
                        fail_msg("row %zu: %g is %g", i, (double)want[c], (double)got[c]);
                }
            }
            weight_close(&w);
        }
}

static void what_no_matrix_may_hold_is_refused(void **state)
{
    (void)state;
    static const struct {
        struct made m;
        const char *word;
    } rows[] = {
        {{CODES_INT8, infinite, NULL, 255}, "not finite"},
        {{CODES_INT4, f32_scale, half, 15}, "7.5"},
        {{CODES_INT4, f32_scale, too_far, 15}, "128"},
        {{CODES_INT4, f32_scale, infinite, 15}, "not finite"},
        {{CODES_AFFINE, f32_scale, infinite, 15}, "not finite"},
        {{CODES_TABLE, f32_scale, NULL, 16}, "code 16"},
        {{CODES_INT2, f32_scale, NULL, 4}, "code 4"},
        {{CODES_E4M3, f32_scale, NULL, 255}, "not a number"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct weight_source s = {rows[i].m.kind, 200, K, table_nf4, read_made, &rows[i].m, "made-up"};
        struct weight w = {.n = 7};
        struct err e = {0};
        assert_int_equal(weight_pack_source(&w, &s, NULL, PREC_FAST, LAYOUT_AUTO, NULL, &e), -1);
        assert_int_equal(e.code, ERR_MODEL);
        assert_non_null(strstr(e.msg, "made-up"));
        if (!strstr(e.msg, rows[i].word)) fail_msg("%s", e.msg);
        assert_int_equal(w.n, 7);
    }
}

/* --- quantizers --- */

struct floats {
    float f[N][K];
    int breaks; /* row whose read() fails, or -1 */
};

static int read_floats(const struct weight_source *s, int row, struct weight_row *out, struct err *e)
{
    const struct floats *v = s->u;
    if (row == v->breaks) return err_set(e, ERR_MODEL, "row %d is broken", row);
    memcpy(out->f, v->f[row], (size_t)s->k * sizeof *out->f);
    return 0;
}

static struct weight_source floats_source(const struct floats *v)
{
    return (struct weight_source){.kind = CODES_FLOAT, .n = N, .k = K, .read = read_floats, .u = v, .format = "floats"};
}

/* About normal: the sum of a few uniform numbers. */
static void normal(struct floats *v, float size)
{
    v->breaks = -1;
    for (int i = 0; i < N * K; i++)
        v->f[i / K][i % K] = size * (next_float() + next_float() + next_float() + next_float()) * 0.87f;
}

static double relative_error(const struct weight *w, const struct floats *v)
{
    double off = 0, all = 1e-300;
    for (int row = 0; row < N; row++) {
        float got[K];
        weight_row(w, row, got);
        for (int c = 0; c < K; c++) {
            off += pow((double)got[c] - v->f[row][c], 2);
            all += pow((double)v->f[row][c], 2);
        }
    }
    return sqrt(off / all);
}

/* The bounds are about a tenth above what was seen; plain rounding between smallest and largest gives 0.075 in int4 and
 * 0.38 in int2. */
static void quantizers_come_near_for_values_of_any_size(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double error;
    } rows[] = {{"bf16", 0.0018}, {"int8", 0.0057}, {"int4", 0.074},  {"nf4", 0.089},
                {"fp4", 0.114},   {"mxfp4", 0.122}, {"mxfp8", 0.029}, {"int2", 0.325}};
    static const float sizes[] = {1, 0.02f, 30, 0.001f};
    static struct floats v;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            seed(s);
            normal(&v, sizes[s]);
            struct weight_source src = floats_source(&v);
            const struct quant_type *type = quant_type_find(rows[i].name);
            struct weight w;
            assert_int_equal(weight_quantize(&w, type, &src, NULL, NULL), 0);
            assert_int_equal(w.layout, type->layout);
            double error = relative_error(&w, &v);
            if (!(error < rows[i].error)) fail_msg("%s of size %g: %g", rows[i].name, (double)sizes[s], error);
            weight_close(&w);
        }
}

static void values_that_a_type_holds_come_back_exactly(void **state)
{
    (void)state;
    static const char *const names[] = {"int8", "int4", "nf4", "fp4", "mxfp4", "mxfp8", "int2"};
    static struct floats v;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const struct quant_type *type = quant_type_find(names[i]);
        v.breaks = -1;
        for (int row = 0; row < N; row++)
            for (int c = 0; c < K; c++) { /* each group holds the ends of its range */
                int j = c % 32, q = j < 2 ? j * 15 : (c * 7 + row) % 16;
                v.f[row][c] = type->table                 ? 0.25f * type->table[q]
                              : type->layout == LAYOUT_Q8 ? 0.25f * (float)(j == 0 ? 127 : q - 8)
                              : type->layout == LAYOUT_Q4 ? 0.25f * (float)q - 1.5f
                              : type->layout == LAYOUT_F8 ? (float)(0.25 * e4m3_value(j == 0 ? 0x7e : (uint8_t)(q * 7)))
                                                          : 0.25f * (float)(q & 3) - 1.5f;
            }
        if (type->table == table_nf4 || type->table == table_fp4 || type->table == table_mxfp4)
            for (int row = 0; row < N; row++)
                for (int c = 0; c < K; c += 32) v.f[row][c] = 0.25f * (type->table == table_mxfp4 ? 6 : 1);
        struct weight_source src = floats_source(&v);
        struct weight w;
        assert_int_equal(weight_quantize(&w, type, &src, NULL, NULL), 0);
        double error = relative_error(&w, &v);
        if (error > 1e-7) fail_msg("%s: %g", names[i], error);
        weight_close(&w);
    }
}

/* Groups of zeros, of one value, of float32's ends, and of subnormals. */
static void odd_groups_stay_finite(void **state)
{
    (void)state;
    static const float odd[] = {0, -0.0f, 5, -0.3f, 3e38f, -3e38f, 1e-45f, 1e-38f, 70000, 1e10f, 3e-8f};
    static struct floats v;
    for (const struct quant_type *type = quant_types; type->name; type++)
        for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
            for (int one = 0; one < 2; one++) {
                v.breaks = -1;
                for (int c = 0; c < N * K; c++) v.f[c / K][c % K] = one ? (c % 32 == 3 ? odd[i] : 0) : odd[i];
                struct weight_source src = floats_source(&v);
                struct weight w;
                float row[K];
                assert_int_equal(weight_quantize(&w, type, &src, NULL, NULL), 0);
                weight_row(&w, N - 1, row);
                double most = fabs((double)odd[i]);
                for (int c = 0; c < K; c++) {
                    double off = fabs((double)row[c] - v.f[N - 1][c]);
                    if (!(off <= most * 0.26 + 1e-6))
                        fail_msg("%s: %g is %g", type->name, (double)odd[i], (double)row[c]);
                }
                weight_close(&w);
            }
}

static void what_cannot_be_quantized_is_refused_or_stays_bf16(void **state)
{
    (void)state;
    static struct floats v;
    for (const struct quant_type *type = quant_types + 1; type->name; type++) {
        seed(5);
        normal(&v, 1);
        struct weight_source src = floats_source(&v);
        struct weight w = {.n = 7};
        struct err e = {0};
        v.f[20][40] = NAN;
        assert_int_equal(weight_quantize(&w, type, &src, NULL, &e), -1);
        assert_non_null(strstr(e.msg, "row 20"));
        v.f[20][40] = 0, v.breaks = 36;
        err_clear(&e);
        assert_int_equal(weight_quantize(&w, type, &src, NULL, &e), -1);
        assert_string_equal(e.msg, "row 36 is broken");
        assert_int_equal(w.n, 7);
        v.breaks = -1, src.k = K - 2;
        assert_int_equal(weight_quantize(&w, type, &src, NULL, NULL), 0);
        assert_int_equal(w.layout, LAYOUT_BF16);
        weight_close(&w);
        src.k = 0;
        assert_int_equal(weight_quantize(&w, type, &src, NULL, NULL), -1);
    }
    assert_null(quant_type_find("int3"));
}

/* Any source into any layout, by its float32 values; rows in another order. */
static void every_source_goes_into_every_layout_asked_for(void **state)
{
    (void)state;
    static const double most[LAYOUTS] = {
        [LAYOUT_F32] = 0,    [LAYOUT_BF16] = 0.003, [LAYOUT_Q8] = 0.01, [LAYOUT_Q4] = 0.15, [LAYOUT_Q8F] = 0.01,
        [LAYOUT_Q4Z] = 0.15, [LAYOUT_T4] = 0.2,     [LAYOUT_F8] = 0.05, [LAYOUT_Q2] = 0.7,
        [LAYOUT_S24] = 0.5};
    int order[N];
    for (int i = 0; i < N; i++) order[i] = i * 5 % N;
    for (int type = M_INT8; type < MATRIX_TYPES; type++)
        for (int layout = 0; layout < LAYOUTS; layout++) {
            seed((uint64_t)type);
            struct matrix m = matrix_make(type, N, K, false);
            struct weight_source s = matrix_source(&m);
            struct weight w;
            bool rounded = false;
            assert_int_equal(weight_pack_source(&w, &s, order, PREC_EXACT, layout, &rounded, NULL), 0);
            assert_int_equal(w.layout, layout);
            double off = 0, all = 0;
            for (int row = 0; row < N; row++) {
                float got[K];
                weight_row(&w, row, got);
                for (int c = 0; c < K; c++) {
                    double want = m.value[order[row] * K + c];
                    off += pow(got[c] - want, 2), all += want * want;
                }
            }
            if (!(sqrt(off / all) <= most[layout]))
                fail_msg("%s into %s: %g", TYPE_NAMES[type], layout_name[layout], sqrt(off / all));
            weight_close(&w);
            matrix_free(&m);
        }
}

/* --- memory of others --- */

static void adopted_weights_are_read_where_they_lie(void **state)
{
    (void)state;
    for (int layout = 0; layout < LAYOUTS; layout++) {
        static struct floats v;
        normal(&v, 1);
        struct weight_source src = floats_source(&v);
        struct weight w, same;
        assert_int_equal(weight_pack_source(&w, &src, NULL, PREC_FAST, layout, NULL, NULL), 0);
        size_t bytes = weight_bytes(w.layout, N, K);
        assert_int_equal(bytes, w.bytes);
        assert_int_equal(weight_adopt(&same, w.layout, N, K, w.table, w.data, bytes, NULL), 0);
        assert_memory_equal(same.coarse, w.coarse, sizeof w.coarse);
        float a[K], b[K];
        for (int row = 0; row < N; row++) {
            weight_row(&w, row, a), weight_row(&same, row, b);
            assert_memory_equal(a, b, sizeof a);
        }
        weight_close(&same);
        weight_row(&w, 0, b); /* still there */
        weight_close(&w);
    }
}

static void what_does_not_fit_is_not_adopted(void **state)
{
    (void)state;
    static _Alignas(64) char data[1 << 16];
    static const float bad_table[16] = {[3] = INFINITY};
    static const struct {
        int layout, n, k;
        const float *table;
        int bytes_off, at;
    } rows[] = {
        {LAYOUTS, 32, 64, NULL, 0, 0},         {-1, 32, 64, NULL, 0, 0},
        {LAYOUT_Q4, 32, 63, NULL, 0, 0},       {LAYOUT_Q4, 0, 64, NULL, 0, 0},
        {LAYOUT_Q4, -5, 64, NULL, 0, 0},       {LAYOUT_Q4, 32, 64, NULL, 1, 0},
        {LAYOUT_Q4, 32, 64, NULL, -64, 0},     {LAYOUT_Q4, 32, 64, NULL, 0, 32},
        {LAYOUT_T4, 32, 64, NULL, 0, 0},       {LAYOUT_T4, 32, 64, bad_table, 0, 0},
        {LAYOUT_F32, 32, 1 << 21, NULL, 0, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct weight w = {.n = 7};
        struct err e = {0};
        size_t bytes = weight_bytes((enum layout)rows[i].layout, rows[i].n, rows[i].k) + (size_t)rows[i].bytes_off;
        assert_int_equal(weight_adopt(&w, (enum layout)rows[i].layout, rows[i].n, rows[i].k, rows[i].table,
                                      data + rows[i].at, bytes, &e),
                         -1);
        assert_int_equal(e.code, ERR_MODEL);
        assert_int_equal(w.n, 7);
    }
}

/* Tables that bf16 holds after one factor are multiplied exactly, NF4 nearly. */
static void coarse_tables_are_near_or_exact(void **state)
{
    (void)state;
    static const struct {
        const float *table;
        double error;
    } rows[] = {{table_fp4, 1e-7}, {table_mxfp4, 0}, {TABLES[2], 0}, {table_nf4, 0.0015}};
    static _Alignas(64) char data[1280];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct weight w;
        assert_int_equal(weight_adopt(&w, LAYOUT_T4, 1, 64, rows[i].table, data, sizeof data, NULL), 0);
        for (int t = 0; t < 16; t++) {
            uint32_t bits = (uint32_t)w.coarse[t] << 16;
            float coarse;
            memcpy(&coarse, &bits, 4);
            assert_true(fabs((double)w.factor * coarse - rows[i].table[t]) <= rows[i].error);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sources_get_the_first_layout_that_holds_them),
        cmocka_unit_test(what_no_matrix_may_hold_is_refused),
        cmocka_unit_test(quantizers_come_near_for_values_of_any_size),
        cmocka_unit_test(values_that_a_type_holds_come_back_exactly),
        cmocka_unit_test(odd_groups_stay_finite),
        cmocka_unit_test(what_cannot_be_quantized_is_refused_or_stays_bf16),
        cmocka_unit_test(every_source_goes_into_every_layout_asked_for),
        cmocka_unit_test(adopted_weights_are_read_where_they_lie),
        cmocka_unit_test(what_does_not_fit_is_not_adopted),
        cmocka_unit_test(coarse_tables_are_near_or_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
