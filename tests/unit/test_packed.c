/* Packed files: what goes in comes out, and a file that was cut, overwritten or made up is refused by name. */
#include "engine/packed.h"
#include "engine/packed_impl.h"
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { N = 40, K = 64 };

static char folder[] = "/tmp/test_packed.XXXXXX";
static char path[64], other[64];
static const char VOCABULARY[] = "{\"model\":{\"vocab\":{\"a\":0}}}";
static const float NORM[5] = {1, -2, 0.5f, 0, 3};
static float values[N * K];

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/model.weft", folder);
    snprintf(other, sizeof other, "%s/broken.weft", folder);
    for (int i = 0; i < N * K; i++) values[i] = sinf((float)i);
    return 0;
}

static int drop_folder(void **state)
{
    (void)state;
    unlink(path);
    unlink(other);
    return rmdir(folder);
}

static int read_values(const struct weight_source *s, int row, struct weight_row *out, struct err *e)
{
    (void)e;
    memcpy(out->f, values + row * s->k, (size_t)s->k * sizeof *out->f);
    return 0;
}

static struct weight weight_of(int layout)
{
    struct weight_source s = {.kind = CODES_FLOAT, .n = N, .k = K, .read = read_values, .format = "test"};
    struct weight w;
    assert_int_equal(weight_pack_source(&w, &s, NULL, PREC_FAST, layout, NULL, NULL), 0);
    return w;
}

/* One weight of every layout, a blob and a vector. */
static void write_file(void)
{
    struct packed_writer *w;
    struct err e = {0};
    assert_int_equal(packed_writer_new(&w, path, &e), 0);
    assert_int_equal(packed_writer_add_blob(w, "tokenizer.json", VOCABULARY, sizeof VOCABULARY - 1, &e), 0);
    for (int layout = 0; layout < LAYOUTS; layout++) {
        struct weight m = weight_of(layout);
        char name[32];
        snprintf(name, sizeof name, "layer.%d", layout);
        assert_int_equal(packed_writer_add_weight(w, name, &m, &e), 0);
        weight_close(&m);
    }
    assert_int_equal(packed_writer_add_vector(w, "norm", NORM, 5, &e), 0);
    json_t *meta = json_pack("{s:s}", "type", "int4");
    assert_int_equal(packed_writer_finish(w, meta, &e), 0);
    json_decref(meta);
    packed_writer_free(w);
}

static int files_in_folder(void)
{
    int n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *it; (it = readdir(d));) n += it->d_name[0] != '.';
    closedir(d);
    return n;
}

static void what_goes_in_comes_out(void **state)
{
    (void)state;
    struct packed *p;
    struct err e = {0};
    write_file();
    if (packed_open(&p, path, &e)) fail_msg("%s", e.msg);
    assert_string_equal(json_string_value(json_object_get(packed_meta(p), "type")), "int4");
    const void *bytes;
    const float *v;
    size_t len;
    int n;
    assert_true(packed_blob(p, "tokenizer.json", &bytes, &len));
    assert_int_equal(len, sizeof VOCABULARY - 1);
    assert_memory_equal(bytes, VOCABULARY, len);
    assert_true(packed_vector(p, "norm", &v, &n));
    assert_int_equal(n, 5);
    assert_memory_equal(v, NORM, sizeof NORM);
    for (int layout = 0; layout < LAYOUTS; layout++) {
        struct weight want = weight_of(layout), got;
        char name[32];
        float a[K], b[K];
        snprintf(name, sizeof name, "layer.%d", layout);
        assert_true(packed_weight(p, name, &got));
        assert_true(got.layout == want.layout && got.n == N && got.k == K && (uintptr_t)got.data % 64 == 0);
        for (int row = 0; row < N; row++) {
            weight_row(&want, row, a), weight_row(&got, row, b);
            assert_memory_equal(a, b, sizeof a);
        }
        weight_close(&got), weight_close(&want);
    }
    assert_false(packed_weight(p, "norm", &(struct weight){0})); /* of another kind */
    assert_false(packed_blob(p, "absent", &bytes, &len));
    assert_int_equal(packed_verify(p, &e), 0);
    packed_close(p);
}

static void names_are_listed_in_order(void **state)
{
    (void)state;
    struct packed *p;
    assert_int_equal(packed_open(&p, path, NULL), 0);
    assert_int_equal(packed_count(p), LAYOUTS + 2);
    enum packed_kind kind;
    for (int i = 0; i < LAYOUTS; i++) {
        assert_int_equal(packed_name(p, i, &kind)[6], '0' + i);
        assert_int_equal(kind, PACKED_WEIGHT);
    }
    assert_string_equal(packed_name(p, LAYOUTS, &kind), "norm");
    assert_int_equal(kind, PACKED_VECTOR);
    assert_string_equal(packed_name(p, LAYOUTS + 1, NULL), "tokenizer.json");
    packed_close(p);
}

static void the_digest_is_that_of_the_file(void **state)
{
    (void)state;
    struct packed *p;
    char hex[65], command[128], line[65] = "";
    assert_int_equal(packed_open(&p, path, NULL), 0);
    assert_int_equal(packed_digest(p, hex, NULL), 0);
    packed_close(p);
    snprintf(command, sizeof command, "sha256sum %s", path);
    FILE *f = popen(command, "r");
    assert_non_null(fgets(line, sizeof line, f));
    pclose(f);
    assert_string_equal(hex, line);
}

/* --- hostile files --- */

static char *slurp(size_t *n)
{
    FILE *f = fopen(path, "rb");
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    char *bytes = malloc(*n);
    assert_int_equal(fread(bytes, 1, *n, f), *n);
    fclose(f);
    return bytes;
}

/* -1 with ERR_MODEL, naming the file. */
static void assert_refused(const char *bytes, size_t n, const char *word)
{
    FILE *f = fopen(other, "wb");
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
    struct packed *p = NULL;
    struct err e = {0};
    if (packed_open(&p, other, &e) == 0) fail_msg("accepted: %s", word);
    assert_null(p);
    assert_int_equal(e.code, ERR_MODEL);
    assert_non_null(strstr(e.msg, "broken.weft"));
    if (!strstr(e.msg, word)) fail_msg("\"%s\" does not say \"%s\"", e.msg, word);
}

static void a_file_cut_off_anywhere_is_refused(void **state)
{
    (void)state;
    size_t n;
    char *bytes = slurp(&n);
    for (size_t cut = 0; cut < n; cut += cut < 128 ? 1 : 977) assert_refused(bytes, cut, "");
    free(bytes);
}

static struct packed_entry *entry_of(char *bytes, const char *name)
{
    struct packed_head *h = (struct packed_head *)bytes;
    struct packed_entry *it = (struct packed_entry *)(bytes + h->index);
    for (uint64_t i = 0; i < h->entries; i++)
        if (strcmp(it[i].name, name) == 0) return &it[i];
    return NULL;
}

#define HEAD(field, value, word)                                                                                       \
    {                                                                                                                  \
        offsetof(struct packed_head, field), NULL, value, sizeof((struct packed_head *)0)->field, word                 \
    }
#define ENTRY(name, field, value, word)                                                                                \
    {                                                                                                                  \
        offsetof(struct packed_entry, field), name, value, sizeof((struct packed_entry *)0)->field, word               \
    }

static void every_lie_of_head_and_index_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        size_t at;
        const char *entry; /* NULL: the head */
        uint64_t value;
        size_t bytes;
        const char *word;
    } lies[] = {
        HEAD(magic, 0, "begins otherwise"),
        HEAD(version, 2, "version 2"),
        HEAD(entries, 1000, "index"),
        HEAD(entries, 1u << 21, "entries"),
        HEAD(entries, UINT64_MAX, "entries"),
        HEAD(index, 1, "index"),
        HEAD(index, UINT64_MAX - 63, "index"),
        HEAD(index, 0, "index"),
        HEAD(meta, UINT64_MAX - 63, "meta"),
        HEAD(meta, 8192 + 32, "meta"),
        HEAD(meta_bytes, UINT64_MAX, "meta"),
        HEAD(meta_bytes, 3, "meta"),
        HEAD(meta_bytes, 0, "meta"),
        HEAD(file_bytes, 1 << 20, "cut off"),
        ENTRY("layer.3", kind, 3, "layer.3"),
        ENTRY("layer.3", layout, LAYOUTS, "layer.3"),
        ENTRY("layer.3", layout, UINT32_MAX, "layer.3"),
        ENTRY("layer.3", layout, LAYOUT_Q8, "it takes"),
        ENTRY("layer.3", n, N + 32, "it takes"),
        ENTRY("layer.3", n, 0, "outputs"),
        ENTRY("layer.3", n, UINT32_MAX, "outputs"),
        ENTRY("layer.3", n, INT32_MAX, "outputs"),
        ENTRY("layer.3", k, K + 1, "multiple of 32"),
        ENTRY("layer.3", k, INT32_MAX, "inputs"),
        ENTRY("layer.3", bytes, 64, "it takes"),
        ENTRY("layer.3", bytes, UINT64_MAX, "outside"),
        ENTRY("layer.3", offset, UINT64_MAX - 63, "outside"),
        ENTRY("layer.3", offset, 4096 + 32, "multiple of 64"),
        ENTRY("layer.3", offset, 0, "outside"),
        ENTRY("layer.6", table[5], 0x7fc00000, "table"),
        ENTRY("layer.3", name[0], 0, "no name"),
        ENTRY("layer.3", name[6], '4', "two entries"),
        ENTRY("norm", n, 6, "norm"),
        ENTRY("norm", n, UINT32_MAX, "norm"),
        ENTRY("norm", bytes, 19, "norm"),
    };
    size_t n;
    char *whole = slurp(&n);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        char *bytes = malloc(n);
        memcpy(bytes, whole, n);
        char *base = lies[i].entry ? (char *)entry_of(bytes, lies[i].entry) : bytes;
        memcpy(base + lies[i].at, &lies[i].value, lies[i].bytes);
        assert_refused(bytes, n, lies[i].word);
        free(bytes);
    }
    memset(entry_of(whole, "norm")->name, 'x', 128);
    assert_refused(whole, n, "does not end");
    free(whole);
}

/* Whatever a byte of head or index becomes, the file is refused or everything in it can be read. */
static void no_byte_of_head_or_index_leads_outside(void **state)
{
    (void)state;
    size_t n;
    char *bytes = slurp(&n);
    uint64_t index = ((struct packed_head *)bytes)->index;
    for (size_t at = 0; at < n; at += at == 126 ? index - 126 : 7) {
        char was = bytes[at];
        bytes[at] = (char)(was ^ 0x81);
        FILE *f = fopen(other, "wb");
        fwrite(bytes, 1, n, f);
        fclose(f);
        bytes[at] = was;
        struct packed *p;
        if (packed_open(&p, other, NULL)) continue;
        for (int i = 0; i < packed_count(p); i++) {
            struct weight w;
            float row[K * 2];
            if (packed_weight(p, packed_name(p, i, NULL), &w) && w.k <= K * 2) weight_row(&w, w.n - 1, row);
        }
        packed_verify(p, NULL);
        packed_close(p);
    }
    free(bytes);
}

static void changed_contents_are_found_when_asked_for(void **state)
{
    (void)state;
    size_t n;
    char *bytes = slurp(&n);
    bytes[entry_of(bytes, "layer.5")->offset + 70] ^= 1;
    FILE *f = fopen(other, "wb");
    fwrite(bytes, 1, n, f);
    fclose(f);
    free(bytes);
    struct packed *p;
    struct err e = {0};
    assert_int_equal(packed_open(&p, other, &e), 0);
    assert_int_equal(packed_verify(p, &e), -1);
    assert_non_null(strstr(e.msg, "layer.5"));
    packed_close(p);
}

static void a_changed_bit_of_head_meta_or_index_is_found_when_asked_for(void **state)
{
    (void)state;
    size_t n;
    char *bytes = slurp(&n);
    const struct packed_head *h = (struct packed_head *)bytes;
    const size_t at[] = {offsetof(struct packed_head, zero),
                         offsetof(struct packed_head, zero8),
                         offsetof(struct packed_head, sha256),
                         h->meta + 2,
                         (size_t)((char *)entry_of(bytes, "norm")->sha256 - bytes),
                         h->index + 255,
                         n - 1};
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        bytes[at[i]] ^= 1;
        FILE *f = fopen(other, "wb");
        fwrite(bytes, 1, n, f);
        fclose(f);
        bytes[at[i]] ^= 1;
        struct packed *p;
        struct err e = {0};
        assert_int_equal(packed_open(&p, other, &e), 0);
        assert_int_equal(packed_verify(p, &e), -1);
        assert_non_null(strstr(e.msg, "not those that were written"));
        packed_close(p);
    }
    free(bytes);
}

/* --- writing --- */

static void a_writer_that_does_not_finish_leaves_nothing(void **state)
{
    (void)state;
    unlink(other);
    int before = files_in_folder();
    struct packed_writer *w;
    assert_int_equal(packed_writer_new(&w, other, NULL), 0);
    assert_int_equal(packed_writer_add_blob(w, "a", "b", 1, NULL), 0);
    assert_in_range(files_in_folder(), before, before + 1); /* one more where files need a name */
    packed_writer_free(w);
    assert_int_equal(files_in_folder(), before);
}

static void what_could_not_be_read_is_not_written(void **state)
{
    (void)state;
    char longest[PACKED_NAME_MAX + 2];
    memset(longest, 'n', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    struct packed_writer *w;
    struct err e = {0};
    json_t *meta = json_object(), *array = json_array();
    assert_int_equal(packed_writer_new(&w, other, NULL), 0);
    assert_int_equal(packed_writer_add_blob(w, longest, "b", 1, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_int_equal(packed_writer_add_blob(w, "", "b", 1, NULL), -1);
    assert_int_equal(packed_writer_add_vector(w, "v", NORM, 0, NULL), -1);
    assert_int_equal(packed_writer_add_blob(w, longest + 1, "b", 1, NULL), 0);
    assert_int_equal(packed_writer_finish(w, array, NULL), -1);
    assert_int_equal(packed_writer_add_blob(w, longest + 1, "c", 1, NULL), 0);
    err_clear(&e);
    assert_int_equal(packed_writer_finish(w, meta, &e), -1);
    assert_non_null(strstr(e.msg, "two entries"));
    packed_writer_free(w);
    json_decref(meta), json_decref(array);
    assert_int_equal(access(other, F_OK), -1);
}

static void an_empty_file_of_entries_is_a_file(void **state)
{
    (void)state;
    struct packed_writer *w;
    struct packed *p;
    json_t *meta = json_object();
    assert_int_equal(packed_writer_new(&w, other, NULL), 0);
    assert_int_equal(packed_writer_finish(w, meta, NULL), 0);
    assert_int_equal(packed_writer_add_blob(w, "late", "b", 1, NULL), -1);
    packed_writer_free(w);
    assert_int_equal(packed_open(&p, other, NULL), 0);
    assert_int_equal(packed_count(p), 0);
    packed_close(p);
    json_decref(meta);
}

static void a_folder_that_is_not_there_is_named(void **state)
{
    (void)state;
    struct packed_writer *w;
    struct packed *p;
    struct err e = {0};
    assert_int_equal(packed_writer_new(&w, "/nowhere/model.weft", &e), -1);
    assert_int_equal(e.code, ERR_IO);
    err_clear(&e);
    assert_int_equal(packed_open(&p, "/nowhere/model.weft", &e), -1);
    assert_non_null(strstr(e.msg, "/nowhere/model.weft"));
    err_clear(&e);
    assert_int_equal(packed_open(&p, folder, &e), -1);
    assert_int_equal(e.code, ERR_MODEL);
}

static void what_is_no_plain_file_is_neither_read_nor_replaced(void **state)
{
    (void)state;
    struct packed_writer *w;
    struct packed *p;
    struct stat st;
    struct err e = {0};
    unlink(other);
    assert_int_equal(mkfifo(other, 0600), 0);
    assert_int_equal(packed_open(&p, other, &e), -1);
    assert_int_equal(e.code, ERR_MODEL);
    err_clear(&e);
    assert_int_equal(packed_writer_new(&w, other, &e), -1);
    assert_int_equal(e.code, ERR_IO);
    assert_int_equal(stat(other, &st), 0);
    assert_true(S_ISFIFO(st.st_mode));
    unlink(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_goes_in_comes_out),
        cmocka_unit_test(names_are_listed_in_order),
        cmocka_unit_test(the_digest_is_that_of_the_file),
        cmocka_unit_test(a_file_cut_off_anywhere_is_refused),
        cmocka_unit_test(every_lie_of_head_and_index_is_refused_by_name),
        cmocka_unit_test(no_byte_of_head_or_index_leads_outside),
        cmocka_unit_test(changed_contents_are_found_when_asked_for),
        cmocka_unit_test(a_changed_bit_of_head_meta_or_index_is_found_when_asked_for),
        cmocka_unit_test(a_writer_that_does_not_finish_leaves_nothing),
        cmocka_unit_test(what_could_not_be_read_is_not_written),
        cmocka_unit_test(an_empty_file_of_entries_is_a_file),
        cmocka_unit_test(a_folder_that_is_not_there_is_named),
        cmocka_unit_test(what_is_no_plain_file_is_neither_read_nor_replaced),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
