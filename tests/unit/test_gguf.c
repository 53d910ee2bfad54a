/* Tests of engine/gguf: a small file is built here, read back, then damaged in thousands of ways. A reader that looks past the end
 * of what it was given dies under ASan (or by SIGSEGV: the mapping ends at a page). */
#include "engine/gguf.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define FILE_MAX 4096

struct file {
    uint8_t b[FILE_MAX];
    size_t n;
};

static void put(struct file *f, const void *p, size_t n)
{
    assert_true(f->n + n <= FILE_MAX);
    memcpy(f->b + f->n, p, n);
    f->n += n;
}

static void put32(struct file *f, uint32_t v)
{
    put(f, &v, 4);
}
static void put64(struct file *f, uint64_t v)
{
    put(f, &v, 8);
}

static void puts64(struct file *f, const char *s)
{
    put64(f, strlen(s));
    put(f, s, strlen(s));
}

static void put_key(struct file *f, const char *key, uint32_t kind)
{
    puts64(f, key);
    put32(f, kind);
}

static void pad_to(struct file *f, size_t align)
{
    while (f->n % align) put(f, "", 1);
}

/* What a test may want otherwise than usual. */
enum field { VERSION, ALIGN, TYPE, NDIM, OFFSET, DIM0, KEYS, TENSORS, FIELDS };

struct twist {
    uint64_t v[FIELDS];
    const char *key2, *tensor2;
};

static const struct twist usual = {
    .v = {[VERSION] = 3, [ALIGN] = 32, [NDIM] = 1, [DIM0] = 4, [KEYS] = 14, [TENSORS] = 2},
    .key2 = "b.i8",
    .tensor2 = "two"};

static void put_keys(struct file *f, const struct twist *w)
{
    put_key(f, "a.u8", 0), put(f, "\xff", 1);
    put_key(f, w->key2, 1), put(f, "\xff", 1);
    put_key(f, "c.u16", 2), put(f, "\xff\xff", 2);
    put_key(f, "d.i16", 3), put(f, "\xfe\xff", 2);
    put_key(f, "e.f32", 6), put(f, &(float){1.5f}, 4);
    put_key(f, "f.f64", 12), put(f, &(double){-7}, 8);
    put_key(f, "g.bool", 7), put(f, "\1", 1);
    put_key(f, "h.str", 8), puts64(f, "hello");
    put_key(f, "i.u64", 10), put64(f, UINT64_MAX);
    put_key(f, "j.i64", 11), put64(f, (uint64_t)INT64_MIN);
    put_key(f, "k.strs", 9), put32(f, 8), put64(f, 3), puts64(f, "x"), puts64(f, ""), puts64(f, "yz");
    put_key(f, "l.i32s", 9), put32(f, 5), put64(f, 3), put32(f, 1), put32(f, (uint32_t)-2), put32(f, 3);
    put_key(f, "m.f32s", 9), put32(f, 6), put64(f, 2), put(f, (float[]){0.5f, -2}, 8);
    put_key(f, "general.alignment", 4), put32(f, (uint32_t)w->v[ALIGN]);
}

static void build(struct file *f, const struct twist *w)
{
    f->n = 0;
    put(f, "GGUF", 4), put32(f, (uint32_t)w->v[VERSION]), put64(f, w->v[TENSORS]), put64(f, w->v[KEYS]);
    put_keys(f, w);
    puts64(f, "one"), put32(f, (uint32_t)w->v[NDIM]);
    for (uint64_t i = 0; i < w->v[NDIM] && i < 6; i++) put64(f, i ? 1 : w->v[DIM0]);
    put32(f, (uint32_t)w->v[TYPE]), put64(f, w->v[OFFSET]);
    puts64(f, w->tensor2), put32(f, 2), put64(f, 32), put64(f, 2), put32(f, 8),
        put64(f, 32); /* Q8_0 [2][32] = 68 bytes */
    pad_to(f, w->v[ALIGN] >= 8 && w->v[ALIGN] <= 64 ? w->v[ALIGN] : 32);
    put(f, (float[]){1, 2, 3, 4}, 16);
    pad_to(f, 32);
    for (int i = 0; i < 68; i++) put(f, &(uint8_t){(uint8_t)i}, 1);
}

static int open_bytes(struct gguf **g, const void *b, size_t n, struct err *e)
{
    char path[64];
    int r, fd = memfd_create("gguf", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, b, n), (ssize_t)n);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    r = gguf_open(g, path, e);
    close(fd);
    return r;
}

static struct gguf *open_usual(void)
{
    struct file f;
    struct gguf *g = NULL;
    struct err e = {0};
    build(&f, &usual);
    if (open_bytes(&g, f.b, f.n, &e)) fail_msg("%s", e.msg);
    return g;
}

static void every_kind_of_number_reads_back(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        int is_u64;
        uint64_t u;
        double d;
    } rows[] = {
        {"a.u8", 1, 255, 255},
        {"b.i8", 0, 0, -1},
        {"c.u16", 1, 65535, 65535},
        {"d.i16", 0, 0, -2},
        {"e.f32", 0, 0, 1.5},
        {"f.f64", 0, 0, -7},
        {"i.u64", 1, UINT64_MAX, 0x1p64},
        {"j.i64", 0, 0, -0x1p63},
        {"general.alignment", 1, 32, 32},
    };
    struct gguf *g = open_usual();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err e = {0};
        uint64_t u = 77;
        double d = 0;
        assert_int_equal(gguf_u64(g, rows[i].key, &u, &e), rows[i].is_u64 ? 0 : -1);
        assert_true(u == (rows[i].is_u64 ? rows[i].u : 77));
        assert_int_equal(e.code, rows[i].is_u64 ? ERR_NONE : ERR_MODEL);
        assert_int_equal(gguf_f64(g, rows[i].key, &d, NULL), 0);
        assert_true(d == rows[i].d);
    }
    gguf_close(g);
}

static void strings_bools_and_arrays_read_back(void **state)
{
    (void)state;
    struct gguf *g = open_usual();
    struct gguf_str s, *strs;
    bool b = false;
    size_t n;
    int32_t *i32;
    float *f32;
    assert_int_equal(gguf_string(g, "h.str", &s, NULL), 0);
    assert_int_equal(s.len, 5);
    assert_memory_equal(s.s, "hello", 5);
    assert_int_equal(gguf_bool(g, "g.bool", &b, NULL), 0);
    assert_true(b);
    assert_int_equal(gguf_array_len(g, "k.strs", &n, NULL), 0);
    assert_int_equal(n, 3);
    assert_int_equal(gguf_array_str(g, "k.strs", &strs, &n, NULL), 0);
    assert_int_equal(strs[1].len, 0);
    assert_memory_equal(strs[2].s, "yz", 2);
    assert_int_equal(gguf_array_i32(g, "l.i32s", &i32, &n, NULL), 0);
    assert_int_equal(i32[1], -2);
    assert_int_equal(gguf_array_f32(g, "m.f32s", &f32, &n, NULL), 0);
    assert_true(f32[0] == 0.5f && f32[1] == -2);
    free(strs), free(i32), free(f32);
    gguf_close(g);
}

static void a_key_that_is_absent_or_of_another_kind_is_refused_by_name(void **state)
{
    (void)state;
    struct gguf *g = open_usual();
    struct err e = {0};
    struct gguf_str s;
    int32_t *a;
    bool b;
    size_t n;
    assert_false(gguf_has(g, "nope"));
    assert_true(gguf_has(g, "h.str"));
    assert_int_equal(gguf_string(g, "nope", &s, &e), -1);
    assert_non_null(strstr(e.msg, "\"nope\" is missing"));
    err_clear(&e);
    assert_int_equal(gguf_string(g, "a.u8", &s, &e), -1);
    assert_non_null(strstr(e.msg, "of type u8, not string"));
    err_clear(&e);
    assert_int_equal(gguf_array_i32(g, "k.strs", &a, &n, &e), -1);
    assert_non_null(strstr(e.msg, "array of string"));
    err_clear(&e);
    assert_int_equal(gguf_array_i32(g, "m.f32s", &a, &n, &e), -1);
    assert_non_null(strstr(e.msg, "not a 32-bit integer"));
    assert_int_equal(gguf_bool(g, "a.u8", &b, NULL), -1);
    gguf_close(g);
}

static void tensors_are_found_with_shape_and_data(void **state)
{
    (void)state;
    struct gguf *g = open_usual();
    const struct gguf_tensor *t = gguf_find(g, "one"), *q = gguf_find(g, "two");
    assert_int_equal(gguf_tensors(g), 2);
    assert_null(gguf_find(g, "three"));
    assert_null(gguf_tensor_at(g, 2));
    assert_non_null(t);
    assert_non_null(q);
    assert_int_equal(t->ndim, 1);
    assert_int_equal(t->bytes, 16);
    assert_true(((const float *)t->data)[3] == 4);
    assert_int_equal(q->dim[0], 32);
    assert_int_equal(q->dim[1], 2);
    assert_int_equal(q->dim[2], 1);
    assert_int_equal(q->bytes, 68);
    assert_int_equal(((const uint8_t *)q->data)[67], 67);
    assert_string_equal(gguf_type_name(q->type), "Q8_0");
    gguf_close(g);
}

static void what_breaks_the_format_is_refused_with_its_reason(void **state)
{
    (void)state;
    static const struct {
        enum field field;
        uint64_t v;
        const char *says;
    } rows[] = {
        {VERSION, 1, "version 1"},
        {VERSION, 0x03000000, "a big-endian file, which is not served; convert the model again without --bigendian"},
        {ALIGN, 12, "general.alignment is 12"},
        {ALIGN, 0, "general.alignment is 0"},
        {ALIGN, 1u << 20, "general.alignment"},
        {TYPE, 5, "unknown type 5"},
        {TYPE, 4000000000u, "unknown type 4000000000; convert the model"},
        {NDIM, 0, "0 dimensions"},
        {NDIM, 5, "5 dimensions"},
        {OFFSET, 8, "no multiple of 32"},
        {OFFSET, 32, "tensor \"one\" starts at 32, with a hole behind what stands before it"},
        {DIM0, 16, "tensor \"two\" starts at 32, on top of what stands before it (\"one\" ends at 64)"},
        {OFFSET, 1 << 20, "reaches beyond"},
        {OFFSET, UINT64_MAX - 31, "reaches beyond"},
        {DIM0, 0, "impossible shape"},
        {DIM0, UINT64_MAX, "impossible shape"},
        {DIM0, 1ull << 62, "impossible shape"},
        {DIM0, 1 << 20, "reaches beyond"},
        {DIM0, 33, "no multiple of Q4_0's blocks of 32"},
        {KEYS, 5000, "5000 keys"},
        {TENSORS, 1ull << 40, "tensors"},
        {KEYS, 20, "GGUF"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct file f;
        struct gguf *g = NULL;
        struct err e = {0};
        struct twist w = usual;
        w.v[rows[i].field] = rows[i].v;
        if (rows[i].v == 33) w.v[TYPE] = 2;
        build(&f, &w);
        assert_int_equal(open_bytes(&g, f.b, f.n, &e), -1);
        assert_int_equal(e.code, ERR_MODEL);
        assert_null(g);
        if (!strstr(e.msg, rows[i].says)) fail_msg("row %zu says \"%s\", not \"%s\"", i, e.msg, rows[i].says);
    }
}

static void a_name_that_stands_twice_or_is_empty_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *key2, *tensor2, *says;
    } rows[] = {
        {"a.u8", "two", "key \"a.u8\" stands there twice"},
        {"b.i8", "one", "tensor \"one\" stands there twice"},
        {"", "two", "name is 0 bytes"},
        {"b.i8", "", "name is 0 bytes"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct file f;
        struct gguf *g = NULL;
        struct err e = {0};
        struct twist w = usual;
        w.key2 = rows[i].key2, w.tensor2 = rows[i].tensor2;
        build(&f, &w);
        assert_int_equal(open_bytes(&g, f.b, f.n, &e), -1);
        assert_non_null(strstr(e.msg, rows[i].says));
    }
}

static void versions_two_and_three_and_other_alignments_are_read(void **state)
{
    (void)state;
    static const uint32_t rows[][2] = {{2, 32}, {3, 8}, {3, 64}, {2, 64}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct file f;
        struct gguf *g = NULL;
        struct err e = {0};
        struct twist w = usual;
        w.v[VERSION] = rows[i][0], w.v[ALIGN] = rows[i][1], w.v[TENSORS] = 1;
        build(&f, &w);

        assert_int_equal(open_bytes(&g, f.b, f.n, &e), 0);
        gguf_close(g);
    }
}

static void types_are_known_by_ggmls_names(void **state)
{
    (void)state;
    static const struct {
        int type;
        const char *says;
    } rows[] = {{12, "Q4_K"}, {14, "Q6_K"}, {20, "IQ4_NL"}, {28, "F64"}, {99, "unknown"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_string_equal(gguf_type_name(rows[i].type), rows[i].says);
}

static void keys_alone_make_a_file_that_opens(void **state)
{
    (void)state;
    struct gguf *g = open_usual(), *keys;
    struct gguf_str s;
    struct err e = {0};
    void *bytes;
    size_t n;
    assert_int_equal(gguf_keys_only(g, &bytes, &n, &e), 0);
    gguf_close(g);
    if (gguf_open_memory(&keys, bytes, n, &e)) fail_msg("%s", e.msg);
    assert_int_equal(gguf_tensors(keys), 0);
    assert_int_equal(gguf_string(keys, "h.str", &s, &e), 0);
    assert_true(s.len == 5 && memcmp(s.s, "hello", 5) == 0);
    gguf_close(keys);
    for (size_t cut = 0; cut < n; cut++) assert_int_equal(gguf_open_memory(&keys, bytes, cut, NULL), -1);
    free(bytes);
}

/* Touch everything that a successful open promises. */
static unsigned walk(const struct gguf *g)
{
    static const char *const keys[] = {"a.u8", "h.str", "k.strs", "l.i32s", "m.f32s", "g.bool"};
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        struct gguf_str s, *strs = NULL;
        int32_t *i32 = NULL;
        float *f32 = NULL;
        uint64_t u;
        size_t n = 0;
        gguf_u64(g, keys[i], &u, NULL);
        if (!gguf_string(g, keys[i], &s, NULL))
            for (size_t k = 0; k < s.len; k++) sum += (uint8_t)s.s[k];
        if (!gguf_array_str(g, keys[i], &strs, &n, NULL))
            for (size_t k = 0; k < n; k++) sum += strs[k].len ? (uint8_t)strs[k].s[strs[k].len - 1] : 0;
        if (!gguf_array_i32(g, keys[i], &i32, &n, NULL)) sum += n ? (unsigned)i32[n - 1] : 0;
        gguf_array_f32(g, keys[i], &f32, &n, NULL);
        free(strs), free(i32), free(f32);
    }
    for (int i = 0; i < gguf_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        for (size_t k = 0; k < t->bytes; k++) sum += ((const uint8_t *)t->data)[k];
    }
    return sum;
}

static unsigned next(unsigned *x)
{
    *x ^= *x << 13, *x ^= *x >> 17, *x ^= *x << 5;
    return *x;
}

static void damaged_files_never_crash(void **state)
{
    (void)state;
    static const uint8_t nasty[] = {0, 1, 2, 0x7f, 0x80, 0xff};
    struct file f, m;
    unsigned x = 2463534242u, sum = 0;
    int opened = 0, refused = 0;
    build(&f, &usual);
    for (int i = 0; i < 12000; i++) {
        struct gguf *g = NULL;
        struct err e = {0};
        m = f;
        if (i < (int)f.n)
            m.n = (size_t)i; /* every truncation, then bytes of every kind anywhere */
        else
            for (unsigned k = 0; k <= next(&x) % 3; k++)
                m.b[next(&x) % m.n] = next(&x) & 1 ? nasty[next(&x) % sizeof nasty] : (uint8_t)next(&x);
        if (open_bytes(&g, m.b, m.n, &e)) {
            assert_true(e.msg[0] != 0);
            refused++;
        } else {
            sum += walk(g);
            gguf_close(g);
            opened++;
        }
    }
    assert_true(opened > 500 && refused > 3000);
    assert_true(sum != 1); /* the walk is not optimized away */
}

static void no_file_no_model(void **state)
{
    (void)state;
    struct gguf *g = NULL;
    struct err e = {0};
    assert_int_equal(gguf_open(&g, "/nonexistent/model.gguf", &e), -1);
    assert_int_equal(e.code, ERR_IO);
    err_clear(&e);
    assert_int_equal(gguf_open(&g, "/", &e), -1);
    err_clear(&e);
    assert_int_equal(open_bytes(&g, "", 0, &e), -1);
    assert_int_equal(e.code, ERR_MODEL);
    gguf_close(NULL);
}

static void the_digest_is_the_files_sha256(void **state)
{
    (void)state;
    /* A file of 24 bytes: header alone. sha256sum is the oracle. */
    struct file f = {.n = 0};
    struct gguf *g = NULL;
    char hex[65];
    put(&f, "GGUF", 4), put32(&f, 3), put64(&f, 0), put64(&f, 0);
    assert_int_equal(open_bytes(&g, f.b, f.n, NULL), 0);
    assert_int_equal(gguf_digest(g, hex, NULL), 0);
    assert_string_equal(hex, "a4e5e156ddec27e286f75328784d7106b60a4eb1d246e950a001a3f944fbda99");
    gguf_close(g);
}

static void the_demo_model_opens(void **state)
{
    (void)state;
    const char *path = getenv("WEFT_MODEL");
    struct gguf *g = NULL;
    struct err e = {0};
    uint64_t layers = 0;
    if (!path) fail_msg("WEFT_MODEL is not set: run the tests through ops/test");
    if (gguf_open(&g, path, &e)) fail_msg("%s", e.msg);
    assert_int_equal(gguf_tensors(g), 272);
    assert_int_equal(gguf_u64(g, "llama.block_count", &layers, NULL), 0);
    assert_int_equal(layers, 30);
    assert_int_equal(gguf_find(g, "token_embd.weight")->dim[1], 49152);
    gguf_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_number_reads_back),
        cmocka_unit_test(strings_bools_and_arrays_read_back),
        cmocka_unit_test(a_key_that_is_absent_or_of_another_kind_is_refused_by_name),
        cmocka_unit_test(tensors_are_found_with_shape_and_data),
        cmocka_unit_test(what_breaks_the_format_is_refused_with_its_reason),
        cmocka_unit_test(a_name_that_stands_twice_or_is_empty_is_refused),
        cmocka_unit_test(versions_two_and_three_and_other_alignments_are_read),
        cmocka_unit_test(types_are_known_by_ggmls_names),
        cmocka_unit_test(keys_alone_make_a_file_that_opens),
        cmocka_unit_test(damaged_files_never_crash),
        cmocka_unit_test(no_file_no_model),
        cmocka_unit_test(the_digest_is_the_files_sha256),
        cmocka_unit_test(the_demo_model_opens),
    };
    return cmocka_run_group_tests_name("gguf", tests, NULL, NULL);
}
