/* Packing: every source format comes back as the values that its definition gives, in every layout; what cannot be
 * packed is refused. */
#include "tests/kernels/common.h"
#include "tests/kernels/shapes.h"

static void check_pack(const struct matrix *m, enum precision prec, const int *row_of)
{
    struct weight w;
    struct err e = {0};
    if (matrix_pack(&w, m, row_of, prec, &e)) fail_msg("%s", e.msg);
    assert_int_equal((uintptr_t)w.data % 64, 0);
    float *row = xalloc(sizeof(float) * (size_t)m->k);
    bool rounds = prec == PREC_FAST && m->type <= T_F16;
    for (int i = 0; i < m->n; i++) {
        weight_row(&w, i, row);
        const double *want = m->value + (size_t)(row_of ? row_of[i] : i) * (size_t)m->k;
        for (int c = 0; c < m->k; c++) assert_true(row[c] == (rounds ? bf16_near((float)want[c]) : (float)want[c]));
    }
    free(row);
    weight_close(&w);
    assert_null(w.data);
}

static void every_format_unpacks_to_the_values_of_its_definition(void **state)
{
    (void)state;
    for (int s = 0; s < SHAPES_N; s++)
        for (int type = T_F32; type < MATRIX_TYPES; type++) {
            if ((size_t)SHAPES[s].n * (size_t)SHAPES[s].k > 1000000) continue;
            seed((uint64_t)(s * 10 + type));
            struct matrix m = matrix_make(type, SHAPES[s].n, SHAPES[s].k, false);
            check_pack(&m, PREC_FAST, NULL);
            check_pack(&m, PREC_EXACT, NULL);
            matrix_free(&m);
        }
}

static void rows_are_taken_in_the_order_asked_for(void **state)
{
    (void)state;
    int order[70];
    for (int i = 0; i < 70; i++) order[i] = i * 37 % 70;
    for (int type = T_F32; type < MATRIX_TYPES; type++) {
        seed((uint64_t)type);
        struct matrix m = matrix_make(type, 70, 96, false);
        check_pack(&m, PREC_EXACT, order);
        matrix_free(&m);
    }
}

/* Every 16-bit pattern as a scale: all finite ones are exact (also where -8 d is beyond f16), the others are refused. */
static void every_f16_scale_is_exact_or_refused(void **state)
{
    (void)state;
    struct weight first; /* keeps the shared block alive: else each of the 65536 rounds maps a fresh one */
    assert_int_equal(weight_pack(&first, T_Q4_0, (uint8_t[18]){0}, 1, 32, NULL, PREC_FAST, NULL), 0);
    for (unsigned bits = 0; bits < 65536; bits++) {
        uint8_t block[18] = {(uint8_t)bits, (uint8_t)(bits >> 8), 0x90, 0x0f};
        struct weight w;
        struct err e = {0};
        bool finite = (bits & 0x7c00) != 0x7c00;
        int rc = weight_pack(&w, T_Q4_0, block, 1, 32, NULL, PREC_FAST, &e);
        assert_int_equal(rc, finite ? 0 : -1);
        if (!finite) {
            assert_int_equal(e.code, ERR_MODEL);
            continue;
        }
        float row[32];
        double d = f16_value((uint16_t)bits);
        weight_row(&w, 0, row);
        assert_true(row[0] == (float)(d * -8) && row[16] == (float)(d * 1) && row[1] == (float)(d * 7) &&
                    row[17] == (float)(d * -8));
        weight_close(&w);
    }
    weight_close(&first);
}

static void shapes_that_no_layout_holds_are_refused(void **state)
{
    (void)state;
    static const struct {
        enum tensor_type type;
        int n, k;
    } bad[] = {{T_Q8_0, 4, 33}, {T_Q4_1, 4, 16}, {T_Q4_0, 4, 0},     {T_F32, 4, 3},
               {T_BF16, 0, 4},  {T_F16, -1, 4},  {T_F32, 4, 1 << 21}};
    char src[256] = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct weight w = {.n = 7};
        struct err e = {0};
        assert_int_equal(weight_pack(&w, bad[i].type, src, bad[i].n, bad[i].k, NULL, PREC_FAST, &e), -1);
        assert_int_equal(e.code, ERR_MODEL);
        assert_int_equal(w.n, 7);
    }
    assert_int_equal(tensor_bytes(T_Q8_0, 4, 33), 0);
    assert_int_equal(tensor_bytes(T_Q8_0, 4, 64), 4 * 2 * 34);
    assert_int_equal(tensor_bytes(T_Q4_1, 3, 32), 3 * 20);
    assert_int_equal(tensor_bytes(T_BF16, 3, 7), 3 * 7 * 2);
}

static void many_weights_share_blocks_and_give_them_back(void **state)
{
    (void)state;
    enum { COUNT = 300 };
    static struct weight w[COUNT];
    seed(3);
    struct matrix m = matrix_make(T_F32, 200, 600, false);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < COUNT; i++)
            assert_int_equal(weight_pack(&w[i], T_F32, m.src, m.n, m.k, NULL, PREC_EXACT, NULL), 0);
        float row[600];
        for (int i = 0; i < COUNT; i++) {
            weight_row(&w[i], i % 200, row);
            assert_memory_equal(row, (float *)m.src + (size_t)(i % 200) * 600, sizeof row);
        }
        for (int i = 0; i < COUNT; i++) weight_close(&w[(i * 7) % COUNT]);
    }
    matrix_free(&m);
}

static void vectors_convert_from_every_float_format(void **state)
{
    (void)state;
    for (enum tensor_type type = T_F32; type <= T_BF16; type++) {
        struct matrix m = matrix_make(type, 1, 77, false);
        float out[77];
        tensor_to_f32(type, m.src, 77, out);
        for (int i = 0; i < 77; i++) assert_true(out[i] == (float)m.value[i]);
        matrix_free(&m);
    }
    const uint16_t f16[] = {0x0001, 0x83ff, 0x0400, 0x7bff, 0x7c00, 0x8000};
    float out[6];
    tensor_to_f32(T_F16, f16, 6, out);
    assert_true(out[0] == 0x1p-24f && out[1] == -1023 * 0x1p-24f && out[2] == 0x1p-14f && out[3] == 65504 &&
                isinf(out[4]));
    assert_true(out[5] == 0 && signbit(out[5]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_unpacks_to_the_values_of_its_definition),
        cmocka_unit_test(rows_are_taken_in_the_order_asked_for),
        cmocka_unit_test(every_f16_scale_is_exact_or_refused),
        cmocka_unit_test(shapes_that_no_layout_holds_are_refused),
        cmocka_unit_test(many_weights_share_blocks_and_give_them_back),
        cmocka_unit_test(vectors_convert_from_every_float_format),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
