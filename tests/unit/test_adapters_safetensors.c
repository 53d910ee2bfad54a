/* Safetensors files that lie, each refused with its reason, and honest ones read to the bit. */
#include "tests/unit/test_adapters.h"
#include <math.h>

struct lie {
    const char *what;
    const char *header;
    long data_bytes;
    const char *expect;
};

#define T(dtype, shape, offsets) "{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" offsets "]}"

static const struct lie lies[] = {
    {"header is a list", "[1]", 0, "does not begin with {"},
    {"header begins with a space", " {}", 0, "does not begin with {"},
    {"header is cut", "{\"a\":", 0, "the header is not valid"},
    {"duplicate tensor", "{\"a\":" T("F32", "1", "0,4") ",\"a\":" T("F32", "1", "0,4") "}", 4, "duplicate"},
    {"duplicate field", "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     "duplicate"},
    {"nested too deep",
     "{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"
     "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}",
     0, "nested"},
    {"entry is a number", "{\"a\":7}", 0, "tensor a: its entry is not an object"},
    {"entry has a fourth field", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4,
     "more than dtype"},
    {"no dtype", "{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "tensor a: dtype is missing"},
    {"dtype is a number", "{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     "dtype is missing or not a string"},
    {"int8", "{\"a\":" T("I8", "4", "0,4") "}", 4, "dtype I8 is not served"},
    {"float64", "{\"a\":" T("F64", "1", "0,8") "}", 8, "dtype F64 is not served"},
    {"float8", "{\"a\":" T("F8_E4M3", "4", "0,4") "}", 4, "dtype F8_E4M3 is not served"},
    {"no shape", "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "shape is missing"},
    {"no dimensions", "{\"a\":" T("F32", "", "0,4") "}", 4, "has 0 dimensions"},
    {"three dimensions", "{\"a\":" T("F32", "1,1,1", "0,4") "}", 4, "has 3 dimensions"},
    {"a dimension of 0", "{\"a\":" T("F32", "0,8", "0,0") "}", 0, "a dimension is 0"},
    {"negative dimension", "{\"a\":" T("F32", "-1", "0,4") "}", 4, "not a list of sizes"},
    {"fractional dimension", "{\"a\":" T("F32", "1.0", "0,4") "}", 4, "not a list of sizes"},
    {"product wraps to 0", "{\"a\":" T("F32", "4294967296,4294967296", "0,4") "}", 4, "dimensions overflow"},
    {"product wraps to 4", "{\"a\":" T("F32", "4611686018427387905", "0,4") "}", 4, "dimensions overflow"},
    {"dimension beyond 64 bits", "{\"a\":" T("F32", "99999999999999999999", "0,4") "}", 4, "the header is not valid"},
    {"no offsets", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "data_offsets is not [begin, end]"},
    {"three offsets", "{\"a\":" T("F32", "1", "0,4,8") "}", 4, "data_offsets is not [begin, end]"},
    {"offsets run backwards", "{\"a\":" T("F32", "1", "4,0") "}", 4, "run backwards"},
    {"negative offset", "{\"a\":" T("F32", "1", "-4,0") "}", 4, "run backwards"},
    {"offset past the end", "{\"a\":" T("F32", "2", "0,8") "}", 4, "the file is cut off"},
    {"huge offset", "{\"a\":" T("F32", "1", "9223372036854775803,9223372036854775807") "}", 4, "the file is cut off"},
    {"offsets smaller than the shape", "{\"a\":" T("F32", "2", "0,4") "}", 4, "hold 4 bytes, its shape needs 8"},
    {"offsets larger than the shape", "{\"a\":" T("F32", "1", "0,8") "}", 8, "hold 8 bytes, its shape needs 4"},
    {"overlap", "{\"a\":" T("F32", "2", "0,8") ",\"b\":" T("F32", "2", "4,12") "}", 12, "tensor b overlaps tensor a"},
    {"same bytes twice", "{\"a\":" T("F32", "1", "0,4") ",\"b\":" T("F32", "1", "0,4") "}", 4, "overlaps"},
    {"hole", "{\"a\":" T("F32", "1", "0,4") ",\"b\":" T("F32", "1", "8,12") "}", 12,
     "a hole of 4 bytes between a and tensor b"},
    {"hole at the start", "{\"a\":" T("F32", "1", "4,8") "}", 8, "a hole of 4 bytes between the header and tensor a"},
    {"tail", "{\"a\":" T("F32", "1", "0,4") "}", 9, "5 bytes after the last tensor"},
    {"no tensors, but data", "{}", 4, "4 bytes after the last tensor"},
    {"path as a name", "{\"../../etc/passwd\":" T("F32", "1", "0,4") "}", 4, "a tensor's name is not"},
    {"empty name", "{\"\":" T("F32", "1", "0,4") "}", 4, "a tensor's name is not"},
    {"name with UTF-8", "{\"gr\\u00fcn\":" T("F32", "1", "0,4") "}", 4, "a tensor's name is not"},
    {"name with NUL", "{\"a\\u0000b\":" T("F32", "1", "0,4") "}", 4, "the header is not valid"},
    {"metadata is a list", "{\"__metadata__\":[]}", 0, "__metadata__ is not an object"},
    {"metadata holds numbers", "{\"__metadata__\":{\"a\":1}}", 0, "something else than strings"},
    {"bytes after the JSON", "{}x", 0, "the header is not valid"},
};

static void write_st(const char *dir, const char *name, uint64_t len, const char *header, size_t header_len,
                     size_t data_bytes)
{
    char *all = calloc(1, 8 + header_len + data_bytes);
    memcpy(all, &len, 8);
    memcpy(all + 8, header, header_len);
    fix_file(dir, name, all, 8 + header_len + data_bytes);
    free(all);
}

static void expect_refused(const char *dir, const char *what, const char *expect)
{
    char path[1200];
    struct err e = {0};
    struct st_file *f = NULL;
    snprintf(path, sizeof path, "%s/x", dir);
    if (!st_open(&f, path, &e)) fail_msg("%s: was accepted", what);
    if (e.code != ERR_ADAPTER_INVALID || !strstr(e.msg, expect)) fail_msg("%s: code %d \"%s\"", what, e.code, e.msg);
    assert_null(f);
}

static void lying_headers_are_refused_with_the_reason(void **state)
{
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        size_t n = strlen(lies[i].header);
        write_st(*state, "x", n, lies[i].header, n, (size_t)lies[i].data_bytes);
        expect_refused(*state, lies[i].what, lies[i].expect);
    }
}

static void a_header_length_that_lies_is_refused(void **state)
{
    static const struct {
        uint64_t len;
        const char *expect;
    } cases[] = {
        {0, "a header of 0 bytes"},
        {1, "a header of 1 bytes"},
        {3, "a header of 3 bytes in a file of 10"},
        {(4u << 20) + 1, "more than 4194304"},
        {UINT64_MAX, "not a safetensors file?"},
        {INT64_MAX, "not a safetensors file?"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_st(*state, "x", cases[i].len, "{}", 2, 0);
        expect_refused(*state, "header length", cases[i].expect);
    }
}

static void a_file_too_short_for_its_length_is_truncated(void **state)
{
    for (size_t n = 0; n < 10; n++) {
        fix_file(*state, "x", "\2\0\0\0\0\0\0\0{}", n);
        expect_refused(*state, "short", "is cut off; save it again");
    }
}

static void every_cut_of_a_good_file_is_refused(void **state)
{
    const char *h = "{\"a\":" T("F32", "2", "0,8") ",\"b\":" T("BF16", "2,2", "8,16") "}";
    char all[256] = {0};
    uint64_t len = strlen(h);
    memcpy(all, &len, 8);
    memcpy(all + 8, h, len);
    for (size_t n = 0; n < 8 + len + 16; n++) {
        fix_file(*state, "x", all, n);
        expect_refused(*state, "cut", "");
    }
}

static void a_folder_a_link_and_nothing_are_not_weights(void **state)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/x", (char *)*state);
    assert_int_equal(mkdir(path, 0700), 0);
    expect_refused(*state, "folder", "not a plain file");
    assert_int_equal(rmdir(path), 0);
    expect_refused(*state, "absent", "missing");
    assert_int_equal(mkfifo(path, 0600), 0);
    expect_refused(*state, "fifo", "not a plain file");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    expect_refused(*state, "link", "adapter_model.safetensors is a symbolic link; copy the file");
}

static void what_stands_in_the_weights_place_is_named(void **state)
{
    static const char lfs[] = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    char path[1200];
    fix_file(*state, "x", lfs, sizeof lfs - 1);
    expect_refused(*state, "pointer", "adapter_model.safetensors is a git-lfs pointer, not the file itself: fetch it");
    snprintf(path, sizeof path, "%s/x", (char *)*state);
    assert_int_equal(unlink(path), 0);
    fix_file(*state, "adapter_model.bin", "PK", 2);
    expect_refused(*state, "pickle",
                   "adapter_model.bin is pickled and not served; load it in PEFT and save_pretrained");
}

static struct st_file *open_good(const char *dir)
{
    char path[1200];
    struct err e = {0};
    struct st_file *f = NULL;
    snprintf(path, sizeof path, "%s/x", dir);
    if (st_open(&f, path, &e)) fail_msg("refused: %s", e.msg);
    return f;
}

static void write_many(const char *dir, int count)
{
    size_t cap = 2u << 20, n = 0;
    char *h = malloc(cap);
    h[n++] = '{';
    for (int i = 0; i < count; i++)
        n += (size_t)snprintf(h + n, cap - n, "%s\"t%d\":" T("F16", "1", "%d,%d"), i ? "," : "", i, 2 * i, 2 * i + 2);
    h[n++] = '}';
    write_st(dir, "x", n, h, n, 2 * (size_t)count);
    free(h);
}

static void the_most_tensors_are_read_and_one_more_is_refused(void **state)
{
    write_many(*state, ST_TENSORS_MAX);
    struct st_file *f = open_good(*state);
    assert_int_equal(f->ntensors, ST_TENSORS_MAX);
    assert_non_null(st_find(f, "t16383"));
    st_close(f);
    write_many(*state, ST_TENSORS_MAX + 1);
    expect_refused(*state, "many", "more than");
}

static void elements_of_all_three_types_read_as_float(void **state)
{
    const char *h =
        "{\"h\":" T("F16", "6", "12,24") ",\"b\":" T("BF16", "2", "8,12") ",\"f\":" T("F32", "2", "0,8") "}";
    const float f32[] = {1.5f, -3e30f};
    const uint16_t rest[] = {0x3fc0, 0xc000, /* BF16 1.5, -2 */ 0x3c00, 0xc000, 0x0001, 0x83ff, 0x7c00, 0x7bff};
    const float expect[] = {1.f, -2.f, 0x1p-24f, -1023 * 0x1p-24f, INFINITY, 65504.f};
    char all[512];
    uint64_t len = strlen(h);
    memcpy(all, &len, 8);
    memcpy(all + 8, h, len);
    memcpy(all + 8 + len, f32, 8);
    memcpy(all + 16 + len, rest, 16);
    fix_file(*state, "x", all, 8 + len + 24);
    struct st_file *f = open_good(*state);
    assert_int_equal(f->ntensors, 3);
    assert_string_equal(f->tensor[0].name, "b");
    assert_string_equal(f->tensor[2].name, "h");
    const struct st_tensor *b = st_find(f, "b"), *s = st_find(f, "f"), *x = st_find(f, "h");
    assert_null(st_find(f, "absent"));
    assert_true(st_get(s, 0) == 1.5f && st_get(s, 1) == -3e30f && st_get(b, 0) == 1.5f && st_get(b, 1) == -2.f);
    for (int i = 0; i < 6; i++) assert_true(st_get(x, i) == expect[i]);
    assert_int_equal(st_first_beyond(s), 1);
    assert_int_equal(st_first_beyond(b), -1);
    assert_int_equal(st_first_beyond(x), 4);
    st_close(f);
}

static void tensors_that_lie_misaligned_are_read_and_aligned(void **state)
{
    for (int pad = 0; pad < 8; pad++) {
        char h[256], all[512];
        uint64_t len = (uint64_t)snprintf(
            h, sizeof h, "{\"a\":" T("F16", "1", "0,2") ",\"b\":" T("F32", "1", "2,6") "}%*s", pad, "");
        float x = 2.5f;
        memcpy(all, &len, 8);
        memcpy(all + 8, h, len);
        memcpy(all + 8 + len, "\0\x3c", 2);
        memcpy(all + 10 + len, &x, 4);
        fix_file(*state, "x", all, 14 + len);
        struct st_file *f = open_good(*state);
        assert_true(st_get(&f->tensor[0], 0) == 1.f && st_get(&f->tensor[1], 0) == 2.5f);
        for (int i = 0; i < 2; i++)
            assert_int_equal((uintptr_t)f->tensor[i].data % st_dtype_bytes(f->tensor[i].dtype), 0);
        st_close(f);
    }
}

/* The scan against the plain definition, with one value of each kind at places around the scan's block. */
static void the_scan_finds_the_first_value_out_of_range(void **state)
{
    (void)state;
    enum { N = 4100 };
    static const uint32_t values[][3] = {
        /* F32, F16, BF16 */
        {0x461c4000, 0x70e2, 0x461c}, {0x461c4001, 0x70e3, 0x461d}, {0xc61c4000, 0xf0e2, 0xc61c},
        {0xc61c4001, 0xf0e3, 0xc61d}, {0x7f800000, 0x7c00, 0x7f80}, {0xff800000, 0xfc00, 0xff80},
        {0x7fc00000, 0x7e00, 0x7fc0}, {0xffffffff, 0xffff, 0xffff}, {0x7f800001, 0x7c01, 0x7f81},
        {0x80000000, 0x8000, 0x8000}, {0x00000001, 0x0001, 0x0001},
    };
    static const int places[] = {0, 1, 1023, 1024, 4095, 4096, 4099};
    static uint32_t data[N];
    for (int type = 0; type < 3; type++)
        for (size_t v = 0; v < sizeof values / sizeof *values; v++)
            for (size_t p = 0; p < sizeof places / sizeof *places; p++) {
                size_t width = st_dtype_bytes((enum st_dtype)type);
                struct st_tensor t = {
                    .dtype = (enum st_dtype)type, .data = data, .ndim = 1, .dim = {N, 1}, .bytes = N * width};
                memset(data, 0, sizeof data);
                memcpy((char *)data + (size_t)places[p] * width, &values[v][type], width);
                float x = st_get(&t, places[p]);
                bool fine = x >= -1e4f && x <= 1e4f;
                assert_int_equal(st_first_beyond(&t), fine ? -1 : places[p]);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(lying_headers_are_refused_with_the_reason, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(a_header_length_that_lies_is_refused, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(a_file_too_short_for_its_length_is_truncated, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(every_cut_of_a_good_file_is_refused, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(a_folder_a_link_and_nothing_are_not_weights, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(what_stands_in_the_weights_place_is_named, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(the_most_tensors_are_read_and_one_more_is_refused, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(elements_of_all_three_types_read_as_float, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(tensors_that_lie_misaligned_are_read_and_aligned, fix_dir, fix_dir_gone),
        cmocka_unit_test(the_scan_finds_the_first_value_out_of_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
