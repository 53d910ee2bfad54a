/* The multipart reader: what it takes, what it refuses, and that the cut of the pieces does not matter. The oracle for
 * well-formed bodies is the text they were made from; that of a real client is in tests/e2e (python-requests). */
#include "base/buf.h"
#include "gateway/registry/multipart.h"
#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct record {
    struct buf b;  /* "[name]data;" per part, "[name*]" where it is a file */
    int refuse_at; /* bytes of data after which on_data refuses; 0: never */
};

static int on_part(void *u, const struct multipart_part *p, struct err *e)
{
    struct record *r = u;
    (void)e;
    return buf_addf(&r->b, "[%s%s]", p->name, p->is_file ? "*" : "");
}

static int on_data(void *u, const char *bytes, size_t n, struct err *e)
{
    struct record *r = u;
    if (r->refuse_at && r->b.len + n > (size_t)r->refuse_at) return err_set(e, ERR_TOO_LARGE, "enough");
    return buf_add(&r->b, bytes, n);
}

static int on_part_end(void *u, struct err *e)
{
    struct record *r = u;
    (void)e;
    return buf_addc(&r->b, ';');
}

static const struct multipart_events events = {on_part, on_data, on_part_end};

/* Feeds in pieces of `step` bytes. Pieces are malloc'ed, so that a read beyond them is seen by ASan. */
static int feed(const char *boundary, const char *body, size_t len, size_t step, struct record *r, struct err *e)
{
    struct multipart *m = malloc(sizeof *m);
    int rc = 0;
    multipart_init(m, boundary, &events, r);
    for (size_t i = 0; i < len && !rc; i += step) {
        size_t n = len - i < step ? len - i : step;
        char *piece = malloc(n);
        memcpy(piece, body + i, n);
        rc = multipart_feed(m, piece, n, e);
        free(piece);
    }
    if (!rc) rc = multipart_end(m, e);
    free(m);
    return rc;
}

#define D "Content-Disposition: form-data; name="
#define LONG64 "0123456789012345678901234567890123456789012345678901234567890123"

static const struct {
    const char *what, *boundary, *body, *expect; /* expect NULL: ERR_INVALID */
} row[] = {
    {"one part", "b", "--b\r\n" D "\"a\"\r\n\r\nhello\r\n--b--\r\n", "[a]hello;"},
    {"two parts, one a file", "b",
     "--b\r\n" D "\"a\"\r\n\r\n1\r\n--b\r\n" D "\"w\"; filename=\"x.bin\"\r\nContent-Type: x/y\r\n\r\n22\r\n--b--",
     "[a]1;[w*]22;"},
    {"an empty body", "b", "--b\r\n" D "\"a\"\r\n\r\n\r\n--b--\r\n", "[a];"},
    {"an empty body that shares its line end", "b", "--b\r\n" D "\"a\"\r\n\r\n--b--\r\n", "[a];"},
    {"data that looks like the start of a boundary", "bb",
     "--bb\r\n" D "\"a\"\r\n\r\n\r\n--b\r\r\n-\r\n--bc\r\n--bb--\r\n", "[a]\r\n--b\r\r\n-\r\n--bc;"},
    {"data that begins like an implied delimiter", "b", "--b\r\n" D "\"a\"\r\n\r\n--x\r\n--b--\r\n", "[a]--x;"},
    {"a preamble and an epilogue", "b", "hello\r\n--b\r\n" D "\"a\"\r\n\r\nx\r\n--b--\r\nbye", "[a]x;"},
    {"padding behind a boundary", "b", "--b  \t\r\n" D "\"a\"\r\n\r\nx\r\n--b--\r\n", "[a]x;"},
    {"a token for a name", "b", "--b\r\nContent-Disposition: form-data; name=a\r\n\r\nx\r\n--b--\r\n", "[a]x;"},
    {"an escaped quote in a file name", "b", "--b\r\n" D "\"a\"; filename=\"x\\\"y\"\r\n\r\nx\r\n--b--\r\n", "[a*]x;"},
    {"names of headers in any case", "b", "--b\r\ncontent-DISPOSITION: Form-Data; NAME=\"a\"\r\n\r\nx\r\n--b--\r\n",
     "[a]x;"},
    {"the longest name", "b", "--b\r\n" D "\"" LONG64 "\"\r\n\r\nx\r\n--b--\r\n", "[" LONG64 "]x;"},
    {"a name that is too long", "b", "--b\r\n" D "\"" LONG64 "4\"\r\n\r\nx\r\n--b--\r\n", NULL},
    {"an empty name", "b", "--b\r\n" D "\"\"\r\n\r\nx\r\n--b--\r\n", NULL},
    {"two names", "b", "--b\r\n" D "\"a\"; name=\"b\"\r\n\r\nx\r\n--b--\r\n", NULL},
    {"no disposition", "b", "--b\r\nContent-Type: x/y\r\n\r\nx\r\n--b--\r\n", NULL},
    {"no headers at all", "b", "--b\r\n\r\nx\r\n--b--\r\n", NULL},
    {"two dispositions", "b", "--b\r\n" D "\"a\"\r\n" D "\"b\"\r\n\r\nx\r\n--b--\r\n", NULL},
    {"another disposition", "b", "--b\r\nContent-Disposition: attachment; name=\"a\"\r\n\r\nx\r\n--b--\r\n", NULL},
    {"an unclosed quote", "b", "--b\r\n" D "\"a\r\n\r\nx\r\n--b--\r\n", NULL},
    {"a header without a colon", "b", "--b\r\n" D "\"a\"\r\nhello\r\n\r\nx\r\n--b--\r\n", NULL},
    {"a folded header", "b", "--b\r\n" D "\"a\";\r\n filename=x\r\n\r\nx\r\n--b--\r\n", NULL},
    {"bare line feeds", "b", "--b\n" D "\"a\"\n\nx\n--b--\n", NULL},
    {"a bare line feed in a header", "b", "--b\r\n" D "\"a\"\nX: y\r\n\r\nx\r\n--b--\r\n", NULL},
    {"base64", "b", "--b\r\n" D "\"a\"\r\nContent-Transfer-Encoding: base64\r\n\r\neA==\r\n--b--\r\n", NULL},
    {"letters behind a boundary", "b", "--bx\r\n" D "\"a\"\r\n\r\nx\r\n--b--\r\n", NULL},
    {"one dash behind a boundary", "b", "--b-\r\n" D "\"a\"\r\n\r\nx\r\n--b--\r\n", NULL},
    {"no end", "b", "--b\r\n" D "\"a\"\r\n\r\nx\r\n--b\r\n", NULL},
    {"cut in data", "b", "--b\r\n" D "\"a\"\r\n\r\nx", NULL},
    {"another boundary", "b", "--c\r\n" D "\"a\"\r\n\r\nx\r\n--c--\r\n", NULL},
    {"nothing", "b", "", NULL},
};

static void every_body_reads_the_same_in_any_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        for (size_t step = 1; step <= strlen(row[i].body) + 1; step++) {
            struct record r = {0};
            struct err e = {0};
            buf_init(&r.b, 1 << 16);
            int rc = feed(row[i].boundary, row[i].body, strlen(row[i].body), step, &r, &e);
            if ((rc == 0) != (row[i].expect != NULL) || (rc == 0 && strcmp(r.b.data, row[i].expect)) ||
                (rc && e.code != ERR_INVALID))
                fail_msg("%s, in steps of %zu: rc %d '%s' '%s'", row[i].what, step, rc, r.b.data, e.msg);
            buf_close(&r.b);
        }
}

/* Random bytes out of the boundary's own alphabet, so that near-boundaries are frequent; the oracle is memmem over the
 * whole. */
static void random_bodies_come_out_as_they_went_in(void **state)
{
    static const char alphabet[] = "\r\n-b";
    uint32_t seed = 1;
    (void)state;
    for (int round = 0; round < 20000; round++) {
        char data[64], body[256];
        size_t n = 0;
        struct record r = {0};
        struct err e = {0};
        for (size_t len = (size_t)round % sizeof data; n < len; n++)
            data[n] = alphabet[(seed = seed * 1664525 + 1013904223) >> 30];
        struct buf b, want;
        buf_init(&b, sizeof body);
        buf_init(&want, sizeof body);
        buf_adds(&b, "--bb\r\n" D "\"a\"\r\n\r\n");
        buf_add(&b, data, n);
        bool inner = (n >= 4 && memmem(data, n, "\r\n--bb", 6)) || (n >= 4 && memcmp(data, "--bb", 4) == 0);
        buf_adds(&b, "\r\n--bb--\r\n");
        buf_init(&r.b, 1 << 12);
        int rc = feed("bb", b.data, b.len, 1 + (size_t)round % 7, &r, &e);
        buf_adds(&want, "[a]");
        buf_add(&want, data, n);
        buf_adds(&want, ";");
        if (!inner) {
            assert_int_equal(rc, 0);
            assert_int_equal(r.b.len, want.len);
            assert_memory_equal(r.b.data, want.data, want.len);
        }
        buf_close(&r.b);
        buf_close(&b);
        buf_close(&want);
    }
}

static void limits_hold_at_their_last_byte(void **state)
{
    struct err e = {0};
    struct record r = {0};
    struct buf b;
    (void)state;

    for (int over = 0; over <= 1; over++) { /* headers */
        buf_init(&b, 1 << 20);
        buf_init(&r.b, 1 << 20);
        buf_adds(&b, "--b\r\n" D "\"a\"\r\nX: ");
        size_t fixed = strlen(D "\"a\"\r\nX: \r\n\r\n");
        for (size_t i = fixed; i < MULTIPART_HEADERS_MAX + (size_t)over; i++) buf_addc(&b, 'x');
        buf_adds(&b, "\r\n\r\ny\r\n--b--");
        assert_int_equal(feed("b", b.data, b.len, 1000, &r, &e), over ? -1 : 0);
        buf_close(&b);
        buf_close(&r.b);
    }
    for (int parts = MULTIPART_PARTS_MAX; parts <= MULTIPART_PARTS_MAX + 1; parts++) {
        err_clear(&e);
        buf_init(&b, 1 << 20);
        buf_init(&r.b, 1 << 20);
        for (int i = 0; i < parts; i++) buf_adds(&b, "--b\r\n" D "\"a\"\r\n\r\ny\r\n");
        buf_adds(&b, "--b--");
        assert_int_equal(feed("b", b.data, b.len, 1000, &r, &e), parts > MULTIPART_PARTS_MAX ? -1 : 0);
        buf_close(&b);
        buf_close(&r.b);
    }
    for (int tail = MULTIPART_MARGIN_MAX; tail <= MULTIPART_MARGIN_MAX + 1; tail++) {
        err_clear(&e);
        buf_init(&b, 1 << 20);
        buf_init(&r.b, 1 << 20);
        buf_adds(&b, "--b\r\n" D "\"a\"\r\n\r\ny\r\n--b--");
        for (int i = 0; i < tail; i++) buf_addc(&b, '.');
        assert_int_equal(feed("b", b.data, b.len, 1000, &r, &e), tail > MULTIPART_MARGIN_MAX ? -1 : 0);
        buf_close(&b);
        buf_close(&r.b);
    }
}

static void a_refusal_of_the_callback_ends_the_reading(void **state)
{
    struct err e = {0};
    struct record r = {.refuse_at = 5};
    static const char body[] = "--b\r\n" D "\"a\"\r\n\r\n12345678\r\n--b--";
    (void)state;
    buf_init(&r.b, 1 << 10);
    assert_int_equal(feed("b", body, sizeof body - 1, 1, &r, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
    buf_close(&r.b);
}

#define LONG70 "0123456789012345678901234567890123456789012345678901234567890123456789"

static void the_boundary_is_read_from_the_content_type(void **state)
{
    static const struct {
        const char *type, *boundary;
        enum err_code code;
    } t[] = {
        {"multipart/form-data; boundary=abc", "abc", ERR_NONE},
        {"Multipart/Form-Data;boundary=\"a b\"", "a b", ERR_NONE},
        {"multipart/form-data; charset=utf-8; BOUNDARY=----WebKit_x'()+,./:=?", NULL, ERR_NONE},
        {"multipart/form-data; boundary=" LONG70, LONG70, ERR_NONE},
        {"multipart/form-data; boundary=" LONG70 "0", NULL, ERR_INVALID},
        {"multipart/form-data; boundary=\"a \"", NULL, ERR_INVALID},
        {"multipart/form-data; boundary=\"\"", NULL, ERR_INVALID},
        {"multipart/form-data; boundary=a; boundary=b", NULL, ERR_INVALID},
        {"multipart/form-data; boundary=\"a\xc3\xa9\"", NULL, ERR_INVALID},
        {"multipart/form-data; boundary=\"a", NULL, ERR_INVALID},
        {"multipart/form-data", NULL, ERR_INVALID},
        {"multipart/form-data; ", NULL, ERR_INVALID},
        {"multipart/form-database; boundary=a", NULL, ERR_MEDIA_TYPE},
        {"multipart/mixed; boundary=a", NULL, ERR_MEDIA_TYPE},
        {"application/json", NULL, ERR_MEDIA_TYPE},
        {NULL, NULL, ERR_MEDIA_TYPE},
    };
    (void)state;
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        char out[MULTIPART_BOUNDARY_MAX + 1] = "";
        struct err e = {0};
        int rc = multipart_boundary(t[i].type, out, &e);
        if ((rc == 0) != (t[i].code == ERR_NONE) || e.code != t[i].code ||
            (t[i].boundary && strcmp(out, t[i].boundary)))
            fail_msg("'%s': rc %d, '%s', '%s'", t[i].type ? t[i].type : "(none)", rc, out, e.msg);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_body_reads_the_same_in_any_cut),
        cmocka_unit_test(random_bodies_come_out_as_they_went_in),
        cmocka_unit_test(limits_hold_at_their_last_byte),
        cmocka_unit_test(a_refusal_of_the_callback_ends_the_reading),
        cmocka_unit_test(the_boundary_is_read_from_the_content_type),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
