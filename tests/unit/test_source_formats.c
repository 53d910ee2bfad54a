/* Tests of the decoders of quantized formats: what each project's own code says a matrix holds (tests/golden/make_formats.py), and what a
 * source makes of the same bytes, bit for bit. Codes are turned into floats here by the definitions of kernels/weight.h. */
#include "adapters/safetensors.h"
#include "engine/source.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define DIR "tests/golden/formats/"
#define K_MAX 1024

struct row_room {
    float f[K_MAX], d[K_MAX / GROUP], z[K_MAX / GROUP];
    uint8_t q[K_MAX];
};

static float e4m3(uint8_t c)
{
    int exponent = c >> 3 & 15, mantissa = c & 7;
    float v = exponent ? ldexpf(1 + (float)mantissa / 8, exponent - 7) : ldexpf((float)mantissa / 8, -6);
    return c & 0x80 ? -v : v;
}

static float decoded(const struct weight_source *s, const struct row_room *r, int i)
{
    float q = (float)r->q[i], d = r->d[i / GROUP], z = r->z[i / GROUP];
    switch (s->kind) {
    case CODES_INT8:
        return d * (q - 128);
    case CODES_INT4:
        return d * (q - z);
    case CODES_AFFINE:
    case CODES_INT2:
        return d * q + z;
    case CODES_TABLE:
        return d * s->table[r->q[i]];
    case CODES_E4M3:
        return d * e4m3(r->q[i]);
    default:
        return r->f[i];
    }
}

static int64_t ulps_between(float a, float b)
{
    int32_t x, y;
    if (a == b) return 0; /* zeros of either sign */
    memcpy(&x, &a, 4);
    memcpy(&y, &b, 4);
    return (x < 0) != (y < 0) ? INT32_MAX : llabs((int64_t)x - y);
}

static void check_matrix(const struct weight_source *s, const float *want, int ulps, const char *what)
{
    struct row_room r;
    struct err e = {0};
    for (int row = s->n - 1; row >= 0; row--) { /* rows come in any order */
        struct weight_row out = {r.f, r.q, r.d, r.z};
        memset(&r, 0xff, sizeof r); /* NaN: what is not written must not be read */
        if (s->read(s, row, &out, &e)) fail_msg("%s: %s", what, e.msg);
        for (int i = 0; i < s->k; i++) {
            float got = decoded(s, &r, i), expected = want[(size_t)row * (size_t)s->k + (size_t)i];
            if (ulps_between(got, expected) > ulps || isnan(got))
                fail_msg("%s: row %d, input %d: %.9g, expected %.9g", what, row, i, (double)got, (double)expected);
        }
    }
}

/* --- directories --- */

static const struct format {
    const char *name;
    enum code_kind kind;
    int n, k, ulps; /* beyond the bit: where the project multiplies in another order */
} formats[] = {
    {"gptq4", CODES_INT4, 32, 64, 0},        {"gptq4_v2", CODES_INT4, 32, 64, 0},
    {"gptq4_order", CODES_FLOAT, 32, 64, 0}, {"gptq2", CODES_INT2, 32, 64, 0},
    {"gptq3", CODES_INT4, 32, 64, 0},        {"gptq8", CODES_INT8, 32, 64, 0},
    {"gptq8_zero", CODES_FLOAT, 32, 64, 0},  {"awq", CODES_INT4, 16, 64, 0},
    {"nf4", CODES_TABLE, 16, 64, 0},         {"nf4_nested", CODES_TABLE, 16, 64, 0},
    {"fp4", CODES_TABLE, 16, 64, 0},         {"int8", CODES_INT8, 16, 64, 1}, /* it multiplies by a rounded 1/127 */
    {"fp8_block", CODES_E4M3, 16, 128, 0},   {"fp8_tensor", CODES_E4M3, 16, 64, 0},
    {"ct_pack4", CODES_INT4, 16, 64, 0},     {"ct_pack4_zero", CODES_INT4, 16, 64, 0},
    {"ct_pack3", CODES_INT4, 16, 64, 0},     {"ct_pack8", CODES_INT8, 16, 64, 0},
    {"ct_int8", CODES_INT8, 16, 64, 0},      {"ct_int8_zero", CODES_FLOAT, 16, 64, 0},
    {"ct_fp8", CODES_E4M3, 16, 64, 0},
};

static void check_directory(const struct format *f)
{
    char path[256];
    struct source *s;
    struct st_file *want;
    struct source_matrix m;
    struct err e = {0};
    snprintf(path, sizeof path, DIR "%s", f->name);
    if (source_open(&s, path, &e)) fail_msg("%s: %s", f->name, e.msg);
    snprintf(path, sizeof path, DIR "%s/expected.safetensors", f->name);
    assert_int_equal(st_open(&want, path, &e), 0);
    const struct st_tensor *w = st_find(want, "w");
    assert_non_null(w);
    assert_int_equal(w->dim[0], f->n);
    assert_int_equal(w->dim[1], f->k);
    assert_true(source_has(s, &(struct spot){.at = AT_DOWN}));
    if (source_matrix(s, &(struct spot){.at = AT_DOWN}, f->n, f->k, &m, &e)) fail_msg("%s: %s", f->name, e.msg);
    assert_int_equal(m.src.kind, f->kind);
    check_matrix(&m.src, w->data, f->ulps, f->name);
    source_matrix_close(&m);

    if (source_matrix(s, &(struct spot){.at = AT_EMBED}, 1, 32, &m, &e)) fail_msg("%s: %s", f->name, e.msg);
    source_matrix_close(&m);
    if (source_all_used(s, &e)) fail_msg("%s: %s", f->name, e.msg);
    st_close(want);
    source_close(s);
}

static void test_directories_hold_what_their_own_projects_say(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) check_directory(&formats[i]);
}

/* --- ggml --- */

static const struct {
    int type;
    enum code_kind kind;
} ggml[] = {{0, CODES_FLOAT},  {1, CODES_FLOAT},  {2, CODES_INT4},   {3, CODES_AFFINE}, {6, CODES_INT8},
            {7, CODES_FLOAT},  {8, CODES_INT8},   {10, CODES_FLOAT}, {11, CODES_FLOAT}, {12, CODES_AFFINE},
            {13, CODES_FLOAT}, {14, CODES_FLOAT}, {20, CODES_TABLE}, {30, CODES_FLOAT}, {39, CODES_TABLE}};

static void test_ggml_blocks_hold_what_gguf_says(void **state)
{
    (void)state;
    struct source *s;
    struct err e = {0};
    assert_int_equal(source_open(&s, DIR "ggml.gguf", &e), 0);
    assert_int_equal(source_kind(s), SOURCE_GGUF);
    for (size_t i = 0; i < sizeof ggml / sizeof *ggml; i++) {
        struct spot at = {.at = AT_DOWN, .layer = ggml[i].type};
        struct source_matrix m;
        int64_t n = 0, k = 0;
        char name[32];
        snprintf(name, sizeof name, "expected.%d", ggml[i].type);
        const struct gguf_tensor *want = gguf_find(source_gguf(s), name);
        assert_non_null(want);
        assert_true(source_shape(s, &at, &n, &k));
        assert_true(n == 2 && k == 256);
        if (source_matrix(s, &at, 2, 256, &m, &e)) fail_msg("%s", e.msg);
        assert_int_equal(m.src.kind, ggml[i].kind);
        check_matrix(&m.src, want->data, 0, m.src.format);
        source_matrix_close(&m);
    }
    assert_int_equal(source_all_used(s, &e), -1); /* expected.*: nobody asked for them */
    assert_non_null(strstr(e.msg, "expected."));
    source_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_directories_hold_what_their_own_projects_say),
        cmocka_unit_test(test_ggml_blocks_hold_what_gguf_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
